//! State to disk and back: named arrays as safetensors, the rest as JSON, both under checksums.
//!
//! A checkpoint is a folder `step-NNNNNNNN`. It is written beside its place, synced and renamed, so that it is there whole
//! or not at all; what was damaged later is refused by its checksums (`sha256sum -c SHA256SUMS` checks them too).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::weights::{Array, Weights};
use crate::pipeline::Counts;
use crate::shard::hex;
use crate::train::collapse::Findings;

const ARRAYS: &str = "weights.safetensors";
const STATE: &str = "state.json";
const SUMS: &str = "SHA256SUMS";
/// Folders that are still being written begin with this; a killed run may leave one behind.
const UNFINISHED: &str = ".unfinished-";

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{}: {doing}", path.display())]
    File {
        path: PathBuf,
        doing: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("{}: not a readable safetensors file: {why}", path.display())]
    Arrays { path: PathBuf, why: String },
    #[error("{}: {why}", path.display())]
    State { path: PathBuf, why: String },
    #[error("{}: checksum differs; the file was cut short or changed", path.display())]
    Damaged { path: PathBuf },
}

/// Where a run stands, beside its arrays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Steps done; the next step has this number.
    pub step: u64,
    pub counts: Counts,
    /// Whether features were found to collapse.
    pub findings: Findings,
    /// How often the optimizer updated each parameter.
    pub updates: BTreeMap<String, usize>,
    /// Of the training shards (`ShardSet::fingerprint`); another data set would be another stream.
    pub data: String,
    /// What decides the course of the run, as text; a run goes on only under the same.
    pub course: String,
}

/// A checkpoint that was read.
pub struct Checkpoint {
    pub path: PathBuf,
    pub position: Position,
    pub weights: Weights,
}

/// Writes a checkpoint into `folder` and removes the oldest beyond `keep`.
///
/// # Errors
/// When a file cannot be written; earlier checkpoints stay as they are.
pub fn save(folder: &Path, position: &Position, weights: &Weights, keep: usize) -> Result<PathBuf, CheckpointError> {
    let name = format!("step-{:08}", position.step);
    let (beside, place) = (folder.join(format!("{UNFINISHED}{name}")), folder.join(&name));
    for stale in unfinished(folder)? {
        remove(&stale)?;
    }
    at(&beside, "cannot be made", fs::create_dir_all(&beside))?;
    let state = serde_json::to_vec_pretty(position).map_err(|error| state_error(&beside, error))?;
    let mut sums = String::new();
    for (file, bytes) in [(ARRAYS, arrays_to_bytes(weights, &beside)?), (STATE, state)] {
        sums += &format!("{}  {file}\n", hex(&Sha256::digest(&bytes)));
        write_synced(&beside.join(file), &bytes)?;
    }
    write_synced(&beside.join(SUMS), sums.as_bytes())?;
    sync_folder(&beside)?;
    if place.exists() {
        // Only a damaged one is ever written again.
        remove(&place)?;
    }
    at(&place, "cannot be put in place", fs::rename(&beside, &place))?;
    sync_folder(folder)?;
    let (ahead, others): (Vec<_>, Vec<_>) = list(folder)?.into_iter().partition(|(step, _)| *step > position.step);
    // Those ahead were refused, or this run would not be here.
    for (_, stale) in ahead.iter().chain(others.iter().rev().skip(keep.max(1))) {
        remove(stale)?;
    }
    Ok(place)
}

/// Reads the newest checkpoint that is whole, and says why newer ones were passed over.
///
/// # Errors
/// When the folder cannot be listed.
pub fn newest(folder: &Path) -> Result<(Option<Checkpoint>, Vec<CheckpointError>), CheckpointError> {
    let mut refused = Vec::new();
    for (_, path) in list(folder)?.into_iter().rev() {
        match read(&path) {
            Ok(checkpoint) => return Ok((Some(checkpoint), refused)),
            Err(error) => refused.push(error),
        }
    }
    Ok((None, refused))
}

/// # Errors
/// When a file is missing, damaged or not what a checkpoint holds.
pub fn read(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let sums = at(&path.join(SUMS), "cannot be read", fs::read_to_string(path.join(SUMS)))?;
    let [arrays, state] = [ARRAYS, STATE].map(|file| checked(path, file, &sums));
    let (arrays, state) = (arrays?, state?);
    let position = serde_json::from_slice(&state).map_err(|error| state_error(&path.join(STATE), error))?;
    let weights = arrays_from_bytes(&arrays, &path.join(ARRAYS))?;
    Ok(Checkpoint { path: path.to_path_buf(), position, weights })
}

