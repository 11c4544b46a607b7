//! Sightings: what is remembered of messages that can also be asked for by another way, so that
//! asking finds what is missing and takes nothing twice. One row holds those of one transaction.

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

use super::checked::{number, open_row, seal_row};
use super::error::BufferError;
use super::intake::Sighting;
use super::store::{Store, begin};

/// Remembers sightings.
pub(super) fn store(conn: &Connection, sightings: &[Sighting]) -> Result<(), BufferError> {
    let (Some(oldest), Some(newest)) =
        (sightings.iter().map(|s| s.second).min(), sightings.iter().map(|s| s.second).max())
    else {
        return Ok(());
    };
    let mut packed = Vec::with_capacity(sightings.len() * SIGHTING_BYTES);
    for sighting in sightings {
        packed.extend_from_slice(&sighting.second.to_le_bytes());
        packed.extend_from_slice(&sighting.hash.to_le_bytes());
    }
    let id: i64 = conn
        .prepare_cached("SELECT coalesce(max(id), 0) + 1 FROM sighting")?
        .query_row([], |row| row.get(0))?;
    let values = seal_row(
        TABLE,
        vec![
            number(id.cast_unsigned()),
            Value::Integer(oldest),
            Value::Integer(newest),
            Value::Blob(packed),
        ],
    );
    conn.prepare_cached("INSERT INTO sighting VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params_from_iter(values))?;
    Ok(())
}

impl Store {
    /// Gives every sighting whose transaction holds one from this second or a later one.
    pub fn sightings(
        &self,
        from_second: i64,
        mut each: impl FnMut(Sighting),
    ) -> Result<(), BufferError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT id, oldest_s, newest_s, packed, \"check\" FROM sighting WHERE newest_s >= ?1",
        )?;
        let mut rows = statement.query([from_second])?;
        while let Some(row) = rows.next()? {
            open_row(TABLE, row)?;
            let packed = row.get_ref(3)?;
            let packed = packed.as_blob().unwrap_or_default();
            for entry in packed.chunks_exact(SIGHTING_BYTES) {
                let (second, hash) = entry.split_at(8);
                each(Sighting {
                    second: second.try_into().map_or(0, i64::from_le_bytes),
                    hash: hash.try_into().map_or(0, u64::from_le_bytes),
                });
            }
        }
        Ok(())
    }

    /// Forgets what happened before a second.
    pub fn forget_sightings(&mut self, before_second: i64) -> Result<usize, BufferError> {
        let tx = begin(&mut self.conn)?;
        let forgotten = tx
            .prepare_cached("DELETE FROM sighting WHERE newest_s < ?1")?
            .execute(params![before_second])?;
        tx.commit()?;
        Ok(forgotten)
    }
}

/// A second and a hash.
const SIGHTING_BYTES: usize = 16;

const TABLE: &str = "sighting";
