//! The ConvNeXt encoder: torchvision's features, gradients, names and sizes; maps of any shape.

use std::collections::BTreeMap;

use burn::module::{Module, Param, ParamId};
use burn::store::ModuleSnapshot;
use burn::tensor::{Device, Tensor, TensorData};
use saccade::checkpoint::read_arrays;
use saccade::model::convnext::{ConvNext, Depthwise};
use saccade::model::fused::KERNEL;
use saccade::model::torchvision::{convnext_from_torchvision, convnext_to_torchvision};
use saccade::model::weights::{self, Array, Weights};
use saccade::model::{ConvNextConfig, ConvNextSize, FirstWeights, WeightInit};
use saccade::train::optimizer::Gradients;
use serde_json::Value;

use crate::{device, reference, slack};

/// What 32-bit floats allow in a forward pass.
const FORWARD: f32 = 1e-5;
/// What they allow in gradients, against the largest value.
const GRADIENT: f32 = 1e-4;

#[test]
fn features_are_torchvisions() {
    let reference = Torchvision::open();
    let device = device();
    let encoder = reference.encoder(&device);
    let images = tensor::<4>(&reference.io["x"], &device);

    let mean = encoder.feature_map(images.clone()).mean_dim(1).squeeze_dim::<2>(1);
    assert_close("features", &values(mean), &reference.io["features"].values, FORWARD);

    let classes = reference.classes(encoder.pooled(images), &device);
    assert_close("classes", &values(classes), &reference.io["y"].values, FORWARD);
}

#[test]
fn gradients_are_torchvisions() {
    let reference = Torchvision::open();
    let device = device().autodiff();
    let encoder = reference.encoder(&device);

    let classes = reference.classes(encoder.pooled(tensor(&reference.io["x"], &device)), &device);
    let loss = (classes * tensor(&reference.io["cotangent"], &device)).sum();
    let gradients = Gradients::of(&loss, &encoder);

    let expected = convnext_from_torchvision(reference.gradients.clone(), &reference.config).unwrap();
    let parameters = encoder.collect(None, None, false);
    assert_eq!(parameters.len(), expected.len());
    for parameter in parameters {
        let (name, theirs) = (parameter.name.as_str(), &expected[&parameter.name].values);
        let id = ParamId::from(parameter.param_id.unwrap());
        let ours = gradients.get(id).unwrap_or_else(|| panic!("no gradient for {name}"));
        let largest = theirs.iter().fold(1e-4f32, |most, value| most.max(value.abs()));
        assert_close(name, &values(ours), theirs, GRADIENT * largest);
    }
}

#[test]
fn places_of_the_last_map_are_normalised_one_by_one() {
    let reference = Torchvision::open();
    let device = device();
    let encoder = reference.encoder(&device);
    let images = tensor::<4>(&reference.io["x"], &device);
    let [batch, ..] = images.dims();

    let tokens = encoder.forward(images.clone());

    let (grid, width) = (reference.config.grid(), reference.config.width());
    assert_eq!(tokens.dims(), [batch, grid * grid, width]);
    let map = encoder.feature_map(images);
    for place in [0, grid * grid - 1] {
        let alone = encoder.norm.forward(map.clone().narrow(1, place, 1));
        assert_close("place", &values(tokens.clone().narrow(1, place, 1)), &values(alone), FORWARD);
    }
}

#[test]
fn weights_go_from_torchvision_and_back_unchanged() {
    let reference = Torchvision::open();
    let mut theirs = reference.weights.clone();

    let ours = convnext_from_torchvision(theirs.clone(), &reference.config).unwrap();
    let again = convnext_to_torchvision(ours, &reference.config).unwrap();

    theirs.retain(|name, _| !name.starts_with("classifier.2."));
    assert!(again == theirs, "a tensor changed on its way through our names");
}

#[test]
fn every_tensor_of_torchvisions_tiny_has_its_place() {
    let path = reference().join("convnext/tiny_names.json");
    let names: BTreeMap<String, Vec<usize>> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let zeros = |(name, shape): (String, Vec<usize>)| {
        let values = vec![0.0; shape.iter().product()];
        (name, Array { shape, values })
    };
    let config = ConvNextConfig::sized(ConvNextSize::Tiny, 224);

    let ours = convnext_from_torchvision(names.into_iter().map(zeros).collect(), &config).unwrap();

    let numbers: usize = ours.values().map(|array| array.values.len()).sum();
    assert_eq!(numbers as u64, config.parameters());
    weights::apply(&mut config.init(&mut WeightInit::new(0, FirstWeights::Published), &device()), ours).unwrap();
}

