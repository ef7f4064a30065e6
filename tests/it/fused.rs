//! What the CPU computes in one pass, beside the tensor library's own operations: values, gradients of every input, and
//! the same bytes for any number of threads.

use std::sync::Arc;

use burn::nn::{LayerNormConfig, LinearConfig};
use burn::optim::{AdamWConfig, Optimizer as _};
use burn::tensor::module::{attention, conv2d};
use burn::tensor::ops::{AttentionModuleOptions, ConvOptions};
use burn::tensor::{Bool, Device, Gradients, Tensor, TensorData, activation};
use saccade::model::fused::{self, KERNEL, LayerNorm, elsewhere};
use saccade::train::{AdamW, optimizer};

/// Of the largest value: sums of up to some hundred 32-bit numbers in another order, divided by the small deviations of
/// rows of seven numbers; the library's own are as far off.
const TOLERANCE: f32 = 5e-6;
/// Widths and lengths on both sides of whole vectors.
const AWKWARD: [usize; 5] = [1, 7, 16, 33, 50];

#[test]
fn gelu_is_the_exact_one_with_its_slope() {
    for length in AWKWARD {
        let numbers = || recorded(&[3, length], 4.0).reshape([3, length]);
        let (ours, theirs) = (numbers(), numbers());
        let outputs = [fused::gelu(ours.clone()), activation::gelu(theirs.clone())];
        check("gelu", length, outputs, &[[&of(&ours), &of(&theirs)]]);
    }
}

#[test]
fn gelu_elsewhere_has_the_exact_slope_too() {
    let numbers = || recorded(&[3, 50], 4.0).reshape([3, 50]);
    let (ours, theirs) = (numbers(), numbers());
    let outputs = [elsewhere::gelu(ours.clone()), activation::gelu(theirs.clone())];
    check("gelu elsewhere", 50, outputs, &[[&of(&ours), &of(&theirs)]]);
}

#[test]
fn gelu_is_nothing_far_below_zero_and_the_number_itself_far_above() {
    let numbers: [f32; 8] = [-1e30, -100.0, -9.0, -0.0, 0.0, 9.0, 100.0, 1e30];
    let gelu = fused::gelu(Tensor::<1>::from_data(TensorData::from(numbers), &Device::flex()));
    assert_eq!(values(gelu), [0.0, 0.0, 0.0, 0.0, 0.0, 9.0, 100.0, 1e30]);
}

#[test]
fn exponential_is_the_standard_librarys_and_vanishes_far_below_zero() {
    let numbers: Vec<f32> = (-900..880).map(|tenth| tenth as f32 / 10.0).chain([-1e30, -88.0]).collect();
    let ours = values(fused::exponential(Tensor::<1>::from_floats(numbers.as_slice(), &Device::flex())));
    for (number, ours) in numbers.into_iter().zip(ours) {
        let theirs = if number < -87.3 { 0.0 } else { f64::from(number).exp() };
        assert!((f64::from(ours) - theirs).abs() <= 1e-6 * theirs, "exp({number}) = {ours:e}, not {theirs:e}");
    }
    let (ours, theirs) = (recorded(&[2, 33], 3.0), recorded(&[2, 33], 3.0));
    let [ours, theirs] = [ours, theirs].map(|numbers| numbers.reshape([2, 33]));
    check("exp", 33, [fused::exponential(ours.clone()), theirs.clone().exp()], &[[&of(&ours), &of(&theirs)]]);
}

