//! Loki, as a stand-in as strict as its documents has it.

use serde_json::Value;
use tests::crossing::{Crossing, assert_sound, assert_unaltered};
use tests::oracle::{Oracle, id_text};
use tests::peers::loki::{Fault, Loki};
use tests::wait::{PATIENCE, wait_until};

const RECORDS: u64 = 2_000;
const BATCH: u64 = 300;

fn configured(name: &str, loki: &Loki) -> Crossing {
    let crossing = Crossing::new(name);
    crossing.configure(100);
    let low = format!(
        "{}[[sink]]\nname = \"loki\"\ntype = \"loki\"\nurl = \"{}\"\ntenant = \"soc\"\n\
         batch-records = {BATCH}\nbody-bytes = \"200KiB\"\ngzip = true\ntimeout = \"5s\"\n\
         retry-min = \"20ms\"\nretry-max = \"100ms\"\n",
        Crossing::quick_inbox(),
        loki.url()
    );
    crossing.pair.low.configure(&low);
    crossing
}

/// Everything that was sent is there once, in a stream of its own labels, and as it was.
fn assert_all(crossing: &Crossing, loki: &Loki) {
    assert_eq!(crossing.wait_drained(), RECORDS);
    let mut events = Vec::new();
    for (labels, line) in loki.lines() {
        let event: Value = serde_json::from_str(&line).expect("a line is JSON");
        for (label, field) in [("stream", "stream"), ("origin", "origin"), ("lane", "lane")] {
            let expected = format!("{label}={}", event[field]);
            assert!(labels.contains(&expected), "{labels}: {expected}");
        }
        events.push(event);
    }
    let arrived = assert_sound(&events);
    assert_unaltered(&arrived);
    let mut oracle = Oracle::new();
    let ids = oracle.issue(RECORDS);
    oracle.taken(ids);
    oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
    let status = crossing.pair.low.status();
    assert_eq!(
        (&status["adds-up"], &status["sinks"][0]["delivered"]),
        (&true.into(), &RECORDS.into())
    );
}

#[test]
fn whatever_happens_every_entry_stands_there_once() {
    let loki = Loki::start("soc");
    let faults = [
        Fault::TakenThenReset,
        Fault::HalfThenStatus(500),
        Fault::Status(429),
        Fault::Reset,
        Fault::HalfThenStatus(429),
        Fault::TakenThenSilence,
        Fault::Status(401),
        Fault::Status(503),
    ];
    loki.state().faults = faults
        .into_iter()
        .chain(faults.into_iter().flat_map(|fault| [Fault::Good, fault]))
        .collect();
    let crossing = configured("sink-loki-faults", &loki);
    let _agents = [crossing.pair.low.start(), crossing.pair.high.start()];
    crossing.send(1..RECORDS + 1);
    assert_all(&crossing, &loki);
    let state = loki.state();
    assert!(state.faults.is_empty(), "{:?}", state.faults);
    assert!(state.again > 0);
    // Many bundles, and no more streams than the label allows.
    assert!(state.streams.len() > 1 && state.streams.len() <= 24, "{}", state.streams.len());
}

#[test]
fn a_long_outage_and_an_agent_killed_in_the_middle_of_a_batch_cost_nothing() {
    let loki = Loki::start("soc");
    loki.state().always = Some(Fault::Status(503));
    let crossing = configured("sink-loki-killed", &loki);
    let low = crossing.pair.low.start();
    let _high = crossing.pair.high.start();
    crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "tries that fail", || {
        let status = crossing.pair.low.status();
        status["agent"]["sinks"]["loki"]["failures"].as_u64().is_some_and(|tries| tries >= 10)
    });
    {
        let mut state = loki.state();
        state.faults = [Fault::Good, Fault::TakenThenSilence].into();
        state.always = None;
    }
    wait_until(PATIENCE, "a push that is not answered", || loki.state().faults.is_empty());
    low.kill();
    let _low = crossing.pair.low.start();
    assert_all(&crossing, &loki);
}

#[test]
fn what_is_refused_for_good_stops_nothing_and_comes_after_the_fix() {
    let loki = Loki::start("soc");
    loki.state().poison = [3, 77, 78, 1_234, 2_000].map(id_text).to_vec();
    let crossing = configured("sink-loki-poison", &loki);
    let low = &crossing.pair.low;
    let _agents = [low.start(), crossing.pair.high.start()];
    crossing.send(1..RECORDS + 1);
    assert_eq!(crossing.wait_drained(), RECORDS);
    assert_eq!(loki.lines().len() as u64, RECORDS - 5);
    let letters = low.run(["dead-letters", "loki", "--json"]).success();
    assert_eq!(letters.lines().count(), 5);
    assert!(letters.lines().all(|letter| letter.contains("max entry size")), "{letters}");
    loki.state().poison.clear();
    low.run(["dead-letters", "loki", "--retry"]).success();
    wait_until(PATIENCE, "what was refused", || loki.lines().len() as u64 == RECORDS);
    assert_all(&crossing, &loki);
}

#[test]
fn a_backlog_that_is_too_old_is_named_whole_and_comes_after_the_limit_is_raised() {
    let loki = Loki::start("soc");
    // Everything is older than a second before it was made.
    loki.state().age_secs_max = -1;
    let crossing = configured("sink-loki-old", &loki);
    let low = &crossing.pair.low;
    let _agents = [low.start(), crossing.pair.high.start()];
    crossing.send(1..RECORDS + 1);
    assert_eq!(crossing.wait_drained(), RECORDS);
    assert_eq!(low.status()["sinks"][0]["rejected"], RECORDS);
    // Stream by stream, and not entry by entry.
    assert!(loki.state().pushes < RECORDS / 2, "{}", loki.state().pushes);
    loki.state().age_secs_max = 3_600;
    low.run(["dead-letters", "loki", "--retry"]).success();
    assert_all(&crossing, &loki);
}

#[test]
fn a_marked_record_is_found() {
    let loki = Loki::start("soc");
    let crossing = configured("sink-loki-check", &loki);
    let low = &crossing.pair.low;
    let printed = low.run(["setup", "loki", "--print"]).success();
    assert!(printed.contains("reject_old_samples_max_age"), "{printed}");
    let done = low.run(["check", "loki"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("it can be found there"), "{done:?}");
    loki.state().tenant = "another".to_owned();
    let done = low.run(["check", "loki"]);
    assert!(done.stderr.contains("401"), "{done:?}");
}
