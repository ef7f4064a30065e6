//! Samples → a shard: the same samples give the same bytes, whoever writes them, where and when.
//!
//! A shard is written beside its place, as `NAME.part`, and put there when it is whole and on the disk, with its index.
//! A writer that is dropped before leaves nothing. A set of shards is written by `SetWriter`, which can be taken up again
//! and brings each shard to where the set belongs.

mod beside;
mod buffers;
mod destination;
mod hashed;
mod hashing;
mod lists;
mod set;
pub mod sha256;
mod state;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ::tar::{EntryType, Header};

use self::beside::Beside;
pub use self::destination::Destination;
use self::hashed::{Hashed, Making};
pub use self::lists::Dropped;
pub use self::set::{
    DUPLICATE, SetAccount, SetSpec, SetWriter, Split, Written, is_shard_of, replaced_bytes, shard_name,
};
use super::cache::Cache;
use super::index::{Index, Stamp, hex};
use super::remote::RemoteError;
use super::table::{self, Builder, LABEL, split_name};
use super::tar::TarError;

/// Headers, data and the end of a tar are multiples of this.
const BLOCK_BYTES: usize = 512;

/// Two blocks of zeros end a tar.
const END_BYTES: usize = 2 * BLOCK_BYTES;

/// The room for a name in a header.
const NAME_BYTES: usize = 100;

/// Why a shard cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{path}: exists already, write it again with --force or choose another --out")]
    Exists { path: PathBuf },
    #[error("{path}: is being written by another process")]
    Busy { path: PathBuf },
    #[error("{path}: `{name}` would not be read as one sample's member, rename the sample")]
    Name { path: PathBuf, name: String },
    #[error("{path}: would be no sound shard")]
    Unsound { path: PathBuf, source: TarError },
    #[error("{path}: cannot be written")]
    Io { path: PathBuf, source: io::Error },
    #[error("{url}")]
    Away { url: String, source: RemoteError },
    #[error("{path}: an unfinished set of another request lies here, repeat that request or start over with --force")]
    Unfinished { path: PathBuf },
    #[error("`{name}`: a set is named as its shards' files begin, without `/` and not empty")]
    SetName { name: String },
    #[error("{path}: two samples after one another have the key `{key}`, keys must be unique")]
    SameKey { path: PathBuf, key: String },
}

/// A shard that is being written.
pub struct ShardWriter {
    path: PathBuf,
    force: bool,
    file: Hashed,
    table: Builder,
    beside: Beside,
}

/// A shard that is whole and on the disk, but not in its place yet.
pub struct Sealed {
    path: PathBuf,
    force: bool,
    beside: Beside,
    index: Index,
    sha256: [u8; 32],
}

impl ShardWriter {
    /// Begins a shard; with `force` it takes the place of one that is there when it is finished.
    ///
    /// # Errors
    /// When there is one already, when another process is writing it, or when the folder cannot be written.
    pub fn create(path: &Path, force: bool) -> Result<Self, WriteError> {
        let making = Making::new().map_err(|source| WriteError::Io { path: path.to_owned(), source })?;
        Self::create_with(path, force, &making)
    }

    /// The same with what other shards were made with.
    fn create_with(path: &Path, force: bool, making: &Making) -> Result<Self, WriteError> {
        if !force {
            refuse(path)?;
        }
        let (beside, file) = Beside::create(path, making)?;
        Ok(Self { path: path.to_owned(), force, file, table: Builder::default(), beside })
    }

    /// Adds a member; those of one sample come one after the other.
    ///
    /// # Errors
    /// When the disk fails, or when nobody could read the member back as `key` and `extension`.
    pub fn add(&mut self, key: &str, extension: &str, data: &[u8]) -> Result<(), WriteError> {
        let name = format!("{key}.{extension}");
        if split_name(&name).is_none_or(|(found, rest)| (found, rest.as_str()) != (key, extension)) {
            return Err(WriteError::Name { path: self.path.clone(), name });
        }
        let (length, label) = (data.len(), (extension == LABEL).then(|| table::label_of(data)));
        let offset = self.append(&name, data).map_err(|source| self.failed(source))?;
        let pushed = self.table.push(key, extension, offset, length as u64, label);
        pushed.map_err(|source| WriteError::Unsound { path: self.path.clone(), source })
    }

    /// Bytes of the shard if it were finished now.
    pub fn bytes(&self) -> u64 {
        self.file.bytes() + END_BYTES as u64
    }

