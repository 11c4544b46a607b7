use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;
use shared::bundle::{BundleDigest, Loss, LossReason};
use shared::clock::Nanos;

use super::*;
use crate::admit::{Admission, Candidate, Disorder};
use crate::config::{AdmissionConfig, GapPolicy};

const POLICY: AdmissionConfig = AdmissionConfig {
    gap: GapPolicy::Hold(Duration::from_mins(1)),
    silence_alarm: Duration::from_mins(1),
    number_jump_max: 1000,
};

fn facts(epoch: u64, lane: Lane, number: u64, evil: bool) -> BundleFacts {
    let digest = |number: u64, evil: bool| match number {
        0 => BundleDigest::ZERO,
        _ => BundleDigest::of(format!("{epoch} {lane} {number} {evil}").as_bytes()),
    };
    // Bundle n holds n % 4 records, so that some hold none.
    let last: u64 = (1..=number).map(|n| n % 4).sum();
    BundleFacts {
        chain: ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(epoch), lane },
        candidate: Candidate {
            epoch: Epoch(epoch),
            number,
            digest: digest(number, evil),
            previous: digest(number - 1, false),
            first_sequence: last - number % 4 + 1,
            last_sequence: last,
        },
        records: number % 4,
        streams: Vec::new(),
        suppressed: Vec::new(),
        received: None,
        lost_in_range: 0,
        losses: Vec::new(),
        chain_before: BundleDigest::ZERO,
        chain_head: BundleDigest::ZERO,
        sealed: Nanos(0),
        signer: "SHA256:x".to_owned(),
        file_bytes: 1,
        arrival: None,
        restores: false,
        before: None,
    }
}

fn missing(numbers: &BTreeSet<u64>) -> BTreeSet<u64> {
    let last = numbers.last().copied().unwrap_or(0);
    (1..=last).filter(|number| !numbers.contains(number)).collect()
}

