//! The Energy Transformer: against its reference implementation, and what must hold of any energy and its gradient.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Distribution, FloatDType, Gradients, Tensor, TensorData};
use saccade::checkpoint::read_arrays;
use saccade::model::energy::{EnergyBlock, EnergyBlockConfig};
use saccade::model::patch::patches;
use saccade::model::weights::{self, Array, Weights};
use saccade::model::{Choice, EnergyConfig, EnergyPredictorConfig, FirstWeights, Lookup, Memory, WeightInit};
use serde_json::Value;

use crate::{device, reference, slack};

/// What 32-bit floats allow in a forward pass; of the largest value where that is above 1.
const FORWARD: f64 = 1e-5;
/// What they allow in gradients, against the largest value.
const GRADIENT: f64 = 1e-4;

const KINDS: [(Memory, &str); 2] = [(Memory::Relu, "relu"), (Memory::Softmax, "softmax")];

#[test]
fn tokens_go_where_the_reference_takes_them() {
    for (memory, name) in KINDS {
        let case = Reference::open(memory, name);
        let block = case.block(&device());
        let tokens = (case.tensor::<2>("io.x") + case.positions()).unsqueeze();

        let (watched, _) = block.forward_watched(tokens.clone(), None);
        for ours in [block.forward(tokens, None), watched] {
            let theirs = case.numbers("io.y");
            assert_close(&format!("{name} io.y"), &values(ours), &theirs, FORWARD * largest(&theirs).max(1.0));
        }
    }
}

#[test]
fn chosen_tokens_go_where_the_reference_takes_them() {
    for (memory, name) in KINDS {
        let case = Reference::open(memory, name);
        let indices: Vec<u32> = case.numbers("io.indices").iter().map(|&index| index as u32).collect();
        let device = device();
        let choice = Choice::new(&indices, &vec![true; indices.len()], indices.len(), Lookup::Rows, &device);
        let tokens = choice.take(case.tensor::<2>("io.x").unsqueeze()) + choice.take_shared(case.positions());

        let ours = case.block(&device).forward(tokens, None);

        let theirs = case.numbers("io.y_filtered");
        assert_close(&format!("{name} io.y_filtered"), &values(ours), &theirs, FORWARD * largest(&theirs).max(1.0));
    }
}

#[test]
fn energy_at_the_start_is_the_references() {
    for (memory, name) in KINDS {
        let case = Reference::open(memory, name);
        let block = case.block(&device());
        let tokens: Tensor<3> = (case.tensor::<2>("io.x") + case.positions()).unsqueeze();
        let [_, count, _] = tokens.dims();
        let expected = case.numbers("io.energy_at_start");

        let (energy, _) = block.energy_and_gradient(block.norm.forward(tokens.clone()), None);
        assert_close(&format!("{name} energy"), &values(energy), &expected, FORWARD * expected[0].abs());

        let (_, energies) = block.forward_watched(tokens, None);
        let watched = values(energies)[0] * count as f64;
        assert_close(&format!("{name} watched energy"), &[watched], &expected, FORWARD * expected[0].abs());
    }
}

