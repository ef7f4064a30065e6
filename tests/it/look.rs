//! What is looked at: maps of attention with known answers, what encoders give for them, LiDAR of views with known
//! spread, the online probe.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use image::{Rgb, RgbImage};
use saccade::config::{Plan, RunConfig};
use saccade::draws::{Draws, Purpose};
use saccade::eval::lidar::{ViewFeatures, lidar};
use saccade::eval::maps::{entropy, mean_of_heads, rollout, similarity};
use saccade::model::{ConvNextConfig, EncoderConfig, EnergyConfig, FirstWeights, Memory, VitConfig, WeightInit};
use saccade::run::heat::covered;
use saccade::run::look::check;
use saccade::run::score::Extraction;
use saccade::train::probe::{OnlineProbe, ProbeConfig, is_scored};

fn close(what: &str, ours: f64, expected: f64, tolerance: f64) {
    assert!((ours - expected).abs() <= tolerance, "{what}: {ours}, expected {expected} within {tolerance}");
}

fn normal(draws: &mut Draws) -> f32 {
    // The sum of twelve: mean 6, variance 1.
    (0..12).map(|_| draws.between(0.0, 1.0)).sum::<f64>() as f32 - 6.0
}

#[test]
fn entropy_is_nothing_for_one_patch_and_greatest_for_all_alike() {
    let mut one = vec![0.0; 16];
    (0..4).for_each(|query| one[query * 4 + 2] = 1.0);
    close("one patch", entropy(&one, 4), 0.0, 1e-12);
    close("all alike", entropy(&[0.25; 16], 4), 4f64.ln(), 1e-9);
    // Two queries of which one looks at one patch and the other at both.
    close("the mean over queries", entropy(&[1.0, 0.0, 0.5, 0.5], 2), 2f64.ln() / 2.0, 1e-9);
}

/// `((A2 + I) / 2) ((A1 + I) / 2)`, worked out by hand.
#[test]
fn rollout_multiplies_layers_whose_half_is_the_residual() {
    let first = [0.0, 1.0, 1.0, 0.0];
    // Two heads, whose mean is [[0.5, 0.5], [0, 1]].
    let second = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0];
    assert_eq!(mean_of_heads(&second, 2), [0.5, 0.5, 0.0, 1.0]);
    let maps = rollout([&first[..], &second[..]].into_iter(), 2);
    assert_eq!(maps, [vec![0.5, 0.5, 0.5, 0.5], vec![0.5, 0.5, 0.5, 0.5]]);
    let maps = rollout([&second[..], &first[..]].into_iter(), 2);
    assert_eq!(maps, [vec![0.75, 0.25, 0.0, 1.0], vec![0.375, 0.625, 0.375, 0.625]]);
}

#[test]
fn similarity_is_the_cosine_and_forgives_a_row_of_zeros() {
    let map = similarity(&[3.0, 4.0, 4.0, 3.0, 0.0, 0.0, -3.0, -4.0], 2);
    for (at, expected) in [(0, 1.0), (1, 0.96), (2, 0.0), (3, -1.0), (4, 0.96), (10, 0.0), (12, -1.0)] {
        close(&format!("pair {at}"), f64::from(map[at]), expected, 1e-6);
    }
}

/// An encoder of each kind, for images of 28 pixels.
fn encoders() -> [EncoderConfig; 3] {
    let energy = EnergyConfig {
        image: 28,
        patch: 7,
        width: 16,
        heads: 2,
        head_width: 8,
        memories: 32,
        memory: Memory::Relu,
        iterations: 3,
        step_size: 0.1,
    };
    [EncoderConfig::Vit(VitConfig::free(28, 7, 16, 2, 2)), EncoderConfig::Energy(energy), convnext(28, 2)]
}

fn convnext(image: usize, stages: usize) -> EncoderConfig {
    let of_each = |number| std::array::from_fn(|stage| if stage < stages { number } else { 0 });
    EncoderConfig::ConvNext(ConvNextConfig { image, stem: 4, depths: of_each(1), widths: of_each(8), layer_scale: 0.5 })
}

