//! A file that takes its place only when it is whole: written as `NAME.part`, renamed at the end.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::WriteError;
use super::hashed::{Hashed, Making};

/// The file beside a shard's place; removed unless it is renamed.
pub struct Beside {
    path: PathBuf,
    renamed: bool,
    /// Keeps the lock until the file is renamed or removed.
    _lock: File,
}

impl Beside {
    /// # Errors
    /// When another process is writing it, or when the folder cannot be written.
    pub fn create(shard: &Path, making: &Making) -> Result<(Self, Hashed), WriteError> {
        let mut name: OsString = shard.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let failed = |source| WriteError::Io { path: path.clone(), source };
        // What a killed process left is taken over, what a living one writes is not.
        let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(WriteError::Busy { path });
        }
        // Its writer may have put it in place between the opening and the lock.
        let named = fs::metadata(&path).map(|named| (named.dev(), named.ino())).ok();
        let opened = file.metadata().map_err(failed)?;
        if named != Some((opened.dev(), opened.ino())) {
            return Err(WriteError::Busy { path });
        }
        file.set_len(0).map_err(failed)?;
        let lock = file.try_clone().map_err(failed)?;
        let beside = Self { path: path.clone(), renamed: false, _lock: lock };
        let hashed = Hashed::new(file, making).map_err(failed)?;
        Ok((beside, hashed))
    }

    pub fn rename(mut self, shard: &Path) -> io::Result<()> {
        fs::rename(&self.path, shard)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}
