//! The bytes of an imported set: a function of source and seed, whole after a kill, together the parts of it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustix::fs::{Advice, fadvise};
use serde_json::Value;

use super::{Place, Sample, image, shards, tar_of};
use crate::saccade::{at, finish, root, saccade};

/// Forty small pictures in four classes.
fn tree(place: &Place) {
    let all = super::samples(&root().join("shards/fashion-validation-000000.tar"));
    for (number, sample) in all.iter().take(40).enumerate() {
        place.write(&format!("tree/c{}/{number:02}.jpg", number % 4), &sample.image);
    }
}

/// Names and bytes of all that a set consists of, but for indexes, which hold times.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder).unwrap().flatten();
    let mut files: Vec<_> = files
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .filter(|(name, _)| !name.ends_with(".index"))
        .collect();
    files.sort();
    files
}

fn sorted(mut samples: Vec<Sample>) -> Vec<Sample> {
    samples.sort();
    samples
}

#[test]
fn the_same_source_and_seed_give_the_same_bytes_for_any_number_of_workers() {
    let place = Place::new();
    tree(&place);
    let set = |out: &str, more: &[&str]| {
        place.import("tree", out, &[&["--samples", "7"], more].concat());
        contents(&place.path(out))
    };
    let (plain, drawn) = (set("plain", &["--workers", "1"]), set("drawn", &["--shuffle", "1"]));
    assert!(plain == set("plain-3", &["--workers", "3"]));
    assert!(drawn == set("drawn-3", &["--shuffle", "1", "--workers", "3"]));
    assert!(drawn != plain && drawn != set("other", &["--shuffle", "2"]));
    assert_eq!(plain.iter().filter(|(name, _)| name.ends_with(".tar")).count(), 6);
    assert_eq!(sorted(place.samples("plain")), sorted(place.samples("drawn")));
}

