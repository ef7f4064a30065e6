//! The fused operations over whole batches: arrays of the CPU to arrays, samples shared out among threads.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, Flex};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::attend::{self, Given, Room};
use super::depthwise::{self, KERNEL, Map};
use super::matrix::Shape;
use super::update::{self, Adam};
use super::{Fused, gelu, norm};

pub type Array = FloatTensor<Flex>;

/// Numbers that one thread takes care of at once: some tens of microseconds of work.
const AT_ONCE: usize = 1 << 14;

/// Rows whose gradients are summed together; the sums of all such groups are then added in their order.
const ROWS_AT_ONCE: usize = 256;

/// Samples whose gradients of kernels are summed together.
const SAMPLES_AT_ONCE: usize = 8;

impl Fused for Flex {
    fn fused_gelu(numbers: Array) -> Array {
        each(&numbers.to_contiguous(), gelu::gelu)
    }

    fn fused_exponential(numbers: Array) -> Array {
        each(&numbers.to_contiguous(), gelu::exponentials)
    }

    fn fused_norm(rows: Array, scale: Array, shift: Array, epsilon: f32) -> Array {
        let [rows, scale, shift] = [rows, scale, shift].map(|array| array.to_contiguous());
        let (scale, shift) = (scale.storage::<f32>(), shift.storage::<f32>());
        let at_once = ROWS_AT_ONCE * scale.len();
        let from = rows.storage::<f32>();
        written(&rows, |into| {
            let parts = from.par_chunks(at_once).zip(into.par_chunks_mut(at_once));
            parts.for_each(|(from, into)| norm::norm(from, scale, shift, epsilon, into));
        })
    }

    fn fused_attention(qkv: Array, real: Arc<[f32]>, shape: Shape) -> Array {
        let qkv = qkv.to_contiguous();
        let sample = shape.tokens * shape.width();
        let mut joined = vec![0.0; qkv.storage::<f32>().len() / 3];
        let samples = samples(&qkv, &real, &shape, 3).zip(joined.par_chunks_mut(sample));
        samples.for_each_init(Room::default, |room, (given, into)| attend::attend(&given, into, room));
        let batch = joined.len() / sample;
        Array::from_data(TensorData::new(joined, [batch, shape.tokens, shape.width()]))
    }

    fn fused_draw(pair: Array, sharpness: Array, real: Arc<[f32]>, shape: Shape) -> Array {
        let [pair, sharpness] = [pair, sharpness].map(|array| array.to_contiguous());
        let sharpness = sharpness.storage::<f32>();
        written(&pair, |into| {
            let samples = samples(&pair, &real, &shape, 2).zip(into.par_chunks_mut(2 * shape.tokens * shape.width()));
            samples.for_each_init(Room::default, |room, (given, into)| attend::draw(&given, sharpness, into, room));
        })
    }

    fn fused_depthwise(map: Array, kernels: Array, shift: Array, shape: Map) -> Array {
        let [map, kernels, shift] = [map, kernels, shift].map(|array| array.to_contiguous());
        let kernels = depthwise::turned(kernels.storage::<f32>(), shape.channels, false);
        convolved(&shape, &map, &kernels, shift.storage::<f32>())
    }
}

/// The convolutions of all samples.
fn convolved(shape: &Map, from: &Array, kernels: &[f32], shift: &[f32]) -> Array {
    written(from, |into| {
        let samples = from.storage::<f32>().par_chunks(shape.numbers()).zip(into.par_chunks_mut(shape.numbers()));
        samples.for_each_init(Vec::new, |room, (from, into)| {
            depthwise::convolve(shape, from, kernels, shift, into, room);
        });
    })
}

