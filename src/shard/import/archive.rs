//! ImageNet's archives → their pictures: tars of classes, in a tar or in a folder, and the flat tar of the validation set.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::classes::Classes;
use super::item::{Archive, Item, Place, is_image_name};
use super::truth::{Truth, is_id, known_or_sorted};
use super::{ImportError, NO_IMAGE, OTHER_CLASS, OTHER_TAR, Offered, Part, PassedOver};
use crate::shard::index::Stamp;
use crate::shard::tar::{Entry, TarError, Walk};

/// The pictures of class tars, class by class in the order of the names.
#[derive(Debug)]
pub struct ClassTars {
    classes: Classes,
    /// Classes that have a tar, in all parts.
    there: usize,
    tars: Vec<ClassTar>,
    /// The tar that is walked.
    current: usize,
}

#[derive(Debug)]
struct ClassTar {
    archive: Arc<Archive>,
    /// The tar's name inside its archive; none where it is a file of its own.
    inside: Option<String>,
    class: Arc<str>,
    label: u32,
    cursor: Cursor,
}

/// The flat tar of the validation pictures.
#[derive(Debug)]
pub struct Pictures {
    archive: Arc<Archive>,
    cursor: Cursor,
    truth: Truth,
    part: Part,
    seen: u64,
}

/// A place in a tar that is walked member by member.
#[derive(Debug)]
struct Cursor {
    part: Range<u64>,
    position: u64,
}

impl Cursor {
    fn new(part: Range<u64>) -> Self {
        Self { position: part.start, part }
    }

    fn next(&mut self, archive: &Archive) -> Result<Option<Entry>, TarError> {
        // The closing blocks may be missing.
        if self.position > self.part.start && self.position >= self.part.end {
            return Ok(None);
        }
        let opened = archive.open()?;
        let mut walk = Walk::within(&opened.file, self.part.clone(), self.position);
        let entry = walk.next_entry()?;
        self.position = walk.position();
        Ok(entry)
    }
}

impl ClassTars {
    /// Class tars have the name of a WordNet id, or one of those that are given; other tars are passed over.
    ///
    /// # Errors
    /// When the outer tar is damaged, or holds no class tar or one twice.
    pub fn open(
        source: &Path,
        given: Option<Classes>,
        part: Part,
        passed_over: &mut PassedOver,
    ) -> Result<Self, ImportError> {
        let is_class = |name: &str| given.as_ref().map_or_else(|| is_id(name), |given| given.number(name).is_some());
        let (found, others) =
            if source.is_dir() { tars_in_folder(source, is_class)? } else { tars_in_tar(source, is_class)? };
        if found.is_empty() {
            let what = match given {
                Some(_) => "holds no tar of a class that --classes names",
                None => "holds no class tars such as n01440764.tar, so it is not ImageNet's training archive",
            };
            return Err(ImportError::source(source, what));
        }
        // What is passed over is everybody's, and only the first part tells of it.
        if others > 0 && part.number == 0 {
            *passed_over.entry(OTHER_TAR).or_default() += others;
        }
        let classes = given.unwrap_or_else(|| known_or_sorted(found.keys().map(String::as_str)));
        let there = found.len();
        let mut tars = Vec::with_capacity(there);
        for (place, (name, (archive, inside, range))) in found.into_iter().enumerate() {
            let Some(label) = classes.number(&name) else {
                continue;
            };
            if part.has(place as u64) {
                tars.push(ClassTar { archive, inside, class: name.into(), label, cursor: Cursor::new(range) });
            }
        }
        Ok(Self { classes, there, tars, current: 0 })
    }

    /// What is to be said of classes that have a number and no tar.
    pub fn remark(&self) -> Option<String> {
        let (there, all) = (self.there, self.classes.names.len());
        (there < all)
            .then(|| format!("tars of {there} of {all} classes are here, which keep their numbers among all {all}"))
    }

    pub fn class_names(&self) -> Vec<String> {
        self.classes.names.clone()
    }

    pub fn bytes(&self) -> u64 {
        self.tars.iter().map(|tar| tar.cursor.part.end - tar.cursor.part.start).sum()
    }

    /// A line for each tar that a change of it changes.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.tars.iter().map(|tar| {
            let ClassTar { archive, inside, label, cursor, .. } = tar;
            format!("{} {inside:?} {label} {:?}\n", stamp_of(&archive.path), cursor.part)
        })
    }

    pub fn next(&mut self, passed_over: &mut PassedOver) -> Result<Option<Item>, ImportError> {
        while let Some(tar) = self.tars.get_mut(self.current) {
            let entry = match tar.cursor.next(&tar.archive) {
                Ok(entry) => entry,
                Err(source) => return Err(tar.damaged(source)),
            };
            match entry {
                None => self.current += 1,
                Some(entry) if !is_image_name(&entry.name) => *passed_over.entry(NO_IMAGE).or_default() += 1,
                Some(entry) => return Ok(Some(tar.member(entry))),
            }
        }
        Ok(None)
    }
}

