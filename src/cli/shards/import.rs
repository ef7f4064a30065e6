//! `saccade shards import`: how it looks while it goes on, and the account at its end.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::progress::{bytes, time_left};
use super::super::{say, say_json};
use super::reshard::size;
use super::{cores, workers};
use crate::run::import::{Account, Order, Step, import};
use crate::run::text::count;
use crate::shard::import::{Kind, Part, Wanted};

#[derive(Args)]
pub struct ImportArgs {
    /// A tar, a folder, or a list of paths and labels
    source: PathBuf,
    /// The folder to write: a path, or an address (s3://, gs://, or https:// of a server that takes files by PUT)
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the source is: imagenet-train, imagenet-validation, image-folder, list, folder or parquet; told by what it
    /// holds when left out
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// Shards are NAME-000000.tar and so on; the source's name when left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Samples in a shard, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    samples: Option<u64>,
    /// Bytes of a shard, at most, such as 500MB; 256MB when neither this nor --samples is given
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<u64>,
    /// The labels of ImageNet's validation pictures: the kit's file of numbers, one WordNet id a line, or Kaggle's
    /// LOC_val_solution.csv
    #[arg(long, value_name = "FILE")]
    ground_truth: Option<PathBuf>,
    /// WordNet ids in the order in which the ground truth counts, where it is another than that of ILSVRC2012's kit
    #[arg(long, value_name = "FILE")]
    synsets: Option<PathBuf>,
    /// Class names in label order, one a line, as NAME-classes.txt of another set; images of other classes are passed over
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Writes the samples in an order that this seed draws, at the price of reading the source in that order
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Decodes every image, to leave out those that cannot be decoded; JPEGs that lack their end are looked at in any case
    #[arg(long)]
    check_images: bool,
    /// Imports a share alone: part I of N, counted from 0
    #[arg(long, value_name = "I/N", value_parser = part)]
    part: Option<Part>,
    /// Threads that read; when left out one per core, and up to 16 while files are waited for and not all images are decoded
    #[arg(long, value_name = "W", value_parser = workers())]
    workers: Option<u16>,
    /// Writes over a set that is there already
    #[arg(long)]
    force: bool,
    /// Prints the account as JSON
    #[arg(long)]
    json: bool,
}

/// As large as is read at the full rate of a network's disk, and small enough to shuffle by.
const USUAL_SHARD_BYTES: u64 = 256_000_000;

/// More of them got hardly more of a disk.
const MOST_READERS: usize = 16;

pub fn run(args: ImportArgs) -> Result<()> {
    let Some(stem) = args.source.file_stem().or_else(|| args.name.as_deref().map(AsRef::as_ref)) else {
        bail!("{}: has no name that shards could have, give one: --name NAME", args.source.display());
    };
    let name = args.name.clone().unwrap_or_else(|| stem.to_string_lossy().replace('.', "_"));
    let most_bytes = args.size.or(args.samples.is_none().then_some(USUAL_SHARD_BYTES));
    let order = Order {
        from: Wanted {
            source: args.source,
            kind: args.kind,
            ground_truth: args.ground_truth,
            synsets: args.synsets,
            classes: args.classes,
            shuffle: args.shuffle,
            part: args.part.unwrap_or(Part::WHOLE),
        },
        out: args.out,
        name,
        most_samples: args.samples,
        most_bytes,
        check_images: args.check_images,
        workers: match args.workers {
            Some(workers) => (workers.into(), workers.into()),
            None if args.check_images => (cores(), cores()),
            None => (cores(), cores().max(MOST_READERS)),
        },
        force: args.force,
    };
    let mut progress = Progress { bar: None, begun: Instant::now(), taken: 0, before: 0, all: 0 };
    let account = import(&order, &mut |step| progress.show(&step));
    progress.bar.inspect(ProgressBar::finish_and_clear);
    let account = account?;
    if args.json { say_json(&account) } else { say(&table(&account)) }
}

/// A bar on a terminal, a line for each shard elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    /// Bytes of the source, by this call and by those before it.
    taken: u64,
    before: u64,
    all: u64,
}

impl Progress {
    fn show(&mut self, step: &Step) {
        match step {
            Step::Began { kind, bytes: all, classes, kept } => {
                (self.begun, self.all) = (Instant::now(), *all);
                if io::stderr().is_terminal() {
                    let style =
                        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left");
                    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
                    self.bar = Some(ProgressBar::new(*all).with_style(style));
                }
                let kept = if *kept > 0 { format!(", going on behind {kept} shards") } else { String::new() };
                self.line(&format!("{kind}: {classes} classes, about {}{kept}", bytes(*all)));
            }
            Step::Taken { bytes, before } => {
                if let Some(bar) = &self.bar {
                    if *before > self.before {
                        bar.set_position(*before);
                        bar.reset_eta();
                    }
                    bar.set_position(before + bytes);
                }
                (self.taken, self.before) = (*bytes, *before);
            }
            Step::Written(written) => {
                let seconds = self.begun.elapsed().as_secs_f64();
                let rate = self.taken as f64 / seconds.max(f64::MIN_POSITIVE);
                let (samples, size) = (count(written.samples), bytes(written.bytes));
                let left = time_left(self.all.saturating_sub(self.taken + self.before), rate);
                self.line(&format!(
                    "{}: {samples} samples, {size}; {:.0} MB/s, {left} left",
                    written.shard,
                    rate / 1e6
                ));
            }
        }
    }

    fn line(&self, text: &str) {
        // A closed standard error must not end the work.
        let write = || drop(writeln!(io::stderr(), "{text}"));
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

fn table(account: &Account) -> String {
    let reasons = |counts: Vec<(&str, u64)>| {
        let all: u64 = counts.iter().map(|(_, samples)| samples).sum();
        let each: Vec<String> =
            counts.iter().map(|(reason, samples)| format!("{} {reason}", count(*samples))).collect();
        let colon = if each.is_empty() { "" } else { ": " };
        format!("{}{colon}{}", count(all), each.join(", "))
    };
    let dropped = reasons(account.dropped.iter().map(|(reason, samples)| (reason.as_str(), *samples)).collect());
    let passed = reasons(account.passed_over.iter().map(|(reason, samples)| (*reason, *samples)).collect());
    let Account { kind, classes, shards, shards_kept, seconds, samples_per_second, megabytes_per_second, .. } = account;
    let (read, written) = (count(account.samples_in), count(account.samples_out));
    let kept = if *shards_kept > 0 { format!(", {shards_kept} of them from before") } else { String::new() };
    let remark = account.remark.as_ref().map(|remark| format!("{remark}\n")).unwrap_or_default();
    format!(
        "{kind}: {read} samples, {classes} classes\n\
         {remark}\
         {written} written, {} in {shards} shards{kept}\n\
         {dropped} left out\n\
         {passed} passed over\n\
         {seconds:.1} s, {samples_per_second:.0} samples/s, {megabytes_per_second:.0} MB/s",
        bytes(account.bytes_out),
    )
}

fn part(text: &str) -> Result<Part, String> {
    let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
    let part = numbers.map(|(number, of)| Part { number, of }).filter(|part: &Part| part.number < part.of);
    part.ok_or_else(|| "write I/N, I from 0 to N - 1".into())
}
