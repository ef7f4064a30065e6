//! The closed sets: which encoder, and which predictor of patches. A new kind is a variant here and a file beside.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::convnext::{ConvNext, ConvNextConfig};
use super::energy::{EnergyConfig, EnergyPredictor, EnergyPredictorConfig, EnergyTransformer};
use super::init::WeightInit;
use super::patch::Choice;
use super::precision::Precision;
use super::predictor::{Predictor, PredictorConfig};
use super::vit::{Vit, VitConfig};

/// What an encoder is built from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EncoderConfig {
    Vit(VitConfig),
    Energy(EnergyConfig),
    #[serde(rename = "convnext")]
    ConvNext(ConvNextConfig),
}

impl EncoderConfig {
    /// Numbers in the encoder, fixed ones included.
    pub fn parameters(&self) -> u64 {
        match self {
            Self::Vit(config) => config.parameters(),
            Self::Energy(config) => config.parameters(),
            Self::ConvNext(config) => config.parameters(),
        }
    }

    /// Features of a token, and of an image.
    pub fn width(&self) -> usize {
        match self {
            Self::Vit(config) => config.width,
            Self::Energy(config) => config.width,
            Self::ConvNext(config) => config.width(),
        }
    }

    /// Tokens a side of the image.
    pub fn grid(&self) -> usize {
        match self {
            Self::Vit(config) => config.grid(),
            Self::Energy(config) => config.grid(),
            Self::ConvNext(config) => config.grid(),
        }
    }

    /// Pixels a side of the image.
    pub fn image(&self) -> usize {
        match self {
            Self::Vit(config) => config.image,
            Self::Energy(config) => config.image,
            Self::ConvNext(config) => config.image,
        }
    }

    /// Pixels a side that the tokens stand for, from the upper left corner on: all of them, unless a ConvNeXt's strides
    /// leave some over.
    pub fn covered(&self) -> usize {
        match self {
            Self::Vit(_) | Self::Energy(_) => self.image(),
            Self::ConvNext(config) => config.covered(),
        }
    }

    /// Layers that attend, and heads of each: blocks of a ViT, iterations of an Energy Transformer.
    pub fn attention(&self) -> (usize, usize) {
        match self {
            Self::Vit(config) => (config.depth, config.heads),
            Self::Energy(config) => (config.iterations, config.heads),
            Self::ConvNext(_) => (0, 0),
        }
    }

    /// Whether weights of that encoder are weights of this one: a ConvNeXt's belong to images of any size.
    pub fn takes_the_weights_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ConvNext(ours), Self::ConvNext(theirs)) => {
                (ours.stem, ours.depths, ours.widths) == (theirs.stem, theirs.depths, theirs.widths)
            }
            _ => self == other,
        }
    }

    /// For people to read.
    pub fn describe(&self) -> String {
        match self {
            Self::Vit(VitConfig { image, patch, width, depth, heads, hidden }) => format!(
                "ViT, {image} pixels, patch {patch}, width {width}, {depth} blocks, {heads} heads, hidden {hidden}"
            ),
            Self::Energy(EnergyConfig { image, patch, width, heads, head_width, memories, iterations, .. }) => format!(
                "Energy Transformer, {image} pixels, patch {patch}, width {width}, {heads} heads of {head_width}, \
                 {memories} memories, {iterations} iterations"
            ),
            Self::ConvNext(config) => {
                let stages: Vec<String> = config.stages().map(|(depth, width)| format!("{depth} of {width}")).collect();
                format!("ConvNeXt, {} pixels, stem {}, blocks {}", config.image, config.stem, stages.join(", "))
            }
        }
    }

    pub fn init(&self, init: &mut WeightInit, device: &Device) -> Encoder {
        match self {
            Self::Vit(config) => Encoder::Vit(config.init(init, device)),
            Self::Energy(config) => Encoder::Energy(config.init(init, device)),
            Self::ConvNext(config) => Encoder::ConvNext(config.init(init, device)),
        }
    }
}

/// Images to features.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a run holds one or two of them, and a boxed module is none")]
pub enum Encoder {
    Vit(Vit),
    Energy(EnergyTransformer),
    ConvNext(ConvNext),
}

impl Encoder {
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - `choice`: the patches to encode, all of them when absent
    /// - output: `[batch, chosen, width]`
    pub fn forward(&self, images: Tensor<4>, choice: Option<&Choice>) -> Tensor<3> {
        match self {
            Self::Vit(encoder) => encoder.forward(images, choice),
            Self::Energy(encoder) => encoder.forward(images, choice),
            Self::ConvNext(encoder) => {
                let tokens = encoder.forward(images);
                choice.map_or_else(|| tokens.clone(), |choice| choice.take(tokens.clone()))
            }
        }
    }

    /// What a step computes with, as [`Precision::of`] makes it.
    pub fn in_precision(&self, precision: Precision) -> Self {
        let mut copy = precision.of(self);
        if let Self::Energy(encoder) = &mut copy {
            encoder.block.products = precision;
        }
        copy
    }

    /// Has blocks keep nothing for the backward pass but what comes in: less memory, and a second way forward.
    pub fn recompute(&mut self) {
        match self {
            Self::Vit(encoder) => encoder.recompute = true,
            Self::Energy(encoder) => encoder.block.recompute = true,
            Self::ConvNext(encoder) => encoder.recompute = true,
        }
    }

