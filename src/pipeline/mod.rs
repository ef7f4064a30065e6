//! Shards to batches, on the CPU alone: in come a set of shards and the steps wanted, out come finished batches.
//!
//! The stream is a function of (set, seed, epoch, batch size): which sample is where, and every draw. Worker count,
//! queue sizes and timing change no byte of it, and any step can be the first.
//!
//! ```text
//! planner ─▶ read tasks ─▶ jobs ─▶ workers ─▶ finished ─▶ next(), in order
//!    ▲                   (bounded)            (bounded)      │
//!    └───────────────── room for a batch ◀───────────────────┘
//! ```
//!
//! Once as much as fits is in flight, no memory is taken per sample: buffers go round between a pool and their users.

pub mod augment;
mod batch;
pub mod decode;
pub mod exif;
pub mod jpeg;
pub mod mask;
pub mod ppm;
pub mod queue;
mod outlook;
mod read;
pub mod resample;
pub mod saccade;
pub mod shrink;
mod source;
mod spec;
pub mod warp;
mod work;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use async_channel::{Receiver, bounded};
use tokio::sync::{Mutex, Semaphore};

pub use self::augment::AugmentConfig;
pub use self::batch::{Batch, Counts, Digests, Indices, Masks, Pixels, Quarantined};
pub use self::decode::Reason;
pub use self::jpeg::{DecodeConfig, JpegDecoder};
pub use self::mask::{MaskConfig, MaskError, MaskMode};
pub use self::saccade::{SaccadeConfig, SaccadeError};
pub use self::spec::{MOST_TAKEN, OnLostShard, Order, Probe, StreamConfig, StreamSpec, bytes_in_flight};

use self::batch::Pool;
use self::queue::{OrderedQueue, QueueMeters};
use self::read::{Job, Planner, Reader};
use self::spec::usual_sample;
use self::work::{Meters, Shared, Worker};
use crate::shard::{ReadError, ShardSet};
use crate::telemetry::{Queue, QueueMeter, Stage, Telemetry};

/// Why the stream cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("{key} = {value}: {why}")]
    Setting { key: &'static str, value: String, why: &'static str },
    #[error(transparent)]
    Mask(#[from] MaskError),
    #[error(transparent)]
    Saccade(#[from] SaccadeError),
    #[error("worker thread {number}: cannot be started")]
    Thread { number: usize, source: io::Error },
    #[error("step {step}: a sample cannot be read")]
    Read { step: u64, source: ReadError },
    #[error("{}: sample `{key}` is bad, and so are the {tries} drawn in its place", shard.display())]
    NoReplacement { key: String, shard: PathBuf, tries: u64, samples: Vec<Quarantined> },
    #[error(
        "{quarantined} of {read} samples are bad, more than stream.max_bad_share = {most} allows; most of them in {}",
        shards_and_counts(worst)
    )]
    TooManyBad {
        quarantined: u64,
        read: u64,
        most: f64,
        /// The shards with the most bad samples since the pipeline was started, the worst first.
        worst: Vec<(PathBuf, u64)>,
        /// Those of the batch that is not handed out.
        samples: Vec<Quarantined>,
    },
    #[error("the data pipeline has stopped before its last batch; the log above this line says why")]
    Stopped,
}

fn shards_and_counts(shards: &[(PathBuf, u64)]) -> String {
    shards.iter().map(|(shard, bad)| format!("{} ({bad})", shard.display())).collect::<Vec<_>>().join(", ")
}

/// A batch, or why there is none, on its way to the consumer.
struct Finished {
    step: u64,
    batch: Result<Batch, PipelineError>,
}

