//! k nearest neighbours: how many held-out samples share the label of most of their neighbours in the training split.
//!
//! Exact, by products of blocks of both splits on the device; of each block the host keeps the few nearest.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::features::Features;
use crate::model::{DeviceFailure, numbers};

/// Held-out samples compared at once, with so many of the training split: bounds what is in memory.
const QUERIES_AT_ONCE: usize = 256;
const KNOWN_AT_ONCE: usize = 1 << 16;
/// What similarities are divided by before they weigh votes (Wu et al. 2018; DINO).
const TEMPERATURE: f64 = 0.07;
/// A feature whose deviation is below this does not vary; it is centred only.
const LEAST_DEVIATION: f32 = 1e-8;

/// How near two feature vectors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nearness {
    Cosine,
    Euclidean,
}

/// What a neighbour's vote counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Votes {
    /// All the same.
    Plain,
    /// The nearer the more: `exp(cosine / 0.07)`; of Euclidean neighbours, the inverse of the distance.
    Weighted,
}

/// A share of held-out samples, and how it came about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnnScore {
    pub nearness: Nearness,
    pub votes: Votes,
    pub k: usize,
    pub accuracy: f64,
}

/// A neighbour in the training split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its row.
    pub number: usize,
    /// The cosine; or the Euclidean distance, below 0.
    pub nearness: f32,
}

/// Mean and deviation of each feature of a split.
#[derive(Clone, Debug)]
pub struct Standard {
    moments: Vec<(f32, f32)>,
}

impl Standard {
    pub fn of(split: &Features) -> Self {
        let (width, count) = (split.width, split.len().max(1) as f64);
        let mut moments = vec![(0.0f64, 0.0f64); width];
        for row in split.values.chunks(width.max(1)) {
            for (sum, &value) in moments.iter_mut().zip(row) {
                sum.0 += f64::from(value) / count;
            }
        }
        for row in split.values.chunks(width.max(1)) {
            for (sum, &value) in moments.iter_mut().zip(row) {
                sum.1 += (f64::from(value) - sum.0).powi(2) / count;
            }
        }
        let of_varying = |deviation: f32| if deviation > LEAST_DEVIATION { deviation } else { 1.0 };
        let narrow = |(mean, variance): (f64, f64)| (mean as f32, of_varying(variance.sqrt() as f32));
        Self { moments: moments.into_iter().map(narrow).collect() }
    }

    /// Shifts and scales feature by feature, so that the split it is of has mean 0 and deviation 1.
    pub fn apply(&self, split: &mut Features) {
        for row in split.values.chunks_mut(split.width.max(1)) {
            for (value, (mean, deviation)) in row.iter_mut().zip(&self.moments) {
                *value = (*value - mean) / deviation;
            }
        }
    }
}

/// Shifts and scales both splits by the training split's mean and deviation, feature by feature.
pub fn standardise(train: &mut Features, held_out: &mut Features) {
    let standard = Standard::of(train);
    standard.apply(train);
    standard.apply(held_out);
}

/// The share of held-out samples whose `k` nearest training samples vote for their label; a tie goes to the smallest label.
///
/// # Errors
/// When the device fails.
pub fn accuracy(
    train: &Features,
    held_out: &Features,
    k: usize,
    nearness: Nearness,
    device: &Device,
) -> Result<f64, DeviceFailure> {
    Ok(accuracies(train, held_out, &[k], nearness, device)?.first().map_or(0.0, |score| score.accuracy))
}

/// [`accuracy`] for several `k` at once, by plain votes and by weighted ones.
///
/// # Errors
/// When the device fails.
pub fn accuracies(
    train: &Features,
    held_out: &Features,
    ks: &[usize],
    nearness: Nearness,
    device: &Device,
) -> Result<Vec<KnnScore>, DeviceFailure> {
    let most = ks.iter().copied().max().unwrap_or(0);
    let neighbours = nearest(train, held_out, most, nearness, device)?;
    let share = |k: usize, votes: Votes| {
        let right = |(neighbours, label): &(&Vec<Neighbour>, &u32)| {
            vote(&neighbours[..k.min(neighbours.len())], &train.labels, nearness, votes) == Some(**label)
        };
        let right = neighbours.iter().zip(&held_out.labels).filter(right).count();
        right as f64 / held_out.len().max(1) as f64
    };
    // There are no more neighbours than training samples.
    let score = |(k, votes): (usize, Votes)| {
        let k = k.min(train.len());
        KnnScore { nearness, votes, k, accuracy: share(k, votes) }
    };
    Ok(ks.iter().flat_map(|&k| [(k, Votes::Plain), (k, Votes::Weighted)]).map(score).collect())
}

