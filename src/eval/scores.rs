//! The features of two splits → every score that can be read off them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::dimension::{CorrelationDimension, correlation_dimension, spread};
use super::features::Features;
use super::knn::{KnnScore, Nearness, accuracies, standardise};
use super::lidar::{ViewFeatures, lidar};
use super::probe::{ProbeScore, probe};
use crate::objective::spectrum::{Spectrum, alpha, rankme};

/// Held-out vectors that a spectrum is taken of: as many as determine it.
const SPECTRUM_ROWS: usize = 10_000;

/// What features score; shares in `0..=1`. All of it is of the held-out split, whatever was fitted is of the training
/// split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureScores {
    /// Labels of the training samples.
    pub classes: usize,
    pub knn: Vec<KnnScore>,
    /// None where there are too many labels for one.
    pub probe: Option<ProbeScore>,
    /// Of the features as they are, as all below.
    pub correlation_dimension: Option<CorrelationDimension>,
    pub rankme: f64,
    pub alpha: Option<f64>,
    /// Of views drawn as for training.
    #[serde(default)]
    pub lidar: Option<f64>,
}

/// Takes all scores, with `ks` neighbours by turns; standardises both splits on the way. `lap` is told the name of each
/// part when it is done. `None` once `stop` is set.
pub fn scores(
    [train, held_out]: [&mut Features; 2],
    views: &ViewFeatures,
    ks: &[usize],
    device: &Device,
    stop: &AtomicBool,
    lap: &mut dyn FnMut(&'static str),
) -> Option<FeatureScores> {
    let mut lap = |part| {
        lap(part);
        (!stop.load(Relaxed)).then_some(())
    };
    let rows = spread(&held_out.values, held_out.width, SPECTRUM_ROWS);
    let spectrum = Spectrum::of(&rows, held_out.width);
    let lidar = lidar(views);
    lap("rank")?;
    let correlation_dimension = correlation_dimension(&held_out.values, held_out.width);
    lap("dimension")?;
    standardise(train, held_out);
    let by = |nearness| accuracies(train, held_out, ks, nearness, device);
    let knn = [Nearness::Cosine, Nearness::Euclidean].into_iter().flat_map(by).collect();
    lap("knn")?;
    let probe = probe(train, held_out, device, stop);
    lap("probe")?;
    Some(FeatureScores {
        classes: train.classes().len(),
        knn,
        probe,
        correlation_dimension,
        rankme: rankme(&spectrum.singular_values),
        alpha: alpha(&spectrum.variances),
        lidar,
    })
}
