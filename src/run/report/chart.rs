//! Numbers over steps → a chart as SVG that stands in a page: no library draws one that follows a page's light or dark
//! without a script.

use std::fmt::Write;

use crate::run::text::escaped;

/// The drawing's size, in units that its page scales.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 210.0;
/// Room for the numbers on the left, and for the steps below.
const LEFT: f64 = 58.0;
const BELOW: f64 = 24.0;
const ABOVE: f64 = 8.0;
/// Room on the right for the lines' names.
const BESIDE: f64 = 165.0;
const NAME_HEIGHT: f64 = 17.0;
/// Lines of a chart: there is room for as many names.
const MOST_LINES: usize = 10;
/// What a run computes fits in so much; what does not is as good as infinite, and differences of what does stay finite.
const MOST: f64 = f32::MAX as f64;
/// Points of a line: more than one for each unit would not be seen.
const MOST_POINTS: usize = 300;
/// Positive values that reach further than this are drawn over their logarithms.
const LOGARITHMIC_BEYOND: f64 = 30.0;
/// Marks on an axis, about.
const TICKS: f64 = 4.0;
/// Marks on a logarithmic axis.
const MOST_TICKS: usize = 8;

/// What an axis of values is fit for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Linear,
    /// Logarithmic where positive values reach far.
    Any,
}

/// A line of a chart; `points` are steps and values, steps ascending.
pub struct Series {
    pub name: String,
    pub points: Vec<[f64; 2]>,
    /// A level to compare with: dashed.
    pub is_reference: bool,
}

impl Series {
    pub fn new(name: impl Into<String>, points: Vec<[f64; 2]>) -> Self {
        Self { name: name.into(), points, is_reference: false }
    }
}

/// Where several points fall together: their mean, least and greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reduced {
    pub step: f64,
    pub mean: f64,
    pub least: f64,
    pub greatest: f64,
}

/// Points in at most so many groups of neighbours, so that no spike is lost. What is not finite, or beyond [`f32`], is left
/// out.
pub fn reduced(points: &[[f64; 2]], most: usize) -> Vec<Reduced> {
    let finite: Vec<[f64; 2]> = points.iter().copied().filter(|point| point.iter().all(|x| x.abs() <= MOST)).collect();
    let each = finite.len().div_ceil(most.max(1)).max(1);
    let group = |group: &[[f64; 2]]| {
        let values = group.iter().map(|point| point[1]);
        let count = group.len() as f64;
        Reduced {
            step: group.iter().map(|point| point[0]).sum::<f64>() / count,
            mean: values.clone().sum::<f64>() / count,
            least: values.clone().fold(f64::INFINITY, f64::min),
            greatest: values.fold(f64::NEG_INFINITY, f64::max),
        }
    };
    finite.chunks(each).map(group).collect()
}

/// Round numbers within a range: 1, 2 or 5 times a power of ten apart. The least alone where the range is none, or less
/// than numbers can be told apart by.
pub fn ticks(least: f64, greatest: f64) -> Vec<f64> {
    let span = greatest - least;
    if !span.is_finite() || span <= 0.0 {
        return vec![least];
    }
    let rough = span / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let apart = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|apart| *apart >= rough);
    let apart = apart.unwrap_or(10.0 * power);
    if !apart.is_normal() {
        return vec![least];
    }
    let first = (least / apart).ceil() as i64;
    let last = (greatest / apart + 1e-9).floor() as i64;
    let mut ticks: Vec<f64> = (first..=last).map(|number| number as f64 * apart).collect();
    // Where the range is hardly more than the numbers' own spacing.
    ticks.dedup();
    ticks
}

/// A number as briefly as it can be said.
pub fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if value == 0.0 => "0".into(),
        _ if size >= 1e9 => format!("{value:.1e}"),
        _ if size >= 1e6 => format!("{}M", trimmed(value / 1e6, 2)),
        _ if size >= 1e4 => format!("{}k", trimmed(value / 1e3, 1)),
        _ if size >= 100.0 => trimmed(value, 0),
        _ if size >= 1.0 => trimmed(value, 2),
        _ if size >= 1e-3 => trimmed(value, 4),
        _ => format!("{value:.0e}"),
    }
}

fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The vertical axis.
struct Scale {
    is_logarithmic: bool,
    least: f64,
    greatest: f64,
}

