//! The way for processors with AVX2: sixteen rows at a time.

use std::arch::x86_64::{
    __m128i, __m256i as Vector, _mm256_add_epi16 as add, _mm256_andnot_si256 as and_not, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_mulhrs_epi16 as scaled, _mm256_or_si256 as or, _mm256_set_m128i,
    _mm256_set1_epi8 as bytes_of, _mm256_set1_epi16 as words, _mm256_setzero_si256 as zero,
    _mm256_srli_epi16 as shifted, _mm256_unpackhi_epi8 as high_bytes, _mm256_unpackhi_epi16 as high_words,
    _mm256_unpackhi_epi32 as high_pairs, _mm256_unpackhi_epi64 as high_fours, _mm256_unpacklo_epi8 as low_bytes,
    _mm256_unpacklo_epi16 as low_words, _mm256_unpacklo_epi32 as low_pairs, _mm256_unpacklo_epi64 as low_fours,
    _mm256_xor_si256 as xor,
};

use bytemuck::Pod;

use super::axis::Axis;
use super::wide::{
    COLUMNS, Eight, MOST_TAPS, PIXELS, Source, by_vectors, fetch_below, grown, in_turns, load_eight, starts,
};
use super::{Cut, FRACTION_BITS, HALF, MIDDLE};

const EIGHTS: usize = 2;

by_vectors!("avx2", align(32));

#[inline]
#[target_feature(enable = "avx2")]
fn joined([first, last]: [&Eight; EIGHTS]) -> Vector {
    _mm256_set_m128i(load_eight(last), load_eight(first))
}

#[inline]
#[target_feature(enable = "avx2")]
fn split(values: Vector) -> [__m128i; EIGHTS] {
    [_mm256_castsi256_si128(values), _mm256_extracti128_si256::<1>(values)]
}
