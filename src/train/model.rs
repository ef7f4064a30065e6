//! What is trained: an encoder, and what its objective puts behind it.

use std::collections::BTreeMap;

use burn::module::{Module, ParamId};
use burn::store::ModuleSnapshot;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::model::shift::{SaccadeUnit, ShiftPredictor, ShiftReader};
use crate::model::weights::SKIP_VARIANTS;
use crate::model::{
    Encoder, EncoderConfig, FirstWeights, PatchPredictor, PatchPredictorConfig, Precision, Projector, ProjectorConfig,
    ShiftPredictorConfig, ShiftReaderConfig, WeightInit,
};
use crate::objective::masked::MaskedWeights;
use crate::objective::saccade::{ReadWeights, SaccadeWeights};

/// What a model is built from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub encoder: EncoderConfig,
    /// Between the encoder's pooled features and the objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projector: Option<ProjectorConfig>,
    pub predictor: HeadConfig,
}

/// What a predictor is built from, by what it predicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadConfig {
    Patches(PatchPredictorConfig),
    /// The other view's features, told the saccade.
    Told(ShiftPredictorConfig),
    /// The saccade itself.
    Read(ShiftReaderConfig),
}

impl HeadConfig {
    /// For people to read.
    pub fn describe(&self) -> String {
        match self {
            Self::Patches(predictor) => predictor.describe(),
            Self::Told(ShiftPredictorConfig::Mlp { hidden, layers }) => {
                format!("told the saccade: MLP, {layers} layers, hidden {hidden}")
            }
            Self::Told(ShiftPredictorConfig::Transformer { tokens, width, depth, heads }) => {
                format!("told the saccade: transformer, {tokens} tokens, width {width}, {depth} blocks, {heads} heads")
            }
            Self::Read(ShiftReaderConfig { hidden, layers }) => {
                format!("reads the saccade: MLP, {layers} layers, hidden {hidden}")
            }
        }
    }
}

impl ModelConfig {
    /// Features that the predictor sees of a token, or of a view.
    pub fn features(&self) -> usize {
        self.projector.map_or(self.encoder.width(), |projector| projector.width)
    }

    /// Numbers behind the encoder.
    pub fn predictor_parameters(&self) -> u64 {
        let (features, grid) = (self.features(), self.encoder.grid());
        let predictor = match self.predictor {
            HeadConfig::Patches(predictor) => predictor.parameters(features, grid * grid),
            HeadConfig::Told(predictor) => predictor.parameters(features),
            HeadConfig::Read(reader) => reader.parameters(features),
        };
        predictor + self.projector_parameters()
    }

    /// Numbers between the encoder and the objective.
    pub fn projector_parameters(&self) -> u64 {
        self.projector.map_or(0, |projector| projector.parameters(self.encoder.width()))
    }

    /// The same weights for the same seed on every device.
    pub fn init(&self, seed: u64, first: FirstWeights, device: &Device) -> Model {
        let mut init = WeightInit::new(seed, first);
        let (features, grid) = (self.features(), self.encoder.grid());
        let encoder = self.encoder.init(&mut init, device);
        let width = self.encoder.width();
        let projector = self.projector.map(|projector| projector.init(width, &mut init, device));
        let predictor = match self.predictor {
            HeadConfig::Patches(predictor) => Head::Patches(predictor.init(grid, features, &mut init, device)),
            HeadConfig::Told(predictor) => Head::Told(predictor.init(features, &mut init, device)),
            HeadConfig::Read(reader) => Head::Read(reader.init(features, &mut init, device)),
        };
        Model { encoder, projector, predictor }
    }
}

/// What is trained by gradients.
#[derive(Module, Debug)]
pub struct Model {
    pub encoder: Encoder,
    pub projector: Option<Projector>,
    pub predictor: Head,
}

impl Model {
    /// As [`Encoder::recompute`], with the predictor of patches.
    pub fn recompute(&mut self) {
        self.encoder.recompute();
        if let Head::Patches(predictor) = &mut self.predictor {
            predictor.recompute();
        }
    }

    /// What a step computes with. Predictors of whole views and projectors stay as they are: theirs are a small share of
    /// a step's products.
    pub fn in_precision(&self, precision: Precision) -> Self {
        let predictor = match &self.predictor {
            Head::Patches(predictor) => Head::Patches(predictor.in_precision(precision)),
            Head::Told(_) | Head::Read(_) => self.predictor.clone(),
        };
        Self { encoder: self.encoder.in_precision(precision), projector: self.projector.clone(), predictor }
    }
}

/// A predictor, by what it predicts.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a run holds one or two of them, and a boxed module is none")]
pub enum Head {
    Patches(PatchPredictor),
    Told(ShiftPredictor),
    Read(ShiftReader),
}

/// What is minimised, and how its terms are weighted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// I-JEPA's one term, and VICReg's where they are weighted.
    Masked(MaskedWeights),
    Told(SaccadeWeights),
    Read {
        weights: ReadWeights,
        unit: SaccadeUnit,
    },
}

/// The parameters' names and what the optimizer knows them by.
pub fn names(model: &Model) -> BTreeMap<String, ParamId> {
    let tensors = model.collect(None, None, SKIP_VARIANTS);
    tensors.into_iter().filter_map(|tensor| Some((tensor.name, ParamId::from(tensor.param_id?)))).collect()
}
