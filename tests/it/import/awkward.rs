//! Sources that are none: one clear line each, and nothing that looks whole.

use std::fs::{self, File};
use std::process::Command;

use saccade::shard::import::{Import, Part, Unread, Wanted};
use serde_json::Value;

use super::{Place, image, shards, tar_of};
use crate::saccade::{at, finish, saccade};

/// Imports what cannot be; the line must hold all `words`.
fn refused(place: &Place, source: &str, more: &[&str], words: &[&str]) {
    let (from, out) = (place.path(source), place.path("out"));
    let said = finish(saccade(&["shards", "import", at(&from), "--out", at(&out)]).args(more), 1);
    let errors: Vec<&str> = said.err.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors[..] else { panic!("{source}: {}", said.err) };
    assert!(!said.err.contains("panicked"), "{}", said.err);
    for word in words {
        assert!(error.contains(word), "{source} {more:?}: no \"{word}\" in: {error}");
    }
    assert!(!out.exists() || shards(&out).is_empty(), "{source}: shards of what cannot be imported");
    let _ = fs::remove_dir_all(out);
}

#[test]
fn what_is_no_source_is_named() {
    let place = Place::new();
    let picture = image("grey.jpg");
    refused(&place, "nowhere", &[], &["nowhere: cannot be read"]);
    fs::create_dir(place.path("empty")).unwrap();
    refused(&place, "empty", &[], &["holds neither images nor folders"]);
    fs::create_dir_all(place.path("hollow/class")).unwrap();
    refused(&place, "hollow", &[], &["hollow: holds no image"]);
    for name in ["split/train/a/1.jpg", "split/val/a/1.jpg", "both/1.jpg", "both/a/2.jpg", "tree/a/1.jpg"] {
        place.write(name, &picture);
    }
    refused(&place, "split", &[], &["holds train and val", "import each"]);
    refused(&place, "both", &[], &["images beside folders", "--kind"]);
    place.write("tree.txt", "a.jpg\n");
    refused(&place, "tree.txt", &[], &["not a tar"]);
    place.write("train-000000.tar", tar_of(&[("a.jpg", &picture), ("a.cls", b"1")]));
    refused(&place, "train-000000.tar", &[], &["WebDataset", "shards reshard"]);
    place.write("sets/train-000000.tar", tar_of(&[("a.jpg", &picture)]));
    refused(&place, "sets", &[], &["WebDataset", "shards reshard"]);
    place.write("x.parquet", b"PAR1");
    refused(&place, "x.parquet", &[], &["parquet"]);
    place.write("text/a/1.jpg", b"no image");
    refused(&place, "text", &[], &["no sample could be imported", "dropped.jsonl says why"]);
    place.write("ILSVRC2012_img_val.tar", tar_of(&[("ILSVRC2012_val_00000001.JPEG", &picture)]));
    refused(&place, "ILSVRC2012_img_val.tar", &[], &["--ground-truth"]);
    place.write("twice.txt", "a\nb\na\n");
    refused(&place, "tree", &["--classes", at(&place.path("twice.txt"))], &["twice.txt: line 3", "`a` again"]);
    refused(&place, "tree", &["--ground-truth", at(&place.path("twice.txt"))], &["--ground-truth", "image-folder"]);
}

#[test]
fn damaged_archives_say_where() {
    let place = Place::new();
    let picture = image("baseline_420.jpg");
    let class = tar_of(&[("n01_1.JPEG", &picture), ("n01_2.JPEG", &picture)]);
    let cut = |data: &[u8], length: usize| data[..length].to_vec();
    place.write("inner.tar", tar_of(&[("n01.tar", &cut(&class, 1_200))]));
    refused(&place, "inner.tar", &[], &["inner.tar", "n01.tar", "ends inside a member: `n01_1.JPEG`"]);
    let whole = tar_of(&[("n01.tar", &class), ("n02.tar", &class)]);
    place.write("outer.tar", cut(&whole, whole.len() - 4_000));
    refused(&place, "outer.tar", &[], &["outer.tar: damaged archive", "ends inside a member: `n02.tar`"]);
    place.write("twice.tar", tar_of(&[("n01.tar", &class), ("d/n01.tar", &class)]));
    refused(&place, "twice.tar", &[], &["class tar `n01` twice"]);
    place.write("others.tar", tar_of(&[("fish.tar", &class)]));
    refused(&place, "others.tar", &[], &["holds no class tars such as n01440764.tar"]);
    place.write("packed.tar", b"\x1f\x8b and so on");
    refused(&place, "packed.tar", &[], &["gzip", "unpack it first"]);
}

