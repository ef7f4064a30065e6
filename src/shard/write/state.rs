//! How far an unfinished set has come, in a file of its folder: a line for what was asked, then one per finished shard,
//! and, where the set belongs to a store, one more when the store has it. Shards that are to be made again have a line too.
//!
//! A shard's line is on the disk before the shard is in its place. So whoever takes the set up finds, for every shard of
//! it that is there, a line; the shards of the first lines that are there unchanged are kept, all else is made again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Destination, SetAccount, Stamp, WriteError, Written, sync_folder};

/// Raised whenever a line means something else than before; other versions are of another request.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    /// The SHA-256 of all that the set's bytes depend on.
    request: String,
}

/// What is known of a finished shard and of the set up to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    #[serde(flatten)]
    pub written: Written,
    /// Of the file, by which it is known again.
    pub seconds: i64,
    pub nanoseconds: i64,
    /// Length of the set's list of dropped samples.
    pub dropped_bytes: u64,
    pub account: SetAccount,
}

/// The open file of a set that is being written.
pub struct State {
    path: PathBuf,
    file: File,
    lines: usize,
}

/// What an interrupted call left.
#[derive(Default)]
pub struct Left {
    /// Of the shards that are kept, in order.
    pub lines: Vec<Line>,
    /// Shards of the same request that are made again, whatever lies in their place.
    pub again: BTreeSet<String>,
    /// Shards that are in a store, by name, and what they were when they came there.
    pub sent: BTreeMap<String, String>,
}

/// A shard of this request that lies in its place, but is made again.
#[derive(Serialize, Deserialize)]
struct Again {
    again: String,
}

/// That a shard came to a store, which is said after its line.
#[derive(Serialize, Deserialize)]
struct Sent {
    sent: String,
    version: String,
}

impl State {
    /// Opens the state of a set, or begins one; `refuse` is asked first where the set is begun.
    ///
    /// # Errors
    /// When another process writes the set, when a set of another request is unfinished (unless `force`), when `refuse`
    /// does, and when the disk fails.
    pub fn open(
        path: &Path,
        request: &str,
        force: bool,
        to: &Destination,
        refuse: impl Fn() -> Result<(), WriteError>,
    ) -> Result<(Self, Left), WriteError> {
        let failed = |source| WriteError::Io { path: path.to_owned(), source };
        if !path.exists() {
            refuse()?;
        }
        // Somebody else who wrote to the same place may have removed the folder, empty, as he ended.
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let options = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(WriteError::Busy { path: path.to_owned() });
        }
        // Its holder may have put another in its place between the opening and the lock.
        let named = fs::metadata(path).map(|named| (named.dev(), named.ino())).ok();
        let opened = file.metadata().map_err(failed)?;
        if named != Some((opened.dev(), opened.ino())) {
            return Err(WriteError::Busy { path: path.to_owned() });
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let Parsed { head, mut lines, mut sent, mut again, end } = parse(&String::from_utf8_lossy(&text));
        let is_same = head.is_some_and(|head| head.version == VERSION && head.request == request);
        if is_same && (!lines.is_empty() || !again.is_empty()) {
            let (all, known) = (lines.len(), sent.len());
            let kept = still_there(to, &lines, &mut sent)?;
            again.extend(lines.split_off(kept).into_iter().map(|line| line.written.shard));
            let names: BTreeSet<&String> = lines.iter().map(|line| &line.written.shard).collect();
            again.retain(|shard| !names.contains(shard));
            sent.retain(|shard, _| names.contains(shard));
            let mut state = Self { path: path.to_owned(), file, lines: lines.len() + again.len() };
            if (lines.len(), sent.len(), text.len()) != (all, known, end) {
                state.replace(request, &lines, &sent, &again).map_err(failed)?;
            }
            return Ok((state, Left { lines, again, sent }));
        }
        // Without any shard's line nothing is lost.
        if (!lines.is_empty() || !again.is_empty()) && !force {
            return Err(WriteError::Unfinished { path: path.to_owned() });
        }
        refuse()?;
        let mut state = Self { path: path.to_owned(), file, lines: 0 };
        let head = Head { version: VERSION, request: request.to_owned() };
        let begun = state.file.set_len(0).and_then(|()| state.file.rewind()).and_then(|()| state.write(&head));
        begun.map_err(failed)?;
        Ok((state, Left::default()))
    }

