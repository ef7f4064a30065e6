//! The verbs on shards: list, verify, index, reshard.

use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::progress::{bytes, count};
use super::{say, say_json};
use crate::pipeline::shrink::Fit;
use crate::run::reshard::{self, Account, Done, Reshard};
use crate::shard::{self, Report};

#[derive(Subcommand)]
pub enum ShardsVerb {
    /// Makes the index of each shard again
    Index(ShardsArgs),
    /// Says what each shard holds
    List(ShardsArgs),
    /// Makes shards of decoded, shrunk images, which are read without decoding
    #[command(after_help = "Examples:
  saccade shards reshard --decode max-side=256 '/data/train-{0000..1023}.tar' --out /fast/train-256
  saccade shards reshard --decode short-side=256 'shards/fashion-train-*.tar' --out decoded --json
Images stay as large as they are where they are no larger than wanted. Labels (cls) and json members are kept, other
members are not. Samples that cannot be decoded are left out and listed in DIR/dropped.jsonl.")]
    Reshard(ReshardArgs),
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

#[derive(Args)]
pub struct ReshardArgs {
    #[command(flatten)]
    from: ShardsArgs,
    /// The folder to write, a shard of the same name for each that is read
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Shrinks images in proportion until their longer or shorter side has at most N pixels
    #[arg(long, value_name = "max-side=N|short-side=N")]
    decode: Fit,
    /// Threads that decode; one per core when left out
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u16).range(1..=MOST_WORKERS))]
    workers: Option<u16>,
    /// Writes over shards that are there already
    #[arg(long)]
    force: bool,
}

/// More than any machine has cores.
const MOST_WORKERS: i64 = 1024;

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
        ShardsVerb::Reshard(args) => reshard(args),
        ShardsVerb::Verify(args) => verify(&args),
    }
}

fn reshard(args: ReshardArgs) -> Result<()> {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let workers = args.workers.map_or_else(cores, usize::from);
    let wanted = Reshard { shards: args.from.shards, out: args.out, fit: args.decode, workers, force: args.force };
    let account = reshard::reshard(&wanted, &mut |done: &Done| {
        let (samples, dropped) = (count(done.samples), done.dropped);
        let line = format!("{}: {samples} samples, {dropped} left out, {}", done.shard.display(), bytes(done.bytes));
        // A closed standard error must not end the work.
        let _ = writeln!(io::stderr(), "{line}");
    })?;
    if args.from.json { say_json(&account) } else { say(&table(&account)) }
}

fn table(account: &Account) -> String {
    let Account { shards, samples_in, samples_out, shrunk, dropped, bytes_in, bytes_out, .. } = account;
    let all: u64 = dropped.values().sum();
    let reasons: Vec<String> =
        dropped.iter().map(|(reason, samples)| format!("{} {reason}", count(*samples))).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
    let (samples_in, samples_out, shrunk) = (count(*samples_in), count(*samples_out), count(*shrunk));
    let (seconds, rate) = (account.seconds, account.samples_per_second);
    format!(
        "{shards} shards, {samples_in} samples, {} read\n\
         {samples_out} samples, {} written, {shrunk} of them shrunk\n\
         {} left out{reasons}\n\
         {seconds:.1} s, {rate:.0} samples/s",
        bytes(*bytes_in),
        bytes(*bytes_out),
        count(all),
    )
}

fn verify(args: &ShardsArgs) -> Result<()> {
    let report = shard::verify(&args.shards)?;
    let told = tell(&report, args.json);
    // Whoever stops reading early still learns of it by the exit code.
    if report.problems > 0 { bail!("{} problems found", report.problems) } else { told }
}

fn tell(report: &Report, json: bool) -> Result<()> {
    if json {
        say_json(report)?;
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
    Ok(())
}
