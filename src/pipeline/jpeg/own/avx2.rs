//! The transforms and the conversion to RGB with AVX2, in 16 bits: the same integers as their plain forms.
//!
//! A transform multiplies pairs of inputs by pairs of weights and adds the two products, in one instruction for eight
//! lanes. The first pass takes the columns in such an order that after turning, pairs lie side by side again.

use std::arch::x86_64::*;

use bytemuck::cast;

use super::colour;
use super::processor::Square;
use super::transform::{CENTRE, CONST_BITS, PASS_BITS, fix};

/// Inputs of eight lanes, as pairs: 0 and 4, 2 and 6, 1 and 5, 3 and 7.
type Pairs = [__m256i; 4];

const FIRST_SHIFT: i32 = (CONST_BITS - PASS_BITS) as i32;
const SECOND_SHIFT: i32 = (CONST_BITS + PASS_BITS + 3) as i32;

/// The same bytes in both halves.
const fn twice(bytes: [u8; 16]) -> [u8; 32] {
    let mut both = [0; 32];
    let mut at = 0;
    while at < 32 {
        both[at] = bytes[at % 16];
        at += 1;
    }
    both
}

/// Rows of four bytes, turned.
const TURN4: [u8; 32] = twice([0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]);

/// Columns in the order of the pairs: 0, 4, 2, 6, 1, 5, 3, 7.
const ORDER: [u8; 32] = twice([0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 10, 11, 6, 7, 14, 15]);

#[inline]
#[target_feature(enable = "avx2")]
fn shuffle(value: __m256i, places: &[u8; 32]) -> __m256i {
    _mm256_shuffle_epi8(value, cast(*places))
}

/// Both weights must fit into 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn weigh(pairs: __m256i, first: i32, second: i32) -> __m256i {
    _mm256_madd_epi16(pairs, _mm256_set1_epi32(second << 16 | first & 0xFFFF))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_and_difference<const SHIFT: i32>(even: __m256i, odd: __m256i) -> (__m256i, __m256i) {
    let sum = _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(even, odd));
    (sum, _mm256_srai_epi32::<SHIFT>(_mm256_sub_epi32(even, odd)))
}

/// What is added before a shift.
const fn bias(shift: i32, centre: i32) -> i32 {
    (1 << (shift - 1)) + (centre << shift)
}

/// The coefficients of a block as pairs, each lane a column.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs(block: &Square, factors: &Square) -> Pairs {
    let (blocks, factors): (&[[i16; 16]], &[[i16; 16]]) = (block.as_chunks().0, factors.as_chunks().0);
    let rows = |at: usize| shuffle(_mm256_mullo_epi16(cast(blocks[at]), cast(factors[at])), &ORDER);
    let (rows01, rows23, rows45, rows67) = (rows(0), rows(1), rows(2), rows(3));
    let (low, high) = (_mm256_unpacklo_epi16(rows01, rows45), _mm256_unpackhi_epi16(rows01, rows45));
    let (pairs04, pairs15) = halves(low, high);
    let (low, high) = (_mm256_unpacklo_epi16(rows23, rows67), _mm256_unpackhi_epi16(rows23, rows67));
    let (pairs26, pairs37) = halves(low, high);
    [pairs04, pairs26, pairs15, pairs37]
}

/// The lower halves of both, and the upper ones.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(first: __m256i, second: __m256i) -> (__m256i, __m256i) {
    (_mm256_permute2x128_si256::<0x20>(first, second), _mm256_permute2x128_si256::<0x31>(first, second))
}

