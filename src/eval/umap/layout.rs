//! A graph to places in the plane: points that touch attract each other, drawn ones repel (section 3.2, algorithm 5).
//!
//! The points move one after another, as in the paper; every move sees those before it.

use super::graph::Edge;
use crate::draws::{Draws, Purpose};

/// Points that repel for each that attracts, and the most that one of them moves a point along an axis at the first rate of
/// learning, 1 (as in umap-learn).
const REPELLED: f32 = 5.0;
const FARTHEST_MOVE: f32 = 4.0;
/// Keeps the repulsion of points that coincide finite (section 4.2).
const SOFTENING: f32 = 1e-3;
/// What the draws of an epoch are keyed on; see the start's.
const SUBJECT: u64 = 1;
/// Distances at which the curve is fitted, and how far they go, in spreads (as in umap-learn).
const FITTED: usize = 300;
const FITTED_TO: f64 = 3.0;
/// Rounds of the fit, of which it takes about ten.
const ROUNDS: usize = 100;

/// How surely points of the plane touch: `1 / (1 + a distance^2b)` (definition 11).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    pub a: f64,
    pub b: f64,
}

impl Curve {
    /// Fits the curve to one that is 1 up to the least distance and decays from there: least squares in the logarithms of
    /// `a` and `b`, which keeps both positive, by Levenberg and Marquardt.
    pub fn fit(least_distance: f64, spread: f64) -> Self {
        let step = FITTED_TO * spread / (FITTED - 1) as f64;
        let wanted = |distance: f64| (-(distance - least_distance).max(0.0) / spread).exp();
        let points: Vec<[f64; 2]> =
            (1..FITTED).map(|place| place as f64 * step).map(|distance| [distance, wanted(distance)]).collect();
        let (mut curve, mut damping) = (Self { a: 1.0, b: 1.0 }, 1e-3);
        let mut error = curve.error(&points);
        for _ in 0..ROUNDS {
            let next = curve.moved(&points, damping);
            let next_error = next.error(&points);
            if next_error < error {
                (curve, error, damping) = (next, next_error, damping / 10.0);
            } else {
                damping *= 10.0;
            }
        }
        curve
    }

    fn at(self, distance: f64) -> f64 {
        1.0 / (1.0 + self.a * distance.powf(2.0 * self.b))
    }

    fn error(self, points: &[[f64; 2]]) -> f64 {
        points.iter().map(|&[distance, wanted]| (wanted - self.at(distance)).powi(2)).sum()
    }

    /// Solves the damped normal equations for one step.
    fn moved(self, points: &[[f64; 2]], damping: f64) -> Self {
        let (mut squares, mut product, mut sides) = ([0.0; 2], 0.0, [0.0; 2]);
        for &[distance, wanted] in points {
            let at = self.at(distance);
            let by_a = -at * (1.0 - at);
            let slopes = [by_a, by_a * 2.0 * self.b * distance.ln()];
            for axis in 0..2 {
                squares[axis] += slopes[axis] * slopes[axis];
                sides[axis] += slopes[axis] * (wanted - at);
            }
            product += slopes[0] * slopes[1];
        }
        let [first, second] = squares.map(|square| square * (1.0 + damping));
        let determinant = first * second - product * product;
        let [to_a, to_b] =
            [second * sides[0] - product * sides[1], first * sides[1] - product * sides[0]].map(|to| to / determinant);
        Self { a: self.a * to_a.exp(), b: self.b * to_b.exp() }
    }
}

/// An edge and when it is due.
struct Spring {
    head: u32,
    tail: u32,
    /// Epochs from one attraction to the next: 1 for the heaviest edges.
    interval: f32,
    next: f32,
    next_repulsion: f32,
}

/// Moves the points for so many epochs.
pub fn settle(points: &mut [[f32; 2]], graph: &[Edge], curve: Curve, epochs: usize, seed: u64) {
    let mut springs = springs(graph, epochs);
    let force = Force { a: curve.a as f32, b: curve.b as f32 };
    // Nothing is due at the start.
    for epoch in 1..epochs {
        let mut draws = Draws::new(seed, epoch as u64, SUBJECT, Purpose::Embedding);
        let now = epoch as f32;
        let rate = 1.0 - (now - 1.0) / epochs as f32;
        for spring in springs.iter_mut().filter(|spring| spring.next <= now) {
            spring.next += spring.interval;
            let between = spring.interval / REPELLED;
            let due = ((now - spring.next_repulsion) / between) as usize;
            spring.next_repulsion += due as f32 * between;
            force.attract(points, spring, rate);
            for _ in 0..due {
                let other = points[draws.below(points.len() as u64) as usize];
                force.repel(&mut points[spring.head as usize], other, rate);
            }
        }
    }
}

/// Edges whose turn would not come within the epochs are left out.
fn springs(graph: &[Edge], epochs: usize) -> Vec<Spring> {
    let heaviest = graph.iter().fold(0.0f64, |heaviest, edge| heaviest.max(edge.weight));
    let seen = graph.iter().filter(|edge| edge.weight * epochs as f64 >= heaviest && edge.weight > 0.0);
    let spring = |edge: &Edge| {
        let interval = (heaviest / edge.weight) as f32;
        Spring { head: edge.head, tail: edge.tail, interval, next: interval, next_repulsion: interval / REPELLED }
    };
    seen.map(spring).collect()
}

/// The slopes of the cross entropy between graph and plane.
struct Force {
    a: f32,
    b: f32,
}

impl Force {
    fn attract(&self, points: &mut [[f32; 2]], spring: &Spring, rate: f32) {
        let (head, tail) = (spring.head as usize, spring.tail as usize);
        let (difference, square) = between(points[head], points[tail]);
        if square > 0.0 {
            let power = square.powf(self.b);
            let pull = 2.0 * self.a * self.b * power / (square * (self.a * power + 1.0));
            for axis in 0..2 {
                let step = rate * (pull * difference[axis]).clamp(-FARTHEST_MOVE, FARTHEST_MOVE);
                points[head][axis] -= step;
                points[tail][axis] += step;
            }
        }
    }

    /// Moves a point away from another, which stays. Nothing tells where to from the same place.
    fn repel(&self, point: &mut [f32; 2], other: [f32; 2], rate: f32) {
        let (difference, square) = between(*point, other);
        if square > 0.0 {
            let push = 2.0 * self.b / ((SOFTENING + square) * (self.a * square.powf(self.b) + 1.0));
            for axis in 0..2 {
                point[axis] += rate * (push * difference[axis]).clamp(-FARTHEST_MOVE, FARTHEST_MOVE);
            }
        }
    }
}

fn between(point: [f32; 2], other: [f32; 2]) -> ([f32; 2], f32) {
    let difference = [point[0] - other[0], point[1] - other[1]];
    (difference, difference[0] * difference[0] + difference[1] * difference[1])
}
