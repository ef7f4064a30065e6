//! A set, a seed, an epoch → the order in which the epoch visits the samples, each exactly once.
//!
//! Shards are permuted, then samples inside each window of consecutive permuted shards: a small window reads few shards
//! at a time, one as wide as the set shuffles everything.

use super::ShardSet;
use crate::draws::{Draws, Purpose};

/// The order of one epoch; a pure function of its arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct EpochOrder(Vec<u32>);

impl EpochOrder {
    /// `window`: in shards; 0 counts as 1.
    pub fn new(set: &ShardSet, seed: u64, epoch: u64, window: usize) -> Self {
        let shards = Self::shards(set, seed, epoch);
        let mut order = Vec::with_capacity(set.len());
        for (number, window) in shards.chunks(window.max(1)).enumerate() {
            let start = order.len();
            let window = window.iter().filter_map(|shard| set.shards().get(*shard));
            order.extend(window.flat_map(|shard| shard.first()..shard.first() + shard.len() as u32));
            Draws::new(seed, epoch, number as u64, Purpose::SampleOrder).shuffle(&mut order[start..]);
        }
        Self(order)
    }

    /// The numbers of all shards, in the order in which the epoch comes to them: so many at a time make a window.
    pub fn shards(set: &ShardSet, seed: u64, epoch: u64) -> Vec<usize> {
        let mut shards: Vec<usize> = (0..set.shards().len()).collect();
        Draws::new(seed, epoch, 0, Purpose::ShardOrder).shuffle(&mut shards);
        shards
    }

    /// The number of the sample at a place of the epoch.
    ///
    /// # Panics
    /// When `position` is not below the set's length.
    pub fn sample(&self, position: usize) -> u32 {
        self.0[position]
    }
}
