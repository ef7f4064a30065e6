//! Coded data → bits: takes the stuffing out once, so that a look needs no care.

use memchr::memchr;

use super::fault::Fault;

/// What the reader may look at past the end, without it being data.
const PADDING: [u8; 16] = [0; 16];

/// Memory is kept from file to file up to this: more than the data of nearly all photographs.
const KEPT_BYTES: usize = 8 << 20;

/// The data of a scan without stuffing, cut at its restart markers.
#[derive(Debug, Default)]
pub struct Data {
    bytes: Vec<u8>,
    /// Where each interval ends.
    pub ends: Vec<usize>,
    /// The marker that comes after; none where the file ends.
    pub marker: Option<u8>,
    /// Bytes of the file up to there.
    pub length: usize,
    /// Whether the restart markers count up as they should.
    pub in_sequence: bool,
}

impl Data {
    /// Frees what a large file took.
    pub fn give_back(&mut self) {
        if self.bytes.capacity() > KEPT_BYTES || self.ends.capacity() > KEPT_BYTES / size_of::<usize>() {
            (self.bytes, self.ends) = (Vec::new(), Vec::new());
        }
    }

    /// Takes in what follows the header of a scan, up to a marker. Restart markers belong to the data only where the
    /// file has announced them.
    pub fn fill(&mut self, all: &[u8], restarts: bool) {
        let mut from = all;
        self.bytes.clear();
        self.ends.clear();
        (self.marker, self.length, self.in_sequence) = (None, all.len(), true);
        while let Some(at) = memchr(0xFF, from) {
            match from.get(at + 1) {
                Some(0) => {
                    self.bytes.extend_from_slice(&from[..=at]);
                    from = &from[at + 2..];
                    continue;
                }
                Some(0xFF) => {
                    self.bytes.extend_from_slice(&from[..at]);
                    from = &from[at + 1..];
                    continue;
                }
                Some(restart @ 0xD0..=0xD7) if restarts => {
                    self.bytes.extend_from_slice(&from[..at]);
                    self.in_sequence &= usize::from(restart & 7) == self.ends.len() % 8;
                    self.ends.push(self.bytes.len());
                    from = &from[at + 2..];
                    continue;
                }
                marker => self.marker = marker.copied(),
            }
            self.length = all.len() - from.len() + at;
            from = &from[..at];
            break;
        }
        self.bytes.extend_from_slice(from);
        self.ends.push(self.bytes.len());
        self.bytes.extend_from_slice(&PADDING);
    }

    /// Reads from the start, with a restart after `every` steps, if that is not 0.
    #[inline(always)]
    pub fn intervals(&self, every: usize) -> Intervals<'_> {
        let bits = Bits { bytes: &self.bytes, at: 0, bits: 0, count: 0 };
        Intervals { bits, ends: &self.ends, number: 0, every, left: every }
    }
}

/// A reader that begins anew at each restart marker.
pub struct Intervals<'a> {
    pub bits: Bits<'a>,
    ends: &'a [usize],
    number: usize,
    every: usize,
    left: usize,
}

impl Intervals<'_> {
    /// Goes on by one MCU; says whether it begins an interval, where what is kept from MCU to MCU begins anew.
    #[inline(always)]
    pub fn step(&mut self) -> Result<bool, Fault> {
        if self.every == 0 {
            return Ok(false);
        }
        if self.left > 0 {
            self.left -= 1;
            return Ok(false);
        }
        self.restart().map(|()| true)
    }

    #[cold]
    fn restart(&mut self) -> Result<(), Fault> {
        self.check()?;
        let from = self.ends.get(self.number).copied().unwrap_or_default();
        self.number += 1;
        if self.number >= self.ends.len() {
            return Err(Fault::Short);
        }
        (self.bits.at, self.bits.bits, self.bits.count) = (from, 0, 0);
        self.left = self.every - 1;
        Ok(())
    }

    /// Whether what was read was there.
    pub fn check(&self) -> Result<(), Fault> {
        let end = self.ends.get(self.number).copied().unwrap_or_default();
        if self.bits.is_past(end) { Err(Fault::Short) } else { Ok(()) }
    }
}

/// Reads bits, first the highest; past the end there are only zeros.
pub struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte to take in.
    at: usize,
    /// What is taken in, from the highest bit on.
    bits: u64,
    count: u32,
}

impl Bits<'_> {
    /// Makes at least 56 bits ready.
    #[inline(always)]
    pub fn refill(&mut self) {
        let next = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>());
        let word = next.map_or(0, |bytes| u64::from_be_bytes(*bytes));
        self.bits |= word >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    #[inline(always)]
    pub fn ready(&self) -> u64 {
        self.bits
    }

    /// Goes on by `count` bits, which must be ready.
    #[inline(always)]
    pub fn consume(&mut self, count: u32) {
        self.bits <<= count;
        self.count = self.count.wrapping_sub(count);
    }

    /// Takes a number of up to 32 bits, which must be ready.
    #[inline(always)]
    pub fn take(&mut self, count: u32) -> u32 {
        let number = (self.bits >> 32 >> (32 - count)) as u32;
        self.consume(count);
        number
    }

    /// Whether more was consumed than there is before `end`.
    fn is_past(&self, end: usize) -> bool {
        self.at * 8 > end * 8 + self.count as usize
    }

    /// Takes one bit.
    #[inline(always)]
    pub fn bit(&mut self) -> bool {
        if self.count == 0 {
            self.refill();
        }
        self.take(1) == 1
    }
}
