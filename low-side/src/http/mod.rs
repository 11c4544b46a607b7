//! HTTP/1.1 as a client, for threads that wait: one request at a time over a connection that is kept.
//!
//! - Everything has a bound: time to connect, time for the answer, the answer's size. A stop of the
//!   agent ends a wait within a fifth of a second.
//! - A body may come from a file and an answer may go to one, piece by piece: neither is held in memory.
//! - Redirects are not followed: credentials must go nowhere else.
//! - An error says whether the request may have been carried out ([`HttpError::may_have_been_taken`]):
//!   who sends something that must not be done twice has to know.

mod body;
mod url;

use std::error::Error;
use std::io::{self, Write as _};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use shared::bell::Bell;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::tls::{TlsConfig, TlsError};
use body::Outgoing;
pub use body::{FileBody, RATE_MIN};
pub use url::{IN_PATH, IN_QUERY, Url};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A request can't be written that way: a header holds what no header may hold.
    #[error("{url}: {why}")]
    Request {
        /// Where it was to go.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The other side can't be reached. Nothing was sent.
    #[error("{url}: connecting")]
    Connect {
        /// Where it was to go.
        url: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file for TLS can't be used. Nothing was sent.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The connection broke behind the request. It may have been carried out.
    #[error("{url}: no whole answer came: {why}")]
    Broken {
        /// Where it went.
        url: String,
        /// What happened.
        why: String,
    },
    /// No answer came in time.
    #[error("{url} did not answer within {}", shared::config::Span(*.after))]
    Timeout {
        /// Where it went.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// The answer is longer than any that is expected.
    #[error("{url} answered more than {most} bytes")]
    TooLarge {
        /// Where it went.
        url: String,
        /// The bound.
        most: u64,
    },
    /// What was answered can't be kept here.
    #[error("what {url} answered can't be written")]
    Keep {
        /// Where it came from.
        url: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The agent stops.
    #[error("the agent stops")]
    Stopping,
}

impl HttpError {
    /// Whether the other side may have carried the request out all the same.
    pub fn may_have_been_taken(&self) -> bool {
        match self {
            HttpError::Request { .. } | HttpError::Connect { .. } | HttpError::Tls(_) => false,
            HttpError::Broken { .. }
            | HttpError::Timeout { .. }
            | HttpError::TooLarge { .. }
            | HttpError::Keep { .. }
            | HttpError::Stopping => true,
        }
    }
}

/// How to reach the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where it answers.
    pub url: Url,
    /// How TLS is done, where it is.
    pub tls: TlsConfig,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest wait for an answer.
    pub timeout: Duration,
}

impl HttpConfig {
    /// Whether the files for TLS can be used.
    pub fn check(&self) -> Result<(), TlsError> {
        if self.url.tls { self.tls.load().map(|_| ()) } else { Ok(()) }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Path and query, behind the base of the URL; begins with a slash.
    pub path: String,
    /// Its headers; `Host`, `User-Agent` and `Content-Length` are added.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
    /// What follows the body: a file, whole or to its end.
    pub file: Option<FileBody>,
}

impl Call {
    /// A request without headers.
    pub fn new(method: Method, path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: body.into(), file: None }
    }

    /// With a file behind its body.
    #[must_use]
    pub fn file(mut self, file: FileBody) -> Self {
        self.file = Some(file);
        self
    }

    /// How long its body is.
    fn bytes(&self) -> u64 {
        self.body.len() as u64 + self.file.as_ref().map_or(0, FileBody::bytes)
    }

    /// With a header more.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What `Retry-After` asks for, where it gives seconds (RFC 9110, section 10.2.3).
    pub fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        text.trim().parse().ok().map(Duration::from_secs)
    }

    /// The beginning of the body as text for a log line.
    pub fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(EXCERPT_BYTES)]);
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// A client of one server.
pub struct Http {
    config: HttpConfig,
    bell: Bell,
    /// Made with the first request.
    runtime: Option<Runtime>,
    open: Option<SendRequest<Outgoing>>,
    /// Connections that were opened.
    connections: u64,
    /// The task that moves the bytes of the open connection; ends with this.
    moving: JoinSet<()>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Http {
    /// A client that connects when it has something to ask.
    pub fn new(config: &HttpConfig, bell: &Bell) -> Self {
        let (config, bell) = (config.clone(), bell.clone());
        Self { config, bell, runtime: None, open: None, connections: 0, moving: JoinSet::new() }
    }

    /// Where it asks.
    pub fn place(&self) -> String {
        self.config.url.to_string()
    }

    /// The bell that ends a wait.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// How many connections were opened up to now: whether an answer came over another than the one
    /// before it.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// Closes the connection, where one is open: the next request opens another.
    pub fn disconnect(&mut self) {
        self.open = None;
        self.moving.abort_all();
    }

    /// Sends a request and reads the answer, whatever its status is.
    pub fn send(&mut self, call: &Call) -> Result<Answer, HttpError> {
        self.exchange(call, 0, None)
    }

    /// Sends a request and hands the body of a good answer (2xx) to `take`, piece by piece, at most so
    /// many bytes of it. The answer that is given back holds a body only where it is not a good one.
    pub fn fetch(
        &mut self,
        call: &Call,
        bytes_max: u64,
        take: &mut Take<'_>,
    ) -> Result<Answer, HttpError> {
        self.exchange(call, bytes_max, Some(take))
    }

    fn exchange(
        &mut self,
        call: &Call,
        bytes_max: u64,
        take: Option<&mut Take<'_>>,
    ) -> Result<Answer, HttpError> {
        let (config, bell) = (&self.config, self.bell.clone());
        let runtime = match &self.runtime {
            Some(runtime) => runtime,
            None => self.runtime.insert(event_loop(config)?),
        };
        let within = config.timeout + Duration::from_secs((call.bytes() + bytes_max) / RATE_MIN);
        let mut exchange = Exchange {
            config,
            open: self.open.take(),
            connections: &mut self.connections,
            moving: &mut self.moving,
        };
        let asked = runtime.block_on(async {
            tokio::select! {
                answer = tokio::time::timeout(within, exchange.send(call, bytes_max, take)) => {
                    answer.unwrap_or_else(|_| Err(HttpError::Timeout {
                        url: format!("{}{}", config.url, call.path),
                        after: within,
                    }))
                }
                () = stopped(&bell) => Err(HttpError::Stopping),
            }
        });
        let open = exchange.open;
        match asked {
            Ok(answer) => {
                self.open = open;
                Ok(answer)
            }
            Err(error) => {
                self.disconnect();
                Err(error)
            }
        }
    }
}

/// Fails where the system has no room for one.
fn event_loop(config: &HttpConfig) -> Result<Runtime, HttpError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| HttpError::Connect { url: config.url.to_string(), source })
}

