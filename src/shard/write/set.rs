//! Samples in order → a set of shards, which a killed process leaves so that the next one goes on.
//!
//! Beside the shards of a set `NAME` lie `SHA256SUMS`, `NAME.json` for the package `wids`, the samples that were left
//! out, and, until the set is whole, `NAME.unfinished.jsonl`. Whoever writes a set offers the input samples in the same
//! order each time and settles each: added, dropped, filtered or passed over. Those that are settled already, because
//! an earlier call came so far, are [`SetWriter::settled`], and are not offered again.
//!
//! A set that belongs to a store is made in a folder here, which each shard leaves as soon as the store has it.

mod bringing;
mod sending;
mod split;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::bringing::Bringing;
use self::split::share_of;
pub use self::split::{Split, is_shard_of, shard_name};
use super::lists::{self, Dropped, DroppedList};
use super::state::{Left, Line, State};
use super::{Destination, Making, ShardWriter, WriteError, member_bytes};
use crate::shard::cache::{Cache, beside, make_good};
use crate::shard::index::hex;

/// Why a sample is dropped whose key another has.
pub const DUPLICATE: &str = "duplicate";

/// Shards that are brought to the disk while the next is written; a kill undoes them, so they are few.
pub const MOST_ON_THE_WAY: usize = 2;

/// A set that is to be written.
#[derive(Clone, Debug)]
pub struct SetSpec {
    pub to: Destination,
    pub name: String,
    pub split: Split,
    /// Whatever the set's bytes depend on beside this specification, as text: sources with their sizes and times, seed,
    /// filters, treatment.
    pub request: String,
    /// Takes the place of a set that is there, and of an unfinished one of another request.
    pub force: bool,
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

impl SetAccount {
    /// Samples of this set, whatever became of them, but for those that were known to be dropped.
    fn offered(&self) -> u64 {
        let left_out = self.dropped.values().chain(self.filtered.values()).sum::<u64>();
        self.samples + left_out - self.dropped.get(DUPLICATE).copied().unwrap_or_default()
    }
}

/// A set that is being written.
pub struct SetWriter {
    spec: SetSpec,
    cache: Cache,
    list: DroppedList,
    written: Vec<Written>,
    /// Shards of this request that lie in their places, but not as their lines say.
    again: BTreeSet<String>,
    kept: usize,
    current: Option<Current>,
    /// In order.
    on_the_way: VecDeque<OnTheWay>,
    making: Making,
    /// Shards that were given to be sent to a store.
    on_their_way: Vec<String>,
    account: SetAccount,
    /// Up to the end of the last shard that is in its place.
    placed: SetAccount,
    /// The last, as whoever comes after must not begin before all of the others are done with.
    state: State,
}

struct Current {
    name: String,
    shard: ShardWriter,
    /// The number of its first sample among those of the set that were offered.
    first: u64,
    samples: u64,
    last_key: String,
}

/// A shard that was ended, which a thread of its own brings to the disk.
struct OnTheWay {
    name: String,
    samples: u64,
    dropped_bytes: u64,
    /// Up to its end.
    account: SetAccount,
    bringing: Bringing,
}

impl SetWriter {
    /// Begins a set, or takes up one of the same request.
    ///
    /// # Errors
    /// When a shard of it is there already or a set of another request is unfinished (unless `force`), when another
    /// process writes it, or when the folder cannot be written.
    pub fn create(spec: &SetSpec, cache: &Cache) -> Result<Self, WriteError> {
        Self::create_with(spec, cache, &making(spec)?)
    }

    /// Sets that are written together share the memory that their shards are made in.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_all(specs: &[SetSpec], cache: &Cache) -> Result<Vec<Self>, WriteError> {
        let Some(first) = specs.first() else { return Ok(Vec::new()) };
        let making = making(first)?;
        specs.iter().map(|spec| Self::create_with(spec, cache, &making)).collect()
    }

