//! Images to patches, and the choice of some patches of each sample.

use std::ops::Range;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// How tokens are looked up; the same numbers either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Selects rows of the flattened `[batch · patches, width]`: the fast way on the CPU.
    Rows,
    /// Gathers along the patches: the fast way on a GPU, whose backward pass of a selection runs one thread per feature.
    Gather,
}

/// Which patches of each sample take part: patch numbers, row by row of the grid.
#[derive(Clone, Debug)]
pub struct Choice {
    indices: Tensor<2, Int>,
    real: Option<Tensor<2>>,
    lookup: Lookup,
}

impl Choice {
    /// Nothing counts as padding when all places are real.
    ///
    /// # Shapes
    /// - `indices`: `[batch, width]`, row by row, each below the number of patches
    /// - `real`: `[batch, width]`, false at padding
    pub fn new(indices: &[u32], real: &[bool], width: usize, lookup: Lookup, device: &Device) -> Self {
        let shape = [indices.len() / width.max(1), width];
        let numbers: Vec<i32> = indices.iter().map(|&index| index as i32).collect();
        let flags = || real.iter().map(|&real| if real { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        let real = real.contains(&false).then(|| Tensor::from_data(TensorData::new(flags(), shape), device));
        Self { indices: Tensor::from_data(TensorData::new(numbers, shape), device), real, lookup }
    }

    pub fn dims(&self) -> [usize; 2] {
        self.indices.dims()
    }

    /// 1 at real places and 0 at padding, `[batch, width]`; `None` when every place is real.
    pub fn real(&self) -> Option<Tensor<2>> {
        self.real.clone()
    }

    /// The choice of some of the samples, for a micro-batch.
    pub fn samples(&self, range: &Range<usize>) -> Self {
        let (first, count) = (range.start, range.len());
        Self {
            indices: self.indices.clone().narrow(0, first, count),
            real: self.real.clone().map(|real| real.narrow(0, first, count)),
            lookup: self.lookup,
        }
    }

    /// One sequence per target block: `[batch, blocks · target]` becomes `[blocks · batch, target]`, block by block.
    pub fn by_block(&self, blocks: usize) -> Self {
        let [batch, all] = self.dims();
        let split = [batch, blocks, all / blocks];
        let sequences = [blocks * batch, all / blocks];
        Self {
            indices: self.indices.clone().reshape(split).swap_dims(0, 1).reshape(sequences),
            real: self.real.clone().map(|real| real.reshape(split).swap_dims(0, 1).reshape(sequences)),
            lookup: self.lookup,
        }
    }

    /// The same choice on another device.
    pub fn on(&self, device: &Device) -> Self {
        Self {
            indices: self.indices.clone().to_device(device),
            real: self.real.clone().map(|real| real.to_device(device)),
            lookup: self.lookup,
        }
    }

    /// The same choice where operations are recorded for the backward pass.
    pub fn autodiff(&self) -> Self {
        Self {
            indices: self.indices.clone().autodiff(),
            real: self.real.clone().map(Tensor::autodiff),
            lookup: self.lookup,
        }
    }

    /// Takes the chosen tokens of each sample; padding takes patch 0.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, patches, width]`
    /// - output: `[batch, chosen, width]`
    pub fn take(&self, tokens: Tensor<3>) -> Tensor<3> {
        let [batch, patches, width] = tokens.dims();
        let [_, chosen] = self.dims();
        match self.lookup {
            Lookup::Rows => {
                let first =
                    Tensor::<1, Int>::arange(0..batch as i64, &self.indices.device()).mul_scalar(patches as i64);
                let rows = (self.indices.clone() + first.unsqueeze_dim(1)).reshape([batch * chosen]);
                tokens.reshape([batch * patches, width]).select(0, rows).reshape([batch, chosen, width])
            }
            Lookup::Gather => {
                let places = self.indices.clone().unsqueeze_dim::<3>(2).expand([batch, chosen, width]);
                tokens.gather(1, places)
            }
        }
    }

    /// Takes the rows of a table that all samples share, such as positions.
    ///
    /// # Shapes
    /// - `table`: `[patches, width]`
    /// - output: `[batch, chosen, width]`
    pub fn take_shared(&self, table: Tensor<2>) -> Tensor<3> {
        let [batch, chosen] = self.dims();
        let [patches, width] = table.dims();
        // Fixed tables have no way back.
        if self.lookup == Lookup::Gather && table.is_tracked() {
            return self.take(table.unsqueeze::<3>().expand([batch, patches, width]));
        }
        table.select(0, self.indices.clone().reshape([batch * chosen])).reshape([batch, chosen, width])
    }

    pub fn device(&self) -> Device {
        self.indices.device()
    }
}

/// Which of the keys attention must not see, `[batch, 1, 1, keys]`, true at padding.
pub fn hidden_keys(real: Tensor<2>) -> Tensor<4, Bool> {
    let [batch, keys] = real.dims();
    real.equal_scalar(0.0).reshape([batch, 1, 1, keys])
}

/// Cuts images into patches, row by row; within a patch the order is channel, row, column, as a convolution's weights have it.
///
/// # Shapes
/// - `images`: `[batch, channels, height, width]`
/// - output: `[batch, patches, channels · side · side]`
pub fn patches(images: Tensor<4>, side: usize) -> Tensor<3> {
    let [batch, channels, height, width] = images.dims();
    let (rows, columns) = (height / side, width / side);
    images.reshape([batch, channels, rows, side, columns, side]).permute([0, 2, 4, 1, 3, 5]).reshape([
        batch,
        rows * columns,
        channels * side * side,
    ])
}

/// Fixed positions of a square grid: sines and cosines of the column in the first half of the channels, of the row in
/// the second, each half `[sin, cos]` with frequencies `10000^(-i / (width / 4))` (MAE, and I-JEPA after it).
///
/// # Shapes
/// - output: `[grid · grid, width]`; `width` is a multiple of 4
pub fn positions(grid: usize, width: usize, device: &Device) -> Tensor<2> {
    let quarter = width / 4;
    let angle = |place: usize, i: usize| place as f64 / 10000f64.powf(i as f64 / quarter as f64);
    let mut table = Vec::with_capacity(grid * grid * width);
    for row in 0..grid {
        for column in 0..grid {
            for place in [column, row] {
                table.extend((0..quarter).map(|i| angle(place, i).sin() as f32));
                table.extend((0..quarter).map(|i| angle(place, i).cos() as f32));
            }
        }
    }
    Tensor::from_data(TensorData::new(table, [grid * grid, width]), device)
}
