//! What is fetched, what is wanted next, and what goes when room is needed. No file and no server is touched here.
//!
//! Streams say in which order they will read shards. What is wanted is what can lie here at once, in that order: whoever
//! reads a wanted shard waits for it, all others are read from afar. So nothing waits for a shard that has no room.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Id, RemoteError};

/// Where an object's fetching stands.
#[derive(Clone, Debug)]
pub enum Slot {
    /// With a flag that tells the one who fetches it to stop.
    Fetching(Arc<AtomicBool>),
    Here,
    Failed(Arc<RemoteError>),
}

/// All that is known of one folder.
#[derive(Debug, Default)]
pub struct State {
    /// In bytes, by number.
    sizes: Vec<u64>,
    most: u64,
    slots: HashMap<Id, Slot>,
    /// What each stream reads from now on; the newest is the last.
    streams: Vec<(u64, Vec<Id>)>,
    /// Shards that somebody holds: there was room for all of them.
    held: Vec<Id>,
    /// Shards that somebody waits for, in the order of asking.
    asked: Vec<Id>,
    /// Files of the folder that nobody here has asked for, the oldest first, with their bytes.
    strangers: VecDeque<(String, u64)>,
    wanted: Vec<Id>,
    is_wanted: HashSet<Id>,
    pub is_closed: bool,
    next_stream: u64,
}

/// What must be done before an object can be fetched.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    pub strangers: Vec<String>,
    pub objects: Vec<Id>,
}

impl State {
    /// `most`: bytes for all files. `strangers`: what is there already, the oldest first.
    pub fn new(most: u64, strangers: VecDeque<(String, u64)>) -> Self {
        Self { most, strangers, ..Self::default() }
    }

    /// Numbers a shard whose file has such a name. What is there of it is not a stranger's any more.
    pub fn add(&mut self, size: u64, name: &str, is_here: bool) -> Id {
        let id = self.sizes.len() as Id;
        self.sizes.push(size);
        self.strangers.retain(|(stranger, _)| !stranger.starts_with(name));
        if is_here {
            self.slots.insert(id, Slot::Here);
        }
        id
    }

    pub fn size(&self, id: Id) -> u64 {
        self.sizes.get(id as usize).copied().unwrap_or(0)
    }

    pub fn most(&self) -> u64 {
        self.most
    }

    pub fn slot(&self, id: Id) -> Option<&Slot> {
        self.slots.get(&id)
    }

    pub fn is_here(&self, id: Id) -> bool {
        matches!(self.slots.get(&id), Some(Slot::Here))
    }

    pub fn is_wanted(&self, id: Id) -> bool {
        self.is_wanted.contains(&id)
    }

    /// Whether it will be here without being asked for again.
    pub fn is_awaited(&self, id: Id) -> bool {
        self.is_wanted.contains(&id) && !matches!(self.slots.get(&id), Some(Slot::Here | Slot::Failed(_)))
    }

    pub fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// How many of the wanted are here, and how many are wanted.
    pub fn fill(&self) -> (usize, usize) {
        (self.wanted.iter().filter(|id| self.is_here(**id)).count(), self.wanted.len())
    }

    pub fn begin_stream(&mut self) -> u64 {
        self.next_stream += 1;
        self.streams.push((self.next_stream, Vec::new()));
        self.next_stream
    }

    /// Says what a stream reads from now on.
    pub fn read_next(&mut self, stream: u64, ids: Vec<Id>) {
        if let Some((_, upcoming)) = self.streams.iter_mut().find(|(number, _)| *number == stream) {
            *upcoming = ids;
        }
        self.settle_wanted();
    }

    pub fn end_stream(&mut self, stream: u64) {
        self.streams.retain(|(number, _)| *number != stream);
        self.settle_wanted();
    }

    /// Asks for a shard to hold.
    pub fn ask(&mut self, id: Id) {
        self.asked.push(id);
        self.settle_wanted();
    }

    /// Holds a shard that was asked for, if it is here and will stay.
    pub fn hold(&mut self, id: Id) -> bool {
        let may_be_held = self.is_here(id) && self.is_wanted(id);
        if may_be_held {
            remove(&mut self.asked, id);
            self.held.push(id);
        }
        may_be_held
    }

