//! A shard's table, kept: made on first use, read back while the shard's size and time are the same.
//!
//! The file is ours: a magic, a version, the shard's stamp, the table, and a SHA-256 over all of it. Whatever is wrong
//! with an index file, the answer is to make it again; it never stops a run. It is written beside its place and
//! renamed, so that readers see the old file or the new one.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::ShardError;
use super::table::{Label, MemberRow, SampleRow, Table};

const MAGIC: &[u8; 8] = b"SACCADEI";

/// Raised whenever the layout or what a table holds changes; other versions are made again.
const VERSION: u32 = 1;

const DIGEST_BYTES: usize = 32;

/// Magic, version, stamp, four counts and digest.
const MOST_FRAME_BYTES: u64 = 128;

/// Bytes of an index per byte of its shard: a byte of a name that is not UTF-8 is written as `\xNN`, and the rows of a
/// sample are smaller than the headers they describe.
const MOST_GROWTH: u64 = 4;

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

/// The folder for the indexes of shards whose own folder is read-only; none where no home is known.
#[derive(Clone, Debug)]
pub struct Cache(Option<PathBuf>);

impl Cache {
    /// `$SACCADE_CACHE`, else `$XDG_CACHE_HOME/saccade`, else `~/.cache/saccade`.
    pub fn from_env() -> Self {
        Self::from_variables(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// Like [`Cache::from_env`], over any source of variables.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let own = variable("SACCADE_CACHE").map(PathBuf::from);
        let shared = || variable("XDG_CACHE_HOME").map(|folder| Path::new(&folder).join("saccade"));
        let home = || variable("HOME").map(|folder| Path::new(&folder).join(".cache/saccade"));
        Self(own.or_else(shared).or_else(home))
    }

    pub fn folder(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    /// The place of a shard's index in the cache; the shard's full path is part of it, since names repeat.
    pub fn place(&self, shard: &Path) -> Option<PathBuf> {
        let full = shard.canonicalize().ok()?;
        let path_digest = hex(&Sha256::digest(full.as_os_str().as_bytes()));
        let mut name = OsString::from(path_digest.get(..16)?);
        name.push("-");
        name.push(index_name(shard)?);
        Some(self.folder()?.join(name))
    }
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.size(), seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() }
    }
}

impl Index {
    /// Reads the kept index, or walks the shard and keeps what it found.
    ///
    /// # Errors
    /// A shard that cannot be opened or is damaged. An index that cannot be kept is made again next time.
    pub fn open(shard: &Path, cache: &Cache) -> Result<Self, ShardError> {
        let metadata = fs::metadata(shard).map_err(|source| ShardError::Open { path: shard.to_owned(), source })?;
        let stamp = Stamp::of(&metadata);
        match kept(shard, stamp, beside(shard)).or_else(|| kept(shard, stamp, cache.place(shard))) {
            Some(index) => Ok(index),
            None => Self::make(shard, cache).map(|(index, _)| index),
        }
    }

    /// Walks the shard whatever is kept, and tells where the new index lies, if it could be kept at all.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn make(shard: &Path, cache: &Cache) -> Result<(Self, Option<PathBuf>), ShardError> {
        let index = Self::walk(shard)?;
        let place = index.keep(shard, cache);
        tracing::debug!(shard = %shard.display(), samples = index.table.len(), kept = ?place, "index made");
        Ok((index, place))
    }

    fn walk(shard: &Path) -> Result<Self, ShardError> {
        let path = || shard.to_owned();
        let opened = |source| ShardError::Open { path: path(), source };
        let file = File::open(shard).map_err(opened)?;
        let stamp = Stamp::of(&file.metadata().map_err(opened)?);
        let table = Table::of(&file, stamp.size);
        if Stamp::of(&file.metadata().map_err(opened)?) != stamp {
            return Err(ShardError::Unsettled { path: path() });
        }
        let table = table.map_err(|source| ShardError::Damaged { path: path(), source })?;
        Ok(Self { stamp, table })
    }

    pub(super) fn keep(&self, shard: &Path, cache: &Cache) -> Option<PathBuf> {
        let bytes = self.encode();
        // The mode is asked as well as the attempt made, because root may write where nobody is meant to.
        let folder = shard.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let read_only = fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().readonly());
        let beside = beside(shard).filter(|_| !read_only).filter(|place| write(place, &bytes).is_ok());
        beside.or_else(|| {
            let place = cache.place(shard)?;
            fs::create_dir_all(place.parent()?).ok()?;
            write(&place, &bytes).is_ok().then_some(place)
        })
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

/// Where the index of a shard is kept when its folder can be written.
pub fn beside(shard: &Path) -> Option<PathBuf> {
    Some(shard.with_file_name(index_name(shard)?))
}

fn index_name(shard: &Path) -> Option<OsString> {
    let mut name = shard.file_name()?.to_owned();
    name.push(".index");
    Some(name)
}

fn kept(shard: &Path, stamp: Stamp, place: Option<PathBuf>) -> Option<Index> {
    let place = place?;
    // What is larger is no index of this shard and not worth the memory.
    let length = fs::metadata(&place).ok()?.len();
    if length > stamp.size.saturating_mul(MOST_GROWTH).saturating_add(MOST_FRAME_BYTES) {
        return None;
    }
    let index = Index::decode(&fs::read(&place).ok()?).filter(|index| index.stamp == stamp);
    if index.is_none() {
        tracing::debug!(shard = %shard.display(), index = %place.display(), "index is stale or damaged");
    }
    index
}

fn write(place: &Path, bytes: &[u8]) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let unique = format!(".{}-{}.tmp", process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
    let mut name = OsString::from(".");
    name.push(place.file_name().unwrap_or(OsStr::new("index")));
    name.push(unique);
    let beside = place.with_file_name(name);
    let renamed = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, place));
    renamed.inspect_err(|_| drop(fs::remove_file(&beside)))
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
