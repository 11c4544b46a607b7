//! Carriers and their queues.

use shared::bundle::SealReason;
use shared::record::Lane;

use super::*;
use crate::buffer::{Late, Requeued};

const SECOND: Duration = Duration::from_secs(1);

fn ready(buffer: &mut Buffer, lane: Lane, number: u64) -> Bundle {
    append(buffer, lane, &[vec![raw(number)]]);
    let mut store = buffer.store().unwrap();
    let planned = store.plan_bundle(lane, NO_LIMITS, SealReason::Age, START).unwrap().unwrap();
    let sealed = store.mark_sealed(planned, sealed_file(number)).unwrap();
    store.mark_ready(&sealed, START).unwrap()
}

fn numbers(bundles: &[Bundle]) -> Vec<(Lane, u64)> {
    bundles.iter().map(|bundle| (bundle.lane, bundle.number)).collect()
}

#[test]
fn a_bundle_is_handed_over_when_every_carrier_of_its_lane_has_done_so() {
    let dir = tempfile::tempdir().unwrap();
    let (mut buffer, _) = open(dir.path());
    let first = ready(&mut buffer, Lane::Routine, 1);
    let flash = ready(&mut buffer, Lane::Flash, 1);
    let mut store = buffer.store().unwrap();
    let both = ["a".to_owned(), "b".to_owned()];
    assert_eq!(
        numbers(&store.carrier_queue("a", &Lane::ALL, 9).unwrap()),
        [(Lane::Flash, 1), (Lane::Routine, 1)]
    );
    assert_eq!(
        numbers(&store.carrier_queue("a", &[Lane::Routine], 9).unwrap()),
        [(Lane::Routine, 1)]
    );
    assert_eq!(numbers(&store.carrier_queue("a", &Lane::ALL, 1).unwrap()), [(Lane::Flash, 1)]);
    for _ in 0..2 {
        store.hand_over(&first, "a", &both, START).unwrap();
    }
    assert_eq!(numbers(&store.carrier_queue("a", &Lane::ALL, 9).unwrap()), [(Lane::Flash, 1)]);
    assert_eq!(store.carrier_queue("b", &Lane::ALL, 9).unwrap().len(), 2);
    let state = |store: &Store| store.bundle(Lane::Routine, 1).unwrap().unwrap().state;
    assert_eq!(state(&store), BundleState::Ready);
    let late = |store: &Store| store.late(Lane::Routine, SECOND, START.plus(2 * SECOND)).unwrap();
    let one = Late { number: 1, since: START, bundles: 1, newest: START };
    assert_eq!(late(&store), Some(one));
    assert_eq!(store.late(Lane::Routine, SECOND, START.plus(SECOND)).unwrap(), None, "in time");
    store.hand_over(&first, "b", &both, START).unwrap();
    assert_eq!(state(&store), BundleState::HandedOver);
    assert_eq!(late(&store), None);
    let found = store.bundle(Lane::Routine, 1).unwrap().unwrap();
    assert_eq!(found.handed_over, Some((START, "a, b".to_owned())));

    // Somebody exported the other one meanwhile; a carrier that was sending it notes that it did.
    store.mark_exported(&flash, "export", &both, START).unwrap();
    store.hand_over(&flash, "a", &both, START).unwrap();
    let found = store.bundle(Lane::Flash, 1).unwrap().unwrap();
    assert_eq!(found.handed_over, Some((START, "export".to_owned())));
}

