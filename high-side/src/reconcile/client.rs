//! The client: one GET at a time over one connection, with a bound on everything.
//!
//! It follows no redirect, since the API key must go nowhere else, and it has no way to leave the
//! certificate unverified.

use std::io;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{ACCEPT, DATE, HOST, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::PortainerApi;
use super::error::ReconcileError;

/// What Portainer said.
#[derive(Debug)]
pub(super) struct Said {
    /// The body.
    pub(super) body: Vec<u8>,
    /// Its clock, in seconds since 1970.
    pub(super) date: Option<i64>,
}

/// Asks one Portainer.
pub(crate) struct Client {
    api: PortainerApi,
    key: HeaderValue,
    tls: Option<TlsConnector>,
    open: Option<SendRequest<Empty<Bytes>>>,
    /// The task that moves the bytes of the open connection; ends with this.
    moving: JoinSet<()>,
}

impl Client {
    /// Reads key and authorities.
    pub(crate) fn new(api: &PortainerApi) -> Result<Self, ReconcileError> {
        let tls = match (&api.ca, api.url.tls) {
            (Some(ca), true) => Some(connector(ca)?),
            (None, true) => {
                let why = "it is not given, and no certificate is taken unseen".to_owned();
                return Err(ReconcileError::Ca { path: std::path::PathBuf::new(), why });
            }
            (_, false) => None,
        };
        let key = api_key(&api.api_key_file)?;
        Ok(Self { api: api.clone(), key, tls, open: None, moving: JoinSet::new() })
    }

    /// Where it asks.
    pub(super) fn place(&self) -> String {
        self.api.url.to_string()
    }

    /// GETs `path`, which stands behind the base and holds the query.
    pub(super) async fn get(&mut self, path: &str) -> Result<Said, ReconcileError> {
        let url = format!("{}{path}", self.api.url);
        let timeout = self.api.timeout;
        if let Ok(said) = tokio::time::timeout(timeout, self.get_within(path, &url)).await {
            return said;
        }
        self.open = None;
        Err(ReconcileError::Timeout { url, secs: timeout.as_secs() })
    }

    async fn get_within(&mut self, path: &str, url: &str) -> Result<Said, ReconcileError> {
        let http =
            |err: hyper::Error| ReconcileError::Http { url: url.to_owned(), why: words(&err) };
        // A connection that was kept may have been closed by the other side in the meantime.
        let kept = self.open.take();
        if let Some(mut open) = kept
            && open.ready().await.is_ok()
            && let Ok(response) = open.send_request(self.request(path, url)?).await
        {
            return self.read(response, open, url).await;
        }
        let mut open = self.connect(url).await?;
        let response = open.send_request(self.request(path, url)?).await.map_err(http)?;
        self.read(response, open, url).await
    }

    fn request(&self, path: &str, url: &str) -> Result<Request<Empty<Bytes>>, ReconcileError> {
        Request::get(format!("{}{path}", self.api.url.base))
            .header(HOST, self.api.url.authority())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("penstock-high/", env!("CARGO_PKG_VERSION")))
            .header("X-API-Key", self.key.clone())
            .body(Empty::new())
            .map_err(|err| ReconcileError::Http { url: url.to_owned(), why: err.to_string() })
    }

    async fn connect(&mut self, url: &str) -> Result<SendRequest<Empty<Bytes>>, ReconcileError> {
        let failed = |source| ReconcileError::Connect { url: url.to_owned(), source };
        let address = (self.api.url.host.as_str(), self.api.url.port);
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        match &self.tls {
            None => self.shake_hands(TokioIo::new(stream), url).await,
            Some(tls) => {
                let name = ServerName::try_from(self.api.url.host.clone())
                    .map_err(|err| failed(io::Error::other(err)))?;
                let stream = tls.connect(name, stream).await.map_err(|err| tls_error(err, url))?;
                self.shake_hands(TokioIo::new(stream), url).await
            }
        }
    }

    async fn shake_hands<T>(
        &mut self,
        io: TokioIo<T>,
        url: &str,
    ) -> Result<SendRequest<Empty<Bytes>>, ReconcileError>
    where
        TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let built = Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(io).await;
        let (open, connection) =
            built.map_err(|err| ReconcileError::Http { url: url.to_owned(), why: words(&err) })?;
        self.moving.abort_all();
        self.moving.spawn(async move {
            // What goes wrong is told by the request that meets it.
            let _ = connection.await;
        });
        Ok(open)
    }

    async fn read(
        &mut self,
        response: Response<Incoming>,
        open: SendRequest<Empty<Bytes>>,
        url: &str,
    ) -> Result<Said, ReconcileError> {
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to = shortened(to.unwrap_or("nowhere"));
            return Err(ReconcileError::Redirect {
                url: url.to_owned(),
                status: status.as_u16(),
                to,
            });
        }
        if !status.is_success() {
            return Err(ReconcileError::Status { url: url.to_owned(), status: status.as_u16() });
        }
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(second_of_date);
        let mut incoming = response.into_body();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame
                .map_err(|err| ReconcileError::Http { url: url.to_owned(), why: words(&err) })?;
            let Some(part) = frame.data_ref() else { continue };
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(ReconcileError::TooLarge {
                    url: url.to_owned(),
                    most: ANSWER_BYTES_MAX,
                });
            }
            body.extend_from_slice(part);
        }
        self.open = Some(open);
        Ok(Said { body, date })
    }
}

