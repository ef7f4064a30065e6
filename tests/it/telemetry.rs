//! What `/metrics` says, and which stage is called the bottleneck.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use saccade::pipeline::decode::Reason;
use saccade::telemetry::bottleneck::limiting;
use saccade::telemetry::catalogue::{self, Kind};
use saccade::telemetry::{Gauge, GpuReading, Queue, Stage, StageTotals, Telemetry};
use saccade::train::collapse::{Kind as CollapseKind, Output};

use crate::exposition::{parse, value};

// The text format

#[test]
fn every_metric_is_described_and_in_the_catalogue() {
    let families = parse(&used().render());
    for metric in catalogue::ALL {
        let family = families.get(metric.name).unwrap_or_else(|| panic!("{}: not rendered", metric.name));
        let kind = match metric.kind {
            Kind::Counter | Kind::SecondsCounter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        assert_eq!((family.help.as_str(), family.kind.as_str()), (metric.help, kind), "{}", metric.name);
        for (series, labels, _) in &family.series {
            let names: Vec<_> = labels.keys().map(String::as_str).filter(|name| *name != "le").collect();
            let mut expected = metric.labels.to_vec();
            expected.sort_unstable();
            assert_eq!(names, expected, "{series}");
        }
    }
    let listed = |name: &String| catalogue::ALL.iter().any(|metric| metric.name == name);
    assert_eq!(families.keys().find(|name| !listed(name)), None);
}

#[test]
fn promtool_finds_nothing_to_say() {
    for telemetry in [Telemetry::new("new"), used()] {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("promtool: {error}; scripts/test installs Debian's package `prometheus`"));
        promtool.stdin.take().unwrap().write_all(telemetry.render().as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!((output.status.code(), words.as_str()), (Some(0), ""));
    }
}

#[test]
fn every_series_known_beforehand_is_there_from_the_start() {
    let text = Telemetry::new("run").render();
    let families = parse(&text);
    for stage in Stage::ALL {
        let labels = format!("{{stage=\"{stage}\"}}");
        for name in [
            "saccade_stage_samples_total",
            "saccade_stage_bytes_total",
            "saccade_stage_busy_seconds_total",
            "saccade_stage_starved_seconds_total",
            "saccade_stage_blocked_seconds_total",
            "saccade_stage_sample_seconds_count",
            "saccade_bottleneck",
        ] {
            assert!(text.contains(&format!("\n{name}{labels} 0\n")), "{name}{labels}\n{text}");
        }
    }
    for queue in Queue::ALL {
        assert_eq!(value(&families, "saccade_queue_depth", &[("queue", queue.name())]), 0.0);
        assert_eq!(value(&families, "saccade_queue_capacity", &[("queue", queue.name())]), 0.0);
    }
    let without_label = catalogue::ALL.iter().filter(|metric| metric.labels.is_empty());
    for metric in without_label.filter(|metric| metric.name.starts_with("saccade_")) {
        assert_eq!(families[metric.name].series.iter().map(|(.., value)| value).sum::<f64>(), 0.0, "{}", metric.name);
    }
    assert_eq!(value(&families, "saccade_run_info", &[("run", "run")]), 1.0);
    assert_eq!(value(&families, "saccade_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
}

#[test]
fn what_is_counted_is_what_is_read() {
    let telemetry = used();
    let families = parse(&telemetry.render());
    let decode = [("stage", "decode")];
    for (name, labels, expected) in [
        ("saccade_stage_samples_total", &decode[..], 3.0),
        ("saccade_stage_bytes_total", &decode, 600.0),
        ("saccade_stage_busy_seconds_total", &decode, 0.0035),
        ("saccade_stage_starved_seconds_total", &decode, 0.25),
        ("saccade_stage_blocked_seconds_total", &decode, 1.5),
        ("saccade_stage_skipped_total", &[("stage", "decode"), ("reason", "too small")], 2.0),
        ("saccade_stage_skipped_total", &[("stage", "decode"), ("reason", "cut short")], 1.0),
        ("saccade_queue_capacity", &[("queue", "batches")], 4.0),
        ("saccade_queue_depth", &[("queue", "batches")], 3.0),
        ("saccade_loss", &[], 0.75),
        ("saccade_learning_rate", &[], 0.001),
        ("saccade_step", &[], 12.0),
        ("saccade_loss_term", &[("term", "prediction")], 0.5),
        ("saccade_score", &[("score", "knn")], 0.875),
        ("saccade_data_wait_seconds_total", &[], 0.125),
        ("saccade_rank_seconds_total", &[("rank", "0")], 0.5),
        ("saccade_rank_seconds_total", &[("rank", "1")], 0.75),
        ("saccade_upload_exposed_seconds_total", &[], 0.0),
    ] {
        assert_eq!(value(&families, name, labels), expected, "{name}{labels:?}");
    }
    let totals = telemetry.stage(Stage::Decode).totals();
    let expected = StageTotals {
        samples: 3,
        bytes: 600,
        skipped: 3,
        busy: Duration::from_micros(3500),
        starved: Duration::from_millis(250),
        blocked: Duration::from_millis(1500),
    };
    assert_eq!(totals, expected);
    assert!(telemetry.stages().contains(&(Stage::Decode, expected)));
}

#[test]
fn a_histogram_counts_each_observation_into_every_bucket_above_it() {
    let families = parse(&used().render());
    let family = &families["saccade_stage_sample_seconds"];
    let of_decode = |suffix: &str| {
        let name = format!("saccade_stage_sample_seconds_{suffix}");
        let series = family.series.iter().filter(move |(series, ..)| *series == name);
        series.filter(|(_, labels, _)| labels["stage"] == "decode").collect::<Vec<_>>()
    };
    let mut buckets: Vec<(f64, f64)> =
        of_decode("bucket").iter().map(|(_, labels, count)| (labels["le"].parse().unwrap(), *count)).collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let Kind::Histogram(bounds) = catalogue::STAGE_SAMPLE_SECONDS.kind else { panic!("a histogram") };
    let observed = [0.0005, 0.001, 0.002];
    let expected = bounds.iter().copied().chain([f64::INFINITY]);
    let expected: Vec<(f64, f64)> =
        expected.map(|bound| (bound, observed.iter().filter(|seconds| **seconds <= bound).count() as f64)).collect();
    assert_eq!(buckets, expected);
    assert_eq!(of_decode("count")[0].2, 3.0);
    assert!((of_decode("sum")[0].2 - observed.iter().sum::<f64>()).abs() < 1e-12);
}

#[test]
fn counters_never_fall() {
    let telemetry = used();
    let before = parse(&telemetry.render());
    telemetry.stage(Stage::Decode).sample(Duration::from_nanos(1), 1);
    telemetry.step(Duration::from_millis(1), Duration::from_nanos(1));
    let after = parse(&telemetry.render());
    for (name, family) in before.iter().filter(|(_, family)| family.kind == "counter") {
        for (series, labels, earlier) in &family.series {
            let labels: Vec<_> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert!(value(&after, name, &labels) >= *earlier, "{series}{labels:?}");
        }
    }
    let busy = |families| value(families, "saccade_stage_busy_seconds_total", &[("stage", "decode")]);
    assert_eq!((busy(&before), busy(&after)), (0.0035, 0.003500001));
}

#[test]
fn of_uploads_the_time_that_is_waited_for_is_counted_while_it_passes() {
    let telemetry = Telemetry::new("run");
    let exposed = || value(&parse(&telemetry.render()), "saccade_upload_exposed_seconds_total", &[]);
    drop(telemetry.upload_goes_on());
    let upload = telemetry.upload_goes_on();
    assert_eq!(exposed(), 0.0, "uploads that nobody waits for");
    drop(upload);
    let start = Instant::now();
    let wait = telemetry.wait_goes_on();
    assert_eq!(exposed(), 0.0, "a wait without an upload");

    let upload = telemetry.upload_goes_on();
    let [early, late] = [exposed(), exposed()];
    assert!(0.0 < early && early < late, "{early}, then {late}");
    drop(upload);
    let after = exposed();
    assert!(late < after && after < start.elapsed().as_secs_f64(), "{late}, then {after}");
    assert_eq!(exposed(), after, "the wait goes on, the upload does not");

    // The other way round: the wait begins in the middle of an upload, and ends before it.
    drop(wait);
    let upload = telemetry.upload_goes_on();
    assert_eq!(exposed(), after);
    let begun = Instant::now();
    let wait = telemetry.wait_goes_on();
    assert!(after < exposed(), "nothing passes");
    drop(wait);
    let last = exposed();
    assert!(after < last && last - after < begun.elapsed().as_secs_f64(), "{after}, then {last}");
    drop(upload);
    assert_eq!(exposed(), last);
}

#[test]
fn many_threads_count_everything() {
    // More than there are stripes, so that some share one.
    const THREADS: u64 = 40;
    const SAMPLES: u64 = 2_500;
    let telemetry = Telemetry::new("run");
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let meter = telemetry.stage(Stage::Augment);
            scope.spawn(move || (0..SAMPLES).for_each(|_| meter.sample(Duration::from_micros(2), 3)));
        }
    });
    let totals = telemetry.stage(Stage::Augment).totals();
    let all = THREADS * SAMPLES;
    assert_eq!((totals.samples, totals.bytes, totals.busy), (all, 3 * all, Duration::from_micros(2 * all)));
    let families = parse(&telemetry.render());
    let augment = [("stage", "augment")];
    assert_eq!(value(&families, "saccade_stage_sample_seconds_count", &augment), all as f64);
    assert_eq!(value(&families, "saccade_stage_sample_seconds_sum", &augment), totals.busy.as_secs_f64());
}

