//! One shard, opened for taking its samples over into other shards: where each lies, and the bytes of its members.

use std::io;
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;

use super::files::is_same;
use super::index::{Index, Stamp};
use super::table::{Member, Sample};
use super::{Cache, Here, ReadError, ShardError, Table};

/// An open shard and its table; shared by all who read it.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    here: Here,
    index: Index,
}

impl Source {
    /// # Errors
    /// When the shard cannot be opened, is damaged, or changes meanwhile.
    pub fn open(path: &Path, cache: &Cache) -> Result<Self, ShardError> {
        let index = Index::open(path, cache)?;
        let here = cache.open(path)?;
        let opened = |source| ShardError::Open { path: path.to_owned(), source };
        if !is_same(&here.file, index.stamp).map_err(opened)? {
            return Err(ShardError::Unsettled { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), here, index })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The size of its file.
    pub fn bytes(&self) -> u64 {
        self.index.stamp.size
    }

    pub fn stamp(&self) -> Stamp {
        self.index.stamp
    }

    /// Asks the system to read the whole shard ahead, in the order in which it lies on the disk.
    pub fn read_ahead(&self) {
        // Advice that is not taken changes nothing but the time.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&self.here.file, 0, None, rustix::fs::Advice::WillNeed);
    }

    pub fn table(&self) -> &Table {
        &self.index.table
    }

    /// The bytes of all members of one of this shard's samples, by extension.
    ///
    /// # Errors
    /// When the shard cannot be read, or was changed or replaced since it was opened.
    pub fn read(&self, sample: &Sample<'_>) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
        let failed = |source| ReadError::Io { path: self.path.clone(), key: sample.key.to_owned(), source };
        let read = |member: Member<'_>| Ok((member.extension.to_owned(), self.read_member(member)?));
        let members = sample.members().map(read).collect::<io::Result<_>>();
        // Asked after reading, so that no change slips through.
        if !is_same(&self.here.file, self.index.stamp).map_err(failed)? {
            return Err(ReadError::Changed { path: self.path.clone() });
        }
        members.map_err(failed)
    }

    fn read_member(&self, member: Member<'_>) -> io::Result<Vec<u8>> {
        let length = usize::try_from(member.length).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let offset = member.offset + bytes.len() as u64;
            // Memory that is read into need not be cleared before; there may be more of it than was asked for.
            match rustix::io::pread(&self.here.file, spare_capacity(&mut bytes), offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }
}
