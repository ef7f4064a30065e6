//! Spectra with known answers; features, encoders and runs that collapse, and those that do not.

use burn::tensor::{Device, Tensor, TensorData};
use saccade::checkpoint::read_arrays;
use saccade::draws::{Draws, Purpose};
use saccade::model::weights::{self, Array};
use saccade::model::{
    Choice, EncoderConfig, FirstWeights, Lookup, PatchPredictorConfig, Precision, PredictorConfig, VitConfig,
    WeightInit,
};
use saccade::objective::masked::MaskedWeights;
use saccade::objective::spectrum::{Spectrum, alpha, deviations, eigenvalues, rankme};
use saccade::objective::vicreg;
use saccade::train::collapse::{Collapse, Findings, Health, INTERVAL, Kind, Output, ROWS, Watch, pooled};
use saccade::train::model::Loss;
use saccade::train::step::StepConfig;
use saccade::train::upload::{DeviceBatch, DeviceMasks, Images};
use saccade::train::{HeadConfig, ModelConfig, Outputs, Schedules, Trainer};
use serde_json::Value;

use crate::reference;

/// What 64-bit floats allow, against the largest eigenvalue.
const ROUNDING: f64 = 1e-13;
const BATCH: usize = 32;
const WIDTH: usize = 64;

#[test]
fn eigenvalues_of_known_matrices_are_found() {
    let check = |what: &str, size: usize, entry: &dyn Fn(usize, usize) -> f64, mut expected: Vec<f64>| {
        expected.sort_by(|a, b| b.total_cmp(a));
        let matrix = (0..size * size).map(|place| entry(place / size, place % size)).collect();
        close(what, &eigenvalues(matrix, size), &expected, ROUNDING * expected.first().map_or(1.0, |most| most.abs()));
    };
    let diagonal = |i: usize, j: usize| if i == j { (i as f64 - 3.0).powi(3) } else { 0.0 };
    check("diagonal", 9, &diagonal, (0..9).map(|i| (i as f64 - 3.0).powi(3)).collect());
    // The second difference on 50 points: 2 - 2 cos(k π / 51).
    let difference = |i: usize, j: usize| [2.0, -1.0].get(i.abs_diff(j)).copied().unwrap_or(0.0);
    let waves = (1..=50).map(|k| 2.0 - 2.0 * (f64::from(k) * std::f64::consts::PI / 51.0).cos()).collect();
    check("second difference", 50, &difference, waves);
    // min(i, j) is the inverse of a second difference: 1 / (4 sin²((2k - 1) π / (4n + 2))), over four decades.
    let least = |i: usize, j: usize| (i.min(j) + 1) as f64;
    let decades =
        (1..=101).map(|k| 0.25 / (f64::from(2 * k - 1) * std::f64::consts::PI / 406.0).sin().powi(2)).collect();
    check("minimum", 101, &least, decades);
    let ones = |i: usize, j: usize| if i == j { 3.0 } else { 1.0 };
    check("ones", 30, &ones, std::iter::once(32.0).chain([2.0; 29]).collect());
    check("zero", 7, &|_, _| 0.0, vec![0.0; 7]);
    check("one number", 1, &|_, _| -4.0, vec![-4.0]);
    check("nothing", 0, &|_, _| 0.0, vec![]);
}

#[test]
fn singular_values_are_the_same_lying_and_standing() {
    for (rows, width) in [(5, 3), (40, 64), (64, 40), (33, 33)] {
        let standing = normal(1, rows * width);
        let lying: Vec<f32> = (0..rows * width).map(|place| standing[place % rows * width + place / rows]).collect();
        let [standing, lying] = [(standing, width), (lying, rows)].map(|(values, width)| Spectrum::of(&values, width));
        close("singular values", &standing.singular_values, &lying.singular_values, 1e-11);
    }
}

#[test]
fn singular_values_of_plain_matrices_are_known() {
    let check = |values: &[f32], width: usize, expected: &[f64]| {
        close("singular values", &Spectrum::of(values, width).singular_values, expected, 1e-7);
    };
    check(&[0.0, 3.0, 0.0, -5.0, 0.0, 0.0, 0.0, 0.0, 4.0], 3, &[5.0, 4.0, 3.0]);
    // (1, 2, 2) ⊗ (3, 4): one direction, of length 3 · 5.
    check(&[3.0, 4.0, 6.0, 8.0, 6.0, 8.0], 2, &[15.0, 0.0]);
    check(&hadamard(64), 64, &[8.0; 64]);
}

