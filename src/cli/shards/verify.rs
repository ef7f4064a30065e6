//! `saccade shards verify`: what is wrong with shards, as lines or as JSON.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::progress::{LINE_EVERY, bytes, time_left};
use super::super::{say, say_json};
use super::{cores, workers};
use crate::run::text::count;
use crate::run::verify::{Read, Verified, Verify, verify};

#[derive(Args)]
pub struct VerifyArgs {
    /// Paths, brace notation such as 'train-{0000..1023}.tar', or globs; when they stand for all shards of a set that are
    /// there, shards are missed that SHA256SUMS lists beside them
    #[arg(required = true)]
    shards: Vec<String>,
    /// Walks the headers alone: no image is decoded, no checksum made
    #[arg(long)]
    quick: bool,
    /// Every sample must have a label, below N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    classes: Option<u32>,
    /// Threads that decode; one per core when left out
    #[arg(long, value_name = "W", value_parser = workers())]
    workers: Option<u16>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: VerifyArgs) -> Result<()> {
    let workers = args.workers.map_or_else(cores, usize::from);
    let wanted = Verify { shards: args.shards, quick: args.quick, classes: args.classes, workers };
    let mut progress = Progress::new();
    let verified = verify(&wanted, &mut |read: &Read| progress.show(read));
    progress.end();
    let verified = verified?;
    let told = if args.json { say_json(&verified) } else { tell(&verified) };
    let problems = verified.report.problems;
    // Whoever stops reading early still learns of it by the exit code.
    if problems > 0 { bail!("{problems} problems found") } else { told }
}

/// A bar on a terminal, a line every few seconds elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    said: Instant,
}

impl Progress {
    fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} shards, {msg}, {eta} left");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, begun: Instant::now(), said: Instant::now() }
    }

    fn show(&mut self, read: &Read) {
        let seconds = self.begun.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = format!("{:.0} MB/s", read.bytes as f64 / 1e6 / seconds);
        let (shards, of) = (read.shards as u64, read.of as u64);
        match &self.bar {
            Some(bar) => {
                bar.set_message(rate);
                bar.set_length(of);
                bar.set_position(shards);
            }
            None if self.said.elapsed() >= LINE_EVERY => {
                let left = time_left(of - shards, shards as f64 / seconds);
                // A closed standard error must not end the work.
                let _ = writeln!(io::stderr(), "{shards} of {of} shards, {rate}, {left} left");
                self.said = Instant::now();
            }
            None => {}
        }
    }

    fn end(&self) {
        self.bar.as_ref().inspect(|bar| bar.finish_and_clear());
    }
}

fn tell(verified: &Verified) -> Result<()> {
    let report = &verified.report;
    for shard in &report.shards {
        for problem in &shard.problems {
            let keys =
                if problem.keys.is_empty() { String::new() } else { format!(", first {}", problem.keys.join(" ")) };
            let detail = problem.detail.as_ref().map_or(String::new(), |detail| format!(": {detail}"));
            say(&format!("{}: {} x {}{keys}{detail}", shard.shard.display(), problem.count, problem.kind))?;
        }
    }
    report.remarks.iter().try_for_each(|remark| say(remark))?;
    let (shards, samples) =
        (report.shards.iter().filter(|shard| shard.was_read()).count(), count(report.samples as u64));
    say(&format!("{shards} shards, {samples} samples, {}, {} problems", bytes(report.bytes), report.problems))?;
    let (images, sums) = (count(verified.images_decoded), verified.checksums);
    let (seconds, rate) = (verified.seconds, verified.megabytes_per_second);
    say(&format!("{images} images decoded, {sums} checksums compared, {seconds:.1} s, {rate:.0} MB/s"))
}
