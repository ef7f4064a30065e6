//! Who waits for whom: the worker pool's order, and that every moment of every worker is counted, under its own name.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use saccade::pipeline::queue::{OrderedQueue, QueueMeters};
use saccade::pipeline::{Counts, MaskMode, Pipeline, Probe, StreamConfig};
use saccade::telemetry::{Activity, Queue, Stage, StageTotals, Telemetry};

use super::{Bench, config, picture, pixmap, spec};

const POOL: [Stage; 4] = [Stage::Decode, Stage::Augment, Stage::Mask, Stage::Batch];

fn queue(telemetry: &Telemetry, capacity: usize) -> OrderedQueue<u64> {
    let meters = QueueMeters {
        depth: telemetry.queue(Queue::Read, capacity),
        starved: telemetry.stage(Stage::Decode),
        blocked: telemetry.stage(Stage::Batch),
    };
    OrderedQueue::new(capacity, meters)
}

fn probe(probe: impl Fn(Stage, u32) + Sync + 'static) -> Probe {
    Probe::new(Box::leak(Box::new(probe)))
}

#[test]
fn the_earliest_sample_is_taken_first_whoever_read_it() {
    let telemetry = Telemetry::new("test");
    let queue = queue(&telemetry, 8);
    let mut spell = telemetry.stage(Stage::Read).spell(Activity::Busy);
    for position in [16, 17, 3, 18, 1, 2] {
        assert!(queue.put(position, position * 10, &mut spell));
    }
    let take = || queue.take().map(|(value, _)| value);
    assert_eq!([(); 3].map(|()| take()), [Some(10), Some(20), Some(30)]);
    queue.end();
    assert_eq!([(); 4].map(|()| take()), [Some(160), Some(170), Some(180), None]);
    queue.close();
    assert!(!queue.put(1, 1, &mut spell) && take().is_none());
}

#[test]
fn everybody_who_waits_for_room_gets_it() {
    const WAITING: u64 = 9;
    let telemetry = Telemetry::new("test");
    let queue = queue(&telemetry, 4);
    let put = |position: u64| {
        let mut spell = telemetry.stage(Stage::Read).spell(Activity::Busy);
        assert!(queue.put(position, position, &mut spell));
    };
    (0..4).for_each(put);
    std::thread::scope(|scope| {
        for position in 4..4 + WAITING {
            let put = &put;
            scope.spawn(move || put(position));
        }
        let mut taken: Vec<u64> = (0..4 + WAITING).filter_map(|_| queue.take()).map(|(value, _)| value).collect();
        taken.sort_unstable();
        assert_eq!(taken, (0..4 + WAITING).collect::<Vec<_>>());
    });
}

#[test]
fn slow_samples_hold_up_nothing_but_their_own_batches() {
    /// One in twenty, as many as there are workers but one.
    const SLOW: [u32; 3] = [3, 25, 47];
    let bench = Bench::new(&[60], picture);
    // The probe knows samples by number, so that the order does not matter: an epoch has each of them once.
    let gate: &'static (Mutex<bool>, Condvar) = Box::leak(Box::default());
    let held: &'static AtomicUsize = Box::leak(Box::default());
    let probe = probe(move |stage, sample| {
        if stage == Stage::Decode && SLOW.contains(&sample) {
            held.fetch_add(1, SeqCst);
            let open = gate.0.lock().expect("nobody panics");
            drop(gate.1.wait_while(open, |open| !*open).expect("nobody panics"));
        }
    });
    let config = StreamConfig { batches_ahead: 3, probe, ..config(4) };
    let mut pipeline = bench.start(&spec(20, MaskMode::PerSample), config, 0..3, Counts::default());
    // All of three batches but the slow samples are done while those are not, by the one worker that is left.
    while bench.totals(Stage::Mask).samples < 57 || held.load(SeqCst) < 3 {
        std::thread::yield_now();
    }
    *gate.0.lock().expect("nobody panics") = true;
    gate.1.notify_all();
    let steps: Vec<u64> =
        std::iter::from_fn(|| pipeline.next()).map(|batch| batch.expect("a sound batch").step).collect();
    assert_eq!(steps, [0, 1, 2]);
}

fn sum(bench: &Bench, stages: &[Stage]) -> Duration {
    stages.iter().map(|stage| bench.totals(*stage).accounted()).sum()
}

fn check_share(what: &str, accounted: Duration, wall: Duration, workers: u32) {
    let share = accounted.as_secs_f64() / (wall * workers).as_secs_f64();
    assert!((0.95..=1.05).contains(&share), "{what}: {accounted:?} of {workers} x {wall:?}");
}

/// Draws batches for a while as a trainer does, spending `pause` on each.
fn consume(bench: &Bench, pipeline: &mut Pipeline, until: Duration, pause: Duration) {
    let (mut spell, start) = (bench.telemetry.stage(Stage::Train).spell(Activity::Starved), Instant::now());
    while start.elapsed() < until {
        assert!(matches!(pipeline.next(), Some(Ok(_))));
        spell.turn_to(Activity::Busy);
        spend(pause);
        spell.turn_to(Activity::Starved);
    }
}

