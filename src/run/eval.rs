//! What a run's encoder has learnt: its features as files, and its scores, each with the samples that it was taken on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::exchange::{self, Which};
use super::folder;
use super::score::Extraction;
use crate::checkpoint::write_whole;
use crate::config::{Patterns, Plan};
use crate::eval::features::{Features, Rows};
use crate::eval::knn::{Nearness, Neighbour, nearest};
use crate::eval::npy::NpyWriter;
use crate::eval::scores::{FeatureScores, scores};
use crate::model::{Encoder, EncoderConfig, FirstWeights, WeightInit, weights};
use crate::shard::ShardSet;
use crate::train::device::Placement;

/// The file of a run that holds its scores.
pub const SCORES: &str = "eval.json";
/// Blocks whose outputs [`Pooling::LastFour`] takes.
const LAST: usize = 4;

/// A run's encoder with the weights of its newest checkpoint.
pub struct Frozen {
    pub plan: Plan,
    pub step: u64,
    pub which: Which,
    encoder: Encoder,
    pooling: Pooling,
    place: Placement,
}

/// Which samples: those that were trained on, or those held out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    Train,
    Validation,
}

/// How the features of an image's patches become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Their mean; of a ConvNeXt, what its classifier sees
    Mean,
    /// Of a ViT: the means of what the last four blocks give, side by side
    LastFour,
}

/// All scores of an encoder; shares in `0..=1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub step: u64,
    pub images_seen: u64,
    pub which: Which,
    pub pooling: Pooling,
    /// Samples that kNN looks for neighbours in, and that the probe is fitted to.
    pub train: SplitInfo,
    /// Samples that are scored; none of them is fitted to.
    pub held_out: SplitInfo,
    #[serde(flatten)]
    pub scores: FeatureScores,
    /// How long each part took.
    pub seconds: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitInfo {
    /// As the pipeline file names the shards.
    pub shards: Vec<String>,
    pub samples: usize,
}

impl Frozen {
    /// # Errors
    /// When the folder is no run, has no whole checkpoint, or its data cannot be opened.
    pub fn open(run: &Path, changes: &[String], which: Which, pooling: Pooling) -> Result<Self> {
        let plan = Plan::new(folder::config_of(run)?.changed(changes)?)?;
        let place = plan.config.device.open()?;
        let (opened, step) = exchange::open_run(run)?;
        opened.check_encoder(&plan.models.encoder)?;
        let mut encoder = plan.models.encoder.init(&mut WeightInit::new(0, FirstWeights::Published), &place.device);
        let ours = if which == Which::Target { opened.target()? } else { opened.encoder()? };
        weights::apply(&mut encoder, ours)?;
        let has_four = matches!(plan.models.encoder, EncoderConfig::Vit(config) if config.depth >= LAST);
        if pooling == Pooling::LastFour && !has_four {
            bail!("--pooling last-four needs a ViT of at least {LAST} blocks: take --pooling mean");
        }
        Ok(Self { plan, step, which, encoder, pooling, place })
    }

    /// An encoder of a run that goes on.
    pub(super) fn of(plan: &Plan, step: u64, encoder: &Encoder, place: &Placement) -> Self {
        let (plan, encoder, place) = (plan.clone(), encoder.clone(), place.clone());
        Self { plan, step, which: Which::Target, encoder, pooling: Pooling::Mean, place }
    }

    pub(super) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    pub fn device(&self) -> &Device {
        &self.place.device
    }

    /// One vector an image.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - output: `[batch, features]`
    pub(super) fn encode(&self, images: Tensor<4>) -> Tensor<2> {
        self.last_four(&images).unwrap_or_else(|| self.encoder.pooled(images))
    }

    /// What [`Pooling::LastFour`] makes of images, where that is asked for.
    pub(super) fn last_four(&self, images: &Tensor<4>) -> Option<Tensor<2>> {
        if self.pooling == Pooling::LastFour { self.encoder.pooled_of_last(images.clone(), LAST) } else { None }
    }