#[test]
fn tensors_that_are_missing_unknown_or_of_another_shape_are_named() {
    let reference = Torchvision::open();
    let check = |change: &dyn Fn(&mut Weights), expected: &str| {
        let mut weights = reference.weights.clone();
        change(&mut weights);
        let error = convnext_from_torchvision(weights, &reference.config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };

    check(&|weights| drop(weights.remove("features.3.0.layer_scale")), "lack features.3.0.layer_scale");
    check(&|weights| drop(weights.insert("classifier.3.bias".into(), one())), "hold classifier.3.bias");
    check(&|weights| drop(weights.insert("features.2.1.weight".into(), one())), "features.2.1.weight: shape [1]");
}

#[test]
fn sizes_have_the_published_number_of_parameters() {
    let head = |width: u64| (width + 1) * 1000;
    let check = |size, published: u64| {
        let config = ConvNextConfig::sized(size, 224);
        assert_eq!(config.parameters() + head(config.width() as u64), published, "{size:?}");
    };
    check(ConvNextSize::Tiny, 28_589_128);
    check(ConvNextSize::Small, 50_223_688);
    check(ConvNextSize::Base, 88_591_464);
}

#[test]
fn fewer_stages_and_any_side_that_leaves_a_place_give_tokens() {
    let device = device();
    let check = |image, stem, depths, widths, grid: usize| {
        let config = ConvNextConfig { image, stem, depths, widths, layer_scale: 0.1 };
        config.check().unwrap();
        let encoder = config.init(&mut WeightInit::new(3, FirstWeights::Published), &device);
        let tokens = encoder.forward(Tensor::ones([2, 3, image, image], &device));
        assert_eq!(tokens.dims(), [2, grid * grid, config.width()], "{config:?}");
        assert_eq!(config.grid(), grid);
        assert_eq!(config.parameters(), encoder.num_params() as u64, "{config:?}");
        assert!(values(tokens).iter().all(|value| value.is_finite()));
    };
    check(32, 2, [1, 1, 2, 0], [8, 12, 16, 0], 4);
    check(32, 1, [1, 2, 0, 0], [4, 6, 0, 0], 16);
    check(28, 4, [1, 1, 1, 0], [4, 6, 8, 0], 1);
    check(37, 3, [1, 1, 1, 0], [4, 6, 8, 0], 3);
    check(40, 2, [1, 0, 0, 0], [4, 0, 0, 0], 20);
    check(32, 4, [1, 1, 1, 1], [4, 4, 4, 4], 1);
}

#[test]
fn what_cannot_be_built_says_why() {
    let check = |image, stem, depths, widths, expected: &str| {
        let config = ConvNextConfig { image, stem, depths, widths, layer_scale: 0.1 };
        let why = config.check().unwrap_err();
        assert!(why.contains(expected), "{why}");
    };
    check(31, 4, [1, 1, 1, 1], [4, 4, 4, 4], "at least 32");
    check(3, 4, [1, 0, 0, 0], [4, 0, 0, 0], "at least 4");
    check(32, 0, [1, 0, 0, 0], [4, 0, 0, 0], "stem");
    check(32, 4, [0, 1, 0, 0], [0, 4, 0, 0], "widths[0]");
    check(32, 4, [1, 1, 0, 0], [4, 0, 0, 0], "same stages");
    check(32, 4, [1, 0, 1, 0], [4, 4, 4, 0], "same stages");
    check(32, 4, [1, 1, 0, 0], [4, 0, 4, 0], "same stages");
}

#[test]
fn depthwise_convolution_is_the_plain_sum_over_maps_of_any_size() {
    for [rows, columns] in [[1, 1], [2, 5], [8, 8], [3, 30], [16, 16], [16, 17], [20, 13]] {
        let plain = PlainDepthwise::compute([2, rows, columns, 3]);
        let device = device().autodiff();
        let leaf = |array: &Array| tensor::<4>(array, &device).require_grad();
        let (map, weight) = (leaf(&plain.map), leaf(&plain.weight));
        let bias = Param::from_tensor(tensor::<1>(&plain.bias, &device));
        let layer = Depthwise { weight: Param::from_tensor(weight), bias };

        let output = layer.forward(map.clone());
        let gradients = (output.clone() * tensor(&plain.cotangent, &device)).sum().backward();

        let what = |part: &str| format!("{part} over {rows}x{columns}");
        assert_close(&what("output"), &values(output), &plain.output, FORWARD);
        let largest = |values: &[f32]| values.iter().fold(1e-4f32, |most, value| most.max(value.abs()));
        let close = |part: &str, ours: Vec<f32>, theirs: &[f32]| {
            assert_close(&what(part), &ours, theirs, GRADIENT * largest(theirs));
        };
        close("map's gradient", values(map.grad(&gradients).unwrap()), &plain.map_gradient);
        close("weight's gradient", values(layer.weight.val().grad(&gradients).unwrap()), &plain.weight_gradient);
    }
}

/// A depthwise convolution and its gradients, written as the sum that defines them.
struct PlainDepthwise {
    map: Array,
    weight: Array,
    bias: Array,
    cotangent: Array,
    output: Vec<f32>,
    map_gradient: Vec<f32>,
    weight_gradient: Vec<f32>,
}

impl PlainDepthwise {
    fn compute(shape: [usize; 4]) -> Self {
        let [_, rows, columns, width] = shape;
        let wave = |shape: &[usize], step: f32| {
            let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * step).sin()).collect();
            Array { shape: shape.to_vec(), values }
        };
        let (map, cotangent) = (wave(&shape, 0.7), wave(&shape, 1.9));
        let (weight, bias) = (wave(&[width, 1, KERNEL, KERNEL], 1.3), wave(&[width], 2.3));
        let mut output: Vec<f32> = (0..map.values.len()).map(|i| bias.values[i % width]).collect();
        let mut map_gradient = vec![0.0; map.values.len()];
        let mut weight_gradient = vec![0.0; weight.values.len()];
        for (out, sum) in output.iter_mut().enumerate() {
            let (channel, place) = (out % width, out / width);
            let (column, row, image) = (place % columns, place / columns % rows, place / columns / rows);
            for tap in 0..KERNEL * KERNEL {
                let from = |place: usize, tap: usize, side: usize| {
                    (place + tap).checked_sub(KERNEL / 2).filter(|&place| place < side)
                };
                let places = from(row, tap / KERNEL, rows).zip(from(column, tap % KERNEL, columns));
                let Some((row, column)) = places else { continue };
                let input = ((image * rows + row) * columns + column) * width + channel;
                let tap = channel * KERNEL * KERNEL + tap;
                *sum += map.values[input] * weight.values[tap];
                map_gradient[input] += weight.values[tap] * cotangent.values[out];
                weight_gradient[tap] += map.values[input] * cotangent.values[out];
            }
        }
        Self { map, weight, bias, cotangent, output, map_gradient, weight_gradient }
    }
}

