//! Masks against the statistics of the authors' collator, and as properties of every mask there can be.

use proptest::prelude::*;
use saccade::draws::{Draws, Purpose};
use saccade::pipeline::mask::{MaskScratch, SampleMasks, collate};
use saccade::pipeline::{Indices, MaskConfig, MaskError, MaskMode, Masks};
use serde::Deserialize;

use crate::reference;

fn authors(mode: MaskMode) -> MaskConfig {
    MaskConfig {
        mode,
        context_scale: [0.85, 1.0],
        target_scale: [0.15, 0.2],
        target_ratio: [0.75, 1.5],
        target_blocks: 4,
        min_keep: 10,
    }
}

/// The masks of one batch, drawn as the pipeline draws them.
fn batch(config: &MaskConfig, grid: usize, batch: u64, step: u64) -> (Vec<SampleMasks>, Masks) {
    let shared = config.shared_sizes(grid, &mut Draws::new(7, u64::MAX, step, Purpose::Masks));
    let mut scratch = MaskScratch::default();
    let sample = |number: u64| {
        let mut draws = Draws::new(7, 0, step * batch + number, Purpose::Masks);
        let mut masks = SampleMasks::default();
        config.draw(grid, shared.as_ref(), &mut draws, &mut scratch, &mut masks);
        masks
    };
    let samples: Vec<_> = (0..batch).map(sample).collect();
    let masks = collate(config.mode, samples.iter());
    (samples, masks)
}

#[derive(Deserialize)]
struct Statistics {
    grid: usize,
    batch: u64,
    batches: u64,
    context_mean: f64,
    context_sd: f64,
    target_mean: f64,
    target_sd: f64,
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt())
}

#[test]
fn shared_size_masks_keep_as_many_patches_as_those_of_the_authors() {
    let text = std::fs::read_to_string(reference().join("mask_statistics.json")).expect("reference statistics");
    let all: Vec<Statistics> = serde_json::from_str(&text).expect("statistics by grid and batch size");
    assert!(!all.is_empty());
    for theirs in all {
        let config = authors(MaskMode::SharedSize);
        let kept: Vec<_> = (0..theirs.batches)
            .map(|step| batch(&config, theirs.grid, theirs.batch, step).1)
            .map(|masks| (masks.context.width as f64, masks.targets[0].width as f64))
            .collect();
        let (context, target): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
        let count = theirs.batches as f64;
        for (name, ours, (mean, sd)) in [
            ("context", context, (theirs.context_mean, theirs.context_sd)),
            ("target", target, (theirs.target_mean, theirs.target_sd)),
        ] {
            let (our_mean, our_sd) = mean_and_deviation(&ours);
            // Both means are estimates over as many batches.
            let of_mean = (sd * sd / count + our_sd * our_sd / count).sqrt();
            let of_sd = ((sd * sd + our_sd * our_sd) / (2.0 * count)).sqrt();
            let at = format!("{name}, grid {}, batch {}", theirs.grid, theirs.batch);
            assert!((our_mean - mean).abs() < 3.0 * of_mean, "{at}: mean {our_mean}, theirs {mean} ± {of_mean}");
            assert!((our_sd - sd).abs() < 3.0 * of_sd, "{at}: deviation {our_sd}, theirs {sd} ± {of_sd}");
        }
    }
}

#[test]
fn per_sample_masks_reach_the_last_row_and_keep_the_bottom_of_the_images() {
    let (grid, config) = (16, authors(MaskMode::PerSample));
    let (mut top, mut bottom, mut last_row) = (0.0, 0.0, 0);
    for step in 0..20 {
        let (_, masks) = batch(&config, grid, 128, step);
        for row in masks.context.indices.chunks(masks.context.width).zip(&masks.context.lengths) {
            let patches = &row.0[..*row.1 as usize];
            let above = patches.iter().filter(|patch| (**patch as usize) < grid * grid / 2).count();
            top += above as f64;
            bottom += (patches.len() - above) as f64;
        }
        let all = masks.targets.iter().flat_map(|block| &block.indices);
        last_row += all.filter(|patch| **patch as usize >= grid * (grid - 1)).count();
    }
    assert!((top / bottom - 1.0_f64).abs() < 0.05, "top {top}, bottom {bottom}");
    assert!(last_row > 0);
}

