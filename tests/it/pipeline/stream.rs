//! Pure and exact: what comes, and in what order.

use proptest::prelude::*;
use saccade::pipeline::saccade::{Filter, Moved};
use saccade::pipeline::{Batch, Counts, MaskMode, Order, SaccadeConfig, StreamConfig, StreamSpec};
use saccade::shard::EpochOrder;

use super::{Bench, Line, SEED, config, in_order, picture, some_damaged, spec};

#[test]
fn batches_are_the_same_for_any_number_of_workers_and_any_queues() {
    for (mode, image) in [(MaskMode::SharedSize, 1000), (MaskMode::PerSample, 7)] {
        let bench = Bench::new(&[7, 5, 11, 20], some_damaged(image));
        let expected = bench.run(&spec(6, mode), config(1), 0..20);
        assert_eq!(expected.iter().map(|line| line.step).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        assert!(expected.iter().all(|line| line.digests.masks.is_some()));
        for workers in [2, 4, 7] {
            assert_eq!(bench.run(&spec(6, mode), config(workers), 0..20), expected, "{workers} workers");
        }
        for (batches_ahead, reads) in [(1, 1), (1, 5), (9, 1), (30, 4)] {
            let config = StreamConfig { batches_ahead, reads, ..config(3) };
            assert_eq!(bench.run(&spec(6, mode), config, 0..20), expected, "{batches_ahead} ahead, {reads} reads");
        }
    }
}

#[test]
fn two_views_of_a_sample_come_with_the_way_between_them_and_depend_on_nothing_else() {
    let bench = Bench::new(&[7, 5, 11], some_damaged(6));
    let saccade = SaccadeConfig {
        field: 24,
        size: 16,
        most_shift: 0.5,
        most_degrees: 3.0,
        filter: Filter::Bilinear,
        moved: Moved::Second,
    };
    let spec = StreamSpec { saccade: Some(saccade.clone()), mask: None, ..spec(6, MaskMode::PerSample) };
    let expected = bench.run(&spec, config(1), 0..12);
    assert!(expected.iter().all(|line| line.digests.shifts.is_some() && line.digests.masks.is_none()));
    assert_eq!(bench.run(&spec, config(4), 0..12), expected);

    let mut moved = 0;
    let mut still = bench.start(
        &StreamSpec { saccade: Some(SaccadeConfig { most_shift: 0.0, most_degrees: 0.0, ..saccade }), ..spec.clone() },
        config(2),
        0..12,
        Counts::default(),
    );
    let mut pipeline = bench.start(&spec, config(2), 0..12, Counts::default());
    while let Some(batch) = pipeline.next() {
        let (batch, still) = (batch.expect("a batch"), still.next().expect("as many").expect("a batch"));
        let ways = batch.saccades.as_deref().expect("two views");
        assert_eq!((batch.samples.len(), batch.pixels.len()), (ways.len(), ways.len() * 2 * 16 * 16 * 3));
        let (views, unmoved) = (batch.pixels.chunks_exact(16 * 16 * 3), still.pixels.chunks_exact(16 * 16 * 3));
        for (number, (view, unmoved)) in views.zip(unmoved).enumerate() {
            // The first view is the middle, which does not depend on the saccade; so is a second that is not moved.
            assert!(number % 2 == 1 || view == unmoved, "the first view of sample {}", number / 2);
            moved += usize::from(view != unmoved);
        }
    }
    assert!(moved > 30, "only {moved} of 72 second views were moved");
}

#[test]
fn starting_at_any_step_gives_the_same_tail() {
    let bench = Bench::new(&[7, 5, 11], some_damaged(6));
    let spec = spec(5, MaskMode::SharedSize);
    let all = bench.run(&spec, config(2), 0..15);
    for start in [1, 4, 5, 14, 15] {
        let before = all[start as usize - 1].counts;
        let mut pipeline = bench.start(&spec, config(3), start..15, before);
        let tail: Vec<_> =
            std::iter::from_fn(|| pipeline.next()).map(|batch| Line::of(&batch.expect("a batch"))).collect();
        assert_eq!(tail, all[start as usize..], "from step {start}");
    }
}

#[test]
fn every_sample_comes_once_an_epoch_with_its_own_label() {
    let bench = Bench::new(&[7, 5, 11], picture);
    // 23 samples: batches of 3 straddle the ends of the first two epochs and end with the third.
    let lines = bench.run(&spec(3, MaskMode::PerSample), config(2), 0..23);
    let samples: Vec<u32> = lines.iter().flat_map(|line| line.samples.clone()).collect();
    for (epoch, visited) in samples.chunks(23).enumerate() {
        let order = EpochOrder::new(&bench.set, SEED, epoch as u64, 2);
        assert_eq!(visited, (0..23).map(|place| order.sample(place)).collect::<Vec<_>>(), "epoch {epoch}");
        let mut sorted = visited.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..23).collect::<Vec<_>>(), "epoch {epoch}");
    }
    assert_eq!(samples.len(), 69);
    assert_eq!(
        lines.iter().map(|line| line.epoch).collect::<Vec<_>>(),
        (0..23).map(|step| step * 3 / 23).collect::<Vec<_>>()
    );
    for line in &lines {
        assert_eq!(line.labels, line.samples.iter().copied().map(Some).collect::<Vec<_>>());
    }
    assert_ne!(lines[0].digests.pixels, lines[1].digests.pixels);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_batch_size_shards_and_window_visit_every_sample_once_an_epoch(
        sizes in prop::collection::vec(1..9_usize, 1..6), batch in 1..12_usize, window in 1..8_usize, seed in any::<u64>(),
    ) {
        let bench = Bench::new(&sizes, picture);
        let len = bench.set.len();
        let order = Order::Shuffled { seed, window };
        // As many batches as it takes to end an epoch with a batch.
        let lines = bench.run(&StreamSpec { order, batch, mask: None, ..spec(1, MaskMode::PerSample) }, config(2), 0..len as u64);
        let mut samples: Vec<u32> = lines.into_iter().flat_map(|line| line.samples).collect();
        prop_assert_eq!(samples.len(), batch * len);
        for epoch in samples.chunks_mut(len) {
            epoch.sort_unstable();
            prop_assert!(epoch.iter().copied().eq(0..len as u32));
        }
    }
}

