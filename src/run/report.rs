//! A run on one page: its records, what is computed from its newest checkpoint, and the page that shows them.

pub mod chart;
pub mod history;
pub mod page;
pub mod shown;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::runtime::Handle;

use super::folder;
use super::text::count;
use crate::checkpoint::write_whole;
use history::{Quarantine, Scored, Steps, Times, lines};
use page::{Report, page};
use shown::Shown;

/// Writes the page of a run, in place of one that is there. What of its scores and pictures cannot be made, as when the
/// data have moved, the page says the reason of; the reasons are given back too, a line each.
///
/// # Errors
/// When the folder holds no run, or the page cannot be written, which is tried before anything is computed.
pub fn write(run: &Path, changes: &[String], names: &[String], out: &Path, runtime: &Handle) -> Result<Vec<String>> {
    if out.extension().is_none_or(|ending| ending != "html") {
        bail!("{}: name a file that ends in .html", out.display());
    }
    folder::check_file(out)?;
    let mut report = read(run)?;
    report.shown = Shown::of(run, changes, names, runtime).map_err(|error| format!("{error:#}"));
    write_whole(out, page(&report).as_bytes())?;
    Ok(match &report.shown {
        Ok(shown) => shown.missing(),
        Err(why) => vec![format!("scores and pictures: {why}")],
    })
}

/// What a run's records say of it; nothing is computed.
///
/// # Errors
/// When the folder holds no run, or its scores are damaged.
pub fn read(run: &Path) -> Result<Report> {
    let records = folder::records(run)?;
    let plan: Value = serde_json::from_str(&records.plan).context("plan.json: damaged")?;
    Ok(Report {
        run: run.display().to_string(),
        now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        planned: plan["derived"]["steps"].as_u64(),
        facts: facts(&plan),
        pipeline: records.pipeline,
        plan: records.plan,
        sessions: lines(&records.sessions).collect(),
        steps: Steps::read(&records.steps),
        times: Times::read(&records.stages),
        scores: Scored::read(&records.scores)?,
        quarantine: Quarantine::read(&records.quarantine),
        shown: Err("nothing was computed".into()),
    })
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
