//! How fast parts of a run are on this machine: the data path alone, the step alone, both together.

use std::mem;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use burn::tensor::Tensor;
use serde::Serialize;
use tokio::runtime::Handle;

use super::{stream, trainer, uploaded};
use crate::config::Plan;
use crate::model::numbers;
use crate::pipeline::{Counts, Pipeline};
use crate::telemetry::bottleneck::limiting;
use crate::telemetry::{Stage, StageTotals, Telemetry, processor_time};
use crate::train::Trainer;
use crate::train::device::Placement;
use crate::train::upload::ON_DEVICE;

/// Batches or steps before the clock starts: caches fill, pools grow to their size, kernels are chosen.
pub(super) const WARM_UP: usize = 2;

/// What a benchmark found.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub what: &'static str,
    pub device: String,
    pub seconds: f64,
    pub batches: usize,
    pub samples: usize,
    pub samples_per_second: f64,
    /// Of all threads of the process.
    pub cpu_milliseconds_per_sample: f64,
    pub stages: Vec<StageFigures>,
    /// The stage that limits, where stages were at work.
    pub bottleneck: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StageFigures {
    pub stage: String,
    pub samples: u64,
    pub busy_seconds: f64,
    pub starved_seconds: f64,
    pub blocked_seconds: f64,
}

/// Makes a batch or a step, and tells how many samples are done since the last was: none while a device is still at it.
/// `None` at the end of the stream.
pub(super) type Make<'a> = Box<dyn FnMut() -> Result<Option<usize>> + 'a>;

/// A stretch of time under measurement.
pub(super) struct Clock<'a> {
    telemetry: &'a Telemetry,
    before: Vec<(Stage, StageTotals)>,
    start: Instant,
    cpu: Duration,
    limit: Duration,
    batches: usize,
    samples: usize,
}

impl<'a> Clock<'a> {
    pub fn start(telemetry: &'a Telemetry, limit: Duration) -> Self {
        let before = telemetry.stages();
        Self { telemetry, before, start: Instant::now(), cpu: cpu_time(), limit, batches: 0, samples: 0 }
    }

    pub fn count(&mut self, samples: usize) {
        self.batches += 1;
        self.samples += samples;
    }

    pub fn is_over(&self) -> bool {
        self.start.elapsed() >= self.limit
    }

    pub fn figures(self, what: &'static str, device: &str) -> Figures {
        let (seconds, cpu) = (self.start.elapsed().as_secs_f64(), (cpu_time() - self.cpu).as_secs_f64());
        let samples = self.samples.max(1) as f64;
        let now = self.telemetry.stages();
        let since: Vec<(Stage, StageTotals)> =
            now.iter().zip(&self.before).map(|((stage, now), (_, before))| (*stage, now.since(before))).collect();
        let stages = since.iter().map(|(stage, totals)| StageFigures {
            stage: stage.to_string(),
            samples: totals.samples,
            busy_seconds: totals.busy.as_secs_f64(),
            starved_seconds: totals.starved.as_secs_f64(),
            blocked_seconds: totals.blocked.as_secs_f64(),
        });
        Figures {
            what,
            device: device.into(),
            seconds,
            batches: self.batches,
            samples: self.samples,
            samples_per_second: self.samples as f64 / seconds,
            cpu_milliseconds_per_sample: 1e3 * cpu / samples,
            stages: stages.filter(|stage| stage.samples > 0 || stage.busy_seconds > 0.0).collect(),
            // Of the measured stretch alone: the telemetry's own answer looks back beyond the warm-up.
            bottleneck: limiting(&since, self.start.elapsed()).map(|stage| stage.to_string()),
        }
    }
}

/// The data path alone, from shards to batches in memory.
///
/// # Errors
/// When the data fail or the stream ends before the clock starts.
pub fn data(plan: &Plan, limit: Duration, runtime: &Handle, telemetry: &Telemetry) -> Result<Figures> {
    measured("data", "none", batches(plan, 0, runtime, telemetry)?, WARM_UP, limit, telemetry)
}

/// Training steps on one batch again and again: what the device could do if data were free.
///
/// # Errors
/// When the data fail or the device cannot be used.
pub fn step(plan: &Plan, limit: Duration, runtime: &Handle, telemetry: &Telemetry) -> Result<Figures> {
    let place = plan.config.device.open()?;
    let mut trainer = trainer(plan, &place, plan.config.encoder.weights())?;
    let make = steps(plan, &mut trainer, &place, runtime, telemetry)?;
    measured("step", &place.name, make, WARM_UP, limit, telemetry)
}

