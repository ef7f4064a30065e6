//! Event files: sums against RFC 3720, frames and fields by a reader of its own, names in order, what is no PNG refused.

use std::fs;
use std::path::{Path, PathBuf};

use saccade::run::tensorboard::{EventFile, crc32c};

/// A fields's number with its value: bytes as they are, numbers as `u64`.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Varint(u64),
    Eight([u8; 8]),
    Bytes(Vec<u8>),
    Four([u8; 4]),
}

use Value::{Bytes, Eight, Four, Varint};

#[test]
fn sums_are_those_of_rfc_3720() {
    let ascending: Vec<u8> = (0..32).collect();
    let descending: Vec<u8> = (0..32).rev().collect();
    // An iSCSI SCSI Read (10) command PDU, the RFC's last example.
    let command = [
        0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0, 0, 0, 0, 0x14, 0, 0, 0,
        0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
    ];
    let vectors: [(&[u8], u32); 7] = [
        (&[0; 32], 0x8a91_36aa),
        (&[0xff; 32], 0x62a8_ab43),
        (&ascending, 0x46dd_794e),
        (&descending, 0x113f_db5c),
        (&command, 0xd996_3a56),
        (b"123456789", 0xe306_9283),
        (b"", 0),
    ];
    for (bytes, sum) in vectors {
        assert_eq!(crc32c(bytes), sum, "{bytes:?}");
    }
}

#[test]
fn a_file_begins_with_its_version_and_the_step_it_goes_on_from() {
    for from in [0, 300, u64::from(u32::MAX) + 5] {
        let folder = tempfile::tempdir().unwrap();
        let within = folder.path().join("a/b");
        drop(EventFile::begin(&within, from).unwrap());
        let records = records(&fs::read(only(&within)).unwrap());
        let [version, start] = &records[..] else { panic!("{} records", records.len()) };
        assert_eq!(fields(version)[1..], [(3, Bytes(b"brain.Event:2".into()))]);
        assert_eq!(fields(start)[1..], [(2, Varint(from)), (7, Bytes(vec![8, 1]))]);
        assert!(matches!(fields(version)[0], (1, Eight(time)) if f64::from_le_bytes(time) > 1.7e9));
    }
}

#[test]
fn scalars_of_a_step_are_one_record() {
    let values = [("loss", 0.1), ("terms/prediction", -2.5), ("odd", f64::NAN), ("huge", 1e300)];
    let summary = summary(7, |file| file.scalars(7, values.into_iter()).unwrap());
    assert_eq!(summary.len(), values.len());
    for ((field, value), (name, number)) in summary.into_iter().zip(values) {
        let Bytes(value) = value else { panic!("{value:?}") };
        let expected = vec![(1, Bytes(name.into())), (2, Four((number as f32).to_le_bytes()))];
        assert_eq!((field, fields(&value)), (1, expected));
    }
}

#[test]
fn image_says_its_size_and_holds_the_png() {
    for (kind, channels) in [(0, 1), (4, 2), (2, 3), (3, 3), (6, 4)] {
        let png = png(300, 7, kind);
        let summary = summary(0, |file| file.image(0, "maps/a", &png).unwrap());
        let [(1, Bytes(value))] = &summary[..] else { panic!("{summary:?}") };
        let [name, (4, Bytes(image))] = &fields(value)[..] else { panic!("{value:?}") };
        assert_eq!(*name, (1, Bytes(b"maps/a".into())));
        assert_eq!(fields(image), [(1, Varint(7)), (2, Varint(300)), (3, Varint(channels)), (4, Bytes(png))]);
    }
}

#[test]
fn text_is_a_tensor_of_the_text_plugin() {
    let summary = summary(1, |file| file.text(1, "pipeline", "größe = 1\n").unwrap());
    let [(1, Bytes(value))] = &summary[..] else { panic!("{summary:?}") };
    let [name, (8, Bytes(tensor)), (9, Bytes(metadata))] = &fields(value)[..] else { panic!("{value:?}") };
    assert_eq!(*name, (1, Bytes(b"pipeline".into())));
    assert_eq!(fields(tensor), [(1, Varint(7)), (2, Bytes(vec![])), (8, Bytes("größe = 1\n".into()))]);
    assert_eq!(fields(metadata), [(1, Bytes(b"\x0a\x04text".into())), (4, Varint(2))]);
}

