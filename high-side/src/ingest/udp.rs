//! UDP listeners: a thread each, many datagrams a system call, one datagram one message (RFC 5426).

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, getsockopt, recvmmsg, setsockopt,
    sockopt,
};
use shared::record::SourceTag;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::counters::add;
use super::gate::{Batch, Waiting};
use super::udp_drops::Drops;
use super::{ListenError, Listener, ListenerSettings, peer_text};
use crate::buffer::IntakeClosed;

/// Binds with the largest receive buffer to be had, up to what is configured.
pub(super) fn bind(settings: &ListenerSettings) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(settings.bind)?;
    let wanted = settings.limits.receive_buffer_bytes;
    // The first needs CAP_NET_ADMIN; the second gives as much as net.core.rmem_max allows.
    if setsockopt(&socket, sockopt::RcvBufForce, &wanted).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &wanted)?;
    }
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    socket.set_read_timeout(Some(STOP_CHECK))?;
    Ok(socket)
}

/// Starts the listener's thread; the task ends when the thread does.
pub(super) fn spawn(
    listener: Arc<Listener>,
    socket: UdpSocket,
) -> Result<JoinHandle<Result<(), ListenError>>, ListenError> {
    let name = listener.settings.name.clone();
    // The kernel doubles what it is asked for, to account for its own structures.
    let obtained = getsockopt(&socket, sockopt::RcvBuf).unwrap_or(0) / 2;
    listener.gate.counters.receive_buffer_bytes.store(obtained as u64, Ordering::Relaxed);
    if obtained < listener.settings.limits.receive_buffer_bytes {
        tracing::warn!(
            listener = %name,
            wanted = listener.settings.limits.receive_buffer_bytes,
            obtained,
            "the kernel gave a smaller receive buffer: raise net.core.rmem_max",
        );
    }
    let (done, ended) = oneshot::channel();
    let thread_name = format!("udp-{name}");
    thread::Builder::new()
        .name(thread_name)
        .spawn(move || {
            // The receiver is gone only if nobody waits for this thread any more.
            let _ = done.send(Receiver::new(&listener, &socket).run());
        })
        .map_err(|_| ListenError::Thread { name: name.clone() })?;
    Ok(tokio::spawn(async move {
        match ended.await {
            Ok(result) => result,
            Err(_) => Err(ListenError::Thread { name }),
        }
    }))
}

struct Receiver<'a> {
    listener: &'a Listener,
    socket: &'a UdpSocket,
    /// Room for as many of the largest datagrams as one system call gives. Pages that no datagram
    /// reaches are never touched, and so take no memory.
    arena: Vec<u8>,
    peers: HashMap<SocketAddr, Arc<SourceTag>>,
    drops: Drops<'a>,
}

/// A datagram in the arena.
struct Datagram {
    bytes: usize,
    peer: SocketAddr,
}

impl<'a> Receiver<'a> {
    fn new(listener: &'a Listener, socket: &'a UdpSocket) -> Self {
        Self {
            listener,
            socket,
            arena: vec![0; DATAGRAMS * DATAGRAM_BYTES],
            peers: HashMap::new(),
            drops: Drops::new(listener, socket),
        }
    }

