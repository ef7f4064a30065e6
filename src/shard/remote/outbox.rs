//! Files of a folder here → objects in a folder of a store: one thread brings shards there while the next are written.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::address::{Address, Manner};
use super::client::{Client, Object};
use super::put::{MOST_ON_THEIR_WAY, Over};
use super::shared::{Waiting, pass};
use super::{Patience, RemoteError};
use crate::shard::cache::beside;

/// Shards that wait here, beside the one that is on its way: one more than keeps the line busy.
const MOST_WAITING: usize = 2;
/// The lists beside shards of the largest sets have a tenth of this.
const MOST_LIST_BYTES: u64 = 256 << 20;
/// A line slower than this is taken for one that is dead.
const LEAST_BYTES_PER_SECOND: u64 = 256 << 10;

/// A folder of a store that is written to.
pub struct Outbox {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// For questions, which need not wait for shards.
    link: Mutex<Link>,
}

struct Shared {
    /// Where files lie until they are sent.
    folder: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    closed: AtomicBool,
    /// The store has said something.
    was_answered: AtomicBool,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<String>,
    is_sending: bool,
    /// What those are that were sent, by name.
    sent: HashMap<String, String>,
    /// Said once; nothing is sent any more after it.
    failed: Option<(String, RemoteError)>,
    has_failed: bool,
}

/// A connection to the folder's store.
struct Link {
    client: Client,
    address: Address,
    patience: Patience,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.debug_tuple("Outbox").field(&self.url("")).finish()
    }
}