    /// A shard that was asked for is not waited for any more.
    pub fn end_asking(&mut self, id: Id) {
        remove(&mut self.asked, id);
        self.settle_wanted();
    }

    pub fn end_holding(&mut self, id: Id) {
        remove(&mut self.held, id);
        self.settle_wanted();
    }

    /// As many as there is room for: what is held and asked for, then in turn the next of each stream.
    fn settle_wanted(&mut self) {
        self.wanted.clear();
        self.is_wanted.clear();
        let longest = self.streams.iter().map(|(_, ids)| ids.len()).max().unwrap_or(0);
        let streams = &self.streams;
        let in_turn =
            (0..longest).flat_map(|place| streams.iter().rev().filter_map(move |(_, ids)| ids.get(place).copied()));
        let mut room = self.most;
        for id in self.held.iter().chain(&self.asked).copied().chain(in_turn) {
            if self.is_wanted.contains(&id) {
                continue;
            }
            match room.checked_sub(self.sizes.get(id as usize).copied().unwrap_or(0)) {
                Some(left) => room = left,
                None => break,
            }
            self.is_wanted.insert(id);
            self.wanted.push(id);
        }
        let is_wanted = &self.is_wanted;
        self.slots.retain(|id, slot| {
            if let Slot::Fetching(stop) = slot {
                stop.store(!is_wanted.contains(id), Ordering::Relaxed);
            }
            // What could not be had is asked for again when somebody wants it again.
            is_wanted.contains(id) || !matches!(slot, Slot::Failed(_))
        });
    }

    /// The next to be fetched, if there is one and room for it; the slots of what goes for it are free already.
    pub fn next(&mut self) -> Option<(Id, Arc<AtomicBool>, Evicted)> {
        let id = self.wanted.iter().copied().find(|id| !self.slots.contains_key(id))?;
        let taken = self.slots.iter().filter(|(_, slot)| !matches!(slot, Slot::Failed(_)));
        let taken: u64 = taken.map(|(id, _)| self.size(*id)).sum();
        let strange: u64 = self.strangers.iter().map(|(_, size)| size).sum();
        let mut over = (taken + strange + self.size(id)).saturating_sub(self.most);
        let mut evicted = Evicted::default();
        while over > 0 {
            let Some((name, size)) = self.strangers.pop_front() else { break };
            over = over.saturating_sub(size);
            evicted.strangers.push(name);
        }
        if over > 0 {
            let mut idle: Vec<Id> =
                self.slots.keys().copied().filter(|id| self.is_here(*id) && !self.is_wanted.contains(id)).collect();
            idle.sort_unstable();
            for id in idle {
                if over == 0 {
                    break;
                }
                over = over.saturating_sub(self.size(id));
                self.slots.remove(&id);
                evicted.objects.push(id);
            }
        }
        if over > 0 {
            // Something that is not wanted any more is still being fetched; it ends soon. What went is gone.
            return (evicted != Evicted::default()).then(|| (id, Arc::new(AtomicBool::new(true)), evicted));
        }
        let stop = Arc::new(AtomicBool::new(false));
        self.slots.insert(id, Slot::Fetching(Arc::clone(&stop)));
        Some((id, stop, evicted))
    }

    /// Notes how fetching ended; an object that was given up may be fetched again.
    pub fn settle(&mut self, id: Id, outcome: Result<(), RemoteError>) {
        match outcome {
            Ok(()) => self.slots.insert(id, Slot::Here),
            Err(RemoteError::Closed) => self.slots.remove(&id),
            Err(error) => self.slots.insert(id, Slot::Failed(Arc::new(error))),
        };
    }

    /// Its file is gone.
    pub fn forget(&mut self, id: Id) {
        if self.is_here(id) {
            self.slots.remove(&id);
        }
    }

    /// Nobody fetches any more.
    pub fn close(&mut self) {
        self.is_closed = true;
        for slot in self.slots.values() {
            if let Slot::Fetching(stop) = slot {
                stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Takes away one of them.
fn remove(ids: &mut Vec<Id>, id: Id) {
    if let Some(place) = ids.iter().position(|one| *one == id) {
        ids.remove(place);
    }
}
