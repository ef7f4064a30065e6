//! What the threads of a depot share: what is known of the folder, connections to stores, and how long they are asked.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use super::address::{Address, Manner};
use super::client::{Client, Object, Version};
use super::state::{Evicted, State};
use super::{Id, Listed, Patience, RemoteError};
use crate::shard::sums;
use crate::telemetry::{Activity, Queue, Spell, StageMeter, Telemetry};

/// How often a thread that waits for something else looks whether it still should.
const GLANCE: Duration = Duration::from_millis(100);

/// What the depot's threads share.
pub struct Shared {
    pub folder: PathBuf,
    pub patience: Patience,
    pub state: Mutex<State>,
    pub changed: Condvar,
    pub things: RwLock<Vec<Arc<Thing>>>,
    pub by_url: Mutex<HashMap<String, Id>>,
    pub clients: Mutex<Vec<Client>>,
    /// By folder; a list is asked for once, by whoever comes first.
    pub sums: Mutex<HashMap<String, Arc<Mutex<Option<Known>>>>>,
    pub closed: AtomicBool,
    pub meters: Option<Meters>,
}

/// A list of checksums that was looked for, and not there if there is none.
pub type Known = Option<Arc<Listed>>;

pub struct Meters {
    pub stage: StageMeter,
    pub telemetry: Telemetry,
}

/// A remote shard that somebody asked for.
pub struct Thing {
    pub url: String,
    pub address: Address,
    pub version: Version,
    /// Its file, once it is here.
    pub path: PathBuf,
    pub samples: AtomicU64,
    /// The digest of its index where that was not made from the shard itself.
    pub expected: OnceLock<[u8; 32]>,
}

impl Shared {
    pub fn thing(&self, id: Id) -> Arc<Thing> {
        let things = self.things.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(things.get(id as usize).expect("numbers are given out by this depot"))
    }

