//! The custody log's rows: made in the transaction that changes a bundle's state, written to the log's
//! files soon after, and forgotten then.
//!
//! The time of an entry is the system's when its row is made: the log says what was done when, also
//! where a caller's clock is another one.

use std::io;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};
use shared::bundle::BundleDigest;
use shared::clock::{Clock, Nanos, SystemClock};
use shared::custody::{
    Action, Checkpoint, CheckpointPolicy, CustodyBundle, CustodyEvent, CustodyFile, CustodyFolder,
    CustodyRows, DueLine, Head, Identity, Known, Plan, Surprise, Tail, plan, settle,
};
use shared::keys::{KeyError, SigningKey};

use super::alarms::{self, AlarmKind};
use super::block::Life;
use super::bundles::Bundle;
use super::error::BufferError;
use super::store::{Store, begin};

/// Why the custody log's files could not be written. Its rows wait.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// The buffer's database.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// Another process has been writing for too long.
    #[error("another process has held the custody log's lock for too long")]
    Busy,
    /// The disk.
    #[error("the custody log can't be written: {0}")]
    Io(#[from] io::Error),
    /// The key.
    #[error("the custody log can't be signed: {0}")]
    Sign(String),
}

impl From<rusqlite::Error> for CustodyError {
    fn from(err: rusqlite::Error) -> Self {
        Self::Buffer(err.into())
    }
}

/// An event about a bundle of this buffer.
pub(super) fn event(life: &Life, bundle: &Bundle, action: Action) -> CustodyEvent {
    let file = bundle.file.as_ref();
    let event = CustodyEvent::new(SystemClock.now(), action).bundle(CustodyBundle {
        origin: life.origin.clone(),
        epoch: life.epoch,
        lane: bundle.lane,
        number: bundle.number,
        digest: file.map(|file| file.digest),
    });
    match file {
        None => event,
        Some(file) => event.file(CustodyFile {
            name: file.name.clone(),
            sha256: BundleDigest::from_bytes(file.sha256),
            bytes: file.bytes,
        }),
    }
}

/// Notes an event in the transaction that makes it true.
pub(super) fn note(tx: &Connection, event: CustodyEvent) -> Result<(), BufferError> {
    let at = event.at;
    let (line, head) = load_head(tx)?.append(event);
    store_line(tx, &line, head)?;
    tx.prepare_cached("UPDATE custody_head SET unsigned_ns = ?1 WHERE unsigned_ns IS NULL")?
        .execute([at.0])?;
    Ok(())
}

fn store_line(tx: &Connection, line: &str, head: Head) -> Result<(), BufferError> {
    tx.prepare_cached("INSERT INTO custody_due VALUES (?1, ?2)")?
        .execute(params![head.number.cast_signed(), line])?;
    store_head(tx, head)
}

fn store_head(tx: &Connection, head: Head) -> Result<(), BufferError> {
    tx.prepare_cached(
        "INSERT INTO custody_head (one, number, hash, signed_through) VALUES (1, ?1, ?2, 0)
         ON CONFLICT (one) DO UPDATE SET number = ?1, hash = ?2",
    )?
    .execute(params![head.number.cast_signed(), head.hash.as_bytes()])?;
    Ok(())
}

pub(super) fn load_head(conn: &Connection) -> Result<Head, BufferError> {
    let found = conn
        .prepare_cached("SELECT number, hash FROM custody_head")?
        .query_row([], |row| {
            let number: i64 = row.get(0)?;
            let hash = BundleDigest::from_bytes(row.get(1)?);
            Ok(Head { number: number.cast_unsigned(), hash })
        })
        .optional()?;
    Ok(found.unwrap_or(Head::BEGIN))
}

