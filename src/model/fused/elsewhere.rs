//! What training computes where nothing is fused by hand: on GPUs, in bfloat16, and over more tokens than fit a core's
//! caches. The way forward is the tensor library's, but for attention in bfloat16; the way back is written out, as the
//! library's own is an approximation (GELU), keeps the weights of every query for every key (attention), or is put
//! together from operations that keep their numbers twice (LayerNorm).

use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::ops::Range;

use burn::backend::DispatchTensor;
use burn::tensor::activation::{self, softmax};
use burn::tensor::module;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, DType, Tensor};

use crate::model::recorded::{WayBack, recorded};

/// Bytes of attention's weights that are in memory at once on the way back, which has four or five more tensors of that
/// size: little of a GPU's memory. Other numbers were not measured.
pub const WEIGHT_BYTES: usize = 256 << 20;

/// What the score of a hidden key becomes: below every real score, and still a number.
const HIDDEN: f64 = -1e30;

/// `x Φ(x)` of numbers on the record, whose slope is the exact one.
pub fn gelu<const D: usize>(numbers: Tensor<D>) -> Tensor<D> {
    let way = Gelu { numbers: numbers.clone().inner() };
    let output = activation::gelu(way.numbers.clone());
    recorded::<_, 1, D>(way, [numbers.into_dispatch()], output)
}

/// Attention of each head, on the record. No weights are kept for the way back, which computes so many bytes of them
/// at a time.
///
/// # Shapes
/// - `queries`, `keys`, `values`, output: `[batch, heads, tokens, head_width]`
/// - `hidden`: `[batch, 1, 1, tokens]`, true where a key is padding
pub fn attention(parts: [Tensor<4>; 3], hidden: Option<&Tensor<4, Bool>>, weight_bytes: usize) -> Tensor<4> {
    let [queries, keys, values] = parts.clone().map(Tensor::inner);
    let hidden = hidden.map(|hidden| hidden.clone().inner());
    let mut given = Attention { queries, keys, values: values.clone(), hidden, output: values, weight_bytes };
    given.output = given.forward();
    let output = given.output.clone();
    recorded::<_, 3, 4>(given, parts.map(Tensor::into_dispatch), output)
}

/// Each row less its mean, over its deviation, scaled and shifted, on the record. Nothing but the rows is kept.
///
/// # Shapes
/// - `rows`, output: `[..., width]`
/// - `scale`, `shift`: `[width]`
pub fn norm<const D: usize>(rows: Tensor<D>, scale: Tensor<1>, shift: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let way = Norm { rows: rows.clone().inner(), scale: scale.clone().inner(), epsilon };
    let output = module::layer_norm(way.rows.clone(), way.scale.clone(), Some(shift.clone().inner()), epsilon);
    recorded::<_, 3, D>(way, [rows.into_dispatch(), scale.into_dispatch(), shift.into_dispatch()], output)
}

#[derive(Clone, Debug)]
struct Norm<const D: usize> {
    rows: Tensor<D>,
    scale: Tensor<1>,
    epsilon: f64,
}

