//! Shards, listed → numbered samples, and the bytes of each.
//!
//! A set is immutable and shared by all threads. Samples are numbered over all shards in the order listed; those that
//! cannot be used have no number and are complained about.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use super::files::{OpenFiles, Opened, is_same, read_at_once};
use super::index::{Index, Stamp, hex};
use super::remote::{Depot, Id, RemoteError, is_remote};
use super::table::{Label, Member, Sample};
use super::{Cache, ReadError, ShardError, expand, in_parallel};

/// The largest JPEG that its format allows (65,535 pixels a side) stays below this; a larger image is a slip.
pub(super) const MOST_IMAGE_BYTES: u64 = 1 << 30;

/// Shards and the places of their samples.
#[derive(Debug)]
pub struct ShardSet {
    shards: Vec<Shard>,
    complaints: Vec<Complaint>,
    files: OpenFiles,
    /// Of shards on other machines, if there are any.
    depot: Option<Arc<Depot>>,
}

/// One shard of a set: the samples that can be used.
#[derive(Debug)]
pub struct Shard {
    path: Arc<Path>,
    stamp: Stamp,
    first: u32,
    keys: String,
    rows: Vec<Row>,
    /// Whether any of its images is named as a PPM; what they are, their bytes alone tell.
    has_ppm: bool,
    /// Its number in the set's depot, if it is on another machine.
    remote: Option<Id>,
}

/// A key begins where the one of the row before ends, in the shard's one string of keys.
#[derive(Debug)]
struct Row {
    offset: u64,
    length: u64,
    key_end: usize,
    label: Option<u32>,
}

/// Where one sample's image lies; `offset` and `length` in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRef<'a> {
    pub key: &'a str,
    pub shard: &'a Path,
    pub shard_number: usize,
    pub offset: u64,
    pub length: u64,
    pub label: Option<u32>,
}

/// What is wrong with a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    NoImage,
    NoLabel,
    BadLabel,
    HugeImage,
}

/// A sample that lacks something, and whether the set does without it for that reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: sample `{key}`: {why}", .shard.display())]
pub struct Complaint {
    pub shard: Arc<Path>,
    pub key: String,
    pub why: Why,
    pub left_out: bool,
}

impl fmt::Display for Why {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(match self {
            Self::NoImage => "no image",
            Self::NoLabel => "no label",
            Self::BadLabel => "its label is no unsigned 32-bit number",
            Self::HugeImage => "its image claims more than 1 GiB",
        })
    }
}

/// An image's bytes where the system holds them. What they are worth, [`Held::is_intact`] tells after their use.
#[derive(Debug)]
pub struct Held {
    file: Arc<Opened>,
    stamp: Stamp,
    range: Range<usize>,
}

impl Held {
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.file.bytes(self.stamp.size).unwrap_or_default();
        bytes.get(self.range.clone()).unwrap_or_default()
    }

    /// Whether the bytes that were used are those of the shard that was indexed.
    pub fn is_intact(&self) -> bool {
        !self.file.is_torn() && is_same(&self.file.file, self.stamp).unwrap_or(false)
    }
}

impl ShardSet {
    /// Opens the shards that `patterns` stand for, indexing those that have no current index.
    ///
    /// # Errors
    /// Patterns that stand for nothing, a shard that is damaged or cannot be opened, and a set without any sample.
    pub fn open(patterns: &[String], need_labels: bool) -> Result<Self, ShardError> {
        Self::open_with(patterns, need_labels, &Cache::from_env())
    }

    /// Like [`ShardSet::open`], with the cache folder given.
    ///
    /// # Errors
    /// As [`ShardSet::open`].
    pub fn open_with(patterns: &[String], need_labels: bool, cache: &Cache) -> Result<Self, ShardError> {
        let paths = expand(patterns, cache)?;
        let opened = in_parallel(&paths, |path| {
            let index = Index::open(path, cache)?;
            let (mut shard, complaints) = Shard::of(path, &index, need_labels);
            if is_remote(path) {
                shard.remote = Some(cache.find(path)?.1);
            }
            Ok((shard, complaints))
        })?;
        let mut set = Self {
            shards: Vec::with_capacity(paths.len()),
            complaints: Vec::new(),
            files: OpenFiles::default(),
            depot: None,
        };
        if let Some(path) = paths.iter().find(|path| is_remote(path)) {
            set.depot = Some(cache.find(path)?.0);
        }
        for (mut shard, complaints) in opened {
            shard.first = set.count();
            if u32::try_from(shard.len()).ok().and_then(|len| shard.first.checked_add(len)).is_none() {
                return Err(ShardError::TooManySamples { path: shard.path.to_path_buf(), most: u32::MAX });
            }
            set.shards.push(shard);
            set.complaints.extend(complaints);
        }
        if set.is_empty() {
            return Err(ShardError::NoSamples { shards: paths.len(), first: set.complaints.into_iter().next() });
        }
        Ok(set)
    }

    pub fn len(&self) -> usize {
        self.count() as usize
    }

