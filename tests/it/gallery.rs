//! The attention view's server from within: one look at a time, bounds on clients, its names, what it says of neighbours.

use std::fs::File;
use std::future::{Future, pending, poll_fn};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use saccade::run::eval::{Frozen, Pooling};
use saccade::run::exchange::Which;
use saccade::web::{Address, Gallery, GalleryRequest, ImageId, Lack, Limits, Names, Port};
use tokio::runtime::{Builder, Runtime};

use crate::evaluation::run;
use crate::saccade::{root, temporary};

/// Until a test gives up waiting for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

fn gallery(changes: &[String], among: usize) -> Arc<Gallery> {
    let frozen = Frozen::open(&run(), changes, Which::Target, Pooling::Mean).unwrap();
    let request = GalleryRequest { among, names: Vec::new(), run: "run".into() };
    Arc::new(Gallery::new(frozen, request).unwrap())
}

/// What a future says when it is asked once.
async fn asked_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    let mut future = pin!(future);
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

#[test]
fn look_that_nobody_waits_for_any_more_ends_before_the_next_begins() {
    let gallery = gallery(&[], 0);
    let [first, second] = [ImageId::HeldOut(1), ImageId::HeldOut(2)];
    Builder::new_current_thread().build().unwrap().block_on(async {
        // Begun, and given up.
        drop(asked_once(gallery.look(first)).await);
        gallery.look(second).await.unwrap();
        // By now the first is there, so that nothing is left to wait for.
        let again = asked_once(gallery.look(first)).await;
        assert!(matches!(again, Poll::Ready(Ok(_))), "two were computed at once, or the first was thrown away");
    });
}

