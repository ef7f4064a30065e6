//! A walked shard → its table: samples in the order in which they stand, each with its key, label and members.
//!
//! A member's key is its path up to the first dot of the file name, its extension is the rest in lower case. All keys of
//! a table share one string.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;

use super::tar::{Entry, TarError, Walk};

/// Last part of the extension of an image, in lower case; the bytes decide later which format it really is.
pub(super) const IMAGE_ENDINGS: [&str; 10] = ["jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "gif", "tif", "tiff"];

/// The extension of a label.
pub(super) const LABEL: &str = "cls";

/// A 32-bit number with room for white space; a longer label is a bad one.
const MOST_LABEL_BYTES: u64 = 64;

/// The class number that a sample's `.cls` member holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Label {
    #[default]
    None,
    Known(u32),
    /// There is a `.cls` member, but it holds no unsigned 32-bit number.
    Bad,
}

/// One sample of a table.
#[derive(Clone, Copy)]
pub struct Sample<'t> {
    pub key: &'t str,
    pub label: Label,
    table: &'t Table,
    members: (usize, usize),
}

/// One file of a sample; `offset` and `length` in bytes, inside the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'t> {
    pub extension: &'t str,
    pub offset: u64,
    pub length: u64,
}

/// The samples of one shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub(super) keys: String,
    pub(super) extensions: Vec<String>,
    pub(super) samples: Vec<SampleRow>,
    pub(super) members: Vec<MemberRow>,
}

/// Ends are exclusive; a row begins where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SampleRow {
    pub key_end: usize,
    pub members_end: usize,
    pub label: Label,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberRow {
    pub extension: u32,
    pub offset: u64,
    pub length: u64,
}

impl Table {
    /// Walks the shard.
    ///
    /// # Errors
    /// Damage, a member that occurs twice, and members of one key with others between them.
    pub fn of(file: &File, size: u64) -> Result<Self, TarError> {
        Self::walk(&mut Walk::new(file, size))
    }

    pub(super) fn walk(walk: &mut Walk<'_>) -> Result<Self, TarError> {
        let mut builder = Builder::default();
        while let Some(entry) = walk.next_entry()? {
            builder.add(walk, &entry)?;
        }
        builder.finish()
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The samples in the order in which they stand in the shard.
    pub fn samples(&self) -> impl Iterator<Item = Sample<'_>> {
        (0..self.len()).filter_map(|place| self.sample(place))
    }

    /// The sample at a place below [`Table::len`].
    pub fn sample(&self, place: usize) -> Option<Sample<'_>> {
        let row = self.samples.get(place)?;
        let before = place.checked_sub(1).and_then(|before| self.samples.get(before));
        let (key_start, members_start) = before.map_or((0, 0), |before| (before.key_end, before.members_end));
        let key = self.keys.get(key_start..row.key_end).unwrap_or_default();
        Some(Sample { key, label: row.label, table: self, members: (members_start, row.members_end) })
    }

    fn refuse_scattered_keys(&self) -> Result<(), TarError> {
        let mut keys: Vec<&str> = self.samples().map(|sample| sample.key).collect();
        keys.sort_unstable();
        match keys.iter().zip(keys.iter().skip(1)).find(|(one, next)| one == next) {
            Some((key, _)) => Err(TarError::NotTogether { key: (*key).to_owned() }),
            None => Ok(()),
        }
    }
}

impl<'t> Sample<'t> {
    pub fn members(&self) -> impl Iterator<Item = Member<'t>> + use<'t> {
        let (table, (start, end)) = (self.table, self.members);
        table.members.get(start..end).unwrap_or_default().iter().map(|row| Member {
            extension: table.extensions.get(row.extension as usize).map_or("", String::as_str),
            offset: row.offset,
            length: row.length,
        })
    }

    /// The first member whose extension ends as an image's does.
    pub fn image(&self) -> Option<Member<'t>> {
        self.members().find(|member| is_image(member.extension))
    }
}

