//! Finished samples → a batch in one piece of memory, with its masks and its account.
//!
//! A batch's memory is one allocation, split into a handle per sample while workers fill it and put together again when
//! the last is done: no copy, no lock around pixels. It goes back to the pool when the batch is dropped.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use crossbeam::queue::ArrayQueue;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::decode::Reason;
use super::mask::{MaskMode, SampleMasks, Sizes, collate};
use crate::shard::hex;

/// What the device takes at once; batches arrive in the order of their steps.
#[derive(Debug)]
pub struct Batch {
    pub step: u64,
    /// Of its first sample; a batch may straddle two epochs.
    pub epoch: u64,
    /// The numbers of the samples that are in it, replacements included.
    pub samples: Vec<u32>,
    pub labels: Vec<Option<u32>>,
    /// `[batch, size, size, 3]`
    pub pixels: Pixels,
    pub masks: Option<Masks>,
    pub quarantined: Vec<Quarantined>,
    /// After this batch.
    pub counts: Counts,
}

/// Samples since the beginning of the run: those read are those trained and those quarantined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    pub read: u64,
    pub quarantined: u64,
}

/// The patches of a batch's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masks {
    pub context: Indices,
    /// One per target block.
    pub targets: Vec<Indices>,
}

/// Patch numbers of one block of every sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indices {
    pub width: usize,
    /// Real patches per sample.
    pub lengths: Vec<u32>,
    /// `[batch, width]`, sorted, padded with 0.
    pub indices: Vec<u32>,
}

/// A sample that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    pub step: u64,
    pub key: String,
    pub shard: PathBuf,
    /// Of the image in its shard, in bytes.
    pub offset: u64,
    pub reason: Reason,
    pub detail: String,
    /// The key of the sample in its place; empty where none is.
    pub replaced_by: String,
}

/// SHA-256, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Digests {
    pub pixels: String,
    pub masks: Option<String>,
}

impl Batch {
    pub fn digests(&self) -> Digests {
        Digests {
            pixels: hex(Sha256::digest(&self.pixels[..]).as_slice()),
            masks: self.masks.as_ref().map(Masks::digest),
        }
    }
}

impl Masks {
    fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for indices in std::iter::once(&self.context).chain(&self.targets) {
            digest.update((indices.width as u64).to_le_bytes());
            for number in indices.lengths.iter().chain(&indices.indices) {
                digest.update(number.to_le_bytes());
            }
        }
        hex(digest.finalize().as_slice())
    }
}

impl Indices {
    /// Cuts longer rows to `width` and pads shorter ones.
    pub(super) fn new(rows: &[&[u32]], width: usize) -> Self {
        let mut indices = Vec::with_capacity(rows.len() * width);
        for row in rows {
            indices.extend(row.iter().copied().chain(std::iter::repeat(0)).take(width));
        }
        Self { width, lengths: rows.iter().map(|row| row.len().min(width) as u32).collect(), indices }
    }
}

/// The pixels of a batch; dropping them gives their memory back.
pub struct Pixels {
    bytes: BytesMut,
    pool: Arc<Pool>,
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Pixels {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "Pixels({} bytes)", self.bytes.len())
    }
}

impl Drop for Pixels {
    fn drop(&mut self) {
        self.pool.give_batch(std::mem::take(&mut self.bytes));
    }
}

/// Memory that is used again: a pool takes back as much as can be in use at once and frees the rest.
#[derive(Debug)]
pub(super) struct Pool {
    batches: ArrayQueue<BytesMut>,
    samples: ArrayQueue<Vec<u8>>,
}

impl Pool {
    pub fn new(batches: usize, samples: usize) -> Self {
        Self { batches: ArrayQueue::new(batches.max(1)), samples: ArrayQueue::new(samples.max(1)) }
    }

    pub fn take_batch(&self, bytes: usize) -> BytesMut {
        let mut batch = self.batches.pop().unwrap_or_default();
        batch.resize(bytes, 0);
        batch
    }

