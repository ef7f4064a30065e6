//! What people have on disk → samples, one after the other: key, class number, and where the bytes lie.
//!
//! Nothing is unpacked: a member of a tar inside a tar is read in its place. Lists and folders are listed at once, about
//! 150 bytes a sample; tars are walked as they are read, and listed only to be shuffled.

mod archive;
mod classes;
mod csv;
mod item;
mod keys;
mod kind;
mod list;
#[cfg(feature = "parquet")]
mod parquet;
mod tree;
mod truth;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use self::item::{Item, Unread};
pub use self::keys::Keys;
pub use self::kind::Kind;

use self::archive::{ClassTars, Pictures};
use self::classes::Classes;
use self::truth::Truth;
use super::hex;
use super::tar::TarError;
use crate::draws::{Draws, Purpose};

/// Why a source cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{path}: cannot be read")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: damaged archive")]
    Tar { path: PathBuf, source: TarError },
    #[error("{path}: damaged archive inside, `{member}`")]
    Inner { path: PathBuf, member: String, source: TarError },
    #[error("{path}: changed or was cut while it was read, import it again once it is whole")]
    Changed { path: PathBuf },
    #[error("{path}: {what}")]
    Source { path: PathBuf, what: String },
    #[error("{path}: line {line}: {what}")]
    Line { path: PathBuf, line: usize, what: String },
}

impl ImportError {
    fn source(path: &Path, what: impl Into<String>) -> Self {
        Self::Source { path: path.to_owned(), what: what.into() }
    }

    fn line(path: &Path, line: usize, what: impl Into<String>) -> Self {
        Self::Line { path: path.to_owned(), line, what: what.into() }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// What is to be imported.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub source: PathBuf,
    /// What the source is; told by what it holds when left out.
    pub kind: Option<Kind>,
    /// The labels of ImageNet's validation pictures.
    pub ground_truth: Option<PathBuf>,
    /// The classes in the order in which the ground truth counts, where it is another than the kit's.
    pub synsets: Option<PathBuf>,
    /// Class names in label order, one a line; images of other classes are passed over.
    pub classes: Option<PathBuf>,
    /// Puts the samples into the order that this seed draws.
    pub shuffle: Option<u64>,
    pub part: Part,
}

/// A share of a source: part `number` of `of`, counted from 0. Together the parts are the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub number: u64,
    pub of: u64,
}

impl Part {
    pub const WHOLE: Self = Self { number: 0, of: 1 };

    fn has(self, place: u64) -> bool {
        place % self.of == self.number
    }

    /// The share of so many in a list: as many in a row, as evenly as may be.
    fn of_list(self, all: usize) -> Range<usize> {
        let at = |number: u64| (all as u128 * u128::from(number) / u128::from(self.of)) as usize;
        at(self.number)..at(self.number + 1)
    }
}

/// A source that is being read.
#[derive(Debug)]
pub struct Import {
    pub kind: Kind,
    /// Class names in label order; none where the source has numbers alone, or no labels.
    pub classes: Vec<String>,
    /// Bytes of the images, about; of tars with all that is around them.
    pub bytes: u64,
    /// What people are to know of the numbers of the classes.
    pub remark: Option<String>,
    items: Items,
    passed_over: PassedOver,
}

/// Files that become no samples because of their names, by reason.
pub type PassedOver = BTreeMap<&'static str, u64>;

/// A file whose name is not an image's.
const NO_IMAGE: &str = "no_image_by_name";
/// A tar whose name is that of no class.
const OTHER_TAR: &str = "other_tar";
/// A class that `--classes` does not name.
const OTHER_CLASS: &str = "other_class";

/// A sample, and whether it is one of the part that is imported: the keys of a part hang on what comes before it.
#[derive(Debug)]
pub struct Offered {
    pub item: Item,
    pub is_own: bool,
}

impl Offered {
    fn own(item: Item) -> Self {
        Self { item, is_own: true }
    }
}

/// Samples in their order, up to the last of the part that is imported.
#[derive(Debug)]
struct Listed {
    items: std::vec::IntoIter<Item>,
    /// Samples of earlier parts that are left.
    before: usize,
}

impl Listed {
    fn new(mut items: Vec<Item>, own: Range<usize>) -> Self {
        items.truncate(own.end);
        Self { items: items.into_iter(), before: own.start }
    }

    fn own(&self) -> &[Item] {
        self.items.as_slice().get(self.before..).unwrap_or_default()
    }
}

