//! A field → a view that lies anywhere in it: one resampling from 8-bit pixels to 8-bit pixels.
//!
//! Places are computed for eight pixels of a row at once. Blending them is the one part that gains from instructions
//! which not every processor has; with and without them, the result is the same to the last bit.

use std::ops::Range;

use super::saccade::{Filter, Saccade};

/// Pixels that a place may be off as a 32-bit float; far too little to see.
pub(super) const ROUNDING: f32 = 1.0 / 4096.0;

/// Pixels of a row that are taken at once.
const LANES: usize = 8;

/// As many as leave a weight room in 16 bits with a sign, and its product with a pixel in 32.
const WEIGHT_BITS: u32 = 14;
/// What the four weights of a pixel sum to.
const WHOLE: i32 = 1 << WEIGHT_BITS;
const HALF: i32 = WHOLE / 2;

type Pixel = [u8; 3];

/// Resamples a field into a view; what lies outside of the field is black.
///
/// # Shapes
/// - `field`: `[side, side, 3]`, a side of at most 16,384
/// - `view`: `[size, size, 3]`
pub fn warp(field: &[u8], side: u32, saccade: &Saccade, size: u32, filter: Filter, view: &mut [u8]) {
    Field { pixels: field, side, wide: true }.warp(&Path::new(side, saccade, size), filter, view);
}

/// [`warp`] with those instructions alone that every processor has.
pub fn warp_plain(field: &[u8], side: u32, saccade: &Saccade, size: u32, filter: Filter, view: &mut [u8]) {
    Field { pixels: field, side, wide: false }.warp(&Path::new(side, saccade, size), filter, view);
}

/// Share of a view's pixels that do not lie between pixels of the field.
pub(super) fn share_outside(side: u32, saccade: &Saccade, size: u32) -> f64 {
    let limits = -ROUNDING..=side.saturating_sub(1) as f32 + ROUNDING;
    let path = Path::new(side, saccade, size);
    let is_inside = |place: [f32; 2]| place.iter().all(|place| limits.contains(place));
    let inside: usize = (0..size).map(|row| path.row(row).inside(size as usize, is_inside).len()).sum();
    1.0 - inside as f64 / f64::from(size).powi(2)
}

/// Where the pixels of a view lie in its field, in pixels to the right and down.
struct Path {
    size: u32,
    corner: [f64; 2],
    right: [f64; 2],
    down: [f64; 2],
}

impl Path {
    fn new(side: u32, saccade: &Saccade, size: u32) -> Self {
        let [x, y] = saccade.matrix();
        let (first, middle) = (-f64::from(size.saturating_sub(1)) / 2.0, f64::from(side.saturating_sub(1)) / 2.0);
        let corner = [x, y].map(|[right, down, shift]| (right + down) * first + shift * f64::from(side) / 2.0 + middle);
        Self { size, corner, right: [x[0], y[0]], down: [x[1], y[1]] }
    }

    fn row(&self, number: u32) -> Row {
        let first = [0, 1].map(|axis| (self.corner[axis] + f64::from(number) * self.down[axis]) as f32);
        Row { first, step: self.right.map(|step| step as f32) }
    }
}

/// Where the pixels of one row of a view lie: the first, and how far it is from one to the next.
struct Row {
    first: [f32; 2],
    step: [f32; 2],
}

impl Row {
    #[inline(always)]
    fn at(&self, column: usize) -> [f32; 2] {
        // Through 32 bits: there are instructions to convert eight of those at once.
        let column = column as i32 as f32;
        [self.first[0] + self.step[0] * column, self.first[1] + self.step[1] * column]
    }

    /// The columns of which `is_inside` holds; they are neighbours, since places go one way along a row.
    fn inside(&self, columns: usize, is_inside: impl Fn([f32; 2]) -> bool) -> Range<usize> {
        let mut all = 0..columns;
        if columns == 0 || is_inside(self.at(0)) && is_inside(self.at(columns - 1)) {
            return all;
        }
        let start = all.clone().find(|column| is_inside(self.at(*column))).unwrap_or(columns);
        let end = all.rfind(|column| is_inside(self.at(*column))).map_or(start, |last| last + 1);
        start..end
    }

