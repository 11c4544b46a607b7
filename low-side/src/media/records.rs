//! Transfer records: who signed them, and whether the medium is what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::durable;
use shared::keys::{StatementKind, StatementProblem, StatementSignature, Trust};
use shared::transfer::{Countersignature, RECORD_BYTES_MAX, TransferRecord};

use super::Found;
use crate::folders::open_untrusted;

/// Who signed a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// The high side that it names, with a key that is believed here.
    Believed {
        /// The key's fingerprint.
        key: String,
    },
    /// Somebody, but it is not believed; and why.
    NotBelieved(String),
    /// Nobody.
    Missing,
}

impl Signature {
    /// For people.
    pub fn to_text(&self) -> String {
        match self {
            Self::Believed { key } => format!("by a trusted key, {key}"),
            Self::NotBelieved(why) => format!("NOT BELIEVED: {why}"),
            Self::Missing => "not signed".to_owned(),
        }
    }

    /// Whether the record is what a trusted high side wrote.
    pub fn is_believed(&self) -> bool {
        matches!(self, Self::Believed { .. })
    }
}

/// A record, compared with the medium.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The folder that it stands in.
    pub folder: PathBuf,
    /// What it says.
    pub record: TransferRecord,
    /// Its JSON, as it came.
    pub json: Vec<u8>,
    /// The signature of the JSON, as it came.
    pub armored: Vec<u8>,
    /// Who signed it.
    pub signature: Signature,
    /// The names of files that are as it says.
    pub intact: BTreeSet<String>,
    /// The names of files that are not there.
    pub missing: Vec<String>,
    /// The names of files that are not as it says, or can't be read.
    pub changed: Vec<String>,
    /// Everything in it was taken in before, as our own countersignature says: what is not there any
    /// more was removed since.
    pub received_before: bool,
}

impl Checked {
    /// Keeps the record as it came: the medium goes back, and may be wiped.
    pub fn keep(&self, dir: &Path) -> std::io::Result<()> {
        let json = dir.join(format!("{}.json", self.record.record));
        durable::write(&json.with_extension("json.sig"), &self.armored, 0o644)?;
        durable::write(&json, &self.json, 0o644)
    }

    /// The text is what people read: one that is there, and is not what the high side signed, is told of.
    fn check_text(&mut self, trust: &Trust, now: Nanos) {
        let name = format!("{}.txt", self.record.record);
        let text = self.folder.join(&name);
        let sound = match (read(&text), read(&text.with_extension("txt.sig"))) {
            (Ok(None), _) => true,
            (Ok(Some(text)), Ok(Some(armored))) => {
                match trust.verify_statement(StatementKind::Transfer, &text, &armored, now) {
                    Ok(signer) => signer.name == self.record.origin,
                    // Whoever wrote the record wrote this text, and it is untouched: that the key is not believed is
                    // said of the record.
                    Err(
                        StatementProblem::NotValidNow
                        | StatementProblem::Revoked
                        | StatementProblem::UnknownKey,
                    ) => !self.signature.is_believed() && self.same_key_signed(&text, &armored),
                    Err(StatementProblem::Form(_) | StatementProblem::Mismatch) => false,
                }
            }
            // Where the medium was being wiped, the text's signature may have gone before it.
            (Ok(Some(_)), Ok(None)) => self.received_before || !self.signature.is_believed(),
            _ => false,
        };
        if !sound {
            self.changed.push(name);
        }
    }

    /// Whether the key that signed the record signed this text, as it stands there.
    fn same_key_signed(&self, text: &[u8], armored: &[u8]) -> bool {
        let kind = StatementKind::Transfer;
        let by = |message: &[u8], armored: &[u8]| {
            let signature = StatementSignature::parse(kind, armored).ok()?;
            signature.fits(message).ok().map(|()| signature.fingerprint())
        };
        let of_record = by(&self.json, &self.armored);
        of_record.is_some() && of_record == by(text, armored)
    }

    /// Whether the medium is what the record says.
    pub fn is_sound(&self) -> bool {
        self.missing.is_empty() && self.changed.is_empty()
    }
}

/// Reads and verifies all records that were found; those that are none are given with the reason. The
/// newest comes first.
pub fn load_all(
    found: &Found,
    trust: &Trust,
    transfers: &Path,
    now: Nanos,
) -> (Vec<Checked>, Vec<(PathBuf, String)>) {
    let (mut records, mut refused) = (Vec::new(), Vec::new());
    for path in &found.records {
        match load(path, trust, transfers, now) {
            Ok(mut record) => {
                record.check_text(trust, now);
                records.push(record);
            }
            Err(problem) => refused.push((path.clone(), problem)),
        }
    }
    records.sort_by(|a: &Checked, b| b.record.record.cmp(&a.record.record));
    (records, refused)
}

