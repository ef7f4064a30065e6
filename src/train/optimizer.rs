//! Gradients and the optimizer: AdamW as the I-JEPA authors set it; on the CPU in one pass, elsewhere by burn's own rule.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};

use crate::model::fused::{self, Adam};
use crate::model::weights::{Array, Weights, WeightsError};
use crate::model::{DeviceFailure, numbers};

/// PyTorch's AdamW settings, which the authors keep; burn's default epsilon is 1e-5.
const BETAS: [f32; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;

/// The gradients of a module's trained parameters, flat, in the module's order.
///
/// Ids are drawn anew by every process, so nothing may depend on their order: sums would differ in the last bit.
#[derive(Default)]
pub struct Gradients(Vec<(ParamId, Tensor<1>)>);

impl Gradients {
    /// Runs the backward pass and collects what `module` gets from it.
    pub fn of<M: Module>(loss: &Tensor<1>, module: &M) -> Self {
        let mut visitor = Collect { all: loss.backward(), collected: Self::default() };
        module.visit(&mut visitor);
        visitor.collected
    }

    /// Adds the gradients that another micro-batch gave the same module.
    pub fn add(&mut self, other: Self) {
        for ((_, sum), (_, gradient)) in self.0.iter_mut().zip(other.0) {
            sum.inplace(|sum| sum + gradient);
        }
    }

    /// The same on another device.
    pub fn on(self, device: &Device) -> Self {
        Self(self.0.into_iter().map(|(id, gradient)| (id, gradient.to_device(device))).collect())
    }

    /// The norm over all parameters together, `[1]`; it stays on the device until it is read.
    pub fn norm(&self) -> Option<Tensor<1>> {
        let squares: Vec<Tensor<1>> = self.0.iter().map(|(_, gradient)| gradient.clone().square().sum()).collect();
        (!squares.is_empty()).then(|| Tensor::cat(squares, 0).sum().sqrt())
    }

    /// Scales all gradients so that their norm is at most `most`, as PyTorch's `clip_grad_norm_` does.
    pub fn clip(&mut self, norm: &Tensor<1>, most: f64) {
        /// Keeps a norm of 0 from dividing by it; PyTorch's number.
        const LEAST: f64 = 1e-6;
        let factor = norm.clone().add_scalar(LEAST).recip().mul_scalar(most).clamp_max(1.0);
        for (_, gradient) in &mut self.0 {
            gradient.inplace(|gradient| gradient * factor.clone());
        }
    }

    /// The gradient of one parameter, flat.
    pub fn get(&self, id: ParamId) -> Option<Tensor<1>> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, gradient)| gradient.clone())
    }
}

struct Collect {
    all: burn::tensor::Gradients,
    collected: Gradients,
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad_remove(&mut self.all) {
            let count = gradient.shape().num_elements();
            self.collected.0.push((param.id, gradient.reshape([count])));
        }
    }
}

/// AdamW with two groups: weight decay for matrices, none for biases and other one-dimensional parameters.
pub struct AdamW {
    moments: HashMap<ParamId, AdamWState<1>>,
}

impl Default for AdamW {
    fn default() -> Self {
        Self::new()
    }
}

impl AdamW {
    pub fn new() -> Self {
        Self { moments: HashMap::new() }
    }

    /// Updates every parameter that has a gradient.
    pub fn step<M: Module>(&mut self, module: M, gradients: Gradients, learning_rate: f64, weight_decay: f64) -> M {
        let gradients = gradients.0.into_iter().collect();
        module.map(&mut Update { learning_rate, weight_decay, gradients, moments: &mut self.moments })
    }

    /// The moments by the names of the parameters: `moment1.NAME`, `moment2.NAME`; and how often each was updated.
    ///
    /// # Errors
    /// When the device fails to give a tensor back.
    pub fn state(&self, names: &BTreeMap<String, ParamId>) -> Result<(Weights, BTreeMap<String, usize>), WeightsError> {
        let (mut weights, mut updates) = (Weights::new(), BTreeMap::new());
        for (name, id) in names {
            let Some(state) = self.moments.get(id) else { continue };
            updates.insert(name.clone(), state.momentum.time);
            for (prefix, moment) in [("moment1.", &state.momentum.moment_1), ("moment2.", &state.momentum.moment_2)] {
                let failed = |why: DeviceFailure| WeightsError::Tensor { name: name.clone(), why: why.to_string() };
                let values = numbers(moment.clone()).map_err(failed)?;
                weights.insert(format!("{prefix}{name}"), Array { shape: vec![values.len()], values });
            }
        }
        Ok((weights, updates))
    }

