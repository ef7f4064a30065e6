//! What becomes of images that are not decoded for good: new JPEGs, JPEGs without EXIF, and those that are looked at only.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use image::RgbImage;
use proptest::prelude::*;
use saccade::pipeline::decode::{Decoder, header};
use saccade::pipeline::exif;
use saccade::pipeline::shrink::{Chroma, Coding, Fit};
use saccade::pipeline::{DecodeConfig, JpegDecoder};
use saccade::run::reshard::treat::{ImageForm, Treatment};
use saccade::run::reshard::{Reshard, reshard};

use super::{Members, Place, lossless, members, picture, png};
use crate::saccade::at;

/// All pixels, by the decoder of the data path.
fn decoded(bytes: &[u8]) -> RgbImage {
    let head = header(bytes).unwrap();
    let mut decoder = Decoder::new(DecodeConfig { jpeg: JpegDecoder::Own, smooth_chroma: true });
    let whole = saccade::pipeline::augment::Crop::whole(head.width, head.height);
    let mut bytes = bytes.to_vec();
    let region = decoder.decode(&mut bytes, &head, whole, u32::MAX).unwrap();
    RgbImage::from_raw(region.width, region.height, region.pixels.to_vec()).unwrap()
}

/// Peak signal-to-noise ratio in dB.
fn psnr(one: &RgbImage, other: &RgbImage) -> f64 {
    let squares = one.iter().zip(other.iter()).map(|(one, other)| (f64::from(*one) - f64::from(*other)).powi(2));
    10.0 * (255.0f64.powi(2) / (squares.sum::<f64>() / one.len() as f64)).log10()
}

#[test]
fn new_jpegs_look_like_what_they_were_made_of_and_better_ones_more_so() {
    let place = Place::new();
    let photograph = decoded(&fs::read(crate::reference().join("images/baseline_420.jpg")).unwrap());
    let all = vec![
        ("a.png".to_owned(), png(&photograph)),
        ("a.cls".to_owned(), b"3".to_vec()),
        ("a.jpg".to_owned(), b"a namesake".to_vec()),
    ];
    let shard = place.write("in/a.tar", &all);
    let make = |out: &str, fit: Fit, quality: u8, chroma: Chroma| {
        let image = ImageForm::Jpeg(fit, Coding { quality, chroma });
        let treatment = Treatment { image, ..Treatment::default() };
        let account =
            reshard(&Reshard { treatment, ..place.copied(std::slice::from_ref(&shard), out) }, &mut |_| {}).unwrap();
        let made = members(&place.path(out).join("a.tar"));
        let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a.jpg", "a.cls"]);
        (made[0].1.clone(), account.changed)
    };
    let large = Fit::MaxSide(65_535);
    let mut before = (0.0, 0);
    for quality in [30, 75, 95] {
        let (bytes, changed) = make(&format!("q{quality}"), large, quality, Chroma::Full);
        let found = (psnr(&decoded(&bytes), &photograph), bytes.len());
        assert!(
            found.0 > before.0 && found.1 > before.1 && changed == 0,
            "quality {quality}: {found:?} after {before:?}"
        );
        before = found;
    }
    // What libjpeg reaches at this quality on photographs is 35 to 45 dB.
    assert!(before.0 > 33.0, "{before:?}");
    let (full, quarter) = (before.1, make("quarter", large, 95, Chroma::Quarter).0.len());
    assert!(quarter < full, "{quarter} bytes with a quarter of the colours, {full} with all");
    let (bytes, changed) = make("small", Fit::MaxSide(20), 95, Chroma::Full);
    assert_eq!((decoded(&bytes).width().max(decoded(&bytes).height()), changed), (20, 1));
}

/// A JPEG with segments behind its beginning.
fn with_segments(jpeg: &[u8], segments: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = jpeg[..2].to_vec();
    for (marker, data) in segments {
        bytes.extend([0xFF, *marker]);
        bytes.extend((data.len() as u16 + 2).to_be_bytes());
        bytes.extend(data);
    }
    bytes.extend(&jpeg[2..]);
    bytes
}

