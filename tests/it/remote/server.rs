//! A web server of our own that has what a test gives it, and fails as the test says.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use tokio::runtime::Runtime;

/// Bytes that are sent at a time.
const PIECE: usize = 4096;

/// When all files were last changed.
const MODIFIED: &str = "Sun, 09 Sep 2001 01:46:40 GMT";

/// What goes wrong with one request for the bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Status(u16),
    /// The connection is cut off after so many bytes.
    CutAfter(usize),
    /// So many bytes, and then nothing for as long as the client waits.
    SilentAfter(usize),
    /// The file is another one from now on.
    Changed,
    /// The whole file is sent, whatever was asked for.
    NoRange,
    /// One byte is another one.
    Wrong(usize),
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub is_get: bool,
    pub name: String,
    pub range: Option<String>,
}

#[derive(Default)]
struct Shelf {
    files: HashMap<String, (Bytes, String)>,
    /// By name; the first is that of the next request for bytes.
    faults: HashMap<String, Vec<Fault>>,
    asked: Vec<Asked>,
    /// Requests for bytes are kept waiting until the test lets them go on.
    gate: Option<Arc<tokio::sync::Semaphore>>,
}

pub struct Server {
    shelf: Arc<Mutex<Shelf>>,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shelf: Arc<Mutex<Shelf>> = Arc::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shelf));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { shelf, address, _runtime: runtime }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap()
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        let tag = format!(
            "\"{:x}\"",
            bytes.iter().fold(bytes.len() as u64, |sum, byte| sum * 31 % 1_000_003 + u64::from(*byte))
        );
        self.shelf().files.insert(name.to_owned(), (Bytes::copy_from_slice(bytes), tag));
    }

    pub fn fail(&self, name: &str, faults: &[Fault]) {
        self.shelf().faults.insert(name.to_owned(), faults.to_vec());
    }

    /// Requests for bytes wait until [`Self::open_gate`].
    pub fn close_gate(&self) {
        self.shelf().gate = Some(Arc::new(tokio::sync::Semaphore::new(0)));
    }

    pub fn open_gate(&self) {
        if let Some(gate) = self.shelf().gate.take() {
            gate.add_permits(1 << 20);
        }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Requests for the bytes of a file.
    pub fn gets(&self, name: &str) -> Vec<Option<String>> {
        let is_get = |asked: &&Asked| asked.is_get && asked.name == name;
        self.shelf().asked.iter().filter(is_get).map(|asked| asked.range.clone()).collect()
    }
}

async fn answer(State(shelf): State<Arc<Mutex<Shelf>>>, request: Request) -> Response {
    let name = request.uri().path().trim_start_matches('/').to_owned();
    let (range, condition) = (text(&request, header::RANGE), text(&request, header::IF_MATCH));
    let is_get = request.method() == Method::GET;
    let gate = shelf.lock().unwrap().note(Asked { is_get, name: name.clone(), range: range.clone() });
    // What is not kept need not be sent to another thread.
    drop(request);
    if let Some(gate) = gate {
        drop(gate.acquire().await);
    }
    answered(&shelf, &name, is_get, range, condition)
}

fn text(request: &Request, name: header::HeaderName) -> Option<String> {
    request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

impl Shelf {
    fn note(&mut self, asked: Asked) -> Option<Arc<tokio::sync::Semaphore>> {
        let gate = self.gate.clone().filter(|_| asked.is_get && asked.name.ends_with(".tar"));
        self.asked.push(asked);
        gate
    }
}

fn answered(
    shelf: &Mutex<Shelf>,
    name: &str,
    is_get: bool,
    range: Option<String>,
    condition: Option<String>,
) -> Response {
    let (fault, file) = {
        let mut shelf = shelf.lock().unwrap();
        let faults = shelf.faults.get_mut(name).filter(|faults| is_get && !faults.is_empty());
        let fault = faults.map(|faults| faults.remove(0));
        if fault == Some(Fault::Changed)
            && let Some((_, tag)) = shelf.files.get_mut(name)
        {
            *tag = "\"another\"".into();
        }
        (fault, shelf.files.get(name).cloned())
    };
    let plain = |status: StatusCode| Response::builder().status(status).body(Body::from("so be it")).unwrap();
    let Some((bytes, tag)) = file else { return plain(StatusCode::NOT_FOUND) };
    if let Some(Fault::Status(status)) = fault {
        return plain(StatusCode::from_u16(status).unwrap());
    }
    if condition.is_some_and(|condition| condition != tag) {
        return plain(StatusCode::PRECONDITION_FAILED);
    }
    let range = range.filter(|_| fault != Some(Fault::NoRange)).map(|range| limits(&range, bytes.len()));
    let mut response = Response::builder().header(header::ETAG, tag).header(header::LAST_MODIFIED, MODIFIED);
    let (start, end) = range.unwrap_or((0, bytes.len()));
    if range.is_some() {
        let whole = format!("bytes {start}-{}/{}", end - 1, bytes.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, whole);
    }
    let mut sent = bytes.slice(start..end).to_vec();
    if let Some(Fault::Wrong(place)) = fault {
        sent[place] ^= 1;
    }
    response.header(header::CONTENT_LENGTH, sent.len()).body(body(sent, fault)).unwrap()
}

/// First and last byte as a client asks for them, as start and end.
fn limits(range: &str, length: usize) -> (usize, usize) {
    let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    (start.parse().unwrap(), end.parse().map_or(length, |end: usize| (end + 1).min(length)))
}

fn body(bytes: Vec<u8>, fault: Option<Fault>) -> Body {
    let until = match fault {
        Some(Fault::CutAfter(until) | Fault::SilentAfter(until)) => until.min(bytes.len()),
        _ => bytes.len(),
    };
    let pieces: Vec<Bytes> = bytes[..until].chunks(PIECE).map(Bytes::copy_from_slice).collect();
    let whole = stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
    match fault {
        Some(Fault::CutAfter(_)) => {
            // What was sent is not thrown away with the connection.
            let cut = stream::once(async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut off"))
            });
            Body::from_stream(futures_util::StreamExt::chain(whole, cut))
        }
        Some(Fault::SilentAfter(_)) => {
            Body::from_stream(futures_util::StreamExt::chain(whole, stream::pending::<Result<Bytes, std::io::Error>>()))
        }
        _ => Body::from_stream(stream::iter(
            bytes.chunks(PIECE).map(Bytes::copy_from_slice).collect::<Vec<_>>().into_iter().map(Ok::<_, Infallible>),
        )),
    }
}
