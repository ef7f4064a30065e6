//! Sets of shards: their samples, complaints, reads, listings and reports.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;

use saccade::shard::{EpochOrder, ProblemKind, ReadError, ShardSet, Why, cache, list, reindex, verify};

use super::{Files, age, folder, no_cache, open, open_one, tar_bytes, text, write_set, write_tar};

#[test]
fn a_sample_has_the_first_image_and_a_trimmed_label() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    write_tar(
        &path,
        &[
            ("a.json", b"{}"),
            ("a.left.PNG", b"left"),
            ("a.jpg", b"right"),
            ("a.CLS", b" 12\r\n"),
            ("README", b"belongs to no sample"),
            (".hidden.jpg", b"nor does this"),
            ("dir.d/b.tiff", b"b"),
            ("dir.d/b.cls", b"4294967295"),
            ("c.webp", b"c"),
        ],
    );
    let set = open_one(&path).unwrap();
    let check = |number: u32, key: &str, label: Option<u32>, image: &[u8]| {
        let sample = set.sample(number);
        assert_eq!((sample.key, sample.label, sample.shard, sample.shard_number), (key, label, path.as_path(), 0));
        let mut bytes = b"something longer than that".to_vec();
        set.read(number, &mut bytes).unwrap();
        assert_eq!(bytes, image, "{key}");
    };
    assert_eq!((set.len(), set.complaints()), (3, &[][..]));
    check(0, "a", Some(12), b"left");
    check(1, "dir.d/b", Some(u32::MAX), b"b");
    check(2, "c", None, b"c");
}

#[test]
fn samples_that_lack_something_are_complained_about() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    let long_label = [b'1'; 65];
    write_tar(
        &path,
        &[
            ("good.jpg", b"x"),
            ("good.cls", b"1"),
            ("blind.cls", b"1"),
            ("bare.jpg", b"x"),
            ("word.jpg", b"x"),
            ("word.cls", b"shoe"),
            ("minus.jpg", b"x"),
            ("minus.cls", b"-1"),
            ("plus.jpg", b"x"),
            ("plus.cls", b"+1"),
            ("wide.jpg", b"x"),
            ("wide.cls", b"4294967296"),
            ("long.jpg", b"x"),
            ("long.cls", &long_label),
            ("empty.jpg", b"x"),
            ("empty.cls", b""),
        ],
    );
    let complaints = |need_labels: bool| {
        let set = ShardSet::open_with(&[text(&path)], need_labels, &no_cache()).unwrap();
        let complaints =
            set.complaints().iter().map(|complaint| (complaint.key.clone(), complaint.why, complaint.left_out));
        (set.len(), complaints.collect::<Vec<_>>())
    };
    let bad = ["word", "minus", "plus", "wide", "long", "empty"];
    let expected = |left_out: bool, others: &[(&str, Why)]| -> Vec<_> {
        let bad = bad.map(|key| (key.to_owned(), Why::BadLabel, left_out));
        others.iter().map(|(key, why)| ((*key).to_owned(), *why, true)).chain(bad).collect()
    };
    assert_eq!(complaints(false), (8, expected(false, &[("blind", Why::NoImage)])));
    assert_eq!(complaints(true), (1, expected(true, &[("blind", Why::NoImage), ("bare", Why::NoLabel)])));
    let set = ShardSet::open_with(&[text(&path)], true, &no_cache()).unwrap();
    assert_eq!(set.complaints()[0].to_string(), format!("{}: sample `blind`: no image", path.display()));
}

#[test]
fn a_set_without_any_sample_is_refused() {
    let folder = folder();
    let check = |files: Files, expected: &str| {
        let path = folder.path().join("s.tar");
        write_tar(&path, files);
        let error = ShardSet::open_with(&[text(&path)], true, &no_cache()).unwrap_err().to_string();
        assert_eq!(error.replace(&text(&path), "PATH"), expected);
    };
    check(&[], "no samples in 1 shards: name files `KEY.jpg` and, for a label, `KEY.cls`");
    check(&[("a.jpg", b"x")], "no sample of 1 shards can be used, the first: PATH: sample `a`: no label");
}

