//! Work that is stopped on its way: killed and taken up, a full disk, a source that changes; damaged and awkward tars.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use saccade::run::reshard::{Event, Layout, Reshard, reshard};
use saccade::shard::write::{Dropped, SetSpec, SetWriter, Split, WriteError};
use saccade::shard::{Cache, Index};

use super::orders::set;
use super::{Place, SHARDS, members, picture, png};
use crate::saccade::{at, finish, root, saccade};

#[test]
fn a_file_that_is_no_index_is_not_written_over() {
    let place = Place::new();
    let shard = place.write("in/a.tar", &vec![("x.png".to_owned(), png(&picture(4, 4, 1)))]);
    fs::create_dir_all(place.path("out")).unwrap();
    fs::write(place.path("out/s.json"), "{\"mine\": 1}").unwrap();
    let wanted = |force: bool| {
        let layout = Layout { name: Some("s".into()), ..Layout::default() };
        Reshard { layout, force, ..place.copied(std::slice::from_ref(&shard), "out") }
    };
    let error = format!("{:#}", reshard(&wanted(false), &mut |_| {}).unwrap_err());
    assert!(error.contains("s.json: exists already") && error.contains("--force"), "{error}");
    assert_eq!(place.names("out"), ["s.json"]);
    reshard(&wanted(true), &mut |_| {}).unwrap();
}

/// What is done to a file or a folder.
type Harm = fn(&Path);

/// Files of a folder but for indexes, which hold the time.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let named = entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path));
    let kept = named.filter(|(name, _)| !name.ends_with(".index"));
    kept.map(|(name, path)| (name, fs::read(&path).unwrap_or_else(|_| b"a folder".to_vec()))).collect()
}

/// Resharding 1,200 samples into 120 shards of two sets, some filtered.
fn many(out: &Path, memory: &str) -> Command {
    let options = ["--shuffle", "3", "--samples", "10", "--held-out", "0.3", "--name", "k", "--classes", "0-8"];
    let mut command = saccade(&["shards", "reshard", SHARDS, "--out", at(out), "--memory", memory]);
    command.args(options);
    command
}

/// Runs until this many shards were finished, and kills; says whether there was something to kill.
fn killed_after(command: &mut Command, shards: usize) -> bool {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let finished = lines.map_while(Result::ok).filter(|line| line.contains("samples/s")).take(shards).count();
    child.kill().unwrap();
    let status = child.wait().unwrap();
    finished == shards && status.signal() == Some(9)
}

#[test]
fn a_killed_call_goes_on_where_its_last_finished_shard_ends() {
    let place = Place::new();
    // In memory, and by two passes.
    for memory in ["1GB", "100kB"] {
        let (whole, cut) = (place.path(&format!("whole-{memory}")), place.path(&format!("cut-{memory}")));
        finish(&mut many(&whole, memory), 0);
        let mut kills = 0;
        for shards in [1, 7, 2, 11, 1, 30] {
            kills += usize::from(killed_after(&mut many(&cut, memory), shards));
            let times = |folder: &Path| -> BTreeMap<String, std::time::SystemTime> {
                let shards = contents(folder).into_keys().filter(|name| name.ends_with(".tar"));
                shards
                    .map(|name| (name.clone(), fs::metadata(folder.join(&name)).unwrap().modified().unwrap()))
                    .collect()
            };
            let before = times(&cut);
            assert!(killed_after(&mut many(&cut, memory), 1) || before.len() > 100);
            // The last of each set may have been named in the state but not yet been in its place.
            let rewritten = before.iter().filter(|(name, time)| times(&cut).get(*name) != Some(time)).count();
            assert_eq!(rewritten, 0, "finished shards are left alone");
        }
        assert!(kills > 3, "{kills} kills came in time");
        let said = finish(&mut many(&cut, memory), 0);
        assert!(said.err.contains("going on after"), "{}", said.err);
        assert_eq!(contents(&cut).keys().collect::<Vec<_>>(), contents(&whole).keys().collect::<Vec<_>>());
        assert!(contents(&cut) == contents(&whole), "the resumed set differs");
    }
}

