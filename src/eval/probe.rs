//! The linear probe: how well a linear classifier tells labels from frozen features (multinomial logistic regression).
//!
//! All training samples enter each step, in blocks, so that the outcome depends on no order and no seed. A step goes
//! along the gradient times the inverse of a matrix that bounds the second derivative everywhere (Böhning 1992), so that
//! features that hardly differ from each other cost no patience. Several learning rates go down side by side in one
//! matrix product, each with Nesterov's momentum, which starts afresh where the loss rises (O'Donoghue and Candès 2015).
//! Of them the one with the least training loss is scored: choosing by the held-out samples would fit to them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::features::Features;
use crate::model::{DeviceFailure, numbers};

/// Learning rates, in parts of the one that can be shown never to overshoot. The bound assumes the worst, so that larger
/// ones mostly do better.
const RATES: [f64; 4] = [1.0, 2.0, 4.0, 8.0];
/// Weight decay for each sample, as scikit-learn has it by default (`C = 1`): the penalty is `|w|² / 2`, the loss a sum.
const PENALTY: f64 = 1.0;
/// Steps at most, and between two looks at the losses.
const MOST_STEPS: usize = 2000;
const LOOK: usize = 25;
/// It has converged when so many steps as lie between two looks lower the loss by less than this share.
const LEAST_GAIN: f64 = 1e-6;
/// Labels that are told apart at most: each costs four rows of weights.
const MOST_CLASSES: usize = 1 << 16;
/// Numbers in the scores of a block of samples.
const SCORES_AT_ONCE: usize = 1 << 24;
/// Added to the bound, whose features have a deviation of 1.
const RIDGE: f64 = 1e-4;
/// Places that a sample's label may take among the scores to count in `top5`.
const FIVE: usize = 5;

/// What the probe found; shares of the held-out samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeScore {
    pub top1: f64,
    pub top5: f64,
    /// Of the training samples themselves: much above `top1` it shows that the probe has learnt them by heart.
    pub top1_train: f64,
    /// Mean cross entropy of the training samples, without the penalty.
    pub train_loss: f64,
    /// The rate that was chosen, in parts of the safe one.
    pub rate: f64,
    pub steps: usize,
    pub converged: bool,
}

/// Fits on `train` and scores `held_out`, both standardised already; `None` without samples, or with more than 65,536
/// labels, or once `stop` is set.
///
/// # Errors
/// When the device fails.
pub fn probe(
    train: &Features,
    held_out: &Features,
    device: &Device,
    stop: &AtomicBool,
) -> Result<Option<ProbeScore>, DeviceFailure> {
    let known = train.classes();
    let classes = known.len();
    if train.is_empty() || held_out.is_empty() || classes > MOST_CLASSES {
        return Ok(None);
    }
    // Labels may be any numbers; of a label that the training split lacks none is the place.
    let places = |features: &Features| -> Vec<Option<usize>> {
        features.labels.iter().map(|label| known.binary_search(label).ok()).collect()
    };
    let (train_places, places) = (places(train), places(held_out));
    let mut descent = Descent::new(train, &train_places, classes, device)?;
    let (mut steps, mut converged) = (0, false);
    let mut least = f64::INFINITY;
    while steps < MOST_STEPS && !converged {
        if stop.load(Relaxed) {
            return Ok(None);
        }
        for _ in 0..LOOK {
            descent.step()?;
        }
        steps += LOOK;
        let now = descent.least().1;
        // A loss that rose was overshot, and falls again.
        converged = (0.0..=LEAST_GAIN * now.abs()).contains(&(least - now));
        least = now;
    }
    descent.halt()?;
    let (chosen, train_loss) = descent.least();
    let weights = descent.weights_of(chosen);
    let right = |features: &Features, places: &[Option<usize>]| right(features, places, &weights, device);
    let ([top1_train, _], [top1, top5]) = (right(train, &train_places)?, right(held_out, &places)?);
    let penalty = descent.penalty_of(chosen);
    let (train_loss, rate) = (train_loss - penalty, RATES[chosen]);
    Ok(Some(ProbeScore { top1, top5, top1_train, train_loss, rate, steps, converged }))
}

/// Several descents at once; their weights stand side by side, `[features + 1, rates · classes]`, the last row being
/// what is added whatever the features.
struct Descent {
    blocks: Vec<Block>,
    samples: f64,
    classes: usize,
    /// Where the next step begins: ahead of `weights`.
    ahead: Tensor<2>,
    weights: Tensor<2>,
    /// Of each rate, how long its momentum has grown.
    momenta: [f64; RATES.len()],
    /// The rates over their columns, `[1, rates · classes]`.
    rates: Tensor<2>,
    /// What gradients are multiplied with, `[features + 1, features + 1]`.
    inverse: Tensor<2>,
    /// What of the weights is decayed: all but the last row, `[features + 1, 1]`.
    decayed: Tensor<2>,
    losses: [f64; RATES.len()],
    penalties: [f64; RATES.len()],
}

