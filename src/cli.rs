//! One function per verb: what was typed to what is done; the only place that prints.

mod bench;
mod complaint;
mod eval;
mod progress;
mod report;
mod serving;
mod shards;
mod tune;
mod view;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::config::{Plan, RunConfig};
use crate::model::Precision;
use crate::pipeline::Counts;
use crate::run::exchange::{self, Which};
use crate::run::folder::{self, RunFolder};
use crate::run::text::count;
use crate::run::{Event, Outcome, Surroundings, free_folder, ready, show, stream as stream_of};
use crate::shard::Cache;
use crate::telemetry::Telemetry;
use crate::telemetry::server::{self, End};
use crate::train::device::Placement;
use crate::train::memory::StepMemory;
use complaint::Told;
use progress::{Progress, bytes, complaints};
use serving::Serving;
use shards::ShardsVerb;
use tune::TuneArgs;

pub use complaint::complain;

/// Trains image encoders without labels, from tar shards, as fast as they can be read.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Trains an encoder as a pipeline file says, or goes on with a run
    #[command(after_help = "Examples:
  saccade train pipelines/quickstart.toml
  saccade train pipelines/quickstart.toml --out runs/wide --set encoder.width=192
  saccade train --resume runs/quickstart
  saccade train pipelines/quickstart.toml --set data.train='s3://bucket/train-*.tar' --set data.cache_gb=200
The last needs a build with --features remote.")]
    Train(TrainArgs),
    /// Checks a pipeline file and prints what a run of it would be
    #[command(after_help = "Example:\n  saccade check pipelines/quickstart.toml --set train.batch=64")]
    Check(CheckArgs),
    /// Runs the data path alone and prints a line per batch
    #[command(after_help = "Example:\n  saccade stream pipelines/quickstart.toml --batches 10 --start-step 100 --json")]
    Stream(StreamArgs),
    /// Draws a batch as PNG: images, context and target blocks
    #[command(after_help = "Examples:
  saccade show pipelines/quickstart.toml --out batch.png
  saccade show pipelines/fashion-energy.toml --energy runs/fashion-energy --out energy.png")]
    Show(ShowArgs),
    /// Measures the data path, the training step, or both
    #[command(after_help = "Example:\n  saccade bench data pipelines/quickstart.toml --seconds 10")]
    Bench(bench::BenchArgs),
    /// Finds worker count and queue sizes for this machine by measuring; writes nothing
    #[command(after_help = "Example:\n  saccade tune pipelines/ijepa-vit-s16-in1k.toml --seconds 60
Prints what it measured, which stage limits, and the [stream] section to paste into the pipeline file.")]
    Tune(TuneArgs),
    /// Scores a run's encoder: kNN, linear probe, correlation dimension, rank; on samples that nothing is fitted to
    #[command(after_help = "Examples:
  saccade eval runs/quickstart --neighbours neighbours.png
  saccade eval runs/cifar10-ijepa --pooling mean --train-samples 10000 --k 1,20")]
    Eval(eval::EvalArgs),
    /// Writes the features of a run's encoder as files that NumPy opens
    #[command(after_help = "Example:\n  saccade embed runs/quickstart --split validation --out features")]
    Embed(eval::EmbedArgs),
    /// Draws the features of a run's encoder as points of a plane (UMAP), a colour for each label
    #[command(after_help = "Examples:
  saccade umap runs/quickstart --out plane.svg
  saccade umap runs/quickstart --out plane.html --names shards/fashion-names.txt --samples 5000")]
    Umap(eval::UmapArgs),
    /// Puts all there is to know of a run on one page, which needs no network
    #[command(after_help = "Example:\n  saccade report runs/quickstart --out run.html --names shards/fashion-names.txt
Scores the newest checkpoint on the way, as `saccade eval` does; where that cannot be, the page says why.")]
    Report(report::ReportArgs),
    /// Shows in a browser what a run's encoder attends to, image by image
    #[command(after_help = "Examples:
  saccade view runs/quickstart --names shards/fashion-names.txt
  saccade view runs/quickstart --address 0.0.0.0:9500
Then open the address that it prints. Without --address only this machine can.")]
    View(view::ViewArgs),
    /// Writes a run's encoder for other tools: a ViT as a folder that Hugging Face's IJepaModel.from_pretrained opens, a
    /// ConvNeXt as a file with torchvision's names
    #[command(after_help = "Example:\n  saccade export runs/quickstart --out exported")]
    Export(ExportArgs),
    /// Reads weights of other tools: Hugging Face's IJepaModel, the I-JEPA authors' checkpoint, torchvision's ConvNeXt
    #[command(after_help = "Examples:
  saccade import facebook-ijepa-vith14-1k --out weights/vith14
  saccade import IN1K-vit.h.14-300e.pth.tar --out weights/vith14
  saccade import convnext_tiny-983f1562.pth --out weights/convnext-tiny
