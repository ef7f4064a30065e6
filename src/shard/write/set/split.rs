//! How the samples of a set become shards, and the shards' names.

use std::path::Path;

use serde::Serialize;

/// How samples become shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Split {
    /// `NAME-000000.tar`, `NAME-000001.tar`, each as large as both limits allow; at least a sample is in each.
    Numbered { most_samples: Option<u64>, most_bytes: Option<u64> },
    /// So many of these files, among which so many samples that are offered go as evenly as may be; those that are dropped
    /// as [`super::DUPLICATE`] are not among them. What else is dropped or filtered is missing from its shard; there are
    /// fewer where all of one's is.
    Even { samples: u64, shards: u64 },
    /// Files of these names; [`super::SetWriter::next_shard`] leads from one to the next. Other processes may be writing other
    /// shards of the set.
    Named(Vec<String>),
}

impl Split {
    pub fn is_numbered(&self) -> bool {
        !matches!(self, Self::Named(_))
    }
}

/// Which of so many shares a sample is in, as evenly as may be.
pub fn share_of(number: u64, samples: u64, shares: u64) -> u128 {
    let (number, samples, shares) = (u128::from(number), u128::from(samples.max(1)), u128::from(shares.max(1)));
    ((number + 1) * shares - 1) / samples
}

/// The file name of a shard of a numbered set.
pub fn shard_name(set: &str, number: usize) -> String {
    format!("{set}-{number:06}.tar")
}

/// Whether a file has the name of a shard of a numbered set.
pub fn is_shard_of(set: &str, file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_prefix(set)?.strip_prefix('-')?.strip_suffix(".tar"));
    number.is_some_and(|number| number.len() >= 6 && number.bytes().all(|digit| digit.is_ascii_digit()))
}
