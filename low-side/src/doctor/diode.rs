//! What the facts about a diode's receiving end mean, and what to do about them: plain code over
//! values.
//!
//! The order follows the way of a datagram: cable, interface, queues of the kernel, socket, link key,
//! redundancy, what is missing.

use std::net::SocketAddr;

use shared::config::Span;
use shared::doctor::kernel::{Backlog, BoundSocket, Interface, UdpCounts};
use shared::doctor::{Examined, Finding, Level, grouped};

/// Everything that is known about one receiver. What nobody could tell is `None`.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The receiver's name.
    pub name: String,
    /// Where it listens.
    pub bind: SocketAddr,
    /// The receive buffer that is configured, in bytes.
    pub receive_buffer_bytes: u64,
    /// What partial bundles may take on the disk, in bytes.
    pub state_bytes_max: u64,
    /// `net.core.rmem_max`.
    pub rmem_max: Option<u64>,
    /// `net.core.netdev_max_backlog`.
    pub backlog_max: Option<u64>,
    /// The socket, if one is bound there.
    pub socket: Option<BoundSocket>,
    /// The interface that datagrams come in by.
    pub interface: Option<Interface>,
    /// The kernel's UDP counters.
    pub udp: Option<UdpCounts>,
    /// The kernel's queues.
    pub backlog: Option<Backlog>,
    /// What the running agent has counted.
    pub traffic: Option<Traffic>,
}

/// What a receiver has counted since its agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// The receive buffer that the kernel gave, in bytes; 0 where it is not known.
    pub receive_buffer_bytes: u64,
    /// Datagrams of this link.
    pub datagrams: u64,
    /// Datagrams that the sender numbered and that never came.
    pub lost: u64,
    /// Of these, dropped by this machine since the receive buffer was full.
    pub socket_drops: u64,
    /// The longest run of lost ones.
    pub longest_burst: u64,
    /// Datagrams of other links or of nobody.
    pub foreign: u64,
    /// Datagrams whose tag is wrong: forged, or damaged on the way.
    pub forged: u64,
    /// Bytes a second of this link, of late.
    pub bytes_per_sec: u64,
    /// The longest datagram, in bytes of UDP payload.
    pub datagram_bytes: u64,
    /// Since when nothing of this link came, in seconds; `None` where nothing ever did.
    pub silent_secs: Option<u64>,
    /// Recovery datagrams for 100 source datagrams; 0 if not known.
    pub redundancy_percent: u64,
    /// What partial bundles take on the disk, in bytes.
    pub state_bytes: u64,
    /// Bundles that are there in part.
    pub partial: u64,
    /// Bundles that the catalogue names and of which nothing came.
    pub never_seen: u64,
    /// Bundles that are missing and no longer sent.
    pub expired: u64,
}

/// Judges one receiver.
pub fn examine(facts: &Facts) -> Examined {
    let mut findings = Vec::new();
    findings.push(socket(facts));
    findings.extend(interface(facts));
    findings.extend(backlog(facts));
    findings.extend(buffer(facts));
    findings.extend(answers(facts));
    if let Some(traffic) = &facts.traffic {
        findings.extend(silence(facts, traffic));
        findings.extend(strangers(facts, traffic));
        findings.extend(loss(traffic));
        findings.extend(bundles(facts, traffic));
    }
    Examined { link: format!("{} (udp-diode, {})", facts.name, facts.bind), findings }
}

fn socket(facts: &Facts) -> Finding {
    let bind = facts.bind;
    let (level, what) = match (&facts.socket, &facts.traffic) {
        (None, _) => (
            Level::Fault,
            format!("nothing listens at {bind}: datagrams are lost, and answered by ICMP"),
        ),
        (Some(_), None) => (
            Level::Warning,
            format!("something listens at {bind}, and no agent of this configuration runs"),
        ),
        (Some(_), Some(_)) => (Level::Fine, format!("the agent listens at {bind}")),
    };
    let finding = Finding::new(level, "socket", what);
    match level {
        Level::Fault => finding.remedy("systemctl start penstock-low"),
        Level::Warning => finding.remedy(format!("ss -ulpn sport = :{}", bind.port())),
        Level::Fine | Level::Note | Level::Skipped => finding,
    }
}

