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
fn with_a_number_of_classes_every_sample_needs_a_label() {
    let folder = temporary();
    let shard = write(&folder.path().join("a.tar"), &[("a.jpg", &image("grey.jpg")), ("b.jpg", &image("grey.jpg"))]);
    assert!(problems(&verified(at(&shard), &[], 0), 0).is_empty());
    let report = verified(at(&shard), &["--classes", "10"], 1);
    assert_eq!(problems(&report, 0), BTreeMap::from([("no_label ".to_owned(), json!([2, ["a", "b"]]))]));
}

/// What a report says of files that are no shards to be read: name and kind.
fn beside(report: &Value) -> Vec<[String; 2]> {
    let all = report["shards"].as_array().unwrap().iter();
    let told = all.filter(|shard| !shard["problems"].as_array().unwrap().is_empty()).map(|shard| {
        let name = Path::new(shard["shard"].as_str().unwrap()).file_name().unwrap().to_str().unwrap();
        [name, shard["problems"][0]["kind"].as_str().unwrap()].map(str::to_owned)
    });
    told.collect()
}

#[test]
fn shards_that_are_listed_and_gone_are_missed_unless_others_were_left_out_on_purpose() {
    let folder = temporary();
    let path = |name: &str| folder.path().join(name);
    let mut list = String::new();
    for name in ["train-0.tar", "train-1.tar", "train-2.tar", "validation-0.tar"] {
        let shard = write(&path(name), &[(&format!("{name}/x.jpg"), &image("grey.jpg"))]);
        let digest = Sha256::digest(fs::read(shard).unwrap());
        let sum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        list += &format!("{sum}  {name}\n");
    }
    fs::write(path("SHA256SUMS"), list).unwrap();
    let check = |pattern: &str, more: &[&str], code: i32, expected: &[&str]| {
        let report = verified(at(&path(pattern)), more, code);
        let expected: Vec<_> = expected.iter().map(|name| [*name, "missing"].map(str::to_owned)).collect();
        assert_eq!(beside(&report), expected, "{pattern}");
        assert_eq!(report["problems"], expected.len());
    };
    check("*.tar", &[], 0, &[]);
    for name in ["train-1.tar", "validation-0.tar"] {
        fs::remove_file(path(name)).unwrap();
    }
    check("train-*.tar", &[], 1, &["train-1.tar"]);
    check("*.tar", &["--quick"], 1, &["train-1.tar"]);
    check("train-{0..2..2}.tar", &[], 1, &["train-1.tar"]);
    check("train-2.tar", &[], 0, &[]);
    let said = finish(&mut saccade(&["shards", "verify", at(&path("train-*.tar"))]), 1);
    assert!(said.out.contains("train-1.tar: 1 x shard that SHA256SUMS lists and that is not there"), "{}", said.out);
    assert!(said.out.contains("2 shards, 2 samples, "), "{}", said.out);
}

#[test]
fn a_set_that_was_not_finished_is_a_problem() {
    let folder = temporary();
    let path = |name: &str| folder.path().join(name);
    for name in ["train-000000.tar", "train-000001.tar", "kept-0003.tar", "kept-0004.tar"] {
        write(&path(name), &[(&format!("{name}/x.jpg"), &image("grey.jpg"))]);
    }
    let check = |pattern: &str, expected: &[&str]| {
        let report = verified(at(&path(pattern)), &[], i32::from(!expected.is_empty()));
        let expected: Vec<_> = expected.iter().map(|name| [*name, "unfinished"].map(str::to_owned)).collect();
        assert_eq!(beside(&report), expected, "{pattern}");
    };
    check("*.tar", &[]);
    // One set by its name, shards that keep theirs by the first of them.
    for name in ["train.unfinished.jsonl", "kept-0003.unfinished.jsonl"] {
        fs::write(path(name), "").unwrap();
    }
    check("*.tar", &["kept-0003.unfinished.jsonl", "train.unfinished.jsonl"]);
    check("train-000001.tar", &["train.unfinished.jsonl"]);
    check("kept-*.tar", &["kept-0003.unfinished.jsonl"]);
    check("kept-0004.tar", &[]);
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