    /// Where eight pixels of the field begin in its bytes, each the nearest.
    #[inline(always)]
    fn picks(&self, first: usize, stride: i32) -> [i32; LANES] {
        let mut places = [0; LANES];
        for (lane, place) in places.iter_mut().enumerate() {
            let [x, y] = self.at(first + lane).map(nearest);
            *place = y * stride + x * 3;
        }
        places
    }

    #[inline(always)]
    fn taps(&self, first: usize, stride: i32) -> Taps {
        let mut taps = Taps { above: [0; LANES], below: [0; LANES], weights: [[0; LANES]; 2] };
        for lane in 0..LANES {
            let [(x, right), (y, down)] = self.at(first + lane).map(split);
            taps.above[lane] = y * stride + x * 3;
            taps.below[lane] = taps.above[lane] + stride;
            let [above_left, above_right, below_left, below_right] = weights(right, down);
            taps.weights[0][lane] = above_left | above_right << 16;
            taps.weights[1][lane] = below_left | below_right << 16;
        }
        taps
    }
}

/// Which pixels of the field eight pixels of a view are blended of.
struct Taps {
    /// Where the pixel above to the left begins in the field's bytes; the one to its right follows.
    above: [i32; LANES],
    below: [i32; LANES],
    /// Of the two above and the two below: left in the lower 16 bits, right in the upper ones.
    weights: [[i32; LANES]; 2],
}

/// The nearest whole number, and of two the even one, for less than 2^21 either way.
#[inline(always)]
fn nearest(place: f32) -> i32 {
    /// 1.5 times 2^23: a float of this size has no bits left for fractions. A cast would be done one by one, since it
    /// must give a number for everything that is none.
    const NO_FRACTIONS: f32 = 12_582_912.0;
    (place + NO_FRACTIONS).to_bits() as i32 - NO_FRACTIONS.to_bits() as i32
}

/// The whole number below a place, and how far it is from there.
#[inline(always)]
fn split(place: f32) -> (i32, f32) {
    let whole = nearest(place);
    let part = place - whole as f32;
    let over = i32::from(part < 0.0);
    (whole - over, part + over as f32)
}

/// Weights of the pixels above to the left and right, and below; parts in 0..=1 say how far to the right and down.
#[inline(always)]
fn weights(right: f32, down: f32) -> [i32; 4] {
    let [right, down] = [right, down].map(|part| nearest(part * WHOLE as f32));
    let both = (right * down + HALF) >> WEIGHT_BITS;
    [WHOLE - right - down + both, right - both, down - both, both]
}

/// `[side, side, 3]`.
struct Field<'a> {
    pixels: &'a [u8],
    side: u32,
    /// Whether instructions may be used that not every processor has.
    wide: bool,
}

