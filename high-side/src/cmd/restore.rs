//! `restore`: a backup becomes this side's state again, and a new epoch begins.
//!
//! The backup is read to its end first, and nothing is touched before that went well. Then it is read
//! once more into a folder beside the state; then each file is put in its place. From the first change
//! to the last one a mark stands in the state folder, and with it nothing opens what is there: killed in
//! between, the same command begins anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use shared::backup::{
    BackupError, Checked, Facts, KeyFile, Placed, Work, begin_restore, end_restore,
    expect_no_restore, newest, read_file,
};
use shared::clock::{Clock, SystemClock};
use shared::custody::DIR_NAME;
use shared::durable;
use shared::keys::{Identities, Side};
use shared::process::{AsOwner, as_root};

use super::backup::{CONFIG, DATABASE};
use super::{Failure, chain, recover};
use crate::agent::buffer_settings;
use crate::buffer::{Buffer, BufferError, Held, Restored, Store};
use crate::cli::RestoreVerb;
use crate::config::Config;

pub(super) fn restore(config_path: &Path, asked: &RestoreVerb) -> Result<(), Failure> {
    let asked = &RestoreVerb { file: file_of(&asked.file)?, ..asked.clone() };
    let identities = match &*asked.identity {
        [] => None,
        files => Some(Identities::load(files)?),
    };
    let checked = Checked::read(&asked.file, identities.as_ref(), Side::High, (CONFIG, DATABASE))?;
    if asked.check {
        if asked.json {
            say!("{}", checked.to_json());
        } else {
            say!("{}", checked.summary().trim_end());
        }
        return Ok(());
    }
    let (config, fresh) = configuration(config_path, &checked)?;
    let place_config = || match &fresh {
        Some(fresh) => as_root(|| durable::rename(fresh, config_path))
            .and_then(|renamed| renamed)
            .map_err(BackupError::io(config_path)),
        None => Ok(()),
    };
    // What is made in the state folder must be within the agent's reach.
    let _acting = AsOwner::of(&config.state_dir).map_err(BackupError::io(&config.state_dir))?;
    let done = restore_into(&config, asked, identities.as_ref(), &checked.facts, place_config);
    if let (Some(fresh), Err(_)) = (&fresh, &done) {
        as_root(|| durable::remove(fresh))
            .and_then(|removed| removed)
            .map_err(BackupError::io(fresh))?;
    }
    let (restored, kept) = done?;
    for path in &kept {
        tell!("note: {} is not the one of the backup, and stays", path.display());
    }
    if !checked.facts.keys && !config.keys_dir.join(shared::keys::SIGNING_KEY_FILE).exists() {
        tell!(
            "note: the backup holds no secret keys: put the signing key back, or make a new one: penstock-high init, and pair it"
        );
    }
    for what in &checked.facts.left_out {
        tell!("was not in the backup: {what}");
    }
    if asked.json {
        say!(
            "{}",
            json!({
                "backup": checked.facts, "epoch": restored.epoch, "set-aside": restored.aside,
                "replaced": restored.replaced, "unsealed": restored.unsealed,
                "take-in": restored.folders().iter().map(|(folder, unsealed)| {
                    json!({"folder": folder, "unsealed": unsealed})
                }).collect::<Vec<_>>(),
            })
        );
    } else {
        say!("restored as of {}; epoch {} has begun", checked.facts.made, restored.epoch);
        if let Some(replaced) = &restored.replaced {
            let held = match &restored.before {
                Some(before) => format!(", with {} record(s) that no bundle held", before.unsealed),
                None => ", and can't be read: keep it".to_owned(),
            };
            say!("the buffer that stood here is in {}{held}", replaced.display());
        }
    }
    let load = |file| as_root(|| super::receipt::load(&config, file)).map_err(Failure::new)?;
    let receipt = asked.receipt.as_deref().map(load).transpose()?;
    for (folder, unsealed) in restored.folders() {
        if receipt.is_some() || asked.take_in {
            recover::salvage(&config, folder, receipt.as_ref())?;
        } else if unsealed > 0 {
            tell!(
                "{unsealed} record(s) that no bundle held are in {}\n  try: penstock-high recover --from {} --receipt FILE, with a receipt of the low side: it takes in what did not arrive",
                folder.display(),
                folder.display()
            );
        }
    }
    Ok(())
}

