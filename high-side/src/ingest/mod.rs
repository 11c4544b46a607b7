//! Listeners: from bytes on a socket to records handed to the buffer.
//!
//! ```text
//! socket -> read buffer -> framing -> batch (bytes copied once) -> Intake (waits while it is full)
//! ```
//!
//! Invariants: a message is handed over exactly as it came, or its head with a mark; a message is
//! never refused for what it says; nothing is read while the buffer can take no more; memory is
//! bounded by [`ReadMemory`], the limits of each listener, and the bytes that the intake lets fly.

mod acknowledged;
mod connection;
mod counters;
mod forward;
pub mod framing;
mod gate;
pub mod http;
mod memory;
mod relp;
mod tcp;
mod tls;
mod udp;
mod udp_drops;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::Clock;
use shared::record::{Lane, Stream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::buffer::Intake;
use crate::guard::Guard;

use forward::Access;

pub(crate) use counters::add_empty_frames;
pub(crate) use gate::{Batch, Gate, Waiting};

pub use counters::{IngestCounters, IngestSnapshot};
pub use forward::{ForwardSettings, SecretError};
pub use http::{HttpSender, HttpSettings};
pub use memory::ReadMemory;
pub use tls::{ClientAuth, TlsAcceptorHandle, TlsError, TlsSettings};

/// One listener, as configured.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Its name, kept with each record.
    pub name: String,
    /// How it speaks.
    pub protocol: Protocol,
    /// Where it listens.
    pub bind: SocketAddr,
    /// The lane of its records.
    pub lane: Lane,
    /// The stream of its records; recognised from each record's bytes if none is given.
    pub stream: Option<Stream>,
    /// What it puts up with.
    pub limits: Limits,
}

/// What a listener speaks.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// HTTP/1.1, with or without TLS.
    Http(HttpSettings),
    /// The Forward protocol of Fluentd and Fluent Bit, version 1.5.
    FluentForward(ForwardSettings),
    /// rsyslog's reliable protocol, inside TLS if there is a certificate.
    Relp(Option<TlsSettings>),
    /// RFC 6587.
    Tcp,
    /// RFC 5425, and the framings of RFC 6587 inside TLS.
    Tls(TlsSettings),
    /// RFC 5426.
    Udp,
}

impl Protocol {
    /// Its certificate and authorities, if it speaks TLS.
    pub fn tls(&self) -> Option<&TlsSettings> {
        match self {
            Protocol::Http(settings) => settings.tls.as_ref(),
            Protocol::FluentForward(settings) => settings.tls.as_ref(),
            Protocol::Relp(settings) => settings.as_ref(),
            Protocol::Tls(settings) => Some(settings),
            Protocol::Tcp | Protocol::Udp => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Http(settings) => settings.sender.protocol(),
            Protocol::FluentForward(_) => "fluent-forward",
            Protocol::Relp(_) => "relp",
            Protocol::Tcp => "tcp",
            Protocol::Tls(_) => "tls",
            Protocol::Udp => "udp",
        })
    }
}

/// The limits of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest message that is kept whole. A longer one is cut, marked and counted.
    pub message_bytes_max: usize,
    /// How many connections may be open; one more is closed at once, and counted.
    pub connections_max: usize,
    /// How many of them one address may hold: one host must not lock out all others.
    pub connections_per_peer_max: usize,
    /// A connection that gave no byte for so long is closed. Many clients lose the first message
    /// after that, since their write to a closed connection succeeds once: keep it long.
    pub idle_timeout: Duration,
    /// A message not complete so long after its first byte is kept as it is, and its connection
    /// closed: it holds memory that others may need.
    pub message_timeout: Duration,
    /// A TLS handshake not complete after so long ends its connection.
    pub handshake_timeout: Duration,
    /// The kernel's receive buffer of a UDP socket, in bytes: what a burst must fit in.
    pub receive_buffer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 1 << 20,
            connections_max: 1024,
            connections_per_peer_max: 256,
            idle_timeout: Duration::from_hours(24),
            message_timeout: Duration::from_mins(1),
            handshake_timeout: Duration::from_secs(10),
            receive_buffer_bytes: 16 << 20,
        }
    }
}

