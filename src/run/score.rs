//! The kNN score of the frozen target encoder, beside the same score before training and of raw pixels.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::exchange;
use crate::config::{Plan, ScoreConfig};
use crate::eval::features::{Features, extract, pixels};
use crate::eval::knn::{Nearness, accuracy, standardise};
use crate::model::{Encoder, WeightInit, weights};
use crate::pipeline::{Counts, Pipeline, StreamConfig};
use crate::shard::ShardSet;
use crate::telemetry::Telemetry;
use crate::train::Uploader;
use crate::train::device::Placement;

/// Raw pixels are compared at no more than this many a side: more is noise to a neighbour search, and does not fit.
const MOST_RAW_SIDE: u32 = 32;

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
}

/// Scores that training does not change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    pub knn_before_training: f64,
    pub knn_raw_pixels: f64,
}

impl Scores {
    /// The scores by the names of their metric's label.
    pub fn named(&self) -> [(&'static str, f64); 3] {
        let Baselines { knn_before_training, knn_raw_pixels } = self.baselines;
        [("knn", self.knn), ("knn_before_training", knn_before_training), ("knn_raw_pixels", knn_raw_pixels)]
    }
}

/// Scores an encoder on the validation shards. `begun` holds the weights that the run began with where it did not draw
/// them; `known`, taken under the same settings, saves taking the unchanging scores again.
///
/// # Errors
/// When the data fail, or the Plan has no validation shards.
pub fn scores(
    plan: &Plan,
    step: u64,
    encoder: &Encoder,
    begun: Option<&Path>,
    known: Option<Scores>,
    place: &Placement,
    runtime: &Handle,
) -> Result<Scores> {
    let (Some(config), Some(validation)) = (&plan.config.score, &plan.validation) else {
        anyhow::bail!("a score needs [score] and data.validation in the pipeline file");
    };
    let scorer = Scorer { plan, config, validation, place, runtime };
    let (knn, train_samples, validation_samples) = scorer.encoder(encoder)?;
    let scores = |baselines| Scores { step, k: config.k, train_samples, validation_samples, knn, baselines };
    if let Some(known) = known
        && scores(known.baselines) == (Scores { step, knn, ..known })
    {
        return Ok(scores(known.baselines));
    }
    Ok(scores(Baselines {
        knn_before_training: scorer.encoder(&encoder_before_training(plan, begun, place)?)?.0,
        knn_raw_pixels: scorer.knn(plan.config.augment.size.min(MOST_RAW_SIDE), &pixels)?.0,
    }))
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
    plan: &'a Plan,
    config: &'a ScoreConfig,
    validation: &'a Arc<ShardSet>,
    place: &'a Placement,
    runtime: &'a Handle,
}

impl Scorer<'_> {
    fn encoder(&self, encoder: &Encoder) -> Result<(f64, usize, usize)> {
        self.knn(self.plan.config.augment.size, &|images| encoder.pooled(images))
    }

    /// The score, and the samples of both splits.
    fn knn(&self, side: u32, encode: &dyn Fn(Tensor<4>) -> Tensor<2>) -> Result<(f64, usize, usize)> {
        let mut train = self.features(&self.plan.train, self.config.train_samples, side, encode)?;
        let mut held_out = self.features(self.validation, None, side, encode)?;
        standardise(&mut train, &mut held_out);
        let score = accuracy(&train, &held_out, self.config.k, Nearness::Cosine, &self.place.device);
        Ok((score, train.len(), held_out.len()))
    }

    fn features(
        &self,
        set: &Arc<ShardSet>,
        most: Option<usize>,
        side: u32,
        encode: &dyn Fn(Tensor<4>) -> Tensor<2>,
    ) -> Result<Features> {
        Ok(extract(batches(self.plan, set, side, most, self.place, self.runtime)?, encode)?)
    }
}

/// Whole images of a set where the model is, in the listed order; at most so many, evenly spread over all.
///
/// # Errors
/// When the threads cannot be started.
pub(super) fn batches(
    plan: &Plan,
    set: &Arc<ShardSet>,
    side: u32,
    most: Option<usize>,
    place: &Placement,
    runtime: &Handle,
) -> Result<Uploader> {
    let spec = plan.scoring(side, set.len(), most);
    let steps = 0..(set.len() as u64).div_ceil(spec.batch as u64);
    // Its stages are not those of the training stream, whose metrics they would blur.
    let apart = Telemetry::new("score");
    // A bad sample is left out of a score; what was trained is judged by the run itself.
    let stream = StreamConfig { max_bad_share: 1.0, ..plan.config.stream };
    let pipeline = Pipeline::start(runtime, Arc::clone(set), spec, stream, steps, Counts::default(), &apart)?;
    Ok(Uploader::start(pipeline, side as usize, plan.config.pixels, place, &apart)?)
}
