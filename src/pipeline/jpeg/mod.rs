//! JPEG bytes → RGB of the part that a crop needs, at the smallest sufficient scale.
//!
//! Our own decoder takes what nearly all photographs are (baseline or progressive, grey or colour). What it leaves goes to libjpeg-turbo where
//! the build has it, else to zune-jpeg. Which decoder is a setting, because their pixels differ by a level here and there.

pub mod markers;
pub mod own;
#[cfg(feature = "turbo")]
pub mod turbo;
mod zune;

use serde::{Deserialize, Serialize};

use self::own::{Fault, Own, Part};
use super::augment::Crop;
use super::decode::Unusable;

/// More scans than any encoder writes (about a dozen); each costs a pass over all coefficients, however few its bytes.
const MOST_SCANS: usize = 100;

/// What decodes JPEGs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JpegDecoder {
    /// Our own; what it leaves is libjpeg-turbo's where the build has that, else zune-jpeg's.
    Own,
    /// libjpeg-turbo, in builds with the feature `turbo`.
    Turbo,
    /// zune-jpeg, which decodes every picture whole.
    Zune,
}

impl JpegDecoder {
    /// Whether this build has libjpeg-turbo.
    pub const HAS_TURBO: bool = cfg!(feature = "turbo");

    /// In words, for the log.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Own if Self::HAS_TURBO => "our own decoder; unusual files by libjpeg-turbo",
            Self::Own => "our own decoder; unusual files by zune-jpeg, for this build has no libjpeg-turbo",
            Self::Turbo => "libjpeg-turbo",
            Self::Zune => "zune-jpeg",
        }
    }
}

/// How pictures are decoded. The pixels depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeConfig {
    pub jpeg: JpegDecoder,
    /// Whether colour that was stored at half the size is blended between its samples, or repeated.
    pub smooth_chroma: bool,
}

/// The decoders of a worker.
#[derive(Debug)]
pub struct Jpeg {
    config: DecodeConfig,
    own: Own,
    #[cfg(feature = "turbo")]
    turbo: turbo::Turbo,
}

/// The largest divisor at which a side is still as long as is wanted.
fn scale(crop: Crop, least: u32) -> u32 {
    let enough = |scale: &u32| crop.width.min(crop.height) >= least.saturating_mul(*scale);
    [8, 4, 2].into_iter().find(enough).unwrap_or(1)
}

impl Jpeg {
    pub fn new(config: DecodeConfig) -> Self {
        Self {
            config,
            own: Own::default(),
            #[cfg(feature = "turbo")]
            turbo: turbo::Turbo::default(),
        }
    }

    /// Frees what a large picture took.
    pub fn give_back(&mut self) {
        self.own.give_back();
    }

    /// Decodes what `crop` needs into `pixels`, so that both its sides keep at least `least` pixels if they have them;
    /// returns the part that this is of the picture at 1/scale, and that scale. `bytes` may be overwritten; `width` and
    /// `height` are the picture's.
    ///
    /// # Errors
    /// When the coded data are damaged or end early.
    pub fn decode(
        &mut self,
        bytes: &mut Vec<u8>,
        [width, height]: [u32; 2],
        crop: Crop,
        least: u32,
        pixels: &mut Vec<u8>,
    ) -> Result<(Crop, u32), Unusable> {
        let scale = scale(crop, least);
        let part = Crop::containing(crop, scale);
        match self.config.jpeg {
            JpegDecoder::Own => {
                let at = |number: u32| number as usize;
                let wanted =
                    Part { left: at(part.left), top: at(part.top), width: at(part.width), height: at(part.height) };
                match self.own.decode(bytes, at(scale), wanted, self.config.smooth_chroma, pixels) {
                    Ok(()) => return Ok((part, scale)),
                    Err(Fault::Unusual) => {}
                    Err(fault) => return Err(fault.into()),
                }
            }
            JpegDecoder::Turbo | JpegDecoder::Zune => {}
        }
        #[cfg(feature = "turbo")]
        if self.config.jpeg != JpegDecoder::Zune {
            let part = self.turbo.decode(bytes, scale, part, self.config.smooth_chroma, pixels)?;
            return Ok((part, scale));
        }
        zune::decode(bytes, width, height, pixels)?;
        Ok((Crop::whole(width, height), 1))
    }
}
