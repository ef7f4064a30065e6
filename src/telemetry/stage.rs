//! The stages and queues of the pipeline, and the meters their workers hold.
//!
//! Comes in: durations and counts from many threads at once. Goes out: totals. A meter is an atomic addition or two
//! per call, in a stripe that few threads share, and takes no lock, so that it may be used for every sample; a [`Spell`],
//! meant for what may last, takes one that only its own kind and readers of totals share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};

use super::catalogue;
use super::exporter::Exporter;
use super::histogram::{Histogram, HistogramTotals};
use super::stripe::{STRIPES, own_stripe};

/// One part of the pipeline's work, in the order in which data flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Fetch,
    Read,
    Decode,
    Augment,
    Mask,
    Batch,
    Upload,
    Train,
    Checkpoint,
    Eval,
}

impl Stage {
    pub const ALL: [Stage; 10] = [
        Stage::Fetch,
        Stage::Read,
        Stage::Decode,
        Stage::Augment,
        Stage::Mask,
        Stage::Batch,
        Stage::Upload,
        Stage::Train,
        Stage::Checkpoint,
        Stage::Eval,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Stage::Fetch => "fetch",
            Stage::Read => "read",
            Stage::Decode => "decode",
            Stage::Augment => "augment",
            Stage::Mask => "mask",
            Stage::Batch => "batch",
            Stage::Upload => "upload",
            Stage::Train => "train",
            Stage::Checkpoint => "checkpoint",
            Stage::Eval => "eval",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A bounded queue between two stages, named after what waits in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Shards of other machines: those that are wanted here, and those that are here.
    Fetched,
    Read,
    Batches,
    Uploaded,
}

impl Queue {
    pub const ALL: [Queue; 4] = [Queue::Fetched, Queue::Read, Queue::Batches, Queue::Uploaded];

    pub const fn name(self) -> &'static str {
        match self {
            Queue::Fetched => "fetched",
            Queue::Read => "read",
            Queue::Batches => "batches",
            Queue::Uploaded => "uploaded",
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What one of a stage's workers does at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    Busy,
    /// Waits for input.
    Starved,
    /// Waits for room in the next queue.
    Blocked,
}

impl Activity {
    const COUNT: usize = 3;
}

/// What a stage has done since the process started, summed over its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTotals {
    pub samples: u64,
    pub bytes: u64,
    pub skipped: u64,
    pub busy: Duration,
    /// Waiting for input.
    pub starved: Duration,
    /// Waiting for room in the next queue.
    pub blocked: Duration,
}

impl StageTotals {
    /// What has been added since `earlier`.
    pub fn since(&self, earlier: &StageTotals) -> StageTotals {
        StageTotals {
            samples: self.samples.saturating_sub(earlier.samples),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            skipped: self.skipped.saturating_sub(earlier.skipped),
            busy: self.busy.saturating_sub(earlier.busy),
            starved: self.starved.saturating_sub(earlier.starved),
            blocked: self.blocked.saturating_sub(earlier.blocked),
        }
    }

    /// All the time that the stage's workers have given account of.
    pub fn accounted(&self) -> Duration {
        self.busy.saturating_add(self.starved).saturating_add(self.blocked)
    }
}

#[derive(Default)]
pub(super) struct StageCells {
    stripes: [Stripe; STRIPES],
    under_way: Mutex<UnderWay>,
}

/// What some of the threads have counted. Alone on its cache lines (pairs of 64 bytes are fetched together), so that
/// threads do not slow each other down.
#[derive(Default)]
#[repr(align(128))]
struct Stripe {
    samples: AtomicU64,
    bytes: AtomicU64,
    skipped: AtomicU64,
    /// Nanoseconds by activity.
    spent: [AtomicU64; Activity::COUNT],
}

/// Time that is passing and is in no total yet.
#[derive(Default)]
struct UnderWay {
    /// By activity.
    workers: [u64; Activity::COUNT],
    /// Up to when their time is in the totals.
    since: Option<Instant>,
}

impl StageCells {
    fn own(&self) -> &Stripe {
        &self.stripes[own_stripe()]
    }

    fn add(&self, activity: Activity, time: Duration) {
        self.own().spent[activity as usize].fetch_add(nanoseconds(time), Relaxed);
    }

    fn sum(&self, count: impl Fn(&Stripe) -> &AtomicU64) -> u64 {
        self.stripes.iter().map(|stripe| count(stripe).load(Relaxed)).sum()
    }

    /// Adds what has passed until now to the totals, then lets `change` the workers that time passes for. The totals
    /// are taken while nobody else changes them, so that none of them ever falls.
    fn bring_up_to_date(&self, change: impl FnOnce(&mut [u64; Activity::COUNT])) -> [Duration; Activity::COUNT] {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let passed = under_way.since.replace(now).map_or(0, |since| nanoseconds(now.saturating_duration_since(since)));
        for (spent, workers) in self.own().spent.iter().zip(under_way.workers) {
            spent.fetch_add(passed.saturating_mul(workers), Relaxed);
        }
        change(&mut under_way.workers);
        std::array::from_fn(|activity| Duration::from_nanos(self.sum(|stripe| &stripe.spent[activity])))
    }

