//! Shards → a report of everything that is wrong with them, found by walking each one whatever its index says.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::index::Stamp;
use super::tar::{TarError, Walk};
use super::{Label, Sample, ShardError, Table, expand, in_parallel};

/// Keys named per problem; the count tells the rest, so that a report on a million samples stays readable.
const MOST_KEYS: usize = 10;

/// What was found in all shards.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub samples: usize,
    pub bytes: u64,
    /// Problems of all shards, every sample counted.
    pub problems: usize,
    pub shards: Vec<ShardReport>,
}

/// What was found in one shard.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ShardReport {
    pub shard: PathBuf,
    pub samples: usize,
    pub bytes: u64,
    pub problems: Vec<Problem>,
}

/// One kind of problem in one shard.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub kind: ProblemKind,
    pub count: usize,
    /// The first few samples that have it.
    pub keys: Vec<String>,
    /// What the kind alone does not tell: the damage, or the shard that has the same key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What can be wrong with a shard that a run would refuse, and with samples that it would skip or train on twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    Damaged,
    /// Something follows the closing blocks, such as a second tar, which no run reads.
    DataAfterEnd,
    NoImage,
    EmptyImage,
    NoLabel,
    BadLabel,
    /// An earlier shard has a sample of the same key.
    DuplicateKey,
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(match self {
            Self::Damaged => "damaged shard",
            Self::DataAfterEnd => "data after the closing blocks",
            Self::NoImage => "sample without an image",
            Self::EmptyImage => "sample with an empty image",
            Self::NoLabel => "sample without a label",
            Self::BadLabel => "sample whose label is no number",
            Self::DuplicateKey => "sample whose key an earlier shard has",
        })
    }
}

/// Walks every shard.
///
/// # Errors
/// Patterns that stand for nothing; what is wrong with a shard itself is part of the report.
pub fn verify(patterns: &[String]) -> Result<Report, ShardError> {
    let paths = expand(patterns)?;
    let Ok(examined) = in_parallel(&paths, |path| Ok::<_, Infallible>(examine(path)));
    let (mut shards, tables): (Vec<_>, Vec<_>) = examined.into_iter().unzip();
    add_duplicates(&mut shards, &tables);
    accept_a_set_without_labels(&mut shards);
    Ok(Report {
        samples: shards.iter().map(|shard| shard.samples).sum(),
        bytes: shards.iter().map(|shard| shard.bytes).sum(),
        problems: shards.iter().flat_map(|shard| &shard.problems).map(|problem| problem.count).sum(),
        shards,
    })
}

/// Labels are missing only where some samples have one: a set may be made without any.
fn accept_a_set_without_labels(shards: &mut [ShardReport]) {
    let is_missing = |problem: &&Problem| problem.kind == ProblemKind::NoLabel;
    let missing = shards.iter().flat_map(|shard| &shard.problems).filter(is_missing).map(|problem| problem.count);
    let samples: usize = shards.iter().map(|shard| shard.samples).sum();
    if missing.sum::<usize>() == samples {
        shards.iter_mut().for_each(|shard| shard.problems.retain(|problem| problem.kind != ProblemKind::NoLabel));
    }
}

/// A damaged shard has no samples, because a run would not use any of them. Only the keys are kept for the other shards.
fn examine(path: &Path) -> (ShardReport, Vec<Box<str>>) {
    let mut report = ShardReport { shard: path.to_owned(), samples: 0, bytes: 0, problems: Vec::new() };
    match walk(path, &mut report) {
        Ok(table) => {
            report.samples = table.len();
            for sample in table.samples() {
                problems_of(&sample).for_each(|kind| report.add(kind, Some(sample.key), None));
            }
            (report, table.samples().map(|sample| sample.key.into()).collect())
        }
        Err(cause) => {
            let detail = match cause.source() {
                Some(source) => format!("{cause}: {source}"),
                None => cause.to_string(),
            };
            report.add(ProblemKind::Damaged, None, Some(detail));
            (report, Vec::new())
        }
    }
}

fn walk(path: &Path, report: &mut ShardReport) -> Result<Table, TarError> {
    let file = File::open(path)?;
    report.bytes = Stamp::of(&file.metadata()?).size;
    let mut walk = Walk::new(&file, report.bytes);
    let table = Table::walk(&mut walk)?;
    if walk.has_more()? {
        report.add(ProblemKind::DataAfterEnd, None, None);
    }
    Ok(table)
}

fn problems_of(sample: &Sample<'_>) -> impl Iterator<Item = ProblemKind> + use<> {
    let image = match sample.image() {
        None => Some(ProblemKind::NoImage),
        Some(image) if image.length == 0 => Some(ProblemKind::EmptyImage),
        Some(_) => None,
    };
    let label = match sample.label {
        Label::None => Some(ProblemKind::NoLabel),
        Label::Bad => Some(ProblemKind::BadLabel),
        Label::Known(_) => None,
    };
    image.into_iter().chain(label)
}

fn add_duplicates(reports: &mut [ShardReport], keys: &[Vec<Box<str>>]) {
    let mut first_in: HashMap<&str, usize> = HashMap::new();
    for (number, keys) in keys.iter().enumerate() {
        for key in keys {
            let first = *first_in.entry(key).or_insert(number);
            let earlier = reports.get(first).map(|report| report.shard.display().to_string());
            if let (true, Some(report)) = (first < number, reports.get_mut(number)) {
                report.add(ProblemKind::DuplicateKey, Some(key), earlier);
            }
        }
    }
}

impl ShardReport {
    /// Problems of one kind and detail are counted together.
    fn add(&mut self, kind: ProblemKind, key: Option<&str>, detail: Option<String>) {
        let known = self.problems.iter().position(|problem| problem.kind == kind && problem.detail == detail);
        let at = known.unwrap_or(self.problems.len());
        if known.is_none() {
            self.problems.push(Problem { kind, count: 0, keys: Vec::new(), detail });
        }
        let Some(problem) = self.problems.get_mut(at) else {
            return;
        };
        problem.count += 1;
        if problem.keys.len() < MOST_KEYS {
            problem.keys.extend(key.map(str::to_owned));
        }
    }
}
