//! Shards on other machines: fetched whole or not at all, by servers that fail, into a folder that has its limits.

pub mod server;
mod verbs;
mod writes;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use saccade::draws::{Draws, Purpose};
use saccade::shard::remote::{Depot, Patience, RemoteError, Room};
use saccade::telemetry::Telemetry;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use self::server::{Fault, Server};

/// So that a test that waits for the last time out of several ends soon.
const HASTY: Patience = Patience {
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(4),
    stall: Duration::from_millis(300),
    to_begin: Duration::from_millis(900),
    in_all: Duration::from_millis(900),
};

const NAME: &str = "set/s-000.tar";

/// Bytes like no others of that seed.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut draws = Draws::new(seed, 0, 0, Purpose::Crop);
    (0..length).map(|_| draws.below(256) as u8).collect()
}

/// A server, and a depot in a folder.
struct Place {
    server: Server,
    folder: TempDir,
    telemetry: Telemetry,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { server: Server::start(), folder, telemetry: Telemetry::new("test") }
    }

    fn depot(&self, most: Option<u64>) -> Arc<Depot> {
        let room = Room { folder: self.folder.path().to_owned(), most };
        Depot::open(&room, HASTY, Some(&self.telemetry)).unwrap()
    }

    /// A shard's bytes, as they are once it is here.
    fn fetched(&self, depot: &Arc<Depot>, name: &str) -> Result<Vec<u8>, RemoteError> {
        let lease = depot.lease(depot.find(&self.server.url(name))?)?;
        let mut bytes = Vec::new();
        lease.open()?.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    fn retries(&self, reason: &str) -> String {
        let line = format!("saccade_fetch_retries_total{{reason=\"{reason}\"}} ");
        let text = self.telemetry.render();
        text.lines().find_map(|found| found.strip_prefix(&line)).unwrap_or("0").to_owned()
    }
}

