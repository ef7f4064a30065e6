//! Where a run pauses: computed beforehand, as a function of the step.

use super::RunConfig;

/// Where a run pauses to save, to score, or to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Steps done when it pauses.
    pub step: u64,
    pub save: bool,
    pub score: bool,
}

/// All pauses of a run, computed as they come: a run may have more of them than memory holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stops {
    steps: u64,
    save_every: u64,
    /// Whether the end is scored.
    score: bool,
    /// Steps between two scores on the way, not a whole number in general.
    score_every: Option<f64>,
}

impl Stops {
    pub(super) fn new(config: &RunConfig, steps: u64, samples: usize) -> Self {
        let epochs = config.score.and_then(|score| score.every_epochs);
        Self {
            steps,
            save_every: config.checkpoint.every_steps,
            score: config.score.is_some(),
            score_every: epochs.map(|epochs| (epochs * samples as f64 / config.train.batch as f64).max(1.0)),
        }
    }

    /// The first pause after so many steps; `None` at the end.
    pub fn after(&self, step: u64) -> Option<Stop> {
        if step >= self.steps {
            return None;
        }
        let next_save = (step / self.save_every).saturating_add(1).saturating_mul(self.save_every);
        let next_score = self.scores_near(step).find(|&place| place > step).unwrap_or(self.steps);
        Some(self.at(next_save.min(next_score).min(self.steps)))
    }

    /// What is done after so many steps. What is scored is saved first, so that a score can cost no steps.
    pub fn at(&self, step: u64) -> Stop {
        let is_end = step == self.steps;
        let score = self.score && (is_end || (step > 0 && self.scores_near(step).any(|place| place == step)));
        Stop { step, save: is_end || score || step.is_multiple_of(self.save_every), score }
    }

    /// How often is still scored after so many steps, about.
    pub fn scores_after(&self, step: u64) -> u64 {
        let on_the_way = self.score_every.map_or(0.0, |every| self.steps.saturating_sub(step) as f64 / every);
        on_the_way as u64 + u64::from(self.score)
    }

    /// Steps to score after, around and after this one; rounding may put the first a place too early.
    fn scores_near(&self, step: u64) -> impl Iterator<Item = u64> {
        self.score_every.into_iter().flat_map(move |every| {
            let passed = (step as f64 / every) as u64;
            (passed..=passed.saturating_add(2)).map(move |number| (number as f64 * every).ceil() as u64)
        })
    }
}
