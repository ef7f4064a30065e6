//! How weights begin: in come shapes, out come parameters, the same ones for the same seed on every device.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};

use crate::draws::{Draws, Purpose};

/// Standard deviation of weights at first (I-JEPA, `init_std` of the authors' configurations).
const WEIGHT_DEVIATION: f64 = 0.02;

/// Gives each parameter numbers of its own, in the order in which parameters are asked for.
///
/// The authors' models draw every weight from a normal distribution of deviation 0.02, cut at ±2, and set biases to 0.
/// Their encoder first divides the second layer of each residual branch by `sqrt(2 · layer)`, but their training then
/// draws all weights again, so that their published results come without that division, and so do ours.
pub struct WeightInit {
    seed: u64,
    parameters: u64,
}

impl WeightInit {
    pub fn new(seed: u64) -> Self {
        Self { seed, parameters: 0 }
    }

    /// A layer with drawn weights and a bias of 0.
    pub fn linear(&mut self, inputs: usize, outputs: usize, device: &Device) -> Linear {
        let bias = Tensor::zeros([outputs], device);
        Linear { weight: self.normal([inputs, outputs], device), bias: Some(Param::from_tensor(bias)) }
    }

    /// Normal numbers of deviation 0.02.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
        self.normal_of(WEIGHT_DEVIATION, shape, device)
    }

    /// Normal numbers of another deviation, cut at ±2 all the same.
    pub fn normal_of<const D: usize>(
        &mut self,
        deviation: f64,
        shape: [usize; D],
        device: &Device,
    ) -> Param<Tensor<D>> {
        let mut draws = Draws::new(self.seed, 0, self.parameters, Purpose::Weights);
        self.parameters += 1;
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| (deviation * draws.normal()).clamp(-2.0, 2.0) as f32).collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
    }
}