#[test]
fn all_that_is_looked_at_is_what_the_encoder_gives_one_by_one() {
    for config in encoders() {
        let encoder = config.init(&mut WeightInit::new(1, FirstWeights::ByInputs), &Device::flex());
        let images = Tensor::random([2, 3, 28, 28], Distribution::Normal(0.0, 1.0), &Device::flex());
        let numbers = |tensor: TensorData| tensor.iter::<f32>().collect::<Vec<_>>();
        let same = |what: &str, ours: TensorData, theirs: TensorData| {
            let (ours, theirs) = (numbers(ours), numbers(theirs));
            assert_eq!(ours.len(), theirs.len(), "{what}, {config:?}");
            for (one, other) in ours.iter().zip(&theirs) {
                close(what, f64::from(*one), f64::from(*other), 1e-5);
            }
        };
        let seen = encoder.look(images.clone());
        same("features", seen.features.into_data(), encoder.forward(images.clone(), None).into_data());
        same("pooled", seen.pooled.into_data(), encoder.pooled(images.clone()).into_data());
        match (seen.energies, encoder.energies(images)) {
            (Some(ours), Some(theirs)) => same("energies", ours.into_data(), theirs.into_data()),
            (None, None) => {}
            _ => panic!("energies of one way only, {config:?}"),
        }
        let (layers, heads) = config.attention();
        assert_eq!(seen.attention.len(), layers);
        assert!(seen.attention.iter().all(|layer| layer.dims() == [2, heads, 16, 16]));
    }
}

#[test]
fn maps_that_would_not_fit_are_refused_attention_or_not() {
    for config in encoders() {
        check(&config).unwrap();
    }
    // 90,000 places, each beside all others.
    for large in [convnext(1200, 1), EncoderConfig::Vit(VitConfig::free(1200, 4, 16, 1, 1))] {
        let said = check(&large).unwrap_err().to_string();
        assert!(said.contains("8100000000 numbers") && said.contains("--set augment.size"), "{said}");
    }
    // Half of what fits as one map, in three heads.
    let said = check(&EncoderConfig::Vit(VitConfig::free(512, 4, 48, 1, 3))).unwrap_err().to_string();
    assert!(said.contains("3 heads, 16384 patches"), "{said}");
}

/// 28 pixels in strides of 4 and then 2 are three places of 8, and 4 pixels that no place stands for.
#[test]
fn map_covers_the_pixels_that_its_places_stand_for() {
    assert_eq!(encoders().map(|config| config.covered()), [28, 28, 24]);
    assert_eq!((convnext(32, 4).covered(), convnext(100, 3).covered()), (32, 96));
    let white = RgbImage::from_pixel(28, 28, Rgb([255; 3]));
    let map: Vec<f32> = (0..9).map(|place| place as f32).collect();
    let drawn = covered(&white, &map, 24);
    for (x, y, pixel) in drawn.enumerate_pixels() {
        let expected = if x < 24 && y < 24 { drawn.get_pixel(x / 8 * 8, y / 8 * 8) } else { &Rgb([255; 3]) };
        assert_eq!(pixel, expected, "at {x}, {y}");
    }
    let places: std::collections::BTreeSet<_> = drawn.pixels().map(|pixel| pixel.0).collect();
    assert_eq!(places.len(), 10, "a colour for each place, and the white beyond");
}

/// Views of `samples` in `width` directions: samples differ along the first `told` of them by `apart`, views along all by
/// `noise`.
fn views(samples: u32, told: usize, apart: f32, noise: &dyn Fn(usize) -> f32) -> ViewFeatures {
    const WIDTH: usize = 8;
    let mut made = ViewFeatures { width: WIDTH, ..Default::default() };
    for sample in 0..samples {
        let mut draws = Draws::new(1, 0, u64::from(sample), Purpose::Crop);
        let place: Vec<f32> = (0..WIDTH).map(|_| apart * normal(&mut draws)).collect();
        for _ in 0..6 {
            for (direction, place) in place.iter().enumerate() {
                let own = if direction < told { *place } else { 0.0 };
                made.values.push(own + noise(direction) * normal(&mut draws));
            }
            made.samples.push(sample);
        }
    }
    made
}

