//! A file that grows at its end, on its way to the disk and to its SHA-256 while it is made.
//!
//! What is pushed is put together in large buffers, which a thread writes, while that of all files of a set hashes them.
//! They are written past the system's cache where the file system allows it (`O_DIRECT`): copying into that cache and
//! out of it again was a third of the processor time of copying a shard.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::buffers::{ALIGNED_BYTES, BUFFERS, Buffers, Lent};
use super::hashing::{FileHash, Hashing, Hurry};

/// What the files of a set are made with, one after the other.
#[derive(Clone)]
pub struct Making {
    buffers: Buffers,
    hashing: Hashing,
}

impl Making {
    /// # Errors
    /// When a thread cannot be started.
    pub fn new() -> io::Result<Self> {
        Ok(Self { buffers: Buffers::default(), hashing: Hashing::new()? })
    }

    /// For whoever waits for a file, as long as what is returned is kept.
    pub fn hurry(&self) -> Hurry {
        self.hashing.hurry()
    }
}

/// A file that is being made.
pub struct Hashed {
    making: Making,
    filling: Option<Lent>,
    bytes: u64,
    threads: Option<Threads>,
}

struct Threads {
    state: Arc<State>,
    to_write: Sender<Arc<Lent>>,
    writer: JoinHandle<io::Result<Metadata>>,
    hash: FileHash,
}

/// What the writer and whoever pushes know of each other.
#[derive(Default)]
struct State {
    failed: AtomicBool,
    /// Nobody wants the file any more.
    given_up: AtomicBool,
}

impl Hashed {
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(file: File, making: &Making) -> io::Result<Self> {
        let (to_write, writes) = bounded::<Arc<Lent>>(BUFFERS);
        let state = Arc::new(State::default());
        let told = Arc::clone(&state);
        let writer = thread::Builder::new().name("saccade-write".into()).spawn(move || {
            let written = write(&file, &writes, &told.given_up);
            told.failed.store(true, Relaxed);
            writes.iter().for_each(drop);
            written?;
            file.metadata()
        })?;
        let threads = Some(Threads { state, to_write, writer, hash: making.hashing.file() });
        Ok(Self { making: making.clone(), filling: None, bytes: 0, threads })
    }

    pub fn push(&mut self, data: &[u8]) -> io::Result<()> {
        self.bytes += data.len() as u64;
        let mut rest = data;
        while !rest.is_empty() {
            let filling = match &mut self.filling {
                Some(filling) => filling,
                none => none.insert(self.making.buffers.take()?),
            };
            rest = filling.fill(rest);
            if filling.is_full() {
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

    /// For whoever will wait for it.
    pub fn hurry(&self) -> Hurry {
        self.making.hurry()
    }

    /// Bytes pushed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Brings all of it to the disk; what the file is then, and its SHA-256.
    pub fn sync(mut self) -> io::Result<(Metadata, [u8; 32])> {
        self.hand_over()?;
        let Some(Threads { to_write, writer, hash, .. }) = self.threads.take() else { return Err(lost()) };
        drop(to_write);
        let hash = hash.end();
        let metadata = writer.join().map_err(|_| lost())??;
        Ok((metadata, hash.recv().map_err(|_| lost())?))
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let Some(filled) = self.filling.take().map(Arc::new) else { return Ok(()) };
        let threads = self.threads.as_ref().ok_or_else(lost)?;
        if !threads.state.failed.load(Relaxed) {
            // Whichever of them ended early is found when it is waited for.
            threads.hash.push(Arc::clone(&filled));
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
        disk.write(buffer.filled())?;
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
