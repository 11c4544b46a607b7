//! Both agents killed with SIGKILL at random moments, and started again, until all has arrived.
//!
//! The seed of a run that fails stands in its message: `PENSTOCK_CRASH_SEED=N` repeats that run,
//! `PENSTOCK_CRASH_RUNS=N` changes how many there are.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::agents::{Site, bundles_in};
use tests::crossing::{Crossing, assert_sound, assert_unaltered, last_durable, pending, received};
use tests::load::{OnBreak, Plan, Target, send};
use tests::logs::assert_no_unlisted_errors;
use tests::oracle::Oracle;
use tests::process::Process;
use tests::seed::{Seed, env_number};
use tests::wait::{PATIENCE, wait_for, wait_until};

/// As many as the rule of the house asks for.
const RUNS: u64 = 100;
/// Runs at one time: most of a run is waiting.
const WORKERS: u64 = 3;
/// Kills in one run.
const KILLS_MAX: u64 = 6;
/// The longest pause between two kills.
const PAUSE_MAX: Duration = Duration::from_millis(160);
/// Messages in one run; at this rate they are under way during all of the kills.
const MESSAGES: u64 = 1_500;
const RATE: u64 = 2_500;
/// Messages after the last kill.
const TAIL: u64 = 20;

/// What the agents were at when they were killed, counted over all runs.
type Stages = Mutex<BTreeMap<&'static str, u64>>;

#[test]
fn killed_at_any_moment_both_agents_lose_nothing_and_repeat_nothing() {
    let stages = Stages::default();
    if let Some(seed) = env_number("PENSTOCK_CRASH_SEED") {
        run(seed, &stages);
        return;
    }
    let runs = env_number("PENSTOCK_CRASH_RUNS").unwrap_or(RUNS);
    let (next, records) = (AtomicU64::new(1), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > runs {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| run(seed, &stages))) {
                        Ok(count) => _ = records.fetch_add(count, Ordering::Relaxed),
                        Err(_) => failed.lock().expect("no panic holds it").push(seed),
                    }
                }
            });
        }
    });
    let stages = stages.into_inner().expect("no panic holds it");
    println!("{runs} runs, {records:?} records, {:?}; killed while: {stages:?}", started.elapsed());
    let failed = failed.into_inner().expect("no panic holds it");
    assert!(failed.is_empty(), "these seeds failed: {failed:?}; one again: PENSTOCK_CRASH_SEED=N");
}

/// One run; gives how many records arrived.
fn run(seed: u64, stages: &Stages) -> u64 {
    let mut chance = Seed::new(seed);
    let crossing = Crossing::new(&format!("crash-{seed}"));
    crossing.configure(20 + chance.below(200));
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let mut agents = Agents { high: Some(high.start()), low: Some(low.start()) };
    let mut durable = 0;
    thread::scope(|scope| {
        let plan = Plan {
            rate: Some(RATE),
            on_break: OnBreak::Reconnect(PATIENCE),
            ..Plan::new(Target::Tcp(crossing.tcp), MESSAGES)
        };
        // An agent that is killed at once refuses even the first connection.
        let sender =
            scope.spawn(move || wait_for(PATIENCE, "a first connection", || send(&plan).ok()));
        for _ in 0..=chance.below(KILLS_MAX) {
            let (pause, begun) = (chance.time(PAUSE_MAX), Instant::now());
            wait_until(PATIENCE, "the moment to kill", || begun.elapsed() >= pause);
            let which = chance.below(3);
            if which != 1 {
                kill(&mut agents.high);
                durable = durable.max(look_at_high(high, stages));
            }
            if which != 0 {
                kill(&mut agents.low);
                look_at_low(low, stages);
            }
            agents.high.get_or_insert_with(|| high.start());
            agents.low.get_or_insert_with(|| low.start());
        }
        sender.join().expect("the sender does not panic");
    });
    // What is read by an agent that is not killed any more has to arrive, durable or not.
    crossing.send(MESSAGES + 1..MESSAGES + TAIL + 1);
    judge(seed, &crossing, agents, durable)
}

struct Agents {
    high: Option<Process>,
    low: Option<Process>,
}

fn kill(agent: &mut Option<Process>) {
    if let Some(agent) = agent.take() {
        agent.kill();
    }
}

/// Drains the way and compares both ends.
fn judge(seed: u64, crossing: &Crossing, agents: Agents, durable: u64) -> u64 {
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    // What was read and waits in memory is committed in an orderly stop.
    assert!(agents.high.is_some_and(|agent| agent.stop(PATIENCE).success()), "seed {seed}");
    let restarted = high.start();
    let records = crossing.wait_drained();
    assert!(restarted.stop(PATIENCE).success(), "seed {seed}");
    assert!(agents.low.is_some_and(|agent| agent.stop(PATIENCE).success()), "seed {seed}");

    let arrived = assert_sound(&crossing.events());
    assert_unaltered(&arrived);
    assert_eq!(arrived.events.len() as u64, records, "seed {seed}: in the file sink");
    assert!(records >= durable, "seed {seed}: {durable} were durable, {records} arrived");
    assert!(arrived.ids.is_sorted(), "seed {seed}: messages changed places");
    let mut oracle = Oracle::new();
    oracle.issue(MESSAGES);
    let tail = oracle.issue(TAIL);
    oracle.taken(tail);
    let verdict = oracle.judge(arrived.ids);
    assert!(verdict.lost.is_empty() && verdict.repeated.is_empty(), "seed {seed}: {verdict}");
    for (site, status) in [(high, high.status()), (low, low.status())] {
        assert_eq!(status["adds-up"], true, "seed {seed}: {status}");
        let alarms = status["alarms"].as_array().expect("alarms").iter();
        let open = alarms.filter(|alarm| alarm["closed"].is_null()).count();
        assert_eq!(open, 0, "seed {seed}: {}", status["alarms"]);
        assert_no_unlisted_errors(&site.log_path(), &[]);
    }
    let low = low.status();
    assert_eq!((&low["quarantined"], &low["lost-in-range"]), (&Value::from(0), &Value::from(0)));
    records
}

/// The last durable record of a high side that was killed, and what it was at.
fn look_at_high(high: &Site, stages: &Stages) -> u64 {
    let partial = std::fs::read_dir(high.outbox()).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
        })
    });
    let status = high.status();
    let count = |state: &str| status["bundles"][state]["count"].as_u64().unwrap_or(0);
    note(stages, "ingesting", received(&status) > 0 && received(&status) < MESSAGES);
    note(stages, "writing a bundle", partial);
    note(stages, "between plan and seal", count("planned") > 0);
    note(stages, "between seal and name", count("sealed") > 0);
    note(stages, "handing over", count("ready") > 0);
    last_durable(&status)
}

fn look_at_low(low: &Site, stages: &Stages) {
    let any = |folder: &str| {
        let entries = std::fs::read_dir(low.state_dir().join(folder));
        entries.is_ok_and(|mut entries| entries.next().is_some())
    };
    note(stages, "a bundle in the inbox", !bundles_in(&low.inbox()).is_empty());
    note(stages, "importing", any("staging"));
    note(stages, "replaying", pending(&low.status()) > 0);
}

fn note(stages: &Stages, stage: &'static str, seen: bool) {
    *stages.lock().expect("no panic holds it").entry(stage).or_default() += u64::from(seen);
}
