//! Shards → a report of everything that is wrong with them, found by walking each one whatever its index says.
//!
//! A walk reads headers alone. Reading through reads each shard once from end to end, makes its checksum, and hands the
//! images to whoever can tell whether they decode.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::is_same;
use super::index::Stamp;
use super::remote::is_remote;
use super::set::MOST_IMAGE_BYTES;
use super::table::Builder;
use super::tar::{TarError, Walk};
use super::{Cache, Here, Label, Sample, ShardError, Sum, Sums, Table, expand, in_parallel};

/// Keys named per problem; the count tells the rest, so that a report on a million samples stays readable.
const MOST_KEYS: usize = 10;

/// What was found in all shards.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub samples: usize,
    pub bytes: u64,
    /// Problems of all shards, every sample counted.
    pub problems: usize,
    /// What is no problem by itself, but may be a slip: labels that no sample has.
    pub remarks: Vec<String>,
    pub shards: Vec<ShardReport>,
}

/// What was found in one shard.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ShardReport {
    pub shard: PathBuf,
    pub samples: usize,
    pub bytes: u64,
    pub problems: Vec<Problem>,
}

/// One kind of problem in one shard.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub kind: ProblemKind,
    pub count: usize,
    /// The first few samples that have it.
    pub keys: Vec<String>,
    /// What the kind alone does not tell: the damage, or the shard that has the same key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What can be wrong with a shard that a run would refuse, and with samples that it would skip or train on twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    Damaged,
    /// Something follows the closing blocks, such as a second tar, which no run reads.
    DataAfterEnd,
    /// `SHA256SUMS` beside the shard says otherwise.
    WrongChecksum,
    NoImage,
    EmptyImage,
    /// The detail is the reason why a run would leave it out.
    BadImage,
    NoLabel,
    BadLabel,
    /// The label is no number below that of the classes.
    LabelOutOfRange,
    /// An earlier shard has a sample of the same key.
    DuplicateKey,
    /// `SHA256SUMS` lists the shard, and it is not there.
    Missing,
    /// What an import or a reshard that did not end leaves beside its shards.
    Unfinished,
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(match self {
            Self::Damaged => "damaged shard",
            Self::DataAfterEnd => "data after the closing blocks",
            Self::WrongChecksum => "checksum that differs from SHA256SUMS",
            Self::NoImage => "sample without an image",
            Self::EmptyImage => "sample with an empty image",
            Self::BadImage => "sample whose image does not decode",
            Self::NoLabel => "sample without a label",
            Self::BadLabel => "sample whose label is no number",
            Self::LabelOutOfRange => "sample whose label is out of range",
            Self::DuplicateKey => "sample whose key an earlier shard has",
            Self::Missing => "shard that SHA256SUMS lists and that is not there",
            Self::Unfinished => "unfinished set: repeat the call that began it",
        })
    }
}

/// What was found in one shard, and what the set's report needs of it.
pub struct Examined {
    pub report: ShardReport,
    keys: Vec<Box<str>>,
    labels: Vec<Option<u32>>,
}

/// How a shard is read through.
pub struct Through<'a> {
    /// What its bytes must hash to; a sum that is not listed is not made.
    pub sum: &'a Sum,
    /// Takes the key and the bytes of an image; `false` ends the reading.
    pub take: &'a mut dyn FnMut(&str, &[u8]) -> bool,
}

/// Walks every shard.
///
/// # Errors
/// Patterns that stand for nothing; what is wrong with a shard itself is part of the report.
pub fn verify(patterns: &[String], cache: &Cache) -> Result<Report, ShardError> {
    Ok(report(walk_all(&expand(patterns, cache)?, cache), None))
}

/// Walks shards, many at once.
pub fn walk_all(paths: &[PathBuf], cache: &Cache) -> Vec<Examined> {
    let walked = in_parallel(paths, |path| {
        Ok::<_, Infallible>(examined(path, |report| {
            let here = open(path, cache)?;
            report.bytes = Stamp::of(&here.file.metadata()?).size;
            let mut walk = Walk::new(&here.file, report.bytes);
            let table = Table::walk(&mut walk)?;
            if walk.has_more()? {
                report.add(ProblemKind::DataAfterEnd, None, None);
            }
            Ok(table)
        }))
    });
    let Ok(walked) = walked;
    walked
}

