//! The thread that receives: it checks each datagram's tag before anything else of it is looked at,
//! and puts the payloads of shards together for the thread that writes them.
//!
//! It never waits for a disk, as long as one of its batches is free. Where all wait, the kernel drops
//! what comes, and counts that.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use shared::diode::{LinkKey, Received, RunKeys, receive};

use super::link::{Follower, LinkCounters};
use super::object::Shard;

/// Payloads that came one after the other.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) shards: Vec<Shard>,
    /// Pages of the catalogue, in `bytes`.
    pub(super) pages: Vec<Range<usize>>,
}

/// The payloads of one batch, in bytes.
pub(super) const BATCH_BYTES: usize = 512 * 1024;
/// Batches that wait for the disk at most: 24 MiB, 80 ms of 300 MB a second.
pub(super) const BATCHES: usize = 48;
/// Messages taken by one call, each of up to 64 KiB where the kernel joins datagrams.
const MESSAGES: usize = 32;
const MESSAGE_BYTES: usize = 64 * 1024;
/// How long a call waits: how long a stop, or half a batch behind a busy disk, may wait.
const TIMEOUT_MS: i64 = 20;
/// Pages of the catalogue in one batch; a sender sends few.
const PAGES_MAX: usize = 64;

impl Batch {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::with_capacity(BATCH_BYTES), shards: Vec::new(), pages: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.shards.clear();
        self.pages.clear();
    }

    fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.pages.is_empty()
    }
}

/// Binds the socket, with as large a buffer as it may have.
pub(super) fn bind(to: SocketAddr, buffer_bytes: usize) -> io::Result<(UdpSocket, usize)> {
    let socket = UdpSocket::bind(to)?;
    // Beyond net.core.rmem_max, where we may; else as much as that allows.
    if setsockopt(&socket, sockopt::RcvBufForce, &buffer_bytes).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &buffer_bytes)?;
    }
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(TIMEOUT_MS))?;
    // Older kernels join no datagrams and count no drops: then each comes alone.
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    let _ = setsockopt(&socket, sockopt::RxqOvfl, &1);
    let got = nix::sys::socket::getsockopt(&socket, sockopt::RcvBuf)?;
    Ok((socket, got))
}

/// What the thread works with.
pub(super) struct Intake<'a> {
    pub(super) socket: &'a UdpSocket,
    pub(super) key: &'a LinkKey,
    pub(super) counters: &'a LinkCounters,
    /// Batches to fill.
    pub(super) free: Receiver<Batch>,
    /// Filled ones.
    pub(super) full: SyncSender<Batch>,
    /// How many filled ones wait.
    pub(super) waiting: &'a AtomicUsize,
}

impl Intake<'_> {
    /// Receives until told to stop, or until nobody takes what came.
    pub(super) fn run(self, stopping: &dyn Fn() -> bool) -> io::Result<()> {
        let mut arena = vec![0_u8; MESSAGES * MESSAGE_BYTES];
        let mut follower = Follower::new();
        let mut keys = RunKeys::new(self.key.clone());
        let mut lengths: Vec<(usize, usize)> = Vec::with_capacity(MESSAGES);
        let Ok(mut batch) = self.free.recv() else { return Ok(()) };
        while !stopping() {
            lengths.clear();
            match self.take(&mut arena, &mut lengths) {
                Ok(()) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                // What an earlier packet met comes back as an error; the socket goes on.
                Err(
                    Errno::ECONNREFUSED
                    | Errno::ENOMEM
                    | Errno::ENOBUFS
                    | Errno::EHOSTUNREACH
                    | Errno::ENETUNREACH
                    | Errno::ENETDOWN,
                ) => {
                    self.counters.failures.fetch_add(1, Ordering::Relaxed);
                }
                Err(err) => return Err(err.into()),
            }
            for (at, (length, step)) in lengths.iter().enumerate() {
                let message = &arena[at * MESSAGE_BYTES..][..(*length).min(MESSAGE_BYTES)];
                for datagram in message.chunks((*step).max(1)) {
                    let full = batch.bytes.len() + datagram.len() > BATCH_BYTES;
                    if full && !self.hand_on(&mut batch) {
                        return Ok(());
                    }
                    self.sort(datagram, &mut keys, &mut follower, &mut batch);
                }
            }
            let idle = self.waiting.load(Ordering::Relaxed) == 0;
            if !batch.is_empty() && (idle || lengths.is_empty()) && !self.hand_on(&mut batch) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One call: the length of each message, and of the datagrams it was joined from.
    fn take(&self, arena: &mut [u8], lengths: &mut Vec<(usize, usize)>) -> Result<(), Errno> {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            arena.chunks_mut(MESSAGE_BYTES).map(|chunk| [IoSliceMut::new(chunk)]).collect();
        // Made for each call: a call leaves in them how much room its messages took, and the next one
        // would have no more than that for the size of the datagrams that were joined.
        let mut headers: MultiHeaders<SockaddrStorage> =
            MultiHeaders::preallocate(slices.len(), Some(nix::cmsg_space!(i32, u32)));
        let flags = MsgFlags::MSG_WAITFORONE;
        let fd = self.socket.as_raw_fd();
        for message in recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None)? {
            let mut step = message.bytes;
            for control in message.cmsgs().into_iter().flatten() {
                match control {
                    ControlMessageOwned::UdpGroSegments(bytes) => {
                        step = usize::try_from(bytes).unwrap_or(step);
                    }
                    ControlMessageOwned::RxqOvfl(drops) => {
                        self.counters.socket_drops.fetch_max(u64::from(drops), Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
            lengths.push((message.bytes, step));
        }
        Ok(())
    }

    fn sort(
        &self,
        datagram: &[u8],
        keys: &mut RunKeys,
        follower: &mut Follower,
        batch: &mut Batch,
    ) {
        match receive(keys, datagram) {
            Err(error) => self.counters.count_error(error),
            Ok((stamp, received)) => {
                if !follower.note(stamp, self.counters) {
                    return;
                }
                self.counters.received.fetch_add(1, Ordering::Relaxed);
                self.counters.received_bytes.fetch_add(datagram.len() as u64, Ordering::Relaxed);
                let from = batch.bytes.len();
                match received {
                    Received::Shard(header, payload) => {
                        batch.bytes.extend_from_slice(payload);
                        let payload = from..batch.bytes.len();
                        batch.shards.push(Shard { header, payload });
                    }
                    Received::Catalogue(page) => {
                        if batch.pages.len() < PAGES_MAX {
                            batch.bytes.extend_from_slice(page);
                            batch.pages.push(from..batch.bytes.len());
                        }
                    }
                }
            }
        }
    }

    /// Hands a batch on and takes a free one; false where nobody is there any more.
    fn hand_on(&self, batch: &mut Batch) -> bool {
        let free = match self.free.try_recv() {
            Ok(free) => free,
            Err(TryRecvError::Disconnected) => return false,
            Err(TryRecvError::Empty) => {
                self.counters.stalls.fetch_add(1, Ordering::Relaxed);
                let Ok(free) = self.free.recv() else { return false };
                free
            }
        };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.full.send(std::mem::replace(batch, free)).is_ok()
    }
}
