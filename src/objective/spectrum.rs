//! Feature vectors to their spectrum: singular values, variances along the principal directions, and what is read off
//! them: RankMe and the exponent of the decay (alpha-ReQ). Host numbers only.
//!
//! The eigenvalues of a symmetric matrix are found here by Householder reflections and implicit QL (Golub and Van Loan,
//! Matrix Computations, section 8.3). No crate that is built anyway finds them; those that do would be
//! larger than all of this file's users. Everything is computed in 64 bits: squaring would cost 32-bit features half of
//! their digits.

/// What RankMe adds to each share, so that its logarithm exists (Garrido et al. 2023).
const RANKME_EPSILON: f64 = 1e-7;
/// The first rank, counted from 1, to which a power law is fitted: the few ahead of it seldom follow the law.
const FIRST_FITTED: usize = 4;
/// The share of the spectrum that is fitted: from a few hundred rows the smallest variances come out too small.
const FITTED_SHARE: f64 = 0.5;
/// Fewer variances than this determine no exponent.
const FEWEST_FITTED: usize = 8;
/// Variances below this share of the largest are rounding: the square of what a sum of 32-bit features resolves.
const ROUNDING: f64 = 1e-12;
/// QL takes two or three rounds for an eigenvalue; one that has not come after so many holds something not finite.
const MOST_ROUNDS: usize = 64;
/// Rows and columns of a product that are summed at once, in registers.
const TILE: usize = 4;

/// The spectrum of feature vectors, with and without their mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    /// Singular values of the rows as they are, largest first; as many as the smaller side has.
    pub singular_values: Vec<f64>,
    /// Variances along the principal directions (eigenvalues of the covariance), largest first. The sum is the sum of
    /// the squared [`deviations`].
    pub variances: Vec<f64>,
}

impl Spectrum {
    /// # Shapes
    /// - `values`: `[rows, width]`, row by row
    pub fn of(values: &[f32], width: usize) -> Self {
        let rows = values.len() / width.max(1);
        let mean = mean(values, width);
        // Products of rows and products of columns have the same eigenvalues but for zeros: the fewer are taken.
        let size = rows.min(width);
        let centred = products(&columns(values, width, &mean, rows < width), size);
        let mut whole = centred.clone();
        if rows < width {
            add_mean_to_rows(&mut whole, values, &mean);
        } else {
            add_mean_to_columns(&mut whole, rows, &mean);
        }
        let variance = |value: f64| value.max(0.0) / rows.max(1) as f64;
        Self {
            singular_values: eigenvalues(whole, size).into_iter().map(|value| value.max(0.0).sqrt()).collect(),
            variances: eigenvalues(centred, size).into_iter().map(variance).collect(),
        }
    }
}

/// The standard deviation of each feature over the rows.
///
/// # Shapes
/// - `values`: `[rows, width]`, row by row
/// - output: `[width]`
pub fn deviations(values: &[f32], width: usize) -> Vec<f64> {
    let mean = mean(values, width);
    let rows = (values.len() / width.max(1)).max(1) as f64;
    let mut squares = vec![0.0; width];
    for row in values.chunks_exact(width.max(1)) {
        squares.iter_mut().zip(centre(row, &mean)).for_each(|(sum, value)| *sum += value * value);
    }
    squares.into_iter().map(|sum| (sum / rows).sqrt()).collect()
}

/// The effective rank of features: the exponential of the entropy of the singular values' shares (Garrido et al. 2023);
/// 0 where there are none or all are 0.
pub fn rankme(singular_values: &[f64]) -> f64 {
    let sum: f64 = singular_values.iter().sum();
    if sum == 0.0 {
        return 0.0;
    }
    let share = |value: &f64| value / sum + RANKME_EPSILON;
    singular_values.iter().map(share).map(|share| -share * share.ln()).sum::<f64>().exp()
}

