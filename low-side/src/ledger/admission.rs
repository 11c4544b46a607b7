//! Bundles come into the ledger.

use std::io;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use shared::bundle::{BundleDigest, Loss, StreamCount, SuppressedCount, VerifiedBundle};
use shared::clock::Nanos;
use shared::custody::{Action, CustodyEvent};
use shared::record::Epoch;

use super::custody::{self, Arrival, bundle_of};
use super::delivery::{STORE_DAMAGED, STORE_UNREADABLE};
use super::{
    ChainId, ChainName, Ledger, LedgerError, StoreName, alarms, archived, chain_name, int, latency,
    rebuilt, removed, uint,
};
use crate::admit::{Admission, Candidate, Disorder, Known, Member, admit};
use crate::config::{AdmissionConfig, GapPolicy};

/// What the ledger keeps of a verified bundle.
#[derive(Clone, Debug)]
pub struct BundleFacts {
    /// Its chain.
    pub chain: ChainName,
    /// Its place in the chain.
    pub candidate: Candidate,
    /// The number of records in it.
    pub records: u64,
    /// What it holds of each stream.
    pub streams: Vec<StreamCount>,
    /// What rules suppressed on the high side.
    pub suppressed: Vec<SuppressedCount>,
    /// When its oldest record was received, and its newest.
    pub received: Option<(Nanos, Nanos)>,
    /// How many of its sequence numbers were lost on the high side.
    pub lost_in_range: u64,
    /// What the high side declared lost.
    pub losses: Vec<Loss>,
    /// The buffer's chain head before its first record.
    pub chain_before: BundleDigest,
    /// The buffer's chain head after its last record.
    pub chain_head: BundleDigest,
    /// When its content was frozen.
    pub sealed: Nanos,
    /// Who signed it.
    pub signer: String,
    /// The length of its file.
    pub file_bytes: u64,
    /// How its file came; of a file of the store that had no row, nothing is known.
    pub arrival: Option<Arrival>,
    /// Whether an operator brings it: then a file that had left the store after its time is put back.
    pub restores: bool,
    /// What is known of its admission, where that was before this ledger began.
    pub before: Option<Before>,
}

/// A bundle that was admitted before this ledger began: it is admitted anew, and counts for no latency, no
/// clock and no silence, since nothing came now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// When it was, as the signed custody log says.
    pub admitted: Option<Nanos>,
    /// Who says so, for the custody log.
    pub who_says: String,
}

impl Before {
    /// What the row has for it.
    fn known_by(&self) -> &'static str {
        if self.admitted.is_some() { KNOWN_BY_LOG } else { KNOWN_BY_NOTHING }
    }
}

/// The admission stands in what a checkpoint of the custody log covers.
pub(super) const KNOWN_BY_LOG: &str = "custody-log";
/// When it was admitted is not known: `imported_ns` is when it was admitted anew.
pub(super) const KNOWN_BY_NOTHING: &str = "nothing";
/// The row came with a backup's ledger: what sinks take of it now they may have had.
pub(super) const KNOWN_BY_BACKUP: &str = "backup";
/// How the detail of a custody entry begins that tells of no first admission.
pub(crate) const ANEW: &str = "anew, ";

impl BundleFacts {
    /// The facts of a bundle that `open()` has verified.
    pub fn of(bundle: &VerifiedBundle) -> Self {
        let (header, manifest) = (bundle.header(), bundle.manifest());
        Self {
            chain: ChainName {
                origin: header.origin.clone(),
                epoch: header.epoch,
                lane: header.lane,
            },
            candidate: Candidate {
                epoch: header.epoch,
                number: header.number,
                digest: bundle.digest(),
                previous: header.previous,
                first_sequence: manifest.first_sequence.0,
                last_sequence: manifest.last_sequence.0,
            },
            records: manifest.records,
            streams: manifest.streams.clone(),
            suppressed: manifest.suppressed.clone(),
            received: manifest.oldest.zip(manifest.newest),
            lost_in_range: manifest.lost_in_range(),
            losses: manifest.losses.clone(),
            chain_before: manifest.chain_before,
            chain_head: manifest.chain_head,
            sealed: manifest.sealed_at,
            signer: header.signer.clone(),
            file_bytes: bundle.file_bytes(),
            arrival: None,
            restores: false,
            before: None,
        }
    }

