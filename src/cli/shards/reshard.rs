//! The verb `shards reshard`: what was typed to what is made, and how that looks while it goes on.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::super::progress::{LINE_EVERY, bytes, time_left};
use super::super::{say, say_json};
use super::{ShardsArgs, cores, workers};
use crate::pipeline::shrink::{Chroma, Coding, Fit};
use crate::run::reshard::pick::{Classes, Duplicates, Pick, Share};
use crate::run::reshard::treat::{ImageForm, Treatment};
use crate::run::reshard::{Account, Done, Event, Layout, Reshard, reasons, reshard};
use crate::run::text::count;

pub const EXAMPLES: &str = "Examples:
  saccade shards reshard --shuffle 1 '/data/train-{0000..1023}.tar' --out /fast/shuffled
  saccade shards reshard --shuffle 1 --shards 1024 'train-*.tar' --out /fast/1024
  saccade shards reshard --size 500MB --held-out 0.02 'a-*.tar' 'b-*.tar' --name both --out merged
  saccade shards reshard --classes 0-99 --per-class 50 --samples 1000 '/data/train-*.tar' --out few
  saccade shards reshard --jpeg short-side=256 --quality 90 '/data/train-*.tar' --out /fast/train-256
  saccade shards reshard --decode max-side=256 '/data/train-*.tar' --out /fast/train-raw
  saccade shards reshard --size 500MB '/data/train-*.tar' --out s3://bucket/set
Without --shuffle, --samples, --size, --shards, --held-out and --name each shard becomes one of the same name. All members of a
sample are kept, in their order. Samples without an image, and those whose image is damaged, are left out and listed
beside the shards. A call that was interrupted goes on where its last finished shard ends: repeat it.";

#[derive(Args)]
pub struct ReshardArgs {
    #[command(flatten)]
    from: ShardsArgs,
    /// The folder to write: a path, or an address (s3://, gs://, or https:// of a server that takes files by PUT)
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How the new shards' names begin; as those that are read begin, when left out
    #[arg(long, help_heading = "Shards")]
    name: Option<String>,
    /// Samples in a shard, at most; as many as the shards that are read have, when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Shards")]
    samples: Option<u64>,
    /// Bytes of a shard, at most, such as 500MB or 1GiB
    #[arg(long, value_name = "BYTES", value_parser = size, help_heading = "Shards")]
    size: Option<u64>,
    /// So many shards, among which the samples go as evenly as may be; what is left out by its image is missing from its own
    /// shard, and a shard of which nothing is left is not made. A set that is held out gets as many as make them as large
    #[arg(long = "shards", value_name = "N", value_parser = clap::value_parser!(u64).range(1..),
        conflicts_with_all = ["samples", "size"], help_heading = "Shards")]
    shards_out: Option<u64>,
    /// Puts all samples into one order, drawn by this seed
    #[arg(long, value_name = "SEED", help_heading = "Shards")]
    shuffle: Option<u64>,
    /// Writes a set NAME-held-out beside NAME-train, with about this share of the samples, chosen by their keys
    #[arg(long, value_name = "SHARE", help_heading = "Shards")]
    held_out: Option<Share>,
    /// What to do when a key stands in two shards: stop, or take the sample of the shard that was named first, even if it
    /// is damaged and then left out
    #[arg(long, value_enum, default_value = "refused", help_heading = "Shards")]
    duplicates: DuplicatesArg,
    /// Takes samples of these classes alone, such as 0,5-9
    #[arg(long, value_name = "CLASSES", help_heading = "Samples")]
    classes: Option<Classes>,
    /// Takes samples alone whose keys are in this file, one a line
    #[arg(long, value_name = "FILE", help_heading = "Samples")]
    keys: Option<PathBuf>,
    /// Takes at most N samples of each class, the first in the order in which they are written
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Samples")]
    per_class: Option<u64>,
    /// Takes images alone whose shorter side has at least N pixels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Samples")]
    least_side: Option<u32>,
    /// Decodes images, and shrinks them until their longer or shorter side has at most N pixels
    #[arg(long, value_name = "max-side=N|short-side=N", help_heading = "Images")]
    decode: Option<Fit>,
    /// Shrinks images likewise, and writes them as JPEGs
    #[arg(long, value_name = "max-side=N|short-side=N", conflicts_with = "decode", help_heading = "Images")]
    jpeg: Option<Fit>,
    /// Of those JPEGs, on libjpeg's scale
    #[arg(long, value_name = "1-100", default_value_t = 90, requires = "jpeg", help_heading = "Images",
        value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// Colours of those JPEGs: one for four pixels, or one for each
    #[arg(long, value_enum, default_value = "420", requires = "jpeg", help_heading = "Images")]
    chroma: ChromaArg,
    /// Takes EXIF and XMP out of JPEGs, which are otherwise left as they are
    #[arg(long, help_heading = "Images")]
    strip_exif: bool,
    /// Decodes images that are left as they are too, to leave out those that cannot be decoded
    #[arg(long, help_heading = "Images")]
    check_images: bool,
    /// Leaves json members out
    #[arg(long, help_heading = "Images")]
    drop_json: bool,
    /// Threads that read and decode; one per core when left out
    #[arg(long, value_name = "W", value_parser = workers())]
    workers: Option<u16>,
    /// Memory that a shuffle may use, such as 8GB, beside 300 MB for the shards that are made; half of what is free when left out
    #[arg(long, value_name = "BYTES", value_parser = size)]
    memory: Option<u64>,
    /// Writes over shards that are there already
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum DuplicatesArg {
    Refused,
    First,
}