impl Iterator for Listed {
    type Item = Offered;

    fn next(&mut self) -> Option<Offered> {
        let item = self.items.next()?;
        let is_own = self.before == 0;
        self.before = self.before.saturating_sub(1);
        Some(Offered { item, is_own })
    }
}

#[derive(Debug)]
enum Items {
    Listed(Listed),
    ClassTars(ClassTars),
    Pictures(Pictures),
    #[cfg(feature = "parquet")]
    Rows(parquet::Rows),
}

impl Items {
    fn bytes(&self) -> u64 {
        match self {
            Self::Listed(items) => items.own().iter().map(Item::span).sum(),
            Self::ClassTars(tars) => tars.bytes(),
            Self::Pictures(tar) => tar.bytes(),
            #[cfg(feature = "parquet")]
            Self::Rows(rows) => rows.bytes,
        }
    }

    fn next(&mut self, passed_over: &mut PassedOver) -> Option<Result<Offered, ImportError>> {
        let own = |item: Result<Item, ImportError>| item.map(Offered::own);
        match self {
            Self::Listed(items) => items.next().map(Ok),
            Self::ClassTars(tars) => tars.next(passed_over).transpose().map(own),
            Self::Pictures(tar) => tar.next(passed_over).transpose(),
            #[cfg(feature = "parquet")]
            Self::Rows(rows) => rows.next(passed_over).transpose().map(own),
        }
    }
}

impl Import {
    /// Finds out what the source is and what classes it has.
    ///
    /// # Errors
    /// When it is nothing that can be imported, or cannot be read.
    pub fn open(wanted: &Wanted) -> Result<Self, ImportError> {
        let source = wanted.source.as_path();
        let kind = match wanted.kind {
            Some(kind) => kind,
            None => kind::of(source, wanted.ground_truth.is_some())?,
        };
        refuse_what_is_not_used(wanted, kind)?;
        let given = wanted.classes.as_deref().map(Classes::read).transpose()?;
        let (mut passed_over, mut remark) = (PassedOver::new(), None);
        let (items, classes) = match kind {
            Kind::ImagenetTrain => {
                let tars = ClassTars::open(source, given, wanted.part_of_walk(), &mut passed_over)?;
                remark = tars.remark();
                let names = tars.class_names();
                (Items::ClassTars(tars), names)
            }
            Kind::ImagenetValidation => validation(wanted, given, &mut passed_over)?,
            Kind::ImageFolder => wanted.listed(tree::classes(source, given, &mut passed_over)?)?,
            Kind::List => wanted.listed(list::read(source, given, &mut passed_over)?)?,
            Kind::Folder => wanted.listed((tree::pictures(source, &mut passed_over)?, Vec::new()))?,
            Kind::Parquet => rows(wanted, given)?,
        };
        let bytes = items.bytes();
        let import = Self { kind, classes, bytes, remark, items, passed_over };
        let mut import = if wanted.shuffle.is_some() { import.shuffled(wanted)? } else { import };
        // Every part has listed all, and only the first tells of it.
        if matches!(import.items, Items::Listed(_)) && wanted.part.number > 0 {
            import.passed_over.clear();
        }
        Ok(import)
    }

    /// How many samples there will be, where that is known before they are found.
    pub fn samples(&self) -> Option<u64> {
        match &self.items {
            Items::Listed(items) => Some(items.own().len() as u64),
            Items::ClassTars(_) | Items::Pictures(_) => None,
            #[cfg(feature = "parquet")]
            Items::Rows(rows) => Some(rows.samples),
        }
    }

    /// The next sample, of this part or of another; after an error there are no more.
    pub fn next_item(&mut self) -> Option<Result<Offered, ImportError>> {
        self.items.next(&mut self.passed_over)
    }

    /// A text that differs where other samples, labels or another order would come, or another build would make them.
    pub fn fingerprint(&self, wanted: &Wanted) -> String {
        let Wanted { shuffle, part: Part { number, of }, .. } = wanted;
        let mut sum = Sha256::new();
        for class in &self.classes {
            sum.update(format!("{class}\n"));
        }
        match &self.items {
            Items::Listed(items) => items.items.as_slice().iter().for_each(|item| sum.update(item.line())),
            Items::ClassTars(tars) => tars.lines().for_each(|line| sum.update(line)),
            Items::Pictures(tar) => sum.update(tar.line()),
            #[cfg(feature = "parquet")]
            Items::Rows(rows) => rows.lines().for_each(|line| sum.update(line)),
        }
        let root = wanted.source.canonicalize().unwrap_or_else(|_| wanted.source.clone());
        sum.update(format!("{root:?}"));
        let (kind, version) = (self.kind, env!("CARGO_PKG_VERSION"));
        format!("import {version} {kind} {shuffle:?} {number}/{of} {}", hex(&sum.finalize()))
    }

