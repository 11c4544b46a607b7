//! `restore`: a backup becomes this side's state again.
//!
//! The backup is read to its end first, and nothing is touched before that went well. Then it is read
//! once more into a folder beside the state; then each file is put in its place. From the first change
//! to the last one a mark stands in the state folder, and with it nothing opens what is there: killed in
//! between, the same command begins anew.
//!
//! Store, quarantine, dead letters and custody log that stand here are newer than the backup's, and stay;
//! what they lack is added. The agent's next start admits what the store holds and the ledger of the
//! backup does not know.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use shared::backup::{
    BackupError, Checked, KeyFile, Placed, Work, begin_restore, end_restore, expect_no_restore,
    newest, read_file,
};
use shared::clock::{Clock, Nanos, SystemClock};
use shared::custody::DIR_NAME;
use shared::durable;
use shared::exit;
use shared::keys::{Identities, Side};
use shared::process::{AsOwner, as_root};

use super::backup::{CONFIG, DATABASE, FOLDERS, JOURNAL};
use super::{Failure, put, put_json};
use crate::cli::RestoreVerb;
use crate::config::Config;
use crate::folders::Folders;
use crate::ledger::{FILE_NAME, Ledger};
use crate::quarantine::Quarantine;
use crate::retention::Journal;

/// What a restore led to.
struct Restored {
    replaced: Option<PathBuf>,
    kept: Vec<PathBuf>,
    /// Bundles that the ledger knows and the store does not hold.
    absent: u64,
}

pub(super) fn restore(config_path: &Path, asked: &RestoreVerb) -> Result<(), Failure> {
    let asked = &RestoreVerb { file: file_of(&asked.file)?, ..asked.clone() };
    let identities = match &*asked.identity {
        [] => None,
        files => Some(Identities::load(files)?),
    };
    let checked = Checked::read(&asked.file, identities.as_ref(), Side::Low, (CONFIG, DATABASE))?;
    if asked.check {
        return if asked.json { put_json(&checked.to_json()) } else { put(&checked.summary()) };
    }
    let fresh = if config_path.exists() { None } else { Some(checked.config_beside(config_path)?) };
    let place_config = || match &fresh {
        Some(fresh) => as_root(|| durable::rename(fresh, config_path))
            .and_then(|renamed| renamed)
            .map_err(BackupError::io(config_path)),
        None => Ok(()),
    };
    let done = Config::load(fresh.as_deref().unwrap_or(config_path))
        .map_err(Failure::from)
        .and_then(|config| {
            // What is made in the state folder must be within the agent's reach.
            let _acting =
                AsOwner::of(&config.state_dir).map_err(BackupError::io(&config.state_dir))?;
            restore_into(&config, asked, identities.as_ref(), &checked, place_config)
        });
    if let (Some(fresh), Err(_)) = (&fresh, &done) {
        durable::remove(fresh).map_err(BackupError::io(fresh))?;
    }
    let Restored { replaced, kept, absent } = done?;
    for path in &kept {
        tell!("note: {} is not the one of the backup, and stays", path.display());
    }
    if !checked.facts.keys {
        tell!(
            "note: the backup holds no secret keys: what was encrypted to a key that is gone can't be opened"
        );
    }
    for what in &checked.facts.left_out {
        tell!("was not in the backup: {what}");
    }
    if absent > 0 {
        tell!(
            "{absent} bundle(s) of the ledger have no file in the store\n  try: penstock-high export --all, on the high side, and import them: each finds its place"
        );
    }
    if asked.json {
        return put_json(&json!({
            "backup": checked.facts, "replaced": replaced, "absent": absent,
        }));
    }
    let mut text = format!("restored as of {}\n", checked.facts.made);
    if let Some(replaced) = &replaced {
        let _ = writeln!(text, "the ledger that stood here is in {}", replaced.display());
    }
    put(&text)
}

/// The backup itself; of a folder the newest, which is told.
fn file_of(given: &Path) -> Result<PathBuf, Failure> {
    if !given.is_dir() {
        return Ok(given.to_owned());
    }
    let (file, others) = newest(given, Side::Low)?;
    tell!("the newest of {} in {}: {}", others + 1, given.display(), file.display());
    Ok(file)
}

