//! `[objective]`, `[encoder]` and `[predictor]` as written → the models of a run. What cannot go together ends here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checks::{MOST_DEPTH, MOST_PIXELS, MOST_WIDTH, value};
use super::{ConfigError, RunConfig};
use crate::model::shift::MOST_ANGLE;
use crate::model::{
    ConvNextConfig, ConvNextSize, EncoderConfig, EnergyConfig, EnergyPredictorConfig, Memory, PatchPredictorConfig,
    PredictorConfig, ShiftPredictorConfig, ShiftReaderConfig, VitConfig, VitSize,
};
use crate::objective::masked::MaskedWeights;
use crate::objective::saccade::{ReadWeights, SaccadeWeights};
use crate::train::{HeadConfig, ModelConfig};

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ObjectiveTable {
    /// Features of masked blocks are predicted from the rest of the image; needs `[mask]`.
    Ijepa(MaskedWeights),
    /// The features of a moved view are predicted from the other's and the saccade between them; needs `[saccade]`.
    Saccade(SaccadeWeights),
    /// The saccade is read from the features of both views; needs `[saccade]`.
    SaccadeRead(ReadWeights),
}

/// Which encoder, and its size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EncoderTable {
    Vit(VitTable),
    Energy(EnergyTable),
    #[serde(rename = "convnext")]
    ConvNext(ConvNextTable),
}

/// An Energy Transformer: one block, applied again and again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnergyTable {
    /// Pixels a side of a patch.
    pub patch: usize,
    pub width: usize,
    pub heads: usize,
    pub head_width: usize,
    /// Patterns of the Hopfield memory.
    pub memories: usize,
    pub memory: Memory,
    /// How often tokens go down the energy,
    pub iterations: usize,
    /// and how far each time.
    pub step_size: f64,
}

/// A published size, or stages of one's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvNextTable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ConvNextSize>,
    /// Pixels a side of what becomes one place of the first feature map; 4 in the published sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<usize>,
    /// Blocks of each stage, up to four stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depths: Option<Vec<usize>>,
    /// Channels of each stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub widths: Option<Vec<usize>>,
    /// What each block's output is scaled by at first; 1e-6 in the published sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// Weights to begin with: a folder that `saccade import` wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
}

/// A named size, or width, depth and heads of one's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitTable {
    /// Pixels a side of a patch.
    pub patch: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<VitSize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Weights to begin with: a folder that `saccade import` wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
}

/// Which predictor, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PredictorTable {
    Vit(NarrowVitTable),
    Energy(EnergyPredictorConfig),
    Mlp {
        /// Width of each hidden layer.
        hidden: usize,
        /// Layers with weights, the last one included.
        layers: usize,
    },
    /// A transformer over the features, cut into as many tokens.
    Transformer {
        tokens: usize,
        width: usize,
        depth: usize,
        heads: usize,
    },
}

