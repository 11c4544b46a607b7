//! Kafka: whatever is killed and whenever, a reader of what is committed sees each record once.

use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;
use tests::crossing::{Crossing, assert_sound, assert_unaltered};
use tests::examined::doctor;
use tests::oracle::Oracle;
use tests::peers::kafka::{Broker, send_as};
use tests::peers::{Authority, HttpServer, Reply};
use tests::wait::{PATIENCE, wait_until};

const RECORDS: u64 = 6_000;
const BATCH: u64 = 300;
const TOPIC: &str = "penstock";
const CONTROL: &str = "penstock-control";
const ID: &str = "penstock-low-1";

struct Bench {
    crossing: Crossing,
    broker: Broker,
}

impl Bench {
    fn new(name: &str) -> Self {
        let crossing = Crossing::new(name);
        let broker = Broker::new(crossing.sandbox.path().to_path_buf());
        crossing.configure(500);
        let low = format!(
            "{}[[sink]]\nname = \"kafka\"\ntype = \"kafka\"\nbrokers = [\"{}\"]\ntransport = \"tcp\"\n\
             topic = \"{TOPIC}\"\ntransactional-id = \"{ID}\"\ntimeout = \"5s\"\nbatch-records = {BATCH}\n\
             retry-min = \"50ms\"\nretry-max = \"200ms\"\n",
            Crossing::quick_inbox(),
            broker.address(),
        );
        crossing.pair.low.configure(&low);
        Self { crossing, broker }
    }

    /// The same with a broker that runs and has the topics.
    fn running(name: &str) -> Self {
        let mut bench = Self::new(name);
        bench.start_broker();
        bench
    }

    fn start_broker(&mut self) {
        self.broker.start();
        self.broker.create(TOPIC);
        self.broker.create(CONTROL);
    }

    /// What a reader of committed records sees.
    fn events(&self) -> Vec<Value> {
        self.broker.events(TOPIC, "read_committed")
    }

    fn count(&self) -> u64 {
        self.events().len() as u64
    }

    /// What the agent says of the sink.
    fn sink(&self) -> Value {
        self.crossing.pair.low.status()["agent"]["sinks"]["kafka"].clone()
    }

    /// All that was sent is there: each record once, as it was, and so the ledger says.
    fn assert_once(&self) {
        assert_eq!(self.crossing.wait_drained(), RECORDS);
        let arrived = assert_sound(&self.events());
        assert_unaltered(&arrived);
        let mut oracle = Oracle::new();
        let ids = oracle.issue(RECORDS);
        oracle.taken(ids);
        oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
        let status = self.crossing.pair.low.status();
        assert_eq!(status["adds-up"], true);
        assert_eq!(status["sinks"][0]["delivered"], RECORDS);
    }
}

#[test]
fn kafka_outages_of_the_broker_lose_and_repeat_nothing() {
    let mut bench = Bench::new("sink-kafka-outage");
    let _agents = [bench.crossing.pair.low.start(), bench.crossing.pair.high.start()];
    bench.crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "a sink that fails", || bench.sink()["state"] == "failing");
    // A broker without topics is no help, and no record's fault.
    bench.broker.start();
    wait_until(PATIENCE, "a sink that says what is missing", || {
        bench.sink()["error"].as_str().is_some_and(|error| error.contains("penstock-low setup"))
    });
    bench.broker.create(TOPIC);
    bench.broker.create(CONTROL);
    for part in 1..3 {
        wait_until(PATIENCE, "a part of the records", || bench.count() >= part * RECORDS / 6);
        // It does not answer for longer than the sink waits.
        bench.broker.signal(Signal::SIGSTOP);
        wait_until(PATIENCE, "a sink that fails", || bench.sink()["state"] == "failing");
        bench.broker.signal(Signal::SIGCONT);
    }
    bench.assert_once();
}

#[test]
fn kafka_an_agent_killed_again_and_again_repeats_nothing() {
    let bench = Bench::running("sink-kafka-killed");
    let low = &bench.crossing.pair.low;
    let mut agent = low.start();
    let _high = bench.crossing.pair.high.start();
    bench.crossing.send(1..RECORDS + 1);
    let mut lives = 1;
    let mut seen = 0;
    while seen < RECORDS {
        wait_until(PATIENCE, "more records", || {
            let now = bench.count();
            std::mem::replace(&mut seen, now) < now
        });
        agent.kill();
        lives += 1;
        agent = low.start();
    }
    assert!(lives > 4, "{lives}");
    bench.assert_once();
}

