//! What the kernel tells about the network: sockets, counters, queues, neighbours, interfaces.
//!
//! Reading is kept apart from understanding: every parser takes text and can be tested with what
//! kernels really print. What a kernel does not tell is `None`, never a guess.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;

use nix::ifaddrs::getifaddrs;

/// A UDP socket as `/proc/net/udp` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundSocket {
    /// Where it is bound.
    pub address: SocketAddr,
    /// Bytes that wait to be read, with what the kernel adds for itself.
    pub queued_bytes: u64,
    /// Datagrams that were dropped since its receive buffer was full, since it was opened.
    pub drops: u64,
}

/// The UDP counters of the network namespace, over all sockets, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounts {
    /// Datagrams to ports that nobody listened at: each is answered by an ICMP message.
    pub no_ports: u64,
    /// Datagrams dropped since a receive buffer was full.
    pub rcvbuf_errors: u64,
    /// Datagrams that could not be queued for sending.
    pub sndbuf_errors: u64,
    /// Datagrams with a wrong checksum.
    pub csum_errors: u64,
}

/// What became of packets between the interface and the sockets, over all processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Packets dropped since the queue of a processor was full.
    pub dropped: u64,
    /// Times that a processor ended its turn with packets left.
    pub squeezed: u64,
}

/// An entry of the ARP table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The hardware address; zeros while it is being asked for.
    pub mac: String,
    /// Whether it stays without being asked for.
    pub permanent: bool,
    /// The interface it is reached by.
    pub interface: String,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The longest packet, in bytes.
    pub mtu: Option<u64>,
    /// In Mbit/s, where it has one and is up.
    pub speed_mbit: Option<u64>,
    /// Packets the hardware dropped since its ring was full.
    pub rx_missed: u64,
    /// Packets that arrived damaged.
    pub rx_damaged: u64,
    /// Packets that came in.
    pub rx_packets: u64,
    /// Packets that could not be sent.
    pub tx_dropped: u64,
    /// The receive ring, as `ethtool -g` tells it.
    pub ring: Option<Ring>,
}

impl Interface {
    /// Whether it leads nowhere but to this machine.
    pub fn is_loopback(&self) -> bool {
        self.name == "lo"
    }
}

/// The size of a receive ring, in packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// As it is.
    pub current: u64,
    /// As large as the hardware allows.
    pub most: u64,
}

/// Where the kernel tells it; another place in tests.
#[derive(Clone, Debug)]
pub struct Machine {
    proc: PathBuf,
    sys: PathBuf,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into() }
    }

    /// A number under `/proc/sys`, as `net/core/rmem_max`.
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        self.read_proc(&format!("sys/{name}"))?.trim().parse().ok()
    }

    /// The UDP socket that is bound to an address, or to its port on every address.
    pub fn udp_socket(&self, address: SocketAddr) -> Option<BoundSocket> {
        let tables = ["net/udp", "net/udp6"].map(|table| self.read_proc(table).unwrap_or_default());
        let sockets: Vec<_> = tables.iter().flat_map(|table| udp_sockets(table)).collect();
        let exactly = sockets.iter().find(|socket| socket.address == address);
        let anywhere = |socket: &&BoundSocket| {
            socket.address.port() == address.port() && socket.address.ip().is_unspecified()
        };
        exactly.or_else(|| sockets.iter().find(anywhere)).copied()
    }

    /// The UDP counters.
    pub fn udp_counts(&self) -> Option<UdpCounts> {
        udp_counts(&self.read_proc("net/snmp")?)
    }

    /// The queues between interface and sockets.
    pub fn backlog(&self) -> Option<Backlog> {
        backlog(&self.read_proc("net/softnet_stat")?)
    }

    /// The ARP entry of an address.
    pub fn neighbour(&self, address: IpAddr) -> Option<Neighbour> {
        neighbour(&self.read_proc("net/arp")?, address)
    }

    /// An interface by its name.
    pub fn interface(&self, name: &str) -> Option<Interface> {
        // A name from the kernel has no slash, and one from elsewhere shall not lead elsewhere.
        let dir = self.sys.join("class/net").join(name);
        if name.contains('/') || !dir.is_dir() {
            return None;
        }
        let number = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok();
        let count = |file: &str| number(&format!("statistics/{file}")).unwrap_or(0);
        let damaged = ["rx_crc_errors", "rx_frame_errors", "rx_length_errors"];
        Some(Interface {
            name: name.to_owned(),
            mtu: number("mtu"),
            // An interface that is down says -1, which is no number here.
            speed_mbit: number("speed").filter(|speed| *speed > 0),
            rx_missed: count("rx_missed_errors") + count("rx_fifo_errors"),
            rx_damaged: damaged.iter().map(|file| count(file)).sum(),
            rx_packets: count("rx_packets"),
            tx_dropped: count("tx_dropped"),
            ring: ring_of(name),
        })
    }

    fn read_proc(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.proc.join(name)).ok()
    }
}

