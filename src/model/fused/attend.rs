//! Attention of all heads of one sample, from the layer that makes queries, keys and values to the joined heads, and
//! back. The weights are computed again on the way back: over few tokens that costs less than to keep them.

use super::gelu::exponential;
use super::lanes::{for_processors, sum};
use super::matrix::{Left, Shape, add_product, grown, multiply, put, take, turn};

/// The score of padding: so far below all others that its exponential is 0.
const HIDDEN: f32 = -1e30;

/// What the heads of one sample are given.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    pub shape: &'a Shape,
    /// `[tokens, 3, heads, head_width]`: queries, keys and values; or `[tokens, 2, heads, head_width]` without values.
    pub features: &'a [f32],
    /// `[tokens]`, 0 at padding; empty when all are real.
    pub real: &'a [f32],
}

/// Room for one head's matrices.
#[derive(Default)]
pub struct Room {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Features to rows.
    turned: Vec<f32>,
    /// `[tokens, padded tokens]`
    weights: Vec<f32>,
    slopes: Vec<f32>,
    /// Gradients of what the head gave, and what it passes on.
    joined: Vec<f32>,
    finders: Vec<f32>,
    result: Vec<f32>,
}

for_processors! {
    /// Writes the joined heads.
    ///
    /// # Shapes
    /// - `into`: `[tokens, heads, head_width]`
    pub fn attend(given: &Given, into: &mut [f32], room: &mut Room) {
        let Given { shape, features: qkv, real } = *given;
        for head in 0..shape.heads {
            let (wide, first) = (shape.padded_width(), head * shape.head_width);
            take(qkv, shape, 3 * shape.width(), first, &mut room.queries);
            take(qkv, shape, 3 * shape.width(), shape.width() + first, &mut room.keys);
            take(qkv, shape, 3 * shape.width(), 2 * shape.width() + first, &mut room.values);
            weigh(shape, scale(shape), real, room);
            let weights = Left { numbers: &room.weights, row: shape.padded_tokens(), column: 1 };
            multiply(weights, &room.values, shape.tokens, shape.tokens, wide, grown(&mut room.result, shape.tokens * wide));
            put(&room.result, shape, into, shape.width(), first);
        }
    }
}

for_processors! {
    /// Writes the gradient of queries, keys and values from that of the joined heads.
    ///
    /// # Shapes
    /// - `into`: `[tokens, 3, heads, head_width]`
    /// - `gradient`: `[tokens, heads, head_width]`
    pub fn slope(given: &Given, gradient: &[f32], into: &mut [f32], room: &mut Room) {
        let Given { shape, features: qkv, real } = *given;
        let Shape { tokens, head_width, .. } = *shape;
        let (wide, long) = (shape.padded_width(), shape.padded_tokens());
        let scale = scale(shape);
        for head in 0..shape.heads {
            let first = head * head_width;
            take(qkv, shape, 3 * shape.width(), first, &mut room.queries);
            take(qkv, shape, 3 * shape.width(), shape.width() + first, &mut room.keys);
            take(qkv, shape, 3 * shape.width(), 2 * shape.width() + first, &mut room.values);
            weigh(shape, scale, real, room);
            take(gradient, shape, shape.width(), first, &mut room.joined);
            turn(&room.values, shape, &mut room.turned);
            let Room { queries, keys, turned, weights, joined, slopes, result, .. } = room;
            let result = grown(result, tokens * wide);
            let slopes = grown(slopes, tokens * long);

            // Values: each is drawn to the gradients of those who looked at it.
            let looked_at = Left { numbers: weights, row: 1, column: long };
            multiply(looked_at, joined, tokens, tokens, wide, result);
            put(result, shape, into, 3 * shape.width(), 2 * shape.width() + first);

            // Scores: through the softmax, whose rows keep their sum.
            multiply(Left { numbers: joined, row: wide, column: 1 }, turned, tokens, head_width, long, slopes);
            through_softmax(slopes, weights, long, scale);
            multiply(Left { numbers: slopes, row: long, column: 1 }, keys, tokens, tokens, wide, result);
            put(result, shape, into, 3 * shape.width(), first);
            multiply(Left { numbers: slopes, row: 1, column: long }, queries, tokens, tokens, wide, result);
            put(result, shape, into, 3 * shape.width(), shape.width() + first);
        }
    }
}

for_processors! {
    /// Writes where tokens are drawn in the Energy Transformer: each to the keys that its query finds, and to the
    /// queries that find its key. Padding draws nothing, neither as key nor as query.
    ///
    /// # Shapes
    /// - `sharpness`: `[heads]`, the inverse temperature of each head
    /// - `into`: `[tokens, 2, heads, head_width]`: the keys found, and the finders
    pub fn draw(given: &Given, sharpness: &[f32], into: &mut [f32], room: &mut Room) {
        let Given { shape, features: pair, real } = *given;
        let (tokens, wide, long) = (shape.tokens, shape.padded_width(), shape.padded_tokens());
        for (head, &sharpness) in sharpness.iter().enumerate() {
            let first = head * shape.head_width;
            answer(shape, pair, sharpness, real, first, room);
            let Room { queries, keys, weights, result, .. } = room;
            let result = grown(result, tokens * wide);
            multiply(Left { numbers: weights, row: long, column: 1 }, keys, tokens, tokens, wide, result);
            put(result, shape, into, 2 * shape.width(), first);
            multiply(Left { numbers: weights, row: 1, column: long }, queries, tokens, tokens, wide, result);
            put(result, shape, into, 2 * shape.width(), shape.width() + first);
        }
    }
}

