//! What people have on disk → shards: samples are found in order by one at a time, read and looked at by many, and written
//! in order by one.
//!
//! A sample is looked at as far as its header and, of a JPEG, its end: what is no image, or was cut short, is left out and
//! listed. Whether all of it decodes is for `run/verify.rs` to tell, or for workers that are told to look.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::belt::{Belt, GROUP_BYTES, GROUP_SAMPLES};
use crate::pipeline::decode::{Unusable, header};
use crate::pipeline::shrink::Shrinker;
use crate::shard::Cache;
use crate::shard::import::{Import, ImportError, Item, Keys, Kind, Offered, Part, Unread, Wanted};
use crate::shard::remote::is_remote;
use crate::shard::write::{Destination, Dropped, SetAccount, SetSpec, SetWriter, Split, Written, free_bytes};

/// Samples read and waiting to be written. More of them are not faster, and leave the processor's cache.
const MOST_WAITING_BYTES: u64 = 32 << 20;
/// And so many for each worker, whose turn may be a large picture's.
const WORKER_BYTES: u64 = 16 << 20;
/// Two headers, the label and, on average, half a block of padding.
const AROUND_BYTES: u64 = 3 * 512 + 256;
/// Of a sample, where nobody has counted them.
const USUAL_BYTES: u64 = 100_000;
const END_OF_JPEG: [u8; 2] = [0xFF, 0xD9];
/// Why a sample is left out that came before.
const DUPLICATE: &str = "duplicate_key";

/// What is to be made of what.
#[derive(Clone, Debug)]
pub struct Order {
    pub from: Wanted,
    pub out: PathBuf,
    /// Shards are `NAME-000000.tar` and so on.
    pub name: String,
    pub most_samples: Option<u64>,
    pub most_bytes: Option<u64>,
    /// Decodes all images, not only JPEGs without an end, to leave out those that cannot be.
    pub check_images: bool,
    /// Threads from the start, and the most of them: there are more while files are waited for.
    pub workers: (usize, usize),
    /// Writes over a set that is there already.
    pub force: bool,
}

/// What became of the samples: `samples_in` is `samples_out` and all of `dropped`. Passed over is what was no sample.
#[derive(Debug, Serialize)]
pub struct Account {
    pub kind: String,
    pub classes: usize,
    /// What is to be known of their numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    pub shards: u64,
    /// Shards that an earlier call had finished.
    pub shards_kept: usize,
    pub samples_in: u64,
    pub samples_out: u64,
    /// Samples left out, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Files that were not looked into, by reason.
    pub passed_over: BTreeMap<&'static str, u64>,
    pub bytes_out: u64,
    /// Of this call.
    pub seconds: f64,
    pub samples_per_second: f64,
    pub megabytes_per_second: f64,
}

/// What is told while it goes on.
pub enum Step<'a> {
    Began {
        kind: Kind,
        bytes: u64,
        classes: usize,
        kept: usize,
    },
    /// Bytes of the source that were settled by this call so far, and by those `before` it.
    Taken {
        bytes: u64,
        before: u64,
    },
    Written(&'a Written),
}

