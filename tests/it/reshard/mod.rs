//! Shards of decoded images: the pixels, the samples left out, the same bytes for any number of workers.

// Order, filters, splits; images as JPEGs; kills, full disks and sources that change.
mod images;
mod orders;
mod stops;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, RgbImage, imageops};
use proptest::prelude::*;
use saccade::pipeline::shrink::{Fit, FitError};
use saccade::run::reshard::pick::Pick;
use saccade::run::reshard::treat::{ImageForm, Treatment};
use saccade::run::reshard::{Account, Event, Layout, Reshard, reshard};
use saccade::shard::ShardSet;
use saccade::shard::write::Dropped;
use serde_json::Value;
use tempfile::TempDir;

use crate::saccade::{at, finish, root, saccade, temporary};

type Members = Vec<(String, Vec<u8>)>;

/// Folders for shards to read and shards to write.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: temporary() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, members: &Members) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        for (name, data) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, name, data.as_slice()).unwrap();
        }
        tar.finish().unwrap();
        at(&path).to_owned()
    }

    /// Reshards into the folder `out`.
    fn make(&self, shards: &[String], out: &str, fit: Fit, workers: usize) -> anyhow::Result<Account> {
        reshard(&Reshard { workers, ..self.decoded(shards, out, fit) }, &mut |_| {})
    }

    fn decoded(&self, shards: &[String], out: &str, fit: Fit) -> Reshard {
        let treatment = Treatment { image: ImageForm::Decoded(fit), ..Treatment::default() };
        Reshard { treatment, ..self.copied(shards, out) }
    }

    /// Everything as it is.
    fn copied(&self, shards: &[String], out: &str) -> Reshard {
        Reshard {
            shards: shards.to_vec(),
            out: self.path(out),
            layout: Layout::default(),
            pick: Pick::default(),
            treatment: Treatment::default(),
            workers: 2,
            memory: None,
            force: false,
        }
    }

    /// Names in a folder, but for those of indexes.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with(".index"));
        names.sort();
        names
    }

    fn dropped(&self, out: &str) -> Vec<Dropped> {
        let text = fs::read_to_string(self.path(out).join("dropped.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Names and data as the `tar` crate reads them.
fn members(path: &Path) -> Members {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let read = |entry: std::io::Result<tar::Entry<File>>| {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), data)
    };
    archive.entries().unwrap().map(read).collect()
}

fn pixels(data: &[u8]) -> RgbImage {
    image::load_from_memory_with_format(data, ImageFormat::Pnm).unwrap().to_rgb8()
}

fn png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(image.clone()).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// The lossless pictures among the references: name and bytes.
fn lossless() -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(crate::reference().join("images")).unwrap().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| at(path).ends_with(".expected.png")).collect();
    paths.sort();
    assert!(paths.len() > 8, "{paths:?}");
    let key = |path: &Path| path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned();
    paths.iter().map(|path| (key(path), fs::read(path).unwrap())).collect()
}

/// A picture with edges, gradients and noise.
fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let noise = (x * 7919 + y * 104_729 + seed * 31).wrapping_mul(2_654_435_761) >> 24;
        let edge = if (x / 9 + y / 7) % 2 == 0 { 200 } else { 30 };
        image::Rgb([(x * 255 / width) as u8, edge, noise as u8])
    })
}

#[test]
fn images_no_larger_than_wanted_keep_every_pixel() {
    let place = Place::new();
    let all = lossless();
    let shard = place.write("in/a.tar", &all.iter().map(|(key, png)| (format!("{key}.png"), png.clone())).collect());
    for (out, fit) in [("max", Fit::MaxSide(64)), ("short", Fit::ShortSide(48))] {
        let account = place.make(std::slice::from_ref(&shard), out, fit, 2).unwrap();
        assert_eq!((account.samples_out, account.changed), (all.len() as u64, 0));
        let written = members(&place.path(out).join("a.tar"));
        assert_eq!(written.len(), all.len());
        for ((name, data), (key, png)) in written.iter().zip(&all) {
            let expected = image::load_from_memory(png).unwrap().to_rgb8();
            assert_eq!(*name, format!("{key}.ppm"));
            assert!(data.starts_with(format!("P6\n{} {}\n255\n", expected.width(), expected.height()).as_bytes()));
            assert!(pixels(data) == expected, "{key} changed");
        }
    }
}