/// The interface that has this address, and whether `other` lies in the network behind it.
pub fn interface_of(address: IpAddr, other: Option<IpAddr>) -> Option<(String, bool)> {
    let interfaces = getifaddrs().ok()?;
    interfaces
        .filter_map(|entry| Some((entry.interface_name, entry.address?, entry.netmask)))
        .find_map(|(name, own, mask)| {
            let ip = |storage: &nix::sys::socket::SockaddrStorage| {
                storage
                    .as_sockaddr_in()
                    .map(|v4| IpAddr::V4(v4.ip()))
                    .or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            };
            let own = ip(&own)?;
            let direct = match (other, mask.as_ref().and_then(ip)) {
                (Some(other), Some(mask)) => same_network(own, other, mask),
                _ => true,
            };
            (own == address).then_some((name, direct))
        })
}

/// The address that this machine would send from; asks the routing table and sends nothing.
pub fn source_for(to: SocketAddr, bind: Option<SocketAddr>) -> std::io::Result<IpAddr> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // The port of a running agent is taken.
    let bind = bind.map_or(any, |bind| SocketAddr::new(bind.ip(), 0));
    let socket = UdpSocket::bind(bind)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

fn same_network(own: IpAddr, other: IpAddr, mask: IpAddr) -> bool {
    match (own, other, mask) {
        (IpAddr::V4(own), IpAddr::V4(other), IpAddr::V4(mask)) => {
            own.to_bits() & mask.to_bits() == other.to_bits() & mask.to_bits()
        }
        (IpAddr::V6(own), IpAddr::V6(other), IpAddr::V6(mask)) => {
            own.to_bits() & mask.to_bits() == other.to_bits() & mask.to_bits()
        }
        _ => false,
    }
}

/// Every socket in a table `/proc/net/udp` or `udp6`.
fn udp_sockets(table: &str) -> Vec<BoundSocket> {
    table.lines().skip(1).filter_map(udp_socket).collect()
}

fn udp_socket(row: &str) -> Option<BoundSocket> {
    let words: Vec<&str> = row.split_ascii_whitespace().collect();
    let (_, queued) = words.get(4)?.split_once(':')?;
    Some(BoundSocket {
        address: hex_address(words.get(1)?)?,
        queued_bytes: u64::from_str_radix(queued, 16).ok()?,
        drops: words.last()?.parse().ok()?,
    })
}

/// An address as `0100007F:1770`: words in the order of this machine, the port as a number.
pub(super) fn hex_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok();
    if ip.len() == 8 {
        return Some((Ipv4Addr::from(word(0)?.to_ne_bytes()), port).into());
    }
    let mut bytes = [0; 16];
    for (at, chunk) in bytes.chunks_mut(4).enumerate() {
        chunk.copy_from_slice(&word(at * 8)?.to_ne_bytes());
    }
    Some((Ipv6Addr::from(bytes), port).into())
}

/// The two lines `Udp:` of `/proc/net/snmp`: names, then numbers.
fn udp_counts(text: &str) -> Option<UdpCounts> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let pairs: Vec<_> =
        names.split_ascii_whitespace().zip(numbers.split_ascii_whitespace()).collect();
    let count = |wanted: &str| {
        pairs.iter().find_map(|(name, n)| (*name == wanted).then(|| n.parse().ok())?).unwrap_or(0)
    };
    Some(UdpCounts {
        no_ports: count("NoPorts"),
        rcvbuf_errors: count("RcvbufErrors"),
        sndbuf_errors: count("SndbufErrors"),
        csum_errors: count("InCsumErrors"),
    })
}

/// A line for each processor in hexadecimal: processed, dropped, squeezed.
fn backlog(text: &str) -> Option<Backlog> {
    let mut sum = Backlog::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().skip(1);
        let mut word = || u64::from_str_radix(words.next()?, 16).ok();
        sum.dropped += word()?;
        sum.squeezed += word()?;
    }
    Some(sum)
}

fn neighbour(table: &str, address: IpAddr) -> Option<Neighbour> {
    table.lines().skip(1).find_map(|row| {
        let words: Vec<&str> = row.split_ascii_whitespace().collect();
        let ip: IpAddr = words.first()?.parse().ok()?;
        let flags = u32::from_str_radix(words.get(2)?.strip_prefix("0x")?, 16).ok()?;
        (ip == address).then_some(Neighbour {
            mac: (*words.get(3)?).to_owned(),
            permanent: flags & ARP_PERMANENT != 0,
            interface: (*words.last()?).to_owned(),
        })
    })
}

