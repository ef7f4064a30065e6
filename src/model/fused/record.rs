//! The fused operations on the record for the backward pass: what each keeps, and what it hands back.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};

use super::cpu::{Array, attention_slope, dense, depthwise_slope, draw_slope, norm_slope, scaled};
use super::depthwise::Map;
use super::matrix::Shape;
use super::{Fused, gelu};

/// Hands each parent that wants one its gradient.
fn register<const N: usize, S>(ops: Ops<S, N>, gradients: &mut Gradients, slopes: [Array; N]) {
    for (parent, slope) in ops.parents.into_iter().zip(slopes) {
        if let Some(parent) = parent {
            gradients.register::<Flex>(parent.id, slope);
        }
    }
}

#[derive(Debug)]
struct GeluSlope;

impl Backward<Flex, 1> for GeluSlope {
    /// The numbers.
    type State = Array;

    fn backward(self, ops: Ops<Array, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let slope = scaled(&ops.state, gradients.consume::<Flex>(&ops.node), gelu::slope);
        register(ops, gradients, [slope]);
    }
}

#[derive(Debug)]
struct ExponentialSlope;

impl Backward<Flex, 1> for ExponentialSlope {
    /// The exponentials.
    type State = Array;

    fn backward(self, ops: Ops<Array, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let slope = scaled(&ops.state, gradients.consume::<Flex>(&ops.node), gelu::multiply);
        register(ops, gradients, [slope]);
    }
}

#[derive(Debug)]
struct NormSlope;

impl Backward<Flex, 3> for NormSlope {
    /// Rows, scale and epsilon.
    type State = (Array, Array, f32);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (rows, scale, epsilon) = &ops.state;
        let slopes = norm_slope(rows, scale, *epsilon, gradients.consume::<Flex>(&ops.node));
        register(ops, gradients, slopes);
    }
}

#[derive(Debug)]
struct AttentionSlope;

impl Backward<Flex, 1> for AttentionSlope {
    /// Queries, keys and values; which tokens are real.
    type State = (Array, Arc<[f32]>, Shape);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (qkv, real, shape) = &ops.state;
        let slope = attention_slope(qkv, real, shape, &gradients.consume::<Flex>(&ops.node));
        register(ops, gradients, [slope]);
    }
}

#[derive(Debug)]
struct DrawSlope;

impl Backward<Flex, 2> for DrawSlope {
    /// Queries and keys; inverse temperatures; which tokens are real.
    type State = (Array, Array, Arc<[f32]>, Shape);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (pair, sharpness, real, shape) = &ops.state;
        let slopes = draw_slope(pair, sharpness, real, shape, &gradients.consume::<Flex>(&ops.node));
        register(ops, gradients, slopes);
    }
}

#[derive(Debug)]
struct DepthwiseSlope;

impl Backward<Flex, 3> for DepthwiseSlope {
    /// The map and the kernels.
    type State = (Array, Array, Map);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (map, kernels, shape) = &ops.state;
        let slopes = depthwise_slope(shape, map, kernels, &gradients.consume::<Flex>(&ops.node));
        register(ops, gradients, slopes);
    }
}

/// Records an operation: what it needs of the way forward, and what it gave.
fn recorded<C: CheckpointStrategy, B, S, const N: usize>(
    slope: B,
    parents: [NodeGuard; N],
    state: S,
    output: Array,
) -> FloatTensor<Autodiff<Flex, C>>
where
    B: Backward<Flex, N, State = S>,
    S: Clone + Send + std::fmt::Debug + 'static,
{
    match slope.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn fused_gelu(numbers: FloatTensor<Self>) -> FloatTensor<Self> {
        let (numbers, node) = numbers.into_parts();
        let numbers = dense(numbers);
        let output = Flex::fused_gelu(numbers.clone());
        recorded::<C, _, _, 1>(GeluSlope, [node], numbers, output)
    }

    fn fused_exponential(numbers: FloatTensor<Self>) -> FloatTensor<Self> {
        let (numbers, node) = numbers.into_parts();
        let output = Flex::fused_exponential(numbers);
        recorded::<C, _, _, 1>(ExponentialSlope, [node], output.clone(), output)
    }

    fn fused_norm(
        rows: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let [(rows, of_rows), (scale, of_scale), (shift, of_shift)] =
            [rows, scale, shift].map(FloatTensor::<Self>::into_parts);
        let [rows, scale] = [rows, scale].map(dense);
        let output = Flex::fused_norm(rows.clone(), scale.clone(), shift, epsilon);
        recorded::<C, _, _, 3>(NormSlope, [of_rows, of_scale, of_shift], (rows, scale, epsilon), output)
    }

    fn fused_attention(qkv: FloatTensor<Self>, real: Arc<[f32]>, shape: Shape) -> FloatTensor<Self> {
        let (qkv, node) = qkv.into_parts();
        let qkv = dense(qkv);
        let output = Flex::fused_attention(qkv.clone(), Arc::clone(&real), shape);
        recorded::<C, _, _, 1>(AttentionSlope, [node], (qkv, real, shape), output)
    }

    fn fused_draw(
        pair: FloatTensor<Self>,
        sharpness: FloatTensor<Self>,
        real: Arc<[f32]>,
        shape: Shape,
    ) -> FloatTensor<Self> {
        let [(pair, of_pair), (sharpness, of_sharpness)] = [pair, sharpness].map(FloatTensor::<Self>::into_parts);
        let [pair, sharpness] = [pair, sharpness].map(dense);
        let output = Flex::fused_draw(pair.clone(), sharpness.clone(), Arc::clone(&real), shape);
        recorded::<C, _, _, 2>(DrawSlope, [of_pair, of_sharpness], (pair, sharpness, real, shape), output)
    }

    fn fused_depthwise(
        map: FloatTensor<Self>,
        kernels: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        shape: Map,
    ) -> FloatTensor<Self> {
        let [(map, of_map), (kernels, of_kernels), (shift, of_shift)] =
            [map, kernels, shift].map(FloatTensor::<Self>::into_parts);
        let [map, kernels] = [map, kernels].map(dense);
        let output = Flex::fused_depthwise(map.clone(), kernels.clone(), shift, shape);
        recorded::<C, _, _, 3>(DepthwiseSlope, [of_map, of_kernels, of_shift], (map, kernels, shape), output)
    }
}
