//! Work of many threads → its results in order, with bounded bytes between them.
//!
//! Turns are begun in order and finished in any. A turn is begun only while there is room, and what is begun is always
//! finished, so that the turn that the taker waits for never waits itself.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a turn costs beside its bytes.
const TURN_BYTES: u64 = 1024;

/// Small samples make one turn together, up to so many bytes or samples: a turn costs some calls of the system.
pub const GROUP_BYTES: u64 = 1 << 20;
pub const GROUP_SAMPLES: usize = 256;

/// Results on their way to one taker.
pub struct Belt<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    most_bytes: u64,
}

struct State<T> {
    finished: BTreeMap<u64, (T, u64)>,
    begun: u64,
    taken: u64,
    /// Bytes of the turns begun and not yet taken.
    held: u64,
    closed: bool,
}

/// A turn that was begun; the belt closes when it is dropped unfinished, as by a panic.
pub struct Turn<'b, T> {
    belt: &'b Belt<T>,
    number: u64,
    bytes: u64,
    finished: bool,
}

impl<T> Belt<T> {
    /// A turn more may be begun while those on the belt have fewer than `most_bytes`.
    pub fn new(most_bytes: u64) -> Self {
        let state = State { finished: BTreeMap::new(), begun: 0, taken: 0, held: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), most_bytes }
    }

    /// Waits until there is room; `false` when the belt is closed.
    pub fn wait(&self) -> bool {
        let mut state = self.lock();
        while !state.closed && state.held >= self.most_bytes {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }

    /// Begins the next turn, which is expected to hold this many bytes.
    pub fn begin(&self, bytes: u64) -> Turn<'_, T> {
        let bytes = bytes.saturating_add(TURN_BYTES);
        let mut state = self.lock();
        let number = state.begun;
        state.begun += 1;
        state.held = state.held.saturating_add(bytes);
        Turn { belt: self, number, bytes, finished: false }
    }

    /// Waits for the next result in order; `None` when the belt was closed before.
    pub fn take(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            let next = state.taken;
            if let Some((result, bytes)) = state.finished.remove(&next) {
                state.taken += 1;
                state.held = state.held.saturating_sub(bytes);
                self.changed.notify_all();
                return Some(result);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing is begun any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// No panic happens while the lock is held, so a poisoned lock guards a sound state.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Turn<'_, T> {
    /// Says how many bytes it is expected to hold.
    pub fn expect(&mut self, bytes: u64) {
        let bytes = bytes.saturating_add(TURN_BYTES);
        let mut state = self.belt.lock();
        state.held = state.held.saturating_sub(self.bytes).saturating_add(bytes);
        self.bytes = bytes;
    }

    /// Lays the result, which holds this many bytes, onto the belt.
    pub fn finish(mut self, result: T, bytes: u64) {
        let bytes = bytes.saturating_add(TURN_BYTES);
        let mut state = self.belt.lock();
        state.held = state.held.saturating_sub(self.bytes).saturating_add(bytes);
        state.finished.insert(self.number, (result, bytes));
        drop(state);
        self.finished = true;
        self.belt.changed.notify_all();
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        if !self.finished {
            self.belt.close();
        }
    }
}
