//! The socket: datagrams go out in trains that the kernel or the network card takes apart, or one by
//! one where neither does.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, sendmsg, setsockopt, sockopt,
};
use shared::diode::{LinkKey, RunKey, ShardHeader, write_catalogue, write_shard};

use super::pacer::Pacer;

/// Datagrams of one size, and perhaps a shorter last one.
#[derive(Debug, Default)]
struct Train {
    bytes: Vec<u8>,
    size: usize,
    count: usize,
    closed: bool,
}

/// What datagrams go out on: a link, or something that only looks at them.
pub(super) trait Wire {
    /// Puts a shard's datagram on it.
    fn push_shard(&mut self, shard: &ShardHeader, payload: &[u8], stopping: &dyn Fn() -> bool);
}

/// A link on which datagrams go out.
#[derive(Debug)]
pub(super) struct Link {
    socket: UdpSocket,
    to: SockaddrStorage,
    id: u64,
    key: RunKey,
    /// The number of the next datagram in this run.
    sequence: u64,
    pacer: Pacer,
    train: Train,
    train_bytes_max: usize,
    /// What IP and UDP add to each datagram.
    packet_overhead: usize,
    segments: bool,
    pub(super) counters: LinkCounters,
    /// What sending fails of at present.
    pub(super) trouble: Option<String>,
}

/// What went out since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkCounters {
    /// Datagrams.
    pub(super) datagrams: u64,
    /// Their bytes, with what IP and UDP add.
    pub(super) bytes: u64,
    /// Tries that failed.
    pub(super) failures: u64,
    /// Trains given up at the stop.
    pub(super) given_up: u64,
}

/// The kernel takes at most 64 datagrams, and 64 KiB with headers, for a train.
const TRAIN_DATAGRAMS: usize = 64;
const TRAIN_BYTES: usize = 64_000;
/// No train is longer than this at the link's rate: what is urgent waits for one at most.
const TRAIN_TIME: Duration = Duration::from_millis(5);
/// After a failure, how long until the same train is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// How much the kernel may hold of what was sent, in bytes.
const SEND_BUFFER: usize = 4 << 20;

