//! Patterns as typed (paths, brace notation, globs) → the shards' paths.
//!
//! Braces are expanded first, in the order in which they are written; what then holds `*`, `?` or `[]` is matched
//! against the folders, and its matches are sorted. A name that exists as it stands is taken as it stands.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::remote::is_remote;
use super::{Cache, ShardError};

/// More shards than any data set has; what stands for more is a slip of the pen.
const MOST_SHARDS: usize = 1_000_000;

/// Keeps the recursion shallow; a name needs two or three groups.
const MOST_GROUPS: usize = 64;

/// Lists the shards that `patterns` stand for, in the order in which they are written.
///
/// # Errors
/// A pattern that matches nothing, a named shard that does not exist, braces that cannot be read, a shard named twice,
/// be it by two names.
pub fn expand(patterns: &[String], cache: &Cache) -> Result<Vec<PathBuf>, ShardError> {
    let mut shards = Vec::new();
    for pattern in patterns {
        if Path::new(pattern).is_file() {
            shards.push(PathBuf::from(pattern));
            continue;
        }
        for name in expand_braces(pattern)? {
            add_matches(&name, pattern, cache, &mut shards)?;
        }
    }
    if shards.is_empty() {
        return Err(ShardError::NoPatterns);
    }
    refuse_twice(&shards)?;
    Ok(shards)
}

fn add_matches(name: &str, pattern: &str, cache: &Cache, shards: &mut Vec<PathBuf>) -> Result<(), ShardError> {
    let path = PathBuf::from(name);
    if is_remote(&path) {
        // Whether a shard that is named is there, its server tells when it is looked at.
        let found = if is_glob(name) { far_glob(name, cache)? } else { vec![path] };
        shards.extend(found);
    } else if path.is_file() {
        shards.push(path);
    } else if is_glob(name) {
        let found = glob(name);
        if found.is_empty() {
            return Err(ShardError::NoMatch { pattern: name.to_owned() });
        }
        shards.extend(found);
    } else if path.exists() {
        return Err(ShardError::NotAFile { path });
    } else {
        return Err(ShardError::Missing { path, pattern: pattern.to_owned() });
    }
    Ok(())
}

/// A shard may have several names, by links or by way of other folders; its samples would count once for each.
fn refuse_twice(shards: &[PathBuf]) -> Result<(), ShardError> {
    let mut seen = HashMap::with_capacity(shards.len());
    for path in shards {
        let file = path.canonicalize().unwrap_or_else(|_| path.clone());
        if let Some(first) = seen.insert(file, path) {
            let (path, first) = (path.clone(), first.clone());
            return Err(if first == path { ShardError::Twice { path } } else { ShardError::SameShard { path, first } });
        }
    }
    Ok(())
}

/// Expands `{a,b}`, `{1..3}` and `{0..9..3}`, several and nested, as bash does; numbers keep the wider end's zeros.
fn expand_braces(pattern: &str) -> Result<Vec<String>, ShardError> {
    let unreadable = || ShardError::Braces { pattern: pattern.to_owned() };
    let too_many = || ShardError::TooManyShards { pattern: pattern.to_owned(), most: MOST_SHARDS };
    let Some(open) = pattern.find(['{', '}']) else {
        return Ok(vec![pattern.to_owned()]);
    };
    if pattern.matches('{').count() > MOST_GROUPS {
        return Err(unreadable());
    }
    let (head, rest) = pattern.split_at(open);
    let (body, tail) = split_group(rest).ok_or_else(unreadable)?;

    let parts = split_list(body);
    let mut middles = Vec::new();
    if let [range] = parts.as_slice() {
        middles = expand_range(range).ok_or_else(unreadable)?.ok_or_else(too_many)?;
    } else {
        for part in parts {
            middles.extend(expand_braces(part)?);
            if middles.len() > MOST_SHARDS {
                return Err(too_many());
            }
        }
    }
    let tails = expand_braces(tail)?;
    if middles.len().saturating_mul(tails.len()) > MOST_SHARDS {
        return Err(too_many());
    }
    Ok(middles.iter().flat_map(|middle| tails.iter().map(move |tail| format!("{head}{middle}{tail}"))).collect())
}

/// `{body}tail` → `(body, tail)`; `None` when the first brace does not open or is never closed.
fn split_group(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('{')?;
    let mut depth = 1;
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((inner.get(..at)?, inner.get(at + 1..)?));
        }
    }
    None
}

/// Splits at the commas that stand outside of inner braces.
fn split_list(body: &str) -> Vec<&str> {
    let mut depth = 0;
    body.split(|character| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    })
    .collect()
}

