//! `import`: bundles from files or a mounted medium, beside a running agent or without one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::IsTerminal as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::fcntl::OFlag;
use serde::Serialize;
use serde_json::{Value, json};
use shared::bundle::{BundleDigest, FILE_EXTENSION, Header, Limits, inspect_digest};
use shared::clock::SystemClock;
use shared::exit;

use super::medium::Medium;
use super::{Failure, importer, put, put_json};
use crate::agent::recover;
use crate::config::Config;
use crate::folders::shown;
use crate::import::{ImportError, Importer, Outcome, Sidecar};
use crate::inbox::sidecar;
use crate::ledger::{ChainName, StoreName};
use crate::media::scan;
use crate::replay::chain_text;

/// What became of everything.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Summary {
    pub(super) admitted: u64,
    pub(super) duplicate: u64,
    /// Of the duplicates, those that had left the store after their time and are there again.
    pub(super) restored: u64,
    pub(super) quarantined: u64,
    /// No regular file, or too large.
    pub(super) unusable: u64,
    /// Not decided: a fault of this machine.
    pub(super) failed: u64,
    pub(super) records: u64,
    /// Refusals by code.
    pub(super) codes: BTreeMap<&'static str, u64>,
    pub(super) files: Vec<Value>,
    /// What the medium was, beside its bundles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) medium: Option<Value>,
}

impl Summary {
    pub(super) fn add(&mut self, name: &str, outcome: &Outcome) {
        let mut entry = json!({"file": name});
        match outcome {
            Outcome::Admitted { bundle, code, records } => {
                self.admitted += 1;
                self.records += records;
                entry["outcome"] = json!("admitted");
                entry["bundle"] = json!(bundle);
                entry["code"] = json!(code);
                entry["records"] = json!(records);
            }
            Outcome::Duplicate { bundle } => {
                self.duplicate += 1;
                entry["outcome"] = json!("duplicate");
                entry["bundle"] = json!(bundle);
            }
            Outcome::Restored { bundle } => {
                self.duplicate += 1;
                self.restored += 1;
                entry["outcome"] = json!("restored");
                entry["bundle"] = json!(bundle);
            }
            Outcome::Quarantined { code, message, sha256 } => {
                self.quarantined += 1;
                *self.codes.entry(code).or_default() += 1;
                entry["outcome"] = json!("quarantined");
                entry["code"] = json!(code);
                entry["message"] = json!(message);
                entry["sha256"] = json!(sha256);
            }
            Outcome::Ignored { code, message } => {
                self.unusable += 1;
                *self.codes.entry(code).or_default() += 1;
                entry["outcome"] = json!("unusable");
                entry["code"] = json!(code);
                entry["message"] = json!(message);
            }
            // Only asked for by the inbox, which waits.
            Outcome::Incomplete => {}
        }
        self.files.push(entry);
    }

    /// Adds what became of a file, and tells the person at the terminal where it was not taken in.
    pub(super) fn take(
        &mut self,
        bar: &ProgressBar,
        name: &str,
        outcome: Result<Outcome, ImportError>,
    ) {
        match outcome {
            Ok(outcome) => {
                if let Outcome::Quarantined { code, message, .. }
                | Outcome::Ignored { code, message } = &outcome
                {
                    bar.suspend(|| tell!("{name}: {code}: {message}"));
                }
                self.add(name, &outcome);
            }
            Err(error) => {
                self.failed += 1;
                bar.suspend(|| tell!("{name}: {}", chain_text(&error)));
            }
        }
    }

    /// The exit code: a refusal outweighs a success, a fault of ours outweighs both.
    pub(super) fn finish(&self, gaps: usize, as_json: bool) -> Result<(), Failure> {
        if as_json {
            let mut value =
                serde_json::to_value(self).map_err(|err| Failure::new(exit::FAILED, err))?;
            value["gaps"] = json!(gaps);
            put_json(&value)?;
        } else {
            let Self { admitted, duplicate, quarantined, unusable, failed, records, .. } = self;
            let mut text = format!(
                "admitted    {admitted} bundles, {records} records\nduplicate   {duplicate}\nquarantined {quarantined}\n"
            );
            for (what, count) in [("unusable", unusable), ("failed", failed)] {
                if *count > 0 {
                    let _ = writeln!(text, "{what:<11} {count}");
                }
            }
            for (code, count) in &self.codes {
                let _ = writeln!(text, "  {code}: {count}");
            }
            let _ = writeln!(text, "gaps        {gaps}");
            put(&text)?;
        }
        if self.failed > 0 {
            let text = "not everything could be read or written\n  try: the same command again; what is done is done";
            return Err(Failure::new(exit::IO, text));
        }
        if self.quarantined + self.unusable > 0 {
            let text = "some files were refused\n  try: penstock-low quarantine list";
            return Err(Failure::new(exit::REFUSED, text));
        }
        Ok(())
    }
}

