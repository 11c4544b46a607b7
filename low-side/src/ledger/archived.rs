//! What archives hold, and what they have yet to take.
//!
//! A bundle becomes due for every active archive in the transaction that admits it, and stops being due
//! in the one that notes where it is kept. Replay looks at what is due for archives that come before it.
//! Invariant: what an active archive does not hold never leaves the store (`removed`).

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::custody::{Action, CustodyEvent, CustodyFile};

use super::custody::{self, bundle_of};
use super::{AdmittedBundle, ChainId, ChainName, Ledger, LedgerError, chain_name, int, uint};

/// The identity of an archive inside one ledger.
pub type ArchiveId = i64;

/// An archive of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether records wait until it holds their bundle.
    pub before: bool,
}

/// A bundle that an archive has yet to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueBundle {
    /// The bundle.
    pub bundle: AdmittedBundle,
    /// Its chain.
    pub chain: ChainName,
    /// The SHA-256 of its whole file, where it is known.
    pub sha256: Option<BundleDigest>,
    /// When it was admitted.
    pub admitted: Nanos,
}

/// Where an archive keeps a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptObject {
    /// Its name there.
    pub key: String,
    /// The version that was locked; empty where the archive knows none.
    pub version: String,
    /// The SHA-256 of the file.
    pub sha256: BundleDigest,
    /// The length of the file.
    pub bytes: u64,
    /// Until when it can't be removed; nothing where the archive can't promise that.
    pub retain_until: Option<Nanos>,
}

/// A bundle that an archive holds, and what the ledger knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedBundle {
    /// Its chain.
    pub chain: ChainName,
    /// The chain's identity.
    pub chain_id: ChainId,
    /// Its number.
    pub number: u64,
    /// Its identity; nothing where the ledger has forgotten it.
    pub digest: Option<BundleDigest>,
    /// The identity of the one before it.
    pub previous: Option<BundleDigest>,
    /// The name of its file in the store.
    pub file: String,
    /// Where it is kept.
    pub object: KeptObject,
    /// When that was noted.
    pub at: Nanos,
}

/// How an archive does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchiveSum {
    /// Its name.
    pub name: String,
    /// Whether records wait until it holds their bundle.
    pub before: bool,
    /// Bundles that it holds.
    pub archived: u64,
    /// The bytes of these.
    pub bytes: u64,
    /// Bundles that it has yet to take.
    pub waiting: u64,
    /// When the first of these was admitted, RFC 3339.
    pub waiting_since: Option<String>,
}

