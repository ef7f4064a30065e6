//! The records of a run → curves over its steps, what collapsed, where the time went, what was quarantined.
//!
//! A line that is no JSON, as the last one of a killed run may be, is passed over; a field that is missing is absent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::telemetry::bottleneck::limiting;
use crate::telemetry::{Stage, StageTotals};
use crate::train::collapse::Collapse;

/// Quarantined samples that are listed; all are counted.
const MOST_LISTED: usize = 50;

/// Curves by name: steps and values.
pub type Curves = BTreeMap<String, Vec<[f64; 2]>>;

/// What `steps.jsonl` says.
#[derive(Debug, Default)]
pub struct Steps {
    pub count: u64,
    pub curves: Curves,
    /// What collapsed, with the last step at which it was so.
    pub collapses: Vec<(Collapse, u64)>,
    /// Step, and the energies before each iteration and after the last one.
    pub energies: Vec<(u64, Vec<f64>)>,
    /// Right, and of how many, by the step.
    probed: Vec<[f64; 3]>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    step: u64,
    loss: Option<f64>,
    terms: BTreeMap<String, Option<f64>>,
    learning_rate: Option<f64>,
    weight_decay: Option<f64>,
    ema_decay: Option<f64>,
    gradient_norm: Option<f64>,
    samples_per_second: Option<f64>,
    data_wait_seconds: Option<f64>,
    probe: Option<Probe>,
    features: BTreeMap<String, Features>,
    energies: Vec<f64>,
    collapses: Vec<Collapse>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Probe {
    right: f64,
    of: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Features {
    deviation: Option<f64>,
    rankme: Option<f64>,
    alpha: Option<f64>,
}

impl Steps {
    pub fn read(path: &Path) -> Self {
        let mut steps = Self::default();
        for line in lines::<Line>(path) {
            steps.add(line);
        }
        steps
    }

    fn add(&mut self, line: Line) {
        self.count = line.step + 1;
        let at = line.step as f64;
        let mut put = |name: String, value: Option<f64>| {
            if let Some(value) = value {
                self.curves.entry(name).or_default().push([at, value]);
            }
        };
        put("loss".into(), line.loss);
        put("learning rate".into(), line.learning_rate);
        put("weight decay".into(), line.weight_decay);
        put("EMA decay".into(), line.ema_decay);
        put("gradient norm".into(), line.gradient_norm);
        put("samples/s".into(), line.samples_per_second);
        put("wait".into(), line.data_wait_seconds);
        for (name, value) in line.terms {
            put(format!("term/{name}"), value);
        }
        for (output, Features { deviation, rankme, alpha }) in line.features {
            put(format!("deviation/{output}"), deviation);
            put(format!("rankme/{output}"), rankme);
            put(format!("alpha/{output}"), alpha);
        }
        if let Some(Probe { right, of }) = line.probe {
            self.probed.push([at, right, of]);
        }
        if !line.energies.is_empty() {
            self.energies.push((line.step, line.energies));
        }
        for collapse in line.collapses {
            match self.collapses.iter_mut().find(|(known, _)| *known == collapse) {
                Some((_, last)) => *last = line.step,
                None => self.collapses.push((collapse, line.step)),
            }
        }
    }

    /// A curve, empty where there is none.
    pub fn curve(&self, name: &str) -> Vec<[f64; 2]> {
        self.curves.get(name).cloned().unwrap_or_default()
    }

    /// The curves whose names begin so, by the rest of their names.
    pub fn curves_of(&self, group: &str) -> Vec<(String, Vec<[f64; 2]>)> {
        let of = |(name, points): (&String, &Vec<[f64; 2]>)| {
            Some((name.strip_prefix(group)?.strip_prefix('/')?.to_owned(), points.clone()))
        };
        self.curves.iter().filter_map(of).collect()
    }

    /// The online probe's accuracy, over so many scored samples at a time.
    pub fn probe(&self, samples: f64) -> Vec<[f64; 2]> {
        let (mut curve, mut right, mut of) = (Vec::new(), 0.0, 0.0);
        for [step, more_right, more] in &self.probed {
            right += more_right;
            of += more;
            if of >= samples {
                curve.push([*step, right / of]);
                (right, of) = (0.0, 0.0);
            }
        }
        curve
    }

    /// The middle one of a curve's values, sorted.
    pub fn median(&self, name: &str) -> Option<f64> {
        let mut values: Vec<f64> = self.curves.get(name)?.iter().map(|point| point[1]).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

/// Where the time went: over all processes that had the run, and between two notes of it.
#[derive(Debug, Default)]
pub struct Times {
    pub whole: Vec<(Stage, StageTotals)>,
    pub seconds: f64,
    /// Of each stage the share of its time in which it worked, up to each step.
    pub busy: Curves,
    pub limiting: Option<Stage>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Noted {
    step: f64,
    seconds: f64,
    stages: BTreeMap<String, Spent>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Spent {
    samples: u64,
    bytes: u64,
    busy: f64,
    starved: f64,
    blocked: f64,
}

impl Spent {
    fn totals(self) -> StageTotals {
        // Numbers of a file: what is negative or no number counts as nothing.
        let time = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let [busy, starved, blocked] = [self.busy, self.starved, self.blocked].map(time);
        StageTotals { samples: self.samples, bytes: self.bytes, skipped: 0, busy, starved, blocked }
    }
}

impl Times {
    pub fn read(path: &Path) -> Self {
        let mut times = Self::default();
        let mut before = Noted::default();
        for noted in lines::<Noted>(path) {
            // Less than before: another process took the run up.
            if noted.seconds < before.seconds {
                before = Noted::default();
            }
            times.add(&noted, &before);
            before = noted;
        }
        times.limiting = limiting(&times.whole, Duration::try_from_secs_f64(times.seconds).unwrap_or_default());
        times
    }

    fn add(&mut self, noted: &Noted, before: &Noted) {
        self.seconds += noted.seconds - before.seconds;
        for stage in Stage::ALL {
            let of = |noted: &Noted| noted.stages.get(stage.name()).copied().unwrap_or_default().totals();
            let since = of(noted).since(&of(before));
            let whole = match self.whole.iter_mut().find(|(known, _)| *known == stage) {
                Some((_, whole)) => whole,
                None if since.accounted().is_zero() => continue,
                None => {
                    self.whole.push((stage, StageTotals::default()));
                    let Some((_, whole)) = self.whole.last_mut() else { continue };
                    whole
                }
            };
            *whole = StageTotals {
                samples: whole.samples + since.samples,
                bytes: whole.bytes + since.bytes,
                skipped: 0,
                busy: whole.busy + since.busy,
                starved: whole.starved + since.starved,
                blocked: whole.blocked + since.blocked,
            };
            if !since.accounted().is_zero() {
                let share = since.busy.as_secs_f64() / since.accounted().as_secs_f64();
                self.busy.entry(stage.name().into()).or_default().push([noted.step, share]);
            }
        }
    }
}

/// Samples that could not be used.
#[derive(Debug, Default)]
pub struct Quarantine {
    pub count: usize,
    pub reasons: BTreeMap<String, usize>,
    pub first: Vec<Left>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Left {
    pub step: u64,
    pub key: String,
    pub shard: String,
    pub reason: String,
    pub detail: String,
}

impl Quarantine {
    pub fn read(path: &Path) -> Self {
        let mut found = Self::default();
        for left in lines::<Left>(path) {
            found.count += 1;
            *found.reasons.entry(left.reason.clone()).or_default() += 1;
            if found.first.len() < MOST_LISTED {
                found.first.push(left);
            }
        }
        found
    }
}

/// When and on which machine the run was begun and taken up.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Session {
    pub step: u64,
    pub begun_unix_seconds: u64,
    pub version: String,
    pub device: String,
    pub processor: Option<String>,
    pub threads: u64,
    pub memory_bytes: Option<u64>,
}

/// The lines of a file that can be read; none of a file that is not there.
pub fn lines<T: DeserializeOwned>(path: &Path) -> impl Iterator<Item = T> {
    let file = File::open(path).ok().map(BufReader::new);
    let texts = file.into_iter().flat_map(|file| file.split(b'\n').map_while(Result::ok));
    texts.filter_map(|text| serde_json::from_slice(&text).ok())
}