fn files(folder: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.metadata().unwrap().len()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_shard_comes_whole_whatever_its_server_does() {
    let whole = bytes(1, 100_000);
    // What goes wrong, why it was asked again how often, and where it was asked from on in the end.
    let cases: [(&[Fault], &str, &str, Option<&str>); 8] = [
        (&[], "failed", "0", None),
        (&[Fault::Status(500), Fault::Status(503), Fault::Status(429)], "failed", "3", None),
        (&[Fault::CutAfter(40_000)], "failed", "1", Some("bytes=")),
        (&[Fault::CutAfter(8_192), Fault::CutAfter(20_000), Fault::CutAfter(50_000)], "failed", "3", Some("bytes=")),
        (&[Fault::SilentAfter(30_000)], "stalled", "1", Some("bytes=")),
        (&[Fault::CutAfter(50_000), Fault::NoRange], "failed", "1", None),
        (&[Fault::CutAfter(50_000), Fault::Status(502)], "failed", "2", Some("bytes=")),
        (&[Fault::SilentAfter(0), Fault::SilentAfter(0)], "stalled", "2", None),
    ];
    for (faults, reason, retries, range) in cases {
        let place = Place::new();
        place.server.put(NAME, &whole);
        place.server.fail(NAME, faults);
        let depot = place.depot(None);
        assert!(place.fetched(&depot, NAME).unwrap() == whole, "{faults:?}");
        assert_eq!(place.retries(reason), retries, "{faults:?}");
        let last = place.server.gets(NAME).pop().unwrap();
        match range {
            Some(start) => assert!(last.is_some_and(|last| last.starts_with(start)), "{faults:?}"),
            None => assert_eq!(last, None, "{faults:?}"),
        }
        let there = files(place.folder.path());
        assert!(there.len() == 1 && there[0].0.ends_with("-s-000.tar"), "{faults:?}: {there:?}");
    }
}

#[test]
fn a_shard_that_comes_slowly_comes_whole() {
    let (place, whole) = (Place::new(), bytes(3, 100_000));
    place.server.put(NAME, &whole);
    // All of it takes longer than silence may last, and no pause does.
    let pieces = 25;
    place.server.fail(NAME, &[Fault::Slow(HASTY.stall * 2 / pieces)]);
    assert!(place.fetched(&place.depot(None), NAME).unwrap() == whole);
}

#[test]
fn what_cannot_be_had_is_said_and_leaves_nothing_that_looks_whole() {
    let whole = bytes(2, 50_000);
    let endless = [Fault::Status(500); 4000];
    let cases: [(&[Fault], &str); 6] = [
        (&endless, "500"),
        (&[Fault::Status(403)], "access denied"),
        (&[Fault::Status(410)], "refused: 410"),
        (&[Fault::Changed], "it was changed since"),
        (&[Fault::CutAfter(20_000), Fault::Changed], "it was changed since"),
        (&[Fault::SilentAfter(0); 8], "nothing came for"),
    ];
    for (faults, said) in cases {
        let place = Place::new();
        place.server.put(NAME, &whole);
        place.server.fail(NAME, faults);
        let depot = place.depot(None);
        let error = place.fetched(&depot, NAME).unwrap_err().to_string();
        assert!(error.contains(said), "{faults:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
        drop(depot);
        assert!(files(place.folder.path()).iter().all(|(name, _)| name.ends_with(".part")), "{faults:?}");
    }
    let place = Place::new();
    let missing = place.fetched(&place.depot(None), "set/none.tar").unwrap_err();
    assert!(matches!(missing, RemoteError::Gone), "{missing}");
}

#[test]
fn a_failure_is_forgotten_once_somebody_asks_again() {
    let place = Place::new();
    let whole = bytes(3, 10_000);
    place.server.put(NAME, &whole);
    place.server.fail(NAME, &[Fault::Status(403)]);
    let depot = place.depot(None);
    assert!(matches!(place.fetched(&depot, NAME), Err(RemoteError::Denied { .. })));
    assert!(place.fetched(&depot, NAME).unwrap() == whole);
}

#[test]
fn a_server_that_is_not_there_is_said_within_moments() {
    let place = Place::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/s.tar", free.local_addr().unwrap());
    drop(free);
    let error = place.depot(None).find(&url).unwrap_err();
    assert!(matches!(&error, RemoteError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_listed_checksum_decides() {
    let whole = bytes(4, 60_000);
    let sum = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let place = Place::new();
    place.server.put(NAME, &whole);
    place.server.put("set/SHA256SUMS", format!("{}  s-000.tar\n", sum(&whole)).as_bytes());
    place.server.fail(NAME, &[Fault::Wrong(12_345)]);
    let depot = place.depot(None);
    assert!(matches!(place.fetched(&depot, NAME), Err(RemoteError::Checksum)));
    // What is wrong is not gone on with.
    assert!(files(place.folder.path()).iter().all(|(_, bytes)| *bytes == 0));
    assert!(place.fetched(&depot, NAME).unwrap() == whole);
    drop(depot);

    // Half of it was here before, and some of that was lost with its machine.
    for (name, _) in files(place.folder.path()) {
        let there = place.folder.path().join(&name);
        let mut half = whole[..30_000].to_vec();
        half[7] ^= 1;
        fs::write(place.folder.path().join(format!("{name}.part")), half).unwrap();
        fs::remove_file(there).unwrap();
    }
    let depot = place.depot(None);
    assert!(place.fetched(&depot, NAME).unwrap() == whole);
    assert_eq!(place.retries("checksum"), "1");

    place.server.put("more/SHA256SUMS", b"no list\n");
    place.server.put("more/s.tar", b"x");
    let error = place.fetched(&depot, "more/s.tar").unwrap_err().to_string();
    assert!(error.contains("SHA256SUMS") && error.contains("line 1"), "{error}");
}

#[test]
fn what_is_here_is_not_fetched_again_and_what_was_begun_is_gone_on_with() {
    let place = Place::new();
    let whole = bytes(5, 80_000);
    place.server.put(NAME, &whole);
    place.fetched(&place.depot(None), NAME).unwrap();
    assert!(place.fetched(&place.depot(None), NAME).unwrap() == whole);
    assert_eq!(place.server.gets(NAME).len(), 1, "the file of an earlier depot is used");

    let (name, _) = files(place.folder.path()).pop().unwrap();
    fs::rename(place.folder.path().join(&name), place.folder.path().join(format!("{name}.part"))).unwrap();
    File::options()
        .write(true)
        .open(place.folder.path().join(format!("{name}.part")))
        .unwrap()
        .set_len(33_333)
        .unwrap();
    assert!(place.fetched(&place.depot(None), NAME).unwrap() == whole);
    assert_eq!(place.server.gets(NAME).pop().unwrap().as_deref(), Some("bytes=33333-"));

    // Another version is another file.
    let other = bytes(6, 80_000);
    place.server.put(NAME, &other);
    assert!(place.fetched(&place.depot(None), NAME).unwrap() == other);
}

#[test]
fn depots_that_share_a_folder_fetch_a_shard_once() {
    let place = Place::new();
    let whole = bytes(7, 300_000);
    place.server.put(NAME, &whole);
    place.server.close_gate();
    let barrier = Barrier::new(3);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let depot = place.depot(None);
                let id = depot.find(&place.server.url(NAME)).unwrap();
                barrier.wait();
                let mut found = Vec::new();
                depot.lease(id).unwrap().open().unwrap().read_to_end(&mut found).unwrap();
                assert!(found == whole);
            });
        }
        barrier.wait();
        place.server.open_gate();
    });
    assert_eq!(place.server.gets(NAME).len(), 1);
}

