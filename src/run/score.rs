//! The kNN score of the frozen target encoder, beside the same score before training and of raw pixels.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Result, bail};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::exchange;
use crate::config::{Plan, ScoreConfig};
use crate::eval;
use crate::eval::features::{Features, Rows, for_each, pixels};
use crate::eval::knn::{KnnScore, Nearness, Votes, accuracy, standardise};
use crate::eval::lidar::ViewFeatures;
use crate::eval::scores::FeatureScores;
use crate::model::{Encoder, WeightInit, weights};
use crate::pipeline::{Counts, Pipeline, StreamConfig, StreamSpec};
use crate::shard::ShardSet;
use crate::telemetry::Telemetry;
use crate::train::Uploader;
use crate::train::device::Placement;

/// Raw pixels are compared at no more than this many a side: more is noise to a neighbour search, and does not fit.
const MOST_RAW_SIDE: u32 = 32;

/// Held-out samples that LiDAR is taken of, at most, and views of each. The paper has 1,000 and 50; with ten, it costs no
/// more than 10,000 held-out images do.
const VIEWED_SAMPLES: usize = 1000;
const VIEWS: usize = 10;

/// Scores after some steps of a run: shares in `0..=1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub step: u64,
    pub k: usize,
    pub train_samples: usize,
    pub validation_samples: usize,
    /// Of the target encoder, features averaged over patches, standardised on the training split, cosine.
    pub knn: f64,
    #[serde(flatten)]
    pub baselines: Baselines,
    /// All other scores of the same features. None in runs of versions that took none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<FeatureScores>,
}

/// Scores that training does not change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    pub knn_before_training: f64,
    pub knn_raw_pixels: f64,
}

impl Scores {
    /// The scores by the names of their metric's label.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let Baselines { knn_before_training, knn_raw_pixels } = self.baselines;
        let mut named =
            vec![("knn", self.knn), ("knn_before_training", knn_before_training), ("knn_raw_pixels", knn_raw_pixels)];
        if let Some(FeatureScores { probe, correlation_dimension, rankme, alpha, lidar, .. }) = &self.target {
            named.push(("rankme", *rankme));
            let others = [
                ("probe_top1", probe.map(|probe| probe.top1)),
                ("probe_top5", probe.map(|probe| probe.top5)),
                ("correlation_dimension", correlation_dimension.map(|found| found.dimension)),
                ("alpha", *alpha),
                ("lidar", *lidar),
            ];
            named.extend(others.into_iter().filter_map(|(name, score)| Some((name, score?))));
        }
        named
    }

    /// Whether what training does not change was taken in the same way.
    fn has_baselines_of(&self, other: &Self) -> bool {
        (self.k, self.train_samples, self.validation_samples)
            == (other.k, other.train_samples, other.validation_samples)
    }
}

/// The user wants to leave: there are no scores.
#[derive(Debug, thiserror::Error)]
#[error("the run was to stop; resuming takes them")]
pub struct Interrupted;

/// Scores an encoder on the validation shards. `begun` holds the weights that the run began with where it did not draw
/// them; `known`, taken under the same settings, saves taking the unchanging scores again.
///
/// # Errors
/// When the data fail, the Plan has no validation shards, or a score is no number; [`Interrupted`].
pub fn scores(
    from: Extraction,
    step: u64,
    encoder: &Encoder,
    begun: Option<&Path>,
    known: Option<Scores>,
) -> Result<Scores> {
    let plan = from.plan;
    let (Some(config), Some(validation)) = (&plan.config.score, &plan.validation) else {
        bail!("a score needs [score] and data.validation in the pipeline file");
    };
    let scorer = Scorer { from, config, validation };
    let scores = scorer.target(step, encoder)?;
    let baselines = match known {
        Some(known) if known.has_baselines_of(&scores) => known.baselines,
        _ => Baselines {
            knn_before_training: scorer.encoder(&encoder_before_training(plan, begun, scorer.from.place)?)?,
            knn_raw_pixels: scorer.knn(plan.config.augment.size.min(MOST_RAW_SIDE), &pixels)?,
        },
    };
    let scores = Scores { baselines, ..scores };
    match scores.named().into_iter().find(|(_, score)| !score.is_finite()) {
        Some((name, score)) => bail!("{name} is {score}: features are too large or too small to compare"),
        None => Ok(scores),
    }
}

/// The encoder that the run began with: drawn again from the seed, or the imported one.
fn encoder_before_training(plan: &Plan, begun: Option<&Path>, place: &Placement) -> Result<Encoder> {
    let mut encoder = plan
        .models
        .encoder
        .init(&mut WeightInit::new(plan.config.seed, plan.config.train.first_weights), &place.device);
    if let Some(path) = begun {
        weights::apply(&mut encoder, exchange::open(path)?.encoder()?)?;
    }
    Ok(encoder)
}

struct Scorer<'a> {
    from: Extraction<'a>,
    config: &'a ScoreConfig,
    validation: &'a Arc<ShardSet>,
}

