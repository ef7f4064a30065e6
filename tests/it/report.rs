//! A run on one page: its drawing, what it says of good and of spoilt records, and the verb.

use std::fs;
use std::path::Path;

use saccade::run::report::chart::{Axis, Series, escaped, lines, reduced, short, ticks};
use saccade::run::report::history::{Quarantine, Steps, Times};
use saccade::run::report::page::{base64, count, date};

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
    ] {
        assert_eq!(ticks(least, greatest), expected, "{least} to {greatest}");
    }
    for (value, said) in [
        (0.0, "0"),
        (1234.0, "1234"),
        (12_345.0, "12.3k"),
        (2.5e6, "2.5M"),
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
    assert_eq!(escaped("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
}

#[test]
fn spoilt_lines_and_fields_are_absent_and_no_more() {
    let folder = temporary();
    let steps = folder.path().join("steps.jsonl");
    let lines = [
        r#"{"step":0,"loss":2.0,"terms":{"prediction":2.0},"probe":{"right":1,"of":3}}"#,
        r#"{"step":1,"loss":null,"features":{"target":{"rankme":3.0}},"energies":[1.0,0.5]}"#,
        r#"{"step":2,"loss":1.0,"collapses":[{"kind":"complete","output":"target","since":2}],"surprise":{}}"#,
        "no JSON",
        r#"{"step":3,"loss":0.5,"probe":{"right":3,"of":3},"collapses":[{"kind":"complete","output":"target","since":2}]}"#,
        r#"{"step":4,"lo"#,
    ];
    fs::write(&steps, lines.join("\n")).unwrap();
    let read = Steps::read(&steps);
    assert_eq!((read.count, read.curve("loss")), (4, vec![[0.0, 2.0], [2.0, 1.0], [3.0, 0.5]]));
    assert_eq!(read.curves_of("rankme"), [("target".to_owned(), vec![[1.0, 3.0]])]);
    assert_eq!((read.collapses.len(), read.collapses[0].1), (1, 3));
    assert_eq!(read.collapses[0].0.to_string(), "complete collapse of the target since step 2");
    assert_eq!((read.energies.clone(), read.probe(6.0)), (vec![(1, vec![1.0, 0.5])], vec![[3.0, 4.0 / 6.0]]));
    assert_eq!(Steps::read(Path::new("/nowhere")).count, 0);
}

/// Two processes, the second of which began to count anew.
#[test]
fn times_of_all_processes_add_up() {
    let folder = temporary();
    let stages = folder.path().join("stages.jsonl");
    let line = |step: u32, seconds: f64, decode: [f64; 2], train: f64| {
        format!(
            r#"{{"step":{step},"seconds":{seconds},"stages":{{"decode":{{"samples":10,"busy":{},"starved":{},"blocked":-3}},"train":{{"busy":{train}}}}}}}"#,
            decode[0], decode[1]
        )
    };
    let text = [line(5, 10.0, [2.0, 8.0], 9.0), line(9, 20.0, [4.0, 16.0], 18.0), line(14, 10.0, [6.0, 4.0], 2.0)];
    fs::write(&stages, text.join("\n")).unwrap();
    let times = Times::read(&stages);
    let busy = |name: &str| {
        let (_, totals) = times.whole.iter().find(|(stage, _)| stage.name() == name).unwrap();
        totals.busy.as_secs_f64()
    };
    assert_eq!((times.seconds, busy("decode"), busy("train")), (30.0, 10.0, 20.0));
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
    for tag in ["svg", "figure", "section", "table", "details", "div", "p", "polygon"] {
        let begun = text.matches(&format!("<{tag} ")).count() + text.matches(&format!("<{tag}>")).count();
        let ended = text.matches(&format!("</{tag}>")).count() + if tag == "polygon" { begun } else { 0 };
        assert_eq!(begun, ended, "<{tag}>");
    }
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
    for (arguments, word) in [
        (["report", at(&folder.path().join("none")), "--out", "x.html"], "none"),
        (["report", at(&run), "--out", "/proc/x/run.html"], "/proc/x/run.html"),
    ] {
        let said = finish(&mut saccade(&arguments), 1);
        assert!(said.err.contains(word) && said.err.trim_end().lines().count() == 1, "{}", said.err);
    }
}