    /// The shards of a split.
    ///
    /// # Errors
    /// When the pipeline file names none.
    pub fn set(&self, split: Split) -> Result<&Arc<ShardSet>> {
        match split {
            Split::Train => Ok(&self.plan.train),
            Split::Validation => self.plan.validation.as_ref().context(
                "there are no validation shards: name some with --set data.validation='SHARDS', or data.validation in \
                 the pipeline file",
            ),
        }
    }

    fn features(&self, split: Split, most: Option<usize>, runtime: &Handle) -> Result<Features> {
        let side = self.plan.config.augment.size;
        self.extraction(runtime).features(self.set(split)?, side, most, |images| self.encode(images))
    }

    fn extraction<'a>(&'a self, runtime: &'a Handle) -> Extraction<'a> {
        /// Only a run goes on after what is asked of it.
        static NEVER: AtomicBool = AtomicBool::new(false);
        Extraction { plan: &self.plan, place: &self.place, runtime, stop: &NEVER }
    }

    fn named(&self, split: Split) -> Vec<String> {
        match split {
            Split::Train => self.plan.config.data.train.to_vec(),
            Split::Validation => self.plan.config.data.validation.as_ref().map_or(Vec::new(), Patterns::to_vec),
        }
    }

    /// Takes all scores.
    ///
    /// # Errors
    /// When the data fail, or there are no validation shards or no labels.
    pub fn scores(&self, request: &Request, runtime: &Handle) -> Result<(Evaluation, Splits)> {
        let mut clock = Clock { seconds: BTreeMap::new(), last: Instant::now() };
        let mut train = self.features(Split::Train, request.train_samples, runtime)?;
        clock.lap("train_features");
        let mut held_out = self.features(Split::Validation, None, runtime)?;
        clock.lap("held_out_features");
        let encode = |images| self.encode(images);
        let from = self.extraction(runtime);
        let views = from.views(self.set(Split::Validation)?, encode)?;
        clock.lap("views_features");
        let both = [&mut train, &mut held_out];
        let scores = scores(both, &views, &request.ks, &self.place.device, from.stop, &mut |part| clock.lap(part));
        let scores = scores?.context("stopped")?;
        let info = |split, features: &Features| SplitInfo { shards: self.named(split), samples: features.len() };
        let evaluation = Evaluation {
            step: self.step,
            images_seen: self.step * self.plan.config.train.batch as u64,
            which: self.which,
            pooling: self.pooling,
            train: info(Split::Train, &train),
            held_out: info(Split::Validation, &held_out),
            scores,
            seconds: clock.seconds,
        };
        Ok((evaluation, Splits { train, held_out }))
    }

    /// The nearest training samples of held-out ones that are spread over all.
    ///
    /// # Errors
    /// When the device fails.
    pub fn neighbours(&self, splits: &Splits, samples: usize, k: usize) -> Result<Vec<(usize, Vec<Neighbour>)>> {
        let Splits { train, held_out } = splits;
        let count = held_out.len();
        let chosen: Vec<usize> = (0..samples.min(count)).map(|number| number * count / samples.min(count)).collect();
        let asked = Features {
            values: chosen.iter().flat_map(|&number| held_out.row(number)).copied().collect(),
            width: held_out.width,
            labels: chosen.iter().map(|&number| held_out.labels[number]).collect(),
            samples: Vec::new(),
        };
        let found = nearest(train, &asked, k, Nearness::Cosine, &self.place.device)?;
        Ok(chosen.into_iter().zip(found).collect())
    }

    /// Gives the features of a split's samples to `take`, batch by batch, with or without a label.
    ///
    /// # Errors
    /// When the data fail, or `take` does.
    pub fn for_each(
        &self,
        split: Split,
        most: Option<usize>,
        runtime: &Handle,
        take: impl FnMut(&Rows) -> Result<()>,
    ) -> Result<()> {
        let side = self.plan.config.augment.size;
        self.extraction(runtime).for_each(self.set(split)?, side, most, |images| self.encode(images), take)
    }

