//! Saccade JEPA's predictors and the terms of its loss: against torch, as closed forms, by finite differences, and by
//! what they learn.

use std::f64::consts::PI;
use std::fs;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use saccade::checkpoint::read_arrays;
use saccade::draws::{Draws, Purpose};
use saccade::model::FirstWeights::Published;
use saccade::model::WeightInit;
use saccade::model::shift::{
    ProjectorConfig, SaccadeUnit, ShiftPredictorConfig, ShiftReaderConfig, WAY, Ways, embedding,
};
use saccade::model::weights::{self, Array};
use saccade::objective::saccade::{
    ReadWeights, SaccadeWeights, Term, Told, cycle, direction, huber, magnitude, read, sum, told,
};
use saccade::objective::vicreg::{covariance, variance};
use saccade::pipeline::saccade::{Filter, Moved, Saccade, SaccadeConfig};
use saccade::train::optimizer::{AdamW, Gradients};
use safetensors::SafeTensors;

use crate::reference;

/// What 32-bit floats allow in a forward pass.
const FORWARD: f32 = 1e-5;

const MLP: ShiftPredictorConfig = ShiftPredictorConfig::Mlp { hidden: 48, layers: 3 };
const TRANSFORMER: ShiftPredictorConfig = transformer(4, 16, 2, 2);

const fn transformer(tokens: usize, width: usize, depth: usize, heads: usize) -> ShiftPredictorConfig {
    ShiftPredictorConfig::Transformer { tokens, width, depth, heads }
}

fn matrix(rows: &[&[f32]], device: &Device) -> Tensor<2> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), device)
}

