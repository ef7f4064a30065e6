//! Parquet as Hugging Face writes it → its rows: `image: {bytes, path}`, and `label` where there is one.
//!
//! One row is decoded at a time; of a file no more than the pages of two columns are in memory. Class names stand in the
//! file's own metadata, as `datasets` leaves them there.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use super::classes::Classes;
use super::item::{Item, Place, key_of, text};
use super::{ImportError, OTHER_CLASS, Part, PassedOver};

const IMAGE: &str = "image.bytes";
const LABEL: &str = "label";
/// What Hugging Face writes where a row has no label, as in test splits.
const NO_LABEL: i64 = -1;

/// The rows of one file or more, in order.
pub struct Rows {
    files: Vec<PathBuf>,
    /// Row groups that are not begun: the file's number, the group's, and the number of its first row.
    groups: VecDeque<(usize, usize, u64)>,
    current: Option<Box<Group>>,
    /// What the file's class numbers become; none where they stay.
    numbers: Option<Vec<Option<u32>>>,
    pub names: Vec<String>,
    pub samples: u64,
    pub bytes: u64,
}

/// A row group that is being read.
struct Group {
    path: Arc<Path>,
    row: u64,
    left: u64,
    images: Column<ByteArrayType>,
    labels: Option<Labels>,
}

enum Labels {
    Wide(Column<parquet::data_type::Int64Type>),
    Narrow(Column<parquet::data_type::Int32Type>),
}

/// A column's values one by one; `None` where a row has none.
struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    most_level: i16,
}

impl fmt::Debug for Rows {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "{} rows of {} files", self.samples, self.files.len())
    }
}

impl Rows {
    /// # Errors
    /// When a file is no parquet, or has no images of this form.
    pub fn open(source: &Path, given: Option<Classes>, part: Part) -> Result<Self, ImportError> {
        let files = files(source)?;
        let mut rows = Self {
            files,
            groups: VecDeque::new(),
            current: None,
            numbers: None,
            names: Vec::new(),
            samples: 0,
            bytes: 0,
        };
        let mut count = 0;
        for (number, path) in rows.files.iter().enumerate() {
            let reader = guarded(path, || SerializedFileReader::new(File::open(path)?))?;
            let metadata = reader.metadata();
            if number == 0 {
                let pairs = metadata.file_metadata().key_value_metadata().into_iter().flatten();
                let ours = pairs.filter(|pair| pair.key == "huggingface").find_map(|pair| pair.value.as_deref());
                rows.names = ours.map(class_names).unwrap_or_default();
            }
            let mut row = 0;
            for (group, found) in metadata.row_groups().iter().enumerate() {
                let (rows_of_group, size) = (found.num_rows().max(0) as u64, found.compressed_size().max(0) as u64);
                if part.has(count) {
                    rows.groups.push_back((number, group, row));
                    rows.samples += rows_of_group;
                    rows.bytes += size;
                }
                (row, count) = (row + rows_of_group, count + 1);
            }
        }
        if let Some(given) = given {
            if rows.names.is_empty() {
                return Err(ImportError::source(source, "names no classes, so --classes cannot choose among them"));
            }
            rows.numbers = Some(rows.names.iter().map(|name| given.number(name)).collect());
            rows.names = given.names;
        }
        Ok(rows)
    }

    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.files.iter().map(|path| format!("{}\n", super::archive::stamp_of(path)))
    }

    pub fn next(&mut self, passed_over: &mut PassedOver) -> Result<Option<Item>, ImportError> {
        loop {
            let Some(group) = self.current.as_mut().filter(|group| group.left > 0) else {
                let Some(next) = self.groups.pop_front() else { return Ok(None) };
                self.current = Some(Box::new(self.begin(next)?));
                continue;
            };
            let path = Arc::clone(&group.path);
            let (image, label) = guarded(&path, || group.next())?;
            let label = label.filter(|label| *label != NO_LABEL);
            let (row, label) = (group.row - 1, label.map(|label| self.label(&path, label)).transpose()?);
            if label == Some(None) {
                *passed_over.entry(OTHER_CLASS).or_default() += 1;
                continue;
            }
            let bytes = image.map_or_else(Vec::new, |image| image.data().to_vec());
            return Ok(Some(Item { label: label.flatten(), place: Place::Row { path, row, bytes } }));
        }
    }

    /// The number of a class; none where it is not wanted.
    fn label(&self, path: &Path, label: i64) -> Result<Option<u32>, ImportError> {
        let number = u32::try_from(label)
            .map_err(|_| ImportError::source(path, format!("the label {label} is no class number")))?;
        Ok(match &self.numbers {
            Some(numbers) => numbers.get(number as usize).copied().flatten(),
            None => Some(number),
        })
    }

    fn begin(&self, (file, group, row): (usize, usize, u64)) -> Result<Group, ImportError> {
        let path = self.files.get(file).map_or(Path::new(""), PathBuf::as_path);
        let lacks = |what: &str| ImportError::source(path, what);
        guarded(path, || {
            let reader = SerializedFileReader::new(File::open(path)?)?;
            let group = reader.get_row_group(group)?;
            let metadata = group.metadata();
            let place = |name: &str| metadata.columns().iter().position(|column| column.column_path().string() == name);
            let level = |place: usize| metadata.column(place).column_descr().max_def_level();
            let image = match place(IMAGE) {
                Some(place) => match group.get_column_reader(place)? {
                    ColumnReader::ByteArrayColumnReader(reader) => Some(Column { reader, most_level: level(place) }),
                    _ => None,
                },
                None => None,
            };
            let Some(images) = image else {
                return Ok(Err(lacks("has no column `image` of bytes and path, as Hugging Face's image sets have")));
            };
            let labels = match place(LABEL) {
                None => None,
                Some(place) => match group.get_column_reader(place)? {
                    ColumnReader::Int64ColumnReader(reader) => {
                        Some(Labels::Wide(Column { reader, most_level: level(place) }))
                    }
                    ColumnReader::Int32ColumnReader(reader) => {
                        Some(Labels::Narrow(Column { reader, most_level: level(place) }))
                    }
                    _ => return Ok(Err(lacks("has a column `label` that is no class number"))),
                },
            };
            let left = metadata.num_rows().max(0) as u64;
            Ok(Ok(Group { path: path.into(), row, left, images, labels }))
        })?
    }
}

