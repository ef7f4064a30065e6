//! JPEG bytes → the part of the picture that a crop needs, at a fraction of its size: libjpeg-turbo.
//!
//! It leaves out what lies beside and below the part, and takes fewer coefficients for a half, a quarter or an eighth of
//! the size. It goes on after damage and only warns; here the first warning ends the decoding. What is damaged outside
//! of the part may stay unseen.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;

use turbojpeg_sys as tj;

use super::MOST_SCANS;
use super::markers::{END_OF_IMAGE, next_marker, segment, walk};
use crate::pipeline::augment::Crop;
use crate::pipeline::decode::{MOST_PIXELS, Reason, Unusable};

/// Columns by which smooth chroma reaches beyond its pixel: one sample, which is at most two pixels wide.
const SMOOTH_REACH: u32 = 2;

/// Rows or columns of a block of coefficients.
const BLOCK: u32 = 8;

/// Mebibytes that a picture may take besides its pixels: the coefficients of the most pixels in progressive coding (two
/// bytes each, three components), and an eighth more for rows of blocks that are not full.
const MOST_MEMORY: c_int = 576;

/// Decodes with libjpeg-turbo; one for each worker.
#[derive(Debug, Default)]
pub struct Turbo {
    /// A copy of a file that lacks its end marker, with one.
    ended: Vec<u8>,
}

impl Turbo {
    /// Decodes `wanted` of the picture at 1/`scale` of its size into `pixels`, which is replaced, and returns the part
    /// that this is. It holds at least what is wanted: it begins where blocks do.
    ///
    /// With `smooth_chroma`, chroma is interpolated as Pillow does; without, it is repeated, which is faster.
    ///
    /// # Shapes
    /// - `wanted`, output: in pixels of the scaled picture, whose sides are those of the file divided by `scale` (1, 2,
    ///   4 or 8), rounded up
    /// - `pixels`: `[height, width, 3]` of the output
    ///
    /// # Errors
    /// When the picture is damaged, ends early, is too large or of a kind that is not known here.
    pub fn decode(
        &mut self,
        bytes: &[u8],
        scale: u32,
        wanted: Crop,
        smooth_chroma: bool,
        pixels: &mut Vec<u8>,
    ) -> Result<Crop, Unusable> {
        /// More than a photo takes. A copy is needed rarely, so that a large one is not kept.
        const KEPT: usize = 1 << 20;
        let view = View { scale, wanted, smooth_chroma };
        let truncated = match view.decode(bytes, pixels) {
            Err(error) if error.reason == Reason::Truncated => error,
            result => return result,
        };
        // Of a file that lacks nothing but its end marker, nothing is missing.
        let Ok(frame) = walk(bytes) else { return Err(truncated) };
        self.ended.clear();
        self.ended.extend_from_slice(&bytes[..frame.end]);
        self.ended.extend_from_slice(&[0xFF, END_OF_IMAGE]);
        let result = view.decode(&self.ended, pixels).map_err(|_| truncated);
        if self.ended.capacity() > KEPT {
            self.ended = Vec::new();
        }
        result
    }
}

/// What is to be made of a picture.
#[derive(Clone, Copy)]
struct View {
    scale: u32,
    wanted: Crop,
    smooth_chroma: bool,
}

/// Which warnings end the decoding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Warnings {
    All,
    /// All but bytes between the end of the data and the end marker, which some cameras write.
    AllButTrailing,
}

impl View {
    fn decode(self, bytes: &[u8], pixels: &mut Vec<u8>) -> Result<Crop, Unusable> {
        match self.decode_until(Warnings::All, bytes, pixels) {
            Err(error) if trails(&error) => self.decode_until(Warnings::AllButTrailing, bytes, pixels),
            result => result,
        }
    }

