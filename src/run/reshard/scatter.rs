//! A shuffle of more than fits into memory: the shards are read from their beginnings to their ends, and each sample
//! goes to the end of the bucket that its place in the order belongs to. A bucket then fits into memory, where its
//! samples are put in order. So the data are read and written twice, never at random.
//!
//! Buckets are files of a folder beside the shards. Once all are whole a note says of what; a call that takes up
//! the same work uses them again. A bucket goes when all of its samples are in shards that are in their places.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::feed::{Opened, read};
use super::pick::Choice;
use super::treat::{Members, Raw};
use crate::shard::Cache;

/// More memory than this for a bucket makes nothing faster.
const MOST_BUCKET_BYTES: u64 = 1 << 30;
/// Each is an open file with a buffer.
const MOST_BUCKETS: usize = 512;
const BUFFER_BYTES: usize = 256 << 10;
/// A record's fields beside names and data: number of the sample, and lengths.
const RECORD_BYTES: u64 = 64;
const NOTE: &str = "whole.json";

/// What the buckets of a folder are, once they are whole.
#[derive(PartialEq, Serialize, Deserialize)]
struct Note {
    request: String,
    /// Places of the order where the buckets begin, and where the last one ends.
    starts: Vec<usize>,
}

/// A folder of buckets.
pub struct Buckets {
    folder: PathBuf,
    starts: Vec<usize>,
    current: Option<(usize, Arc<Bucket>)>,
}

/// A bucket in memory.
pub struct Bucket {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where each sample's record begins, in order.
    records: Vec<usize>,
}

/// What a scatter needs to know.
pub struct Scatter<'a> {
    pub folder: PathBuf,
    pub choice: &'a Choice,
    /// The place of the order from which on samples are wanted.
    pub from: usize,
    /// Bytes that may be held in memory.
    pub memory: u64,
    pub request: String,
}

impl Scatter<'_> {
    /// Uses the buckets that are there, or makes them; `tell` hears how many samples are in buckets.
    ///
    /// # Errors
    /// When a shard cannot be read, when the disk fails, and when the memory is too small for so much.
    pub fn buckets(&self, cache: &Cache, tell: &mut dyn FnMut(u64)) -> Result<Buckets> {
        if let Some(starts) = self.whole() {
            return Ok(Buckets { folder: self.folder.clone(), starts, current: None });
        }
        remove(&self.folder)?;
        let starts = self.starts()?;
        fs::create_dir_all(&self.folder).with_context(|| format!("{}: cannot be made", self.folder.display()))?;
        let made = self.fill(&starts, cache, tell);
        if made.is_err() {
            let _ = fs::remove_dir_all(&self.folder);
        }
        made?;
        Ok(Buckets { folder: self.folder.clone(), starts, current: None })
    }

    /// Where the buckets begin that are whole and hold what is wanted.
    fn whole(&self) -> Option<Vec<usize>> {
        let note: Note = serde_json::from_slice(&fs::read(self.folder.join(NOTE)).ok()?).ok()?;
        let last = *note.starts.last()?;
        let wanted = note.starts.windows(2).enumerate().filter(|(_, range)| range[1] > self.from);
        let are_there = wanted.into_iter().all(|(bucket, _)| bucket_path(&self.folder, bucket).is_file());
        let is_same =
            note.request == self.request && last == self.choice.order.len() && *note.starts.first()? <= self.from;
        (is_same && are_there).then_some(note.starts)
    }

    /// Where buckets begin: each is as large as two may be beside what else is in memory.
    fn starts(&self) -> Result<Vec<usize>> {
        let order = self.choice.order.get(self.from..).unwrap_or_default();
        let bytes = |chosen: &super::pick::Chosen| RECORD_BYTES + if chosen.is_read() { chosen.bytes } else { 0 };
        let all: u64 = order.iter().map(bytes).sum();
        let least = all / (MOST_BUCKETS as u64 / 2);
        let most = (self.memory / 4).min(MOST_BUCKET_BYTES.max(least)).max(1);
        let mut starts = vec![self.from];
        let mut held = 0;
        for (place, chosen) in (self.from..).zip(order) {
            if held > 0 && held + bytes(chosen) > most {
                starts.push(place);
                held = 0;
            }
            held += bytes(chosen);
        }
        if starts.len() > MOST_BUCKETS {
            let (most, needed) = (self.memory / 1_000_000, 4 * least / 1_000_000 + 1);
            bail!("shuffling {} MB takes {needed} MB of memory, {most} MB may be used; see --memory", all / 1_000_000);
        }
        starts.push(self.choice.order.len());
        Ok(starts)
    }

    fn fill(&self, starts: &[usize], cache: &Cache, tell: &mut dyn FnMut(u64)) -> Result<()> {
        let failed = |path: &Path| format!("{}: cannot be written", path.display());
        let mut files = Vec::new();
        for bucket in 0..starts.len().saturating_sub(1) {
            let path = bucket_path(&self.folder, bucket);
            let file = File::create(&path).with_context(|| failed(&path))?;
            files.push((path, BufWriter::with_capacity(BUFFER_BYTES, file)));
        }
        let mut order: Vec<(u32, u32, usize)> = (self.from..)
            .zip(self.choice.order.get(self.from..).unwrap_or_default())
            .map(|(number, chosen)| (chosen.shard, chosen.place, number))
            .collect();
        order.sort_unstable();
        let mut opened = Opened::new(&self.choice.origins, cache, 1);
        for (done, (shard, _, number)) in (1..).zip(order) {
            let source = opened.get(shard)?;
            let Some(chosen) = self.choice.order.get(number) else { break };
            let record = record(number, &read(&source, chosen)?);
            let bucket = starts.partition_point(|start| *start <= number).saturating_sub(1);
            let Some((path, file)) = files.get_mut(bucket) else { break };
            file.write_all(&record).with_context(|| failed(path))?;
            tell(done);
        }
        for (path, file) in files {
            let file = file.into_inner().map_err(|error| error.into_error()).with_context(|| failed(&path))?;
            file.sync_all().with_context(|| failed(&path))?;
        }
        let path = self.folder.join(NOTE);
        let note = Note { request: self.request.clone(), starts: starts.to_vec() };
        let mut file = File::create(&path).with_context(|| failed(&path))?;
        file.write_all(&serde_json::to_vec(&note)?).and_then(|()| file.sync_all()).with_context(|| failed(&path))
    }
}

