//! Values with a position in the stream → the same values, the earliest first, to whoever is free.
//!
//! Bounded. It allocates nothing after it is made and wakes nobody who does not wait, which the channels at hand do not
//! promise. Waiting is counted here while it lasts, because only the queue sees both sides: takers are blocked while
//! nothing can be read for want of room, and starved otherwise.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::telemetry::{Activity, QueueMeter, Spell, StageMeter};

/// Whose waiting, and how full, is counted where.
pub struct QueueMeters {
    pub depth: QueueMeter,
    /// Takers that wait for a value.
    pub starved: StageMeter,
    /// Takers that wait while nothing is put in because a later stage has no room.
    pub blocked: StageMeter,
}

/// A bounded queue that gives out the value of the lowest position; shared by reference.
pub struct OrderedQueue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    emptied: Condvar,
    capacity: usize,
    meters: QueueMeters,
}

struct State<T> {
    values: BinaryHeap<Reverse<Entry<T>>>,
    takers_waiting: u64,
    /// Those of them that are told already, but do not run yet.
    takers_told: u64,
    putters_waiting: usize,
    /// One of them is told already, but does not run yet.
    putter_told: bool,
    reading: usize,
    wants_room: bool,
    /// Nothing more is put in.
    ended: bool,
    /// Nothing more is wanted.
    closed: bool,
}

struct Entry<T> {
    position: u64,
    value: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.position == other.position
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.position.cmp(&other.position)
    }
}

impl<T> State<T> {
    /// Whether what takers wait for cannot come before a later stage has room.
    fn is_stalled(&self) -> bool {
        self.wants_room && self.reading == 0
    }
}

impl<T> OrderedQueue<T> {
    pub fn new(capacity: usize, meters: QueueMeters) -> Self {
        let state = State {
            values: BinaryHeap::with_capacity(capacity),
            takers_waiting: 0,
            takers_told: 0,
            putters_waiting: 0,
            putter_told: false,
            reading: 0,
            wants_room: false,
            ended: false,
            closed: false,
        };
        Self { state: Mutex::new(state), filled: Condvar::new(), emptied: Condvar::new(), capacity, meters }
    }

    /// Puts a value in, waiting for room, for which time `spell` turns to blocked; false when the queue is closed.
    pub fn put(&self, position: u64, value: T, spell: &mut Spell) -> bool {
        let mut state = self.lock();
        if state.values.len() >= self.capacity && !state.closed {
            spell.turn_to(Activity::Blocked);
            state.putters_waiting += 1;
            while state.values.len() >= self.capacity && !state.closed {
                state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.putter_told = false;
            }
            state.putters_waiting -= 1;
            spell.turn_to(Activity::Busy);
        }
        if state.closed {
            return false;
        }
        state.values.push(Reverse(Entry { position, value }));
        self.meters.depth.depth(state.values.len());
        // Telling somebody costs a call of the system, so nobody is told twice.
        if state.takers_waiting > state.takers_told {
            state.takers_told += 1;
            self.filled.notify_one();
        }
        true
    }

    /// Takes the earliest value, waiting for one, for the time that is given with it and counted already; none when
    /// the queue has ended and is empty, or is closed.
    pub fn take(&self) -> Option<(T, Duration)> {
        let (mut state, mut waited) = (self.lock(), Duration::ZERO);
        loop {
            if let Some(Reverse(Entry { value, .. })) = state.values.pop() {
                self.meters.depth.depth(state.values.len());
                // Woken for each place that is free, a putter would put in one value at a time. One that has many at hand
                // fills the queue alone; where all have few, the next value that is taken wakes the next.
                if state.putters_waiting > 0 && !state.putter_told && state.values.len() <= self.capacity / 2 {
                    state.putter_told = true;
                    self.emptied.notify_one();
                }
                return Some((value, waited));
            }
            if state.ended || state.closed {
                return None;
            }
            let start = Instant::now();
            state = self.wait(state);
            waited += start.elapsed();
        }
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        state.takers_waiting += 1;
        let (meter, activity) = self.why(state.is_stalled());
        meter.go_over(1, None, Some(activity));
        let mut state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.takers_waiting -= 1;
        state.takers_told = state.takers_told.saturating_sub(1);
        let (meter, activity) = self.why(state.is_stalled());
        meter.go_over(1, Some(activity), None);
        state
    }

    /// Says that a later stage has no room for what would be read next.
    pub fn wants_room(&self) {
        self.change(|state| state.wants_room = true);
    }

    /// Says that something is being read that will be put in.
    pub fn begin_reading(&self) {
        self.change(|state| {
            state.wants_room = false;
            state.reading += 1;
        });
    }

    pub fn end_reading(&self) {
        self.change(|state| state.reading = state.reading.saturating_sub(1));
    }

    /// Says that nothing more will be put in; what is in it is still given out.
    pub fn end(&self) {
        self.lock().ended = true;
        self.filled.notify_all();
    }

    /// Drops what is in it and lets everybody go.
    pub fn close(&self) {
        let dropped = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.values)
        };
        self.filled.notify_all();
        self.emptied.notify_all();
        // Values may be large, and their own ends need no lock.
        drop(dropped);
    }

    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = self.lock();
        let before = state.is_stalled();
        change(&mut state);
        let waiting = state.takers_waiting;
        if waiting > 0 && before != state.is_stalled() {
            let ((from, was), (to, is)) = (self.why(before), self.why(!before));
            from.go_over(waiting, Some(was), None);
            to.go_over(waiting, None, Some(is));
        }
    }

    fn why(&self, stalled: bool) -> (&StageMeter, Activity) {
        if stalled { (&self.meters.blocked, Activity::Blocked) } else { (&self.meters.starved, Activity::Starved) }
    }

    /// No panic happens while the lock is held, so a poisoned lock guards a sound state.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