for_processors! {
    /// Writes the gradients of queries and keys, and of the inverse temperatures, from that of what [`draw`] wrote.
    ///
    /// # Shapes
    /// - `gradient`, `into`: `[tokens, 2, heads, head_width]`
    /// - `of_sharpness`: `[heads]`
    pub fn draw_slope(
        given: &Given,
        sharpness: &[f32],
        gradient: &[f32],
        into: &mut [f32],
        of_sharpness: &mut [f32],
        room: &mut Room,
    ) {
        let Given { shape, features: pair, real } = *given;
        let Shape { tokens, head_width, .. } = *shape;
        let (wide, long) = (shape.padded_width(), shape.padded_tokens());
        for (head, (&sharpness, of_sharpness)) in sharpness.iter().zip(of_sharpness).enumerate() {
            let first = head * head_width;
            answer(shape, pair, sharpness, real, first, room);
            take(gradient, shape, 2 * shape.width(), first, &mut room.joined);
            take(gradient, shape, 2 * shape.width(), shape.width() + first, &mut room.finders);
            let Room { queries, keys, values, turned, weights, slopes, joined, finders, result } = room;
            let slopes = grown(slopes, tokens * long);
            multiply(Left { numbers: joined, row: wide, column: 1 }, turned, tokens, head_width, long, slopes);
            turn(finders, shape, turned);
            add_product(Left { numbers: queries, row: wide, column: 1 }, turned, tokens, head_width, long, slopes);
            through_softmax(slopes, weights, long, 1.0);

            // Of the queries: as finders, and through the scores.
            let (result, scored) = (grown(result, tokens * wide), grown(values, tokens * wide));
            multiply(Left { numbers: weights, row: long, column: 1 }, finders, tokens, tokens, wide, result);
            multiply(Left { numbers: slopes, row: long, column: 1 }, keys, tokens, tokens, wide, scored);
            *of_sharpness = sum(tokens * wide, |place| scored[place] * queries[place]);
            result.iter_mut().zip(scored.iter()).for_each(|(result, scored)| *result += sharpness * scored);
            put(result, shape, into, 2 * shape.width(), first);

            // Of the keys: as found, and through the scores.
            multiply(Left { numbers: weights, row: 1, column: long }, joined, tokens, tokens, wide, result);
            multiply(Left { numbers: slopes, row: 1, column: long }, queries, tokens, tokens, wide, scored);
            result.iter_mut().zip(scored.iter()).for_each(|(result, scored)| *result += sharpness * scored);
            put(result, shape, into, 2 * shape.width(), shape.width() + first);
        }
    }
}

/// Computes one head's weights in the Energy Transformer; those of queries that are padding are 0.
#[inline(always)]
fn answer(shape: &Shape, pair: &[f32], sharpness: f32, real: &[f32], first: usize, room: &mut Room) {
    take(pair, shape, 2 * shape.width(), first, &mut room.queries);
    take(pair, shape, 2 * shape.width(), shape.width() + first, &mut room.keys);
    weigh(shape, sharpness, real, room);
    for (weights, &real) in room.weights.chunks_exact_mut(shape.padded_tokens()).zip(real) {
        if real == 0.0 {
            weights.fill(0.0);
        }
    }
}

fn scale(shape: &Shape) -> f32 {
    1.0 / (shape.head_width as f32).sqrt()
}

/// Computes one head's weights, the softmax over the keys of `scale · query · key`.
#[inline(always)]
fn weigh(shape: &Shape, scale: f32, real: &[f32], room: &mut Room) {
    let Shape { tokens, head_width, .. } = *shape;
    let (wide, long) = (shape.padded_width(), shape.padded_tokens());
    turn(&room.keys, shape, &mut room.turned);
    let weights = grown(&mut room.weights, tokens * long);
    multiply(Left { numbers: &room.queries, row: wide, column: 1 }, &room.turned, tokens, head_width, long, weights);
    for weights in weights.chunks_exact_mut(long) {
        let (weights, rest) = weights.split_at_mut(tokens);
        rest.fill(0.0);
        weights.iter_mut().for_each(|weight| *weight *= scale);
        if !real.is_empty() {
            // Padding is never the greatest, and its weight is 0.
            weights
                .iter_mut()
                .zip(real)
                .for_each(|(weight, &real)| *weight = if real == 0.0 { HIDDEN } else { *weight });
        }
        let largest = weights.iter().fold(HIDDEN, |largest, &weight| largest.max(weight));
        weights.iter_mut().for_each(|weight| *weight = exponential(*weight - largest));
        let each = 1.0 / sum(tokens, |place| weights[place]);
        weights.iter_mut().for_each(|weight| *weight *= each);
    }
}

/// Turns the gradients of weights into those of what the softmax was taken of, times `scale`: a row keeps its sum.
#[inline(always)]
fn through_softmax(slopes: &mut [f32], weights: &[f32], long: usize, scale: f32) {
    for (slopes, weights) in slopes.chunks_exact_mut(long).zip(weights.chunks_exact(long)) {
        let mean = sum(long, |place| slopes[place] * weights[place]);
        for place in 0..long {
            slopes[place] = weights[place] * (slopes[place] - mean) * scale;
        }
    }
}