    fn decode_until(self, warnings: Warnings, bytes: &[u8], pixels: &mut Vec<u8>) -> Result<Crop, Unusable> {
        let Self { scale, wanted, smooth_chroma } = self;
        let mut picture = Picture::open(bytes, warnings)?;
        let (width, height) = (picture.width.div_ceil(scale.max(1)), picture.height.div_ceil(scale.max(1)));
        let inside =
            |start: u32, length: u32, side| length > 0 && start.checked_add(length).is_some_and(|end| end <= side);
        if !inside(wanted.left, wanted.width, width) || !inside(wanted.top, wanted.height, height) {
            return Err(Unusable::damaged(format!("{wanted:?} is not inside {width}x{height} pixels")));
        }
        let whole = Crop::whole(width, height);
        let part = match picture.unit_width {
            Some(unit) => widened(wanted, unit / scale.max(1), if smooth_chroma { SMOOTH_REACH } else { 0 }, width),
            None => whole,
        };
        picture.instance.set(tj::TJPARAM_TJPARAM_FASTUPSAMPLE, (!smooth_chroma).into())?;
        picture.instance.scale(scale)?;
        if part != whole {
            picture.instance.cut(part)?;
        }
        let channels = if picture.inks { 4 } else { 3 };
        let size = part.width as usize * part.height as usize * channels;
        // Only what the last picture did not fill is zeroed; what it left is overwritten.
        pixels.resize(size, 0);
        let format = if picture.inks { tj::TJPF_TJPF_CMYK } else { tj::TJPF_TJPF_RGB };
        let decoded = picture.instance.decode(bytes, part.width as usize * channels, format, pixels);
        match decoded {
            Err(error) if warnings == Warnings::AllButTrailing && trails(&error) => {}
            result => result?,
        }
        if picture.inks {
            inks_to_rgb(pixels);
        }
        Ok(part)
    }
}

/// `wanted` with `reach` columns more on both sides, from where a unit begins.
fn widened(wanted: Crop, unit: u32, reach: u32, width: u32) -> Crop {
    let left = wanted.left.saturating_sub(reach);
    let left = left - left % unit.max(1);
    let right = (wanted.left + wanted.width + reach).min(width);
    Crop { left, width: right - left, ..wanted }
}

/// CMYK as Adobe's programs store it, inverted, to RGB as Pillow makes it; a file that is not Adobe's is read as theirs.
fn inks_to_rgb(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 4;
    for at in 0..count {
        let [cyan, magenta, yellow, black] = [0, 1, 2, 3].map(|ink| u32::from(pixels[at * 4 + ink]));
        for (channel, ink) in [cyan, magenta, yellow].into_iter().enumerate() {
            // Pillow's rounding of a product of two shares in 255ths.
            let product = (255 - ink) * black + 128;
            pixels[at * 3 + channel] = (black - (((product >> 8) + product) >> 8)) as u8;
        }
    }
    pixels.truncate(count * 3);
}

/// A file whose header has been read.
struct Picture {
    instance: Instance,
    width: u32,
    height: u32,
    /// Four components: cyan, magenta, yellow, black.
    inks: bool,
    /// Pixels in the width of what is coded together; `None` where no part of the picture can be decoded alone.
    unit_width: Option<u32>,
}

