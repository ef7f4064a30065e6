//! Planes → RGB of exactly the part that is wanted: repeats or smooths chroma, then converts.
//!
//! The same integers as libjpeg's: its triangle filter ("fancy upsampling") and its conversion with 16 bits of fraction.

use super::picture::Colour;
use super::plane::Plane;
#[cfg(target_arch = "x86_64")]
use super::processor::Avx2;
use super::processor::{Plain, Processor};

/// A rectangle of pixels of the picture, at the scale at which it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

/// Rows that are used again.
#[derive(Debug, Default)]
pub struct Rows {
    chroma: [Vec<u8>; 2],
    sums: Vec<u16>,
}

/// Writes the part, `[height, width, 3]`. The first plane has a sample for every pixel.
pub fn to_rgb(colour: Colour, planes: &[Plane], smooth: bool, part: Part, rows: &mut Rows, pixels: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(processor) = Avx2::found() {
        // SAFETY: the processor has what the function was compiled for.
        #[expect(unsafe_code, reason = "calls the same code, compiled for more than the least processor")]
        return unsafe { convert_avx2(processor, colour, planes, smooth, part, rows, pixels) };
    }
    convert(Plain, colour, planes, smooth, part, rows, pixels);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn convert_avx2(
    processor: Avx2,
    colour: Colour,
    planes: &[Plane],
    smooth: bool,
    part: Part,
    rows: &mut Rows,
    pixels: &mut [u8],
) {
    convert(processor, colour, planes, smooth, part, rows, pixels);
}

#[inline(always)]
fn convert(
    processor: impl Processor,
    colour: Colour,
    planes: &[Plane],
    smooth: bool,
    part: Part,
    rows: &mut Rows,
    pixels: &mut [u8],
) {
    let Rows { chroma: [first, second], sums } = rows;
    for (y, into) in pixels.chunks_exact_mut(part.width * 3).enumerate() {
        let y = part.top + y;
        let luma = &planes[0].row(y as isize, part.left)[..part.width];
        let [_, cb, cr] = planes else {
            grey(luma, into);
            continue;
        };
        if colour != Colour::Rgb && is_repeated(cb, smooth) && is_repeated(cr, smooth) {
            repeated(processor, luma, [cb, cr], y, part.left, into);
            continue;
        }
        let cb = expanded(cb, smooth, y, part, sums, first);
        let cr = expanded(cr, smooth, y, part, sums, second);
        match colour {
            Colour::Rgb => interleave(luma, cb, cr, into),
            Colour::Grey | Colour::YCbCr => processor.ycbcr(luma, cb, cr, into),
        }
    }
}

/// Whether each sample belongs to two pixels of a row.
fn is_repeated(plane: &Plane, smooth: bool) -> bool {
    plane.across == 2 && !is_blended(plane, smooth)
}

/// Whether a row is blended from samples side by side. libjpeg does not do so with what is narrower.
fn is_blended(plane: &Plane, smooth: bool) -> bool {
    smooth && plane.across == 2 && plane.down <= 2 && plane.width > 2
}

/// Converts a row whose chroma is repeated.
#[inline(always)]
fn repeated(processor: impl Processor, luma: &[u8], chroma: [&Plane; 2], y: usize, left: usize, into: &mut [u8]) {
    let [cb, cr] = chroma.map(|plane| plane.row((y / plane.down) as isize, left / 2));
    // The second pixel of a pair comes first.
    let odd = left % 2;
    let (first_luma, luma) = luma.split_at(odd);
    let (first, into) = into.split_at_mut(odd * 3);
    ycbcr(first_luma, cb, cr, first);
    let (cb, cr) = (&cb[odd..], &cr[odd..]);
    let pairs = luma.len() / 2;
    let (luma, last_luma) = luma.split_at(pairs * 2);
    let (into, last) = into.split_at_mut(pairs * 6);
    processor.ycbcr_pairs(luma, &cb[..pairs], &cr[..pairs], into);
    ycbcr(last_luma, &cb[pairs..], &cr[pairs..], last);
}

/// A row of a component with a sample for every pixel of the part.
#[inline(always)]
fn expanded<'r>(
    plane: &'r Plane,
    smooth: bool,
    y: usize,
    part: Part,
    sums: &mut Vec<u16>,
    row: &'r mut Vec<u8>,
) -> &'r [u8] {
    let Plane { across, down, .. } = *plane;
    let near = (y / down) as isize;
    let left = part.left / across;
    let offset = part.left - left * across;
    let count = (offset + part.width).div_ceil(across);
    if (across, down) == (1, 1) {
        return &plane.row(near, left)[..count];
    }
    row.resize(count * across, 0);
    match (across, down) {
        _ if is_blended(plane, smooth) => {
            sum_rows(plane, y, left, count, sums);
            let (shift, down_bias, up_bias) = if down == 2 { (4, 8, 7) } else { (2, 1, 2) };
            for (pair, near) in row.as_chunks_mut::<2>().0.iter_mut().zip(sums.windows(3)) {
                pair[0] = ((3 * near[1] + near[0] + down_bias) >> shift) as u8;
                pair[1] = ((3 * near[1] + near[2] + up_bias) >> shift) as u8;
            }
        }
        (1, 2) if smooth => {
            let far = if y.is_multiple_of(2) { near - 1 } else { near + 1 };
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            for ((into, near), far) in row.iter_mut().zip(plane.row(near, left)).zip(plane.row(far, left)) {
                *into = ((3 * u16::from(*near) + u16::from(*far) + bias) >> 2) as u8;
            }
        }
        (2, _) => {
            for (pair, sample) in row.as_chunks_mut::<2>().0.iter_mut().zip(plane.row(near, left)) {
                *pair = [*sample; 2];
            }
        }
        _ => {
            for (group, sample) in row.chunks_exact_mut(across).zip(plane.row(near, left)) {
                group.fill(*sample);
            }
        }
    }
    &row[offset..offset + part.width]
}

