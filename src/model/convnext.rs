//! The ConvNeXt encoder: images to one vector per place of the last feature map.
//!
//! Feature maps are kept with the channels last, so that norms and layers see rows of numbers.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::again::{self, Piece};
use super::attention::{Mlp, layer_norm};
use super::fused::{self, KERNEL, LayerNorm};
use super::init::WeightInit;
use super::patch::patches;
use super::precision::through;

/// The MLP's hidden layer is four times as wide (section 2.4).
pub const EXPANSION: usize = 4;
/// Between two stages the map's side is halved (section 2.6).
pub const REDUCTION: usize = 2;

/// The published sizes (Liu et al. 2022, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConvNextSize {
    Tiny,
    Small,
    Base,
}

/// What a ConvNeXt is built from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvNextConfig {
    /// Pixels a side of the square image.
    pub image: usize,
    /// Side and stride of the first convolution: 4 as published, 2 or 1 for pictures of some 32 pixels.
    pub stem: usize,
    /// Blocks of each stage; 0 after the last one where there are fewer than four.
    pub depths: [usize; 4],
    /// Channels of each stage; 0 after the last one.
    pub widths: [usize; 4],
    /// What each block's output is scaled by at first: 1e-6 as published.
    pub layer_scale: f64,
}

impl ConvNextConfig {
    /// Depths and widths of a published size, for images of `image` pixels a side.
    pub fn sized(size: ConvNextSize, image: usize) -> Self {
        let (depths, widths) = match size {
            ConvNextSize::Tiny => ([3, 3, 9, 3], [96, 192, 384, 768]),
            ConvNextSize::Small => ([3, 3, 27, 3], [96, 192, 384, 768]),
            ConvNextSize::Base => ([3, 3, 27, 3], [128, 256, 512, 1024]),
        };
        Self { image, stem: 4, depths, widths, layer_scale: 1e-6 }
    }

    /// Depth and width of each stage.
    pub fn stages(&self) -> impl Iterator<Item = (usize, usize)> {
        self.depths.into_iter().zip(self.widths).take_while(|&(_, width)| width > 0)
    }

    /// Width of the last stage, and so of the features.
    pub fn width(&self) -> usize {
        self.stages().last().map_or(0, |(_, width)| width)
    }

    /// Side of the last feature map. What a stride leaves over at the right and at the bottom is not seen, as in PyTorch.
    pub fn grid(&self) -> usize {
        let first = self.image.checked_div(self.stem).unwrap_or(0);
        self.stages().skip(1).fold(first, |side, _| side / REDUCTION)
    }

    /// Pixels a side that the last feature map stands for, from the upper left corner on.
    pub fn covered(&self) -> usize {
        self.stages().skip(1).fold(self.grid() * self.stem, |side, _| side * REDUCTION)
    }

    /// Says why no encoder can be built from this, if so.
    ///
    /// # Errors
    /// When there is no stage, one without blocks or after a missing one, or nothing left of the image at the end.
    pub fn check(&self) -> Result<(), String> {
        let stages = self.stages().count();
        if stages == 0 || self.stem == 0 {
            return Err("widths[0] and stem must be at least 1".into());
        }
        let (used, rest) = self.depths.split_at(stages);
        if used.contains(&0) || rest.iter().chain(&self.widths[stages..]).any(|&number| number > 0) {
            let (depths, widths) = (self.depths, self.widths);
            return Err(format!("depths {depths:?} and widths {widths:?} do not name the same stages"));
        }
        if self.grid() == 0 {
            let stride = self.stem.saturating_mul(REDUCTION.pow(stages as u32 - 1));
            return Err(format!("image of {} pixels: {stages} stages need at least {stride} a side", self.image));
        }
        Ok(())
    }

