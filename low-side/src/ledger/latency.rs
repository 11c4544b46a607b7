//! How long records took, and how far the clocks lie apart, in windows of time.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rusqlite::{OptionalExtension, Transaction, params};
use shared::clock::Nanos;

use super::{ChainName, Ledger, LedgerError, SinkId};
use crate::latency::{Budgets, ClockSum, Histogram, KEPT, Key, LatencySum, WINDOW};

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
        let mut statement = self.conn.prepare_cached(
            "SELECT s.name, l.lane, l.stream, l.hop, l.counts FROM latency l
             JOIN sink s ON s.id = l.sink WHERE l.window_s > ?1",
        )?;
        let mut rows = statement.query([before(now, last)])?;
        let mut sums: BTreeMap<(String, String, String, String), Histogram> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let key = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            let text: String = row.get(4)?;
            if let Some(counts) = Histogram::from_text(&text) {
                sums.entry(key).or_default().merge(&counts);
            }
        }
        let sum = |((sink, lane, stream, hop), counts): ((String, String, String, String), _)| {
            let counts: Histogram = counts;
            let budget = lane.parse().map_or(budgets.routine, |lane| budgets.of(lane));
            LatencySum {
                sink,
                lane,
                stream,
                hop,
                records: counts.count(),
                p50_ms: counts.percentile_ms(50),
                p95_ms: counts.percentile_ms(95),
                p99_ms: counts.percentile_ms(99),
                max_ms: counts.longest_ms(),
                budget_ms: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX),
                over_budget: counts.over(budget),
                negative: counts.negative(),
            }
        };
        Ok(sums.into_iter().map(sum).collect())
    }

    /// How far each high side's clock may lie from ours, by what came in the last so long.
    pub fn clocks(&self, last: Duration, now: Nanos) -> Result<Vec<ClockSum>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT origin, min(shortest_ns) FROM clock_skew WHERE window_s > ?1
             GROUP BY origin ORDER BY origin",
        )?;
        let rows = statement.query_map([before(now, last)], |row| {
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