fn interface(facts: &Facts) -> Vec<Finding> {
    let Some(interface) = &facts.interface else {
        return vec![
            Finding::new(
                Level::Note,
                "interface",
                format!(
                    "no single interface belongs to {}: ring and MTU were not looked at",
                    facts.bind.ip()
                ),
            )
            .remedy("bind = \"ADDRESS:PORT\" with the address of the link's interface"),
        ];
    };
    let name = &interface.name;
    let mut findings = Vec::new();
    if interface.rx_missed > 0 {
        let most = interface.ring.map_or(RING_GUESS, |ring| ring.most);
        let what = format!(
            "{name} dropped {} packets since its ring was full{}",
            grouped(interface.rx_missed),
            interface.ring.map_or(String::new(), |ring| format!(
                " (ring of {}, at most {})",
                ring.current, ring.most
            ))
        );
        let larger = interface.ring.is_none_or(|ring| ring.current < ring.most);
        let finding = Finding::new(Level::Fault, "ring", what);
        findings.push(if larger {
            finding.remedy(format!("ethtool -G {name} rx {most}"))
        } else {
            finding.remedy("a lower bit-rate of the carrier on the high side")
        });
    } else if let Some(ring) = interface.ring.filter(|ring| ring.current < ring.most) {
        let what = format!("{name} has a ring of {} packets, at most {}", ring.current, ring.most);
        let finding = Finding::new(Level::Note, "ring", what);
        findings.push(finding.remedy(format!("ethtool -G {name} rx {}", ring.most)));
    }
    if interface.rx_damaged > 0 {
        let share = 100.0 * interface.rx_damaged as f64 / interface.rx_packets.max(1) as f64;
        let what = format!(
            "{name} got {} damaged packets ({share:.4} % of all): cable, plug or optics",
            grouped(interface.rx_damaged)
        );
        findings
            .push(Finding::new(Level::Warning, "cable", what).remedy(format!("ethtool -S {name}")));
    }
    if let (Some(mtu), Some(traffic)) = (interface.mtu, &facts.traffic) {
        findings.extend(mtu_of(facts, name, mtu, traffic));
    }
    findings
}

fn mtu_of(facts: &Facts, name: &str, mtu: u64, traffic: &Traffic) -> Option<Finding> {
    let headers = if facts.bind.is_ipv4() { 28 } else { 48 };
    let packet = traffic.datagram_bytes + headers;
    if traffic.datagram_bytes > 0 && packet > mtu {
        let what = format!(
            "datagrams make packets of {packet} bytes and {name} takes {mtu}: they come in fragments, \
             and each lost fragment loses a whole datagram"
        );
        return Some(
            Finding::new(Level::Fault, "mtu", what)
                .remedy(format!("ip link set {name} mtu {packet}"))
                .remedy(format!("mtu = {mtu} for the carrier on the high side")),
        );
    }
    (mtu >= JUMBO_MTU && traffic.datagram_bytes > 0 && packet * 2 < mtu).then(|| {
        let what = format!("{name} takes packets of {mtu} bytes and the sender makes {packet}");
        Finding::new(Level::Note, "mtu", what).remedy(format!(
            "mtu = {mtu} for the carrier on the high side, if its interface has it, too"
        ))
    })
}

fn backlog(facts: &Facts) -> Option<Finding> {
    let backlog = facts.backlog.filter(|backlog| backlog.dropped > 0)?;
    let what = format!(
        "the kernel dropped {} packets before any socket saw them: the queue of a processor was full",
        grouped(backlog.dropped)
    );
    let larger = (facts.backlog_max.unwrap_or(1000) * 4).max(BACKLOG_LEAST);
    Some(
        Finding::new(Level::Warning, "backlog", what).sysctl("net.core.netdev_max_backlog", larger),
    )
}

