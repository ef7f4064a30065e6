//! The features of two splits → every score that can be read off them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::dimension::{CorrelationDimension, correlation_dimension, spread};
use super::features::Features;
use super::knn::{KnnScore, Nearness, accuracies, standardise};
use super::lidar::{ViewFeatures, lidar};
use super::probe::{ProbeScore, probe};
use crate::model::DeviceFailure;
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
///
/// # Errors
/// When the device fails.
pub fn scores(
    [train, held_out]: [&mut Features; 2],
    views: &ViewFeatures,
    ks: &[usize],
    device: &Device,
    stop: &AtomicBool,
    lap: &mut dyn FnMut(&'static str),
) -> Result<Option<FeatureScores>, DeviceFailure> {
    let mut is_stopped = |part| {
        lap(part);
        stop.load(Relaxed)
    };
    let rows = spread(&held_out.values, held_out.width, SPECTRUM_ROWS);
    let spectrum = Spectrum::of(&rows, held_out.width);
    let lidar = lidar(views);
    if is_stopped("rank") {
        return Ok(None);
    }
    let correlation_dimension = correlation_dimension(&held_out.values, held_out.width);
    if is_stopped("dimension") {
        return Ok(None);
    }
    standardise(train, held_out);
    let mut knn = accuracies(train, held_out, ks, Nearness::Cosine, device)?;
    knn.extend(accuracies(train, held_out, ks, Nearness::Euclidean, device)?);
    if is_stopped("knn") {
        return Ok(None);
    }
    let probe = probe(train, held_out, device, stop)?;
    if is_stopped("probe") {
        return Ok(None);
    }
    Ok(Some(FeatureScores {
        classes: train.classes().len(),
        knn,
        probe,
        correlation_dimension,
        rankme: rankme(&spectrum.singular_values),
        alpha: alpha(&spectrum.variances),
        lidar,
    }))
}
