//! A receiver that dies or comes late, and a link that was dead all the time.

use tests::agents::bundles_in;
use tests::crossing::{Crossing, assert_sound, assert_unaltered, buffered};
use tests::diode::{Diode, count};
use tests::impair::Impairment;
use tests::oracle::Oracle;
use tests::wait::{PATIENCE, wait_until};

const RECORDS: u64 = 12_000;

/// Configures both sides; gives the oracle of what was sent once the high side has made it durable.
fn send_all(diode: &Diode, carrier: &str) {
    let crossing = &diode.crossing;
    let (seal, listener) = (Crossing::seal_soon(RECORDS), crossing.listener());
    crossing.pair.high.configure(&format!("{seal}{listener}{}", diode.carrier(carrier)));
    let low = format!("{}{}{}", Crossing::quick_inbox(), crossing.file_sink(), diode.receiver(""));
    crossing.pair.low.configure(&low);
}

/// Nothing is buffered, and every bundle has had its passes.
fn has_sent_all(crossing: &Crossing) -> bool {
    let high = crossing.pair.high.status();
    let waiting = ["planned", "sealed", "ready"].map(|state| &high["bundles"][state]["count"]);
    buffered(&high) == 0 && waiting.iter().all(|count| **count == 0)
}

/// Everything is in the sink, once and as it was.
fn assert_all_arrived(crossing: &Crossing) {
    assert_eq!(crossing.wait_drained(), RECORDS);
    let arrived = assert_sound(&crossing.events());
    assert_unaltered(&arrived);
    let mut oracle = Oracle::new();
    let ids = oracle.issue(RECORDS);
    oracle.taken(ids);
    oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
}

/// 30 % loss: no pass alone is enough, so a receiver that forgot the first would not be done after
/// the second.
#[test]
fn a_receiver_killed_between_passes_goes_on_from_what_it_has() {
    let diode = Diode::new("diode-killed");
    let relay = diode.relay(Impairment::losing(0.3), 43);
    let crossing = &diode.crossing;
    send_all(&diode, "bit-rate = \"100Mbit\"\npasses = 2\npass-interval = \"3s\"\n");
    let low = crossing.pair.low.start();
    let _high = crossing.pair.high.start();
    crossing.send(1..RECORDS + 1);
    crossing.wait_committed(RECORDS);
    let waiting = || bundles_in(&crossing.pair.high.outbox()).len() as u64;
    wait_until(PATIENCE, "first pass of every bundle", || {
        let handed = count(&diode.sent(), "bundles");
        handed > 0 && handed >= waiting() && relay.counts().harm.lost > 0
    });
    low.kill();
    let _low = crossing.pair.low.start();
    assert_all_arrived(crossing);
    assert_eq!(count(&diode.received(), "wrong"), 0);
}

#[test]
fn a_receiver_that_comes_late_has_all_after_the_next_pass() {
    let diode = Diode::new("diode-late");
    let relay = diode.relay(Impairment::losing(0.02), 44);
    let crossing = &diode.crossing;
    send_all(&diode, "bit-rate = \"100Mbit\"\npasses = 2\npass-interval = \"3s\"\n");
    let _high = crossing.pair.high.start();
    crossing.send(1..RECORDS + 1);
    crossing.wait_committed(RECORDS);
    wait_until(PATIENCE, "first pass", || count(&diode.sent(), "bundles") > 0);
    assert!(relay.counts().harm.offered > 0);
    let _low = crossing.pair.low.start();
    assert_all_arrived(crossing);
}

/// The link is dead for all but the last pass, which is sent long after the others: nobody has to ask.
#[test]
fn a_late_pass_brings_what_an_outage_took() {
    let diode = Diode::new("diode-late");
    let relay = diode.relay(Impairment::dead(), 46);
    let crossing = &diode.crossing;
    send_all(&diode, "bit-rate = \"100Mbit\"\npasses = 1\nlate-passes = [\"5s\"]\n");
    let _agents = [crossing.pair.low.start(), crossing.pair.high.start()];
    crossing.send(1..RECORDS + 1);
    crossing.wait_committed(RECORDS);
    wait_until(PATIENCE, "first pass", || count(&diode.sent(), "bundles") > 0);
    relay.change(Impairment::default());
    assert_all_arrived(crossing);
    assert!(relay.counts().harm.offered > 0);
}

