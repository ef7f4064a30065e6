//! Which of several copies of a count a thread adds to: threads that add to the same one wait for each other's cache
//! lines, which made up half of all counting with two workers (`benches/handover.rs`).

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// More workers than this share stripes; each stage has a few hundred bytes of counts in every stripe.
pub(super) const STRIPES: usize = 16;

/// The same for the whole life of a thread.
pub(super) fn own_stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static OWN: usize = NEXT.fetch_add(1, Relaxed) % STRIPES);
    // A thread that ends may count a last time.
    OWN.try_with(|own| *own).unwrap_or(0)
}