#[test]
fn an_unfinished_set_is_not_mixed_with_another_request() {
    let place = Place::new();
    let out = place.path("out");
    assert!(killed_after(&mut many(&out, "1GB"), 3));
    let other = |more: &[&str]| {
        let mut command =
            saccade(&["shards", "reshard", SHARDS, "--out", at(&out), "--shuffle", "4", "--samples", "100"]);
        command.args(["--held-out", "0.3", "--name", "k"]).args(more);
        command
    };
    let said = finish(&mut other(&[]), 1);
    assert!(said.err.contains("unfinished set of another request lies here"), "{}", said.err);
    assert_eq!(said.err.trim_end().lines().count(), 1, "{}", said.err);
    finish(&mut other(&["--force"]), 0);
    let samples: usize =
        ["k-train", "k-held-out"].iter().flat_map(|name| set(&out, name)).map(|shard| shard.len() / 2).sum();
    assert_eq!(samples, 1200);
    assert!(contents(&out).keys().all(|name| !name.contains("unfinished")));
}

#[test]
fn a_full_disk_is_one_line_and_leaves_nothing_that_looks_whole() {
    let place = Place::new();
    let out = place.path("out");
    // The limit of a file's size stands for the disk's; the shell has it reported instead of killing.
    let script = format!(
        "trap '' XFSZ; ulimit -f 600; exec '{}' shards reshard --name big --size 1GB '{SHARDS}' --out '{}'",
        env!("CARGO_BIN_EXE_saccade"),
        at(&out)
    );
    let said = finish(Command::new("bash").args(["-c", &script]).current_dir(root()).env_remove("RUST_LOG"), 1);
    assert!(said.err.contains("big-000000.tar: cannot be written: File too large"), "{}", said.err);
    assert_eq!(said.err.trim_end().lines().count(), 1, "{}", said.err);
    assert!(contents(&out).is_empty(), "{:?}", contents(&out).keys());
}

#[test]
fn a_source_that_changes_meanwhile_is_named() {
    let place = Place::new();
    let sample = |key: &str| (format!("{key}.png"), png(&picture(40, 40, 1)));
    let change: [(&str, Harm); 3] = [
        ("cut", |path| File::options().write(true).open(path).unwrap().set_len(700).unwrap()),
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("replaced", |path| fs::write(path, fs::read(path).unwrap()).unwrap()),
    ];
    for (name, change) in change {
        for shuffle in [None, Some(1)] {
            let folder = format!("{name}{}", shuffle.is_some());
            let shards = ["a", "b"]
                .map(|key| place.write(&format!("{folder}/{key}.tar"), &vec![sample(key), sample(&format!("{key}2"))]));
            let layout = Layout { shuffle, name: Some("n".into()), ..Layout::default() };
            let out = format!("{folder}-out");
            let mut after_the_choice = |event: &Event| {
                if let Event::Begun { .. } = event {
                    change(Path::new(&shards[1]));
                }
            };
            let wanted = Reshard { layout, ..place.copied(&shards, &out) };
            let error = format!("{:#}", reshard(&wanted, &mut after_the_choice).unwrap_err());
            assert!(error.contains("b.tar") && !error.contains('\n'), "{name}: {error}");
            assert!(place.names(&out).iter().all(|name| !name.ends_with(".part")), "{:?}", place.names(&out));
        }
    }
}

#[test]
fn a_source_that_is_cut_while_it_is_read_is_named_and_what_was_finished_stays() {
    let place = Place::new();
    // 8 MB each. With one worker 48 MB may be read and not yet written, so that the last are unread when the fourth is
    // settled.
    const SIDE: usize = 1_640;
    let sample = |number: usize| {
        let picture = [format!("P6\n{SIDE} {SIDE}\n255\n").into_bytes(), vec![number as u8; 3 * SIDE * SIDE]].concat();
        (format!("k{number:02}.ppm"), picture)
    };
    let all: Vec<_> = (0..20).map(sample).collect();
    let shard = place.write("in/a.tar", &all);
    let layout = Layout { most_samples: Some(1), name: Some("n".into()), ..Layout::default() };
    let wanted = Reshard { workers: 1, layout, ..place.copied(std::slice::from_ref(&shard), "out") };
    let mut cut = |event: &Event| {
        if let Event::Settled(4) = event {
            File::options().write(true).open(&shard).unwrap().set_len(150_000_000).unwrap();
        }
    };
    let error = format!("{:#}", reshard(&wanted, &mut cut).unwrap_err());
    assert!(error.contains("a.tar") && !error.contains('\n'), "{error}");
    let names = place.names("out");
    assert!(names.iter().all(|name| !name.ends_with(".part")), "{names:?}");
    let tars: Vec<&String> = names.iter().filter(|name| name.ends_with(".tar")).collect();
    assert!((3..20).contains(&tars.len()), "the first three were ended: {names:?}");
    for (name, expected) in tars.iter().zip(&all) {
        assert!(members(&place.path(&format!("out/{name}"))) == std::slice::from_ref(expected), "{name}");
    }
}