    fn run(mut self) -> Result<(), ListenError> {
        let mut checked = Instant::now();
        let mut stop_by = None;
        loop {
            let stopping = *self.listener.surroundings.shutdown.borrow();
            let received = self.receive(stopping).map_err(|errno| ListenError::Receive {
                name: self.listener.settings.name.clone(),
                source: errno.into(),
            })?;
            let stop_by =
                stopping.then(|| *stop_by.get_or_insert_with(|| Instant::now() + STOP_DRAIN));
            let done = stop_by.is_some_and(|by| received.is_empty() || Instant::now() >= by);
            if self.hand_over(&received).is_err() {
                return Ok(());
            }
            if done || checked.elapsed() >= DROPS_CHECK {
                checked = Instant::now();
                self.drops.poll();
                if self.drops.declare().is_err() || done {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for datagrams, or only takes what is there when stopping.
    fn receive(&mut self, stopping: bool) -> nix::Result<Vec<Datagram>> {
        // The kernel writes the lengths it used into the headers, so each call needs fresh ones.
        let mut headers =
            MultiHeaders::<SockaddrStorage>::preallocate(DATAGRAMS, Some(cmsg_space!(u32)));
        let mut slices: Vec<_> =
            self.arena.chunks_mut(DATAGRAM_BYTES).map(|room| [IoSliceMut::new(room)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE
            | if stopping { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        let results =
            match recvmmsg(self.socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
                Ok(results) => results,
                // Nothing came, or the kernel is short of memory for the moment.
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS) => {
                    return Ok(Vec::new());
                }
                Err(errno) => return Err(errno),
            };
        let mut datagrams = Vec::with_capacity(DATAGRAMS);
        for result in results {
            if let Ok(mut controls) = result.cmsgs()
                && let Some(ControlMessageOwned::RxqOvfl(drops)) = controls.next()
            {
                self.drops.observe(drops);
            }
            let peer = result.address.as_ref().and_then(socket_address).unwrap_or(UNKNOWN_PEER);
            datagrams.push(Datagram { bytes: result.bytes, peer });
        }
        Ok(datagrams)
    }

    /// Neighbours from one peer share a batch; their order stays.
    fn hand_over(&mut self, datagrams: &[Datagram]) -> Result<(), IntakeClosed> {
        if datagrams.is_empty() {
            return Ok(());
        }
        let received = self.listener.gate.clock.now();
        let mut rooms = self.arena.chunks(DATAGRAM_BYTES);
        for run in datagrams.chunk_by(|a, b| a.peer == b.peer) {
            let source = source_of(&mut self.peers, &self.listener.settings.name, run[0].peer);
            let mut batch = Batch::new(&self.listener.gate, source);
            for (datagram, room) in run.iter().zip(&mut rooms) {
                let raw = &room[..datagram.bytes];
                if raw.is_empty() {
                    add(&self.listener.gate.counters.empty_frames, 1);
                    continue;
                }
                let kept = raw.len().min(self.listener.settings.limits.message_bytes_max);
                let cut_from = (kept < raw.len()).then_some(raw.len() as u64);
                batch.push(&raw[..kept], received, cut_from);
            }
            if let Some(incoming) = batch.take() {
                let _waiting = Waiting::begin(&self.listener.gate.counters);
                self.listener.gate.intake.submit_blocking(incoming)?;
            }
        }
        Ok(())
    }
}

fn source_of(
    peers: &mut HashMap<SocketAddr, Arc<SourceTag>>,
    listener: &str,
    peer: SocketAddr,
) -> Arc<SourceTag> {
    if peers.len() >= PEERS_KEPT && !peers.contains_key(&peer) {
        peers.clear();
    }
    let tag = peers
        .entry(peer)
        .or_insert_with(|| Arc::new(SourceTag::new(listener, &peer_text(peer), None)));
    Arc::clone(tag)
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())))
}

/// The kernel names the peer of every datagram; this stands where it should not have.
const UNKNOWN_PEER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// Datagrams taken by one system call.
const DATAGRAMS: usize = 64;

/// No datagram is longer.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// Peers whose encoded names are remembered. Some clients use a new port for every message.
const PEERS_KEPT: usize = 1024;

/// How long the thread waits for a datagram before it looks whether to stop.
const STOP_CHECK: Duration = Duration::from_millis(200);

/// How long a stopping agent reads on what its kernel has already taken in.
const STOP_DRAIN: Duration = Duration::from_millis(250);

/// How often the kernel's count of dropped datagrams is read, and an increase declared.
const DROPS_CHECK: Duration = Duration::from_secs(1);
