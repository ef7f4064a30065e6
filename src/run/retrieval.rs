//! Draws what an encoder takes for alike: held-out images, and beside each its nearest training images.

use std::path::Path;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage, imageops};

use super::eval::{Frozen, Split, Splits};
use super::look::Views;

/// Pixels a side of an image, of the frame around it, and between images.
const SIDE: u32 = 64;
const FRAME: u32 = 3;
const GAP: u32 = 4;
const BACKGROUND: Rgb<u8> = Rgb([250, 250, 250]);
/// Told apart by colour-blind eyes too (Okabe and Ito, 2008).
const SAME: Rgb<u8> = Rgb([0, 158, 115]);
const OTHER: Rgb<u8> = Rgb([213, 94, 0]);

/// Writes the picture as PNG.
///
/// # Errors
/// When an image cannot be read, or the file cannot be written.
pub fn draw(frozen: &Frozen, splits: &Splits, counts: [usize; 2], path: &Path) -> Result<()> {
    let saved = picture(frozen, splits, counts)?.save_with_format(path, image::ImageFormat::Png);
    saved.with_context(|| format!("{}: cannot be written", path.display()))
}

/// A row for each of so many held-out images, spread over all, with so many neighbours behind it, the
/// nearest first; framed by whether their label is the same.
///
/// # Errors
/// When an image cannot be read.
pub fn picture(frozen: &Frozen, splits: &Splits, [images, neighbours]: [usize; 2]) -> Result<RgbImage> {
    let rows = frozen.neighbours(splits, images, neighbours)?;
    let cell = SIDE + 2 * FRAME + GAP;
    let columns = 1 + rows.iter().map(|(_, near)| near.len()).max().unwrap_or(0) as u32;
    // The image itself stands a little apart.
    let mut picture = RgbImage::from_pixel(columns * cell + 3 * GAP, rows.len() as u32 * cell + GAP, BACKGROUND);
    let mut artist = Artist { frozen, views: Views::new(&frozen.plan) };
    for (row, (asked, near)) in (0..).zip(&rows) {
        let top = GAP + row * cell;
        let (own, label) = (splits.held_out.samples[*asked], splits.held_out.labels[*asked]);
        artist.place(&mut picture, Split::Validation, own, [GAP, top], BACKGROUND)?;
        for (column, neighbour) in (1..).zip(near) {
            let colour = if splits.train.labels[neighbour.number] == label { SAME } else { OTHER };
            let sample = splits.train.samples[neighbour.number];
            artist.place(&mut picture, Split::Train, sample, [3 * GAP + column * cell, top], colour)?;
        }
    }
    Ok(picture)
}

struct Artist<'f> {
    frozen: &'f Frozen,
    views: Views,
}

impl Artist<'_> {
    fn place(
        &mut self,
        picture: &mut RgbImage,
        split: Split,
        sample: u32,
        [left, top]: [u32; 2],
        frame: Rgb<u8>,
    ) -> Result<()> {
        let tile = self.views.of_sample(self.frozen.set(split)?, sample, SIDE)?;
        let framed = RgbImage::from_pixel(SIDE + 2 * FRAME, SIDE + 2 * FRAME, frame);
        imageops::replace(picture, &framed, i64::from(left), i64::from(top));
        imageops::replace(picture, &tile, i64::from(left + FRAME), i64::from(top + FRAME));
        Ok(())
    }
}
