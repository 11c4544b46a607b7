//! Create, append, plan, seal, reopen, set aside.

use std::fs;

use rusqlite::Connection;
use shared::bundle::SealReason;
use shared::record::{Lane, Sequence};

use super::*;

#[test]
fn records_come_back_in_order_with_their_bytes_and_sums_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut buffer, recovery) = open(dir.path());
    assert_eq!(recovery.opened, Opened::Created);
    let raws: Vec<_> = (1..=700).map(raw).collect();
    append(&mut buffer, Lane::Routine, &[raws[..600].to_vec(), raws[600..].to_vec()]);
    append(&mut buffer, Lane::Flash, &[vec![b"urgent".to_vec(), Vec::new()]]);
    let mut store = buffer.store().unwrap();
    assert_adds_up(&store);
    let waiting = store.waiting(Lane::Routine).unwrap();
    assert_eq!((waiting.records, waiting.oldest), (700, Some(START)));
    assert_eq!(store.verify(|_| ()).unwrap(), []);

    let planned =
        store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Age, START).unwrap().unwrap();
    let expected: Vec<_> = (1..).zip(raws).collect();
    assert_eq!(read(&store, &planned), expected);
    assert_eq!(planned.bundle().last_sequence, Sequence(700));
    assert_eq!(planned.bundle().plain_bytes, waiting.plain_bytes);
    assert_eq!(store.waiting(Lane::Routine).unwrap().records, 0);
    assert_eq!(store.waiting(Lane::Routine).unwrap().plain_bytes, 0);
    assert_adds_up(&store);

    // Asked again, and after a restart, the same plan comes back.
    let again = store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Size, START).unwrap();
    assert_eq!(again.as_ref(), Some(&planned));
    drop((store, buffer));
    let (buffer, recovery) = open(dir.path());
    assert_eq!(recovery.opened, Opened::Continued);
    assert_eq!(
        recovery.last_sequences,
        [(Lane::Flash, Sequence(2)), (Lane::Routine, Sequence(700))]
    );
    let mut store = buffer.store().unwrap();
    let planned = store.planned_bundles().unwrap().remove(0);
    assert_eq!(read(&store, &planned), expected);

    let sealed = store.mark_sealed(planned, sealed_file(1)).unwrap();
    assert_adds_up(&store);
    let ready = store.mark_ready(&sealed, START).unwrap();
    assert!(matches!(store.mark_ready(&sealed, START), Err(BufferError::NotInState { .. })));
    let handed_over = store.mark_handed_over(&ready, "export", START).unwrap();
    store.mark_deleted(&handed_over, START).unwrap();
    let bundles = store.bundles(None).unwrap();
    assert_eq!(bundles.len(), 1);
    assert_eq!(bundles[0].state, BundleState::Deleted);
    assert_eq!(store.last_sealed(Lane::Routine).unwrap(), Some(START));
    let next = store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Heartbeat, START).unwrap();
    let next = next.unwrap();
    assert_eq!((next.bundle().number, next.bundle().records), (2, 0));
    assert_eq!(next.bundle().previous_digest, sealed_file(1).digest);
    assert_eq!((next.bundle().first_sequence.0, next.bundle().last_sequence.0), (701, 700));
    assert_eq!(next.bundle().chain_before, next.bundle().chain_head);
    assert_eq!(read(&store, &next), []);
}

