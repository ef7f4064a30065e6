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
use super::saccade::Saccade;
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
    /// `[batch, size, size, 3]`, or `[batch, 2, size, size, 3]` where each sample has two views.
    pub pixels: Pixels,
    /// The way from the first to the second view of each sample, where there are two.
    pub saccades: Option<Vec<Saccade>>,
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
    pub shifts: Option<String>,
}

impl Batch {
    pub fn digests(&self) -> Digests {
        Digests {
            pixels: hex(Sha256::digest(&self.pixels[..]).as_slice()),
            masks: self.masks.as_ref().map(Masks::digest),
            shifts: self.saccades.as_ref().map(|saccades| shifts_digest(saccades)),
        }
    }
}

fn shifts_digest(saccades: &[Saccade]) -> String {
    let mut digest = Sha256::new();
    for Saccade { angle, shift: [right, down] } in saccades {
        for number in [angle, right, down] {
            digest.update(number.to_le_bytes());
        }
    }
    hex(digest.finalize().as_slice())
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
    pub(super) fn new<'a>(rows: impl Iterator<Item = &'a [u32]> + Clone, width: usize) -> Self {
        let count = rows.clone().count();
        let (mut lengths, mut indices) = (Vec::with_capacity(count), Vec::with_capacity(count * width));
        for row in rows {
            lengths.push(row.len().min(width) as u32);
            indices.extend(row.iter().copied().chain(std::iter::repeat(0)).take(width));
        }
        Self { width, lengths, indices }
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

impl AsRef<[u8]> for Pixels {
    fn as_ref(&self) -> &[u8] {
        self
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
    slots: ArrayQueue<Vec<Slot>>,
    samples: ArrayQueue<Vec<u8>>,
    /// What the buffers for samples can hold, without their ends.
    usual_sample: usize,
}

/// Bytes that a decoder may put behind a sample's own without another allocation.
pub(super) const SAMPLE_END: usize = 128;

impl Pool {
    /// `usual_sample`: bytes that all but few samples do not exceed. A larger one has memory of its own, for as long as
    /// it lasts; if buffers grew with what they meet, all would be as large as the largest in the end.
    pub fn new(batches: usize, samples: usize, usual_sample: u64) -> Self {
        let (batches, samples) = (batches.max(1), samples.max(1));
        Self {
            batches: ArrayQueue::new(batches),
            slots: ArrayQueue::new(batches),
            samples: ArrayQueue::new(samples),
            usual_sample: usual_sample as usize,
        }
    }

    pub fn take_batch(&self, bytes: usize) -> BytesMut {
        let mut batch = self.batches.pop().unwrap_or_default();
        batch.resize(bytes, 0);
        batch
    }

    fn give_batch(&self, batch: BytesMut) {
        // A full pool drops what it is given.
        let _ = self.batches.push(batch);
    }

    pub fn take_slots(&self, count: usize) -> Vec<Slot> {
        let mut slots = self.slots.pop().unwrap_or_default();
        slots.resize_with(count, Slot::default);
        slots
    }

    pub fn take_sample(&self, length: u64) -> Vec<u8> {
        let length = length as usize;
        // One is taken in any case, so that what is idle and what is in use are never more than what may be in flight.
        let pooled = self.samples.pop().filter(|_| length <= self.usual_sample);
        pooled.unwrap_or_else(|| Vec::with_capacity(length.max(self.usual_sample) + SAMPLE_END))
    }

    pub fn give_sample(&self, sample: Vec<u8>) {
        if sample.capacity() == self.usual_sample + SAMPLE_END {
            let _ = self.samples.push(sample);
        }
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
    done: Vec<Slot>,
    left: usize,
}

/// One place of a batch; what it takes is used again for the same place of another.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub pixels: BytesMut,
    /// The sample in this place and its label; none where a bad one is left out.
    pub sample: Option<(u32, Option<u32>)>,
    /// Of the sample, where it has two views.
    pub saccade: Option<Saccade>,
    /// Of the sample, where the stream has masks.
    pub masks: SampleMasks,
    pub quarantined: Vec<Quarantined>,
    pub read: u64,
}

impl Open {
    /// `slots`: one for each place.
    pub fn new(step: u64, epoch: u64, sizes: Option<Sizes>, slots: Vec<Slot>) -> Self {
        let slots = Slots { left: slots.len(), done: slots };
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

    /// Exchanges a place's slot for the filled one; who fills the last place gets all of them.
    pub fn fill(&self, place: usize, slot: &mut Slot) -> Option<Vec<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(slots.done.get_mut(place)?, slot);
        slots.left = slots.left.saturating_sub(1);
        (slots.left == 0).then(|| std::mem::take(&mut slots.done))
    }
}

/// Puts the samples of a batch together; its counts are those of this batch alone.
pub(super) fn assemble(open: &Open, mut slots: Vec<Slot>, mode: Option<MaskMode>, pool: &Arc<Pool>) -> Batch {
    let view_bytes = slots.first().map_or(0, |slot| slot.pixels.len());
    let (mut bytes, mut samples, mut labels) =
        (BytesMut::new(), Vec::with_capacity(slots.len()), Vec::with_capacity(slots.len()));
    let (mut quarantined, mut read) = (Vec::new(), 0);
    for slot in &mut slots {
        // The handles come in the order in which they were split off, so that they join without a copy.
        bytes.unsplit(std::mem::take(&mut slot.pixels));
        if let Some((sample, label)) = slot.sample {
            samples.push(sample);
            labels.push(label);
        }
        quarantined.append(&mut slot.quarantined);
        read += slot.read;
    }
    close_gaps(&mut bytes, view_bytes, &slots);
    let present = slots.iter().filter(|slot| slot.sample.is_some());
    let masks = mode.map(|mode| collate(mode, present.clone().map(|slot| &slot.masks)));
    // All or none have one.
    let saccades: Option<Vec<_>> = present.map(|slot| slot.saccade).collect();
    // A full pool drops what it is given.
    let _ = pool.slots.push(slots);
    Batch {
        step: open.step,
        epoch: open.epoch,
        samples,
        labels,
        pixels: Pixels { bytes, pool: Arc::clone(pool) },
        saccades: saccades.filter(|saccades| !saccades.is_empty()),
        masks,
        counts: Counts { read, quarantined: quarantined.len() as u64 },
        quarantined,
    }
}

/// Moves the views that are present to the front and cuts off the rest.
fn close_gaps(bytes: &mut BytesMut, view_bytes: usize, slots: &[Slot]) {
    let mut end = 0;
    for (place, _) in slots.iter().enumerate().filter(|(_, slot)| slot.sample.is_some()) {
        let start = place * view_bytes;
        if start != end {
            bytes.copy_within(start..start + view_bytes, end);
        }
        end += view_bytes;
    }
    bytes.truncate(end);
}
