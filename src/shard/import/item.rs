//! One sample of a source: its key, its class number, and its bytes once they are asked for.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::buffer::spare_capacity;

use super::ImportError;
use super::truth::is_id;
use crate::shard::files::{OpenFiles, Opened, read_at_once};
use crate::shard::index::Stamp;
use crate::shard::set::MOST_IMAGE_BYTES;
use crate::shard::table::IMAGE_ENDINGS;

/// A sample that was found, and not yet read.
pub struct Item {
    pub label: Option<u32>,
    pub(super) place: Place,
}

pub(super) enum Place {
    /// `stamp` is unknown where there is no file.
    File { root: Arc<Path>, path: Box<Path>, stamp: Option<Stamp> },
    Member {
        archive: Arc<Archive>,
        /// Of a class tar: its class.
        class: Option<Arc<str>>,
        name: Box<str>,
        offset: u64,
        length: u64,
    },
    /// A row that is decoded already, as it cannot be read alone.
    #[cfg(feature = "parquet")]
    Row { path: Arc<Path>, row: u64, bytes: Vec<u8> },
}

/// A tar, which is opened when it is read: there may be more of them than a process may hold open.
#[derive(Debug)]
pub(super) struct Archive {
    pub path: PathBuf,
    number: usize,
    files: Arc<OpenFiles>,
}

/// Why a sample's bytes are not to be had.
#[derive(Debug)]
pub enum Unread {
    /// This sample alone is lost.
    Sample { reason: &'static str, detail: String },
    /// So is all that follows.
    Source(ImportError),
}

impl Archive {
    /// Archives that share `files` have different numbers.
    pub fn new(path: &Path, number: usize, files: &Arc<OpenFiles>) -> Arc<Self> {
        Arc::new(Self { path: path.to_owned(), number, files: Arc::clone(files) })
    }

    pub fn open(&self) -> io::Result<Arc<Opened>> {
        self.files.get(self.number, &self.path)
    }
}

impl Item {
    /// A file at `root`/`path`.
    pub(super) fn file(root: &Arc<Path>, path: &Path, label: Option<u32>, stamp: Option<Stamp>) -> Self {
        Self { label, place: Place::File { root: Arc::clone(root), path: path.into(), stamp } }
    }

    /// The name in the shard: the path inside the source without its ending. A dot would end a key, so it becomes `_`.
    ///
    /// Of a class tar's members those whose names do not tell the class, as ImageNet's do, get it as a folder: tars of other
    /// classes may hold the same names, and each is read by whoever imports its part.
    pub fn key(&self) -> String {
        let key = key_of(&self.name());
        match &self.place {
            Place::Member { class: Some(class), .. } if !tells_class(&key, class) => format!("{class}/{key}"),
            _ => key,
        }
    }

    /// The sample's name inside its source.
    pub(super) fn name(&self) -> String {
        match &self.place {
            Place::File { path, .. } => text(path),
            Place::Member { name, .. } => name.to_string(),
            #[cfg(feature = "parquet")]
            Place::Row { path, row, .. } => super::parquet::name_of(path, *row),
        }
    }

    /// Differs between two samples, though their keys may be alike.
    pub(super) fn identity(&self) -> String {
        match &self.place {
            // `./a.jpg` is `a.jpg`.
            Place::File { root, path, .. } => text(&root.join(path).components().collect::<PathBuf>()),
            // Tars of other classes may hold the same names.
            _ => format!("{} {:?}", self.origin(), self.label),
        }
    }

    /// The ending of an image's name, without the dot.
    pub(super) fn ending(&self) -> Option<String> {
        let name = self.name();
        name.rsplit_once('.').filter(|_| is_image_name(&name)).map(|(_, ending)| ending.to_owned())
    }

    /// Where the bytes come from, for people.
    pub fn origin(&self) -> String {
        match &self.place {
            Place::File { root, path, .. } => text(&root.join(path)),
            Place::Member { archive, name, .. } => format!("{}: {name}", archive.path.display()),
            #[cfg(feature = "parquet")]
            Place::Row { path, row, .. } => format!("{}: row {row}", path.display()),
        }
    }

    /// What a change of the source changes.
    pub(super) fn line(&self) -> String {
        let stamp = match &self.place {
            Place::File { stamp, .. } => *stamp,
            _ => None,
        };
        format!("{} {:?} {} {stamp:?}\n", self.name(), self.label, self.bytes())
    }