#[derive(Clone, Debug)]
enum Action {
    Bring { epoch: u64, flash: bool, number: u64, evil: bool },
    Deliver { at_most: u64 },
    PassGaps,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1..3_u64, any::<bool>(), 1..14_u64, proptest::bool::weighted(0.1))
            .prop_map(|(epoch, flash, number, evil)| Action::Bring { epoch, flash, number, evil }),
        4 => (1..4_u64).prop_map(|at_most| Action::Deliver { at_most }),
        1 => Just(Action::PassGaps),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn the_ledger_agrees_with_a_simple_model(actions in proptest::collection::vec(action(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let sink = ledger.sink("one").unwrap();
        let store = dir.path();
        // Chain -> number -> whether the admitted one is the evil one.
        let mut admitted: BTreeMap<ChainName, BTreeMap<u64, bool>> = BTreeMap::new();
        let mut delivered: BTreeMap<ChainName, BTreeSet<u64>> = BTreeMap::new();
        let mut passed: BTreeSet<(ChainName, u64)> = BTreeSet::new();
        let mut records = 0;
        for action in actions {
            match action {
                Action::Bring { epoch, flash, number, evil } => {
                    let lane = if flash { Lane::Flash } else { Lane::Routine };
                    let bundle = facts(epoch, lane, number, evil);
                    let mut placed = 0;
                    let decision = ledger
                        .admit(&bundle, &POLICY, store, Nanos(1), |file| {
                            placed += 1;
                            std::fs::write(store.join(file), b"x")
                        })
                        .unwrap();
                    let latest = admitted.keys().map(|chain| chain.epoch).max();
                    let chain = admitted.get(&bundle.chain).cloned().unwrap_or_default();
                    let top = chain.keys().last().copied().unwrap_or(0);
                    let expected = if let Some(known) = chain.get(&number) {
                        if *known == evil { Decision::Duplicate } else { Decision::Refused(Disorder::Fork) }
                    } else if chain.get(&(number - 1)) == Some(&true) || evil && chain.contains_key(&(number + 1)) {
                        // Its successor or predecessor names the other one.
                        Decision::Refused(Disorder::Fork)
                    } else if number < top {
                        Decision::Admitted(Admission::FillsGap)
                    } else if latest > Some(Epoch(epoch)) && chain.is_empty() {
                        Decision::Refused(Disorder::Rollback)
                    } else if number == top + 1 {
                        Decision::Admitted(Admission::Fresh)
                    } else {
                        Decision::Admitted(Admission::Gap { first: top + 1, last: number - 1 })
                    };
                    prop_assert_eq!(&decision, &expected);
                    if matches!(decision, Decision::Admitted(_)) {
                        prop_assert_eq!(placed, 1);
                        records += bundle.records;
                        admitted.entry(bundle.chain).or_default().insert(number, evil);
                    } else {
                        prop_assert_eq!(placed, 0);
                    }
                }
                Action::PassGaps => {
                    ledger.pass_gaps(PassGaps::NoticedBefore(Nanos(2)), Nanos(3)).unwrap();
                    for (chain, numbers) in &admitted {
                        let numbers = numbers.keys().copied().collect();
                        passed.extend(missing(&numbers).into_iter().map(|number| (chain.clone(), number)));
                    }
                }
                Action::Deliver { at_most } => {
                    for chain in ledger.pending_chains(sink).unwrap() {
                        let taken = ledger.delivered(sink, chain.id).unwrap();
                        let model = delivered.entry(chain.name.clone()).or_default();
                        let numbers: BTreeSet<u64> = admitted[&chain.name].keys().copied().collect();
                        let held = missing(&numbers)
                            .into_iter()
                            .find(|number| !passed.contains(&(chain.name.clone(), *number)));
                        // The lowest number of a sequence in an admitted bundle before the hold.
                        let next = numbers
                            .iter()
                            .filter(|number| held.is_none_or(|held| **number < held))
                            .map(|number| facts(1, Lane::Flash, *number, false).candidate)
                            .flat_map(|c| c.first_sequence..=c.last_sequence)
                            .find(|sequence| !model.contains(sequence));
                        let found = ledger.next_bundle(&chain, &taken).unwrap();
                        prop_assert_eq!(found.as_ref().map(|(_, from)| *from), next);
                        let Some((bundle, from)) = found else { continue };
                        let last = bundle.last_sequence().min(from + at_most - 1);
                        let delivery = Delivery::of(chain.id, (from, last), last - from + 1);
                        ledger.deliver(sink, &[delivery], None, &HashMap::new(), Nanos(1)).unwrap();
                        for sequence in from..=last {
                            prop_assert!(model.insert(sequence), "delivered twice");
                        }
                    }
                }
            }
            let mut gaps: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
            for gap in ledger.gaps().unwrap() {
                gaps.entry(gap.chain).or_default().extend(gap.first..=gap.last);
            }
            for (chain, numbers) in &admitted {
                let numbers: BTreeSet<u64> = numbers.keys().copied().collect();
                prop_assert_eq!(gaps.remove(&chain.to_string()).unwrap_or_default(), missing(&numbers));
            }
            prop_assert!(gaps.is_empty());
            let sums = ledger.sums().unwrap();
            prop_assert_eq!(sums.records, records);
            let taken: usize = delivered.values().map(BTreeSet::len).sum();
            prop_assert_eq!(sums.sinks[0].delivered, taken as u64);
            prop_assert_eq!(sums.sinks[0].pending, records - taken as u64);
        }
    }
}

#[test]
fn a_file_that_can_not_be_placed_is_not_admitted() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let bundle = facts(1, Lane::Flash, 1, false);
    let full = |_: &str| Err(io::Error::from(io::ErrorKind::StorageFull));
    assert!(ledger.admit(&bundle, &POLICY, dir.path(), Nanos(1), full).is_err());
    let sums = ledger.sums().unwrap();
    assert_eq!((sums.received, sums.chains.len()), (0, 0));
    let decision = ledger.admit(&bundle, &POLICY, dir.path(), Nanos(1), |_| Ok(())).unwrap();
    assert_eq!(decision, Decision::Admitted(Admission::Fresh));
}

#[test]
fn alarms_count_up_close_and_are_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    ledger.raise("gap", "a", "first", Nanos(1)).unwrap();
    ledger.raise("gap", "a", "second", Nanos(2)).unwrap();
    ledger.raise("gap", "b", "other", Nanos(3)).unwrap();
    ledger.close_alarm("gap", "a", Nanos(4)).unwrap();
    let alarms = ledger.alarms().unwrap();
    assert_eq!(alarms.len(), 2);
    assert_eq!((alarms[0].count, alarms[0].message.as_str()), (2, "second"));
    assert!(alarms[0].closed.is_some() && alarms[1].closed.is_none());
    assert_eq!(ledger.acknowledge(Some(alarms[0].id), Nanos(5)).unwrap(), 1);
    assert_eq!(ledger.acknowledge(None, Nanos(5)).unwrap(), 1);
    assert!(ledger.alarms().unwrap().is_empty());
}

#[test]
fn a_newer_ledger_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.conn.pragma_update(None, "user_version", 99).unwrap();
    drop(ledger);
    assert!(matches!(Ledger::open(dir.path()), Err(LedgerError::Newer { found: 99, .. })));
    assert!(matches!(open_or_set_aside(dir.path(), Nanos(1)), Err(LedgerError::Newer { .. })));
}

