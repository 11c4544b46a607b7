//! Which bundles of a chain were not admitted, for those who know how many there are.

use rusqlite::{OptionalExtension, params};

use super::{Ledger, LedgerError, uint};
use crate::ranges::RangeSet;

impl Ledger {
    /// The numbers of a chain that were not admitted, to the end of all numbers; `None` where nothing
    /// of it was.
    pub fn missing_numbers(
        &self,
        origin: &str,
        epoch: u64,
        lane: &str,
    ) -> Result<Option<RangeSet>, LedgerError> {
        let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
        let chain: Option<(i64, i64)> = self
            .conn
            .prepare_cached(
                "SELECT id, max(pruned_through, coalesce((SELECT max(number) FROM bundle WHERE chain = chain.id), 0))
                 FROM chain WHERE origin = ?1 AND epoch = ?2 AND lane = ?3",
            )?
            .query_row(params![origin, epoch, lane], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((chain, newest)) = chain else { return Ok(None) };
        let mut missing = RangeSet::default();
        missing.insert(uint(newest).saturating_add(1), u64::MAX);
        let mut statement =
            self.conn.prepare_cached("SELECT first, last FROM gap WHERE chain = ?1")?;
        let mut rows = statement.query([chain])?;
        while let Some(row) = rows.next()? {
            missing.insert(uint(row.get(0)?), uint(row.get(1)?));
        }
        Ok(Some(missing))
    }
}
