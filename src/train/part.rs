//! What an objective makes of one micro-batch.

use burn::tensor::{Device, Tensor};

/// One vector a sample of what each model says, `[samples, width]`: what shows whether it still tells them apart.
#[derive(Clone, Debug)]
pub struct Outputs {
    pub encoder: Tensor<2>,
    pub target: Tensor<2>,
    pub predictor: Tensor<2>,
}

impl Outputs {
    /// The same on another device.
    pub fn on(self, device: &Device) -> Self {
        let Self { encoder, target, predictor } = self;
        let [encoder, target, predictor] = [encoder, target, predictor].map(|output| output.to_device(device));
        Self { encoder, target, predictor }
    }

    /// Puts another micro-batch's samples behind these.
    pub fn add(&mut self, other: Self) {
        let Self { encoder, target, predictor } = other;
        for (all, more) in [(&mut self.encoder, encoder), (&mut self.target, target), (&mut self.predictor, predictor)]
        {
            all.inplace(|all| Tensor::cat(vec![all, more], 0));
        }
    }
}

/// What an objective makes of one micro-batch.
pub struct Part {
    /// The micro-batch's share of the batch's loss, recorded for the backward pass.
    pub loss: Tensor<1>,
    /// The loss's named summands.
    pub terms: Vec<(&'static str, Tensor<1>)>,
    pub outputs: Outputs,
}