/// The gradients of map, kernels and shift.
pub fn depthwise_slope(shape: &Map, map: &Array, kernels: &Array, gradient: &Array) -> [Array; 3] {
    let gradient = gradient.to_contiguous();
    let (channels, sample) = (shape.channels, shape.numbers());
    let mirrored = depthwise::turned(kernels.storage::<f32>(), channels, true);
    let of_map = convolved(shape, &gradient, &mirrored, &vec![0.0; channels]);

    let taps = KERNEL * KERNEL;
    let groups = map.storage::<f32>().par_chunks(SAMPLES_AT_ONCE * sample);
    let groups = groups.zip(gradient.storage::<f32>().par_chunks(SAMPLES_AT_ONCE * sample));
    let mut sums = vec![0.0; groups.len() * (taps + 1) * channels];
    groups.zip(sums.par_chunks_mut((taps + 1) * channels)).for_each(|((from, gradient), sums)| {
        let (of_kernels, of_shift) = sums.split_at_mut(taps * channels);
        let mut room = Vec::new();
        for (from, gradient) in from.chunks_exact(sample).zip(gradient.chunks_exact(sample)) {
            depthwise::add_slope(shape, from, gradient, of_kernels, of_shift, &mut room);
        }
    });
    let mut of_kernels = total(&sums, (taps + 1) * channels);
    let of_shift = of_kernels.split_off(taps * channels);
    let turned_back = (0..channels * taps).map(|at| of_kernels[at % taps * channels + at / taps]).collect::<Vec<f32>>();
    let of_kernels = Array::from_data(TensorData::new(turned_back, [channels, 1, KERNEL, KERNEL]));
    [of_map, of_kernels, row(of_shift)]
}

/// What the heads of each sample are given; `parts` says of how many kinds of features.
fn samples<'a>(
    features: &'a Array,
    real: &'a [f32],
    shape: &'a Shape,
    parts: usize,
) -> impl IndexedParallelIterator<Item = Given<'a>> {
    let samples = features.storage::<f32>().par_chunks(parts * shape.tokens * shape.width()).enumerate();
    samples.map(move |(number, features)| {
        let real = if real.is_empty() { real } else { &real[number * shape.tokens..][..shape.tokens] };
        Given { shape, features, real }
    })
}

/// An array of the same shape, each part of which `write` makes from the same part of `from`.
fn each(from: &Array, write: fn(&[f32], &mut [f32])) -> Array {
    written(from, |into| {
        let parts = from.storage::<f32>().par_chunks(AT_ONCE).zip(into.par_chunks_mut(AT_ONCE));
        parts.for_each(|(from, into)| write(from, into));
    })
}

/// An array of the same shape, which `write` fills.
fn written(like: &Array, write: impl FnOnce(&mut [f32])) -> Array {
    let mut into = Array::empty(like.layout().shape().clone(), like.dtype());
    write(into.storage_mut::<f32>());
    into
}

/// The array of a tensor that is on the CPU and off the record.
pub fn array<const D: usize>(tensor: Tensor<D>) -> Array {
    match tensor.into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(array)) => array,
        _ => unreachable!("only tensors of the CPU that are off the record are updated here"),
    }
}

pub fn tensor<const D: usize>(array: Array) -> Tensor<D> {
    let kind = DispatchTensorKind::Flex(BackendTensor::Float(array));
    Tensor::from_dispatch(DispatchTensor { kind, autodiff: DispatchAutodiffContext::Disabled })
}

/// Parameters and both moments after an update.
pub fn adam(rule: &Adam, gradient: &Array, numbers: [Array; 3]) -> [Array; 3] {
    let gradient = gradient.to_contiguous();
    let mut numbers = numbers.map(dense);
    let count = gradient.storage::<f32>().len();
    assert!(numbers.iter().all(|array| array.storage::<f32>().len() == count), "moments of another parameter");
    let [parameters, first, second] =
        numbers.each_mut().map(|array| array.storage_mut::<f32>().par_chunks_mut(AT_ONCE));
    let parts = gradient.storage::<f32>().par_chunks(AT_ONCE).zip(parameters).zip(first.zip(second));
    parts.for_each(|((gradient, parameters), (first, second))| {
        update::adam(rule, gradient, parameters, first, second);
    });
    numbers
}