#[test]
fn gradients_of_parameters_and_tokens_are_the_references() {
    for (memory, name) in KINDS {
        let case = Reference::open(memory, name);
        let block = case.block(&device().autodiff());
        // The positions are added to the tokens once: the gradient of either is that of the sum.
        let tokens = (case.tensor::<2>("io.x") + case.positions()).unsqueeze().autodiff().require_grad();

        let weighted = block.forward(tokens.clone(), None) * case.tensor::<2>("io.cotangent").unsqueeze().autodiff();
        let gradients = weighted.sum().backward();

        let [scale, shift] = [&block.norm.gamma, &block.norm.beta];
        let of = |parameter: &Param<Tensor<1>>| values(parameter.val().grad(&gradients).unwrap());
        let matrix = |parameter: &Param<Tensor<2>>| values(parameter.val().grad(&gradients).unwrap());
        let (attention, memory) = (&block.attention, &block.memory);
        let ours = [
            ("norm.weight", of(scale)),
            ("norm.bias", of(shift)),
            ("mha.Wq", matrix(&attention.queries)),
            ("mha.Wk", matrix(&attention.keys)),
            ("mha.beta", of(&attention.beta)),
            ("hopfield.W", matrix(&memory.patterns)),
            ("hopfield.beta", of(&memory.beta)),
            ("pos_embedding", values(tokens.grad(&gradients).unwrap())),
        ];
        for (parameter, ours) in ours {
            let theirs = case.parameter(&format!("grad.{parameter}")).values;
            let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
            let largest = largest(&theirs);
            assert!(largest > 0.0, "{name} {parameter}: the reference's gradient is nothing");
            assert_close(&format!("{name} gradient of {parameter}"), &ours, &theirs, GRADIENT * largest);
        }
    }
}

/// Central differences in 64-bit floats: rounding leaves 1e-9 of them, and a memory that begins to be excited on the way
/// its slope's square times a quarter of the step at most, since the relu memory's second derivative jumps there.
#[test]
fn gradient_is_that_of_the_energy() {
    const STEP: f64 = 1e-5;
    for (memory, name) in KINDS {
        for real in [None, Some(padding())] {
            let block = in_doubles(strong(memory, 50.0));
            let tokens = drawn(1).cast(FloatDType::F64);
            let energy = |tokens: Tensor<3>| values(block.energy_and_gradient(tokens, real.clone()).0);
            let (_, gradient) = block.energy_and_gradient(tokens.clone(), real.clone());
            for direction in 2..6 {
                let direction = drawn(direction).cast(FloatDType::F64);
                let above = energy(tokens.clone() + direction.clone() * STEP);
                let below = energy(tokens.clone() - direction.clone() * STEP);
                let differences: Vec<f64> = above.iter().zip(below).map(|(a, b)| (a - b) / (2.0 * STEP)).collect();
                let slopes = values((gradient.clone() * direction).sum_dim(2).sum_dim(1));
                let largest = largest(&slopes);
                assert!(largest > 1e-2, "{name}: the energy is flat, {slopes:?}");
                assert_close(&format!("{name} slope"), &slopes, &differences, 1e-6 * largest.max(1.0));
            }
        }
    }
}

/// In 64-bit floats, since weights fall by less than 32 bits resolve as they are at first.
#[test]
fn energy_falls_with_every_iteration() {
    for (memory, name) in KINDS {
        for real in [None, Some(padding())] {
            for (strength, step_size) in [(1.0, 0.1), (1.0, 1.0), (10.0, 0.1), (10.0, 1.0), (50.0, 0.01), (50.0, 0.1)] {
                let mut block = in_doubles(strong(memory, strength));
                block.step_size = step_size;

                let (_, energies) = block.forward_watched(drawn(1).cast(FloatDType::F64), real.clone());

                let [batch, places] = energies.dims();
                assert_eq!([batch, places], [BATCH, block.iterations + 1]);
                for energies in values(energies).chunks(places) {
                    let falls = energies.windows(2).all(|pair| pair[1] < pair[0]);
                    assert!(falls, "{name}, weights times {strength}, step size {step_size}: {energies:?}");
                }
            }
        }
    }
}

