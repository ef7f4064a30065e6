//! A real run, watched by a real Prometheus.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Stdio};

use crate::exposition;
use crate::prometheus::{Prometheus, get, scrape};
use crate::saccade::{at, saccade, small, temporary};

/// A run that goes on until it is dropped, if it does not end itself.
struct Run {
    child: Child,
    address: SocketAddr,
    /// What it says after its address.
    said: Lines<BufReader<ChildStderr>>,
    _folder: tempfile::TempDir,
}

impl Run {
    fn start() -> Self {
        Self::with(&["train.epochs=1000", "checkpoint.every_steps=1000"])
    }

    fn with(changes: &[&str]) -> Self {
        let folder = temporary();
        let out = folder.path().join("run");
        let mut command = saccade(&["train", "pipelines/quickstart.toml", "--out", at(&out)]);
        let mut child = small(&mut command, changes).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        let address = said
            .by_ref()
            .map(Result::unwrap)
            .inspect(|line| seen.push(line.clone()))
            .find_map(|line| line.strip_prefix("metrics at http://")?.strip_suffix("/metrics")?.parse().ok());
        let address = address.unwrap_or_else(|| panic!("the run says where its metrics are: {seen:?}"));
        Self { child, address, said, _folder: folder }
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

#[test]
fn who_scrapes_sees_the_loss_that_ended_the_run_after_its_reason_was_told() {
    // Fine at first, so that it is scraped before.
    let mut run = Run::with(&["train.learning_rate=[0.001, 1e30, 1e30]", "train.warmup_epochs=1"]);
    let (mut scrapes, mut last) = (0, String::new());
    while let Ok(answer) = get(run.address, "/metrics") {
        (scrapes, last) = (scrapes + 1, answer.body);
    }
    assert_eq!(run.child.wait().unwrap().code(), Some(1));
    let said = run.said.by_ref().map(Result::unwrap).collect::<Vec<_>>().join("\n");
    let reason = said.find("is not a number").unwrap_or_else(|| panic!("no reason: {said}"));
    assert!(said.find("metrics stay for one more scrape").is_some_and(|place| place > reason), "{said}");
    let value = |name: &str| -> f64 {
        let line = last.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in scrape {scrapes}:\n{last}")).parse().unwrap()
    };
    let (loss, norm) = (value("saccade_loss"), value("saccade_gradient_norm"));
    assert!(!(loss.is_finite() && norm.is_finite()), "scrape {scrapes}: loss {loss}, gradient norm {norm}");
}
