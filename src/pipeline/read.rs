//! Positions of the stream → `Job`: a sample's bytes, and the place in a batch that its pixels go to.
//!
//! Tasks take groups of coming samples in order and read each group in one go; no group is read for a batch that has no
//! room yet, which is what bounds the memory of the whole pipeline. Pixels that need neither waiting nor decoding are
//! left where they are ([`Source`]), and tasks do no more than to look whether that is so. A sample's bytes come from
//! the pool and go back to it, and a group is handed to a blocking thread with one allocation, so none is made per
//! sample.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use async_channel::Sender;
use bytes::BytesMut;
use tokio::sync::{OwnedMutexGuard, Semaphore};

use super::batch::{Open, Pool};
use super::mask::Sizes;
use super::outlook::Outlook;
use super::queue::OrderedQueue;
use super::source::{Held, Source};
use super::spec::Probe;
use super::{Finished, OnLostShard, Order, PipelineError, StreamConfig, StreamSpec};
use crate::draws::{Draws, Purpose};
use crate::shard::{EpochOrder, ShardSet};
use crate::telemetry::{Activity, Spell, Stage, StageMeter};

/// Draws that belong to a step are keyed on this in an epoch's place, so that no sample shares their generator.
const NO_EPOCH: u64 = u64::MAX;

/// A sample on its way to its place in a batch.
pub(super) struct Job {
    pub open: Arc<Open>,
    /// Place in the batch.
    pub place: usize,
    pub epoch: u64,
    pub sample: u32,
    pub source: Source,
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
    outlook: Option<Outlook>,
    /// Samples that are read in one go.
    group: usize,
    /// Positions by which reading may be behind.
    lag: u64,
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
    pub fn new(
        set: Arc<ShardSet>,
        spec: Arc<StreamSpec>,
        pool: Arc<Pool>,
        steps: Range<u64>,
        config: &StreamConfig,
    ) -> Self {
        let outlook = Outlook::new(&set, spec.order, spec.position(steps.end, 0));
        let group = config.group(spec.batch);
        let lag = (config.reads * group) as u64;
        Self { set, spec, pool, steps, epoch: None, filling: None, outlook, group, lag }
    }

    fn is_done(&self) -> bool {
        self.filling.is_none() && self.steps.is_empty()
    }

    fn needs_room(&self) -> bool {
        self.filling.is_none()
    }

    /// Puts the next samples, all of one batch, into `group`; their bytes are still to be read.
    fn group(&mut self, group: &mut Vec<Job>) {
        group.clear();
        let Some(mut filling) = self.filling.take().or_else(|| self.begin()) else { return };
        let position = self.spec.position(filling.open.step, filling.place);
        if let Some(outlook) = &mut self.outlook {
            outlook.look(&self.set, position.saturating_sub(self.lag));
        }
        let end = filling.count.min(filling.place + self.group);
        let places = std::mem::replace(&mut filling.place, end)..end;
        group.extend(places.map(|place| self.job(&mut filling, place)));
        if filling.place < filling.count {
            self.filling = Some(filling);
        }
    }

    fn begin(&mut self) -> Option<Filling> {
        let step = self.steps.next()?;
        let count = self.spec.samples_of(step, self.set.len());
        let (epoch, _) = self.sample_at(step, 0);
        let pixels = self.pool.take_batch(count * self.spec.sample_bytes());
        let open = Arc::new(Open::new(step, epoch, self.shared_sizes(step), self.pool.take_slots(count)));
        Some(Filling { open, place: 0, count, pixels })
    }

    fn job(&mut self, filling: &mut Filling, place: usize) -> Job {
        let (epoch, sample) = self.sample_at(filling.open.step, place);
        let pixels = filling.pixels.split_to(self.spec.sample_bytes());
        Job { open: Arc::clone(&filling.open), place, epoch, sample, source: Source::Read(Vec::new()), pixels }
    }

