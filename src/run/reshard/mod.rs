//! Shards → the samples that are wanted of them in other shards: in another order, in shards of another size, in two
//! sets, with other images.
//!
//! Workers take the samples in order and finish them in any; one writer puts them in order again. So the output is the
//! same for any number of workers, and a call that was killed is taken up where its last finished shard ends.

mod feed;
pub mod pick;
mod room;
mod scatter;
pub mod treat;
mod work;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;

use self::pick::{Choice, Duplicates, Ordering, Pick, Share, choose};
use self::treat::Treatment;
use self::work::Work;
use crate::shard::remote::is_remote;
use crate::shard::write::{Destination, SetAccount, SetSpec, Split, is_shard_of};
use crate::shard::{Cache, Listing, list};

/// As for an image in a set: more is a slip.
const MOST_SAMPLE_BYTES: u64 = 1 << 30;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Reshard {
    pub shards: Vec<String>,
    pub out: PathBuf,
    pub layout: Layout,
    pub pick: Pick,
    pub treatment: Treatment,
    pub workers: usize,
    /// Bytes that a shuffle may hold in memory; half of what is free where it is left out.
    pub memory: Option<u64>,
    /// Writes over shards that are there already.
    pub force: bool,
}

/// How samples become shards. By default each shard that is read becomes one of the same name; anything else makes a
/// set of numbered shards.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Layout {
    /// How the shards' names begin; as those that are read begin where it is left out.
    pub name: Option<String>,
    /// In a shard. Where neither is given, as many as the shards that are read have on average.
    pub most_samples: Option<u64>,
    pub most_bytes: Option<u64>,
    /// In so many shards, in place of both.
    pub shards: Option<u64>,
    /// The seed of the order.
    pub shuffle: Option<u64>,
    pub held_out: Option<Share>,
    pub duplicates: Duplicates,
}

/// What became of the samples: `samples_in` is `samples_out`, all of `dropped` and all of `filtered`.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Account {
    pub shards_in: u64,
    pub samples_in: u64,
    pub bytes_in: u64,
    pub shards_out: u64,
    pub samples_out: u64,
    pub bytes_out: u64,
    /// Of those written, how many have a smaller image than before, or had EXIF that was taken out.
    pub changed: u64,
    /// Samples that could not be used, by reason; all are listed.
    pub dropped: BTreeMap<String, u64>,
    /// Samples that were not wanted, by reason.
    pub filtered: BTreeMap<String, u64>,
    /// Keys that were asked for and that no sample has.
    pub unknown_keys: u64,
    /// What was written, by set.
    pub sets: Vec<Set>,
    /// Shards that an interrupted call had finished.
    pub kept: usize,
    pub seconds: f64,
    pub samples_per_second: f64,
}

/// A set that was written.
#[derive(Debug, PartialEq, Serialize)]
pub struct Set {
    pub name: String,
    pub shards: u64,
    pub samples: u64,
    pub bytes: u64,
    /// Its samples that were dropped are listed here.
    pub dropped_list: PathBuf,
}

/// What happens meanwhile, for whoever shows it.
pub enum Event<'a> {
    /// So many samples of `samples` are settled already, by an earlier call that finished `kept` shards.
    Begun {
        samples: u64,
        settled: u64,
        kept: usize,
    },
    /// The first of two passes of a shuffle has so many samples of `samples` in buckets.
    Scattered {
        samples: u64,
        scattered: u64,
    },
    /// So many samples are settled.
    Settled(u64),
    Shard(Done<'a>),
}

/// A shard that is done.
pub struct Done<'a> {
    pub shard: &'a Path,
    pub samples: u64,
    pub dropped: u64,
    pub bytes: u64,
}

/// Where the samples go.
struct Plan {
    to: Destination,
    specs: Vec<SetSpec>,
    /// For shards that keep their names: where in the order each ends.
    ends: Vec<usize>,
}

