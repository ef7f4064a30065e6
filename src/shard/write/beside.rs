//! A file that takes its place only when it is whole: written as `NAME.part`, hashed on the way, renamed at the end.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::WriteError;

/// Many samples a write; half as much is slower on a network's disk, twice as much is no faster.
const WRITE_BYTES: usize = 1 << 20;

/// Data of so many bytes is written and hashed where it lies; less is put together first.
const SHARED_BYTES: usize = 4096;

/// Writes that wait to be hashed: hashing takes a quarter of the time of writing, but not at every moment.
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
    /// What was pushed since the last write, less its end.
    pieces: Vec<Bytes>,
    waiting: usize,
    /// The end of it, which small pieces are put together in.
    end: Vec<u8>,
    bytes: u64,
    to_hash: SyncSender<Vec<Bytes>>,
    hasher: JoinHandle<[u8; 32]>,
}

impl Hashed {
    fn new(file: File) -> io::Result<Self> {
        let (to_hash, written) = sync_channel::<Vec<Bytes>>(AHEAD);
        let hasher = thread::Builder::new().name("saccade-hash".into()).spawn(move || {
            let mut hash = Sha256::new();
            written.iter().flatten().for_each(|piece| hash.update(&piece));
            hash.finalize().into()
        })?;
        Ok(Self { file, pieces: Vec::new(), waiting: 0, end: Vec::new(), bytes: 0, to_hash, hasher })
    }

    pub fn push(&mut self, data: &[u8]) -> io::Result<()> {
        self.end.extend_from_slice(data);
        self.count(data.len())
    }

    /// The same of data that is not copied.
    pub fn push_shared(&mut self, data: Bytes) -> io::Result<()> {
        if data.len() < SHARED_BYTES {
            return self.push(&data);
        }
        self.close_end();
        let length = data.len();
        self.pieces.push(data);
        self.count(length)
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

    fn count(&mut self, bytes: usize) -> io::Result<()> {
        self.bytes += bytes as u64;
        self.waiting += bytes;
        if self.waiting >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn close_end(&mut self) {
        if !self.end.is_empty() {
            self.pieces.push(std::mem::take(&mut self.end).into());
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.close_end();
        self.waiting = 0;
        let pieces = std::mem::take(&mut self.pieces);
        let slices = pieces.iter().map(|piece| IoSlice::new(piece)).collect::<Vec<_>>();
        write_all(&self.file, slices)?;
        // A hasher that ended is found when it is waited for.
        let _ = self.to_hash.send(pieces);
        Ok(())
    }
}

/// Writes pieces one after the other, as few calls as the system allows.
fn write_all(mut file: &File, mut slices: Vec<IoSlice>) -> io::Result<()> {
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