/// Reads a shard once from end to end; its images are handed over in the order in which they stand.
pub fn examine_through(path: &Path, cache: &Cache, through: &mut Through) -> Examined {
    examined(path, |report| {
        let here = open(path, cache)?;
        let file = &here.file;
        let stamp = Stamp::of(&file.metadata()?);
        report.bytes = stamp.size;
        let mut walk = Walk::through(file, stamp.size, matches!(through.sum, Sum::Listed(_)));
        let table = walk_through(&mut walk, through, report);
        if let Err(TarError::Io(_)) = table {
            return table;
        }
        // A damaged shard's sum tells whether it was damaged before it was listed or after.
        if let (Some(found), Sum::Listed(listed)) = (walk.finish()?, through.sum)
            && found != *listed
        {
            report.add(ProblemKind::WrongChecksum, None, Some(format!("{found}, should be {listed}")));
        }
        if !is_same(file, stamp)? {
            report.add(ProblemKind::Damaged, None, Some("changed while it was read".into()));
        }
        table
    })
}

fn open(path: &Path, cache: &Cache) -> io::Result<Here> {
    cache.open(path).map_err(|error| match error {
        ShardError::Open { source, .. } => source,
        ShardError::Remote { source, .. } => source.into(),
        other => io::Error::other(other),
    })
}

fn walk_through(walk: &mut Walk, through: &mut Through, report: &mut ShardReport) -> Result<Table, TarError> {
    let mut builder = Builder::default();
    while let Some(entry) = walk.next_entry()? {
        builder.add(walk, &entry)?;
        let Some(sample) = builder.sample_of_image(entry.offset).filter(|_| entry.length > 0) else {
            continue;
        };
        if entry.length > MOST_IMAGE_BYTES {
            report.add(ProblemKind::BadImage, Some(sample.key), Some("too_large".into()));
        } else if !(through.take)(sample.key, walk.data(&entry)?) {
            break;
        }
    }
    if walk.has_more()? {
        report.add(ProblemKind::DataAfterEnd, None, None);
    }
    builder.finish()
}

/// A set's report; with `classes`, every sample must have a label below that.
pub fn report(examined: Vec<Examined>, classes: Option<u32>) -> Report {
    let mut shards = Vec::with_capacity(examined.len());
    let (mut keys, mut labels) = (Vec::with_capacity(examined.len()), Vec::with_capacity(examined.len()));
    for shard in examined {
        shards.push(shard.report);
        keys.push(shard.keys);
        labels.push(shard.labels);
    }
    add_duplicates(&mut shards, &keys);
    if classes.is_none() {
        accept_a_set_without_labels(&mut shards);
    }
    let mut remarks = Vec::new();
    match classes {
        Some(classes) => add_out_of_range(&mut shards, &keys, &labels, classes),
        None => remarks.extend(gaps(&labels)),
    }
    Report {
        samples: shards.iter().map(|shard| shard.samples).sum(),
        bytes: shards.iter().map(|shard| shard.bytes).sum(),
        problems: shards.iter().flat_map(|shard| &shard.problems).map(|problem| problem.count).sum(),
        remarks,
        shards,
    }
}

fn add_out_of_range(reports: &mut [ShardReport], keys: &[Vec<Box<str>>], labels: &[Vec<Option<u32>>], classes: u32) {
    for (report, (keys, labels)) in reports.iter_mut().zip(keys.iter().zip(labels)) {
        for (key, label) in keys.iter().zip(labels) {
            if label.is_some_and(|label| label >= classes) {
                report.add(ProblemKind::LabelOutOfRange, Some(key), Some(format!("{classes} classes")));
            }
        }
    }
}

