//! A connection to a receiver: TCP, or TLS over it.
//!
//! Every call has a deadline and gives up early when the agent stops: the socket's own timeouts are
//! short, and the loops here look at the clock and the bell in between.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use shared::bell::Bell;

use super::SinkError;
use super::config::{Endpoint, split_address};
use crate::tls::{TlsConfig, TlsError};

/// A connection.
pub(super) struct Connection {
    stream: Stream,
    /// What the receiver said before it was asked anything.
    early: Vec<u8>,
    address: String,
    timeout: Duration,
    bell: Bell,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Where a batch stands in a loop: give up at the deadline or when the agent stops.
type Step<T> = io::Result<Option<T>>;

impl Connection {
    /// Connects, and with TLS makes sure that we were let in.
    pub(super) fn open(config: &Endpoint, bell: &Bell) -> Result<Self, SinkError> {
        let network = |doing: &'static str| {
            move |source| SinkError::Network { address: config.address.clone(), doing, source }
        };
        let tcp = connect(config, bell)?;
        tcp.set_nodelay(true).map_err(network("connecting"))?;
        tcp.set_read_timeout(Some(SLICE)).map_err(network("connecting"))?;
        tcp.set_write_timeout(Some(SLICE)).map_err(network("connecting"))?;
        let stream = match &config.tls {
            None => Stream::Plain(tcp),
            Some(tls) => Stream::Tls(Box::new(StreamOwned::new(client(config, tls)?, tcp))),
        };
        let mut connection = Self {
            stream,
            early: Vec::new(),
            address: config.address.clone(),
            timeout: config.connect_timeout,
            bell: bell.clone(),
        };
        connection.handshake()?;
        connection.timeout = config.timeout;
        Ok(connection)
    }

    /// Sends all of it.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let now = rest;
            let sent = self.until("take what was sent", |stream| match stream.write(now)? {
                0 => Err(io::ErrorKind::WriteZero.into()),
                count => Ok(Some(count)),
            })?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    /// Hands everything to the network.
    pub(super) fn flush(&mut self) -> Result<(), SinkError> {
        self.until("take what was sent", |stream| stream.flush().map(Some))
    }

    /// Waits until the receiver's kernel has acknowledged every byte. Its program may not have read any.
    pub(super) fn wait_acknowledged(&mut self) -> Result<(), SinkError> {
        self.until("acknowledge what was sent", |stream| {
            if let Some(error) = stream.socket().take_error()? {
                return Err(error);
            }
            let queue = send_queue(stream.socket())?;
            match queue {
                Some(0) => Ok(Some(())),
                Some(_) => Ok(None),
                None => Err(io::ErrorKind::NotConnected.into()),
            }
        })
    }

    /// Closes our side and waits until the receiver's program has read everything: only then does it
    /// see the end and close in order. A program that dies with something unread makes its kernel
    /// send a reset instead.
    pub(super) fn close(mut self) -> Result<(), SinkError> {
        self.flush()?;
        if let Stream::Tls(tls) = &mut self.stream {
            tls.conn.send_close_notify();
        }
        self.flush()?;
        let shut = self.stream.socket().shutdown(Shutdown::Write);
        shut.map_err(|source| self.network("closing", source))?;
        self.until(CLOSE_IN_ORDER, |stream| match stream.discard()? {
            0 => Ok(Some(())),
            _ => Ok(None),
        })?;
        // The end may have been sent before the receiver saw our last bytes. Then its kernel answers
        // them with a reset; otherwise it acknowledges them, and both sides are done.
        self.until("acknowledge the end of what was sent", |stream| {
            if let Some(error) = stream.socket().take_error()? {
                return Err(error);
            }
            Ok(send_queue(stream.socket())?.is_none().then_some(()))
        })?;
        match self.stream.socket().take_error() {
            Ok(None) => Ok(()),
            Ok(Some(source)) | Err(source) => Err(self.network("closing", source)),
        }
    }

