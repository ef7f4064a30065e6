//! What a pass on the record keeps in memory for the way back, counted from what a model is built from.
//!
//! Counted are the numbers that grow with a batch, layer by layer, as the forward passes of this folder record them; a
//! change there is one here; a test compares what the CPU allocates. A layer keeps what it multiplies its weights
//! with, a norm its rows, GELU its numbers, attention its queries, keys and values.

use super::convnext::{ConvNextConfig, EXPANSION, REDUCTION};
use super::energy::{EnergyBlockConfig, Memory};
use super::fused::MOST_TOKENS;
use super::fused::elsewhere::WEIGHT_BYTES;
use super::kinds::{EncoderConfig, PatchPredictorConfig};
use super::precision::Precision;
use super::predictor::PredictorConfig;
use super::vit::VitConfig;

/// Bytes of a number outside of products, and of one that a product is made of.
const WIDE: usize = 4;
const NARROW: usize = 2;

/// How passes are made.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub precision: Precision,
    /// Whether blocks keep nothing but what comes in.
    pub recompute: bool,
    /// Whether it is the CPU that computes, which has operations of its own in 32 bits.
    pub on_cpu: bool,
}

/// Blocks of a transformer.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    pub width: usize,
    pub hidden: usize,
    pub heads: usize,
    pub depth: usize,
}

/// Bytes of a pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// Until the way back comes by.
    pub kept: usize,
    /// The most at any time of the way back, which begins with all that is kept.
    pub most: usize,
}

impl Pass {
    /// One pass after the other, which is gone back through first.
    pub fn then(self, other: Self) -> Self {
        Self { kept: self.kept + other.kept, most: self.most.max(self.kept + other.most) }
    }

    /// What is kept, and what is in use beside it on the way back.
    pub fn new(kept: usize, beside: usize) -> Self {
        Self { kept, most: kept + beside }
    }

    fn kept(bytes: usize) -> Self {
        Self::new(bytes, 0)
    }
}

impl Form {
    /// Bytes of a number that a product is made of.
    fn narrow(&self) -> usize {
        if self.precision == Precision::Bf16 { NARROW } else { WIDE }
    }

    /// Whether attention over so many tokens is one operation.
    fn in_one_pass(&self, tokens: usize) -> bool {
        self.on_cpu && self.precision == Precision::F32 && tokens <= MOST_TOKENS
    }

    /// So many times a block that keeps `each` bytes, of which `inputs` are what comes in.
    fn blocks(&self, count: usize, inputs: usize, each: usize, beside: usize) -> Pass {
        if self.recompute { Pass::new(count * inputs, each + beside) } else { Pass::new(count * each, beside) }
    }

    /// Blocks of attention and an MLP over sequences of so many tokens.
    pub fn transformer(&self, [sequences, each]: [usize; 2], blocks: Blocks) -> Pass {
        let Blocks { width, hidden, heads, depth } = blocks;
        let tokens = sequences * each;
        // Inputs of both norms; then of the layer before attention, queries, keys and values, what they give joined,
        // the second norm's output, and what comes into GELU and out of it.
        let attended = if self.in_one_pass(each) { 4 * width } else { 5 * width };
        let kept = tokens * (2 * width * WIDE + (2 * width + attended + 2 * hidden) * self.narrow());
        // Off the CPU's one pass the weights of some queries are in memory on the way back, and what comes of them.
        let weights = (tokens * each * heads * WIDE).min(WEIGHT_BYTES);
        let weights = if self.in_one_pass(each) { 0 } else { 3 * weights };
        self.blocks(depth, tokens * width * WIDE, kept, (tokens * (width + 2 * hidden) * WIDE).max(weights))
    }

