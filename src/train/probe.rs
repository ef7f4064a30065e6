//! A linear classifier that learns beside the training, from the target encoder's features: how much of the labels can
//! be read off them by now. Nothing of it reaches the encoder.
//!
//! One sample in ten is never fitted to, in any epoch, and only these are scored.

use std::sync::Arc;

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::model::weights::{Array, Weights, WeightsError};
use crate::model::{DeviceFailure, numbers};

/// One sample in so many is scored; the others are fitted to.
const SCORED_IN: u32 = 10;
/// Of Adam (Kingma and Ba 2015), with its authors' other values; features are layer-normalised, so one rate suits all.
const LEARNING_RATE: f64 = 0.01;
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// Names of what is kept of it.
const KEPT: [&str; 3] = ["weights", "moment1", "moment2"];

/// Weights of a probe at most: those of 20,000 labels and a giant ViT's features. With the moments, 400 MB.
const MOST_WEIGHTS: usize = 1 << 25;

/// What a probe is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// Features of an image.
    width: usize,
    /// What is told apart, in order.
    labels: Arc<[u32]>,
}

impl ProbeConfig {
    /// Labels may be any numbers, each once and in order; `None` without any, or where they are too many.
    pub fn new(width: usize, labels: Vec<u32>) -> Option<Self> {
        let fits = !labels.is_empty() && (width + 1).saturating_mul(labels.len()) <= MOST_WEIGHTS;
        fits.then(|| Self { width, labels: labels.into() })
    }

    fn shape(&self) -> [usize; 2] {
        [self.width + 1, self.labels.len()]
    }

    /// Numbers of weights and moments.
    pub fn numbers(&self) -> u64 {
        let [rows, columns] = self.shape();
        KEPT.len() as u64 * (rows * columns) as u64
    }

    /// Whether a state is whole and that of a probe of other labels, as builds left it that told all numbers up to the
    /// greatest label apart.
    pub fn is_of_other_labels(&self, state: &Weights) -> bool {
        let [rows, columns] = self.shape();
        let found = KEPT.map(|name| state.get(name).map(|array| array.shape.as_slice()));
        matches!(found[0], Some(&[found, others]) if found == rows && others != columns)
            && found.iter().all(|shape| *shape == found[0])
    }

    fn place(&self, label: u32) -> Option<i32> {
        self.labels.binary_search(&label).ok().map(|place| place as i32)
    }
}

/// The classifier and its optimizer.
#[derive(Clone, Debug)]
pub struct OnlineProbe {
    config: ProbeConfig,
    /// `[width + 1, labels]`, the last row being the shift; then its first and second moments.
    kept: [Tensor<2>; 3],
    updates: usize,
}

/// How a batch's scored samples were classified, before anything was learnt from the batch.
pub struct Probed {
    /// `[1]`: how many rightly; stays on the device until it is read.
    pub right: Tensor<1>,
    pub of: usize,
}

impl OnlineProbe {
    pub fn new(config: ProbeConfig, device: &Device) -> Self {
        let zeros = || Tensor::zeros(config.shape(), device);
        Self { kept: [zeros(), zeros(), zeros()], updates: 0, config }
    }

    /// Scores a batch, then learns from it; `None` where none of its samples is scored.
    ///
    /// # Shapes
    /// - `features`: `[samples, width]`
    /// - `labels`, `samples`: one a row; the samples' numbers in their set
    pub fn step(&mut self, features: Tensor<2>, labels: &[Option<u32>], samples: &[u32]) -> Option<Probed> {
        let [rows, _] = features.dims();
        let [_, classes] = self.kept[0].dims();
        let device = features.device();
        let held_out: Vec<bool> = samples.iter().map(|&sample| is_scored(sample)).collect();
        let places: Vec<i32> =
            labels.iter().map(|label| label.and_then(|label| self.config.place(label)).unwrap_or(-1)).collect();
        let with_label = |scored: bool| {
            let is_in = |(place, held_out): (&i32, &bool)| *place >= 0 && *held_out == scored;
            let flags: Vec<f32> = places.iter().zip(&held_out).map(|row| if is_in(row) { 1.0 } else { 0.0 }).collect();
            let count = flags.iter().filter(|&&flag| flag > 0.0).count();
            (Tensor::<2>::from_data(TensorData::new(flags, [rows, 1]), &device), count)
        };
        let (scored, of) = with_label(true);
        let (fitted, count) = with_label(false);
        let places = Tensor::<2, Int>::from_data(TensorData::new(places.clone(), [rows, 1]), &device);

        let inputs = Tensor::cat(vec![features, Tensor::ones([rows, 1], &device)], 1);
        let says = inputs.clone().matmul(self.kept[0].clone());
        let right = says.clone().argmax(1).equal(places.clone()).float() * scored;
        if count > 0 {
            let ours = Tensor::<1, Int>::arange(0..classes as i64, &device).reshape([1, classes]);
            let wanted = places.expand([rows, classes]).equal(ours.expand([rows, classes])).float();
            let off = (softmax(says, 1) - wanted) * fitted / count as f64;
            self.learn(inputs.transpose().matmul(off));
        }
        (of > 0).then(|| Probed { right: right.sum(), of })
    }

    /// One update by Adam.
    fn learn(&mut self, gradient: Tensor<2>) {
        self.updates += 1;
        let [weights, first, second] = self.kept.clone();
        let first = first * BETA1 + gradient.clone() * (1.0 - BETA1);
        let second = second * BETA2 + gradient.square() * (1.0 - BETA2);
        let unbiased = |beta: f64| 1.0 - beta.powf(self.updates as f64);
        let step = first.clone() / unbiased(BETA1) / ((second.clone() / unbiased(BETA2)).sqrt() + EPSILON);
        self.kept = [weights - step * LEARNING_RATE, first, second];
    }

    /// What must be remembered, by name, and the number of updates.
    ///
    /// # Errors
    /// When the device fails to give a tensor back.
    pub fn state(&self) -> Result<(Weights, usize), WeightsError> {
        let mut weights = Weights::new();
        for (name, tensor) in KEPT.into_iter().zip(&self.kept) {
            let shape = tensor.dims().to_vec();
            let failed = |failure: DeviceFailure| WeightsError::Tensor { name: name.into(), why: failure.to_string() };
            let values = numbers(tensor.clone()).map_err(failed)?;
            weights.insert(name.into(), Array { shape, values });
        }
        Ok((weights, self.updates))
    }

    /// Goes on from a state that [`Self::state`] gave.
    ///
    /// # Errors
    /// When an array is missing or of another shape.
    pub fn restore(
        config: ProbeConfig,
        mut weights: Weights,
        updates: usize,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let needed = config.shape();
        let mut take = |name: &str| {
            let full = format!("probe.{name}");
            match weights.remove(name) {
                None => Err(WeightsError::Missing(full)),
                Some(Array { shape, .. }) if shape != needed => {
                    Err(WeightsError::Shape { name: full, found: shape, needed: needed.to_vec() })
                }
                Some(array) => Ok(Tensor::from_data(TensorData::new(array.values, needed), device)),
            }
        };
        let [weights, first, second] = KEPT;
        Ok(Self { kept: [take(weights)?, take(first)?, take(second)?], updates, config })
    }
}

/// Whether a sample is scored rather than fitted to: a tenth of all numbers, spread evenly by a multiplicative hash.
pub fn is_scored(sample: u32) -> bool {
    /// 2^32 over the golden ratio (Knuth, The Art of Computer Programming, section 6.4).
    const GOLDEN: u32 = 2_654_435_769;
    sample.wrapping_mul(GOLDEN) < u32::MAX / SCORED_IN
}
