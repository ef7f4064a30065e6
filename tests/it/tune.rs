//! Figures of a machine to settings and a verdict; the verb that measures them.

use std::fs;

use saccade::run::tune::choice::{Findings, Together, Tried, choose, judge, next, shortlist};
use serde_json::Value;

use crate::saccade::{at, finish, root, saccade, small, temporary};

const QUICKSTART: &str = "pipelines/quickstart.toml";

/// The fastest is wanted, whatever it takes.
const NO_END: f64 = f64::INFINITY;

/// Tries values on a machine whose rates are known; tells which were tried, in order, and which was chosen.
fn search(most: usize, need: f64, rate: impl Fn(usize) -> (f64, f64)) -> (Vec<usize>, usize) {
    let mut tried = Vec::new();
    while let Some(value) = next(&tried, most, need) {
        assert!((1..=most).contains(&value), "{value} is not in 1..={most}");
        let (samples_per_second, error) = rate(value);
        tried.push(Tried { value, samples_per_second, error });
        assert!(tried.len() < 20, "there is no end: {tried:?}");
    }
    (tried.iter().map(|one| one.value).collect(), choose(&tried, need).unwrap())
}

fn exact(rate: f64) -> (f64, f64) {
    (rate, 0.0)
}

#[test]
fn rates_that_rise_to_the_last_core_take_them_all() {
    for (most, expected) in [(1, vec![1]), (2, vec![1, 2]), (6, vec![1, 2, 4, 6]), (16, vec![1, 2, 4, 8, 16])] {
        let (tried, chosen) = search(most, NO_END, |value| exact(100.0 * value as f64));
        assert_eq!((tried, chosen), (expected, most));
    }
}

#[test]
fn rates_that_flatten_take_the_least_that_is_as_good() {
    // What a disk delivers 1,100 of: eleven workers would be 1,100, but 3 % less is as good.
    let (tried, chosen) = search(64, NO_END, |value| exact((100.0 * value as f64).min(1100.0)));
    assert_eq!(tried[..6], [1, 2, 4, 8, 16, 32], "32 bring less than 5 %, so 64 are not tried");
    assert_eq!(chosen, 11);
    // Hyper-threads: the second half of the cores brings 4 %.
    let (tried, chosen) =
        search(16, NO_END, |value| exact(100.0 * value.min(8) as f64 + 4.0 * value.saturating_sub(8) as f64));
    assert_eq!(tried[..5], [1, 2, 4, 8, 16]);
    assert!((8..=10).contains(&chosen), "{chosen}");
}

#[test]
fn rates_that_are_flat_or_fall_take_one() {
    assert_eq!(search(64, NO_END, |_| exact(500.0)), (vec![1, 2], 1));
    assert_eq!(search(64, NO_END, |value| exact(500.0 / value as f64)), (vec![1, 2], 1));
}

#[test]
fn rates_that_rise_and_fall_take_the_top() {
    let (tried, chosen) =
        search(32, NO_END, |value| exact(100.0 * value.min(4) as f64 - 10.0 * value.saturating_sub(4) as f64));
    assert_eq!((tried, chosen), (vec![1, 2, 4, 8], 4));
}

#[test]
fn a_device_that_is_fed_ends_the_search() {
    // 1,000 samples/s and a fifth to spare need 12 workers of 100.
    let (tried, chosen) = search(64, 1000.0, |value| exact(100.0 * value as f64));
    assert_eq!((tried, chosen), (vec![1, 2, 4, 8, 16, 13, 12], 12));
    assert_eq!(search(64, 50.0, |value| exact(100.0 * value as f64)), (vec![1], 1));
}

#[test]
fn noise_does_not_end_a_search_that_may_still_gain() {
    // The second worker seems to bring 3 %, give or take 8 %; in truth all sixteen gain.
    let rate = |value: usize| if value == 2 { (103.0, 8.0) } else { (100.0 * value as f64, 1.0) };
    assert_eq!(search(16, NO_END, rate).1, 16);
    // Rates that cannot be told apart: the least will do.
    let rates = [(1, 970.0, 40.0), (2, 1000.0, 60.0), (4, 985.0, 50.0), (8, 960.0, 50.0)];
    let tried = rates.map(|(value, samples_per_second, error)| Tried { value, samples_per_second, error });
    assert_eq!(choose(&tried, NO_END), Some(1));
    // However wide they scatter, a tenth less is less.
    let tried = [(4, 800.0, 300.0), (8, 1000.0, 300.0)];
    let tried = tried.map(|(value, samples_per_second, error)| Tried { value, samples_per_second, error });
    assert_eq!(choose(&tried, NO_END), Some(8));
}

