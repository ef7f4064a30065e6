//! Rows of parquet files, as Hugging Face's `datasets` writes them (tests/data/make-parquet.py).

use std::fs;

use serde_json::json;

use super::scripts::{run, script};
use super::{Place, image, shards};
use crate::saccade::{at, finish, root, saccade};

fn file() -> Vec<u8> {
    fs::read(root().join("tests/data/images.parquet")).unwrap()
}

#[test]
fn rows_become_samples_with_the_labels_and_class_names_of_the_set() {
    let place = Place::new();
    place.write("data/train-00000-of-00002.parquet", file());
    place.write("data/train-00001-of-00002.parquet", file());
    let account = place.import("data", "out", &["--name", "train"]);
    assert_eq!((&account["kind"], &account["classes"]), (&json!("parquet"), &json!(3)));
    assert_eq!(account["dropped"], json!({ "empty": 2, "unknown_format": 2 }));
    let rows = [(0, 2), (1, 0), (2, 1), (4, 2)];
    let expected: Vec<_> = (0..2)
        .flat_map(|file| rows.map(|(row, label)| (format!("train-0000{file}-of-00002-{row:06}"), Some(label))))
        .collect();
    assert_eq!(place.labels("out"), expected);
    assert!(place.samples("out")[1].image == image("cmyk.jpg"));
    assert_eq!(fs::read_to_string(place.path("out/train-classes.txt")).unwrap(), "ant\nbee\ncat\n");

    place.write("two.txt", "cat\nant\n");
    let account = place.import("data", "two", &["--classes", at(&place.path("two.txt"))]);
    assert_eq!(account["passed_over"], json!({ "other_class": 4 }));
    assert!(place.labels("two").iter().all(|(_, label)| label.is_some_and(|label| label < 2)));
    let mut parts = Vec::new();
    for part in 0..2 {
        let out = format!("part-{part}");
        place.import("data", &out, &["--part", &format!("{part}/2")]);
        parts.extend(place.labels(&out));
    }
    parts.sort();
    let mut all = expected;
    all.sort();
    assert_eq!(parts, all);
}

#[test]
fn splits_become_sets_that_are_sound_and_train_with_labels_or_without() {
    let place = Place::new();
    // Four samples in each.
    for number in 0..16 {
        place.write(&format!("in/train-{number:05}-of-00016.parquet"), file());
    }
    let unlabelled = fs::read(root().join("tests/data/unlabelled.parquet")).unwrap();
    place.write("in/test-00000-of-00001.parquet", unlabelled);
    let (from, out) = (place.path("in"), place.path("out"));
    run(&mut script("reshard-parquet", &[at(&from), at(&out), "--samples", "30"]), 0);
    let labels: Vec<_> = place.samples("out").iter().map(|sample| sample.label).collect();
    let train = [2, 0, 1, 2].map(Some).repeat(16);
    assert_eq!(labels, [vec![None; 2], train].concat());
    let again = run(&mut script("reshard-parquet", &[at(&from), at(&out), "--samples", "30"]), 0);
    assert_eq!(again.matches("there already").count(), 2, "{again}");
    for shard in shards(&out).iter().filter(|shard| at(shard).contains("test-")) {
        fs::remove_file(shard).unwrap();
    }
    place.trains("out");
}

#[test]
fn damaged_files_and_other_columns_get_one_line() {
    let place = Place::new();
    let whole = file();
    let refused = |name: &str, more: &[&str], words: &str| {
        let (from, out) = (place.path(name), place.path("out"));
        let said = finish(saccade(&["shards", "import", at(&from), "--out", at(&out)]).args(more), 1);
        assert!(said.err.contains(words), "{name}: {}", said.err);
    };
    place.write("cut.parquet", &whole[..whole.len() / 2]);
    refused("cut.parquet", &[], "cut.parquet: damaged parquet");
    place.write("text.parquet", "no parquet at all");
    refused("text.parquet", &[], "text.parquet: damaged parquet");
    // The name of the column, in the footer.
    let renamed = String::from_utf8_lossy(&whole[whole.len() - 4_000..]).matches("image").count();
    assert!(renamed > 0);
    let mut other = whole.clone();
    while let Some(at) = other.windows(5).rposition(|window| window == b"image") {
        other[at..at + 5].copy_from_slice(b"photo");
    }
    place.write("other.parquet", other);
    refused("other.parquet", &[], "has no column `image`");
    place.write("alike/a.b.parquet", &whole);
    place.write("alike/a_b.parquet", &whole);
    refused("alike", &[], "a_b.parquet: its rows would have the keys of those of");
    place.write("whole.parquet", whole);
    refused("whole.parquet", &["--shuffle", "1"], "leave --shuffle out");
}