#[test]
fn larger_images_are_shrunk_as_by_an_independent_antialiased_filter() {
    let place = Place::new();
    let mut all: Vec<(String, RgbImage)> =
        lossless().into_iter().map(|(key, png)| (key, image::load_from_memory(&png).unwrap().to_rgb8())).collect();
    all.push(("wide".into(), picture(300, 40, 1)));
    all.push(("tall".into(), picture(33, 201, 2)));
    let shard = place.write("in/a.tar", &all.iter().map(|(key, image)| (format!("{key}.png"), png(image))).collect());
    let account = place.make(&[shard], "out", Fit::MaxSide(31), 2).unwrap();
    // The two that are not larger are of 17x9 and 1x1 pixels.
    assert_eq!(account.changed, all.len() as u64 - 2);
    for ((key, image), (_, data)) in all.iter().zip(members(&place.path("out/a.tar"))) {
        let found = pixels(&data);
        let (width, height) = Fit::MaxSide(31).size(image.width(), image.height());
        assert_eq!(found.dimensions(), (width, height), "{key}");
        let expected = imageops::resize(image, width, height, FilterType::Triangle);
        let most = found.iter().zip(expected.iter()).map(|(one, other)| one.abs_diff(*other)).max();
        // Two passes that each round to a level, in either order.
        assert!(most <= Some(2), "{key}: differs by {most:?} levels");
    }
}

/// Two shards of sound and damaged samples with their labels.
fn mixed(place: &Place) -> Vec<String> {
    let jpeg = |name: &str| fs::read(crate::reference().join("images").join(name)).unwrap();
    let first = (0..40).flat_map(|number| {
        let image = png(&picture(40 + number * 7, 90, number));
        [(format!("k{number:03}.png"), image), (format!("k{number:03}.cls"), number.to_string().into_bytes())]
    });
    let second = [
        ("half.jpg", jpeg("truncated_half.jpg")),
        ("half.cls", b"3".to_vec()),
        ("empty.jpg", Vec::new()),
        ("text.jpg", jpeg("text.jpg")),
        ("label.cls", b"3".to_vec()),
        ("bomb.png", jpeg("bomb_60000x60000.png")),
        ("good.json", b"{\"caption\": 1}".to_vec()),
        ("good.jpg", jpeg("baseline_420.jpg")),
        ("good.txt", b"words".to_vec()),
        ("good.cls", b" 9\n".to_vec()),
        ("good.mask.png", png(&picture(8, 8, 1))),
    ];
    let second = second.map(|(name, data)| (name.to_owned(), data)).to_vec();
    vec![place.write("in/one.tar", &first.collect()), place.write("in/two.tar", &second)]
}

#[test]
fn output_is_the_same_for_any_number_of_workers() {
    let place = Place::new();
    let shards = mixed(&place);
    let (fit, files) = (Fit::ShortSide(50), ["one.tar", "two.tar", "dropped.jsonl"]);
    let expected = place.make(&shards, "w1", fit, 1).unwrap();
    for (workers, out) in [(2, "w2"), (3, "w3"), (7, "w7")] {
        let account = place.make(&shards, out, fit, workers).unwrap();
        let found = [&account, &expected].map(|account| {
            let Account { samples_in, samples_out, bytes_out, changed, dropped, .. } = account;
            (samples_in, samples_out, bytes_out, changed, dropped)
        });
        assert_eq!(found[0], found[1], "{workers} workers");
        for file in files {
            let read = |out: &str| fs::read(place.path(out).join(file)).unwrap();
            assert!(read(out) == read("w1"), "{workers} workers: {file} differs");
        }
    }
}

