//! One shard, opened for taking its samples over into other shards: where each lies, and the bytes of its members.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::is_same;
use super::index::{Cache, Index};
use super::table::{Member, Sample};
use super::{ReadError, ShardError, Table};

/// An open shard and its table; shared by all who read it.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    index: Index,
}

impl Source {
    /// # Errors
    /// When the shard cannot be opened, is damaged, or changes meanwhile.
    pub fn open(path: &Path, cache: &Cache) -> Result<Self, ShardError> {
        let opened = |source| ShardError::Open { path: path.to_owned(), source };
        let index = Index::open(path, cache)?;
        let file = File::open(path).map_err(opened)?;
        if !is_same(&file, index.stamp).map_err(opened)? {
            return Err(ShardError::Unsettled { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file, index })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The size of its file.
    pub fn bytes(&self) -> u64 {
        self.index.stamp.size
    }

    pub fn table(&self) -> &Table {
        &self.index.table
    }

    /// The bytes of a member of one of this shard's samples.
    ///
    /// # Errors
    /// When the shard cannot be read, or was changed or replaced since it was opened.
    pub fn read(&self, sample: &Sample<'_>, member: Member<'_>) -> Result<Vec<u8>, ReadError> {
        let failed = |source| ReadError::Io { path: self.path.clone(), key: sample.key.to_owned(), source };
        let length = usize::try_from(member.length).map_err(|cause| failed(io::Error::other(cause)))?;
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, member.offset);
        // Asked after reading, so that no change slips through.
        if !is_same(&self.file, self.index.stamp).map_err(failed)? {
            return Err(ReadError::Changed { path: self.path.clone() });
        }
        read.map_err(failed)?;
        Ok(bytes)
    }
}
