//! The scripts around the verbs: sets from folders of sources, called twice; shares as processes of their own.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::{Place, Sample, image, samples, shards, tar_of};
use crate::saccade::{at, root};

pub fn script(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(root().join("scripts").join(name));
    command.args(arguments).env("SACCADE", env!("CARGO_BIN_EXE_saccade"));
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub fn run(command: &mut Command, code: i32) -> String {
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
    let source = samples(&root().join("shards/fashion-validation-000000.tar"));
    // As timm/imagenet-1k-wds has them: keys of ImageNet's, `cls`, `jpg`, `json`, of both splits.
    for (number, some) in source[..64].chunks(16).enumerate() {
        let split = if number < 3 { format!("train-{number:04}") } else { "validation-00".into() };
        let member = |(place, sample): (usize, &Sample)| {
            let (key, label) = (format!("n0144076{number}_{place}"), sample.label.unwrap().to_string());
            let json = format!("{{\"label\": {label}, \"width\": 28, \"height\": 28, \"filename\": \"{key}.JPEG\"}}");
            let files = [("cls", label.into_bytes()), ("jpg", sample.image.clone()), ("json", json.into_bytes())];
            files.map(|(ending, data)| (format!("{key}.{ending}"), data))
        };
        let files: Vec<(String, Vec<u8>)> = some.iter().enumerate().flat_map(member).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
        place.write(&format!("in/imagenet1k-{split}.tar"), tar_of(&files));
    }
    let (from, out) = (place.path("in"), place.path("out"));
    run(&mut script("reshard-timm-wds", &[at(&from), at(&out)]), 0);
    assert_eq!(shards(&out).len(), 4);
    fs::remove_file(&shards(&out)[1]).unwrap();
    run(&mut script("reshard-timm-wds", &[at(&from), at(&out)]), 0);
    let made = place.samples("out");
    let labels = |all: &[Sample]| all.iter().map(|sample| sample.label).collect::<Vec<_>>();
    assert!(made.iter().all(|sample| sample.extension == "ppm"));
    assert_eq!(labels(&made), labels(&source[..64]));
    place.trains("out");
    let copied = place.path("copied");
    run(&mut script("reshard-timm-wds", &[at(&from), at(&copied), "--strip-exif"]), 0);
    for (before, after) in shards(&from).iter().zip(shards(&copied)) {
        assert!(members(before) == members(&after), "{}: its json is there, and all else", after.display());
    }
}

/// Names and bytes of all members.
fn members(shard: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut tar = tar::Archive::new(fs::File::open(shard).unwrap());
    let member = |entry: std::io::Result<tar::Entry<'_, fs::File>>| {
        let (mut entry, mut data) = (entry.unwrap(), Vec::new());
        entry.read_to_end(&mut data).unwrap();
        (entry.path().unwrap().into_owned(), data)
    };
    tar.entries().unwrap().map(member).collect()
}

#[test]
fn a_damaged_picture_is_left_out_and_what_cannot_be_verified_stops_no_other_set() {
    let place = Place::new();
    for name in ["train/ant/1.jpg", "train/bee/1.jpg", "val/bee/2.jpg"] {
        place.write(&format!("in/{name}"), image("grey.jpg"));
    }
    place.write("in/train/ant/cut.jpg", image("truncated_half.jpg"));
    let (from, out) = (place.path("in"), place.path("out"));
    run(&mut script("reshard-imagefolder", &[at(&from), at(&out)]), 0);
    assert!(fs::read_to_string(out.join("train.dropped.jsonl")).unwrap().contains("ant/cut"));
    let mut damaged = image("baseline_420.jpg");
    let middle = damaged.len() / 2;
    // All ones, which is no code of any picture.
    damaged[middle..middle + 40].chunks_mut(2).for_each(|pair| pair.copy_from_slice(&[0xFF, 0]));
    place.write("in/train/ant/middle.jpg", damaged);
    let other = place.path("other");
    let said = run(&mut script("reshard-imagefolder", &[at(&from), at(&other)]), 1);
    assert!(said.contains("train: is not sound") && said.contains("--check-images"), "{said}");
    assert!(other.join("validation.json").exists(), "{said}");
    run(&mut script("reshard-imagefolder", &[at(&from), at(&other), "--check-images", "--force"]), 0);
    let labels: Vec<_> = place.samples("other").iter().map(|sample| sample.label.unwrap()).collect();
    assert_eq!(labels, [0, 1, 1]);
}

