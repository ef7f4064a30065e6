//! The attention view as a browser asks for it: the numbers of the encoder, and what it refuses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};

use saccade::run::eval::{Frozen, Pooling, Split};
use saccade::run::exchange::Which;
use saccade::run::look::Views;
use serde_json::Value;

use crate::evaluation::run;
use crate::saccade::{at, finish, saccade, temporary};

/// A served view; killed in the end.
struct Served {
    child: Child,
    address: SocketAddr,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Served {
    fn start(run: &Path) -> Self {
        let names = "shards/fashion-names.txt";
        let mut command = saccade(&["view", at(run), "--address", "127.0.0.1:0", "--names", names]);
        command.args(["--neighbours-among", "300"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).map(|(address, _)| address);
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}")).parse().unwrap();
        Self { child, address }
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let host = if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // A refusal may come before all of a body is sent.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: answer[end + 4..].to_vec() }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", b"")
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.head);
        serde_json::from_slice(&answer.body).unwrap()
    }

    fn floats(&self, path: &str) -> Vec<f32> {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.head);
        let (numbers, rest) = answer.body.as_chunks::<4>();
        assert!(rest.is_empty());
        numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let worst = ours.iter().zip(theirs).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-5, "{what}: {worst} apart");
}

#[test]
fn page_gets_the_encoders_own_numbers() {
    let run = run();
    let served = Served::start(&run);
    let about = served.json("/api/run");
    assert_eq!(
        (&about["kind"], &about["layers"], &about["heads"], &about["grid"]),
        (&"vit".into(), &1.into(), &2.into(), &7.into())
    );
    assert_eq!((&about["labels"][3]["name"], &about["labels"][3]["samples"]), (&"Dress".into(), &120.into()));

    let frozen = Frozen::open(&run, &[], Which::Target, Pooling::Mean).unwrap();
    let set = frozen.set(Split::Validation).unwrap();
    let view = Views::new(&frozen.plan).of_sample(set, 17, 28).unwrap();
    let look = frozen.look(&view).unwrap();
    assert_close("attention", &served.floats("/api/attention/17/0"), &look.attention[0]);
    let said = served.json("/api/look/17");
    assert_eq!((&said["key"], &said["energy"]), (&set.sample(17).key.into(), &Value::Null));
    for row in look.attention[0].chunks(49) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "a query's attention adds up to 1");
    }
    let rollout = served.floats("/api/rollout/17/0");
    assert!(rollout.chunks(49).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5));
    let similarity = served.floats("/api/similarity/17");
    assert!((0..49).all(|patch| (similarity[patch * 50] - 1.0).abs() < 1e-5), "each patch is like itself");

    // The picture is what the encoder sees, to the pixel; and so is what is uploaded.
    let picture = served.get("/api/image/17");
    assert_eq!(image::load_from_memory(&picture.body).unwrap().into_rgb8(), view);
    let uploaded = served.ask("POST", "/api/upload", "x-file-name: a%20dress.png\r\n", &picture.body);
    let uploaded: Value = serde_json::from_slice(&uploaded.body).unwrap();
    assert_eq!((&uploaded["id"], &uploaded["key"]), (&"u1".into(), &"a dress.png".into()));
    assert_close("uploaded", &served.floats("/api/attention/u1/0"), &look.attention[0]);

    let dresses = served.json("/api/samples?label=3&from=100&count=50");
    assert_eq!((&dresses["total"], dresses["samples"].as_array().unwrap().len()), (&120.into(), 20));
    let key = set.sample(17).key;
    assert_eq!(served.json(&format!("/api/samples?key={key}"))["samples"][0]["id"], "17");
}

/// What `embed` writes of a sample is what is looked at; and the nearest training sample of a training sample is another.
#[test]
fn features_are_those_that_are_scored() {
    let run = run();
    let folder = temporary();
    let out = folder.path().join("features");
    finish(&mut saccade(&["embed", at(&run), "--out", at(&out)]), 0);
    let bytes = std::fs::read(out.join("features.npy")).unwrap();
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (rows, _) = bytes[start..].as_chunks::<4>();
    let row: Vec<f32> = rows[16 * 17..][..16].iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let frozen = Frozen::open(&run, &[], Which::Target, Pooling::Mean).unwrap();
    let view = Views::new(&frozen.plan).of_sample(frozen.set(Split::Validation).unwrap(), 17, 28).unwrap();
    assert_close("features", &frozen.look(&view).unwrap().pooled, &row);

    let served = Served::start(&run);
    // Until they are there, each answer waits for them for a second.
    let found = (0..300).find_map(|_| {
        let answer = served.get("/api/neighbours/t0?count=5");
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        match answer.status {
            200 => return Some(said),
            503 => assert!(said["done"].as_u64() <= said["of"].as_u64(), "{said}"),
            _ => panic!("{}", answer.head),
        }
        assert!(answer.head.contains("retry-after: "), "{}", answer.head);
        None
    });
    let found = found.expect("300 samples are encoded in so many seconds");
    let near = found["neighbours"].as_array().unwrap();
    assert_eq!(near.len(), 5);
    assert!(near.iter().all(|near| near["id"] != "t0"), "{found}");
    let similarity = |place: usize| near[place]["similarity"].as_f64().unwrap();
    assert!(similarity(0) > similarity(4) && similarity(0) <= 1.0, "{found}");
}