impl Ledger {
    /// Tells the ledger which archives there are. Everything in the store is due for one that is new, or
    /// is back; nothing is due any more for one that is gone. Gives their identities, in this order.
    pub fn set_archives(
        &mut self,
        archives: &[Keeping<'_>],
        now: Nanos,
    ) -> Result<Vec<ArchiveId>, LedgerError> {
        let tx = self.begin()?;
        let mut ids = Vec::new();
        for Keeping { name, before } in archives {
            let known: Option<(ArchiveId, bool)> = tx
                .query_row("SELECT id, active FROM archive WHERE name = ?1", [name], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            tx.execute(
                "INSERT INTO archive (name, active, before) VALUES (?1, 1, ?2)
                 ON CONFLICT (name) DO UPDATE SET active = 1, before = ?2",
                params![name, before],
            )?;
            let id = match known {
                Some((id, _)) => id,
                None => tx.last_insert_rowid(),
            };
            if !known.is_some_and(|(_, active)| active) {
                tx.execute(
                    "INSERT OR IGNORE INTO archive_due
                     SELECT ?1, b.chain, b.number, ?2 FROM bundle b
                     WHERE b.stored_ns IS NOT NULL AND NOT EXISTS
                         (SELECT 1 FROM archived x
                          WHERE x.archive = ?1 AND x.chain = b.chain AND x.number = b.number)",
                    params![id, now.0],
                )?;
            }
            ids.push(id);
        }
        let gone: Vec<ArchiveId> = tx
            .prepare("SELECT id FROM archive WHERE active")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for id in gone.into_iter().filter(|id| !ids.contains(id)) {
            tx.execute("UPDATE archive SET active = 0, before = 0 WHERE id = ?1", [id])?;
            tx.execute("DELETE FROM archive_due WHERE archive = ?1", [id])?;
        }
        tx.commit()?;
        Ok(ids)
    }

    /// The bundle that an archive takes next: of the flash lane first, in a chain by number, else the one
    /// that has waited longest. `pass_over` names those that can't be taken now.
    pub fn next_due(
        &self,
        archive: ArchiveId,
        pass_over: &dyn Fn(ChainId, u64) -> bool,
    ) -> Result<Option<DueBundle>, LedgerError> {
        let mut first = self.conn.prepare_cached(
            "SELECT d.number, d.since_ns FROM archive_due d
             WHERE d.archive = ?1 AND d.chain = ?2 AND d.number > ?3 ORDER BY d.number LIMIT 1",
        )?;
        let mut chains = self.conn.prepare_cached("SELECT id, lane <> 'flash' FROM chain")?;
        let mut best: Option<(bool, i64, ChainId, i64)> = None;
        let mut rows = chains.query([])?;
        while let Some(row) = rows.next()? {
            let (chain, late): (ChainId, bool) = (row.get(0)?, row.get(1)?);
            let mut after = 0;
            let found = loop {
                let found: Option<(i64, i64)> = first
                    .query_row(params![archive, chain, after], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                match found {
                    Some((number, _)) if pass_over(chain, uint(number)) => after = number,
                    found => break found,
                }
            };
            if let Some((number, since)) = found {
                let candidate = (late, since, chain, number);
                best = Some(best.map_or(candidate, |best| best.min(candidate)));
            }
        }
        let Some((_, _, chain, number)) = best else { return Ok(None) };
        let mut statement = self.conn.prepare_cached(
            "SELECT b.digest, b.first_sequence, b.last_sequence, b.file, b.file_sha256, b.imported_ns,
                 c.origin, c.epoch, c.lane
             FROM bundle b JOIN chain c ON c.id = b.chain WHERE b.chain = ?1 AND b.number = ?2",
        )?;
        let due = statement.query_row(params![chain, number], |row| {
            Ok(DueBundle {
                bundle: AdmittedBundle {
                    chain,
                    number: uint(number),
                    digest: BundleDigest::from_bytes(row.get(0)?),
                    first_sequence: uint(row.get(1)?),
                    last_sequence: uint(row.get(2)?),
                    file: row.get(3)?,
                    anew: false,
                },
                sha256: row.get::<_, Option<[u8; 32]>>(4)?.map(BundleDigest::from_bytes),
                admitted: Nanos(row.get(5)?),
                chain: chain_name(row, 6)?,
            })
        });
        due.optional()?
            .map_or(Err(LedgerError::Row("a bundle is due that is not there")), |due| Ok(Some(due)))
    }

    /// Notes where an archive keeps a bundle, which is not due any more; `place` is for people.
    pub fn note_archived(
        &mut self,
        archive: ArchiveId,
        due: &DueBundle,
        object: &KeptObject,
        place: &str,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        let (chain, number) = (due.bundle.chain, int(due.bundle.number));
        tx.prepare_cached("INSERT INTO archived VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
            .execute(params![
                archive,
                chain,
                number,
                object.key,
                object.version,
                object.sha256.as_bytes(),
                int(object.bytes),
                object.retain_until.map(|time| time.0),
                now.0
            ])?;
        tx.prepare_cached(
            "DELETE FROM archive_due WHERE archive = ?1 AND chain = ?2 AND number = ?3",
        )?
        .execute(params![archive, chain, number])?;
        tx.prepare_cached(
            "UPDATE archive SET bundles = bundles + 1, bytes = bytes + ?2 WHERE id = ?1",
        )?
        .execute(params![archive, int(object.bytes)])?;
        let file = CustodyFile {
            name: due.bundle.file.clone(),
            sha256: object.sha256,
            bytes: object.bytes,
        };
        let version = match object.version.as_str() {
            "" => String::new(),
            version => format!(" version {version}"),
        };
        let lock = match object.retain_until {
            Some(until) => format!("locked until {until}"),
            None => "without a lock".to_owned(),
        };
        let bundle = bundle_of(&due.chain, due.bundle.number, due.bundle.digest);
        let event = CustodyEvent::new(now, Action::Archived)
            .bundle(bundle)
            .file(file)
            .detail(format!("at {place}{version}, {lock}"));
        custody::note(&tx, event)?;
        Ok(tx.commit()?)
    }

    /// How the active archives do, by name.
    pub fn archive_sums(&self) -> Result<Vec<ArchiveSum>, LedgerError> {
        archive_sums(&self.conn)
    }

    /// How many bundles of the store an archive neither holds nor is to take.
    pub fn archive_unaccounted(&self, archive: ArchiveId) -> Result<u64, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT count(*) FROM bundle b
             WHERE b.stored_ns IS NOT NULL AND NOT EXISTS (SELECT 1 FROM archived x
                     WHERE x.archive = ?1 AND x.chain = b.chain AND x.number = b.number)
                 AND NOT EXISTS (SELECT 1 FROM archive_due d
                     WHERE d.archive = ?1 AND d.chain = b.chain AND d.number = b.number)",
        )?;
        Ok(uint(statement.query_row([archive], |row| row.get(0))?))
    }

    /// The identity of an archive that the agent has or had.
    pub fn archive_id(&self, name: &str) -> Result<Option<ArchiveId>, LedgerError> {
        let mut statement = self.conn.prepare_cached("SELECT id FROM archive WHERE name = ?1")?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?)
    }

    /// What an archive holds, behind this place of the list, by chain and number; at most [`PAGE`].
    pub fn archived(
        &self,
        archive: ArchiveId,
        (chain, number): (ChainId, u64),
    ) -> Result<Vec<ArchivedBundle>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT c.origin, c.epoch, c.lane, x.chain, x.number, b.digest, b.previous, x.key,
                 x.version, x.sha256, x.bytes, x.retain_until_ns, x.at_ns
             FROM archived x JOIN chain c ON c.id = x.chain
             LEFT JOIN bundle b ON b.chain = x.chain AND b.number = x.number
             WHERE x.archive = ?1 AND (x.chain, x.number) > (?2, ?3)
             ORDER BY x.chain, x.number LIMIT ?4",
        )?;
        let from = params![archive, chain, int(number), int(PAGE as u64)];
        let rows = statement.query_map(from, archived_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The same, of those whose records were received in a period.
    pub fn archived_of_period(
        &self,
        archive: ArchiveId,
        (from, to): (Nanos, Nanos),
        (chain, number): (ChainId, u64),
    ) -> Result<Vec<ArchivedBundle>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT c.origin, c.epoch, c.lane, x.chain, x.number, b.digest, b.previous, x.key,
                 x.version, x.sha256, x.bytes, x.retain_until_ns, x.at_ns
             FROM archived x JOIN chain c ON c.id = x.chain
             JOIN bundle b ON b.chain = x.chain AND b.number = x.number
             WHERE x.archive = ?1 AND (x.chain, x.number) > (?2, ?3)
                 AND coalesce(b.newest_ns, b.sealed_ns) >= ?5 AND coalesce(b.oldest_ns, b.sealed_ns) < ?6
             ORDER BY x.chain, x.number LIMIT ?4",
        )?;
        let period = params![archive, chain, int(number), int(PAGE as u64), from.0, to.0];
        let rows = statement.query_map(period, archived_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One of them.
    pub fn archived_bundle(
        &self,
        archive: ArchiveId,
        chain: ChainId,
        number: u64,
    ) -> Result<Option<ArchivedBundle>, LedgerError> {
        let before = number.saturating_sub(1);
        let page = self.archived(archive, (chain, before))?;
        Ok(page.into_iter().next().filter(|one| one.chain_id == chain && one.number == number))
    }
}

fn archived_row(row: &Row<'_>) -> rusqlite::Result<ArchivedBundle> {
    let chain = chain_name(row, 0)?;
    let key: String = row.get(7)?;
    let digest = |column| -> rusqlite::Result<Option<BundleDigest>> {
        Ok(row.get::<_, Option<[u8; 32]>>(column)?.map(BundleDigest::from_bytes))
    };
    Ok(ArchivedBundle {
        chain_id: row.get(3)?,
        number: uint(row.get(4)?),
        digest: digest(5)?,
        previous: digest(6)?,
        // The last part of the key is the file's name in the store.
        file: key.rsplit('/').next().unwrap_or_default().to_owned(),
        object: KeptObject {
            version: row.get(8)?,
            sha256: BundleDigest::from_bytes(row.get(9)?),
            bytes: uint(row.get(10)?),
            retain_until: row.get::<_, Option<i64>>(11)?.map(Nanos),
            key,
        },
        at: Nanos(row.get(12)?),
        chain,
    })
}

/// The bundle is due for every active archive.
pub(super) fn make_due(
    tx: &Transaction<'_>,
    chain: ChainId,
    number: u64,
    now: Nanos,
) -> Result<(), LedgerError> {
    tx.prepare_cached("INSERT INTO archive_due SELECT id, ?1, ?2, ?3 FROM archive WHERE active")?
        .execute(params![chain, int(number), now.0])?;
    Ok(())
}

/// The bundle is in the store again: it is due for every active archive that does not hold it.
pub(super) fn make_due_again(
    tx: &Transaction<'_>,
    chain: ChainId,
    number: u64,
    now: Nanos,
) -> Result<(), LedgerError> {
    tx.prepare_cached(
        "INSERT OR IGNORE INTO archive_due SELECT id, ?1, ?2, ?3 FROM archive a
         WHERE active AND NOT EXISTS (SELECT 1 FROM archived x
             WHERE x.archive = a.id AND x.chain = ?1 AND x.number = ?2)",
    )?
    .execute(params![chain, int(number), now.0])?;
    Ok(())
}

pub(super) fn archive_sums(conn: &Connection) -> Result<Vec<ArchiveSum>, LedgerError> {
    let mut statement = conn.prepare_cached(
        "SELECT a.name, a.before, a.bundles, a.bytes, count(d.number), min(d.since_ns)
         FROM archive a LEFT JOIN archive_due d ON d.archive = a.id
         WHERE a.active GROUP BY a.id ORDER BY a.name",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(ArchiveSum {
            name: row.get(0)?,
            before: row.get(1)?,
            archived: uint(row.get(2)?),
            bytes: uint(row.get(3)?),
            waiting: uint(row.get(4)?),
            waiting_since: row.get::<_, Option<i64>>(5)?.map(|ns| Nanos(ns).to_string()),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// As many rows are read at once.
pub const PAGE: usize = 500;

#[cfg(test)]
mod tests {
    use shared::record::Lane;

    use super::*;
    use crate::import::Outcome;
    use crate::ledger::KeptFor;
    use crate::testing::{Chain, START, Site};

    fn kept(due: &DueBundle) -> KeptObject {
        KeptObject {
            key: format!("x/{}", due.bundle.file()),
            version: "v1".to_owned(),
            sha256: due.sha256.unwrap(),
            bytes: 7,
            retain_until: Some(START),
        }
    }

    fn import(site: &Site, chain: &mut Chain) {
        let file = site.seal(chain, &["one", "two"]);
        let outcome =
            site.importer().import(&file, crate::import::Sidecar::Absent, |_| {}).unwrap();
        assert!(matches!(outcome, Outcome::Admitted { .. }), "{outcome:?}");
    }

    #[test]
    fn records_wait_for_an_archive_that_comes_first_and_for_no_other() {
        let site = Site::new();
        let mut ledger = site.ledger();
        let mut chain = Chain::new(1, Lane::Routine);
        import(&site, &mut chain);
        let worm = Keeping { name: "worm", before: true };
        let copy = Keeping { name: "copy", before: false };
        // What was there before an archive was is due, too.
        let ids = ledger.set_archives(&[worm, copy], START).unwrap();
        import(&site, &mut chain);
        let sink = ledger.sink("siem").unwrap();
        let next = |ledger: &Ledger| {
            let chains = ledger.pending_chains(sink).unwrap();
            let taken = ledger.delivered(sink, chains[0].id).unwrap();
            ledger.next_bundle(&chains[0], &taken).unwrap().map(|(bundle, _)| bundle.number())
        };
        let none = |_, _| false;
        assert_eq!(next(&ledger), None);
        let due = ledger.next_due(ids[0], &none).unwrap().unwrap();
        assert_eq!(due.bundle.number(), 1);
        ledger.note_archived(ids[0], &due, &kept(&due), "there", START).unwrap();
        assert_eq!(next(&ledger), Some(1));
        // The other archive has not taken it: it must stay in the store all the same.
        let stored = ledger.stored_behind((Nanos(0), 0, 0), 1).unwrap().remove(0);
        assert_eq!(ledger.needed(&stored, &[]).unwrap(), Some(KeptFor::Archive));
        let passed = |_, number| number == 2;
        assert_eq!(ledger.next_due(ids[0], &passed).unwrap(), None);
        let sums = ledger.archive_sums().unwrap();
        assert_eq!(
            sums.iter().map(|sum| (sum.archived, sum.waiting)).collect::<Vec<_>>(),
            [(0, 2), (1, 1)]
        );

        // Gone from the configuration: nothing waits for it; back again: only what it lacks is due.
        ledger.set_archives(&[], START).unwrap();
        assert_eq!(next(&ledger), Some(1));
        assert_eq!(ledger.needed(&stored, &[]).unwrap(), Some(KeptFor::NothingElse));
        import(&site, &mut chain);
        let again = ledger.set_archives(&[worm], START).unwrap();
        assert_eq!(again, ids[..1]);
        assert_eq!(ledger.archive_unaccounted(ids[0]).unwrap(), 0);
        assert_eq!(ledger.next_due(ids[0], &none).unwrap().unwrap().bundle.number(), 2);
        let listed = ledger.archived(ids[0], (0, 0)).unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(
            ledger.archived_bundle(ids[0], listed[0].chain_id, 1).unwrap().unwrap(),
            listed[0]
        );
        assert_eq!(listed[0].file, due.bundle.file());
    }

    #[test]
    fn the_flash_lane_is_archived_first() {
        let site = Site::new();
        let mut ledger = site.ledger();
        let ids = ledger.set_archives(&[Keeping { name: "worm", before: true }], START).unwrap();
        import(&site, &mut Chain::new(1, Lane::Routine));
        import(&site, &mut Chain::new(1, Lane::Flash));
        let due = ledger.next_due(ids[0], &|_, _| false).unwrap().unwrap();
        assert_eq!(due.chain.lane, Lane::Flash);
    }
}
