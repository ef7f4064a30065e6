//! UMAP: neighbours against brute force, ranks counted by hand, and planes that keep what was near together.

use saccade::draws::{Draws, Purpose};
use saccade::eval::umap::{Curve, Neighbours, UmapConfig, UmapError, neighbours, trustworthiness, umap};

#[test]
fn neighbours_are_those_of_brute_force() {
    for (rows, width) in [(2, 1), (7, 3), (8, 8), (9, 1), (64, 5), (65, 17), (203, 40), (30, 1100)] {
        // Few whole numbers: their squares are exact, and many distances are equal.
        let values: Vec<f32> = normal(1, rows * width).into_iter().map(|value| (2.0 * value).round()).collect();
        for k in [1, 4, 15, 500] {
            assert_eq!(neighbours(&values, width, k), brute_force(&values, width, k), "{k} in {rows} rows of {width}");
        }
    }
}

#[test]
fn neighbours_have_no_scale() {
    let values = normal(2, 100 * 12);
    let Neighbours { indices, distances, .. } = neighbours(&values, 12, 5);
    for scale in [2.0f32.powi(-110), 2.0f32.powi(110)] {
        let scaled: Vec<f32> = values.iter().map(|value| value * scale).collect();
        let found = neighbours(&scaled, 12, 5);
        let expected: Vec<f64> = distances.iter().map(|distance| distance * f64::from(scale)).collect();
        assert_eq!((found.indices, found.distances), (indices.clone(), expected), "times {scale:e}");
    }
}

#[test]
fn vectors_that_are_not_finite_are_infinitely_far() {
    let found = neighbours(&[0.0, f32::NAN, 1.0, f32::INFINITY, 1.5], 1, 2);
    assert_eq!(found.indices, [2, 4, 0, 2, 4, 0, 0, 1, 2, 0]);
    assert_eq!(found.distances[..2], [1.0, 1.5]);
    assert!(found.distances[2..4].iter().chain(&found.distances[6..8]).all(|distance| distance.is_infinite()));
}

#[test]
fn trustworthiness_counts_how_far_behind_false_neighbours_are() {
    let line = [0.0, 1.0, 3.0, 7.0, 15.0];
    let placed = |places: [f32; 5]| places.map(|place| [place, 0.0]);
    assert_eq!(trustworthiness(&line, 1, &placed(line), 2), 1.0);
    // With the ends exchanged, the first is beside its third neighbour, the second beside its fourth, the last beside its
    // third: 2 + 3 + 2 ranks too far, each of which costs 2 / (5 · 1 · (2 · 5 - 3 · 1 - 1)).
    let exchanged = placed([15.0, 1.0, 3.0, 7.0, 0.0]);
    close(trustworthiness(&line, 1, &exchanged, 1), 1.0 - 7.0 / 15.0, 1e-15);
    // Equal vectors: the first is the nearest, and here the last is taken for it: rank 4 for all but itself.
    let last_is_nearest = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]];
    close(trustworthiness(&[3.0; 5], 1, &last_is_nearest, 1), 1.0 - 12.0 / 15.0, 1e-15);
    // More neighbours than half of the rows are as many as fit; too few rows hide nothing.
    assert_eq!(trustworthiness(&line, 1, &exchanged, 99), trustworthiness(&line, 1, &exchanged, 2));
    assert_eq!(trustworthiness(&[1.0, 2.0], 1, &[[0.0; 2]; 2], 3), 1.0);
    assert_eq!(trustworthiness(&[], 0, &[], 3), 1.0);
    assert_eq!(trustworthiness(&line[..4], 1, &placed(line), 1), 1.0);
    assert_eq!(trustworthiness(&line, 1, &placed(line)[..4], 1), 1.0);
}

#[test]
fn curve_is_the_one_that_umap_learn_fits() {
    for (least_distance, spread, a, b) in CURVES {
        let curve = Curve::fit(least_distance, spread);
        close(curve.a, a, 1e-4 * a);
        close(curve.b, b, 1e-4 * b);
    }
}

#[test]
fn plane_is_the_same_on_any_number_of_threads() {
    let (values, _) = clusters(4, 50, 24);
    let config = UmapConfig { epochs: Some(100), ..UmapConfig::new(7) };
    let plane = umap(&values, 24, &config).unwrap();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| umap(&values, 24, &config)).unwrap(), plane, "{threads} threads");
    }
    assert_ne!(umap(&values, 24, &UmapConfig { seed: 8, ..config }).unwrap(), plane, "the seed counts");
}

#[test]
fn clusters_stay_apart_and_neighbours_together() {
    let (values, labels) = clusters(6, 60, 32);
    let plane = umap(&values, 32, &UmapConfig::new(1)).unwrap();
    let nearest = neighbours(plane.as_flattened(), 2, 10);
    let strangers =
        nearest.indices.iter().enumerate().filter(|&(place, &other)| labels[place / 10] != labels[other as usize]);
    assert_eq!(strangers.count(), 0);
    // A ring in four dimensions stays a ring, of which no part is far from its place.
    let ring: Vec<f32> = (0..400).flat_map(|place| ring(f64::from(place) / 400.0)).collect();
    let trust = trustworthiness(&ring, 4, &umap(&ring, 4, &UmapConfig::new(1)).unwrap(), 15);
    assert!(trust > 0.97, "{trust}");
}

