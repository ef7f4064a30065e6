//! The folder of fetched shards, and the threads that fill it. All that waits here waits for what they fetch.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256};

use super::address::Address;
use super::client::Object;
use super::fetch::serve;
use super::shared::{Meters, Shared, Thing, lock};
use super::state::{Slot, State};
use super::{Id, Listed, Patience, RemoteError, Room};
use crate::shard::index::{Stamp, hex};
use crate::shard::write::free_bytes;
use crate::telemetry::{Stage, Telemetry};

/// One connection to a store carries a tenth of what a fast network does.
const FETCHERS: usize = 8;

/// Fetched shards. Dropping it ends its threads.
pub struct Depot {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// A fetched shard that stays here for as long as this lives.
#[derive(Debug)]
pub struct Lease {
    depot: Arc<Depot>,
    id: Id,
}

/// Tells the depot what a stream reads from now on; what it said is forgotten when this goes.
#[derive(Debug)]
pub struct Ahead {
    depot: Arc<Depot>,
    stream: u64,
}

impl fmt::Debug for Depot {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.debug_tuple("Depot").field(&self.shared.folder).finish()
    }
}

impl Depot {
    /// # Errors
    /// When the folder cannot be made or read, or threads cannot be started.
    pub fn open(room: &Room, patience: Patience, telemetry: Option<&Telemetry>) -> Result<Arc<Self>, RemoteError> {
        let disk = |source| RemoteError::Disk { path: room.folder.clone(), source };
        fs::create_dir_all(&room.folder).map_err(disk)?;
        let there = files_in(&room.folder).map_err(disk)?;
        let most = match room.most {
            Some(most) => most,
            None => {
                let taken: u64 = there.iter().map(|(_, bytes)| bytes).sum();
                free_bytes(&room.folder).map_err(disk)?.saturating_add(taken) / 2
            }
        };
        let meters =
            telemetry.map(|telemetry| Meters { stage: telemetry.stage(Stage::Fetch), telemetry: telemetry.clone() });
        let shared = Arc::new(Shared {
            folder: room.folder.clone(),
            patience,
            state: Mutex::new(State::new(most, there)),
            changed: Condvar::new(),
            things: RwLock::default(),
            by_url: Mutex::default(),
            clients: Mutex::default(),
            sums: Mutex::default(),
            closed: AtomicBool::new(false),
            meters,
        });
        let mut depot = Self { shared, threads: Vec::new() };
        for number in 0..FETCHERS {
            let shared = Arc::clone(&depot.shared);
            let thread = thread::Builder::new().name(format!("saccade-fetch-{number}"));
            depot.threads.push(thread.spawn(move || serve(&shared)).map_err(disk)?);
        }
        Ok(Arc::new(depot))
    }

    /// Bytes that fetched shards may take.
    pub fn most(&self) -> u64 {
        self.shared.lock().most()
    }

