//! The port's connections: few at a time, and none for long.
//!
//! Comes in: a socket. Goes out: streams that fail when their time is over, which ends whoever reads or writes them. A
//! client may be slow, silent, endless or one of very many; what it can take from the run is bounded here.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

/// Two Prometheus, an agent and some people need four. The HTTP library keeps up to 400 KiB of a request whose end it
/// waits for, so these can hold 13 MiB.
const MOST: u32 = 32;

/// From a connection's start to the last byte of its answer: as long as Prometheus waits for a scrape, if not told
/// otherwise.
const LONGEST: Duration = Duration::from_secs(10);

/// Between two connections, at least. An answer takes 0.15 ms of processor time, so that whoever asks without pause takes
/// a sixth of one core from the run, and waits.
const BETWEEN: Duration = Duration::from_millis(1);

/// Accepts connections. Where too many are open, the oldest one makes room: an answer takes milliseconds, so the oldest
/// is the one that least deserves its place.
pub(super) struct Connections {
    socket: TcpListener,
    pace: Interval,
    places: Arc<Semaphore>,
    /// Of the connections that were open lately, the oldest first. Dropping one ends its connection.
    holds: VecDeque<oneshot::Sender<()>>,
}

impl Connections {
    pub fn new(socket: TcpListener) -> Self {
        let mut pace = interval(BETWEEN);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { socket, pace, places: Arc::new(Semaphore::new(MOST as usize)), holds: VecDeque::new() }
    }

    /// Is there for waiting until no connection is open any more.
    pub fn places(&self) -> Places {
        Places(Arc::clone(&self.places))
    }

    /// A place for one more connection.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        self.holds.retain(|hold| !hold.is_closed());
        if self.places.available_permits() == 0 {
            drop(self.holds.pop_front());
        }
        Arc::clone(&self.places).acquire_owned().await.ok()
    }
}

/// The places of all connections.
pub(super) struct Places(Arc<Semaphore>);

impl Places {
    /// Waits until all connections are closed, so that all answers are on their way.
    pub async fn are_free(&self) {
        drop(self.0.acquire_many(MOST).await);
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.pace.tick().await;
        let (stream, peer) = Listener::accept(&mut self.socket).await;
        let place = self.place().await;
        let (hold, released) = oneshot::channel();
        self.holds.push_back(hold);
        let over = Some(Box::pin(async move { drop(timeout(LONGEST, released).await) }) as Over);
        (Connection { stream, opening: Opening::default(), over, _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// The first bytes that a client sends. HTTP/2 begins with some of its own; it is not spoken here, whose bounds are those
/// of one request after the other, but the HTTP library would in builds where a client of it is there too.
#[derive(Default)]
pub struct Opening {
    seen: usize,
    is_judged: bool,
}

impl Opening {
    /// # Errors
    /// As soon as all that came, these bytes too, is how HTTP/2 begins.
    pub fn judge(&mut self, bytes: &[u8]) -> io::Result<()> {
        const HTTP2: &[u8] = b"PRI * ";
        for byte in bytes {
            if self.is_judged {
                break;
            }
            self.is_judged = HTTP2.get(self.seen) != Some(byte);
            self.seen += 1;
            if !self.is_judged && self.seen == HTTP2.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }
}

type Over = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A stream that fails once its time is over or its place is needed.
pub(super) struct Connection {
    stream: TcpStream,
    opening: Opening,
    /// None when it is over.
    over: Option<Over>,
    /// None only where the places were closed, which nobody does.
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// The stream while it may still be used. Whoever asks is woken when it may no longer.
    fn open(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if self.over.as_mut().is_some_and(|over| over.as_mut().poll(context).is_ready()) {
            self.over = None;
        }
        if self.over.is_some() { Ok(Pin::new(&mut self.stream)) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(self.open(context)?.poll_read(context, into))?;
        Poll::Ready(self.opening.judge(into.filled().get(before..).unwrap_or_default()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.open(context)?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.open(context)?.poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
