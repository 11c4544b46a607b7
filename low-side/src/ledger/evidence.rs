//! What the ledger can prove of a period: sums over its tables, chain by chain, for the evidence report.
//!
//! Everything is an aggregate that `SQLite` makes, or a row that is handed on and forgotten: memory does
//! not grow with the period.

use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use shared::bundle::BundleDigest;
use shared::clock::Nanos;

use super::admission::{KNOWN_BY_BACKUP, KNOWN_BY_LOG};
use super::{ChainId, ChainName, Ledger, LedgerError, SinkDelivery, chain_name, int, uint};
use crate::latency::Budgets;

/// The part of one chain that reaches into a period, whole bundles of it, and whether it adds up:
/// assigned = arrived + suppressed + lost + missing, and every link holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChainProof {
    /// `ORIGIN/EPOCH/LANE`.
    pub chain: String,
    /// The first bundle.
    pub first_bundle: u64,
    /// The last one.
    pub last_bundle: u64,
    /// How many of them are here.
    pub bundles: u64,
    /// How many have not come.
    pub missing_bundles: u64,
    /// The first sequence number.
    pub first_sequence: u64,
    /// The last one.
    pub last_sequence: u64,
    /// How many sequence numbers the high side assigned between the two.
    pub assigned: u64,
    /// Records that are here.
    pub arrived: u64,
    /// Numbers of records that rules suppressed.
    pub suppressed: u64,
    /// Numbers of records that were declared lost.
    pub lost: u64,
    /// Numbers in bundles that have not come.
    pub missing: u64,
    /// Whether assigned is the sum of the four.
    pub adds_up: bool,
    /// Links from a bundle to the one before it that were compared.
    pub links: u64,
    /// Of these, bundles that name another predecessor than the one that is here.
    pub broken_links: u64,
    /// Of these, bundles whose records do not continue the buffer's hash chain.
    pub broken_record_links: u64,
    /// Of these, bundles that do not begin with the next sequence number.
    pub broken_sequences: u64,
    /// Bundles whose stored file was found damaged.
    pub damaged: u64,
    /// The digest of the last bundle that is here: the head of the chain.
    pub head: Option<String>,
    /// The hash of the buffer's chain behind its last record.
    pub record_head: Option<String>,
    /// Bundles were removed from the store before this number, and nothing is proven of them.
    pub pruned_through: u64,
    /// For each sink how many of the numbers that are here it has not taken.
    pub not_taken: Vec<SinkTaken>,
    /// What became of the records at each sink, by stream.
    pub delivery: Vec<SinkDelivery>,
}

impl ChainProof {
    /// How many links are broken, of whatever kind.
    pub fn broken(&self) -> u64 {
        self.broken_links + self.broken_record_links + self.broken_sequences
    }
}

/// What a sink has not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SinkTaken {
    /// The sink.
    pub sink: String,
    /// How many sequence numbers.
    pub numbers: u64,
}

/// Bundles that have not come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GapProof {
    /// `ORIGIN/EPOCH/LANE`.
    pub chain: String,
    /// The first missing bundle.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// How many records lie between the neighbours.
    pub records: u64,
    /// The last record before was received at, RFC 3339.
    pub after: Option<String>,
    /// The first record behind was received at, RFC 3339.
    pub before: Option<String>,
    /// When a bundle behind it came, RFC 3339.
    pub noticed: String,
    /// When it stopped holding what is behind it, RFC 3339.
    pub passed: Option<String>,
}

/// What was declared lost, by where and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LossProof {
    /// `ORIGIN/EPOCH/LANE`.
    pub chain: String,
    /// Why.
    pub reason: String,
    /// Where they would have come in; empty where that is not known.
    pub listener: String,
    /// How many.
    pub records: u64,
    /// How many of them had a sequence number.
    pub numbered: u64,
    /// Not lost before, RFC 3339.
    pub from: String,
    /// Not lost after, RFC 3339.
    pub to: String,
}

/// Until when something is proven of a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Heard {
    /// Of whom.
    pub origin: String,
    /// The lane.
    pub lane: String,
    /// Of what the high side received until then every record is accounted for, RFC 3339.
    pub through: String,
    /// The same as a number.
    #[serde(skip)]
    pub through_at: Nanos,
}

