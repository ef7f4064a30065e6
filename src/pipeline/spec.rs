//! What a stream is, and what it takes: the first decides every byte, the second only how fast they come.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::PipelineError;
use super::augment::AugmentConfig;
use super::batch::SAMPLE_END;
use super::jpeg::{DecodeConfig, JpegDecoder};
use super::mask::MaskConfig;
use super::saccade::SaccadeConfig;
use crate::shard::ShardSet;
use crate::telemetry::Stage;

/// How much is done at once. Nothing here changes a batch.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Threads that decode.
    pub workers: usize,
    /// Batches that are made before they are asked for.
    pub batches_ahead: usize,
    /// Groups of samples that are read at once.
    pub reads: usize,
    /// Share of bad samples above which the stream ends, judged after the first hundred.
    pub max_bad_share: f64,
    /// For tests alone: no file can set it.
    #[doc(hidden)]
    #[serde(skip)]
    pub probe: Probe,
}

/// What a test does whenever a stage takes up a sample: it may note it, or take its time. Costs nothing when unset.
#[derive(Clone, Copy, Default)]
pub struct Probe(Option<&'static (dyn Fn(Stage, u32) + Sync)>);

impl Probe {
    pub fn new(probe: &'static (dyn Fn(Stage, u32) + Sync)) -> Self {
        Self(Some(probe))
    }

    /// At the stage that batches are put together, the sample is the batch's last.
    pub(super) fn at(self, stage: Stage, sample: u32) {
        if let Some(probe) = self.0 {
            probe(stage, sample);
        }
    }
}

/// A probe changes no batch, so that two configurations are the same with any.
impl PartialEq for Probe {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(if self.0.is_some() { "Probe(set)" } else { "Probe(unset)" })
    }
}

/// What happens when a shard is cut, changed, replaced, deleted or unreadable while it is streamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLostShard {
    /// The stream ends with an error that names the shard.
    #[default]
    Stop,
    /// Its samples are bad samples: quarantined as lost, replaced by others that the seed determines, and counted in
    /// the share of bad ones. While no shard is lost the stream is the same as with `Stop`; from then on it depends on
    /// how far reading had come, and no other run sees the same.
    Skip,
}

/// Which samples come, and in what order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Epoch after epoch; shards are shuffled, then samples within each window of shards.
    Shuffled { seed: u64, window: usize },
    /// One pass over every so many-th sample as listed, for scoring: the middle of each image, unflipped. Bad samples
    /// are left out; the last batch may be short.
    InOrder { every: usize },
    /// One pass over every so many-th sample as listed, so many views of each one after the other: those of the first
    /// epochs of a run with this seed. Bad samples are left out.
    Viewed { seed: u64, every: usize, views: usize },
}

impl Order {
    /// The seed of what is drawn for each view; none where nothing is.
    pub(super) fn drawn(self) -> Option<u64> {
        match self {
            Self::Shuffled { seed, .. } | Self::Viewed { seed, .. } => Some(seed),
            Self::InOrder { .. } => None,
        }
    }

    pub(super) fn seed(self) -> u64 {
        self.drawn().unwrap_or(0)
    }

    /// Places of the stream over a set of so many samples; none where it has no end.
    fn places(self, samples: usize) -> Option<u64> {
        match self {
            Self::Shuffled { .. } => None,
            Self::InOrder { every } => Some(samples.div_ceil(every) as u64),
            Self::Viewed { every, views, .. } => Some((samples.div_ceil(every) as u64).saturating_mul(views as u64)),
        }
    }
}

/// Everything but the data that decides what the batches hold.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamSpec {
    pub order: Order,
    /// Samples of a batch.
    pub batch: usize,
    pub decode: DecodeConfig,
    pub augment: AugmentConfig,
    /// Two views of each sample, in place of one.
    pub saccade: Option<SaccadeConfig>,
    /// With the patches a side of the grid.
    pub mask: Option<(MaskConfig, usize)>,
    pub on_lost_shard: OnLostShard,
}

