//! Samples in order → a set of shards, which a killed process leaves so that the next one goes on.
//!
//! Beside the shards of a set `NAME` lie `SHA256SUMS`, `NAME.json` for the package `wids`, the samples that were left
//! out, and, until the set is whole, `NAME.unfinished.jsonl`. Whoever writes a set offers the input samples in the same
//! order each time and settles each: added, dropped, filtered or passed over. Those that are settled already, because
//! an earlier call came so far, are [`SetWriter::settled`], and are not offered again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lists::{self, Dropped, DroppedList};
use super::state::{Left, Line, State};
use super::{Sealed, ShardWriter, WriteError, member_bytes, refuse};
use crate::shard::index::{Cache, beside, hex};

/// A set that is to be written.
#[derive(Clone, Debug)]
pub struct SetSpec {
    pub folder: PathBuf,
    pub name: String,
    pub split: Split,
    /// Whatever the set's bytes depend on beside this specification, as text: sources with their sizes and times, seed,
    /// filters, treatment.
    pub request: String,
    /// Takes the place of a set that is there, and of an unfinished one of another request.
    pub force: bool,
}

/// How samples become shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Split {
    /// `NAME-000000.tar`, `NAME-000001.tar`, each as large as both limits allow; at least a sample is in each.
    Numbered { most_samples: Option<u64>, most_bytes: Option<u64> },
    /// Files of these names; [`SetWriter::next_shard`] leads from one to the next. Other processes may be writing other
    /// shards of the set.
    Named(Vec<String>),
}

/// A shard that is in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its file's name.
    pub shard: String,
    pub samples: u64,
    pub bytes: u64,
    pub sha256: String,
}

/// What became of the samples that were settled: `settled` is `samples`, all of `dropped`, all of `filtered`, and those
/// passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAccount {
    pub shards: u64,
    pub samples: u64,
    /// Sizes of the shards.
    pub bytes: u64,
    /// Samples written that were changed, as [`SetWriter::note_changed`] was told.
    pub changed: u64,
    /// By reason: what could not be used, and what was not wanted.
    pub dropped: BTreeMap<String, u64>,
    pub filtered: BTreeMap<String, u64>,
    pub settled: u64,
}

/// A set that is being written.
pub struct SetWriter {
    spec: SetSpec,
    cache: Cache,
    state: State,
    list: DroppedList,
    written: Vec<Written>,
    /// Shards of this request that lie in their places, but not as their lines say.
    again: BTreeSet<String>,
    kept: usize,
    current: Option<Current>,
    account: SetAccount,
    /// Settled up to the end of the last finished shard.
    safe: u64,
}

struct Current {
    name: String,
    shard: ShardWriter,
    samples: u64,
    last_key: String,
}

impl SetWriter {
    /// Begins a set, or takes up one of the same request.
    ///
    /// # Errors
    /// When a shard of it is there already or a set of another request is unfinished (unless `force`), when another
    /// process writes it, or when the folder cannot be written.
    pub fn create(spec: &SetSpec, cache: &Cache) -> Result<Self, WriteError> {
        if spec.name.is_empty() || spec.name.contains('/') {
            return Err(WriteError::SetName { name: spec.name.clone() });
        }
        let failed = |source| WriteError::Io { path: spec.folder.clone(), source };
        fs::create_dir_all(&spec.folder).map_err(failed)?;
        let (state, Left { lines, again }) =
            State::open(&state_path(spec), &fingerprint(spec), spec.force, || refuse_shards(spec, &BTreeSet::new()))?;
        let own = lines.iter().map(|line| &line.written.shard).chain(&again).cloned().collect();
        refuse_shards(spec, &own)?;
        let dropped_bytes = lines.last().map_or(0, |line| line.dropped_bytes);
        let list = match spec.split {
            Split::Numbered { .. } => DroppedList::own(dropped_path(spec), dropped_bytes)?,
            Split::Named(_) => DroppedList::Shared { path: dropped_path(spec), lines: Vec::new() },
        };
        let account = lines.last().map(|line| line.account.clone()).unwrap_or_default();
        let written: Vec<Written> = lines.into_iter().map(|line| line.written).collect();
        Ok(Self {
            kept: written.len(),
            spec: spec.clone(),
            cache: cache.clone(),
            state,
            list,
            written,
            again,
            current: None,
            safe: account.settled,
            account,
        })
    }

