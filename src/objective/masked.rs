//! The I-JEPA objective: smooth L1 between predicted and normalised target patches (I-JEPA, section 3).

use burn::tensor::Tensor;

/// Where smooth L1 turns from squared to linear; PyTorch's default, which the authors use.
const BETA: f64 = 1.0;

/// Epsilon of the parameter-free LayerNorm over target features; PyTorch's default, which the authors use.
const TARGET_NORM_EPSILON: f64 = 1e-5;

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
