//! `backup` and `backup-key`: this side's state in one file, while the agent goes on.

use std::path::{Path, PathBuf};

use serde_json::json;
use shared::backup::{
    FORMAT, Facts, KeyFile, Source, Work, collect, generate_backup_key, load_recipients,
    named_files, new_file_name, remove_stale, side_name, write,
};
use shared::clock::{Clock, SystemClock};
use shared::custody::{Action, CustodyEvent, CustodyFile, CustodyFolder, DIR_NAME};
use shared::keys::{Identities, Recipients, Side};
use shared::{durable, exit};

use super::import::bar as progress_bar;
use super::{Failure, put, put_json};
use crate::cli::BackupVerb;
use crate::config::Config;
use crate::folders::Folders;
use crate::ledger::{FILE_NAME, Ledger};
use crate::retention::Journal;
use crate::site;

/// The ledger's name in a backup.
pub(super) const DATABASE: &str = "state/ledger.db";
/// The configuration's.
pub(super) const CONFIG: &str = "config/low.toml";
/// What is in the state folder besides, and stays what it is when it is copied: refused files, records
/// that a sink's receiver refused, records of media, what archives proved.
pub(super) const FOLDERS: [&str; 4] = ["archive-proofs", "quarantine", "dead-letters", "transfers"];
/// What has left the store: a file that only grows.
pub(super) const JOURNAL: &str = "state/removed.jsonl";

pub(super) fn key(file: &Path) -> Result<(), Failure> {
    put(&(generate_backup_key(file)? + "\n"))?;
    tell!("keep {} on neither side of the gap; the line above is its recipient", file.display());
    Ok(())
}

pub(super) fn backup(
    config_path: &Path,
    config: &Config,
    asked: &BackupVerb,
) -> Result<(), Failure> {
    let recipients = recipients(config, asked)?;
    let folders = Folders::of(&config.state_dir);
    let work = Work::begin(&config.state_dir, "backup")?;
    let bar = progress_bar(0);
    bar.set_message("ledger");
    let state = work.path("state");
    durable::create_dir(&state)
        .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", state.display())))?;
    let made = SystemClock.now();
    let snapshot =
        Ledger::snapshot(&config.state_dir, &state.join(FILE_NAME), &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        })?;
    let mut left_out = Vec::new();
    let file = |name: &str, path: PathBuf, bytes, mode| Source {
        name: name.to_owned(),
        path,
        bytes,
        mode,
        may_vanish: false,
    };
    let mut sources = vec![
        file(CONFIG, config_path.to_owned(), None, 0o644),
        file(DATABASE, work.path(DATABASE), None, 0o600),
    ];
    sources.extend(KeyFile::sources(&config.keys_dir, asked.without_keys)?);
    if asked.without_keys {
        left_out.push("secret keys".to_owned());
    }
    let custody = CustodyFolder::at(&config.state_dir);
    let segments = custody
        .through(snapshot.custody.number)
        .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", custody.dir().display())))?;
    for (path, bytes) in segments {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("state/{DIR_NAME}/{name}");
        sources.push(file(&name, path, Some(bytes), 0o640));
    }
    // Read after the ledger: it names at least what the ledger says is gone.
    let journal = Journal::of(&config.state_dir);
    if let Ok(meta) = journal.path().metadata() {
        sources.push(file(JOURNAL, journal.path().to_owned(), Some(meta.len()), 0o600));
    }
    for folder in FOLDERS {
        let prefix = format!("state/{folder}");
        sources.extend(collect(&config.state_dir.join(folder), &prefix, 0o600, &|_| true)?);
    }
    if asked.with_store {
        sources.extend(collect(&folders.store, "store", 0o600, &|_| true)?);
    } else {
        left_out.push(format!("the bundles in {}", folders.store.display()));
    }
    let text = std::fs::read_to_string(config_path).unwrap_or_default();
    let inside = [&*config.keys_dir, &*config.state_dir];
    left_out.extend(named_files(&text, &inside).iter().map(|path| path.display().to_string()));
    let facts = Facts {
        format: FORMAT,
        side: side_name(Side::Low).to_owned(),
        name: site::name(&config.keys_dir),
        epoch: None,
        made: made.to_string(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        schema: snapshot.schema,
        keys: !asked.without_keys,
        left_out,
    };
    let to = if asked.to.is_dir() {
        remove_stale(&asked.to, &facts)?;
        asked.to.join(new_file_name(&facts, recipients.is_some()))
    } else {
        asked.to.clone()
    };
    let length = |source: &Source| {
        source.bytes.unwrap_or_else(|| source.path.metadata().map_or(0, |meta| meta.len()))
    };
    bar.set_message("backup");
    bar.set_length(sources.iter().map(length).sum());
    let written =
        write(&to, &facts, sources, recipients.as_ref(), &mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    drop(work);
    let event = CustodyEvent::new(SystemClock.now(), Action::BackedUp)
        .file(CustodyFile {
            name: to.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            sha256: written.sha256,
            bytes: written.bytes,
        })
        .detail(format!("as of {made}, {} files", written.members));
    let mut ledger = Ledger::open_existing(&config.state_dir)?;
    ledger.note_custody(event)?;
    super::custody::settle(&mut ledger);
    if asked.json {
        put_json(&json!({
            "file": written.path, "bytes": written.bytes, "sha256": written.sha256.to_string(),
            "files": written.members, "encrypted": recipients.is_some(), "backup": facts,
        }))?;
    } else {
        put(&format!(
            "{}  {}\n{} files, {} bytes, as of {made}\n",
            written.sha256,
            written.path.display(),
            written.members,
            written.bytes
        ))?;
    }
    for what in &facts.left_out {
        tell!("not in it: {what}");
    }
    if recipients.is_none() {
        tell!("note: it is not encrypted; keep it as the machine itself");
    }
    Ok(())
}

/// To whom it is encrypted. Secret keys never lie openly in a backup unless that was asked for.
fn recipients(config: &Config, asked: &BackupVerb) -> Result<Option<Recipients>, Failure> {
    if asked.recipient.is_empty() {
        if asked.without_keys || asked.keys_in_the_clear {
            return Ok(None);
        }
        return Err(Failure::new(
            exit::USAGE,
            "a backup holds the decryption key, and has to be encrypted\n  try: --recipient FILE (penstock-low backup-key makes a key), --without-keys, or --keys-in-the-clear",
        ));
    }
    let recipients = load_recipients(&asked.recipient)?;
    let own = Identities::load_dir(&config.keys_dir)?.key_ids();
    if recipients.key_ids().iter().any(|id| own.contains(id)) {
        return Err(Failure::new(
            exit::CONFIG,
            "a recipient of the backup is this side's own key, which would be lost with what the backup is of\n  try: a key of its own, made by penstock-low backup-key",
        ));
    }
    Ok(Some(recipients))
}
