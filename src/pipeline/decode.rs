//! The bytes of a sample → its header → the RGB pixels that a crop needs.
//!
//! The bytes decide the format, never a name. Sizes are checked before memory is taken. What a file holds becomes RGB
//! as Pillow's `convert("RGB")` makes it: grey is repeated, alpha dropped, a palette looked up, 16 bits cut to 8.

use std::error::Error;
use std::fmt;
use std::io::{self, Cursor};

use image::error::ImageError;
use image::{ColorType, ImageDecoder, ImageFormat, ImageReader, Limits};
use serde::Serialize;

use super::augment::Crop;
use super::jpeg::{self, DecodeConfig, Jpeg};
use super::ppm::{self, Ppm};

/// The largest image that is decoded: where Pillow starts to warn of decompression bombs; the largest cameras stay below
/// it. A worker holds one image at a time.
pub const MOST_PIXELS: u64 = 89_478_485;

/// Bytes of a decoded image before it is RGB: four bytes for each of the most pixels, fewer pixels where they are wider.
const MOST_DECODED_BYTES: u64 = 4 * MOST_PIXELS;

/// A worker's buffers keep this much from sample to sample, enough for 22 million pixels; what a larger image took is
/// given back after it.
pub(super) const KEPT_BYTES: usize = 64 << 20;

/// Why a sample cannot be used; a metric's label, so it never carries more than its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Empty,
    UnknownFormat,
    /// A known format, used in a way that no decoder here knows.
    Unsupported,
    Truncated,
    Damaged,
    TooLarge,
    /// The decoder panicked.
    Panicked,
    /// Its shard was cut, changed, replaced, deleted or cannot be read.
    Lost,
}

impl Reason {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::UnknownFormat => "unknown_format",
            Self::Unsupported => "unsupported",
            Self::Truncated => "truncated",
            Self::Damaged => "damaged",
            Self::TooLarge => "too_large",
            Self::Panicked => "panicked",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.pad(self.name())
    }
}

/// What is wrong with a sample's bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Unusable {
    pub reason: Reason,
    pub detail: String,
}

impl Unusable {
    pub(super) fn damaged(detail: impl Into<String>) -> Self {
        Self { reason: Reason::Damaged, detail: detail.into() }
    }

    pub(super) fn truncated(detail: impl Into<String>) -> Self {
        Self { reason: Reason::Truncated, detail: detail.into() }
    }
}

/// What is known of an image before it is decoded; sizes in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub width: u32,
    pub height: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Jpeg,
    /// Its pixels begin at this byte.
    Ppm {
        start: usize,
    },
    Other(ImageFormat),
}

impl Header {
    /// What a file of this format is called behind the dot.
    pub fn extension(&self) -> &'static str {
        match self.kind {
            Kind::Jpeg => "jpg",
            Kind::Ppm { .. } | Kind::Other(ImageFormat::Pnm) => "ppm",
            Kind::Other(format) => format.extensions_str().first().copied().unwrap_or("img"),
        }
    }
}

/// A decoded part of an image, and where the crop lies in it: in pixels of the region, with fractions where it was
/// decoded smaller than it is.
#[derive(Clone, Copy, PartialEq)]
pub struct Region<'p> {
    /// `[height, width, 3]`
    pub pixels: &'p [u8],
    pub width: u32,
    pub height: u32,
    pub left: f64,
    pub top: f64,
    pub crop_width: f64,
    pub crop_height: f64,
}

impl fmt::Debug for Region<'_> {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, height, left, top, crop_width, crop_height, .. } = self;
        write!(text, "{crop_width}x{crop_height} pixels at {left}, {top} of {width}x{height}")
    }
}

impl<'p> Region<'p> {
    /// The pixels of a `part` of a picture at 1/`scale`, which contains `crop` of the picture at its full size.
    pub fn of(pixels: &'p [u8], part: Crop, crop: Crop, scale: u32) -> Self {
        let scaled = |number: u32| f64::from(number) / f64::from(scale);
        Self {
            pixels,
            width: part.width,
            height: part.height,
            left: scaled(crop.left) - f64::from(part.left),
            top: scaled(crop.top) - f64::from(part.top),
            crop_width: scaled(crop.width),
            crop_height: scaled(crop.height),
        }
    }
}

/// A worker's decoders, and the buffers that they use again for every sample.
#[derive(Debug)]
pub struct Decoder {
    jpeg: Jpeg,
    pixels: Vec<u8>,
    raw: Vec<u8>,
}

/// Sniffs the format and reads the sizes.
///
/// # Errors
/// When the bytes are no image, one that ends early, or one with too many pixels.
pub fn header(bytes: &[u8]) -> Result<Header, Unusable> {
    if bytes.is_empty() {
        return Err(Unusable { reason: Reason::Empty, detail: "no bytes".into() });
    }
    let header = if bytes.starts_with(&[0xFF, 0xD8, 0xFF]) {
        let (width, height) = jpeg::markers::size(bytes)?;
        Header { width, height, kind: Kind::Jpeg }
    } else if let Some(Ppm { width, height, data }) = ppm::header(bytes)? {
        Header { width, height, kind: Kind::Ppm { start: data.start } }
    } else {
        let unknown = |_| Unusable { reason: Reason::UnknownFormat, detail: format!("begins with {}", start(bytes)) };
        let format = image::guess_format(bytes).map_err(unknown)?;
        let (width, height) = open(bytes, format)?.dimensions();
        Header { width, height, kind: Kind::Other(format) }
    };
    let Header { width, height, .. } = header;
    match u64::from(width) * u64::from(height) {
        0 => Err(Unusable::damaged(format!("{width}x{height} pixels"))),
        1..=MOST_PIXELS => Ok(header),
        _ => Err(Unusable { reason: Reason::TooLarge, detail: format!("{width}x{height} pixels") }),
    }
}

