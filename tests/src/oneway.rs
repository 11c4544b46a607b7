//! A link that is one-way for certain: two network namespaces joined by a pair of virtual
//! interfaces, a static ARP entry on the high side, and a filter on the low side's egress that counts
//! and drops every packet.
//!
//! Needs no privilege where the kernel grants user namespaces. Where it grants neither these nor
//! network namespaces, [`OneWay::new`] says why, and a test that needs it is passed over.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::peers::{peer, run_with_input};
use crate::process::{Process, run};
use crate::sandbox::Sandbox;
use crate::wait::{PATIENCE, wait_until};

/// Two namespaces and the link between them. They go away with it.
#[derive(Debug)]
pub struct OneWay {
    high: Process,
    low: Process,
    /// Whether the namespaces belong to a user namespace of their own.
    user: bool,
}

/// What a filter counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl OneWay {
    /// A fresh link, or why there can be none here.
    ///
    /// # Panics
    /// When the kernel grants the namespaces and `ip` or `nft` fail all the same.
    pub fn new(sandbox: &Sandbox) -> Result<Self, String> {
        let user = match (granted(&["--map-root-user", "--net"]), granted(&["--net"])) {
            (Ok(()), _) => true,
            (_, Ok(())) => false,
            (Err(err), Err(_)) => {
                return Err(format!(
                    "the kernel grants neither user nor network namespaces: {err}"
                ));
            }
        };
        let flags: &[&str] = if user { &["--map-root-user", "--net"] } else { &["--net"] };
        let mut unshare = Command::new("unshare");
        unshare.args(flags).args(HOLD);
        let high = Process::spawn(&mut unshare, "namespace-high", sandbox.path());
        wait_entered(&high);
        let mut inner = enter(high.id(), user);
        inner.args(["unshare", "--net"]).args(HOLD);
        let low = Process::spawn(&mut inner, "namespace-low", sandbox.path());
        wait_entered(&low);
        let link = Self { high, low, user };
        link.set_up();
        Ok(link)
    }

    fn set_up(&self) {
        let low_pid = self.low.id();
        // `ip` and `nft` may lie where the path of a plain user does not go.
        let ip = peer("ip").get_program().to_string_lossy().into_owned();
        let high = format!(
            "{ip} link set lo up
             {ip} link add {HIGH_INTERFACE} address {HIGH_MAC} mtu {MTU} type veth \
                peer name {LOW_INTERFACE} address {LOW_MAC} mtu {MTU}
             {ip} link set {LOW_INTERFACE} netns {low_pid}
             {ip} link set {HIGH_INTERFACE} addrgenmode none
             {ip} address add {HIGH}/30 dev {HIGH_INTERFACE}
             {ip} link set {HIGH_INTERFACE} up
             {ip} neighbour replace {LOW} lladdr {LOW_MAC} dev {HIGH_INTERFACE} nud permanent
            "
        );
        // Without an IPv6 address the low side has nothing to announce.
        let low = format!(
            "{ip} link set lo up
             {ip} link set {LOW_INTERFACE} addrgenmode none
             {ip} address add {LOW}/30 dev {LOW_INTERFACE}
            "
        );
        script(&mut self.on_high(&Command::new("sh")), &high);
        script(&mut self.on_low(&Command::new("sh")), &low);
        rules(&mut self.on_low(&peer("nft")), &drop_everything("egress", LOW_INTERFACE));
        rules(&mut self.on_high(&peer("nft")), &drop_everything("ingress", HIGH_INTERFACE));
        // Only now can anything leave the low side.
        let up = format!("{ip} link set {LOW_INTERFACE} up\n");
        script(&mut self.on_low(&Command::new("sh")), &up);
        wait_until(PATIENCE, "carrier of the link", || {
            let mut show = Command::new(&ip);
            show.args(["-o", "link", "show", HIGH_INTERFACE]);
            run(&mut self.on_high(&show)).stdout.contains("LOWER_UP")
        });
    }

    /// The address of the high side's end.
    pub fn high_address(port: u16) -> SocketAddr {
        (HIGH, port).into()
    }

    /// The address of the low side's end.
    pub fn low_address(port: u16) -> SocketAddr {
        (LOW, port).into()
    }

    /// The same command, in the high side's namespace.
    pub fn on_high(&self, command: &Command) -> Command {
        within(enter(self.high.id(), self.user), command)
    }

    /// The same command, in the low side's namespace.
    pub fn on_low(&self, command: &Command) -> Command {
        within(enter(self.low.id(), self.user), command)
    }

    /// What the low side tried to send: all of it was dropped.
    pub fn sent_back(&self) -> Counted {
        counted(&mut self.on_low(&peer("nft")), "egress")
    }

    /// What reached the high side: nothing, as long as the filter does its work.
    pub fn came_back(&self) -> Counted {
        counted(&mut self.on_high(&peer("nft")), "ingress")
    }

    /// Bytes that came in at the low side's end, lost ones included.
    pub fn received_bytes(&self) -> u64 {
        // The table is that of the process's own namespace.
        let table = fs::read_to_string(format!("/proc/{}/net/dev", self.low.id()));
        let table = table.unwrap_or_default();
        let row =
            table.lines().find_map(|row| row.trim().strip_prefix(LOW_INTERFACE)?.strip_prefix(':'));
        let bytes = row.and_then(|row| row.split_ascii_whitespace().next()?.parse().ok());
        bytes.unwrap_or(0)
    }

    /// From now on the link loses so many of 1,000 packets, each by itself.
    pub fn lose(&self, per_mille: u32) {
        let text = format!(
            "table netdev loss\ndelete table netdev loss\ntable netdev loss {{\n chain ingress {{\n  \
             type filter hook ingress device \"{LOW_INTERFACE}\" priority 0; policy accept;\n  \
             numgen random mod 1000 < {per_mille} counter name \"ingress\" drop\n }}\n \
             counter ingress {{\n }}\n}}\n"
        );
        rules(&mut self.on_low(&peer("nft")), &text);
    }

    /// From now on each datagram crosses the link by itself, as on a cable: the kernel cuts the
    /// trains of a sender before the link, not behind it.
    pub fn cut_trains(&self) {
        let mut ip = peer("ip");
        ip.args(["link", "set", HIGH_INTERFACE, "gso_max_segs", "1"]);
        run(&mut self.on_high(&ip)).success();
    }
}

