//! Text of comma-separated values → its rows (RFC 4180): fields may be quoted, and then hold commas, newlines and, doubled,
//! quotes.

use std::path::Path;

use super::ImportError;

/// Rows and the lines on which they begin, counted from 1; empty lines are left out.
pub fn rows<'a>(
    path: &'a Path,
    text: &'a str,
    comma: u8,
) -> impl Iterator<Item = Result<(usize, Vec<String>), ImportError>> + 'a {
    let mut rest = text.as_bytes();
    let mut line = 1;
    std::iter::from_fn(move || {
        while let Some(after) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
            (rest, line) = (after, line + 1);
        }
        if rest.is_empty() {
            return None;
        }
        let begins = line;
        let mut fields = Vec::new();
        loop {
            let Some((field, after)) = field(rest, comma) else {
                rest = &[];
                let what = "a quote that opens a field is not closed, or text follows the one that closes it";
                return Some(Err(ImportError::line(path, begins, what)));
            };
            line += field.iter().filter(|byte| **byte == b'\n').count();
            // Cut at ASCII letters, so it is text as before.
            fields.push(String::from_utf8_lossy(&field).into_owned());
            match after {
                [next, after @ ..] if *next == comma => rest = after,
                after => {
                    rest = after;
                    return Some(Ok((begins, fields)));
                }
            }
        }
    })
}

/// A field and what follows it, which is a comma, an end of line or nothing.
fn field(text: &[u8], comma: u8) -> Option<(Vec<u8>, &[u8])> {
    let Some(mut quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| *byte == comma || *byte == b'\n').unwrap_or(text.len());
        let (field, after) = text.split_at(end);
        return Some((field.strip_suffix(b"\r").unwrap_or(field).to_vec(), after));
    };
    let mut field = Vec::new();
    loop {
        let end = quoted.iter().position(|byte| *byte == b'"')?;
        field.extend_from_slice(quoted.get(..end)?);
        quoted = quoted.get(end + 1..)?;
        let Some(after) = quoted.strip_prefix(b"\"") else { break };
        field.push(b'"');
        quoted = after;
    }
    let after = quoted.strip_prefix(b"\r").unwrap_or(quoted);
    let ends = after.first().is_none_or(|byte| *byte == comma || *byte == b'\n');
    ends.then_some((field, after))
}
