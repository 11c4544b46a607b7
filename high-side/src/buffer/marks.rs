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
    /// The marks whose names begin like this, in the order of their names.
    pub fn marks(&self, prefix: &str) -> Result<Vec<(String, String)>, BufferError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT name, value, \"check\" FROM mark WHERE substr(name, 1, ?2) = ?1 ORDER BY name",
        )?;
        let length = i64::try_from(prefix.chars().count()).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![prefix, length])?;
        let mut marks = Vec::new();
        while let Some(row) = rows.next()? {
            let mut fields = open_row(TABLE, row)?;
            marks.push((fields.text()?, fields.text()?));
        }
        Ok(marks)
    }
}

const TABLE: &str = "mark";
