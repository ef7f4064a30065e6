//! What is known of a run → one page of HTML, complete without a network and without a script.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::chart::{Axis, Bar, Series, bars, lines, short};
use super::history::{Quarantine, Scored, Session, Steps, Times};
use super::shown::{self, Picture, Shown};
use crate::eval::knn::{Nearness, Votes};
use crate::run::eval::Evaluation;
use crate::run::heat::Drawn;
use crate::run::plane;
use crate::run::text::{count, escaped, percent, several};
use crate::telemetry::Stage;

/// Scored samples that one point of the online probe's curve stands for.
const PROBE_SAMPLES: f64 = 200.0;

/// All that a page is made from.
pub struct Report {
    pub run: String,
    /// Made when, in seconds since 1970.
    pub now: u64,
    pub planned: Option<u64>,
    /// What was derived from the pipeline file, name and value.
    pub facts: Vec<(String, String)>,
    pub pipeline: String,
    pub plan: String,
    pub sessions: Vec<Session>,
    pub steps: Steps,
    pub times: Times,
    pub scores: Vec<Scored>,
    pub quarantine: Quarantine,
    /// What was computed for the page, or why it was not.
    pub shown: Result<Shown, String>,
}

pub fn page(report: &Report) -> String {
    let sections: Vec<(&str, &str, String)> = [
        ("scores", "Scores", scores(report)),
        ("loss", "Loss and schedules", losses(report)),
        ("collapse", "Collapse", collapse(report)),
        ("time", "Where the time went", times(report)),
        ("features", "What the features look like", features(report)),
        ("quarantine", "Quarantine", quarantine(report)),
        ("run", "What was run", run(report)),
    ]
    .into_iter()
    .filter(|(_, _, text)| !text.is_empty())
    .collect();
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n<title>{0}</title>\n<style>{1}{2}\
         </style></head>\n<body>\n<h1>{0}</h1>\n{3}<nav>",
        escaped(&report.run),
        include_str!("style.css"),
        plane::STYLE,
        summary(report)
    );
    for (id, name, _) in &sections {
        text += &format!("<a href=\"#{id}\">{name}</a>");
    }
    text += "</nav>\n";
    for (id, name, section) in &sections {
        text += &format!("<section id=\"{id}\"><h2>{name}</h2>\n{section}</section>\n");
    }
    text + "</body></html>\n"
}

/// The run in a few sentences.
fn summary(report: &Report) -> String {
    let mut said = vec![progress(report.steps.count, report.planned)];
    if let Some(last) = report.scores.last() {
        let or_none = |share: Option<f64>| share.map_or_else(|| "none".into(), percent);
        said.push(format!(
            "kNN (k = {}) after {} is <b>{}</b>; the same encoder untrained has {}, raw pixels {}",
            last.k,
            several(last.step, "step"),
            or_none(last.knn),
            or_none(last.knn_before_training),
            or_none(last.knn_raw_pixels)
        ));
        if let Some(top1) = last.probe() {
            said.push(format!("A linear probe classifies {} of the held-out samples rightly", percent(top1)));
        }
    } else {
        said.push("It was not scored yet".into());
    }
    said.push(match report.steps.collapses.as_slice() {
        [] => "Nothing collapsed".into(),
        found => {
            let found: Vec<String> = found.iter().map(|(collapse, _)| collapse.to_string()).collect();
            format!("<span class=\"bad\">Found: {}</span>", escaped(&found.join("; ")))
        }
    });
    if let Some(rate) = report.steps.median("samples/s") {
        let limit = report.times.limiting.map_or_else(String::new, |stage| format!(", limited by <b>{stage}</b>"));
        said.push(format!("{} samples a second (median){limit}", short(rate)));
    }
    said.push(match report.quarantine.count {
        0 => "No sample was quarantined".into(),
        1 => "1 sample was quarantined".into(),
        some => format!("{} samples were quarantined", count(some as u64)),
    });
    format!("<p>{}.</p>\n<p class=\"faint\">Page of {}.</p>\n", said.join(". "), date(report.now))
}

/// How far the run has come.
fn progress(done: u64, planned: Option<u64>) -> String {
    match planned {
        _ if done == 0 => {
            format!("No step{} is done yet", planned.map_or_else(String::new, |all| format!(" of {}", count(all))))
        }
        Some(planned) if planned > done => format!("{} of {} so far", count(done), several(planned, "step")),
        Some(_) if done > 1 => format!("All {} steps are done", count(done)),
        _ => format!("{} done", several(done, "step")),
    }
}

