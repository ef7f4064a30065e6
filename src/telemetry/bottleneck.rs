//! Names the stage that limits the run.
//!
//! Comes in: what every stage has done, and when that was looked at. Goes out: the stage that was neither starved nor
//! blocked over the last seconds, if any has worked.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::stage::{Stage, StageTotals};

/// These stages run on one pool of workers, so only the pool as a whole can be busy or idle.
const POOL: [Stage; 4] = [Stage::Decode, Stage::Augment, Stage::Mask, Stage::Batch];

/// Shorter windows see single batches, longer ones answer late when a setting's effect is watched.
const WINDOW: Duration = Duration::from_secs(5);

/// A stage speaks up when a piece of its work is done, and one step of a large model can outlast [`WINDOW`]. The window
/// then reaches back until every stage has spoken, at most this far.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// Looks that follow each other faster than this add nothing to a window of seconds.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// The stage whose workers had the greatest share of busy time in `elapsed`, in which `deltas` were added.
///
/// The pool's stages share one busy share; the one of them with the most busy time stands for the pool. Two stages are
/// judged by how long the next one waits for them too. Fetching works ahead for as long as there is room on the disk,
/// whether or not anybody waits for it: where there are readers, its share is at most that of their waiting. Readers may
/// be more than the batches that may be begun keep busy, however few the samples are that come of it: their share is at
/// least that of the pool's waiting, as far as they do not wait for shards themselves. Stages that account for less than
/// `elapsed` were idle in the rest of it.
pub fn limiting(deltas: &[(Stage, StageTotals)], elapsed: Duration) -> Option<Stage> {
    let (pool, mut alone): (Vec<_>, Vec<_>) = deltas.iter().copied().partition(|(stage, _)| POOL.contains(stage));
    let busiest = first_greatest(pool.iter().map(|(stage, delta)| (*stage, delta.busy)));
    let pool = sum(&pool);
    alone.extend(busiest.map(|(stage, _)| (stage, pool)));
    let read = alone.iter().find(|(stage, _)| *stage == Stage::Read).map(|(_, read)| *read).unwrap_or_default();
    let shares = alone.iter().map(|(stage, delta)| {
        let busy = share(delta.busy, delta, elapsed);
        let judged = match stage {
            Stage::Fetch if !read.accounted().is_zero() => busy.min(share(read.starved, &read, elapsed)),
            Stage::Read => busy.max(share(pool.starved, &pool, elapsed) * of_what_was_not_blocked(&read)),
            _ => busy,
        };
        (*stage, judged)
    });
    first_greatest(shares).map(|(stage, _)| stage)
}

/// The share of busy time in that in which workers had work or waited for it.
fn of_what_was_not_blocked(delta: &StageTotals) -> f64 {
    let whole = delta.busy.saturating_add(delta.starved);
    if whole.is_zero() { 0.0 } else { delta.busy.as_secs_f64() / whole.as_secs_f64() }
}

/// The first of the entries with the greatest value above zero.
fn first_greatest<T: PartialOrd + Default>(entries: impl Iterator<Item = (Stage, T)>) -> Option<(Stage, T)> {
    entries.filter(|(_, value)| *value > T::default()).reduce(|best, next| if next.1 > best.1 { next } else { best })
}

fn sum(deltas: &[(Stage, StageTotals)]) -> StageTotals {
    deltas.iter().fold(StageTotals::default(), |sum, (_, delta)| StageTotals {
        busy: sum.busy.saturating_add(delta.busy),
        starved: sum.starved.saturating_add(delta.starved),
        blocked: sum.blocked.saturating_add(delta.blocked),
        ..sum
    })
}

/// Of all the time of a stage's workers.
fn share(part: Duration, delta: &StageTotals, elapsed: Duration) -> f64 {
    let whole = delta.accounted().max(elapsed);
    if whole.is_zero() { 0.0 } else { part.as_secs_f64() / whole.as_secs_f64() }
}

/// Remembers the looks of the last seconds, so that the answer depends on now and not on who else has looked.
pub struct Window {
    looks: VecDeque<(Instant, Vec<(Stage, StageTotals)>)>,
}

impl Window {
    pub fn new(now: Instant, totals: Vec<(Stage, StageTotals)>) -> Self {
        Self { looks: VecDeque::from([(now, totals)]) }
    }

    /// Looks that are remembered: a few, however often somebody looks.
    pub fn looks(&self) -> usize {
        self.looks.len()
    }

    /// The limiting stage since the youngest look that is old enough, or since the oldest there is.
    pub fn look(&mut self, now: Instant, totals: Vec<(Stage, StageTotals)>) -> Option<Stage> {
        while let Some((when, then)) = self.looks.get(1) {
            let age = now.saturating_duration_since(*when);
            if age < WINDOW || (age < LONGEST_WINDOW && !all_have_spoken(&totals, then)) {
                break;
            }
            self.looks.pop_front();
        }
        let (since, before) = self.looks.front()?;
        let deltas: Vec<_> =
            totals.iter().zip(before).map(|((stage, now), (_, then))| (*stage, now.since(then))).collect();
        let answer = limiting(&deltas, now.saturating_duration_since(*since));
        if self.looks.back().is_none_or(|(last, _)| now.saturating_duration_since(*last) >= BETWEEN_LOOKS) {
            self.looks.push_back((now, totals));
        }
        answer
    }
}

/// Whether each stage that has ever accounted for time has done so again. Checkpoints and evaluations are too rare to
/// wait for.
fn all_have_spoken(now: &[(Stage, StageTotals)], then: &[(Stage, StageTotals)]) -> bool {
    let waited_for = now.iter().zip(then).filter(|((stage, _), _)| !matches!(stage, Stage::Checkpoint | Stage::Eval));
    waited_for
        .map(|((_, now), (_, then))| (now.accounted(), then.accounted()))
        .all(|(now, then)| now.is_zero() || now > then)
}
