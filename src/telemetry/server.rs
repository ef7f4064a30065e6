//! The port that Prometheus scrapes: `/metrics` and `/healthz`.
//!
//! Comes in: an address and the telemetry. Goes out: HTTP, one request a connection, until a future says that it is
//! over. Binding is a step of its own, so that a port in use stops a run before it starts; and a run that ended
//! stays for one more scrape, so that its last values are seen.

use std::future::{Future, IntoFuture};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::middleware;
use axum::response::Response;
use axum::routing::get;
use tokio::sync::watch;
use tokio::time::timeout;

use super::connections::Connections;
use super::{Telemetry, TelemetryError};

/// A port that is ours already and served by nobody yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// The address as bound: with the port that was chosen where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// How serving ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Now,
    /// As soon as whoever scrapes has come once more, see [`Scrapes::wait`].
    AfterScrape,
}

/// The content type of the Prometheus text format.
const EXPOSITION: &str = "text/plain; version=0.0.4";

/// What the last answer has to get onto its way.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Takes the port. Needs no runtime.
///
/// # Errors
/// [`TelemetryError::PortInUse`] if another socket listens there, [`TelemetryError::Listen`] if the address is not
/// this machine's or not allowed.
pub fn bind(address: SocketAddr) -> Result<Listener, TelemetryError> {
    let listen = || {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(Listener { address: socket.local_addr()?, socket })
    };
    listen().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => TelemetryError::PortInUse { address },
        _ => TelemetryError::Listen { address, source },
    })
}

/// Serves until `shutdown` is ready, and as its answer says.
///
/// # Errors
/// [`TelemetryError::Serve`] if the runtime cannot take the socket.
pub async fn serve(
    listener: Listener,
    telemetry: Telemetry,
    shutdown: impl Future<Output = End>,
) -> Result<(), TelemetryError> {
    let Listener { socket, address } = listener;
    let failed = |source| TelemetryError::Serve { address, source };
    let connections = Connections::new(tokio::net::TcpListener::from_std(socket).map_err(failed)?);
    let (places, (scrapes, mut seen)) = (connections.places(), watch::channel(Scrapes::default()));
    let end = async {
        if shutdown.await == End::AfterScrape && scraped_once_more(&mut seen).await {
            let _ = timeout(LAST_ANSWER, places.are_free()).await;
        }
    };
    // A client that never finishes its request must not hold up the end of a run, so nobody else is waited for.
    tokio::select! {
        served = axum::serve(connections, routes(telemetry, scrapes)).into_future() => served.map_err(failed),
        () = end => Ok(()),
    }
}

fn routes(telemetry: Telemetry, scrapes: watch::Sender<Scrapes>) -> Router {
    let metrics = move || async move {
        // Noted before it is made, so that what is noted after a run's end has the run's last values.
        scrapes.send_modify(|scrapes| scrapes.note(Instant::now()));
        ([(CONTENT_TYPE, EXPOSITION)], telemetry.render())
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok" }))
        .layer(middleware::map_response(last_of_its_connection))
}

/// Nobody keeps a connection between scrapes, so that none has to be told from one that only takes up a place.
async fn last_of_its_connection(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// When somebody scraped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scrapes {
    last: Option<Instant>,
    /// Between the last few, the latest first.
    pauses: [Duration; 4],
}

impl Scrapes {
    /// Scrapes may be late on a busy machine.
    pub const LATE: Duration = Duration::from_secs(5);

    /// Nobody wants to wait longer for the end of a run. Pauses of more than a minute are rare, since Prometheus itself
    /// forgets values after five.
    pub const LONGEST: Duration = Duration::from_secs(60);

    pub fn note(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.pauses.rotate_right(1);
            self.pauses[0] = now.saturating_duration_since(last);
        }
    }

    /// How long the next scrape is worth waiting for: until it is late after the longest of the last pauses, so that
    /// somebody who looked in between does not send the run away before the next regular scrape. Nothing where nobody
    /// has scraped twice, or has ceased to.
    pub fn wait(&self, now: Instant) -> Duration {
        let Some(last) = self.last else { return Duration::ZERO };
        let pause = self.pauses.into_iter().max().unwrap_or_default();
        if pause.is_zero() {
            return Duration::ZERO;
        }
        let since = now.saturating_duration_since(last);
        pause.saturating_add(Self::LATE).saturating_sub(since).min(Self::LONGEST)
    }
}

/// Waits for another scrape while one is to be expected, and tells whether it came.
async fn scraped_once_more(seen: &mut watch::Receiver<Scrapes>) -> bool {
    let wait = seen.borrow_and_update().wait(Instant::now());
    if wait.is_zero() {
        return false;
    }
    tracing::info!("metrics stay for one more scrape, {} s at most; Ctrl-C leaves", wait.as_secs_f64().ceil());
    matches!(timeout(wait, seen.changed()).await, Ok(Ok(())))
}