#[test]
fn the_same_key_may_stand_in_two_shards() {
    let folder = folder();
    for name in ["a.tar", "b.tar"] {
        write_tar(&folder.path().join(name), &[("k.jpg", name.as_bytes())]);
    }
    let set = open(&[text(&folder.path().join("{b,a}.tar"))]);
    let mut bytes = Vec::new();
    let read: Vec<_> = (0..2).map(|number| set.read(number, &mut bytes).map(|()| bytes.clone()).unwrap()).collect();
    assert_eq!(read, [b"b.tar", b"a.tar"]);
    let report = verify(&[text(&folder.path().join("{b,a}.tar"))], &no_cache()).unwrap();
    // No sample of the set has a label, so none is missing.
    assert!(report.shards[0].problems.is_empty(), "{:?}", report.shards[0].problems);
    assert_eq!(report.shards[1].problems[0].kind, ProblemKind::DuplicateKey);
    assert_eq!(report.shards[1].problems[0].detail, Some(text(&folder.path().join("b.tar"))));
}

#[test]
fn a_shard_that_changes_under_an_open_set_is_an_error_with_its_name() {
    type Change = fn(&Path);
    let files: Files = &[("a.jpg", b"first"), ("b.jpg", b"second")];
    let check = |change: Change, expected: &str| {
        for opened_before in [false, true] {
            let folder = folder();
            let path = folder.path().join("s.tar");
            write_tar(&path, files);
            age(&path, 1_000);
            let set = open_one(&path).unwrap();
            let mut bytes = Vec::new();
            if opened_before {
                set.read(1, &mut bytes).unwrap();
            }
            change(&path);
            let error = set.read(1, &mut bytes).unwrap_err().to_string();
            assert_eq!(error.replace(&text(&path), "PATH"), expected, "opened before: {opened_before}");
        }
    };
    let changed =
        "PATH: shard was cut, changed or replaced since the set was opened, start again to use it as it is now";
    check(|path| fs::remove_file(path).unwrap(), "PATH: shard is gone since the set was opened");
    check(|path| File::options().write(true).open(path).unwrap().set_len(1_600).unwrap(), changed);
    check(|path| File::options().append(true).open(path).unwrap().write_all(b"more").unwrap(), changed);
    check(|path| age(path, 2_000), changed);
    let replace: Change = |path| {
        let other = path.with_extension("new");
        write_tar(&other, &[("c.jpg", b"third")]);
        fs::rename(other, path).unwrap();
    };
    check(replace, changed);
}

#[test]
fn a_shard_cut_short_behind_its_time_is_an_error_and_never_other_bytes() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    write_tar(&path, &[("a.jpg", b"first"), ("b.jpg", b"second")]);
    age(&path, 1_000);
    let set = open_one(&path).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(1_000).unwrap();
    age(&path, 1_000);
    assert!(matches!(set.read(1, &mut Vec::new()), Err(ReadError::Changed { path: named }) if named == path));
}

#[test]
fn a_copy_with_the_same_size_and_time_takes_the_place_of_the_shard() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    write_tar(&path, &[("a.jpg", b"first")]);
    age(&path, 1_000);
    let set = open_one(&path).unwrap();
    let mut bytes = Vec::new();
    set.read(0, &mut bytes).unwrap();
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    age(&copy, 1_000);
    fs::rename(copy, &path).unwrap();
    set.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, b"first");
}

#[test]
fn reads_equal_the_images_for_more_shards_than_stay_open_and_for_many_readers() {
    let folder = folder();
    let set = open(&write_set(folder.path(), &[1; 700]));
    let order = EpochOrder::new(&set, 1, 0, 700);
    thread::scope(|scope| {
        for reader in 0..4 {
            let (set, order) = (&set, &order);
            scope.spawn(move || {
                let mut bytes = Vec::new();
                for position in (reader..set.len()).step_by(4).chain(0..set.len()) {
                    let number = order.sample(position);
                    set.read(number, &mut bytes).unwrap();
                    assert_eq!(bytes, set.sample(number).key.as_bytes());
                }
            });
        }
    });
    let open_shards =
        fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    assert!(open_shards.filter(|path| path.starts_with(folder.path())).count() <= 512 + 4);
}

