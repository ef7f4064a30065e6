//! Shards → the same samples in other shards, decoded and shrunk, so that reading them later costs no decoding.
//!
//! Workers take the samples in order and finish them in any; one writer puts them in order again. So the output is the
//! same for any number of workers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::belt::Belt;
use crate::pipeline::Reason;
use crate::pipeline::decode::{Unusable, header};
use crate::pipeline::shrink::{Fit, Shrinker};
use crate::shard::write::{ShardWriter, free_bytes, refuse};
use crate::shard::{Cache, Listing, Member, Sample, Source, list};

/// Members that are taken over as they are, beside the image.
const KEPT: [&str; 2] = ["cls", "json"];
/// What the image becomes.
const IMAGE: &str = "ppm";
/// The list of samples left out, in the folder of the shards.
const DROPPED: &str = "dropped.jsonl";
/// Samples read and waiting to be written: enough to go on working while a shard is brought to the disk.
const MOST_WAITING_BYTES: u64 = 256 << 20;
/// As for an image in a set: more is a slip.
const MOST_SAMPLE_BYTES: u64 = 1 << 30;
/// A tar's header and, on average, half a block of padding.
const MEMBER_BYTES: u64 = 512 + 256;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Reshard {
    pub shards: Vec<String>,
    pub out: PathBuf,
    pub fit: Fit,
    pub workers: usize,
    /// Writes over shards that are there already.
    pub force: bool,
}

/// What became of the samples: `samples_in` is `samples_out` and all of `dropped`.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Account {
    pub shards: usize,
    pub samples_in: u64,
    pub samples_out: u64,
    /// Of those written, how many were larger than wanted.
    pub shrunk: u64,
    /// Samples left out, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Sizes of the shards read and written.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub seconds: f64,
    pub samples_per_second: f64,
}

/// A line of the list of samples left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    pub key: String,
    pub shard: PathBuf,
    pub reason: String,
    pub detail: String,
}

/// A shard that is done.
pub struct Done<'a> {
    pub shard: &'a Path,
    pub samples: u64,
    pub dropped: usize,
    pub bytes: u64,
}

/// What became of a sample.
enum Outcome {
    Taken(Taken),
    Dropped(Dropped),
}

