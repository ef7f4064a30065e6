//! The drawing as pixels: points with soft edges, names in a bitmap font.

use std::convert::Infallible;

use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::iso_8859_1::FONT_10X20;
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::text::{Baseline, Text};
use image::{Rgb, RgbImage};

use super::{BESIDE, LINE, MARGIN, Plane, SIDE, legend, name, places, radius, rgb};

/// Pixels for each of the drawing's units: sharp on dense screens, and the font of the size of the SVG's.
const SCALE: f64 = 1.5;
const WHITE: Rgb<u8> = Rgb([255, 255, 255]);
const INK: Rgb888 = Rgb888::new(34, 34, 34);

/// An image that text is written on.
struct Sheet(RgbImage);

pub fn draw(plane: &Plane, title: &str, names: &[String]) -> RgbImage {
    let shown = legend(plane);
    let beside = if shown.is_empty() { 0.0 } else { BESIDE };
    let points = places(&plane.points);
    let lowest = points.iter().fold(0.0, |lowest: f64, point| lowest.max(point[1]));
    let height = (lowest + MARGIN + LINE).max(LINE * (shown.len() as f64 + 3.0));
    let [width, height] = [SIDE + beside, height].map(|length| (length * SCALE).ceil() as u32);
    let mut sheet = Sheet(RgbImage::from_pixel(width, height, WHITE));
    for ([x, y], label) in points.iter().zip(&plane.labels) {
        sheet.dot([*x, y + LINE], radius(plane), rgb(*label));
    }
    sheet.write([MARGIN, LINE / 2.0], title);
    for (row, label) in shown.iter().enumerate() {
        let y = LINE * (row as f64 + 2.5);
        sheet.dot([SIDE + 10.0, y - 4.5], 6.0, rgb(*label));
        sheet.write([SIDE + 24.0, y - 4.5], &name(*label, names));
    }
    sheet.0
}

impl Sheet {
    /// A filled circle; a pixel on its edge is covered as far as the edge passes its middle.
    fn dot(&mut self, centre: [f64; 2], radius: f64, colour: [u8; 3]) {
        let [x, y] = centre.map(|place| place * SCALE);
        let radius = radius * SCALE;
        let reach = |middle: f64, end: u32| {
            let first = (middle - radius - 1.0).max(0.0) as u32;
            first..((middle + radius + 2.0).max(0.0) as u32).min(end)
        };
        for row in reach(y, self.0.height()) {
            for column in reach(x, self.0.width()) {
                let away = (f64::from(column) + 0.5 - x).hypot(f64::from(row) + 0.5 - y);
                let cover = (radius + 0.5 - away).clamp(0.0, 1.0);
                let Rgb(under) = self.0.get_pixel_mut(column, row);
                for (under, over) in under.iter_mut().zip(colour) {
                    *under = (f64::from(*under) * (1.0 - cover) + f64::from(over) * cover).round() as u8;
                }
            }
        }
    }

    /// A line of text, its left end's middle at a place. What the font lacks becomes a question mark.
    fn write(&mut self, [x, y]: [f64; 2], text: &str) {
        let [x, y] = [x, y].map(|place| (place * SCALE).round() as i32);
        let style = MonoTextStyle::new(&FONT_10X20, INK);
        let Ok(_) = embedded_graphics::Drawable::draw(
            &Text::with_baseline(text, Point::new(x, y), style, Baseline::Middle),
            self,
        );
    }
}

impl OriginDimensions for Sheet {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Sheet {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, colour) in pixels {
            let place = u32::try_from(x).ok().zip(u32::try_from(y).ok());
            if let Some(pixel) = place.and_then(|(x, y)| self.0.get_pixel_mut_checked(x, y)) {
                *pixel = Rgb([colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}
