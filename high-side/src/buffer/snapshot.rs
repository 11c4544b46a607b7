//! The database as it was at one moment, copied while the agent goes on: by `SQLite`'s online backup
//! inside one read transaction, so that no write makes it begin anew.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use shared::custody::Head;
use shared::durable;
use shared::record::{Epoch, OriginId};

use super::error::BufferError;
use super::{custody, open, schema};

/// Copied between two looks at the progress: 4 MiB of our pages.
const PAGES: i32 = 256;
/// The pause where the other side of the copy is busy. Nobody but us has the copy.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose buffer it is.
    pub origin: OriginId,
    /// In which life.
    pub epoch: Epoch,
    /// The version of its tables.
    pub schema: i64,
    /// How far the custody log had come.
    pub custody: Head,
}

/// Copies the database of a buffer's folder to `to`, a new file. The agent may be running or not.
/// `progress` is told how many bytes are done, and of how many.
///
/// # Errors
/// The database is none of ours, newer than we are, or damaged; or there is too little room.
pub fn snapshot(
    dir: &Path,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Snapshot, BufferError> {
    shared::backup::expect_no_restore(dir)?;
    let path = dir.join(open::DATABASE);
    let source = schema::connect(&path, false)?;
    open::check_version(&source, &path)?;
    let reading = source.unchecked_transaction()?;
    // The first look is what begins the transaction's moment.
    let life = open::load_life(&source)?;
    let snapshot = Snapshot {
        origin: life.origin,
        epoch: life.epoch,
        schema: source.pragma_query_value(None, "user_version", |row| row.get(0))?,
        custody: custody::load_head(&source)?,
    };
    let page_bytes: u64 =
        source.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?.cast_unsigned();
    let pages: u64 =
        source.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))?.cast_unsigned();
    let free = durable::free_bytes(dir).map_err(BufferError::io(dir))?;
    let need = pages.saturating_mul(page_bytes).saturating_add(FREE_BYTES_MIN);
    if free < need {
        let path = dir.to_owned();
        return Err(shared::backup::BackupError::Room { path, free, need }.into());
    }
    drop(durable::create_new(to, 0o600).map_err(BufferError::io(to))?);
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
        return Err(BufferError::Broken(format!("{verdict}; nothing was backed up")));
    }
    Ok(snapshot)
}

/// What must stay free while a copy stands beside the database: the agent writes on.
const FREE_BYTES_MIN: u64 = 64 << 20;
