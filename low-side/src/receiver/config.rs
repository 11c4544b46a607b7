//! The sections `[[receiver]]`.

mod folder;
mod tcp;

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use shared::config::Problems;

use folder::RawFolder;
pub use folder::{After, CommandWhen, FolderConfig, Marker, SidecarUse};
use tcp::RawTcp;
pub use tcp::{Framing, TcpConfig, TcpPeer};

/// One receiver, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceiverConfig {
    /// Its name: in logs, in the status, in custody.
    pub name: String,
    /// What it is.
    pub kind: ReceiverKind,
}

/// What a receiver is.
#[derive(Clone, Debug, PartialEq)]
pub enum ReceiverKind {
    /// A folder that something else puts bundles into.
    Folder(FolderConfig),
    /// A stream of frames, or of syslog messages.
    Tcp(TcpConfig),
}

impl ReceiverKind {
    /// The name of the kind, as configured.
    pub fn as_str(&self) -> &'static str {
        match self {
            ReceiverKind::Folder(_) => "folder",
            ReceiverKind::Tcp(_) => "tcp",
        }
    }
}

/// One section as it is written: `type` says which keys it has.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum RawReceiver {
    Folder(RawFolder),
    Tcp(RawTcp),
}

impl RawReceiver {
    fn name(&self) -> &str {
        match self {
            RawReceiver::Folder(raw) => &raw.name,
            RawReceiver::Tcp(raw) => &raw.name,
        }
    }
}

/// Checks all sections. `inbox` is where bundles go.
pub(crate) fn check_all(
    raw: Vec<RawReceiver>,
    inbox: &Path,
    problems: &mut Problems,
) -> Vec<ReceiverConfig> {
    let mut names = BTreeSet::new();
    let mut receivers = Vec::new();
    for (position, raw) in raw.into_iter().enumerate() {
        let name = raw.name().to_owned();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let key = format!("receiver[{position}].name");
        problems.check(
            (1..=32).contains(&name.len()) && name.bytes().all(plain),
            &key,
            "is 1 to 32 of a-z, 0-9 and \"-\"",
        );
        problems.check(names.insert(name.clone()), &key, "is taken by another receiver");
        let kind = match raw {
            RawReceiver::Folder(raw) => {
                let key = format!("receiver[{position}]");
                ReceiverKind::Folder(raw.check(&key, inbox, problems))
            }
            RawReceiver::Tcp(raw) => {
                ReceiverKind::Tcp(raw.check(&format!("receiver[{position}]"), problems))
            }
        };
        receivers.push(ReceiverConfig { name, kind });
    }
    receivers
}
