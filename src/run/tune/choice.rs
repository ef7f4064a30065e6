//! Measured rates → which value to try next, which to take, and what that means; nothing here looks at a clock.
//!
//! The values of one setting are tried in doubling steps while that pays, then the gap between the largest that is too
//! slow and the smallest that is fast enough is halved until it closes.

use std::fmt;

use serde::Serialize;

/// Twice as much of something must bring at least this share, or no more of it is tried.
const WORTH: f64 = 0.05;

/// A rate this share below the best is as good as the best.
const ALIKE: f64 = 0.03;

/// Windows that scatter more than [`ALIKE`] cannot tell rates apart that finely; beyond this they say too little.
const MOST_SCATTER: f64 = 0.1;

/// What the data path alone should do beyond what the device takes: shards differ, and not all of them were read.
const HEADROOM: f64 = 1.2;

/// A device that waits less than this share of its time is not held up.
const HARDLY: f64 = 0.05;

/// What one value of a setting gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tried {
    pub value: usize,
    pub samples_per_second: f64,
    /// Standard error of the rate.
    pub error: f64,
}

impl Tried {
    /// From the rates of equal slices of a window. A single slice does not tell how far off it is.
    pub fn of(value: usize, slices: &[f64], samples_per_second: f64) -> Self {
        let count = slices.len() as f64;
        let mean = slices.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = slices.iter().map(|rate| (rate - mean).powi(2)).sum();
        let error = if slices.len() < 2 {
            MOST_SCATTER * samples_per_second
        } else {
            (squares / (count - 1.0)).sqrt() / count.sqrt()
        };
        Self { value, samples_per_second, error }
    }
}

/// The value to try next, at most `most`; `None` once the choice is clear.
///
/// `need`: samples per second beyond which more is of no use; infinite where the fastest is wanted.
pub fn next(tried: &[Tried], most: usize, need: f64) -> Option<usize> {
    let tried = sorted(tried);
    let Some(last) = tried.last() else { return Some(1) };
    if last.value < most && last.samples_per_second < need * HEADROOM && gains(&tried, last) {
        return Some(last.value.saturating_mul(2).min(most));
    }
    let enough = enough(&tried, need);
    let place = tried.iter().position(|one| one.samples_per_second >= enough)?;
    let below = tried.get(place.checked_sub(1)?)?;
    // So many more do at most so many times the work, so fewer than these cannot suffice.
    let least = below.value as f64 * enough / below.samples_per_second.max(f64::MIN_POSITIVE);
    let low = below.value.max((least.ceil() as usize).saturating_sub(1));
    let gap = tried[place].value.saturating_sub(low);
    (gap > 1).then(|| low + gap / 2)
}

/// The least value that is as good as the best, or that does what the device needs with room to spare.
pub fn choose(tried: &[Tried], need: f64) -> Option<usize> {
    let tried = sorted(tried);
    let enough = enough(&tried, need);
    tried.iter().find(|one| one.samples_per_second >= enough).map(|one| one.value)
}

/// Values worth trying with the device at work on the same processors: the one that `choose` takes for the data path
/// alone, half of it and twice of it.
pub fn shortlist(chosen: usize, most: usize) -> Vec<usize> {
    let mut values = vec![chosen, chosen / 2, chosen.saturating_mul(2).min(most)];
    values.retain(|value| *value > 0);
    values.sort_unstable();
    values.dedup();
    values
}

fn sorted(tried: &[Tried]) -> Vec<Tried> {
    let mut tried = tried.to_vec();
    tried.sort_by_key(|one| one.value);
    tried
}

/// Whether the last doubling may have paid.
fn gains(tried: &[Tried], last: &Tried) -> bool {
    let half = last.value.next_power_of_two() / 2;
    tried
        .iter()
        .find(|one| one.value == half)
        .is_none_or(|before| last.samples_per_second + last.error >= (1.0 + WORTH) * before.samples_per_second)
}

fn enough(tried: &[Tried], need: f64) -> f64 {
    let best = tried
        .iter()
        .copied()
        .reduce(|best, one| if one.samples_per_second > best.samples_per_second { one } else { best });
    let alike = best.map_or(0.0, |best| {
        let scatter = best.error / best.samples_per_second.max(f64::MIN_POSITIVE);
        best.samples_per_second * (1.0 - scatter.clamp(ALIKE, MOST_SCATTER))
    });
    alike.min(need * HEADROOM)
}

