//! Pooled features of the training batches to a warning: whether encoder, target encoder or predictor map all samples
//! to one vector, or to a few directions, and since which step.
//!
//! Rows are taken in the last steps before each judgement and forgotten after it, so that its measures follow from
//! those steps alone. What the judgements before found is in [`Findings`], which a checkpoint keeps.

use std::fmt;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::objective::spectrum::{Spectrum, alpha, deviations, rankme};

/// Steps from one judgement to the next.
pub const INTERVAL: u64 = 50;
/// Samples that a judgement looks at. Its time grows with their square times the width and with their cube: for all
/// three outputs 1.0 ms at width 64, 4.8 at 192, 7.7 at 768 and 11 at 1280 (one Zen 4 core), which is 0.03 % of the
/// steps between two judgements where a step of the smallest takes 60 ms, and 0.23 % where one of the largest takes 100
/// ms. With 256 samples the largest would take four times as long.
pub const ROWS: usize = 128;
/// Judgements in a row that name a collapse, or withdraw it: in their first few hundred steps healthy runs pass through
/// one or two that look like one. Where images differ little on the whole the features do collapse at first, for as
/// long as the predictor says the mean; that is named, and withdrawn when the features come apart.
const CONFIRMED: u32 = 3;
/// Complete: samples differ by less than this share of their features' root mean square. I-JEPA never showed less than
/// 0.049 on the sample shards (untrained 0.12, trained 0.36) and 0.087 on CIFAR-10; 0.016 to 0.023 were left 400 steps
/// after the target encoder was made a copy of the encoder, 0.018 after 400 steps under a weight decay of 20.
const LEAST_SPREAD: f64 = 0.03;
/// The same for the predictor, which learns the features' mean before it learns anything else: healthy runs fell to
/// 0.034, one at a fourth of the learning rate for a moment to 0.016; from collapsed ones 0.004 to 0.009 were left.
const LEAST_PREDICTED_SPREAD: f64 = 0.012;
/// Dimensional: a smaller share than this is left of the directions that there could be. In healthy runs the encoders
/// never had less than 0.21 of them, nor the predictors, which are narrower, than 0.18. The effective rank tells less:
/// while its first direction grows, a healthy target falls to 2.7 of 63.
const LEAST_DIRECTIONS: f64 = 0.1;
/// A direction is left when samples differ along it by this share of what they differ by along the first.
const LEAST_SHARE: f64 = 1e-3;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// Averaged over the context alone, which lies elsewhere in each sample: where only the patches' positions are left
    /// in the features they still differ, and the target tells.
    Encoder,
    Target,
    Predictor,
}

impl Output {
    pub const ALL: [Self; 3] = [Self::Encoder, Self::Target, Self::Predictor];

    /// As in metrics' labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Target => "target",
            Self::Predictor => "predictor",
        }
    }

    fn least_spread(self) -> f64 {
        match self {
            Self::Encoder | Self::Target => LEAST_SPREAD,
            Self::Predictor => LEAST_PREDICTED_SPREAD,
        }
    }
}

/// How features collapse (Jing et al. 2022).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// All samples have nearly the same features.
    Complete,
    /// Samples differ, but only along a few directions.
    Dimensional,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Complete, Self::Dimensional];

    /// As in metrics' labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Dimensional => "dimensional",
        }
    }
}

/// A collapse that has lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collapse {
    pub kind: Kind,
    pub output: Output,
    /// The step of the first judgement that saw it.
    pub since: u64,
}

impl fmt::Display for Collapse {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "{} collapse of the {} since step {}", self.kind.name(), self.output.name(), self.since)
    }
}

/// Measures of the pooled features of [`ROWS`] samples, or of as many as [`INTERVAL`] steps have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Standard deviation over the samples, averaged over the features.
    pub deviation: f64,
    /// Root mean square of the centred features over that of the features, in `0..=1`: what [`Self::deviation`] would
    /// be if features had length 1, which a LayerNorm's weights cannot change.
    pub spread: f64,
    /// Effective rank, at most the number of samples and the width.
    pub rankme: f64,
    /// Share of the directions that there could be, along which samples differ, in `0..=1`.
    pub directions: f64,
    /// Exponent with which variances fall; `None` where too few directions are left.
    pub alpha: Option<f64>,
}

impl Health {
    /// `None` when there are fewer than two samples or a value is not finite.
    ///
    /// # Shapes
    /// - `values`: `[samples, width]`, row by row
    pub fn of(values: &[f32], width: usize) -> Option<Self> {
        let samples = values.len() / width.max(1);
        if samples < 2 || !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        let Spectrum { singular_values, variances } = Spectrum::of(values, width);
        let deviation = deviations(values, width).iter().sum::<f64>() / width as f64;
        let square = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / samples as f64;
        let spread = if square == 0.0 { 0.0 } else { (variances.iter().sum::<f64>() / square).sqrt() };
        Some(Self {
            deviation,
            spread,
            rankme: rankme(&singular_values),
            directions: directions(&variances, samples, width),
            alpha: alpha(&variances),
        })
    }

    /// The collapse that such features of an output show.
    pub fn verdict(&self, output: Output) -> Option<Kind> {
        if self.spread < output.least_spread() {
            Some(Kind::Complete)
        } else if self.directions < LEAST_DIRECTIONS {
            Some(Kind::Dimensional)
        } else {
            None
        }
    }
}

/// The share of the directions that there could be, along which samples differ.
fn directions(variances: &[f64], samples: usize, width: usize) -> f64 {
    let possible = (samples - 1).min(width).max(1);
    // A variance is the square of a deviation.
    let least = variances.first().map_or(0.0, |largest| largest * LEAST_SHARE * LEAST_SHARE);
    variances.iter().filter(|&&variance| variance > least).count() as f64 / possible as f64
}

