//! One catalogue: what names metrics beside the code names only those that exist, and what is exported is drawn.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use saccade::telemetry::catalogue::{self, Kind};
use saccade::telemetry::{Queue, Stage};
use serde_json::Value;

const FOLDER: &str = "dashboards";

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All words of the text that begin like a metric, or with `saccade:` like a recorded series.
fn words<'a>(text: &'a str, beginnings: &[&str]) -> BTreeSet<&'a str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | ':');
    let words = text.split(|character| !is_part(character)).map(|word| word.trim_end_matches(':'));
    words
        .filter(|word| beginnings.iter().any(|start| word.len() > start.len() && word.starts_with(start)))
        // In texts, all names with this beginning.
        .filter(|word| !word.ends_with('_'))
        .collect()
}

/// The metric that a series belongs to, and whether there is one in the catalogue.
fn metric(series: &str) -> Result<&'static str, &str> {
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix));
    let listed = |name: &str, of_histogram: bool| {
        let found = catalogue::ALL.iter().find(|metric| metric.name == name)?;
        (matches!(found.kind, Kind::Histogram(_)) == of_histogram).then_some(found.name)
    };
    listed(series, false).or_else(|| listed(histogram?, true)).ok_or(series)
}

fn dashboards() -> Vec<(String, Value)> {
    let files = files(&format!("{FOLDER}/grafana"), "json");
    assert_eq!(files.len(), 3, "{files:?}");
    files.iter().map(|path| (path.display().to_string(), serde_json::from_str(&read(path)).unwrap())).collect()
}

/// Every query of every panel, and where it stands.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for (file, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = format!("{file}, panel {}", panel["title"]);
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries.push((place.clone(), target["expr"].as_str().unwrap().to_owned()));
            }
        }
    }
    assert!(queries.len() > 50, "{}", queries.len());
    queries
}

/// What names metrics: queries, rules, and every page for people.
fn texts() -> Vec<(String, String)> {
    let mut paths = files(&format!("{FOLDER}/rules"), "yml");
    assert_eq!(paths.len(), 2, "{paths:?}");
    paths.extend([".", FOLDER, "docs", "benches", "shards"].into_iter().flat_map(|folder| files(folder, "md")));
    paths.extend(files(&format!("{FOLDER}/grafana"), "json"));
    assert!(paths.iter().any(|path| path.ends_with("dashboards/README.md")), "{paths:?}");
    paths.into_iter().map(|path| (path.display().to_string(), read(&path))).collect()
}

/// The names that a line of `not-drawn.txt` excuses.
fn excused() -> BTreeSet<String> {
    let text = read(&Path::new(FOLDER).join("not-drawn.txt"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, reason) = line.split_once(' ').unwrap_or_else(|| panic!("not-drawn.txt: {line}: no reason"));
            assert!(reason.trim().len() > 20, "not-drawn.txt: {name}: say why no panel draws it");
            name.to_owned()
        })
        .collect()
}

#[test]
fn dashboards_rules_and_pages_name_only_metrics_that_exist() {
    for (place, text) in texts() {
        let found = words(&text, &["saccade_", "process_"]);
        let strange: Vec<&str> = found.into_iter().filter_map(|series| metric(series).err()).collect();
        assert!(strange.is_empty(), "{place}: {strange:?}: not in the catalogue");
    }
}

#[test]
fn what_is_recorded_is_what_is_asked_for() {
    let rules = read(&Path::new(FOLDER).join("rules/recording.yml"));
    let lines = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: "));
    let recorded: BTreeSet<&str> = lines.collect();
    assert!(!recorded.is_empty());
    let mut asked = BTreeSet::new();
    for (place, text) in texts() {
        // A rule's own name is no use of it.
        let uses = text.lines().filter(|line| !line.contains("- record: "));
        for series in uses.flat_map(|line| words(line, &["saccade:"])) {
            assert!(recorded.contains(series), "{place}: {series}: not recorded in rules/recording.yml");
            asked.insert(series.to_owned());
        }
    }
    let idle: Vec<_> = recorded.iter().filter(|series| !asked.contains(**series)).collect();
    assert!(idle.is_empty(), "rules/recording.yml: {idle:?}: recorded, and asked for by nobody");
}

#[test]
fn everything_exported_is_drawn_or_excused_with_a_reason() {
    let (queries, excused) = (queries(), excused());
    let named = queries.iter().flat_map(|(_, query)| words(query, &["saccade_", "process_"]));
    let drawn: BTreeSet<&str> = named.filter_map(|series| metric(series).ok()).collect();
    for metric in catalogue::ALL {
        let (is_drawn, is_excused) = (drawn.contains(metric.name), excused.contains(metric.name));
        assert!(is_drawn || is_excused, "{}: neither on a panel nor in dashboards/not-drawn.txt", metric.name);
        assert!(!(is_drawn && is_excused), "{}: in dashboards/not-drawn.txt, and drawn", metric.name);
    }
    let strange: Vec<&String> = excused.iter().filter(|name| metric(name).is_err()).collect();
    assert!(strange.is_empty(), "dashboards/not-drawn.txt: {strange:?}: no such metric");
}

#[test]
fn queries_ask_for_stages_and_queues_that_exist() {
    let stages = Stage::ALL.map(Stage::name);
    let queues = Queue::ALL.map(Queue::name);
    let rules =
        files(&format!("{FOLDER}/rules"), "yml").into_iter().map(|path| (path.display().to_string(), read(&path)));
    for (place, query) in queries().into_iter().chain(rules) {
        for (label, known) in [("stage", &stages[..]), ("queue", &queues[..])] {
            for value in values_of(label, &query) {
                assert!(known.contains(&value), "{place}: {label} {value:?} is none of {known:?}");
            }
        }
    }
}

/// What matchers ask of a label: each alternative of `label="a"`, `label=~"a|b"`, and of their negations.
fn values_of<'a>(label: &'a str, query: &'a str) -> impl Iterator<Item = &'a str> {
    let matchers = query.split(label).skip(1);
    let quoted = matchers.filter_map(|rest| {
        let quoted = ["=\"", "=~\"", "!=\"", "!~\""].iter().find_map(|operator| rest.strip_prefix(operator))?;
        Some(quoted.split_once('"')?.0)
    });
    quoted.flat_map(|values| values.split('|'))
}

#[test]
fn every_alert_is_on_the_page_that_says_what_to_do() {
    let rules = read(&Path::new(FOLDER).join("rules/alerts.yml"));
    let page = read(&Path::new(FOLDER).join("README.md"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in &alerts {
        assert!(
            page.contains(&format!("\n| `{alert}` |")),
            "dashboards/README.md: no row says what to do about {alert}"
        );
    }
    let named = words(&page, &["Saccade"]);
    let gone: Vec<_> = named.iter().filter(|word| !alerts.contains(*word)).collect();
    assert!(gone.is_empty(), "dashboards/README.md: {gone:?}: no such alert");
}

#[test]
fn the_bound_on_series_is_stated_as_it_is() {
    let stated = format!("at most {} series", catalogue::MOST_SERIES);
    let page = read(&Path::new(FOLDER).join("README.md"));
    assert!(page.contains(&stated), "dashboards/README.md does not say {stated:?}");
}