#[test]
fn an_archive_that_shrinks_while_it_is_read_stops_the_import() {
    let place = Place::new();
    let picture = image("baseline_420.jpg");
    let path = place.write("train.tar", tar_of(&[("n01.tar", &tar_of(&[("a.jpg", &picture), ("b.jpg", &picture)]))]));
    let wanted = Wanted {
        source: path.clone(),
        kind: None,
        ground_truth: None,
        synsets: None,
        classes: None,
        shuffle: None,
        part: Part::WHOLE,
    };
    let mut import = Import::open(&wanted).unwrap();
    let first = import.next_item().unwrap().unwrap().item;
    assert_eq!((first.key().as_str(), first.label, first.read().unwrap()), ("n01/a", Some(0), picture));
    let second = import.next_item().unwrap().unwrap().item;
    File::options().write(true).open(&path).unwrap().set_len(2_000).unwrap();
    let Err(Unread::Source(error)) = second.read() else { panic!("{second:?} was read") };
    assert!(error.to_string().contains("train.tar: changed or was cut while it was read"), "{error}");
}

#[test]
fn a_file_of_another_length_than_it_was_found_with_is_no_sample() {
    let place = Place::new();
    place.write("tree/a.jpg", image("grey.jpg"));
    let wanted = Wanted {
        source: place.path("tree"),
        kind: None,
        ground_truth: None,
        synsets: None,
        classes: None,
        shuffle: None,
        part: Part::WHOLE,
    };
    for length in [10, 100_000] {
        let mut import = Import::open(&wanted).unwrap();
        let found = import.next_item().unwrap().unwrap().item;
        File::options().write(true).open(place.path("tree/a.jpg")).unwrap().set_len(length).unwrap();
        let Err(Unread::Sample { reason, .. }) = found.read() else { panic!("{found:?} was read") };
        assert_eq!(reason, "changed");
    }
}

#[test]
fn lists_are_judged_line_by_line() {
    let place = Place::new();
    place.write("a.jpg", image("grey.jpg"));
    let check = |name: &str, text: &str, words: &[&str]| {
        place.write(name, text);
        refused(&place, name, &[], words);
    };
    check("missing.csv", "a.jpg,1\nb.jpg,\n", &["missing.csv: line 2", "`b.jpg` has no label, and line 1 has one"]);
    check("open.csv", "a.jpg,1\n\"b.jpg,2\n", &["open.csv: line 2", "quote"]);
    check("after.csv", "a.jpg,1\n\"b\".jpg,2\n", &["after.csv: line 2", "quote"]);
    check("pathless.csv", "a.jpg,1\n,2\n", &["pathless.csv: line 2", "no path"]);
    check("dots.csv", "../..,1\n", &["dots.csv: line 1", "names no file"]);
    check("empty.csv", "", &["empty.csv: holds no image"]);
    check("broken.jsonl", "{\"path\": \"a.jpg\"}\n{\"path\": \n", &["broken.jsonl: line 2", "JSON"]);
    check("other.jsonl", "{\"text\": \"a.jpg\"}\n", &["other.jsonl: line 1", "no path"]);
    check("half.jsonl", "{\"path\": \"a.jpg\", \"label\": 1.5}\n", &["half.jsonl: line 1", "1.5"]);
    check("minus.csv", "a.jpg,0\nb.jpg,-1\n", &["minus.csv: line 2", "`-1` is neither a name nor a class number"]);
    check("floats.csv", "path,label\na.jpg,0.0\nb.jpg,1.0\n", &["floats.csv: line 2", "`0.0`"]);
    check("mixed.csv", "a.jpg,cat\nb.jpg,7\n", &["mixed.csv: line 1", "`cat` is a name", "line 2", "number 7"]);
    check("lost.csv", "picture,label\na.jpg,1\n", &["lost.csv: line 1", "none of them for paths", "file_name"]);
    place.write("latin.csv", b"caf\xe9.jpg,1\n");
    refused(&place, "latin.csv", &[], &["latin.csv", "UTF-8"]);
}

#[test]
fn ground_truths_that_do_not_fit_are_refused() {
    let place = Place::new();
    let picture = image("grey.jpg");
    let names = ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"];
    place.write("val.tar", tar_of(&names.map(|name| (name, picture.as_slice()))));
    let check = |text: &str, more: &[&str], words: &[&str]| {
        let truth = place.write("truth.txt", text);
        refused(&place, "val.tar", &[&["--ground-truth", at(&truth)], more].concat(), words);
    };
    check("", &[], &["truth.txt", "is empty"]);
    check("1\n", &[], &["truth.txt", "1 lines", "ILSVRC2012_val_00000002.JPEG"]);
    check("1\n1001\n", &[], &["truth.txt: line 2", "`1001`", "1 to 1000"]);
    check("0\n1\n", &[], &["truth.txt: line 1", "`0`"]);
    check("n01440764\nfish\n", &[], &["truth.txt: line 2", "`fish`"]);
    check("1\nn01440764\n", &[], &["truth.txt: line 2", "n01440764"]);
    check(
        "ILSVRC2012_val_00000001,n01440764 1 2 3 4\n",
        &[],
        &["no line for the picture `ILSVRC2012_val_00000002.JPEG`"],
    );
    let kit = fs::read_to_string(crate::saccade::root().join("shards/imagenet-kit-order.txt")).unwrap();
    let mut sorted: Vec<&str> = kit.lines().filter(|line| line.starts_with('n')).collect();
    sorted.sort_unstable();
    let synsets = place.write("sorted.txt", sorted.join("\n"));
    check("1\n2\n", &["--synsets", at(&synsets)], &["sorted.txt", "not the kit's order"]);
}