/// A sample as it will be written: its members by extension.
struct Taken {
    key: String,
    members: Vec<(&'static str, Vec<u8>)>,
    shrunk: bool,
}

/// A shard and its place in the output.
struct Job {
    from: PathBuf,
    to: PathBuf,
    samples: usize,
}

impl Outcome {
    fn bytes(&self) -> u64 {
        match self {
            Self::Taken(taken) => taken.members.iter().map(|(_, data)| data.len() as u64).sum(),
            Self::Dropped(_) => 0,
        }
    }
}

/// Decodes, shrinks and writes; `tell` hears of every finished shard.
///
/// # Errors
/// When a shard is damaged, when an output is there already or there is no room for it, or when the disk fails. Shards
/// finished before stay.
pub fn reshard(wanted: &Reshard, tell: &mut dyn FnMut(&Done)) -> Result<Account> {
    let start = Instant::now();
    let cache = Cache::from_env();
    let listings = list(&wanted.shards)?;
    if listings.iter().all(|listing| listing.samples == 0) {
        bail!("no samples in {} shards: name files `KEY.jpg` and, for a label, `KEY.cls`", listings.len());
    }
    let jobs = jobs(wanted, &listings)?;
    refuse_without_room(wanted, &jobs, &cache)?;
    fs::create_dir_all(&wanted.out)
        .with_context(|| format!("{}: cannot be made; choose another --out", wanted.out.display()))?;

    let mut account = Account { shards: jobs.len(), ..Account::default() };
    account.bytes_in = listings.iter().map(|listing| listing.bytes).sum();
    account.samples_in = listings.iter().map(|listing| listing.samples as u64).sum();
    let account = take_all(wanted, &jobs, &cache, account, tell)?;
    if account.samples_out == 0 {
        bail!("no sample of {} could be taken over; {} says why", account.samples_in, list_of(wanted).display());
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Account { seconds, samples_per_second: account.samples_in as f64 / seconds, ..account })
}

fn take_all(
    wanted: &Reshard,
    jobs: &[Job],
    cache: &Cache,
    account: Account,
    tell: &mut dyn FnMut(&Done),
) -> Result<Account> {
    let belt = Belt::new(MOST_WAITING_BYTES);
    let line = Mutex::new(Line { jobs, cache, current: None, place: 0 });
    let mut writing = Writing { wanted, cache, belt: &belt, account };
    thread::scope(|scope| {
        let spawn = |number: usize| {
            let thread = thread::Builder::new().name(format!("saccade-reshard-{number}"));
            thread.spawn_scoped(scope, || work(&belt, &line, wanted.fit)).map(drop)
        };
        let started = (0..wanted.workers).try_for_each(spawn).context("threads of --workers cannot be started");
        let written = started.and_then(|()| jobs.iter().try_for_each(|job| writing.shard(job, tell)));
        // The scope waits for the workers, which end with the belt.
        belt.close();
        written
    })?;
    Ok(writing.account)
}

/// Each shard's place in the output, all of them free.
fn jobs(wanted: &Reshard, listings: &[Listing]) -> Result<Vec<Job>> {
    let mut places: BTreeMap<PathBuf, &Path> = BTreeMap::new();
    let mut jobs = Vec::with_capacity(listings.len());
    for listing in listings {
        let from = listing.shard.as_path();
        let name = from.file_name().with_context(|| format!("{}: has no file name", from.display()))?;
        let to = wanted.out.join(name);
        if let Some(other) = places.insert(to.clone(), from) {
            bail!("{}: named as {} is, and both would become {}", from.display(), other.display(), to.display());
        }
        if is_same_file(from, &to) {
            bail!("{}: would be written over itself; choose another --out", from.display());
        }
        if !wanted.force {
            refuse(&to)?;
        }
        jobs.push(Job { from: from.to_owned(), to, samples: listing.samples });
    }
    Ok(jobs)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// Reads a few images' headers to estimate how many bytes will be written.
fn refuse_without_room(wanted: &Reshard, jobs: &[Job], cache: &Cache) -> Result<()> {
    let bytes = estimate(wanted.fit, jobs, cache)?;
    let replaced: u64 = jobs.iter().filter_map(|job| Some(fs::metadata(&job.to).ok()?.len())).sum();
    // A shard is whole before the one that it replaces goes.
    let needed = bytes.saturating_sub(replaced).max(bytes / jobs.len().max(1) as u64);
    // A file system that does not tell is found full, if it is, by writing to it.
    let free = free_bytes(&wanted.out).unwrap_or(u64::MAX);
    if free < needed {
        let (needed, free) = (needed.div_ceil(1_000_000), free / 1_000_000);
        bail!("{}: about {needed} MB are needed, {free} MB are free; make room or shrink more", wanted.out.display());
    }
    Ok(())
}

/// Bytes of all shards to be written, from headers that lie evenly over them.
fn estimate(fit: Fit, jobs: &[Job], cache: &Cache) -> Result<u64> {
    /// The mean of so many differs from that of all by a few hundredths.
    const LOOKED_AT: usize = 256;
    let all: usize = jobs.iter().map(|job| job.samples).sum();
    let stride = all.div_ceil(LOOKED_AT).max(1);
    let (mut before, mut looked_at, mut bytes) = (0, 0u64, 0u64);
    for job in jobs {
        let first = (stride - before % stride) % stride;
        before += job.samples;
        if first >= job.samples {
            continue;
        }
        let source = Source::open(&job.from, cache)?;
        for sample in (first..job.samples).step_by(stride).filter_map(|place| source.table().sample(place)) {
            looked_at += 1;
            bytes += kept(&sample).map(|member| member.length + MEMBER_BYTES).sum::<u64>();
            let image = sample.image().filter(|image| image.length <= MOST_SAMPLE_BYTES);
            let image = image.map(|image| source.read(&sample, image)).transpose()?;
            let header = image.and_then(|image| header(&image).ok());
            bytes += header.map_or(0, |header| fit.pixel_bytes(&header) + MEMBER_BYTES);
        }
    }
    let mean = bytes as f64 / looked_at.max(1) as f64;
    Ok((mean * all as f64) as u64)
}

fn kept<'t>(sample: &Sample<'t>) -> impl Iterator<Item = Member<'t>> + use<'t> {
    sample.members().filter(|member| KEPT.contains(&member.extension))
}

/// The samples of all shards, one after the other.
struct Line<'a> {
    /// From the shard that is being read on.
    jobs: &'a [Job],
    cache: &'a Cache,
    current: Option<Arc<Source>>,
    place: usize,
}