    /// Ends the shard, brings it to the disk, and leaves it beside its place. Whoever calls it has others hurry.
    ///
    /// # Errors
    /// When the disk fails, or when a key stands in two places of the shard.
    fn seal(self) -> Result<Sealed, WriteError> {
        let Self { path, force, mut file, table, beside } = self;
        let failed = |source| WriteError::Io { path: path.clone(), source };
        let table = table.finish().map_err(|source| WriteError::Unsound { path: path.clone(), source })?;
        file.push(&[0; END_BYTES]).map_err(failed)?;
        let (metadata, sha256) = file.sync().map_err(failed)?;
        Ok(Sealed { force, beside, index: Index { stamp: Stamp::of(&metadata), table }, sha256, path })
    }

    /// Puts the shard in its place, and its index beside it or into the cache; returns the shard's size in bytes.
    ///
    /// # Errors
    /// When the disk fails, or when a shard has come into its place meanwhile.
    pub fn finish(self, cache: &Cache) -> Result<u64, WriteError> {
        let _hurry = self.file.hurry();
        let sealed = self.seal()?;
        let size = sealed.stamp().size;
        sealed.place(cache).map(|()| size)
    }

    /// Where the member's data begins.
    fn append(&mut self, name: &str, data: &[u8]) -> io::Result<u64> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        if !is_plain(name) {
            self.file.push(&path_record(name)?)?;
        }
        // Without a record nothing is cut or replaced; with one, this is for people who look at the bytes.
        let shown = name.bytes().map(|byte| if matches!(byte, b' '..=b'~') { byte } else { b'?' });
        header.as_old_mut().name.iter_mut().zip(shown).for_each(|(place, byte)| *place = byte);
        header.set_cksum();
        self.file.push(header.as_bytes())?;
        let offset = self.file.bytes();
        self.file.push(data)?;
        self.file.pad(BLOCK_BYTES)?;
        Ok(offset)
    }

    fn failed(&self, source: io::Error) -> WriteError {
        WriteError::Io { path: self.path.clone(), source }
    }
}

impl Sealed {
    /// By which the file is known again once it is in its place.
    pub fn stamp(&self) -> Stamp {
        self.index.stamp
    }

    pub fn sha256(&self) -> String {
        hex(&self.sha256)
    }

    /// Puts the shard in its place, and its index beside it or into the cache.
    ///
    /// # Errors
    /// When the disk fails, or when a shard has come into its place meanwhile.
    pub fn place(self, cache: &Cache) -> Result<(), WriteError> {
        let Self { path, force, beside, index, .. } = self;
        let failed = |source| WriteError::Io { path: path.clone(), source };
        if !force {
            refuse(&path)?;
        }
        beside.rename(&path).map_err(failed)?;
        sync_folder(&path).map_err(failed)?;
        index.keep(&path, cache);
        Ok(())
    }
}

/// Bytes that a member takes in a shard, with its headers.
pub fn member_bytes(key: &str, extension: &str, length: usize) -> u64 {
    let name = format!("{key}.{extension}");
    // A record longer than a block has a name that is longer than any file system takes; it is counted all the same.
    let record = if is_plain(&name) { 0 } else { path_record(&name).map_or(0, |record| record.len()) };
    (record + BLOCK_BYTES + length.next_multiple_of(BLOCK_BYTES)) as u64
}

/// POSIX has no other characters in a header; a PAX record takes all, of any length.
fn is_plain(name: &str) -> bool {
    name.len() <= NAME_BYTES && name.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The PAX record that names the member after it.
fn path_record(name: &str) -> io::Result<Vec<u8>> {
    let mut tar = ::tar::Builder::new(Vec::new());
    tar.append_pax_extensions([("path", name.as_bytes())])?;
    let mut record = tar.into_inner()?;
    record.truncate(record.len().saturating_sub(END_BYTES));
    Ok(record)
}

/// # Errors
/// When there is something at `path`.
pub fn refuse(path: &Path) -> Result<(), WriteError> {
    // A link that leads nowhere would be replaced too.
    if path.symlink_metadata().is_ok() { Err(WriteError::Exists { path: path.to_owned() }) } else { Ok(()) }
}

/// Bytes that a user may still write where `path` is or will be.
///
/// # Errors
/// When the file system does not tell.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let there = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let space = rustix::fs::statvfs(there)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// The new name is on the disk when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
