//! How much of a device's memory a step takes, before any of it is taken.

use super::model::{HeadConfig, Loss, ModelConfig};
use super::probe::ProbeConfig;
use super::step::StepConfig;
use crate::model::kept::{Blocks, Form, Pass};
use crate::model::{Precision, ShiftPredictorConfig};

const NUMBER: usize = size_of::<f32>();

/// Patches of a sample: those of its context, and of each of its target blocks.
#[derive(Clone, Copy, Debug)]
pub struct Masked {
    pub context: usize,
    pub target: usize,
    pub blocks: usize,
}

/// Bytes of a step, in parts.
#[derive(Clone, Copy, Debug)]
pub struct StepMemory {
    /// Weights, those of the target encoder, the optimizer's moments, and the online probe; they are always there.
    pub models: u64,
    /// Batches as they come to the device, in bytes.
    pub batches: u64,
    /// A micro-batch's images as numbers, what it keeps for its way back, and what is in use beside it.
    pub pass: u64,
    /// Gradients and the next weights, which follow upon it.
    pub update: u64,
}

impl StepMemory {
    /// The most at any time.
    pub fn most(&self) -> u64 {
        self.models + self.batches + self.pass.max(self.update)
    }

    /// Of a rank's share of a batch of `samples`, of which so many `batches` are on the device.
    pub fn new(
        models: &ModelConfig,
        step: &StepConfig,
        masked: Option<Masked>,
        [samples, batches, ranks]: [usize; 3],
        on_cpu: bool,
    ) -> Self {
        let form = Form { precision: step.precision, recompute: step.recompute, on_cpu };
        let target = models.encoder.parameters() + models.projector_parameters();
        let trained = models.encoder.parameters() + models.predictor_parameters();
        let side = models.encoder.image();
        let views = if masked.is_some() { 1 } else { 2 };
        let pixels = views * 3 * side * side;
        let each = samples.div_ceil(step.accumulate.saturating_mul(ranks).max(1));
        let pass = pass(models, &step.loss, form, masked, each);
        // The sum of the micro-batches before.
        let sum = if step.accumulate > 1 { trained * NUMBER as u64 } else { 0 };
        let ranks = ranks.max(1) as u64;
        // Ranks on the CPU share its memory, and the weights in it; on GPUs each has its own.
        let here = if on_cpu { ranks } else { 1 };
        let copies = match step.precision {
            Precision::F32 => 0,
            Precision::Bf16 => (here * trained + target) * 2,
        };
        // Of the other ranks, which all come to the first.
        let gradients = (ranks - 1) * trained * NUMBER as u64;
        let probe = step.probe.as_ref().map_or(0, ProbeConfig::numbers);
        Self {
            models: (3 * trained + target + probe) * NUMBER as u64,
            batches: (samples * batches * pixels) as u64,
            pass: here * ((each * pixels * NUMBER + pass.most) as u64 + sum) + copies + gradients,
            update: 2 * trained * NUMBER as u64 + gradients,
        }
    }
}

/// What a micro-batch of so many samples keeps.
fn pass(models: &ModelConfig, loss: &Loss, form: Form, masked: Option<Masked>, samples: usize) -> Pass {
    let (encoder, patches) = (&models.encoder, models.encoder.grid().pow(2));
    let features = models.features();
    match (&models.predictor, masked) {
        (HeadConfig::Patches(predictor), Some(Masked { context, target, blocks })) => {
            let sequences = samples * blocks;
            // Prediction and target, their distance, and what the loss makes of it.
            let compared = Pass::new(6 * sequences * target * features * NUMBER, 0);
            let encoded = form.encoder(encoder, samples, context);
            encoded.then(form.predictor(predictor, features, [samples, sequences], [context, target])).then(compared)
        }
        (HeadConfig::Told(predictor), _) => {
            let again = if let Loss::Told(weights) = loss { 1 + usize::from(weights.cycle > 0.0) } else { 1 };
            let shifted = (0..again).fold(Pass::default(), |all, _| {
                all.then(match *predictor {
                    ShiftPredictorConfig::Mlp { hidden, layers } => layers_of(samples, features, hidden, layers),
                    ShiftPredictorConfig::Transformer { tokens, width, depth, heads } => {
                        let form = Form { precision: Precision::F32, recompute: false, ..form };
                        form.transformer([samples, tokens], Blocks { width, hidden: 4 * width, heads, depth })
                    }
                })
            });
            form.encoder(encoder, samples, patches).then(projected(models, samples)).then(shifted)
        }
        (HeadConfig::Read(reader), _) => {
            let view = form.encoder(encoder, samples, patches).then(projected(models, samples));
            view.then(view).then(layers_of(samples, 2 * features, reader.hidden, reader.layers))
        }
        (HeadConfig::Patches(_), None) => Pass::default(),
    }
}

fn projected(models: &ModelConfig, samples: usize) -> Pass {
    let layers = |projector: crate::model::ProjectorConfig| {
        layers_of(samples, models.encoder.width(), projector.hidden, projector.layers)
    };
    models.projector.map_or_else(Pass::default, layers)
}

/// Layers with a norm and GELU between them.
fn layers_of(samples: usize, inputs: usize, hidden: usize, layers: usize) -> Pass {
    let numbers = inputs + 3 * hidden * layers.saturating_sub(1);
    Pass::new(samples * numbers * NUMBER, samples * hidden * NUMBER)
}
