//! The stream over shards of another machine: the same batches as over files, within its room on the disk.

use std::path::Path;
use std::sync::Arc;

use saccade::pipeline::{Counts, MaskMode, StreamSpec};
use saccade::shard::{Cache, ShardSet, cache};
use saccade::telemetry::{Stage, Telemetry};
use tempfile::TempDir;

use super::{Bench, Line, config, error_of, in_order, picture, some_damaged, spec};
use crate::remote::server::{Fault, Server};

/// The shards of a bench, on a server, and a folder for what comes of them.
struct Far {
    server: Server,
    folder: TempDir,
    telemetry: Telemetry,
    shards: usize,
}

impl Far {
    fn new(bench: &Bench, with_indexes: bool) -> Self {
        let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
        let shards = bench.set.shards().len();
        for number in 0..shards {
            let path = bench.shard(number);
            let name = format!("s-{number:03}.tar");
            server.put(&name, &std::fs::read(&path).unwrap());
            if with_indexes {
                server.put(&format!("{name}.index"), &std::fs::read(cache::beside(&path).unwrap()).unwrap());
            }
        }
        Self { server, folder, telemetry: Telemetry::new("test"), shards }
    }

    fn open(&self, room: u64) -> ShardSet {
        let folder = self.folder.path();
        let cache = Cache::from_variables(|name| (name == "SACCADE_CACHE").then(|| folder.into()));
        let cache = cache.with_room(Some(room)).measured(&self.telemetry);
        let pattern = self.server.url(&format!("s-{{000..{:03}}}.tar", self.shards - 1));
        ShardSet::open_with(&[pattern], true, &cache).unwrap()
    }

    /// The bench over the remote shards.
    fn bench(&self, room: u64) -> Bench {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        Bench { folder, set: Arc::new(self.open(room)), runtime, telemetry: self.telemetry.clone() }
    }

    fn whole_gets(&self) -> usize {
        (0..self.shards).map(|number| self.gets(number, false)).sum()
    }

    /// Requests for a shard as a whole, or for parts of it.
    fn gets(&self, number: usize, parts: bool) -> usize {
        let gets = self.server.gets(&format!("s-{number:03}.tar"));
        gets.iter().filter(|range| range.is_some() == parts).count()
    }

    fn bytes(&self) -> u64 {
        bytes_in(&self.folder.path().join("remote"))
    }
}

