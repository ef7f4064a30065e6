//! Images that are legal but awkward, and images that are damaged.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat};
use saccade::draws::{Draws, Purpose};
use saccade::pipeline::AugmentConfig;
use saccade::pipeline::Reason;
use saccade::pipeline::augment::Crop;
use saccade::pipeline::decode::{Decoder, Region, Unusable, header};
use saccade::pipeline::resample::Resampler;
use saccade::pipeline::{DecodeConfig, JpegDecoder};
use serde::Deserialize;

use crate::reference;

/// `[height, width, 3]`
#[derive(Clone, Debug, PartialEq)]
struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

/// Those that this build has.
const DECODERS: &[JpegDecoder] = if JpegDecoder::HAS_TURBO {
    &[JpegDecoder::Own, JpegDecoder::Zune, JpegDecoder::Turbo]
} else {
    &[JpegDecoder::Own, JpegDecoder::Zune]
};

fn read_by(jpeg: JpegDecoder, mut bytes: Vec<u8>) -> Result<Picture, Unusable> {
    let header = header(&bytes)?;
    let mut decoder = Decoder::new(DecodeConfig { jpeg, smooth_chroma: true });
    let whole = Crop::whole(header.width, header.height);
    let Region { width, height, pixels, .. } = decoder.decode(&mut bytes, &header, whole, u32::MAX)?;
    Ok(Picture { width, height, pixels: pixels.to_vec() })
}

fn read(bytes: Vec<u8>) -> Result<Picture, Unusable> {
    read_by(JpegDecoder::Own, bytes)
}

fn bytes_of(name: &str) -> Vec<u8> {
    fs::read(reference().join("images").join(name)).expect("a reference image")
}

fn jpegs() -> Vec<(String, Vec<u8>)> {
    let names = ["baseline_420", "baseline_422", "baseline_444", "progressive", "grey", "cmyk", "odd_17x9", "restart"];
    names.iter().map(|name| (name.to_string(), bytes_of(&format!("{name}.jpg")))).collect()
}

fn by_each_decoder() -> impl Iterator<Item = ((String, Vec<u8>), JpegDecoder)> {
    jpegs().into_iter().flat_map(|jpeg| DECODERS.iter().map(move |decoder| (jpeg.clone(), *decoder)))
}

#[derive(Deserialize)]
struct Expected {
    ok: Option<bool>,
    width: Option<u32>,
    height: Option<u32>,
}

#[test]
fn every_reference_image_is_read_as_pillow_reads_it_or_refused() {
    let text = fs::read_to_string(reference().join("images.json")).expect("a list of images");
    let all: BTreeMap<String, Expected> = serde_json::from_str(&text).expect("expectations by name");
    assert!(!all.is_empty());
    for (name, expected, jpeg) in
        all.iter().flat_map(|(name, expected)| DECODERS.iter().map(move |jpeg| (name, expected, *jpeg)))
    {
        let result = read_by(jpeg, bytes_of(name));
        match (expected.ok, result) {
            (Some(true), result) => {
                let picture = result.unwrap_or_else(|error| panic!("{name} by {jpeg:?}: {error}"));
                assert_eq!((Some(picture.width), Some(picture.height)), (expected.width, expected.height), "{name}");
                compare(name, &picture, &reference().join("images").join(format!("{name}.expected.png")));
            }
            (Some(false), result) => assert!(result.is_err(), "{name} was read by {jpeg:?}"),
            (None, result) => assert!(result.map_or(true, |picture| !has_grey_half(&picture)), "{name} is half grey"),
        }
    }
}

fn compare(name: &str, picture: &Picture, expected: &Path) {
    if !expected.exists() {
        return;
    }
    let expected = image::open(expected).expect("expected pixels").to_rgb8();
    let differences: Vec<u32> =
        picture.pixels.iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b).into()).collect();
    assert_eq!(differences.len(), expected.as_raw().len(), "{name}");
    let mean = f64::from(differences.iter().sum::<u32>()) / differences.len() as f64;
    let most = differences.into_iter().max();
    let bytes = bytes_of(name);
    // Tolerances of the references: decoders differ in how they upsample chroma, but not in lossless formats.
    let (mean_allowed, most_allowed) = if bytes.starts_with(b"\x89PNG") { (0.0, 0) } else { (2.0, 24) };
    assert!(mean <= mean_allowed && most <= Some(most_allowed), "{name}: differs by {mean}, at most {most:?}");
}