/// What the writer gets, in order; of samples with the bytes that they take in the source.
enum Outcome {
    Taken { key: String, label: Option<u32>, extension: &'static str, bytes: Vec<u8>, span: u64 },
    Dropped(Dropped, u64),
    End,
}

/// A sample, its key, and whether it is the first time that it comes.
struct Found {
    item: Item,
    key: String,
    is_new: bool,
}

/// The samples, which workers take one after the other.
struct Line {
    import: Import,
    keys: Keys,
    /// Samples that an earlier call has settled, and the bytes of those that were passed by now.
    skip: u64,
    skipped: Arc<AtomicU64>,
    ended: bool,
}

/// Imports; `tell` hears of every shard.
///
/// # Errors
/// When the source is none, is damaged or cannot be read; when a set is there already or has no room; when the disk fails.
/// Shards finished before stay, and the same call goes on behind them.
pub fn import(order: &Order, tell: &mut dyn FnMut(Step)) -> Result<Account> {
    let start = Instant::now();
    refuse_inside_source(order)?;
    let import = Import::open(&order.from)?;
    let kind = import.kind;
    let request = format!("{} {}", import.fingerprint(&order.from), order.check_images);
    let (most_samples, most_bytes) = (order.most_samples, order.most_bytes);
    let split = Split::Numbered { most_samples, most_bytes };
    let cache = Cache::from_env();
    let to = Destination::open(&order.out, &cache)?;
    // Before anything of an older set is touched.
    let samples = import.samples().unwrap_or(import.bytes / USUAL_BYTES);
    let bytes = import.bytes + import.samples().unwrap_or(0) * AROUND_BYTES;
    let at_a_time = to.most_here(&split, bytes, samples);
    let rest = bytes.saturating_sub(bytes_there(order));
    let needed = match to.away() {
        Some(_) => at_a_time,
        // A shard is whole before the one that it replaces goes.
        None if order.force => rest.max(at_a_time),
        None => rest,
    };
    refuse_without_room(to.folder(), needed)?;
    let classes = classes_file(order, &to, &import.classes)?;
    let spec = SetSpec { to: to.clone(), name: order.name.clone(), split, request, force: order.force };
    let mut writer = SetWriter::create(&spec, &cache)?;
    let (kept, before) = (writer.kept(), writer.settled());
    tell(Step::Began { kind, bytes: import.bytes, classes: import.classes.len(), kept });

    let skipped = Arc::new(AtomicU64::new(0));
    let line = Line { import, keys: Keys::default(), skip: before, skipped: Arc::clone(&skipped), ended: false };
    let line = Mutex::new(line);
    let taken = take_all(order, &line, &skipped, &mut writer, tell)?;
    let line = line.into_inner().unwrap_or_else(PoisonError::into_inner);
    // A share of few samples, or of what other shares have, may be none.
    if writer.account().samples == 0 && order.from.part == Part::WHOLE {
        writer.put_dropped()?;
        let list = writer.dropped_path().display().to_string();
        bail!("{}: no sample could be imported; {list} says why", order.from.source.display());
    }
    // A set that is finished has its names, as no call would write them later.
    if let Some((name, text)) = classes {
        to.write(&name, text)?;
    }
    let SetAccount { shards, samples, bytes, dropped, settled, .. } = writer.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Account {
        kind: kind.to_string(),
        classes: line.import.classes.len(),
        remark: line.import.remark.clone(),
        shards,
        shards_kept: kept,
        samples_in: settled,
        samples_out: samples,
        dropped,
        passed_over: line.import.passed_over().clone(),
        bytes_out: bytes,
        seconds,
        samples_per_second: (settled - before) as f64 / seconds,
        megabytes_per_second: taken as f64 / 1e6 / seconds,
    })
}

fn take_all(
    order: &Order,
    line: &Mutex<Line>,
    skipped: &AtomicU64,
    writer: &mut SetWriter,
    tell: &mut dyn FnMut(Step),
) -> Result<u64> {
    let belt = Belt::new(MOST_WAITING_BYTES + WORKER_BYTES * order.workers.0 as u64);
    let crew = Crew { belt: &belt, line, check_images: order.check_images, hired: 0.into(), most: order.workers.1 };
    thread::scope(|scope| {
        let mut hired = (0..order.workers.0).map(|_| crew.hire(scope));
        let started = hired.try_for_each(|hired| hired.context("threads of --workers cannot be started"));
        let written = started.and_then(|()| write_all(&belt, writer, skipped, tell));
        if written.is_err() {
            writer.save_ended();
        }
        // The scope waits for the workers, which end with the belt.
        belt.close();
        written
    })
}

fn refuse_without_room(folder: &Path, bytes: u64) -> Result<()> {
    // A file system that does not tell is found full, if it is, by writing to it.
    let free = free_bytes(folder).unwrap_or(u64::MAX);
    if free < bytes {
        let (needed, free) = (bytes.div_ceil(1_000_000), free / 1_000_000);
        bail!("{}: about {needed} MB are needed, {free} MB are free; make room", folder.display());
    }
    Ok(())
}

/// Shards written now would be found by the next call among the samples.
fn refuse_inside_source(order: &Order) -> Result<()> {
    let (out, source) = (&order.out, &order.from.source);
    if is_remote(out) {
        return Ok(());
    }
    let there = out.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new(""));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let (Ok(there), Ok(root)) = (there.canonicalize(), source.canonicalize()) else {
        return Ok(());
    };
    if there.starts_with(&root) {
        bail!("{}: lies inside {}, which is imported; name a folder elsewhere", out.display(), source.display());
    }
    Ok(())
}

