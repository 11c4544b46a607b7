//! What arrives over bad links, and in which order.

use std::time::Duration;

use tests::crossing::{Crossing, assert_sound, assert_unaltered};
use tests::diode::{Diode, count};
use tests::impair::{Impairment, Outages};
use tests::load::{Plan, Target, send};
use tests::logs::assert_no_unlisted_errors;
use tests::oracle::{Oracle, find_id};
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

/// Loss, short outages, disorder, copies, damage, and two forged datagrams for each genuine one.
fn everything() -> Impairment {
    Impairment {
        loss: 0.03,
        outages: Some(Outages {
            every: Duration::from_millis(700),
            least: Duration::from_millis(1),
            most: Duration::from_millis(20),
        }),
        reorder: 0.05,
        reorder_depth: 40,
        duplicate: 0.02,
        corrupt: 0.01,
        forged: 2.0,
    }
}

#[test]
fn over_a_bad_link_every_record_arrives_once_as_it_was_sent() {
    const RECORDS: u64 = 4000;
    let diode = Diode::new("diode-bad");
    let relay = diode.relay(everything(), 41);
    let crossing = &diode.crossing;
    let (seal, listener) = (Crossing::seal_soon(500), crossing.listener());
    let carrier = diode.carrier("bit-rate = \"200Mbit\"\npasses = 3\npass-interval = \"1s\"\n");
    crossing.pair.high.configure(&format!("{seal}{listener}{carrier}"));
    let low = format!("{}{}{}", Crossing::quick_inbox(), crossing.file_sink(), diode.receiver(""));
    crossing.pair.low.configure(&low);
    let agents = [crossing.pair.low.start(), crossing.pair.high.start()];
    let mut oracle = Oracle::new();
    let ids = oracle.issue(RECORDS);
    crossing.send(ids.clone());
    oracle.taken(ids);
    crossing.wait_committed(RECORDS);
    assert_eq!(crossing.wait_drained(), RECORDS);
    let arrived = assert_sound(&crossing.events());
    assert_unaltered(&arrived);
    oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
    let harm = relay.counts().harm;
    assert!(
        harm.lost > 0 && harm.reordered > 0 && harm.corrupted > 0 && harm.forged > 0,
        "{harm:?}"
    );
    assert_eq!(count(&diode.received(), "wrong"), 0, "{}", diode.received());
    for agent in agents {
        // Bundles overtake each other here, and each gap is told until it closes.
        assert_no_unlisted_errors(agent.log_path(), &["have not come; the records behind them"]);
        agent.stop(PATIENCE);
    }
}

/// Flash bundles leave beside a routine backlog that takes the link for many seconds.
#[test]
fn a_flash_record_overtakes_a_routine_backlog() {
    const ROUTINE: u64 = 40_000;
    const FLASH: u64 = 20;
    let diode = Diode::new("diode-flash");
    let relay = diode.relay(Impairment::losing(0.01), 42);
    let crossing = &diode.crossing;
    let backlog = free_address();
    let routine = format!(
        "[[listener]]\nname = \"backlog\"\nprotocol = \"tcp\"\nbind = \"{backlog}\"\nlane = \"routine\"\n"
    );
    // Bundles of about two megabytes, each some seconds on a link of this rate.
    let seal = "[seal]\nflash-budget = \"100ms\"\nlatency-budget = \"1s\"\nbundle-records-max = 10000\nheartbeat = \"1d\"\n";
    let carrier = diode.carrier("bit-rate = \"5Mbit\"\npasses = 1\n");
    let high = format!("{seal}{}{routine}{carrier}", crossing.listener());
    crossing.pair.high.configure(&high);
    let low = format!("{}{}{}", Crossing::quick_inbox(), crossing.file_sink(), diode.receiver(""));
    crossing.pair.low.configure(&low);
    let _agents = [crossing.pair.low.start(), crossing.pair.high.start()];
    let report = send(&Plan::new(Target::Tcp(backlog), ROUTINE)).expect("the listener is there");
    assert_eq!(report.sent, ROUTINE);
    // The backlog is on its way before the first flash record exists.
    let heavy = || relay.counts().harm.offered_bytes > BACKLOG_BEGUN_BYTES;
    wait_until(PATIENCE, "routine bundles on the link", heavy);
    let urgent = FLASH_FROM..FLASH_FROM + FLASH;
    crossing.send(urgent.clone());
    let mut arrived = Vec::new();
    wait_until(PATIENCE, "urgent records in the sink", || {
        arrived = crossing.events().iter().filter_map(id_of).collect();
        urgent.clone().all(|id| arrived.contains(&id))
    });
    let before = arrived.len() as u64;
    assert!(before < ROUTINE + FLASH, "the backlog was through before the urgent records");
    assert!(count(&diode.sent(), "bundles") > 0);
}

fn id_of(event: &serde_json::Value) -> Option<u64> {
    find_id(event["raw"].as_str()?.as_bytes()).map(|(id, _)| id)
}

/// Above the ids of the backlog.
const FLASH_FROM: u64 = 1_000_001;
const BACKLOG_BEGUN_BYTES: u64 = 200_000;
