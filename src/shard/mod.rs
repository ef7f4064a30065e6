//! Bytes on disk: in come the names of tar files, out come numbered samples, their order in an epoch, and their bytes.
//!
//! A shard is walked once, header by header; what is found is kept in an index file beside it, so that every later run
//! knows each sample's place without reading the shard. Nothing here looks into an image.

mod ahead;
pub mod cache;
mod files;
pub mod import;
pub mod index;
mod list;
mod map;
mod order;
mod pattern;
pub mod remote;
mod set;
mod source;
mod sums;
mod table;
mod tar;
mod verify;
pub mod write;

use std::io;
use std::panic;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

pub use self::ahead::Ahead;
pub use self::cache::{Cache, Here};
pub use self::index::{Index, Stamp, hex};
pub use self::list::{Listing, Reindexed, list, reindex};
pub use self::order::EpochOrder;
pub use self::pattern::expand;
use self::remote::RemoteError;
pub use self::set::{Complaint, Held, SampleRef, Shard, ShardSet, Why};
pub use self::source::Source;
pub use self::sums::{Sum, Sums};
pub use self::table::{Label, Member, Sample, Table, is_image};
pub use self::tar::TarError;
pub use self::verify::{
    Examined, Problem, ProblemKind, Report, ShardReport, Through, examine_through, report, verify, walk_all,
};

/// Why shards cannot be used. Each variant stops the run.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    #[error("no shards given: name at least one path, brace notation or glob")]
    NoPatterns,
    #[error("{pattern}: unreadable braces, write {{000000..000123}} or {{a,b}}")]
    Braces { pattern: String },
    #[error("{pattern}: stands for more than {most} shards")]
    TooManyShards { pattern: String, most: usize },
    #[error("{pattern}: no shard matches")]
    NoMatch { pattern: String },
    #[error("{path}: shard not found, named by `{pattern}`")]
    Missing { path: PathBuf, pattern: String },
    #[error("{path}: not a file, a shard is one tar file")]
    NotAFile { path: PathBuf },
    #[error("{path}: listed twice, a shard may be named only once")]
    Twice { path: PathBuf },
    #[error("{path}: the same shard as {first}, a shard may be named only once")]
    SameShard { path: PathBuf, first: PathBuf },
    #[error("{path}: cannot be opened")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path}: cannot be had")]
    Remote { path: PathBuf, source: RemoteError },
    #[error("{path}: damaged shard")]
    Damaged { path: PathBuf, source: TarError },
    #[error("{path}: changed while its index was being made, start again once it is whole")]
    Unsettled { path: PathBuf },
    #[error("{}", no_samples(*.shards, .first))]
    NoSamples { shards: usize, first: Option<Complaint> },
    #[error("{path}: line {line} is no checksum as sha256sum writes it, make the file again or remove it")]
    Sums { path: PathBuf, line: usize },
    #[error("{path}: holds sample number {most} of the set and more, which is too many for one set")]
    TooManySamples { path: PathBuf, most: u32 },
}

/// Why the bytes of one sample could not be read although its shard was sound when the set was opened.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{path}: shard is gone since the set was opened")]
    Gone { path: PathBuf },
    #[error("{path}: shard was cut, changed or replaced since the set was opened, start again to use it as it is now")]
    Changed { path: PathBuf },
    #[error("{path}: cannot be read at sample `{key}`")]
    Io { path: PathBuf, key: String, source: io::Error },
}

fn no_samples(shards: usize, first: &Option<Complaint>) -> String {
    match first {
        Some(complaint) => format!("no sample of {shards} shards can be used, the first: {complaint}"),
        None => format!("no samples in {shards} shards: name files `KEY.jpg` and, for a label, `KEY.cls`"),
    }
}

/// Opening shards and listing folders wait for a disk or a network rather than for a CPU, so at least this many threads do it.
const LEAST_THREADS: usize = 8;

/// Calls `work` on every item, many at once; the results are in the items' order.
///
/// # Errors
/// The error of the first item in order that has one; items after it may be left alone.
fn in_parallel<T: Sync, R: Send, E: Send>(items: &[T], work: impl Fn(&T) -> Result<R, E> + Sync) -> Result<Vec<R>, E> {
    let threads = thread::available_parallelism().map_or(LEAST_THREADS, |cores| cores.get().max(LEAST_THREADS));
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let drain = || {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { break };
            let result = work(item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((number, result));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(items.len())).map(|_| scope.spawn(drain)).collect();
        let results =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|cause| panic::resume_unwind(cause)));
        results.flatten().collect::<Vec<_>>()
    });
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