/// Reads, treats and writes; `tell` hears of every finished shard and sample.
///
/// # Errors
/// When a shard is damaged, when an output is there already or there is no room for it, when a key stands in two shards
/// of one set, or when the disk fails. Shards finished before stay, and the same call goes on after them.
pub fn reshard(wanted: &Reshard, tell: &mut dyn FnMut(&Event)) -> Result<Account> {
    let start = Instant::now();
    let cache = Cache::from_env();
    let listings = list(&wanted.shards, &cache)?;
    let samples_in: u64 = listings.iter().map(|listing| listing.samples as u64).sum();
    if samples_in == 0 {
        bail!("no samples in {} shards: name files `KEY.jpg` and, for a label, `KEY.cls`", listings.len());
    }
    let is_numbered = wanted.layout.is_numbered();
    if !is_numbered {
        refuse_same_names(&listings, &wanted.out)?;
    }
    let Layout { shuffle, held_out, duplicates, .. } = wanted.layout;
    let choice = choose(&listings, &wanted.pick, &Ordering { shuffle, held_out, duplicates }, &cache)?;
    if choice.order.is_empty() {
        bail!("none of {samples_in} samples is wanted: {}", reasons(&choice.filtered));
    }
    let request = request(wanted, &choice)?;
    let to = Destination::open(&wanted.out, &cache)?;
    fs::create_dir_all(to.folder())
        .with_context(|| format!("{}: cannot be made; choose another --out", to.folder().display()))?;
    let plan =
        if is_numbered { numbered(wanted, to, &choice, &request)? } else { named(wanted, to, &choice, &request)? };
    let mut work = Work::new(wanted, &choice, &plan, &cache)?;
    let (kept, settled) = (work.kept(), work.settled());
    tell(&Event::Begun { samples: choice.order.len() as u64, settled: settled as u64, kept });
    work.write(&request, tell)?;
    let sets = work.finish()?;

    let (filtered, unknown_keys) = (choice.filtered.clone(), choice.unknown_keys);
    let mut account = Account { kept, samples_in, filtered, unknown_keys, ..Account::default() };
    account.shards_in = listings.len() as u64;
    account.bytes_in = listings.iter().map(|listing| listing.bytes).sum();
    for (spec, (found, list)) in plan.specs.iter().zip(sets) {
        account.add(&spec.name, found, list);
    }
    if account.samples_out == 0 {
        let list = account.sets.first().map(|set| set.dropped_list.display().to_string()).unwrap_or_default();
        bail!("no sample of {samples_in} could be taken over; {list} says why");
    }
    let seconds = start.elapsed().as_secs_f64();
    let samples_per_second = (samples_in - settled as u64) as f64 / seconds;
    Ok(Account { seconds, samples_per_second, ..account })
}

impl Layout {
    fn is_numbered(&self) -> bool {
        let Self { name, most_samples, most_bytes, shards, shuffle, held_out, duplicates: _ } = self;
        let is_sized = most_samples.is_some() || most_bytes.is_some() || shards.is_some();
        is_sized || name.is_some() || shuffle.is_some() || held_out.is_some()
    }
}

impl Account {
    fn add(&mut self, name: &str, found: SetAccount, dropped_list: PathBuf) {
        let SetAccount { shards, samples, bytes, changed, dropped, filtered, .. } = found;
        self.shards_out += shards;
        self.samples_out += samples;
        self.bytes_out += bytes;
        self.changed += changed;
        for (all, more) in [(&mut self.dropped, dropped), (&mut self.filtered, filtered)] {
            more.into_iter().for_each(|(reason, count)| *all.entry(reason).or_default() += count);
        }
        self.sets.push(Set { name: name.to_owned(), shards, samples, bytes, dropped_list });
    }
}

/// Counts with their reasons, for people.
pub fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(reason, samples)| format!("{samples} {reason}")).collect();
    parts.join(", ")
}

/// All that the bytes of the output depend on.
fn request(wanted: &Reshard, choice: &Choice) -> Result<String> {
    let Reshard { layout, pick, treatment, .. } = wanted;
    let mut origins = Vec::with_capacity(choice.origins.len());
    for origin in &choice.origins {
        let path = fs::canonicalize(&origin.path).unwrap_or_else(|_| origin.path.clone());
        let stamp = origin.stamp;
        origins.push(json!([path.to_string_lossy(), stamp.size, stamp.seconds, stamp.nanoseconds]));
    }
    let version = env!("CARGO_PKG_VERSION");
    Ok(serde_json::to_string(&json!([version, layout, pick, choice.keys, treatment, origins]))?)
}

