//! Operations that the CPU computes in one pass, forward and backward, where the tensor library makes several: GELU,
//! exponentials, LayerNorm, attention over few tokens, depthwise convolution, the updates of optimizer and moving average. On
//! other devices they are the library's, but for the ways back in `elsewhere`.
//!
//! The arithmetic is in the files beside, slices to slices; `cpu` runs it over whole batches, and `record` puts it on the
//! record for the backward pass. All sums have one order, whatever the number of threads and the width of the processor's
//! vectors.

mod attend;
mod cpu;
mod depthwise;
pub mod elsewhere;
mod gelu;
mod lanes;
mod matrix;
mod norm;
mod record;
mod update;

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchTensorKind, backend_extension};
use burn::module::{Module, Param};
use burn::tensor::module::layer_norm;
use burn::tensor::{Bool, DType, Device, Tensor};

use self::depthwise::Map;
use self::lanes::LANES;
use self::matrix::Shape;

pub use self::depthwise::KERNEL;
pub use self::update::Adam;

/// The most tokens over which attention is computed here: beyond, its weights no longer fit a core's caches.
pub const MOST_TOKENS: usize = 512;

/// `x Φ(x)` of every number.
pub fn gelu<const D: usize>(numbers: Tensor<D>) -> Tensor<D> {
    if on_cpu(&numbers) {
        Tensor::from_dispatch(<Dispatch as Fused>::fused_gelu(numbers.into_dispatch()))
    } else if numbers.is_autodiff() {
        elsewhere::gelu(numbers)
    } else {
        burn::tensor::activation::gelu(numbers)
    }
}

/// Each row less its mean, over its deviation, scaled and shifted feature by feature.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`
    pub gamma: Param<Tensor<1>>,
    /// `[width]`
    pub beta: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNorm {
    /// Scale 1 and shift 0; `epsilon` is added to variances.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        let filled = |value: f32| Param::from_tensor(Tensor::full([width], value, device));
        Self { gamma: filled(1.0), beta: filled(0.0), epsilon }
    }

    /// In the precision of its scale, whatever that of the rows is.
    ///
    /// # Shapes
    /// - `rows`, output: `[..., width]`
    pub fn forward<const D: usize>(&self, rows: Tensor<D>) -> Tensor<D> {
        let (scale, shift) = (self.gamma.val(), self.beta.val());
        let rows = rows.cast(scale.dtype());
        assert_eq!(rows.dims()[D - 1..], scale.dims(), "a norm of another width");
        if on_cpu(&rows) && scale.dims() != [0] {
            let [rows, scale, shift] = [rows.into_dispatch(), scale.into_dispatch(), shift.into_dispatch()];
            Tensor::from_dispatch(<Dispatch as Fused>::fused_norm(rows, scale, shift, self.epsilon as f32))
        } else if rows.is_autodiff() && scale.is_autodiff() && shift.is_autodiff() {
            elsewhere::norm(rows, scale, shift, self.epsilon)
        } else {
            layer_norm(rows, scale, Some(shift), self.epsilon)
        }
    }
}

/// Attention of all heads, joined again; `None` where it is left to the tensor library.
///
/// # Shapes
/// - `qkv`: `[batch, tokens, 3 · width]`: queries of all heads, then keys, then values
/// - `hidden`: `[batch, 1, 1, tokens]`, true where a key is padding
/// - output: `[batch, tokens, width]`
pub fn attention(qkv: &Tensor<3>, heads: usize, hidden: Option<&Tensor<4, Bool>>) -> Option<Tensor<3>> {
    let [batch, tokens, width] = qkv.dims();
    let fits = hidden.is_none_or(|hidden| hidden.dims() == [batch, 1, 1, tokens]);
    if !on_cpu(qkv) || !(1..=MOST_TOKENS).contains(&tokens) || !fits {
        return None;
    }
    let real = hidden.map_or_else(Vec::new, |hidden| {
        hidden.clone().into_data().iter::<bool>().map(|hidden| if hidden { 0.0 } else { 1.0 }).collect()
    });
    let shape = Shape { tokens, heads, head_width: width / 3 / heads };
    Some(Tensor::from_dispatch(<Dispatch as Fused>::fused_attention(qkv.clone().into_dispatch(), real.into(), shape)))
}

/// Whether [`draw`] can be asked about so many such tokens.
pub fn can_draw<const D: usize>(tokens: &Tensor<D>, count: usize) -> bool {
    on_cpu(tokens) && (1..=MOST_TOKENS).contains(&count)
}

