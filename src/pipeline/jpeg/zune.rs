//! Any JPEG → RGB of the whole picture, by zune-jpeg: finds out whether the file is whole, then decodes it.
//!
//! No decoder that is fast tells reliably that a file ended early: it fills the rest with grey. So the markers are
//! walked first, which costs about a hundredth of the decoding, and the decoder is given a tail that no code matches.

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::super::decode::{Reason, Unusable};
use super::markers::{END_OF_IMAGE, Frame, walk};

/// Decodes the whole picture into `pixels`, whose content is replaced: RGB, row by row.
///
/// The end of `bytes` is overwritten.
///
/// # Errors
/// When the coded data ends early or is damaged.
pub fn decode(bytes: &mut Vec<u8>, width: u32, height: u32, pixels: &mut Vec<u8>) -> Result<(), Unusable> {
    let frame = walk(bytes)?;
    if (frame.width, frame.height) != (width, height) {
        return Err(Unusable::damaged("two frames of different sizes"));
    }
    replace_tail(bytes, &frame);
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes.as_slice()), options);
    decoder.decode_headers().map_err(|error| unusable(&error))?;
    let size = decoder.output_buffer_size().ok_or_else(|| Unusable::damaged("no frame"))?;
    if size as u64 != u64::from(frame.width) * u64::from(frame.height) * 3 {
        return Err(Unusable::damaged("two frames of different sizes"));
    }
    // Zeroed, so that a row that the decoder might leave out never shows another sample's pixels.
    pixels.clear();
    pixels.resize(size, 0);
    decoder.decode_into(pixels).map_err(|error| unusable(&error))
}

/// Ends the data of the last scan with 1 bits and then the end marker.
///
/// A Huffman code never consists of 1 bits alone (ITU T.81, annex C), so a decoder that needs more data than there is
/// fails here, while it would take an end marker for endless zeros. Where there are restart intervals, one more of them
/// meets a decoder that has been cut off exactly at the end of one.
fn replace_tail(bytes: &mut Vec<u8>, frame: &Frame) {
    /// More than the decoder reads ahead (8 bytes), so that it does not see a marker before it needs the bits.
    const ONES: [u8; 32] = {
        let mut ones = [0; 32];
        let mut at = 0;
        while at < ones.len() {
            ones[at] = 0xFF;
            at += 2;
        }
        ones
    };
    bytes.truncate(frame.end);
    bytes.extend_from_slice(&ONES);
    if frame.restarts {
        bytes.extend_from_slice(&[0xFF, 0xD0]);
        bytes.extend_from_slice(&ONES);
    }
    bytes.extend_from_slice(&[0xFF, END_OF_IMAGE]);
}

fn unusable(error: &DecodeErrors) -> Unusable {
    let reason = match error {
        DecodeErrors::Unsupported(_) => Reason::Unsupported,
        DecodeErrors::ExhaustedData => Reason::Truncated,
        _ => Reason::Damaged,
    };
    Unusable { reason, detail: format!("{error:?}") }
}
