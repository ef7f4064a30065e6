//! The narrow ViT that predicts target patches from the encoded context.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::again;
use super::attention::{Block, block_parameters, layer_norm};
use super::fused::LayerNorm;
use super::init::WeightInit;
use super::patch::{Choice, hidden_keys, positions};
use super::precision::through;

/// What a predictor is built from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictorConfig {
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
    /// Width of the MLP's hidden layer.
    pub hidden: usize,
}

impl PredictorConfig {
    /// The MLP's hidden layer is four times as wide.
    pub fn new(width: usize, depth: usize, heads: usize) -> Self {
        Self { width, depth, heads, hidden: 4 * width }
    }

    /// Numbers in the predictor of an encoder with so many features and patches, fixed positions included.
    pub fn parameters(&self, features: usize, patches: usize) -> u64 {
        let ends = (features + 1) * self.width + (self.width + 1) * features;
        let blocks = self.depth * block_parameters(self.width, self.hidden);
        (ends + self.width + patches * self.width + blocks + 2 * self.width) as u64
    }

    /// `grid` is the number of patches a side, `features` the encoder's width.
    pub fn init(&self, grid: usize, features: usize, init: &mut WeightInit, device: &Device) -> Predictor {
        let block = |init: &mut WeightInit| Block::new(self.width, self.heads, self.hidden, init, device);
        Predictor {
            embed: init.linear(features, self.width, device),
            mask_token: init.normal([1, 1, self.width], device),
            positions: Param::from_tensor(positions(grid, self.width, device)).set_require_grad(false),
            blocks: (0..self.depth).map(|_| block(init)).collect(),
            norm: layer_norm(self.width, device),
            projection: init.linear(self.width, features, device),
            recompute: false,
        }
    }
}

/// Predicts the target patches from the encoded context (I-JEPA, section 3).
#[derive(Module, Debug)]
pub struct Predictor {
    pub embed: Linear,
    /// `[1, 1, width]`: by its rank it counts as a matrix to the optimizer, as the authors' does.
    pub mask_token: Param<Tensor<3>>,
    pub positions: Param<Tensor<2>>,
    pub blocks: Vec<Block>,
    pub norm: LayerNorm,
    pub projection: Linear,
    /// Whether blocks keep nothing for the backward pass but what comes in.
    pub recompute: bool,
}

impl Predictor {
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
        let hidden = real.map(hidden_keys);
        let pass = |tokens, block| again::pass(block, tokens, &hidden, self.recompute);
        let tokens = self.blocks.iter().fold(tokens, pass);
        through(&self.projection, self.norm.forward(tokens.narrow(1, seen, target))).cast(dtype)
    }
}

/// What a predictor of patches adds to features: where a patch is, and that it is asked for.
pub(super) struct Table {
    /// `[patches, width]`
    pub positions: Tensor<2>,
    /// `[1, 1, width]`
    pub mask_token: Tensor<3>,
}

impl Table {
    /// One sequence per target block of a sample: the sample's context, then the block's mask tokens; and 1 at the real
    /// places of each, `None` when nothing is padding.
    ///
    /// # Shapes
    /// - `known`: `[batch, context, width]`
    /// - `targets`: `[blocks · batch, target]`, block by block
    /// - output: `[blocks · batch, context + target, width]` and `[blocks · batch, context + target]`
    pub fn sequences(self, known: Tensor<3>, context: &Choice, targets: &Choice) -> (Tensor<3>, Option<Tensor<2>>) {
        let [batch, _, _] = known.dims();
        let [sequences, _] = targets.dims();
        let blocks = sequences / batch;
        let known = known + context.take_shared(self.positions.clone());
        let asked = targets.take_shared(self.positions) + self.mask_token;
        let tokens = Tensor::cat(vec![known.repeat_dim(0, blocks), asked], 1);
        (tokens, real_places(context, targets, blocks))
    }
}

/// 1 at the real places of each sequence, `[blocks · batch, context + target]`; `None` when nothing is padding.
fn real_places(context: &Choice, targets: &Choice, blocks: usize) -> Option<Tensor<2>> {
    if context.real().is_none() && targets.real().is_none() {
        return None;
    }
    let ones = |choice: &Choice| Tensor::ones(choice.dims(), &choice.device());
    let known = context.real().unwrap_or_else(|| ones(context)).repeat_dim(0, blocks);
    let asked = targets.real().unwrap_or_else(|| ones(targets));
    Some(Tensor::cat(vec![known, asked], 1))
}
