use shared::record::Lane;

use super::*;
use crate::ledger::open_or_set_aside;
use crate::testing::{Chain, START, Site, names};

fn sums_add_up(importer: &mut Importer<shared::clock::FakeClock>) -> (u64, u64, u64, u64) {
    let sums = importer.ledger.sums().unwrap();
    assert_eq!(sums.received, sums.admitted + sums.duplicate + sums.quarantined);
    (sums.received, sums.admitted, sums.duplicate, sums.quarantined)
}

fn code(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Admitted { code, .. }
        | Outcome::Quarantined { code, .. }
        | Outcome::Ignored { code, .. } => code,
        Outcome::Duplicate { .. } => "duplicate",
        Outcome::Restored { .. } => "restored",
        Outcome::Incomplete => "incomplete",
    }
}

#[test]
fn a_bundle_is_admitted_once() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    let path = site.seal(&mut chain, &["one", "two"]);
    let mut importer = site.importer();
    let first = importer.import(&path, Sidecar::Absent, |_| {}).unwrap();
    assert!(matches!(first, Outcome::Admitted { records: 2, code: "fresh", .. }), "{first:?}");
    assert_eq!(code(&importer.import(&path, Sidecar::Absent, |_| {}).unwrap()), "duplicate");
    assert_eq!(sums_add_up(&mut importer), (2, 1, 1, 0));
    assert_eq!(names(&site.folders.staging).len(), 0);
    let stored = names(&site.folders.store);
    assert!(stored[0].starts_with("plant-7-1-routine-0000000001-"), "{stored:?}");
    assert_eq!(
        std::fs::read(site.folders.store.join(&stored[0])).unwrap(),
        std::fs::read(&path).unwrap()
    );
    assert!(path.exists(), "the original is the caller's");
}

#[test]
fn a_duplicate_mends_the_store() {
    let site = Site::new();
    let path = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
    let mut importer = site.importer();
    importer.import(&path, Sidecar::Absent, |_| {}).unwrap();
    let stored = site.folders.store.join(&names(&site.folders.store)[0]);
    std::fs::remove_file(&stored).unwrap();
    assert_eq!(code(&importer.import(&path, Sidecar::Absent, |_| {}).unwrap()), "duplicate");
    assert_eq!(std::fs::read(stored).unwrap(), std::fs::read(&path).unwrap());
}

#[test]
fn a_refused_file_is_kept_once_with_its_reason() {
    let site = Site::new();
    let path = site.dir.path().join("evil\x1b[2J.pstk");
    std::fs::write(&path, b"no bundle at all").unwrap();
    let mut importer = site.importer();
    for _ in 0..2 {
        let outcome = importer.import(&path, Sidecar::Absent, |_| {}).unwrap();
        assert_eq!(code(&outcome), "container-malformed");
    }
    assert_eq!(sums_add_up(&mut importer), (2, 0, 0, 2));
    let reasons = Quarantine::at(&site.folders.quarantine).list().unwrap();
    assert_eq!(reasons.len(), 1);
    assert_eq!(reasons[0].name, "evil\\x1b[2J.pstk");
    assert_eq!(names(&site.folders.quarantine).len(), 2);
    // Refused again by a retry, it is the same two visits.
    importer.retry(&reasons[0].sha256).unwrap();
    assert_eq!(sums_add_up(&mut importer), (2, 0, 0, 2));
}

#[test]
fn a_retry_that_succeeds_leaves_the_quarantine() {
    let site = Site::new();
    let path = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
    let mut importer = site.importer();
    let trusted = importer.keys.clone();
    let nobody = Keys {
        trust: Trust::default(),
        identities: Identities::load_dir(&site.dir.path().join("keys")).unwrap(),
    };
    importer.keys = KeyRing::new(nobody);
    for _ in 0..3 {
        assert_eq!(
            code(&importer.import(&path, Sidecar::Absent, |_| {}).unwrap()),
            "origin-unknown"
        );
    }
    importer.keys = trusted;
    let reason = Quarantine::at(&site.folders.quarantine).list().unwrap().remove(0);
    assert_eq!(code(&importer.retry(&reason.sha256).unwrap()), "fresh");
    assert_eq!(sums_add_up(&mut importer), (3, 1, 2, 0));
    assert_eq!(names(&site.folders.quarantine).len(), 0);
}

#[test]
fn a_fork_keeps_both_files() {
    let site = Site::new();
    let one = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
    shared::durable::rename(&one, &site.dir.path().join("first")).unwrap();
    let other = site.seal(&mut Chain::new(1, Lane::Routine), &["other"]);
    let mut importer = site.importer();
    let first = importer.import(&site.dir.path().join("first"), Sidecar::Absent, |_| {}).unwrap();
    assert_eq!(code(&first), "fresh");
    assert_eq!(code(&importer.import(&other, Sidecar::Absent, |_| {}).unwrap()), "fork");
    assert_eq!(names(&site.folders.store).len(), 1);
    assert_eq!(names(&site.folders.quarantine).len(), 2);
}

