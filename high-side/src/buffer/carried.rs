//! What a catalogue tells of bundles: which there are, and how often a carrier has sent each.

use rusqlite::{OptionalExtension, params};
use shared::record::Lane;

use super::bundles::{Bundle, SELECT};
use super::error::BufferError;
use super::schema::{key, number_of_key};
use super::store::Store;

/// The bundles of a lane, as a carrier sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedRange {
    /// The lowest number whose file is kept.
    pub first: u64,
    /// The highest number that is or was ready.
    pub last: u64,
    /// The lowest number that the carrier will still send by itself; `last + 1` where there is none.
    pub oldest_sending: u64,
}

impl Store {
    /// The bundles of a lane; `None` where there was none yet.
    pub fn carried_range(
        &self,
        lane: Lane,
        carrier: &str,
        passes: u64,
    ) -> Result<Option<CarriedRange>, BufferError> {
        let (from, to) = (key(lane, 0), key(lane, u64::MAX));
        let edge = |sql: &str| -> Result<Option<u64>, BufferError> {
            let id: Option<i64> =
                self.conn.prepare_cached(sql)?.query_row(params![from, to], |row| row.get(0))?;
            Ok(id.map(number_of_key))
        };
        let mut first: Option<u64> = None;
        let mut last: Option<u64> = None;
        for state in ["ready", "handed-over", "deleted"] {
            let of = format!("FROM bundle WHERE state = '{state}' AND id BETWEEN ?1 AND ?2");
            last = last.max(edge(&format!("SELECT max(id) {of}"))?);
            if state != "deleted"
                && let Some(lowest) = edge(&format!("SELECT min(id) {of}"))?
            {
                first = Some(first.map_or(lowest, |first| first.min(lowest)));
            }
        }
        let Some(last) = last else { return Ok(None) };
        let waiting: Option<i64> = self
            .conn
            .prepare_cached(
                "SELECT min(id) FROM bundle WHERE state = 'ready' AND id BETWEEN ?1 AND ?2 AND NOT EXISTS
                 (SELECT 1 FROM handover h WHERE h.bundle = bundle.id AND h.carrier = ?3)",
            )?
            .query_row(params![from, to, carrier], |row| row.get(0))?;
        let mut again: Option<i64> = None;
        // None yet, of what was exported before its turn; and every number of passes but the last.
        for done in 0..passes {
            let lowest: Option<i64> = self
                .conn
                .prepare_cached(
                    "SELECT min(bundle) FROM handover WHERE carrier = ?3 AND passes = ?4
                     AND bundle BETWEEN ?1 AND ?2",
                )?
                .query_row(params![from, to, carrier, done.cast_signed()], |row| row.get(0))?;
            again = again.into_iter().chain(lowest).min();
        }
        let sending = waiting.into_iter().chain(again).min().map(number_of_key);
        Ok(Some(CarriedRange {
            // Where no file is kept any more, only the newest number is told.
            first: first.unwrap_or(last).max(1),
            last,
            oldest_sending: sending.unwrap_or(last + 1),
        }))
    }

    /// Bundles of a lane whose files are kept, below a number, the newest first, and how often the
    /// carrier has sent each.
    pub fn carried(
        &self,
        lane: Lane,
        carrier: &str,
        below: u64,
        count: usize,
    ) -> Result<Vec<(Bundle, u64)>, BufferError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let to = if below == u64::MAX { key(lane, u64::MAX) } else { key(lane, below) - 1 };
        let sql = format!(
            "{SELECT} WHERE id BETWEEN ?1 AND ?2 AND state IN ('ready', 'handed-over')
             ORDER BY id DESC LIMIT ?3"
        );
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let range = (key(lane, 0), to, count);
        let mut found = Vec::new();
        for bundle in Bundle::all(&self.conn, &sql, range)? {
            let passes: Option<i64> = self
                .conn
                .prepare_cached("SELECT passes FROM handover WHERE bundle = ?1 AND carrier = ?2")?
                .query_row(params![key(lane, bundle.number), carrier], |row| row.get(0))
                .optional()?;
            found.push((bundle, passes.unwrap_or(0).cast_unsigned()));
        }
        Ok(found)
    }
}