    /// Writes the features of a split, as they are: `features.npy`, `labels.npy` (-1 where there is none) and
    /// `keys.json`, row by row. Gives the number of rows.
    ///
    /// # Errors
    /// When the data fail, or the folder holds features already or cannot be written.
    pub fn embed(&self, split: Split, most: Option<usize>, out: &Path, runtime: &Handle) -> Result<usize> {
        let files = ["features.npy", "labels.npy", "keys.json"].map(|name| out.join(name));
        if let Some(there) = files.iter().find(|path| path.exists()) {
            bail!("{}: is there already; choose another --out", there.display());
        }
        fs::create_dir_all(out).with_context(|| format!("{}: cannot be made; choose another --out", out.display()))?;
        let set = self.set(split)?;
        let mut writer = Embedding::begin(&files)?;
        self.for_each(split, most, runtime, |rows| {
            let keys = rows.samples.iter().map(|&number| set.sample(number).key);
            writer.add(rows.values, rows.width, rows.labels, keys)
        })?;
        writer.end()
    }
}

/// What is asked of an evaluation.
#[derive(Clone, Debug)]
pub struct Request {
    /// Training samples at most, evenly spread over all.
    pub train_samples: Option<usize>,
    pub ks: Vec<usize>,
}

/// The standardised features that were scored.
pub struct Splits {
    pub train: Features,
    pub held_out: Features,
}

impl Evaluation {
    /// Puts the scores into the run's folder, in place of older ones.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, run: &Path) -> Result<PathBuf> {
        let path = run.join(SCORES);
        write_whole(&path, &serde_json::to_vec_pretty(self)?)?;
        Ok(path)
    }
}

struct Clock {
    seconds: BTreeMap<String, f64>,
    last: Instant,
}

impl Clock {
    fn lap(&mut self, part: &str) {
        let now = Instant::now();
        self.seconds.insert(part.to_owned(), (now - std::mem::replace(&mut self.last, now)).as_secs_f64());
    }
}

/// The files of an embedding while they are written.
struct Embedding {
    paths: [PathBuf; 3],
    features: Option<NpyWriter>,
    labels: NpyWriter,
    keys: BufWriter<File>,
    rows: usize,
}

impl Embedding {
    fn begin(paths: &[PathBuf; 3]) -> Result<Self> {
        let labels = NpyWriter::list(&paths[1]).with_context(|| written(&paths[1]))?;
        let keys = BufWriter::new(File::create(&paths[2]).with_context(|| written(&paths[2]))?);
        Ok(Self { paths: paths.clone(), features: None, labels, keys, rows: 0 })
    }

    fn add<'k>(
        &mut self,
        values: &[f32],
        width: usize,
        labels: &[Option<u32>],
        keys: impl Iterator<Item = &'k str>,
    ) -> Result<()> {
        let [features, label_path, key_path] = &self.paths;
        let writer = match self.features.take() {
            Some(writer) => writer,
            None => NpyWriter::matrix(features, width).with_context(|| written(features))?,
        };
        self.features.insert(writer).rows(values).with_context(|| written(features))?;
        let labels = labels.iter().map(|label| label.map_or(-1, i64::from));
        self.labels.numbers(labels).with_context(|| written(label_path))?;
        for key in keys {
            let before = if self.rows == 0 { "[\n" } else { ",\n" };
            write!(self.keys, "{before}{}", serde_json::to_string(key)?).with_context(|| written(key_path))?;
            self.rows += 1;
        }
        Ok(())
    }

    fn end(mut self) -> Result<usize> {
        let [features, labels, keys] = &self.paths;
        let writer = match self.features {
            Some(writer) => writer,
            None => NpyWriter::matrix(features, 0).with_context(|| written(features))?,
        };
        writer.end().with_context(|| written(features))?;
        self.labels.end().with_context(|| written(labels))?;
        let end = if self.rows == 0 { "[]\n" } else { "\n]\n" };
        self.keys.write_all(end.as_bytes()).and_then(|()| self.keys.flush()).with_context(|| written(keys))?;
        Ok(self.rows)
    }
}

fn written(path: &Path) -> String {
    format!("{}: cannot be written", path.display())
}
