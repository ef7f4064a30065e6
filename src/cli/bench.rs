//! `bench`: how fast the data path, the training step, or both are.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::runtime::Runtime;

use super::{FileArgs, Serving, positive_seconds, say, say_json};
use crate::config::{Plan, RunConfig};
use crate::run::bench::{self, Figures};
use crate::shard::Cache;
use crate::telemetry::Telemetry;
use crate::telemetry::server::End;

#[derive(Args)]
pub struct BenchArgs {
    /// What is measured
    what: What,
    #[command(flatten)]
    file: FileArgs,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = positive_seconds)]
    seconds: f64,
    /// Prints the figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Shards to batches
    Data,
    /// The training step on one batch
    Step,
    /// Training as it is
    Train,
}

pub fn run(args: &BenchArgs) -> Result<()> {
    let config = RunConfig::read(&args.file.file, &args.file.changes.set)?;
    let (runtime, telemetry) = (Runtime::new()?, Telemetry::new("bench"));
    let serving = Serving::start(&config, &telemetry, &runtime)?;
    let plan = Plan::with(config, Cache::from_env().measured(&telemetry))?;
    let limit = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    let measured = match args.what {
        What::Data => bench::data(&plan, limit, runtime.handle(), &telemetry),
        What::Step => bench::step(&plan, limit, runtime.handle(), &telemetry),
        What::Train => bench::train(&plan, limit, runtime.handle(), &telemetry),
    };
    serving.stop(&runtime, End::Now);
    let figures = measured?;
    if args.json { say_json(&figures) } else { say(&table(&figures)) }
}

fn table(figures: &Figures) -> String {
    let Figures { what, device, seconds, batches, samples, .. } = figures;
    let mut text = format!(
        "{what}: {:.1} samples/s, {:.3} CPU ms per sample ({samples} samples in {batches} batches, {seconds:.1} s, device {device})\n",
        figures.samples_per_second, figures.cpu_milliseconds_per_sample,
    );
    text += &format!("{:<11}{:>10}{:>10}{:>10}{:>10}\n", "stage", "samples", "busy s", "starved s", "blocked s");
    for stage in &figures.stages {
        text += &format!(
            "{:<11}{:>10}{:>10.2}{:>10.2}{:>10.2}\n",
            stage.stage, stage.samples, stage.busy_seconds, stage.starved_seconds, stage.blocked_seconds,
        );
    }
    text + &format!("limited by: {}", figures.bottleneck.as_deref().unwrap_or("nothing yet"))
}