impl Header {
    /// Whether the file is sure to go on to the end of its picture, as a JPEG's markers tell; if not, decoding does.
    ///
    /// # Errors
    /// When the file ends before its picture does, or its markers make no sense.
    pub fn is_surely_whole(&self, bytes: &[u8]) -> Result<bool, Unusable> {
        match self.kind {
            Kind::Jpeg => {
                let end = jpeg::markers::walk(bytes)?.end;
                Ok(bytes.get(end..).is_some_and(|rest| rest.starts_with(&[0xFF, jpeg::markers::END_OF_IMAGE])))
            }
            Kind::Ppm { .. } => Ok(true),
            Kind::Other(_) => Ok(false),
        }
    }
}

impl Decoder {
    pub fn new(config: DecodeConfig) -> Self {
        Self { jpeg: Jpeg::new(config), pixels: Vec::new(), raw: Vec::new() }
    }

    /// Decodes at least what `crop` needs; where that costs less, at half, a quarter or an eighth of the size, as long as
    /// both sides of the crop keep `least` pixels. `bytes` may be overwritten.
    ///
    /// # Errors
    /// When the data behind the header are damaged or end early.
    pub fn decode<'p>(
        &'p mut self,
        bytes: &'p mut Vec<u8>,
        header: &Header,
        crop: Crop,
        least: u32,
    ) -> Result<Region<'p>, Unusable> {
        self.give_back();
        let Header { width, height, kind } = *header;
        let whole = Crop::whole(width, height);
        let (part, scale) = match kind {
            Kind::Jpeg => self.jpeg.decode(bytes, [width, height], crop, least, &mut self.pixels)?,
            Kind::Ppm { start } => {
                let end = start + width as usize * height as usize * 3;
                return Ok(Region::of(bytes.get(start..end).unwrap_or_default(), whole, crop, 1));
            }
            Kind::Other(format) => {
                decode_other(bytes, format, &mut self.pixels, &mut self.raw)?;
                (whole, 1)
            }
        };
        Ok(Region::of(&self.pixels, part, crop, scale))
    }

    fn give_back(&mut self) {
        self.jpeg.give_back();
        for buffer in [&mut self.pixels, &mut self.raw] {
            if buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
    }
}

fn start(bytes: &[u8]) -> String {
    /// As many as tell most formats apart.
    const SHOWN: usize = 8;
    bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn open(bytes: &[u8], format: ImageFormat) -> Result<impl ImageDecoder + '_, Unusable> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    reader.into_decoder().map_err(|error| unusable(&error))
}

fn decode_other(bytes: &[u8], format: ImageFormat, pixels: &mut Vec<u8>, raw: &mut Vec<u8>) -> Result<(), Unusable> {
    let decoder = open(bytes, format)?;
    let (kind, size) = (decoder.color_type(), decoder.total_bytes());
    if size > MOST_DECODED_BYTES {
        return Err(Unusable { reason: Reason::TooLarge, detail: format!("{size} bytes when decoded") });
    }
    let decoded = if kind == ColorType::Rgb8 { &mut *pixels } else { &mut *raw };
    decoded.clear();
    decoded.resize(size as usize, 0);
    decoder.read_image(decoded).map_err(|error| unusable(&error))?;
    to_rgb(kind, raw, pixels)
}

/// # Shapes
/// - `raw`: `[pixels, channels]` of the given kind, in the machine's byte order
/// - `pixels`: `[pixels, 3]`, replaced unless it holds the image already
fn to_rgb(kind: ColorType, raw: &[u8], pixels: &mut Vec<u8>) -> Result<(), Unusable> {
    match kind {
        ColorType::Rgb8 => {}
        ColorType::L8 | ColorType::La8 | ColorType::Rgba8 => fill(pixels, kind, raw.iter().copied()),
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            let (values, _) = raw.as_chunks::<2>();
            fill(pixels, kind, values.iter().map(|bytes| (u16::from_ne_bytes(*bytes) >> 8) as u8));
        }
        ColorType::Rgb32F | ColorType::Rgba32F => {
            let (values, _) = raw.as_chunks::<4>();
            fill(pixels, kind, values.iter().map(|bytes| (f32::from_ne_bytes(*bytes) * 255.0).round() as u8));
        }
        _ => {
            return Err(Unusable { reason: Reason::Unsupported, detail: format!("pixels of kind {kind:?}") });
        }
    }
    Ok(())
}

/// Repeats grey, drops alpha.
fn fill(pixels: &mut Vec<u8>, kind: ColorType, mut values: impl Iterator<Item = u8>) {
    pixels.clear();
    while let Some(first) = values.next() {
        if kind.has_color() {
            pixels.push(first);
            pixels.extend(values.by_ref().take(2));
        } else {
            pixels.extend_from_slice(&[first; 3]);
        }
        if kind.has_alpha() {
            values.next();
        }
    }
}

fn unusable(error: &ImageError) -> Unusable {
    let reason = match error {
        ImageError::Limits(_) => Reason::TooLarge,
        ImageError::Unsupported(_) => Reason::Unsupported,
        error if ends_early(error) => Reason::Truncated,
        _ => Reason::Damaged,
    };
    Unusable { reason, detail: error.to_string() }
}

fn ends_early(error: &ImageError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
            return true;
        }
        cause = error.source();
    }
    matches!(error, ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof)
}
