//! Bundles whose files leave the store after their time, while their rows stay.
//!
//! A file goes in this order, so that a kill at any moment leaves nothing half done:
//!
//! 1. its row is written to the journal ([`crate::retention::Journal`]), which a rebuilt ledger reads;
//! 2. the ledger notes that the store has it no more, with a line in the custody log;
//! 3. the file is removed, while the ledger's write lock is held: an import that puts it back waits.
//!
//! Killed before 2: nothing has happened, and a file in the store counts more than a line in the journal.
//! Killed before 3: the next start removes what the ledger says is not there.

use std::collections::BTreeSet;
use std::io;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::custody::{Action, CustodyEvent, CustodyFile};

use super::custody::{self, bundle_of};
use super::rebuilt::{ABSENT, ABSENT_BYTES, NOT_ADMITTED};
use super::spans::{self, Spans};
use super::{
    ChainId, ChainName, Ledger, LedgerError, SinkId, StoreName, admission, alarms, chain_name, int,
    uint,
};

/// What is in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoreSum {
    /// Bundles whose file is there.
    pub bundles: u64,
    /// The bytes of these.
    pub bytes: u64,
    /// When the oldest of these was put there, RFC 3339.
    pub oldest: Option<String>,
    /// Admitted bundles whose file was removed after its time.
    pub removed: u64,
    /// Admitted bundles whose file should be there and is not, as was found at the last start or restore.
    pub absent: u64,
    /// The bytes of these.
    pub absent_bytes: u64,
    /// Files that are there and were not admitted at the last start.
    pub not_admitted: u64,
}

/// A bundle in the store that may leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBundle {
    /// Its chain.
    pub chain: ChainId,
    /// Its chain's name.
    pub name: ChainName,
    /// Its number.
    pub number: u64,
    /// Its identity.
    pub digest: BundleDigest,
    /// Its file's name in the store.
    pub file: String,
    /// The length of its file.
    pub bytes: u64,
    /// The SHA-256 of its file, where it is known.
    pub sha256: Option<BundleDigest>,
    /// When its file was put there.
    pub stored: Nanos,
    /// Its sequence numbers; the last is lower than the first where it has none.
    pub range: (u64, u64),
}

/// Why a bundle stays in the store although its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeptFor {
    /// An archive has yet to take it.
    Archive,
    /// Its file was found damaged, or is not the one that was admitted.
    Damaged,
    /// A record of it is among the dead letters of a sink.
    DeadLetters,
    /// It waits for a gap.
    Gap,
    /// Neither a sink nor an archive is configured: nothing else has it.
    NothingElse,
    /// A sink has not taken all of it.
    Sink,
}

impl KeptFor {
    /// The same for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "an archive has yet to take them",
            Self::Damaged => "their files are damaged or not theirs",
            Self::DeadLetters => "records of them are dead letters",
            Self::Gap => "they wait for a gap",
            Self::NothingElse => "neither a sink nor an archive is configured",
            Self::Sink => "a sink has yet to take them",
        }
    }
}

