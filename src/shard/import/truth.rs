//! The kit's ground truth → the class number of each of ImageNet's validation pictures.
//!
//! The kit counts classes from 1 in an order of its own (`ILSVRC2012_ID` in its `meta.mat`), everybody else from 0 in the
//! order of the sorted WordNet ids; taken for one another, all labels are wrong and nothing fails.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::classes::{Classes, content, lines, read_text};
use super::item::{Item, key_of};
use super::{ImportError, OTHER_CLASS, PassedOver, csv};
use crate::shard::hex;

/// One WordNet id a line, in the kit's order.
const KIT_ORDER: &str = include_str!("../../../shards/imagenet-kit-order.txt");

/// Labels of pictures.
#[derive(Debug)]
pub struct Truth {
    pub classes: Classes,
    path: PathBuf,
    labels: Labels,
}

/// A class by its place in [`Classes`]; none where that does not have it.
#[derive(Debug)]
enum Labels {
    /// Of picture 1, 2 and so on.
    ByNumber(Vec<Option<u32>>),
    ByName(HashMap<String, Option<u32>>),
}

impl Truth {
    /// Reads what the kit, TensorFlow's scripts or Kaggle call the truth: a number of the kit or a WordNet id a line, or
    /// lines of `picture,id …`.
    ///
    /// # Errors
    /// When a line is none of these, or of another kind than the first.
    pub fn read(path: &Path, synsets: Option<&Path>, given: Option<Classes>) -> Result<Self, ImportError> {
        let text = read_text(path)?;
        let first = content(&text).next().ok_or_else(|| ImportError::source(path, "is empty"))?.1;
        let kit = || match synsets {
            Some(synsets) => read_synsets(synsets),
            None => Ok(kit_order()),
        };
        if first.contains(',') {
            let rows = names_and_ids(path, &text)?;
            let classes = given.unwrap_or_else(|| known_or_sorted(rows.iter().map(|(_, id)| id.as_str())));
            let labels = rows.into_iter().map(|(name, id)| (name, classes.number(&id))).collect();
            return Self { classes, path: path.to_owned(), labels: Labels::ByName(labels) }.checked();
        }
        let ids = if is_number(first) { numbers(path, &text, &kit()?)? } else { words(path, &text)? };
        let classes = match given {
            Some(given) => given,
            None if is_number(first) => Classes::sorted(kit()?),
            None => known_or_sorted(ids.iter().map(String::as_str)),
        };
        let labels = ids.iter().map(|id| classes.number(id)).collect();
        Self { classes, path: path.to_owned(), labels: Labels::ByNumber(labels) }.checked()
    }

    /// Adds the labels; pictures of classes that are not wanted are passed over.
    pub fn label_all(&self, items: Vec<Item>, passed_over: &mut PassedOver) -> Result<Vec<Item>, ImportError> {
        let mut labelled = Vec::with_capacity(items.len());
        for item in items {
            match self.label(&item.name())? {
                None => *passed_over.entry(OTHER_CLASS).or_default() += 1,
                label => labelled.push(Item { label, ..item }),
            }
        }
        Ok(labelled)
    }

    /// The label of a picture; none where its class is not wanted.
    ///
    /// # Errors
    /// When the truth does not know the picture.
    pub fn label(&self, name: &str) -> Result<Option<u32>, ImportError> {
        let key = key_of(name);
        let stem = key.rsplit('/').next().unwrap_or(&key);
        let unknown = |what: String| ImportError::source(&self.path, what);
        match &self.labels {
            Labels::ByName(labels) => {
                labels.get(stem).copied().ok_or_else(|| unknown(format!("has no line for the picture `{name}`")))
            }
            Labels::ByNumber(labels) => {
                let digits = stem.len() - stem.trim_end_matches(|letter: char| letter.is_ascii_digit()).len();
                let number: Option<usize> = stem.get(stem.len() - digits..).and_then(|digits| digits.parse().ok());
                let place = number
                    .and_then(|number| number.checked_sub(1))
                    .ok_or_else(|| unknown(format!("counts pictures, and `{name}` ends in no number from 1")))?;
                let label = labels.get(place).copied();
                label.ok_or_else(|| unknown(format!("has {} lines, none for the picture `{name}`", labels.len())))
            }
        }
    }

