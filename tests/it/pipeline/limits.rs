//! Bounded and closing: memory, waiting, settings, and every way to end.

use std::fs::{self, File};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use saccade::pipeline::{
    AugmentConfig, Counts, MaskMode, Order, Pipeline, PipelineError, StreamConfig, StreamSpec, bytes_in_flight,
};
use saccade::telemetry::Stage;

use super::{Bench, config, error_of, in_order, picture, spec};

#[test]
fn a_shard_that_is_cut_while_it_is_read_ends_the_stream_with_its_name() {
    for cut in [true, false] {
        let bench = Bench::new(&[30, 30], picture);
        let config = StreamConfig { batches_ahead: 1, reads: 1, ..config(2) };
        let mut pipeline = bench.start(&spec(4, MaskMode::SharedSize), config, 0..1000, Counts::default());
        assert!(matches!(pipeline.next(), Some(Ok(_))));
        if cut {
            File::options().write(true).open(bench.shard(1)).expect("a shard").set_len(600).expect("room");
        } else {
            fs::write(bench.shard(1), picture(0)).expect("room");
        }
        let (_, error) = error_of(pipeline);
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(matches!(error, PipelineError::Read { .. }) && cause.contains("s-001.tar"), "{error}: {cause}");
    }
}

#[test]
fn dropping_the_pipeline_anywhere_ends_its_threads_and_tasks() {
    let Bench { folder, set, runtime, telemetry } = Bench::new(&[30, 30], picture);
    for (taken, batches_ahead, reads) in [(0, 1, 1), (0, 5, 4), (1, 1, 3), (3, 2, 2), (10, 4, 1)] {
        let config = StreamConfig { batches_ahead, reads, ..config(4) };
        let (handle, spec) = (runtime.handle(), spec(8, MaskMode::PerSample));
        let started = Pipeline::start(handle, Arc::clone(&set), spec, config, 0..10_000, Counts::default(), &telemetry);
        let mut pipeline = started.expect("fine settings");
        let held: Vec<_> = (0..taken).map(|_| pipeline.next()).collect();
        assert!(held.iter().all(|batch| matches!(batch, Some(Ok(_)))));
        drop(pipeline);
    }
    // Every task and thread holds the set; the runtime waits for its tasks, the pipelines have waited for their threads.
    drop(runtime);
    assert_eq!(Arc::strong_count(&set), 1);
    drop(folder);
}

#[test]
fn a_runtime_that_ends_ends_the_stream_with_an_error() {
    let Bench { folder, set, runtime, telemetry } = Bench::new(&[30], picture);
    let (handle, spec) = (runtime.handle().clone(), spec(8, MaskMode::PerSample));
    let started = Pipeline::start(&handle, set, spec, config(2), 0..10_000, Counts::default(), &telemetry);
    let pipeline = started.expect("fine settings");
    drop(runtime);
    assert!(matches!(error_of(pipeline), (_, PipelineError::Stopped)));
    drop(folder);
}

#[test]
fn a_consumer_that_takes_its_time_makes_the_workers_blocked_rather_than_starved() {
    let bench = Bench::new(&[30], picture);
    let config = StreamConfig { batches_ahead: 2, ..config(2) };
    let mut pipeline = bench.start(&spec(8, MaskMode::PerSample), config, 0..50, Counts::default());
    let made = || bench.totals(Stage::Batch).samples;
    while made() < 16 {
        std::thread::yield_now();
    }
    let (start, pause) = (Instant::now(), Duration::from_millis(100));
    while start.elapsed() < pause {
        std::thread::yield_now();
    }
    assert_eq!(made(), 16, "no more than two batches are made ahead");
    let batches = std::iter::from_fn(|| pipeline.next()).filter(Result::is_ok).count();
    assert_eq!(batches, 50);
    drop(pipeline);
    // Both workers waited through the pause, and it is their waiting that is counted.
    assert!(bench.totals(Stage::Batch).blocked >= pause, "{:?}", bench.totals(Stage::Batch));
    assert!(bench.totals(Stage::Read).blocked >= pause, "{:?}", bench.totals(Stage::Read));
}