#[test]
fn variances_do_not_see_the_mean_and_add_up_to_the_squared_deviations() {
    for (rows, width) in [(100, 12), (12, 100)] {
        // Multiples of 1/64, which stay exact when the mean is added.
        let values: Vec<f32> = normal(2, rows * width).iter().map(|value| (value * 64.0).round() / 64.0).collect();
        let moved: Vec<f32> = values.iter().enumerate().map(|(place, value)| value + (place % width) as f32).collect();
        let [here, there] = [&values, &moved].map(|values| Spectrum::of(values, width));
        close("variances", &here.variances, &there.variances, 1e-10);
        assert!(there.singular_values[0] > 3.0 * here.singular_values[0], "the mean is part of the singular values");
        let squares: f64 = deviations(&moved, width).iter().map(|deviation| deviation * deviation).sum();
        close("sum", &[there.variances.iter().sum()], &[squares], 1e-10);
    }
    assert_eq!(deviations(&[1.0, 5.0, 3.0, 5.0], 2), [1.0, 0.0]);
}

#[test]
fn rankme_is_the_reference_implementations() {
    let arrays = read_arrays(&reference().join("losses.safetensors")).unwrap();
    let expected: Value = serde_json::from_slice(&std::fs::read(reference().join("losses.json")).unwrap()).unwrap();
    let Array { shape, values } = &arrays["z"];
    let ours = rankme(&Spectrum::of(values, shape[1]).singular_values);
    let theirs = expected["rankme"].as_f64().unwrap();
    assert!((ours - theirs).abs() < 1e-4 * theirs, "{ours} here, {theirs} there");
}

#[test]
fn rankme_counts_equal_directions() {
    let check = |singular_values: &[f64], expected: f64| {
        let rank = rankme(singular_values);
        assert!((rank - expected).abs() < 1e-3 * expected, "{rank} of {singular_values:?}");
    };
    check(&[2.0; 48], 48.0);
    check(&[7.0, 0.0, 0.0, 0.0], 1.0);
    check(&[0.5, 0.5, 0.5, 0.0], 3.0);
    // Halves: the entropy of 1/2, 1/4, 1/8, ... is 2 ln 2.
    check(&(1..40).map(|k| 0.5f64.powi(k)).collect::<Vec<_>>(), 4.0);
    assert_eq!(rankme(&[0.0, 0.0]), 0.0);
}

#[test]
fn exponent_of_a_power_law_is_found() {
    for exponent in [0.5, 1.0, 2.5] {
        let law: Vec<f64> = (1..=100).map(|rank| 3.0 * f64::from(rank).powf(-exponent)).collect();
        let found = alpha(&law).unwrap();
        assert!((found - exponent).abs() < 1e-12, "{found} for {exponent}");
        // The same law in features: waves, which are orthogonal and have the mean 0, with the amplitudes rank^(-a/2).
        let (rows, width) = (128, 60);
        let wave = |row: usize, rank: usize| (std::f64::consts::TAU * (row * rank) as f64 / rows as f64).cos();
        let amplitude = |rank: usize| (rank as f64).powf(-exponent / 2.0);
        let place = |place: usize| (place / width, place % width + 1);
        let values: Vec<f32> =
            (0..rows * width).map(place).map(|(row, rank)| (wave(row, rank) * amplitude(rank)) as f32).collect();
        let found = alpha(&Spectrum::of(&values, width).variances).unwrap();
        assert!((found - exponent).abs() < 1e-5, "{found} for {exponent}");
    }
}

#[test]
fn too_few_variances_have_no_exponent() {
    assert_eq!(alpha(&[]), None);
    assert_eq!(alpha(&[1.0; 12]), None);
    assert_eq!(alpha(&[0.0; 100]), None);
    // Ten directions are left; the others are rounding.
    let left = |rank: usize| if rank < 10 { 1.0 } else { 1e-15 };
    assert_eq!(alpha(&(0..100).map(left).collect::<Vec<_>>()), None);
}

#[test]
fn as_many_rows_are_wanted_as_a_judgement_looks_at() {
    for batch in [1, 5, 32, 100, 128, 4096] {
        let watch = Watch::new(batch, Findings::default());
        let wanted: Vec<usize> = (0..3 * INTERVAL).map(|step| watch.wants(step)).collect();
        for interval in wanted.chunks(INTERVAL as usize) {
            assert_eq!(interval.iter().sum::<usize>(), ROWS.min(batch * INTERVAL as usize), "batches of {batch}");
            assert!(interval.is_sorted() && interval.iter().all(|&wanted| wanted <= batch), "{interval:?}");
        }
    }
}

