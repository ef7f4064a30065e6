//! A real Prometheus for tests, and the requests that one would make by hand.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Prometheus scrapes first some five seconds after its start; the rest is for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_POLLS: Duration = Duration::from_millis(50);

/// What a server has answered.
pub struct Response {
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    pub body: String,
}

/// Asks for `path` and reads until the server closes.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<Response> {
    request(address, format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes())
}

/// Sends any bytes and reads until the server closes.
pub fn request(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(ErrorKind::InvalidData)?;
    Ok(Response { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

/// The text of `/metrics`.
pub fn scrape(address: SocketAddr) -> String {
    let answer = get(address, "/metrics").unwrap_or_else(|error| panic!("{address}/metrics: {error}"));
    assert_eq!(answer.status, 200, "{address}/metrics: {}", answer.body);
    answer.body
}

/// One line of a query's result.
#[derive(Debug)]
pub struct Series {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A Prometheus of our own, with a folder and a port of its own; ends when dropped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Prometheus {
    /// Starts scraping `127.0.0.1:target_port` once a second, and waits until queries are answered.
    pub fn start(target_port: u16) -> Prometheus {
        let folder = TempDir::new().expect("a temporary folder");
        let address = free_address();
        let config = folder.path().join("prometheus.yml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
                 scrape_configs: [{{job_name: saccade, static_configs: [{{targets: ['127.0.0.1:{target_port}']}}]}}]\n"
            ),
        )
        .expect("the configuration is written");
        let log = File::create(folder.path().join("log")).expect("the log is made");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus: {error}; scripts/test installs Debian's package `prometheus`"));
        let mut prometheus = Prometheus { child, address, folder };
        prometheus.wait_until_ready();
        prometheus
    }

    /// The value now of every series that the query finds.
    pub fn query(&self, promql: &str) -> Vec<Series> {
        let path = format!("/api/v1/query?query={}", percent_encoded(promql));
        let answer = get(self.address, &path).unwrap_or_else(|error| panic!("{promql}: {error}\n{}", self.log()));
        assert_eq!(answer.status, 200, "{promql}: {}", answer.body);
        let answer: serde_json::Value = serde_json::from_str(&answer.body).expect("an answer in JSON");
        let result = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{promql}: not a vector: {answer}"));
        result.iter().map(series).collect()
    }

    /// Asks until the answer is `enough`, and fails when that takes too long.
    pub fn wait_for(&self, promql: &str, enough: impl Fn(&[Series]) -> bool) -> Vec<Series> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.query(promql);
            if enough(&found) {
                return found;
            }
            assert!(Instant::now() < deadline, "{promql}: still {found:?} after {PATIENCE:?}\n{}", self.log());
            thread::sleep(BETWEEN_POLLS);
        }
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !get(self.address, "/-/ready").is_ok_and(|answer| answer.status == 200) {
            let ended = self.child.try_wait().expect("the state of a child");
            assert!(ended.is_none() && Instant::now() < deadline, "prometheus is not ready\n{}", self.log());
            thread::sleep(BETWEEN_POLLS);
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.local_addr().expect("its number")
}

fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

fn series(entry: &serde_json::Value) -> Series {
    let labels = serde_json::from_value(entry["metric"].clone()).expect("labels are texts");
    let value = entry["value"][1].as_str().and_then(|value| value.parse().ok());
    Series { labels, value: value.unwrap_or_else(|| panic!("not a number: {entry}")) }
}