#[test]
fn every_sample_of_an_awkward_tar_is_accounted_for_or_the_tar_refused_in_a_line() {
    let place = Place::new();
    let mut tars: Vec<PathBuf> =
        fs::read_dir(crate::reference().join("tars")).unwrap().flatten().map(|entry| entry.path()).collect();
    tars.retain(|path| path.extension().is_some_and(|end| end == "tar"));
    tars.sort();
    assert!(tars.len() > 5, "{tars:?}");
    // Their members are no images, so that every sample of a tar that can be read is listed as dropped.
    let mut read = 0;
    for (number, tar) in tars.iter().enumerate() {
        let out = format!("out{number}");
        let error = format!("{:#}", reshard(&place.copied(&[at(tar).to_owned()], &out), &mut |_| {}).unwrap_err());
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
        if let Some((_, list)) = error.split_once("could be taken over; ") {
            assert!(list.contains("dropped.jsonl"), "{error}");
            let keys: BTreeSet<String> = place.dropped(&out).into_iter().map(|line| line.key).collect();
            let index = Index::make(tar, &Cache::from_variables(|_| None)).unwrap().0;
            assert_eq!(keys, index.table.samples().map(|sample| sample.key.to_owned()).collect());
            assert!(members(&place.path(&out).join(tar.file_name().unwrap())).is_empty());
            read += 1;
        } else {
            assert!(!place.path(&out).exists(), "{error}: {:?}", place.names(&out));
        }
    }
    assert!(read > 5 && read < tars.len(), "{read} of {tars:?}");
}

/// Writes 25 samples into shards of 4, every fifth dropped, from wherever the set stands, and stops after `most`.
fn write(spec: &SetSpec, most: u64) -> Result<bool, WriteError> {
    let cache = Cache::from_variables(|_| None);
    let mut set = SetWriter::create(spec, &cache)?;
    while set.settled() < most.min(25) {
        let key = format!("k{}", set.settled());
        if set.settled() % 5 == 4 {
            set.drop_sample(Dropped { key, shard: "from".into(), reason: "bad".into(), detail: "é\n".into() })?;
        } else {
            let data = vec![set.settled() as u8; 700];
            set.add(&key, &[("bin", &data), ("cls", b"1")])?;
        }
    }
    if most <= 25 {
        while set.place()?.is_some() {}
        return Ok(false);
    }
    let account = set.finish()?;
    assert_eq!((account.samples, account.settled, account.dropped["bad"]), (20, 25, 5));
    Ok(true)
}

fn spec(folder: PathBuf) -> SetSpec {
    let split = Split::Numbered { most_samples: Some(4), most_bytes: None };
    SetSpec { to: folder.into(), name: "w".into(), split, request: "r".into(), force: false }
}

#[test]
fn whatever_state_a_kill_leaves_the_set_comes_out_the_same() {
    let place = Place::new();
    let whole = place.path("whole");
    assert!(write(&spec(whole.clone()), 99).unwrap());
    let state = "w.unfinished.jsonl";
    // What a kill may have left, done to a set of which some shards are finished.
    let harm: [(&str, Harm); 7] = [
        ("nothing", |_| {}),
        ("a line before its shard", |folder| fs::remove_file(folder.join("w-000003.tar")).unwrap()),
        ("half a line", |folder| {
            let path = folder.join("w.unfinished.jsonl");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, &text[..text.len() - 9]).unwrap();
            fs::remove_file(folder.join("w-000003.tar")).unwrap();
        }),
        ("half an index", |folder| {
            fs::remove_file(folder.join("w-000003.tar.index")).unwrap();
            fs::write(folder.join(".w-000003.tar.index.99-0.tmp"), "half").unwrap();
        }),
        ("half a shard", |folder| fs::write(folder.join("w-000004.tar.part"), "half").unwrap()),
        ("dropped samples of a shard that is not there", |folder| {
            let path = folder.join("w.dropped.jsonl");
            fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"key\": \"k1").unwrap();
        }),
        ("a shard that is not as it was", |folder| fs::write(folder.join("w-000001.tar"), "other").unwrap()),
    ];
    for (name, harm) in harm {
        let folder = place.path(name);
        assert!(!write(&spec(folder.clone()), 23).unwrap());
        assert!(folder.join(state).exists(), "{name}");
        harm(&folder);
        assert!(write(&spec(folder.clone()), 99).unwrap_or_else(|error| panic!("{name}: {error}")));
        assert!(contents(&folder) == contents(&whole), "{name}: {:?}", contents(&folder).keys());
        let mut shards = contents(&folder).into_keys().filter(|name| name.ends_with(".tar"));
        assert!(shards.all(|shard| folder.join(format!("{shard}.index")).exists()), "{name}: an index is missing");
    }
}

