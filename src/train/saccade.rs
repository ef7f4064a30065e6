//! One micro-batch of Saccade JEPA: how the features of a view change over a known saccade is predicted, or the saccade
//! itself is read from the features of both views.

use burn::tensor::Tensor;

use super::model::Model;
use super::part::{Outputs, Part};
use crate::model::shift::{SaccadeUnit, ShiftPredictor, ShiftReader, Ways};
use crate::model::{Encoder, Projector};
use crate::objective::saccade::{self, ReadWeights, SaccadeWeights, Told};
use crate::pipeline::saccade::Saccade;

/// The target encoder and its projector, which no gradient reaches.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub encoder: &'a Encoder,
    pub projector: Option<&'a Projector>,
}

/// Some samples of a batch.
pub struct Views<'a> {
    /// `[samples, 3, side, side]`, as the second.
    pub first: Tensor<4>,
    pub second: Tensor<4>,
    /// From the first to the second.
    pub saccades: &'a [Saccade],
    /// Share of the batch that they are.
    pub share: f64,
}

/// Pooled features of a view, and what the objective sees of them; each `[samples, width]`.
struct Features {
    pooled: Tensor<2>,
    projected: Tensor<2>,
}

/// The predictor is told the saccade. Terms are means over the micro-batch: VICReg's know no more of the batch.
pub fn told(
    model: &Model,
    predictor: &ShiftPredictor,
    target: Target,
    views: Views,
    weights: &SaccadeWeights,
) -> Option<Part> {
    let device = views.first.device();
    let ways = Ways::new(views.saccades, &device).autodiff();
    let seen = features(target.encoder, target.projector, views.second);
    let context = features(&model.encoder, model.projector.as_ref(), views.first.autodiff());
    let predicted = predictor.forward(context.projected.clone(), ways.there);
    let outputs =
        Outputs { encoder: context.pooled.inner(), target: seen.pooled, predictor: predicted.clone().inner() };
    let told = Told { context: context.projected, predicted: predicted.clone(), target: seen.projected.autodiff() };
    let terms = saccade::told(&told, weights, || predictor.forward(predicted, ways.back));
    part(terms, views.share, outputs)
}

/// The reader tells the saccade from both views. Both come from the encoder that is trained.
pub fn read(
    model: &Model,
    reader: &ShiftReader,
    target: Target,
    views: Views,
    weights: &ReadWeights,
    unit: SaccadeUnit,
) -> Option<Part> {
    let device = views.first.device();
    let way = unit.of(views.saccades, &device).autodiff();
    // The target encoder learns nothing here and is only watched: it is what is scored.
    let seen = features(target.encoder, target.projector, views.second.clone());
    let second = features(&model.encoder, model.projector.as_ref(), views.second.autodiff());
    let first = features(&model.encoder, model.projector.as_ref(), views.first.autodiff());
    let said = reader.forward(first.projected.clone(), second.projected);
    let outputs = Outputs { encoder: first.pooled.inner(), target: seen.pooled, predictor: said.clone().inner() };
    part(saccade::read(&said, &way, &first.projected, weights), views.share, outputs)
}

fn features(encoder: &Encoder, projector: Option<&Projector>, images: Tensor<4>) -> Features {
    let pooled = encoder.pooled(images);
    let projected = projector.map_or_else(|| pooled.clone(), |projector| projector.forward(pooled.clone()));
    Features { pooled, projected }
}

fn part(terms: Vec<saccade::Term>, share: f64, outputs: Outputs) -> Option<Part> {
    let loss = saccade::sum(&terms)?.mul_scalar(share);
    let terms = terms.into_iter().map(|(name, term)| (name, term.inner().mul_scalar(share))).collect();
    Some(Part { loss, terms, outputs })
}
