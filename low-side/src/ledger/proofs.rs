//! What archives are known to hold of a period, and what each run of `archive verify` found.

use std::fmt::Write as _;

use rusqlite::{OptionalExtension, Row, params};
use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::custody::{Action, CustodyEvent, CustodyFile};

use super::evidence::IN_PERIOD;
use super::{ArchiveId, Ledger, LedgerError, custody, int, uint};

/// A run of `archive verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofRun {
    /// When it ended.
    pub at: Nanos,
    /// `good`, `unproven` or `bad`.
    pub verdict: String,
    /// What the tries to break the lock came to: `holds`, `unknown` or `broken`; nothing where none
    /// were made.
    pub lock: Option<String>,
    /// Whether every object was read back.
    pub whole: bool,
    /// Whether every object was looked at.
    pub every: bool,
    /// Objects that were looked at.
    pub looked_at: u64,
    /// What was wrong, by number.
    pub findings: u64,
    /// Objects that the archive did not show, however often it was asked.
    pub unanswered: u64,
    /// Objects that were gone after their lock had ended.
    pub gone: u64,
    /// The name of its report among the kept ones.
    pub file: String,
    /// The SHA-256 of its report.
    pub sha256: BundleDigest,
}

/// An archive that the agent has or had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownArchive {
    /// Its identity.
    pub id: ArchiveId,
    /// Its name.
    pub name: String,
    /// Whether the agent has it now.
    pub active: bool,
}

/// What is known of an archive's part of a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveInPeriod {
    /// Bundles that it holds.
    pub archived: u64,
    /// Of these, those that it holds without a lock.
    pub unlocked: u64,
    /// When the first lock of these ends.
    pub locked_until: Option<Nanos>,
    /// Bundles that it has yet to take.
    pub waiting: u64,
    /// Of these, bundles that could not be archived when they were last tried.
    pub refused: u64,
    /// Bundles of the store that it neither holds nor is to take.
    pub neither: u64,
    /// Bundles that it does not hold, and that have left the store.
    pub removed: u64,
}

