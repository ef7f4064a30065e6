//! Whether values of a pipeline file make sense, one by one and together.

use std::cmp::Reverse;

use super::{ConfigError, RunConfig};
use crate::shard::{Shard, ShardSet};
use crate::telemetry::memory;

pub(super) fn value(key: &'static str, value: impl std::fmt::Display, why: &str) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), why: why.into() }
}

pub(super) fn check_ranges(config: &RunConfig) -> Result<(), ConfigError> {
    let train = &config.train;
    let range = |key, [low, high]: [f64; 2], least: f64, most: f64| {
        let fine = low <= high && low >= least && high <= most;
        let why = format!("must rise and lie in {least}..={most}");
        if fine { Ok(()) } else { Err(value(key, format!("[{low}, {high}]"), &why)) }
    };
    let positive = |key, number: f64| {
        if number > 0.0 && number.is_finite() { Ok(()) } else { Err(value(key, number, "must be greater than 0")) }
    };
    let at_least_one = |key, number: u64| {
        if number > 0 { Ok(()) } else { Err(value(key, number, "must be at least 1")) }
    };
    let finite = |key, numbers: &[f64]| match numbers.iter().find(|number| !(number.is_finite() && **number >= 0.0)) {
        Some(number) => Err(value(key, number, "must be 0 or greater")),
        None => Ok(()),
    };
    positive("train.epochs", train.epochs)?;
    at_least_one("train.batch", train.batch as u64)?;
    at_least_one("train.accumulate", train.accumulate as u64)?;
    let ranks = config.device.ranks();
    if train.accumulate > train.batch {
        return Err(value("train.accumulate", train.accumulate, "must not exceed train.batch"));
    }
    if ranks > 1 && !train.batch.is_multiple_of(train.accumulate.saturating_mul(ranks)) {
        let why = format!("must be a multiple of train.accumulate = {} times {ranks} ranks", train.accumulate);
        return Err(value("train.batch", train.batch, &why));
    }
    finite("train.learning_rate", &train.learning_rate)?;
    finite("train.warmup_epochs", &[train.warmup_epochs])?;
    if train.warmup_epochs > train.epochs {
        return Err(value("train.warmup_epochs", train.warmup_epochs, "must not exceed train.epochs"));
    }
    let [_, peak, last] = train.learning_rate;
    if last > peak {
        return Err(value("train.learning_rate", last, "the last rate must not exceed the one before it, the peak"));
    }
    finite("train.weight_decay", &train.weight_decay)?;
    range("train.ema_decay", train.ema_decay, 0.0, 1.0)?;
    train.clip_norm.map_or(Ok(()), |norm| positive("train.clip_norm", norm))?;
    finite("pixels.mean", &config.pixels.mean)?;
    for deviation in config.pixels.deviation {
        positive("pixels.deviation", deviation)?;
    }
    at_least_one("data.window", config.data.window as u64)?;
    config.data.cache_gb.map_or(Ok(()), |gb| positive("data.cache_gb", gb))?;
    at_least_one("checkpoint.every_steps", config.checkpoint.every_steps)?;
    if !(1..=MOST_KEPT).contains(&config.checkpoint.keep) {
        return Err(value("checkpoint.keep", config.checkpoint.keep, &format!("must lie in 1..={MOST_KEPT}")));
    }
    let Some(score) = &config.score else { return Ok(()) };
    at_least_one("score.k", score.k as u64)?;
    if config.data.validation.is_none() {
        return Err(value("score.k", score.k, "a score needs data.validation; name its shards or leave [score] out"));
    }
    // A hundredth of an epoch is more often than anybody looks; less would make more stops than steps.
    score.every_epochs.map_or(Ok(()), |epochs| range("score.every_epochs", [epochs; 2], 0.01, f64::MAX))?;
    score.train_samples.map_or(Ok(()), |samples| at_least_one("score.train_samples", samples as u64))
}

/// The most that a side or a width may be; beyond it a number is surely a slip, and memory would not suffice.
pub(super) const MOST_PIXELS: usize = 4096;
pub(super) const MOST_WIDTH: usize = 16384;
pub(super) const MOST_DEPTH: usize = 1024;
const MOST_KEPT: usize = 10_000;

/// Refuses queues that this machine has no memory for, before any of it is taken.
/// Shards whose samples are shuffled together are read together: those of other machines must be here together, and the
/// next one on its way.
pub(super) fn check_room(train: &ShardSet, window: usize) -> Result<(), ConfigError> {
    let Some(room) = train.room() else { return Ok(()) };
    let mut sizes: Vec<u64> = train.shards().iter().filter(|shard| shard.is_remote()).map(Shard::bytes).collect();
    sizes.sort_unstable_by_key(|size| Reverse(*size));
    let needed: u64 = sizes.iter().take(window.saturating_add(1)).sum();
    if needed <= room {
        return Ok(());
    }
    let why = format!(
        "so many shards and the next one take up to {} MB, and {} MB are there for what is fetched: lower this, or raise \
         data.cache_gb",
        needed.div_ceil(1_000_000),
        room / 1_000_000
    );
    Err(value("data.window", window, &why))
}

pub(super) fn check_memory(bytes_in_flight: u64, config: &RunConfig) -> Result<(), ConfigError> {
    match memory() {
        Some(memory) if bytes_in_flight > memory => {
            let why = format!(
                "batches and samples in flight take {bytes_in_flight} bytes, this machine has {memory}: lower this, \
                 train.batch or augment.size"
            );
            Err(value("stream.batches_ahead", config.stream.batches_ahead, &why))
        }
        _ => Ok(()),
    }
}
