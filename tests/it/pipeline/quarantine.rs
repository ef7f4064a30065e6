//! Accounted: bad samples, what replaces them, and when there are too many.

use std::fs;
use std::path::Path;

use saccade::draws::{Draws, Purpose};
use saccade::pipeline::{Counts, MaskMode, PipelineError, Quarantined, Reason, StreamConfig};
use saccade::telemetry::Stage;

use super::{Bench, config, error_of, in_order, picture, some_damaged, spec};
use crate::reference;

#[test]
fn samples_read_are_those_in_batches_and_those_quarantined() {
    let bench = Bench::new(&[20, 20], some_damaged(4));
    let lines = bench.run(&spec(8, MaskMode::PerSample), config(3), 0..10);
    let (mut trained, mut quarantined) = (0, 0);
    for line in &lines {
        trained += line.samples.len() as u64;
        quarantined += line.quarantined.len() as u64;
        assert_eq!(line.counts, Counts { read: trained + quarantined, quarantined });
        assert_eq!(line.samples.len(), 8);
        for bad in &line.quarantined {
            assert_eq!((bad.step, bad.reason), (line.step, Reason::Truncated));
            let number: u32 = bad.key[1..].parse().expect("a number");
            let sample = bench.set.sample(number);
            assert_eq!((bad.key.as_str(), bad.shard.as_path(), bad.offset), (sample.key, sample.shard, sample.offset));
            assert!(number % 4 == 1 && !line.samples.contains(&number), "{}", bad.key);
            assert!(line.samples.iter().any(|good| bench.set.sample(*good).key == bad.replaced_by));
        }
    }
    assert!(quarantined >= 20, "{quarantined} quarantined in two epochs with ten bad samples each");
    // The bench is the only user of this telemetry, but the pool works ahead of what is handed out.
    assert!(bench.totals(Stage::Decode).skipped >= quarantined);
    assert!(bench.telemetry.render().contains("reason=\"truncated\""));
}

#[test]
fn a_bad_sample_changes_no_other_place_of_its_batch() {
    let (sound, damaged) = (Bench::new(&[20, 20], picture), Bench::new(&[20, 20], some_damaged(9)));
    let spec = spec(1, MaskMode::PerSample);
    let pairs = sound.run(&spec, config(2), 0..40).into_iter().zip(damaged.run(&spec, config(2), 0..40));
    let mut replaced = 0;
    for (sound, damaged) in pairs {
        if damaged.quarantined.is_empty() {
            assert_eq!(sound.digests, damaged.digests);
        } else {
            replaced += 1;
            assert_ne!(sound.digests.pixels, damaged.digests.pixels);
            assert_eq!(sound.digests.masks, damaged.digests.masks);
        }
    }
    assert_eq!(replaced, 5);
}

#[test]
fn too_many_bad_samples_end_the_stream_at_the_same_step_and_name_the_worst_shards() {
    // The second shard is bad, and so is one sample of the third.
    let bad = |number: usize| {
        if (20..40).contains(&number) || number == 41 { vec![1, 2, 3] } else { picture(number) }
    };
    let bench = Bench::new(&[20, 20, 40], bad);
    let spec = spec(10, MaskMode::SharedSize);
    let mut ends = Vec::new();
    for workers in [1, 4] {
        let config = StreamConfig { max_bad_share: 0.05, ..config(workers) };
        let (batches, error) = error_of(bench.start(&spec, config, 0..1000, Counts::default()));
        let PipelineError::TooManyBad { quarantined, read, worst, samples, .. } = &error else { panic!("{error}") };
        assert!(*read >= 100 && *quarantined as f64 > 0.05 * *read as f64);
        assert_eq!(worst.iter().map(|(shard, _)| shard.clone()).collect::<Vec<_>>(), [bench.shard(1), bench.shard(2)]);
        assert!(samples.iter().all(|sample| sample.reason == Reason::UnknownFormat && sample.step == batches));
        let message = error.to_string();
        assert!(message.contains("s-001.tar") && message.contains("max_bad_share = 0.05"), "{message}");
        ends.push((batches, message));
    }
    assert_eq!(ends[0], ends[1]);
    // Fewer than a hundred samples are not judged.
    assert!(ends[0].0 >= 6, "{} batches", ends[0].0);
}

#[test]
fn a_set_without_one_good_sample_ends_the_stream() {
    let bench = Bench::new(&[30], |_| vec![1, 2, 3]);
    let (batches, error) = error_of(bench.start(&spec(4, MaskMode::SharedSize), config(2), 0..9, Counts::default()));
    assert_eq!(batches, 0);
    assert!(matches!(&error, PipelineError::NoReplacement { tries: 10..=29, .. }), "{error}");
    assert!(error.to_string().contains("s-000.tar"), "{error}");
}

/// Reference images with flipped and missing bytes; what comes out is of no interest, that it ends is.
fn mangled(images: &[Vec<u8>], number: usize) -> Vec<u8> {
    let mut draws = Draws::new(number as u64, 0, 0, Purpose::Crop);
    let mut bytes = images[number % images.len()].clone();
    for _ in 0..1 + draws.below(8) {
        let place = draws.below(bytes.len() as u64) as usize;
        if let Some(byte) = bytes.get_mut(place) {
            *byte ^= 1 << draws.below(8);
        }
    }
    if draws.below(4) == 0 {
        bytes.truncate(draws.below(bytes.len() as u64 + 1) as usize);
    }
    bytes
}

#[test]
fn no_bytes_bring_a_worker_down() {
    let folder = fs::read_dir(reference().join("images")).expect("reference images");
    let mut paths: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let images: Vec<_> = paths.iter().map(|path| fs::read(path).expect("an image")).collect();
    let bench = Bench::new(&[700, 700], |number| mangled(&images, number));
    let lines = bench.run(&in_order(64, 1), config(2), 0..100);
    let last = lines.last().expect("a batch").counts;
    let in_batches: usize = lines.iter().map(|line| line.samples.len()).sum();
    assert_eq!(last, Counts { read: 1400, quarantined: 1400 - in_batches as u64 });
    assert!(last.quarantined > 100 && in_batches > 100, "{last:?}");
}

#[test]
fn quarantined_samples_are_written_with_snake_case_reasons() {
    let sample = Quarantined {
        step: 3,
        key: "k".into(),
        shard: Path::new("a.tar").into(),
        offset: 512,
        reason: Reason::UnknownFormat,
        detail: "begins with 00".into(),
        replaced_by: "l".into(),
    };
    let line = serde_json::to_string(&sample).expect("plain values");
    let expected = r#"{"step":3,"key":"k","shard":"a.tar","offset":512,"reason":"unknown_format","detail":"begins with 00","replaced_by":"l"}"#;
    assert_eq!(line, expected);
    let all = [
        Reason::Empty,
        Reason::UnknownFormat,
        Reason::Unsupported,
        Reason::Truncated,
        Reason::Damaged,
        Reason::TooLarge,
        Reason::Panicked,
        Reason::Lost,
    ];
    for reason in all {
        assert_eq!(serde_json::to_value(reason).expect("a name"), reason.to_string());
    }
}
