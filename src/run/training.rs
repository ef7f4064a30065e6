//! A run in the making: takes up where it stood, trains until a stop, saves, scores.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use burn::tensor::Tensor;

use super::board::Board;
use super::eval::Frozen;
use super::folder::RunFolder;
use super::records::{self, TakenUp};
use super::score::{Extraction, Interrupted, scores};
use super::{Event, ProbeCount, StepLine, Surroundings, stream, trainer, uploaded};
use crate::checkpoint::{self, Checkpoint, Position};
use crate::config::Plan;
use crate::model::{DeviceFailure, numbers};
use crate::pipeline::{Counts, PipelineError};
use crate::shard::write::free_bytes;
use crate::telemetry::{Activity, Gauge, Stage, Telemetry};
use crate::train::collapse::{Kind, Output};
use crate::train::device::Placement;
use crate::train::step::PROBE;
use crate::train::step::TrainerState;
use crate::train::upload::DeviceBatch;
use crate::train::{Outputs, StepReport, Trainer, Uploader, Watch};

/// A step whose numbers have not been read from the device yet.
struct Unread {
    report: StepReport,
    /// Loss, gradient norm, deviation of the target's features, terms, what the probe had right, and energies, which are
    /// read together: each reading waits for all that was asked of the device.
    numbers: Tensor<1>,
    samples: Vec<u32>,
    waited: Duration,
}

pub struct Training<'a> {
    plan: &'a Plan,
    folder: &'a RunFolder,
    trainer: Trainer,
    batches: Uploader,
    unread: VecDeque<Unread>,
    watch: Watch,
    place: Placement,
    done: u64,
    /// The step whose checkpoint is on disk.
    saved: u64,
    counts: Counts,
    board: Option<Board>,
    /// When this process took the run up, and when losses were read last.
    taken_up: TakenUp,
    last: Instant,
}

impl<'a> Training<'a> {
    /// Begins, or restores the newest whole checkpoint, and starts the stream from there.
    ///
    /// # Errors
    /// When the device cannot be used, or the checkpoints cannot be read or are another run's.
    pub fn take_up(plan: &'a Plan, folder: &'a RunFolder, around: &mut Surroundings) -> Result<Self> {
        let place = plan.config.device.open()?;
        let found = newest(folder, around)?;
        let start = folder.start().filter(|_| found.is_none());
        let mut trainer = trainer(plan, &place, start.as_deref())?;
        // A run without a checkpoint has lost nothing yet.
        let saved_at = found.as_ref().and_then(|found| found.path.metadata().ok()?.modified().ok());
        let saved_at = saved_at.unwrap_or_else(SystemTime::now);
        let Position { step: done, counts, findings, .. } = match found {
            Some(found) => restore(plan, found, &mut trainer, &place, around)?,
            None => Position::default(),
        };
        folder.cut(done)?;
        folder.session(&records::session(done, &place.name))?;
        (around.tell)(Event::Started { plan, device: &place.name, from: done });
        if let Some(why) = plan.without_probe() {
            (around.tell)(Event::Notice(why));
        }
        around.telemetry.set(Gauge::StepsPlanned, plan.steps as f64);
        around.telemetry.set(Gauge::Step, done as f64);
        around.telemetry.set(Gauge::BytesInFlightLimit, plan.bytes_in_flight as f64);
        saved(plan, folder, done, saved_at, around.telemetry);
        // Draws the first batch, by a stream of its own: before that of the training takes the processors.
        let board = plan.config.telemetry.tensorboard;
        let board = board.then(|| Board::begin(folder.path(), plan, done, around)).transpose()?;
        let pipeline = stream(plan, done..plan.steps, counts, around.runtime, around.telemetry)?;
        let batches = uploaded(plan, pipeline, &place, around.telemetry)?;
        let (unread, last) = (VecDeque::new(), Instant::now());
        let taken_up = TakenUp::now();
        let watch = Watch::new(plan.config.train.batch, findings);
        Ok(Self {
            plan,
            folder,
            trainer,
            batches,
            unread,
            watch,
            place,
            done,
            saved: done,
            counts,
            board,
            taken_up,
            last,
        })
    }