/// What the judgements have found so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    encoder: Finding,
    target: Finding,
    predictor: Finding,
}

impl Findings {
    /// The measures of the last judgement; `None` before the first.
    pub fn health(&self, output: Output) -> Option<Health> {
        self.of(output).health
    }

    /// All collapses that have lasted and have not healed.
    pub fn collapses(&self) -> impl Iterator<Item = Collapse> {
        Output::ALL.into_iter().filter_map(|output| self.of(output).collapse(output))
    }

    fn of(&self, output: Output) -> &Finding {
        match output {
            Output::Encoder => &self.encoder,
            Output::Target => &self.target,
            Output::Predictor => &self.predictor,
        }
    }

    fn of_mut(&mut self, output: Output) -> &mut Finding {
        match output {
            Output::Encoder => &mut self.encoder,
            Output::Target => &mut self.target,
            Output::Predictor => &mut self.predictor,
        }
    }
}

/// What was found about one output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finding {
    health: Option<Health>,
    suspicion: Option<Suspicion>,
}

/// A collapse that was seen and not yet found healed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Suspicion {
    kind: Kind,
    since: u64,
    /// Judgements that saw it, one after the other, up to its being named.
    seen: u32,
    /// Judgements in a row that have not seen it since.
    missed: u32,
}

impl Finding {
    fn judge(&mut self, output: Output, step: u64, health: Health) {
        self.health = Some(health);
        self.suspicion = match (self.suspicion, health.verdict(output)) {
            (None, None) => None,
            (None, Some(kind)) => Some(Suspicion { kind, since: step, seen: 1, missed: 0 }),
            (Some(known), Some(kind)) => Some(Suspicion { kind, seen: known.seen + 1, missed: 0, ..known }),
            (Some(known), None) => known.missed_again(),
        };
    }

    fn collapse(&self, output: Output) -> Option<Collapse> {
        let Suspicion { kind, since, .. } = self.suspicion.filter(|suspicion| suspicion.seen >= CONFIRMED)?;
        Some(Collapse { kind, output, since })
    }
}

impl Suspicion {
    fn missed_again(self) -> Option<Self> {
        let missed = self.missed + 1;
        let stays = self.seen >= CONFIRMED && missed < CONFIRMED;
        stays.then_some(Self { missed, ..self })
    }
}

/// Rows of one output, for the next judgement.
#[derive(Clone, Debug, Default)]
struct Rows {
    values: Vec<f32>,
    width: usize,
}

/// Judges the outputs of a run every [`INTERVAL`] steps.
#[derive(Clone, Debug)]
pub struct Watch {
    batch: usize,
    rows: [Rows; 3],
    findings: Findings,
}

impl Watch {
    /// Watches steps of so many samples each, from what was found before.
    ///
    /// A run that goes on between the steps that are looked at ([`Self::wants`]) finds what it would have found; one
    /// that goes on amid them has lost rows, and leaves that judgement out.
    pub fn new(batch: usize, findings: Findings) -> Self {
        Self { batch, rows: Default::default(), findings }
    }

    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// How many samples of this step's batch are looked at, the first ones; 0 at most steps.
    pub fn wants(&self, step: u64) -> usize {
        // Steps from this one to the judgement, which is made after the last of them.
        let left = (INTERVAL - step % INTERVAL) as usize;
        let later = self.batch.saturating_mul(left - 1);
        ROWS.saturating_sub(later).min(self.batch)
    }

    /// Whether a judgement is made after this step.
    pub fn judges(step: u64) -> bool {
        (step + 1).is_multiple_of(INTERVAL)
    }

    /// Takes the pooled features of samples that [`Self::wants`] named.
    ///
    /// # Shapes
    /// - `values`: `[samples, width]`, row by row
    pub fn see(&mut self, output: Output, values: &[f32], width: usize) {
        let rows = &mut self.rows[output as usize];
        rows.width = width;
        rows.values.extend_from_slice(values);
    }

    /// Judges when the step is one to be judged after; true when it was.
    pub fn judge(&mut self, step: u64) -> bool {
        if !Self::judges(step) {
            return false;
        }
        let wanted = self.batch.saturating_mul(INTERVAL as usize).min(ROWS);
        for output in Output::ALL {
            let Rows { values, width } = std::mem::take(&mut self.rows[output as usize]);
            // Fewer are what a run has that was taken up amid them.
            if values.len() != wanted * width {
                continue;
            }
            if let Some(health) = Health::of(&values, width) {
                self.findings.of_mut(output).judge(output, step, health);
            }
        }
        true
    }
}

/// One vector per sample: the mean of its real patches over all of its blocks.
///
/// # Shapes
/// - `features`: `[blocks · batch, patches, width]`, block by block; the encoders' have one block
/// - `real`: `[blocks · batch, patches]`, 1 at real patches and 0 at padding; all are real when absent
/// - output: `[batch, width]`
pub fn pooled(features: Tensor<3>, real: Option<Tensor<2>>, blocks: usize) -> Tensor<2> {
    let [sequences, patches, width] = features.dims();
    let batch = sequences / blocks;
    let (sums, counts) = match real {
        None => (features.clone().sum_dim(1), Tensor::full([sequences, 1, 1], patches as f64, &features.device())),
        Some(real) => {
            let real: Tensor<3> = real.unsqueeze_dim(2);
            ((features * real.clone()).sum_dim(1), real.sum_dim(1))
        }
    };
    let over_blocks =
        |sums: Tensor<3>, width: usize| sums.reshape([blocks, batch, width]).sum_dim(0).reshape([batch, width]);
    over_blocks(sums, width) / over_blocks(counts, 1)
}
