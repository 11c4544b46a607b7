//! The ledger: what was admitted, what is missing, what each sink has taken.
//!
//! One `SQLite` database (WAL, `synchronous=FULL`). Its size grows with the number of bundles, and of
//! records only with those that a sink refused for good: delivery is kept as merged ranges. The agent's threads and the
//! command line each open their own connection.
//!
//! Invariant: a bundle has a row with the time of its storing if and only if its file stands complete in
//! the store; the file is renamed into the store inside the transaction that writes the row. A file that
//! leaves the store after its time leaves the row behind ([`removed`]). Invariant: only this module makes
//! an [`AdmittedBundle`].

mod admission;
mod alarms;
mod archived;
mod custody;
#[cfg(test)]
mod custody_tests;
mod delivery;
mod evidence;
mod latency;
mod marked;
mod numbers;
mod outcomes;
mod periods;
mod proofs;
mod rebuilt;
mod receipt;
mod recover;
mod removed;
mod restored;
mod schema;
mod snapshot;
mod spans;
mod store_name;
mod sums;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use shared::custody::CustodyFolder;
use shared::record::{Epoch, Lane, OriginId};

pub(crate) use admission::ANEW;
pub use admission::{AdmittedBundle, Before, BundleFacts, Decision, OpenGap, PassGaps};
pub use alarms::{ALARM_CODES, Alarm};
pub use archived::{
    ArchiveId, ArchiveSum, ArchivedBundle, DueBundle, Keeping, KeptObject, PAGE as ARCHIVED_PAGE,
};
pub use custody::{Arrival, CustodyError};
pub use delivery::{Again, ChainState, Delivery, FilePosition, SinkId, StoredRange};
pub use evidence::{
    AlarmSum, BundleInStore, ChainProof, EpochBegun, FlowSum, GapProof, Heard, LossProof, NotSeen,
    SignerSum, SinkTaken, WaitSum,
};
pub use marked::ArrivedBundle;
pub use outcomes::SinkDelivery;
pub use periods::{BundleInPeriod, LossInPeriod, MissingInPeriod};
pub use proofs::{ArchiveInPeriod, KnownArchive, LastProof, ProofRun};
pub use recover::{Opened, open_or_set_aside};
pub use removed::{KeptFor, RemovedRow, StoreSum, StoredBundle};
pub use snapshot::Snapshot;
pub use store_name::StoreName;
pub use sums::{ChainSum, LaneHeard, LossSum, RuleSum, SinkSum, StreamSum, Sums};

/// The ledger's file name in the state folder.
pub const FILE_NAME: &str = "ledger.db";

/// How long a connection waits for another one's write to end. Writes take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two tries where `SQLite` itself does not wait.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// What went wrong with the ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// There is none.
    #[error(
        "there is no ledger at {0}\n  try: start the agent once (penstock-low run), or give --config"
    )]
    Absent(PathBuf),
    /// A restore was interrupted, or a backup can't be made.
    #[error(transparent)]
    Backup(#[from] shared::backup::BackupError),
    /// It is damaged.
    #[error(
        "the ledger is damaged\n  try: start the agent; it sets the ledger aside and rebuilds it from the store"
    )]
    Damaged(#[source] rusqlite::Error),
    /// A later version of the program wrote it.
    #[error(
        "the ledger has version {found}, this program knows {known}\n  try: install the version that wrote it"
    )]
    Newer {
        /// The version found.
        found: i64,
        /// The latest version known.
        known: usize,
    },
    /// An earlier version of the program wrote it, and it is only to be read.
    #[error(
        "the ledger has version {found}, this program reads {known}\n  try: start the agent once, which brings it up to date"
    )]
    Older {
        /// The version found.
        found: i64,
        /// The version that can be read.
        known: usize,
    },
    /// A file could not be put in its place.
    #[error("a file could not be put in its place")]
    Place(#[source] io::Error),
    /// The disk does not give it.
    #[error("the ledger can't be read from the disk")]
    Unreadable(#[source] io::Error),
    /// The database refused.
    #[error("the ledger could not be read or written")]
    Sqlite(#[source] rusqlite::Error),
    /// A row holds what was never written.
    #[error("the ledger holds a row that makes no sense: {0}")]
    Row(&'static str),
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => Self::Damaged(error),
            _ => Self::Sqlite(error),
        }
    }
}

/// The identity of a chain inside one ledger.
pub type ChainId = i64;

/// The name of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainName {
    /// Who sealed it.
    pub origin: OriginId,
    /// In which life of its buffer.
    pub epoch: Epoch,
    /// In which lane.
    pub lane: Lane,
}

