//! What people have on disk, made small and true to form, becomes shards with the right labels.

mod awkward;
#[cfg(feature = "parquet")]
mod parquet;
mod scripts;
mod sources;
mod whole;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::saccade::{SMALL, at, column, finish, root, saccade, temporary};

/// A folder for a source and the shards made of it.
struct Place {
    folder: TempDir,
}

/// A sample of a shard: its key, its label, the extension and the bytes of its image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sample {
    key: String,
    label: Option<u32>,
    extension: String,
    image: Vec<u8>,
}

impl Place {
    fn new() -> Self {
        Self { folder: temporary() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, data: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, data).unwrap();
        path
    }

    /// Imports `source` into the folder `out`; the account.
    fn import(&self, source: &str, out: &str, more: &[&str]) -> Value {
        let account = self.import_unverified(source, out, more);
        finish(&mut saccade(&["shards", "verify", &format!("{}/*.tar", at(&self.path(out)))]), 0);
        account
    }

    fn import_unverified(&self, source: &str, out: &str, more: &[&str]) -> Value {
        let (source, out) = (self.path(source), self.path(out));
        let mut command = saccade(&["shards", "import", at(&source), "--out", at(&out), "--json"]);
        let account: Value = serde_json::from_str(&finish(command.args(more), 0).out).unwrap();
        let number = |key: &str| account[key].as_u64().unwrap();
        let dropped: u64 = account["dropped"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(number("samples_in"), number("samples_out") + dropped, "{account}");
        assert_eq!(self.samples(at(&out)).len() as u64, number("samples_out"), "{account}");
        account
    }

    /// Trains on a folder's shards for two steps, with scores where they have labels.
    fn trains(&self, out: &str) {
        let (shards, run) = (format!("{}/*.tar", self.path(out).display()), self.path(&format!("run-{out}")));
        let has_labels = self.samples(out).iter().all(|sample| sample.label.is_some());
        let train = format!("data.train={shards}");
        let validation = format!("data.validation={shards}");
        let sets = [train.as_str(), validation.as_str(), "data.window=1"];
        let pipeline = fs::read_to_string(root().join("pipelines/quickstart.toml")).unwrap();
        // Scores need labels; the section is the last but for the port's.
        let scored = pipeline.find("[score]").unwrap()..pipeline.find("[telemetry]").unwrap();
        let unscored = self.write("unscored.toml", [&pipeline[..scored.start], &pipeline[scored.end..]].concat());
        let pipeline = if has_labels { "pipelines/quickstart.toml" } else { at(&unscored) };
        let sets = sets.iter().chain(SMALL.iter().filter(|set| has_labels || !set.starts_with("score.")));
        let mut command = saccade(&["train", pipeline, "--out", at(&run)]);
        finish(sets.fold(&mut command, |command, set| command.args(["--set", set])), 0);
        assert_eq!(column(&run.join("steps.jsonl"), "loss").len(), 2, "{out}");
    }

    /// All samples of a folder's shards, in order.
    fn samples(&self, out: &str) -> Vec<Sample> {
        shards(&self.path(out)).iter().flat_map(|shard| samples(shard)).collect()
    }

    /// Keys and labels.
    fn labels(&self, out: &str) -> Vec<(String, Option<u32>)> {
        self.samples(out).into_iter().map(|sample| (sample.key, sample.label)).collect()
    }
}

/// The shards of a folder, in order.
fn shards(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "tar"));
    paths.sort();
    paths
}

fn samples(shard: &Path) -> Vec<Sample> {
    let mut found: Vec<Sample> = Vec::new();
    for entry in tar::Archive::new(File::open(shard).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let (key, extension) = name.rsplit_once('.').unwrap();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        if found.last().is_none_or(|last| last.key != key) {
            found.push(Sample { key: key.into(), label: None, extension: String::new(), image: Vec::new() });
        }
        let last = found.last_mut().unwrap();
        if extension == "cls" {
            last.label = Some(String::from_utf8(data).unwrap().parse().unwrap());
        } else if extension != "json" {
            (last.extension, last.image) = (extension.into(), data);
        }
    }
    found
}

/// Bytes of a reference image.
fn image(name: &str) -> Vec<u8> {
    fs::read(crate::reference().join("images").join(name)).unwrap()
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *data).unwrap();
    }
    tar.into_inner().unwrap()
}
