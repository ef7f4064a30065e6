//! Tokens down their energy: what both the encoder and the predictor iterate.
//!
//! The gradient is written out rather than derived by the tensor library, so that one forward pass costs what its
//! matrix products cost, and training differentiates through it only once.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::model::again::{self, Piece};
use crate::model::fused::{LayerNorm, can_draw, draw, exponential};
use crate::model::init::WeightInit;
use crate::model::precision::Precision;

/// Standard deviation of the energy's weights at first, as in the reference implementation.
const WEIGHT_DEVIATION: f64 = 0.002;

/// PyTorch's epsilon, with which the reference implementation normalises.
const NORM_EPSILON: f64 = 1e-5;

/// Inverse temperature of the softmax memory at first, as in the reference implementation.
const SOFTMAX_BETA: f32 = 0.01;

/// Added to the scores of padding: beyond every real score, so that the exponential is 0; a bfloat16 holds it too.
const HIDDEN: f64 = -1e30;

/// How strongly a token excites a memory (Hoover et al. 2023, "Hopfield network module").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Memory {
    /// Each memory by its own: energy `-½ Σ relu(β x·m)²`.
    Relu,
    /// The memories compete for a token: energy `-(1/β) logsumexp(β x·m)`.
    Softmax,
}

/// What a block is built from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EnergyBlockConfig {
    pub width: usize,
    pub heads: usize,
    pub head_width: usize,
    pub memories: usize,
    pub memory: Memory,
    pub iterations: usize,
    pub step_size: f64,
}

impl EnergyBlockConfig {
    pub fn parameters(&self) -> u64 {
        let inner = self.heads * self.head_width;
        let attention = 2 * self.width * inner + self.heads;
        let memory = self.width * self.memories + 1;
        (2 * self.width + attention + memory) as u64
    }

    pub fn init(&self, init: &mut WeightInit, device: &Device) -> EnergyBlock {
        let inner = self.heads * self.head_width;
        let filled = |value: f32, count: usize| {
            Param::from_tensor(Tensor::from_data(TensorData::new(vec![value; count], [count]), device))
        };
        EnergyBlock {
            norm: LayerNorm::new(self.width, NORM_EPSILON, device),
            attention: EnergyAttention {
                queries: init.matrix(WEIGHT_DEVIATION, [self.width, inner], device),
                keys: init.matrix(WEIGHT_DEVIATION, [self.width, inner], device),
                beta: filled((self.head_width as f32).sqrt().recip(), self.heads),
            },
            memory: EnergyMemory {
                patterns: init.matrix(WEIGHT_DEVIATION, [self.width, self.memories], device),
                beta: filled(if self.memory == Memory::Relu { 1.0 } else { SOFTMAX_BETA }, 1),
                kind: self.memory,
            },
            iterations: self.iterations,
            step_size: self.step_size,
            products: Precision::F32,
            recompute: false,
        }
    }
}

/// Steps down the energy of the normalised tokens: `x ← x - step_size · ∇E(norm(x))` (Hoover et al. 2023).
///
/// While the norm's scale is the same for all features, as it is at first, no small step raises the energy. Training may
/// give that up, since the scale is a vector, as in the reference implementation.
#[derive(Module, Debug)]
pub struct EnergyBlock {
    pub norm: LayerNorm,
    pub attention: EnergyAttention,
    pub memory: EnergyMemory,
    pub iterations: usize,
    pub step_size: f64,
    /// Weights are made narrow for each product anew, so that what comes back from all iterations adds up in 32 bits.
    #[module(skip)]
    pub products: Precision,
    /// Whether iterations keep nothing for the backward pass but what comes in.
    pub recompute: bool,
}

/// Energy `-Σ_heads (1/β) Σ_queries logsumexp_keys(β q·k)`: the better other tokens answer a token, the lower.
#[derive(Module, Debug)]
pub struct EnergyAttention {
    /// `[width, heads · head_width]`
    pub queries: Param<Tensor<2>>,
    /// `[width, heads · head_width]`
    pub keys: Param<Tensor<2>>,
    /// Inverse temperature of each head.
    pub beta: Param<Tensor<1>>,
}