    /// Iterations down the energy, of sequences of so many tokens.
    fn energy(&self, sequences: usize, tokens: usize, block: &EnergyBlockConfig) -> Pass {
        let (inner, all) = (block.heads * block.head_width, sequences * tokens);
        let copies = if self.precision == Precision::Bf16 { NARROW } else { 0 };
        let remembered = match block.memory {
            // Before and after what is below 0 is cut off.
            Memory::Relu => block.memories * (WIDE + self.narrow()),
            // The exponentials, and what comes of them before it is divided by their sum.
            Memory::Softmax => block.memories * (WIDE + copies) + block.width * WIDE,
        };
        let scores = if self.in_one_pass(tokens) { 0 } else { sequences * block.heads * tokens * tokens };
        let each = if self.in_one_pass(tokens) {
            // Queries and keys, and where they are drawn.
            all * (2 * block.width * WIDE + 4 * inner * WIDE + remembered)
        } else {
            // Queries and keys as they are, sharpened, found and finding, each before and after its division.
            all * (block.width * (WIDE + self.narrow()) + inner * (4 * WIDE + 5 * self.narrow()) + remembered)
                + scores * (WIDE + copies)
        };
        // A sum over the memories has a way back of its own.
        let excited = if block.memory == Memory::Softmax { 3 } else { 2 };
        let beside = (all * (block.width + 2 * inner + excited * block.memories) + 3 * scores) * WIDE;
        self.blocks(block.iterations, all * block.width * WIDE, each, beside)
    }

    /// So many tokens of each sample are encoded; a ConvNeXt encodes all of it.
    pub fn encoder(&self, encoder: &EncoderConfig, samples: usize, tokens: usize) -> Pass {
        let all = samples * tokens;
        let ends = |patch: usize, width: usize| Pass::kept(all * (3 * patch * patch * self.narrow() + width * WIDE));
        match encoder {
            EncoderConfig::Vit(VitConfig { patch, width, depth, heads, hidden, .. }) => {
                let blocks = Blocks { width: *width, hidden: *hidden, heads: *heads, depth: *depth };
                ends(*patch, *width).then(self.transformer([samples, tokens], blocks))
            }
            EncoderConfig::Energy(energy) => {
                ends(energy.patch, energy.width).then(self.energy(samples, tokens, &energy.block()))
            }
            EncoderConfig::ConvNext(convnext) => self.convnext(convnext, samples),
        }
    }

    fn convnext(&self, convnext: &ConvNextConfig, samples: usize) -> Pass {
        let mut side = convnext.image / convnext.stem;
        let mut before: Option<(usize, usize)> = None;
        let mut all = Pass::default();
        for (depth, width) in convnext.stages() {
            let reduction = before.map_or(0, |(places, width)| places * width * (WIDE + self.narrow()));
            side = if before.is_some() { side / REDUCTION } else { side };
            let places = samples * side * side;
            let stem = if before.is_none() {
                places * (3 * convnext.stem * convnext.stem * self.narrow() + width * WIDE)
            } else {
                0
            };
            let hidden = EXPANSION * width;
            // The map, the norm's rows and the MLP's output before its scale; the layers' inputs and GELU's.
            let each = places * (3 * width * WIDE + (width + 2 * hidden) * self.narrow());
            let beside = places * (width + 2 * hidden) * WIDE;
            all = all.then(Pass::kept(stem + reduction));
            all = all.then(self.blocks(depth, places * width * WIDE, each, beside));
            before = Some((places, width));
        }
        all
    }

    /// `features` of the encoder; of each sequence `context` tokens are known and `target` asked for.
    pub fn predictor(
        &self,
        predictor: &PatchPredictorConfig,
        features: usize,
        [samples, sequences]: [usize; 2],
        [context, target]: [usize; 2],
    ) -> Pass {
        let (each, asked) = (context + target, sequences * target);
        let (width, walked) = match predictor {
            PatchPredictorConfig::Vit(PredictorConfig { width, depth, heads, hidden }) => {
                let blocks = Blocks { width: *width, hidden: *hidden, heads: *heads, depth: *depth };
                (*width, self.transformer([sequences, each], blocks))
            }
            PatchPredictorConfig::Energy(energy) => (energy.width, self.energy(sequences, each, &energy.block())),
        };
        let ends = samples * context * features * self.narrow() + asked * width * (WIDE + self.narrow());
        Pass::kept(ends).then(walked)
    }
}