/// Whether `unshare` may do this.
fn granted(flags: &[&str]) -> Result<(), String> {
    let done = run(Command::new("unshare").args(flags).arg("true"));
    let words = done.stderr.trim().to_owned();
    if done.code == Some(0) { Ok(()) } else { Err(words) }
}

/// Waits until a child of `unshare` has the namespace and has become what holds it.
fn wait_entered(process: &Process) {
    let name = format!("/proc/{}/comm", process.id());
    wait_until(PATIENCE, "namespace", || {
        fs::read_to_string(&name).is_ok_and(|comm| comm.trim() == HOLD[0])
    });
}

fn enter(pid: u32, user: bool) -> Command {
    let mut command = Command::new("nsenter");
    command.arg("--target").arg(pid.to_string()).arg("--net");
    if user {
        command.args(["--user", "--preserve-credentials"]);
    }
    command.arg("--");
    command
}

fn within(mut enter: Command, command: &Command) -> Command {
    enter.arg(command.get_program()).args(command.get_args());
    enter
}

fn script(shell: &mut Command, lines: &str) {
    run_with_input(shell.args(["-e", "-s"]).stdin(Stdio::piped()), lines.as_bytes()).success();
}

fn rules(nft: &mut Command, text: &str) {
    run_with_input(nft.args(["--file", "-"]), text.as_bytes()).success();
}

/// Rules that count and drop whatever passes a hook of an interface.
fn drop_everything(hook: &str, interface: &str) -> String {
    format!(
        "table netdev oneway {{\n counter {hook} {{\n }}\n chain {hook} {{\n  \
         type filter hook {hook} device \"{interface}\" priority 0; policy drop;\n  \
         counter name \"{hook}\" drop\n }}\n}}\n"
    )
}

fn counted(nft: &mut Command, hook: &str) -> Counted {
    nft.args(["--json", "list", "counter", "netdev", "oneway", hook]);
    let text = run(nft).success();
    let listed: Value = serde_json::from_str(&text).expect("nft prints JSON");
    let entries = listed["nftables"].as_array().expect("a list of what was asked for");
    let counter = entries.iter().find_map(|entry| entry.get("counter")).expect("a counter");
    let number = |field: &str| counter[field].as_u64().expect("a count");
    Counted { packets: number("packets"), bytes: number("bytes") }
}

const HIGH_INTERFACE: &str = "vhigh";
const LOW_INTERFACE: &str = "vlow";
const HIGH_MAC: &str = "02:00:5e:00:53:01";
const LOW_MAC: &str = "02:00:5e:00:53:02";
const HIGH: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LOW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const MTU: u32 = 1500;

/// What keeps a namespace alive: much longer than any test, and not for ever.
const HOLD: [&str; 2] = ["sleep", "86400"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_carries_one_way_and_counts_the_other() {
        let sandbox = Sandbox::new("oneway");
        let link = match OneWay::new(&sandbox) {
            Ok(link) => link,
            Err(why) => {
                eprintln!("passed over: {why}");
                return;
            }
        };
        assert_eq!(link.sent_back(), Counted::default());
        // Nobody listens at this port: the low side's kernel says so, and that must not cross.
        let mut logger = peer("logger");
        logger.args(["--udp", "--server", &LOW.to_string(), "--port", "9", "--", "hello"]);
        run(&mut link.on_high(&logger)).success();
        wait_until(PATIENCE, "counted answer", || link.sent_back().packets > 0);
        assert_eq!(link.came_back(), Counted::default());
        link.lose(50);
        link.cut_trains();
    }
}