#[test]
fn label_values_come_back_as_they_went_in() {
    for run in ["plain", "", "two words", "\"quoted\"", "back\\slash", "\\\"", "\\\\", "end\\", "line\nbreak", "ÄÖ 測"]
    {
        let families = parse(&Telemetry::new(run).render());
        assert_eq!(value(&families, "saccade_run_info", &[("run", run)]), 1.0, "{run:?}");
    }
}

#[test]
fn the_process_tells_its_needs() {
    let families = parse(&Telemetry::new("run").render());
    let of = |name: &str| value(&families, name, &[]);
    assert!(of("process_cpu_seconds_total") > 0.0);
    assert!(of("process_resident_memory_bytes") > 1e6);
    assert!(of("process_open_fds") >= 3.0);
    assert!(of("process_threads") >= 2.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - of("process_start_time_seconds");
    // The machine's start is told in whole seconds.
    assert!((-1.5..86_400.0).contains(&age), "started {age} s ago");
}

#[test]
fn series_stay_within_the_stated_bound_whatever_happens() {
    let telemetry = Telemetry::new("run");
    let everything = || {
        for (stage, reason) in Stage::ALL.into_iter().flat_map(|stage| REASONS.map(|reason| (stage, reason))) {
            telemetry.stage(stage).skipped(reason.name());
        }
        for term in ["prediction", "cycle", "variance", "covariance", "direction", "magnitude", "rotation"] {
            telemetry.set_term(term, 1.0);
        }
        for output in Output::ALL.map(Output::name) {
            telemetry.set_features(output, 0.5, 2.0, Some(1.0));
            CollapseKind::ALL.iter().for_each(|kind| telemetry.set_collapse(output, kind.name(), false));
        }
        let baselines = ["knn", "knn_before_training", "knn_raw_pixels"];
        let others = ["rankme", "probe_top1", "probe_top5", "correlation_dimension", "alpha", "lidar"];
        baselines.iter().chain(&others).for_each(|score| telemetry.set_score(score, 0.5));
        telemetry.set_energies(&[-1.0; 100_000]);
        (0..100).for_each(|number| telemetry.set_gpu(number, &gpu()));
        (0..100).for_each(|rank| telemetry.rank(rank, Duration::from_secs(1)));
        ["stalled", "cut_off", "checksum", "failed"].iter().for_each(|reason| telemetry.fetch_retried(reason));
    };
    everything();
    let series = series(&telemetry);
    assert!(series <= catalogue::MOST_SERIES, "{series}");
    everything();
    assert_eq!(self::series(&telemetry), series, "the same again makes no more of them");
    // The bound is near what a run really has.
    assert!(self::series(&used()) > catalogue::MOST_SERIES / 2);
}

#[test]
fn of_many_energies_the_last_is_among_those_that_are_shown() {
    for (iterations, expected) in [(1, 1), (2, 2), (13, 13), (32, 32), (33, 17), (1000, 32)] {
        let telemetry = Telemetry::new("run");
        let energies: Vec<f64> = (0..iterations).map(f64::from).collect();
        telemetry.set_energies(&energies);
        let families = parse(&telemetry.render());
        let shown = &families["saccade_energy"].series;
        let last = (iterations - 1).to_string();
        assert_eq!(shown.len(), expected, "{iterations}");
        assert_eq!(value(&families, "saccade_energy", &[("iterations", &last)]), f64::from(iterations - 1));
    }
}

// The bottleneck

/// Milliseconds busy, starved and blocked, by stage.
fn check_limiting(work: &[(Stage, [u64; 3])], elapsed: u64, expected: Option<Stage>) {
    let totals = |[busy, starved, blocked]: [u64; 3]| StageTotals {
        busy: Duration::from_millis(busy),
        starved: Duration::from_millis(starved),
        blocked: Duration::from_millis(blocked),
        ..StageTotals::default()
    };
    let deltas: Vec<_> = work.iter().map(|(stage, times)| (*stage, totals(*times))).collect();
    assert_eq!(limiting(&deltas, Duration::from_millis(elapsed)), expected, "{work:?} in {elapsed} ms");
}

#[test]
fn the_bottleneck_is_the_stage_that_is_neither_starved_nor_blocked() {
    use Stage::*;
    check_limiting(&[], 0, None);
    check_limiting(&[], 5000, None);
    check_limiting(&[(Read, [0, 0, 0]), (Train, [0, 0, 0])], 5000, None);
    check_limiting(&[(Read, [0, 0, 0]), (Train, [0, 5000, 0])], 5000, None);
    check_limiting(&[(Read, [0, 0, 0]), (Train, [1, 0, 0])], 0, Some(Train));
    // The device limits: everything before it waits for room.
    check_limiting(&[(Read, [500, 0, 4500]), (Decode, [3000, 0, 7000]), (Train, [4990, 10, 0])], 5000, Some(Train));
    // The disk limits: everything after it waits for input.
    check_limiting(&[(Read, [5000, 0, 0]), (Decode, [2000, 8000, 0]), (Train, [900, 4100, 0])], 5000, Some(Read));
}

#[test]
fn stages_of_the_worker_pool_are_judged_together() {
    use Stage::*;
    // Each stage of the pool alone is less busy than the trainer, the pool is busier.
    let pool = [(Decode, [6000, 100, 0]), (Augment, [3000, 0, 0]), (Mask, [200, 0, 0]), (Batch, [300, 0, 400])];
    let with = |stage, times| [&[(Read, [400, 0, 4600])], &pool[..], &[(stage, times)]].concat();
    check_limiting(&with(Train, [4000, 1000, 0]), 5000, Some(Decode));
    check_limiting(&with(Train, [4900, 100, 0]), 5000, Some(Train));
    // The pool's waiting is counted once, wherever it was noted down.
    check_limiting(&[(Decode, [5000, 0, 0]), (Batch, [10, 0, 5000]), (Train, [3000, 2000, 0])], 5000, Some(Train));
    check_limiting(&[(Mask, [600, 0, 0]), (Augment, [500, 0, 0])], 1000, Some(Mask));
}

#[test]
fn a_stage_that_only_worked_for_a_moment_does_not_limit() {
    use Stage::*;
    check_limiting(&[(Train, [4500, 500, 0]), (Checkpoint, [100, 0, 0])], 5000, Some(Train));
    check_limiting(&[(Train, [500, 500, 0]), (Eval, [4000, 0, 0])], 5000, Some(Eval));
}

#[test]
fn nothing_limits_before_anything_has_worked() {
    let telemetry = Telemetry::new("run");
    assert_eq!(telemetry.bottleneck(), None);
    telemetry.stage(Stage::Read).starved(Duration::from_secs(9));
    assert_eq!(telemetry.bottleneck(), None);
    telemetry.stage(Stage::Upload).busy(Duration::from_secs(1));
    assert_eq!(telemetry.bottleneck(), Some(Stage::Upload));
    let families = parse(&telemetry.render());
    for stage in Stage::ALL {
        let expected = if stage == Stage::Upload { 1.0 } else { 0.0 };
        assert_eq!(value(&families, "saccade_bottleneck", &[("stage", stage.name())]), expected, "{stage}");
    }
}

// Help for the tests above

const REASONS: [Reason; 8] = [
    Reason::Empty,
    Reason::UnknownFormat,
    Reason::Unsupported,
    Reason::Truncated,
    Reason::Damaged,
    Reason::TooLarge,
    Reason::Panicked,
    Reason::Lost,
];

fn series(telemetry: &Telemetry) -> usize {
    parse(&telemetry.render()).values().map(|family| family.series.len()).sum()
}

/// A GPU that tells all.
fn gpu() -> GpuReading {
    GpuReading {
        busy: Some(0.87),
        memory_used: Some(6e10),
        memory: Some(8e10),
        power: Some(612.5),
        temperature: Some(64.0),
        pcie_received: Some(1.5e9),
        pcie_sent: Some(2.5e6),
    }
}

/// A telemetry to which a little of everything has happened.
pub fn used() -> Telemetry {
    let telemetry = Telemetry::new("run");
    let decode = telemetry.stage(Stage::Decode);
    for (microseconds, bytes) in [(500, 100), (1000, 200), (2000, 300)] {
        decode.sample(Duration::from_micros(microseconds), bytes);
    }
    for reason in ["too small", "cut short", "too small"] {
        decode.skipped(reason);
    }
    decode.starved(Duration::from_millis(250));
    decode.blocked(Duration::from_millis(1500));
    telemetry.queue(Queue::Batches, 4).depth(3);
    telemetry.set(Gauge::Loss, 0.75);
    telemetry.set(Gauge::LearningRate, 0.001);
    telemetry.set(Gauge::Step, 12.0);
    telemetry.set_term("prediction", 0.5);
    telemetry.set_features("target", 0.25, 12.5, Some(1.25));
    telemetry.set_collapse("target", "complete", false);
    telemetry.set_energies(&[-1.0, -2.5]);
    telemetry.set_score("knn", 0.875);
    telemetry.set_gpu(0, &gpu());
    telemetry.fetch_retried("cut_off");
    telemetry.step(Duration::from_millis(40), Duration::from_millis(125));
    telemetry.rank(0, Duration::from_millis(500));
    telemetry.rank(1, Duration::from_millis(750));
    telemetry
}
