//! The port: what it answers, whom it bears with, and how it ends.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use saccade::config::RunConfig;
use saccade::telemetry::server::{self, End, Scrapes};
use saccade::telemetry::{Gauge, Stage, Telemetry, TelemetryConfig};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::prometheus::{self, Prometheus, scrape};
use crate::telemetry::used;

#[test]
fn the_configuration_is_an_address_or_nothing() {
    let read = toml::from_str::<TelemetryConfig>;
    assert_eq!(read("").unwrap(), TelemetryConfig::default());
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 9400));
    assert_eq!(read("address = '127.0.0.1:9400'").unwrap().address, Some(local));
    for wrong in ["address = '127.0.0.1'", "address = 9400", "address = 'here:1'", "adress = '127.0.0.1:9400'"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_port_in_use_is_an_error_at_once() {
    let first = server::bind(any_port()).unwrap();
    let error = server::bind(first.address()).unwrap_err();
    let expected = format!(
        "telemetry address {}: the port is in use, choose another or end the process that listens there",
        first.address()
    );
    assert_eq!(error.to_string(), expected);
    drop(first);
}

#[test]
fn an_address_of_another_machine_is_an_error_at_once() {
    // Reserved for documentation (RFC 5737), so no machine has it.
    let error = server::bind(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9400))).unwrap_err();
    assert_eq!(error.to_string(), "telemetry address 192.0.2.1:9400: cannot listen");
}

#[test]
fn the_server_answers_what_it_has_and_nothing_else() {
    let served = Served::start(used());
    for (path, status, content_type, beginning) in [
        ("/metrics", 200, "\r\ncontent-type: text/plain; version=0.0.4\r\n", "# HELP "),
        ("/healthz", 200, "\r\ncontent-type: text/plain", "ok"),
        ("/", 404, "", ""),
        ("/metrics/", 404, "", ""),
        ("/../etc/passwd", 404, "", ""),
        ("/%00", 404, "", ""),
    ] {
        let answer = prometheus::get(served.address, path).unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.head);
        assert!(answer.head.contains(content_type), "{path}: {}", answer.head);
        assert!(answer.body.starts_with(beginning), "{path}: {}", answer.body);
    }
    served.stop();
}

#[test]
fn every_shipped_pipeline_is_watched_from_its_own_machine_alone() {
    let files = fs::read_dir("pipelines").unwrap().map(|entry| entry.unwrap().path());
    for file in files {
        let address = RunConfig::read(&file, &[]).unwrap().telemetry.address;
        assert!(address.is_some_and(|address| address.ip().is_loopback()), "{}: {address:?}", file.display());
    }
}

// Clients that mean harm, or do harm without meaning it

/// The status of the only answer to these bytes, after which the server closes.
fn check(address: SocketAddr, request: &str, expected: u16) {
    let mut stream = connected(address);
    // The server may answer and hang up before it has read everything.
    let _ = stream.write_all(request.as_bytes());
    let answer = until_closed(&mut stream);
    let shown: String = request.chars().take(60).collect();
    let statuses: Vec<&str> = answer.match_indices("HTTP/1.").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, [expected.to_string()], "{shown:?}");
}

#[test]
fn each_request_gets_one_answer_and_then_the_connection_ends() {
    let served = Served::start(used());
    let check = |request: &str, expected| check(served.address, request, expected);
    check("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", 200);
    check("GET /healthz HTTP/1.1\r\n\r\n", 200);
    check("GET /healthz HTTP/1.0\r\n\r\n", 200);
    check("GET /healthz HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", 200);
    check("GET /healthz?a=b HTTP/1.1\r\nhost: x\r\n\r\n", 200);
    // One after the other on one connection, without waiting for answers.
    check(&"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000), 200);
    // Methods.
    check("HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n", 200);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
        check(&format!("{method} /metrics HTTP/1.1\r\nhost: x\r\n\r\n"), 405);
    }
    check("CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n", 404);
    check("GET http://example.org/metrics HTTP/1.1\r\nhost: x\r\n\r\n", 200);
    check("GET * HTTP/1.1\r\nhost: x\r\n\r\n", 404);
    // Bodies that never come, or never end, are not waited for.
    check("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000000\r\n\r\n", 405);
    check("POST /metrics HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n", 405);
    check("GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n", 200);
    served.stop();
}

