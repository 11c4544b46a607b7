//! What `import` does about the medium itself: its transfer records, parts of bundles, the
//! countersignature, and wiping.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shared::bundle::BundleDigest;
use shared::clock::{Clock, SystemClock};
use shared::custody::{Action, CustodyEvent};
use shared::device::Device;
use shared::keys::SigningKey;
use shared::parts::{Added, PartSet};
use shared::process::{host_name, user_name};
use shared::record::Epoch;
use shared::transfer::{
    Countersignature, ReceivedBundle, TransferRecord, TransferredBundle, remove_half_written,
};
use shared::{durable, exit};

use super::import::{Summary, bar};
use super::{Failure, init, put};
use crate::config::Config;
use crate::folders::shown;
use crate::import::{ImportError, Importer, Outcome, Sidecar};
use crate::ledger::{ChainName, Ledger};
use crate::media::{self, Checked, Found, PartStore, PartsError, Sets, Signature, Wiped};
use crate::replay::chain_text;

/// The medium, or several, of one import.
pub(super) struct Medium {
    records: Vec<Checked>,
    /// Files that are named as records and are none.
    no_records: Vec<(PathBuf, String)>,
    /// Files named as ours that no record names.
    extra: Vec<PathBuf>,
    /// What became of each bundle, by its file's name.
    outcomes: BTreeMap<String, (&'static str, Option<String>)>,
    /// What the parts that were found make.
    parts: Vec<Value>,
    signed: Vec<String>,
    wiped: Vec<Wiped>,
}

impl Medium {
    /// Verifies all records and compares them with what is there; says what is wrong before anything
    /// else is said or done.
    pub(super) fn look(config: &Config, importer: &Importer<SystemClock>, found: &Found) -> Self {
        let transfers = config.state_dir.join(TRANSFERS_DIR);
        let keys = importer.keys.current();
        let now = importer.clock.now();
        let (mut records, no_records) = media::load_all(found, &keys.trust, &transfers, now);
        let named = |record: &Checked| record.record.files().map(|file| file.bytes).sum::<u64>();
        let bar = bar(records.iter().map(named).sum());
        bar.set_message("comparing with the transfer record");
        let extra = media::check(&mut records, found, &mut |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        let medium = Self {
            records,
            no_records,
            extra,
            outcomes: BTreeMap::new(),
            parts: Vec::new(),
            signed: Vec::new(),
            wiped: Vec::new(),
        };
        medium.tell(found);
        medium
    }

    fn tell(&self, found: &Found) {
        for (path, problem) in &self.no_records {
            tell!("{}: is no transfer record: {}", shown(path), shown(problem));
        }
        for checked in &self.records {
            let TransferRecord { record, officer, host, time, count, .. } = &checked.record;
            let (officer, host, time) = (shown(officer), shown(host), shown(time));
            tell!(
                "{}: {count} bundle(s) by {officer} on {host} at {time}, {}",
                shown(record),
                checked.signature.to_text()
            );
            for (what, names) in [("missing", &checked.missing), ("changed", &checked.changed)] {
                for name in names {
                    tell!("  {what}: {}", shown(name));
                }
            }
            if checked.is_sound() {
                tell!("  {} file(s) are as the record says", checked.intact.len());
            }
        }
        for path in &self.extra {
            tell!("  extra: {} is in no transfer record", shown(path));
        }
        let something = !found.bundles.is_empty() || !found.parts.is_empty();
        if self.records.is_empty() && something && !found.folders.is_empty() {
            tell!("note: there is no transfer record here");
        }
    }

    /// Notes what became of a bundle.
    pub(super) fn note(&mut self, path: &Path, outcome: &Result<Outcome, ImportError>) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            self.outcomes.insert(name.to_owned(), in_words(outcome));
        }
    }

    /// Puts bundles together from parts, of these media and of those before; collects what does not
    /// make a bundle yet.
    pub(super) fn take_parts(
        &mut self,
        importer: &mut Importer<SystemClock>,
        found: &Found,
        summary: &mut Summary,
    ) -> Result<(), Failure> {
        if found.parts.is_empty() {
            return Ok(());
        }
        let store = PartStore::of(&importer.folders.state);
        let failed = |err: std::io::Error| {
            Failure::new(exit::IO, format!("{}: {err}", importer.folders.state.display()))
        };
        let _held = store.lock().map_err(failed)?;
        let mut sets = Sets::default();
        for path in &found.parts {
            match sets.add(path) {
                Ok(Added::New | Added::Again | Added::Rival) => {}
                Ok(Added::Refused) => {
                    tell!("{}: part-refused: too many parts claim the same place", shown(path));
                    summary.unusable += 1;
                }
                Err(err) => {
                    let code = err.code();
                    tell!("{}: {code}: {err}", shown(path));
                    if code == "part-unreadable" {
                        summary.failed += 1;
                    } else {
                        summary.unusable += 1;
                        *summary.codes.entry(code).or_default() += 1;
                    }
                }
            }
        }
        store.load(&mut sets, importer.clock.now()).map_err(failed)?;
        let known = self.known(&importer.ledger)?;
        for set in sets.all() {
            self.take_set(importer, &store, set, &known, summary)?;
        }
        Ok(())
    }

