//! One shard: from its server into a file that is complete, or not there.
//!
//! It grows under the name of a part, which other processes leave alone and which the next fetch goes on with. It gets its
//! own name once it has the shard's size and, where these are known, its checksum and its index.

use std::fs::{self, File, FileTimes, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::RemoteError;
use super::client::{Client, Object};
use super::shared::{Shared, Thing, Waiting, pass};
use crate::shard::Table;
use crate::shard::index::{Index, Stamp, hex};

/// How often it is looked whether another process is done with the same shard.
const GLANCE: Duration = Duration::from_millis(200);

/// Read at a time of what is here already.
const BUFFER_BYTES: usize = 1 << 20;

/// The life of a thread that fetches.
pub fn serve(shared: &Shared) {
    give_way();
    let mut spell = shared.spell();
    while let Some((id, stop)) = shared.next(&mut spell) {
        let outcome = fetch(shared, &shared.thing(id), &stop);
        shared.settle(id, outcome);
    }
}

/// Lets threads go first, where cores are few, that work on what is here: fetching far ahead is not urgent, and when it
/// is, those threads wait.
fn give_way() {
    /// A thread's weight is 45 then, that of others 1,024.
    const NICE: i32 = 14;
    // Elsewhere the whole process would be meant.
    if cfg!(target_os = "linux") {
        let now = rustix::process::getpriority_process(None).unwrap_or(0);
        let _ = rustix::process::setpriority_process(None, NICE.max(now));
    }
}

fn fetch(shared: &Shared, thing: &Thing, stop: &AtomicBool) -> Result<(), RemoteError> {
    let Some(mut part) = Part::open(thing, stop)? else { return Ok(()) };
    let folder = thing.url.rsplit_once('/').map_or("", |(folder, _)| folder);
    let name = thing.url.rsplit('/').next().unwrap_or_default();
    let sum = shared.sums(folder)?.and_then(|listed| listed.get(name).cloned());
    let was_begun = part.length > 0;
    if sum.is_some() {
        part.hash_what_is_there()?;
    }
    tracing::debug!(shard = thing.url, from = part.length, bytes = thing.version.size, "fetching");
    part.fill(shared, stop)?;
    if part.has_sum(sum.as_deref()) {
        return part.finish();
    }
    if was_begun {
        // What an earlier process left may have lost bytes with its machine.
        shared.tell_retry(&thing.url, &RemoteError::Checksum, Duration::ZERO);
        part.begin_anew()?;
        part.fill(shared, stop)?;
        if part.has_sum(sum.as_deref()) {
            return part.finish();
        }
    }
    part.begin_anew()?;
    Err(RemoteError::Checksum)
}

/// A shard's file while it grows.
struct Part<'t> {
    thing: &'t Thing,
    path: PathBuf,
    file: File,
    length: u64,
    digest: Option<Sha256>,
}

