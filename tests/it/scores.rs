//! kNN and the linear probe against scikit-learn, and on points whose neighbours are known; dimensions of sets whose
//! dimension is known.

use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use saccade::checkpoint::read_arrays;
use saccade::draws::{Draws, Purpose};
use saccade::eval::dimension::correlation_dimension;
use saccade::eval::features::Features;
use saccade::eval::knn::{Nearness, Votes, accuracies, accuracy, nearest, standardise};
use saccade::eval::probe::{self, ProbeScore};
use serde_json::Value;

use crate::reference;

/// Digits that are standardised already, and scikit-learn's scores of them.
fn digits() -> (Features, Features, Value) {
    let arrays = read_arrays(&reference().join("probes.safetensors")).unwrap();
    let split = |name: &str| {
        let labels: Vec<u32> = arrays[&format!("{name}.y")].values.iter().map(|&label| label as u32).collect();
        Features {
            values: arrays[&format!("{name}.x")].values.clone(),
            width: arrays[&format!("{name}.x")].shape[1],
            samples: (0..labels.len() as u32).collect(),
            labels,
        }
    };
    let expected = serde_json::from_slice(&std::fs::read(reference().join("probes.json")).unwrap()).unwrap();
    (split("train"), split("test"), expected)
}

#[test]
fn euclidean_neighbours_agree_with_scikit_learn() {
    let (train, test, expected) = digits();
    let mut compared = 0;
    for (name, share) in expected.as_object().unwrap() {
        let Some(k) = name.strip_prefix("knn_k") else { continue };
        let ours = accuracy(&train, &test, k.parse().unwrap(), Nearness::Euclidean, &Device::flex()).unwrap();
        let samples = (ours - share.as_f64().unwrap()).abs() * test.len() as f64;
        assert!(samples < 1.001, "{name}: {ours} here, {share} in scikit-learn, {samples:.1} samples apart");
        compared += 1;
    }
    assert!(compared > 0, "probes.json names no knn_k*");
}

#[test]
fn linear_probe_agrees_with_scikit_learn() {
    let (train, test, expected) = digits();
    let share = expected["logistic_regression"].as_f64().unwrap();
    let ours = probe(&train, &test).unwrap();
    assert!((ours.top1 - share).abs() <= 0.005, "{} here, {share} in scikit-learn", ours.top1);
    assert!(ours.converged && ours.top1_train >= ours.top1 && ours.top5 > ours.top1, "{ours:?}");
}

/// Two labels, and a third that is never seen: the best line lies between.
#[test]
fn linear_probe_finds_a_line_and_never_a_label_that_it_was_not_taught() {
    // Labels are any numbers of 32 bits, and cost no more for being large.
    let train = points(&[([-1.0, 0.5], 1), ([-0.5, -0.5], 1), ([0.5, 0.5], u32::MAX), ([1.0, -0.5], u32::MAX)]);
    let held_out = points(&[([-0.8, 0.0], 1), ([0.8, 0.0], u32::MAX), ([0.8, 0.0], 7), ([0.7, 9.0], 1)]);
    let score = probe(&train, &held_out).unwrap();
    assert_eq!((score.top1_train, score.top1), (1.0, 0.5), "{score:?}");
    // Both labels are among the five best, but 7 is none of them.
    assert_eq!(score.top5, 0.75, "{score:?}");
    assert!(probe(&Features::default(), &held_out).is_none());
}

fn probe(train: &Features, held_out: &Features) -> Option<ProbeScore> {
    probe::probe(train, held_out, &Device::flex(), &AtomicBool::new(false)).unwrap()
}

#[test]
fn linear_probe_ends_without_a_score_when_it_is_told_to() {
    let (train, test, _) = digits();
    assert_eq!(probe::probe(&train, &test, &Device::flex(), &AtomicBool::new(true)), Ok(None));
}

fn points(rows: &[([f32; 2], u32)]) -> Features {
    Features {
        values: rows.iter().flat_map(|(point, _)| *point).collect(),
        width: 2,
        labels: rows.iter().map(|(_, label)| *label).collect(),
        samples: (0..rows.len() as u32).collect(),
    }
}

