//! The coded data of a scan → the samples of the blocks that are wanted.
//!
//! Everything is decoded, because a code's place follows from all codes before it; but only blocks of the part are put
//! together and transformed, and rows below it are left alone where an end marker says that they are there.

use std::ops::Range;

use super::bits::{Bits, Data};
use super::fault::Fault;
use super::huffman::{END_OF_BLOCK, Table, extend};
use super::picture::{Component, MOST_COMPONENTS, Picture};
use super::plane::Plane;

/// Where the n-th coefficient of a block lies, row by row (ITU T.81, figure A.6).
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// Which MCUs are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub columns: Range<usize>,
    pub rows: Range<usize>,
    /// Of all MCUs of the picture.
    pub across: usize,
    pub down: usize,
}

/// Decodes the wanted MCUs into the planes, which have room for them.
pub fn decode(picture: &Picture, data: &Data, wanted: &Wanted, planes: &mut [Plane]) -> Result<(), Fault> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
        // SAFETY: the processor has what the function was compiled for.
        #[expect(unsafe_code, reason = "calls the same code, compiled for more than the least processor")]
        return unsafe { decode_avx2(picture, data, wanted, planes) };
    }
    Scan::new(picture, data).run(wanted, planes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
fn decode_avx2(picture: &Picture, data: &Data, wanted: &Wanted, planes: &mut [Plane]) -> Result<(), Fault> {
    Scan::new(picture, data).run(wanted, planes)
}

struct Scan<'a> {
    picture: &'a Picture,
    data: &'a Data,
    bits: Bits<'a>,
    /// The restart interval that is being read.
    interval: usize,
    /// MCUs that are left of it.
    left: usize,
    /// The last first coefficient of each component, from which the next one differs.
    before: [i32; MOST_COMPONENTS],
}

impl<'a> Scan<'a> {
    #[inline(always)]
    fn new(picture: &'a Picture, data: &'a Data) -> Self {
        Self { picture, data, bits: data.reader(), interval: 0, left: picture.restart, before: [0; MOST_COMPONENTS] }
    }

    #[inline(always)]
    fn run(&mut self, wanted: &Wanted, planes: &mut [Plane]) -> Result<(), Fault> {
        for row in 0..wanted.down {
            if row >= wanted.rows.end && self.data.is_ended {
                return Ok(());
            }
            if wanted.rows.contains(&row) {
                self.skip(wanted.columns.start)?;
                for column in 0..wanted.columns.len() {
                    self.mcu(row - wanted.rows.start, column, planes)?;
                }
                self.skip(wanted.across - wanted.columns.end)?;
            } else {
                self.skip(wanted.across)?;
            }
            self.check()?;
        }
        Ok(())
    }

    /// Whether what was read was there.
    fn check(&self) -> Result<(), Fault> {
        let end = self.data.ends.get(self.interval).copied().unwrap_or_default();
        if self.bits.is_past(end) { Err(Fault::Short) } else { Ok(()) }
    }

    #[inline(always)]
    fn count(&mut self) -> Result<(), Fault> {
        if self.picture.restart != 0 {
            if self.left == 0 {
                self.restart()?;
            }
            self.left -= 1;
        }
        Ok(())
    }

    #[cold]
    fn restart(&mut self) -> Result<(), Fault> {
        self.check()?;
        let from = self.data.ends[self.interval];
        self.interval += 1;
        if self.interval >= self.data.ends.len() {
            return Err(Fault::Short);
        }
        self.bits.seek(from);
        (self.left, self.before) = (self.picture.restart, [0; MOST_COMPONENTS]);
        Ok(())
    }