    /// The name of its file in the store: made of what was verified, never of a name that came.
    pub fn store_name(&self) -> String {
        StoreName::new(&self.chain, self.candidate.number, &self.candidate.digest).to_string()
    }
}

/// A bundle that was admitted. Replay accepts nothing less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedBundle {
    pub(super) chain: ChainId,
    pub(super) number: u64,
    pub(super) digest: BundleDigest,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    pub(super) file: String,
    pub(super) anew: bool,
}

impl AdmittedBundle {
    /// Its chain.
    pub fn chain(&self) -> ChainId {
        self.chain
    }
    /// Its number in the chain.
    pub fn number(&self) -> u64 {
        self.number
    }
    /// Its identity: what the signature was over when it was admitted.
    pub fn digest(&self) -> &BundleDigest {
        &self.digest
    }
    /// The first sequence number it accounts for.
    pub fn first_sequence(&self) -> u64 {
        self.first_sequence
    }
    /// The last one.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }
    /// Its file's name in the store.
    pub fn file(&self) -> &str {
        &self.file
    }
    /// Whether it was admitted before this ledger began, so that sinks may have had its records: how long
    /// these take now says nothing.
    pub fn anew(&self) -> bool {
        self.anew
    }
}

/// What became of a bundle, and what to do with its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is in the ledger and its file is in the store.
    Admitted(Admission),
    /// It was in the ledger before.
    Duplicate,
    /// It was in the ledger before, and its file, which had left the store, is there again.
    Restored,
    /// It is not admitted.
    Refused(Disorder),
}

/// A range of bundle numbers that has not come.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct OpenGap {
    /// Its id, for `gaps --pass`.
    pub id: i64,
    /// The chain, as `ORIGIN/EPOCH/LANE`.
    pub chain: String,
    /// The first missing bundle.
    pub first: u64,
    /// The last missing bundle.
    pub last: u64,
    /// When a bundle behind it came, RFC 3339.
    pub noticed: String,
    /// When it stopped holding what is behind it, RFC 3339.
    pub passed: Option<String>,
}

impl Ledger {
    /// Decides about a verified bundle and, if it is admitted, notes it: all in one transaction.
    /// `place` puts the file into the store under the given name, complete and synced; it runs just
    /// before the commit, and may run again after a crash. `replace` likewise, where the stored file
    /// of a duplicate is missing or was found damaged.
    pub fn admit(
        &mut self,
        facts: &BundleFacts,
        policy: &AdmissionConfig,
        store: &Path,
        now: Nanos,
        mut place: impl FnMut(&str) -> io::Result<()>,
    ) -> Result<Decision, LedgerError> {
        let tx = self.begin()?;
        let chain = find_chain(&tx, &facts.chain)?;
        let known = known(&tx, &facts.chain, chain, facts.candidate.number)?;
        let admission = admit(&facts.candidate, &known, policy.number_jump_max);
        let decision = match admission {
            // The caller quarantines it, and counts it there.
            Admission::Refused(disorder) => return Ok(Decision::Refused(disorder)),
            Admission::Duplicate => {
                let chain = chain.ok_or(LedgerError::Row("a bundle without a chain"))?;
                let repaired = repair_stored(&tx, chain, facts, store, now, &mut place)?;
                let (detail, decision) = match repaired {
                    Repaired::Nothing => ("", Decision::Duplicate),
                    Repaired::Mended => ("mended the stored file", Decision::Duplicate),
                    Repaired::Restored => ("put back into the store", Decision::Restored),
                };
                note_arrival(&tx, facts, now)?;
                note_bundle(&tx, facts, Action::Duplicate, detail, now)?;
                count(&tx, "duplicate")?;
                decision
            }
            Admission::Fresh | Admission::FillsGap | Admission::Gap { .. } => {
                let chain = match chain {
                    Some(chain) => chain,
                    None => begin_chain(&tx, facts, known.latest_epoch, now)?,
                };
                insert(&tx, chain, facts, now)?;
                match admission {
                    Admission::Gap { first, last } => {
                        open_gap(&tx, chain, facts, (first, last), policy.gap, now)?;
                    }
                    Admission::FillsGap => fill_gap(&tx, chain, facts, now)?,
                    _ => {}
                }
                note_losses(&tx, chain, facts, now)?;
                check_record_chain(&tx, chain, facts, now)?;
                if facts.before.is_none() {
                    alarms::close(&tx, "silence", Some(facts.chain.origin.as_str()), now)?;
                    let lane = format!("{}/{}", facts.chain.origin, facts.chain.lane);
                    alarms::close(&tx, "silence", Some(&lane), now)?;
                    latency::note_skew(&tx, &facts.chain, facts.sealed, now)?;
                }
                note_arrival(&tx, facts, now)?;
                let before = facts.before.as_ref();
                let before =
                    before.map(|before| format!("{ANEW}{}; ", before.who_says)).unwrap_or_default();
                let detail = format!(
                    "{before}{}; sealed {}, {} records, signed by {}",
                    admission.code(),
                    facts.sealed,
                    facts.records,
                    facts.signer
                );
                note_bundle(&tx, facts, Action::Admitted, &detail, now)?;
                place(&facts.store_name()).map_err(LedgerError::Place)?;
                count(&tx, "admitted")?;
                Decision::Admitted(admission)
            }
        };
        count(&tx, "received")?;
        tx.commit()?;
        Ok(decision)
    }

