//! Whether the addresses that are to be listened at can be: bound by us, by somebody else, or not.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use super::kernel::{Machine, hex_address};
use super::{Finding, Level, grouped};

/// What is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    fn as_str(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }
}

/// What an address is for, and who is to listen there.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The listener or receiver, by name.
    pub name: &'a str,
    /// Its transport.
    pub transport: Transport,
    /// Its address.
    pub bind: SocketAddr,
    /// The address that the running agent says it listens at for this name.
    pub listening: Option<String>,
    /// The process of the running agent.
    pub agent: Option<u32>,
    /// Whether the agent may bind ports below the first unprivileged one.
    pub privileged: bool,
    /// The service's drop-in or line that lets it.
    pub privilege_remedy: &'a str,
}

/// Whether an address can be listened at. Binds it for a moment where no agent runs.
pub fn port(wanted: &Wanted<'_>) -> Finding {
    let Wanted { name, transport, bind, .. } = wanted;
    let kind = transport.as_str();
    let place = format!("{name} ({kind} {bind})");
    if let Some(address) = &wanted.listening {
        let what = format!("the agent listens at {address} for {name}");
        return Finding::new(Level::Fine, "bind", what).at(place);
    }
    let bound = match transport {
        Transport::Tcp => TcpListener::bind(bind).map(drop),
        Transport::Udp => UdpSocket::bind(bind).map(drop),
    };
    let finding = match bound {
        Ok(()) if wanted.agent.is_some() => {
            let what = format!("the agent runs and does not listen at {bind} for {name}");
            Finding::new(Level::Fault, "bind", what)
                .remedy("restart the agent: it reads its configuration when it starts")
        }
        Ok(()) if is_privileged(bind.port()) && !wanted.privileged => {
            let what = format!("{bind} is free, and the agent's user may not bind a port that low");
            Finding::new(Level::Fault, "bind", what)
                .remedy(wanted.privilege_remedy)
                .remedy("a port above 1023")
        }
        Ok(()) => Finding::new(Level::Fine, "bind", format!("{bind} is free for {name}")),
        Err(err) if err.kind() == ErrorKind::AddrInUse => taken(wanted),
        Err(err) if err.kind() == ErrorKind::PermissionDenied => {
            let what = format!("{bind} is below the first port that everybody may bind");
            Finding::new(Level::Fault, "bind", what)
                .remedy(wanted.privilege_remedy)
                .remedy("a port above 1023")
        }
        Err(err) if err.kind() == ErrorKind::AddrNotAvailable => {
            let what = format!("{} is no address of this machine", bind.ip());
            Finding::new(Level::Fault, "bind", what)
                .remedy("ip -brief address show")
                .remedy(format!("bind = \"0.0.0.0:{}\" for {name}", bind.port()))
        }
        Err(err) => Finding::new(Level::Fault, "bind", format!("{bind} can't be bound: {err}")),
    };
    finding.at(place)
}

fn taken(wanted: &Wanted<'_>) -> Finding {
    let Wanted { bind, transport, .. } = wanted;
    let holder = holder(*transport, bind.port());
    if let (Some((pid, _)), Some(agent)) = (&holder, wanted.agent)
        && *pid == agent
    {
        let what = format!("{bind} is bound by the running agent");
        return Finding::new(Level::Fine, "bind", what);
    }
    let who = match &holder {
        Some((pid, name)) => format!("by {name} (process {pid})"),
        None => "by another program".to_owned(),
    };
    let flag = match transport {
        Transport::Tcp => 't',
        Transport::Udp => 'u',
    };
    let finding = Finding::new(Level::Fault, "bind", format!("{bind} is taken {who}"));
    finding
        .remedy(format!("ss -ln{flag}p sport = :{}", bind.port()))
        .remedy("stop that program, or another port for this one")
}

