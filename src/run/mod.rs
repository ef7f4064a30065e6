//! Wires one Plan: pipeline, trainer, the stops computed beforehand, and an orderly way out.

pub mod bench;
pub mod exchange;
pub mod folder;
pub mod score;
pub mod show;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::checkpoint::{self, Position};
use crate::config::Plan;
use crate::pipeline::{Counts, Pipeline, PipelineError};
use crate::telemetry::{Gauge, Stage, Telemetry};
use crate::train::device::Placement;
use crate::train::step::TrainerState;
use crate::train::upload::DeviceBatch;
use crate::train::{Model, StepReport, Trainer, Uploader};
use folder::RunFolder;
use score::{Scores, scores};

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
    pub terms: std::collections::BTreeMap<&'static str, f64>,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub ema_decay: f64,
    pub gradient_norm: f64,
    pub samples_per_second: f64,
    /// Seconds that the step waited for its batch.
    pub data_wait_seconds: f64,
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
    let place = plan.config.device.open()?;
    let mut trainer = trainer(plan, &place)?;
    let (from, counts) = take_up(plan, folder, &place, &mut trainer, &mut around)?;
    (around.tell)(Event::Started { plan, device: &place.name, from });
    around.telemetry.set(Gauge::StepsPlanned, plan.steps as f64);
    around.telemetry.set(Gauge::Step, from as f64);
    around.telemetry.set(Gauge::BytesInFlightLimit, plan.bytes_in_flight as f64);

    let batches = batches(plan, from, counts, &place, &around)?;
    let mut training = Training {
        plan,
        folder,
        trainer,
        batches,
        unread: VecDeque::new(),
        place,
        done: from,
        counts,
        last: Instant::now(),
    };
    for stop in plan.stops.iter().filter(|stop| stop.step > from) {
        if !training.train_until(stop.step, &mut around)? {
            training.save(&mut around)?;
            return Ok(Outcome::Stopped { steps: training.done });
        }
        if stop.save {
            training.save(&mut around)?;
        }
        if stop.score {
            training.score(&mut around)?;
        }
    }
    Ok(Outcome::Finished)
}

/// A new trainer, with imported weights where the Plan names some.
///
/// # Errors
/// When the weights to begin with cannot be read or belong to another model.
pub fn trainer(plan: &Plan, place: &Placement) -> Result<Trainer> {
    let device = place.device.clone().autodiff();
    let model = Model::new(plan.encoder, plan.predictor, plan.config.seed, &device);
    let mut trainer = Trainer::new(model, plan.step.clone());
    if let Some(path) = &plan.config.encoder.weights {
        let imported = exchange::open(path)?;
        imported.put_into(&mut trainer).with_context(|| format!("encoder.weights = {}", path.display()))?;
    }
    Ok(trainer)
}

/// The training stream from step `from` on, uploaded ahead.
fn batches(plan: &Plan, from: u64, counts: Counts, place: &Placement, around: &Surroundings) -> Result<Uploader> {
    let (set, config) = (Arc::clone(&plan.train), plan.config.stream.clone());
    let steps = from..plan.steps;
    let pipeline = Pipeline::start(around.runtime, set, plan.stream.clone(), config, steps, counts, around.telemetry)?;
    Ok(Uploader::start(pipeline, plan.config.augment.size as usize, plan.config.pixels, place, around.telemetry))
}

/// Restores the newest whole checkpoint, if there is one; gives the steps done and the samples counted.
fn take_up(
    plan: &Plan,
    folder: &RunFolder,
    place: &Placement,
    trainer: &mut Trainer,
    around: &mut Surroundings,
) -> Result<(u64, Counts)> {
    let (found, refused) = checkpoint::newest(&folder.checkpoints())?;
    for error in refused {
        (around.tell)(Event::Notice(format!("checkpoint refused, going back to the one before: {error}")));
    }
    let Some(found) = found else {
        folder.cut(0)?;
        return Ok((0, Counts::default()));
    };
    let position = found.position;
    if position.course != plan.course() {
        bail!("{}: was made under other settings; resume with the run's own pipeline file", found.path.display());
    }
    if position.data != plan.train.fingerprint() {
        bail!("{}: was made on other training shards; resume with the same ones", found.path.display());
    }
    let state = TrainerState { weights: found.weights, updates: position.updates };
    trainer.restore(state, &place.device).with_context(|| found.path.display().to_string())?;
    folder.cut(position.step)?;
    Ok((position.step, position.counts))
}

/// A step whose loss has not been read from the device yet.
struct Unread {
    report: StepReport,
    samples: Vec<u32>,
    samples_per_second: f64,
    waited: Duration,
}

struct Training<'a> {
    plan: &'a Plan,
    folder: &'a RunFolder,
    trainer: Trainer,
    batches: Uploader,
    unread: VecDeque<Unread>,
    place: Placement,
    done: u64,
    counts: Counts,
    last: Instant,
}

