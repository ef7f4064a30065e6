//! The stream of samples: pure, exact, accounted, bounded and closing.

#[cfg(feature = "remote")]
mod afar;
mod held;
mod limits;
mod lost;
mod memory;
mod quarantine;
mod stream;
mod uploaded;
mod waits;

use std::fs::File;
use std::io::Cursor;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use saccade::draws::{Draws, Purpose};
use saccade::pipeline::ppm::begin;
use saccade::pipeline::{
    AugmentConfig, Batch, Counts, DecodeConfig, Digests, JpegDecoder, MaskConfig, MaskMode, OnLostShard, Order,
    Pipeline, PipelineError, Probe, Quarantined, StreamConfig, StreamSpec,
};
use saccade::shard::ShardSet;
use saccade::telemetry::{Stage, StageTotals, Telemetry};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SEED: u64 = 42;

/// A folder of shards and what it takes to stream from it.
struct Bench {
    folder: TempDir,
    set: Arc<ShardSet>,
    runtime: Runtime,
    telemetry: Telemetry,
}

impl Bench {
    /// One shard per number in `sizes`; `image` gives the bytes of each sample, counted over all shards.
    fn new(sizes: &[usize], image: impl Fn(usize) -> Vec<u8>) -> Self {
        Self::named(sizes, "jpg", image)
    }

    /// As [`Bench::new`], with the extension of the images given.
    fn named(sizes: &[usize], extension: &str, image: impl Fn(usize) -> Vec<u8>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut number = 0;
        for (shard, size) in sizes.iter().enumerate() {
            let file = File::create(folder.path().join(format!("s-{shard:03}.tar"))).expect("a shard");
            let mut tar = tar::Builder::new(file);
            for _ in 0..*size {
                append(&mut tar, &format!("k{number:04}.{extension}"), &image(number));
                append(&mut tar, &format!("k{number:04}.cls"), number.to_string().as_bytes());
                number += 1;
            }
            tar.finish().expect("an end");
        }
        let set = ShardSet::open(&[format!("{}/*.tar", folder.path().display())], true).expect("sound shards");
        assert_eq!(set.len(), number);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
        let telemetry = Telemetry::new("test");
        Self { folder, set: Arc::new(set), runtime, telemetry }
    }

    fn shard(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("s-{number:03}.tar"))
    }

    fn start(&self, spec: &StreamSpec, config: StreamConfig, steps: Range<u64>, counts: Counts) -> Pipeline {
        let (runtime, set) = (self.runtime.handle(), Arc::clone(&self.set));
        Pipeline::start(runtime, set, spec.clone(), config, steps, counts, &self.telemetry).expect("fine settings")
    }

    fn run(&self, spec: &StreamSpec, config: StreamConfig, steps: Range<u64>) -> Vec<Line> {
        let mut pipeline = self.start(spec, config, steps, Counts::default());
        std::iter::from_fn(|| pipeline.next()).map(|batch| Line::of(&batch.expect("a batch"))).collect()
    }

    fn totals(&self, stage: Stage) -> StageTotals {
        self.telemetry.stage(stage).totals()
    }
}

fn append(tar: &mut tar::Builder<File>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, name, bytes).expect("a member");
}

/// A picture that differs from that of every other number.
fn picture(number: usize) -> Vec<u8> {
    let mut draws = Draws::new(number as u64, 0, 0, Purpose::Crop);
    let image = image::RgbImage::from_fn(24, 18, |_, _| image::Rgb([draws.below(256) as u8, number as u8, 7]));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("an encoder");
    bytes.into_inner()
}

/// As [`picture`], not compressed.
fn pixmap(number: usize) -> Vec<u8> {
    let picture = image::load_from_memory(&picture(number)).expect("a picture").into_rgb8();
    let mut bytes = Vec::new();
    begin(picture.width(), picture.height(), &mut bytes);
    bytes.extend_from_slice(&picture);
    bytes
}

/// Every so many-th sample is cut short.
fn some_damaged(every: usize) -> impl Fn(usize) -> Vec<u8> {
    move |number| {
        let bytes = picture(number);
        let length = if number % every == 1 { bytes.len() / 2 } else { bytes.len() };
        bytes[..length].to_vec()
    }
}

fn spec(batch: usize, mode: MaskMode) -> StreamSpec {
    let mask = MaskConfig {
        mode,
        context_scale: [0.85, 1.0],
        target_scale: [0.15, 0.2],
        target_ratio: [0.75, 1.5],
        target_blocks: 4,
        min_keep: 4,
    };
    StreamSpec {
        order: Order::Shuffled { seed: SEED, window: 2 },
        batch,
        decode: DecodeConfig { jpeg: JpegDecoder::Own, smooth_chroma: true },
        augment: AugmentConfig { size: 16, crop_scale: [0.3, 1.0], crop_ratio: [0.75, 4.0 / 3.0], flip: true },
        saccade: None,
        mask: Some((mask, 8)),
        on_lost_shard: OnLostShard::Stop,
    }
}

fn in_order(batch: usize, every: usize) -> StreamSpec {
    StreamSpec { order: Order::InOrder { every }, mask: None, ..spec(batch, MaskMode::PerSample) }
}

fn config(workers: usize) -> StreamConfig {
    StreamConfig { workers, batches_ahead: 3, reads: 2, max_bad_share: 1.0, probe: Probe::default() }
}

/// All that a batch says.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    step: u64,
    epoch: u64,
    samples: Vec<u32>,
    labels: Vec<Option<u32>>,
    digests: Digests,
    quarantined: Vec<Quarantined>,
    counts: Counts,
}

impl Line {
    fn of(batch: &Batch) -> Self {
        let views = if batch.saccades.is_some() { 2 } else { 1 };
        assert_eq!(batch.pixels.len(), batch.samples.len() * views * 16 * 16 * 3);
        Self {
            step: batch.step,
            epoch: batch.epoch,
            samples: batch.samples.clone(),
            labels: batch.labels.clone(),
            digests: batch.digests(),
            quarantined: batch.quarantined.clone(),
            counts: batch.counts,
        }
    }
}

fn error_of(mut pipeline: Pipeline) -> (u64, PipelineError) {
    let mut batches = 0;
    loop {
        match pipeline.next() {
            Some(Ok(_)) => batches += 1,
            Some(Err(error)) => {
                assert!(pipeline.next().is_none(), "nothing comes after an error");
                return (batches, error);
            }
            None => panic!("the stream ended after {batches} batches without an error"),
        }
    }
}
