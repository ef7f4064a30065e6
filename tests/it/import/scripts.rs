//! The scripts around the verbs: sets from folders of sources, called twice; shares as processes of their own.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use super::{Place, image, shards, tar_of};
use crate::saccade::{at, root};

fn script(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(root().join("scripts").join(name));
    command.args(arguments).env("SACCADE", env!("CARGO_BIN_EXE_saccade"));
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn run(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", said(&output));
    said(&output)
}

#[test]
fn imagenets_archives_become_two_sets_and_a_second_call_leaves_them_alone() {
    let place = Place::new();
    let picture = image("baseline_420.jpg");
    let class =
        |id: &str| tar_of(&[(&format!("{id}_1.JPEG"), &picture), (&format!("{id}_2.JPEG"), &image("cmyk.jpg"))]);
    let (one, two) = (class("n01440764"), class("n01443537"));
    place.write("in/ILSVRC2012_img_train.tar", tar_of(&[("n01443537.tar", &two), ("n01440764.tar", &one)]));
    place.write("in/ILSVRC2012_img_val.tar", tar_of(&[("ILSVRC2012_val_00000001.JPEG", &picture)]));
    let (from, out) = (place.path("in"), place.path("out"));
    let missing = run(&mut script("reshard-imagenet", &[at(&from), at(&out)]), 1);
    assert!(missing.contains("ILSVRC2012_validation_ground_truth.txt: is missing"), "{missing}");
    place.write("in/ILSVRC2012_validation_ground_truth.txt", "490\n");
    run(&mut script("reshard-imagenet", &[at(&from), at(&out)]), 0);
    let labels: Vec<_> = place.samples("out").iter().map(|sample| sample.label.unwrap()).collect();
    assert_eq!(labels, [0, 0, 1, 1, 65]);
    let before: Vec<_> = shards(&out).iter().map(|shard| fs::metadata(shard).unwrap().modified().unwrap()).collect();
    let again = run(&mut script("reshard-imagenet", &[at(&from), at(&out)]), 0);
    assert_eq!(again.matches("there already").count(), 2, "{again}");
    let after: Vec<_> = shards(&out).iter().map(|shard| fs::metadata(shard).unwrap().modified().unwrap()).collect();
    assert_eq!(before, after);
}

#[test]
fn folders_of_classes_have_the_same_numbers_in_both_sets() {
    let place = Place::new();
    for name in ["train/ant/1.jpg", "train/bee/1.jpg", "train/cat/1.jpg", "val/cat/2.jpg"] {
        place.write(&format!("in/{name}"), image("grey.jpg"));
    }
    run(&mut script("reshard-imagefolder", &[at(&place.path("in")), at(&place.path("out"))]), 0);
    let labels: Vec<_> = place.samples("out").iter().map(|sample| sample.label.unwrap()).collect();
    assert_eq!(labels, [0, 1, 2, 2]);
}

#[test]
fn shards_of_others_are_decoded_where_they_are_not_yet() {
    let place = Place::new();
    for number in 0..3 {
        let name = format!("in/imagenet1k-train-{number:04}.tar");
        place.write(
            &name,
            tar_of(&[(&format!("k{number}.jpg"), &image("grey.jpg")), (&format!("k{number}.cls"), b"5")]),
        );
    }
    let (from, out) = (place.path("in"), place.path("out"));
    run(&mut script("reshard-timm-wds", &[at(&from), at(&out)]), 0);
    assert_eq!(shards(&out).len(), 3);
    fs::remove_file(&shards(&out)[1]).unwrap();
    run(&mut script("reshard-timm-wds", &[at(&from), at(&out)]), 0);
    assert!(place.samples("out").iter().all(|sample| sample.extension == "ppm" && sample.label == Some(5)));
}

#[test]
fn shares_are_together_the_set_and_the_last_verifies_it() {
    let place = Place::new();
    for number in 0..10 {
        place.write(&format!("tree/c{}/{number}.jpg", number % 3), image("grey.jpg"));
    }
    let (tree, out) = (place.path("tree"), place.path("out"));
    let share = |variables: &[(&str, &str)]| {
        let mut command = script("cluster/share", &["import", at(&out), "train", at(&tree)]);
        command.env_remove("SLURM_ARRAY_TASK_ID").env_remove("SLURM_ARRAY_TASK_COUNT").envs(variables.to_vec());
        command
    };
    run(&mut share(&[("SHARE", "3"), ("SHARES", "3")]), 1);
    // At once, each told of its share in another way.
    let slurm = [("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_MIN", "1"), ("SLURM_ARRAY_TASK_COUNT", "3")];
    let processes = [&slurm[..], &[("JOB_COMPLETION_INDEX", "1"), ("SHARES", "3")], &[("SHARE", "2"), ("SHARES", "3")]]
        .map(|variables| share(variables).spawn().unwrap());
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    let report: Value = serde_json::from_slice(&fs::read(out.join("verified.json")).unwrap()).unwrap();
    assert_eq!((&report["samples"], &report["checksums"]), (&Value::from(10), &Value::from(3)));
    place.import("tree", "whole", &[]);
    assert_eq!(place.samples("out"), place.samples("whole"));
    run(&mut share(&slurm), 0);

    let decoded = place.path("decoded");
    for number in ["1", "0"] {
        let mut command = script("cluster/share", &["reshard", at(&decoded), at(&out), "--decode", "max-side=20"]);
        run(command.env("SHARE", number).env("SHARES", "2"), 0);
    }
    assert_eq!(place.samples("decoded").len(), 10);
    assert!(decoded.join("verified.json").exists());
}

#[test]
fn every_script_says_how_it_is_used() {
    for name in ["reshard-imagenet", "reshard-imagefolder", "reshard-timm-wds", "reshard-parquet", "cluster/share"] {
        let help = run(&mut script(name, &["--help"]), 0);
        assert!(help.contains(&format!("Usage: scripts/{name} ")), "{help}");
        assert!(!help.contains("set -euo"), "{help}");
        assert_eq!(run(&mut script(name, &[]), 2), help);
    }
}