/// The `k` nearest training samples of each held-out one, nearest first; of those equally near, the first ones.
///
/// # Errors
/// When the device fails.
pub fn nearest(
    train: &Features,
    held_out: &Features,
    k: usize,
    nearness: Nearness,
    device: &Device,
) -> Result<Vec<Vec<Neighbour>>, DeviceFailure> {
    if train.is_empty() || held_out.is_empty() {
        return Ok(vec![Vec::new(); held_out.len()]);
    }
    let k = k.clamp(1, train.len());
    let width = train.width;
    let mut found = Vec::with_capacity(held_out.len());
    let blocks: Vec<(usize, Tensor<2>, Tensor<2>)> = train
        .values
        .chunks(KNOWN_AT_ONCE * width)
        .enumerate()
        .map(|(number, rows)| {
            let (known, offset) = keys(rows.to_vec(), width, nearness, device);
            (number * KNOWN_AT_ONCE, known, offset)
        })
        .collect();
    for rows in held_out.values.chunks(QUERIES_AT_ONCE * width) {
        let asked = matrix(rows.to_vec(), width, device);
        let squares = numbers(asked.clone().square().sum_dim(1))?;
        let mut nearest = vec![Vec::new(); squares.len()];
        for (first, known, offset) in &blocks {
            let similar = numbers(asked.clone().matmul(known.clone()) + offset.clone())?;
            let count = similar.len() / squares.len();
            nearest
                .par_iter_mut()
                .zip(similar.par_chunks(count))
                .for_each(|(nearest, row)| keep(nearest, row, *first, k));
        }
        for (nearest, square) in nearest.iter_mut().zip(&squares) {
            nearest.iter_mut().for_each(|neighbour| neighbour.nearness = told(neighbour.nearness, *square, nearness));
        }
        found.append(&mut nearest);
    }
    Ok(found)
}

/// Adds a row of similarities, whose first belongs to the training sample `first`, to the `k` greatest so far.
fn keep(nearest: &mut Vec<Neighbour>, row: &[f32], first: usize, k: usize) {
    let order = |a: &Neighbour, b: &Neighbour| b.nearness.total_cmp(&a.nearness).then(a.number.cmp(&b.number));
    let mut least = nearest.get(k - 1).map_or(f32::NEG_INFINITY, |neighbour| neighbour.nearness);
    for (number, &nearness) in row.iter().enumerate() {
        // Of those equally near, the first ones are there already.
        if nearest.len() >= k && nearness <= least {
            continue;
        }
        nearest.push(Neighbour { number: first + number, nearness });
        if nearest.len() == 4 * k {
            nearest.select_nth_unstable_by(k - 1, order);
            nearest.truncate(k);
            least = nearest[k - 1].nearness;
        }
    }
    nearest.sort_unstable_by(order);
    nearest.truncate(k);
}

/// From what products give to what a neighbour says of itself; `square` is the query's own length, squared.
fn told(product: f32, square: f32, nearness: Nearness) -> f32 {
    match nearness {
        Nearness::Cosine => product / square.sqrt().max(f32::MIN_POSITIVE),
        Nearness::Euclidean => -(square - 2.0 * product).max(0.0).sqrt(),
    }
}

/// What queries are multiplied with, `[width, samples]`, and what is added, `[1, samples]`, to order samples by nearness.
///
/// The query's own length changes no order: it is left as it is.
fn keys(rows: Vec<f32>, width: usize, nearness: Nearness, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let rows = matrix(rows, width, device);
    let [count, _] = rows.dims();
    let squares = rows.clone().square().sum_dim(1);
    match nearness {
        Nearness::Cosine => {
            let lengths = squares.sqrt().clamp_min(f64::from(f32::MIN_POSITIVE));
            ((rows / lengths).transpose(), Tensor::zeros([1, count], device))
        }
        // |q - x|² = |q|² - 2 (q·x - |x|²/2), so the nearest x has the greatest q·x - |x|²/2.
        Nearness::Euclidean => (rows.transpose(), squares.mul_scalar(-0.5).transpose()),
    }
}

fn matrix(values: Vec<f32>, width: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / width.max(1);
    Tensor::from_data(TensorData::new(values, [rows, width]), device)
}

/// The label with most votes; `None` without neighbours.
fn vote(neighbours: &[Neighbour], labels: &[u32], nearness: Nearness, votes: Votes) -> Option<u32> {
    // Weights beside the nearest one's, so that none overflows.
    let first = neighbours.first()?.nearness;
    let weight = |neighbour: &Neighbour| match (votes, nearness) {
        (Votes::Plain, _) => 1.0,
        (Votes::Weighted, Nearness::Cosine) => (f64::from(neighbour.nearness - first) / TEMPERATURE).exp(),
        (Votes::Weighted, Nearness::Euclidean) if first == 0.0 => f64::from(u8::from(neighbour.nearness == 0.0)),
        (Votes::Weighted, Nearness::Euclidean) => f64::from(first) / f64::from(neighbour.nearness),
    };
    let mut sums = BTreeMap::new();
    for neighbour in neighbours {
        *sums.entry(labels[neighbour.number]).or_insert(0.0) += weight(neighbour);
    }
    let most = sums.values().copied().fold(0.0, f64::max);
    sums.into_iter().find(|&(_, sum)| sum == most).map(|(label, _)| label)
}