#[test]
fn what_is_no_png_is_refused_and_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = EventFile::begin(folder.path(), 0).unwrap();
    let whole = png(2, 2, 2);
    let spoilt_kind = png(2, 2, 1);
    for bytes in [b"" as &[u8], b"\xff\xd8\xff\xe0", &whole[..20], &whole[..25], &whole[1..], &spoilt_kind] {
        let error = format!("{:#}", file.image(3, "maps/a", bytes).unwrap_err());
        assert_eq!(error, "image maps/a: is no PNG");
    }
    drop(file);
    assert_eq!(records(&fs::read(only(folder.path())).unwrap()).len(), 2);
}

#[test]
fn a_later_file_comes_after_the_others_even_by_a_clock_that_was_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let future = "events.out.tfevents.9999999998.host.name.99.0";
    for name in [future, "events.out.tfevents.x", "events.out.tfevents.", "other"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    drop(EventFile::begin(folder.path(), 0).unwrap());
    let mut names = names(folder.path());
    names.sort();
    let place = names.iter().position(|name| name == future).unwrap();
    assert!(names[place + 1].starts_with("events.out.tfevents.9999999999."), "{names:?}");
    assert!(names[place + 1].ends_with(&format!(".{}.0", std::process::id())), "{names:?}");
}

#[test]
fn what_was_added_is_there_once_it_is_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = EventFile::begin(folder.path(), 0).unwrap();
    let length = || fs::metadata(only(folder.path())).unwrap().len();
    let begun = length();
    file.scalars(0, [("loss", 1.0)].into_iter()).unwrap();
    assert_eq!(length(), begun);
    file.flush().unwrap();
    assert!(length() > begun);
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    fs::write(&there, "").unwrap();
    let error = format!("{:#}", EventFile::begin(&there, 0).err().unwrap());
    assert!(error.contains("there: cannot be made"), "{error}");
}

/// The one summary that was added.
fn summary(step: u64, add: impl Fn(&mut EventFile)) -> Vec<(u64, Value)> {
    let folder = tempfile::tempdir().unwrap();
    let mut file = EventFile::begin(folder.path(), 0).unwrap();
    add(&mut file);
    drop(file);
    let records = records(&fs::read(only(folder.path())).unwrap());
    let [_, _, added] = &records[..] else { panic!("{} records", records.len()) };
    let [(1, Eight(_)), (2, Varint(at)), (5, Bytes(summary))] = &fields(added)[..] else { panic!("{added:?}") };
    assert_eq!(*at, step);
    fields(summary)
}

/// The bytes of each record, its two sums checked.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let unmasked = |sum: [u8; 4]| u32::from_le_bytes(sum).wrapping_sub(0xa282_ead8).rotate_left(15);
    let mut records = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        let (sum, rest) = rest.split_first_chunk::<4>().unwrap();
        assert_eq!(unmasked(*sum), crc32c(length));
        let (record, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let (sum, rest) = rest.split_first_chunk::<4>().unwrap();
        assert_eq!(unmasked(*sum), crc32c(record));
        records.push(record.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty());
    records
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Value)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => Varint(varint(&mut bytes)),
            1 => Eight(*bytes.split_off(..8).unwrap().first_chunk().unwrap()),
            2 => {
                let length = varint(&mut bytes) as usize;
                Bytes(bytes.split_off(..length).unwrap().to_vec())
            }
            5 => Four(*bytes.split_off(..4).unwrap().first_chunk().unwrap()),
            kind => panic!("kind {kind}"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let digits = bytes.split_off(..length).unwrap();
    digits.iter().rev().fold(0, |value, digit| value << 7 | u64::from(digit & 0x7f))
}

/// As much of a PNG as is looked at.
fn png(width: u32, height: u32, kind: u8) -> Vec<u8> {
    let [width, height] = [width, height].map(u32::to_be_bytes);
    [b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" as &[u8], &width, &height, &[8, kind, 0, 0, 0]].concat()
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn only(folder: &Path) -> PathBuf {
    let names = names(folder);
    assert_eq!(names.len(), 1, "{names:?}");
    folder.join(&names[0])
}
