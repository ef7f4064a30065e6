//! Batches to one feature vector per sample.

use burn::tensor::Tensor;

use crate::model::{DeviceFailure, numbers};
use crate::pipeline::PipelineError;
use crate::train::Uploader;
use crate::train::upload::DeviceBatch;

/// One feature vector per labelled sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// `[samples, width]`, row by row.
    pub values: Vec<f32>,
    pub width: usize,
    pub labels: Vec<u32>,
    /// The samples' numbers in their shards.
    pub samples: Vec<u32>,
}

impl Features {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// # Panics
    /// When there are not so many.
    pub fn row(&self, number: usize) -> &[f32] {
        &self.values[number * self.width..][..self.width]
    }

    /// The labels that occur, in order.
    pub fn classes(&self) -> Vec<u32> {
        let mut classes = self.labels.clone();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// Adds rows; samples without a label are left out.
    pub fn extend(&mut self, rows: &Rows) {
        self.width = rows.width;
        for ((row, sample), label) in rows.values.chunks(rows.width.max(1)).zip(rows.samples).zip(rows.labels) {
            if let Some(label) = label {
                self.values.extend_from_slice(row);
                self.labels.push(*label);
                self.samples.push(*sample);
            }
        }
    }
}

/// The feature vectors of a batch.
pub struct Rows<'b> {
    /// `[samples, width]`, row by row.
    pub values: &'b [f32],
    pub width: usize,
    pub samples: &'b [u32],
    pub labels: &'b [Option<u32>],
}

/// The pixels themselves, `[batch, channels · height · width]`.
pub fn pixels(images: Tensor<4>) -> Tensor<2> {
    images.flatten(1, 3)
}

/// Runs all batches through `encode`, and gives the rows of each to `take`.
///
/// # Errors
/// When the pipeline gives up, the device fails, or `take` does.
pub fn for_each<E: From<PipelineError> + From<DeviceFailure>>(
    mut batches: Uploader,
    encode: impl Fn(Tensor<4>) -> Tensor<2>,
    mut take: impl FnMut(&Rows) -> Result<(), E>,
) -> Result<(), E> {
    while let Some((batch, _)) = batches.next_batch() {
        let DeviceBatch { images, samples, labels, .. } = batch?;
        let encoded = encode(images.first());
        let [_, width] = encoded.dims();
        let values = numbers(encoded)?;
        take(&Rows { values: &values, width, samples: &samples, labels: &labels })?;
    }
    Ok(())
}
