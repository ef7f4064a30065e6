//! The attention view in a browser: a page, and what it asks for, from a run's frozen encoder.
//!
//! Comes in: a [`Gallery`] and an address. Goes out: HTTP, until a future says that it is over. Everything that the page
//! needs is in the binary. Requests of other sites' pages are refused, by the names in `Host` and `Origin`.

mod asks;
mod gallery;

use std::future::{Future, IntoFuture};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

pub use gallery::{Gallery, MOST_UPLOAD, Request as GalleryRequest};

/// Each file of the page, with its type.
const ASSETS: &[(&str, &str, &[u8])] = &[
    ("/", "text/html; charset=utf-8", include_bytes!("assets/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_bytes!("assets/style.css")),
    ("/api.js", JAVASCRIPT, include_bytes!("assets/api.js")),
    ("/app.js", JAVASCRIPT, include_bytes!("assets/app.js")),
    ("/chooser.js", JAVASCRIPT, include_bytes!("assets/chooser.js")),
    ("/colours.js", JAVASCRIPT, include_bytes!("assets/colours.js")),
    ("/dom.js", JAVASCRIPT, include_bytes!("assets/dom.js")),
    ("/keys.js", JAVASCRIPT, include_bytes!("assets/keys.js")),
    ("/maps.js", JAVASCRIPT, include_bytes!("assets/maps.js")),
    ("/panels.js", JAVASCRIPT, include_bytes!("assets/panels.js")),
    ("/stage.js", JAVASCRIPT, include_bytes!("assets/stage.js")),
];
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// What every answer says: the page takes nothing from elsewhere, and nobody takes the page into theirs.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // What a number stands for may be another image the next time.
    (header::CACHE_CONTROL, "no-store"),
];

/// An answer that says why there is no other.
struct Refusal {
    status: StatusCode,
    why: String,
}

impl Refusal {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }

    fn missing(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, what)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.why }))).into_response()
    }
}

/// A port that is taken and served by nobody yet.
pub struct Port {
    socket: TcpListener,
    address: SocketAddr,
}

impl Port {
    /// # Errors
    /// When another program has the port, or the address is not this machine's.
    pub fn take(address: SocketAddr) -> Result<Self> {
        let taken = || {
            let socket = TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(Self { address: socket.local_addr()?, socket })
        };
        taken().with_context(|| format!("--address {address}: cannot listen there; choose another, or port 0 for any"))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the gallery until `shutdown` is ready.
    ///
    /// # Errors
    /// When the runtime cannot take the socket.
    pub async fn serve(self, gallery: Arc<Gallery>, shutdown: impl Future<Output = ()>) -> Result<()> {
        let socket = tokio::net::TcpListener::from_std(self.socket)?;
        let routes = routes(gallery, self.address);
        // A client that never finishes its request must not hold up the end, so nobody is waited for.
        tokio::select! {
            served = axum::serve(socket, routes).into_future() => Ok(served?),
            () = shutdown => Ok(()),
        }
    }
}

fn routes(gallery: Arc<Gallery>, address: SocketAddr) -> Router {
    let page = ASSETS.iter().fold(Router::new(), |routes, &(path, kind, bytes)| {
        routes.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], bytes) }))
    });
    page.route("/api/run", get(asks::run))
        .route("/api/samples", get(asks::samples))
        .route("/api/image/{id}", get(asks::image))
        .route("/api/upload", post(asks::upload).layer(DefaultBodyLimit::max(MOST_UPLOAD)))
        .route("/api/look/{id}", get(asks::look))
        .route("/api/attention/{id}/{layer}", get(asks::attention))
        .route("/api/rollout/{id}/{layer}", get(asks::rollout))
        .route("/api/similarity/{id}", get(asks::similarity))
        .route("/api/neighbours/{id}", get(asks::neighbours))
        .fallback(async |uri: Uri| Refusal::missing(format!("{}: there is no such page", uri.path())))
        .method_not_allowed_fallback(async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this page is asked for by another method")
        })
        .with_state(gallery)
        .layer(middleware::from_fn_with_state(address, guarded))
}

/// Answers only who asks this server by a name of its own, so that no page of another site reads from it (by a name that
/// it lets point here) or sends to it.
async fn guarded(State(address): State<SocketAddr>, request: Request, next: Next) -> Response {
    let mut response = match stranger(request.headers(), address) {
        Some(why) => Refusal::new(StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}

/// Why a request is refused, if it is.
fn stranger(headers: &HeaderMap, address: SocketAddr) -> Option<String> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let Some(host) = text(header::HOST) else { return Some("the request names no host".into()) };
    if !is_ours(host, address.ip()) {
        return Some(format!("{host}: no name of this server; ask for http://{address}/"));
    }
    let origin = text(header::ORIGIN)?;
    (origin != format!("http://{host}")).then(|| format!("{origin}: pages of other sites are not answered"))
}

/// Whether `host`, with or without a port, is a name of the server that listens at `address`. One that listens beyond
/// this machine has names that it cannot know; numbers are never another site's name.
fn is_ours(host: &str, address: IpAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let number = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match number {
        Ok(number) => number.is_loopback() || !address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost") || !address.is_loopback(),
    }
}
