//! What lies beside the shards of a set: checksums, the index that `wids` reads, and the samples that were left out.
//!
//! Several processes may write sets into one folder: each puts its own lines into the checksums and leaves the others'.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Destination, WriteError, Written, is_shard_of, sync_folder};
use crate::shard::remote::{Outbox, RemoteError};

/// How an index of shards names itself.
const KIND: &str = "wids-shard-index-v1";
/// As `sha256sum` writes and checks it.
pub const CHECKSUMS: &str = "SHA256SUMS";

/// A sample that was left out, as its line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    pub key: String,
    /// Where it came from.
    pub shard: PathBuf,
    pub reason: String,
    pub detail: String,
}

/// Puts the set's shards into the checksums of a folder here, and its own index beside them.
pub fn put(folder: &Path, set: &str, shards: &[Written], is_shared: bool) -> Result<(), WriteError> {
    let failed = |source| WriteError::Io { path: folder.to_owned(), source };
    // The folder itself is the lock, since the files are replaced. Some network file systems have none.
    let lock = File::open(folder).map_err(failed)?;
    let _ = lock.lock();
    let sums = folder.join(CHECKSUMS);
    replace(&sums, checksums(&read(&sums)?, set, shards, is_shared).as_bytes())?;
    let path = folder.join(index_name(set));
    let is_there = |name: &str| !name.contains('/') && folder.join(name).is_file();
    replace(&path, index(&read(&path)?, set, shards, is_shared.then_some(&is_there)).as_bytes())
}

/// As [`put`], in a folder of a store.
pub fn put_away(away: &Outbox, set: &str, shards: &[Written], is_shared: bool) -> Result<(), (String, RemoteError)> {
    let in_place = |name: &str, make: &dyn Fn(&str) -> String| {
        away.replace(name, make).map_err(|source| (name.to_owned(), source))
    };
    in_place(CHECKSUMS, &|before| checksums(before, set, shards, is_shared))?;
    // Who takes shards away from a store takes their line from the index too.
    let is_there = |_: &str| true;
    in_place(&index_name(set), &|before| index(before, set, shards, is_shared.then_some(&is_there)))
}

/// The file of a set's index.
pub fn index_name(set: &str) -> String {
    format!("{set}.json")
}

/// The checksums of a folder with those of these shards, from what they were before.
fn checksums(before: &str, set: &str, shards: &[Written], is_shared: bool) -> String {
    let own: BTreeSet<&str> = shards.iter().map(|shard| shard.shard.as_str()).collect();
    let is_own = |name: &str| own.contains(name) || (!is_shared && is_shard_of(set, Path::new(name)));
    // What others wrote stays as it is.
    let mut lines: Vec<(&str, String)> = before.lines().map(|line| (summed(line), line.to_owned())).collect();
    lines.retain(|(name, _)| !is_own(name));
    lines.extend(shards.iter().map(|shard| (shard.shard.as_str(), format!("{}  {}", shard.sha256, shard.shard))));
    lines.sort();
    lines.iter().map(|(_, line)| format!("{line}\n")).collect()
}

/// The file that a line of checksums is of; a line of another form itself.
pub fn summed(line: &str) -> &str {
    let name = line.split_once(' ').and_then(|(_, name)| name.strip_prefix([' ', '*']));
    name.map_or(line, |name| name.strip_prefix("./").unwrap_or(name))
}

/// Whether a text is no index of shards.
pub fn is_no_index(text: &str) -> bool {
    serde_json::from_str::<Value>(text).map_or(true, |value| value.get("__kind__") != Some(&KIND.into()))
}

/// A list of shards as the package `wids` reads it. Parts of a set that several processes write share one list: of those
/// in the list before, the shards that are still there stay.
fn index(before: &str, set: &str, shards: &[Written], shared: Option<&dyn Fn(&str) -> bool>) -> String {
    let own: BTreeSet<&str> = shards.iter().map(|shard| shard.shard.as_str()).collect();
    let before: Value = serde_json::from_str(before).unwrap_or_default();
    let listed = before.get("shardlist").and_then(Value::as_array).into_iter().flatten();
    let listed = listed.filter_map(|line| Some((line.get("url")?.as_str()?.to_owned(), line.clone())));
    let is_kept = |name: &str| shared.is_some_and(|is_there| !own.contains(name) && is_there(name));
    let mut lines: BTreeMap<String, Value> = listed.filter(|(name, _)| is_kept(name)).collect();
    lines.extend(shards.iter().map(|shard| {
        let line = json!({ "url": shard.shard, "nsamples": shard.samples, "filesize": shard.bytes });
        (shard.shard.clone(), line)
    }));
    let lines: Vec<Value> = lines.into_values().collect();
    let index = json!({ "__kind__": KIND, "wids_version": 1, "name": set, "shardlist": lines });
    format!("{index:#}\n")
}

/// Nothing where there is no file.
fn read(path: &Path) -> Result<String, WriteError> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(WriteError::Io { path: path.to_owned(), source }),
    }
}

/// Readers find the old file or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let mut beside: OsString = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_folder(path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&beside);
        WriteError::Io { path: path.to_owned(), source }
    })
}

/// The samples that a set leaves out, a line each.
pub enum DroppedList {
    /// The set's own list, cut to this length when the set is taken up again.
    Own { path: PathBuf, file: Option<File>, bytes: u64 },
    /// A list of the folder, with those of the shard that is being written.
    Shared { path: PathBuf, lines: Vec<Dropped> },
}