/// What takes the pieces of an answer.
pub type Take<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Resolves once the agent stops.
async fn stopped(bell: &Bell) {
    while !bell.stopping() {
        tokio::time::sleep(STOP_LOOK).await;
    }
}

struct Exchange<'a> {
    config: &'a HttpConfig,
    open: Option<SendRequest<Outgoing>>,
    connections: &'a mut u64,
    moving: &'a mut JoinSet<()>,
}

impl Exchange<'_> {
    async fn send(
        &mut self,
        call: &Call,
        bytes_max: u64,
        take: Option<&mut Take<'_>>,
    ) -> Result<Answer, HttpError> {
        let url = format!("{}{}", self.config.url, call.path);
        let mut request = self.request(call, &url)?;
        // A connection that was kept may have been closed by the other side in the meantime. What was
        // not sent comes back, and goes over a new one.
        // Its end, if it has come, is seen once the task that moves its bytes has had its turn.
        tokio::task::yield_now().await;
        if let Some(mut open) = self.open.take()
            && !open.is_closed()
            && open.ready().await.is_ok()
        {
            match open.try_send_request(request).await {
                Ok(response) => return self.read(response, open, url, bytes_max, take).await,
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(&url, failed.error())),
                },
            }
        }
        let mut open = self.connect(&url).await?;
        let response = open.send_request(request).await.map_err(|err| broken(&url, &err))?;
        self.read(response, open, url, bytes_max, take).await
    }

    fn request(&self, call: &Call, url: &str) -> Result<Request<Outgoing>, HttpError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.config.url.base, call.path))
            .header(HOST, self.config.url.host_header())
            .header(USER_AGENT, concat!("penstock-low/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        request
            .body(Outgoing::new(call.body.clone(), call.file.as_ref()))
            .map_err(|err| HttpError::Request { url: url.to_owned(), why: err.to_string() })
    }

    async fn connect(&mut self, url: &str) -> Result<SendRequest<Outgoing>, HttpError> {
        let failed = |source| HttpError::Connect { url: url.to_owned(), source };
        let slow = |_| failed(io::ErrorKind::TimedOut.into());
        let within = self.config.connect_timeout;
        let address = (self.config.url.host.as_str(), self.config.url.port);
        let connecting = tokio::time::timeout(within, TcpStream::connect(address));
        let stream = connecting.await.map_err(slow)?.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        if !self.config.url.tls {
            return self.shake_hands(TokioIo::new(stream), url).await;
        }
        let mut tls = self.config.tls.load()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = self.config.tls.name(&self.config.url.host)?;
        let connector = TlsConnector::from(std::sync::Arc::new(tls));
        let handshake = tokio::time::timeout(within, connector.connect(name, stream));
        let stream = handshake.await.map_err(slow)?.map_err(failed)?;
        self.shake_hands(TokioIo::new(stream), url).await
    }

    async fn shake_hands<T>(
        &mut self,
        io: TokioIo<T>,
        url: &str,
    ) -> Result<SendRequest<Outgoing>, HttpError>
    where
        TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let built = Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(io).await;
        let (open, connection) = built.map_err(|err| broken(url, &err))?;
        *self.connections += 1;
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
        open: SendRequest<Outgoing>,
        url: String,
        bytes_max: u64,
        take: Option<&mut Take<'_>>,
    ) -> Result<Answer, HttpError> {
        let (head, mut incoming) = response.into_parts();
        let mut take = take.filter(|_| head.status.is_success());
        let (mut body, mut taken) = (Vec::new(), 0);
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|err| broken(&url, &err))?;
            let Some(part) = frame.data_ref() else { continue };
            if let Some(take) = &mut take {
                taken += part.len() as u64;
                if taken > bytes_max {
                    return Err(HttpError::TooLarge { url, most: bytes_max });
                }
                take(part).map_err(|source| HttpError::Keep { url: url.clone(), source })?;
                continue;
            }
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(HttpError::TooLarge { url, most: ANSWER_BYTES_MAX as u64 });
            }
            body.extend_from_slice(part);
        }
        self.open = Some(open);
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// An error with its cause: hyper's own words are few.
fn broken(url: &str, err: &hyper::Error) -> HttpError {
    let why = match err.source() {
        Some(cause) => format!("{err}: {cause}"),
        None => err.to_string(),
    };
    HttpError::Broken { url: url.to_owned(), why }
}

