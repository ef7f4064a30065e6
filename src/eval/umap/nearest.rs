//! Vectors to their nearest neighbours, exactly: each is compared with every other, a block of them at a time.
//!
//! Squared differences are summed; `|x|² + |y|² - 2 x·y` would leave nothing but rounding of vectors that are nearly
//! equal. What is found for a vector depends on no other's, so any number of threads finds the same.

use std::ops::Range;

use rayon::prelude::*;

/// Vectors that lie side by side in memory: a processor subtracts so many numbers at once, or half of them twice.
const PANEL: usize = 8;
/// Vectors that are compared with a panel at once: their sums fit into the registers of the oldest 64-bit processors.
const TILE: usize = 4;
/// Panels that are compared with all others at once. Their vectors stay in the cache, and their distances in memory.
const BLOCK: usize = 8;
/// Squares that are summed before the sum is added to those of the features before: longer sums lose digits.
const SUMMED: usize = 512;

/// The nearest neighbours of vectors, nearest first. A vector is not its own neighbour; among equally near ones those that
/// come first are taken, and they come first.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbours {
    /// Neighbours of each vector: as many as were asked for, or all others where those are fewer.
    pub k: usize,
    /// `[rows, k]`
    pub indices: Vec<u32>,
    /// `[rows, k]`, Euclidean
    pub distances: Vec<f64>,
}

/// Finds the `k` nearest neighbours. A vector with a value that is not finite is infinitely far from all others.
///
/// # Shapes
/// - `values`: `[rows, width]`, row by row
pub fn neighbours(values: &[f32], width: usize, k: usize) -> Neighbours {
    let panels = Panels::new(values, width);
    let k = k.min(panels.rows.saturating_sub(1));
    let of_block = |block: Range<usize>| {
        let squares = panels.squares(&block);
        let nearest = |(row, squares)| nearest(squares, row, k);
        panels.rows_of(&block, &squares).flat_map(nearest).collect::<Vec<_>>()
    };
    let found: Vec<Vec<(f32, u32)>> = panels.blocks().into_par_iter().map(of_block).collect();
    let distance = |&(square, _): &(f32, u32)| f64::from(square).sqrt() * panels.scale;
    Neighbours {
        k,
        indices: found.iter().flatten().map(|&(_, index)| index).collect(),
        distances: found.iter().flatten().map(distance).collect(),
    }
}

/// How far an embedding's neighbours are neighbours in truth, in 0..=1: each of the `k` nearest in the embedding that is not
/// among the `k` nearest in truth costs as many ranks as it is behind them (Venna and Kaski 2001; as scikit-learn has it).
///
/// `k` must be less than half of the rows, and is lowered to that; 1 where there are fewer than three. Rows that only one of
/// both has are left out.
///
/// # Shapes
/// - `values`: `[rows, width]`, row by row
/// - `embedded`: `[rows, 2]`
pub fn trustworthiness(values: &[f32], width: usize, embedded: &[[f32; 2]], k: usize) -> f64 {
    let rows = embedded.len().min(values.len().checked_div(width).unwrap_or(0));
    let k = k.min(rows.saturating_sub(1) / 2);
    if k == 0 {
        return 1.0;
    }
    let near = neighbours(embedded[..rows].as_flattened(), 2, k);
    let panels = Panels::new(&values[..rows * width], width);
    let behind = |(row, squares): (usize, &[f32])| {
        near.indices[row * k..][..k]
            .iter()
            .map(|&other| rank(squares, row, other as usize).saturating_sub(k))
            .sum::<usize>()
    };
    let of_block = |block: Range<usize>| panels.rows_of(&block, &panels.squares(&block)).map(behind).sum::<usize>();
    let behind: usize = panels.blocks().into_par_iter().map(of_block).sum();
    1.0 - 2.0 * behind as f64 / (rows * k * (2 * rows - 3 * k - 1)) as f64
}

/// Vectors, transposed eight by eight, and scaled so that no square overflows or vanishes.
struct Panels {
    /// `[panels, width]`; the last panel is filled up with zeros.
    lines: Vec<[f32; PANEL]>,
    rows: usize,
    width: usize,
    /// How much longer the vectors are than those that are kept: a power of two, which no digit is lost to.
    scale: f64,
}

