//! JSON over HTTP.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tests::crossing::{Crossing, assert_sound, assert_unaltered};
use tests::oracle::{Oracle, id_text};
use tests::peers::{Asked, HttpServer, Reply};
use tests::process::Process;
use tests::seed::Seed;
use tests::wait::{PATIENCE, wait_until};

const RECORDS: u64 = 2_000;
const BATCH: u64 = 300;

/// What happens to one request before the collector is itself again.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Answered so, nothing is taken.
    Status(u16),
    /// Everything is taken, and the answer does not come.
    TakenThenReset,
    /// Nothing is taken, the connection is reset.
    Reset,
    /// Everything is taken, and nothing is ever answered.
    TakenThenSilence,
}

/// A stand-in of ours for a program that collects lines of JSON, as strict as Fluent Bit's, Logstash's
/// and Vector's: a body that is not lines of JSON is refused whole with 400.
#[derive(Debug)]
struct Collector {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    faults: VecDeque<Fault>,
    /// Refused whole when it holds this.
    poison: Option<String>,
    events: Vec<Value>,
    requests: u64,
    /// The most events of a request.
    largest: usize,
}

impl Collector {
    fn start(faults: &[Fault]) -> Self {
        let state = State { faults: faults.iter().copied().collect(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let server = HttpServer::start(move |asked| {
            answer(&mut shared.lock().expect("no answer panics"), asked)
        });
        Self { server, state }
    }

    fn sink(&self) -> String {
        format!(
            "[[sink]]\nname = \"collector\"\ntype = \"http\"\nurl = \"{}/audit\"\ngzip = true\ntimeout = \"1s\"\n\
             batch-records = {BATCH}\nbody-bytes = \"100KiB\"\nretry-min = \"20ms\"\nretry-max = \"100ms\"\n",
            self.server.url()
        )
    }

    fn events(&self) -> Vec<Value> {
        self.state.lock().expect("no answer panics").events.clone()
    }

    /// The events, each once, and how often the one that came most often came. Whatever came twice was
    /// the same, byte by byte.
    fn once(&self) -> (Vec<Value>, u64) {
        let mut found: BTreeMap<String, (Value, u64)> = BTreeMap::new();
        for event in self.events() {
            let id = event["id"].as_str().expect("an id").to_owned();
            let (first, times) = found.entry(id).or_insert_with(|| (event.clone(), 0));
            assert_eq!(*first, event);
            *times += 1;
        }
        let most = found.values().map(|(_, times)| *times).max().unwrap_or(0);
        (found.into_values().map(|(event, _)| event).collect(), most)
    }
}

fn answer(state: &mut State, asked: &Asked) -> Reply {
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/audit"));
    assert_eq!(asked.headers["content-type"], "application/x-ndjson");
    state.requests += 1;
    let fault = state.faults.pop_front();
    match fault {
        Some(Fault::Status(status)) => return Reply::status(status, "not now"),
        Some(Fault::Reset) => return Reply::Reset,
        Some(Fault::TakenThenReset | Fault::TakenThenSilence) | None => {}
    }
    let text = String::from_utf8_lossy(&asked.body);
    if state.poison.as_ref().is_some_and(|poison| text.contains(poison)) {
        return Reply::status(400, "it holds what is not taken");
    }
    let events: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    match events {
        Ok(events) => {
            state.largest = state.largest.max(events.len());
            state.events.extend(events);
        }
        Err(_) => return Reply::status(400, "no lines of JSON"),
    }
    match fault {
        Some(Fault::TakenThenReset) => Reply::Reset,
        Some(Fault::TakenThenSilence) => Reply::Silence,
        _ => Reply::status(200, ""),
    }
}

fn configured(name: &str, collector: &Collector) -> Crossing {
    let crossing = Crossing::new(name);
    crossing.configure(500);
    let low = format!("{}{}", Crossing::quick_inbox(), collector.sink());
    crossing.pair.low.configure(&low);
    crossing
}

/// Everything that was sent has come at least once, and as it was.
fn assert_all(crossing: &Crossing, collector: &Collector) -> u64 {
    assert_eq!(crossing.wait_drained(), RECORDS);
    let (events, most) = collector.once();
    let arrived = assert_sound(&events);
    assert_unaltered(&arrived);
    let mut oracle = Oracle::new();
    let ids = oracle.issue(RECORDS);
    oracle.taken(ids);
    oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
    assert_eq!(crossing.pair.low.status()["adds-up"], true);
    most
}

#[test]
fn whatever_the_receiver_does_nothing_is_lost_and_little_is_repeated() {
    let faults = [
        Fault::Status(503),
        Fault::Reset,
        Fault::TakenThenReset,
        Fault::Status(429),
        Fault::TakenThenSilence,
        Fault::Status(401),
        Fault::Status(500),
        Fault::TakenThenReset,
    ];
    let collector = Collector::start(&faults);
    let crossing = configured("sink-http-faults", &collector);
    let _agents = [crossing.pair.low.start(), crossing.pair.high.start()];
    crossing.send(1..RECORDS + 1);
    assert_all(&crossing, &collector);
    // Three requests were taken unseen; a request is a third of a batch or less.
    let repeated = collector.events().len() as u64 - RECORDS;
    assert!(repeated > 0 && repeated <= 3 * BATCH, "{repeated}");
}

#[test]
fn an_agent_that_is_killed_repeats_no_more_than_the_batch_under_way() {
    // The batch is taken, the answer never comes, and the agent is killed while it waits.
    let collector = Collector::start(&[Fault::TakenThenSilence]);
    let crossing = configured("sink-http-killed", &collector);
    let low = crossing.pair.low.start();
    let _high = crossing.pair.high.start();
    crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "a request that is not answered", || !collector.events().is_empty());
    low.kill();
    let _low = crossing.pair.low.start();
    let most = assert_all(&crossing, &collector);
    assert_eq!(most, 2);
    assert!(collector.events().len() as u64 - RECORDS <= BATCH);
}

#[test]
fn a_record_that_is_refused_for_good_stops_nothing_and_comes_after_the_fix() {
    let collector = Collector::start(&[]);
    collector.state.lock().expect("no answer panics").poison = Some(id_text(777));
    let crossing = configured("sink-http-poison", &collector);
    let _agents = [crossing.pair.low.start(), crossing.pair.high.start()];
    crossing.send(1..RECORDS + 1);
    assert_eq!(crossing.wait_drained(), RECORDS);
    let low = &crossing.pair.low;
    let sink = low.status()["sinks"][0].clone();
    assert_eq!((&sink["delivered"], &sink["rejected"]), (&(RECORDS - 1).into(), &1.into()));
    assert_eq!(low.status()["adds-up"], true);
    let alarms = low.json(["alarms", "--json"]);
    assert!(alarms.as_array().expect("a list").iter().any(|alarm| alarm["code"] == "sink-rejects"));
    let letter = low.json(["dead-letters", "collector", "--json"]);
    assert!(letter["reason"].as_str().expect("a reason").starts_with("400"), "{letter}");

    collector.state.lock().expect("no answer panics").poison = None;
    let told = low.run(["dead-letters", "collector", "--retry"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    wait_until(PATIENCE, "the record that was refused", || {
        collector.events().len() as u64 == RECORDS
    });
    assert_all(&crossing, &collector);
    let sink = low.status()["sinks"][0].clone();
    assert_eq!((&sink["delivered"], &sink["again"]), (&RECORDS.into(), &1.into()));
}

#[test]
fn who_refuses_everything_gets_no_dead_letters_and_all_of_it_once_it_is_mended() {
    let collector = Collector::start(&[]);
    // Whatever it holds.
    collector.state.lock().expect("no answer panics").poison = Some(String::new());
    let crossing = configured("sink-http-refuses", &collector);
    let _agents = [crossing.pair.low.start(), crossing.pair.high.start()];
    crossing.send(1..RECORDS + 1);
    let low = &crossing.pair.low;
    wait_until(PATIENCE, "what is wrong in the status", || {
        let sinks = low.status()["agent"]["sinks"].to_string();
        sinks.contains("it refuses a marked record as well") && sinks.contains("failing")
    });
    assert_eq!(low.status()["sinks"][0]["rejected"], 0);
    let told = low.run(["dead-letters", "collector"]);
    assert!(told.stderr.contains("has no dead letters"), "{told:?}");

    collector.state.lock().expect("no answer panics").poison = None;
    assert_eq!(assert_all(&crossing, &collector), 1);
}

#[test]
fn dead_letters_are_retried_once_each_wherever_a_write_or_a_retry_was_killed() {
    let collector = Collector::start(&[]);
    // Every record, and not the marked one by which the sink knows that the receiver is in order.
    let poison = "\"origin\":\"plant-7\"".to_owned();
    collector.state.lock().expect("no answer panics").poison = Some(poison);
    let crossing = configured("sink-http-letters", &collector);
    let low = &crossing.pair.low;
    let agent = low.start();
    let _high = crossing.pair.high.start();
    crossing.send(1..RECORDS + 1);
    assert_eq!(crossing.wait_drained(), RECORDS);
    assert_eq!(low.status()["sinks"][0]["rejected"], RECORDS);
    agent.kill();
    // What a kill in the middle of a write leaves.
    let letters = low.state_dir().join("dead-letters/collector.ndjson");
    let mut file = std::fs::OpenOptions::new().append(true).open(&letters).expect("letters");
    std::io::Write::write_all(&mut file, b"{\"rejected\":\"2026").expect("a torn line");
    let listed =
        || low.run(["dead-letters", "collector", "--json"]).success().lines().count() as u64;
    assert_eq!(listed(), RECORDS);
    {
        let mut state = collector.state.lock().expect("no answer panics");
        state.poison = None;
        state.events.clear();
    }
    // The agent delivers while retries are killed.
    let _agent = low.start();
    let mut chance = Seed::new(5);
    let (mut killed, mut aside) = (0, 0);
    let retrying = letters.with_extension("retrying");
    let ended = (0..40).find_map(|_| {
        let mut command = low.command(["dead-letters", "collector", "--retry"]);
        let mut retry = Process::spawn(&mut command, "retry", low.dir());
        std::thread::sleep(Duration::from_millis(5) + chance.time(Duration::from_millis(300)));
        if let Some(status) = retry.ended() {
            return Some(status);
        }
        retry.kill();
        killed += 1;
        if retrying.exists() {
            aside += 1;
            assert_eq!(listed(), RECORDS, "what is being retried is listed");
        }
        None
    });
    println!("{killed} retries were killed, {aside} of them in the middle");
    if ended.is_none() {
        low.run(["dead-letters", "collector", "--retry"]).success();
    }
    wait_until(PATIENCE, "all records", || collector.events().len() as u64 >= RECORDS);
    assert_eq!(assert_all(&crossing, &collector), 1);
    let sink = low.status()["sinks"][0].clone();
    assert_eq!((&sink["delivered"], &sink["again"]), (&RECORDS.into(), &RECORDS.into()));
    let told = low.run(["dead-letters", "collector"]);
    assert!(told.stderr.contains("has no dead letters"), "{told:?}");
}

#[test]
fn a_limited_rate_is_no_burst() {
    let collector = Collector::start(&[]);
    let crossing = Crossing::new("sink-http-rate");
    crossing.configure(500);
    let sink = format!("{}records-per-second = 50\n", collector.sink());
    crossing.pair.low.configure(&format!("{}{sink}", Crossing::quick_inbox()));
    let _agents = [crossing.pair.low.start(), crossing.pair.high.start()];
    crossing.send(1..151);
    assert_eq!(crossing.wait_drained(), 150);
    let state = collector.state.lock().expect("no answer panics");
    assert_eq!(state.events.len(), 150);
    assert!(state.requests >= 3 && state.largest <= 50, "{} {}", state.requests, state.largest);
}

#[test]
fn what_was_delivered_is_sent_once_more_when_it_is_asked_for_and_a_marked_record_shows_the_way() {
    let collector = Collector::start(&[]);
    let crossing = configured("sink-http-again", &collector);
    let low = &crossing.pair.low;
    let _agents = [low.start(), crossing.pair.high.start()];
    crossing.send(1..RECORDS + 1);
    assert_eq!(assert_all(&crossing, &collector), 1);
    let done = low.run(["replay", "--sink", "collector", "--from", "2026-01-01T00:00:00Z"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    wait_until(PATIENCE, "everything once more", || collector.events().len() as u64 == 2 * RECORDS);
    assert_eq!(assert_all(&crossing, &collector), 2);

    let done = low.run(["check", "collector"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let marked = collector.events().pop().expect("a marked record");
    assert_eq!(marked["origin"], "penstock-check");
    let id = marked["id"].as_str().expect("an id");
    assert!(done.stderr.contains(id), "{done:?}");
    // It is no record of the ledger's.
    assert_eq!(low.status()["records"], RECORDS);
}