#[test]
fn a_plan_keeps_to_its_limits_by_whole_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (mut buffer, _) = open(dir.path());
    let batches: Vec<_> = (0..10).map(|n| (1..=10).map(|m| raw(10 * n + m)).collect()).collect();
    append(&mut buffer, Lane::Routine, &batches);
    let mut store = buffer.store().unwrap();
    let mut last = 0;
    for (number, (limits, records)) in (1..).zip([
        (PlanLimits { records_max: 25, ..NO_LIMITS }, 20),
        (PlanLimits { records_max: 1, ..NO_LIMITS }, 10),
        (PlanLimits { plain_bytes_max: 1, ..NO_LIMITS }, 10),
        (NO_LIMITS, 60),
    ]) {
        let planned =
            store.plan_bundle(Lane::Routine, limits, SealReason::Count, START).unwrap().unwrap();
        assert_eq!(planned.bundle().number, number);
        assert_eq!(planned.bundle().records, records);
        assert_eq!(planned.bundle().first_sequence.0, last + 1);
        assert_eq!(read(&store, &planned).len() as u64, records);
        last += records;
        assert_adds_up(&store);
        store.mark_sealed(planned, sealed_file(number)).unwrap();
    }
    assert_eq!(store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Age, START).unwrap(), None);
}

#[test]
fn sealed_blocks_are_deleted_by_the_writer_and_their_space_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut buffer, _) = open(dir.path());
    append(&mut buffer, Lane::Routine, &[(1..=400).map(raw).collect()]);
    let mut store = buffer.store().unwrap();
    let planned =
        store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Age, START).unwrap().unwrap();
    store.mark_sealed(planned, sealed_file(1)).unwrap();
    let (intake, writer) = buffer.start_writer().unwrap();
    let conn = Connection::open(dir.path().join("buffer.db")).unwrap();
    until("the blocks are deleted", || {
        conn.query_row("SELECT count(*) FROM body", [], |row| row.get::<_, i64>(0)).unwrap() == 0
    });
    drop((intake, conn));
    writer.join().unwrap();
    assert_adds_up(&store);
    append(&mut buffer, Lane::Routine, &[vec![raw(401)]]);
    assert_eq!(store.waiting(Lane::Routine).unwrap().last_sequence, 401);
    assert_adds_up(&store);
}

#[test]
fn losses_wait_for_a_bundle_and_those_of_one_listener_become_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut buffer, _) = open(dir.path());
    let (intake, writer) = buffer.start_writer().unwrap();
    let losses = intake.loss_sink();
    for (listener, count) in [("udp", 3), ("udp", 4), ("other", 1)] {
        let (lane, reason, listener) =
            (Lane::Routine, LossReason::UdpReceiveQueue, listener.into());
        let loss = LostBefore { lane, reason, listener, count, from: START, to: START };
        losses.declare_blocking(loss).unwrap();
    }
    drop((intake, losses));
    writer.join().unwrap();
    let mut store = buffer.store().unwrap();
    assert_eq!(store.waiting(Lane::Routine).unwrap().oldest_loss, Some(START));
    let planned =
        store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Age, START).unwrap().unwrap();
    let counts: Vec<_> =
        planned.losses().iter().map(|loss| (loss.listener.as_str(), loss.count)).collect();
    assert_eq!(counts, [("udp", 7), ("other", 1)]);
    assert_eq!(store.waiting(Lane::Routine).unwrap().oldest_loss, None);
    assert_eq!(store.totals().unwrap()[1].lost_before, 8);
}

#[test]
fn only_one_agent_has_the_buffer() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = open(dir.path());
    let origin = "plant-7".parse().unwrap();
    let second = Buffer::open(settings(dir.path()), &origin, clock());
    assert!(matches!(second, Err(BufferError::Locked { .. })), "{second:?}");
    drop(buffer);
    open(dir.path());
}