/// What there is where the next step begins.
struct Seen {
    gradient: Tensor<2>,
    losses: [f64; RATES.len()],
    penalties: [f64; RATES.len()],
}

/// Some samples: features with a last column of ones, and the places of their labels, `[samples, 1, 1]`.
struct Block {
    features: Tensor<2>,
    places: Tensor<3, Int>,
}

impl Descent {
    fn new(train: &Features, places: &[Option<usize>], classes: usize, device: &Device) -> Result<Self, DeviceFailure> {
        let width = train.width + 1;
        let at_once = (SCORES_AT_ONCE / (RATES.len() * classes)).max(1);
        let starts = (0..train.len()).step_by(at_once);
        let block = |start: usize| {
            let range = start..(start + at_once).min(train.len());
            let places: Vec<i32> = places[range.clone()].iter().map(|place| place.map_or(-1, |it| it as i32)).collect();
            let places = Tensor::from_data(TensorData::new(places, [range.len(), 1, 1]), device);
            Block { features: with_ones(train, range, device), places }
        };
        let blocks: Vec<Block> = starts.map(block).collect();
        let columns = RATES.len() * classes;
        let samples = train.len() as f64;
        let inverse = inverse(bound(&blocks, samples, width, device)?, width);
        let rates: Vec<f32> = RATES.iter().flat_map(|rate| vec![*rate as f32; classes]).collect();
        let mut decayed = vec![1.0f32; width];
        decayed[width - 1] = 0.0;
        Ok(Self {
            blocks,
            samples,
            classes,
            ahead: Tensor::zeros([width, columns], device),
            weights: Tensor::zeros([width, columns], device),
            momenta: [1.0; RATES.len()],
            rates: Tensor::from_data(TensorData::new(rates, [1, columns]), device),
            inverse: Tensor::from_data(TensorData::new(inverse, [width, width]), device),
            decayed: Tensor::from_data(TensorData::new(decayed, [width, 1]), device),
            losses: [f64::INFINITY; RATES.len()],
            penalties: [0.0; RATES.len()],
        })
    }

    /// Takes the losses where the weights are.
    fn halt(&mut self) -> Result<(), DeviceFailure> {
        self.ahead = self.weights.clone();
        let Seen { losses, penalties, .. } = self.look()?;
        (self.losses, self.penalties) = (losses, penalties);
        Ok(())
    }

    /// Gradient, losses and penalties where the next step begins.
    fn look(&self) -> Result<Seen, DeviceFailure> {
        let mut gradient = self.ahead.clone() * self.decayed.clone() * (PENALTY / self.samples);
        let squares = self.ahead.clone().square() * self.decayed.clone() * (0.5 * PENALTY / self.samples);
        let penalties = by_rate(squares.sum_dim(0), self.classes)?;
        let mut losses = penalties;
        for Block { features, places } in &self.blocks {
            let [samples, _] = features.dims();
            let labels = one_hot(places, self.classes);
            let scores = features.clone().matmul(self.ahead.clone()).reshape([samples, RATES.len(), self.classes]);
            let shares = softmax(scores, 2);
            let right = (shares.clone() * labels.clone()).sum_dim(2).clamp_min(1e-30).log();
            let block = numbers(right.sum_dim(0))?;
            losses.iter_mut().zip(block).for_each(|(loss, sum)| *loss -= f64::from(sum) / self.samples);
            let errors = (shares - labels).reshape([samples, RATES.len() * self.classes]);
            gradient = gradient + features.clone().transpose().matmul(errors) / self.samples;
        }
        Ok(Seen { gradient, losses, penalties })
    }

    /// Goes one step with every rate.
    fn step(&mut self) -> Result<(), DeviceFailure> {
        let device = self.weights.device();
        let Seen { gradient, losses, penalties } = self.look()?;
        let next = self.ahead.clone() - self.inverse.clone().matmul(gradient) * self.rates.clone();
        let mut pushes = [0.0; RATES.len()];
        for (rate, push) in pushes.iter_mut().enumerate() {
            // A loss that rose, or is no number, was overshot: momentum starts afresh.
            let rose = losses[rate].is_nan() || losses[rate] > self.losses[rate];
            let momentum = if rose { 1.0 } else { self.momenta[rate] };
            let grown = 0.5 * (1.0 + (1.0 + 4.0 * momentum * momentum).sqrt());
            *push = (momentum - 1.0) / grown;
            self.momenta[rate] = grown;
        }
        let pushes: Vec<f32> = pushes.iter().flat_map(|push| vec![*push as f32; self.classes]).collect();
        let columns = pushes.len();
        let pushes = Tensor::<2>::from_data(TensorData::new(pushes, [1, columns]), &device);
        self.ahead = next.clone() + (next.clone() - self.weights.clone()) * pushes;
        self.weights = next;
        (self.losses, self.penalties) = (losses, penalties);
        Ok(())
    }

    /// The rate with the least loss, and that loss with its penalty.
    fn least(&self) -> (usize, f64) {
        let numbered = self.losses.iter().copied().enumerate().filter(|(_, loss)| loss.is_finite());
        numbered.min_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or((0, f64::INFINITY))
    }