    /// The addresses in the folder of `pattern`, and in those below it, that `takes`, sorted.
    ///
    /// # Errors
    /// As every request; web servers do not list.
    pub fn list(&self, pattern: &str, takes: impl Fn(&str) -> bool) -> Result<Vec<String>, RemoteError> {
        let start = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
        let folder = pattern.get(..start).and_then(|start| start.rsplit_once('/')).map_or("", |(folder, _)| folder);
        let address = Address::parse_folder(folder)?;
        if !address.lists() {
            // A question mark is what a signed address has.
            Address::parse(pattern)?;
            return Err(RemoteError::NoListing);
        }
        let paths =
            self.shared.ask(&address, self.shared.patience.to_begin, async |object: &Object| object.list().await)?;
        let store = address.store();
        let mut found: Vec<_> = paths.iter().map(|path| format!("{store}/{path}")).filter(|name| takes(name)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The number of a shard, which is looked at the first time that it is asked for.
    ///
    /// # Errors
    /// When it is not there, or nothing is learnt of it within some seconds.
    pub fn find(&self, url: &str) -> Result<Id, RemoteError> {
        let shared = &self.shared;
        if let Some(id) = lock(&shared.by_url).get(url) {
            return Ok(*id);
        }
        let address = Address::parse(url)?;
        let version = shared.ask(&address, shared.patience.to_begin, async |object: &Object| object.version().await)?;
        let digest = hex(&Sha256::digest(format!("{url}\n{}", version.text())));
        let name = url.rsplit('/').next().unwrap_or_default();
        let name = format!("{}-{name}", digest.get(..16).unwrap_or_default());
        let path = shared.folder.join(&name);
        let is_here = fs::metadata(&path).is_ok_and(|metadata| Stamp::of(&metadata) == version.stamp());
        let mut by_url = lock(&shared.by_url);
        if let Some(id) = by_url.get(url) {
            return Ok(*id);
        }
        let size = version.size;
        let thing = Thing {
            url: url.to_owned(),
            address,
            version,
            path,
            samples: AtomicU64::new(0),
            expected: OnceLock::new(),
        };
        shared.things.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(thing));
        let id = shared.lock().add(size, &name, is_here);
        by_url.insert(url.to_owned(), id);
        Ok(id)
    }

    /// The shard's size and time, which its file has too.
    pub fn stamp(&self, id: Id) -> Stamp {
        self.shared.thing(id).version.stamp()
    }

    /// Says how many samples the shard has, and the digest of its index if that is to be compared with the shard.
    pub fn expect(&self, id: Id, samples: u64, index: Option<[u8; 32]>) {
        let thing = self.shared.thing(id);
        thing.samples.store(samples, Relaxed);
        if let Some(index) = index {
            thing.expected.get_or_init(|| index);
        }
    }

    /// A small object's bytes; none where there is none.
    ///
    /// # Errors
    /// As every request, and when it is larger than `most`.
    pub fn small(&self, url: &str, most: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        self.shared.small(url, most)
    }

    /// What `SHA256SUMS` in a folder lists; none where there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sums(&self, folder: &str) -> Result<Option<Arc<Listed>>, RemoteError> {
        self.shared.sums(folder)
    }

    /// Waits until the shard is here, and keeps it.
    ///
    /// # Errors
    /// When it cannot be fetched, or is larger than what may lie here.
    pub fn lease(self: &Arc<Self>, id: Id) -> Result<Lease, RemoteError> {
        let shared = &self.shared;
        let mut state = shared.lock();
        let (needed, most) = (state.size(id), state.most());
        if needed > most {
            return Err(RemoteError::Room { needed, most });
        }
        state.ask(id);
        shared.changed.notify_all();
        while !state.hold(id) {
            if let Some(Slot::Failed(error)) = state.slot(id) {
                let error = again(error);
                state.end_asking(id);
                shared.changed.notify_all();
                return Err(error);
            }
            state = shared.wait(state);
        }
        Ok(Lease { depot: Arc::clone(self), id })
    }

    pub fn ahead(self: &Arc<Self>) -> Ahead {
        let stream = self.shared.lock().begin_stream();
        Ahead { depot: Arc::clone(self), stream }
    }

    /// Whether the shard is not here, but will be.
    pub fn is_awaited(&self, id: Id) -> bool {
        self.shared.lock().is_awaited(id)
    }

    /// Whether it is among those that are, or will be, here.
    pub fn is_wanted(&self, id: Id) -> bool {
        self.shared.lock().is_wanted(id)
    }

    /// Waits until the shard is here, or will not be.
    ///
    /// # Errors
    /// When it cannot be fetched, or `stop` is set before.
    pub fn arrive(&self, id: Id, stop: &AtomicBool) -> Result<(), RemoteError> {
        let mut state = self.shared.lock();
        while state.is_awaited(id) {
            if stop.load(Relaxed) || state.is_closed {
                return Err(RemoteError::Closed);
            }
            state = self.shared.wait(state);
        }
        match state.slot(id) {
            Some(Slot::Failed(error)) => Err(again(error)),
            _ => Ok(()),
        }
    }

