//! The way for processors with AVX2 where a view is at least as large as its crop: every pixel is blended of two
//! neighbours down and two across, and rows stay rows.
//!
//! Pixels of the view are no further apart than those of the crop. So the first neighbours of eight values side by side
//! lie among eight values of the crop's row, the second ones three values further, and one shuffle finds them, where
//! another way must turn rows into columns and back. Of a mirrored view the crop's rows are mirrored, which are fewer.

use std::arch::x86_64::{
    __m128i, __m256i, _MM_HINT_T0, _mm_prefetch, _mm_sfence, _mm_shuffle_epi8, _mm256_add_epi16, _mm256_mulhrs_epi16,
    _mm256_packs_epi16, _mm256_permute4x64_epi64, _mm256_set_m128i, _mm256_set1_epi8, _mm256_set1_epi16,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srai_epi16, _mm256_stream_si256, _mm256_unpackhi_epi8,
    _mm256_unpacklo_epi8, _mm256_xor_si256,
};

use bytemuck::Pod;

use super::axis::Axis;
use super::wide::Source;
use super::{Cut, FRACTION_BITS, HALF, MIDDLE};

/// Values that are taken side by side from the crop's row.
const EIGHT: usize = 8;

/// Values of a view's row that are made at once.
const VALUES: usize = 4 * EIGHT;

/// A smaller view has no block of its own.
pub const LEAST_SIZE: usize = VALUES.div_ceil(3);

/// Neighbours that a pixel is blended of, along each side.
pub const TAPS: usize = 2;

/// Values from where eight neighbours begin to behind the last of them.
const REACH: usize = 3 + EIGHT;

/// Rows of the view that are made at once, so that weights are fetched half as often.
const ROWS: usize = 2;

/// Rows of the view that are put into it at once.
const AT_ONCE: usize = 16;

/// Bytes of a crop's row that are widened at once.
const PART: usize = 32;

/// So many rows of the crop are fetched before they are used.
const AHEAD: usize = 4;

/// A part of a row in words, counted from the middle level.
type Part = [__m256i; 2];

/// Each row of the crop that is needed, and the last few rows of the view; used again.
#[derive(Debug, Default)]
pub struct Rows {
    blocks: Blocks,
    mirrored: Vec<[u8; PART]>,
    crop: [Vec<Part>; TAPS],
    blended: [Vec<Part>; ROWS],
    view: Vec<u8>,
    tail: Vec<u8>,
}

/// How the values of a view's row are blended across.
#[derive(Debug, Default)]
struct Blocks {
    blocks: Vec<Block>,
    /// Of every value: its first neighbour's place in the crop's row.
    places: Vec<u32>,
    /// Of every value, one tap after another.
    weights: [Vec<i16>; TAPS],
}

/// Eights of a block: the first and third, then the second and fourth, since two vectors are packed half by half.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
struct Block {
    /// Which bytes after where an eight begins.
    from: [[[u8; 2 * EIGHT]; 2]; 2],
    /// `[tap, ..]`
    weights: [[[[i16; EIGHT]; 2]; 2]; TAPS],
    /// Where in the crop's row the eights begin.
    begins: [[u32; 2]; 2],
    /// Where in the view's row the block is.
    place: usize,
}

/// For views of at least [`LEAST_SIZE`], and axes of two taps.
#[target_feature(enable = "avx2")]
pub fn resample(
    cut: &Cut,
    [across, down]: [&Axis; 2],
    mirrored: bool,
    buffers: &mut Rows,
    past_the_cache: bool,
    view: &mut [u8],
) {
    let (stride, height) = (across.starts.len() * 3, down.starts.len());
    assert!(view.len() == stride * height, "a view of this size");
    let Rows { blocks, mirrored: turned, crop, blended, view: rows, tail } = buffers;
    let source = Source::<PART>::new(cut, tail);
    let values = cut.width * 3;
    let (read, parts) = (values.div_ceil(PART), (values + REACH).div_ceil(PART));
    for row in crop.iter_mut().chain(blended.iter_mut()) {
        row.resize(parts, [_mm256_setzero_si256(); 2]);
    }
    turned.resize(read, [0; PART]);
    rows.resize(AT_ONCE * stride, 0);
    let blocks = blocks.of(across, cut.width, mirrored);

    // The row of the crop behind the last one that is widened.
    let mut known = 0;
    for first in (0..height).step_by(AT_ONCE) {
        let end = (first + AT_ONCE).min(height);
        // The last rows may be made again, and of rows that were given up.
        let first = first.min(end - ROWS);
        for top in (first..end).step_by(ROWS).map(|top| top.min(end - ROWS)) {
            for (row, blended) in (top..).zip(blended.iter_mut()) {
                let start = down.starts[row] as usize;
                let missing = if known > start + TAPS { start } else { known.max(start) };
                known = start + TAPS;
                for row in missing..known {
                    let mut bytes = source.parts(0, row, read);
                    if mirrored {
                        mirror(&bytes.as_flattened()[..values], turned.as_flattened_mut());
                        bytes = turned;
                    }
                    widen(bytes, &mut crop[row % TAPS]);
                    fetch(source.parts(0, (row + AHEAD).min(cut.height - 1), read));
                }
                let taps = [start, start + 1].map(|row| &crop[row % TAPS][..]);
                blend_down(taps, [0, 1].map(|tap| down.weights(tap)[row]), blended);
            }
            let into = &mut rows[(top - first) * stride..][..ROWS * stride];
            blend_across(blocks, [&blended[0], &blended[1]], into);
        }
        let (made, place) = (&rows[..(end - first) * stride], &mut view[first * stride..end * stride]);
        if past_the_cache { put_past_the_cache(made, place) } else { place.copy_from_slice(made) }
    }
    _mm_sfence();
}