/// Checkpoints by their steps, oldest first; other names are not ours.
fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let step_of = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok();
    let numbered = |path: PathBuf| Some((step_of(&path)?, path));
    let mut found: Vec<(u64, PathBuf)> = entries(folder)?.into_iter().filter_map(numbered).collect();
    found.sort();
    Ok(found)
}

fn unfinished(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let begins = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED));
    Ok(entries(folder)?.into_iter().filter(begins).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let found = at(folder, "cannot be listed", fs::read_dir(folder))?;
    Ok(found.flatten().map(|entry| entry.path()).collect())
}

/// The bytes of a file whose checksum stands in `sums`.
fn checked(path: &Path, file: &str, sums: &str) -> Result<Vec<u8>, CheckpointError> {
    let path = path.join(file);
    let bytes = at(&path, "cannot be read", fs::read(&path))?;
    let line = format!("{}  {file}", hex(&Sha256::digest(&bytes)));
    if sums.lines().any(|known| known == line) { Ok(bytes) } else { Err(CheckpointError::Damaged { path }) }
}

/// Writes named arrays as a safetensors file, synced, in one rename.
///
/// # Errors
/// When the file cannot be written.
pub fn write_arrays(path: &Path, weights: &Weights) -> Result<(), CheckpointError> {
    write_whole(path, &arrays_to_bytes(weights, path)?)
}

/// Writes a file beside its place and renames it there.
///
/// # Errors
/// When the file cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let beside = path.with_extension("unfinished");
    write_synced(&beside, bytes)?;
    at(path, "cannot be put in place", fs::rename(&beside, path))
}

/// Reads a safetensors file; numbers of other kinds become 32-bit floats.
///
/// # Errors
/// When the file cannot be read or is not safetensors.
pub fn read_arrays(path: &Path) -> Result<Weights, CheckpointError> {
    arrays_from_bytes(&at(path, "cannot be read", fs::read(path))?, path)
}

fn arrays_to_bytes(weights: &Weights, path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let failed = |error: safetensors::SafeTensorError| arrays_error(path, error);
    let bytes: Vec<(&String, &Array, Vec<u8>)> = weights
        .iter()
        .map(|(name, array)| (name, array, array.values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views: Result<Vec<_>, _> = bytes
        .iter()
        .map(|(name, array, bytes)| {
            Ok((*name, TensorView::new(Dtype::F32, array.shape.clone(), bytes).map_err(failed)?))
        })
        .collect();
    // PyTorch's tools look for this word before they open a file.
    let metadata = Some([("format".to_string(), "pt".to_string())].into());
    safetensors::serialize(views?, metadata).map_err(failed)
}

fn arrays_from_bytes(bytes: &[u8], path: &Path) -> Result<Weights, CheckpointError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| arrays_error(path, error))?;
    let mut weights = Weights::new();
    for (name, view) in tensors.iter() {
        let values = floats(view.dtype(), view.data())
            .ok_or_else(|| arrays_error(path, format!("{name} has the type {:?}, which is not read", view.dtype())))?;
        weights.insert(name.to_string(), Array { shape: view.shape().to_vec(), values });
    }
    Ok(weights)
}

fn floats(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    fn each<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        data.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
    }
    Some(match dtype {
        Dtype::F32 => each(data, f32::from_le_bytes),
        Dtype::F64 => each(data, |bytes| f64::from_le_bytes(bytes) as f32),
        // The upper half of a 32-bit float.
        Dtype::BF16 => each(data, |[low, high]: [u8; 2]| f32::from_le_bytes([0, 0, low, high])),
        Dtype::I32 => each(data, |bytes| i32::from_le_bytes(bytes) as f32),
        Dtype::I64 => each(data, |bytes| i64::from_le_bytes(bytes) as f32),
        _ => return None,
    })
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    at(path, "cannot be written", write())
}

fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    at(path, "cannot be synced", File::open(path).and_then(|folder| folder.sync_all()))
}

fn remove(path: &Path) -> Result<(), CheckpointError> {
    at(path, "cannot be removed", fs::remove_dir_all(path))
}

fn at<T>(path: &Path, doing: &'static str, result: io::Result<T>) -> Result<T, CheckpointError> {
    result.map_err(|cause| CheckpointError::File { path: path.to_path_buf(), doing, cause })
}

fn arrays_error(path: &Path, why: impl ToString) -> CheckpointError {
    CheckpointError::Arrays { path: path.to_path_buf(), why: why.to_string() }
}

fn state_error(path: &Path, why: impl ToString) -> CheckpointError {
    CheckpointError::State { path: path.to_path_buf(), why: why.to_string() }
}
