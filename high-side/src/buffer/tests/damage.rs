//! Bits that flip on the disk: every change is found with its exact range, or the database is set
//! aside; nothing panics and nothing wrong is handed on.

use std::fs;

use rusqlite::Connection;
use shared::bundle::SealReason;
use shared::record::{Lane, Sequence};

use super::*;

/// Ten blocks of ten records.
fn filled(dir: &std::path::Path) {
    let (mut buffer, _) = open(dir);
    let batches: Vec<_> = (0..10).map(|n| (1..=10).map(|m| raw(10 * n + m)).collect()).collect();
    append(&mut buffer, Lane::Routine, &batches);
}

#[test]
fn damaged_blocks_are_named_exactly_set_aside_and_declared() {
    let changes = [
        ("UPDATE body SET body = zeroblob(length(body)) WHERE id & 0xFFFF = 31", (31, 40)),
        ("DELETE FROM body WHERE id & 0xFFFF = 31", (31, 40)),
        ("DELETE FROM block WHERE id & 0xFFFF = 31", (31, 40)),
        ("UPDATE block SET records = 9 WHERE id & 0xFFFF = 31", (31, 40)),
        ("UPDATE block SET id = id + 3 WHERE id & 0xFFFF = 31", (31, 40)),
        ("UPDATE block SET streams = 'falco 10 999' WHERE id & 0xFFFF = 31", (31, 40)),
        ("UPDATE block SET newest_ns = 1 WHERE id & 0xFFFF = 1", (1, 10)),
        ("UPDATE block SET previous = zeroblob(32) WHERE id & 0xFFFF = 91", (91, 100)),
        ("DELETE FROM block WHERE id & 0xFFFF IN (31, 41)", (31, 50)),
        ("DELETE FROM body WHERE id & 0xFFFF = 91", (91, 100)),
    ];
    for (change, (first, last)) in changes {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let conn = Connection::open(dir.path().join("buffer.db")).unwrap();
        conn.execute_batch(change).unwrap();
        drop(conn);
        let (buffer, recovery) = open(dir.path());
        assert_eq!(recovery.opened, Opened::Continued, "{change}");
        let mut store = buffer.store().unwrap();
        let range =
            DamagedRange { lane: Lane::Routine, first: Sequence(first), last: Sequence(last) };
        assert_eq!(store.verify(|_| ()).unwrap(), [range], "{change}");

        let planned =
            store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Age, START).unwrap().unwrap();
        assert_eq!(planned.losses().len(), 1, "{change}");
        let loss = &planned.losses()[0];
        assert_eq!(loss.range, Some((Sequence(first), Sequence(last))), "{change}");
        assert_eq!(loss.count, last - first + 1);
        assert_eq!(planned.bundle().records + loss.count, 100);
        let whole: Vec<_> = (1..=100)
            .filter(|number| !(first..=last).contains(number))
            .map(|number| (number, raw(number)))
            .collect();
        assert_eq!(read(&store, &planned), whole, "{change}");
        assert_adds_up(&store);
        assert_eq!(store.alarms(false).unwrap()[0].kind, "block-damaged");
        let kept: i64 =
            store.conn.query_row("SELECT count(*) FROM damaged", [], |row| row.get(0)).unwrap();
        assert!(kept >= 1, "{change}");
        let head = planned.bundle().chain_head;
        store.mark_sealed(planned, sealed_file(1)).unwrap();
        assert_adds_up(&store);
        assert_eq!(store.verify(|_| ()).unwrap(), [], "{change}");
        let next = store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Heartbeat, START);
        assert_eq!(next.unwrap().unwrap().bundle().chain_before, head, "{change}");
    }
}

