//! The coded data of a scan → the samples of the blocks that are wanted.
//!
//! Everything is decoded, because a code's place follows from all codes before it; but only blocks of the part are put
//! together and transformed, and rows below it are left alone where an end marker says that they are there.

use std::ops::Range;

use super::super::markers::END_OF_IMAGE;
use super::bits::{Bits, Data, Intervals};
use super::fault::Fault;
use super::huffman::{FirstTable, Symbol, Table, extend};
use super::picture::{Component, MOST_COMPONENTS, Picture};
use super::plane::{Block, Plane};
#[cfg(target_arch = "x86_64")]
use super::processor::Avx2;
use super::processor::{Plain, Processor};

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
    if let Some(processor) = Avx2::found() {
        // SAFETY: the processor has what the function was compiled for.
        #[expect(unsafe_code, reason = "calls the same code, compiled for more than the least processor")]
        return unsafe { decode_avx2(processor, picture, data, wanted, planes) };
    }
    Scan::new(picture, data).run(Plain, wanted, planes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
fn decode_avx2(
    processor: Avx2,
    picture: &Picture,
    data: &Data,
    wanted: &Wanted,
    planes: &mut [Plane],
) -> Result<(), Fault> {
    Scan::new(picture, data).run(processor, wanted, planes)
}

struct Scan<'a> {
    picture: &'a Picture,
    intervals: Intervals<'a>,
    is_ended: bool,
    /// The last first coefficient of each component, from which the next one differs.
    before: [i32; MOST_COMPONENTS],
}

impl<'a> Scan<'a> {
    #[inline(always)]
    fn new(picture: &'a Picture, data: &'a Data) -> Self {
        let intervals = data.intervals(picture.restart);
        Self { picture, intervals, is_ended: data.marker == Some(END_OF_IMAGE), before: [0; MOST_COMPONENTS] }
    }

    #[inline(always)]
    fn run(&mut self, processor: impl Processor, wanted: &Wanted, planes: &mut [Plane]) -> Result<(), Fault> {
        for row in 0..wanted.down {
            if row >= wanted.rows.end && self.is_ended {
                return Ok(());
            }
            if wanted.rows.contains(&row) {
                self.skip(wanted.columns.start)?;
                for column in 0..wanted.columns.len() {
                    self.mcu(processor, row - wanted.rows.start, column, planes)?;
                }
                self.skip(wanted.across - wanted.columns.end)?;
            } else {
                self.skip(wanted.across)?;
            }
            self.intervals.check()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn step(&mut self) -> Result<(), Fault> {
        if self.intervals.step()? {
            self.before = [0; MOST_COMPONENTS];
        }
        Ok(())
    }

    #[inline(always)]
    fn skip(&mut self, mcus: usize) -> Result<(), Fault> {
        for _ in 0..mcus {
            self.step()?;
            for (component, before) in self.picture.components().iter().zip(&mut self.before) {
                let Component { dc, ac, across, down, .. } = *component;
                for _ in 0..across * down {
                    *before = before.wrapping_add(difference(&mut self.intervals.bits, &self.picture.dc[dc])?);
                    coefficients(&mut self.intervals.bits, &self.picture.ac[ac], |_, _| {})?;
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn mcu(&mut self, processor: impl Processor, row: usize, column: usize, planes: &mut [Plane]) -> Result<(), Fault> {
        self.step()?;
        let picture = self.picture;
        for ((component, before), plane) in picture.components().iter().zip(&mut self.before).zip(planes) {
            let Component { dc, ac, across, down, quantisation, .. } = *component;
            let table = &picture.quantisation[quantisation];
            for y in 0..down {
                for x in 0..across {
                    *before = before.wrapping_add(difference(&mut self.intervals.bits, &picture.dc[dc])?);
                    let mut block = Block::default();
                    let count =
                        coefficients(&mut self.intervals.bits, &picture.ac[ac], |at, value| block.put(at, value))?;
                    block.set_first(*before as i16);
                    plane.put(processor, &block, count, table, row * down + y, column * across + x);
                }
            }
        }
        Ok(())
    }
}

/// How the first coefficient differs from the one before.
#[inline(always)]
pub fn difference(bits: &mut Bits<'_>, table: &FirstTable) -> Result<i32, Fault> {
    bits.refill();
    let (length, value) = table.look(bits.ready());
    if length != 0 {
        bits.consume(length);
        return Ok(value);
    }
    let (length, size) = table.search(bits.ready()).ok_or(Fault::Code)?;
    bits.consume(length);
    Ok(extend(bits.take(size), size))
}

/// Reads the coefficients after the first, and gives each with its place to `put`; returns how many there are up to the
/// last that is not zero.
#[inline(always)]
fn coefficients(bits: &mut Bits<'_>, table: &Table, mut put: impl FnMut(usize, i16)) -> Result<usize, Fault> {
    let mut at = 1;
    loop {
        bits.refill();
        let mut found = table.look(bits.ready());
        // After a refill there are bits for two looks and the longest code with its value.
        let mut looks = 3;
        while found.bits() != 0 && at + found.places() < 64 && looks > 0 {
            bits.consume(found.bits());
            // In this order: where there is only one coefficient, both are in the same place.
            put(at + found.second_place(), found.second());
            put(at + found.zeros(), found.value());
            at += found.places();
            if found.is_end() {
                return Ok(at);
            }
            found = table.look(bits.ready());
            looks -= 1;
        }
        if looks == 0 {
            continue;
        }
        match one(bits, table)? {
            None => return Ok(at),
            Some((zeros, value)) => {
                at += zeros;
                put(at, value as i16);
                at += 1;
            }
        }
        if at >= 64 {
            return if at == 64 { Ok(at) } else { Err(Fault::Run) };
        }
    }
}

/// The zeros before the next coefficient and its value, which must be ready; `None` at the end of a block.
#[inline(always)]
fn one(bits: &mut Bits<'_>, table: &Table) -> Result<Option<(usize, i32)>, Fault> {
    let found = table.look(bits.ready());
    let (length, size) = found.open();
    if found.bits() == 0 && length != 0 {
        bits.consume(length);
        return Ok(Some((found.zeros(), extend(bits.take(size), size))));
    }
    let (symbol, length) = table.search(bits.ready()).ok_or(Fault::Code)?;
    bits.consume(length);
    Ok(match symbol {
        Symbol::EndOfBlock => None,
        Symbol::Coefficient { zeros, size } => Some((zeros as usize, extend(bits.take(size), size))),
    })
}
