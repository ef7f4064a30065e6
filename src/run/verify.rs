//! Shards → everything that is wrong with them: each is read once, its checksum made, and every image decoded whole.
//!
//! One thread reads, one per core decodes, and what they find is put together in the samples' order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, Sender, unbounded};
use serde::Serialize;

use super::belt::{Belt, Turn};
use crate::pipeline::Reason;
use crate::pipeline::augment::Crop;
use crate::pipeline::decode::{Decoder, Unusable, header};
use crate::pipeline::{DecodeConfig, JpegDecoder};
use crate::shard::{
    Cache, Examined, ProblemKind, Report, Sum, Sums, Through, examine_through, expand, report, walk_all,
};

/// Images read and waiting to be decoded.
const MOST_WAITING_BYTES: u64 = 256 << 20;

/// What is to be verified, and how far.
#[derive(Clone, Debug)]
pub struct Verify {
    pub shards: Vec<String>,
    /// Reads headers alone.
    pub quick: bool,
    /// Every sample must have a label below this.
    pub classes: Option<u32>,
    pub workers: usize,
}

/// A report, and what it took.
#[derive(Debug, Serialize)]
pub struct Verified {
    #[serde(flatten)]
    pub report: Report,
    /// Images that were decoded, or that failed to.
    pub images_decoded: u64,
    /// Shards compared with a `SHA256SUMS` beside them.
    pub checksums: usize,
    pub seconds: f64,
    pub megabytes_per_second: f64,
}

/// A shard that was read.
pub struct Read<'a> {
    pub shard: &'a Path,
    /// How many of all shards are read by now.
    pub shards: usize,
    pub of: usize,
    /// Bytes of these.
    pub bytes: u64,
}

/// What comes to the taker, in order.
enum Found {
    /// Of the shard that comes next.
    Image {
        key: Box<str>,
        wrong: Option<Unusable>,
    },
    Shard {
        number: usize,
        examined: Box<Examined>,
    },
    End,
}

/// An image on its way to a decoder.
struct Job<'b> {
    turn: Turn<'b, Found>,
    key: Box<str>,
    bytes: Vec<u8>,
}

/// Verifies; `tell` hears of every shard that was read.
///
/// # Errors
/// Patterns that stand for nothing, a list of checksums that cannot be read; what is wrong with a shard itself is part of
/// the report.
pub fn verify(wanted: &Verify, tell: &mut dyn FnMut(&Read)) -> Result<Verified> {
    let start = Instant::now();
    let cache = Cache::from_env();
    let paths = expand(&wanted.shards, &cache)?;
    let mut beside = Sums::new(&cache);
    let (examined, images_decoded, checksums) = if wanted.quick {
        (walk_all(&paths, &cache), 0, 0)
    } else {
        let sums = paths.iter().map(|path| beside.of(path)).collect::<Result<Vec<_>, _>>()?;
        let checksums = sums.iter().filter(|sum| matches!(sum, Sum::Listed(_))).count();
        let (examined, images) = read_all(&paths, &cache, &sums, wanted.workers, tell)?;
        (examined, images, checksums)
    };
    let mut report = report(examined, wanted.classes);
    report.add_beside(&paths, &mut beside)?;
    if checksums > 0 && checksums < paths.len() {
        let others = paths.len() - checksums;
        report.remarks.push(format!("{others} shards are in no SHA256SUMS, so their checksums were not compared"));
    }
    let seconds = start.elapsed().as_secs_f64();
    let megabytes_per_second = report.bytes as f64 / 1e6 / seconds;
    Ok(Verified { report, images_decoded, checksums, seconds, megabytes_per_second })
}

