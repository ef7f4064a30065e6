//! The samples of one component, as far as they are wanted.

use super::picture::ZIGZAG;
use super::processor::{Processor, Square};
use super::transform::flat;

/// The coefficients of a block, row by row, and room for those that a damaged run puts past the end. Aligned so that no
/// vector crosses a cache line.
#[repr(align(64))]
pub struct Block([i16; 65]);

impl Default for Block {
    #[inline(always)]
    fn default() -> Self {
        Self([0; 65])
    }
}

impl Block {
    /// Puts the coefficient that comes at that place in a file.
    #[inline(always)]
    pub fn put(&mut self, at: usize, value: i16) {
        self.0[usize::from(ZIGZAG[at & 255])] = value;
    }

    #[inline(always)]
    pub fn set_first(&mut self, value: i16) {
        self.0[0] = value;
    }

    #[inline(always)]
    fn square(&self) -> &Square {
        let [square @ .., _] = &self.0;
        square
    }
}

/// A rectangle of one component's samples, and how it lies in the picture.
#[derive(Debug, Default)]
pub struct Plane {
    pub samples: Vec<u8>,
    pub stride: usize,
    /// Samples a side that a block becomes: 8, 4, 2 or 1.
    pub side: usize,
    /// Pixels that a sample covers.
    pub across: usize,
    pub down: usize,
    /// Samples of the whole picture.
    pub width: usize,
    pub height: usize,
    /// The first sample that is here.
    pub left: usize,
    pub top: usize,
}

impl Plane {
    /// Puts the transformed block into its place, which is counted in blocks; all after `count` coefficients are zero.
    #[inline(always)]
    pub fn put(
        &mut self,
        processor: impl Processor,
        block: &Block,
        count: usize,
        factors: &Square,
        row: usize,
        column: usize,
    ) {
        let (side, stride) = (self.side, self.stride);
        let Some(into) = self.samples.get_mut((row * stride + column) * side..) else { return };
        let (square, first) = (block.square(), flat(block.0[0].wrapping_mul(factors[0])));
        match side {
            8 if count > 1 => processor.inverse8(square, factors, into, stride),
            8 => fill::<8>(first, into, stride),
            4 if count > 1 => processor.inverse4(square, factors, into, stride),
            4 => fill::<4>(first, into, stride),
            2 if count > 1 => processor.inverse2(square, factors, into, stride),
            2 => fill::<2>(first, into, stride),
            _ => fill::<1>(first, into, stride),
        }
    }

    /// A row of the picture, as far as it is here, from the sample `left` on; the nearest one where it is outside.
    #[inline(always)]
    pub fn row(&self, y: isize, left: usize) -> &[u8] {
        let y = y.clamp(0, self.height as isize - 1) as usize;
        let start = y.saturating_sub(self.top) * self.stride;
        self.samples.get(start + left - self.left..start + self.stride).unwrap_or_default()
    }
}

#[inline(always)]
fn fill<const SIDE: usize>(sample: u8, into: &mut [u8], stride: usize) {
    for row in 0..SIDE {
        if let Some(into) = into.get_mut(row * stride..).and_then(|rest| rest.first_chunk_mut()) {
            *into = [sample; SIDE];
        }
    }
}