#[test]
fn head_has_the_head_of_an_answer_alone() {
    let served = Served::start(used());
    let mut stream = connected(served.address);
    stream.write_all(b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let answer = until_closed(&mut stream).to_ascii_lowercase();
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(answer.matches("\r\n\r\n").count(), 1, "{answer}");
    served.stop();
}

#[test]
fn garbage_is_refused_and_serving_goes_on() {
    let served = Served::start(used());
    let check = |request: &str, expected| check(served.address, request, expected);
    check("\0\x7f\x16\x03\x01\r\n\r\n", 400);
    check("GET\r\n\r\n", 400);
    check("GET /metrics HTTP/9.9\r\n\r\n", 400);
    check("GET /metrics HTTP/1.1\r\na\0b: c\r\n\r\n", 400);
    check("GET /metrics HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400);
    check("GET /metrics HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400);
    check(&format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200)), 431);
    check(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)), 414);
    // How HTTP/2 begins; of that nothing is spoken here.
    let mut stream = connected(served.address);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert_eq!(until_closed(&mut stream), "");
    assert_eq!(prometheus::get(served.address, "/healthz").unwrap().body, "ok");
    served.stop();
}

#[test]
fn a_request_that_never_ends_is_cut_off() {
    let served = Served::start(used());
    for (start, more) in [("GET /", "a".repeat(1 << 16)), ("GET / HTTP/1.1\r\na: ", "b".repeat(1 << 16))] {
        let mut stream = connected(served.address);
        stream.write_all(start.as_bytes()).unwrap();
        // More than the system's own buffers hold.
        let refused = (0..1000).find_map(|_| stream.write_all(more.as_bytes()).err());
        assert!(refused.is_some(), "{start:?} and 64 MB more were taken");
    }
    // Neither does the answer wait for a body of which more and more comes.
    let mut stream = connected(served.address);
    stream.write_all(b"POST / HTTP/1.1\r\ncontent-length: 1000000000000\r\n\r\n").unwrap();
    let refused = (0..1000).find_map(|_| stream.write_all(&[0; 1 << 16]).err());
    assert!(refused.is_some(), "64 MB of a body were taken");
    served.stop();
}

#[test]
fn silent_and_slow_clients_are_sent_away() {
    let served = Served::start(used());
    let mut silent = connected(served.address);
    let mut half = connected(served.address);
    half.write_all(b"GET /metrics HTTP/1.1\r\nho").unwrap();
    let mut slow = connected(served.address);
    // What is waited for between two bytes; so the loop would last far longer than such a client may.
    slow.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let bytes = b"GET /metrics HTTP/1.1\r\na: ".iter().chain(std::iter::repeat(&b'b')).take(1000);
    let sent_away = bytes.copied().any(|byte| {
        let gone = |error: std::io::Error| !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        slow.write_all(&[byte]).is_err() || slow.read(&mut [0]).map_or_else(gone, |_| true)
    });
    assert!(sent_away, "a byte now and then kept a connection open");
    assert_eq!([until_closed(&mut silent), until_closed(&mut half)], ["", ""]);
    assert_eq!(prometheus::get(served.address, "/healthz").unwrap().body, "ok");
    served.stop();
}

#[test]
fn among_many_connections_the_oldest_make_room() {
    const MANY: usize = 500;
    let served = Served::start(used());
    let mut idle: Vec<TcpStream> = (0..MANY).map(|_| connected(served.address)).collect();
    assert!(scrape(served.address).contains("saccade_build_info"));
    let start = Instant::now();
    // All but the newest are closed, and those soon: in time they would be closed in the order of their age, ten seconds
    // after they began.
    let newest = idle.split_off(MANY - 20);
    for stream in &mut idle[..MANY - 40] {
        until_closed(stream);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "closed by age after {:?}, not to make room", start.elapsed());
    assert!(newest.iter().all(is_open), "closed before its time");
    served.stop();
}

#[test]
fn a_client_that_never_finishes_does_not_hold_up_the_end() {
    let served = Served::start(used());
    let mut client = TcpStream::connect(served.address).unwrap();
    client.write_all(b"GET /metr").unwrap();
    assert_eq!(prometheus::get(served.address, "/healthz").unwrap().body, "ok");
    let address = served.address;
    served.stop();
    server::bind(address).unwrap();
}

// The end