#[test]
fn more_workers_that_come_while_files_are_waited_for_change_no_byte() {
    let place = Place::new();
    let all = super::samples(&root().join("shards/fashion-validation-000000.tar"));
    for number in 0..1500 {
        place.write(&format!("tree/c{}/{number:04}.jpg", number % 4), &all[number % 40].image);
        let file = File::open(place.path(&format!("tree/c{}/{number:04}.jpg", number % 4))).unwrap();
        // Only what is on the disk can leave the memory; where the folder is in memory itself, nobody is waited for.
        file.sync_data().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
    place.import("tree", "grown", &["--samples", "400"]);
    place.import("tree", "one", &["--samples", "400", "--workers", "1"]);
    assert!(contents(&place.path("grown")) == contents(&place.path("one")));
    assert_eq!(place.samples("one").len(), 1500);
}

#[test]
fn parts_are_together_the_whole() {
    let place = Place::new();
    tree(&place);
    for shuffle in [&[][..], &["--shuffle", "5"]] {
        let folder = format!("whole{}", shuffle.len());
        place.import("tree", &folder, &[&["--name", "t"], shuffle].concat());
        let mut all = Vec::new();
        for part in 0..3 {
            let out = format!("{folder}-{part}");
            place.import("tree", &out, &[&["--name", "t", "--part", &format!("{part}/3")], shuffle].concat());
            all.extend(place.samples(&out));
        }
        assert_eq!(all, place.samples(&folder));
    }
}

#[test]
fn a_part_has_the_keys_that_the_whole_has_though_names_repeat() {
    let place = Place::new();
    let picture = image("grey.jpg");
    let class = tar_of(&[("1.jpg", &picture), ("1.png", &picture), ("2.jpg", &picture)]);
    place.write("classes.tar", tar_of(&[("n001.tar", &class), ("n002.tar", &class), ("n003.tar", &class)]));
    let names = ["v_1.jpg", "v_1.png", "v_1.webp", "v_2.jpg", "v_2.png"];
    place.write("flat.tar", tar_of(&names.map(|name| (name, picture.as_slice()))));
    names.iter().for_each(|name| drop(place.write(&format!("folder/{name}"), &picture)));
    place.write("list.csv", names.map(|name| format!("folder/{name},1\n")).concat());
    let truth = place.write("truth.txt", "1\n2\n3\n4\n5\n");
    let truth = ["--ground-truth", at(&truth)];
    for (source, samples, more) in
        [("classes.tar", 9, &[][..]), ("flat.tar", 5, &truth), ("folder", 5, &[]), ("list.csv", 5, &[])]
    {
        for shuffle in [&[][..], &["--shuffle", "5"]] {
            let more = [more, shuffle].concat();
            let whole = format!("{source}-{}", shuffle.len());
            place.import(source, &whole, &more);
            let mut all = Vec::new();
            for part in 0..3 {
                let out = format!("{whole}-{part}");
                place.import(source, &out, &[&["--part", &format!("{part}/3")], &more[..]].concat());
                all.extend(place.samples(&out));
            }
            let expected = sorted(place.samples(&whole));
            assert_eq!(expected.len(), samples, "{whole}");
            assert_eq!(sorted(all), expected, "{whole}");
        }
    }
}

#[test]
fn a_part_of_few_samples_may_be_empty() {
    let place = Place::new();
    place.write("tree/a/1.jpg", image("grey.jpg"));
    for part in ["0/2", "1/2"] {
        let (source, out) = (place.path("tree"), place.path("out"));
        let name = part.replace('/', "-");
        let mut command =
            saccade(&["shards", "import", at(&source), "--out", at(&out), "--name", &name, "--part", part]);
        finish(&mut command, 0);
    }
    assert_eq!(shards(&place.path("out")).len(), 1);
}

#[test]
fn a_part_may_hold_nothing_but_what_earlier_parts_have() {
    let place = Place::new();
    let names = ["a.jpg", "b.jpg"];
    names.iter().for_each(|name| drop(place.write(name, image("grey.jpg"))));
    place.write("twice.csv", [names, names].concat().iter().map(|name| format!("{name},1\n")).collect::<String>());
    for (part, samples, repeated) in [("0/2", 2, 0), ("1/2", 0, 2)] {
        let (source, out) = (place.path("twice.csv"), place.path(&part.replace('/', "-")));
        let mut command = saccade(&["shards", "import", at(&source), "--out", at(&out), "--part", part, "--json"]);
        let account: Value = serde_json::from_str(&finish(&mut command, 0).out).unwrap();
        assert_eq!(account["samples_out"], samples, "{account}");
        assert_eq!(account["dropped"]["duplicate_key"].as_u64().unwrap_or_default(), repeated, "{account}");
    }
}

#[test]
fn a_killed_import_goes_on_behind_the_shards_that_are_whole() {
    let place = Place::new();
    for number in 0..30 {
        place.write(&format!("tree/a/{number:02}.jpg"), image("grey.jpg"));
    }
    // No image, dropped before the kill; and one that is too large for the limit.
    place.write("tree/a/05.jpg", b"text");
    let large = [b"P6\n300 300\n255\n".to_vec(), vec![9; 300 * 300 * 3]].concat();
    place.write("tree/b/large.ppm", large);
    place.write("tree/b/small.jpg", image("grey.jpg"));
    let more = ["--samples", "10", "--name", "s"];
    place.import("tree", "expected", &more);

    let (source, out) = (place.path("tree"), place.path("out"));
    // The system kills who writes a file of more than 100 blocks of 1,024 bytes.
    let limited = format!("ulimit -f 100; exec \"$0\" shards import {} --out {} \"$@\"", at(&source), at(&out));
    let killed =
        Command::new("bash").args(["-c", &limited, env!("CARGO_BIN_EXE_saccade")]).args(more).output().unwrap();
    assert!(!killed.status.success(), "{killed:?}");
    let left = shards(&out);
    // Two were ended before, of which the second may still have been on its way.
    assert!((1..=2).contains(&left.len()), "{killed:?}");
    let times = |all: &[std::path::PathBuf]| -> Vec<_> {
        all.iter().map(|shard| fs::metadata(shard).unwrap().modified().unwrap()).collect()
    };
    let before = times(&left);
    let account = place.import("tree", "out", &more);
    assert_eq!((account["shards_kept"].as_u64(), account["samples_in"].as_u64()), (Some(left.len() as u64), Some(32)));
    assert_eq!(times(&left), before, "finished shards are left alone");
    assert!(contents(&out) == contents(&place.path("expected")));

    let again = finish(saccade(&["shards", "import", at(&source), "--out", at(&out)]).args(more), 1);
    assert!(again.err.contains("s-000000.tar: exists already"), "{}", again.err);
    finish(saccade(&["shards", "import", at(&source), "--out", at(&out), "--force"]).args(more), 0);
    assert!(contents(&out) == contents(&place.path("expected")));
}

#[test]
fn an_import_does_not_go_on_over_changed_pictures() {
    let place = Place::new();
    for number in 0..30 {
        place.write(&format!("tree/a/{number:02}.jpg"), image("grey.jpg"));
    }
    place.write("tree/b/large.ppm", [b"P6\n300 300\n255\n".to_vec(), vec![9; 300 * 300 * 3]].concat());
    let (source, out) = (place.path("tree"), place.path("out"));
    let more = ["--samples", "10", "--name", "s"];
    let limited = format!("ulimit -f 100; exec \"$0\" shards import {} --out {} \"$@\"", at(&source), at(&out));
    let killed =
        Command::new("bash").args(["-c", &limited, env!("CARGO_BIN_EXE_saccade")]).args(more).output().unwrap();
    assert!(!killed.status.success() && !shards(&out).is_empty(), "{killed:?}");
    // As long as before, and of another time.
    let changed = place.write("tree/a/00.jpg", image("grey.jpg"));
    File::options().write(true).open(&changed).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    finish(saccade(&["shards", "import", at(&source), "--out", at(&out)]).args(more), 1);
    finish(saccade(&["shards", "import", at(&source), "--out", at(&out), "--force"]).args(more), 0);
    assert_eq!(place.samples("out").len(), 31);
    assert!(out.join("s-classes.txt").exists());
}

#[test]
fn what_does_not_fit_leaves_an_older_set_as_it_was() {
    let place = Place::new();
    place.write("tree/a/1.jpg", image("grey.jpg"));
    place.write("tree/a/2.jpg", b"no picture");
    place.import("tree", "out", &["--name", "s"]);
    let (source, out) = (place.path("tree"), place.path("out"));
    let before = contents(&out);
    assert!(before.iter().any(|(name, _)| name == "s.dropped.jsonl"));
    let refused = |more: &[&str], words: &str| {
        let said = finish(saccade(&["shards", "import", at(&source), "--out", at(&out)]).args(more), 1);
        assert!(said.err.contains(words), "{}", said.err);
        assert!(contents(&out) == before, "{words}");
    };
    place.write("tree/b/3.jpg", image("grey.jpg"));
    refused(&["--name", "s"], "s-classes.txt: has other classes");
    // It has a length and takes no room.
    File::create(place.path("tree/a/large.jpg")).unwrap().set_len(15 << 40).unwrap();
    refused(&["--name", "s", "--force"], "make room");
    fs::remove_file(place.path("tree/a/large.jpg")).unwrap();
    place.import("tree", "out", &["--name", "s", "--force"]);
    assert_eq!(fs::read_to_string(out.join("s-classes.txt")).unwrap(), "a\nb\n");
}

#[test]
fn shards_do_not_go_into_what_is_imported() {
    let place = Place::new();
    place.write("tree/a/1.jpg", image("grey.jpg"));
    let source = place.path("tree");
    for out in ["tree", "tree/a", "tree/new/er"] {
        let out = place.path(out);
        let said = finish(&mut saccade(&["shards", "import", at(&source), "--out", at(&out)]), 1);
        assert!(said.err.contains("lies inside") && said.err.contains("name a folder elsewhere"), "{}", said.err);
    }
    assert!(shards(&source).is_empty() && !place.path("tree/new").exists());
}