/// At each iteration, the softmax over keys of each head's scores, from the energy's definition; and the tokens end where
/// they do without anybody watching, down the same energies.
#[test]
fn attention_of_each_iteration_is_that_of_its_energy() {
    let config = encoder_config(Memory::Relu);
    let encoder = strengthened(config.init(&mut WeightInit::new(3, FirstWeights::ByInputs), &device()), 2.0);
    let side = config.image;
    let images = Tensor::random([2, 3, side, side], Distribution::Normal(0.0, 1.0), &device());
    let (features, weights, energies) = encoder.forward_attending(images.clone());
    assert_close("features", &values(features), &values(encoder.forward(images.clone(), None)), 1e-5);
    assert_eq!(weights.len(), config.iterations);
    let (_, watched) = encoder.forward_watched(images.clone(), None);
    assert_close("energies", &values(energies), &values(watched), 1e-5);
    // With no step taken, every iteration sees the tokens of the first.
    let mut still = encoder;
    still.block.step_size = 0.0;
    let (_, weights, _) = still.forward_attending(images.clone());
    let [batch, heads, count, _] = weights[0].dims();
    let tokens = still.patch_embed.forward(patches(images, config.patch)) + still.positions.val().unsqueeze();
    let tokens = still.block.norm.forward(tokens.reshape([batch * count, config.width]));
    let project = |weights: Tensor<2>| {
        tokens.clone().matmul(weights).reshape([batch, count, heads, config.head_width]).swap_dims(1, 2)
    };
    let queries =
        project(still.block.attention.queries.val()) * still.block.attention.beta.val().reshape([1, heads, 1, 1]);
    let scores = values(queries.matmul(project(still.block.attention.keys.val()).transpose()));
    let softmax = |row: &[f64]| {
        let sum: f64 = row.iter().map(|score| score.exp()).sum();
        row.iter().map(|score| score.exp() / sum).collect::<Vec<f64>>()
    };
    let expected: Vec<f64> = scores.chunks(count).flat_map(softmax).collect();
    let spread = expected.iter().fold(0.0f64, |most, &weight| most.max(weight));
    assert!(spread > 2.0 / count as f64, "the heads look everywhere alike, so that this test sees nothing");
    for (iteration, weights) in weights.into_iter().enumerate() {
        assert_close(&format!("iteration {iteration}"), &values(weights), &expected, 1e-5);
    }
}

#[test]
fn padding_stays_where_it_is() {
    for (memory, name) in KINDS {
        let tokens = drawn(1);
        let real = padding();
        let moved = strong(memory, 50.0).forward(tokens.clone(), Some(real.clone())) - tokens;
        let moved = moved.abs().sum_dim(2).reshape(real.dims());
        for (moved, real) in values(moved).into_iter().zip(values(real)) {
            assert!((moved > 0.0) == (real > 0.0), "{name}: a token moved by {moved}, real: {real}");
        }
    }
}

#[test]
fn scores_beyond_an_exponential_give_finite_features() {
    for (memory, name) in KINDS {
        for real in [None, Some(padding())] {
            let (tokens, energies) = strong(memory, 20_000.0).forward_watched(drawn(1), real);
            let finite = values(tokens).into_iter().chain(values(energies)).all(f64::is_finite);
            assert!(finite, "{name}: not a number");
        }
    }
}

#[test]
fn encoder_gives_the_same_features_however_far_a_sample_is_padded() {
    for (memory, name) in KINDS {
        for lookup in [Lookup::Rows, Lookup::Gather] {
            let device = device();
            let encoder = strengthened(
                encoder_config(memory).init(&mut WeightInit::new(1, FirstWeights::Published), &device),
                50.0,
            );
            let images = Tensor::random([2, 3, 16, 16], Distribution::Normal(0.0, 1.0), &device);
            let [narrow, wide] = chosen(lookup);

            let (expected, energies) = encoder.forward_watched(images.clone(), Some(&narrow));
            let (padded, padded_energies) = encoder.forward_watched(images.clone(), Some(&wide));
            let unwatched = encoder.forward(images, Some(&wide));

            let [_, seen, _] = expected.dims();
            let expected = values(expected);
            for features in [padded, unwatched] {
                let features = values(features.narrow(1, 0, seen));
                assert_close(&format!("{name} features"), &features, &expected, FORWARD);
            }
            let energies = values(energies);
            let allowed = FORWARD * largest(&energies).max(1.0);
            assert_close(&format!("{name} energy"), &values(padded_energies), &energies, allowed);
        }
    }
}