    /// The SHA-256 of bundles that are admitted already, as believed records say.
    fn known(&self, ledger: &Ledger) -> Result<HashSet<String>, Failure> {
        let mut known = HashSet::new();
        for checked in self.records.iter().filter(|checked| checked.signature.is_believed()) {
            for bundle in &checked.record.bundles {
                if is_admitted(ledger, &checked.record.origin, bundle)? {
                    known.insert(bundle.sha256.clone());
                }
            }
        }
        Ok(known)
    }

    fn take_set(
        &mut self,
        importer: &mut Importer<SystemClock>,
        store: &PartStore,
        set: &PartSet,
        known: &HashSet<String>,
        summary: &mut Summary,
    ) -> Result<(), Failure> {
        let id = set.id();
        let name = id.name.to_string();
        let (data, total) = (id.geometry.data(), id.geometry.parts());
        let failed = |err: std::io::Error| Failure::new(exit::IO, format!("{name}: {err}"));
        if known.contains(&id.whole_sha256.to_string()) {
            store.forget(id).map_err(failed)?;
            summary.add(&name, &Outcome::Duplicate { bundle: name.clone() });
            self.outcomes.insert(name, ("duplicate", None));
            return Ok(());
        }
        let max = importer.limits.file_bytes_max;
        if id.geometry.whole_bytes() > max {
            let message = format!(
                "the bundle would have {} bytes, more than {max}",
                id.geometry.whole_bytes()
            );
            tell!("{name}: too-large: {message}");
            summary.add(&name, &Outcome::Ignored { code: "too-large", message });
            self.outcomes.insert(name, ("unusable", Some("too-large".to_owned())));
            return Ok(());
        }
        if set.wanted() == 0
            && let Err(err) = store.expect_room(id.geometry.whole_bytes())
        {
            tell!("{name}: {err}");
            summary.failed += 1;
            self.outcomes.insert(name, ("failed", None));
            return Ok(());
        }
        let bar = bar(id.geometry.whole_bytes());
        bar.set_message(name.clone());
        if set.wanted() == 0 {
            let to = store.rejoined(id);
            match set.rejoin(&to, &mut |bytes| bar.inc(bytes)) {
                Ok(rejoined) => {
                    for path in &rejoined.damaged {
                        tell!("{}: damaged; it was done without", shown(path));
                    }
                    let outcome = importer.import(&to, Sidecar::Absent, |_| {});
                    durable::remove(&to).map_err(failed)?;
                    if let Ok(
                        Outcome::Admitted { .. }
                        | Outcome::Duplicate { .. }
                        | Outcome::Restored { .. },
                    ) = &outcome
                    {
                        store.forget(id).map_err(failed)?;
                    }
                    self.parts.push(json!({
                        "bundle": name,
                        "parts": set.indexes().iter().map(|index| index + 1).collect::<Vec<_>>(),
                        "needed": data,
                        "total": total,
                        "recovered": rejoined.recovered,
                        "damaged": rejoined.damaged.iter().map(shown).collect::<Vec<_>>(),
                    }));
                    self.outcomes.insert(name.clone(), in_words(&outcome));
                    summary.take(&bar, &name, outcome);
                    bar.finish_and_clear();
                    return Ok(());
                }
                Err(err) => {
                    tell!("{name}: {}: {}", err.code(), chain_text(&err));
                    if err.is_io() {
                        summary.failed += 1;
                        self.outcomes.insert(name, ("failed", Some(err.code().to_owned())));
                        return Ok(());
                    }
                    summary.unusable += 1;
                    *summary.codes.entry(err.code()).or_default() += 1;
                    // Those that are whole are kept: a further medium may bring what is missing.
                }
            }
        }
        let collected = store.collect(set, &mut |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        match collected {
            Ok((collected, problems)) => {
                for problem in &problems {
                    tell!("{problem}");
                    if matches!(problem, PartsError::Read { .. }) {
                        summary.failed += 1;
                    } else {
                        summary.unusable += 1;
                        *summary.codes.entry("part-damaged").or_default() += 1;
                    }
                }
                let parts: Vec<String> = collected.parts.iter().map(u16::to_string).collect();
                tell!(
                    "{name}: parts {} of {total} are here; {} more of any restore it\n  try: the next medium",
                    parts.join(", "),
                    collected.wanted
                );
                self.parts.push(json!({
                    "bundle": name,
                    "parts": collected.parts,
                    "needed": data,
                    "total": total,
                    "wanted": collected.wanted,
                }));
                let code = format!("{} of {data}", collected.parts.len());
                self.outcomes.insert(name, ("parts-collected", Some(code)));
            }
            Err(err) => {
                tell!("{name}: {err}");
                summary.failed += 1;
                self.outcomes.insert(name, ("failed", None));
            }
        }
        Ok(())
    }

    /// Signs for what was found, for ourselves and, where it can be written, onto the medium.
    pub(super) fn countersign(
        &mut self,
        config: &Config,
        importer: &mut Importer<SystemClock>,
    ) -> Result<(), Failure> {
        if self.records.is_empty() {
            return Ok(());
        }
        let key = signing_key(config);
        let site = crate::site::name(&config.keys_dir);
        let archive = config.state_dir.join(TRANSFERS_DIR);
        let failed =
            |err: std::io::Error| Failure::new(exit::IO, format!("{}: {err}", archive.display()));
        durable::create_dir(&archive).map_err(failed)?;
        for checked in &self.records {
            // Whoever can write to a medium could else have us sign for anything, and fill our disk.
            if !checked.signature.is_believed() {
                tell!(
                    "note: {} is not countersigned: only a record by a trusted key is",
                    shown(&checked.record.record)
                );
                continue;
            }
            let now = importer.clock.now();
            let received = self.countersignature(checked, &importer.ledger, &site, now)?;
            if checked.received_before && received.is_complete() {
                tell!("{}: was signed for before", shown(&checked.record.record));
                continue;
            }
            checked.keep(&archive).map_err(failed)?;
            received.write(&archive, now, key.as_ref()).map_err(failed)?;
            let name = received.name(now);
            let _ = remove_half_written(&checked.folder);
            if let Err(err) = received.write(&checked.folder, now, key.as_ref()) {
                tell!(
                    "note: the countersignature is not on the medium: {err}\n  try: carry {} back on another one",
                    archive.join(&name).display()
                );
            }
            let detail = format!(
                "transfer record {}: countersigned, {}",
                checked.record.record,
                if received.is_complete() { "complete" } else { "not complete" }
            );
            let event = CustodyEvent::new(now, Action::Transfer).detail(detail);
            importer.ledger.note_custody(event)?;
            tell!("countersigned: {name}.txt");
            self.signed.push(name);
        }
        Ok(())
    }

    fn countersignature(
        &self,
        checked: &Checked,
        ledger: &Ledger,
        site: &str,
        now: shared::clock::Nanos,
    ) -> Result<Countersignature, Failure> {
        let record = &checked.record;
        let mut bundles = Vec::new();
        for bundle in &record.bundles {
            let (outcome, code) = match self.outcomes.get(&bundle.name) {
                Some((outcome, code)) => (*outcome, code.clone()),
                None if is_admitted(ledger, &record.origin, bundle)? => ("duplicate", None),
                None => ("missing", None),
            };
            let (name, outcome) = (bundle.name.clone(), outcome.to_owned());
            bundles.push(ReceivedBundle { name, outcome, code });
        }
        let name_of = |path: &PathBuf| shown(path.file_name().unwrap_or_default());
        let extra = self.extra.iter().filter(|path| path.parent() == Some(&checked.folder));
        Ok(Countersignature {
            version: 1,
            record: record.record.clone(),
            record_sha256: BundleDigest::of(&checked.json).to_string(),
            origin: record.origin.clone(),
            site: site.to_owned(),
            time: now.to_string(),
            officer: user_name(),
            host: host_name(),
            program: concat!("penstock-low/", env!("CARGO_PKG_VERSION")).to_owned(),
            medium: Device::of(&checked.folder).unwrap_or_default(),
            signed: checked.signature.to_text(),
            intact: checked.intact.len() as u64,
            missing: checked.missing.clone(),
            changed: checked.changed.clone(),
            extra: extra.map(name_of).collect(),
            bundles,
        })
    }

    /// Wipes what was taken in; nothing where something was not.
    pub(super) fn wipe(
        &mut self,
        importer: &mut Importer<SystemClock>,
        yes: bool,
        as_json: bool,
    ) -> Result<(), Failure> {
        let refused = |text: String| {
            let rest = "nothing was wiped\n  try: import again, once what is named above is mended";
            Err(Failure::new(exit::FAILED, format!("{text}: {rest}")))
        };
        if self.records.is_empty() {
            return refused("without a transfer record nobody knows what may be wiped".to_owned());
        }
        for checked in &self.records {
            let record = shown(&checked.record.record);
            if !checked.signature.is_believed() {
                return refused(format!("{record}: {}", checked.signature.to_text()));
            }
            let names = checked.record.bundles.iter().map(|bundle| &bundle.name);
            let open = names.filter(|name| {
                let outcome = self.outcomes.get(*name).map(|(outcome, _)| *outcome);
                let gone = outcome.is_none() && checked.received_before;
                !gone && !matches!(outcome, Some("admitted" | "duplicate"))
            });
            let open: Vec<String> = open.map(shown).collect();
            if !open.is_empty() {
                return refused(format!("not taken in: {}", open.join(", ")));
            }
            if !checked.is_sound() {
                return refused(format!("{record}: the medium is not what it says"));
            }
        }
        for checked in &self.records {
            let wiped = media::wipe(checked, yes).map_err(|(path, err)| {
                let text = format!("{}: {err}\n  try: the same command again", path.display());
                Failure::new(exit::IO, text)
            })?;
            if !as_json {
                let did = if yes { "wiped" } else { "would be wiped" };
                let mut text = String::new();
                for path in &wiped.files {
                    let _ = writeln!(text, "{did}: {}", shown(path));
                }
                put(&text)?;
            }
            if yes {
                let files = wiped.files.len();
                let detail = format!("{}: {files} file(s) wiped", checked.record.record);
                let event = CustodyEvent::new(importer.clock.now(), Action::Transfer);
                importer.ledger.note_custody(event.detail(detail))?;
            }
            self.wiped.push(wiped);
        }
        if !yes {
            tell!("note: nothing was wiped\n  try: --wipe --yes");
        }
        Ok(())
    }

    /// Whether there is nothing to say but what the bundles say themselves.
    pub(super) fn is_plain(&self) -> bool {
        self.records.is_empty()
            && self.no_records.is_empty()
            && self.parts.is_empty()
            && self.wiped.is_empty()
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let record = |checked: &Checked| {
            json!({
                "record": checked.record.record,
                "folder": shown(&checked.folder),
                "signed": checked.signature.to_text(),
                "believed": checked.signature.is_believed(),
                "intact": checked.intact,
                "missing": checked.missing,
                "changed": checked.changed,
            })
        };
        json!({
            "records": self.records.iter().map(record).collect::<Vec<_>>(),
            "extra": self.extra.iter().map(shown).collect::<Vec<_>>(),
            "parts": self.parts,
            "countersigned": self.signed,
            "wiped": self.wiped.iter().flat_map(|wiped| &wiped.files).map(shown).collect::<Vec<_>>(),
        })
    }

    /// A medium that is not what its record says is told of by the exit code, too.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let unsound = |checked: &&Checked| {
            !checked.is_sound() || matches!(checked.signature, Signature::NotBelieved(_))
        };
        let names: Vec<String> =
            self.records.iter().filter(unsound).map(|c| shown(&c.record.record)).collect();
        if names.is_empty() && self.no_records.is_empty() {
            return Ok(());
        }
        let text = format!(
            "the medium is not what its transfer record says: {}\n  try: compare with the record that the high side kept in its state folder, under transfers",
            if names.is_empty() { "one can't be read".to_owned() } else { names.join(", ") }
        );
        Err(Failure::new(exit::REFUSED, text))
    }
}

