//! Sums that add up, for `status`.

use rusqlite::params;
use serde::Serialize;
use shared::clock::Nanos;
use shared::custody::{Action, CustodyEvent};

use super::{
    ArchiveSum, Arrival, Ledger, LedgerError, StoreSum, admission, alarms, archived, chain_name,
    custody, removed, uint,
};
use crate::admit::Disorder;

/// Everything that came in, and where it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sums {
    /// Files that were decided about: admitted + duplicate + quarantined.
    pub received: u64,
    /// Bundles admitted.
    pub admitted: u64,
    /// Bundles that had been admitted before.
    pub duplicate: u64,
    /// Files refused and set aside.
    pub quarantined: u64,
    /// Admitted bundles that wait for a gap, and are among the admitted.
    pub held: u64,
    /// Records in the admitted bundles.
    pub records: u64,
    /// Sequence numbers of records that rules suppressed on the high side.
    pub suppressed: u64,
    /// The same, by rule.
    pub suppressed_by: Vec<RuleSum>,
    /// Records in the admitted bundles, by stream.
    pub streams: Vec<StreamSum>,
    /// Sequence numbers that the high side declared lost.
    pub lost_in_range: u64,
    /// What the high side declared lost.
    pub losses: Vec<LossSum>,
    /// When the last bundle was admitted, RFC 3339.
    pub last_admitted: Option<String>,
    /// The chains.
    pub chains: Vec<ChainSum>,
    /// The sinks.
    pub sinks: Vec<SinkSum>,
    /// The archives.
    pub archives: Vec<ArchiveSum>,
    /// The store.
    pub store: StoreSum,
}

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChainSum {
    /// `ORIGIN/EPOCH/LANE`.
    pub chain: String,
    /// Bundles admitted.
    pub bundles: u64,
    /// Records in them.
    pub records: u64,
    /// The highest sequence number.
    pub last_sequence: u64,
    /// Bundles that are missing.
    pub missing: u64,
    /// When the last bundle was admitted, RFC 3339.
    pub last_admitted: String,
}

/// What one rule suppressed of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleSum {
    /// The rule.
    pub rule: String,
    /// The stream.
    pub stream: String,
    /// How many records.
    pub records: u64,
}

/// The records of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamSum {
    /// The stream.
    pub stream: String,
    /// How many records.
    pub records: u64,
}

/// One reason of loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LossSum {
    /// The reason.
    pub reason: String,
    /// How many records.
    pub records: u64,
}

/// One sink: admitted records + again = delivered + filtered + rejected + removed + pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SinkSum {
    /// Its name.
    pub name: String,
    /// Records it has taken.
    pub delivered: u64,
    /// Records that its filter left out.
    pub filtered: u64,
    /// Records that its receiver refused for good: they are among its dead letters.
    pub rejected: u64,
    /// Records that were asked for once more.
    pub again: u64,
    /// Records that it never got: their bundle had left the store before the sink was there.
    pub removed: u64,
    /// Records it has yet to take.
    pub pending: u64,
    /// When the first bundle was admitted that it has not taken altogether, RFC 3339.
    pub waiting_since: Option<String>,
}

/// One lane of one origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneHeard {
    /// The origin.
    pub origin: String,
    /// The lane.
    pub lane: String,
    /// When it last had a bundle admitted, RFC 3339.
    pub last: String,
    /// Bundles that are missing.
    pub missing: u64,
}

