//! Draws features as points of a plane (UMAP), a colour for each label: as SVG, or as a page on which one can hover.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::runtime::Handle;

use super::eval::{Frozen, Split};
use crate::eval::umap::{UmapConfig, umap};

/// Pixels a side of the drawing, and its margin.
const SIDE: f64 = 800.0;
const MARGIN: f64 = 20.0;
/// Labels that are named beside it; more would not fit.
const MOST_NAMED: usize = 40;
const LINE: f64 = 18.0;

/// What is drawn.
pub struct Plane {
    /// `[samples]`, in the units of UMAP.
    pub points: Vec<[f32; 2]>,
    pub labels: Vec<Option<u32>>,
    pub keys: Vec<String>,
}

/// What is asked of a drawing.
pub struct Request {
    pub split: Split,
    /// Samples at most, evenly spread over all.
    pub samples: usize,
    pub umap: UmapConfig,
}

/// Lays a split's features out.
///
/// # Errors
/// When the data fail, there are no samples, or features are not finite.
pub fn plane(frozen: &Frozen, request: &Request, runtime: &Handle) -> Result<Plane> {
    let (mut values, mut width) = (Vec::new(), 0);
    let (mut labels, mut keys) = (Vec::new(), Vec::new());
    let set = frozen.set(request.split)?;
    frozen.for_each(request.split, Some(request.samples), runtime, |rows| {
        width = rows.width;
        values.extend_from_slice(rows.values);
        labels.extend_from_slice(rows.labels);
        keys.extend(rows.samples.iter().map(|&number| set.sample(number).key.to_owned()));
        Ok(())
    })?;
    if keys.is_empty() {
        bail!("the shards hold no sample that can be read");
    }
    let points = umap(&values, width, &request.umap).context("the features cannot be laid out")?;
    Ok(Plane { points, labels, keys })
}

/// Whether a file is to be a page (`.html`), or a drawing alone (`.svg`).
///
/// # Errors
/// When its ending is another.
pub fn is_page(path: &Path) -> Result<bool> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("svg") => Ok(false),
        Some("html") => Ok(true),
        _ => bail!("{}: name a file that ends in .svg or .html", path.display()),
    }
}

/// Writes the drawing, or the page.
///
/// # Errors
/// When the file ends in something else, or cannot be written.
pub fn write(plane: &Plane, title: &str, names: &[String], path: &Path) -> Result<()> {
    let text = if is_page(path)? { page(plane, title, names) } else { svg(plane, title, names, false) };
    fs::write(path, text).with_context(|| format!("{}: cannot be written", path.display()))
}

fn name(label: Option<u32>, names: &[String]) -> String {
    let number = |label: u32| names.get(label as usize).cloned().unwrap_or_else(|| label.to_string());
    label.map_or_else(|| "no label".into(), number)
}

/// Ten colours that are easily told apart, then hues a golden angle apart, so that labels next to each other differ.
fn colour(label: Option<u32>) -> String {
    const FIRST: [&str; 10] =
        ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#e69f00", "#332288", "#777777", "#44bb99"];
    const GOLDEN_ANGLE: f64 = 137.508;
    match label {
        None => "#cccccc".into(),
        Some(label) => FIRST.get(label as usize).map_or_else(
            || format!("hsl({:.0},75%,{}%)", (f64::from(label) * GOLDEN_ANGLE) % 360.0, 40 + 15 * (label % 2)),
            |colour| (*colour).into(),
        ),
    }
}

/// What may stand in a text of XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn svg(plane: &Plane, title: &str, names: &[String], hover: bool) -> String {
    let mut shown: Vec<Option<u32>> = plane.labels.clone();
    shown.sort_unstable();
    shown.dedup();
    let named = if shown.len() > MOST_NAMED { 0 } else { shown.len() };
    let beside = if named > 0 { 180.0 } else { 0.0 };
    let place = places(&plane.points);
    let lowest = place.iter().fold(0.0, |lowest: f64, point| lowest.max(point[1]));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<title>{}</title>\n",
        SIDE + beside,
        (lowest + MARGIN + LINE).max(LINE * (named as f64 + 3.0)),
        escaped(title)
    );
    // Writing to a string cannot fail.
    let mut put = |line: std::fmt::Arguments| {
        let _ = text.write_fmt(line);
    };
    put(format_args!("<text x=\"{MARGIN}\" y=\"{LINE}\" fill=\"currentColor\">{}</text>\n", escaped(title)));
    let radius = if plane.points.len() > 3000 { 1.6 } else { 2.6 };
    for (number, ([x, y], label)) in place.iter().zip(&plane.labels).enumerate() {
        let start =
            format_args!("<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"{radius}\" fill=\"{}\"", y + LINE, colour(*label))
                .to_string();
        if hover {
            let said = format!("{}: {}", name(*label, names), plane.keys[number]);
            put(format_args!("{start}><title>{}</title></circle>\n", escaped(&said)));
        } else {
            put(format_args!("{start}/>\n"));
        }
    }
    for (row, label) in shown.iter().take(named).enumerate() {
        let y = LINE * (row as f64 + 2.5);
        put(format_args!("<circle cx=\"{}\" cy=\"{:.1}\" r=\"6\" fill=\"{}\"/>", SIDE + 10.0, y - 4.5, colour(*label)));
        put(format_args!(
            "<text x=\"{}\" y=\"{y:.1}\" fill=\"currentColor\">{}</text>\n",
            SIDE + 24.0,
            escaped(&name(*label, names))
        ));
    }
    text + "</svg>\n"
}

/// Points in pixels, all with the same scale.
fn places(points: &[[f32; 2]]) -> Vec<[f64; 2]> {
    let range = |axis: usize| {
        let values = points.iter().map(|point| f64::from(point[axis]));
        let least = values.clone().fold(f64::INFINITY, f64::min);
        (least, values.fold(f64::NEG_INFINITY, f64::max) - least)
    };
    let [(left, width), (top, height)] = [range(0), range(1)];
    let scale = (SIDE - 2.0 * MARGIN) / width.max(height).max(f64::MIN_POSITIVE);
    let to_pixel = |value: f32, least: f64| MARGIN + (f64::from(value) - least) * scale;
    points.iter().map(|[x, y]| [to_pixel(*x, left), to_pixel(*y, top)]).collect()
}

fn page(plane: &Plane, title: &str, names: &[String]) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{}</title>\n<style>:root{{color-scheme:light dark}}\
         body{{margin:1rem}}svg{{width:100%;max-height:94vh}}circle:hover{{r:6;stroke:currentColor}}</style>\n{}</html>\n",
        escaped(title),
        svg(plane, title, names, true)
    )
}