/// What every listener of an agent shares.
#[derive(Clone)]
pub struct Surroundings {
    /// The way into the buffer.
    pub intake: Intake,
    /// What decides which lane a record takes, and what of it may leave.
    pub guard: Arc<Guard>,
    /// The time that records are stamped with.
    pub clock: Arc<dyn Clock>,
    /// The memory that connections share for reading.
    pub memory: ReadMemory,
    /// Turns true when the agent stops.
    pub shutdown: watch::Receiver<bool>,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// A listener at work.
#[derive(Debug)]
pub struct RunningListener {
    /// Its name.
    pub name: String,
    /// Where it listens: the port is known even if the configuration leaves it to the system.
    pub address: SocketAddr,
    /// What it counts.
    pub counters: Arc<IngestCounters>,
    /// Through which its certificate is loaded again, if it speaks TLS.
    pub tls: Option<TlsAcceptorHandle>,
    /// Ends after shutdown, when everything read is handed over; an earlier end is a fault.
    pub task: JoinHandle<Result<(), ListenError>>,
}

/// Why a listener could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address can't be listened on.
    #[error(
        "listener {name:?} can't listen on {protocol} {bind}: {source}\n  try: {}",
        bind_advice(source)
    )]
    Bind {
        /// The listener.
        name: String,
        /// Its transport.
        protocol: String,
        /// Its address.
        bind: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Receiving failed in a way that does not pass.
    #[error("listener {name:?} can't receive any more: {source}")]
    Receive {
        /// The listener.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of its secrets can't be used.
    #[error("listener {name:?}: {source}")]
    Secret {
        /// The listener.
        name: String,
        /// What is wrong.
        source: SecretError,
    },
    /// Its certificate, key or authority can't be used.
    #[error("listener {name:?}: {source}")]
    Tls {
        /// The listener.
        name: String,
        /// What is wrong.
        source: TlsError,
    },
    /// A thread can't be started, or died.
    #[error("listener {name:?}: its thread can't run")]
    Thread {
        /// The listener.
        name: String,
    },
}

fn bind_advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            "find the program that listens there with `ss -lnp`, or choose another port"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "give an address of this machine, or 0.0.0.0 or [::]"
        }
        std::io::ErrorKind::PermissionDenied => {
            "choose a port above 1023, or give the agent CAP_NET_BIND_SERVICE"
        }
        _ => "check `bind` of this listener in the configuration",
    }
}

/// What would keep a listener from starting, besides its address and its certificate.
pub fn check(settings: &ListenerSettings) -> Option<SecretError> {
    match &settings.protocol {
        Protocol::FluentForward(forward) => Access::load(forward).err(),
        _ => None,
    }
}

/// Starts a listener; call it inside a tokio runtime. When this returns, clients can connect.
pub fn spawn(
    settings: ListenerSettings,
    surroundings: &Surroundings,
) -> Result<RunningListener, ListenError> {
    let counters = Arc::new(IngestCounters::default());
    let gate = Gate {
        lane: settings.lane,
        stream: settings.stream,
        guard: Arc::clone(&surroundings.guard),
        intake: surroundings.intake.clone(),
        clock: Arc::clone(&surroundings.clock),
        counters: Arc::clone(&counters),
    };
    let access = match &settings.protocol {
        Protocol::FluentForward(forward) => Access::load(forward)
            .map_err(|source| ListenError::Secret { name: settings.name.clone(), source })?,
        _ => Access::default(),
    };
    let listener = Arc::new(Listener {
        settings,
        surroundings: surroundings.clone(),
        gate,
        access,
        refusals: http::Refusals::default(),
    });
    let ListenerSettings { name, protocol, bind, .. } = &listener.settings;
    let failed = |source| ListenError::Bind {
        name: name.clone(),
        protocol: protocol.to_string(),
        bind: *bind,
        source,
    };
    let mut tls = None;
    if let Some(settings) = protocol.tls() {
        let unfit = |source| ListenError::Tls { name: name.clone(), source };
        tls = Some(TlsAcceptorHandle::load(settings.clone()).map_err(unfit)?);
    }
    let (address, task) = if matches!(protocol, Protocol::Udp) {
        let socket = udp::bind(&listener.settings).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        (address, udp::spawn(Arc::clone(&listener), socket)?)
    } else {
        let socket = tcp::bind(*bind).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let task = tcp::run(Arc::clone(&listener), socket, tls.clone());
        (address, tokio::spawn(task))
    };
    tracing::info!(listener = %name, %protocol, %address, "listening");
    let name = name.clone();
    Ok(RunningListener { name, address, counters, tls, task })
}

/// What the parts of one listener share.
struct Listener {
    settings: ListenerSettings,
    surroundings: Surroundings,
    gate: Gate,
    /// What an HTTP listener remembers of requests that it refused.
    refusals: http::Refusals,
    /// Who may come in, where the protocol asks.
    access: Access,
}

/// The peer's address as kept with a record: an IPv4 peer of an IPv6 socket is an IPv4 peer.
fn peer_text(peer: SocketAddr) -> String {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string()
}

#[cfg(test)]
mod tests;
