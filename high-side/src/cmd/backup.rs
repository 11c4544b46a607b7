//! `backup` and `backup-key`: this side's state in one file, while the agent goes on.

use std::collections::BTreeSet;
use std::path::Path;

use indicatif::ProgressBar;
use serde_json::json;
use shared::backup::{
    FORMAT, Facts, KeyFile, Source, Work, collect, generate_backup_key, load_recipients,
    named_files, new_file_name, side_name, write,
};
use shared::clock::{Clock, SystemClock};
use shared::custody::{Action, CustodyEvent, CustodyFile, CustodyFolder, DIR_NAME};
use shared::durable;
use shared::keys::{KeyError, Recipients, Side};

use super::{Failure, export::progress_bar};
use crate::buffer::{BundleState, Store, snapshot};
use crate::cli::{BackupVerb, OutboxPart};
use crate::config::Config;
use crate::outbox;

/// The database's name in a backup.
pub(super) const DATABASE: &str = "state/buffer.db";
/// The configuration's.
pub(super) const CONFIG: &str = "config/high.toml";

pub(super) fn key(file: &Path) -> Result<(), Failure> {
    say!("{}", generate_backup_key(file)?);
    tell!("keep {} on neither side of the gap; the line above is its recipient", file.display());
    Ok(())
}

