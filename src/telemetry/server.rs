//! The port that Prometheus scrapes: `/metrics` and `/healthz`.
//!
//! Comes in: an address and the telemetry. Goes out: HTTP, until a future says that it is over. Binding is a step of
//! its own, so that a port in use stops a run before it starts.

use std::future::{Future, IntoFuture};
use std::io;
use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

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

/// The content type of the Prometheus text format.
const EXPOSITION: &str = "text/plain; version=0.0.4";

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

/// Serves until `shutdown` is ready.
///
/// # Errors
/// [`TelemetryError::Serve`] if the runtime cannot take the socket.
pub async fn serve(
    listener: Listener,
    telemetry: Telemetry,
    shutdown: impl Future<Output = ()>,
) -> Result<(), TelemetryError> {
    let Listener { socket, address } = listener;
    let failed = |source| TelemetryError::Serve { address, source };
    let socket = tokio::net::TcpListener::from_std(socket).map_err(failed)?;
    // A client that never finishes its request must not hold up the end of a run, so nobody is waited for.
    tokio::select! {
        served = axum::serve(socket, routes(telemetry)).into_future() => served.map_err(failed),
        () = shutdown => Ok(()),
    }
}

fn routes(telemetry: Telemetry) -> Router {
    Router::new()
        .route("/metrics", get(|| async move { ([(CONTENT_TYPE, EXPOSITION)], telemetry.render()) }))
        .route("/healthz", get(|| async { "ok" }))
}
