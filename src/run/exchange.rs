//! Weights for and from other tools: Hugging Face's `IJepaModel` folder, the I-JEPA authors' checkpoint, torchvision's
//! ConvNeXt.
//!
//! A weights folder of ours holds `model.json` (the shapes) and `weights.safetensors` (`encoder.*`, and `target.*` and
//! `predictor.*` where known). Any run folder opens like one, by its newest checkpoint.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::store::{ModuleStore, PytorchStore, bridge};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::folder;
use crate::checkpoint::{self, read_arrays, write_arrays, write_whole};
use crate::config::{check_encoder, check_patch_predictor, models};
use crate::model::torchvision::{convnext_from_torchvision, convnext_shape, convnext_to_torchvision, is_convnext};
use crate::model::weights::{self, Array, Weights};
use crate::model::{EncoderConfig, FirstWeights, PatchPredictorConfig, PredictorConfig, VitConfig, WeightInit};
use crate::train::model::Head;
use crate::train::{HeadConfig, Trainer};

const SHAPES: &str = "model.json";
const ARRAYS: &str = "weights.safetensors";
const CONVNEXT: &str = "convnext.safetensors";

/// Weights and the shapes of what they belong to.
#[derive(Clone, Debug)]
pub struct Exchanged {
    pub shapes: Shapes,
    /// `encoder.*`, and `target.*` and `predictor.*` where known.
    pub weights: Weights,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shapes {
    pub encoder: EncoderConfig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictor: Option<PatchPredictorConfig>,
}

impl Shapes {
    fn check(&self) -> Result<()> {
        check_encoder(&self.encoder)?;
        Ok(self.predictor.as_ref().map_or(Ok(()), check_patch_predictor)?)
    }
}

impl Exchanged {
    /// The encoder's own weights, without a prefix.
    ///
    /// # Errors
    /// When there are none.
    pub fn encoder(&self) -> Result<Weights> {
        self.part("encoder.").context("the weights hold no encoder.*")
    }

    /// The target encoder's own weights, without a prefix.
    ///
    /// # Errors
    /// When there are none.
    pub fn target(&self) -> Result<Weights> {
        self.part("target.").context("the weights hold no target.*")
    }

    /// # Errors
    /// When the weights belong to an encoder of another shape.
    pub fn check_encoder(&self, wanted: &EncoderConfig) -> Result<()> {
        let found = &self.shapes.encoder;
        if !found.takes_the_weights_of(wanted) {
            bail!(
                "the weights belong to another encoder: {}, the pipeline file says {}",
                found.describe(),
                wanted.describe()
            );
        }
        Ok(())
    }

    fn part(&self, prefix: &str) -> Option<Weights> {
        let named = |(name, array): (&String, &Array)| Some((name.strip_prefix(prefix)?.to_string(), array.clone()));
        let part: Weights = self.weights.iter().filter_map(named).collect();
        (!part.is_empty()).then_some(part)
    }