impl std::fmt::Display for ChainName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.origin, self.epoch, self.lane)
    }
}

/// One connection to the ledger.
#[derive(Debug)]
pub struct Ledger {
    conn: Connection,
    custody: CustodyFolder,
}

impl Ledger {
    /// Opens the ledger of a state folder, making it if there is none.
    pub fn open(state_dir: &Path) -> Result<Self, LedgerError> {
        shared::backup::expect_no_restore(state_dir)?;
        Self::connect(&state_dir.join(FILE_NAME), OpenFlags::SQLITE_OPEN_CREATE)
    }

    /// Opens the ledger of a state folder that an agent has made.
    pub fn open_existing(state_dir: &Path) -> Result<Self, LedgerError> {
        shared::backup::expect_no_restore(state_dir)?;
        let path = state_dir.join(FILE_NAME);
        if path.exists() {
            Self::connect(&path, OpenFlags::empty())
        } else {
            Err(LedgerError::Absent(path))
        }
    }

    /// Opens the ledger of a state folder for reading alone, whether or not an agent runs.
    pub fn open_read_only(state_dir: &Path) -> Result<Self, LedgerError> {
        shared::backup::expect_no_restore(state_dir)?;
        let path = state_dir.join(FILE_NAME);
        if !path.exists() {
            return Err(LedgerError::Absent(path));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let conn = Connection::open_with_flags(&path, flags)?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        conn.set_prepared_statement_cache_capacity(64);
        schema::expect_current(&conn)?;
        Ok(Self { conn, custody: CustodyFolder::at(state_dir) })
    }

    /// Reads several things of one moment: nothing that is written meanwhile is seen.
    pub fn at_one_moment<T, E: From<LedgerError>>(
        &self,
        read: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let tx = self.conn.unchecked_transaction().map_err(LedgerError::from)?;
        let found = read(self)?;
        tx.finish().map_err(LedgerError::from)?;
        Ok(found)
    }

    fn connect(path: &Path, create: OpenFlags) -> Result<Self, LedgerError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | create;
        if create.contains(OpenFlags::SQLITE_OPEN_CREATE) {
            shared::sqlite::keep_private(path).map_err(LedgerError::Unreadable)?;
        }
        let mut conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        enter_wal(&conn)?;
        // NORMAL loses commits on a power cut; what was acknowledged must stay.
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "foreign_keys", true)?;
        conn.set_prepared_statement_cache_capacity(64);
        schema::migrate(&mut conn)?;
        // The log stands beside the ledger.
        let custody = CustodyFolder::at(path.parent().unwrap_or(Path::new(".")));
        Ok(Self { conn, custody })
    }

    fn begin(&mut self) -> Result<rusqlite::Transaction<'_>, LedgerError> {
        Ok(self.conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?)
    }
}

/// Switches a new ledger to WAL. Where two processes do so at once, or one begins while the last
/// one's log is being recovered, `SQLite` reports a lock without waiting for it: so we wait.
fn enter_wal(conn: &Connection) -> Result<(), LedgerError> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match conn.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return Ok(other?),
        }
    }
}

/// The database's integers are signed; whatever does not fit was refused before it came here.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The way back.
fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The columns origin, epoch, lane at `at`.
fn chain_name(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<ChainName> {
    let invalid = |column: usize| {
        rusqlite::Error::InvalidColumnType(column, "chain".into(), rusqlite::types::Type::Text)
    };
    Ok(ChainName {
        origin: row.get::<_, String>(at)?.parse().map_err(|_| invalid(at))?,
        epoch: Epoch(uint(row.get(at + 1)?)),
        lane: row.get::<_, String>(at + 2)?.parse().map_err(|_| invalid(at + 2))?,
    })
}
