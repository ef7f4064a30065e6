//! `SHA256SUMS` beside shards → what each of them must hash to.
//!
//! The file is what `sha256sum` writes: 64 hexadecimal digits, two blanks (or a blank and an asterisk), a name.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::remote::{RemoteError, is_remote};
use super::{Cache, ShardError};

/// The file's name, in the folder of the shards that it is about.
pub const SUMS: &str = "SHA256SUMS";

/// More than the sums of a million shards with long names.
pub const MOST_BYTES: u64 = 1 << 28;

const DIGITS: usize = 64;

/// The sums of all folders that were asked about.
pub struct Sums<'c> {
    cache: &'c Cache,
    folders: HashMap<PathBuf, Option<Arc<HashMap<String, String>>>>,
}

/// What is known of a shard's sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sum {
    /// There is no list in the shard's folder.
    NoList,
    /// There is one, without the shard.
    NotListed,
    /// In lower case.
    Listed(String),
}

impl<'c> Sums<'c> {
    pub fn new(cache: &'c Cache) -> Self {
        Self { cache, folders: HashMap::new() }
    }

    /// # Errors
    /// When there is a list that cannot be read.
    pub fn of(&mut self, shard: &Path) -> Result<Sum, ShardError> {
        let Some(listed) = self.list(shard.parent().unwrap_or(Path::new("")))? else {
            return Ok(Sum::NoList);
        };
        let name = shard.file_name().unwrap_or_default().to_string_lossy();
        Ok(listed.get(name.as_ref()).map_or(Sum::NotListed, |sum| Sum::Listed(sum.clone())))
    }

    /// The names in a folder's list, in order; none where there is no list.
    ///
    /// # Errors
    /// When there is a list that cannot be read.
    pub fn listed(&mut self, folder: &Path) -> Result<Vec<&String>, ShardError> {
        let mut names: Vec<_> = self.list(folder)?.into_iter().flat_map(|list| list.keys()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Whether another machine has a shard.
    ///
    /// # Errors
    /// When its server does not say.
    pub fn has(&self, shard: &Path) -> Result<bool, ShardError> {
        match self.cache.find(shard) {
            Ok(_) => Ok(true),
            Err(ShardError::Remote { source: RemoteError::Gone, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&mut self, folder: &Path) -> Result<Option<&HashMap<String, String>>, ShardError> {
        if !self.folders.contains_key(folder) {
            let list = if is_remote(folder) { self.remote(folder)? } else { read(&folder.join(SUMS))?.map(Arc::new) };
            self.folders.insert(folder.to_owned(), list);
        }
        Ok(self.folders.get(folder).and_then(Option::as_deref))
    }

    fn remote(&self, folder: &Path) -> Result<Option<Arc<HashMap<String, String>>>, ShardError> {
        let list = self.cache.depot().and_then(|depot| depot.sums(&folder.to_string_lossy()));
        list.map_err(|source| ShardError::Remote { path: folder.join(SUMS), source })
    }
}

fn read(path: &Path) -> Result<Option<HashMap<String, String>>, ShardError> {
    let unreadable = |source| ShardError::Open { path: path.to_owned(), source };
    match fs::metadata(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(unreadable(cause)),
        Ok(metadata) if metadata.len() > MOST_BYTES => return Err(ShardError::Sums { path: path.to_owned(), line: 1 }),
        Ok(_) => {}
    }
    let text = fs::read(path).map_err(unreadable)?;
    parse(&text).map(Some).map_err(|line| ShardError::Sums { path: path.to_owned(), line })
}

/// What a list says, by name.
///
/// # Errors
/// The number of the first line that is no checksum.
pub fn parse(text: &[u8]) -> Result<HashMap<String, String>, usize> {
    let text = String::from_utf8_lossy(text);
    let mut listed = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = || number + 1;
        let (sum, name) = line.split_at_checked(DIGITS).ok_or_else(wrong)?;
        let name = name.strip_prefix("  ").or_else(|| name.strip_prefix(" *")).ok_or_else(wrong)?;
        if !sum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        listed.insert(name.trim_start_matches("./").to_owned(), sum.to_ascii_lowercase());
    }
    Ok(listed)
}
