//! What a sample costs beside the work on it: handing it from a reader to a worker, microseconds an item of the job queue
//! with next to no work behind it; counting it; and what one look at all counts costs.
//!
//!   cargo bench --bench handover

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use saccade::pipeline::queue::{OrderedQueue, QueueMeters};
use saccade::telemetry::{Activity, Queue, Stage, Telemetry};

const ITEMS: u64 = 1_000_000;

/// About the size of a sample on its way to a worker.
type Item = [u64; 20];

/// Wall time and processor time an item.
fn time(putters: u64, takers: usize, capacity: usize) -> (Duration, Duration) {
    let telemetry = Telemetry::new("handover");
    let meters = QueueMeters {
        depth: telemetry.queue(Queue::Read, capacity),
        starved: telemetry.stage(Stage::Decode),
        blocked: telemetry.stage(Stage::Batch),
    };
    let queue = Arc::new(OrderedQueue::<Item>::new(capacity, meters));
    let (start, processor) = (Instant::now(), processor());
    std::thread::scope(|scope| {
        for _ in 0..takers {
            scope.spawn(|| while queue.take().is_some() {});
        }
        let putters: Vec<_> = (0..putters)
            .map(|putter| {
                let (queue, mut spell) = (&queue, telemetry.stage(Stage::Read).spell(Activity::Busy));
                scope.spawn(move || {
                    (putter..ITEMS).step_by(putters as usize).for_each(|item| {
                        queue.put(item, [item; 20], &mut spell);
                    });
                })
            })
            .collect();
        for putter in putters {
            putter.join().expect("a putter does not panic");
        }
        queue.end();
    });
    (start.elapsed() / ITEMS as u32, (self::processor() - processor) / ITEMS as u32)
}

/// Time that a worker takes to count a sample as the pipeline does, while so many others do the same.
fn counting(workers: u32) -> Duration {
    const SAMPLES: u32 = 1_000_000;
    let telemetry = Telemetry::new("counting");
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let [read, decode, augment, mask, batch] =
                    [Stage::Read, Stage::Decode, Stage::Augment, Stage::Mask, Stage::Batch]
                        .map(|stage| telemetry.stage(stage));
                let mut counted = Instant::now();
                let mut lap = || {
                    let now = Instant::now();
                    now.saturating_duration_since(std::mem::replace(&mut counted, now))
                };
                for _ in 0..SAMPLES {
                    decode.busy(lap());
                    read.finished(Duration::ZERO, 800);
                    decode.sample(lap(), 800);
                    augment.sample(lap(), 2352);
                    mask.sample(lap(), 0);
                    batch.busy(lap());
                }
            });
        }
    });
    start.elapsed() / SAMPLES
}

/// Time of a look at everything, and the series that it finds.
fn scrape() -> (Duration, usize) {
    const LOOKS: u32 = 1000;
    let telemetry = Telemetry::new("scrape");
    let start = Instant::now();
    let lines = (0..LOOKS)
        .map(|_| telemetry.render().lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count())
        .max();
    (start.elapsed() / LOOKS, lines.unwrap_or_default())
}

fn processor() -> Duration {
    saccade::telemetry::processor_time().unwrap_or_default()
}

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    for (putters, takers) in [(1, 1), (1, 2), (2, 2), (2, 4), (2, 16)] {
        let (wall, processor) = time(putters, takers, (4 * takers).max(16));
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        writeln!(
            out,
            "{putters} readers, {takers:>2} workers: {:.2} us an item, {:.2} us of processor time",
            micros(wall),
            micros(processor)
        )?;
    }
    for workers in [1, 2, 4] {
        let micros = counting(workers).as_secs_f64() * 1e6;
        writeln!(out, "counting a sample, {workers} workers at once: {micros:.2} us")?;
    }
    let (time, lines) = scrape();
    writeln!(out, "a scrape of {lines} lines: {:.2} ms, without the network", time.as_secs_f64() * 1e3)
}