    fn go_over(&self, workers: u64, from: Option<Activity>, to: Option<Activity>) {
        self.bring_up_to_date(|counts| {
            if let Some(from) = from {
                counts[from as usize] = counts[from as usize].saturating_sub(workers);
            }
            if let Some(to) = to {
                counts[to as usize] += workers;
            }
        });
    }
}

/// What one worker does, from now until it does something else or the spell is dropped. It is in the totals as it
/// passes, not only when it is over.
pub struct Spell {
    cells: Arc<StageCells>,
    activity: Activity,
}

impl Spell {
    pub fn turn_to(&mut self, activity: Activity) {
        let before = std::mem::replace(&mut self.activity, activity);
        self.cells.go_over(1, Some(before), Some(activity));
    }
}

impl Drop for Spell {
    fn drop(&mut self) {
        self.cells.go_over(1, Some(self.activity), None);
    }
}

/// Counts the work of one stage; every worker of the stage holds a clone.
#[derive(Clone)]
pub struct StageMeter {
    stage: Stage,
    cells: Arc<StageCells>,
    sample_seconds: Arc<Histogram>,
    samples: Counter,
    bytes: Counter,
    exporter: Arc<Exporter>,
}

impl StageMeter {
    pub(super) fn new(stage: Stage, exporter: Arc<Exporter>) -> Self {
        let labels = [stage.name()];
        Self {
            stage,
            cells: Arc::default(),
            sample_seconds: Arc::new(Histogram::new(&catalogue::STAGE_SAMPLE_SECONDS)),
            samples: exporter.counter(&catalogue::STAGE_SAMPLES, &labels),
            bytes: exporter.counter(&catalogue::STAGE_BYTES, &labels),
            exporter,
        }
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Adds time spent working that belongs to no single sample.
    pub fn busy(&self, time: Duration) {
        self.cells.add(Activity::Busy, time);
    }

    /// Adds time spent waiting for input.
    pub fn starved(&self, time: Duration) {
        self.cells.add(Activity::Starved, time);
    }

    /// Adds time spent waiting for room in the next queue.
    pub fn blocked(&self, time: Duration) {
        self.cells.add(Activity::Blocked, time);
    }

    /// Begins a spell of a worker.
    pub fn spell(&self, activity: Activity) -> Spell {
        self.cells.go_over(1, None, Some(activity));
        Spell { cells: Arc::clone(&self.cells), activity }
    }

    /// Says what so many workers do from now on who did something else, or whose time was not counted here.
    pub fn go_over(&self, workers: u64, from: Option<Activity>, to: Option<Activity>) {
        self.cells.go_over(workers, from, to);
    }

    /// Counts one finished sample, its bytes and the time it took, which is added to the busy time too.
    pub fn sample(&self, took: Duration, bytes: u64) {
        self.busy(took);
        self.finished(took, bytes);
    }

    /// As [`Self::sample`], for a worker whose busy time is counted already.
    pub fn finished(&self, took: Duration, bytes: u64) {
        self.sample_seconds.observe(took);
        self.bytes(bytes);
        self.samples(1);
    }

    /// Counts finished samples whose time is not known one by one.
    pub fn samples(&self, count: u64) {
        self.cells.own().samples.fetch_add(count, Relaxed);
    }

    pub fn bytes(&self, count: u64) {
        self.cells.own().bytes.fetch_add(count, Relaxed);
    }

    /// Counts one quarantined sample. Takes a lock for a moment: not meant for every sample.
    ///
    /// `reason` becomes a label's value.
    pub fn skipped(&self, reason: &'static str) {
        self.cells.own().skipped.fetch_add(1, Relaxed);
        self.exporter.counter(&catalogue::STAGE_SKIPPED, &[self.stage.name(), reason]).increment(1);
    }

    pub fn totals(&self) -> StageTotals {
        let cells = &*self.cells;
        let [busy, starved, blocked] = cells.bring_up_to_date(|_| {});
        StageTotals {
            samples: cells.sum(|stripe| &stripe.samples),
            bytes: cells.sum(|stripe| &stripe.bytes),
            skipped: cells.sum(|stripe| &stripe.skipped),
            busy,
            starved,
            blocked,
        }
    }

    pub(super) fn sample_seconds(&self) -> HistogramTotals {
        self.sample_seconds.totals()
    }

    /// Hands the whole numbers to the exporter.
    pub(super) fn publish(&self) {
        let totals = self.totals();
        self.samples.absolute(totals.samples);
        self.bytes.absolute(totals.bytes);
    }
}

/// Watches how full one queue is.
#[derive(Clone)]
pub struct QueueMeter {
    depth: Gauge,
    capacity: Gauge,
}

impl QueueMeter {
    pub(super) fn new(queue: Queue, exporter: &Exporter) -> Self {
        let labels = [queue.name()];
        Self {
            depth: exporter.gauge(&catalogue::QUEUE_DEPTH, &labels),
            capacity: exporter.gauge(&catalogue::QUEUE_CAPACITY, &labels),
        }
    }

    /// Tells how many entries wait now.
    pub fn depth(&self, now: usize) {
        self.depth.set(now as f64);
    }

    pub(super) fn capacity(&self, entries: usize) {
        self.capacity.set(entries as f64);
    }
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