    /// Puts the weights into a trainer in place of its own.
    ///
    /// # Errors
    /// When they belong to a model of another shape.
    pub fn put_into(&self, trainer: &mut Trainer) -> Result<()> {
        let encoder = self.encoder()?;
        let target = self.part("target.").unwrap_or_else(|| encoder.clone());
        // What predicts patches is of no use to an objective that compares views.
        let predictor = self.part("predictor.").filter(|_| matches!(trainer.model().predictor, Head::Patches(_)));
        Ok(trainer.begin_with(encoder, target, predictor)?)
    }
}

/// Opens a weights folder, or a run's newest checkpoint.
///
/// # Errors
/// When the folder is neither, or damaged.
pub fn open(path: &Path) -> Result<Exchanged> {
    if path.join(SHAPES).exists() {
        let shapes: Shapes = read_json(&path.join(SHAPES))?;
        shapes.check().with_context(|| path.join(SHAPES).display().to_string())?;
        return Ok(Exchanged { shapes, weights: read_arrays(&path.join(ARRAYS))? });
    }
    Ok(open_run(path)?.0)
}

/// Opens a run's newest checkpoint, and tells after how many steps it was written.
///
/// # Errors
/// When the folder is no run, or has no whole checkpoint.
pub fn open_run(path: &Path) -> Result<(Exchanged, u64)> {
    let config = folder::config_of(path)
        .with_context(|| format!("{}: neither a run folder nor one that `saccade import` wrote", path.display()))?;
    let models = models(&config)?;
    let predictor = match models.predictor {
        HeadConfig::Patches(predictor) => Some(predictor),
        HeadConfig::Told(_) | HeadConfig::Read(_) => None,
    };
    let (found, _) = checkpoint::newest(&folder::checkpoints(path))?;
    let Some(found) = found else { bail!("{}: the run has no whole checkpoint yet", path.display()) };
    let mut weights = found.weights;
    weights.retain(|name, _| ["encoder.", "target.", "predictor."].iter().any(|ours| name.starts_with(ours)));
    let exchanged = Exchanged { shapes: Shapes { encoder: models.encoder, predictor }, weights };
    Ok((exchanged, found.position.step))
}

/// Reads another tool's weights: a Hugging Face folder, a checkpoint file of the I-JEPA authors, or torchvision's weights
/// of a ConvNeXt, as `torch.save` (`.pth`) or safetensors writes them.
///
/// # Errors
/// When they cannot be read, or a tensor is missing, unknown or of a shape that does not fit.
pub fn import(source: &Path, heads: Option<usize>) -> Result<Exchanged> {
    if source.is_dir() {
        return from_hugging_face(source);
    }
    if source.extension().is_some_and(|extension| extension == "safetensors") {
        return from_torchvision(source, read_arrays(source)?);
    }
    match authors_part(source, Some("encoder")) {
        Ok(encoder) => from_authors(source, encoder, heads),
        // Not the authors', whose checkpoints have parts; torchvision's have none.
        Err(error) => match authors_part(source, None) {
            Ok(weights) if is_convnext(&weights) => from_torchvision(source, weights),
            Ok(_) => bail!(
                "{}: neither a checkpoint of the I-JEPA authors (encoder, target_encoder, predictor) nor torchvision's \
                 weights of a ConvNeXt (features.0.0.weight and so on)",
                source.display()
            ),
            Err(_) => Err(error),
        },
    }
}

/// # Errors
/// When the folder cannot be written, or holds weights already.
pub fn write(exchanged: &Exchanged, folder: &Path) -> Result<()> {
    refuse(folder, SHAPES)?;
    make(folder)?;
    write_arrays(&folder.join(ARRAYS), &exchanged.weights)?;
    Ok(write_whole(&folder.join(SHAPES), &serde_json::to_vec_pretty(&exchanged.shapes)?)?)
}

/// Writes a folder that `IJepaModel.from_pretrained` opens; or, of a ConvNeXt, the file `convnext.safetensors` with
/// torchvision's names, which `load_state_dict(load_file(…), strict=False)` takes.
///
/// # Errors
/// When the folder cannot be written, or holds a model already.
pub fn export(exchanged: &Exchanged, which: Which, folder: &Path) -> Result<()> {
    refuse(folder, "config.json")?;
    let ours = match which {
        Which::Target => exchanged.part("target.").map_or_else(|| exchanged.encoder(), Ok)?,
        Which::Encoder => exchanged.encoder()?,
    };
    let shape = match exchanged.shapes.encoder {
        EncoderConfig::Vit(shape) => shape,
        EncoderConfig::ConvNext(shape) => {
            refuse(folder, CONVNEXT)?;
            make(folder)?;
            return Ok(write_arrays(&folder.join(CONVNEXT), &convnext_to_torchvision(ours, &shape)?)?);
        }
        EncoderConfig::Energy(_) => bail!("no other tool opens an Energy Transformer: the run folder is its only form"),
    };
    let theirs = weights::encoder_to_hugging_face(ours, &shape)?;
    make(folder)?;
    write_arrays(&folder.join("model.safetensors"), &theirs)?;
    let config = json!({
        "architectures": ["IJepaModel"],
        "model_type": "ijepa",
        "dtype": "float32",
        "image_size": shape.image,
        "patch_size": shape.patch,
        "num_channels": 3,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": crate::model::attention::NORM_EPSILON,
        "qkv_bias": true,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    });
    Ok(write_whole(&folder.join("config.json"), &serde_json::to_vec_pretty(&config)?)?)
}

/// Which of a run's two encoders leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// The moving average, which the authors publish.
    Target,
    Encoder,
}

