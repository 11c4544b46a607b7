//! A Kafka broker, and readers and writers of what it holds.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::process::Process;
use crate::sandbox::free_address;
use crate::wait::{PATIENCE, wait_until};

/// A broker. It can be halted; it is not stopped and started again, since this one forgets, when it is
/// told to stop, what it acknowledged last, and no producer can make up for that.
#[derive(Debug)]
pub struct Broker {
    dir: PathBuf,
    address: SocketAddr,
    running: Option<Process>,
}

impl Broker {
    /// A broker that does not run yet, with its data in a folder.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, address: free_address(), running: None }
    }

    /// Where it listens, or will.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    pub fn start(&mut self) {
        let program = program();
        assert!(program.is_file(), "{} is missing; run `make test-kafka`", program.display());
        let mut command = Command::new(program);
        command.args(["start", "--only", "kafka", "--kafka-port"]);
        command.arg(self.address.port().to_string()).arg("--data-dir").arg(self.dir.join("broker"));
        self.running = Some(Process::spawn(&mut command, "broker", &self.dir));
        wait_until(PATIENCE, "a broker that answers", || self.knows(None));
    }

    /// Halts it, connections and all, or lets it go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        self.running.as_ref().expect("a running broker").signal(signal);
    }

    /// Makes a topic, if it is not there.
    ///
    /// # Panics
    /// When the broker does not make it.
    pub fn create(&self, topic: &str) {
        // The broker makes what a producer asks for.
        let producer: BaseProducer = self.settings().create().expect("a producer");
        let _ = producer.client().fetch_metadata(Some(topic), ANSWER);
        wait_until(PATIENCE, "a topic", || self.knows(Some(topic)));
    }

    /// Whether it answers, and has a topic.
    pub fn knows(&self, topic: Option<&str>) -> bool {
        let consumer: BaseConsumer =
            self.settings().set("group.id", "test").create().expect("a consumer");
        let Ok(found) = consumer.fetch_metadata(None, ANSWER) else { return false };
        topic.is_none_or(|topic| found.topics().iter().any(|found| found.name() == topic))
    }

    /// Somebody else's producer with a transactional id, which shuts out whoever had it before.
    ///
    /// # Panics
    /// When it does not get it.
    pub fn producer(&self, transactional_id: &str) -> BaseProducer {
        let mut settings = self.settings();
        let producer: BaseProducer =
            settings.set("transactional.id", transactional_id).create().expect("a producer");
        producer.init_transactions(PATIENCE).expect("the id");
        producer
    }

    /// The events in a topic of one partition: to a reader of what is committed, or to one of everything.
    ///
    /// Each look is a reader of its own, from the start on: one that stays waits for ever behind a
    /// transaction that this broker has aborted.
    ///
    /// # Panics
    /// When an event is not as its key and headers say.
    pub fn events(&self, topic: &str, isolation: &str) -> Vec<Value> {
        let consumer: BaseConsumer = self
            .settings()
            .set("group.id", "test")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", isolation)
            .create()
            .expect("a consumer");
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic, 0, Offset::Beginning).expect("a partition");
        consumer.assign(&from).expect("an assignment");
        let mut events = Vec::new();
        loop {
            match consumer.poll(ANSWER) {
                // Not an end, but the broker may be away: the next look shows more.
                None | Some(Err(KafkaError::PartitionEOF(_))) => return events,
                Some(Err(_)) => {}
                Some(Ok(message)) => events.push(event(&message)),
            }
        }
    }

    fn settings(&self) -> ClientConfig {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", self.address.to_string());
        settings.set("reconnect.backoff.max.ms", "200");
        settings
    }
}

/// An event, which is as its key and headers say.
fn event(message: &BorrowedMessage<'_>) -> Value {
    let value = message.payload().expect("a value");
    let event: Value = serde_json::from_slice(value).expect("an event");
    let key = message.key().map(String::from_utf8_lossy);
    assert_eq!(event["origin"].as_str(), key.as_deref());
    let headers = message.headers().expect("headers");
    let found: Vec<(&str, Option<&str>)> = headers
        .iter()
        .map(|header| (header.key, header.value.and_then(|value| std::str::from_utf8(value).ok())))
        .collect();
    assert_eq!(found, [("record-id", event["id"].as_str()), ("stream", event["stream"].as_str())]);
    event
}

/// Sends one message in a transaction; gives what became of it.
pub fn send_as(producer: &BaseProducer, topic: &str, key: &str) -> Result<(), KafkaError> {
    producer.begin_transaction()?;
    producer.send(BaseRecord::to(topic).key(key).payload("{}")).map_err(|(error, _)| error)?;
    producer.commit_transaction(PATIENCE)
}

/// Where `install-kafka.sh` puts the broker.
fn program() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    target.join("peers/kafka/broker")
}

/// How long one answer is waited for.
const ANSWER: Duration = Duration::from_secs(2);