impl Ledger {
    /// The sums, all of one moment; since when sinks wait is of the next one.
    pub fn sums(&mut self) -> Result<Sums, LedgerError> {
        let tx = self.conn.transaction()?;
        let counter = |name: &str| -> Result<u64, LedgerError> {
            let mut statement =
                tx.prepare_cached("SELECT coalesce(sum(value), 0) FROM counter WHERE name = ?1")?;
            Ok(uint(statement.query_row([name], |row| row.get(0))?))
        };
        let chains: Vec<ChainSum> = tx
            .prepare_cached(
                "SELECT origin, epoch, lane, bundles, records, last_sequence, last_ns,
                     (SELECT coalesce(sum(g.last - g.first + 1), 0) FROM gap g WHERE g.chain = c.id)
                 FROM chain c ORDER BY origin, epoch, lane",
            )?
            .query_map([], |row| {
                Ok(ChainSum {
                    chain: chain_name(row, 0)?.to_string(),
                    bundles: uint(row.get(3)?),
                    records: uint(row.get(4)?),
                    last_sequence: uint(row.get(5)?),
                    last_admitted: Nanos(row.get(6)?).to_string(),
                    missing: uint(row.get(7)?),
                })
            })?
            .collect::<Result<_, _>>()?;
        let records = chains.iter().map(|chain| chain.records).sum();
        let sinks = tx
            .prepare_cached(
                "SELECT s.name, coalesce(sum(d.records), 0), coalesce(sum(d.filtered), 0),
                     coalesce(sum(d.rejected), 0), coalesce(sum(d.again), 0), coalesce(sum(d.removed), 0)
                 FROM sink s LEFT JOIN delivered_records d ON d.sink = s.id
                 GROUP BY s.id ORDER BY s.name",
            )?
            .query_map([], |row| {
                let [dealt_with, filtered, rejected, again, removed] =
                    [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?].map(uint);
                Ok(SinkSum {
                    name: row.get(0)?,
                    delivered: dealt_with.saturating_sub(filtered + rejected + removed),
                    filtered,
                    rejected,
                    again,
                    removed,
                    pending: u64::saturating_sub(records + again, dealt_with),
                    waiting_since: None,
                })
            })?
            .collect::<Result<_, _>>()?;
        let losses = tx
            .prepare_cached("SELECT reason, sum(count) FROM loss GROUP BY reason ORDER BY reason")?
            .query_map([], |row| Ok(LossSum { reason: row.get(0)?, records: uint(row.get(1)?) }))?
            .collect::<Result<_, _>>()?;
        let tallies: Vec<RuleSum> = tx
            .prepare_cached(
                "SELECT rule, stream, sum(records) FROM tally GROUP BY rule, stream ORDER BY rule, stream",
            )?
            .query_map([], |row| {
                Ok(RuleSum { rule: row.get(0)?, stream: row.get(1)?, records: uint(row.get(2)?) })
            })?
            .collect::<Result<_, _>>()?;
        let (kept, suppressed_by): (Vec<RuleSum>, Vec<RuleSum>) =
            tallies.into_iter().partition(|sum| sum.rule.is_empty());
        let streams = kept
            .into_iter()
            .map(|RuleSum { stream, records, .. }| StreamSum { stream, records })
            .collect();
        let held: i64 = tx
            .prepare_cached(
                "SELECT coalesce(sum((SELECT count(*) FROM bundle b WHERE b.chain = h.chain AND b.number > h.first)), 0)
                 FROM (SELECT chain, min(first) AS first FROM gap WHERE passed_ns IS NULL GROUP BY chain) h",
            )?
            .query_row([], |row| row.get(0))?;
        let (in_range, suppressed, last): (i64, i64, Option<i64>) = tx
            .prepare_cached(
                "SELECT coalesce(sum(lost_in_range), 0), coalesce(sum(suppressed), 0), max(last_ns) FROM chain",
            )?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let mut sums = Sums {
            received: counter("received")?,
            admitted: counter("admitted")?,
            duplicate: counter("duplicate")?,
            quarantined: counter("quarantined")?,
            held: uint(held),
            records,
            suppressed: uint(suppressed),
            suppressed_by,
            streams,
            lost_in_range: uint(in_range),
            losses,
            last_admitted: last.map(|ns| Nanos(ns).to_string()),
            chains,
            sinks,
            archives: archived::archive_sums(&tx)?,
            store: removed::store_sum(&tx)?,
        };
        drop(tx);
        let mut waits = self.sinks_wait()?;
        for sink in &mut sums.sinks {
            sink.waiting_since = waits.remove(&sink.name).map(|since| since.to_string());
        }
        Ok(sums)
    }