#[test]
fn predictions_are_the_same_however_far_a_sample_is_padded() {
    for (memory, name) in KINDS {
        let device = device();
        let predictor = strengthened(
            predictor_config(memory).init(4, 16, &mut WeightInit::new(1, FirstWeights::Published), &device),
            50.0,
        );
        let encoded = Tensor::<3>::random([2, 5, 16], Distribution::Normal(0.0, 1.0), &device);
        let rubbish = Tensor::full([2, 3, 16], 9.0, &device);
        let [context, wide_context] = chosen(Lookup::Rows);
        // Two blocks of each of two samples, block by block; the second form has one place of padding.
        let blocks = [[0, 1], [4, 5], [10, 11], [14, 15]];
        let targets = Choice::new(blocks.as_flattened(), &[true; 8], 2, Lookup::Rows, &device);
        let padded: Vec<u32> = blocks.iter().flat_map(|&[first, second]| [first, second, 0]).collect();
        let wide_targets = Choice::new(&padded, &[true, true, false].repeat(4), 3, Lookup::Rows, &device);

        let expected = predictor.forward(encoded.clone(), &context, &targets);
        let wide = predictor.forward(Tensor::cat(vec![encoded.clone(), rubbish], 1), &wide_context, &wide_targets);

        assert_eq!(expected.dims(), [4, 2, 16]);
        let expected = values(expected);
        assert_close(&format!("{name} padded"), &values(wide.narrow(1, 0, 2)), &expected, FORWARD);

        let alone = |block: usize| {
            let targets = Choice::new(blocks[2 * block..][..2].as_flattened(), &[true; 4], 2, Lookup::Rows, &device);
            values(predictor.forward(encoded.clone(), &context, &targets))
        };
        let each: Vec<f64> = [alone(0), alone(1)].concat();
        assert_close(&format!("{name} block by block"), &each, &expected, FORWARD);
    }
}

#[test]
fn every_parameter_is_trained() {
    for (memory, name) in KINDS {
        let device = device().autodiff();
        let init = &mut WeightInit::new(1, FirstWeights::Published);
        let encoder = strengthened(encoder_config(memory).init(init, &device), 50.0);
        let predictor = strengthened(predictor_config(memory).init(4, 16, init, &device), 50.0);
        let images = Tensor::random([2, 3, 16, 16], Distribution::Normal(0.0, 1.0), &device);
        let [_, context] = chosen(Lookup::Rows).map(|choice| choice.autodiff());
        let targets = Choice::new(&[0, 1, 4, 5], &[true, true, true, false], 2, Lookup::Rows, &device);

        let predictions = predictor.forward(encoder.forward(images, Some(&context)), &context, &targets);
        let gradients = predictions.square().mean().backward();

        let mut untrained = Untrained { gradients: &gradients, count: 0 };
        encoder.visit(&mut untrained);
        predictor.visit(&mut untrained);
        assert_eq!(untrained.count, 0, "{name}: so many parameters have no gradient, or one that is not finite");
    }
}

#[test]
fn parameters_are_counted_exactly() {
    for (memory, name) in KINDS {
        let device = device();
        let (encoder, predictor) = (encoder_config(memory), predictor_config(memory));
        let in_encoder = encoder.init(&mut WeightInit::new(0, FirstWeights::Published), &device).num_params();
        let in_predictor = predictor
            .init(encoder.grid(), encoder.width, &mut WeightInit::new(0, FirstWeights::Published), &device)
            .num_params();
        assert_eq!(encoder.parameters(), in_encoder as u64, "{name}");
        assert_eq!(predictor.parameters(encoder.width, encoder.grid().pow(2)), in_predictor as u64, "{name}");
    }
}