fn charts(all: impl IntoIterator<Item = String>) -> String {
    let all: String = all.into_iter().collect();
    if all.is_empty() { all } else { format!("<div class=\"charts\">{all}</div>\n") }
}

fn scores(report: &Report) -> String {
    let over = |score: &dyn Fn(&Scored) -> Option<f64>| -> Vec<[f64; 2]> {
        report.scores.iter().filter_map(|scores| Some([scores.step as f64, score(scores)?])).collect()
    };
    let percents = |points: Vec<[f64; 2]>| points.into_iter().map(|[step, share]| [step, 100.0 * share]).collect();
    let level = |name: &str, score: &dyn Fn(&Scored) -> Option<f64>| {
        let mut points: Vec<[f64; 2]> = percents(over(score));
        // From the beginning, so that there is a line even of one score.
        if let Some(&[_, value]) = points.first() {
            points.insert(0, [0.0, value]);
        }
        Series { is_reference: true, ..Series::new(name, points) }
    };
    let mut knn: Vec<[f64; 2]> = percents(over(&|scores| scores.knn));
    if let Some(untrained) = report.scores.first().and_then(|first| first.knn_before_training) {
        knn.insert(0, [0.0, 100.0 * untrained]);
    }
    let shares = [
        Series::new("kNN", knn),
        level("untrained", &|scores| scores.knn_before_training),
        level("raw pixels", &|scores| scores.knn_raw_pixels),
        Series::new("online probe", percents(report.steps.probe(PROBE_SAMPLES))),
        Series::new("probe", percents(over(&Scored::probe))),
    ];
    let ranks = [Series::new("RankMe", over(&Scored::rankme)), Series::new("LiDAR", over(&Scored::lidar))];
    let several = report.scores.len() > 1;
    let ranks =
        if several { lines("Directions that the held-out features use", Axis::Linear, &ranks) } else { String::new() };
    let drawn = charts([lines("Held-out samples classified rightly, per cent", Axis::Linear, &shares), ranks]);
    let table = match report.shown.as_ref().and_then(|shown| shown.scores.as_ref()) {
        Ok(found) => evaluation(found),
        Err(why) => format!("<p>Not scored for this page: {}.</p>\n", escaped(why)),
    };
    drawn + &table
}

fn evaluation(found: &Evaluation) -> String {
    let scores = &found.scores;
    let mut rows = String::new();
    let mut row = |name: &str, value: String| rows += &format!("<tr><td>{name}</td><td>{value}</td></tr>\n");
    let of = |nearness, votes, k| {
        let found = scores.knn.iter().find(|s| (s.nearness, s.votes, s.k) == (nearness, votes, k));
        found.map_or_else(String::new, |score| percent(score.accuracy))
    };
    // Each stands there for both measures and both kinds of votes.
    let ks: BTreeSet<usize> = scores.knn.iter().map(|score| score.k).collect();
    let mut knn =
        String::from("<tr><th>kNN</th><th>cosine</th><th>weighted</th><th>Euclidean</th><th>weighted</th></tr>\n");
    for k in ks {
        knn += &format!("<tr><td>k&nbsp;=&nbsp;{k}</td>");
        for (nearness, votes) in [Nearness::Cosine, Nearness::Euclidean]
            .into_iter()
            .flat_map(|near| [Votes::Plain, Votes::Weighted].map(|votes| (near, votes)))
        {
            knn += &format!("<td>{}</td>", of(nearness, votes, k));
        }
        knn += "</tr>\n";
    }
    match scores.probe {
        Some(probe) => {
            row("linear probe, top-1", percent(probe.top1));
            row("linear probe, top-5", percent(probe.top5));
            row("linear probe, top-1 of the training samples", percent(probe.top1_train));
        }
        None => row("linear probe", "none: too many labels".into()),
    }
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none: too little to tell".into());
    row("RankMe", format!("{:.2}", scores.rankme));
    row("alpha-ReQ", or_none(scores.alpha.map(|alpha| format!("{alpha:.2}"))));
    row("LiDAR", or_none(scores.lidar.map(|lidar| format!("{lidar:.2}"))));
    let dimension = scores.correlation_dimension;
    row(
        "correlation dimension",
        or_none(dimension.map(|d| format!("{:.2} &plusmn; {:.2}", d.dimension, d.uncertainty))),
    );
    let seconds: Vec<String> =
        found.seconds.iter().map(|(part, seconds)| format!("{} {seconds:.1} s", part.replace('_', " "))).collect();
    format!(
        "<details open><summary>All scores of the newest checkpoint ({})</summary>\n<div \
         class=\"wide\"><table class=\"numbers\">{knn}</table><table class=\"numbers\">{rows}</table></div>\n<p class=\"faint\">Fitted to {} samples of {}; scored on {} samples \
         of {}. Took: {}.</p></details>\n",
        several(found.step, "step"),
        count(found.train.samples as u64),
        escaped(&found.train.shards.join(", ")),
        count(found.held_out.samples as u64),
        escaped(&found.held_out.shards.join(", ")),
        escaped(&seconds.join(", "))
    )
}