/// Patterns that attract tokens.
#[derive(Module, Debug)]
pub struct EnergyMemory {
    /// `[width, memories]`
    pub patterns: Param<Tensor<2>>,
    /// `[1]`: inverse temperature.
    pub beta: Param<Tensor<1>>,
    #[module(skip)]
    pub kind: Memory,
}

impl EnergyBlock {
    /// Padding stays where it is, and moves nothing else.
    ///
    /// # Shapes
    /// - `tokens`, output: `[batch, tokens, width]`
    /// - `real`: `[batch, tokens]`, 0 at padding; `None` when every token is real
    pub fn forward(&self, tokens: Tensor<3>, real: Option<Tensor<2>>) -> Tensor<3> {
        if self.recompute && tokens.is_autodiff() {
            let once = Self { iterations: 1, recompute: false, ..self.clone() };
            return (0..self.iterations).fold(tokens, |tokens, _| again::pass(&once, tokens, &real, true));
        }
        let shape = tokens.dims();
        let slope = Slope::new(self, shape, real, self.step_size, &tokens);
        let descend = |tokens: Tensor<2>, _| tokens.clone() + slope.down(self.norm.forward(tokens));
        (0..self.iterations).fold(flat(tokens), descend).reshape(shape)
    }

    /// The same, and the energy before each iteration and after the last one, per real token and without gradients.
    ///
    /// # Shapes
    /// - energy: `[batch, iterations + 1]`
    pub fn forward_watched(&self, tokens: Tensor<3>, real: Option<Tensor<2>>) -> (Tensor<3>, Tensor<2>) {
        let shape = tokens.dims();
        let slope = Slope::new(self, shape, real, self.step_size, &tokens);
        let mut tokens = flat(tokens);
        let mut energies = Vec::with_capacity(self.iterations + 1);
        for _ in 0..self.iterations {
            let place = slope.at(self.norm.forward(tokens.clone()));
            energies.push(slope.energy(&place));
            tokens = tokens + place.down;
        }
        energies.push(slope.energy(&slope.at(self.norm.forward(tokens.clone()))));
        (tokens.reshape(shape), Tensor::cat(energies, 1) / slope.real_tokens())
    }

    /// The same of tokens that are all real, and what attention weighs the keys with at each iteration.
    ///
    /// # Shapes
    /// - weights: `[batch, heads, tokens, tokens]` each, rows are queries and add up to 1
    /// - energy: `[batch, iterations + 1]`
    pub fn forward_attending(&self, tokens: Tensor<3>) -> (Tensor<3>, Vec<Tensor<4>>, Tensor<2>) {
        let shape = tokens.dims();
        let slope = Slope::new(self, shape, None, self.step_size, &tokens);
        let mut tokens = flat(tokens);
        let mut energies = Vec::with_capacity(self.iterations + 1);
        let attend = |_| {
            let normed = self.norm.forward(tokens.clone());
            let scored = slope.weights(normed.clone());
            let weights = scored.weights.clone() / scored.sums.sum.clone();
            let place = slope.place(scored, normed);
            energies.push(slope.energy(&place));
            tokens = tokens.clone() + place.down;
            weights
        };
        let weights = (0..self.iterations).map(attend).collect();
        energies.push(slope.energy(&slope.at(self.norm.forward(tokens.clone()))));
        (tokens.reshape(shape), weights, Tensor::cat(energies, 1) / slope.real_tokens())
    }

    /// Energy of each sample, and its gradient; `tokens` are normalised already.
    ///
    /// # Shapes
    /// - `tokens`, gradient: `[batch, tokens, width]`
    /// - `real`: `[batch, tokens]`, 0 at padding
    /// - energy: `[batch]`
    pub fn energy_and_gradient(&self, tokens: Tensor<3>, real: Option<Tensor<2>>) -> (Tensor<1>, Tensor<3>) {
        let shape = tokens.dims();
        let slope = Slope::new(self, shape, real, -1.0, &tokens);
        let place = slope.at(flat(tokens));
        (slope.energy(&place).squeeze_dim(1), place.down.reshape(shape))
    }
}