    /// Differs where a picture has another label.
    pub fn digest(&self) -> String {
        let mut sum = Sha256::new();
        match &self.labels {
            Labels::ByNumber(labels) => labels.iter().for_each(|label| sum.update(format!("{label:?}\n"))),
            Labels::ByName(labels) => {
                let sorted: BTreeMap<_, _> = labels.iter().collect();
                sorted.iter().for_each(|(name, label)| sum.update(format!("{name} {label:?}\n")));
            }
        }
        hex(&sum.finalize())
    }

    fn checked(self) -> Result<Self, ImportError> {
        let known = match &self.labels {
            Labels::ByNumber(labels) => labels.iter().flatten().next().is_some(),
            Labels::ByName(labels) => labels.values().flatten().next().is_some(),
        };
        if known { Ok(self) } else { Err(ImportError::source(&self.path, "names no class that --classes names")) }
    }
}

fn kit_order() -> Vec<String> {
    content(KIT_ORDER).map(|(_, id)| id.to_owned()).collect()
}

/// ImageNet's numbers where all ids are ImageNet's, so that a part of the pictures keeps them.
pub(super) fn known_or_sorted<'a>(ids: impl Iterator<Item = &'a str> + Clone) -> Classes {
    let all = Classes::sorted(kit_order());
    let is_known = ids.clone().all(|id| all.number(id).is_some());
    if is_known { all } else { Classes::sorted(ids.map(str::to_owned)) }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A WordNet id is an `n` and digits.
pub(super) fn is_id(word: &str) -> bool {
    word.strip_prefix('n').is_some_and(is_number)
}

fn numbers(path: &Path, text: &str, kit: &[String]) -> Result<Vec<String>, ImportError> {
    let id = |(line, number): (usize, &str)| {
        let place = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        place.and_then(|place| kit.get(place)).cloned().ok_or_else(|| {
            ImportError::line(path, line, format!("`{number}` is none of the kit's classes, 1 to {}", kit.len()))
        })
    };
    content(text).map(id).collect()
}

fn words(path: &Path, text: &str) -> Result<Vec<String>, ImportError> {
    let id = |(line, word): (usize, &str)| match is_id(word) {
        true => Ok(word.to_owned()),
        false => {
            Err(ImportError::line(path, line, format!("`{word}` is neither a number nor a WordNet id like n01440764")))
        }
    };
    content(text).map(id).collect()
}

/// Kaggle's form: the picture's name, then its class and boxes.
fn names_and_ids(path: &Path, text: &str) -> Result<Vec<(String, String)>, ImportError> {
    let mut rows = Vec::new();
    for row in csv::rows(path, text, b',') {
        let (line, fields) = row?;
        let [name, rest, ..] = fields.as_slice() else {
            return Err(ImportError::line(path, line, "has no second field"));
        };
        let id = rest.split_whitespace().next().unwrap_or_default();
        match is_id(id) {
            true => rows.push((key_of(name), id.to_owned())),
            // The names of the columns.
            false if rows.is_empty() && line == 1 => {}
            false => return Err(ImportError::line(path, line, format!("`{id}` is no WordNet id like n01440764"))),
        }
    }
    Ok(rows)
}

/// Ids in the kit's order: a line each, or with their numbers behind them, as the kit's `map_clsloc.txt` has them.
fn read_synsets(path: &Path) -> Result<Vec<String>, ImportError> {
    let mut by_number = HashMap::new();
    let lines = lines(path)?;
    for (place, (line, text)) in lines.iter().enumerate() {
        let mut words = text.split_whitespace();
        let id = words.next().filter(|id| is_id(id));
        let id = id.ok_or_else(|| ImportError::line(path, *line, "does not begin with a WordNet id like n01440764"))?;
        let number = words.next().filter(|word| is_number(word)).and_then(|word| word.parse().ok());
        if by_number.insert(number.unwrap_or(place + 1), id.to_owned()).is_some() {
            return Err(ImportError::line(path, *line, "has a number that another line has"));
        }
    }
    let order = (1..=lines.len()).map(|number| by_number.remove(&number)).collect::<Option<Vec<_>>>();
    let order =
        order.ok_or_else(|| ImportError::source(path, "does not number its classes from 1 on without a gap"))?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < order.len() {
        return Err(ImportError::source(path, "names a class twice"));
    }
    let mut kit = kit_order();
    kit.sort_unstable();
    if order == kit {
        let what = "lists the classes sorted, which is not the kit's order; leave --synsets out";
        return Err(ImportError::source(path, what));
    }
    Ok(order)
}