#[test]
fn awkward_rows_have_places_too() {
    let check = |what: &str, values: &[f32], width: usize, rows: usize| {
        for neighbours in [2, 15] {
            let config = UmapConfig { neighbours, epochs: Some(50), ..UmapConfig::new(3) };
            let plane = umap(values, width, &config).unwrap();
            assert_eq!(plane.len(), rows, "{what}");
            assert!(plane.as_flattened().iter().all(|place| place.is_finite()), "{what}: {plane:?}");
        }
    };
    check("nothing", &[], 0, 0);
    check("nothing of a width", &[], 5, 0);
    for rows in [1, 2, 3, 4, 9, 14, 15, 16, 17] {
        check("few rows", &normal(4, rows * 6), 6, rows);
    }
    check("equal rows", &[2.5; 120], 3, 40);
    check("zeros", &[0.0; 120], 3, 40);
    let pairs: Vec<f32> = normal(5, 30).iter().flat_map(|&value| [value; 2]).collect();
    check("pairs of equal rows", &pairs, 1, 60);
    let plane = umap(&[2.5; 120], 3, &UmapConfig::new(3)).unwrap();
    assert!((1..40).all(|place| plane[place] != plane[place - 1]), "equal rows can be told apart: {plane:?}");
    let mut one_differs = vec![1.0; 90];
    one_differs[50] = 2.0;
    check("one row that differs", &one_differs, 3, 30);
    let constant: Vec<f32> = normal(6, 80).iter().flat_map(|&value| [7.0, value, 0.0]).collect();
    check("constant features", &constant, 3, 80);
    let far: Vec<f32> =
        normal(7, 90).iter().enumerate().map(|(place, value)| value * if place < 3 { 1e30 } else { 1.0 }).collect();
    check("a row very far away", &far, 3, 30);
    check("the largest numbers", &[f32::MAX, f32::MIN, 0.0, f32::MIN_POSITIVE, 1.0, -1.0], 1, 6);
    assert_eq!(umap(&[4.0, 5.0], 2, &UmapConfig::new(0)).unwrap(), [[0.0, 0.0]]);
}

#[test]
fn what_has_no_plane_is_named() {
    let check = |values: &[f32], width: usize, config: &UmapConfig, text: &str| {
        assert_eq!(umap(values, width, config).map_err(|error: UmapError| error.to_string()), Err(text.to_string()));
    };
    let config = UmapConfig::new(0);
    check(&[0.0, 1.0, 2.0], 2, &config, "3 values are no whole rows of 2");
    check(&[0.0, 1.0], 0, &config, "2 values are no whole rows of 0");
    check(&[0.0, 1.0, 2.0, f32::NAN], 2, &config, "row 1: feature 1 is NaN, needs a finite number");
    check(&[f32::NEG_INFINITY, 1.0], 2, &config, "row 0: feature 0 is -inf, needs a finite number");
    let one = UmapConfig { neighbours: 1, ..config.clone() };
    check(&[0.0, 1.0], 1, &one, "1 neighbours: needs at least 2, since a point is the first of its own");
    for least_distance in [-0.1, 1.5, f64::NAN] {
        let text = format!("least distance {least_distance}: must lie in 0..=1");
        check(&[0.0, 1.0], 1, &UmapConfig { least_distance, ..config.clone() }, &text);
    }
}

/// Least distance and spread, and umap-learn's `find_ab_params` of them.
const CURVES: [(f64, f64, f64, f64); 4] = [
    (0.1, 1.0, 1.576943, 0.895061),
    (0.0, 1.0, 1.932808, 0.790495),
    (0.5, 1.0, 0.583030, 1.334167),
    (1.0, 1.0, 0.114976, 1.929237),
];

fn brute_force(values: &[f32], width: usize, k: usize) -> Neighbours {
    let rows = values.len() / width;
    let row = |number: usize| &values[number * width..][..width];
    let square = |a: usize, b: usize| row(a).iter().zip(row(b)).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let k = k.min(rows - 1);
    let nearest = |own: usize| {
        let mut others: Vec<usize> = (0..rows).filter(|&other| other != own).collect();
        others.sort_by(|&a, &b| square(own, a).total_cmp(&square(own, b)));
        others.into_iter().take(k).map(|other| (other as u32, square(own, other).sqrt())).collect::<Vec<_>>()
    };
    let (indices, distances) = (0..rows).flat_map(nearest).unzip();
    Neighbours { k, indices, distances }
}

/// Clusters around drawn centres, and the cluster of each row.
fn clusters(count: usize, rows: usize, width: usize) -> (Vec<f32>, Vec<usize>) {
    let centres = normal(10, count * width);
    let noise = normal(11, count * rows * width);
    let label = |row: usize| row % count;
    let value = |place: usize| 3.0 * centres[label(place / width) * width + place % width] + noise[place];
    ((0..count * rows * width).map(value).collect(), (0..count * rows).map(label).collect())
}

fn ring(turn: f64) -> [f32; 4] {
    let angle = turn * std::f64::consts::TAU;
    [angle.cos(), angle.sin(), 0.3 * (2.0 * angle).cos(), 0.3 * (2.0 * angle).sin()].map(|value| value as f32)
}

fn normal(subject: u64, count: usize) -> Vec<f32> {
    let mut draws = Draws::new(1, 0, subject, Purpose::Weights);
    (0..count).map(|_| draws.normal() as f32).collect()
}

fn close(ours: f64, expected: f64, tolerance: f64) {
    assert!((ours - expected).abs() <= tolerance, "{ours}, not {expected}");
}