fn load_due(conn: &Connection, count: i64) -> Result<Vec<DueLine>, BufferError> {
    let mut statement =
        conn.prepare_cached("SELECT number, line FROM custody_due ORDER BY number LIMIT ?1")?;
    let rows = statement.query_map([count], |row| {
        let number: i64 = row.get(0)?;
        Ok(DueLine { number: number.cast_unsigned(), line: row.get(1)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Raises an alarm, unless one of its kind waits to be acknowledged: for what is met again and again.
fn raise_once(
    conn: &Connection,
    kind: AlarmKind,
    message: &str,
    now: Nanos,
) -> Result<(), BufferError> {
    let open = conn
        .prepare_cached("SELECT 1 FROM alarm WHERE kind = ?1 AND acknowledged_ns IS NULL")?
        .exists([kind.as_str()])?;
    if open { Ok(()) } else { alarms::raise(conn, kind, message, now) }
}

impl Store {
    /// Notes an event that changes nothing else.
    pub fn note_custody(&mut self, event: CustodyEvent) -> Result<(), BufferError> {
        let tx = begin(&mut self.conn)?;
        note(&tx, event)?;
        Ok(tx.commit()?)
    }

    /// Notes that something was done to a bundle, where that changes nothing else.
    pub fn note_custody_of(
        &mut self,
        bundle: &Bundle,
        action: Action,
        detail: &str,
    ) -> Result<(), BufferError> {
        let event = event(&self.life, bundle, action).detail(detail);
        self.note_custody(event)
    }

    /// The folder of the custody log.
    pub fn custody_folder(&self) -> &CustodyFolder {
        &self.custody
    }

    /// What the database knows of the custody log.
    pub fn custody_known(&mut self) -> Result<Known, BufferError> {
        let tx = self.conn.transaction()?;
        let made = load_head(&tx)?;
        Ok(Known::of(made, load_due(&tx, 1)?.first()))
    }

    /// The log goes on from here: in the database of a new epoch, which knows nothing of it yet.
    pub fn adopt_custody(&mut self, head: Head) -> Result<(), BufferError> {
        let tx = begin(&mut self.conn)?;
        if load_head(&tx)? == Head::BEGIN {
            store_head(&tx, head)?;
        }
        Ok(tx.commit()?)
    }

    /// Writes what waits to the custody log's files. Where nothing waits the files are not touched,
    /// unless `look` asks for their end to be compared.
    ///
    /// A full disk is no reason to stop: an alarm says so, the rows wait, and the next call tries
    /// again.
    pub fn settle_custody(&mut self, look: bool, now: Nanos) -> Result<(), CustodyError> {
        let waits = self.conn.prepare_cached("SELECT 1 FROM custody_due LIMIT 1")?.exists([])?;
        if !waits && !look {
            return Ok(());
        }
        let settled = self.settle(now);
        let Err(err @ CustodyError::Io(_)) = &settled else {
            self.custody_failing = None;
            return settled;
        };
        // What fails once and is written the next time is no news for anybody.
        let since = *self.custody_failing.get_or_insert_with(Instant::now);
        if since.elapsed() >= FAILING_MAX {
            let message = format!(
                "{err}; its entries wait in the buffer's database, and nothing else is held up"
            );
            raise_once(&self.conn, AlarmKind::CustodyNotWritten, &message, now)?;
        }
        settled
    }

    fn settle(&mut self, now: Nanos) -> Result<(), CustodyError> {
        let folder = self.custody.clone();
        let lock = folder.lock(LOCK_PATIENCE)?.ok_or(CustodyError::Busy)?;
        settle(&mut Rows { store: self, now }, &folder, &lock, now)
    }

    /// Signs how far the custody log has come, where that is due (without a policy: where anything is
    /// unsigned); says whether it did.
    pub fn sign_custody(
        &mut self,
        key: impl FnOnce() -> Result<(Identity, SigningKey), KeyError>,
        policy: Option<&CheckpointPolicy>,
        now: Nanos,
    ) -> Result<bool, CustodyError> {
        let state = |conn: &Connection| {
            conn.prepare_cached(
                "SELECT number, signed_through, coalesce(unsigned_ns, ?1) FROM custody_head",
            )?
            .query_row([now.0], |row| {
                let (number, signed): (i64, i64) = (row.get(0)?, row.get(1)?);
                Ok((number.cast_unsigned(), signed.cast_unsigned(), Nanos(row.get(2)?)))
            })
            .optional()
        };
        let is_due = |state: Option<(u64, u64, Nanos)>| {
            state.is_some_and(|(made, signed, since)| {
                CheckpointPolicy::asks(policy, made, signed, since, now)
            })
        };
        // A look before the write lock is taken: this runs every second.
        if !is_due(state(&self.conn)?) {
            return Ok(false);
        }
        let (identity, key) = match key() {
            Ok(found) => found,
            Err(err) => {
                let message = format!("checkpoints of the custody log are not signed: {err}");
                raise_once(&self.conn, AlarmKind::CustodyNotSigned, &message, now)?;
                return Ok(false);
            }
        };
        let tx = begin(&mut self.conn)?;
        if !is_due(state(&tx)?) {
            return Ok(false);
        }
        let (line, head) = Checkpoint::append(&load_head(&tx)?, &identity, &key, now)
            .map_err(|err| CustodyError::Sign(err.to_string()))?;
        store_line(&tx, &line, head)?;
        tx.execute("UPDATE custody_head SET signed_through = number, unsigned_ns = NULL", [])?;
        tx.commit()?;
        Ok(true)
    }
}

/// The tables, for the time in which the files are written.
struct Rows<'a> {
    store: &'a mut Store,
    now: Nanos,
}

impl CustodyRows for Rows<'_> {
    type Error = CustodyError;

    fn due(&mut self, count: u32) -> Result<(Head, Vec<DueLine>), CustodyError> {
        let tx = self.store.conn.transaction()?;
        Ok((load_head(&tx)?, load_due(&tx, count.into())?))
    }

    fn note(&mut self, event: CustodyEvent) -> Result<(), CustodyError> {
        Ok(self.store.note_custody(event)?)
    }

    fn note_surprise(
        &mut self,
        surprise: &Surprise,
        event: CustodyEvent,
    ) -> Result<(), CustodyError> {
        let tx = begin(&mut self.store.conn)?;
        alarms::raise(&tx, AlarmKind::CustodyChanged, &surprise.to_string(), self.now)?;
        note(&tx, event)?;
        Ok(tx.commit()?)
    }

    fn forget(&mut self, through: u64) -> Result<(), CustodyError> {
        let sql = "DELETE FROM custody_due WHERE number <= ?1";
        self.store.conn.prepare_cached(sql)?.execute([through.cast_signed()])?;
        Ok(())
    }

    fn renumber(&mut self, tail: &Tail) -> Result<(), CustodyError> {
        let tx = begin(&mut self.store.conn)?;
        let (head, due) = (load_head(&tx)?, load_due(&tx, i64::MAX)?);
        if let Plan::Renumber { lines, head, surprise } = plan(head, &due, tail, self.now) {
            tx.execute("DELETE FROM custody_due", [])?;
            for line in &lines {
                tx.prepare_cached("INSERT INTO custody_due VALUES (?1, ?2)")?
                    .execute(params![line.number.cast_signed(), line.line])?;
            }
            store_head(&tx, head)?;
            alarms::raise(&tx, AlarmKind::CustodyChanged, &surprise.to_string(), self.now)?;
        }
        Ok(tx.commit()?)
    }
}

/// How long to wait while another process writes. Nobody does for more than some syncs.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// For so long the custody log may fail to be written before it is an alarm.
const FAILING_MAX: Duration = Duration::from_secs(5);