#[test]
fn a_run_that_ended_well_stays_for_one_more_scrape() {
    let telemetry = used();
    let Served { runtime, address, shutdown, task } = Served::start(telemetry.clone());
    scrape(address);
    telemetry.set(Gauge::Loss, 0.125);
    shutdown.send(End::AfterScrape).unwrap();
    assert!(scrape(address).contains("\nsaccade_loss 0.125\n"));
    ended(&runtime, task);
    assert!(TcpStream::connect(address).is_err(), "still served");
}

#[test]
fn nobody_is_waited_for_who_has_not_scraped_twice() {
    // The one scrape of the server's start.
    let Served { runtime, address, shutdown, task } = Served::start(used());
    prometheus::get(address, "/healthz").unwrap();
    shutdown.send(End::AfterScrape).unwrap();
    ended(&runtime, task);
}

/// Seconds at which somebody scraped, when it is now, and how long the next scrape is waited for.
fn check_wait(scrapes: &[u64], now: u64, expected: u64) {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut seen = Scrapes::default();
    scrapes.iter().for_each(|&seconds| seen.note(at(seconds)));
    assert_eq!(seen.wait(at(now)), Duration::from_secs(expected), "scrapes at {scrapes:?}, now {now}");
}

#[test]
fn next_scrape_is_waited_for_as_long_as_it_may_come() {
    let late = Scrapes::LATE.as_secs();
    check_wait(&[], 100, 0);
    check_wait(&[90], 100, 0);
    check_wait(&[80, 95], 100, 10 + late);
    check_wait(&[65, 80, 95], 95, 15 + late);
    check_wait(&[10, 15], 15 + 5 + late - 1, 1);
    check_wait(&[10, 15], 15 + 5 + late, 0);
    check_wait(&[10, 15], 1000, 0);
    check_wait(&[0, 3600], 3601, Scrapes::LONGEST.as_secs());
    // Somebody looks between two regular scrapes.
    check_wait(&[0, 30, 60, 61], 62, 30 + late - 1);
    // The long pause is five scrapes ago.
    check_wait(&[0, 40, 45, 50, 55, 60], 61, 4 + late);
    check_wait(&[0, 40, 45, 50, 55], 56, 40 + late - 1);
}

// A real Prometheus

#[test]
fn prometheus_scrapes_and_sees_a_counter_move() {
    let telemetry = used();
    let served = Served::start(telemetry.clone());
    let prometheus = Prometheus::start(served.address.port());
    let samples = r#"saccade_stage_samples_total{stage="decode"}"#;
    let found = prometheus.wait_for(samples, |found| !found.is_empty());
    assert_eq!((found.len(), found[0].value), (1, 3.0));
    telemetry.stage(Stage::Decode).samples(39);
    prometheus.wait_for(samples, |found| found.first().is_some_and(|series| series.value == 42.0));
    assert_eq!(prometheus.query("up")[0].value, 1.0);
    let found = prometheus.query("saccade_loss_term");
    assert_eq!((found[0].labels["term"].as_str(), found[0].value), ("prediction", 0.5));
    let slowest = prometheus.query(r#"histogram_quantile(1, saccade_stage_sample_seconds_bucket{stage="decode"})"#);
    assert_eq!(slowest[0].value, 0.0025);
    served.stop();
}

// Help for the tests above

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Far more than the end of a server takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server in this process, on a free port.
struct Served {
    runtime: Runtime,
    address: SocketAddr,
    shutdown: oneshot::Sender<End>,
    task: JoinHandle<()>,
}

impl Served {
    fn start(telemetry: Telemetry) -> Served {
        let runtime = Runtime::new().unwrap();
        let listener = server::bind(any_port()).unwrap();
        let address = listener.address();
        let (shutdown, over) = oneshot::channel();
        let task = runtime.spawn(async move {
            let over = async move { over.await.unwrap() };
            server::serve(listener, telemetry, over).await.unwrap();
        });
        assert!(scrape(address).contains("saccade_build_info"));
        Served { runtime, address, shutdown, task }
    }

    fn stop(self) {
        self.shutdown.send(End::Now).unwrap();
        ended(&self.runtime, self.task);
    }
}

fn ended(runtime: &Runtime, task: JoinHandle<()>) {
    let ended = async { tokio::time::timeout(PATIENCE, task).await };
    runtime.block_on(ended).expect("the server ends").unwrap();
}

fn connected(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads until the server closes, which it may also do by resetting; fails if it never does.
fn until_closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "not closed: {error}");
    }
    String::from_utf8(answer).unwrap()
}

/// Whether the server has left the connection open, without waiting.
fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let open = matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    open
}
