//! Two things that should go on at once, and for how long one was waited for by the other.
//!
//! Comes in: when uploads and the trainer's waits begin and end, on threads of their own. Goes out: the time of uploads
//! that the trainer waited for, while it passes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What goes on, at most once at a time each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Upload,
    Wait,
}

/// The time in which both sides go on.
#[derive(Default)]
pub(super) struct Exposed(Mutex<State>);

#[derive(Default)]
struct State {
    /// Since when, by side.
    begun: [Option<Instant>; 2],
    total: Duration,
}

/// One side goes on, from now until this is dropped.
pub struct GoesOn {
    exposed: Arc<Exposed>,
    side: Side,
}

impl Exposed {
    pub fn begin(self: &Arc<Self>, side: Side) -> GoesOn {
        self.with(|state, now| state.begun[side as usize] = Some(now));
        GoesOn { exposed: Arc::clone(self), side }
    }

    pub fn total(&self) -> Duration {
        self.with(|state, _| state.total)
    }

    /// Brings the total up to date, then changes what goes on.
    fn with<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let [Some(upload), Some(wait)] = state.begun {
            state.total += now.saturating_duration_since(upload.max(wait));
            state.begun = [Some(now); 2];
        }
        change(&mut state, now)
    }
}

impl Drop for GoesOn {
    fn drop(&mut self) {
        self.exposed.with(|state, _| state.begun[self.side as usize] = None);
    }
}