fn losses(report: &Report) -> String {
    let steps = &report.steps;
    let one = |title: &str, name: &str| lines(title, Axis::Any, &[Series::new("", steps.curve(name))]);
    let terms: Vec<Series> =
        steps.curves_of("term").into_iter().map(|(name, points)| Series::new(name, points)).collect();
    // One term is the loss itself.
    let terms = if terms.len() > 1 { lines("Its terms, weighted", Axis::Any, &terms) } else { String::new() };
    charts([
        one("Loss", "loss"),
        terms,
        one("Norm of the gradient", "gradient norm"),
        one("Learning rate", "learning rate"),
        one("Weight decay", "weight decay"),
        one("EMA decay", "EMA decay"),
        energies(report),
    ])
}

/// The energy along the iterations, early, midway and late in the run.
fn energies(report: &Report) -> String {
    let all = &report.steps.energies;
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return String::new() };
    let middle = &all[all.len() / 2];
    let mut shown = vec![first, middle, last];
    shown.dedup_by_key(|(step, _)| *step);
    let series: Vec<Series> = shown
        .into_iter()
        .map(|(step, energies)| {
            let points = energies.iter().enumerate().map(|(at, energy)| [at as f64, *energy]).collect();
            Series::new(format!("step {}:", short(*step as f64)), points)
        })
        .collect();
    lines("Energy per token along the iterations", Axis::Linear, &series)
}

fn collapse(report: &Report) -> String {
    let group = |title: &str, group: &str| {
        let series: Vec<Series> =
            report.steps.curves_of(group).into_iter().map(|(name, points)| Series::new(name, points)).collect();
        lines(title, Axis::Linear, &series)
    };
    let mut said = String::new();
    for (collapse, last) in &report.steps.collapses {
        let healed = last + 1 < report.steps.count;
        let until = if healed { format!(", until step {}", count(*last)) } else { ", to the end".into() };
        said += &format!("<p class=\"bad\">{}{until}.</p>\n", escaped(&collapse.to_string()));
    }
    if said.is_empty() && report.steps.count > 0 {
        said = "<p>Nothing was found collapsed.</p>\n".into();
    }
    said + &charts([
        group("Directions that the features use (RankMe)", "rankme"),
        group("Deviation of the features; 0 is complete collapse", "deviation"),
        group("Exponent of their variances' decay (alpha-ReQ)", "alpha"),
    ])
}

fn times(report: &Report) -> String {
    let times = &report.times;
    let rows: Vec<Bar> = times
        .whole
        .iter()
        .map(|(stage, totals)| {
            let parts = [totals.busy, totals.starved, totals.blocked].map(|time| time.as_secs_f64());
            let is_rare = matches!(stage, Stage::Checkpoint | Stage::Eval);
            let note = if totals.samples > 0 && !is_rare {
                per_sample(parts[0] / totals.samples as f64)
            } else {
                format!("{} s", short(parts[0]))
            };
            Bar { name: stage.name().into(), parts: parts.to_vec(), note }
        })
        .collect();
    let busy: Vec<Series> = ["read", "decode", "upload", "train"]
        .into_iter()
        .filter_map(|stage| Some((stage, times.busy.get(stage)?)))
        .map(|(stage, points)| Series::new(stage, points.iter().map(|[step, share]| [*step, 100.0 * share]).collect()))
        .collect();
    let limit = match times.limiting {
        Some(stage) => format!(
            "<p>Over {}, of which checkpoints and scores took {}, <b>{stage}</b> limited the run: it is the stage that was neither starved (waiting for the stage \
             before it) nor blocked (waiting for the one after it). Decode, augment, mask and batch share the same \
             workers.</p>\n",
            duration(times.seconds),
            duration(times.beside),
        ),
        None => "<p>Where the time of each stage went was not noted.</p>\n".into(),
    };
    let drawn = charts([
        bars("Each stage's time", &["busy", "starved", "blocked"], &rows),
        lines("Samples a second", Axis::Linear, &[Series::new("", report.steps.curve("samples/s"))]),
        if busy.iter().any(|line| line.points.len() > 1) {
            lines("Share of its time in which a stage works, per cent", Axis::Linear, &busy)
        } else {
            String::new()
        },
        lines("Seconds that a step waited for its batch", Axis::Any, &[Series::new("", report.steps.curve("wait"))]),
    ]);
    limit + &drawn
}

