//! The scans of a progressive picture → its coefficients → the samples that are wanted (ITU T.81, annex G).
//!
//! Coefficients come bit by bit, in many scans, so all of them are kept until the last; but of each scan the rows below
//! the part are left alone, where another marker follows.

use std::ops::Range;

use memchr::memmem;

use super::super::MOST_SCANS;
use super::super::markers::END_OF_IMAGE;
use super::bits::{Bits, Data, Intervals};
use super::fault::Fault;
use super::huffman::{Table, extend};
use super::picture::{MOST_COMPONENTS, Picture, Scan};
use super::plane::{Block, Plane};
#[cfg(target_arch = "x86_64")]
use super::processor::Avx2;
use super::processor::{Plain, Processor, Square};
use super::scan::{Wanted, difference};

/// Memory is kept from picture to picture up to this many blocks of a component: 8 million pixels.
const KEPT_BLOCKS: usize = 1 << 17;

/// The coefficients of a block, in the file's order.
#[derive(Clone, Copy, Debug)]
struct Kept {
    values: [i16; 64],
    /// Which of them are not zero, from the lowest bit on; that of the first says nothing.
    filled: u64,
}

const EMPTY: Kept = Kept { values: [0; 64], filled: 0 };

/// The blocks of one component, down to the last row that is kept.
#[derive(Debug)]
struct Grid {
    blocks: Vec<Kept>,
    stride: usize,
    /// Blocks of the component alone, without those that fill up its last MCUs.
    across: usize,
    down: usize,
    /// Bits that are still missing from each coefficient; `None` before the first scan that has it.
    missing: [Option<u32>; 64],
}

impl Default for Grid {
    fn default() -> Self {
        Self { blocks: Vec::new(), stride: 0, across: 0, down: 0, missing: [None; 64] }
    }
}

/// Buffers that are used again for every picture.
#[derive(Debug, Default)]
pub struct Progressive {
    grids: [Grid; MOST_COMPONENTS],
}

impl Progressive {
    /// Reads all scans, of which `picture` holds the first header, and transforms the wanted MCUs.
    pub fn decode(
        &mut self,
        picture: &mut Picture,
        bytes: &[u8],
        data: &mut Data,
        wanted: &Wanted,
        planes: &mut [Plane],
    ) -> Result<(), Fault> {
        // Without an end marker the rows below the part are read too, and how long a correction is depends on its block.
        let is_ended = bytes.get(picture.at..).is_some_and(|rest| memmem::find(rest, &[0xFF, END_OF_IMAGE]).is_some());
        let kept = if is_ended { wanted.rows.end } else { wanted.down };
        self.lay_out(picture, wanted.across, kept);
        for _ in 0..MOST_SCANS {
            data.fill(bytes.get(picture.at..).unwrap_or_default(), picture.restart != 0);
            picture.at += data.length;
            if !data.in_sequence {
                return Err(Fault::Restart);
            }
            self.note(&picture.scan)?;
            let corrects = picture.scan.first > 0 && picture.scan.before > 0;
            if corrects && data.marker.is_none() && kept < wanted.down {
                return Err(Fault::Unusual);
            }
            read(picture, data, wanted, &mut self.grids)?;
            if data.marker == Some(END_OF_IMAGE) || !picture.next_scan(bytes)? {
                return self.finish(picture, wanted, planes);
            }
        }
        Err(Fault::Unusual)
    }

    /// Frees what a large picture took.
    pub fn give_back(&mut self) {
        for grid in &mut self.grids {
            if grid.blocks.capacity() > KEPT_BLOCKS {
                grid.blocks = Vec::new();
            }
        }
    }

    /// Makes room for so many MCUs across and down.
    fn lay_out(&mut self, picture: &Picture, across: usize, down: usize) {
        let (most_across, most_down) = picture.most();
        for (grid, component) in self.grids.iter_mut().zip(picture.components()) {
            grid.stride = across * component.across;
            grid.across = (picture.width * component.across).div_ceil(most_across * 8);
            grid.down = (picture.height * component.down).div_ceil(most_down * 8);
            grid.missing = [None; 64];
            grid.blocks.clear();
            grid.blocks.resize(grid.stride * down * component.down, EMPTY);
        }
    }

    /// Checks that a scan goes on where those before it ended.
    fn note(&mut self, scan: &Scan) -> Result<(), Fault> {
        // First coefficients come alone, the others for one component at a time (G.1.1.1).
        let is_alone = if scan.first == 0 { scan.last == 0 } else { scan.components().len() == 1 };
        let is_next = scan.before == 0 || scan.before == scan.left + 1;
        if !is_alone || !is_next || scan.left > 13 {
            return Err(Fault::Tables);
        }
        for number in scan.components() {
            for missing in &mut self.grids[*number].missing[scan.first..=scan.last] {
                let expected = if scan.before == 0 { None } else { Some(scan.before) };
                // A coefficient that comes twice is for others to make sense of.
                if *missing != expected {
                    return Err(Fault::Unusual);
                }
                *missing = Some(scan.left);
            }
        }
        Ok(())
    }

