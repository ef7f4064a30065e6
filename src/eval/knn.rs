//! k nearest neighbours: how many held-out samples share the label of most of their neighbours in the training split.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};

use super::features::Features;

/// Held-out samples compared at once: bounds the similarities in memory to this many rows.
const QUERIES_AT_ONCE: usize = 256;
/// A feature whose deviation is below this does not vary; it is centred only.
const LEAST_DEVIATION: f32 = 1e-8;

/// How near two feature vectors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearness {
    Cosine,
    Euclidean,
}

/// Shifts and scales both splits by the training split's mean and deviation, feature by feature.
pub fn standardise(train: &mut Features, held_out: &mut Features) {
    let (width, count) = (train.width, train.len().max(1) as f64);
    let mut moments = vec![(0.0f64, 0.0f64); width];
    for row in train.values.chunks(width.max(1)) {
        for (sum, &value) in moments.iter_mut().zip(row) {
            sum.0 += f64::from(value) / count;
        }
    }
    for row in train.values.chunks(width.max(1)) {
        for (sum, &value) in moments.iter_mut().zip(row) {
            sum.1 += (f64::from(value) - sum.0).powi(2) / count;
        }
    }
    for split in [train, held_out] {
        for row in split.values.chunks_mut(width.max(1)) {
            for (value, &(mean, variance)) in row.iter_mut().zip(&moments) {
                let deviation = variance.sqrt() as f32;
                *value = (*value - mean as f32) / if deviation > LEAST_DEVIATION { deviation } else { 1.0 };
            }
        }
    }
}

/// The share of held-out samples whose `k` nearest training samples vote for their label; a tie goes to the smallest label.
pub fn accuracy(train: &Features, held_out: &Features, k: usize, nearness: Nearness, device: &Device) -> f64 {
    if train.is_empty() || held_out.is_empty() {
        return 0.0;
    }
    let width = train.width;
    let (known, offset) = keys(train, nearness, device);
    let mut right = 0;
    for (rows, labels) in held_out.values.chunks(QUERIES_AT_ONCE * width).zip(held_out.labels.chunks(QUERIES_AT_ONCE)) {
        let asked = matrix(rows.to_vec(), width, device);
        let nearness = asked.matmul(known.clone()) + offset.clone();
        let nearness: Vec<f32> = nearness.into_data().convert::<f32>().iter::<f32>().collect();
        let votes = nearness.chunks(train.len()).map(|row| vote(row, &train.labels, k));
        right += votes.zip(labels).filter(|(vote, label)| vote == *label).count();
    }
    right as f64 / held_out.len() as f64
}

/// What queries are multiplied with, `[width, samples]`, and what is added, `[1, samples]`, to order samples by nearness.
///
/// The query's own length changes no order: it is left as it is.
fn keys(train: &Features, nearness: Nearness, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let rows = matrix(train.values.clone(), train.width, device);
    let squares = rows.clone().square().sum_dim(1);
    match nearness {
        Nearness::Cosine => {
            let lengths = squares.sqrt().clamp_min(f64::from(f32::MIN_POSITIVE));
            ((rows / lengths).transpose(), Tensor::zeros([1, train.len()], device))
        }
        // |q - x|² = |q|² - 2 (q·x - |x|²/2), so the nearest x has the greatest q·x - |x|²/2.
        Nearness::Euclidean => (rows.transpose(), squares.mul_scalar(-0.5).transpose()),
    }
}

fn matrix(values: Vec<f32>, width: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / width.max(1);
    Tensor::from_data(TensorData::new(values, [rows, width]), device)
}

/// The label that most of the `k` greatest places carry.
fn vote(nearness: &[f32], labels: &[u32], k: usize) -> u32 {
    let mut order: Vec<usize> = (0..nearness.len()).collect();
    let nearest_first = |a: &usize, b: &usize| nearness[*b].total_cmp(&nearness[*a]).then(a.cmp(b));
    let k = k.clamp(1, order.len());
    order.select_nth_unstable_by(k - 1, nearest_first);
    let mut votes = BTreeMap::new();
    for &neighbour in &order[..k] {
        *votes.entry(labels[neighbour]).or_insert(0usize) += 1;
    }
    let most = votes.values().copied().max().unwrap_or(0);
    votes.into_iter().find(|&(_, count)| count == most).map_or(0, |(label, _)| label)
}