#[test]
fn an_epoch_that_begins_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    for epoch in [1, 2] {
        ledger
            .admit(
                &facts(epoch, Lane::Routine, 1, false),
                &POLICY,
                dir.path(),
                Nanos(1),
                |_| Ok(()),
            )
            .unwrap();
    }
    let codes: Vec<String> = ledger.alarms().unwrap().into_iter().map(|alarm| alarm.code).collect();
    assert_eq!(codes, ["epoch-began"]);
}

#[test]
fn what_lasts_is_told_again_after_it_was_acknowledged_also_by_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let span = Duration::from_nanos(100);
    // Each look through a ledger of its own, as after a restart.
    let told = |since: i64, now: i64| {
        let mut ledger = Ledger::open(dir.path()).unwrap();
        ledger
            .raise_lasting("silence", "a", "it is silent", (Nanos(since), span), Nanos(now))
            .unwrap();
        ledger.alarms().unwrap().iter().map(|alarm| alarm.count).sum::<u64>()
    };
    let acknowledge =
        |now| Ledger::open(dir.path()).unwrap().acknowledge(None, Nanos(now)).unwrap();
    assert_eq!((told(0, 101), told(0, 102)), (1, 1), "one stands");
    assert_eq!(acknowledge(110), 1);
    assert_eq!((told(0, 111), told(0, 210)), (0, 0), "it is known");
    assert_eq!((told(0, 211), told(0, 212)), (1, 1), "it has lasted on");
    assert_eq!(acknowledge(220), 1);
    assert_eq!(told(230, 231), 1, "it ended, and began again");
}

#[test]
fn what_a_bundle_says_or_shows_of_its_records_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let lost = Loss {
        reason: LossReason::UdpReceiveQueue,
        listener: "udp".to_owned(),
        count: 3,
        from: Nanos(1),
        to: Nanos(2),
        range: None,
    };
    let admitted = [
        facts(1, Lane::Routine, 1, false),
        BundleFacts { losses: vec![lost], ..facts(1, Lane::Routine, 2, false) },
        BundleFacts {
            chain_before: BundleDigest::of(b"other rows"),
            ..facts(1, Lane::Routine, 3, false)
        },
        // Its predecessor is missing, until that is passed.
        facts(1, Lane::Routine, 5, false),
    ];
    for facts in &admitted {
        ledger.admit(facts, &POLICY, dir.path(), Nanos(1), |_| Ok(())).unwrap();
    }
    ledger.pass_gaps(PassGaps::NoticedBefore(Nanos(2)), Nanos(2)).unwrap();
    let codes: Vec<String> = ledger.alarms().unwrap().into_iter().map(|alarm| alarm.code).collect();
    assert_eq!(codes, ["loss-declared", "record-chain-broken", "gap", "gap-passed"]);
    // The one that was missing comes: both are over.
    let late = facts(1, Lane::Routine, 4, false);
    ledger.admit(&late, &POLICY, dir.path(), Nanos(3), |_| Ok(())).unwrap();
    let open = ledger.alarms().unwrap().into_iter().filter(|alarm| alarm.closed.is_none());
    let open: Vec<String> = open.map(|alarm| alarm.code).collect();
    assert_eq!(open, ["loss-declared", "record-chain-broken"]);
}

#[test]
fn a_sink_waits_since_the_first_bundle_that_it_has_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let sink = ledger.sink("siem").unwrap();
    let since = |ledger: &mut Ledger| ledger.sums().unwrap().sinks[0].waiting_since.clone();
    assert_eq!(since(&mut ledger), None);
    for (number, time) in [(1, 10), (2, 20), (3, 30)] {
        let facts = facts(1, Lane::Routine, number, false);
        ledger.admit(&facts, &POLICY, dir.path(), Nanos(time), |_| Ok(())).unwrap();
    }
    assert_eq!(since(&mut ledger), Some(Nanos(10).to_string()));
    let chain = ledger.pending_chains(sink).unwrap()[0].id;
    // Bundle 1 holds number 1, bundle 2 numbers 2 and 3: half of it is not all of it.
    let take = |ledger: &mut Ledger, first: u64, last: u64| {
        ledger
            .conn
            .execute(
                "INSERT INTO delivered VALUES (?1, ?2, ?3, ?4)",
                [sink, chain, int(first), int(last)],
            )
            .unwrap();
    };
    take(&mut ledger, 1, 2);
    assert_eq!(since(&mut ledger), Some(Nanos(20).to_string()));
    // Behind the hole everything was taken.
    take(&mut ledger, 4, 6);
    assert_eq!(since(&mut ledger), Some(Nanos(20).to_string()));
    ledger.conn.execute("UPDATE delivered SET last = 6 WHERE first = 1", []).unwrap();
    assert_eq!(since(&mut ledger), None);
}

#[test]
fn many_may_open_a_new_ledger_at_once() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| Ledger::open(path).unwrap().sums().unwrap());
            }
        });
    }
}