#[test]
fn features_that_vary_are_healthy() {
    for scale in [1e-3, 1.0, 1e3] {
        let named = judge(6, &|judgement| varied(judgement, scale));
        assert!(named.iter().all(Vec::is_empty), "{named:?}");
    }
}

#[test]
fn constant_features_are_a_complete_collapse_since_the_first_judgement_that_saw_it() {
    for scale in [1e-3, 1.0, 1e3] {
        let named =
            judge(6, &|judgement| if judgement < 2 { varied(judgement, scale) } else { constant(judgement, scale) });
        let since = 3 * INTERVAL - 1;
        let expected = Output::ALL.map(|output| Collapse { kind: Kind::Complete, output, since });
        assert!(named[..4].iter().all(Vec::is_empty), "{named:?}");
        assert!(named[4..].iter().all(|named| *named == expected), "{named:?}");
    }
    let text = Collapse { kind: Kind::Complete, output: Output::Target, since: 149 }.to_string();
    assert_eq!(text, "complete collapse of the target since step 149");
}

#[test]
fn zeros_are_a_complete_collapse() {
    let health = Health::of(&[0.0; 640], 64).unwrap();
    assert_eq!(health, Health { deviation: 0.0, spread: 0.0, rankme: 0.0, directions: 0.0, alpha: None });
    assert_eq!(health.verdict(Output::Encoder), Some(Kind::Complete));
}

#[test]
fn features_along_a_few_directions_are_a_dimensional_collapse() {
    for directions in [1, 3, 6] {
        let named = judge(3, &|judgement| along(judgement, directions));
        let since = INTERVAL - 1;
        assert_eq!(named[2], Output::ALL.map(|output| Collapse { kind: Kind::Dimensional, output, since }));
    }
    let half = judge(6, &|judgement| along(judgement, WIDTH / 2));
    assert!(half.iter().all(Vec::is_empty), "half of the directions is what a narrow predictor has: {half:?}");
}

#[test]
fn passing_dip_is_not_named_and_a_collapse_is_withdrawn_once_it_has_healed() {
    let named = |bad: &[usize]| {
        let features =
            |judgement| if bad.contains(&judgement) { constant(judgement, 1.0) } else { varied(judgement, 1.0) };
        judge(10, &features).iter().map(|named| named.len()).collect::<Vec<_>>()
    };
    assert_eq!(named(&[1, 2, 4, 5, 7]), [0; 10]);
    // One good judgement withdraws nothing; three do.
    assert_eq!(named(&[0, 1, 2, 4, 5]), [0, 0, 3, 3, 3, 3, 3, 3, 0, 0]);
    // What comes back after that has begun anew.
    let again = judge(10, &|judgement| {
        if (3..6).contains(&judgement) { varied(judgement, 1.0) } else { constant(judgement, 1.0) }
    });
    let since: Vec<Option<u64>> = again.iter().map(|named| named.first().map(|first| first.since + 1)).collect();
    let (first, second) = (Some(INTERVAL), Some(7 * INTERVAL));
    assert_eq!(since, [None, None, first, first, first, None, None, None, second, second]);
}

#[test]
fn values_that_are_not_finite_are_not_judged() {
    assert_eq!(Health::of(&[1.0, f32::NAN, 2.0, 3.0], 2), None);
    assert_eq!(Health::of(&[1.0, f32::INFINITY, 2.0, 3.0], 2), None);
    assert_eq!(Health::of(&[1.0, 2.0], 2), None, "one sample has no deviation");
    assert_eq!(Health::of(&[], 2), None);
}

#[test]
fn run_taken_up_between_the_looks_finds_what_it_would_have_found() {
    let features = |judgement| if judgement < 1 { varied(judgement, 1.0) } else { constant(judgement, 1.0) };
    let mut whole = Watch::new(BATCH, Findings::default());
    watch(&mut whole, 0..6 * INTERVAL, &features);
    for stop in [10, 2 * INTERVAL, 3 * INTERVAL + 7] {
        let mut first = Watch::new(BATCH, Findings::default());
        watch(&mut first, 0..stop, &features);
        let kept = serde_json::to_string(first.findings()).unwrap();
        let mut second = Watch::new(BATCH, serde_json::from_str(&kept).unwrap());
        watch(&mut second, stop..6 * INTERVAL, &features);
        assert_eq!(second.findings(), whole.findings(), "taken up at step {stop}");
    }
    // Amid the looks the rows are lost, and that judgement is left out.
    let mut late = Watch::new(BATCH, Findings::default());
    watch(&mut late, INTERVAL - 1..INTERVAL, &features);
    assert_eq!(late.findings(), &Findings::default());
}

