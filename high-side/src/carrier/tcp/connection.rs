//! The wire: a TCP connection that never reads anything of meaning, or a socket for datagrams.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// An open way to the proxy, and how much went into it.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    /// Bytes that were written since it was opened.
    pub(super) written: u64,
    /// When the peer last took a byte.
    pub(super) moved: Instant,
}

#[derive(Debug)]
enum Socket {
    Datagrams(UdpSocket),
    Stream { stream: TcpStream, inode: Option<u64>, table: &'static str },
}

/// How much of a write was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Took {
    /// So many bytes, perhaps none in this time.
    Bytes(usize),
}

impl Wire {
    /// Connects, to the first address of the name that answers.
    pub(super) fn connect(address: &str) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return Self::of(stream, &address),
                Err(err) => last = err,
            }
        }
        Err(last)
    }

    fn of(stream: TcpStream, address: &SocketAddr) -> io::Result<Self> {
        stream.set_write_timeout(Some(TICK))?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        // An urgent bundle may be smaller than a segment.
        stream.set_nodelay(true)?;
        let inode = inode(&stream);
        let table = if address.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
        Ok(Self {
            socket: Socket::Stream { stream, inode, table },
            written: 0,
            moved: Instant::now(),
        })
    }

    /// A socket for datagrams to an address.
    pub(super) fn datagrams(address: &str) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in address.to_socket_addrs()? {
            let any: SocketAddr =
                if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
            let connected = UdpSocket::bind(any).and_then(|socket| {
                socket.connect(address)?;
                socket.set_write_timeout(Some(TICK))?;
                Ok(socket)
            });
            match connected {
                Ok(socket) => {
                    let socket = Socket::Datagrams(socket);
                    return Ok(Self { socket, written: 0, moved: Instant::now() });
                }
                Err(err) => last = err,
            }
        }
        Err(last)
    }

    /// Writes what is taken within a short time.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Took> {
        let written = match &mut self.socket {
            Socket::Datagrams(socket) => socket.send(bytes),
            Socket::Stream { stream, .. } => stream.write(bytes),
        };
        match written {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                self.written += count as u64;
                self.moved = Instant::now();
                Ok(Took::Bytes(count))
            }
            Err(err) if is_pause(&err) => Ok(Took::Bytes(0)),
            Err(err) => Err(err),
        }
    }

    /// How much of what was written the kernel has handed on; `None` where it does not say.
    ///
    /// For TCP that is what the peer's kernel has acknowledged. For datagrams, what left.
    pub(super) fn handed_on(&self) -> Option<u64> {
        match &self.socket {
            Socket::Datagrams(_) => Some(self.written),
            Socket::Stream { inode, table, .. } => {
                let table = fs::read_to_string(table).ok()?;
                let queued = queued_of(&table, (*inode)?)?;
                Some(self.written.saturating_sub(queued))
            }
        }
    }

    /// Whether the peer has closed its side: whatever is written then is for nobody.
    pub(super) fn is_closed_by_peer(&self) -> bool {
        let Socket::Stream { stream, .. } = &self.socket else { return false };
        if stream.set_nonblocking(true).is_err() {
            return true;
        }
        let closed = match stream.peek(&mut [0]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(err) => !is_pause(&err),
        };
        stream.set_nonblocking(false).is_err() || closed
    }

    /// Closes in order: everything goes out, and the peer closes in turn within a short time. True
    /// if it did: then it has taken all of it.
    pub(super) fn close(mut self) -> bool {
        let Socket::Stream { stream, .. } = &mut self.socket else { return true };
        if stream.shutdown(Shutdown::Write).is_err() {
            return false;
        }
        // The peer has nothing to say. What it says all the same is passed over, but has an end.
        let mut buffer = [0; 4096];
        for _ in 0..UNASKED_READS_MAX {
            match stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    }
}

fn is_pause(err: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(err.kind(), WouldBlock | TimedOut | Interrupted)
}

fn inode(socket: &TcpStream) -> Option<u64> {
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(socket));
    fs::metadata(link).ok().map(|meta| meta.ino())
}

/// The bytes in a socket's send queue, from the kernel's table.
fn queued_of(table: &str, inode: u64) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.get(9)?.parse() != Ok(inode) {
            return None;
        }
        u64::from_str_radix(fields.get(4)?.split(':').next()?, 16).ok()
    })
}

/// How soon a stop or a stall is seen.
pub(super) const TICK: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take to close after we did.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const UNASKED_READS_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernel_says_what_it_has_not_handed_on() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut wire = Wire::connect(&listener.local_addr()?.to_string())?;
        let (mut peer, _) = listener.accept()?;
        assert_eq!(wire.handed_on(), Some(0));
        // Nobody reads: in the end some of it stays in our queue.
        let chunk = vec![0; 1 << 20];
        while wire.write(&chunk)? != Took::Bytes(0) {}
        let (written, handed_on) = (wire.written, wire.handed_on());
        assert!(handed_on.is_some_and(|bytes| bytes < written), "{handed_on:?} of {written}");
        let mut left = written;
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            left -= peer.read(&mut buffer)? as u64;
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while wire.handed_on() != Some(written) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(!wire.is_closed_by_peer());
        drop(peer);
        while !wire.is_closed_by_peer() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(wire.close());
        Ok(())
    }

    #[test]
    fn a_line_of_the_kernels_table_is_understood() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:1F90 0100007F:8D2A 01 0000001C:00000000 01:00000014 00000000     0        0 4711 2 0000 20 4 30 10 -1\n";
        assert_eq!(queued_of(table, 4711), Some(0x1c));
        assert_eq!(queued_of(table, 1), None);
    }
}
