//! Positions of the stream → `Job`: a sample's bytes, and the place in a batch that its pixels go to.
//!
//! Tasks take groups of coming samples in order and read each group in one go; no group is read for a batch that has no
//! room yet, which is what bounds the memory of the whole pipeline.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Sender;
use bytes::BytesMut;
use tokio::sync::{OwnedMutexGuard, Semaphore};

use super::batch::{Open, Pool};
use super::mask::{MaskMode, Sizes};
use super::{Finished, Order, PipelineError, StreamSpec};
use crate::draws::{Draws, Purpose};
use crate::shard::{EpochOrder, ShardSet};
use crate::telemetry::{QueueMeter, StageMeter};

/// Samples that are read in one go. Handing work to a blocking thread costs about 15 µs, a sixtieth of that is less
/// than a thousandth of what it takes to decode a sample.
pub(super) const GROUP: usize = 16;

/// Draws that belong to a step are keyed on this in an epoch's place, so that no sample shares their generator.
const NO_EPOCH: u64 = u64::MAX;

/// A sample on its way to its place in a batch.
pub(super) struct Job {
    pub open: Arc<Open>,
    /// Place in the batch.
    pub place: usize,
    pub epoch: u64,
    pub sample: u32,
    pub bytes: Vec<u8>,
    pub pixels: BytesMut,
}

/// Walks the stream: which sample is at which place of which batch.
pub(super) struct Planner {
    set: Arc<ShardSet>,
    spec: Arc<StreamSpec>,
    pool: Arc<Pool>,
    steps: Range<u64>,
    epoch: Option<(u64, EpochOrder)>,
    filling: Option<Filling>,
}

/// The batch that the next samples belong to.
struct Filling {
    open: Arc<Open>,
    place: usize,
    count: usize,
    /// What is not split off yet of the batch's memory.
    pixels: BytesMut,
}

impl Planner {
    pub fn new(set: Arc<ShardSet>, spec: Arc<StreamSpec>, pool: Arc<Pool>, steps: Range<u64>) -> Self {
        Self { set, spec, pool, steps, epoch: None, filling: None }
    }

    fn is_done(&self) -> bool {
        self.filling.is_none() && self.steps.is_empty()
    }

    fn needs_room(&self) -> bool {
        self.filling.is_none()
    }

    /// The next samples, all of one batch; their bytes are still to be read.
    fn group(&mut self) -> Vec<Job> {
        let Some(mut filling) = self.filling.take().or_else(|| self.begin()) else {
            return Vec::new();
        };
        let end = filling.count.min(filling.place + GROUP);
        let places = std::mem::replace(&mut filling.place, end)..end;
        let jobs = places.map(|place| self.job(&mut filling, place)).collect();
        if filling.place < filling.count {
            self.filling = Some(filling);
        }
        jobs
    }

    fn begin(&mut self) -> Option<Filling> {
        let step = self.steps.next()?;
        let count = self.spec.samples_of(step, self.set.len());
        let (epoch, _) = self.position(step, 0);
        let pixels = self.pool.take_batch(count * self.spec.augment.view_bytes());
        let open = Arc::new(Open::new(step, epoch, self.shared_sizes(step), count));
        Some(Filling { open, place: 0, count, pixels })
    }

    fn job(&mut self, filling: &mut Filling, place: usize) -> Job {
        let (epoch, sample) = self.position(filling.open.step, place);
        let pixels = filling.pixels.split_to(self.spec.augment.view_bytes());
        let bytes = self.pool.take_sample();
        Job { open: Arc::clone(&filling.open), place, epoch, sample, bytes, pixels }
    }

    /// Epoch and sample at a place of a step's batch.
    fn position(&mut self, step: u64, place: usize) -> (u64, u32) {
        let position = step * self.spec.batch as u64 + place as u64;
        let len = self.set.len() as u64;
        match self.spec.order {
            Order::InOrder { every } => (0, (position * every as u64) as u32),
            Order::Shuffled { seed, window } => {
                let (epoch, place) = (position / len, (position % len) as usize);
                if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
                    self.epoch = Some((epoch, EpochOrder::new(&self.set, seed, epoch, window)));
                }
                (epoch, self.epoch.as_ref().map_or(0, |(_, order)| order.sample(place)))
            }
        }
    }

    fn shared_sizes(&self, step: u64) -> Option<Sizes> {
        let (config, grid) = self.spec.mask.as_ref()?;
        let mut draws = Draws::new(self.spec.order.seed(), NO_EPOCH, step, Purpose::Masks);
        (config.mode == MaskMode::SharedSize).then(|| config.sizes(*grid, &mut draws))
    }
}

/// How long reading has waited for room in a batch, so that workers can tell that from waiting for a disk.
#[derive(Default)]
pub(super) struct Stall(Mutex<(Duration, Option<Instant>)>);

impl Stall {
    pub fn total(&self) -> Duration {
        let (total, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        total + since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(Instant::now());
    }

    fn end(&self) {
        let mut stall = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = stall.1.take();
        stall.0 += since.map_or(Duration::ZERO, |since| since.elapsed());
    }
}

/// What the read tasks share.
#[derive(Clone)]
pub(super) struct Reader {
    pub set: Arc<ShardSet>,
    pub planner: Arc<tokio::sync::Mutex<Planner>>,
    /// One per batch that may be begun.
    pub room: Arc<Semaphore>,
    pub stall: Arc<Stall>,
    pub jobs: Sender<Job>,
    pub finished: Sender<Finished>,
    pub meter: StageMeter,
    pub queue: QueueMeter,
}

impl Reader {
    /// Reads until the stream or the pipeline ends.
    pub async fn run(self) {
        loop {
            let start = Instant::now();
            let Some(planner) = self.turn().await else { return };
            self.meter.blocked(start.elapsed());
            let reader = self.clone();
            let Ok(jobs) = tokio::task::spawn_blocking(move || reader.read(planner)).await else {
                // The runtime is going down, or reading panicked: without this the consumer would wait for ever.
                self.jobs.close();
                self.finished.close();
                return;
            };
            let start = Instant::now();
            for job in jobs {
                if self.jobs.send(job).await.is_err() {
                    return;
                }
                self.queue.depth(self.jobs.len());
            }
            self.meter.blocked(start.elapsed());
        }
    }

    /// Waits until it is this task's turn and there is room for what comes next.
    async fn turn(&self) -> Option<OwnedMutexGuard<Planner>> {
        let planner = Arc::clone(&self.planner).lock_owned().await;
        if planner.is_done() {
            return None;
        }
        if planner.needs_room() {
            let room = match self.room.try_acquire() {
                Ok(room) => room,
                Err(_) => {
                    self.stall.begin();
                    let room = self.room.acquire().await;
                    self.stall.end();
                    room.ok()?
                }
            };
            // The consumer's side adds it again when it hands the batch out.
            room.forget();
        }
        Some(planner)
    }

    fn read(&self, mut planner: OwnedMutexGuard<Planner>) -> Vec<Job> {
        let start = Instant::now();
        let mut jobs = planner.group();
        drop(planner);
        self.meter.busy(start.elapsed());
        for job in &mut jobs {
            let start = Instant::now();
            if let Err(source) = self.set.read(job.sample, &mut job.bytes) {
                let step = job.open.step;
                if job.open.settle() {
                    let _ = self.finished.try_send(Finished { step, batch: Err(PipelineError::Read { step, source }) });
                }
                return Vec::new();
            }
            self.meter.sample(start.elapsed(), job.bytes.len() as u64);
        }
        jobs
    }
}
