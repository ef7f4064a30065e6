//! Every metric of the project: its name, its help, its labels and, for a histogram, its buckets.
//!
//! Comes in: nothing. Goes out: constants that the rest of `telemetry` registers, sets and renders. A metric that is
//! not listed in [`ALL`] does not exist.

/// What a metric's values mean over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number that only grows.
    Counter,
    /// Seconds that only grow; fractions matter.
    SecondsCounter,
    /// A number that goes up and down.
    Gauge,
    /// Observations sorted into buckets by these upper bounds.
    Histogram(&'static [f64]),
}

/// One metric, as a reader of `/metrics` meets it.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// The names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
}

const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, help, kind, labels }
}

/// Drawing masks takes some ten microseconds, decoding milliseconds, a slow disk or an evaluation seconds: three
/// bounds a decade over that range.
const SAMPLE_SECONDS: &[f64] =
    &[1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// From a tiny encoder on a GPU to a huge one with accumulated gradients.
const STEP_SECONDS: &[f64] = &[5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0];

/// Series of one energy, at most: a panel with more lines tells nothing more.
pub const MOST_ENERGIES: usize = 32;

/// Series of one process, buckets too. A new metric may need a higher bound; `dashboards/README.md` states it as well.
pub const MOST_SERIES: usize = 530;

pub const STAGE_SAMPLES: Metric =
    metric("saccade_stage_samples_total", Kind::Counter, &["stage"], "Samples that a stage has finished.");
pub const STAGE_BYTES: Metric = metric(
    "saccade_stage_bytes_total",
    Kind::Counter,
    &["stage"],
    "Bytes that a stage has handled: encoded ones where it reads, pixels where it writes them.",
);
pub const STAGE_SKIPPED: Metric = metric(
    "saccade_stage_skipped_total",
    Kind::Counter,
    &["stage", "reason"],
    "Samples that a stage has quarantined, by reason.",
);
pub const STAGE_BUSY: Metric = metric(
    "saccade_stage_busy_seconds_total",
    Kind::SecondsCounter,
    &["stage"],
    "Time that a stage's workers have spent working, summed over workers.",
);
pub const STAGE_STARVED: Metric = metric(
    "saccade_stage_starved_seconds_total",
    Kind::SecondsCounter,
    &["stage"],
    "Time that a stage's workers have waited for input, summed over workers.",
);
pub const STAGE_BLOCKED: Metric = metric(
    "saccade_stage_blocked_seconds_total",
    Kind::SecondsCounter,
    &["stage"],
    "Time that a stage's workers have waited for room in the next queue, summed over workers.",
);
pub const STAGE_SAMPLE_SECONDS: Metric = metric(
    "saccade_stage_sample_seconds",
    Kind::Histogram(SAMPLE_SECONDS),
    &["stage"],
    "Time that a stage has worked on one sample.",
);
pub const QUEUE_DEPTH: Metric =
    metric("saccade_queue_depth", Kind::Gauge, &["queue"], "Entries that wait in a queue between two stages.");
pub const QUEUE_CAPACITY: Metric =
    metric("saccade_queue_capacity", Kind::Gauge, &["queue"], "Entries that a queue between two stages has room for.");
pub const BOTTLENECK: Metric = metric(
    "saccade_bottleneck",
    Kind::Gauge,
    &["stage"],
    "1 for the stage that limits the run now, the one neither starved nor blocked; 0 for the others.",
);
pub const FETCH_RETRIES: Metric = metric(
    "saccade_fetch_retries_total",
    Kind::Counter,
    &["reason"],
    "Times that a server of shards was asked again after a failure, by reason.",
);

pub const LOSS: Metric = metric("saccade_loss", Kind::Gauge, &[], "Loss of the latest step whose loss was read.");
pub const LOSS_TERM: Metric =
    metric("saccade_loss_term", Kind::Gauge, &["term"], "One named summand of the loss, weighted as it is summed.");
pub const FEATURE_DEVIATION: Metric = metric(
    "saccade_feature_deviation",
    Kind::Gauge,
    &["output"],
    "Deviation of the pooled features of 128 training samples, averaged over the features; 0 is collapse.",
);
pub const FEATURE_RANKME: Metric = metric(
    "saccade_feature_rankme",
    Kind::Gauge,
    &["output"],
    "Effective rank (RankMe) of the pooled features of 128 training samples; at most the lesser of 128 and the width.",
);
pub const FEATURE_ALPHA: Metric = metric(
    "saccade_feature_alpha",
    Kind::Gauge,
    &["output"],
    "Exponent with which the variances of the pooled features fall (alpha-ReQ); absent with too few directions left.",
);
pub const COLLAPSE: Metric = metric(
    "saccade_collapse",
    Kind::Gauge,
    &["output", "kind"],
    "1 while an output is found collapsed, completely or along most dimensions; 0 after it has healed.",
);
pub const ENERGY: Metric = metric(
    "saccade_energy",
    Kind::Gauge,
    &["iterations"],
    "Energy per token of the target encoder after so many iterations, averaged over a batch; it falls along them.",
);
pub const LEARNING_RATE: Metric =
    metric("saccade_learning_rate", Kind::Gauge, &[], "Learning rate of the current step.");
pub const WEIGHT_DECAY: Metric = metric("saccade_weight_decay", Kind::Gauge, &[], "Weight decay of the current step.");
pub const EMA_DECAY: Metric =
    metric("saccade_ema_decay", Kind::Gauge, &[], "Share of itself that the target encoder keeps in the current step.");
pub const GRADIENT_NORM: Metric =
    metric("saccade_gradient_norm", Kind::Gauge, &[], "Euclidean norm of all gradients, before clipping.");
pub const STEP_DURATION: Metric = metric(
    "saccade_step_seconds",
    Kind::Histogram(STEP_SECONDS),
    &[],
    "Time that one optimizer step has taken, without the wait for its data.",
);
pub const DATA_WAIT: Metric = metric(
    "saccade_data_wait_seconds_total",
    Kind::SecondsCounter,
    &[],
    "Time that the trainer has waited for batches.",
);
pub const UPLOAD_EXPOSED: Metric = metric(
    "saccade_upload_exposed_seconds_total",
    Kind::SecondsCounter,
    &[],
    "Time that the trainer waited while a batch was made ready and handed to the device; a GPU copies on after that.",
);
pub const RANK_SECONDS: Metric = metric(
    "saccade_rank_seconds_total",
    Kind::SecondsCounter,
    &["rank"],
    "Time that each of the first eight ranks has worked on its shares of batches; told where there are several.",
);
pub const SAMPLES_PER_SECOND: Metric =
    metric("saccade_samples_per_second", Kind::Gauge, &[], "Samples trained per second, lately.");
pub const EPOCH: Metric = metric("saccade_epoch", Kind::Gauge, &[], "Epoch that the current step belongs to.");
pub const STEP: Metric = metric("saccade_step", Kind::Gauge, &[], "Optimizer steps done, those before a resume too.");
pub const STEPS_PLANNED: Metric =
    metric("saccade_steps_planned", Kind::Gauge, &[], "Optimizer steps of the whole run.");
pub const BYTES_IN_FLIGHT_LIMIT: Metric = metric(
    "saccade_bytes_in_flight_limit",
    Kind::Gauge,
    &[],
    "Bytes that all queues and buffers of the pipeline can hold together.",
);
pub const CHECKPOINT_TIME: Metric = metric(
    "saccade_checkpoint_time_seconds",
    Kind::Gauge,
    &[],
    "When the newest checkpoint was saved, in seconds since 1970-01-01 00:00 UTC; until there is one, when the run began.",
);
pub const DISK_FREE: Metric = metric(
    "saccade_disk_free_bytes",
    Kind::Gauge,
    &[],
    "Bytes that are free on the disk of the run's folder; looked at when a checkpoint is saved.",
);
pub const DISK_NEEDED: Metric =
    metric("saccade_disk_needed_bytes", Kind::Gauge, &[], "Bytes that the rest of the run may yet write, at most.");
pub const SCORE: Metric = metric("saccade_score", Kind::Gauge, &["score"], "Latest score of an evaluation, by name.");

pub const PROBE_SAMPLES: Metric = metric(
    "saccade_probe_samples_total",
    Kind::Counter,
    &[],
    "Training samples that the online probe has scored; it learns from all others, never from these.",
);
pub const PROBE_RIGHT: Metric = metric(
    "saccade_probe_right_total",
    Kind::Counter,
    &[],
    "Of those, samples that it has classified rightly; the ratio of the two rates is its accuracy.",
);

pub const GPU_BUSY: Metric = metric(
    "saccade_gpu_busy_ratio",
    Kind::Gauge,
    &["gpu"],
    "Share of the last moments in which some kernel ran on the GPU, of any process, as its driver tells.",
);
pub const GPU_MEMORY_USED: Metric =
    metric("saccade_gpu_memory_used_bytes", Kind::Gauge, &["gpu"], "Memory of the GPU that is in use, by any process.");
pub const GPU_MEMORY: Metric = metric("saccade_gpu_memory_bytes", Kind::Gauge, &["gpu"], "Memory that the GPU has.");
pub const GPU_POWER: Metric = metric("saccade_gpu_power_watts", Kind::Gauge, &["gpu"], "Power that the GPU draws.");
pub const GPU_TEMPERATURE: Metric =
    metric("saccade_gpu_temperature_celsius", Kind::Gauge, &["gpu"], "Temperature of the GPU's chip.");
pub const GPU_PCIE: Metric = metric(
    "saccade_gpu_pcie_bytes_per_second",
    Kind::Gauge,
    &["gpu", "direction"],
    "Bytes per second that the GPU receives and sends over PCIe, measured over 20 ms.",
);

pub const BUILD_INFO: Metric =
    metric("saccade_build_info", Kind::Gauge, &["version"], "1; the label says which build this is.");
pub const RUN_INFO: Metric = metric("saccade_run_info", Kind::Gauge, &["run"], "1; the label names the run.");

pub const PROCESS_CPU: Metric = metric(
    "process_cpu_seconds_total",
    Kind::SecondsCounter,
    &[],
    "Processor time that the process has used, user and system, all threads.",
);
pub const PROCESS_MEMORY: Metric =
    metric("process_resident_memory_bytes", Kind::Gauge, &[], "Memory of the process that is resident.");
pub const PROCESS_DESCRIPTORS: Metric =
    metric("process_open_fds", Kind::Gauge, &[], "File descriptors that the process has open.");
pub const PROCESS_THREADS: Metric = metric("process_threads", Kind::Gauge, &[], "Threads of the process.");
pub const PROCESS_START: Metric = metric(
    "process_start_time_seconds",
    Kind::Gauge,
    &[],
    "When the process started, in seconds since 1970-01-01 00:00 UTC.",
);

/// The whole catalogue.
pub const ALL: &[&Metric] = &[
    &STAGE_SAMPLES,
    &STAGE_BYTES,
    &STAGE_SKIPPED,
    &STAGE_BUSY,
    &STAGE_STARVED,
    &STAGE_BLOCKED,
    &STAGE_SAMPLE_SECONDS,
    &QUEUE_DEPTH,
    &QUEUE_CAPACITY,
    &BOTTLENECK,
    &FETCH_RETRIES,
    &LOSS,
    &LOSS_TERM,
    &FEATURE_DEVIATION,
    &FEATURE_RANKME,
    &FEATURE_ALPHA,
    &COLLAPSE,
    &ENERGY,
    &LEARNING_RATE,
    &WEIGHT_DECAY,
    &EMA_DECAY,
    &GRADIENT_NORM,
    &STEP_DURATION,
    &DATA_WAIT,
    &UPLOAD_EXPOSED,
    &RANK_SECONDS,
    &SAMPLES_PER_SECOND,
    &EPOCH,
    &STEP,
    &STEPS_PLANNED,
    &BYTES_IN_FLIGHT_LIMIT,
    &CHECKPOINT_TIME,
    &DISK_FREE,
    &DISK_NEEDED,
    &SCORE,
    &PROBE_SAMPLES,
    &PROBE_RIGHT,
    &GPU_BUSY,
    &GPU_MEMORY_USED,
    &GPU_MEMORY,
    &GPU_POWER,
    &GPU_TEMPERATURE,
    &GPU_PCIE,
    &BUILD_INFO,
    &RUN_INFO,
    &PROCESS_CPU,
    &PROCESS_MEMORY,
    &PROCESS_DESCRIPTORS,
    &PROCESS_THREADS,
    &PROCESS_START,
];