    /// Numbers in the encoder.
    pub fn parameters(&self) -> u64 {
        let mut inputs = 3 * self.stem * self.stem;
        let mut count = 2 * self.widths[0];
        for (stage, (depth, width)) in self.stages().enumerate() {
            if stage > 0 {
                count += 2 * inputs;
                inputs *= REDUCTION * REDUCTION;
            }
            count += (inputs + 1) * width + depth * block_parameters(width);
            inputs = width;
        }
        (count + 2 * self.width()) as u64
    }

    pub fn init(&self, init: &mut WeightInit, device: &Device) -> ConvNext {
        let [first, ..] = self.widths;
        let stem = init.linear(3 * self.stem * self.stem, first, device);
        let mut before = None;
        let stage = |(depth, width)| {
            let reduction = before.replace(width).map(|before| Reduction::new(before, width, init, device));
            let block = |_| ConvNextBlock::new(width, self.layer_scale, init, device);
            Stage { reduction, blocks: (0..depth).map(block).collect() }
        };
        ConvNext {
            stem,
            stem_norm: layer_norm(first, device),
            stages: self.stages().map(stage).collect(),
            norm: layer_norm(self.width(), device),
            stride: self.stem,
            recompute: false,
        }
    }
}

/// Numbers in one [`ConvNextBlock`].
fn block_parameters(width: usize) -> usize {
    let hidden = EXPANSION * width;
    let mlp = (width + 1) * hidden + (hidden + 1) * width;
    (KERNEL * KERNEL + 1) * width + mlp + 3 * width
}

/// Encodes whole images (Liu et al. 2022; without stochastic depth).
#[derive(Module, Debug)]
pub struct ConvNext {
    /// The first convolution; its kernels do not overlap, so that it is one layer over patches.
    pub stem: Linear,
    pub stem_norm: LayerNorm,
    pub stages: Vec<Stage>,
    pub norm: LayerNorm,
    pub stride: usize,
    /// Whether blocks keep nothing for the backward pass but what comes in.
    pub recompute: bool,
}

impl ConvNext {
    /// One vector per place of the last feature map, each through the last LayerNorm on its own.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - output: `[batch, grid · grid, width]`, row by row
    pub fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        self.norm.forward(self.feature_map(images))
    }

    /// One vector per image: the places' mean, and only then the last LayerNorm, as the published classifier sees it.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - output: `[batch, width]`
    pub fn pooled(&self, images: Tensor<4>) -> Tensor<2> {
        self.norm.forward(self.feature_map(images).mean_dim(1).squeeze_dim::<2>(1))
    }

    /// The last feature map before the last LayerNorm.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, side, side]`
    /// - output: `[batch, grid · grid, width]`, row by row
    pub fn feature_map(&self, images: Tensor<4>) -> Tensor<3> {
        let [batch, _, rows, columns] = images.dims();
        let [rows, columns] = [rows, columns].map(|side| side / self.stride);
        let images = images.narrow(2, 0, rows * self.stride).narrow(3, 0, columns * self.stride);
        let tokens = self.stem_norm.forward(through(&self.stem, patches(images, self.stride)));
        let [_, _, width] = tokens.dims();
        let map = tokens.reshape([batch, rows, columns, width]);
        self.stages.iter().fold(map, |map, stage| stage.forward(map, self.recompute)).flatten(1, 2)
    }
}

/// Blocks at one resolution, and the way down to it from the stage before.
#[derive(Module, Debug)]
pub struct Stage {
    pub reduction: Option<Reduction>,
    pub blocks: Vec<ConvNextBlock>,
}

impl Stage {
    /// # Shapes
    /// - `map`: `[batch, rows, columns, inputs]`
    /// - output: `[batch, rows, columns, width]`, with half the rows and columns where there is a reduction
    fn forward(&self, map: Tensor<4>, recompute: bool) -> Tensor<4> {
        let map = match &self.reduction {
            Some(reduction) => reduction.forward(map),
            None => map,
        };
        self.blocks.iter().fold(map, |map, block| again::pass(block, map, &(), recompute))
    }
}