/// Bytes of the set's shards that are there: they are kept, or written over.
fn bytes_there(order: &Order) -> u64 {
    let prefix = format!("{}-", order.name);
    let is_shard = |name: &str| {
        let number = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".tar"));
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let files = fs::read_dir(&order.out).into_iter().flatten().flatten();
    let shards = files.filter(|file| file.file_name().to_str().is_some_and(is_shard));
    shards.filter_map(|shard| Some(shard.metadata().ok()?.len())).sum()
}

/// Names in label order, one a line, as `--names` and `--classes` take them, and the name of their file; none where they
/// are there already.
fn classes_file(order: &Order, to: &Destination, classes: &[String]) -> Result<Option<(String, String)>> {
    if classes.is_empty() {
        return Ok(None);
    }
    let text: String = classes.iter().map(|class| format!("{class}\n")).collect();
    let name = format!("{}-classes.txt", order.name);
    match to.text(&name)? {
        Some(there) if there == text => Ok(None),
        Some(_) if !order.force => {
            let path = to.path(&name);
            bail!("{}: has other classes, move it away or choose another --name or --out", path.display())
        }
        _ => Ok(Some((name, text))),
    }
}

/// The one writer, which takes what the workers read; returns the bytes of the images taken.
fn write_all(
    belt: &Belt<Vec<Result<Outcome, ImportError>>>,
    writer: &mut SetWriter,
    skipped: &AtomicU64,
    tell: &mut dyn FnMut(Step),
) -> Result<u64> {
    /// Telling costs less than writing so much.
    const TOLD_BYTES: u64 = 16 << 20;
    let (mut taken, mut settled, mut told) = (0, 0, 0);
    let so_far = |settled: u64| Step::Taken { bytes: settled, before: skipped.load(Relaxed) };
    let mut outcomes = iter::from_fn(|| belt.take()).flatten();
    loop {
        match outcomes.next().context("a worker ended before its work was done")?? {
            Outcome::End => {
                tell(so_far(settled));
                let placed = writer.end_shard()?;
                placed.iter().for_each(|written| tell(Step::Written(written)));
                while let Some(written) = writer.place()? {
                    tell(Step::Written(&written));
                }
                return Ok(taken);
            }
            Outcome::Dropped(dropped, span) => {
                settled += span;
                writer.drop_sample(dropped)?;
            }
            Outcome::Taken { key, label, extension, bytes, span } => {
                (taken, settled) = (taken + bytes.len() as u64, settled + span);
                let label = label.map(|label| label.to_string());
                let label = label.as_ref().map(|label| ("cls", label.as_bytes()));
                let members: Vec<(&str, &[u8])> = label.into_iter().chain([(extension, bytes.as_slice())]).collect();
                let written = writer.add(&key, &members)?;
                if settled - told >= TOLD_BYTES || written.is_some() {
                    told = settled;
                    tell(so_far(settled));
                }
                written.iter().for_each(|written| tell(Step::Written(written)));
            }
        }
    }
}

impl Outcome {
    fn bytes(&self) -> u64 {
        if let Self::Taken { bytes, .. } = self { bytes.len() as u64 } else { 0 }
    }
}

impl Found {
    /// Those of the sample, and of what is around it.
    fn bytes(&self) -> u64 {
        self.item.bytes().saturating_add(AROUND_BYTES)
    }
}

impl Line {
    /// The next samples, as many as make a turn; fewer where the source ends or fails, after which there are none.
    fn group(&mut self) -> Vec<Result<Found, ImportError>> {
        let (mut group, mut bytes) = (Vec::new(), 0_u64);
        while !self.ended && bytes < GROUP_BYTES && group.len() < GROUP_SAMPLES {
            let next = self.next();
            self.ended = !matches!(next, Some(Ok(_)));
            bytes = bytes.saturating_add(next.iter().flatten().map(Found::bytes).sum());
            group.extend(next);
        }
        group
    }

