//! Host batches to device batches: pixels travel and wait as `u8`, and are cast and normalised on the device when they are
//! used.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::tensor::{AllocationProperty, Bytes, DType, Device, Int, Tensor, TensorData};
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use serde::{Deserialize, Serialize};

use super::device::Placement;
use crate::model::Choice;
use crate::pipeline::saccade::Saccade;
use crate::pipeline::{
    Batch, Counts, Indices, MOST_TAKEN, Masks, Pipeline, PipelineError, Quarantined, StreamConfig, StreamSpec,
    bytes_in_flight,
};
use crate::telemetry::{Activity, Queue, QueueMeter, Stage, StageMeter, Telemetry};

/// Batches on the device at most: those that wait, the one that waits for room, and the one in use.
pub const ON_DEVICE: usize = MOST_TAKEN;

/// Batches that wait on the device: one for the next step, and one so that a late upload does not stop it.
const UPLOADED_AHEAD: usize = ON_DEVICE - 2;

/// The most bytes that a stream and the batches that come of it to the device hold together, as [`bytes_in_flight`].
pub fn in_flight(spec: &StreamSpec, config: &StreamConfig, largest_sample: u64) -> u64 {
    let uploaded = spec.sample_bytes().saturating_mul(spec.batch).saturating_mul(ON_DEVICE);
    bytes_in_flight(spec, config, largest_sample).saturating_add(uploaded as u64)
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

/// The views of a batch's samples where the model is.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "there are a few in a step")]
pub enum Images {
    /// As they came. They are normalised when they are used: until then they take a quarter of the memory, on the way to
    /// another device too.
    Bytes(PixelBytes),
    /// `[batch, views, 3, side, side]`: for whoever has no bytes, as the tests that compare with the authors' numbers.
    Values(Tensor<5>),
}

/// Views whose pixels are bytes.
#[derive(Clone)]
pub struct PixelBytes {
    /// `[batch · views · side · side · 3]`. As one row: of a last axis of three bytes each would be padded to sixteen on
    /// a GPU.
    row: Tensor<1, Int>,
    views: usize,
    side: usize,
    /// `[1, 3, 1, 1]`, as the shift.
    scale: Tensor<4>,
    shift: Tensor<4>,
}

/// A batch where the model is.
#[derive(Clone)]
pub struct DeviceBatch {
    pub step: u64,
    pub epoch: u64,
    pub samples: Vec<u32>,
    pub labels: Vec<Option<u32>>,
    pub images: Images,
    pub masks: Option<DeviceMasks>,
    /// The way from each sample's first view to its second, where there are two.
    pub saccades: Option<Vec<Saccade>>,
    pub quarantined: Vec<Quarantined>,
    pub counts: Counts,
}

/// What the thread hands over: a batch, why there is none, or, as the last, that the stream has ended.
type Uploaded = Option<Result<DeviceBatch, PipelineError>>;

/// Uploads batches from a thread of its own, so that the next one is there when a step ends.
pub struct Uploader {
    batches: Option<Receiver<Uploaded>>,
    thread: Option<JoinHandle<()>>,
    telemetry: Telemetry,
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
        let (place, meter, told) = (place.clone(), telemetry.stage(Stage::Upload), telemetry.clone());
        let queue = telemetry.queue(Queue::Uploaded, UPLOADED_AHEAD);
        let sent = queue.clone();
        let work = move || {
            let mut spell = meter.spell(Activity::Starved);
            loop {
                let batch = pipeline.next();
                spell.turn_to(Activity::Busy);
                let goes_on = told.upload_goes_on();
                let uploaded = batch.map(|batch| batch.map(|batch| upload(batch, side, pixels, &place, &meter)));
                drop(goes_on);
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
        Ok(Self { batches: Some(batches), thread: Some(thread), telemetry: telemetry.clone(), queue })
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
        let waiting = (self.telemetry.stage(Stage::Train).spell(Activity::Starved), self.telemetry.wait_goes_on());
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
    let views = if batch.saccades.is_some() { 2 } else { 1 };
    // The batch's memory is read from where it is, and goes back when nobody reads it any more.
    let bytes = bytes::Bytes::from_owner(batch.pixels);
    DeviceBatch {
        step: batch.step,
        epoch: batch.epoch,
        images: Images::Bytes(PixelBytes::new(bytes, views, side, pixels, &place.device)),
        saccades: batch.saccades,
        masks: batch.masks.as_ref().map(|masks| upload_masks(masks, place)),
        samples: batch.samples,
        labels: batch.labels,
        quarantined: batch.quarantined,
        counts: batch.counts,
    }
}

impl Images {
    pub fn device(&self) -> Device {
        match self {
            Self::Bytes(bytes) => bytes.row.device(),
            Self::Values(values) => values.device(),
        }
    }

    /// Those of some samples, on a device; `None` where there are not so many, and of no samples.
    pub fn of(&self, samples: Range<usize>, device: &Device) -> Option<Self> {
        let count = match self {
            Self::Bytes(bytes) => bytes.samples(),
            Self::Values(values) => values.dims()[0],
        };
        if samples.is_empty() || samples.end > count {
            return None;
        }
        Some(match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.of(samples, device)),
            Self::Values(values) => {
                Self::Values(values.clone().narrow(0, samples.start, samples.len()).to_device(device))
            }
        })
    }

    /// Normalised.
    ///
    /// # Shapes
    /// - output: `[batch, 3, side, side]`
    pub fn first(&self) -> Tensor<4> {
        self.view(0)
    }

    /// As [`Self::first`], where there are two views.
    pub fn second(&self) -> Option<Tensor<4>> {
        let views = match self {
            Self::Bytes(bytes) => bytes.views,
            Self::Values(values) => values.dims()[1],
        };
        (views > 1).then(|| self.view(1))
    }

    fn view(&self, number: usize) -> Tensor<4> {
        match self {
            Self::Bytes(bytes) => bytes.view(number),
            Self::Values(values) => values.clone().narrow(1, number, 1).squeeze_dim(1),
        }
    }
}

impl PixelBytes {
    /// # Shapes
    /// - `bytes`: `[batch, views, side, side, 3]`
    pub fn new(bytes: bytes::Bytes, views: usize, side: usize, pixels: Normalisation, device: &Device) -> Self {
        let length = bytes.len();
        let shared = Bytes::from_shared(bytes, AllocationProperty::Other);
        // What is staged lies in pinned memory on a GPU, from which it is copied while the device computes.
        let mut data = TensorData::from_bytes(shared, [length], DType::U8);
        device.staging(std::iter::once(&mut data));
        let row = Tensor::from_data(data, (device, DType::U8));
        let channels = |of: &dyn Fn(usize) -> f64| {
            let values: Vec<f32> = (0..3).map(|channel| of(channel) as f32).collect();
            Tensor::<4>::from_data(TensorData::new(values, [1, 3, 1, 1]), device)
        };
        let scale = channels(&|channel| 1.0 / (255.0 * pixels.deviation[channel]));
        let shift = channels(&|channel| -pixels.mean[channel] / pixels.deviation[channel]);
        Self { row, views, side, scale, shift }
    }

    /// Bytes of a view.
    fn image(&self) -> usize {
        3 * self.side * self.side
    }

    fn samples(&self) -> usize {
        self.row.dims()[0] / (self.views * self.image()).max(1)
    }

    fn of(&self, samples: Range<usize>, device: &Device) -> Self {
        let each = self.views * self.image();
        Self {
            row: self.row.clone().narrow(0, samples.start * each, samples.len() * each).to_device(device),
            scale: self.scale.clone().to_device(device),
            shift: self.shift.clone().to_device(device),
            ..*self
        }
    }

    fn view(&self, number: usize) -> Tensor<4> {
        let (samples, image) = (self.samples(), self.image());
        // Of two views one is a part of rows, which a GPU pads the least.
        let rows = self.row.clone().reshape([samples, self.views * image]);
        let rows = if self.views == 1 { rows } else { rows.narrow(1, number * image, image) };
        let pixels = rows.reshape([samples, self.side, self.side, 3]);
        pixels.float().permute([0, 3, 1, 2]) * self.scale.clone() + self.shift.clone()
    }
}

/// Images that are used at once.
///
/// # Shapes
/// - `bytes`: `[count, side, side, 3]`
/// - output: `[count, 3, side, side]`
pub fn normalised(bytes: Vec<u8>, side: usize, pixels: Normalisation, device: &Device) -> Tensor<4> {
    PixelBytes::new(bytes.into(), 1, side, pixels, device).view(0)
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
