//! Draws features as points of a plane (UMAP), a colour for each label: as SVG, as PNG, or as a page on which one can
//! hover.

mod raster;

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::runtime::Handle;

use super::eval::{Frozen, Split};
use super::folder;
use super::show::png;
use super::text::escaped;
use crate::checkpoint::write_whole;
use crate::eval::umap::{UmapConfig, umap};

/// What a page with a [`figure`] needs in its style.
pub const STYLE: &str = include_str!("plane/style.css");

/// Pixels a side of the drawing, and its margin.
const SIDE: f64 = 800.0;
const MARGIN: f64 = 20.0;
/// Labels that are named beside it; more would not fit.
const MOST_NAMED: usize = 40;
const LINE: f64 = 18.0;
/// Pixels beside the points for the labels' names.
const BESIDE: f64 = 180.0;
/// Points up to which they are drawn large.
const MOST_LARGE: usize = 3000;

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

/// What a drawing becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Svg,
    Png,
    /// On which one can hover.
    Page,
}

impl Form {
    /// The form that a file's ending asks for.
    ///
    /// # Errors
    /// When its ending is another.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => Ok(Self::Svg),
            Some("png") => Ok(Self::Png),
            Some("html") => Ok(Self::Page),
            _ => bail!("{}: name a file that ends in .svg, .png or .html", path.display()),
        }
    }
}

/// Makes sure, before anything is computed, that a drawing can be written.
///
/// # Errors
/// When the file ends in something else, or cannot be written.
pub fn check(path: &Path) -> Result<()> {
    Form::of(path)?;
    folder::check_file(path)
}

/// Writes the drawing, or the page, in place of what is there.
///
/// # Errors
/// When the file ends in something else, or cannot be written.
pub fn write(plane: &Plane, title: &str, names: &[String], path: &Path) -> Result<()> {
    let bytes = match Form::of(path)? {
        Form::Svg => svg(plane, title, names).into_bytes(),
        Form::Png => png(&raster::draw(plane, title, names))?,
        Form::Page => page(plane, title, names).into_bytes(),
    };
    Ok(write_whole(path, &bytes)?)
}

/// The labels that occur, in order, as far as they are named beside the drawing.
fn legend(plane: &Plane) -> Vec<Option<u32>> {
    let mut shown = plane.labels.clone();
    shown.sort_unstable();
    shown.dedup();
    if shown.len() > MOST_NAMED { Vec::new() } else { shown }
}

fn name(label: Option<u32>, names: &[String]) -> String {
    let number = |label: u32| names.get(label as usize).cloned().unwrap_or_else(|| label.to_string());
    label.map_or_else(|| "no label".into(), number)
}

/// Ten colours that are easily told apart, then hues a golden angle apart, so that labels next to each other differ.
fn rgb(label: Option<u32>) -> [u8; 3] {
    const FIRST: [u32; 10] =
        [0x4477aa, 0xee6677, 0x228833, 0xccbb44, 0x66ccee, 0xaa3377, 0xe69f00, 0x332288, 0x777777, 0x44bb99];
    const GOLDEN_ANGLE: f64 = 137.508;
    let bytes = |colour: u32| {
        let [_, channels @ ..] = colour.to_be_bytes();
        channels
    };
    match label {
        None => bytes(0xcccccc),
        Some(label) => FIRST.get(label as usize).map_or_else(
            || hue((f64::from(label) * GOLDEN_ANGLE) % 360.0, 0.4 + 0.15 * f64::from(label % 2)),
            |&colour| bytes(colour),
        ),
    }
}

/// Of a hue in degrees, three quarters saturated, and a lightness (CSS Color 3, section 4.2.4).
fn hue(degrees: f64, lightness: f64) -> [u8; 3] {
    const SATURATION: f64 = 0.75;
    let channel = |offset: f64| {
        let place = (offset + degrees / 30.0) % 12.0;
        let reach = SATURATION * lightness.min(1.0 - lightness);
        let value = lightness - reach * (place - 3.0).min(9.0 - place).clamp(-1.0, 1.0);
        (255.0 * value).round() as u8
    };
    [channel(0.0), channel(8.0), channel(4.0)]
}

fn colour(label: Option<u32>) -> String {
    let [red, green, blue] = rgb(label);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn radius(plane: &Plane) -> f64 {
    if plane.points.len() > MOST_LARGE { 1.6 } else { 2.6 }
}

/// The drawing as a file of its own.
fn svg(plane: &Plane, title: &str, names: &[String]) -> String {
    let shown = legend(plane);
    let named = shown.len();
    let beside = if named > 0 { BESIDE } else { 0.0 };
    let place = places(&plane.points);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<title>{}</title>\n",
        SIDE + beside,
        (height(&place) + LINE).max(LINE * (named as f64 + 3.0)),
        escaped(title)
    );
    // Writing to a string cannot fail.
    let mut put = |line: std::fmt::Arguments| {
        let _ = text.write_fmt(line);
    };
    put(format_args!("<text x=\"{MARGIN}\" y=\"{LINE}\" fill=\"currentColor\">{}</text>\n", escaped(title)));
    let radius = radius(plane);
    for ([x, y], label) in place.iter().zip(&plane.labels) {
        let (y, colour) = (y + LINE, colour(*label));
        put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>\n"));
    }
    for (row, label) in shown.iter().enumerate() {
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

/// The drawing as a part of a page that has [`STYLE`]: each point says on hovering what it is, and the labels' names stand
/// beside it or below as there is room.
pub fn figure(plane: &Plane, names: &[String]) -> String {
    let place = places(&plane.points);
    let mut text = format!(
        "<div class=\"plane\">\n<svg viewBox=\"0 0 {SIDE:.0} {:.0}\" role=\"img\" aria-label=\"Points of the plane\">\n",
        height(&place)
    );
    let radius = radius(plane);
    for (([x, y], label), key) in place.iter().zip(&plane.labels).zip(&plane.keys) {
        let said = escaped(&format!("{}: {key}", name(*label, names)));
        let colour = colour(*label);
        text += &format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" color=\"{colour}\"><title>{said}</title></circle>\n"
        );
    }
    text += "</svg>\n<ul>\n";
    for label in legend(plane) {
        let name = escaped(&name(label, names));
        text += &format!("<li style=\"color:{}\"><span>{name}</span></li>\n", colour(label));
    }
    text + "</ul>\n</div>\n"
}

/// Of a drawing of such points, with a margin below the lowest.
fn height(place: &[[f64; 2]]) -> f64 {
    place.iter().fold(0.0, |lowest: f64, point| lowest.max(point[1])) + MARGIN
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
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n<title>{0}</title>\n\
         <style>{STYLE}</style></head>\n<body class=\"alone\">\n<h1>{0}</h1>\n{1}<output class=\"tip\" hidden></output>\n\
         <script>{2}</script>\n</body></html>\n",
        escaped(title),
        figure(plane, names),
        include_str!("plane/hover.js"),
    )
}