#[test]
fn damaged_samples_are_listed_and_counted_and_the_sums_add_up() {
    let place = Place::new();
    let shards = mixed(&place);
    let account = place.make(&shards, "out", Fit::MaxSide(64), 3).unwrap();
    let dropped = place.dropped("out");
    let by_key: Vec<(&str, &str)> = dropped.iter().map(|line| (line.key.as_str(), line.reason.as_str())).collect();
    let half = by_key[0].1;
    assert!(["truncated", "damaged"].contains(&half), "{half}");
    let others = [("empty", "empty"), ("text", "unknown_format"), ("label", "no_image"), ("bomb", "too_large")];
    assert_eq!(by_key, [&[("half", half)], &others[..]].concat());
    assert!(dropped.iter().all(|line| at(&line.shard) == shards[1] && !line.detail.is_empty()), "{dropped:?}");
    let mut counted = BTreeMap::new();
    by_key.iter().for_each(|(_, reason)| *counted.entry((*reason).to_owned()).or_insert(0) += 1);
    assert_eq!(account.dropped, counted);

    assert_eq!((account.shards_in, account.samples_in, account.samples_out), (2, 46, 41));
    assert_eq!(account.samples_in, account.samples_out + account.dropped.values().sum::<u64>());
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert_eq!(account.bytes_in, shards.iter().map(|shard| size(Path::new(shard))).sum::<u64>());
    assert_eq!(
        account.bytes_out,
        ["out/one.tar", "out/two.tar"].map(|name| size(&place.path(name))).iter().sum::<u64>()
    );
}

#[test]
fn other_members_are_kept_and_the_set_opens() {
    let place = Place::new();
    let shards = mixed(&place);
    place.make(&shards, "out", Fit::MaxSide(64), 3).unwrap();
    let second = members(&place.path("out/two.tar"));
    let names: Vec<&str> = second.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["good.json", "good.ppm", "good.txt", "good.cls", "good.mask.png"]);
    assert_eq!((second[0].1.as_slice(), second[3].1.as_slice()), (&b"{\"caption\": 1}"[..], &b" 9\n"[..]));

    let set = ShardSet::open(&[format!("{}/*.tar", at(&place.path("out")))], true).unwrap();
    let found: Vec<(String, Option<u32>)> = (0..set.len() as u32)
        .map(|number| set.sample(number))
        .map(|sample| (sample.key.into(), sample.label))
        .collect();
    let first = (0..40).map(|number| (format!("k{number:03}"), Some(number)));
    assert_eq!(found, first.chain([("good".to_owned(), Some(9))]).collect::<Vec<_>>());
    assert!(set.complaints().is_empty());
}

#[test]
fn decoded_shards_can_be_made_of_decoded_shards() {
    let place = Place::new();
    let shards = mixed(&place);
    place.make(&shards, "a", Fit::MaxSide(64), 2).unwrap();
    let again = place.make(&[at(&place.path("a/one.tar")).to_owned()], "b", Fit::MaxSide(64), 2).unwrap();
    assert_eq!((again.samples_out, again.changed), (40, 0));
    assert!(fs::read(place.path("a/one.tar")).unwrap() == fs::read(place.path("b/one.tar")).unwrap());
}

#[test]
fn shards_without_samples_stay_shards_without_samples() {
    let place = Place::new();
    let image = [("k.png".to_owned(), png(&picture(5, 5, 1)))].to_vec();
    let shards = [("in/a.tar", Vec::new()), ("in/b.tar", image), ("in/c.tar", Vec::new())]
        .map(|(name, all)| place.write(name, &all));
    let account = place.make(&shards, "out", Fit::MaxSide(9), 2).unwrap();
    assert_eq!((account.shards_in, account.samples_out), (3, 1));
    assert!(members(&place.path("out/a.tar")).is_empty() && members(&place.path("out/c.tar")).is_empty());
}