/// A new life of a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EpochBegun {
    /// Whose.
    pub origin: String,
    /// Its epoch.
    pub epoch: u64,
    /// When its first bundle was sealed, RFC 3339.
    pub sealed: String,
}

/// Records of one stream in one part of a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSum {
    /// The stream.
    pub stream: String,
    /// Whether rules suppressed them.
    pub suppressed: bool,
    /// Which part, from 0.
    pub part: usize,
    /// How many.
    pub records: u64,
}

/// A key that signed bundles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SignerSum {
    /// Of whom.
    pub origin: String,
    /// The key's fingerprint.
    pub key: String,
    /// How many bundles.
    pub bundles: u64,
    /// When the first of them was sealed, RFC 3339.
    pub first: String,
    /// When the last of them was sealed, RFC 3339.
    pub last: String,
}

/// How long bundles took from the reception of their oldest record to their admission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WaitSum {
    /// Of whom.
    pub origin: String,
    /// The lane.
    pub lane: String,
    /// Bundles with records.
    pub bundles: u64,
    /// Records in them.
    pub records: u64,
    /// The mean over the bundles, in milliseconds.
    pub mean_ms: i64,
    /// The longest, in milliseconds.
    pub max_ms: i64,
    /// The lane's budget.
    pub budget_ms: u64,
    /// Bundles that took longer.
    pub bundles_over: u64,
    /// Records in them: at most so many were late when they were admitted.
    pub records_over: u64,
}

/// Bundles whose admission the ledger did not see: it was lost and rebuilt, or is a backup's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NotSeen {
    /// Admitted anew, with the time of their admission from the signed custody log.
    pub logged: u64,
    /// Admitted anew, and when they were admitted first is not known.
    pub unknown: u64,
    /// Their rows came with a backup.
    pub from_backup: u64,
}

/// Alarms of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AlarmSum {
    /// Their code.
    pub code: String,
    /// How many subjects.
    pub alarms: u64,
    /// How often they were raised.
    pub raised: u64,
    /// How many of them nobody has acknowledged.
    pub open: u64,
}

/// An admitted bundle, to be looked at in the store.
#[derive(Clone, Debug)]
pub struct BundleInStore {
    /// Its file.
    pub file: String,
    /// Its digest.
    pub digest: BundleDigest,
    /// When it was sealed.
    pub sealed: Nanos,
    /// When it was admitted.
    pub imported: Nanos,
    /// Whether its file is there, and has not left the store after its time.
    pub stored: bool,
}

/// A bundle belongs to a period where its records reach into it, or, without any, where it was sealed
/// in it.
pub(super) const IN_PERIOD: &str =
    "coalesce(b.newest_ns, b.sealed_ns) >= ?1 AND coalesce(b.oldest_ns, b.sealed_ns) < ?2";