impl Ledger {
    /// Notes a run of `archive verify`, here and in the custody log.
    pub fn note_proof(
        &mut self,
        archive: ArchiveId,
        name: &str,
        run: &ProofRun,
        bytes: u64,
    ) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        tx.execute(
            "INSERT INTO archive_proof (archive, at_ns, verdict, lock, whole, looked_at, findings, file, sha256,
                 every, unanswered, gone)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                archive,
                run.at.0,
                run.verdict,
                run.lock,
                run.whole,
                int(run.looked_at),
                int(run.findings),
                run.file,
                run.sha256.as_bytes(),
                run.every,
                int(run.unanswered),
                int(run.gone)
            ],
        )?;
        let lock = run.lock.as_deref().unwrap_or("not tried");
        let file = CustodyFile { name: run.file.clone(), sha256: run.sha256, bytes };
        let mut detail = format!(
            "archive {name}: {}, lock {lock}, {} objects looked at, {} findings",
            run.verdict, run.looked_at, run.findings
        );
        for (count, what) in [(run.unanswered, "not shown"), (run.gone, "gone after their lock")] {
            if count > 0 {
                let _ = write!(detail, ", {count} {what}");
            }
        }
        let event = CustodyEvent::new(run.at, Action::ArchiveVerified).file(file).detail(detail);
        custody::note(&tx, event)?;
        Ok(tx.commit()?)
    }

    /// The newest run of `archive verify` of this sort.
    pub fn last_proof(
        &self,
        archive: ArchiveId,
        lock: LastProof,
    ) -> Result<Option<ProofRun>, LedgerError> {
        let condition = match lock {
            LastProof::Any => "1",
            // What a run found stands until a later one that saw as much found nothing.
            LastProof::Found => {
                "findings > 0 AND NOT EXISTS (SELECT 1 FROM archive_proof later
                     WHERE later.archive = p.archive AND (later.at_ns, later.id) > (p.at_ns, p.id)
                         AND later.findings = 0 AND later.unanswered = 0
                         AND later.every AND later.whole >= p.whole)"
            }
            LastProof::Tried => "lock IS NOT NULL",
            LastProof::Held => "lock = 'holds'",
        };
        let sql = format!(
            "SELECT {RUN} FROM archive_proof p
             WHERE archive = ?1 AND {condition} ORDER BY at_ns DESC, id DESC LIMIT 1"
        );
        Ok(self.conn.prepare_cached(&sql)?.query_row([archive], run_row).optional()?)
    }

    /// Every archive that the agent has or had, by name.
    pub fn known_archives(&self) -> Result<Vec<KnownArchive>, LedgerError> {
        let mut statement =
            self.conn.prepare_cached("SELECT id, name, active FROM archive ORDER BY name")?;
        let rows = statement.query_map([], |row| {
            Ok(KnownArchive { id: row.get(0)?, name: row.get(1)?, active: row.get(2)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What is known of an archive's part of a period.
    pub fn archive_in_period(
        &self,
        archive: &KnownArchive,
        (from, to): (Nanos, Nanos),
    ) -> Result<ArchiveInPeriod, LedgerError> {
        let sql = format!(
            "SELECT count(x.number), coalesce(sum(x.number IS NOT NULL AND x.retain_until_ns IS NULL), 0),
                 min(x.retain_until_ns), count(d.number),
                 coalesce(sum(d.number IS NOT NULL AND EXISTS (SELECT 1 FROM alarm a
                     WHERE a.code = 'archive-conflict' AND a.subject = ?4 || '/' || b.file
                         AND a.closed_ns IS NULL AND a.acknowledged_ns IS NULL)), 0),
                 coalesce(sum(x.number IS NULL AND d.number IS NULL AND b.stored_ns IS NOT NULL), 0),
                 coalesce(sum(x.number IS NULL AND b.stored_ns IS NULL), 0)
             FROM bundle b
             LEFT JOIN archived x ON x.archive = ?3 AND x.chain = b.chain AND x.number = b.number
             LEFT JOIN archive_due d ON d.archive = ?3 AND d.chain = b.chain AND d.number = b.number
             WHERE {IN_PERIOD}"
        );
        let period = params![from.0, to.0, archive.id, archive.name];
        Ok(self.conn.prepare_cached(&sql)?.query_row(period, |row| {
            Ok(ArchiveInPeriod {
                archived: uint(row.get(0)?),
                unlocked: uint(row.get(1)?),
                locked_until: row.get::<_, Option<i64>>(2)?.map(Nanos),
                waiting: uint(row.get(3)?),
                refused: uint(row.get(4)?),
                neither: uint(row.get(5)?),
                removed: uint(row.get(6)?),
            })
        })?)
    }

    /// Whether an alarm of this code and subject stands.
    pub fn alarm_stands(&self, code: &str, subject: &str) -> Result<bool, LedgerError> {
        let sql = "SELECT 1 FROM alarm
             WHERE code = ?1 AND subject = ?2 AND closed_ns IS NULL AND acknowledged_ns IS NULL";
        Ok(self.conn.prepare_cached(sql)?.exists([code, subject])?)
    }
}

/// Which run is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastProof {
    /// Any.
    Any,
    /// One that found something wrong, where no later one that looked at every object, and read them where this
    /// one did, found nothing.
    Found,
    /// One in which the lock held.
    Held,
    /// One that tried the lock.
    Tried,
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<ProofRun> {
    Ok(ProofRun {
        at: Nanos(row.get(0)?),
        verdict: row.get(1)?,
        lock: row.get(2)?,
        whole: row.get(3)?,
        looked_at: uint(row.get(4)?),
        findings: uint(row.get(5)?),
        file: row.get(6)?,
        sha256: BundleDigest::from_bytes(row.get(7)?),
        every: row.get(8)?,
        unanswered: uint(row.get(9)?),
        gone: uint(row.get(10)?),
    })
}

/// The columns that [`run_row`] reads.
const RUN: &str =
    "at_ns, verdict, lock, whole, looked_at, findings, file, sha256, every, unanswered, gone";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Keeping;

    #[test]
    fn what_a_run_found_stands_until_one_that_saw_as_much_finds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let keeping = [Keeping { name: "worm", before: false }];
        let id = ledger.set_archives(&keeping, Nanos(0)).unwrap()[0];
        let mut at = 0;
        let mut run = |whole: bool, every: bool, findings: u64, unanswered: u64| {
            at += 1;
            let run = ProofRun {
                at: Nanos(at),
                verdict: "said elsewhere".to_owned(),
                lock: None,
                whole,
                every,
                looked_at: 3,
                findings,
                unanswered,
                gone: 0,
                file: format!("{at}.json"),
                sha256: BundleDigest::ZERO,
            };
            ledger.note_proof(id, "worm", &run, 1).unwrap();
            let found = ledger.last_proof(id, LastProof::Found).unwrap();
            assert_eq!(ledger.last_proof(id, LastProof::Any).unwrap(), Some(run));
            found.map(|found| found.at.0)
        };
        assert_eq!(run(true, true, 0, 0), None);
        assert_eq!(run(true, true, 2, 0), Some(2), "all were read, and two are wrong");
        assert_eq!(run(false, true, 0, 0), Some(2), "all were looked at, and not read");
        assert_eq!(run(false, false, 0, 0), Some(2), "some were looked at");
        assert_eq!(run(true, true, 0, 1), Some(2), "one was not shown");
        assert_eq!(run(true, true, 0, 0), None, "all were read, and nothing is wrong");
        assert_eq!(run(false, false, 1, 0), Some(7));
        assert_eq!(run(false, false, 0, 0), Some(7), "others were looked at");
        assert_eq!(run(false, true, 0, 0), None);
    }
}