impl Group {
    fn next(&mut self) -> Result<(Option<ByteArray>, Option<i64>), ParquetError> {
        (self.row, self.left) = (self.row + 1, self.left - 1);
        let image = self.images.next()?;
        let label = match &mut self.labels {
            None => None,
            Some(Labels::Wide(labels)) => labels.next()?,
            Some(Labels::Narrow(labels)) => labels.next()?.map(i64::from),
        };
        Ok((image, label))
    }
}

impl<T: DataType> Column<T> {
    fn next(&mut self) -> Result<Option<T::T>, ParquetError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let wanted = (self.most_level > 0).then_some(&mut levels);
        let (records, _, _) = self.reader.read_records(1, wanted, None, &mut values)?;
        if records != 1 {
            return Err(ParquetError::EOF("a column ends before the others".into()));
        }
        Ok(values.pop())
    }
}

/// What the reader of the format says or, where a damaged file makes it panic, that it did.
fn guarded<R>(path: &Path, read: impl FnOnce() -> Result<R, ParquetError>) -> Result<R, ImportError> {
    let tried = catch_unwind(AssertUnwindSafe(read));
    let result = tried.unwrap_or_else(|_| Err(ParquetError::General("the reader gave up".into())));
    result.map_err(|error| ImportError::source(path, format!("damaged parquet: {error}")))
}

fn files(source: &Path) -> Result<Vec<PathBuf>, ImportError> {
    if !source.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let entries = fs::read_dir(source).map_err(ImportError::io(source))?;
    let mut files =
        entries.map(|entry| Ok(entry.map_err(ImportError::io(source))?.path())).collect::<Result<Vec<_>, _>>()?;
    files.retain(|path| path.extension().is_some_and(|ending| ending == "parquet"));
    files.sort_unstable();
    if files.is_empty() {
        return Err(ImportError::source(source, "holds no parquet file"));
    }
    // Keys are made of files' names, and whoever imports a part reads no rows of others.
    let mut stems = BTreeMap::new();
    for path in &files {
        if let Some(other) = stems.insert(key_of(&name_of(path, 0)), path) {
            let what = format!("its rows would have the keys of those of {}, rename one of the two", other.display());
            return Err(ImportError::source(path, what));
        }
    }
    Ok(files)
}

/// Names of the feature `label` in what `datasets` writes into a file.
fn class_names(metadata: &str) -> Vec<String> {
    let metadata: Value = serde_json::from_str(metadata).unwrap_or_default();
    let names = metadata.pointer("/info/features/label/names").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// The name of a row's sample: its file's, and its number there.
pub fn name_of(path: &Path, row: u64) -> String {
    format!("{}-{row:06}", text(path.file_stem().map_or(path, Path::new)))
}
