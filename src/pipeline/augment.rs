//! A header → the crop that becomes a view: drawn at random, or the middle.

use serde::{Deserialize, Serialize};

use crate::draws::Draws;

/// How a view is cut from an image.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    /// Pixels a side of the view, which is square.
    pub size: u32,
    /// Share of the image's area that the crop covers, lowest and highest.
    pub crop_scale: [f64; 2],
    /// Width divided by height of the crop, lowest and highest.
    pub crop_ratio: [f64; 2],
    /// Whether half of the views, drawn at random, are mirrored left to right.
    pub flip: bool,
}

impl AugmentConfig {
    /// Bytes of one view: RGB, 8 bits each.
    pub fn view_bytes(&self) -> usize {
        (self.size as usize).saturating_mul(self.size as usize).saturating_mul(3)
    }
}

/// A rectangle of pixels, inside its image and never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

impl Crop {
    pub fn whole(width: u32, height: u32) -> Self {
        Self { left: 0, top: 0, width, height }
    }

    /// The smallest rectangle of whole pixels that holds this one in a picture at 1/`scale`.
    pub(super) fn containing(self, scale: u32) -> Self {
        let (left, top) = (self.left / scale, self.top / scale);
        let past = |start: u32, length: u32| (u64::from(start) + u64::from(length)).div_ceil(u64::from(scale)) as u32;
        Self { left, top, width: past(self.left, self.width) - left, height: past(self.top, self.height) - top }
    }

    /// The largest square in the middle.
    pub fn centre(width: u32, height: u32) -> Self {
        let side = width.min(height);
        Self { left: (width - side) / 2, top: (height - side) / 2, width: side, height: side }
    }

    /// Draws as torchvision's `RandomResizedCrop` does: area and logarithm of the ratio are uniform.
    pub fn draw(config: &AugmentConfig, width: u32, height: u32, draws: &mut Draws) -> Self {
        /// As many as torchvision makes before it takes the middle.
        const TRIES: usize = 10;
        let [least, most] = config.crop_ratio;
        let area = f64::from(width) * f64::from(height);
        for _ in 0..TRIES {
            let target = area * draws.between(config.crop_scale[0], config.crop_scale[1]);
            let ratio = draws.between(least.ln(), most.ln()).exp();
            let wanted = ((target * ratio).sqrt().round_ties_even(), (target / ratio).sqrt().round_ties_even());
            let (crop_width, crop_height) = (wanted.0 as u32, wanted.1 as u32);
            if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
                let top = draws.below(u64::from(height - crop_height) + 1) as u32;
                let left = draws.below(u64::from(width - crop_width) + 1) as u32;
                return Self { left, top, width: crop_width, height: crop_height };
            }
        }
        Self::middle(width, height, least, most)
    }

    /// The largest rectangle in the middle whose ratio is allowed.
    fn middle(width: u32, height: u32, least: f64, most: f64) -> Self {
        let ratio = f64::from(width) / f64::from(height);
        let rounded = |side: f64, limit: u32| (side.round_ties_even() as u32).clamp(1, limit);
        let (crop_width, crop_height) = if ratio < least {
            (width, rounded(f64::from(width) / least, height))
        } else if ratio > most {
            (rounded(f64::from(height) * most, width), height)
        } else {
            (width, height)
        };
        Self { left: (width - crop_width) / 2, top: (height - crop_height) / 2, width: crop_width, height: crop_height }
    }
}