/// Training as it is, data path included, without checkpoints and scores.
///
/// # Errors
/// When the data fail or the device cannot be used.
pub fn train(plan: &Plan, limit: Duration, runtime: &Handle, telemetry: &Telemetry) -> Result<Figures> {
    let place = plan.config.device.open()?;
    let mut trainer = trainer(plan, &place, plan.config.encoder.weights())?;
    let make = training(plan, 0, &mut trainer, &place, runtime, telemetry)?;
    // What lies ready while a GPU's kernels are compiled is used up first, or it would count as if it had been made since.
    let ready = if place.is_cpu() { 0 } else { plan.config.stream.batches_ahead + ON_DEVICE };
    measured("train", &place.name, make, WARM_UP + ready, limit, telemetry)
}

fn measured(
    what: &'static str,
    device: &str,
    mut make: Make,
    warm_up: usize,
    limit: Duration,
    telemetry: &Telemetry,
) -> Result<Figures> {
    let (mut made, mut done) = (0, 0);
    while made < warm_up || done == 0 {
        let Some(samples) = make()? else { break };
        (made, done) = (made + 1, samples);
    }
    let mut clock = Clock::start(telemetry, limit);
    while let Some(samples) = make()? {
        clock.count(samples);
        if samples > 0 && clock.is_over() {
            break;
        }
    }
    Ok(clock.figures(what, device))
}

/// Batches from step `first` on, thrown away.
pub(super) fn batches(plan: &Plan, first: u64, runtime: &Handle, telemetry: &Telemetry) -> Result<Make<'static>> {
    let mut pipeline = endless(plan, first, runtime, telemetry)?;
    Ok(Box::new(move || Ok(pipeline.next().transpose()?.map(|batch| batch.samples.len()))))
}

/// Steps on the stream's first batch.
pub(super) fn steps<'a>(
    plan: &Plan,
    trainer: &'a mut Trainer,
    place: &Placement,
    runtime: &Handle,
    telemetry: &'a Telemetry,
) -> Result<Make<'a>> {
    let mut batches = uploaded(plan, endless(plan, 0, runtime, telemetry)?, place, telemetry)?;
    let (batch, _) = batches.next_batch().context("the stream holds no batch")?;
    let batch = batch?;
    // The stream's threads would take the processors from the step.
    drop(batches);
    let mut asked = Asked::new(place);
    Ok(Box::new(move || {
        let start = Instant::now();
        let report = trainer.step(&batch)?;
        let done = asked.done(report.loss, batch.samples.len())?;
        telemetry.stage(Stage::Train).busy(start.elapsed());
        Ok(Some(done))
    }))
}

/// What a device was asked for and is not known to have done. As in training, it is waited for after some steps; after a
/// while in any case, or short measurements would end late.
struct Asked {
    every: usize,
    steps: usize,
    samples: usize,
    since: Instant,
}

impl Asked {
    const LONGEST: Duration = Duration::from_millis(500);

    fn new(place: &Placement) -> Self {
        Self { every: place.read_every, steps: 0, samples: 0, since: Instant::now() }
    }

    /// Another step; the samples of all that are done now.
    fn done(&mut self, loss: Tensor<1>, samples: usize) -> Result<usize> {
        (self.steps, self.samples) = (self.steps + 1, self.samples + samples);
        if self.steps < self.every && self.since.elapsed() < Self::LONGEST {
            return Ok(0);
        }
        numbers(loss)?;
        (self.steps, self.since) = (0, Instant::now());
        Ok(mem::take(&mut self.samples))
    }
}

/// Steps on the stream's batches, from step `first` on.
pub(super) fn training<'a>(
    plan: &Plan,
    first: u64,
    trainer: &'a mut Trainer,
    place: &Placement,
    runtime: &Handle,
    telemetry: &'a Telemetry,
) -> Result<Make<'a>> {
    let mut batches = uploaded(plan, endless(plan, first, runtime, telemetry)?, place, telemetry)?;
    let mut asked = Asked::new(place);
    Ok(Box::new(move || {
        let Some((batch, _)) = batches.next_batch() else {
            return Ok(None);
        };
        let (batch, start) = (batch?, Instant::now());
        let report = trainer.step(&batch)?;
        let done = asked.done(report.loss, batch.samples.len())?;
        let meter = telemetry.stage(Stage::Train);
        meter.busy(start.elapsed());
        meter.samples(batch.samples.len() as u64);
        Ok(Some(done))
    }))
}

/// The Plan's stream without an end.
fn endless(plan: &Plan, first: u64, runtime: &Handle, telemetry: &Telemetry) -> Result<Pipeline> {
    let steps = first..u64::MAX / (plan.stream.batch as u64 + 1);
    stream(plan, steps, Counts::default(), runtime, telemetry)
}

/// User and system time of this process so far; nothing where the system does not tell.
fn cpu_time() -> Duration {
    processor_time().unwrap_or_default()
}