    /// When each origin last had a bundle admitted.
    pub fn last_heard(&self) -> Result<Vec<(String, Nanos)>, LedgerError> {
        let mut statement =
            self.conn.prepare_cached("SELECT origin, max(last_ns) FROM chain GROUP BY origin")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, Nanos(row.get(1)?))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// When each lane of each origin last had a bundle admitted, and what is missing, over all epochs.
    pub fn heard_of_lanes(&self) -> Result<Vec<LaneHeard>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT origin, lane, max(last_ns),
                 sum((SELECT coalesce(sum(g.last - g.first + 1), 0) FROM gap g WHERE g.chain = c.id))
             FROM chain c GROUP BY origin, lane ORDER BY origin, lane",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(LaneHeard {
                origin: row.get(0)?,
                lane: row.get(1)?,
                last: Nanos(row.get(2)?).to_string(),
                missing: uint(row.get(3)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// When each lane of each origin last had a bundle admitted, in whatever epoch.
    pub fn last_heard_by_lane(&self) -> Result<Vec<(String, String, Nanos)>, LedgerError> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT origin, lane, max(last_ns) FROM chain GROUP BY origin, lane")?;
        let rows =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, Nanos(row.get(2)?))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Counts a refused file that now stands in the quarantine.
    pub fn note_quarantined(
        &mut self,
        arrival: &Arrival,
        code: &str,
        claim: &str,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        let (sha256, name) = (arrival.file.sha256.to_string(), &arrival.file.name);
        tx.prepare_cached(
            "INSERT INTO quarantine VALUES (?1, ?2, 1) ON CONFLICT (sha256) DO UPDATE SET times = times + 1, code = ?2",
        )?
        .execute([sha256.as_str(), code])?;
        admission::count(&tx, "quarantined")?;
        admission::count(&tx, "received")?;
        let message = format!("{name} was refused: {code}; see penstock-low quarantine list");
        // What may be an attack has an alarm of its own, with advice of its own.
        let alarm = [Disorder::Fork, Disorder::Rollback].map(Disorder::code);
        let alarm = alarm.into_iter().find(|alarm| *alarm == code).unwrap_or("quarantined");
        alarms::raise(&tx, alarm, code, &message, now)?;
        let received = CustodyEvent::new(now, Action::Received)
            .file(arrival.file.clone())
            .detail(arrival.source.as_str());
        custody::note(&tx, received)?;
        let refused = CustodyEvent::new(now, Action::Quarantined)
            .file(arrival.file.clone())
            .detail(format!("{code}{claim}"));
        custody::note(&tx, refused)?;
        Ok(tx.commit()?)
    }

    /// Takes a file out of the sums of the quarantine: a retry counted it anew, as something else.
    pub fn note_released(&mut self, sha256: &str) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        let times: Option<i64> = rusqlite::OptionalExtension::optional(tx.query_row(
            "DELETE FROM quarantine WHERE sha256 = ?1 RETURNING times",
            [sha256],
            |row| row.get(0),
        ))?;
        let times = times.unwrap_or(0);
        admission::add(&tx, "quarantined", -times)?;
        // The retry itself was counted as received; the visits that ended in quarantine were the
        // same file, so all but one of them become duplicates.
        admission::add(&tx, "received", -times.min(1))?;
        admission::add(&tx, "duplicate", (times - 1).max(0))?;
        Ok(tx.commit()?)
    }

    /// Takes back one count of a quarantined file: a retry that failed is no new arrival.
    pub fn forget_visit(&mut self, sha256: &str) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        tx.execute("UPDATE quarantine SET times = times - 1 WHERE sha256 = ?1", [sha256])?;
        admission::add(&tx, "quarantined", -1)?;
        admission::add(&tx, "received", -1)?;
        Ok(tx.commit()?)
    }

    /// How many refused files there are under each code.
    pub fn quarantine_codes(&self) -> Result<Vec<(String, u64)>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT code, sum(times) FROM quarantine GROUP BY code ORDER BY code",
        )?;
        let rows = statement.query_map(params![], |row| Ok((row.get(0)?, uint(row.get(1)?))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
