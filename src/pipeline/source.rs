//! The number of a sample → where its bytes are: read, lost, or pixels that the system holds in memory already.
//!
//! Such pixels are not read ahead: a worker copies the rows of its crop, and no others, to where it uses them at once.
//! A file that is mapped would save that copy too, but one that is cut short then ends the process.

use super::augment::Crop;
use super::decode::{KEPT_BYTES, Region};
use super::ppm::{self, Ppm};
use crate::shard::{ReadError, SampleRef, ShardSet};

/// Where a sample's bytes are.
pub(super) enum Source {
    Read(Vec<u8>),
    /// In the shard, and in memory; what is known of them has been found by looking at their beginning.
    Held(Ppm),
    Lost(ReadError),
}

impl Source {
    /// `None` for what must be waited for, or is no whole PPM: then it is to be read, and is judged by all its bytes.
    pub fn held(set: &ShardSet, sample: u32) -> Option<Self> {
        /// A header without comments is shorter.
        const START: usize = 64;
        let SampleRef { shard_number, length, .. } = set.sample(sample);
        let (mut start, has_ppm) = ([0; START], set.shards()[shard_number].has_ppm());
        let is_held = has_ppm && set.glance(sample, &mut start);
        let ppm = is_held.then(|| ppm::header_of(&start, length as usize));
        ppm?.ok().flatten().map(Self::Held)
    }
}

/// The rows of a PPM that a crop lies in; their memory is used again.
#[derive(Debug)]
pub(super) struct Rows {
    /// `[crop.height, width, 3]`
    pixels: Vec<u8>,
    width: u32,
    crop: Crop,
}

impl Default for Rows {
    fn default() -> Self {
        Self { pixels: Vec::new(), width: 0, crop: Crop::whole(0, 0) }
    }
}

impl Rows {
    /// Copies them out of the shard, and tells how many bytes they are.
    ///
    /// # Errors
    /// As [`ShardSet::read`].
    pub fn read(&mut self, set: &ShardSet, sample: u32, ppm: &Ppm, crop: Crop) -> Result<u64, ReadError> {
        if self.pixels.capacity() > KEPT_BYTES {
            self.pixels = Vec::new();
        }
        (self.width, self.crop) = (ppm.width, crop);
        let row = |row: u32| ppm.data.start as u64 + u64::from(row) * u64::from(ppm.width) * 3;
        set.read_part(sample, row(crop.top)..row(crop.top + crop.height), &mut self.pixels)?;
        Ok(self.bytes())
    }

    pub fn bytes(&self) -> u64 {
        self.pixels.len() as u64
    }

    pub fn region(&self) -> Region<'_> {
        let part = Crop { left: 0, top: self.crop.top, width: self.width, height: self.crop.height };
        Region::of(&self.pixels, part, self.crop, 1)
    }
}
