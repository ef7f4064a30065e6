//! The process as the operating system sees it: processor time, memory, descriptors, threads.
//!
//! Comes in: `/proc` and `getrusage`. Goes out: the metrics that every Prometheus client calls `process_*`. What the
//! system does not tell is absent, never an error.

use std::fs;
use std::time::Duration;

use metrics::Gauge;

use super::catalogue::{self, Metric};
use super::exporter::Exporter;

/// The gauges of what this system tells.
pub(super) struct Machine {
    memory: Option<Gauge>,
    threads: Option<Gauge>,
    descriptors: Option<Gauge>,
}

impl Machine {
    pub fn new(exporter: &Exporter) -> Self {
        let told = |value: Option<f64>, metric: &Metric| value.map(|_| exporter.gauge(metric, &[]));
        if let Some(seconds) = start_seconds() {
            exporter.gauge(&catalogue::PROCESS_START, &[]).set(seconds);
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            memory: told(resident_bytes(&status), &catalogue::PROCESS_MEMORY),
            threads: told(threads(&status), &catalogue::PROCESS_THREADS),
            descriptors: told(open_descriptors(), &catalogue::PROCESS_DESCRIPTORS),
        }
    }

    pub fn publish(&self) {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        update(&self.memory, resident_bytes(&status));
        update(&self.threads, threads(&status));
        update(&self.descriptors, open_descriptors());
    }
}

fn update(gauge: &Option<Gauge>, value: Option<f64>) {
    if let (Some(gauge), Some(value)) = (gauge, value) {
        gauge.set(value);
    }
}

fn resident_bytes(status: &str) -> Option<f64> {
    status_number(status, "VmRSS:").map(|kibibytes| kibibytes * 1024.0)
}

fn threads(status: &str) -> Option<f64> {
    status_number(status, "Threads:")
}

fn status_number(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes of memory that this machine has.
pub fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn open_descriptors() -> Option<f64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the folder that is being read.
    Some(entries.saturating_sub(1) as f64)
}

/// The machine's start plus the ticks from then to the start of the process (proc(5), field 22 of `stat`).
fn start_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything, so count from its end.
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: f64 = after_name.split_whitespace().nth(19)?.parse().ok()?;
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + ticks / ticks_per_second()?)
}

#[expect(unsafe_code, reason = "the standard library does not tell the clock's rate")]
fn ticks_per_second() -> Option<f64> {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    (ticks > 0).then_some(ticks as f64)
}

/// Processor time of all threads, user and system.
#[expect(unsafe_code, reason = "the standard library does not tell the processor time")]
pub fn processor_time() -> Option<Duration> {
    // SAFETY: `rusage` holds only integers, for which zeros are valid, and getrusage writes to nothing else.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) == 0).then_some(usage)
    }?;
    Some(duration(usage.ru_utime) + duration(usage.ru_stime))
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default());
    seconds.saturating_add(Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or_default()))
}
