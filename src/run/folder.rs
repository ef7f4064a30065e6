//! The files of a run: what was asked, what was done step by step, what was left out, what it scored.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::StepLine;
use super::exchange;
use super::score::Scores;
use crate::checkpoint::write_whole;
use crate::config::{Plan, RunConfig, course, models};
use crate::pipeline::Quarantined;

pub const PIPELINE: &str = "pipeline.toml";
const PLAN: &str = "plan.json";
const STEPS: &str = "steps.jsonl";
const QUARANTINE: &str = "quarantine.jsonl";
/// Where the time went, at every checkpoint and score.
const STAGES: &str = "stages.jsonl";
/// When and on which machine the run was begun and taken up.
const SESSIONS: &str = "sessions.jsonl";
const SCORES: &str = "scores.json";
/// The weights that the run began with, where it did not draw them.
const START: &str = "start";
const BAD_STEP: &str = "bad-step.json";

/// A run's folder and its open files.
pub struct RunFolder {
    path: PathBuf,
    steps: File,
    quarantine: File,
    stages: File,
    sessions: File,
}

/// What `plan.json` holds.
#[derive(Serialize, Deserialize)]
struct Planned {
    version: String,
    config: RunConfig,
    derived: Value,
}

impl RunFolder {
    /// Makes the folder of a new run and notes what it will do; `source` is the pipeline file.
    ///
    /// # Errors
    /// When the folder holds a run already or cannot be written.
    pub fn create(path: &Path, source: &Path, plan: &Plan) -> Result<Self> {
        refuse_run(path)?;
        fs::create_dir_all(path)
            .with_context(|| format!("{}: cannot be made; choose another --out", path.display()))?;
        let text = fs::read(source).with_context(|| format!("{}: cannot be read", source.display()))?;
        write_whole(&path.join(PIPELINE), &text)?;
        if let Some(weights) = plan.config.encoder.weights() {
            // A copy: the folder they came from may change or go.
            exchange::write(&exchange::open(weights)?, &path.join(START))?;
        }
        let version = env!("CARGO_PKG_VERSION").into();
        let planned = Planned { version, config: plan.config.clone(), derived: derived(plan) };
        write_whole(&path.join(PLAN), &serde_json::to_vec_pretty(&planned)?)?;
        Self::open(path)
    }

    /// Opens the folder of a run that was begun under the same settings.
    ///
    /// # Errors
    /// When it holds no run, a run under other settings, or cannot be written.
    pub fn resume(path: &Path, plan: &Plan) -> Result<Self> {
        let begun = config_of(path)?;
        if course(&begun, &models(&begun)?) != plan.course() {
            bail!("{}: was begun under other settings; resume with the run's own", path.display());
        }
        Self::open(path)
    }

    /// # Errors
    /// When the folder's files cannot be written.
    fn open(path: &Path) -> Result<Self> {
        let append = |name: &str| {
            let path = path.join(name);
            let file = OpenOptions::new().create(true).append(true).open(&path);
            file.with_context(|| format!("{}: cannot be written", path.display()))
        };
        let [steps, quarantine, stages, sessions] = [STEPS, QUARANTINE, STAGES, SESSIONS].map(append);
        let path = path.to_path_buf();
        Ok(Self { steps: steps?, quarantine: quarantine?, stages: stages?, sessions: sessions?, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn checkpoints(&self) -> PathBuf {
        checkpoints(&self.path)
    }

    /// Cuts the records back to the steps before `step`, which will be made again, and to whole lines: the last one was
    /// perhaps being written when the run was killed.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn cut(&self, step: u64) -> Result<()> {
        // A line of the last two tells of the steps before its own.
        let files = [
            (&self.steps, STEPS, step),
            (&self.quarantine, QUARANTINE, step),
            (&self.stages, STAGES, step + 1),
            (&self.sessions, SESSIONS, step + 1),
        ];
        for (file, name, end) in files {
            let path = self.path.join(name);
            let bytes = fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
            let is_before = |line: &&[u8]| {
                let parsed = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Value>(line).ok());
                parsed.and_then(|line| line["step"].as_u64()).is_some_and(|number| number < end)
            };
            let kept: usize = bytes.split_inclusive(|&byte| byte == b'\n').take_while(is_before).map(<[u8]>::len).sum();
            file.set_len(kept as u64).with_context(|| format!("{}: cannot be cut", path.display()))?;
        }
        Ok(())
    }

    /// Brings the records to the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<()> {
        for (file, name) in [(&self.steps, STEPS), (&self.quarantine, QUARANTINE)] {
            file.sync_data().with_context(|| format!("{}: cannot be synced", self.path.join(name).display()))?;
        }
        Ok(())
    }

    /// The weights that the run began with, where it did not draw them.
    pub fn start(&self) -> Option<PathBuf> {
        Some(self.path.join(START)).filter(|path| path.exists())
    }

    /// # Errors
    /// When the line cannot be written, as on a full disk.
    pub fn step(&self, line: &StepLine) -> Result<()> {
        append(&self.steps, line).with_context(|| format!("{}: cannot be written", self.path.join(STEPS).display()))
    }