/// An average after a step of so large shares.
pub fn blend([kept, taken]: [f32; 2], average: Array, current: &Array) -> Array {
    let (mut average, current) = (dense(average), current.to_contiguous());
    let averages = average.storage_mut::<f32>().par_chunks_mut(AT_ONCE);
    let parts = current.storage::<f32>().par_chunks(AT_ONCE).zip(averages);
    parts.for_each(|(current, averages)| update::blend(kept, taken, current, averages));
    average
}

/// The array itself where it lies row by row: it is then written to without a copy, unless others hold it too.
pub fn dense(array: Array) -> Array {
    array.to_contiguous()
}

/// Changes a gradient part by part, each by the same part of what was kept.
pub fn scaled(kept: &Array, gradient: Array, scale: fn(&[f32], &mut [f32])) -> Array {
    let mut gradient = dense(gradient);
    let parts = kept.storage::<f32>().par_chunks(AT_ONCE).zip(gradient.storage_mut::<f32>().par_chunks_mut(AT_ONCE));
    parts.for_each(|(kept, gradient)| scale(kept, gradient));
    gradient
}

/// The gradients of rows, scale and shift.
pub fn norm_slope(rows: &Array, scale: &Array, epsilon: f32, gradient: Array) -> [Array; 3] {
    let mut gradient = dense(gradient);
    let factors = scale.storage::<f32>();
    let width = factors.len();
    let at_once = ROWS_AT_ONCE * width;
    let groups = gradient.storage::<f32>().len().div_ceil(at_once);
    let mut sums = vec![0.0; 2 * width * groups];
    let rows = rows.storage::<f32>().par_chunks(at_once);
    let parts = rows.zip(gradient.storage_mut::<f32>().par_chunks_mut(at_once)).zip(sums.par_chunks_mut(2 * width));
    parts.for_each(|((rows, gradient), sums)| {
        let (of_scale, of_shift) = sums.split_at_mut(width);
        norm::slope(rows, factors, epsilon, gradient, of_scale, of_shift);
    });
    let mut of_scale = total(&sums, 2 * width);
    let of_shift = of_scale.split_off(width);
    [gradient, row(of_scale), row(of_shift)]
}

/// The gradient of queries, keys and values.
pub fn attention_slope(qkv: &Array, real: &[f32], shape: &Shape, gradient: &Array) -> Array {
    let gradient = gradient.to_contiguous();
    let sample = shape.tokens * shape.width();
    written(qkv, |into| {
        let arrays = gradient.storage::<f32>().par_chunks(sample).zip(into.par_chunks_mut(3 * sample));
        let samples = samples(qkv, real, shape, 3).zip(arrays);
        samples.for_each_init(Room::default, |room, (given, (gradient, into))| {
            attend::slope(&given, gradient, into, room);
        });
    })
}

/// The gradients of queries and keys, and of the inverse temperatures.
pub fn draw_slope(pair: &Array, sharpness: &Array, real: &[f32], shape: &Shape, gradient: &Array) -> [Array; 2] {
    let gradient = gradient.to_contiguous();
    let sharpness = sharpness.storage::<f32>();
    let sample = 2 * shape.tokens * shape.width();
    let mut sums = vec![0.0; gradient.storage::<f32>().len() / sample * shape.heads];
    let of_pair = written(pair, |into| {
        let arrays = gradient.storage::<f32>().par_chunks(sample).zip(into.par_chunks_mut(sample));
        let samples = samples(pair, real, shape, 2).zip(arrays).zip(sums.par_chunks_mut(shape.heads));
        samples.for_each_init(Room::default, |room, ((given, (gradient, into)), of_sharpness)| {
            attend::draw_slope(&given, sharpness, gradient, into, of_sharpness, room);
        });
    });
    [of_pair, row(total(&sums, shape.heads))]
}

/// The sum of rows of so many numbers, in their order.
fn total(rows: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        total.iter_mut().zip(row).for_each(|(total, number)| *total += number);
    }
    total
}

fn row(numbers: Vec<f32>) -> Array {
    let width = numbers.len();
    Array::from_data(TensorData::new(numbers, [width]))
}