#[test]
fn bad_requests_get_their_status_and_harm_nothing() {
    let served = Served::start(&run());
    let own = format!("Host: {}\r\n", served.address);
    let big = vec![0u8; (16 << 20) + 1];
    let deep = "[".repeat(10_000);
    let cases: &[(&str, &str, &str, &[u8], u16)] = &[
        ("GET", "/api/look/99999", "", b"", 404),
        ("GET", "/api/look/-1", "", b"", 404),
        ("GET", "/api/look/u1", "", b"", 404),
        ("GET", "/api/look/t6000", "", b"", 404),
        ("GET", "/api/look/99999999999999999999", "", b"", 404),
        ("GET", "/api/attention/0/1", "", b"", 404),
        ("GET", "/api/attention/0/x", "", b"", 400),
        ("GET", "/api/attention/0/-1", "", b"", 400),
        ("GET", "/api/samples?label=dress", "", b"", 400),
        ("GET", "/api/samples?count=-1", "", b"", 400),
        ("GET", "/../../../../etc/passwd", "", b"", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", "", b"", 404),
        ("GET", "/api/image/..%2f..%2fplan.json", "", b"", 404),
        ("GET", "/assets/app.js", "", b"", 404),
        ("DELETE", "/api/run", "", b"", 405),
        ("GET", "/api/upload", "", b"", 405),
        ("POST", "/api/upload", "", b"no image", 422),
        ("POST", "/api/upload", "", b"", 422),
        ("POST", "/api/upload", "", deep.as_bytes(), 422),
        ("POST", "/api/upload", "", &big, 413),
        ("GET", "/", "Host: elsewhere.example\r\n", b"", 403),
        ("GET", "/", "Host: elsewhere.example:9500\r\n", b"", 403),
        ("POST", "/api/upload", "Origin: http://elsewhere.example\r\n", b"", 403),
        ("GET", "/api/run", "Sec-Fetch-Site: cross-site\r\n", b"", 403),
        ("POST", "/api/upload", "Sec-Fetch-Site: same-site\r\n", b"", 403),
        ("GET", "/api/run", "Sec-Fetch-Site: same-origin\r\n", b"", 200),
        ("GET", "/", "Host: localhost\r\n", b"", 200),
        ("GET", "/", "Host: [::1]:80\r\n", b"", 200),
        ("GET", "/", &own, b"", 200),
    ];
    for (method, path, headers, body, status) in cases {
        let answer = served.ask(method, path, headers, body);
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, *status, "{method} {path} {headers}: {said}");
        if *status >= 400 {
            let said: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{method} {path}: {said}"));
            assert!(said["error"].as_str().is_some_and(|why| !why.is_empty() && !why.contains('\n')), "{said}");
            assert!(!said.to_string().contains("root:"), "{path}");
        }
        for header in ["content-security-policy: default-src 'self'", "cross-origin-resource-policy: same-origin"] {
            assert!(answer.head.contains(header), "no {header} in {}", answer.head);
        }
    }
    assert_eq!(served.json("/api/run")["samples"], 1200);
}

#[test]
fn what_cannot_be_shown_is_refused_with_the_mend() {
    let run = run();
    let taken = Served::start(&run);
    let address = taken.address.to_string();
    let said = finish(&mut saccade(&["view", at(&run), "--address", "127.0.0.1"]), 2);
    assert!(said.err.contains("needs a host and a port, such as"), "{}", said.err);
    let cases: [(&[&str], &[&str]); 4] = [
        (&["view", at(&run), "--address", &address], &[&address, "port 0"]),
        (&["view", at(&run), "--set", "data.validation=[]", "--address", "127.0.0.1:0"], &["data.validation"]),
        (&["view", "no-run", "--address", "127.0.0.1:0"], &["no-run"]),
        (&["view", at(&run), "--names", "no-names", "--address", "127.0.0.1:0"], &["no-names"]),
    ];
    for (arguments, words) in cases {
        let said = finish(&mut saccade(arguments), 1);
        for word in words {
            assert!(said.err.contains(word), "no \"{word}\" in: {}", said.err);
        }
        assert_eq!(said.err.trim_end().lines().count(), 1, "{}", said.err);
    }
}