#[test]
fn weights_begin_with_the_deviation_that_is_asked_for() {
    for deviation in [0.002, 0.02, 0.3] {
        let drawn = WeightInit::new(3, FirstWeights::Published).normal_of(deviation, [100, 100], &device());
        let drawn = values(drawn.val());
        let mean_square = drawn.iter().map(|value| value * value).sum::<f64>() / drawn.len() as f64;
        // Of 10,000 draws the deviation itself deviates by 0.7 %.
        let share = mean_square.sqrt() / deviation;
        assert!((share - 1.0).abs() < 0.03, "deviation {deviation}: {share} times that");
    }
}

#[test]
fn weights_by_inputs_begin_as_large_as_their_inputs_leave_them() {
    for (inputs, outputs) in [(36, 4000), (400, 400)] {
        let [published, by_inputs] = [FirstWeights::Published, FirstWeights::ByInputs].map(|first| {
            let drawn = values(WeightInit::new(3, first).matrix(0.002, [inputs, outputs], &device()).val());
            (drawn.iter().map(|value| value * value).sum::<f64>() / drawn.len() as f64).sqrt()
        });
        assert!((published / 0.002 - 1.0).abs() < 0.03, "{published} of {inputs} inputs");
        assert!((by_inputs * (inputs as f64).sqrt() - 1.0).abs() < 0.03, "{by_inputs} of {inputs} inputs");
    }
}

/// One memory kind of the reference, with its sizes.
struct Reference {
    memory: Memory,
    arrays: Weights,
    config: Value,
}

impl Reference {
    fn open(memory: Memory, name: &str) -> Self {
        let folder = reference().join("energy_transformer");
        let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        Self { memory, arrays: read_arrays(&folder.join(format!("{name}.safetensors"))).unwrap(), config }
    }

    fn block(&self, device: &Device) -> EnergyBlock {
        let number = |key: &str| self.config[key].as_u64().unwrap() as usize;
        let [heads, head_width, width] = self.arrays["mha.Wq"].shape[..] else { panic!("mha.Wq has no three axes") };
        assert_eq!((heads, width), (number("heads"), number("dim")));
        let config = EnergyBlockConfig {
            width,
            heads,
            head_width,
            memories: number("hidden_dim"),
            memory: self.memory,
            iterations: number("iterations"),
            step_size: self.config["alpha"].as_f64().unwrap(),
        };
        let names = [
            ("norm.gamma", "norm.weight"),
            ("norm.beta", "norm.bias"),
            ("attention.queries", "mha.Wq"),
            ("attention.keys", "mha.Wk"),
            ("attention.beta", "mha.beta"),
            ("memory.patterns", "hopfield.W"),
            ("memory.beta", "hopfield.beta"),
        ];
        let theirs = names.map(|(ours, theirs)| (ours.to_string(), self.parameter(theirs)));
        let mut block = config.init(&mut WeightInit::new(0, FirstWeights::Published), device);
        weights::apply(&mut block, Weights::from(theirs)).unwrap();
        block
    }

    /// A parameter, or its gradient, in our layout: heads side by side, features first.
    fn parameter(&self, name: &str) -> Array {
        let array = self.arrays[name].clone();
        match array.shape[..] {
            [heads, head_width, width] if name.contains("mha") => {
                Array { shape: vec![heads * head_width, width], values: array.values }.transposed()
            }
            [] => Array { shape: vec![1], values: array.values },
            _ => array,
        }
    }

    fn positions(&self) -> Tensor<2> {
        self.tensor::<3>("pos_embedding").squeeze_dim(0)
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let array = &self.arrays[name];
        Tensor::from_data(TensorData::new(array.values.clone(), array.shape.clone()), &device())
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.arrays[name].values.iter().copied().map(f64::from).collect()
    }
}

const BATCH: usize = 3;
const TOKENS: usize = 7;
const WIDTH: usize = 24;

