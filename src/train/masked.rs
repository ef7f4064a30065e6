//! One micro-batch of I-JEPA: the encoder sees the context, the predictor says what the target encoder sees elsewhere
//! (I-JEPA, section 3).

use std::ops::Range;

use burn::tensor::Tensor;

use super::collapse::pooled;
use super::part::{Outputs, Part};
use super::upload::DeviceMasks;
use crate::model::{Choice, Encoder, PatchPredictor};
use crate::objective::masked::{MaskedWeights, normalised, smooth_l1_sum};
use crate::objective::saccade::Term;

/// The micro-batch's share of the batch's mean loss.
///
/// # Shapes
/// - `images`: `[samples, 3, side, side]`
pub fn part(
    encoder: &Encoder,
    predictor: &PatchPredictor,
    target: &Encoder,
    images: Tensor<4>,
    masks: &DeviceMasks,
    samples: &Range<usize>,
    weights: &MaskedWeights,
) -> Part {
    let here = images.device();
    let (context, targets) = (masks.context.samples(samples).on(&here), masks.targets.samples(samples).on(&here));
    let features = target.forward(images.clone(), None);
    let seen = pooled(features.clone(), None, 1);
    let wanted = wanted(features, &targets, masks.blocks);
    let [_, _, width] = wanted.dims();

    let (context, sequences) = (context.autodiff(), targets.by_block(masks.blocks).autodiff());
    let encoded = encoder.forward(images.autodiff(), Some(&context));
    let pooled_context = pooled(encoded.clone(), context.real(), 1);
    let predictions = predictor.forward(encoded, &context, &sequences);
    let predicted = pooled(predictions.clone().inner(), sequences.real().map(Tensor::inner), masks.blocks);

    let sum = smooth_l1_sum(predictions, wanted.autodiff(), sequences.real());
    let prediction = sum.div_scalar((masks.target_patches * width) as f64);
    // A micro-batch's share of what is a mean over samples; the prediction counts its own patches.
    let [whole, _] = masks.context.dims();
    let share = samples.len() as f64 / whole as f64;
    let apart = weights.terms(&pooled_context).into_iter().map(|(name, term)| (name, term.mul_scalar(share)));
    let terms: Vec<Term> = std::iter::once(("prediction", prediction.clone())).chain(apart).collect();
    let loss = terms.iter().skip(1).fold(prediction, |loss, (_, term)| loss + term.clone());
    Part {
        loss,
        terms: terms.into_iter().map(|(name, term)| (name, term.inner())).collect(),
        outputs: Outputs { encoder: pooled_context.inner(), target: seen, predictor: predicted },
    }
}

/// What the predictor must say: normalised features of the target encoder at the target patches.
///
/// # Shapes
/// - `features`: `[batch, patches, width]`
/// - `targets`: `[batch, blocks · target]`
/// - output: `[blocks · batch, target, width]`, block by block
pub fn wanted(features: Tensor<3>, targets: &Choice, blocks: usize) -> Tensor<3> {
    let [batch, all] = targets.dims();
    let chosen = targets.take(normalised(features));
    let [_, _, width] = chosen.dims();
    let patches = all / blocks;
    chosen.reshape([batch, blocks, patches, width]).swap_dims(0, 1).reshape([blocks * batch, patches, width])
}
