//! Shards that are cut, replaced or deleted while they are streamed, where that does not end the stream.

use std::fs::{self, File};

use saccade::pipeline::{Counts, MaskMode, OnLostShard, PipelineError, Reason, StreamConfig, StreamSpec};
use saccade::telemetry::Stage;

use super::{Bench, Line, config, error_of, in_order, picture, spec};

fn skipping(batch: usize) -> StreamSpec {
    StreamSpec { on_lost_shard: OnLostShard::Skip, ..spec(batch, MaskMode::PerSample) }
}

type Loss = fn(&Bench);

/// The ways to lose a shard, each with what its error says.
const WAYS: [(Loss, &str); 3] = [
    (|bench| fs::remove_file(bench.shard(1)).expect("a shard"), "gone"),
    (|bench| File::options().write(true).open(bench.shard(1)).expect("a shard").set_len(600).expect("room"), "changed"),
    (|bench| fs::write(bench.shard(1), picture(0)).expect("room"), "changed"),
];

#[test]
fn samples_of_a_lost_shard_are_quarantined_and_replaced_by_those_of_the_others() {
    for (lose, why) in WAYS {
        let bench = Bench::new(&[20, 10, 30], picture);
        lose(&bench);
        let lines = bench.run(&skipping(6), config(2), 0..20);
        let mut read = 0;
        for line in &lines {
            assert_eq!(line.samples.len(), 6);
            assert!(line.samples.iter().all(|number| !(20..30).contains(number)), "{:?}", line.samples);
            for bad in &line.quarantined {
                assert_eq!((bad.reason, bad.shard.as_path()), (Reason::Lost, bench.shard(1).as_path()));
                assert!(bad.detail.contains(why) && !bad.replaced_by.is_empty(), "{bad:?}");
            }
            read += line.samples.len() + line.quarantined.len();
        }
        let counts = lines.last().expect("a batch").counts;
        assert_eq!(counts, Counts { read: read as u64, quarantined: read as u64 - 120 });
        // Each of the ten once in each of two epochs, and those that were drawn in another's place.
        assert!((20..40).contains(&counts.quarantined), "{counts:?}");
        assert!(bench.totals(Stage::Read).skipped >= counts.quarantined);
        let metrics = bench.telemetry.render();
        assert!(metrics.contains(r#"saccade_stage_skipped_total{stage="read",reason="lost"}"#), "{metrics}");
    }
}

#[test]
fn a_shard_that_is_lost_on_the_way_changes_only_its_own_samples() {
    let bench = Bench::new(&[20, 10, 30], picture);
    let whole = bench.run(&skipping(6), config(2), 0..20);
    assert_eq!(whole, bench.run(&spec(6, MaskMode::PerSample), config(2), 0..20), "nothing is lost yet");
    let mut pipeline = bench.start(&skipping(6), config(2), 0..20, Counts::default());
    let first = Line::of(&pipeline.next().expect("a batch").expect("a sound one"));
    assert_eq!(first, whole[0]);
    WAYS[0].0(&bench);
    for (line, whole) in std::iter::from_fn(|| pipeline.next()).zip(&whole[1..]) {
        let line = Line::of(&line.expect("a batch"));
        for (place, (sample, planned)) in line.samples.iter().zip(&whole.samples).enumerate() {
            assert!(sample == planned || (20..30).contains(planned), "place {place} of step {}", line.step);
        }
        assert_eq!(line.digests.masks, whole.digests.masks);
    }
}

#[test]
fn lost_samples_count_towards_the_share_of_bad_ones() {
    let bench = Bench::new(&[20, 10, 30], picture);
    WAYS[0].0(&bench);
    let config = StreamConfig { max_bad_share: 0.05, ..config(2) };
    let (batches, error) = error_of(bench.start(&skipping(6), config, 0..1000, Counts::default()));
    assert!(matches!(&error, PipelineError::TooManyBad { .. }) && error.to_string().contains("s-001.tar"), "{error}");
    assert!((10..20).contains(&batches), "{batches}");
}

#[test]
fn a_set_that_is_lost_as_a_whole_ends_the_stream() {
    let bench = Bench::new(&[20, 10], picture);
    fs::remove_file(bench.shard(0)).expect("a shard");
    WAYS[0].0(&bench);
    let (batches, error) = error_of(bench.start(&skipping(6), config(2), 0..9, Counts::default()));
    assert!(batches == 0 && matches!(error, PipelineError::NoReplacement { .. }), "{batches}: {error}");
}

#[test]
fn in_order_leaves_lost_samples_out() {
    let bench = Bench::new(&[20, 10, 30], picture);
    WAYS[1].0(&bench);
    let spec = StreamSpec { on_lost_shard: OnLostShard::Skip, ..in_order(7, 1) };
    let lines = bench.run(&spec, config(2), 0..100);
    let samples: Vec<u32> = lines.iter().flat_map(|line| line.samples.clone()).collect();
    assert_eq!(samples, (0..20).chain(30..60).collect::<Vec<_>>());
    assert_eq!(lines.last().expect("a batch").counts, Counts { read: 60, quarantined: 10 });
}
