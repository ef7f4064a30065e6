//! The ViT encoder of I-JEPA: images and a choice of patches to one vector per patch.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::again;
use super::attention::{Block, block_parameters, layer_norm};
use super::fused::LayerNorm;
use super::init::WeightInit;
use super::patch::{Choice, hidden_keys, patches, positions};
use super::precision::through;

/// The usual sizes (Dosovitskiy et al. 2021, table 1; DeiT for tiny and small; Zhai et al. 2022 for giant).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VitSize {
    Tiny,
    Small,
    Base,
    Large,
    Huge,
    Giant,
}

/// What a ViT is built from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Pixels a side of the square image.
    pub image: usize,
    /// Pixels a side of a patch; divides `image`.
    pub patch: usize,
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
    /// Width of the MLP's hidden layer.
    pub hidden: usize,
}

impl VitConfig {
    /// Width, blocks, heads and hidden width of a named size.
    pub fn sized(size: VitSize, image: usize, patch: usize) -> Self {
        let (width, depth, heads, hidden) = match size {
            VitSize::Tiny => (192, 12, 3, 768),
            VitSize::Small => (384, 12, 6, 1536),
            VitSize::Base => (768, 12, 12, 3072),
            VitSize::Large => (1024, 24, 16, 4096),
            VitSize::Huge => (1280, 32, 16, 5120),
            // The one size whose MLP is not four times the width: 48/11 of it.
            VitSize::Giant => (1408, 40, 16, 6144),
        };
        Self { image, patch, width, depth, heads, hidden }
    }

    /// Any width, depth and heads; the MLP's hidden layer is four times as wide.
    pub fn free(image: usize, patch: usize, width: usize, depth: usize, heads: usize) -> Self {
        Self { image, patch, width, depth, heads, hidden: 4 * width }
    }

    /// Numbers in the encoder, fixed positions included.
    pub fn parameters(&self) -> u64 {
        let patches = self.grid() * self.grid();
        let embed = (3 * self.patch * self.patch + 1) * self.width;
        let blocks = self.depth * block_parameters(self.width, self.hidden);
        (embed + patches * self.width + blocks + 2 * self.width) as u64
    }

    /// Patches a side of the image.
    pub fn grid(&self) -> usize {
        self.image / self.patch
    }

    pub fn init(&self, init: &mut WeightInit, device: &Device) -> Vit {
        let block = |init: &mut WeightInit| Block::new(self.width, self.heads, self.hidden, init, device);
        Vit {
            patch_embed: init.linear(3 * self.patch * self.patch, self.width, device),
            positions: Param::from_tensor(positions(self.grid(), self.width, device)).set_require_grad(false),
            blocks: (0..self.depth).map(|_| block(init)).collect(),
            norm: layer_norm(self.width, device),
            patch: self.patch,
            recompute: false,
        }
    }
}

/// Encodes the chosen patches of images (I-JEPA, section 3; no class token).
#[derive(Module, Debug)]
pub struct Vit {
    pub patch_embed: Linear,
    /// Fixed, but kept with the weights: other tools' weights bring positions of their own.
    pub positions: Param<Tensor<2>>,
    pub blocks: Vec<Block>,
    pub norm: LayerNorm,
    pub patch: usize,
    /// Whether blocks keep nothing for the backward pass but what comes in.
    pub recompute: bool,
}

impl Vit {
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - `choice`: the patches to encode, all of them when absent
    /// - output: `[batch, chosen, width]`
    pub fn forward(&self, images: Tensor<4>, choice: Option<&Choice>) -> Tensor<3> {
        let hidden = choice.and_then(Choice::real).map(hidden_keys);
        let tokens = self.tokens(images, choice);
        let pass = |tokens, block| again::pass(block, tokens, &hidden, self.recompute);
        let tokens = self.blocks.iter().fold(tokens, pass);
        self.norm.forward(tokens)
    }

    /// What the last `count` blocks give, each normalised as the last one is.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - output: `[batch, patches, width]` each
    pub fn last(&self, images: Tensor<4>, count: usize) -> Vec<Tensor<3>> {
        let mut tokens = self.tokens(images, None);
        let outputs = self.blocks.iter().map(|block| {
            tokens = block.forward(tokens.clone(), None);
            tokens.clone()
        });
        let skipped = self.blocks.len().saturating_sub(count);
        outputs.skip(skipped).map(|tokens| self.norm.forward(tokens)).collect()
    }

    /// The encoded patches, and what the attention of each block weighs them with.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - output: `[batch, patches, width]`; `[batch, heads, patches, patches]` each, rows are queries and add up to 1
    pub fn forward_attending(&self, images: Tensor<4>) -> (Tensor<3>, Vec<Tensor<4>>) {
        let mut tokens = self.tokens(images, None);
        let attend = |block: &Block| {
            let weights = block.weights(tokens.clone());
            tokens = block.forward(tokens.clone(), None);
            weights
        };
        let weights = self.blocks.iter().map(attend).collect();
        (self.norm.forward(tokens), weights)
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