/// `None` when `body` is no range; `Some(None)` when it counts more than [`MOST_SHARDS`].
fn expand_range(body: &str) -> Option<Option<Vec<String>>> {
    let mut parts = body.split("..");
    let (first, last) = (parts.next()?, parts.next()?);
    let step = parts.next().map_or(Some(1), number)?;
    if parts.next().is_some() || step == 0 {
        return None;
    }
    let (from, to) = (number(first)?, number(last)?);
    let count = from.abs_diff(to) / step + 1;
    if count > MOST_SHARDS as u64 {
        return Some(None);
    }
    let padded = [first, last].iter().any(|end| end.len() > 1 && end.starts_with('0'));
    let width = if padded { first.len().max(last.len()) } else { 0 };
    let value = |turn: u64| {
        if from <= to { from + turn * step } else { from - turn * step }
    };
    Some(Some((0..count).map(|turn| format!("{:0width$}", value(turn))).collect()))
}

/// Digits only, below 2^63 so that a count of them cannot overflow.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|value| digits && *value < 1 << 63)
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The files that match, sorted; index files and, as in a shell, names with a leading dot are not matched by a star.
fn glob(pattern: &str) -> Vec<PathBuf> {
    let start = if pattern.starts_with('/') { PathBuf::from("/") } else { PathBuf::new() };
    let mut found = vec![start];
    for component in pattern.split('/').filter(|component| !component.is_empty()) {
        found = found.iter().flat_map(|folder| step(folder, component)).collect();
    }
    found.retain(|path| path.is_file() && path.extension().is_none_or(|extension| extension != "index"));
    found.sort_unstable();
    found
}

/// The objects of a store that match, sorted.
fn far_glob(pattern: &str, cache: &Cache) -> Result<Vec<PathBuf>, ShardError> {
    let wanted: Vec<Vec<char>> = pattern.split('/').map(|component| component.chars().collect()).collect();
    let is_match = |name: &str| {
        let components: Vec<&str> = name.split('/').collect();
        components.len() == wanted.len()
            && components.iter().zip(&wanted).all(|(name, wanted)| matches(wanted, name))
            && !name.ends_with(".index")
    };
    let found = cache.depot().and_then(|depot| depot.list(pattern, is_match));
    let found = found.map_err(|source| ShardError::Remote { path: pattern.into(), source })?;
    if found.is_empty() {
        return Err(ShardError::NoMatch { pattern: pattern.to_owned() });
    }
    Ok(found.into_iter().map(PathBuf::from).collect())
}

fn step(folder: &Path, component: &str) -> Vec<PathBuf> {
    if !is_glob(component) {
        return vec![folder.join(component)];
    }
    let wanted: Vec<char> = component.chars().collect();
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = fs::read_dir(listed) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names.filter(|name| matches(&wanted, &name.to_string_lossy())).map(|name| folder.join(name)).collect()
}

fn matches(wanted: &[char], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    if name.first() == Some(&'.') && wanted.first() != Some(&'.') {
        return false;
    }
    matches_from(wanted, &name)
}

/// Backtracks to the last star only, which suffices: an earlier star can take no more than the last one could.
fn matches_from(wanted: &[char], name: &[char]) -> bool {
    let (mut rest, mut left) = (wanted, name);
    let mut retry: Option<(&[char], &[char])> = None;
    loop {
        if let Some(after_star) = rest.strip_prefix(&['*']) {
            retry = Some((after_star, left));
            rest = after_star;
        } else if rest.is_empty() && left.is_empty() {
            return true;
        } else if let Some((after, others)) =
            left.split_first().and_then(|(one, others)| Some((take(rest, *one)?, others)))
        {
            (rest, left) = (after, others);
        } else if let Some((after_star, [_, shorter @ ..])) = retry {
            retry = Some((after_star, shorter));
            (rest, left) = (after_star, shorter);
        } else {
            return false;
        }
    }
}

/// What is left of the pattern once its first element has matched `one`.
fn take(wanted: &[char], one: char) -> Option<&[char]> {
    match wanted {
        ['?', rest @ ..] => Some(rest),
        ['[', inner @ ..] => match split_set(inner) {
            Some((set, rest)) => in_set(set, one).then_some(rest),
            None => (one == '[').then_some(inner),
        },
        [first, rest @ ..] => (*first == one).then_some(rest),
        [] => None,
    }
}

/// Splits after the closing bracket, which counts as a member of the set when it comes first.
fn split_set(inner: &[char]) -> Option<(&[char], &[char])> {
    let first = usize::from(matches!(inner.first(), Some('!' | '^')));
    let close = inner.iter().skip(first + 1).position(|character| *character == ']')? + first + 1;
    Some((inner.get(..close)?, inner.get(close + 1..)?))
}

fn in_set(set: &[char], one: char) -> bool {
    let (negated, mut members) = match set {
        ['!' | '^', members @ ..] => (true, members),
        members => (false, members),
    };
    let mut found = false;
    while !members.is_empty() {
        members = match members {
            [low, '-', high, rest @ ..] => {
                found |= (*low..=*high).contains(&one);
                rest
            }
            [single, rest @ ..] => {
                found |= *single == one;
                rest
            }
            [] => &[],
        };
    }
    found != negated
}