#[test]
fn settings_that_can_leave_no_context_are_refused_and_those_of_the_authors_are_not() {
    for mode in [MaskMode::SharedSize, MaskMode::PerSample] {
        for grid in [14, 16, 32] {
            assert_eq!(authors(mode).check(grid), Ok(()), "{mode:?}, grid {grid}");
        }
        for grid in [4, 5, 6] {
            assert!(authors(mode).check(grid).is_err(), "{mode:?}, grid {grid}");
        }
        assert_eq!(authors(mode).check(1), Err(MaskError::Grid { grid: 1 }));
        let covering = MaskConfig { target_scale: [0.5, 0.6], ..authors(mode) };
        assert!(matches!(covering.check(14), Err(MaskError::NoContext { grid: 14, .. })));
        let tiny = MaskConfig { target_scale: [0.01, 0.2], ..authors(mode) };
        assert!(matches!(tiny.check(14), Err(MaskError::TargetTooSmall { min_keep: 10, .. })));
        let backwards = MaskConfig { target_ratio: [1.5, 0.75], ..authors(mode) };
        assert!(matches!(backwards.check(14), Err(MaskError::Range { key: "target_ratio", .. })));
        let unknown = MaskConfig { context_scale: [0.85, f64::NAN], ..authors(mode) };
        assert!(matches!(unknown.check(14), Err(MaskError::Range { key: "context_scale", .. })));
        let none = MaskConfig { target_blocks: 0, ..authors(mode) };
        assert!(matches!(none.check(14), Err(MaskError::Blocks { blocks: 0, .. })));
    }
}

#[test]
fn drawing_ends_even_where_check_would_refuse() {
    for mode in [MaskMode::SharedSize, MaskMode::PerSample] {
        for grid in 1..6 {
            let (samples, _) = batch(&authors(mode), grid, 4, 0);
            assert!(samples.iter().flat_map(|sample| &sample.context).all(|patch| (*patch as usize) < grid * grid));
        }
    }
}

#[test]
fn a_configuration_is_written_in_kebab_case_and_refuses_unknown_keys() {
    let text = "mode = \"per-sample\"\ncontext_scale = [0.85, 1.0]\ntarget_scale = [0.15, 0.2]\n\
                target_ratio = [0.75, 1.5]\ntarget_blocks = 4\nmin_keep = 10\n";
    assert_eq!(toml::from_str(text), Ok(authors(MaskMode::PerSample)));
    assert!(toml::from_str::<MaskConfig>(&format!("{text}overlap = true\n")).is_err());
}

/// Settings as far apart as anybody would write them; some of them `check` refuses.
fn settings() -> impl Strategy<Value = (MaskConfig, usize)> {
    let range =
        |low: f64, high: f64| (low..high, 0.0..0.3_f64).prop_map(move |(from, more)| [from, (from + more).min(1.0)]);
    let mode = prop_oneof![Just(MaskMode::SharedSize), Just(MaskMode::PerSample)];
    (mode, range(0.6, 1.0), range(0.02, 0.3), (0.4..1.2_f64, 0.0..1.2_f64), 1..6_usize, 0..12_usize, 3..20_usize)
        .prop_map(|(mode, context_scale, target_scale, (ratio, more), target_blocks, min_keep, grid)| {
            let target_ratio = [ratio, ratio + more];
            (MaskConfig { mode, context_scale, target_scale, target_ratio, target_blocks, min_keep }, grid)
        })
}

fn rows(indices: &Indices) -> Vec<&[u32]> {
    let widths = indices.indices.chunks(indices.width.max(1));
    widths.zip(&indices.lengths).map(|(row, length)| &row[..*length as usize]).collect()
}

fn is_sorted_and_on_the_grid(row: &[u32], grid: usize) -> bool {
    row.windows(2).all(|pair| pair[0] < pair[1]) && row.iter().all(|patch| (*patch as usize) < grid * grid)
}

proptest! {
    #[test]
    fn context_and_targets_never_overlap_and_have_enough_patches((config, grid) in settings(), step in 0..50_u64) {
        prop_assume!(config.check(grid).is_ok());
        let (samples, masks) = batch(&config, grid, 5, step);
        prop_assert_eq!(masks.targets.len(), config.target_blocks);
        for indices in masks.targets.iter().chain([&masks.context]) {
            prop_assert_eq!(indices.lengths.len(), 5);
            prop_assert_eq!(indices.indices.len(), 5 * indices.width);
            for (row, padded) in rows(indices).iter().zip(indices.indices.chunks(indices.width)) {
                prop_assert!(is_sorted_and_on_the_grid(row, grid), "{:?}", row);
                prop_assert!(row.len() > config.min_keep, "{} patches", row.len());
                prop_assert!(padded[row.len()..].iter().all(|patch| *patch == 0));
            }
            let lengths = indices.lengths.iter().map(|length| *length as usize);
            match config.mode {
                MaskMode::SharedSize => prop_assert!(lengths.clone().all(|length| length == indices.width)),
                MaskMode::PerSample => prop_assert_eq!(lengths.max(), Some(indices.width)),
            }
        }
        for (number, context) in rows(&masks.context).into_iter().enumerate() {
            for block in &masks.targets {
                let target = rows(block)[number];
                prop_assert!(!context.iter().any(|patch| target.contains(patch)));
            }
        }
        if config.mode == MaskMode::PerSample {
            for (number, sample) in samples.iter().enumerate() {
                prop_assert_eq!(rows(&masks.context)[number], sample.context.as_slice());
            }
        }
    }

    #[test]
    fn the_same_draws_give_the_same_masks((config, grid) in settings(), step in 0..50_u64) {
        prop_assert_eq!(batch(&config, grid, 3, step), batch(&config, grid, 3, step));
    }
}
