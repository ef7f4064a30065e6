//! A sample as it was read → the sample as it will be written, or why it will not be.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::MOST_SAMPLE_BYTES;
use crate::pipeline::Reason;
use crate::pipeline::decode::{Unusable, header};
use crate::pipeline::exif;
use crate::pipeline::shrink::{Coding, Fit, Shrinker};
use crate::shard::is_image;
use crate::shard::write::Dropped;

/// What becomes of a sample's members.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Treatment {
    pub image: ImageForm,
    /// Takes EXIF and XMP out of JPEGs that stay as they are.
    pub strip_exif: bool,
    /// Decodes images that stay as they are too, and drops those that cannot be.
    pub check_images: bool,
    pub drop_json: bool,
    /// Filters images with fewer pixels on their shorter side.
    pub least_side: Option<u32>,
}

/// What an image becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ImageForm {
    #[default]
    AsIs,
    /// A PPM.
    Decoded(Fit),
    Jpeg(Fit, Coding),
}

/// Members by extension.
pub type Members = Vec<(String, Vec<u8>)>;

/// A sample with its bytes, as it came.
pub struct Raw {
    pub key: String,
    pub from: Arc<Path>,
    pub members: Members,
}

/// What became of a sample.
pub enum Outcome {
    Taken(Taken),
    Dropped(Dropped),
    Filtered(&'static str),
}

/// A sample as it will be written.
pub struct Taken {
    pub key: String,
    /// By extension.
    pub members: Members,
    /// Whether its image was shrunk, or had EXIF that was taken out.
    pub changed: bool,
}

impl Outcome {
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Taken(taken) => taken.members.iter().map(|(_, data)| data.len() as u64).sum(),
            Self::Dropped(_) | Self::Filtered(_) => 0,
        }
    }

    pub fn dropped(raw: &Raw, reason: &str, detail: String) -> Self {
        Self::Dropped(Dropped { key: raw.key.clone(), shard: raw.from.to_path_buf(), reason: reason.into(), detail })
    }

    pub fn too_large(raw: &Raw, bytes: u64) -> Self {
        Self::dropped(raw, Reason::TooLarge.name(), format!("{bytes} bytes, more than {MOST_SAMPLE_BYTES}"))
    }
}

impl Treatment {
    /// Makes of a sample what will be written.
    pub fn treat(&self, mut raw: Raw, shrinker: &mut Shrinker) -> Outcome {
        let Some(place) = raw.members.iter().position(|(extension, _)| is_image(extension)) else {
            return Outcome::dropped(&raw, "no_image", "no member of the sample is an image".into());
        };
        let Some((extension, image)) = raw.members.get_mut(place) else {
            return Outcome::dropped(&raw, "no_image", "no member of the sample is an image".into());
        };
        match self.image_of(image, shrinker) {
            Err(unusable) => Outcome::dropped(&raw, unusable.reason.name(), unusable.detail),
            Ok(None) => Outcome::Filtered("side"),
            Ok(Some(changed)) => {
                match self.image {
                    ImageForm::AsIs => {}
                    ImageForm::Decoded(_) => "ppm".clone_into(extension),
                    ImageForm::Jpeg(..) => "jpg".clone_into(extension),
                }
                let named = extension.clone();
                // Another member may have had the name that the image has now.
                let is_kept = |number: usize, extension: &str| {
                    number == place || (extension != named && !(self.drop_json && extension == "json"))
                };
                let members = raw.members.into_iter().enumerate();
                let members = members.filter(|(number, (extension, _))| is_kept(*number, extension));
                let members = members.map(|(_, member)| member).collect();
                Outcome::Taken(Taken { key: raw.key, members, changed })
            }
        }
    }

    /// Replaces an image by what it becomes, and tells whether it was changed; `None` for one that is too small.
    fn image_of(&self, image: &mut Vec<u8>, shrinker: &mut Shrinker) -> Result<Option<bool>, Unusable> {
        let header = header(image)?;
        if self.least_side.is_some_and(|least| header.width.min(header.height) < least) {
            return Ok(None);
        }
        let mut made = Vec::new();
        let changed = match self.image {
            ImageForm::AsIs => {
                let is_doubtful = !header.is_surely_whole(image)?;
                if self.check_images || is_doubtful {
                    shrinker.guarded(|shrinker| shrinker.look_at(&mut image.clone()))?;
                }
                let stripped = if self.strip_exif { exif::strip(image) } else { None };
                let Some(stripped) = stripped else { return Ok(Some(false)) };
                made = stripped;
                true
            }
            ImageForm::Decoded(fit) => shrinker.guarded(|shrinker| shrinker.shrink(image, fit, &mut made))?,
            ImageForm::Jpeg(fit, coding) => {
                shrinker.guarded(|shrinker| shrinker.encode(image, fit, coding, &mut made))?
            }
        };
        *image = made;
        Ok(Some(changed))
    }
}
