//! The tables, and how an older ledger becomes a newer one.

use rusqlite::Connection;

use super::LedgerError;

/// Numbered migrations; `user_version` says how many have run. A released one is never changed.
const MIGRATIONS: &[&str] = &["
-- One row for each (origin, epoch, lane).
CREATE TABLE chain (
    id             INTEGER PRIMARY KEY,
    origin         TEXT NOT NULL,
    epoch          INTEGER NOT NULL,
    lane           TEXT NOT NULL,
    pruned_through INTEGER NOT NULL DEFAULT 0,
    last_sequence  INTEGER NOT NULL DEFAULT 0,
    bundles        INTEGER NOT NULL DEFAULT 0,
    records        INTEGER NOT NULL DEFAULT 0,
    lost_in_range  INTEGER NOT NULL DEFAULT 0,
    last_ns        INTEGER NOT NULL,
    UNIQUE (origin, epoch, lane)
) STRICT;

-- One row for each admitted bundle.
CREATE TABLE bundle (
    chain          INTEGER NOT NULL REFERENCES chain (id),
    number         INTEGER NOT NULL,
    digest         BLOB NOT NULL,
    previous       BLOB NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence  INTEGER NOT NULL,
    records        INTEGER NOT NULL,
    lost_in_range  INTEGER NOT NULL,
    chain_before   BLOB NOT NULL,
    chain_head     BLOB NOT NULL,
    sealed_ns      INTEGER NOT NULL,
    imported_ns    INTEGER NOT NULL,
    signer         TEXT NOT NULL,
    file           TEXT NOT NULL,
    file_bytes     INTEGER NOT NULL,
    damaged        INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (chain, number)
) STRICT, WITHOUT ROWID;
-- For replay: the bundle that holds a sequence number. Empty bundles hold none.
CREATE INDEX bundle_by_sequence ON bundle (chain, last_sequence) WHERE last_sequence >= first_sequence;

-- Ranges of bundle numbers that have not come. A passed gap no longer holds what is behind it.
CREATE TABLE gap (
    id         INTEGER PRIMARY KEY,
    chain      INTEGER NOT NULL REFERENCES chain (id),
    first      INTEGER NOT NULL,
    last       INTEGER NOT NULL,
    noticed_ns INTEGER NOT NULL,
    passed_ns  INTEGER,
    UNIQUE (chain, first)
) STRICT;

-- What the high side declared lost.
CREATE TABLE loss (
    chain          INTEGER NOT NULL,
    number         INTEGER NOT NULL,
    reason         TEXT NOT NULL,
    listener       TEXT NOT NULL,
    count          INTEGER NOT NULL,
    from_ns        INTEGER NOT NULL,
    to_ns          INTEGER NOT NULL,
    first_sequence INTEGER,
    last_sequence  INTEGER
) STRICT;
CREATE INDEX loss_by_bundle ON loss (chain, number);

CREATE TABLE sink (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

-- Ranges of sequence numbers that a sink has taken, apart from each other.
CREATE TABLE delivered (
    sink  INTEGER NOT NULL,
    chain INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    PRIMARY KEY (sink, chain, first)
) STRICT, WITHOUT ROWID;

-- How many records these were: a range also holds numbers that were lost.
CREATE TABLE delivered_records (
    sink    INTEGER NOT NULL,
    chain   INTEGER NOT NULL,
    records INTEGER NOT NULL,
    PRIMARY KEY (sink, chain)
) STRICT, WITHOUT ROWID;

-- How far a sink's current file is durable and noted.
CREATE TABLE sink_file (
    sink        INTEGER PRIMARY KEY,
    offset      INTEGER NOT NULL,
    opened_ns   INTEGER NOT NULL,
    rotating_to INTEGER
) STRICT;

-- Refused files, by content.
CREATE TABLE quarantine (sha256 TEXT PRIMARY KEY, code TEXT NOT NULL, times INTEGER NOT NULL) STRICT;

-- Sums that add up: received = admitted + duplicate + quarantined.
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;

CREATE TABLE alarm (
    id              INTEGER PRIMARY KEY,
    code            TEXT NOT NULL,
    subject         TEXT NOT NULL,
    message         TEXT NOT NULL,
    count           INTEGER NOT NULL,
    first_ns        INTEGER NOT NULL,
    last_ns         INTEGER NOT NULL,
    closed_ns       INTEGER,
    acknowledged_ns INTEGER
) STRICT;
CREATE INDEX alarm_open ON alarm (code, subject) WHERE acknowledged_ns IS NULL;
", "
-- The highest number that a rotated file was given: an archiver may have moved the file away.
ALTER TABLE sink_file ADD COLUMN last_rotated INTEGER NOT NULL DEFAULT 0;
UPDATE sink_file SET last_rotated = coalesce(rotating_to, 0);
", "
-- When the records of a bundle were received, and how many of its numbers rules suppressed.
ALTER TABLE bundle ADD COLUMN oldest_ns INTEGER;
ALTER TABLE bundle ADD COLUMN newest_ns INTEGER;
ALTER TABLE chain ADD COLUMN suppressed INTEGER NOT NULL DEFAULT 0;
CREATE INDEX bundle_by_time ON bundle (newest_ns, oldest_ns);

-- What each bundle holds of each stream, and what each rule suppressed (an empty rule: nothing did).
CREATE TABLE tally (
    chain   INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    stream  TEXT NOT NULL,
    rule    TEXT NOT NULL,
    records INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    PRIMARY KEY (chain, number, stream, rule)
) STRICT, WITHOUT ROWID;
", "
-- The custody log's end, and its lines that wait to be written.
CREATE TABLE custody_head (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    number         INTEGER NOT NULL,
    hash           BLOB NOT NULL,
    signed_through INTEGER NOT NULL,
    unsigned_ns    INTEGER
) STRICT;
CREATE TABLE custody_due (number INTEGER PRIMARY KEY, line TEXT NOT NULL) STRICT;

-- How long records took, in windows of time: counts by the size of the time.
CREATE TABLE latency (
    window_s INTEGER NOT NULL,
    sink     INTEGER NOT NULL,
    lane     TEXT NOT NULL,
    stream   TEXT NOT NULL,
    hop      TEXT NOT NULL,
    counts   TEXT NOT NULL,
    PRIMARY KEY (window_s, sink, lane, stream, hop)
) STRICT, WITHOUT ROWID;
-- The shortest way that a bundle took, by both clocks: it bounds how far these lie apart.
CREATE TABLE clock_skew (
    origin      TEXT NOT NULL,
    window_s    INTEGER NOT NULL,
    shortest_ns INTEGER NOT NULL,
    PRIMARY KEY (origin, window_s)
) STRICT, WITHOUT ROWID;
", "
-- Of the records that a sink has dealt with: what its filter left out, what its receiver refused for
-- good, and how many were asked for once more.
ALTER TABLE delivered_records ADD COLUMN filtered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE delivered_records ADD COLUMN rejected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE delivered_records ADD COLUMN again INTEGER NOT NULL DEFAULT 0;
", "
-- The SHA-256 of a bundle's whole file, as it came; unknown for bundles from before this was kept.
ALTER TABLE bundle ADD COLUMN file_sha256 BLOB;

-- The archives that the agent ever had. Active: it has it now. Before: records wait for it.
CREATE TABLE archive (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    active  INTEGER NOT NULL,
    before  INTEGER NOT NULL,
    bundles INTEGER NOT NULL DEFAULT 0,
    bytes   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What each archive holds, and until when it promised to.
CREATE TABLE archived (
    archive         INTEGER NOT NULL REFERENCES archive (id),
    chain           INTEGER NOT NULL,
    number          INTEGER NOT NULL,
    key             TEXT NOT NULL,
    version         TEXT NOT NULL,
    sha256          BLOB NOT NULL,
    bytes           INTEGER NOT NULL,
    retain_until_ns INTEGER,
    at_ns           INTEGER NOT NULL,
    PRIMARY KEY (archive, chain, number)
) STRICT, WITHOUT ROWID;

-- What each active archive has yet to take: as good as empty, so that looking costs nothing.
CREATE TABLE archive_due (
    archive  INTEGER NOT NULL REFERENCES archive (id),
    chain    INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    since_ns INTEGER NOT NULL,
    PRIMARY KEY (archive, chain, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX archive_due_by_bundle ON archive_due (chain, number);
", "
-- Each run of archive verify: what it found, and its report, which stands in a file of this digest.
CREATE TABLE archive_proof (
    id        INTEGER PRIMARY KEY,
    archive   INTEGER NOT NULL REFERENCES archive (id),
    at_ns     INTEGER NOT NULL,
    verdict   TEXT NOT NULL,
    lock      TEXT,
    whole     INTEGER NOT NULL,
    looked_at INTEGER NOT NULL,
    findings  INTEGER NOT NULL,
    file      TEXT NOT NULL,
    sha256    BLOB NOT NULL
) STRICT;
CREATE INDEX archive_proof_by_time ON archive_proof (archive, at_ns);
", "
-- When a bundle's file was put into the store; nothing once it was removed from there after its time.
ALTER TABLE bundle ADD COLUMN stored_ns INTEGER;
UPDATE bundle SET stored_ns = imported_ns;
CREATE INDEX bundle_stored ON bundle (stored_ns) WHERE stored_ns IS NOT NULL;
INSERT INTO counter SELECT 'stored', count(*) FROM bundle;
INSERT INTO counter SELECT 'stored-bytes', coalesce(sum(file_bytes), 0) FROM bundle;
-- Records that a sink never got because their bundle had left the store.
ALTER TABLE delivered_records ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;
", "
-- What a sink's filter left out of each bundle.
CREATE TABLE left_out (
    sink    INTEGER NOT NULL,
    chain   INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    stream  TEXT NOT NULL,
    records INTEGER NOT NULL,
    PRIMARY KEY (sink, chain, number, stream)
) STRICT, WITHOUT ROWID;
-- Each record that a sink's receiver refused for good. Again: it was asked for once more since.
CREATE TABLE rejected (
    sink     INTEGER NOT NULL,
    chain    INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    stream   TEXT NOT NULL,
    again    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (sink, chain, sequence)
) STRICT, WITHOUT ROWID;
-- Ranges among those delivered that the sink never got: they had left the store.
CREATE TABLE passed_over (
    sink  INTEGER NOT NULL,
    chain INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    PRIMARY KEY (sink, chain, first)
) STRICT, WITHOUT ROWID;
-- Ranges among those delivered of which nothing of this was kept bundle by bundle.
CREATE TABLE uncounted (
    sink  INTEGER NOT NULL,
    chain INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    PRIMARY KEY (sink, chain, first)
) STRICT, WITHOUT ROWID;
INSERT INTO uncounted SELECT d.sink, d.chain, d.first, d.last FROM delivered d
    JOIN delivered_records r ON r.sink = d.sink AND r.chain = d.chain
    WHERE r.filtered + r.rejected + r.removed > 0;
", "
-- Whether a run of archive verify looked at every object, how many the archive did not show, and how many
-- were gone after their lock had ended.
ALTER TABLE archive_proof ADD COLUMN every INTEGER NOT NULL DEFAULT 0;
ALTER TABLE archive_proof ADD COLUMN unanswered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE archive_proof ADD COLUMN gone INTEGER NOT NULL DEFAULT 0;
UPDATE archive_proof SET every = whole;
", "
-- The file of dead letters that was retried last for a sink, by its SHA-256, and how many of its letters were
-- asked for once more: a retry that was killed goes on there.
CREATE TABLE retry (
    sink    INTEGER PRIMARY KEY REFERENCES sink (id),
    file    BLOB NOT NULL,
    letters INTEGER NOT NULL
) STRICT;
", "
-- How the ledger knows of an admission that it did not see itself: custody-log, nothing, or backup.
ALTER TABLE bundle ADD COLUMN known_by TEXT;
"];

/// Brings the tables up to date.
pub(super) fn migrate(conn: &mut Connection) -> Result<(), LedgerError> {
    let version = |conn: &Connection| conn.pragma_query_value(None, "user_version", |r| r.get(0));
    let current: i64 = version(conn)?;
    if usize::try_from(current) == Ok(MIGRATIONS.len()) {
        return Ok(());
    }
    // Another process may be doing the same: look again once the write lock is ours.
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = version(&tx)?;
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    let Some(open) = MIGRATIONS.get(done..) else {
        return Err(LedgerError::Newer { found, known: MIGRATIONS.len() });
    };
    for migration in open {
        tx.execute_batch(migration)?;
    }
    tx.pragma_update(None, "user_version", super::int(MIGRATIONS.len() as u64))?;
    tx.commit()?;
    Ok(())
}

/// Refuses tables of another version than this program's.
pub(super) fn expect_current(conn: &Connection) -> Result<(), LedgerError> {
    let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = MIGRATIONS.len();
    match usize::try_from(found).unwrap_or(usize::MAX).cmp(&known) {
        std::cmp::Ordering::Less => Err(LedgerError::Older { found, known }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(LedgerError::Newer { found, known }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::ledger::{FILE_NAME, Ledger, int};

    #[test]
    fn an_older_ledger_becomes_a_newer_one() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(MIGRATIONS[0]).unwrap();
        conn.pragma_update(None, "user_version", 1).unwrap();
        conn.execute("INSERT INTO sink_file VALUES (1, 20, 30, NULL), (2, 20, 30, 7)", []).unwrap();
        migrate(&mut conn).unwrap();
        let last = |sink: i64| -> i64 {
            let query = "SELECT last_rotated FROM sink_file WHERE sink = ?1";
            conn.query_row(query, [sink], |row| row.get(0)).unwrap()
        };
        assert_eq!((last(1), last(2)), (0, 7));
    }

    #[test]
    fn of_what_was_counted_in_sums_it_is_kept_that_it_was() {
        let mut conn = Connection::open_in_memory().unwrap();
        MIGRATIONS[..8].iter().for_each(|step| conn.execute_batch(step).unwrap());
        conn.pragma_update(None, "user_version", 8).unwrap();
        // The first sink was refused something of its first chain, the second got everything.
        conn.execute_batch(
            "INSERT INTO delivered VALUES (1, 1, 1, 9), (1, 1, 20, 29), (1, 2, 1, 5), (2, 1, 1, 9);
             INSERT INTO delivered_records (sink, chain, records, rejected)
                 VALUES (1, 1, 19, 2), (1, 2, 5, 0), (2, 1, 9, 0)",
        )
        .unwrap();
        migrate(&mut conn).unwrap();
        let mut statement =
            conn.prepare("SELECT sink, chain, first, last FROM uncounted ORDER BY first").unwrap();
        let rows =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
        let rows: Vec<(i64, i64, i64, i64)> = rows.unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(rows, [(1, 1, 1, 9), (1, 1, 20, 29)]);
    }

    /// A ledger in a file, as the program knew it whose newest version of the tables was this one.
    fn of_version(dir: &Path, version: usize) -> Connection {
        let conn = Connection::open(dir.join(FILE_NAME)).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        MIGRATIONS[..version].iter().for_each(|step| conn.execute_batch(step).unwrap());
        conn.pragma_update(None, "user_version", int(version as u64)).unwrap();
        conn.execute("INSERT INTO counter VALUES ('admitted', 7)", []).unwrap();
        conn
    }

    fn admitted(ledger: &Ledger) -> i64 {
        let query = "SELECT value FROM counter WHERE name = 'admitted'";
        ledger.conn.query_row(query, [], |row| row.get(0)).unwrap()
    }

    fn tables(ledger: &Ledger) -> Vec<String> {
        let mut statement =
            ledger.conn.prepare("SELECT name || coalesce(sql, '') FROM sqlite_schema").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        let mut tables: Vec<String> = rows.collect::<Result<_, _>>().unwrap();
        tables.sort();
        tables
    }

    #[test]
    fn a_ledger_of_every_version_is_opened_also_where_a_migration_was_cut_off() {
        let new = tempfile::tempdir().unwrap();
        let expected = tables(&Ledger::open(new.path()).unwrap());
        for version in 1..MIGRATIONS.len() {
            let dir = tempfile::tempdir().unwrap();
            let conn = of_version(dir.path(), version);
            // Killed when every step is done and nothing is committed: what is on the disk then.
            conn.execute_batch("PRAGMA cache_spill = 1; PRAGMA cache_size = 1; BEGIN IMMEDIATE")
                .unwrap();
            MIGRATIONS[version..].iter().for_each(|step| conn.execute_batch(step).unwrap());
            conn.pragma_update(None, "user_version", MIGRATIONS.len() as u32).unwrap();
            let killed = tempfile::tempdir().unwrap();
            for end in ["", "-wal"] {
                let name = format!("{FILE_NAME}{end}");
                std::fs::copy(dir.path().join(&name), killed.path().join(&name)).unwrap();
            }
            conn.execute_batch("ROLLBACK").unwrap();
            drop(conn);
            for dir in [&dir, &killed] {
                let read_only = Ledger::open_read_only(dir.path());
                assert!(matches!(read_only, Err(LedgerError::Older { .. })), "{version}");
                let ledger = Ledger::open(dir.path()).unwrap();
                assert_eq!(
                    (admitted(&ledger), tables(&ledger)),
                    (7, expected.clone()),
                    "{version}"
                );
            }
        }
    }

    #[test]
    fn a_ledger_of_a_later_version_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        drop(of_version(dir.path(), MIGRATIONS.len()));
        let conn = Connection::open(dir.path().join(FILE_NAME)).unwrap();
        conn.pragma_update(None, "user_version", MIGRATIONS.len() as u32 + 1).unwrap();
        drop(conn);
        let before = std::fs::read(dir.path().join(FILE_NAME)).unwrap();
        let refused = Ledger::open(dir.path()).unwrap_err();
        assert!(matches!(refused, LedgerError::Newer { .. }), "{refused}");
        let opened = crate::ledger::open_or_set_aside(dir.path(), shared::clock::Nanos(0));
        assert!(matches!(opened, Err(LedgerError::Newer { .. })));
        assert_eq!(std::fs::read(dir.path().join(FILE_NAME)).unwrap(), before);
    }
}