/// Turns four rows, each lane a column: pairs 0 and 4 beside 1 and 5, pairs 2 and 6 beside 3 and 7; each lane a row.
#[inline]
#[target_feature(enable = "avx2")]
fn turn4([a, b, c, d]: [__m256i; 4]) -> (__m256i, __m256i) {
    let (ac, bd) = (_mm256_packs_epi32(a, c), _mm256_packs_epi32(b, d));
    let (ab, cd) = (_mm256_unpacklo_epi32(ac, bd), _mm256_unpackhi_epi32(ac, bd));
    (_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
}

#[inline]
#[target_feature(enable = "avx2")]
fn turn8([a, b, c, d, e, f, g, h]: [__m256i; 8]) -> Pairs {
    let (above04, above26) = turn4([a, b, c, d]);
    let (below04, below26) = turn4([e, f, g, h]);
    let (pairs04, pairs15) = halves(above04, below04);
    let (pairs26, pairs37) = halves(above26, below26);
    [pairs04, pairs26, pairs15, pairs37]
}

#[inline]
#[target_feature(enable = "avx2")]
fn pass8<const SHIFT: i32>([pairs04, pairs26, pairs15, pairs37]: Pairs, centre: i32) -> [__m256i; 8] {
    const ONE: i32 = 1 << CONST_BITS;
    // The products of the plain form, each input's factors put together.
    const F1: i32 = fix(1.175875602);
    const F13: i32 = F1 - fix(1.961570560);
    const F15: i32 = F1 - fix(0.390180644);
    const F17: i32 = F1 - fix(0.899976223);
    const F35: i32 = F1 - fix(2.562915447);
    const OWN1: i32 = F15 + fix(1.501321110) - fix(0.899976223);
    const OWN3: i32 = F13 + fix(3.072711026) - fix(2.562915447);
    const OWN5: i32 = F15 + fix(2.053119869) - fix(2.562915447);
    const OWN7: i32 = F13 + fix(0.298631336) - fix(0.899976223);
    const F26: i32 = fix(0.541196100);
    let bias = _mm256_set1_epi32(bias(SHIFT, centre));
    let even0 = _mm256_add_epi32(weigh(pairs04, ONE, ONE), bias);
    let even1 = _mm256_add_epi32(weigh(pairs04, ONE, -ONE), bias);
    let even2 = weigh(pairs26, F26, F26 - fix(1.847759065));
    let even3 = weigh(pairs26, F26 + fix(0.765366865), F26);
    let odd0 = _mm256_add_epi32(weigh(pairs15, OWN1, F15), weigh(pairs37, F1, F17));
    let odd1 = _mm256_add_epi32(weigh(pairs15, F1, F35), weigh(pairs37, OWN3, F13));
    let odd2 = _mm256_add_epi32(weigh(pairs15, F15, OWN5), weigh(pairs37, F35, F1));
    let odd3 = _mm256_add_epi32(weigh(pairs15, F17, F1), weigh(pairs37, F13, OWN7));
    let (a, h) = sum_and_difference::<SHIFT>(_mm256_add_epi32(even0, even3), odd0);
    let (b, g) = sum_and_difference::<SHIFT>(_mm256_add_epi32(even1, even2), odd1);
    let (c, f) = sum_and_difference::<SHIFT>(_mm256_sub_epi32(even1, even2), odd2);
    let (d, e) = sum_and_difference::<SHIFT>(_mm256_sub_epi32(even0, even3), odd3);
    [a, b, c, d, e, f, g, h]
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn inverse8(block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
    let columns = turn8(pass8::<FIRST_SHIFT>(pairs(block, factors), 0));
    let [a, b, c, d, e, f, g, h] = pass8::<SECOND_SHIFT>(columns, CENTRE);
    let left = samples([a, b, c, d]);
    let right = samples([e, f, g, h]);
    let [row0, row1, row4, row5]: [[u8; 8]; 4] = cast(_mm256_unpacklo_epi32(left, right));
    let [row2, row3, row6, row7]: [[u8; 8]; 4] = cast(_mm256_unpackhi_epi32(left, right));
    write([row0, row1, row2, row3, row4, row5, row6, row7], into, stride);
}

/// Four columns as samples: rows 0 to 3 in the lower half, 4 to 7 in the upper.
#[inline]
#[target_feature(enable = "avx2")]
fn samples([a, b, c, d]: [__m256i; 4]) -> __m256i {
    shuffle(_mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d)), &TURN4)
}

#[inline(always)]
fn write<const WIDTH: usize, const HEIGHT: usize>(rows: [[u8; WIDTH]; HEIGHT], mut into: &mut [u8], stride: usize) {
    for samples in rows {
        let Some(row) = into.first_chunk_mut() else { return };
        *row = samples;
        into = into.get_mut(stride..).unwrap_or_default();
    }
}