    /// Never true of a set that [`ShardSet::open`] returned.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The samples that were left out, and those kept although their label is a bad one.
    pub fn complaints(&self) -> &[Complaint] {
        &self.complaints
    }

    /// # Panics
    /// When `number` is not below [`ShardSet::len`].
    pub fn sample(&self, number: u32) -> SampleRef<'_> {
        let shard_number = self.shards.partition_point(|shard| shard.first <= number) - 1;
        let shard = &self.shards[shard_number];
        shard.sample((number - shard.first) as usize, shard_number)
    }

    /// Puts the bytes of a sample's image into `into`, whose content is replaced.
    ///
    /// # Errors
    /// A shard that is gone, was changed or replaced since the set was opened, or cannot be read.
    ///
    /// # Panics
    /// When `number` is not below [`ShardSet::len`].
    pub fn read(&self, number: u32, into: &mut Vec<u8>) -> Result<(), ReadError> {
        self.read_until(number, into, &AtomicBool::new(false))
    }

    /// As [`Self::read`], unless `stop` is set while the shard is waited for.
    ///
    /// # Errors
    /// As [`Self::read`], and when `stop` is set.
    ///
    /// # Panics
    /// As [`Self::read`].
    pub fn read_until(&self, number: u32, into: &mut Vec<u8>, stop: &AtomicBool) -> Result<(), ReadError> {
        let sample = self.sample(number);
        let length = sample.length as usize;
        into.reserve_exact(length.saturating_sub(into.len()));
        // What it held is overwritten, so only what it grows by need be zeroed.
        into.resize(length, 0);
        match self.try_read(&sample, into, stop) {
            Ok(true) => Ok(()),
            // The open file may be another one than its name stands for by now; that one decides.
            _ => {
                self.forget(sample.shard_number);
                match self.try_read(&sample, into, stop) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(ReadError::Changed { path: sample.shard.to_owned() }),
                    Err(source) => Err(self.read_error(&sample, source)),
                }
            }
        }
    }

    /// A sample's image where the system holds it in memory, if its shard has images without compression, if it is as
    /// long as `start`, which gets its first bytes, and if both its ends come without waiting, as they do when it was
    /// read lately; none leaves open why.
    ///
    /// # Panics
    /// When `number` is not below [`ShardSet::len`].
    pub fn held(&self, number: u32, start: &mut [u8]) -> Option<Held> {
        let sample = self.sample(number);
        let shard = &self.shards[sample.shard_number];
        let last = sample.length.checked_sub(1).filter(|_| shard.has_ppm && start.len() as u64 <= sample.length)?;
        let file = self.here(sample.shard_number).ok()??;
        let reads = |offset, into: &mut [u8]| read_at_once(&file.file, offset, into);
        let is_there = reads(sample.offset, start) && reads(sample.offset + last, &mut [0]);
        let range = sample.offset as usize..(sample.offset + sample.length) as usize;
        let is_mapped =
            is_there && !file.is_torn() && file.bytes(shard.stamp.size).is_some_and(|bytes| range.end <= bytes.len());
        is_mapped.then_some(Held { file, stamp: shard.stamp, range })
    }

    /// SHA-256, in hex, over each shard's file name and size and each sample's key, label and place.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        for shard in &self.shards {
            let name = shard.path.file_name().unwrap_or_default().as_encoded_bytes();
            for number in [name.len() as u64, shard.stamp.size, shard.len() as u64, shard.keys.len() as u64] {
                digest.update(number.to_le_bytes());
            }
            digest.update(name);
            digest.update(shard.keys.as_bytes());
            for row in &shard.rows {
                // A label is 32 bits wide, so that none is a number of its own.
                let label = row.label.map_or(u64::MAX, u64::from);
                for number in [row.key_end as u64, row.offset, row.length, label] {
                    digest.update(number.to_le_bytes());
                }
            }
        }
        hex(&digest.finalize())
    }

    fn count(&self) -> u32 {
        self.shards.last().map_or(0, |shard| shard.first + shard.rows.len() as u32)
    }

    /// Whether the bytes are those of the shard that was indexed; asked after reading, so that no change slips through.
    fn try_read(&self, sample: &SampleRef<'_>, into: &mut [u8], stop: &AtomicBool) -> io::Result<bool> {
        let remote = self.shards[sample.shard_number].remote.zip(self.depot.as_ref());
        if let Some((id, depot)) = remote {
            depot.arrive(id, stop)?;
        }
        let opened = match (self.here(sample.shard_number)?, remote) {
            (Some(opened), _) => opened,
            (None, Some((id, depot))) => {
                return match depot.read(id, sample.offset, into, stop) {
                    Err(RemoteError::Changed) => Ok(false),
                    other => Ok(other.map(|()| true)?),
                };
            }
            (None, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        let file = &opened.file;
        let read = file.read_exact_at(into, sample.offset);
        if !is_same(file, self.shards[sample.shard_number].stamp)? {
            return Ok(false);
        }
        read.map(|()| true)
    }

    /// A shard's open file; none while it is on another machine only.
    fn here(&self, shard_number: usize) -> io::Result<Option<Arc<Opened>>> {
        let shard = &self.shards[shard_number];
        match shard.remote.zip(self.depot.as_ref()) {
            None => self.files.get(shard_number, &shard.path).map(Some),
            Some((id, depot)) => match self.files.find(shard_number) {
                Some(opened) => Ok(Some(opened)),
                None => depot.file(id).map(|path| self.files.get(shard_number, &path)).transpose(),
            },
        }
    }

    fn forget(&self, shard_number: usize) {
        self.files.forget(shard_number);
        if let Some((id, depot)) = self.shards[shard_number].remote.zip(self.depot.as_ref()) {
            depot.lost(id);
        }
    }

    /// Whether the shard of a sample is on its way here.
    ///
    /// # Panics
    /// When `number` is not below [`ShardSet::len`].
    pub fn is_awaited(&self, number: u32) -> bool {
        let Some(depot) = &self.depot else { return false };
        let shard = &self.shards[self.sample(number).shard_number];
        shard.remote.is_some_and(|id| depot.is_awaited(id))
    }

    /// Waits until the shard of a sample is here, or will not be: reading tells which, and why.
    ///
    /// # Panics
    /// When `number` is not below [`ShardSet::len`].
    pub fn await_shard(&self, number: u32, stop: &AtomicBool) {
        let shard = &self.shards[self.sample(number).shard_number];
        if let Some((id, depot)) = shard.remote.zip(self.depot.as_ref()) {
            let _ = depot.arrive(id, stop);
        }
    }

    /// Closes the files of shards that need not stay here.
    pub(super) fn let_go(&self) {
        let Some(depot) = &self.depot else { return };
        let is_kept = |shard: usize| {
            let remote = self.shards.get(shard).and_then(|shard| shard.remote);
            remote.is_none_or(|id| depot.is_wanted(id))
        };
        self.files.keep(is_kept);
    }

    pub(super) fn depot(&self) -> Option<&Arc<Depot>> {
        self.depot.as_ref()
    }

    /// Bytes that fetched shards may take, where some are fetched.
    pub fn room(&self) -> Option<u64> {
        self.depot.as_ref().map(|depot| depot.most())
    }

    fn read_error(&self, sample: &SampleRef<'_>, source: io::Error) -> ReadError {
        let (path, key) = (sample.shard.to_owned(), sample.key.to_owned());
        match source.kind() {
            io::ErrorKind::NotFound => ReadError::Gone { path },
            _ => ReadError::Io { path, key, source },
        }
    }
}

impl Shard {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many of its samples can be used.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The number of its first sample in the set.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// The size of its file.
    pub fn bytes(&self) -> u64 {
        self.stamp.size
    }

    /// Whether it is fetched from another machine.
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Its number in the set's depot, if it is on another machine.
    pub(super) fn remote(&self) -> Option<Id> {
        self.remote
    }

    fn of(path: &Path, index: &Index, need_labels: bool) -> (Self, Vec<Complaint>) {
        let path: Arc<Path> = Arc::from(path);
        let mut complaints = Vec::new();
        let mut shard = Self {
            path,
            stamp: index.stamp,
            first: 0,
            keys: String::new(),
            rows: Vec::new(),
            has_ppm: false,
            remote: None,
        };
        for sample in index.table.samples() {
            let (image, why) = judge(&sample, need_labels);
            if let Some(why) = why {
                let (shard, key) = (Arc::clone(&shard.path), sample.key.to_owned());
                complaints.push(Complaint { shard, key, why, left_out: image.is_none() });
            }
            if let Some(Member { offset, length, extension }) = image {
                shard.has_ppm |= extension.ends_with("ppm");
                shard.keys.push_str(sample.key);
                let label = if let Label::Known(number) = sample.label { Some(number) } else { None };
                shard.rows.push(Row { offset, length, key_end: shard.keys.len(), label });
            }
        }
        shard.keys.shrink_to_fit();
        shard.rows.shrink_to_fit();
        (shard, complaints)
    }

    fn sample(&self, place: usize, shard_number: usize) -> SampleRef<'_> {
        let row = &self.rows[place];
        let start = place.checked_sub(1).map_or(0, |before| self.rows[before].key_end);
        SampleRef {
            key: &self.keys[start..row.key_end],
            shard: &self.path,
            shard_number,
            offset: row.offset,
            length: row.length,
            label: row.label,
        }
    }
}

/// The image, if the sample can be used, and what is to be complained about either way.
fn judge<'t>(sample: &Sample<'t>, need_labels: bool) -> (Option<Member<'t>>, Option<Why>) {
    let Some(image) = sample.image() else {
        return (None, Some(Why::NoImage));
    };
    match sample.label {
        _ if image.length > MOST_IMAGE_BYTES => (None, Some(Why::HugeImage)),
        Label::None if need_labels => (None, Some(Why::NoLabel)),
        Label::Bad if need_labels => (None, Some(Why::BadLabel)),
        Label::Bad => (Some(image), Some(Why::BadLabel)),
        _ => (Some(image), None),
    }
}
