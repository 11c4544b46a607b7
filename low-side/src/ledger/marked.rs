//! What a search for one record asks: which bundles came lately, and which sinks have a number.

use rusqlite::{OptionalExtension, params};
use shared::bundle::BundleDigest;
use shared::clock::Nanos;

use super::{ChainId, ChainName, Ledger, LedgerError, SinkId, chain_name, int, uint};

/// An admitted bundle, as a search for a record looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrivedBundle {
    /// Its chain.
    pub chain: ChainId,
    /// Its chain's name.
    pub chain_name: ChainName,
    /// Its number.
    pub number: u64,
    /// Its digest.
    pub digest: BundleDigest,
    /// Its name in the store.
    pub file: String,
    /// When it was sealed, by the high side's clock.
    pub sealed: Nanos,
    /// When it was admitted.
    pub admitted: Nanos,
}

impl Ledger {
    /// The bundles with records that were admitted from a time on, the latest first, at most so many.
    pub fn arrived_since(
        &self,
        from: Nanos,
        count: u32,
    ) -> Result<Vec<ArrivedBundle>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT c.origin, c.epoch, c.lane, b.chain, b.number, b.digest, b.file, b.sealed_ns,
                 b.imported_ns
             FROM bundle b JOIN chain c ON c.id = b.chain
             WHERE b.imported_ns >= ?1 AND b.last_sequence >= b.first_sequence
             ORDER BY b.imported_ns DESC LIMIT ?2",
        )?;
        let rows = statement.query_map(params![from.0, count], |row| {
            Ok(ArrivedBundle {
                chain_name: chain_name(row, 0)?,
                chain: row.get(3)?,
                number: uint(row.get(4)?),
                digest: BundleDigest::from_bytes(row.get(5)?),
                file: row.get(6)?,
                sealed: Nanos(row.get(7)?),
                admitted: Nanos(row.get(8)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The sink of this name, where it was ever delivered to.
    pub fn sink_named(&self, name: &str) -> Result<Option<SinkId>, LedgerError> {
        let mut statement = self.conn.prepare_cached("SELECT id FROM sink WHERE name = ?1")?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?)
    }

    /// Whether a sink has dealt with a number.
    pub fn has_taken(
        &self,
        sink: SinkId,
        chain: ChainId,
        sequence: u64,
    ) -> Result<bool, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT 1 FROM delivered WHERE sink = ?1 AND chain = ?2 AND first <= ?3 AND last >= ?3",
        )?;
        Ok(statement.exists(params![sink, chain, int(sequence)])?)
    }
}
