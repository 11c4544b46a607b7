//! Marks: how far sources were read that can be read again, as files.
//!
//! A mark is stored in the transaction that makes durable what was read up to it, so that after a
//! crash reading goes on at the exact byte: nothing twice, nothing left out.

use rusqlite::{Connection, params, params_from_iter};

use super::checked::{open_row, seal_row, text};
use super::error::BufferError;
use super::intake::Mark;
use super::store::Store;

/// Replaces a mark, or forgets it.
pub(super) fn store(conn: &Connection, mark: &Mark) -> Result<(), BufferError> {
    match &mark.value {
        Some(value) => {
            let values = seal_row(TABLE, vec![text(mark.name.as_str()), text(value.as_str())]);
            conn.prepare_cached("INSERT OR REPLACE INTO mark VALUES (?1, ?2, ?3)")?
                .execute(params_from_iter(values))?;
        }
        None => {
            conn.prepare_cached("DELETE FROM mark WHERE name = ?1")?.execute([&mark.name])?;
        }
    }
    Ok(())
}

impl Store {
    /// Keeps a mark that belongs to no record.
    pub fn keep_mark(&self, name: &str, value: &str) -> Result<(), BufferError> {
        store(&self.conn, &Mark { name: name.to_owned(), value: Some(value.to_owned()) })
    }

    /// The marks whose names begin like this, in the order of their names. One that was damaged on the
    /// disk is told and left out.
    pub fn marks(&self, prefix: &str) -> Result<Vec<(String, String)>, BufferError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT name, value, \"check\" FROM mark WHERE substr(name, 1, ?2) = ?1 ORDER BY name",
        )?;
        let length = i64::try_from(prefix.chars().count()).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![prefix, length])?;
        let mut marks = Vec::new();
        while let Some(row) = rows.next()? {
            let read = open_row(TABLE, row).and_then(|mut row| Ok((row.text()?, row.text()?)));
            match read {
                Ok(mark) => marks.push(mark),
                // Without its mark a file is read again from its begin: twice is better than a stop.
                Err(err) => {
                    tracing::error!(%err, "how far a source was read is lost; it is read again");
                }
            }
        }
        Ok(marks)
    }
}

const TABLE: &str = "mark";