#[test]
fn a_newer_version_and_another_origin_are_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let path = dir.path().join("buffer.db");
    let other = Buffer::open(settings(dir.path()), &"other".parse().unwrap(), clock());
    assert!(matches!(other, Err(BufferError::OtherOrigin { .. })), "{other:?}");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE newer (x); PRAGMA user_version = 99").unwrap();
    drop(conn);
    let before = fs::read(&path).unwrap();
    let newer = Buffer::open(settings(dir.path()), &"plant-7".parse().unwrap(), clock());
    assert!(matches!(newer, Err(BufferError::NewerSchema { found: 99, .. })), "{newer:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

/// What breaks a database file.
type Breakage = fn(&std::path::Path);

#[test]
fn a_broken_database_is_set_aside_and_a_new_epoch_begins() {
    let cases: [(&str, Breakage); 8] = [
        ("foreign file", |db| {
            fs::write(db, b"not a database, but long enough to be one").unwrap();
        }),
        ("truncated", |db| {
            let bytes = fs::read(db).unwrap();
            fs::write(db, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("application id", |db| sql(db, "PRAGMA application_id = 1")),
        ("version flipped", |db| {
            sql(db, "PRAGMA user_version = 65537");
        }),
        ("tail missing", |db| {
            sql(db, "DELETE FROM block WHERE id = (SELECT max(id) FROM block)");
        }),
        ("lane changed", |db| {
            sql(db, "UPDATE lane SET next_bundle = 9");
        }),
        ("lane missing", |db| sql(db, "DELETE FROM lane")),
        ("table missing", |db| sql(db, "DROP TABLE damaged")),
    ];
    for (name, break_it) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (mut buffer, first) = open(dir.path());
        append(&mut buffer, Lane::Routine, &[(1..=50).map(raw).collect(), vec![raw(51)]]);
        drop(buffer);
        let path = dir.path().join("buffer.db");
        break_it(&path);
        let broken = fs::read(&path).unwrap();
        let (mut buffer, recovery) = open(dir.path());
        let Opened::SetAside { to, why } = &recovery.opened else {
            panic!("{name}: {recovery:?}");
        };
        assert_eq!(fs::read(to.join("buffer.db")).unwrap(), broken, "{name}: {why}");
        assert!(recovery.epoch > first.epoch, "{name}");
        let store = buffer.store().unwrap();
        let kinds: Vec<_> = store.alarms(false).unwrap().into_iter().map(|a| a.kind).collect();
        assert_eq!(kinds, ["epoch-began", "buffer-set-aside"], "{name}");
        assert_eq!(store.acknowledge(None, START).unwrap(), 2);
        assert_eq!(store.alarms(false).unwrap(), []);
        append(&mut buffer, Lane::Routine, &[vec![raw(1)]]);
        drop((store, buffer));

        // A second one, in the same second, goes to a folder of its own.
        break_it(&path);
        let (_, again) = open(dir.path());
        let Opened::SetAside { to: second, .. } = again.opened else {
            panic!("{name}: {again:?}");
        };
        assert!(second != *to && again.epoch > recovery.epoch, "{name}");
    }
}

fn sql(path: &std::path::Path, statements: &str) {
    Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

#[test]
fn a_lost_database_begins_a_later_epoch_even_if_the_clock_went_back() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).1.epoch;
    fs::remove_file(dir.path().join("buffer.db")).unwrap();
    let back: Arc<dyn Clock> = Arc::new(FakeClock::at(Nanos(5)));
    let origin = "plant-7".parse().unwrap();
    let (_, recovery) = Buffer::open(settings(dir.path()), &origin, back).unwrap();
    assert_eq!(recovery.opened, Opened::Created);
    assert_eq!(recovery.epoch.0, first.0 + 1);
}

#[test]
fn a_log_without_its_database_is_set_aside_before_sqlite_can_delete_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    fs::remove_file(dir.path().join("buffer.db")).unwrap();
    fs::write(dir.path().join("buffer.db-wal"), b"frames").unwrap();
    let Opened::SetAside { to, .. } = open(dir.path()).1.opened else { panic!("not set aside") };
    assert_eq!(fs::read(to.join("buffer.db-wal")).unwrap(), b"frames");
}

#[test]
fn a_lack_of_permission_sets_nothing_aside() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let path = dir.path().join("buffer.db");
    fs::remove_file(&path).unwrap();
    // A folder can't be opened as a database, whoever asks; root may open anything else.
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let refused = Buffer::open(settings(dir.path()), &"plant-7".parse().unwrap(), clock());
    assert!(refused.is_err());
    assert!(path.is_dir());
}
