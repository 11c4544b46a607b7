//! The sections `[[receiver]]`.

mod folder;
mod tcp;

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use shared::config::Problems;

pub use super::diode::config::DiodeConfig;
use super::diode::config::RawDiode;
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
    /// A link over which nothing goes back.
    UdpDiode(DiodeConfig),
    /// A stream of frames, or of syslog messages.
    Tcp(TcpConfig),
}

impl ReceiverKind {
    /// The name of the kind, as configured.
    pub fn as_str(&self) -> &'static str {
        match self {
            ReceiverKind::Folder(_) => "folder",
            ReceiverKind::UdpDiode(_) => "udp-diode",
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
    UdpDiode(RawDiode),
}

impl RawReceiver {
    fn name(&self) -> &str {
        match self {
            RawReceiver::Folder(raw) => &raw.name,
            RawReceiver::Tcp(raw) => &raw.name,
            RawReceiver::UdpDiode(raw) => &raw.name,
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
            RawReceiver::UdpDiode(raw) => {
                ReceiverKind::UdpDiode(raw.check(&format!("receiver[{position}]"), problems))
            }
        };
        receivers.push(ReceiverConfig { name, kind });
    }
    receivers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Sections {
        receiver: Vec<RawReceiver>,
    }

    fn check(text: &str) -> Result<Vec<ReceiverConfig>, String> {
        let raw: Sections = toml::from_str(text).map_err(|err| err.to_string())?;
        let mut problems = Problems::default();
        let receivers = check_all(raw.receiver, Path::new("/inbox"), &mut problems);
        problems.into_result(Path::new("low.toml")).map_err(|err| err.to_string())?;
        Ok(receivers)
    }

    #[test]
    fn every_section_in_the_appliances_page_is_taken() {
        let page = include_str!("../../../packaging/doc/appliances.md");
        let blocks = page.split("```toml\n# low.toml\n").skip(1);
        let blocks: Vec<&str> = blocks.filter_map(|rest| rest.split("```").next()).collect();
        assert!(blocks.len() >= 6, "{}", blocks.len());
        for block in blocks {
            let receivers = check(block).unwrap_or_else(|err| panic!("{block}: {err}"));
            assert_eq!(receivers.len(), 1, "{block}");
        }
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let folder = "type = \"folder\"\npath = \"/f\"\n";
        let tcp = "type = \"tcp\"\nkey-file = \"/k\"\n";
        for (section, named) in [
            ("type = \"folder\"\npath = \"/inbox\"".to_owned(), "receiver[0].path"),
            (format!("{folder}polls = 0"), "receiver[0].polls"),
            (format!("{folder}after = \"move\""), "receiver[0].move-to"),
            (format!("{folder}move-to = \"/m\""), "receiver[0].move-to"),
            (format!("{folder}done-marker = \"NAME\""), "receiver[0].done-marker"),
            (format!("{folder}ignore-suffixes = [\"\"]"), "receiver[0].ignore-suffixes"),
            (tcp.to_owned(), "receiver[0].bind"),
            (format!("{tcp}bind = \"0.0.0.0:1\"\nconnect = \"h:1\""), "receiver[0].bind"),
            (format!("{tcp}bind = \"0.0.0.0:1\"\ntransport = \"udp\""), "receiver[0].transport"),
            (format!("{tcp}connect = \"h:1\"\nconnections-max = 0"), "connections-max"),
        ] {
            let problem = check(&format!("[[receiver]]\nname = \"x\"\n{section}")).unwrap_err();
            assert!(problem.contains(named), "{section}: {problem}");
        }
    }
}
