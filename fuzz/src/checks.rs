//! One function per target: takes any bytes, and panics when something does not hold that must.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use crate::draws::{Draws, Purpose};
use crate::memory::within;
use crate::pipeline::{AugmentConfig, DecodeConfig, JpegDecoder};
use crate::pipeline::augment::Crop;
use crate::pipeline::resample::Resampler;
use crate::pipeline::decode::{self, Decoder, Header, MOST_PIXELS};
use crate::shard::{Index, Stamp, Table};

/// What reading takes beside what it reads: buffers of a page, tables of a few rows, messages.
const SMALL: usize = 64 << 10;

/// Larger pictures make a run slow and show nothing that smaller ones do not.
const MOST_DECODED_PIXELS: u64 = 1 << 18;

/// Pixels a side of the view that a region is resized to.
const SIZE: u32 = 16;

/// An index that is larger than this many times its shard, and a little more, is not read back.
const GROWTH: usize = 4;
const FRAME: usize = 128;

/// What a walk returns lies inside the file, is the same as when it is walked again, and survives being kept.
pub fn tar(bytes: &[u8]) {
    let most = SMALL + 4 * bytes.len();
    let Some(index) = within(most, || index_of(bytes)) else { return };
    for sample in index.table.samples() {
        for member in sample.members() {
            let end = member.offset.checked_add(member.length).expect("a member ends somewhere");
            assert!(end <= bytes.len() as u64, "`{}` ends at byte {end} of {}", sample.key, bytes.len());
        }
    }
    assert_eq!(index_of(bytes).as_ref(), Some(&index), "walked twice");
    let kept = index.encode();
    assert!(kept.len() <= GROWTH * bytes.len() + FRAME, "{} bytes of index for {}", kept.len(), bytes.len());
    assert_eq!(Index::decode(&kept), Some(index), "kept and read back");
}

/// What is taken for an index is exactly what its content would be written as.
pub fn index(bytes: &[u8]) {
    let Some(index) = within(SMALL + 4 * bytes.len(), || Index::decode(bytes)) else { return };
    assert!(index.encode() == bytes, "written again, the index has other bytes");
    for sample in index.table.samples() {
        for member in sample.members() {
            let end = member.offset.checked_add(member.length);
            assert!(end.is_some_and(|end| end <= index.stamp.size), "`{}` ends at {end:?}", sample.key);
        }
    }
}

/// A header has a size that may be decoded, and finding it out takes no memory by what the bytes claim, beyond the limit
/// that the decoders of other formats are given.
pub fn header(bytes: &[u8]) {
    let most = if bytes.starts_with(b"\xff\xd8\xff") { SMALL } else { 4 * MOST_PIXELS as usize };
    if let Ok(header) = within(most, || decode::header(bytes)) {
        let pixels = u64::from(header.width) * u64::from(header.height);
        assert!((1..=MOST_PIXELS).contains(&pixels), "{}x{}", header.width, header.height);
        assert_eq!(decode::header(bytes).as_ref(), Ok(&header), "read twice");
    }
}

/// A region has as many pixels as it says, its crop lies inside it and can be resized, and buffers that held another
/// picture change nothing.
pub fn decode(bytes: &[u8]) {
    const SMOOTH: DecodeConfig = DecodeConfig { jpeg: JpegDecoder::Own, smooth_chroma: true };
    const PLAIN: DecodeConfig = DecodeConfig { smooth_chroma: false, ..SMOOTH };
    thread_local!(static USED: RefCell<[Decoder; 2]> = RefCell::new([SMOOTH, PLAIN].map(Decoder::new)));
    let Ok(header) = decode::header(bytes) else { return };
    if u64::from(header.width) * u64::from(header.height) > MOST_DECODED_PIXELS {
        return;
    }
    let crop = crop(bytes, &header);
    let kind = bytes.len() % 2;
    let mut fresh = Decoder::new([SMOOTH, PLAIN][kind]);
    let (mut first_bytes, mut again_bytes) = (bytes.to_vec(), bytes.to_vec());
    let first = fresh.decode(&mut first_bytes, &header, crop, SIZE);
    USED.with_borrow_mut(|used| {
        let again = used[kind].decode(&mut again_bytes, &header, crop, SIZE);
        assert!(first == again, "a picture depends on the one before it");
    });
    let Ok(region) = first else { return };
    let (width, height) = (region.width, region.height);
    assert_eq!(region.pixels.len() as u64, u64::from(width) * u64::from(height) * 3, "{width}x{height}");
    assert!(width <= header.width && height <= header.height, "{width}x{height} of {header:?}");
    let inside = |start: f64, length: f64, side: u32| {
        start >= 0.0 && length > 0.0 && start + length <= f64::from(side)
    };
    assert!(inside(region.left, region.crop_width, width), "{crop:?} of {header:?}");
    assert!(inside(region.top, region.crop_height, height), "{crop:?} of {header:?}");
    let mut view = vec![0; (SIZE * SIZE * 3) as usize];
    Resampler::default().resample(&region, [SIZE; 2], bytes.len() % 2 == 1, &mut view).expect("a region can be resized");
}

/// A crop that any change of the bytes changes; every eighth is the whole picture.
fn crop(bytes: &[u8], header: &Header) -> Crop {
    let key = bytes.iter().fold(0, |key: u64, byte| key.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte));
    let config = AugmentConfig { size: SIZE, crop_scale: [0.01, 1.0], crop_ratio: [0.25, 4.0], flip: false };
    match key % 8 {
        0 => Crop::whole(header.width, header.height),
        _ => Crop::draw(&config, header.width, header.height, &mut Draws::new(key, 0, 0, Purpose::Crop)),
    }
}

/// The index of a shard that holds `bytes`.
pub(crate) fn index_of(bytes: &[u8]) -> Option<Index> {
    thread_local!(static SHARD: File = memory_file());
    SHARD.with(|shard| {
        shard.set_len(bytes.len() as u64).expect("memory for the shard");
        shard.write_all_at(bytes, 0).expect("memory for the shard");
        let table = Table::of(shard, bytes.len() as u64).ok()?;
        Some(Index { stamp: Stamp { size: bytes.len() as u64, seconds: 0, nanoseconds: 0 }, table })
    })
}

fn memory_file() -> File {
    // SAFETY: the name is a C string; a descriptor that is not negative is new and nobody else's.
    unsafe {
        let descriptor = libc::memfd_create(c"shard".as_ptr(), 0);
        assert!(descriptor >= 0, "no file in memory: {}", std::io::Error::last_os_error());
        File::from_raw_fd(descriptor)
    }
}
