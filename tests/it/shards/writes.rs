//! Shards as we write them: the same bytes each time, read back by others, put in place whole or not at all.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use saccade::shard::write::{SetSpec, SetWriter, ShardWriter, Split, WriteError, free_bytes};
use saccade::shard::{Index, Label};
use sha2::{Digest, Sha256};

use super::{folder, no_cache, open_one, table, text};

type Members<'a> = &'a [(&'a str, &'a str, &'a [u8])];

fn write(path: &Path, members: Members) -> u64 {
    let mut writer = ShardWriter::create(path, false).unwrap();
    for (key, extension, data) in members {
        writer.add(key, extension, data).unwrap();
    }
    writer.finish(&no_cache()).unwrap()
}

/// Names and data as the `tar` crate reads them.
fn members(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let read = |entry: std::io::Result<tar::Entry<File>>| {
        let mut entry = entry.unwrap();
        let header = entry.header();
        let fields = (header.mode().unwrap(), header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap());
        assert_eq!(fields, (0o644, 0, 0, 0));
        assert_eq!((header.username_bytes(), header.groupname_bytes()), (Some(&b""[..]), Some(&b""[..])));
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        (name, data)
    };
    archive.entries().unwrap().map(read).collect()
}

#[test]
fn what_is_written_is_read_back_by_us_and_by_others() {
    let (long, deep) = ("n".repeat(300), format!("{}/b", "d/e".repeat(40)));
    let edges = ["x".repeat(96), "x".repeat(97)];
    let keys = ["a", "train/n01/b c", "größe/übung-日本", "tab\there", deep.as_str(), long.as_str()];
    let keys: Vec<&str> = keys.into_iter().chain(edges.iter().map(String::as_str)).collect();
    let data: Vec<Vec<u8>> = (0..keys.len()).map(|number| vec![number as u8; number * 511]).collect();
    let folder = folder();
    let path = folder.path().join("s.tar");
    let all: Vec<(&str, &str, &[u8])> =
        keys.iter().zip(&data).flat_map(|(key, data)| [(*key, "ppm", data.as_slice()), (*key, "cls", b"7")]).collect();
    let size = write(&path, &all);
    assert_eq!(fs::metadata(&path).unwrap().len(), size);

    let expected: Vec<_> = all.iter().map(|(key, end, data)| (format!("{key}.{end}"), data.to_vec())).collect();
    assert_eq!(members(&path), expected);
    let set = open_one(&path).unwrap();
    let mut image = Vec::new();
    for (number, pair) in all.chunks(2).enumerate() {
        let sample = set.sample(number as u32);
        assert_eq!((sample.key, sample.label), (pair[0].0, Some(7)));
        set.read(number as u32, &mut image).unwrap();
        assert_eq!(image, pair[0].2);
    }
}

#[test]
fn the_index_that_is_kept_is_the_one_that_a_walk_makes() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    let long = "k".repeat(150);
    write(
        &path,
        &[("a", "ppm", b"1"), ("a", "cls", b" 3\n"), (&long, "ppm", b"22"), ("c", "cls", b"-1"), ("d", "json", b"{}")],
    );
    let kept = Index::decode(&fs::read(folder.path().join("s.tar.index")).unwrap()).unwrap();
    assert_eq!(kept.table, table(&path).unwrap());
    let labels: Vec<Label> = kept.table.samples().map(|sample| sample.label).collect();
    assert_eq!(labels, [Label::Known(3), Label::None, Label::Bad, Label::None]);
    let (walked, _) = Index::make(&path, &no_cache()).unwrap();
    assert_eq!(kept, walked);
}

#[test]
fn a_shard_without_samples_is_a_tar() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    assert_eq!(write(&path, &[]), 1024);
    assert!(table(&path).unwrap().is_empty());
}

#[test]
fn the_same_members_give_the_same_bytes() {
    let folder = folder();
    let paths = ["one.tar", "other.tar"].map(|name| folder.path().join(name));
    for path in &paths {
        write(path, &[("ä", "ppm", b"1"), ("b", "cls", b"3")]);
    }
    assert_eq!(fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap());
}

