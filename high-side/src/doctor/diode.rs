//! What the facts about a diode's sending end mean, and what to do about them: plain code over values.
//!
//! The order follows the way of a datagram: coder and clock of the sender, socket, neighbour,
//! interface.

use std::net::{IpAddr, SocketAddr};

use shared::config::Span;
use shared::doctor::kernel::{Interface, Neighbour, UdpCounts};
use shared::doctor::{Examined, Finding, Level, grouped};

/// Everything that is known about one carrier. What nobody could tell is `None`.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The carrier's name.
    pub name: String,
    /// Where datagrams go.
    pub to: SocketAddr,
    /// The set rate on the wire, in bits a second.
    pub bit_rate: u64,
    /// The longest packet that the sender makes, in bytes.
    pub mtu: u64,
    /// Recovery datagrams for 100 source datagrams.
    pub redundancy_percent: u64,
    /// How often a bundle is sent.
    pub passes: u64,
    /// The address that datagrams leave from, or why there is none.
    pub source: Result<IpAddr, String>,
    /// The interface with this address, and whether the other end lies in the network behind it.
    pub interface: Option<(Interface, bool)>,
    /// The ARP entry of the other end.
    pub neighbour: Option<Neighbour>,
    /// Whether the kernel cuts trains of datagrams (UDP GSO).
    pub trains: bool,
    /// `net.core.wmem_max`.
    pub wmem_max: Option<u64>,
    /// The kernel's UDP counters.
    pub udp: Option<UdpCounts>,
    /// Bytes that wait for this carrier, if anybody knows.
    pub waiting_bytes: Option<u64>,
    /// What keeps the carrier from sending, as the running agent says.
    pub trouble: Option<String>,
}

/// Judges one carrier.
pub fn examine(facts: &Facts) -> Examined {
    let mut findings = Vec::new();
    if let Some(trouble) = &facts.trouble {
        findings.push(Finding::new(
            Level::Fault,
            "trouble",
            format!("the carrier says: {trouble}"),
        ));
    }
    findings.push(pace(facts));
    findings.push(trains(facts));
    findings.extend(send_buffer(facts));
    match &facts.source {
        Err(err) => findings.push(
            Finding::new(Level::Fault, "route", format!("no way to {}: {err}", facts.to.ip()))
                .remedy("ip address show; ip route show")
                .remedy("bind = \"ADDRESS:0\" with an address of this machine, or none"),
        ),
        Ok(source) => findings.extend(way(facts, *source)),
    }
    Examined { link: format!("{} (udp-diode, to {})", facts.name, facts.to), findings }
}

/// The bytes of bundles that one pass carries in a second.
pub(super) fn goodput(bit_rate: u64, mtu: u64, redundancy_percent: u64) -> u64 {
    // Headers, tag and recovery datagrams take the rest of the rate.
    let payload = mtu.saturating_sub(DATAGRAM_OVERHEAD_BYTES);
    let sent = mtu.max(1) * (100 + redundancy_percent);
    (bit_rate / 8).saturating_mul(payload * 100) / sent
}

/// What the settings mean in time.
fn pace(facts: &Facts) -> Finding {
    let goodput = goodput(facts.bit_rate, facts.mtu, facts.redundancy_percent);
    let mut what = format!(
        "{} bit/s carry about {} bytes of bundles a second in one pass; {} passes use the link as \
         often",
        grouped(facts.bit_rate),
        grouped(goodput),
        facts.passes
    );
    if let Some(waiting) = facts.waiting_bytes.filter(|waiting| *waiting > 0) {
        let secs = waiting / goodput.max(1);
        what = format!(
            "{what}; {} bytes wait, {} for their first pass",
            grouped(waiting),
            Span::secs(secs)
        );
    }
    Finding::new(Level::Fine, "pace", what)
}

fn trains(facts: &Facts) -> Finding {
    if facts.trains {
        return Finding::new(Level::Fine, "gso", "the kernel cuts trains of datagrams (UDP GSO)");
    }
    let what = "the kernel does not cut trains of datagrams (UDP GSO, Linux 4.18 and later): each one \
                is a system call's work";
    // About what one core sends singly.
    let level = if facts.bit_rate > SINGLY_BIT_RATE { Level::Warning } else { Level::Note };
    Finding::new(level, "gso", what)
}

fn send_buffer(facts: &Facts) -> Option<Finding> {
    let most = facts.wmem_max.filter(|most| *most < SEND_BUFFER_LEAST)?;
    let what =
        format!("net.core.wmem_max is {}: less than a few trains of datagrams", grouped(most));
    Some(
        Finding::new(Level::Note, "send-buffer", what)
            .sysctl("net.core.wmem_max", SEND_BUFFER_LEAST),
    )
}