impl Training<'_> {
    /// Trains until so many steps are done; false when the user asked to stop before.
    fn train_until(&mut self, stop: u64, around: &mut Surroundings) -> Result<bool> {
        self.last = Instant::now();
        while self.done < stop {
            if around.interrupted.load(Relaxed) {
                self.read_reports(around)?;
                return Ok(false);
            }
            let Some((batch, waited)) = self.batches.next() else {
                bail!("the stream of samples ended before step {stop}")
            };
            self.step(self.noted(batch)?, waited, around)?;
            if self.unread.len() >= self.place.read_every {
                self.read_reports(around)?;
            }
        }
        self.read_reports(around)?;
        Ok(true)
    }

    /// Notes the bad samples with which the stream gave up.
    fn noted(&self, batch: Result<DeviceBatch, PipelineError>) -> Result<DeviceBatch> {
        if let Err(PipelineError::TooManyBad { samples, .. } | PipelineError::NoReplacement { samples, .. }) = &batch {
            self.folder.quarantine(samples)?;
        }
        Ok(batch?)
    }

    fn step(&mut self, batch: DeviceBatch, waited: Duration, around: &Surroundings) -> Result<()> {
        let Some(report) = self.trainer.step(&batch) else { bail!("step {}: the batch has no masks", batch.step) };
        let meter = around.telemetry.stage(Stage::Train);
        meter.busy(report.took);
        meter.samples(report.samples as u64);
        around.telemetry.step(report.took, waited);
        self.folder.quarantine(&batch.quarantined)?;
        self.counts = batch.counts;
        self.done = batch.step + 1;
        let samples_per_second = report.samples as f64 / self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        self.unread.push_back(Unread { report, samples: batch.samples, samples_per_second, waited });
        Ok(())
    }

    /// Reads losses and norms back, writes their lines, and stops at the first that is not a number.
    fn read_reports(&mut self, around: &mut Surroundings) -> Result<()> {
        while let Some(unread) = self.unread.pop_front() {
            let line = unread.line();
            if !(line.loss.is_finite() && line.gradient_norm.is_finite()) {
                let keys: Vec<&str> = unread.samples.iter().map(|&number| self.plan.train.sample(number).key).collect();
                let path = self.folder.bad_step(&line, &keys)?;
                bail!(
                    "step {}: loss {} with gradient norm {} is not a number; the batch's keys ({}, ...) are in {}; lower train.learning_rate or set train.clip_norm",
                    line.step,
                    line.loss,
                    line.gradient_norm,
                    keys.iter().take(3).copied().collect::<Vec<_>>().join(", "),
                    path.display(),
                );
            }
            self.folder.step(&line)?;
            publish(&line, around.telemetry);
            (around.tell)(Event::Step(&line));
        }
        Ok(())
    }

    fn save(&mut self, around: &mut Surroundings) -> Result<()> {
        let start = Instant::now();
        let state = self.trainer.state()?;
        let position = Position {
            step: self.done,
            counts: self.counts,
            updates: state.updates,
            data: self.plan.train.fingerprint(),
            course: self.plan.course(),
        };
        checkpoint::save(&self.folder.checkpoints(), &position, &state.weights, self.plan.config.checkpoint.keep)?;
        let meter = around.telemetry.stage(Stage::Checkpoint);
        meter.busy(start.elapsed());
        meter.samples(1);
        (around.tell)(Event::Saved { step: self.done });
        Ok(())
    }

    fn score(&mut self, around: &mut Surroundings) -> Result<()> {
        let start = Instant::now();
        let known = self.folder.baselines()?;
        let scores = scores(self.plan, self.done, self.trainer.target(), known, &self.place, around.runtime)?;
        around.telemetry.stage(Stage::Eval).busy(start.elapsed());
        for (name, value) in scores.named() {
            around.telemetry.set_score(name, value);
        }
        self.folder.scores(&scores)?;
        (around.tell)(Event::Scored(&scores));
        Ok(())
    }
}

impl Unread {
    fn line(&self) -> StepLine {
        let report = &self.report;
        let read = |tensor: &burn::tensor::Tensor<1>| f64::from(tensor.clone().into_scalar::<f32>());
        StepLine {
            step: report.step,
            epoch: report.epoch,
            loss: read(&report.loss),
            terms: report.terms.iter().map(|(name, term)| (*name, read(term))).collect(),
            learning_rate: report.learning_rate,
            weight_decay: report.weight_decay,
            ema_decay: report.ema_decay,
            gradient_norm: read(&report.gradient_norm),
            samples_per_second: self.samples_per_second,
            data_wait_seconds: self.waited.as_secs_f64(),
        }
    }
}

fn publish(line: &StepLine, telemetry: &Telemetry) {
    telemetry.set(Gauge::Step, (line.step + 1) as f64);
    telemetry.set(Gauge::Epoch, line.epoch as f64);
    telemetry.set(Gauge::Loss, line.loss);
    telemetry.set(Gauge::LearningRate, line.learning_rate);
    telemetry.set(Gauge::WeightDecay, line.weight_decay);
    telemetry.set(Gauge::EmaDecay, line.ema_decay);
    telemetry.set(Gauge::GradientNorm, line.gradient_norm);
    telemetry.set(Gauge::SamplesPerSecond, line.samples_per_second);
    for (name, value) in &line.terms {
        telemetry.set_term(name, *value);
    }
}

/// The folder of a run that has none yet: `runs/NAME`, or with the first free number behind it.
pub fn free_folder(name: &str) -> PathBuf {
    let runs = PathBuf::from("runs");
    let numbered = (2..).map(|number| runs.join(format!("{name}-{number}")));
    std::iter::once(runs.join(name)).chain(numbered).find(|path| !path.exists()).unwrap_or(runs)
}
