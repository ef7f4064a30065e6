//! Durations sorted into buckets.
//!
//! Comes in: durations from many threads at once. Goes out: counts per bucket and the sum. Written here because the
//! exporter's histogram keeps every observation until somebody scrapes, which grows without bound in a run that nobody
//! watches, and loses some while it moves them into buckets; this one is two numbers to touch and exact.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::catalogue::{Kind, Metric};
use super::stage::nanoseconds;
use super::stripe::{STRIPES, own_stripe};

pub(super) struct Histogram {
    bounds: &'static [f64],
    stripes: [Stripe; STRIPES],
}

/// What some of the threads have observed. Its sum, which each of them touches for every sample, is alone on its cache
/// lines.
#[repr(align(128))]
struct Stripe {
    /// One count for each bound and one for what lies above them all; not cumulative.
    counts: Box<[AtomicU64]>,
    sum_nanoseconds: AtomicU64,
}

/// What a histogram held at one moment.
pub(super) struct HistogramTotals {
    /// Each bucket's upper bound in seconds, and how many observations were not above it.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: Duration,
}

impl Histogram {
    /// A metric of another kind has no bounds, so that all observations lie above them.
    pub fn new(metric: &Metric) -> Self {
        let bounds = if let Kind::Histogram(bounds) = metric.kind { bounds } else { &[] };
        let stripe = |_| Stripe {
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_nanoseconds: AtomicU64::new(0),
        };
        Self { bounds, stripes: std::array::from_fn(stripe) }
    }

    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        let own = &self.stripes[own_stripe()];
        own.counts[bucket].fetch_add(1, Relaxed);
        own.sum_nanoseconds.fetch_add(nanoseconds(time), Relaxed);
    }

    pub fn totals(&self) -> HistogramTotals {
        let mut count = 0;
        let mut cumulative = (0..=self.bounds.len()).map(|bucket| {
            count += self.stripes.iter().map(|stripe| stripe.counts[bucket].load(Relaxed)).sum::<u64>();
            count
        });
        let buckets = self.bounds.iter().copied().zip(&mut cumulative).collect();
        // The iterator goes on where the zip has stopped: above all bounds.
        let all = cumulative.last().unwrap_or_default();
        let sum = self.stripes.iter().map(|stripe| stripe.sum_nanoseconds.load(Relaxed)).sum();
        HistogramTotals { buckets, count: all, sum: Duration::from_nanos(sum) }
    }
}