fn has_grey_half(picture: &Picture) -> bool {
    let half = &picture.pixels[picture.pixels.len() / 2..];
    half.iter().all(|value| value.abs_diff(128) <= 1)
}

#[test]
fn a_jpeg_that_ends_early_is_refused_wherever_it_ends() {
    for ((name, whole), jpeg) in by_each_decoder() {
        let picture = read_by(jpeg, whole.clone()).expect("a sound image");
        for length in 0..whole.len() - 2 {
            if let Ok(cut) = read_by(jpeg, whole[..length].to_vec()) {
                assert_eq!(cut, picture, "{name}, {jpeg:?}: read from {length} of {} bytes", whole.len());
                // The last byte before the end marker may hold nothing but filling bits and what equals them.
                assert!(length + 3 >= whole.len(), "{name}, {jpeg:?}: read from {length} of {} bytes", whole.len());
            }
        }
        for length in [whole.len() - 2, whole.len() - 1] {
            assert_eq!(
                read_by(jpeg, whole[..length].to_vec()).as_ref(),
                Ok(&picture),
                "{name}, {jpeg:?}, without its end marker"
            );
        }
    }
}

#[test]
fn an_end_marker_does_not_make_a_cut_jpeg_whole() {
    for ((name, whole), jpeg) in by_each_decoder().filter(|((name, _), _)| name != "progressive") {
        let picture = read_by(jpeg, whole.clone()).expect("a sound image");
        for length in (0..whole.len() - 2).filter(|length| *length > whole.len() / 2) {
            let cut = [&whole[..length], &[0xFF, 0xD9]].concat();
            if let Ok(cut) = read_by(jpeg, cut) {
                assert!(
                    cut == picture && length + 3 >= whole.len(),
                    "{name}, {jpeg:?}: read from {length} of {}",
                    whole.len()
                );
            }
        }
    }
}

#[test]
fn what_follows_the_end_of_a_jpeg_does_not_matter() {
    for ((name, whole), jpeg) in by_each_decoder() {
        let picture = read_by(jpeg, whole.clone()).expect("a sound image");
        for tail in [vec![0; 1000], b"trailer".to_vec(), whole.clone(), vec![0xFF; 7]] {
            assert_eq!(read_by(jpeg, [whole.clone(), tail].concat()).as_ref(), Ok(&picture), "{name}, {jpeg:?}");
        }
    }
}

/// A colourful picture that no compressor makes small.
fn noise(width: u32, height: u32) -> DynamicImage {
    let mut draws = Draws::new(1, 0, 0, Purpose::Crop);
    let pixels = (0..width * height * 4).map(|_| draws.below(256) as u8).collect();
    DynamicImage::ImageRgba8(image::RgbaImage::from_raw(width, height, pixels).expect("as many pixels"))
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("an encoder");
    bytes.into_inner()
}

#[test]
fn other_formats_are_read_exactly_and_refused_when_cut() {
    let image = noise(40, 30);
    let opaque = DynamicImage::ImageRgb8(image.to_rgb8());
    let formats = [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Pnm];
    for format in formats {
        let bytes = encoded(&opaque, format);
        let pixels = opaque.to_rgb8().into_raw();
        assert_eq!(read(bytes.clone()), Ok(Picture { width: 40, height: 30, pixels }), "{format:?}");
        for length in [2, 8, 12, 30, bytes.len() / 2, bytes.len() * 9 / 10] {
            assert!(read(bytes[..length].to_vec()).is_err(), "{format:?} cut to {length} bytes");
        }
    }
    let gif = encoded(&image, ImageFormat::Gif);
    assert!(read(gif.clone()).is_ok());
    assert!(read(gif[..gif.len() / 2].to_vec()).is_err());
}

#[test]
fn grey_is_repeated_alpha_is_dropped_and_sixteen_bits_are_cut() {
    let image = noise(9, 7);
    let repeated = |grey: &[u8]| grey.iter().flat_map(|value| [*value; 3]).collect::<Vec<_>>();
    let high = |values: &[u16]| values.iter().map(|value| (value >> 8) as u8).collect::<Vec<_>>();
    let (grey16, colour16) = (image.to_luma16(), image.to_rgb16());
    let alpha = image.to_rgba8();
    let without_alpha = alpha.pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let cases = [
        (DynamicImage::ImageLuma8(image.to_luma8()), repeated(image.to_luma8().as_raw())),
        (DynamicImage::ImageLumaA8(image.to_luma_alpha8()), repeated(image.to_luma8().as_raw())),
        (DynamicImage::ImageLuma16(grey16.clone()), repeated(&high(grey16.as_raw()))),
        (DynamicImage::ImageRgb16(colour16.clone()), high(colour16.as_raw())),
        (DynamicImage::ImageRgba16(image.to_rgba16()), high(colour16.as_raw())),
        (DynamicImage::ImageRgba8(alpha.clone()), without_alpha),
    ];
    for (image, pixels) in cases {
        let kind = image.color();
        let picture = read(encoded(&image, ImageFormat::Png)).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!(picture, Picture { width: 9, height: 7, pixels }, "{kind:?}");
    }
}