/// A norm, queries, keys and memories, and two inverse temperatures.
impl Piece<3, 8> for EnergyBlock {
    type Beside = Option<Tensor<2>>;

    fn off_record(real: Self::Beside) -> Self::Beside {
        real.map(Tensor::inner)
    }

    fn through(&self, tokens: Tensor<3>, real: &Self::Beside) -> Tensor<3> {
        self.forward(tokens, real.clone())
    }
}

/// A block made ready for one batch: what all iterations share.
struct Slope<'a> {
    block: &'a EnergyBlock,
    shape: [usize; 3],
    heads: usize,
    /// What all is computed in, and what matrix products are.
    wide: DType,
    products: DType,
    /// `[width, heads · head_width]`
    queries: Tensor<2>,
    keys: Tensor<2>,
    /// Each head's inverse temperature, once for each of its features: `[1, heads · head_width]`.
    sharpness: Tensor<2>,
    /// `[width, memories]`, times the inverse temperature.
    excite: Tensor<2>,
    /// Where all of the attention is computed at once.
    pair: Option<Pair>,
    /// From head features and memories back to tokens, times the step size.
    from_queries: Tensor<2>,
    from_keys: Tensor<2>,
    from_memories: Tensor<2>,
    padding: Option<Padding>,
}

/// Queries and keys side by side.
struct Pair {
    /// `[width, 2 · heads · head_width]`
    weights: Tensor<2>,
    /// From head features back to tokens, times the step size.
    back: Tensor<2>,
    /// 1 at real tokens and 0 at padding; empty when all are real.
    real: Arc<[f32]>,
}

/// 1 at real tokens and 0 at padding, in the shapes in which it is needed.
struct Padding {
    real: Tensor<2>,
    /// `[batch · tokens, 1]`
    rows: Tensor<2>,
    /// `[batch, 1, tokens, 1]`
    queries: Tensor<4>,
    /// What padding adds to the scores: `[batch, 1, 1, tokens]`.
    hidden_keys: Tensor<4>,
}

/// How queries and keys find each other.
struct Scored {
    /// Exponentials of the scores, `[batch, heads, queries, keys]`.
    weights: Tensor<4>,
    /// Over the keys, `[batch, heads, tokens, 1]`.
    sums: LogSumExp<4>,
    /// Queries and keys, `[batch, heads, tokens, head_width]`.
    features: [Tensor<4>; 2],
}

/// The energy at one place and the way down from there.
struct Place {
    /// `[batch · tokens, width]`
    down: Tensor<2>,
    /// Over the keys, `[batch, heads, tokens, 1]`.
    attention: LogSumExp<4>,
    memory: Excited,
}

/// `largest + ln(sum)`, and only added up where the energy is asked for.
struct LogSumExp<const D: usize> {
    largest: Tensor<D>,
    sum: Tensor<D>,
}

#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack, for one iteration")]
enum Excited {
    /// `[batch · tokens, memories]`
    Relu(Tensor<2>),
    /// Over the memories, `[batch · tokens, 1]`.
    Softmax(LogSumExp<2>),
}

