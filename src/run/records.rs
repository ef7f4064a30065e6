//! Lines that say where a run's time went, and on which machine it ran.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::telemetry::Telemetry;

/// When this process took a run up, by both clocks: one that only goes forward, and one that tells processes apart.
pub struct TakenUp {
    at: Instant,
    since_1970: Duration,
}

impl TakenUp {
    pub fn now() -> Self {
        Self { at: Instant::now(), since_1970: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }
}

/// What every stage has done since this process took the run up: `step` steps are done.
pub fn stages(telemetry: &Telemetry, step: u64, taken_up: &TakenUp) -> Value {
    let stages = telemetry.stages().into_iter().filter(|(_, totals)| totals.accounted() > Duration::ZERO);
    let line = stages.map(|(stage, totals)| {
        let [busy, starved, blocked] = [totals.busy, totals.starved, totals.blocked].map(|time| time.as_secs_f64());
        let figures = json!({
            "samples": totals.samples, "bytes": totals.bytes, "busy": busy, "starved": starved, "blocked": blocked,
        });
        (stage.name().to_owned(), figures)
    });
    let line: serde_json::Map<String, Value> = line.collect();
    // Exact in a JSON reader that knows doubles only, until the year 2255.
    let begun = taken_up.since_1970.as_micros() as u64;
    let seconds = taken_up.at.elapsed().as_secs_f64();
    json!({ "step": step, "begun_unix_microseconds": begun, "seconds": seconds, "stages": line })
}

/// A run is begun, or taken up again after `step` steps.
pub fn session(step: u64, device: &str) -> Value {
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({
        "step": step, "begun_unix_seconds": begun, "version": env!("CARGO_PKG_VERSION"), "device": device,
        "processor": processor(), "threads": std::thread::available_parallelism().map_or(1, usize::from),
        "memory_bytes": memory(), "system": std::env::consts::OS,
    })
}

/// As the processor names itself, where the system tells.
fn processor() -> Option<String> {
    let told = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim_end().to_owned())
}

fn memory() -> Option<u64> {
    let told = fs::read_to_string("/proc/meminfo").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(1024 * line.split_whitespace().next()?.parse::<u64>().ok()?)
}
