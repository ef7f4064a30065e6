//! Shards → what one wants to know of each before using it, and their indexes made anew.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::index::Index;
use super::{Cache, Label, ShardError, expand, in_parallel};

/// What a shard holds.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Listing {
    pub shard: PathBuf,
    pub samples: usize,
    pub bytes: u64,
    /// How many samples carry each label; samples without a good one are not counted.
    pub labels: BTreeMap<u32, usize>,
}

/// What became of a shard's index.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Reindexed {
    pub shard: PathBuf,
    pub samples: usize,
    /// `None` where neither the shard's folder nor the cache could be written.
    pub index: Option<PathBuf>,
}

/// Tells what each shard holds, from its index.
///
/// # Errors
/// As [`super::ShardSet::open`], but shards without samples are fine.
pub fn list(patterns: &[String], cache: &Cache) -> Result<Vec<Listing>, ShardError> {
    in_parallel(&expand(patterns, cache)?, |shard| {
        let Index { stamp, table } = Index::open(shard, cache)?;
        let mut labels = BTreeMap::new();
        for sample in table.samples() {
            if let Label::Known(label) = sample.label {
                *labels.entry(label).or_default() += 1;
            }
        }
        Ok(Listing { shard: shard.clone(), samples: table.len(), bytes: stamp.size, labels })
    })
}

/// Makes every shard's index again, whatever is kept.
///
/// # Errors
/// As [`list`].
pub fn reindex(patterns: &[String], cache: &Cache) -> Result<Vec<Reindexed>, ShardError> {
    in_parallel(&expand(patterns, cache)?, |shard| {
        let (index, place) = Index::make(shard, cache)?;
        Ok(Reindexed { shard: shard.clone(), samples: index.table.len(), index: place })
    })
}