impl<'a> Slope<'a> {
    fn new(
        block: &'a EnergyBlock,
        shape: [usize; 3],
        real: Option<Tensor<2>>,
        step_size: f64,
        tokens: &Tensor<3>,
    ) -> Self {
        let (attention, memory) = (&block.attention, &block.memory);
        let [heads] = attention.beta.dims();
        let [_, inner] = attention.queries.dims();
        let back = |weights: Tensor<2>| weights.transpose() * step_size;
        let wide = attention.beta.val().dtype();
        let products = block.products.of_products(wide);
        let [queries, keys, patterns] = [&attention.queries, &attention.keys, &memory.patterns].map(Param::val);
        let excite = patterns.clone() * memory.beta.val().unsqueeze();
        let from_memories = match memory.kind {
            Memory::Relu => back(excite.clone()),
            Memory::Softmax => back(patterns),
        };
        let [_, count, _] = shape;
        let pair = (products == wide && can_draw(tokens, count)).then(|| {
            let weights = Tensor::cat(vec![queries.clone(), keys.clone()], 1);
            let real = real.as_ref().map_or_else(Vec::new, |real| real.clone().into_data().iter::<f32>().collect());
            Pair { back: back(weights.clone()), weights, real: real.into() }
        });
        Self {
            block,
            shape,
            heads,
            sharpness: attention.beta.val().reshape([heads, 1]).repeat_dim(1, inner / heads).reshape([1, inner]),
            excite,
            pair,
            from_queries: back(queries.clone()),
            from_keys: back(keys.clone()),
            queries,
            keys,
            wide,
            products,
            from_memories,
            padding: real.map(|real| Padding::new(real.cast(tokens.dtype()))),
        }
    }

    /// The way down from normalised tokens, `[batch · tokens, width]`.
    fn down(&self, tokens: Tensor<2>) -> Tensor<2> {
        let Some(pair) = &self.pair else { return self.at(tokens).down };
        let by_attention = self.attend_at_once(&tokens, pair);
        let (by_memory, _) = self.remember(tokens);
        self.only_real(by_attention + by_memory)
    }

    /// As [`Self::attend`], without what the energy needs.
    fn attend_at_once(&self, tokens: &Tensor<2>, pair: &Pair) -> Tensor<2> {
        let [batch, count, _] = self.shape;
        let features = tokens.clone().matmul(pair.weights.clone());
        let [_, inner] = features.dims();
        let drawn = draw(features.reshape([batch, count, inner]), self.block.attention.beta.val(), &pair.real);
        drawn.reshape([batch * count, inner]).matmul(pair.back.clone())
    }

    fn product<const D: usize>(&self, left: Tensor<D>, right: Tensor<D>) -> Tensor<D> {
        left.cast(self.products).matmul(right.cast(self.products)).cast(self.wide)
    }

    fn only_real(&self, down: Tensor<2>) -> Tensor<2> {
        match &self.padding {
            Some(padding) => down * padding.rows.clone(),
            None => down,
        }
    }

    fn at(&self, tokens: Tensor<2>) -> Place {
        self.place(self.weights(tokens.clone()), tokens)
    }

    fn place(&self, scored: Scored, tokens: Tensor<2>) -> Place {
        let (by_attention, attention) = self.attend(scored);
        let (by_memory, memory) = self.remember(tokens);
        Place { down: self.only_real(by_attention + by_memory), attention, memory }
    }

    /// Tokens go where the keys are that their queries find, and where the queries are that find their keys.
    ///
    /// Dividing the queries and the result by the sums, instead of the weights, spares passes over the largest tensor.
    fn attend(&self, scored: Scored) -> (Tensor<2>, LogSumExp<4>) {
        let Scored { weights, sums, features: [queries, keys] } = scored;
        let found = self.product(weights.clone(), keys) / sums.sum.clone();
        let finders = queries / sums.sum.clone();
        let finders = match &self.padding {
            Some(padding) => finders * padding.queries.clone(),
            None => finders,
        };
        let finders = self.product(weights.transpose(), finders);

        let by_query = self.product(self.joined(found), self.from_queries.clone());
        (by_query + self.product(self.joined(finders), self.from_keys.clone()), sums)
    }

    fn weights(&self, tokens: Tensor<2>) -> Scored {
        let queries = self.product(tokens.clone(), self.queries.clone());
        let sharp = self.by_head(queries.clone() * self.sharpness.clone());
        let (queries, keys) = (self.by_head(queries), self.by_head(self.product(tokens, self.keys.clone())));
        let scores = self.product(sharp, keys.clone().transpose());
        let scores = match &self.padding {
            Some(padding) => scores + padding.hidden_keys.clone(),
            None => scores,
        };
        let (weights, sums) = exponentials(scores);
        Scored { weights, sums, features: [queries, keys] }
    }

