//! Draws what an encoder attends to: a row for each of some images, a map for each head of the last layer.

use anyhow::Result;
use image::{Rgb, RgbImage, imageops};

use super::eval::{Frozen, Split};
use super::look::{Look, Views};
use super::show::png;
use crate::eval::maps;

/// Pixels a side of a tile, about, and between tiles.
const LEAST_SIDE: u32 = 96;
const GAP: u32 = 6;
const BACKGROUND: Rgb<u8> = Rgb([250, 250, 250]);
/// Heads drawn at most; more would not be told apart.
const MOST_HEADS: usize = 8;
/// How much of a map's colour covers the image beneath.
const COVER: f32 = 0.7;
/// Viridis (Smith and van der Walt, 2015) at nine equal steps; between them colours are blended.
const VIRIDIS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// A picture, and what is seen in it.
pub struct Drawn {
    pub png: Vec<u8>,
    pub caption: String,
}

/// Held-out images, so many, spread over all: each beside its maps. Of an encoder without attention, beside how like
/// each place is to the middle one. Images that cannot be used are passed over.
///
/// # Errors
/// When none of them can be used, or their attention would not fit in memory.
pub fn draw(frozen: &Frozen, images: usize) -> Result<Drawn> {
    frozen.check_look()?;
    let set = frozen.set(Split::Validation)?;
    let side = frozen.plan.config.augment.size;
    let scale = LEAST_SIDE.div_ceil(side);
    let cell = side * scale + GAP;
    let covers = frozen.plan.models.encoder.covered() as u32 * scale;
    let count = images.min(set.len());
    let mut views = Views::new(&frozen.plan);
    let mut rows = Vec::with_capacity(count);
    let mut unusable = None;
    for number in 0..count {
        match views.of_sample(set, (number * set.len() / count) as u32, side) {
            Ok(view) => {
                let maps = shown(&frozen.look(&view)?);
                rows.push((view, maps));
            }
            Err(error) => unusable = Some(error),
        }
    }
    if let (true, Some(error)) = (rows.is_empty(), unusable) {
        return Err(error.context(format!("none of {count} held-out images can be used")));
    }
    let columns = 1 + rows.first().map_or(0, |(_, maps)| maps.len()) as u32;
    let mut picture = RgbImage::from_pixel(columns * cell + GAP, rows.len() as u32 * cell + GAP, BACKGROUND);
    for (row, (view, maps)) in (0..).zip(&rows) {
        let whole = imageops::resize(view, side * scale, side * scale, imageops::FilterType::Nearest);
        let tiles = std::iter::once(whole.clone()).chain(maps.iter().map(|map| covered(&whole, map, covers)));
        for (column, tile) in (0..).zip(tiles) {
            imageops::replace(&mut picture, &tile, i64::from(GAP + column * cell), i64::from(GAP + row * cell));
        }
    }
    Ok(Drawn { png: png(&picture)?, caption: caption(frozen) })
}

fn caption(frozen: &Frozen) -> String {
    let (layers, heads) = frozen.plan.models.encoder.attention();
    if layers == 0 {
        return "Held-out images, and how like the features of each place are to those of the middle one.".into();
    }
    let some = if heads > MOST_HEADS { format!("the first {MOST_HEADS} heads") } else { "each head".into() };
    format!(
        "Held-out images; how much {some} of the last layer attends to each patch, averaged over all patches that look; \
         last, through all {layers} layers (rollout). Yellow is the map's greatest, violet its least."
    )
}

/// The maps of an image that are drawn, a number for each patch.
fn shown(look: &Look) -> Vec<Vec<f32>> {
    let patches = look.patches;
    let Some(last) = look.attention.last() else {
        let side = patches.isqrt();
        let middle = (side / 2) * side + side / 2;
        return vec![maps::similarity(&look.features, look.width())[middle * patches..][..patches].to_vec()];
    };
    let heads = last.chunks(patches * patches).take(MOST_HEADS);
    let mut shown: Vec<Vec<f32>> = heads.map(|head| mean_of_rows(head, patches)).collect();
    let through = maps::rollout(look.attention.iter().map(Vec::as_slice), patches).pop();
    shown.extend(through.map(|map| mean_of_rows(&map, patches)));
    shown
}

fn mean_of_rows(map: &[f32], patches: usize) -> Vec<f32> {
    let mut mean = vec![0.0; patches];
    for row in map.chunks(patches.max(1)) {
        mean.iter_mut().zip(row).for_each(|(sum, weight)| *sum += weight / patches as f32);
    }
    mean
}

/// An image under the colours of a map, from the map's least to its greatest. The map `covers` so many pixels a side, from
/// the upper left corner on; what is beyond them stays as it is.
pub fn covered(whole: &RgbImage, map: &[f32], covers: u32) -> RgbImage {
    let side = map.len().isqrt().max(1) as u32;
    let least = map.iter().copied().fold(f32::INFINITY, f32::min);
    let span = map.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
    RgbImage::from_fn(whole.width(), whole.height(), |x, y| {
        if x >= covers || y >= covers {
            return *whole.get_pixel(x, y);
        }
        let (column, row) = (x * side / covers, y * side / covers);
        let value = map.get((row * side + column) as usize).copied().unwrap_or(least);
        let colour = viridis(if span > 0.0 { (value - least) / span } else { 0.0 });
        let Rgb(beneath) = *whole.get_pixel(x, y);
        let grey = beneath.iter().map(|&channel| f32::from(channel)).sum::<f32>() / 3.0;
        Rgb(colour.map(|channel| (COVER * channel + (1.0 - COVER) * grey) as u8))
    })
}

/// The colour of a share.
fn viridis(share: f32) -> [f32; 3] {
    let place = share.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f32;
    let below = (place as usize).min(VIRIDIS.len() - 2);
    let along = place - below as f32;
    let [from, to] = [VIRIDIS[below], VIRIDIS[below + 1]];
    std::array::from_fn(|channel| f32::from(from[channel]) * (1.0 - along) + f32::from(to[channel]) * along)
}
