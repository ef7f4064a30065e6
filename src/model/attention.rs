//! Transformer blocks: pre-norm attention and MLP with residuals, shared by the ViT and its predictor.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::softmax;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Tensor};

use super::again::Piece;
use super::fused::elsewhere::{self, WEIGHT_BYTES};
use super::fused::{self, LayerNorm, gelu};
use super::init::WeightInit;
use super::precision::through;

/// The authors' LayerNorm epsilon; burn's default is 1e-5.
pub const NORM_EPSILON: f64 = 1e-6;

/// A LayerNorm with the authors' epsilon, scale 1 and shift 0.
pub fn layer_norm(width: usize, device: &Device) -> LayerNorm {
    LayerNorm::new(width, NORM_EPSILON, device)
}

/// Multi-head self-attention; queries, keys and values come from one matrix product.
#[derive(Module, Debug)]
pub struct Attention {
    pub qkv: Linear,
    pub projection: Linear,
    pub heads: usize,
}

impl Attention {
    pub fn new(width: usize, heads: usize, init: &mut WeightInit, device: &Device) -> Self {
        Self { qkv: init.linear(width, 3 * width, device), projection: init.linear(width, width, device), heads }
    }

    /// # Shapes
    /// - `tokens`: `[batch, tokens, width]`
    /// - `hidden`: `[batch, 1, 1, tokens]`, true where a key is padding
    /// - output: `[batch, tokens, width]`
    pub fn forward(&self, tokens: Tensor<3>, hidden: Option<&Tensor<4, Bool>>) -> Tensor<3> {
        let [batch, count, width] = tokens.dims();
        let all = through(&self.qkv, tokens);
        if let Some(heads) = fused::attention(&all, self.heads, hidden) {
            return through(&self.projection, heads);
        }
        let is_recorded = all.is_autodiff();
        let [queries, keys, values] = self.apart(all);
        let heads = if is_recorded {
            elsewhere::attention([queries, keys, values], hidden, WEIGHT_BYTES)
        } else {
            let mask = hidden.map(|hidden| hidden.clone().expand([batch, self.heads, count, count]));
            attention(queries, keys, values, mask, None, AttentionModuleOptions::default())
        };
        through(&self.projection, heads.swap_dims(1, 2).reshape([batch, count, width]))
    }

    /// How much of itself each token takes from each: what [`Self::forward`] weighs the values with.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens, width]`
    /// - output: `[batch, heads, tokens, tokens]`, rows add up to 1
    pub fn weights(&self, tokens: Tensor<3>) -> Tensor<4> {
        let [queries, keys, _] = self.apart(through(&self.qkv, tokens));
        let [_, _, _, head_width] = queries.dims();
        softmax(queries.matmul(keys.transpose()) / (head_width as f64).sqrt(), 3)
    }

    /// Each `[batch, heads, tokens, width / heads]`.
    fn apart(&self, all: Tensor<3>) -> [Tensor<4>; 3] {
        let [batch, count, width] = all.dims();
        let all = all.reshape([batch, count, 3, self.heads, width / 3 / self.heads]).permute([2, 0, 3, 1, 4]);
        [0, 1, 2].map(|part| all.clone().narrow(0, part, 1).squeeze_dim::<4>(0))
    }
}

/// Two layers with an exact GELU between them.
#[derive(Module, Debug)]
pub struct Mlp {
    pub fc1: Linear,
    pub fc2: Linear,
}

impl Mlp {
    pub fn new(width: usize, hidden: usize, init: &mut WeightInit, device: &Device) -> Self {
        Self { fc1: init.linear(width, hidden, device), fc2: init.linear(hidden, width, device) }
    }

    /// # Shapes
    /// - `tokens`, output: `[batch, tokens, width]`
    pub fn forward(&self, tokens: Tensor<3>) -> Tensor<3> {
        through(&self.fc2, gelu(through(&self.fc1, tokens)))
    }
}

/// Numbers in one [`Block`].
pub fn block_parameters(width: usize, hidden: usize) -> usize {
    let attention = (width + 1) * 3 * width + (width + 1) * width;
    let mlp = (width + 1) * hidden + (hidden + 1) * width;
    attention + mlp + 4 * width
}

/// One pre-norm transformer block.
#[derive(Module, Debug)]
pub struct Block {
    pub norm1: LayerNorm,
    pub attention: Attention,
    pub norm2: LayerNorm,
    pub mlp: Mlp,
}

impl Block {
    pub fn new(width: usize, heads: usize, hidden: usize, init: &mut WeightInit, device: &Device) -> Self {
        Self {
            norm1: layer_norm(width, device),
            attention: Attention::new(width, heads, init, device),
            norm2: layer_norm(width, device),
            mlp: Mlp::new(width, hidden, init, device),
        }
    }

    /// # Shapes
    /// - `tokens`, output: `[batch, tokens, width]`
    /// - `hidden`: `[batch, 1, 1, tokens]`, true where a token is padding
    pub fn forward(&self, tokens: Tensor<3>, hidden: Option<&Tensor<4, Bool>>) -> Tensor<3> {
        let dtype = tokens.dtype();
        let tokens = tokens.clone() + self.attention.forward(self.norm1.forward(tokens), hidden).cast(dtype);
        tokens.clone() + self.mlp.forward(self.norm2.forward(tokens)).cast(dtype)
    }

    /// What its attention weighs the tokens with, as in [`Attention::weights`].
    pub fn weights(&self, tokens: Tensor<3>) -> Tensor<4> {
        self.attention.weights(self.norm1.forward(tokens))
    }
}

/// Two norms, attention and an MLP of two layers each.
impl Piece<3, 13> for Block {
    type Beside = Option<Tensor<4, Bool>>;

    fn off_record(hidden: Self::Beside) -> Self::Beside {
        hidden.map(Tensor::inner)
    }

    fn through(&self, tokens: Tensor<3>, hidden: &Self::Beside) -> Tensor<3> {
        self.forward(tokens, hidden.as_ref())
    }
}
