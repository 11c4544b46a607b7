//! A small HTTP/1.1 server for stand-ins of destinations: it reads a request, asks what to answer, and
//! answers, or misbehaves as told.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use flate2::read::GzDecoder;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Certificate;
use super::portainer::server_config;

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body, unpacked.
    pub body: Vec<u8>,
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// This status, with these headers and this body.
    Status(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The connection is reset.
    Reset,
    /// Nothing is ever answered.
    Silence,
    /// This status and the beginning of a body, of which more is promised; then the connection ends.
    Torn(u16, Vec<u8>),
}

impl Reply {
    /// A status with a body.
    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Reply::Status(status, Vec::new(), body.into())
    }
}

/// A running server. It ends with this.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
    scheme: &'static str,
}

impl HttpServer {
    /// Serves on a free port of this machine.
    ///
    /// # Panics
    /// When no port is to be had.
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), None, answer)
    }

    /// Serves at an address, over TLS where a certificate is given.
    ///
    /// # Panics
    /// When the address or the certificate can't be used.
    pub fn start_at(
        address: SocketAddr,
        certificate: Option<&Certificate>,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let tls = certificate.map(|pair| Arc::new(server_config(&pair.cert, &pair.key)));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let stopping = Arc::new(AtomicBool::new(false));
        let (answer, stop) = (Arc::new(answer), Arc::clone(&stopping));
        let serving = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (answer, stop, tls) = (Arc::clone(&answer), Arc::clone(&stop), tls.clone());
                std::thread::spawn(move || serve(stream, tls, &*answer, &stop));
            }
        });
        Self { address, stopping, serving: Some(serving), scheme }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

/// A connection, with TLS or without.
trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    answer: &(impl Fn(&Asked) -> Reply + ?Sized),
    stop: &AtomicBool,
) {
    let _ = stream.set_read_timeout(Some(LOOK));
    let Ok(socket) = stream.try_clone() else { return };
    let wire: Box<dyn Wire> = match tls.map(ServerConnection::new) {
        None => Box::new(stream),
        Some(Ok(connection)) => Box::new(StreamOwned::new(connection, stream)),
        Some(Err(_)) => return,
    };
    let mut reader = BufReader::new(wire);
    while let Ok(Some(asked)) = read(&mut reader, stop) {
        match answer(&asked) {
            Reply::Status(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.extend([name, ": ", &value, "\r\n"]);
                }
                head.push_str("\r\n");
                let answer = [head.as_bytes(), &body].concat();
                let writer = reader.get_mut();
                if writer.write_all(&answer).and_then(|()| writer.flush()).is_err() {
                    return;
                }
            }
            Reply::Torn(status, body) => {
                let promised = body.len() + 1;
                let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {promised}\r\n\r\n");
                let answer = [head.as_bytes(), &body].concat();
                let writer = reader.get_mut();
                // The connection ends in any case.
                let _ = writer.write_all(&answer).and_then(|()| writer.flush());
                return;
            }
            Reply::Reset => {
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                let _ = nix::sys::socket::setsockopt(
                    &socket.as_fd(),
                    nix::sys::socket::sockopt::Linger,
                    &linger,
                );
                return;
            }
            Reply::Silence => {
                let mut rest = [0; 1];
                while !stop.load(Ordering::SeqCst) {
                    match reader.read(&mut rest) {
                        Err(err) if is_pause(&err) => {}
                        _ => return,
                    }
                }
            }
        }
    }
}

fn is_pause(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Reads until it is done, the peer goes, or the server stops.
fn patiently<T>(stop: &AtomicBool, mut once: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match once() {
            Err(err) if is_pause(&err) && !stop.load(Ordering::SeqCst) => {}
            other => return other,
        }
    }
}

fn read(reader: &mut impl BufRead, stop: &AtomicBool) -> io::Result<Option<Asked>> {
    let mut line = |text: &mut String| patiently(stop, || reader.read_line(text));
    let mut first = String::new();
    if line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut text = String::new();
        if line(&mut text)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = text.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length =
        headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0_usize);
    let mut body = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match patiently(stop, || reader.read(&mut body[filled..]))? {
            0 => return Ok(None),
            count => filled += count,
        }
    }
    if headers.get("content-encoding").is_some_and(|coding| coding == "gzip") {
        let mut plain = Vec::new();
        GzDecoder::new(&body[..]).read_to_end(&mut plain)?;
        body = plain;
    }
    let mut words = first.split_ascii_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    Ok(Some(Asked { method, path, headers, body }))
}

/// How often a waiting thread looks whether the server stops.
const LOOK: Duration = Duration::from_millis(100);