impl ClassTar {
    fn member(&self, entry: Entry) -> Item {
        member(&self.archive, entry, Some(Arc::clone(&self.class)), self.label)
    }

    fn damaged(&self, source: TarError) -> ImportError {
        let path = self.archive.path.clone();
        match &self.inside {
            Some(member) => ImportError::Inner { path, member: member.clone(), source },
            None => ImportError::Tar { path, source },
        }
    }
}

impl Pictures {
    pub fn open(source: &Path, truth: Truth, part: Part) -> Result<Self, ImportError> {
        let (archive, size) = (Archive::new(source, 0, &Arc::default()), size_of(source)?);
        Ok(Self { archive, cursor: Cursor::new(0..size), truth, part, seen: 0 })
    }

    pub fn line(&self) -> String {
        format!("{} {}", stamp_of(&self.archive.path), self.truth.digest())
    }

    pub fn bytes(&self) -> u64 {
        (self.cursor.part.end - self.cursor.part.start) / self.part.of
    }

    pub fn next(&mut self, passed_over: &mut PassedOver) -> Result<Option<Offered>, ImportError> {
        loop {
            let entry = self.cursor.next(&self.archive).map_err(|source| self.archive.damaged(source))?;
            let Some(entry) = entry else { return Ok(None) };
            // What is passed over is everybody's, and only the first part tells of it.
            let mut pass = |why| *passed_over.entry(why).or_default() += u64::from(self.part.number == 0);
            if !is_image_name(&entry.name) {
                pass(NO_IMAGE);
                continue;
            }
            let Some(label) = self.truth.label(&entry.name)? else {
                pass(OTHER_CLASS);
                continue;
            };
            self.seen += 1;
            let is_own = self.part.has(self.seen - 1);
            return Ok(Some(Offered { item: member(&self.archive, entry, None, label), is_own }));
        }
    }
}

impl Archive {
    fn damaged(&self, source: TarError) -> ImportError {
        ImportError::Tar { path: self.path.clone(), source }
    }
}

fn member(archive: &Arc<Archive>, entry: Entry, class: Option<Arc<str>>, label: u32) -> Item {
    let Entry { name, offset, length } = entry;
    let place = Place::Member { archive: Arc::clone(archive), class, name: name.into(), offset, length };
    Item { label: Some(label), place }
}

fn size_of(path: &Path) -> Result<u64, ImportError> {
    Ok(fs::metadata(path).map_err(ImportError::io(path))?.len())
}

/// Name, size and time; nothing but the name where it cannot be asked, which reading will tell.
pub fn stamp_of(path: &Path) -> String {
    let stamp = fs::metadata(path).map(|metadata| Stamp::of(&metadata)).ok();
    format!("{:?} {stamp:?}", path.file_name())
}

type Found = BTreeMap<String, (Arc<Archive>, Option<String>, Range<u64>)>;

/// Class tars, and how many others there are.
fn tars_in_tar(source: &Path, is_class: impl Fn(&str) -> bool) -> Result<(Found, u64), ImportError> {
    let archive = Archive::new(source, 0, &Arc::default());
    let opened = archive.open().map_err(ImportError::io(source))?;
    let mut walk = Walk::new(&opened.file, size_of(source)?);
    let (mut found, mut others) = (Found::new(), 0);
    while let Some(entry) = walk.next_entry().map_err(|source| archive.damaged(source))? {
        let Some(class) = stem_of_tar(Path::new(&entry.name)) else {
            continue;
        };
        if !is_class(&class) {
            others += 1;
            continue;
        }
        let range = entry.offset..entry.offset + entry.length;
        if found.insert(class.clone(), (Arc::clone(&archive), Some(entry.name), range)).is_some() {
            return Err(ImportError::source(source, format!("holds the class tar `{class}` twice")));
        }
    }
    Ok((found, others))
}

fn tars_in_folder(source: &Path, is_class: impl Fn(&str) -> bool) -> Result<(Found, u64), ImportError> {
    let (mut found, mut others, files) = (Found::new(), 0, Arc::default());
    for entry in fs::read_dir(source).map_err(ImportError::io(source))? {
        let path = entry.map_err(ImportError::io(source))?.path();
        match stem_of_tar(&path) {
            Some(class) if is_class(&class) => {
                let size = size_of(&path)?;
                found.insert(class, (Archive::new(&path, found.len(), &files), None, 0..size));
            }
            Some(_) => others += 1,
            None => {}
        }
    }
    Ok((found, others))
}

/// The name of a tar without its ending.
fn stem_of_tar(path: &Path) -> Option<String> {
    let is_tar = path.extension() == Some(OsStr::new("tar"));
    path.file_stem().filter(|_| is_tar)?.to_str().map(str::to_owned)
}
