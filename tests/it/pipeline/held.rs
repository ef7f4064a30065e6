//! Uncompressed samples that the system holds in memory: workers use them where they are, and nothing else differs.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};

use saccade::pipeline::{Counts, MaskMode, OnLostShard, Probe, Reason, StreamConfig, StreamSpec};
use saccade::telemetry::Stage;

use super::{Bench, Line, config, in_order, picture, pixmap, spec};

/// Whether the system tells what it holds of the first sample.
fn is_told(bench: &Bench) -> bool {
    bench.set.held(0, &mut [0; 2]).is_some()
}

/// One with each kind of damage, and one in each form that is no plain PPM.
fn mixed(number: usize) -> Vec<u8> {
    let bytes = pixmap(number);
    let pixels = bytes.len() - 24 * 18 * 3;
    match number % 12 {
        0 => picture(number),
        1 => bytes[..bytes.len() - 1].to_vec(),
        2 => bytes[..pixels + 100].to_vec(),
        3 => [&bytes[..], b"and what follows"].concat(),
        4 => [b"P6\n#", &[b' '; 100][..], b"\n24 18 255\n", &bytes[pixels..]].concat(),
        5 => b"P6\n60000 60000\n255\nand hardly a pixel, though as many bytes as are looked at".to_vec(),
        6 => [b"P6\n24 18x255\n", &bytes[pixels..]].concat(),
        7 => b"P6 1 1 255 abc".to_vec(),
        8 => [b"P6\n#\n24 18\n255 ", &bytes[pixels..]].concat(),
        _ => bytes,
    }
}

/// Without what is named after the folder.
fn told(lines: Vec<Line>) -> Vec<Line> {
    let nameless = |mut line: Line| {
        line.quarantined.iter_mut().for_each(|bad| bad.shard = bad.shard.file_name().expect("a name").into());
        line
    };
    lines.into_iter().map(nameless).collect()
}

#[test]
fn samples_give_the_same_batches_and_reasons_whether_they_are_read_whole_or_not() {
    let [whole, held] = ["jpg", "ppm"].map(|extension| Bench::named(&[30, 30], extension, mixed));
    let specs = [spec(8, MaskMode::PerSample), in_order(8, 1)];
    for spec in specs {
        let [whole, held] = [&whole, &held].map(|bench| told(bench.run(&spec, config(2), 0..16)));
        assert_eq!(whole, held);
        let mut reasons: Vec<Reason> = whole.iter().flat_map(|line| &line.quarantined).map(|bad| bad.reason).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons, [Reason::Truncated, Reason::Damaged, Reason::TooLarge]);
    }
}

#[test]
fn what_lies_above_and_below_a_crop_is_not_counted_as_read() {
    let bench = Bench::named(&[40], "ppm", pixmap);
    let lines = bench.run(&spec(8, MaskMode::PerSample), config(2), 0..5);
    assert_eq!(lines.len(), 5);
    let read = bench.totals(Stage::Read);
    assert_eq!(read.samples, 40);
    let all: u64 = (0..40).map(|number| bench.set.sample(number).length).sum();
    // Crops of 0.3 to 1 of the area have nine tenths of the rows of a wide picture, more or less.
    assert!(read.bytes <= all && (!is_told(&bench) || read.bytes < all * 19 / 20), "{} of {all}", read.bytes);
    assert_eq!(bench.totals(Stage::Decode).bytes, read.bytes);
}

/// A batch of a shard to which something happens while a worker is about to use the second of its samples.
fn batch_while(happens: impl FnOnce(&Path)) -> (bool, Line) {
    const BATCH: usize = 8;
    let bench = Bench::named(&[BATCH], "ppm", pixmap);
    let is_told = is_told(&bench);
    let gate: &'static (Mutex<bool>, Condvar) = Box::leak(Box::default());
    let [looked_at, decoding]: &'static [AtomicUsize; 2] = Box::leak(Box::default());
    let probe = Probe::new(Box::leak(Box::new(move |stage, _| match stage {
        Stage::Read => {
            looked_at.fetch_add(1, SeqCst);
        }
        Stage::Decode => {
            if decoding.fetch_add(1, SeqCst) == 0 {
                return;
            }
            let open = gate.0.lock().expect("nobody panics");
            drop(gate.1.wait_while(open, |open| !*open).expect("nobody panics"));
        }
        _ => {}
    })));
    let config = StreamConfig { probe, reads: 1, ..config(1) };
    let spec = StreamSpec { on_lost_shard: OnLostShard::Skip, ..in_order(BATCH, 1) };
    let mut pipeline = bench.start(&spec, config, 0..1, Counts::default());
    while looked_at.load(SeqCst) < BATCH || decoding.load(SeqCst) < 2 {
        std::thread::yield_now();
    }
    happens(&bench.shard(0));
    *gate.0.lock().expect("nobody panics") = true;
    gate.1.notify_all();
    let line = Line::of(&pipeline.next().expect("a batch").expect("a sound one"));
    assert_eq!(line.samples.len() + line.quarantined.len(), BATCH);
    for stage in [Stage::Read, Stage::Decode, Stage::Augment] {
        let counted = bench.totals(stage).samples;
        assert!(!is_told || counted == line.samples.len() as u64, "{stage:?}: {counted} of {:?}", line.samples);
    }
    (is_told, line)
}

#[test]
fn a_shard_that_is_lost_before_a_worker_uses_it_is_found_lost() {
    let (is_told, line) = batch_while(|shard| fs::remove_file(shard).expect("a shard"));
    assert!(line.samples[0] == 0 && (!is_told || line.samples.len() == 1), "{:?}", line.samples);
    for bad in &line.quarantined {
        assert!(bad.reason == Reason::Lost && bad.detail.contains("gone"), "{bad:?}");
    }
}

/// To touch memory that is no part of a file any more would end the process.
#[test]
fn a_shard_that_is_cut_short_before_a_worker_uses_it_is_found_changed() {
    let cut = |shard: &Path| File::options().write(true).open(shard).and_then(|file| file.set_len(0)).expect("a shard");
    let (is_told, line) = batch_while(cut);
    assert!(line.samples[0] == 0 && (!is_told || line.samples.len() == 1), "{:?}", line.samples);
    for bad in &line.quarantined {
        assert!(bad.reason == Reason::Lost && bad.detail.contains("changed"), "{bad:?}");
    }
}