impl Blocks {
    /// `length` is the number of the crop's pixels. For a mirrored view, its rows are expected to be mirrored.
    fn of(&mut self, across: &Axis, length: usize, mirrored: bool) -> &[Block] {
        let values = across.starts.len() * 3;
        let Self { blocks, places, weights } = self;
        places.resize(values, 0);
        for (places, start) in places.as_chunks_mut::<3>().0.iter_mut().zip(&across.starts) {
            let start = if mirrored { (length - TAPS) as u32 - start } else { *start };
            *places = [3 * start, 3 * start + 1, 3 * start + 2];
        }
        for (tap, weights) in weights.iter_mut().enumerate() {
            weights.resize(values, 0);
            let tap = if mirrored { TAPS - 1 - tap } else { tap };
            for (weights, weight) in weights.as_chunks_mut::<3>().0.iter_mut().zip(across.weights(tap)) {
                *weights = [*weight; 3];
            }
        }
        blocks.resize(values.div_ceil(VALUES), Block::default());
        for (number, block) in blocks.iter_mut().enumerate() {
            block.place = (number * VALUES).min(values - VALUES);
            for eight in 0..VALUES / EIGHT {
                let (vector, half) = (eight % 2, eight / 2);
                let range = block.place + eight * EIGHT..block.place + (eight + 1) * EIGHT;
                let places: &[u32; EIGHT] = places[range.clone()].first_chunk().expect("eight places");
                let begin = places.iter().fold(u32::MAX, |least, place| least.min(*place));
                assert!(begin as usize <= length * 3, "eight values that begin inside the row");
                block.begins[vector][half] = begin;
                let from = places.map(|place| {
                    let byte = 2 * (place - begin) as u8;
                    [byte, byte + 1]
                });
                block.from[vector][half] = bytemuck::cast(from);
                for (tap, weights) in weights.iter().enumerate() {
                    block.weights[tap][vector][half] = *weights[range.clone()].first_chunk().expect("eight weights");
                }
            }
        }
        blocks
    }
}

/// Exchanges left and right of a row.
#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "vectors are loaded and stored through pointers")]
fn mirror(row: &[u8], into: &mut [u8]) {
    /// Five pixels, and a byte that has no meaning.
    const PIXELS: usize = 15;
    /// Puts the pixels behind that byte, the last one first.
    const FROM: [u8; 16] = [15, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2];
    // SAFETY: any sixteen bytes are a vector.
    let from = unsafe { FROM.as_ptr().cast::<__m128i>().read_unaligned() };
    let mut at = 0;
    while let Some(bytes) = row[at..].first_chunk::<16>() {
        // Its first byte is another pixel's, which is put there next.
        let place: &mut [u8; 16] = into[row.len() - at - 16..].first_chunk_mut().expect("a place in the row");
        // SAFETY: as many bytes are read, and as many written.
        unsafe {
            let pixels = bytes.as_ptr().cast::<__m128i>().read_unaligned();
            place.as_mut_ptr().cast::<__m128i>().write_unaligned(_mm_shuffle_epi8(pixels, from));
        }
        at += PIXELS;
    }
    let (pixels, _) = row[at..].as_chunks::<3>();
    let (places, _) = into.as_chunks_mut::<3>();
    for (place, pixel) in places.iter_mut().zip(pixels.iter().rev()) {
        *place = *pixel;
    }
}

