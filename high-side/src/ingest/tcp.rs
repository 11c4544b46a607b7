//! TCP and TLS listeners: one task accepts, one task for each connection reads.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use shared::record::SourceTag;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::{self, End, STOP_DRAIN, STOP_QUIET};
use super::counters::{Gauge, add};
use super::{ListenError, Listener, Protocol, TlsAcceptorHandle, forward, http, peer_text, relp};

pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted agent must not wait for the connections of its predecessor to fade.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until shutdown, then waits for the connections to hand over what they have read.
pub(super) async fn run(
    listener: Arc<Listener>,
    socket: TcpListener,
    tls: Option<TlsAcceptorHandle>,
) -> Result<(), ListenError> {
    let mut connections = JoinSet::new();
    let peers = Peers::default();
    let mut shutdown = listener.surroundings.shutdown.clone();
    let name = &listener.settings.name;
    let mut full = false;
    while !*shutdown.borrow() {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(ended) = connections.join_next() => {
                told_of_panic(name, ended);
                continue;
            }
            _ = shutdown.changed() => break,
        };
        match accepted {
            Ok((stream, peer))
                if connections.len() < listener.settings.limits.connections_max
                    && let Some(place) = peers
                        .place(peer.ip(), listener.settings.limits.connections_per_peer_max) =>
            {
                full = false;
                add(&listener.gate.counters.connections_total, 1);
                let work = accepted_one(Arc::clone(&listener), stream, peer, tls.clone());
                connections.spawn(async move {
                    work.await;
                    drop(place);
                });
            }
            Ok(_) => {
                add(&listener.gate.counters.connections_refused, 1);
                if !full {
                    tracing::warn!(listener = %name, "connections-max or connections-per-peer-max is reached; refusing more");
                }
                full = true;
            }
            Err(error) => {
                // Out of file descriptors, or a peer that left: neither ends a listener.
                tracing::warn!(listener = %name, %error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Clients whose connections were complete may have sent already.
    let until = Instant::now() + STOP_DRAIN;
    while connections.len() < listener.settings.limits.connections_max
        && let Ok(Ok((stream, peer))) =
            timeout_at(until.min(Instant::now() + STOP_QUIET), socket.accept()).await
    {
        add(&listener.gate.counters.connections_total, 1);
        connections.spawn(accepted_one(Arc::clone(&listener), stream, peer, tls.clone()));
    }
    drop(socket);
    while let Some(ended) = connections.join_next().await {
        told_of_panic(name, ended);
    }
    Ok(())
}

/// How many connections each address holds; as many entries as there are connections, at most.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place of one address, given back when dropped.
struct Place(Peers, IpAddr);

impl Peers {
    fn place(&self, address: IpAddr, max: usize) -> Option<Place> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), address))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.1);
            }
        }
    }
}

fn told_of_panic(listener: &str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(listener, %error, "a connection's task failed: a defect of this program");
    }
}

async fn accepted_one(
    listener: Arc<Listener>,
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptorHandle>,
) {
    let counters = &listener.gate.counters;
    let _open = Gauge::up(&counters.connections_open);
    let name = &listener.settings.name;
    let peer = peer_text(peer);
    // Finds peers that vanished, however long the idle timeout.
    if let Err(error) = setsockopt(&stream, sockopt::KeepAlive, &true) {
        tracing::debug!(listener = %name, peer, %error, "no keep-alive for a connection");
    }
    // An answer is small and must not wait until the peer has confirmed the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(listener = %name, peer, %error, "answers on a connection may be delayed");
    }
    let end = match tls {
        None => {
            let source = Arc::new(SourceTag::new(name, &peer, None));
            serve(&mut stream, source, &listener).await
        }
        Some(tls) => {
            let limit = listener.settings.limits.handshake_timeout;
            let mut shutdown = listener.surroundings.shutdown.clone();
            let handshake = tokio::select! {
                done = timeout(limit, tls.accept(stream)) => done,
                _ = shutdown.wait_for(|stop| *stop) => return,
            };
            let (mut stream, subject) = match handshake {
                Ok(Ok(accepted)) => accepted,
                Ok(Err(error)) => {
                    add(&counters.handshake_failures, 1);
                    tracing::warn!(listener = %name, peer, %error, "a TLS handshake failed");
                    return;
                }
                Err(_) => {
                    add(&counters.handshake_failures, 1);
                    tracing::warn!(listener = %name, peer, "a TLS handshake took too long");
                    return;
                }
            };
            let source = Arc::new(SourceTag::new(name, &peer, subject.as_deref()));
            let end = serve(&mut stream, source, &listener).await;
            // Tells the peer that the end is meant; whether it listens is its own affair.
            let _ = timeout(CLOSE_LIMIT, stream.shutdown()).await;
            end
        }
    };
    match end {
        End::Idle => add(&counters.idle_closes, 1),
        End::Slow => {
            add(&counters.slow_closes, 1);
            tracing::warn!(listener = %name, peer, "a message took too long; closed its connection");
        }
        End::Closed | End::IntakeClosed | End::Refused | End::Stopping => {}
    }
}

/// Speaks the listener's protocol over a connection, to its end.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: &mut S,
    source: Arc<SourceTag>,
    listener: &Arc<Listener>,
) -> End {
    match &listener.settings.protocol {
        Protocol::Http(settings) => http::serve(stream, source, listener, settings).await,
        Protocol::FluentForward(settings) => {
            forward::serve(stream, source, listener, settings).await
        }
        Protocol::Relp(_) => relp::serve(stream, source, listener).await,
        Protocol::Tcp | Protocol::Tls(_) | Protocol::Udp => {
            connection::serve(stream, source, listener).await
        }
    }
}

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A pause after accepting failed, so that a full table of file descriptors is not spun upon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a peer is given to take the end of a TLS connection.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
