//! A file that grows at its end, on its way to the disk and to its SHA-256 while it is made.
//!
//! What is pushed is put together in large buffers, which a thread writes and another hashes. They are written past the
//! system's cache where the file system allows it (`O_DIRECT`): copying into that cache and out of it again was a third
//! of the processor time of copying a shard.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, bounded};
use sha2::{Digest, Sha256};

/// A write past the cache waits for the disk, so it is a large one.
const BUFFER_BYTES: usize = 4 << 20;

/// In memory and in the file, whatever goes past the cache begins and ends at multiples of this. Where a disk's blocks are
/// larger, the first write fails, and all goes through the cache.
const ALIGNED_BYTES: usize = 4096;

/// One is filled, one written, one hashed. The others are for a hash that lags behind: it is one stream, which takes as
/// long as all the rest on two cores, and the end of one shard's is made beside the beginning of the next one's.
const BUFFERS: usize = 24;

/// Memory that the files of a set are made in, one after the other.
#[derive(Clone)]
pub struct Buffers {
    free: Receiver<Buffer>,
    back: Sender<Buffer>,
    /// How many there are: no more than were needed at once.
    made: Arc<AtomicUsize>,
}

/// Memory of [`BUFFER_BYTES`] at an aligned place.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

/// A buffer that goes back to the others when nobody reads it any more.
struct Lent {
    buffer: Buffer,
    back: Sender<Buffer>,
}

/// A file that is being made.
pub struct Hashed {
    buffers: Buffers,
    filling: Option<Lent>,
    bytes: u64,
    threads: Option<Threads>,
}

struct Threads {
    state: Arc<State>,
    to_write: Sender<Arc<Lent>>,
    to_hash: Sender<Arc<Lent>>,
    writer: JoinHandle<io::Result<Metadata>>,
    hasher: JoinHandle<[u8; 32]>,
}

/// What the writer and whoever pushes know of each other.
#[derive(Default)]
struct State {
    failed: AtomicBool,
    /// Nobody wants the file any more.
    given_up: AtomicBool,
}

impl Default for Buffers {
    fn default() -> Self {
        let (back, free) = bounded(BUFFERS);
        Self { free, back, made: Arc::default() }
    }
}

impl Buffers {
    /// Waits for one that is free. Writers take what they are given even after they failed, so that there will be one.
    fn take(&self) -> io::Result<Lent> {
        let one_more = |made: usize| (made < BUFFERS).then_some(made + 1);
        let buffer = match self.free.try_recv() {
            Ok(buffer) => buffer,
            Err(_) if self.made.fetch_update(Relaxed, Relaxed, one_more).is_ok() => Buffer::new(),
            Err(_) => self.free.recv().map_err(io::Error::other)?,
        };
        Ok(Lent { buffer: Buffer { filled: 0, ..buffer }, back: self.back.clone() })
    }
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES + ALIGNED_BYTES], filled: 0 }
    }

    fn start(&self) -> usize {
        self.bytes.as_ptr().align_offset(ALIGNED_BYTES).min(ALIGNED_BYTES)
    }

    fn filled(&self) -> &[u8] {
        let start = self.start();
        self.bytes.get(start..start + self.filled).unwrap_or_default()
    }

    /// Puts in what there is room for; what there was not.
    fn fill<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let (now, later) = data.split_at(data.len().min(BUFFER_BYTES - self.filled));
        let begin = self.start() + self.filled;
        if let Some(room) = self.bytes.get_mut(begin..begin + now.len()) {
            room.copy_from_slice(now);
        }
        self.filled += now.len();
        later
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // There is room for all that were ever made.
        let _ = self.back.try_send(std::mem::take(&mut self.buffer));
    }
}

impl Hashed {
    pub fn new(file: File, buffers: &Buffers) -> io::Result<Self> {
        let (to_write, writes) = bounded::<Arc<Lent>>(BUFFERS);
        let (to_hash, hashes) = bounded::<Arc<Lent>>(BUFFERS);
        let state = Arc::new(State::default());
        let told = Arc::clone(&state);
        let writer = thread::Builder::new().name("saccade-write".into()).spawn(move || {
            let written = write(&file, &writes, &told.given_up);
            told.failed.store(true, Relaxed);
            writes.iter().for_each(drop);
            written?;
            file.metadata()
        })?;
        let hasher = thread::Builder::new().name("saccade-hash".into()).spawn(move || {
            let mut hash = Sha256::new();
            hashes.iter().for_each(|buffer| hash.update(buffer.buffer.filled()));
            hash.finalize().into()
        })?;
        let threads = Some(Threads { state, to_write, to_hash, writer, hasher });
        Ok(Self { buffers: buffers.clone(), filling: None, bytes: 0, threads })
    }