#[test]
fn a_header_that_claims_too_much_is_refused_before_memory_is_taken() {
    let mut jpeg = bytes_of("baseline_420.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).expect("a baseline frame");
    jpeg[frame + 5..frame + 9].fill(0xFF);
    for bytes in [jpeg, bytes_of("bomb_60000x60000.png")] {
        assert_eq!(header(&bytes).map_err(|error| error.reason), Err(Reason::TooLarge));
    }
}

#[test]
fn each_kind_of_damage_has_its_reason() {
    let no_frame = [&[0xFF, 0xD8, 0xFF, 0xDA, 0, 2][..], &[0; 40]].concat();
    let cases = [
        (Vec::new(), Reason::Empty),
        (vec![0; 500], Reason::UnknownFormat),
        (bytes_of("text.jpg"), Reason::UnknownFormat),
        (bytes_of("truncated_half.jpg"), Reason::Truncated),
        (bytes_of("truncated_header.jpg"), Reason::Truncated),
        (no_frame, Reason::Damaged),
    ];
    for (bytes, reason) in cases {
        let length = bytes.len();
        let found = read(bytes).map(|_| ()).map_err(|error| error.reason);
        // Half a file may end inside a code, which reads as damage.
        let fine = found == Err(reason) || (reason == Reason::Truncated && found == Err(Reason::Damaged));
        assert!(fine, "{length} bytes: {found:?}, not {reason}");
    }
}

fn config(flip: bool) -> AugmentConfig {
    AugmentConfig { size: 224, crop_scale: [0.3, 1.0], crop_ratio: [0.75, 4.0 / 3.0], flip }
}

#[test]
fn crops_lie_in_the_image_and_keep_to_scale_and_ratio() {
    let sizes = [(500, 375), (375, 500), (1, 1), (1, 500), (500, 1), (17, 9), (3000, 10)];
    for (width, height) in sizes {
        let mut areas = Vec::new();
        for sample in 0..400 {
            let crop = Crop::draw(&config(false), width, height, &mut Draws::new(3, 0, sample, Purpose::Crop));
            assert!(crop.width > 0 && crop.left + crop.width <= width, "{crop:?} in {width}x{height}");
            assert!(crop.height > 0 && crop.top + crop.height <= height, "{crop:?} in {width}x{height}");
            areas.push(f64::from(crop.width * crop.height) / f64::from(width * height));
        }
        if width.min(height) > 300 {
            // Rounding to whole pixels moves the share of the area by less than a hundredth here.
            assert!(areas.iter().all(|area| (0.29..=1.0).contains(area)), "{width}x{height}");
            let mean = areas.iter().sum::<f64>() / areas.len() as f64;
            // 0.548 for torchvision's algorithm over 200,000 draws; four standard errors of 400 are 0.04.
            assert!((mean - 0.548).abs() < 0.04, "{width}x{height}: {mean}");
        }
    }
}

#[test]
fn an_image_of_an_impossible_shape_is_cropped_in_the_middle() {
    let crop = |width, height| Crop::draw(&config(false), width, height, &mut Draws::new(3, 0, 0, Purpose::Crop));
    assert_eq!(crop(3000, 10), Crop { left: 1493, top: 0, width: 13, height: 10 });
    assert_eq!(crop(10, 3000), Crop { left: 0, top: 1493, width: 10, height: 13 });
    assert_eq!(Crop::centre(7, 4), Crop { left: 1, top: 0, width: 4, height: 4 });
}

#[test]
fn restart_marker_that_was_not_announced_is_damage_and_no_picture() {
    let path = crate::saccade::root().join("tests/data/reference/images/baseline_420.jpg");
    let whole = std::fs::read(&path).unwrap();
    let announced = whole.windows(2).any(|pair| pair == [0xFF, 0xDD]);
    assert!(!announced, "{} has restart markers of its own", path.display());
    let scan = whole.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
    // Well inside the coded data: past the scan's header, at a third of what follows.
    let mut at = scan + 14 + (whole.len() - scan) / 3;
    while whole[at - 1] == 0xFF || whole[at] == 0xFF || whole[at + 1] == 0xFF {
        at += 1;
    }
    let mut bytes = whole;
    bytes.splice(at..at + 2, [0xFF, 0xD3]);
    for jpeg in DECODERS {
        let read = read_by(*jpeg, bytes.clone());
        assert!(read.is_err(), "the rest of this picture was made up by {jpeg:?}");
    }
}

/// A view of a crop by a decoder; at full size unless it may decode at a smaller scale.
fn view(jpeg: JpegDecoder, smooth_chroma: bool, bytes: &[u8], crop: Crop, size: u32, scaled: bool) -> Vec<u8> {
    let (mut bytes, mut decoder) = (bytes.to_vec(), Decoder::new(DecodeConfig { jpeg, smooth_chroma }));
    let header = header(&bytes).expect("a sound image");
    let least = if scaled { size } else { u32::MAX };
    let region = decoder.decode(&mut bytes, &header, crop, least).expect("a sound image");
    let mut view = vec![0; (size * size * 3) as usize];
    Resampler::default().resample(&region, [size; 2], false, &mut view).expect("sizes that fit");
    view
}

/// Mean and greatest difference, in levels.
fn difference(one: &[u8], other: &[u8]) -> (f64, u8) {
    let differences = one.iter().zip(other).map(|(one, other)| one.abs_diff(*other));
    (differences.clone().map(f64::from).sum::<f64>() / one.len() as f64, differences.max().unwrap_or_default())
}

#[test]
fn a_crop_decoded_alone_is_the_crop_of_the_whole_picture_decoded() {
    let mut draws = Draws::new(5, 0, 0, Purpose::Crop);
    for ((name, bytes), jpeg) in by_each_decoder().filter(|((name, _), _)| !name.starts_with("odd")) {
        let whole = read_by(jpeg, bytes.clone()).expect("a sound image");
        for _ in 0..60 {
            let crop = Crop::draw(&config(false), whole.width, whole.height, &mut draws);
            let region = Region::of(&whole.pixels, Crop::whole(whole.width, whole.height), crop, 1);
            let mut expected = vec![0; 20 * 20 * 3];
            Resampler::default().resample(&region, [20; 2], false, &mut expected).expect("sizes that fit");
            assert!(view(jpeg, true, &bytes, crop, 20, false) == expected, "{name} by {jpeg:?}: {crop:?}");
            // A smaller transform is a box filter where the other way is a triangle: on pictures as fine as these,
            // which have no larger areas, that is some levels.
            let (mean, _) = difference(&view(jpeg, true, &bytes, crop, 20, true), &expected);
            assert!(mean <= 8.0, "{name} by {jpeg:?}: {crop:?} differs by {mean} levels when decoded smaller");
        }
    }
}

#[test]
fn a_decoder_makes_the_same_of_a_picture_whatever_it_decoded_before() {
    let all: Vec<_> =
        jpegs().into_iter().map(|(name, bytes)| (name, read(bytes.clone()).expect("sound"), bytes)).collect();
    let mut decoder = Decoder::new(DecodeConfig { jpeg: JpegDecoder::Own, smooth_chroma: true });
    for (name, expected, bytes) in all.iter().chain(all.iter().rev()).chain(&all) {
        let (mut bytes, whole) = (bytes.clone(), Crop::whole(expected.width, expected.height));
        let header = header(&bytes).expect("a sound image");
        let region = decoder.decode(&mut bytes, &header, whole, u32::MAX).expect("a sound image");
        assert!(region.pixels == expected.pixels, "{name}");
        // What a damaged file leaves behind must not show either.
        let mut cut = bytes[..bytes.len() * 2 / 3].to_vec();
        assert!(decoder.decode(&mut cut, &header, whole, u32::MAX).is_err(), "{name}");
    }
}

#[test]
fn a_progressive_picture_without_its_end_marker_has_the_same_crops() {
    let whole = bytes_of("progressive.jpg");
    let header = header(&whole).expect("a sound image");
    for bottom in 1..=header.height {
        let crop = Crop { left: 0, top: 0, width: header.width, height: bottom };
        let expected = view(JpegDecoder::Own, true, &whole, crop, 16, false);
        let without_end = view(JpegDecoder::Own, true, &whole[..whole.len() - 2], crop, 16, false);
        assert!(without_end == expected, "{bottom} rows");
    }
}
