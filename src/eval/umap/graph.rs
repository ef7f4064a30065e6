//! Neighbours to a graph: how surely two points touch, from 0 to 1 (section 3.1, algorithms 2 and 3).

use super::nearest::Neighbours;

/// Rounds of the search for a kernel's width, and how near its sum must come (as in umap-learn).
const ROUNDS: usize = 64;
const TOLERANCE: f64 = 1e-5;
/// The least width of a kernel, as a share of the mean distance (as in umap-learn).
const LEAST_WIDTH: f64 = 1e-3;

/// Two points that touch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edge {
    pub head: u32,
    pub tail: u32,
    /// How surely, in 0..=1.
    pub weight: f64,
}

/// Joins each point with its neighbours, and with those whose neighbour it is. Every pair is there in both directions, in
/// the order of the heads.
pub fn graph(neighbours: &Neighbours) -> Vec<Edge> {
    let Neighbours { k, indices, distances } = neighbours;
    let k = (*k).max(1);
    let overall = mean(distances, distances.len() / k);
    let mut edges = Vec::with_capacity(2 * indices.len());
    for ((head, indices), distances) in (0..).zip(indices.chunks_exact(k)).zip(distances.chunks_exact(k)) {
        let kernel = Kernel::fit(distances, overall);
        for (&tail, &distance) in indices.iter().zip(distances) {
            let weight = kernel.weight(distance);
            edges.push(Edge { head, tail, weight });
            edges.push(Edge { head: tail, tail: head, weight });
        }
    }
    edges.sort_unstable_by_key(|edge| (edge.head, edge.tail));
    edges.chunk_by(|a, b| (a.head, a.tail) == (b.head, b.tail)).map(union).collect()
}

/// They touch unless neither point says so.
fn union(same: &[Edge]) -> Edge {
    let apart: f64 = same.iter().map(|edge| 1.0 - edge.weight).product();
    Edge { weight: 1.0 - apart, ..same[0] }
}

/// How a point's neighbours fade with their distance.
struct Kernel {
    /// The distance of the nearest neighbour that is not the same point: up to it, points touch for sure.
    nearest: f64,
    width: f64,
}

impl Kernel {
    /// Makes the weights of a point's neighbours add up to the logarithm of their number.
    fn fit(distances: &[f64], overall: f64) -> Self {
        let nearest = distances.iter().copied().find(|&distance| distance > 0.0).unwrap_or(0.0);
        // The point itself is counted, as everywhere in umap-learn.
        let wanted = ((distances.len() + 1) as f64).log2();
        let farthest = distances.last().copied().unwrap_or(0.0);
        let (mut low, mut high) = (0.0, f64::INFINITY);
        let mut kernel = Self { nearest, width: if farthest > 0.0 { farthest } else { 1.0 } };
        for _ in 0..ROUNDS {
            let excess = distances.iter().map(|&distance| kernel.weight(distance)).sum::<f64>() - wanted;
            if excess.abs() < TOLERANCE {
                break;
            }
            *(if excess > 0.0 { &mut high } else { &mut low }) = kernel.width;
            kernel.width = if high.is_finite() { f64::midpoint(low, high) } else { 2.0 * kernel.width };
        }
        let mean = if nearest > 0.0 { mean(distances, 1) } else { overall };
        Self { nearest, width: kernel.width.max(LEAST_WIDTH * mean) }
    }

    fn weight(&self, distance: f64) -> f64 {
        if distance <= self.nearest { 1.0 } else { (-(distance - self.nearest) / self.width).exp() }
    }
}

/// The mean distance from so many points, whose distances from themselves count.
fn mean(distances: &[f64], points: usize) -> f64 {
    distances.iter().sum::<f64>() / (distances.len() + points).max(1) as f64
}
