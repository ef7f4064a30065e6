//! What is known of shards, kept: their indexes, and those shards themselves that other machines have.
//!
//! An index is made on first use and read back while the shard's size and time are the same. Whatever is wrong with an
//! index file, the answer is to make it again; it never stops a run. It is written beside its place and renamed, so that
//! readers see the old file or the new one.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::ShardError;
use super::index::{Index, Stamp, hex, most_bytes};
use super::remote::{Depot, Id, Lease, Patience, RemoteError, Room, is_remote};
use crate::telemetry::Telemetry;

/// The folder for what is kept of shards, unless it is kept beside them; none where no home is known. Clones share what
/// they fetch.
#[derive(Clone, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
    room: Option<u64>,
    patience: Patience,
    telemetry: Option<Telemetry>,
    depot: Arc<Mutex<Option<Arc<Depot>>>>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.debug_tuple("Cache").field(&self.folder).finish()
    }
}

/// A shard's file, which stays here for as long as this lives.
#[derive(Debug)]
pub struct Here {
    pub file: File,
    _lease: Option<Lease>,
}

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
        Self { folder: own.or_else(shared).or_else(home), ..Self::default() }
    }

    /// Bytes that fetched shards may take: what `data.cache_gb` says.
    #[must_use]
    pub fn with_room(self, most: Option<u64>) -> Self {
        Self { room: most, ..self }
    }

    /// Tells what is fetched there.
    #[must_use]
    pub fn measured(self, telemetry: &Telemetry) -> Self {
        Self { telemetry: Some(telemetry.clone()), ..self }
    }

    /// How long servers are waited for.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Where shards of other machines are fetched to.
    ///
    /// # Errors
    /// Where there is no folder for them.
    pub fn depot(&self) -> Result<Arc<Depot>, RemoteError> {
        let mut depot = self.depot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(depot) = &*depot {
            return Ok(Arc::clone(depot));
        }
        let folder = self.folder().ok_or(RemoteError::NoFolder)?.join("remote");
        let room = Room { folder, most: self.room };
        let opened = Depot::open(&room, self.patience, self.telemetry.as_ref())?;
        Ok(Arc::clone(depot.insert(opened)))
    }

    /// Where shards lie that are on their way to another machine.
    ///
    /// # Errors
    /// Where there is no folder for them.
    pub fn outgoing(&self) -> Result<PathBuf, RemoteError> {
        Ok(self.folder().ok_or(RemoteError::NoFolder)?.join("outgoing"))
    }

    /// How servers are waited for.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// A remote shard's number in the depot.
    ///
    /// # Errors
    /// When it is not there, or its server says nothing.
    pub fn find(&self, shard: &Path) -> Result<(Arc<Depot>, Id), ShardError> {
        let found = self.depot().and_then(|depot| Ok((depot.find(url(shard)?)?, depot)));
        let (id, depot) = found.map_err(|source| failed(shard, source))?;
        Ok((depot, id))
    }

    /// Opens a shard's file; one of another machine is fetched.
    ///
    /// # Errors
    /// When it cannot be opened or fetched.
    pub fn open(&self, shard: &Path) -> Result<Here, ShardError> {
        if is_remote(shard) {
            let (depot, id) = self.find(shard)?;
            let opened = depot.lease(id).and_then(|lease| Ok(Here { file: lease.open()?, _lease: Some(lease) }));
            return opened.map_err(|source| failed(shard, source));
        }
        let file = File::open(shard).map_err(|source| ShardError::Open { path: shard.to_owned(), source })?;
        Ok(Here { file, _lease: None })
    }

    /// Whether such shards, of so many bytes, can all be here at once.
    ///
    /// # Errors
    /// Where there is no folder for those that are fetched.
    pub fn holds<'s>(&self, shards: impl Iterator<Item = (&'s Path, u64)>) -> Result<bool, RemoteError> {
        let fetched: u64 = shards.filter(|(path, _)| is_remote(path)).map(|(_, bytes)| bytes).sum();
        Ok(fetched == 0 || fetched <= self.depot()?.most())
    }

    /// The place of a shard's index in the cache; the shard's full path is part of it, since names repeat.
    pub fn place(&self, shard: &Path) -> Option<PathBuf> {
        let full = if is_remote(shard) { shard.to_owned() } else { shard.canonicalize().ok()? };
        let path_digest = hex(&Sha256::digest(full.as_os_str().as_bytes()));
        let mut name = OsString::from(path_digest.get(..16)?);
        name.push("-");
        name.push(index_name(shard)?);
        Some(self.folder()?.join(name))
    }
}

