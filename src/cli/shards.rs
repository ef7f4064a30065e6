//! The verbs on shards: list, index, reshard; the others in files of their own.

use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::import::{self, ImportArgs};
use super::progress::bytes;
use super::verify::{self, VerifyArgs};
use super::{say, say_json};
use crate::pipeline::shrink::Fit;
use crate::run::reshard::{self, Account, Done, Reshard};
use crate::run::text::count;
use crate::shard;

#[derive(Subcommand)]
pub enum ShardsVerb {
    /// Makes shards of what there is: ImageNet's archives, folders of classes, lists of paths and labels, plain folders
    #[command(after_help = "Examples:
  saccade shards import ILSVRC2012_img_train.tar --out /data/shards --name train
  saccade shards import ILSVRC2012_img_val.tar --ground-truth ILSVRC2012_validation_ground_truth.txt \\
      --out /data/shards --name validation
  saccade shards import pictures/train --out shards --shuffle 1
  saccade shards import list.csv --out shards --samples 1000
Nothing is unpacked. Images keep their bytes; what is no image by its first bytes is left out and listed in
DIR/NAME.dropped.jsonl. Killed, it goes on when called again as before. WebDataset shards of others, such as
timm/imagenet-1k-wds, need no import: train on them as they are, or make others of them with `saccade shards reshard`.")]
    Import(ImportArgs),
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
    /// Reads every shard once and reports what is wrong: headers, labels, keys, checksums, images
    #[command(after_help = "Examples:
  saccade shards verify 'shards/fashion-train-*.tar'
  saccade shards verify --classes 1000 --json '/data/train-{0000..1023}.tar'
Every image is decoded whole, on all cores. A SHA256SUMS beside the shards is compared. --quick walks the headers alone.
The exit code is 1 where something is wrong.")]
    Verify(VerifyArgs),
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
    #[arg(long, value_name = "W", value_parser = workers())]
    workers: Option<u16>,
    /// Writes over shards that are there already
    #[arg(long)]
    force: bool,
}

/// What may be given as `--workers`.
pub fn workers() -> clap::builder::RangedI64ValueParser<u16> {
    /// More than any machine has cores.
    const MOST_WORKERS: i64 = 1024;
    clap::value_parser!(u16).range(1..=MOST_WORKERS)
}

pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
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
        ShardsVerb::Import(args) => import::run(args),
        ShardsVerb::Reshard(args) => reshard(args),
        ShardsVerb::Verify(args) => verify::run(args),
    }
}

fn reshard(args: ReshardArgs) -> Result<()> {
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
