//! Tables, versions, and how a connection is set up.
//!
//! `block` and `body` share their key, `lane << 60 | first sequence`: the rows of a lane lie side
//! by side in the order of their sequences, no second index is needed, and counting what waits
//! does not read a single body.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use shared::record::Lane;

use super::error::BufferError;
use super::{BufferSettings, checkpoint};

/// Marks our databases in their header: "PSTB".
pub(super) const APPLICATION_ID: i64 = 0x5053_5442;

/// The migrations: the one at index `n` leads from `user_version` n to n + 1.
pub(super) const MIGRATIONS: [&str; 5] = [
    "
CREATE TABLE life (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    origin TEXT NOT NULL, epoch INTEGER NOT NULL, began_ns INTEGER NOT NULL,
    \"check\" BLOB NOT NULL
) STRICT;
CREATE TABLE lane (
    lane INTEGER PRIMARY KEY,
    last_group INTEGER NOT NULL,
    next_sequence INTEGER NOT NULL, chain_head BLOB NOT NULL,
    planned_through INTEGER NOT NULL, planned_chain BLOB NOT NULL,
    sealed_through INTEGER NOT NULL, sealed_chain BLOB NOT NULL,
    waiting_plain_bytes INTEGER NOT NULL,
    next_bundle INTEGER NOT NULL, previous_digest BLOB NOT NULL,
    received TEXT NOT NULL, sealed TEXT NOT NULL, lost TEXT NOT NULL,
    \"check\" BLOB NOT NULL
) STRICT;
CREATE TABLE block (
    id INTEGER PRIMARY KEY,
    records INTEGER NOT NULL, plain_bytes INTEGER NOT NULL,
    oldest_ns INTEGER NOT NULL, newest_ns INTEGER NOT NULL, streams TEXT NOT NULL,
    previous BLOB NOT NULL, hash BLOB NOT NULL
) STRICT;
CREATE TABLE body (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE bundle (
    id INTEGER PRIMARY KEY,
    state TEXT NOT NULL, reason TEXT NOT NULL, planned_ns INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL, last_sequence INTEGER NOT NULL,
    records INTEGER NOT NULL, plain_bytes INTEGER NOT NULL,
    oldest_ns INTEGER, newest_ns INTEGER, streams TEXT NOT NULL,
    chain_before BLOB NOT NULL, chain_head BLOB NOT NULL, previous_digest BLOB NOT NULL,
    digest BLOB, file_name TEXT, file_bytes INTEGER, file_sha256 BLOB,
    ready_ns INTEGER, handed_over_ns INTEGER, handed_over_by TEXT, deleted_ns INTEGER,
    \"check\" BLOB NOT NULL
) STRICT;
CREATE INDEX bundle_state ON bundle (state);
CREATE TABLE loss (
    id INTEGER PRIMARY KEY,
    lane INTEGER NOT NULL, bundle INTEGER, reason TEXT NOT NULL, listener TEXT NOT NULL,
    count INTEGER NOT NULL, from_ns INTEGER NOT NULL, to_ns INTEGER NOT NULL,
    first_sequence INTEGER, last_sequence INTEGER,
    \"check\" BLOB NOT NULL
) STRICT;
CREATE INDEX loss_bundle ON loss (lane, bundle);
CREATE TABLE damaged (
    id INTEGER PRIMARY KEY, found_ns INTEGER NOT NULL,
    lane INTEGER NOT NULL, first_sequence INTEGER NOT NULL, last_sequence INTEGER NOT NULL,
    block_id INTEGER, streams ANY, previous ANY, hash ANY, body ANY
) STRICT;
CREATE TABLE alarm (
    id INTEGER PRIMARY KEY, raised_ns INTEGER NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL,
    acknowledged_ns INTEGER
) STRICT;
",
    "
CREATE TABLE mark (name TEXT PRIMARY KEY, value TEXT NOT NULL, \"check\" BLOB NOT NULL) STRICT;
CREATE TABLE sighting (
    id INTEGER PRIMARY KEY,
    oldest_s INTEGER NOT NULL, newest_s INTEGER NOT NULL, packed BLOB NOT NULL,
    \"check\" BLOB NOT NULL
) STRICT;
",
    "
CREATE TABLE review (
    id INTEGER PRIMARY KEY, summary BLOB NOT NULL,
    refused_ns INTEGER, refused_by TEXT, reason TEXT,
    \"check\" BLOB NOT NULL
) STRICT;
CREATE TABLE \"release\" (
    id INTEGER PRIMARY KEY, bundle INTEGER NOT NULL,
    officer TEXT NOT NULL, key TEXT NOT NULL, summary BLOB NOT NULL, signature TEXT NOT NULL,
    released_ns INTEGER NOT NULL,
    \"check\" BLOB NOT NULL
) STRICT;
CREATE INDEX release_bundle ON \"release\" (bundle);
",
    "
CREATE TABLE handover (
    bundle INTEGER NOT NULL, carrier TEXT NOT NULL,
    first_ns INTEGER NOT NULL, passes INTEGER NOT NULL, last_ns INTEGER NOT NULL,
    \"check\" BLOB NOT NULL,
    PRIMARY KEY (bundle, carrier)
) STRICT, WITHOUT ROWID;
CREATE INDEX handover_due ON handover (carrier, passes, last_ns);
CREATE INDEX handover_sending ON handover (carrier, passes, bundle);
",
    "
CREATE TABLE custody_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    number INTEGER NOT NULL, hash BLOB NOT NULL,
    signed_through INTEGER NOT NULL, unsigned_ns INTEGER
) STRICT;
CREATE TABLE custody_due (number INTEGER PRIMARY KEY, line TEXT NOT NULL) STRICT;
CREATE TABLE receipt (
    name TEXT PRIMARY KEY, number INTEGER NOT NULL, time_ns INTEGER NOT NULL, taken_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE confirmed (
    bundle INTEGER PRIMARY KEY, receipt INTEGER NOT NULL, taken_ns INTEGER NOT NULL
) STRICT;
",
];

/// The newest schema version.
pub(super) const VERSION: i64 = MIGRATIONS.len() as u32 as i64;

/// The number of a lane in keys and columns.
pub(super) fn lane_code(lane: Lane) -> u64 {
    match lane {
        Lane::Flash => 0,
        Lane::Routine => 1,
    }
}

/// The lane of a number.
pub(super) fn lane_of_code(code: u64) -> Option<Lane> {
    Lane::ALL.into_iter().find(|lane| lane_code(*lane) == code)
}

/// The key of a number in a lane: of a block by its first sequence, of a bundle by its number.
pub(super) fn key(lane: Lane, number: u64) -> i64 {
    (lane_code(lane) << LANE_SHIFT | number & NUMBER_MASK).cast_signed()
}

/// The number in a key.
pub(super) fn number_of_key(key: i64) -> u64 {
    key.cast_unsigned() & NUMBER_MASK
}

/// The lane in a key.
pub(super) fn lane_of_key(key: i64) -> Option<Lane> {
    lane_of_code(key.cast_unsigned() >> LANE_SHIFT)
}

const LANE_SHIFT: u32 = 60;
const NUMBER_MASK: u64 = (1 << LANE_SHIFT) - 1;

/// Opens the database as every connection of ours does. `create` only for the agent.
pub(super) fn connect(path: &Path, create: bool) -> Result<Connection, BufferError> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
        shared::sqlite::keep_private(path).map_err(BufferError::io(path))?;
    }
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    Ok(conn)
}