#[test]
fn sidecars_are_waited_for_or_insisted_on() {
    let site = Site::new();
    let path = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
    let mut importer = site.importer();
    let wrong = BundleDigest::of(b"something else");
    let waits = importer.import(&path, Sidecar::Expect(wrong), |_| {}).unwrap();
    assert_eq!(code(&waits), "incomplete");
    assert_eq!(sums_add_up(&mut importer), (0, 0, 0, 0));
    let refused = importer.import(&path, Sidecar::Insist(Some(wrong)), |_| {}).unwrap();
    assert_eq!(code(&refused), "digest-sidecar");
    let right = BundleDigest::of(&std::fs::read(&path).unwrap());
    assert_eq!(
        code(&importer.import(&path, Sidecar::Insist(Some(right)), |_| {}).unwrap()),
        "fresh"
    );
    assert_eq!(sums_add_up(&mut importer), (2, 1, 0, 1));
}

#[test]
fn half_a_bundle_is_waited_for_and_another_refusal_is_not() {
    let site = Site::new();
    let path = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
    let whole = std::fs::read(&path).unwrap();
    let mut importer = site.importer();
    for bytes in [0, 600, whole.len() - 512] {
        std::fs::write(&path, &whole[..bytes]).unwrap();
        let half = importer.import(&path, Sidecar::AbsentYet, |_| {}).unwrap();
        assert_eq!(code(&half), "incomplete", "{bytes}");
    }
    assert_eq!(sums_add_up(&mut importer), (0, 0, 0, 0));
    let refused = importer.import(&path, Sidecar::Absent, |_| {}).unwrap();
    assert_eq!(code(&refused), "container-malformed");
    let mut flipped = whole.clone();
    flipped[whole.iter().rposition(|byte| *byte != 0).unwrap()] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    let refused = importer.import(&path, Sidecar::AbsentYet, |_| {}).unwrap();
    assert_eq!(code(&refused), "payload-digest-mismatch");
    std::fs::write(&path, whole).unwrap();
    assert_eq!(code(&importer.import(&path, Sidecar::AbsentYet, |_| {}).unwrap()), "fresh");
}

#[test]
fn what_can_t_be_read_is_a_fault_and_not_ignored() {
    let site = Site::new();
    let mut importer = site.importer();
    // A regular file whose first byte gives EIO.
    let unreadable = importer.import(Path::new("/proc/self/mem"), Sidecar::Absent, |_| {});
    assert!(matches!(unreadable, Err(ImportError::Stage(StageError::Read(_)))), "{unreadable:?}");
    let folder = importer.import(site.dir.path(), Sidecar::Absent, |_| {}).unwrap();
    assert_eq!(code(&folder), "not-a-file");
    let path = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
    let denied = Sidecar::Unreadable(std::io::ErrorKind::PermissionDenied);
    let waits = importer.import(&path, denied, |_| {});
    assert!(matches!(waits, Err(ImportError::Sidecar(_))), "{waits:?}");
    assert_eq!(sums_add_up(&mut importer), (0, 0, 0, 0));
}

#[test]
fn a_file_of_the_store_that_only_the_keys_speak_against_stays() {
    let site = Site::new();
    let path = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
    let mut importer = site.importer();
    let trusted = importer.keys.clone();
    let identities = || Identities::load_dir(&site.dir.path().join("keys")).unwrap();
    importer.keys = KeyRing::new(Keys { trust: Trust::default(), identities: identities() });
    std::fs::copy(&path, site.folders.store.join("stray.pstk")).unwrap();
    assert_eq!(code(&importer.readmit("stray.pstk").unwrap()), "origin-unknown");
    assert_eq!(names(&site.folders.store), ["stray.pstk"]);
    assert_eq!(names(&site.folders.quarantine).len(), 0);
    importer.keys = trusted;
    assert_eq!(code(&importer.readmit("stray.pstk").unwrap()), "fresh");
    // What its content speaks against goes to the quarantine as ever.
    std::fs::write(site.folders.store.join("stray.pstk"), b"no bundle").unwrap();
    assert_eq!(code(&importer.readmit("stray.pstk").unwrap()), "container-malformed");
    assert_eq!(names(&site.folders.store).len(), 1);
}

#[test]
fn a_file_of_the_store_without_a_row_is_admitted_at_the_next_start() {
    // Killed between the rename into the store and the commit.
    let site = Site::new();
    let path = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
    let mut importer = site.importer();
    importer.import(&path, Sidecar::Absent, |_| {}).unwrap();
    let name = names(&site.folders.store).remove(0);
    drop(importer);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(site.folders.state.join(format!("ledger.db{suffix}")));
    }
    let mut importer = site.importer();
    assert!(!importer.ledger.knows_file(&name).unwrap());
    assert_eq!(code(&importer.readmit(&name).unwrap()), "fresh");
    assert!(importer.ledger.knows_file(&name).unwrap());
    assert_eq!(names(&site.folders.store), [name]);
    // A name that nobody of us gave.
    std::fs::copy(&path, site.folders.store.join("stray.pstk")).unwrap();
    assert_eq!(code(&importer.readmit("stray.pstk").unwrap()), "duplicate");
    assert_eq!(names(&site.folders.store).len(), 1);
}

#[test]
fn a_damaged_ledger_is_set_aside_and_never_overwritten() {
    let site = Site::new();
    let path = site.folders.state.join("ledger.db");
    let garbage = vec![7_u8; 8192];
    std::fs::write(&path, &garbage).unwrap();
    let opened = open_or_set_aside(&site.folders.state, START).unwrap();
    assert!(opened.created);
    assert_eq!(std::fs::read(opened.set_aside.unwrap()).unwrap(), garbage);
    drop(opened.ledger);
    let again = open_or_set_aside(&site.folders.state, START).unwrap();
    assert!(again.set_aside.is_none() && !again.created);
}
