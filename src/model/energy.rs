//! The Energy Transformer (Hoover et al. 2023): encoder and predictor whose one block walks down an energy.
//!
//! In place of many blocks there is one, applied again and again: tokens move so that their attention and memories fit
//! them better. [`EnergyTransformer`] takes the place of a ViT, [`EnergyPredictor`] that of its predictor.

mod block;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::attention::layer_norm;
use super::fused::LayerNorm;
use super::init::WeightInit;
use super::patch::{Choice, patches, positions};
use super::precision::through;
use super::predictor::Table;

pub use block::{EnergyAttention, EnergyBlock, EnergyBlockConfig, EnergyMemory, Memory};

/// What an energy encoder is built from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnergyConfig {
    /// Pixels a side of the square image.
    pub image: usize,
    /// Pixels a side of a patch; divides `image`.
    pub patch: usize,
    /// A multiple of 4.
    pub width: usize,
    pub heads: usize,
    /// Features of each head's queries and keys; any number.
    pub head_width: usize,
    pub memories: usize,
    pub memory: Memory,
    /// Steps down the energy; they share their weights.
    pub iterations: usize,
    /// Share of the energy's gradient that a step goes.
    pub step_size: f64,
}

impl EnergyConfig {
    /// Numbers in the encoder.
    pub fn parameters(&self) -> u64 {
        let patches = self.grid() * self.grid();
        let embed = (3 * self.patch * self.patch + 1) * self.width;
        (embed + patches * self.width + 2 * self.width) as u64 + self.block().parameters()
    }

    /// Patches a side of the image.
    pub fn grid(&self) -> usize {
        self.image / self.patch
    }

    pub fn init(&self, init: &mut WeightInit, device: &Device) -> EnergyTransformer {
        EnergyTransformer {
            patch_embed: init.linear(3 * self.patch * self.patch, self.width, device),
            positions: Param::from_tensor(positions(self.grid(), self.width, device)),
            block: self.block().init(init, device),
            norm: layer_norm(self.width, device),
            patch: self.patch,
        }
    }

    pub(super) fn block(&self) -> EnergyBlockConfig {
        EnergyBlockConfig {
            width: self.width,
            heads: self.heads,
            head_width: self.head_width,
            memories: self.memories,
            memory: self.memory,
            iterations: self.iterations,
            step_size: self.step_size,
        }
    }
}

/// Encodes the chosen patches of images by a walk down their energy.
#[derive(Module, Debug)]
pub struct EnergyTransformer {
    pub patch_embed: Linear,
    /// Learned; at first sines and cosines of row and column, so that neighbours are alike from the start.
    pub positions: Param<Tensor<2>>,
    pub block: EnergyBlock,
    /// Apart from the block's norm, whose scale is the temperature of the energy too, and whose input grows as it may:
    /// a predictor and its targets need features of one scale.
    pub norm: LayerNorm,
    pub patch: usize,
}

impl EnergyTransformer {
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - `choice`: the patches to encode, all of them when absent
    /// - output: `[batch, chosen, width]`
    pub fn forward(&self, images: Tensor<4>, choice: Option<&Choice>) -> Tensor<3> {
        self.norm.forward(self.block.forward(self.tokens(images, choice), choice.and_then(Choice::real)))
    }

    /// The same, and the energy per real token before each iteration and after the last one, without gradients.
    ///
    /// # Shapes
    /// - energy: `[batch, iterations + 1]`
    pub fn forward_watched(&self, images: Tensor<4>, choice: Option<&Choice>) -> (Tensor<3>, Tensor<2>) {
        let tokens = self.tokens(images, choice);
        let (tokens, energies) = self.block.forward_watched(tokens, choice.and_then(Choice::real));
        (self.norm.forward(tokens), energies)
    }

    /// The same of all patches, and what attention weighs them with at each iteration.
    ///
    /// # Shapes
    /// - weights: `[batch, heads, patches, patches]` each, rows are queries and add up to 1
    /// - energy: `[batch, iterations + 1]`
    pub fn forward_attending(&self, images: Tensor<4>) -> (Tensor<3>, Vec<Tensor<4>>, Tensor<2>) {
        let (tokens, weights, energies) = self.block.forward_attending(self.tokens(images, None));
        (self.norm.forward(tokens), weights, energies)
    }

    fn tokens(&self, images: Tensor<4>, choice: Option<&Choice>) -> Tensor<3> {
        let patches = patches(images, self.patch);
        let (patches, positions) = match choice {
            Some(choice) => (choice.take(patches), choice.take_shared(self.positions.val())),
            None => (patches, self.positions.val().unsqueeze()),
        };
        through(&self.patch_embed, patches).cast(positions.dtype()) + positions
    }
}

/// What an energy predictor is built from; the fields mean what they mean in [`EnergyConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnergyPredictorConfig {
    pub width: usize,
    pub heads: usize,
    pub head_width: usize,
    pub memories: usize,
    pub memory: Memory,
    pub iterations: usize,
    pub step_size: f64,
}

impl EnergyPredictorConfig {
    /// Numbers in the predictor of an encoder with so many features and patches.
    pub fn parameters(&self, features: usize, patches: usize) -> u64 {
        let ends = (features + 1) * self.width + (self.width + 1) * features;
        (ends + self.width + patches * self.width + 2 * self.width) as u64 + self.block().parameters()
    }

    /// `grid` is the number of patches a side, `features` the encoder's width.
    pub fn init(&self, grid: usize, features: usize, init: &mut WeightInit, device: &Device) -> EnergyPredictor {
        EnergyPredictor {
            embed: init.linear(features, self.width, device),
            mask_token: init.normal([1, 1, self.width], device),
            positions: Param::from_tensor(positions(grid, self.width, device)),
            block: self.block().init(init, device),
            norm: layer_norm(self.width, device),
            projection: init.linear(self.width, features, device),
        }
    }

    pub(super) fn block(&self) -> EnergyBlockConfig {
        EnergyBlockConfig {
            width: self.width,
            heads: self.heads,
            head_width: self.head_width,
            memories: self.memories,
            memory: self.memory,
            iterations: self.iterations,
            step_size: self.step_size,
        }
    }
}

/// Predicts the target patches from the encoded context: asked tokens fall to where context and memories draw them.
#[derive(Module, Debug)]
pub struct EnergyPredictor {
    pub embed: Linear,
    /// `[1, 1, width]`
    pub mask_token: Param<Tensor<3>>,
    /// Learned, as the encoder's.
    pub positions: Param<Tensor<2>>,
    pub block: EnergyBlock,
    pub norm: LayerNorm,
    pub projection: Linear,
}

impl EnergyPredictor {
    /// Each target block of each sample is a sequence of its own: the sample's context, then the block's mask tokens.
    ///
    /// # Shapes
    /// - `encoded`: `[batch, context, features]`
    /// - `context`: the patches that `encoded` holds
    /// - `targets`: the patches to predict, `[blocks · batch, target]`, block by block
    /// - output: `[blocks · batch, target, features]`
    pub fn forward(&self, encoded: Tensor<3>, context: &Choice, targets: &Choice) -> Tensor<3> {
        let [_, seen, _] = encoded.dims();
        let [_, target] = targets.dims();
        let table = Table { positions: self.positions.val(), mask_token: self.mask_token.val() };
        let dtype = encoded.dtype();
        let known = through(&self.embed, encoded).cast(dtype);
        let (tokens, real) = table.sequences(known, context, targets);
        let tokens = self.block.forward(tokens, real);
        through(&self.projection, self.norm.forward(tokens.narrow(1, seen, target))).cast(dtype)
    }
}
