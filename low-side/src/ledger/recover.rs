//! The agent opens the ledger; a damaged one is set aside, never overwritten.

use std::path::{Path, PathBuf};

use shared::clock::Nanos;
use shared::durable;

use super::{FILE_NAME, Ledger, LedgerError};

/// How the ledger was found.
#[derive(Debug)]
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// Where the damaged one stands now, if it was.
    pub set_aside: Option<PathBuf>,
    /// Whether it was made just now.
    pub created: bool,
}

/// Opens the ledger as the agent does at its start: checks it, sets a damaged one aside, makes a new
/// one, and empties the write-ahead log.
///
/// # Errors
/// An I/O error or a ledger of a newer version is no damage: the ledger stays as it is.
pub fn open_or_set_aside(state_dir: &Path, now: Nanos) -> Result<Opened, LedgerError> {
    let path = state_dir.join(FILE_NAME);
    let found = path.exists();
    let look = || Ledger::open(state_dir).and_then(check);
    let verdict = match look() {
        Err(LedgerError::Damaged(_)) => {
            // A page that could not be read looks damaged too. Whether the files can be read is
            // found out by hand, and only a second verdict counts.
            for suffix in ["-wal", ""] {
                let file = state_dir.join(format!("{FILE_NAME}{suffix}"));
                durable::read_through(&file).map_err(LedgerError::Unreadable)?;
            }
            look()
        }
        found => found,
    };
    let damage = match verdict {
        Ok(ledger) => {
            return Ok(Opened { ledger, set_aside: None, created: !found });
        }
        Err(error @ LedgerError::Damaged(_)) => error,
        Err(error) => return Err(error),
    };
    tracing::error!(error = %damage, "the ledger is damaged and is set aside");
    let aside = state_dir.join(format!("ledger-damaged-{}.db", now.0));
    // The main file last: until it is gone, the next start finds the damage again.
    for suffix in ["-wal", "-shm", ""] {
        let from = state_dir.join(format!("{FILE_NAME}{suffix}"));
        if from.exists() {
            let mut to = aside.clone().into_os_string();
            to.push(suffix);
            durable::rename(&from, Path::new(&to)).map_err(LedgerError::Place)?;
        }
    }
    let ledger = Ledger::open(state_dir)?;
    Ok(Opened { ledger, set_aside: Some(aside), created: true })
}

fn check(ledger: Ledger) -> Result<Ledger, LedgerError> {
    // Structure only: content is protected by the bundles themselves, which stay in the store.
    let verdict: String = ledger.conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(LedgerError::Damaged(rusqlite::Error::SqliteFailure(error, Some(verdict))));
    }
    // Another process may be reading; then the log is emptied another time.
    ledger.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(ledger)
}
