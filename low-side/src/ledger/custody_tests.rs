//! The custody log beside a ledger: written, restored, cut off, and in the way.

use std::collections::HashMap;
use std::time::Duration;

use shared::clock::Nanos;
use shared::custody::{Action, CheckpointPolicy, CustodyEvent, FindingKind, Identity, verify};
use shared::keys::{Side, StatementSigners, receipt_key};
use shared::record::{Lane, Stream};

use super::Ledger;
use crate::import::Sidecar;
use crate::latency::{Budgets, Histogram, Hop};
use crate::ledger::{CustodyError, Delivery};
use crate::testing::{Chain, Site};

const NOW: Nanos = Nanos(1_795_468_219_000_000_000);

fn found(ledger: &mut Ledger) -> Vec<FindingKind> {
    let known = ledger.custody_known().unwrap();
    let signers = StatementSigners::default();
    let mut verdict = verify(ledger.custody_folder(), Some(known), &signers, &[]).unwrap();
    verdict.compare_end(known.made);
    verdict.findings.iter().map(|finding| finding.kind).collect()
}

fn note(ledger: &mut Ledger) {
    ledger.note_custody(CustodyEvent::new(NOW, Action::Received)).unwrap();
}

fn open_alarms(ledger: &Ledger) -> Vec<String> {
    let alarms = ledger.alarms().unwrap().into_iter().filter(|alarm| alarm.closed.is_none());
    alarms.map(|alarm| alarm.code).collect()
}

#[test]
fn what_happens_to_a_bundle_is_noted_in_the_transactions_that_make_it_true() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Flash);
    let path = site.seal(&mut chain, &["one", "two"]);
    let broken = site.dir.path().join("broken.pstk");
    std::fs::write(&broken, b"no bundle").unwrap();
    let mut importer = site.importer();
    for path in [&path, &path, &broken] {
        importer.import(path, Sidecar::Absent, |_| {}).unwrap();
    }
    let ledger = &mut importer.ledger;
    let sink = ledger.sink("siem").unwrap();
    let state = ledger.pending_chains(sink).unwrap().remove(0);
    for (first, last) in [(1, 1), (2, 2)] {
        let delivery = Delivery::of(state.id, (first, last), 1);
        ledger.deliver(sink, &[delivery], None, &HashMap::new(), NOW).unwrap();
    }
    ledger.settle_custody(false, NOW).unwrap();
    let mut actions = Vec::new();
    let each = ledger.custody_folder().for_each_line(|_, line| {
        let event = shared::custody::Entry::parse(line).unwrap().event;
        actions.push((event.action, event.bundle.map(|bundle| bundle.number)));
        Ok::<(), std::io::Error>(())
    });
    each.unwrap();
    let expected = [
        (Action::Received, Some(1)),
        (Action::Admitted, Some(1)),
        (Action::Received, Some(1)),
        (Action::Duplicate, Some(1)),
        (Action::Received, None),
        (Action::Quarantined, None),
        (Action::Replayed, Some(1)),
    ];
    assert_eq!(actions, expected);
    assert_eq!(found(ledger), []);
}

#[test]
fn a_log_that_was_cut_off_or_a_ledger_that_was_restored_is_an_alarm_once() {
    let site = Site::new();
    let mut ledger = site.ledger();
    for _ in 0..3 {
        note(&mut ledger);
    }
    ledger.settle_custody(true, NOW).unwrap();
    assert_eq!(open_alarms(&ledger), [""; 0]);
    let (_, path) = ledger.custody_folder().segments().unwrap().remove(0);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    std::fs::write(&path, lines[..2].concat()).unwrap();
    assert_eq!(found(&mut ledger), [FindingKind::CutOff]);
    for _ in 0..2 {
        ledger.settle_custody(true, NOW).unwrap();
    }
    assert_eq!(open_alarms(&ledger), ["custody-changed"]);
    assert_eq!(ledger.alarms().unwrap()[0].count, 1);
    assert_eq!(found(&mut ledger), [FindingKind::Removed], "the hole stays");
    drop(ledger);

    // The ledger is lost; the log goes on behind its end.
    std::fs::remove_file(site.folders.state.join(super::FILE_NAME)).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ =
            std::fs::remove_file(site.folders.state.join(format!("{}{suffix}", super::FILE_NAME)));
    }
    let mut ledger = site.ledger();
    note(&mut ledger);
    ledger.settle_custody(false, NOW).unwrap();
    assert_eq!(open_alarms(&ledger), ["custody-changed"]);
    assert_eq!(found(&mut ledger), [FindingKind::Removed], "nothing new");
    assert_eq!(ledger.custody_known().unwrap().made.number, 6);
}

