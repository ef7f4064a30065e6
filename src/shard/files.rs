//! Open shards: a bounded number of file descriptors, shared by all readers.
//!
//! A file is handed out only while it is the one that was indexed: same size, same time, still in its folder.

use std::collections::HashMap;
use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::io::IoSliceMut;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(target_os = "linux")]
use rustix::io::{ReadWriteFlags, preadv2};

use super::index::Stamp;

/// Leaves room for sockets and devices under the smallest limit in use (256 descriptors, macOS).
const LEAST_OPEN: usize = 96;

/// Where looking for the one that was not read for longest begins to cost what opening a file does.
const MOST_OPEN: usize = 512;

#[derive(Debug)]
pub struct OpenFiles {
    open: Mutex<Slots>,
    most: usize,
}

/// Takes a quarter of the descriptors that the process may have: two sets leave the other half to everybody else, and
/// a shuffle over more shards than stay open would open one for nearly every sample.
impl Default for OpenFiles {
    fn default() -> Self {
        let most = descriptors().map_or(LEAST_OPEN, |descriptors| (descriptors / 4).clamp(LEAST_OPEN, MOST_OPEN));
        Self { open: Mutex::default(), most }
    }
}

/// How many descriptors this process may have, where the system tells.
fn descriptors() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[derive(Debug, Default)]
struct Slots {
    by_shard: HashMap<usize, Slot>,
    requests: u64,
}

#[derive(Debug)]
struct Slot {
    file: Arc<File>,
    last_request: u64,
}

/// Whether `file` still has the size and time of `stamp` and a name in some folder.
pub fn is_same(file: &File, stamp: Stamp) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(Stamp::of(&metadata) == stamp && metadata.nlink() > 0)
}

/// Whether all of `into` could be filled from what the system holds in memory.
#[cfg(target_os = "linux")]
pub fn read_at_once(file: &File, offset: u64, into: &mut [u8]) -> bool {
    let length = into.len();
    let read = preadv2(file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT);
    read.is_ok_and(|read| read == length)
}

/// Elsewhere there is no way to ask.
#[cfg(not(target_os = "linux"))]
pub fn read_at_once(_: &File, _: u64, _: &mut [u8]) -> bool {
    false
}

impl OpenFiles {
    /// The open file of a shard, opened now if it is not.
    pub fn get(&self, shard: usize, path: &Path) -> io::Result<Arc<File>> {
        if let Some(file) = self.lock().find(shard) {
            return Ok(file);
        }
        // The lock is not held while opening, which may wait for a network.
        let opened = File::open(path).or_else(|cause| {
            let exhausted = matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
            if !exhausted {
                return Err(cause);
            }
            self.lock().by_shard.clear();
            File::open(path)
        });
        let file = Arc::new(opened?);
        self.lock().put(shard, &file, self.most);
        Ok(file)
    }

    pub fn forget(&self, shard: usize) {
        self.lock().by_shard.remove(&shard);
    }

    /// No panic happens while the lock is held, so a poisoned lock guards sound slots.
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn find(&mut self, shard: usize) -> Option<Arc<File>> {
        self.requests += 1;
        let slot = self.by_shard.get_mut(&shard)?;
        slot.last_request = self.requests;
        Some(Arc::clone(&slot.file))
    }

    fn put(&mut self, shard: usize, file: &Arc<File>, most: usize) {
        if self.by_shard.len() >= most {
            let oldest = self.by_shard.iter().min_by_key(|(_, slot)| slot.last_request).map(|(shard, _)| *shard);
            oldest.map(|shard| self.by_shard.remove(&shard));
        }
        self.by_shard.insert(shard, Slot { file: Arc::clone(file), last_request: self.requests });
    }
}