fn load(path: &Path, trust: &Trust, transfers: &Path, now: Nanos) -> Result<Checked, String> {
    let json = read(path)?.ok_or("is no regular file")?;
    let record = TransferRecord::parse(&json)?;
    let stem = path.file_stem().unwrap_or_default();
    if stem != record.record.as_str() {
        return Err("has another name than it says".to_owned());
    }
    // Of a record that we signed for before, we have the signature, whatever became of this one.
    let kept = transfers.join(format!("{}.json.sig", record.record));
    let found = match read(&path.with_extension("json.sig")) {
        Ok(None) => read(&kept),
        found => found,
    };
    let mut armored = Vec::new();
    let signature = match found {
        Ok(Some(found)) => {
            armored = found;
            match trust.verify_statement(StatementKind::Transfer, &json, &armored, now) {
                Ok(signer) if signer.name == record.origin => {
                    Signature::Believed { key: signer.key }
                }
                Ok(signer) => {
                    Signature::NotBelieved(format!("signed by another high side, {}", signer.name))
                }
                Err(problem) => Signature::NotBelieved(problem.to_string()),
            }
        }
        Ok(None) => Signature::Missing,
        Err(problem) => Signature::NotBelieved(problem),
    };
    Ok(Checked {
        folder: path.parent().unwrap_or(Path::new(".")).to_owned(),
        signature,
        armored,
        received_before: received_before(transfers, &record.record),
        record,
        json,
        intact: BTreeSet::new(),
        missing: Vec::new(),
        changed: Vec::new(),
    })
}

/// A small file of a medium; `None` where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let file = match open_untrusted(path) {
        Ok(Some(file)) => file,
        Ok(None) => return Err("is no regular file".to_owned()),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|err| err.to_string())?;
    if bytes.len() as u64 > RECORD_BYTES_MAX {
        return Err(format!("is longer than {RECORD_BYTES_MAX} bytes"));
    }
    Ok(Some(bytes))
}

/// Whether we signed for everything in a record before.
fn received_before(transfers: &Path, record: &str) -> bool {
    let begins = format!("{record}.received-");
    let entries = fs::read_dir(transfers).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        let ours = path.extension().is_some_and(|extension| extension == "json")
            && path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(begins.as_bytes()));
        let complete = |text: Vec<u8>| {
            serde_json::from_slice::<Countersignature>(&text).is_ok_and(|it| it.is_complete())
        };
        ours && fs::read(&path).is_ok_and(complete)
    })
}

/// Compares each record with what lies beside it; gives the files in these folders that no record
/// names. `progress` is told the bytes that were read.
pub fn check(
    records: &mut [Checked],
    found: &Found,
    progress: &mut dyn FnMut(u64),
) -> Vec<PathBuf> {
    let mut digests: BTreeMap<PathBuf, Option<(u64, String)>> = BTreeMap::new();
    let mut named: BTreeSet<PathBuf> = BTreeSet::new();
    for checked in &mut *records {
        let here: BTreeMap<String, &Path> = found
            .in_folder(&checked.folder)
            .filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)))
            .collect();
        for file in checked.record.bundles.iter().flat_map(|bundle| &bundle.files) {
            let Some(path) = here.get(&file.name) else {
                if !checked.received_before {
                    checked.missing.push(file.name.clone());
                }
                continue;
            };
            let newer_says = !named.insert((*path).to_owned());
            let digest =
                digests.entry((*path).to_owned()).or_insert_with(|| digest(path, progress));
            let same = digest
                .as_ref()
                .is_some_and(|(bytes, sha256)| *bytes == file.bytes && *sha256 == file.sha256);
            if same {
                checked.intact.insert(file.name.clone());
            } else if !newer_says {
                checked.changed.push(file.name.clone());
            }
        }
    }
    let folders: BTreeSet<&Path> = records.iter().map(|record| record.folder.as_path()).collect();
    let extra = folders.iter().flat_map(|folder| found.in_folder(folder));
    extra.filter(|path| !named.contains(*path)).map(Path::to_owned).collect()
}

/// Length and SHA-256 of a file; `None` where it can't be read.
fn digest(path: &Path, progress: &mut dyn FnMut(u64)) -> Option<(u64, String)> {
    let (bytes, digest) = BundleDigest::of_reader(open_untrusted(path).ok()??, progress).ok()?;
    Some((bytes, digest.to_string()))
}