#[test]
fn cosine_sees_directions_and_euclidean_sees_places() {
    // The query points where label 1 does, but lies beside label 0.
    let train = points(&[([0.5, 1.0], 0), ([10.0, 0.5], 1)]);
    let query = points(&[([1.0, 0.0], 1)]);
    assert_eq!(accuracy(&train, &query, 1, Nearness::Cosine, &Device::flex()).unwrap(), 1.0);
    assert_eq!(accuracy(&train, &query, 1, Nearness::Euclidean, &Device::flex()).unwrap(), 0.0);
}

#[test]
fn majority_wins_and_a_tie_goes_to_the_smallest_label() {
    let train = points(&[([0.0, 0.1], 3), ([0.0, 0.2], 2), ([0.0, 0.3], 2), ([0.0, 0.4], 3)]);
    let with_label = |label| points(&[([0.0, 0.0], label)]);
    let score = |label, k| accuracy(&train, &with_label(label), k, Nearness::Euclidean, &Device::flex()).unwrap();
    assert_eq!((score(3, 1), score(2, 3), score(2, 4)), (1.0, 1.0, 1.0));
    // More neighbours than samples are all samples.
    assert_eq!(score(2, 99), 1.0);
}

#[test]
fn both_splits_are_standardised_by_the_training_split() {
    let mut train = points(&[([1.0, 5.0], 0), ([3.0, 5.0], 1)]);
    let mut held_out = points(&[([5.0, 6.0], 0)]);
    standardise(&mut train, &mut held_out);
    assert_eq!(train.values, [-1.0, 0.0, 1.0, 0.0]);
    // Mean 2 and deviation 1; the second feature does not vary and is centred only.
    assert_eq!(held_out.values, [3.0, 1.0]);
}

/// Features that say nothing, or the same thing several times, must not look like good ones.
#[test]
fn linear_probe_sees_through_features_that_say_nothing() {
    let labels = |count: u32| (0..count).map(|number| number % 4).collect::<Vec<u32>>();
    let of = |values: Vec<f32>, width: usize, count: u32| Features {
        values,
        width,
        labels: labels(count),
        samples: (0..count).collect(),
    };
    let collapsed = of(vec![0.0; 400 * 8], 8, 400);
    let score = probe(&collapsed, &collapsed).unwrap();
    assert_eq!((score.top1, score.converged), (0.25, true), "{score:?}");
    // Two directions, each five times over.
    let place = |number: u32| [f32::from(u8::from(number % 4 >= 2)) - 0.5, f32::from((number % 2) as u8) - 0.5];
    let repeated = of((0..400).flat_map(|number| [place(number); 5].concat()).collect(), 10, 400);
    let score = probe(&repeated, &repeated).unwrap();
    assert_eq!((score.top1, score.converged), (1.0, true), "{score:?}");
    let one = of(vec![1.0], 1, 1);
    assert!(probe(&one, &one).unwrap().converged);
}

#[test]
fn nearer_neighbours_weigh_more() {
    // Two of label 5 far away, one of label 4 near: the majority is 5, the weight lies with 4.
    let train = points(&[([1.0, 0.0], 4), ([0.6, 0.8], 5), ([0.6, -0.8], 5)]);
    let query = points(&[([1.0, 0.01], 4)]);
    for nearness in [Nearness::Cosine, Nearness::Euclidean] {
        let scores = accuracies(&train, &query, &[3], nearness, &Device::flex()).unwrap();
        let of = |votes| scores.iter().find(|score| score.votes == votes).unwrap().accuracy;
        assert_eq!((of(Votes::Plain), of(Votes::Weighted)), (0.0, 1.0), "{nearness:?}");
    }
}

#[test]
fn neighbours_come_nearest_first_with_their_distances() {
    let train = points(&[([3.0, 4.0], 0), ([0.0, 1.0], 1), ([6.0, 8.0], 2), ([0.0, 1.0], 3)]);
    let query = points(&[([0.0, 0.0], 0)]);
    let found = nearest(&train, &query, 3, Nearness::Euclidean, &Device::flex()).unwrap();
    let numbers: Vec<(usize, f32)> = found[0].iter().map(|near| (near.number, near.nearness)).collect();
    assert_eq!(numbers, [(1, -1.0), (3, -1.0), (0, -5.0)]);
    let query = points(&[([2.0, 0.0], 0)]);
    let cosines = nearest(&train, &query, 1, Nearness::Cosine, &Device::flex()).unwrap();
    assert!((cosines[0][0].nearness - 0.6).abs() < 1e-6, "{cosines:?}");
}