fn restore_into(
    config: &Config,
    asked: &RestoreVerb,
    identities: Option<&Identities>,
    checked: &Checked,
    place_config: impl FnOnce() -> Result<(), BackupError>,
) -> Result<Restored, Failure> {
    let state = &config.state_dir;
    let folders = Folders::of(state);
    let interrupted = expect_no_restore(state).is_err();
    folders.create().map_err(BackupError::io(state))?;
    let Some(_lock) = folders.lock_agent().map_err(BackupError::io(state))? else {
        let text =
            format!("an agent runs on {}\n  try: systemctl stop penstock-low", state.display());
        return Err(Failure::new(exit::FAILED, text));
    };
    let ledger = state.join(FILE_NAME);
    if ledger.exists() && !asked.replace && !interrupted {
        let text = format!(
            "{} exists; nothing was changed\n  try: --replace, which sets it aside",
            ledger.display()
        );
        return Err(Failure::new(exit::FAILED, text));
    }
    let mut work = Work::begin(state, "restore")?;
    read_file(&asked.file, identities, Side::Low, &mut |_, member, content| {
        work.take(member, content)
    })?;
    let now = SystemClock.now();
    // Refuses a newer one, and brings an older one up to date, where nothing else is.
    let restored = Ledger::open(&work.path("state"))?;
    let keys = KeyFile::of(&work, &config.keys_dir)?;
    if let Some(key) = keys.iter().find(|key| key.is_in_the_way())
        && !asked.replace
        && !interrupted
    {
        let text = format!(
            "{} exists, and is not the one of the backup; nothing was changed\n  try: --replace, which sets it aside",
            key.to.display()
        );
        return Err(Failure::new(exit::FAILED, text));
    }

    // From here on things are changed.
    begin_restore(state)?;
    let mut kept = Vec::new();
    for member in work.members() {
        let from = work.path(&member.name);
        let placed = match member.name.split_once('/') {
            Some(("store", name)) => {
                let to = folders.store.join(name);
                (Placed::put(&from, &to, member.mode)?, to)
            }
            Some(_) if member.name == JOURNAL => {
                let to = Journal::of(state).path().to_owned();
                (Placed::put_grown(&from, &to, member.mode)?, to)
            }
            Some(("state", name)) => {
                let to = state.join(name);
                let folder = name.split_once('/').map(|(folder, _)| folder);
                match folder {
                    Some(DIR_NAME) => (Placed::put_grown(&from, &to, member.mode)?, to),
                    Some(folder) if FOLDERS.contains(&folder) => {
                        (Placed::put(&from, &to, member.mode)?, to)
                    }
                    _ => continue,
                }
            }
            _ => continue,
        };
        if let (Placed::Kept, to) = placed {
            kept.push(to);
        }
    }
    for key in &keys {
        let (placed, moved) = key.put(&config.keys_dir, now.as_secs())?;
        if let Some(aside) = moved {
            tell!("{} was set aside into {}", key.to.display(), aside.display());
        }
        if placed == Placed::Kept {
            kept.push(key.to.clone());
        }
    }
    let absent = finish(restored, &folders, &checked.facts.made, now)?;
    let replaced = set_aside(state, now)?;
    durable::rename(&work.path(DATABASE), &ledger).map_err(BackupError::io(&ledger))?;
    place_config()?;
    end_restore(state)?;
    Ok(Restored { replaced, kept, absent })
}

/// Has the ledger say what it is; gives how many of its bundles have no file.
fn finish(mut ledger: Ledger, folders: &Folders, made: &str, now: Nanos) -> Result<u64, Failure> {
    let (absent, absent_bytes) = ledger.absent_files(&folders.store)?;
    let not_admitted = ledger.store_sum()?.not_admitted;
    ledger.note_store((absent, absent_bytes), not_admitted)?;
    let reasons =
        Quarantine::at(&folders.quarantine).list().map_err(BackupError::io(&folders.quarantine))?;
    let refused = reasons.into_iter().map(|reason| (reason.sha256, reason.code));
    let message = format!(
        "the ledger is that of {made}: what was admitted and delivered since is admitted from the store or when it comes again, and sinks get it again with the same ids; {absent} bundle(s) have no file in the store; signers, officers and revocations are as of then where they were restored too: revoke again what was revoked since"
    );
    ledger.note_restored(made, &message, refused, now)?;
    ledger.into_one_file()?;
    Ok(absent)
}

/// Moves the ledger that stands here, and what belongs to it, into a folder of its own. Its log goes
/// first: a ledger without it is an older one, and never a mixture.
fn set_aside(state: &Path, now: Nanos) -> Result<Option<PathBuf>, BackupError> {
    let parts = ["-wal", "-shm", ""].map(|end| format!("{FILE_NAME}{end}"));
    if parts.iter().all(|name| !state.join(name).exists()) {
        return Ok(None);
    }
    let stamp: String = now.to_string().chars().take(19).filter(|c| !"-:".contains(*c)).collect();
    let name = |n: u32| match n {
        1 => format!("set-aside-{stamp}Z"),
        n => format!("set-aside-{stamp}Z-{n}"),
    };
    let free = (1..u32::MAX).map(|n| state.join(name(n))).find(|folder| !folder.exists());
    let folder = free.unwrap_or_else(|| state.join("set-aside"));
    durable::create_dir(&folder).map_err(BackupError::io(&folder))?;
    for name in parts {
        let from = state.join(&name);
        if from.exists() {
            durable::rename(&from, &folder.join(name)).map_err(BackupError::io(&from))?;
        }
    }
    Ok(Some(folder))
}