#[derive(Clone, Copy, ValueEnum)]
enum ChromaArg {
    #[value(name = "420")]
    Quarter,
    #[value(name = "444")]
    Full,
}

/// Bytes, with a unit or without.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => 0,
    };
    let number: Option<u64> = digits.trim().parse().ok();
    let bytes = number.and_then(|number| number.checked_mul(unit)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "write bytes as 500MB, 1GiB or a plain number".into())
}

impl ReshardArgs {
    fn wanted(self) -> (Reshard, bool) {
        let chroma = match self.chroma {
            ChromaArg::Quarter => Chroma::Quarter,
            ChromaArg::Full => Chroma::Full,
        };
        let coding = Coding { quality: self.quality, chroma };
        let jpeg = self.jpeg.map(|fit| ImageForm::Jpeg(fit, coding));
        let image = self.decode.map(ImageForm::Decoded).or(jpeg).unwrap_or_default();
        let Self { strip_exif, check_images, drop_json, .. } = self;
        let treatment = Treatment { image, strip_exif, check_images, drop_json, least_side: self.least_side };
        let duplicates = match self.duplicates {
            DuplicatesArg::Refused => Duplicates::Refused,
            DuplicatesArg::First => Duplicates::First,
        };
        let Self { name, samples, size, shards_out: shards, shuffle, held_out, .. } = self;
        let layout = Layout { name, most_samples: samples, most_bytes: size, shards, shuffle, held_out, duplicates };
        let Self { classes, keys, per_class, memory, force, .. } = self;
        let pick = Pick { classes, keys, per_class };
        let workers = self.workers.map_or_else(cores, usize::from);
        let shards = self.from.shards;
        (Reshard { shards, out: self.out, layout, pick, treatment, workers, memory, force }, self.from.json)
    }
}

pub fn run(args: ReshardArgs) -> Result<()> {
    let (wanted, json) = args.wanted();
    let mut progress = Progress::new();
    let account = reshard(&wanted, &mut |event| progress.show(event));
    progress.end();
    let account = account?;
    if json { say_json(&account) } else { say(&table(&account)) }
}

/// A bar on a terminal, elsewhere a line for each shard.
struct Progress {
    bar: Option<ProgressBar>,
    samples: u64,
    /// Samples that were settled when this call began, and when that was.
    begun: (u64, Instant),
    settled: u64,
    /// When the scatter last said how far it is.
    said: Instant,
}

/// A bar is drawn no more often than this.
const BAR_EVERY: Duration = Duration::from_millis(100);

