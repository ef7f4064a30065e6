//! A web server of our own that has what it is given, by tests and by requests, and fails as the test says.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

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
    /// A piece, and then a pause before the next.
    Slow(Duration),
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
    pub method: Method,
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
    /// Files that may still be written before the server falls silent.
    puts_left: Option<usize>,
    /// Is told the name of each file that was written.
    on_put: Option<mpsc::Sender<String>>,
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
        self.shelf().put(name, Bytes::copy_from_slice(bytes));
    }

    pub fn take_away(&self, name: &str) {
        self.shelf().files.remove(name);
    }

    /// The names of all files, and what they hold.
    pub fn files(&self) -> BTreeMap<String, Bytes> {
        self.shelf().files.iter().map(|(name, (bytes, _))| (name.clone(), bytes.clone())).collect()
    }

    /// The server falls silent when so many more files were written; their names come by the channel.
    pub fn silent_after_puts(&self, files: Option<usize>) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        let mut shelf = self.shelf();
        (shelf.puts_left, shelf.on_put) = (files, Some(sender));
        receiver
    }

    /// How often a file was written, or tried to be.
    pub fn puts(&self, name: &str) -> usize {
        self.shelf().asked.iter().filter(|asked| asked.method == Method::PUT && asked.name == name).count()
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
        let is_get = |asked: &&Asked| asked.method == Method::GET && asked.name == name;
        self.shelf().asked.iter().filter(is_get).map(|asked| asked.range.clone()).collect()
    }
}

async fn answer(State(shelf): State<Arc<Mutex<Shelf>>>, request: Request) -> Response {
    let name = request.uri().path().trim_start_matches('/').to_owned();
    let (range, condition) = (text(&request, header::RANGE), text(&request, header::IF_MATCH));
    let method = request.method().clone();
    let gate = shelf.lock().unwrap().note(Asked { method: method.clone(), name: name.clone(), range: range.clone() });
    // What is not kept need not be sent to another thread.
    let body = request.into_body();
    if let Some(gate) = gate {
        drop(gate.acquire().await);
    }
    match method {
        Method::PUT => written(&shelf, &name, body).await,
        Method::DELETE => shelf.lock().unwrap().remove(&name),
        _ => answered(&shelf, &name, method == Method::GET, range, condition),
    }
}

async fn written(shelf: &Mutex<Shelf>, name: &str, body: Body) -> Response {
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let is_silent = {
        let mut shelf = shelf.lock().unwrap();
        if let Some(Fault::Status(status)) = shelf.fault(name) {
            return plain(StatusCode::from_u16(status).unwrap());
        }
        let is_silent = shelf.puts_left == Some(0);
        if !is_silent {
            shelf.puts_left = shelf.puts_left.map(|left| left - 1);
            shelf.put(name, bytes);
        }
        is_silent
    };
    if is_silent {
        std::future::pending::<()>().await;
    }
    plain(StatusCode::CREATED)
}

fn plain(status: StatusCode) -> Response {
    Response::builder().status(status).body(Body::from("so be it")).unwrap()
}

fn text(request: &Request, name: header::HeaderName) -> Option<String> {
    request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

impl Shelf {
    fn note(&mut self, asked: Asked) -> Option<Arc<tokio::sync::Semaphore>> {
        let gate = self.gate.clone().filter(|_| asked.method == Method::GET && asked.name.ends_with(".tar"));
        self.asked.push(asked);
        gate
    }

    fn put(&mut self, name: &str, bytes: Bytes) {
        let tag = format!(
            "\"{:x}\"",
            bytes.iter().fold(bytes.len() as u64, |sum, byte| sum * 31 % 1_000_003 + u64::from(*byte))
        );
        self.files.insert(name.to_owned(), (bytes, tag));
        if let Some(told) = &self.on_put {
            let _ = told.send(name.to_owned());
        }
    }

    fn remove(&mut self, name: &str) -> Response {
        plain(self.files.remove(name).map_or(StatusCode::NOT_FOUND, |_| StatusCode::NO_CONTENT))
    }

    /// What goes wrong with this request.
    fn fault(&mut self, name: &str) -> Option<Fault> {
        let faults = self.faults.get_mut(name).filter(|faults| !faults.is_empty())?;
        Some(faults.remove(0))
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
        let fault = if is_get && shelf.files.contains_key(name) { shelf.fault(name) } else { None };
        if fault == Some(Fault::Changed)
            && let Some((_, tag)) = shelf.files.get_mut(name)
        {
            *tag = "\"another\"".into();
        }
        (fault, shelf.files.get(name).cloned())
    };
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
        Some(Fault::Slow(pause)) => Body::from_stream(futures_util::StreamExt::then(whole, move |piece| async move {
            tokio::time::sleep(pause).await;
            piece
        })),
        _ => Body::from_stream(stream::iter(
            bytes.chunks(PIECE).map(Bytes::copy_from_slice).collect::<Vec<_>>().into_iter().map(Ok::<_, Infallible>),
        )),
    }
}
