//! Shards' indexes → which of their samples are wanted, in the order in which they will be written.
//!
//! No image is looked at here. What a sample's fate depends on is its key, its label, its place, and the seed; so a
//! sample is held out, or not, whatever other samples there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::MOST_SAMPLE_BYTES;
use crate::draws::{Draws, Purpose};
use crate::shard::{Cache, Index, Label, Listing, Stamp, hex};

/// Which samples are wanted; all, by default.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pick {
    pub classes: Option<Classes>,
    /// A file with a key a line.
    pub keys: Option<PathBuf>,
    /// At most so many of each class, the first in the order written.
    pub per_class: Option<u64>,
}

/// Numbers of classes, such as `0,5-9`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Classes(Vec<RangeInclusive<u32>>);

/// Text that is no list of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write classes as numbers and ranges: 0,5-9")]
pub struct ClassesError;

impl FromStr for Classes {
    type Err = ClassesError;

    fn from_str(text: &str) -> Result<Self, ClassesError> {
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| ClassesError);
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = number(first)?..=number(last)?;
            if range.is_empty() { Err(ClassesError) } else { Ok(range) }
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl Classes {
    pub fn contains(&self, class: u32) -> bool {
        self.0.iter().any(|range| range.contains(&class))
    }
}

/// A share of samples, between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share(f64);

/// Text that is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a share between 0 and 1, such as 0.02")]
pub struct ShareError;

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let share = text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0);
        share.map(Self).ok_or(ShareError)
    }
}

impl Share {
    /// Whether the key with this digest is in the share: the first 8 bytes of its SHA-256, as a fraction, are below it.
    fn takes(self, digest: Digest128) -> bool {
        (digest.0[0] as f64) < self.0 * 2f64.powi(64)
    }
}

/// What becomes of keys that stand in two shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Duplicates {
    #[default]
    Refused,
    /// The sample that was named first is taken, the others are dropped.
    First,
}

/// The first half of a key's SHA-256: two keys of one set share it with a probability below 2^-85.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Digest128([u64; 2]);

impl Digest128 {
    fn of(key: &str) -> Self {
        let digest = Sha256::digest(key);
        let (words, _) = digest.as_slice().as_chunks::<8>();
        let word = |number: usize| words.get(number).map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Self([word(0), word(1)])
    }
}

/// A shard that is read.
#[derive(Clone, Debug)]
pub struct Origin {
    pub path: PathBuf,
    pub stamp: Stamp,
    pub samples: usize,
}

/// A sample that will be written, or dropped with a reason that is known already.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    /// Number of its shard, and its place there.
    pub shard: u32,
    pub place: u32,
    /// Of all its members.
    pub bytes: u64,
    /// The shard that has its key already.
    pub duplicate_of: Option<u32>,
    pub held_out: bool,
}

impl Chosen {
    /// Whether its bytes are wanted.
    pub fn is_read(&self) -> bool {
        self.duplicate_of.is_none() && self.bytes <= MOST_SAMPLE_BYTES
    }
}

/// What is read, and in which order it is written.
pub struct Choice {
    pub origins: Vec<Origin>,
    pub order: Vec<Chosen>,
    /// Samples that are not in the order, by reason.
    pub filtered: BTreeMap<String, u64>,
    /// Tells one list of keys from another: the list may be another under the same name, or readable only once.
    pub keys: Option<String>,
    /// Keys of the list that no sample has.
    pub unknown_keys: u64,
}

struct Candidate {
    chosen: Chosen,
    digest: Digest128,
    label: Option<u32>,
}

/// How the order is made of what is wanted.
pub struct Ordering {
    pub shuffle: Option<u64>,
    pub held_out: Option<Share>,
    pub duplicates: Duplicates,
}

