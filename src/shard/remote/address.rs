//! `https://`, `s3://` and `gs://` as typed → a store to ask, and the path of an object in it.

use std::env;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, HeaderMap, HeaderValue, ObjectStore, RetryConfig};

use super::{Patience, RemoteError};

/// Sent as `Authorization: Bearer …` to servers of `https://` addresses, as data sets behind an account want it.
const TOKEN: &str = "SACCADE_HTTP_TOKEN";

/// A request ends when nothing comes any more, not after a time: a shard may be large.
const NO_END: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long a request that writes a part may take: eight of 8 MB at once over a line of two megabits.
const LONGEST_PART: Duration = Duration::from_secs(300);

/// How a client asks.
#[derive(Clone, Debug)]
pub struct Manner {
    repeats: RetryConfig,
    longest: Duration,
}

impl Manner {
    /// Each request is made once and lasts as long as bytes come.
    pub fn reading() -> Self {
        Self { repeats: RetryConfig { max_retries: 0, ..RetryConfig::default() }, longest: NO_END }
    }

    /// What fails and may pass is repeated a few times, so that a file is not sent anew for one of its parts.
    pub fn writing(patience: &Patience) -> Self {
        let Patience { first_pause: init_backoff, longest_pause: max_backoff, in_all: retry_timeout, .. } = *patience;
        let backoff = BackoffConfig { init_backoff, max_backoff, ..BackoffConfig::default() };
        Self { repeats: RetryConfig { backoff, max_retries: 3, retry_timeout }, longest: LONGEST_PART }
    }
}

/// An address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `https`, `s3` and so on.
    pub scheme: Scheme,
    /// Host and port, or bucket.
    pub host: String,
    pub path: Path,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
    S3,
    Gs,
}

impl Scheme {
    const ALL: [Self; 4] = [Self::Http, Self::Https, Self::S3, Self::Gs];

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::S3 => "s3",
            Self::Gs => "gs",
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "{}/{}", self.store(), self.path)
    }
}

impl Address {
    /// # Errors
    /// When it names no object, holds a question mark or a password, or has a path that no store would take.
    pub fn parse(text: &str) -> Result<Self, RemoteError> {
        let wrong = |why: &str| RemoteError::Address { why: why.to_owned() };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("write it as s3://bucket/name.tar"))?;
        let scheme = Scheme::ALL.into_iter().find(|one| one.name() == scheme);
        let scheme = scheme.ok_or_else(|| wrong("only http, https, s3 and gs are understood"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() || path.is_empty() {
            return Err(wrong("it names no file: write host or bucket, a slash, and the file's name"));
        }
        if host.contains('@') {
            return Err(wrong("it holds a name or a password: give a token in SACCADE_HTTP_TOKEN instead"));
        }
        if path.contains(['?', '#']) {
            return Err(wrong("what follows `?` or `#` is not understood: signed addresses cannot be used"));
        }
        let path = Path::from_url_path(path).map_err(|error| wrong(&error.to_string()))?;
        Ok(Self { scheme, host: host.to_owned(), path })
    }

    /// As [`Self::parse`], of a folder, which may be the whole store.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_folder(text: &str) -> Result<Self, RemoteError> {
        let mut address = Self::parse(&format!("{text}/x"))?;
        let folder = address.path.as_ref().rsplit_once('/').map_or("", |(folder, _)| folder);
        address.path = Path::parse(folder).map_err(|error| RemoteError::Address { why: error.to_string() })?;
        Ok(address)
    }

    /// That of a file of this folder.
    ///
    /// # Errors
    /// When no store would take the name.
    pub fn file(&self, name: &str) -> Result<Self, RemoteError> {
        let folder = self.path.as_ref();
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let path = Path::parse(path).map_err(|error| RemoteError::Address { why: error.to_string() })?;
        Ok(Self { path, ..self.clone() })
    }

    /// Whether its store tells which objects it has.
    pub fn lists(&self) -> bool {
        matches!(self.scheme, Scheme::S3 | Scheme::Gs)
    }

    /// What all objects of one store have in common.
    pub fn store(&self) -> String {
        format!("{}://{}", self.scheme.name(), self.host)
    }

    /// A client for the address's store. What accounts it needs, the usual variables tell: `AWS_…`, `GOOGLE_…`.
    ///
    /// # Errors
    /// When these variables make no sense.
    pub fn connect(&self, manner: &Manner) -> Result<Arc<dyn ObjectStore>, RemoteError> {
        let failed = |error: object_store::Error| RemoteError::Address { why: super::client::shortened(&error) };
        let repeats = manner.repeats.clone();
        let longest = format!("{} s", manner.longest.as_secs());
        match self.scheme {
            Scheme::Http | Scheme::Https => {
                let is_plain = self.scheme == Scheme::Http;
                let mut options = ClientOptions::new().with_timeout(NO_END).with_allow_http(is_plain);
                if let Some(headers) = token().filter(|_| !is_plain) {
                    options = options.with_default_headers(headers?);
                }
                let builder = HttpBuilder::new().with_url(self.store()).with_client_options(options);
                Ok(Arc::new(builder.with_retry(repeats).build().map_err(failed)?))
            }
            Scheme::S3 => {
                let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
                let mut builder =
                    AmazonS3Builder::from_env().with_bucket_name(&self.host).with_config(timeout, longest);
                if endpoint_is_plain() {
                    builder = builder.with_allow_http(true);
                }
                Ok(Arc::new(builder.with_retry(repeats).build().map_err(failed)?))
            }
            Scheme::Gs => {
                let timeout = GoogleConfigKey::Client(ClientConfigKey::Timeout);
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&self.host);
                Ok(Arc::new(builder.with_config(timeout, longest).with_retry(repeats).build().map_err(failed)?))
            }
        }
    }
}

fn token() -> Option<Result<HeaderMap, RemoteError>> {
    let token = env::var(TOKEN).ok().filter(|token| !token.is_empty())?;
    let wrong = |_| RemoteError::Address { why: format!("{TOKEN} cannot be sent as a header, is it one line?") };
    let header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(wrong);
    Some(header.map(|mut header| {
        header.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", header);
        headers
    }))
}

/// Whether the servers of a store of one's own speak without encryption: whoever wrote the address meant it.
fn endpoint_is_plain() -> bool {
    ["AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"]
        .into_iter()
        .any(|name| env::var(name).is_ok_and(|url| url.starts_with("http://")))
}