    fn create_with(spec: &SetSpec, cache: &Cache, making: &Making) -> Result<Self, WriteError> {
        if spec.name.is_empty() || spec.name.contains('/') {
            return Err(WriteError::SetName { name: spec.name.clone() });
        }
        let folder = spec.to.folder();
        fs::create_dir_all(folder).map_err(|source| WriteError::Io { path: folder.to_owned(), source })?;
        let refuse = || refuse_shards(spec, &BTreeSet::new());
        let (state, Left { lines, again, sent }) =
            State::open(&state_path(spec), &fingerprint(spec), spec.force, &spec.to, refuse)?;
        let own = lines.iter().map(|line| &line.written.shard).chain(&again).cloned().collect();
        refuse_shards(spec, &own)?;
        let dropped_bytes = lines.last().map_or(0, |line| line.dropped_bytes);
        let list = if spec.split.is_numbered() {
            DroppedList::own(dropped_path(spec), dropped_bytes)?
        } else {
            DroppedList::Shared { path: dropped_path(spec), lines: Vec::new() }
        };
        let account = lines.last().map(|line| line.account.clone()).unwrap_or_default();
        let written: Vec<Written> = lines.into_iter().map(|line| line.written).collect();
        if let Some(last) = written.last() {
            make_good(&folder.join(&last.shard), cache);
        }
        let mut set = Self {
            kept: written.len(),
            spec: spec.clone(),
            cache: cache.clone(),
            state,
            list,
            written,
            again,
            current: None,
            on_the_way: VecDeque::new(),
            making: making.clone(),
            on_their_way: Vec::new(),
            placed: account.clone(),
            account,
        };
        set.take_up(&sent)?;
        Ok(set)
    }

    /// How many input samples are settled; the next to be offered is that of this number, counted from 0.
    pub fn settled(&self) -> u64 {
        self.account.settled
    }

    /// Up to the end of the last shard that is in its place: what stays settled if this process ends now.
    pub fn placed(&self) -> &SetAccount {
        &self.placed
    }

    /// Shards that are in their places.
    pub fn written(&self) -> &[Written] {
        &self.written
    }

    /// How many shards were ended: those in their places, and those on their way there.
    pub fn ended(&self) -> usize {
        self.written.len() + self.on_the_way.len()
    }

    /// How many of them an earlier call had finished.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// So far.
    pub fn account(&self) -> &SetAccount {
        &self.account
    }

    /// Brings the list of dropped samples to where the set belongs, when nothing else of the set will be.
    ///
    /// # Errors
    /// When the disk or the store fails.
    pub fn put_dropped(&mut self) -> Result<(), WriteError> {
        self.list.sync("")?;
        let Some(away) = self.spec.to.away() else { return Ok(()) };
        self.list.put_away(&self.spec.to, away, &self.written)?;
        self.list.forget_here(&self.written);
        Ok(())
    }

    /// The list of the samples that were dropped.
    pub fn dropped_path(&self) -> PathBuf {
        let name = self.list.path().file_name().and_then(|name| name.to_str());
        name.map_or_else(|| self.list.path().to_owned(), |name| self.spec.to.path(name))
    }

    /// Settles an input sample: writes it, with its members (extension and data) in their order. Returns a shard that
    /// came into its place meanwhile, if one did.
    ///
    /// # Errors
    /// When the disk fails, when the sample has the key of the one before, or when nobody could read a member back.
    pub fn add(&mut self, key: &str, members: &[(&str, &[u8])]) -> Result<Option<Written>, WriteError> {
        let placed = if self.is_full(key, members) { self.end_shard()? } else { self.place_ready()? };
        if self.current.as_ref().is_some_and(|current| current.samples > 0 && current.last_key == key) {
            return Err(WriteError::SameKey { path: self.spec.to.path(""), key: key.to_owned() });
        }
        let current = self.current()?;
        for (extension, data) in members {
            current.shard.add(key, extension, data)?;
        }
        current.samples += 1;
        current.last_key.clear();
        current.last_key.push_str(key);
        self.account.samples += 1;
        self.account.settled += 1;
        Ok(placed)
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

    /// Ends a shard of [`Split::Named`], which may be empty; returns one that came into its place meanwhile, if one did.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn next_shard(&mut self) -> Result<Option<Written>, WriteError> {
        self.current()?;
        self.end_shard()
    }