/// The k nearest by sorting all: what is kept block by block must be the same.
#[test]
fn what_is_kept_of_blocks_is_what_sorting_all_gives() {
    let mut draws = Draws::new(5, 0, 0, Purpose::Weights);
    let mut drawn = |count: usize| Features {
        values: (0..count * 3).map(|_| (draws.unit() * 8.0).floor() as f32).collect(),
        width: 3,
        labels: vec![0; count],
        samples: vec![0; count],
    };
    let (train, held_out) = (drawn(700), drawn(20));
    let found = nearest(&train, &held_out, 9, Nearness::Euclidean, &Device::flex()).unwrap();
    for (number, found) in found.iter().enumerate() {
        let distance = |other: usize| -> f32 {
            train.row(other).iter().zip(held_out.row(number)).map(|(a, b)| (a - b).powi(2)).sum()
        };
        let mut all: Vec<usize> = (0..train.len()).collect();
        all.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
        let numbers: Vec<usize> = found.iter().map(|near| near.number).collect();
        assert_eq!(numbers, all[..9]);
    }
}

fn dimension_of(values: &[f32], width: usize, expected: f64, tolerance: f64) {
    let found = correlation_dimension(values, width).unwrap();
    let apart = (found.dimension - expected).abs();
    assert!(apart <= tolerance, "{expected} +- {tolerance} expected: {found:?}");
    assert!(found.uncertainty > 0.0 && found.uncertainty < 0.5, "{found:?}");
}

#[test]
fn henons_map_has_its_known_dimension() {
    let (mut x, mut y) = (0.1f64, 0.3);
    let mut values = Vec::new();
    for step in 0..5_100 {
        (x, y) = (1.0 - 1.4 * x * x + y, 0.3 * x);
        if step >= 100 {
            values.extend([x as f32, y as f32]);
        }
    }
    dimension_of(&values, 2, 1.21, 0.03);
}

#[test]
fn lorenzs_attractor_has_its_known_dimension() {
    let slope = |[x, y, z]: [f64; 3]| [10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z];
    let along = |from: [f64; 3], by: [f64; 3], step: f64| [0, 1, 2].map(|axis| from[axis] + step * by[axis]);
    let (mut at, step) = ([1.0, 1.0, 20.0], 0.01);
    let mut values = Vec::new();
    // Points that are further apart in time than one turn, or the path itself would be measured.
    for number in 0..5_020 * 90 {
        let first = slope(at);
        let second = slope(along(at, first, step / 2.0));
        let third = slope(along(at, second, step / 2.0));
        let last = slope(along(at, third, step));
        at = [0, 1, 2]
            .map(|axis| at[axis] + step / 6.0 * (first[axis] + 2.0 * second[axis] + 2.0 * third[axis] + last[axis]));
        if number % 90 == 0 && number >= 20 * 90 {
            values.extend(at.map(|value| value as f32));
        }
    }
    dimension_of(&values, 3, 2.05, 0.05);
}

#[test]
fn cubes_and_a_rolled_sheet_have_their_dimension() {
    let mut draws = Draws::new(1, 0, 0, Purpose::Weights);
    // The edge of a cube costs some of the slope, the more the more directions there are.
    for (sides, tolerance) in [(1, 0.03), (2, 0.06), (3, 0.13), (4, 0.27), (5, 0.4)] {
        let values: Vec<f32> = (0..6_000 * sides).map(|_| draws.unit() as f32).collect();
        dimension_of(&values, sides, sides as f64, tolerance);
    }
    let roll = |draws: &mut Draws| {
        let angle = 1.5 * std::f64::consts::PI * (1.0 + 2.0 * draws.unit());
        [angle * angle.cos(), 21.0 * draws.unit(), angle * angle.sin()].map(|value| value as f32)
    };
    let values: Vec<f32> = (0..5_000).flat_map(|_| roll(&mut draws)).collect();
    dimension_of(&values, 3, 2.0, 0.1);
}

#[test]
fn what_has_no_dimension_gets_none() {
    assert!(correlation_dimension(&[], 3).is_none());
    assert!(correlation_dimension(&[1.0; 3000], 3).is_none(), "a thousand equal points");
    assert!(correlation_dimension(&[f32::NAN; 3000], 3).is_none());
    assert!(correlation_dimension(&[1.0, 2.0, 3.0, 4.0], 2).is_none(), "two points");
}
