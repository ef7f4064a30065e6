//! Folders of images → their files in the order of the names, with a class number for each folder or without.
//!
//! Links are followed, but never around in a circle; hidden files and folders are nobody's samples. Classes are listed side
//! by side, as a tree that is not in memory is waited for at each file.

use std::ffi::OsString;
use std::fs;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::classes::Classes;
use super::item::{Item, is_image_name, text};
use super::{ImportError, NO_IMAGE, OTHER_CLASS, PassedOver};
use crate::shard::in_parallel;
use crate::shard::index::Stamp;

/// A file or folder; what a link leads to.
pub struct Entry {
    pub name: OsString,
    pub is_folder: bool,
    stamp: Stamp,
    place: (u64, u64),
}

/// What a folder holds, sorted by the bytes of the names; without hidden ones, dead links and devices.
pub fn entries(folder: &Path) -> Result<Vec<Entry>, ImportError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(ImportError::io(folder))? {
        let entry = entry.map_err(ImportError::io(folder))?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b".") {
            continue;
        }
        // The path to the folder need not be walked again for what is no link.
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let metadata = if is_link { fs::metadata(entry.path()) } else { entry.metadata() };
        let Ok(metadata) = metadata else {
            continue;
        };
        if metadata.is_dir() || metadata.is_file() {
            let place = (metadata.dev(), metadata.ino());
            found.push(Entry { name, is_folder: metadata.is_dir(), stamp: Stamp::of(&metadata), place });
        }
    }
    found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// The images of a tree whose folders are classes, and the classes' names.
///
/// # Errors
/// When a folder cannot be read, or there is no folder.
pub fn classes(
    source: &Path,
    given: Option<Classes>,
    passed_over: &mut PassedOver,
) -> Result<(Vec<Item>, Vec<String>), ImportError> {
    let (folders, files): (Vec<_>, Vec<_>) = entries(source)?.into_iter().partition(|entry| entry.is_folder);
    if folders.is_empty() {
        return Err(ImportError::source(source, "holds no folder, and each class is to have one"));
    }
    let classes = given.unwrap_or_else(|| Classes::sorted(folders.iter().map(|folder| text(Path::new(&folder.name)))));
    let metadata = fs::metadata(source).map_err(ImportError::io(source))?;
    let root: Arc<Path> = source.into();
    let trees = in_parallel(&folders, |folder| {
        let mut tree = Tree::new(&root, vec![(metadata.dev(), metadata.ino())]);
        let label = classes.number(&text(Path::new(&folder.name)));
        tree.visit(Path::new(&folder.name), label, folder.place)?;
        let unwanted = label.is_none().then(|| mem::take(&mut tree.items).len() as u64);
        Ok((tree, unwanted))
    })?;
    let mut all = Tree::new(&root, Vec::new());
    all.others = files.len() as u64;
    all.items.reserve_exact(trees.iter().map(|(tree, _)| tree.items.len()).sum());
    for (tree, unwanted) in trees {
        all.others += tree.others;
        all.items.extend(tree.items);
        if let Some(unwanted) = unwanted {
            *passed_over.entry(OTHER_CLASS).or_default() += unwanted;
        }
    }
    Ok((all.finish(passed_over), classes.names))
}

/// The images of a tree, without labels.
///
/// # Errors
/// When a folder cannot be read.
pub fn pictures(source: &Path, passed_over: &mut PassedOver) -> Result<Vec<Item>, ImportError> {
    let metadata = fs::metadata(source).map_err(ImportError::io(source))?;
    if !metadata.is_dir() {
        return Err(ImportError::source(source, "is no folder"));
    }
    let mut tree = Tree::new(&source.into(), Vec::new());
    tree.visit(Path::new(""), None, (metadata.dev(), metadata.ino()))?;
    Ok(tree.finish(passed_over))
}

struct Tree {
    root: Arc<Path>,
    items: Vec<Item>,
    others: u64,
    /// The folders that the walk is inside of.
    above: Vec<(u64, u64)>,
}

impl Tree {
    fn new(root: &Arc<Path>, above: Vec<(u64, u64)>) -> Self {
        Self { root: Arc::clone(root), items: Vec::new(), others: 0, above }
    }

    fn visit(&mut self, folder: &Path, label: Option<u32>, place: (u64, u64)) -> Result<(), ImportError> {
        if self.above.contains(&place) {
            return Ok(());
        }
        self.above.push(place);
        for entry in entries(&self.root.join(folder))? {
            let path: PathBuf = folder.join(&entry.name);
            if entry.is_folder {
                self.visit(&path, label, entry.place)?;
            } else if is_image_name(&text(Path::new(&entry.name))) {
                self.items.push(Item::file(&self.root, &path, label, Some(entry.stamp)));
            } else {
                self.others += 1;
            }
        }
        self.above.pop();
        Ok(())
    }

    fn finish(self, passed_over: &mut PassedOver) -> Vec<Item> {
        if self.others > 0 {
            *passed_over.entry(NO_IMAGE).or_default() += self.others;
        }
        self.items
    }
}