impl PredictorTable {
    fn kind(&self) -> &'static str {
        match self {
            Self::Vit(_) => "vit",
            Self::Energy(_) => "energy",
            Self::Mlp { .. } => "mlp",
            Self::Transformer { .. } => "transformer",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NarrowVitTable {
    pub width: usize,
    pub depth: usize,
    /// The encoder's when left out, as the authors have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
}

impl EncoderTable {
    /// The folder of the weights to begin with.
    pub fn weights(&self) -> Option<&Path> {
        match self {
            Self::Vit(table) => table.weights.as_deref(),
            Self::ConvNext(table) => table.weights.as_deref(),
            Self::Energy(_) => None,
        }
    }
}

/// The models of a configuration.
///
/// # Errors
/// When they are impossible, or cannot go together.
pub fn models(config: &RunConfig) -> Result<ModelConfig, ConfigError> {
    check_together(config)?;
    let encoder = encoder(config)?;
    let predictor = match (config.objective, config.predictor) {
        (ObjectiveTable::Ijepa(_), PredictorTable::Vit(table)) => {
            let heads = table.heads.or(match encoder {
                EncoderConfig::Vit(vit) => Some(vit.heads),
                EncoderConfig::Energy(energy) => Some(energy.heads),
                EncoderConfig::ConvNext(_) => None,
            });
            let heads = heads.ok_or_else(|| value("predictor.heads", "?", "must be given"))?;
            HeadConfig::Patches(PatchPredictorConfig::Vit(PredictorConfig::new(table.width, table.depth, heads)))
        }
        (ObjectiveTable::Ijepa(_), PredictorTable::Energy(energy)) => {
            HeadConfig::Patches(PatchPredictorConfig::Energy(energy))
        }
        (ObjectiveTable::Saccade(_), PredictorTable::Mlp { hidden, layers }) => {
            HeadConfig::Told(ShiftPredictorConfig::Mlp { hidden, layers })
        }
        (ObjectiveTable::Saccade(_), PredictorTable::Transformer { tokens, width, depth, heads }) => {
            HeadConfig::Told(ShiftPredictorConfig::Transformer { tokens, width, depth, heads })
        }
        (ObjectiveTable::SaccadeRead(_), PredictorTable::Mlp { hidden, layers }) => {
            HeadConfig::Read(ShiftReaderConfig { hidden, layers })
        }
        (objective, predictor) => {
            let why = match objective {
                ObjectiveTable::Ijepa(_) => "objective \"ijepa\" predicts patches: take \"vit\" or \"energy\"",
                ObjectiveTable::Saccade(_) => "objective \"saccade\" predicts a view: take \"mlp\" or \"transformer\"",
                ObjectiveTable::SaccadeRead(_) => "objective \"saccade-read\" reads a saccade: take \"mlp\"",
            };
            return Err(value("predictor.kind", predictor.kind(), why));
        }
    };
    let models = ModelConfig { encoder, projector: config.projector, predictor };
    check_models(&models)?;
    Ok(models)
}

/// Refuses tables that the objective has no use for, and the lack of those that it needs.
fn check_together(config: &RunConfig) -> Result<(), ConfigError> {
    let masks = matches!(config.objective, ObjectiveTable::Ijepa(_));
    let name = match config.objective {
        ObjectiveTable::Ijepa(_) => "ijepa",
        ObjectiveTable::Saccade(_) => "saccade",
        ObjectiveTable::SaccadeRead(_) => "saccade-read",
    };
    let wrong = |why: &str| Err(value("objective.kind", name, why));
    match (masks, &config.mask, &config.saccade) {
        (true, None, _) => return wrong("needs a table [mask]"),
        (true, _, Some(_)) => return wrong("has no use for [saccade]; leave it out"),
        (false, _, None) => return wrong("needs a table [saccade]"),
        (false, Some(_), _) => return wrong("has no use for [mask]; leave it out"),
        _ => {}
    }
    if masks && config.projector.is_some() {
        return wrong("has no use for [projector]; leave it out");
    }
    if masks && matches!(config.encoder, EncoderTable::ConvNext(_)) {
        return Err(value(
            "encoder.kind",
            "convnext",
            "objective \"ijepa\" hides patches from the encoder, and convolutions reach across them: take \"vit\" or \
             \"energy\"",
        ));
    }
    let each = config.train.batch.div_ceil(config.train.accumulate.max(1).saturating_mul(config.device.ranks()));
    let needs_two = match config.objective {
        ObjectiveTable::Ijepa(weights) => weights.is_any(),
        ObjectiveTable::Saccade(_) | ObjectiveTable::SaccadeRead(_) => true,
    };
    if needs_two && each < 2 {
        return Err(value("train.batch", config.train.batch, "variances need two samples in each micro-batch"));
    }
    let checked = match &config.objective {
        ObjectiveTable::Ijepa(weights) => weights.check(),
        ObjectiveTable::Saccade(weights) => weights.check(),
        ObjectiveTable::SaccadeRead(weights) => weights.check(),
    };
    checked.map_err(|error| ConfigError::Shape(error.to_string()))?;
    match &config.saccade {
        Some(saccade) if saccade.most_degrees.to_radians() > MOST_ANGLE && name == "saccade" => Err(value(
            "saccade.most_degrees",
            saccade.most_degrees,
            "beyond 57.29 the predictor cannot tell angles apart",
        )),
        _ => Ok(()),
    }
}

fn encoder(config: &RunConfig) -> Result<EncoderConfig, ConfigError> {
    let image = config.augment.size as usize;
    match &config.encoder {
        EncoderTable::Vit(VitTable { patch, size, width, depth, heads, .. }) => {
            check_grid(image, *patch)?;
            match (*size, *width, *depth, *heads) {
                (Some(size), None, None, None) => Ok(EncoderConfig::Vit(VitConfig::sized(size, image, *patch))),
                (None, Some(width), Some(depth), Some(heads)) => {
                    Ok(EncoderConfig::Vit(VitConfig::free(image, *patch, width, depth, heads)))
                }
                _ => Err(value("encoder.size", "?", "give either size, or width, depth and heads together")),
            }
        }
        EncoderTable::Energy(table) => {
            let EnergyTable { patch, width, heads, head_width, memories, memory, iterations, step_size } = *table;
            Ok(EncoderConfig::Energy(EnergyConfig {
                image,
                patch,
                width,
                heads,
                head_width,
                memories,
                memory,
                iterations,
                step_size,
            }))
        }
        EncoderTable::ConvNext(table) => Ok(EncoderConfig::ConvNext(convnext(table, image)?)),
    }
}

fn convnext(table: &ConvNextTable, image: usize) -> Result<ConvNextConfig, ConfigError> {
    let four = |key, numbers: &[usize]| {
        let mut four = [0; 4];
        let places = four.get_mut(..numbers.len()).ok_or_else(|| value(key, numbers.len(), "at most four stages"))?;
        places.copy_from_slice(numbers);
        Ok::<_, ConfigError>(four)
    };
    let ConvNextTable { size, stem, depths, widths, layer_scale, .. } = table;
    match (size, stem, depths, widths, layer_scale) {
        (Some(size), None, None, None, None) => Ok(ConvNextConfig::sized(*size, image)),
        (None, Some(stem), Some(depths), Some(widths), Some(layer_scale)) => Ok(ConvNextConfig {
            image,
            stem: *stem,
            depths: four("encoder.depths", depths)?,
            widths: four("encoder.widths", widths)?,
            layer_scale: *layer_scale,
        }),
        _ => Err(value("encoder.size", "?", "give either size, or stem, depths, widths and layer_scale together")),
    }
}

/// Makes sure that models of these shapes can be built, wherever the shapes come from.
///
/// # Errors
/// When no model can have them.
pub fn check_models(models: &ModelConfig) -> Result<(), ConfigError> {
    check_encoder(&models.encoder)?;
    let shape = |error: crate::model::shift::ShapeError| ConfigError::Shape(error.to_string());
    models.projector.map_or(Ok(()), |projector| projector.check()).map_err(shape)?;
    let features = models.features();
    match &models.predictor {
        HeadConfig::Patches(predictor) => check_patch_predictor(predictor),
        HeadConfig::Told(predictor) => predictor.check(features).map_err(shape),
        HeadConfig::Read(reader) => reader.check().map_err(shape),
    }
}

/// # Errors
/// When no encoder can have this shape.
pub fn check_encoder(encoder: &EncoderConfig) -> Result<(), ConfigError> {
    match encoder {
        EncoderConfig::Vit(vit) => {
            check_grid(vit.image, vit.patch)?;
            check_blocks("encoder.width", vit.width, vit.heads, vit.depth)?;
            check_hidden("encoder's hidden width", vit.hidden)
        }
        EncoderConfig::Energy(EnergyConfig {
            image,
            patch,
            width,
            heads,
            head_width,
            memories,
            iterations,
            step_size,
            ..
        }) => {
            check_grid(*image, *patch)?;
            check_energy("encoder.width", *width, [*heads, *head_width, *memories, *iterations], *step_size)
        }
        EncoderConfig::ConvNext(convnext) => {
            let ConvNextConfig { image, stem, depths, widths, layer_scale } = convnext;
            check_side(*image)?;
            if *stem > MOST_PIXELS || depths.iter().chain(widths).any(|&number| number > MOST_WIDTH) {
                return Err(value("encoder.widths", format!("{widths:?}"), "stem, depths or widths are too large"));
            }
            if !layer_scale.is_finite() {
                return Err(value("encoder.layer_scale", layer_scale, "must be a number"));
            }
            convnext.check().map_err(|why| value("encoder.depths", format!("{depths:?}"), &why))
        }
    }
}

/// # Errors
/// When no predictor can have this shape.
pub fn check_patch_predictor(predictor: &PatchPredictorConfig) -> Result<(), ConfigError> {
    match predictor {
        PatchPredictorConfig::Vit(vit) => {
            check_blocks("predictor.width", vit.width, vit.heads, vit.depth)?;
            check_hidden("predictor's hidden width", vit.hidden)
        }
        PatchPredictorConfig::Energy(EnergyPredictorConfig {
            width,
            heads,
            head_width,
            memories,
            iterations,
            step_size,
            ..
        }) => check_energy("predictor.width", *width, [*heads, *head_width, *memories, *iterations], *step_size),
    }
}

/// `counts`: heads, their width, memories and iterations.
fn check_energy(key: &'static str, width: usize, counts: [usize; 4], step_size: f64) -> Result<(), ConfigError> {
    if width == 0 || !width.is_multiple_of(4) || width > MOST_WIDTH {
        return Err(value(key, width, &format!("must be a multiple of 4 (positions) up to {MOST_WIDTH}")));
    }
    let most = 4 * MOST_WIDTH;
    if counts.iter().any(|count| !(1..=most).contains(count)) {
        let why = format!("heads, head_width, memories and iterations must lie in 1..={most}, they are {counts:?}");
        return Err(value(key, width, &why));
    }
    if !(step_size > 0.0 && step_size.is_finite()) {
        return Err(value(key, width, &format!("needs a step_size above 0, not {step_size}")));
    }
    Ok(())
}

fn check_side(image: usize) -> Result<(), ConfigError> {
    let why = format!("must lie in 1..={MOST_PIXELS}");
    if (1..=MOST_PIXELS).contains(&image) { Ok(()) } else { Err(value("augment.size", image, &why)) }
}

fn check_grid(image: usize, patch: usize) -> Result<(), ConfigError> {
    check_side(image)?;
    if patch == 0 || !image.is_multiple_of(patch) {
        return Err(value("encoder.patch", patch, &format!("must divide augment.size = {image}")));
    }
    Ok(())
}

fn check_blocks(key: &'static str, width: usize, heads: usize, depth: usize) -> Result<(), ConfigError> {
    if width == 0 || !width.is_multiple_of(4) || width > MOST_WIDTH {
        return Err(value(key, width, &format!("must be a multiple of 4 (positions) up to {MOST_WIDTH}")));
    }
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(value(key, width, &format!("must be a multiple of the number of heads, {heads}")));
    }
    if depth == 0 || depth > MOST_DEPTH {
        return Err(value(key, width, &format!("needs a depth in 1..={MOST_DEPTH}, not {depth}")));
    }
    Ok(())
}

fn check_hidden(key: &'static str, hidden: usize) -> Result<(), ConfigError> {
    let most = 4 * MOST_WIDTH;
    let why = format!("must lie in 1..={most}");
    if (1..=most).contains(&hidden) { Ok(()) } else { Err(value(key, hidden, &why)) }
}