/// Whether a bundle of a record is in the ledger.
fn is_admitted(ledger: &Ledger, origin: &str, bundle: &TransferredBundle) -> Result<bool, Failure> {
    let TransferredBundle { digest, epoch, lane, number, .. } = bundle;
    let digest = digest.as_deref().and_then(|digest| digest.parse::<BundleDigest>().ok());
    let (Some(digest), Some(epoch), Some(lane), Some(number), Ok(origin)) =
        (digest, epoch, lane, number, origin.parse())
    else {
        return Ok(false);
    };
    let chain = ChainName { origin, epoch: Epoch(*epoch), lane: *lane };
    Ok(ledger.knows_bundle(&chain, *number, &digest)?)
}

fn in_words(outcome: &Result<Outcome, ImportError>) -> (&'static str, Option<String>) {
    match outcome {
        Ok(Outcome::Admitted { code, .. }) => ("admitted", Some((*code).to_owned())),
        Ok(Outcome::Duplicate { .. } | Outcome::Restored { .. }) => ("duplicate", None),
        Ok(Outcome::Quarantined { code, .. }) => ("quarantined", Some((*code).to_owned())),
        Ok(Outcome::Ignored { code, .. }) => ("unusable", Some((*code).to_owned())),
        Ok(Outcome::Incomplete) => ("unusable", None),
        Err(_) => ("failed", None),
    }
}

/// The key that signs for this side. Who may not use it can import all the same.
fn signing_key(config: &Config) -> Option<SigningKey> {
    match init::signing_key(&config.keys_dir) {
        Ok(key) => Some(key),
        Err(failure) => {
            tell!("warning: the countersignature is not signed: {}", failure.message);
            None
        }
    }
}

/// Where records are kept, in the state folder.
const TRANSFERS_DIR: &str = "transfers";