    /// Waits for what the receiver says next; appends it, some bytes at least.
    pub(super) fn receive(
        &mut self,
        into: &mut Vec<u8>,
        doing: &'static str,
    ) -> Result<(), SinkError> {
        self.flush()?;
        if !self.early.is_empty() {
            into.append(&mut self.early);
            return Ok(());
        }
        let mut buffer = [0; 4096];
        let count = self.until(doing, |stream| match stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(Some(count)),
        })?;
        into.extend_from_slice(&buffer[..count]);
        Ok(())
    }

    /// Whether the connection still stands.
    pub(super) fn check(&mut self) -> Result<(), SinkError> {
        self.is_quiet().map(|_| ())
    }

    /// Whether the receiver has said nothing. An error where it ended the connection.
    pub(super) fn is_quiet(&mut self) -> Result<bool, SinkError> {
        let unblock = |stream: &Stream, on| stream.socket().set_nonblocking(on);
        unblock(&self.stream, true).map_err(|source| self.network("checking", source))?;
        let found = self.stream.discard();
        unblock(&self.stream, false).map_err(|source| self.network("checking", source))?;
        match found {
            Ok(0) => Err(self.network("checking", io::ErrorKind::UnexpectedEof.into())),
            Err(error) if is_pause(&error) => Ok(true),
            Err(error) => Err(self.network("checking", error)),
            Ok(_) => Ok(false),
        }
    }

    /// A last word, for which nobody waits.
    pub(super) fn say_at_once(&mut self, bytes: &[u8]) {
        if self.stream.socket().set_nonblocking(true).is_ok() {
            let _ = self.stream.write(bytes).and_then(|_| self.stream.flush());
        }
    }

    /// TLS 1.3 tells a client that its certificate was refused only after the handshake, in answer to
    /// nothing: what is sent before that is lost. So we listen first, until the receiver has sent
    /// a session ticket, or has had its time.
    fn handshake(&mut self) -> Result<(), SinkError> {
        if matches!(self.stream, Stream::Plain(_)) {
            return Ok(());
        }
        self.until("finish the TLS handshake", |stream| {
            if let Stream::Tls(tls) = stream {
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock)?;
                }
                tls.flush()?;
            }
            Ok(Some(()))
        })?;
        let listened = Instant::now();
        let set = self.stream.socket().set_read_timeout(Some(LISTEN));
        set.map_err(|source| self.network("connecting", source))?;
        // One that speaks first has let us in, too; what it says is for whoever asks next.
        let mut buffer = [0; 4096];
        while let Stream::Tls(tls) = &self.stream {
            let let_in = tls.conn.tls13_tickets_received() > 0 || !self.early.is_empty();
            if let_in || listened.elapsed() >= LISTEN {
                break;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    return Err(self.network("connecting", io::ErrorKind::UnexpectedEof.into()));
                }
                Err(error) if !is_pause(&error) => return Err(self.network("connecting", error)),
                Ok(count) => self.early.extend_from_slice(&buffer[..count]),
                Err(_) => {}
            }
        }
        let set = self.stream.socket().set_read_timeout(Some(SLICE));
        set.map_err(|source| self.network("connecting", source))
    }

    /// Repeats a step until it is done, fails, has made no progress for the timeout, or we stop.
    fn until<T>(
        &mut self,
        doing: &'static str,
        mut step: impl FnMut(&mut Stream) -> Step<T>,
    ) -> Result<T, SinkError> {
        let started = Instant::now();
        loop {
            match step(&mut self.stream) {
                Ok(Some(done)) => return Ok(done),
                Ok(None) => self.bell.rest(POLL),
                Err(error) if is_pause(&error) => {}
                Err(source) => return Err(self.network(doing, source)),
            }
            if self.bell.stopping() {
                return Err(SinkError::Stopping);
            }
            if started.elapsed() >= self.timeout {
                return Err(SinkError::Timeout {
                    address: self.address.clone(),
                    doing,
                    after: self.timeout,
                });
            }
        }
    }

    fn network(&self, doing: &'static str, source: io::Error) -> SinkError {
        SinkError::Network { address: self.address.clone(), doing, source }
    }
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }

    /// Reads and forgets: a syslog receiver has nothing to say. 0 is the orderly end.
    fn discard(&mut self) -> io::Result<usize> {
        self.read(&mut [0; 4096])
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(tls) => match tls.read(buffer) {
                // Receivers end with a bare FIN as often as with close_notify. What is read here has
                // its own ends, so that nothing can be cut off unseen.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                other => other,
            },
        }
    }
}

fn connect(config: &Endpoint, bell: &Bell) -> Result<TcpStream, SinkError> {
    let network = |source| SinkError::Network {
        address: config.address.clone(),
        doing: "connecting",
        source,
    };
    let addresses = config.address.to_socket_addrs().map_err(network)?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        if bell.stopping() {
            return Err(SinkError::Stopping);
        }
        match TcpStream::connect_timeout(&address, config.connect_timeout) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(network(last))
}

/// The certificates are read for each connection: a renewed one is used without a restart.
fn client(config: &Endpoint, tls: &TlsConfig) -> Result<ClientConnection, SinkError> {
    let host = split_address(&config.address).unwrap_or_default();
    let (settings, name) = (tls.load()?, tls.name(&host)?);
    ClientConnection::new(Arc::new(settings), name).map_err(|err| {
        SinkError::Tls(TlsError { path: config.address.clone().into(), problem: err.to_string() })
    })
}

/// How many bytes, or ends, the peer's kernel has not acknowledged yet. `None` once both sides have ended
/// and acknowledged: then the socket is gone from the kernel's table.
///
/// `SIOCOUTQ` and `TCP_INFO` would say the same, but take unsafe code to ask for.
fn send_queue(socket: &TcpStream) -> io::Result<Option<u64>> {
    let inode = nix::sys::stat::fstat(socket.as_fd())?.st_ino.to_string();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        // A kernel without IPv6 has no second table.
        let Ok(text) = std::fs::read_to_string(table) else {
            continue;
        };
        for line in text.lines() {
            let mut fields = line.split_ascii_whitespace();
            // sl local remote state tx_queue:rx_queue ... inode
            let queues = fields.nth(4).unwrap_or_default();
            if fields.nth(4) == Some(&inode) {
                let queue = queues.split(':').next().unwrap_or_default();
                let queue = u64::from_str_radix(queue, 16);
                return queue.map(Some).map_err(|_| io::ErrorKind::InvalidData.into());
            }
        }
    }
    Ok(None)
}

/// Nothing now, but the connection lives.
fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

/// How long one system call may block: a stop is seen this soon.
const SLICE: Duration = Duration::from_millis(250);
/// What a receiver that never closes does not do.
pub(super) const CLOSE_IN_ORDER: &str = "close the connection in order";
/// The pause between two looks at something that can't be waited for.
const POLL: Duration = Duration::from_millis(2);
/// How long we listen for a refusal after a TLS handshake. Receivers that issue tickets answer at
/// once; the others cost this much for each batch.
const LISTEN: Duration = Duration::from_millis(150);
