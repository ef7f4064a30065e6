//! One optimizer update: device batch in, changed weights and a report out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::collapse::ROWS;
use super::ema::blend;
use super::model::{Loss, Model, names};
use super::optimizer::AdamW;
use super::part::Outputs;
use super::probe::{OnlineProbe, ProbeConfig, Probed};
use super::replica::{self, Backward, Replica, StepError};
use super::schedule::Schedules;
use super::upload::DeviceBatch;
use crate::model::weights::{self, Weights, WeightsError};
use crate::model::{Encoder, Precision, Projector};

/// What the names of the online probe's arrays begin with.
pub const PROBE: &str = "probe.";

/// How a step is made.
#[derive(Clone, Debug)]
pub struct StepConfig {
    /// Micro-batches of each rank whose gradients make one update.
    pub accumulate: usize,
    /// What matrix products are computed in.
    pub precision: Precision,
    /// Whether blocks are computed again for the backward pass instead of being kept.
    pub recompute: bool,
    /// The norm that gradients are scaled down to, if any.
    pub clip_norm: Option<f64>,
    pub loss: Loss,
    pub schedules: Schedules,
    /// None where there are no labels to learn.
    pub probe: Option<ProbeConfig>,
}

/// What one step did. Loss and norm stay on the device until they are read.
pub struct StepReport {
    pub step: u64,
    pub epoch: u64,
    pub loss: Tensor<1>,
    /// The loss's named summands.
    pub terms: Vec<(&'static str, Tensor<1>)>,
    pub gradient_norm: Tensor<1>,
    pub outputs: Outputs,
    /// What the online probe made of the batch.
    pub probed: Option<Probed>,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub ema_decay: f64,
    pub samples: usize,
    /// How long each rank worked on its share, where there are several.
    pub ranks: Vec<Duration>,
    pub took: Duration,
}

/// Model, target encoder and optimizer, one step after the other.
pub struct Trainer {
    model: Model,
    target: Encoder,
    target_projector: Option<Projector>,
    optimizer: AdamW,
    probe: Option<OnlineProbe>,
    config: StepConfig,
    ranks: Vec<Device>,
}

/// All that a trainer must remember, by name.
pub struct TrainerState {
    /// `encoder.*`, `projector.*`, `predictor.*`, `target.*`, `target_projector.*`, `moment1.*`, `moment2.*`,
    /// `probe.*`.
    pub weights: Weights,
    /// How often the optimizer updated each parameter.
    pub updates: BTreeMap<String, usize>,
}

impl Trainer {
    /// `model` lives on the recording twin of the device (`Device::autodiff`); the target encoder begins as its copy.
    pub fn new(mut model: Model, config: StepConfig) -> Self {
        if config.recompute {
            model.recompute();
        }
        let (target, target_projector) = (model.encoder.valid(), model.projector.valid());
        Self { model, target, target_projector, optimizer: AdamW::new(), probe: None, config, ranks: Vec::new() }
    }