impl Picture {
    fn open(bytes: &[u8], warnings: Warnings) -> Result<Self, Unusable> {
        let mut instance = Instance::new()?;
        instance.set(tj::TJPARAM_TJPARAM_STOPONWARNING, (warnings == Warnings::All).into())?;
        instance.set(tj::TJPARAM_TJPARAM_MAXPIXELS, MOST_PIXELS as c_int)?;
        instance.set(tj::TJPARAM_TJPARAM_MAXMEMORY, MOST_MEMORY)?;
        instance.set(tj::TJPARAM_TJPARAM_SCANLIMIT, MOST_SCANS as c_int)?;
        // Colour profiles are not used.
        instance.set(tj::TJPARAM_TJPARAM_SAVEMARKERS, 0)?;
        instance.read_header(bytes)?;
        let side = |parameter| u32::try_from(instance.get(parameter)).unwrap_or_default();
        let (width, height) = (side(tj::TJPARAM_TJPARAM_JPEGWIDTH), side(tj::TJPARAM_TJPARAM_JPEGHEIGHT));
        let size = u64::from(width) * u64::from(height);
        if size == 0 {
            return Err(Unusable::damaged(format!("{width}x{height} pixels")));
        }
        if size > MOST_PIXELS {
            return Err(Unusable { reason: Reason::TooLarge, detail: format!("{width}x{height} pixels") });
        }
        // Pictures without loss of eight bits are neither scaled nor cut, and wider samples are not bytes.
        let (bits, lossless) =
            (instance.get(tj::TJPARAM_TJPARAM_PRECISION), instance.get(tj::TJPARAM_TJPARAM_LOSSLESS));
        if bits != 8 || lossless != 0 {
            let kind = if lossless == 0 { "lossy" } else { "lossless" };
            return Err(Unusable { reason: Reason::Unsupported, detail: format!("{kind} coding of {bits} bits") });
        }
        let space = u32::try_from(instance.get(tj::TJPARAM_TJPARAM_COLORSPACE));
        let inks = matches!(space, Ok(tj::TJCS_TJCS_CMYK | tj::TJCS_TJCS_YCCK));
        let subsampling = instance.get(tj::TJPARAM_TJPARAM_SUBSAMP);
        // Frames may state the same subsampling by larger factors; then the library's two halves disagree on the unit.
        let unit_width = unit_width(bytes).filter(|width| usual_unit_width(subsampling) == Some(*width));
        Ok(Self { instance, width, height, inks, unit_width })
    }
}

/// By the factors that the frame states.
fn unit_width(bytes: &[u8]) -> Option<u32> {
    let mut at = 2;
    while let Some((marker, after)) = next_marker(bytes, at) {
        if matches!(marker, 0xD0..=0xD8 | 0x01) {
            at = after;
            continue;
        }
        let segment = segment(bytes, after)?;
        if matches!(marker, 0xC0..=0xC2) {
            let factors = segment.get(6..)?.chunks_exact(3).map(|component| u32::from(component[1] >> 4));
            // One component alone has blocks, whatever its factors.
            return if factors.len() == 1 { Some(BLOCK) } else { factors.max().map(|most| most * BLOCK) };
        }
        at = after + 2 + segment.len();
    }
    None
}

/// By the kind of subsampling that libjpeg-turbo has found; `None` for one that has no name.
fn usual_unit_width(subsampling: c_int) -> Option<u32> {
    match subsampling {
        tj::TJSAMP_TJSAMP_444 | tj::TJSAMP_TJSAMP_GRAY | tj::TJSAMP_TJSAMP_440 | tj::TJSAMP_TJSAMP_441 => Some(BLOCK),
        tj::TJSAMP_TJSAMP_422 | tj::TJSAMP_TJSAMP_420 => Some(2 * BLOCK),
        tj::TJSAMP_TJSAMP_411 => Some(4 * BLOCK),
        _ => None,
    }
}

fn trails(error: &Unusable) -> bool {
    error.detail.ends_with("extraneous bytes before marker 0xd9")
}

/// libjpeg-turbo knows its errors by their texts (jerror.h) alone.
fn unusable(detail: String) -> Unusable {
    let kinds = [
        (Reason::Truncated, &["Premature end of JPEG file"][..]),
        (
            Reason::TooLarge,
            &["Image is too large", "Maximum supported image dimension", "Memory limit", "Insufficient memory"],
        ),
        (
            Reason::Unsupported,
            &["Unsupported", "not implemented", "not supported", "determine colorspace", "are incompatible"],
        ),
    ];
    let found = kinds.into_iter().find(|(_, texts)| texts.iter().any(|text| detail.contains(text)));
    Unusable { reason: found.map_or(Reason::Damaged, |(reason, _)| reason), detail }
}