#[test]
fn updates_have_the_bits_of_the_librarys_own_rule() {
    const RATE: f64 = 0.013;
    const DECAY: f64 = 0.04;
    let device = Device::flex().autodiff();
    // More weights than a thread takes care of at once, and biases that fill no vector.
    let mut module = LinearConfig::new(129, 257).init(&device);
    let ids = [module.weight.id, module.bias.as_ref().expect("a bias").id];
    let names = ["weight", "bias"].map(String::from).into_iter().zip(ids).collect();
    let inputs = Tensor::<2>::from_data(TensorData::new(wave(5 * 129, 1.0), [5, 129]), &device);
    let (mut ours, mut states) = (AdamW::new(), [None, None]);
    for step in 0..4 {
        let loss = (module.forward(inputs.clone()) * (1.5 + step as f32)).sin().sum();
        let gradients = optimizer::Gradients::of(&loss, &module);
        let flat = |module: &burn::nn::Linear| {
            let bias = module.bias.as_ref().expect("a bias").val().inner();
            [module.weight.val().inner().reshape([129 * 257]), bias]
        };
        let theirs: Vec<_> = flat(&module)
            .into_iter()
            .zip(ids)
            .zip([DECAY, 0.0])
            .zip(&mut states)
            .map(|(((flat, id), decay), state)| {
                let rule = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(decay as f32).build();
                let (flat, next) = rule.step(RATE, flat, gradients.get(id).expect("a gradient"), state.take());
                *state = next;
                flat
            })
            .collect();
        module = ours.step(module, gradients, RATE, DECAY);
        let (moments, counts) = ours.state(&names).expect("a state");
        for (((name, ours), theirs), state) in
            ["weight", "bias"].into_iter().zip(flat(&module)).zip(theirs).zip(&states)
        {
            assert_eq!(bits(ours), bits(theirs), "{name} after step {step}");
            let momentum = &state.as_ref().expect("a state").momentum;
            assert_eq!(counts[name], momentum.time, "{name}");
            for (prefix, theirs) in [("moment1", &momentum.moment_1), ("moment2", &momentum.moment_2)] {
                let ours = moments[&format!("{prefix}.{name}")].values.iter().map(|value| value.to_bits());
                assert!(ours.eq(bits(theirs.clone())), "{prefix}.{name} after step {step}");
            }
        }
    }
}

#[test]
fn a_moving_average_has_the_bits_of_the_librarys_operations() {
    let tensor = |size| Tensor::<2>::from_data(TensorData::new(wave(129 * 257, size), [129, 257]), &Device::flex());
    let (average, current) = (tensor(1.0), tensor(3.0));
    let ours = bits(fused::blend(average.clone(), current.clone(), 0.996));
    assert_eq!(ours, bits(average.mul_scalar(0.996) + current.mul_scalar(1.0 - 0.996)));
}

#[test]
fn norm_is_the_librarys_with_the_gradients_of_rows_scale_and_shift() {
    for width in AWKWARD.into_iter().filter(|&width| width > 1) {
        // More rows than are summed in one group.
        let rows = || recorded(&[300, width], 2.0).reshape([300, width]);
        let (ours, apart, theirs) = (rows(), rows(), rows());
        let [scale, shift] = [1.3, 0.4].map(|size| recorded(&[width], size).reshape([width]));
        let mut norm = LayerNorm::new(width, 1e-6, &device());
        norm.gamma = norm.gamma.map(|_| scale.clone());
        norm.beta = norm.beta.map(|_| shift.clone());
        let mut library = LayerNormConfig::new(width).with_epsilon(1e-6).init(&device());
        library.gamma = library.gamma.map(|_| scale.clone());
        library.beta = library.beta.map(|beta| beta.map(|_| shift.clone()));

        let by_elsewhere = |rows: Tensor<2>| elsewhere::norm(rows, scale.clone(), shift.clone(), 1e-6);
        for (name, ours, output) in
            [("norm", &ours, norm.forward(ours.clone())), ("norm elsewhere", &apart, by_elsewhere(apart.clone()))]
        {
            let outputs = [output, library.forward(theirs.clone())];
            let (of_scale, of_shift) = (of(&scale), of(&shift));
            let gradients: [[Gradient; 2]; 3] =
                [[&of(ours), &of(&theirs)], [&of_scale, &of_scale], [&of_shift, &of_shift]];
            check(name, width, outputs, &gradients);
        }
    }
}

