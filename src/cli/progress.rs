//! How a run looks while it goes on: a bar on a terminal, plain lines elsewhere, both on standard error.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Plan;
use crate::run::score::Scores;
use crate::run::text::{count, percent};
use crate::run::{Event, StepLine};
use crate::shard::Complaint;
use crate::telemetry::Telemetry;

/// Plain lines that a whole run prints, about.
const LINES: u64 = 20;
/// Where there is no bar, how far a scatter or a verification is is said no more often.
pub const LINE_EVERY: Duration = Duration::from_secs(10);
/// How much the latest step counts in the rate shown.
const RATE_SHARE: f64 = 0.1;

/// Shows the events of a run.
pub struct Progress {
    bar: Option<ProgressBar>,
    telemetry: Telemetry,
    every: u64,
    steps: u64,
    rate: Option<f64>,
    folder: String,
    address: Option<SocketAddr>,
}

impl Progress {
    pub fn new(plan: &Plan, folder: &Path, address: Option<SocketAddr>, telemetry: Telemetry) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left, {msg}");
            ProgressBar::new(plan.steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let every = (plan.steps / LINES).max(1);
        Self { bar, telemetry, every, steps: plan.steps, rate: None, folder: folder.display().to_string(), address }
    }

    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Started { plan, device, from } => self.started(plan, device, *from),
            Event::Notice(text) => self.line(text),
            Event::Step(line) => self.step(line),
            Event::Saved { step } => tracing::debug!(step, "checkpoint saved"),
            Event::Scored(scores) => self.line(&table(scores)),
        }
    }

    pub fn end(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn started(&mut self, plan: &Plan, device: &str, from: u64) {
        let (samples, parameters) = (count(plan.train.len() as u64), count(plan.parameters()));
        self.line(&format!(
            "run {}: {samples} samples, {parameters} parameters, {} steps on {device}",
            self.folder, plan.steps
        ));
        self.line(&format!("JPEGs are decoded by {}", plan.config.decode.jpeg.describe()));
        if let Some(address) = self.address {
            self.line(&format!("metrics at http://{address}/metrics"));
        }
        for line in complaints(plan) {
            self.line(&line);
        }
        if from > 0 {
            self.line(&format!("going on after step {from}"));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(from);
            bar.reset_eta();
        }
    }

    fn step(&mut self, line: &StepLine) {
        let rate =
            self.rate.map_or(line.samples_per_second, |rate| rate + RATE_SHARE * (line.samples_per_second - rate));
        self.rate = Some(rate);
        let done = line.step + 1;
        let limit = self.telemetry.bottleneck().map_or_else(|| "-".into(), |stage| stage.to_string());
        let mut text = format!("loss {:.4}, {rate:.0} samples/s, limited by {limit}", line.loss);
        for collapse in &line.collapses {
            text += &format!("; {collapse}");
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(text);
            }
            None if done.is_multiple_of(self.every) || done == self.steps => {
                self.line(&format!("step {done}/{}  epoch {}  {text}", self.steps, line.epoch));
            }
            None => {}
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            // A closed standard error must not end a run.
            Some(bar) => bar.suspend(|| drop(writeln!(io::stderr(), "{text}"))),
            None => drop(writeln!(io::stderr(), "{text}")),
        }
    }
}

fn table(scores: &Scores) -> String {
    let Scores { step, k, train_samples, validation_samples, .. } = scores;
    let rows = [
        (format!("target encoder after {step} steps"), scores.knn),
        ("the same before training".into(), scores.baselines.knn_before_training),
        ("raw pixels".into(), scores.baselines.knn_raw_pixels),
    ];
    let rows = rows.map(|(name, share)| format!("  {name:<36}{:>8}", percent(share)));
    let more = scores.target.as_ref().map_or_else(String::new, |found| {
        let probe = found.probe.map_or_else(|| "none".into(), |probe| percent(probe.top1));
        let [alpha, lidar] = [found.alpha, found.lidar]
            .map(|number| number.map_or_else(|| "none".into(), |number| format!("{number:.2}")));
        format!("\n  linear probe {probe}, RankMe {:.2}, alpha-ReQ {alpha}, LiDAR {lidar}", found.rankme)
    });
    let head =
        format!("kNN, k = {k}, cosine; {train_samples} training samples, {validation_samples} validation samples");
    format!("{head}\n{}{more}", rows.join("\n"))
}

/// What is wrong with samples of a Plan's shards: a line per split and kind, with the first of each.
pub fn complaints(plan: &Plan) -> Vec<String> {
    let validation = plan.validation.iter().map(|set| ("validation", set));
    let mut lines = Vec::new();
    for (split, set) in std::iter::once(("train", &plan.train)).chain(validation) {
        let mut kinds: BTreeMap<(bool, String), (usize, &Complaint)> = BTreeMap::new();
        for complaint in set.complaints() {
            kinds.entry((complaint.left_out, complaint.why.to_string())).or_insert((0, complaint)).0 += 1;
        }
        let line = |((left_out, _), (samples, first)): (&(bool, String), &(usize, &Complaint))| {
            let fate = if *left_out { "left out" } else { "kept without a label" };
            format!("data.{split}: {} samples {fate}, the first: {first}", count(*samples as u64))
        };
        lines.extend(kinds.iter().map(line));
    }
    lines
}

/// Bytes in the unit that leaves one to four digits.
pub fn bytes(number: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let power = (number.max(1).ilog10() / 3).min(units.len() as u32 - 1);
    let value = number as f64 / 1000f64.powi(power as i32);
    if power == 0 { format!("{number} bytes") } else { format!("{value:.1} {}", units[power as usize]) }
}

/// How long as much as is left takes at a rate in the second.
pub fn time_left(left: u64, rate: f64) -> String {
    let seconds = left as f64 / rate.max(f64::MIN_POSITIVE);
    if seconds < 1e9 { time(seconds) } else { "-".into() }
}

/// Seconds in the two units that matter.
fn time(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}