/// Kills whatever writes a file of more than 60 KiB.
fn killed(command: &Command) -> Command {
    let mut limited = Command::new("bash");
    limited.args(["-c", "ulimit -c 0 -f 60; exec \"$@\"", "limited"]).arg(command.get_program());
    limited.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

#[test]
fn a_set_whose_making_was_killed_is_finished_by_the_same_call() {
    let place = Place::new();
    for number in 0..4 {
        // The third is too large, and the first is in its place by then.
        let more = vec![0; if number == 2 { 90_000 } else { 1 }];
        let files: [(&str, &[u8]); 3] = [("jpg", &image("grey.jpg")), ("cls", b"5"), ("bin", &more)];
        let files = files.map(|(ending, data)| (format!("k{number}.{ending}"), data));
        let files: Vec<_> = files.iter().map(|(name, data)| (name.as_str(), *data)).collect();
        place.write(&format!("in/k-train-{number:04}.tar"), tar_of(&files));
    }
    let check = |out: &str, command: &dyn Fn() -> Command| {
        run(&mut killed(&command()), 1);
        let (out, state) = (place.path(out), place.path(out).join("k-train-0000.unfinished.jsonl"));
        assert!(state.exists() && out.join("k-train-0000.tar").exists() && shards(&out).len() < 4);
        run(&mut command(), 0);
        assert!(!state.exists());
        assert_eq!(fs::read_to_string(out.join("SHA256SUMS")).unwrap().lines().count(), 4);
        let index: Value = serde_json::from_slice(&fs::read(out.join("k-train.json")).unwrap()).unwrap();
        assert_eq!(index["shardlist"].as_array().unwrap().len(), 4);
        assert_eq!(run(&mut command(), 0).matches("going on").count(), 0, "nothing is left to do");
    };
    let (from, one, two) = (place.path("in"), place.path("one"), place.path("two"));
    check("one", &|| script("reshard-timm-wds", &[at(&from), at(&one)]));
    check("two", &|| {
        let mut command = share(&["reshard", at(&two), at(&from), "--decode", "max-side=256"]);
        command.env("SHARE", "0").env("SHARES", "1");
        command
    });
    let other = run(&mut script("reshard-timm-wds", &[at(&from), at(&one), "--jpeg", "max-side=9"]), 1);
    assert!(other.contains("k-train-0000.tar: is there, but of another call"), "{other}");
}

#[test]
fn the_splits_after_one_that_fails_are_made_and_a_training_needs_the_first() {
    let place = Place::new();
    for split in ["broken", "test", "train", "validation"] {
        place.write(&format!("in/{split}-00000-of-00001.parquet"), "");
    }
    // The program may be built without parquet, so that another says what it was called for.
    let text = "#!/bin/sh\n[ \"$2\" = verify ] && exit\nfor name; do :; done\nlist=\"$(dirname \"$0\")/out/$name\"\n\
                echo \"made $name\"\n[ $name != broken ] || exit 1\ntouch \"$list.json\"\n\
                echo \"{\\\"shard\\\":\\\"$(ls -d \"$3\"/*)\\\"}\" >\"$list.dropped.jsonl\"\n";
    let program = place.write("program", text);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (from, out) = (place.path("in"), place.path("out"));
    let said = run(script("reshard-parquet", &[at(&from), at(&out)]).env("SACCADE", &program), 1);
    let made: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("made ")).collect();
    assert_eq!(made, ["train", "validation", "broken", "test"]);
    assert!(said.contains("broken: failed") && !said.contains("test: failed"), "{said}");
    let list: Value = serde_json::from_slice(&fs::read(out.join("train.dropped.jsonl")).unwrap()).unwrap();
    let file = from.canonicalize().unwrap().join("train-00000-of-00001.parquet");
    assert_eq!(list["shard"], at(&file));
}

fn share(arguments: &[&str]) -> Command {
    let mut command = script("cluster/share", arguments);
    for name in ["ID", "COUNT", "MIN"] {
        command.env_remove(format!("SLURM_ARRAY_TASK_{name}"));
    }
    command.env_remove("SHARES");
    command
}

