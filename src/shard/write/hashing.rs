//! Buffers of files that are being made → the files' SHA-256, by one thread, of two files at a time where it can.
//!
//! Two files take little more time than one, so a file's buffers wait for the next file's: as many as may lie about, and
//! no longer than until somebody waits for the file, or for a moment once it is ended.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::buffers::{BUFFERS, Lent};
use super::sha256::{BLOCK_BYTES, Block, Sha256};

/// Buffers that may lie about until the next file's come. The others are being filled and written meanwhile.
const MOST_LYING: usize = BUFFERS / 2;

/// How long an ended file waits for the next one's buffers.
const LONGEST: Duration = Duration::from_millis(100);

/// The thread, which ends with the last of these.
#[derive(Clone)]
pub struct Hashing {
    told: Sender<Told>,
    files: Arc<AtomicU64>,
    hurries: Arc<AtomicUsize>,
}

/// The hash of one file; forgotten when it is dropped unfinished.
pub struct FileHash {
    hashing: Hashing,
    file: u64,
    is_ended: bool,
}

/// While there is one, nothing lies about.
pub struct Hurry {
    hurries: Arc<AtomicUsize>,
}

enum Told {
    Filled(u64, Arc<Lent>),
    Ended(u64, Sender<[u8; 32]>),
    GivenUp(u64),
    Hurry,
}

/// A file of which something is yet to come.
struct Open {
    file: u64,
    hash: Sha256,
    buffers: VecDeque<Arc<Lent>>,
    /// Bytes of the first buffer that are hashed already.
    done: usize,
    /// Less than a block, at the end of the file.
    rest: Vec<u8>,
    ended: Option<Sender<[u8; 32]>>,
}

impl Hashing {
    /// # Errors
    /// When the thread cannot be started.
    pub fn new() -> io::Result<Self> {
        // As many as there are buffers, and a few words.
        let (told, hears) = unbounded();
        let hurries = Arc::new(AtomicUsize::new(0));
        let are_hurrying = Arc::clone(&hurries);
        thread::Builder::new().name("saccade-hash".into()).spawn(move || hash(&hears, &are_hurrying))?;
        Ok(Self { told, files: Arc::default(), hurries })
    }

    pub fn file(&self) -> FileHash {
        FileHash { hashing: self.clone(), file: self.files.fetch_add(1, Relaxed), is_ended: false }
    }

    /// Has everything hashed at once, until what is returned is dropped: for whoever waits for a file.
    pub fn hurry(&self) -> Hurry {
        self.hurries.fetch_add(1, Relaxed);
        self.tell(Told::Hurry);
        Hurry { hurries: Arc::clone(&self.hurries) }
    }

    /// A thread that ended early is found when a hash is waited for.
    fn tell(&self, told: Told) {
        let _ = self.told.send(told);
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.hurries.fetch_sub(1, Relaxed);
    }
}

impl FileHash {
    pub fn push(&self, buffer: Arc<Lent>) {
        self.hashing.tell(Told::Filled(self.file, buffer));
    }

    /// Where the hash will come.
    pub fn end(mut self) -> Receiver<[u8; 32]> {
        let (to, hash) = bounded(1);
        self.hashing.tell(Told::Ended(self.file, to));
        self.is_ended = true;
        hash
    }
}

impl Drop for FileHash {
    fn drop(&mut self) {
        if !self.is_ended {
            self.hashing.tell(Told::GivenUp(self.file));
        }
    }
}

/// Hashes what comes, until nobody is left who could send more.
fn hash(told: &Receiver<Told>, hurries: &AtomicUsize) {
    let mut files: Vec<Open> = Vec::new();
    loop {
        told.try_iter().for_each(|next| hear(&mut files, next));
        if step(&mut files, hurries.load(Relaxed) > 0) {
            continue;
        }
        let next = if files.iter().any(|file| file.ended.is_some()) {
            told.recv_timeout(LONGEST)
        } else {
            told.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match next {
            Ok(next) => hear(&mut files, next),
            Err(RecvTimeoutError::Timeout) => while step(&mut files, true) {},
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn hear(files: &mut Vec<Open>, told: Told) {
    match told {
        Told::Filled(file, buffer) => {
            if let Some(open) = open(files, file) {
                open.buffers.push_back(buffer);
            }
        }
        Told::Ended(file, to) => {
            if let Some(open) = open(files, file) {
                open.ended = Some(to);
            }
            answer(files);
        }
        Told::GivenUp(file) => files.retain(|open| open.file != file),
        Told::Hurry => {}
    }
}

/// A file that is not among them begins.
fn open(files: &mut Vec<Open>, file: u64) -> Option<&mut Open> {
    if files.iter().all(|open| open.file != file) {
        files.push(Open::new(file));
    }
    files.iter_mut().find(|open| open.file == file)
}

/// Hashes one buffer, or two together; whether there was something to do.
fn step(files: &mut Vec<Open>, is_hurried: bool) -> bool {
    let lying: usize = files.iter().map(|open| open.buffers.len()).sum();
    let mut waiting = files.iter_mut().filter(|open| !open.buffers.is_empty());
    match (waiting.next(), waiting.next()) {
        (Some(first), Some(second)) => Open::step_both(first, second),
        (Some(alone), None) if lying > MOST_LYING || is_hurried => alone.step(),
        _ => return false,
    }
    answer(files);
    true
}

/// Says the hashes of the files that are done.
fn answer(files: &mut Vec<Open>) {
    files.retain(|open| match &open.ended {
        Some(to) if open.buffers.is_empty() => {
            // Whoever asked may have given up.
            let _ = to.send(open.hash.clone().finish(&open.rest));
            false
        }
        _ => true,
    });
}

impl Open {
    fn new(file: u64) -> Self {
        Self { file, hash: Sha256::default(), buffers: VecDeque::new(), done: 0, rest: Vec::new(), ended: None }
    }

    fn step(&mut self) {
        let Some(buffer) = self.buffers.front().cloned() else { return };
        let blocks = self.blocks(&buffer);
        self.hash.push(blocks);
        self.advance(&buffer, blocks.len());
    }

    fn step_both(first: &mut Self, second: &mut Self) {
        let (Some(one), Some(other)) = (first.buffers.front().cloned(), second.buffers.front().cloned()) else {
            return;
        };
        let blocks = [first.blocks(&one), second.blocks(&other)];
        let both = Sha256::push_both(&mut first.hash, &mut second.hash, blocks);
        first.advance(&one, both);
        second.advance(&other, both);
    }

    /// What is not hashed yet of the first buffer.
    fn blocks<'b>(&self, buffer: &'b Lent) -> &'b [Block] {
        buffer.filled().get(self.done..).unwrap_or_default().as_chunks().0
    }

    fn advance(&mut self, buffer: &Lent, blocks: usize) {
        self.done += blocks * BLOCK_BYTES;
        let rest = buffer.filled().get(self.done..).unwrap_or_default();
        if rest.len() < BLOCK_BYTES {
            // All buffers but a file's last are full, and end with a block.
            self.rest.extend_from_slice(rest);
            self.buffers.pop_front();
            self.done = 0;
        }
    }
}
