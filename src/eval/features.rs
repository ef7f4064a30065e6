//! Batches to one feature vector per sample.

use burn::tensor::Tensor;

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
}

impl Features {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn extend(&mut self, rows: &[f32], width: usize, labels: &[Option<u32>]) {
        self.width = width;
        for (row, label) in rows.chunks(width.max(1)).zip(labels) {
            if let Some(label) = label {
                self.values.extend_from_slice(row);
                self.labels.push(*label);
            }
        }
    }
}

/// The pixels themselves, `[batch, channels · height · width]`.
pub fn pixels(images: Tensor<4>) -> Tensor<2> {
    images.flatten(1, 3)
}

/// Runs all batches through `encode`; samples without a label are left out.
///
/// # Errors
/// When the pipeline gives up.
pub fn extract(mut batches: Uploader, encode: impl Fn(Tensor<4>) -> Tensor<2>) -> Result<Features, PipelineError> {
    let mut features = Features::default();
    while let Some((batch, _)) = batches.next_batch() {
        let DeviceBatch { images, labels, .. } = batch?;
        let encoded = encode(images);
        let [_, width] = encoded.dims();
        // A device that fails to give its result back has failed altogether; burn panics there as everywhere.
        features.extend(&encoded.into_data().convert::<f32>().iter::<f32>().collect::<Vec<f32>>(), width, &labels);
    }
    Ok(features)
}
