//! The database as it was at one moment, copied while the agent goes on: by `SQLite`'s online backup
//! inside one read transaction, so that no write makes it begin anew.

use std::path::Path;

use shared::custody::Head;
use shared::record::{Epoch, OriginId};
use shared::sqlite::copy;

use super::error::BufferError;
use super::{custody, open, schema};

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
    let verdict = copy(&source, dir, to, progress, |path, err| BufferError::io(path)(err))?;
    reading.finish()?;
    if verdict != "ok" {
        return Err(BufferError::Broken(format!("{verdict}; nothing was backed up")));
    }
    Ok(snapshot)
}
