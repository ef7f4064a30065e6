//! A run's numbers and pictures for TensorBoard, where `telemetry.tensorboard` asks for them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tokio::runtime::Handle;

use super::eval::Frozen;
use super::folder::PIPELINE;
use super::heat;
use super::score::Scores;
use super::show;
use super::tensorboard::EventFile;
use super::{ProbeCount, StepLine};
use crate::config::Plan;
use crate::model::Encoder;
use crate::train::device::Placement;

/// The folder of a run that TensorBoard looks into.
pub const FOLDER: &str = "tensorboard";
/// Images whose attention is drawn.
const IMAGES: usize = 6;

pub struct Board {
    file: EventFile,
}

impl Board {
    /// Begins a file; with `done` above 0, TensorBoard forgets what older ones say of the steps from there on. A new run
    /// gets its pipeline file and the picture of its first batch.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(run: &Path, plan: &Plan, done: u64, runtime: &Handle) -> Result<Self> {
        let mut file = EventFile::begin(&run.join(FOLDER), done)?;
        if done == 0 {
            let source = fs::read_to_string(run.join(PIPELINE)).unwrap_or_default();
            file.text(0, "pipeline", &format!("```toml\n{source}\n```"))?;
            file.image(0, "batch", &show::first_batch(plan, runtime)?)?;
        }
        file.flush()?;
        Ok(Self { file })
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn step(&mut self, line: &StepLine) -> Result<()> {
        let mut values: Vec<(String, f64)> = vec![
            ("loss/total".into(), line.loss),
            ("schedule/learning_rate".into(), line.learning_rate),
            ("schedule/weight_decay".into(), line.weight_decay),
            ("schedule/ema_decay".into(), line.ema_decay),
            ("gradient_norm".into(), line.gradient_norm),
            ("features/target_deviation".into(), line.target_deviation),
            ("speed/samples_per_second".into(), line.samples_per_second),
            ("speed/data_wait_seconds".into(), line.data_wait_seconds),
        ];
        values.extend(line.terms.iter().map(|(name, value)| (format!("loss/{name}"), *value)));
        if let Some(ProbeCount { right, of }) = line.probe {
            values.push(("scores/online_probe".into(), right as f64 / of as f64));
        }
        for (output, health) in &line.features {
            values.push((format!("features/{output}/rankme"), health.rankme));
            values.push((format!("features/{output}/deviation"), health.deviation));
        }
        self.file.scalars(line.step, values.iter().map(|(name, value)| (name.as_str(), *value)))
    }

    /// Scores, and what the target encoder attends to by now.
    ///
    /// # Errors
    /// When the file cannot be written, or an image cannot be read.
    pub fn scored(&mut self, scores: &Scores, plan: &Plan, target: &Encoder, place: &Placement) -> Result<()> {
        let named: Vec<(String, f64)> =
            scores.named().into_iter().map(|(name, value)| (format!("scores/{name}"), value)).collect();
        // At the step that was made last: a run that is taken up at `scores.step` lets TensorBoard forget that step.
        let step = scores.step.saturating_sub(1);
        self.file.scalars(step, named.iter().map(|(name, value)| (name.as_str(), *value)))?;
        let frozen = Frozen::of(plan, scores.step, target, place);
        let drawn = heat::draw(&frozen, IMAGES).context("the picture for TensorBoard")?;
        self.file.image(step, "attention", &drawn.png)?;
        self.flush()
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}
