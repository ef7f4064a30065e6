//! `Job` → a filled place of a batch: one worker carries a sample from its bytes to its pixels and masks.
//!
//! What a place holds follows from the sample that was planned for it, also where another sample has replaced it; which
//! worker did it, and when, changes nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use async_channel::{Receiver, Sender, TryRecvError};

use super::augment::{Crop, Resampler, flip};
use super::batch::{Open, Pool, Quarantined, Slot, assemble};
use super::decode::{Decoder, Reason, Unusable, header};
use super::mask::SampleMasks;
use super::read::{Job, Stall};
use super::{Finished, Order, PipelineError, StreamSpec};
use crate::draws::{Draws, Purpose};
use crate::shard::ShardSet;
use crate::telemetry::{QueueMeter, StageMeter};

/// Samples that are tried in a bad one's place before its data set is given up.
const REPLACEMENTS: u64 = 100;

/// The meters of the pool's stages.
#[derive(Clone)]
pub(super) struct Meters {
    /// For what workers read themselves: samples in place of bad ones.
    pub read: StageMeter,
    pub decode: StageMeter,
    pub augment: StageMeter,
    pub mask: StageMeter,
    pub batch: StageMeter,
    pub read_queue: QueueMeter,
    pub batch_queue: QueueMeter,
}

/// What every worker holds.
#[derive(Clone)]
pub(super) struct Shared {
    pub set: Arc<ShardSet>,
    pub spec: Arc<StreamSpec>,
    pub pool: Arc<Pool>,
    pub stall: Arc<Stall>,
    pub jobs: Receiver<Job>,
    pub finished: Sender<Finished>,
    pub meters: Meters,
}

pub(super) struct Worker {
    shared: Shared,
    decoder: Decoder,
    resampler: Resampler,
}

/// A worker that panics would leave its batch unfinished for ever, so it closes the pipeline instead.
struct CloseOnPanic(Shared);

impl Drop for CloseOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.jobs.close();
            self.0.finished.close();
        }
    }
}

impl Worker {
    pub fn new(shared: Shared) -> Self {
        let decoder = Decoder::new(shared.spec.decode);
        Self { shared, decoder, resampler: Resampler::default() }
    }

