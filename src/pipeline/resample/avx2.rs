//! The way for processors with AVX2: sixteen rows of the view at a time, turned between the two passes.
//!
//! Both passes add up lines of sixteen values under one weight each: down, a line is a part of a row; across, it is a
//! column. Turning the rows costs less than gathering neighbours within them.

use std::arch::x86_64::*;
use std::ops::Range;

use super::axis::Axis;
use super::{Cut, FRACTION_BITS, HALF, MIDDLE};

/// Rows of the view that are made at once, and columns that are turned back at once.
const ROWS: usize = 16;

/// A smaller view has no block of its own.
pub const LEAST_SIZE: usize = ROWS;

/// Pixels of the crop that are turned at once, more or less: as many as the first cache has room for.
const PIXELS: usize = 192;

/// Taps that are added up in registers.
const MOST_TAPS: usize = 8;

/// Bytes of a row that are taken at once.
const PART: usize = 32;

/// A column of sixteen rows; where it begins, a load of it never needs two lines of the cache.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
struct Line([i16; ROWS]);

/// Eight columns of a row.
type Eight = [i16; 8];

/// A part of each of sixteen rows, in the order in which it is unpacked: the first and third eight columns, then the
/// second and fourth.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Block([[[Eight; 2]; 2]; ROWS]);

/// Blocks and lines that are used again.
#[derive(Debug, Default)]
pub struct Blocks {
    blocks: Vec<Block>,
    lines: Vec<Line>,
    /// The last bytes of the region, and what may be read behind them.
    tail: Vec<u8>,
}

/// For each number of taps, code of its own; more than eight are added up in turns.
macro_rules! in_turns {
    ($taps:expr, $function:ident($($argument:expr),*)) => {
        for first in (0..$taps).step_by(MOST_TAPS) {
            match $taps - first {
                1 => $function::<1>(first, $($argument),*),
                2 => $function::<2>(first, $($argument),*),
                3 => $function::<3>(first, $($argument),*),
                4 => $function::<4>(first, $($argument),*),
                5 => $function::<5>(first, $($argument),*),
                6 => $function::<6>(first, $($argument),*),
                7 => $function::<7>(first, $($argument),*),
                _ => $function::<MOST_TAPS>(first, $($argument),*),
            }
        }
    };
}

/// For views of at least [`LEAST_SIZE`], and sides whose products are rounded each.
#[target_feature(enable = "avx2")]
pub fn resample(cut: &Cut, across: &Axis, down: &Axis, buffers: &mut Blocks, view: &mut [u8]) {
    let (width, height) = (across.starts.len(), down.starts.len());
    let Blocks { blocks, lines, tail } = buffers;
    let padded = (cut.width * 3).next_multiple_of(PART);
    tail.clear();
    tail.extend_from_slice(&cut.pixels[cut.pixels.len().saturating_sub(padded)..]);
    tail.resize(tail.len() + padded, 0);
    let source = Source { cut, tail };
    let at_once = (PIXELS * width / cut.width).max(1).next_multiple_of(ROWS);
    let mut sums = [[Line::default(); 3]; ROWS];
    for top in starts(0..height) {
        for first in (0..width).step_by(at_once) {
            let end = (first + at_once).min(width);
            let columns = first.min(end - ROWS)..end;
            let [one, other] = [columns.start, columns.end - 1].map(|column| across.starts[column] as usize);
            let left = one.min(other);
            let parts = ((one.max(other) + across.taps - left) * 3).div_ceil(PART);
            let (blocks, lines) = (grown(blocks, parts), grown(lines, parts * PART));
            in_turns!(down.taps, blend_down(&source, down, top, left, blocks));
            for (block, lines) in blocks.iter().zip(lines.as_chunks_mut().0) {
                turn(block, lines);
            }
            for column in starts(columns) {
                in_turns!(across.taps, blend_across(lines.as_chunks().0, across, column, left, &mut sums));
                for (part, lines) in sums.as_flattened().as_chunks().0.iter().enumerate() {
                    turn_back(lines, &mut view[(top * width + column) * 3 + part * ROWS..], width * 3);
                }
            }
        }
    }
}

/// Where blocks of sixteen begin; the last two may overlap.
fn starts(range: Range<usize>) -> impl Iterator<Item = usize> {
    let last = range.end - ROWS;
    range.step_by(ROWS).map(move |start| start.min(last))
}

fn grown<T: Copy + Default>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
    &mut buffer[..length]
}