/// Whether a member of this extension is named as an image.
pub fn is_image(extension: &str) -> bool {
    let ending = extension.rsplit('.').next().unwrap_or_default();
    IMAGE_ENDINGS.contains(&ending)
}

/// A table that grows member by member.
#[derive(Default)]
pub(super) struct Builder {
    table: Table,
    /// By extension: its number, and how many samples there were when it was seen last.
    seen: HashMap<String, (u32, usize)>,
}

impl Builder {
    /// Adds what the walk has just found, if it is a member of a sample.
    pub fn add(&mut self, walk: &mut Walk<'_>, entry: &Entry) -> Result<(), TarError> {
        let Some((key, extension)) = split_name(&entry.name) else {
            return Ok(());
        };
        let label = if extension == LABEL { Some(read_label(walk, entry)?) } else { None };
        self.push(key, &extension, entry.offset, entry.length, label)
    }

    /// Adds the member that stands next in the shard.
    pub fn push(
        &mut self,
        key: &str,
        extension: &str,
        offset: u64,
        length: u64,
        label: Option<Label>,
    ) -> Result<(), TarError> {
        let begins = self.table.samples.is_empty() || self.table.keys.get(self.current_key()) != Some(key);
        if begins {
            self.table.keys.push_str(key);
            let (key_end, members_end) = (self.table.keys.len(), self.table.members.len());
            self.table.samples.push(SampleRow { key_end, members_end, label: Label::None });
        }
        let member = MemberRow { extension: self.number(key, extension)?, offset, length };
        self.table.members.push(member);
        if let Some(row) = self.table.samples.last_mut() {
            row.members_end = self.table.members.len();
            row.label = label.unwrap_or(row.label);
        }
        Ok(())
    }

    /// The latest sample, if its image is the member whose data begin at this byte.
    pub fn sample_of_image(&self, offset: u64) -> Option<Sample<'_>> {
        let latest = self.table.sample(self.table.len().checked_sub(1)?)?;
        latest.image().is_some_and(|image| image.offset == offset).then_some(latest)
    }

    pub fn finish(self) -> Result<Table, TarError> {
        self.table.refuse_scattered_keys()?;
        Ok(self.table)
    }

    fn current_key(&self) -> Range<usize> {
        match self.table.samples.as_slice() {
            [.., before, last] => before.key_end..last.key_end,
            [only] => 0..only.key_end,
            [] => 0..0,
        }
    }

    fn number(&mut self, key: &str, extension: &str) -> Result<u32, TarError> {
        let samples = self.table.samples.len();
        if let Some((number, seen_at)) = self.seen.get_mut(extension) {
            if std::mem::replace(seen_at, samples) == samples {
                return Err(TarError::Duplicate { key: key.to_owned(), extension: extension.to_owned() });
            }
            return Ok(*number);
        }
        let number = self.table.extensions.len() as u32;
        self.table.extensions.push(extension.to_owned());
        self.seen.insert(extension.to_owned(), (number, samples));
        Ok(number)
    }
}

/// `None` for a name without a dot or with nothing before its first dot, which belongs to no sample.
pub(super) fn split_name(mut name: &str) -> Option<(&str, String)> {
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    let file_name = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file_name + name.get(file_name..)?.find('.').filter(|at| *at > 0)?;
    Some((name.get(..dot)?, name.get(dot + 1..)?.to_lowercase()))
}

fn read_label(walk: &mut Walk<'_>, entry: &Entry) -> Result<Label, TarError> {
    if entry.length > MOST_LABEL_BYTES {
        return Ok(Label::Bad);
    }
    Ok(label_of(walk.data(entry)?))
}

/// What the data of a member with the extension [`LABEL`] says.
pub(super) fn label_of(data: &[u8]) -> Label {
    let text = data.trim_ascii();
    let digits = text.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.filter(|_| digits && data.len() as u64 <= MOST_LABEL_BYTES).map_or(Label::Bad, Label::Known)
}
