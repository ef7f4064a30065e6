//! A field → the two views of a sample: its middle as it is, and one that is rotated and shifted.
//!
//! Both views come straight from the field, each pixel of the moved one in a single resampling. What the predictor is
//! told is the way from the first view to the second, whichever of them is the moved one.

use serde::{Deserialize, Serialize};

use super::warp::{ROUNDING, share_outside, warp};
use crate::draws::Draws;

/// How a pixel is taken from between those of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    Nearest,
    Bilinear,
}

/// Which of the two views is the moved one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moved {
    First,
    Second,
    /// Drawn for each sample, both alike.
    Either,
}

/// How the two views of a sample are cut from its field.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SaccadeConfig {
    /// Pixels a side of the square that both views are cut from.
    pub field: u32,
    /// Pixels a side of a view, which `augment.size` sets.
    #[serde(skip)]
    pub size: u32,
    /// Share of the margin around the middle view that a shift may use, along each axis.
    pub most_shift: f64,
    /// Greatest rotation, either way round.
    pub most_degrees: f64,
    pub filter: Filter,
    pub moved: Moved,
}

/// Why views cannot be cut with a configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SaccadeError {
    #[error("saccade.{key} = {value}: must lie in {least}..={most}")]
    Range { key: &'static str, value: f64, least: f64, most: f64 },
    #[error(
        "saccade.field = {field}, augment.size = {size}: the view has no place in the middle, write two even or two odd \
         numbers"
    )]
    NoMiddle { field: u32, size: u32 },
    #[error(
        "saccade: at the greatest shift and rotation {percent:.1} % of a view lie outside of its field of {field} \
         pixels, where all is black: {}, or take a larger field or smaller views",
        fits.map_or("lower most_degrees".into(), |fits| format!("lower most_shift to {fits}"))
    )]
    Outside {
        field: u32,
        percent: f64,
        /// The greatest shift that leaves nothing outside; none where rotation alone is too much.
        fits: Option<f64>,
    },
}

/// Larger fields are surely a slip, and positions in them would be too coarse as 32-bit floats.
const MOST_FIELD: u32 = 1 << 14;

impl SaccadeConfig {
    /// # Errors
    /// When a value is out of range, or a view can reach beyond its field.
    pub fn check(&self) -> Result<(), SaccadeError> {
        within("field", f64::from(self.field), 1.0, f64::from(MOST_FIELD))?;
        within("size", f64::from(self.size), 1.0, f64::from(self.field))?;
        within("most_shift", self.most_shift, 0.0, 1.0)?;
        within("most_degrees", self.most_degrees, 0.0, 180.0)?;
        let (field, size) = (self.field, self.size);
        if (field - size) % 2 == 1 {
            return Err(SaccadeError::NoMiddle { field, size });
        }
        let room = f64::from(field - 1) / 2.0 - self.turned_reach();
        if self.most_shift * self.margin() <= room + f64::from(ROUNDING) {
            return Ok(());
        }
        let percent = 100.0 * self.share_outside(&self.greatest());
        // Rounded down, so that what is written as told fits.
        let fits = (room >= 0.0).then(|| (100.0 * room / self.margin()).floor() / 100.0);
        Err(SaccadeError::Outside { field, percent, fits })
    }

    /// Draws where the two views of a sample lie: angle and shifts are uniform.
    pub fn draw(&self, draws: &mut Draws) -> Views {
        let mut up_to = |most: f32| draws.between(f64::from(-most), f64::from(most)) as f32;
        let angle = up_to(self.most_degrees.to_radians() as f32);
        let saccade = Saccade { angle, shift: self.greatest().shift.map(&mut up_to) };
        // Drawn in any case, so that the setting changes nothing else.
        let first = draws.below(2) == 0;
        let first = match self.moved {
            Moved::First => true,
            Moved::Second => false,
            Moved::Either => first,
        };
        if first {
            Views { first: saccade, second: Saccade::NONE }
        } else {
            Views { first: Saccade::NONE, second: saccade }
        }
    }

