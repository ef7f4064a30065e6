//! Sets that are written to a server: the same files as in a folder here, whatever happens on the way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use saccade::shard::Cache;
use saccade::shard::write::{Destination, Dropped, SetSpec, SetWriter, Split, WriteError};
use tempfile::TempDir;

use super::HASTY;
use super::server::{Fault, Server};
use crate::saccade::{at, finish, saccade, temporary};

const SHARDS: &str = "shards/fashion-validation-*.tar";

struct Place {
    server: Server,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { server: Server::start(), folder: temporary() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn saccade(&self, arguments: &[&str]) -> Command {
        let mut command = saccade(arguments);
        command.env("SACCADE_CACHE", self.path("cache"));
        command
    }

    /// Two sets of shards of 50 samples each, without a class.
    fn reshard(&self, out: &str, more: &[&str]) -> Command {
        let options = ["--shuffle", "3", "--samples", "50", "--held-out", "0.3", "--name", "k", "--classes", "0-8"];
        self.saccade(&[&["shards", "reshard", SHARDS, "--out", out][..], &options, more].concat())
    }

    /// What the server has under `set/`, but for indexes, which hold the time.
    fn there(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.server.files().into_iter();
        let named = files.filter_map(|(name, bytes)| Some((name.strip_prefix("set/")?.to_owned(), bytes.to_vec())));
        named.filter(|(name, _)| !name.ends_with(".index")).collect()
    }

    /// What lies here on its way to the server.
    fn outgoing(&self) -> Vec<PathBuf> {
        let entries = |folder: &Path| -> Vec<PathBuf> {
            fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
        };
        let folders = entries(&self.path("cache/outgoing"));
        let files = folders.iter().flat_map(|folder| entries(folder)).collect();
        if folders.is_empty() { Vec::new() } else { [folders, files].concat() }
    }
}

fn here(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = paths.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()));
    named.filter(|(name, _)| !name.ends_with(".index")).collect()
}

#[test]
fn a_set_is_the_same_there_as_here_and_nothing_stays_on_the_way() {
    let place = Place::new();
    let url = place.server.url("set");
    finish(&mut place.reshard(at(&place.path("here")), &[]), 0);
    // Other lines of the checksums are others' and stay.
    place.server.put("set/SHA256SUMS", b"0123  other.tar\n");
    let said = finish(&mut place.reshard(&url, &[]), 0);
    assert!(said.out.contains("k-train") && said.out.contains("k-held-out"), "{}", said.out);
    let mut expected = here(&place.path("here"));
    let sums = expected.get_mut("SHA256SUMS").unwrap();
    sums.splice(..0, b"0123  other.tar\n".iter().copied());
    let there = place.there();
    let sorted = |text: &[u8]| {
        let mut lines: Vec<String> = String::from_utf8(text.to_vec()).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&there["SHA256SUMS"]), sorted(&expected["SHA256SUMS"]));
    assert_eq!(there.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in expected.iter().filter(|(name, _)| *name != "SHA256SUMS") {
        assert!(there[name] == *bytes, "{name} differs");
    }
    assert_eq!(place.outgoing(), Vec::<PathBuf>::new());
    // It is used where it lies, by its indexes.
    let shards = place.server.url("set/k-train-{000000..000001}.tar");
    let listed = finish(&mut place.saccade(&["shards", "list", &shards]), 0);
    assert!(listed.out.contains("100 samples"), "{}", listed.out);
    assert_eq!(place.server.gets("set/k-train-000000.tar").len(), 0, "its index is beside it");

    let refused = finish(&mut place.reshard(&url, &[]), 1);
    assert_eq!(refused.err.trim_end().lines().count(), 1, "{}", refused.err);
    assert!(refused.err.contains(&format!("{url}/k-train-000000.tar: exists already")), "{}", refused.err);
    // Shards of the old set go, those behind a gap too if they are listed.
    let sums = [&there["SHA256SUMS"][..], b"00  k-train-000040.tar\n"].concat();
    place.server.put("set/SHA256SUMS", &sums);
    place.server.put("set/k-train-000040.tar", b"old");
    finish(&mut place.reshard(&url, &["--force", "--per-class", "20"]), 0);
    let smaller = place.there();
    assert!(smaller.len() < there.len(), "{:?}", smaller.keys());
    let listed = String::from_utf8(smaller["SHA256SUMS"].clone()).unwrap();
    let shards = smaller.keys().filter(|name| name.ends_with(".tar"));
    assert_eq!(shards.count(), listed.lines().count() - 1, "{listed}");
    let indexes = place.server.files().keys().filter(|name| name.ends_with(".index")).count();
    assert_eq!(indexes, listed.lines().count() - 1);
}