impl<const D: usize> WayBack<3> for Norm<D> {
    fn gradients(self, of_output: DispatchTensor) -> [DispatchTensor; 3] {
        let shape = self.rows.dims();
        let [width] = self.scale.dims();
        let count = shape.iter().product::<usize>() / width.max(1);
        let flat = |rows: Tensor<D>| rows.reshape([count, width]);
        let (rows, slope) = (flat(self.rows), flat(Tensor::from_dispatch(of_output)));
        let centred = rows.clone() - rows.mean_dim(1);
        let narrowness = centred.clone().square().mean_dim(1).add_scalar(self.epsilon).sqrt().recip();
        let normed = centred * narrowness.clone();
        let of_scale = (slope.clone() * normed.clone()).sum_dim(0).reshape([width]);
        let of_shift = slope.clone().sum_dim(0).reshape([width]);
        // A row's mean and deviation hang on all of it: neither their sum nor their spread is left to the row.
        let slope = slope * self.scale.unsqueeze();
        let along = (slope.clone() * normed.clone()).mean_dim(1);
        let of_rows = (slope.clone() - slope.mean_dim(1) - normed * along) * narrowness;
        [of_rows.reshape(shape).into_dispatch(), of_scale.into_dispatch(), of_shift.into_dispatch()]
    }
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

impl Attention {
    /// By the library where it keeps 32 bits: of narrower numbers it may make a narrower softmax.
    fn forward(&self) -> Tensor<4> {
        let (dtype, values) = (self.queries.dtype(), self.values.clone());
        if dtype == DType::F32 {
            let (queries, keys) = (self.queries.clone(), self.keys.clone());
            let [batch, heads, tokens, _] = queries.dims();
            let mask = self.hidden.clone().map(|hidden| hidden.expand([batch, heads, tokens, tokens]));
            return module::attention(queries, keys, values, mask, None, AttentionModuleOptions::default());
        }
        let keys_turned = self.keys.clone().transpose();
        let weighted = |some: Range<usize>| {
            let query = self.queries.clone().narrow(2, some.start, some.len());
            self.weights(query, &keys_turned).cast(dtype).matmul(values.clone())
        };
        Tensor::cat(self.parts().map(weighted).collect(), 2)
    }

    /// How much some queries take from each key, in 32 bits: `[batch, heads, queries, tokens]`.
    fn weights(&self, query: Tensor<4>, keys_turned: &Tensor<4>) -> Tensor<4> {
        let scores = query.matmul(keys_turned.clone()).cast(DType::F32).mul_scalar(self.scale());
        let shape = scores.dims();
        softmax(
            match &self.hidden {
                Some(hidden) => scores.mask_fill(hidden.clone().expand(shape), HIDDEN),
                None => scores,
            },
            3,
        )
    }

    fn scale(&self) -> f64 {
        let [_, _, _, head_width] = self.queries.dims();
        (head_width as f64).sqrt().recip()
    }

    /// Queries whose weights are in memory together.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let [batch, heads, tokens, _] = self.queries.dims();
        let weights = batch * heads * tokens * tokens * size_of::<f32>();
        let parts = weights.div_ceil(self.weight_bytes.max(1)).clamp(1, tokens.max(1));
        let rows = tokens.div_ceil(parts).max(1);
        (0..tokens).step_by(rows).map(move |first| first..tokens.min(first + rows))
    }
}

/// The weights of some queries at a time are computed again, and each query's share of the softmax's slope comes from
/// its output (Dao et al. 2022, appendix B.4).
impl WayBack<3> for Attention {
    fn gradients(self, of_output: DispatchTensor) -> [DispatchTensor; 3] {
        let (slope, dtype) = (Tensor::<4>::from_dispatch(of_output), self.queries.dtype());
        let (keys_turned, values_turned) = (self.keys.clone().transpose(), self.values.clone().transpose());
        let mut of_queries = Vec::new();
        let [mut of_keys, mut of_values]: [Option<Tensor<4>>; 2] = [None, None];
        for part in self.parts() {
            let some = |of: &Tensor<4>| of.clone().narrow(2, part.start, part.len());
            let (query, gradient) = (some(&self.queries), some(&slope));
            let weights = self.weights(query.clone(), &keys_turned);
            let own = (gradient.clone().cast(DType::F32) * some(&self.output).cast(DType::F32)).sum_dim(3);
            let of_weights = gradient.clone().matmul(values_turned.clone()).cast(DType::F32);
            let of_scores = (weights.clone() * (of_weights - own)).mul_scalar(self.scale()).cast(dtype);
            of_queries.push(of_scores.clone().matmul(self.keys.clone()));
            add(&mut of_keys, of_scores.transpose().matmul(query));
            add(&mut of_values, weights.cast(dtype).transpose().matmul(gradient));
        }
        let whole = |sum: Option<Tensor<4>>| sum.unwrap_or_else(|| self.keys.zeros_like()).cast(dtype).into_dispatch();
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
