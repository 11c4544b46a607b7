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
    let told = || {
        let alarms = low.status()["alarms"].as_array().cloned().unwrap_or_default();
        alarms.into_iter().find(|alarm| alarm["code"] == "sink-rejects")
    };
    let alarm = told().expect("an alarm");
    let letter = low.json(["dead-letters", "collector", "--json"]);
    assert!(letter["reason"].as_str().expect("a reason").starts_with("400"), "{letter}");

    collector.state.lock().expect("no answer panics").poison = None;
    let done = low.run(["dead-letters", "collector", "--retry"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    wait_until(PATIENCE, "the record that was refused", || {
        collector.events().len() as u64 == RECORDS
    });
    assert_all(&crossing, &collector);
    let sink = low.status()["sinks"][0].clone();
    assert_eq!((&sink["delivered"], &sink["again"]), (&RECORDS.into(), &1.into()));
    low.run(["acknowledge", &alarm["id"].to_string()]).success();
    assert_eq!(told(), None);
}

/// The sums over every stream of what became of the records at a sink, by the evidence report; with its notes.
fn by_the_report(crossing: &Crossing, sink: &str) -> (BTreeMap<String, u64>, String) {
    let to = shared::clock::Clock::now(&shared::clock::SystemClock).to_string();
    let period = ["--from", "2026-01-01T00:00:00Z", "--to", &to];
    let words = [&["report", "--framework", "soc2", "--json"], &period[..]].concat();
    let said: Value =
        serde_json::from_str(&crossing.pair.low.run(words).success()).expect("a report");
    let mut sums = BTreeMap::new();
    for part in said["delivery"]["items"].as_array().expect("a list") {
        for (name, count) in
            part.as_object().expect("a row").iter().filter(|_| part["sink"] == sink)
        {
            *sums.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
    }
    (sums, said["verdict"]["notes"]["items"].to_string())
}

#[test]
fn what_a_receiver_refuses_or_a_filter_leaves_out_is_nowhere_called_delivered() {
    let refusing = Collector::start(&[]);
    // Every record of ours, but not the marked one by which a sink sees whether the receiver takes anything.
    let ours = "\"origin\":\"plant-7\"".to_owned();
    refusing.state.lock().expect("no answer panics").poison = Some(ours);
    let narrow = Collector::start(&[]);
    let crossing = configured("sink-http-truth", &refusing);
    let low = &crossing.pair.low;
    let narrow_sink = narrow.sink().replace("\"collector\"", "\"narrow\"");
    low.configure(&format!(
        "{}{}{narrow_sink}streams = [\"falco\"]\n",
        Crossing::quick_inbox(),
        refusing.sink()
    ));
    let _agents = [low.start(), crossing.pair.high.start()];
    crossing.send(1..51);
    crossing.wait_committed(50);
    assert_eq!(crossing.wait_drained(), 50);
    let status = low.status();
    for (at, counts) in [[0, 0, 50], [0, 50, 0]].into_iter().enumerate() {
        let sum =
            ["delivered", "filtered", "rejected"].map(|name| status["sinks"][at][name].clone());
        assert_eq!(sum, counts.map(Value::from), "{status}");
    }
    assert_eq!(status["agent"]["sinks"]["collector"]["delivered"], 0, "{status}");
    assert_eq!(status["agent"]["sinks"]["narrow"]["delivered"], 0, "{status}");

    let (sums, notes) = by_the_report(&crossing, "collector");
    let counts = |sums: &BTreeMap<String, u64>| {
        ["records", "delivered", "filtered", "rejected", "pending"].map(|name| sums[name])
    };
    assert_eq!(counts(&sums), [50, 0, 0, 50, 0], "{sums:?}");
    for said in [
        "sink collector refused 50 records",
        "dead-letters/collector.ndjson",
        "collector names the reason",
        "--retry",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    assert!(notes.contains("filter of the sink narrow left out 50 records"), "{notes}");
    let (sums, _) = by_the_report(&crossing, "narrow");
    assert_eq!(counts(&sums), [50, 0, 50, 0, 0], "{sums:?}");
    // Nothing was delivered, so that nothing took any time.
    assert_eq!(status["latency"], Value::Array(Vec::new()), "{status}");
    let custody = || {
        let log = low.state_dir().join("custody/custody-000000000001.log");
        // Made with its first line.
        std::fs::read_to_string(log).unwrap_or_default()
    };
    // The lines follow within a second or so.
    wait_until(PATIENCE, "the custody log", || {
        let lines = custody();
        lines.contains("to sink collector, ") && lines.contains("to sink narrow, ")
    });
    let lines = custody();
    for line in lines.lines().filter(|line| line.contains("to sink ")) {
        let all = [("collector", " 0 filtered out, "), ("narrow", " 0 rejected\"")];
        let (_, none) = all.iter().find(|(sink, _)| line.contains(sink)).expect("one of the two");
        assert!(line.contains(" records: 0 delivered, ") && line.contains(none), "{line}");
    }

    // The cause was mended.
    refusing.state.lock().expect("no answer panics").poison = None;
    low.run(["dead-letters", "collector", "--retry"]).success();
    wait_until(PATIENCE, "the records that were refused", || {
        refusing.events().iter().filter(|event| event["origin"] == "plant-7").count() == 50
    });
    wait_until(PATIENCE, "their confirmation", || {
        by_the_report(&crossing, "collector").0["delivered"] == 50
    });
    let (sums, notes) = by_the_report(&crossing, "collector");
    assert_eq!((counts(&sums), sums["sent-again"]), ([50, 50, 0, 0, 0], 50), "{sums:?}");
    assert!(!notes.contains("refused"), "{notes}");
    let received: u64 = low.status()["latency"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|row| row["sink"] == "collector" && row["hop"] == "received-to-delivered")
        .map(|row| row["records"].as_u64().expect("a count"))
        .sum();
    assert_eq!(received, 50);
    wait_until(PATIENCE, "the custody log", || {
        custody().contains(" of them had been rejected, and were sent once more")
    });
    low.run(["custody", "verify"]).success();
}

#[test]
fn a_sink_that_fails_for_too_long_is_an_alarm_until_it_has_what_waited() {
    let collector = Collector::start(&vec![Fault::Status(503); 100_000]);
    let crossing = configured("sink-http-lag", &collector);
    let low = &crossing.pair.low;
    low.configure(&format!("{}{}lag-alarm = \"2s\"\n", Crossing::quick_inbox(), collector.sink()));
    let _agents = [low.start(), crossing.pair.high.start()];
    crossing.send(1..21);
    crossing.wait_committed(20);
    let lags = |closed: bool| {
        let alarms = low.json(["alarms", "--json"]);
        let of_code = |alarm: &&Value| alarm["code"] == "sink-lag";
        let found = alarms.as_array().expect("a list").iter().find(of_code).cloned();
        found.filter(|alarm| alarm["closed"].is_null() != closed)
    };
    wait_until(PATIENCE, "the alarm", || lags(false).is_some());
    let told = lags(false).expect("it stands");
    assert_eq!(told["subject"], "collector");
    let text = told["message"].as_str().expect("a text");
    for said in [
        "record(s) wait for the sink collector, the first since 20",
        "the limit is 2s",
        "503",
        "penstock-low check collector",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    collector.state.lock().expect("no answer panics").faults.clear();
    assert_eq!(crossing.wait_drained(), 20);
    wait_until(PATIENCE, "it to close", || lags(true).is_some());
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