    /// Ends the shard that is being written, if one is; returns one that came into its place meanwhile, if one did.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn end_shard(&mut self) -> Result<Option<Written>, WriteError> {
        let placed = if self.on_the_way.len() >= MOST_ON_THE_WAY { self.place()? } else { self.place_ready()? };
        let Some(Current { name, shard, samples, .. }) = self.current.take() else { return Ok(placed) };
        // Before the shard is in its place, so that whoever finds the shard finds what is missing from it.
        let dropped_bytes = self.list.sync(&name)?;
        self.account.shards += 1;
        self.account.bytes += shard.bytes();
        let account = self.account.clone();
        let failed = |source| WriteError::Io { path: self.spec.to.folder().join(&name), source };
        let bringing = Bringing::begin(shard, &self.making).map_err(failed)?;
        self.on_the_way.push_back(OnTheWay { name, samples, dropped_bytes, account, bringing });
        Ok(placed)
    }

    /// Puts the first of the shards on their way into its place, if it need not be waited for.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn place_ready(&mut self) -> Result<Option<Written>, WriteError> {
        if self.on_the_way.front().is_some_and(|ended| ended.bringing.is_done()) { self.place() } else { Ok(None) }
    }

    /// Puts those of the shards on their way into their places that can be, when something else failed.
    pub fn save_ended(&mut self) {
        while let Ok(Some(_)) = self.place() {}
    }

    /// Waits for the first of the shards on their way, and puts it into its place; `None` when there is none.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn place(&mut self) -> Result<Option<Written>, WriteError> {
        let Some(ended) = self.on_the_way.pop_front() else { return Ok(None) };
        let placed = self.place_ended(ended);
        if placed.is_err() {
            // What comes after a shard that is missing would have it taken for settled.
            self.on_the_way.clear();
        }
        placed.map(Some)
    }

    fn place_ended(&mut self, ended: OnTheWay) -> Result<Written, WriteError> {
        let path = || self.spec.to.folder().join(&ended.name);
        let lost = || WriteError::Io { path: path(), source: io::Error::other("the thread that syncs ended early") };
        let sealed = ended.bringing.wait().ok_or_else(lost)??;
        let stamp = sealed.stamp();
        let (shard, samples, bytes) = (ended.name.clone(), ended.samples, stamp.size);
        let written = Written { shard, samples, bytes, sha256: sealed.sha256() };
        let (seconds, nanoseconds) = (stamp.seconds, stamp.nanoseconds);
        let (account, dropped_bytes) = (ended.account.clone(), ended.dropped_bytes);
        self.state.note(&Line { written: written.clone(), seconds, nanoseconds, dropped_bytes, account })?;
        sealed.place(&self.cache)?;
        self.placed.clone_from(&ended.account);
        self.written.push(written.clone());
        self.send(written.shard.clone())?;
        Ok(written)
    }

    /// Ends the last shard and puts the lists beside the set, which is whole then.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn finish(mut self) -> Result<SetAccount, WriteError> {
        self.complete()?;
        self.end()
    }

    /// [`Self::finish`] up to where a killed process could still go on: of several sets that are written together, each
    /// is completed before any is ended.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn complete(&mut self) -> Result<(), WriteError> {
        self.end_shard()?;
        while self.place()?.is_some() {}
        let to = &self.spec.to;
        if let Some(away) = to.away() {
            away.finish().map_err(|(name, source)| to.lost(&name, source))?;
            self.note_sent()?;
        }
        if self.spec.force && self.spec.split.is_numbered() {
            self.remove_stale()?;
        }
        if self.spec.split.is_numbered() {
            self.list.sync("")?;
        }
        let (to, set, is_shared) = (&self.spec.to, &self.spec.name, !self.spec.split.is_numbered());
        if let Some(away) = to.away() {
            self.list.put_away(to, away, &self.written)?;
        }
        match to.away() {
            _ if self.written.is_empty() => Ok(()),
            None => lists::put(to.folder(), set, &self.written, is_shared),
            Some(away) => {
                let put = lists::put_away(away, set, &self.written, is_shared);
                put.map_err(|(name, source)| to.lost(&name, source))
            }
        }
    }

    /// Removes shards that the set had before it was made again, smaller.
    fn remove_stale(&self) -> Result<(), WriteError> {
        let to = &self.spec.to;
        let Some(away) = to.away() else {
            let own: BTreeSet<&str> = self.written.iter().map(|shard| shard.shard.as_str()).collect();
            let stale = numbered(&self.spec).into_iter().filter(|name| !own.contains(name.as_str()));
            stale.for_each(|name| remove(&to.folder().join(name)));
            return Ok(());
        };
        self.remove_stale_there(away)
    }

    /// Forgets how far the set was, as it is complete.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn end(self) -> Result<SetAccount, WriteError> {
        self.state.end()?;
        if self.spec.to.away().is_some() {
            self.list.forget_here(&self.written);
        }
        Ok(self.account)
    }

    /// Whether the shard must end before this sample.
    fn is_full(&self, key: &str, members: &[(&str, &[u8])]) -> bool {
        let Some(current) = self.current.as_ref().filter(|current| current.samples > 0) else { return false };
        let (most_samples, most_bytes) = match self.spec.split {
            Split::Numbered { most_samples, most_bytes } => (most_samples, most_bytes),
            Split::Even { samples, shards } => {
                let shard_of = |number| share_of(number, samples, shards);
                return shard_of(self.account.offered()) != shard_of(current.first);
            }
            Split::Named(_) => return false,
        };
        let bytes = || members.iter().map(|(extension, data)| member_bytes(key, extension, data.len())).sum::<u64>();
        most_samples.is_some_and(|most| current.samples >= most)
            || most_bytes.is_some_and(|most| current.shard.bytes() + bytes() > most)
    }

    /// The shard that is being written, begun if there is none.
    fn current(&mut self) -> Result<&mut Current, WriteError> {
        if self.current.is_none() {
            let number = self.ended();
            let name = match &self.spec.split {
                Split::Numbered { .. } | Split::Even { .. } => shard_name(&self.spec.name, number),
                Split::Named(names) => {
                    let name = names.get(number).cloned();
                    name.ok_or_else(|| WriteError::SetName { name: self.spec.name.clone() })?
                }
            };
            let force = self.spec.force || self.again.contains(&name);
            if !force {
                refuse(&self.spec.to, &name)?;
            }
            let shard = ShardWriter::create_with(&self.spec.to.folder().join(&name), force, &self.making)?;
            let first = self.account.offered();
            self.current = Some(Current { name, shard, first, samples: 0, last_key: String::new() });
        }
        self.current.as_mut().ok_or_else(|| WriteError::SetName { name: self.spec.name.clone() })
    }
}

