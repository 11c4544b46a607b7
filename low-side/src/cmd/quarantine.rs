//! `quarantine`: look at refused files, and try them again.

use std::fmt::Write as _;

use shared::exit;

use super::import::{Summary, will_ask};
use super::{Failure, importer, put, put_json};
use crate::config::Config;
use crate::folders::Folders;
use crate::import::RETRY;
use crate::quarantine::{Quarantine, Reason};

pub(super) fn list(config: &Config, as_json: bool) -> Result<(), Failure> {
    let reasons = quarantine(config).list().map_err(|err| io(config, &err))?;
    if as_json {
        return put_json(&reasons);
    }
    let mut text = String::new();
    for Reason { sha256, code, name, last, bytes, .. } in &reasons {
        let _ = writeln!(text, "{}  {code:<24} {bytes:>12}  {last}  {name}", &sha256[..SHORT]);
    }
    if reasons.is_empty() {
        tell!("the quarantine is empty");
    }
    put(&text)
}

pub(super) fn show(config: &Config, sha256: &str) -> Result<(), Failure> {
    let reason = find(config, sha256)?;
    let text =
        serde_json::to_string_pretty(&reason).map_err(|err| Failure::new(exit::FAILED, err))?;
    put(&format!("{text}\n"))?;
    tell!("the file: {}", quarantine(config).file(&reason.sha256).display());
    Ok(())
}

pub(super) fn retry(
    config: &Config,
    sha256: Option<&str>,
    accept_jump: bool,
    admitted_before: Option<&str>,
    as_json: bool,
) -> Result<(), Failure> {
    let mut importer = importer(config, RETRY)?;
    importer.word = admitted_before.map(ToOwned::to_owned);
    if accept_jump {
        importer.admission.number_jump_max = u64::MAX;
    }
    let mut reasons = match sha256 {
        Some(sha256) => vec![find(config, sha256)?],
        None => quarantine(config).list().map_err(|err| io(config, &err))?,
    };
    // Bundles of one chain fit one after the other.
    reasons.sort_by(|a, b| a.name.cmp(&b.name));
    let files: Vec<_> =
        reasons.iter().map(|reason| quarantine(config).file(&reason.sha256)).collect();
    will_ask(&mut importer, files.iter().map(std::path::PathBuf::as_path));
    let mut summary = Summary::default();
    for reason in reasons {
        let outcome = importer.retry(&reason.sha256)?;
        summary.add(&reason.name, &outcome);
    }
    let gaps = importer.ledger.gaps()?.len();
    summary.finish(gaps, as_json)
}

/// As many digits of a SHA-256 as are shown.
const SHORT: usize = 16;

fn quarantine(config: &Config) -> Quarantine {
    Quarantine::at(&Folders::of(&config.state_dir).quarantine)
}

fn find(config: &Config, sha256: &str) -> Result<Reason, Failure> {
    let found = quarantine(config).find(sha256).map_err(|err| io(config, &err))?;
    found.ok_or_else(|| {
        let text = format!("{sha256}: no file in the quarantine, or more than one, begins so\n  try: penstock-low quarantine list");
        Failure::new(exit::FAILED, text)
    })
}

fn io(config: &Config, err: &std::io::Error) -> Failure {
    let path = Folders::of(&config.state_dir).quarantine;
    Failure::new(
        exit::IO,
        format!("{}: {err}\n  try: penstock-low run once, or --config", path.display()),
    )
}
