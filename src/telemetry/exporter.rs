//! The door to the `metrics` crates: registers what the catalogue lists, and writes the Prometheus text format.
//!
//! Comes in: metrics of the catalogue with label values. Goes out: handles to set, and the text of `/metrics`. The
//! crates' counters are whole numbers, so counters of seconds are written here, as are our own histograms.

use std::fmt::{self, Write};
use std::time::Duration;

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::catalogue::{self, Kind, Metric};
use super::histogram::HistogramTotals;

/// A recorder of its own, never installed globally: two runs in one process keep apart.
pub(super) struct Exporter {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

/// A series that is written here; it has the metric's one label, or none.
pub(super) struct Series {
    metric: &'static Metric,
    label: Option<&'static str>,
    value: Value,
}

impl Series {
    pub fn new(metric: &'static Metric, label: Option<&'static str>, value: Value) -> Self {
        Self { metric, label, value }
    }
}

pub(super) enum Value {
    Seconds(Duration),
    Histogram(HistogramTotals),
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

impl Exporter {
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in catalogue::ALL {
            match metric.kind {
                Kind::Counter => recorder.describe_counter(metric.name.into(), None, metric.help.into()),
                Kind::Gauge => recorder.describe_gauge(metric.name.into(), None, metric.help.into()),
                Kind::SecondsCounter | Kind::Histogram(_) => {}
            }
        }
        Self { handle: recorder.handle(), recorder }
    }

    pub fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        self.recorder.register_counter(&key(metric, values), &METADATA)
    }

    pub fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        self.recorder.register_gauge(&key(metric, values), &METADATA)
    }

    /// Writes everything in the Prometheus text format 0.0.4. Series of one metric must lie side by side in `own`.
    pub fn render(&self, own: &[Series]) -> String {
        let mut text = self.handle.render();
        for group in own.chunk_by(|one, other| one.metric.name == other.metric.name) {
            // Writing to a String cannot fail.
            let _ = write_group(&mut text, group);
        }
        text
    }
}

fn key(metric: &Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let labels = metric.labels.iter().zip(values);
    Key::from_parts(metric.name, labels.map(|(name, value)| Label::new(*name, escapable(value))).collect::<Vec<_>>())
}

/// Doubles backslashes, because the exporter takes a pair of them for one that was escaped before.
fn escapable(value: &str) -> String {
    value.replace('\\', r"\\")
}

fn write_group(text: &mut String, group: &[Series]) -> fmt::Result {
    let Some(Series { metric: Metric { name, help, labels, .. }, value, .. }) = group.first() else {
        return Ok(());
    };
    let kind = match value {
        Value::Seconds(_) => "counter",
        Value::Histogram(_) => "histogram",
    };
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
    for Series { label, value, .. } in group {
        let label = labels.first().zip(*label).map(|(name, label)| format!("{name}=\"{label}\""));
        match value {
            Value::Seconds(time) => writeln!(text, "{name}{} {}", braced(label), time.as_secs_f64())?,
            Value::Histogram(totals) => write_histogram(text, name, label, totals)?,
        }
    }
    writeln!(text)
}

fn write_histogram(text: &mut String, name: &str, label: Option<String>, totals: &HistogramTotals) -> fmt::Result {
    let separated = label.as_ref().map_or_else(String::new, |label| format!("{label},"));
    for (bound, count) in &totals.buckets {
        writeln!(text, "{name}_bucket{{{separated}le=\"{bound}\"}} {count}")?;
    }
    writeln!(text, "{name}_bucket{{{separated}le=\"+Inf\"}} {}", totals.count)?;
    let labels = braced(label);
    writeln!(text, "{name}_sum{labels} {}", totals.sum.as_secs_f64())?;
    writeln!(text, "{name}_count{labels} {}", totals.count)
}

fn braced(label: Option<String>) -> String {
    label.map_or_else(String::new, |label| format!("{{{label}}}"))
}
