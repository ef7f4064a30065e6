//! A run's numbers and pictures for TensorBoard, where `telemetry.tensorboard` asks for them.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::eval::Frozen;
use super::folder::PIPELINE;
use super::heat;
use super::score::Scores;
use super::show;
use super::tensorboard::EventFile;
use super::{Event, ProbeCount, StepLine, Surroundings};
use crate::config::Plan;

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
    pub fn begin(run: &Path, plan: &Plan, done: u64, around: &mut Surroundings) -> Result<Self> {
        let mut board = Self { file: EventFile::begin(&run.join(FOLDER), done)? };
        if done == 0 {
            let source = fs::read_to_string(run.join(PIPELINE)).unwrap_or_default();
            board.file.text(0, "pipeline", &format!("```toml\n{source}\n```"))?;
            board.picture(0, "batch", show::first_batch(plan, around.runtime), around)?;
        }
        board.flush()?;
        Ok(board)
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
    /// When the file cannot be written.
    pub fn scored(&mut self, scores: &Scores, frozen: &Frozen, around: &mut Surroundings) -> Result<()> {
        let named: Vec<(String, f64)> =
            scores.named().into_iter().map(|(name, value)| (format!("scores/{name}"), value)).collect();
        // At the step that was made last: a run that is taken up at `scores.step` lets TensorBoard forget that step.
        let step = scores.step.saturating_sub(1);
        self.file.scalars(step, named.iter().map(|(name, value)| (name.as_str(), *value)))?;
        self.picture(step, "attention", heat::draw(frozen, IMAGES).map(|drawn| drawn.png), around)?;
        self.flush()
    }

    /// A picture is not worth a run: where there is none, the user is told.
    fn picture(&mut self, step: u64, name: &str, png: Result<Vec<u8>>, around: &mut Surroundings) -> Result<()> {
        match png {
            Ok(png) => self.file.image(step, name, &png),
            Err(error) => {
                (around.tell)(Event::Notice(format!("no picture `{name}` for TensorBoard: {error:#}")));
                Ok(())
            }
        }
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}
