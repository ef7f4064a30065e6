//! A run on one page: its drawing, what it says of good and of spoilt records, and the verb.

use std::fs;
use std::io::Read;
use std::path::Path;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use saccade::run::report::chart::{Axis, Series, lines, reduced, short, ticks};
use saccade::run::report::history::{self, Quarantine, Scored, Session, Steps, Times};
use saccade::run::report::page::{Report, base64, date, page};
use saccade::run::text::{count, escaped, several};

use crate::damage::tar_of;
use crate::evaluation::run;
use crate::saccade::{at, finish, saccade, temporary};

#[test]
fn no_spike_is_lost_when_points_are_put_together() {
    let points: Vec<[f64; 2]> =
        (0..100_000).map(|step| [f64::from(step), if step == 77_777 { 50.0 } else { 1.0 }]).collect();
    let found = reduced(&points, 300);
    assert!(found.len() <= 300, "{}", found.len());
    let spike = found.iter().find(|point| point.greatest == 50.0).expect("the spike");
    assert!((spike.step - 77_777.0).abs() < 400.0 && spike.least == 1.0 && spike.mean < 2.0, "{spike:?}");
    let gaps = [[0.0, 1.0], [1.0, f64::NAN], [2.0, f64::INFINITY], [3.0, 2.0]];
    assert_eq!(reduced(&gaps, 300).iter().map(|point| point.mean).collect::<Vec<_>>(), [1.0, 2.0]);
    assert!(reduced(&[], 300).is_empty());
}

#[test]
fn ticks_are_round_and_within() {
    for (least, greatest, expected) in [
        (0.0, 1.0, vec![0.0, 0.5, 1.0]),
        (0.0, 2250.0, vec![0.0, 1000.0, 2000.0]),
        (-3.0, 5.0, vec![-2.0, 0.0, 2.0, 4.0]),
        (7.0, 7.0, vec![7.0]),
        // No number is a fourth of the least one there is.
        (0.0, 5e-324, vec![0.0]),
        (-1e308, 1e308, vec![-1e308]),
        (0.0, f64::INFINITY, vec![0.0]),
        (1e17, 1e17 + 16.0, vec![1e17, 1e17 + 16.0]),
    ] {
        assert_eq!(ticks(least, greatest), expected, "{least} to {greatest}");
    }
    for (value, said) in [
        (0.0, "0"),
        (1234.0, "1234"),
        (12_345.0, "12.3k"),
        (2.5e6, "2.5M"),
        (3e38, "3.0e38"),
        (0.0824, "0.0824"),
        (2e-5, "2e-5"),
        (-1.5, "-1.5"),
    ] {
        assert_eq!(short(value), said);
    }
}

#[test]
fn chart_says_what_it_shows_and_nothing_of_nothing() {
    let series = [Series::new("a <b>", vec![[0.0, 1.0], [10.0, 2.0]]), Series::new("none", vec![])];
    let drawn = lines("Loss & more", Axis::Any, &series);
    for part in ["Loss &amp; more", "a &lt;b&gt; 2", "<polyline", "at step 10</title>"] {
        assert!(drawn.contains(part), "no {part} in {drawn}");
    }
    assert!(!drawn.contains("none") && !drawn.contains("NaN"), "{drawn}");
    assert_eq!(lines("empty", Axis::Any, &[Series::new("a", vec![[0.0, f64::NAN]])]), "");
    let wide = [Series::new("", vec![[0.0, 1e-4], [1.0, 1.0]])];
    assert!(
        lines("w", Axis::Any, &wide).contains("logarithmic")
            && !lines("w", Axis::Linear, &wide).contains("logarithmic")
    );
    let many: Vec<Series> = (0..40).map(|name| Series::new(format!("n{name}"), vec![[0.0, 1.0]])).collect();
    let drawn = lines("m", Axis::Any, &many);
    assert!(drawn.contains("the first 10 of 40") && drawn.contains(">n9 1<") && !drawn.contains(">n10 1<"), "{drawn}");
    let long = (0..1000).map(|step| [f64::from(step), f64::from(step % 7)]).collect();
    let drawn = lines("l", Axis::Any, &[Series::new("", long)]);
    assert!(drawn.contains("<polygon ") && unbalanced(&drawn).is_none(), "{drawn}");
    let still = lines("s", Axis::Any, &[Series::new("", vec![[0.0, 5.0], [1.0, 5.0]])]);
    assert!(still.contains("<polyline") && !still.contains("NaN"), "{still}");
}