/// Numbers below the highest label that no sample has: a class without samples, or numbers that begin at 1.
fn gaps(labels: &[Vec<Option<u32>>]) -> Option<String> {
    /// Numbers told; the count tells the rest.
    const SHOWN: usize = 10;
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    labels.iter().flatten().flatten().for_each(|label| *counts.entry(*label).or_default() += 1);
    let highest = *counts.keys().next_back()?;
    let missing = u64::from(highest) + 1 - counts.len() as u64;
    let first: Vec<String> =
        (0..highest).filter(|label| !counts.contains_key(label)).take(SHOWN).map(|label| label.to_string()).collect();
    let more = if missing > first.len() as u64 { " and more" } else { "" };
    (missing > 0).then(|| {
        format!(
            "labels go up to {highest}, and {missing} of the numbers below have no sample: {}{more}",
            first.join(", ")
        )
    })
}

/// Labels are missing only where some samples have one: a set may be made without any.
fn accept_a_set_without_labels(shards: &mut [ShardReport]) {
    let is_missing = |problem: &&Problem| problem.kind == ProblemKind::NoLabel;
    let missing = shards.iter().flat_map(|shard| &shard.problems).filter(is_missing).map(|problem| problem.count);
    let samples: usize = shards.iter().map(|shard| shard.samples).sum();
    if missing.sum::<usize>() == samples {
        shards.iter_mut().for_each(|shard| shard.problems.retain(|problem| problem.kind != ProblemKind::NoLabel));
    }
}

/// A damaged shard has no samples, because a run would not use any of them. Only keys and labels are kept for the set.
fn examined(path: &Path, read: impl FnOnce(&mut ShardReport) -> Result<Table, TarError>) -> Examined {
    let mut report = ShardReport { shard: path.to_owned(), samples: 0, bytes: 0, problems: Vec::new() };
    match read(&mut report) {
        Ok(table) => {
            report.samples = table.len();
            for sample in table.samples() {
                problems_of(&sample).for_each(|kind| report.add(kind, Some(sample.key), None));
            }
            let keys = table.samples().map(|sample| sample.key.into()).collect();
            let number = |sample: Sample| match sample.label {
                Label::Known(label) => Some(label),
                Label::None | Label::Bad => None,
            };
            Examined { report, keys, labels: table.samples().map(number).collect() }
        }
        Err(cause) => {
            let detail = match cause.source() {
                Some(source) => format!("{cause}: {source}"),
                None => cause.to_string(),
            };
            report.add(ProblemKind::Damaged, None, Some(detail));
            Examined { report, keys: Vec::new(), labels: Vec::new() }
        }
    }
}

fn problems_of(sample: &Sample<'_>) -> impl Iterator<Item = ProblemKind> + use<> {
    let image = match sample.image() {
        None => Some(ProblemKind::NoImage),
        Some(image) if image.length == 0 => Some(ProblemKind::EmptyImage),
        Some(_) => None,
    };
    let label = match sample.label {
        Label::None => Some(ProblemKind::NoLabel),
        Label::Bad => Some(ProblemKind::BadLabel),
        Label::Known(_) => None,
    };
    image.into_iter().chain(label)
}

fn add_duplicates(reports: &mut [ShardReport], keys: &[Vec<Box<str>>]) {
    let mut first_in: HashMap<&str, usize> = HashMap::new();
    for (number, keys) in keys.iter().enumerate() {
        for key in keys {
            let first = *first_in.entry(key).or_insert(number);
            let earlier = reports.get(first).map(|report| report.shard.display().to_string());
            if let (true, Some(report)) = (first < number, reports.get_mut(number)) {
                report.add(ProblemKind::DuplicateKey, Some(key), earlier);
            }
        }
    }
}

