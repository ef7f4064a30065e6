//! The number of a sample → where its bytes are: read, lost, or pixels that the system holds in memory already.
//!
//! Such pixels are not read ahead: a worker uses them where they are, and asks afterwards whether they were still those
//! of the shard.

use super::augment::Crop;
use super::decode::Region;
use super::ppm::{self, Ppm};
use crate::shard::{self, ReadError, ShardSet};

/// Where a sample's bytes are.
pub(super) enum Source {
    Read(Vec<u8>),
    Held(Held),
    /// Was held, but not those of the shard any more when they had been used: to be read, which tells why.
    Stale,
    Lost(ReadError),
}

/// A whole PPM in memory. Its header was read while looking for it, so that its bytes may change meanwhile.
pub(super) struct Held {
    image: shard::Held,
    ppm: Ppm,
}

impl Held {
    /// `None` for what must be waited for, or is no whole PPM: then it is to be read, and is judged by all its bytes.
    pub fn find(set: &ShardSet, sample: u32) -> Option<Self> {
        /// A header without comments is shorter.
        const START: usize = 64;
        let mut start = [0; START];
        let image = set.held(sample, &mut start)?;
        let ppm = ppm::header_of(&start, set.sample(sample).length as usize).ok().flatten()?;
        Some(Self { image, ppm })
    }

    /// In pixels: `[width, height]`
    pub fn size(&self) -> [u32; 2] {
        [self.ppm.width, self.ppm.height]
    }

    /// The rows that a crop lies in.
    pub fn region(&self, crop: Crop) -> Region<'_> {
        let row = self.ppm.width as usize * 3;
        let start = self.ppm.data.start + crop.top as usize * row;
        let rows = self.image.bytes().get(start..start + crop.height as usize * row).unwrap_or_default();
        let part = Crop { left: 0, top: crop.top, width: self.ppm.width, height: crop.height };
        Region::of(rows, part, crop, 1)
    }

    /// Bytes of the rows that a crop lies in; no others are touched.
    pub fn bytes_of(&self, crop: Crop) -> u64 {
        u64::from(crop.height) * u64::from(self.ppm.width) * 3
    }

    /// Whether what came of it is good.
    pub fn is_intact(&self) -> bool {
        self.image.is_intact()
    }
}