/// A running stream of batches; dropping it ends its tasks and threads.
pub struct Pipeline {
    steps: Range<u64>,
    account: Account,
    room: Arc<Semaphore>,
    jobs: Arc<OrderedQueue<Job>>,
    /// Tells readers that wait for other machines that the pipeline has ended.
    stop: Arc<AtomicBool>,
    finished: Receiver<Finished>,
    /// Batches that came before their turn.
    early: BTreeMap<u64, Result<Batch, PipelineError>>,
    queue: QueueMeter,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts reading ahead for the batches of `steps`; `counts` are those before the first.
    ///
    /// # Errors
    /// When a setting is out of range, or a thread cannot be started.
    pub fn start(
        runtime: &tokio::runtime::Handle,
        set: Arc<ShardSet>,
        spec: StreamSpec,
        config: StreamConfig,
        steps: Range<u64>,
        counts: Counts,
        telemetry: &Telemetry,
    ) -> Result<Self, PipelineError> {
        spec.check(&steps)?;
        config.check()?;
        let steps = spec.steps_within(steps, set.len());
        let spec = Arc::new(spec);
        let pool = Arc::new(Pool::new(config.batches_in_use(), config.samples_in_flight(), usual_sample(&set)));
        let room = Arc::new(Semaphore::new(config.batches_ahead.min(Semaphore::MAX_PERMITS)));
        // One entry per batch that has room, so that a worker never waits to hand one over.
        let (finished_sender, finished) = bounded(config.batches_ahead);
        let meters = Meters {
            read: telemetry.stage(Stage::Read),
            decode: telemetry.stage(Stage::Decode),
            augment: telemetry.stage(Stage::Augment),
            mask: telemetry.stage(Stage::Mask),
            batch: telemetry.stage(Stage::Batch),
            batch_queue: telemetry.queue(Queue::Batches, config.batches_ahead),
        };
        let waiting = QueueMeters {
            depth: telemetry.queue(Queue::Read, config.jobs_ahead()),
            starved: meters.decode.clone(),
            blocked: meters.batch.clone(),
        };
        let jobs = Arc::new(OrderedQueue::new(config.jobs_ahead(), waiting));
        let stop = Arc::new(AtomicBool::new(false));
        let mut pipeline = Self {
            steps: steps.clone(),
            account: Account { counts, most: config.max_bad_share, bad: BTreeMap::new(), left_over: Vec::new() },
            room: Arc::clone(&room),
            jobs: Arc::clone(&jobs),
            stop: Arc::clone(&stop),
            finished,
            early: BTreeMap::new(),
            queue: meters.batch_queue.clone(),
            tasks: Vec::new(),
            workers: Vec::new(),
        };
        let planner = Planner::new(Arc::clone(&set), Arc::clone(&spec), Arc::clone(&pool), steps, &config);
        let reader = Arc::new(Reader {
            set: Arc::clone(&set),
            spec: Arc::clone(&spec),
            pool: Arc::clone(&pool),
            planner: Arc::new(Mutex::new(planner)),
            room,
            jobs: Arc::clone(&jobs),
            finished: finished_sender.clone(),
            meter: telemetry.stage(Stage::Read),
            probe: config.probe,
            stop: Arc::clone(&stop),
        });
        let shared = Shared { set, spec, pool, jobs, finished: finished_sender, meters, probe: config.probe, stop };
        for number in 0..config.workers {
            let worker = Worker::new(shared.clone());
            let thread = std::thread::Builder::new().name(format!("saccade-work-{number}"));
            let thread = thread.spawn(|| worker.run()).map_err(|source| PipelineError::Thread { number, source })?;
            pipeline.workers.push(thread);
        }
        pipeline.tasks.extend((0..config.reads).map(|_| runtime.spawn(Arc::clone(&reader).run())));
        Ok(pipeline)
    }

    /// Waits for the batch of the next step; `None` after the last one and after an error.
    ///
    /// # Errors
    /// When a shard cannot be read or too many samples are bad; always at the same step, and nothing comes after it.
    #[expect(clippy::should_implement_trait, reason = "an iterator would invite adaptors that hold many batches")]
    pub fn next(&mut self) -> Option<Result<Batch, PipelineError>> {
        while !self.steps.is_empty() {
            let batch = self.wait().and_then(|batch| self.account.admit(batch));
            match batch {
                Ok(None) => {}
                Ok(Some(batch)) => return Some(Ok(batch)),
                Err(error) => {
                    self.close();
                    return Some(Err(error));
                }
            }
        }
        None
    }

    fn wait(&mut self) -> Result<Batch, PipelineError> {
        let step = self.steps.start;
        let batch = loop {
            if let Some(batch) = self.early.remove(&step) {
                break batch;
            }
            let Ok(finished) = self.finished.recv_blocking() else {
                return Err(PipelineError::Stopped);
            };
            self.early.insert(finished.step, finished.batch);
        };
        self.steps.start += 1;
        self.room.add_permits(1);
        self.queue.depth(self.early.len() + self.finished.len());
        batch
    }

    fn close(&mut self) {
        self.steps.start = self.steps.end;
        self.stop.store(true, Relaxed);
        self.room.close();
        self.jobs.close();
        self.finished.close();
        self.early.clear();
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.close();
        for worker in self.workers.drain(..) {
            // A worker that panicked has closed the channels; there is nothing to add to that here.
            let _ = worker.join();
        }
    }
}

/// Keeps count of the samples in the order of the stream.
struct Account {
    counts: Counts,
    most: f64,
    bad: BTreeMap<PathBuf, u64>,
    /// From batches in which no sample was left.
    left_over: Vec<Quarantined>,
}

impl Account {
    /// Adds a batch to the counts; `None` when no sample is left in it.
    fn admit(&mut self, mut batch: Batch) -> Result<Option<Batch>, PipelineError> {
        /// Fewer samples say little about a share.
        const JUDGED_FROM: u64 = 100;
        self.counts.read = self.counts.read.saturating_add(batch.counts.read);
        self.counts.quarantined = self.counts.quarantined.saturating_add(batch.counts.quarantined);
        for sample in &batch.quarantined {
            *self.bad.entry(sample.shard.clone()).or_default() += 1;
        }
        let mut quarantined = std::mem::take(&mut self.left_over);
        quarantined.append(&mut batch.quarantined);
        let Counts { read, quarantined: bad } = self.counts;
        if read >= JUDGED_FROM && bad as f64 / read as f64 > self.most {
            let (most, worst, samples) = (self.most, self.worst(), quarantined);
            return Err(PipelineError::TooManyBad { quarantined: bad, read, most, worst, samples });
        }
        if batch.samples.is_empty() {
            self.left_over = quarantined;
            return Ok(None);
        }
        Ok(Some(Batch { counts: self.counts, quarantined, ..batch }))
    }

    fn worst(&self) -> Vec<(PathBuf, u64)> {
        /// As many as fit on a line.
        const NAMED: usize = 3;
        let mut shards: Vec<_> = self.bad.iter().map(|(shard, bad)| (shard.clone(), *bad)).collect();
        shards.sort_by_key(|(_, bad)| std::cmp::Reverse(*bad));
        shards.truncate(NAMED);
        shards
    }
}
