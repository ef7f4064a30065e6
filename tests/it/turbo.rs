//! libjpeg-turbo: parts of pictures at fractions of their size, and what is damaged.
#![cfg(feature = "turbo")]

use std::fs;

use saccade::draws::{Draws, Purpose};
use saccade::pipeline::Reason;
use saccade::pipeline::augment::Crop;
use saccade::pipeline::decode::Unusable;
use saccade::pipeline::jpeg::markers;
use saccade::pipeline::jpeg::own::{Own, Part};
use saccade::pipeline::jpeg::turbo::Turbo;

use crate::reference;

const JPEGS: [&str; 9] = [
    "baseline_420.jpg",
    "baseline_422.jpg",
    "baseline_444.jpg",
    "progressive.jpg",
    "grey.jpg",
    "cmyk.jpg",
    "restart.jpg",
    "odd_17x9.jpg",
    "one_pixel.jpg",
];

fn bytes_of(name: &str) -> Vec<u8> {
    fs::read(reference().join("images").join(name)).expect("a reference image")
}

fn size_of(name: &str) -> (u32, u32) {
    markers::size(&bytes_of(name)).expect("a frame")
}

fn read(bytes: &[u8], (width, height): (u32, u32)) -> Result<Vec<u8>, Unusable> {
    let mut pixels = Vec::new();
    Turbo::default().decode(bytes, 1, Crop::whole(width, height), true, &mut pixels)?;
    assert_eq!(pixels.len(), (width * height * 3) as usize);
    Ok(pixels)
}

#[test]
fn smooth_chroma_is_what_pillow_makes_and_plain_chroma_is_near_it() {
    for name in JPEGS {
        let expected = image::open(reference().join("images").join(format!("{name}.expected.png"))).unwrap().to_rgb8();
        let bytes = bytes_of(name);
        let (width, height) = size_of(name);
        // Pillow uses the same library; plain chroma is coarser at edges.
        for (smooth, mean_allowed, most_allowed) in [(true, 0.1, 1), (false, 3.0, 24)] {
            let mut pixels = Vec::new();
            let part = Turbo::default().decode(&bytes, 1, Crop::whole(width, height), smooth, &mut pixels);
            assert_eq!(part, Ok(Crop::whole(width, height)), "{name}");
            assert_eq!(pixels.len(), expected.as_raw().len(), "{name}");
            let differences = pixels.iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b));
            let most = differences.clone().max().unwrap();
            let mean = differences.map(f64::from).sum::<f64>() / pixels.len() as f64;
            assert!(mean <= mean_allowed && most <= most_allowed, "{name}, {smooth}: {mean}, at most {most}");
        }
    }
}

/// Rows and columns of both ends, of the middle, and around where blocks begin.
fn parts(width: u32, height: u32) -> Vec<Crop> {
    let starts = |side: u32| [0, 1, 7, 8, 15, 16, 17, 33, side - 1].into_iter().filter(move |start| *start < side);
    let mut parts = Vec::new();
    for (left, top) in starts(width).flat_map(|left| starts(height).map(move |top| (left, top))) {
        for (part_width, part_height) in [(1, 1), (2, 3), (9, 17), (width - left, height - top)] {
            if left + part_width <= width && top + part_height <= height {
                parts.push(Crop { left, top, width: part_width, height: part_height });
            }
        }
    }
    parts
}

#[test]
fn a_part_is_exactly_what_it_is_in_the_whole_picture() {
    let mut turbo = Turbo::default();
    let (mut whole, mut pixels) = (Vec::new(), Vec::new());
    for (name, scale, smooth) in
        JPEGS.iter().flat_map(|name| [1, 2, 4, 8].map(|scale| [(name, scale, true), (name, scale, false)])).flatten()
    {
        let bytes = bytes_of(name);
        let (width, height) = size_of(name);
        let (width, height) = (width.div_ceil(scale), height.div_ceil(scale));
        turbo.decode(&bytes, scale, Crop::whole(width, height), smooth, &mut whole).unwrap();
        for wanted in parts(width, height) {
            let part = turbo.decode(&bytes, scale, wanted, smooth, &mut pixels).unwrap();
            assert_eq!(pixels.len(), (part.width * part.height * 3) as usize, "{name} {wanted:?}");
            for row in wanted.top..wanted.top + wanted.height {
                let start = ((row * width + wanted.left) * 3) as usize;
                let own = (((row - part.top) * part.width + wanted.left - part.left) * 3) as usize;
                let length = wanted.width as usize * 3;
                let same = whole[start..start + length] == pixels[own..own + length];
                assert!(same, "{name} at 1/{scale}, smooth {smooth}: {wanted:?} of {part:?}, row {row}");
            }
        }
    }
}