    /// Shares each batch out among ranks on these devices, of which the first is the model's own. Their gradients are
    /// added up there, where the one optimizer is; the others get the weights anew with each batch.
    pub fn spread(mut self, ranks: Vec<Device>) -> Self {
        self.ranks = ranks;
        self
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn target(&self) -> &Encoder {
        &self.target
    }

    /// Makes one update from a batch.
    ///
    /// # Errors
    /// As [`Self::backward`]; nothing is changed then.
    pub fn step(&mut self, batch: &DeviceBatch) -> Result<StepReport, StepError> {
        let start = Instant::now();
        let Backward { loss, terms, mut gradients, outputs, ranks } = self.backward(batch)?;
        let gradient_norm = gradients.norm().ok_or(StepError::Unfit)?;
        if let Some(most) = self.config.clip_norm {
            gradients.clip(&gradient_norm, most);
        }
        let schedules = &self.config.schedules;
        let learning_rate = schedules.learning_rate(batch.step);
        let weight_decay = schedules.weight_decay(batch.step);
        let ema_decay = schedules.ema_decay(batch.step);
        self.model = self.optimizer.step(self.model.clone(), gradients, learning_rate, weight_decay);
        self.target = blend(self.target.clone(), &self.model.encoder, ema_decay);
        self.target_projector = blend(self.target_projector.clone(), &self.model.projector, ema_decay);
        let probed = self.probed(&outputs.target, batch);
        Ok(StepReport {
            step: batch.step,
            epoch: batch.epoch,
            terms,
            loss,
            gradient_norm,
            outputs,
            probed,
            learning_rate,
            weight_decay,
            ema_decay,
            samples: batch.samples.len(),
            ranks,
            took: start.elapsed(),
        })
    }

    /// Whether there are labels to learn of which the online probe has not seen any.
    pub fn has_new_probe(&self) -> bool {
        self.config.probe.is_some() && self.probe.is_none()
    }

    /// Lets the online probe score the batch and learn from it.
    fn probed(&mut self, features: &Tensor<2>, batch: &DeviceBatch) -> Option<Probed> {
        let config = self.config.probe.as_ref()?;
        let probe = self.probe.get_or_insert_with(|| OnlineProbe::new(config.clone(), &features.device()));
        probe.step(features.clone(), &batch.labels, &batch.samples)
    }

    /// The target encoder's energy per token before each iteration and after the last one, averaged over the batch's
    /// first samples; `None` of an encoder that has no energy.
    ///
    /// # Shapes
    /// - output: `[iterations + 1]`
    pub fn energies(&self, batch: &DeviceBatch) -> Option<Tensor<1>> {
        let samples = batch.samples.len();
        // No more at once than a micro-batch has, or memory that is enough for a step might not be for this.
        let some = samples.div_ceil(self.config.accumulate * self.ranks.len().max(1)).min(ROWS);
        let images = batch.images.of(0..some, &batch.images.device())?.first();
        Some(self.target.energies(images)?.mean_dim(0).squeeze_dim(0))
    }

    /// The loss of a batch and its gradients, micro-batch by micro-batch, by all ranks.
    ///
    /// # Errors
    /// When the batch is empty or has not what the objective needs, or when a rank is lost.
    pub fn backward(&self, batch: &DeviceBatch) -> Result<Backward, StepError> {
        let own = Replica::new(&self.model, &self.target, self.target_projector.as_ref(), &self.config);
        replica::backward(&own, &self.ranks, batch)
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
        state.extend(weights::with_prefix(weights::collect(&self.target_projector)?, "target_projector."));
        let (moments, mut updates) = self.optimizer.state(&names(&self.model))?;
        state.extend(moments);
        if let Some(probe) = &self.probe {
            let (probe, count) = probe.state()?;
            state.extend(weights::with_prefix(probe, PROBE));
            updates.insert(PROBE.into(), count);
        }
        Ok(TrainerState { weights: state, updates })
    }

    /// Goes on from a state that [`Self::state`] gave. Without an online probe of these labels in it, that begins afresh.
    ///
    /// # Errors
    /// When a tensor is missing, unknown or of another shape; the trainer is then to be thrown away.
    pub fn restore(&mut self, state: TrainerState, device: &Device) -> Result<(), WeightsError> {
        let TrainerState { mut weights, mut updates } = state;
        let probe = weights::take_prefix(&mut weights, PROBE);
        let probe_updates = updates.remove(PROBE).unwrap_or(0);
        let goes_on = |config: &ProbeConfig| !probe.is_empty() && !config.is_of_other_labels(&probe);
        let config = self.config.probe.clone().filter(goes_on);
        let restored = config.map(|config| OnlineProbe::restore(config, probe, probe_updates, device));
        self.probe = restored.transpose()?;
        let target = weights::take_prefix(&mut weights, "target.");
        let target_projector = weights::take_prefix(&mut weights, "target_projector.");
        let mut moments = weights::with_prefix(weights::take_prefix(&mut weights, "moment1."), "moment1.");
        moments.extend(weights::with_prefix(weights::take_prefix(&mut weights, "moment2."), "moment2."));
        // A moment is flat, so that only its parameter tells how long it is to be.
        for (name, moment) in &moments {
            let parameter = name.split_once('.').and_then(|(_, name)| weights.get(name));
            if let Some(parameter) = parameter.filter(|parameter| parameter.values.len() != moment.values.len()) {
                let (needed, found) = (vec![parameter.values.len()], moment.shape.clone());
                return Err(WeightsError::Shape { name: name.clone(), found, needed });
            }
        }
        weights::apply(&mut self.model, weights)?;
        weights::apply(&mut self.target, target)?;
        weights::apply(&mut self.target_projector, target_projector)?;
        self.optimizer = AdamW::restore(moments, &updates, &names(&self.model), device)?;
        Ok(())
    }
}
