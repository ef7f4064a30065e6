//! Attention of one image as people look at it: how spread each head's is, where it leads through all layers, and how
//! alike the encoded patches are.
//!
//! All maps are `[patches, patches]`, row by row; of attention, rows are queries and add up to 1.

use rayon::prelude::*;

/// Entropy of attention in nats, averaged over the queries: 0 where each query looks at one patch, `ln(patches)` where
/// it looks at all alike.
pub fn entropy(weights: &[f32], patches: usize) -> f64 {
    let of_row = |row: &[f32]| -> f64 {
        row.iter().map(|&weight| f64::from(weight)).filter(|&weight| weight > 0.0).map(|x| -x * x.ln()).sum()
    };
    weights.chunks(patches.max(1)).map(of_row).sum::<f64>() / patches.max(1) as f64
}

/// The mean over heads; `weights` is `[heads, patches, patches]`.
pub fn mean_of_heads(weights: &[f32], patches: usize) -> Vec<f32> {
    let map = (patches * patches).max(1);
    let heads = weights.len() / map;
    let mut mean = vec![0.0; map];
    for head in weights.chunks(map) {
        for (sum, weight) in mean.iter_mut().zip(head) {
            *sum += weight / heads as f32;
        }
    }
    mean
}

/// Attention rollout (Abnar and Zuidema 2020): from which patches of the input each place takes what it holds, layer by
/// layer, half of each layer being what the residual keeps. Gives the map after every layer.
///
/// `layers` are `[heads, patches, patches]` each, the first layer first.
pub fn rollout<'l>(layers: impl Iterator<Item = &'l [f32]>, patches: usize) -> Vec<Vec<f32>> {
    let mut reached: Vec<f32> = (0..patches * patches).map(|at| f32::from(at % (patches + 1) == 0)).collect();
    let after = |layer: &[f32]| {
        let mean = mean_of_heads(layer, patches);
        let mut next = vec![0.0; patches * patches];
        next.par_chunks_mut(patches.max(1)).enumerate().for_each(|(query, row)| {
            let kept = &reached[query * patches..][..patches];
            row.copy_from_slice(kept);
            for (key, &weight) in mean[query * patches..][..patches].iter().enumerate() {
                let from = &reached[key * patches..][..patches];
                for (sum, &share) in row.iter_mut().zip(from) {
                    *sum += weight * share;
                }
            }
            row.iter_mut().for_each(|sum| *sum *= 0.5);
        });
        reached.clone_from(&next);
        next
    };
    layers.map(after).collect()
}

/// Cosine of each pair of rows of `[patches, width]`; 0 where a row is all zeros.
pub fn similarity(features: &[f32], width: usize) -> Vec<f32> {
    let rows: Vec<Vec<f32>> = features.chunks(width.max(1)).map(unit).collect();
    let cosine = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(x, y)| x * y).sum::<f32>();
    rows.iter().flat_map(|one| rows.iter().map(|other| cosine(one, other))).collect()
}

fn unit(row: &[f32]) -> Vec<f32> {
    let length = row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    row.iter().map(|&value| if length > 0.0 { (f64::from(value) / length) as f32 } else { 0.0 }).collect()
}