/// The receive buffer: what was asked for, what was given, what ran over.
fn buffer(facts: &Facts) -> Vec<Finding> {
    let wanted = facts.receive_buffer_bytes;
    let given = facts.traffic.map_or(0, |traffic| traffic.receive_buffer_bytes);
    let drops = facts.socket.map_or(0, |socket| socket.drops);
    let mut findings = Vec::new();
    let short =
        if given > 0 { given < wanted } else { facts.rmem_max.is_some_and(|max| max < wanted) };
    if short {
        let had = if given > 0 { given } else { facts.rmem_max.unwrap_or(0) };
        let what = format!(
            "the receive buffer has {} bytes and {} are configured: net.core.rmem_max is {}",
            grouped(had),
            grouped(wanted),
            facts.rmem_max.map_or("not known".to_owned(), grouped)
        );
        // A smaller buffer that never ran over does its work.
        let level = if drops > 0 { Level::Fault } else { Level::Warning };
        findings.push(
            Finding::new(level, "receive-buffer", what)
                .sysctl("net.core.rmem_max", wanted)
                .remedy("systemctl restart penstock-low"),
        );
    }
    if drops > 0 {
        let what = format!(
            "the kernel dropped {} datagrams since the socket's receive buffer was full",
            grouped(drops)
        );
        let finding = Finding::new(Level::Fault, "socket-drops", what);
        findings.push(if short {
            finding.remedy("the larger receive buffer above")
        } else {
            let more = (wanted * 2).min(RECEIVE_BUFFER_SENSIBLE.max(wanted));
            if more > wanted {
                finding
                    .sysctl("net.core.rmem_max", more)
                    .remedy(format!("receive-buffer = \"{}MiB\" for this receiver, then systemctl restart penstock-low", more >> 20))
            } else {
                finding.remedy("a lower bit-rate of the carrier on the high side: this machine is too slow")
            }
        });
    } else if !short {
        let what =
            format!("a receive buffer of {} bytes never ran over", grouped(given.max(wanted)));
        if facts.socket.is_some() {
            findings.push(Finding::new(Level::Fine, "receive-buffer", what));
        }
    }
    let others = facts.udp.map_or(0, |udp| udp.rcvbuf_errors).saturating_sub(drops);
    if others > 0 {
        let what = format!(
            "other sockets of this machine, or earlier runs, dropped {} datagrams",
            grouped(others)
        );
        findings.push(Finding::new(Level::Note, "other-drops", what));
    }
    findings
}

/// What this machine may send back without meaning to.
fn answers(facts: &Facts) -> Option<Finding> {
    let udp = facts.udp.filter(|udp| udp.no_ports > 0)?;
    let what = format!(
        "{} datagrams came to ports that nobody listens at; the kernel answers each by ICMP, \
         and nothing may go back over a diode",
        grouped(udp.no_ports)
    );
    let interface = facts.interface.as_ref().map_or("IFACE", |interface| &interface.name);
    Some(Finding::new(Level::Note, "answers", what).remedy(format!(
        "nft add table netdev penstock; nft 'add chain netdev penstock out {{ type filter hook egress \
         device \"{interface}\" priority 0; policy drop; }}'"
    )))
}

fn silence(facts: &Facts, traffic: &Traffic) -> Option<Finding> {
    let ask = |finding: Finding| {
        let interface = facts.interface.as_ref().map_or("any", |interface| &interface.name);
        finding
            .remedy(format!("tcpdump -ni {interface} udp port {}", facts.bind.port()))
            .remedy("penstock-high diode doctor, on the high side: address, static ARP, carrier")
    };
    match traffic.silent_secs {
        None if traffic.foreign + traffic.forged > 0 => None,
        None => Some(ask(Finding::new(
            Level::Fault,
            "silence",
            "nothing of this link ever came since the agent started",
        ))),
        Some(secs) if secs > SILENCE_SECS => Some(ask(Finding::new(
            Level::Fault,
            "silence",
            format!(
                "nothing came for {}: a sender with nothing to send names its catalogue every few seconds",
                Span::secs(secs)
            ),
        ))),
        Some(_) => None,
    }
}

