//! Which workers and queues suit this machine: measures the step, the data path and both, and says what limits.
//!
//! Comes in: a Plan and the time that measuring may take. Goes out: a stream's settings and a verdict. Nothing is
//! written; `choice` decides from the figures alone.

pub mod choice;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::runtime::Handle;

use self::choice::{Findings, Together, Tried, Verdict};
use super::bench::{self, Clock, Figures, Make};
use super::trainer;
use crate::config::Plan;
use crate::pipeline::StreamConfig;
use crate::telemetry::Telemetry;
use crate::train::Trainer;
use crate::train::device::Placement;
use crate::train::upload::in_flight;

/// Queues that hold nothing up while workers are compared, and the most that is tried of each.
const ROOMY_READS: usize = MOST_READS;
const ROOMY_BATCHES: usize = 4;
const MOST_READS: usize = 32;

/// Batches that an uploader has taken beyond those stepped on.
const TAKEN_AHEAD: u64 = 3;

const MOST_BATCHES: usize = 16;

/// Values that are tried of a queue's size, about.
const EXPECTED: u32 = 3;

/// A window of seconds does not see the slow read that comes once a minute, so one batch is always made while another
/// waits.
const LEAST_BATCHES: usize = 2;

/// Micro-batches of a measured step. The update that follows them costs a small part of one, so that a large batch of
/// many micro-batches is no faster per sample, and would use up the time.
const MOST_MICRO_BATCHES: usize = 4;

/// Queues may take this share of the memory that is free: the model, decoded images and the page cache need the rest.
const MEMORY_SHARE: u64 = 2;

/// Parts of a window whose rates tell how much the whole is worth.
const SLICES: u32 = 5;

/// Share of a window in which caches fill and nothing is counted, as a divisor.
const WARM_UP_SHARE: u32 = 4;

/// Shares of the time that is left when a comparison begins.
const STEP_SHARE: f64 = 0.15;
const WORKERS_SHARE: f64 = 0.5;
const TOGETHER_SHARE: f64 = 0.4;
const READS_SHARE: f64 = 0.35;

/// What one measurement ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Step,
    Data,
    Train,
}

impl What {
    pub fn name(self) -> &'static str {
        match self {
            What::Step => "step",
            What::Data => "data",
            What::Train => "train",
        }
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub what: What,
    /// None where no data were read.
    pub stream: Option<StreamConfig>,
    pub samples_per_second: f64,
    /// Standard error of the rate.
    pub error: f64,
    /// Of all threads of the process.
    pub cpu_milliseconds_per_sample: f64,
    pub limiting_stage: Option<String>,
    /// Share of its time that the device waited for data.
    pub device_wait_share: Option<f64>,
    /// The most that queues and buffers hold in a run with these settings.
    pub bytes_in_flight: Option<u64>,
}

/// What `saccade tune` says.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    pub device: String,
    pub cores: usize,
    /// Bytes that queues and buffers may take.
    pub memory_limit: Option<u64>,
    pub seconds: f64,
    pub measured: Vec<Row>,
    pub stream: StreamConfig,
    pub bytes_in_flight: u64,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What was left out for want of time.
    pub notes: Vec<String>,
    /// The section of the pipeline file.
    pub toml: String,
}

