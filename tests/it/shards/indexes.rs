//! Index files: kept, stale, damaged, and elsewhere.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use proptest::prelude::*;
use saccade::shard::{Cache, Index, cache, reindex};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{age, folder, no_cache, open, open_one, text, write_set, write_tar};

fn cache_at(folder: &Path) -> Cache {
    Cache::from_variables(|name| (name == "SACCADE_CACHE").then(|| folder.into()))
}

#[test]
fn an_index_is_kept_beside_the_shard_and_made_again_when_the_shard_changes() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    let kept = cache::beside(&path).unwrap();
    let keys = || {
        let set = open_one(&path).unwrap();
        (0..set.len() as u32).map(|number| set.sample(number).key.to_owned()).collect::<Vec<_>>()
    };
    write_tar(&path, &[("a.jpg", b"x")]);
    age(&path, 1_000);
    assert_eq!(keys(), ["a"]);
    let first = fs::read(&kept).unwrap();
    assert_eq!(keys(), ["a"]);
    assert_eq!(fs::read(&kept).unwrap(), first);

    // Same size, other time.
    write_tar(&path, &[("b.jpg", b"x")]);
    age(&path, 2_000);
    assert_eq!(keys(), ["b"]);
    // Same time, other size.
    write_tar(&path, &[("c.jpg", b"x"), ("d.jpg", b"x")]);
    age(&path, 2_000);
    assert_eq!(keys(), ["c", "d"]);
    assert_ne!(fs::read(&kept).unwrap(), first);
    // Same size, same time: nothing tells the two apart, and the index is believed.
    write_tar(&path, &[("e.jpg", b"x"), ("f.jpg", b"x")]);
    age(&path, 2_000);
    assert_eq!(keys(), ["c", "d"]);
    reindex(&[text(&path)], &no_cache()).unwrap();
    assert_eq!(keys(), ["e", "f"]);
    let names: Vec<OsString> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn an_index_with_any_byte_changed_or_cut_off_is_made_again() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    write_tar(&path, &[("a.jpg", b"aa"), ("a.cls", b"3"), ("b.png", b"b")]);
    let sound = Index::open(&path, &no_cache()).unwrap();
    let kept = cache::beside(&path).unwrap();
    let bytes = fs::read(&kept).unwrap();
    assert_eq!(Index::decode(&bytes).as_ref(), Some(&sound));
    for place in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[place] ^= flip;
            fs::write(&kept, damaged).unwrap();
            assert_eq!(Index::open(&path, &no_cache()).unwrap(), sound, "byte {place} ^ {flip:#x}");
            assert_eq!(fs::read(&kept).unwrap(), bytes);
        }
    }
    for length in 0..bytes.len() {
        assert_eq!(Index::decode(&bytes[..length]), None);
    }
    let long = [bytes.as_slice(), b"x"].concat();
    assert_eq!(Index::decode(&long), None);
}

/// Each byte of such a name is four in the index, which then is larger than its shard.
#[test]
fn an_index_of_long_names_that_are_not_text_is_kept_and_believed() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    let mut builder = tar::Builder::new(Vec::new());
    for number in 0..20 {
        let name = [&[0xE9; 3000][..], format!("{number}.jpg").as_bytes()].concat();
        // GNU tar puts a long name into a member of its own, before the one that it is for.
        for (kind, data) in [(b'L', name.as_slice()), (b'0', b"x")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
    }
    fs::write(&path, builder.into_inner().unwrap()).unwrap();
    age(&path, 1_000);
    let made = Index::open(&path, &no_cache()).unwrap();
    assert_eq!(made.table.len(), 20);
    let kept = cache::beside(&path).unwrap();
    assert!(fs::metadata(&kept).unwrap().len() > fs::metadata(&path).unwrap().len());
    // The shard's time and size are unchanged: only an index that is believed still finds twenty samples.
    let size = fs::metadata(&path).unwrap().len();
    fs::write(&path, vec![0; size as usize]).unwrap();
    age(&path, 1_000);
    assert_eq!(Index::open(&path, &no_cache()).unwrap(), made);
}