    /// Steps done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Whether this step is one to be scored, and was not.
    pub fn owes_score(&self) -> Result<bool> {
        Ok(self.done > 0 && self.plan.stops.at(self.done).score && !self.folder.has_scores(self.done)?)
    }

    /// Trains until so many steps are done; false when the user asked to stop before.
    pub fn train_until(&mut self, stop: u64, around: &mut Surroundings) -> Result<bool> {
        self.last = Instant::now();
        let interrupted = around.interrupted;
        let meter = around.telemetry.stage(Stage::Train);
        while self.done < stop {
            let next = if interrupted.load(Relaxed) { None } else { self.batches.next_unless(interrupted) };
            // Until the next batch is waited for, which counts itself.
            let _busy = meter.spell(Activity::Busy);
            let Some((batch, waited)) = next else {
                self.read_reports(around)?;
                if interrupted.load(Relaxed) {
                    return Ok(false);
                }
                bail!("the stream of samples ended before step {stop}")
            };
            self.step(self.noted(batch)?, waited, around)?;
            if self.unread.len() >= self.place.read_every {
                self.read_reports(around)?;
            }
        }
        let _busy = meter.spell(Activity::Busy);
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
        let report = self.trainer.step(&batch).with_context(|| format!("step {}", batch.step))?;
        around.telemetry.stage(Stage::Train).samples(report.samples as u64);
        self.folder.quarantine(&batch.quarantined)?;
        self.counts = batch.counts;
        self.done = batch.step + 1;
        let energies = if Watch::judges(batch.step) { self.trainer.energies(&batch) } else { None };
        let numbers = numbers_of(&report, energies);
        self.unread.push_back(Unread { report, numbers, samples: batch.samples, waited });
        Ok(())
    }

    /// Reads losses and norms back, writes their lines, and stops at the first that is not a number.
    ///
    /// A GPU works on after a step was asked of it; reading waits for that work, so it is shared out among the steps.
    fn read_reports(&mut self, around: &mut Surroundings) -> Result<()> {
        let (start, unread) = (Instant::now(), std::mem::take(&mut self.unread));
        if unread.is_empty() {
            self.last = Instant::now();
            return Ok(());
        }
        let all = Tensor::cat(unread.iter().map(|unread| unread.numbers.clone()).collect(), 0);
        let all = numbers(all).with_context(|| format!("after step {}", self.done))?;
        let mut all = all.into_iter().map(f64::from);
        let mut lines: Vec<StepLine> = unread.iter().map(|unread| unread.line(&mut all)).collect();
        let read = start.elapsed();
        let steps = unread.len() as u32;
        let each = self.last.elapsed() / steps;
        self.last = Instant::now();
        for (line, unread) in lines.iter_mut().zip(&unread) {
            watched(&mut self.watch, &unread.report, line)?;
            line.samples_per_second = unread.report.samples as f64 / each.as_secs_f64();
            around.telemetry.step(unread.report.took + read / steps, unread.waited);
            unread.report.ranks.iter().enumerate().for_each(|(rank, took)| around.telemetry.rank(rank, *took));
            // Before the check, so that whoever scrapes sees what ended the run.
            publish(line, around.telemetry);
            self.check(line, &unread.samples)?;
            self.folder.step(line)?;
            self.board.as_mut().map_or(Ok(()), |board| board.step(line))?;
            (around.tell)(Event::Step(line));
        }
        Ok(())
    }

    /// Stops at a loss that is not a number.
    fn check(&self, line: &StepLine, samples: &[u32]) -> Result<()> {
        if line.loss.is_finite() && line.gradient_norm.is_finite() {
            return Ok(());
        }
        let keys: Vec<&str> = samples.iter().map(|&number| self.plan.train.sample(number).key).collect();
        let path = self.folder.bad_step(line, &keys)?;
        let first = keys.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        bail!(
            "step {}: loss {} with gradient norm {} is not a number; the batch's keys ({first}, ...) are in {}; lower \
             train.learning_rate or set train.clip_norm",
            line.step,
            line.loss,
            line.gradient_norm,
            path.display(),
        )
    }