/// The exponent with which variances fall with their rank, `variance ~ rank^-alpha` (alpha-ReQ, Agrawal et al. 2022):
/// least squares in the logarithms, weighted by 1 / rank as Stringer et al. 2019 do, since ranks lie the
/// closer the higher they are.
///
/// Fitted are ranks 4 to half of them, as far as they are above rounding; `None` where fewer than 8 are.
pub fn alpha(variances: &[f64]) -> Option<f64> {
    let least = ROUNDING * variances.first()?;
    let last = (variances.len() as f64 * FITTED_SHARE) as usize;
    let fitted: Vec<(f64, f64)> = (1..)
        .zip(&variances[..last])
        .skip(FIRST_FITTED - 1)
        .take_while(|&(_, &variance)| variance > least)
        .map(|(rank, variance)| (f64::from(rank), variance.ln()))
        .collect();
    if fitted.len() < FEWEST_FITTED {
        return None;
    }
    let sum =
        |of: &dyn Fn(f64, f64) -> f64| fitted.iter().map(|&(rank, height)| of(rank.ln(), height) / rank).sum::<f64>();
    let weight = sum(&|_, _| 1.0);
    let (place, height) = (sum(&|place, _| place) / weight, sum(&|_, height| height) / weight);
    let slope = sum(&|x, y| (x - place) * (y - height)) / sum(&|x, _| (x - place).powi(2));
    Some(-slope)
}

/// The eigenvalues of a symmetric matrix, largest first.
///
/// # Shapes
/// - `matrix`: `[size, size]`; only the lower triangle is read
pub fn eigenvalues(matrix: Vec<f64>, size: usize) -> Vec<f64> {
    let (mut diagonal, mut beside) = tridiagonal(matrix, size);
    let largest = diagonal.iter().chain(&beside).fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let negligible = f64::EPSILON * largest;
    for first in 0..size {
        for _ in 0..MOST_ROUNDS {
            let last = (first..size - 1).find(|&place| beside[place].abs() <= negligible).unwrap_or(size - 1);
            if last == first {
                break;
            }
            chase(&mut diagonal, &mut beside, first, last);
        }
    }
    diagonal.sort_unstable_by(|a, b| b.total_cmp(a));
    diagonal
}

fn mean(values: &[f32], width: usize) -> Vec<f64> {
    let rows = (values.len() / width.max(1)).max(1) as f64;
    let mut sums = vec![0.0; width];
    for row in values.chunks_exact(width.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sums.into_iter().map(|sum| sum / rows).collect()
}

fn centre<'a>(row: &'a [f32], mean: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    row.iter().zip(mean).map(|(&value, mean)| f64::from(value) - mean)
}

/// The centred rows, or with `turned` the same with rows as columns; each line is filled up to whole tiles.
fn columns(values: &[f32], width: usize, mean: &[f64], turned: bool) -> Vec<f64> {
    let rows = values.len() / width.max(1);
    let (lines, line) =
        if turned { (width, rows.next_multiple_of(TILE)) } else { (rows, width.next_multiple_of(TILE)) };
    let mut columns = vec![0.0; lines * line];
    for (number, row) in values.chunks_exact(width.max(1)).enumerate() {
        for (place, value) in centre(row, mean).enumerate() {
            columns[if turned { place * line + number } else { number * line + place }] = value;
        }
    }
    columns
}

/// The products of all pairs of columns.
///
/// # Shapes
/// - `columns`: `[length, size]`, each line filled up to whole tiles
/// - output: `[size, size]`, the lower triangle
fn products(columns: &[f64], size: usize) -> Vec<f64> {
    let line = size.next_multiple_of(TILE);
    let mut products = vec![0.0; size * size];
    for i in (0..size).step_by(TILE) {
        for j in (0..=i).step_by(TILE) {
            let tile = tile(columns, line, i, j);
            for (row, sums) in (i..size).zip(tile) {
                let width = TILE.min(size - j);
                products[row * size + j..][..width].copy_from_slice(&sums[..width]);
            }
        }
    }
    products
}

/// The products of the columns from `i` with those from `j`. They fit into registers, also those of the oldest 64-bit
/// processors.
fn tile(columns: &[f64], line: usize, i: usize, j: usize) -> [[f64; TILE]; TILE] {
    let mut sums = [[0.0; TILE]; TILE];
    for line in columns.chunks_exact(line) {
        let (Some(left), Some(right)) = (line[i..].first_chunk::<TILE>(), line[j..].first_chunk::<TILE>()) else {
            break;
        };
        for (sums, left) in sums.iter_mut().zip(left) {
            sums.iter_mut().zip(right).for_each(|(sum, right)| *sum += left * right);
        }
    }
    sums
}