    pub fn push(&mut self, data: &[u8]) -> io::Result<()> {
        self.bytes += data.len() as u64;
        let mut rest = data;
        while !rest.is_empty() {
            let filling = match &mut self.filling {
                Some(filling) => filling,
                none => none.insert(self.buffers.take()?),
            };
            rest = filling.buffer.fill(rest);
            if filling.buffer.filled == BUFFER_BYTES {
                self.hand_over()?;
            }
        }
        Ok(())
    }

    /// Zeros up to the next multiple of `block`, which is 512 at most.
    pub fn pad(&mut self, block: usize) -> io::Result<()> {
        const ZEROS: [u8; 512] = [0; 512];
        let over = self.bytes as usize % block;
        let missing = if over == 0 { 0 } else { block - over };
        self.push(ZEROS.get(..missing).unwrap_or(&ZEROS))
    }

    /// Bytes pushed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Brings all of it to the disk; what the file is then, and its SHA-256.
    pub fn sync(mut self) -> io::Result<(Metadata, [u8; 32])> {
        self.hand_over()?;
        let Some(Threads { to_write, to_hash, writer, hasher, .. }) = self.threads.take() else { return Err(lost()) };
        drop((to_write, to_hash));
        let metadata = writer.join().map_err(|_| lost())??;
        Ok((metadata, hasher.join().map_err(|_| lost())?))
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let Some(filled) = self.filling.take().map(Arc::new) else { return Ok(()) };
        let threads = self.threads.as_ref().ok_or_else(lost)?;
        if !threads.state.failed.load(Relaxed) {
            // Whichever of them ended early is found when it is waited for.
            let _ = threads.to_hash.send(Arc::clone(&filled));
            let _ = threads.to_write.send(filled);
            return Ok(());
        }
        let Some(Threads { to_write, writer, .. }) = self.threads.take() else { return Err(lost()) };
        drop(to_write);
        Err(writer.join().ok().and_then(Result::err).unwrap_or_else(lost))
    }
}

impl Drop for Hashed {
    fn drop(&mut self) {
        // The file's lock is given up with it, and whoever tries again would find it taken.
        if let Some(Threads { state, to_write, writer, .. }) = self.threads.take() {
            state.given_up.store(true, Relaxed);
            drop(to_write);
            let _ = writer.join();
        }
    }
}

/// Brings buffers to the disk until there are no more, or the file is given up.
fn write(file: &File, buffers: &Receiver<Arc<Lent>>, given_up: &AtomicBool) -> io::Result<()> {
    let mut disk = Disk::of(file);
    for buffer in buffers {
        if given_up.load(Relaxed) {
            return Ok(());
        }
        disk.write(buffer.buffer.filled())?;
    }
    if given_up.load(Relaxed) { Ok(()) } else { file.sync_all() }
}

fn lost() -> io::Error {
    io::Error::other("a thread that writes it ended early")
}

/// The way to the disk: past the cache, as long as all is aligned and the file system takes it.
struct Disk<'f> {
    file: &'f File,
    is_direct: bool,
}

impl<'f> Disk<'f> {
    fn of(file: &'f File) -> Self {
        Self { file, is_direct: set_direct(file, true) }
    }

    fn write(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            let aligned = rest.len() / ALIGNED_BYTES * ALIGNED_BYTES;
            if aligned == 0 {
                // The end of the file.
                self.give_up_direct();
            }
            let now = if self.is_direct { rest.get(..aligned).unwrap_or(rest) } else { rest };
            match self.file.write(now) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A file system that takes no such writes, larger blocks, or a place that is not aligned any more after a
                // short write. What else is wrong shows again.
                Err(_) if self.is_direct => self.give_up_direct(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn give_up_direct(&mut self) {
        if self.is_direct {
            set_direct(self.file, false);
            self.is_direct = false;
        }
    }
}

/// Whether what is written to the file goes past the cache from now on.
#[cfg(target_os = "linux")]
fn set_direct(file: &File, is_direct: bool) -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let set = |mut flags: OFlags| {
        flags.set(OFlags::DIRECT, is_direct);
        fcntl_setfl(file, flags)
    };
    fcntl_getfl(file).and_then(set).is_ok() && is_direct
}

/// Elsewhere there is no such way.
#[cfg(not(target_os = "linux"))]
fn set_direct(_: &File, _: bool) -> bool {
    false
}