#[test]
fn passes_are_counted_and_a_bundle_that_is_asked_for_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (mut buffer, _) = open(dir.path());
    let bundle = ready(&mut buffer, Lane::Routine, 1);
    let mut store = buffer.store().unwrap();
    let one = ["a".to_owned()];
    // Three passes: the second is due at once, the third an hour after it.
    let waits = [Duration::ZERO, Duration::from_hours(1)];
    let due = |store: &Store, now| store.on_carousel("a", &waits, now, 9).unwrap();
    assert!(due(&store, START).is_empty());
    store.hand_over(&bundle, "a", &one, START).unwrap();
    let (on, handover) = due(&store, START).remove(0);
    assert_eq!((on.number, handover.passes), (1, 1));
    let sending =
        |store: &Store| store.carried_range(Lane::Routine, "a", 3).unwrap().unwrap().oldest_sending;
    store.note_passes(&on, "a", 2, START).unwrap();
    assert!(due(&store, START).is_empty());
    assert_eq!(due(&store, START.plus(Duration::from_hours(1))).len(), 1);
    assert_eq!(sending(&store), 1);
    store.note_passes(&on, "a", 3, START).unwrap();
    assert!(due(&store, START.plus(Duration::from_hours(9))).is_empty());
    assert_eq!(sending(&store), 2);
    assert_eq!(store.handovers(Lane::Routine, 1).unwrap()[0].passes, 3);

    assert_eq!(store.requeue(Lane::Routine, 1).unwrap(), Requeued::Again);
    assert_eq!(numbers(&store.carrier_queue("a", &Lane::ALL, 9).unwrap()), [(Lane::Routine, 1)]);
    assert!(store.handovers(Lane::Routine, 1).unwrap().is_empty());
    let again = store.bundle(Lane::Routine, 1).unwrap().unwrap();
    assert_eq!((again.state, &again.handed_over), (BundleState::Ready, &None));
    store.hand_over(&again, "a", &one, START).unwrap();
    let handed_over = store.bundle(Lane::Routine, 1).unwrap().unwrap();
    store.mark_deleted(&handed_over, START).unwrap();
    assert_eq!(sending(&store), 2, "what was deleted is on no carousel");
    assert!(due(&store, START.plus(Duration::from_hours(9))).is_empty());
    assert_eq!(store.requeue(Lane::Routine, 1).unwrap(), Requeued::Gone);
    assert_eq!(store.requeue(Lane::Routine, 7).unwrap(), Requeued::Gone);
}

#[test]
fn what_was_exported_is_carried_all_the_same_and_ends_where_its_file_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut buffer, _) = open(dir.path());
    let bundle = ready(&mut buffer, Lane::Routine, 1);
    let mut store = buffer.store().unwrap();
    store.mark_exported(&bundle, "export to /media/usb", &["a".to_owned()], START).unwrap();
    let queue = |store: &Store| numbers(&store.carrier_queue("a", &Lane::ALL, 9).unwrap());
    assert_eq!(queue(&store), [(Lane::Routine, 1)]);
    assert_eq!(
        store.late(Lane::Routine, Duration::ZERO, Nanos(i64::MAX)).unwrap(),
        None,
        "it is no overdue one"
    );
    store.end_carousel(&bundle, "a").unwrap();
    assert!(queue(&store).is_empty());
    let waits = [Duration::ZERO, Duration::ZERO];
    assert!(
        store.on_carousel("a", &waits, START.plus(Duration::from_hours(1)), 9).unwrap().is_empty()
    );
    let taken = ready(&mut buffer, Lane::Routine, 2);
    store.mark_handed_over(&taken, "taken from the outbox", START).unwrap();
    assert!(queue(&store).is_empty(), "an appliance took it: that is its way across");
}

#[test]
fn urgent_passes_come_first_however_many_others_are_due() {
    let dir = tempfile::tempdir().unwrap();
    let (mut buffer, _) = open(dir.path());
    let mut store = buffer.store().unwrap();
    let one = ["a".to_owned()];
    for number in 1..=5 {
        let bundle = ready(&mut buffer, Lane::Routine, number);
        store.hand_over(&bundle, "a", &one, START).unwrap();
    }
    let flash = ready(&mut buffer, Lane::Flash, 1);
    let later = START.plus(Duration::from_mins(1));
    store.hand_over(&flash, "a", &one, later).unwrap();
    let due = store.on_carousel("a", &[Duration::ZERO], later, 3).unwrap();
    let due: Vec<Bundle> = due.into_iter().map(|(bundle, _)| bundle).collect();
    let routine = (1..=3).map(|number| (Lane::Routine, number));
    assert_eq!(numbers(&due), [(Lane::Flash, 1)].into_iter().chain(routine).collect::<Vec<_>>());
    let oldest = store.oldest_handed_over(Lane::Routine, 2).unwrap();
    assert_eq!(numbers(&oldest), [(Lane::Routine, 1), (Lane::Routine, 2)]);
}
