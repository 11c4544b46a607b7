//! What the ledger knows of a period: bundles that reach into it, losses, and what is missing.

use rusqlite::params;
use shared::bundle::BundleDigest;
use shared::clock::Nanos;

use super::{ChainName, Ledger, LedgerError, chain_name, uint};

/// An admitted bundle of which something was received in a period.
#[derive(Clone, Debug)]
pub struct BundleInPeriod {
    /// Its chain.
    pub chain: ChainName,
    /// Its number.
    pub number: u64,
    /// Its file in the store.
    pub file: String,
    /// Whether its file is in the store.
    pub stored: bool,
    /// Its digest.
    pub digest: BundleDigest,
    /// When its oldest record was received.
    pub oldest: Nanos,
    /// When its newest record was received.
    pub newest: Nanos,
    /// Stream, rule (empty where none suppressed), records.
    pub tallies: Vec<(String, String, u64)>,
}

/// Bundles that have not come, and what is known of their content from their neighbours.
#[derive(Clone, Debug)]
pub struct MissingInPeriod {
    /// Their chain.
    pub chain: ChainName,
    /// How many bundles.
    pub bundles: u64,
    /// How many sequence numbers lie between the neighbours.
    pub records: u64,
    /// The number of the first of them.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
    /// When the last record before them was received.
    pub begins: Option<Nanos>,
    /// When the first record behind them was received.
    pub ends: Option<Nanos>,
    /// When a bundle behind them came.
    pub noticed: Nanos,
    /// When they stopped holding what is behind them.
    pub passed: Option<Nanos>,
}

/// A loss that the high side declared.
#[derive(Clone, Debug)]
pub struct LossInPeriod {
    /// Why.
    pub reason: String,
    /// How many records.
    pub records: u64,
    /// Whether it may have happened in part before or after the period.
    pub reaches_out: bool,
}

impl Ledger {
    /// The admitted bundles of which something was received from `from` on and before `to`.
    pub fn bundles_between(
        &self,
        from: Nanos,
        to: Nanos,
        origin: Option<&str>,
        mut each: impl FnMut(BundleInPeriod) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT c.origin, c.epoch, c.lane, b.number, b.file, b.digest, b.oldest_ns, b.newest_ns, b.chain,
                 b.stored_ns IS NOT NULL
             FROM bundle b JOIN chain c ON c.id = b.chain
             WHERE b.newest_ns >= ?1 AND b.oldest_ns < ?2 AND (?3 IS NULL OR c.origin = ?3)",
        )?;
        let mut tallies = self.conn.prepare_cached(
            "SELECT stream, rule, records FROM tally WHERE chain = ?1 AND number = ?2",
        )?;
        let mut rows = statement.query(params![from.0, to.0, origin])?;
        while let Some(row) = rows.next()? {
            let (number, chain): (i64, i64) = (row.get(3)?, row.get(8)?);
            let digest: [u8; 32] = row.get(5)?;
            let rows = tallies.query_map([chain, number], |row| {
                Ok((row.get(0)?, row.get(1)?, uint(row.get(2)?)))
            })?;
            each(BundleInPeriod {
                chain: chain_name(row, 0)?,
                number: uint(number),
                file: row.get(4)?,
                stored: row.get(9)?,
                digest: BundleDigest::from_bytes(digest),
                oldest: Nanos(row.get(6)?),
                newest: Nanos(row.get(7)?),
                tallies: rows.collect::<Result<_, _>>()?,
            })?;
        }
        Ok(())
    }

    /// What was declared lost in a period.
    pub fn losses_between(
        &self,
        from: Nanos,
        to: Nanos,
        origin: Option<&str>,
    ) -> Result<Vec<LossInPeriod>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT reason, sum(count), max(from_ns < ?1 OR to_ns >= ?2)
             FROM loss l JOIN chain c ON c.id = l.chain
             WHERE to_ns >= ?1 AND from_ns < ?2 AND (?3 IS NULL OR c.origin = ?3)
             GROUP BY reason ORDER BY reason",
        )?;
        let rows = statement.query_map(params![from.0, to.0, origin], |row| {
            Ok(LossInPeriod {
                reason: row.get(0)?,
                records: uint(row.get(1)?),
                reaches_out: row.get(2)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The gaps of which something may have been received in a period: the records of a missing
    /// bundle were received between those of its neighbours.
    pub fn missing_between(
        &self,
        from: Nanos,
        to: Nanos,
        origin: Option<&str>,
    ) -> Result<Vec<MissingInPeriod>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT origin, epoch, lane, last - first + 1, coalesce(after, 1) - coalesce(before, 0) - 1,
                 first, last, begins, ends, noticed_ns, passed_ns
             FROM (SELECT c.origin, c.epoch, c.lane, g.first, g.last, g.noticed_ns, g.passed_ns,
                 (SELECT last_sequence FROM bundle b WHERE b.chain = g.chain AND b.number < g.first ORDER BY number DESC LIMIT 1) AS before,
                 (SELECT first_sequence FROM bundle b WHERE b.chain = g.chain AND b.number > g.last ORDER BY number LIMIT 1) AS after,
                 (SELECT newest_ns FROM bundle b WHERE b.chain = g.chain AND b.number < g.first AND newest_ns IS NOT NULL ORDER BY number DESC LIMIT 1) AS begins,
                 (SELECT oldest_ns FROM bundle b WHERE b.chain = g.chain AND b.number > g.last AND oldest_ns IS NOT NULL ORDER BY number LIMIT 1) AS ends
                 FROM gap g JOIN chain c ON c.id = g.chain)
             WHERE coalesce(ends, ?1) >= ?1 AND coalesce(begins, 0) < ?2 AND (?3 IS NULL OR origin = ?3)
             ORDER BY origin, epoch, lane, first",
        )?;
        let rows = statement.query_map(params![from.0, to.0, origin], |row| {
            Ok(MissingInPeriod {
                chain: chain_name(row, 0)?,
                bundles: uint(row.get(3)?),
                records: uint(row.get(4)?),
                first: uint(row.get(5)?),
                last: uint(row.get(6)?),
                begins: row.get::<_, Option<i64>>(7)?.map(Nanos),
                ends: row.get::<_, Option<i64>>(8)?.map(Nanos),
                noticed: Nanos(row.get(9)?),
                passed: row.get::<_, Option<i64>>(10)?.map(Nanos),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