#[test]
fn every_search_ends_with_a_choice_that_is_nearly_the_best() {
    // Every curve a + b·min(v, knee), off by up to 1 % either way: what lies beyond the knee is alike.
    for most in [1, 2, 3, 5, 8, 13, 64, 96] {
        for knee in 1..=most {
            let wobble = |value: usize| 0.99 + 0.02 * ((value * 7919 + knee * 104_729) % 200) as f64 / 200.0;
            let rate = |value: usize| (50.0 + 100.0 * value.min(knee) as f64) * wobble(value);
            let (tried, chosen) = search(most, NO_END, |value| (rate(value), 0.01 * rate(value)));
            let best = tried.iter().map(|value| rate(*value)).fold(0.0, f64::max);
            assert!(rate(chosen) >= 0.97 * best - 1e-9, "most {most}, knee {knee}: {chosen} of {tried:?}");
            assert!(chosen <= knee, "most {most}, knee {knee}: {chosen} of {tried:?}");
        }
    }
}

#[test]
fn nothing_tried_chooses_nothing_and_silence_ends() {
    assert_eq!(choose(&[], NO_END), None);
    assert_eq!(next(&[], 8, NO_END), Some(1));
    assert_eq!(search(8, NO_END, |_| exact(0.0)).1, 1);
}

#[test]
fn one_slice_says_little_and_many_say_how_much() {
    assert_eq!(Tried::of(2, &[100.0], 100.0).error, 10.0);
    // Deviation of 90, 100, 110 is 10; of their mean 10 / sqrt 3.
    let error = Tried::of(2, &[90.0, 100.0, 110.0], 100.0).error;
    assert!((error - 10.0 / 3f64.sqrt()).abs() < 1e-9, "{error}");
}

#[test]
fn workers_that_share_the_cores_are_compared_around_the_choice() {
    let cases: [(usize, usize, &[usize]); 5] =
        [(1, 1, &[1]), (1, 2, &[1, 2]), (2, 2, &[1, 2]), (4, 16, &[2, 4, 8]), (6, 8, &[3, 6, 8])];
    for (chosen, most, expected) in cases {
        assert_eq!(shortlist(chosen, most), expected);
    }
}

fn findings() -> Findings {
    Findings {
        need: 1000.0,
        supply: 3100.0,
        cpu_milliseconds: 1.25,
        data_limit: Some("decode".into()),
        together: Some(Together { samples_per_second: 990.0, wait_share: 0.01, limit: Some("train".into()) }),
        cores: 8,
        shares_cores: false,
    }
}

#[test]
fn verdict_names_the_stage_and_how_far_the_need_is_met() {
    let check = |findings: &Findings, stage: &str, cores: Option<usize>, words: &[&str]| {
        let verdict = judge(findings);
        assert_eq!((verdict.limiting_stage.as_str(), verdict.cores_needed), (stage, cores), "{}", verdict.sentence);
        for word in words {
            assert!(verdict.sentence.contains(word), "no \"{word}\" in: {}", verdict.sentence);
        }
    };
    let fed = findings();
    check(&fed, "train", None, &["train limits", "delivers 3.1 times", "99 % of the step"]);

    let slow = Together { samples_per_second: 600.0, wait_share: 0.4, limit: Some("decode".into()) };
    let starved = Findings { supply: 600.0, cpu_milliseconds: 13.2, together: Some(slow.clone()), ..fed.clone() };
    check(&starved, "decode", Some(14), &["waits 40 % of the time: 14 cores would do"]);
    let alone = Findings { together: None, ..starved.clone() };
    check(&alone, "decode", Some(14), &["waits 40 % of the time: 14 cores would do"]);

    let disk = Together { limit: Some("read".into()), ..slow.clone() };
    check(&Findings { together: Some(disk), ..starved.clone() }, "read", None, &["waits 40 %", "disk"]);

    // It has the cores, and still waits.
    let unexplained = Findings { supply: 2000.0, cpu_milliseconds: 4.0, together: Some(slow), ..fed.clone() };
    check(&unexplained, "decode", None, &["waits 40 %", "delivers 2.0 times"]);

    check(&Findings { shares_cores: true, ..fed.clone() }, "train", None, &["on the same 8 cores"]);

    // On one core each takes what the other needs.
    let both = Together { samples_per_second: 430.0, wait_share: 0.02, limit: Some("train".into()) };
    let squeezed = Findings { cores: 1, shares_cores: true, together: Some(both), ..fed.clone() };
    check(&squeezed, "train", Some(2), &["43 % of the step alone, on the same core: 2 would do for both"]);

    // Other work held the step's own window up: nothing is above 100 %.
    let faster = Together { samples_per_second: 1550.0, wait_share: 0.0, limit: Some("train".into()) };
    check(&Findings { together: Some(faster), ..fed }, "train", None, &["delivers 2.0 times", "100 % of the step"]);
}

