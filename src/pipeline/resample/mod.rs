//! A decoded region → one view in its place in the batch: cropped, resized and perhaps mirrored.
//!
//! An antialiased bilinear filter, first down, then across, in whole numbers of 16 bits with a sign: a value is counted
//! from the middle level and has 8 bits of fraction, a weight has 15. What wider instructions compute is what the plain
//! way does, to the last bit.

mod axis;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod enlarge;
mod plain;
#[cfg(target_arch = "x86_64")]
mod wide;

use self::axis::Axis;
use super::decode::{Region, Unusable};

/// The level that is 0 between the two passes.
const MIDDLE: u8 = 128;
/// Bits behind the point of a value between the two passes.
const FRACTION_BITS: u32 = 8;
/// Added between the passes, so that cutting off the fraction after the second rounds.
const HALF: i16 = 1 << (FRACTION_BITS - 1);

/// A worker's weights and rows; kept from view to view.
#[derive(Debug, Default)]
pub struct Resampler {
    across: Axis,
    down: Axis,
    rows: plain::Rows,
    /// Whether views go to memory at once, where they would only take the place of what is needed next.
    past_the_cache: bool,
    #[cfg(target_arch = "x86_64")]
    enlarge: enlarge::Rows,
    #[cfg(target_arch = "x86_64")]
    avx2: avx2::Blocks,
    #[cfg(target_arch = "x86_64")]
    avx512: avx512::Blocks,
}

/// Instructions to resample with. All give the same view; a later one is faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Those that every processor has.
    Plain,
    Avx2,
    Avx512,
}

impl Form {
    /// The last one that this processor has.
    #[cfg(target_arch = "x86_64")]
    pub fn best() -> Self {
        if is_x86_feature_detected!("avx512bw") {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") {
            Self::Avx2
        } else {
            Self::Plain
        }
    }

    /// The last one that this processor has.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn best() -> Self {
        Self::Plain
    }
}

impl Resampler {
    /// For views that nobody reads soon, as those of a batch: it is larger than a cache.
    pub fn past_the_cache() -> Self {
        Self { past_the_cache: true, ..Self::default() }
    }

    /// Cuts out the crop, then resizes it once; `mirrored` exchanges left and right of the view.
    ///
    /// # Shapes
    /// - `view`: `[height, width, 3]`
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn resample(
        &mut self,
        region: &Region<'_>,
        size: [u32; 2],
        mirrored: bool,
        view: &mut [u8],
    ) -> Result<(), Unusable> {
        self.resample_by(Form::best(), region, size, mirrored, view)
    }

    /// [`Self::resample`] with no other instructions than those of `form`, or of the best one below it that is there.
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn resample_by(
        &mut self,
        form: Form,
        region: &Region<'_>,
        size: [u32; 2],
        mirrored: bool,
        view: &mut [u8],
    ) -> Result<(), Unusable> {
        let cut = Cut::of(region, size, view)?;
        match form.min(Form::best()) {
            // SAFETY: the processor has what the function was compiled for.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "many times as fast as the plain way")]
            Form::Avx512 => unsafe { self.resample_avx512(&cut, region, size, mirrored, view) },
            // SAFETY: the processor has what the function was compiled for.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "many times as fast as the plain way")]
            Form::Avx2 => unsafe { self.resample_avx2(&cut, region, size, mirrored, view) },
            _ => {
                self.weigh(&cut, region, size, mirrored);
                plain::resample(&cut, &self.across, &self.down, &mut self.rows, view);
            }
        }
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn resample_avx512(&mut self, cut: &Cut, region: &Region<'_>, size: [u32; 2], mirrored: bool, view: &mut [u8]) {
        if (size[0].min(size[1]) as usize) < avx512::LEAST_SIZE {
            return self.resample_avx2(cut, region, size, mirrored, view);
        }
        self.weigh(cut, region, size, mirrored);
        let Self { across, down, rows, avx512, .. } = self;
        if across.is_exact() || down.is_exact() {
            plain::resample(cut, across, down, rows, view);
        } else {
            avx512::resample(cut, across, down, avx512, view);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn resample_avx2(&mut self, cut: &Cut, region: &Region<'_>, size: [u32; 2], mirrored: bool, view: &mut [u8]) {
        self.weigh(cut, region, size, mirrored);
        let least = size[0].min(size[1]) as usize;
        if Self::enlarges(cut, region, size) && least >= enlarge::LEAST_SIZE {
            let Self { across, down, enlarge, past_the_cache, .. } = self;
            return enlarge::resample(cut, [across, down], mirrored, enlarge, *past_the_cache, view);
        }
        let Self { across, down, rows, avx2, .. } = self;
        if least < avx2::LEAST_SIZE || across.is_exact() || down.is_exact() {
            plain::resample(cut, across, down, rows, view);
        } else {
            avx2::resample(cut, across, down, avx2, view);
        }
    }

    /// Whether every pixel of the view is blended of two neighbours along each side.
    #[cfg(target_arch = "x86_64")]
    fn enlarges(cut: &Cut, region: &Region<'_>, [width, height]: [u32; 2]) -> bool {
        let fits = region.crop_width <= f64::from(width) && region.crop_height <= f64::from(height);
        fits && cut.width.min(cut.height) >= enlarge::TAPS
    }

    #[inline(always)]
    fn weigh(&mut self, cut: &Cut, region: &Region<'_>, [width, height]: [u32; 2], mirrored: bool) {
        self.across.weigh(cut.width, region.left.fract(), region.crop_width, width, mirrored);
        self.down.weigh(cut.height, region.top.fract(), region.crop_height, height, false);
    }
}

/// The whole pixels that hold the crop. A filter over more than them would mix in pixels from outside the crop.
struct Cut<'a> {
    pixels: &'a [u8],
    /// Bytes of a row of the region.
    stride: usize,
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl<'a> Cut<'a> {
    fn of(region: &Region<'a>, size: [u32; 2], view: &[u8]) -> Result<Self, Unusable> {
        let bytes = |width: u32, height: u32| (width as usize).saturating_mul(height as usize).saturating_mul(3);
        let Region { pixels, width, height, left, top, crop_width, crop_height } = *region;
        let fits = |start: f64, length: f64, side: u32| {
            start >= 0.0 && length > 0.0 && (start + length).ceil() <= f64::from(side)
        };
        if pixels.len() < bytes(width, height) || !fits(left, crop_width, width) || !fits(top, crop_height, height) {
            let what = format!("{crop_width}x{crop_height} pixels at {left}, {top} of {width}x{height}");
            return Err(Unusable::damaged(format!("cannot be resized: {what}, in {} bytes", pixels.len())));
        }
        let [view_width, view_height] = size;
        if size.contains(&0) || view.len() != bytes(view_width, view_height) {
            let what = format!("{view_width}x{view_height} pixels in {} bytes", view.len());
            return Err(Unusable::damaged(format!("cannot be resized to {what}")));
        }
        let past = |start: f64, length: f64| (start + length).ceil() as usize;
        Ok(Self {
            pixels: &pixels[..bytes(width, height)],
            stride: width as usize * 3,
            left: left as usize,
            top: top as usize,
            width: past(left, crop_width) - left as usize,
            height: past(top, crop_height) - top as usize,
        })
    }

    /// Where a pixel begins in the region's bytes.
    fn place(&self, column: usize, row: usize) -> usize {
        (self.top + row) * self.stride + (self.left + column) * 3
    }
}
