//! `Job` → a filled place of a batch: one worker carries a sample from its bytes to its pixels and masks.
//!
//! What a place holds follows from the sample that was planned for it, also where another sample has replaced it; which
//! worker did it, and when, changes nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use async_channel::Sender;

use super::augment::Crop;
use super::batch::{Open, Pool, Quarantined, Slot, assemble};
use super::decode::{Decoder, Reason, Region, Unusable, header};
use super::mask::MaskScratch;
use super::queue::OrderedQueue;
use super::read::Job;
use super::resample::Resampler;
use super::source::Source;
use super::spec::Probe;
use super::{Finished, OnLostShard, Order, PipelineError, StreamSpec};
use crate::draws::{Draws, Purpose};
use crate::shard::{ReadError, ShardSet};
use crate::telemetry::{QueueMeter, Stage, StageMeter};

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
    pub batch_queue: QueueMeter,
}

/// What every worker holds.
#[derive(Clone)]
pub(super) struct Shared {
    pub set: Arc<ShardSet>,
    pub spec: Arc<StreamSpec>,
    pub pool: Arc<Pool>,
    pub jobs: Arc<OrderedQueue<Job>>,
    pub finished: Sender<Finished>,
    pub meters: Meters,
    pub probe: Probe,
    pub stop: Arc<AtomicBool>,
}

pub(super) struct Worker {
    shared: Shared,
    decoder: Decoder,
    resampler: Resampler,
    /// What the two views of a sample are cut from.
    field: Vec<u8>,
    masks: MaskScratch,
    /// What is being filled; exchanged for a used one when it is full.
    slot: Slot,
    laps: Laps,
}

/// Each moment of a worker goes to one stage.
struct Laps {
    /// Up to when its time is counted.
    counted: Instant,
}