/// Whoever takes the set up would think that the samples of the one before were settled.
#[test]
fn a_shard_behind_one_that_failed_does_not_come_into_its_place() {
    let place = Place::new();
    let folder = place.path("out");
    let names: Vec<String> = ["a.tar", "b.tar", "c.tar"].map(String::from).to_vec();
    let spec = SetSpec { split: Split::Named(names), ..spec(folder.clone()) };
    let cache = Cache::from_variables(|_| None);
    let mut set = SetWriter::create(&spec, &cache).unwrap();
    let mut failed = false;
    for name in ["a", "b", "c"] {
        set.add(name, &[("bin", name.as_bytes())]).unwrap();
        if name == "b" {
            // It was begun, and somebody else is first.
            fs::write(folder.join("b.tar"), "mine").unwrap();
        }
        failed = failed || set.next_shard().is_err();
        if failed {
            break;
        }
    }
    while !failed && set.written().len() < 2 {
        failed = set.place().is_err();
    }
    set.save_ended();
    drop(set);
    assert!(failed, "a shard took the place of a file that is nobody's to write over");
    assert_eq!(fs::read_to_string(folder.join("b.tar")).unwrap(), "mine");
    assert!(!folder.join("c.tar").exists() && !folder.join("c.tar.part").exists(), "{:?}", place.names("out"));

    fs::remove_file(folder.join("b.tar")).unwrap();
    let mut set = SetWriter::create(&spec, &cache).unwrap();
    assert_eq!((set.settled(), set.kept()), (1, 1));
    for name in ["b", "c"] {
        set.add(name, &[("bin", name.as_bytes())]).unwrap();
        set.next_shard().unwrap();
    }
    assert_eq!(set.finish().unwrap().samples, 3);
}

#[test]
fn sets_of_others_are_not_written_over() {
    let place = Place::new();
    let folder = place.path("out");
    assert!(!write(&spec(folder.clone()), 18).unwrap());
    let other = SetSpec { request: "another".into(), ..spec(folder.clone()) };
    assert!(matches!(write(&other, 99), Err(WriteError::Unfinished { .. })));
    fs::write(folder.join("w-000004.tar"), "mine").unwrap();
    assert!(matches!(write(&spec(folder.clone()), 99), Err(WriteError::Exists { .. })));
    assert_eq!(fs::read_to_string(folder.join("w-000004.tar")).unwrap(), "mine");
    assert!(write(&SetSpec { force: true, ..other }, 99).unwrap());
    for name in ["", "a/b"] {
        let named = SetSpec { name: name.into(), ..spec(place.path("named")) };
        assert!(matches!(write(&named, 99), Err(WriteError::SetName { .. })), "{name}");
    }
    let busy = SetWriter::create(&spec(place.path("busy")), &Cache::from_variables(|_| None)).unwrap();
    assert!(matches!(write(&spec(place.path("busy")), 99), Err(WriteError::Busy { .. })));
    drop(busy);
    assert!(contents(&place.path("busy")).is_empty(), "a set that was not begun leaves nothing");
    let mut twice = SetWriter::create(&spec(place.path("twice")), &Cache::from_variables(|_| None)).unwrap();
    twice.add("k", &[("bin", b"1")]).unwrap();
    assert!(matches!(twice.add("k", &[("png", b"1")]), Err(WriteError::SameKey { .. })));
}
