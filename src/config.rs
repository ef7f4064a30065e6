//! A pipeline file as written ([`RunConfig`]) to what will be done ([`Plan`]): after this nothing can be misconfigured.

mod checks;
mod models;
mod stops;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::model::shift::SaccadeUnit;
use crate::model::{FirstWeights, Precision, ProjectorConfig};
use crate::pipeline::saccade::Moved;
use crate::pipeline::{
    AugmentConfig, DecodeConfig, MaskConfig, OnLostShard, Order, PipelineError, SaccadeConfig, StreamConfig, StreamSpec,
};
use crate::shard::{Cache, ShardError, ShardSet};
use crate::telemetry::TelemetryConfig;
use crate::train::device::DeviceError;
use crate::train::memory::{Masked, StepMemory};
use crate::train::model::Loss;
use crate::train::probe::ProbeConfig;
use crate::train::step::StepConfig;
use crate::train::upload::{ON_DEVICE, in_flight};
use crate::train::{DeviceChoice, ModelConfig, Normalisation, Schedules};

pub use self::models::{
    EncoderTable, NarrowVitTable, ObjectiveTable, PredictorTable, VitTable, check_encoder, check_models,
    check_patch_predictor, models,
};
pub use self::stops::{Stop, Stops};

use self::checks::{check_memory, check_ranges, check_room, value};

/// One pipeline file. What changes a result has no default here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    pub seed: u64,
    #[serde(default = "auto")]
    pub device: DeviceChoice,
    pub data: DataConfig,
    pub decode: DecodeConfig,
    pub augment: AugmentConfig,
    pub pixels: Normalisation,
    pub objective: ObjectiveTable,
    /// Which patches are context and targets, where the objective masks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskConfig>,
    /// How the two views of a sample are cut, where the objective compares them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saccade: Option<SaccadeConfig>,
    pub encoder: EncoderTable,
    /// Between the encoder and the objective, where two views are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projector: Option<ProjectorConfig>,
    pub predictor: PredictorTable,
    pub train: TrainConfig,
    pub stream: StreamConfig,
    pub checkpoint: CheckpointConfig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<ScoreConfig>,
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

fn auto() -> DeviceChoice {
    DeviceChoice::Auto
}

/// Which shards are read, and how well they are shuffled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    pub train: Patterns,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Patterns>,
    /// Shards whose samples are shuffled together.
    pub window: usize,
    /// Disk that shards fetched from other machines may take, in GB (10^9 bytes); half of what is free when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_gb: Option<f64>,
    /// What happens when a shard is lost while it is streamed. `"stop"`, unless written otherwise: nothing that was
    /// not asked for is trained on. Not part of a run's course, so that a run that stopped may go on with `"skip"`.
    #[serde(default)]
    pub on_lost_shard: OnLostShard,
}

/// One shard pattern or a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Patterns {
    One(String),
    Many(Vec<String>),
}

impl Patterns {
    pub fn to_vec(&self) -> Vec<String> {
        match self {
            Self::One(pattern) => vec![pattern.clone()],
            Self::Many(patterns) => patterns.clone(),
        }
    }
}

/// The optimizer's course.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    pub epochs: f64,
    /// Samples of one update, over all micro-batches.
    pub batch: usize,
    /// Micro-batches of each rank that make one update; more of them need less memory.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// What matrix products are computed in: `"bf16"` is for GPUs, which have units for it; on a CPU it is slow.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Whether blocks are computed a second time for the backward pass instead of being kept until then: less memory
    /// for one more way forward, and the same gradients.
    #[serde(default, skip_serializing_if = "is_false")]
    pub recompute: bool,
    /// How large weights are at first.
    pub first_weights: FirstWeights,
    /// At the start, at the end of the warm-up, at the end.
    pub learning_rate: [f64; 3],
    pub warmup_epochs: f64,
    /// At the start and at the end.
    pub weight_decay: [f64; 2],
    /// At the start and at the end.
    pub ema_decay: [f64; 2],
    /// Gradients are scaled down to this norm; not at all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
}

fn one() -> usize {
    1
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    pub every_steps: u64,
    /// How many checkpoints stay.
    pub keep: usize,
}