#[test]
fn attention_is_the_librarys_whatever_is_hidden() {
    for (tokens, heads, head_width) in [(1, 1, 4), (5, 2, 8), (16, 1, 16), (33, 3, 20), (50, 2, 32)] {
        let width = heads * head_width;
        for hides in [false, true] {
            // The last samples' last tokens, and never all of a sample.
            let hidden: Vec<bool> =
                (0..3 * tokens).map(|at| hides && at % tokens > 0 && at / tokens + at % tokens > tokens).collect();
            let hidden = Tensor::<1, Bool>::from_data(TensorData::new(hidden, [3 * tokens]), &crate::device());
            let hidden = hidden.reshape([3, 1, 1, tokens]);
            let given = || recorded(&[3, tokens, 3 * width], 2.0).reshape([3, tokens, 3 * width]);
            let (ours, theirs) = (given(), given());

            let our_heads = fused::attention(&ours, heads, hides.then_some(&hidden)).unwrap();

            let apart = theirs.clone().reshape([3, tokens, 3, heads, head_width]).permute([2, 0, 3, 1, 4]);
            let [queries, keys, values] = [0, 1, 2].map(|part| apart.clone().narrow(0, part, 1).squeeze_dim::<4>(0));
            let mask = hides.then(|| hidden.clone().expand([3, heads, tokens, tokens]));
            let their_heads = attention(queries, keys, values, mask, None, AttentionModuleOptions::default());
            let their_heads = their_heads.swap_dims(1, 2).reshape([3, tokens, width]);
            check("attention", tokens, [our_heads, their_heads], &[[&of(&ours), &of(&theirs)]]);
        }
    }
}

/// Bytes that hold all weights at once, those of some queries, and those of less than one.
#[test]
fn norm_elsewhere_takes_views_of_any_rank() {
    let all = recorded(&[4, 5, 7, 12], 2.0).reshape::<4>([4, 5, 7, 12]);
    let apart = recorded(&[4, 5, 7, 12], 2.0).reshape::<4>([4, 5, 7, 12]);
    let [scale, shift] = [1.3, 0.4].map(|size| recorded(&[12], size).reshape::<1>([12]));
    let narrowed = |rows: &Tensor<4>| rows.clone().narrow(1, 1, 3).swap_dims(0, 2);
    let ours = elsewhere::norm(narrowed(&all), scale.clone(), shift.clone(), 1e-6);
    let rows = narrowed(&apart).reshape([7 * 3 * 4, 12]);
    let theirs = elsewhere::norm(rows, scale, shift, 1e-6).reshape([7, 3, 4, 12]);
    check("norm of a view", 12, [ours, theirs], &[[&of(&all), &of(&apart)]]);
}

#[test]
fn attention_elsewhere_is_the_librarys_whatever_is_hidden_and_however_few_weights_are_held() {
    for (tokens, bytes) in [(1, 1 << 20), (33, 1 << 20), (33, 3 * 2 * 33 * 4 * 10), (50, 1)] {
        for hides in [false, true] {
            let hidden: Vec<bool> =
                (0..3 * tokens).map(|at| hides && at % tokens > 0 && at / tokens + at % tokens > tokens / 2).collect();
            let hidden = Tensor::<1, Bool>::from_data(TensorData::new(hidden, [3 * tokens]), &crate::device());
            let hidden = hidden.reshape([3, 1, 1, tokens]);
            let given = |size| recorded(&[3, 2, tokens, 8], size).reshape::<4>([3, 2, tokens, 8]);
            let [ours, theirs] = [0, 1].map(|_| [2.0, 1.5, 0.7].map(given));

            let our_heads = elsewhere::attention(ours.clone(), hides.then_some(&hidden), bytes);

            let mask = hides.then(|| hidden.expand([3, 2, tokens, tokens]));
            let [queries, keys, values] = theirs.clone();
            let their_heads = attention(queries, keys, values, mask, None, AttentionModuleOptions::default());
            let [[q, k, v], [queries, keys, values]] = [&ours, &theirs].map(|three| three.each_ref().map(of));
            let gradients: [[Gradient; 2]; 3] = [[&q, &queries], [&k, &keys], [&v, &values]];
            check("attention elsewhere", tokens, [our_heads, their_heads], &gradients);
        }
    }
}

