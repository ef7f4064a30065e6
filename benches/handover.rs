//! What it costs to hand a sample from a reader to a worker: microseconds an item of the job queue, with next to no
//! work behind it.
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
    Ok(())
}
