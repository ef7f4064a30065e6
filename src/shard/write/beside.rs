//! A file that takes its place only when it is whole: written as `NAME.part`, hashed on the way, renamed at the end.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256};

use super::WriteError;

/// Many samples a write; half as much is slower on a network's disk, twice as much is no faster.
const BUFFER_BYTES: usize = 1 << 20;

/// Buffers that wait to be hashed: hashing takes a quarter of the time of writing, but not at every moment.
const AHEAD: usize = 4;

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
    pub fn create(shard: &Path) -> Result<(Self, Hashed), WriteError> {
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
        let hashed = Hashed::new(file).map_err(failed)?;
        Ok((Self { path, renamed: false, _lock: lock }, hashed))
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

/// A file that grows at its end; a thread of its own hashes what is written.
pub struct Hashed {
    file: File,
    /// What was pushed last; then buffers that were written, and are used again once they are hashed too.
    buffer: Vec<u8>,
    written: VecDeque<Arc<Vec<u8>>>,
    bytes: u64,
    to_hash: SyncSender<Arc<Vec<u8>>>,
    hasher: JoinHandle<[u8; 32]>,
}

impl Hashed {
    fn new(file: File) -> io::Result<Self> {
        let (to_hash, buffers) = sync_channel::<Arc<Vec<u8>>>(AHEAD);
        let hasher = thread::Builder::new().name("saccade-hash".into()).spawn(move || {
            let mut hash = Sha256::new();
            buffers.iter().for_each(|buffer| hash.update(buffer.as_slice()));
            hash.finalize().into()
        })?;
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Ok(Self { file, buffer, written: VecDeque::new(), bytes: 0, to_hash, hasher })
    }

    pub fn push(&mut self, mut data: &[u8]) -> io::Result<()> {
        self.bytes += data.len() as u64;
        while !data.is_empty() {
            let room = BUFFER_BYTES.saturating_sub(self.buffer.len());
            let (now, later) = data.split_at_checked(room).unwrap_or((data, &[]));
            self.buffer.extend_from_slice(now);
            data = later;
            if self.buffer.len() >= BUFFER_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Zeros up to the next multiple of `block`.
    pub fn pad(&mut self, block: usize) -> io::Result<()> {
        const ZEROS: [u8; 512] = [0; 512];
        let over = self.bytes as usize % block;
        let missing = if over == 0 { 0 } else { block - over };
        self.push(ZEROS.get(..missing).unwrap_or(&ZEROS))
    }

    /// Bytes pushed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Brings all of it to the disk; the file, and the SHA-256 of what it holds.
    pub fn sync(mut self) -> io::Result<(File, [u8; 32])> {
        self.flush()?;
        drop(self.to_hash);
        self.file.sync_all()?;
        let digest = self.hasher.join().map_err(|_| io::Error::other("the thread that hashes ended early"))?;
        Ok((self.file, digest))
    }

    fn flush(&mut self) -> io::Result<()> {
        let spare = if self.written.len() > AHEAD { self.written.pop_front() } else { None };
        let mut spare = spare.and_then(Arc::into_inner).unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        spare.clear();
        let full = Arc::new(std::mem::replace(&mut self.buffer, spare));
        // A hasher that ended is found when it is waited for.
        let _ = self.to_hash.send(Arc::clone(&full));
        self.file.write_all(&full)?;
        self.written.push_back(full);
        Ok(())
    }
}
