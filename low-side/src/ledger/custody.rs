//! The custody log's rows: made in the transaction that changes a state, written to the log's files
//! soon after, and forgotten then.

use std::io;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::custody::{
    Checkpoint, CheckpointPolicy, CustodyBundle, CustodyEvent, CustodyFile, CustodyFolder,
    CustodyRows, DueLine, Head, Identity, Known, Plan, Surprise, Tail, plan, settle,
};
use shared::keys::{KeyError, SigningKey};

use super::{ChainName, Ledger, LedgerError, alarms, int, uint};

/// Why the custody log's files could not be written. Its rows wait.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// Another process has been writing for too long.
    #[error("another process has held the custody log's lock for too long")]
    Busy,
    /// The disk.
    #[error("the custody log can't be written")]
    Io(#[from] io::Error),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The key.
    #[error("the custody log can't be signed")]
    Sign(String),
}

/// How a file came: under which name, with which content, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The file.
    pub file: CustodyFile,
    /// By what, as the end of a sentence: "by the inbox".
    pub source: String,
}

/// The bundle that an entry is about.
pub(super) fn bundle_of(chain: &ChainName, number: u64, digest: BundleDigest) -> CustodyBundle {
    CustodyBundle {
        origin: chain.origin.clone(),
        epoch: chain.epoch,
        lane: chain.lane,
        number,
        digest: Some(digest),
    }
}

/// Notes an event in the transaction that makes it true.
pub(super) fn note(tx: &Connection, event: CustodyEvent) -> Result<(), LedgerError> {
    let at = event.at;
    let (line, head) = load_head(tx)?.append(event);
    store(tx, &line, head)?;
    tx.prepare_cached("UPDATE custody_head SET unsigned_ns = ?1 WHERE unsigned_ns IS NULL")?
        .execute([at.0])?;
    Ok(())
}

fn store(tx: &Connection, line: &str, head: Head) -> Result<(), LedgerError> {
    tx.prepare_cached("INSERT INTO custody_due VALUES (?1, ?2)")?
        .execute(params![int(head.number), line])?;
    store_head(tx, head)
}

fn store_head(tx: &Connection, head: Head) -> Result<(), LedgerError> {
    tx.prepare_cached(
        "INSERT INTO custody_head (one, number, hash, signed_through) VALUES (1, ?1, ?2, 0)
         ON CONFLICT (one) DO UPDATE SET number = ?1, hash = ?2",
    )?
    .execute(params![int(head.number), head.hash.as_bytes()])?;
    Ok(())
}

pub(super) fn load_head(conn: &Connection) -> Result<Head, LedgerError> {
    let found = conn
        .prepare_cached("SELECT number, hash FROM custody_head")?
        .query_row([], |row| {
            let hash = BundleDigest::from_bytes(row.get(1)?);
            Ok(Head { number: uint(row.get(0)?), hash })
        })
        .optional()?;
    Ok(found.unwrap_or(Head::BEGIN))
}

