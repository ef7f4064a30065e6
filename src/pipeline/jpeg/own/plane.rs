//! The samples of one component, as far as they are wanted.

use super::transform::{flat, inverse2, inverse4, inverse8};

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
    /// The transformed block goes to its place, which is counted in blocks; `last` coefficients are not zero.
    #[inline(always)]
    pub fn put(&mut self, block: &[i16; 64], last: usize, row: usize, column: usize) {
        let (side, stride) = (self.side, self.stride);
        let Some(into) = self.samples.get_mut((row * stride + column) * side..) else { return };
        match side {
            8 if last > 1 => inverse8(block, into, stride),
            4 if last > 1 => inverse4(block, into, stride),
            2 if last > 1 => inverse2(block, into, stride),
            _ => {
                for row in into.chunks_mut(stride).take(side) {
                    row[..side].fill(flat(block[0]));
                }
            }
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
