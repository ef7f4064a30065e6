//! `eval` and `embed` as users run them: scores that add up, files that hold what they say, bad input refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::report::unbalanced;
use crate::saccade::{at, finish, saccade, small, temporary};

const QUICKSTART: &str = "pipelines/quickstart.toml";

/// A small run, made once for all tests.
pub fn run() -> PathBuf {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    let made = || {
        let folder = temporary();
        let out = folder.path().join("run");
        finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&out)]), &["train.epochs=0.2"]), 0);
        folder
    };
    RUN.get_or_init(made).path().join("run")
}

/// The shape, and the numbers, of a `.npy` file of little-endian numbers.
fn npy<const BYTES: usize, T>(path: &Path, kind: &str, number: fn([u8; BYTES]) -> T) -> (String, Vec<T>) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((10 + length) % 64, 0, "NumPy aligns the numbers");
    let header = String::from_utf8(bytes[10..10 + length].to_vec()).unwrap();
    assert!(header.contains(&format!("'descr': '{kind}'")) && header.ends_with('\n'), "{header}");
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0.to_owned();
    let (numbers, rest) = bytes[10 + length..].as_chunks::<BYTES>();
    assert!(rest.is_empty());
    (shape, numbers.iter().map(|bytes| number(*bytes)).collect())
}

#[test]
fn embed_writes_a_row_a_sample_and_never_over_another() {
    let folder = temporary();
    let out = folder.path().join("features");
    finish(&mut saccade(&["embed", at(&run()), "--out", at(&out)]), 0);
    let (shape, features) = npy(&out.join("features.npy"), "<f4", f32::from_le_bytes);
    assert_eq!((shape.as_str(), features.len()), ("1200, 16", 1200 * 16));
    assert!(features.iter().all(|value| value.is_finite()) && features[..16] != features[16..32]);
    let (shape, labels) = npy(&out.join("labels.npy"), "<i8", i64::from_le_bytes);
    assert_eq!((shape.as_str(), labels.len()), ("1200,", 1200));
    assert!(labels.iter().all(|label| (0..10).contains(label)));
    let keys: Vec<String> = serde_json::from_slice(&fs::read(out.join("keys.json")).unwrap()).unwrap();
    assert_eq!(keys.len(), 1200);
    let said = finish(&mut saccade(&["embed", at(&run()), "--out", at(&out)]), 1);
    assert!(said.err.contains("features.npy") && said.err.contains("--out"), "{}", said.err);
    // Another split, and a part of it.
    let some = folder.path().join("some");
    finish(&mut saccade(&["embed", at(&run()), "--split", "train", "--samples", "500", "--out", at(&some)]), 0);
    assert_eq!(npy(&some.join("features.npy"), "<f4", f32::from_le_bytes).0, "500, 16");
}

#[test]
fn eval_prints_its_splits_and_leaves_its_scores() {
    let folder = temporary();
    let picture = folder.path().join("neighbours.png");
    let run = run();
    let mut eval = saccade(&["eval", at(&run), "--train-samples", "2000", "--k", "1,20", "--neighbours", at(&picture)]);
    let said = finish(&mut eval, 0);
    for words in ["fitted to   2,000 samples of shards/fashion-train", "scored on   1,200 samples of shards/fashion-v"]
    {
        assert!(said.out.contains(words), "no \"{words}\" in:\n{}", said.out);
    }
    let scores: Value = serde_json::from_slice(&fs::read(run.join("eval.json")).unwrap()).unwrap();
    assert_eq!(scores["knn"].as_array().unwrap().len(), 8, "two measures, two k, two kinds of votes");
    for score in scores["knn"].as_array().unwrap() {
        let share = score["accuracy"].as_f64().unwrap();
        assert!((0.2..0.95).contains(&share), "{score}: ten classes give a tenth by chance");
    }
    let probe = &scores["probe"];
    assert!((0.2..0.95).contains(&probe["top1"].as_f64().unwrap()), "{probe}");
    assert!(probe["top5"].as_f64() > probe["top1"].as_f64(), "{probe}");
    assert!((1.0..=16.0).contains(&scores["rankme"].as_f64().unwrap()), "{}", scores["rankme"]);
    // Ten rows of nine images.
    let drawn = image::open(&picture).unwrap();
    assert_eq!((drawn.width(), drawn.height()), (9 * 74 + 12, 10 * 74 + 4));
}