/// Compresses a body, quickly: what goes over a local network to a SIEM is not worth more.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(
        Vec::with_capacity(bytes.len() / 4),
        flate2::Compression::fast(),
    );
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Reads a credential from its file, without the line end behind it. Read again for each connection
/// or refusal, so that a rotated one is used without a restart.
pub fn credential(path: &std::path::Path) -> Result<zeroize::Zeroizing<String>, TlsError> {
    let problem = |problem: String| TlsError { path: path.to_owned(), problem };
    let text = shared::keys::load_secret(path).map_err(|err| problem(err.to_string()))?;
    let line = text.trim();
    if line.is_empty() || line.chars().any(char::is_control) {
        return Err(problem("does not hold one line with a credential".to_owned()));
    }
    Ok(zeroize::Zeroizing::new(line.to_owned()))
}

/// A header that no log shows.
pub fn sensitive(value: &str) -> Result<HeaderValue, HttpError> {
    let mut header = HeaderValue::from_str(value).map_err(|_| HttpError::Request {
        url: "Authorization".to_owned(),
        why: "the credential holds what no header may hold".to_owned(),
    })?;
    header.set_sensitive(true);
    Ok(header)
}

/// The longest answer that is read: a bulk answer has some 200 bytes for each of 10,000 records.
pub const ANSWER_BYTES_MAX: usize = 32 << 20;
/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// So much of an answer is shown in an error.
const EXCERPT_BYTES: usize = 300;
/// How often it is looked at whether the agent stops.
const STOP_LOOK: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests;
