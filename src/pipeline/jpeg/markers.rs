//! A file's segments: the next one, and whether the picture is whole.

use memchr::memchr;

use super::super::decode::{Reason, Unusable};

pub const END_OF_IMAGE: u8 = 0xD9;
const START_OF_SCAN: u8 = 0xDA;
const RESTART_INTERVAL: u8 = 0xDD;

/// Coefficients of a block (8 by 8).
const COEFFICIENTS: usize = 64;

/// Components of a frame: one for grey, three for colour, four for print.
const MOST_COMPONENTS: usize = 4;

/// What the markers of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub width: u32,
    pub height: u32,
    /// Where the coded data of the last scan ends.
    pub end: usize,
    /// Whether the scans are cut into intervals by restart markers.
    pub restarts: bool,
}

/// Which components there are, and how far the scans so far have brought each coefficient.
struct Progress {
    width: u32,
    height: u32,
    components: Vec<Component>,
}

struct Component {
    id: u8,
    /// Bits still missing from each coefficient; `None` before the first scan that has it.
    missing_bits: [Option<u8>; COEFFICIENTS],
}

/// Reads the width and height of the picture, which is all that must be known before its crop is drawn.
///
/// # Errors
/// When there is no frame, or one that no decoder here knows.
pub fn size(bytes: &[u8]) -> Result<(u32, u32), Unusable> {
    let mut at = 2;
    while let Some((marker, after)) = next_marker(bytes, at) {
        at = match marker {
            0xD0..=0xD8 | 0x01 => after,
            START_OF_SCAN => return Err(Unusable::damaged("a scan before any frame")),
            _ => {
                let Some(segment) = segment(bytes, after) else { break };
                if is_frame(marker) {
                    let Progress { width, height, .. } = Progress::new(marker, segment)?;
                    return Ok((width, height));
                }
                after + 2 + segment.len()
            }
        };
    }
    Err(Unusable::truncated(format!("{} bytes end before the first frame", bytes.len())))
}

fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF)
}

/// Walks the markers up to the end of the image, skipping segments by their length.
///
/// # Errors
/// When the file ends before its picture does, or the markers make no sense.
pub fn walk(bytes: &[u8]) -> Result<Frame, Unusable> {
    let mut progress: Option<Progress> = None;
    let (mut at, mut end, mut restarts) = (2, None, false);
    let mut ended = false;
    while let Some((marker, after)) = next_marker(bytes, at) {
        if marker == END_OF_IMAGE {
            ended = true;
            break;
        }
        // Markers without a segment: another start, stray restarts, and TEM.
        if matches!(marker, 0xD0..=0xD8 | 0x01) {
            at = after;
            continue;
        }
        let Some(segment) = segment(bytes, after) else { break };
        at = after + 2 + segment.len();
        match marker {
            marker if is_frame(marker) => progress = Some(Progress::new(marker, segment)?),
            RESTART_INTERVAL => restarts |= segment.iter().any(|byte| *byte != 0),
            START_OF_SCAN => {
                let progress = progress.as_mut().ok_or_else(|| Unusable::damaged("a scan before any frame"))?;
                progress.add_scan(segment)?;
                at = end_of_scan(bytes, at, restarts);
                end = Some(at);
            }
            _ => {}
        }
    }
    let (Some(progress), Some(end)) = (progress, end) else {
        return Err(Unusable::truncated(format!("{} bytes end before the first scan", bytes.len())));
    };
    if progress.is_complete(ended) {
        let Progress { width, height, .. } = progress;
        Ok(Frame { width, height, end, restarts })
    } else {
        Err(Unusable::truncated(format!("{} bytes end before the last scan", bytes.len())))
    }
}

/// The next marker at or after `at`, and where what follows it begins.
///
/// Fill bytes (0xFF) before a marker and whatever else lies between segments is skipped, as every decoder does.
pub fn next_marker(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let is_marker = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF);
    let at = at + bytes.get(at..)?.windows(2).position(is_marker)?;
    bytes.get(at + 1).map(|marker| (*marker, at + 2))
}

/// The content of the segment whose length begins at `at`; `None` when the file ends before it does.
pub fn segment(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    bytes.get(at + 2..at + length.max(2))
}

/// Where the coded data that begins at `at` ends: at a marker, or with the file. Restart markers belong to the data only
/// where the file has announced them; elsewhere they are damage, after which a decoder would make up the rest.
fn end_of_scan(bytes: &[u8], mut at: usize, restarts: bool) -> usize {
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        at += memchr(0xFF, rest).map_or(rest.len(), |before| before + 1);
        if at >= bytes.len() {
            // A last 0xFF without what follows it is the first half of a marker.
            return bytes.len() - usize::from(bytes.last() == Some(&0xFF));
        }
        match bytes[at] {
            0 => at += 1,
            0xD0..=0xD7 if restarts => at += 1,
            0xFF => {}
            _ => return at - 1,
        }
    }
}

impl Progress {
    fn new(marker: u8, segment: &[u8]) -> Result<Self, Unusable> {
        // Baseline, extended and progressive Huffman coding; the others are lossless or arithmetic.
        if !matches!(marker, 0xC0..=0xC2) {
            return Err(Unusable { reason: Reason::Unsupported, detail: format!("coding of frame {marker:#x}") });
        }
        let &[_, height_high, height_low, width_high, width_low, count, ref components @ ..] = segment else {
            return Err(Unusable::damaged("frame header too short"));
        };
        if usize::from(count) > MOST_COMPONENTS || components.len() != usize::from(count) * 3 {
            return Err(Unusable::damaged(format!("frame of {count} components")));
        }
        let component = |fields: &[u8]| Component { id: fields[0], missing_bits: [None; COEFFICIENTS] };
        Ok(Self {
            width: u16::from_be_bytes([width_high, width_low]).into(),
            height: u16::from_be_bytes([height_high, height_low]).into(),
            components: components.chunks_exact(3).map(component).collect(),
        })
    }

    fn add_scan(&mut self, segment: &[u8]) -> Result<(), Unusable> {
        let short = || Unusable::damaged("scan header too short");
        let (count, rest) = segment.split_first().ok_or_else(short)?;
        let (selectors, spectrum) = rest.split_at_checked(usize::from(*count) * 2).ok_or_else(short)?;
        let &[first, last, precision] = spectrum else {
            return Err(short());
        };
        let Some(coefficients) = (first..=last).map(usize::from).max().filter(|last| *last < COEFFICIENTS) else {
            return Err(Unusable::damaged(format!("scan of coefficients {first} to {last}")));
        };
        for selector in selectors.chunks_exact(2) {
            if let Some(component) = self.components.iter_mut().find(|component| component.id == selector[0]) {
                component.missing_bits[usize::from(first)..=coefficients].fill(Some(precision & 0xF));
            }
        }
        Ok(())
    }

    /// With an end marker, a picture with every component is what its maker wanted; without one, only the last bit of
    /// the last coefficient proves that nothing is missing.
    fn is_complete(&self, ended: bool) -> bool {
        let whole = |component: &Component| component.missing_bits.iter().all(|bits| *bits == Some(0));
        let begun = |component: &Component| component.missing_bits[0].is_some();
        self.components.iter().all(|component| if ended { begun(component) } else { whole(component) })
    }
}