#[test]
fn tokens_of_the_energy_transformer_are_drawn_as_the_softmax_says_whatever_is_padding() {
    for (tokens, heads, head_width) in [(1, 1, 4), (5, 2, 8), (33, 3, 20), (50, 4, 16)] {
        let inner = heads * head_width;
        for pads in [false, true] {
            // Ever more of the last samples' last tokens, and never all of a sample.
            let real: Vec<f32> = (0..3 * tokens)
                .map(|at| if pads && at % tokens > 0 && at / tokens + at % tokens > tokens { 0.0 } else { 1.0 })
                .collect();
            let given = || recorded(&[3, tokens, 2 * inner], 1.5).reshape([3, tokens, 2 * inner]);
            let sharpness = || recorded(&[heads], 0.9).reshape([heads]);
            let (ours, theirs, our_sharpness, their_sharpness) = (given(), given(), sharpness(), sharpness());

            let flags: Arc<[f32]> = if pads { real.clone().into() } else { Vec::new().into() };
            let drawn = fused::draw(ours.clone(), our_sharpness.clone(), &flags);

            let apart = theirs.clone().reshape([3, tokens, 2, heads, head_width]).permute([2, 0, 3, 1, 4]);
            let [queries, keys] = [0, 1].map(|part| apart.clone().narrow(0, part, 1).squeeze_dim::<4>(0));
            let real = Tensor::<1>::from_data(TensorData::new(real, [3 * tokens]), &device());
            let (as_key, as_query) = (real.clone().reshape([3, 1, 1, tokens]), real.reshape([3, 1, tokens, 1]));
            let scores =
                queries.clone().matmul(keys.clone().transpose()) * their_sharpness.clone().reshape([1, heads, 1, 1]);
            let weights = activation::softmax(scores + (as_key - 1.0) * 1e9, 3) * as_query;
            let found = weights.clone().matmul(keys);
            let finders = weights.transpose().matmul(queries);
            let joined = |heads: Tensor<4>| heads.swap_dims(1, 2).reshape([3, tokens, inner]);
            let wanted = Tensor::cat(vec![joined(found), joined(finders)], 2);

            let gradients: [[Gradient; 2]; 2] =
                [[&of(&ours), &of(&theirs)], [&of(&our_sharpness), &of(&their_sharpness)]];
            check("draw", tokens, [drawn, wanted], &gradients);
        }
    }
}

#[test]
fn depthwise_convolution_is_the_librarys_with_the_gradients_of_map_kernels_and_shift() {
    for (batch, rows, columns, channels) in [(1, 1, 1, 16), (3, 2, 5, 16), (9, 4, 4, 32), (2, 9, 11, 48)] {
        let map = || recorded(&[batch, rows, columns, channels], 1.0).reshape([batch, rows, columns, channels]);
        let (ours, theirs) = (map(), map());
        let kernels = recorded(&[channels, 1, KERNEL, KERNEL], 0.7).reshape([channels, 1, KERNEL, KERNEL]);
        let shift = recorded(&[channels], 0.3).reshape([channels]);

        let our_map = fused::depthwise(&ours, kernels.clone(), shift.clone()).unwrap();

        let options = ConvOptions::new([1, 1], [KERNEL / 2; 2], [1, 1], channels);
        let channels_first = theirs.clone().permute([0, 3, 1, 2]);
        let their_map = conv2d(channels_first, kernels.clone(), Some(shift.clone()), options).permute([0, 2, 3, 1]);
        let (of_kernels, of_shift) = (of(&kernels), of(&shift));
        let gradients: [[Gradient; 2]; 3] =
            [[&of(&ours), &of(&theirs)], [&of_kernels, &of_kernels], [&of_shift, &of_shift]];
        check("depthwise", rows, [our_map, their_map], &gradients);
    }
    assert!(
        fused::depthwise(&recorded(&[1, 2, 2, 9], 1.0).reshape([1, 2, 2, 9]), zeros([9, 1, 7, 7]), zeros([9]))
            .is_none()
    );
}