impl Field<'_> {
    fn warp(&self, path: &Path, filter: Filter, view: &mut [u8]) {
        let columns = path.size as usize;
        for (number, pixels) in (0..path.size).zip(view.chunks_exact_mut((columns * 3).max(1))) {
            let (row, (pixels, _)) = (path.row(number), pixels.as_chunks_mut::<3>());
            match filter {
                Filter::Bilinear => self.blend(&row, pixels),
                Filter::Nearest => self.pick(&row, pixels),
            }
        }
    }

    fn stride(&self) -> i32 {
        self.side as i32 * 3
    }

    fn blend(&self, row: &Row, pixels: &mut [Pixel]) {
        // The neighbours to the right and below are wanted too.
        let limit = self.side.saturating_sub(1) as f32;
        let inside = row.inside(pixels.len(), |[x, y]| x >= 0.0 && y >= 0.0 && x < limit && y < limit);
        for column in (0..inside.start).chain(inside.end..pixels.len()) {
            pixels[column] = self.blend_at_edge(row.at(column));
        }
        let (first, pixels) = (inside.start, &mut pixels[inside]);
        if !self.wide(Filter::Bilinear, row, first, pixels) {
            self.blend_plain(row, first, pixels);
        }
    }

    fn blend_at_edge(&self, [x, y]: [f32; 2]) -> Pixel {
        let reach = -1.0..self.side as f32;
        if !reach.contains(&x) || !reach.contains(&y) {
            return [0; 3];
        }
        let [(left, right), (above, down)] = [x, y].map(split);
        let mut sum = [HALF; 3];
        for (weight, [right, down]) in weights(right, down).into_iter().zip([[0, 0], [1, 0], [0, 1], [1, 1]]) {
            let (x, y) = (left + right, above + down);
            let sides = 0..self.side as i32;
            if sides.contains(&x) && sides.contains(&y) {
                let pixel = self.bytes::<3>(y * self.stride() + x * 3);
                sum = [0, 1, 2].map(|channel| sum[channel] + weight * i32::from(pixel[channel]));
            }
        }
        sum.map(|sum| (sum >> WEIGHT_BITS) as u8)
    }

    fn blend_plain(&self, row: &Row, first: usize, pixels: &mut [Pixel]) {
        for (block, pixels) in pixels.chunks_mut(LANES).enumerate() {
            let blended = self.blend_taps(&row.taps(first + block * LANES, self.stride()));
            pixels.copy_from_slice(&blended[..pixels.len()]);
        }
    }

    fn blend_taps(&self, taps: &Taps) -> [Pixel; LANES] {
        let mut pixels = [[0; 3]; LANES];
        for (lane, pixel) in pixels.iter_mut().enumerate() {
            let (above, below) = (self.bytes::<6>(taps.above[lane]), self.bytes::<6>(taps.below[lane]));
            let [above_weights, below_weights] = taps.weights.map(|weights| weights[lane]);
            for (channel, value) in pixel.iter_mut().enumerate() {
                let sum = (above_weights & 0xFFFF) * i32::from(above[channel])
                    + (above_weights >> 16) * i32::from(above[channel + 3])
                    + (below_weights & 0xFFFF) * i32::from(below[channel])
                    + (below_weights >> 16) * i32::from(below[channel + 3]);
                *value = ((sum + HALF) >> WEIGHT_BITS) as u8;
            }
        }
        pixels
    }

    fn pick(&self, row: &Row, pixels: &mut [Pixel]) {
        let sides = 0.0..self.side as f32;
        let is_inside = |place: [f32; 2]| place.iter().all(|place| sides.contains(&place.round_ties_even()));
        let inside = row.inside(pixels.len(), is_inside);
        pixels[..inside.start].fill([0; 3]);
        pixels[inside.end..].fill([0; 3]);
        let (first, pixels) = (inside.start, &mut pixels[inside]);
        if !self.wide(Filter::Nearest, row, first, pixels) {
            self.pick_plain(row, first, pixels);
        }
    }

    fn pick_plain(&self, row: &Row, first: usize, pixels: &mut [Pixel]) {
        for (block, pixels) in pixels.chunks_mut(LANES).enumerate() {
            let picked = row.picks(first + block * LANES, self.stride()).map(|place| self.bytes(place));
            pixels.copy_from_slice(&picked[..pixels.len()]);
        }
    }

    /// Black where there are none: the last places of a row that is no multiple of eight are wanted by nobody.
    #[inline(always)]
    fn bytes<const N: usize>(&self, place: i32) -> [u8; N] {
        let place = place as u32 as usize;
        let bytes = self.pixels.get(place..place.wrapping_add(N)).and_then(|bytes| bytes.as_array());
        bytes.copied().unwrap_or([0; N])
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn wide(&self, _: Filter, _: &Row, _: usize, _: &mut [Pixel]) -> bool {
        false
    }

    /// Fills the inside of a row, or says that the processor cannot.
    #[cfg(target_arch = "x86_64")]
    fn wide(&self, filter: Filter, row: &Row, first: usize, pixels: &mut [Pixel]) -> bool {
        if !self.wide || !is_x86_feature_detected!("avx2") {
            return false;
        }
        #[expect(unsafe_code, reason = "3.5 times faster than what the compiler makes of the plain way")]
        // SAFETY: the processor has been asked for the feature.
        unsafe {
            self.fill_avx2(filter, row, first, pixels);
        }
        true
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn fill_avx2(&self, filter: Filter, row: &Row, first: usize, pixels: &mut [Pixel]) {
        let (blocks, rest) = pixels.as_chunks_mut::<LANES>();
        let left_over = first + blocks.len() * LANES;
        for (block, pixels) in blocks.iter_mut().enumerate() {
            let first = first + block * LANES;
            match filter {
                Filter::Bilinear => {
                    let taps = row.taps(first, self.stride());
                    *pixels = avx2::blend(self.pixels, &taps).unwrap_or_else(|| self.blend_taps(&taps));
                }
                Filter::Nearest => {
                    let places = row.picks(first, self.stride());
                    let plain = || places.map(|place| self.bytes(place));
                    *pixels = avx2::pick(self.pixels, &places).unwrap_or_else(plain);
                }
            }
        }
        match filter {
            Filter::Bilinear => self.blend_plain(row, left_over, rest),
            Filter::Nearest => self.pick_plain(row, left_over, rest),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{HALF, LANES, Pixel, Taps, WEIGHT_BITS};

    /// Blends eight pixels, two at a time; `None` where fewer than eight bytes of the field are left behind a place.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn blend(field: &[u8], taps: &Taps) -> Option<[Pixel; LANES]> {
        let [above, below] = taps.weights.map(|[a, b, c, d, e, f, g, h]| _mm256_setr_epi32(a, b, c, d, e, f, g, h));
        let two = |lane: usize, above: __m256i, below: __m256i| {
            let above = _mm256_madd_epi16(spread(field, &taps.above, lane)?, above);
            let below = _mm256_madd_epi16(spread(field, &taps.below, lane)?, below);
            let sum = _mm256_add_epi32(_mm256_add_epi32(above, below), _mm256_set1_epi32(HALF));
            Some(_mm256_srli_epi32::<{ WEIGHT_BITS as i32 }>(sum))
        };
        let first = _mm256_packs_epi32(
            two(0, _mm256_shuffle_epi32::<0x00>(above), _mm256_shuffle_epi32::<0x00>(below))?,
            two(1, _mm256_shuffle_epi32::<0x55>(above), _mm256_shuffle_epi32::<0x55>(below))?,
        );
        let last = _mm256_packs_epi32(
            two(2, _mm256_shuffle_epi32::<0xAA>(above), _mm256_shuffle_epi32::<0xAA>(below))?,
            two(3, _mm256_shuffle_epi32::<0xFF>(above), _mm256_shuffle_epi32::<0xFF>(below))?,
        );
        Some(dense(_mm256_packus_epi16(first, last)))
    }

    /// Copies eight pixels; `None` where fewer than four bytes of the field are left behind a place.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn pick(field: &[u8], places: &[i32; LANES]) -> Option<[Pixel; LANES]> {
        let pixel = |lane: usize| {
            let place = places[lane] as u32 as usize;
            Some(i32::from_le_bytes(*field.get(place..place + 4)?.as_array()?))
        };
        let first = _mm_setr_epi32(pixel(0)?, pixel(1)?, pixel(2)?, pixel(3)?);
        let last = _mm_setr_epi32(pixel(4)?, pixel(5)?, pixel(6)?, pixel(7)?);
        Some(dense(_mm256_set_m128i(last, first)))
    }

    /// Drops every fourth byte.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn dense(pixels: __m256i) -> [Pixel; LANES] {
        let order = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
        let bytes = _mm256_shuffle_epi8(pixels, _mm256_broadcastsi128_si256(order));
        let mut pixels = [[0; 3]; LANES];
        let (left, right) = pixels.as_flattened_mut().split_at_mut(LANES / 2 * 3);
        for (half, bytes) in [(left, _mm256_castsi256_si128(bytes)), (right, _mm256_extracti128_si256::<1>(bytes))] {
            half[..8].copy_from_slice(&_mm_cvtsi128_si64(bytes).to_le_bytes());
            half[8..].copy_from_slice(&_mm_extract_epi32::<2>(bytes).to_le_bytes());
        }
        pixels
    }

    /// Two neighbours for a lane and two for the fourth after it: left and right of each channel side by side, as 16
    /// bits each.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn spread(field: &[u8], places: &[i32; LANES], lane: usize) -> Option<__m256i> {
        let pair = |place: i32| {
            let place = place as u32 as usize;
            let bytes = field.get(place..place + 8)?.as_array()?;
            Some(_mm_cvtsi64_si128(i64::from_le_bytes(*bytes)))
        };
        let both = _mm256_set_m128i(pair(places[lane + LANES / 2])?, pair(places[lane])?);
        let order = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
        Some(_mm256_shuffle_epi8(both, _mm256_broadcastsi128_si256(order)))
    }
}