/// What was measured at the chosen settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// Samples per second of the training step alone.
    pub need: f64,
    /// Of the data path alone.
    pub supply: f64,
    /// Processor time of one sample in the data path and in the step together.
    pub cpu_milliseconds: f64,
    /// The stage that limits the data path alone.
    pub data_limit: Option<String>,
    /// Of both at once, where there was time for it.
    pub together: Option<Together>,
    pub cores: usize,
    /// Whether the device is the processor that the workers run on.
    pub shares_cores: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Together {
    pub samples_per_second: f64,
    /// Share of its time that the device waits for data.
    pub wait_share: f64,
    pub limit: Option<String>,
}

/// What limits, and how far the device's need is met.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub limiting_stage: String,
    /// What the data path alone delivers, in terms of what the device alone takes.
    pub supply_over_need: f64,
    pub device_wait_share: f64,
    /// Cores that would let the step run as fast as alone, where cores are what is short.
    pub cores_needed: Option<usize>,
    pub sentence: String,
}

/// Judges the findings.
pub fn judge(findings: &Findings) -> Verdict {
    let Findings { supply, ref together, .. } = *findings;
    // What both at once have done, the step alone can do too: its window was a slow one then.
    let need = together.as_ref().map_or(findings.need, |together| findings.need.max(together.samples_per_second));
    let lacks = (1.0 - supply / need).max(0.0);
    let wait = together.as_ref().map_or(lacks, |together| together.wait_share);
    let waits = wait >= HARDLY;
    // Where workers and step share the cores, both are slower, and neither waits for the other.
    let slower = together.as_ref().is_some_and(|together| together.samples_per_second < (1.0 - HARDLY) * need);
    let squeezed = findings.shares_cores && slower;
    let alone = if supply < need { findings.data_limit.clone() } else { None };
    let limit = together.as_ref().and_then(|together| together.limit.clone()).or(alone);
    let limit = limit.unwrap_or_else(|| "train".into());
    // More cores do not make a disk faster, and one that has them already waits for something else.
    let cores = (need * findings.cpu_milliseconds / 1e3).ceil() as usize;
    let cores_needed = ((waits || squeezed) && limit != "read" && cores > findings.cores).then_some(cores);
    let mut sentence = format!("{limit} limits: ");
    sentence += &if waits {
        waiting(supply / need, wait, &limit, cores_needed)
    } else {
        format!("the data path delivers {} what the device takes", Times(supply / need))
    };
    if let Some(together) = together {
        let share = 100.0 * together.samples_per_second / need;
        let rate = together.samples_per_second;
        sentence += &format!("; both at once train {rate:.0} samples/s, {share:.0} % of the step alone");
        sentence += &sharing(findings, cores_needed.filter(|_| !waits));
    }
    Verdict { limiting_stage: limit, supply_over_need: supply / need, device_wait_share: wait, cores_needed, sentence }
}

fn waiting(supply_over_need: f64, wait: f64, limit: &str, cores_needed: Option<usize>) -> String {
    let share = format!("the device waits {:.0} % of the time", 100.0 * wait);
    let supply = format!("the data path alone delivers {} what the device takes", Times(supply_over_need));
    match cores_needed {
        Some(cores) => format!("{share}: {cores} cores would do"),
        None if limit == "read" => format!("{share}: a faster disk would help, more cores would not"),
        None => format!("{share}, though {supply}"),
    }
}

fn sharing(findings: &Findings, cores_needed: Option<usize>) -> String {
    let cores = match findings.cores {
        _ if !findings.shares_cores => return String::new(),
        1 => "core".to_owned(),
        cores => format!("{cores} cores"),
    };
    let needed = cores_needed.map_or(String::new(), |cores| format!(": {cores} would do for both"));
    format!(", on the same {cores}{needed}")
}

/// A factor as one says it: `0.62 times`, `3.1 times`, `42 times`.
struct Times(f64);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0 {
            ..1.0 => 2,
            ..10.0 => 1,
            _ => 0,
        };
        write!(f, "{:.digits$} times", self.0)
    }
}