fn connector(ca: &Path) -> Result<TlsConnector, ReconcileError> {
    let error = |why: String| ReconcileError::Ca { path: ca.to_owned(), why };
    let mut roots = RootCertStore::empty();
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(ca).and_then(Iterator::collect);
    for authority in found.map_err(|err| error(err.to_string()))? {
        roots.add(authority).map_err(|err| error(err.to_string()))?;
    }
    if roots.is_empty() {
        return Err(error("there is no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|err| error(err.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn api_key(path: &Path) -> Result<HeaderValue, ReconcileError> {
    use std::os::unix::fs::PermissionsExt;
    let path = &shared::keys::secret_path(path);
    let error = |why: String| ReconcileError::Key { path: path.clone(), why };
    let meta = std::fs::metadata(path).map_err(|err| error(err.to_string()))?;
    if meta.permissions().mode() & 0o007 != 0 {
        let advice = format!("it is readable by everybody\n  try: chmod 640 {}", path.display());
        return Err(error(advice));
    }
    if meta.len() > KEY_BYTES_MAX {
        return Err(error("it is too long to hold one key".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|err| error(err.to_string()))?;
    let text = Zeroizing::new(text);
    let key = text.trim();
    if key.is_empty() {
        return Err(error("it is empty".to_owned()));
    }
    let mut key = HeaderValue::from_str(key)
        .map_err(|_| error("it holds more than one line, or bytes that no key has".to_owned()))?;
    key.set_sensitive(true);
    Ok(key)
}

fn tls_error(err: io::Error, url: &str) -> ReconcileError {
    let inner = err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(source) => ReconcileError::Tls { url: url.to_owned(), source: source.clone() },
        None => ReconcileError::Connect { url: url.to_owned(), source: err },
    }
}

/// An error with its cause: hyper's own words are few.
fn words(err: &hyper::Error) -> String {
    match std::error::Error::source(err) {
        Some(cause) => format!("{err}: {cause}"),
        None => err.to_string(),
    }
}

fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LOCATION_CHARS_MAX).collect()
}

/// The time of a `Date` header, as RFC 9110 has it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn second_of_date(text: &str) -> Option<i64> {
    let time = jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S GMT", text.trim()).ok()?;
    let time = time.to_datetime().ok()?;
    Some(jiff::tz::Offset::UTC.to_timestamp(time).ok()?.as_second())
}

/// The longest answer that is read: a record of the longest kind, encoded, and the rest of its page.
pub(super) const ANSWER_BYTES_MAX: usize = 32 << 20;

/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The longest file that may hold an API key; a key has some 50 bytes.
const KEY_BYTES_MAX: u64 = 4096;

/// So much is shown of where a redirect points to.
const LOCATION_CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_read() {
        assert_eq!(second_of_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for text in ["", "now", "06 Nov 1994", "Sun, 06 Nov 1994 08:49:37"] {
            assert_eq!(second_of_date(text), None, "{text}");
        }
    }

    #[test]
    fn a_key_is_one_line_that_not_everybody_reads() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let set = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            api_key(&path)
        };
        let key = set("ptr_abc=\n", 0o640).unwrap();
        assert!(key.is_sensitive() && key == "ptr_abc=");
        for (text, mode) in [("ptr_abc", 0o644), ("", 0o600), ("a\nb", 0o600)] {
            let message = set(text, mode).unwrap_err().to_string();
            assert!(!message.contains("ptr_"), "{message}");
        }
        assert!(set(&"k".repeat(5000), 0o600).is_err());
    }
}