    /// Epoch and sample at a place of a step's batch.
    fn sample_at(&mut self, step: u64, place: usize) -> (u64, u32) {
        let position = self.spec.position(step, place);
        let len = self.set.len() as u64;
        match self.spec.order {
            Order::InOrder { every } => (0, (position * every as u64) as u32),
            Order::Viewed { every, views, .. } => {
                let (sample, view) = (position / views as u64, position % views as u64);
                (view, (sample * every as u64) as u32)
            }
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
        config.shared_sizes(*grid, &mut draws)
    }
}

/// What the read tasks share; the stream's jobs end with it.
pub(super) struct Reader {
    pub set: Arc<ShardSet>,
    pub spec: Arc<StreamSpec>,
    pub pool: Arc<Pool>,
    pub planner: Arc<tokio::sync::Mutex<Planner>>,
    /// One per batch that may be begun.
    pub room: Arc<Semaphore>,
    pub jobs: Arc<OrderedQueue<Job>>,
    pub finished: Sender<Finished>,
    pub meter: StageMeter,
    pub probe: Probe,
    /// The pipeline has ended: nothing is worth waiting for any more.
    pub stop: Arc<AtomicBool>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.jobs.end();
    }
}

impl Reader {
    /// Reads until the stream or the pipeline ends.
    pub async fn run(self: Arc<Self>) {
        let (mut group, mut spell) = (Vec::new(), self.meter.spell(Activity::Blocked));
        while let Some(planner) = self.turn().await {
            spell.turn_to(Activity::Busy);
            let reader = Arc::clone(&self);
            // The group's memory and the spell come back, so that the next group needs none of its own.
            let read = tokio::task::spawn_blocking(move || {
                reader.read(planner, &mut group, &mut spell);
                (group, spell)
            });
            let Ok(back) = read.await else {
                // The runtime is going down, or reading panicked: without this the consumer would wait for ever.
                self.jobs.close();
                self.finished.close();
                return;
            };
            (group, spell) = back;
            spell.turn_to(Activity::Blocked);
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
                    self.jobs.wants_room();
                    self.room.acquire().await.ok()?
                }
            };
            // The consumer's side adds it again when it hands the batch out.
            room.forget();
        }
        self.jobs.begin_reading();
        Some(planner)
    }

    /// Each sample goes to the workers as soon as it is there. They never wait for anything but jobs, so there will be
    /// room for it.
    fn read(&self, mut planner: OwnedMutexGuard<Planner>, group: &mut Vec<Job>, spell: &mut Spell) {
        planner.group(group);
        drop(planner);
        for mut job in group.drain(..) {
            if !self.fetch(&mut job, spell) {
                break;
            }
            let position = self.spec.position(job.open.step, job.place);
            if !self.jobs.put(position, job, spell) {
                break;
            }
        }
        self.jobs.end_reading();
    }

    /// Reads a sample's bytes; false when its shard is lost and that ends the stream.
    fn fetch(&self, job: &mut Job, spell: &mut Spell) -> bool {
        if self.set.is_awaited(job.sample) {
            spell.turn_to(Activity::Starved);
            self.set.await_shard(job.sample, &self.stop);
            spell.turn_to(Activity::Busy);
        }
        let start = Instant::now();
        self.probe.at(Stage::Read, job.sample);
        if let Some(held) = Held::find(&self.set, job.sample) {
            job.source = Source::Held(held);
            return true;
        }
        let mut bytes = self.pool.take_sample(self.set.sample(job.sample).length);
        match (self.set.read_until(job.sample, &mut bytes, &self.stop), self.spec.on_lost_shard) {
            (Ok(()), _) => {
                self.meter.finished(start.elapsed(), bytes.len() as u64);
                job.source = Source::Read(bytes);
            }
            (Err(lost), OnLostShard::Skip) => {
                self.pool.give_sample(bytes);
                job.source = Source::Lost(lost);
            }
            (Err(source), OnLostShard::Stop) => {
                let step = job.open.step;
                if job.open.settle() {
                    let _ = self.finished.try_send(Finished { step, batch: Err(PipelineError::Read { step, source }) });
                }
                return false;
            }
        }
        true
    }
}
