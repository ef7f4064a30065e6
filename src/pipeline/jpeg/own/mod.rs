//! A baseline JPEG and the part of it that is wanted → RGB: a decoder of our own.
//!
//! Two thirds of the time of any decoder goes into the entropy code; here that is done without a care for stuffing or
//! markers, several bits at a look, and only blocks of the part are transformed. What is unusual (arithmetic coding, a
//! scan for each component, four components) is left to others.

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
use self::picture::{Colour, Picture};
use self::plane::Plane;
use self::progressive::Progressive;
use self::scan::Wanted;

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
    /// Decodes a part of the picture at 1/`scale` into `pixels`, which are replaced: `[height, width, 3]`.
    ///
    /// # Errors
    /// [`Fault::Unusual`] for what another decoder may know; the rest is damage.
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
        let wanted = self.lay_out(scale, part, smooth)?;
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

    /// Sizes the planes and says which MCUs they need.
    fn lay_out(&mut self, scale: usize, part: Part, smooth: bool) -> Result<Wanted, Fault> {
        let picture = &self.picture;
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
        let first = &self.planes[0];
        if (first.across, first.down) != (1, 1) || picture.colour() == Colour::Rgb && smooth && scale > 1 {
            return Err(Fault::Unusual);
        }
        Ok(wanted)
    }
}