/// What `ethtool` says about the ring, where there are a program and a ring.
fn ring_of(interface: &str) -> Option<Ring> {
    let output = Command::new("ethtool").arg("-g").arg(interface).output().ok()?;
    output.status.success().then(|| ring(&String::from_utf8_lossy(&output.stdout)))?
}

/// `RX:` stands there twice: the most first, then what is set.
fn ring(text: &str) -> Option<Ring> {
    let mut sizes =
        text.lines().filter_map(|line| line.trim().strip_prefix("RX:")?.trim().parse().ok());
    Some(Ring { most: sizes.next()?, current: sizes.next()? })
}

/// `ATF_PERM` of the kernel's `if_arp.h`.
const ARP_PERMANENT: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_address_and_port() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            77: 0100007F:1770 00000000:0000 07 00000000:00002A00 00:00000000 00000000     0        0 3141 2 000000003141aaaa 42\n\
            91: 00000000:0203 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2718 2 0000000027182718 0\n";
        let sockets = udp_sockets(table);
        let expected = BoundSocket {
            address: "127.0.0.1:6000".parse().unwrap(),
            queued_bytes: 0x2A00,
            drops: 42,
        };
        assert_eq!(sockets[0], expected);
        assert_eq!(sockets[1].address, "0.0.0.0:515".parse().unwrap());
        let v6 = hex_address("B80D0120000000000000000001000000:1770").unwrap();
        assert_eq!(v6, "[2001:db8::1]:6000".parse().unwrap());
    }

    #[test]
    fn rows_that_are_cut_off_are_no_sockets() {
        for row in
            ["", "77:", "77: 0100007F:1770", "77: 01:17 0 07 0:0 x", "77: zzzzzzzz:1770 0 7 0:0 1"]
        {
            assert_eq!(udp_socket(row), None, "{row:?}");
        }
    }

    #[test]
    fn counters_are_found_by_name() {
        let text = "Tcp: RtoAlgorithm\nTcp: 1\n\
            Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n\
            Udp: 100 7 5 90 4 3 1 0 0\nUdpLite: InDatagrams\nUdpLite: 0\n";
        let expected =
            UdpCounts { no_ports: 7, rcvbuf_errors: 4, sndbuf_errors: 3, csum_errors: 1 };
        assert_eq!(udp_counts(text), Some(expected));
        assert_eq!(udp_counts("Tcp: a\n"), None);
    }

    #[test]
    fn the_queues_of_all_processors_are_summed() {
        let text = "0000a0c1 00000002 0000000a 00000000\n00000010 00000001 00000000 00000000\n";
        assert_eq!(backlog(text), Some(Backlog { dropped: 3, squeezed: 10 }));
    }

    #[test]
    fn a_static_neighbour_is_told_from_a_learnt_one() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            192.0.2.2        0x1         0x6         02:00:5e:00:53:02     *        eth1\n\
            192.0.2.6        0x1         0x2         02:00:5e:00:53:06     *        eth2\n";
        let find = |ip: &str| neighbour(table, ip.parse().unwrap());
        let known = find("192.0.2.2").unwrap();
        assert_eq!((known.permanent, &*known.interface), (true, "eth1"));
        assert!(!find("192.0.2.6").unwrap().permanent);
        assert_eq!(find("192.0.2.9"), None);
    }

    #[test]
    fn a_ring_has_a_size_and_a_limit() {
        let text = "Ring parameters for eth1:\nPre-set maximums:\nRX:\t\t4096\nTX:\t\t4096\n\
            Current hardware settings:\nRX:\t\t256\nTX:\t\t256\n";
        assert_eq!(ring(text), Some(Ring { current: 256, most: 4096 }));
        assert_eq!(ring("netlink error: Operation not supported\n"), None);
    }

    #[test]
    fn this_machine_tells_about_itself() {
        let machine = Machine::here();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(machine.udp_socket(address).map(|socket| socket.address), Some(address));
        assert_eq!(machine.udp_socket((Ipv4Addr::LOCALHOST, 0).into()), None);
        assert!(machine.udp_counts().is_some());
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(source_for(address, None).unwrap(), local);
        assert_eq!(interface_of(local, Some(local)), Some(("lo".to_owned(), true)));
        assert!(machine.interface("../class").is_none());
    }

    #[test]
    fn a_gateway_is_told_from_a_direct_link() {
        let ip = |text: &str| text.parse().unwrap();
        assert!(same_network(ip("192.0.2.1"), ip("192.0.2.2"), ip("255.255.255.252")));
        assert!(!same_network(ip("192.0.2.1"), ip("192.0.2.6"), ip("255.255.255.252")));
        assert!(!same_network(ip("192.0.2.1"), ip("2001:db8::1"), ip("255.255.255.252")));
    }
}