impl<'t> Part<'t> {
    /// Waits until no other process fetches the shard; none when that one was done with it.
    fn open(thing: &'t Thing, stop: &AtomicBool) -> Result<Option<Self>, RemoteError> {
        let mut name = thing.path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = thing.path.with_file_name(name);
        let disk = |source| RemoteError::Disk { path: path.clone(), source };
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(disk)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if pass(GLANCE, stop) => continue,
                Err(TryLockError::WouldBlock) => return Err(RemoteError::Closed),
                Err(TryLockError::Error(source)) => return Err(disk(source)),
            }
            // The one who held it may have given it its own name, or taken it away.
            if fs::metadata(&thing.path).is_ok_and(|there| Stamp::of(&there) == thing.version.stamp()) {
                fs::remove_file(&path).map_err(disk)?;
                return Ok(None);
            }
            let is_there = fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|own| same(&there, &own)));
            if !is_there {
                continue;
            }
            let length = file.metadata().map_err(disk)?.len();
            let mut part = Self { thing, path: path.clone(), file, length, digest: None };
            if length > thing.version.size {
                part.begin_anew()?;
            }
            return Ok(Some(part));
        }
    }

    fn disk(&self) -> impl Fn(io::Error) -> RemoteError + use<> {
        let path = self.path.clone();
        move |source| RemoteError::Disk { path: path.clone(), source }
    }

    fn begin_anew(&mut self) -> Result<(), RemoteError> {
        self.file.set_len(0).map_err(self.disk())?;
        self.length = 0;
        if self.digest.is_some() {
            self.digest = Some(Sha256::new());
        }
        Ok(())
    }

    fn hash_what_is_there(&mut self) -> Result<(), RemoteError> {
        let mut digest = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut rest = (&self.file).take(self.length);
        loop {
            let read = rest.read(&mut buffer).map_err(self.disk())?;
            if read == 0 {
                break;
            }
            digest.update(buffer.get(..read).unwrap_or_default());
        }
        self.digest = Some(digest);
        Ok(())
    }

    /// Asks for what is missing until it is here.
    fn fill(&mut self, shared: &Shared, stop: &AtomicBool) -> Result<(), RemoteError> {
        let mut client = shared.client()?;
        let object = client.object(&self.thing.address, shared.patience.stall)?;
        let mut waiting = Waiting::new(&shared.patience, shared.patience.in_all);
        while self.length < self.thing.version.size {
            let before = self.length;
            let outcome = self.ask(shared, &client, &object, stop);
            if self.length > before {
                waiting.came();
            }
            match outcome {
                Ok(()) => {}
                Err(RemoteError::NoRanges) if self.length > 0 => self.begin_anew()?,
                Err(error) if error.passes() => {
                    let Some(pause) = waiting.pause() else { return Err(error) };
                    shared.tell_retry(&self.thing.url, &error, pause);
                    if !pass(pause, stop) {
                        return Err(RemoteError::Closed);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        shared.give_back(client);
        Ok(())
    }

    fn ask(&mut self, shared: &Shared, client: &Client, object: &Object, stop: &AtomicBool) -> Result<(), RemoteError> {
        let disk = self.disk();
        let Self { file, length, digest, thing, .. } = self;
        let start = *length;
        let mut take = |place: u64, bytes: &Bytes| {
            // More than there can be is of another shard.
            if place + bytes.len() as u64 > thing.version.size {
                return Err(RemoteError::Changed);
            }
            file.write_all_at(bytes, place).map_err(&disk)?;
            if let Some(digest) = digest {
                digest.update(bytes);
            }
            *length = place + bytes.len() as u64;
            shared.came(bytes.len() as u64);
            Ok(())
        };
        client.wait(stop, object.read_from(&thing.version, start, &mut take))
    }

    fn has_sum(&self, sum: Option<&str>) -> bool {
        let made = self.digest.as_ref().map(|digest| hex(&digest.clone().finalize()));
        made.as_deref() == sum
    }

    /// Gives the file its name, if the shard is what its index says. It is on the disk by then, for the next process will
    /// look at nothing but its size and time.
    fn finish(self) -> Result<(), RemoteError> {
        let stamp = self.thing.version.stamp();
        if let Some(expected) = self.thing.expected.get() {
            // A damaged shard is none of this index either.
            let table = Table::of(&self.file, stamp.size).ok();
            let digest = table.map(|table| Index { stamp, table }.digest());
            if digest != Some(*expected) {
                fs::remove_file(&self.path).map_err(self.disk())?;
                return Err(RemoteError::OtherIndex);
            }
        }
        let modified = time_of(stamp).ok_or(RemoteError::Changed)?;
        self.file.set_times(FileTimes::new().set_modified(modified)).map_err(self.disk())?;
        self.file.sync_all().map_err(self.disk())?;
        fs::rename(&self.path, &self.thing.path).map_err(self.disk())
    }
}

fn same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn time_of(stamp: Stamp) -> Option<SystemTime> {
    let nanoseconds = Duration::from_nanos(u64::try_from(stamp.nanoseconds).ok()?);
    let seconds = Duration::from_secs(stamp.seconds.unsigned_abs());
    let whole = if stamp.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole?.checked_add(nanoseconds)
}