Then begin a run with `--set encoder.weights=weights/vith14`.")]
    Import(ImportArgs),
    /// Imports, lists, verifies and indexes shards, and makes shards of shards
    #[command(subcommand, after_help = "Example:\n  saccade shards verify 'shards/fashion-train-{000000..000003}.tar'")]
    Shards(ShardsVerb),
}

/// A pipeline file and changes to it.
#[derive(Args)]
struct FileArgs {
    /// The pipeline file (TOML)
    file: PathBuf,
    #[command(flatten)]
    changes: Changes,
}

#[derive(Args)]
struct Changes {
    /// Changes a value of the pipeline file: a.b=value
    #[arg(long = "set", value_name = "A.B=V", value_parser = change)]
    set: Vec<String>,
}

#[derive(Args)]
struct TrainArgs {
    /// The pipeline file (TOML); with --resume the run's own
    #[arg(required_unless_present = "resume")]
    file: Option<PathBuf>,
    #[command(flatten)]
    changes: Changes,
    /// The run's folder; runs/NAME when left out, NAME being the pipeline file's
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Goes on with the run in this folder
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The run's folder, to check that it can be written
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints the Plan as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct StreamArgs {
    #[command(flatten)]
    file: FileArgs,
    /// How many batches
    #[arg(long, value_name = "N")]
    batches: u64,
    /// The step whose batch comes first
    #[arg(long, value_name = "K", default_value_t = 0)]
    start_step: u64,
    /// CPU workers, in place of stream.workers
    #[arg(long, value_name = "W")]
    workers: Option<usize>,
    /// Prints JSON lines with all keys
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ShowArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Where the picture goes
    #[arg(long, value_name = "X.png")]
    out: PathBuf,
    /// The step whose batch is drawn
    #[arg(long, value_name = "K", default_value_t = 0)]
    step: u64,
    /// A run whose energy along the iterations is drawn too, a curve for each sample
    #[arg(long, value_name = "RUN")]
    energy: Option<PathBuf>,
}

#[derive(Args)]
struct ExportArgs {
    /// A run folder, or a folder that `saccade import` wrote
    run: PathBuf,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which of the two encoders
    #[arg(long, value_enum, default_value_t = Which::Target)]
    which: Which,
}

#[derive(Args)]
struct ImportArgs {
    /// A Hugging Face IJepaModel folder, an I-JEPA checkpoint file (.pth.tar), or torchvision's weights of a ConvNeXt
    /// (.pth or .safetensors)
    source: PathBuf,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Attention heads, where a checkpoint file is of no usual width
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
}

/// Does what was typed.
///
/// # Errors
/// When it cannot be done; the chain of causes says why, in one line.
pub fn run(cli: Cli) -> Result<()> {
    match cli.verb {
        Verb::Train(args) => train(args),
        Verb::Check(args) => check(args),
        Verb::Stream(args) => stream(args),
        Verb::Show(args) => draw(args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Tune(args) => tune::run(&args),
        Verb::Eval(args) => eval::eval(&args),
        Verb::Embed(args) => eval::embed(&args),
        Verb::Umap(args) => eval::draw(&args),
        Verb::Report(args) => report::run(&args),
        Verb::View(args) => view::run(&args),
        Verb::Export(args) => exchange::export(&exchange::open(&args.run)?, args.which, &args.out),
        Verb::Import(args) => exchange::write(&exchange::import(&args.source, args.heads)?, &args.out),
        Verb::Shards(verb) => shards::run(verb),
    }
}

fn train(args: TrainArgs) -> Result<()> {
    let (name, config) = match (&args.file, &args.resume) {
        (Some(file), _) => (name_of(file), RunConfig::read(file, &args.changes.set)?),
        (None, Some(run)) => (name_of(run), folder::config_of(run)?.changed(&args.changes.set)?),
        (None, None) => bail!("a pipeline file or --resume is needed"),
    };
    let runtime = Runtime::new().context("no threads for the runtime")?;
    let telemetry = Telemetry::new(&name);
    let serving = Serving::start(&config, &telemetry, &runtime)?;
    let plan = Plan::with(config, Cache::from_env().measured(&telemetry))?;
    let folder = match (&args.resume, &args.file) {
        (Some(run), _) => RunFolder::resume(run, &plan)?,
        (None, Some(file)) => {
            ready(&plan)?;
            RunFolder::create(&args.out.unwrap_or_else(|| free_folder(&name)), file, &plan)?
        }
        (None, None) => bail!("a pipeline file or --resume is needed"),
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let signals = runtime.spawn(leave_on_signals(Arc::clone(&interrupted)));
    let mut progress = Progress::new(&plan, folder.path(), serving.address(), telemetry.clone());
    let mut tell = |event: Event| progress.show(&event);
    let around =
        Surroundings { runtime: runtime.handle(), telemetry: &telemetry, interrupted: &interrupted, tell: &mut tell };
    let outcome = crate::run::train(&plan, &folder, around);
    progress.end();
    signals.abort();
    let path = folder.path().display();
    // What is waited for below must keep nobody from reading this.
    let said = match outcome {
        Ok(Outcome::Finished) => say(&format!("done: {path}")),
        Ok(Outcome::Stopped { steps }) => {
            say(&format!("stopped after step {steps} of {}; go on with: saccade train --resume {path}", plan.steps))
        }
        Err(error) => {
            complain(&error);
            Err(Told.into())
        }
    };
    // Whoever asked to stop does not want to wait for a scrape.
    serving.stop(&runtime, if interrupted.load(Relaxed) { End::Now } else { End::AfterScrape });
    said
}

/// Sets the flag at the first Ctrl-C or SIGTERM, and ends the process at the second Ctrl-C.
async fn leave_on_signals(interrupted: Arc<AtomicBool>) {
    use tokio::signal::unix::{SignalKind, signal};
    /// What shells report for a process that Ctrl-C ended.
    const INTERRUPTED: i32 = 130;
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    loop {
        let again = interrupted.load(Relaxed);
        tokio::select! {
            _ = interrupt.recv() => if again { std::process::exit(INTERRUPTED) },
            _ = terminate.recv() => {}
        }
        interrupted.store(true, Relaxed);
        if !again {
            // A closed standard error must not keep the run from saving.
            let _ = writeln!(io::stderr(), "saving and leaving; Ctrl-C again leaves at once");
        }
    }
}

fn check(args: CheckArgs) -> Result<()> {
    let config = RunConfig::read(&args.file.file, &args.file.changes.set)?;
    if let Some(address) = config.telemetry.address {
        drop(server::bind(address)?);
    }
    let plan = Plan::new(config)?;
    let place = ready(&plan)?;
    let out = args.out.unwrap_or_else(|| free_folder(&name_of(&args.file.file)));
    folder::check_writable(&out)?;
    if args.json {
        let mut derived = folder::derived(&plan);
        derived["step_memory_bytes"] = plan.step_memory(place.is_cpu()).most().into();
        return say_json(&derived);
    }
    complaints(&plan).iter().try_for_each(|line| say(line))?;
    for (name, text) in overview(&plan, &place) {
        say(&format!("{name:<11} {text}"))?;
    }
    Ok(())
}

/// A Plan in a few lines.
fn overview(plan: &Plan, place: &Placement) -> Vec<(&'static str, String)> {
    let (encoder, grid) = (&plan.models.encoder, plan.models.encoder.grid());
    let scored =
        plan.validation.as_ref().map_or(String::new(), |set| format!(", {} to score on", count(set.len() as u64)));
    let (samples, shards) = (count(plan.train.len() as u64), plan.train.shards().len());
    let shape = |parameters: u64, what: String| format!("{} parameters: {what}", count(parameters));
    let (batch, epochs) = (plan.config.train.batch, plan.config.train.epochs);
    let warmup = count(plan.step.schedules.warmup_steps);
    vec![
        ("data", format!("{samples} samples in {shards} shards{scored}")),
        ("JPEGs", format!("decoded by {}", plan.config.decode.jpeg.describe())),
        (
            "grid",
            format!(
                "{grid} x {grid} patches of {0} x {0} pixels, {1} x {1} in all",
                encoder.image() / grid,
                encoder.image()
            ),
        ),
        ("encoder", shape(plan.encoder_parameters, encoder.describe())),
        ("predictor", shape(plan.predictor_parameters, plan.models.predictor.describe())),
        ("steps", format!("{} of {batch} samples, {warmup} to warm up; {epochs} epochs", count(plan.steps))),
        ("in flight", format!("{} of batches and samples at most", bytes(plan.bytes_in_flight))),
        ("disk", format!("{} at most, {} a checkpoint", bytes(plan.disk_bytes()), bytes(plan.checkpoint_bytes()))),
        ("memory", memory(&plan.step_memory(place.is_cpu()), place)),
        ("device", device(plan, place)),
    ]
}

fn memory(step: &StepMemory, place: &Placement) -> String {
    let StepMemory { models, batches, pass, update } = *step;
    let (most, what) = if pass > update { (pass, "a pass") } else { (update, "gradients and the next weights") };
    let [all, models, batches, most] = [step.most(), models, batches, most].map(bytes);
    let whose = if place.is_cpu() { "" } else { " of the first GPU's" };
    format!(
        "about {all}{whose} in a step: {models} models and moments, {batches} batches (in flight too), {most} {what}"
    )
}

fn device(plan: &Plan, place: &Placement) -> String {
    let (train, ranks) = (&plan.config.train, place.ranks.len());
    let shared = if ranks > 1 { format!(", {ranks} ranks that share each batch") } else { String::new() };
    let parts =
        if train.accumulate > 1 { format!(", {} parts of a batch in turn", train.accumulate) } else { String::new() };
    let products = if train.precision == Precision::Bf16 { "bfloat16" } else { "32 bits" };
    let again = if train.recompute { ", blocks computed again on the way back" } else { "" };
    format!("{}{shared}{parts}, products in {products}{again}", place.name)
}

fn stream(args: StreamArgs) -> Result<()> {
    let mut config = RunConfig::read(&args.file.file, &args.file.changes.set)?;
    config.stream.workers = args.workers.unwrap_or(config.stream.workers);
    let (runtime, telemetry) = (Runtime::new()?, Telemetry::new("stream"));
    let plan = Plan::with(config, Cache::from_env().measured(&telemetry))?;
    let steps = args.start_step..args.start_step.saturating_add(args.batches);
    let mut batches = stream_of(&plan, steps, Counts::default(), runtime.handle(), &telemetry)?;
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let digests = batch.digests();
        let keys: Vec<&str> = batch.samples.iter().map(|&number| plan.train.sample(number).key).collect();
        if args.json {
            say_json_line(&json!({
                "step": batch.step, "epoch": batch.epoch, "keys": keys, "pixels": digests.pixels,
                "masks": digests.masks, "shifts": digests.shifts, "quarantined": batch.quarantined,
            }))?;
        } else {
            let short = |digest: &str| digest.chars().take(12).collect::<String>();
            let or_none = |digest: &Option<String>| digest.as_deref().map_or_else(|| "-".into(), short);
            let (masks, shifts) = (or_none(&digests.masks), or_none(&digests.shifts));
            let first = keys.first().copied().unwrap_or("-");
            let bad = batch.quarantined.len();
            say(&format!(
                "step {}  pixels {}  masks {masks}  shifts {shifts}  quarantined {bad}  keys {first} ...",
                batch.step,
                short(&digests.pixels)
            ))?;
        }
    }
    Ok(())
}

fn draw(args: ShowArgs) -> Result<()> {
    let plan = Plan::new(RunConfig::read(&args.file.file, &args.file.changes.set)?)?;
    let (runtime, telemetry) = (Runtime::new()?, Telemetry::new("show"));
    let mut batches =
        stream_of(&plan, args.step..args.step.saturating_add(1), Counts::default(), runtime.handle(), &telemetry)?;
    let batch = batches.next().context("the stream holds no batch")??;
    let energies = args.energy.as_ref().map_or(Ok(Vec::new()), |run| show::energies(&batch, &plan, run))?;
    show::draw(&batch, &plan, &energies, &args.out)?;
    let columns = if batch.saccades.is_some() { "the two views" } else { "image, context, then the target blocks" };
    let curve = if energies.is_empty() { "" } else { ", then the energy along the iterations" };
    say(&format!("{}: {columns}{curve}; step {}", args.out.display(), batch.step))?;
    energies.iter().take(1).flatten().enumerate().try_for_each(|(iteration, _)| {
        let mean = energies.iter().map(|sample| sample[iteration]).sum::<f64>() / energies.len() as f64;
        say(&format!("energy per token after {iteration} iterations: {mean:.4}"))
    })
}

fn change(text: &str) -> Result<String, String> {
    if text.contains('=') { Ok(text.into()) } else { Err("write it as a.b=value".into()) }
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "must be a whole number, at least 1".into())
}

fn positive_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e6 => Ok(seconds),
        _ => Err("must be a number of seconds above 0".into()),
    }
}

/// A file's or folder's name without its ending.
fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned())
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

fn say_json(value: &impl Serialize) -> Result<()> {
    say(&serde_json::to_string_pretty(value)?)
}

fn say_json_line(value: &impl Serialize) -> Result<()> {
    say(&serde_json::to_string(value)?)
}