impl Line<'_> {
    /// The next sample's shard and its place there.
    fn next(&mut self) -> Option<Result<(Arc<Source>, usize)>> {
        while self.jobs.first()?.samples == self.place {
            (self.jobs, self.current, self.place) = (self.jobs.get(1..)?, None, 0);
        }
        let source = self.open(self.jobs.first()?);
        match source {
            Ok(_) => self.place += 1,
            Err(_) => self.jobs = &[],
        }
        Some(source.map(|source| (source, self.place - 1)))
    }

    fn open(&mut self, job: &Job) -> Result<Arc<Source>> {
        if let Some(source) = &self.current {
            return Ok(Arc::clone(source));
        }
        let source = Arc::new(Source::open(&job.from, self.cache)?);
        if source.table().len() != job.samples {
            bail!("{}: changed meanwhile, start again once it is whole", job.from.display());
        }
        self.current = Some(Arc::clone(&source));
        Ok(source)
    }
}

/// The writer would wait for ever for what a worker that panicked has not made.
struct CloseOnPanic<'b>(&'b Belt<Result<Outcome>>);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}

/// A worker's life: the next sample, until there is none.
fn work(belt: &Belt<Result<Outcome>>, line: &Mutex<Line>, fit: Fit) {
    let _guard = CloseOnPanic(belt);
    let mut shrinker = Shrinker::default();
    loop {
        // Locked while it waits for room, as all others would have to wait too; then turns are in the samples' order.
        let mut next = line.lock().unwrap_or_else(PoisonError::into_inner);
        if !belt.wait() {
            return;
        }
        let (source, place) = match next.next() {
            Some(Ok(job)) => job,
            Some(Err(error)) => return belt.begin(0).finish(Err(error), 0),
            None => return,
        };
        let Some(sample) = source.table().sample(place) else { return belt.close() };
        let turn = belt.begin(bytes_of(&sample));
        drop(next);
        let outcome = take_over(&source, &sample, fit, &mut shrinker);
        let bytes = outcome.as_ref().map_or(0, Outcome::bytes);
        turn.finish(outcome, bytes);
    }
}

fn bytes_of(sample: &Sample<'_>) -> u64 {
    sample.image().into_iter().chain(kept(sample)).map(|member| member.length).sum()
}

fn take_over(source: &Source, sample: &Sample<'_>, fit: Fit, shrinker: &mut Shrinker) -> Result<Outcome> {
    let dropped = |reason: &str, detail: String| {
        let (key, shard, reason) = (sample.key.to_owned(), source.path().to_owned(), reason.to_owned());
        Ok(Outcome::Dropped(Dropped { key, shard, reason, detail }))
    };
    let Some(image) = sample.image() else {
        return dropped("no_image", "no member of the sample is an image".into());
    };
    let bytes = bytes_of(sample);
    if bytes > MOST_SAMPLE_BYTES {
        return dropped(Reason::TooLarge.name(), format!("{bytes} bytes"));
    }
    let mut taken = Taken { key: sample.key.to_owned(), members: Vec::new(), shrunk: false };
    for member in sample.members() {
        if member == image {
            let mut ppm = Vec::new();
            match shrink(shrinker, &mut source.read(sample, member)?, fit, &mut ppm) {
                Ok(shrunk) => taken.shrunk = shrunk,
                Err(unusable) => return dropped(unusable.reason.name(), unusable.detail),
            }
            taken.members.push((IMAGE, ppm));
        } else if let Some(extension) = KEPT.into_iter().find(|kept| *kept == member.extension) {
            taken.members.push((extension, source.read(sample, member)?));
        }
    }
    Ok(Outcome::Taken(taken))
}