/// What the command line asks for.
pub(super) struct Asked<'a> {
    pub(super) paths: &'a [PathBuf],
    pub(super) wipe: bool,
    pub(super) yes: bool,
    pub(super) as_json: bool,
    /// Why the operator says that all of this was admitted before.
    pub(super) admitted_before: Option<&'a str>,
}

pub(super) fn import(config: &Config, asked: &Asked<'_>) -> Result<(), Failure> {
    let mut importer = importer(config, "import")?;
    importer.word = asked.admitted_before.map(ToOwned::to_owned);
    let mut found = scan(asked.paths)
        .map_err(|(path, err)| Failure::new(exit::IO, format!("{}: {err}", path.display())))?;
    // Over all folders, an older epoch before a newer one, whose first bundle would end it; then by
    // file name: in the order of their numbers, the urgent lane first.
    found.bundles.sort_by_cached_key(|(path, _)| {
        (epoch_hint(path), path.file_name().map(ToOwned::to_owned))
    });
    will_ask(&mut importer, found.bundles.iter().map(|(path, _)| path.as_path()));
    if found.bundles.is_empty() && found.parts.is_empty() {
        tell!("note: no file named *.{FILE_EXTENSION} was found");
    }
    let mut medium = Medium::look(config, &importer, &found);
    let bar = bar(found.bundles.iter().map(|(_, bytes)| bytes).sum());
    let mut summary = Summary::default();
    for (path, _) in &found.bundles {
        let name = shown(path);
        bar.set_message(shown(path.file_name().unwrap_or_default()));
        // Nobody is still copying what an operator hands over: a sidecar that differs is final.
        let expected = match sidecar(path) {
            Ok(expected) => expected.map_or(Sidecar::Absent, Sidecar::Insist),
            Err(error) => Sidecar::Unreadable(error.kind()),
        };
        let outcome = importer.import(path, expected, |bytes| bar.inc(bytes));
        medium.note(path, &outcome);
        summary.take(&bar, &name, outcome);
    }
    bar.finish_and_clear();
    medium.take_parts(&mut importer, &found, &mut summary)?;
    medium.countersign(config, &mut importer)?;
    let wiped =
        if asked.wipe { medium.wipe(&mut importer, asked.yes, asked.as_json) } else { Ok(()) };
    if importer.ledger.store_sum()?.not_admitted > 0 {
        recover::note_store(&mut importer)?;
    }
    super::custody::settle(&mut importer.ledger);
    let gaps = importer.ledger.gaps()?.len();
    summary.medium = Some(medium.to_json()).filter(|_| !medium.is_plain());
    summary.finish(gaps, asked.as_json)?;
    wiped?;
    medium.verdict()
}

/// The epoch that a file's header names, unverified: a lie costs nothing but the order.
fn epoch_hint(path: &Path) -> u64 {
    header_hint(path).map_or(u64::MAX, |(header, _)| header.epoch.0)
}

/// What a file's header says, unverified.
fn header_hint(path: &Path) -> Option<(Header, BundleDigest)> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    file.metadata().is_ok_and(|meta| meta.is_file()).then_some(())?;
    inspect_digest(&file, &Limits::default()).ok()
}

/// Prepares the custody log to be asked about these files: one walk over it is enough for all of them.
pub(super) fn will_ask<'a>(
    importer: &mut Importer<SystemClock>,
    files: impl Iterator<Item = &'a Path>,
) {
    if let Some(log) = &mut importer.log {
        let names = files.filter_map(header_hint).map(|(header, digest)| {
            let Header { origin, epoch, lane, number, .. } = header;
            StoreName::new(&ChainName { origin, epoch, lane }, number, &digest).to_string()
        });
        log.will_ask(names);
    }
}

pub(super) fn bar(bytes: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {eta} {wide_msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