/// Looks through the indexes of all shards.
///
/// # Errors
/// When a shard changed since it was listed, when the list of keys cannot be read, and when a key stands in two shards.
pub fn choose(listings: &[Listing], pick: &Pick, ordering: &Ordering, cache: &Cache) -> Result<Choice> {
    let keys = pick.keys.as_ref().map(read_keys).transpose()?;
    let mut unknown = keys.clone().unwrap_or_default();
    let mut filtered = Filtered::default();
    let (mut origins, mut candidates) = (Vec::with_capacity(listings.len()), Vec::new());
    for (number, listing) in listings.iter().enumerate() {
        let Index { stamp, table } = Index::open(&listing.shard, cache)?;
        if table.len() != listing.samples {
            bail!("{}: changed meanwhile, start again once it is whole", listing.shard.display());
        }
        for (place, sample) in table.samples().enumerate() {
            unknown.remove(sample.key);
            let label = if let Label::Known(label) = sample.label { Some(label) } else { None };
            let is_of_class = |classes: &Classes| label.is_some_and(|label| classes.contains(label));
            if !pick.classes.as_ref().is_none_or(is_of_class) {
                filtered.count("class");
            } else if !keys.as_ref().is_none_or(|keys| keys.contains(sample.key)) {
                filtered.count("key");
            } else if pick.per_class.is_some() && label.is_none() {
                filtered.count("no_label");
            } else {
                let bytes = sample.members().map(|member| member.length).sum();
                let (shard, place) = (u32::try_from(number)?, u32::try_from(place)?);
                let chosen = Chosen { shard, place, bytes, duplicate_of: None, held_out: false };
                candidates.push(Candidate { chosen, digest: Digest128::of(sample.key), label });
            }
        }
        origins.push(Origin { path: listing.shard.clone(), stamp, samples: listing.samples });
    }
    find_duplicates(&mut candidates, ordering.duplicates, &origins, cache)?;
    if let Some(seed) = ordering.shuffle {
        Draws::new(seed, 0, 0, Purpose::Reshard).shuffle(&mut candidates);
    }
    if let Some(most) = pick.per_class {
        keep_first_of_each_class(&mut candidates, most, &mut filtered);
    }
    for candidate in &mut candidates {
        candidate.chosen.held_out = ordering.held_out.is_some_and(|share| share.takes(candidate.digest));
    }
    let order = candidates.into_iter().map(|candidate| candidate.chosen).collect();
    let keys = keys.map(|keys| hex(&Sha256::digest(keys.into_iter().collect::<Vec<_>>().join("\n"))));
    Ok(Choice { origins, order, filtered: filtered.0, keys, unknown_keys: unknown.len() as u64 })
}

fn read_keys(path: &PathBuf) -> Result<BTreeSet<String>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("{}: cannot be read as a list of keys", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn find_duplicates(
    candidates: &mut [Candidate],
    duplicates: Duplicates,
    origins: &[Origin],
    cache: &Cache,
) -> Result<()> {
    if origins.len() < 2 {
        return Ok(());
    }
    let mut places: Vec<(Digest128, u32)> = Vec::with_capacity(candidates.len());
    for (number, candidate) in candidates.iter().enumerate() {
        places.push((candidate.digest, u32::try_from(number)?));
    }
    places.sort_unstable();
    let mut found = Vec::new();
    for same in places.chunk_by(|one, next| one.0 == next.0) {
        let Some(((_, first), others)) = same.split_first() else { continue };
        found.extend(others.iter().map(|(_, other)| (*first as usize, *other as usize)));
    }
    if duplicates == Duplicates::Refused {
        refuse_duplicate(&found, candidates, origins, cache)?;
    }
    for (first, other) in found {
        let first = candidates.get(first).map(|candidate| candidate.chosen.shard);
        if let Some(candidate) = candidates.get_mut(other) {
            candidate.chosen.duplicate_of = first;
        }
    }
    Ok(())
}

/// Names both shards of the key that comes twice first.
fn refuse_duplicate(
    found: &[(usize, usize)],
    candidates: &[Candidate],
    origins: &[Origin],
    cache: &Cache,
) -> Result<()> {
    let Some((first, other)) = found.iter().min_by_key(|(_, other)| *other) else { return Ok(()) };
    let (Some(one), Some(two)) = (candidates.get(*first), candidates.get(*other)) else { return Ok(()) };
    let path = |candidate: &Candidate| origins.get(candidate.chosen.shard as usize).map(|origin| origin.path.as_path());
    let (Some(one_path), Some(two_path)) = (path(one), path(two)) else { return Ok(()) };
    let index = Index::open(two_path, cache)?;
    let key = index.table.sample(two.chosen.place as usize).map_or("", |sample| sample.key);
    let (one_path, two_path, count) = (one_path.display(), two_path.display(), found.len());
    bail!(
        "key `{key}` stands in {one_path} and in {two_path}, {count} samples repeat a key: rename them, \
         re-shard sets that stay apart in calls of their own, or keep the first of each with --duplicates first"
    )
}

/// Samples that are dropped as duplicates take no room in their class.
fn keep_first_of_each_class(candidates: &mut Vec<Candidate>, most: u64, filtered: &mut Filtered) {
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    candidates.retain(|candidate| {
        let Some(label) = candidate.label.filter(|_| candidate.chosen.duplicate_of.is_none()) else { return true };
        let count = counts.entry(label).or_default();
        *count += 1;
        if *count > most {
            filtered.count("per_class");
        }
        *count <= most
    });
}

#[derive(Default)]
struct Filtered(BTreeMap<String, u64>);

impl Filtered {
    fn count(&mut self, reason: &str) {
        match self.0.get_mut(reason) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(reason.to_owned(), 1)),
        }
    }
}
