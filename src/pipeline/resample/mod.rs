//! A decoded region → one view in its place in the batch: cropped, resized and perhaps mirrored.
//!
//! An antialiased bilinear filter, first down, then across, in whole numbers of 16 bits with a sign: a value is counted
//! from the middle level and has 8 bits of fraction, a weight has 15. What wider instructions compute is what the plain
//! way does, to the last bit.

mod axis;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod plain;

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
    #[cfg(target_arch = "x86_64")]
    blocks: avx2::Blocks,
}

impl Resampler {
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
        let cut = Cut::of(region, size, view)?;
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function was compiled for.
            #[expect(unsafe_code, reason = "many times as fast as the plain way")]
            unsafe {
                self.resample_avx2(&cut, region, size, mirrored, view);
            }
            return Ok(());
        }
        self.weigh(&cut, region, size, mirrored);
        plain::resample(&cut, &self.across, &self.down, &mut self.rows, view);
        Ok(())
    }

    /// [`Self::resample`] with those instructions alone that every processor has.
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn resample_plain(
        &mut self,
        region: &Region<'_>,
        size: [u32; 2],
        mirrored: bool,
        view: &mut [u8],
    ) -> Result<(), Unusable> {
        let cut = Cut::of(region, size, view)?;
        self.weigh(&cut, region, size, mirrored);
        plain::resample(&cut, &self.across, &self.down, &mut self.rows, view);
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn resample_avx2(&mut self, cut: &Cut, region: &Region<'_>, size: [u32; 2], mirrored: bool, view: &mut [u8]) {
        self.weigh(cut, region, size, mirrored);
        let Self { across, down, rows, blocks } = self;
        if size[0].min(size[1]) as usize >= avx2::LEAST_SIZE && !across.is_exact() && !down.is_exact() {
            avx2::resample(cut, across, down, blocks, view);
        } else {
            plain::resample(cut, across, down, rows, view);
        }
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