#[test]
fn every_stage_counts_its_samples_and_bytes() {
    let bench = Bench::new(&[9, 14], picture);
    let lines = bench.run(&spec(5, MaskMode::PerSample), config(2), 0..8);
    assert_eq!(lines.len(), 8);
    let bytes: u64 = lines.iter().flat_map(|line| &line.samples).map(|number| bench.set.sample(*number).length).sum();
    let pixels = 40 * 16 * 16 * 3;
    let expected = [
        (Stage::Read, bytes),
        (Stage::Decode, bytes),
        (Stage::Augment, pixels),
        (Stage::Mask, 0),
        (Stage::Batch, pixels),
    ];
    for (stage, bytes) in expected {
        let totals = bench.totals(stage);
        assert_eq!((totals.samples, totals.bytes, totals.skipped), (40, bytes, 0), "{stage}");
        assert!(totals.busy > Duration::ZERO, "{stage}");
    }
}

#[test]
fn shards_that_are_shuffled_together_stay_open() {
    let bench = Bench::new(&[1; 120], picture);
    let spec = StreamSpec { order: Order::Shuffled { seed: 1, window: 120 }, ..spec(10, MaskMode::PerSample) };
    bench.run(&spec, config(2), 0..24);
    let links = fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let open =
        links.filter_map(|link| fs::read_link(link.path()).ok()).filter(|file| file.starts_with(bench.folder.path()));
    assert_eq!(open.count(), 120);
}

#[test]
fn settings_out_of_range_are_refused_with_their_key() {
    let bench = Bench::new(&[9], picture);
    let (fine, stream) = (spec(4, MaskMode::PerSample), config(1));
    let refused = |spec: StreamSpec, config: StreamConfig, steps: Range<u64>, key: &str| {
        let (runtime, set) = (bench.runtime.handle(), Arc::clone(&bench.set));
        let result = Pipeline::start(runtime, set, spec, config, steps, Counts::default(), &bench.telemetry);
        let error = result.err().expect(key).to_string();
        assert!(error.starts_with(key), "{error}");
    };
    refused(StreamSpec { batch: 0, ..fine.clone() }, stream, 0..1, "train.batch");
    refused(fine.clone(), stream, 0..u64::MAX, "steps");
    refused(fine.clone(), StreamConfig { workers: 0, ..stream }, 0..1, "stream.workers");
    refused(fine.clone(), StreamConfig { batches_ahead: 0, ..stream }, 0..1, "stream.batches_ahead");
    refused(fine.clone(), StreamConfig { reads: 0, ..stream }, 0..1, "stream.reads");
    refused(fine.clone(), StreamConfig { max_bad_share: f64::NAN, ..stream }, 0..1, "stream.max_bad_share");
    refused(StreamSpec { order: Order::InOrder { every: 0 }, ..fine.clone() }, stream, 0..1, "every");
    let augment = |change: &dyn Fn(&mut AugmentConfig)| {
        let mut spec = fine.clone();
        change(&mut spec.augment);
        spec
    };
    refused(augment(&|augment| augment.size = 0), stream, 0..1, "augment.size");
    refused(augment(&|augment| augment.crop_scale = [0.5, 1.5]), stream, 0..1, "augment.crop_scale");
    refused(augment(&|augment| augment.crop_ratio = [2.0, 1.0]), stream, 0..1, "augment.crop_ratio");
    let mut mask = fine.clone();
    mask.mask = mask.mask.map(|(config, _)| (config, 3));
    refused(mask, stream, 0..1, "mask");
}

#[test]
fn the_bytes_in_flight_are_those_of_all_buffers() {
    let (spec, config) = (in_order(10, 1), StreamConfig { batches_ahead: 2, reads: 3, ..config(8) });
    // Three batches of 16x16 RGB; a sample per read, four jobs per worker, and one in each worker's hands, all of them
    // with room for another end.
    assert_eq!(bytes_in_flight(&spec, &config, 1000), 3 * 10 * 16 * 16 * 3 + (3 + 4 * 8 + 8) * (1000 + 128));
    assert_eq!(bytes_in_flight(&spec, &config, u64::MAX), u64::MAX);
}