/// A bundle's row as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RemovedRow {
    /// `ORIGIN`, of its chain.
    pub origin: String,
    /// The epoch.
    pub epoch: u64,
    /// The lane.
    pub lane: String,
    /// Its number.
    pub number: u64,
    /// Its identity, in hex.
    pub digest: String,
    previous: String,
    first: u64,
    last: u64,
    records: u64,
    lost: u64,
    chain_before: String,
    chain_head: String,
    sealed_ns: i64,
    imported_ns: i64,
    signer: String,
    /// Its file's name in the store.
    pub file: String,
    bytes: u64,
    sha256: Option<String>,
    oldest_ns: Option<i64>,
    newest_ns: Option<i64>,
    /// Stream, rule, records, bytes.
    tallies: Vec<(String, String, u64, u64)>,
    losses: Vec<RemovedLoss>,
    archived: Vec<RemovedArchived>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RemovedLoss {
    reason: String,
    listener: String,
    count: u64,
    from_ns: i64,
    to_ns: i64,
    first: Option<i64>,
    last: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RemovedArchived {
    archive: String,
    key: String,
    version: String,
    sha256: String,
    bytes: u64,
    retain_until_ns: Option<i64>,
    at_ns: i64,
}

impl Ledger {
    /// What is in the store.
    pub fn store_sum(&self) -> Result<StoreSum, LedgerError> {
        store_sum(&self.conn)
    }

    /// Bundles in the store behind this place of the list, those that came first in front; at most
    /// `limit`.
    pub fn stored_behind(
        &self,
        (stored, chain, number): (Nanos, ChainId, u64),
        limit: u64,
    ) -> Result<Vec<StoredBundle>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT c.origin, c.epoch, c.lane, b.chain, b.number, b.digest, b.file, b.file_bytes,
                 b.file_sha256, b.stored_ns, b.first_sequence, b.last_sequence
             FROM bundle b JOIN chain c ON c.id = b.chain
             WHERE b.stored_ns IS NOT NULL AND (b.stored_ns, b.chain, b.number) > (?1, ?2, ?3)
             ORDER BY b.stored_ns, b.chain, b.number LIMIT ?4",
        )?;
        let from = params![stored.0, chain, int(number), int(limit)];
        let rows = statement.query_map(from, |row| {
            Ok(StoredBundle {
                name: chain_name(row, 0)?,
                chain: row.get(3)?,
                number: uint(row.get(4)?),
                digest: BundleDigest::from_bytes(row.get(5)?),
                file: row.get(6)?,
                bytes: uint(row.get(7)?),
                sha256: row.get::<_, Option<[u8; 32]>>(8)?.map(BundleDigest::from_bytes),
                stored: Nanos(row.get(9)?),
                range: (uint(row.get(10)?), uint(row.get(11)?)),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What needs the stored file of a bundle; nothing does where this is `None`. `sinks` are those of
    /// the configuration.
    pub fn needed(
        &self,
        bundle: &StoredBundle,
        sinks: &[SinkId],
    ) -> Result<Option<KeptFor>, LedgerError> {
        needed(&self.conn, bundle, sinks)
    }

    /// Notes that the files of these bundles leave the store, unless something needs one by now: gives
    /// those that do leave. Their files are removed by [`Self::unlink_removed`].
    pub fn remove_from_store(
        &mut self,
        bundles: &[(StoredBundle, BundleDigest)],
        sinks: &[SinkId],
        why: &str,
        now: Nanos,
        journal: impl FnOnce(&[RemovedRow]) -> io::Result<()>,
    ) -> Result<Vec<StoredBundle>, LedgerError> {
        let tx = self.begin()?;
        let mut leaving = Vec::new();
        let mut rows = Vec::new();
        for (bundle, sha256) in bundles {
            let stored: Option<Option<i64>> = tx
                .prepare_cached("SELECT stored_ns FROM bundle WHERE chain = ?1 AND number = ?2")?
                .query_row(params![bundle.chain, int(bundle.number)], |row| row.get(0))
                .optional()?;
            if stored.flatten() == Some(bundle.stored.0) && needed(&tx, bundle, sinks)?.is_none() {
                rows.push(removed_row(&tx, bundle)?);
                leaving.push((bundle.clone(), *sha256));
            }
        }
        if leaving.is_empty() {
            return Ok(Vec::new());
        }
        journal(&rows).map_err(LedgerError::Place)?;
        for (bundle, sha256) in &leaving {
            tx.prepare_cached(
                "UPDATE bundle SET stored_ns = NULL WHERE chain = ?1 AND number = ?2",
            )?
            .execute(params![bundle.chain, int(bundle.number)])?;
            admission::add(&tx, STORED, -1)?;
            admission::add(&tx, STORED_BYTES, -int(bundle.bytes))?;
            pass_over(&tx, bundle.chain, bundle.number, bundle.range)?;
            let file =
                CustodyFile { name: bundle.file.clone(), sha256: *sha256, bytes: bundle.bytes };
            let event = CustodyEvent::new(now, Action::Deleted)
                .bundle(bundle_of(&bundle.name, bundle.number, bundle.digest))
                .file(file)
                .detail(format!("from the store: {why}"));
            custody::note(&tx, event)?;
        }
        tx.commit()?;
        Ok(leaving.into_iter().map(|(bundle, _)| bundle).collect())
    }

    /// Removes the files of bundles that have left the store. The write lock is held meanwhile, and what
    /// was put back since then stays.
    pub fn unlink_removed(
        &mut self,
        bundles: &[StoredBundle],
        mut unlink: impl FnMut(&str) -> io::Result<()>,
    ) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        for bundle in bundles {
            let gone = tx
                .prepare_cached(
                    "SELECT 1 FROM bundle WHERE chain = ?1 AND number = ?2 AND stored_ns IS NULL",
                )?
                .exists(params![bundle.chain, int(bundle.number)])?;
            if gone {
                unlink(&bundle.file).map_err(LedgerError::Place)?;
            }
        }
        Ok(tx.rollback()?)
    }

    /// The identity and length of the bundle that a file of the store was, where it was removed from there.
    pub fn removed_file(&self, file: &str) -> Result<Option<(BundleDigest, u64)>, LedgerError> {
        let Ok(StoreName { chain, number, .. }) = file.parse() else { return Ok(None) };
        let mut statement = self.conn.prepare_cached(
            "SELECT b.digest, b.file_bytes FROM chain c JOIN bundle b ON b.chain = c.id
             WHERE c.origin = ?1 AND c.epoch = ?2 AND c.lane = ?3 AND b.number = ?4 AND b.file = ?5
                 AND b.stored_ns IS NULL",
        )?;
        let ChainName { origin, epoch, lane } = chain;
        let key = params![origin.as_str(), int(epoch.0), lane.as_str(), int(number), file];
        let found = statement
            .query_row(key, |row| Ok((BundleDigest::from_bytes(row.get(0)?), uint(row.get(1)?))));
        Ok(found.optional()?)
    }

    /// The bundle that holds a sequence number.
    pub fn bundle_of_sequence(
        &self,
        chain: ChainId,
        sequence: u64,
    ) -> Result<Option<u64>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT number FROM bundle WHERE chain = ?1 AND last_sequence >= ?2
                 AND last_sequence >= first_sequence AND first_sequence <= ?2
             ORDER BY last_sequence LIMIT 1",
        )?;
        let found =
            statement.query_row(params![chain, int(sequence)], |row| row.get(0)).optional()?;
        Ok(found.map(uint))
    }

    /// Takes the rows of the journal into a ledger that has not done so yet, all or none: what has left
    /// the store came once, is not missing, and goes to no sink again. Called when what the store holds
    /// was admitted. `in_store` says whether the store has a file of that name: such a bundle is admitted
    /// by its file or not at all. Gives how many rows were new.
    pub fn adopt_removed(
        &mut self,
        rows: impl Iterator<Item = RemovedRow>,
        in_store: impl Fn(&str) -> bool,
        now: Nanos,
    ) -> Result<u64, LedgerError> {
        let asked = "SELECT 1 FROM counter WHERE name = ?1";
        if self.conn.prepare_cached(asked)?.exists([ADOPTED])? {
            return Ok(0);
        }
        let tx = self.begin()?;
        let mut adopted = 0;
        let mut chains = BTreeSet::new();
        for row in rows.filter(|row| !in_store(&row.file)) {
            if let Some(chain) = adopt(&tx, &row, now)? {
                adopted += 1;
                chains.insert(chain);
            }
        }
        for (chain, name) in chains {
            renew_gaps(&tx, chain, &name, now)?;
        }
        admission::count(&tx, ADOPTED)?;
        tx.commit()?;
        Ok(adopted)
    }
}

/// The gaps of a chain: every number below the highest that has no row. None of them holds anything back.
fn renew_gaps(
    tx: &Transaction<'_>,
    chain: ChainId,
    name: &str,
    now: Nanos,
) -> Result<(), LedgerError> {
    tx.execute("DELETE FROM gap WHERE chain = ?1", [chain])?;
    let missing = tx.execute(
        "INSERT INTO gap (chain, first, last, noticed_ns, passed_ns)
         SELECT ?1, before + 1, number - 1, ?2, ?2 FROM (
             SELECT number, lag(number, 1, 0) OVER (ORDER BY number) AS before FROM bundle WHERE chain = ?1)
         WHERE number > before + 1",
        params![chain, now.0],
    )?;
    if missing == 0 {
        alarms::close(tx, "gap", Some(name), now)?;
    }
    Ok(())
}

pub(super) fn store_sum(conn: &rusqlite::Connection) -> Result<StoreSum, LedgerError> {
    let counter = |name: &str| -> Result<u64, LedgerError> {
        let mut statement =
            conn.prepare_cached("SELECT coalesce(sum(value), 0) FROM counter WHERE name = ?1")?;
        Ok(uint(statement.query_row([name], |row| row.get(0))?))
    };
    let oldest: Option<i64> = conn
        .prepare_cached("SELECT min(stored_ns) FROM bundle WHERE stored_ns IS NOT NULL")?
        .query_row([], |row| row.get(0))?;
    let all: i64 = conn
        .prepare_cached("SELECT coalesce(sum(bundles), 0) FROM chain")?
        .query_row([], |row| row.get(0))?;
    let stored = counter(STORED)?;
    let (absent, absent_bytes) = (counter(ABSENT)?, counter(ABSENT_BYTES)?);
    let bundles = stored.saturating_sub(absent);
    Ok(StoreSum {
        bundles,
        bytes: counter(STORED_BYTES)?.saturating_sub(absent_bytes),
        oldest: oldest.filter(|_| bundles > 0).map(|ns| Nanos(ns).to_string()),
        removed: uint(all).saturating_sub(stored),
        absent,
        absent_bytes,
        not_admitted: counter(NOT_ADMITTED)?,
    })
}

/// Counts a file that was put into the store.
pub(super) fn count_stored(tx: &Transaction<'_>, bytes: u64) -> Result<(), LedgerError> {
    admission::add(tx, STORED, 1)?;
    admission::add(tx, STORED_BYTES, int(bytes))
}

/// Counts a file whose length changed.
pub(super) fn count_changed(tx: &Transaction<'_>, old: u64, new: u64) -> Result<(), LedgerError> {
    admission::add(tx, STORED_BYTES, int(new) - int(old))
}

/// A sink that is new gets nothing of what has left the store: it is told as passed over, whole.
pub(super) fn begin_sink(tx: &Transaction<'_>, sink: SinkId) -> Result<(), LedgerError> {
    let mut statement = tx.prepare_cached(
        "SELECT chain, first_sequence, last_sequence, records FROM bundle
         WHERE stored_ns IS NULL AND last_sequence >= first_sequence ORDER BY chain, number",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let range = (uint(row.get(1)?), uint(row.get(2)?));
        pass_over_one(tx, sink, row.get(0)?, range, row.get(3)?)?;
    }
    Ok(())
}

/// What sinks that are not configured any more have not taken of a bundle that leaves is passed over.
fn pass_over(
    tx: &Transaction<'_>,
    chain: ChainId,
    number: u64,
    (first, last): (u64, u64),
) -> Result<(), LedgerError> {
    if last < first {
        return Ok(());
    }
    let records: i64 = tx
        .prepare_cached("SELECT records FROM bundle WHERE chain = ?1 AND number = ?2")?
        .query_row(params![chain, int(number)], |row| row.get(0))?;
    let sinks: Vec<(SinkId, i64)> = tx
        .prepare_cached(
            "SELECT id, (SELECT coalesce(sum(min(d.last, ?3) - max(d.first, ?2) + 1), 0) FROM delivered d
                 WHERE d.sink = s.id AND d.chain = ?1 AND d.first <= ?3 AND d.last >= ?2)
             FROM sink s WHERE NOT EXISTS (SELECT 1 FROM delivered d
                 WHERE d.sink = s.id AND d.chain = ?1 AND d.first <= ?2 AND d.last >= ?3)",
        )?
        .query_map(params![chain, int(first), int(last)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (sink, had) in sinks {
        // A part of it may have been delivered already.
        pass_over_one(tx, sink, chain, (first, last), (records - had).max(0))?;
    }
    Ok(())
}

fn pass_over_one(
    tx: &Transaction<'_>,
    sink: SinkId,
    chain: ChainId,
    (first, last): (u64, u64),
    records: i64,
) -> Result<(), LedgerError> {
    for spans in [Spans::Delivered, Spans::PassedOver] {
        spans::insert(tx, spans, sink, chain, (first, last))?;
    }
    tx.prepare_cached(
        "INSERT INTO delivered_records (sink, chain, records, removed) VALUES (?1, ?2, ?3, ?3)
         ON CONFLICT (sink, chain) DO UPDATE SET records = records + ?3, removed = removed + ?3",
    )?
    .execute(params![sink, chain, records])?;
    Ok(())
}

fn needed(
    conn: &rusqlite::Connection,
    bundle: &StoredBundle,
    sinks: &[SinkId],
) -> Result<Option<KeptFor>, LedgerError> {
    let (chain, number) = (bundle.chain, int(bundle.number));
    let (damaged, held, unarchived, archives): (bool, bool, bool, i64) = conn
        .prepare_cached(
            "SELECT b.damaged,
                 EXISTS (SELECT 1 FROM gap g WHERE g.chain = ?1 AND g.first <= ?2 AND g.passed_ns IS NULL),
                 EXISTS (SELECT 1 FROM archive_due d WHERE d.chain = ?1 AND d.number = ?2)
                     OR EXISTS (SELECT 1 FROM archive a WHERE a.active AND NOT EXISTS
                         (SELECT 1 FROM archived x WHERE x.archive = a.id AND x.chain = ?1 AND x.number = ?2)),
                 (SELECT count(*) FROM archive a WHERE a.active)
             FROM bundle b WHERE b.chain = ?1 AND b.number = ?2",
        )?
        .query_row(params![chain, number], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?;
    let found = match () {
        () if sinks.is_empty() && archives == 0 => Some(KeptFor::NothingElse),
        () if damaged => Some(KeptFor::Damaged),
        () if held => Some(KeptFor::Gap),
        () if unarchived => Some(KeptFor::Archive),
        () => None,
    };
    let (first, last) = bundle.range;
    if found.is_some() || last < first {
        return Ok(found);
    }
    let mut statement = conn.prepare_cached(
        "SELECT s.id, EXISTS (SELECT 1 FROM delivered d
                 WHERE d.sink = s.id AND d.chain = ?1 AND d.first <= ?2 AND d.last >= ?3),
             EXISTS (SELECT 1 FROM delivered d
                 WHERE d.sink = s.id AND d.chain = ?1 AND d.first <= ?3 AND d.last >= ?2)
         FROM sink s",
    )?;
    let mut rows = statement.query(params![chain, int(first), int(last)])?;
    while let Some(row) = rows.next()? {
        let (sink, whole, part): (SinkId, bool, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        // Of one that a sink which is gone has in part, nobody could say how many records it lacks.
        if !whole && (part || sinks.contains(&sink)) {
            return Ok(Some(KeptFor::Sink));
        }
    }
    Ok(None)
}

fn removed_row(tx: &Transaction<'_>, bundle: &StoredBundle) -> Result<RemovedRow, LedgerError> {
    let key = params![bundle.chain, int(bundle.number)];
    let hex = |row: &Row<'_>, at| Ok::<_, rusqlite::Error>(digest_at(row, at)?.to_string());
    let mut row = tx
        .prepare_cached(
            "SELECT previous, first_sequence, last_sequence, records, lost_in_range, chain_before,
                 chain_head, sealed_ns, imported_ns, signer, file_bytes, file_sha256, oldest_ns, newest_ns
             FROM bundle WHERE chain = ?1 AND number = ?2",
        )?
        .query_row(key, |row| {
            Ok(RemovedRow {
                origin: bundle.name.origin.to_string(),
                epoch: bundle.name.epoch.0,
                lane: bundle.name.lane.to_string(),
                number: bundle.number,
                digest: bundle.digest.to_string(),
                previous: hex(row, 0)?,
                first: uint(row.get(1)?),
                last: uint(row.get(2)?),
                records: uint(row.get(3)?),
                lost: uint(row.get(4)?),
                chain_before: hex(row, 5)?,
                chain_head: hex(row, 6)?,
                sealed_ns: row.get(7)?,
                imported_ns: row.get(8)?,
                signer: row.get(9)?,
                file: bundle.file.clone(),
                bytes: uint(row.get(10)?),
                sha256: row
                    .get::<_, Option<[u8; 32]>>(11)?
                    .map(|bytes| BundleDigest::from_bytes(bytes).to_string()),
                oldest_ns: row.get(12)?,
                newest_ns: row.get(13)?,
                tallies: Vec::new(),
                losses: Vec::new(),
                archived: Vec::new(),
            })
        })?;
    row.tallies = tx
        .prepare_cached(
            "SELECT stream, rule, records, bytes FROM tally WHERE chain = ?1 AND number = ?2",
        )?
        .query_map(key, |r| Ok((r.get(0)?, r.get(1)?, uint(r.get(2)?), uint(r.get(3)?))))?
        .collect::<Result<_, _>>()?;
    row.losses = tx
        .prepare_cached(
            "SELECT reason, listener, count, from_ns, to_ns, first_sequence, last_sequence FROM loss
             WHERE chain = ?1 AND number = ?2",
        )?
        .query_map(key, |r| {
            Ok(RemovedLoss {
                reason: r.get(0)?,
                listener: r.get(1)?,
                count: uint(r.get(2)?),
                from_ns: r.get(3)?,
                to_ns: r.get(4)?,
                first: r.get(5)?,
                last: r.get(6)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    row.archived = tx
        .prepare_cached(
            "SELECT a.name, x.key, x.version, x.sha256, x.bytes, x.retain_until_ns, x.at_ns
             FROM archived x JOIN archive a ON a.id = x.archive WHERE x.chain = ?1 AND x.number = ?2",
        )?
        .query_map(key, |r| {
            Ok(RemovedArchived {
                archive: r.get(0)?,
                key: r.get(1)?,
                version: r.get(2)?,
                sha256: hex(r, 3)?,
                bytes: uint(r.get(4)?),
                retain_until_ns: r.get(5)?,
                at_ns: r.get(6)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(row)
}

fn digest_at(row: &Row<'_>, at: usize) -> rusqlite::Result<BundleDigest> {
    Ok(BundleDigest::from_bytes(row.get(at)?))
}

/// A bundle of which a ledger from a backup still thinks that the store has its file: it had been dealt with
/// when the file went.
fn forget_file(
    tx: &Transaction<'_>,
    chain: ChainId,
    number: u64,
    digest: &BundleDigest,
) -> Result<Option<(ChainId, String)>, LedgerError> {
    let gone: Option<(u64, u64, i64)> = tx
        .prepare_cached(
            "UPDATE bundle SET stored_ns = NULL
             WHERE chain = ?1 AND number = ?2 AND digest = ?3 AND stored_ns IS NOT NULL
             RETURNING first_sequence, last_sequence, file_bytes",
        )?
        .query_row(params![chain, int(number), digest.as_bytes()], |row| {
            Ok((uint(row.get(0)?), uint(row.get(1)?), row.get(2)?))
        })
        .optional()?;
    if let Some((first, last, bytes)) = gone {
        admission::add(tx, STORED, -1)?;
        admission::add(tx, STORED_BYTES, -bytes)?;
        pass_over(tx, chain, number, (first, last))?;
    }
    Ok(None)
}

/// Takes one row of the journal in; gives its chain. `None` where it is there already, or names what
/// can't be.
fn adopt(
    tx: &Transaction<'_>,
    row: &RemovedRow,
    now: Nanos,
) -> Result<Option<(ChainId, String)>, LedgerError> {
    let digests = [&row.digest, &row.previous, &row.chain_before, &row.chain_head];
    let parsed: Vec<BundleDigest> = digests.iter().filter_map(|text| text.parse().ok()).collect();
    let (Ok(origin), Ok(lane), [digest, previous, chain_before, chain_head]) =
        (row.origin.parse(), row.lane.parse(), parsed.as_slice())
    else {
        return Ok(None);
    };
    let name = ChainName { origin, epoch: shared::record::Epoch(row.epoch), lane };
    let chain = if let Some(chain) = admission::find_chain(tx, &name)? {
        chain
    } else {
        let sql = "INSERT INTO chain (origin, epoch, lane, last_ns) VALUES (?1, ?2, ?3, ?4)";
        let imported = row.imported_ns;
        tx.prepare_cached(sql)?.execute(params![row.origin, int(row.epoch), row.lane, imported])?;
        tx.last_insert_rowid()
    };
    let sha256: Option<BundleDigest> = row.sha256.as_deref().and_then(|text| text.parse().ok());
    let added = tx
        .prepare_cached(
            "INSERT OR IGNORE INTO bundle (chain, number, digest, previous, first_sequence, last_sequence,
                 records, lost_in_range, chain_before, chain_head, sealed_ns, imported_ns, signer, file,
                 file_bytes, oldest_ns, newest_ns, file_sha256, stored_ns)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, NULL)",
        )?
        .execute(params![
            chain,
            int(row.number),
            digest.as_bytes(),
            previous.as_bytes(),
            int(row.first),
            int(row.last),
            int(row.records),
            int(row.lost),
            chain_before.as_bytes(),
            chain_head.as_bytes(),
            row.sealed_ns,
            row.imported_ns,
            row.signer,
            row.file,
            int(row.bytes),
            row.oldest_ns,
            row.newest_ns,
            sha256.as_ref().map(BundleDigest::as_bytes),
        ])?;
    if added == 0 {
        return forget_file(tx, chain, row.number, digest);
    }
    let mut suppressed = 0;
    for (stream, rule, records, bytes) in &row.tallies {
        let sql = "INSERT OR IGNORE INTO tally VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let number = int(row.number);
        tx.prepare_cached(sql)?.execute(params![
            chain,
            number,
            stream,
            rule,
            int(*records),
            int(*bytes)
        ])?;
        suppressed += if rule.is_empty() { 0 } else { int(*records) };
    }
    for loss in &row.losses {
        tx.prepare_cached("INSERT INTO loss VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
            .execute(params![
                chain,
                int(row.number),
                loss.reason,
                loss.listener,
                int(loss.count),
                loss.from_ns,
                loss.to_ns,
                loss.first,
                loss.last
            ])?;
    }
    for kept in &row.archived {
        let Ok(sha256) = kept.sha256.parse::<BundleDigest>() else { continue };
        tx.prepare_cached(
            "INSERT INTO archive (name, active, before) VALUES (?1, 0, 0) ON CONFLICT (name) DO NOTHING",
        )?
        .execute([&kept.archive])?;
        tx.prepare_cached(
            "INSERT OR IGNORE INTO archived
             SELECT id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 FROM archive WHERE name = ?1",
        )?
        .execute(params![
            kept.archive,
            chain,
            int(row.number),
            kept.key,
            kept.version,
            sha256.as_bytes(),
            int(kept.bytes),
            kept.retain_until_ns,
            kept.at_ns
        ])?;
        tx.prepare_cached(
            "UPDATE archive SET bundles = bundles + 1, bytes = bytes + ?2 WHERE name = ?1",
        )?
        .execute(params![kept.archive, int(kept.bytes)])?;
    }
    tx.prepare_cached(
        "UPDATE chain SET bundles = bundles + 1, records = records + ?2, lost_in_range = lost_in_range + ?3,
             last_sequence = max(last_sequence, ?4), last_ns = max(last_ns, ?5), suppressed = suppressed + ?6
         WHERE id = ?1",
    )?
    .execute(params![
        chain,
        int(row.records),
        int(row.lost),
        int(row.last),
        row.imported_ns,
        suppressed
    ])?;
    admission::count(tx, "admitted")?;
    admission::count(tx, "received")?;
    let event = CustodyEvent::new(now, Action::Admitted)
        .bundle(bundle_of(&name, row.number, *digest))
        .detail("into a rebuilt ledger, from the journal of what was removed from the store");
    custody::note(tx, event)?;
    pass_over(tx, chain, row.number, (row.first, row.last))?;
    Ok(Some((chain, name.to_string())))
}

/// Set once the journal was looked at.
pub(super) const ADOPTED: &str = "journal-adopted";
const STORED: &str = "stored";
const STORED_BYTES: &str = "stored-bytes";
