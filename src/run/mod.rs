//! Wires one Plan: pipeline, trainer, the stops computed beforehand, and an orderly way out.

mod belt;
mod board;
pub mod bench;
pub mod eval;
pub mod exchange;
pub mod folder;
pub mod heat;
pub mod import;
pub mod look;
pub mod plane;
mod records;
pub mod report;
pub mod reshard;
pub mod retrieval;
pub mod score;
pub mod show;
mod training;
pub mod tensorboard;
pub mod text;
pub mod tune;
pub mod verify;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result, bail};
use burn::tensor::DType;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::config::Plan;
use crate::model::Precision;
use crate::pipeline::{Counts, Pipeline};
use crate::telemetry::Telemetry;
use crate::train::collapse::{Collapse, Health};
use crate::train::device::Placement;
use crate::train::{Trainer, Uploader};
use folder::RunFolder;
use score::Scores;
use training::Training;

/// What happens in a run, for whoever shows it.
pub enum Event<'a> {
    /// The run begins or goes on; `from` steps were done before.
    Started {
        plan: &'a Plan,
        device: &'a str,
        from: u64,
    },
    /// Something the user should know, which does not stop the run.
    Notice(String),
    Step(&'a StepLine),
    Saved {
        step: u64,
    },
    Scored(&'a Scores),
}

/// One line of `steps.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct StepLine {
    pub step: u64,
    pub epoch: u64,
    pub loss: f64,
    /// The loss's summands by name.
    pub terms: BTreeMap<&'static str, f64>,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub ema_decay: f64,
    pub gradient_norm: f64,
    /// How much the target encoder's pooled features differ within the batch; 0 is collapse.
    pub target_deviation: f64,
    /// What the online probe made of the step's samples; only where some of them are scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeCount>,
    /// What the features of the latest samples show, by output; only where it was looked at.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub features: BTreeMap<&'static str, Health>,
    /// The target encoder's energy per token before each iteration and after the last one; only where it has an energy
    /// and was looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub energies: Vec<f64>,
    /// What has collapsed and has not healed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub collapses: Vec<Collapse>,
    pub samples_per_second: f64,
    /// Seconds that the step waited for its batch.
    pub data_wait_seconds: f64,
}

/// Samples that the online probe scored before it learnt from a step's batch; it never learns from these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeCount {
    /// Classified rightly.
    pub right: u64,
    pub of: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// Asked to stop; a checkpoint holds this many steps.
    Stopped {
        steps: u64,
    },
}

/// What a run needs beside its Plan.
pub struct Surroundings<'a> {
    pub runtime: &'a Handle,
    pub telemetry: &'a Telemetry,
    /// Set when the user wants the run to save and leave.
    pub interrupted: &'a AtomicBool,
    pub tell: &'a mut dyn FnMut(Event),
}

/// Trains a Plan in `folder`, from its beginning or from the newest checkpoint there.
///
/// # Errors
/// When data, device or disk fail, when too many samples are bad, or when a loss is not a number.
pub fn train(plan: &Plan, folder: &RunFolder, mut around: Surroundings) -> Result<Outcome> {
    let mut training = Training::take_up(plan, folder, &mut around)?;
    // A run that was killed between its checkpoint and its score owes the score still.
    if training.owes_score()? && !training.score(&mut around)? {
        return Ok(Outcome::Stopped { steps: training.done() });
    }
    while let Some(stop) = plan.stops.after(training.done()) {
        let reached = training.train_until(stop.step, &mut around)?;
        if stop.save || !reached {
            training.save(&mut around)?;
        }
        if around.interrupted.load(Relaxed) && (!reached || stop.step < plan.steps || stop.score) {
            return Ok(Outcome::Stopped { steps: training.done() });
        }
        if stop.score && !training.score(&mut around)? {
            return Ok(Outcome::Stopped { steps: training.done() });
        }
    }
    Ok(Outcome::Finished)
}

/// A new trainer, with imported weights where the Plan names some: those of the run's own copy once it has one.
///
/// # Errors
/// When the weights to begin with cannot be read or belong to another model.
pub fn trainer(plan: &Plan, place: &Placement, start: Option<&Path>) -> Result<Trainer> {
    if plan.config.train.precision == Precision::Bf16 && !place.device.supports_dtype(DType::BF16) {
        bail!("train.precision = \"bf16\": {} cannot compute in it; say \"f32\"", place.name);
    }
    let device = place.device.clone().autodiff();
    let model = plan.models.init(plan.config.seed, plan.config.train.first_weights, &device);
    let mut trainer = Trainer::new(model, plan.step.clone()).spread(place.ranks.clone());
    if let Some(path) = start {
        let imported = exchange::open(path)?;
        let put = imported.check_encoder(&plan.models.encoder).and_then(|()| imported.put_into(&mut trainer));
        put.with_context(|| format!("encoder.weights = {}", path.display()))?;
    }
    Ok(trainer)
}

/// Makes sure, before anything is written, that a run of this Plan can begin.
///
/// # Errors
/// When the device cannot be used, or the weights to begin with belong to another model.
pub fn ready(plan: &Plan) -> Result<Placement> {
    let place = plan.config.device.open()?;
    if let Some(path) = plan.config.encoder.weights() {
        exchange::open(path)?.check_encoder(&plan.models.encoder).with_context(|| path.display().to_string())?;
    }
    Ok(place)
}

/// The Plan's stream of samples, from and to any step.
///
/// # Errors
/// When its threads cannot be started.
pub fn stream(
    plan: &Plan,
    steps: Range<u64>,
    counts: Counts,
    runtime: &Handle,
    telemetry: &Telemetry,
) -> Result<Pipeline> {
    let (set, spec) = (Arc::clone(&plan.train), plan.stream.clone());
    Ok(Pipeline::start(runtime, set, spec, plan.config.stream, steps, counts, telemetry)?)
}

/// Batches of a stream where the model is, uploaded ahead.
///
/// # Errors
/// When the thread cannot be started.
pub fn uploaded(plan: &Plan, pipeline: Pipeline, place: &Placement, telemetry: &Telemetry) -> Result<Uploader> {
    let side = plan.config.augment.size as usize;
    Ok(Uploader::start(pipeline, side, plan.config.pixels, place, telemetry)?)
}

/// The folder of a run that has none yet: `runs/NAME`, or with the first free number behind it.
pub fn free_folder(name: &str) -> PathBuf {
    let runs = PathBuf::from("runs");
    let numbered = (2..).map(|number| runs.join(format!("{name}-{number}")));
    std::iter::once(runs.join(name)).chain(numbered).find(|path| !path.exists()).unwrap_or(runs)
}
