//! Tar files as other tools write them, and what damage or malice makes of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;
use saccade::shard::{Label, ProblemKind, TarError, verify};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{chain, folder, no_cache, open_one, table, text};

/// Every sample's key and every member's digest, as the reference lists them.
fn contents(path: &Path) -> Result<Value, TarError> {
    let file = File::open(path)?;
    let samples = table(path)?;
    let listed = samples.samples().map(|sample| {
        let files: BTreeMap<&str, String> = sample
            .members()
            .map(|member| {
                let mut data = vec![0; member.length as usize];
                file.read_exact_at(&mut data, member.offset).unwrap();
                (member.extension, Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect())
            })
            .collect();
        serde_json::json!({ "key": sample.key, "files": files })
    });
    Ok(listed.collect())
}

/// The reference writes sizes as powers of two.
fn phrase(expected: &str) -> String {
    match expected.strip_prefix("claims 2^").and_then(|rest| rest.strip_suffix(" bytes")) {
        Some(power) => format!("claims {} bytes", 1u64 << power.parse::<u32>().unwrap()),
        None => expected.to_owned(),
    }
}

#[test]
fn each_reference_tar_gives_its_samples_or_its_error() {
    let tars = crate::reference().join("tars");
    let expected: BTreeMap<String, Value> =
        serde_json::from_str(&fs::read_to_string(tars.join("expected.json")).unwrap()).unwrap();
    assert!(!expected.is_empty());
    let shards = folder();
    for (name, expected) in &expected {
        let path = shards.path().join(name);
        fs::copy(tars.join(name), &path).unwrap();
        match (contents(&path), expected.get("error").and_then(Value::as_str)) {
            (Ok(samples), None) => assert_eq!(Some(&samples), expected.get("samples"), "{name}"),
            (Err(error), Some(wanted)) => {
                assert!(error.to_string().contains(&phrase(wanted)), "{name}: {error}, not {wanted}");
                let refused = open_one(&path).unwrap_err();
                assert!(
                    chain(&refused).starts_with(&format!("{}: damaged shard: {error}", path.display())),
                    "{refused}"
                );
            }
            (found, _) => panic!("{name}: {found:?} instead of {expected}"),
        }
    }
}

#[test]
fn each_reference_tar_verifies_as_it_reads() {
    let tars = crate::reference().join("tars");
    let expected: BTreeMap<String, Value> =
        serde_json::from_str(&fs::read_to_string(tars.join("expected.json")).unwrap()).unwrap();
    for (name, expected) in &expected {
        let report = verify(&[text(&tars.join(name))], &no_cache()).unwrap();
        let damaged = report.shards[0].problems.iter().any(|problem| problem.kind == ProblemKind::Damaged);
        assert_eq!(damaged, expected.get("error").is_some(), "{name}: {report:?}");
        assert_eq!(report.samples, expected.get("samples").and_then(Value::as_array).map_or(0, Vec::len), "{name}");
    }
}

/// A tar whose headers tell of every kind of member that the walk knows.
fn varied_tar() -> Vec<u8> {
    let long = format!("{}/{}.jpg", "d".repeat(60), "n".repeat(90));
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, data) in [
        (b'5', "dir/", "" as &str),
        (b'2', "link.jpg", ""),
        (b'0', "./a.jpg", "image"),
        (b'0', "./a.cls", "7"),
        (b'0', long.as_str(), "long"),
        (b'x', "pax", "18 path=pax/k.jpg\n"),
        (b'0', "overridden", "k"),
        (b'g', "global", "15 comment=hi!\n"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_entry_type(tar::EntryType::new(kind));
        builder.append_data(&mut header, name, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn headers_of_every_kind_are_understood() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    fs::write(&path, varied_tar()).unwrap();
    let table = table(&path).unwrap();
    let keys: Vec<_> = table.samples().map(|sample| (sample.key.len(), sample.label)).collect();
    assert_eq!(keys, [(1, Label::Known(7)), (151, Label::None), (5, Label::None)]);
}

#[test]
fn headers_that_mislead_are_refused() {
    let folder = folder();
    let path = folder.path().join("s.tar");
    let check = |edit: &dyn Fn(&mut tar::Header), data: &[u8], expected: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_path("a.jpg").unwrap();
        header.set_size(data.len() as u64);
        edit(&mut header);
        header.set_cksum();
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(512) + 1024, 0);
        fs::write(&path, [header.as_bytes().as_slice(), &padded].concat()).unwrap();
        assert_eq!(table(&path).unwrap_err().to_string(), expected);
    };
    let kind = |kind: u8| move |header: &mut tar::Header| header.set_entry_type(tar::EntryType::new(kind));
    let size = |bytes: [u8; 12]| move |header: &mut tar::Header| header.as_old_mut().size = bytes;
    check(&kind(b'S'), b"", "sparse member `a.jpg`: write the shard again without --sparse");
    check(&kind(b'x'), b"nonsense", "header extension at byte 0 is unreadable or claims too much: 8 bytes");
    check(&kind(b'x'), b"99 path=a\n", "header extension at byte 0 is unreadable or claims too much: 10 bytes");
    check(&kind(b'x'), b"0 path=a\n", "header extension at byte 0 is unreadable or claims too much: 9 bytes");
    check(&kind(b'x'), b"14 size=moon!\n", "header extension at byte 0 is unreadable or claims too much: 14 bytes");
    check(&kind(b'x'), b"9 path=a\n", "ends inside a header, at byte 1024");
    check(&kind(b'L'), b"b.jpg", "ends inside a header, at byte 1024");
    let huge = vec![b'x'; (1 << 20) + 1];
    check(&kind(b'L'), &huge, "header extension at byte 0 is unreadable or claims too much: 1048577 bytes");
    check(&size(*b"0000000000x\0"), b"", "unreadable member size in the header at byte 0");
    check(&size([0xff; 12]), b"", "unreadable member size in the header at byte 0");
    check(&size(*b"\x80\0\0\x01\0\0\0\0\0\0\0\0"), b"", "unreadable member size in the header at byte 0");
    check(
        &size(*b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
        b"",
        "ends inside a member: `a.jpg` claims 18446744073709551615 bytes at byte 512, 1024 are left",
    );
}

/// Whatever the bytes are, reading them ends, and what is found lies inside them.
fn survive(bytes: &[u8]) {
    let folder = folder();
    let path = folder.path().join("s.tar");
    fs::write(&path, bytes).unwrap();
    let Ok(set) = open_one(&path) else { return };
    let mut image = Vec::new();
    for number in 0..set.len() as u32 {
        set.read(number, &mut image).unwrap();
        let sample = set.sample(number);
        assert_eq!(image, bytes[sample.offset as usize..][..sample.length as usize]);
    }
    verify(&[text(&path)], &no_cache()).unwrap();
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        survive(&bytes);
    }

    #[test]
    fn mutated_tars_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        mend in any::<bool>(),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = varied_tar();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
            // With its checksum mended, a mutated header is read for what it says.
            if let (true, Some(block)) = (mend, bytes.chunks_exact_mut(512).nth(place / 512)) {
                let mut header = tar::Header::from_byte_slice(block).clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        survive(&bytes);
    }
}
