//! The sections `[[carrier]]`.

mod diode;
mod folder;
mod tcp;

use std::collections::BTreeSet;

use serde::Deserialize;
use shared::config::Problems;
use shared::record::Lane;

use diode::RawDiode;
pub use diode::{BitRate, DiodeSettings};
use folder::RawFolder;
pub use folder::{DoneMarker, FolderSettings, SidecarOrder, Temporary};
use tcp::RawTcp;
pub use tcp::{Around, TcpSettings};

/// One carrier, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CarrierSettings {
    /// Its name: in the database, in logs, in custody.
    pub name: String,
    /// The lanes that it carries.
    pub lanes: Vec<Lane>,
    /// What it is.
    pub kind: CarrierKind,
}

/// What a carrier is.
#[derive(Clone, Debug, PartialEq)]
pub enum CarrierKind {
    /// A folder from which something else takes the bundles.
    Folder(FolderSettings),
    /// A link over which nothing comes back.
    UdpDiode(DiodeSettings),
    /// A diode's TCP proxy, or whatever passes only syslog.
    Tcp(TcpSettings),
}

impl CarrierKind {
    /// The name of the kind, as configured.
    pub fn as_str(&self) -> &'static str {
        match self {
            CarrierKind::Folder(_) => "folder",
            CarrierKind::UdpDiode(_) => "udp-diode",
            CarrierKind::Tcp(_) => "tcp",
        }
    }
}

/// One section as it is written: `type` says which keys it has.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum RawCarrier {
    Folder(RawFolder),
    UdpDiode(RawDiode),
    Tcp(RawTcp),
}

/// The keys that every carrier has.
pub(super) struct Common<'a> {
    name: &'a str,
    lanes: &'a [Lane],
}

/// Checks all sections. `outbox` is where bundles come from.
pub(super) fn check_all(
    raw: Vec<RawCarrier>,
    outbox: &std::path::Path,
    problems: &mut Problems,
) -> Vec<CarrierSettings> {
    let mut names = BTreeSet::new();
    let mut carriers = Vec::new();
    for (position, raw) in raw.into_iter().enumerate() {
        let common = match &raw {
            RawCarrier::Folder(raw) => raw.common(),
            RawCarrier::UdpDiode(raw) => raw.common(),
            RawCarrier::Tcp(raw) => raw.common(),
        };
        let (name, lanes) = (common.name.to_owned(), common.lanes.to_vec());
        let key = format!("carrier.{name}");
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        problems.check(
            (1..=32).contains(&name.len()) && name.bytes().all(plain),
            &format!("carrier[{position}].name"),
            "is 1 to 32 of a-z, 0-9 and \"-\"",
        );
        problems.check(names.insert(name.clone()), &key, "is the name of another carrier, too");
        let distinct: BTreeSet<&Lane> = lanes.iter().collect();
        problems.check(
            !lanes.is_empty() && distinct.len() == lanes.len(),
            &format!("{key}.lanes"),
            "names at least one lane, and each once",
        );
        let kind = match raw {
            RawCarrier::Folder(raw) => CarrierKind::Folder(raw.check(&key, outbox, problems)),
            RawCarrier::UdpDiode(raw) => CarrierKind::UdpDiode(raw.check(&key, problems)),
            RawCarrier::Tcp(raw) => CarrierKind::Tcp(raw.check(&key, problems)),
        };
        carriers.push(CarrierSettings { name, lanes, kind });
    }
    carriers
}

/// Without `lanes`, a carrier takes all.
pub(super) fn all_lanes() -> Vec<Lane> {
    Lane::ALL.to_vec()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[derive(Deserialize)]
    struct Sections {
        carrier: Vec<RawCarrier>,
    }

    fn check(text: &str) -> Result<Vec<CarrierSettings>, String> {
        let raw: Sections = toml::from_str(text).map_err(|err| err.to_string())?;
        let mut problems = Problems::default();
        let carriers = check_all(raw.carrier, Path::new("/outbox"), &mut problems);
        problems.into_result(Path::new("high.toml")).map_err(|err| err.to_string())?;
        Ok(carriers)
    }

    #[test]
    fn every_section_in_the_appliances_page_is_taken() {
        let page = include_str!("../../../../packaging/doc/appliances.md");
        let blocks = page.split("```toml\n# high.toml\n").skip(1);
        let blocks: Vec<&str> = blocks.filter_map(|rest| rest.split("```").next()).collect();
        assert!(blocks.len() >= 10, "{}", blocks.len());
        for block in blocks {
            let carriers = check(block).unwrap_or_else(|err| panic!("{block}: {err}"));
            assert_eq!(carriers.len(), 1, "{block}");
        }
    }

    #[test]
    fn a_stream_says_what_it_can_not_be() {
        let head = "[[carrier]]\nname = \"x\"\ntype = \"tcp\"\n";
        for (keys, named) in [
            ("connect = \"nowhere\"\nkey-file = \"/k\"", "carrier.x.connect"),
            ("connect = \"h:1\"\nkey-file = \"k\"", "carrier.x.key-file"),
            ("connect = \"h:1\"\nkey-file = \"/k\"\ntransport = \"udp\"", "carrier.x.transport"),
            (
                "connect = \"h:1\"\nkey-file = \"/k\"\ntransport = \"udp\"\nframing = \"syslog\"",
                "carrier.x.rate",
            ),
            ("connect = \"h:1\"\nkey-file = \"/k\"\nrepeats = 0", "carrier.x.repeats"),
            (
                "connect = \"h:1\"\nkey-file = \"/k\"\nmessage-bytes-max = \"1KiB\"",
                "carrier.x.message-bytes-max",
            ),
            ("connect = \"h:1\"\nkey-file = \"/k\"\ncolour = 1", "colour"),
        ] {
            let problem = check(&format!("{head}{keys}")).unwrap_err();
            assert!(problem.contains(named), "{keys}: {problem}");
        }
    }
}