struct Source<'a> {
    cut: &'a Cut<'a>,
    tail: &'a [u8],
}

impl Source<'_> {
    /// Whole parts of a row from a column on. What follows the crop's last pixel has no weight.
    #[inline(always)]
    fn parts(&self, column: usize, row: usize, parts: usize) -> &[[u8; PART]] {
        let place = self.cut.place(column, row);
        let bytes = self.cut.pixels.get(place..place + parts * PART).unwrap_or_else(|| {
            let kept = self.tail.len() - (self.cut.width * 3).next_multiple_of(PART);
            &self.tail[place + kept - self.cut.pixels.len()..][..parts * PART]
        });
        bytes.as_chunks().0
    }
}

/// Adds up some taps of sixteen rows, from the tap `first` on.
#[target_feature(enable = "avx2")]
fn blend_down<const TAPS: usize>(
    first: usize,
    source: &Source,
    down: &Axis,
    top: usize,
    left: usize,
    blocks: &mut [Block],
) {
    let parts = blocks.len();
    let (zero, half) = (_mm256_setzero_si256(), _mm256_set1_epi16(HALF));
    for row in 0..ROWS {
        let start = down.starts[top + row] as usize + first;
        let (mut taps, mut weights) = ([&[][..]; TAPS], [zero; TAPS]);
        for tap in 0..TAPS {
            taps[tap] = &source.parts(left, start + tap, parts)[..parts];
            weights[tap] = _mm256_set1_epi16(down.weights(first + tap)[top + row]);
        }
        for (part, block) in blocks.iter_mut().enumerate() {
            let [even, odd] = &mut block.0[row];
            let (mut low, mut high) = (half, half);
            if first > 0 {
                (low, high) = (load_eights(even), load_eights(odd));
            }
            for tap in 0..TAPS {
                let bytes = _mm256_xor_si256(load_bytes(&taps[tap][part]), _mm256_set1_epi8(MIDDLE as i8));
                low = _mm256_add_epi16(low, _mm256_mulhrs_epi16(_mm256_unpacklo_epi8(zero, bytes), weights[tap]));
                high = _mm256_add_epi16(high, _mm256_mulhrs_epi16(_mm256_unpackhi_epi8(zero, bytes), weights[tap]));
            }
            store_eights(even, low);
            store_eights(odd, high);
        }
    }
}

/// Rows to columns, in words: eight by eight in both halves.
#[inline]
#[target_feature(enable = "avx2")]
fn turned([a, b, c, d, e, f, g, h]: [__m256i; 8]) -> [__m256i; 8] {
    let (ab, cd) = (pairs(a, b), pairs(c, d));
    let (ef, gh) = (pairs(e, f), pairs(g, h));
    let (ad, other_ad) = (fours(ab[0], cd[0]), fours(ab[1], cd[1]));
    let (eh, other_eh) = (fours(ef[0], gh[0]), fours(ef[1], gh[1]));
    let [[a, b], [c, d]] = [eights(ad[0], eh[0]), eights(ad[1], eh[1])];
    let [[e, f], [g, h]] = [eights(other_ad[0], other_eh[0]), eights(other_ad[1], other_eh[1])];
    [a, b, c, d, e, f, g, h]
}

