//! What we measure: stages, queues, training and the machine, and the door through which Prometheus reads it.
//!
//! Comes in: durations, counts and values from every other module. Goes out: the text of `/metrics`, and the name of
//! the stage that limits. [`Telemetry`] is made once per process and handed down; there are no globals but the log.

pub mod bottleneck;
pub mod catalogue;
mod connections;
mod exporter;
mod exposed;
mod gpu;
mod histogram;
pub mod log;
mod machine;
pub mod server;
mod stage;
mod stripe;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use connections::Opening;
pub use exposed::GoesOn;
pub use gpu::{GpuReading, MOST_GPUS};
pub use machine::{memory, processor_time};
pub use stage::{Activity, Queue, QueueMeter, Spell, Stage, StageMeter, StageTotals};

use bottleneck::Window;
use exporter::{Exporter, Series, Value};
use exposed::{Exposed, Side};
use histogram::Histogram;
use machine::Machine;

/// Where a run is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Where `/metrics` is served, for example `127.0.0.1:9400`; port 0 takes a free one. Nowhere if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Whether the run's folder gets event files for TensorBoard too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tensorboard: bool,
}

/// Why the telemetry cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("telemetry address {address}: the port is in use, choose another or end the process that listens there")]
    PortInUse { address: SocketAddr },
    #[error("telemetry address {address}: cannot listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("telemetry address {address}: stopped serving")]
    Serve { address: SocketAddr, source: std::io::Error },
    #[error("RUST_LOG: not a log filter, write for example `info` or `saccade=debug`")]
    LogFilter(#[from] tracing_subscriber::filter::FromEnvError),
    #[error("log: started already")]
    LogStarted,
}

/// What ranks are called in labels.
const RANKS: [&str; MOST_GPUS as usize] = ["0", "1", "2", "3", "4", "5", "6", "7"];

/// A value that the trainer sets and that has no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gauge {
    Loss,
    LearningRate,
    WeightDecay,
    EmaDecay,
    GradientNorm,
    SamplesPerSecond,
    Epoch,
    Step,
    StepsPlanned,
    BytesInFlightLimit,
    CheckpointTime,
    DiskFree,
    DiskNeeded,
}

impl Gauge {
    pub const ALL: [Gauge; 13] = [
        Gauge::Loss,
        Gauge::LearningRate,
        Gauge::WeightDecay,
        Gauge::EmaDecay,
        Gauge::GradientNorm,
        Gauge::SamplesPerSecond,
        Gauge::Epoch,
        Gauge::Step,
        Gauge::StepsPlanned,
        Gauge::BytesInFlightLimit,
        Gauge::CheckpointTime,
        Gauge::DiskFree,
        Gauge::DiskNeeded,
    ];

    const fn metric(self) -> &'static catalogue::Metric {
        match self {
            Gauge::Loss => &catalogue::LOSS,
            Gauge::LearningRate => &catalogue::LEARNING_RATE,
            Gauge::WeightDecay => &catalogue::WEIGHT_DECAY,
            Gauge::EmaDecay => &catalogue::EMA_DECAY,
            Gauge::GradientNorm => &catalogue::GRADIENT_NORM,
            Gauge::SamplesPerSecond => &catalogue::SAMPLES_PER_SECOND,
            Gauge::Epoch => &catalogue::EPOCH,
            Gauge::Step => &catalogue::STEP,
            Gauge::StepsPlanned => &catalogue::STEPS_PLANNED,
            Gauge::BytesInFlightLimit => &catalogue::BYTES_IN_FLIGHT_LIMIT,
            Gauge::CheckpointTime => &catalogue::CHECKPOINT_TIME,
            Gauge::DiskFree => &catalogue::DISK_FREE,
            Gauge::DiskNeeded => &catalogue::DISK_NEEDED,
        }
    }
}

/// All the measurements of one process; clones share them.
///
/// The values of labels are texts of the program (`&'static str`) but for the run's name, so no key and no path can make
/// series without end: there are at most [`catalogue::MOST_SERIES`].
#[derive(Clone)]
pub struct Telemetry(Arc<Shared>);

struct Shared {
    exporter: Arc<Exporter>,
    stages: [StageMeter; Stage::ALL.len()],
    queues: [QueueMeter; Queue::ALL.len()],
    gauges: [metrics::Gauge; Gauge::ALL.len()],
    limits: [metrics::Gauge; Stage::ALL.len()],
    step_seconds: Histogram,
    data_wait_nanoseconds: AtomicU64,
    exposed: Arc<Exposed>,
    /// Of the ranks that are told of.
    rank_nanoseconds: [AtomicU64; MOST_GPUS as usize],
    probe_samples: metrics::Counter,
    probe_right: metrics::Counter,
    machine: Machine,
    window: Mutex<Window>,
    /// Ends the watch over the GPUs when it goes.
    #[cfg(feature = "nvml")]
    gpus: std::sync::OnceLock<std::sync::mpsc::SyncSender<()>>,
}