fn bytes_in(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn largest(bench: &Bench) -> u64 {
    bench.set.shards().iter().map(|shard| shard.bytes()).max().unwrap()
}

/// Two epochs and a half.
fn shuffled() -> (StreamSpec, std::ops::Range<u64>) {
    (spec(7, MaskMode::PerSample), 0..35)
}

const SIZES: [usize; 10] = [9, 11, 8, 12, 10, 10, 7, 13, 10, 10];

#[test]
fn the_stream_is_that_of_local_files_and_keeps_within_its_room() {
    let bench = Bench::new(&SIZES, some_damaged(9));
    let (spec, steps) = shuffled();
    let expected = bench.run(&spec, config(2), steps.clone());
    // The window is two shards wide: they and the next fit, or twice as many, or all.
    for shards in [3, 6, 20] {
        let far = Far::new(&bench, true);
        let room = shards * largest(&bench);
        let there = far.bench(room);
        assert_eq!(there.set.fingerprint(), bench.set.fingerprint());
        assert_eq!(far.whole_gets(), 0, "indexes beside the shards suffice to open them");
        let found: Vec<Line> = there.run(&spec, config(2), steps.clone());
        assert_eq!(paths_apart(found), paths_apart(expected.clone()), "room for {shards} shards");
        assert!(far.bytes() <= room, "{} bytes are there, {room} may be", far.bytes());
        if shards == 20 {
            assert_eq!(far.whole_gets(), SIZES.len(), "with room for all, each is fetched once");
            assert_eq!(far.telemetry.stage(Stage::Fetch).totals().samples, bench.set.len() as u64);
        }
        assert!(far.telemetry.stage(Stage::Fetch).totals().bytes > 0);
    }
}

/// Quarantined samples name their shards by path.
fn paths_apart(mut lines: Vec<Line>) -> Vec<Line> {
    for bad in lines.iter_mut().flat_map(|line| &mut line.quarantined) {
        bad.shard = bad.shard.file_name().unwrap().into();
    }
    lines
}

#[test]
fn without_indexes_shards_are_fetched_to_be_known() {
    let bench = Bench::new(&SIZES, picture);
    let far = Far::new(&bench, false);
    let room = 3 * largest(&bench);
    assert_eq!(far.open(room).fingerprint(), bench.set.fingerprint());
    assert_eq!(far.whole_gets(), SIZES.len());
    assert!(far.bytes() <= room);
    // What was learnt is kept.
    assert_eq!(far.open(room).fingerprint(), bench.set.fingerprint());
    assert_eq!(far.whole_gets(), SIZES.len());
}

#[test]
fn a_stream_may_begin_anywhere() {
    let bench = Bench::new(&SIZES, picture);
    let far = Far::new(&bench, true);
    let (spec, _) = shuffled();
    let expected = bench.run(&spec, config(2), 20..24);
    assert_eq!(far.bench(3 * largest(&bench)).run(&spec, config(2), 20..24), expected);
}

#[test]
fn scores_read_shards_in_order_and_sparse_ones_parts_alone() {
    let bench = Bench::new(&SIZES, picture);
    for (every, parts) in [(1, false), (3, false), (25, true)] {
        let far = Far::new(&bench, true);
        let (spec, steps) = (in_order(8, every), 0..100);
        // As much as is read at once, for shards are small here.
        let there = far.bench(20 * largest(&bench));
        assert_eq!(there.run(&spec, config(2), steps.clone()), bench.run(&spec, config(2), steps), "every {every}");
        let asked: usize = (0..SIZES.len()).map(|number| far.gets(number, true)).sum();
        assert_eq!(asked > 0, parts, "every {every}: {asked} parts");
        assert_eq!(far.whole_gets(), if parts { 0 } else { SIZES.len() });
    }
}

#[test]
fn readers_wait_starved_for_a_shard_that_is_on_its_way() {
    let bench = Bench::new(&[40, 40], picture);
    let far = Far::new(&bench, true);
    let there = far.bench(4 * largest(&bench));
    far.server.close_gate();
    let mut pipeline = there.start(&spec(8, MaskMode::PerSample), config(1), 0..10, Counts::default());
    // Either may be the first to be seen.
    while there.totals(Stage::Read).starved.is_zero() || there.totals(Stage::Fetch).busy.is_zero() {
        std::thread::yield_now();
    }
    far.server.open_gate();
    assert_eq!(std::iter::from_fn(|| pipeline.next()).filter(|batch| batch.is_ok()).count(), 10);
}

#[test]
fn a_stream_that_waits_for_a_shard_can_be_dropped() {
    let bench = Bench::new(&[40, 40], picture);
    let far = Far::new(&bench, true);
    let there = far.bench(4 * largest(&bench));
    far.server.close_gate();
    let pipeline = there.start(&spec(8, MaskMode::PerSample), config(1), 0..10, Counts::default());
    while there.totals(Stage::Read).starved.is_zero() {
        std::thread::yield_now();
    }
    drop(pipeline);
    drop(there);
}

#[test]
fn a_shard_that_changes_ends_the_stream_and_so_does_an_index_of_another() {
    let bench = Bench::new(&[40, 40, 40], picture);
    let far = Far::new(&bench, true);
    let there = far.bench(9 * largest(&bench));
    far.server.fail("s-001.tar", &[Fault::Changed]);
    let (_, error) = error_of(there.start(&spec(8, MaskMode::PerSample), config(2), 0..30, Counts::default()));
    let said = chain(&error);
    assert!(said.contains("s-001.tar") && said.contains("changed"), "{said}");

    // The index of another shard of the same size.
    let far = Far::new(&bench, true);
    let other = Bench::new(&[40, 40, 40], |number| picture(number + 3));
    let shift = |number: usize| std::fs::read(cache::beside(&other.shard(number)).unwrap()).unwrap();
    assert_eq!(other.set.shards()[1].bytes(), bench.set.shards()[1].bytes(), "it would be told by its size");
    far.server.put("s-001.tar.index", &shift(1));
    let there = far.bench(9 * largest(&bench));
    let stream = there.start(&spec(8, MaskMode::PerSample), config(2), 0..30, Counts::default());
    let (_, error) = error_of(stream);
    let said = chain(&error);
    assert!(said.contains("s-001.tar") && said.contains("index"), "{said}");
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}
