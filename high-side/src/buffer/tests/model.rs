//! Random actions against the buffer and a simple model beside it.

use std::collections::VecDeque;

use proptest::prelude::*;
use shared::bundle::SealReason;
use shared::record::{Lane, Stream};

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Append { lane: Lane, sizes: Vec<u16> },
    Plan { lane: Lane, records_max: u64 },
    Seal { lane: Lane },
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    let lane = || prop::sample::select(Lane::ALL.to_vec());
    prop_oneof![
        4 => (lane(), prop::collection::vec(0_u16..2000, 1..40))
            .prop_map(|(lane, sizes)| Action::Append { lane, sizes }),
        2 => (lane(), 1_u64..80).prop_map(|(lane, records_max)| Action::Plan { lane, records_max }),
        2 => lane().prop_map(|lane| Action::Seal { lane }),
        1 => Just(Action::Reopen),
    ]
}

/// What a lane should hold.
#[derive(Default)]
struct Model {
    received: u64,
    /// Not in any bundle.
    waiting: VecDeque<(u64, Vec<u8>)>,
    planned: Option<Vec<(u64, Vec<u8>)>>,
    sealed: u64,
    bundles: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_buffer_does_what_a_list_would(actions in prop::collection::vec(action(), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        let mut buffer = open(dir.path()).0;
        let mut model = [Model::default(), Model::default()];
        for action in actions {
            let mut store = buffer.store().unwrap();
            match action {
                Action::Append { lane, sizes } => {
                    let model = &mut model[lane as usize];
                    let raws: Vec<_> = sizes
                        .iter()
                        .map(|size| {
                            model.received += 1;
                            let raw = vec![model.received as u8; usize::from(*size)];
                            model.waiting.push_back((model.received, raw.clone()));
                            raw
                        })
                        .collect();
                    append(&mut buffer, lane, &[raws]);
                }
                Action::Plan { lane, records_max } => {
                    let model = &mut model[lane as usize];
                    let limits = PlanLimits { records_max, ..NO_LIMITS };
                    let planned =
                        store.plan_bundle(lane, limits, SealReason::Count, START).unwrap();
                    match planned {
                        None => prop_assert!(model.planned.is_none() && model.waiting.is_empty()),
                        Some(planned) => {
                            let records = read(&store, &planned);
                            prop_assert!(!records.is_empty());
                            let expected = model.planned.get_or_insert_with(|| {
                                model.bundles += 1;
                                model.waiting.drain(..records.len()).collect()
                            });
                            prop_assert_eq!(&records, expected);
                            prop_assert_eq!(planned.bundle().number, model.bundles);
                        }
                    }
                }
                Action::Seal { lane } => {
                    let model = &mut model[lane as usize];
                    let planned = store.planned_bundles().unwrap();
                    let planned = planned.into_iter().find(|p| p.bundle().lane == lane);
                    prop_assert_eq!(planned.is_some(), model.planned.is_some());
                    if let Some(planned) = planned {
                        let number = planned.bundle().number;
                        store.mark_sealed(planned, sealed_file(number)).unwrap();
                        model.sealed += model.planned.take().map_or(0, |p| p.len() as u64);
                    }
                }
                Action::Reopen => {
                    drop((store, buffer));
                    let (reopened, recovery) = open(dir.path());
                    prop_assert_eq!(recovery.opened, Opened::Continued);
                    buffer = reopened;
                }
            }
            let store = buffer.store().unwrap();
            prop_assert_eq!(store.verify(|_| ()).unwrap(), []);
            for totals in store.totals().unwrap() {
                let model = &model[totals.lane as usize];
                prop_assert!(totals.adds_up(), "{:?}", totals);
                prop_assert_eq!(totals.received.of(Stream::Other).records, model.received);
                prop_assert_eq!(totals.sealed.sum().records, model.sealed);
                let waiting = store.waiting(totals.lane).unwrap();
                prop_assert_eq!(waiting.records, model.waiting.len() as u64);
                prop_assert_eq!(waiting.oldest.is_some(), !model.waiting.is_empty());
                prop_assert_eq!(waiting.plain_bytes > 0, !model.waiting.is_empty());
            }
        }
    }
}