/// Shards go to the disk in pieces of 4 MiB, past the system's cache where the file system has a way.
#[test]
fn shards_of_all_sizes_are_on_the_disk_as_they_were_pushed() {
    const PIECE: usize = 4 << 20;
    /// More than there are buffers, so that some are waited for.
    const MANY: usize = 70;
    // With a header before each and two blocks after it, some end with a piece, others just before or after one.
    let ends = [PIECE - 1536, PIECE - 1537, PIECE - 1535, PIECE - 512, 2 * PIECE - 1536, MANY * PIECE + 4000];
    let sizes: Vec<usize> = [0, 1, 511, 4096 - 1536].into_iter().chain(ends).collect();
    let pixels: Vec<u8> =
        (0..(MANY + 1) as u32 * PIECE as u32).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let in_memory = Path::new("/dev/shm");
    let folders = [Some(folder()), in_memory.is_dir().then(|| tempfile::tempdir_in(in_memory).unwrap())];
    for folder in folders.into_iter().flatten() {
        let split = Split::Numbered { most_samples: Some(1), most_bytes: None };
        let to = folder.path().to_owned().into();
        let spec = SetSpec { to, name: "s".into(), split, request: "r".into(), force: false };
        let mut set = SetWriter::create(&spec, &no_cache()).unwrap();
        for (number, size) in sizes.iter().enumerate() {
            set.add(&format!("k{number}"), &[("bin", &pixels[..*size])]).unwrap();
        }
        assert_eq!(set.finish().unwrap().shards, sizes.len() as u64);
        let sums = fs::read_to_string(folder.path().join("SHA256SUMS")).unwrap();
        for (number, size) in sizes.iter().enumerate() {
            let path = folder.path().join(format!("s-{number:06}.tar"));
            let bytes = fs::read(&path).unwrap();
            let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(sums.contains(&format!("{sum}  s-{number:06}.tar")), "{size} bytes: {sum} is not in {sums}");
            let found = members(&path);
            assert!(found == [(format!("k{number}.bin"), pixels[..*size].to_vec())], "{size} bytes at {path:?}");
        }
    }
}

/// A shard's hash lies about for the next shard's, which never comes here.
#[test]
fn a_set_that_is_given_up_leaves_no_part_of_an_ended_shard() {
    let folder = folder();
    let split = Split::Numbered { most_samples: Some(1), most_bytes: None };
    let to = folder.path().to_owned().into();
    let spec = SetSpec { to, name: "s".into(), split, request: "r".into(), force: false };
    let mut set = SetWriter::create(&spec, &no_cache()).unwrap();
    set.add("k", &[("bin", &vec![7; 9 << 20])]).unwrap();
    set.end_shard().unwrap();
    drop(set);
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.contains(".tar")).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn names_that_would_be_read_as_others_are_refused() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    for (key, extension) in [("a.b", "ppm"), ("", "ppm"), ("dir/", "ppm"), ("./a", "ppm"), ("a", "PPM"), ("a", "x/y")] {
        let error = ShardWriter::create(&path, false).unwrap().add(key, extension, b"").unwrap_err();
        assert!(matches!(error, WriteError::Name { .. }), "{key} {extension}: {error}");
    }
    let mut writer = ShardWriter::create(&path, false).unwrap();
    writer.add("a", "ppm", b"").unwrap();
    assert!(matches!(writer.add("a", "ppm", b"").unwrap_err(), WriteError::Unsound { .. }));
    let mut writer = {
        drop(writer);
        ShardWriter::create(&path, false).unwrap()
    };
    ["a", "b", "a"].into_iter().zip(["ppm", "ppm", "cls"]).for_each(|(key, end)| writer.add(key, end, b"1").unwrap());
    assert!(matches!(writer.finish(&no_cache()).unwrap_err(), WriteError::Unsound { .. }));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a shard that failed leaves nothing");
}

#[test]
fn nothing_is_in_place_before_the_shard_is_whole() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    let mut writer = ShardWriter::create(&path, false).unwrap();
    writer.add("a", "ppm", b"1").unwrap();
    assert!(!path.exists());
    let busy = ShardWriter::create(&path, false).err().unwrap();
    assert_eq!(busy.to_string(), format!("{}.part: is being written by another process", text(&path)));
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    // A killed process leaves its part, which the next one takes over.
    fs::write(folder.path().join("s.tar.part"), vec![7; 100_000]).unwrap();
    assert_eq!(write(&path, &[("a", "ppm", b"1")]), 2048);
    assert!(!folder.path().join("s.tar.part").exists());
}

#[test]
fn a_shard_that_is_there_is_replaced_only_if_asked() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    let begun_before = ShardWriter::create(&path, false).unwrap();
    fs::write(&path, "mine").unwrap();
    assert!(matches!(ShardWriter::create(&path, false).err(), Some(WriteError::Exists { .. })));
    assert!(matches!(begun_before.finish(&no_cache()), Err(WriteError::Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    ShardWriter::create(&path, true).unwrap().finish(&no_cache()).unwrap();
    assert!(table(&path).unwrap().is_empty());
}

#[test]
fn free_bytes_are_those_of_the_nearest_folder_that_exists() {
    let folder = folder();
    assert!(free_bytes(&folder.path().join("not/yet/there")).unwrap() > 0);
    assert!(free_bytes(Path::new("relative")).unwrap() > 0);
}