    /// Takes up the moments that [`Self::state`] gave.
    ///
    /// # Errors
    /// When a moment is missing, left over or belongs to no parameter.
    pub fn restore(
        mut weights: Weights,
        updates: &BTreeMap<String, usize>,
        names: &BTreeMap<String, ParamId>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let mut moments = HashMap::new();
        for (name, &time) in updates {
            let id = names.get(name).ok_or_else(|| WeightsError::Unknown(name.clone()))?;
            let mut take = |prefix: &str| {
                let name = format!("{prefix}{name}");
                let array = weights.remove(&name).ok_or(WeightsError::Missing(name))?;
                Ok(Tensor::<1>::from_data(TensorData::new(array.values, array.shape), device))
            };
            let (moment_1, moment_2) = (take("moment1.")?, take("moment2.")?);
            let momentum = AdaptiveMomentumState { time, moment_1, moment_2, max_moment_2: None };
            moments.insert(*id, AdamWState { momentum });
        }
        match weights.into_keys().next() {
            Some(name) => Err(WeightsError::Unknown(name)),
            None => Ok(Self { moments }),
        }
    }
}

struct Update<'a> {
    learning_rate: f64,
    weight_decay: f64,
    gradients: HashMap<ParamId, Tensor<1>>,
    moments: &'a mut HashMap<ParamId, AdamWState<1>>,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove(&param.id) else {
            return param;
        };
        // Moments are kept flat, so that one type of state serves parameters of every rank.
        let id = param.id;
        let decay = if D > 1 { self.weight_decay as f32 } else { 0.0 };
        param.map(|tensor| {
            let shape = tensor.dims();
            let flat = tensor.inner().reshape([gradient.dims()[0]]);
            let before = self.moments.remove(&id);
            let (flat, after) = if fused::can_update(&flat) {
                in_one_pass(self.learning_rate, decay, flat, gradient, before)
            } else {
                by_library(self.learning_rate, decay, flat, gradient, before)
            };
            self.moments.extend(after.map(|after| (id, after)));
            Tensor::from_inner(flat.reshape(shape)).require_grad()
        })
    }
}

/// A parameter after an update, and its moments.
type Updated = (Tensor<1>, Option<AdamWState<1>>);

fn by_library(rate: f64, decay: f32, flat: Tensor<1>, gradient: Tensor<1>, before: Option<AdamWState<1>>) -> Updated {
    let [beta_1, beta_2] = BETAS;
    let config = AdamWConfig::new().with_beta_1(beta_1).with_beta_2(beta_2).with_epsilon(EPSILON);
    config.with_weight_decay(decay).build().step(rate, flat, gradient, before)
}

/// The same, to the bit, by [`fused::adam`].
fn in_one_pass(rate: f64, decay: f32, flat: Tensor<1>, gradient: Tensor<1>, before: Option<AdamWState<1>>) -> Updated {
    let none = || Tensor::zeros(flat.dims(), &flat.device());
    let moments = before.map(|before| before.momentum);
    let (time, moment_1, moment_2) =
        moments.map_or_else(|| (0, none(), none()), |moments| (moments.time, moments.moment_1, moments.moment_2));
    let rule = Adam {
        betas: BETAS,
        epsilon: EPSILON,
        learning_rate: rate as f32,
        left: (1.0 - rate * f64::from(decay)) as f32,
        time: time as i32 + 1,
    };
    let [flat, moment_1, moment_2] = fused::adam(&rule, gradient, [flat, moment_1, moment_2]);
    let momentum = AdaptiveMomentumState { time: time + 1, moment_1, moment_2, max_moment_2: None };
    (flat, Some(AdamWState { momentum }))
}
