//! The verbs on shards: list and index; the others in files of their own.

mod import;
mod reshard;
mod verify;

use std::thread;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::progress::bytes;
use super::{say, say_json};
use crate::run::text::count;
use crate::shard::{self, Cache};

#[derive(Subcommand)]
pub enum ShardsVerb {
    /// Makes shards of what there is: ImageNet's archives, folders of classes, lists of paths and labels, plain folders
    #[command(after_help = "Examples:
  saccade shards import ILSVRC2012_img_train.tar --out /data/shards --name train
  saccade shards import ILSVRC2012_img_val.tar --ground-truth ILSVRC2012_validation_ground_truth.txt \\
      --out /data/shards --name validation
  saccade shards import pictures/train --out shards --shuffle 1
  saccade shards import list.csv --out shards --samples 1000
  saccade shards import pictures/train --out s3://bucket/set --name mine
Nothing is unpacked. Images keep their bytes; what is no image by its first bytes is left out and listed in
DIR/NAME.dropped.jsonl. Killed, it goes on when called again as before. WebDataset shards of others, such as
timm/imagenet-1k-wds, need no import: train on them as they are, or make others of them with `saccade shards reshard`.")]
    Import(Box<import::ImportArgs>),
    /// Makes the index of each shard again
    #[command(after_help = "Example:\n  saccade shards index '/data/train-*.tar'")]
    Index(ShardsArgs),
    /// Says what each shard holds
    #[command(after_help = "Examples:
  saccade shards list 'shards/*.tar'
  saccade shards list --json 's3://bucket/train-*.tar'
Addresses need a build with --features remote; shards/README.md says how they are fetched, and with which account.")]
    List(ShardsArgs),
    /// Makes other shards of shards: shuffled, merged, filtered, split, with smaller or decoded images
    #[command(after_help = reshard::EXAMPLES)]
    Reshard(Box<reshard::ReshardArgs>),
    /// Reads every shard once and reports what is wrong: headers, labels, keys, checksums, images
    #[command(after_help = "Examples:
  saccade shards verify 'shards/fashion-train-*.tar'
  saccade shards verify --classes 1000 --json '/data/train-{0000..1023}.tar'
Every image is decoded whole, on all cores. A SHA256SUMS beside the shards is compared. --quick walks the headers alone.
The exit code is 1 where something is wrong.")]
    Verify(verify::VerifyArgs),
}

#[derive(Args)]
pub struct ShardsArgs {
    /// Paths, brace notation such as 'train-{0000..1023}.tar', globs, or addresses (https://, s3://, gs://)
    #[arg(required = true)]
    shards: Vec<String>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
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
            let indexes = shard::reindex(&args.shards, &Cache::from_env())?;
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
            let listings = shard::list(&args.shards, &Cache::from_env())?;
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
        ShardsVerb::Import(args) => import::run(*args),
        ShardsVerb::Reshard(args) => reshard::run(*args),
        ShardsVerb::Verify(args) => verify::run(args),
    }
}
