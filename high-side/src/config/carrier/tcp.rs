//! `type = "tcp"`: a diode's TCP proxy, or whatever passes only syslog.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shared::config::{ByteSize, Problems, Span};
use shared::record::Lane;
use shared::stream::syslog::Separation;

use super::{Common, all_lanes};

/// A diode's TCP proxy, or whatever passes only syslog.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpSettings {
    /// Where the proxy listens, as `HOST:PORT`.
    pub address: String,
    /// The link's key, which the receiver has too.
    pub key_file: PathBuf,
    /// What stands around the frames.
    pub around: Around,
    /// The most bytes per second on the wire.
    pub rate: Option<u64>,
    /// How often each bundle is sent.
    pub repeats: u32,
    /// From the end of one pass of a bundle to the begin of the next.
    pub repeat_interval: Duration,
    /// How far a broken connection throws a bundle back.
    pub rewind_bytes: u64,
    /// After so many bytes a connection is closed and another one begun.
    pub connection_bytes_max: Option<u64>,
    /// With nothing to send for so long, the connection is closed.
    pub idle_close: Duration,
    /// A peer that takes nothing for so long is given up.
    pub stall_timeout: Duration,
}

impl TcpSettings {
    /// Whether datagrams are sent, and nothing is connected to.
    pub(crate) fn is_udp(&self) -> bool {
        matches!(self.around, Around::Syslog { separation: Separation::Datagram, .. })
    }
}

/// What stands around the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Around {
    /// Nothing.
    Nothing,
    /// Each frame is the text of a syslog message.
    Syslog {
        /// How messages are told apart.
        separation: Separation,
        /// The longest message.
        message_bytes_max: usize,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::config) struct RawTcp {
    name: String,
    #[serde(default = "all_lanes")]
    lanes: Vec<Lane>,
    connect: String,
    key_file: PathBuf,
    #[serde(default)]
    framing: Framing,
    #[serde(default)]
    transport: Transport,
    #[serde(default)]
    syslog_separation: RawSeparation,
    message_bytes_max: Option<ByteSize>,
    rate: Option<ByteSize>,
    #[serde(default = "repeats")]
    repeats: u32,
    #[serde(default = "repeat_interval")]
    repeat_interval: Span,
    #[serde(default = "rewind_bytes")]
    rewind_bytes: ByteSize,
    connection_bytes_max: Option<ByteSize>,
    #[serde(default = "idle_close")]
    idle_close: Span,
    #[serde(default = "stall_timeout")]
    stall_timeout: Span,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Framing {
    #[default]
    Frames,
    Syslog,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Transport {
    #[default]
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawSeparation {
    LineFeed,
    #[default]
    OctetCount,
}

/// Once more than once: no answer tells what was lost behind the proxy.
fn repeats() -> u32 {
    2
}

/// Longer than most proxies take to start again.
fn repeat_interval() -> Span {
    Span::secs(30)
}

/// What a proxy may hold in memory and lose.
fn rewind_bytes() -> ByteSize {
    ByteSize::mib(16)
}

/// Some proxies hand on the rest of a block only at the end of a connection.
fn idle_close() -> Span {
    Span::secs(1)
}

fn stall_timeout() -> Span {
    Span::secs(60)
}

/// What every receiver of RFC 5424 should take.
const MESSAGE_BYTES_MAX: ByteSize = ByteSize::kib(2);
/// Less has no room for a frame; more has no datagram.
const MESSAGE_BYTES: std::ops::RangeInclusive<u64> = 512..=60_000;

impl RawTcp {
    pub(super) fn common(&self) -> Common<'_> {
        Common { name: &self.name, lanes: &self.lanes }
    }

    pub(super) fn check(self, key: &str, problems: &mut Problems) -> TcpSettings {
        let at = |name: &str| format!("{key}.{name}");
        let port = self.connect.rsplit_once(':').map(|(_, port)| port.parse::<u16>().is_ok());
        problems.check(
            port == Some(true),
            &at("connect"),
            "is the proxy's name or address, and its port: 192.0.2.7:5000",
        );
        problems.check(
            self.key_file.is_absolute(),
            &at("key-file"),
            "is the absolute path of the link's key",
        );
        let syslog = self.framing == Framing::Syslog;
        let udp = self.transport == Transport::Udp;
        problems.check(
            syslog || !udp,
            &at("transport"),
            "is udp only for framing = \"syslog\"; for bundles over UDP there is type = \"udp-diode\"",
        );
        let message_bytes_max = self.message_bytes_max.unwrap_or(MESSAGE_BYTES_MAX);
        problems.check(
            MESSAGE_BYTES.contains(&message_bytes_max.0),
            &at("message-bytes-max"),
            format!("is {} to {} bytes", MESSAGE_BYTES.start(), MESSAGE_BYTES.end()),
        );
        problems.check(
            syslog || self.message_bytes_max.is_none(),
            &at("message-bytes-max"),
            "is for framing = \"syslog\" only",
        );
        let rate = self.rate.map(|rate| rate.0);
        problems.check(
            rate.is_none_or(|rate| rate >= RATE_MIN),
            &at("rate"),
            format!("is at least {RATE_MIN} bytes per second"),
        );
        problems.check(
            !udp || rate.is_some(),
            &at("rate"),
            "must be set for transport = \"udp\": nothing else slows datagrams down",
        );
        problems.check((1..=100).contains(&self.repeats), &at("repeats"), "is 1 to 100");
        problems.check(
            !self.stall_timeout.0.is_zero(),
            &at("stall-timeout"),
            "must be more than nothing",
        );
        let connection_bytes_max = self.connection_bytes_max.map(|bytes| bytes.0);
        problems.check(
            connection_bytes_max.is_none_or(|bytes| bytes >= CONNECTION_BYTES_MIN),
            &at("connection-bytes-max"),
            format!("is at least {}", ByteSize(CONNECTION_BYTES_MIN)),
        );
        let separation = match (udp, self.syslog_separation) {
            (true, _) => Separation::Datagram,
            (false, RawSeparation::OctetCount) => Separation::OctetCount,
            (false, RawSeparation::LineFeed) => Separation::LineFeed,
        };
        let message_bytes_max = message_bytes_max.0 as usize;
        TcpSettings {
            address: self.connect,
            key_file: self.key_file,
            around: if syslog {
                Around::Syslog { separation, message_bytes_max }
            } else {
                Around::Nothing
            },
            rate,
            repeats: self.repeats,
            repeat_interval: self.repeat_interval.0,
            rewind_bytes: self.rewind_bytes.0,
            connection_bytes_max,
            idle_close: self.idle_close.0,
            stall_timeout: self.stall_timeout.0,
        }
    }
}

/// Some pieces; with less, connecting would be most of the work.
const CONNECTION_BYTES_MIN: u64 = 256 * 1024;
/// Slower than this, a piece takes more than a minute.
const RATE_MIN: u64 = 1024;