/// Samples that differ alike along three of eight directions have rank 3, however much their views differ along the
/// others; RankMe would count those. Without differences beyond the views', all directions are alike.
#[test]
fn lidar_counts_the_directions_that_tell_samples_apart() {
    let quiet = lidar(&views(2000, 3, 10.0, &|_| 0.1)).unwrap();
    close("three directions", quiet, 3.0, 0.05);
    let loud = |direction: usize| if direction < 3 { 0.1 } else { 30.0 };
    close("and five that only views differ in", lidar(&views(2000, 3, 10.0, &loud)).unwrap(), 3.0, 0.05);
    close("no sample differs", lidar(&views(4000, 0, 0.0, &|_| 1.0)).unwrap(), 8.0, 0.2);
    // Another scale, or another basis of features that views do not differ in, changes nothing.
    let mut scaled = views(2000, 3, 10.0, &|_| 0.1);
    scaled.values.iter_mut().for_each(|value| *value *= 100.0);
    close("a hundred times as large", lidar(&scaled).unwrap(), quiet, 0.05);
}

/// Which of its two views training moves is no matter of the encoder.
#[test]
fn views_of_saccade_jepa_differ_whichever_of_the_two_training_moves() {
    for moved in ["first", "second", "either"] {
        let changes = [
            format!("saccade.moved={moved:?}"),
            "augment.crop_scale=[1.0, 1.0]".into(),
            "augment.crop_ratio=[1.0, 1.0]".into(),
        ];
        let plan = Plan::new(RunConfig::read(Path::new("pipelines/fashion-saccade.toml"), &changes).unwrap()).unwrap();
        let (place, runtime) = (plan.config.device.open().unwrap(), tokio::runtime::Runtime::new().unwrap());
        let stop = AtomicBool::new(false);
        let from = Extraction { plan: &plan, place: &place, runtime: runtime.handle(), stop: &stop };
        let views = from.views(plan.validation.as_ref().unwrap(), |images| images.flatten(1, 3)).unwrap();
        assert!(views.samples[..10].iter().all(|sample| *sample == views.samples[0]), "ten views of the first sample");
        let rows: Vec<&[f32]> = views.values.chunks(views.width).take(10).collect();
        for (number, row) in rows.iter().enumerate() {
            assert!(!rows[..number].contains(row), "moved = {moved}: view {number} is one of those before");
        }
    }
}

#[test]
fn lidar_of_too_little_is_none() {
    assert_eq!(lidar(&ViewFeatures::default()), None);
    let single = ViewFeatures { values: vec![1.0, 2.0], width: 1, samples: vec![0, 1] };
    assert_eq!(lidar(&single), None, "one view of each tells nothing of how views differ");
    let still = ViewFeatures { values: vec![1.0, 1.0, 2.0, 2.0], width: 1, samples: vec![0, 0, 1, 1] };
    assert_eq!(lidar(&still), None, "views that do not differ leave nothing to compare with");
    let same = ViewFeatures { values: vec![1.0; 8], width: 2, samples: vec![0, 0, 1, 1] };
    assert_eq!(lidar(&same), None, "samples that are all the same have no directions");
    let spoilt = ViewFeatures { values: vec![1.0, f32::NAN, 2.0, 3.0], width: 1, samples: vec![0, 0, 1, 1] };
    assert_eq!(lidar(&spoilt), None);
}