    /// Works until there are no more jobs.
    pub fn run(mut self) {
        let _guard = CloseOnPanic(self.shared.clone());
        while let Some(job) = self.next() {
            if job.open.is_settled() {
                continue;
            }
            let (open, place) = (Arc::clone(&job.open), job.place);
            match self.slot(job) {
                Ok(slot) => self.fill(&open, place, slot),
                Err(error) => self.fail(&open, error),
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let Shared { jobs, stall, meters, .. } = &self.shared;
        let job = match jobs.try_recv() {
            Ok(job) => job,
            Err(TryRecvError::Closed) => return None,
            Err(TryRecvError::Empty) => {
                let (start, stalled) = (Instant::now(), stall.total());
                let job = jobs.recv_blocking().ok()?;
                let waited = start.elapsed();
                let blocked = stall.total().saturating_sub(stalled).min(waited);
                meters.batch.blocked(blocked);
                meters.decode.starved(waited - blocked);
                job
            }
        };
        meters.read_queue.depth(jobs.len());
        Some(job)
    }

    fn fill(&self, open: &Open, place: usize, slot: Slot) {
        let start = Instant::now();
        let Some(slots) = open.fill(place, slot) else { return };
        let Shared { spec, pool, finished, meters, .. } = &self.shared;
        let mode = spec.mask.as_ref().map(|(config, _)| config.mode);
        let batch = assemble(open, slots, mode, pool);
        meters.batch.samples(batch.samples.len() as u64);
        meters.batch.bytes(batch.pixels.len() as u64);
        // There is room for every batch that may be begun; a closed pipeline wants none.
        let _ = finished.try_send(Finished { step: open.step, batch: Ok(batch) });
        meters.batch_queue.depth(finished.len());
        meters.batch.busy(start.elapsed());
    }

    fn fail(&self, open: &Open, error: PipelineError) {
        if open.settle() {
            let _ = self.shared.finished.try_send(Finished { step: open.step, batch: Err(error) });
        }
    }

    fn slot(&mut self, mut job: Job) -> Result<Slot, PipelineError> {
        let first = self.view(&mut job);
        let mut slot = Slot { pixels: Default::default(), sample: None, masks: None, quarantined: Vec::new(), read: 1 };
        match first {
            Ok(()) => slot.sample = Some(self.labelled(job.sample)),
            Err(unusable) => {
                slot.quarantined.push(self.quarantine(&job, job.sample, unusable));
                if let Order::Shuffled { seed, .. } = self.shared.spec.order {
                    self.replace(seed, &mut job, &mut slot)?;
                }
            }
        }
        slot.masks = slot.sample.and_then(|_| self.masks(&job));
        slot.pixels = job.pixels;
        self.shared.pool.give_sample(job.bytes);
        Ok(slot)
    }

    /// Tries samples that the seed determines until one is good.
    fn replace(&mut self, seed: u64, job: &mut Job, slot: &mut Slot) -> Result<(), PipelineError> {
        let mut draws = Draws::new(seed, job.epoch, u64::from(job.sample), Purpose::Replacement);
        let mut tried = vec![job.sample];
        for _ in 0..REPLACEMENTS {
            let sample = draws.below(self.shared.set.len() as u64) as u32;
            if tried.contains(&sample) {
                continue;
            }
            tried.push(sample);
            let (step, start) = (job.open.step, Instant::now());
            self.shared.set.read(sample, &mut job.bytes).map_err(|source| PipelineError::Read { step, source })?;
            self.shared.meters.read.sample(start.elapsed(), job.bytes.len() as u64);
            slot.read += 1;
            match self.view(job) {
                Ok(()) => {
                    slot.sample = Some(self.labelled(sample));
                    let key = self.shared.set.sample(sample).key;
                    slot.quarantined.iter_mut().for_each(|bad| bad.replaced_by = key.to_owned());
                    return Ok(());
                }
                Err(unusable) => slot.quarantined.push(self.quarantine(job, sample, unusable)),
            }
        }
        let planned = self.shared.set.sample(job.sample);
        Err(PipelineError::NoReplacement {
            key: planned.key.to_owned(),
            shard: planned.shard.to_owned(),
            tries: tried.len() as u64 - 1,
            samples: std::mem::take(&mut slot.quarantined),
        })
    }

    fn labelled(&self, sample: u32) -> (u32, Option<u32>) {
        (sample, self.shared.set.sample(sample).label)
    }

    fn quarantine(&mut self, job: &Job, sample: u32, unusable: Unusable) -> Quarantined {
        let Unusable { reason, detail } = unusable;
        self.shared.meters.decode.skipped(reason.name());
        let sample = self.shared.set.sample(sample);
        Quarantined {
            step: job.open.step,
            key: sample.key.to_owned(),
            shard: sample.shard.to_owned(),
            offset: sample.offset,
            reason,
            detail,
            replaced_by: String::new(),
        }
    }

    /// Turns the job's bytes into its pixels; a decoder that panics has met a bad sample.
    fn view(&mut self, job: &mut Job) -> Result<(), Unusable> {
        catch_unwind(AssertUnwindSafe(|| self.try_view(job))).unwrap_or_else(|cause| {
            self.decoder = Decoder::new(self.shared.spec.decode);
            self.resampler = Resampler::default();
            let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let detail = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Unusable { reason: Reason::Panicked, detail })
        })
    }

    fn try_view(&mut self, job: &mut Job) -> Result<(), Unusable> {
        let Shared { spec, meters, .. } = &self.shared;
        let length = job.bytes.len() as u64;
        let start = Instant::now();
        let region = header(&job.bytes).and_then(|header| {
            let crop = match spec.order {
                Order::InOrder { .. } => Crop::centre(header.width, header.height),
                Order::Shuffled { seed, .. } => {
                    let mut draws = Draws::new(seed, job.epoch, u64::from(job.sample), Purpose::Crop);
                    Crop::draw(&spec.augment, header.width, header.height, &mut draws)
                }
            };
            self.decoder.decode(&mut job.bytes, &header, crop, spec.augment.size)
        });
        let decoded = Instant::now();
        let region = region.inspect_err(|_| meters.decode.busy(decoded - start))?;
        meters.decode.sample(decoded - start, length);

        let size = spec.augment.size;
        self.resampler.resample(&region, size, &mut job.pixels)?;
        if let Order::Shuffled { seed, .. } = spec.order {
            let mut draws = Draws::new(seed, job.epoch, u64::from(job.sample), Purpose::Flip);
            if spec.augment.flip && draws.below(2) == 1 {
                flip(&mut job.pixels, size);
            }
        }
        meters.augment.sample(decoded.elapsed(), job.pixels.len() as u64);
        Ok(())
    }

    fn masks(&self, job: &Job) -> Option<SampleMasks> {
        let Shared { spec, meters, .. } = &self.shared;
        let (config, grid) = spec.mask.as_ref()?;
        let start = Instant::now();
        let mut draws = Draws::new(spec.order.seed(), job.epoch, u64::from(job.sample), Purpose::Masks);
        let masks = match &job.open.sizes {
            Some(sizes) => config.draw(*grid, sizes, &mut draws),
            None => {
                let sizes = config.sizes(*grid, &mut draws);
                config.draw(*grid, &sizes, &mut draws)
            }
        };
        meters.mask.sample(start.elapsed(), 0);
        Some(masks)
    }
}