#[test]
fn what_can_not_be_written_waits_and_is_written_once() {
    let site = Site::new();
    let mut ledger = site.ledger();
    let folder = ledger.custody_folder().dir().to_owned();
    std::fs::write(&folder, b"in the way").unwrap();
    for _ in 0..3 {
        note(&mut ledger);
        assert!(matches!(ledger.settle_custody(false, NOW), Err(CustodyError::Io(_))));
    }
    assert_eq!(open_alarms(&ledger), ["custody-not-written"]);
    std::fs::remove_file(&folder).unwrap();
    ledger.settle_custody(false, NOW).unwrap();
    assert_eq!(open_alarms(&ledger), [""; 0]);
    assert_eq!(found(&mut ledger), []);
    assert_eq!(ledger.custody_known().unwrap().written.number, 3);
}

#[test]
fn checkpoints_are_made_when_they_are_due_and_cover_what_is_before_them() {
    let site = Site::new();
    let mut ledger = site.ledger();
    let keys = tempfile::tempdir().unwrap();
    let key = || {
        let identity = Identity { side: Side::Low, name: "soc-1".to_owned() };
        Ok((identity, receipt_key(keys.path())?.0))
    };
    let policy = CheckpointPolicy { entries: 3, interval: Duration::from_mins(1) };
    let later = |secs| NOW.plus(Duration::from_secs(secs));
    assert!(!ledger.sign_custody(key, Some(&policy), later(600)).unwrap(), "nothing to sign");
    note(&mut ledger);
    assert!(!ledger.sign_custody(key, Some(&policy), later(59)).unwrap());
    assert!(ledger.sign_custody(key, Some(&policy), later(60)).unwrap(), "old enough");
    assert!(!ledger.sign_custody(key, None, later(61)).unwrap(), "nothing since");
    for _ in 0..3 {
        note(&mut ledger);
    }
    assert!(ledger.sign_custody(key, Some(&policy), NOW).unwrap(), "enough of them");
    ledger.settle_custody(false, NOW).unwrap();
    let signers = StatementSigners::own(keys.path(), "receipt", "soc-1").unwrap();
    let known = ledger.custody_known().unwrap();
    let verdict = verify(ledger.custody_folder(), Some(known), &signers, &[]).unwrap();
    assert!(verdict.is_good(), "{:?}", verdict.findings);
    assert_eq!((verdict.checkpoints, verdict.signed_through, verdict.last), (2, 6, 6));

    let nobody = || Err(shared::keys::KeyError::Exists { path: keys.path().to_owned() });
    note(&mut ledger);
    assert!(!ledger.sign_custody(nobody, None, NOW).unwrap());
    assert_eq!(open_alarms(&ledger), ["custody-not-signed"]);
}

#[test]
fn latencies_add_up_over_windows_and_are_forgotten_after_their_time() {
    let site = Site::new();
    let mut ledger = site.ledger();
    let sink = ledger.sink("siem").unwrap();
    let hour = |hours: u64| NOW.plus(Duration::from_hours(hours));
    let deliver = |ledger: &mut Ledger, hours| {
        let mut took = Histogram::default();
        took.add(NOW, NOW.plus(Duration::from_secs(10)));
        let took = HashMap::from([((Lane::Flash, Stream::Falco, Hop::Received), took)]);
        ledger.deliver(sink, &[], None, &took, hour(hours)).unwrap();
    };
    for hours in [0, 0, 1] {
        deliver(&mut ledger, hours);
    }
    let budgets = Budgets { flash: Duration::from_secs(5), ..Budgets::default() };
    let day = Duration::from_hours(24);
    let records = |ledger: &Ledger, now| -> Vec<(u64, u64)> {
        let sums = ledger.latencies(day, &budgets, now).unwrap();
        sums.iter().map(|sum| (sum.records, sum.over_budget)).collect()
    };
    assert_eq!(records(&ledger, hour(2)), [(3, 3)]);
    deliver(&mut ledger, 30);
    assert_eq!(records(&ledger, hour(30)), [(1, 1)], "the others are older than a day");
    ledger.prune_latencies(hour(7 * 24 + 29)).unwrap();
    assert_eq!(records(&ledger, hour(30)), [(1, 1)]);
    ledger.prune_latencies(hour(9 * 24)).unwrap();
    assert_eq!(records(&ledger, hour(30)), []);
}
