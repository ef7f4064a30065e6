//! Bytes on disk: patterns, tar files whole and damaged, indexes, sets and orders.

mod hashes;
mod indexes;
mod orders;
mod patterns;
mod sets;
mod tars;
mod writes;

use std::error::Error;
use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::time::{Duration, SystemTime};

use saccade::shard::{Cache, ShardError, ShardSet, Table, TarError};
use tempfile::TempDir;

type Files<'a> = &'a [(&'a str, &'a [u8])];

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn no_cache() -> Cache {
    Cache::from_variables(|_| None)
}

fn tar_bytes(files: Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn write_tar(path: &Path, files: Files) {
    fs::write(path, tar_bytes(files)).unwrap();
}

/// `shards` tars of `samples[i]` samples each; the image of a sample is its key.
fn write_set(folder: &Path, samples: &[usize]) -> Vec<String> {
    for (shard, count) in samples.iter().enumerate() {
        let keys: Vec<String> = (0..*count).map(|sample| format!("{shard:03}-{sample:03}")).collect();
        let names: Vec<(String, String)> =
            keys.iter().map(|key| (format!("{key}.jpg"), format!("{key}.cls"))).collect();
        let files: Vec<(&str, &[u8])> = (keys.iter().zip(&names))
            .flat_map(|(key, (image, label))| [(image.as_str(), key.as_bytes()), (label.as_str(), b"7\n" as &[u8])])
            .collect();
        write_tar(&folder.join(format!("s-{shard:03}.tar")), &files);
    }
    vec![format!("{}/s-{{000..{:03}}}.tar", folder.display(), samples.len() - 1)]
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn open(patterns: &[String]) -> ShardSet {
    ShardSet::open_with(patterns, false, &no_cache()).unwrap()
}

fn open_one(path: &Path) -> Result<ShardSet, ShardError> {
    ShardSet::open_with(&[text(path)], false, &no_cache())
}

fn table(path: &Path) -> Result<Table, TarError> {
    let file = File::open(path)?;
    Table::of(&file, file.metadata()?.len())
}

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn age(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options().append(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}
