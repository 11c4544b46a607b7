//! The server: one thread, a bounded number of connections.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::clock::{Clock, SystemClock};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::Source;
use super::access;
use super::config::{Listen, PageConfig};
use super::history::{History, INTERVAL};
use super::metrics::{Format, Numbers};

/// Why the page can't be served.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The address or the socket can't be had.
    #[error("page.listen: {place}")]
    Bind {
        /// Which.
        place: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of the configuration can't be used.
    #[error("page: {0}")]
    File(String),
}

/// A server that runs. It ends with this.
#[derive(Debug)]
pub struct Server {
    stop: Arc<Notify>,
    serving: Option<JoinHandle<()>>,
    place: Option<String>,
}

impl Server {
    /// Serves what `source` shows. With [`Listen::Off`] nothing is served.
    pub fn start(config: PageConfig, source: impl Source) -> Result<Self, PageError> {
        let stop = Arc::new(Notify::new());
        if config.listen == Listen::Off {
            return Ok(Self { stop, serving: None, place: None });
        }
        // What is wrong with the files is told now, and not to the first who looks.
        if let Some(files) = &config.tls {
            access::tls(files).map_err(PageError::File)?;
        }
        if let Some(path) = &config.token_file {
            access::token(path).map_err(PageError::File)?;
        }
        let (bound, place) = Bound::new(&config.listen)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| PageError::Bind { place: place.clone(), source })?;
        let ended = Arc::clone(&stop);
        let serving = std::thread::Builder::new()
            .name("page".to_owned())
            .spawn(move || runtime.block_on(serve(bound, config, source, &ended)))
            .map_err(|source| PageError::Bind { place: place.clone(), source })?;
        Ok(Self { stop, serving: Some(serving), place: Some(place) })
    }

    /// The same, for an agent that does its work without a page, too: what is wrong is logged.
    pub fn start_or_tell(config: PageConfig, source: impl Source) -> Option<Self> {
        match Self::start(config, source) {
            Ok(server) => {
                if let Some(place) = server.place() {
                    tracing::info!(place, "the page is served");
                }
                Some(server)
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let cause = cause.unwrap_or_default();
                tracing::error!(%error, cause, "the page is not served; records go their way");
                None
            }
        }
    }

    /// Where it is served, if it is.
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

/// A socket that listens; not in an event loop yet.
enum Bound {
    Unix(std::os::unix::net::UnixListener, PathBuf),
    Tcp(std::net::TcpListener),
}

impl Bound {
    fn new(listen: &Listen) -> Result<(Self, String), PageError> {
        let (bound, place) = match listen {
            Listen::Unix(path) => (unix(path), format!("unix:{}", path.display())),
            Listen::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address).map(Bound::Tcp);
                let bound = listener.and_then(Bound::nonblocking);
                let at = match &bound {
                    Ok(Bound::Tcp(listener)) => listener.local_addr().unwrap_or(*address),
                    _ => *address,
                };
                (bound, at.to_string())
            }
            Listen::Off => (Err(io::ErrorKind::Unsupported.into()), "off".to_owned()),
        };
        match bound {
            Ok(bound) => Ok((bound, place)),
            Err(source) => Err(PageError::Bind { place, source }),
        }
    }

    fn nonblocking(self) -> io::Result<Self> {
        match &self {
            Bound::Unix(listener, _) => listener.set_nonblocking(true)?,
            Bound::Tcp(listener) => listener.set_nonblocking(true)?,
        }
        Ok(self)
    }
}

/// A socket that a killed process left is replaced; anything else that stands there is not.
fn unix(path: &Path) -> io::Result<Bound> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody serves there"));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(io::Error::other("something else stands there")),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(err),
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    Bound::Unix(listener, path.to_owned()).nonblocking()
}

/// What all connections share.
struct Site<S> {
    config: PageConfig,
    shown: Mutex<Shown<S>>,
}

