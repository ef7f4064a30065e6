//! The steps that have a form of their own on some processors, and which form is used.

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::{colour, transform};

/// The coefficients of a block, or what they are multiplied by, row by row.
pub type Square = [i16; 64];

/// Transforms blocks and converts rows. All give exactly the same samples.
pub trait Processor: Copy {
    /// Writes 8 rows of 8 samples, `stride` apart; nothing where they do not fit.
    fn inverse8(self, block: &Square, factors: &Square, into: &mut [u8], stride: usize);

    /// Writes 4 rows of 4 samples.
    fn inverse4(self, block: &Square, factors: &Square, into: &mut [u8], stride: usize);

    /// Writes 2 rows of 2 samples.
    fn inverse2(self, block: &Square, factors: &Square, into: &mut [u8], stride: usize);

    /// Writes red, green and blue of every pixel of a row; all slices have as many pixels.
    fn ycbcr(self, luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]);

    /// The same where each sample of chroma belongs to two pixels, all of which are there.
    fn ycbcr_pairs(self, luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]);
}

/// Any processor: the compiler chooses the instructions.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Processor for Plain {
    #[inline(always)]
    fn inverse8(self, block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
        transform::inverse8(block, factors, into, stride);
    }

    #[inline(always)]
    fn inverse4(self, block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
        transform::inverse4(block, factors, into, stride);
    }

    #[inline(always)]
    fn inverse2(self, block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
        transform::inverse2(block, factors, into, stride);
    }

    #[inline(always)]
    fn ycbcr(self, luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
        colour::ycbcr(luma, cb, cr, into);
    }

    #[inline(always)]
    fn ycbcr_pairs(self, luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
        colour::ycbcr_pairs(luma, cb, cr, into);
    }
}

/// An x86 processor with AVX2; there is no value of this type on another.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// All that came with AVX2, in one processor or the next: what codes are read with too.
    pub fn found() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        has_all.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls what was compiled for more than the least processor")]
impl Processor for Avx2 {
    #[inline(always)]
    fn inverse8(self, block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe { avx2::inverse8(block, factors, into, stride) }
    }

    #[inline(always)]
    fn inverse4(self, block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe { avx2::inverse4(block, factors, into, stride) }
    }

    #[inline(always)]
    fn inverse2(self, block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe { avx2::inverse2(block, factors, into, stride) }
    }

    #[inline(always)]
    fn ycbcr(self, luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe { avx2::ycbcr(luma, cb, cr, into) }
    }

    #[inline(always)]
    fn ycbcr_pairs(self, luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe { avx2::ycbcr_pairs(luma, cb, cr, into) }
    }
}
