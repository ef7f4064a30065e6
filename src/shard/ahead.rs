//! What a stream reads next → the set's depot, which fetches it ahead.

use std::sync::Arc;

use super::ShardSet;
use super::remote;

/// Tells what one stream reads from now on; what it said is forgotten when this goes.
#[derive(Debug)]
pub struct Ahead {
    set: Arc<ShardSet>,
    depot: remote::Ahead,
}

impl Ahead {
    /// None where all shards are here.
    pub fn of(set: &Arc<ShardSet>) -> Option<Self> {
        let depot = set.depot()?.ahead();
        Some(Self { set: Arc::clone(set), depot })
    }

    /// Says which shards the stream reads from now on, by number, the next one first; those that are here are passed over.
    pub fn read_next(&self, shards: &[usize]) {
        let remote = |shard: &usize| self.set.shards().get(*shard)?.remote();
        self.depot.read_next(shards.iter().filter_map(remote).collect());
        // An open file takes its room on the disk even after it was removed.
        self.set.let_go();
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.read_next(&[]);
    }
}