#[test]
fn kafka_what_was_committed_before_the_ledger_knew_is_not_repeated() {
    let mut bench = Bench::new("sink-kafka-doubt");
    let low = bench.crossing.pair.low.clone();
    let agent = low.start();
    let _high = bench.crossing.pair.high.start();
    bench.crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "all records admitted", || low.status()["records"] == RECORDS);
    // From now on nobody can write to the ledger, and the broker comes.
    let mut ledger = Connection::open(low.state_dir().join("ledger.db")).expect("the ledger");
    let lock = ledger
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .expect("the ledger's lock");
    bench.start_broker();
    wait_until(PATIENCE, "a batch", || bench.count() > 0);
    agent.kill();
    drop(lock);
    let committed = bench.count();
    let sink = low.status()["sinks"][0].clone();
    assert_eq!((&sink["delivered"], committed), (&0.into(), BATCH));
    let agent = low.start();
    bench.assert_once();
    assert!(agent.log().contains("the ledger does not know of"), "{}", agent.log());

    // What somebody asks for is no repetition by mistake, with a restart as well as without one.
    let replay = ["replay", "--sink", "kafka", "--from", "2026-01-01T00:00:00Z"];
    for times in 2..4 {
        assert_eq!(low.run(replay).code, Some(0));
        wait_until(PATIENCE, "everything once more", || bench.count() == times * RECORDS);
        bench.crossing.wait_drained();
    }
    agent.kill();
    assert_eq!(low.run(replay).code, Some(0));
    let _agent = low.start();
    wait_until(PATIENCE, "everything once more", || bench.count() == 4 * RECORDS);
}

#[test]
fn kafka_whoever_takes_the_sinks_id_is_shut_out_in_turn() {
    let bench = Bench::running("sink-kafka-fenced");
    let _agents = [bench.crossing.pair.low.start(), bench.crossing.pair.high.start()];
    bench.crossing.send(1..RECORDS / 2 + 1);
    wait_until(PATIENCE, "some records", || bench.count() >= BATCH);
    let other = bench.broker.producer(ID);
    bench.crossing.send(RECORDS / 2 + 1..RECORDS + 1);
    bench.assert_once();
    let error = send_as(&other, TOPIC, "zombie").expect_err("somebody newer has the id");
    assert_eq!(bench.count(), RECORDS, "{error}");
}

#[test]
fn kafka_a_marked_record_shows_the_way_and_disturbs_nobody() {
    let bench = Bench::running("sink-kafka-check");
    let low = &bench.crossing.pair.low;
    let agents = [low.start(), bench.crossing.pair.high.start()];
    bench.crossing.send(1..RECORDS + 1);
    bench.assert_once();
    let done = low.run(["check", "kafka"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    wait_until(PATIENCE, "the marked record", || bench.count() > RECORDS);
    assert_eq!(bench.events().last().expect("an event")["origin"], "penstock-check");
    assert!(!agents[0].log().contains("a sink fails"), "{}", agents[0].log());
    let done = low.run(["setup", "kafka"]);
    let needed = format!("--operation Write --operation Describe --transactional-id {ID}-check");
    assert!(done.stdout.contains(&needed), "{done:?}");
    assert_eq!(low.run(["check-config"]).code, Some(0));
    // An agent that is told to stop leaves no reader waiting.
    let [agent, _high] = agents;
    agent.stop(Duration::from_secs(20));
}

#[test]
fn kafka_the_doctor_asks_for_the_topics_and_makes_none() {
    let mut bench = Bench::new("doctor-kafka");
    let low = bench.crossing.pair.low.clone();
    let section = "sink kafka";
    let look = || doctor(&low, &[]);
    look().expect(section, "reached", "fail", "nc -vz 127.0.0.1");
    bench.broker.start();
    let said = look();
    said.expect(section, "reached", "ok", &bench.broker.address().to_string());
    for topic in [TOPIC, CONTROL] {
        said.expect(section, "topic", "fail", &format!("the topic {topic}: "));
    }
    said.expect(section, "topic", "fail", "penstock-low setup kafka");
    assert!(!bench.broker.knows(Some(TOPIC)) && !bench.broker.knows(Some(CONTROL)));
    bench.broker.create(TOPIC);
    let said = look();
    said.expect(section, "topic", "ok", &format!("the topic {TOPIC} is there"));
    said.expect(section, "topic", "fail", &format!("the topic {CONTROL}: "));
    bench.broker.create(CONTROL);
    let said = look();
    said.expect(section, "topic", "ok", &format!("the topic {CONTROL} is there"));
    said.expect(section, "credential", "skipped", "penstock-low check kafka");
    assert_eq!(bench.count(), 0);

    // A broker that shows a certificate of somebody else's.
    let sandbox = &bench.crossing.sandbox;
    let (ours, other) = (Authority::new(&sandbox.dir("ca")), Authority::new(&sandbox.dir("other")));
    let certificate = other.server("broker");
    let server =
        HttpServer::start_at(([127, 0, 0, 1], 0).into(), Some(&certificate), |_| Reply::Reset);
    let low_text = format!(
        "{}[[sink]]\nname = \"kafka\"\ntype = \"kafka\"\nbrokers = [\"{}\"]\ntransport = \"tls\"\nca-file = {:?}\n\
         topic = \"{TOPIC}\"\ntransactional-id = \"{ID}\"\ntimeout = \"5s\"\n",
        Crossing::quick_inbox(),
        server.address(),
        ours.ca()
    );
    low.configure(&low_text);
    let said = look();
    said.expect(section, "reached", "fail", "certificate verify failed");
    said.expect(section, "reached", "fail", "openssl s_client -connect 127.0.0.1");
}