impl DroppedList {
    /// # Errors
    /// When an older list cannot be cut.
    pub fn own(path: PathBuf, bytes: u64) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Io { path: path.clone(), source };
        if bytes == 0 {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => return Ok(Self::Own { path, file: None, bytes }),
            }
        }
        let mut file = File::options().write(true).open(&path).map_err(failed)?;
        let cut = file.set_len(bytes).and_then(|()| file.seek(SeekFrom::End(0)));
        cut.map_err(failed)?;
        Ok(Self::Own { path, file: Some(file), bytes })
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Own { path, .. } | Self::Shared { path, .. } => path,
        }
    }

    pub fn add(&mut self, dropped: Dropped) -> Result<(), WriteError> {
        match self {
            Self::Own { path, file, bytes } => {
                let line = line_of(&dropped);
                let written = open(path, file).and_then(|file| file.write_all(line.as_bytes()));
                written.map_err(|source| WriteError::Io { path: path.clone(), source })?;
                *bytes += line.len() as u64;
            }
            Self::Shared { lines, .. } => lines.push(dropped),
        }
        Ok(())
    }

    /// Brings a list that lies here to where the set belongs. Of a list of the folder that is the lines of these shards.
    ///
    /// # Errors
    /// When the store or the disk fails.
    pub fn put_away(&self, to: &Destination, away: &Outbox, shards: &[Written]) -> Result<(), WriteError> {
        let path = self.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let lost = |source| to.lost(name, source);
        let lines = read(path)?;
        match self {
            Self::Own { .. } if lines.is_empty() => away.remove(name).map_err(lost),
            Self::Own { .. } => away.write(name, lines).map_err(lost),
            Self::Shared { .. } => {
                let names: BTreeSet<&str> = shards.iter().map(|shard| shard.shard.as_str()).collect();
                let of = |text: &str, own: bool| -> String {
                    let wanted = |line: &&str| is_line_of(line, &names) == own;
                    text.split_inclusive('\n').filter(wanted).collect()
                };
                let own = of(&lines, true);
                if own.is_empty() && away.text(name).map_err(lost)?.is_none() {
                    return Ok(());
                }
                away.replace(name, |before| of(before, false) + &own).map_err(lost)
            }
        }
    }

    /// Forgets what was said of these shards here, once it is where the set belongs.
    pub fn forget_here(&self, shards: &[Written]) {
        if let Self::Shared { path, .. } = self
            && path.exists()
        {
            let _ = note(path, &shards.iter().map(|shard| shard.shard.as_str()).collect(), &[]);
        }
        let is_shared = matches!(self, Self::Shared { .. });
        if !is_shared || fs::metadata(self.path()).is_ok_and(|found| found.len() == 0) {
            let _ = fs::remove_file(self.path());
        }
    }

    /// Brings to the disk what was added for a shard; the list's length in bytes where it is the set's own.
    pub fn sync(&mut self, shard: &str) -> Result<u64, WriteError> {
        match self {
            Self::Own { path, file, bytes } => {
                let synced = file.as_ref().map_or(Ok(()), File::sync_data);
                synced.map_err(|source| WriteError::Io { path: path.clone(), source })?;
                Ok(*bytes)
            }
            Self::Shared { path, lines } => {
                let lines = std::mem::take(lines);
                if lines.is_empty() && !path.exists() {
                    return Ok(0);
                }
                note(path, &BTreeSet::from([shard]), &lines)
                    .map_err(|source| WriteError::Io { path: path.clone(), source })?;
                Ok(0)
            }
        }
    }
}

fn open<'f>(path: &Path, file: &'f mut Option<File>) -> io::Result<&'f mut File> {
    match file {
        Some(file) => Ok(file),
        None => Ok(file.insert(File::create(path)?)),
    }
}

/// Whether a line is of a sample that would be in one of these shards.
fn is_line_of(line: &str, shards: &BTreeSet<&str>) -> bool {
    let parsed = serde_json::from_str::<Dropped>(line).ok();
    let name = parsed.as_ref().and_then(|line| line.shard.file_name()?.to_str());
    name.is_some_and(|name| shards.contains(name))
}

fn line_of(dropped: &Dropped) -> String {
    let path = dropped.shard.to_string_lossy();
    let Dropped { key, reason, detail, .. } = dropped;
    format!("{}\n", json!({ "key": key, "shard": path, "reason": reason, "detail": detail }))
}

/// Puts dropped samples of shards into the list, in place of what it said of these shards before. Other processes may be
/// writing other shards into the same folder.
fn note(path: &Path, shards: &BTreeSet<&str>, dropped: &[Dropped]) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    // Some network file systems have no locks.
    let _ = file.lock();
    let mut before = String::new();
    file.read_to_string(&mut before)?;
    // A line without its end was being written by a process that was killed.
    let is_of_another = |line: &&str| line.ends_with('\n') && !is_line_of(line, shards);
    let mut text: String = before.split_inclusive('\n').filter(is_of_another).collect();
    let is_rewritten = text != before;
    if is_rewritten {
        file.rewind()?;
    } else {
        text.clear();
    }
    text.extend(dropped.iter().map(line_of));
    file.write_all(text.as_bytes())?;
    if is_rewritten {
        // Cut only when all of it is written: a full disk loses no line.
        file.set_len(text.len() as u64)?;
    }
    file.sync_data()
}