impl Progress {
    fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} samples, {per_sec}, {eta} left {msg}");
            ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, samples: 0, begun: (0, Instant::now()), settled: 0, said: Instant::now() }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Begun { samples, settled, kept } => {
                (self.samples, self.settled, self.begun) = (*samples, *settled, (*settled, Instant::now()));
                if *kept > 0 {
                    let (settled, samples) = (count(*settled), count(*samples));
                    self.line(&format!("going on after {kept} shards, {settled} of {samples} samples"));
                }
                self.restart(*samples, *settled);
            }
            Event::Scattered { samples, scattered } => self.scattered(*samples, *scattered),
            Event::Settled(settled) => {
                self.settled = *settled;
                if let Some(bar) = &self.bar
                    && self.said.elapsed() >= BAR_EVERY
                {
                    bar.set_position(*settled);
                    self.said = Instant::now();
                }
            }
            Event::Shard(done) => self.shard(done),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn restart(&self, samples: u64, settled: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message("");
            bar.set_length(samples);
            bar.set_position(settled);
            bar.reset_eta();
        }
    }

    fn scattered(&mut self, samples: u64, scattered: u64) {
        if scattered == samples {
            // What comes now is the second pass.
            self.begun.1 = Instant::now();
            return self.restart(self.samples, self.begun.0);
        }
        match &self.bar {
            Some(bar) if self.said.elapsed() >= BAR_EVERY => {
                bar.set_message("in the first of two passes");
                bar.set_length(samples);
                bar.set_position(scattered);
                self.said = Instant::now();
            }
            None if self.said.elapsed() >= LINE_EVERY => {
                let (scattered, samples) = (count(scattered), count(samples));
                self.line(&format!("first of two passes: {scattered} of {samples} samples"));
                self.said = Instant::now();
            }
            _ => {}
        }
    }

    fn shard(&self, done: &Done) {
        let (name, samples, dropped) = (done.shard.display(), count(done.samples), done.dropped);
        let seconds = self.begun.1.elapsed().as_secs_f64();
        let rate = self.settled.saturating_sub(self.begun.0) as f64 / seconds.max(f64::MIN_POSITIVE);
        let left = time_left(self.samples.saturating_sub(self.settled), rate);
        let size = bytes(done.bytes);
        self.line(&format!("{name}: {samples} samples, {dropped} left out, {size}; {rate:.0} samples/s, {left} left"));
    }

    fn line(&self, text: &str) {
        match &self.bar {
            // A closed standard error must not end the work.
            Some(bar) => bar.suspend(|| drop(writeln!(io::stderr(), "{text}"))),
            None => drop(writeln!(io::stderr(), "{text}")),
        }
    }
}

fn table(account: &Account) -> String {
    let Account { shards_in, shards_out, samples_in, samples_out, changed, dropped, filtered, .. } = account;
    let because = |counts| {
        Some(reasons(counts)).filter(|text| !text.is_empty()).map_or(String::new(), |text| format!(": {text}"))
    };
    let [all_dropped, all_filtered]: [u64; 2] = [dropped, filtered].map(|counts| counts.values().sum());
    let (seconds, rate) = (account.seconds, account.samples_per_second);
    let mut lines = vec![
        format!("{shards_in} shards, {} samples, {} read", count(*samples_in), bytes(account.bytes_in)),
        format!(
            "{shards_out} shards, {} samples, {} written, {} of them with a changed image",
            count(*samples_out),
            bytes(account.bytes_out),
            count(*changed)
        ),
    ];
    if account.sets.len() > 1 {
        let of = |set: &crate::run::reshard::Set| {
            format!("  {}: {} shards, {} samples, {}", set.name, set.shards, count(set.samples), bytes(set.bytes))
        };
        lines.extend(account.sets.iter().map(of));
    }
    lines.push(format!("{} left out{}", count(all_dropped), because(dropped)));
    lines.push(format!("{} not wanted{}", count(all_filtered), because(filtered)));
    if account.unknown_keys > 0 {
        lines.push(format!("{} of the keys asked for are in none of the shards", count(account.unknown_keys)));
    }
    lines.push(format!("{seconds:.1} s, {rate:.0} samples/s"));
    lines.join("\n")
}
