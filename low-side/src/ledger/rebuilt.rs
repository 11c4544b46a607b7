//! A ledger that did not see all that was admitted: it was lost and is made again from the store, or came from a
//! backup. What store and ledger do not both hold, and how much is known only from elsewhere.

use std::path::Path;

use rusqlite::{Connection, Transaction, params};

use super::admission::{KNOWN_BY_LOG, KNOWN_BY_NOTHING};
use super::{Ledger, LedgerError, int, uint};

impl Ledger {
    /// Notes which files of the ledger the store does not hold, and how many it holds that were not
    /// admitted. Does not touch the disk where that is known.
    pub fn note_store(
        &mut self,
        (absent, absent_bytes): (u64, u64),
        not_admitted: u64,
    ) -> Result<(), LedgerError> {
        let known = self.store_sum()?;
        if (known.absent, known.absent_bytes, known.not_admitted)
            == (absent, absent_bytes, not_admitted)
        {
            return Ok(());
        }
        let tx = self.begin()?;
        for (name, value) in
            [(ABSENT, absent), (ABSENT_BYTES, absent_bytes), (NOT_ADMITTED, not_admitted)]
        {
            set(&tx, name, value)?;
        }
        Ok(tx.commit()?)
    }

    /// The files of the ledger that the store does not hold: how many, and their bytes.
    pub fn absent_files(&self, store: &Path) -> Result<(u64, u64), LedgerError> {
        let mut statement =
            self.conn.prepare("SELECT file, file_bytes FROM bundle WHERE stored_ns IS NOT NULL")?;
        let mut rows = statement.query([])?;
        let (mut absent, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            let file = row.get_ref(0)?.as_str().unwrap_or_default();
            if !store.join(file).is_file() {
                absent += 1;
                bytes += uint(row.get(1)?);
            }
        }
        Ok((absent, bytes))
    }

    /// The ledger is a new one beside a custody log; where the store holds bundles, its rebuilding begins.
    pub fn begin_rebuilding(&mut self, from_store: bool) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        if from_store {
            set(&tx, REBUILDING, 1)?;
        }
        set(&tx, BEHIND_LOG, 1)?;
        Ok(tx.commit()?)
    }

    /// The ledger is rebuilt.
    pub fn end_rebuilding(&mut self) -> Result<(), LedgerError> {
        Ok(self.conn.execute("DELETE FROM counter WHERE name = ?1", [REBUILDING]).map(|_| ())?)
    }

    /// How many bundles were admitted anew: at the time that the custody log has, and at an unknown one.
    pub fn admitted_anew(&self) -> Result<(u64, u64), LedgerError> {
        let sql =
            "SELECT coalesce(sum(known_by = ?1), 0), coalesce(sum(known_by = ?2), 0) FROM bundle";
        let known_by = [KNOWN_BY_LOG, KNOWN_BY_NOTHING];
        Ok(self.conn.query_row(sql, known_by, |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?)
    }

    /// Whether the ledger is being rebuilt.
    pub fn is_rebuilding(&self) -> Result<bool, LedgerError> {
        is_set(&self.conn, REBUILDING)
    }

    /// Whether the custody log may know of admissions that this ledger does not.
    pub fn is_behind_log(&self) -> Result<bool, LedgerError> {
        is_set(&self.conn, BEHIND_LOG)
    }
}

fn set(tx: &Transaction<'_>, name: &str, value: u64) -> Result<(), LedgerError> {
    tx.prepare_cached("INSERT OR REPLACE INTO counter VALUES (?1, ?2)")?
        .execute(params![name, int(value)])?;
    Ok(())
}

fn is_set(conn: &Connection, name: &str) -> Result<bool, LedgerError> {
    Ok(conn.prepare_cached("SELECT 1 FROM counter WHERE name = ?1")?.exists([name])?)
}

/// Notes in a ledger from a backup that it does not know all that its custody log does.
pub(super) fn note_behind_log(tx: &Transaction<'_>) -> Result<(), LedgerError> {
    set(tx, BEHIND_LOG, 1)
}

/// Counts a file that is there again.
pub(super) fn count_found(tx: &Transaction<'_>, bytes: u64) -> Result<(), LedgerError> {
    let sql = "UPDATE counter SET value = max(value - ?2, 0) WHERE name = ?1";
    let mut statement = tx.prepare_cached(sql)?;
    statement.execute(params![ABSENT, 1])?;
    statement.execute(params![ABSENT_BYTES, int(bytes)])?;
    Ok(())
}

/// Set from before a lost ledger is rebuilt until that is done: killed in between, it goes on so.
const REBUILDING: &str = "rebuilding";
/// Set in a ledger that does not know all that its custody log does.
const BEHIND_LOG: &str = "behind-log";
pub(super) const ABSENT: &str = "store-absent";
pub(super) const ABSENT_BYTES: &str = "store-absent-bytes";
pub(super) const NOT_ADMITTED: &str = "store-not-admitted";