/// Normal numbers of deviation 1.
fn noise(shape: [usize; 2], seed: u64, device: &Device) -> Tensor<2> {
    let mut draws = Draws::new(seed, 0, 0, Purpose::Weights);
    let numbers: Vec<f32> = (0..shape[0] * shape[1]).map(|_| draws.normal() as f32).collect();
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

/// Ways as the seed system draws them, between views of which either is the moved one.
fn drawn(count: usize, seed: u64) -> Vec<Saccade> {
    let config = SaccadeConfig {
        field: 200,
        size: 128,
        most_shift: 0.9,
        most_degrees: 2.0,
        filter: Filter::Bilinear,
        moved: Moved::Either,
    };
    let mut draws = Draws::new(seed, 0, 0, Purpose::Saccade);
    (0..count).map(|_| config.draw(&mut draws).way()).collect()
}

fn tensor(array: &Array) -> Tensor<2> {
    Tensor::from_data(TensorData::new(array.values.clone(), array.shape.clone()), &Device::flex())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

fn value(tensor: Tensor<1>) -> f32 {
    tensor.into_scalar::<f32>()
}

fn close(what: &str, ours: f32, wanted: f32, tolerance: f32) {
    assert!((ours - wanted).abs() <= tolerance, "{what}: {ours}, not {wanted}, {tolerance:e} allowed");
}

#[test]
fn losses_are_torchs() {
    let folder = reference();
    let text = fs::read_to_string(folder.join("losses.json")).unwrap();
    let losses: serde_json::Value = serde_json::from_str(&text).unwrap();
    let arrays = read_arrays(&folder.join("losses.safetensors")).unwrap();
    let (y, z) = (tensor(&arrays["y"]), tensor(&arrays["z"]));
    let check = |name: &str, ours: Tensor<1>| close(name, value(ours), losses[name].as_f64().unwrap() as f32, FORWARD);
    check("huber", huber(z.clone(), y.clone(), 1.0));
    check("mse", cycle(z.clone(), y));
    check("vicreg_variance", variance(z.clone()));
    check("vicreg_covariance", covariance(z));
}

#[test]
fn embedding_is_torchs() {
    let bytes = fs::read(reference().join("saccade.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    // Sample by sample.
    let floats = |name: &str| -> Vec<Vec<f32>> {
        let tensor = file.tensor(name).unwrap();
        let [_, width] = *tensor.shape() else { panic!("{name} is {:?}", tensor.shape()) };
        let numbers: Vec<f32> = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        numbers.chunks_exact(width).map(<[f32]>::to_vec).collect()
    };
    let (angles, shifts) = (floats("theta_radians"), floats("translation"));
    let way = |(angle, shift): (&Vec<f32>, &Vec<f32>)| Saccade { angle: angle[0], shift: [shift[0], shift[1]] };
    let ways: Vec<Saccade> = angles.iter().zip(&shifts).map(way).collect();
    let ours = values(embedding(&ways, &Device::flex()));
    let theirs = floats("embed.rotation").into_iter().zip(floats("embed.translation"));
    let theirs: Vec<f32> = theirs.flat_map(|(rotation, translation)| [rotation, translation].concat()).collect();
    assert_eq!(ours.len(), theirs.len());
    for (place, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let Saccade { angle, shift: [right, down] } = ways[place / WAY];
        let (number, wave) = match place % WAY {
            place @ 0..20 => (angle, place % 10),
            place @ 20..28 => (right, place % 4),
            place => (down, place % 4),
        };
        // torch rounds the argument of the wave twice to 32 bits, which its sine then shows.
        let argument = (f64::from(number) * PI).abs() as f32 * 2f32.powi(wave as i32);
        close(&format!("number {place}"), *ours, theirs, 1e-6 + f32::EPSILON * argument);
    }
}

#[test]
fn way_back_is_told_as_the_true_inverse() {
    let ways = drawn(64, 1);
    let back = values(Ways::new(&ways, &Device::flex()).back);
    for (way, back) in ways.iter().zip(back.chunks_exact(WAY)) {
        // Cramer's rule on the affine matrix, without the inverse that is tested.
        let [[a, b, right], [c, d, down]] = way.matrix();
        let determinant = a * d - b * c;
        let inverse = [-c / determinant, (b * down - d * right) / determinant, (c * right - a * down) / determinant];
        let angle = inverse[0].atan2(d / determinant);
        let numbers = [(angle, 10), (inverse[1], 4), (inverse[2], 4)];
        let waves = numbers.into_iter().flat_map(|(number, count)| {
            let argument = move |k: i32| PI * 2f64.powi(k) * number;
            (0..count).map(move |k| argument(k).sin()).chain((0..count).map(move |k| argument(k).cos()))
        });
        for (ours, wanted) in back.iter().zip(waves) {
            // A saccade keeps shifts as 32-bit floats; the finest of their waves multiplies their rounding by 8π.
            close("a wave of the way back", *ours, wanted as f32, 2e-6);
        }
    }
}

#[test]
fn way_back_of_a_rotation_flips_sines_and_keeps_cosines() {
    let ways = [Saccade { angle: 0.03, shift: [0.0, 0.0] }];
    let ways = Ways::new(&ways, &Device::flex());
    let (there, back) = (values(ways.there), values(ways.back));
    for k in 0..10 {
        close("sine", back[k], -there[k], 1e-7);
        close("cosine", back[10 + k], there[10 + k], 1e-7);
    }
    assert_eq!(there[20..], back[20..], "no shift is the same both ways");
}

#[test]
fn predictor_tells_the_ways_apart() {
    let device = Device::flex();
    let ways = Ways::new(&drawn(32, 2), &device);
    let features = noise([32, 24], 3, &device);
    for config in [MLP, TRANSFORMER] {
        let predictor = config.init(24, &mut WeightInit::new(4, Published), &device);
        let there = predictor.forward(features.clone(), ways.there.clone());
        let back = predictor.forward(features.clone(), ways.back.clone());
        let negated = predictor.forward(features.clone(), ways.there.clone().neg());
        let differ = |one: &Tensor<2>, other: &Tensor<2>| value((one.clone() - other.clone()).abs().mean());
        assert!(differ(&there, &back) > 1e-3, "{config:?}: there and back are predicted alike");
        assert!(differ(&negated, &back) > 1e-3, "{config:?}: the way back is told as the negated way there");
    }
}

#[test]
fn predictor_begins_with_views_that_are_nearly_alike() {
    let device = Device::flex();
    let way = embedding(&drawn(32, 2), &device);
    let features = noise([32, 256], 3, &device);
    for config in [MLP, TRANSFORMER] {
        let predictor = config.init(256, &mut WeightInit::new(4, Published), &device);
        let change = predictor.forward(features.clone(), way.clone()) - features.clone();
        let deviation = value(change.square().mean()).sqrt();
        assert!((1e-3..0.5).contains(&deviation), "{config:?}: a change of {deviation} to features of deviation 1");
    }
}

#[test]
fn micro_batch_is_told_its_own_ways() {
    let device = Device::flex();
    let drawn = drawn(8, 5);
    let (all, some) = (Ways::new(&drawn, &device), Ways::new(&drawn[3..7], &device));
    let part = all.samples(&(3..7));
    part.there.into_data().assert_eq(&some.there.into_data(), true);
    part.back.into_data().assert_eq(&some.back.into_data(), true);
}

#[test]
fn greatest_saccade_is_one_to_a_reader() {
    let device = Device::flex();
    let way = |angle, shift| Saccade { angle, shift };
    let unit = SaccadeUnit::new(0.5, 0.25);
    assert_eq!(
        values(unit.of(&[way(0.5, [0.25, -0.25]), way(-0.25, [0.0, 0.5])], &device)),
        [1.0, 1.0, -1.0, -0.5, 0.0, 2.0]
    );
    let still = SaccadeUnit::new(0.0, 0.0);
    assert_eq!(values(still.of(&[way(0.0, [0.0, 0.0])], &device)), [0.0; 3], "no 0 / 0");
}

#[test]
fn variance_and_covariance_have_their_closed_forms() {
    let device = Device::flex();
    let check = |rows: &[&[f32]], wanted: [f32; 2]| {
        close(&format!("variance of {rows:?}"), value(variance(matrix(rows, &device))), wanted[0], 1e-6);
        close(&format!("covariance of {rows:?}"), value(covariance(matrix(rows, &device))), wanted[1], 1e-5);
    };
    // All alike, and a batch of one: the root of epsilon remains.
    check(&[&[3.0, -1.0], &[3.0, -1.0]], [0.99, 0.0]);
    check(&[&[3.0, -1.0]], [0.99, 0.0]);
    // Variances 2 and 0.5: 1 - sqrt(0.5001), over two features; their covariance is ±1, counted twice, over two.
    check(&[&[1.0, 0.5], &[-1.0, -0.5]], [(1.0 - 0.5001f32.sqrt()) / 2.0, 1.0]);
    // Independent features.
    check(&[&[3.0, 3.0], &[3.0, -3.0], &[-3.0, 3.0], &[-3.0, -3.0]], [0.0, 0.0]);
}

#[test]
fn covariance_of_more_features_than_samples_is_that_of_its_definition() {
    let device = Device::flex();
    for [batch, width] in [[6, 40], [40, 6], [16, 16], [2, 300]] {
        let features = noise([batch, width], 7, &device);
        let numbers: Vec<f64> = values(features.clone()).into_iter().map(f64::from).collect();
        let column = |feature: usize| (0..batch).map(|sample| numbers[sample * width + feature]).collect::<Vec<_>>();
        let centred = |feature: usize| {
            let column = column(feature);
            let mean = column.iter().sum::<f64>() / batch as f64;
            column.into_iter().map(|number| number - mean).collect::<Vec<_>>()
        };
        let columns: Vec<Vec<f64>> = (0..width).map(centred).collect();
        let product = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
        let pairs = (0..width).flat_map(|i| (0..width).map(move |j| (i, j))).filter(|(i, j)| i != j);
        let squares = pairs.map(|(i, j)| (product(&columns[i], &columns[j]) / (batch - 1) as f64).powi(2));
        let wanted = (squares.sum::<f64>() / width as f64) as f32;
        close(&format!("{batch} by {width}"), value(covariance(features)), wanted, FORWARD * wanted);
    }
}

#[test]
fn huber_is_squared_near_and_linear_far() {
    let device = Device::flex();
    let check = |distance: f32, delta: f64, wanted: f32| {
        let ours = huber(matrix(&[&[distance, -distance]], &device), matrix(&[&[0.0, 0.0]], &device), delta);
        close(&format!("huber of {distance}, delta {delta}"), value(ours), wanted, 1e-6);
    };
    check(0.5, 1.0, 0.125);
    check(3.0, 1.0, 2.5);
    check(3.0, 2.0, 4.0);
}

#[test]
fn direction_and_magnitude_look_at_one_thing_each() {
    let device = Device::flex();
    let check = |read: &[&[f32]], way: &[&[f32]], wanted: [f32; 2]| {
        let (read, way) = (matrix(read, &device), matrix(way, &device));
        // The epsilon of the length takes up to 1e-4 / 2 of a cosine at length 1.
        close("direction", value(direction(read.clone(), way.clone())), wanted[0], 1e-4);
        close("magnitude", value(magnitude(read, way)), wanted[1], 1e-4);
    };
    check(&[&[0.6, -0.8]], &[&[0.6, -0.8]], [0.0, 0.0]);
    check(&[&[-0.6, 0.8]], &[&[0.6, -0.8]], [2.0, 0.0]);
    check(&[&[0.8, 0.6]], &[&[0.6, -0.8]], [1.0, 0.0]);
    check(&[&[1.2, -1.6]], &[&[0.6, -0.8]], [0.0, 0.5]);
    // Nothing read: no direction, and the whole length is missing, but for that of nothing, 0.01.
    check(&[&[0.0, 0.0]], &[&[0.6, -0.8]], [1.0, 0.5 * 0.99 * 0.99]);
    // A sample that is not shifted has no direction; the others' mean is left.
    check(&[&[-1.0, 0.0], &[1.0, 0.0]], &[&[1.0, 0.0], &[0.0, 0.0]], [2.0, 0.25 * 0.99 * 0.99]);
    check(&[&[0.0, 0.0]], &[&[0.0, 0.0]], [0.0, 0.0]);
}

/// Compares the gradient at `at` with central differences of `loss`, one number after the other.
fn check_gradient(what: &str, at: &Tensor<2>, loss: impl Fn(Tensor<2>) -> Tensor<1>) {
    /// Rounding of a loss of about 1 gives a difference of 6e-8 / STEP = 6e-6; what a parabola does not show of these
    /// losses is about STEP² = 1e-4 of a gradient.
    const STEP: f32 = 1e-2;
    const RELATIVE: f32 = 2e-3;
    let [rows, columns] = at.dims();
    let tracked = at.clone().autodiff().require_grad();
    let gradient = values(tracked.grad(&loss(tracked.clone()).backward()).unwrap());
    let numbers = values(at.clone());
    let moved = |place: usize, step: f32| {
        let mut numbers = numbers.clone();
        numbers[place] += step;
        value(loss(Tensor::from_data(TensorData::new(numbers, [rows, columns]), &Device::flex())))
    };
    let largest = gradient.iter().fold(0.0f32, |most, slope| most.max(slope.abs()));
    assert!(largest > 1e-3, "{what}: there is no gradient");
    for (place, slope) in gradient.iter().enumerate() {
        let difference = (moved(place, STEP) - moved(place, -STEP)) / (2.0 * STEP);
        close(&format!("{what}: gradient {place}"), *slope, difference, RELATIVE * largest + 2e-5);
    }
}

/// A tensor as it is, or where operations are recorded when its partner is there.
fn beside(partner: &Tensor<2>, tensor: &Tensor<2>) -> Tensor<2> {
    if partner.device() == tensor.device() { tensor.clone() } else { tensor.clone().autodiff() }
}

#[test]
fn each_terms_gradient_is_that_of_its_differences() {
    let device = Device::flex();
    let features = noise([6, 5], 11, &device).mul_scalar(0.7);
    let other = noise([6, 5], 12, &device);
    check_gradient("huber", &features, |at| huber(at.clone(), beside(&at, &other), 1.0));
    check_gradient("cycle", &features, |at| cycle(at.clone(), beside(&at, &other)));
    check_gradient("variance", &features, variance);
    check_gradient("covariance", &features, covariance);
    check_gradient("covariance of few samples", &noise([4, 9], 13, &device), covariance);
    let (shifts, ways) = (noise([6, 2], 14, &device), noise([6, 2], 15, &device));
    check_gradient("direction", &shifts, |at| direction(at.clone(), beside(&at, &ways)));
    check_gradient("magnitude", &shifts, |at| magnitude(at.clone(), beside(&at, &ways)));
    let (shifts, ways) = (noise([6, 3], 16, &device), noise([6, 3], 17, &device));
    let rotation = ReadWeights { direction: 0.0, magnitude: 0.0, rotation: 1.0, variance: 0.0, covariance: 0.0 };
    check_gradient("rotation", &shifts, |at| sum(&read(&at, &beside(&at, &ways), &at, &rotation)).unwrap());
}

#[test]
fn gradients_are_finite_where_nothing_is_read_and_nothing_differs() {
    let device = Device::flex().autodiff();
    let finite = |what: &str, at: Tensor<2>, loss: &dyn Fn(Tensor<2>) -> Tensor<1>| {
        let at = at.require_grad();
        let slopes = values(at.grad(&loss(at.clone()).backward()).unwrap());
        assert!(slopes.iter().all(|slope| slope.is_finite()), "{what}: {slopes:?}");
    };
    let (none, way) = (Tensor::zeros([2, 2], &device), matrix(&[&[0.5, 0.0], &[0.0, 0.0]], &device));
    finite("direction", none.clone(), &|at| direction(at, way.clone()));
    finite("magnitude", none.clone(), &|at| magnitude(at, way.clone()));
    finite("variance", none.clone(), &variance);
    finite("covariance", none.clone(), &covariance);
    finite("variance of one", Tensor::zeros([1, 2], &device), &variance);
}

#[test]
fn predictors_gradient_is_that_of_its_differences() {
    let device = Device::flex();
    let way = embedding(&drawn(3, 21), &device);
    let features = noise([3, 8], 22, &device);
    for config in [MLP, TRANSFORMER] {
        let plain = config.init(8, &mut WeightInit::new(23, Published), &device);
        let recording = config.init(8, &mut WeightInit::new(23, Published), &device.clone().autodiff());
        check_gradient(&format!("{config:?}"), &features, |at| {
            let tracked = at.device() != device;
            let predictor = if tracked { &recording } else { &plain };
            predictor.forward(at.clone(), beside(&at, &way)).square().mean()
        });
    }
}

fn assert_terms(terms: &[Term], wanted: &[(&str, Tensor<1>, f32)]) {
    let ours: Vec<_> = terms.iter().map(|(name, term)| (*name, value(term.clone()))).collect();
    assert_eq!(ours.len(), wanted.len(), "{ours:?}");
    for ((name, ours), (wanted_name, term, weight)) in ours.iter().zip(wanted) {
        assert_eq!(name, wanted_name);
        close(name, *ours, weight * value(term.clone()), 1e-6 * weight);
    }
    let total: f32 = ours.iter().map(|(_, term)| term).sum();
    close("sum", value(sum(terms).unwrap()), total, 1e-5 * total);
}

#[test]
fn told_terms_are_named_and_weighted() {
    let device = Device::flex();
    let [context, predicted, target, back] = [1, 2, 3, 4].map(|seed| noise([8, 4], seed, &device).mul_scalar(0.5));
    let features = Told { context: context.clone(), predicted: predicted.clone(), target: target.clone() };
    let weights = SaccadeWeights { prediction: 2.0, cycle: 0.25, variance: 25.0, covariance: 1.0 };
    assert_terms(
        &told(&features, &weights, || back.clone()),
        &[
            ("prediction", huber(predicted.clone(), target.clone(), 1.0), 2.0),
            ("cycle", cycle(back, context.clone()), 0.25),
            ("variance", variance(context.clone()), 25.0),
            ("covariance", covariance(context), 1.0),
        ],
    );
    let alone = SaccadeWeights { prediction: 1.0, cycle: 0.0, variance: 0.0, covariance: 0.0 };
    let terms = told(&features, &alone, || panic!("a cycle of weight 0 is predicted"));
    assert_terms(&terms, &[("prediction", huber(predicted, target, 1.0), 1.0)]);
}

#[test]
fn read_terms_are_named_and_weighted() {
    let device = Device::flex();
    let [told, way] = [5, 6].map(|seed| noise([8, 3], seed, &device));
    let context = noise([8, 4], 7, &device).mul_scalar(0.5);
    let part = |of: &Tensor<2>, first, count| of.clone().narrow(1, first, count);
    let weights = ReadWeights { direction: 1.0, magnitude: 0.5, rotation: 3.0, variance: 25.0, covariance: 2.0 };
    assert_terms(
        &read(&told, &way, &context, &weights),
        &[
            ("direction", direction(part(&told, 1, 2), part(&way, 1, 2)), 1.0),
            ("magnitude", magnitude(part(&told, 1, 2), part(&way, 1, 2)), 0.5),
            ("rotation", huber(part(&told, 0, 1), part(&way, 0, 1), 1.0), 3.0),
            ("variance", variance(context.clone()), 25.0),
            ("covariance", covariance(context.clone()), 2.0),
        ],
    );
}

#[test]
fn weights_that_make_no_sense_are_refused() {
    let fine = SaccadeWeights { prediction: 1.0, cycle: 0.25, variance: 25.0, covariance: 1.0 };
    let refused = |weights: SaccadeWeights| weights.check().unwrap_err().to_string();
    assert!(fine.check().is_ok());
    assert_eq!(
        refused(SaccadeWeights { cycle: -1.0, ..fine }),
        "objective.cycle = -1: must be 0 or greater, and finite"
    );
    assert!(refused(SaccadeWeights { variance: f64::NAN, ..fine }).contains("objective.variance = NaN"));
    assert!(refused(SaccadeWeights { prediction: 0.0, ..fine }).contains("objective.prediction"));
    let none = ReadWeights { direction: 0.0, magnitude: 0.0, rotation: 0.0, variance: 1.0, covariance: 1.0 };
    assert!(none.check().unwrap_err().to_string().contains("all are 0"));
    assert!(ReadWeights { rotation: 1.0, ..none }.check().is_ok());
    assert!(ReadWeights { rotation: 1.0, covariance: f64::INFINITY, ..none }.check().is_err());
}

#[test]
fn shapes_are_read_as_written_and_unknown_keys_refused() {
    let mlp: ShiftPredictorConfig = toml::from_str("kind = \"mlp\"\nhidden = 48\nlayers = 3").unwrap();
    assert_eq!(mlp, MLP);
    let text = toml::to_string(&TRANSFORMER).unwrap();
    assert_eq!(toml::from_str::<ShiftPredictorConfig>(&text).unwrap(), TRANSFORMER);
    let unknown = toml::from_str::<ShiftPredictorConfig>("kind = \"mlp\"\nhidden = 48\nlayers = 3\nheads = 2");
    assert!(unknown.unwrap_err().to_string().contains("heads"));
    let weights = toml::from_str::<SaccadeWeights>("prediction = 1.0\ncycle = 0.25\nvariance = 25.0");
    assert!(weights.unwrap_err().to_string().contains("covariance"), "no weight has a silent default");
}

#[test]
fn shapes_that_cannot_be_built_are_refused() {
    let refused = |config: ShiftPredictorConfig, wanted: &str| {
        assert_eq!(config.check(24).unwrap_err().to_string(), wanted);
    };
    assert!(MLP.check(24).is_ok() && TRANSFORMER.check(24).is_ok());
    refused(ShiftPredictorConfig::Mlp { hidden: 0, layers: 1 }, "predictor.hidden = 0: must lie in 1..=65536");
    refused(ShiftPredictorConfig::Mlp { hidden: 8, layers: 0 }, "predictor.layers = 0: must lie in 1..=1024");
    refused(transformer(5, 16, 2, 2), "predictor.tokens = 5: must divide the encoder's features = 24");
    refused(transformer(4, 16, 0, 2), "predictor.depth = 0: must lie in 1..=1024");
    refused(transformer(4, 16, 2, 3), "predictor.heads = 3: must divide predictor.width = 16");
    assert!(ProjectorConfig { hidden: 8, layers: 2, width: 0 }.check().is_err());
    assert!(ShiftReaderConfig { hidden: 8, layers: 0 }.check().is_err());
}

/// That the count is exact, that every parameter has a name and goes out and in, and that layers share no weights.
fn check_parameters<M: Module>(module: &mut M, counted: u64) {
    assert_eq!(module.num_params() as u64, counted);
    let named = weights::collect(module).unwrap();
    assert_eq!(named.values().map(|array| array.values.len() as u64).sum::<u64>(), counted);
    let matrices: Vec<&Array> = named.values().filter(|array| array.shape.len() == 2).collect();
    for (place, one) in matrices.iter().enumerate() {
        assert!(matrices[..place].iter().all(|other| other != one), "two matrices are the same");
    }
    weights::apply(module, named).unwrap();
}

#[test]
fn parameters_are_counted_exactly() {
    let (device, init) = (Device::flex(), &mut WeightInit::new(1, Published));
    let mlps = [1, 2, 3, 5].map(|layers| ShiftPredictorConfig::Mlp { hidden: 32, layers });
    let transformers = [transformer(24, 8, 1, 4), transformer(1, 12, 3, 1)];
    for config in mlps.into_iter().chain(transformers).chain([TRANSFORMER]) {
        check_parameters(&mut config.init(24, init, &device), config.parameters(24));
    }
    for layers in [1, 2, 4] {
        let projector = ProjectorConfig { hidden: 20, layers, width: 12 };
        check_parameters(&mut projector.init(24, init, &device), projector.parameters(24));
        let reader = ShiftReaderConfig { hidden: 20, layers };
        check_parameters(&mut reader.init(24, init, &device), reader.parameters(24));
    }
}

/// Trains a module and gives the last of its losses.
fn trained<M: Module>(mut module: M, steps: usize, loss: impl Fn(&M, u64) -> Tensor<1>) -> (M, f32) {
    let mut optimizer = AdamW::new();
    let mut last = f32::NAN;
    for step in 0..steps as u64 {
        let now = loss(&module, step);
        let gradients = Gradients::of(&now, &module);
        module = optimizer.step(module, gradients, 3e-3, 0.0);
        last = value(now);
    }
    (module, last)
}

/// A world in which the way's numbers, mixed by fixed weights, are added to the features.
fn moved(features: &Tensor<2>, ways: &[Saccade]) -> Tensor<2> {
    let [_, width] = features.dims();
    let unit = SaccadeUnit::new(2f64.to_radians(), 0.324);
    let mix = noise([3, width], 31, &features.device());
    features.clone() + unit.of(ways, &features.device()).matmul(mix)
}

#[test]
fn predictor_learns_what_the_way_decides() {
    let device = Device::flex().autodiff();
    for config in [MLP, TRANSFORMER] {
        let loss = |told_truly: bool| {
            let predictor = config.init(16, &mut WeightInit::new(32, Published), &device);
            let (_, last) = trained(predictor, 600, |predictor, step| {
                let features = noise([64, 16], 1000 + step, &device);
                let ways = drawn(64, 2000 + step);
                let said = if told_truly { embedding(&ways, &device) } else { embedding(&drawn(64, 7), &device) };
                huber(predictor.forward(features.clone(), said), moved(&features, &ways), 1.0)
            });
            last
        };
        let (truly, falsely) = (loss(true), loss(false));
        assert!(truly < 0.25 * falsely, "{config:?}: a loss of {truly} told the way, of {falsely} told another");
    }
}

#[test]
fn reader_learns_the_way_between_features() {
    let device = Device::flex().autodiff();
    let reader = ShiftReaderConfig { hidden: 48, layers: 2 }.init(16, &mut WeightInit::new(33, Published), &device);
    let unit = SaccadeUnit::new(2f64.to_radians(), 0.324);
    let weights = ReadWeights { direction: 1.0, magnitude: 1.0, rotation: 1.0, variance: 0.0, covariance: 0.0 };
    let losses = |reader: &_, step: u64| {
        let reader: &saccade::model::shift::ShiftReader = reader;
        let first = noise([64, 16], 3000 + step, &device);
        let ways = drawn(64, 4000 + step);
        let said = reader.forward(first.clone(), moved(&first, &ways));
        sum(&read(&said, &unit.of(&ways, &device), &first, &weights)).unwrap()
    };
    let before = value(losses(&reader, 0));
    let (_, after) = trained(reader, 150, losses);
    assert!(after < 0.25 * before, "a loss of {before} falls to {after}");
}

#[test]
fn projector_hears_every_feature() {
    let device = Device::flex();
    let config = ProjectorConfig { hidden: 32, layers: 3, width: 12 };
    let plain = config.init(8, &mut WeightInit::new(41, Published), &device);
    let recording = config.init(8, &mut WeightInit::new(41, Published), &device.clone().autodiff());
    let features = noise([4, 8], 42, &device);
    assert_eq!(plain.forward(features.clone()).dims(), [4, 12]);
    let weights = noise([4, 12], 43, &device);
    check_gradient("projector", &features, |at| {
        let projector = if at.device() == device { &plain } else { &recording };
        (projector.forward(at.clone()) * beside(&at, &weights)).sum()
    });
}