struct Shown<S> {
    source: S,
    history: History,
    status: Option<(Instant, Result<String, String>)>,
    metrics: Option<(Instant, Result<Numbers, String>)>,
}

impl<S> Site<S> {
    fn shown(&self) -> MutexGuard<'_, Shown<S>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks again where the last answer is older than half a second.
fn fresh<T: Clone>(
    kept: &mut Option<(Instant, Result<T, String>)>,
    ask: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    match kept {
        Some((asked, answer)) if asked.elapsed() < KEPT => answer.clone(),
        _ => {
            let answer = ask();
            *kept = Some((Instant::now(), answer.clone()));
            answer
        }
    }
}

async fn serve<S: Source>(bound: Bound, config: PageConfig, source: S, stop: &Notify) {
    let history = config.flow_file.as_deref().map(History::read).unwrap_or_default();
    let shown = Shown { source, history, status: None, metrics: None };
    let site = Arc::new(Site { config, shown: Mutex::new(shown) });
    let socket = match &bound {
        Bound::Unix(_, path) => Some(path.clone()),
        Bound::Tcp(_) => None,
    };
    tokio::select! {
        failed = accept(bound, &site) => {
            if let Err(err) = failed {
                tracing::error!(%err, "the page is not served any more");
            }
        }
        () = sample(&site) => {}
        () = stop.notified() => {}
    }
    if let Some(path) = &site.config.flow_file {
        site.shown().history.write(path);
    }
    if let Some(path) = socket {
        let _ = std::fs::remove_file(path);
    }
}

async fn sample<S: Source>(site: &Site<S>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    for sample in 1_u64.. {
        ticks.tick().await;
        let mut shown = site.shown();
        let flows = shown.source.flows();
        shown.history.add(SystemClock.now(), flows);
        if let Some(path) = site.config.flow_file.as_ref().filter(|_| sample % WRITTEN_EACH == 0) {
            shown.history.write(path);
        }
    }
}

async fn accept<S: Source>(bound: Bound, site: &Arc<Site<S>>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    match bound {
        Bound::Unix(listener, _) => {
            let listener = UnixListener::from_std(listener)?;
            loop {
                let place = place(&places).await;
                match listener.accept().await {
                    Ok((stream, _)) => connection(stream, site, place),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        }
        Bound::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let place = place(&places).await;
                match listener.accept().await {
                    Ok((stream, _)) => match &site.config.tls {
                        None => connection(stream, site, place),
                        Some(files) => match access::tls(files) {
                            Ok(tls) => encrypted(stream, TlsAcceptor::from(tls), site, place),
                            Err(why) => tracing::warn!(why, "the page can't be served over TLS"),
                        },
                    },
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        }
    }
}

type Place = Option<tokio::sync::OwnedSemaphorePermit>;

async fn place(places: &Arc<Semaphore>) -> Place {
    Arc::clone(places).acquire_owned().await.ok()
}

fn encrypted<S: Source>(
    stream: tokio::net::TcpStream,
    tls: TlsAcceptor,
    site: &Arc<Site<S>>,
    place: Place,
) {
    let site = Arc::clone(site);
    tokio::spawn(async move {
        if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
            converse(stream, site).await;
        }
        drop(place);
    });
}

fn connection<S: Source, T>(stream: T, site: &Arc<Site<S>>, place: Place)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let site = Arc::clone(site);
    tokio::spawn(async move {
        converse(stream, site).await;
        drop(place);
    });
}

async fn converse<S: Source, T>(stream: T, site: Arc<Site<S>>)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let answering = service_fn(move |request: Request<Incoming>| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(answer(&site, &request)) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answering);
    // A connection that is kept open by somebody who does nothing ends, too.
    let _ = tokio::time::timeout(CONNECTION_TIME_MAX, serving).await;
}

type Answer = Response<Full<Bytes>>;