impl Scale {
    fn of(lines: &[(&Series, Vec<Reduced>)], axis: Axis) -> Option<Self> {
        let all = || lines.iter().flat_map(|(_, points)| points);
        let least = all().map(|point| point.least).fold(f64::INFINITY, f64::min);
        let greatest = all().map(|point| point.greatest).fold(f64::NEG_INFINITY, f64::max);
        if !(least.is_finite() && greatest.is_finite()) {
            return None;
        }
        let is_logarithmic = axis == Axis::Any && least > 0.0 && greatest / least > LOGARITHMIC_BEYOND;
        // A line that does not change is drawn in the middle.
        let room = if greatest > least { 0.0 } else { (greatest.abs() * 0.1).max(1e-9) };
        Some(Self { is_logarithmic, least: least - room, greatest: greatest + room })
    }

    fn place(&self, value: f64) -> f64 {
        let along = |value: f64| if self.is_logarithmic { value.max(self.least).log10() } else { value };
        let share = (along(value) - along(self.least)) / (along(self.greatest) - along(self.least));
        ABOVE + (1.0 - share.clamp(0.0, 1.0)) * (HEIGHT - ABOVE - BELOW)
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.is_logarithmic {
            return ticks(self.least, self.greatest);
        }
        let powers = self.least.log10().floor() as i32..=self.greatest.log10().ceil() as i32;
        let within = |value: &f64| (self.least..=self.greatest).contains(value);
        let fine = powers.flat_map(|power| [1.0, 3.0].map(|times| times * 10f64.powi(power))).filter(within);
        let fine: Vec<f64> = fine.collect();
        if fine.len() <= MOST_TICKS {
            return fine;
        }
        // Over many decades whole ones are enough, and over very many some of them.
        let whole: Vec<f64> = fine.into_iter().filter(|value| value.log10().fract() == 0.0).collect();
        let every = whole.len().div_ceil(MOST_TICKS).max(1);
        whole.into_iter().step_by(every).collect()
    }
}

