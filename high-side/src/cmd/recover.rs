//! `recover`: a new epoch after a restore, and taking in what a set-aside buffer still holds.

use std::path::Path;
use std::sync::Arc;

use shared::clock::{Clock, SystemClock};
use shared::receipt::Receipt;
use shared::record::Lane;

use super::Failure;
use crate::agent::buffer_settings;
use crate::buffer::{Buffer, Crossed, Mark, Opened, Store, Unsealed, ask_for_new_epoch};
use crate::config::Config;

pub(super) fn recover(
    config: &Config,
    from: Option<&Path>,
    receipt: Option<&Path>,
    yes: bool,
) -> Result<(), Failure> {
    // Read as root, where it is root who asks.
    let receipt = receipt.map(|file| super::receipt::load(config, file)).transpose()?;
    super::act_as_owner(config)?;
    match from {
        Some(folder) => salvage(config, folder, receipt.as_ref()),
        None => new_epoch(config, yes),
    }
}

/// A state folder that was restored, or copied, continues numbers that may have crossed already with
/// other content. A new epoch begins instead, with numbers of its own.
fn new_epoch(config: &Config, yes: bool) -> Result<(), Failure> {
    let mut store = Store::open(&config.state_dir)?;
    let waiting = records(&store.unsealed()?);
    if !yes {
        tell!(
            "epoch {} of {} would end here. Its buffer would be set aside with {waiting} record(s) that no bundle holds, and a new epoch begin.",
            store.epoch(),
            store.origin()
        );
        return Err(Failure::new(
            "nothing was changed\n  try: penstock-high recover --yes, if this state folder was restored from a backup, copied, or is to be given up",
        ));
    }
    // What waits there would be set aside with the buffer.
    super::custody::settle(&mut store);
    let custody = store.custody_known()?.made;
    drop(store);
    // Held from here on: an agent can't be running, and none can start meanwhile.
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (buffer, _) = Buffer::open(buffer_settings(config), &config.origin, Arc::clone(&clock))?;
    drop(buffer);
    ask_for_new_epoch(&config.state_dir)?;
    let (buffer, recovery) = Buffer::open(buffer_settings(config), &config.origin, clock)?;
    drop(buffer);
    let Opened::SetAside { to, .. } = recovery.opened else {
        return Err(Failure::new("the buffer was not set aside; see the log"));
    };
    let mut store = Store::open(&config.state_dir)?;
    store.adopt_custody(custody)?;
    store.adopt_marks(&Store::open_set_aside(&to)?)?;
    say!("epoch {} has begun", recovery.epoch);
    say!("the buffer of the one before is in {}", to.display());
    if waiting > 0 {
        say!(
            "it holds {waiting} record(s) that no bundle holds. If they can't have crossed yet: penstock-high recover --from {}",
            to.display()
        );
    }
    Ok(())
}

/// Takes in what no bundle of a set-aside buffer holds. How far it came is stored with the records, so
/// that it may be stopped at any time and asked for again.
///
/// With a receipt of the low side, what it says arrived is left out.
pub(super) fn salvage(
    config: &Config,
    folder: &Path,
    receipt: Option<&Receipt>,
) -> Result<(), Failure> {
    let aside = Store::open_set_aside(folder)?;
    if aside.origin() != &config.origin {
        return Err(Failure::new(format!(
            "{} is of origin {}, and this is {}",
            folder.display(),
            aside.origin(),
            config.origin
        )));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (mut buffer, recovery) =
        Buffer::open(buffer_settings(config), &config.origin, Arc::clone(&clock))?;
    if recovery.epoch == aside.epoch() {
        return Err(Failure::new(format!(
            "{} is of the epoch that goes on here: it holds nothing else",
            folder.display()
        )));
    }
    let mut begins = Vec::new();
    for unsealed in aside.unsealed()? {
        let lane = unsealed.lane;
        let crossed = receipt.map(|receipt| aside.crossed(lane, receipt)).transpose()?;
        let last = unsealed.first.0 + unsealed.records - 1;
        match crossed {
            Some(Crossed::Through(through)) if through >= unsealed.first.0 => {
                let count = through.min(last) + 1 - unsealed.first.0;
                say!(
                    "{count} record(s) of lane {lane} arrived, as the receipt says; they are left out"
                );
                begins.push(through);
            }
            Some(Crossed::Unknown) if unsealed.records > 0 => {
                say!(
                    "note: bundles of lane {lane} are missing on the low side among those that came, and nobody knows which records they held: up to {} record(s) arrive twice, with other ids",
                    unsealed.records
                );
                begins.push(0);
            }
            _ => begins.push(0),
        }
    }
    let marks = buffer.store()?.marks(&mark_name(aside.epoch().0, None))?;
    let (intake, writer) = buffer.start_writer()?;
    let (mut taken, mut lost) = (0, Vec::new());
    for (lane, begin) in Lane::ALL.into_iter().zip(begins) {
        let name = mark_name(aside.epoch().0, Some(lane));
        let after = marks.iter().find(|(found, _)| *found == name);
        let after = after.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        let after = begin.max(after);
        let damaged = aside.read_unsealed::<Failure>(lane, after, |mut batch, last| {
            taken += batch.messages.len() as u64;
            batch.mark = Some(Mark { name: name.clone(), value: Some(last.to_string()) });
            let closed = |_| Failure::new("the buffer takes no more; ask again when it has room");
            intake.submit_blocking(batch).map_err(closed)
        })?;
        lost.extend(damaged);
    }
    drop(intake);
    writer.join()?;
    say!(
        "{taken} record(s) taken in from epoch {}; they cross in epoch {}",
        aside.epoch(),
        recovery.epoch
    );
    for range in &lost {
        say!(
            "lost: records {} to {} of lane {} were damaged on the disk",
            range.first,
            range.last,
            range.lane
        );
    }
    Ok(())
}

fn records(unsealed: &[Unsealed]) -> u64 {
    unsealed.iter().map(|lane| lane.records).sum()
}

fn mark_name(epoch: u64, lane: Option<Lane>) -> String {
    format!("salvage/{epoch}/{}", lane.map_or("", Lane::as_str))
}
