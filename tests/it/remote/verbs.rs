//! The binary on shards of a web server: what it makes of them is what it makes of the same shards here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use saccade::shard::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::files;
use super::server::{Fault, Server};
use crate::saccade::{at, column, finish, root, saccade, small, temporary};

/// The bundled shards, on a server.
struct Place {
    server: Server,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let server = Server::start();
        for path in bundled() {
            server.put(&format!("set/{}", name(&path)), &fs::read(&path).unwrap());
        }
        Self { server, folder: temporary() }
    }

    /// With a cache of its own.
    fn saccade(&self, arguments: &[&str]) -> Command {
        let mut command = saccade(arguments);
        command.env("SACCADE_CACHE", self.folder.path().join("cache"));
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn fetched(&self) -> Vec<(String, u64)> {
        files(&self.path("cache/remote"))
    }
}

fn bundled() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("shards"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn shards_are_listed_verified_and_copied_as_if_they_were_here() {
    let place = Place::new();
    let (far, here) = (place.server.url("set/fashion-train-{000000..000003}.tar"), "shards/fashion-train-*.tar");
    let list = |shards: &str| json(&finish(&mut place.saccade(&["shards", "list", "--json", shards]), 0).out);
    let mut listed = list(&far);
    for shard in listed.as_array_mut().unwrap() {
        let name = shard["shard"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        shard["shard"] = format!("shards/{name}").into();
    }
    assert_eq!(listed, list(here));
    assert_eq!(place.fetched().len(), 4, "shards without an index beside them are fetched for it");

    let verified = json(&finish(&mut place.saccade(&["shards", "verify", "--json", &far]), 0).out);
    assert_eq!((&verified["problems"], &verified["samples"]), (&0.into(), &6000.into()), "{verified}");

    // In order, shuffled, and shuffled by way of buckets, with less memory than there is to shuffle.
    let copy = |shards: &str, out: &str, more: &[&str]| {
        let out = place.path(out);
        let arguments =
            [&["shards", "reshard", shards, "--out", at(&out), "--name", "s", "--size", "3MB"], more].concat();
        finish(&mut place.saccade(&arguments), 0);
        let mut names = files(&out);
        names.retain(|(name, _)| name.ends_with(".tar"));
        names.into_iter().map(|(name, _)| fs::read(out.join(name)).unwrap()).collect::<Vec<_>>()
    };
    assert!(copy(&far, "far", &[]) == copy(here, "here", &[]));
    let shuffled = ["--shuffle", "7"];
    let expected = copy(here, "here-shuffled", &shuffled);
    assert!(copy(&far, "far-shuffled", &shuffled) == expected);
    assert!(copy(&far, "far-buckets", &["--shuffle", "7", "--memory", "4MB"]) == expected);
}

#[test]
fn a_shard_that_is_listed_there_and_gone_is_a_problem_unless_others_were_left_out_too() {
    let place = Place::new();
    let sum = |path: &PathBuf| format!("{}  {}\n", hex(&Sha256::digest(fs::read(path).unwrap())), name(path));
    let listed: String = bundled().iter().map(sum).collect();
    place.server.put("set/SHA256SUMS", listed.as_bytes());
    let verify = |shards: &str, code: i32| {
        let shards = place.server.url(&format!("set/fashion-{shards}.tar"));
        json(&finish(&mut place.saccade(&["shards", "verify", "--quick", "--json", &shards]), code).out)
    };
    let left_out = verify("train-{000000..000002}", 0);
    assert_eq!(left_out["problems"], 0, "{left_out}");
    place.server.take_away("set/fashion-train-000003.tar");
    let gone = verify("train-{000000..000002}", 1);
    assert_eq!(gone["problems"], 1, "{gone}");
    let entry = gone["shards"].as_array().unwrap().last().unwrap();
    assert!(entry["shard"].as_str().unwrap().ends_with("set/fashion-train-000003.tar"), "{entry}");
    let some = verify("train-{000000..000001}", 0);
    assert_eq!(some["problems"], 0, "000002 is there and was not named: {some}");
}

#[test]
fn training_sees_what_it_would_see_here() {
    let place = Place::new();
    let steps = |out: &str, more: &[&str]| {
        let out = place.path(out);
        let mut command = place.saccade(&["train", "pipelines/quickstart.toml", "--out", at(&out)]);
        let changes = [&["train.epochs=0.3", "score.every_epochs=0.2"], more].concat();
        finish(small(&mut command, &changes), 0);
        column(&out.join("steps.jsonl"), "loss")
    };
    let here = steps("here", &[]);
    assert!(here.len() > 30);
    let train = format!("data.train={}", place.server.url("set/fashion-train-{000000..000003}.tar"));
    let validation = format!("data.validation={}", place.server.url("set/fashion-validation-{000000..000001}.tar"));
    let name = "set/fashion-train-000001.tar";
    place.server.fail(name, &[Fault::Status(500), Fault::CutAfter(100_000)]);
    assert_eq!(steps("far", &[&train, &validation]), here);
    assert_eq!(place.server.gets(name).len(), 3, "{:?}", place.server.gets(name));
}

#[test]
fn what_is_wrong_with_a_remote_set_is_one_line() {
    let place = Place::new();
    let train = |train: &str, more: &[&str]| {
        let out = place.path("none");
        let mut command = place.saccade(&["train", "pipelines/quickstart.toml", "--out", at(&out)]);
        let said = finish(small(&mut command, &[&[&format!("data.train={train}") as &str], more].concat()), 1);
        assert_eq!(said.err.trim_end().lines().filter(|line| line.starts_with("error")).count(), 1, "{}", said.err);
        assert!(!out.exists());
        said.err
    };
    let far = place.server.url("set/fashion-train-{000000..000003}.tar");
    let cases = [
        (train(&place.server.url("set/none.tar"), &[]), vec!["none.tar", "not found"]),
        (train(&place.server.url("set/*.tar"), &[]), vec!["*.tar", "lists no files"]),
        (train(&far, &["data.cache_gb=0.004"]), vec!["data.window = 4", "13 MB", "4 MB", "data.cache_gb"]),
        (train(&place.server.url("set/s.tar?signature=1"), &[]), vec!["signed addresses cannot be used"]),
        (train(&far, &["data.cache_gb=0"]), vec!["data.cache_gb = 0"]),
    ];
    for (said, words) in cases {
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
    let denied = "set/fashion-validation-000000.tar";
    place.server.fail(denied, &[Fault::Status(401)]);
    let said = train(&place.server.url(denied), &["data.window=1"]);
    assert!(said.contains("access denied") && said.contains("SACCADE_HTTP_TOKEN"), "{said}");
}
