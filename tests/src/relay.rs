//! A relay for datagrams in one direction, which does to them what an [`Impairment`] says.
//!
//! It reads many datagrams a system call, in trains where the kernel joins them (UDP GRO), decides
//! about each datagram by itself, and sends the survivors in trains again (UDP GSO): loss never takes
//! a whole train, and the relay keeps up with a link of some hundred megabytes a second. Nothing is
//! ever read from the side that it sends to.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, recvmmsg, sendmsg, setsockopt,
    sockopt,
};

use crate::impair::{Harm, Impairment, Link};

/// A running relay. Dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    from: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What the link shall do from now on.
    change: Option<Impairment>,
    stop: bool,
    counts: Counts,
}

/// What a relay has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// What the link did.
    pub harm: Harm,
    /// Datagrams, or trains of them, that the relay was too slow for: the kernel dropped them.
    pub overrun: u64,
    /// Datagrams that could not be sent on.
    pub unsent: u64,
}

impl Relay {
    /// Relays what comes to `from` to `to`, from now until it is dropped.
    pub fn start(
        from: SocketAddr,
        to: SocketAddr,
        impairment: Impairment,
        seed: u64,
    ) -> io::Result<Self> {
        let incoming = UdpSocket::bind(from)?;
        enlarge(&incoming, Direction::Receive);
        setsockopt(&incoming, sockopt::RxqOvfl, &1)?;
        // Without it the kernel cuts trains into datagrams itself, and the relay is slower.
        let _ = setsockopt(&incoming, sockopt::UdpGroSegment, &true);
        incoming.set_read_timeout(Some(IDLE))?;
        let any: SocketAddr = if to.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let outgoing = UdpSocket::bind(any)?;
        enlarge(&outgoing, Direction::Send);
        outgoing.connect(to)?;
        let from = incoming.local_addr()?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let pump = Pump {
            incoming,
            out: Outgoing::new(outgoing),
            link: Link::new(impairment, seed),
            begun: Instant::now(),
            overrun: 0,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new().name("relay".to_owned());
        let thread = Some(thread.spawn(move || pump.run())?);
        Ok(Self { from, shared, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.from
    }

    /// From now on the link does this.
    pub fn change(&self, impairment: Impairment) {
        lock(&self.shared).change = Some(impairment);
    }

    /// What it has done up to now.
    pub fn counts(&self) -> Counts {
        lock(&self.shared).counts
    }

    /// Stops it and gives what it did.
    pub fn stop(mut self) -> Counts {
        self.end();
        self.counts()
    }

    fn end(&mut self) {
        lock(&self.shared).stop = true;
        if let Some(thread) = self.thread.take() {
            // A panic of the relay was printed by its thread.
            let _ = thread.join();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy)]
enum Direction {
    Receive,
    Send,
}

/// Asks for a large buffer; where the kernel gives less, the relay counts what it loses.
fn enlarge(socket: &UdpSocket, direction: Direction) {
    let _ = match direction {
        // The first needs a privilege; the second gives as much as net.core.*mem_max allows.
        Direction::Receive => setsockopt(socket, sockopt::RcvBufForce, &BUFFER_BYTES)
            .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &BUFFER_BYTES)),
        Direction::Send => setsockopt(socket, sockopt::SndBufForce, &BUFFER_BYTES)
            .or_else(|_| setsockopt(socket, sockopt::SndBuf, &BUFFER_BYTES)),
    };
}

struct Pump {
    incoming: UdpSocket,
    out: Outgoing,
    link: Link,
    begun: Instant,
    overrun: u32,
    shared: Arc<Mutex<Shared>>,
}

impl Pump {
    fn run(mut self) {
        let mut arena = vec![0; TRAINS * TRAIN_BYTES];
        loop {
            let trains = match self.receive(&mut arena) {
                Ok(trains) => trains,
                Err(err) => {
                    eprintln!("relay: {err}");
                    return;
                }
            };
            let at = self.begun.elapsed();
            let (link, out) = (&mut self.link, &mut self.out);
            let mut deliver = |datagram: &[u8]| out.push(datagram);
            for (train, room) in trains.iter().zip(arena.chunks(TRAIN_BYTES)) {
                for datagram in room[..train.bytes].chunks(train.segment) {
                    link.offer(at, datagram, &mut deliver);
                }
            }
            if trains.is_empty() {
                // Nothing follows that could overtake what is held back.
                link.flush(&mut deliver);
            }
            out.send();
            let mut shared = lock(&self.shared);
            shared.counts = Counts {
                harm: self.link.harm(),
                overrun: u64::from(self.overrun),
                unsent: self.out.unsent,
            };
            if let Some(impairment) = shared.change.take() {
                self.link.change(impairment);
            }
            if shared.stop {
                return;
            }
        }
    }

    /// Waits a moment for trains.
    fn receive(&mut self, arena: &mut [u8]) -> io::Result<Vec<Train>> {
        // The kernel writes the lengths it used into the headers, so each call needs fresh ones.
        let mut headers = MultiHeaders::<()>::preallocate(TRAINS, Some(cmsg_space!(u32, i32)));
        let mut slices: Vec<_> =
            arena.chunks_mut(TRAIN_BYTES).map(|room| [IoSliceMut::new(room)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let fd = self.incoming.as_raw_fd();
        let results = match recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None) {
            Ok(results) => results,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS) => {
                return Ok(Vec::new());
            }
            Err(errno) => return Err(errno.into()),
        };
        let mut trains = Vec::with_capacity(TRAINS);
        for result in results {
            let mut segment = result.bytes;
            for control in result.cmsgs().into_iter().flatten() {
                match control {
                    ControlMessageOwned::RxqOvfl(drops) => self.overrun = drops,
                    ControlMessageOwned::UdpGroSegments(bytes) => {
                        segment = usize::try_from(bytes).unwrap_or(segment);
                    }
                    _ => {}
                }
            }
            // An empty datagram is nothing to any protocol that this relay stands between.
            trains.push(Train { bytes: result.bytes, segment: segment.max(1) });
        }
        Ok(trains)
    }
}

/// What one buffer of a system call holds: datagrams of equal length, of which the last may be shorter.
struct Train {
    bytes: usize,
    segment: usize,
}

/// Gathers datagrams of equal length, and sends them in one call.
struct Outgoing {
    socket: UdpSocket,
    bytes: Vec<u8>,
    segment: usize,
    segments: usize,
    /// A shorter datagram ends its train.
    ended: bool,
    unsent: u64,
}

impl Outgoing {
    fn new(socket: UdpSocket) -> Self {
        let bytes = Vec::with_capacity(TRAIN_BYTES);
        Self { socket, bytes, segment: 0, segments: 0, ended: false, unsent: 0 }
    }

    fn push(&mut self, datagram: &[u8]) {
        let full =
            self.segments == SEGMENTS_MAX || self.bytes.len() + datagram.len() > TRAIN_SENT_BYTES;
        if full || self.ended || datagram.len() > self.segment {
            self.send();
        }
        if self.segments == 0 {
            self.segment = datagram.len();
        }
        self.bytes.extend_from_slice(datagram);
        self.segments += 1;
        self.ended = datagram.len() < self.segment || datagram.is_empty();
    }

    fn send(&mut self) {
        if self.segments > 1 && self.send_train().is_ok() {
            self.clear();
            return;
        }
        if self.segments > 0 {
            // A train that the kernel refuses (no GSO, or datagrams longer than the MTU) goes singly.
            for datagram in self.bytes.chunks(self.segment.max(1)) {
                let sent = self.socket.send(datagram).or_else(|_| self.socket.send(datagram));
                self.unsent += u64::from(sent.is_err());
            }
        }
        self.clear();
    }

    fn send_train(&self) -> nix::Result<usize> {
        let segment = u16::try_from(self.segment).map_err(|_| Errno::EMSGSIZE)?;
        let controls = [ControlMessage::UdpGsoSegments(&segment)];
        let train = [IoSlice::new(&self.bytes)];
        let send = || {
            let fd = self.socket.as_raw_fd();
            sendmsg::<()>(fd, &train, &controls, MsgFlags::empty(), None)
        };
        // A receiver that was absent a moment ago makes the next call fail, and no more than that one.
        send().or_else(|errno| if errno == Errno::ECONNREFUSED { send() } else { Err(errno) })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.segment = 0;
        self.segments = 0;
        self.ended = false;
    }
}

/// A tenth of a second at 300 MB/s.
const BUFFER_BYTES: usize = 32 << 20;

/// Trains taken by one system call.
const TRAINS: usize = 16;

/// No train is longer.
const TRAIN_BYTES: usize = 64 * 1024;

/// The most payload that one call may send, with room for the headers in 64 KiB.
const TRAIN_SENT_BYTES: usize = 65_000;

/// The most datagrams in a train (`UDP_MAX_SEGMENTS` of older kernels).
const SEGMENTS_MAX: usize = 64;

/// How long nothing must come until what is held back goes out.
const IDLE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{PATIENCE, wait_until};

    fn local() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        enlarge(&socket, Direction::Receive);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    fn relay(impairment: Impairment) -> (Relay, UdpSocket, UdpSocket) {
        let (receiver, to) = local();
        let relay = Relay::start((Ipv4Addr::LOCALHOST, 0).into(), to, impairment, 1).unwrap();
        let (sender, _) = local();
        sender.connect(relay.address()).unwrap();
        (relay, sender, receiver)
    }

    #[test]
    fn datagrams_of_any_length_come_out_as_they_went_in() {
        let (relay, sender, receiver) = relay(Impairment::default());
        let mut seed = crate::seed::Seed::new(4);
        let mut room = [0; 4096];
        for round in 0..200_u64 {
            let length = 1 + seed.below(if round.is_multiple_of(2) { 1400 } else { 2000 });
            let datagram: Vec<u8> = (0..length).map(|_| seed.next_u64() as u8).collect();
            sender.send(&datagram).unwrap();
            let bytes = receiver.recv(&mut room).unwrap();
            assert_eq!(&room[..bytes], &datagram[..]);
        }
        assert_eq!(relay.stop().harm.delivered, 200);
    }

    #[test]
    fn a_train_loses_single_datagrams() {
        let (relay, sender, receiver) = relay(Impairment::losing(0.2));
        let mut out = Outgoing::new(sender);
        let mut room = [0; 4096];
        let (mut arrived, mut trains) = (0, [0; 40]);
        for train in 0..40_u8 {
            for car in 0..50_u8 {
                let mut datagram = [0; 1000];
                datagram[..2].copy_from_slice(&[train, car]);
                out.push(&datagram);
            }
            out.send();
            // One train after the other, so that small socket buffers don't run over.
            let offered = u64::from(train + 1) * 50;
            wait_until(PATIENCE, "train in the relay", || relay.counts().harm.offered == offered);
            while arrived < relay.counts().harm.delivered {
                assert_eq!(receiver.recv(&mut room).unwrap(), 1000);
                trains[usize::from(room[0])] += 1;
                arrived += 1;
            }
        }
        let counts = relay.stop();
        assert_eq!((counts.overrun, counts.unsent), (0, 0));
        assert!((200..600).contains(&counts.harm.lost), "{counts:?}");
        assert!(trains.iter().all(|cars| (1..50).contains(cars)), "{trains:?}");
    }

    #[test]
    fn a_link_can_die_and_come_back() {
        let (relay, sender, receiver) = relay(Impairment::dead());
        sender.send(b"lost").unwrap();
        wait_until(PATIENCE, "loss", || relay.counts().harm.lost == 1);
        relay.change(Impairment::default());
        let mut room = [0; 16];
        receiver.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        // The change holds from the batch after the one that is under way.
        wait_until(PATIENCE, "datagram after the change", || {
            sender.send(b"after").unwrap();
            receiver.recv(&mut room).is_ok()
        });
        assert_eq!(&room[..5], b"after");
    }
}