    /// Cuts a view from its field.
    ///
    /// # Shapes
    /// - `field`: `[field, field, 3]`
    /// - `view`: `[size, size, 3]`
    pub fn cut(&self, field: &[u8], saccade: &Saccade, view: &mut [u8]) {
        if *saccade == Saccade::NONE {
            middle(field, self.field, self.size, view);
        } else {
            warp(field, self.field, saccade, self.size, self.filter, view);
        }
    }

    /// Share of a view's pixels that do not lie between pixels of the field; 0 for all that [`Self::check`] admits.
    pub fn share_outside(&self, saccade: &Saccade) -> f64 {
        share_outside(self.field, saccade, self.size)
    }

    /// Pixels between the middle view and each edge of the field.
    fn margin(&self) -> f64 {
        f64::from(self.field.saturating_sub(self.size)) / 2.0
    }

    /// Pixels from the centre of a view that turns as far as it may to its farthest pixel, along an axis.
    fn turned_reach(&self) -> f64 {
        // A square reaches farthest when it stands on a corner.
        let angle = self.most_degrees.min(45.0).to_radians();
        f64::from(self.size.saturating_sub(1)) / 2.0 * (angle.cos() + angle.sin())
    }

    /// As far as a view may go, at the angle at which it reaches farthest.
    fn greatest(&self) -> Saccade {
        let shift = (self.most_shift * 2.0 * self.margin() / f64::from(self.field)) as f32;
        Saccade { angle: self.most_degrees.min(45.0).to_radians() as f32, shift: [shift; 2] }
    }
}

fn within(key: &'static str, value: f64, least: f64, most: f64) -> Result<(), SaccadeError> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(SaccadeError::Range { key, value, least, most }) }
}

/// Where a view lies: a point of it is rotated about the middle of the field, then shifted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saccade {
    /// Radians, from right to down.
    pub angle: f32,
    /// To the right and down, in halves of the field's side.
    pub shift: [f32; 2],
}

impl Saccade {
    pub const NONE: Self = Self { angle: 0.0, shift: [0.0; 2] };

    /// The affine map from places in the view to places in the field, both measured from the middle in halves of the
    /// field's side: what torch calls `theta` in `affine_grid`, without aligned corners.
    pub fn matrix(&self) -> [[f64; 3]; 2] {
        let (sin, cos) = f64::from(self.angle).sin_cos();
        let [right, down] = self.shift.map(f64::from);
        [[cos, -sin, right], [sin, cos, down]]
    }

    /// The way back: the other shift is turned, not only negated.
    pub fn inverse(&self) -> Self {
        let [[cos, _, right], [sin, _, down]] = self.matrix();
        let shift = [-(cos * right + sin * down), sin * right - cos * down];
        Self { angle: -self.angle, shift: shift.map(|part| part as f32) }
    }

    /// The map that does `first` before this one.
    pub fn after(&self, first: &Self) -> Self {
        let [right, down] = first.shift.map(f64::from);
        let shift = self.matrix().map(|[x, y, shift]| (x * right + y * down + shift) as f32);
        Self { angle: self.angle + first.angle, shift }
    }
}

/// Where both views of a sample lie in their field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Views {
    pub first: Saccade,
    pub second: Saccade,
}

impl Views {
    /// The saccade from the first view to the second: where the second lies when the first is in the middle.
    pub fn way(&self) -> Saccade {
        self.first.inverse().after(&self.second)
    }
}

/// Copies the middle of a field.
///
/// # Shapes
/// - `field`: `[side, side, 3]`
/// - `view`: `[size, size, 3]`
pub fn middle(field: &[u8], side: u32, size: u32, view: &mut [u8]) {
    let (side, size) = (side as usize, size as usize);
    let margin = side.saturating_sub(size) / 2;
    let rows = field.chunks_exact((side * 3).max(1)).skip(margin);
    for (from, to) in rows.zip(view.chunks_exact_mut((size * 3).max(1))) {
        if let Some(from) = from.get(margin * 3..(margin + size) * 3) {
            to.copy_from_slice(from);
        }
    }
}
