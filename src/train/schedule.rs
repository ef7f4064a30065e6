//! What changes from step to step: learning rate, weight decay and EMA decay, as pure functions of the step.

/// The authors' three schedules over the steps of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedules {
    pub start_learning_rate: f64,
    pub peak_learning_rate: f64,
    pub final_learning_rate: f64,
    pub warmup_steps: u64,
    /// Steps of the run, over which all three go from their first to their last value.
    pub steps: u64,
    pub weight_decay: [f64; 2],
    pub ema_decay: [f64; 2],
}

impl Schedules {
    /// Linear warm-up, then a cosine to the final rate. The authors advance the schedule before an update, so that
    /// update 0 uses the schedule's place 1.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let place = step + 1;
        if place < self.warmup_steps {
            let share = place as f64 / self.warmup_steps as f64;
            return self.start_learning_rate + share * (self.peak_learning_rate - self.start_learning_rate);
        }
        let cosine_steps = self.steps.saturating_sub(self.warmup_steps).max(1);
        let share = (place - self.warmup_steps) as f64 / cosine_steps as f64;
        cosine(self.peak_learning_rate, self.final_learning_rate, share).max(self.final_learning_rate)
    }

    /// A cosine from the first to the second value, advanced before the update like the learning rate.
    pub fn weight_decay(&self, step: u64) -> f64 {
        let [first, last] = self.weight_decay;
        let decay = cosine(first, last, (step + 1) as f64 / self.steps as f64);
        if last <= first { decay.max(last) } else { decay.min(last) }
    }

    /// Linear over all steps; used after the update of the step.
    pub fn ema_decay(&self, step: u64) -> f64 {
        let [first, last] = self.ema_decay;
        first + (last - first) * step as f64 / self.steps as f64
    }
}

/// From `first` at share 0 to `last` at share 1, and back after it.
fn cosine(first: f64, last: f64, share: f64) -> f64 {
    last + (first - last) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
}