    /// One vector an image, as it is scored: the mean of the encoded patches; of a ConvNeXt, what its classifier sees.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - output: `[batch, width]`
    pub fn pooled(&self, images: Tensor<4>) -> Tensor<2> {
        match self {
            Self::Vit(encoder) => encoder.forward(images, None).mean_dim(1).squeeze_dim(1),
            Self::Energy(encoder) => encoder.forward(images, None).mean_dim(1).squeeze_dim(1),
            Self::ConvNext(encoder) => encoder.pooled(images),
        }
    }

    /// The mean over patches of what each of the last `count` blocks gives, side by side (I-JEPA, appendix A.2); `None`
    /// of what is no ViT of so many blocks.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - output: `[batch, count · width]`
    pub fn pooled_of_last(&self, images: Tensor<4>, count: usize) -> Option<Tensor<2>> {
        let Self::Vit(encoder) = self else { return None };
        let outputs = (encoder.blocks.len() >= count).then(|| encoder.last(images, count))?;
        Some(Tensor::cat(outputs.into_iter().map(|tokens| tokens.mean_dim(1).squeeze_dim(1)).collect(), 1))
    }

    /// All that is looked at, in one pass.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    pub fn look(&self, images: Tensor<4>) -> Seen {
        let mean = |features: &Tensor<3>| -> Tensor<2> { features.clone().mean_dim(1).squeeze_dim(1) };
        match self {
            Self::Vit(encoder) => {
                let (features, attention) = encoder.forward_attending(images);
                Seen { pooled: mean(&features), features, attention, energies: None }
            }
            Self::Energy(encoder) => {
                let (features, attention, energies) = encoder.forward_attending(images);
                Seen { pooled: mean(&features), features, attention, energies: Some(energies) }
            }
            Self::ConvNext(encoder) => {
                let map = encoder.feature_map(images);
                let pooled = encoder.norm.forward(mean(&map));
                Seen { pooled, features: encoder.norm.forward(map), attention: Vec::new(), energies: None }
            }
        }
    }

    /// The energy per token before each iteration and after the last one; `None` of an encoder that has no energy.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - output: `[batch, iterations + 1]`
    pub fn energies(&self, images: Tensor<4>) -> Option<Tensor<2>> {
        match self {
            Self::Energy(encoder) => Some(encoder.forward_watched(images, None).1),
            Self::Vit(_) | Self::ConvNext(_) => None,
        }
    }
}

/// What an encoder makes of images, and how it came to it.
pub struct Seen {
    /// The encoded patches, `[batch, patches, width]`.
    pub features: Tensor<3>,
    /// As [`Encoder::pooled`] gives it, `[batch, width]`.
    pub pooled: Tensor<2>,
    /// What attention weighs the patches with, `[batch, heads, patches, patches]` each: block by block of a ViT,
    /// iteration by iteration of an Energy Transformer; a ConvNeXt has none. Rows are queries and add up to 1.
    pub attention: Vec<Tensor<4>>,
    /// As [`Encoder::energies`] gives them, `[batch, iterations + 1]`.
    pub energies: Option<Tensor<2>>,
}

/// What a predictor of patches is built from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PatchPredictorConfig {
    Vit(PredictorConfig),
    Energy(EnergyPredictorConfig),
}

impl PatchPredictorConfig {
    /// Numbers in the predictor of an encoder with so many features and patches, fixed ones included.
    pub fn parameters(&self, features: usize, patches: usize) -> u64 {
        match self {
            Self::Vit(config) => config.parameters(features, patches),
            Self::Energy(config) => config.parameters(features, patches),
        }
    }

    /// For people to read.
    pub fn describe(&self) -> String {
        match self {
            Self::Vit(PredictorConfig { width, depth, heads, hidden }) => {
                format!("ViT, width {width}, {depth} blocks, {heads} heads, hidden {hidden}")
            }
            Self::Energy(EnergyPredictorConfig { width, heads, head_width, memories, iterations, .. }) => format!(
                "Energy Transformer, width {width}, {heads} heads of {head_width}, {memories} memories, {iterations} \
                 iterations"
            ),
        }
    }

    /// `grid` is the number of patches a side, `features` the encoder's width.
    pub fn init(&self, grid: usize, features: usize, init: &mut WeightInit, device: &Device) -> PatchPredictor {
        match self {
            Self::Vit(config) => PatchPredictor::Vit(config.init(grid, features, init, device)),
            Self::Energy(config) => PatchPredictor::Energy(config.init(grid, features, init, device)),
        }
    }
}

/// Encoded context patches to predicted target patches.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a run holds one or two of them, and a boxed module is none")]
pub enum PatchPredictor {
    Vit(Predictor),
    Energy(EnergyPredictor),
}

impl PatchPredictor {
    /// As [`Encoder::in_precision`].
    pub fn in_precision(&self, precision: Precision) -> Self {
        let mut copy = precision.of(self);
        if let Self::Energy(predictor) = &mut copy {
            predictor.block.products = precision;
        }
        copy
    }

    /// As [`Encoder::recompute`].
    pub fn recompute(&mut self) {
        match self {
            Self::Vit(predictor) => predictor.recompute = true,
            Self::Energy(predictor) => predictor.block.recompute = true,
        }
    }

    /// # Shapes
    /// - `encoded`: `[batch, context, features]`
    /// - `context`: the patches that `encoded` holds
    /// - `targets`: the patches to predict, `[blocks · batch, target]`, block by block
    /// - output: `[blocks · batch, target, features]`
    pub fn forward(&self, encoded: Tensor<3>, context: &Choice, targets: &Choice) -> Tensor<3> {
        match self {
            Self::Vit(predictor) => predictor.forward(encoded, context, targets),
            Self::Energy(predictor) => predictor.forward(encoded, context, targets),
        }
    }
}
