//! Opening the buffer: continue it, create it, or set a broken one aside and begin a new epoch.
//!
//! Broken means that what is on disk is not what was written. A full disk, a missing permission or
//! a failing device is not that: those are errors, and the database stays where it is.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params_from_iter};
use shared::clock::{Clock, Nanos};
use shared::durable;
use shared::record::{Epoch, Lane, OriginId, Sequence};

use super::alarms::{self, AlarmKind};
use super::block::{Hash, Life};
use super::bundles::{Bundle, BundleState};
use super::checked::{number, open_row, seal_row, text, time};
use super::error::{BufferError, Fault};
use super::lane::LaneState;
use super::schema::{self, APPLICATION_ID, MIGRATIONS, VERSION, key, number_of_key};
use super::{BufferSettings, losses};

/// What opening the buffer came upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// How the buffer began.
    pub opened: Opened,
    /// The epoch that it is in.
    pub epoch: Epoch,
    /// The last durable sequence number of each lane; 0 if there is none.
    pub last_sequences: Vec<(Lane, Sequence)>,
}

/// How the buffer began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// With the database that was there.
    Continued,
    /// With a new database, where there was none.
    Created,
    /// With a new database, because the one that was there is broken.
    SetAside {
        /// The folder that now holds it.
        to: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// An open buffer, before anything writes to it.
pub(super) struct OpenBuffer {
    pub(super) conn: Connection,
    pub(super) life: Life,
    pub(super) recovery: Recovery,
    /// Held as long as the agent lives.
    pub(super) lock: Flock<File>,
}

pub(super) fn open(
    settings: &BufferSettings,
    origin: &OriginId,
    clock: &Arc<dyn Clock>,
) -> Result<OpenBuffer, BufferError> {
    let dir = &settings.dir;
    durable::create_dir(dir).map_err(BufferError::io(dir))?;
    let lock = lock(&dir.join(LOCK))?;
    let path = dir.join(DATABASE);
    let now = clock.now();
    let is_broken = |err: &BufferError| err.fault() == Fault::Corrupt || is_refused_by_sqlite(err);
    let found = match open_existing(settings, origin, &path) {
        Err(err) if is_broken(&err) => {
            // A page that could not be read looks broken too. Whether the files can be read is found
            // out by hand, and only a second verdict counts.
            for file in [path.clone(), beside(&path, "-wal")] {
                durable::read_through(&file).map_err(BufferError::io(&file))?;
            }
            open_existing(settings, origin, &path)
        }
        found => found,
    };
    let (opened, conn) = match found {
        Ok(Some(conn)) => (Opened::Continued, conn),
        Ok(None) => (Opened::Created, create(settings, origin, &path, None, now)?),
        Err(err) if is_broken(&err) => {
            let why = err.to_string();
            let to = set_aside(dir, now)?;
            tracing::error!(folder = %to.display(), %why,
                "the buffer's database was set aside; a new epoch begins");
            let conn = create(settings, origin, &path, Some((&to, &why)), now)?;
            (Opened::SetAside { to, why }, conn)
        }
        Err(err) => return Err(err),
    };
    let life = load_life(&conn)?;
    let last_sequences = Lane::ALL
        .into_iter()
        .map(|lane| Ok((lane, Sequence(LaneState::load(&conn, lane)?.last_sequence()))))
        .collect::<Result<_, BufferError>>()?;
    let recovery = Recovery { opened, epoch: life.epoch, last_sequences };
    Ok(OpenBuffer { conn, life, recovery, lock })
}

/// Whether `SQLite` called a statement wrong. Our statements are fixed, so at opening this is its
/// way to say that the header or a table is not what it was.
fn is_refused_by_sqlite(err: &BufferError) -> bool {
    let BufferError::Sqlite(rusqlite::Error::SqliteFailure(err, _)) = err else {
        return matches!(err, BufferError::Sqlite(rusqlite::Error::SqlInputError { .. }));
    };
    err.extended_code == rusqlite::ffi::SQLITE_ERROR
}

/// Opens the writer's connection to a database that is known to be ours: after a failed write.
pub(super) fn reopen(settings: &BufferSettings) -> Result<Connection, BufferError> {
    let conn = schema::connect(&settings.dir.join(DATABASE), false)?;
    schema::set_durable(&conn, settings)?;
    schema::checkpoint(&conn)?;
    Ok(conn)
}

/// Whether the files of the buffer in this folder can be read to their ends.
pub fn can_be_read(dir: &Path) -> bool {
    let path = dir.join(DATABASE);
    [path.clone(), beside(&path, "-wal")].iter().all(|file| durable::read_through(file).is_ok())
}

/// Whether an agent holds the buffer in this folder.
pub fn is_agent_running(dir: &Path) -> bool {
    // A shared lock is taken for a moment; an agent that starts just then is started once more.
    File::open(dir.join(LOCK))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
}

/// Notes, for the next start, that the database of a buffer's folder must be set aside.
pub fn mark_broken(dir: &Path, why: &str) -> Result<(), BufferError> {
    let path = dir.join(BROKEN);
    durable::write(&path, why.as_bytes(), 0o600).map_err(BufferError::io(path))
}

/// Has the next opening of a buffer's folder set its database aside and begin a new epoch, although
/// nothing is broken: its numbers may have been used by another copy of it.
pub fn ask_for_new_epoch(dir: &Path) -> Result<(), BufferError> {
    mark_broken(dir, "an operator asked for a new epoch")
}

/// Takes the lock that an agent holds for its life.
pub(super) fn lock_dir(dir: &Path) -> Result<Flock<File>, BufferError> {
    durable::create_dir(dir).map_err(BufferError::io(dir))?;
    lock(&dir.join(LOCK))
}

fn lock(path: &Path) -> Result<Flock<File>, BufferError> {
    // What root makes here must be the agent's.
    let file = durable::create_or_continue(path, 0o600).map_err(BufferError::io(path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            BufferError::Locked { path: path.to_owned() }
        } else {
            BufferError::io(path)(errno.into())
        }
    })
}