/// Two clouds: after some batches the probe tells them apart, on samples that it never learnt from; their labels being
/// wrong there, it is wrong on all of them.
#[test]
fn online_probe_learns_from_nine_in_ten_and_is_scored_on_the_tenth() {
    let config = ProbeConfig::new(2, vec![0, 1, 4_000_000_000]).unwrap();
    for lie in [false, true] {
        let mut probe = OnlineProbe::new(config.clone(), &Device::flex());
        let (mut right, mut of) = (0.0, 0);
        for step in 0..60u32 {
            let samples: Vec<u32> = (step * 50..(step + 1) * 50).collect();
            let cloud = |sample: u32| sample / 3 % 2;
            let values: Vec<f32> = samples.iter().flat_map(|&sample| [2.0 * cloud(sample) as f32 - 1.0, 0.3]).collect();
            let told = |sample: u32| if lie && is_scored(sample) { 1 - cloud(sample) } else { cloud(sample) };
            // Labels are any numbers.
            let label = |&sample: &u32| told(sample) * 4_000_000_000;
            let mut labels: Vec<Option<u32>> = samples.iter().map(|sample| Some(label(sample))).collect();
            // Samples without a label are neither learnt from nor scored.
            labels[7] = None;
            let features = Tensor::from_data(TensorData::new(values, [50, 2]), &Device::flex());
            let probed = probe.step(features, &labels, &samples);
            if let Some(probed) = probed.filter(|_| step >= 30) {
                let scored =
                    samples.iter().zip(&labels).filter(|(sample, label)| is_scored(**sample) && label.is_some());
                assert_eq!(probed.of, scored.count());
                right += probed.right.into_scalar::<f32>();
                of += probed.of;
            }
        }
        assert!((100..=200).contains(&of), "{of} of 1,500 samples were scored, about 150 should be");
        assert_eq!(right as usize, if lie { 0 } else { of }, "lie: {lie}, of {of}");
    }
}

#[test]
fn online_probe_goes_on_exactly_from_its_state() {
    let config = ProbeConfig::new(3, vec![0, 1]).unwrap();
    let device = Device::flex();
    let batch = |step: u32| {
        let mut draws = Draws::new(5, 0, u64::from(step), Purpose::Crop);
        let values: Vec<f32> = (0..24).map(|_| normal(&mut draws)).collect();
        let labels: Vec<Option<u32>> = (0..8).map(|row| Some(u32::from(values[3 * row] > 0.0))).collect();
        let samples: Vec<u32> = (0..8).map(|row| step * 8 + row).collect();
        (Tensor::from_data(TensorData::new(values, [8, 3]), &Device::flex()), labels, samples)
    };
    let go = |probe: &mut OnlineProbe, steps: std::ops::Range<u32>| {
        for (features, labels, samples) in steps.map(batch) {
            drop(probe.step(features, &labels, &samples));
        }
    };
    let mut whole = OnlineProbe::new(config.clone(), &device);
    go(&mut whole, 0..20);
    let mut half = OnlineProbe::new(config.clone(), &device);
    go(&mut half, 0..9);
    let (weights, updates) = half.state().unwrap();
    assert_eq!(updates, 9);
    let mut rest = OnlineProbe::restore(config.clone(), weights.clone(), updates, &device).unwrap();
    go(&mut rest, 9..20);
    assert_eq!(rest.state().unwrap(), whole.state().unwrap());
    // A state of other labels is one that another build left; what is missing of it is damage.
    let more = ProbeConfig::new(3, vec![0, 1, 7]).unwrap();
    assert!(more.is_of_other_labels(&weights) && !config.is_of_other_labels(&weights));
    // What is missing or of another shape is named.
    let mut lacking = weights.clone();
    lacking.remove("moment2");
    assert!(!more.is_of_other_labels(&lacking));
    let said = OnlineProbe::restore(config, lacking, 9, &device).unwrap_err().to_string();
    assert!(said.contains("probe.moment2"), "{said}");
    let more = ProbeConfig::new(3, vec![0, 1, 2, 3, 4]).unwrap();
    let said = OnlineProbe::restore(more, weights, 9, &device).unwrap_err().to_string();
    assert!(said.contains("probe.weights") && said.contains("[4, 5]"), "{said}");
}

#[test]
fn a_tenth_of_any_samples_is_scored() {
    for samples in [0..6000u32, 1_000_000..1_006_000, 0..600_000] {
        let share = samples.clone().filter(|&sample| is_scored(sample)).count() as f64 / samples.len() as f64;
        close("share", share, 0.1, 0.002);
    }
}