impl Index {
    /// Reads the kept index, or walks the shard and keeps what it found.
    ///
    /// # Errors
    /// A shard that cannot be opened or is damaged. An index that cannot be kept is made again next time.
    pub fn open(shard: &Path, cache: &Cache) -> Result<Self, ShardError> {
        if is_remote(shard) {
            return Self::of_remote(shard, cache);
        }
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
        let index = Self::walk(&cache.open(shard)?.file, shard)?;
        let place = index.keep(shard, cache);
        tracing::debug!(shard = %shard.display(), samples = index.table.len(), kept = ?place, "index made");
        Ok((index, place))
    }

    /// An index beside a shard that is not here yet is believed until the shard comes; without one the shard is fetched
    /// for it.
    fn of_remote(shard: &Path, cache: &Cache) -> Result<Self, ShardError> {
        let (depot, id) = cache.find(shard)?;
        let stamp = depot.stamp(id);
        let kept = kept(shard, stamp, cache.place(shard));
        let is_here = depot.file(id).is_some();
        let (index, is_from_beside) = match kept {
            Some(index) => (index, false),
            None if is_here => (Self::make(shard, cache)?.0, false),
            None => match beside_remote(shard, stamp, &depot).map_err(|source| failed(shard, source))? {
                Some(index) => (index, true),
                None => (Self::make(shard, cache)?.0, false),
            },
        };
        depot.expect(id, index.table.len() as u64, is_from_beside.then(|| index.digest()));
        Ok(index)
    }

    pub(super) fn keep(&self, shard: &Path, cache: &Cache) -> Option<PathBuf> {
        let bytes = self.encode();
        // The mode is asked as well as the attempt made, because root may write where nobody is meant to.
        let folder = shard.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let is_closed = is_remote(shard) || fs::metadata(folder).is_ok_and(|folder| folder.permissions().readonly());
        let beside = beside(shard).filter(|_| !is_closed).filter(|place| write(place, &bytes).is_ok());
        beside.or_else(|| {
            let place = cache.place(shard)?;
            fs::create_dir_all(place.parent()?).ok()?;
            write(&place, &bytes).is_ok().then_some(place)
        })
    }
}

fn url(shard: &Path) -> Result<&str, RemoteError> {
    shard.to_str().ok_or_else(|| RemoteError::Address { why: "an address is UTF-8".into() })
}

fn failed(shard: &Path, source: RemoteError) -> ShardError {
    ShardError::Remote { path: shard.to_owned(), source }
}

/// The index that lies beside a shard on its server, if it is of a shard of that size: the time of a copy is another.
fn beside_remote(shard: &Path, stamp: Stamp, depot: &Depot) -> Result<Option<Index>, RemoteError> {
    let bytes = depot.small(&format!("{}.index", url(shard)?), most_bytes(stamp.size))?;
    let index = bytes.and_then(|bytes| Index::decode(&bytes)).filter(|index| index.stamp.size == stamp.size);
    Ok(index.map(|index| Index { stamp, ..index }))
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
    if length > most_bytes(stamp.size) {
        return None;
    }
    let index = Index::decode(&fs::read(&place).ok()?).filter(|index| index.stamp == stamp);
    if index.is_none() {
        tracing::debug!(shard = %shard.display(), index = %place.display(), "index is stale or damaged");
    }
    index
}

/// Makes good what a process left that was killed as it brought a shard's index beside it.
pub(super) fn make_good(shard: &Path, cache: &Cache) {
    let start = beside(shard).map(|place| unfinished(&place));
    let (Some(folder), Some(start)) = (shard.parent(), start) else { return };
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_left = |name: &OsString| {
        name.as_bytes().strip_prefix(start.as_bytes()).is_some_and(|end| end.ends_with(UNFINISHED_END.as_bytes()))
    };
    names.filter(is_left).for_each(|name| drop(fs::remove_file(folder.join(name))));
    // Whoever reads the shard would make it too, or say why it cannot be made.
    let _ = Index::open(shard, cache);
}

const UNFINISHED_END: &str = ".tmp";

/// How the names of files begin that are to take an index's place.
fn unfinished(place: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(place.file_name().unwrap_or(OsStr::new("index")));
    name.push(".");
    name
}

fn write(place: &Path, bytes: &[u8]) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let mut name = unfinished(place);
    name.push(format!("{}-{}{UNFINISHED_END}", process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed)));
    let beside = place.with_file_name(name);
    let renamed = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, place));
    renamed.inspect_err(|_| drop(fs::remove_file(&beside)))
}
