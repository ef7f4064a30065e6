//! Weights by name: modules to named arrays and back, and the names that other tools use.
//!
//! Every tensor is accounted for: one too many, one too few or one of another shape is an error that names it.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::store::{ModuleSnapshot, bridge, burn_pack};
use burn::tensor::TensorData;

use super::numbers::DeviceFailure;
use super::vit::VitConfig;

/// An array of 32-bit floats, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Named arrays; the order of the names is the order of iteration.
pub type Weights = BTreeMap<String, Array>;

/// Which encoder it is stays out of a parameter's name.
pub const SKIP_VARIANTS: bool = true;

#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("weights lack {0}; they belong to another model")]
    Missing(String),
    #[error("weights hold {0}, which this model does not have")]
    Unknown(String),
    #[error("{name}: shape {found:?}, this model needs {needed:?}")]
    Shape { name: String, found: Vec<usize>, needed: Vec<usize> },
    #[error("{name}: {why}")]
    Tensor { name: String, why: String },
}

impl Array {
    /// Rows become columns and columns rows: PyTorch keeps a layer as `[outputs, inputs]`, burn as `[inputs, outputs]`.
    pub fn transposed(&self) -> Self {
        let (rows, columns) = self.as_matrix();
        let values = (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column)));
        let values = values.map(|(row, column)| self.values[row * columns + column]).collect();
        Self { shape: vec![columns, rows], values }
    }

    /// The first axis against all others.
    fn as_matrix(&self) -> (usize, usize) {
        let rows = self.shape.first().copied().unwrap_or(1);
        (rows, self.values.len() / rows.max(1))
    }

    fn reshaped(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), values: self.values.clone() }
    }
}

/// Reads all parameters of a module from its device.
///
/// # Errors
/// When the device fails to give a tensor back.
pub fn collect<M: Module>(module: &M) -> Result<Weights, WeightsError> {
    let mut weights = Weights::new();
    for tensor in module.collect(None, None, SKIP_VARIANTS) {
        let failed = |why: String| WeightsError::Tensor { name: tensor.name.clone(), why };
        let data =
            bridge::to_data(&tensor).map_err(|error| failed(DeviceFailure::told(&error.to_string()).to_string()))?;
        let values = data.convert::<f32>().try_to_vec::<f32>().map_err(|error| failed(format!("{error:?}")))?;
        weights.insert(tensor.name.clone(), Array { shape: tensor.shape.to_vec(), values });
    }
    Ok(weights)
}

/// Puts weights into a module in place of its own.
///
/// # Errors
/// When a tensor is missing, unknown or of another shape; the module is then to be thrown away.
pub fn apply<M: Module>(module: &mut M, mut weights: Weights) -> Result<(), WeightsError> {
    let mut tensors = Vec::new();
    for parameter in module.collect(None, None, SKIP_VARIANTS) {
        let name = parameter.name.clone();
        let array = weights.remove(&name).ok_or_else(|| WeightsError::Missing(name.clone()))?;
        let needed = parameter.shape.to_vec();
        if array.shape != needed {
            return Err(WeightsError::Shape { name, found: array.shape, needed });
        }
        let data = TensorData::new(array.values, array.shape);
        let (dtype, shape) = (data.dtype(), data.shape().clone());
        tensors.push(burn_pack::Tensor::new(name, dtype, shape, parameter.param_id, data.into_bytes()));
    }
    if let Some(name) = weights.into_keys().next() {
        return Err(WeightsError::Unknown(name));
    }
    let result = module.apply(tensors, None, None, SKIP_VARIANTS);
    match result.errors.first() {
        Some(error) => Err(WeightsError::Tensor { name: "weights".into(), why: error.to_string() }),
        None => Ok(()),
    }
}

/// Moves all names that begin with `prefix` out of `weights`, without the prefix.
pub fn take_prefix(weights: &mut Weights, prefix: &str) -> Weights {
    let names: Vec<String> = weights.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    let entry = |name: String| weights.remove(&name).map(|array| (name[prefix.len()..].to_string(), array));
    names.into_iter().filter_map(entry).collect()
}

/// Puts `prefix` before every name.
pub fn with_prefix(weights: Weights, prefix: &str) -> Weights {
    weights.into_iter().map(|(name, array)| (format!("{prefix}{name}"), array)).collect()
}