impl Telemetry {
    /// Makes every series that is known beforehand, at 0. `run` is the run's name, a label of `saccade_run_info`.
    pub fn new(run: &str) -> Self {
        let exporter = Arc::new(Exporter::new());
        exporter.gauge(&catalogue::BUILD_INFO, &[env!("CARGO_PKG_VERSION")]).set(1.0);
        exporter.gauge(&catalogue::RUN_INFO, &[run]).set(1.0);
        let stages = Stage::ALL.map(|stage| StageMeter::new(stage, Arc::clone(&exporter)));
        let window = Window::new(Instant::now(), totals(&stages));
        Self(Arc::new(Shared {
            stages,
            queues: Queue::ALL.map(|queue| QueueMeter::new(queue, &exporter)),
            gauges: Gauge::ALL.map(|gauge| exporter.gauge(gauge.metric(), &[])),
            limits: Stage::ALL.map(|stage| exporter.gauge(&catalogue::BOTTLENECK, &[stage.name()])),
            step_seconds: Histogram::new(&catalogue::STEP_DURATION),
            data_wait_nanoseconds: AtomicU64::new(0),
            exposed: Arc::default(),
            rank_nanoseconds: Default::default(),
            probe_samples: exporter.counter(&catalogue::PROBE_SAMPLES, &[]),
            probe_right: exporter.counter(&catalogue::PROBE_RIGHT, &[]),
            machine: Machine::new(&exporter),
            window: Mutex::new(window),
            #[cfg(feature = "nvml")]
            gpus: std::sync::OnceLock::new(),
            exporter,
        }))
    }

    pub fn stage(&self, stage: Stage) -> StageMeter {
        self.0.stages[stage as usize].clone()
    }

    /// `capacity` is how many entries the queue has room for.
    pub fn queue(&self, queue: Queue, capacity: usize) -> QueueMeter {
        let meter = self.0.queues[queue as usize].clone();
        meter.capacity(capacity);
        meter
    }

    pub fn set(&self, gauge: Gauge, value: f64) {
        self.0.gauges[gauge as usize].set(value);
    }

    /// Sets one named summand of the loss.
    pub fn set_term(&self, term: &'static str, value: f64) {
        self.0.exporter.gauge(&catalogue::LOSS_TERM, &[term]).set(value);
    }

    /// Sets how much the pooled features of an output differ, and along how many directions.
    pub fn set_features(&self, output: &'static str, deviation: f64, rankme: f64, alpha: Option<f64>) {
        let set = |metric, value| self.0.exporter.gauge(metric, &[output]).set(value);
        set(&catalogue::FEATURE_DEVIATION, deviation);
        set(&catalogue::FEATURE_RANKME, rankme);
        if let Some(alpha) = alpha {
            set(&catalogue::FEATURE_ALPHA, alpha);
        }
    }

    /// Sets the energies per token before the first iteration and after each; of many iterations the last one, and every
    /// so many before it.
    pub fn set_energies(&self, energies: &[f64]) {
        let every = energies.len().div_ceil(catalogue::MOST_ENERGIES).max(1);
        for (iterations, energy) in energies.iter().enumerate().rev().step_by(every) {
            self.0.exporter.gauge(&catalogue::ENERGY, &[&iterations.to_string()]).set(*energy);
        }
    }

    /// Sets whether an output is found collapsed.
    pub fn set_collapse(&self, output: &'static str, kind: &'static str, is_collapsed: bool) {
        self.0.exporter.gauge(&catalogue::COLLAPSE, &[output, kind]).set(if is_collapsed { 1.0 } else { 0.0 });
    }

    /// Sets the latest score of an evaluation.
    pub fn set_score(&self, score: &'static str, value: f64) {
        self.0.exporter.gauge(&catalogue::SCORE, &[score]).set(value);
    }

    /// Sets what the GPU with this number, as its driver counts, tells of itself; nothing from [`MOST_GPUS`] on.
    pub fn set_gpu(&self, number: u32, reading: &GpuReading) {
        if number < MOST_GPUS {
            gpu::set(&self.0.exporter, number, reading, &GpuReading::default());
        }
    }

    /// Has a thread look at the GPUs every other second from now on, through `library` or, with `None`, through NVML
    /// where the system finds it. Without a library there are no metrics of GPUs. Does nothing the second time.
    ///
    /// # Errors
    /// When the thread cannot be started.
    #[cfg(feature = "nvml")]
    pub fn watch_gpus(&self, library: Option<&std::path::Path>) -> std::io::Result<()> {
        /// As the driver installs it; the name without a version comes with development packages alone.
        const LIBRARY: &str = "libnvidia-ml.so.1";
        if self.0.gpus.get().is_none() {
            let library = library.map_or(LIBRARY.as_ref(), |path| path.as_os_str());
            // Of two who begin at once, one ends here.
            let _ = self.0.gpus.set(gpu::watch(library, Arc::downgrade(&self.0.exporter))?);
        }
        Ok(())
    }

