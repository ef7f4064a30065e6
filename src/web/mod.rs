//! The attention view in a browser: a page, and what it asks for, from a run's frozen encoder.
//!
//! Comes in: a [`Gallery`] and an address. Goes out: HTTP, until a future says that it is over. Everything that the page
//! needs is in the binary. Requests of other sites' pages are refused; what clients may take at once has [`Limits`].

mod asks;
mod connections;
mod gallery;
mod names;

use std::future::{Future, IntoFuture};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use asks::Desk;
use connections::{Doors, Due};
pub use gallery::{Gallery, ImageId, Lack, MOST_UPLOAD, Near, Request as GalleryRequest};
pub use names::{Address, Names};

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

/// Seconds after which a client that was refused for want of room may ask again.
const AGAIN: &str = "2";

/// What every answer says: the page takes nothing from elsewhere, and nobody takes the page into theirs.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // What a number stands for may be another image the next time.
    (header::CACHE_CONTROL, "no-store"),
];

/// What clients may take at once, and how long they may take for it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections; who comes later waits until one ends. A browser takes six.
    pub connections: usize,
    /// Uploads, each of which is in memory as a whole; more are refused.
    pub uploads: usize,
    /// Answers that are computed, or that wait in memory until they are taken; more wait their turn.
    pub answers: usize,
    /// Until a request's head is there, and until some of an answer is taken.
    pub patience: Duration,
    /// Until an answer's turn comes.
    pub turn: Duration,
    /// Until an uploaded file is there: [`MOST_UPLOAD`] bytes over a line of 1 Mbit/s.
    pub upload_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let [patience, turn, upload_time] = [30, 30, 140].map(Duration::from_secs);
        Self { connections: 64, uploads: 4, answers: 8, patience, turn, upload_time }
    }
}

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

    /// There is no room now.
    fn busy(why: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, why)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.why }))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(AGAIN));
        }
        response
    }
}

/// A port that is taken and served by nobody yet.
pub struct Port {
    socket: TcpListener,
    names: Names,
}

impl Port {
    /// # Errors
    /// When another program has the port, or the address is not this machine's.
    pub fn take(address: &Address) -> Result<Self> {
        let taken = || {
            let socket = TcpListener::bind(&address.text)?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(Self { names: Names::new(address, socket.local_addr()?), socket })
        };
        let text = &address.text;
        taken().with_context(|| format!("--address {text}: cannot listen there; choose another, or port 0 for any"))
    }

    /// Host and port, with the port that was chosen where 0 was asked for.
    pub fn shown(&self) -> String {
        self.names.shown()
    }

    /// Serves the gallery until `shutdown` is ready.
    ///
    /// # Errors
    /// When the runtime cannot take the socket.
    pub async fn serve(self, gallery: Arc<Gallery>, limits: Limits, shutdown: impl Future<Output = ()>) -> Result<()> {
        let socket = tokio::net::TcpListener::from_std(self.socket)?;
        let doors = Doors::new(socket, limits.connections, limits.patience);
        let routes = routes(Desk::new(gallery, limits), self.names).into_make_service_with_connect_info::<Due>();
        // A client that never finishes its request must not hold up the end, so nobody is waited for.
        tokio::select! {
            served = axum::serve(doors, routes).into_future() => Ok(served?),
            () = shutdown => Ok(()),
        }
    }
}

fn routes(desk: Desk, names: Names) -> Router {
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
        .with_state(desk)
        .layer(middleware::from_fn_with_state(Arc::new(names), guarded))
}

/// Answers only who asks this server by a name of its own, so that no page of another site reads from it (by a name that
/// it lets point here) or sends to it.
async fn guarded(
    State(names): State<Arc<Names>>,
    ConnectInfo(due): ConnectInfo<Due>,
    request: Request,
    next: Next,
) -> Response {
    due.pauses();
    let mut response = match names.refuse(&request) {
        Some(why) => Refusal::new(StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    };
    due.begins();
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}