#[test]
fn same_bytes_come_from_any_number_of_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let map = recorded(&[20, 6, 6, 32], 1.0).reshape([20, 6, 6, 32]);
            let (kernels, shift) =
                (recorded(&[32, 1, 7, 7], 0.5).reshape([32, 1, 7, 7]), recorded(&[32], 0.3).reshape([32]));
            let map_out = fused::depthwise(&map, kernels.clone(), shift.clone()).unwrap();
            let norm = LayerNorm::new(32, 1e-6, &device());
            let tokens = fused::gelu(norm.forward(map_out)).reshape([20, 12, 96]);
            let joined = fused::attention(&tokens, 2, None).unwrap();
            let joined = fused::draw(joined, recorded(&[2], 0.9).reshape([2]), &Vec::new().into());
            let gradients = weighted(joined.clone()).backward();
            let of = |tensor: Tensor<1>| values(tensor);
            [
                values(joined),
                of(map.grad(&gradients).unwrap().flatten(0, 3)),
                of(kernels.grad(&gradients).unwrap().flatten(0, 3)),
                of(shift.grad(&gradients).unwrap()),
                of(norm.gamma.val().grad(&gradients).unwrap()),
            ]
        })
    };
    assert_eq!(run(1), run(3));
}

fn device() -> Device {
    crate::device().autodiff()
}

/// Numbers without a pattern that a sum could cancel.
fn wave(count: usize, size: f32) -> Vec<f32> {
    (0..count).map(|at| size * (0.37 * at as f32 + 0.011 * (at * at % 97) as f32).sin()).collect()
}

/// A tensor whose gradient is asked for; flat, so that it can be given any shape without another name.
fn recorded(shape: &[usize], size: f32) -> Flat {
    Flat(wave(shape.iter().product(), size))
}

struct Flat(Vec<f32>);

impl Flat {
    fn reshape<const D: usize>(self, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.0, shape), &device()).require_grad()
    }
}

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &device())
}

fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

/// A sum in which every number has another weight.
fn weighted<const D: usize>(output: Tensor<D>) -> Tensor<1> {
    let shape = output.dims();
    let weights = wave(shape.iter().product(), 1.0);
    (output * Tensor::from_data(TensorData::new(weights, shape), &device())).sum()
}

/// The gradient of an input.
fn of<const D: usize>(input: &Tensor<D>) -> impl Fn(&Gradients) -> Vec<f32> {
    |gradients| values(input.grad(gradients).unwrap())
}

type Gradient<'a> = &'a dyn Fn(&Gradients) -> Vec<f32>;

/// Compares outputs, and the gradients of our inputs with those of theirs.
fn check<const D: usize>(what: &str, size: usize, [ours, theirs]: [Tensor<D>; 2], gradients: &[[Gradient; 2]]) {
    assert_close(&format!("{what} of {size}"), &values(ours.clone()), &values(theirs.clone()));
    let (of_ours, of_theirs) = (weighted(ours).backward(), weighted(theirs).backward());
    for (number, [ours, theirs]) in gradients.iter().enumerate() {
        let what = format!("gradient of input {number} of {what} of {size}");
        assert_close(&what, &ours(&of_ours), &theirs(&of_theirs));
    }
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}: another number of values");
    let largest = theirs.iter().fold(1.0, |most: f32, value| most.max(value.abs()));
    let worst = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs());
    let worst = worst.fold(0.0, |worst: f32, one| if one > worst || one.is_nan() { one } else { worst });
    assert!(worst <= TOLERANCE * crate::slack() * largest, "{what}: differs by {worst:e} of {largest}");
}
