//! The bytes of a sample → the same picture as a PPM, no larger than wanted: what decoded shards hold.

use std::str::FromStr;

use serde::Serialize;

use super::augment::Crop;
use super::decode::{Decoder, Header, Unusable, header};
use super::jpeg::{DecodeConfig, JpegDecoder};
use super::ppm;
use super::resample::Resampler;

/// The longest side that a JPEG can have.
const MOST_SIDE: u32 = 65_535;

/// How large a picture may be, in pixels; what is larger is shrunk in proportion, what is smaller stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Bounds the longer side.
    MaxSide(u32),
    /// Bounds the shorter side.
    ShortSide(u32),
}

/// Text that is no [`Fit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    #[error("write it as max-side=N or short-side=N")]
    Kind,
    #[error("N must be a number of pixels from 1 to {MOST_SIDE}")]
    Side,
}

impl FromStr for Fit {
    type Err = FitError;

    fn from_str(text: &str) -> Result<Self, FitError> {
        let (kind, side) = text.split_once('=').ok_or(FitError::Kind)?;
        let side = || side.parse().ok().filter(|side| (1..=MOST_SIDE).contains(side)).ok_or(FitError::Side);
        match kind {
            "max-side" => Ok(Self::MaxSide(side()?)),
            "short-side" => Ok(Self::ShortSide(side()?)),
            _ => Err(FitError::Kind),
        }
    }
}

impl Fit {
    /// Width and height of what becomes of a picture, rounded to the nearest pixel and never 0.
    pub fn size(self, width: u32, height: u32) -> (u32, u32) {
        let (side, most) = match self {
            Self::MaxSide(most) => (width.max(height), most),
            Self::ShortSide(most) => (width.min(height), most),
        };
        if side <= most {
            return (width, height);
        }
        let (side, most) = (u64::from(side), u64::from(most));
        let scaled = |length: u32| ((2 * u64::from(length) * most + side) / (2 * side)).max(1) as u32;
        (scaled(width), scaled(height))
    }

    /// Bytes of the PPM that a picture of this header becomes, but for the few of the PPM's own header.
    pub fn pixel_bytes(self, header: &Header) -> u64 {
        let (width, height) = self.size(header.width, header.height);
        u64::from(width) * u64::from(height) * 3
    }
}

/// Decodes and shrinks; keeps its buffers from sample to sample.
#[derive(Debug)]
pub struct Shrinker {
    decoder: Decoder,
    resampler: Resampler,
}

impl Default for Shrinker {
    fn default() -> Self {
        // What is written once and read often is made as well as can be.
        let config = DecodeConfig { jpeg: JpegDecoder::Own, smooth_chroma: true };
        Self { decoder: Decoder::new(config), resampler: Resampler::default() }
    }
}

impl Shrinker {
    /// Puts the picture into `into` as a PPM, whatever was there before, and tells whether it was shrunk. `bytes` may be
    /// overwritten.
    ///
    /// # Errors
    /// When the bytes cannot be used.
    pub fn shrink(&mut self, bytes: &mut Vec<u8>, fit: Fit, into: &mut Vec<u8>) -> Result<bool, Unusable> {
        let header = header(bytes)?;
        let (width, height) = fit.size(header.width, header.height);
        let whole = Crop::whole(header.width, header.height);
        // At full size, whatever becomes of it: a filter is better than a smaller transform.
        let region = self.decoder.decode(bytes, &header, whole, u32::MAX)?;
        ppm::begin(width, height, into);
        let start = into.len();
        into.resize(start + width as usize * height as usize * 3, 0);
        let pixels = into.get_mut(start..).unwrap_or_default();
        self.resampler.resample(&region, [width, height], false, pixels)?;
        Ok((width, height) != (header.width, header.height))
    }
}