    /// No panic happens while the lock is held, so a poisoned lock guards sound state.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait_timeout(state, GLANCE).unwrap_or_else(PoisonError::into_inner).0
    }

    /// A stage's worker begins.
    pub fn spell(&self) -> Option<Spell> {
        self.meters.as_ref().map(|meters| meters.stage.spell(Activity::Starved))
    }

    /// Waits for the next shard that is to be fetched; none when the depot goes.
    pub fn next(&self, spell: &mut Option<Spell>) -> Option<(Id, Arc<AtomicBool>)> {
        let mut state = self.lock();
        while !state.is_closed {
            let idle = if state.has_streams() { Activity::Blocked } else { Activity::Starved };
            let Some((id, stop, evicted)) = state.next() else {
                self.tell_fill(&state);
                turn(spell, idle);
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            turn(spell, Activity::Busy);
            // Before anybody can ask for them again.
            self.remove(&evicted);
            if !stop.load(Relaxed) {
                return Some((id, stop));
            }
        }
        None
    }

    fn remove(&self, evicted: &Evicted) {
        let of_objects = evicted.objects.iter().map(|id| self.thing(*id).path.clone());
        for path in evicted.strangers.iter().map(|name| self.folder.join(name)).chain(of_objects) {
            tracing::debug!(shard = %path.display(), "fetched shard removed");
            // Another process may have been faster.
            let _ = fs::remove_file(path);
        }
    }

    /// Notes how fetching ended.
    pub fn settle(&self, id: Id, outcome: Result<(), RemoteError>) {
        if let (Ok(()), Some(meters)) = (&outcome, &self.meters) {
            meters.stage.samples(self.thing(id).samples.load(Relaxed));
        }
        let mut state = self.lock();
        state.settle(id, outcome);
        self.tell_fill(&state);
        drop(state);
        self.changed.notify_all();
    }

    fn tell_fill(&self, state: &State) {
        if let Some(meters) = &self.meters {
            let (here, wanted) = state.fill();
            meters.telemetry.queue(Queue::Fetched, wanted).depth(here);
        }
    }

    pub fn came(&self, bytes: u64) {
        if let Some(meters) = &self.meters {
            meters.stage.bytes(bytes);
        }
    }

    /// Tells of a failure after which it is tried again.
    pub fn tell_retry(&self, url: &str, error: &RemoteError, pause: Duration) {
        tracing::warn!(shard = url, %error, seconds = pause.as_secs_f64(), "asked again after a pause");
        if let Some(meters) = &self.meters {
            meters.telemetry.fetch_retried(error.reason());
        }
    }

    /// A connection for this thread's use.
    pub fn client(&self) -> Result<Client, RemoteError> {
        let free = lock(&self.clients).pop();
        free.map_or_else(|| Client::new(Manner::reading()), Ok)
    }

    pub fn give_back(&self, client: Client) {
        lock(&self.clients).push(client);
    }

    pub fn small(&self, url: &str, most: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let address = Address::parse(url)?;
        self.ask(&address, self.patience.in_all, async |object: &Object| {
            Ok(object.small(most).await?.map(|(bytes, _)| bytes))
        })
    }

    pub fn sums(&self, folder: &str) -> Result<Known, RemoteError> {
        let place = Arc::clone(lock(&self.sums).entry(folder.to_owned()).or_default());
        let mut known = lock(&place);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let text = self.small(&format!("{folder}/{}", sums::SUMS), sums::MOST_BYTES)?;
        let listed = text.map(|text| sums::parse(&text)).transpose().map_err(|line| RemoteError::Sums { line })?;
        Ok(known.insert(listed.map(Arc::new)).clone())
    }

    pub fn ask<T>(
        &self,
        address: &Address,
        patience: Duration,
        question: impl AsyncFnMut(&Object) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        self.ask_until(address, patience, &self.closed, question)
    }

    /// Asks until there is an answer, or `patience` is over.
    pub fn ask_until<T>(
        &self,
        address: &Address,
        patience: Duration,
        stop: &AtomicBool,
        mut question: impl AsyncFnMut(&Object) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let mut client = self.client()?;
        let object = client.object(address, self.patience.stall.min(patience))?;
        let mut waiting = Waiting::new(&self.patience, patience);
        let answer = loop {
            match client.wait(stop, question(&object)) {
                Err(error) if error.passes() => {
                    let Some(pause) = waiting.pause() else { break Err(error) };
                    self.tell_retry(&address.to_string(), &error, pause);
                    if !pass(pause, stop) {
                        break Err(RemoteError::Closed);
                    }
                }
                answer => break answer,
            }
        };
        self.give_back(client);
        answer
    }
}

/// How long it was waited for bytes, and how long the next pause is.
pub struct Waiting<'p> {
    patience: &'p Patience,
    in_all: Duration,
    pause: Duration,
    since: Instant,
}

impl<'p> Waiting<'p> {
    pub fn new(patience: &'p Patience, in_all: Duration) -> Self {
        Self { patience, in_all, pause: patience.first_pause, since: Instant::now() }
    }

    /// Something came.
    pub fn came(&mut self) {
        (self.pause, self.since) = (self.patience.first_pause, Instant::now());
    }

    /// The pause before it is asked again; none when it has lasted too long.
    pub fn pause(&mut self) -> Option<Duration> {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.patience.longest_pause);
        (self.since.elapsed() + pause < self.in_all).then_some(pause)
    }
}

/// Lets time pass; false when `stop` was set meanwhile.
pub fn pass(pause: Duration, stop: &AtomicBool) -> bool {
    let end = Instant::now() + pause;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if stop.load(Relaxed) || left.is_zero() {
            return !stop.load(Relaxed);
        }
        thread::sleep(left.min(GLANCE));
    }
}

fn turn(spell: &mut Option<Spell>, activity: Activity) {
    if let Some(spell) = spell {
        spell.turn_to(activity);
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