/// A small block whose weights are so many times as large as they are at first.
fn strong(memory: Memory, strength: f64) -> EnergyBlock {
    let config = EnergyBlockConfig {
        width: WIDTH,
        heads: 4,
        head_width: 5,
        memories: 32,
        memory,
        iterations: 8,
        step_size: 0.1,
    };
    strengthened(config.init(&mut WeightInit::new(7, FirstWeights::Published), &device()), strength)
}

fn drawn(seed: u64) -> Tensor<3> {
    WeightInit::new(seed, FirstWeights::Published).normal_of(0.7, [BATCH, TOKENS, WIDTH], &device()).val()
}

/// The first sample is whole, the second lacks its last tokens, the third has one token.
fn padding() -> Tensor<2> {
    let real = |count: usize| (0..TOKENS).map(move |place| if place < count { 1.0f32 } else { 0.0 });
    let flags: Vec<f32> = [TOKENS, 4, 1].into_iter().flat_map(real).collect();
    Tensor::from_data(TensorData::new(flags, [BATCH, TOKENS]), &device())
}

/// The same five patches of each of two samples of a 4×4 grid, without padding and with three places of it.
fn chosen(lookup: Lookup) -> [Choice; 2] {
    let patches = [[1, 2, 3, 6, 9], [0, 4, 8, 12, 15]];
    let device = device();
    let padded: Vec<u32> = patches.iter().flat_map(|patches| [&patches[..], &[0; 3]].concat()).collect();
    let real = [true, true, true, true, true, false, false, false].repeat(2);
    [
        Choice::new(patches.as_flattened(), &[true; 10], 5, lookup, &device),
        Choice::new(&padded, &real, 8, lookup, &device),
    ]
}

fn encoder_config(memory: Memory) -> EnergyConfig {
    EnergyConfig {
        image: 16,
        patch: 4,
        width: 16,
        heads: 3,
        head_width: 5,
        memories: 40,
        memory,
        iterations: 4,
        step_size: 0.1,
    }
}

fn predictor_config(memory: Memory) -> EnergyPredictorConfig {
    EnergyPredictorConfig { width: 12, heads: 2, head_width: 7, memories: 20, memory, iterations: 3, step_size: 0.1 }
}

fn strengthened<M: Module>(module: M, strength: f64) -> M {
    module.map(&mut Strengthen(strength))
}

fn in_doubles(block: EnergyBlock) -> EnergyBlock {
    block.map(&mut InDoubles)
}

/// Multiplies all matrices.
struct Strengthen(f64);

impl ModuleMapper for Strengthen {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D == 1 {
            return parameter;
        }
        parameter.map(|tensor| {
            let recorded = tensor.is_autodiff();
            let larger = tensor.inner() * self.0;
            if recorded { larger.autodiff().require_grad() } else { larger }
        })
    }
}

struct InDoubles;

impl ModuleMapper for InDoubles {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        parameter.map(|tensor| tensor.cast(FloatDType::F64))
    }
}

/// Counts the parameters whose gradient is missing, nothing or not finite.
struct Untrained<'a> {
    gradients: &'a Gradients,
    count: usize,
}

impl ModuleVisitor for Untrained<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let gradient = parameter.val().grad(self.gradients).map(|gradient| values(gradient.abs().sum()));
        let trained = gradient.is_some_and(|sum| sum[0].is_finite() && sum[0] > 0.0);
        self.count += usize::from(!trained);
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert_dtype(DType::F64).try_to_vec::<f64>().unwrap()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

fn assert_close(what: &str, ours: &[f64], theirs: &[f64], tolerance: f64) {
    let tolerance = tolerance * f64::from(slack());
    assert_eq!(ours.len(), theirs.len(), "{what}: another number of values");
    let worst = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, nan_or_larger);
    assert!(worst <= tolerance, "{what}: differs by {worst:e}, {tolerance:e} allowed");
}

fn nan_or_larger(worst: f64, difference: f64) -> f64 {
    if difference > worst || difference.is_nan() { difference } else { worst }
}
