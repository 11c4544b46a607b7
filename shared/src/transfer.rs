//! Transfer records: what was put on a medium, by whom, and what the other side found on it.
//!
//! ```text
//! high: TransferRecord ──sign──> STEM.json, STEM.txt, each with .sig ──medium──> low: verified, compared
//!         └─> STATE/transfers                                                     │
//!                       STEM.received-SITE-TIME.json, .txt, each with .sig <──sign─┘ Countersignature
//! ```
//!
//! A record is a JSON file for programs and a text for people, each signed as it stands: an SSHSIG in
//! the namespace `penstock-transfer@v1`, which `ssh-keygen -Y verify` checks. A record decides
//! nothing: every bundle is verified by itself.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock::Nanos;
use crate::device::Device;
use crate::durable;
use crate::keys::{SigningKey, StatementKind};
use crate::record::Lane;

/// Names of records begin so.
pub const RECORD_PREFIX: &str = "penstock-transfer-";
/// What stands between a record's name and the other side's, in the name of a countersignature.
const RECEIVED: &str = ".received-";
/// Prefix, origin and time have less.
const NAME_BYTES_MAX: usize = 96;
/// How much of a site's name stands in a file's name.
const SITE_CHARS_MAX: usize = 32;
/// No record is longer: it holds 50,000 bundles.
pub const RECORD_BYTES_MAX: u64 = 32 << 20;

/// What the high side put on a medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TransferRecord {
    /// The version of the record: 1.
    #[serde(rename = "penstock-transfer")]
    pub version: u32,
    /// The record's name: that of its files, without extension.
    pub record: String,
    /// Whose bundles these are.
    pub origin: String,
    /// When, RFC 3339.
    pub time: String,
    /// Who ran the command.
    pub officer: String,
    /// On which machine.
    pub host: String,
    /// With which program.
    pub program: String,
    /// On which medium.
    pub medium: Device,
    /// How many bundles.
    pub count: u64,
    /// Their length together.
    pub bytes: u64,
    /// The bundles.
    pub bundles: Vec<TransferredBundle>,
}

/// One bundle on a medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TransferredBundle {
    /// Its file's name.
    pub name: String,
    /// Its file's length.
    pub bytes: u64,
    /// Its file's SHA-256.
    pub sha256: String,
    /// The digest that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Its epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Its lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// Its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Into how many parts it was divided, and how many of them restore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Divided>,
    /// Its files on this medium: the bundle itself, or parts of it.
    pub files: Vec<TransferredFile>,
}

/// How a bundle was divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Divided {
    /// How many parts restore the bundle.
    pub data: u16,
    /// How many parts more there are.
    pub recovery: u16,
}

/// One file on a medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TransferredFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// Which part it is, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u16>,
}

/// What the low side found on a medium, compared with a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Countersignature {
    /// The version: 1.
    #[serde(rename = "penstock-transfer-received")]
    pub version: u32,
    /// The record's name.
    pub record: String,
    /// The SHA-256 of the record's JSON, as it was found.
    pub record_sha256: String,
    /// Whose bundles these are.
    pub origin: String,
    /// The receiving site's name.
    pub site: String,
    /// When, RFC 3339.
    pub time: String,
    /// Who ran the command.
    pub officer: String,
    /// On which machine.
    pub host: String,
    /// With which program.
    pub program: String,
    /// What the medium looked like from here.
    pub medium: Device,
    /// Who signed the record; where nobody did who is believed, why.
    pub signed: String,
    /// How many files are what the record says.
    pub intact: u64,
    /// Files that the record names and that are not there.
    pub missing: Vec<String>,
    /// Files that are not what the record says, or can't be read.
    pub changed: Vec<String>,
    /// Files named as ours are that no record on the medium names.
    pub extra: Vec<String>,
    /// What became of each bundle of the record.
    pub bundles: Vec<ReceivedBundle>,
}

