//! `custody`: the log of who did what to which bundle.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use shared::clock::{Clock, Nanos, SystemClock};
use shared::custody::{
    Checkpoint, CustodyFolder, Wanted, export as export_lines, life_json, life_of, life_text,
    verdict_text, verify as verify_log,
};
use shared::exit;
use shared::keys::StatementSigners;

use super::{Failure, put, put_json};
use crate::cli::CustodyVerb;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::replay::chain_text;
use crate::site;

pub(super) fn run(config: &Config, verb: &CustodyVerb) -> Result<(), Failure> {
    match verb {
        CustodyVerb::Verify { folder, signers, against, json } => {
            verify(config, folder.as_deref(), signers.as_deref(), against, *json)
        }
        CustodyVerb::Show { bundle, json } => show(config, bundle, *json),
        CustodyVerb::Export { from, to, out } => export(config, *from, *to, out),
    }
}

fn verify(
    config: &Config,
    elsewhere: Option<&Path>,
    signers: Option<&Path>,
    against: &[PathBuf],
    as_json: bool,
) -> Result<(), Failure> {
    let signers = match signers {
        Some(file) => StatementSigners::load_file(file)?,
        None => StatementSigners::own(&config.keys_dir, "receipt", &site::name(&config.keys_dir))?,
    };
    let against = against.iter().map(|file| kept(file)).collect::<Result<Vec<_>, _>>()?;
    // A log that stands elsewhere has no ledger that knows its end.
    let mut ledger = match elsewhere {
        Some(_) => None,
        None => Some(open(config)?),
    };
    let folder = elsewhere.map_or_else(|| CustodyFolder::at(&config.state_dir), CustodyFolder::of);
    let known = ledger.as_mut().map(Ledger::custody_known).transpose()?;
    let mut verdict =
        verify_log(&folder, known, &signers, &against).map_err(|err| io(folder.dir(), &err))?;
    if let Some(ledger) = &mut ledger {
        verdict.compare_end(ledger.custody_known()?.made);
    }
    if as_json {
        put_json(&verdict)?;
    } else {
        put(&verdict_text(&verdict))?;
    }
    if verdict.is_good() {
        return Ok(());
    }
    let text = "the custody log does not verify\n  try: packaging/doc/custody.md says what each finding means";
    Err(Failure::new(exit::FAILED, text))
}

/// A checkpoint that was taken away: the text, and its signature in FILE.sig.
fn kept(file: &Path) -> Result<Checkpoint, Failure> {
    let checkpoint = Checkpoint::read(file).map_err(|(path, err)| io(&path, &err))?;
    checkpoint.ok_or_else(|| {
        let text = format!("{} is no checkpoint of a custody log", file.display());
        Failure::new(exit::CONFIG, text)
    })
}

fn show(config: &Config, bundle: &str, as_json: bool) -> Result<(), Failure> {
    let wanted: Wanted = bundle.parse().map_err(|problem| Failure::new(exit::USAGE, problem))?;
    let ledger = open(config)?;
    let folder = ledger.custody_folder();
    let life = life_of(folder, &wanted).map_err(|err| io(folder.dir(), &err))?;
    if life.found == 0 {
        let text = format!(
            "the custody log knows nothing of {bundle}\n  try: penstock-low custody verify"
        );
        return Err(Failure::new(exit::FAILED, text));
    }
    if as_json { put_json(&life_json(&life)) } else { put(&life_text(&life)) }
}

fn export(config: &Config, from: Nanos, to: Option<Nanos>, out: &Path) -> Result<(), Failure> {
    let ledger = open(config)?;
    let folder = ledger.custody_folder();
    let mut file = shared::durable::create_new(out, 0o640).map_err(|err| io(out, &err))?;
    let range = export_lines(folder, from, to.unwrap_or(SystemClock.now()), &mut file)
        .and_then(|range| file.flush().and_then(|()| file.sync_all()).map(|()| range))
        .map_err(|err| io(out, &err))?;
    if let Some((first, last)) = range {
        tell!("wrote entries {first} to {last} to {}", out.display());
    } else {
        tell!("there is no entry in that time; {} is empty", out.display());
    }
    put_json(&json!({"first": range.map(|range| range.0), "last": range.map(|range| range.1)}))
}

/// The ledger, after what waits was written where that is possible.
fn open(config: &Config) -> Result<Ledger, Failure> {
    let mut ledger = Ledger::open_existing(&config.state_dir)?;
    settle(&mut ledger);
    Ok(ledger)
}

/// Writes what waits to the log's files. What can't be written now the agent writes later.
pub(super) fn settle(ledger: &mut Ledger) {
    if let Err(error) = ledger.settle_custody(false, SystemClock.now()) {
        tell!("note: the custody log could not be written: {}", chain_text(&error));
    }
}

fn io(path: &Path, err: &std::io::Error) -> Failure {
    Failure::new(exit::IO, format!("{}: {err}", path.display()))
}