/// An index that someone else wrote is well signed, so the signature is not what protects against its content.
#[test]
fn a_well_signed_index_with_impossible_content_is_made_again() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    write_tar(&path, &[("a.jpg", b"aa"), ("a.cls", b"3"), ("b.png", b"b")]);
    let sound = Index::open(&path, &no_cache()).unwrap();
    let bytes = sound.encode();
    let content = &bytes[..bytes.len() - 32];
    for place in 0..content.len() {
        for value in [0x00, 0x7f, 0xff] {
            let mut changed = content.to_vec();
            changed[place] = value;
            changed.extend_from_slice(&Sha256::digest(&changed));
            let Some(index) = Index::decode(&changed) else { continue };
            let mut members = index.table.samples().flat_map(|sample| sample.members());
            let inside = members.all(|member| member.offset.checked_add(member.length) <= Some(index.stamp.size));
            assert!(inside, "byte {place} = {value:#x}");
        }
    }
}

#[test]
fn a_read_only_folder_has_its_indexes_in_the_cache() {
    let (shards, caches) = (folder(), folder());
    let path = shards.path().join("s.tar");
    write_tar(&path, &[("a.jpg", b"x")]);
    fs::set_permissions(shards.path(), Permissions::from_mode(0o555)).unwrap();
    let cache = cache_at(&caches.path().join("deep/er"));
    let (made, place) = Index::make(&path, &cache).unwrap();
    assert_eq!(place, cache.place(&path));
    assert_eq!(Index::decode(&fs::read(place.unwrap()).unwrap()).as_ref(), Some(&made));
    assert_eq!(Index::open(&path, &cache).unwrap(), made);
    assert!(!cache::beside(&path).unwrap().exists());

    // Nowhere to keep it is no reason to stop.
    let (unkept, place) = Index::make(&path, &no_cache()).unwrap();
    assert_eq!((unkept, place), (made, None));
    fs::set_permissions(shards.path(), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn shards_of_one_name_have_two_places_in_the_cache() {
    let (one, other) = (folder(), folder());
    let cache = cache_at(Path::new("cache"));
    let place = |folder: &TempDir| {
        let path = folder.path().join("s.tar");
        write_tar(&path, &[]);
        cache.place(&path).unwrap()
    };
    assert_ne!(place(&one), place(&other));
    assert!(text(&place(&one)).ends_with("-s.tar.index"));
}

#[test]
fn the_cache_folder_follows_the_variables_in_order() {
    let check = |set: &[(&str, &str)], expected: Option<&str>| {
        let cache =
            Cache::from_variables(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into()));
        assert_eq!(cache.folder(), expected.map(Path::new), "{set:?}");
    };
    check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("SACCADE_CACHE", "/s")], Some("/s"));
    check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], Some("/x/saccade"));
    check(&[("HOME", "/h")], Some("/h/.cache/saccade"));
    check(&[], None);
}

#[test]
fn an_index_place_that_is_taken_by_a_folder_does_no_harm() {
    let (shards, caches) = (folder(), folder());
    let path = shards.path().join("s.tar");
    write_tar(&path, &[("a.jpg", b"x")]);
    fs::create_dir(cache::beside(&path).unwrap()).unwrap();
    let cache = cache_at(caches.path());
    assert_eq!(Index::make(&path, &cache).unwrap().1, cache.place(&path));
    assert_eq!(fs::read_dir(shards.path()).unwrap().count(), 2);
}

#[test]
fn many_at_once_make_the_same_index() {
    let folder = folder();
    let patterns = write_set(folder.path(), &[40, 30]);
    let fingerprints: HashSet<String> = thread::scope(|scope| {
        let openers: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&patterns).fingerprint())).collect();
        openers.into_iter().map(|opener| opener.join().unwrap()).collect()
    });
    assert_eq!(fingerprints.len(), 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}

proptest! {
    #[test]
    fn random_bytes_are_no_index(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert_eq!(Index::decode(&bytes), None);
    }
}