#[test]
fn umap_draws_a_point_a_sample_and_names_the_labels() {
    let folder = temporary();
    let [run, names] = [run(), folder.path().join("names.txt")];
    fs::write(&names, "shirts & tops\n").unwrap();
    let [svg, page] = ["plane.svg", "plane.html"].map(|name| folder.path().join(name));
    for out in [&svg, &page] {
        let umap = ["umap", at(&run), "--samples", "300", "--names", at(&names), "--out", at(out)];
        finish(&mut saccade(&umap), 0);
    }
    let [svg, page] = [svg, page].map(|path| fs::read_to_string(path).unwrap());
    // The file has a dot beside each of the ten labels too, of which one has a name; the page lists them.
    assert_eq!((svg.matches("<circle").count(), page.matches("<circle").count()), (310, 300));
    assert!(svg.contains(">shirts &amp; tops</text>") && svg.contains(">9</text>"), "{svg}");
    assert!(page.contains("<span>shirts &amp; tops</span>") && page.contains("<span>9</span>"), "{page}");
    assert_eq!((svg.matches("<title>").count(), page.matches("<title>").count()), (1, 301), "what hovering shows");
    assert_eq!(unbalanced(&page), None);
    // As pixels: a dot's colour at its place, and ink where the title is.
    let png = folder.path().join("plane.png");
    finish(&mut saccade(&["umap", at(&run), "--samples", "300", "--names", at(&names), "--out", at(&png)]), 0);
    let drawn = image::open(&png).unwrap().into_rgb8();
    let place = |text: &str, name: &str| -> f64 {
        text.split_once(&format!("{name}=\"")).unwrap().1.split_once('"').unwrap().0.parse().unwrap()
    };
    let mut hit = 0;
    for dot in svg.split("<circle ").skip(1).take(300) {
        let [x, y] = ["cx", "cy"].map(|name| (1.5 * place(dot, name)) as u32);
        hit += usize::from(drawn.get_pixel(x, y).0 != [255, 255, 255]);
    }
    assert_eq!(hit, 300, "a dot of the SVG has nothing at its place in the PNG");
    let has_ink = |x: u32, y: u32| drawn.get_pixel(x, y).0 == [34, 34, 34];
    assert!((0..30).any(|y| (0..400).any(|x| has_ink(x, y))), "there is no title");
    // The same seed, the same drawing.
    let points = |text: &str| text.split("<circle ").skip(1).take(300).map(|dot| place(dot, "cx")).collect();
    let [first, second]: [Vec<f64>; 2] = [points(&svg), points(&page)];
    assert_eq!(first, second);
}

#[test]
fn what_cannot_be_scored_is_refused_with_the_mend() {
    let folder = temporary();
    let [run, empty, folder_svg] = [run(), folder.path().to_owned(), folder.path().join("plane.svg")];
    fs::create_dir(&folder_svg).unwrap();
    let cases: [(&[&str], &[&str]); 9] = [
        (&["umap", at(&run), "--out", "plane.jpg"], &["plane.jpg", ".svg", ".png"]),
        (&["umap", at(&run), "--neighbours", "1", "--out", "plane.svg"], &["1 neighbours"]),
        // Before the samples are missed: where the drawing cannot go is said first.
        (
            &["umap", at(&run), "--set", "data.validation=gone.tar", "--out", "nowhere/plane.svg"],
            &["nowhere/plane.svg"],
        ),
        (&["umap", at(&run), "--set", "data.validation=gone.tar", "--out", at(&folder_svg)], &["is a folder"]),
        (&["eval", at(&run), "--set", "data.validation=gone.tar", "--neighbours", "nowhere/x.png"], &["nowhere/x.png"]),
        (&["eval", at(&empty)], &["run"]),
        (&["eval", at(&run), "--pooling", "last-four"], &["--pooling"]),
        (&["eval", at(&run), "--set", "data.validation=[]"], &["data.validation"]),
        (&["embed", at(&run), "--out", "/proc/nowhere"], &["/proc/nowhere", "--out"]),
    ];
    for (arguments, words) in cases {
        let said = finish(&mut saccade(arguments), 1);
        assert_eq!(said.err.trim_end().lines().count(), 1, "{arguments:?}: {}", said.err);
        for word in words {
            assert!(said.err.contains(word), "{arguments:?}: no \"{word}\" in: {}", said.err);
        }
    }
    for arguments in [["eval", at(&run), "--k", "0"], ["eval", at(&run), "--train-samples", "many"]] {
        finish(&mut saccade(&arguments), 2);
    }
}
