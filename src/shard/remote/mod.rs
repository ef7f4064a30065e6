//! Shards on other machines: `https://`, `s3://`, `gs://` → files in a folder here, fetched ahead of whoever reads them.
//!
//! A shard is fetched whole, since one request for each sample would cost far more, and lies in the folder until the room
//! is needed for one that is read sooner. What is read of a shard that will not be fetched (the few samples of a score,
//! one that replaces a bad one) is asked for alone. Everything else in `shard` reads the fetched file.
//!
//! Sets are written the same way round: into a folder here, from which each shard goes to the store as soon as it is whole.

#[cfg(not(feature = "remote"))]
mod absent;
#[cfg(feature = "remote")]
mod address;
#[cfg(feature = "remote")]
mod client;
#[cfg(feature = "remote")]
mod depot;
#[cfg(feature = "remote")]
mod fetch;
#[cfg(feature = "remote")]
mod outbox;
#[cfg(feature = "remote")]
mod put;
#[cfg(feature = "remote")]
mod shared;
#[cfg(feature = "remote")]
mod state;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(not(feature = "remote"))]
pub use self::absent::{Ahead, Depot, Lease, Outbox};
#[cfg(feature = "remote")]
pub use self::depot::{Ahead, Depot, Lease};
#[cfg(feature = "remote")]
pub use self::outbox::Outbox;

/// Number of a remote shard in its depot.
pub type Id = u32;

/// What `SHA256SUMS` beside shards says of them, by name.
pub type Listed = HashMap<String, String>;

/// Whether a name is an address of another machine.
pub fn is_remote(name: &Path) -> bool {
    let name = name.as_os_str().as_encoded_bytes();
    ["http://", "https://", "s3://", "gs://"].iter().any(|scheme| name.starts_with(scheme.as_bytes()))
}

/// Where fetched shards lie, and how much of the disk they take.
#[derive(Clone, Debug)]
pub struct Room {
    pub folder: PathBuf,
    /// Of all files in the folder, in bytes; half of what is free, and of what they take already, when left out.
    pub most: Option<u64>,
}

/// How a server that does not answer is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The pause after the first failure; each is twice as long as the one before.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// After so long without a byte a request is given up.
    pub stall: Duration,
    /// After so long without an answer it is given up to learn what a shard is, which a typing error may be the cause of.
    pub to_begin: Duration,
    /// After so long without a byte the shard is.
    pub in_all: Duration,
}

/// A server that is started anew or a network that is down for some minutes should end no run.
impl Default for Patience {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            to_begin: Duration::from_secs(20),
            in_all: Duration::from_secs(300),
        }
    }
}

/// Why something could not be had from another machine.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("this build knows no addresses: build it with --features remote")]
    NotBuilt,
    #[error("{why}")]
    Address { why: String },
    #[error("a web server lists no files: name shards with braces, such as {{000000..000123}}")]
    NoListing,
    #[error("not found")]
    Gone,
    #[error("it was changed since it was first looked at, start again to use it as it is now")]
    Changed,
    #[error("access denied ({why}): look at AWS_…, GOOGLE_… or SACCADE_HTTP_TOKEN")]
    Denied { why: String },
    #[error("refused: {why}")]
    Refused { why: String },
    #[error("{why}")]
    Failed { why: String },
    #[error("the connection was cut off")]
    Cut,
    #[error("nothing came for {seconds} s")]
    Stalled { seconds: u64 },
    #[error("the server sends no parts of files")]
    NoRanges,
    #[error("larger than {most} bytes, which it cannot be")]
    TooLarge { most: u64 },
    #[error("its bytes are not those that SHA256SUMS beside it names")]
    Checksum,
    #[error("SHA256SUMS beside it: line {line} is no checksum as sha256sum writes it")]
    Sums { line: usize },
    #[error("the index beside it is that of another shard: make it again with `shards index`, or remove it")]
    OtherIndex,
    #[error(
        "its {needed} bytes do not fit into the {most} bytes for fetched shards: raise data.cache_gb, or make room on the disk"
    )]
    Room { needed: u64, most: u64 },
    #[error("{}: cannot be written", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("no folder for shards on their way is known: set SACCADE_CACHE to one")]
    NoFolder,
    #[error("given up, as what it was for has ended")]
    Closed,
}

impl From<RemoteError> for io::Error {
    fn from(error: RemoteError) -> Self {
        let kind = match error {
            RemoteError::Gone => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
