//! `type = "udp-diode"`: a link over which nothing goes back.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use shared::config::{ByteSize, Problems};

/// A link over which nothing goes back.
#[derive(Clone, Debug, PartialEq)]
pub struct DiodeConfig {
    /// Where datagrams arrive.
    pub bind: SocketAddr,
    /// The key that both ends share.
    pub link_key_file: PathBuf,
    /// The socket's buffer, in bytes.
    pub receive_buffer: u64,
    /// What may be kept on the disk of bundles that are not whole, in bytes.
    pub state_bytes_max: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct RawDiode {
    pub(crate) name: String,
    bind: String,
    link_key_file: PathBuf,
    #[serde(default = "receive_buffer")]
    receive_buffer: ByteSize,
    #[serde(default = "state_bytes_max")]
    state_bytes_max: ByteSize,
}

/// 50 ms at 300 MB a second; an ordinary user gets what `net.core.rmem_max` allows.
fn receive_buffer() -> ByteSize {
    ByteSize::mib(16)
}

/// Two of the largest bundles.
fn state_bytes_max() -> ByteSize {
    ByteSize::gib(8)
}

impl RawDiode {
    pub(crate) fn check(self, key: &str, problems: &mut Problems) -> DiodeConfig {
        let bind = self.bind.parse().unwrap_or_else(|_| {
            problems.add(&format!("{key}.bind"), "is ADDRESS:PORT, as 0.0.0.0:5514 or [::]:5514");
            SocketAddr::from(([127, 0, 0, 1], 1))
        });
        problems.check(
            self.link_key_file.is_absolute(),
            &format!("{key}.link-key-file"),
            "must be an absolute path",
        );
        problems.check(
            self.receive_buffer >= ByteSize::kib(64) && self.receive_buffer <= ByteSize::mib(512),
            &format!("{key}.receive-buffer"),
            "is from 64KiB to 512MiB",
        );
        problems.check(
            self.state_bytes_max >= ByteSize::mib(1),
            &format!("{key}.state-bytes-max"),
            "is at least 1MiB; a bundle larger than this never completes",
        );
        DiodeConfig {
            bind,
            link_key_file: self.link_key_file,
            receive_buffer: self.receive_buffer.0,
            state_bytes_max: self.state_bytes_max.0,
        }
    }
}
