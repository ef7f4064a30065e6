//! A shard's table as bytes, with the size and time of the shard that it is of.
//!
//! The file is ours: a magic, a version, the shard's stamp, the table, and a SHA-256 over all of it.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::ShardError;
use super::table::{Label, MemberRow, SampleRow, Table};

const MAGIC: &[u8; 8] = b"SACCADEI";

/// Raised whenever the layout or what a table holds changes; other versions are made again.
const VERSION: u32 = 1;

const DIGEST_BYTES: usize = 32;

/// The bytes of an index at most: what is larger is none of such a shard.
pub fn most_bytes(shard_bytes: u64) -> u64 {
    /// Magic, version, stamp, four counts and digest.
    const FRAME_BYTES: u64 = 128;
    /// Per byte of the shard: a byte of a name that is not UTF-8 is written as `\xNN`, and the rows of a sample are
    /// smaller than the headers they describe.
    const GROWTH: u64 = 4;
    shard_bytes.saturating_mul(GROWTH).saturating_add(FRAME_BYTES)
}

/// A file's size in bytes and its modification time since 1970, by which a change is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub size: u64,
    pub seconds: i64,
    pub nanoseconds: i64,
}

/// What is known of one shard.
#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    pub stamp: Stamp,
    pub table: Table,
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.size(), seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() }
    }
}

impl Index {
    /// Walks a shard, header by header.
    ///
    /// # Errors
    /// A shard that cannot be read, is damaged, or changes meanwhile.
    pub fn walk(file: &File, shard: &Path) -> Result<Self, ShardError> {
        let path = || shard.to_owned();
        let opened = |source| ShardError::Open { path: path(), source };
        let stamp = Stamp::of(&file.metadata().map_err(opened)?);
        let table = Table::of(file, stamp.size);
        if Stamp::of(&file.metadata().map_err(opened)?) != stamp {
            return Err(ShardError::Unsettled { path: path() });
        }
        let table = table.map_err(|source| ShardError::Damaged { path: path(), source })?;
        Ok(Self { stamp, table })
    }

    /// SHA-256 over all that an index says.
    pub fn digest(&self) -> [u8; DIGEST_BYTES] {
        let bytes = self.encode();
        bytes.last_chunk().copied().unwrap_or_default()
    }

    /// The bytes of the index file, which [`Index::decode`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let Self { stamp, table } = self;
        let mut bytes =
            Vec::with_capacity(256 + table.keys.len() + 17 * table.samples.len() + 20 * table.members.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&stamp.size.to_le_bytes());
        bytes.extend_from_slice(&stamp.seconds.to_le_bytes());
        bytes.extend_from_slice(&stamp.nanoseconds.to_le_bytes());
        let counts = [table.keys.len(), table.extensions.len(), table.samples.len(), table.members.len()];
        for count in counts {
            bytes.extend_from_slice(&(count as u64).to_le_bytes());
        }
        bytes.extend_from_slice(table.keys.as_bytes());
        for extension in &table.extensions {
            bytes.extend_from_slice(&(extension.len() as u32).to_le_bytes());
            bytes.extend_from_slice(extension.as_bytes());
        }
        for row in &table.samples {
            encode_sample(row, &mut bytes);
        }
        for row in &table.members {
            bytes.extend_from_slice(&row.extension.to_le_bytes());
            bytes.extend_from_slice(&row.offset.to_le_bytes());
            bytes.extend_from_slice(&row.length.to_le_bytes());
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        bytes
    }

    /// `None` for anything but an undamaged index of this version whose every place lies inside its shard.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_BYTES)?)?;
        let mut fields = Fields(content);
        if fields.take(MAGIC.len())? != MAGIC
            || fields.u32()? != VERSION
            || Sha256::digest(content).as_slice() != digest
        {
            return None;
        }
        let stamp = Stamp { size: fields.u64()?, seconds: fields.i64()?, nanoseconds: fields.i64()? };
        let [keys, extensions, samples, members] = [fields.count()?, fields.count()?, fields.count()?, fields.count()?];
        let table = Table {
            keys: fields.text(keys)?,
            extensions: (0..extensions).map(|_| fields.extension()).collect::<Option<_>>()?,
            samples: (0..samples).map(|_| fields.sample()).collect::<Option<_>>()?,
            members: (0..members).map(|_| fields.member()).collect::<Option<_>>()?,
        };
        (fields.0.is_empty() && is_sound(&table, stamp.size)).then_some(Self { stamp, table })
    }
}

fn encode_sample(row: &SampleRow, bytes: &mut Vec<u8>) {
    let (tag, number) = match row.label {
        Label::None => (0u8, 0),
        Label::Known(number) => (1, number),
        Label::Bad => (2, 0),
    };
    bytes.extend_from_slice(&(row.key_end as u64).to_le_bytes());
    bytes.extend_from_slice(&(row.members_end as u64).to_le_bytes());
    bytes.push(tag);
    bytes.extend_from_slice(&number.to_le_bytes());
}

fn is_sound(table: &Table, size: u64) -> bool {
    let mut start = (0, 0);
    let samples = table.samples.iter().all(|row| {
        let (key, members) = std::mem::replace(&mut start, (row.key_end, row.members_end));
        table.keys.get(key..row.key_end).is_some() && table.members.get(members..row.members_end).is_some()
    });
    let members = table.members.iter().all(|row| {
        let inside = row.offset.checked_add(row.length).is_some_and(|end| end <= size);
        inside && (row.extension as usize) < table.extensions.len()
    });
    samples && members
}

/// A digest as text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What has not been read yet.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn count(&mut self) -> Option<usize> {
        self.u64()?.try_into().ok()
    }

    fn text(&mut self, length: usize) -> Option<String> {
        str::from_utf8(self.take(length)?).ok().map(str::to_owned)
    }

    fn extension(&mut self) -> Option<String> {
        let length = self.u32()?;
        self.text(length as usize)
    }

    fn sample(&mut self) -> Option<SampleRow> {
        let (key_end, members_end) = (self.count()?, self.count()?);
        let [tag] = self.array()?;
        let label = match (tag, self.u32()?) {
            (0, 0) => Label::None,
            (1, number) => Label::Known(number),
            (2, 0) => Label::Bad,
            _ => return None,
        };
        Some(SampleRow { key_end, members_end, label })
    }

    fn member(&mut self) -> Option<MemberRow> {
        Some(MemberRow { extension: self.u32()?, offset: self.u64()?, length: self.u64()? })
    }
}