#[test]
fn texts_are_written_as_their_standards_say() {
    // RFC 4648, section 10.
    for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
    for (unix, said) in [
        (0, "1970-01-01 00:00 UTC"),
        (951_782_399, "2000-02-28 23:59 UTC"),
        (951_782_400, "2000-02-29 00:00 UTC"),
        (1_795_646_947, "2026-11-25 22:49 UTC"),
        (4_107_542_399, "2100-02-28 23:59 UTC"),
        (4_107_542_400, "2100-03-01 00:00 UTC"),
    ] {
        assert_eq!(date(unix), said);
    }
    assert_eq!([count(7), count(1000), count(1_234_567)], ["7", "1,000", "1,234,567"]);
    assert_eq!([several(1, "step"), several(1000, "step")], ["1 step", "1,000 steps"]);
    assert_eq!(escaped("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
}

#[test]
fn spoilt_lines_and_fields_are_absent_and_no_more() {
    let folder = temporary();
    let steps = folder.path().join("steps.jsonl");
    // Longer than any line that a run writes; what follows it is read.
    let long = format!(r#"{{"step":9,"loss":9.0,"surprise":"{}"}}"#, "x".repeat(3 << 20));
    let lines = [
        r#"{"step":0,"loss":2.0,"terms":{"prediction":2.0},"probe":{"right":1,"of":3}}"#,
        r#"{"step":1,"loss":null,"features":{"target":{"rankme":3.0}},"energies":[1.0,0.5]}"#,
        r#"{"step":2,"loss":1.0,"collapses":[{"kind":"complete","output":"target","since":2}],"surprise":{}}"#,
        "no JSON",
        &long,
        r#"{"step":3,"loss":0.5,"probe":{"right":3,"of":3},"collapses":[{"kind":"complete","output":"target","since":2},{"kind":"new"}],"energies":[null]}"#,
        r#"{"step":4,"lo"#,
    ];
    fs::write(&steps, lines.join("\n")).unwrap();
    let read = Steps::read(&steps);
    assert_eq!((read.count, read.curve("loss")), (4, vec![[0.0, 2.0], [2.0, 1.0], [3.0, 0.5]]));
    assert_eq!(read.curves_of("rankme"), [("target".to_owned(), vec![[1.0, 3.0]])]);
    assert_eq!((read.collapses.len(), read.collapses[0].1), (1, 3));
    assert_eq!(read.collapses[0].0.to_string(), "complete collapse of the target since step 2");
    assert_eq!((&read.energies[0], read.probe(6.0)), (&(1, vec![1.0, 0.5]), vec![[3.0, 4.0 / 6.0]]));
    assert_eq!(Steps::read(Path::new("/nowhere")).count, 0);
}

/// Two processes, the second of which began to count anew: told apart by when they began, or, where earlier builds did
/// not say, by less time than before.
#[test]
fn times_of_all_processes_add_up() {
    check_times(&[None, None, None], 10.0, 30.0);
    check_times(&[Some(7), Some(7), Some(8)], 10.0, 30.0);
    check_times(&[Some(7), Some(7), Some(8)], 25.0, 45.0);
    check_times(&[None, None, Some(8)], 25.0, 45.0);
}

fn check_times(begun: &[Option<u64>; 3], last: f64, whole: f64) {
    let folder = temporary();
    let stages = folder.path().join("stages.jsonl");
    let line = |number: usize, step: u32, seconds: f64, decode: [f64; 2], train: f64| {
        let begun = begun[number].map_or(String::new(), |begun| format!(r#""begun_unix_microseconds":{begun},"#));
        format!(
            r#"{{"step":{step},{begun}"seconds":{seconds},"stages":{{"decode":{{"samples":10,"busy":{},"starved":{},"blocked":-3}},"train":{{"busy":{train}}}}}}}"#,
            decode[0], decode[1]
        )
    };
    let text =
        [line(0, 5, 10.0, [2.0, 8.0], 9.0), line(1, 9, 20.0, [4.0, 16.0], 18.0), line(2, 14, last, [6.0, 4.0], 2.0)];
    fs::write(&stages, text.join("\n")).unwrap();
    let times = Times::read(&stages);
    let busy = |name: &str| {
        let (_, totals) = times.whole.iter().find(|(stage, _)| stage.name() == name).unwrap();
        totals.busy.as_secs_f64()
    };
    assert_eq!((times.seconds, busy("decode"), busy("train")), (whole, 10.0, 20.0), "{begun:?}");
    assert_eq!(times.limiting.map(|stage| stage.name()), Some("train"));
    assert_eq!(times.busy["decode"], [[5.0, 0.2], [9.0, 0.2], [14.0, 0.6]]);
}

#[test]
fn all_quarantined_samples_are_counted_and_the_first_are_listed() {
    let folder = temporary();
    let path = folder.path().join("quarantine.jsonl");
    let line = |number: u32| {
        let reason = if number.is_multiple_of(3) { "truncated" } else { "damaged" };
        format!(
            "{{\"step\":{number},\"key\":\"k{number}\",\"shard\":\"a.tar\",\"reason\":\"{reason}\",\"detail\":\"d\"}}\n"
        )
    };
    fs::write(&path, (0..90).map(line).collect::<String>()).unwrap();
    let found = Quarantine::read(&path);
    assert_eq!((found.count, found.first.len()), (90, 50));
    assert_eq!((found.reasons["truncated"], found.reasons["damaged"]), (30, 60));
}

#[test]
fn report_is_one_page_that_needs_nothing_else() {
    let folder = temporary();
    let page = folder.path().join("run.html");
    finish(&mut saccade(&["report", at(&run()), "--out", at(&page), "--names", "shards/fashion-names.txt"]), 0);
    let text = fs::read_to_string(&page).unwrap();
    for part in [
        "default-src 'none'",
        "kNN (k = 5) after",
        "linear probe, top-1",
        "LiDAR",
        "Learning rate",
        "limited by <b>",
        "Ankle boot",
        "Nearest training images",
        "<h2>Quarantine</h2>",
        "[encoder]",
        "&quot;derived&quot;",
    ] {
        assert!(text.contains(part), "the page lacks \"{part}\"");
    }
    assert_eq!(text.matches("data:image/png;base64,iVBORw0KGgo").count(), 3, "three pictures");
    for other in ["src=\"http", "href=\"http", "<script", "<link", "@import", "url("] {
        assert!(!text.contains(other), "the page asks for something else: {other}");
    }
    assert_eq!(unbalanced(&text), None);
    assert!(!text.contains("Missing:"));
}

/// The page comes all the same where the data are gone, and where the run has made no step yet.
#[test]
fn report_of_what_cannot_be_scored_says_why() {
    let folder = temporary();
    let [bare, page] = ["bare", "run.html"].map(|name| folder.path().join(name));
    fs::create_dir(&bare).unwrap();
    let run = run();
    fs::copy(run.join("plan.json"), bare.join("plan.json")).unwrap();
    fs::write(bare.join("steps.jsonl"), "").unwrap();
    let said = finish(&mut saccade(&["report", at(&bare), "--out", at(&page)]), 0);
    assert!(said.out.contains("checkpoint"), "{}", said.out);
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("It was not scored yet") && text.contains("Not scored for this page"), "{text}");
    let gone = ["report", at(&run), "--out", at(&page), "--set", "data.train=gone.tar"];
    let said = finish(&mut saccade(&gone), 0);
    assert!(said.out.contains("gone.tar"), "{}", said.out);
    assert!(fs::read_to_string(&page).unwrap().contains("kNN (k = 5) after"), "what was noted is shown");
}

#[test]
fn page_that_cannot_be_written_is_refused_before_anything_is_read() {
    let folder = temporary();
    let [none, page, taken] = ["none", "run.html", "taken.html"].map(|name| folder.path().join(name));
    fs::create_dir(&taken).unwrap();
    fs::write(&page, "what was there").unwrap();
    for (out, word) in [
        (at(&page), "none"),
        ("/proc/run.html", "/proc/run.html"),
        ("/proc/x/run.html", "there is no folder /proc/x"),
        (at(&taken), "is a folder"),
        (at(folder.path()), ".html"),
        ("plan.json", ".html"),
    ] {
        let said = finish(&mut saccade(&["report", at(&none), "--out", out]), 1);
        assert!(said.err.contains(word) && said.err.trim_end().lines().count() == 1, "{}", said.err);
    }
    assert_eq!(fs::read_to_string(&page).unwrap(), "what was there");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// The first twelve samples of a sample shard, changed.
fn shard_of(path: &Path, change: impl Fn(usize, &str, Vec<u8>) -> Vec<u8>) {
    let file = fs::File::open(crate::saccade::root().join("shards/fashion-validation-000000.tar")).unwrap();
    let mut shard = tar::Archive::new(file);
    let members = shard.entries().unwrap().take(24).enumerate().map(|(number, member)| {
        let mut member = member.unwrap();
        let name = member.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        let bytes = change(number, &name, bytes);
        (name, bytes)
    });
    fs::write(path, tar_of(&members.collect::<Vec<_>>()).0).unwrap();
}

/// What can be made is made: one spoilt image costs a picture, and where all are spoilt the first batch is left. The run's
/// own scores stay as they are.
#[test]
fn what_cannot_be_drawn_costs_no_more_than_itself() {
    let folder = temporary();
    let [one, all, page] = ["one.tar", "all.tar", "run.html"].map(|name| folder.path().join(name));
    let is_image = |name: &str| name.ends_with(".jpg");
    shard_of(&one, |number, _, bytes| if number == 0 { bytes[..bytes.len() / 2].to_vec() } else { bytes });
    shard_of(&all, |_, name, bytes| if is_image(name) { b"no image".to_vec() } else { bytes });
    let run = run();
    let scored = fs::read(run.join("eval.json")).ok();
    for (shard, missing) in [(&one, vec![]), (&all, vec!["scores", "The held-out features", "Attention", "Nearest"])] {
        let validation = format!("data.validation={}", at(shard));
        let said = finish(&mut saccade(&["report", at(&run), "--out", at(&page), "--set", &validation]), 0);
        let told: Vec<&str> = said.out.lines().filter_map(|line| line.strip_prefix("without ")).collect();
        assert_eq!(told.len(), missing.len(), "{}", said.out);
        assert!(told.iter().zip(&missing).all(|(line, part)| line.starts_with(part)), "{}", said.out);
        let text = fs::read_to_string(&page).unwrap();
        // A single image that cannot be used is passed over.
        let has_scores = missing.is_empty();
        assert_eq!(text.contains("All scores of the newest checkpoint"), has_scores);
        assert_eq!(text.contains("has a label"), !has_scores, "why there are no scores");
        assert_eq!(text.matches("<p>Missing: ").count(), missing.len() - usize::from(!has_scores), "reasons");
        assert_eq!(text.matches("<img ").count(), if has_scores { 3 } else { 1 }, "pictures");
        assert_eq!(unbalanced(&text), None);
    }
    assert_eq!(fs::read(run.join("eval.json")).ok(), scored);
}

/// Numbers that are no use as they stand.
const NUMBERS: [&str; 12] = [
    "null",
    "-1",
    "0",
    "1",
    "2",
    "5e-324",
    "1e-310",
    "3e38",
    "1e308",
    "-1e308",
    "18446744073709551614",
    "18446744073709551615",
];
const STEPS: [&str; 8] = [
    "step",
    "loss",
    "learning_rate",
    "weight_decay",
    "ema_decay",
    "gradient_norm",
    "samples_per_second",
    "data_wait_seconds",
];
const OF_STEPS: [&str; 7] = [
    r#""terms":{"a":1e308,"b":null,"<b>":-1e308,"c":5e-324}"#,
    r#""probe":{"right":1e308,"of":1e308}"#,
    r#""probe":{"right":-5,"of":0}"#,
    r#""features":{"target":{"deviation":1e-320,"rankme":-1e308,"alpha":null},"x":{}}"#,
    r#""energies":[null,1e308,-1e308,5e-324]"#,
    r#""energies":[]"#,
    r#""collapses":[{"kind":"complete","output":"target","since":18446744073709551615},{},null,7]"#,
];
const STAGES: [&str; 3] = ["step", "seconds", "begun_unix_microseconds"];
const OF_STAGES: [&str; 3] = [
    r#""stages":{"decode":{"samples":18446744073709551615,"bytes":1,"busy":1.8e19,"starved":1.8e19,"blocked":1.8e19}}"#,
    r#""stages":{"train":{"busy":1e308,"starved":-1},"decode":{"busy":1.8e19},"none":{"busy":1}}"#,
    r#""stages":{"train":{"busy":5e-324,"samples":3}}"#,
];
const SESSIONS: [&str; 4] = ["step", "begun_unix_seconds", "threads", "memory_bytes"];
const OF_SESSIONS: [&str; 2] = [r#""device":"<script>""#, r#""processor":null,"version":"\u0000""#];
const SCORES: [&str; 5] = ["step", "k", "knn", "knn_before_training", "knn_raw_pixels"];
const OF_SCORES: [&str; 4] = [
    r#""target":{"probe":{"top1":1e308},"rankme":null,"lidar":-1e308}"#,
    r#""target":{"probe":null,"rankme":5e-324}"#,
    r#""target":null"#,
    r#""target":{"probe":{"top1":null}}"#,
];

/// Lines of objects with such numbers.
fn hostile(keys: &'static [&'static str], more: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let object =
        (btree_map(select(keys), select(&NUMBERS[..]), 0..=keys.len()), subsequence(more, 0..=more.len().min(2)));
    let text = object.prop_map(|(numbers, more)| {
        let numbers = numbers.into_iter().map(|(key, number)| format!("\"{key}\":{number}"));
        let fields: Vec<String> = numbers.chain(more.into_iter().map(str::to_owned)).collect();
        format!("{{{}}}", fields.join(","))
    });
    vec(text, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn page_comes_of_any_numbers_and_each_is_drawn_in_its_place(
        steps in hostile(&STEPS, &OF_STEPS),
        stages in hostile(&STAGES, &OF_STAGES),
        sessions in hostile(&SESSIONS, &OF_SESSIONS),
        scores in hostile(&SCORES, &OF_SCORES),
    ) {
        let folder = temporary();
        let files = [("steps", &steps), ("stages", &stages), ("sessions", &sessions), ("scores", &scores)];
        for (name, texts) in files {
            let text = if name == "scores" { format!("[{}]", texts.join(",")) } else { texts.join("\n") };
            fs::write(folder.path().join(name), text).unwrap();
        }
        let text = page(&report_of(folder.path()));
        prop_assert_eq!(unbalanced(&text), None);
        prop_assert_eq!(misplaced(&text), None);
    }

    #[test]
    fn ticks_are_few_whatever_the_range(least in any::<f64>(), greatest in any::<f64>()) {
        let found = ticks(least, greatest);
        prop_assert!((1..8).contains(&found.len()), "{:?}", found);
    }
}

fn report_of(folder: &Path) -> Report {
    let sessions: Vec<Session> = history::lines(&folder.join("sessions")).collect();
    Report {
        run: "a run".into(),
        now: 0,
        planned: None,
        facts: Vec::new(),
        pipeline: String::new(),
        plan: String::new(),
        sessions,
        steps: Steps::read(&folder.join("steps")),
        times: Times::read(&folder.join("stages")),
        scores: Scored::read(&folder.join("scores")).unwrap(),
        quarantine: Quarantine::default(),
        shown: Err("none".into()),
    }
}

/// A coordinate that is no number.
fn misplaced(page: &str) -> Option<&str> {
    let names = [" x", " y", " x1", " x2", " y1", " y2", " cx", " cy", " width", " points"];
    let mut values = names.iter().flat_map(|name| {
        let attribute = format!("{name}=\"");
        page.split(&attribute).skip(1).filter_map(|rest| rest.split('"').next()).collect::<Vec<_>>()
    });
    let is_placed = |value: &&str| {
        let mut numbers = value.split([' ', ',']).filter(|number| !number.is_empty());
        numbers.all(|number| number.parse::<f64>().is_ok_and(|number| (-1.0..=2000.0).contains(&number)))
    };
    values.rfind(|value| !is_placed(value))
}

/// The first tag of a page that ends where it must not, or never.
pub fn unbalanced(page: &str) -> Option<String> {
    let (mut open, mut rest): (Vec<&str>, &str) = (Vec::new(), page);
    while let Some((_, after)) = rest.split_once('<') {
        let Some((tag, behind)) = after.split_once('>') else { return Some(after.into()) };
        let name = tag.split([' ', '\n', '/']).find(|part| !part.is_empty()).unwrap_or_default();
        rest = behind;
        if tag.starts_with('/') {
            if open.pop() != Some(name) {
                return Some(tag.into());
            }
        } else if !(tag.ends_with('/') || tag.starts_with('!') || ["meta", "img", "br"].contains(&name)) {
            open.push(name);
        }
        // What stands in these is no HTML.
        if ["style", "script"].contains(&tag) {
            let Some(end) = rest.find(&format!("</{tag}>")) else { return Some(tag.into()) };
            rest = &rest[end..];
        }
    }
    open.pop().map(str::to_owned)
}

#[test]
fn tags_that_do_not_fit_are_found() {
    for (page, found) in [
        ("<!doctype html><p class=\"a\">a<br>b</p><style>a > b</style><polygon points=\"\"/>", None),
        ("<p><b></p></b>", Some("/p")),
        ("<svg><polygon points=\"\"></svg>", Some("/svg")),
        ("<p>", Some("p")),
        ("</p>", Some("/p")),
    ] {
        assert_eq!(unbalanced(page).as_deref(), found, "{page}");
    }
}

/// What a reader is told first is true of runs that have hardly begun.
#[test]
fn summary_counts_in_words_that_fit() {
    let folder = temporary();
    for (steps, planned, said) in [
        ("", None, "No step is done yet."),
        ("", Some(1875), "No step of 1,875 is done yet."),
        (r#"{"step":0}"#, Some(1875), "1 of 1,875 steps so far."),
        (r#"{"step":0}"#, Some(1), "1 step done."),
        (r#"{"step":4}"#, None, "5 steps done."),
        (r#"{"step":9}"#, Some(10), "All 10 steps are done."),
    ] {
        fs::write(folder.path().join("steps"), steps).unwrap();
        let text = page(&Report { planned, ..report_of(folder.path()) });
        assert!(text.contains(said), "no \"{said}\" in {text}");
    }
    let session = |step: u32| format!(r#"{{"step":{step},"threads":2}}"#);
    fs::write(folder.path().join("sessions"), [session(0), session(0), session(1)].join("\n")).unwrap();
    let text = page(&report_of(folder.path()));
    for said in ["<td>begun</td>", "<td>begun again", "<td>taken up after 1 step</td>"] {
        assert_eq!(text.matches(said).count(), 1, "\"{said}\"");
    }
}

#[test]
fn scores_that_were_no_numbers_are_absent_and_the_others_are_shown() {
    let folder = temporary();
    let scores = folder.path().join("scores");
    fs::write(&scores, r#"[{"step":10,"k":5,"knn":0.5,"knn_before_training":null,"target":{"rankme":null}},7]"#)
        .unwrap();
    let found = Scored::read(&scores).unwrap();
    assert_eq!((found.len(), found[0].knn, found[0].rankme(), found[0].probe()), (1, Some(0.5), None, None));
    let text = page(&report_of(folder.path()));
    assert!(text.contains("after 10 steps is <b>50.00 %</b>; the same encoder untrained has none"), "{text}");
    fs::write(&scores, r#"[{"step":10"#).unwrap();
    let error = format!("{:#}", Scored::read(&scores).unwrap_err());
    assert!(error.contains("remove it") && error.lines().count() == 1, "{error}");
}
