//! The memory that the files of a set are made in, one file after the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam::channel::{Receiver, Sender, bounded};

/// A write past the cache waits for the disk, so it is a large one.
pub const BUFFER_BYTES: usize = 4 << 20;

/// In memory and in the file, whatever goes past the cache begins and ends at multiples of this. Where a disk's blocks are
/// larger, the first write fails, and all goes through the cache.
pub const ALIGNED_BYTES: usize = 4096;

/// One is filled, and half of them wait for a disk that is slower for a moment. The other half are for hashes, which lag
/// behind: the end of one file's is made beside the beginning of the next one's.
pub const BUFFERS: usize = 64;

/// Buffers that are taken and come back.
#[derive(Clone)]
pub struct Buffers {
    free: Receiver<Buffer>,
    back: Sender<Buffer>,
    /// How many there are: no more than were needed at once.
    made: Arc<AtomicUsize>,
}

/// Memory of [`BUFFER_BYTES`] at an aligned place.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

/// A buffer that goes back to the others when nobody reads it any more.
pub struct Lent {
    buffer: Buffer,
    back: Sender<Buffer>,
}

impl Default for Buffers {
    fn default() -> Self {
        let (back, free) = bounded(BUFFERS);
        Self { free, back, made: Arc::default() }
    }
}

impl Buffers {
    /// Waits for one that is free. Writers take what they are given even after they failed, so that there will be one.
    pub fn take(&self) -> io::Result<Lent> {
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
}

impl Lent {
    pub fn filled(&self) -> &[u8] {
        let start = self.buffer.start();
        self.buffer.bytes.get(start..start + self.buffer.filled).unwrap_or_default()
    }

    pub fn is_full(&self) -> bool {
        self.buffer.filled == BUFFER_BYTES
    }

    /// Puts in what there is room for; what there was not.
    pub fn fill<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let buffer = &mut self.buffer;
        let (now, later) = data.split_at(data.len().min(BUFFER_BYTES - buffer.filled));
        let begin = buffer.start() + buffer.filled;
        if let Some(room) = buffer.bytes.get_mut(begin..begin + now.len()) {
            room.copy_from_slice(now);
        }
        buffer.filled += now.len();
        later
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // There is room for all that were ever made.
        let _ = self.back.try_send(std::mem::take(&mut self.buffer));
    }
}
