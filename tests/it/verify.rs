//! `shards verify` to the last pixel: checksums, images, labels; and what it says of sets that are sound.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::saccade::{at, finish, saccade, temporary};

fn image(name: &str) -> Vec<u8> {
    fs::read(crate::reference().join("images").join(name)).unwrap()
}

fn write(path: &Path, files: &[(&str, &[u8])]) -> PathBuf {
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    for (name, data) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, *data).unwrap();
    }
    tar.finish().unwrap();
    path.to_owned()
}

fn verified(shards: &str, more: &[&str], code: i32) -> Value {
    let said = finish(saccade(&["shards", "verify", shards, "--json"]).args(more), code);
    serde_json::from_str(&said.out).unwrap()
}

/// Kind and detail to count and keys of a shard's problems.
fn problems(report: &Value, shard: usize) -> BTreeMap<String, Value> {
    let all = report["shards"][shard]["problems"].as_array().unwrap();
    let name =
        |problem: &Value| [&problem["kind"], &problem["detail"]].map(|part| part.as_str().unwrap_or("").to_owned());
    all.iter().map(|problem| (name(problem).join(" "), json!([problem["count"], problem["keys"]]))).collect()
}

#[test]
fn images_that_do_not_decode_are_told_by_reason() {
    let folder = temporary();
    let [good, cmyk, half, text] = ["baseline_420.jpg", "cmyk.jpg", "truncated_half.jpg", "text.jpg"].map(image);
    let shard = write(
        &folder.path().join("a.tar"),
        &[
            ("good.jpg", &good),
            ("cmyk.jpg", &cmyk),
            ("half.jpg", &half),
            ("half-too.jpg", &half),
            ("text.jpg", &text),
            ("none.jpg", b""),
        ],
    );
    let report = verified(at(&shard), &[], 1);
    let expected = BTreeMap::from([
        ("bad_image truncated".to_owned(), json!([2, ["half", "half-too"]])),
        ("bad_image unknown_format".to_owned(), json!([1, ["text"]])),
        ("empty_image ".to_owned(), json!([1, ["none"]])),
    ]);
    assert_eq!(problems(&report, 0), expected);
    assert_eq!((&report["images_decoded"], &report["problems"]), (&json!(5), &json!(4)));
    assert!(report["seconds"].as_f64().unwrap() > 0.0 && report["megabytes_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(problems(&verified(at(&shard), &["--quick"], 1), 0).len(), 1, "a walk sees the empty one alone");
    assert_eq!(problems(&verified(at(&shard), &["--workers", "3"], 1), 0), expected);
}

#[test]
fn every_byte_is_compared_with_the_checksums() {
    let folder = temporary();
    let path = |name: &str| folder.path().join(name);
    // More than is read at once, so that the sum is made of several pieces.
    let large = vec![7; 3_000_000];
    for name in ["a.tar", "b.tar"] {
        write(&path(name), &[(&format!("{name}/x.jpg"), &image("grey.jpg")), (&format!("{name}/x.bin"), &large)]);
    }
    let sum = |name: &str| {
        let digest = Sha256::digest(fs::read(path(name)).unwrap());
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    fs::write(path("SHA256SUMS"), format!("{}  a.tar\n{} *b.tar\n", sum("a.tar"), sum("b.tar").to_uppercase()))
        .unwrap();
    let all = format!("{}/*.tar", at(folder.path()));
    assert_eq!(verified(&all, &[], 0)["checksums"], 2);

    // In the padding, where neither a header nor an image is.
    let mut bytes = fs::read(path("b.tar")).unwrap();
    let last = bytes.len() - 1;
    bytes[last] = 1;
    fs::write(path("b.tar"), &bytes).unwrap();
    let report = verified(&all, &[], 1);
    assert!(problems(&report, 0).is_empty());
    let found: Vec<String> = problems(&report, 1).into_keys().collect();
    assert!(found.iter().any(|kind| kind.starts_with("wrong_checksum") && kind.contains(&sum("b.tar"))), "{found:?}");

    fs::write(path("SHA256SUMS"), format!("{}  a.tar\n", sum("a.tar"))).unwrap();
    fs::remove_file(path("b.tar")).unwrap();
    write(&path("b.tar"), &[("y.jpg", &image("grey.jpg"))]);
    let report = verified(&all, &[], 0);
    assert!(report["remarks"][0].as_str().unwrap().starts_with("1 shards are in no SHA256SUMS"), "{report}");
    fs::write(path("SHA256SUMS"), "all good\n").unwrap();
    let said = finish(&mut saccade(&["shards", "verify", &all]), 1);
    assert!(said.err.contains("SHA256SUMS: line 1 is no checksum") && said.err.lines().count() == 1, "{}", said.err);
}

#[test]
fn labels_are_judged_by_the_number_of_classes_or_their_gaps_told() {
    let folder = temporary();
    let grey = image("grey.jpg");
    let shard = write(
        &folder.path().join("a.tar"),
        &[("a.cls", b"1"), ("a.jpg", &grey), ("b.cls", b"4"), ("b.jpg", &grey), ("c.cls", b"2"), ("c.jpg", &grey)],
    );
    let report = verified(at(&shard), &[], 0);
    assert_eq!(report["remarks"], json!(["labels go up to 4, and 2 of the numbers below have no sample: 0, 3"]));
    assert_eq!(verified(at(&shard), &["--classes", "5"], 0)["remarks"], json!([]));
    let report = verified(at(&shard), &["--classes", "4"], 1);
    assert_eq!(problems(&report, 0), BTreeMap::from([("label_out_of_range 4 classes".to_owned(), json!([1, ["b"]]))]));
    let said = finish(&mut saccade(&["shards", "verify", "--classes", "3", at(&shard)]), 1);
    assert!(said.out.contains("1 x sample whose label is out of range, first b: 3 classes"), "{}", said.out);
    assert!(said.out.contains("3 images decoded, 0 checksums compared, "), "{}", said.out);
}

#[test]
fn reading_through_finds_what_a_walk_finds() {
    let tars = crate::reference().join("tars");
    let mut names: Vec<PathBuf> = fs::read_dir(&tars).unwrap().flatten().map(|entry| entry.path()).collect();
    names.retain(|path| path.extension().is_some_and(|ending| ending == "tar"));
    assert!(names.len() > 15);
    for path in names {
        let report = |more: &[&str]| {
            let mut command = saccade(&["shards", "verify", at(&path), "--json"]);
            let output = command.args(more).output().unwrap();
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let mut problems = problems(&report, 0);
            // The members of these tars are no pictures.
            problems.retain(|kind, _| !kind.starts_with("bad_image"));
            (report["samples"].clone(), problems)
        };
        assert_eq!(report(&[]), report(&["--quick"]), "{}", path.display());
    }
}