    pub fn take_sample(&self) -> Vec<u8> {
        self.samples.pop().unwrap_or_default()
    }

    fn give_batch(&self, batch: BytesMut) {
        // A full pool drops what it is given.
        let _ = self.batches.push(batch);
    }

    pub fn give_sample(&self, sample: Vec<u8>) {
        let _ = self.samples.push(sample);
    }
}

/// A batch whose samples are being made.
#[derive(Debug)]
pub(super) struct Open {
    pub step: u64,
    pub epoch: u64,
    /// Drawn once for the batch in shared-size mode.
    pub sizes: Option<Sizes>,
    slots: Mutex<Slots>,
    settled: AtomicBool,
}

#[derive(Debug)]
struct Slots {
    done: Vec<Option<Slot>>,
    left: usize,
}

/// One finished place of a batch.
#[derive(Debug)]
pub(super) struct Slot {
    pub pixels: BytesMut,
    /// The sample in this place and its label; none where a bad one is left out.
    pub sample: Option<(u32, Option<u32>)>,
    pub masks: Option<SampleMasks>,
    pub quarantined: Vec<Quarantined>,
    pub read: u64,
}

impl Open {
    pub fn new(step: u64, epoch: u64, sizes: Option<Sizes>, count: usize) -> Self {
        let slots = Slots { done: std::iter::repeat_with(|| None).take(count).collect(), left: count };
        Self { step, epoch, sizes, slots: Mutex::new(slots), settled: AtomicBool::new(false) }
    }

    /// Whether an error has taken the batch's place.
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// True for the first caller: that one tells the consumer.
    pub fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::Relaxed)
    }

    /// Puts a sample into its place; the last one gets all of them back.
    pub fn fill(&self, place: usize, slot: Slot) -> Option<Vec<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = slots.done.get_mut(place)?;
        *empty = Some(slot);
        slots.left = slots.left.saturating_sub(1);
        (slots.left == 0).then(|| slots.done.drain(..).flatten().collect())
    }
}

/// Puts the samples of a batch together; its counts are those of this batch alone.
pub(super) fn assemble(open: &Open, slots: Vec<Slot>, mode: Option<MaskMode>, pool: &Arc<Pool>) -> Batch {
    let present: Vec<bool> = slots.iter().map(|slot| slot.sample.is_some()).collect();
    let view_bytes = slots.first().map_or(0, |slot| slot.pixels.len());
    let (mut bytes, mut samples, mut labels) =
        (BytesMut::new(), Vec::with_capacity(slots.len()), Vec::with_capacity(slots.len()));
    let (mut masks, mut quarantined, mut read) = (Vec::with_capacity(slots.len()), Vec::new(), 0);
    for slot in slots {
        // The handles come in the order in which they were split off, so that they join without a copy.
        bytes.unsplit(slot.pixels);
        if let Some((sample, label)) = slot.sample {
            samples.push(sample);
            labels.push(label);
        }
        masks.extend(slot.masks);
        quarantined.extend(slot.quarantined);
        read += slot.read;
    }
    close_gaps(&mut bytes, view_bytes, &present);
    Batch {
        step: open.step,
        epoch: open.epoch,
        samples,
        labels,
        pixels: Pixels { bytes, pool: Arc::clone(pool) },
        masks: mode.map(|mode| collate(mode, &masks)),
        counts: Counts { read, quarantined: quarantined.len() as u64 },
        quarantined,
    }
}

/// Moves the views that are present to the front and cuts off the rest.
fn close_gaps(bytes: &mut BytesMut, view_bytes: usize, present: &[bool]) {
    let mut end = 0;
    for (place, _) in present.iter().enumerate().filter(|(_, present)| **present) {
        let start = place * view_bytes;
        if start != end {
            bytes.copy_within(start..start + view_bytes, end);
        }
        end += view_bytes;
    }
    bytes.truncate(end);
}
