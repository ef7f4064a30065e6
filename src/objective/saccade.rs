//! The Saccade JEPA objective: two views' features and the saccade between them to named terms of a loss.
//!
//! Either a predictor is told the saccade and predicts the other view's features ([`told`]), or a reader tells the
//! saccade from both ([`read`]). In both VICReg's terms keep the features from becoming all alike.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::vicreg;

/// Where Huber losses turn from squared to linear; PyTorch's default, with which the seed system trains.
pub const DELTA: f64 = 1.0;

/// Shifts shorter than this share of the greatest one have no direction that a view could show: a thirtieth of a pixel
/// in the seed system's 36.
const NO_SHIFT: f64 = 1e-3;

/// Added to the squared length of a shift that was read, in squared greatest shifts. Without it a reader that says 0
/// would get an infinite gradient; with it no gradient of a length exceeds 1 and none of a direction 100, and the
/// cosine of a shift of a tenth of the greatest is off by 0.5 %.
const LENGTH_EPSILON: f64 = 1e-4;

/// One weighted summand of the loss, `[1]`, and its name.
pub type Term = (&'static str, Tensor<1>);

/// What each term counts when the predictor is told the saccade; a term of weight 0 is not computed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaccadeWeights {
    /// Huber loss between predicted and target features.
    pub prediction: f64,
    /// Squared error between the context's features and those that are predicted back.
    pub cycle: f64,
    /// VICReg's variance term of the context's features.
    pub variance: f64,
    /// VICReg's covariance term of the context's features.
    pub covariance: f64,
}

/// What each term counts when the saccade is read; a term of weight 0 is not computed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadWeights {
    /// One minus the cosine between the shift that is read and the true one.
    pub direction: f64,
    /// Huber loss between the lengths of the two shifts.
    pub magnitude: f64,
    /// Huber loss between the two rotations.
    pub rotation: f64,
    /// VICReg's variance term of the context's features.
    pub variance: f64,
    /// VICReg's covariance term of the context's features.
    pub covariance: f64,
}

