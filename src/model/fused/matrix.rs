//! Small matrices, whose rows are filled up to whole vectors with zeros: one head of one sample.

use super::lanes::LANES;

/// Rows that are multiplied at once: with as many sums the processor need not wait for one before the next.
const ROWS: usize = 6;

/// Tokens whose features belong to heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub tokens: usize,
    pub heads: usize,
    pub head_width: usize,
}

impl Shape {
    /// Features of a token.
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Of a head, filled up to whole vectors.
    pub fn padded_width(&self) -> usize {
        self.head_width.next_multiple_of(LANES)
    }

    /// Filled up to whole vectors.
    pub fn padded_tokens(&self) -> usize {
        self.tokens.next_multiple_of(LANES)
    }
}

/// A matrix, read by rows and columns of any distance.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub numbers: &'a [f32],
    pub row: usize,
    pub column: usize,
}

/// Adds `left · right` to `into`, `[rows, columns]`, where `right` is `[inner, columns]` and `columns` whole vectors.
#[inline(always)]
pub fn add_product(left: Left, right: &[f32], rows: usize, inner: usize, columns: usize, into: &mut [f32]) {
    for column in (0..columns).step_by(LANES) {
        let mut row = 0;
        while row + ROWS <= rows {
            tile::<ROWS>(left, right, row, column, inner, columns, into);
            row += ROWS;
        }
        while row < rows {
            tile::<1>(left, right, row, column, inner, columns, into);
            row += 1;
        }
    }
}

/// Writes `left · right`; else as [`add_product`].
#[inline(always)]
pub fn multiply(left: Left, right: &[f32], rows: usize, inner: usize, columns: usize, into: &mut [f32]) {
    into[..rows * columns].fill(0.0);
    add_product(left, right, rows, inner, columns, into);
}

#[inline(always)]
fn tile<const COUNT: usize>(
    left: Left,
    right: &[f32],
    row: usize,
    column: usize,
    inner: usize,
    columns: usize,
    into: &mut [f32],
) {
    let mut sums = [[0.0f32; LANES]; COUNT];
    for (count, sums) in sums.iter_mut().enumerate() {
        sums.copy_from_slice(&into[(row + count) * columns + column..][..LANES]);
    }
    for place in 0..inner {
        let line: &[f32; LANES] = right[place * columns + column..].first_chunk().unwrap_or(&[0.0; LANES]);
        for (count, sums) in sums.iter_mut().enumerate() {
            let factor = left.numbers[(row + count) * left.row + place * left.column];
            for lane in 0..LANES {
                sums[lane] += factor * line[lane];
            }
        }
    }
    for (count, sums) in sums.iter().enumerate() {
        into[(row + count) * columns + column..][..LANES].copy_from_slice(sums);
    }
}

/// Takes one head's rows out of rows `stride` apart.
#[inline(always)]
pub fn take(from: &[f32], shape: &Shape, stride: usize, first: usize, into: &mut Vec<f32>) {
    let wide = shape.padded_width();
    let into = grown(into, shape.tokens * wide);
    for (token, into) in into.chunks_exact_mut(wide).enumerate() {
        let (into, rest) = into.split_at_mut(shape.head_width);
        into.copy_from_slice(&from[token * stride + first..][..shape.head_width]);
        rest.fill(0.0);
    }
}

/// Puts one head's rows among rows `stride` apart.
#[inline(always)]
pub fn put(from: &[f32], shape: &Shape, into: &mut [f32], stride: usize, first: usize) {
    for (token, from) in from.chunks_exact(shape.padded_width()).take(shape.tokens).enumerate() {
        into[token * stride + first..][..shape.head_width].copy_from_slice(&from[..shape.head_width]);
    }
}

/// Rows of features to rows of tokens: `[head_width, padded tokens]`.
#[inline(always)]
pub fn turn(from: &[f32], shape: &Shape, into: &mut Vec<f32>) {
    let (wide, long) = (shape.padded_width(), shape.padded_tokens());
    let into = grown(into, shape.head_width * long);
    for (feature, into) in into.chunks_exact_mut(long).enumerate() {
        let (into, rest) = into.split_at_mut(shape.tokens);
        into.iter_mut().enumerate().for_each(|(token, into)| *into = from[token * wide + feature]);
        rest.fill(0.0);
    }
}

/// As much of a buffer as is asked for.
#[inline(always)]
pub fn grown(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}