    /// Notes where the time went up to now.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn stages(&self, line: &Value) -> Result<()> {
        append(&self.stages, line).with_context(|| format!("{}: cannot be written", self.path.join(STAGES).display()))
    }

    /// Notes that the run is begun or taken up.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn session(&self, line: &Value) -> Result<()> {
        let written = append(&self.sessions, line);
        written.with_context(|| format!("{}: cannot be written", self.path.join(SESSIONS).display()))
    }

    /// # Errors
    /// When a line cannot be written.
    pub fn quarantine(&self, samples: &[Quarantined]) -> Result<()> {
        for sample in samples {
            let written = append(&self.quarantine, sample);
            written.with_context(|| format!("{}: cannot be written", self.path.join(QUARANTINE).display()))?;
        }
        Ok(())
    }

    /// Notes the batch whose loss was not a number.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn bad_step(&self, line: &StepLine, keys: &[&str]) -> Result<PathBuf> {
        let path = self.path.join(BAD_STEP);
        let text = json!({ "step": line.step, "loss": line.loss.to_string(), "gradient_norm": line.gradient_norm.to_string(), "keys": keys });
        write_whole(&path, &serde_json::to_vec_pretty(&text)?)?;
        Ok(path)
    }

    /// Adds scores to the run's list, in place of any of the same step.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn scores(&self, scores: &Scores) -> Result<()> {
        let mut all = all_scores(&self.path)?;
        all.retain(|earlier| earlier.step < scores.step);
        all.push(scores.clone());
        Ok(write_whole(&self.path.join(SCORES), &serde_json::to_vec_pretty(&all)?)?)
    }

    /// Whether scores were taken after so many steps.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn has_scores(&self, step: u64) -> Result<bool> {
        Ok(all_scores(&self.path)?.iter().any(|scores| scores.step == step))
    }

    /// # Errors
    /// When the file cannot be read.
    pub fn last_scores(&self) -> Result<Option<Scores>> {
        Ok(all_scores(&self.path)?.pop())
    }
}

/// What a run has left, for reading.
pub struct Records {
    /// The texts of the pipeline file and of the Plan.
    pub pipeline: String,
    pub plan: String,
    pub scores: PathBuf,
    /// Files of lines.
    pub steps: PathBuf,
    pub stages: PathBuf,
    pub sessions: PathBuf,
    pub quarantine: PathBuf,
}

/// # Errors
/// When the folder holds no run.
pub fn records(path: &Path) -> Result<Records> {
    config_of(path)?;
    let text = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
    let [steps, stages, sessions, quarantine] = [STEPS, STAGES, SESSIONS, QUARANTINE].map(|name| path.join(name));
    Ok(Records {
        pipeline: text(PIPELINE),
        plan: text(PLAN),
        scores: path.join(SCORES),
        steps,
        stages,
        sessions,
        quarantine,
    })
}

fn all_scores(run: &Path) -> Result<Vec<Scores>> {
    let path = run.join(SCORES);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{}: damaged; remove it", path.display()))
}

/// The configuration of a run that was begun, changes of `--set` included.
///
/// # Errors
/// When the folder holds no run.
pub fn config_of(path: &Path) -> Result<RunConfig> {
    let file = path.join(PLAN);
    let bytes = fs::read(&file).with_context(|| format!("{}: holds no run ({PLAN} cannot be read)", path.display()))?;
    let planned: Planned = serde_json::from_slice(&bytes).with_context(|| format!("{}: damaged", file.display()))?;
    Ok(planned.config)
}

/// Tries to write where the run's folder would be; nothing is left there.
///
/// # Errors
/// When it cannot be written.
pub fn check_writable(path: &Path) -> Result<()> {
    refuse_run(path)?;
    let there = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("."));
    try_writing(there, path)
}

/// Tries to write where a file will be put in place; nothing is left there, and a file that is there stays.
///
/// # Errors
/// When a folder is there, or the file's own folder is missing or cannot be written.
pub fn check_file(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_dir() {
        bail!("{}: is a folder; name a file in it", path.display());
    }
    if !folder.is_dir() {
        bail!(
            "{}: cannot be written: there is no folder {}; make it, or name another",
            path.display(),
            folder.display()
        );
    }
    try_writing(folder, path)
}

fn try_writing(folder: &Path, path: &Path) -> Result<()> {
    let probe = folder.join(format!(".saccade-{}", std::process::id()));
    let tried = File::create(&probe).and_then(|_| fs::remove_file(&probe));
    tried.with_context(|| format!("{}: cannot be written; choose another --out", path.display()))
}

fn refuse_run(path: &Path) -> Result<()> {
    if path.join(PLAN).exists() {
        bail!("{0}: holds a run already; go on with --resume {0} or choose another --out", path.display());
    }
    Ok(())
}

pub fn checkpoints(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// What follows from a configuration and its data, for people and programs to read.
pub fn derived(plan: &Plan) -> Value {
    json!({
        "grid": plan.models.encoder.grid(),
        "encoder": plan.models.encoder,
        "predictor": plan.models.predictor,
        "encoder_parameters": plan.encoder_parameters,
        "predictor_parameters": plan.predictor_parameters,
        "train_samples": plan.train.len(),
        "train_shards": plan.train.shards().len(),
        "validation_samples": plan.validation.as_ref().map(|set| set.len()),
        "batch": plan.config.train.batch,
        "steps": plan.steps,
        "warmup_steps": plan.step.schedules.warmup_steps,
        "bytes_in_flight": plan.bytes_in_flight,
        "checkpoint_bytes": plan.checkpoint_bytes(),
        "disk_bytes": plan.disk_bytes(),
    })
}

/// One write per line, so that a killed run leaves at most one line unfinished.
fn append(mut file: &File, line: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(file.write_all(&text)?)
}
