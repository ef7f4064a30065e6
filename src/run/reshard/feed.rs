//! The order of a choice → its samples, one after the other: from the shards, or from what a scatter made of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::super::belt::GROUP_BYTES;
use super::pick::{Choice, Chosen, Origin};
use super::scatter::{Bucket, Buckets};
use super::treat::Raw;
use crate::shard::{Cache, Source};

/// Where the bytes come from.
pub enum From<'a> {
    Shards(Opened<'a>),
    Buckets(Buckets),
}

/// Hands out samples in order, from a place of the order on.
pub struct Feed<'a> {
    choice: &'a Choice,
    from: From<'a>,
    next: usize,
}

/// A sample that was handed out and is yet to be read, by whoever has it.
pub struct Ticket {
    pub chosen: Chosen,
    bytes: Bytes,
}

enum Bytes {
    Shard(Arc<Source>),
    Bucket(Arc<Bucket>, usize),
}

impl<'a> Feed<'a> {
    pub fn new(choice: &'a Choice, from: From<'a>, next: usize) -> Self {
        Self { choice, from, next }
    }

    /// The next samples, as many as make a turn and no more than `most`; none when all were handed out, or after an error.
    pub fn group(&mut self, most: usize) -> Vec<Result<Ticket>> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        let first = self.shard();
        while bytes < GROUP_BYTES && group.len() < most {
            // The shard before is given up first, as this one may need its room.
            let must_wait = matches!(&self.from, From::Shards(opened) if opened.most == 1) && self.shard() != first;
            let Some(ticket) = (if must_wait { None } else { self.next() }) else { break };
            bytes += ticket.as_ref().map_or(0, Ticket::bytes);
            group.push(ticket);
        }
        group
    }

    /// Of the next sample.
    fn shard(&self) -> Option<u32> {
        self.choice.order.get(self.next).map(|chosen| chosen.shard)
    }

    fn next(&mut self) -> Option<Result<Ticket>> {
        let chosen = *self.choice.order.get(self.next)?;
        let bytes = match &mut self.from {
            From::Shards(opened) => opened.get(chosen.shard).map(Bytes::Shard),
            From::Buckets(buckets) => buckets.get(self.next).map(|(bucket, place)| Bytes::Bucket(bucket, place)),
        };
        self.next = if bytes.is_ok() { self.next + 1 } else { self.choice.order.len() };
        Some(bytes.map(|bytes| Ticket { chosen, bytes }))
    }
}

impl Ticket {
    /// Those that will be read.
    pub fn bytes(&self) -> u64 {
        if self.chosen.is_read() { self.chosen.bytes } else { 0 }
    }

    /// Reads the sample; its key alone, where its bytes are not wanted.
    pub fn read(&self, choice: &Choice) -> Result<Raw> {
        match &self.bytes {
            Bytes::Shard(source) => read(source, &self.chosen),
            Bytes::Bucket(bucket, place) => {
                let from = choice.origins.get(self.chosen.shard as usize).map_or(Path::new(""), |origin| &origin.path);
                let (key, members) = bucket.sample(*place)?;
                Ok(Raw { key, from: from.into(), members })
            }
        }
    }
}

/// Reads a sample of a shard; its key alone, where its bytes are not wanted.
pub fn read(source: &Source, chosen: &Chosen) -> Result<Raw> {
    let Some(sample) = source.table().sample(chosen.place as usize) else {
        bail!("{}: changed meanwhile, start again once it is whole", source.path().display());
    };
    let members = if chosen.is_read() { source.read(&sample)? } else { Vec::new() };
    Ok(Raw { key: sample.key.to_owned(), from: source.path().into(), members })
}

/// Open shards: those that were asked for last.
pub struct Opened<'a> {
    origins: &'a [Origin],
    cache: &'a Cache,
    open: BTreeMap<u32, Arc<Source>>,
    most: usize,
}

impl<'a> Opened<'a> {
    pub fn new(origins: &'a [Origin], cache: &'a Cache, most: usize) -> Self {
        Self { origins, cache, open: BTreeMap::new(), most }
    }

    /// # Errors
    /// When the shard cannot be opened, or is not as it was when it was chosen from.
    pub fn get(&mut self, shard: u32) -> Result<Arc<Source>> {
        if let Some(source) = self.open.get(&shard) {
            return Ok(Arc::clone(source));
        }
        let Some(origin) = self.origins.get(shard as usize) else {
            bail!("shard {shard}: not among those chosen from")
        };
        // Before the next one, which may need its room on the disk.
        if self.open.len() >= self.most {
            self.open.pop_first();
        }
        let source = Arc::new(Source::open(&origin.path, self.cache)?);
        if source.stamp() != origin.stamp {
            bail!("{}: changed meanwhile, start again once it is whole", origin.path.display());
        }
        self.open.insert(shard, Arc::clone(&source));
        Ok(source)
    }

    /// Opens all and has the system read them ahead, each from its beginning to its end.
    pub fn read_ahead(&mut self) -> Result<()> {
        for shard in 0..u32::try_from(self.origins.len())? {
            self.get(shard)?.read_ahead();
        }
        Ok(())
    }
}
