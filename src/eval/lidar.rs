//! LiDAR: how many directions tell samples apart by more than their views differ (Thilak et al. 2023).
//!
//! The rank of linear discriminant analysis, each sample being a class of its own views: directions in which features
//! vary from view to view of the same sample count for nothing, where RankMe counts them all.

use std::ops::Range;

use rayon::prelude::*;

use crate::objective::spectrum::Spectrum;

/// Added to the variance within samples in every direction, so that it has an inverse (the authors' delta).
const RIDGE: f64 = 1e-4;
/// Added to each share, so that its logarithm exists (the authors' epsilon).
const EPSILON: f64 = 1e-7;
/// Views whose variance is less than this share of that between samples are as good as the same view: rounding.
const LEAST_WITHIN: f64 = 1e-9;
/// Features beyond which the matrix is not factored: the time grows with its third power.
const MOST_WIDTH: usize = 4096;

/// Feature vectors of views.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewFeatures {
    /// `[views, width]`, row by row.
    pub values: Vec<f32>,
    pub width: usize,
    /// The sample that each row is a view of; views of one sample stand together.
    pub samples: Vec<u32>,
}

impl ViewFeatures {
    /// The rows of each sample.
    fn of_samples(&self) -> Vec<Range<usize>> {
        let mut first = 0;
        let groups = self.samples.chunk_by(|one, next| one == next).map(|views| {
            first += views.len();
            first - views.len()..first
        });
        groups.collect()
    }

    fn rows(&self, range: &Range<usize>) -> &[f32] {
        &self.values[range.start * self.width..range.end * self.width]
    }
}

/// Between 1 and the number of features; `None` with fewer than two samples of two views, with too many features, or
/// where views of a sample hardly differ, as there is nothing to compare with then.
///
/// The paper's `exp(entropy)` of the eigenvalues of `W^-1/2 B W^-1/2`, where `B` is the covariance of the samples' means
/// and `W` the mean covariance of the views within a sample, plus a small ridge. With `W = L L'`, the means times
/// the inverse of `L` have a covariance of the same eigenvalues.
pub fn lidar(views: &ViewFeatures) -> Option<f64> {
    let width = views.width;
    let samples: Vec<Range<usize>> = views.of_samples().into_iter().filter(|rows| rows.len() > 1).collect();
    if samples.len() < 2 || width == 0 || width > MOST_WIDTH {
        return None;
    }
    let means: Vec<Vec<f64>> = samples.iter().map(|rows| mean(views.rows(rows), width)).collect();
    let within = within(views, &samples, &means);
    if trace(&within, width) <= LEAST_WITHIN * spread(&means, width) {
        return None;
    }
    let factor = cholesky(within, width)?;
    let whitened: Vec<f32> = means.into_par_iter().flat_map_iter(|mean| solved(&factor, mean)).collect();
    let variances = Spectrum::of(&whitened, width).variances;
    let sum: f64 = variances.iter().sum();
    if sum.is_nan() || sum <= 0.0 {
        return None;
    }
    let entropy = |share: f64| -share * share.ln();
    Some(variances.iter().map(|variance| entropy(variance / sum + EPSILON)).sum::<f64>().exp())
}

fn mean(rows: &[f32], width: usize) -> Vec<f64> {
    let mut mean = vec![0.0; width];
    let count = rows.len() / width;
    for row in rows.chunks(width) {
        mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value) / count as f64);
    }
    mean
}

/// The mean covariance within samples, plus the ridge: `[width, width]`, the lower triangle alone.
fn within(views: &ViewFeatures, samples: &[Range<usize>], means: &[Vec<f64>]) -> Vec<f64> {
    let width = views.width;
    let count: usize = samples.iter().map(ExactSizeIterator::len).sum();
    let mut centred = Vec::with_capacity(count * width);
    for (rows, mean) in samples.iter().zip(means) {
        for row in views.rows(rows).chunks(width) {
            centred.extend(row.iter().zip(mean).map(|(&value, mean)| f64::from(value) - mean));
        }
    }
    let mut covariance = vec![0.0; width * width];
    // A row of the result at a time, so that the order of sums is the same for any number of threads.
    covariance.par_chunks_mut(width).enumerate().for_each(|(place, sums)| {
        for row in centred.chunks(width) {
            let own = row[place];
            sums[..=place].iter_mut().zip(row).for_each(|(sum, value)| *sum += own * value);
        }
        sums.iter_mut().for_each(|sum| *sum /= count as f64);
        sums[place] += RIDGE;
    });
    covariance
}

/// The variance of the means, summed over directions.
fn spread(means: &[Vec<f64>], width: usize) -> f64 {
    let count = means.len() as f64;
    let variance = |place: usize| {
        let mean = means.iter().map(|mean| mean[place]).sum::<f64>() / count;
        means.iter().map(|own| (own[place] - mean).powi(2)).sum::<f64>() / count
    };
    (0..width).map(variance).sum()
}

/// The variance of the views within a sample, summed over directions, less the ridge.
fn trace(within: &[f64], width: usize) -> f64 {
    within.iter().step_by(width + 1).map(|square| square - RIDGE).sum()
}

/// The lower triangle `L` of `L L' = matrix`, whose lower triangle alone is read; `None` where it is not positive.
fn cholesky(mut matrix: Vec<f64>, size: usize) -> Option<Vec<f64>> {
    for column in 0..size {
        let (above, below) = matrix.split_at_mut((column + 1) * size);
        let own = &mut above[column * size..][..=column];
        let pivot = (own[column] - own[..column].iter().map(|value| value * value).sum::<f64>()).sqrt();
        if pivot.is_nan() || pivot <= 0.0 {
            return None;
        }
        own[column] = pivot;
        let own = &own[..column];
        below.par_chunks_mut(size).for_each(|row| {
            let known: f64 = row[..column].iter().zip(own).map(|(one, other)| one * other).sum();
            row[column] = (row[column] - known) / pivot;
        });
    }
    Some(matrix)
}

/// `x` of `L x = values`.
fn solved(factor: &[f64], mut values: Vec<f64>) -> Vec<f32> {
    let size = values.len();
    for place in 0..size {
        let row = &factor[place * size..][..=place];
        let known: f64 = row[..place].iter().zip(&values).map(|(weight, value)| weight * value).sum();
        values[place] = (values[place] - known) / row[place];
    }
    values.into_iter().map(|value| value as f32).collect()
}