fn read_all(
    paths: &[PathBuf],
    cache: &Cache,
    sums: &[Sum],
    workers: usize,
    tell: &mut dyn FnMut(&Read),
) -> Result<(Vec<Examined>, u64)> {
    let belt = Belt::new(MOST_WAITING_BYTES);
    thread::scope(|scope| {
        let (jobs, waiting) = unbounded();
        let named = |name: String| thread::Builder::new().name(name);
        for number in 0..workers {
            let waiting = waiting.clone();
            let started = named(format!("saccade-verify-{number}")).spawn_scoped(scope, move || decode(&waiting));
            // Those that were started end when nothing can come any more, which dropping `jobs` says.
            started.context("threads of --workers cannot be started")?;
        }
        let reading = || read(&belt, jobs, paths, cache, sums);
        named("saccade-read".into()).spawn_scoped(scope, reading).context("a thread to read cannot be started")?;
        let taken = take(&belt, paths, tell);
        // The scope waits for the threads, which end with the belt.
        belt.close();
        taken
    })
}

/// The reader's life: every shard from end to end, its images to the decoders.
fn read<'b>(belt: &'b Belt<Found>, jobs: Sender<Job<'b>>, paths: &[PathBuf], cache: &Cache, sums: &[Sum]) {
    for (shard, (path, sum)) in paths.iter().zip(sums).enumerate() {
        let mut take = |key: &str, bytes: &[u8]| {
            if !belt.wait() {
                return false;
            }
            let turn = belt.begin(bytes.len() as u64);
            jobs.send(Job { turn, key: key.into(), bytes: bytes.to_vec() }).is_ok()
        };
        let examined = Box::new(examine_through(path, cache, &mut Through { sum, take: &mut take }));
        if !belt.wait() {
            return;
        }
        belt.begin(0).finish(Found::Shard { number: shard, examined }, 0);
    }
    belt.begin(0).finish(Found::End, 0);
}

/// A decoder's life: one image after the other, until no more can come.
fn decode(jobs: &Receiver<Job>) {
    let new = || Decoder::new(DecodeConfig { jpeg: JpegDecoder::Own, smooth_chroma: false });
    let mut decoder = new();
    for Job { turn, key, mut bytes } in jobs {
        let tried = catch_unwind(AssertUnwindSafe(|| decode_whole(&mut decoder, &mut bytes)));
        let wrong = tried.unwrap_or_else(|_| {
            decoder = new();
            Some(Unusable { reason: Reason::Panicked, detail: String::new() })
        });
        turn.finish(Found::Image { key, wrong }, 0);
    }
}

fn decode_whole(decoder: &mut Decoder, bytes: &mut Vec<u8>) -> Option<Unusable> {
    let header = match header(bytes) {
        Ok(header) => header,
        Err(unusable) => return Some(unusable),
    };
    let whole = Crop::whole(header.width, header.height);
    decoder.decode(bytes, &header, whole, u32::MAX).err()
}

/// Puts together what was found of each shard, and counts the images.
fn take(belt: &Belt<Found>, paths: &[PathBuf], tell: &mut dyn FnMut(&Read)) -> Result<(Vec<Examined>, u64)> {
    let (mut done, mut images, mut bytes) = (Vec::with_capacity(paths.len()), 0, 0);
    let mut bad: Vec<(Box<str>, Unusable)> = Vec::new();
    loop {
        match belt.take().context("a thread ended before its work was done")? {
            Found::Image { key, wrong } => {
                images += 1;
                bad.extend(wrong.map(|wrong| (key, wrong)));
            }
            Found::Shard { number, examined } => {
                let mut examined = *examined;
                for (key, wrong) in bad.drain(..) {
                    let reason = Some(wrong.reason.name().to_owned());
                    examined.report.add(ProblemKind::BadImage, Some(&key), reason);
                }
                bytes += examined.report.bytes;
                done.push(examined);
                let shard = paths.get(number).map_or(Path::new(""), PathBuf::as_path);
                tell(&Read { shard, shards: done.len(), of: paths.len(), bytes });
            }
            Found::End => return Ok((done, images)),
        }
    }
}