    /// Transforms what is wanted, if nothing is missing.
    fn finish(&self, picture: &Picture, wanted: &Wanted, planes: &mut [Plane]) -> Result<(), Fault> {
        let grids = &self.grids[..picture.components().len()];
        // What its maker left out, libjpeg guesses from the blocks around.
        if grids.iter().any(|grid| grid.missing.iter().any(|missing| *missing != Some(0))) {
            return Err(Fault::Unusual);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(processor) = Avx2::found() {
            transform(processor, grids, picture, wanted, planes);
            return Ok(());
        }
        transform(Plain, grids, picture, wanted, planes);
        Ok(())
    }
}

fn transform(processor: impl Processor, grids: &[Grid], picture: &Picture, wanted: &Wanted, planes: &mut [Plane]) {
    for ((component, grid), plane) in picture.components().iter().zip(grids).zip(planes) {
        let factors = &picture.quantisation[component.quantisation];
        let rows = wanted.rows.start * component.down..wanted.rows.end * component.down;
        let columns = wanted.columns.start * component.across..wanted.columns.end * component.across;
        transform_grid(processor, grid, factors, rows, columns, plane);
    }
}

fn transform_grid(
    processor: impl Processor,
    grid: &Grid,
    factors: &Square,
    rows: Range<usize>,
    columns: Range<usize>,
    plane: &mut Plane,
) {
    for row in rows.clone() {
        for column in columns.clone() {
            let Some(kept) = grid.blocks.get(row * grid.stride + column) else { continue };
            let mut block = Block::default();
            block.set_first(kept.values[0]);
            for at in places(kept.filled & !1) {
                block.put(at, kept.values[at]);
            }
            let count = 64 - (kept.filled | 1).leading_zeros() as usize;
            plane.put(processor, &block, count, factors, row - rows.start, column - columns.start);
        }
    }
}

/// One pass over the blocks of a scan.
struct Pass<'a> {
    picture: &'a Picture,
    intervals: Intervals<'a>,
    /// Where nothing but this proves that the data are whole, rows that are not wanted are read too.
    is_followed: bool,
    before: [i32; MOST_COMPONENTS],
    /// Blocks that have no more coefficients in this scan.
    ended_blocks: u32,
}

