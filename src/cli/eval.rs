//! `eval` and `embed`: the scores of a run's encoder as a table, its features as files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use tokio::runtime::Runtime;

use super::{Changes, count, positive, say, say_json};
use crate::eval::knn::{Nearness, Votes};
use crate::eval::probe::ProbeScore;
use crate::eval::scores::FeatureScores;
use crate::eval::umap::UmapConfig;
use crate::run::eval::{Evaluation, Frozen, Pooling, Request, Split};
use crate::run::exchange::Which;
use crate::run::text::percent;
use crate::run::{folder, plane, retrieval};

/// Held-out images in a picture of neighbours, and neighbours of each.
const PICTURED: usize = 10;
const NEIGHBOURS: usize = 8;

/// Which encoder, and how its features are taken.
#[derive(Args)]
pub struct EncoderArgs {
    /// A run folder
    pub run: PathBuf,
    #[command(flatten)]
    changes: Changes,
    /// Which of the two encoders
    #[arg(long, value_enum, default_value_t = Which::Target)]
    which: Which,
    /// How the features of an image's patches become one vector
    #[arg(long, value_enum, default_value_t = Pooling::Mean)]
    pooling: Pooling,
}

#[derive(Args)]
pub struct EvalArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Training samples at most: every second, third and so on, as few as keep to it; all when left out
    #[arg(long, value_name = "N", value_parser = positive)]
    train_samples: Option<usize>,
    /// How many neighbours vote
    #[arg(long, value_name = "K,...", value_delimiter = ',', default_value = "1,5,20,200", value_parser = positive)]
    k: Vec<usize>,
    /// Draws held-out images beside their nearest training images
    #[arg(long, value_name = "X.png")]
    neighbours: Option<PathBuf>,
    /// Prints the scores as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// The folder to write: features.npy, labels.npy, keys.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which shards of the run
    #[arg(long, value_enum, default_value_t = Split::Validation)]
    split: Split,
    /// Samples at most: every second, third and so on, as few as keep to it; all when left out
    #[arg(long, value_name = "N", value_parser = positive)]
    samples: Option<usize>,
}

#[derive(Args)]
pub struct UmapArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// The drawing: X.svg, X.png, or X.html to hover on
    #[arg(long, value_name = "X.svg|X.png|X.html")]
    out: PathBuf,
    /// Which shards of the run
    #[arg(long, value_enum, default_value_t = Split::Validation)]
    split: Split,
    /// Samples at most: every second, third and so on, as few as keep to it
    #[arg(long, value_name = "N", default_value = "10000", value_parser = positive)]
    samples: usize,
    /// A file with the labels' names, a line each, from label 0 on
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// Points that each point is thought to touch: few show what is small, many what is large
    #[arg(long, value_name = "N", default_value_t = 15)]
    neighbours: usize,
    /// Another seed is another drawing of the same
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl EncoderArgs {
    pub fn open(&self) -> Result<Frozen> {
        Frozen::open(&self.run, &self.changes.set, self.which, self.pooling)
    }
}

pub fn eval(args: &EvalArgs) -> Result<()> {
    args.neighbours.as_deref().map_or(Ok(()), folder::check_file)?;
    let runtime = Runtime::new().context("no threads for the runtime")?;
    let frozen = args.encoder.open()?;
    let mut ks = args.k.clone();
    ks.sort_unstable();
    ks.dedup();
    let request = Request { train_samples: args.train_samples, ks };
    let (scores, splits) = frozen.scores(&request, runtime.handle())?;
    let saved = scores.save(&args.encoder.run)?;
    if args.json {
        say_json(&scores)?;
    } else {
        table(&scores).iter().try_for_each(|line| say(line))?;
        say("")?;
        say(&row(&args.encoder.run.display().to_string(), &scores))?;
        say(&format!("written: {}", saved.display()))?;
    }
    let Some(path) = &args.neighbours else { return Ok(()) };
    retrieval::draw(&frozen, &splits, [PICTURED, NEIGHBOURS], path)?;
    if args.json {
        return Ok(());
    }
    let what = "held-out images, and the nearest training images; a green frame is the same label";
    say(&format!("{}: {what}", path.display()))
}

pub fn embed(args: &EmbedArgs) -> Result<()> {
    let runtime = Runtime::new().context("no threads for the runtime")?;
    let rows = args.encoder.open()?.embed(args.split, args.samples, &args.out, runtime.handle())?;
    say(&format!("{} rows: {}", count(rows as u64), args.out.display()))
}

