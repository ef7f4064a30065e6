//! The way for every processor, and for views that are much smaller than their crop.

use super::axis::Axis;
use super::{Cut, FRACTION_BITS, HALF, MIDDLE};

/// Bits behind the point of a weight.
const WEIGHT_BITS: u32 = 15;

/// Pixels of a row that are taken at once, so that an image can be as wide as it likes.
const SEGMENT: usize = 1024;

/// Rows that are used again.
#[derive(Debug, Default)]
pub struct Rows {
    sums: Vec<i32>,
    /// A segment of a row, blended down.
    segment: Vec<i16>,
    /// A row of the view.
    view: Vec<i32>,
}

#[inline(always)]
pub fn resample(cut: &Cut, across: &Axis, down: &Axis, rows: &mut Rows, view: &mut [u8]) {
    let size = across.starts.len();
    let Rows { sums, segment, view: row } = rows;
    for (number, pixels) in view.chunks_exact_mut(size * 3).enumerate() {
        row.clear();
        row.resize(size * 3, 0);
        for first in (0..cut.width).step_by(SEGMENT) {
            sums.clear();
            sums.resize(SEGMENT.min(cut.width - first) * 3, 0);
            if down.is_exact() {
                sum_down::<true>(cut, down, number, first, sums);
            } else {
                sum_down::<false>(cut, down, number, first, sums);
            }
            segment.clear();
            segment.extend(sums.iter().map(|sum| rounded(*sum, down.is_exact()) as i16 + HALF));
            if across.is_exact() {
                sum_across::<true>(across, first, segment.as_chunks().0, row.as_chunks_mut().0);
            } else {
                sum_across::<false>(across, first, segment.as_chunks().0, row.as_chunks_mut().0);
            }
        }
        for (value, sum) in pixels.iter_mut().zip(row.iter()) {
            *value = (rounded(*sum, across.is_exact()) >> FRACTION_BITS) as u8 ^ MIDDLE;
        }
    }
}

#[inline(always)]
fn product<const EXACT: bool>(value: i16, weight: i16) -> i32 {
    let product = i32::from(value) * i32::from(weight);
    rounded(product, !EXACT)
}

#[inline(always)]
fn rounded(number: i32, has_weight_bits: bool) -> i32 {
    if has_weight_bits { (number + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS } else { number }
}

#[inline(always)]
fn sum_down<const EXACT: bool>(cut: &Cut, down: &Axis, number: usize, first: usize, sums: &mut [i32]) {
    for tap in 0..down.taps {
        let weight = down.weights(tap)[number];
        let row = &cut.pixels[cut.place(first, down.starts[number] as usize + tap)..][..sums.len()];
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += product::<EXACT>(i16::from((*value ^ MIDDLE) as i8) << FRACTION_BITS, weight);
        }
    }
}

/// Adds the share of a segment, which begins at the pixel `first`, to every pixel of the view that it reaches.
#[inline(always)]
fn sum_across<const EXACT: bool>(across: &Axis, first: usize, segment: &[[i16; 3]], view: &mut [[i32; 3]]) {
    for tap in 0..across.taps {
        for ((sums, start), weight) in view.iter_mut().zip(&across.starts).zip(across.weights(tap)) {
            let Some(pixel) = segment.get((*start as usize + tap).wrapping_sub(first)) else { continue };
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += product::<EXACT>(*value, *weight);
            }
        }
    }
}