    /// Puts a file that says this into the place of the one there is.
    fn replace(
        &mut self,
        request: &str,
        lines: &[Line],
        sent: &BTreeMap<String, String>,
        again: &BTreeSet<String>,
    ) -> io::Result<()> {
        let mut text = Vec::new();
        push(&mut text, &Head { version: VERSION, request: request.to_owned() })?;
        again.iter().try_for_each(|shard| push(&mut text, &Again { again: shard.clone() }))?;
        for line in lines {
            push(&mut text, line)?;
            if let Some(version) = sent.get(&line.written.shard) {
                push(&mut text, &Sent { sent: line.written.shard.clone(), version: version.clone() })?;
            }
        }
        let beside = self.path.with_extension("part");
        let mut file = File::create(&beside)?;
        file.lock()?;
        file.write_all(&text).and_then(|()| file.sync_all())?;
        fs::rename(&beside, &self.path)?;
        self.file = file;
        sync_folder(&self.path)
    }

    /// Brings a line to the disk.
    pub fn note(&mut self, line: &Line) -> Result<(), WriteError> {
        self.write(line).map_err(|source| WriteError::Io { path: self.path.clone(), source })?;
        self.lines += 1;
        Ok(())
    }

    /// Brings to the disk that a shard is in a store.
    pub fn note_sent(&mut self, shard: &str, version: &str) -> Result<(), WriteError> {
        let sent = Sent { sent: shard.to_owned(), version: version.to_owned() };
        self.write(&sent).map_err(|source| WriteError::Io { path: self.path.clone(), source })
    }

    /// The set is whole, so the file goes.
    pub fn end(mut self) -> Result<(), WriteError> {
        self.lines = 0;
        fs::remove_file(&self.path).map_err(|source| WriteError::Io { path: self.path.clone(), source })
    }

    fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = Vec::new();
        push(&mut text, line)?;
        self.file.write_all(&text)?;
        self.file.sync_data()
    }
}

fn push(text: &mut Vec<u8>, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}

impl Drop for State {
    fn drop(&mut self) {
        // There is nothing that could be taken up.
        if self.lines == 0 {
            let _ = fs::remove_file(&self.path);
        }
        // Closing the file would leave the lock to a child that another thread is just starting, which has it open too.
        let _ = self.file.unlock();
    }
}

/// What the file says.
struct Parsed {
    head: Option<Head>,
    lines: Vec<Line>,
    sent: BTreeMap<String, String>,
    again: BTreeSet<String>,
    /// Where the last of all these ends.
    end: usize,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Again(Again),
    Sent(Sent),
    Line(Box<Line>),
}

/// A line that a kill cut off ends the others.
fn parse(text: &str) -> Parsed {
    let mut whole = text.split_inclusive('\n').take_while(|line| line.ends_with('\n')).scan(0, |end, line| {
        *end += line.len();
        Some((line, *end))
    });
    let (head, head_end) = whole.next().map_or((None, 0), |(line, end)| (serde_json::from_str(line).ok(), end));
    let mut parsed = Parsed { head, lines: Vec::new(), sent: BTreeMap::new(), again: BTreeSet::new(), end: head_end };
    for (line, end) in whole {
        let Parsed { lines, sent, again, .. } = &mut parsed;
        match serde_json::from_str(line) {
            Ok(Entry::Line(line)) => lines.push(*line),
            Ok(Entry::Again(Again { again: shard })) => drop(again.insert(shard)),
            Ok(Entry::Sent(Sent { sent: shard, version })) => drop(sent.insert(shard, version)),
            Err(_) => break,
        }
        parsed.end = end;
    }
    parsed
}

/// How many of the first shards are in their places, unchanged: in the store that the set belongs to, or here. Forgets of
/// `sent` those that are not in the store any more as they came there.
fn still_there(to: &Destination, lines: &[Line], sent: &mut BTreeMap<String, String>) -> Result<usize, WriteError> {
    for (number, line) in lines.iter().enumerate() {
        let shard = &line.written.shard;
        if let (Some(away), Some(known)) = (to.away(), sent.get(shard)) {
            let found = away.version(shard).map_err(|source| to.lost(shard, source))?;
            if found.as_ref() == Some(known) {
                continue;
            }
            sent.remove(shard);
        }
        let stamp = Stamp { size: line.written.bytes, seconds: line.seconds, nanoseconds: line.nanoseconds };
        if !fs::metadata(to.folder().join(shard)).is_ok_and(|found| Stamp::of(&found) == stamp) {
            return Ok(number);
        }
    }
    Ok(lines.len())
}