/// Torchvision's small ConvNeXt: its parameters, what goes in and comes out, and the gradients.
struct Torchvision {
    config: ConvNextConfig,
    weights: Weights,
    io: Weights,
    gradients: Weights,
}

impl Torchvision {
    fn open() -> Self {
        let folder = reference().join("convnext");
        let json: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let numbers = |key: &str| -> [usize; 4] { serde_json::from_value(json[key].clone()).unwrap() };
        let mut weights = read_arrays(&folder.join("small.safetensors")).unwrap();
        let io = weights::take_prefix(&mut weights, "io.");
        let gradients = weights::take_prefix(&mut weights, "grad.");
        let image = io["x"].shape[3];
        let (depths, widths) = (numbers("depths"), numbers("dims"));
        let config = ConvNextConfig { image, stem: 4, depths, widths, layer_scale: 1e-6 };
        Self { config, weights, io, gradients }
    }

    fn encoder(&self, device: &Device) -> ConvNext {
        let mut encoder = self.config.init(&mut WeightInit::new(0, FirstWeights::Published), device);
        let ours = convnext_from_torchvision(self.weights.clone(), &self.config).unwrap();
        weights::apply(&mut encoder, ours).unwrap();
        encoder
    }

    /// The classifier's last layer, which our encoder leaves out.
    fn classes(&self, pooled: Tensor<2>, device: &Device) -> Tensor<2> {
        let weight = tensor::<2>(&self.weights["classifier.2.weight"], device);
        let bias = tensor::<1>(&self.weights["classifier.2.bias"], device);
        pooled.matmul(weight.transpose()) + bias.unsqueeze()
    }
}

fn one() -> Array {
    Array { shape: vec![1], values: vec![0.0] }
}

fn tensor<const D: usize>(array: &Array, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(array.values.clone(), array.shape.clone()), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    let tolerance = tolerance * slack();
    assert_eq!(ours.len(), theirs.len(), "{what}: another number of values");
    let differ = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs());
    let worst = differ.fold(0.0, |worst: f32, one| if one > worst || one.is_nan() { one } else { worst });
    assert!(worst <= tolerance, "{what}: differs by {worst:e}, {tolerance:e} allowed");
}