/// Nothing of the only pass comes through. The catalogue names the bundles, the low side writes what
/// it misses, a person carries the bundles over, and nothing is missed any more.
#[test]
fn what_every_pass_lost_is_named_and_asked_for() {
    let diode = Diode::new("diode-resend");
    let relay = diode.relay(Impairment::dead(), 45);
    let crossing = &diode.crossing;
    send_all(&diode, "bit-rate = \"100Mbit\"\npasses = 1\ncatalogue-interval = \"500ms\"\n");
    let _agents = [crossing.pair.low.start(), crossing.pair.high.start()];
    crossing.send(1..RECORDS + 1);
    crossing.wait_committed(RECORDS);
    wait_until(PATIENCE, "only pass of every bundle", || has_sent_all(crossing));
    let sent = bundles_in(&crossing.pair.high.outbox()).len() as u64;
    assert!(sent > 0 && relay.counts().harm.delivered == 0);
    relay.change(Impairment::default());

    let request = crossing.sandbox.join("resend.json");
    let request_text = request.display().to_string();
    let asked = || {
        let done = crossing.pair.low.run(["diode", "--resend", &request_text]);
        let text = std::fs::read_to_string(&request).unwrap_or_default();
        let asked: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        (done.code, asked["missing"].as_array().cloned().unwrap_or_default())
    };
    wait_until(PATIENCE, "catalogue that names what is missing", || {
        let (code, missing) = asked();
        code == Some(0) && missing.iter().any(|range| range["last"] == sent)
    });
    let (_, missing) = asked();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!((&missing[0]["first"], &missing[0]["lane"]), (&1.into(), &"flash".into()));
    assert!(crossing.events().is_empty(), "nothing can have come");

    let medium = crossing.sandbox.dir("medium").display().to_string();
    crossing.pair.high.run(["export", &medium, "--all"]).success();
    crossing.pair.low.run(["import", &medium]).success();
    assert_all_arrived(crossing);
    assert_eq!(asked().1, [0; 0], "what came on a medium is still asked for");
}

/// The low side does not believe the high side yet: what comes whole is refused. Once it does, a resend
/// request brings the same bundles over the same link.
#[test]
fn what_was_refused_comes_again_when_it_is_asked_for() {
    let diode = Diode::new("diode-refused");
    let _relay = diode.relay(Impairment::default(), 47);
    let crossing = &diode.crossing;
    send_all(&diode, "bit-rate = \"100Mbit\"\npasses = 1\ncatalogue-interval = \"500ms\"\n");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let signers = low.dir().join("keys/allowed_signers");
    let aside = signers.with_extension("aside");
    shared::durable::rename(&signers, &aside).expect("a file of ours");
    let agents = [low.start(), high.start()];
    crossing.send(1..RECORDS + 1);
    crossing.wait_committed(RECORDS);
    wait_until(PATIENCE, "only pass of every bundle", || has_sent_all(crossing));
    let sent = bundles_in(&high.outbox()).len() as u64;
    wait_until(PATIENCE, "every bundle refused", || low.status()["quarantined"] == sent);
    shared::durable::rename(&aside, &signers).expect("a file of ours");
    agents[0].signal(nix::sys::signal::Signal::SIGHUP);
    let request = crossing.sandbox.join("resend.json").display().to_string();
    wait_until(PATIENCE, "a request for all of them", || {
        let done = low.run(["diode", "--resend", &request]);
        let text = std::fs::read_to_string(&request).unwrap_or_default();
        let asked: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        done.code == Some(0) && asked["missing"][0]["first"] == 1
    });
    high.run(["receipt", "import", "--unsigned", &request]).success();
    assert_all_arrived(crossing);
}
