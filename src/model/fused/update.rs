//! What an optimizer and a moving average make of numbers. Numbers to numbers, in the order of the tensor library's own
//! operations, so that they give the same bits (but for the sign of a moment's zero).

use super::lanes::for_processors;

/// AdamW's numbers of one update (Loshchilov & Hutter 2019, algorithm 2).
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    pub betas: [f32; 2],
    pub epsilon: f32,
    pub learning_rate: f32,
    /// What the decay leaves of a weight.
    pub left: f32,
    /// How often the moments were updated, with this time.
    pub time: i32,
}

for_processors! {
    /// Moves parameters and both moments by a gradient.
    pub fn adam(rule: &Adam, gradient: &[f32], parameters: &mut [f32], first: &mut [f32], second: &mut [f32]) {
        let [kept_1, kept_2] = rule.betas;
        let [taken_1, taken_2] = rule.betas.map(|beta| 1.0 - beta);
        let [full_1, full_2] = rule.betas.map(|beta| 1.0 - beta.powi(rule.time));
        let (epsilon, learning_rate, left) = (rule.epsilon, rule.learning_rate, rule.left);
        let moments = first.iter_mut().zip(second);
        for ((&gradient, parameter), (first, second)) in gradient.iter().zip(parameters).zip(moments) {
            *first = *first * kept_1 + gradient * taken_1;
            *second = *second * kept_2 + gradient * gradient * taken_2;
            let step = *first / full_1 / ((*second / full_2).sqrt() + epsilon);
            *parameter = *parameter * left - step * learning_rate;
        }
    }
}

for_processors! {
    /// Moves averages towards what there is now.
    pub fn blend(kept: f32, taken: f32, current: &[f32], averages: &mut [f32]) {
        for (&current, average) in current.iter().zip(averages) {
            *average = *average * kept + current * taken;
        }
    }
}