    /// What was passed over up to now.
    pub fn passed_over(&self) -> &PassedOver {
        &self.passed_over
    }

    /// Walks all tars, since an order cannot be drawn before all samples are known.
    fn shuffled(mut self, wanted: &Wanted) -> Result<Self, ImportError> {
        if !matches!(self.items, Items::Listed(_)) {
            let all = std::iter::from_fn(|| self.items.next(&mut self.passed_over));
            let all = all.map(|offered| Ok(offered?.item)).collect::<Result<Vec<_>, _>>()?;
            self.items = Items::Listed(wanted.arranged(all));
            self.bytes = self.items.bytes();
        }
        Ok(self)
    }
}

fn validation(
    wanted: &Wanted,
    given: Option<Classes>,
    passed_over: &mut PassedOver,
) -> Result<(Items, Vec<String>), ImportError> {
    let source = wanted.source.as_path();
    let truth = wanted.ground_truth.as_deref().ok_or_else(|| {
        ImportError::source(source, "the labels of validation pictures are needed: --ground-truth FILE")
    })?;
    let truth = Truth::read(truth, wanted.synsets.as_deref(), given)?;
    let names = truth.classes.names.clone();
    if source.is_dir() {
        let pictures = tree::pictures(source, passed_over)?;
        let labelled = truth.label_all(pictures, passed_over)?;
        return wanted.listed((labelled, names));
    }
    Ok((Items::Pictures(Pictures::open(source, truth, wanted.part_of_walk())?), names))
}

#[cfg(feature = "parquet")]
fn rows(wanted: &Wanted, given: Option<Classes>) -> Result<(Items, Vec<String>), ImportError> {
    if wanted.shuffle.is_some() {
        let what = "rows of parquet can only be read in their order, so leave --shuffle out and shuffle the shards";
        return Err(ImportError::source(&wanted.source, what));
    }
    let rows = parquet::Rows::open(&wanted.source, given, wanted.part)?;
    let names = rows.names.clone();
    Ok((Items::Rows(rows), names))
}

#[cfg(not(feature = "parquet"))]
fn rows(wanted: &Wanted, _: Option<Classes>) -> Result<(Items, Vec<String>), ImportError> {
    let what = "this build reads no parquet, make one that does: cargo build --release --features parquet";
    Err(ImportError::source(&wanted.source, what))
}

impl Wanted {
    /// A walk that is to be shuffled is cut into parts afterwards.
    fn part_of_walk(&self) -> Part {
        self.shuffle.map_or(self.part, |_| Part::WHOLE)
    }

    fn listed(&self, found: (Vec<Item>, Vec<String>)) -> Result<(Items, Vec<String>), ImportError> {
        let (items, names) = found;
        if items.is_empty() {
            return Err(ImportError::source(&self.source, "holds no image"));
        }
        Ok((Items::Listed(self.arranged(items)), names))
    }

    fn arranged(&self, mut items: Vec<Item>) -> Listed {
        if let Some(seed) = self.shuffle {
            Draws::new(seed, 0, 0, Purpose::ImportOrder).shuffle(&mut items);
        }
        let own = self.part.of_list(items.len());
        Listed::new(items, own)
    }
}

fn refuse_what_is_not_used(wanted: &Wanted, kind: Kind) -> Result<(), ImportError> {
    let validation = kind == Kind::ImagenetValidation;
    let refuse = |option: &str| {
        let what = format!("{option} is for --kind imagenet-validation, and this is {kind}");
        Err(ImportError::source(&wanted.source, what))
    };
    if wanted.ground_truth.is_some() && !validation {
        return refuse("--ground-truth");
    }
    if wanted.synsets.is_some() && !validation {
        return refuse("--synsets");
    }
    if wanted.classes.is_some() && kind == Kind::Folder {
        return Err(ImportError::source(
            &wanted.source,
            "--classes is of no use, images of a plain folder have no class",
        ));
    }
    Ok(())
}
