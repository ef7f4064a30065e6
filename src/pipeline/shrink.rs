//! The bytes of a sample → the same picture, no larger than wanted, as a PPM or as a new JPEG: what shards are made of.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use serde::Serialize;

use super::augment::Crop;
use super::decode::{Decoder, Header, KEPT_BYTES, Reason, Unusable, header};
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

/// Which pixels of a JPEG have a colour of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Chroma {
    /// One in four, as in nearly all photographs (4:2:0).
    #[default]
    Quarter,
    /// All (4:4:4).
    Full,
}

/// How a JPEG is coded: baseline, with the Huffman tables of the standard's annex K.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Coding {
    /// From 1 to 100, on the scale of libjpeg.
    pub quality: u8,
    pub chroma: Chroma,
}

/// Decodes and shrinks; keeps its buffers from sample to sample.
#[derive(Debug)]
pub struct Shrinker {
    decoder: Decoder,
    resampler: Resampler,
    pixels: Vec<u8>,
}

impl Default for Shrinker {
    fn default() -> Self {
        // What is written once and read often is made as well as can be.
        let config = DecodeConfig { jpeg: JpegDecoder::Own, smooth_chroma: true };
        Self { decoder: Decoder::new(config), resampler: Resampler::default(), pixels: Vec::new() }
    }
}

impl Shrinker {
    /// Does something with the shrinker; a decoder that panics has met a bad picture.
    ///
    /// # Errors
    /// As the work, and when it panics.
    pub fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Unusable>) -> Result<T, Unusable> {
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|cause| {
            *self = Self::default();
            let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let detail = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Unusable { reason: Reason::Panicked, detail })
        })
    }

    /// Puts the picture into `into` as a PPM, whatever was there before, and tells whether it was shrunk. `bytes` may be
    /// overwritten.
    ///
    /// # Errors
    /// When the bytes cannot be used.
    pub fn shrink(&mut self, bytes: &mut Vec<u8>, fit: Fit, into: &mut Vec<u8>) -> Result<bool, Unusable> {
        let header = header(bytes)?;
        let (width, height) = fit.size(header.width, header.height);
        ppm::begin(width, height, into);
        self.draw(bytes, &header, [width, height], into)?;
        Ok((width, height) != (header.width, header.height))
    }

    /// Like [`Self::shrink`], but a JPEG, which has none of the segments that the picture came with.
    ///
    /// # Errors
    /// When the bytes cannot be used, or the picture is too large for a JPEG.
    pub fn encode(
        &mut self,
        bytes: &mut Vec<u8>,
        fit: Fit,
        coding: Coding,
        into: &mut Vec<u8>,
    ) -> Result<bool, Unusable> {
        let header = header(bytes)?;
        let (width, height) = fit.size(header.width, header.height);
        let mut pixels = std::mem::take(&mut self.pixels);
        pixels.clear();
        let encoded = self.draw(bytes, &header, [width, height], &mut pixels);
        let encoded = encoded.and_then(|()| encode(&pixels, [width, height], coding, into));
        if pixels.capacity() <= KEPT_BYTES {
            self.pixels = pixels;
        }
        encoded.map(|()| (width, height) != (header.width, header.height))
    }

    /// Decodes and forgets. `bytes` may be overwritten.
    ///
    /// # Errors
    /// When the bytes cannot be used.
    pub fn look_at(&mut self, bytes: &mut Vec<u8>) -> Result<(), Unusable> {
        let header = header(bytes)?;
        self.decoder.decode(bytes, &header, Crop::whole(header.width, header.height), u32::MAX).map(drop)
    }

    /// Appends the pixels, `[height, width, 3]`.
    fn draw(
        &mut self,
        bytes: &mut Vec<u8>,
        header: &Header,
        size: [u32; 2],
        into: &mut Vec<u8>,
    ) -> Result<(), Unusable> {
        let whole = Crop::whole(header.width, header.height);
        // At full size, whatever becomes of it: a filter is better than a smaller transform.
        let region = self.decoder.decode(bytes, header, whole, u32::MAX)?;
        let start = into.len();
        let [width, height] = size;
        into.resize(start + width as usize * height as usize * 3, 0);
        let pixels = into.get_mut(start..).unwrap_or_default();
        self.resampler.resample(&region, size, false, pixels)
    }
}

fn encode(pixels: &[u8], size: [u32; 2], coding: Coding, into: &mut Vec<u8>) -> Result<(), Unusable> {
    let unusable = |reason, detail| Unusable { reason, detail };
    let [Ok(width), Ok(height)] = size.map(u16::try_from) else {
        return Err(unusable(Reason::TooLarge, format!("{}x{} pixels, too many for a JPEG", size[0], size[1])));
    };
    into.clear();
    let mut encoder = Encoder::new(into, coding.quality);
    encoder.set_sampling_factor(match coding.chroma {
        Chroma::Quarter => SamplingFactor::F_2_2,
        Chroma::Full => SamplingFactor::F_1_1,
    });
    let encoded = encoder.encode(pixels, width, height, ColorType::Rgb);
    encoded.map_err(|error| unusable(Reason::Unsupported, error.to_string()))
}
