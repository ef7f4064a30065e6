//! The target encoder: an exponential moving average of the encoder.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use crate::model::fused;

/// Moves `target` towards `encoder`: `target · decay + encoder · (1 - decay)`. Fixed parameters stay as they are.
pub fn blend<M: Module>(target: M, encoder: &M, decay: f64) -> M {
    let mut current = Parameters(HashMap::new());
    encoder.visit(&mut current);
    target.map(&mut Blend { current: current.0, decay })
}

/// The trained parameters of a module, flat, off the record of operations.
struct Parameters(HashMap<ParamId, Tensor<1>>);

impl ModuleVisitor for Parameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let tensor = param.val().inner();
            let count = tensor.shape().num_elements();
            self.0.insert(param.id, tensor.reshape([count]));
        }
    }
}

struct Blend {
    current: HashMap<ParamId, Tensor<1>>,
    decay: f64,
}

impl ModuleMapper for Blend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(current) = self.current.remove(&param.id) else {
            return param;
        };
        let decay = self.decay;
        param.map(|average| {
            let current = current.reshape(average.dims());
            fused::blend(average, current, decay)
        })
    }
}