    /// Saves where the run stands, unless that is on disk already.
    pub fn save(&mut self, around: &mut Surroundings) -> Result<()> {
        if self.saved == self.done {
            return Ok(());
        }
        let meter = around.telemetry.stage(Stage::Checkpoint);
        let _busy = meter.spell(Activity::Busy);
        let state = self.trainer.state()?;
        // Nothing of the online probe reaches the encoder, so that it cannot spoil a run.
        let mut ours = state.weights.iter().filter(|(name, _)| !name.starts_with(PROBE));
        if let Some((name, _)) = ours.find(|(_, array)| array.values.iter().any(|x| !x.is_finite())) {
            let step = self.done - 1;
            bail!(
                "step {step}: {name} is not finite after the update; lower train.learning_rate or set train.clip_norm"
            );
        }
        // What the checkpoint counts as done must be in the records too.
        self.folder.sync()?;
        self.board.as_mut().map_or(Ok(()), Board::flush)?;
        let position = Position {
            step: self.done,
            counts: self.counts,
            findings: self.watch.findings().clone(),
            updates: state.updates,
            data: self.plan.train.fingerprint(),
            course: self.plan.course(),
        };
        checkpoint::save(&self.folder.checkpoints(), &position, &state.weights, self.plan.config.checkpoint.keep)?;
        self.saved = self.done;
        meter.samples(1);
        saved(self.plan, self.folder, self.done, SystemTime::now(), around.telemetry);
        (around.tell)(Event::Saved { step: self.done });
        self.note_stages(around)
    }

    fn note_stages(&self, around: &Surroundings) -> Result<()> {
        self.folder.stages(&records::stages(around.telemetry, self.done, &self.taken_up))
    }

    /// Takes the scores; false when the user asked to stop before they were taken. Where none can be taken, the user is
    /// told why.
    pub fn score(&mut self, around: &mut Surroundings) -> Result<bool> {
        let busy = around.telemetry.stage(Stage::Eval).spell(Activity::Busy);
        let known = self.folder.last_scores()?;
        let begun = self.folder.start();
        let target = self.trainer.target();
        let (plan, place, runtime) = (self.plan, &self.place, around.runtime);
        let from = Extraction { plan, place, runtime, stop: around.interrupted };
        let scores = match scores(from, self.done, target, begun.as_deref(), known) {
            Ok(scores) => scores,
            // Training is worth more than a score; resuming tries again.
            Err(error) => {
                let is_stop = error.is::<Interrupted>();
                (around.tell)(Event::Notice(format!("no scores after step {}: {error:#}", self.done)));
                return Ok(!is_stop);
            }
        };
        for (name, value) in scores.named() {
            around.telemetry.set_score(name, value);
        }
        self.folder.scores(&scores)?;
        if let Some(board) = &mut self.board {
            board.scored(&scores, &Frozen::of(plan, self.done, target, place), around)?;
        }
        (around.tell)(Event::Scored(&scores));
        drop(busy);
        self.note_stages(around)?;
        Ok(true)
    }
}

/// What alerts need to know: when the run was last safe, and whether there is room for the rest of it.
fn saved(plan: &Plan, folder: &RunFolder, done: u64, at: SystemTime, telemetry: &Telemetry) {
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    telemetry.set(Gauge::CheckpointTime, at.as_secs_f64());
    telemetry.set(Gauge::DiskNeeded, plan.disk_bytes_after(done) as f64);
    // Where the system does not tell, there is no alert.
    telemetry.set(Gauge::DiskFree, free_bytes(folder.path()).map_or(f64::INFINITY, |bytes| bytes as f64));
}

/// The newest checkpoint that is whole; says why newer ones were passed over.
fn newest(folder: &RunFolder, around: &mut Surroundings) -> Result<Option<Checkpoint>> {
    let (found, refused) = checkpoint::newest(&folder.checkpoints())?;
    if let (None, Some(error)) = (&found, refused.first()) {
        let path = folder.checkpoints();
        bail!("{error}; no other checkpoint is whole: remove {} to begin again", path.display());
    }
    for error in refused {
        (around.tell)(Event::Notice(format!("checkpoint refused, going back to the one before: {error}")));
    }
    Ok(found)
}

