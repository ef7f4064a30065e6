//! What a source is: told by its name and by what it holds, or said.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::str::FromStr;

use super::item::is_image_name;
use super::truth::is_id;
use super::{ImportError, tree};
use crate::shard::tar::Walk;

/// The forms in which people keep labelled images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tar, or a folder, of class tars.
    ImagenetTrain,
    /// A flat tar, or a folder, of pictures whose labels a file of the kit has.
    ImagenetValidation,
    /// A folder for each class.
    ImageFolder,
    /// CSV or JSON lines of path and label.
    List,
    /// Images without labels.
    Folder,
    /// A file, or a folder of files, of rows as Hugging Face has them; with the feature `parquet`.
    Parquet,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::ImagenetTrain, Self::ImagenetValidation, Self::ImageFolder, Self::List, Self::Folder, Self::Parquet];

    pub const fn name(self) -> &'static str {
        match self {
            Self::ImagenetTrain => "imagenet-train",
            Self::ImagenetValidation => "imagenet-validation",
            Self::ImageFolder => "image-folder",
            Self::List => "list",
            Self::Folder => "folder",
            Self::Parquet => "parquet",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| format!("one of {}", names()))
    }
}

/// # Errors
/// When a source may be two things, or is none of those that can be imported.
pub fn of(source: &Path, has_ground_truth: bool) -> Result<Kind, ImportError> {
    let metadata = fs::metadata(source).map_err(ImportError::io(source))?;
    if metadata.is_dir() {
        return of_folder(source, has_ground_truth);
    }
    let ending = source.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    match ending.as_str() {
        "csv" | "tsv" | "jsonl" | "ndjson" => Ok(Kind::List),
        "parquet" => Ok(Kind::Parquet),
        _ => of_tar(source, metadata.len(), has_ground_truth),
    }
}

fn of_tar(source: &Path, size: u64, has_ground_truth: bool) -> Result<Kind, ImportError> {
    let file = File::open(source).map_err(ImportError::io(source))?;
    let damaged = |cause| ImportError::Tar { path: source.to_owned(), source: cause };
    let first = Walk::new(&file, size).next_entry().map_err(damaged)?;
    let first = first.ok_or_else(|| ImportError::source(source, "holds no file"))?.name;
    if first.ends_with(".tar") {
        return Ok(Kind::ImagenetTrain);
    }
    if is_image_name(&first) && (has_ground_truth || is_validation(&first)) {
        return Ok(Kind::ImagenetValidation);
    }
    Err(shards(source))
}

fn of_folder(source: &Path, has_ground_truth: bool) -> Result<Kind, ImportError> {
    let (mut folders, mut images, mut class_tars, mut tars, mut parquets) = (Vec::new(), Vec::new(), 0, 0, 0);
    for entry in tree::entries(source)? {
        let name = entry.name.to_string_lossy().into_owned();
        if entry.is_folder {
            folders.push(name);
        } else if is_image_name(&name) {
            images.push(name);
        } else if let Some(stem) = name.strip_suffix(".tar") {
            // ImageNet's other archives may lie beside its class tars.
            tars += usize::from(!stem.starts_with("ILSVRC2012_"));
            class_tars += usize::from(is_id(stem));
        } else if name.ends_with(".parquet") {
            parquets += 1;
        }
    }
    let is_split = |name: &String| ["train", "val", "valid", "validation", "test"].contains(&name.as_str());
    let say = |what: String| Err(ImportError::source(source, what));
    match (images.first(), folders.first()) {
        (Some(_), Some(_)) => say("holds images beside folders: say --kind folder to import all without labels, or \
                                   --kind image-folder to take each folder for a class"
            .into()),
        (Some(_), None) if has_ground_truth => Ok(Kind::ImagenetValidation),
        (Some(image), None) if is_validation(image) => say(
            "holds ImageNet's validation pictures, whose labels are elsewhere: --ground-truth FILE, or --kind folder \
                 for none"
                .into(),
        ),
        (Some(_), None) => Ok(Kind::Folder),
        (None, _) if class_tars > 0 && class_tars == tars => Ok(Kind::ImagenetTrain),
        (None, _) if tars > 0 => Err(shards(source)),
        (None, _) if parquets > 0 => Ok(Kind::Parquet),
        (None, Some(first)) if folders.iter().all(is_split) => {
            let named = source.join(first);
            say(format!("holds {}, which are no classes: import each, as {}", folders.join(" and "), named.display()))
        }
        (None, Some(_)) => Ok(Kind::ImageFolder),
        (None, None) => say("holds neither images nor folders of them".into()),
    }
}

fn is_validation(name: &str) -> bool {
    name.rsplit('/').next().unwrap_or(name).starts_with("ILSVRC2012_val_")
}

fn shards(source: &Path) -> ImportError {
    let what = "holds samples as WebDataset shards do: saccade trains on them as they are, and `saccade shards reshard` \
                makes others of them";
    ImportError::source(source, what)
}