    /// Where the shard's file is, if it is here.
    pub fn file(&self, id: Id) -> Option<PathBuf> {
        self.shared.lock().is_here(id).then(|| self.shared.thing(id).path.clone())
    }

    /// Reads from the shard where it lies, without fetching the rest of it, if its server knows how to.
    ///
    /// # Errors
    /// As every request.
    pub fn read(self: &Arc<Self>, id: Id, start: u64, into: &mut [u8], stop: &AtomicBool) -> Result<(), RemoteError> {
        let thing = self.shared.thing(id);
        let length = into.len() as u64;
        let patience = self.shared.patience.in_all;
        let into = &mut *into;
        let read = self.shared.ask_until(&thing.address, patience, stop, async |object: &Object| {
            object.read_exact(&thing.version, start, into).await
        });
        match read {
            Err(RemoteError::NoRanges) => {
                let lease = self.lease(id)?;
                let failed = |source| RemoteError::Disk { path: thing.path.clone(), source };
                lease.open()?.read_exact_at(into, start).map_err(failed)
            }
            Err(error) => Err(error),
            Ok(()) => {
                if let Some(meters) = &self.shared.meters {
                    meters.stage.bytes(length);
                }
                Ok(())
            }
        }
    }

    /// The shard's file is not where it was: another process made room.
    pub fn lost(&self, id: Id) {
        if fs::metadata(&self.shared.thing(id).path).is_err() {
            self.shared.lock().forget(id);
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Depot {
    fn drop(&mut self) {
        self.shared.closed.store(true, Relaxed);
        self.shared.lock().close();
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // What panicked there has nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Lease {
    /// # Errors
    /// When another process has taken it away.
    pub fn open(&self) -> Result<File, RemoteError> {
        let path = self.depot.shared.thing(self.id).path.clone();
        File::open(&path).map_err(|source| RemoteError::Disk { path, source })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.depot.shared.lock().end_holding(self.id);
        self.depot.shared.changed.notify_all();
    }
}

impl Ahead {
    /// Says which shards the stream reads from now on, the next one first.
    pub fn read_next(&self, ids: Vec<Id>) {
        self.depot.shared.lock().read_next(self.stream, ids);
        self.depot.shared.changed.notify_all();
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.depot.shared.lock().end_stream(self.stream);
        self.depot.shared.changed.notify_all();
    }
}

/// The same error for another who waits for the same.
fn again(error: &RemoteError) -> RemoteError {
    match error {
        RemoteError::Gone => RemoteError::Gone,
        RemoteError::Changed => RemoteError::Changed,
        RemoteError::Checksum => RemoteError::Checksum,
        RemoteError::OtherIndex => RemoteError::OtherIndex,
        RemoteError::Denied { why } => RemoteError::Denied { why: why.clone() },
        RemoteError::Refused { why } => RemoteError::Refused { why: why.clone() },
        RemoteError::Disk { path, source } => {
            RemoteError::Disk { path: path.clone(), source: io::Error::new(source.kind(), source.to_string()) }
        }
        other => RemoteError::Failed { why: other.to_string() },
    }
}

/// The files of a folder with their bytes, those first that were put there first.
fn files_in(folder: &Path) -> io::Result<VecDeque<(String, u64)>> {
    let mut files: Vec<(i64, String, u64)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // It may be gone already.
        let Some(metadata) = entry.metadata().ok().filter(Metadata::is_file) else { continue };
        // The time of its content is that of the shard, so that of its name is taken.
        files.push((metadata.ctime(), entry.file_name().to_string_lossy().into_owned(), metadata.len()));
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|(_, name, bytes)| (name, bytes)).collect())
}
