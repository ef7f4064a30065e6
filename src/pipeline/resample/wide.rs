//! The way for processors with wide vectors: as many rows of the view at a time as a vector has words, turned between
//! the two passes.
//!
//! Both passes add up lines of one word per row under one weight each: down, a line is a part of a row; across, it is a
//! column. Turning the rows costs less than gathering neighbours within them.
//!
//! A function must name the instructions that it may use, so [`by_vectors`] makes the code once for each width.

use std::arch::x86_64::{__m128i, _MM_HINT_T0, _mm_prefetch};
use std::ops::Range;

use super::Cut;

/// Taps that are added up in registers.
pub(super) const MOST_TAPS: usize = 8;

/// Pixels of the crop that are turned at once, more or less, times rows: as many as the first cache has room for.
pub(super) const PIXELS: usize = 3072;

/// Columns of the view that are turned back at once.
pub(super) const COLUMNS: usize = 16;

/// Eight columns of a row.
pub(super) type Eight = [i16; 8];

/// Where blocks of so many begin; the last two may overlap.
pub(super) fn starts<const N: usize>(range: Range<usize>) -> impl Iterator<Item = usize> {
    let last = range.end - N;
    range.step_by(N).map(move |start| start.min(last))
}

pub(super) fn grown<T: Copy + Default>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
    &mut buffer[..length]
}

/// The region's bytes, as if it had no end. `PART` of them are taken at once.
pub(super) struct Source<'a, const PART: usize> {
    cut: &'a Cut<'a>,
    tail: &'a [u8],
}

impl<'a, const PART: usize> Source<'a, PART> {
    /// `tail` is used again: for the last bytes of the region, and what may be read behind them.
    pub fn new(cut: &'a Cut<'a>, tail: &'a mut Vec<u8>) -> Self {
        let padded = (cut.width * 3).next_multiple_of(PART);
        tail.clear();
        tail.extend_from_slice(&cut.pixels[cut.pixels.len().saturating_sub(padded)..]);
        tail.resize(tail.len() + padded, 0);
        Self { cut, tail }
    }

    /// Whole parts of a row from a column on. What follows the crop's last pixel has no weight.
    #[inline(always)]
    pub fn parts(&self, column: usize, row: usize, parts: usize) -> &[[u8; PART]] {
        let place = self.cut.place(column, row);
        let bytes = self.cut.pixels.get(place..place + parts * PART).unwrap_or_else(|| {
            let kept = self.tail.len() - (self.cut.width * 3).next_multiple_of(PART);
            &self.tail[place + kept - self.cut.pixels.len()..][..parts * PART]
        });
        bytes.as_chunks().0
    }
}

/// Has the places of the next rows brought near: a batch's memory is far away when it is written to.
#[inline(always)]
pub(super) fn fetch_below<const ROWS: usize>(view: &[u8], place: usize, stride: usize) {
    for row in ROWS..2 * ROWS {
        // SAFETY: a hint, which reads nothing and may be about no memory at all.
        #[expect(unsafe_code, reason = "a hint through a pointer")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(view.as_ptr().wrapping_add(place + row * stride).cast());
        }
    }
}

