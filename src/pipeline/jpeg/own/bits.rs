//! Coded data → bits: takes the stuffing out once, so that a look needs no care.

use memchr::memchr;

/// What the reader may look at past the end, without it being data.
const PADDING: [u8; 16] = [0; 16];

/// The data of a scan without stuffing, cut at its restart markers.
#[derive(Debug, Default)]
pub struct Data {
    bytes: Vec<u8>,
    /// Where each interval ends.
    pub ends: Vec<usize>,
    /// Whether an end marker follows.
    pub is_ended: bool,
    /// Whether the restart markers count up as they should.
    pub in_sequence: bool,
}

impl Data {
    /// Takes in what follows the header of a scan, up to a marker. Restart markers belong to the data only where the
    /// file has announced them.
    pub fn fill(&mut self, mut from: &[u8], restarts: bool) {
        self.bytes.clear();
        self.ends.clear();
        (self.is_ended, self.in_sequence) = (false, true);
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
                marker => self.is_ended = marker == Some(&0xD9),
            }
            from = &from[..at];
            break;
        }
        self.bytes.extend_from_slice(from);
        self.ends.push(self.bytes.len());
        self.bytes.extend_from_slice(&PADDING);
    }

    pub fn reader(&self) -> Bits<'_> {
        Bits { bytes: &self.bytes, at: 0, bits: 0, count: 0 }
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

    /// Takes a number of up to 16 bits, which must be ready.
    #[inline(always)]
    pub fn take(&mut self, count: u32) -> u32 {
        let number = (self.bits >> 32 >> (32 - count)) as u32;
        self.consume(count);
        number
    }

    /// Whether more was consumed than there is before `end`.
    pub fn is_past(&self, end: usize) -> bool {
        self.at * 8 > end * 8 + self.count as usize
    }

    pub fn seek(&mut self, at: usize) {
        (self.at, self.bits, self.count) = (at, 0, 0);
    }
}