impl Outbox {
    /// # Errors
    /// When `url` is no address, when `folder` cannot be made, or a thread not be started.
    pub fn open(url: &str, folder: &Path, patience: Patience) -> Result<Self, RemoteError> {
        let address = Address::parse_folder(url.trim_end_matches('/'))?;
        let disk = |source| RemoteError::Disk { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(disk)?;
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
            closed: AtomicBool::new(false),
            was_answered: AtomicBool::new(false),
        });
        let link = |client| Link { client, address: address.clone(), patience };
        let asks = link(Client::new(Manner::reading())?);
        let (mut sends, with) = (link(Client::new(Manner::writing(&patience))?), Arc::clone(&shared));
        let thread = thread::Builder::new().name("saccade-send".into()).spawn(move || serve(&with, &mut sends));
        let thread = Mutex::new(Some(thread.map_err(disk)?));
        Ok(Self { shared, thread, link: Mutex::new(asks) })
    }

    /// The address of a file of the folder.
    pub fn url(&self, name: &str) -> String {
        let link = self.link();
        let slash = if link.address.path.as_ref().is_empty() { "" } else { "/" };
        format!("{}{slash}{name}", link.address)
    }

    /// What an object is; none where there is none.
    ///
    /// # Errors
    /// As every request.
    pub fn version(&self, name: &str) -> Result<Option<String>, RemoteError> {
        let asked = self.link().ask(&self.shared, name, 0, async |object| object.version().await);
        match asked {
            Ok(version) => Ok(Some(version.text())),
            Err(RemoteError::Gone) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings a shard of the folder to the store, with its index; waits while others wait already.
    ///
    /// # Errors
    /// When one that was given before could not be sent.
    pub fn send(&self, shard: &str) -> Result<(), (String, RemoteError)> {
        let mut state = self.shared.until(|state| state.waiting.len() < MOST_WAITING)?;
        state.waiting.push_back(shard.to_owned());
        self.shared.changed.notify_all();
        Ok(())
    }

    /// What a shard that was given became in the store, if it is there by now. It is said once.
    pub fn sent(&self, shard: &str) -> Option<String> {
        self.shared.lock().sent.remove(shard)
    }

    /// Waits until all that was given is in the store.
    ///
    /// # Errors
    /// When one of them could not be sent.
    pub fn finish(&self) -> Result<(), (String, RemoteError)> {
        self.shared.until(|state| state.waiting.is_empty() && !state.is_sending).map(drop)
    }

    /// The text of a list; none where there is none.
    ///
    /// # Errors
    /// As every request.
    pub fn text(&self, name: &str) -> Result<Option<String>, RemoteError> {
        Ok(self.read(name)?.map(|(text, _)| text))
    }

    fn read(&self, name: &str) -> Result<Option<(String, Over)>, RemoteError> {
        let found =
            self.link().ask(&self.shared, name, MOST_LIST_BYTES, async |object| object.small(MOST_LIST_BYTES).await)?;
        Ok(found.map(|(bytes, version)| (String::from_utf8_lossy(&bytes).into_owned(), Over::This(version))))
    }

    /// Puts into a list's place what `make` makes of its text, empty where there is none. Others may be doing the same.
    ///
    /// # Errors
    /// As every request.
    pub fn replace(&self, name: &str, make: impl Fn(&str) -> String) -> Result<(), RemoteError> {
        loop {
            let (before, over) = self.read(name)?.unwrap_or((String::new(), Over::Nothing));
            if self.put(name, make(&before), over)? {
                return Ok(());
            }
        }
    }

    /// Writes a list, whatever is there.
    ///
    /// # Errors
    /// As every request.
    pub fn write(&self, name: &str, text: String) -> Result<(), RemoteError> {
        self.put(name, text, Over::Anything).map(drop)
    }

    fn put(&self, name: &str, text: String, over: Over) -> Result<bool, RemoteError> {
        let bytes = text.into_bytes();
        self.link().ask(&self.shared, name, bytes.len() as u64, async |object| {
            object.put_small(bytes.clone(), over.clone()).await
        })
    }

    /// # Errors
    /// As every request; that there is no such object is none.
    pub fn remove(&self, name: &str) -> Result<(), RemoteError> {
        self.link().ask(&self.shared, name, 0, async |object| object.remove().await)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.closed.store(true, Relaxed);
        // Whoever waits looks at it once the lock is free.
        drop(self.shared.lock());
        self.shared.changed.notify_all();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        thread.map(JoinHandle::join);
        // Nothing that lies there is lost.
        let _ = fs::remove_dir(&self.shared.folder);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state is as wanted.
    fn until(&self, is_so: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>, (String, RemoteError)> {
        let mut state = self.lock();
        loop {
            if let Some(failed) = state.failed.take() {
                return Err(failed);
            }
            if state.has_failed || self.closed.load(Relaxed) {
                return Err((String::new(), RemoteError::Closed));
            }
            if is_so(&state) {
                return Ok(state);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next to be sent; none when nobody wants any more.
    fn next(&self) -> Option<String> {
        let mut state = self.lock();
        loop {
            if state.has_failed || self.closed.load(Relaxed) {
                return None;
            }
            if let Some(name) = state.waiting.pop_front() {
                state.is_sending = true;
                self.changed.notify_all();
                return Some(name);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tells whoever waits that the thread is gone, were it by a panic.
struct Gone<'s>(&'s Shared);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.lock().has_failed = true;
        self.0.changed.notify_all();
    }
}

/// The thread's life.
fn serve(shared: &Shared, link: &mut Link) {
    let _gone = Gone(shared);
    while let Some(name) = shared.next() {
        let outcome = link.send(shared, &name);
        let mut state = shared.lock();
        state.is_sending = false;
        match outcome {
            Ok(version) => drop(state.sent.insert(name, version)),
            Err(failed) => {
                state.waiting.clear();
                (state.failed, state.has_failed) = (Some(failed), true);
            }
        }
        shared.changed.notify_all();
    }
}

impl Link {
    /// Asks until there is an answer, or patience is over, which is sooner where there has never been one: the address
    /// may be wrong.
    fn ask<T>(
        &mut self,
        shared: &Shared,
        name: &str,
        bytes: u64,
        mut question: impl AsyncFnMut(&Object) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let Patience { stall, to_begin, in_all, .. } = self.patience;
        let slowest = stall + Duration::from_secs(bytes / LEAST_BYTES_PER_SECOND);
        let object = self.client.object_in(&self.address, name, slowest)?;
        let mut waiting = None;
        loop {
            match self.client.wait(&shared.closed, question(&object)) {
                Err(error) if error.passes() => {
                    let in_all = if shared.was_answered.load(Relaxed) { in_all } else { to_begin };
                    // From the first failure on: what goes well may take long.
                    let waiting = waiting.get_or_insert_with(|| Waiting::new(&self.patience, in_all));
                    let Some(pause) = waiting.pause() else { return Err(error) };
                    let seconds = pause.as_secs_f64();
                    tracing::warn!(url = self.address.to_string(), name, %error, seconds, "asked again after a pause");
                    if !pass(pause, &shared.closed) {
                        return Err(RemoteError::Closed);
                    }
                }
                answer => {
                    shared.was_answered.store(true, Relaxed);
                    return answer;
                }
            }
        }
    }

    /// What the shard became, or which file could not be sent.
    fn send(&mut self, shared: &Shared, name: &str) -> Result<String, (String, RemoteError)> {
        let shard = shared.folder.join(name);
        let version = self.send_file(shared, &shard, name).map_err(|error| (name.to_owned(), error))?;
        if let Some(index) = beside(&shard).filter(|index| index.exists()) {
            let name = format!("{name}.index");
            self.send_file(shared, &index, &name).map_err(|error| (name, error))?;
        }
        Ok(version)
    }

    fn send_file(&mut self, shared: &Shared, path: &Path, name: &str) -> Result<String, RemoteError> {
        let disk = |source| RemoteError::Disk { path: path.to_owned(), source };
        let file = File::open(path).map_err(disk)?;
        let size = file.metadata().map_err(disk)?.len();
        let in_parts = self.address.lists();
        let at_once = if in_parts { size.min(MOST_ON_THEIR_WAY) } else { size };
        let put = self.ask(shared, name, at_once, async |object| object.put(&file, size, in_parts).await);
        put.map(|version| version.text())
    }
}
