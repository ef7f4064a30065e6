//! A convolution of each channel with a kernel of its own, over one sample's map with its channels last, and back.
//! Zeros lie around the map.

use super::lanes::{LANES, for_processors};
use super::matrix::grown;

/// Side of the kernels: ConvNeXt's (Liu et al. 2022, section 2.5).
pub const KERNEL: usize = 7;
const REACH: usize = KERNEL / 2;
/// Neighbouring places that are computed at once, so that each weight is read once for all of them.
const PLACES: usize = 4;

/// A map's axes, `[rows, columns, channels]`; channels are whole vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    pub rows: usize,
    pub columns: usize,
    pub channels: usize,
}

impl Map {
    pub fn numbers(&self) -> usize {
        self.rows * self.columns * self.channels
    }

    /// With the zeros beside it.
    fn wide(&self) -> usize {
        self.columns + 2 * REACH
    }

    /// The rows of the kernel that meet the map around a row of it, and the first row of the map that they meet.
    fn met(&self, row: usize) -> (std::ops::Range<usize>, usize) {
        let first = REACH.saturating_sub(row);
        (first..KERNEL.min(self.rows + REACH - row), row + first - REACH)
    }
}

/// The kernel's numbers turned: `[7, 7, channels]` from `[channels, 7, 7]`; each kernel back to front when `mirrored`.
pub fn turned(kernels: &[f32], channels: usize, mirrored: bool) -> Vec<f32> {
    let taps = KERNEL * KERNEL;
    let mut turned = vec![0.0; taps * channels];
    for (channel, kernel) in kernels.chunks_exact(taps).enumerate() {
        for (tap, &number) in kernel.iter().enumerate() {
            let tap = if mirrored { taps - 1 - tap } else { tap };
            turned[tap * channels + channel] = number;
        }
    }
    turned
}

for_processors! {
    /// Writes the convolution of `from` with kernels as [`turned`] gives them, plus `shift`, `[channels]`.
    ///
    /// `room` is used again: for the map with zeros beside it.
    pub fn convolve(map: &Map, from: &[f32], kernels: &[f32], shift: &[f32], into: &mut [f32], room: &mut Vec<f32>) {
        let from = padded(map, from, room);
        for row in 0..map.rows {
            for channel in (0..map.channels).step_by(LANES) {
                let mut column = 0;
                while column + PLACES <= map.columns {
                    places::<PLACES>(map, from, kernels, shift, [row, column, channel], into);
                    column += PLACES;
                }
                while column < map.columns {
                    places::<1>(map, from, kernels, shift, [row, column, channel], into);
                    column += 1;
                }
            }
        }
    }
}

#[inline(always)]
fn places<const COUNT: usize>(
    map: &Map,
    from: &[f32],
    kernels: &[f32],
    shift: &[f32],
    [row, column, channel]: [usize; 3],
    into: &mut [f32],
) {
    let mut sums = [vector(shift, channel); COUNT];
    let (kernel_rows, first) = map.met(row);
    for (kernel_row, from_row) in kernel_rows.zip(first..) {
        for kernel_column in 0..KERNEL {
            let weights = vector(kernels, (kernel_row * KERNEL + kernel_column) * map.channels + channel);
            for (place, sums) in sums.iter_mut().enumerate() {
                let at = from_row * map.wide() + column + place + kernel_column;
                let numbers = vector(from, at * map.channels + channel);
                for lane in 0..LANES {
                    sums[lane] += numbers[lane] * weights[lane];
                }
            }
        }
    }
    for (place, sums) in sums.iter().enumerate() {
        let at = (row * map.columns + column + place) * map.channels + channel;
        into[at..at + LANES].copy_from_slice(sums);
    }
}

for_processors! {
    /// Adds the gradients of the kernels, as [`turned`] has them, and of what is added, `[channels]`.
    pub fn add_slope(
        map: &Map,
        from: &[f32],
        gradient: &[f32],
        of_kernels: &mut [f32],
        of_shift: &mut [f32],
        room: &mut Vec<f32>,
    ) {
        let from = padded(map, from, room);
        for channel in (0..map.channels).step_by(LANES) {
            for kernel_row in 0..KERNEL {
                let mut sums = [[0.0; LANES]; KERNEL];
                for row in 0..map.rows {
                    let (kernel_rows, first) = map.met(row);
                    if kernel_rows.contains(&kernel_row) {
                        let from_row = first + kernel_row - kernel_rows.start;
                        add_row(map, from, gradient, [row, from_row, channel], &mut sums);
                    }
                }
                for (kernel_column, sums) in sums.iter().enumerate() {
                    let at = (kernel_row * KERNEL + kernel_column) * map.channels + channel;
                    of_kernels[at..at + LANES].iter_mut().zip(sums).for_each(|(of, sum)| *of += sum);
                }
            }
        }
        for gradient in gradient.chunks_exact(map.channels) {
            of_shift.iter_mut().zip(gradient).for_each(|(of, number)| *of += number);
        }
    }
}

#[inline(always)]
fn add_row(
    map: &Map,
    from: &[f32],
    gradient: &[f32],
    [row, from_row, channel]: [usize; 3],
    sums: &mut [[f32; LANES]; KERNEL],
) {
    for column in 0..map.columns {
        let slope = vector(gradient, (row * map.columns + column) * map.channels + channel);
        for (kernel_column, sums) in sums.iter_mut().enumerate() {
            let at = from_row * map.wide() + column + kernel_column;
            let numbers = vector(from, at * map.channels + channel);
            for lane in 0..LANES {
                sums[lane] += slope[lane] * numbers[lane];
            }
        }
    }
}

#[inline(always)]
fn vector(numbers: &[f32], first: usize) -> [f32; LANES] {
    numbers[first..].first_chunk().copied().unwrap_or([0.0; LANES])
}

/// The map with zeros on both sides of each row.
#[inline(always)]
fn padded<'a>(map: &Map, from: &[f32], room: &'a mut Vec<f32>) -> &'a [f32] {
    let (line, side) = (map.columns * map.channels, REACH * map.channels);
    let room = grown(room, map.rows * map.wide() * map.channels);
    for (into, from) in room.chunks_exact_mut(line + 2 * side).zip(from.chunks_exact(line)) {
        into[..side].fill(0.0);
        into[side..side + line].copy_from_slice(from);
        into[side + line..].fill(0.0);
    }
    room
}
