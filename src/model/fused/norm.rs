//! LayerNorm, rows to rows, and what it does to gradients.

use super::lanes::{for_processors, sum};

for_processors! {
    /// Writes `(x - mean) / sqrt(variance + epsilon) · scale + shift` of every row of `from`.
    pub fn norm(from: &[f32], scale: &[f32], shift: &[f32], epsilon: f32, into: &mut [f32]) {
        let width = scale.len();
        let shift = &shift[..width];
        for (from, into) in from.chunks_exact(width).zip(into.chunks_exact_mut(width)) {
            let (mean, factor) = moments(from, epsilon);
            for place in 0..width {
                into[place] = (from[place] - mean) * factor * scale[place] + shift[place];
            }
        }
    }
}

for_processors! {
    /// Turns gradients of the normalised rows into those of the rows, in their place, and adds those of scale and shift.
    pub fn slope(
        from: &[f32],
        scale: &[f32],
        epsilon: f32,
        gradient: &mut [f32],
        of_scale: &mut [f32],
        of_shift: &mut [f32],
    ) {
        let width = scale.len();
        let (of_scale, of_shift) = (&mut of_scale[..width], &mut of_shift[..width]);
        let each = 1.0 / width as f32;
        for (from, gradient) in from.chunks_exact(width).zip(gradient.chunks_exact_mut(width)) {
            let (mean, factor) = moments(from, epsilon);
            for place in 0..width {
                of_scale[place] += gradient[place] * ((from[place] - mean) * factor);
                of_shift[place] += gradient[place];
            }
            // What moves the mean and what moves the length does not get through.
            let along_mean = each * sum(width, |place| gradient[place] * scale[place]);
            let along_length =
                each * sum(width, |place| gradient[place] * scale[place] * ((from[place] - mean) * factor));
            for place in 0..width {
                let normalised = (from[place] - mean) * factor;
                gradient[place] = factor * (gradient[place] * scale[place] - along_mean - normalised * along_length);
            }
        }
    }
}

/// The mean of a row, and one over its deviation.
#[inline(always)]
fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let each = 1.0 / row.len() as f32;
    let mean = each * sum(row.len(), |place| row[place]);
    let variance = each * sum(row.len(), |place| (row[place] - mean) * (row[place] - mean));
    (mean, 1.0 / (variance + epsilon).sqrt())
}