fn way(facts: &Facts, source: IpAddr) -> Vec<Finding> {
    let Some((interface, direct)) = &facts.interface else {
        let what = format!("no interface has the address {source}");
        return vec![Finding::new(Level::Fault, "interface", what).remedy("ip address show")];
    };
    let mut findings = vec![neighbour(facts, interface, *direct)];
    findings.extend(speed(facts, interface));
    findings.extend(mtu(facts, interface));
    let not_sent = interface.tx_dropped + facts.udp.map_or(0, |udp| udp.sndbuf_errors);
    if not_sent > 0 {
        let what = format!(
            "{} packets were dropped before they left {}: the rate is above what it can send",
            grouped(not_sent),
            interface.name
        );
        findings.push(
            Finding::new(Level::Warning, "tx-drops", what)
                .remedy(format!("ip link set {} txqueuelen 10000", interface.name))
                .remedy("a lower bit-rate for this carrier"),
        );
    }
    findings
}

/// Nobody answers an ARP request over a diode.
fn neighbour(facts: &Facts, interface: &Interface, direct: bool) -> Finding {
    let (to, name) = (facts.to.ip(), &interface.name);
    if interface.is_loopback() {
        return Finding::new(
            Level::Note,
            "arp",
            format!("{to} is this machine: a trial, no diode"),
        );
    }
    if !direct {
        let what = format!(
            "{to} lies behind a gateway of {name}: nothing between may need an answer, ARP included"
        );
        return Finding::new(Level::Warning, "arp", what)
            .remedy("an address for both ends in one network, and a static ARP entry");
    }
    let fix = |finding: Finding| {
        let family = if to.is_ipv4() { "" } else { "-6 " };
        finding
            .remedy(format!(
                "ip {family}neighbour replace {to} lladdr MAC dev {name} nud permanent"
            ))
            .remedy("the MAC of the low side's interface: there, ip -brief link show")
    };
    match &facts.neighbour {
        Some(known) if known.permanent => {
            Finding::new(Level::Fine, "arp", format!("{to} is {} for ever on {name}", known.mac))
        }
        Some(known) => fix(Finding::new(
            Level::Fault,
            "arp",
            format!("the ARP entry of {to} ({}) was learnt and will be asked for again", known.mac),
        )),
        None if to.is_ipv6() => {
            fix(Finding::new(Level::Note, "arp", "neighbours of IPv6 were not looked at"))
        }
        None => fix(Finding::new(
            Level::Fault,
            "arp",
            format!("{to} has no ARP entry: the kernel asks for it, and no answer can come"),
        )),
    }
}

fn speed(facts: &Facts, interface: &Interface) -> Option<Finding> {
    let name = &interface.name;
    let Some(mbit) = interface.speed_mbit else {
        return (!interface.is_loopback()).then(|| {
            Finding::new(Level::Note, "speed", format!("{name} does not tell its speed"))
        });
    };
    let link = mbit * 1_000_000;
    let wire = wire_bit_rate(facts.bit_rate, facts.mtu);
    let what = format!(
        "{} bit/s make {} on the wire of {name}, which has {}",
        grouped(facts.bit_rate),
        grouped(wire),
        grouped(link)
    );
    if wire * 100 > link * LINK_SHARE_PERCENT {
        let fitting = bit_rate_for(link * LINK_SHARE_PERCENT / 100, facts.mtu) / 1_000_000;
        return Some(
            Finding::new(Level::Fault, "speed", what)
                .remedy(format!("bit-rate = \"{fitting}Mbit\" or less for this carrier")),
        );
    }
    Some(Finding::new(Level::Fine, "speed", what))
}

fn mtu(facts: &Facts, interface: &Interface) -> Option<Finding> {
    let (name, most) = (&interface.name, interface.mtu?);
    if facts.mtu > most {
        let what = format!(
            "packets of {} bytes leave {name}, which takes {most}, in fragments: each lost one loses a \
             whole datagram",
            facts.mtu
        );
        return Some(
            Finding::new(Level::Fault, "mtu", what)
                .remedy(format!("mtu = {most} for this carrier"))
                .remedy(format!("ip link set {name} mtu {}", facts.mtu)),
        );
    }
    (!interface.is_loopback() && most >= 2 * facts.mtu).then(|| {
        let what = format!("{name} takes packets of {most} bytes and {} are sent", facts.mtu);
        Finding::new(Level::Note, "mtu", what).remedy(format!(
            "mtu = {most} for this carrier, if the low side's interface has it, too"
        ))
    })
}

/// What a rate of IP packets of this length takes on an Ethernet.
fn wire_bit_rate(bit_rate: u64, mtu: u64) -> u64 {
    bit_rate / mtu.max(1) * (mtu + FRAME_OVERHEAD_BYTES)
}

fn bit_rate_for(wire: u64, mtu: u64) -> u64 {
    wire / (mtu + FRAME_OVERHEAD_BYTES) * mtu
}

/// IP and UDP headers, and the header and the tag of our datagrams.
const DATAGRAM_OVERHEAD_BYTES: u64 = 28 + 104;

/// Ethernet header, checksum, preamble and the pause between two frames.
const FRAME_OVERHEAD_BYTES: u64 = 38;

