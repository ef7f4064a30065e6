//! A JPEG, baseline or progressive, and the part of it that is wanted → RGB: a decoder of our own.
//!
//! Two thirds of the time of any decoder goes into the entropy code; here that is done without a care for stuffing or
//! markers, several bits at a look, and only blocks of the part are transformed. What is unusual (arithmetic coding, a
//! sequential picture with a scan for each component, four components) is left to others.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod bits;
mod colour;
mod fault;
mod huffman;
mod picture;
mod plane;
pub mod processor;
mod progressive;
mod scan;
mod transform;

pub use self::colour::Part;
pub use self::fault::Fault;

use self::bits::Data;
use self::colour::{Rows, to_rgb};
use self::picture::Picture;
use self::plane::Plane;
use self::progressive::Progressive;
use self::scan::Wanted;

/// Memory is kept from picture to picture up to this many samples of a component: 16 million pixels.
const KEPT_SAMPLES: usize = 16 << 20;

/// Buffers that are used again for every picture.
#[derive(Debug, Default)]
pub struct Own {
    picture: Picture,
    data: Data,
    progressive: Progressive,
    planes: [Plane; 3],
    rows: Rows,
}

impl Own {
    /// Decodes a part of the picture at 1/`scale` (1, 2, 4 or 8) into `pixels`, which are replaced: `[height, width, 3]`.
    ///
    /// # Errors
    /// [`Fault::Unusual`] for what another decoder may know, and for a part that is not inside the picture; the rest is
    /// damage.
    pub fn decode(
        &mut self,
        bytes: &[u8],
        scale: usize,
        part: Part,
        smooth: bool,
        pixels: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        self.picture.begin(bytes)?;
        let smooth = smooth && scale < 8;
        let wanted = self.lay_out(scale, part, smooth, bytes.len())?;
        let planes = &mut self.planes[..self.picture.components().len()];
        if self.picture.is_progressive {
            self.progressive.decode(&mut self.picture, bytes, &mut self.data, &wanted, planes)?;
        } else {
            self.data.fill(bytes.get(self.picture.at..).unwrap_or_default(), self.picture.restart != 0);
            if !self.data.in_sequence {
                return Err(Fault::Restart);
            }
            scan::decode(&self.picture, &self.data, &wanted, planes)?;
        }
        pixels.resize(part.width * part.height * 3, 0);
        to_rgb(self.picture.colour(), planes, smooth, part, &mut self.rows, pixels);
        Ok(())
    }

    /// Frees what a large picture took.
    pub fn give_back(&mut self) {
        for plane in &mut self.planes {
            if plane.samples.capacity() > KEPT_SAMPLES {
                plane.samples = Vec::new();
            }
        }
        self.data.give_back();
        self.progressive.give_back();
    }

    /// Sizes the planes and says which MCUs they need, of a file of so many bytes.
    fn lay_out(&mut self, scale: usize, part: Part, smooth: bool, bytes: usize) -> Result<Wanted, Fault> {
        let picture = &self.picture;
        let inside = |start: usize, length: usize, side: usize| length > 0 && start + length <= side.div_ceil(scale);
        let is_inside = matches!(scale, 1 | 2 | 4 | 8)
            && inside(part.left, part.width, picture.width)
            && inside(part.top, part.height, picture.height);
        if !is_inside
            || picture.components()[0].across != picture.most().0
            || picture.components()[0].down != picture.most().1
        {
            return Err(Fault::Unusual);
        }
        let (across, down) = picture.most();
        let least = 8 / scale;
        // Pixels of an MCU at this scale.
        let (wide, high) = (across * least, down * least);
        // Smoothing looks at one more sample of chroma on each side.
        let (more_across, more_down) = if smooth { (across, down) } else { (0, 0) };
        let all = Wanted {
            columns: 0..0,
            rows: 0..0,
            across: picture.width.div_ceil(across * 8),
            down: picture.height.div_ceil(down * 8),
        };
        let wanted = Wanted {
            columns: part.left.saturating_sub(more_across) / wide
                ..(part.left + part.width + more_across).div_ceil(wide).min(all.across),
            rows: part.top.saturating_sub(more_down) / high
                ..(part.top + part.height + more_down).div_ceil(high).min(all.down),
            ..all
        };
        // Before memory is taken: each MCU has a bit at least.
        if wanted.down * wanted.across > bytes.saturating_mul(8) {
            return Err(Fault::Short);
        }
        for (plane, component) in self.planes.iter_mut().zip(picture.components()) {
            let mut side = least;
            // libjpeg's rule: a component of fewer samples is scaled down less, where that spares repeating them.
            while side < 8
                && (across * least).is_multiple_of(component.across * side * 2)
                && (down * least).is_multiple_of(component.down * side * 2)
            {
                side *= 2;
            }
            let (samples_across, samples_down) = (component.across * side, component.down * side);
            plane.side = side;
            (plane.across, plane.down) = (wide / samples_across, high / samples_down);
            plane.width = (picture.width * samples_across).div_ceil(across * 8);
            plane.height = (picture.height * samples_down).div_ceil(down * 8);
            (plane.left, plane.top) = (wanted.columns.start * samples_across, wanted.rows.start * samples_down);
            plane.stride = wanted.columns.len() * samples_across;
            plane.samples.resize(plane.stride * wanted.rows.len() * samples_down, 0);
        }
        Ok(wanted)
    }
}
