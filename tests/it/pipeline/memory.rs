//! Memory goes round: none is taken per sample, none with time, and never more than was announced.

use std::io::Cursor;

use saccade::draws::{Draws, Purpose};
use saccade::pipeline::{Counts, MaskMode, Pipeline, Probe, StreamConfig, StreamSpec, bytes_in_flight};
use saccade::telemetry::Stage;

use super::{Bench, config, pixmap, spec};
use crate::allocations::Account;

/// What a stream needs beside its queues: threads, channels, meters, the order of an epoch, and what decoders keep.
const BESIDE: i64 = 256 << 10;

/// Stored without compression, some ten of them larger than the rest.
fn bitmap(number: usize) -> Vec<u8> {
    let side = if number % 50 == 7 { 60 } else { 20 + number as u32 % 13 };
    let mut draws = Draws::new(number as u64, 0, 0, Purpose::Crop);
    let image = image::RgbImage::from_fn(side, side, |_, _| image::Rgb([draws.below(256) as u8, 3, 7]));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Bmp).expect("an encoder");
    bytes.into_inner()
}

/// A stream all of whose threads count for one account, except while they decode and augment: that is the libraries'.
struct Counted {
    bench: Bench,
    account: &'static Account,
    pipeline: Pipeline,
}

impl Counted {
    fn start(mut bench: Bench, spec: &StreamSpec, config: StreamConfig) -> Self {
        let account = Account::open();
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(|| account.join())
            .build()
            .expect("a runtime");
        bench.runtime = threads;
        account.join();
        let probe: &'static (dyn Fn(Stage, u32) + Sync) = Box::leak(Box::new(|stage, _| {
            account.join();
            Account::pause(matches!(stage, Stage::Decode | Stage::Augment));
        }));
        let config = StreamConfig { probe: Probe::new(probe), ..config };
        let pipeline = bench.start(spec, config, 0..1_000_000, Counts::default());
        Self { bench, account, pipeline }
    }

    fn pass(&mut self, batches: usize) {
        for _ in 0..batches {
            assert!(matches!(self.pipeline.next(), Some(Ok(_))));
        }
    }

    /// Bytes after another batch, when all that may be made ahead has been made and the threads wait.
    fn bytes_at_rest(&mut self, batch: u64, ahead: u64) -> i64 {
        self.pass(1);
        let train = self.bench.telemetry.stage(Stage::Train);
        train.samples(batch);
        let until = train.totals().samples + ahead;
        while self.bench.totals(Stage::Batch).samples < until {
            std::thread::yield_now();
        }
        self.account.bytes()
    }
}

/// The least over some stretches of the stream: a buffer may be needed for the first time at any moment.
fn allocations_per_batch(bench: Bench, batch: usize, mode: MaskMode) -> u64 {
    const BATCHES: usize = 4;
    const STRETCHES: usize = 5;
    let mut counted = Counted::start(bench, &spec(batch, mode), config(2));
    let mut stretch = || {
        let before = counted.account.allocations();
        counted.pass(BATCHES);
        (counted.account.allocations() - before) / BATCHES as u64
    };
    (0..STRETCHES).map(|_| stretch()).min().expect("a stretch")
}

#[test]
fn a_batch_of_many_samples_takes_as_many_allocations_as_one_of_few() {
    let bitmaps = || Bench::new(&[400, 400], |number| bitmap(number % 40 + 8));
    let pixmaps = || Bench::named(&[400, 400], "ppm", pixmap);
    let benches: [fn() -> Bench; 3] = [bitmaps, bitmaps, pixmaps];
    for (mode, bench) in [MaskMode::PerSample, MaskMode::SharedSize, MaskMode::PerSample].into_iter().zip(benches) {
        let (few, many) = (allocations_per_batch(bench(), 64, mode), allocations_per_batch(bench(), 1024, mode));
        // Eleven for the masks of five blocks, one for each of at most sixteen groups that are read, and some for the
        // batch itself and for waiting; the order of an epoch comes on top.
        assert!(few <= 64 && many <= 64, "{mode:?}: {few} for 64 samples, {many} for 1024");
    }
}

#[test]
fn a_long_stream_holds_no_more_than_a_short_one_and_no_more_than_was_announced() {
    const BATCH: usize = 16;
    let (spec, config) = (spec(BATCH, MaskMode::PerSample), config(2));
    let bench = Bench::new(&[40, 60], bitmap);
    let largest = (0..100).map(|number| bench.set.sample(number).length).max().expect("a sample");
    let mut counted = Counted::start(bench, &spec, config);
    let ahead = (config.batches_ahead * BATCH) as u64;
    let mut most =
        |batches: usize| (0..batches).map(|_| counted.bytes_at_rest(BATCH as u64, ahead)).max().expect("a batch");
    // Sixteen batches are more than two epochs; then forty epochs more.
    let (early, late) = (most(16), most(250));
    // One decoder's scratch may have met the largest image late, and a mask's buffer be in another place.
    assert!(late <= early + (16 << 10), "{early} bytes grew to {late}");
    let announced = bytes_in_flight(&spec, &config, largest) as i64;
    assert!(late <= announced + BESIDE, "{late} bytes, where {announced} were announced");
    assert!(late >= announced / 8, "{late} bytes, where {announced} were announced");
}