#[test]
fn shares_are_together_the_set_and_the_last_verifies_it() {
    let place = Place::new();
    for number in 0..10 {
        place.write(&format!("tree/c{}/{number}.jpg", number % 3), image("grey.jpg"));
    }
    // Of the same name but for the ending, and in another share than the first.
    place.write("tree/c1/1.png", image("grey.jpg"));
    let (tree, out) = (place.path("tree"), place.path("out"));
    let import = |variables: &[(&str, &str)]| {
        let mut command = share(&["import", at(&out), "train", at(&tree)]);
        command.envs(variables.to_vec());
        command
    };
    run(&mut import(&[("SHARE", "3"), ("SHARES", "3")]), 1);
    // At once, each told of its share in another way.
    let slurm = [("SLURM_ARRAY_TASK_ID", "0"), ("SLURM_ARRAY_TASK_MIN", "0"), ("SLURM_ARRAY_TASK_COUNT", "3")];
    let processes = [&slurm[..], &[("JOB_COMPLETION_INDEX", "1"), ("SHARES", "3")], &[("SHARE", "2"), ("SHARES", "3")]]
        .map(|variables| import(variables).spawn().unwrap());
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    let report: Value = serde_json::from_slice(&fs::read(out.join("verified.json")).unwrap()).unwrap();
    assert_eq!((&report["samples"], &report["checksums"]), (&Value::from(11), &Value::from(3)));
    place.import("tree", "whole", &[]);
    assert_eq!(place.samples("out"), place.samples("whole"));
    run(&mut import(&slurm), 0);

    let decoded = place.path("decoded");
    for number in ["1", "0"] {
        let mut command = share(&["reshard", at(&decoded), at(&out), "--decode", "max-side=20"]);
        run(command.env("SHARE", number).env("SHARES", "2"), 0);
    }
    assert_eq!(place.samples("decoded").len(), 11);
    assert!(decoded.join("verified.json").exists());
}

#[test]
fn a_task_that_is_submitted_again_alone_stays_the_share_it_was() {
    let place = Place::new();
    for number in 0..4 {
        place.write(&format!("tree/c/{number}.jpg"), image("grey.jpg"));
    }
    let (tree, out) = (place.path("tree"), place.path("out"));
    let task = |number: &str, shares: &str| {
        let mut command = share(&["import", at(&out), "train", at(&tree)]);
        let variables = [("ID", number), ("COUNT", "1"), ("MIN", number)];
        command.envs(variables.map(|(name, value)| (format!("SLURM_ARRAY_TASK_{name}"), value)));
        command.env("SHARES", shares);
        command
    };
    assert!(run(&mut task("1", ""), 1).contains("set SHARES"));
    assert!(run(&mut task("1", "2"), 0).contains("1 of 2 shares are done"));
    assert!(run(&mut task("0", "2"), 0).contains("all 2 shares are done and sound"));
    let names: Vec<_> = shards(&out).iter().map(|shard| shard.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["train-0000-000000.tar", "train-0001-000000.tar"]);
}