fn strangers(facts: &Facts, traffic: &Traffic) -> Option<Finding> {
    let strange = traffic.foreign + traffic.forged;
    if strange == 0 {
        return None;
    }
    if traffic.datagrams == 0 {
        let what = format!(
            "{} datagrams came and none carries this link's tag: the link keys of both sides differ",
            grouped(strange)
        );
        let fault = Finding::new(Level::Fault, "link-key", what);
        return Some(fault.remedy("carry the high side's link key file here again, and restart"));
    }
    let what = format!(
        "{} datagrams of nobody or of other links, {} with a wrong tag: forged, or damaged on the way",
        grouped(traffic.foreign),
        grouped(traffic.forged)
    );
    // They cost little and break nothing; many of them take room in the receive buffer.
    let level = if strange * 100 > traffic.datagrams { Level::Warning } else { Level::Note };
    Some(Finding::new(level, "strangers", what).remedy(format!(
        "let only the high side's address reach port {}: see \"Packet filters\" in diode.md",
        facts.bind.port()
    )))
}

fn loss(traffic: &Traffic) -> Vec<Finding> {
    let sent = traffic.datagrams + traffic.lost;
    if sent == 0 {
        return Vec::new();
    }
    let percent = 100.0 * traffic.lost as f64 / sent as f64;
    let here = traffic.socket_drops.min(traffic.lost);
    let what = format!(
        "{} of {} datagrams were lost ({percent:.3} %), {} of them by this machine's receive buffer",
        grouped(traffic.lost),
        grouped(sent),
        grouped(here)
    );
    let told = traffic.redundancy_percent;
    let redundancy = if told > 0 { told } else { REDUNDANCY_PERCENT } as f64;
    // A pass with R recovery for 100 source datagrams stands R / (100 + R) lost ones.
    let stands = 100.0 * redundancy / (100.0 + redundancy);
    let mut findings = Vec::new();
    if percent > stands * LOSS_RESERVE {
        // As much again as is lost, and half as much for chance.
        let better = (percent / (100.0 - percent).max(1.0) * 150.0).ceil().max(redundancy + 5.0);
        findings.push(
            Finding::new(
                Level::Fault,
                "loss",
                format!("{what}; with {redundancy} % redundancy a pass stands {stands:.1} %"),
            )
            .remedy(format!("redundancy = {better} for the carrier on the high side"))
            .remedy("a lower bit-rate, if the loss began with a higher one"),
        );
    } else if traffic.lost == 0 {
        findings.push(Finding::new(Level::Fine, "loss", what));
    } else {
        let level = if percent > LOSS_NOTABLE_PERCENT { Level::Warning } else { Level::Note };
        findings.push(Finding::new(level, "loss", what));
    }
    if traffic.longest_burst > 1 {
        findings.push(burst(traffic));
    }
    findings
}

/// The longest run of losses, in time where the rate is known.
fn burst(traffic: &Traffic) -> Finding {
    let datagrams = grouped(traffic.longest_burst);
    if traffic.bytes_per_sec == 0 || traffic.datagram_bytes == 0 {
        let what = format!("the longest run of losses had {datagrams} datagrams");
        return Finding::new(Level::Note, "burst", what);
    }
    let millis =
        traffic.longest_burst * traffic.datagram_bytes * 1000 / traffic.bytes_per_sec.max(1);
    let what = format!(
        "the longest run of losses had {datagrams} datagrams, about {millis} ms at the present rate"
    );
    let finding = Finding::new(Level::Note, "burst", what);
    let outage = millis.saturating_mul(3).div_ceil(2).next_multiple_of(10);
    finding.remedy(format!("outage = \"{outage}ms\" or more for the carrier on the high side"))
}

fn bundles(facts: &Facts, traffic: &Traffic) -> Vec<Finding> {
    let mut findings = Vec::new();
    if traffic.state_bytes.saturating_mul(10) > facts.state_bytes_max.saturating_mul(9) {
        let what = format!(
            "partial bundles take {} of {} bytes: the oldest are given up when no more fits",
            grouped(traffic.state_bytes),
            grouped(facts.state_bytes_max)
        );
        findings.push(
            Finding::new(Level::Warning, "state", what)
                .remedy("a larger state-bytes-max for this receiver"),
        );
    }
    let missing = traffic.partial + traffic.never_seen;
    if traffic.expired > 0 {
        let what = format!(
            "{} bundles are missing and no longer sent: they must be asked for",
            grouped(traffic.expired)
        );
        let fault = Finding::new(Level::Fault, "expired", what);
        findings.push(
            fault.remedy("penstock-low diode missing, and carry its request to the high side"),
        );
    }
    if missing > 0 {
        let what = format!(
            "{} bundles are on their way: {} in part, {} of which nothing came yet",
            grouped(missing),
            grouped(traffic.partial),
            grouped(traffic.never_seen)
        );
        findings.push(Finding::new(Level::Note, "under-way", what));
    }
    findings
}

