//! A view's features to those of the other view: predictors that are told the saccade between them, a reader that
//! tells the saccade from both, and the projector into the space in which an objective works.
//!
//! Features are one vector per view, `[batch, features]`. The predictors add a change to the features they are given:
//! at first they say that the views are alike, so that the encoder hears a plain loss from the first step on.

use std::f64::consts::PI;
use std::ops::Range;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::attention::{Block, block_parameters, layer_norm};
use super::fused::{LayerNorm, gelu};
use super::init::WeightInit;
use super::precision::through;
use crate::pipeline::saccade::Saccade;

/// Frequencies of the rotation and of each shift (NeRF's encoding of directions and places, turned about: rotations
/// are small, and need the finer waves).
const ROTATION_WAVES: usize = 10;
const SHIFT_WAVES: usize = 4;

/// Numbers that a predictor is told about a saccade: sines and cosines of a rotation and two shifts.
pub const WAY: usize = 2 * ROTATION_WAVES + 4 * SHIFT_WAVES;

/// Radians beyond which two rotations are told alike: all waves repeat after 2.
pub const MOST_ANGLE: f64 = 1.0;

/// Deviation of the way's weights at first. With the 0.02 of all other weights the way's summand would have a deviation
/// of 0.05 beside features of about 1, and would hardly be heard.
const WAY_DEVIATION: f64 = 0.16;

/// The most that a predictor's shape may ask for; beyond it a number is surely a slip.
const MOST_WIDTH: usize = 1 << 16;
const MOST_LAYERS: usize = 1024;

/// Why a shape cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error("{key} = {value}: must lie in 1..={most}")]
    Range { key: &'static str, value: usize, most: usize },
    #[error("{key} = {value}: must divide {what} = {whole}")]
    Divides { key: &'static str, value: usize, what: &'static str, whole: usize },
}

fn within(key: &'static str, value: usize, most: usize) -> Result<(), ShapeError> {
    if (1..=most).contains(&value) { Ok(()) } else { Err(ShapeError::Range { key, value, most }) }
}

fn divides(key: &'static str, value: usize, what: &'static str, whole: usize) -> Result<(), ShapeError> {
    within(key, value, MOST_WIDTH)?;
    if whole.is_multiple_of(value) { Ok(()) } else { Err(ShapeError::Divides { key, value, what, whole }) }
}

/// Sines and cosines of π·2^k times the rotation in radians (k < 10) and each shift in halves of the field's side
/// (k < 4): first the rotation's sines, its cosines, then the same of the shift to the right and of the shift down.
///
/// # Shapes
/// - output: `[batch, WAY]`
pub fn embedding(ways: &[Saccade], device: &Device) -> Tensor<2> {
    let mut numbers = Vec::with_capacity(ways.len() * WAY);
    for way in ways {
        let [right, down] = way.shift;
        for (value, count) in [(way.angle, ROTATION_WAVES), (right, SHIFT_WAVES), (down, SHIFT_WAVES)] {
            let wave = |k: usize| PI * (1u64 << k) as f64 * f64::from(value);
            numbers.extend((0..count).map(|k| wave(k).sin() as f32));
            numbers.extend((0..count).map(|k| wave(k).cos() as f32));
        }
    }
    Tensor::from_data(TensorData::new(numbers, [ways.len(), WAY]), device)
}

/// What a batch's predictor is told: the saccades there, and those back, each embedded for itself, since negated
/// cosines are no saccade's.
#[derive(Clone, Debug)]
pub struct Ways {
    /// `[batch, WAY]`
    pub there: Tensor<2>,
    /// `[batch, WAY]`
    pub back: Tensor<2>,
}

impl Ways {
    /// `ways` lead from each sample's first view to its second.
    pub fn new(ways: &[Saccade], device: &Device) -> Self {
        let back: Vec<Saccade> = ways.iter().map(Saccade::inverse).collect();
        Self { there: embedding(ways, device), back: embedding(&back, device) }
    }

    /// The ways of some of the samples, for a micro-batch.
    pub fn samples(&self, range: &Range<usize>) -> Self {
        let some = |numbers: &Tensor<2>| numbers.clone().narrow(0, range.start, range.len());
        Self { there: some(&self.there), back: some(&self.back) }
    }

    /// The same ways where operations are recorded for the backward pass.
    pub fn autodiff(&self) -> Self {
        Self { there: self.there.clone().autodiff(), back: self.back.clone().autodiff() }
    }
}

/// What a reader counts saccades in: the greatest rotation and shift are 1, so that each is worth the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SaccadeUnit {
    angle: f64,
    shift: f64,
}

impl SaccadeUnit {
    /// The greatest rotation in radians and the greatest shift in halves of the field's side; where one is 0, every
    /// saccade's is, and any unit will do.
    pub fn new(angle: f64, shift: f64) -> Self {
        let unit = |most: f64| if most > 0.0 { most } else { 1.0 };
        Self { angle: unit(angle), shift: unit(shift) }
    }

