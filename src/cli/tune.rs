//! The verb `tune`: a line per measurement, the verdict, and the lines to paste.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::runtime::Runtime;

use super::progress::bytes;
use super::{FileArgs, positive_seconds, say, say_json};
use crate::config::{Plan, RunConfig};
use crate::run::tune::{Advice, Row, tune};
use crate::shard::Cache;
use crate::telemetry::Telemetry;

#[derive(Args)]
pub struct TuneArgs {
    #[command(flatten)]
    file: FileArgs,
    /// How long to measure, all in all
    #[arg(long, value_name = "S", default_value_t = 60.0, value_parser = positive_seconds)]
    seconds: f64,
    /// Prints the figures and the settings as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &TuneArgs) -> Result<()> {
    let (runtime, telemetry) = (Runtime::new()?, Telemetry::new("tune"));
    let config = RunConfig::read(&args.file.file, &args.file.changes.set)?;
    let plan = Plan::with(config, Cache::from_env().measured(&telemetry))?;
    let time = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    if args.json {
        return say_json(&tune(&plan, time, runtime.handle(), &telemetry, &mut |_| Ok(()))?);
    }
    say(&format!(
        "{:<9}{:>8}{:>7}{:>8}{:>12}{:>9}{:>15}  {:<11}{:>11}",
        "measured", "workers", "reads", "batches", "samples/s", "+-", "CPU ms/sample", "limited by", "in flight"
    ))?;
    let mut tell = |row: &Row| say(&line(row));
    let advice = tune(&plan, time, runtime.handle(), &telemetry, &mut tell)?;
    say(&summary(&advice))
}

fn line(row: &Row) -> String {
    let setting = |value: Option<usize>| value.map_or_else(|| "-".into(), |value| value.to_string());
    let stream = row.stream.as_ref();
    format!(
        "{:<9}{:>8}{:>7}{:>8}{:>12.1}{:>9.1}{:>15.3}  {:<11}{:>11}",
        row.what.name(),
        setting(stream.map(|stream| stream.workers)),
        setting(stream.map(|stream| stream.reads)),
        setting(stream.map(|stream| stream.batches_ahead)),
        row.samples_per_second,
        row.error,
        row.cpu_milliseconds_per_sample,
        row.limiting_stage.as_deref().unwrap_or("-"),
        row.bytes_in_flight.map_or_else(|| "-".into(), bytes),
    )
}

fn summary(advice: &Advice) -> String {
    let memory = advice.memory_limit.map_or(String::new(), |limit| format!(", of {} that they may take", bytes(limit)));
    let notes: String = advice.notes.iter().map(|note| format!("{note}\n")).collect();
    format!(
        "\n{}\nqueues and buffers hold {} at most{memory}; {:.0} s\n{notes}\n{}",
        advice.verdict.sentence,
        bytes(advice.bytes_in_flight),
        advice.seconds,
        advice.toml.trim_end(),
    )
}
