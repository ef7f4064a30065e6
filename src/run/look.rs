//! One image as a run's encoder sees it: its pixels, its attention, its features.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, bail};
use burn::tensor::Tensor;
use image::RgbImage;

use super::eval::Frozen;
use crate::config::Plan;
use crate::model::{EncoderConfig, Seen, numbers};
use crate::pipeline::augment::Crop;
use crate::pipeline::decode::{Decoder, header};
use crate::pipeline::jpeg::DecodeConfig;
use crate::pipeline::resample::Resampler;
use crate::shard::ShardSet;
use crate::train::upload::normalised;

/// The maps of one image are held in memory as a whole, up to this much: a giant ViT's of 784 patches.
const MOST_BYTES: u64 = 2 << 30;

/// Makes views of whole images, as they are scored: the middle, unflipped.
pub struct Views {
    config: DecodeConfig,
    decoder: Decoder,
    resampler: Resampler,
    bytes: Vec<u8>,
}

impl Views {
    pub fn new(plan: &Plan) -> Self {
        let config: DecodeConfig = plan.config.decode;
        Self { config, decoder: Decoder::new(config), resampler: Resampler::default(), bytes: Vec::new() }
    }

    /// # Errors
    /// When the shard cannot be read, or its image cannot be used.
    pub fn of_sample(&mut self, set: &ShardSet, sample: u32, side: u32) -> Result<RgbImage> {
        let mut bytes = std::mem::take(&mut self.bytes);
        set.read(sample, &mut bytes)?;
        let key = || format!("{}: sample `{}`", set.sample(sample).shard.display(), set.sample(sample).key);
        let view = self.of_bytes(&mut bytes, side).with_context(key);
        self.bytes = bytes;
        view
    }

    /// `bytes` are an image file's; what is in them afterwards is undefined.
    ///
    /// # Errors
    /// When they are no image that can be used; a decoder that panics has met one.
    pub fn of_bytes(&mut self, bytes: &mut Vec<u8>, side: u32) -> Result<RgbImage> {
        catch_unwind(AssertUnwindSafe(|| self.decoded(bytes, side))).unwrap_or_else(|_| {
            (self.decoder, self.resampler) = (Decoder::new(self.config), Resampler::default());
            bail!("its decoder panicked")
        })
    }

    fn decoded(&mut self, bytes: &mut Vec<u8>, side: u32) -> Result<RgbImage> {
        let header = header(bytes)?;
        let crop = Crop::centre(header.width, header.height);
        let region = self.decoder.decode(bytes, &header, crop, side)?;
        let mut view = RgbImage::new(side, side);
        self.resampler.resample(&region, [side; 2], false, &mut view)?;
        Ok(view)
    }
}

/// What the encoder makes of one image.
pub struct Look {
    /// `[heads, patches, patches]` for each layer: blocks of a ViT, iterations of an Energy Transformer; rows are
    /// queries.
    pub attention: Vec<Vec<f32>>,
    /// `[patches, width]`
    pub features: Vec<f32>,
    /// The image's feature vector, pooled as it is scored.
    pub pooled: Vec<f32>,
    /// Energy per token before each iteration and after the last one; empty of an encoder that has none.
    pub energies: Vec<f64>,
    pub patches: usize,
}

impl Look {
    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let attention: usize = self.attention.iter().map(Vec::len).sum();
        (attention + self.features.len() + self.pooled.len()) * size_of::<f32>()
    }

    /// Features of a patch.
    pub fn width(&self) -> usize {
        self.features.len() / self.patches.max(1)
    }
}

/// # Errors
/// When the maps of one image would not fit in memory: the attention of all layers, or how alike its places are.
pub fn check(encoder: &EncoderConfig) -> Result<()> {
    let (layers, heads) = encoder.attention();
    let patches = (encoder.grid() as u64).saturating_pow(2);
    let maps = (layers as u64).saturating_mul(heads as u64).max(1);
    let numbers = patches.saturating_pow(2).saturating_mul(maps);
    if numbers.saturating_mul(size_of::<f32>() as u64) > MOST_BYTES {
        bail!(
            "the maps of one image are {numbers} numbers ({layers} layers that attend, {heads} heads, {patches} \
             patches), more than 2 GiB: take a smaller image, --set augment.size=N, if the encoder allows it"
        );
    }
    Ok(())
}

impl Frozen {
    /// # Errors
    /// When the maps of one image would not fit in memory.
    pub fn check_look(&self) -> Result<()> {
        check(&self.plan.models.encoder)
    }

    /// What the encoder makes of a view of its size.
    ///
    /// # Errors
    /// When the view is of another size, or what the encoder gives is no number.
    pub fn look(&self, view: &RgbImage) -> Result<Look> {
        let side = self.plan.config.augment.size;
        if view.dimensions() != (side, side) {
            bail!("a view of {}x{} pixels, where the encoder takes {side}x{side}", view.width(), view.height());
        }
        let images = self.images(&[view]);
        let last_four = self.last_four(&images);
        let Seen { features, pooled, attention, energies } = self.encoder().look(images);
        let [_, patches, _] = features.dims();
        let energies = energies.map(numbers).transpose()?.unwrap_or_default().into_iter().map(f64::from).collect();
        let pooled = numbers(last_four.unwrap_or(pooled))?;
        if let Some(value) = pooled.iter().find(|value| !value.is_finite()) {
            bail!("the encoder gives {value} for this image, which is no number: its weights are spoilt");
        }
        let attention = attention.into_iter().map(numbers).collect::<Result<_, _>>()?;
        Ok(Look { attention, features: numbers(features)?, pooled, energies, patches })
    }

    /// Views of the encoder's size, where the encoder is: `[views, 3, side, side]`, normalised.
    fn images(&self, views: &[&RgbImage]) -> Tensor<4> {
        let side = self.plan.config.augment.size as usize;
        let bytes: Vec<u8> = views.iter().flat_map(|view| view.as_raw()).copied().collect();
        normalised(bytes, side, self.plan.config.pixels, self.device())
    }
}
