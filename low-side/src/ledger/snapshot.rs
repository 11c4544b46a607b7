//! The ledger as it was at one moment, copied while the agent goes on: by `SQLite`'s online backup inside
//! one read transaction, so that no write makes it begin anew.

use std::path::Path;

use shared::custody::Head;
use shared::sqlite::copy;

use super::{Ledger, LedgerError, custody};

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The version of its tables.
    pub schema: i64,
    /// How far the custody log had come.
    pub custody: Head,
}

impl Ledger {
    /// Copies the ledger of a state folder to `to`, a new file. `progress` is told how many bytes are done,
    /// and of how many.
    ///
    /// # Errors
    /// The ledger is newer or older than we are, or damaged; or there is too little room.
    pub fn snapshot(
        state_dir: &Path,
        to: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Snapshot, LedgerError> {
        let source = Self::open_existing(state_dir)?.conn;
        let reading = source.unchecked_transaction()?;
        // The first look is what begins the transaction's moment.
        let custody = custody::load_head(&source)?;
        let schema = source.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let verdict = copy(&source, state_dir, to, progress, |_, err| LedgerError::Place(err))?;
        reading.finish()?;
        if verdict != "ok" {
            let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(LedgerError::Damaged(rusqlite::Error::SqliteFailure(error, Some(verdict))));
        }
        Ok(Snapshot { schema, custody })
    }
}