/// One set of numbered shards, or two.
fn numbered(wanted: &Reshard, to: Destination, choice: &Choice, request: &str) -> Result<Plan> {
    let Reshard { layout, out, force, .. } = wanted;
    let name = layout.name.clone().unwrap_or_else(|| stem(choice));
    let samples: usize = choice.origins.iter().map(|origin| origin.samples).sum();
    let usual = (samples as u64).div_ceil(choice.origins.len().max(1) as u64).max(1);
    let (most_samples, most_bytes) = match (layout.most_samples, layout.most_bytes) {
        (None, None) => (Some(usual), None),
        given => given,
    };
    let names = match layout.held_out {
        Some(_) => {
            let name = name.strip_suffix("-train").unwrap_or(&name);
            vec![format!("{name}-train"), format!("{name}-held-out")]
        }
        None => vec![name],
    };
    for origin in &choice.origins {
        let real = fs::canonicalize(&origin.path).unwrap_or_else(|_| origin.path.clone());
        let is_written = names.iter().any(|name| is_shard_of(name, &real));
        if is_written && real.parent().is_some_and(|folder| is_same(folder, out)) {
            bail!("{}: would be written over itself; choose another --out or --name", origin.path.display());
        }
    }
    let splits = match layout.shards {
        Some(shards) => even(choice, shards)?,
        None => [const { None }; 2],
    };
    let spec = |(name, split): (String, Option<Split>)| {
        let split = split.unwrap_or(Split::Numbered { most_samples, most_bytes });
        SetSpec { to: to.clone(), name, split, request: request.to_owned(), force: *force }
    };
    Ok(Plan { specs: names.into_iter().zip(splits).map(spec).collect(), ends: Vec::new(), to })
}

/// So many shards for the samples, and for those that are held out as many as make them about as large.
fn even(choice: &Choice, shards: u64) -> Result<[Option<Split>; 2]> {
    let count = |is_held_out: bool| {
        let own = choice.order.iter().filter(|chosen| chosen.held_out == is_held_out && chosen.duplicate_of.is_none());
        own.count() as u64
    };
    let [samples, held_out] = [false, true].map(count);
    if samples < shards {
        let beside = if held_out > 0 { format!(" beside {held_out} that are held out") } else { String::new() };
        bail!("{samples} samples{beside} make no {shards} shards; give a smaller number as --shards, or leave it out");
    }
    let each = samples.div_ceil(shards).max(1);
    let beside = Split::Even { samples: held_out, shards: held_out.div_ceil(each).max(1) };
    Ok([Some(Split::Even { samples, shards }), Some(beside)])
}

/// Shards that keep their names must have different ones.
fn refuse_same_names(listings: &[Listing], out: &Path) -> Result<()> {
    let mut places: BTreeMap<&OsStr, &Path> = BTreeMap::new();
    for from in listings.iter().map(|listing| listing.shard.as_path()) {
        let Some(name) = from.file_name() else { continue };
        if let Some(other) = places.insert(name, from) {
            let (from, other, to) = (from.display(), other.display(), out.join(name));
            bail!("{from}: named as {other} is, and both would become {}; merge them with --name", to.display());
        }
    }
    Ok(())
}

/// A shard of the same name for each that is read.
fn named(wanted: &Reshard, destination: Destination, choice: &Choice, request: &str) -> Result<Plan> {
    let mut names = Vec::with_capacity(choice.origins.len());
    for origin in &choice.origins {
        let from = origin.path.as_path();
        let name = from.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{}: its name is not text; rename it", from.display()))?;
        let to = wanted.out.join(name);
        if is_same(from, &to) {
            bail!("{}: would be written over itself; choose another --out", from.display());
        }
        names.push(name.to_owned());
    }
    let ends =
        (0..choice.origins.len()).map(|shard| choice.order.partition_point(|chosen| chosen.shard as usize <= shard));
    let ends = ends.collect();
    let spec = SetSpec {
        to: destination.clone(),
        name: stem(choice),
        split: Split::Named(names),
        request: request.to_owned(),
        force: wanted.force,
    };
    Ok(Plan { specs: vec![spec], ends, to: destination })
}

/// What the names of all shards begin with, without the number at its end.
fn stem(choice: &Choice) -> String {
    let names: Vec<&str> = choice.origins.iter().filter_map(|origin| origin.path.file_stem()?.to_str()).collect();
    let first = names.first().copied().unwrap_or_default();
    let is_shared = |end: &usize| {
        let start = first.get(..*end);
        start.is_some_and(|start| names.iter().all(|name| name.starts_with(start)))
    };
    let end = (0..=first.len()).rev().find(is_shared).unwrap_or_default();
    let shared = first.get(..end).unwrap_or_default();
    let stem = shared.trim_end_matches(|letter: char| letter.is_ascii_digit()).trim_end_matches(['-', '_', '.', ' ']);
    if stem.is_empty() { "shards".into() } else { stem.to_owned() }
}

/// Whether two names, of files or of folders, stand for the same.
fn is_same(one: &Path, other: &Path) -> bool {
    let trimmed = |path: &Path| path.to_string_lossy().trim_end_matches('/').to_owned();
    if is_remote(one) || is_remote(other) {
        return trimmed(one) == trimmed(other);
    }
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}
