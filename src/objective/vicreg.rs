//! VICReg's two terms that keep features apart (Bardes et al. 2022, section 4.1): each must vary over the batch, and
//! no two may vary together.
//!
//! Both look at the batch that they are given: a micro-batch gives another value than the whole batch would, and a
//! batch of one has no spread at all.

use burn::tensor::Tensor;
use burn::tensor::activation::relu;

/// The deviation that each feature should have, VICReg's γ.
const WANTED_DEVIATION: f64 = 1.0;

/// Added to variances before the root, whose slope at 0 would be infinite; VICReg's ε.
const VARIANCE_EPSILON: f64 = 1e-4;

/// Mean over the features of `max(0, 1 - sqrt(variance + 1e-4))`, with the unbiased variance over the batch.
///
/// # Shapes
/// - `features`: `[batch, features]`
/// - output: `[1]`, in `0..=0.99`
pub fn variance(features: Tensor<2>) -> Tensor<1> {
    let deviations = variances(&centred(features)).add_scalar(VARIANCE_EPSILON).sqrt();
    relu(deviations.neg().add_scalar(WANTED_DEVIATION)).mean()
}

/// Sum of the squared covariances of all pairs of different features, divided by the number of features.
///
/// # Shapes
/// - `features`: `[batch, features]`
/// - output: `[1]`
pub fn covariance(features: Tensor<2>) -> Tensor<1> {
    let [batch, width] = features.dims();
    let centred = centred(features);
    let own = variances(&centred).square().sum();
    let turned = centred.clone().transpose();
    // The squares in X'X and in XX' have the same sum, so the smaller of the two products will do.
    let product = if width > batch { centred.matmul(turned) } else { turned.matmul(centred) };
    let all = product.div_scalar(freedom(batch)).square().sum();
    (all - own).div_scalar(width as f64)
}

fn centred(features: Tensor<2>) -> Tensor<2> {
    let mean = features.clone().mean_dim(0);
    features - mean
}

/// # Shapes
/// - `centred`: `[batch, features]`
/// - output: `[1, features]`
fn variances(centred: &Tensor<2>) -> Tensor<2> {
    let [batch, _] = centred.dims();
    centred.clone().square().sum_dim(0).div_scalar(freedom(batch))
}

/// A batch of one has variances of 0, not of 0 / 0.
fn freedom(batch: usize) -> f64 {
    batch.saturating_sub(1).max(1) as f64
}