    /// How many input samples are settled; the next to be offered is that of this number, counted from 0.
    pub fn settled(&self) -> u64 {
        self.account.settled
    }

    /// How many of them would be settled if this process ended now.
    pub fn safe(&self) -> u64 {
        self.safe
    }

    /// Shards that are in their places.
    pub fn written(&self) -> &[Written] {
        &self.written
    }

    /// How many of them an earlier call had finished.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// So far.
    pub fn account(&self) -> &SetAccount {
        &self.account
    }

    /// The list of the samples that were dropped.
    pub fn dropped_path(&self) -> &Path {
        self.list.path()
    }

    /// Settles an input sample: writes it, with its members (extension and data) in their order. Returns the shard
    /// that this finished, if any.
    ///
    /// # Errors
    /// When the disk fails, when the sample has the key of the one before, or when nobody could read a member back.
    pub fn add(&mut self, key: &str, members: &[(&str, &[u8])]) -> Result<Option<Written>, WriteError> {
        let finished = if self.is_full(key, members) { self.end_shard()? } else { None };
        let current = self.current()?;
        if current.samples > 0 && current.last_key == key {
            return Err(WriteError::SameKey { path: self.spec.folder.clone(), key: key.to_owned() });
        }
        for (extension, data) in members {
            current.shard.add(key, extension, data)?;
        }
        current.samples += 1;
        current.last_key.clear();
        current.last_key.push_str(key);
        self.account.samples += 1;
        self.account.settled += 1;
        Ok(finished)
    }

    /// Says of the sample added last that it is not as it came.
    pub fn note_changed(&mut self) {
        self.account.changed += 1;
    }

    /// Settles an input sample that cannot be used: it is counted and listed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn drop_sample(&mut self, dropped: Dropped) -> Result<(), WriteError> {
        *self.account.dropped.entry(dropped.reason.clone()).or_default() += 1;
        self.account.settled += 1;
        self.list.add(dropped)
    }

    /// Settles an input sample that is not wanted: it is counted.
    pub fn filter(&mut self, reason: &str) {
        match self.account.filtered.get_mut(reason) {
            Some(samples) => *samples += 1,
            None => drop(self.account.filtered.insert(reason.to_owned(), 1)),
        }
        self.account.settled += 1;
    }

    /// Settles input samples that belong to another set.
    pub fn pass(&mut self, samples: u64) {
        self.account.settled += samples;
    }

    /// Ends a shard of [`Split::Named`] and returns it; an empty one is written too.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn next_shard(&mut self) -> Result<Option<Written>, WriteError> {
        self.current()?;
        self.end_shard()
    }

    /// Ends the shard that is being written, if one is, and returns it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn end_shard(&mut self) -> Result<Option<Written>, WriteError> {
        let Some(Current { name, shard, samples, .. }) = self.current.take() else { return Ok(None) };
        // Before the shard is in its place, so that whoever finds the shard finds what is missing from it.
        let dropped_bytes = self.list.sync(&name)?;
        let sealed: Sealed = shard.seal()?;
        let stamp = sealed.stamp();
        let written = Written { shard: name, samples, bytes: stamp.size, sha256: sealed.sha256() };
        self.account.shards += 1;
        self.account.bytes += written.bytes;
        let account = self.account.clone();
        let (seconds, nanoseconds) = (stamp.seconds, stamp.nanoseconds);
        self.state.note(&Line { written: written.clone(), seconds, nanoseconds, dropped_bytes, account })?;
        sealed.place(&self.cache)?;
        self.safe = self.account.settled;
        self.written.push(written.clone());
        Ok(Some(written))
    }

    /// Ends the last shard and puts the lists beside the set, which is whole then.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn finish(mut self) -> Result<SetAccount, WriteError> {
        self.end_shard()?;
        if self.spec.force && matches!(self.spec.split, Split::Numbered { .. }) {
            let own: BTreeSet<&str> = self.written.iter().map(|shard| shard.shard.as_str()).collect();
            let stale = numbered(&self.spec).into_iter().filter(|name| !own.contains(name.as_str()));
            stale.for_each(|name| remove(&self.spec.folder.join(name)));
        }
        if let Split::Numbered { .. } = self.spec.split {
            self.list.sync("")?;
        }
        if !self.written.is_empty() {
            let is_shared = matches!(self.spec.split, Split::Named(_));
            lists::put(&self.spec.folder, &self.spec.name, &self.written, is_shared)?;
        }
        self.state.end()?;
        Ok(self.account)
    }

    /// Whether the shard must end before this sample.
    fn is_full(&self, key: &str, members: &[(&str, &[u8])]) -> bool {
        let Split::Numbered { most_samples, most_bytes } = self.spec.split else { return false };
        let Some(current) = self.current.as_ref().filter(|current| current.samples > 0) else { return false };
        let bytes = || members.iter().map(|(extension, data)| member_bytes(key, extension, data.len())).sum::<u64>();
        most_samples.is_some_and(|most| current.samples >= most)
            || most_bytes.is_some_and(|most| current.shard.bytes() + bytes() > most)
    }

    /// The shard that is being written, begun if there is none.
    fn current(&mut self) -> Result<&mut Current, WriteError> {
        if self.current.is_none() {
            let number = self.written.len();
            let name = match &self.spec.split {
                Split::Numbered { .. } => shard_name(&self.spec.name, number),
                Split::Named(names) => {
                    let name = names.get(number).cloned();
                    name.ok_or_else(|| WriteError::SetName { name: self.spec.name.clone() })?
                }
            };
            let force = self.spec.force || self.again.contains(&name);
            let shard = ShardWriter::create(&self.spec.folder.join(&name), force)?;
            self.current = Some(Current { name, shard, samples: 0, last_key: String::new() });
        }
        self.current.as_mut().ok_or_else(|| WriteError::SetName { name: self.spec.name.clone() })
    }
}