    /// Bytes of the image, as far as they are known.
    pub fn bytes(&self) -> u64 {
        match &self.place {
            Place::File { stamp, .. } => stamp.map_or(0, |stamp| stamp.size),
            Place::Member { length, .. } => *length,
            #[cfg(feature = "parquet")]
            Place::Row { bytes, .. } => bytes.len() as u64,
        }
    }

    /// Bytes that it takes in the source: of a tar with its header and what fills its last block.
    pub fn span(&self) -> u64 {
        const BLOCK: u64 = 512;
        match &self.place {
            Place::Member { length, .. } => BLOCK + length.next_multiple_of(BLOCK),
            _ => self.bytes(),
        }
    }

    /// Whether it is a file that is not in memory, or of a system that does not tell.
    pub fn is_waited_for(&self) -> bool {
        let Place::File { root, path, .. } = &self.place else { return false };
        // What is empty has nothing in memory either.
        self.bytes() > 0 && File::open(root.join(path)).is_ok_and(|file| !read_at_once(&file, 0, &mut [0]))
    }

    /// # Errors
    /// [`Unread::Sample`] where a file is gone, has another length than before or cannot be read, [`Unread::Source`] where a tar cannot.
    pub fn read(&self) -> Result<Vec<u8>, Unread> {
        if self.bytes() > MOST_IMAGE_BYTES {
            return Err(Unread::Sample { reason: "too_large", detail: format!("{} bytes", self.bytes()) });
        }
        match &self.place {
            Place::File { root, path, stamp } => {
                let listed = stamp.ok_or_else(|| unreadable(&io::ErrorKind::NotFound.into()))?.size;
                let bytes = read_file(&root.join(path), listed).map_err(|cause| unreadable(&cause))?;
                if bytes.len() as u64 == listed {
                    return Ok(bytes);
                }
                let detail = format!("has no longer the {listed} bytes with which it was found");
                Err(Unread::Sample { reason: "changed", detail })
            }
            Place::Member { archive, offset, length, .. } => {
                let mut bytes = vec![0; *length as usize];
                let path = || archive.path.clone();
                match archive.open().and_then(|opened| opened.file.read_exact_at(&mut bytes, *offset)) {
                    Ok(()) => Ok(bytes),
                    Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                        Err(Unread::Source(ImportError::Changed { path: path() }))
                    }
                    Err(source) => Err(Unread::Source(ImportError::Io { path: path(), source })),
                }
            }
            #[cfg(feature = "parquet")]
            Place::Row { bytes, .. } => Ok(bytes.clone()),
        }
    }
}

/// Whether a key is `CLASS_REST`, and of no other class whatever its name is.
fn tells_class(key: &str, class: &str) -> bool {
    is_id(class) && !key.contains('/') && key.strip_prefix(class).is_some_and(|rest| rest.starts_with('_'))
}

fn unreadable(cause: &io::Error) -> Unread {
    Unread::Sample { reason: "unreadable", detail: cause.to_string() }
}

/// No more than a byte above `length`, which tells that the file grew. A file that is as long as it was is read by one call
/// of the system, without a second that would only say that there is no more.
fn read_file(path: &Path, length: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::with_capacity(length as usize + 1);
    loop {
        match rustix::io::read(&file, spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() as u64 >= length => return Ok(bytes),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "{} ({:?})", self.origin(), self.label)
    }
}

/// Whether a name ends as an image's does; the bytes decide later.
pub(super) fn is_image_name(name: &str) -> bool {
    let file_name = name.rsplit('/').next().unwrap_or(name);
    let ending = file_name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty() && !stem.starts_with('.'));
    ending.is_some_and(|(_, ending)| IMAGE_ENDINGS.contains(&ending.to_lowercase().as_str()))
}

pub(super) fn key_of(name: &str) -> String {
    let parts = Path::new(name).components().filter_map(|part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    let key = parts.collect::<Vec<_>>().join("/");
    let stem_at = key.rfind('/').map_or(0, |slash| slash + 1);
    let (folder, file_name) = key.split_at(stem_at);
    let stem = if is_image_name(file_name) {
        file_name.rsplit_once('.').map_or(file_name, |(stem, _)| stem)
    } else {
        file_name
    };
    format!("{folder}{}", stem.replace('.', "_"))
}

/// Bytes that are not UTF-8 are written as `\xNN`, so that two names stay two names.
pub(super) fn text(path: &Path) -> String {
    crate::shard::tar::text(path.as_os_str().as_encoded_bytes())
}