/// Makes commits durable: a real sync for each, and checkpoints of a bounded log.
pub(super) fn set_durable(conn: &Connection, settings: &BufferSettings) -> Result<(), BufferError> {
    let page_bytes: i64 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let mode: String =
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(BufferError::Broken(format!("journal mode stays {mode}")));
    }
    // NORMAL was measured to lose acknowledged records on a power cut; FULL lost none.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    let log_bytes = checkpoint::LOG_FACTOR * settings.checkpoint_bytes;
    let pages = (log_bytes.cast_signed() / page_bytes.max(512)).max(1);
    conn.pragma_update(None, "wal_autocheckpoint", pages)?;
    conn.pragma_update(None, "journal_size_limit", log_bytes.cast_signed())?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(())
}

/// Copies the whole log into the database and syncs it. After a failed sync the page cache may
/// claim what the disk does not hold; this rewrites all of it, so that it can be trusted again.
pub(super) fn checkpoint(conn: &Connection) -> Result<(), BufferError> {
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy == 0 {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    let message = "somebody reads the buffer and keeps its log from being checkpointed";
    Err(rusqlite::Error::SqliteFailure(code, Some(message.to_owned())).into())
}

/// The statements that made the tables, as `SQLite` keeps them.
pub(super) fn tables(conn: &Connection) -> Result<Vec<String>, BufferError> {
    let mut statement = conn.prepare(
        "SELECT type || ' ' || name || ' ' || tbl_name || ' ' || coalesce(sql, '')
         FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY 1",
    )?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How long a connection waits for the write lock. Nobody holds it for more than milliseconds.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Every statement of the writer stays prepared.
const STATEMENTS_CACHED: usize = 64;

/// Page cache of one connection: a group of blocks and the upper pages of the trees.
const CACHE_KIB: i64 = 4 * 1024;