    /// Whether this very bundle was admitted.
    pub fn knows_bundle(
        &self,
        chain: &ChainName,
        bundle: u64,
        digest: &BundleDigest,
    ) -> Result<bool, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT 1 FROM chain c JOIN bundle b ON b.chain = c.id
             WHERE c.origin = ?1 AND c.epoch = ?2 AND c.lane = ?3 AND b.number = ?4 AND b.digest = ?5",
        )?;
        let ChainName { origin, epoch, lane } = chain;
        let (epoch, bundle) = (int(epoch.0), int(bundle));
        Ok(statement.exists(params![
            origin.as_str(),
            epoch,
            lane.as_str(),
            bundle,
            digest.as_bytes()
        ])?)
    }

    /// Whether the store's file of this name has a row.
    pub fn knows_file(&self, file: &str) -> Result<bool, LedgerError> {
        let Ok(StoreName { chain, number, .. }) = file.parse() else { return Ok(false) };
        let mut statement = self.conn.prepare_cached(
            "SELECT 1 FROM chain c JOIN bundle b ON b.chain = c.id
             WHERE c.origin = ?1 AND c.epoch = ?2 AND c.lane = ?3 AND b.number = ?4 AND b.file = ?5",
        )?;
        let ChainName { origin, epoch, lane } = chain;
        Ok(statement.exists(params![
            origin.as_str(),
            int(epoch.0),
            lane.as_str(),
            int(number),
            file
        ])?)
    }

    /// The gaps, oldest first.
    pub fn gaps(&self) -> Result<Vec<OpenGap>, LedgerError> {
        self.newest_gaps(u32::MAX)
    }

    /// The gaps that were noticed last, at most so many, the oldest of these first.
    pub fn newest_gaps(&self, most: u32) -> Result<Vec<OpenGap>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT g.id, g.first, g.last, g.noticed_ns, g.passed_ns, c.origin, c.epoch, c.lane
             FROM (SELECT * FROM gap ORDER BY noticed_ns DESC, id DESC LIMIT ?1) g
             JOIN chain c ON c.id = g.chain ORDER BY g.noticed_ns, g.chain, g.first",
        )?;
        let rows = statement.query_map([most], |row| {
            Ok(OpenGap {
                id: row.get(0)?,
                first: uint(row.get(1)?),
                last: uint(row.get(2)?),
                noticed: Nanos(row.get(3)?).to_string(),
                passed: row.get::<_, Option<i64>>(4)?.map(|ns| Nanos(ns).to_string()),
                chain: chain_name(row, 5)?.to_string(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many gaps hold what is behind them, and how many were passed.
    pub fn gap_counts(&self) -> Result<(u64, u64), LedgerError> {
        let mut statement =
            self.conn.prepare_cached("SELECT count(*), count(passed_ns) FROM gap")?;
        let (all, passed) =
            statement.query_row([], |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?;
        Ok((all - passed, passed))
    }

    /// Hands every gap to `take`, chain by chain and in order of the numbers: the chain, its first and
    /// last number, and whether it was passed. Nothing is kept, so there may be any number of them.
    pub fn each_gap(&self, mut take: impl FnMut(&str, u64, u64, bool)) -> Result<(), LedgerError> {
        let chains = "SELECT DISTINCT c.id, c.origin, c.epoch, c.lane FROM gap g
                      JOIN chain c ON c.id = g.chain";
        let mut chains = self.conn.prepare_cached(chains)?;
        let mut gaps = self.conn.prepare_cached(
            "SELECT first, last, passed_ns IS NOT NULL FROM gap WHERE chain = ?1 ORDER BY first",
        )?;
        let mut of = chains.query([])?;
        while let Some(chain) = of.next()? {
            let name = chain_name(chain, 1)?.to_string();
            let mut rows = gaps.query([chain.get::<_, i64>(0)?])?;
            while let Some(gap) = rows.next()? {
                take(&name, uint(gap.get(0)?), uint(gap.get(1)?), gap.get(2)?);
            }
        }
        Ok(())
    }

    /// Lets what is behind the gaps go on to the sinks: one gap by its id, or all that have held for
    /// `longer_than`. Returns how many.
    pub fn pass_gaps(&mut self, which: PassGaps, now: Nanos) -> Result<usize, LedgerError> {
        // A look before the write lock is taken: this runs every second and finds nothing.
        let (id, noticed_before) = match which {
            PassGaps::One(id) => (Some(id), i64::MAX),
            PassGaps::NoticedBefore(time) => (None, time.0),
        };
        let condition = "g.passed_ns IS NULL AND g.noticed_ns <= ?1 AND (?2 IS NULL OR g.id = ?2)";
        let due = format!("SELECT 1 FROM gap g WHERE {condition}");
        if !self.conn.prepare_cached(&due)?.exists(params![noticed_before, id])? {
            return Ok(0);
        }
        let tx = self.begin()?;
        let due: Vec<(i64, ChainName, u64, u64)> = tx
            .prepare(&format!(
                "SELECT g.id, c.origin, c.epoch, c.lane, g.first, g.last
                 FROM gap g JOIN chain c ON c.id = g.chain WHERE {condition}"
            ))?
            .query_map(params![noticed_before, id], |row| {
                Ok((row.get(0)?, chain_name(row, 1)?, uint(row.get(4)?), uint(row.get(5)?)))
            })?
            .collect::<Result<_, _>>()?;
        for (id, chain, first, last) in &due {
            tx.execute("UPDATE gap SET passed_ns = ?1 WHERE id = ?2", params![now.0, id])?;
            let message = format!(
                "bundles {first} to {last} of {chain} have not come; the records behind them are delivered without them"
            );
            alarms::raise(&tx, "gap-passed", &chain.to_string(), &message, now)?;
            custody::note(&tx, CustodyEvent::new(now, Action::GapPassed).detail(message))?;
        }
        tx.commit()?;
        Ok(due.len())
    }
}

/// Which gaps to pass.
#[derive(Clone, Copy, Debug)]
pub enum PassGaps {
    /// The gap with this id.
    One(i64),
    /// Every gap noticed at this time or before.
    NoticedBefore(Nanos),
}

pub(super) fn find_chain(
    conn: &Connection,
    name: &ChainName,
) -> Result<Option<ChainId>, LedgerError> {
    Ok(conn
        .prepare_cached("SELECT id FROM chain WHERE origin = ?1 AND epoch = ?2 AND lane = ?3")?
        .query_row(params![name.origin.as_str(), int(name.epoch.0), name.lane.as_str()], |r| {
            r.get(0)
        })
        .optional()?)
}

fn known(
    tx: &Transaction<'_>,
    name: &ChainName,
    chain: Option<ChainId>,
    number: u64,
) -> Result<Known, LedgerError> {
    let latest_epoch: Option<i64> = tx
        .prepare_cached("SELECT max(epoch) FROM chain WHERE origin = ?1")?
        .query_row([name.origin.as_str()], |row| row.get(0))?;
    let latest_epoch = latest_epoch.map(|epoch| Epoch(uint(epoch)));
    let Some(chain) = chain else {
        return Ok(Known { latest_epoch, ..Known::default() });
    };
    let member = |condition: &str| -> Result<Option<Member>, LedgerError> {
        let sql = format!(
            "SELECT number, digest, previous, first_sequence, last_sequence
             FROM bundle WHERE chain = ?1 AND number {condition} LIMIT 1"
        );
        let found = tx.prepare_cached(&sql)?.query_row(params![chain, int(number)], |row| {
            Ok(Member {
                number: uint(row.get(0)?),
                digest: BundleDigest::from_bytes(row.get(1)?),
                previous: BundleDigest::from_bytes(row.get(2)?),
                first_sequence: uint(row.get(3)?),
                last_sequence: uint(row.get(4)?),
            })
        });
        Ok(found.optional()?)
    };
    let pruned: i64 = tx
        .prepare_cached("SELECT pruned_through FROM chain WHERE id = ?1")?
        .query_row([chain], |row| row.get(0))?;
    Ok(Known {
        latest_epoch,
        pruned_through: uint(pruned),
        same: member("= ?2")?,
        below: member("< ?2 ORDER BY number DESC")?,
        above: member("> ?2 ORDER BY number")?,
    })
}

/// When a bundle was heard of: now, or when it was admitted before. Where that is not known, when it was
/// sealed: it was not before that.
fn heard(facts: &BundleFacts, now: Nanos) -> Nanos {
    let before = facts.before.as_ref();
    before.map_or(now, |before| before.admitted.unwrap_or(facts.sealed)).min(now)
}

fn begin_chain(
    tx: &Transaction<'_>,
    facts: &BundleFacts,
    latest: Option<Epoch>,
    now: Nanos,
) -> Result<ChainId, LedgerError> {
    let name = &facts.chain;
    let heard = heard(facts, now).0;
    tx.prepare_cached("INSERT INTO chain (origin, epoch, lane, last_ns) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![name.origin.as_str(), int(name.epoch.0), name.lane.as_str(), heard])?;
    let id = tx.last_insert_rowid();
    if let Some(latest) = latest.filter(|latest| *latest < name.epoch) {
        let message = format!(
            "the buffer of {} was lost or restored: epoch {} began after {latest}; ask there what happened",
            name.origin, name.epoch
        );
        alarms::raise(tx, "epoch-began", name.origin.as_str(), &message, now)?;
    }
    Ok(id)
}

fn insert(
    tx: &Transaction<'_>,
    chain: ChainId,
    facts: &BundleFacts,
    now: Nanos,
) -> Result<(), LedgerError> {
    let BundleFacts { candidate, before, .. } = facts;
    let imported = before.as_ref().and_then(|before| before.admitted).unwrap_or(now).min(now);
    tx.prepare_cached(
        "INSERT INTO bundle (chain, number, digest, previous, first_sequence, last_sequence, records,
             lost_in_range, chain_before, chain_head, sealed_ns, imported_ns, signer, file, file_bytes,
             oldest_ns, newest_ns, file_sha256, stored_ns, known_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
    )?
    .execute(params![
        chain,
        int(candidate.number),
        candidate.digest.as_bytes(),
        candidate.previous.as_bytes(),
        int(candidate.first_sequence),
        int(candidate.last_sequence),
        int(facts.records),
        int(facts.lost_in_range),
        facts.chain_before.as_bytes(),
        facts.chain_head.as_bytes(),
        facts.sealed.0,
        imported.0,
        facts.signer,
        facts.store_name(),
        int(facts.file_bytes),
        facts.received.map(|(oldest, _)| oldest.0),
        facts.received.map(|(_, newest)| newest.0),
        facts.arrival.as_ref().map(|arrival| arrival.file.sha256.as_bytes()),
        now.0,
        before.as_ref().map(Before::known_by),
    ])?;
    removed::count_stored(tx, facts.file_bytes)?;
    archived::make_due(tx, chain, candidate.number, now)?;
    let kept = facts.streams.iter().map(|count| (count.stream, "", count.records, count.bytes));
    let suppressed = facts
        .suppressed
        .iter()
        .map(|count| (count.stream, count.rule.as_str(), count.records, count.bytes));
    for (stream, rule, records, bytes) in kept.chain(suppressed) {
        let mut tally = tx.prepare_cached("INSERT INTO tally VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        let number = int(candidate.number);
        tally.execute(params![chain, number, stream.as_str(), rule, int(records), int(bytes)])?;
    }
    let suppressed = facts.suppressed.iter().fold(0, |sum: u64, c| sum.saturating_add(c.records));
    tx.prepare_cached(
        "UPDATE chain SET bundles = bundles + 1, records = records + ?2, lost_in_range = lost_in_range + ?3,
             last_sequence = max(last_sequence, ?4), last_ns = max(?5, CASE WHEN ?7 THEN last_ns ELSE ?5 END), suppressed = suppressed + ?6
         WHERE id = ?1",
    )?
    .execute(params![
        chain,
        int(facts.records),
        int(facts.lost_in_range),
        int(candidate.last_sequence),
        heard(facts, now).0,
        int(suppressed),
        before.is_some()
    ])?;
    Ok(())
}

fn open_gap(
    tx: &Transaction<'_>,
    chain: ChainId,
    facts: &BundleFacts,
    (first, last): (u64, u64),
    policy: GapPolicy,
    now: Nanos,
) -> Result<(), LedgerError> {
    let passed = (policy == GapPolicy::Pass).then_some(now.0);
    tx.prepare_cached(
        "INSERT INTO gap (chain, first, last, noticed_ns, passed_ns) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![chain, int(first), int(last), now.0, passed])?;
    let what = if passed.is_some() { "are delivered all the same" } else { "wait for them" };
    let message = format!(
        "bundles {first} to {last} of {} have not come; the records behind them {what}",
        facts.chain
    );
    alarms::raise(tx, "gap", &facts.chain.to_string(), &message, now)
}

/// Takes the number out of the gap that holds it: the gap ends, shrinks or splits.
fn fill_gap(
    tx: &Transaction<'_>,
    chain: ChainId,
    facts: &BundleFacts,
    now: Nanos,
) -> Result<(), LedgerError> {
    let number = int(facts.candidate.number);
    let (id, first, last): (i64, i64, i64) = tx
        .prepare_cached(
            "SELECT id, first, last FROM gap WHERE chain = ?1 AND first <= ?2 AND last >= ?2",
        )?
        .query_row(params![chain, number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?
        .ok_or(LedgerError::Row("a bundle is missing, and no gap says so"))?;
    if number < last {
        tx.prepare_cached(
            "INSERT INTO gap (chain, first, last, noticed_ns, passed_ns)
             SELECT chain, ?2, last, noticed_ns, passed_ns FROM gap WHERE id = ?1",
        )?
        .execute(params![id, number + 1])?;
    }
    if number > first {
        tx.prepare_cached("UPDATE gap SET last = ?2 WHERE id = ?1")?
            .execute(params![id, number - 1])?;
    } else {
        tx.prepare_cached("DELETE FROM gap WHERE id = ?1")?.execute([id])?;
    }
    if !tx.prepare_cached("SELECT 1 FROM gap WHERE chain = ?1")?.exists([chain])? {
        let subject = facts.chain.to_string();
        alarms::close(tx, "gap", Some(&subject), now)?;
        alarms::close(tx, "gap-passed", Some(&subject), now)?;
    }
    Ok(())
}

fn note_losses(
    tx: &Transaction<'_>,
    chain: ChainId,
    facts: &BundleFacts,
    now: Nanos,
) -> Result<(), LedgerError> {
    for loss in &facts.losses {
        let range = loss.range.map(|(first, last)| (int(first.0), int(last.0)));
        tx.prepare_cached("INSERT INTO loss VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
            .execute(params![
                chain,
                int(facts.candidate.number),
                loss.reason.as_str(),
                loss.listener,
                int(loss.count),
                loss.from.0,
                loss.to.0,
                range.map(|range| range.0),
                range.map(|range| range.1),
            ])?;
        let message = format!(
            "{} lost {} records ({}) and says so in bundle {}",
            facts.chain, loss.count, loss.reason, facts.candidate.number
        );
        alarms::raise(
            tx,
            "loss-declared",
            &format!("{}/{}", facts.chain, loss.reason),
            &message,
            now,
        )?;
    }
    Ok(())
}

/// The hash chain over the buffer's rows must run on from one bundle to the next. Where it does not,
/// rows were changed or taken out on the high side: the bundle is authentic, so it is admitted, and
/// the operator is told.
fn check_record_chain(
    tx: &Transaction<'_>,
    chain: ChainId,
    facts: &BundleFacts,
    now: Nanos,
) -> Result<(), LedgerError> {
    let broken = tx
        .prepare_cached(
            "SELECT 1 FROM bundle WHERE chain = ?1 AND number IN (?2 - 1, ?2 + 1)
                 AND CASE WHEN number < ?2 THEN chain_head <> ?3 ELSE chain_before <> ?4 END",
        )?
        .exists(params![
            chain,
            int(facts.candidate.number),
            facts.chain_before.as_bytes(),
            facts.chain_head.as_bytes()
        ])?;
    if broken {
        let message = format!(
            "the hash chain over the records of {} does not run on at bundle {}: rows were changed or removed in the buffer there",
            facts.chain, facts.candidate.number
        );
        alarms::raise(tx, "record-chain-broken", &facts.chain.to_string(), &message, now)?;
    }
    Ok(())
}

/// What a duplicate did to the store.
enum Repaired {
    Nothing,
    Mended,
    Restored,
}

/// A duplicate mends a stored file that is missing, has another length, or was found damaged. One that
/// has left the store after its time is put back where an operator brings it: a link that sends it again
/// must not undo that.
fn repair_stored(
    tx: &Transaction<'_>,
    chain: ChainId,
    facts: &BundleFacts,
    store: &Path,
    now: Nanos,
    place: &mut impl FnMut(&str) -> io::Result<()>,
) -> Result<Repaired, LedgerError> {
    let number = int(facts.candidate.number);
    let (file, bytes, damaged, stored): (String, i64, bool, Option<i64>) = tx
        .prepare_cached(
            "SELECT file, file_bytes, damaged, stored_ns FROM bundle WHERE chain = ?1 AND number = ?2",
        )?
        .query_row(params![chain, number], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
    let repaired = if stored.is_none() {
        if !facts.restores {
            return Ok(Repaired::Nothing);
        }
        removed::count_stored(tx, facts.file_bytes)?;
        archived::make_due_again(tx, chain, facts.candidate.number, now)?;
        Repaired::Restored
    } else {
        let stored = std::fs::symlink_metadata(store.join(&file));
        let whole =
            stored.as_ref().is_ok_and(|stored| stored.is_file() && stored.len() == uint(bytes));
        if whole && !damaged {
            return Ok(Repaired::Nothing);
        }
        if stored.is_err_and(|err| err.kind() == io::ErrorKind::NotFound) {
            rebuilt::count_found(tx, uint(bytes))?;
        }
        removed::count_changed(tx, uint(bytes), facts.file_bytes)?;
        Repaired::Mended
    };
    place(&file).map_err(LedgerError::Place)?;
    // A sink that has taken all of it never reads it again, and could not say that this is over.
    for code in [STORE_DAMAGED, STORE_UNREADABLE] {
        alarms::close(tx, code, Some(&file), now)?;
    }
    let sha256 = facts.arrival.as_ref().map(|arrival| arrival.file.sha256);
    tx.execute(
        "UPDATE bundle SET damaged = 0, file_sha256 = ?3, file_bytes = ?4, stored_ns = coalesce(stored_ns, ?5)
         WHERE chain = ?1 AND number = ?2",
        params![
            chain,
            number,
            sha256.as_ref().map(BundleDigest::as_bytes),
            int(facts.file_bytes),
            now.0
        ],
    )?;
    Ok(repaired)
}

/// How a bundle's file came, where that is known.
fn note_arrival(tx: &Transaction<'_>, facts: &BundleFacts, now: Nanos) -> Result<(), LedgerError> {
    let Some(arrival) = &facts.arrival else { return Ok(()) };
    let bundle = bundle_of(&facts.chain, facts.candidate.number, facts.candidate.digest);
    let event = CustodyEvent::new(now, Action::Received)
        .bundle(bundle)
        .file(arrival.file.clone())
        .detail(arrival.source.as_str());
    custody::note(tx, event)
}

fn note_bundle(
    tx: &Transaction<'_>,
    facts: &BundleFacts,
    action: Action,
    detail: &str,
    now: Nanos,
) -> Result<(), LedgerError> {
    let bundle = bundle_of(&facts.chain, facts.candidate.number, facts.candidate.digest);
    custody::note(tx, CustodyEvent::new(now, action).bundle(bundle).detail(detail))
}

/// Adds one to a counter.
pub(super) fn count(tx: &Transaction<'_>, name: &str) -> Result<(), LedgerError> {
    add(tx, name, 1)
}

pub(super) fn add(tx: &Transaction<'_>, name: &str, amount: i64) -> Result<(), LedgerError> {
    tx.prepare_cached(
        "INSERT INTO counter VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = value + ?2",
    )?
    .execute(params![name, amount])?;
    Ok(())
}
