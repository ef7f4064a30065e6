//! How far an unfinished set has come, in a file of its folder: a line for what was asked, then one per finished shard.
//!
//! A shard's line is on the disk before the shard is in its place. So whoever takes the set up finds, for every shard of
//! it that is there, a line; the shards of the first lines that are there unchanged are kept, all else is made again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Destination, SetAccount, Stamp, WriteError, Written};

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

/// That a shard came to a store, which is said after its line.
#[derive(Clone, Serialize, Deserialize)]
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
        let options = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(WriteError::Busy { path: path.to_owned() });
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let Parsed { head, head_end, lines, mut sent } = parse(&String::from_utf8_lossy(&text));
        let is_same = head.is_some_and(|head| head.version == VERSION && head.request == request);
        if is_same && !lines.is_empty() {
            let kept = still_there(to, &lines, &mut sent)?;
            let end = lines.iter().take(kept).next_back().map_or(head_end, |(_, end)| *end);
            let again = lines.iter().skip(kept).map(|(line, _)| line.written.shard.clone()).collect();
            file.set_len(end as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
            let lines: Vec<Line> = lines.into_iter().take(kept).map(|(line, _)| line).collect();
            sent.retain(|shard, _| lines.iter().any(|line| line.written.shard == *shard));
            let mut state = Self { path: path.to_owned(), file, lines: lines.len() };
            // What was said of them behind the line of a shard that is made again is gone.
            sent.iter().try_for_each(|(shard, version)| state.note_sent(shard, version))?;
            return Ok((state, Left { lines, again, sent }));
        }
        // Without any shard's line nothing is lost.
        if !lines.is_empty() && !force {
            return Err(WriteError::Unfinished { path: path.to_owned() });
        }
        refuse()?;
        let mut state = Self { path: path.to_owned(), file, lines: 0 };
        let head = Head { version: VERSION, request: request.to_owned() };
        let begun = state.file.set_len(0).and_then(|()| state.file.rewind()).and_then(|()| state.write(&head));
        begun.map_err(failed)?;
        Ok((state, Left::default()))
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
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.file.sync_data()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // There is nothing that could be taken up.
        if self.lines == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What the file says.
struct Parsed {
    head: Option<Head>,
    head_end: usize,
    /// With the place where each ends.
    lines: Vec<(Line, usize)>,
    sent: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
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
    let (mut lines, mut sent) = (Vec::new(), BTreeMap::new());
    for (line, end) in whole {
        match serde_json::from_str(line) {
            Ok(Entry::Line(line)) => lines.push((*line, end)),
            Ok(Entry::Sent(Sent { sent: shard, version })) => drop(sent.insert(shard, version)),
            Err(_) => break,
        }
    }
    Parsed { head, head_end, lines, sent }
}

/// How many of the first shards are in their places, unchanged: in the store that the set belongs to, or here. Forgets of
/// `sent` those that are not in the store any more as they came there.
fn still_there(
    to: &Destination,
    lines: &[(Line, usize)],
    sent: &mut BTreeMap<String, String>,
) -> Result<usize, WriteError> {
    for (number, (line, _)) in lines.iter().enumerate() {
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