#[test]
fn pooled_features_are_means_over_real_patches_of_all_blocks() {
    let device = Device::flex();
    // Two blocks of two samples, three patches each, two features.
    let values: Vec<f32> = (0..24).map(|value| value as f32).collect();
    let features = || Tensor::<3>::from_data(TensorData::new(values.clone(), [4, 3, 2]), &device);
    let real = vec![1.0f32, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
    let real = Tensor::<2>::from_data(TensorData::new(real, [4, 3]), &device);
    // Sample 0: patches (0, 1), (2, 3), (4, 5) and (12, 13); sample 1: (6, 7) and (18, 19), (20, 21).
    close_f32(&rows(pooled(features(), Some(real), 2)), &[4.5, 5.5, 44.0 / 3.0, 47.0 / 3.0]);
    close_f32(&rows(pooled(features(), None, 1)), &[2.0, 3.0, 8.0, 9.0, 14.0, 15.0, 20.0, 21.0]);
}

#[test]
fn encoder_with_bad_weights_collapses_and_one_with_drawn_weights_does_not() {
    let verdict = |change: &dyn Fn(&str, &mut Array)| {
        let device = Device::flex();
        let mut encoder = vit().init(&mut WeightInit::new(3, FirstWeights::Published), &device);
        let mut changed = weights::collect(&encoder).unwrap();
        changed.iter_mut().for_each(|(name, array)| change(name, array));
        weights::apply(&mut encoder, changed).unwrap();
        let features = pooled(encoder.forward(images(0, ROWS, &device), None), None, 1);
        Health::of(&rows(features), WIDTH).unwrap().verdict(Output::Encoder)
    };
    assert_eq!(verdict(&|_, _| ()), None);
    assert_eq!(verdict(&|_, array| array.values.fill(0.0)), Some(Kind::Complete));
    // No pixel reaches the features; the positions alone do.
    let blind = |name: &str, array: &mut Array| {
        if name == "patch_embed.weight" {
            array.values.fill(0.0);
        }
    };
    assert_eq!(verdict(&blind), Some(Kind::Complete));
    // Four features of 64 are left.
    let narrow = |name: &str, array: &mut Array| {
        if name == "norm.gamma" {
            array.values[4..].fill(0.0);
        }
    };
    assert_eq!(verdict(&narrow), Some(Kind::Dimensional));
}

#[test]
fn short_training_is_healthy() {
    let (named, findings) = train(0.99, 0.002, 0.04);
    assert!(named.is_empty(), "{named:?}: {findings:?}");
    assert!(Output::ALL.iter().all(|&output| findings.health(output).is_some()));
}

#[test]
fn training_that_decays_all_weights_away_collapses() {
    let (named, findings) = train(0.9, 0.002, 100.0);
    let since = |output, since| named.contains(&Collapse { kind: Kind::Complete, output, since });
    assert!(since(Output::Target, INTERVAL - 1), "{named:?}: {findings:?}");
    assert!(since(Output::Predictor, 2 * INTERVAL - 1), "{named:?}: {findings:?}");
}

/// What is named after each of so many judgements of features, the same ones for each output.
fn judge(judgements: u64, features: &dyn Fn(usize) -> Vec<f32>) -> Vec<Vec<Collapse>> {
    let mut watched = Watch::new(BATCH, Findings::default());
    let named = |judgement: u64| {
        watch(&mut watched, judgement * INTERVAL..(judgement + 1) * INTERVAL, features);
        watched.findings().collapses().collect()
    };
    (0..judgements).map(named).collect()
}

/// Steps whose judgement numbers give the features.
fn watch(watch: &mut Watch, steps: std::ops::Range<u64>, features: &dyn Fn(usize) -> Vec<f32>) {
    for step in steps {
        let wanted = watch.wants(step);
        if wanted > 0 {
            let all = features((step / INTERVAL) as usize);
            let last = (INTERVAL - 1 - step % INTERVAL) as usize * BATCH;
            let rows = &all[(ROWS - last - wanted) * WIDTH..][..wanted * WIDTH];
            Output::ALL.into_iter().for_each(|output| watch.see(output, rows, WIDTH));
        }
        assert_eq!(watch.judge(step), (step + 1).is_multiple_of(INTERVAL));
    }
}

/// Features of [`ROWS`] samples, each feature with a mean and a deviation of its own.
fn varied(judgement: usize, scale: f32) -> Vec<f32> {
    let feature = |place: usize| (place % WIDTH) as f32 / WIDTH as f32;
    let drawn = normal(judgement as u64, ROWS * WIDTH).into_iter().enumerate();
    drawn.map(|(place, value)| scale * (1.0 + feature(place) + value * (0.1 + feature(place)))).collect()
}

/// The same vector for all samples, up to one percent.
fn constant(judgement: usize, scale: f32) -> Vec<f32> {
    let drawn = normal(judgement as u64, ROWS * WIDTH).into_iter().enumerate();
    drawn.map(|(place, value)| scale * (1.0 + (place % WIDTH) as f32 / 64.0 + 0.01 * value)).collect()
}

/// Features that are mixed from so many numbers of each sample, rounded as 32-bit floats are.
fn along(judgement: usize, directions: usize) -> Vec<f32> {
    let (given, mix) = (normal(judgement as u64, ROWS * directions), normal(77, directions * WIDTH));
    let feature = |sample: &[f32], place: usize| {
        sample.iter().zip(mix[place..].iter().step_by(WIDTH)).map(|(x, y)| x * y).sum::<f32>()
    };
    given
        .chunks(directions)
        .flat_map(|sample| (0..WIDTH).map(|place| 0.5 + feature(sample, place)).collect::<Vec<_>>())
        .collect()
}

fn vit() -> VitConfig {
    VitConfig::free(16, 4, WIDTH, 2, 2)
}

/// Trains on images of a few waves for four judgements; gives what was ever named, and what was found last.
fn train(ema_decay: f64, learning_rate: f64, weight_decay: f64) -> (Vec<Collapse>, Findings) {
    let (device, steps) = (Device::flex(), 4 * INTERVAL);
    let mut trainer = trainer([ema_decay, learning_rate, weight_decay], MaskedWeights::default());
    let (mut watch, mut named) = (Watch::new(BATCH, Findings::default()), Vec::new());
    for step in 0..steps {
        let batch = batch(step, &device);
        let wanted = watch.wants(step);
        if wanted > 0 {
            let Outputs { encoder, target, predictor } = trainer.backward(&batch).unwrap().outputs;
            for (output, features) in Output::ALL.into_iter().zip([encoder, target, predictor]) {
                watch.see(output, &rows(features)[..wanted * WIDTH], WIDTH);
            }
        }
        trainer.step(&batch).unwrap();
        if watch.judge(step) {
            named.extend(watch.findings().collapses());
        }
    }
    (named, watch.findings().clone())
}

fn trainer([ema_decay, learning_rate, weight_decay]: [f64; 3], weights: MaskedWeights) -> Trainer {
    let (device, steps) = (Device::flex(), 4 * INTERVAL);
    let models = ModelConfig {
        encoder: EncoderConfig::Vit(vit()),
        projector: None,
        predictor: HeadConfig::Patches(PatchPredictorConfig::Vit(PredictorConfig::new(WIDTH / 2, 1, 2))),
    };
    let model = models.init(5, FirstWeights::Published, &device.clone().autodiff());
    let schedules = Schedules {
        start_learning_rate: learning_rate / 4.0,
        peak_learning_rate: learning_rate,
        final_learning_rate: learning_rate,
        warmup_steps: 20,
        steps,
        weight_decay: [weight_decay; 2],
        ema_decay: [ema_decay; 2],
    };
    let loss = Loss::Masked(weights);
    Trainer::new(
        model,
        StepConfig {
            accumulate: 1,
            precision: Precision::F32,
            recompute: false,
            clip_norm: None,
            loss,
            schedules,
            probe: None,
        },
    )
}

/// C-JEPA's terms are VICReg's of what the encoder says of the context; without them the loss is I-JEPA's.
#[test]
fn terms_that_keep_features_apart_are_those_of_the_pooled_context() {
    let batch = batch(0, &Device::flex());
    let weights = MaskedWeights { variance: 0.5, covariance: 0.25 };
    let with = trainer([0.99, 0.001, 0.04], weights).backward(&batch).unwrap();
    let without = trainer([0.99, 0.001, 0.04], MaskedWeights::default()).backward(&batch).unwrap();
    let number = |tensor: &Tensor<1>| f64::from(tensor.clone().into_scalar::<f32>());
    let named: Vec<(&str, f64)> = with.terms.iter().map(|(name, term)| (*name, number(term))).collect();
    let expected = [
        ("prediction", number(&without.loss)),
        ("variance", 0.5 * number(&vicreg::variance(with.outputs.encoder.clone()))),
        ("covariance", 0.25 * number(&vicreg::covariance(with.outputs.encoder.clone()))),
    ];
    assert_eq!(named.len(), 3, "{named:?}");
    for ((name, ours), (other, expected)) in named.iter().zip(expected) {
        assert!(*name == other && (ours - expected).abs() < 1e-5 && *ours > 0.0, "{name} {ours}, {other} {expected}");
    }
    let sum: f64 = named.iter().map(|(_, term)| term).sum();
    assert!((number(&with.loss) - sum).abs() < 1e-5, "{} is not the sum of {named:?}", number(&with.loss));
    assert_eq!(without.terms.len(), 1);
    let [with, without] = [with, without].map(|found| number(&found.gradients.norm().unwrap()));
    assert!((with - without).abs() > 0.01 * without, "the terms move nothing: {with}, {without}");
}

/// A batch whose samples see eight patches of sixteen and predict two blocks of two of the others.
fn batch(step: u64, device: &Device) -> DeviceBatch {
    let (mut context, mut targets) = (Vec::new(), Vec::new());
    for sample in 0..BATCH as u64 {
        let mut patches: Vec<u32> = (0..16).collect();
        Draws::new(9, step, sample, Purpose::Masks).shuffle(&mut patches);
        context.extend_from_slice(&patches[..8]);
        targets.extend_from_slice(&patches[8..12]);
    }
    let choice = |indices: &[u32], width| Choice::new(indices, &vec![true; indices.len()], width, Lookup::Rows, device);
    let masks = DeviceMasks {
        context: choice(&context, 8),
        targets: choice(&targets, 4),
        blocks: 2,
        target_patches: targets.len(),
    };
    DeviceBatch {
        step,
        epoch: 0,
        samples: (0..BATCH as u32).collect(),
        labels: vec![None; BATCH],
        images: Images::Values(images(1 + step, BATCH, device).unsqueeze_dim(1)),
        masks: Some(masks),
        saccades: None,
        quarantined: Vec::new(),
        counts: Default::default(),
    }
}

/// Images of a colour and three waves each, every wave with a direction, a place and a colour of its own.
fn images(number: u64, count: usize, device: &Device) -> Tensor<4> {
    let side = 16;
    let image = |sample: u64| {
        let mut draws = Draws::new(11, number, sample, Purpose::Crop);
        let colour = [draws.normal(), draws.normal(), draws.normal()];
        let mut pixels: Vec<f32> = (0..3 * side * side).map(|place| colour[place / side / side] as f32).collect();
        for _ in 0..3 {
            let (across, down, start) = (draws.between(-1.0, 1.0), draws.between(-1.0, 1.0), draws.between(0.0, 6.3));
            let colour = [draws.normal(), draws.normal(), draws.normal()];
            for (place, pixel) in pixels.iter_mut().enumerate() {
                let (row, column) = (place / side % side, place % side);
                let wave = (start + across * column as f64 + down * row as f64).sin();
                *pixel += (colour[place / side / side] * wave) as f32;
            }
        }
        pixels
    };
    let pixels: Vec<f32> = (0..count as u64).flat_map(image).collect();
    Tensor::from_data(TensorData::new(pixels, [count, 3, side, side]), device)
}

fn rows(features: Tensor<2>) -> Vec<f32> {
    features.into_data().try_to_vec::<f32>().unwrap()
}

fn normal(subject: u64, count: usize) -> Vec<f32> {
    let mut draws = Draws::new(1, 0, subject, Purpose::Weights);
    (0..count).map(|_| draws.normal() as f32).collect()
}

/// Rows of ones and minus ones, all at right angles; `side` is a power of two.
fn hadamard(side: usize) -> Vec<f32> {
    let sign = |place: usize| if ((place / side) & (place % side)).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    (0..side * side).map(sign).collect()
}

fn close_f32(ours: &[f32], expected: &[f32]) {
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    close("values", &wide(ours), &wide(expected), 1e-5);
}

fn close(what: &str, ours: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}: another number of values");
    for (place, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        assert!((ours - expected).abs() <= tolerance, "{what}, number {place}: {ours}, not {expected}");
    }
}
