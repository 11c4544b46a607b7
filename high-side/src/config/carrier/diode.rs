//! `type = "udp-diode"`: a link over which nothing comes back.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use shared::config::{Problems, Span};
use shared::record::Lane;

use super::{Common, all_lanes};

/// A link over which nothing comes back.
#[derive(Clone, Debug, PartialEq)]
pub struct DiodeSettings {
    /// Where datagrams are sent.
    pub to: SocketAddr,
    /// From where; else as the system chooses.
    pub bind: Option<SocketAddr>,
    /// The key that both ends share.
    pub link_key_file: PathBuf,
    /// The rate on the wire.
    pub bit_rate: BitRate,
    /// The longest IP packet, in bytes.
    pub mtu: u16,
    /// Recovery shards of each pass for 100 source shards, in large bundles.
    pub redundancy: u16,
    /// How long the link may be dead at a time without any loss.
    pub outage: Duration,
    /// How many times each bundle is sent.
    pub passes: u64,
    /// How long after one pass the next begins.
    pub pass_interval: Duration,
    /// Further passes: how long after the one before each of them begins.
    pub late_passes: Vec<Duration>,
    /// How often the catalogue is sent.
    pub catalogue_interval: Duration,
}

impl DiodeSettings {
    /// From the second pass on, how long after one pass the next is due.
    pub fn waits(&self) -> Vec<Duration> {
        let mut waits = Vec::new();
        waits.extend((1..self.passes).map(|_| self.pass_interval));
        waits.extend(&self.late_passes);
        waits
    }

    /// How many times each bundle is sent, late passes among them.
    pub fn passes_in_all(&self) -> u64 {
        self.passes + self.late_passes.len() as u64
    }
}

/// Bits a second, written `800Mbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(pub u64);

impl BitRate {
    fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !c.is_ascii_digit())?;
        let (digits, unit) = text.split_at(split);
        let count: u64 = digits.parse().ok()?;
        let factor = match unit.trim() {
            "bit" => 1,
            "kbit" => 1_000,
            "Mbit" => 1_000_000,
            "Gbit" => 1_000_000_000,
            _ => return None,
        };
        count.checked_mul(factor).map(Self)
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (factor, unit) in [(1_000_000_000, "Gbit"), (1_000_000, "Mbit"), (1000, "kbit")] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}bit", self.0)
    }
}

impl<'de> Deserialize<'de> for BitRate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        BitRate::parse(&text).ok_or_else(|| {
            let problem = format!("a rate is written like \"800Mbit\", not {text:?}");
            serde::de::Error::custom(problem)
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::config) struct RawDiode {
    name: String,
    #[serde(default = "all_lanes")]
    lanes: Vec<Lane>,
    to: String,
    bind: Option<String>,
    link_key_file: PathBuf,
    #[serde(default = "bit_rate")]
    bit_rate: BitRate,
    #[serde(default = "mtu")]
    mtu: u16,
    #[serde(default = "redundancy")]
    redundancy: u16,
    #[serde(default = "outage")]
    outage: Span,
    #[serde(default = "passes")]
    passes: u64,
    #[serde(default = "pass_interval")]
    pass_interval: Span,
    #[serde(default = "late_passes")]
    late_passes: Vec<Span>,
    #[serde(default = "catalogue_interval")]
    catalogue_interval: Span,
}

/// What every link and every receiver can do.
fn bit_rate() -> BitRate {
    BitRate(100_000_000)
}

/// Ethernet without jumbo frames.
fn mtu() -> u16 {
    1500
}

/// Makes good 5 % of random loss and an outage of 50 ms in one pass.
fn redundancy() -> u16 {
    15
}

/// A link that is plugged elsewhere or a receiver that pauses.
fn outage() -> Span {
    Span::millis(50)
}

/// A bundle that one pass could not complete at 40 % loss is complete in three.
fn passes() -> u64 {
    3
}

/// A receiver that is started anew is there again.
fn pass_interval() -> Span {
    Span::secs(30)
}

/// A receiver, or a link, that was away for up to a day gets what it missed without being asked for it.
fn late_passes() -> Vec<Span> {
    vec![Span::secs(3600), Span::secs(86_400)]
}

/// Within 10 s the low side knows what it misses, also where pages are lost.
fn catalogue_interval() -> Span {
    Span::secs(2)
}

impl RawDiode {
    pub(super) fn common(&self) -> Common<'_> {
        Common { name: &self.name, lanes: &self.lanes }
    }

    pub(super) fn check(self, key: &str, problems: &mut Problems) -> DiodeSettings {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let to: SocketAddr = self.to.parse().unwrap_or_else(|_| {
            problems.add(
                &format!("{key}.to"),
                "is ADDRESS:PORT, as 192.0.2.2:5514 or [2001:db8::2]:5514: without a way back there is no name to ask for",
            );
            nowhere
        });
        let bind = self.bind.map(|bind| {
            let bind = bind.parse().unwrap_or_else(|_| {
                problems.add(&format!("{key}.bind"), "is ADDRESS:PORT; port 0 takes any");
                to
            });
            let same = bind.is_ipv4() == to.is_ipv4();
            problems.check(same, &format!("{key}.bind"), "is of another family than to");
            bind
        });
        let mut check = |holds: bool, name: &str, problem: &str| {
            problems.check(holds, &format!("{key}.{name}"), problem);
        };
        check(self.link_key_file.is_absolute(), "link-key-file", "is an absolute path");
        let rate = BitRate(64_000)..=BitRate(100_000_000_000);
        check(rate.contains(&self.bit_rate), "bit-rate", "is from 64kbit to 100Gbit");
        check((576..=65_000).contains(&self.mtu), "mtu", "is from 576 to 65000");
        check(
            (1..=100).contains(&self.redundancy),
            "redundancy",
            "is from 1 to 100 percent; more loss is made good by more passes",
        );
        check(
            self.outage <= Span::secs(10),
            "outage",
            "is at most 10s; longer ones take more passes",
        );
        check((1..=100).contains(&self.passes), "passes", "is from 1 to 100");
        let week = Span::secs(7 * 86_400);
        check(self.pass_interval <= week, "pass-interval", "is at most 7d");
        check(
            self.late_passes.len() <= 20 && self.late_passes.iter().all(|wait| *wait <= week),
            "late-passes",
            "has at most 20 entries of at most 7d each",
        );
        let interval = Span::millis(100)..=Span::secs(3600);
        check(
            interval.contains(&self.catalogue_interval),
            "catalogue-interval",
            "is from 100ms to 1h",
        );
        DiodeSettings {
            to,
            bind,
            link_key_file: self.link_key_file,
            bit_rate: self.bit_rate,
            mtu: self.mtu,
            redundancy: self.redundancy,
            outage: self.outage.0,
            passes: self.passes,
            pass_interval: self.pass_interval.0,
            late_passes: self.late_passes.iter().map(|wait| wait.0).collect(),
            catalogue_interval: self.catalogue_interval.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_and_print_alike() {
        for (text, bits) in [("64kbit", 64_000), ("800Mbit", 800_000_000), ("9Gbit", 9_000_000_000)]
        {
            let rate = BitRate::parse(text).unwrap();
            assert_eq!((rate.0, rate.to_string().as_str()), (bits, text));
        }
        for text in ["", "800", "800MB", "Mbit", "-1Mbit", "99999999999999Gbit"] {
            assert_eq!(BitRate::parse(text), None, "{text}");
        }
    }
}