/// Bytes of the shards that a set would take the place of.
pub fn replaced_bytes(spec: &SetSpec) -> u64 {
    let names = match &spec.split {
        Split::Numbered { .. } => numbered(spec),
        Split::Named(names) => names.clone(),
    };
    names.iter().filter_map(|name| Some(fs::metadata(spec.folder.join(name)).ok()?.len())).sum()
}

/// The file name of a shard of a numbered set.
pub fn shard_name(set: &str, number: usize) -> String {
    format!("{set}-{number:06}.tar")
}

fn fingerprint(spec: &SetSpec) -> String {
    let SetSpec { name, split, request, .. } = spec;
    hex(&Sha256::digest(format!("{name}\n{split:?}\n{request}")))
}

/// Parts of a set that several processes write have a state each, named after their first shard.
fn state_path(spec: &SetSpec) -> PathBuf {
    let name = match &spec.split {
        Split::Numbered { .. } => &spec.name,
        Split::Named(names) => names.first().unwrap_or(&spec.name),
    };
    spec.folder.join(format!("{}.unfinished.jsonl", name.strip_suffix(".tar").unwrap_or(name)))
}

fn dropped_path(spec: &SetSpec) -> PathBuf {
    spec.folder.join(match spec.split {
        Split::Numbered { .. } => format!("{}.dropped.jsonl", spec.name),
        Split::Named(_) => "dropped.jsonl".into(),
    })
}

/// Other shards than `own` in the places of the set's are nobody's to write over unasked.
fn refuse_shards(spec: &SetSpec, own: &BTreeSet<String>) -> Result<(), WriteError> {
    if spec.force {
        return Ok(());
    }
    let mut names = match &spec.split {
        Split::Numbered { .. } => numbered(spec),
        Split::Named(names) => names.clone(),
    };
    names.retain(|name| !own.contains(name));
    names.iter().try_for_each(|name| refuse(&spec.folder.join(name)))
}

/// Whether a file has the name of a shard of a numbered set.
pub fn is_shard_of(set: &str, file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_prefix(set)?.strip_prefix('-')?.strip_suffix(".tar"));
    number.is_some_and(|number| number.len() >= 6 && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Shards of a numbered set that are in the folder, in order.
fn numbered(spec: &SetSpec) -> Vec<String> {
    let entries = fs::read_dir(&spec.folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_shard_of(&spec.name, Path::new(name)));
    names.sort_unstable();
    names
}

/// A shard that the set had before it was made again, smaller.
fn remove(shard: &Path) {
    let _ = fs::remove_file(shard);
    let _ = beside(shard).map(fs::remove_file);
}
