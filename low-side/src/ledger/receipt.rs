//! What a receipt says.

use rusqlite::{Transaction, params};
use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::custody::{Action, CustodyEvent};
use shared::receipt::{
    AdmittedRange, CHAINS_MAX, ChainReceipt, MissingRange, QUARANTINED_MAX, QuarantinedFile,
    RANGES_MAX, Receipt, SinkMark,
};

use super::{ChainId, ChainName, Ledger, LedgerError, chain_name, custody, int, uint};

impl Ledger {
    /// Makes the next receipt, and notes that it was made. Its number is higher than that of any
    /// before, also after the ledger was lost: it is at least the time in seconds.
    pub fn make_receipt(&mut self, name: &str, now: Nanos) -> Result<Receipt, LedgerError> {
        let tx = self.begin()?;
        let last: i64 = tx.query_row(
            "SELECT coalesce(max(value), 0) FROM counter WHERE name = 'receipt'",
            [],
            |row| row.get(0),
        )?;
        let number = last.saturating_add(1).max(now.as_secs());
        tx.execute("INSERT OR REPLACE INTO counter VALUES ('receipt', ?1)", [number])?;
        // The newest chains, where there are more than a receipt may list.
        let chains: Vec<(ChainId, ChainName, i64, i64)> = tx
            .prepare(
                "SELECT id, origin, epoch, lane, records, last_sequence FROM chain
                 ORDER BY last_ns DESC LIMIT ?1",
            )?
            .query_map([int(CHAINS_MAX as u64)], |row| {
                Ok((row.get(0)?, chain_name(row, 1)?, row.get(4)?, row.get(5)?))
            })?
            .collect::<Result<_, _>>()?;
        let mut ranges_left = RANGES_MAX;
        let mut receipts = Vec::new();
        let mut missing = Vec::new();
        for (id, chain, records, last_sequence) in chains {
            let admitted = admitted(&tx, id, ranges_left)?;
            ranges_left -= admitted.len();
            missing.extend(missing_of(&tx, id, &chain, RANGES_MAX - missing.len())?);
            receipts.push(ChainReceipt {
                origin: chain.origin,
                epoch: chain.epoch,
                lane: chain.lane,
                admitted,
                records: uint(records),
                last_sequence: uint(last_sequence),
                sinks: sinks(&tx, id)?,
            });
        }
        receipts.sort_by(|a, b| (&a.origin, a.epoch, a.lane).cmp(&(&b.origin, b.epoch, b.lane)));
        let quarantined: i64 =
            tx.query_row("SELECT count(*) FROM quarantine", [], |row| row.get(0))?;
        let receipt = Receipt {
            name: name.to_owned(),
            number: uint(number),
            time: now,
            chains: receipts,
            missing,
            quarantined: uint(quarantined),
            quarantined_files: quarantined_files(&tx)?,
        };
        let detail = format!(
            "receipt {number}: {} chains, {} missing ranges",
            receipt.chains.len(),
            receipt.missing.len()
        );
        custody::note(&tx, CustodyEvent::new(now, Action::ReceiptMade).detail(detail))?;
        tx.commit()?;
        Ok(receipt)
    }
}

/// Runs of bundles without a hole; the last ones, where there are more than so many.
fn admitted(
    tx: &Transaction<'_>,
    chain: ChainId,
    count: usize,
) -> Result<Vec<AdmittedRange>, LedgerError> {
    let mut statement = tx.prepare(
        "SELECT run.first, run.last, b.digest FROM
             (SELECT min(number) AS first, max(number) AS last FROM
                 (SELECT number, number - row_number() OVER (ORDER BY number) AS run
                  FROM bundle WHERE chain = ?1)
              GROUP BY run) run
         JOIN bundle b ON b.chain = ?1 AND b.number = run.last
         ORDER BY run.first DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![chain, int(count as u64)], |row| {
        Ok(AdmittedRange {
            first: uint(row.get(0)?),
            last: uint(row.get(1)?),
            digest: BundleDigest::from_bytes(row.get(2)?),
        })
    })?;
    let mut ranges: Vec<AdmittedRange> = rows.collect::<Result<_, _>>()?;
    ranges.reverse();
    Ok(ranges)
}

fn missing_of(
    tx: &Transaction<'_>,
    id: ChainId,
    chain: &ChainName,
    count: usize,
) -> Result<Vec<MissingRange>, LedgerError> {
    let mut statement =
        tx.prepare("SELECT first, last FROM gap WHERE chain = ?1 ORDER BY first LIMIT ?2")?;
    let rows = statement.query_map(params![id, int(count as u64)], |row| {
        Ok(MissingRange {
            origin: chain.origin.clone(),
            epoch: chain.epoch,
            lane: chain.lane,
            first: uint(row.get(0)?),
            last: uint(row.get(1)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn sinks(tx: &Transaction<'_>, chain: ChainId) -> Result<Vec<SinkMark>, LedgerError> {
    let mut statement = tx.prepare(
        "SELECT s.name,
             (SELECT coalesce(max(d.last), 0) FROM delivered d
              WHERE d.sink = s.id AND d.chain = ?1 AND d.first = 1),
             (SELECT coalesce(sum(r.records - r.filtered - r.rejected), 0) FROM delivered_records r
              WHERE r.sink = s.id AND r.chain = ?1)
         FROM sink s ORDER BY s.name LIMIT 64",
    )?;
    let rows = statement.query_map([chain], |row| {
        Ok(SinkMark { sink: row.get(0)?, through: uint(row.get(1)?), records: uint(row.get(2)?) })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn quarantined_files(tx: &Transaction<'_>) -> Result<Vec<QuarantinedFile>, LedgerError> {
    let mut statement =
        tx.prepare("SELECT sha256, code FROM quarantine ORDER BY rowid DESC LIMIT ?1")?;
    let rows = statement.query_map([int(QUARANTINED_MAX as u64)], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?))
    })?;
    let mut files = Vec::new();
    for row in rows {
        let (sha256, code) = row?;
        let sha256 = sha256.parse().map_err(|_| LedgerError::Row("a quarantined file's name"))?;
        files.push(QuarantinedFile { sha256, code });
    }
    Ok(files)
}