/// Longer than several catalogues of a sender that waits ten seconds between two.
const SILENCE_SECS: u64 = 30;

/// A ring that most cards of one gigabit and more can have.
const RING_GUESS: u64 = 4096;

/// From here on an interface takes jumbo frames.
const JUMBO_MTU: u64 = 4000;

/// Enough packets for some milliseconds of ten gigabits.
const BACKLOG_LEAST: u64 = 10_000;

/// A larger receive buffer only hides that the machine is too slow.
const RECEIVE_BUFFER_SENSIBLE: u64 = 256 << 20;

/// The part of what a pass stands that the average loss may take; chance and bursts need the rest.
const LOSS_RESERVE: f64 = 0.6;

/// What a sender has that was told nothing else.
const REDUNDANCY_PERCENT: u64 = 15;

/// A cable loses less than this by far.
const LOSS_NOTABLE_PERCENT: f64 = 0.1;

#[cfg(test)]
mod tests {
    use shared::doctor::kernel::Ring;

    use super::*;

    /// A receiver that has nothing to complain of.
    fn healthy() -> Facts {
        Facts {
            name: "diode".to_owned(),
            bind: "10.0.0.2:6000".parse().unwrap(),
            receive_buffer_bytes: 32 << 20,
            state_bytes_max: 1 << 30,
            rmem_max: Some(64 << 20),
            backlog_max: Some(1000),
            socket: Some(BoundSocket {
                address: "10.0.0.2:6000".parse().unwrap(),
                queued_bytes: 0,
                drops: 0,
            }),
            interface: Some(Interface {
                name: "eth1".to_owned(),
                mtu: Some(1500),
                rx_packets: 1_000_000,
                ..Interface::default()
            }),
            udp: Some(UdpCounts::default()),
            backlog: Some(Backlog::default()),
            traffic: Some(Traffic {
                receive_buffer_bytes: 32 << 20,
                datagrams: 1_000_000,
                bytes_per_sec: 125_000_000,
                datagram_bytes: 1472,
                silent_secs: Some(0),
                redundancy_percent: 15,
                ..Traffic::default()
            }),
        }
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Examined {
        let mut facts = healthy();
        change(&mut facts);
        examine(&facts)
    }

    fn counted(change: impl FnOnce(&mut Traffic)) -> Examined {
        with(|facts| change(facts.traffic.as_mut().unwrap()))
    }

    /// What is said about a subject: its level and its first remedy.
    fn about<'a>(examined: &'a Examined, subject: &str) -> (Level, &'a str) {
        let finding = examined.findings.iter().find(|finding| finding.about == subject);
        let finding = finding.unwrap_or_else(|| panic!("nothing about {subject}: {examined}"));
        (finding.level, finding.remedies.first().map_or("", |remedy| remedy))
    }

    #[test]
    fn a_healthy_receiver_has_nothing_to_do() {
        let examined = examine(&healthy());
        assert_eq!(examined.worst(), Level::Fine, "{examined}");
        assert!(examined.findings.iter().all(|finding| finding.remedies.is_empty()), "{examined}");
    }

