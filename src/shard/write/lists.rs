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

use super::{WriteError, Written, is_shard_of, sync_folder};

/// How an index of shards names itself.
const KIND: &str = "wids-shard-index-v1";
/// As `sha256sum` writes and checks it.
const CHECKSUMS: &str = "SHA256SUMS";

/// A sample that was left out, as its line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    pub key: String,
    /// Where it came from.
    pub shard: PathBuf,
    pub reason: String,
    pub detail: String,
}

/// Puts the set's shards into the folder's checksums, and its own index beside them.
pub fn put(folder: &Path, set: &str, shards: &[Written], is_shared: bool) -> Result<(), WriteError> {
    let failed = |source| WriteError::Io { path: folder.to_owned(), source };
    // The folder itself is the lock, since the files are replaced. Some network file systems have none.
    let lock = File::open(folder).map_err(failed)?;
    let _ = lock.lock();
    let is_own = |name: &str| {
        shards.iter().any(|shard| shard.shard == name) || (!is_shared && is_shard_of(set, Path::new(name)))
    };
    checksums(&folder.join(CHECKSUMS), shards, is_own)?;
    index(&folder.join(format!("{set}.json")), set, shards, is_shared)
}

fn checksums(path: &Path, shards: &[Written], is_own: impl Fn(&str) -> bool) -> Result<(), WriteError> {
    let before = read(path)?;
    // What others wrote stays as it is.
    let mut lines: Vec<(&str, String)> = before.lines().map(|line| (summed(line), line.to_owned())).collect();
    lines.retain(|(name, _)| !is_own(name));
    lines.extend(shards.iter().map(|shard| (shard.shard.as_str(), format!("{}  {}", shard.sha256, shard.shard))));
    lines.sort();
    let text: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
    replace(path, text.as_bytes())
}

/// The file that a line of checksums is of; a line of another form itself.
fn summed(line: &str) -> &str {
    let name = line.split_once(' ').and_then(|(_, name)| name.strip_prefix([' ', '*']));
    name.map_or(line, |name| name.strip_prefix("./").unwrap_or(name))
}

/// Whether there is a file that is no index of shards.
pub fn is_no_index(path: &Path) -> bool {
    let Ok(bytes) = fs::read(path) else { return false };
    serde_json::from_slice::<Value>(&bytes).map_or(true, |value| value.get("__kind__") != Some(&KIND.into()))
}

/// A list of shards as the package `wids` reads it. Parts of a set that several processes write share one list.
fn index(path: &Path, set: &str, shards: &[Written], is_shared: bool) -> Result<(), WriteError> {
    let own: BTreeSet<&str> = shards.iter().map(|shard| shard.shard.as_str()).collect();
    let before = if is_shared { read(path)? } else { String::new() };
    let before: Value = serde_json::from_str(&before).unwrap_or_default();
    let of_others = before.get("shardlist").and_then(Value::as_array).into_iter().flatten();
    let of_others = of_others.filter_map(|line| Some((line.get("url")?.as_str()?.to_owned(), line.clone())));
    let mut lines: BTreeMap<String, Value> =
        of_others.filter(|(name, _)| !own.contains(name.as_str()) && is_there(path, name)).collect();
    lines.extend(shards.iter().map(|shard| {
        let line = json!({ "url": shard.shard, "nsamples": shard.samples, "filesize": shard.bytes });
        (shard.shard.clone(), line)
    }));
    let lines: Vec<Value> = lines.into_values().collect();
    let index = json!({ "__kind__": KIND, "wids_version": 1, "name": set, "shardlist": lines });
    replace(path, format!("{index:#}\n").as_bytes())
}

fn is_there(beside: &Path, name: &str) -> bool {
    !name.contains('/') && beside.with_file_name(name).is_file()
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
fn replace(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
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
                note(path, shard, &lines).map_err(|source| WriteError::Io { path: path.clone(), source })?;
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

fn line_of(dropped: &Dropped) -> String {
    let path = dropped.shard.to_string_lossy();
    let Dropped { key, reason, detail, .. } = dropped;
    format!("{}\n", json!({ "key": key, "shard": path, "reason": reason, "detail": detail }))
}

/// Puts a shard's dropped samples into the list, in place of what it said of the shard before. Other processes may be
/// writing other shards into the same folder.
fn note(path: &Path, shard: &str, dropped: &[Dropped]) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    // Some network file systems have no locks.
    let _ = file.lock();
    let mut before = String::new();
    file.read_to_string(&mut before)?;
    let is_of_another = |line: &&str| {
        let parsed = serde_json::from_str::<Dropped>(line);
        // A line without its end was being written by a process that was killed.
        line.ends_with('\n') && parsed.map_or(true, |line| line.shard.file_name().is_none_or(|name| name != shard))
    };
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