impl Laps {
    /// The time since it was counted last.
    fn next(&mut self) -> Duration {
        let now = Instant::now();
        now.saturating_duration_since(std::mem::replace(&mut self.counted, now))
    }
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
        let (decoder, resampler) = (Decoder::new(shared.spec.decode), resampler(&shared.spec));
        let (field, masks, slot) = Default::default();
        Self { shared, decoder, resampler, field, masks, slot, laps: Laps { counted: Instant::now() } }
    }

    /// Works until there are no more jobs.
    pub fn run(mut self) {
        let _guard = CloseOnPanic(self.shared.clone());
        let jobs = Arc::clone(&self.shared.jobs);
        while let Some((job, waited)) = jobs.take() {
            let handed_over = self.laps.next().saturating_sub(waited);
            self.shared.meters.decode.busy(handed_over);
            if job.open.is_settled() {
                continue;
            }
            let (open, place, sample) = (Arc::clone(&job.open), job.place, job.sample);
            match self.slot(job) {
                Ok(()) => self.fill(&open, place, sample),
                Err(error) => self.fail(&open, error),
            }
            let took = self.laps.next();
            self.shared.meters.batch.busy(took);
        }
    }

    fn fill(&mut self, open: &Open, place: usize, sample: u32) {
        let Some(slots) = open.fill(place, &mut self.slot) else { return };
        let Shared { spec, pool, finished, meters, probe, .. } = &self.shared;
        probe.at(Stage::Batch, sample);
        let mode = spec.mask.as_ref().map(|(config, _)| config.mode);
        let batch = assemble(open, slots, mode, pool);
        meters.batch.samples(batch.samples.len() as u64);
        meters.batch.bytes(batch.pixels.len() as u64);
        // There is room for every batch that may be begun; a closed pipeline wants none.
        let _ = finished.try_send(Finished { step: open.step, batch: Ok(batch) });
        meters.batch_queue.depth(finished.len());
    }

    fn fail(&self, open: &Open, error: PipelineError) {
        if open.settle() {
            let _ = self.shared.finished.try_send(Finished { step: open.step, batch: Err(error) });
        }
    }

    /// Fills the worker's slot.
    fn slot(&mut self, mut job: Job) -> Result<(), PipelineError> {
        self.slot.quarantined.clear();
        (self.slot.sample, self.slot.read) = (None, 1);
        let mut viewed = self.view(&mut job);
        if matches!(job.source, Source::Stale) {
            viewed = self.read(job.sample, &mut job)?.map_or_else(|| self.view(&mut job), Err);
        }
        match viewed {
            Ok(()) => self.slot.sample = Some(self.labelled(job.sample)),
            Err(unusable) => {
                self.quarantine(&job, job.sample, unusable);
                if let Order::Shuffled { seed, .. } = self.shared.spec.order {
                    self.replace(seed, &mut job)?;
                }
            }
        }
        if self.slot.sample.is_some() {
            self.masks(&job);
        }
        self.slot.pixels = job.pixels;
        if let Source::Read(bytes) = job.source {
            self.shared.pool.give_sample(bytes);
        }
        Ok(())
    }

    /// Tries samples that the seed determines until one is good.
    fn replace(&mut self, seed: u64, job: &mut Job) -> Result<(), PipelineError> {
        let mut draws = Draws::new(seed, job.epoch, u64::from(job.sample), Purpose::Replacement);
        let mut tried = vec![job.sample];
        for _ in 0..REPLACEMENTS {
            let sample = draws.below(self.shared.set.len() as u64) as u32;
            if tried.contains(&sample) {
                continue;
            }
            tried.push(sample);
            self.slot.read += 1;
            match self.read(sample, job)?.map_or_else(|| self.view(job), Err) {
                Ok(()) => {
                    self.slot.sample = Some(self.labelled(sample));
                    let key = self.shared.set.sample(sample).key;
                    self.slot.quarantined.iter_mut().for_each(|bad| bad.replaced_by = key.to_owned());
                    return Ok(());
                }
                Err(unusable) => self.quarantine(job, sample, unusable),
            }
        }
        let planned = self.shared.set.sample(job.sample);
        Err(PipelineError::NoReplacement {
            key: planned.key.to_owned(),
            shard: planned.shard.to_owned(),
            tries: tried.len() as u64 - 1,
            samples: std::mem::take(&mut self.slot.quarantined),
        })
    }

    /// Reads a sample into the job; what is wrong with it where its shard is lost and that ends nothing.
    fn read(&self, sample: u32, job: &mut Job) -> Result<Option<Unusable>, PipelineError> {
        let Shared { set, spec, pool, meters, stop, .. } = &self.shared;
        let mut bytes = match std::mem::replace(&mut job.source, Source::Read(Vec::new())) {
            Source::Read(bytes) => bytes,
            Source::Held(_) | Source::Stale | Source::Lost(_) => pool.take_sample(set.sample(sample).length),
        };
        let start = Instant::now();
        let read = set.read_until(sample, &mut bytes, stop);
        let length = bytes.len() as u64;
        job.source = Source::Read(bytes);
        match (read, spec.on_lost_shard) {
            (Ok(()), _) => {
                // The worker's time is counted in the pool's stages.
                meters.read.finished(start.elapsed(), length);
                Ok(None)
            }
            (Err(error), OnLostShard::Skip) => Ok(Some(lost(&error))),
            (Err(source), OnLostShard::Stop) => Err(PipelineError::Read { step: job.open.step, source }),
        }
    }

    fn labelled(&self, sample: u32) -> (u32, Option<u32>) {
        (sample, self.shared.set.sample(sample).label)
    }

    fn quarantine(&mut self, job: &Job, sample: u32, unusable: Unusable) {
        let Unusable { reason, detail } = unusable;
        let Meters { read, decode, .. } = &self.shared.meters;
        let meter = if reason == Reason::Lost { read } else { decode };
        meter.skipped(reason.name());
        let sample = self.shared.set.sample(sample);
        self.slot.quarantined.push(Quarantined {
            step: job.open.step,
            key: sample.key.to_owned(),
            shard: sample.shard.to_owned(),
            offset: sample.offset,
            reason,
            detail,
            replaced_by: String::new(),
        });
    }

    /// Turns the job's bytes into its pixels; a decoder that panics has met a bad sample.
    fn view(&mut self, job: &mut Job) -> Result<(), Unusable> {
        catch_unwind(AssertUnwindSafe(|| self.try_view(job))).unwrap_or_else(|cause| {
            self.decoder = Decoder::new(self.shared.spec.decode);
            self.resampler = resampler(&self.shared.spec);
            let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let detail = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Unusable { reason: Reason::Panicked, detail })
        })
    }

    fn try_view(&mut self, job: &mut Job) -> Result<(), Unusable> {
        let Self { shared, decoder, resampler, field, slot, laps, .. } = self;
        let Shared { spec, probe, meters, .. } = shared;
        let Job { epoch, sample, ref mut source, ref mut pixels, .. } = *job;
        probe.at(Stage::Decode, sample);
        let (region, length) = match source {
            Source::Read(bytes) => {
                let length = bytes.len() as u64;
                (region(spec, decoder, bytes, epoch, sample), length)
            }
            Source::Held(held) => {
                let [width, height] = held.size();
                let crop = crop(spec, width, height, epoch, sample);
                (Ok(held.region(crop)), held.bytes_of(crop))
            }
            Source::Stale => (Err(Unusable::damaged("not read again")), 0),
            Source::Lost(error) => (Err(lost(error)), 0),
        };
        let decoding = laps.next();
        let region = region.inspect_err(|_| meters.decode.busy(decoding))?;

        probe.at(Stage::Augment, sample);
        let size = spec.side();
        field.resize(spec.saccade.as_ref().map_or(0, |_| square_bytes(size)), 0);
        let whole = if spec.saccade.is_some() { &mut field[..] } else { &mut pixels[..] };
        let draws = |purpose| Draws::new(spec.order.seed(), epoch, u64::from(sample), purpose);
        let mirrored = spec.augment.flip && spec.order.drawn().is_some() && draws(Purpose::Flip).below(2) == 1;
        resampler.resample(&region, [size; 2], mirrored, whole).inspect_err(|_| meters.decode.busy(decoding))?;
        if let Source::Held(held) = source {
            if !held.is_intact() {
                // It is counted when it is read.
                meters.decode.busy(decoding);
                meters.augment.busy(laps.next());
                *source = Source::Stale;
                return Ok(());
            }
            // It is read where it is used.
            meters.read.finished(Duration::ZERO, length);
        }
        meters.decode.sample(decoding, length);
        slot.saccade = spec.saccade.as_ref().map(|saccade| {
            let views = saccade.draw(&mut draws(Purpose::Saccade));
            let (first, second) = pixels.split_at_mut(square_bytes(saccade.size));
            saccade.cut(field, &views.first, first);
            saccade.cut(field, &views.second, second);
            views.way()
        });
        meters.augment.sample(laps.next(), pixels.len() as u64);
        Ok(())
    }

    fn masks(&mut self, job: &Job) {
        let Shared { spec, probe, .. } = &self.shared;
        let Some((config, grid)) = &spec.mask else { return };
        probe.at(Stage::Mask, job.sample);
        let mut draws = Draws::new(spec.order.seed(), job.epoch, u64::from(job.sample), Purpose::Masks);
        config.draw(*grid, job.open.sizes.as_ref(), &mut draws, &mut self.masks, &mut self.slot.masks);
        let took = self.laps.next();
        self.shared.meters.mask.sample(took, 0);
    }
}