/// Has a row brought near, which lies where the shard is.
#[inline]
#[target_feature(enable = "avx2")]
fn fetch(row: &[[u8; PART]]) {
    for part in row.iter().step_by(2) {
        _mm_prefetch::<_MM_HINT_T0>(part.as_ptr().cast());
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen(bytes: &[[u8; PART]], words: &mut [Part]) {
    let none = _mm256_setzero_si256();
    for (bytes, words) in bytes.iter().zip(words) {
        let bytes = _mm256_xor_si256(load(bytes), _mm256_set1_epi8(MIDDLE as i8));
        // Bytes are unpacked within each half of a vector.
        let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes);
        *words = [_mm256_unpacklo_epi8(none, bytes), _mm256_unpackhi_epi8(none, bytes)];
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn blend_down(rows: [&[Part]; TAPS], weights: [i16; TAPS], blended: &mut [Part]) {
    let weights = weights.map(|weight| _mm256_set1_epi16(weight));
    let half = _mm256_set1_epi16(HALF);
    for ((first, second), blended) in rows[0].iter().zip(rows[1]).zip(blended) {
        for ((first, second), blended) in first.iter().zip(second).zip(blended) {
            let first = _mm256_mulhrs_epi16(*first, weights[0]);
            let second = _mm256_mulhrs_epi16(*second, weights[1]);
            *blended = _mm256_add_epi16(_mm256_add_epi16(first, half), second);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn blend_across(blocks: &[Block], rows: [&[Part]; ROWS], views: &mut [u8]) {
    let middle = _mm256_set1_epi8(MIDDLE as i8);
    let (first, second) = views.split_at_mut(views.len() / ROWS);
    for block in blocks {
        for (row, view) in rows.into_iter().zip([&mut *first, &mut *second]) {
            let values = _mm256_packs_epi16(blend_vector(block, row, 0), blend_vector(block, row, 1));
            store(&mut view[block.place..], _mm256_xor_si256(values, middle));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn blend_vector(block: &Block, row: &[Part], vector: usize) -> __m256i {
    let from = load(&block.from[vector]);
    let first = _mm256_shuffle_epi8(two_eights(row, block.begins[vector], 0), from);
    let second = _mm256_shuffle_epi8(two_eights(row, block.begins[vector], 3), from);
    let first = _mm256_mulhrs_epi16(first, load(&block.weights[0][vector]));
    let second = _mm256_mulhrs_epi16(second, load(&block.weights[1][vector]));
    _mm256_srai_epi16::<{ FRACTION_BITS as i32 }>(_mm256_add_epi16(first, second))
}

/// Eight words each from behind where two eights begin; there are enough of them, as [`Blocks::of`] asserts.
#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "checking each place takes as long as blending it")]
fn two_eights(row: &[Part], begins: [u32; 2], behind: usize) -> __m256i {
    let words = row.as_ptr().cast::<i16>();
    // SAFETY: an eight begins inside the crop's row, behind which there are as many words as eight values reach.
    unsafe {
        let first = words.add(begins[0] as usize + behind).cast::<__m128i>().read_unaligned();
        let second = words.add(begins[1] as usize + behind).cast::<__m128i>().read_unaligned();
        _mm256_set_m128i(second, first)
    }
}

/// Copies without fetching what is overwritten.
#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "vectors are stored through a pointer")]
fn put_past_the_cache(bytes: &[u8], view: &mut [u8]) {
    const LINE: usize = 64;
    let head = view.as_ptr().align_offset(LINE).min(view.len());
    let (view_head, view) = view.split_at_mut(head);
    let (head, bytes) = bytes.split_at(head);
    view_head.copy_from_slice(head);
    let (view_lines, view_tail) = view.as_chunks_mut::<LINE>();
    let (lines, tail) = bytes.as_chunks::<LINE>();
    for (view_line, line) in view_lines.iter_mut().zip(lines) {
        let [first, second]: &[[u8; 32]; 2] = bytemuck::cast_ref(line);
        let place = view_line.as_mut_ptr().cast::<__m256i>();
        // SAFETY: a line is two vectors long, and begins at a multiple of its length.
        unsafe {
            _mm256_stream_si256(place, load(first));
            _mm256_stream_si256(place.add(1), load(second));
        }
    }
    view_tail.copy_from_slice(tail);
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "a vector is loaded through a pointer")]
fn load<T: Pod>(numbers: &T) -> __m256i {
    const { assert!(size_of::<T>() == size_of::<__m256i>()) };
    // SAFETY: there are as many bytes as are read, and any are a vector.
    unsafe { std::ptr::from_ref(numbers).cast::<__m256i>().read_unaligned() }
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "a vector is stored through a pointer")]
fn store(into: &mut [u8], values: __m256i) {
    let place: &mut [u8; 32] = into.first_chunk_mut().expect("thirty-two bytes of a row");
    // SAFETY: there are as many bytes as are written.
    unsafe { place.as_mut_ptr().cast::<__m256i>().write_unaligned(values) }
}
