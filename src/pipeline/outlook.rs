//! A stream's order → which shards it reads from some position on, told to those that are fetched from other machines.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Order;
use crate::shard::{Ahead, EpochOrder, ShardSet};

/// Of a sparser stream than that, samples are read one by one where they lie: to fetch all would take longer.
const SPARSE: usize = 8;

/// What is said of a stream, as far as its reading has come.
pub(super) struct Outlook {
    ahead: Ahead,
    order: Order,
    /// Shards that are read together, and the position at which the last of their samples has been.
    spans: VecDeque<(u64, Vec<usize>)>,
    /// The next epoch whose spans are not known yet, and the position at which it begins.
    next: (u64, u64),
    /// The stream's end.
    end: u64,
    is_said: bool,
}

impl Outlook {
    /// None where all shards are here, or none need be.
    pub fn new(set: &Arc<ShardSet>, order: Order, end: u64) -> Option<Self> {
        let is_sparse = match order {
            Order::Shuffled { .. } => false,
            Order::InOrder { every } | Order::Viewed { every, .. } => every >= SPARSE,
        };
        if is_sparse {
            return None;
        }
        Some(Self { ahead: Ahead::of(set)?, order, spans: VecDeque::new(), next: (0, 0), end, is_said: false })
    }

    /// Says what is read from a position on, which never falls, if that is another than before.
    pub fn look(&mut self, set: &ShardSet, position: u64) {
        if let Order::Shuffled { .. } = self.order {
            let epoch = position / set.len() as u64;
            if self.next.0 < epoch {
                self.next = (epoch, epoch * set.len() as u64);
            }
        }
        let is_over = self.spans.front().is_some_and(|(end, _)| *end <= position);
        if self.is_said && !is_over {
            return;
        }
        self.is_said = true;
        self.plan(set, position);
        while self.spans.front().is_some_and(|(end, _)| *end <= position) {
            self.spans.pop_front();
        }
        let shards: Vec<usize> = self.spans.iter().flat_map(|(_, shards)| shards).copied().collect();
        self.ahead.read_next(&shards);
    }

    /// Adds epochs until as many shards are known as there are, which is more than is ever fetched ahead.
    fn plan(&mut self, set: &ShardSet, position: u64) {
        let known = |spans: &VecDeque<(u64, Vec<usize>)>| -> usize {
            spans.iter().filter(|(end, _)| *end > position).map(|(_, shards)| shards.len()).sum()
        };
        while self.next.1 < self.end && known(&self.spans) <= set.shards().len() {
            let (epoch, start) = self.next;
            let mut end = start;
            let samples = |shard: &usize| set.shards().get(*shard).map_or(0, |shard| shard.len() as u64);
            match self.order {
                Order::Shuffled { seed, window } => {
                    for window in EpochOrder::shards(set, seed, epoch).chunks(window.max(1)) {
                        end += window.iter().map(samples).sum::<u64>();
                        self.spans.push_back((end, window.to_vec()));
                    }
                }
                Order::InOrder { every } => end = self.in_order(set, every, 1),
                Order::Viewed { every, views, .. } => end = self.in_order(set, every, views),
            }
            self.next = (epoch + 1, end);
        }
    }

    /// Adds every shard; there is no other epoch.
    fn in_order(&mut self, set: &ShardSet, every: usize, views: usize) -> u64 {
        for (number, shard) in set.shards().iter().enumerate() {
            let end = (shard.first() as usize + shard.len()).div_ceil(every) * views;
            self.spans.push_back((end as u64, vec![number]));
        }
        self.end
    }
}
