//! Whose requests are answered: those that ask for the server by a name of its own, from its own page.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use axum::extract::Request;
use axum::http::header::{self, HeaderName};

/// Where a server is to listen: a number or a name of this machine, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(super) text: String,
    /// Where it is no number.
    name: Option<String>,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse::<SocketAddr>().is_ok() {
            return Ok(Self { text: text.into(), name: None });
        }
        let is_part_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let split = text.rsplit_once(':').filter(|(name, port)| {
            !name.is_empty() && name.bytes().all(is_part_of_name) && port.parse::<u16>().is_ok()
        });
        let (name, _) = split.ok_or("needs a host and a port, such as 127.0.0.1:9500 or [::1]:9500")?;
        Ok(Self { text: text.into(), name: Some(name.to_owned()) })
    }
}

/// The names of a server that listens.
#[derive(Clone, Debug)]
pub struct Names {
    address: SocketAddr,
    /// What the user called it.
    given: Option<String>,
}

impl Names {
    pub fn new(asked: &Address, address: SocketAddr) -> Self {
        Self { address, given: asked.name.clone() }
    }

    /// Host and port, as the user may ask for it.
    pub fn shown(&self) -> String {
        self.given.as_ref().map_or(self.address.to_string(), |name| format!("{name}:{}", self.address.port()))
    }

    /// Why a request is refused, if it is.
    pub fn refuse(&self, request: &Request) -> Option<String> {
        let text = |name: HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
        let Some(host) = text(header::HOST) else { return Some("the request names no host".into()) };
        if !self.has(host) {
            let start = if self.address.ip().is_loopback() {
                String::new()
            } else {
                format!(", or start with --address NAME:{}", self.address.port())
            };
            return Some(format!("{host}: no name of this server; ask for http://{}/{start}", self.shown()));
        }
        let site = text(HeaderName::from_static("sec-fetch-site"));
        if let Some(site) = site.filter(|site| !matches!(*site, "same-origin" | "none")) {
            let is_navigation = text(HeaderName::from_static("sec-fetch-mode")) == Some("navigate")
                && text(HeaderName::from_static("sec-fetch-dest")) == Some("document");
            // A link may lead to the page: its site can neither read nor frame what is then shown.
            if !(is_navigation && request.uri().path() == "/") {
                return Some(format!("{site}: pages of other sites are not answered"));
            }
        }
        let origin = text(header::ORIGIN)?;
        (origin != format!("http://{host}")).then(|| format!("{origin}: pages of other sites are not answered"))
    }

    /// Whether `host`, with or without a port, is a name of this server. Numbers are nobody else's name, so all are taken
    /// where it listens beyond this machine, since it cannot know which lead there; of names, which anybody may let point
    /// here, only the given one.
    fn has(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let is_name = |own: &str| name.eq_ignore_ascii_case(own);
        match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(number) => number.is_loopback() || !self.address.ip().is_loopback(),
            Err(_) => is_name("localhost") || self.given.as_deref().is_some_and(is_name),
        }
    }
}