    #[test]
    fn each_fault_is_named_with_its_remedy() {
        let cases: Vec<(Examined, &str, Level, &str)> = vec![
            (
                with(|facts| facts.socket = None),
                "socket",
                Level::Fault,
                "systemctl start penstock-low",
            ),
            (
                with(|facts| facts.traffic = None),
                "socket",
                Level::Warning,
                "ss -ulpn sport = :6000",
            ),
            (
                with(|facts| {
                    facts.rmem_max = Some(212_992);
                    facts.traffic.as_mut().unwrap().receive_buffer_bytes = 212_992;
                }),
                "receive-buffer",
                Level::Warning,
                "sysctl -w net.core.rmem_max=33554432",
            ),
            (
                with(|facts| facts.socket.as_mut().unwrap().drops = 5),
                "socket-drops",
                Level::Fault,
                "sysctl -w net.core.rmem_max=67108864",
            ),
            (
                with(|facts| {
                    facts.socket.as_mut().unwrap().drops = 5;
                    facts.receive_buffer_bytes = 256 << 20;
                    facts.traffic.as_mut().unwrap().receive_buffer_bytes = 256 << 20;
                }),
                "socket-drops",
                Level::Fault,
                "a lower bit-rate of the carrier on the high side: this machine is too slow",
            ),
            (
                with(|facts| facts.backlog = Some(Backlog { dropped: 1, squeezed: 0 })),
                "backlog",
                Level::Warning,
                "sysctl -w net.core.netdev_max_backlog=10000",
            ),
            (
                with(|facts| {
                    let interface = facts.interface.as_mut().unwrap();
                    interface.rx_missed = 3;
                    interface.ring = Some(Ring { current: 256, most: 2048 });
                }),
                "ring",
                Level::Fault,
                "ethtool -G eth1 rx 2048",
            ),
            (
                with(|facts| facts.interface.as_mut().unwrap().rx_damaged = 9),
                "cable",
                Level::Warning,
                "ethtool -S eth1",
            ),
            (
                counted(|traffic| traffic.datagram_bytes = 8972),
                "mtu",
                Level::Fault,
                "ip link set eth1 mtu 9000",
            ),
            (
                with(|facts| facts.interface.as_mut().unwrap().mtu = Some(9000)),
                "mtu",
                Level::Note,
                "mtu = 9000 for the carrier on the high side, if its interface has it, too",
            ),
            (
                counted(|traffic| traffic.silent_secs = Some(45)),
                "silence",
                Level::Fault,
                "tcpdump -ni eth1 udp port 6000",
            ),
            (
                counted(|traffic| {
                    *traffic = Traffic { forged: 70, silent_secs: None, ..Traffic::default() };
                }),
                "link-key",
                Level::Fault,
                "carry the high side's link key file here again, and restart",
            ),
            (
                counted(|traffic| traffic.foreign = 50_000),
                "strangers",
                Level::Warning,
                "let only the high side's address reach port 6000: see \"Packet filters\" in diode.md",
            ),
            (
                counted(|traffic| traffic.lost = 111_111),
                "loss",
                Level::Fault,
                "redundancy = 20 for the carrier on the high side",
            ),
            (
                counted(|traffic| traffic.lost = 666_666),
                "loss",
                Level::Fault,
                "redundancy = 100 for the carrier on the high side",
            ),
            (counted(|traffic| traffic.lost = 20_000), "loss", Level::Warning, ""),
            (counted(|traffic| traffic.lost = 20), "loss", Level::Note, ""),
            (
                counted(|traffic| {
                    traffic.lost = 4250;
                    traffic.longest_burst = 4246;
                }),
                "burst",
                Level::Note,
                "outage = \"80ms\" or more for the carrier on the high side",
            ),
            (
                counted(|traffic| traffic.state_bytes = 1 << 30),
                "state",
                Level::Warning,
                "a larger state-bytes-max for this receiver",
            ),
            (
                counted(|traffic| traffic.expired = 2),
                "expired",
                Level::Fault,
                "penstock-low diode missing, and carry its request to the high side",
            ),
            (counted(|traffic| traffic.partial = 1), "under-way", Level::Note, ""),
        ];
        for (examined, subject, level, remedy) in cases {
            assert_eq!(about(&examined, subject), (level, remedy), "{examined}");
        }
    }

    #[test]
    fn a_receiver_of_which_nothing_is_known_is_judged_all_the_same() {
        let examined = with(|facts| {
            facts.rmem_max = None;
            facts.backlog_max = None;
            facts.interface = None;
            facts.udp = None;
            facts.backlog = None;
            facts.socket = None;
            facts.traffic = None;
        });
        assert_eq!(about(&examined, "socket").0, Level::Fault);
        assert_eq!(about(&examined, "interface").0, Level::Note);
    }
}