impl Scorer<'_> {
    /// All scores of the target encoder, without the baselines.
    fn target(&self, step: u64, encoder: &Encoder) -> Result<Scores> {
        let encode = |images| encoder.pooled(images);
        let Extraction { plan, place, stop, .. } = self.from;
        let [mut train, mut held_out] = self.splits(plan.config.augment.size, &encode)?;
        let views = self.from.views(self.validation, encode)?;
        let k = self.config.k;
        let target = eval::scores::scores([&mut train, &mut held_out], &views, &[k], &place.device, stop, &mut |_| {})?
            .ok_or(Interrupted)?;
        let is_ours = |score: &&KnnScore| score.nearness == Nearness::Cosine && score.votes == Votes::Plain;
        let knn = target.knn.iter().find(is_ours).map_or(0.0, |score| score.accuracy);
        let baselines = Baselines { knn_before_training: 0.0, knn_raw_pixels: 0.0 };
        let (train_samples, validation_samples) = (train.len(), held_out.len());
        Ok(Scores { step, k, train_samples, validation_samples, knn, baselines, target: Some(target) })
    }

    fn encoder(&self, encoder: &Encoder) -> Result<f64> {
        self.knn(self.from.plan.config.augment.size, &|images| encoder.pooled(images))
    }

    fn knn(&self, side: u32, encode: &dyn Fn(Tensor<4>) -> Tensor<2>) -> Result<f64> {
        let [mut train, mut held_out] = self.splits(side, encode)?;
        standardise(&mut train, &mut held_out);
        Ok(accuracy(&train, &held_out, self.config.k, Nearness::Cosine, &self.from.place.device)?)
    }

    fn splits(&self, side: u32, encode: &dyn Fn(Tensor<4>) -> Tensor<2>) -> Result<[Features; 2]> {
        let train = self.from.features(&self.from.plan.train, side, self.config.train_samples, encode)?;
        Ok([train, self.from.features(self.validation, side, None, encode)?])
    }
}

/// How samples become features: beside the training or without it.
#[derive(Clone, Copy)]
pub struct Extraction<'a> {
    pub plan: &'a Plan,
    pub place: &'a Placement,
    pub runtime: &'a Handle,
    /// Ends it with [`Interrupted`] once it is set.
    pub stop: &'a AtomicBool,
}

impl Extraction<'_> {
    /// Gives the features of whole images, batch by batch, in the listed order; of at most so many samples, evenly spread
    /// over all.
    ///
    /// # Errors
    /// When the data fail, or `take` does; [`Interrupted`].
    pub fn for_each(
        &self,
        set: &Arc<ShardSet>,
        side: u32,
        most: Option<usize>,
        encode: impl Fn(Tensor<4>) -> Tensor<2>,
        take: impl FnMut(&Rows) -> Result<()>,
    ) -> Result<()> {
        self.run(set, self.plan.scoring(side, set.len(), most), encode, take)
    }

    /// Features of a set's labelled samples, as [`Self::for_each`] gives them.
    ///
    /// # Errors
    /// When the data fail, when no sample has a label, or when a feature is no number; [`Interrupted`].
    pub fn features(
        &self,
        set: &Arc<ShardSet>,
        side: u32,
        most: Option<usize>,
        encode: impl Fn(Tensor<4>) -> Tensor<2>,
    ) -> Result<Features> {
        let mut features = Features::default();
        self.for_each(set, side, most, encode, |rows| {
            features.extend(rows);
            Ok(())
        })?;
        if features.is_empty() {
            let first = set.shards().first().map_or(String::new(), |shard| shard.path().display().to_string());
            bail!(
                "{first} and the other shards of the split: no sample that can be used has a label, and without nothing can be scored"
            );
        }
        if let Some(place) = features.values.iter().position(|value| !value.is_finite()) {
            let key = set.sample(features.samples[place / features.width]).key;
            let value = features.values[place];
            bail!("the encoder gives {value} for sample `{key}`, which is no number: its weights are spoilt");
        }
        Ok(features)
    }

    /// Features of views, drawn as for training, of some of a set's samples.
    ///
    /// # Errors
    /// When the data fail; [`Interrupted`].
    pub fn views(&self, set: &Arc<ShardSet>, encode: impl Fn(Tensor<4>) -> Tensor<2>) -> Result<ViewFeatures> {
        let mut views = ViewFeatures::default();
        self.run(set, self.plan.viewing(set.len(), VIEWED_SAMPLES, VIEWS), encode, |rows| {
            views.width = rows.width;
            views.values.extend_from_slice(rows.values);
            views.samples.extend_from_slice(rows.samples);
            Ok(())
        })?;
        Ok(views)
    }

    fn run(
        &self,
        set: &Arc<ShardSet>,
        spec: StreamSpec,
        encode: impl Fn(Tensor<4>) -> Tensor<2>,
        mut take: impl FnMut(&Rows) -> Result<()>,
    ) -> Result<()> {
        let Self { plan, place, runtime, stop } = *self;
        let steps = 0..(set.len() as u64 * VIEWS as u64).div_ceil(spec.batch as u64);
        let side = spec.augment.size as usize;
        // Its stages are not those of the training stream, whose metrics they would blur.
        let apart = Telemetry::new("score");
        // A bad sample is left out of a score; what was trained is judged by the run itself.
        let stream = StreamConfig { max_bad_share: 1.0, ..plan.config.stream };
        let pipeline = Pipeline::start(runtime, Arc::clone(set), spec, stream, steps, Counts::default(), &apart)?;
        let batches = Uploader::start(pipeline, side, plan.config.pixels, place, &apart)?;
        for_each(batches, encode, |rows| if stop.load(Relaxed) { Err(Interrupted.into()) } else { take(rows) })
    }
}