    /// Counts one more question to a server of shards, after a failure of that kind.
    pub fn fetch_retried(&self, reason: &'static str) {
        self.0.exporter.counter(&catalogue::FETCH_RETRIES, &[reason]).increment(1);
    }

    /// Adds one optimizer step: the time it took, and the time before it in which the trainer waited for its data.
    pub fn step(&self, took: Duration, waited: Duration) {
        self.0.step_seconds.observe(took);
        self.0.data_wait_nanoseconds.fetch_add(stage::nanoseconds(waited), Relaxed);
    }

    /// A batch is uploaded, from now until what this gives is dropped.
    pub fn upload_goes_on(&self) -> GoesOn {
        self.0.exposed.begin(Side::Upload)
    }

    /// The trainer waits for an uploaded batch, from now until what this gives is dropped.
    pub fn wait_goes_on(&self) -> GoesOn {
        self.0.exposed.begin(Side::Wait)
    }

    /// Adds the time that a rank has worked on its share of a batch; nothing from the rank [`MOST_GPUS`] on.
    pub fn rank(&self, rank: usize, took: Duration) {
        if let Some(nanoseconds) = self.0.rank_nanoseconds.get(rank) {
            nanoseconds.fetch_add(stage::nanoseconds(took), Relaxed);
        }
    }

    /// Adds samples that the online probe has scored, and how many of them rightly.
    pub fn probe(&self, right: u64, of: u64) {
        self.0.probe_right.increment(right);
        self.0.probe_samples.increment(of);
    }

    /// What every stage has done since the process started, in the order in which data flows.
    pub fn stages(&self) -> Vec<(Stage, StageTotals)> {
        totals(&self.0.stages)
    }

    /// The stage that has limited the run over the last seconds; `None` while none has worked.
    pub fn bottleneck(&self) -> Option<Stage> {
        let mut window = self.0.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.look(Instant::now(), self.stages())
    }

    /// Everything, in the Prometheus text format 0.0.4.
    pub fn render(&self) -> String {
        self.publish();
        self.0.exporter.render(&self.series())
    }

    /// Brings up to date what is computed only when somebody looks.
    fn publish(&self) {
        let limiting = self.bottleneck();
        for (stage, gauge) in Stage::ALL.iter().zip(&self.0.limits) {
            gauge.set(if limiting == Some(*stage) { 1.0 } else { 0.0 });
        }
        for stage in &self.0.stages {
            stage.publish();
        }
        self.0.machine.publish();
    }

    /// What the exporter does not keep itself.
    fn series(&self) -> Vec<Series> {
        let stages = self.stages();
        let times = |metric, time: fn(&StageTotals) -> Duration| {
            stages
                .iter()
                .map(move |(stage, totals)| Series::new(metric, Some(stage.name()), Value::Seconds(time(totals))))
        };
        let mut series: Vec<Series> = Vec::new();
        series.extend(times(&catalogue::STAGE_BUSY, |totals| totals.busy));
        series.extend(times(&catalogue::STAGE_STARVED, |totals| totals.starved));
        series.extend(times(&catalogue::STAGE_BLOCKED, |totals| totals.blocked));
        for meter in &self.0.stages {
            let value = Value::Histogram(meter.sample_seconds());
            series.push(Series::new(&catalogue::STAGE_SAMPLE_SECONDS, Some(meter.stage().name()), value));
        }
        let steps = Value::Histogram(self.0.step_seconds.totals());
        series.push(Series::new(&catalogue::STEP_DURATION, None, steps));
        let waited = Duration::from_nanos(self.0.data_wait_nanoseconds.load(Relaxed));
        series.push(Series::new(&catalogue::DATA_WAIT, None, Value::Seconds(waited)));
        series.push(Series::new(&catalogue::UPLOAD_EXPOSED, None, Value::Seconds(self.0.exposed.total())));
        let ranks = RANKS.into_iter().zip(&self.0.rank_nanoseconds);
        let ranks = ranks.map(|(rank, time)| (rank, Duration::from_nanos(time.load(Relaxed))));
        let worked = ranks.filter(|(_, time)| !time.is_zero());
        series
            .extend(worked.map(|(rank, time)| Series::new(&catalogue::RANK_SECONDS, Some(rank), Value::Seconds(time))));
        if let Some(time) = machine::processor_time() {
            series.push(Series::new(&catalogue::PROCESS_CPU, None, Value::Seconds(time)));
        }
        series
    }
}

fn totals(stages: &[StageMeter]) -> Vec<(Stage, StageTotals)> {
    stages.iter().map(|meter| (meter.stage(), meter.totals())).collect()
}