impl Panels {
    fn new(values: &[f32], width: usize) -> Self {
        let rows = values.len().checked_div(width).unwrap_or(0);
        let finite = values.iter().filter(|value| value.is_finite());
        let largest = finite.fold(0.0f32, |largest, value| largest.max(value.abs()));
        let scale = if largest > 0.0 { f64::from(largest).log2().floor().exp2() } else { 1.0 };
        let mut lines = vec![[0.0; PANEL]; rows.div_ceil(PANEL) * width];
        for (number, row) in values.chunks_exact(width.max(1)).take(rows).enumerate() {
            let panel = &mut lines[number / PANEL * width..][..width];
            for (line, &value) in panel.iter_mut().zip(row) {
                line[number % PANEL] = (f64::from(value) / scale) as f32;
            }
        }
        Self { lines, rows, width, scale }
    }

    /// The numbers of the panels that are compared at once.
    fn blocks(&self) -> Vec<Range<usize>> {
        let panels = self.rows.div_ceil(PANEL);
        (0..panels).step_by(BLOCK).map(|first| first..panels.min(first + BLOCK)).collect()
    }

    /// Squared distances between the scaled vectors of a block and all.
    ///
    /// # Shapes
    /// - output: `[vectors, all]`, both filled up to whole panels
    fn squares(&self, block: &Range<usize>) -> Vec<f32> {
        let all = self.rows.next_multiple_of(PANEL);
        let mut squares = vec![0.0; block.len() * PANEL * all];
        let lefts = &self.lines[block.start * self.width..block.end * self.width];
        for (right_number, right) in self.lines.chunks_exact(self.width).enumerate() {
            for (left_number, left) in lefts.chunks_exact(self.width).enumerate() {
                for half in 0..PANEL / TILE {
                    let first = left_number * PANEL + half * TILE;
                    for (row, sums) in (first..).zip(tile(left, right, half)) {
                        squares[row * all + right_number * PANEL..][..PANEL].copy_from_slice(&sums);
                    }
                }
            }
        }
        squares
    }

    /// The numbers of a block's vectors, each with its squared distances from all.
    fn rows_of<'a>(&self, block: &Range<usize>, squares: &'a [f32]) -> impl Iterator<Item = (usize, &'a [f32])> {
        let rows = self.rows;
        let lines = squares.chunks_exact(rows.next_multiple_of(PANEL)).map(move |line| &line[..rows]);
        (block.start * PANEL..rows).zip(lines)
    }
}

/// The squared distances of four of a panel's vectors from those of another panel.
fn tile(left: &[[f32; PANEL]], right: &[[f32; PANEL]], half: usize) -> [[f32; PANEL]; TILE] {
    let mut totals = [[0.0; PANEL]; TILE];
    for (left, right) in left.chunks(SUMMED).zip(right.chunks(SUMMED)) {
        let mut sums = [[0.0; PANEL]; TILE];
        for (left, right) in left.iter().zip(right) {
            let left = left.as_chunks::<TILE>().0[half];
            for (sums, left) in sums.iter_mut().zip(left) {
                sums.iter_mut().zip(right).for_each(|(sum, right)| *sum += (left - right) * (left - right));
            }
        }
        let pairs = totals.as_flattened_mut().iter_mut().zip(sums.as_flattened());
        pairs.for_each(|(total, sum)| *total += sum);
    }
    totals
}

/// The `k` nearest others, nearest first, the first of equally near ones first.
fn nearest(squares: &[f32], own: usize, k: usize) -> Vec<(f32, u32)> {
    let mut kept: Vec<(f32, u32)> = Vec::with_capacity(k + 1);
    let mut farthest = f32::INFINITY;
    for (place, &square) in squares.iter().enumerate() {
        if kept.len() == k && (square >= farthest || square.is_nan()) || place == own {
            continue;
        }
        let square = if square.is_nan() { f32::INFINITY } else { square };
        let rank = kept.partition_point(|&(other, _)| other <= square);
        kept.insert(rank, (square, place as u32));
        kept.truncate(k);
        farthest = kept.last().map_or(f32::INFINITY, |&(square, _)| square);
    }
    kept
}

/// Which neighbour another vector is, counted from 1; of equally near ones the first is nearer.
fn rank(squares: &[f32], own: usize, other: usize) -> usize {
    let square = squares[other];
    let nearer = squares[..other].iter().filter(|&&before| before <= square).count()
        + squares[other..].iter().filter(|&&after| after < square).count();
    // The vector itself is none of its neighbours, and it is nearer, or as near and may come first.
    let own_counted = own != other && (squares[own] < square || squares[own] == square && own < other);
    nearer + 1 - usize::from(own_counted)
}
