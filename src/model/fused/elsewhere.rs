//! What training computes where nothing is fused by hand: on GPUs, in bfloat16, and over more tokens than fit a core's
//! caches. The way forward is the tensor library's; the way back is written out, as the library's own is an
//! approximation (GELU) or keeps the weights of every query for every key (attention).

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use burn::backend::DispatchTensor;
use burn::tensor::activation::{self, softmax};
use burn::tensor::module;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, DType, Tensor};

use crate::model::recorded::{WayBack, recorded};

/// Bytes of attention's weights that a way back has in memory at once: on a GPU they are soon those of a whole batch, and
/// beyond that no larger product is any faster.
pub const WEIGHT_BYTES: usize = 256 << 20;

/// What is added to the score of a hidden key: beyond every real score, and still a number.
const HIDDEN: f64 = -1e30;

/// `x Φ(x)` of numbers on the record, whose slope is the exact one.
pub fn gelu<const D: usize>(numbers: Tensor<D>) -> Tensor<D> {
    let way = Gelu { numbers: numbers.clone().inner() };
    let output = activation::gelu(way.numbers.clone());
    recorded::<_, 1, D>(way, [numbers.into_dispatch()], output)
}

/// Attention of each head, on the record. No weights are kept for the way back, which computes so many bytes of them at a
/// time.
///
/// # Shapes
/// - `queries`, `keys`, `values`, output: `[batch, heads, tokens, head_width]`
/// - `hidden`: `[batch, 1, 1, tokens]`, true where a key is padding
pub fn attention(parts: [Tensor<4>; 3], hidden: Option<&Tensor<4, Bool>>, weight_bytes: usize) -> Tensor<4> {
    let [queries, keys, values] = parts.clone().map(Tensor::inner);
    let [batch, heads, tokens, _] = queries.dims();
    let hidden = hidden.map(|hidden| hidden.clone().inner());
    let mask = hidden.clone().map(|hidden| hidden.expand([batch, heads, tokens, tokens]));
    let (q, k, v) = (queries.clone(), keys.clone(), values.clone());
    let output = module::attention(q, k, v, mask, None, AttentionModuleOptions::default());
    let way = Attention { queries, keys, values, hidden, output: output.clone(), weight_bytes };
    recorded::<_, 3, 4>(way, parts.map(Tensor::into_dispatch), output)
}

#[derive(Clone, Debug)]
struct Gelu<const D: usize> {
    numbers: Tensor<D>,
}

impl<const D: usize> WayBack<1> for Gelu<D> {
    fn gradients(self, of_output: DispatchTensor) -> [DispatchTensor; 1] {
        let dtype = self.numbers.dtype();
        let numbers = self.numbers.cast(DType::F32);
        let below = numbers.clone().mul_scalar(FRAC_1_SQRT_2).erf().add_scalar(1.0).mul_scalar(0.5);
        let density = numbers.clone().square().mul_scalar(-0.5).exp().mul_scalar((2.0 * PI).sqrt().recip());
        let slope = below + numbers * density;
        let found = Tensor::<D>::from_dispatch(of_output).cast(DType::F32) * slope;
        [found.cast(dtype).into_dispatch()]
    }
}

#[derive(Clone, Debug)]
struct Attention {
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    hidden: Option<Tensor<4, Bool>>,
    output: Tensor<4>,
    weight_bytes: usize,
}

/// The weights of some queries at a time are computed again, and each query's share of the softmax's slope comes from
/// its output (Dao et al. 2022, appendix B.4).
impl WayBack<3> for Attention {
    fn gradients(self, of_output: DispatchTensor) -> [DispatchTensor; 3] {
        let Self { queries, keys, values, hidden, output, weight_bytes } = self;
        let (slope, dtype) = (Tensor::<4>::from_dispatch(of_output), queries.dtype());
        let [batch, heads, tokens, head_width] = queries.dims();
        let scale = (head_width as f64).sqrt().recip();
        let weights = batch * heads * tokens * tokens * size_of::<f32>();
        let parts = weights.div_ceil(weight_bytes.max(1)).clamp(1, tokens.max(1));
        let rows = tokens.div_ceil(parts).max(1);
        let (keys_turned, values_turned) = (keys.clone().transpose(), values.transpose());
        let mut of_queries = Vec::with_capacity(parts);
        let [mut of_keys, mut of_values]: [Option<Tensor<4>>; 2] = [None, None];
        for first in (0..tokens).step_by(rows) {
            let some = |of: &Tensor<4>| of.clone().narrow(2, first, rows.min(tokens - first));
            let (query, gradient) = (some(&queries), some(&slope));
            let scores = query.clone().matmul(keys_turned.clone()).cast(DType::F32).mul_scalar(scale);
            let scores = match &hidden {
                Some(hidden) => scores.clone().mask_fill(hidden.clone().expand(scores.dims()), HIDDEN),
                None => scores,
            };
            let weights = softmax(scores, 3);
            let own = (gradient.clone().cast(DType::F32) * some(&output).cast(DType::F32)).sum_dim(3);
            let of_weights = gradient.clone().matmul(values_turned.clone()).cast(DType::F32);
            let of_scores = (weights.clone() * (of_weights - own)).mul_scalar(scale).cast(dtype);
            of_queries.push(of_scores.clone().matmul(keys.clone()));
            add(&mut of_keys, of_scores.transpose().matmul(query));
            add(&mut of_values, weights.cast(dtype).transpose().matmul(gradient));
        }
        let whole = |sum: Option<Tensor<4>>| sum.unwrap_or_else(|| keys.zeros_like()).cast(dtype).into_dispatch();
        [Tensor::cat(of_queries, 2).into_dispatch(), whole(of_keys), whole(of_values)]
    }
}

/// Sums over the parts in 32 bits.
fn add(sum: &mut Option<Tensor<4>>, part: Tensor<4>) {
    let part = part.cast(DType::F32);
    *sum = Some(match sum.take() {
        Some(sum) => sum + part,
        None => part,
    });
}
