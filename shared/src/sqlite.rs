//! What both sides do with their `SQLite` databases: copies of them while they are written to, and where
//! temporary files go.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::backup::BackupError;
use crate::durable;

/// Records and their accounts are for the agent alone.
const MODE: u32 = 0o600;
/// Copied between two looks at the progress, in bytes.
const STEP_BYTES: u64 = 4 << 20;
/// The pause where the other side of the copy is busy. Nobody but us has the copy.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// What must stay free while a copy stands beside the database: the agent writes on.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// Has `SQLite` keep its temporary files, as for a statement that changes much, in this folder and not in one
/// of the system, which a confined agent does not reach. Holds for the whole process, and is called before
/// its first thread starts.
pub fn keep_temporary_files(dir: &Path) -> rusqlite::Result<()> {
    let dir = dir.to_string_lossy();
    Connection::open_in_memory()?.pragma_update(None, "temp_store_directory", dir)
}

/// Keeps a database to its owner: makes the file where there is none, and closes one that an earlier version
/// left open to its group. `SQLite` gives the files beside it the database's mode.
///
/// # Errors
/// Whatever the system says of the file.
pub fn keep_private(path: &Path) -> io::Result<()> {
    match durable::create_new(path, MODE) {
        Ok(_) => return Ok(()),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
        Err(err) => return Err(err),
    }
    for ending in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        match std::fs::symlink_metadata(&name) {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o077 != 0 => {
                std::fs::set_permissions(&name, Permissions::from_mode(MODE))?;
            }
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
    }
    Ok(())
}

/// Copies a database of the folder `dir` to `to`, a new file, as it is in the transaction that `source` is in: by
/// `SQLite`'s online backup, so that no write makes it begin anew. `progress` is told how many bytes are
/// done, and of how many; `io` makes an error of what the system said of a path. Gives what
/// `PRAGMA quick_check` says of the copy: `ok`, or what is wrong.
pub fn copy<E: From<rusqlite::Error> + From<BackupError>>(
    source: &Connection,
    dir: &Path,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
    io: impl Fn(&Path, io::Error) -> E,
) -> Result<String, E> {
    let number = |pragma: &str| -> rusqlite::Result<u64> {
        source.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    };
    let (page_bytes, pages) = (number("page_size")?, number("page_count")?);
    let free = durable::free_bytes(dir).map_err(|err| io(dir, err))?;
    let need = pages.saturating_mul(page_bytes).saturating_add(FREE_BYTES_MIN);
    if free < need {
        return Err(BackupError::Room { path: dir.to_owned(), free, need }.into());
    }
    drop(durable::create_new(to, MODE).map_err(|err| io(to, err))?);
    let mut copy = Connection::open(to)?;
    // A copy that a power cut takes is made anew.
    copy.pragma_update(None, "synchronous", "OFF")?;
    let step_pages = i32::try_from(STEP_BYTES / page_bytes.max(1)).unwrap_or(1).max(1);
    {
        let backup = Backup::new(source, &mut copy)?;
        loop {
            let step = backup.step(step_pages)?;
            let at = backup.progress();
            let done = u64::try_from(at.pagecount - at.remaining).unwrap_or(0);
            progress(done * page_bytes, pages * page_bytes);
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => std::thread::sleep(BUSY_PAUSE),
            }
        }
    }
    Ok(copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_and_the_files_beside_it_are_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let mode = |name: &str| {
            let meta = std::fs::metadata(dir.path().join(name)).unwrap();
            meta.permissions().mode() & 0o777
        };
        keep_private(&path).unwrap();
        let open = || {
            let conn = Connection::open(&path).unwrap();
            conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t (x)")
                .unwrap();
            conn
        };
        let conn = open();
        assert_eq!((mode("x.db"), mode("x.db-wal"), mode("x.db-shm")), (0o600, 0o600, 0o600));
        // As an earlier version left it, with a log that a kill left beside it.
        for name in ["x.db", "x.db-wal"] {
            std::fs::set_permissions(dir.path().join(name), Permissions::from_mode(0o640)).unwrap();
        }
        keep_private(&path).unwrap();
        assert_eq!((mode("x.db"), mode("x.db-wal")), (0o600, 0o600));
        drop(conn);
        open();
    }
}
