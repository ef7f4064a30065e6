//! The bytes of a JPEG → the same without the segments that carry EXIF and XMP: pixels and all else stay as they are.

use super::jpeg::markers::{next_marker, segment};

const START_OF_IMAGE: [u8; 2] = [0xFF, 0xD8];
const START_OF_SCAN: u8 = 0xDA;
/// EXIF and XMP are both in segments of this kind.
const APPLICATION_1: u8 = 0xE1;

/// Takes out every APP1 segment before the first scan; `None` when there is none, or when this is no JPEG whose
/// segments can be followed.
pub fn strip(bytes: &[u8]) -> Option<Vec<u8>> {
    if !bytes.starts_with(&START_OF_IMAGE) {
        return None;
    }
    let mut kept = Vec::new();
    // What is not yet copied begins here, and the next segment there.
    let (mut from, mut at) = (0, START_OF_IMAGE.len());
    loop {
        let (marker, after) = next_marker(bytes, at)?;
        if marker == START_OF_SCAN {
            break;
        }
        let is_bare = matches!(marker, 0xD0..=0xD8 | 0x01);
        let end = if is_bare { after } else { after + 2 + segment(bytes, after)?.len() };
        if marker == APPLICATION_1 {
            kept.extend_from_slice(bytes.get(from..at)?);
            from = end;
        }
        at = end;
    }
    if from == 0 {
        return None;
    }
    kept.extend_from_slice(bytes.get(from..)?);
    Some(kept)
}
