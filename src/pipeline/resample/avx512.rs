//! The way for processors with AVX-512: thirty-two rows at a time.

use std::arch::x86_64::{
    __m128i, __m512i as Vector, _mm512_add_epi16 as add, _mm512_andnot_si512 as and_not, _mm512_castsi128_si512,
    _mm512_castsi512_si128, _mm512_extracti32x4_epi32, _mm512_inserti32x4, _mm512_mulhrs_epi16 as scaled,
    _mm512_or_si512 as or, _mm512_set1_epi8 as bytes_of, _mm512_set1_epi16 as words, _mm512_setzero_si512 as zero,
    _mm512_srli_epi16 as shifted, _mm512_unpackhi_epi8 as high_bytes, _mm512_unpackhi_epi16 as high_words,
    _mm512_unpackhi_epi32 as high_pairs, _mm512_unpackhi_epi64 as high_fours, _mm512_unpacklo_epi8 as low_bytes,
    _mm512_unpacklo_epi16 as low_words, _mm512_unpacklo_epi32 as low_pairs, _mm512_unpacklo_epi64 as low_fours,
    _mm512_xor_si512 as xor,
};

use bytemuck::Pod;

use super::axis::Axis;
use super::wide::{
    COLUMNS, Eight, MOST_TAPS, PIXELS, Source, by_vectors, fetch_below, grown, in_turns, load_eight, starts,
};
use super::{Cut, FRACTION_BITS, HALF, MIDDLE};

const EIGHTS: usize = 4;

by_vectors!("avx512f,avx512bw", align(64));

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn joined([first, second, third, last]: [&Eight; EIGHTS]) -> Vector {
    let one = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(load_eight(first)), load_eight(second));
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(one, load_eight(third)), load_eight(last))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split(values: Vector) -> [__m128i; EIGHTS] {
    let [second, third] = [_mm512_extracti32x4_epi32::<1>(values), _mm512_extracti32x4_epi32::<2>(values)];
    [_mm512_castsi512_si128(values), second, third, _mm512_extracti32x4_epi32::<3>(values)]
}