pub fn draw(args: &UmapArgs) -> Result<()> {
    plane::check(&args.out)?;
    let runtime = Runtime::new().context("no threads for the runtime")?;
    let names = names(args.names.as_deref())?;
    let umap = UmapConfig { neighbours: args.neighbours, ..UmapConfig::new(args.seed) };
    let request = plane::Request { split: args.split, samples: args.samples, umap };
    let frozen = args.encoder.open()?;
    let drawn = plane::plane(&frozen, &request, runtime.handle())?;
    let title = format!(
        "{} after {} steps, {} images",
        args.encoder.run.display(),
        frozen.step,
        count(drawn.keys.len() as u64)
    );
    plane::write(&drawn, &title, &names, &args.out)?;
    say(&format!("{}: {title}", args.out.display()))
}

/// The labels' names, a line each; none without a file.
pub fn names(file: Option<&Path>) -> Result<Vec<String>> {
    let Some(path) = file else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn table(scores: &Evaluation) -> Vec<String> {
    let Evaluation { train, held_out, scores: found, .. } = scores;
    let FeatureScores { knn, probe, correlation_dimension, rankme, alpha, lidar, .. } = found;
    let encoder = if scores.which == Which::Target { "target encoder" } else { "encoder" };
    let pooling = if scores.pooling == Pooling::Mean { "mean" } else { "last four blocks" };
    let mut lines = vec![
        format!("{encoder} after {} steps ({} images), pooling: {pooling}", scores.step, count(scores.images_seen)),
        format!("fitted to   {} samples of {}", count(train.samples as u64), train.shards.join(", ")),
        format!("scored on   {} samples of {}", count(held_out.samples as u64), held_out.shards.join(", ")),
        String::new(),
        "kNN, standardised features       plain     weighted".into(),
    ];
    for pair in knn.chunks(2) {
        let [plain, weighted] = [Votes::Plain, Votes::Weighted].map(|votes| {
            pair.iter().find(|score| score.votes == votes).map_or(String::new(), |score| percent(score.accuracy))
        });
        let Some(first) = pair.first() else { continue };
        let nearness = if first.nearness == Nearness::Cosine { "cosine" } else { "Euclidean" };
        lines.push(format!("  {nearness:<10} k = {:<12} {plain:>10}   {weighted:>10}", first.k));
    }
    lines.push("linear probe, standardised features".into());
    lines.push(probe.as_ref().map_or_else(|| "  none: too many labels".into(), probed));
    lines.push("the held-out features themselves".into());
    lines.push(format!("  RankMe                {rankme:8.2}"));
    let or_none = |number: Option<String>| number.unwrap_or_else(|| "    none: too few directions or pairs".into());
    lines.push(format!("  alpha-ReQ             {}", or_none(alpha.map(|alpha| format!("{alpha:8.2}")))));
    lines.push(format!("  LiDAR                 {}", or_none(lidar.map(|lidar| format!("{lidar:8.2}")))));
    let dimension = correlation_dimension.map(|found| format!("{:8.2} +- {:.2}", found.dimension, found.uncertainty));
    lines.push(format!("  correlation dimension {}", or_none(dimension)));
    let parts: Vec<String> =
        scores.seconds.iter().map(|(part, seconds)| format!("{} {seconds:.1} s", part.replace('_', " "))).collect();
    lines.push(format!("took: {}", parts.join(", ")));
    lines
}

fn probed(probe: &ProbeScore) -> String {
    let steps = format!("{} steps{}", probe.steps, if probe.converged { "" } else { ", not converged" });
    let [top1, top5, train] = [probe.top1, probe.top5, probe.top1_train].map(|share| format!("{:>8}", percent(share)));
    format!("  top-1 {top1}   top-5 {top5}   (training samples: {train}; {steps})")
}

/// For a table of results.
fn row(run: &str, scores: &Evaluation) -> String {
    let FeatureScores { knn, probe, rankme, .. } = &scores.scores;
    let best = knn.iter().filter(|score| score.nearness == Nearness::Cosine);
    let best = best.max_by(|one, other| one.accuracy.total_cmp(&other.accuracy));
    let knn = best.map_or(String::new(), |score| format!("{:.2} (k = {})", 100.0 * score.accuracy, score.k));
    let probe = probe.map_or_else(|| "none".into(), |probe| format!("{:.2}", 100.0 * probe.top1));
    let images = count(scores.images_seen);
    format!("| {run} | {images} images | kNN {knn} | probe {probe} | RankMe {rankme:.1} |")
}