fn features(report: &Report) -> String {
    let shown = match &report.shown {
        Ok(shown) => shown,
        Err(why) => return format!("<p>No pictures: {}.</p>\n", escaped(why)),
    };
    let missing = |why: &String| format!("<p>Missing: {}.</p>", escaped(why));
    let figure =
        |title: &str, content: &str| format!("<figure><figcaption>{}</figcaption>{content}</figure>\n", escaped(title));
    let pictures = shown.pictures.iter().map(|Picture { title, drawn }| {
        let content = drawn.as_ref().map_or_else(missing, |Drawn { png, caption }| {
            let source = base64(png);
            format!(
                "<p class=\"faint\">{}</p><img alt=\"{title}\" src=\"data:image/png;base64,{source}\">",
                escaped(caption)
            )
        });
        figure(title, &content)
    });
    figure(shown::PLANE, &shown.plane.as_ref().map_or_else(missing, String::clone)) + &charts(pictures)
}

fn quarantine(report: &Report) -> String {
    let found = &report.quarantine;
    if found.count == 0 {
        return "<p>Every sample could be used.</p>\n".into();
    }
    let reasons: Vec<String> =
        found.reasons.iter().map(|(reason, number)| format!("{} {}", count(*number as u64), escaped(reason))).collect();
    let mut rows = String::from("<tr><th>step</th><th>key</th><th>shard</th><th>why</th></tr>\n");
    for left in &found.first {
        let cells = [&count(left.step), &left.key, &left.shard, &format!("{}: {}", left.reason, left.detail)];
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        rows += &format!("<tr>{cells}</tr>\n");
    }
    let more = if found.count > found.first.len() {
        format!("<p class=\"faint\">The first {} of {}.</p>", found.first.len(), count(found.count as u64))
    } else {
        String::new()
    };
    format!("<p>{}.</p>\n<div class=\"wide\"><table>{rows}</table></div>{more}\n", reasons.join(", "))
}

fn run(report: &Report) -> String {
    let mut rows = String::new();
    for (name, value) in &report.facts {
        rows += &format!("<tr><td>{}</td><td>{}</td></tr>\n", escaped(name), escaped(value));
    }
    for (number, session) in report.sessions.iter().enumerate() {
        let what = match session.step {
            0 if number == 0 => "begun".into(),
            0 => "begun again, before its first checkpoint".into(),
            step => format!("taken up after {}", several(step, "step")),
        };
        let memory = session.memory_bytes.map_or_else(String::new, |bytes| format!(", {} GiB", bytes >> 30));
        let processor = session.processor.clone().unwrap_or_else(|| "processor unknown".into());
        let on = format!(
            "{}, saccade {}, on {}; {processor}, {} threads{memory}",
            date(session.begun_unix_seconds),
            session.version,
            session.device,
            session.threads
        );
        rows += &format!("<tr><td>{}</td><td>{}</td></tr>\n", escaped(&what), escaped(&on));
    }
    let mut text = format!("<div class=\"wide\"><table>{rows}</table></div>\n");
    for (name, source) in [("The pipeline file", &report.pipeline), ("The Plan, as derived", &report.plan)] {
        let _ = writeln!(text, "<details><summary>{name}</summary><pre>{}</pre></details>", escaped(source));
    }
    text
}

fn per_sample(seconds: f64) -> String {
    let (number, unit) = if seconds >= 1e-3 { (1e3 * seconds, "ms") } else { (1e6 * seconds, "µs") };
    format!("{} {unit} a sample", short(number))
}

fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min", whole / 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Day and time in UTC (the civil calendar from days, after Hinnant's algorithm).
pub fn date(unix: u64) -> String {
    let (days, of_day) = (unix / 86_400, unix % 86_400);
    // Days of an era of 400 years that begins with March of the year 0.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", of_day / 3600, of_day % 3600 / 60)
}

/// RFC 4648, section 4.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let of_bytes = digit <= three.len();
            let value = (word >> (18 - 6 * digit)) & 63;
            text.push(if of_bytes { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}
