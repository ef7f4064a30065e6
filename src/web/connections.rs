//! Connections: how many there are at once, and how long each may keep the server waiting.
//!
//! axum's own server has neither bound. A connection is closed when a request's head is not there in time, counted from
//! the connection's beginning or the answer before, and when an answer is taken too slowly.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::telemetry::Opening;

/// Bytes a second that a client must take of an answer, once it has waited: slower than any line that shows pictures.
const LEAST_RATE: f64 = 16384.0;

/// A socket that lets so many connections in.
pub struct Doors {
    socket: TcpListener,
    room: Arc<Semaphore>,
    patience: Duration,
}

impl Doors {
    pub fn new(socket: TcpListener, connections: usize, patience: Duration) -> Self {
        Self { socket, room: Arc::new(Semaphore::new(connections)), patience }
    }
}

impl Listener for Doors {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let room = Arc::clone(&self.room).acquire_owned().await.expect("nobody closes this semaphore");
        let (stream, address) = Listener::accept(&mut self.socket).await;
        let due = Due { at: Arc::default(), patience: self.patience };
        due.begins();
        let alarm = Box::pin(sleep_until(Instant::now() + self.patience));
        (Connection { stream, opening: Opening::default(), due, alarm, _room: room }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Until when a client must have done its part; no time while the server does its own.
#[derive(Clone)]
pub struct Due {
    at: Arc<Mutex<Option<Instant>>>,
    patience: Duration,
}

impl Due {
    /// The client must do something from now on.
    pub fn begins(&self) {
        self.set(Some(Instant::now() + self.patience));
    }

    /// The client waits for the server.
    pub fn pauses(&self) {
        self.set(None);
    }

    /// The client has taken so many bytes.
    fn took(&self, bytes: usize) {
        let Some(at) = self.at() else { return };
        let later = at + Duration::from_secs_f64(bytes as f64 / LEAST_RATE);
        self.set(Some(later.min(Instant::now() + self.patience)));
    }

    fn at(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, at: Option<Instant>) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

impl Connected<IncomingStream<'_, Doors>> for Due {
    fn connect_info(stream: IncomingStream<'_, Doors>) -> Self {
        stream.io().due.clone()
    }
}

/// A connection that fails once its client is overdue.
pub struct Connection {
    stream: TcpStream,
    opening: Opening,
    due: Due,
    alarm: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl Connection {
    fn in_time(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(at) = self.due.at() else { return Ok(()) };
        if self.alarm.deadline() != at {
            self.alarm.as_mut().reset(at);
        }
        if self.alarm.as_mut().poll(context).is_ready() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.opening.judge(buffer.filled().get(before..).unwrap_or_default()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.due.took(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.in_time(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, parts))?;
        self.due.took(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