fn refuse(folder: &Path, mark: &str) -> Result<()> {
    if folder.join(mark).exists() {
        bail!("{}: holds a model already; choose another --out", folder.display());
    }
    Ok(())
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made; choose another --out", folder.display()))
}

fn from_hugging_face(source: &Path) -> Result<Exchanged> {
    let path = source.join("config.json");
    let config: Value = read_json(&path)?;
    let number = |key: &str| {
        let number = config[key].as_u64().filter(|&number| number > 0);
        number
            .map(|number| number as usize)
            .with_context(|| format!("{}: {key} is not a positive number", path.display()))
    };
    let vit = VitConfig {
        image: number("image_size")?,
        patch: number("patch_size")?,
        width: number("hidden_size")?,
        depth: number("num_hidden_layers")?,
        heads: number("num_attention_heads")?,
        hidden: number("intermediate_size")?,
    };
    let encoder = EncoderConfig::Vit(vit);
    check_encoder(&encoder).with_context(|| path.display().to_string())?;
    let same_as_ours = [
        ("model_type", json!("ijepa")),
        ("hidden_act", json!("gelu")),
        ("qkv_bias", json!(true)),
        ("num_channels", json!(3)),
        ("layer_norm_eps", json!(crate::model::attention::NORM_EPSILON)),
    ];
    for (key, ours) in same_as_ours {
        if config[key] != ours {
            bail!("{}: {key} is {}, only {ours} can be imported", path.display(), config[key]);
        }
    }
    let theirs = read_arrays(&source.join("model.safetensors"))?;
    let ours = weights::encoder_from_hugging_face(theirs, &vit)?;
    checked(Exchanged { shapes: Shapes { encoder, predictor: None }, weights: weights::with_prefix(ours, "encoder.") })
}

fn from_torchvision(source: &Path, theirs: Weights) -> Result<Exchanged> {
    let shape = convnext_shape(&theirs).with_context(|| {
        format!("{}: holds no ConvNeXt by torchvision's names (features.0.0.weight and so on)", source.display())
    })?;
    let shapes = Shapes { encoder: EncoderConfig::ConvNext(shape), predictor: None };
    shapes.check().with_context(|| source.display().to_string())?;
    let ours = convnext_from_torchvision(theirs, &shape).with_context(|| source.display().to_string())?;
    checked(Exchanged { shapes, weights: weights::with_prefix(ours, "encoder.") })
}

fn from_authors(source: &Path, encoder: Weights, heads: Option<usize>) -> Result<Exchanged> {
    let target = authors_part(source, Some("target_encoder"))?;
    let predictor = authors_part(source, Some("predictor"))?;
    let shapes = authors_shapes(&encoder, &predictor, heads).with_context(|| source.display().to_string())?;
    let mut weights = weights::with_prefix(weights::encoder_from_authors(encoder)?, "encoder.");
    weights.extend(weights::with_prefix(weights::encoder_from_authors(target)?, "target."));
    weights.extend(weights::with_prefix(weights::predictor_from_authors(predictor)?, "predictor."));
    checked(Exchanged { shapes, weights })
}