/// Where tokens are drawn in the Energy Transformer. Only where [`can_draw`] says so.
///
/// # Shapes
/// - `pair`: `[batch, tokens, 2 · heads · head_width]`: queries of all heads, then keys
/// - `sharpness`: `[heads]`, their inverse temperatures
/// - `real`: `[batch, tokens]`, 0 at padding; empty when every token is real
/// - output: `[batch, tokens, 2 · heads · head_width]`: for each query the keys that it finds, then for each key the
///   queries that find it, both weighted by the softmax of `sharpness · query · key` over the keys
pub fn draw(pair: Tensor<3>, sharpness: Tensor<1>, real: &Arc<[f32]>) -> Tensor<3> {
    let [batch, tokens, width] = pair.dims();
    let [heads] = sharpness.dims();
    assert!(real.is_empty() || real.len() == batch * tokens, "{} flags for {batch} x {tokens} tokens", real.len());
    let shape = Shape { tokens, heads, head_width: width / 2 / heads };
    let [pair, sharpness] = [pair.into_dispatch(), sharpness.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as Fused>::fused_draw(pair, sharpness, Arc::clone(real), shape))
}

/// The exponential of every number; 0 below the least normal number.
pub fn exponential<const D: usize>(numbers: Tensor<D>) -> Tensor<D> {
    if on_cpu(&numbers) {
        Tensor::from_dispatch(<Dispatch as Fused>::fused_exponential(numbers.into_dispatch()))
    } else {
        numbers.exp()
    }
}

/// A convolution of each channel with a kernel of its own, zeros around the map; `None` where it is left to the tensor
/// library.
///
/// # Shapes
/// - `map`, output: `[batch, rows, columns, channels]`
/// - `kernels`: `[channels, 1, 7, 7]`
/// - `shift`: `[channels]`
pub fn depthwise(map: &Tensor<4>, kernels: Tensor<4>, shift: Tensor<1>) -> Option<Tensor<4>> {
    let [_, rows, columns, channels] = map.dims();
    if !on_cpu(map) || !channels.is_multiple_of(LANES) || rows * columns * channels == 0 {
        return None;
    }
    assert_eq!((kernels.dims(), shift.dims()), ([channels, 1, KERNEL, KERNEL], [channels]), "{channels} channels");
    let [numbers, kernels, shift] = [map.clone().into_dispatch(), kernels.into_dispatch(), shift.into_dispatch()];
    let shape = Map { rows, columns, channels };
    Some(Tensor::from_dispatch(<Dispatch as Fused>::fused_depthwise(numbers, kernels, shift, shape)))
}

/// Whether [`adam`] can be asked about these parameters.
pub fn can_update(parameters: &Tensor<1>) -> bool {
    on_cpu(parameters)
}

/// Parameters and both moments after AdamW's update. Only where [`can_update`] says so.
///
/// # Shapes
/// - all: `[count]`, off the record
pub fn adam(rule: &Adam, gradient: Tensor<1>, numbers: [Tensor<1>; 3]) -> [Tensor<1>; 3] {
    cpu::adam(rule, &cpu::array(gradient), numbers.map(cpu::array)).map(cpu::tensor)
}

/// `average · kept + current · (1 - kept)`
///
/// # Shapes
/// - all: alike, off the record
pub fn blend<const D: usize>(average: Tensor<D>, current: Tensor<D>, kept: f64) -> Tensor<D> {
    if on_cpu(&average) {
        let [average, current] = [average, current].map(cpu::array);
        cpu::tensor(cpu::blend([kept, 1.0 - kept].map(|share| share as f32), average, &current))
    } else {
        average.mul_scalar(kept) + current.mul_scalar(1.0 - kept)
    }
}

/// True where [`Fused`] can be asked: 32-bit numbers on the CPU.
fn on_cpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    let kind = tensor.clone().into_dispatch().kind;
    let kind = if let DispatchTensorKind::Autodiff(inner) = kind { *inner } else { kind };
    matches!(kind, DispatchTensorKind::Flex(_)) && tensor.dtype() == DType::F32
}

/// What the CPU computes in one pass.
#[backend_extension(Flex, Autodiff)]
trait Fused: Backend {
    fn fused_gelu(numbers: FloatTensor<Self>) -> FloatTensor<Self>;

    fn fused_exponential(numbers: FloatTensor<Self>) -> FloatTensor<Self>;

    fn fused_norm(
        rows: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;

    /// `real` is 1 at real keys and 0 at padding; empty when all are real.
    fn fused_attention(qkv: FloatTensor<Self>, real: Arc<[f32]>, shape: Shape) -> FloatTensor<Self>;

    fn fused_draw(
        pair: FloatTensor<Self>,
        sharpness: FloatTensor<Self>,
        real: Arc<[f32]>,
        shape: Shape,
    ) -> FloatTensor<Self>;

    fn fused_depthwise(
        map: FloatTensor<Self>,
        kernels: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        shape: Map,
    ) -> FloatTensor<Self>;
}