#[test]
fn leases_of_more_shards_than_there_is_room_for_take_turns() {
    const SHARDS: u64 = 12;
    let place = Place::new();
    let names: Vec<String> = (0..SHARDS).map(|number| format!("set/s-{number:03}.tar")).collect();
    for (number, name) in (0..).zip(&names) {
        place.server.put(name, &bytes(number, 10_000 + number as usize));
    }
    let depot = place.depot(Some(35_000));
    thread::scope(|scope| {
        for worker in 0..6 {
            let (place, depot, names) = (&place, &depot, &names);
            scope.spawn(move || {
                let mut draws = Draws::new(worker, 1, 0, Purpose::Crop);
                for _ in 0..40 {
                    let number = draws.below(SHARDS);
                    let found = place.fetched(depot, &names[number as usize]).unwrap();
                    assert!(found == bytes(number, 10_000 + number as usize));
                }
            });
        }
    });
    let there: u64 = files(place.folder.path()).iter().map(|(_, bytes)| bytes).sum();
    assert!(there <= 35_000, "{there} bytes are there");

    place.server.put("set/large.tar", &bytes(0, 40_000));
    let error = place.fetched(&depot, "set/large.tar").unwrap_err().to_string();
    assert!(error.contains("40000") && error.contains("35000") && error.contains("data.cache_gb"), "{error}");
}

#[test]
fn what_earlier_depots_left_goes_first_and_the_oldest_of_it_before_the_rest() {
    let place = Place::new();
    fs::write(place.folder.path().join("0-old.tar"), [0; 10_000]).unwrap();
    fs::write(place.folder.path().join("1-new.tar.part"), [0; 10_000]).unwrap();
    place.server.put(NAME, &bytes(8, 10_000));
    place.fetched(&place.depot(Some(25_000)), NAME).unwrap();
    let names: Vec<String> = files(place.folder.path()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().any(|name| name == "1-new.tar.part"), "{names:?}");
}

#[test]
fn a_part_of_a_shard_is_read_where_it_lies() {
    let place = Place::new();
    let whole = bytes(9, 50_000);
    place.server.put(NAME, &whole);
    let depot = place.depot(None);
    let id = depot.find(&place.server.url(NAME)).unwrap();
    let mut part = vec![0; 1000];
    let stop = AtomicBool::new(false);
    place.server.fail(NAME, &[Fault::Status(500), Fault::CutAfter(400)]);
    depot.read(id, 20_000, &mut part, &stop).unwrap();
    assert!(part == whole[20_000..21_000]);
    assert_eq!(files(place.folder.path()), []);
    // A server that sends no parts has the whole fetched.
    place.server.fail(NAME, &[Fault::NoRange]);
    depot.read(id, 30_000, &mut part, &stop).unwrap();
    assert!(part == whole[30_000..31_000]);
    assert_eq!(files(place.folder.path()).len(), 1);
    // Waiting for a server that says nothing ends with what it was for.
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    place.server.fail(NAME, &[Fault::SilentAfter(0); 8]);
    assert!(matches!(depot.read(id, 0, &mut part, &stop), Err(RemoteError::Closed)));
}

#[test]
fn a_depot_ends_while_its_server_is_silent() {
    let place = Place::new();
    place.server.put(NAME, &bytes(10, 50_000));
    place.server.fail(NAME, &[Fault::SilentAfter(8192); 8]);
    let patient = Patience { stall: Duration::from_secs(3600), ..HASTY };
    let room = Room { folder: place.folder.path().to_owned(), most: None };
    let depot = Depot::open(&room, patient, None).unwrap();
    let id = depot.find(&place.server.url(NAME)).unwrap();
    let ahead = depot.ahead();
    ahead.read_next(vec![id]);
    let stop = AtomicBool::new(true);
    assert!(matches!(depot.arrive(id, &stop), Err(RemoteError::Closed)));
    drop(ahead);
    // Would wait for an hour otherwise.
    drop(depot);
}

#[test]
fn addresses_are_judged_before_anybody_is_asked() {
    let place = Place::new();
    let depot = place.depot(None);
    for (url, said) in [
        ("http:///x.tar", "names no file"),
        ("s3://bucket", "names no file"),
        ("https://user:secret@host/x.tar", "SACCADE_HTTP_TOKEN"),
        ("https://host/x.tar?signature=1", "signed"),
        ("ftp://host/x.tar", "only http"),
        ("https://host/a/../x.tar", ".."),
    ] {
        let error = depot.find(url).unwrap_err();
        assert!(error.to_string().contains(said), "{url}: {error}");
    }
    let error = depot.list("https://host/set/*.tar", |_| true).unwrap_err();
    assert!(matches!(error, RemoteError::NoListing), "{error}");
}
