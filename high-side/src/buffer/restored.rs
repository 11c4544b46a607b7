//! A buffer that begins behind a backup: always in a new epoch, since the numbers behind the backup's
//! moment may have crossed with other content.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::Flock;
use rusqlite::{OptionalExtension, params};
use shared::clock::{Clock, Nanos};
use shared::custody::{Action, CustodyEvent, CustodyFolder};
use shared::durable;
use shared::receipt::Receipt;
use shared::record::{Epoch, Lane, OriginId};

use super::alarms::{self, AlarmKind};
use super::custody::{self, CustodyError};
use super::error::BufferError;
use super::lane::LaneState;
use super::open;
use super::salvage::Unsealed;
use super::schema::{key, number_of_key};
use super::store::{Store, begin};
use super::{Buffer, BufferSettings};

/// What a restore led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The epoch that begins.
    pub epoch: Epoch,
    /// The folder with the backup's database.
    pub aside: PathBuf,
    /// The folder with the database that stood here, if one did.
    pub replaced: Option<PathBuf>,
    /// Records in the backup that no bundle held.
    pub unsealed: u64,
    /// What the database that stood here holds; `None` where there was none, or it can't be read.
    pub before: Option<Before>,
}

impl Restored {
    /// The folders that hold records which no bundle held, in the order in which they are to be taken in. Where the
    /// buffer that stood here went on from the backup, it holds the backup's records, too, and knows which
    /// of them are in bundles by now.
    pub fn folders(&self) -> Vec<(&Path, u64)> {
        let aside = (self.aside.as_path(), self.unsealed);
        match (&self.replaced, &self.before) {
            (Some(folder), Some(before)) if before.continues => vec![(folder, before.unsealed)],
            (Some(folder), Some(before)) => vec![aside, (folder, before.unsealed)],
            _ => vec![aside],
        }
    }
}

/// A database that stood where a backup was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Records in it that no bundle held.
    pub unsealed: u64,
    /// Whether it is the one that the backup was made of, later on.
    pub continues: bool,
}

/// How far a lane of an earlier epoch is known to have crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossed {
    /// Every record up to this number, and none behind it.
    Through(u64),
    /// Bundles are missing there among others that came: which of these records they held is not known.
    Unknown,
}

/// No agent runs on a folder, and none can start, while this is there.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "released when it is dropped")] Flock<File>);

impl Held {
    /// Takes the lock of an agent.
    ///
    /// # Errors
    /// An agent runs.
    pub fn take(dir: &Path) -> Result<Self, BufferError> {
        open::lock_dir(dir).map(Self)
    }
}

impl Buffer {
    /// Begins a new epoch behind a backup whose database is `snapshot`, in the folder of `settings`. The
    /// snapshot is moved into a folder `set-aside-...`, and so is a database that stands here. Custody log
    /// and marks go on from the backup's; an alarm says what has to be done.
    ///
    /// The caller has marked the folder by `begin_restore`: if this is interrupted, nothing opens it.
    pub fn begin_behind(
        held: Held,
        settings: &BufferSettings,
        origin: &OriginId,
        clock: &Arc<dyn Clock>,
        snapshot: &Path,
        made: &str,
    ) -> Result<Restored, CustodyError> {
        let dir = &settings.dir;
        let now = clock.now();
        let there = dir.join(open::DATABASE);
        let replaced = if there.exists() { Some(open::set_aside(dir, now)?) } else { None };
        let aside = open::new_aside(dir, now)?;
        let to = aside.join(open::DATABASE);
        durable::rename(snapshot, &to).map_err(BufferError::io(&to))?;
        let mut old = Store::open_set_aside(&aside)?;
        let known = open::known_epoch(dir)?.unwrap_or(0).max(old.epoch().0);
        open::note_epoch(dir, Epoch(known))?;
        // The log in the state folder is the one that goes on, with what the backup knew and had not
        // written.
        old.custody = CustodyFolder::at(dir);
        old.settle_custody(true, now)?;
        let custody = old.custody_known()?.made;
        let unsealed = old.unsealed()?.iter().map(|lane: &Unsealed| lane.records).sum();
        // Nobody takes the lock in between: the mark keeps them away.
        drop(held);
        let opened = open::open(settings, origin, clock)?;
        let epoch = opened.recovery.epoch;
        drop(opened);
        let mut store = Store::connect(dir)?;
        store.adopt_custody(custody)?;
        store.adopt_marks(&old)?;
        let before = replaced.as_deref().map(|folder| before(folder, &old));
        let message = message(made, (&aside, unsealed), replaced.as_deref().zip(before.as_ref()));
        let before = before.and_then(Result::ok);
        let tx = begin(&mut store.conn)?;
        // What the settling found is known in the backup's database alone.
        for surprise in custody_alarms(&old, now)? {
            alarms::raise(&tx, AlarmKind::CustodyChanged, &surprise, now)?;
        }
        alarms::raise(&tx, AlarmKind::BufferRestored, &message, now)?;
        let detail = format!("the backup of {made}; epoch {epoch} begins behind {}", old.epoch());
        custody::note(&tx, CustodyEvent::new(now, Action::Restored).detail(detail))?;
        tx.commit()?;
        store.settle_custody(false, now)?;
        Ok(Restored { epoch, aside, replaced, unsealed, before })
    }
}

