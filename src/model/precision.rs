//! What matrix products and convolutions are computed in: 32-bit numbers, or bfloat16 as PyTorch's autocast does it.
//!
//! The weights that are trained stay in 32 bits. Where a step computes in bfloat16 it works with copies of those weights
//! that are made anew each time, through which gradients flow back into 32 bits. Tokens between blocks, norms, softmax
//! on the record and objectives have 32 bits either way; attention off the record is the tensor library's.

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// The `train.precision` key of a pipeline file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    #[default]
    F32,
    Bf16,
}

impl Precision {
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }

    /// What products of numbers of another precision are computed in.
    pub fn of_products(self, wide: DType) -> DType {
        match self {
            Self::F32 => wide,
            Self::Bf16 => DType::BF16,
        }
    }

    /// The module to compute with. What gradients its weights get goes to those of `module`.
    pub fn of<M: Module>(self, module: &M) -> M {
        match self {
            Self::F32 => module.clone(),
            Self::Bf16 => module.clone().map(&mut Halve { containers: Vec::new() }),
        }
    }
}

/// Copies the factors of products into bfloat16: matrices, kernels, and what is added to a product at once.
struct Halve {
    /// Of the modules around a parameter, the innermost last: whether all of it belongs to products.
    containers: Vec<bool>,
}

impl ModuleMapper for Halve {
    fn enter_module(&mut self, _: &str, container_type: &str) {
        self.containers.push(matches!(container_type, "Struct:Linear" | "Struct:Depthwise"));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.containers.last() != Some(&true) {
            return param;
        }
        let (id, tensor, _) = param.consume();
        Param::initialized(id, tensor.cast(DType::BF16))
    }
}

/// Through a layer, in the precision of its weights: as one product of all tokens, of which there is at least one. Where
/// the library multiplies sample by sample, its way back holds a gradient of the weights for each.
///
/// # Shapes
/// - `tokens`: `[..., inputs]`
/// - output: `[..., outputs]`
pub fn through<const D: usize>(layer: &Linear, tokens: Tensor<D>) -> Tensor<D> {
    let mut shape = tokens.dims();
    let [inputs, outputs] = layer.weight.val().dims();
    let rows = shape.iter().take(D - 1).product();
    let output = layer.forward(tokens.cast(layer.weight.val().dtype()).reshape([rows, inputs]));
    shape[D - 1] = outputs;
    output.reshape(shape)
}