    fn penalty_of(&self, rate: usize) -> f64 {
        self.penalties[rate]
    }

    fn weights_of(&self, rate: usize) -> Tensor<2> {
        self.weights.clone().narrow(1, rate * self.classes, self.classes)
    }
}

/// Labels as ones among zeros, `[samples, 1, classes]`: made anew in each step, as all of them together may not fit.
fn one_hot(places: &Tensor<3, Int>, classes: usize) -> Tensor<3> {
    let [samples, _, _] = places.dims();
    let ours = Tensor::<1, Int>::arange(0..classes as i64, &places.device()).reshape([1, 1, classes]);
    places.clone().expand([samples, 1, classes]).equal(ours.expand([samples, 1, classes])).float()
}

fn with_ones(features: &Features, range: std::ops::Range<usize>, device: &Device) -> Tensor<2> {
    let count = range.len();
    let mut values = Vec::with_capacity(count * (features.width + 1));
    for number in range {
        values.extend_from_slice(features.row(number));
        values.push(1.0);
    }
    Tensor::from_data(TensorData::new(values, [count, features.width + 1]), device)
}

/// Sums of the columns of each rate.
fn by_rate(columns: Tensor<2>, classes: usize) -> Result<[f64; RATES.len()], DeviceFailure> {
    let values = numbers(columns)?;
    let mut sums = [0.0; RATES.len()];
    for (sum, values) in sums.iter_mut().zip(values.chunks(classes)) {
        *sum = values.iter().map(|value| f64::from(*value)).sum();
    }
    Ok(sums)
}

/// Nowhere is the second derivative of the mean loss greater than this, `[width, width]`: half of the mean product of
/// features with themselves, and the penalty's.
fn bound(blocks: &[Block], samples: f64, width: usize, device: &Device) -> Result<Vec<f64>, DeviceFailure> {
    let mut products = Tensor::<2>::zeros([width, width], device);
    for Block { features, .. } in blocks {
        products = products + features.clone().transpose().matmul(features.clone());
    }
    let mut bound: Vec<f64> = numbers(products)?.into_iter().map(|sum| 0.5 * f64::from(sum) / samples).collect();
    // A greater matrix bounds too, and rounding of 32 bits must not make this one negative.
    bound.iter_mut().step_by(width + 1).for_each(|square| *square += PENALTY / samples + RIDGE);
    Ok(bound)
}

/// The inverse of a symmetric, positive matrix, by its triangular root (Cholesky).
fn inverse(mut matrix: Vec<f64>, size: usize) -> Vec<f32> {
    for column in 0..size {
        let (before, rest) = matrix.split_at_mut(column * size + column);
        let above = &before[column * size..];
        let square = rest[0] - above.iter().map(|value| value * value).sum::<f64>();
        let root = square.max(RIDGE * RIDGE).sqrt();
        rest[0] = root;
        let above = above.to_vec();
        for row in column + 1..size {
            let own = &mut matrix[row * size..][..=column];
            let shared: f64 = own[..column].iter().zip(&above).map(|(one, other)| one * other).sum();
            own[column] = (own[column] - shared) / root;
        }
    }
    let root = |row: usize, column: usize| matrix[row * size + column];
    let mut inverse = vec![0.0f32; size * size];
    for column in 0..size {
        let mut solved = vec![0.0; size];
        for row in column..size {
            let shared: f64 = (column..row).map(|place| root(row, place) * solved[place]).sum();
            solved[row] = (f64::from(u8::from(row == column)) - shared) / root(row, row);
        }
        for row in (0..size).rev() {
            let shared: f64 = (row + 1..size).map(|place| root(place, row) * solved[place]).sum();
            solved[row] = (solved[row] - shared) / root(row, row);
            inverse[row * size + column] = solved[row] as f32;
        }
    }
    inverse
}

/// The shares of samples whose label has the greatest score, and one of the five greatest.
fn right(
    features: &Features,
    places: &[Option<usize>],
    weights: &Tensor<2>,
    device: &Device,
) -> Result<[f64; 2], DeviceFailure> {
    let [_, classes] = weights.dims();
    let at_once = (SCORES_AT_ONCE / classes).max(1);
    let mut right = [0usize; 2];
    for start in (0..features.len()).step_by(at_once) {
        let range = start..(start + at_once).min(features.len());
        let scores = with_ones(features, range.clone(), device).matmul(weights.clone());
        let scores = numbers(scores)?;
        for (scores, place) in scores.chunks(classes).zip(&places[range]) {
            let &Some(place) = place else { continue };
            let own = scores[place];
            // Of equal scores the first label's counts for more, and what is no number never does.
            let is_behind = |(number, score): (usize, &f32)| *score < own || (*score == own && number >= place);
            let better = scores.len() - scores.iter().enumerate().filter(|scored| is_behind(*scored)).count();
            right[0] += usize::from(better == 0);
            right[1] += usize::from(better < FIVE);
        }
    }
    Ok(right.map(|right| right as f64 / features.len() as f64))
}
