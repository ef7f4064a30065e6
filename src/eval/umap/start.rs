//! Vectors to the plane's first points: their places along the two principal directions, a little shaken.

use rayon::prelude::*;

use crate::draws::{Draws, Purpose};
use crate::objective::spectrum::dot;

/// Rounds of the iteration; a start needs the directions of large variances, not their last digits.
const ROUNDS: usize = 30;
/// Rows that are added up before they are added to others: the same for any number of threads.
const ROWS_AT_ONCE: usize = 256;
/// The plane's side, and what moves equal points apart on it (as in umap-learn).
const SIDE: f64 = 10.0;
const NOISE: f64 = 1e-4;
/// What the draws for the start are keyed on; see the layout's.
const SUBJECT: u64 = 0;

/// Two numbers per feature.
type Directions = [Vec<f64>; 2];

/// Places the points where PCA does, each axis stretched to the whole side.
///
/// The authors start from eigenvectors of the graph instead (section 3.2). PCA is simpler, also where the graph falls apart.
/// In umap-learn both give the same trustworthiness and labels of neighbours, within what seeds make of them (digits,
/// Fashion-MNIST, a rolled sheet), and PCA keeps far distances as well or better. A few rows very far away spoil that.
///
/// # Shapes
/// - `values`: `[rows, width]`, row by row
/// - output: `[rows, 2]`, in 0..=10
pub fn start(values: &[f32], width: usize, seed: u64) -> Vec<[f32; 2]> {
    let mut draws = Draws::new(seed, 0, SUBJECT, Purpose::Embedding);
    let mut places = principal(values, width, &mut draws);
    let farthest = places.as_flattened().iter().fold(0.0f64, |farthest, place| farthest.max(place.abs()));
    let scale = if farthest > 0.0 { SIDE / farthest } else { 0.0 };
    places.as_flattened_mut().iter_mut().for_each(|place| *place = *place * scale + NOISE * draws.normal());
    let mut ends = [[f64::INFINITY, f64::NEG_INFINITY]; 2];
    for place in &places {
        ends.iter_mut().zip(place).for_each(|([low, high], place)| (*low, *high) = (low.min(*place), high.max(*place)));
    }
    let stretch =
        |place: f64, [low, high]: [f64; 2]| if high > low { SIDE * (place - low) / (high - low) } else { 0.0 };
    places.iter().map(|&[x, y]| [stretch(x, ends[0]) as f32, stretch(y, ends[1]) as f32]).collect()
}

/// The places of vectors along their first two principal directions, found by orthogonal iteration (Golub and Van Loan,
/// Matrix Computations, section 8.2.4).
fn principal(values: &[f32], width: usize, draws: &mut Draws) -> Vec<[f64; 2]> {
    let mean = mean(values, width);
    let mut directions: Directions = std::array::from_fn(|_| (0..width).map(|_| draws.normal()).collect());
    for _ in 0..ROUNDS {
        orthonormalise(&mut directions);
        directions = turned(values, &mean, &directions);
    }
    orthonormalise(&mut directions);
    values.par_chunks_exact(width.max(1)).map(|row| along(row, &mean, &directions)).collect()
}

fn mean(values: &[f32], width: usize) -> Vec<f64> {
    let rows = (values.len() / width.max(1)).max(1) as f64;
    let mut sums = vec![0.0; width];
    for row in values.chunks_exact(width.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sums.into_iter().map(|sum| sum / rows).collect()
}

/// Gives both directions the length 1, at right angles; one that nothing varies along becomes 0.
fn orthonormalise([first, second]: &mut Directions) {
    normalise(first);
    let shared = dot(first, second);
    second.iter_mut().zip(first).for_each(|(value, first)| *value -= shared * *first);
    normalise(second);
}

fn normalise(direction: &mut [f64]) {
    let length = dot(direction, direction).sqrt();
    direction.iter_mut().for_each(|value| *value = if length > 0.0 { *value / length } else { 0.0 });
}

/// The directions times the covariance, but for its scale.
fn turned(values: &[f32], mean: &[f64], directions: &Directions) -> Directions {
    let width = mean.len();
    let of_rows = |rows: &[f32]| {
        let mut sums: Directions = [vec![0.0; width], vec![0.0; width]];
        for row in rows.chunks_exact(width) {
            for (sums, along) in sums.iter_mut().zip(along(row, mean, directions)) {
                let pairs = sums.iter_mut().zip(row).zip(mean);
                pairs.for_each(|((sum, &value), mean)| *sum += along * (f64::from(value) - mean));
            }
        }
        sums
    };
    let parts: Vec<Directions> = values.par_chunks(ROWS_AT_ONCE * width.max(1)).map(of_rows).collect();
    let mut sums: Directions = [vec![0.0; width], vec![0.0; width]];
    for part in parts {
        for (sums, part) in sums.iter_mut().zip(part) {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
    }
    sums
}

/// A vector's places along the directions.
fn along(row: &[f32], mean: &[f64], directions: &Directions) -> [f64; 2] {
    let centred: Vec<f64> = row.iter().zip(mean).map(|(&value, mean)| f64::from(value) - mean).collect();
    directions.each_ref().map(|direction| dot(&centred, direction))
}