/// The kNN score of the target encoder on the validation shards.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreConfig {
    /// Neighbours that vote.
    pub k: usize,
    /// Scores after every so many epochs; only at the end when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_epochs: Option<f64>,
    /// At most this many training samples, evenly spread over the listed order, are looked up; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_samples: Option<usize>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{}: {why}", path.display())]
    Syntax { path: PathBuf, why: String },
    #[error("--set {text}: {why}")]
    Override { text: String, why: String },
    #[error("{key} = {value}: {why}")]
    Value { key: &'static str, value: String, why: String },
    #[error("data.{split}: {source}")]
    Data { split: &'static str, source: ShardError },
    /// A message that names its key.
    #[error("{0}")]
    Shape(String),
    #[error(transparent)]
    Stream(#[from] PipelineError),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl RunConfig {
    /// Reads a pipeline file and puts the values of `overrides` (`a.b=v`) over it.
    ///
    /// # Errors
    /// When the file cannot be read, or a key is unknown, missing or of the wrong kind.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read { path: path.into(), cause })?;
        let syntax = |error: toml::de::Error| ConfigError::Syntax { path: path.into(), why: explained(&error, &text) };
        if overrides.is_empty() {
            return toml::from_str(&text).map_err(syntax);
        }
        let table: Table = toml::from_str(&text).map_err(syntax)?;
        changed(table, overrides)?.try_into().map_err(syntax)
    }

    /// Puts the values of `overrides` (`a.b=v`) over this configuration.
    ///
    /// # Errors
    /// When a key is unknown or of the wrong kind.
    pub fn changed(self, overrides: &[String]) -> Result<Self, ConfigError> {
        let wrong = |why: String| ConfigError::Override { text: overrides.join(" "), why };
        if overrides.is_empty() {
            return Ok(self);
        }
        let table = Table::try_from(self).map_err(|error| wrong(error.to_string()))?;
        changed(table, overrides)?.try_into().map_err(|error: toml::de::Error| wrong(explained(&error, "")))
    }
}

fn changed(mut table: Table, overrides: &[String]) -> Result<Table, ConfigError> {
    overrides.iter().try_for_each(|change| apply(change, &mut table))?;
    Ok(table)
}

/// The parser's message with the line it speaks of, in one line.
fn explained(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', "; ");
    let with_key = || error.to_string().trim_end().replace('\n', " ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        // Without a place in a text the parser names the key instead.
        None => with_key(),
    }
}

/// Sets one value of the table: `a.b=v`, where `v` is written as in TOML or is taken as text.
fn apply(change: &str, table: &mut Table) -> Result<(), ConfigError> {
    let wrong = |why: &str| ConfigError::Override { text: change.into(), why: why.into() };
    let (keys, value) = change.split_once('=').ok_or_else(|| wrong("write it as a.b=value"))?;
    let value = toml::from_str::<Table>(&format!("value = {value}")).ok().and_then(|mut table| table.remove("value"));
    let value = value.unwrap_or_else(|| Value::String(change[keys.len() + 1..].into()));
    let mut names: Vec<&str> = keys.split('.').collect();
    let last = names.pop().unwrap_or_default();
    let mut place = table;
    for name in names {
        let inner = place.entry(name).or_insert_with(|| Value::Table(Table::new()));
        place = inner.as_table_mut().ok_or_else(|| wrong("the key before the last dot is not a table"))?;
    }
    place.insert(last.into(), value);
    Ok(())
}

/// A run, checked and derived.
#[derive(Clone, Debug)]
pub struct Plan {
    pub config: RunConfig,
    pub models: ModelConfig,
    pub train: Arc<ShardSet>,
    pub validation: Option<Arc<ShardSet>>,
    pub stream: StreamSpec,
    pub step: StepConfig,
    pub steps: u64,
    pub stops: Stops,
    pub encoder_parameters: u64,
    pub predictor_parameters: u64,
    pub bytes_in_flight: u64,
}

impl Plan {
    /// # Errors
    /// When a value is out of range, values do not go together, or shards are missing or damaged.
    pub fn new(config: RunConfig) -> Result<Self, ConfigError> {
        Self::with(config, Cache::from_env())
    }

    /// As [`Self::new`], with the folder for what is kept of shards.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(config: RunConfig, cache: Cache) -> Result<Self, ConfigError> {
        check_ranges(&config)?;
        let cache = cache.with_room(config.data.cache_gb.map(|gb| (gb * 1e9) as u64));
        let models = models(&config)?;
        let stream = StreamSpec {
            order: Order::Shuffled { seed: config.seed, window: config.data.window },
            batch: config.train.batch,
            decode: config.decode,
            augment: config.augment.clone(),
            saccade: config.saccade.clone().map(|saccade| SaccadeConfig { size: config.augment.size, ..saccade }),
            mask: config.mask.clone().map(|mask| (mask, models.encoder.grid())),
            on_lost_shard: config.data.on_lost_shard,
        };
        config.stream.check()?;
        let open = |split, patterns: &Patterns, need_labels| {
            let set = ShardSet::open_with(&patterns.to_vec(), need_labels, &cache);
            set.map(Arc::new).map_err(|source| ConfigError::Data { split, source })
        };
        let train = open("train", &config.data.train, false)?;
        check_room(&train, config.data.window)?;
        let need_labels = config.score.is_some();
        let validation = config.data.validation.as_ref().map(|patterns| open("validation", patterns, need_labels));
        let validation = validation.transpose()?;
        if config.score.is_some() && !(0..train.len() as u32).any(|number| train.sample(number).label.is_some()) {
            let why =
                "a score compares labels, and no sample of data.train has one; leave [score] out or add .cls members";
            return Err(value("score.k", config.score.map_or(0, |score| score.k), why));
        }
        let steps = steps_of(config.train.epochs, train.len(), config.train.batch);
        if steps == 0 {
            let why = format!("{} samples are fewer than one batch of {}", train.len(), config.train.batch);
            return Err(value("train.epochs", config.train.epochs, &why));
        }
        stream.check(&(0..steps))?;
        let largest = (0..train.len() as u32).map(|number| train.sample(number).length).max().unwrap_or(0);
        let bytes_in_flight = in_flight(&stream, &config.stream, largest);
        check_memory(bytes_in_flight, &config)?;
        Ok(Self {
            bytes_in_flight,
            step: StepConfig {
                accumulate: config.train.accumulate,
                precision: config.train.precision,
                recompute: config.train.recompute,
                clip_norm: config.train.clip_norm,
                loss: loss(&config),
                schedules: schedules(&config, steps, train.len()),
                probe: ProbeConfig::new(models.encoder.width(), labels(&train)),
            },
            stops: Stops::new(&config, steps, train.len()),
            encoder_parameters: models.encoder.parameters(),
            predictor_parameters: models.predictor_parameters(),
            models,
            train,
            validation,
            stream,
            steps,
            config,
        })
    }

    pub fn parameters(&self) -> u64 {
        self.encoder_parameters + self.predictor_parameters
    }

    /// Bytes of one checkpoint: encoder, target encoder, predictor and online probe, and two moments of all that is
    /// trained.
    pub fn checkpoint_bytes(&self) -> u64 {
        let probe = self.step.probe.as_ref().map_or(0, ProbeConfig::numbers);
        4 * (3 * self.parameters() + self.encoder_parameters + self.models.projector_parameters() + probe)
    }

    /// Why no online probe learns the labels that there are, if so.
    pub fn without_probe(&self) -> Option<String> {
        let labels = if self.step.probe.is_some() { 0 } else { labels(&self.train).len() };
        let width = self.models.encoder.width();
        (labels > 0).then(|| format!("no online probe: {labels} labels times {width} features are too many weights"))
    }

    /// What a step takes of the memory of the device that the first rank is on.
    pub fn step_memory(&self, on_cpu: bool) -> StepMemory {
        let masked = self.stream.mask.as_ref().map(|(mask, grid)| {
            let [context, target] = mask.widths(*grid, self.config.train.batch, self.config.seed);
            Masked { context, target, blocks: mask.target_blocks }
        });
        let sizes = [self.config.train.batch, ON_DEVICE, self.config.device.ranks()];
        StepMemory::new(&self.models, &self.step, masked, sizes, on_cpu)
    }

    /// What decides the course of the run beside the data: a run goes on only under the same.
    pub fn course(&self) -> String {
        course(&self.config, &self.models)
    }

    /// The stream of a set's samples as a score sees them: whole images in the listed order, at most so many of them.
    pub fn scoring(&self, side: u32, samples: usize, most: Option<usize>) -> StreamSpec {
        let augment = AugmentConfig { size: side, ..self.config.augment.clone() };
        let every = most.map_or(1, |most| samples.div_ceil(most).max(1));
        // What fits a training step fits here, where nothing is kept for a backward pass.
        let batch =
            self.config.train.batch.div_ceil(self.config.train.accumulate.saturating_mul(self.config.device.ranks()));
        let (decode, on_lost_shard) = (self.config.decode, self.config.data.on_lost_shard);
        StreamSpec { order: Order::InOrder { every }, batch, decode, augment, saccade: None, mask: None, on_lost_shard }
    }

    /// The stream of so many views, drawn as for training, of `most` samples at most. Where training sees two views of a
    /// sample, these are the moved ones.
    pub fn viewing(&self, samples: usize, most: usize, views: usize) -> StreamSpec {
        let every = samples.div_ceil(most).max(1);
        let order = Order::Viewed { seed: self.config.seed, every, views };
        // The other view may always be the unmoved middle.
        let saccade = self.stream.saccade.clone().map(|saccade| SaccadeConfig { moved: Moved::First, ..saccade });
        StreamSpec { order, saccade, ..self.scoring(self.config.augment.size, samples, None) }
    }

    /// Bytes that the run writes at most: the checkpoints it keeps, one that is being written, its records, and what it
    /// tells TensorBoard.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes_after(0)
    }

    /// What of them is left to write after so many steps.
    pub fn disk_bytes_after(&self, done: u64) -> u64 {
        /// Generous for one line of `steps.jsonl`.
        const STEP_LINE: u64 = 600;
        let keep = self.config.checkpoint.keep as u64;
        let kept = (done / self.config.checkpoint.every_steps.max(1)).min(keep);
        let checkpoints = self.checkpoint_bytes().saturating_mul(keep - kept + 1);
        let left = self.steps.saturating_sub(done);
        let events = if self.config.telemetry.tensorboard { self.event_bytes(left, done) } else { 0 };
        checkpoints.saturating_add(left.saturating_mul(STEP_LINE)).saturating_add(events)
    }

    /// Of TensorBoard's files: the values of so many steps, and the pictures.
    fn event_bytes(&self, steps: u64, done: u64) -> u64 {
        /// Some twenty values of 60 bytes.
        const STEP: u64 = 1500;
        /// Tiles of a picture at most, at a byte for each colour of a pixel; they are at least 96 pixels a side.
        const PICTURE: u64 = 60 * 3;
        let side = u64::from(self.config.augment.size.max(192));
        let pictures = 1 + self.stops.scores_after(done);
        steps.saturating_mul(STEP).saturating_add(pictures.saturating_mul(PICTURE * side * side))
    }
}