impl Link {
    pub(super) fn open(
        to: SocketAddr,
        bind: Option<SocketAddr>,
        key: &LinkKey,
        bits_per_sec: u64,
        run: u64,
        now: Instant,
    ) -> std::io::Result<Self> {
        let any: SocketAddr =
            if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(bind.unwrap_or(any))?;
        // As much as net.core.wmem_max allows.
        let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER);
        let rate = (bits_per_sec / 8) as usize;
        let timely = rate.saturating_mul(TRAIN_TIME.as_millis() as usize) / 1000;
        Ok(Self {
            socket,
            to: to.into(),
            id: key.id(),
            key: key.of_run(run),
            sequence: 0,
            pacer: Pacer::new(bits_per_sec, now),
            train: Train::default(),
            train_bytes_max: timely.clamp(1500, TRAIN_BYTES),
            packet_overhead: packet_overhead(to),
            segments: true,
            counters: LinkCounters::default(),
            trouble: None,
        })
    }

    /// Puts a page of the catalogue into the train.
    pub(super) fn push_page(&mut self, page: &[u8], stopping: &dyn Fn() -> bool) {
        self.make_room(page.len() + shared::diode::OVERHEAD_BYTES, stopping);
        write_catalogue(&mut self.train.bytes, (self.id, &self.key), self.sequence, page);
        self.pushed(page.len() + shared::diode::OVERHEAD_BYTES);
    }

    fn make_room(&mut self, length: usize, stopping: &dyn Fn() -> bool) {
        let train = &self.train;
        let fits = train.count == 0
            || (!train.closed
                && length <= train.size
                && train.count < TRAIN_DATAGRAMS
                && train.bytes.len() + length <= self.train_bytes_max);
        if !fits {
            self.flush(stopping);
        }
    }

    fn pushed(&mut self, length: usize) {
        self.sequence += 1;
        let train = &mut self.train;
        if train.count == 0 {
            train.size = length;
        }
        train.closed = length < train.size;
        train.count += 1;
    }

    /// Sends what is in the train, when its time has come. No failure ends this: it is tried again
    /// until it goes out, or until the stop.
    pub(super) fn flush(&mut self, stopping: &dyn Fn() -> bool) {
        if self.train.count == 0 {
            return;
        }
        loop {
            let wait = self.pacer.wait(Instant::now());
            if wait.is_zero() {
                break;
            }
            std::thread::sleep(wait);
        }
        let bytes = self.train.bytes.len() + self.train.count * self.packet_overhead;
        loop {
            match self.send() {
                Ok(()) => {
                    self.trouble = None;
                    self.counters.datagrams += self.train.count as u64;
                    self.counters.bytes += bytes as u64;
                    break;
                }
                Err(Errno::EINTR) => {}
                Err(err) => {
                    self.counters.failures += 1;
                    if self.trouble.is_none() {
                        // The status can't say so before something is sent again.
                        tracing::warn!(%err, "datagrams can't be sent; it is tried again until they can");
                    }
                    self.trouble = Some(format!("udp: {}", std::io::Error::from(err)));
                    if stopping() {
                        self.counters.given_up += 1;
                        break;
                    }
                    std::thread::sleep(RETRY);
                }
            }
        }
        self.pacer.spent(bytes, Instant::now());
        self.train.bytes.clear();
        self.train.count = 0;
        self.train.closed = false;
    }

    fn send(&mut self) -> Result<(), Errno> {
        let fd = self.socket.as_raw_fd();
        let train = &self.train;
        if self.segments && train.count > 1 {
            let size = u16::try_from(train.size).unwrap_or(u16::MAX);
            let control = [ControlMessage::UdpGsoSegments(&size)];
            let slices = [IoSlice::new(&train.bytes)];
            match sendmsg(fd, &slices, &control, MsgFlags::empty(), Some(&self.to)) {
                Ok(_) => return Ok(()),
                // The kernel or the card can't take trains apart, or the path is narrower than `mtu`.
                Err(
                    Errno::EINVAL
                    | Errno::EIO
                    | Errno::EOPNOTSUPP
                    | Errno::ENOPROTOOPT
                    | Errno::EMSGSIZE,
                ) => {
                    tracing::info!("datagrams go out one by one: this system takes no trains");
                    self.segments = false;
                }
                Err(err) => return Err(err),
            }
        }
        self.send_each(fd)
    }

    fn send_each(&self, fd: std::os::fd::RawFd) -> Result<(), Errno> {
        let train = &self.train;
        let slices: Vec<[IoSlice<'_>; 1]> = train
            .bytes
            .chunks(train.size.max(1))
            .map(|datagram| [IoSlice::new(datagram)])
            .collect();
        let addresses = vec![Some(self.to); slices.len()];
        let mut sent = 0;
        while sent < slices.len() {
            let mut headers = MultiHeaders::preallocate(slices.len() - sent, None);
            let rest = (&slices[sent..], &addresses[sent..]);
            let results = sendmmsg(fd, &mut headers, rest.0, rest.1, [], MsgFlags::empty());
            match results {
                Ok(results) => sent += results.count().max(1),
                Err(Errno::EINTR) => {}
                Err(err) if sent == 0 => return Err(err),
                // What could not go out behind others is lost, as it may be anywhere on the way.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

impl Wire for Link {
    /// Puts a shard's datagram into the train; sends what must go out before.
    fn push_shard(&mut self, shard: &ShardHeader, payload: &[u8], stopping: &dyn Fn() -> bool) {
        self.make_room(payload.len() + shared::diode::OVERHEAD_BYTES, stopping);
        let key = (self.id, &self.key);
        write_shard(&mut self.train.bytes, key, self.sequence, shard, payload);
        self.pushed(payload.len() + shared::diode::OVERHEAD_BYTES);
    }
}

/// What IP and UDP add to a datagram, in bytes.
pub(super) fn packet_overhead(to: SocketAddr) -> usize {
    if to.is_ipv4() { 28 } else { 48 }
}
