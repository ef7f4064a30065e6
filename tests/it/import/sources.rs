//! Each form of source: which samples come of it, and with which labels.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use super::{Place, Sample, image, samples, tar_of};
use crate::saccade::{at, finish, root, saccade};

/// ImageNet's training archive in small: class tars in no order, a CMYK JPEG and a PNG by the name of a JPEG among the
/// pictures, as in the real one.
fn class_tars() -> [(&'static str, Vec<u8>); 3] {
    let [photograph, cmyk, png] = ["baseline_420.jpg", "cmyk.jpg", "really_png_named.jpg"].map(image);
    [
        ("n02105855.tar", tar_of(&[("n02105855_2933.JPEG", &png), ("n02105855_1.JPEG", &photograph)])),
        ("n01440764.tar", tar_of(&[("n01440764_10026.JPEG", &photograph), ("n01440764_10027.JPEG", b"no picture")])),
        ("n01739381.tar", tar_of(&[("n01739381_1309.JPEG", &cmyk), ("notes.txt", b"x")])),
    ]
}

fn expected_of_class_tars() -> Vec<Sample> {
    // ImageNet's numbers, as of all 1,000 classes.
    let sample = |key: &str, label: u32, extension: &str, name: &str| Sample {
        key: key.into(),
        label: Some(label),
        extension: extension.into(),
        image: image(name),
    };
    vec![
        sample("n01440764_10026", 0, "jpg", "baseline_420.jpg"),
        sample("n01739381_1309", 59, "jpg", "cmyk.jpg"),
        sample("n02105855_2933", 230, "png", "really_png_named.jpg"),
        sample("n02105855_1", 230, "jpg", "baseline_420.jpg"),
    ]
}

#[test]
fn class_tars_have_imagenets_numbers_though_some_are_missing() {
    let place = Place::new();
    let tars = class_tars();
    let files: Vec<(&str, &[u8])> = tars.iter().map(|(name, data)| (*name, data.as_slice())).collect();
    place.write("ILSVRC2012_img_train.tar", tar_of(&files));
    let account = place.import("ILSVRC2012_img_train.tar", "out", &["--name", "train"]);
    assert_eq!(account["kind"], "imagenet-train");
    assert_eq!(account["dropped"], json!({ "unknown_format": 1 }));
    assert_eq!(account["passed_over"], json!({ "no_image_by_name": 1 }));
    assert_eq!(place.samples("out"), expected_of_class_tars());
    let names = fs::read_to_string(place.path("out/train-classes.txt")).unwrap();
    let place_of = |id: &str| names.lines().position(|name| name == id);
    assert_eq!((names.lines().count(), place_of("n01739381"), place_of("n02105855")), (1000, Some(59), Some(230)));
    assert!(account["remark"].as_str().unwrap().starts_with("tars of 3 of 1000 classes"), "{account}");
    let dropped = fs::read_to_string(place.path("out/train.dropped.jsonl")).unwrap();
    assert!(dropped.contains("n01440764_10027") && dropped.lines().count() == 1, "{dropped}");

    for (name, data) in &tars {
        place.write(&format!("unpacked/{name}"), data);
    }
    place.import("unpacked", "again", &["--name", "train"]);
    assert_eq!(place.samples("again"), expected_of_class_tars(), "the class tars of the archive, in a folder");
    place.write("two.txt", "n02105855\nn01440764\n");
    let account = place.import("unpacked", "two", &["--classes", at(&place.path("two.txt"))]);
    assert_eq!(account["classes"], 2);
    let labels: Vec<_> = place.samples("two").iter().map(|sample| sample.label.unwrap()).collect();
    assert_eq!(labels, [1, 0, 0], "the given order numbers the classes, and there are no others");
}

#[test]
fn tars_beside_class_tars_are_no_classes() {
    let place = Place::new();
    let picture = image("grey.jpg");
    place.write("in/n002.tar", tar_of(&[("a.jpg", &picture)]));
    place.write("in/n001.tar", tar_of(&[("b.jpg", &picture)]));
    place.write("in/ILSVRC2012_img_val.tar", tar_of(&[("ILSVRC2012_val_00000001.JPEG", &picture)]));
    let expected = [("n001/b".to_owned(), Some(0)), ("n002/a".to_owned(), Some(1))];
    for (out, more) in [("told", &[][..]), ("said", &["--kind", "imagenet-train"])] {
        let account = place.import("in", out, more);
        assert_eq!(account["passed_over"], json!({ "other_tar": 1 }));
        assert_eq!(place.labels(out), expected);
        assert_eq!(account["remark"], json!(null), "classes of nobody's numbers");
    }
    place.write("in/fish.tar", tar_of(&[("c.jpg", &picture)]));
    let names = place.write("names.txt", "n002\nfish\n");
    let account = place.import("in", "named", &["--kind", "imagenet-train", "--classes", at(&names)]);
    assert_eq!(account["passed_over"], json!({ "other_tar": 2 }));
    assert_eq!(place.labels("named"), [("fish/c".to_owned(), Some(1)), ("n002/a".to_owned(), Some(0))]);
}

/// The first ten lines of the kit's ground truth, and the labels that everybody else gives these pictures.
const KIT: [u32; 10] = [490, 361, 171, 822, 297, 482, 13, 704, 599, 164];
const LABELS: [u32; 10] = [65, 970, 230, 809, 516, 57, 334, 415, 674, 332];
/// Their classes.
const IDS: [&str; 10] = [
    "n01751748",
    "n09193705",
    "n02105855",
    "n04263257",
    "n03125729",
    "n01735189",
    "n02346627",
    "n02776631",
    "n03794056",
    "n02328150",
];

#[test]
fn validation_labels_are_everybodys_whatever_form_the_truth_has() {
    let place = Place::new();
    let names: Vec<String> = (1..=10).map(|number| format!("ILSVRC2012_val_{number:08}.JPEG")).collect();
    let picture = image("baseline_444.jpg");
    // Not in the order of the names, which the truth follows.
    let files: Vec<(&str, &[u8])> = names.iter().rev().map(|name| (name.as_str(), picture.as_slice())).collect();
    place.write("ILSVRC2012_img_val.tar", tar_of(&files));
    for name in &names {
        place.write(&format!("val/{name}"), &picture);
    }
    let lines = |all: Vec<String>| all.join("\n") + "\n";
    let kaggle = names.iter().zip(IDS).map(|(name, id)| format!("{},{id} 1 2 3 4 ", name.trim_end_matches(".JPEG")));
    let header = ["ImageId,PredictionString".to_owned()];
    place.write("kit.txt", lines(KIT.map(|number| number.to_string()).to_vec()));
    place.write("ids.txt", lines(IDS.map(str::to_owned).to_vec()));
    place.write("LOC_val_solution.csv", lines(header.into_iter().chain(kaggle).collect()));
    let expected: Vec<(String, Option<u32>)> =
        (1..=10).zip(LABELS).map(|(number, label)| (format!("ILSVRC2012_val_{number:08}"), Some(label))).collect();
    for source in ["ILSVRC2012_img_val.tar", "val"] {
        for truth in ["kit.txt", "ids.txt", "LOC_val_solution.csv"] {
            let out = format!("{source}-{truth}");
            let account = place.import(source, &out, &["--ground-truth", at(&place.path(truth)), "--name", "v"]);
            assert_eq!((&account["kind"], &account["classes"]), (&json!("imagenet-validation"), &json!(1000)));
            let mut labels = place.labels(&out);
            labels.sort();
            assert_eq!(labels, expected, "{out}");
        }
    }
}

#[test]
fn another_kits_order_is_read_with_or_without_numbers() {
    let place = Place::new();
    let picture = image("grey.jpg");
    place.write("val.tar", tar_of(&[("v_1.jpg", &picture), ("v_2.jpg", &picture), ("v_3.jpg", &picture)]));
    place.write("truth.txt", "3\n1\n2\n");
    place.write("order.txt", "n003\nn001\nn002\n");
    place.write("map.txt", "n002 3 c\nn003 1 a\nn001 2 b\n");
    for order in ["order.txt", "map.txt"] {
        let (truth, synsets) = (place.path("truth.txt"), place.path(order));
        let more = ["--ground-truth", at(&truth), "--synsets", at(&synsets)];
        let out = format!("out-{order}");
        place.import("val.tar", &out, &more);
        let labels: Vec<_> = place.samples(&out).iter().map(|sample| sample.label).collect();
        // Class 3 of the kit is n002, which is label 1; 1 is n003, label 2; 2 is n001, label 0.
        assert_eq!(labels, [Some(1), Some(2), Some(0)], "{order}");
    }
}

#[test]
fn a_tree_of_classes_is_numbered_as_imagefolder_does() {
    let place = Place::new();
    place.write("tree/dog/x.JPEG", image("baseline_420.jpg"));
    place.write("tree/dog/deep/er/y.jpg", image("grey.jpg"));
    place.write("tree/cat/very.good.png", image("really_png_named.jpg"));
    place.write("tree/cat/.hidden.jpg", b"x");
    place.write("tree/cat/Thumbs.db", b"x");
    place.write("tree/README.md", b"x");
    fs::create_dir_all(place.path("tree/bee")).unwrap();
    symlink("nowhere", place.path("tree/dog/dead.jpg")).unwrap();
    symlink("..", place.path("tree/dog/circle")).unwrap();
    place.write("elsewhere/z.jpg", image("cmyk.jpg"));
    symlink("../elsewhere", place.path("tree/eel")).unwrap();
    let account = place.import("tree", "out", &[]);
    assert_eq!((&account["kind"], &account["classes"]), (&json!("image-folder"), &json!(4)));
    assert_eq!(account["passed_over"], json!({ "no_image_by_name": 2 }));
    let expected = [("cat/very_good", 1), ("dog/deep/er/y", 2), ("dog/x", 2), ("eel/z", 3)]
        .map(|(key, label)| (key.into(), Some(label)));
    assert_eq!(place.labels("out"), expected);
    let names = fs::read_to_string(place.path("out/tree-classes.txt")).unwrap();
    assert_eq!(names, "bee\ncat\ndog\neel\n", "a class without images keeps its number");
}

#[test]
fn lists_name_columns_or_not_and_labels_by_number_or_name() {
    let place = Place::new();
    for name in ["a.jpg", "in/b, c.jpg", "d.jpg"] {
        place.write(name, image("grey.jpg"));
    }
    let check = |list: &str, text: &str, expected: &[(&str, Option<u32>)]| {
        place.write(list, text);
        let out = format!("out-{list}");
        place.import(list, &out, &[]);
        let expected: Vec<_> = expected.iter().map(|(key, label)| ((*key).to_owned(), *label)).collect();
        assert_eq!(place.labels(&out), expected, "{list}");
    };
    let both = [("a", Some(7)), ("in/b, c", Some(0))];
    check("plain.csv", "a.jpg,7\n\"in/b, c.jpg\",0\n", &both);
    check("windows.csv", "\u{feff}label,path\r\n7,a.jpg\r\n\r\n0,\"./in/b, c.jpg\"\r\n", &both);
    check("tabs.tsv", "image\tlabel\na.jpg\t7\nin/b, c.jpg\t0\n", &both);
    check(
        "lines.jsonl",
        "{\"file_name\": \"a.jpg\", \"label\": 7}\n{\"path\": \"in/b, c.jpg\", \"cls\": \"0\"}\n",
        &both,
    );
    check("names.csv", "d.jpg,zebra\na.jpg,ant\n", &[("d", Some(1)), ("a", Some(0))]);
    check("bare.csv", "a.jpg\nd.jpg\n", &[("a", None), ("d", None)]);
    check("kaggle.csv", "image_id,target\na.jpg,7\n\"in/b, c.jpg\",0\n", &both);
    check("coco.csv", "image_id,file_name,label\n31,a.jpg,7\n30,\"in/b, c.jpg\",0\n", &both);
    check("classes.csv", "a.jpg,image\nd.jpg,label\n", &[("a", Some(0)), ("d", Some(1))]);
    place.write("lost.csv", "a.jpg,1\ngone.jpg,1\na.jpg,1\n");
    let account = place.import("lost.csv", "lost", &[]);
    assert_eq!(account["dropped"], json!({ "duplicate_key": 1, "unreadable": 1 }));
}

#[test]
fn samples_of_like_names_get_different_keys() {
    let place = Place::new();
    let picture = image("grey.jpg");
    // The first of the two keeps the key though it is no picture.
    place.write("tree/a/1.jpg", b"no picture");
    for name in ["a/1.png", "a/1_png.jpg", "a/2.x.jpg", "a/2_x.jpg", "a/2_x.png", "a/2.x.png"] {
        place.write(&format!("tree/{name}"), &picture);
    }
    let account = place.import("tree", "out", &[]);
    assert_eq!(account["dropped"], json!({ "unknown_format": 1 }));
    let keys = ["a/1_png", "a/1_png_jpg", "a/2_x", "a/2_x_png", "a/2_x_jpg", "a/2_x_png_2"];
    assert_eq!(place.labels("out"), keys.map(|key| (key.to_owned(), Some(0))));
    // Class tars whose pictures are numbered anew in each; a name twice in one tar is one sample.
    let class = tar_of(&[("1.jpg", &picture), ("1.jpg", &picture)]);
    place.write("train.tar", tar_of(&[("n001.tar", &class), ("n002.tar", &class), ("n003.tar", &class)]));
    let account = place.import("train.tar", "tars", &[]);
    assert_eq!(account["dropped"], json!({ "duplicate_key": 3 }));
    let expected = [("n001/1", 0), ("n002/1", 1), ("n003/1", 2)].map(|(key, label)| (key.to_owned(), Some(label)));
    assert_eq!(place.labels("tars"), expected);
}

#[test]
fn a_plain_folder_gives_samples_without_labels() {
    let place = Place::new();
    for name in ["b.jpg", "a.jpg", "c.webp"] {
        place.write(&format!("pictures/{name}"), image("baseline_420.jpg"));
    }
    let account = place.import("pictures", "out", &[]);
    assert_eq!((&account["kind"], &account["classes"]), (&json!("folder"), &json!(0)));
    assert_eq!(place.labels("out"), ["a", "b", "c"].map(|key| (key.to_owned(), None)));
    assert!(place.samples("out").iter().all(|sample| sample.extension == "jpg"), "the bytes decide");
    assert!(!place.path("out/pictures-classes.txt").exists());
}

/// Images, each with its label, in no order that the source need keep.
fn pairs(all: &[Sample]) -> Vec<(Vec<u8>, Option<u32>)> {
    let mut all: Vec<_> = all.iter().map(|sample| (sample.image.clone(), sample.label)).collect();
    all.sort();
    all
}

#[test]
fn what_is_imported_of_every_source_has_its_labels_and_trains() {
    let place = Place::new();
    let source = samples(&root().join("shards/fashion-validation-000000.tar"));
    // Two batches.
    let source = &source[..64];
    let classes: BTreeSet<u32> = source.iter().filter_map(|sample| sample.label).collect();
    assert_eq!(classes.into_iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>(), "all are among them");
    let named = |sample: &Sample| sample.key.replace('/', "-");
    let (mut tars, mut list, mut truth) = (vec![Vec::new(); 10], String::from("path,label\n"), String::new());
    for (number, sample) in source.iter().enumerate() {
        let label = sample.label.unwrap();
        place.write(&format!("tree/{label}/{}.JPEG", named(sample)), &sample.image);
        tars[label as usize].push((format!("n0{label}_{number}.JPEG"), sample.image.as_slice()));
        list += &format!("tree/{label}/{}.JPEG,{label}\n", named(sample));
        truth += &format!("{}\n", label + 1);
    }
    let borrowed = |files: &[(String, &[u8])]| {
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, data)| (name.as_str(), *data)).collect();
        tar_of(&files)
    };
    let tars: Vec<(String, Vec<u8>)> =
        tars.iter().enumerate().map(|(label, files)| (format!("n0{label}.tar"), borrowed(files))).collect();
    let tars: Vec<(String, &[u8])> = tars.iter().map(|(name, data)| (name.clone(), data.as_slice())).collect();
    place.write("archive.tar", borrowed(&tars));
    let flat: Vec<(String, &[u8])> =
        (1..).zip(source).map(|(number, sample)| (format!("val_{number:08}.JPEG"), sample.image.as_slice())).collect();
    place.write("flat.tar", borrowed(&flat));
    place.write("list.csv", list);
    place.write("truth.txt", truth);
    place.write("synsets.txt", (0..10).map(|label| format!("n0{label}\n")).collect::<String>());
    let (truth, synsets) = (place.path("truth.txt"), place.path("synsets.txt"));
    let flat = ["--ground-truth", at(&truth), "--synsets", at(&synsets)];
    for (from, more) in
        [("tree", &["--shuffle", "3"][..]), ("archive.tar", &[]), ("flat.tar", &flat), ("list.csv", &[])]
    {
        let out = format!("out-{from}");
        place.import(from, &out, &[&["--name", "mine", "--samples", "40"], more].concat());
        assert_eq!(pairs(&place.samples(&out)), pairs(source), "{from}");
        place.trains(&out);
    }
    let out = place.path("plain");
    finish(&mut saccade(&["shards", "import", at(&place.path("tree")), "--kind", "folder", "--out", at(&out)]), 0);
    assert!(place.samples("plain").iter().all(|sample| sample.label.is_none()));
    place.trains("plain");
}