/// Sizes beyond these are slips, and their products must not overflow.
const MOST_BATCH: usize = 1 << 20;

/// Batches that a consumer may have taken without giving their memory back: of one that uploads to a device that computes
/// in the same memory, those that wait there, the one that waits for room, and the one in use.
pub const MOST_TAKEN: usize = 4;
const MOST_SIZE: u32 = 1 << 14;
const MOST_GRID: usize = 1 << 10;
const MOST_WORKERS: usize = 1 << 12;

impl StreamSpec {
    /// # Errors
    /// When a value is out of range, or masks cannot be drawn.
    pub fn check(&self, steps: &Range<u64>) -> Result<(), PipelineError> {
        within("train.batch", self.batch, 1, MOST_BATCH)?;
        within("augment.size", self.augment.size as usize, 1, MOST_SIZE as usize)?;
        check_range("augment.crop_scale", self.augment.crop_scale, 1.0)?;
        check_range("augment.crop_ratio", self.augment.crop_ratio, f64::MAX)?;
        if self.decode.jpeg == JpegDecoder::Turbo && !JpegDecoder::HAS_TURBO {
            let why = "this build has no libjpeg-turbo: build with --features turbo, or choose own or zune";
            return Err(setting("decode.jpeg", "turbo", why));
        }
        if let Order::InOrder { every } | Order::Viewed { every, .. } = self.order {
            within("every", every, 1, u32::MAX as usize)?;
        }
        if let Order::Viewed { views, .. } = self.order {
            within("views", views, 1, MOST_BATCH)?;
        }
        // The last position of the stream must be a number too.
        let end = steps.end.checked_add(1).and_then(|end| end.checked_mul(self.batch as u64));
        if end.is_none() {
            return Err(setting("steps", steps.end, "too many for one stream"));
        }
        if let Some(saccade) = &self.saccade {
            saccade.check()?;
        }
        if let Some((mask, grid)) = &self.mask {
            within("grid", *grid, 1, MOST_GRID)?;
            mask.check(*grid)?;
        }
        Ok(())
    }

    /// Place in the stream of a place in a step's batch.
    pub(super) fn position(&self, step: u64, place: usize) -> u64 {
        step * self.batch as u64 + place as u64
    }

    /// Pixels a side of the square that a crop is resized to: a view, or the field that two are cut from.
    pub(super) fn side(&self) -> u32 {
        self.saccade.as_ref().map_or(self.augment.size, |saccade| saccade.field)
    }

    /// Bytes of the pixels of one sample.
    pub fn sample_bytes(&self) -> usize {
        self.augment.view_bytes().saturating_mul(if self.saccade.is_some() { 2 } else { 1 })
    }

    /// Those of `steps` that have samples.
    pub(super) fn steps_within(&self, steps: Range<u64>, samples: usize) -> Range<u64> {
        let end = self.order.places(samples).map_or(steps.end, |places| places.div_ceil(self.batch as u64));
        steps.start..steps.end.min(end).max(steps.start)
    }

    /// How many samples the batch of a step has.
    pub(super) fn samples_of(&self, step: u64, samples: usize) -> usize {
        let left = |places: u64| places.saturating_sub(step * self.batch as u64);
        self.order.places(samples).map_or(self.batch, |places| self.batch.min(left(places) as usize))
    }
}

impl StreamConfig {
    /// # Errors
    /// When a value is out of range.
    pub fn check(&self) -> Result<(), PipelineError> {
        within("stream.workers", self.workers, 1, MOST_WORKERS)?;
        within("stream.batches_ahead", self.batches_ahead, 1, MOST_BATCH)?;
        within("stream.reads", self.reads, 1, MOST_WORKERS)?;
        if !(0.0..=1.0).contains(&self.max_bad_share) {
            return Err(setting("stream.max_bad_share", self.max_bad_share, "must lie in 0..=1"));
        }
        Ok(())
    }

    /// Those that are made, and one that the consumer holds.
    pub(super) fn batches_in_flight(&self) -> usize {
        self.batches_ahead.saturating_add(1)
    }

