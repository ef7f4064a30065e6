//! The order of an epoch.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use saccade::shard::EpochOrder;

use super::{folder, open, text, write_set, write_tar};

#[test]
fn a_million_samples_fit_into_one_set() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    let names: Vec<String> =
        (0..20_000).map(|number| format!("train/n{:08}/{number:09}.jpg", number % 1_000)).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"" as &[u8])).collect();
    write_tar(&path, &files);
    let copies: Vec<PathBuf> = (0..50).map(|number| folder.path().join(format!("{number}.tar"))).collect();
    copies.iter().for_each(|copy| fs::hard_link(&path, copy).unwrap());
    let set = open(&[text(&folder.path().join("{0..49}.tar"))]);
    assert_eq!(set.len(), 1_000_000);
    assert_eq!(set.sample(999_999).key, "train/n00000999/000019999");
    assert_eq!(set.sample(20_000).key, "train/n00000000/000000000");
    let order = EpochOrder::new(&set, 0, 0, 7);
    let mut seen = vec![false; set.len()];
    (0..set.len()).for_each(|position| seen[order.sample(position) as usize] = true);
    assert!(seen.into_iter().all(|seen| seen));
}

#[test]
fn an_order_is_a_pure_function_of_seed_and_epoch() {
    let folder = folder();
    let set = open(&write_set(folder.path(), &[5, 4, 6, 3]));
    let order = |seed, epoch, window| {
        let order = EpochOrder::new(&set, seed, epoch, window);
        (0..set.len()).map(|position| order.sample(position)).collect::<Vec<_>>()
    };
    assert_eq!(order(1, 2, 2), order(1, 2, 2));
    assert_eq!(order(1, 2, 0), order(1, 2, 1));
    assert_eq!(order(1, 2, 4), order(1, 2, usize::MAX));
    let different = [order(1, 2, 2), order(1, 3, 2), order(2, 2, 2), order(1, 2, 4), order(1, 2, 1)];
    assert_eq!(different.iter().collect::<HashSet<_>>().len(), different.len());
}

proptest! {
    #[test]
    fn every_epoch_visits_every_sample_once(
        sizes in prop::collection::vec(0usize..20, 1..12),
        window in 0usize..14,
        seed in any::<u64>(),
        epoch in any::<u64>(),
    ) {
        prop_assume!(sizes.iter().sum::<usize>() > 0);
        let folder = folder();
        let set = open(&write_set(folder.path(), &sizes));
        let orders = [epoch, epoch.wrapping_add(1)].map(|epoch| {
            let order = EpochOrder::new(&set, seed, epoch, window);
            (0..set.len()).map(|position| order.sample(position)).collect::<Vec<_>>()
        });
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..set.len() as u32).collect::<Vec<_>>());
        }
        // The fewest orders that thirty samples can have are far more than all tests ever run.
        prop_assert!(set.len() < 30 || orders[0] != orders[1]);

        // From a shard's first sample to its last, an epoch touches no more shards than the window is wide.
        let shards: Vec<usize> = orders[0].iter().map(|number| set.sample(*number).shard_number).collect();
        for shard in &shards {
            let mut visits = shards.iter().enumerate().filter(|(_, one)| *one == shard).map(|(place, _)| place);
            let first = visits.next().unwrap();
            let touched: HashSet<_> = shards[first..=visits.next_back().unwrap_or(first)].iter().collect();
            prop_assert!(touched.len() <= window.max(1));
        }
    }
}
