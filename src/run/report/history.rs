//! The records of a run → curves over its steps, what it scored, what collapsed, where the time went, what was
//! quarantined.
//!
//! A line that is no JSON, as the last one of a killed run may be, is passed over; a field that is missing is absent, and
//! so is a number that was none and was written as `null`. Whatever else is in the files, nothing here fails.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::telemetry::bottleneck::limiting;
use crate::telemetry::{Stage, StageTotals};
use crate::train::collapse::Collapse;

/// Quarantined samples that are listed; all are counted.
const MOST_LISTED: usize = 50;
/// Collapses that are told apart: what is watched can collapse in six ways, and a run that heals and falls again many
/// times has been understood by then.
const MOST_COLLAPSES: usize = 50;
/// Bytes of the longest line that is read; a step's has about a thousand. Longer ones are passed over.
const MOST_LINE: u64 = 1 << 20;

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
    energies: Vec<Option<f64>>,
    /// Later versions may know other kinds.
    collapses: Vec<Value>,
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
        self.count = line.step.saturating_add(1);
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
            let energies = line.energies.into_iter().map(|energy| energy.unwrap_or(f64::NAN)).collect();
            self.energies.push((line.step, energies));
        }
        for collapse in line.collapses.into_iter().filter_map(|collapse| serde_json::from_value(collapse).ok()) {
            if let Some((_, last)) = self.collapses.iter_mut().find(|(known, _)| *known == collapse) {
                *last = line.step;
            } else if self.collapses.len() < MOST_COLLAPSES {
                self.collapses.push((collapse, line.step));
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

/// What `scores.json` says of a step; shares in `0..=1`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Scored {
    pub step: u64,
    pub k: u64,
    pub knn: Option<f64>,
    pub knn_before_training: Option<f64>,
    pub knn_raw_pixels: Option<f64>,
    target: Option<OfFeatures>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct OfFeatures {
    probe: Option<LinearProbe>,
    rankme: Option<f64>,
    lidar: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LinearProbe {
    top1: Option<f64>,
}

impl Scored {
    /// The scores of a file, of those steps that can be read; none where there is no file.
    ///
    /// # Errors
    /// When the file is no list, as one that was cut.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        if !path.exists() {
            return Ok(Vec::new());
        }
        let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let all: Vec<Value> =
            serde_json::from_slice(&bytes).with_context(|| format!("{}: damaged; remove it", path.display()))?;
        Ok(all.into_iter().filter_map(|scores| serde_json::from_value(scores).ok()).collect())
    }

    /// The linear probe's accuracy.
    pub fn probe(&self) -> Option<f64> {
        self.target.as_ref()?.probe.as_ref()?.top1
    }

    pub fn rankme(&self) -> Option<f64> {
        self.target.as_ref()?.rankme
    }

    pub fn lidar(&self) -> Option<f64> {
        self.target.as_ref()?.lidar
    }
}

/// Where the time went: over all processes that had the run, and between two notes of it.
#[derive(Debug, Default)]
pub struct Times {
    pub whole: Vec<(Stage, StageTotals)>,
    pub seconds: f64,
    /// Of each stage the share of its time in which it worked, up to each step.
    pub busy: Curves,
    /// Of the stages that samples pass.
    pub limiting: Option<Stage>,
    /// Seconds in which none of them worked: those of checkpoints and scores.
    pub beside: f64,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Noted {
    step: f64,
    /// When the process took the run up, which no two of them did at once; earlier builds did not say.
    begun_unix_microseconds: Option<u64>,
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

impl Noted {
    /// Whether the same process noted both. Where it is not said which one did, less time than before is another's.
    fn continues(&self, before: &Self) -> bool {
        let is_same = self.begun_unix_microseconds == before.begun_unix_microseconds;
        is_same && (self.begun_unix_microseconds.is_some() || self.seconds >= before.seconds)
    }
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
            if !noted.continues(&before) {
                before = Noted::default();
            }
            times.add(&noted, &before);
            before = noted;
        }
        let is_beside = |(stage, _): &(Stage, StageTotals)| matches!(stage, Stage::Checkpoint | Stage::Eval);
        let (beside, passed): (Vec<_>, Vec<_>) = times.whole.iter().copied().partition(is_beside);
        times.beside = beside.iter().map(|(_, totals)| totals.busy.as_secs_f64()).sum();
        times.limiting = limiting(&passed, Duration::try_from_secs_f64(times.seconds).unwrap_or_default());
        times
    }

    fn add(&mut self, noted: &Noted, before: &Noted) {
        self.seconds += (noted.seconds - before.seconds).max(0.0);
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
                samples: whole.samples.saturating_add(since.samples),
                bytes: whole.bytes.saturating_add(since.bytes),
                skipped: 0,
                busy: whole.busy.saturating_add(since.busy),
                starved: whole.starved.saturating_add(since.starved),
                blocked: whole.blocked.saturating_add(since.blocked),
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
    let mut file = File::open(path).ok().map(BufReader::new);
    let texts = std::iter::from_fn(move || next_line(file.as_mut()?).ok().flatten());
    texts.filter_map(|text| serde_json::from_slice(&text).ok())
}

/// The next line, empty where it is too long; `None` at the end.
fn next_line(file: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    file.by_ref().take(MOST_LINE).read_until(b'\n', &mut text)?;
    if text.len() as u64 == MOST_LINE && text.last() != Some(&b'\n') {
        file.skip_until(b'\n')?;
        text.clear();
        return Ok(Some(text));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}
