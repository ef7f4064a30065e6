//! Draws a batch: each sample's image, what the encoder sees of it, and the target blocks; or its two views.

use std::path::Path;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage, imageops};

use crate::pipeline::{Batch, Indices, Masks};

/// Samples drawn at most; more would not be looked at.
const MOST_SAMPLES: usize = 8;
/// Small images are enlarged to about this many pixels a side.
const LEAST_SIDE: u32 = 112;
const GAP: u32 = 6;
const BACKGROUND: Rgb<u8> = Rgb([250, 250, 250]);
/// What is not part of a block fades towards this colour, which no grey image has,
const FOG: Rgb<u8> = Rgb([168, 186, 214]);
/// and keeps this share of its own.
const FADED: f32 = 0.15;
/// One colour per target block, told apart by colour-blind eyes too (Okabe and Ito, 2008).
const COLOURS: [Rgb<u8>; 6] = [
    Rgb([230, 159, 0]),
    Rgb([86, 180, 233]),
    Rgb([0, 158, 115]),
    Rgb([204, 121, 167]),
    Rgb([213, 94, 0]),
    Rgb([0, 114, 178]),
];

/// Writes the picture of a batch as PNG: a row per sample; image, context, then each target block with its frame.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(batch: &Batch, side: u32, patch: u32, path: &Path) -> Result<()> {
    let rows = batch.samples.len().min(MOST_SAMPLES) as u32;
    let columns = 1
        + u32::from(batch.saccades.is_some())
        + batch.masks.as_ref().map_or(0, |masks| 1 + masks.targets.len() as u32);
    let scale = LEAST_SIDE.div_ceil(side);
    let cell = side * scale + GAP;
    let mut picture = RgbImage::from_pixel(columns * cell + GAP, rows * cell + GAP, BACKGROUND);
    for row in 0..rows {
        for (column, tile) in tiles(batch, row as usize, side, patch, scale).into_iter().enumerate() {
            let (x, y) = (GAP + column as u32 * cell, GAP + row * cell);
            imageops::replace(&mut picture, &tile, i64::from(x), i64::from(y));
        }
    }
    picture
        .save_with_format(path, image::ImageFormat::Png)
        .with_context(|| format!("{}: cannot be written", path.display()))
}

fn tiles(batch: &Batch, sample: usize, side: u32, patch: u32, scale: u32) -> Vec<RgbImage> {
    let bytes = (side * side * 3) as usize;
    let view = |number: usize| {
        let view = RgbImage::from_fn(side, side, |x, y| {
            let at = number * bytes + ((y * side + x) * 3) as usize;
            Rgb([batch.pixels[at], batch.pixels[at + 1], batch.pixels[at + 2]])
        });
        imageops::resize(&view, side * scale, side * scale, imageops::FilterType::Nearest)
    };
    if batch.saccades.is_some() {
        return vec![view(2 * sample), view(2 * sample + 1)];
    }
    let whole = view(sample);
    let grid = Grid { across: side / patch, patch: patch * scale };
    let mut tiles = vec![whole.clone()];
    if let Some(Masks { context, targets }) = &batch.masks {
        tiles.push(grid.only(&whole, &chosen(context, sample), None));
        let framed = |(block, indices): (usize, &Indices)| {
            grid.only(&whole, &chosen(indices, sample), Some(COLOURS[block % COLOURS.len()]))
        };
        tiles.extend(targets.iter().enumerate().map(framed));
    }
    tiles
}

fn chosen(indices: &Indices, sample: usize) -> Vec<u32> {
    let row = &indices.indices[sample * indices.width..][..indices.lengths[sample] as usize];
    row.to_vec()
}

/// The patches of an enlarged image.
struct Grid {
    across: u32,
    patch: u32,
}

impl Grid {
    /// The image with all but the chosen patches faded, and these framed where a colour is given.
    fn only(&self, whole: &RgbImage, chosen: &[u32], frame: Option<Rgb<u8>>) -> RgbImage {
        let inside = |x: i64, y: i64| {
            let range = 0..i64::from(self.across);
            range.contains(&x) && range.contains(&y) && chosen.contains(&(y as u32 * self.across + x as u32))
        };
        RgbImage::from_fn(whole.width(), whole.height(), |x, y| {
            let (column, row) = (i64::from(x / self.patch), i64::from(y / self.patch));
            let pixel = *whole.get_pixel(x, y);
            if !inside(column, row) {
                return faded(pixel);
            }
            let (left, top) = (x % self.patch < 2, y % self.patch < 2);
            let (right, bottom) = (x % self.patch + 2 >= self.patch, y % self.patch + 2 >= self.patch);
            let outer = (left && !inside(column - 1, row))
                || (right && !inside(column + 1, row))
                || (top && !inside(column, row - 1))
                || (bottom && !inside(column, row + 1));
            frame.filter(|_| outer).unwrap_or(pixel)
        })
    }
}

fn faded(pixel: Rgb<u8>) -> Rgb<u8> {
    let mix = |channel: usize| {
        let (from, to) = (f32::from(FOG[channel]), f32::from(pixel[channel]));
        (from + FADED * (to - from)) as u8
    };
    Rgb([mix(0), mix(1), mix(2)])
}