/// The quick start made small, as a file, so that its section can be replaced.
fn tuned(seconds: &str, more: &[&str]) -> String {
    let mut tune = saccade(&["tune", QUICKSTART, "--seconds", seconds]);
    finish(small(tune.args(more), &[]), 0).out
}

#[test]
fn printed_section_is_accepted_in_place_of_the_old() {
    let said = tuned("1.5", &[]);
    let (table, section) = said.split_once("# saccade tune").unwrap_or_else(|| panic!("no section in: {said}"));
    let rows: Vec<&str> = table.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(rows[..3], ["measured", "step", "data"], "{said}");
    assert!(table.contains("limits: "), "{said}");

    let text = fs::read_to_string(root().join(QUICKSTART)).unwrap();
    let (before, old) = text.split_once("[stream]").unwrap();
    let (_, after) = old.split_once("\n[").unwrap();
    let folder = temporary();
    let path = folder.path().join("pasted.toml");
    fs::write(&path, format!("{before}# saccade tune{section}\n[{after}")).unwrap();
    let mut check = saccade(&["check", at(&path), "--json", "--set", "telemetry.address=127.0.0.1:0"]);
    finish(&mut check, 0);
}

#[test]
fn figures_and_settings_come_as_json_too() {
    let advice: Value = serde_json::from_str(&tuned("1.5", &["--json"])).unwrap();
    let rows = advice["measured"].as_array().unwrap();
    assert_eq!(rows[0]["what"], "step");
    assert!(rows.iter().any(|row| row["what"] == "data" && row["stream"]["workers"] == 1), "{advice}");
    for row in rows {
        assert!(row["samples_per_second"].as_f64().unwrap() > 0.0, "{row}");
    }
    let cores = advice["cores"].as_u64().unwrap();
    assert!((1..=cores).contains(&advice["stream"]["workers"].as_u64().unwrap()), "{advice}");
    assert!(advice["supply_over_need"].as_f64().unwrap() > 0.0, "{advice}");
    assert!(advice["bytes_in_flight"].as_u64().unwrap() > 0, "{advice}");
    let section: toml::Table = toml::from_str(advice["toml"].as_str().unwrap()).unwrap();
    for key in ["workers", "reads", "batches_ahead"] {
        assert_eq!(section["stream"][key].as_integer(), advice["stream"][key].as_i64(), "{key}");
    }
}

#[test]
fn time_that_is_too_short_is_said_and_gives_settings_all_the_same() {
    let advice: Value = serde_json::from_str(&tuned("0.001", &["--json"])).unwrap();
    assert!(advice["notes"][0].as_str().unwrap().contains("--seconds"), "{advice}");
    assert!(advice["stream"]["workers"].as_u64().unwrap() >= 1, "{advice}");
}

#[test]
fn what_cannot_be_tuned_gets_one_line_or_the_usage() {
    for seconds in ["0", "-1", "nan", "many"] {
        finish(&mut saccade(&["tune", QUICKSTART, "--seconds", seconds]), 2);
    }
    let folder = temporary();
    let shard = folder.path().join("torn.tar");
    fs::write(&shard, [7; 700]).unwrap();
    let torn = format!("data.train={}", at(&shard));
    let cases: [(&str, &str, &str); 4] = [
        (QUICKSTART, "data.train=shards/nothing-{0..3}.tar", "shards/nothing-0.tar"),
        (QUICKSTART, &torn, "torn.tar"),
        (QUICKSTART, "device=cuda:99", "cuda:99"),
        ("pipelines/nowhere.toml", "seed=1", "nowhere.toml"),
    ];
    for (file, change, word) in cases {
        let said = finish(small(&mut saccade(&["tune", file, "--json"]), &[change]), 1);
        assert_eq!(said.err.trim_end().lines().count(), 1, "{change}: {}", said.err);
        assert!(said.err.contains(word) && said.out.is_empty(), "{change}: {}{}", said.out, said.err);
    }
}