/// The part of a link that a sender may use: clocks differ, and queues need room.
const LINK_SHARE_PERCENT: u64 = 97;

/// Some trains of 64 KiB.
const SEND_BUFFER_LEAST: u64 = 1 << 20;

/// About half of what one core can send singly.
const SINGLY_BIT_RATE: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A carrier that has nothing to complain of.
    fn healthy() -> Facts {
        let interface = Interface {
            name: "eth1".to_owned(),
            mtu: Some(1500),
            speed_mbit: Some(1000),
            ..Interface::default()
        };
        Facts {
            name: "diode".to_owned(),
            to: "10.0.0.2:6000".parse().unwrap(),
            bit_rate: 900_000_000,
            mtu: 1500,
            redundancy_percent: 15,
            passes: 2,
            source: Ok("10.0.0.1".parse().unwrap()),
            interface: Some((interface, true)),
            neighbour: Some(Neighbour {
                mac: "02:00:5e:00:53:02".to_owned(),
                permanent: true,
                interface: "eth1".to_owned(),
            }),
            trains: true,
            wmem_max: Some(4 << 20),
            udp: Some(UdpCounts::default()),
            waiting_bytes: None,
            trouble: None,
        }
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Examined {
        let mut facts = healthy();
        change(&mut facts);
        examine(&facts)
    }

    fn on_interface(change: impl FnOnce(&mut Interface)) -> Examined {
        with(|facts| change(&mut facts.interface.as_mut().unwrap().0))
    }

    fn about<'a>(examined: &'a Examined, subject: &str) -> (Level, &'a str) {
        let finding = examined.findings.iter().find(|finding| finding.about == subject);
        let finding = finding.unwrap_or_else(|| panic!("nothing about {subject}: {examined}"));
        (finding.level, finding.remedies.first().map_or("", |remedy| remedy))
    }

    #[test]
    fn a_healthy_carrier_has_nothing_to_do() {
        let examined = examine(&healthy());
        assert_eq!(examined.worst(), Level::Fine, "{examined}");
    }

    #[test]
    fn each_fault_is_named_with_its_remedy() {
        let static_arp = "ip neighbour replace 10.0.0.2 lladdr MAC dev eth1 nud permanent";
        let cases: Vec<(Examined, &str, Level, &str)> = vec![
            (with(|facts| facts.neighbour = None), "arp", Level::Fault, static_arp),
            (
                with(|facts| facts.neighbour.as_mut().unwrap().permanent = false),
                "arp",
                Level::Fault,
                static_arp,
            ),
            (
                with(|facts| facts.interface.as_mut().unwrap().1 = false),
                "arp",
                Level::Warning,
                "an address for both ends in one network, and a static ARP entry",
            ),
            (on_interface(|interface| interface.name = "lo".to_owned()), "arp", Level::Note, ""),
            (
                with(|facts| facts.bit_rate = 980_000_000),
                "speed",
                Level::Fault,
                "bit-rate = \"946Mbit\" or less for this carrier",
            ),
            (on_interface(|interface| interface.speed_mbit = None), "speed", Level::Note, ""),
            (with(|facts| facts.mtu = 9000), "mtu", Level::Fault, "mtu = 1500 for this carrier"),
            (
                on_interface(|interface| interface.mtu = Some(9000)),
                "mtu",
                Level::Note,
                "mtu = 9000 for this carrier, if the low side's interface has it, too",
            ),
            (
                on_interface(|interface| interface.tx_dropped = 4),
                "tx-drops",
                Level::Warning,
                "ip link set eth1 txqueuelen 10000",
            ),
            (
                with(|facts| facts.wmem_max = Some(212_992)),
                "send-buffer",
                Level::Note,
                "sysctl -w net.core.wmem_max=1048576",
            ),
            (with(|facts| facts.trains = false), "gso", Level::Note, ""),
            (
                with(|facts| {
                    facts.trains = false;
                    facts.bit_rate = 4_000_000_000;
                }),
                "gso",
                Level::Warning,
                "",
            ),
            (
                with(|facts| facts.source = Err("Network is unreachable".to_owned())),
                "route",
                Level::Fault,
                "ip address show; ip route show",
            ),
            (with(|facts| facts.interface = None), "interface", Level::Fault, "ip address show"),
            (
                with(|facts| facts.trouble = Some("no buffer space".to_owned())),
                "trouble",
                Level::Fault,
                "",
            ),
        ];
        for (examined, subject, level, remedy) in cases {
            assert_eq!(about(&examined, subject), (level, remedy), "{examined}");
        }
    }

    #[test]
    fn the_pace_is_told_in_bytes_and_time() {
        let examined = with(|facts| facts.waiting_bytes = Some(8_925_000_000));
        let pace = &examined.findings[0].what;
        assert!(pace.starts_with("900,000,000 bit/s carry about 89,217,391 bytes"), "{pace}");
        assert!(pace.ends_with("8,925,000,000 bytes wait, 1m40s for their first pass"), "{pace}");
    }
}