/// What decides the course of a run beside the data, as text.
pub fn course(config: &RunConfig, models: &ModelConfig) -> String {
    // Terms may look at a part of a batch, whichever rank has it.
    let accumulate = config.train.accumulate.saturating_mul(config.device.ranks());
    // What is kept for the backward pass changes nothing that comes of it.
    let train = TrainConfig { recompute: false, accumulate, ..config.train.clone() };
    serde_json::json!({
        "seed": config.seed, "window": config.data.window, "decode": config.decode, "augment": config.augment, "pixels": config.pixels,
        "objective": config.objective, "mask": config.mask, "saccade": config.saccade, "models": models, "train": train,
        "weights": config.encoder.weights().is_some(),
    })
    .to_string()
}

/// The labels that occur, in order.
fn labels(train: &ShardSet) -> Vec<u32> {
    let labels = (0..train.len() as u32).filter_map(|number| train.sample(number).label);
    labels.collect::<BTreeSet<u32>>().into_iter().collect()
}

fn loss(config: &RunConfig) -> Loss {
    match config.objective {
        ObjectiveTable::Ijepa(weights) => Loss::Masked(weights),
        ObjectiveTable::Saccade(weights) => Loss::Told(weights),
        ObjectiveTable::SaccadeRead(weights) => {
            let unit = config.saccade.as_ref().map_or(SaccadeUnit::new(0.0, 0.0), |saccade| {
                let margin = saccade.field.saturating_sub(config.augment.size);
                let shift = saccade.most_shift * f64::from(margin) / f64::from(saccade.field);
                SaccadeUnit::new(saccade.most_degrees.to_radians(), shift)
            });
            Loss::Read { weights, unit }
        }
    }
}

/// Whole batches in so many epochs; what is left of the last epoch is less than a batch.
fn steps_of(epochs: f64, samples: usize, batch: usize) -> u64 {
    (epochs * samples as f64 / batch as f64) as u64
}

fn schedules(config: &RunConfig, steps: u64, samples: usize) -> Schedules {
    let [start, peak, last] = config.train.learning_rate;
    Schedules {
        start_learning_rate: start,
        peak_learning_rate: peak,
        final_learning_rate: last,
        warmup_steps: steps_of(config.train.warmup_epochs, samples, config.train.batch),
        steps,
        weight_decay: config.train.weight_decay,
        ema_decay: config.train.ema_decay,
    }
}