#[test]
fn nothing_is_overwritten_unasked() {
    let place = Place::new();
    let shards = mixed(&place);
    let refused = |shards: &[String], out: &str, words: &str| {
        let error = place.make(shards, out, Fit::MaxSide(8), 2).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    fs::create_dir(place.path("out")).unwrap();
    fs::write(place.path("out/two.tar"), "mine").unwrap();
    refused(&shards, "out", "two.tar: exists already, write it again with --force");
    assert_eq!(place.names("out"), ["two.tar"], "all outputs are looked at before the first is written");
    refused(&shards, "in", "one.tar: would be written over itself");
    let namesake = place.write("other/one.tar", &Vec::new());
    refused(&[shards[0].clone(), namesake], "out", "both would become");

    let forced = Reshard { force: true, ..place.decoded(&shards, "out", Fit::MaxSide(8)) };
    for _ in 0..2 {
        let mut done = Vec::new();
        let mut note = |event: &Event| {
            if let Event::Shard(shard) = event {
                done.push((shard.samples, shard.dropped));
            }
        };
        reshard(&forced, &mut note).unwrap();
        assert_eq!(done, [(40, 0), (1, 5)]);
        assert_eq!(place.names("out"), ["SHA256SUMS", "dropped.jsonl", "one.tar", "shards.json", "two.tar"]);
        assert_eq!(place.dropped("out").len(), 5, "a shard that is made again is not listed twice");
    }
    let over_itself = Reshard { out: place.path("in"), ..forced };
    assert!(reshard(&over_itself, &mut |_| {}).unwrap_err().to_string().contains("over itself"));
}

#[test]
fn the_list_of_a_folder_holds_what_other_calls_left_out() {
    let place = Place::new();
    let shards = mixed(&place);
    let bad = place
        .write("in/three.tar", &vec![("bad.jpg".into(), b"no".to_vec()), ("ok.png".into(), png(&picture(4, 4, 1)))]);
    place.make(&[bad], "out", Fit::MaxSide(8), 1).unwrap();
    // As a process leaves it that was killed while it wrote.
    let list = place.path("out/dropped.jsonl");
    fs::write(&list, fs::read_to_string(&list).unwrap() + "{\"key\": \"un").unwrap();
    place.make(&shards[1..], "out", Fit::MaxSide(8), 1).unwrap();
    let keys: Vec<String> = place.dropped("out").into_iter().map(|line| line.key).collect();
    assert_eq!(keys, ["bad", "half", "empty", "text", "label", "bomb"]);
}

#[test]
fn failures_leave_no_half_shards() {
    let place = Place::new();
    let shards = mixed(&place);
    let damaged = at(&crate::reference().join("tars/truncated_in_data.tar")).to_owned();
    assert!(place.make(&[shards[0].clone(), damaged], "out", Fit::MaxSide(8), 2).is_err());
    assert!(!place.path("out").exists(), "shards are looked at before the folder is made");
    let bad = place.write("in/bad.tar", &vec![("bad.jpg".into(), b"no".to_vec())]);
    let error = place.make(&[bad], "bad", Fit::MaxSide(8), 2).unwrap_err().to_string();
    assert!(error.contains("no sample of 1 could be taken over") && error.contains("dropped.jsonl"), "{error}");
    let empty = place.write("in/empty.tar", &Vec::new());
    let error = place.make(&[empty], "empty", Fit::MaxSide(8), 2).unwrap_err().to_string();
    assert!(error.contains("no samples in 1 shards") && !place.path("empty").exists(), "{error}");
    fs::write(place.path("file"), "").unwrap();
    assert!(place.make(&shards, "file", Fit::MaxSide(8), 2).is_err());
}

#[test]
fn fits_are_read_as_they_are_written() {
    assert_eq!("max-side=256".parse(), Ok(Fit::MaxSide(256)));
    assert_eq!("short-side=1".parse(), Ok(Fit::ShortSide(1)));
    for text in ["max-side", "area=3", "=3", "", "Max-Side=3", "max-side:3"] {
        assert_eq!(text.parse::<Fit>(), Err(FitError::Kind), "{text}");
    }
    for text in ["max-side=", "max-side=0", "max-side=-1", "short-side=65536", "max-side=2.5", "max-side=99999999999"] {
        assert_eq!(text.parse::<Fit>(), Err(FitError::Side), "{text}");
    }
}

#[test]
fn sizes_are_rounded_to_the_nearest_pixel() {
    assert_eq!(Fit::MaxSide(256).size(452, 386), (256, 219));
    assert_eq!(Fit::ShortSide(256).size(500, 375), (341, 256));
    assert_eq!(Fit::MaxSide(2).size(4, 1), (2, 1));
    assert_eq!(Fit::MaxSide(10).size(65_535, 1), (10, 1));
}

proptest! {
    #[test]
    fn a_fit_never_enlarges_and_keeps_the_ratio(width in 1u32..70_000, height in 1u32..70_000, most in 1u32..65_536) {
        for fit in [Fit::MaxSide(most), Fit::ShortSide(most)] {
            let (found_width, found_height) = fit.size(width, height);
            prop_assert!((1..=width).contains(&found_width) && (1..=height).contains(&found_height));
            let side = |width: u32, height: u32| match fit {
                Fit::MaxSide(_) => width.max(height),
                Fit::ShortSide(_) => width.min(height),
            };
            prop_assert_eq!(side(found_width, found_height), side(width, height).min(most));
            let scale = f64::from(side(found_width, found_height)) / f64::from(side(width, height));
            for (found, before) in [(found_width, width), (found_height, height)] {
                let exact = f64::from(before) * scale;
                prop_assert!((f64::from(found) - exact).abs() <= 0.5 + 1e-6 || (found == 1 && exact < 1.0));
            }
        }
    }
}

const SHARDS: &str = "shards/fashion-validation-{000000..000001}.tar";

#[test]
fn wrong_usage_exits_with_2() {
    let cases: [(&[&str], &str); 14] = [
        (&["--decode", "max-side=0", "--out", "x", SHARDS], "from 1 to 65535"),
        (&["--decode", "area=9", "--out", "x", SHARDS], "max-side=N or short-side=N"),
        (&["--decode", "max-side", "--out", "x", SHARDS], "max-side=N or short-side=N"),
        (&["--decode", "max-side=8", SHARDS], "--out"),
        (&["--decode", "max-side=8", "--jpeg", "max-side=8", "--out", "x", SHARDS], "--jpeg"),
        (&["--quality", "90", "--out", "x", SHARDS], "--jpeg"),
        (&["--jpeg", "max-side=8", "--quality", "0", "--out", "x", SHARDS], "--quality"),
        (&["--size", "3 parsecs", "--out", "x", SHARDS], "500MB"),
        (&["--held-out", "1.5", "--out", "x", SHARDS], "between 0 and 1"),
        (&["--classes", "9-3", "--out", "x", SHARDS], "0,5-9"),
        (&["--samples", "0", "--out", "x", SHARDS], "--samples"),
        (&["--decode", "max-side=8", "--out", "x"], "SHARDS"),
        (&["--decode", "max-side=8", "--out", "x", "--workers", "0", SHARDS], "--workers"),
        (&["--decode", "max-side=8", "--out", "x", "--workers", "99999", SHARDS], "--workers"),
    ];
    for (arguments, word) in cases {
        let said = finish(saccade(&["shards", "reshard"]).args(arguments), 2);
        assert!(said.err.contains(word), "{arguments:?}: no \"{word}\" in: {}", said.err);
        assert!(!root().join("x").exists());
    }
}

#[test]
fn the_verb_says_what_it_did_and_refuses_to_do_it_twice() {
    let place = Place::new();
    let out = place.path("out");
    let verb = |more: &[&str]| {
        let mut command = saccade(&["shards", "reshard", "--decode", "max-side=20", SHARDS, "--out", at(&out)]);
        command.args(more);
        command
    };
    let account: Value = serde_json::from_str(&finish(&mut verb(&["--json", "--workers", "2"]), 0).out).unwrap();
    assert_eq!((&account["samples_in"], &account["samples_out"]), (&1200.into(), &1200.into()));
    assert_eq!(account["changed"], 1200);
    assert!(account["seconds"].as_f64().unwrap() > 0.0 && account["samples_per_second"].as_f64().unwrap() > 0.0);
    let again = finish(&mut verb(&[]), 1);
    assert!(again.err.contains("fashion-validation-000000.tar: exists already"), "{}", again.err);
    assert_eq!(again.err.trim_end().lines().count(), 1, "{}", again.err);
    let forced = finish(&mut verb(&["--force"]), 0);
    for words in ["2 shards, 1,200 samples", "1,200 of them with a changed image", "0 left out", "samples/s"] {
        assert!(forced.out.contains(words), "no \"{words}\" in: {}", forced.out);
    }
    finish(&mut saccade(&["shards", "verify", &format!("{}/*.tar", at(&out))]), 0);
    let help = finish(&mut saccade(&["shards", "reshard", "--help"]), 0);
    assert!(help.out.contains("Examples") && help.out.contains("--decode max-side=256"), "{}", help.out);
}

#[cfg(not(feature = "remote"))]
#[test]
fn a_build_that_knows_no_addresses_says_how_to_get_one_that_does() {
    for arguments in [["s3://bucket/a.tar", "--out", "x"], [SHARDS, "--out", "gs://bucket/x"]] {
        let said = finish(saccade(&["shards", "reshard"]).args(arguments), 1);
        assert!(said.err.contains("bucket") && said.err.contains("--features remote"), "{}", said.err);
        assert!(!root().join("x").exists() && !root().join("gs:").exists());
    }
}
