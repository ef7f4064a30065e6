//! Numbers back from a device. A GPU is asked for work long before it does it, so that this is where its failures show.

use burn::tensor::Tensor;

/// Why a device gave no numbers back.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceFailure {
    #[error(
        "the device ran out of memory when {0} bytes more were asked for; a training goes on with --set \
         train.recompute=true, or begins with a higher train.accumulate or a lower train.batch"
    )]
    OutOfMemory(u64),
    #[error("the device failed: {0}")]
    Other(String),
}

/// All numbers of a tensor in their order; waits until the device has them.
///
/// # Errors
/// When the device failed at whatever they come from.
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, DeviceFailure> {
    let data = tensor.try_into_data().map_err(|error| DeviceFailure::told(&format!("{error:?}")))?;
    Ok(data.convert::<f32>().iter::<f32>().collect())
}

impl DeviceFailure {
    /// What the tensor library's long story of an error comes to.
    pub fn told(story: &str) -> Self {
        /// How CUDA's part of the library says that memory is not there, before the number of bytes.
        const SHORT: [&str; 2] = ["out of device memory allocating ", "can't allocate buffer of size: "];
        /// Of any other story; what follows are the library's own places.
        const MOST: usize = 300;
        let bytes = SHORT.iter().find_map(|before| {
            let (_, rest) = story.split_once(before)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        let line = || story.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MOST).collect();
        bytes.map_or_else(|| Self::Other(line()), Self::OutOfMemory)
    }
}