/// What became of one bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReceivedBundle {
    /// Its file's name.
    pub name: String,
    /// `admitted`, `duplicate`, `quarantined`, `unusable`, `parts-collected`, `missing`, `failed`.
    pub outcome: String,
    /// Why, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl TransferRecord {
    /// The name of a record: origin and time, in characters that every file system takes.
    pub fn name_at(origin: &str, time: Nanos) -> String {
        format!("{RECORD_PREFIX}{origin}-{}", digits(time))
    }

    /// Parses a record's JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(bytes).map_err(|err| err.to_string())?;
        if record.version != 1 {
            return Err(format!(
                "is of version {}, which this program does not know",
                record.version
            ));
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let name = &record.record;
        if name.len() > NAME_BYTES_MAX
            || !name.bytes().all(plain)
            || !name.starts_with(RECORD_PREFIX)
        {
            return Err("has a name that no record has".to_owned());
        }
        Ok(record)
    }

    /// All files that the record names.
    pub fn files(&self) -> impl Iterator<Item = &TransferredFile> {
        self.bundles.iter().flat_map(|bundle| &bundle.files)
    }

    /// The record for people.
    pub fn to_text(&self) -> String {
        let mut text = String::from("Penstock transfer record\n\n");
        let files = self.files().count();
        for (name, value) in [
            ("record", plain(&self.record)),
            ("origin", plain(&self.origin)),
            ("time", plain(&self.time)),
            ("officer", format!("{} on {}", plain(&self.officer), plain(&self.host))),
            ("program", plain(&self.program)),
            ("medium", plain(&self.medium.describe())),
            ("bundles", self.count.to_string()),
            ("bytes", self.bytes.to_string()),
            ("files", files.to_string()),
        ] {
            let _ = writeln!(text, "{name:<9}{value}");
        }
        text.push_str("\nSHA-256 of each file on the medium, its length, its name\n\n");
        for bundle in &self.bundles {
            if let Some(Divided { data, recovery }) = bundle.parts {
                let total = data.saturating_add(recovery);
                let name = plain(&bundle.name);
                let _ = writeln!(
                    text,
                    "{name}: {} bytes, in {total} parts of which any {data} restore it",
                    bundle.bytes
                );
            }
            for file in &bundle.files {
                let (sha256, name) = (plain(&file.sha256), plain(&file.name));
                let _ = writeln!(text, "{sha256}  {:>12}  {name}", file.bytes);
            }
        }
        text
    }

    /// Writes the record's files into a folder, each durable or absent.
    pub fn write(&self, dir: &Path, key: Option<&SigningKey>) -> io::Result<()> {
        write_signed(dir, &self.record, &to_json(self)?, &self.to_text(), key)
    }
}

impl Countersignature {
    /// The name of its files, without extension.
    pub fn name(&self, time: Nanos) -> String {
        let fits = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        let site: String = self.site.chars().filter(fits).take(SITE_CHARS_MAX).collect();
        format!("{}{RECEIVED}{site}-{}", self.record, digits(time))
    }

    /// Whether everything that the record names is here and taken in.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.changed.is_empty() && self.bundles.iter().all(is_taken)
    }

    /// The countersignature for people.
    pub fn to_text(&self) -> String {
        let mut text = String::from("Penstock transfer record: received\n\n");
        for (name, value) in [
            ("record", plain(&self.record)),
            ("SHA-256", plain(&self.record_sha256)),
            ("signed", plain(&self.signed)),
            ("origin", plain(&self.origin)),
            ("site", plain(&self.site)),
            ("time", plain(&self.time)),
            ("officer", format!("{} on {}", plain(&self.officer), plain(&self.host))),
            ("program", plain(&self.program)),
            ("medium", plain(&self.medium.describe())),
            ("intact", format!("{} file(s)", self.intact)),
        ] {
            let _ = writeln!(text, "{name:<9}{value}");
        }
        for (what, names) in
            [("missing", &self.missing), ("changed", &self.changed), ("extra", &self.extra)]
        {
            let _ = writeln!(text, "{what:<9}{} file(s)", names.len());
            for name in names {
                let _ = writeln!(text, "         {}", plain(name));
            }
        }
        text.push_str("\nWhat became of each bundle\n\n");
        for bundle in &self.bundles {
            let code = bundle.code.as_deref().map(|code| format!(" ({})", plain(code)));
            let code = code.unwrap_or_default();
            let _ = writeln!(text, "{:<16}{}{code}", plain(&bundle.outcome), plain(&bundle.name));
        }
        text
    }

    /// Writes its files into a folder, each durable or absent.
    pub fn write(&self, dir: &Path, time: Nanos, key: Option<&SigningKey>) -> io::Result<()> {
        write_signed(dir, &self.name(time), &to_json(self)?, &self.to_text(), key)
    }
}

/// Whether a bundle is admitted, now or before.
fn is_taken(bundle: &ReceivedBundle) -> bool {
    matches!(&*bundle.outcome, "admitted" | "duplicate")
}

/// Whether a file is named as a record's JSON is.
pub fn is_record_name(name: &str) -> bool {
    let stem = name.strip_suffix(".json");
    stem.is_some_and(|stem| stem.starts_with(RECORD_PREFIX) && !stem.contains(RECEIVED))
}

/// Whether a file is named as a file of a record is, and is no countersignature.
pub fn is_record_file(name: &str, record: &str) -> bool {
    let rest = name.strip_prefix(record).unwrap_or_default();
    [".json", ".json.sig", ".txt", ".txt.sig"].contains(&rest)
}

