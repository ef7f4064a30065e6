//! The bytes of a binary PPM → where its pixels lie, so that they are used without being decoded or copied.
//!
//! Only the plain form is taken here: `P6`, 8 bits, which is what decoded shards hold. Every other netpbm, and a header
//! on which readers disagree, is left to the general decoder.

use std::ops::Range;

use super::decode::{MOST_PIXELS, Reason, Unusable};

const MAGIC: &[u8] = b"P6";

/// The largest value of a channel, where a channel is a byte.
const MOST_VALUE: u32 = 255;

/// What a header says; sizes in pixels. `data` is `[height, width, 3]` and lies inside the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ppm {
    pub width: u32,
    pub height: u32,
    pub data: Range<usize>,
}

/// `None` for what is no binary PPM of 8 bits, or not certainly one.
///
/// # Errors
/// When it is one, but ends early, is damaged or has too many pixels.
pub fn header(bytes: &[u8]) -> Result<Option<Ppm>, Unusable> {
    header_of(bytes, bytes.len())
}

/// As [`header`], from the first bytes of `length`.
///
/// # Errors
/// As [`header`], and when the header goes on behind them.
pub fn header_of(bytes: &[u8], length: usize) -> Result<Option<Ppm>, Unusable> {
    let is_plain =
        bytes.strip_prefix(MAGIC).and_then(<[u8]>::first).is_none_or(|byte| is_space(*byte) || *byte == b'#');
    if !bytes.starts_with(MAGIC) || !is_plain {
        return Ok(None);
    }
    let mut fields = Fields { bytes, at: MAGIC.len() };
    let Some(width) = fields.number()? else { return Ok(None) };
    let Some(height) = fields.number()? else { return Ok(None) };
    let Some(MOST_VALUE) = fields.number()? else { return Ok(None) };
    let pixels = match u64::from(width) * u64::from(height) {
        0 => return Err(Unusable::damaged(format!("{width}x{height} pixels"))),
        pixels @ 1..=MOST_PIXELS => pixels as usize,
        _ => return Err(Unusable { reason: Reason::TooLarge, detail: format!("{width}x{height} pixels") }),
    };
    let data = fields.at..fields.at + pixels * 3;
    if data.end > length {
        let there = length.saturating_sub(data.start);
        return Err(Unusable::truncated(format!("{there} of {} bytes of pixels", data.len())));
    }
    Ok(Some(Ppm { width, height, data }))
}

/// Replaces the content of `into` by a header, behind which the pixels belong, `[height, width, 3]`.
pub fn begin(width: u32, height: u32, into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(format!("P6\n{width} {height}\n{MOST_VALUE}\n").as_bytes());
}

/// The fields of a header; `at` is behind the last one read and the one white space that ends it.
struct Fields<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Fields<'_> {
    /// `None` for a number that a comment adjoins: some readers end it there, others read on behind the comment.
    fn number(&mut self) -> Result<Option<u32>, Unusable> {
        self.skip()?;
        let start = self.at;
        let mut number = 0u32;
        while let digit @ b'0'..=b'9' = self.byte()? {
            let next = number.checked_mul(10).and_then(|number| number.checked_add(u32::from(digit - b'0')));
            number = next.ok_or_else(|| Unusable::damaged(format!("a number at byte {start} is beyond 32 bits")))?;
            self.at += 1;
        }
        match self.byte()? {
            b'#' if self.at > start => Ok(None),
            byte if is_space(byte) => {
                self.at += 1;
                Ok(Some(number))
            }
            byte => Err(Unusable::damaged(format!("byte {byte:02x} in the header, at byte {}", self.at))),
        }
    }

    /// Goes over white space and comments, which end with their line.
    fn skip(&mut self) -> Result<(), Unusable> {
        let mut in_comment = false;
        loop {
            match self.byte()? {
                b'\n' | b'\r' => in_comment = false,
                b'#' => in_comment = true,
                byte if in_comment || is_space(byte) => {}
                _ => return Ok(()),
            }
            self.at += 1;
        }
    }

    fn byte(&self) -> Result<u8, Unusable> {
        let ends = || Unusable::truncated(format!("{} bytes end inside the header", self.bytes.len()));
        self.bytes.get(self.at).copied().ok_or_else(ends)
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}
