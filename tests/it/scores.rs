//! kNN against scikit-learn, and on points whose neighbours are known.

use burn::tensor::Device;
use saccade::checkpoint::read_arrays;
use saccade::eval::features::Features;
use saccade::eval::knn::{Nearness, accuracy, standardise};
use serde_json::Value;

use crate::reference;

#[test]
fn euclidean_neighbours_agree_with_scikit_learn() {
    let arrays = read_arrays(&reference().join("probes.safetensors")).unwrap();
    let split = |name: &str| Features {
        values: arrays[&format!("{name}.x")].values.clone(),
        width: arrays[&format!("{name}.x")].shape[1],
        labels: arrays[&format!("{name}.y")].values.iter().map(|&label| label as u32).collect(),
    };
    let (train, test) = (split("train"), split("test"));
    let expected: Value = serde_json::from_slice(&std::fs::read(reference().join("probes.json")).unwrap()).unwrap();
    let mut compared = 0;
    for (name, share) in expected.as_object().unwrap() {
        let Some(k) = name.strip_prefix("knn_k") else { continue };
        let ours = accuracy(&train, &test, k.parse().unwrap(), Nearness::Euclidean, &Device::flex());
        let samples = (ours - share.as_f64().unwrap()).abs() * test.len() as f64;
        assert!(samples < 1.001, "{name}: {ours} here, {share} in scikit-learn, {samples:.1} samples apart");
        compared += 1;
    }
    assert!(compared > 0, "probes.json names no knn_k*");
}

fn points(rows: &[([f32; 2], u32)]) -> Features {
    Features {
        values: rows.iter().flat_map(|(point, _)| *point).collect(),
        width: 2,
        labels: rows.iter().map(|(_, label)| *label).collect(),
    }
}

#[test]
fn cosine_sees_directions_and_euclidean_sees_places() {
    // The query points where label 1 does, but lies beside label 0.
    let train = points(&[([0.5, 1.0], 0), ([10.0, 0.5], 1)]);
    let query = points(&[([1.0, 0.0], 1)]);
    assert_eq!(accuracy(&train, &query, 1, Nearness::Cosine, &Device::flex()), 1.0);
    assert_eq!(accuracy(&train, &query, 1, Nearness::Euclidean, &Device::flex()), 0.0);
}

#[test]
fn majority_wins_and_a_tie_goes_to_the_smallest_label() {
    let train = points(&[([0.0, 0.1], 3), ([0.0, 0.2], 2), ([0.0, 0.3], 2), ([0.0, 0.4], 3)]);
    let with_label = |label| points(&[([0.0, 0.0], label)]);
    let score = |label, k| accuracy(&train, &with_label(label), k, Nearness::Euclidean, &Device::flex());
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