#[test]
fn a_killed_call_goes_on_and_sends_no_shard_twice_that_it_knows_to_be_there() {
    let place = Place::new();
    let url = place.server.url("set");
    finish(&mut place.reshard(at(&place.path("here")), &["--workers", "1"]), 0);
    let written = place.server.silent_after_puts(Some(9));
    let mut child = place.reshard(&url, &[]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let first: Vec<String> = written.iter().take(9).collect();
    let shard = first[0].strip_prefix("set/").unwrap();
    let state = || {
        let files = place.outgoing().into_iter().filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
        files.map(|path| fs::read_to_string(path).unwrap_or_default()).collect::<String>()
    };
    while !state().contains(&format!("\"sent\":\"{shard}\"")) {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    place.server.silent_after_puts(None);
    let said = finish(&mut place.reshard(&url, &[]), 0);
    assert!(said.err.contains("going on after"), "{}", said.err);
    assert!(place.there() == here(&place.path("here")), "{:?}", place.there().keys());
    assert_eq!(place.server.puts(&first[0]), 1, "{first:?}");
    assert_eq!(place.outgoing(), Vec::<PathBuf>::new());
}

fn spec(place: &Place, force: bool) -> Result<SetSpec, WriteError> {
    let folder = place.path("cache");
    let cache = Cache::from_variables(|name| (name == "SACCADE_CACHE").then(|| folder.clone().into()));
    let to = Destination::open(Path::new(&place.server.url("set/")), &cache.with_patience(HASTY))?;
    let split = Split::Numbered { most_samples: Some(2), most_bytes: None };
    Ok(SetSpec { to, name: "w".into(), split, request: "r".into(), force })
}

/// Writes seven samples, of which one is left out.
fn write(spec: &SetSpec) -> Result<(), WriteError> {
    let mut set = SetWriter::create(spec, &Cache::default())?;
    for number in set.settled()..7 {
        if number == 4 {
            let detail = String::new();
            set.drop_sample(Dropped { key: "4".into(), shard: "in.tar".into(), reason: "damaged".into(), detail })?;
            continue;
        }
        set.add(&number.to_string(), &[("bin", &[number as u8; 700])])?;
    }
    set.finish().map(drop)
}

#[test]
fn a_server_that_fails_is_asked_again_and_what_it_refuses_is_said_with_its_address() {
    let place = Place::new();
    for name in ["set/w-000001.tar", "set/SHA256SUMS"] {
        place.server.fail(name, &[Fault::Status(500), Fault::Status(503)]);
    }
    write(&spec(&place, false).unwrap()).unwrap();
    let whole = place.there();
    let names = ["SHA256SUMS", "w-000000.tar", "w-000001.tar", "w-000002.tar", "w.dropped.jsonl", "w.json"];
    assert_eq!(whole.keys().collect::<Vec<_>>(), names);
    assert!(String::from_utf8_lossy(&whole["w.dropped.jsonl"]).contains("damaged"));

    // Refused, whichever file it is; the call that follows needs no more than to be repeated.
    for name in ["w-000000.tar", "w-000002.tar", "w-000000.tar.index", "w.dropped.jsonl", "SHA256SUMS", "w.json"] {
        let place = Place::new();
        place.server.fail(&format!("set/{name}"), &[Fault::Status(403), Fault::Status(403)]);
        let error = write(&spec(&place, false).unwrap()).expect_err(name);
        let said = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(said.starts_with(&place.server.url(&format!("set/{name}: access denied"))), "{said}");
        assert!(!place.there().contains_key(name));
        place.server.fail(&format!("set/{name}"), &[]);
        write(&spec(&place, false).unwrap()).unwrap();
        assert!(place.there() == whole, "{name}: {:?}", place.there().keys());
        assert_eq!(place.outgoing(), Vec::<PathBuf>::new(), "{name}");
    }
}

#[test]
fn what_cannot_be_written_to_is_said_in_a_line() {
    let place = Place::new();
    let cases = [
        ("ftp://host/set", "only http, https, s3 and gs are understood"),
        ("s3://bucket/set?signature=1", "signed addresses cannot be used"),
        ("https://me@host/set", "SACCADE_HTTP_TOKEN"),
    ];
    for (out, words) in cases {
        let said = finish(&mut place.reshard(out, &[]), 1);
        assert!(said.err.starts_with(&format!("error: {out}: ")) && said.err.contains(words), "{}", said.err);
        assert_eq!(said.err.trim_end().lines().count(), 1, "{}", said.err);
    }
    // A server that is not there is given up after moments, since the address may be wrong.
    let folder = place.path("cache");
    let cache = Cache::from_variables(|name| (name == "SACCADE_CACHE").then(|| folder.clone().into()));
    let to = Destination::open(Path::new("http://127.0.0.1:1/set"), &cache.with_patience(HASTY)).unwrap();
    let error = write(&SetSpec { to, ..spec(&place, false).unwrap() }).unwrap_err();
    assert!(format!("{error:?}").contains("refused"), "{error:?}");
    assert_eq!(place.outgoing(), Vec::<PathBuf>::new());
}

#[test]
fn what_became_of_sent_shards_meanwhile_is_seen() {
    let place = Place::new();
    let half = |spec: &SetSpec| {
        let mut set = SetWriter::create(spec, &Cache::default()).unwrap();
        for number in 0..4 {
            set.add(&number.to_string(), &[("bin", &[number as u8; 700])]).unwrap();
        }
        // The first is sent, and known to be when the second is given to be sent.
        set.end_shard().unwrap();
        while set.written().is_empty() {
            set.place().unwrap();
        }
        spec.to.away().unwrap().finish().unwrap();
        set.place().unwrap();
    };
    let whole = {
        write(&spec(&place, false).unwrap()).unwrap();
        place.there()
    };
    for case in ["gone", "another", "another, and killed again", "still here"] {
        let place = Place::new();
        half(&spec(&place, false).unwrap());
        let here = place.outgoing();
        assert!(!here.iter().any(|path| path.ends_with("w-000000.tar")), "{here:?}");
        match case {
            "gone" => place.server.take_away("set/w-000000.tar"),
            "another" => place.server.put("set/w-000000.tar", b"another"),
            "another, and killed again" => {
                place.server.put("set/w-000000.tar", b"another");
                drop(SetWriter::create(&spec(&place, false).unwrap(), &Cache::default()).unwrap());
            }
            // As when the call is killed before it removes what it has sent.
            _ => fs::write(here[0].join("w-000000.tar"), "half").unwrap(),
        }
        write(&spec(&place, false).unwrap()).unwrap();
        assert!(place.there() == whole, "{case}: {:?}", place.there().keys());
        assert_eq!(place.outgoing(), Vec::<PathBuf>::new(), "{case}");
        let sent_anew = usize::from(case != "still here");
        assert_eq!(place.server.puts("set/w-000000.tar"), 1 + sent_anew, "{case}");
    }
    // A shard of somebody else is nobody's to write over.
    let place = Place::new();
    place.server.put("set/w-000002.tar", b"mine");
    let error = write(&spec(&place, false).unwrap()).unwrap_err();
    assert!(error.to_string().contains("set/w-000002.tar: exists already"), "{error}");
    assert!(*place.there()["w-000002.tar"] == *b"mine");
    write(&spec(&place, true).unwrap()).unwrap();
    assert!(place.there() == whole);
    // Nor is a file that has the name of the set's index.
    let place = Place::new();
    place.server.put("set/w.json", b"[]");
    let error = write(&spec(&place, false).unwrap()).unwrap_err();
    assert!(error.to_string().contains("set/w.json: exists already"), "{error}");
}

#[test]
fn images_are_imported_to_where_they_will_be_read() {
    let place = Place::new();
    let tree = place.path("tree");
    for (class, colour) in [("ape", 10), ("bee", 200)] {
        fs::create_dir_all(tree.join(class)).unwrap();
        for number in 0..3 {
            let image = image::RgbImage::from_pixel(9, 9, image::Rgb([colour, number, 0]));
            image.save(tree.join(format!("{class}/{number}.png"))).unwrap();
        }
    }
    let import = |out: &str, more: &[&str]| {
        place.saccade(&[&["shards", "import", at(&tree), "--out", out, "--name", "t", "--samples", "2"], more].concat())
    };
    finish(&mut import(at(&place.path("here")), &[]), 0);
    finish(&mut import(&place.server.url("set"), &[]), 0);
    assert!(place.there() == here(&place.path("here")), "{:?}", place.there().keys());
    assert!(place.there().contains_key("t-classes.txt"));
    fs::create_dir(tree.join("cat")).unwrap();
    fs::copy(tree.join("bee/0.png"), tree.join("cat/0.png")).unwrap();
    let refused = finish(&mut import(&place.server.url("set"), &[]), 1);
    assert!(refused.err.contains("set/t-classes.txt: has other classes"), "{}", refused.err);
    // What says why nothing could be used is where the error says.
    let bad = place.path("bad");
    fs::create_dir_all(bad.join("ape")).unwrap();
    fs::write(bad.join("ape/0.png"), "no image").unwrap();
    let url = place.server.url("none");
    let said = finish(&mut place.saccade(&["shards", "import", at(&bad), "--out", &url, "--name", "b"]), 1);
    assert!(said.err.contains(&format!("{url}/b.dropped.jsonl says why")), "{}", said.err);
    assert!(place.server.files().contains_key("none/b.dropped.jsonl"));
    assert_eq!(place.outgoing(), Vec::<PathBuf>::new());
}