/// Opens the database if there is one, and checks what can be checked quickly.
fn open_existing(
    settings: &BufferSettings,
    origin: &OriginId,
    path: &Path,
) -> Result<Option<Connection>, BufferError> {
    if let Some(why) = read_if_there(&settings.dir.join(BROKEN))? {
        return Err(BufferError::Broken(String::from_utf8_lossy(&why).into_owned()));
    }
    if !header_is_sane(path)? {
        return Ok(None);
    }
    let mut conn = schema::connect(path, false)?;
    schema::set_durable(&conn, settings)?;
    // Before anything else is trusted.
    match schema::checkpoint(&conn) {
        // A full disk must not keep the agent from starting: it waits for room, visibly, and the
        // sealer may make some. What was committed is in the log, which is synced once more.
        Err(err) if err.fault() == Fault::Full => {
            tracing::warn!(%err, "no room to copy the buffer's log into its database");
            let log = beside(path, "-wal");
            File::open(&log).and_then(|log| log.sync_all()).map_err(BufferError::io(log))?;
        }
        checkpointed => checkpointed?,
    }
    if is_uninitialised(&conn)? {
        return Ok(None);
    }
    check_version(&conn, path)?;
    migrate(&mut conn)?;
    let auto_vacuum: i64 = conn.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if schema::tables(&conn)? != expected_tables()? || auto_vacuum != 0 {
        return Err(BufferError::Broken("its tables are not ours".to_owned()));
    }
    for table in SMALL_TABLES {
        check_structure(&conn, table)?;
    }
    let life = load_life(&conn)?;
    if life.origin != *origin {
        return Err(BufferError::OtherOrigin {
            path: path.to_owned(),
            found: life.origin.to_string(),
            configured: origin.to_string(),
        });
    }
    for lane in Lane::ALL {
        check_tail(&conn, &LaneState::load(&conn, lane)?)?;
        losses::waiting(&conn, lane)?;
    }
    for state in BundleState::ON_ITS_WAY {
        Bundle::list(&conn, Some(state))?;
    }
    Ok(Some(conn))
}

