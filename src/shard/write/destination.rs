//! Where a set is written: a folder of this machine, or one of a store, by way of a folder here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::set::MOST_ON_THE_WAY;
use super::{Split, WriteError, lists};
use crate::shard::cache::Cache;
use crate::shard::index::hex;
use crate::shard::remote::{Outbox, RemoteError};

/// A folder that sets are written to.
#[derive(Clone, Debug)]
pub struct Destination {
    folder: PathBuf,
    away: Option<Arc<Outbox>>,
}

/// One of this machine.
impl From<PathBuf> for Destination {
    fn from(folder: PathBuf) -> Self {
        Self { folder, away: None }
    }
}

impl Destination {
    /// The folder of this name, or of this address.
    ///
    /// # Errors
    /// When there is no such address, or no folder for what is on its way there.
    pub fn open(out: &Path, cache: &Cache) -> Result<Self, WriteError> {
        let url = out.to_string_lossy();
        // Of schemes that are not understood too.
        if !url.contains("://") {
            return Ok(out.to_owned().into());
        }
        let away = |source| WriteError::Away { url: url.to_string(), source };
        let digest = hex(&Sha256::digest(url.trim_end_matches('/')));
        let folder = cache.outgoing().map_err(away)?.join(digest.get(..16).unwrap_or_default());
        let outbox = Outbox::open(&url, &folder, cache.patience()).map_err(away)?;
        Ok(Self { folder, away: Some(Arc::new(outbox)) })
    }

    /// Where shards are made.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn away(&self) -> Option<&Outbox> {
        self.away.as_deref()
    }

    /// As people name a file of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.away().map_or_else(|| self.folder.join(name), |away| away.url(name).into())
    }

    /// The text of a file beside the shards; none where there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&self, name: &str) -> Result<Option<String>, WriteError> {
        if let Some(away) = self.away() {
            return away.text(name).map_err(|source| self.lost(name, source));
        }
        match fs::read(self.folder.join(name)) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(WriteError::Io { path: self.folder.join(name), source }),
        }
    }

    /// Writes a file beside the shards, in place of what is there.
    ///
    /// # Errors
    /// When the disk or the store fails.
    pub fn write(&self, name: &str, text: String) -> Result<(), WriteError> {
        match self.away() {
            Some(away) => away.write(name, text).map_err(|source| self.lost(name, source)),
            None => lists::replace(&self.folder.join(name), text.as_bytes()),
        }
    }

    /// Whether there is a file of this name.
    ///
    /// # Errors
    /// When a store does not tell.
    pub fn has(&self, name: &str) -> Result<bool, WriteError> {
        match self.away() {
            Some(away) => Ok(away.version(name).map_err(|source| self.lost(name, source))?.is_some()),
            // A link that leads nowhere would be replaced too.
            None => Ok(self.folder.join(name).symlink_metadata().is_ok()),
        }
    }

    /// About the most bytes that lie here at a time of a set of so many bytes and samples in all, while its shards leave for
    /// a store, or take the place of others.
    pub fn most_here(&self, split: &Split, bytes: u64, samples: u64) -> u64 {
        /// One that is written, and those that are brought to the disk.
        const SHARDS: u64 = 1 + MOST_ON_THE_WAY as u64;
        /// One that is sent, and those that wait.
        const SENT: u64 = 3;
        let of_samples = |most: u64| {
            let shard = u128::from(bytes) * u128::from(most) / u128::from(samples.max(1));
            u64::try_from(shard).unwrap_or(u64::MAX)
        };
        let shard = match split {
            Split::Numbered { most_samples, most_bytes } => {
                most_samples.map_or(bytes, of_samples).min(most_bytes.unwrap_or(bytes))
            }
            Split::Even { samples: own, shards } => of_samples(own.div_ceil((*shards).max(1))),
            // They are seldom of one size.
            Split::Named(names) => 2 * bytes / (names.len() as u64).max(1),
        };
        bytes.min(shard.saturating_mul(if self.away().is_some() { SHARDS + SENT } else { SHARDS }))
    }

    pub(super) fn lost(&self, name: &str, source: RemoteError) -> WriteError {
        WriteError::Away { url: self.path(name).to_string_lossy().into_owned(), source }
    }
}