pub(super) fn backup(config: &Config, asked: &BackupVerb) -> Result<(), Failure> {
    let recipients = recipients(config, asked)?;
    let work = Work::begin(&config.state_dir, "backup")?;
    let bar = progress_bar(0);
    bar.set_message("buffer");
    let state = work.path("state");
    durable::create_dir(&state)
        .map_err(|err| Failure::io(format!("{}: {err}", state.display())))?;
    let made = SystemClock.now();
    let snapshot = snapshot(&config.state_dir, &work.path(DATABASE), &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    if snapshot.origin != config.origin {
        return Err(Failure::config(format!(
            "the buffer is of origin {}, and {} says {}",
            snapshot.origin,
            config.path.display(),
            config.origin
        )));
    }
    let store = Store::open_set_aside(&state)?;
    let mut left_out = Vec::new();
    let mut sources = Vec::new();
    let file = |name: &str, path: &Path, mode| Source {
        name: name.to_owned(),
        path: path.to_owned(),
        bytes: None,
        mode,
        may_vanish: false,
    };
    sources.push(file(CONFIG, &config.path, 0o644));
    sources.push(file(DATABASE, &work.path(DATABASE), 0o600));
    sources.extend(KeyFile::sources(&config.keys_dir, asked.without_keys)?);
    if asked.without_keys {
        left_out.push("secret keys".to_owned());
    }
    let folder = CustodyFolder::at(&config.state_dir);
    let segments = folder
        .through(snapshot.custody.number)
        .map_err(|err| Failure::io(format!("{}: {err}", folder.dir().display())))?;
    for (path, bytes) in segments {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("state/{DIR_NAME}/{name}");
        sources.push(Source { name, path, bytes: Some(bytes), mode: 0o640, may_vanish: false });
    }
    sources.extend(collect(
        &config.state_dir.join("transfers"),
        "state/transfers",
        0o600,
        &|_| true,
    )?);
    sources.extend(outbox_files(config, &store, asked.outbox, &mut left_out)?);
    let text = std::fs::read_to_string(&config.path).unwrap_or_default();
    let inside = [&*config.keys_dir, &*config.state_dir];
    left_out.extend(named_files(&text, &inside).iter().map(|path| path.display().to_string()));
    left_out.extend(asides(&config.state_dir));
    let facts = Facts {
        format: FORMAT,
        side: side_name(Side::High).to_owned(),
        name: config.origin.to_string(),
        epoch: Some(snapshot.epoch.0),
        made: made.to_string(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        schema: snapshot.schema,
        keys: !asked.without_keys,
        left_out,
    };
    let to = destination(&asked.to, &facts, recipients.is_some())?;
    set_bar(&bar, &sources);
    let written =
        write(&to, &facts, sources, recipients.as_ref(), &mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    drop(store);
    drop(work);
    // Noted where it can be: a backup that was made is one all the same.
    let event = CustodyEvent::new(SystemClock.now(), Action::BackedUp)
        .file(CustodyFile {
            name: to.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            sha256: written.sha256,
            bytes: written.bytes,
        })
        .detail(format!("as of {made}, {} files", written.members));
    let mut store = Store::open(&config.state_dir)?;
    store.note_custody(event)?;
    super::custody::settle(&mut store);
    if asked.json {
        say!(
            "{}",
            json!({
                "file": written.path, "bytes": written.bytes, "sha256": written.sha256.to_string(),
                "files": written.members, "encrypted": recipients.is_some(), "backup": facts,
            })
        );
    } else {
        say!("{}  {}", written.sha256, written.path.display());
        say!("{} files, {} bytes, as of {made}", written.members, written.bytes);
    }
    for what in &facts.left_out {
        tell!("not in it: {what}");
    }
    if recipients.is_none() {
        tell!(
            "note: it is not encrypted, and holds records as they came; keep it as the machine itself"
        );
    }
    Ok(())
}

/// To whom it is encrypted. Secret keys never lie openly in a backup unless that was asked for.
fn recipients(config: &Config, asked: &BackupVerb) -> Result<Option<Recipients>, Failure> {
    if asked.recipient.is_empty() {
        if asked.without_keys || asked.keys_in_the_clear {
            return Ok(None);
        }
        return Err(Failure::usage(
            &"a backup holds the signing key, and has to be encrypted\n  try: --recipient FILE (penstock-high backup-key makes a key), --without-keys, or --keys-in-the-clear",
        ));
    }
    let recipients = load_recipients(&asked.recipient)?;
    let known = match Recipients::load(&config.keys_dir) {
        Ok(known) => known.key_ids(),
        Err(KeyError::NoRecipient { .. }) => Vec::new(),
        Err(err) => return Err(err.into()),
    };
    if recipients.key_ids().iter().any(|id| known.contains(id)) {
        return Err(Failure::config(
            "a recipient of the backup is one that bundles are encrypted to: who reads bundles must not have the key that signs them\n  try: a key of its own, made by penstock-high backup-key",
        ));
    }
    Ok(Some(recipients))
}

fn outbox_files(
    config: &Config,
    store: &Store,
    part: OutboxPart,
    left_out: &mut Vec<String>,
) -> Result<Vec<Source>, Failure> {
    let dir = &config.outbox.path;
    if part == OutboxPart::None {
        left_out.push(format!("the bundles in {}", dir.display()));
        return Ok(Vec::new());
    }
    let mut kept = BTreeSet::new();
    if part == OutboxPart::Waiting {
        let handed_over = store.bundles(Some(BundleState::HandedOver))?;
        kept.extend(handed_over.into_iter().filter_map(|bundle| bundle.file).map(|file| file.name));
        if !kept.is_empty() {
            left_out.push(format!("{} bundle(s) that were handed over and are kept", kept.len()));
        }
    }
    let mut files = collect(dir, "outbox", 0o644, &|name| {
        let last = name.rsplit('/').next().unwrap_or_default();
        let bundle = last.strip_suffix(".sha256").unwrap_or(last);
        !kept.contains(bundle) && !outbox::is_not_for_backup(name.trim_start_matches("outbox/"))
    })?;
    // Sealed and without a name yet: nobody else has what is in it.
    for bundle in store.bundles(Some(BundleState::Sealed))? {
        let Some(file) = &bundle.file else { continue };
        let name = format!("outbox/{}", file.name);
        let partial = outbox::partial_in(dir, store.epoch(), bundle.lane, bundle.number);
        if files.iter().all(|known| known.name != name) && partial.exists() {
            let mode = 0o644;
            files.push(Source { name, path: partial, bytes: None, mode, may_vanish: false });
        }
    }
    Ok(files)
}

/// Buffers that were set aside and may hold records that were never taken in.
fn asides(state_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(state_dir).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("set-aside-"))
        .map(|entry| entry.path().display().to_string())
        .collect();
    found.sort();
    found
}

/// Where it is written. What an interrupted one left in a folder is removed.
fn destination(to: &Path, facts: &Facts, encrypted: bool) -> Result<std::path::PathBuf, Failure> {
    if !to.is_dir() {
        return Ok(to.to_owned());
    }
    shared::backup::remove_stale(to, facts)?;
    Ok(to.join(new_file_name(facts, encrypted)))
}

fn set_bar(bar: &ProgressBar, sources: &[Source]) {
    let length = |source: &Source| {
        source.bytes.unwrap_or_else(|| source.path.metadata().map_or(0, |meta| meta.len()))
    };
    bar.set_message("backup");
    bar.set_length(sources.iter().map(length).sum());
    bar.set_position(0);
}
