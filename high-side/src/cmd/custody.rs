//! `custody`: the log of who did what to which bundle.

use std::path::{Path, PathBuf};

use serde_json::json;
use shared::clock::{Clock, Nanos, SystemClock};
use shared::custody::{
    Checkpoint, CustodyFolder, Wanted, export as export_lines, life_json, life_of, life_text,
    verdict_text, verify as verify_log,
};
use shared::keys::StatementSigners;

use super::Failure;
use crate::buffer::Store;
use crate::cli::CustodyVerb;
use crate::config::Config;

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
        None => StatementSigners::own(&config.keys_dir, "signing", config.origin.as_str())?,
    };
    let against = against.iter().map(|file| kept(file)).collect::<Result<Vec<_>, _>>()?;
    // A log that stands elsewhere has no database that knows its end.
    let mut store = match elsewhere {
        Some(_) => None,
        None => Some(open(config)?),
    };
    let folder = elsewhere.map_or_else(|| CustodyFolder::at(&config.state_dir), CustodyFolder::of);
    let known = store.as_mut().map(Store::custody_known).transpose()?;
    let mut verdict =
        verify_log(&folder, known, &signers, &against).map_err(|err| io(folder.dir(), &err))?;
    if let Some(store) = &mut store {
        verdict.compare_end(store.custody_known()?.made);
    }
    if as_json {
        say!("{}", json!(verdict));
    } else {
        say!("{}", verdict_text(&verdict).trim_end());
    }
    if verdict.is_good() {
        return Ok(());
    }
    Err(Failure::new(
        "the custody log does not verify\n  try: packaging/doc/custody.md says what each finding means",
    ))
}

/// A checkpoint that was taken away: the text, and its signature in FILE.sig.
fn kept(file: &Path) -> Result<Checkpoint, Failure> {
    let checkpoint = Checkpoint::read(file).map_err(|(path, err)| io(&path, &err))?;
    checkpoint.ok_or_else(|| {
        let text = format!("{} is no checkpoint of a custody log", file.display());
        Failure::config(text)
    })
}

fn show(config: &Config, bundle: &str, as_json: bool) -> Result<(), Failure> {
    let wanted: Wanted = bundle.parse().map_err(|problem: &str| Failure::usage(&problem))?;
    let store = open(config)?;
    let folder = store.custody_folder();
    let life = life_of(folder, &wanted).map_err(|err| io(folder.dir(), &err))?;
    if life.found == 0 {
        return Err(Failure::new(format!(
            "the custody log knows nothing of {bundle}\n  try: penstock-high custody verify"
        )));
    }
    if as_json {
        say!("{}", life_json(&life));
    } else {
        say!("{}", life_text(&life).trim_end());
    }
    Ok(())
}

fn export(config: &Config, from: Nanos, to: Option<Nanos>, out: &Path) -> Result<(), Failure> {
    let store = open(config)?;
    let folder = store.custody_folder();
    let mut file = shared::durable::create_new(out, 0o640).map_err(|err| io(out, &err))?;
    let range = export_lines(folder, from, to.unwrap_or(SystemClock.now()), &mut file)
        .and_then(|range| file.sync_all().map(|()| range))
        .map_err(|err| io(out, &err))?;
    if let Some((first, last)) = range {
        tell!("wrote entries {first} to {last} to {}", out.display());
    } else {
        tell!("there is no entry in that time; {} is empty", out.display());
    }
    say!("{}", json!({"first": range.map(|range| range.0), "last": range.map(|range| range.1)}));
    Ok(())
}

/// The database, after what waits was written where that is possible.
fn open(config: &Config) -> Result<Store, Failure> {
    let mut store = Store::open(&config.state_dir)?;
    settle(&mut store);
    Ok(store)
}

/// Writes what waits to the log's files. What can't be written now the agent writes later.
pub(super) fn settle(store: &mut Store) {
    if let Err(err) = store.settle_custody(false, SystemClock.now()) {
        tell!("note: the custody log could not be written: {err}");
    }
}

fn io(path: &Path, err: &std::io::Error) -> Failure {
    Failure::io(format!("{}: {err}", path.display()))
}