    /// Those whose memory may be in use at once.
    pub(super) fn batches_in_use(&self) -> usize {
        self.batches_ahead.saturating_add(MOST_TAKEN)
    }

    /// Samples of a batch of so many that are read in one go. Handing work to a blocking thread costs about 15 µs and an
    /// allocation: a thirty-second of that is a hundredth of what it takes to make a view of a decoded sample, and a
    /// batch has no more than sixteen allocations of it, however large it is. Fewer than that where readers would
    /// otherwise be more than there are groups in the batches that may be begun.
    pub(super) fn group(&self, batch: usize) -> usize {
        const LEAST: usize = 32;
        const GROUPS: usize = 16;
        let for_all_readers = batch.saturating_mul(self.batches_ahead) / self.reads;
        batch.div_ceil(GROUPS).max(LEAST).min(for_all_readers.max(1))
    }

    /// Samples that are read and wait for a worker: enough that no worker waits while a group begins, and that a reader
    /// who was woken puts in so many that waking it costs little.
    pub(super) fn jobs_ahead(&self) -> usize {
        /// Samples in the queue per worker.
        const PER_WORKER: usize = 4;
        const LEAST: usize = 32;
        self.workers.saturating_mul(PER_WORKER).max(LEAST)
    }

    /// Samples whose bytes are in memory: being read, waiting, or in a worker's hands.
    pub(super) fn samples_in_flight(&self) -> usize {
        self.reads.saturating_add(self.jobs_ahead()).saturating_add(self.workers)
    }
}

/// The most bytes that the queues and buffers of a stream hold together, where the largest sample of the set has
/// `largest_sample`. An image that is being decoded comes on top of that, one per worker.
pub fn bytes_in_flight(spec: &StreamSpec, config: &StreamConfig, largest_sample: u64) -> u64 {
    let per_sample = spec.sample_bytes().saturating_add(spec.mask.as_ref().map_or(0, |(mask, grid)| {
        let [context, target] = mask.most_patches(*grid);
        let patches = target.saturating_mul(mask.target_blocks).saturating_add(context);
        // Once as they are drawn, and once side by side in the batch.
        patches.saturating_mul(2 * size_of::<u32>())
    }));
    let batches = config.batches_in_flight().saturating_mul(spec.batch).saturating_mul(per_sample);
    let samples = (config.samples_in_flight() as u64).saturating_mul(largest_sample.saturating_add(SAMPLE_END as u64));
    let field = spec.saccade.as_ref().map_or(0, |saccade| 3 * u64::from(saccade.field).pow(2));
    samples.saturating_add(batches as u64).saturating_add(field.saturating_mul(config.workers as u64))
}

/// The bytes that all but about a hundredth of a set's samples do not exceed.
pub(super) fn usual_sample(set: &ShardSet) -> u64 {
    /// Enough to know the hundredth well, and few beside what a run reads.
    const LOOKED_AT: usize = 4096;
    let every = set.len().div_ceil(LOOKED_AT).max(1);
    let mut lengths: Vec<u64> = (0..set.len() as u32).step_by(every).map(|number| set.sample(number).length).collect();
    let place = lengths.len() * 99 / 100;
    lengths.sort_unstable();
    lengths.get(place).copied().unwrap_or(0)
}

fn setting(key: &'static str, value: impl ToString, why: &'static str) -> PipelineError {
    PipelineError::Setting { key, value: value.to_string(), why }
}

fn within(key: &'static str, value: usize, least: usize, most: usize) -> Result<(), PipelineError> {
    if value < least {
        Err(setting(key, value, "must be at least 1"))
    } else if value > most {
        Err(setting(key, value, "is larger than anything that makes sense here"))
    } else {
        Ok(())
    }
}

fn check_range(key: &'static str, [low, high]: [f64; 2], most: f64) -> Result<(), PipelineError> {
    if low > 0.0 && low <= high && high <= most {
        Ok(())
    } else {
        Err(setting(
            key,
            format!("[{low}, {high}]"),
            "write the lower number first, both greater than 0, a share at most 1",
        ))
    }
}