/// From products of centred features to those of the features as they are; nothing cancels on this way.
fn add_mean_to_columns(products: &mut [f64], rows: usize, mean: &[f64]) {
    for (line, left) in products.chunks_exact_mut(mean.len().max(1)).zip(mean) {
        line.iter_mut().zip(mean).for_each(|(product, right)| *product += rows as f64 * left * right);
    }
}

/// As [`add_mean_to_columns`], for products of rows: with `r = c + m`, `r·s = c·d + c·m + m·d + m·m`.
fn add_mean_to_rows(products: &mut [f64], values: &[f32], mean: &[f64]) {
    let square = dot(mean, mean);
    let along: Vec<f64> = values
        .chunks_exact(mean.len().max(1))
        .map(|row| centre(row, mean).zip(mean).map(|(value, mean)| value * mean).sum())
        .collect();
    for (line, left) in products.chunks_exact_mut(along.len().max(1)).zip(&along) {
        line.iter_mut().zip(&along).for_each(|(product, right)| *product += left + right + square);
    }
}

/// Reflects a symmetric matrix, row by row from the last, until only its diagonal and the numbers beside that are left;
/// `beside[k]` lies between `diagonal[k]` and `diagonal[k + 1]`, and the last is 0.
fn tridiagonal(mut matrix: Vec<f64>, size: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside) = (vec![0.0; size], vec![0.0; size]);
    for k in (0..size).rev() {
        let (above, row) = matrix.split_at_mut(k * size);
        diagonal[k] = row[k];
        let Some((&mut last, rest)) = row[..k].split_last_mut() else { break };
        let norm = (dot(rest, rest) + last * last).sqrt();
        if norm == last.abs() {
            beside[k - 1] = last;
            continue;
        }
        beside[k - 1] = -norm.copysign(last);
        let mirror = &mut row[..k];
        mirror[k - 1] = last - beside[k - 1];
        reflect(above, size, mirror, norm * norm - last * beside[k - 1]);
    }
    (diagonal, beside)
}

/// Reflects the rows and columns of a symmetric matrix at a mirror whose squared length is twice `half`.
fn reflect(matrix: &mut [f64], size: usize, mirror: &[f64], half: f64) {
    let mut shift = vec![0.0; mirror.len()];
    for (j, row) in matrix.chunks_exact(size).enumerate() {
        add(&mut shift[..j], mirror[j], &row[..j]);
        shift[j] += dot(&row[..=j], &mirror[..=j]);
    }
    shift.iter_mut().for_each(|value| *value /= half);
    let along = dot(&shift, mirror) / (2.0 * half);
    add(&mut shift, -along, mirror);
    for (j, row) in matrix.chunks_exact_mut(size).enumerate() {
        add(&mut row[..=j], -mirror[j], &shift[..=j]);
        add(&mut row[..=j], -shift[j], &mirror[..=j]);
    }
}

fn add(to: &mut [f64], factor: f64, values: &[f64]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to += factor * value);
}

/// The sum of products, in lanes, which a processor adds at once; of the shorter one's length.
pub fn dot(left: &[f64], right: &[f64]) -> f64 {
    const LANES: usize = 8;
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f64>() + rest
}

/// One round of implicit QL with Wilkinson's shift from `last` up to `first`, after which `beside[first]` is smaller.
fn chase(diagonal: &mut [f64], beside: &mut [f64], first: usize, last: usize) {
    let half = (diagonal[first + 1] - diagonal[first]) / (2.0 * beside[first]);
    let shift = diagonal[first] - beside[first] / (half + half.hypot(1.0).copysign(half));
    let (mut sine, mut cosine, mut moved) = (1.0, 1.0, 0.0);
    let mut rest = diagonal[last] - shift;
    for k in (first..last).rev() {
        let (bulge, side) = (sine * beside[k], cosine * beside[k]);
        let length = bulge.hypot(rest);
        beside[k + 1] = length;
        if length == 0.0 {
            // The matrix falls apart here; what is above is left to the next round.
            diagonal[k + 1] -= moved;
            beside[last] = 0.0;
            return;
        }
        (sine, cosine) = (bulge / length, rest / length);
        let below = diagonal[k + 1] - moved;
        let turned = (diagonal[k] - below) * sine + 2.0 * cosine * side;
        moved = sine * turned;
        diagonal[k + 1] = below + moved;
        rest = cosine * turned - side;
    }
    diagonal[first] -= moved;
    beside[first] = rest;
    beside[last] = 0.0;
}