/// The pairs of lanes 0 to 3; the other lanes do not matter.
#[inline]
#[target_feature(enable = "avx2")]
fn turn_narrow(rows: [__m256i; 4]) -> Pairs {
    let (pairs04, pairs26) = turn4(rows);
    let upper = |pairs| _mm256_permute2x128_si256::<0x11>(pairs, pairs);
    [pairs04, pairs26, upper(pairs04), upper(pairs26)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn pass4<const SHIFT: i32>([pairs04, pairs26, pairs15, pairs37]: Pairs, centre: i32) -> [__m256i; 4] {
    let middle = weigh(pairs04, 1 << (CONST_BITS + 1), 0);
    let middle = _mm256_add_epi32(middle, _mm256_set1_epi32(bias(SHIFT, centre)));
    let slope = weigh(pairs26, fix(1.847759065), -fix(0.765366865));
    let inner = weigh(pairs15, fix(1.061594337), fix(1.451774981));
    let inner = _mm256_add_epi32(inner, weigh(pairs37, -fix(2.172734803), -fix(0.211164243)));
    let outer = weigh(pairs15, fix(2.562915447), -fix(0.601344887));
    let outer = _mm256_add_epi32(outer, weigh(pairs37, fix(0.899976223), -fix(0.509795579)));
    let (a, d) = sum_and_difference::<SHIFT>(_mm256_add_epi32(middle, slope), outer);
    let (b, c) = sum_and_difference::<SHIFT>(_mm256_sub_epi32(middle, slope), inner);
    [a, b, c, d]
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn inverse4(block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
    let rows = pass4::<{ FIRST_SHIFT + 1 }>(pairs(block, factors), 0);
    let columns = pass4::<{ SECOND_SHIFT + 1 }>(turn_narrow(rows), CENTRE);
    let rows: [[[u8; 4]; 4]; 2] = cast(samples(columns));
    write(rows[0], into, stride);
}

#[inline]
#[target_feature(enable = "avx2")]
fn pass2<const SHIFT: i32>([pairs04, _, pairs15, pairs37]: Pairs, centre: i32) -> [__m256i; 2] {
    let half = weigh(pairs04, 1 << (CONST_BITS + 1), 0);
    let middle = _mm256_add_epi32(_mm256_add_epi32(half, half), _mm256_set1_epi32(bias(SHIFT, centre)));
    let odd = weigh(pairs15, fix(3.624509785), fix(0.850430095));
    let odd = _mm256_add_epi32(odd, weigh(pairs37, -fix(1.272758580), -fix(0.720959822)));
    sum_and_difference::<SHIFT>(middle, odd).into()
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn inverse2(block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
    let [a, b] = pass2::<{ FIRST_SHIFT + 2 }>(pairs(block, factors), 0);
    let [a, b] = pass2::<{ SECOND_SHIFT + 2 }>(turn_narrow([a, b, a, b]), CENTRE);
    let [[a, b, ..], [c, d, ..], ..]: [[u8; 4]; 8] = cast(samples([a, b, a, b]));
    write([[a, b], [c, d]], into, stride);
}

/// Pixels that are converted together.
const PIXELS: usize = 32;

/// What chroma adds to red, green and blue.
#[inline]
#[target_feature(enable = "avx2")]
fn tints(cb: __m256i, cr: __m256i) -> [__m256i; 3] {
    // As shares of 2^15, which for numbers of 8 bits gives what shares of 2^16 give: 0.402, -0.228, -0.34414, 0.28586.
    const RED: i16 = 13173;
    const BLUE: i16 = -7471;
    const GREEN_CB: i32 = -11277;
    const GREEN_CR: i32 = 9367;
    let red = _mm256_add_epi16(cr, _mm256_mulhrs_epi16(cr, _mm256_set1_epi16(RED)));
    let blue = _mm256_add_epi16(_mm256_add_epi16(cb, cb), _mm256_mulhrs_epi16(cb, _mm256_set1_epi16(BLUE)));
    let green = |both| {
        let half = _mm256_set1_epi32(1 << 14);
        _mm256_srai_epi32::<15>(_mm256_add_epi32(weigh(both, GREEN_CB, GREEN_CR), half))
    };
    let (low, high) = (green(_mm256_unpacklo_epi16(cb, cr)), green(_mm256_unpackhi_epi16(cb, cr)));
    [red, _mm256_sub_epi16(_mm256_packs_epi32(low, high), cr), blue]
}

#[inline]
#[target_feature(enable = "avx2")]
fn centred(samples: __m256i) -> __m256i {
    _mm256_sub_epi16(samples, _mm256_set1_epi16(CENTRE as i16))
}

/// The lower and the upper eight of each half, in 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn widened(samples: __m256i) -> [__m256i; 2] {
    let zero = _mm256_setzero_si256();
    [_mm256_unpacklo_epi8(samples, zero), _mm256_unpackhi_epi8(samples, zero)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn shaded(luma: &[u8; PIXELS], low: [__m256i; 3], high: [__m256i; 3]) -> [u8; PIXELS * 3] {
    let [luma_low, luma_high] = widened(cast(*luma));
    let shade = |low, high| _mm256_packus_epi16(_mm256_add_epi16(luma_low, low), _mm256_add_epi16(luma_high, high));
    interleaved(shade(low[0], high[0]), shade(low[1], high[1]), shade(low[2], high[2]))
}

/// Where the bytes of a colour go, so that each lies where its third of 48 bytes wants it.
const fn spread(colour: usize) -> [u8; 32] {
    let mut places = [0; 16];
    let mut at = 0;
    while at < 16 {
        // The third in which this place is of that colour.
        let third = (colour + 3 - at % 3) % 3;
        places[at] = ((16 * third + at) / 3) as u8;
        at += 1;
    }
    twice(places)
}

/// Every third byte.
const fn thirds(first: usize) -> [u8; 32] {
    let mut mask = [0; 16];
    let mut at = first;
    while at < 16 {
        mask[at] = 0xFF;
        at += 3;
    }
    twice(mask)
}

#[inline]
#[target_feature(enable = "avx2")]
fn interleaved(red: __m256i, green: __m256i, blue: __m256i) -> [u8; PIXELS * 3] {
    const SPREADS: [[u8; 32]; 3] = [spread(0), spread(1), spread(2)];
    const SECOND: [u8; 32] = thirds(1);
    const THIRD: [u8; 32] = thirds(2);
    let (red, green, blue) = (shuffle(red, &SPREADS[0]), shuffle(green, &SPREADS[1]), shuffle(blue, &SPREADS[2]));
    let third =
        |first, second, third| _mm256_blendv_epi8(_mm256_blendv_epi8(first, second, cast(SECOND)), third, cast(THIRD));
    let (a, b, c) = (third(red, green, blue), third(green, blue, red), third(blue, red, green));
    let first = _mm256_permute2x128_si256::<0x20>(a, b);
    let second = _mm256_permute2x128_si256::<0x30>(c, a);
    cast([first, second, _mm256_permute2x128_si256::<0x31>(b, c)])
}

#[inline]
#[target_feature(enable = "avx2")]
fn convert(luma: &[u8; PIXELS], cb: &[u8; PIXELS], cr: &[u8; PIXELS]) -> [u8; PIXELS * 3] {
    let ([cb_low, cb_high], [cr_low, cr_high]) = (widened(cast(*cb)), widened(cast(*cr)));
    shaded(luma, tints(centred(cb_low), centred(cr_low)), tints(centred(cb_high), centred(cr_high)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn convert_pairs(luma: &[u8; PIXELS], cb: &[u8; PIXELS / 2], cr: &[u8; PIXELS / 2]) -> [u8; PIXELS * 3] {
    let (cb, cr) = (_mm256_cvtepu8_epi16(cast(*cb)), _mm256_cvtepu8_epi16(cast(*cr)));
    let tints = tints(centred(cb), centred(cr));
    let (low, high) =
        (tints.map(|tint| _mm256_unpacklo_epi16(tint, tint)), tints.map(|tint| _mm256_unpackhi_epi16(tint, tint)));
    shaded(luma, low, high)
}

#[target_feature(enable = "avx2")]
pub fn ycbcr(luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
    let (lumas, cbs, crs) = (luma.as_chunks().0, cb.as_chunks().0, cr.as_chunks().0);
    for (((into, luma), cb), cr) in into.as_chunks_mut().0.iter_mut().zip(lumas).zip(cbs).zip(crs) {
        *into = convert(luma, cb, cr);
    }
    // The last pixels are converted again with those that are left.
    match (luma.last_chunk(), cb.last_chunk(), cr.last_chunk(), into.last_chunk_mut()) {
        (Some(luma), Some(cb), Some(cr), Some(into)) => *into = convert(luma, cb, cr),
        _ => colour::ycbcr(luma, cb, cr, into),
    }
}

#[target_feature(enable = "avx2")]
pub fn ycbcr_pairs(luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
    let (lumas, cbs, crs) = (luma.as_chunks().0, cb.as_chunks().0, cr.as_chunks().0);
    for (((into, luma), cb), cr) in into.as_chunks_mut().0.iter_mut().zip(lumas).zip(cbs).zip(crs) {
        *into = convert_pairs(luma, cb, cr);
    }
    match (luma.last_chunk(), cb.last_chunk(), cr.last_chunk(), into.last_chunk_mut()) {
        (Some(luma), Some(cb), Some(cr), Some(into)) => *into = convert_pairs(luma, cb, cr),
        _ => colour::ycbcr_pairs(luma, cb, cr, into),
    }
}