fn making(spec: &SetSpec) -> Result<Making, WriteError> {
    Making::new().map_err(|source| WriteError::Io { path: spec.to.folder().to_owned(), source })
}

/// The names of the set's shards, of those that may lie here.
fn names_here(spec: &SetSpec) -> Vec<String> {
    match &spec.split {
        Split::Numbered { .. } | Split::Even { .. } => numbered(spec),
        Split::Named(names) => names.clone(),
    }
}

/// Bytes of the shards that a set would take the place of.
pub fn replaced_bytes(spec: &SetSpec) -> u64 {
    names_here(spec).iter().filter_map(|name| Some(fs::metadata(spec.to.folder().join(name)).ok()?.len())).sum()
}

fn fingerprint(spec: &SetSpec) -> String {
    let SetSpec { name, split, request, .. } = spec;
    hex(&Sha256::digest(format!("{name}\n{split:?}\n{request}")))
}

/// Parts of a set that several processes write have a state each, named after their first shard.
fn state_path(spec: &SetSpec) -> PathBuf {
    let name = match &spec.split {
        Split::Numbered { .. } | Split::Even { .. } => &spec.name,
        Split::Named(names) => names.first().unwrap_or(&spec.name),
    };
    spec.to.folder().join(format!("{}.unfinished.jsonl", name.strip_suffix(".tar").unwrap_or(name)))
}

fn dropped_path(spec: &SetSpec) -> PathBuf {
    let own = spec.split.is_numbered().then(|| format!("{}.dropped.jsonl", spec.name));
    spec.to.folder().join(own.unwrap_or_else(|| "dropped.jsonl".into()))
}

/// Other shards than `own` in the places of the set's are nobody's to write over unasked.
fn refuse_shards(spec: &SetSpec, own: &BTreeSet<String>) -> Result<(), WriteError> {
    if spec.force {
        return Ok(());
    }
    let index = lists::index_name(&spec.name);
    match spec.to.text(&index) {
        Ok(Some(text)) if lists::is_no_index(&text) => {
            return Err(WriteError::Exists { path: spec.to.path(&index) });
        }
        // What cannot be read is found again when it is to be written.
        Ok(_) | Err(WriteError::Io { .. }) => {}
        Err(error) => return Err(error),
    }
    // A store is asked for the first shard that would be written, and for each of the others as it is begun.
    let names = match (&spec.split, spec.to.away()) {
        (Split::Numbered { .. } | Split::Even { .. }, None) => numbered(spec),
        (Split::Numbered { .. } | Split::Even { .. }, Some(_)) => vec![shard_name(&spec.name, own.len())],
        (Split::Named(names), away) => {
            let is_asked = |name: &&String| away.is_none() || !own.contains(*name);
            names.iter().filter(is_asked).take(if away.is_some() { 1 } else { usize::MAX }).cloned().collect()
        }
    };
    names.iter().filter(|name| !own.contains(*name)).try_for_each(|name| refuse(&spec.to, name))
}

/// # Errors
/// When there is a file of this name.
fn refuse(to: &Destination, name: &str) -> Result<(), WriteError> {
    if to.has(name)? { Err(WriteError::Exists { path: to.path(name) }) } else { Ok(()) }
}

/// Shards of a numbered set that are in the folder, in order.
fn numbered(spec: &SetSpec) -> Vec<String> {
    let entries = fs::read_dir(spec.to.folder()).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_shard_of(&spec.name, Path::new(name)));
    names.sort_unstable();
    names
}

/// Removes a shard that is not wanted here any more; its index first, which nobody would look for without it.
fn remove(shard: &Path) {
    let _ = beside(shard).map(fs::remove_file);
    let _ = fs::remove_file(shard);
}