/// A server within this process.
struct Local {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Local {
    fn start(gallery: Arc<Gallery>, limits: Limits) -> Self {
        let runtime = Runtime::new().unwrap();
        let port = Port::take(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.shown().parse().unwrap();
        runtime.spawn(port.serve(gallery, limits, pending()));
        Self { address, runtime: Some(runtime) }
    }

    /// A connection that has sent a request's head, or what there is of it.
    fn connect(&self, head: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(head.replace("HOST", &format!("Host: {}", self.address)).as_bytes()).unwrap();
        stream
    }

    /// All that comes until the server closes the connection.
    fn ask(&self, head: &str) -> String {
        rest(&mut self.connect(head))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.runtime.take().expect("it is taken once").shutdown_background();
    }
}

fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("the connection is still open: {error}"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// Reads until the end of an answer's head.
fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn who_keeps_the_server_waiting_is_left() {
    let limits =
        Limits { patience: Duration::from_millis(500), upload_time: Duration::from_millis(500), ..Limits::default() };
    let local = Local::start(gallery(&[], 0), limits);
    for begun in ["", "GET / HTTP/1.1\r\nHo", "GET / HTTP/1.1\r\nHOST\r\n"] {
        assert_eq!(local.ask(begun), "", "an answer to {begun:?}");
    }
    let kept = local.ask("GET /api/run HTTP/1.1\r\nHOST\r\n\r\n");
    assert!(kept.starts_with("HTTP/1.1 200 OK"), "{kept}");
    let late = local.ask("POST /api/upload HTTP/1.1\r\nHOST\r\nContent-Length: 100\r\n\r\nsome");
    assert!(late.starts_with("HTTP/1.1 408 ") && late.contains("the file was not there after 0.5 s"), "{late}");
}

#[test]
fn uploads_beyond_those_there_is_room_for_are_refused_until_one_is_done() {
    let local = Local::start(gallery(&[], 0), Limits { uploads: 1, ..Limits::default() });
    let post = "POST /api/upload HTTP/1.1\r\nHOST\r\nConnection: close\r\nContent-Length: 4\r\n";
    let mut first = local.connect(&format!("{post}Expect: 100-continue\r\n\r\n"));
    assert!(head(&mut first).starts_with("HTTP/1.1 100 "), "the server waits for the body");
    let second = local.ask(&format!("{post}\r\nsome"));
    assert!(second.starts_with("HTTP/1.1 503 ") && second.contains("retry-after: "), "{second}");
    first.write_all(b"some").unwrap();
    assert!(rest(&mut first).starts_with("HTTP/1.1 422 "), "no image");
    assert!(local.ask(&format!("{post}\r\nsome")).starts_with("HTTP/1.1 422 "), "there is room again");
}

#[test]
fn connections_beyond_the_limit_wait() {
    let local = Local::start(gallery(&[], 0), Limits { connections: 1, ..Limits::default() });
    let get = "GET /api/rollout/5/0 HTTP/1.1\r\nHOST\r\nConnection: close\r\n\r\n";
    let mut first = local.connect("");
    let second = local.connect(get);
    for _ in 0..5 {
        first.write_all(format!("DELETE / HTTP/1.1\r\nHost: {}\r\n\r\n", local.address).as_bytes()).unwrap();
        let said = head(&mut first);
        let length = said.split_once("content-length: ").unwrap().1.split_once('\r').unwrap().0.parse().unwrap();
        first.read_exact(&mut vec![0; length]).unwrap();
    }
    second.set_nonblocking(true).unwrap();
    let early = second.peek(&mut [0]).map_err(|error| error.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock), "the second connection is answered beside the first");
    second.set_nonblocking(false).unwrap();
    drop(first);
    // The others come one after another.
    let waiting: Vec<TcpStream> = std::iter::once(second).chain((0..6).map(|_| local.connect(get))).collect();
    for mut stream in waiting {
        assert!(rest(&mut stream).starts_with("HTTP/1.1 200 OK"));
    }
}

#[test]
fn answers_need_a_turn_and_say_so_where_there_is_none() {
    let ask = |answers: usize, path: &str| {
        let limits = Limits { answers, turn: Duration::from_millis(100), ..Limits::default() };
        let local = Local::start(gallery(&[], 0), limits);
        local.ask(&format!("GET {path} HTTP/1.1\r\nHOST\r\nConnection: close\r\n\r\n"))
    };
    for path in
        ["/api/samples", "/api/image/5", "/api/look/5", "/api/attention/5/0", "/api/rollout/5/0", "/api/similarity/5"]
    {
        let none = ask(0, path);
        assert!(none.starts_with("HTTP/1.1 503 ") && none.contains("retry-after: "), "{path}: {none}");
        assert!(ask(1, path).starts_with("HTTP/1.1 200 OK"), "{path}");
    }
}

#[test]
fn server_answers_to_its_numbers_and_its_given_name_alone() {
    let refused = |asked: &str, listens: &str, path: &str, headers: &[(&str, &str)]| {
        let names = Names::new(&asked.parse().unwrap(), listens.parse().unwrap());
        let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
        names.refuse(&request.body(Body::empty()).unwrap())
    };
    let (here, there) = (("127.0.0.1:9500", "127.0.0.1:9500"), ("0.0.0.0:9500", "0.0.0.0:9500"));
    let named = ("Box.lan:9500", "192.168.1.5:9500");
    for ((asked, listens), host, answered) in [
        (here, "127.0.0.1:9500", true),
        (here, "localhost:9500", true),
        (here, "[::1]:9500", true),
        (here, "192.168.1.5:9500", false),
        (here, "box.lan:9500", false),
        (there, "192.168.1.5:9500", true),
        (there, "[fd00::5]:9500", true),
        (there, "localhost", true),
        (there, "box.lan:9500", false),
        (there, "elsewhere.example", false),
        (there, "192.168.1.5.elsewhere.example", false),
        (there, "", false),
        (named, "box.lan:9500", true),
        (named, "192.168.1.5:9500", true),
        (named, "elsewhere.example:9500", false),
        (named, "box.lan.elsewhere.example:9500", false),
    ] {
        let why = refused(asked, listens, "/", &[("host", host)]);
        assert_eq!(why.is_none(), answered, "{asked}, asked as {host}: {why:?}");
    }
    let why = refused(there.0, there.1, "/", &[("host", "box.lan:9500")]).unwrap();
    assert!(why.contains("--address NAME:9500"), "{why}");

    let link = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    let frame = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
    for (site, path, more, answered) in [
        ("none", "/", &link[..], true),
        ("same-origin", "/api/run", &[], true),
        ("same-site", "/api/run", &[], false),
        ("cross-site", "/api/run", &[], false),
        ("cross-site", "/", &link, true),
        ("same-site", "/", &link, true),
        ("cross-site", "/api/run", &link, false),
        ("cross-site", "/", &frame, false),
        ("cross-site", "/style.css", &[], false),
    ] {
        let headers: Vec<_> =
            [("host", "localhost"), ("sec-fetch-site", site)].into_iter().chain(more.iter().copied()).collect();
        let why = refused(here.0, here.1, path, &headers);
        assert_eq!(why.is_none(), answered, "{site}, {path}, {more:?}: {why:?}");
    }
}

#[test]
fn address_is_a_host_and_a_port() {
    for good in ["127.0.0.1:9500", "[::1]:0", "0.0.0.0:80", "localhost:9500", "my-box.lan:1"] {
        assert!(good.parse::<Address>().is_ok(), "{good}");
    }
    for bad in ["", "9500", "localhost", "::1:9500", ":9500", "box:port", "box:70000", "http://box:1", "a b:1"] {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
}

/// The first samples of a bundled shard, all but the first without their labels: a run that is scored needs one.
fn unlabelled(path: &Path, image: impl Fn(Vec<u8>) -> Vec<u8>) {
    let mut bundled = tar::Archive::new(File::open(root().join("shards/fashion-train-000000.tar")).unwrap());
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    let mut labelled = false;
    for member in bundled.entries().unwrap().take(512) {
        let mut member = member.unwrap();
        let name = member.path().unwrap().into_owned();
        let is_label = name.extension().is_some_and(|kind| kind == "cls");
        if !is_label || !std::mem::replace(&mut labelled, true) {
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes).unwrap();
            let bytes = if is_label { bytes } else { image(bytes) };
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
    }
    tar.finish().unwrap();
}

#[test]
fn neighbours_need_no_labels_and_why_there_are_none_is_said() {
    let folder = temporary();
    let (plain, broken) = (folder.path().join("plain.tar"), folder.path().join("broken.tar"));
    unlabelled(&plain, |bytes| bytes);
    unlabelled(&broken, |_| b"no image".to_vec());
    let with = |path: &Path| gallery(&[format!("data.train={path:?}")], 50);
    let runtime = Runtime::new().unwrap();

    let plain = with(&plain);
    let seen = runtime.block_on(plain.look(ImageId::Train(0))).unwrap();
    let early = plain.neighbours(&seen.look, 3, Some(0)).unwrap_err();
    assert!(matches!(early, Lack::Early { done: 0, of } if of > 3), "{early:?}");
    plain.learn_neighbours(runtime.handle()).unwrap();
    let near = plain.neighbours(&seen.look, 3, Some(0)).unwrap();
    assert!(near.len() == 3 && near.iter().all(|near| near.label.is_none() && near.sample != 0), "{near:?}");

    let broken = with(&broken);
    assert!(broken.learn_neighbours(runtime.handle()).is_err());
    let said = Local::start(broken, Limits::default())
        .ask("GET /api/neighbours/0 HTTP/1.1\r\nHOST\r\nConnection: close\r\n\r\n");
    assert!(
        said.starts_with("HTTP/1.1 500 ") && said.contains("cannot be encoded: none of them can be used"),
        "{said}"
    );
}
