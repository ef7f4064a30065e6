//! Host batches to device batches: pixels travel as `u8`, the device casts and normalises them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use serde::{Deserialize, Serialize};

use super::device::Placement;
use crate::model::Choice;
use crate::pipeline::saccade::Saccade;
use crate::pipeline::{Batch, Counts, Indices, Masks, Pipeline, PipelineError, Quarantined};
use crate::telemetry::{Activity, Queue, QueueMeter, Stage, StageMeter, Telemetry};

/// Batches that wait on the device: one for the next step, and one so that a late upload does not stop it.
const UPLOADED_AHEAD: usize = 2;

/// Batches on the device at most: those that wait, the one that waits for room, and the one in use.
pub const ON_DEVICE: usize = UPLOADED_AHEAD + 2;

/// Bytes that uploaded batches take.
pub fn uploaded_bytes(views: usize, side: usize) -> u64 {
    let pixels = (views as u64).saturating_mul(3 * (side * side) as u64);
    pixels.saturating_mul((size_of::<f32>() * ON_DEVICE) as u64)
}

/// Mean and deviation of the pixels, per channel, in `0..=1`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    pub mean: [f64; 3],
    pub deviation: [f64; 3],
}

/// The masks of a batch on the device.
#[derive(Clone)]
pub struct DeviceMasks {
    pub context: Choice,
    /// `[batch, blocks · target]`; a target block is padded to the largest of the batch.
    pub targets: Choice,
    pub blocks: usize,
    /// Real target patches of all samples and blocks together.
    pub target_patches: usize,
}

/// The second views of a batch on the device.
#[derive(Clone)]
pub struct DevicePair {
    /// `[batch, 3, side, side]`, normalised.
    pub second: Tensor<4>,
    /// The way from each sample's first view to its second.
    pub saccades: Vec<Saccade>,
}

/// A batch where the model is.
#[derive(Clone)]
pub struct DeviceBatch {
    pub step: u64,
    pub epoch: u64,
    pub samples: Vec<u32>,
    pub labels: Vec<Option<u32>>,
    /// `[batch, 3, side, side]`, normalised; the first views where there are two.
    pub images: Tensor<4>,
    pub masks: Option<DeviceMasks>,
    pub pair: Option<DevicePair>,
    pub quarantined: Vec<Quarantined>,
    pub counts: Counts,
}

/// What the thread hands over: a batch, why there is none, or, as the last, that the stream has ended.
type Uploaded = Option<Result<DeviceBatch, PipelineError>>;

/// Uploads batches from a thread of its own, so that the next one is there when a step ends.
pub struct Uploader {
    batches: Option<Receiver<Uploaded>>,
    thread: Option<JoinHandle<()>>,
    train: StageMeter,
    queue: QueueMeter,
}