#[test]
fn the_files_for_slurm_and_kubernetes_start_the_shares() {
    let place = Place::new();
    for number in 0..4 {
        place.write(&format!("tree/c/{number}.jpg"), image("grey.jpg"));
    }
    let (tree, out) = (place.path("tree"), place.path("out"));
    let slurm = fs::read_to_string(root().join("scripts/cluster/share.slurm")).unwrap();
    assert!(slurm.contains("#SBATCH --array=0-15") && slurm.contains("SHARES=${SHARES:-16}"));
    // Slurm runs a copy of the file, in the folder from which it was submitted.
    let copy = place.write("spool/slurm_script", slurm);
    let slurm = |words: &[&str], share: &str, shares: &str| {
        let mut command = Command::new("bash");
        command.arg(&copy).args(words).current_dir(place.path("spool")).env("SLURM_SUBMIT_DIR", root());
        command.env("SACCADE", env!("CARGO_BIN_EXE_saccade")).env("SLURM_ARRAY_TASK_ID", share);
        run(command.env("SHARES", shares), 0)
    };
    for share in ["0", "1"] {
        slurm(&["import", at(&out), "train", at(&tree)], share, "2");
    }
    let decoded = place.path("decoded");
    slurm(&["reshard", at(&decoded), at(&out), "--decode", "max-side=20"], "0", "1");
    assert_eq!((place.samples("out").len(), place.samples("decoded").len()), (4, 4));

    let job = fs::read_to_string(root().join("scripts/cluster/share-job.yaml")).unwrap();
    let value = |key: &str| {
        let lines = job.lines().filter_map(|line| line.trim_start().strip_prefix(key));
        lines.map(str::trim).next().unwrap_or_else(|| panic!("no {key}")).to_owned()
    };
    assert_eq!((value("completionMode:"), value("parallelism:")), ("Indexed".into(), value("completions:")));
    assert_eq!(value("- { name: SHARES, value:"), format!("\"{}\" }}", value("completions:")));
    let words: Vec<String> = serde_json::from_str(&value("command:")).unwrap();
    let (program, words) = words.split_first().unwrap();
    let other = place.path("other");
    let words = words.iter().map(|word| match word.as_str() {
        "/out" => at(&other),
        "/in/ILSVRC2012_img_train.tar" => at(&tree),
        word => word,
    });
    let mut pod = Command::new(root().join(program.strip_prefix("/saccade/").unwrap()));
    pod.args(words)
        .env_remove("SLURM_ARRAY_TASK_ID")
        .env("SACCADE", env!("CARGO_BIN_EXE_saccade"))
        .env("JOB_COMPLETION_INDEX", "0")
        .env("SHARES", "1");
    run(&mut pod, 0);
    assert_eq!(place.samples("other").len(), 4);
}

#[test]
fn what_one_call_has_done_is_not_done_for_another() {
    let place = Place::new();
    for number in 0..3 {
        place.write(&format!("tree/c/{number}.jpg"), image("grey.jpg"));
    }
    let (tree, out) = (place.path("tree"), place.path("out"));
    let call = |name: &str, more: &[&str], code: i32| {
        let mut command = share(&["import", at(&out), name, at(&tree)]);
        run(command.args(more).env("SHARE", "0").env("SHARES", "1"), code)
    };
    call("train", &[], 0);
    assert!(call("train", &["--shuffle", "3"], 1).contains("of another call"));
    call("validation", &[], 0);
    assert!(out.join("validation-0000-000000.tar").exists());
    call("train", &[], 0);
}

#[test]
fn a_verifier_that_was_killed_holds_nobody_up_and_one_at_work_is_named() {
    let place = Place::new();
    place.write("tree/c/0.jpg", image("grey.jpg"));
    let (tree, out) = (place.path("tree"), place.path("out"));
    let call = || run(share(&["import", at(&out), "train", at(&tree)]).env("SHARE", "0").env("SHARES", "1"), 0);
    call();
    let marks = fs::read_dir(out.join(".shares")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(out.join("verified.json")).unwrap();
    let lock = fs::File::options().append(true).open(marks.join("verifying")).unwrap();
    lock.lock().unwrap();
    assert!(call().contains("another process verifies them"));
    assert!(!out.join("verified.json").exists());
    // As the end of a process does, the file staying where it is.
    drop(lock);
    assert!(call().contains("done and sound"));
    assert!(out.join("verified.json").exists());
}

#[test]
fn every_script_says_how_it_is_used() {
    for name in ["reshard-imagenet", "reshard-imagefolder", "reshard-timm-wds", "reshard-parquet", "cluster/share"] {
        let help = run(&mut script(name, &["--help"]), 0);
        assert!(help.contains(&format!("Usage: scripts/{name} ")), "{help}");
        assert!(!help.contains("set -euo"), "{help}");
        assert_eq!(run(&mut script(name, &[]), 2), help);
    }
    for name in ["make-sample-shards", "fetch-cifar10"] {
        let help = run(&mut script(name, &["--help"]), 0);
        assert!(help.contains(&format!("Usage: scripts/{name} ")) && !help.contains("set -euo"), "{help}");
        assert!(run(&mut script(name, &["--nothing"]), 2).contains("--nothing: no such option"));
    }
}
