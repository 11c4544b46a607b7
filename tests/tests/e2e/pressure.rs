//! A buffer that is full: sources wait, nothing is dropped, and it goes on by itself.

use std::time::Duration;

use serde_json::Value;
use shared::record::Lane;
use tests::crossing::{Crossing, received};
use tests::load::{Plan, Target, send};
use tests::logs::assert_no_unlisted_errors;
use tests::opened::open_chain;
use tests::process::Process;
use tests::wait::{PATIENCE, wait_until};

/// Several times what buffer and memory take, also when compressed.
const RECORDS: u64 = 120_000;
/// One bundle at a time crosses; all of it is much work for an unoptimised build.
const LONG: Duration = Duration::from_mins(4);

fn writer_state(status: &Value) -> &str {
    status["live"]["writer"]["state"].as_str().unwrap_or_default()
}

#[test]
fn with_a_full_buffer_senders_wait_and_nothing_is_lost() {
    let crossing = Crossing::new("quota");
    let high = &crossing.pair.high;
    let limits = "[buffer]\nquota = \"8MiB\"\nin-flight = \"1MiB\"\n\
                  [outbox]\nwaiting-bytes-max = \"1B\"\n\
                  [seal]\nflash-budget = \"100ms\"\nbundle-bytes-max = \"8MiB\"\nheartbeat = \"1d\"\n";
    high.configure(&format!("{limits}{}", crossing.listener()));
    let agent = high.start();
    let medium = crossing.sandbox.dir("medium");
    let plan = Plan { connections: 2, ..Plan::new(Target::Tcp(crossing.tcp), RECORDS) };
    // No scope: where something here fails, nobody may wait for a sender that waits for ever.
    let sender = std::thread::spawn(move || send(&plan).unwrap());
    let mut stalled = 0;
    wait_until(PATIENCE, "a full buffer, for which both connections wait", || {
        let status = high.status();
        stalled = received(&status);
        writer_state(&status) == "quota-reached"
            && status["live"]["listeners"][0]["counters"]["waiting"] == 2
    });
    assert!(!sender.is_finished(), "the sender did not wait");
    let status = high.status();
    assert_eq!(status["adds-up"], true);
    assert!(stalled < RECORDS, "{stalled} records fitted in");
    assert_eq!(received(&status), stalled, "it takes no more");

    // Bundles are carried away, and it goes on by itself.
    wait_until(LONG, "all records in bundles on the medium", || {
        high.run(["export", medium.to_str().unwrap()]).success();
        let status = high.status();
        let lane = &status["lanes"][0];
        received(&status) == RECORDS
            && lane["buffered"] == 0
            && status["bundles"]["ready"]["count"] == 0
    });
    let report = sender.join().unwrap();
    assert_eq!(report.sent, RECORDS);
    assert!(report.segments.iter().all(|segment| segment.broken.is_none()), "{report:?}");
    wait_until(PATIENCE, "a flowing buffer", || writer_state(&high.status()) == "flowing");
    let status = high.status();
    assert_eq!(status["adds-up"], true);
    assert_eq!(status["lanes"][0]["lost"], 0);
    assert!(agent.stop(PATIENCE).success());
    assert_no_unlisted_errors(&high.log_path(), &[]);

    let mut ids = open_chain(&medium, &crossing.pair.low, Lane::Flash).ids;
    ids.sort_unstable();
    assert!(ids.into_iter().eq(1..=RECORDS), "each message once");
}

/// The agent gives what waits 20 s; systemd would kill it after 60 s.
const STOP: Duration = Duration::from_secs(45);

#[test]
fn an_agent_that_a_full_disk_blocks_ends_when_told_and_keeps_what_was_committed() {
    let crossing = Crossing::new("blocked-stop");
    let high = &crossing.pair.high;
    let with_floor = |floor: &str| {
        let limits = format!(
            "[buffer]\nfree-disk-floor = \"{floor}\"\n[seal]\nflash-budget = \"1d\"\nheartbeat = \"1d\"\n"
        );
        high.configure(&format!("{limits}{}", crossing.listener()));
    };
    with_floor("1MiB");
    let agent = high.start();
    send(&Plan::new(Target::Tcp(crossing.tcp), 3)).unwrap();
    wait_until(PATIENCE, "three records that are committed", || received(&high.status()) == 3);
    assert!(agent.stop(STOP).success());

    // No disk has so much: from here on nothing is taken.
    with_floor("1000000GiB");
    for second in [false, true] {
        let mut agent = high.start();
        let target = Target::Tcp(crossing.tcp);
        let sender = std::thread::spawn(move || send(&Plan::new(target, 2)));
        wait_until(PATIENCE, "a writer that waits for room", || {
            writer_state(&high.status()) == "free-disk-floor"
        });
        let stops = |agent: &Process| agent.log().matches(" INFO stopping").count();
        let before = stops(&agent);
        agent.signal(nix::sys::signal::Signal::SIGTERM);
        if second {
            wait_until(PATIENCE, "a stop that has begun", || stops(&agent) > before);
            agent.signal(nix::sys::signal::Signal::SIGTERM);
        }
        assert!(!agent.wait(STOP).success(), "what waited was given up, and it says so");
        // Whether it could send is none of the agent's: plain TCP has no answer.
        let _ = sender.join().unwrap();
    }
    with_floor("1MiB");
    let agent = high.start();
    assert_eq!(received(&high.status()), 3, "what was committed is there");
    assert_eq!(high.status()["adds-up"], true);
    assert!(agent.stop(STOP).success());
}
