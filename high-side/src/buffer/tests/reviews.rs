//! Bundles that wait for officers.

use rusqlite::Connection;
use shared::bundle::{BundleDigest, ReleaseStatement, SealReason};
use shared::keys::{OfficerKey, summary_commitment};
use shared::record::Lane;

use super::*;

#[test]
fn what_waits_gets_out_by_a_release_alone() {
    let (dir, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut buffer, _) = open(dir.path());
    append(&mut buffer, Lane::Routine, &[(1..=20).map(raw).collect()]);
    let mut store = buffer.store().unwrap();
    let plan = |store: &mut Store, reason| {
        store.plan_bundle(Lane::Routine, NO_LIMITS, reason, START).unwrap().unwrap()
    };
    let planned = plan(&mut store, SealReason::Age);
    let summary = BundleDigest::of(b"summary");
    let commitment = summary_commitment(summary.as_bytes());
    let file = sealed_file(1);
    let sealed = store.mark_sealed_for_review(planned, file.clone(), commitment).unwrap();
    let review = store.review(Lane::Routine, 1).unwrap().unwrap();
    assert_eq!((review.commitment, review.refused), (commitment, None));
    assert_adds_up(&store);

    let not_in = |result: Result<Bundle, BufferError>| {
        assert!(matches!(result, Err(BufferError::NotInState { .. })), "{result:?}");
    };
    not_in(store.mark_ready(&sealed, START));
    not_in(store.mark_released(&sealed, 9, [9; 32]));
    let waiting = store.mark_awaiting_release(&sealed).unwrap();
    not_in(store.mark_ready(&waiting, START));
    not_in(store.mark_handed_over(&waiting, "export", START));

    let statement = ReleaseStatement { bundle: file.digest, summary };
    let key = OfficerKey::generate(keys.path(), "alice", None).unwrap();
    let signature = key.sign(&statement).unwrap();
    let add = |store: &mut Store| {
        store.add_release(&waiting, "alice", &statement, &signature, START).unwrap()
    };
    assert!(add(&mut store) && !add(&mut store));
    let stored = store.releases(Lane::Routine, 1).unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0].summary, stored[0].officer.as_str()), (summary, "alice"));
    assert_eq!(stored[0].signature, signature.armored());
    assert_eq!(store.releases_after(0).unwrap(), stored);
    assert_eq!(store.releases_after(store.last_release().unwrap()).unwrap(), []);

    // All of it is there after a restart.
    drop((store, buffer));
    let (buffer, recovery) = open(dir.path());
    assert_eq!(recovery.opened, Opened::Continued);
    let mut store = buffer.store().unwrap();
    let released = store.mark_released(&waiting, 9, [9; 32]).unwrap();
    assert_eq!(released.file.as_ref().map(|file| (file.bytes, file.sha256)), Some((9, [9; 32])));
    let ready = store.mark_ready(&released, START).unwrap();
    assert_eq!(ready.state, BundleState::Ready);

    let heartbeat = plan(&mut store, SealReason::Heartbeat);
    let sealed = store.mark_sealed_for_review(heartbeat, sealed_file(2), commitment).unwrap();
    let waiting = store.mark_awaiting_release(&sealed).unwrap();
    let by = RefusedBy { at: START, officer: "bob".to_owned(), reason: "a name".to_owned() };
    let refused = store.mark_refused(&waiting, by.clone()).unwrap();
    not_in(store.mark_released(&refused, 9, [9; 32]));
    not_in(store.mark_ready(&refused, START));
    assert_eq!(store.review(Lane::Routine, 2).unwrap().unwrap().refused, Some(by));
    assert_adds_up(&store);
}

#[test]
fn a_release_that_was_put_in_by_hand_is_noticed() {
    let (dir, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut buffer, _) = open(dir.path());
    append(&mut buffer, Lane::Routine, &[vec![raw(1)]]);
    let mut store = buffer.store().unwrap();
    let planned =
        store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Age, START).unwrap().unwrap();
    let sealed = store.mark_sealed_for_review(planned, sealed_file(1), [1; 32]).unwrap();
    let waiting = store.mark_awaiting_release(&sealed).unwrap();
    let statement =
        ReleaseStatement { bundle: sealed_file(1).digest, summary: BundleDigest::of(b"s") };
    let key = OfficerKey::generate(keys.path(), "alice", None).unwrap();
    let signature = key.sign(&statement).unwrap();
    store.add_release(&waiting, "alice", &statement, &signature, START).unwrap();
    let conn = Connection::open(dir.path().join("buffer.db")).unwrap();
    conn.execute("UPDATE \"release\" SET officer = 'bob'", []).unwrap();
    let releases = store.releases(Lane::Routine, 1);
    assert!(matches!(releases, Err(BufferError::Broken(_))), "{releases:?}");
}