    /// # Shapes
    /// - output: `[batch, 3]`: rotation, shift to the right, shift down
    pub fn of(&self, ways: &[Saccade], device: &Device) -> Tensor<2> {
        let row = |way: &Saccade| {
            let [right, down] = way.shift.map(|part| (f64::from(part) / self.shift) as f32);
            [(f64::from(way.angle) / self.angle) as f32, right, down]
        };
        let numbers: Vec<f32> = ways.iter().flat_map(row).collect();
        Tensor::from_data(TensorData::new(numbers, [ways.len(), 3]), device)
    }
}

/// Layers one after the other, each with weights of its own, with LayerNorm and exact GELU between them.
///
/// Weights of deviation 0.02 shrink what passes through; the norms set it right, so that gradients reach the first
/// layer. A norm over the features of a sample knows nothing of the batch: a micro-batch computes what the batch would.
#[derive(Module, Debug)]
pub struct Layers {
    pub hidden: Vec<HiddenLayer>,
    pub last: Linear,
}

#[derive(Module, Debug)]
pub struct HiddenLayer {
    pub linear: Linear,
    pub norm: LayerNorm,
}

/// Widths from the inputs over `layers - 1` hidden layers to the outputs.
#[derive(Clone, Copy)]
struct Widths {
    inputs: usize,
    hidden: usize,
    layers: usize,
    outputs: usize,
}

impl Widths {
    fn parameters(&self) -> usize {
        let Self { inputs, hidden, layers, outputs } = *self;
        if layers <= 1 {
            return (inputs + 1) * outputs;
        }
        let first = (inputs + 1) * hidden + 2 * hidden;
        let others = (layers - 2) * ((hidden + 1) * hidden + 2 * hidden);
        first + others + (hidden + 1) * outputs
    }

    fn init(&self, init: &mut WeightInit, device: &Device) -> Layers {
        let Self { inputs, hidden, layers, outputs } = *self;
        let mut width = inputs;
        let mut hidden_layer = || {
            let linear = init.linear(std::mem::replace(&mut width, hidden), hidden, device);
            HiddenLayer { linear, norm: layer_norm(hidden, device) }
        };
        let before = (1..layers).map(|_| hidden_layer()).collect();
        Layers { hidden: before, last: init.linear(width, outputs, device) }
    }
}

impl Layers {
    /// # Shapes
    /// - `features`: `[batch, inputs]`
    /// - output: `[batch, outputs]`
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        let through = |features, layer: &HiddenLayer| gelu(layer.norm.forward(layer.linear.forward(features)));
        self.last.forward(self.hidden.iter().fold(features, through))
    }
}

/// What a predictor of the other view's features is built from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ShiftPredictorConfig {
    Mlp {
        /// Width of each hidden layer.
        hidden: usize,
        /// Layers with weights, the last one included.
        layers: usize,
    },
    /// A transformer over the features, cut into as many tokens.
    Transformer {
        /// Divides the number of features.
        tokens: usize,
        /// What each token is widened to; the MLP's hidden layer is four times as wide.
        width: usize,
        depth: usize,
        heads: usize,
    },
}

impl ShiftPredictorConfig {
    /// # Errors
    /// When no predictor of so many features can have this shape.
    pub fn check(&self, features: usize) -> Result<(), ShapeError> {
        match *self {
            Self::Mlp { hidden, layers } => {
                within("predictor.hidden", hidden, MOST_WIDTH)?;
                within("predictor.layers", layers, MOST_LAYERS)
            }
            Self::Transformer { tokens, width, depth, heads } => {
                divides("predictor.tokens", tokens, "the encoder's features", features)?;
                within("predictor.width", width, MOST_WIDTH)?;
                within("predictor.depth", depth, MOST_LAYERS)?;
                divides("predictor.heads", heads, "predictor.width", width)
            }
        }
    }

    /// Numbers in the predictor of so many features.
    pub fn parameters(&self, features: usize) -> u64 {
        let way = (WAY + 1) * features;
        let change = match *self {
            Self::Mlp { hidden, layers } => Widths { inputs: features, hidden, layers, outputs: features }.parameters(),
            Self::Transformer { tokens, width, depth, .. } => {
                let piece = features / tokens;
                let ends = (piece + 1) * width + (width + 1) * piece;
                ends + tokens * width + depth * block_parameters(width, 4 * width) + 2 * width
            }
        };
        (way + change) as u64
    }

    /// For features that [`Self::check`] admits.
    pub fn init(&self, features: usize, init: &mut WeightInit, device: &Device) -> ShiftPredictor {
        let bias = Some(Param::from_tensor(Tensor::zeros([features], device)));
        let way = Linear { weight: init.matrix(WAY_DEVIATION, [WAY, features], device), bias };
        let change = match *self {
            Self::Mlp { hidden, layers } => {
                Change::Mlp(Widths { inputs: features, hidden, layers, outputs: features }.init(init, device))
            }
            Self::Transformer { tokens, width, depth, heads } => {
                let piece = features / tokens;
                Change::Transformer(TokenTransformer {
                    embed: init.linear(piece, width, device),
                    positions: init.normal([tokens, width], device),
                    blocks: (0..depth).map(|_| Block::new(width, heads, 4 * width, init, device)).collect(),
                    norm: layer_norm(width, device),
                    projection: init.linear(width, piece, device),
                })
            }
        };
        ShiftPredictor { way, change }
    }
}

