//! Which stage limits, over a window of looks.

use std::time::{Duration, Instant};

use saccade::telemetry::bottleneck::{Window, limiting};
use saccade::telemetry::{Stage, StageTotals};

fn worked(busy_milliseconds: &[(Stage, u64)]) -> Vec<(Stage, StageTotals)> {
    let totals = |busy| StageTotals { busy: Duration::from_millis(busy), ..StageTotals::default() };
    busy_milliseconds.iter().map(|(stage, busy)| (*stage, totals(*busy))).collect()
}

#[test]
fn a_window_forgets_what_is_older_than_it() {
    let start = Instant::now();
    let mut window = Window::new(start, worked(&[(Stage::Read, 0), (Stage::Train, 0)]));
    for second in 1..=200 {
        // The disk is slow at first; from the hundredth second on, the trainer is.
        let read = if second < 100 { second * 900 } else { 90_000 + (second - 100) };
        let train = if second < 100 { second } else { 100 + (second - 100) * 900 };
        let now = start + Duration::from_secs(second);
        let limits = window.look(now, worked(&[(Stage::Read, read), (Stage::Train, train)]));
        match second {
            0..100 => assert_eq!(limits, Some(Stage::Read), "at {second} s"),
            105.. => assert_eq!(limits, Some(Stage::Train), "at {second} s"),
            _ => {}
        }
        assert!(window.looks() <= 7, "{} looks at {second} s", window.looks());
    }
}

#[test]
fn a_step_longer_than_the_window_still_limits_while_it_lasts() {
    let start = Instant::now();
    let mut window = Window::new(start, worked(&[(Stage::Decode, 0), (Stage::Train, 0)]));
    for second in 1..200 {
        // Every 12 seconds a step ends; then the workers fill the room that it left in the queue.
        let steps = second / 12;
        let busy = [(Stage::Decode, 500 + 500 * steps), (Stage::Train, 12_000 * steps)];
        let limits = window.look(start + Duration::from_secs(second), worked(&busy));
        let expected = if steps == 0 { Stage::Decode } else { Stage::Train };
        assert_eq!(limits, Some(expected), "at {second} s");
    }
}

#[test]
fn a_stage_that_has_ended_is_forgotten_after_a_minute() {
    let start = Instant::now();
    let mut window = Window::new(start, worked(&[(Stage::Train, 0), (Stage::Eval, 0)]));
    for second in 1..200 {
        let busy = [(Stage::Train, 1000.min(second * 100)), (Stage::Eval, 0)];
        let limits = window.look(start + Duration::from_secs(second), worked(&busy));
        assert_eq!(limits, (second < 70).then_some(Stage::Train), "at {second} s");
    }
}

#[test]
fn many_looks_in_a_moment_are_remembered_once() {
    let start = Instant::now();
    let mut window = Window::new(start, worked(&[(Stage::Train, 0)]));
    for millisecond in 0..1000 {
        window.look(start + Duration::from_millis(millisecond), worked(&[(Stage::Train, 1)]));
    }
    assert_eq!(window.looks(), 2);
}

#[test]
fn fetching_limits_by_the_share_in_which_readers_wait_for_it_however_busy_it_is() {
    let second = Duration::from_secs(1);
    let of = |starved: u64, train: u64| {
        let read = StageTotals {
            starved: Duration::from_millis(starved),
            blocked: Duration::from_millis(2000 - starved),
            ..StageTotals::default()
        };
        let busy = worked(&[(Stage::Fetch, 8000), (Stage::Train, train)]);
        limiting(&[&busy[..], &[(Stage::Read, read)]].concat(), second)
    };
    // Eight threads that fill a large disk ahead of a trainer that never waits.
    assert_eq!(of(0, 950), Some(Stage::Train));
    assert_eq!(of(1800, 100), Some(Stage::Fetch));
    assert_eq!(of(600, 700), Some(Stage::Train));
    // Before there is a stream, shards are fetched to be indexed.
    assert_eq!(limiting(&worked(&[(Stage::Fetch, 8000)]), second), Some(Stage::Fetch));
}

#[test]
fn reading_limits_by_the_share_in_which_workers_wait_for_it_however_many_readers_wait_for_room() {
    let of = |workers_starve: u64, read_busy: u64, read_starved: u64, train: u64| {
        let milliseconds = Duration::from_millis;
        let accounted = |busy: u64, starved: u64, whole: u64| StageTotals {
            busy: milliseconds(busy),
            starved: milliseconds(starved),
            blocked: milliseconds(whole - busy - starved),
            ..StageTotals::default()
        };
        // In one second: 64 readers, two workers, and one thread that trains.
        let read = (Stage::Read, accounted(read_busy, read_starved, 64_000));
        let decode = (Stage::Decode, accounted(40, workers_starve, 2_000));
        let fetch = (Stage::Fetch, accounted(1_000, 0, 1_000));
        let train = (Stage::Train, accounted(train, 1_000 - train, 1_000));
        limiting(&[fetch, read, decode, train], Duration::from_secs(1))
    };
    // Four of the readers wait for a slow disk, the others for room; the trainer has nothing to do.
    assert_eq!(of(1_900, 3_800, 0, 90), Some(Stage::Read));
    // The trainer is what there is no room for; now and then a group begins to be read.
    assert_eq!(of(60, 120, 0, 950), Some(Stage::Train));
    assert_eq!(of(1_000, 2_000, 0, 950), Some(Stage::Train));
    // Who waits for a shard does not read slowly.
    assert_eq!(of(1_900, 40, 60_000, 90), Some(Stage::Fetch));
}