/// What the two nearest rows weigh together, with one more sample at each end, which is repeated at the picture's edge.
#[inline(always)]
fn sum_rows(plane: &Plane, y: usize, left: usize, count: usize, sums: &mut Vec<u16>) {
    let near = (y / plane.down) as isize;
    let first = left.saturating_sub(1);
    let past = (left + count + 1).min(plane.width);
    sums.clear();
    if left == 0 {
        sums.push(0);
    }
    let width = past - first;
    if plane.down == 2 {
        let far = if y.is_multiple_of(2) { near - 1 } else { near + 1 };
        let rows = plane.row(near, first).iter().zip(plane.row(far, first));
        sums.extend(rows.take(width).map(|(near, far)| 3 * u16::from(*near) + u16::from(*far)));
    } else {
        sums.extend(plane.row(near, first).iter().take(width).map(|sample| u16::from(*sample)));
    }
    if left == 0 && sums.len() > 1 {
        sums[0] = sums[1];
    }
    let last = sums.last().copied().unwrap_or_default();
    sums.resize(count + 2, last);
}

#[inline(always)]
fn grey(luma: &[u8], into: &mut [u8]) {
    for (pixel, value) in into.as_chunks_mut::<3>().0.iter_mut().zip(luma) {
        *pixel = [*value; 3];
    }
}

#[inline(always)]
fn interleave(red: &[u8], green: &[u8], blue: &[u8], into: &mut [u8]) {
    for (((pixel, red), green), blue) in into.as_chunks_mut::<3>().0.iter_mut().zip(red).zip(green).zip(blue) {
        *pixel = [*red, *green, *blue];
    }
}

/// JFIF's conversion (ITU T.871, section 7).
#[inline(always)]
pub fn ycbcr(luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
    for (((pixel, luma), cb), cr) in into.as_chunks_mut::<3>().0.iter_mut().zip(luma).zip(cb).zip(cr) {
        *pixel = rgb(*luma, *cb, *cr);
    }
}

/// The same where each sample of chroma belongs to two pixels, all of which are there.
#[inline(always)]
pub fn ycbcr_pairs(luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
    let (lumas, pairs) = (luma.as_chunks::<2>().0, into.as_chunks_mut::<6>().0);
    for (((pair, luma), cb), cr) in pairs.iter_mut().zip(lumas).zip(cb).zip(cr) {
        for (pixel, luma) in pair.as_chunks_mut().0.iter_mut().zip(luma) {
            *pixel = rgb(*luma, *cb, *cr);
        }
    }
}

#[inline(always)]
fn rgb(luma: u8, cb: u8, cr: u8) -> [u8; 3] {
    const fn fix(number: f64) -> i32 {
        (number * 65536.0 + 0.5) as i32
    }
    const HALF: i32 = 1 << 15;
    let (luma, cb, cr) = (i32::from(luma), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = luma + ((fix(1.402) * cr + HALF) >> 16);
    let green = luma + ((HALF - fix(0.34414) * cb - fix(0.71414) * cr) >> 16);
    let blue = luma + ((fix(1.772) * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}