/// Halves a map's side: LayerNorm, then a convolution of side and stride 2, which is one layer over squares of places.
#[derive(Module, Debug)]
pub struct Reduction {
    pub norm: LayerNorm,
    /// Its inputs are ordered by row, column, channel.
    pub projection: Linear,
}

impl Reduction {
    fn new(inputs: usize, outputs: usize, init: &mut WeightInit, device: &Device) -> Self {
        let projection = init.linear(REDUCTION * REDUCTION * inputs, outputs, device);
        Self { norm: layer_norm(inputs, device), projection }
    }

    fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        let [batch, rows, columns, width] = map.dims();
        let [rows, columns] = [rows, columns].map(|side| side / REDUCTION);
        let map = map.narrow(1, 0, rows * REDUCTION).narrow(2, 0, columns * REDUCTION);
        let squares = self
            .norm
            .forward(map)
            .reshape([batch, rows, REDUCTION, columns, REDUCTION, width])
            .swap_dims(2, 3)
            .reshape([batch, rows, columns, REDUCTION * REDUCTION * width]);
        let dtype = squares.dtype();
        through(&self.projection, squares).cast(dtype)
    }
}

/// One block: depthwise convolution, LayerNorm, MLP, scale, residual.
#[derive(Module, Debug)]
pub struct ConvNextBlock {
    pub depthwise: Depthwise,
    pub norm: LayerNorm,
    pub mlp: Mlp,
    /// `[width]`
    pub layer_scale: Param<Tensor<1>>,
}

impl ConvNextBlock {
    fn new(width: usize, layer_scale: f64, init: &mut WeightInit, device: &Device) -> Self {
        Self {
            depthwise: Depthwise::new(width, init, device),
            norm: layer_norm(width, device),
            mlp: Mlp::new(width, EXPANSION * width, init, device),
            layer_scale: Param::from_tensor(Tensor::full([width], layer_scale, device)),
        }
    }

    /// # Shapes
    /// - `map`, output: `[batch, rows, columns, width]`
    fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        let shape = map.dims();
        let tokens = self.norm.forward(self.depthwise.forward(map.clone()));
        let change = self.mlp.forward(tokens.flatten(1, 2)).cast(map.dtype()).reshape(shape);
        map + change * self.layer_scale.val().unsqueeze()
    }
}

/// A convolution, a norm, an MLP of two layers, and the layer's scale.
impl Piece<4, 10> for ConvNextBlock {
    type Beside = ();

    fn off_record((): ()) {}

    fn through(&self, map: Tensor<4>, (): &()) -> Tensor<4> {
        self.forward(map)
    }
}

/// A convolution of each channel with a kernel of its own, zeros around the map.
#[derive(Module, Debug)]
pub struct Depthwise {
    /// `[width, 1, 7, 7]`
    pub weight: Param<Tensor<4>>,
    pub bias: Param<Tensor<1>>,
}

impl Depthwise {
    fn new(width: usize, init: &mut WeightInit, device: &Device) -> Self {
        let bias = Param::from_tensor(Tensor::zeros([width], device));
        Self { weight: init.normal([width, 1, KERNEL, KERNEL], device), bias }
    }

    /// # Shapes
    /// - `map`, output: `[batch, rows, columns, width]`
    pub fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        let dtype = map.dtype();
        let map = map.cast(self.weight.val().dtype());
        let at_once = fused::depthwise(&map, self.weight.val(), self.bias.val());
        at_once.unwrap_or_else(|| self.by_convolution(map)).cast(dtype)
    }

    fn by_convolution(&self, map: Tensor<4>) -> Tensor<4> {
        let [_, _, _, width] = map.dims();
        let options = ConvOptions::new([1, 1], [KERNEL / 2; 2], [1, 1], width);
        let map = map.permute([0, 3, 1, 2]);
        conv2d(map, self.weight.val(), Some(self.bias.val()), options).permute([0, 2, 3, 1])
    }
}