impl Ledger {
    /// Every chain of which something lies in a period, in order of their names.
    pub fn prove_chains(
        &self,
        from: Nanos,
        to: Nanos,
        mut each: impl FnMut(ChainProof),
    ) -> Result<(), LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT id, origin, epoch, lane, pruned_through FROM chain ORDER BY origin, epoch, lane",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, pruned): (ChainId, i64) = (row.get(0)?, row.get(4)?);
            if let Some((first, last)) = self.window(id, from, to)? {
                each(self.prove_chain(id, &chain_name(row, 1)?, (first, last), pruned)?);
            }
        }
        Ok(())
    }

    /// The bundle numbers of a chain between the last one that lies before a period and the first one
    /// behind it; `None` where nothing of the chain lies in the period.
    fn window(
        &self,
        chain: ChainId,
        from: Nanos,
        to: Nanos,
    ) -> Result<Option<(i64, i64)>, LedgerError> {
        let edge = |sql: &str, time: i64| -> Result<Option<i64>, LedgerError> {
            let row = self.conn.prepare_cached(sql)?.query_row(params![chain, time], |r| r.get(0));
            Ok(row.optional()?)
        };
        let before = edge(
            "SELECT number FROM bundle WHERE chain = ?1 AND newest_ns < ?2 ORDER BY number DESC LIMIT 1",
            from.0,
        )?;
        let behind = edge(
            "SELECT number FROM bundle WHERE chain = ?1 AND oldest_ns >= ?2 ORDER BY number LIMIT 1",
            to.0,
        )?;
        // The numbers that are in it whatever the clock of the high side did meanwhile.
        let (low, high, newest): (Option<i64>, Option<i64>, i64) = self
            .conn
            .prepare_cached(&format!(
                "SELECT min(CASE WHEN {IN_PERIOD} THEN number END), max(CASE WHEN {IN_PERIOD} THEN number END),
                     coalesce(max(number), 0)
                 FROM bundle b WHERE chain = ?3"
            ))?
            .query_row(params![from.0, to.0, chain], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        let mut first = before.map_or(1, |number| number + 1);
        let mut last = behind.map_or(newest, |number| number - 1);
        if let (Some(low), Some(high)) = (low, high) {
            (first, last) = (first.min(low), last.max(high));
        }
        let gap = "SELECT 1 FROM gap WHERE chain = ?1 AND first >= ?2 AND last <= ?3 LIMIT 1";
        let some =
            low.is_some() || self.conn.prepare_cached(gap)?.exists(params![chain, first, last])?;
        Ok(some.then_some((first, last)).filter(|(first, last)| first <= last))
    }

    fn prove_chain(
        &self,
        chain: ChainId,
        name: &ChainName,
        (first, last): (i64, i64),
        pruned: i64,
    ) -> Result<ChainProof, LedgerError> {
        let first = first.max(pruned + 1);
        let window = params![chain, first, last];
        let number = |sql: &str| -> Result<Option<i64>, LedgerError> {
            let found = self.conn.prepare_cached(sql)?.query_row(window, |row| row.get(0));
            Ok(found.optional()?.flatten())
        };
        let sums = self
            .conn
            .prepare_cached(
                "SELECT count(*), coalesce(sum(records), 0), coalesce(sum(lost_in_range), 0),
                 min(first_sequence), max(last_sequence), coalesce(sum(damaged), 0)
             FROM bundle WHERE chain = ?1 AND number BETWEEN ?2 AND ?3",
            )?
            .query_row(window, |row| {
                let sum = |at: usize| row.get::<_, i64>(at).map(uint);
                let sequences: (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
                Ok((sum(0)?, sum(1)?, sum(2)?, sequences, sum(5)?))
            })?;
        let (bundles, arrived, declared, (lowest, highest), damaged) = sums;
        let before = number(
            "SELECT last_sequence FROM bundle WHERE chain = ?1 AND number < ?2 AND ?3 = ?3
             ORDER BY number DESC LIMIT 1",
        )?;
        let behind = number(
            "SELECT first_sequence FROM bundle WHERE chain = ?1 AND number > ?3 AND ?2 = ?2
             ORDER BY number LIMIT 1",
        )?;
        let before = match before {
            Some(before) => before,
            // What stood before was removed after its time.
            None if pruned > 0 => lowest.unwrap_or(1) - 1,
            None => 0,
        };
        let end = behind.map_or(highest.unwrap_or(before), |behind| behind - 1);
        let suppressed = number(
            "SELECT sum(records) FROM tally WHERE chain = ?1 AND number BETWEEN ?2 AND ?3 AND rule <> ''",
        )?;
        let (missing_bundles, missing) = self.conn.prepare_cached(
            "SELECT coalesce(sum(last - first + 1), 0), coalesce(sum(coalesce(behind, 1) - coalesce(before, 0) - 1), 0)
             FROM (SELECT g.first, g.last,
                 (SELECT last_sequence FROM bundle b WHERE b.chain = g.chain AND b.number < g.first ORDER BY number DESC LIMIT 1) AS before,
                 (SELECT first_sequence FROM bundle b WHERE b.chain = g.chain AND b.number > g.last ORDER BY number LIMIT 1) AS behind
                 FROM gap g WHERE g.chain = ?1 AND g.first >= ?2 AND g.last <= ?3)",
        )?.query_row(window, |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?;
        let (links, broken_links, broken_record_links, broken_sequences) = self.conn.prepare_cached(
            "SELECT count(*), coalesce(sum(b.previous <> p.digest), 0), coalesce(sum(b.chain_before <> p.chain_head), 0),
                 coalesce(sum(b.first_sequence <> p.last_sequence + 1), 0)
             FROM bundle b JOIN bundle p ON p.chain = b.chain AND p.number = b.number - 1
             WHERE b.chain = ?1 AND b.number BETWEEN ?2 AND ?3",
        )?.query_row(window, |row| {
            Ok((uint(row.get(0)?), uint(row.get(1)?), uint(row.get(2)?), uint(row.get(3)?)))
        })?;
        let head = self
            .conn
            .prepare_cached(
                "SELECT digest, chain_head FROM bundle WHERE chain = ?1 AND number BETWEEN ?2 AND ?3
                 ORDER BY number DESC LIMIT 1",
            )?
            .query_row(window, |row| {
                let hex = |at: usize| row.get(at).map(|d| BundleDigest::from_bytes(d).to_string());
                Ok((hex(0)?, hex(1)?))
            })
            .optional()?;
        let (head, record_head) = head.unzip();
        let suppressed = uint(suppressed.unwrap_or(0));
        let assigned = uint(end.saturating_sub(before));
        let numbers = (before + 1, end);
        Ok(ChainProof {
            chain: name.to_string(),
            first_bundle: uint(first),
            last_bundle: uint(last),
            bundles,
            missing_bundles,
            first_sequence: uint(numbers.0),
            last_sequence: uint(numbers.1),
            assigned,
            arrived,
            suppressed,
            lost: declared,
            missing,
            adds_up: [arrived, suppressed, declared, missing]
                .into_iter()
                .try_fold(0, u64::checked_add)
                == Some(assigned),
            links,
            broken_links,
            broken_record_links,
            broken_sequences,
            damaged,
            head,
            record_head,
            pruned_through: uint(pruned),
            not_taken: self.not_taken(chain, numbers, assigned.saturating_sub(missing))?,
            delivery: self.outcomes(chain, (uint(first), uint(last)))?,
        })
    }

    /// How many of `here` sequence numbers each sink has not taken.
    fn not_taken(
        &self,
        chain: ChainId,
        (first, last): (i64, i64),
        here: u64,
    ) -> Result<Vec<SinkTaken>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT s.name, (SELECT coalesce(sum(min(d.last, ?3) - max(d.first, ?2) + 1), 0) FROM delivered d
                 WHERE d.sink = s.id AND d.chain = ?1 AND d.first <= ?3 AND d.last >= ?2)
             FROM sink s ORDER BY s.name",
        )?;
        let rows = statement.query_map(params![chain, first, last], |row| {
            let taken = uint(row.get(1)?);
            Ok(SinkTaken { sink: row.get(0)?, numbers: here.saturating_sub(taken) })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The gaps of which something may have been received in a period.
    pub fn prove_gaps(
        &self,
        from: Nanos,
        to: Nanos,
        mut each: impl FnMut(GapProof),
    ) -> Result<(), LedgerError> {
        for gap in self.missing_between(from, to, None)? {
            each(GapProof {
                chain: gap.chain.to_string(),
                first: gap.first,
                last: gap.last,
                records: gap.records,
                after: gap.begins.map(|time| time.to_string()),
                before: gap.ends.map(|time| time.to_string()),
                noticed: gap.noticed.to_string(),
                passed: gap.passed.map(|time| time.to_string()),
            });
        }
        Ok(())
    }

    /// What was declared lost in a period, by chain, reason and listener.
    pub fn prove_losses(
        &self,
        from: Nanos,
        to: Nanos,
        mut each: impl FnMut(LossProof),
    ) -> Result<(), LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT c.origin, c.epoch, c.lane, l.reason, l.listener, sum(l.count),
                 coalesce(sum(l.last_sequence - l.first_sequence + 1), 0), min(l.from_ns), max(l.to_ns)
             FROM loss l JOIN chain c ON c.id = l.chain WHERE l.to_ns >= ?1 AND l.from_ns < ?2
             GROUP BY c.id, l.reason, l.listener ORDER BY c.origin, c.epoch, c.lane, l.reason, l.listener",
        )?;
        let mut rows = statement.query(params![from.0, to.0])?;
        while let Some(row) = rows.next()? {
            each(LossProof {
                chain: chain_name(row, 0)?.to_string(),
                reason: row.get(3)?,
                listener: row.get(4)?,
                records: uint(row.get(5)?),
                numbered: uint(row.get(6)?),
                from: Nanos(row.get(7)?).to_string(),
                to: Nanos(row.get(8)?).to_string(),
            });
        }
        Ok(())
    }

    /// Until when every lane was heard of. A record proves everything that was received before it, since
    /// numbers are given in the order of reception; an empty bundle proves that nothing waited when it
    /// was sealed.
    pub fn heard(&self) -> Result<Vec<Heard>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT c.origin, c.lane, max(coalesce(b.newest_ns, b.sealed_ns)) FROM bundle b
             JOIN chain c ON c.id = b.chain GROUP BY c.origin, c.lane ORDER BY c.origin, c.lane",
        )?;
        let rows = statement.query_map([], |row| {
            let through_at = Nanos(row.get(2)?);
            let through = through_at.to_string();
            Ok(Heard { origin: row.get(0)?, lane: row.get(1)?, through, through_at })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The epochs that began in a period after an earlier one.
    pub fn epochs_begun(&self, from: Nanos, to: Nanos) -> Result<Vec<EpochBegun>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT c.origin, c.epoch, min(b.sealed_ns) AS sealed FROM bundle b JOIN chain c ON c.id = b.chain
             WHERE c.epoch > (SELECT min(epoch) FROM chain e WHERE e.origin = c.origin)
             GROUP BY c.origin, c.epoch HAVING sealed >= ?1 AND sealed < ?2
             ORDER BY c.origin, c.epoch LIMIT ?3",
        )?;
        let rows = statement.query_map(params![from.0, to.0, EPOCHS_MAX], |row| {
            let sealed = Nanos(row.get(2)?).to_string();
            Ok(EpochBegun { origin: row.get(0)?, epoch: uint(row.get(1)?), sealed })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many records of each stream were received in each part of a period: those of a bundle count
    /// where its newest record was received.
    pub fn flow(
        &self,
        from: Nanos,
        to: Nanos,
        part: Nanos,
        mut each: impl FnMut(FlowSum),
    ) -> Result<(), LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT t.stream, t.rule <> '', (min(b.newest_ns, ?2 - 1) - ?1) / ?3, sum(t.records)
             FROM bundle b JOIN tally t ON t.chain = b.chain AND t.number = b.number
             WHERE b.newest_ns >= ?1 AND b.oldest_ns < ?2 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        )?;
        let mut rows = statement.query(params![from.0, to.0, part.0.max(1)])?;
        while let Some(row) = rows.next()? {
            each(FlowSum {
                stream: row.get(0)?,
                suppressed: row.get(1)?,
                part: usize::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                records: uint(row.get(3)?),
            });
        }
        Ok(())
    }

    /// The keys that signed the bundles of a period.
    pub fn signers(
        &self,
        from: Nanos,
        to: Nanos,
        mut each: impl FnMut(SignerSum),
    ) -> Result<(), LedgerError> {
        let mut statement = self.conn.prepare_cached(&format!(
            "SELECT c.origin, b.signer, count(*), min(b.sealed_ns), max(b.sealed_ns)
             FROM bundle b JOIN chain c ON c.id = b.chain WHERE {IN_PERIOD}
             GROUP BY c.origin, b.signer ORDER BY c.origin, min(b.sealed_ns)"
        ))?;
        let mut rows = statement.query(params![from.0, to.0])?;
        while let Some(row) = rows.next()? {
            each(SignerSum {
                origin: row.get(0)?,
                key: row.get(1)?,
                bundles: uint(row.get(2)?),
                first: Nanos(row.get(3)?).to_string(),
                last: Nanos(row.get(4)?).to_string(),
            });
        }
        Ok(())
    }

    /// The bundles of a period whose admission this ledger did not see.
    pub fn not_seen(&self, from: Nanos, to: Nanos) -> Result<NotSeen, LedgerError> {
        let mut statement = self.conn.prepare_cached(&format!(
            "SELECT b.known_by, count(*) FROM bundle b
             WHERE b.known_by IS NOT NULL AND {IN_PERIOD} GROUP BY b.known_by"
        ))?;
        let mut rows = statement.query(params![from.0, to.0])?;
        let mut sum = NotSeen::default();
        while let Some(row) = rows.next()? {
            let count = uint(row.get(1)?);
            match row.get_ref(0)?.as_str().unwrap_or_default() {
                KNOWN_BY_LOG => sum.logged = count,
                KNOWN_BY_BACKUP => sum.from_backup = count,
                _ => sum.unknown = count,
            }
        }
        Ok(sum)
    }

    /// How long the bundles of a period took to their admission, by origin and lane; those of which that is
    /// not known are left out.
    pub fn waits(
        &self,
        from: Nanos,
        to: Nanos,
        budgets: &Budgets,
    ) -> Result<Vec<WaitSum>, LedgerError> {
        let nanos = |lane| i64::try_from(budgets.of(lane).as_nanos()).unwrap_or(i64::MAX);
        let (flash, routine) =
            (nanos(shared::record::Lane::Flash), nanos(shared::record::Lane::Routine));
        let mut statement = self.conn.prepare_cached(
            "SELECT origin, lane, count(*), sum(records), CAST(avg(wait) AS INTEGER), max(wait), budget,
                 sum(wait > budget), sum(CASE WHEN wait > budget THEN records ELSE 0 END)
             FROM (SELECT c.origin, c.lane, b.records, b.imported_ns - b.oldest_ns AS wait,
                     CASE c.lane WHEN 'flash' THEN ?3 ELSE ?4 END AS budget
                 FROM bundle b JOIN chain c ON c.id = b.chain
                 WHERE b.newest_ns >= ?1 AND b.oldest_ns < ?2 AND b.known_by IS NOT 'nothing')
             GROUP BY origin, lane ORDER BY origin, lane",
        )?;
        let rows = statement.query_map(params![from.0, to.0, flash, routine], |row| {
            let millis = |at: usize| row.get::<_, i64>(at).map(|nanos| nanos.div_euclid(1_000_000));
            Ok(WaitSum {
                origin: row.get(0)?,
                lane: row.get(1)?,
                bundles: uint(row.get(2)?),
                records: uint(row.get(3)?),
                mean_ms: millis(4)?,
                max_ms: millis(5)?,
                budget_ms: uint(millis(6)?),
                bundles_over: uint(row.get(7)?),
                records_over: uint(row.get(8)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The alarms that stood in a period, by code.
    pub fn alarms_between(&self, from: Nanos, to: Nanos) -> Result<Vec<AlarmSum>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT code, count(*), sum(count), sum(acknowledged_ns IS NULL) FROM alarm
             WHERE last_ns >= ?1 AND first_ns < ?2 GROUP BY code ORDER BY code",
        )?;
        let rows = statement.query_map(params![from.0, to.0], |row| {
            Ok(AlarmSum {
                code: row.get(0)?,
                alarms: uint(row.get(1)?),
                raised: uint(row.get(2)?),
                open: uint(row.get(3)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The first `limit` bundles of a period as they stand in the store, and how many there are besides.
    pub fn bundles_in_store(
        &self,
        from: Nanos,
        to: Nanos,
        limit: u64,
        mut each: impl FnMut(&BundleInStore),
    ) -> Result<u64, LedgerError> {
        let mut statement = self.conn.prepare_cached(&format!(
            "SELECT b.file, b.digest, b.sealed_ns, b.imported_ns, b.stored_ns IS NOT NULL FROM bundle b
             WHERE {IN_PERIOD} ORDER BY b.chain, b.number LIMIT ?3"
        ))?;
        let mut rows = statement.query(params![from.0, to.0, int(limit)])?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            seen += 1;
            each(&BundleInStore {
                file: row.get(0)?,
                digest: BundleDigest::from_bytes(row.get(1)?),
                sealed: Nanos(row.get(2)?),
                imported: Nanos(row.get(3)?),
                stored: row.get(4)?,
            });
        }
        let all: i64 = self
            .conn
            .prepare_cached(&format!("SELECT count(*) FROM bundle b WHERE {IN_PERIOD}"))?
            .query_row(params![from.0, to.0], |row| row.get(0))?;
        Ok(uint(all).saturating_sub(seen))
    }
}

/// More epochs are not listed: a site begins one after a disaster.
const EPOCHS_MAX: i64 = 100;