/// Looks into the database that stood here.
fn before(folder: &Path, backup: &Store) -> Result<Before, BufferError> {
    let there = Store::open_set_aside(folder)?;
    let unsealed = there.unsealed()?.iter().map(|lane| lane.records).sum();
    let mut continues = there.origin() == backup.origin() && there.epoch() == backup.epoch();
    for lane in Lane::ALL {
        let next =
            |store: &Store| LaneState::load(&store.conn, lane).map(|state| state.next_sequence);
        continues &= next(&there)? >= next(backup)?;
    }
    Ok(Before { unsealed, continues })
}

/// What the alarm says: where the records are that no bundle held, and what to do about them.
fn message(
    made: &str,
    (aside, unsealed): (&Path, u64),
    replaced: Option<(&Path, &Result<Before, BufferError>)>,
) -> String {
    let aside = aside.display();
    let of_backup =
        format!("{unsealed} record(s) of the backup that no bundle held are in {aside}");
    let gone = "what was taken in after that and had not crossed";
    let what = match replaced {
        None => format!("{gone} is gone, and nobody can count it; {of_backup}"),
        Some((folder, Ok(before))) => {
            let (folder, count) = (folder.display(), before.unsealed);
            let backup = if before.continues {
                format!("the backup's own buffer, in {aside}, holds nothing besides")
            } else {
                of_backup
            };
            format!(
                "{gone} is in the buffer that stood here, now in {folder}, with {count} record(s) that no bundle held. \
                 Before that folder is deleted: penstock-high recover --from {folder} --receipt FILE, where the restore did not do it; {backup}"
            )
        }
        Some((folder, Err(err))) => format!(
            "{gone} was in the buffer that stood here, now in {}, which can't be read ({err}): keep it; {of_backup}",
            folder.display()
        ),
    };
    format!("restored from the backup of {made}: {what}")
}

fn custody_alarms(store: &Store, since: Nanos) -> Result<Vec<String>, BufferError> {
    let mut statement =
        store.conn.prepare("SELECT message FROM alarm WHERE kind = ?1 AND raised_ns >= ?2")?;
    let kind = AlarmKind::CustodyChanged.as_str();
    let rows = statement.query_map(params![kind, since.0], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

impl Store {
    /// Takes over how far files were read, and what is remembered of messages that can be asked for again.
    pub fn adopt_marks(&mut self, old: &Store) -> Result<(), BufferError> {
        let tx = begin(&mut self.conn)?;
        for (name, value) in old.marks("")? {
            let mark = super::Mark { name, value: Some(value) };
            super::marks::store(&tx, &mark)?;
        }
        let mut batch = Vec::new();
        old.sightings(i64::MIN, |sighting| batch.push(sighting))?;
        for sightings in batch.chunks(SIGHTINGS_AT_ONCE) {
            super::sightings::store(&tx, sightings)?;
        }
        Ok(tx.commit()?)
    }

    /// How far a lane of this epoch crossed, as a receipt says.
    pub fn crossed(&self, lane: Lane, receipt: &Receipt) -> Result<Crossed, BufferError> {
        let state = LaneState::load(&self.conn, lane)?;
        let ours = |chain: &&shared::receipt::ChainReceipt| {
            chain.origin == self.life.origin && chain.epoch == self.life.epoch && chain.lane == lane
        };
        let Some(chain) = receipt.chains.iter().find(ours) else {
            return Ok(Crossed::Through(state.sealed_through));
        };
        let planned: Option<i64> = self
            .conn
            .query_row(
                "SELECT min(id) FROM bundle WHERE state = 'planned' AND id BETWEEN ?1 AND ?2",
                [key(lane, 0), key(lane, u64::MAX)],
                |row| row.get(0),
            )
            .optional()?
            .flatten();
        // The first bundle that was sealed behind the backup's moment.
        let first = planned.map_or(state.next_bundle, number_of_key);
        Ok(match chain.admitted.last() {
            Some(last) if last.last < first => Crossed::Through(state.sealed_through),
            Some(last) if last.first <= first => {
                Crossed::Through(chain.last_sequence.max(state.sealed_through))
            }
            Some(_) => Crossed::Unknown,
            None => Crossed::Through(state.sealed_through),
        })
    }
}

/// In one row; a row is read as a whole.
const SIGHTINGS_AT_ONCE: usize = 4_096;