#[test]
fn a_part_is_decoded_without_most_of_what_is_left_of_it() {
    let wanted = Crop { left: 40, top: 20, width: 10, height: 5 };
    let part = Turbo::default().decode(&bytes_of("baseline_420.jpg"), 1, wanted, false, &mut Vec::new());
    assert_eq!(part, Ok(Crop { left: 32, top: 20, width: 18, height: 5 }));
}

#[test]
fn a_jpeg_that_ends_early_is_refused_wherever_it_ends() {
    for name in JPEGS {
        let (whole, size) = (bytes_of(name), size_of(name));
        let picture = read(&whole, size).unwrap();
        for length in 0..whole.len() {
            match read(&whole[..length], size) {
                // The last byte before the end marker may hold nothing but filling bits.
                Ok(cut) => assert!(cut == picture && length + 3 >= whole.len(), "{name}: read from {length} bytes"),
                Err(error) => {
                    assert!(length + 2 < whole.len(), "{name} without its end marker: {error}");
                    assert!(matches!(error.reason, Reason::Truncated | Reason::Damaged), "{name}: {error}");
                }
            }
        }
    }
}

#[test]
fn what_lies_around_the_end_marker_does_not_matter() {
    for name in JPEGS {
        let (whole, size) = (bytes_of(name), size_of(name));
        let picture = read(&whole, size);
        assert_eq!(read(&[whole.as_slice(), b"trailer"].concat(), size), picture, "{name}");
        let (data, end) = whole.split_at(whole.len() - 2);
        assert_eq!(end, [0xFF, 0xD9], "{name}");
        assert_eq!(read(&[data, &[0x55; 9], end].concat(), size), picture, "{name}");
    }
}

#[test]
fn each_kind_of_damage_has_its_reason() {
    let mut large = bytes_of("baseline_420.jpg");
    let frame = large.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let mut longest = large.clone();
    longest[frame + 5..frame + 9].fill(0xFF);
    large[frame + 5..frame + 9].copy_from_slice(&[0xF0, 0, 0xF0, 0]);
    let mut wide = bytes_of("baseline_420.jpg");
    wide[frame + 1] = 0xC1;
    wide[frame + 4] = 12;
    let cases = [
        (large, Reason::TooLarge),
        (longest, Reason::TooLarge),
        (wide, Reason::Unsupported),
        (bytes_of("text.jpg"), Reason::Damaged),
        (bytes_of("zeros.jpg"), Reason::Damaged),
        (Vec::new(), Reason::Damaged),
        (bytes_of("truncated_half.jpg"), Reason::Truncated),
        (bytes_of("truncated_header.jpg"), Reason::Truncated),
    ];
    for (bytes, reason) in cases {
        let found = read(&bytes, (64, 48)).map_err(|error| error.reason);
        assert_eq!(found.map(|_| ()), Err(reason), "{} bytes", bytes.len());
    }
}

#[test]
fn a_view_that_no_picture_has_is_refused() {
    let bytes = bytes_of("baseline_420.jpg");
    let mut turbo = Turbo::default();
    let mut decode = |scale, left, width| {
        let wanted = Crop { left, top: 0, width, height: 1 };
        turbo.decode(&bytes, scale, wanted, true, &mut Vec::new()).is_ok()
    };
    let (side, _) = size_of("baseline_420.jpg");
    let half = side.div_ceil(2);
    assert!(decode(1, 0, side) && decode(2, 0, half));
    let refused = [(0, 0, 1), (3, 0, 1), (16, 0, 1), (2, 0, half + 1), (1, side, 1), (1, 0, 0), (1, u32::MAX, 2)];
    for (scale, left, width) in refused {
        assert!(!decode(scale, left, width), "{width} columns from {left} at 1/{scale}");
    }
}

#[test]
fn a_picture_does_not_depend_on_the_one_before_it() {
    let (whole, other) = (bytes_of("baseline_420.jpg"), bytes_of("baseline_444.jpg"));
    let size = size_of("baseline_420.jpg");
    // Without its tables, the first quantisation table hidden in a comment.
    let mut bare = whole;
    let tables = bare.windows(2).position(|pair| pair == [0xFF, 0xDB]).unwrap();
    bare[tables + 1] = 0xFE;
    let alone = read(&bare, size);
    let mut turbo = Turbo::default();
    let mut pixels = Vec::new();
    turbo.decode(&other, 1, Crop::whole(size.0, size.1), true, &mut pixels).unwrap();
    let after = turbo.decode(&bare, 1, Crop::whole(size.0, size.1), true, &mut pixels).map(|_| pixels);
    assert_eq!(after, alone);
    assert!(alone.is_err(), "a picture without its tables was read");
}