#[test]
fn wrong_usage_exits_with_2() {
    let cases: [&[&str]; 6] = [
        &["x"],
        &["x", "--out", "y", "--part", "3/3"],
        &["x", "--out", "y", "--kind", "tree"],
        &["x", "--out", "y", "--size", "12Q"],
        &["x", "--out", "y", "--samples", "0"],
        &["--out", "y"],
    ];
    for arguments in cases {
        finish(saccade(&["shards", "import"]).args(arguments), 2);
    }
}

#[test]
fn damaged_pictures_are_left_out_as_far_as_is_asked_and_listed() {
    let place = Place::new();
    let bad = ["truncated_half.jpg", "bitflips.jpg", "empty.jpg", "text.jpg", "truncated_header.jpg", "zeros.jpg"];
    for name in bad.iter().chain(&["grey.jpg", "progressive.jpg", "alpha.png", "webp_named.jpg"]) {
        place.write(&format!("in/a/{name}"), image(name));
    }
    // A picture whose end is there and whose middle is not.
    let mut damaged = image("baseline_420.jpg");
    let middle = damaged.len() / 2;
    // All ones, which is no code of any picture.
    damaged[middle..middle + 40].chunks_mut(2).for_each(|pair| pair.copy_from_slice(&[0xFF, 0]));
    place.write("in/a/middle.jpg", damaged);
    let dropped = |out: &str, more: &[&str]| -> Vec<String> {
        place.import_unverified("in", out, &[&["--name", "s"], more].concat());
        let list = fs::read_to_string(place.path(out).join("s.dropped.jsonl")).unwrap();
        let key = |line: &str| serde_json::from_str::<Value>(line).unwrap()["key"].as_str().unwrap().to_owned();
        list.lines().map(key).collect()
    };
    let usual = dropped("usual", &[]);
    for key in ["empty", "text", "truncated_half", "truncated_header", "zeros"] {
        assert!(usual.contains(&format!("a/{key}")), "{key}: {usual:?}");
    }
    let checked = dropped("checked", &["--check-images"]);
    assert!(usual.iter().all(|key| checked.contains(key)) && checked.contains(&"a/middle".to_owned()), "{checked:?}");
    assert!(!usual.contains(&"a/middle".to_owned()), "{usual:?}");
    // What is left decodes to the last pixel.
    finish(&mut saccade(&["shards", "verify", &format!("{}/*.tar", at(&place.path("checked")))]), 0);
    let kept: Vec<_> = place.samples("checked").into_iter().map(|sample| sample.key).collect();
    for key in ["a/alpha", "a/grey", "a/progressive", "a/webp_named"] {
        assert!(kept.contains(&key.to_owned()), "{kept:?}");
    }
}

#[test]
fn a_disk_that_is_full_ends_an_import_with_one_line_and_nothing_that_looks_whole() {
    let place = Place::new();
    for number in 0..30 {
        place.write(&format!("in/a/{number:02}.jpg"), image("grey.jpg"));
    }
    place.write("in/b/large.ppm", [b"P6\n300 300\n255\n".to_vec(), vec![9; 300 * 300 * 3]].concat());
    let (source, out) = (place.path("in"), place.path("out"));
    // A file that would be larger than 100 KiB is refused, and its writer told.
    let limited = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_saccade"), "shards", "import", at(&source), "--out", at(&out)]);
    let said = command.args(["--samples", "10", "--name", "s"]).output().unwrap();
    let said_text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(1), "{said_text}");
    let errors: Vec<&str> = said_text.lines().filter(|line| line.starts_with("error")).collect();
    assert!(errors.len() == 1 && errors[0].contains("s-000003.tar"), "{said_text}");
    let left: Vec<_> = shards(&out).iter().map(|shard| shard.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, ["s-000000.tar", "s-000001.tar", "s-000002.tar"]);
    assert!(
        !fs::read_dir(&out).unwrap().flatten().any(|file| file.path().extension().is_some_and(|end| end == "part"))
    );
    place.import("in", "out", &["--samples", "10", "--name", "s"]);
    assert_eq!(place.samples("out").len(), 31);
}
