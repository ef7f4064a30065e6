//! The verbs on shards: list, verify, index.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::progress::{bytes, count};
use super::{say, say_json};
use crate::shard;

#[derive(Subcommand)]
pub enum ShardsVerb {
    /// Makes the index of each shard again
    Index(ShardsArgs),
    /// Says what each shard holds
    List(ShardsArgs),
    /// Walks every shard and reports what is wrong
    Verify(ShardsArgs),
}

#[derive(Args)]
pub struct ShardsArgs {
    /// Paths, brace notation such as 'train-{0000..1023}.tar', or globs
    #[arg(required = true)]
    shards: Vec<String>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub fn run(verb: ShardsVerb) -> Result<()> {
    match verb {
        ShardsVerb::Index(args) => {
            let indexes = shard::reindex(&args.shards)?;
            if args.json {
                return say_json(&indexes);
            }
            indexes.iter().try_for_each(|index| {
                let place =
                    index.index.as_ref().map_or("nowhere: neither folder nor cache can be written".into(), |path| {
                        path.display().to_string()
                    });
                say(&format!("{}: {} samples, index {place}", index.shard.display(), index.samples))
            })
        }
        ShardsVerb::List(args) => {
            let listings = shard::list(&args.shards)?;
            if args.json {
                return say_json(&listings);
            }
            for listing in &listings {
                let (samples, labels) = (listing.samples, listing.labels.len());
                say(&format!(
                    "{}: {samples} samples, {}, {labels} labels",
                    listing.shard.display(),
                    bytes(listing.bytes)
                ))?;
            }
            let samples: usize = listings.iter().map(|listing| listing.samples).sum();
            let all: u64 = listings.iter().map(|listing| listing.bytes).sum();
            say(&format!("{} shards, {} samples, {}", listings.len(), count(samples as u64), bytes(all)))
        }
        ShardsVerb::Verify(args) => verify(&args),
    }
}

fn verify(args: &ShardsArgs) -> Result<()> {
    let report = shard::verify(&args.shards)?;
    if args.json {
        say_json(&report)?;
    } else {
        for shard in &report.shards {
            for problem in &shard.problems {
                let keys =
                    if problem.keys.is_empty() { String::new() } else { format!(", first {}", problem.keys.join(" ")) };
                let detail = problem.detail.as_ref().map_or(String::new(), |detail| format!(": {detail}"));
                say(&format!("{}: {} x {}{keys}{detail}", shard.shard.display(), problem.count, problem.kind))?;
            }
        }
        let samples = count(report.samples as u64);
        say(&format!(
            "{} shards, {samples} samples, {}, {} problems",
            report.shards.len(),
            bytes(report.bytes),
            report.problems
        ))?;
    }
    if report.problems > 0 { bail!("{} problems found", report.problems) } else { Ok(()) }
}