/// A decoder that panics has met a bad sample.
fn shrink(shrinker: &mut Shrinker, bytes: &mut Vec<u8>, fit: Fit, into: &mut Vec<u8>) -> Result<bool, Unusable> {
    catch_unwind(AssertUnwindSafe(|| shrinker.shrink(bytes, fit, into))).unwrap_or_else(|cause| {
        *shrinker = Shrinker::default();
        let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let detail = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Unusable { reason: Reason::Panicked, detail })
    })
}

/// The one writer, which takes what the workers made.
struct Writing<'a> {
    wanted: &'a Reshard,
    cache: &'a Cache,
    belt: &'a Belt<Result<Outcome>>,
    account: Account,
}

impl Writing<'_> {
    fn shard(&mut self, job: &Job, tell: &mut dyn FnMut(&Done)) -> Result<()> {
        let mut shard = ShardWriter::create(&job.to, self.wanted.force)?;
        let mut dropped = Vec::new();
        for _ in 0..job.samples {
            match self.belt.take().context("a worker ended before its work was done")?? {
                Outcome::Dropped(sample) => dropped.push(sample),
                Outcome::Taken(taken) => {
                    for (extension, data) in &taken.members {
                        shard.add(&taken.key, extension, data)?;
                    }
                    self.account.shrunk += u64::from(taken.shrunk);
                }
            }
        }
        // Before the shard is in its place, so that whoever finds the shard finds what is missing from it.
        note(&list_of(self.wanted), &job.from, &dropped)?;
        let bytes = shard.finish(self.cache)?;
        let samples = (job.samples - dropped.len()) as u64;
        self.account.samples_out += samples;
        self.account.bytes_out += bytes;
        tell(&Done { shard: &job.to, samples, dropped: dropped.len(), bytes });
        for sample in dropped {
            *self.account.dropped.entry(sample.reason).or_default() += 1;
        }
        Ok(())
    }
}

fn list_of(wanted: &Reshard) -> PathBuf {
    wanted.out.join(DROPPED)
}

/// Puts a shard's dropped samples into the list, in place of what it said of the shard before. Other processes may be
/// writing other shards into the same folder.
fn note(path: &Path, shard: &Path, dropped: &[Dropped]) -> Result<()> {
    let failed = || format!("{}: cannot be written", path.display());
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = opened.with_context(failed)?;
    // Some network file systems have no locks.
    let _ = file.lock();
    let mut before = String::new();
    file.read_to_string(&mut before).with_context(|| format!("{}: not a list of samples; move it", path.display()))?;
    let is_of_another = |line: &&str| {
        let parsed = serde_json::from_str::<Dropped>(line);
        // A line without its end was being written by a process that was killed.
        line.ends_with('\n') && parsed.map_or(true, |line| line.shard.file_name() != shard.file_name())
    };
    let mut text: String = before.split_inclusive('\n').filter(is_of_another).collect();
    let is_rewritten = text != before;
    if is_rewritten {
        file.rewind().with_context(failed)?;
    } else {
        text.clear();
    }
    for sample in dropped {
        text += &serde_json::to_string(sample)?;
        text.push('\n');
    }
    file.write_all(text.as_bytes()).with_context(failed)?;
    if is_rewritten {
        // Cut only when all of it is written: a full disk loses no line.
        file.set_len(text.len() as u64).with_context(failed)?;
    }
    file.sync_data().with_context(failed)
}
