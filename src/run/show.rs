//! Draws a batch: each sample's image, what the encoder sees of it, and the target blocks; or its two views.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage, imageops};
use tokio::runtime::Handle;

use super::exchange;
use crate::config::Plan;
use crate::model::{FirstWeights, WeightInit, numbers, weights};
use crate::pipeline::{Batch, Counts, Indices, Masks};
use crate::telemetry::Telemetry;
use crate::train::upload::normalised;

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

/// Writes the picture of a batch as PNG: see [`picture`].
///
/// # Errors
/// When the file cannot be written.
pub fn draw(batch: &Batch, plan: &Plan, energies: &[Vec<f64>], path: &Path) -> Result<()> {
    let saved = picture(batch, plan, energies).save_with_format(path, image::ImageFormat::Png);
    saved.with_context(|| format!("{}: cannot be written", path.display()))
}

/// A run's first batch, drawn, as PNG.
///
/// # Errors
/// When the data fail.
pub fn first_batch(plan: &Plan, runtime: &Handle) -> Result<Vec<u8>> {
    let apart = Telemetry::new("show");
    let batch = super::stream(plan, 0..1, Counts::default(), runtime, &apart)?.next();
    png(&picture(&batch.context("the stream holds no batch")??, plan, &[]))
}

/// An image as the bytes of a PNG file.
///
/// # Errors
/// When it is too large for one.
pub fn png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// A row per sample; image, context, then each target block with its frame; or the two views. Where `energies` are given,
/// a curve for each sample, its energy along the iterations, comes last.
fn picture(batch: &Batch, plan: &Plan, energies: &[Vec<f64>]) -> RgbImage {
    let side = plan.config.augment.size;
    let patch = plan.models.encoder.image() as u32 / plan.models.encoder.grid() as u32;
    let rows = batch.samples.len().min(MOST_SAMPLES) as u32;
    let columns = 1
        + u32::from(batch.saccades.is_some())
        + batch.masks.as_ref().map_or(0, |masks| 1 + masks.targets.len() as u32)
        + u32::from(!energies.is_empty());
    let scale = LEAST_SIDE.div_ceil(side);
    let cell = side * scale + GAP;
    let mut picture = RgbImage::from_pixel(columns * cell + GAP, rows * cell + GAP, BACKGROUND);
    for row in 0..rows {
        let curve = energies.get(row as usize).map(|energies| curve(energies, side * scale));
        let tiles = tiles(batch, row as usize, side, patch, scale).into_iter().chain(curve);
        for (column, tile) in tiles.enumerate() {
            let (x, y) = (GAP + column as u32 * cell, GAP + row * cell);
            imageops::replace(&mut picture, &tile, i64::from(x), i64::from(y));
        }
    }
    picture
}

/// The energy per token of each drawn sample before each iteration and after the last one, by a run's target encoder.
///
/// # Errors
/// When the run's encoder is another than the Plan's, or has no energy.
pub fn energies(batch: &Batch, plan: &Plan, run: &Path) -> Result<Vec<Vec<f64>>> {
    let place = plan.config.device.open()?;
    let opened = exchange::open(run)?;
    opened.check_encoder(&plan.models.encoder)?;
    let mut encoder = plan.models.encoder.init(&mut WeightInit::new(0, FirstWeights::Published), &place.device);
    weights::apply(&mut encoder, opened.target()?)?;
    let side = plan.config.augment.size as usize;
    let samples = batch.samples.len().min(MOST_SAMPLES);
    let views = if batch.saccades.is_some() { 2 } else { 1 };
    let bytes = &batch.pixels[..samples * views * side * side * 3];
    let images = normalised(bytes.to_vec(), side, plan.config.pixels, &place.device);
    let energies = encoder.energies(images).with_context(|| {
        format!("--energy {}: its encoder has no energy; take a run with encoder.kind = \"energy\"", run.display())
    })?;
    let [_, places] = energies.dims();
    let numbers: Vec<f64> = numbers(energies)?.into_iter().map(f64::from).collect();
    Ok(numbers.chunks(places).step_by(views).map(<[f64]>::to_vec).collect())
}

/// Numbers as a line over a square, from the least to the greatest of them.
fn curve(numbers: &[f64], side: u32) -> RgbImage {
    const MARGIN: f64 = 6.0;
    let mut square = RgbImage::from_pixel(side, side, Rgb([255, 255, 255]));
    let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let span = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max) - least;
    let room = f64::from(side) - 2.0 * MARGIN;
    let steps = numbers.len().saturating_sub(1).max(1) as f64;
    let height = |number: f64| MARGIN + room * (1.0 - if span > 0.0 { (number - least) / span } else { 0.5 });
    for (step, pair) in numbers.windows(2).enumerate() {
        // A point for every pixel that the line passes, in either direction.
        for part in 0..=2 * side {
            let along = f64::from(part) / f64::from(2 * side);
            let x = MARGIN + room * (step as f64 + along) / steps;
            let y = height(pair[0]) * (1.0 - along) + height(pair[1]) * along;
            dot(&mut square, x, y, 0);
        }
    }
    for (step, &number) in numbers.iter().enumerate() {
        dot(&mut square, MARGIN + room * step as f64 / steps, height(number), 2);
    }
    square
}

/// A filled square around a point.
fn dot(square: &mut RgbImage, x: f64, y: f64, reach: i64) {
    let (x, y) = (x.round() as i64, y.round() as i64);
    for (x, y) in (x - reach..=x + reach).flat_map(|x| (y - reach..=y + reach).map(move |y| (x, y))) {
        if (0..i64::from(square.width())).contains(&x) && (0..i64::from(square.height())).contains(&y) {
            square.put_pixel(x as u32, y as u32, COLOURS[4]);
        }
    }
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