impl Report {
    /// Adds what the shards themselves cannot tell, from what lies beside them: shards that are listed and gone, and sets
    /// that were not finished. Each is an entry of its own, by its path.
    ///
    /// Shards are of one set when their names differ in numbers alone. Where only some of those that are there are among
    /// `paths`, the others were left out on purpose, and nothing is said of them.
    ///
    /// # Errors
    /// When a list of checksums or a folder cannot be read.
    pub fn add_beside(&mut self, paths: &[PathBuf], sums: &mut Sums<'_>) -> Result<(), ShardError> {
        let mut folders: BTreeMap<&Path, BTreeSet<&str>> = BTreeMap::new();
        for path in paths {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            folders.entry(path.parent().unwrap_or(Path::new(""))).or_default().insert(name);
        }
        for (folder, given) in folders {
            let names = if is_remote(folder) { remote_names(folder, &given, sums)? } else { names_in(folder)? };
            let mut is_whole: BTreeMap<String, bool> = given.iter().map(|name| (without_numbers(name), true)).collect();
            for name in names.iter().filter(|name| name.ends_with(".tar") && !given.contains(name.as_str())) {
                if let Some(whole) = is_whole.get_mut(&without_numbers(name)) {
                    *whole = false;
                }
            }
            let is_of_whole = |name: &str| is_whole.get(&without_numbers(name)) == Some(&true);
            for name in sums.listed(folder)? {
                if name.ends_with(".tar") && !names.contains(name) && is_of_whole(name) {
                    self.add_entry(folder.join(name), ProblemKind::Missing);
                }
            }
            for name in &names {
                let Some(set) = name.strip_suffix(".unfinished.jsonl") else {
                    continue;
                };
                // Named after the set, or after its first shard where shards keep their names.
                let is_given =
                    given.contains(format!("{set}.tar").as_str()) || given.iter().any(|shard| is_of(shard, set));
                if is_given || is_of_whole(&format!("{set}.tar")) || is_of_whole(&format!("{set}-0.tar")) {
                    self.add_entry(folder.join(name), ProblemKind::Unfinished);
                }
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, shard: PathBuf, kind: ProblemKind) {
        let mut entry = ShardReport { shard, samples: 0, bytes: 0, problems: Vec::new() };
        entry.add(kind, None, None);
        self.problems += 1;
        self.shards.push(entry);
    }
}

/// Of a folder of another machine: the shards that are given, and of those of the same sets that its list of checksums
/// names, the first of each set that is there, which tells that the set was not given as a whole. What else is there, no
/// web server tells.
fn remote_names(folder: &Path, given: &BTreeSet<&str>, sums: &mut Sums<'_>) -> Result<BTreeSet<String>, ShardError> {
    let mut names: BTreeSet<String> = given.iter().map(|name| (*name).to_owned()).collect();
    let mut asked: BTreeSet<String> = given.iter().map(|name| without_numbers(name)).collect();
    let listed: Vec<String> = sums.listed(folder)?.into_iter().cloned().collect();
    for name in listed.into_iter().filter(|name| name.ends_with(".tar") && !given.contains(name.as_str())) {
        let set = without_numbers(&name);
        if asked.contains(&set) && sums.has(&folder.join(&name))? {
            asked.remove(&set);
            names.insert(name);
        }
    }
    Ok(names)
}

fn names_in(folder: &Path) -> Result<BTreeSet<String>, ShardError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let failed = |source| ShardError::Open { path: folder.to_owned(), source };
    let name = |entry: io::Result<DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    fs::read_dir(folder).and_then(|entries| entries.map(name).collect()).map_err(failed)
}

/// `SET-000000.tar` and so on.
fn is_of(shard: &str, set: &str) -> bool {
    let number = shard.strip_prefix(set).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".tar"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A name with `#` for each number in it.
fn without_numbers(name: &str) -> String {
    let mut shape = String::with_capacity(name.len());
    for character in name.chars().map(|character| if character.is_ascii_digit() { '#' } else { character }) {
        if character != '#' || !shape.ends_with('#') {
            shape.push(character);
        }
    }
    shape
}

impl ShardReport {
    /// Whether it is of a shard that was there to be read.
    pub fn was_read(&self) -> bool {
        !self.problems.iter().any(|problem| matches!(problem.kind, ProblemKind::Missing | ProblemKind::Unfinished))
    }

    /// Problems of one kind and detail are counted together.
    pub fn add(&mut self, kind: ProblemKind, key: Option<&str>, detail: Option<String>) {
        let known = self.problems.iter().position(|problem| problem.kind == kind && problem.detail == detail);
        let at = known.unwrap_or(self.problems.len());
        if known.is_none() {
            self.problems.push(Problem { kind, count: 0, keys: Vec::new(), detail });
        }
        let Some(problem) = self.problems.get_mut(at) else {
            return;
        };
        problem.count += 1;
        if problem.keys.len() < MOST_KEYS {
            problem.keys.extend(key.map(str::to_owned));
        }
    }
}
