//! Metrics of GPUs, from a driver's library that is made for the test: what is told is exported in its unit, what is not
//! told is absent. What is where there is no such library, the tests of the port see.
#![cfg(feature = "nvml")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use saccade::telemetry::Telemetry;

/// Far more than a thread takes to begin on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        thread::yield_now();
    }
}

struct Driver {
    library: PathBuf,
    /// Where the library leaves its mark when it is shut down.
    ended: PathBuf,
    /// While it is there, the first GPU answers nothing.
    lost: PathBuf,
}

/// Compiles the library.
fn driver(folder: &Path) -> Driver {
    let [library, ended, lost] = ["libnvidia-ml.so", "ended", "lost"].map(|name| folder.join(name));
    let [when_ended, when_lost] =
        [("ENDED", &ended), ("LOST", &lost)].map(|(name, path)| format!("-D{name}=\"{}\"", path.display()));
    let flags = ["-shared", "-fPIC", &when_ended, &when_lost, "-o"];
    let cc = Command::new("cc").args(flags).arg(&library).arg("tests/data/nvml/driver.c").output().unwrap();
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    Driver { library, ended, lost }
}

fn lines(telemetry: &Telemetry) -> Vec<String> {
    let text = telemetry.render();
    let mut lines: Vec<String> =
        text.lines().filter(|line| line.starts_with("saccade_gpu_")).map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn what_the_driver_tells_is_exported_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let Driver { library, ended, .. } = driver(folder.path());
    let telemetry = Telemetry::new("run");
    assert_eq!(lines(&telemetry), Vec::<String>::new());
    telemetry.watch_gpus(Some(&library)).unwrap();
    let expected = [
        r#"saccade_gpu_busy_ratio{gpu="0"} 0.87"#,
        r#"saccade_gpu_busy_ratio{gpu="1"} 0.03"#,
        r#"saccade_gpu_memory_bytes{gpu="0"} 85899345920"#,
        r#"saccade_gpu_memory_used_bytes{gpu="0"} 63350767616"#,
        r#"saccade_gpu_pcie_bytes_per_second{gpu="0",direction="received"} 1500000000"#,
        r#"saccade_gpu_pcie_bytes_per_second{gpu="0",direction="sent"} 2500000"#,
        r#"saccade_gpu_power_watts{gpu="0"} 612.345"#,
        r#"saccade_gpu_temperature_celsius{gpu="0"} 64"#,
    ];
    until("eight series of two GPUs", || lines(&telemetry).len() == expected.len());
    assert_eq!(lines(&telemetry), expected);
    assert!(!ended.exists());
    drop(telemetry);
    until("the library is shut down after the last to watch has gone", || ended.exists());
}

#[test]
fn gpu_that_answers_no_longer_shows_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let Driver { library, lost, .. } = driver(folder.path());
    let telemetry = Telemetry::new("run");
    telemetry.watch_gpus(Some(&library)).unwrap();
    let numbers = || lines(&telemetry).into_iter().filter(|line| !line.ends_with(" NaN")).collect::<Vec<_>>();
    until("eight series of two GPUs", || numbers().len() == 8);
    fs::write(&lost, "").unwrap();
    until("the first GPU has no number left", || numbers() == [r#"saccade_gpu_busy_ratio{gpu="1"} 0.03"#]);
    assert_eq!(lines(&telemetry).len(), 8);
    fs::remove_file(&lost).unwrap();
    until("the first GPU is back", || numbers().len() == 8);
}