#[test]
fn damage_after_planning_stops_the_reading_and_a_refreeze_declares_it() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let (buffer, _) = open(dir.path());
    let mut store = buffer.store().unwrap();
    let planned =
        store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Age, START).unwrap().unwrap();
    store.conn.execute_batch("DELETE FROM body WHERE id & 0xFFFF = 51").unwrap();
    let result = store.read_blocks::<BufferError>(&planned, |_| Ok(()));
    let Err(BufferError::Damaged { first: Sequence(51), last: Sequence(60), .. }) = result else {
        panic!("{result:?}");
    };
    let planned = store.refreeze(&planned, START).unwrap();
    assert_eq!((planned.bundle().number, planned.bundle().records), (1, 90));
    assert_eq!(read(&store, &planned).len(), 90);
    assert_adds_up(&store);
    // Once more changes nothing.
    assert_eq!(store.refreeze(&planned, START).unwrap(), planned);
    assert_eq!(store.planned_bundles().unwrap(), [planned]);
}

#[test]
fn random_bit_flips_are_found_or_the_database_is_set_aside() {
    let original = tempfile::tempdir().unwrap();
    filled(original.path());
    let bytes = fs::read(original.path().join("buffer.db")).unwrap();
    let epoch = fs::read(original.path().join("epoch")).unwrap();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below
    };
    let (mut set_aside, mut found, mut harmless, mut broke_later) = (0, 0, 0, 0);
    for round in 0..400 {
        let dir = tempfile::tempdir().unwrap();
        let mut flipped = bytes.clone();
        let flips: Vec<_> = (0..=round % 3).map(|_| (random(bytes.len()), random(8))).collect();
        for (at, bit) in &flips {
            flipped[*at] ^= 1 << bit;
        }
        fs::write(dir.path().join("buffer.db"), &flipped).unwrap();
        fs::write(dir.path().join("epoch"), &epoch).unwrap();
        let origin = "plant-7".parse().unwrap();
        let opened = Buffer::open(settings(dir.path()), &origin, clock());
        let (mut buffer, recovery) = opened.unwrap_or_else(|err| panic!("{flips:?}: {err}"));
        if recovery.opened != Opened::Continued {
            assert!(matches!(recovery.opened, Opened::SetAside { .. }), "{flips:?}: {recovery:?}");
            set_aside += 1;
            append(&mut buffer, Lane::Routine, &[vec![raw(1)]]);
            continue;
        }
        let mut store = buffer.store().unwrap();
        let damaged = store.verify(|_| ()).unwrap();
        let planned = store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Age, START);
        let planned = match planned {
            Err(err) if err.is_broken() => {
                // The agent would end here; its next start sets the database aside.
                mark_broken(dir.path(), &err.to_string()).unwrap();
                drop((store, buffer));
                assert!(matches!(open(dir.path()).1.opened, Opened::SetAside { .. }), "{flips:?}");
                broke_later += 1;
                continue;
            }
            planned => planned.unwrap_or_else(|err| panic!("{flips:?}: {err}")).unwrap(),
        };
        let named: Vec<_> = planned.losses().iter().filter_map(|loss| loss.range).collect();
        let ranges: Vec<_> = damaged.iter().map(|range| (range.first, range.last)).collect();
        assert_eq!(named, ranges, "{flips:?}");
        let lost = |n: &u64| ranges.iter().any(|r| (r.0.0..=r.1.0).contains(n));
        let whole: Vec<_> =
            (1..=100).filter(|n| !lost(n)).map(|number| (number, raw(number))).collect();
        assert_eq!(read(&store, &planned), whole, "{flips:?}");
        for (first, last) in &ranges {
            assert!((first.0 - 1) % 10 == 0 && last.0 % 10 == 0, "{flips:?}: {ranges:?}");
        }
        if damaged.is_empty() {
            harmless += 1;
        } else {
            found += 1;
        }
        // Whatever else is broken shows when it is written to, and never as a panic.
        let _ = store.mark_sealed(planned, sealed_file(1));
        let (intake, writer) = buffer.start_writer().unwrap();
        let _ = intake.submit_blocking(batch(
            Lane::Routine,
            shared::record::Stream::Other,
            &[raw(101)],
        ));
        drop(intake);
        let _ = writer.join();
    }
    println!("set aside {set_aside}, {broke_later} later, found {found}, harmless {harmless}");
    assert!(set_aside > 0 && found > 0 && harmless > 0);
}
