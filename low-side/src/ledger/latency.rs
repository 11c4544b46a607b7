//! How long records took, and how far the clocks lie apart, in windows of time.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rusqlite::{OptionalExtension, Transaction, params};
use shared::clock::Nanos;

use super::{ChainName, Ledger, LedgerError, SinkId};
use crate::latency::{Budgets, ClockSum, Histogram, KEPT, Key, LatencyKey, LatencySum, WINDOW};

/// The window that a time lies in.
fn window_of(time: Nanos) -> i64 {
    let length = WINDOW.as_secs().cast_signed();
    time.as_secs().div_euclid(length) * length
}

fn before(now: Nanos, span: Duration) -> i64 {
    window_of(now).saturating_sub(span.as_secs().cast_signed())
}

/// Adds what a batch took.
pub(super) fn add(
    tx: &Transaction<'_>,
    sink: SinkId,
    counted: &HashMap<Key, Histogram>,
    now: Nanos,
) -> Result<(), LedgerError> {
    let window = window_of(now);
    for ((lane, stream, hop), histogram) in counted {
        let key = params![window, sink, lane.as_str(), stream.as_str(), hop.as_str()];
        let known: Option<String> = tx
            .prepare_cached(
                "SELECT counts FROM latency
                 WHERE window_s = ?1 AND sink = ?2 AND lane = ?3 AND stream = ?4 AND hop = ?5",
            )?
            .query_row(key, |row| row.get(0))
            .optional()?;
        // What can't be read is begun anew: these counts are no evidence.
        let mut all = known.and_then(|text| Histogram::from_text(&text)).unwrap_or_default();
        all.merge(histogram);
        tx.prepare_cached("INSERT OR REPLACE INTO latency VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![
                window,
                sink,
                lane.as_str(),
                stream.as_str(),
                hop.as_str(),
                all.to_text()
            ])?;
    }
    Ok(())
}

/// A bundle took this long from its sealing to its admission, by both clocks.
pub(super) fn note_skew(
    tx: &Transaction<'_>,
    chain: &ChainName,
    sealed: Nanos,
    now: Nanos,
) -> Result<(), LedgerError> {
    tx.prepare_cached(
        "INSERT INTO clock_skew VALUES (?1, ?2, ?3)
         ON CONFLICT (origin, window_s) DO UPDATE SET shortest_ns = min(shortest_ns, ?3)",
    )?
    .execute(params![
        chain.origin.as_str(),
        window_of(now),
        now.0.saturating_sub(sealed.0)
    ])?;
    Ok(())
}

impl Ledger {
    /// How long records took in the last so long, by sink, lane, stream and hop.
    pub fn latencies(
        &self,
        last: Duration,
        budgets: &Budgets,
        now: Nanos,
    ) -> Result<Vec<LatencySum>, LedgerError> {
        let counted = self.histograms(before(now, last).saturating_add(1), i64::MAX)?;
        let sums = counted.into_iter().map(|(key, counts)| LatencySum {
            octaves: counts.octaves(),
            ..LatencySum::of(key, &counts, budgets)
        });
        Ok(sums.collect())
    }

    /// How long records took that were delivered in a period, in whole windows; and when the oldest
    /// window begins that is still kept.
    pub fn latencies_between(
        &self,
        from: Nanos,
        to: Nanos,
    ) -> Result<(BTreeMap<LatencyKey, Histogram>, Option<Nanos>), LedgerError> {
        let end = to.as_secs().saturating_add(i64::from(to.0.rem_euclid(1_000_000_000) > 0));
        let counted = self.histograms(window_of(from), end)?;
        let oldest: Option<i64> = self
            .conn
            .prepare_cached("SELECT min(window_s) FROM latency")?
            .query_row([], |row| row.get(0))?;
        Ok((counted, oldest.map(|secs| Nanos(secs.saturating_mul(1_000_000_000)))))
    }

    /// The counts of the windows that begin at `begin` or later, and before `end`.
    fn histograms(
        &self,
        begin: i64,
        end: i64,
    ) -> Result<BTreeMap<LatencyKey, Histogram>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT s.name, l.lane, l.stream, l.hop, l.counts FROM latency l
             JOIN sink s ON s.id = l.sink WHERE l.window_s >= ?1 AND l.window_s < ?2",
        )?;
        let mut rows = statement.query([begin, end])?;
        let mut sums: BTreeMap<LatencyKey, Histogram> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let key = LatencyKey {
                sink: row.get(0)?,
                lane: row.get(1)?,
                stream: row.get(2)?,
                hop: row.get(3)?,
            };
            let text: String = row.get(4)?;
            if let Some(counts) = Histogram::from_text(&text) {
                sums.entry(key).or_default().merge(&counts);
            }
        }
        Ok(sums)
    }

    /// How far each high side's clock may lie from ours, by what came in the last so long.
    pub fn clocks(&self, last: Duration, now: Nanos) -> Result<Vec<ClockSum>, LedgerError> {
        self.shortest(before(now, last).saturating_add(1), i64::MAX)
    }

    /// The same, by what came in a period.
    pub fn clocks_between(&self, from: Nanos, to: Nanos) -> Result<Vec<ClockSum>, LedgerError> {
        self.shortest(window_of(from), to.as_secs().saturating_add(1))
    }

    fn shortest(&self, begin: i64, end: i64) -> Result<Vec<ClockSum>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT origin, min(shortest_ns) FROM clock_skew WHERE window_s >= ?1 AND window_s < ?2
             GROUP BY origin ORDER BY origin",
        )?;
        let rows = statement.query_map([begin, end], |row| {
            let shortest: i64 = row.get(1)?;
            Ok(ClockSum { origin: row.get(0)?, shortest_ms: shortest.div_euclid(1_000_000) })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Forgets windows that are long past. Does not touch the disk where there are none.
    pub fn prune_latencies(&mut self, now: Nanos) -> Result<(), LedgerError> {
        let past = before(now, KEPT);
        let any = "SELECT 1 FROM latency WHERE window_s < ?1
                   UNION ALL SELECT 1 FROM clock_skew WHERE window_s < ?1 LIMIT 1";
        if self.conn.prepare_cached(any)?.exists([past])? {
            let tx = self.begin()?;
            tx.execute("DELETE FROM latency WHERE window_s < ?1", [past])?;
            tx.execute("DELETE FROM clock_skew WHERE window_s < ?1", [past])?;
            tx.commit()?;
        }
        Ok(())
    }
}
