//! Questions to a store: what an object is, and its bytes from a place on. Each is asked once; who asks, asks again.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, UpdateVersion};
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

use super::RemoteError;
use super::address::{Address, Manner};
use crate::shard::index::Stamp;

/// How often it is looked whether what was asked for is still wanted.
const GLANCE: Duration = Duration::from_millis(50);

/// A connection to each store that was asked, for one thread at a time: connections live in the runtime that made them.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    manner: Manner,
    stores: HashMap<String, Arc<dyn ObjectStore>>,
}

/// An object that is named, and the store that has it.
#[derive(Clone, Debug)]
pub struct Object {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    /// After so long without a byte a request is given up.
    stall: Duration,
}

/// What an object was when it was looked at. All of it but the size may be unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub size: u64,
    /// Seconds since 1970.
    modified: i64,
    e_tag: Option<String>,
}

/// Is given the place of each piece of an object, and may end it.
pub type Take<'t> = dyn FnMut(u64, &Bytes) -> Result<(), RemoteError> + 't;

impl Client {
    /// # Errors
    /// When the system gives no more descriptors.
    pub fn new(manner: Manner) -> Result<Self, RemoteError> {
        // Another part of the process may have chosen; then that is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| RemoteError::Failed { why: error.to_string() })?;
        Ok(Self { runtime, manner, stores: HashMap::new() })
    }

    /// # Errors
    /// When the variables for the store's accounts make no sense.
    pub fn object(&mut self, address: &Address, stall: Duration) -> Result<Object, RemoteError> {
        let name = address.store();
        let store = match self.stores.get(&name) {
            Some(store) => Arc::clone(store),
            None => {
                let store = address.connect(&self.manner)?;
                self.stores.insert(name, Arc::clone(&store));
                store
            }
        };
        Ok(Object { store, path: address.path.clone(), stall })
    }

    /// An object of this name in a folder.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn object_in(&mut self, folder: &Address, name: &str, stall: Duration) -> Result<Object, RemoteError> {
        self.object(&folder.file(name)?, stall)
    }

    /// What `future` says, unless `stop` is set before.
    ///
    /// # Errors
    /// Those of the future.
    pub fn wait<T>(
        &self,
        stop: &AtomicBool,
        future: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        let stopped = async {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(GLANCE).await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                result = future => result,
                () = stopped => Err(RemoteError::Closed),
            }
        })
    }
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        Self { size: meta.size, modified: meta.last_modified.timestamp(), e_tag: meta.e_tag.clone() }
    }

    /// The object's size and time, as its fetched file has them: a store's time has no nanoseconds, so that their place
    /// tells one entity's tag from another.
    pub fn stamp(&self) -> Stamp {
        const SECOND: u64 = 1_000_000_000;
        let digest = Sha256::digest(self.e_tag.as_deref().unwrap_or_default());
        let number = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        Stamp { size: self.size, seconds: self.modified, nanoseconds: (number % SECOND) as i64 }
    }

    /// All of it, as one text.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}", self.size, self.modified, self.e_tag.as_deref().unwrap_or_default())
    }

    /// A tag that is said to be weak never meets the condition, even on an object that did not change.
    fn condition(&self) -> Option<String> {
        self.e_tag.clone().filter(|tag| !tag.starts_with("W/"))
    }
}

impl Object {
    /// # Errors
    /// As every request: what the server or the way to it has against it.
    pub async fn version(&self) -> Result<Version, RemoteError> {
        let meta = self.within(self.store.head(&self.path)).await??;
        Ok(Version::of(&meta))
    }

    /// All bytes from `start` on, piece by piece.
    ///
    /// # Errors
    /// When the object is another by now, or ends early, or nothing came for long; and those of `take`.
    pub async fn read_from(&self, version: &Version, start: u64, take: &mut Take<'_>) -> Result<(), RemoteError> {
        let range = (start > 0).then_some(GetRange::Offset(start));
        self.read(version, range, start..version.size, take).await
    }

    /// Fills `into` with the bytes from `start` on.
    ///
    /// # Errors
    /// As [`Self::read_from`].
    pub async fn read_exact(&self, version: &Version, start: u64, into: &mut [u8]) -> Result<(), RemoteError> {
        if into.is_empty() {
            return Ok(());
        }
        let range = start..start + into.len() as u64;
        let mut put = |place: u64, bytes: &Bytes| {
            let place = (place - start) as usize;
            let into = into.get_mut(place..place + bytes.len()).ok_or(RemoteError::Changed)?;
            into.copy_from_slice(bytes);
            Ok(())
        };
        self.read(version, Some(GetRange::Bounded(range.clone())), range, &mut put).await
    }