#[test]
fn exif_goes_and_every_other_byte_stays() {
    let place = Place::new();
    let jpeg = fs::read(crate::reference().join("images/baseline_420.jpg")).unwrap();
    assert_eq!(exif::strip(&jpeg), None, "the reference has no EXIF");
    let exif_data = || [b"Exif\0\0II*\0".as_slice(), &[0xFF, 0xDA, 0xFF, 0xE1, 7]].concat();
    let profile = (0xE2, b"ICC_PROFILE\0\x01\x01colours".to_vec());
    let dressed =
        with_segments(&jpeg, &[(0xE1, exif_data()), profile.clone(), (0xE1, b"http://ns.adobe.com/xap".to_vec())]);
    let bare = with_segments(&jpeg, &[profile]);
    let other = png(&picture(9, 9, 1));
    let all =
        vec![("a.jpg".to_owned(), dressed.clone()), ("b.jpg".into(), jpeg.clone()), ("c.png".into(), other.clone())];
    let shard = place.write("in/a.tar", &all);
    let treatment = Treatment { strip_exif: true, ..Treatment::default() };
    let account =
        reshard(&Reshard { treatment, ..place.copied(std::slice::from_ref(&shard), "out") }, &mut |_| {}).unwrap();
    let expected = vec![("a.jpg".to_owned(), bare), ("b.jpg".into(), jpeg), ("c.png".into(), other)];
    assert_eq!(members(&place.path("out/a.tar")), expected);
    assert_eq!(account.changed, 1);
    reshard(&place.copied(&[shard], "kept"), &mut |_| {}).unwrap();
    assert_eq!(members(&place.path("kept/a.tar")), all, "nothing is taken out unasked");
}

proptest! {
    #[test]
    fn taking_exif_out_never_panics_and_never_grows(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = [&[0xFF, 0xD8, 0xFF, 0xE1][..], &bytes].concat();
        if let Some(stripped) = exif::strip(&bytes) {
            prop_assert!(stripped.len() < bytes.len());
        }
    }
}

/// Every image of the references, each a sample.
fn all_references(place: &Place) -> (String, usize) {
    let entries = fs::read_dir(crate::reference().join("images")).unwrap().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    paths.retain(|path| ["jpg", "png", "webp", "gif", "bmp", "tif"].iter().any(|end| at(path).ends_with(end)));
    paths.sort();
    // A key of its own for each, whatever names they share.
    let name = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().replace('.', "_");
        format!("{name}.{}", path.extension().unwrap().to_str().unwrap())
    };
    let all: Members = paths.iter().map(|path| (name(path), fs::read(path).unwrap())).collect();
    assert!(all.len() > 20, "{all:?}");
    (place.write("in/refs.tar", &all), all.len())
}

#[test]
fn images_that_are_checked_are_those_that_can_be_decoded() {
    let place = Place::new();
    let (shard, count) = all_references(&place);
    let shards = [shard];
    let made = |out: &str, treatment: Treatment| {
        let account = reshard(&Reshard { treatment, ..place.copied(&shards, out) }, &mut |_| {}).unwrap();
        assert_eq!(account.samples_in, count as u64);
        assert_eq!(account.samples_in, account.samples_out + account.dropped.values().sum::<u64>());
        let dropped: BTreeSet<String> = place.dropped(out).into_iter().map(|line| line.key).collect();
        dropped
    };
    let decoded = made("decoded", Treatment { image: ImageForm::Decoded(Fit::MaxSide(64)), ..Treatment::default() });
    let checked = made("checked", Treatment { check_images: true, ..Treatment::default() });
    let copied = made("copied", Treatment::default());
    assert_eq!(checked, decoded);
    assert!(copied.is_subset(&checked) && copied.contains("truncated_half_jpg"), "{copied:?} of {checked:?}");
    let before: BTreeSet<_> = members(&PathBuf::from(&shards[0])).into_iter().collect();
    let after: BTreeSet<_> = members(&place.path("checked/refs.tar")).into_iter().collect();
    assert!(after.is_subset(&before) && after.len() == count - checked.len());
    assert!(after.len() > lossless().len());
}