#[inline(always)]
#[expect(unsafe_code, reason = "a vector is loaded through a pointer")]
pub(super) fn load_eight(eight: &Eight) -> __m128i {
    // SAFETY: the array has as many bytes as are read, and any are a vector.
    unsafe { std::ptr::from_ref(eight).cast::<__m128i>().read_unaligned() }
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

/// Makes a module's `resample` of what is in scope there under these names: `Vector`; `EIGHTS`, how many runs of eight
/// words it holds; `joined` and `split`, from so many runs to a vector and back; and the instructions.
macro_rules! by_vectors {
    ($features:literal, align($align:tt)) => {
        /// Rows of the view that are made at once.
        const ROWS: usize = 8 * EIGHTS;

        /// A smaller view has no block of its own.
        pub const LEAST_SIZE: usize = ROWS;

        /// Bytes of a row that are taken at once.
        const PART: usize = 16 * EIGHTS;

        /// A column of the rows; where it begins, a load of it never needs two lines of the cache.
        #[derive(Clone, Copy, Debug, Default)]
        #[repr(align($align))]
        struct Line([i16; ROWS]);

        /// A part of each of the rows, in the order in which it is unpacked: the first eight columns and every other
        /// eight after them, then the rest.
        #[derive(Clone, Copy, Debug, Default)]
        #[repr(align(64))]
        struct Block([[[Eight; EIGHTS]; 2]; ROWS]);

        /// Blocks and lines that are used again.
        #[derive(Debug, Default)]
        pub struct Blocks {
            blocks: Vec<Block>,
            lines: Vec<Line>,
            tail: Vec<u8>,
        }

        /// For views of at least [`LEAST_SIZE`], and sides whose products are rounded each.
        #[target_feature(enable = $features)]
        pub fn resample(cut: &Cut, across: &Axis, down: &Axis, buffers: &mut Blocks, view: &mut [u8]) {
            let (width, height) = (across.starts.len(), down.starts.len());
            let Blocks { blocks, lines, tail } = buffers;
            let source = Source::new(cut, tail);
            let at_once = (PIXELS / ROWS * width / cut.width).max(1).next_multiple_of(COLUMNS);
            let mut sums = [[Line::default(); 3]; COLUMNS];
            for top in starts::<ROWS>(0..height) {
                for first in (0..width).step_by(at_once) {
                    let end = (first + at_once).min(width);
                    let columns = first.min(end - COLUMNS)..end;
                    let [one, other] = [columns.start, columns.end - 1].map(|column| across.starts[column] as usize);
                    let left = one.min(other);
                    let parts = ((one.max(other) + across.taps - left) * 3).div_ceil(PART);
                    let (blocks, lines) = (grown(blocks, parts), grown(lines, parts * PART));
                    in_turns!(down.taps, blend_down(&source, down, top, left, blocks));
                    for (block, lines) in blocks.iter().zip(lines.as_chunks_mut().0) {
                        turn(block, lines);
                    }
                    for column in starts::<COLUMNS>(columns) {
                        fetch_below::<ROWS>(view, (top * width + column) * 3, width * 3);
                        in_turns!(across.taps, blend_across(lines.as_chunks().0, across, column, left, &mut sums));
                        for (part, lines) in sums.as_flattened().as_chunks().0.iter().enumerate() {
                            turn_back(lines, &mut view[(top * width + column) * 3 + part * COLUMNS..], width * 3);
                        }
                    }
                }
            }
        }

        /// Adds up some taps of the rows, from the tap `first` on.
        #[target_feature(enable = $features)]
        fn blend_down<const TAPS: usize>(
            first: usize,
            source: &Source<'_, PART>,
            down: &Axis,
            top: usize,
            left: usize,
            blocks: &mut [Block],
        ) {
            let parts = blocks.len();
            let (none, half) = (zero(), words(HALF));
            for row in 0..ROWS {
                let start = down.starts[top + row] as usize + first;
                let (mut taps, mut weights) = ([&[][..]; TAPS], [none; TAPS]);
                for tap in 0..TAPS {
                    taps[tap] = &source.parts(left, start + tap, parts)[..parts];
                    weights[tap] = words(down.weights(first + tap)[top + row]);
                }
                for (part, block) in blocks.iter_mut().enumerate() {
                    let [even, odd] = &mut block.0[row];
                    let (mut low, mut high) = (half, half);
                    if first > 0 {
                        (low, high) = (load(even), load(odd));
                    }
                    for tap in 0..TAPS {
                        let bytes = xor(load(&taps[tap][part]), bytes_of(MIDDLE as i8));
                        low = add(low, scaled(low_bytes(none, bytes), weights[tap]));
                        high = add(high, scaled(high_bytes(none, bytes), weights[tap]));
                    }
                    store(even, low);
                    store(odd, high);
                }
            }
        }

        /// Rows to columns, in words: eight by eight.
        #[inline]
        #[target_feature(enable = $features)]
        fn turned([a, b, c, d, e, f, g, h]: [Vector; 8]) -> [Vector; 8] {
            let (ab, cd) = (pairs(a, b), pairs(c, d));
            let (ef, gh) = (pairs(e, f), pairs(g, h));
            let (ad, other_ad) = (fours(ab[0], cd[0]), fours(ab[1], cd[1]));
            let (eh, other_eh) = (fours(ef[0], gh[0]), fours(ef[1], gh[1]));
            let [[a, b], [c, d]] = [eights(ad[0], eh[0]), eights(ad[1], eh[1])];
            let [[e, f], [g, h]] = [eights(other_ad[0], other_eh[0]), eights(other_ad[1], other_eh[1])];
            [a, b, c, d, e, f, g, h]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn pairs(first: Vector, last: Vector) -> [Vector; 2] {
            [low_words(first, last), high_words(first, last)]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn fours(first: Vector, last: Vector) -> [Vector; 2] {
            [low_pairs(first, last), high_pairs(first, last)]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn eights(first: Vector, last: Vector) -> [Vector; 2] {
            [low_fours(first, last), high_fours(first, last)]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn turn(block: &Block, lines: &mut [Line; PART]) {
            const ROW: usize = 2 * EIGHTS;
            let eights: &[Eight; ROWS * ROW] = bytemuck::cast_ref(&block.0);
            for (number, lines) in lines.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let first = (number % 2) * EIGHTS + number / 2;
                // Of a size that is known, so that every row is at a distance that is.
                let eights: &[Eight; ROWS * ROW - ROW + 1] = eights[first..].first_chunk().expect("a column of eights");
                let row = |row: usize| joined(std::array::from_fn(|eight| &eights[(row + 8 * eight) * ROW]));
                let rows = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
                for (line, column) in lines.iter_mut().zip(turned(rows)) {
                    store(&mut line.0, column);
                }
            }
        }

        /// Adds up some taps of sixteen columns, from the tap `first` on.
        #[target_feature(enable = $features)]
        fn blend_across<const TAPS: usize>(
            first: usize,
            pixels: &[[Line; 3]],
            across: &Axis,
            column: usize,
            left: usize,
            sums: &mut [[Line; 3]; COLUMNS],
        ) {
            let starts: &[u32; COLUMNS] = across.starts[column..].first_chunk().expect("a block of columns");
            let mut weights = [&[0; COLUMNS]; TAPS];
            for (tap, weights) in weights.iter_mut().enumerate() {
                *weights = across.weights(first + tap)[column..].first_chunk().expect("a block of columns");
            }
            for (number, (sums, start)) in sums.iter_mut().zip(starts).enumerate() {
                let taps: &[_; TAPS] =
                    pixels[*start as usize - left + first..].first_chunk().expect("taps of this part");
                for (channel, sum) in sums.iter_mut().enumerate() {
                    let mut value = weighted(&taps[0][channel], weights[0][number]);
                    for (tap, weights) in taps[1..].iter().zip(&weights[1..]) {
                        value = add(value, weighted(&tap[channel], weights[number]));
                    }
                    if first > 0 {
                        value = add(value, load(&sum.0));
                    }
                    store(&mut sum.0, value);
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn weighted(line: &Line, weight: i16) -> Vector {
            scaled(load(&line.0), words(weight))
        }

        /// Columns to rows, without their fractions, each row to the same columns of the row below.
        #[inline]
        #[target_feature(enable = $features)]
        fn turn_back(lines: &[Line; COLUMNS], view: &mut [u8], stride: usize) {
            let fraction = words((1 << FRACTION_BITS) - 1);
            let mut columns = [zero(); 8];
            // Two bytes of neighbours make a word.
            for (column, [even, odd]) in columns.iter_mut().zip(lines.as_chunks().0) {
                let even = shifted::<{ FRACTION_BITS as _ }>(load(&even.0));
                let both = or(even, and_not(fraction, load(&odd.0)));
                *column = xor(both, bytes_of(MIDDLE as i8));
            }
            store_rows(view, stride, turned(columns));
        }

        #[inline]
        #[target_feature(enable = $features)]
        #[expect(unsafe_code, reason = "a vector is loaded through a pointer")]
        fn load<T: Pod>(numbers: &T) -> Vector {
            const { assert!(size_of::<T>() == size_of::<Vector>()) };
            // SAFETY: there are as many bytes as are read, and any are a vector.
            unsafe { std::ptr::from_ref(numbers).cast::<Vector>().read_unaligned() }
        }

        #[inline]
        #[target_feature(enable = $features)]
        #[expect(unsafe_code, reason = "a vector is stored through a pointer")]
        fn store<T: Pod>(numbers: &mut T, value: Vector) {
            const { assert!(size_of::<T>() == size_of::<Vector>()) };
            // SAFETY: there are as many bytes as are written, and any are such numbers.
            unsafe { std::ptr::from_mut(numbers).cast::<Vector>().write_unaligned(value) }
        }

        /// Eight rows in the first sixteen bytes of each, the eight below in the next.
        #[inline]
        #[target_feature(enable = $features)]
        #[expect(unsafe_code, reason = "checking each row takes as long as turning them")]
        fn store_rows(view: &mut [u8], stride: usize, rows: [Vector; 8]) {
            assert!(
                stride.saturating_mul(ROWS - 1).saturating_add(COLUMNS) <= view.len(),
                "a block of rows inside the view"
            );
            for (row, values) in rows.into_iter().enumerate() {
                for (eight, bytes) in split(values).into_iter().enumerate() {
                    // SAFETY: the sixteen bytes of the last row end inside the view, and those of the others lie before
                    // them.
                    unsafe {
                        let place = view.as_mut_ptr().add((row + 8 * eight) * stride);
                        place.cast::<__m128i>().write_unaligned(bytes);
                    }
                }
            }
        }
    };
}

pub(super) use {by_vectors, in_turns};