fn load_due(conn: &Connection, count: i64) -> Result<Vec<DueLine>, LedgerError> {
    let mut statement =
        conn.prepare_cached("SELECT number, line FROM custody_due ORDER BY number LIMIT ?1")?;
    let rows = statement
        .query_map([count], |row| Ok(DueLine { number: uint(row.get(0)?), line: row.get(1)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

impl Ledger {
    /// Notes an event that changes nothing else.
    pub fn note_custody(&mut self, event: CustodyEvent) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        note(&tx, event)?;
        Ok(tx.commit()?)
    }

    /// The folder of the custody log.
    pub fn custody_folder(&self) -> &CustodyFolder {
        &self.custody
    }

    /// What the ledger knows of the custody log.
    pub fn custody_known(&mut self) -> Result<Known, LedgerError> {
        let tx = self.conn.transaction()?;
        let made = load_head(&tx)?;
        Ok(Known::of(made, load_due(&tx, 1)?.first()))
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
        match &settled {
            Ok(()) => self.close_alarm(NOT_WRITTEN, SUBJECT, now)?,
            Err(CustodyError::Busy) => {}
            Err(error) => {
                let message = format!(
                    "{}; its entries wait in the ledger, and nothing else is held up",
                    crate::replay::chain_text(error)
                );
                self.raise_once(NOT_WRITTEN, SUBJECT, &message, now)?;
            }
        }
        settled
    }

    fn settle(&mut self, now: Nanos) -> Result<(), CustodyError> {
        let folder = self.custody.clone();
        let lock = folder.lock(LOCK_PATIENCE)?.ok_or(CustodyError::Busy)?;
        settle(&mut Rows { ledger: self, now }, &folder, &lock, now)
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
                Ok((uint(row.get(0)?), uint(row.get(1)?), Nanos(row.get(2)?)))
            })
            .optional()
        };
        let is_due = |state: Option<(u64, u64, Nanos)>| {
            state.is_some_and(|(made, signed, since)| {
                CheckpointPolicy::asks(policy, made, signed, since, now)
            })
        };
        // A look before the write lock is taken: this runs every second.
        if !is_due(state(&self.conn).map_err(LedgerError::from)?) {
            return Ok(false);
        }
        let (identity, key) = match key() {
            Ok(found) => found,
            Err(error) => {
                let message = format!(
                    "checkpoints of the custody log are not signed: {error}\n  try: penstock-low public, which makes the key where there is none"
                );
                self.raise_once(NOT_SIGNED, SUBJECT, &message, now)?;
                return Ok(false);
            }
        };
        self.close_alarm(NOT_SIGNED, SUBJECT, now)?;
        let tx = self.begin()?;
        if !is_due(state(&tx).map_err(LedgerError::from)?) {
            return Ok(false);
        }
        let (line, head) = Checkpoint::append(&load_head(&tx)?, &identity, &key, now)
            .map_err(|error| CustodyError::Sign(error.to_string()))?;
        store(&tx, &line, head)?;
        tx.execute("UPDATE custody_head SET signed_through = number, unsigned_ns = NULL", [])?;
        tx.commit().map_err(LedgerError::from)?;
        Ok(true)
    }
}

/// The tables, for the time in which the files are written.
struct Rows<'a> {
    ledger: &'a mut Ledger,
    now: Nanos,
}

impl CustodyRows for Rows<'_> {
    type Error = CustodyError;

    fn due(&mut self, count: u32) -> Result<(Head, Vec<DueLine>), CustodyError> {
        let tx = self.ledger.conn.transaction()?;
        Ok((load_head(&tx)?, load_due(&tx, count.into())?))
    }

    fn note(&mut self, event: CustodyEvent) -> Result<(), CustodyError> {
        Ok(self.ledger.note_custody(event)?)
    }

    fn note_surprise(
        &mut self,
        surprise: &Surprise,
        event: CustodyEvent,
    ) -> Result<(), CustodyError> {
        let tx = self.ledger.begin()?;
        alarms::raise(&tx, CHANGED, SUBJECT, &surprise.to_string(), self.now)?;
        note(&tx, event)?;
        Ok(tx.commit()?)
    }

    fn forget(&mut self, through: u64) -> Result<(), CustodyError> {
        let sql = "DELETE FROM custody_due WHERE number <= ?1";
        self.ledger.conn.prepare_cached(sql)?.execute([int(through)])?;
        Ok(())
    }

    fn renumber(&mut self, tail: &Tail) -> Result<(), CustodyError> {
        let tx = self.ledger.begin()?;
        let (head, due) = (load_head(&tx)?, load_due(&tx, i64::MAX)?);
        if let Plan::Renumber { lines, head, surprise } = plan(head, &due, tail, self.now) {
            tx.execute("DELETE FROM custody_due", [])?;
            for line in &lines {
                tx.prepare_cached("INSERT INTO custody_due VALUES (?1, ?2)")?
                    .execute(params![int(line.number), line.line])?;
            }
            store_head(&tx, head)?;
            alarms::raise(&tx, CHANGED, SUBJECT, &surprise.to_string(), self.now)?;
        }
        Ok(tx.commit()?)
    }
}

impl From<rusqlite::Error> for CustodyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// How long to wait while another process writes. Nobody does for more than some syncs.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const NOT_WRITTEN: &str = "custody-not-written";
const NOT_SIGNED: &str = "custody-not-signed";
const CHANGED: &str = "custody-changed";
const SUBJECT: &str = "custody";
