//! Binary PPMs: whatever a header says, it is read as the `image` crate reads it, or left to that crate.

use std::io::Cursor;

use image::{ColorType, ImageDecoder, ImageFormat, ImageReader};
use proptest::prelude::*;
use saccade::pipeline::Reason;
use saccade::pipeline::ppm::{Ppm, begin, header};

fn check(bytes: &[u8], expected: Result<Option<(u32, u32, usize)>, Reason>) {
    let found = header(bytes).map_err(|error| error.reason);
    let found = found.map(|ppm| ppm.map(|Ppm { width, height, data }| (width, height, data.start)));
    assert_eq!(found, expected, "{}", String::from_utf8_lossy(bytes));
}

#[test]
fn pixels_begin_behind_one_white_space() {
    check(b"P6\n1 2\n255\nabcdef", Ok(Some((1, 2, 11))));
    check(b"P6 1 2 255 abcdef", Ok(Some((1, 2, 11))));
    check(b"P6\t1\r\n2\x0b\x0c255\n\n\n\n\n\n\n", Ok(Some((1, 2, 13))));
    check(b"P6\n001 0002 00255\nabcdef and what follows", Ok(Some((1, 2, 18))));
}

#[test]
fn comments_are_passed_over() {
    check(b"P6\n# 9 9 9\n1 2\n# by hand\r255\nabcdef", Ok(Some((1, 2, 29))));
    check(b"P6# at once\n1 2 255\nabcdef", Ok(Some((1, 2, 20))));
    check(b"P6\n1 2\n255\n#bcdef", Ok(Some((1, 2, 11))));
}

#[test]
fn what_is_not_plain_is_left_to_the_general_decoder() {
    for text in [
        &b"P5\n1 2\n255\nab"[..],
        b"P3\n1 1\n255\n1 2 3",
        b"P7\nWIDTH 1\n",
        b"",
        b"P",
        b"\xff\xd8\xff",
        b"P61 2 255\nabcdef",
    ] {
        check(text, Ok(None));
    }
    check(b"P6\n1 2\n65535\nabcdefabcdef", Ok(None));
    check(b"P6\n1 2\n100\nabcdef", Ok(None));
    // Some readers take this for a width of 12, others for widths that end at the comment.
    check(b"P6\n1#\n2 2\n255\nabcdef", Ok(None));
}

#[test]
fn each_kind_of_damage_has_its_reason() {
    for text in [&b"P6"[..], b"P6\n", b"P6\n1", b"P6\n1 2\n255", b"P6\n# without an end", b"P6\n1 2\n255\nabcde"] {
        check(text, Err(Reason::Truncated));
    }
    for text in
        [&b"P6\n-1 2\n255\n"[..], b"P6\n1 2x\n255\n", b"P6\n0 2\n255\n", b"P6\n99999999999 2\n255\n", b"P6\n\xe4 "]
    {
        check(text, Err(Reason::Damaged));
    }
    check(b"P6\n60000 60000\n255\nabc", Err(Reason::TooLarge));
    check(b"P6\n4294967295 4294967295\n255\nabc", Err(Reason::TooLarge));
}

#[test]
fn a_header_that_was_written_is_read() {
    for (width, height) in [(1, 1), (256, 171), (65_535, 1)] {
        let mut bytes = b"left over".to_vec();
        begin(width, height, &mut bytes);
        let start = bytes.len();
        bytes.resize(start + width as usize * height as usize * 3, 7);
        check(&bytes, Ok(Some((width, height, start))));
    }
}

/// What the `image` crate makes of the bytes, where it finds RGB of 8 bits.
fn reference(bytes: &[u8]) -> Option<(u32, u32, Vec<u8>)> {
    let decoder = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Pnm).into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    // The crate reads pictures without a pixel too.
    let pixels = u64::from(width) * u64::from(height);
    if decoder.color_type() != ColorType::Rgb8 || !(1..=10_000).contains(&pixels) {
        return None;
    }
    let mut pixels = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut pixels).ok()?;
    Some((width, height, pixels))
}

/// Never panics, stays inside the bytes, and contradicts the reference nowhere.
fn compare(bytes: &[u8]) {
    match (header(bytes), reference(bytes)) {
        (Ok(Some(ppm)), Some((width, height, pixels))) => {
            assert_eq!((ppm.width, ppm.height), (width, height));
            assert_eq!(bytes[ppm.data], pixels);
        }
        (Ok(Some(ppm)), None) => {
            let pixels = u64::from(ppm.width) * u64::from(ppm.height);
            assert_eq!(bytes[ppm.data].len() as u64, pixels * 3);
            assert!(pixels > 10_000, "{}x{} was found where the reference finds nothing", ppm.width, ppm.height);
        }
        (Ok(None), _) | (Err(_), None) => {}
        (Err(error), Some(_)) => panic!("{error}, but the reference reads it"),
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        compare(&bytes);
        compare(&[b"P6\n", bytes.as_slice()].concat());
    }

    #[test]
    fn headers_put_together_at_random_are_read_as_by_the_reference(
        parts in prop::collection::vec("[ \t\n\r]{1,2}|[0-9]{1,2}|#[a-z0-9 ]{0,4}\n|255\n|1 2 255\n|[a-z]", 0..12),
        pixels in 0usize..400,
    ) {
        compare(&[b"P6", parts.concat().as_bytes(), &vec![b'5'; pixels]].concat());
    }

    #[test]
    fn headers_with_a_changed_byte_are_read_as_by_the_reference(place in 0usize..16, value in any::<u8>()) {
        let mut bytes = [&b"P6\n# c\n5 4\n255\n"[..], &[9; 80]].concat();
        bytes[place] = value;
        compare(&bytes);
    }
}