fn read(picture: &Picture, data: &Data, wanted: &Wanted, grids: &mut [Grid]) -> Result<(), Fault> {
    #[cfg(target_arch = "x86_64")]
    if Avx2::found().is_some() {
        // SAFETY: the processor has what the function was compiled for.
        #[expect(unsafe_code, reason = "calls the same code, compiled for more than the least processor")]
        return unsafe { read_avx2(picture, data, wanted, grids) };
    }
    Pass::new(picture, data).run(wanted, grids)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn read_avx2(picture: &Picture, data: &Data, wanted: &Wanted, grids: &mut [Grid]) -> Result<(), Fault> {
    Pass::new(picture, data).run(wanted, grids)
}

impl<'a> Pass<'a> {
    #[inline(always)]
    fn new(picture: &'a Picture, data: &'a Data) -> Self {
        let intervals = data.intervals(picture.restart);
        Self { picture, intervals, is_followed: data.marker.is_some(), before: [0; MOST_COMPONENTS], ended_blocks: 0 }
    }

    #[inline(always)]
    fn run(&mut self, wanted: &Wanted, grids: &mut [Grid]) -> Result<(), Fault> {
        match self.picture.scan.components() {
            [one] => self.blocks(*one, wanted, &mut grids[*one]),
            _ => self.mcus(wanted, grids),
        }
    }

    #[inline(always)]
    fn step(&mut self) -> Result<(), Fault> {
        if self.intervals.step()? {
            (self.before, self.ended_blocks) = ([0; MOST_COMPONENTS], 0);
        }
        Ok(())
    }

    /// A scan of several components: first coefficients, MCU by MCU.
    #[inline(always)]
    fn mcus(&mut self, wanted: &Wanted, grids: &mut [Grid]) -> Result<(), Fault> {
        for row in 0..wanted.down {
            if row >= wanted.rows.end && self.is_followed {
                return Ok(());
            }
            for column in 0..wanted.across {
                self.step()?;
                for number in self.picture.scan.components() {
                    let component = self.picture.components()[*number];
                    for y in 0..component.down {
                        for x in 0..component.across {
                            let place = (row * component.down + y) * grids[*number].stride;
                            let place = place + column * component.across + x;
                            self.block(*number, grids[*number].blocks.get_mut(place))?;
                        }
                    }
                }
            }
            self.intervals.check()?;
        }
        Ok(())
    }

    /// A scan of one component: block by block, as far as the component itself reaches.
    #[inline(always)]
    fn blocks(&mut self, number: usize, wanted: &Wanted, grid: &mut Grid) -> Result<(), Fault> {
        let end = wanted.rows.end * self.picture.components()[number].down;
        for row in 0..grid.down {
            if row >= end && self.is_followed {
                return Ok(());
            }
            for column in 0..grid.across {
                self.step()?;
                self.block(number, grid.blocks.get_mut(row * grid.stride + column))?;
            }
            self.intervals.check()?;
        }
        Ok(())
    }

    /// Reads what the scan has of a block; one that is not kept is read over.
    #[inline(always)]
    fn block(&mut self, number: usize, block: Option<&mut Kept>) -> Result<(), Fault> {
        let mut unkept = EMPTY;
        let block = block.unwrap_or(&mut unkept);
        let Scan { first, last, before, left, .. } = self.picture.scan;
        let component = self.picture.components()[number];
        let bits = &mut self.intervals.bits;
        if first == 0 && before == 0 {
            let value = &mut self.before[number];
            *value = value.wrapping_add(difference(bits, &self.picture.dc[component.dc])?);
            block.values[0] = (*value << left) as i16;
        } else if first == 0 {
            block.values[0] |= i16::from(bits.bit()) << left;
        } else if self.ended_blocks > 0 && (before == 0 || block.filled == 0) {
            self.ended_blocks -= 1;
        } else if before == 0 {
            let table = &self.picture.ac[component.ac];
            self.ended_blocks = begin(bits, table, block, first..last + 1, left)?;
        } else {
            let table = &self.picture.ac[component.ac];
            self.ended_blocks = refine(bits, table, block, first..last + 1, 1 << left, self.ended_blocks)?;
        }
        Ok(())
    }
}

/// Takes a code; its zeros (or the power of two of a run of blocks) and size. Bits for its value are ready.
#[inline(always)]
fn symbol(bits: &mut Bits<'_>, table: &Table) -> Result<(u32, u32), Fault> {
    bits.refill();
    let (symbol, length) = table.symbol(bits.ready()).ok_or(Fault::Code)?;
    bits.consume(length);
    Ok(((symbol >> 4).into(), (symbol & 15).into()))
}

/// The first bits of coefficients (G.1.2.2); says how many blocks after this one have none.
#[inline(always)]
fn begin(bits: &mut Bits<'_>, table: &Table, block: &mut Kept, range: Range<usize>, left: u32) -> Result<u32, Fault> {
    let mut at = range.start;
    while at < range.end {
        match symbol(bits, table)? {
            (15, 0) => at += 16,
            (power, 0) => return Ok((1 << power) - 1 + bits.take(power)),
            (zeros, size) => {
                at += zeros as usize;
                if at >= range.end {
                    return Err(Fault::Run);
                }
                block.values[at] = (extend(bits.take(size), size) << left) as i16;
                block.filled |= 1 << at;
                at += 1;
            }
        }
    }
    Ok(0)
}

/// One more bit of coefficients, and new ones among them (G.1.2.3); takes and says how many blocks have no new ones.
#[inline(always)]
fn refine(
    bits: &mut Bits<'_>,
    table: &Table,
    block: &mut Kept,
    range: Range<usize>,
    bit: i16,
    mut ended_blocks: u32,
) -> Result<u32, Fault> {
    // Places up to the last one, of which those before `at` are done with.
    let inside = u64::MAX >> (64 - range.end);
    let from = |at: usize| inside & u64::MAX.checked_shl(at as u32).unwrap_or(0);
    let (before, mut at) = (block.filled, range.start);
    while ended_blocks == 0 && at < range.end {
        let (zeros, value) = match symbol(bits, table)? {
            (15, 0) => (15, 0),
            (power, 0) => {
                ended_blocks = (1 << power) + bits.take(power);
                break;
            }
            (zeros, 1) => (zeros, if bits.take(1) == 1 { bit } else { -bit }),
            _ => return Err(Fault::Code),
        };
        let mut empty = from(at) & !before;
        for _ in 0..zeros {
            empty &= empty.wrapping_sub(1);
        }
        let place = if empty == 0 { range.end } else { empty.trailing_zeros() as usize };
        correct(bits, block, from(at) & !from(place) & before, bit);
        if value != 0 {
            if place == range.end {
                return Err(Fault::Run);
            }
            block.values[place & 63] = value;
            block.filled |= 1 << place;
        }
        at = place + 1;
    }
    if ended_blocks > 0 {
        correct(bits, block, from(at) & before, bit);
        return Ok(ended_blocks - 1);
    }
    Ok(0)
}

/// Gives the coefficients in these places their next bit.
#[inline(always)]
fn correct(bits: &mut Bits<'_>, block: &mut Kept, mut filled: u64, bit: i16) {
    /// After a refill there are at least as many.
    const AT_ONCE: u32 = 32;
    while filled != 0 {
        let count = filled.count_ones().min(AT_ONCE);
        bits.refill();
        let mut given = bits.take(count) << (32 - count);
        for _ in 0..count {
            let value = &mut block.values[filled.trailing_zeros() as usize & 63];
            filled &= filled - 1;
            let sign = *value >> 15 | 1;
            // Damage may give a bit twice.
            let is_given = (given >> 31) as i16 & i16::from(*value & bit == 0);
            *value = value.wrapping_add(sign * bit * is_given);
            given <<= 1;
        }
    }
}

/// The places of the bits that are set.
#[inline(always)]
fn places(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        (place < 64).then_some(place)
    })
}