/// What libjpeg-turbo keeps while it decodes one picture, whose address is never null.
///
/// A new one for each picture: one that is used again decodes a file that lacks its tables with those of the picture
/// before, and then a sample would depend on what its worker has seen.
struct Instance(NonNull<c_void>);

#[expect(unsafe_code, reason = "libjpeg-turbo is C")]
impl Instance {
    fn new() -> Result<Self, Unusable> {
        // SAFETY: takes nothing but a number; null is looked for.
        let instance = unsafe { tj::tj3Init(tj::TJINIT_TJINIT_DECOMPRESS as c_int) };
        NonNull::new(instance).map(Self).ok_or_else(|| {
            let detail = "no memory for the decoder".into();
            Unusable { reason: Reason::TooLarge, detail }
        })
    }

    fn set(&mut self, parameter: tj::TJPARAM, value: c_int) -> Result<(), Unusable> {
        // SAFETY: the instance lives; the library checks the numbers.
        let result = unsafe { tj::tj3Set(self.0.as_ptr(), parameter as c_int, value) };
        self.check(result)
    }

    fn get(&self, parameter: tj::TJPARAM) -> c_int {
        // SAFETY: the instance lives; the library checks the number.
        unsafe { tj::tj3Get(self.0.as_ptr(), parameter as c_int) }
    }

    fn read_header(&mut self, bytes: &[u8]) -> Result<(), Unusable> {
        // SAFETY: the instance lives; the bytes are read within their length, and not after the call.
        let result = unsafe { tj::tj3DecompressHeader(self.0.as_ptr(), bytes.as_ptr(), bytes.len() as _) };
        self.check(result)
    }

    fn scale(&mut self, scale: u32) -> Result<(), Unusable> {
        let factor = tj::tjscalingfactor { num: 1, denom: c_int::try_from(scale).unwrap_or_default() };
        // SAFETY: the instance lives; the library checks the numbers.
        let result = unsafe { tj::tj3SetScalingFactor(self.0.as_ptr(), factor) };
        self.check(result)
    }

    /// After the header has been read and the scale set, which the part refers to.
    fn cut(&mut self, part: Crop) -> Result<(), Unusable> {
        let [x, y, w, h] =
            [part.left, part.top, part.width, part.height].map(|number| c_int::try_from(number).unwrap_or(-1));
        // SAFETY: the instance lives; the library checks the numbers against the scaled size.
        let result = unsafe { tj::tj3SetCroppingRegion(self.0.as_ptr(), tj::tjregion { x, y, w, h }) };
        self.check(result)
    }

    /// Fills `pixels` with the rows of the part, `row` bytes each; `bytes` are those whose header has been read.
    fn decode(&mut self, bytes: &[u8], row: usize, format: tj::TJPF, pixels: &mut [u8]) -> Result<(), Unusable> {
        let row = c_int::try_from(row).map_err(|_| Unusable::damaged(format!("rows of {row} bytes")))?;
        // SAFETY: the instance lives; the bytes are read within their length. Its header is read once more, from the
        // same bytes, so the rows that are written are as many and as long as the caller has computed from it for this
        // part, scale and format, and those fill `pixels`. All of it is initialised before.
        let result = unsafe {
            tj::tj3Decompress8(self.0.as_ptr(), bytes.as_ptr(), bytes.len() as _, pixels.as_mut_ptr(), row, format)
        };
        self.check(result)
    }

    fn check(&mut self, result: c_int) -> Result<(), Unusable> {
        if result == 0 {
            return Ok(());
        }
        // SAFETY: the instance lives; the text ends with a zero and stays until the next call on this thread.
        let text = unsafe { CStr::from_ptr(tj::tj3GetErrorStr(self.0.as_ptr())) };
        // Some texts have two lines.
        Err(unusable(text.to_string_lossy().replace('\n', " ")))
    }
}

#[expect(unsafe_code, reason = "libjpeg-turbo is C")]
impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: the instance was made by the library and is not used again.
        unsafe { tj::tj3Destroy(self.0.as_ptr()) };
    }
}