    #[inline(always)]
    fn skip(&mut self, mcus: usize) -> Result<(), Fault> {
        for _ in 0..mcus {
            self.count()?;
            for (component, before) in self.picture.components().iter().zip(&mut self.before) {
                let Component { dc, ac, across, down, .. } = *component;
                for _ in 0..across * down {
                    *before = before.wrapping_add(difference(&mut self.bits, &self.picture.dc[dc])?);
                    skip_block(&mut self.bits, &self.picture.ac[ac])?;
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn mcu(&mut self, row: usize, column: usize, planes: &mut [Plane]) -> Result<(), Fault> {
        self.count()?;
        let picture = self.picture;
        for ((component, before), plane) in picture.components().iter().zip(&mut self.before).zip(planes) {
            let Component { dc, ac, across, down, quantisation, .. } = *component;
            let table = &picture.quantisation[quantisation];
            for y in 0..down {
                for x in 0..across {
                    *before = before.wrapping_add(difference(&mut self.bits, &picture.dc[dc])?);
                    let mut block = [0; 64];
                    block[0] = before.wrapping_mul(table[0].into()) as i16;
                    let last = coefficients(&mut self.bits, &picture.ac[ac], table, &mut block)?;
                    plane.put(&block, last, row * down + y, column * across + x);
                }
            }
        }
        Ok(())
    }
}

/// How the first coefficient differs from the one before.
#[inline(always)]
fn difference(bits: &mut Bits<'_>, table: &Table) -> Result<i32, Fault> {
    bits.refill();
    let entry = table.look(bits.ready());
    if entry.is_whole() {
        bits.consume(entry.bits());
        return Ok(entry.value());
    }
    let size = open(bits, table)?.0;
    Ok(extend(bits.take(size), size))
}

/// Consumes a code whose value is still to be read: its bits, and the coefficients to skip.
#[inline(always)]
fn open(bits: &mut Bits<'_>, table: &Table) -> Result<(u32, usize), Fault> {
    let entry = table.look(bits.ready());
    if entry.bits() != 0 {
        bits.consume(entry.bits());
        return Ok((entry.open(), entry.skip()));
    }
    let (entry, length) = table.long(bits.ready()).ok_or(Fault::Code)?;
    bits.consume(length);
    Ok((entry.open(), entry.skip()))
}

/// Reads and scales the coefficients after the first; says how many there are up to the last that is not zero.
#[inline(always)]
fn coefficients(bits: &mut Bits<'_>, table: &Table, scale: &[u16; 64], block: &mut [i16; 64]) -> Result<usize, Fault> {
    let mut at = 1;
    while at < 64 {
        bits.refill();
        let mut entry = table.look(bits.ready());
        // After a refill there are bits for two whole looks and the longest code with its value.
        for _ in 0..2 {
            if !entry.is_whole() {
                break;
            }
            bits.consume(entry.bits());
            at += entry.skip();
            put(block, at, entry.value(), scale);
            at += 1;
            if at >= 64 {
                return end(at);
            }
            entry = table.look(bits.ready());
        }
        if !entry.is_whole() {
            let (size, skip) = open(bits, table)?;
            at += skip;
            put(block, at, extend(bits.take(size), size), scale);
            at += 1;
        }
    }
    end(at)
}

/// An end of block writes a zero where there is one; a run past the end does harm, which [`end`] finds.
#[inline(always)]
fn put(block: &mut [i16; 64], at: usize, value: i32, scale: &[u16; 64]) {
    let place = at & 63;
    block[usize::from(ZIGZAG[place]) & 63] = value.wrapping_mul(scale[place].into()) as i16;
}

#[inline(always)]
fn end(at: usize) -> Result<usize, Fault> {
    match at.checked_sub(END_OF_BLOCK as usize + 1) {
        Some(last) => Ok(last),
        None if at == 64 => Ok(at),
        None => Err(Fault::Run),
    }
}

#[inline(always)]
fn skip_block(bits: &mut Bits<'_>, table: &Table) -> Result<(), Fault> {
    let mut at = 1;
    while at < 64 {
        bits.refill();
        let mut entry = table.look(bits.ready());
        for _ in 0..2 {
            if !entry.is_whole() {
                break;
            }
            bits.consume(entry.bits());
            at += entry.skip() + 1;
            if at >= 64 {
                return end(at).map(drop);
            }
            entry = table.look(bits.ready());
        }
        if !entry.is_whole() {
            let (size, skip) = open(bits, table)?;
            bits.consume(size);
            at += skip + 1;
        }
    }
    end(at).map(drop)
}
