//! A run on one page: its records, what is computed from its newest checkpoint, and the page that shows them.

pub mod chart;
pub mod history;
pub mod page;
pub mod shown;

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::runtime::Handle;

use super::folder::{self, Records};
use history::{Quarantine, Steps, Times, lines};
use page::{Report, count, page};
use shown::Shown;

/// Writes the page of a run. Where scores and pictures cannot be made, as when the data have moved, it says why, and gives
/// the reason back too.
///
/// # Errors
/// When the folder holds no run, or the page cannot be written.
pub fn write(run: &Path, changes: &[String], names: &[String], out: &Path, runtime: &Handle) -> Result<Option<String>> {
    let records = folder::records(run)?;
    let plan: Value = serde_json::from_str(&records.plan).context("plan.json: damaged")?;
    let shown = Shown::of(run, changes, names, runtime).map_err(|error| format!("{error:#}"));
    let why = shown.as_ref().err().cloned();
    let Records { pipeline, plan: text, scores, .. } = &records;
    let report = Report {
        run: run.display().to_string(),
        now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        planned: plan["derived"]["steps"].as_u64(),
        facts: facts(&plan),
        pipeline: pipeline.clone(),
        plan: text.clone(),
        sessions: lines(&records.sessions).collect(),
        steps: Steps::read(&records.steps),
        times: Times::read(&records.stages),
        scores: scores.clone(),
        quarantine: Quarantine::read(&records.quarantine),
        shown,
    };
    fs::write(out, page(&report)).with_context(|| format!("{}: cannot be written", out.display()))?;
    Ok(why)
}

/// What a reader asks first of a Plan.
fn facts(plan: &Value) -> Vec<(String, String)> {
    let derived = &plan["derived"];
    let number = |name: &str| derived[name].as_u64().map(count);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let pair = |one: Option<String>, what: &str, other: Option<String>| Some(format!("{}{what}{}", one?, other?));
    let facts = [
        ("objective", text(&plan["config"]["objective"]["kind"])),
        ("encoder", pair(text(&derived["encoder"]["kind"]), ", parameters: ", number("encoder_parameters"))),
        ("predictor, parameters", number("predictor_parameters")),
        ("training samples", pair(number("train_samples"), ", shards: ", number("train_shards"))),
        ("validation samples", number("validation_samples")),
        ("steps", pair(number("steps"), ", samples of each: ", number("batch"))),
        ("version that began it", text(&plan["version"])),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
