//! What can go wrong in the buffer, and whose fault it is.

use std::path::PathBuf;

use rusqlite::ErrorCode;
use shared::record::{Lane, Sequence};

/// Why the buffer could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    /// The writer was told to give up while it could not commit. Nothing of it was acknowledged.
    #[error("gave up waiting for room in the buffer; {records} records were not committed")]
    Abandoned {
        /// The records that were waiting.
        records: u64,
    },
    /// A restore into this folder was interrupted.
    #[error(transparent)]
    Backup(#[from] shared::backup::BackupError),
    /// The database contradicts itself. It must not be written to.
    #[error("the buffer's database is broken: {0}")]
    Broken(String),
    /// A block failed its check after its bundle was planned: refreeze the plan, write it again.
    #[error("records {first} to {last} of lane {lane} are damaged on disk")]
    Damaged {
        /// The lane.
        lane: Lane,
        /// The first damaged record.
        first: Sequence,
        /// The last damaged record.
        last: Sequence,
    },
    /// Somebody else wrote to the database.
    #[error(
        "the buffer was written to by something else: expected group {expected}, found {found}"
    )]
    Diverged {
        /// The last group that this writer committed.
        expected: u64,
        /// The last group in the database.
        found: u64,
    },
    /// A file or folder could not be used.
    #[error("can't use {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another agent uses this buffer.
    #[error("{path} is locked: another agent uses this buffer\n  try: stop it first")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The database was made by a newer program.
    #[error(
        "{path} has schema version {found}, this program knows up to {known}\n  \
         try: install the newer program again; the database was not touched"
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// There is no such bundle, or it is not in the state this step begins from.
    #[error("bundle {number} of lane {lane} is not {expected}")]
    NotInState {
        /// The lane.
        lane: Lane,
        /// The bundle's number.
        number: u64,
        /// The state it should have been in.
        expected: &'static str,
    },
    /// The database belongs to another origin than the configuration names.
    #[error(
        "{path} holds records of origin {found}, not of {configured}\n  try: mend the \
             configuration, or give this origin a buffer folder of its own"
    )]
    OtherOrigin {
        /// The database.
        path: PathBuf,
        /// The origin in the database.
        found: String,
        /// The origin in the configuration.
        configured: String,
    },
    /// `SQLite` failed.
    #[error("the buffer's database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A thread could not be started.
    #[error("can't start the buffer's writer: {0}")]
    Thread(std::io::Error),
}

impl BufferError {
    /// Whether what is on disk is not what was written. Whoever meets this while writing should
    /// call [`super::mark_broken`] and end the process: the next start sets the database aside.
    pub fn is_broken(&self) -> bool {
        self.fault() == Fault::Corrupt
    }

    /// What to do about it.
    pub(super) fn fault(&self) -> Fault {
        match self {
            BufferError::Broken(_) => Fault::Corrupt,
            BufferError::Sqlite(err) => sqlite_fault(err),
            _ => Fault::Other,
        }
    }

    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| BufferError::Io { path, source }
    }
}

/// The kinds of failure that are answered differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Somebody else holds the write lock: wait.
    Busy,
    /// What is on disk is not what was written: set it aside.
    Corrupt,
    /// No room: wait for it.
    Full,
    /// Reading, writing or syncing failed: nothing in memory can be trusted, reopen.
    Io,
    /// Permissions, our own defects, anything else: stop and say so.
    Other,
}

pub(super) fn sqlite_fault(err: &rusqlite::Error) -> Fault {
    use rusqlite::Error;
    match err {
        Error::SqliteFailure(err, _) => match err.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Fault::Busy,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig => {
                Fault::Corrupt
            }
            ErrorCode::DiskFull => Fault::Full,
            ErrorCode::SystemIoFailure => Fault::Io,
            _ => Fault::Other,
        },
        // A value of another type than the one that was stored.
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::Utf8Error(..) => Fault::Corrupt,
        _ => Fault::Other,
    }
}
