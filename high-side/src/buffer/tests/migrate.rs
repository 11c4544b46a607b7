//! Databases of earlier versions of the tables, and migrations that were cut off.

use std::fs;

use rusqlite::{Connection, params_from_iter};

use super::super::checked::{number, seal_row, text, time};
use super::super::lane::LaneState;
use super::super::open::DATABASE;
use super::super::schema::{self, APPLICATION_ID, MIGRATIONS, VERSION};
use super::*;

/// A database as the program made it whose newest version of the tables was this one.
fn of_version(dir: &Path, version: i64) -> Connection {
    let path = dir.join(DATABASE);
    fs::write(&path, b"").unwrap();
    let conn = schema::connect(&path, true).unwrap();
    conn.pragma_update(None, "page_size", 4096).unwrap();
    schema::set_durable(&conn, &settings(dir)).unwrap();
    let steps = usize::try_from(version).unwrap();
    MIGRATIONS[..steps].iter().for_each(|step| conn.execute_batch(step).unwrap());
    conn.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    conn.pragma_update(None, "user_version", version).unwrap();
    let life = seal_row("life", vec![number(1), text("plant-7"), number(7), time(START)]);
    conn.execute("INSERT INTO life VALUES (?1, ?2, ?3, ?4, ?5)", params_from_iter(life)).unwrap();
    for lane in Lane::ALL {
        LaneState::new(lane).store(&conn).unwrap();
    }
    conn
}

fn expect_usable(dir: &Path, version: i64) {
    let (mut buffer, recovery) = open(dir);
    assert_eq!((recovery.opened, recovery.epoch.0), (Opened::Continued, 7), "version {version}");
    append(&mut buffer, Lane::Routine, &[vec![b"one".to_vec()]]);
    let store = buffer.store().unwrap();
    assert_adds_up(&store);
    let found: i64 = store.conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(found, VERSION);
}

#[test]
fn a_buffer_of_every_version_goes_on_also_where_a_migration_was_cut_off() {
    for version in 1..VERSION {
        let dir = tempfile::tempdir().unwrap();
        let conn = of_version(dir.path(), version);
        // Killed when every step is done and nothing is committed: what is on the disk then.
        conn.execute_batch("PRAGMA cache_spill = 1; PRAGMA cache_size = 1; BEGIN IMMEDIATE")
            .unwrap();
        let steps = usize::try_from(version).unwrap();
        MIGRATIONS[steps..].iter().for_each(|step| conn.execute_batch(step).unwrap());
        conn.pragma_update(None, "user_version", VERSION).unwrap();
        let killed = tempfile::tempdir().unwrap();
        for end in ["", "-wal"] {
            let name = format!("{DATABASE}{end}");
            fs::copy(dir.path().join(&name), killed.path().join(&name)).unwrap();
        }
        conn.execute_batch("ROLLBACK").unwrap();
        drop(conn);
        expect_usable(dir.path(), version);
        expect_usable(killed.path(), version);
    }
}

#[test]
fn a_buffer_of_a_later_version_is_refused_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let conn = of_version(dir.path(), VERSION);
    conn.execute_batch("CREATE TABLE of_a_later_version (id INTEGER PRIMARY KEY) STRICT").unwrap();
    conn.pragma_update(None, "user_version", VERSION + 1).unwrap();
    schema::checkpoint(&conn).unwrap();
    drop(conn);
    let before = fs::read(dir.path().join(DATABASE)).unwrap();
    let refused = Buffer::open(settings(dir.path()), &"plant-7".parse().unwrap(), clock());
    assert!(matches!(refused, Err(BufferError::NewerSchema { .. })));
    let aside = Store::open_set_aside(dir.path());
    assert!(matches!(aside, Err(BufferError::NewerSchema { .. })));
    assert_eq!(fs::read(dir.path().join(DATABASE)).unwrap(), before);
}
