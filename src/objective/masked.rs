//! The I-JEPA objective: smooth L1 between predicted and normalised target patches (I-JEPA, section 3).

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::saccade::{Term, WeightsError, in_range};
use super::vicreg;

/// Where smooth L1 turns from squared to linear; PyTorch's default, which the authors use.
const BETA: f64 = 1.0;

/// Epsilon of the parameter-free LayerNorm over target features; PyTorch's default, which the authors use.
const TARGET_NORM_EPSILON: f64 = 1e-5;

/// What keeps the encoder's features apart beside the prediction (C-JEPA, Mo and Tong 2024, section 3.2); a term of
/// weight 0, as each is when left out, is not computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskedWeights {
    /// VICReg's variance term of the context's features, averaged over its patches.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub variance: f64,
    /// VICReg's covariance term of the same.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub covariance: f64,
}

fn is_zero(weight: &f64) -> bool {
    *weight == 0.0
}

impl MaskedWeights {
    /// # Errors
    /// When a weight is negative or no number.
    pub fn check(&self) -> Result<(), WeightsError> {
        [("variance", self.variance), ("covariance", self.covariance)].into_iter().try_for_each(in_range)
    }

    /// Whether anything is computed over the batch.
    pub fn is_any(&self) -> bool {
        self.variance > 0.0 || self.covariance > 0.0
    }

    /// The weighted terms of a batch.
    ///
    /// # Shapes
    /// - `pooled`: `[batch, width]`, of the context's features
    pub fn terms(&self, pooled: &Tensor<2>) -> Vec<Term> {
        let term = |name, weight: f64, of: fn(Tensor<2>) -> Tensor<1>| {
            (weight > 0.0).then(|| (name, of(pooled.clone()).mul_scalar(weight)))
        };
        let variance = term("variance", self.variance, vicreg::variance);
        variance.into_iter().chain(term("covariance", self.covariance, vicreg::covariance)).collect()
    }
}

/// Normalises each feature vector to mean 0 and variance 1, without parameters.
///
/// # Shapes
/// - `features`, output: `[batch, patches, width]`
pub fn normalised(features: Tensor<3>) -> Tensor<3> {
    let (variance, mean) = features.clone().var_mean_bias(2);
    (features - mean) / variance.add_scalar(TARGET_NORM_EPSILON).sqrt()
}

/// Smooth L1 distance, summed over the features of all real patches; whoever calls divides by their number, which a
/// micro-batch does not know.
///
/// # Shapes
/// - `predictions`, `targets`: `[sequences, patches, width]`
/// - `real`: `[sequences, patches]`, 1 at real patches and 0 at padding; all are real when absent
/// - output: `[1]`
pub fn smooth_l1_sum(predictions: Tensor<3>, targets: Tensor<3>, real: Option<Tensor<2>>) -> Tensor<1> {
    let distance = (predictions - targets).abs();
    // With m = min(d, beta): m² / (2 beta) + (d - m) is smooth L1 without a branch.
    let small = distance.clone().clamp_max(BETA);
    let loss = small.clone().square().mul_scalar(0.5 / BETA) + (distance - small);
    match real {
        None => loss.sum(),
        Some(real) => (loss * real.unsqueeze_dim(2)).sum(),
    }
}
