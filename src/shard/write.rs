//! Samples → a shard: the same samples give the same bytes, whoever writes them, where and when.
//!
//! A shard is written beside its place, as `NAME.part`, and put there when it is whole and on the disk, with its index.
//! A writer that is dropped before leaves nothing.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ::tar::{EntryType, Header};

use super::index::{Cache, Index, Stamp};
use super::table::{self, Builder, LABEL, split_name};
use super::tar::TarError;

/// Many samples a write; half as much is slower on a network's disk, twice as much is no faster.
const BUFFER_BYTES: usize = 1 << 20;

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
}

/// A shard that is being written.
pub struct ShardWriter {
    path: PathBuf,
    force: bool,
    tar: ::tar::Builder<Counted>,
    table: Builder,
    beside: Beside,
}

impl ShardWriter {
    /// Begins a shard; with `force` it takes the place of one that is there when it is finished.
    ///
    /// # Errors
    /// When there is one already, when another process is writing it, or when the folder cannot be written.
    pub fn create(path: &Path, force: bool) -> Result<Self, WriteError> {
        if !force {
            refuse(path)?;
        }
        let (beside, file) = Beside::create(path)?;
        let tar = ::tar::Builder::new(Counted { file: BufWriter::with_capacity(BUFFER_BYTES, file), bytes: 0 });
        Ok(Self { path: path.to_owned(), force, tar, table: Builder::default(), beside })
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
        let offset = self.append(&name, data).map_err(|source| self.failed(source))?;
        let label = (extension == LABEL).then(|| table::label_of(data));
        let pushed = self.table.push(key, extension, offset, data.len() as u64, label);
        pushed.map_err(|source| WriteError::Unsound { path: self.path.clone(), source })
    }

    /// Puts the shard in its place, and its index beside it or into the cache; returns the shard's size in bytes.
    ///
    /// # Errors
    /// When the disk fails, or when a shard has come into its place meanwhile.
    pub fn finish(self, cache: &Cache) -> Result<u64, WriteError> {
        let Self { path, force, tar, table, beside } = self;
        let failed = |source| WriteError::Io { path: path.clone(), source };
        let table = table.finish().map_err(|source| WriteError::Unsound { path: path.clone(), source })?;
        let buffer = tar.into_inner().map_err(failed)?.file;
        let file = buffer.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        let stamp = Stamp::of(&file.metadata().map_err(failed)?);
        if !force {
            refuse(&path)?;
        }
        beside.rename(&path).map_err(failed)?;
        sync_folder(&path).map_err(failed)?;
        Index { stamp, table }.keep(&path, cache);
        Ok(stamp.size)
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
        // POSIX has no other characters in a header; a PAX record takes all, of any length.
        let is_plain = name.len() <= NAME_BYTES && name.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_plain {
            self.tar.append_pax_extensions([("path", name.as_bytes())])?;
        }
        // Without a record nothing is cut or replaced; with one, this is for people who look at the bytes.
        let shown = name.bytes().map(|byte| if matches!(byte, b' '..=b'~') { byte } else { b'?' });
        header.as_old_mut().name.iter_mut().zip(shown).for_each(|(place, byte)| *place = byte);
        header.set_cksum();
        let offset = self.tar.get_ref().bytes + header.as_bytes().len() as u64;
        self.tar.append(&header, data)?;
        Ok(offset)
    }

    fn failed(&self, source: io::Error) -> WriteError {
        WriteError::Io { path: self.path.clone(), source }
    }
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

/// The file beside a shard's place; removed unless it is renamed.
struct Beside {
    path: PathBuf,
    renamed: bool,
    /// Keeps the lock until the file is renamed or removed.
    _lock: File,
}

impl Beside {
    fn create(shard: &Path) -> Result<(Self, File), WriteError> {
        let mut name: OsString = shard.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let failed = |source| WriteError::Io { path: path.clone(), source };
        // What a killed process left is taken over, what a living one writes is not.
        let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(WriteError::Busy { path });
        }
        // Its writer may have put it in place between the opening and the lock.
        let named = fs::metadata(&path).map(|named| (named.dev(), named.ino())).ok();
        let opened = file.metadata().map_err(failed)?;
        if named != Some((opened.dev(), opened.ino())) {
            return Err(WriteError::Busy { path });
        }
        file.set_len(0).map_err(failed)?;
        let lock = file.try_clone().map_err(failed)?;
        Ok((Self { path, renamed: false, _lock: lock }, file))
    }

    fn rename(mut self, shard: &Path) -> io::Result<()> {
        fs::rename(&self.path, shard)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Knows how many bytes were written.
struct Counted {
    file: BufWriter<File>,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.file.write(data)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