#[test]
fn a_consumer_may_keep_batches_and_they_stay_what_they_are() {
    let bench = Bench::new(&[20, 13], picture);
    let spec = spec(4, MaskMode::PerSample);
    let expected = bench.run(&spec, config(2), 0..30);
    let config = StreamConfig { batches_ahead: 1, ..config(2) };
    let mut pipeline = bench.start(&spec, config, 0..30, Counts::default());
    let held: Vec<Batch> = std::iter::from_fn(|| pipeline.next()).map(|batch| batch.expect("a batch")).collect();
    assert_eq!(held.iter().map(Line::of).collect::<Vec<_>>(), expected);
}

#[test]
fn in_order_sees_each_sample_once_and_leaves_bad_ones_out() {
    let bench = Bench::new(&[9, 14], some_damaged(5));
    for (every, batch) in [(1, 4), (1, 23), (1, 100), (3, 4), (5, 1), (100, 4)] {
        let lines = bench.run(&in_order(batch, every), config(3), 0..u64::from(u32::MAX));
        let expected: Vec<u32> = (0..23).step_by(every).filter(|number| number % 5 != 1).collect();
        let samples: Vec<u32> = lines.iter().flat_map(|line| line.samples.clone()).collect();
        assert_eq!(samples, expected, "every {every}, batches of {batch}");
        let bad: usize = lines.iter().map(|line| line.quarantined.len()).sum();
        assert_eq!(bad, (0..23).step_by(every).filter(|number| number % 5 == 1).count());
        assert!(lines.iter().flat_map(|line| &line.quarantined).all(|bad| bad.replaced_by.is_empty()));
        let last = lines.last().expect("a batch");
        assert_eq!(last.counts, Counts { read: 23_usize.div_ceil(every) as u64, quarantined: bad as u64 });
    }
}

#[test]
fn in_order_gives_each_image_the_same_pixels_in_any_batch() {
    let bench = Bench::new(&[9, 14], some_damaged(5));
    let pixels = |batch: usize| {
        let mut pipeline = bench.start(&in_order(batch, 1), config(2), 0..100, Counts::default());
        let mut pixels = Vec::new();
        while let Some(batch) = pipeline.next() {
            pixels.extend_from_slice(&batch.expect("a batch").pixels);
        }
        pixels
    };
    let one_by_one = pixels(1);
    assert_eq!(one_by_one.len(), 18 * 16 * 16 * 3);
    assert_eq!(pixels(7), one_by_one);
    assert_eq!(pixels(23), one_by_one);
}

#[test]
fn an_empty_range_of_steps_has_no_batches() {
    let bench = Bench::new(&[9], picture);
    assert_eq!(bench.run(&spec(4, MaskMode::PerSample), config(2), 5..5), []);
    assert_eq!(bench.run(&in_order(4, 1), config(2), 7..9), []);
}
