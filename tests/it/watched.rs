//! A real run, watched by a real Prometheus.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use crate::exposition;
use crate::prometheus::{Prometheus, get, scrape};
use crate::saccade::{at, saccade, small, temporary};

/// A run that goes on until it is dropped.
struct Run {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Run {
    fn start() -> Self {
        let folder = temporary();
        let out = folder.path().join("run");
        let mut command = saccade(&["train", "pipelines/quickstart.toml", "--out", at(&out)]);
        let mut child = small(&mut command, &["train.epochs=1000", "checkpoint.every_steps=1000"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut seen = Vec::new();
        let address = lines
            .inspect(|line| seen.push(line.clone()))
            .find_map(|line| line.strip_prefix("metrics at http://")?.strip_suffix("/metrics")?.parse().ok());
        let address = address.unwrap_or_else(|| panic!("the run says where its metrics are: {seen:?}"));
        Self { child, address, _folder: folder }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn prometheus_sees_the_main_series_of_a_run_move() {
    let run = Run::start();
    let prometheus = Prometheus::start(run.address.port());
    let some = |query: &str| prometheus.wait_for(query, |series| series.iter().any(|one| one.value > 0.0));
    for stage in ["read", "decode", "augment", "mask", "batch", "upload", "train"] {
        some(&format!("increase(saccade_stage_samples_total{{stage=\"{stage}\"}}[10s])"));
        some(&format!("saccade_stage_busy_seconds_total{{stage=\"{stage}\"}}"));
    }
    for series in [
        "saccade_loss",
        "saccade_gradient_norm",
        "saccade_feature_deviation",
        "saccade_learning_rate",
        "saccade_ema_decay",
        "saccade_samples_per_second",
    ] {
        some(series);
    }
    some("delta(saccade_step[10s])");
    some("rate(saccade_stage_bytes_total{stage=\"read\"}[10s])");
    some("rate(saccade_step_seconds_count[10s])");
    some("histogram_quantile(0.5, rate(saccade_stage_sample_seconds_bucket{stage=\"decode\"}[10s]))");
    // On two cores a step takes far longer than its samples take to load.
    let limits = some("saccade_bottleneck == 1");
    assert_eq!(limits[0].labels["stage"], "train");
}

#[test]
fn run_answers_from_its_first_second() {
    let run = Run::start();
    assert_eq!(get(run.address, "/healthz").unwrap().body, "ok");
    let families = exposition::parse(&scrape(run.address));
    for name in [
        "saccade_stage_starved_seconds_total",
        "saccade_queue_capacity",
        "saccade_steps_planned",
        "process_cpu_seconds_total",
    ] {
        assert!(families.contains_key(name), "{name} is missing");
    }
}