    /// The next sample that is not settled yet.
    fn next(&mut self) -> Option<Result<Found, ImportError>> {
        loop {
            let Offered { item, is_own } = match self.import.next_item()? {
                Ok(offered) => offered,
                Err(error) => return Some(Err(error)),
            };
            let (key, is_new) = self.keys.of(&item);
            if !is_own {
                continue;
            }
            match self.skip.checked_sub(1) {
                Some(left) => {
                    self.skip = left;
                    self.skipped.fetch_add(item.span(), Relaxed);
                }
                None => return Some(Ok(Found { item, key, is_new })),
            }
        }
    }
}

/// Those who read and look.
struct Crew<'a> {
    belt: &'a Belt<Vec<Result<Outcome, ImportError>>>,
    line: &'a Mutex<Line>,
    check_images: bool,
    hired: AtomicUsize,
    most: usize,
}

impl Crew<'_> {
    fn hire<'s>(&'s self, scope: &'s Scope<'s, '_>) -> io::Result<()> {
        let number = self.hired.fetch_add(1, Relaxed);
        if number >= self.most {
            return Ok(());
        }
        let thread = thread::Builder::new().name(format!("saccade-import-{number}"));
        thread.spawn_scoped(scope, move || self.work(scope)).map(drop)
    }

    /// A worker's life: the next samples, until there are none.
    fn work<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let mut shrinker = Shrinker::default();
        loop {
            // Locked while it waits for room, as all others would have to wait too; then turns are in the samples' order.
            let mut next = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            if next.ended || !self.belt.wait() {
                return;
            }
            // Begun before, so that a panic within closes the belt while nobody else can begin one.
            let mut turn = self.belt.begin(0);
            let group = next.group();
            let ended = next.ended;
            turn.expect(group.iter().flatten().map(Found::bytes).sum());
            drop(next);
            // A disk, and a network's much more, gives more to many; what is in memory is read best by one a core.
            let is_waited_for = || group.iter().flatten().next().is_some_and(|found| found.item.is_waited_for());
            if self.hired.load(Relaxed) < self.most && !ended && is_waited_for() {
                // Without another it goes on as well.
                let _ = self.hire(scope);
            }
            let mut look = |found: Result<Found, ImportError>| {
                let Found { item, key, is_new } = found?;
                if is_new {
                    return look_at(&item, key, self.check_images, &mut shrinker);
                }
                Ok(dropped(&item, key, DUPLICATE, "the same file or member came before".into()))
            };
            let ending = ended.then_some(Ok(Outcome::End));
            let outcomes: Vec<Result<Outcome, ImportError>> = group.into_iter().map(&mut look).chain(ending).collect();
            let bytes = outcomes.iter().flatten().map(Outcome::bytes).sum();
            turn.finish(outcomes, bytes);
        }
    }
}

fn look_at(item: &Item, key: String, check: bool, shrinker: &mut Shrinker) -> Result<Outcome, ImportError> {
    let bytes = match item.read() {
        Ok(bytes) => bytes,
        Err(Unread::Sample { reason, detail }) => return Ok(dropped(item, key, reason, detail)),
        Err(Unread::Source(error)) => return Err(error),
    };
    Ok(match extension_of(&bytes, check, shrinker) {
        Ok(extension) => Outcome::Taken { key, label: item.label, extension, bytes, span: item.span() },
        Err(unusable) => dropped(item, key, unusable.reason.name(), unusable.detail),
    })
}

/// Of an image that can be used, as far as can be seen without decoding it unless that is asked for: a JPEG that lacks its
/// end is decoded. One that ends as it should was hardly cut; looking through all of it costs a tenth of an import.
fn extension_of(bytes: &[u8], check: bool, shrinker: &mut Shrinker) -> Result<&'static str, Unusable> {
    let header = header(bytes)?;
    let extension = header.extension();
    let is_doubtful = extension == "jpg" && !bytes.ends_with(&END_OF_JPEG) && !header.is_surely_whole(bytes)?;
    if check || is_doubtful {
        shrinker.guarded(|shrinker| shrinker.look_at(&mut bytes.to_vec()))?;
    }
    Ok(extension)
}

fn dropped(item: &Item, key: String, reason: &str, detail: String) -> Outcome {
    let dropped = Dropped { key, shard: item.origin().into(), reason: reason.to_owned(), detail };
    Outcome::Dropped(dropped, item.span())
}