/// Measures for about `time` and decides; `tell` is called after each measurement.
///
/// # Errors
/// When the data or the device fail, or `tell` does.
pub fn tune(
    plan: &Plan,
    time: Duration,
    runtime: &Handle,
    telemetry: &Telemetry,
    tell: &mut dyn FnMut(&Row) -> Result<()>,
) -> Result<Advice> {
    let start = Instant::now();
    let place = plan.config.device.open()?;
    let measured = in_small_steps(plan);
    let trainer = trainer(&measured, &place, plan.config.encoder.weights())?;
    let largest = (0..plan.train.len() as u32).map(|number| plan.train.sample(number).length).max().unwrap_or(0);
    let mut session = Session {
        whole: plan,
        plan: measured,
        largest,
        memory: available_memory().map(|bytes| bytes / MEMORY_SHARE),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        place,
        trainer,
        runtime,
        telemetry,
        tell,
        end: start + time,
        first: 0,
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let need = session.step()?;
    let stream = session.roomy();
    let stream = session.workers(stream, need)?;
    let stream = session.reads(stream, need)?;
    let stream = session.batches_ahead(stream)?;
    session.advice(stream, start)
}

/// The Plan with steps of a few micro-batches, where it has more.
fn in_small_steps(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    let train = &mut plan.config.train;
    if train.accumulate > MOST_MICRO_BATCHES {
        train.batch = train.batch.div_ceil(train.accumulate) * MOST_MICRO_BATCHES;
        train.accumulate = MOST_MICRO_BATCHES;
    }
    plan.stream.batch = train.batch;
    plan.step.accumulate = train.accumulate;
    plan
}

struct Session<'a> {
    /// The Plan as it was given, which says what memory a run needs.
    whole: &'a Plan,
    /// What is measured.
    plan: Plan,
    largest: u64,
    memory: Option<u64>,
    cores: usize,
    place: Placement,
    trainer: Trainer,
    runtime: &'a Handle,
    telemetry: &'a Telemetry,
    tell: &'a mut dyn FnMut(&Row) -> Result<()>,
    end: Instant,
    /// The step that comes next: no measurement reads what another has brought into the page cache.
    first: u64,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Session<'_> {
    /// The device's need: samples per second of the step alone.
    fn step(&mut self) -> Result<f64> {
        self.first = self.plan.config.stream.batches_ahead as u64 + TAKEN_AHEAD + 1;
        let time = self.left().mul_f64(STEP_SHARE);
        let make = bench::steps(&self.plan, &mut self.trainer, &self.place, self.runtime, self.telemetry)?;
        let window = window(What::Step, make, time, self.telemetry)?;
        Ok(self.add(What::Step, None, window)?.samples_per_second)
    }

    /// Queues as large as anything needs, or as memory allows.
    fn roomy(&self) -> StreamConfig {
        let least = StreamConfig { workers: 1, batches_ahead: 1, reads: 1, ..self.plan.config.stream };
        let batches_ahead = self.most(ROOMY_BATCHES, |batches_ahead| StreamConfig { batches_ahead, ..least });
        let roomy = StreamConfig { batches_ahead, ..least };
        let reads = self.most(ROOMY_READS, |reads| StreamConfig { reads, ..roomy });
        StreamConfig { reads, ..roomy }
    }

    fn workers(&mut self, stream: StreamConfig, need: f64) -> Result<StreamConfig> {
        let put = |workers| StreamConfig { workers, ..stream };
        let most = self.most(self.cores, put);
        let time = self.left().mul_f64(WORKERS_SHARE);
        // Doubling, and two looks between.
        let window = time / (most.ilog2() + 3);
        let until = Instant::now() + time;
        let (chosen, is_clear) = self.search(What::Data, most, need, window, until, put)?;
        if !is_clear {
            self.note("stream.workers is the best of few: more of them may be better");
        }
        if !self.shares_cores() {
            return Ok(put(chosen));
        }
        let values = choice::shortlist(chosen, most);
        let window = self.left().mul_f64(TOGETHER_SHARE) / values.len() as u32;
        let mut tried = Vec::new();
        for value in values {
            if self.left().is_zero() {
                self.note("stream.workers was not compared with the step at work beside it");
                return Ok(put(chosen));
            }
            tried.push(self.measure(What::Train, put(value), window)?.tried(value));
        }
        Ok(put(choice::choose(&tried, f64::INFINITY).unwrap_or(chosen)))
    }

    fn reads(&mut self, stream: StreamConfig, need: f64) -> Result<StreamConfig> {
        let put = |reads| StreamConfig { reads, ..stream };
        let most = self.most(MOST_READS, put);
        let time = self.left().mul_f64(READS_SHARE);
        let until = Instant::now() + time;
        let (chosen, is_clear) = self.search(What::Data, most, need, time / EXPECTED, until, put)?;
        if is_clear {
            return Ok(put(chosen));
        }
        self.note("stream.reads is what the workers were compared with");
        Ok(stream)
    }

    fn batches_ahead(&mut self, stream: StreamConfig) -> Result<StreamConfig> {
        let put = |batches_ahead| StreamConfig { batches_ahead, ..stream };
        let most = self.most(MOST_BATCHES, put);
        let window = self.left() / EXPECTED;
        let (chosen, is_clear) = self.search(What::Train, most, f64::INFINITY, window, self.end, put)?;
        if is_clear {
            return Ok(put(chosen.max(LEAST_BATCHES).min(most)));
        }
        self.note("stream.batches_ahead is what the workers were compared with");
        Ok(stream)
    }

    /// The best of what there was time to try, and whether that settles it.
    fn search(
        &mut self,
        what: What,
        most: usize,
        need: f64,
        window: Duration,
        until: Instant,
        put: impl Fn(usize) -> StreamConfig,
    ) -> Result<(usize, bool)> {
        let mut tried: Vec<Tried> = Vec::new();
        while let Some(value) = choice::next(&tried, most, need) {
            // Without a first figure of the data path there would be nothing to say.
            let must = self.rows.len() == 1;
            if Instant::now() >= until && !must {
                return Ok((choice::choose(&tried, need).unwrap_or(1), false));
            }
            tried.push(self.measure(what, put(value), window)?.tried(value));
        }
        Ok((choice::choose(&tried, need).unwrap_or(1), true))
    }

    /// Runs the data path, alone or with the step, under these settings.
    fn measure(&mut self, what: What, stream: StreamConfig, time: Duration) -> Result<Measured> {
        self.plan.config.stream = stream;
        let Self { plan, first, trainer, place, runtime, telemetry, .. } = self;
        let make = match what {
            What::Data => bench::batches(plan, *first, runtime, telemetry)?,
            _ => bench::training(plan, *first, trainer, place, runtime, telemetry)?,
        };
        let window = window(what, make, time, self.telemetry)?;
        // Those that were made ahead were read too. Past the run's end its schedules mean nothing.
        let read = window.made.saturating_add(stream.batches_ahead as u64 + TAKEN_AHEAD);
        self.first = self.first.saturating_add(read) % self.whole.steps.max(1);
        self.add(what, Some(stream), window)
    }

    fn add(&mut self, what: What, stream: Option<StreamConfig>, window: Window) -> Result<Measured> {
        let Window { figures, slices, .. } = window;
        let samples_per_second = figures.samples_per_second;
        let row = Row {
            what,
            stream,
            samples_per_second,
            error: Tried::of(0, &slices, samples_per_second).error,
            cpu_milliseconds_per_sample: figures.cpu_milliseconds_per_sample,
            device_wait_share: (what == What::Train).then(|| wait_share(&figures)),
            limiting_stage: figures.bottleneck,
            bytes_in_flight: stream.map(|stream| self.bytes(&stream)),
        };
        (self.tell)(&row)?;
        self.rows.push(row);
        Ok(Measured { slices, samples_per_second })
    }

    fn advice(self, stream: StreamConfig, start: Instant) -> Result<Advice> {
        let near = |what, same: &dyn Fn(&StreamConfig) -> bool| {
            self.rows.iter().rev().find(|row| row.what == what && row.stream.as_ref().is_some_and(same))
        };
        let same_workers = |row: &StreamConfig| row.workers == stream.workers;
        let step = self.rows.first().context("no step was measured")?;
        let data = near(What::Data, &|row| same_workers(row) && row.reads == stream.reads);
        let data = data.or_else(|| near(What::Data, &same_workers));
        let data = data.or_else(|| near(What::Data, &|_| true)).context("no batch was measured")?;
        let train = near(What::Train, &|row| *row == stream).or_else(|| near(What::Train, &same_workers));
        let verdict = choice::judge(&Findings {
            need: step.samples_per_second,
            supply: data.samples_per_second,
            cpu_milliseconds: step.cpu_milliseconds_per_sample + data.cpu_milliseconds_per_sample,
            data_limit: data.limiting_stage.clone(),
            together: train.map(|row| Together {
                samples_per_second: row.samples_per_second,
                wait_share: row.device_wait_share.unwrap_or_default(),
                limit: row.limiting_stage.clone(),
            }),
            cores: self.cores,
            shares_cores: self.shares_cores(),
        });
        let (cores, device) = (self.cores, &self.place.name);
        let toml = format!(
            "# saccade tune: {cores} core(s), device {device}, {:.0} samples/s of data beside {:.0} of the step\n[stream]\n{}",
            data.samples_per_second,
            step.samples_per_second,
            toml::to_string(&stream)?,
        );
        Ok(Advice {
            device: device.clone(),
            cores,
            memory_limit: self.memory,
            seconds: start.elapsed().as_secs_f64(),
            bytes_in_flight: self.bytes(&stream),
            stream,
            verdict,
            toml,
            measured: self.rows,
            notes: self.notes,
        })
    }

    fn shares_cores(&self) -> bool {
        self.place.is_cpu()
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    fn note(&mut self, what: &str) {
        self.notes.push(format!("the time was too short: {what}; give more --seconds"));
    }

    /// The largest of `1..=most` whose settings fit into memory.
    fn most(&self, most: usize, put: impl Fn(usize) -> StreamConfig) -> usize {
        let fits = |value: &usize| self.memory.is_none_or(|memory| self.bytes(&put(*value)) <= memory);
        (1..=most).rev().find(fits).unwrap_or(1)
    }

    /// What a run with these settings holds in memory, as the Plan computes it.
    fn bytes(&self, stream: &StreamConfig) -> u64 {
        in_flight(&self.whole.stream, stream, self.largest)
    }
}

struct Measured {
    slices: Vec<f64>,
    samples_per_second: f64,
}

impl Measured {
    fn tried(&self, value: usize) -> Tried {
        Tried::of(value, &self.slices, self.samples_per_second)
    }
}

/// A stretch of time, and the rates of its parts.
struct Window {
    figures: Figures,
    slices: Vec<f64>,
    /// Batches or steps, those of the warm-up too.
    made: u64,
}

/// Runs for about `time`, but at least one batch or step beyond the warm-up.
fn window(what: What, mut make: Make, time: Duration, telemetry: &Telemetry) -> Result<Window> {
    let begin = Instant::now();
    let mut made = 0;
    let mut next = || {
        made += 1;
        make()?.context("the stream has ended")
    };
    let mut done = 0;
    for number in 0.. {
        let enough = done > 0 && number >= bench::WARM_UP && begin.elapsed() >= time / WARM_UP_SHARE;
        // A device compiles its kernels in the first steps, however long that takes.
        if enough || (what != What::Step && done > 0 && begin.elapsed() >= time) {
            break;
        }
        done = next()?;
    }
    let limit = time.saturating_sub(begin.elapsed());
    let mut clock = Clock::start(telemetry, limit);
    let mut slices = Vec::new();
    let (mut since, mut samples) = (Instant::now(), 0);
    while slices.is_empty() || done == 0 || !clock.is_over() {
        done = next()?;
        clock.count(done);
        samples += done;
        if done > 0 && since.elapsed() >= limit / SLICES {
            slices.push(samples as f64 / since.elapsed().as_secs_f64());
            (since, samples) = (Instant::now(), 0);
        }
    }
    Ok(Window { figures: clock.figures(what.name(), ""), slices, made })
}

fn wait_share(figures: &Figures) -> f64 {
    let busy = figures.stages.iter().find(|stage| stage.stage == "train").map_or(0.0, |stage| stage.busy_seconds);
    (1.0 - busy / figures.seconds).clamp(0.0, 1.0)
}

/// Bytes that this process may still take: what the machine has free, within its control group's limit.
pub(super) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024);
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = group.and_then(|text| text.trim().parse::<u64>().ok());
    Some(limit.map_or(free, |limit| free.min(limit)))
}