/// Why terms cannot be weighted so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WeightsError {
    #[error("objective.{key} = {value}: must be 0 or greater, and finite")]
    Range { key: &'static str, value: f64 },
    #[error("objective.{keys}: all are 0, which leaves nothing to learn from the saccade; give one a weight")]
    Nothing { keys: &'static str },
}

impl SaccadeWeights {
    /// # Errors
    /// When a weight is negative or no number, or none asks for a prediction.
    pub fn check(&self) -> Result<(), WeightsError> {
        let Self { prediction, cycle, variance, covariance } = *self;
        let all = [("prediction", prediction), ("cycle", cycle), ("variance", variance), ("covariance", covariance)];
        all.into_iter().try_for_each(in_range)?;
        if prediction > 0.0 { Ok(()) } else { Err(WeightsError::Nothing { keys: "prediction" }) }
    }
}

impl ReadWeights {
    /// # Errors
    /// When a weight is negative or no number, or none asks for the saccade.
    pub fn check(&self) -> Result<(), WeightsError> {
        let Self { direction, magnitude, rotation, variance, covariance } = *self;
        let all = [("direction", direction), ("magnitude", magnitude), ("rotation", rotation)];
        all.into_iter().try_for_each(in_range)?;
        [("variance", variance), ("covariance", covariance)].into_iter().try_for_each(in_range)?;
        if direction + magnitude + rotation > 0.0 {
            Ok(())
        } else {
            Err(WeightsError::Nothing { keys: "direction, magnitude, rotation" })
        }
    }
}

/// # Errors
/// When a weight is negative or no number.
pub(super) fn in_range((key, value): (&'static str, f64)) -> Result<(), WeightsError> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(WeightsError::Range { key, value }) }
}

/// What a predictor that is told the saccade made of a batch, each `[batch, features]`.
#[derive(Clone, Debug)]
pub struct Told {
    /// Features of the view that is predicted from.
    pub context: Tensor<2>,
    /// Features of the other view, as predicted.
    pub predicted: Tensor<2>,
    /// Features of the other view, as they are.
    pub target: Tensor<2>,
}

/// The weighted terms of a batch, as means over it.
///
/// `back` predicts the context's features, `[batch, features]`, from `predicted` over the inverse saccade; it is not
/// called where the cycle counts nothing. Gradients flow into all features; whoever wants none into the target gives
/// it detached.
pub fn told(features: &Told, weights: &SaccadeWeights, back: impl FnOnce() -> Tensor<2>) -> Vec<Term> {
    let Told { context, predicted, target } = features;
    let prediction = || huber(predicted.clone(), target.clone(), DELTA);
    let cycle = || cycle(back(), context.clone());
    let mut terms = Vec::new();
    add(&mut terms, "prediction", weights.prediction, prediction);
    add(&mut terms, "cycle", weights.cycle, cycle);
    add(&mut terms, "variance", weights.variance, || vicreg::variance(context.clone()));
    add(&mut terms, "covariance", weights.covariance, || vicreg::covariance(context.clone()));
    terms
}

/// The weighted terms of a batch whose saccades were read, as means over it.
///
/// # Shapes
/// - `read`, `way`: `[batch, 3]`: rotation, shift to the right, shift down, of which the greatest are 1
/// - `context`: `[batch, features]`
pub fn read(read: &Tensor<2>, way: &Tensor<2>, context: &Tensor<2>, weights: &ReadWeights) -> Vec<Term> {
    let mut terms = Vec::new();
    let shifts = || (shift(read), shift(way));
    add(&mut terms, "direction", weights.direction, || {
        let (read, way) = shifts();
        direction(read, way)
    });
    add(&mut terms, "magnitude", weights.magnitude, || {
        let (read, way) = shifts();
        magnitude(read, way)
    });
    let angle = |numbers: &Tensor<2>| numbers.clone().narrow(1, 0, 1);
    add(&mut terms, "rotation", weights.rotation, || huber(angle(read), angle(way), DELTA));
    add(&mut terms, "variance", weights.variance, || vicreg::variance(context.clone()));
    add(&mut terms, "covariance", weights.covariance, || vicreg::covariance(context.clone()));
    terms
}

fn add(terms: &mut Vec<Term>, name: &'static str, weight: f64, term: impl FnOnce() -> Tensor<1>) {
    if weight > 0.0 {
        terms.push((name, term().mul_scalar(weight)));
    }
}

/// The loss that the terms make together; `None` when there is none.
pub fn sum(terms: &[Term]) -> Option<Tensor<1>> {
    terms.iter().map(|(_, term)| term.clone()).reduce(|sum, term| sum + term)
}

/// Mean of `d²/2` where the distance d is below `delta`, and of `delta·(d - delta/2)` beyond.
///
/// # Shapes
/// - `predicted`, `wanted`: the same
/// - output: `[1]`
pub fn huber<const D: usize>(predicted: Tensor<D>, wanted: Tensor<D>, delta: f64) -> Tensor<1> {
    let distance = (predicted - wanted).abs();
    // With m = min(d, delta): m²/2 + delta·(d - m) is the Huber loss without a branch.
    let small = distance.clone().clamp_max(delta);
    (small.clone().square().mul_scalar(0.5) + (distance - small).mul_scalar(delta)).mean()
}

/// Mean squared error: the way there and back should give the features again.
///
/// # Shapes
/// - `cycled`, `features`: `[batch, features]`
/// - output: `[1]`
pub fn cycle(cycled: Tensor<2>, features: Tensor<2>) -> Tensor<1> {
    (cycled - features).square().mean()
}

/// Mean of `1 - r·w / (|r| |w|)` between the shifts r that were read and the true ones w, over the samples that are
/// shifted at all; 0 when none is. `|r|` is `sqrt(r·r + 1e-4)`, so that reading 0 counts 1, as reading a right angle
/// does.
///
/// # Shapes
/// - `read`, `way`: `[batch, 2]`
/// - output: `[1]`
pub fn direction(read: Tensor<2>, way: Tensor<2>) -> Tensor<1> {
    let squared = way.clone().square().sum_dim(1);
    let shifted = squared.clone().greater_equal_scalar(NO_SHIFT * NO_SHIFT).float();
    let lengths = length(read.clone()) * squared.sqrt().clamp_min(NO_SHIFT);
    let cosine = (read * way).sum_dim(1) / lengths;
    let apart = cosine.neg().add_scalar(1.0) * shifted.clone();
    apart.sum() / shifted.sum().clamp_min(1.0)
}

/// Mean Huber loss between `|r|` and `|w|`, both as `sqrt(s·s + 1e-4)`: 0 where the shifts are equally long.
///
/// # Shapes
/// - `read`, `way`: `[batch, 2]`
/// - output: `[1]`
pub fn magnitude(read: Tensor<2>, way: Tensor<2>) -> Tensor<1> {
    huber(length(read), length(way), DELTA)
}

fn shift(numbers: &Tensor<2>) -> Tensor<2> {
    numbers.clone().narrow(1, 1, 2)
}

/// # Shapes
/// - `shifts`: `[batch, 2]`
/// - output: `[batch, 1]`
fn length(shifts: Tensor<2>) -> Tensor<2> {
    shifts.square().sum_dim(1).add_scalar(LENGTH_EPSILON).sqrt()
}