/// The backup itself; of a folder the newest, which is told.
fn file_of(given: &Path) -> Result<PathBuf, Failure> {
    if !given.is_dir() {
        return Ok(given.to_owned());
    }
    let (file, others) = newest(given, Side::High)?;
    tell!("the newest of {} in {}: {}", others + 1, given.display(), file.display());
    Ok(file)
}

/// The configuration that is here, or the backup's under a name that is not yet its own.
fn configuration(path: &Path, checked: &Checked) -> Result<(Config, Option<PathBuf>), Failure> {
    let here = |config: &Config| {
        if config.origin.as_str() == checked.facts.name {
            return Ok(());
        }
        let found = format!("origin {}", checked.facts.name);
        let here = format!("origin {}, says {}", config.origin, path.display());
        Err(Failure::from(BackupError::Other { found, here }))
    };
    if path.exists() {
        let config = Config::load(path)?;
        here(&config)?;
        return Ok((config, None));
    }
    let fresh = checked.config_beside(path)?;
    let config = Config::load(&fresh).map_err(Failure::from).and_then(|config| {
        here(&config)?;
        Ok(config)
    });
    if config.is_err() {
        durable::remove(&fresh).map_err(BackupError::io(&fresh))?;
    }
    Ok((config?, Some(fresh)))
}

fn restore_into(
    config: &Config,
    asked: &RestoreVerb,
    identities: Option<&Identities>,
    facts: &Facts,
    place_config: impl FnOnce() -> Result<(), BackupError>,
) -> Result<(Restored, Vec<PathBuf>), Failure> {
    let state = &config.state_dir;
    let interrupted = expect_no_restore(state).is_err();
    // From here on no agent can start.
    let held = Held::take(state).map_err(|err| match err {
        BufferError::Locked { .. } => Failure::new(format!(
            "an agent runs on {}\n  try: systemctl stop penstock-high",
            state.display()
        )),
        err => err.into(),
    })?;
    let database = state.join("buffer.db");
    if database.exists() && !asked.replace && !interrupted {
        return Err(Failure::new(format!(
            "{} exists; nothing was changed\n  try: --replace, which sets it aside",
            database.display()
        )));
    }
    let mut work = Work::begin(state, "restore")?;
    read_file(&asked.file, identities, Side::High, &mut |_, member, content| {
        work.take(member, content)
    })?;
    let snapshot = work.path(DATABASE);
    let whose = Store::open_set_aside(snapshot.parent().unwrap_or(state))?;
    if whose.origin() != &config.origin || Some(whose.epoch().0) != facts.epoch {
        return Err(Failure::refused(
            "the buffer in the backup is not the one that it says it holds",
        ));
    }
    drop(whose);
    let keys = KeyFile::of(&work, &config.keys_dir)?;
    if let Some(key) = keys.iter().find(|key| key.is_in_the_way())
        && !asked.replace
        && !interrupted
    {
        return Err(Failure::new(format!(
            "{} exists, and is not the one of the backup; nothing was changed\n  try: --replace, which sets it aside",
            key.to.display()
        )));
    }

    // From here on things are changed.
    begin_restore(state)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut kept = Vec::new();
    for member in work.members() {
        let from = work.path(&member.name);
        let Some((folder, name)) = member.name.split_once('/') else { continue };
        let custody = name.strip_prefix(DIR_NAME).and_then(|name| name.strip_prefix('/'));
        let placed = match (folder, custody) {
            ("outbox", _) => {
                let to = config.outbox.path.join(name);
                (Placed::put(&from, &to, member.mode)?, to)
            }
            ("state", Some(_)) => {
                let to = state.join(name);
                (Placed::put_grown(&from, &to, member.mode)?, to)
            }
            ("state", None) if name.starts_with("transfers/") => {
                let to = state.join(name);
                (Placed::put(&from, &to, member.mode)?, to)
            }
            _ => continue,
        };
        if let (Placed::Kept, to) = placed {
            kept.push(to);
        }
    }
    let seconds = clock.now().as_secs();
    for key in &keys {
        let (placed, moved) = key.put(&config.keys_dir, seconds)?;
        if let Some(aside) = moved {
            tell!("{} was set aside into {}", key.to.display(), aside.display());
        }
        if placed == Placed::Kept {
            kept.push(key.to.clone());
        }
    }
    let settings = buffer_settings(config);
    let restored =
        Buffer::begin_behind(held, &settings, &config.origin, &clock, &snapshot, &facts.made)
            .map_err(|err| Failure::new(chain(&err)))?;
    place_config()?;
    end_restore(state)?;
    Ok((restored, kept))
}