/// Looks at the files before `SQLite` does: it would delete a log whose database is gone, and would
/// call some flipped bits in the header a lack of permission.
fn header_is_sane(path: &Path) -> Result<bool, BufferError> {
    let broken = |why: &str| Err(BufferError::Broken(why.to_owned()));
    let mut header = Vec::new();
    match File::open(path) {
        Ok(file) => {
            file.take(HEADER_BYTES).read_to_end(&mut header).map_err(BufferError::io(path))?;
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(BufferError::io(path)(err)),
    }
    if header.is_empty() {
        let log = beside(path, "-wal");
        let log_bytes = fs::metadata(log).map_or(0, |log| log.len());
        return if log_bytes == 0 { Ok(false) } else { broken("its log is there without it") };
    }
    let versions = header.get(18..20);
    if !header.starts_with(MAGIC) || !versions.is_some_and(|v| v == [1, 1] || v == [2, 2]) {
        return broken("its header is not one of an SQLite database");
    }
    Ok(true)
}

/// Whether a database was begun and never filled: we died while creating it.
fn is_uninitialised(conn: &Connection) -> Result<bool, BufferError> {
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let id: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok(version == 0 && id == 0 && schema::tables(conn)?.is_empty())
}

/// Refuses what is not ours or newer than we are. Writes nothing.
pub(super) fn check_version(conn: &Connection, path: &Path) -> Result<(), BufferError> {
    let broken = |why: &str| Err(BufferError::Broken(why.to_owned()));
    let id: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id != APPLICATION_ID {
        return broken("its application id is not ours");
    }
    let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found < 1 {
        return broken("its version is none that there ever was");
    }
    if found > VERSION {
        // A newer version has other tables; one with ours has a flipped bit.
        if schema::tables(conn)? == expected_tables()? {
            return broken("its version does not fit its tables");
        }
        return Err(BufferError::NewerSchema { path: path.to_owned(), found, known: VERSION });
    }
    Ok(())
}

fn migrate(conn: &mut Connection) -> Result<(), BufferError> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (step, statements) in (0..VERSION).zip(MIGRATIONS) {
        if step >= version {
            tx.execute_batch(statements)?;
        }
    }
    if version < VERSION {
        tx.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(tx.commit()?)
}

fn expected_tables() -> Result<Vec<String>, BufferError> {
    let mut conn = Connection::open_in_memory()?;
    migrate(&mut conn)?;
    schema::tables(&conn)
}

/// Whether the pages of a table and of its indices are in order.
fn check_structure(conn: &Connection, table: &str) -> Result<(), BufferError> {
    let found: String =
        conn.query_row(&format!("PRAGMA quick_check({table})"), [], |row| row.get(0))?;
    let broken = || BufferError::Broken(format!("table {table}: {found}"));
    (found == "ok").then_some(()).ok_or_else(broken)
}

/// The last block of a lane must be the one that the lane's state names.
fn check_tail(conn: &Connection, state: &LaneState) -> Result<(), BufferError> {
    let lane = state.lane;
    let tail: Option<(u64, i64, Hash)> = conn
        .query_row(
            "SELECT id, records, hash FROM block WHERE id BETWEEN ?1 AND ?2
             ORDER BY id DESC LIMIT 1",
            [key(lane, 0), key(lane, u64::MAX)],
            |row| Ok((number_of_key(row.get(0)?), row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let fits = match tail {
        Some((first, records, hash)) => {
            first.checked_add_signed(records) == Some(state.next_sequence)
                && state.chain_head == hash
        }
        None => {
            state.sealed_through == state.last_sequence() && state.sealed_chain == state.chain_head
        }
    };
    let broken = || BufferError::Broken(format!("the last block of lane {lane} is not its tail"));
    fits.then_some(()).ok_or_else(broken)
}

pub(super) fn load_life(conn: &Connection) -> Result<Life, BufferError> {
    let sql = "SELECT one, origin, epoch, began_ns, \"check\" FROM life";
    let life = conn.query_row(sql, [], |row| {
        Ok(open_row(LIFE, row).and_then(|mut fields| {
            fields.number()?;
            Ok(Life { origin: fields.parsed()?, epoch: Epoch(fields.number()?) })
        }))
    });
    let broken = || BufferError::Broken("it does not say whose it is".to_owned());
    life.optional()?.unwrap_or_else(|| Err(broken()))
}

/// Moves the database and its companions into a new folder. The database goes first: what is left
/// after a crash in between is never mistaken for a whole one.
pub(super) fn set_aside(dir: &Path, now: Nanos) -> Result<PathBuf, BufferError> {
    let folder = new_aside(dir, now)?;
    let database = dir.join(DATABASE);
    let files =
        [database.clone(), beside(&database, "-wal"), beside(&database, "-shm"), dir.join(BROKEN)];
    for from in files {
        let to = folder.join(from.file_name().unwrap_or_default());
        match durable::rename(&from, &to) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                return Err(BufferError::io(from)(err));
            }
            _ => {}
        }
    }
    Ok(folder)
}

/// Makes a folder `set-aside-TIME` that was not there.
pub(super) fn new_aside(dir: &Path, now: Nanos) -> Result<PathBuf, BufferError> {
    let stamp: String = now.to_string().chars().take(19).filter(|c| !"-:".contains(*c)).collect();
    let name = |n: u32| match n {
        1 => format!("set-aside-{stamp}Z"),
        n => format!("set-aside-{stamp}Z-{n}"),
    };
    let free = (1..u32::MAX).map(|n| dir.join(name(n))).find(|folder| !folder.exists());
    let folder = free.unwrap_or_else(|| dir.join("set-aside"));
    durable::create_dir(&folder).map_err(BufferError::io(&folder))?;
    Ok(folder)
}

fn create(
    settings: &BufferSettings,
    origin: &OriginId,
    path: &Path,
    set_aside: Option<(&Path, &str)>,
    now: Nanos,
) -> Result<Connection, BufferError> {
    let known = known_epoch(&settings.dir)?;
    let seconds = u64::try_from(now.as_secs()).unwrap_or(0);
    let epoch = Epoch(known.map_or(seconds, |known| seconds.max(known.saturating_add(1))));
    // Noted first: an epoch may be passed over, and is never begun twice.
    note_epoch(&settings.dir, epoch)?;
    // SQLite would give it the mode that the umask says, and root as its owner.
    let file = durable::create_or_continue(path, 0o600);
    file.and_then(|file| file.sync_all()).map_err(BufferError::io(path))?;
    let mut conn = schema::connect(path, true)?;
    conn.pragma_update(None, "page_size", settings.page_bytes)?;
    schema::set_durable(&conn, settings)?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for statements in MIGRATIONS {
        tx.execute_batch(statements)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    let life = vec![number(1), text(origin.as_str()), number(epoch.0), time(now)];
    tx.execute(
        "INSERT INTO life VALUES (?1, ?2, ?3, ?4, ?5)",
        params_from_iter(seal_row(LIFE, life)),
    )?;
    for lane in Lane::ALL {
        LaneState::new(lane).store(&tx)?;
    }
    if let Some((to, why)) = set_aside {
        let message = format!(
            "the buffer was set aside ({why}); what it held and was not sealed is in {}: \
            penstock-high recover --from takes it in",
            to.display()
        );
        alarms::raise(&tx, AlarmKind::BufferSetAside, &message, now)?;
    }
    if let Some(known) = known {
        let message = format!("epoch {epoch} began after epoch {known}");
        alarms::raise(&tx, AlarmKind::EpochBegan, &message, now)?;
        tracing::warn!(%epoch, known, "a new epoch began");
    }
    tx.commit()?;
    schema::checkpoint(&conn)?;
    durable::sync_dir(&settings.dir).map_err(BufferError::io(&settings.dir))?;
    Ok(conn)
}

/// The last epoch that began here, as is remembered outside of the database.
pub(super) fn known_epoch(dir: &Path) -> Result<Option<u64>, BufferError> {
    let text = read_if_there(&dir.join(EPOCH))?;
    Ok(text.and_then(|text| std::str::from_utf8(&text).ok()?.trim_end().parse::<u64>().ok()))
}

/// Remembers an epoch: the next one that begins here is later.
pub(super) fn note_epoch(dir: &Path, epoch: Epoch) -> Result<(), BufferError> {
    let path = dir.join(EPOCH);
    durable::write(&path, format!("{epoch}\n").as_bytes(), 0o600).map_err(BufferError::io(&path))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, BufferError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(BufferError::io(path)(err)),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The database.
pub(super) const DATABASE: &str = "buffer.db";
/// Locked by the agent that writes.
const LOCK: &str = "agent.lock";
/// The last epoch, outside the database so that it outlives it.
const EPOCH: &str = "epoch";
/// Says that the database is broken and must be set aside at the next start.
const BROKEN: &str = "broken";

/// Tables whose pages are checked at each start. Those of blocks are not: they may be large, and
/// what is damaged in them is found by their hashes and costs only the blocks that it hit.
const SMALL_TABLES: [&str; 8] =
    ["life", "lane", "bundle", "handover", "loss", "alarm", "custody_head", "custody_due"];

const LIFE: &str = "life";
const MAGIC: &[u8] = b"SQLite format 3\0";
const HEADER_BYTES: u64 = 100;