/// The process that listens at a port, with its name; `None` where that can't be read.
pub fn holder(transport: Transport, port: u16) -> Option<(u32, String)> {
    let inodes: Vec<u64> = [transport.as_str().to_owned(), format!("{}6", transport.as_str())]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/net/{table}")).ok())
        .flat_map(|table| table.lines().skip(1).filter_map(inode_of).collect::<Vec<_>>())
        .filter(|(address, listens, _)| {
            address.port() == port && (*listens || transport == Transport::Udp)
        })
        .map(|(_, _, inode)| inode)
        .collect();
    if inodes.is_empty() {
        return None;
    }
    for process in fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = open.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| {
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            inode.and_then(|inode| inode.parse().ok()).is_some_and(|i: u64| inodes.contains(&i))
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// Address, whether it listens (state 0A), and inode of a row of `/proc/net/tcp` or `udp`.
fn inode_of(row: &str) -> Option<(SocketAddr, bool, u64)> {
    let words: Vec<&str> = row.split_ascii_whitespace().collect();
    Some((hex_address(words.get(1)?)?, *words.get(3)? == "0A", words.get(9)?.parse().ok()?))
}

/// Whether only some may bind a port.
fn is_privileged(port: u16) -> bool {
    let first = Machine::here().sysctl("net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
    port != 0 && u64::from(port) < first
}

/// Whether the kernel gives a UDP socket the receive buffer that is configured for it.
pub fn receive_buffer(name: &str, wanted: usize) -> Finding {
    let given = UdpSocket::bind("127.0.0.1:0").map_err(nix::errno::Errno::try_from).ok();
    let given = given.and_then(|socket| {
        setsockopt(&socket, sockopt::RcvBuf, &wanted).ok()?;
        // The kernel says twice of what it gave, to account for its own structures.
        getsockopt(&socket, sockopt::RcvBuf).ok().map(|bytes| bytes / 2)
    });
    let finding = match given {
        None => Finding::new(Level::Skipped, "receive-buffer", "no UDP socket can be asked"),
        Some(given) if given < wanted => {
            let what = format!(
                "{name} asks for a receive buffer of {} bytes and gets {}: a burst that does not fit is lost, and counted",
                grouped(wanted as u64),
                grouped(given as u64)
            );
            Finding::new(Level::Warning, "receive-buffer", what)
                .sysctl("net.core.rmem_max", wanted as u64)
                .remedy("then restart the agent")
        }
        Some(_) => {
            let what = format!("a receive buffer of {} bytes is given", grouped(wanted as u64));
            Finding::new(Level::Fine, "receive-buffer", what)
        }
    };
    finding.at(name)
}

/// So many processes are looked at for the one that has a port.
const PROCESSES_MAX: usize = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(transport: Transport, bind: SocketAddr) -> Wanted<'static> {
        Wanted {
            name: "test",
            transport,
            bind,
            listening: None,
            agent: None,
            privileged: false,
            privilege_remedy: "the drop-in",
        }
    }

    #[test]
    fn whoever_has_the_port_is_named() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let bind = socket.local_addr().unwrap();
        let finding = port(&wanted(Transport::Tcp, bind));
        assert_eq!(finding.level, Level::Fault, "{finding:?}");
        assert!(finding.what.contains(&std::process::id().to_string()), "{finding:?}");
        // Where it is the agent itself, all is well.
        let ours = Wanted { agent: Some(std::process::id()), ..wanted(Transport::Tcp, bind) };
        assert_eq!(port(&ours).level, Level::Fine);
        drop(socket);
        assert_eq!(port(&wanted(Transport::Tcp, bind)).level, Level::Fine);
        assert_eq!(port(&ours).level, Level::Fault);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let finding = port(&wanted(Transport::Udp, udp.local_addr().unwrap()));
        assert!(finding.what.contains("taken"), "{finding:?}");
    }

    #[test]
    fn addresses_of_others_and_low_ports_are_told_apart() {
        // TEST-NET-1, which no machine has.
        let finding = port(&wanted(Transport::Tcp, "192.0.2.1:6514".parse().unwrap()));
        assert!(finding.what.contains("no address of this machine"), "{finding:?}");
        if Machine::here().sysctl("net/ipv4/ip_unprivileged_port_start") == Some(1024) {
            let low = port(&wanted(Transport::Tcp, "127.0.0.1:713".parse().unwrap()));
            assert_eq!(low.remedies[0], "the drop-in", "{low:?}");
        }
    }

    #[test]
    fn a_receive_buffer_that_is_not_given_is_told() {
        assert_eq!(receive_buffer("udp", 8192).level, Level::Fine);
        let finding = receive_buffer("udp", 1 << 30);
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.remedies[0], "sysctl -w net.core.rmem_max=1073741824");
    }
}