/// Removes what killed runs left of records in a folder: half written files and, of the high side's own
/// records, files whose JSON was never written. Gives how many.
pub fn remove_half_written(dir: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !name.starts_with(RECORD_PREFIX) {
            continue;
        }
        let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
        let no_json = is_record_file(name, stem) && !dir.join(format!("{stem}.json")).exists();
        if name.ends_with(durable::PARTIAL_SUFFIX) || no_json {
            durable::remove(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn to_json(value: &impl Serialize) -> io::Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    text.push('\n');
    Ok(text)
}

/// The signature before what it signs: what stands there unsigned was not signed.
fn write_signed(
    dir: &Path,
    stem: &str,
    json: &str,
    text: &str,
    key: Option<&SigningKey>,
) -> io::Result<()> {
    for (extension, content) in [("txt", text), ("json", json)] {
        let path = dir.join(format!("{stem}.{extension}"));
        if let Some(key) = key {
            let signature = key.sign_statement(StatementKind::Transfer, content.as_bytes());
            let signature = signature.map_err(io::Error::other)?;
            let sig = dir.join(format!("{stem}.{extension}.sig"));
            durable::write(&sig, signature.as_bytes(), 0o644)?;
        }
        durable::write(&path, content.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// Year to milliseconds, as 17 digits.
fn digits(time: Nanos) -> String {
    time.to_string().chars().filter(char::is_ascii_digit).take(17).collect()
}

/// What came from elsewhere is shown on one line.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn record() -> TransferRecord {
        let file = |part: u16| TransferredFile {
            name: format!("a.pstk.part-0{part}-of-03"),
            bytes: 1024,
            sha256: "00".repeat(32),
            part: Some(part),
        };
        TransferRecord {
            version: 1,
            record: TransferRecord::name_at("plant-7", Nanos(1_795_468_219_000_000_001)),
            origin: "plant-7".to_owned(),
            time: "2026-11-23T21:10:19Z".to_owned(),
            officer: "alice".to_owned(),
            host: "high-1".to_owned(),
            program: "penstock-high/0.1.0".to_owned(),
            medium: Device { folder: "/media/a\nb".to_owned(), ..Device::default() },
            count: 1,
            bytes: 1000,
            bundles: vec![TransferredBundle {
                name: "a.pstk".to_owned(),
                bytes: 1000,
                sha256: "11".repeat(32),
                digest: None,
                epoch: Some(3),
                lane: Some(Lane::Flash),
                number: Some(2),
                parts: Some(Divided { data: 2, recovery: 1 }),
                files: vec![file(1), file(3)],
            }],
        }
    }

    #[test]
    fn a_record_reads_as_it_was_written_and_its_text_has_a_line_for_each_file() {
        let record = record();
        assert_eq!(record.record, "penstock-transfer-plant-7-20261123211019000");
        let json = to_json(&record).unwrap();
        assert_eq!(TransferRecord::parse(json.as_bytes()).unwrap(), record);
        let text = record.to_text();
        assert!(
            text.contains("a.pstk: 1000 bytes, in 3 parts of which any 2 restore it\n"),
            "{text}"
        );
        assert!(text.contains("        1024  a.pstk.part-03-of-03\n"), "{text}");
        assert!(text.contains("medium   /media/a?b ("), "{text}");
        for (from, to) in [
            ("\"penstock-transfer\": 1", "\"penstock-transfer\": 2"),
            ("\"origin\"", "\"origins\""),
            ("\"count\": 1", "\"count\": -1"),
            ("\"record\": \"penstock-transfer-plant", "\"record\": \"penstock-transfer-../plant"),
        ] {
            assert!(TransferRecord::parse(json.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn what_killed_runs_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (half, whole) = ("penstock-transfer-a-1", "penstock-transfer-a-2");
        let keep = [
            format!("{whole}.txt"),
            format!("{whole}.txt.sig"),
            format!("{whole}.json"),
            format!("{half}.received-soc-1.txt"),
            "a.pstk.partial".to_owned(),
            "holiday.jpg".to_owned(),
        ];
        let remove = [
            format!("{half}.txt"),
            format!("{half}.json.sig"),
            format!("{half}.json.partial"),
            format!("{whole}.received-soc-1.txt.sig.partial"),
        ];
        for name in keep.iter().chain(&remove) {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        assert_eq!(remove_half_written(dir.path()).unwrap(), remove.len());
        assert!(keep.iter().all(|name| dir.path().join(name).exists()));
    }

    #[test]
    fn names_of_records_and_countersignatures_differ() {
        let record = record();
        let json = format!("{}.json", record.record);
        assert!(is_record_name(&json) && is_record_file(&json, &record.record));
        let received = format!("{}{RECEIVED}soc-20261123211019000.json", record.record);
        assert!(!is_record_name(&received) && !is_record_file(&received, &record.record));
        assert!(!is_record_name("penstock-transfer-x.txt"));
    }
}