/// Where two views are cut from a field, the field is read again at once.
fn resampler(spec: &StreamSpec) -> Resampler {
    if spec.saccade.is_some() { Resampler::default() } else { Resampler::past_the_cache() }
}

fn square_bytes(side: u32) -> usize {
    side as usize * side as usize * 3
}

/// Decodes what the crop needs, which is drawn for the sample that was planned.
fn region<'p>(
    spec: &StreamSpec,
    decoder: &'p mut Decoder,
    bytes: &'p mut Vec<u8>,
    epoch: u64,
    sample: u32,
) -> Result<Region<'p>, Unusable> {
    let header = header(bytes)?;
    let crop = crop(spec, header.width, header.height, epoch, sample);
    decoder.decode(bytes, &header, crop, spec.side())
}

fn crop(spec: &StreamSpec, width: u32, height: u32, epoch: u64, sample: u32) -> Crop {
    match spec.order.drawn() {
        None => Crop::centre(width, height),
        Some(seed) => {
            let mut draws = Draws::new(seed, epoch, u64::from(sample), Purpose::Crop);
            Crop::draw(&spec.augment, width, height, &mut draws)
        }
    }
}

fn lost(error: &ReadError) -> Unusable {
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    Unusable { reason: Reason::Lost, detail: format!("{error}{cause}") }
}