/// Predicts the other view's features from one view's and the saccade between them.
#[derive(Module, Debug)]
pub struct ShiftPredictor {
    pub way: Linear,
    pub change: Change,
}

/// What computes the change from features that were told the way.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a model holds one of them, and burn's modules cannot be boxed")]
pub enum Change {
    Mlp(Layers),
    Transformer(TokenTransformer),
}

impl ShiftPredictor {
    /// # Shapes
    /// - `features`: `[batch, features]`
    /// - `way`: `[batch, WAY]`, which leads from the view that the features are of to the one they are predicted for
    /// - output: `[batch, features]`
    pub fn forward(&self, features: Tensor<2>, way: Tensor<2>) -> Tensor<2> {
        let told = features.clone() + self.way.forward(gelu(way));
        let change = match &self.change {
            Change::Mlp(layers) => layers.forward(told),
            Change::Transformer(transformer) => transformer.forward(told),
        };
        features + change
    }
}

/// A transformer over a feature vector that is cut into tokens.
#[derive(Module, Debug)]
pub struct TokenTransformer {
    pub embed: Linear,
    /// `[tokens, width]`, learned: the tokens of a feature vector have no places of their own.
    pub positions: Param<Tensor<2>>,
    pub blocks: Vec<Block>,
    pub norm: LayerNorm,
    pub projection: Linear,
}

impl TokenTransformer {
    /// # Shapes
    /// - `features`, output: `[batch, features]`
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        let [batch, width] = features.dims();
        let [tokens, _] = self.positions.dims();
        let pieces = features.reshape([batch, tokens, width / tokens]);
        let known = through(&self.embed, pieces) + self.positions.val().unsqueeze();
        let known = self.blocks.iter().fold(known, |known, block| block.forward(known, None));
        through(&self.projection, self.norm.forward(known)).reshape([batch, width])
    }
}

/// What a projector is built from: the objective then works on its outputs and not on the encoder's features, which
/// may keep what the objective throws away (VICReg, section 4, calls it the expander).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Width of each hidden layer.
    pub hidden: usize,
    /// Layers with weights, the last one included.
    pub layers: usize,
    /// Features that the objective sees.
    pub width: usize,
}

impl ProjectorConfig {
    /// # Errors
    /// When no projector can have this shape.
    pub fn check(&self) -> Result<(), ShapeError> {
        within("projector.hidden", self.hidden, MOST_WIDTH)?;
        within("projector.layers", self.layers, MOST_LAYERS)?;
        within("projector.width", self.width, MOST_WIDTH)
    }

    /// Numbers in the projector of so many features.
    pub fn parameters(&self, features: usize) -> u64 {
        self.widths(features).parameters() as u64
    }

    pub fn init(&self, features: usize, init: &mut WeightInit, device: &Device) -> Projector {
        Projector { layers: self.widths(features).init(init, device) }
    }

    fn widths(&self, features: usize) -> Widths {
        Widths { inputs: features, hidden: self.hidden, layers: self.layers, outputs: self.width }
    }
}

/// Takes the encoder's pooled features into the space in which the objective works.
#[derive(Module, Debug)]
pub struct Projector {
    pub layers: Layers,
}

impl Projector {
    /// # Shapes
    /// - `features`: `[batch, features]`
    /// - output: `[batch, width]`
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.layers.forward(features)
    }
}

/// What a reader of saccades is built from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftReaderConfig {
    /// Width of each hidden layer.
    pub hidden: usize,
    /// Layers with weights, the last one included.
    pub layers: usize,
}

impl ShiftReaderConfig {
    /// # Errors
    /// When no reader can have this shape.
    pub fn check(&self) -> Result<(), ShapeError> {
        within("reader.hidden", self.hidden, MOST_WIDTH)?;
        within("reader.layers", self.layers, MOST_LAYERS)
    }

    /// Numbers in the reader of so many features of each view.
    pub fn parameters(&self, features: usize) -> u64 {
        self.widths(features).parameters() as u64
    }

    pub fn init(&self, features: usize, init: &mut WeightInit, device: &Device) -> ShiftReader {
        ShiftReader { layers: self.widths(features).init(init, device) }
    }

    fn widths(&self, features: usize) -> Widths {
        Widths { inputs: 2 * features, hidden: self.hidden, layers: self.layers, outputs: 3 }
    }
}

/// Tells the saccade between two views from their features.
#[derive(Module, Debug)]
pub struct ShiftReader {
    pub layers: Layers,
}

impl ShiftReader {
    /// # Shapes
    /// - `first`, `second`: `[batch, features]`
    /// - output: `[batch, 3]`, the saccade from the first to the second as [`SaccadeUnit::of`] counts it
    pub fn forward(&self, first: Tensor<2>, second: Tensor<2>) -> Tensor<2> {
        self.layers.forward(Tensor::cat(vec![first, second], 1))
    }
}
