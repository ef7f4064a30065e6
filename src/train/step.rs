//! One optimizer update: device batch in, changed weights and a report out.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use burn::module::{Module, ParamId};
use burn::store::ModuleSnapshot;
use burn::tensor::{Device, Tensor};

use super::ema::blend;
use super::optimizer::{AdamW, Gradients};
use super::schedule::Schedules;
use super::upload::{DeviceBatch, DeviceMasks};
use crate::model::weights::{self, Weights, WeightsError};
use crate::model::{Choice, Predictor, PredictorConfig, Vit, VitConfig, WeightInit};
use crate::objective::masked::{normalised, smooth_l1_sum};

/// What is trained by gradients.
#[derive(Module, Debug)]
pub struct Model {
    pub encoder: Vit,
    pub predictor: Predictor,
}

impl Model {
    pub fn new(encoder: VitConfig, predictor: PredictorConfig, seed: u64, device: &Device) -> Self {
        let mut init = WeightInit::new(seed);
        let (grid, width) = (encoder.grid(), encoder.width);
        let encoder = encoder.init(&mut init, device);
        Self { encoder, predictor: predictor.init(grid, width, &mut init, device) }
    }
}

/// How a step is made.
#[derive(Clone, Debug)]
pub struct StepConfig {
    /// Micro-batches whose gradients make one update.
    pub accumulate: usize,
    /// The norm that gradients are scaled down to, if any.
    pub clip_norm: Option<f64>,
    pub schedules: Schedules,
}

