//! `type = "tcp"`: a stream of frames, or of syslog messages.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shared::config::{ByteSize, Problems, Span};

/// A stream of frames, or of syslog messages.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpConfig {
    /// The link's key, which the sender has too.
    pub key_file: PathBuf,
    /// What stands around the frames.
    pub framing: Framing,
    /// Who connects to whom.
    pub peer: TcpPeer,
    /// Connections at one time; beyond them the one that was silent for longest is closed.
    pub connections_max: usize,
    /// A connection that is silent for so long is closed.
    pub idle_timeout: Duration,
    /// What may be kept of bundles that are not whole, in bytes.
    pub partial_bytes_max: u64,
    /// How long a bundle may wait for its next piece.
    pub partial_age_max: Duration,
}

/// What stands around the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// Nothing.
    Frames,
    /// Each frame is the text of a syslog message.
    Syslog,
}

/// Who connects to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpPeer {
    /// We connect to a proxy.
    Connect(String),
    /// Syslog messages come as datagrams.
    Datagrams(SocketAddr),
    /// The proxy connects to us.
    Listen(SocketAddr),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct RawTcp {
    pub(super) name: String,
    key_file: PathBuf,
    #[serde(default = "frames")]
    framing: Framing,
    #[serde(default)]
    transport: Transport,
    bind: Option<String>,
    connect: Option<String>,
    #[serde(default = "connections_max")]
    connections_max: usize,
    #[serde(default = "idle_timeout")]
    idle_timeout: Span,
    #[serde(default = "partial_bytes_max")]
    partial_bytes_max: ByteSize,
    #[serde(default = "partial_age_max")]
    partial_age_max: Span,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Transport {
    #[default]
    Tcp,
    Udp,
}

fn frames() -> Framing {
    Framing::Frames
}

/// A sender has one connection; a proxy may keep some that ended on its other half.
fn connections_max() -> usize {
    16
}

/// Longer than the pause between two heartbeats of most proxies.
fn idle_timeout() -> Span {
    Span::secs(600)
}

/// Some bundles of the largest size.
fn partial_bytes_max() -> ByteSize {
    ByteSize::gib(16)
}

/// As long as the high side keeps what it handed over.
fn partial_age_max() -> Span {
    Span::secs(7 * 24 * 3600)
}

impl RawTcp {
    pub(super) fn check(self, key: &str, problems: &mut Problems) -> TcpConfig {
        let at = |name: &str| format!("{key}.{name}");
        problems.check(self.key_file.is_absolute(), &at("key-file"), "must be an absolute path");
        problems.check(
            (1..=1024).contains(&self.connections_max),
            &at("connections-max"),
            "is 1 to 1024",
        );
        for (name, zero) in [
            ("idle-timeout", self.idle_timeout.0.is_zero()),
            ("partial-bytes-max", self.partial_bytes_max.0 == 0),
            ("partial-age-max", self.partial_age_max.0.is_zero()),
        ] {
            problems.check(!zero, &at(name), "must be more than nothing");
        }
        let udp = self.transport == Transport::Udp;
        problems.check(
            !udp || self.framing == Framing::Syslog,
            &at("transport"),
            "is udp only for framing = \"syslog\"; for bundles over UDP there is type = \"udp-diode\"",
        );
        let peer = match (self.bind, self.connect) {
            (Some(bind), None) => bind
                .parse()
                .ok()
                .map(|bind| if udp { TcpPeer::Datagrams(bind) } else { TcpPeer::Listen(bind) }),
            (None, Some(connect)) if !udp => {
                let port = connect.rsplit_once(':').map(|(_, port)| port.parse::<u16>().is_ok());
                (port == Some(true)).then_some(TcpPeer::Connect(connect))
            }
            _ => None,
        };
        if peer.is_none() {
            problems.add(
                &at("bind"),
                "is the address and port to listen at (0.0.0.0:6514); or give connect = \"HOST:PORT\" instead (TCP only)",
            );
        }
        TcpConfig {
            key_file: self.key_file,
            framing: self.framing,
            // A problem was noted where there is none.
            peer: peer.unwrap_or(TcpPeer::Connect(String::new())),
            connections_max: self.connections_max,
            idle_timeout: self.idle_timeout.0,
            partial_bytes_max: self.partial_bytes_max.0,
            partial_age_max: self.partial_age_max.0,
        }
    }
}