fn answer<S: Source>(site: &Site<S>, request: &Request<Incoming>) -> Answer {
    // Over TLS the certificate says which names are ours, and everybody shows who they are.
    if site.config.tls.is_none() && !access::names_this_machine(request.headers()) {
        return text(StatusCode::MISDIRECTED_REQUEST, FOREIGN_HOST);
    }
    if let Some(path) = &site.config.token_file {
        match access::token(path) {
            Ok(token) if access::shows_token(request.headers(), &token) => {}
            Ok(_) => {
                let mut answer = text(StatusCode::UNAUTHORIZED, "the token is missing or wrong\n");
                let ask = HeaderValue::from_static("Basic realm=\"Penstock: any name, the token\"");
                answer.headers_mut().insert(WWW_AUTHENTICATE, ask);
                return answer;
            }
            Err(why) => {
                tracing::warn!(why, "the page's token can't be read");
                return text(StatusCode::SERVICE_UNAVAILABLE, "the token can't be read\n");
            }
        }
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "this page only shows\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let uri = request.uri();
    let mut shown = site.shown();
    let Shown { source, history, status, metrics } = &mut *shown;
    match uri.path() {
        "/" => body("text/html; charset=utf-8", include_str!("../assets/page.html")),
        "/page.js" => body("text/javascript; charset=utf-8", include_str!("../assets/page.js")),
        "/page.css" => body("text/css; charset=utf-8", include_str!("../assets/page.css")),
        "/status.json" => told(JSON, fresh(status, || source.status())),
        "/metrics" => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
            let format = Format::accepted(accept.unwrap_or_default());
            let numbers = fresh(metrics, || source.metrics());
            told(format.content_type(), numbers.map(|numbers| numbers.text(format)))
        }
        "/history.json" => body(JSON, history.to_json(SystemClock.now()).to_string()),
        "/life.json" => match bundle(uri.query().unwrap_or_default()) {
            None => text(StatusCode::BAD_REQUEST, "name a bundle: /life.json?bundle=flash/7\n"),
            Some(name) => match source.life(&name) {
                Ok(Some(life)) => body(JSON, life),
                Ok(None) => text(StatusCode::NOT_FOUND, "the custody log knows no such bundle\n"),
                Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
            },
        },
        "/healthz" => text(StatusCode::OK, "alive\n"),
        "/readyz" => match source.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "there is no such page\n"),
    }
}

/// The bundle that a query names, its percent signs resolved; bounded.
fn bundle(query: &str) -> Option<String> {
    let said = query.split('&').find_map(|pair| pair.strip_prefix("bundle="))?;
    if said.is_empty() || said.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(said.len());
    let mut rest = said.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn told(kind: &'static str, said: Result<String, String>) -> Answer {
    match said {
        Ok(said) => body(kind, said),
        Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
    }
}

fn text(status: StatusCode, said: impl Into<Bytes>) -> Answer {
    let mut answer = body("text/plain; charset=utf-8", said);
    *answer.status_mut() = status;
    answer
}

fn body(kind: &'static str, bytes: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(bytes.into()));
    let headers: [(HeaderName, &'static str); 6] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Nothing runs, loads or is asked but what this server has (W3C Content Security Policy Level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const JSON: &str = "application/json";
/// The answer to who came here by another machine's name.
const FOREIGN_HOST: &str = "ask for this machine by its own name\n  try: http://localhost/, also with curl --unix-socket\n";
/// The agent's user and group may look.
const SOCKET_MODE: u32 = 0o660;
/// Connections at once; the next one waits.
const CONNECTIONS_MAX: usize = 64;
/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest wait for one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest life of a connection.
const CONNECTION_TIME_MAX: Duration = Duration::from_mins(10);
/// How long an answer is kept for others.
const KEPT: Duration = Duration::from_millis(500);
/// The pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// The flow is written down with every sixth sample: after `kill -9` a minute of it is missing.
const WRITTEN_EACH: u64 = 6;
/// The longest name of a bundle.
const NAME_BYTES_MAX: usize = 300;

#[cfg(test)]
mod tests;
