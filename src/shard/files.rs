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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

#[cfg(target_os = "linux")]
use rustix::io::{ReadWriteFlags, preadv2};

use super::index::Stamp;
#[cfg(target_os = "linux")]
use super::map::Map;

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

/// A file, and its bytes as memory once they were asked for.
#[derive(Debug)]
pub struct Opened {
    pub file: File,
    #[cfg(target_os = "linux")]
    map: OnceLock<Option<Map>>,
}

#[derive(Debug)]
struct Slot {
    file: Arc<Opened>,
    last_request: u64,
}

/// Whether `file` still has the size and time of `stamp` and a name in some folder.
pub fn is_same(file: &File, stamp: Stamp) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(Stamp::of(&metadata) == stamp && metadata.nlink() > 0)
}

impl Opened {
    fn of(file: File) -> Self {
        Self {
            file,
            #[cfg(target_os = "linux")]
            map: OnceLock::new(),
        }
    }

    /// The file's first `length` bytes; none where there is no map.
    #[cfg(target_os = "linux")]
    pub fn bytes(&self, length: u64) -> Option<&[u8]> {
        self.map.get_or_init(|| Map::of(&self.file, length)).as_ref().map(Map::bytes)
    }

    /// Elsewhere nothing is mapped.
    #[cfg(not(target_os = "linux"))]
    pub fn bytes(&self, _: u64) -> Option<&[u8]> {
        None
    }

    /// Whether some bytes that were used were not in the file any more.
    #[cfg(target_os = "linux")]
    pub fn is_torn(&self) -> bool {
        self.map.get().and_then(Option::as_ref).is_some_and(Map::is_torn)
    }

    #[cfg(not(target_os = "linux"))]
    pub fn is_torn(&self) -> bool {
        false
    }
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
    /// The open file of a shard, if it is open.
    pub fn find(&self, shard: usize) -> Option<Arc<Opened>> {
        self.lock().find(shard)
    }

    /// The open file of a shard, opened now if it is not.
    pub fn get(&self, shard: usize, path: &Path) -> io::Result<Arc<Opened>> {
        if let Some(file) = self.find(shard) {
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
        let file = Arc::new(Opened::of(opened?));
        self.lock().put(shard, &file, self.most);
        Ok(file)
    }

    pub fn forget(&self, shard: usize) {
        let forgotten = self.lock().by_shard.remove(&shard);
        // Taking back a map takes time, and nobody need wait for it.
        drop(forgotten);
    }

    /// Closes all files but those of some shards.
    pub fn keep(&self, is_kept: impl Fn(usize) -> bool) {
        let open: Vec<usize> = self.lock().by_shard.keys().copied().collect();
        open.into_iter().filter(|shard| !is_kept(*shard)).for_each(|shard| self.forget(shard));
    }

    /// No panic happens while the lock is held, so a poisoned lock guards sound slots.
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn find(&mut self, shard: usize) -> Option<Arc<Opened>> {
        self.requests += 1;
        let slot = self.by_shard.get_mut(&shard)?;
        slot.last_request = self.requests;
        Some(Arc::clone(&slot.file))
    }

    fn put(&mut self, shard: usize, file: &Arc<Opened>, most: usize) {
        if self.by_shard.len() >= most {
            let oldest = self.by_shard.iter().min_by_key(|(_, slot)| slot.last_request).map(|(shard, _)| *shard);
            oldest.map(|shard| self.by_shard.remove(&shard));
        }
        self.by_shard.insert(shard, Slot { file: Arc::clone(file), last_request: self.requests });
    }
}