#[inline]
#[target_feature(enable = "avx2")]
fn pairs(first: __m256i, last: __m256i) -> [__m256i; 2] {
    [_mm256_unpacklo_epi16(first, last), _mm256_unpackhi_epi16(first, last)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn fours(first: __m256i, last: __m256i) -> [__m256i; 2] {
    [_mm256_unpacklo_epi32(first, last), _mm256_unpackhi_epi32(first, last)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn eights(first: __m256i, last: __m256i) -> [__m256i; 2] {
    [_mm256_unpacklo_epi64(first, last), _mm256_unpackhi_epi64(first, last)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn turn(block: &Block, lines: &mut [Line; PART]) {
    let (above, below) = block.0.split_at(ROWS / 2);
    for (number, lines) in lines.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let (odd, place) = (number % 2, number / 2);
        let mut rows = [_mm256_setzero_si256(); 8];
        for (row, (above, below)) in rows.iter_mut().zip(above.iter().zip(below)) {
            *row = _mm256_set_m128i(load_eight(&below[odd][place]), load_eight(&above[odd][place]));
        }
        for (line, column) in lines.iter_mut().zip(turned(rows)) {
            store_line(line, column);
        }
    }
}

/// Adds up some taps of sixteen columns, from the tap `first` on.
#[target_feature(enable = "avx2")]
fn blend_across<const TAPS: usize>(
    first: usize,
    pixels: &[[Line; 3]],
    across: &Axis,
    column: usize,
    left: usize,
    sums: &mut [[Line; 3]; ROWS],
) {
    let starts: &[u32; ROWS] = across.starts[column..].first_chunk().expect("a block of columns");
    let mut weights = [&[0; ROWS]; TAPS];
    for (tap, weights) in weights.iter_mut().enumerate() {
        *weights = across.weights(first + tap)[column..].first_chunk().expect("a block of columns");
    }
    for (number, (sums, start)) in sums.iter_mut().zip(starts).enumerate() {
        let taps: &[_; TAPS] = pixels[*start as usize - left + first..].first_chunk().expect("taps of this part");
        for (channel, sum) in sums.iter_mut().enumerate() {
            let mut value = weighted(&taps[0][channel], weights[0][number]);
            for (tap, weights) in taps[1..].iter().zip(&weights[1..]) {
                value = _mm256_add_epi16(value, weighted(&tap[channel], weights[number]));
            }
            if first > 0 {
                value = _mm256_add_epi16(value, load_line(sum));
            }
            store_line(sum, value);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn weighted(line: &Line, weight: i16) -> __m256i {
    _mm256_mulhrs_epi16(load_line(line), _mm256_set1_epi16(weight))
}

/// Columns to rows, without their fractions, each row to the same columns of the row below.
#[inline]
#[target_feature(enable = "avx2")]
fn turn_back(lines: &[Line; ROWS], view: &mut [u8], stride: usize) {
    let fraction = _mm256_set1_epi16((1 << FRACTION_BITS) - 1);
    let mut columns = [_mm256_setzero_si256(); 8];
    // Two bytes of neighbours make a word.
    for (column, [even, odd]) in columns.iter_mut().zip(lines.as_chunks().0) {
        let even = _mm256_srli_epi16::<{ FRACTION_BITS as i32 }>(load_line(even));
        let both = _mm256_or_si256(even, _mm256_andnot_si256(fraction, load_line(odd)));
        *column = _mm256_xor_si256(both, _mm256_set1_epi8(MIDDLE as i8));
    }
    store_rows(view, stride, turned(columns));
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "a vector is loaded through a pointer")]
fn load_bytes(bytes: &[u8; PART]) -> __m256i {
    // SAFETY: the array has as many bytes as are read.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "a vector is loaded through a pointer")]
fn load_line(line: &Line) -> __m256i {
    // SAFETY: the array has as many bytes as are read.
    unsafe { _mm256_loadu_si256(line.0.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "a vector is loaded through a pointer")]
fn load_eight(eight: &Eight) -> __m128i {
    // SAFETY: the array has as many bytes as are read.
    unsafe { _mm_loadu_si128(eight.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "a vector is loaded through a pointer")]
fn load_eights(eights: &[Eight; 2]) -> __m256i {
    // SAFETY: the array has as many bytes as are read.
    unsafe { _mm256_loadu_si256(eights.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "a vector is stored through a pointer")]
fn store_line(line: &mut Line, value: __m256i) {
    // SAFETY: the array has as many bytes as are written.
    unsafe { _mm256_storeu_si256(line.0.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "a vector is stored through a pointer")]
fn store_eights(eights: &mut [Eight; 2], value: __m256i) {
    // SAFETY: the array has as many bytes as are written.
    unsafe { _mm256_storeu_si256(eights.as_mut_ptr().cast(), value) }
}

/// Eight rows in the first halves, the eight below in the last.
#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "checking each row takes as long as turning them")]
fn store_rows(view: &mut [u8], stride: usize, rows: [__m256i; 8]) {
    assert!(stride.saturating_mul(ROWS - 1).saturating_add(ROWS) <= view.len(), "a block of rows inside the view");
    for (row, bytes) in rows.into_iter().enumerate() {
        // SAFETY: the sixteen bytes of the last row end inside the view, and those of the others lie before them.
        unsafe {
            _mm_storeu_si128(view.as_mut_ptr().add(row * stride).cast(), _mm256_castsi256_si128(bytes));
            let below = view.as_mut_ptr().add((row + 8) * stride);
            _mm_storeu_si128(below.cast(), _mm256_extracti128_si256::<1>(bytes));
        }
    }
}