/// One name of ours beside the authors' name for the same tensor.
const AUTHORS_NAMES: [(&str, &str); 7] = [
    ("patch_embed.", "patch_embed.proj."),
    ("attention.qkv.", "attn.qkv."),
    ("attention.projection.", "attn.proj."),
    // Only the predictor has these; its blocks are called predictor_blocks there.
    ("embed.", "predictor_embed."),
    ("norm.", "predictor_norm."),
    ("projection.", "predictor_proj."),
    ("blocks.", "predictor_blocks."),
];

/// An encoder of the I-JEPA authors' code, by our names (`encoder` and `target_encoder` of their checkpoints, less any `module.`).
///
/// # Errors
/// When a tensor has not the rank that its name promises.
pub fn encoder_from_authors(weights: Weights) -> Result<Weights, WeightsError> {
    let rename = |name: &str| {
        AUTHORS_NAMES[..3]
            .iter()
            .fold(name.replace("pos_embed", "positions"), |name, (ours, theirs)| name.replace(theirs, ours))
    };
    weights.into_iter().map(|(name, array)| from_torch(rename(&name), array)).collect()
}

/// A predictor of the I-JEPA authors' code, by our names.
///
/// # Errors
/// When a tensor has not the rank that its name promises.
pub fn predictor_from_authors(weights: Weights) -> Result<Weights, WeightsError> {
    let rename = |name: &str| {
        let name = name.replace("predictor_pos_embed", "positions");
        AUTHORS_NAMES[1..].iter().fold(name, |name, (ours, theirs)| name.replace(theirs, ours))
    };
    weights.into_iter().map(|(name, array)| from_torch(rename(&name), array)).collect()
}

/// One tensor from PyTorch's layout and parameter names to burn's.
fn from_torch(name: String, array: Array) -> Result<(String, Array), WeightsError> {
    let bad = |name: &str, array: &Array| WeightsError::Tensor {
        name: name.into(),
        why: format!("shape {:?} is not what this name stands for", array.shape),
    };
    let is_norm = name.contains("norm");
    if name.ends_with("positions") {
        let [1, patches, width] = array.shape[..] else {
            return Err(bad(&name, &array));
        };
        return Ok((name, array.reshaped(&[patches, width])));
    }
    if is_norm {
        return Ok((name.replace("weight", "gamma").replace("bias", "beta"), array));
    }
    if name.ends_with("weight") {
        let matrix = match array.shape.len() {
            2 => array.transposed(),
            4 => array.reshaped(&[array.shape[0], array.shape[1..].iter().product()]).transposed(),
            _ => return Err(bad(&name, &array)),
        };
        return Ok((name, matrix));
    }
    Ok((name, array))
}

/// Our names of one block's tensors beside Hugging Face's, for those that map one to one.
const HUGGING_FACE_BLOCK: [(&str, &str); 10] = [
    ("norm1.gamma", "layernorm_before.weight"),
    ("norm1.beta", "layernorm_before.bias"),
    ("norm2.gamma", "layernorm_after.weight"),
    ("norm2.beta", "layernorm_after.bias"),
    ("attention.projection.weight", "attention.output.dense.weight"),
    ("attention.projection.bias", "attention.output.dense.bias"),
    ("mlp.fc1.weight", "intermediate.dense.weight"),
    ("mlp.fc1.bias", "intermediate.dense.bias"),
    ("mlp.fc2.weight", "output.dense.weight"),
    ("mlp.fc2.bias", "output.dense.bias"),
];

const HUGGING_FACE_REST: [(&str, &str); 4] = [
    ("patch_embed.weight", "embeddings.patch_embeddings.projection.weight"),
    ("patch_embed.bias", "embeddings.patch_embeddings.projection.bias"),
    ("norm.gamma", "layernorm.weight"),
    ("norm.beta", "layernorm.bias"),
];

const HUGGING_FACE_POSITIONS: &str = "embeddings.position_embeddings";

/// The parts of attention that Hugging Face keeps apart and we keep in one matrix, in our order.
const HUGGING_FACE_QKV: [&str; 3] = ["query", "key", "value"];

