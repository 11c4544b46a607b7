//! A ledger that came from a backup: what it must say of itself before an agent opens it.

use shared::clock::Nanos;
use shared::custody::{Action, CustodyEvent};

use super::admission::KNOWN_BY_BACKUP;
use super::rebuilt::note_behind_log;
use super::removed::ADOPTED;
use super::{Ledger, LedgerError, admission, alarms, custody};
use crate::admit::Disorder;

impl Ledger {
    /// Notes that this ledger is one of a backup: an alarm, a custody entry, and what stands in the
    /// quarantine and it does not know. `refused` are these files, by SHA-256, each with its code.
    pub fn note_restored(
        &mut self,
        made: &str,
        message: &str,
        refused: impl Iterator<Item = (String, String)>,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        for (sha256, code) in refused {
            let new = tx
                .prepare_cached("INSERT OR IGNORE INTO quarantine VALUES (?1, ?2, 1)")?
                .execute([sha256, code])?;
            if new > 0 {
                admission::count(&tx, "quarantined")?;
                admission::count(&tx, "received")?;
            }
        }
        // What has left the store since the backup was made is read from its journal again.
        tx.execute("DELETE FROM counter WHERE name = ?1", [ADOPTED])?;
        // Sinks get again what they took since, and what came since is in the custody log.
        tx.execute("UPDATE bundle SET known_by = ?1 WHERE known_by IS NULL", [KNOWN_BY_BACKUP])?;
        note_behind_log(&tx)?;
        alarms::raise(&tx, "ledger-restored", "ledger", message, now)?;
        let detail = format!("the backup of {made}");
        custody::note(&tx, CustodyEvent::new(now, Action::Restored).detail(detail))?;
        Ok(tx.commit()?)
    }

    /// Why a file with this content was refused before, where that is a reason that does not pass: it will
    /// be refused again, also by a ledger from a backup that has forgotten what it contradicts.
    pub fn refused_for_good(&self, sha256: &str) -> Result<Option<Disorder>, LedgerError> {
        let mut statement =
            self.conn.prepare_cached("SELECT code FROM quarantine WHERE sha256 = ?1")?;
        let mut rows = statement.query([sha256])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let code: String = row.get(0)?;
        let lasting = [Disorder::Fork, Disorder::Rollback, Disorder::SequenceMismatch];
        Ok(lasting.into_iter().find(|disorder| disorder.code() == code))
    }

    /// Copies the log into the database, so that its one file is all of it.
    pub fn into_one_file(self) -> Result<(), LedgerError> {
        let busy: i64 =
            self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            return Err(LedgerError::Row("a ledger that nobody else has is busy"));
        }
        self.conn.close().map_err(|(_, error)| error.into())
    }
}
