//! How weights begin: in come shapes, out come parameters, the same ones for the same seed on every device.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::draws::{Draws, Purpose};

/// Standard deviation of weights at first (I-JEPA, `init_std` of the authors' configurations).
const WEIGHT_DEVIATION: f64 = 0.02;

/// How large weights are at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirstWeights {
    /// As those who published a model begin, whatever its width: with a deviation of 0.02, in the Energy Transformer of
    /// 0.002. Their models are 384 and more wide.
    Published,
    /// A deviation of `1 / sqrt(inputs)`, so that a layer's outputs are as large as its inputs. In narrow models the
    /// published numbers leave so little of the image beside the positions that all features are nearly alike.
    ByInputs,
}

/// Gives each parameter numbers of its own, in the order in which parameters are asked for.
///
/// The authors' models draw every weight from a normal distribution of deviation 0.02, cut at ±2, and set biases to 0.
/// Their encoder first divides the second layer of each residual branch by `sqrt(2 · layer)`, but their training then
/// draws all weights again, so that their published results come without that division, and so do ours.
pub struct WeightInit {
    seed: u64,
    first: FirstWeights,
    parameters: u64,
}

impl WeightInit {
    pub fn new(seed: u64, first: FirstWeights) -> Self {
        Self { seed, first, parameters: 0 }
    }

    /// A layer with drawn weights and a bias of 0.
    pub fn linear(&mut self, inputs: usize, outputs: usize, device: &Device) -> Linear {
        let bias = Tensor::zeros([outputs], device);
        let weight = self.matrix(WEIGHT_DEVIATION, [inputs, outputs], device);
        Linear { weight, bias: Some(Param::from_tensor(bias)) }
    }

    /// What inputs are multiplied with: `[inputs, outputs]`, of the published deviation or by the inputs.
    pub fn matrix(&mut self, published: f64, shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
        let deviation = match self.first {
            FirstWeights::Published => published,
            FirstWeights::ByInputs => 1.0 / (shape[0].max(1) as f64).sqrt(),
        };
        self.normal_of(deviation, shape, device)
    }

    /// Normal numbers of deviation 0.02, for what is added and for what a norm follows.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
        self.normal_of(WEIGHT_DEVIATION, shape, device)
    }

    /// Normal numbers, cut at ±2.
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