/// What one step did. Loss and norm stay on the device until they are read.
pub struct StepReport {
    pub step: u64,
    pub epoch: u64,
    pub loss: Tensor<1>,
    /// The loss's named summands.
    pub terms: Vec<(&'static str, Tensor<1>)>,
    pub gradient_norm: Tensor<1>,
    /// Deviation of the target encoder's pooled features over the batch, averaged over the features.
    pub target_deviation: Tensor<1>,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub ema_decay: f64,
    pub samples: usize,
    pub took: Duration,
}

/// What the backward passes of a batch give.
pub struct Backward {
    pub loss: Tensor<1>,
    pub gradients: Gradients,
    pub target_deviation: Tensor<1>,
}

/// Model, target encoder and optimizer, one step after the other.
pub struct Trainer {
    model: Model,
    target: Vit,
    optimizer: AdamW,
    config: StepConfig,
}

/// All that a trainer must remember, by name.
pub struct TrainerState {
    /// `encoder.*`, `predictor.*`, `target.*`, `moment1.*`, `moment2.*`.
    pub weights: Weights,
    /// How often the optimizer updated each parameter.
    pub updates: BTreeMap<String, usize>,
}

impl Trainer {
    /// `model` lives on the recording twin of the device (`Device::autodiff`); the target encoder begins as its copy.
    pub fn new(model: Model, config: StepConfig) -> Self {
        let target = model.encoder.valid();
        Self { model, target, optimizer: AdamW::new(), config }
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn target(&self) -> &Vit {
        &self.target
    }

    /// Makes one update from a batch; `None` when the batch has no masks.
    pub fn step(&mut self, batch: &DeviceBatch) -> Option<StepReport> {
        let start = Instant::now();
        let masks = batch.masks.as_ref()?;
        let Backward { loss, mut gradients, target_deviation } = self.backward(&batch.images, masks)?;
        let gradient_norm = gradients.norm()?;
        if let Some(most) = self.config.clip_norm {
            gradients.clip(&gradient_norm, most);
        }
        let schedules = &self.config.schedules;
        let learning_rate = schedules.learning_rate(batch.step);
        let weight_decay = schedules.weight_decay(batch.step);
        let ema_decay = schedules.ema_decay(batch.step);
        self.model = self.optimizer.step(self.model.clone(), gradients, learning_rate, weight_decay);
        self.target = blend(self.target.clone(), &self.model.encoder, ema_decay);
        Some(StepReport {
            step: batch.step,
            epoch: batch.epoch,
            terms: vec![("prediction", loss.clone())],
            loss,
            gradient_norm,
            target_deviation,
            learning_rate,
            weight_decay,
            ema_decay,
            samples: batch.samples.len(),
            took: start.elapsed(),
        })
    }

    /// The loss of a batch and its gradients, micro-batch by micro-batch; `None` when the batch is empty.
    pub fn backward(&self, images: &Tensor<4>, masks: &DeviceMasks) -> Option<Backward> {
        let [batch, _, _, _] = images.dims();
        let each = batch.div_ceil(self.config.accumulate).max(1);
        let mut total: Option<Backward> = None;
        for first in (0..batch).step_by(each) {
            let count = each.min(batch - first);
            let part = self.micro_batch(images.clone().narrow(0, first, count), masks, first..first + count);
            let share = count as f64 / batch as f64;
            let part = Backward { target_deviation: part.target_deviation.mul_scalar(share), ..part };
            total = Some(match total {
                None => part,
                Some(mut total) => {
                    total.gradients.add(part.gradients);
                    total.loss = total.loss + part.loss;
                    total.target_deviation = total.target_deviation + part.target_deviation;
                    total
                }
            });
        }
        total
    }

    /// The micro-batch's share of the batch's mean loss, with its gradients.
    fn micro_batch(&self, images: Tensor<4>, masks: &DeviceMasks, samples: Range<usize>) -> Backward {
        let (context, targets) = (masks.context.samples(&samples), masks.targets.samples(&samples));
        let features = self.target.forward(images.clone(), None);
        let target_deviation = deviation(features.clone());
        let wanted = wanted(features, &targets, masks.blocks);
        let [_, _, width] = wanted.dims();
        let sequences = targets.by_block(masks.blocks);
        let predictions = predict(&self.model, images.autodiff(), &context.autodiff(), &sequences.autodiff());
        let real = sequences.real().map(Tensor::autodiff);
        let sum = smooth_l1_sum(predictions, wanted.autodiff(), real);
        let loss = sum.div_scalar((masks.target_patches * width) as f64);
        Backward { gradients: Gradients::of(&loss, &self.model), loss: loss.inner(), target_deviation }
    }

    /// Begins with weights from elsewhere in place of drawn ones; the predictor keeps its own where none are given.
    ///
    /// # Errors
    /// When they belong to a model of another shape; the trainer is then to be thrown away.
    pub fn begin_with(
        &mut self,
        encoder: Weights,
        target: Weights,
        predictor: Option<Weights>,
    ) -> Result<(), WeightsError> {
        weights::apply(&mut self.model.encoder, encoder)?;
        weights::apply(&mut self.target, target)?;
        predictor.map_or(Ok(()), |predictor| weights::apply(&mut self.model.predictor, predictor))
    }

    /// # Errors
    /// When the device fails to give a tensor back.
    pub fn state(&self) -> Result<TrainerState, WeightsError> {
        let mut state = weights::collect(&self.model)?;
        state.extend(weights::with_prefix(weights::collect(&self.target)?, "target."));
        let (moments, updates) = self.optimizer.state(&names(&self.model))?;
        state.extend(moments);
        Ok(TrainerState { weights: state, updates })
    }

    /// Goes on from a state that [`Self::state`] gave.
    ///
    /// # Errors
    /// When a tensor is missing, unknown or of another shape; the trainer is then to be thrown away.
    pub fn restore(&mut self, state: TrainerState, device: &Device) -> Result<(), WeightsError> {
        let TrainerState { mut weights, updates } = state;
        let target = weights::take_prefix(&mut weights, "target.");
        let mut moments = weights::with_prefix(weights::take_prefix(&mut weights, "moment1."), "moment1.");
        moments.extend(weights::with_prefix(weights::take_prefix(&mut weights, "moment2."), "moment2."));
        weights::apply(&mut self.model, weights)?;
        weights::apply(&mut self.target, target)?;
        self.optimizer = AdamW::restore(moments, &updates, &names(&self.model), device)?;
        Ok(())
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

/// How much samples differ: the deviation of each pooled feature over the batch, averaged over the features.
///
/// # Shapes
/// - `features`: `[batch, patches, width]`
/// - output: `[1]`
fn deviation(features: Tensor<3>) -> Tensor<1> {
    let pooled: Tensor<2> = features.mean_dim(1).squeeze_dim(1);
    pooled.var_bias(0).sqrt().mean()
}

/// # Shapes
/// - `sequences`: `[blocks · batch, target]`
/// - output: `[blocks · batch, target, width]`, block by block
pub fn predict(model: &Model, images: Tensor<4>, context: &Choice, sequences: &Choice) -> Tensor<3> {
    let encoded = model.encoder.forward(images, Some(context));
    model.predictor.forward(encoded, context, sequences)
}

/// The parameters' names and what the optimizer knows them by.
pub fn names(model: &Model) -> BTreeMap<String, ParamId> {
    let tensors = model.collect(None, None, false);
    tensors.into_iter().filter_map(|tensor| Some((tensor.name, ParamId::from(tensor.param_id?)))).collect()
}