/// An encoder as Hugging Face's `IJepaModel` saves it, by our names.
///
/// # Errors
/// When a tensor is missing, left over or of a shape that does not fit `config`.
pub fn encoder_from_hugging_face(mut weights: Weights, config: &VitConfig) -> Result<Weights, WeightsError> {
    let mut ours = Weights::new();
    let mut take = |name: String| weights.remove(&name).ok_or(WeightsError::Missing(name));
    for (our, their) in hugging_face_pairs(config.depth) {
        let array = take(their)?;
        let array = if our.ends_with(".weight") { from_torch(our.clone(), array)?.1 } else { array };
        ours.insert(our, array);
    }
    ours.insert("positions".into(), from_torch("positions".into(), take(HUGGING_FACE_POSITIONS.into())?)?.1);
    for block in 0..config.depth {
        for kind in ["weight", "bias"] {
            let mut joined = Array { shape: Vec::new(), values: Vec::new() };
            for part in HUGGING_FACE_QKV {
                let name = format!("encoder.layer.{block}.attention.attention.{part}.{kind}");
                let array = take(name.clone())?;
                let needed = if kind == "weight" { vec![config.width; 2] } else { vec![config.width] };
                if array.shape != needed {
                    return Err(WeightsError::Shape { name, found: array.shape, needed });
                }
                joined.values.extend(&array.values);
                joined.shape = array.shape;
            }
            if let Some(rows) = joined.shape.first_mut() {
                *rows *= HUGGING_FACE_QKV.len();
            }
            let joined = if kind == "weight" { joined.transposed() } else { joined };
            ours.insert(format!("blocks.{block}.attention.qkv.{kind}"), joined);
        }
    }
    match weights.into_keys().next() {
        Some(name) => Err(WeightsError::Unknown(name)),
        None => Ok(ours),
    }
}

/// Our encoder's weights as Hugging Face's `IJepaModel` opens them; the exact inverse of [`encoder_from_hugging_face`].
///
/// # Errors
/// When a tensor is missing or left over.
pub fn encoder_to_hugging_face(mut weights: Weights, config: &VitConfig) -> Result<Weights, WeightsError> {
    let mut theirs = Weights::new();
    let mut take = |name: String| weights.remove(&name).ok_or(WeightsError::Missing(name));
    for (our, their) in hugging_face_pairs(config.depth) {
        let array = take(our.clone())?;
        let array = if our.ends_with(".weight") { array.transposed() } else { array };
        theirs.insert(their, array);
    }
    let patch = config.patch;
    if let Some(array) = theirs.get_mut("embeddings.patch_embeddings.projection.weight") {
        array.shape = vec![config.width, 3, patch, patch];
    }
    let positions = take("positions".into())?;
    let shape = [&[1], &positions.shape[..]].concat();
    theirs.insert(HUGGING_FACE_POSITIONS.into(), positions.reshaped(&shape));
    for block in 0..config.depth {
        for kind in ["weight", "bias"] {
            let name = format!("blocks.{block}.attention.qkv.{kind}");
            let joined = take(name.clone())?;
            let wide = HUGGING_FACE_QKV.len() * config.width;
            let needed = if kind == "weight" { vec![config.width, wide] } else { vec![wide] };
            if joined.shape != needed {
                return Err(WeightsError::Shape { name, found: joined.shape, needed });
            }
            let joined = if kind == "weight" { joined.transposed() } else { joined };
            let each = joined.values.len() / HUGGING_FACE_QKV.len();
            let mut shape = joined.shape.clone();
            shape[0] /= HUGGING_FACE_QKV.len();
            for (part, values) in HUGGING_FACE_QKV.iter().zip(joined.values.chunks(each)) {
                let name = format!("encoder.layer.{block}.attention.attention.{part}.{kind}");
                theirs.insert(name, Array { shape: shape.clone(), values: values.to_vec() });
            }
        }
    }
    match weights.into_keys().next() {
        Some(name) => Err(WeightsError::Unknown(name)),
        None => Ok(theirs),
    }
}

fn hugging_face_pairs(depth: usize) -> Vec<(String, String)> {
    let rest = HUGGING_FACE_REST.iter().map(|(ours, theirs)| (ours.to_string(), theirs.to_string()));
    let blocks = (0..depth).flat_map(|block| {
        HUGGING_FACE_BLOCK
            .iter()
            .map(move |(ours, theirs)| (format!("blocks.{block}.{ours}"), format!("encoder.layer.{block}.{theirs}")))
    });
    rest.chain(blocks).collect()
}