#[test]
fn changed_bytes_give_an_error_or_a_picture_of_the_right_size() {
    for name in JPEGS {
        let whole = bytes_of(name);
        let (width, height) = size_of(name);
        let mut turbo = Turbo::default();
        let mut pixels = Vec::new();
        for at in 2..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            let wanted = Crop { left: width / 2, top: height / 2, width: 1, height: 1 };
            if let Ok(part) = turbo.decode(&bytes, 1, wanted, at % 2 == 0, &mut pixels) {
                assert_eq!(pixels.len(), (part.width * part.height * 3) as usize, "{name}, byte {at}");
            }
        }
    }
}

#[test]
fn an_end_marker_does_not_make_a_cut_jpeg_whole() {
    // A progressive file may be meant to end after any scan.
    for name in JPEGS.into_iter().filter(|name| !["progressive.jpg", "one_pixel.jpg", "odd_17x9.jpg"].contains(name)) {
        let whole = bytes_of(name);
        for length in whole.len() / 2..whole.len() - 3 {
            let cut = [&whole[..length], &[0xFF, 0xD9]].concat();
            assert!(read(&cut, size_of(name)).is_err(), "{name}: read from {length} bytes");
        }
    }
}

#[test]
fn subsampling_without_a_name_is_decoded_whole_and_grey_has_none() {
    let size = size_of("grey.jpg");
    let (mut grey, mut odd) = (bytes_of("grey.jpg"), bytes_of("baseline_422.jpg"));
    let frame = |bytes: &[u8]| bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let (grey_frame, odd_frame) = (frame(&grey), frame(&odd));
    let picture = read(&grey, size);
    grey[grey_frame + 11] = 0x22;
    assert_eq!(read(&grey, size), picture);
    odd[odd_frame + 14] = 0x12;
    let wanted = Crop { left: 12, top: 3, width: 9, height: 9 };
    let part = |bytes: &[u8]| Turbo::default().decode(bytes, 1, wanted, false, &mut Vec::new());
    assert_eq!(part(&grey), Ok(Crop { left: 8, top: 3, width: 13, height: 9 }));
    assert_eq!(part(&odd), Ok(Crop::whole(size.0, size.1)));
}

/// A draw for every call.
fn draws(seed: u64) -> Draws {
    Draws::new(seed, 0, 0, Purpose::Crop)
}

fn part(draws: &mut Draws, width: u32, height: u32) -> Crop {
    let mut side = |most: u32| {
        let length = draws.below(u64::from(most)) as u32 + 1;
        (draws.below(u64::from(most - length) + 1) as u32, length)
    };
    let ((left, width), (top, height)) = (side(width), side(height));
    Crop { left, top, width, height }
}

/// How many parts of a file both decoders have taken, and of how many they have made the same pixels.
#[derive(Debug, Default)]
struct Compared {
    both: u32,
    same: u32,
}

impl Compared {
    fn add(&mut self, bytes: &[u8], draws: &mut Draws) {
        let Ok((width, height)) = markers::size(bytes) else { return };
        let (mut own, mut turbo) = (Own::default(), Turbo::default());
        for (scale, smooth) in [1, 2, 4, 8].into_iter().flat_map(|scale| [(scale, false), (scale, true)]) {
            let wanted = part(draws, width.div_ceil(scale), height.div_ceil(scale));
            let [left, top, width, height] =
                [wanted.left, wanted.top, wanted.width, wanted.height].map(|at| at as usize);
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            if own.decode(bytes, scale as usize, Part { left, top, width, height }, smooth, &mut ours).is_err() {
                continue;
            }
            let Ok(found) = turbo.decode(bytes, scale, wanted, smooth, &mut theirs) else { continue };
            let rows = theirs.chunks_exact(found.width as usize * 3).skip(top - found.top as usize);
            let from = (left - found.left as usize) * 3;
            let theirs: Vec<u8> = rows.take(height).flat_map(|row| &row[from..from + width * 3]).copied().collect();
            self.both += 1;
            self.same += u32::from(ours == theirs);
        }
    }
}

#[test]
fn our_own_decoder_makes_the_same_pixels_of_every_part() {
    let mut draws = draws(1);
    for name in JPEGS {
        let mut compared = Compared::default();
        for _ in 0..40 {
            compared.add(&bytes_of(name), &mut draws);
        }
        assert_eq!(compared.both, compared.same, "{name}");
        assert_eq!(compared.both > 0, name != "cmyk.jpg", "{name} should be taken, unless it has four components");
    }
}

#[test]
fn our_own_decoder_makes_the_same_pixels_of_damaged_files_that_both_take() {
    let (mut draws, mut compared) = (draws(2), Compared::default());
    for name in JPEGS.iter().cycle().take(9 * 150) {
        let mut bytes = bytes_of(name);
        for _ in 0..=draws.below(3) {
            let at = draws.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << draws.below(8);
        }
        compared.add(&bytes, &mut draws);
    }
    // 6,246 of 6,262 are the same: damage makes coefficients that no picture has, of which nothing is promised.
    assert!(compared.both > 2000 && compared.same * 100 >= compared.both * 99, "{compared:?}");
}