/// Lines over steps, with their names at their ends. Empty where there is nothing to draw.
pub fn lines(title: &str, axis: Axis, series: &[Series]) -> String {
    let lines: Vec<(&Series, Vec<Reduced>)> = series
        .iter()
        .map(|line| (line, reduced(&line.points, MOST_POINTS)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let (all, lines) = (lines.len(), &lines[..lines.len().min(MOST_LINES)]);
    let Some(scale) = Scale::of(lines, axis) else { return String::new() };
    let steps = || lines.iter().flat_map(|(_, points)| points).map(|point| point.step);
    let (first, last) = (steps().fold(f64::INFINITY, f64::min), steps().fold(f64::NEG_INFINITY, f64::max));
    let span = if last > first { last - first } else { 1.0 };
    let x = |step: f64| LEFT + (step - first) / span * (WIDTH - LEFT - BESIDE);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut put = |part: std::fmt::Arguments| {
        let _ = text.write_fmt(part);
    };
    let mut note = if scale.is_logarithmic { " (logarithmic)".to_owned() } else { String::new() };
    if all > lines.len() {
        note += &format!(" (the first {} of {all})", lines.len());
    }
    put(format_args!("<figure class=\"chart\"><figcaption>{}{note}</figcaption>", escaped(title)));
    put(format_args!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escaped(title)));
    for tick in scale.ticks() {
        let y = scale.place(tick);
        put(format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>", WIDTH - BESIDE));
        put(format_args!(
            "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            y + 4.0,
            short(tick)
        ));
    }
    for tick in ticks(first, last) {
        let place = x(tick);
        put(format_args!(
            "<text class=\"tick\" x=\"{place:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 6.0,
            short(tick)
        ));
    }
    let mut names: Vec<(f64, usize)> = Vec::new();
    for (number, (line, points)) in lines.iter().enumerate() {
        put(format_args!("{}", drawn(line, points, number, &x, &scale)));
        names.push((points.last().map_or(0.0, |point| scale.place(point.mean)), number));
    }
    for (y, number) in apart(names) {
        let (line, points) = &lines[number];
        let end = points.last().map_or(0.0, |point| point.mean);
        put(format_args!(
            "<text class=\"name c{}\" x=\"{}\" y=\"{:.1}\">{} {}</text>",
            number % COLOURS,
            WIDTH - BESIDE + 8.0,
            y + 4.0,
            escaped(&line.name),
            short(end)
        ));
    }
    text + "</svg></figure>\n"
}

/// Classes of the page's style that colour lines.
const COLOURS: usize = 6;

/// A line, and behind it how far it reaches where points fall together.
fn drawn(line: &Series, points: &[Reduced], number: usize, x: &dyn Fn(f64) -> f64, scale: &Scale) -> String {
    let colour = number % COLOURS;
    let path = |values: &mut dyn Iterator<Item = (f64, f64)>| -> String {
        values.map(|(step, value)| format!("{:.1},{:.1} ", x(step), scale.place(value))).collect()
    };
    let dashed = if line.is_reference { " dashed" } else { "" };
    let mut text = String::new();
    if points.iter().any(|point| point.greatest > point.least) {
        let above = path(&mut points.iter().map(|point| (point.step, point.greatest)));
        let below = path(&mut points.iter().rev().map(|point| (point.step, point.least)));
        text += &format!("<polygon class=\"band c{colour}\" points=\"{}\"/>", (above + &below).trim_end());
    }
    let middle = path(&mut points.iter().map(|point| (point.step, point.mean)));
    text += &format!("<polyline class=\"line c{colour}{dashed}\" points=\"{}\"/>", middle.trim_end());
    // Few points are marked, with what they say on hovering.
    if points.len() <= 40 && !line.is_reference {
        for point in points {
            let said = format!("{}: {} at step {:.0}", line.name, short(point.mean), point.step);
            let (x, y) = (x(point.step), scale.place(point.mean));
            text += &format!(
                "<circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"><title>{}</title></circle>",
                escaped(&said)
            );
        }
    }
    text
}

/// Heights of names, pushed apart until none covers another.
fn apart(mut names: Vec<(f64, usize)>) -> Vec<(f64, usize)> {
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut least = ABOVE + 4.0;
    for (y, _) in &mut names {
        *y = y.max(least);
        least = *y + NAME_HEIGHT;
    }
    let mut most = HEIGHT - BELOW;
    for (y, _) in names.iter_mut().rev() {
        *y = y.min(most);
        most = *y - NAME_HEIGHT;
    }
    names
}

/// A row of a stacked bar: a name, and its parts.
pub struct Bar {
    pub name: String,
    pub parts: Vec<f64>,
    /// Said beside it.
    pub note: String,
}

/// Bars, each of full length, parted as their parts are; `kinds` names the parts.
pub fn bars(title: &str, kinds: &[&str], rows: &[Bar]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    const ROW: f64 = 24.0;
    const NAMES: f64 = 105.0;
    const NOTES: f64 = 185.0;
    let length = WIDTH - NAMES - NOTES;
    let height = ROW * rows.len() as f64 + 4.0;
    let legend: String = kinds
        .iter()
        .enumerate()
        .map(|(number, kind)| format!("<span class=\"key p{number}\">{}</span> ", escaped(kind)))
        .collect();
    let mut text = format!("<figure class=\"chart\"><figcaption>{} {legend}</figcaption>", escaped(title));
    text += &format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escaped(title));
    for (row, bar) in rows.iter().enumerate() {
        let y = ROW * row as f64;
        let whole: f64 = bar.parts.iter().sum();
        text += &format!(
            "<text class=\"name\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            NAMES - 8.0,
            y + 16.0,
            escaped(&bar.name)
        );
        let mut from = NAMES;
        for (number, part) in bar.parts.iter().enumerate() {
            let part = if whole > 0.0 { part / whole } else { 0.0 };
            let said = format!("{}: {} {:.1} %", bar.name, kinds.get(number).unwrap_or(&""), 100.0 * part);
            text += &format!(
                "<rect class=\"p{number}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"17\"><title>{}</title></rect>",
                y + 3.0,
                part * length,
                escaped(&said)
            );
            from += part * length;
        }
        text += &format!(
            "<text class=\"tick\" x=\"{}\" y=\"{:.1}\">{}</text>",
            WIDTH - NOTES + 8.0,
            y + 16.0,
            escaped(&bar.note)
        );
    }
    text + "</svg></figure>\n"
}