impl Uploader {
    /// Takes over the pipeline; dropping the uploader ends both.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        mut pipeline: Pipeline,
        side: usize,
        pixels: Normalisation,
        place: &Placement,
        telemetry: &Telemetry,
    ) -> Result<Self, PipelineError> {
        let (sender, batches) = bounded(UPLOADED_AHEAD);
        let (place, meter) = (place.clone(), telemetry.stage(Stage::Upload));
        let queue = telemetry.queue(Queue::Uploaded, UPLOADED_AHEAD);
        let sent = queue.clone();
        let work = move || {
            let mut spell = meter.spell(Activity::Starved);
            loop {
                let batch = pipeline.next();
                spell.turn_to(Activity::Busy);
                let uploaded = batch.map(|batch| batch.map(|batch| upload(batch, side, pixels, &place, &meter)));
                let is_last = !matches!(uploaded, Some(Ok(_)));
                spell.turn_to(Activity::Blocked);
                if sender.send(uploaded).is_err() || is_last {
                    return;
                }
                spell.turn_to(Activity::Starved);
                sent.depth(sender.len());
            }
        };
        let thread = std::thread::Builder::new().name("saccade-upload".into());
        let thread = thread.spawn(work).map_err(|source| PipelineError::Thread { number: 0, source })?;
        Ok(Self { batches: Some(batches), thread: Some(thread), train: telemetry.stage(Stage::Train), queue })
    }

    /// The next batch and how long it was waited for; `None` at the end of the stream.
    ///
    /// # Errors
    /// When the pipeline gave up, or the thread died before the stream's end.
    pub fn next_batch(&mut self) -> Option<(Result<DeviceBatch, PipelineError>, Duration)> {
        self.next_unless(&AtomicBool::new(false))
    }

    /// As [`Self::next_batch`], but also `None` once `stop` is set while there is nothing to give: data that never come
    /// must not keep a run from saving.
    ///
    /// # Errors
    /// As [`Self::next_batch`].
    pub fn next_unless(&mut self, stop: &AtomicBool) -> Option<(Result<DeviceBatch, PipelineError>, Duration)> {
        /// How often the flag is looked at while there is no batch.
        const LOOK: Duration = Duration::from_millis(100);
        let start = Instant::now();
        let waiting = self.train.spell(Activity::Starved);
        let batches = self.batches.as_ref()?;
        let batch = loop {
            match batches.recv_timeout(LOOK) {
                Ok(batch) => break batch,
                Err(RecvTimeoutError::Disconnected) => break Some(Err(PipelineError::Stopped)),
                Err(RecvTimeoutError::Timeout) if stop.load(Relaxed) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        drop(waiting);
        self.queue.depth(batches.len());
        let waited = start.elapsed();
        if batch.is_none() {
            self.batches = None;
        }
        Some((batch?, waited))
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails, and that ends it and the pipeline behind it.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn upload(batch: Batch, side: usize, pixels: Normalisation, place: &Placement, meter: &StageMeter) -> DeviceBatch {
    let count = batch.samples.len();
    meter.bytes(batch.pixels.len() as u64);
    meter.samples(count as u64);
    let views = batch.pixels.len() / (count * side * side * 3).max(1);
    let images = normalised(&batch.pixels, count * views, side, pixels, &place.device);
    let (images, pair) = match batch.saccades {
        None => (images, None),
        Some(saccades) => {
            let [first, second] = views_of(images, count);
            (first, Some(DevicePair { second, saccades }))
        }
    };
    DeviceBatch {
        step: batch.step,
        epoch: batch.epoch,
        images,
        pair,
        masks: batch.masks.as_ref().map(|masks| upload_masks(masks, place)),
        samples: batch.samples,
        labels: batch.labels,
        quarantined: batch.quarantined,
        counts: batch.counts,
    }
}

/// # Shapes
/// - `images`: `[2 · count, 3, side, side]`, the two views of a sample one after the other
/// - output: `[count, 3, side, side]` each
fn views_of(images: Tensor<4>, count: usize) -> [Tensor<4>; 2] {
    let [_, channels, height, width] = images.dims();
    let both = images.reshape([count, 2, channels, height, width]);
    [0, 1].map(|view| both.clone().narrow(1, view, 1).squeeze_dim(1))
}

/// # Shapes
/// - `bytes`: `[count, side, side, 3]`
/// - output: `[count, 3, side, side]`
pub fn normalised(bytes: &[u8], count: usize, side: usize, pixels: Normalisation, device: &Device) -> Tensor<4> {
    // As one row: of a last axis of three bytes each would be padded to sixteen on a GPU. What is staged lies in pinned
    // memory there, from which it is copied while the device computes.
    let mut data = TensorData::new(bytes.to_vec(), [bytes.len()]);
    device.staging(std::iter::once(&mut data));
    let row = Tensor::<1, Int>::from_data(data, (device, DType::U8));
    let images = row.reshape([count, side, side, 3]).float().permute([0, 3, 1, 2]);
    let channels = |of: &dyn Fn(usize) -> f64| {
        let values: Vec<f32> = (0..3).map(|channel| of(channel) as f32).collect();
        Tensor::<4>::from_data(TensorData::new(values, [1, 3, 1, 1]), device)
    };
    let scale = channels(&|channel| 1.0 / (255.0 * pixels.deviation[channel]));
    let shift = channels(&|channel| -pixels.mean[channel] / pixels.deviation[channel]);
    images * scale + shift
}

/// Puts the choice of patches onto the device.
pub fn upload_masks(masks: &Masks, place: &Placement) -> DeviceMasks {
    let choice = |row: &Row| Choice::new(&row.indices, &row.real, row.width, place.lookup, &place.device);
    let blocks = masks.targets.len();
    DeviceMasks {
        context: choice(&side_by_side(std::slice::from_ref(&masks.context))),
        targets: choice(&side_by_side(&masks.targets)),
        blocks,
        target_patches: masks.targets.iter().flat_map(|block| &block.lengths).map(|&length| length as usize).sum(),
    }
}

struct Row {
    indices: Vec<u32>,
    real: Vec<bool>,
    width: usize,
}

/// All blocks of a sample in one row, each padded to the widest block of the batch.
fn side_by_side(blocks: &[Indices]) -> Row {
    let batch = blocks.first().map_or(0, |block| block.lengths.len());
    let widest = blocks.iter().map(|block| block.width).max().unwrap_or(0);
    let width = widest * blocks.len();
    let (mut indices, mut real) = (Vec::with_capacity(batch * width), Vec::with_capacity(batch * width));
    for sample in 0..batch {
        for block in blocks {
            let length = block.lengths[sample] as usize;
            let row = &block.indices[sample * block.width..][..length];
            indices.extend_from_slice(row);
            indices.resize(indices.len() + widest - length, 0);
            real.extend((0..widest).map(|place| place < length));
        }
    }
    Row { indices, real, width }
}