    /// Tokens go where the memories are that they excite.
    fn remember(&self, tokens: Tensor<2>) -> (Tensor<2>, Excited) {
        let excited = self.product(tokens, self.excite.clone());
        match self.block.memory.kind {
            Memory::Relu => {
                let excited = relu(excited);
                (self.product(excited.clone(), self.from_memories.clone()), Excited::Relu(excited))
            }
            Memory::Softmax => {
                let (weights, sums) = exponentials(excited);
                (self.product(weights, self.from_memories.clone()) / sums.sum.clone(), Excited::Softmax(sums))
            }
        }
    }

    /// Energy of each sample, `[batch, 1]`, without gradients.
    fn energy(&self, place: &Place) -> Tensor<2> {
        let [batch, tokens, _] = self.shape;
        let beta = self.block.attention.beta.val().detach().reshape([1, self.heads, 1]);
        let answered = place.attention.value().reshape([batch, self.heads, tokens]) / beta;
        let answered = answered.sum_dim(1).reshape([batch, tokens]);
        let remembered = match &place.memory {
            Excited::Relu(excited) => excited.clone().detach().square().sum_dim(1) * 0.5,
            Excited::Softmax(sums) => sums.value() / self.block.memory.beta.val().detach().unsqueeze(),
        };
        let lowered = answered + remembered.reshape([batch, tokens]);
        let lowered = match &self.padding {
            Some(padding) => lowered * padding.real.clone(),
            None => lowered,
        };
        -lowered.sum_dim(1)
    }

    /// Real tokens of each sample: `[batch, 1]`, or `[1, 1]` when all have as many.
    fn real_tokens(&self) -> Tensor<2> {
        match &self.padding {
            Some(padding) => padding.real.clone().sum_dim(1),
            None => {
                let [_, tokens, _] = self.shape;
                let device = self.sharpness.device();
                Tensor::full([1, 1], tokens as f64, (&device, self.sharpness.dtype()))
            }
        }
    }

    /// `[batch · tokens, heads · head_width]` to `[batch, heads, tokens, head_width]`.
    fn by_head(&self, features: Tensor<2>) -> Tensor<4> {
        let [batch, tokens, _] = self.shape;
        let [_, inner] = features.dims();
        features.reshape([batch, tokens, self.heads, inner / self.heads]).swap_dims(1, 2)
    }

    fn joined(&self, features: Tensor<4>) -> Tensor<2> {
        let [batch, heads, tokens, head_width] = features.dims();
        features.swap_dims(1, 2).reshape([batch * tokens, heads * head_width])
    }
}

impl Padding {
    fn new(real: Tensor<2>) -> Self {
        let [batch, tokens] = real.dims();
        Self {
            rows: real.clone().reshape([batch * tokens, 1]),
            queries: real.clone().reshape([batch, 1, tokens, 1]),
            hidden_keys: (real.clone().neg() + 1.0).reshape([batch, 1, 1, tokens]) * HIDDEN,
            real,
        }
    }
}

impl<const D: usize> LogSumExp<D> {
    fn value(&self) -> Tensor<D> {
        self.largest.clone() + self.sum.clone().detach().log()
    }
}

/// Exponentials along the last axis, less the largest score, and what they add up to.
fn exponentials<const D: usize>(scores: Tensor<D>) -> (Tensor<D>, LogSumExp<D>) {
    let largest = scores.clone().detach().max_dim(D - 1);
    let weights = exponential(scores - largest.clone());
    let sum = weights.clone().sum_dim(D - 1);
    (weights, LogSumExp { largest, sum })
}

fn flat(tokens: Tensor<3>) -> Tensor<2> {
    let [batch, count, width] = tokens.dims();
    tokens.reshape([batch * count, width])
}