impl Buckets {
    /// The bucket that holds a place of the order, and the sample's place in it. Places are asked for in order.
    pub fn get(&mut self, place: usize) -> Result<(Arc<Bucket>, usize)> {
        let number = self.starts.partition_point(|start| *start <= place).saturating_sub(1);
        let start = self.starts.get(number).copied().unwrap_or_default();
        if let Some((current, bucket)) = &self.current
            && *current == number
        {
            return Ok((Arc::clone(bucket), place - start));
        }
        // Workers may still read from the one before.
        self.current = None;
        let end = self.starts.get(number + 1).copied().unwrap_or_default();
        let bucket = Arc::new(Bucket::open(&bucket_path(&self.folder, number), start..end)?);
        self.current = Some((number, Arc::clone(&bucket)));
        Ok((bucket, place - start))
    }
}

/// Removes the buckets that hold nothing from this place of the order on.
pub fn remove_before(folder: &Path, place: usize) {
    let note = fs::read(folder.join(NOTE)).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
    let starts = note.map(|note| note.starts).unwrap_or_default();
    let used = starts.iter().skip(1).take_while(|end| **end <= place).count();
    (0..used).for_each(|bucket| drop(fs::remove_file(bucket_path(folder, bucket))));
}

/// Removes all buckets.
pub fn remove(folder: &Path) -> Result<()> {
    if folder.symlink_metadata().is_err() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("{}: cannot be removed", folder.display()))
}

fn bucket_path(folder: &Path, bucket: usize) -> PathBuf {
    folder.join(format!("bucket-{bucket:04}"))
}

/// Number, length, key, and each member's extension and data, each after its length.
fn record(number: usize, raw: &Raw) -> Vec<u8> {
    let mut record = Vec::new();
    let mut field = |bytes: &[u8]| {
        record.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        record.extend_from_slice(bytes);
    };
    field(raw.key.as_bytes());
    for (extension, data) in &raw.members {
        field(extension.as_bytes());
        field(data);
    }
    let head = [number as u64, record.len() as u64].map(u64::to_le_bytes);
    [head.as_flattened(), &record].concat()
}

impl Bucket {
    fn open(path: &Path, places: std::ops::Range<usize>) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let damaged = || format!("{}: damaged; remove its folder and start again", path.display());
        let mut records = vec![None; places.len()];
        let mut rest = Fields { bytes: &bytes, at: 0 };
        while rest.at < bytes.len() {
            let number = rest.number().with_context(damaged)? as usize;
            let length = rest.number().with_context(damaged)?;
            let place = number.checked_sub(places.start).and_then(|place| records.get_mut(place));
            *place.with_context(damaged)? = Some(rest.at);
            rest.take(length).with_context(damaged)?;
        }
        let records = records.into_iter().collect::<Option<_>>().with_context(damaged)?;
        Ok(Self { path: path.to_owned(), bytes, records })
    }

    /// Key and members of the sample at a place.
    pub fn sample(&self, place: usize) -> Result<(String, Members)> {
        self.parse(place)
            .with_context(|| format!("{}: damaged; remove its folder and start again", self.path.display()))
    }

    fn parse(&self, place: usize) -> Option<(String, Members)> {
        let start = *self.records.get(place)?;
        // The length stands before the record's fields.
        let length = Fields { bytes: &self.bytes, at: start.checked_sub(8)? }.number()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        let mut fields = Fields { bytes: self.bytes.get(..end)?, at: start };
        let key = fields.text()?;
        let mut members = Vec::new();
        while fields.at < end {
            let extension = fields.text()?;
            members.push((extension, fields.data()?.to_vec()));
        }
        Some((key, members))
    }
}

struct Fields<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Fields<'b> {
    fn take(&mut self, length: u64) -> Option<&'b [u8]> {
        let end = self.at.checked_add(usize::try_from(length).ok()?)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn data(&mut self) -> Option<&'b [u8]> {
        let length = self.number()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        str::from_utf8(self.data()?).ok().map(str::to_owned)
    }
}