/// One state dictionary of the authors' checkpoint, less the `module.` that their data-parallel wrapper adds; or all of
/// a file that has no parts.
fn authors_part(source: &Path, part: Option<&str>) -> Result<Weights> {
    let store = PytorchStore::from_file(source).map_indices_contiguous(false);
    let mut store = match part {
        Some(part) => store.with_top_level_key(part),
        None => store,
    };
    let what = part.unwrap_or("it");
    let failed =
        |error: &dyn std::fmt::Display| anyhow::anyhow!("{}: {what} cannot be read: {error}", source.display());
    let tensors = store.get_all_tensors().map_err(|error| failed(&error))?;
    let mut weights = Weights::new();
    for (name, tensor) in tensors {
        let data = bridge::to_data(tensor).map_err(|error| failed(&error))?;
        let values = data.convert::<f32>().try_to_vec::<f32>().map_err(|error| failed(&format!("{error:?}")))?;
        let name = name.strip_prefix("module.").unwrap_or(name).to_string();
        weights.insert(name, Array { shape: tensor.shape.to_vec(), values });
    }
    Ok(weights)
}

/// Reads the shapes off the tensors; the number of heads leaves no trace in them.
fn authors_shapes(encoder: &Weights, predictor: &Weights, heads: Option<usize>) -> Result<Shapes> {
    let shape = |weights: &Weights, name: &str, rank: usize| {
        let shape = weights.get(name).map(|array| array.shape.clone()).filter(|shape| shape.len() == rank);
        shape.with_context(|| format!("{name} is missing or has another rank than {rank}"))
    };
    let blocks = |weights: &Weights, suffix: &str| weights.keys().filter(|name| name.ends_with(suffix)).count();
    let [width, _, patch, _] = shape(encoder, "patch_embed.proj.weight", 4)?[..] else { bail!("no patch embedding") };
    let patches = shape(encoder, "pos_embed", 3)?[1];
    let heads = match heads {
        Some(heads) => heads,
        None => usual_heads(width).with_context(|| {
            format!("no usual size is {width} wide, so the number of heads must be given: --heads N")
        })?,
    };
    let narrow = shape(predictor, "predictor_embed.weight", 2)?[0];
    Ok(Shapes {
        encoder: EncoderConfig::Vit(VitConfig {
            image: patches.isqrt() * patch,
            patch,
            width,
            depth: blocks(encoder, "norm1.bias"),
            heads,
            hidden: shape(encoder, "blocks.0.mlp.fc1.weight", 2)?[0],
        }),
        predictor: Some(PatchPredictorConfig::Vit(PredictorConfig {
            width: narrow,
            depth: blocks(predictor, "norm1.bias"),
            heads,
            hidden: shape(predictor, "predictor_blocks.0.mlp.fc1.weight", 2)?[0],
        })),
    })
}

fn usual_heads(width: usize) -> Option<usize> {
    use crate::model::VitSize::{Base, Giant, Huge, Large, Small, Tiny};
    let sizes = [Tiny, Small, Base, Large, Huge, Giant].map(|size| VitConfig::sized(size, 16, 16));
    sizes.into_iter().find(|size| size.width == width).map(|size| size.heads)
}

/// Accounts for every tensor by putting all of them into models of the said shapes.
fn checked(exchanged: Exchanged) -> Result<Exchanged> {
    exchanged.shapes.check()?;
    let Shapes { encoder, predictor } = exchanged.shapes;
    let numbers: usize = exchanged.encoder()?.values().map(|array| array.values.len()).sum();
    // Before a model of the said shape takes memory: the file must have the numbers for it.
    if encoder.parameters() != numbers as u64 {
        bail!(
            "the encoder has {numbers} numbers, its shape ({}) asks for {}",
            encoder.describe(),
            encoder.parameters()
        );
    }
    let (device, mut init) = (Device::flex(), WeightInit::new(0, FirstWeights::Published));
    let mut model = encoder.init(&mut init, &device);
    weights::apply(&mut model, exchanged.encoder()?)?;
    if let Some(target) = exchanged.part("target.") {
        weights::apply(&mut model, target)?;
    }
    if let (Some(config), Some(part)) = (predictor, exchanged.part("predictor.")) {
        weights::apply(&mut config.init(encoder.grid(), encoder.width(), &mut init, &device), part)?;
    }
    Ok(exchanged)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{}: not what it should be", path.display()))
}