/// Lets time pass without a processor, so that tests beside this one are not in the way.
fn spend(time: Duration) {
    let (never, start) = ((Mutex::new(()), Condvar::new()), Instant::now());
    while start.elapsed() < time {
        let lock = never.0.lock().expect("nobody panics");
        drop(never.1.wait_timeout(lock, time.saturating_sub(start.elapsed())));
    }
}

#[test]
fn every_moment_of_readers_workers_and_consumer_is_counted_once() {
    // Limited by the workers, by the consumer, and by the disk; and where workers get what they need themselves.
    for (pause, read, extension) in [(0, 0, "jpg"), (4000, 0, "jpg"), (0, 1000, "jpg"), (0, 0, "ppm")] {
        let bench = Bench::named(&[30, 30], extension, if extension == "ppm" { pixmap } else { picture });
        let (workers, reads) = (3, 2);
        let probe = probe(move |stage, _| {
            if stage == Stage::Read {
                spend(Duration::from_micros(read))
            }
        });
        let config = StreamConfig { reads, batches_ahead: 2, probe, ..config(workers) };
        let mut pipeline = bench.start(&spec(16, MaskMode::PerSample), config, 0..1_000_000, Counts::default());
        // Threads need a moment to begin.
        consume(&bench, &mut pipeline, Duration::from_millis(20), Duration::ZERO);
        let stages: [&[Stage]; 3] = [&POOL, &[Stage::Read], &[Stage::Train]];
        let (before, start) = (stages.map(|stages| sum(&bench, stages)), Instant::now());
        consume(&bench, &mut pipeline, Duration::from_millis(300), Duration::from_micros(pause));
        let (after, wall) = (stages.map(|stages| sum(&bench, stages)), start.elapsed());
        for ((workers, what), (after, before)) in
            [(workers as u32, "workers"), (reads as u32, "reads"), (1, "consumer")]
                .into_iter()
                .zip(after.into_iter().zip(before))
        {
            check_share(&format!("{what}, pause {pause}, read {read}"), after - before, wall, workers);
        }
    }
}

#[test]
fn workers_that_wait_for_a_slow_disk_are_starved_even_where_batches_are_small() {
    for batch in [2, 4, 16] {
        let bench = Bench::new(&[30], picture);
        let probe = probe(|stage, _| {
            if stage == Stage::Read {
                spend(Duration::from_millis(1))
            }
        });
        // While one batch is read there is no room for another, and one of the two reads waits for it.
        let config = StreamConfig { batches_ahead: 1, reads: 2, probe, ..config(2) };
        let mut pipeline = bench.start(&spec(batch, MaskMode::PerSample), config, 0..1_000_000, Counts::default());
        consume(&bench, &mut pipeline, Duration::from_millis(100), Duration::ZERO);
        let (starved, blocked) = (bench.totals(Stage::Decode).starved, bench.totals(Stage::Batch).blocked);
        assert!(starved > 2 * blocked, "batches of {batch}: starved for {starved:?}, blocked for {blocked:?}");
    }
}

#[test]
fn a_wait_is_counted_while_it_lasts() {
    let bench = Bench::new(&[30], picture);
    let pipeline = bench.start(&spec(4, MaskMode::PerSample), config(2), 0..1000, Counts::default());
    // Nobody takes a batch: workers and readers wait in what is one single wait for each, and no total ever falls.
    let mut before = StageTotals::default();
    while before.blocked < Duration::from_millis(20) || bench.totals(Stage::Read).blocked < Duration::from_millis(20) {
        let now = bench.totals(Stage::Batch);
        assert!(now.blocked >= before.blocked);
        before = now;
        std::thread::yield_now();
    }
    assert_eq!(before.samples, 12);
    drop(pipeline);
}

/// Which stage limits a short stream where one stage takes its time: for each sample or, in the last two, each batch.
fn limiting(bench: &Bench, slow: Stage) -> Option<Stage> {
    let probe = probe(move |stage, _| {
        if stage == slow {
            spend(if stage == Stage::Batch { Duration::from_millis(3) } else { Duration::from_micros(400) });
        }
    });
    let config = StreamConfig { probe, ..config(2) };
    let mut pipeline = bench.start(&spec(8, MaskMode::PerSample), config, 0..1_000_000, Counts::default());
    let pause = if slow == Stage::Train { Duration::from_millis(2) } else { Duration::ZERO };
    consume(bench, &mut pipeline, Duration::from_millis(13), pause);
    bench.telemetry.bottleneck()
}

#[test]
fn the_stage_that_takes_its_time_is_the_one_that_is_named() {
    const TRIALS: usize = 100;
    let mut bench = Bench::new(&[30], picture);
    for slow in [Stage::Read, Stage::Decode, Stage::Augment, Stage::Mask, Stage::Batch, Stage::Train] {
        let mut others = Vec::new();
        for _ in 0..TRIALS {
            bench.telemetry = Telemetry::new("test");
            others.extend(Some(limiting(&bench, slow)).filter(|named| *named != Some(slow)));
        }
        assert!(others.len() * 20 <= TRIALS, "{slow}: {} of {TRIALS} trials name {others:?}", others.len());
    }
}