    async fn read(
        &self,
        version: &Version,
        range: Option<GetRange>,
        wanted: Range<u64>,
        take: &mut Take<'_>,
    ) -> Result<(), RemoteError> {
        let options = GetOptions { range, if_match: version.condition(), ..GetOptions::default() };
        let result = self.within(self.store.get_opts(&self.path, options)).await??;
        // Not every server minds the condition.
        if Version::of(&result.meta) != *version {
            return Err(RemoteError::Changed);
        }
        let mut place = result.range.start;
        if place != wanted.start {
            return Err(RemoteError::NoRanges);
        }
        let mut pieces = result.into_stream();
        while place < wanted.end {
            let Some(bytes) = self.within(pieces.next()).await? else { break };
            let bytes = bytes?;
            take(place, &bytes)?;
            place += bytes.len() as u64;
        }
        if place == wanted.end { Ok(()) } else { Err(RemoteError::Cut) }
    }

    /// The whole of a small object, and what it may be replaced by; none where there is none.
    ///
    /// # Errors
    /// As every request, and when it has more than `most` bytes.
    pub async fn small(&self, most: u64) -> Result<Option<(Vec<u8>, UpdateVersion)>, RemoteError> {
        let result = match self.within(self.store.get(&self.path)).await? {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let size = result.meta.size;
        let version = UpdateVersion { e_tag: result.meta.e_tag.clone(), version: result.meta.version.clone() };
        if size > most {
            return Err(RemoteError::TooLarge { most });
        }
        let mut pieces = result.into_stream();
        let mut all = Vec::new();
        while let Some(bytes) = self.within(pieces.next()).await? {
            let bytes = bytes?;
            if all.len() as u64 + bytes.len() as u64 > most {
                return Err(RemoteError::TooLarge { most });
            }
            all.extend_from_slice(&bytes);
        }
        if all.len() as u64 == size { Ok(Some((all, version))) } else { Err(RemoteError::Cut) }
    }

    /// The paths of all objects under this one, as under a folder.
    ///
    /// # Errors
    /// As every request.
    pub async fn list(&self) -> Result<Vec<String>, RemoteError> {
        let folder = Some(&self.path).filter(|path| !path.as_ref().is_empty());
        let mut objects = self.store.list(folder);
        let mut names = Vec::new();
        while let Some(object) = self.within(objects.next()).await? {
            names.push(object?.location.as_ref().to_owned());
        }
        Ok(names)
    }

    /// # Errors
    /// When it takes longer than a server may be silent.
    pub(super) async fn within<T>(&self, future: impl Future<Output = T>) -> Result<T, RemoteError> {
        let late = |_| RemoteError::Stalled { seconds: self.stall.as_secs() };
        tokio::time::timeout(self.stall, future).await.map_err(late)
    }
}

impl From<object_store::Error> for RemoteError {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        match error {
            E::NotFound { .. } => Self::Gone,
            E::Precondition { .. } | E::NotModified { .. } => Self::Changed,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::Denied { why: shortened(&error) },
            // A server that sends the whole object when it is asked for a part.
            E::NotSupported { .. } => Self::NoRanges,
            _ => match status(&error) {
                Some(401 | 403) => Self::Denied { why: shortened(&error) },
                // "Took too long", "too early" and "too many requests" pass.
                Some(status @ 400..500) if !matches!(status, 408 | 425 | 429) => {
                    Self::Refused { why: shortened(&error) }
                }
                _ => Self::Failed { why: shortened(&error) },
            },
        }
    }
}

impl RemoteError {
    /// Whether asking again may help.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Cut | Self::Stalled { .. })
    }

    /// A label's value.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Stalled { .. } => "stalled",
            Self::Cut => "cut_off",
            Self::Checksum => "checksum",
            _ => "failed",
        }
    }
}

/// The number with which a server refuses, if it does. The library tells it in words alone.
pub fn status(error: &dyn Error) -> Option<u16> {
    let text = innermost(error).to_string();
    text.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

fn innermost<'e>(error: &'e (dyn Error + 'e)) -> &'e (dyn Error + 'e) {
    let mut inner = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner
}

/// What lies at the bottom of an error, in one line.
pub fn shortened(error: &dyn Error) -> String {
    /// A page of HTML tells nobody more.
    const MOST: usize = 160;
    let text = innermost(error).to_string();
    let line = text.lines().next().unwrap_or_default().trim().trim_end_matches(':');
    let line = line.strip_prefix("Server returned non-2xx status code: ").unwrap_or(line);
    line.chars().take(MOST).collect()
}
