//! The ledger as it was at one moment, copied while the agent goes on: by `SQLite`'s online backup inside
//! one read transaction, so that no write makes it begin anew.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use shared::backup::BackupError;
use shared::custody::Head;
use shared::durable;

use super::{Ledger, LedgerError, custody, uint};

/// Copied between two looks at the progress: 4 MiB of our pages.
const PAGES: i32 = 1_024;
/// The pause where the other side of the copy is busy. Nobody but us has the copy.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// What must stay free while a copy stands beside the ledger: the agent writes on.
const FREE_BYTES_MIN: u64 = 64 << 20;

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
        let number = |pragma: &str| -> Result<u64, LedgerError> {
            Ok(uint(source.pragma_query_value(None, pragma, |row| row.get(0))?))
        };
        // The first look is what begins the transaction's moment.
        let custody = custody::load_head(&source)?;
        let schema = source.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let (page_bytes, pages) = (number("page_size")?, number("page_count")?);
        let free = durable::free_bytes(state_dir).map_err(LedgerError::Place)?;
        let need = pages.saturating_mul(page_bytes).saturating_add(FREE_BYTES_MIN);
        if free < need {
            return Err(BackupError::Room { path: state_dir.to_owned(), free, need }.into());
        }
        drop(durable::create_new(to, 0o600).map_err(LedgerError::Place)?);
        let mut copy = Connection::open(to)?;
        // A copy that a power cut takes is made anew.
        copy.pragma_update(None, "synchronous", "OFF")?;
        {
            let backup = Backup::new(&source, &mut copy)?;
            loop {
                let step = backup.step(PAGES)?;
                let at = backup.progress();
                let done = u64::try_from(at.pagecount - at.remaining).unwrap_or(0);
                progress(done * page_bytes, pages * page_bytes);
                match step {
                    StepResult::Done => break,
                    StepResult::More => {}
                    _ => std::thread::sleep(BUSY_PAUSE),
                }
            }
        }
        reading.finish()?;
        let verdict: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(LedgerError::Damaged(rusqlite::Error::SqliteFailure(error, Some(verdict))));
        }
        Ok(Snapshot { schema, custody })
    }
}
