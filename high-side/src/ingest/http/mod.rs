//! HTTP sources: API servers, Falco and relays that post what they have.
//!
//! ```text
//! request ─> limits, memory ─> body ─> gunzip ─> cut into records ─> Batch ─> commit ─> 200
//!                 │                                    │                │
//!                 └ 429, 503: come again               └ 400: never     └ not in time: 503
//! ```
//!
//! Each protocol follows what its sender does with an answer:
//!
//! | protocol | sender | on an error it | so |
//! |---|---|---|---|
//! | `kube-webhook` | kube-apiserver | tries 5 times, then drops the batch | errors only in need, with `Retry-After` |
//! | `falco-http` | Falco, falcosidekick | never looks | everything is kept, waiting as long as it takes |
//! | `fluent-http` | Fluent Bit, Fluentd | tries again on 503, drops on 4xx | 503 in need, 4xx only for what can't be taken |
//!
//! Invariant: 200 means that every record of the request is durable.

mod audit;
mod body;
mod phase;
mod refusals;
mod relayed;
mod respond;
mod spans;

use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use shared::record::SourceTag;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{sleep, timeout};

use super::Listener;
use super::connection::{End, STOP_DRAIN};
use super::counters::add;
use super::tls::TlsSettings;

use phase::{Noted, Phase, PhaseCell};
use respond::Responder;

pub(super) use refusals::Refusals;

/// An HTTP listener, as configured.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Whose requests it takes.
    pub sender: HttpSender,
    /// Certificate and authorities; plain HTTP without.
    pub tls: Option<TlsSettings>,
    /// The only path that is answered; any, if none is given.
    pub path: Option<String>,
    /// The longest body that is taken, compressed or not.
    pub body_bytes_max: usize,
    /// How long a request may wait for the buffer before its sender is told to come again.
    pub answer_timeout: Duration,
    /// The member in which a relay wraps a line, if the line is wanted and not the object.
    pub unwrap: Option<String>,
}

impl HttpSettings {
    /// The defaults for a sender.
    pub fn new(sender: HttpSender) -> Self {
        Self {
            sender,
            tls: None,
            path: None,
            body_bytes_max: BODY_BYTES_MAX,
            answer_timeout: ANSWER_TIMEOUT,
            unwrap: None,
        }
    }
}

/// Whose requests an HTTP listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpSender {
    /// Falco's `http_output`, falcosidekick's webhook.
    Falco,
    /// Fluent Bit's and Fluentd's output `http`.
    Fluent,
    /// The audit webhook of a Kubernetes API server.
    KubeApiserver,
}

impl HttpSender {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Falco, Self::Fluent, Self::KubeApiserver];

    /// The protocol's name in a configuration.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Falco => "falco-http",
            Self::Fluent => "fluent-http",
            Self::KubeApiserver => "kube-webhook",
        }
    }
}

impl fmt::Display for HttpSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol())
    }
}

/// Answers the requests of a connection, to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(
    socket: &mut S,
    source: Arc<SourceTag>,
    listener: &Arc<Listener>,
    settings: &HttpSettings,
) -> End {
    let limits = &listener.settings.limits;
    let phase = PhaseCell::new();
    let responder = Responder { listener, settings, source };
    let service = service_fn(async |request| {
        phase.set(Phase::Answering);
        let answer = responder.answer(request).await;
        phase.set(Phase::Idle(tokio::time::Instant::now()));
        Ok::<_, Infallible>(answer)
    });
    let ended = {
        let socket = TokioIo::new(Noted { socket: &mut *socket, phase: &phase });
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).header_read_timeout(None);
        let mut connection = pin!(builder.serve_connection(socket, service));
        let mut shutdown = listener.surroundings.shutdown.clone();
        tokio::select! {
            ended = connection.as_mut() => ended,
            end = phase.watch(limits.idle_timeout, limits.message_timeout) => return end,
            () = body::told_to_stop(&mut shutdown) => {
                connection.as_mut().graceful_shutdown();
                // What is on its way is answered; what has not begun after a moment is not waited for.
                loop {
                    tokio::select! {
                        ended = connection.as_mut() => break ended,
                        () = sleep(STOP_DRAIN) => {
                            if phase.now() != Phase::Answering {
                                return End::Stopping;
                            }
                        }
                    }
                }
            }
        }
    };
    if let Err(error) = ended
        && (error.is_parse() || error.is_parse_too_large())
    {
        add(&listener.gate.counters.requests_bad, 1);
        tracing::warn!(
            listener = %listener.settings.name,
            source = responder.source.as_str(),
            %error,
            "what came is not HTTP/1.1, or its head is too long; closed the connection"
        );
    }
    linger(socket).await;
    End::Closed
}

/// Reads on for a moment what the peer still sends. A socket that is closed with something unread resets
/// the connection, and the peer may lose the answer that says why.
async fn linger<S: AsyncRead + Unpin>(socket: &mut S) {
    let mut scratch = [0; 4096];
    let drain = async { while let Ok(1..) = socket.read(&mut scratch).await {} };
    let _ = timeout(LINGER, drain).await;
}

/// Ten MiB is what an API server with truncation sends at most; without, batches have no limit.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Below the 30 seconds after which an API server gives up a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest head of a request, and what each connection has of its own for reading.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long a connection that is over is read on.
const LINGER: Duration = Duration::from_secs(1);

/// The most headers of a request: senders have about ten.
const HEADERS_MAX: usize = 64;