/// Puts a checkpoint into the trainer; gives where it stands.
fn restore(
    plan: &Plan,
    found: Checkpoint,
    trainer: &mut Trainer,
    place: &Placement,
    around: &mut Surroundings,
) -> Result<Position> {
    let Checkpoint { path, position, weights } = found;
    if position.course != plan.course() {
        bail!("{}: was made under other settings; resume with the run's own", path.display());
    }
    if position.data != plan.train.fingerprint() {
        bail!("{}: was made on other training shards; resume with the same ones", path.display());
    }
    let state = TrainerState { weights, updates: position.updates.clone() };
    trainer.restore(state, &place.device).with_context(|| path.display().to_string())?;
    if position.step > 0 && trainer.has_new_probe() {
        let path = path.display();
        (around.tell)(Event::Notice(format!(
            "{path}: holds no online probe of these labels, which begins afresh; all else goes on"
        )));
    }
    Ok(position)
}

/// Looks whether the features of a step collapse, at the steps at which that is looked at.
fn watched(watch: &mut Watch, report: &StepReport, line: &mut StepLine) -> Result<(), DeviceFailure> {
    let wanted = watch.wants(report.step).min(report.samples);
    if wanted > 0 {
        let Outputs { encoder, target, predictor } = &report.outputs;
        for (output, features) in Output::ALL.into_iter().zip([encoder, target, predictor]) {
            let [_, width] = features.dims();
            watch.see(output, &numbers(features.clone().narrow(0, 0, wanted))?, width);
        }
    }
    if watch.judge(report.step) {
        let health = |output: Output| Some((output.name(), watch.findings().health(output)?));
        line.features = Output::ALL.into_iter().filter_map(health).collect();
    }
    line.collapses = watch.findings().collapses().collect();
    Ok(())
}

/// What of a step is read back, in the order of [`Unread::line`].
///
/// # Shapes
/// - `energies`: `[iterations + 1]`, of the target encoder
fn numbers_of(report: &StepReport, energies: Option<Tensor<1>>) -> Tensor<1> {
    let deviation = report.outputs.target.clone().var_bias(0).sqrt().mean();
    let first = [report.loss.clone(), report.gradient_norm.clone(), deviation];
    let terms = report.terms.iter().map(|(_, term)| term.clone());
    let right = report.probed.as_ref().map(|probed| probed.right.clone());
    Tensor::cat(first.into_iter().chain(terms).chain(right).chain(energies).collect(), 0)
}

impl Unread {
    /// The line of `steps.jsonl`, less the rate, which only whoever reads several steps at once can tell. `all` are the
    /// numbers of this step and of those after it.
    fn line(&self, all: &mut impl Iterator<Item = f64>) -> StepLine {
        let report = &self.report;
        let [count] = self.numbers.dims();
        let mut own = all.take(count);
        let mut next = || own.next().unwrap_or(f64::NAN);
        StepLine {
            step: report.step,
            epoch: report.epoch,
            loss: next(),
            gradient_norm: next(),
            target_deviation: next(),
            terms: report.terms.iter().map(|(name, _)| (*name, next())).collect(),
            probe: report.probed.as_ref().map(|probed| ProbeCount { right: next() as u64, of: probed.of as u64 }),
            energies: own.collect(),
            learning_rate: report.learning_rate,
            weight_decay: report.weight_decay,
            ema_decay: report.ema_decay,
            features: Default::default(),
            collapses: Vec::new(),
            samples_per_second: 0.0,
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
    if let Some(ProbeCount { right, of }) = line.probe {
        telemetry.probe(right, of);
    }
    for (name, value) in &line.terms {
        telemetry.set_term(name, *value);
    }
    for (output, health) in &line.features {
        telemetry.set_features(output, health.deviation, health.rankme, health.alpha);
    }
    telemetry.set_energies(&line.energies);
    if !line.features.is_empty() {
        for (output, kind) in Output::ALL.into_iter().flat_map(|output| Kind::ALL.map(|kind| (output, kind))) {
            let is_collapsed = line.collapses.iter().any(|found| (found.output, found.kind) == (output, kind));
            telemetry.set_collapse(output.name(), kind.name(), is_collapsed);
        }
    }
}