#[test]
fn a_fingerprint_tells_samples_apart_but_not_folders_or_times() {
    let fingerprint = |files: Files, need_labels: bool, seconds: u64| {
        let folder = folder();
        let path = folder.path().join("s.tar");
        write_tar(&path, files);
        age(&path, seconds);
        ShardSet::open_with(&[text(&path)], need_labels, &no_cache()).unwrap().fingerprint()
    };
    let plain: Files = &[("a.jpg", b"xy"), ("a.cls", b"1"), ("b.jpg", b"xy")];
    let reference = fingerprint(plain, false, 1_000);
    assert_eq!(reference.len(), 64);
    assert_eq!(fingerprint(plain, false, 2_000), reference);
    let others = [
        fingerprint(plain, true, 1_000),
        fingerprint(&[("a.jpg", b"xy"), ("a.cls", b"2"), ("b.jpg", b"xy")], false, 1_000),
        fingerprint(&[("a.jpg", b"xy"), ("a.cls", b"1"), ("c.jpg", b"xy")], false, 1_000),
        fingerprint(&[("a.jpg", b"xy"), ("a.cls", b"1"), ("b.jpg", b"x")], false, 1_000),
        fingerprint(&[("a.cls", b"1"), ("a.jpg", b"xy"), ("b.jpg", b"xy")], false, 1_000),
    ];
    assert_eq!(others.iter().chain([&reference]).collect::<HashSet<_>>().len(), 6);
}

#[test]
fn a_listing_counts_samples_bytes_and_labels() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    write_tar(
        &path,
        &[("a.jpg", b"x"), ("a.cls", b"1"), ("b.jpg", b"x"), ("b.cls", b"1"), ("c.cls", b"9"), ("d.cls", b"?")],
    );
    let listed = list(&[text(&path)], &no_cache()).unwrap();
    assert_eq!((listed[0].samples, listed[0].bytes), (4, fs::metadata(&path).unwrap().len()));
    assert_eq!(listed[0].labels, BTreeMap::from([(1, 2), (9, 1)]));
    let made = reindex(&[text(&path)], &no_cache()).unwrap();
    assert_eq!((made[0].samples, &made[0].index), (4, &cache::beside(&path)));
}

#[test]
fn a_report_counts_every_kind_of_problem_and_names_a_few_keys() {
    let folder = folder();
    let bare: Vec<String> = (0..12).map(|number| format!("bare{number:02}.jpg")).collect();
    let mut files: Vec<(&str, &[u8])> = bare.iter().map(|name| (name.as_str(), b"x" as &[u8])).collect();
    files.extend([("blind.cls", b"1" as &[u8]), ("hollow.jpg", b""), ("hollow.cls", b"one")]);
    let second = tar_bytes(&[("lost.jpg", b"x")]);
    fs::write(folder.path().join("a.tar"), [tar_bytes(&files), second].concat()).unwrap();
    write_tar(&folder.path().join("b.tar"), &[("fine.jpg", b"x"), ("fine.cls", b"1")]);
    fs::write(folder.path().join("c.tar"), b"no tar at all").unwrap();

    let report = verify(&[text(&folder.path().join("*.tar"))], &no_cache()).unwrap();
    let found: Vec<_> =
        report.shards[0].problems.iter().map(|problem| (problem.kind, problem.count, problem.keys.len())).collect();
    let expected = [
        (ProblemKind::DataAfterEnd, 1, 0),
        (ProblemKind::NoLabel, 12, 10),
        (ProblemKind::NoImage, 1, 1),
        (ProblemKind::EmptyImage, 1, 1),
        (ProblemKind::BadLabel, 1, 1),
    ];
    assert_eq!(found, expected);
    assert_eq!((report.samples, report.problems), (15, 17));
    assert!(report.shards[1].problems.is_empty());
    let json = serde_json::to_value(&report.shards[2]).unwrap();
    assert_eq!(json["problems"][0]["kind"], "damaged");
    assert_eq!(json["problems"][0]["detail"], "not a tar: its first block is no header");
}
