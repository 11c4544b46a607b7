//! Against the cluster that the client library has for tests. It knows transactions, but aborts none:
//! what readers of committed records see is tested against a real one (tests/tests/sinks/kafka.rs).

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use shared::clock::{FakeClock, Nanos};
use shared::record::{Epoch, Lane, RecordId, Sequence, SourceTag, Stream, encode, parse};

use super::super::client::settings;
use super::super::config::{Compression, TopicPattern};
use super::*;
use crate::testing::Site;

struct Bench {
    cluster: MockCluster<'static, DefaultProducerContext>,
    site: Site,
    ledger: Ledger,
    id: SinkId,
}

fn chain(lane: Lane) -> ChainName {
    ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(1), lane }
}

impl Bench {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["penstock-control", "audit-other", "audit-falco"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let site = Site::new();
        let mut ledger = site.ledger();
        let id = ledger.sink("out").unwrap();
        Self { cluster, site, ledger, id }
    }

    fn config(&self) -> KafkaConfig {
        KafkaConfig {
            brokers: vec![self.cluster.bootstrap_servers()],
            tls: None,
            login: None,
            topic: TopicPattern::new("audit-{stream}").unwrap(),
            control_topic: "penstock-control".to_owned(),
            transactional_id: "low-1".to_owned(),
            compression: Compression::Lz4,
            record_bytes_max: 20_000,
            queue_bytes: 64_000,
            timeout: Duration::from_secs(20),
        }
    }

    fn sink(&self) -> KafkaSink<FakeClock> {
        KafkaSink::new(self.id, self.config(), self.site.clock.clone(), Bell::default())
    }

    /// Everything in the topic of a stream: keys, ids, streams and values.
    fn read(&self, stream: Stream) -> Vec<Vec<String>> {
        let mut settings = settings(&self.config()).unwrap();
        settings.set("group.id", "test").set("enable.partition.eof", "true");
        let consumer: BaseConsumer = settings.create().unwrap();
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&format!("audit-{stream}"), 0, Offset::Beginning).unwrap();
        consumer.assign(&from).unwrap();
        let mut found = Vec::new();
        loop {
            match consumer.poll(Duration::from_secs(20)).expect("an answer") {
                Err(KafkaError::PartitionEOF(_)) => return found,
                Err(error) => panic!("{error}"),
                Ok(message) => {
                    let text = |bytes: Option<&[u8]>| {
                        String::from_utf8(bytes.expect("some").to_vec()).unwrap()
                    };
                    let headers = message.headers().unwrap();
                    assert_eq!(headers.get(0).key, "record-id");
                    assert_eq!(headers.get(1).key, "stream");
                    let headers = [text(headers.get(0).value), text(headers.get(1).value)];
                    let value: serde_json::Value =
                        serde_json::from_str(&text(message.payload())).unwrap();
                    let raw = value["raw"].as_str().unwrap().to_owned();
                    assert_eq!(value["id"], headers[0].as_str());
                    found.push([vec![text(message.key())], headers.to_vec(), vec![raw]].concat());
                }
            }
        }
    }

    fn messages(&self) -> Vec<String> {
        self.read(Stream::Other).into_iter().map(|message| message[3].clone()).collect()
    }

    /// A batch up to its confirmation.
    fn deliver(
        &mut self,
        sink: &mut KafkaSink<FakeClock>,
        lane: Lane,
        records: &[(u64, &str)],
    ) -> Result<Confirmed, SinkError> {
        sink.begin(&mut self.ledger)?;
        for (sequence, raw) in records {
            write(sink, lane, Stream::Other, *sequence, raw)?;
        }
        sink.confirm()
    }

    /// The ledger's note of it.
    fn note(&mut self, sink: &mut KafkaSink<FakeClock>, confirmed: &Confirmed) {
        self.ledger.set_file_position(self.id, &confirmed.position.unwrap()).unwrap();
        sink.committed(&mut self.ledger).unwrap();
    }
}

fn write(
    sink: &mut KafkaSink<FakeClock>,
    lane: Lane,
    stream: Stream,
    sequence: u64,
    raw: &str,
) -> Result<u64, SinkError> {
    let mut bytes = Vec::new();
    let source = SourceTag::new("udp", "10.0.0.1:9", None);
    encode(&mut bytes, Sequence(sequence), Nanos(1), stream, &source, None, raw.as_bytes());
    let (record, _) = parse(&bytes, 1 << 20).unwrap();
    sink.write(Item { chain: &chain(lane), bundle: 1, record: &record })
}

const R: Lane = Lane::Routine;

#[test]
fn records_go_to_their_topics_with_key_id_and_stream() {
    let mut bench = Bench::new();
    let mut sink = bench.sink();
    sink.begin(&mut bench.ledger).unwrap();
    write(&mut sink, R, Stream::Other, 1, "one").unwrap();
    write(&mut sink, R, Stream::Falco, 2, "{}").unwrap();
    let confirmed = sink.confirm().unwrap();
    assert_eq!(confirmed.position.unwrap().offset, 1);
    bench.note(&mut sink, &confirmed);
    let id = |sequence| {
        let chain = chain(R);
        RecordId::new(&chain.origin, chain.epoch, chain.lane, Sequence(sequence)).to_string()
    };
    assert_eq!(bench.read(Stream::Other), [["plant-7", &id(1), "other", "one"]]);
    assert_eq!(bench.read(Stream::Falco), [["plant-7", &id(2), "falco", "{}"]]);
}

#[test]
fn what_was_committed_and_not_noted_is_not_sent_again() {
    let mut bench = Bench::new();
    let mut sink = bench.sink();
    let confirmed = bench.deliver(&mut sink, R, &[(1, "r1"), (2, "r2")]).unwrap();
    bench.note(&mut sink, &confirmed);
    bench.deliver(&mut sink, R, &[(3, "r3"), (4, "r4"), (6, "r6")]).unwrap();
    // It dies here: the ledger knows of 1 and 2.
    drop(sink);
    let mut sink = bench.sink();
    // Others come first, and batches have become smaller.
    let confirmed = bench.deliver(&mut sink, Lane::Flash, &[(3, "f3")]).unwrap();
    bench.note(&mut sink, &confirmed);
    let confirmed = bench.deliver(&mut sink, R, &[(3, "r3")]).unwrap();
    bench.note(&mut sink, &confirmed);
    // It dies in between, before and after it came to the rest.
    drop(sink);
    let mut sink = bench.sink();
    bench.deliver(&mut sink, R, &[(4, "r4"), (5, "r5")]).unwrap();
    drop(sink);
    let mut sink = bench.sink();
    let confirmed =
        bench.deliver(&mut sink, R, &[(4, "r4"), (5, "r5"), (6, "r6"), (7, "r7")]).unwrap();
    bench.note(&mut sink, &confirmed);
    assert_eq!(bench.messages(), ["r1", "r2", "r3", "r4", "r6", "f3", "r5", "r7"]);

    // What is noted is sent again where somebody asks for it, after a start as well as without one.
    let confirmed = bench.deliver(&mut sink, R, &[(7, "r7")]).unwrap();
    bench.note(&mut sink, &confirmed);
    drop(sink);
    let mut sink = bench.sink();
    bench.deliver(&mut sink, R, &[(7, "r7")]).unwrap();
    assert_eq!(bench.messages()[8..], ["r7", "r7"]);
}

#[test]
fn a_commit_that_is_not_noted_is_known_after_a_reset_too() {
    let mut bench = Bench::new();
    let mut sink = bench.sink();
    bench.deliver(&mut sink, R, &[(1, "r1")]).unwrap();
    // The ledger could not be written.
    sink.reset(&SinkError::Stopping);
    let confirmed = bench.deliver(&mut sink, R, &[(1, "r1")]).unwrap();
    assert_eq!(confirmed.position.unwrap().offset, 2);
    assert_eq!(bench.messages(), ["r1"]);
}

#[test]
fn another_topic_and_a_check_know_nothing_of_it() {
    let mut bench = Bench::new();
    let mut sink = bench.sink();
    bench.deliver(&mut sink, R, &[(1, "r1")]).unwrap();
    drop(sink);
    let checking = super::super::for_check(&bench.config());
    let mut check = KafkaSink::new(bench.id, checking, bench.site.clock.clone(), Bell::default());
    bench.deliver(&mut check, Lane::Flash, &[(1, "marked")]).unwrap();
    let mut sink = bench.sink();
    bench.deliver(&mut sink, R, &[(1, "r1")]).unwrap();
    assert_eq!(bench.messages(), ["r1", "marked"]);
    drop(sink);
    let mut sink = bench.sink();
    sink.config.topic = TopicPattern::new("audit-falco").unwrap();
    bench.deliver(&mut sink, R, &[(1, "r1")]).unwrap();
    assert_eq!(bench.read(Stream::Falco).len(), 1);
}

#[test]
fn a_record_that_is_too_long_is_rejected_alone() {
    let mut bench = Bench::new();
    let mut sink = bench.sink();
    let long = "x".repeat(30_000);
    let confirmed = bench.deliver(&mut sink, R, &[(1, "r1"), (2, &long), (3, "r3")]).unwrap();
    let [rejected] = &confirmed.rejected[..] else { panic!("{confirmed:?}") };
    assert_eq!((rejected.chain.clone(), rejected.sequence), (chain(R), 2));
    assert!(rejected.reason.starts_with("10: "), "{rejected:?}");
    assert_eq!(bench.messages(), ["r1", "r3"]);
    // Where all are, there is nothing to commit.
    bench.note(&mut sink, &confirmed);
    let confirmed = bench.deliver(&mut sink, R, &[(4, &long)]).unwrap();
    assert_eq!((confirmed.position, confirmed.rejected.len()), (None, 1));
    sink.committed(&mut bench.ledger).unwrap();
}

#[test]
fn more_than_the_queue_holds_goes_through_it() {
    let mut bench = Bench::new();
    let mut sink = bench.sink();
    let long = "x".repeat(5_000);
    let records: Vec<(u64, &str)> = (1..=100).map(|sequence| (sequence, &long[..])).collect();
    let confirmed = bench.deliver(&mut sink, R, &records).unwrap();
    assert!(confirmed.rejected.is_empty());
    assert_eq!(bench.messages().len(), 100);
}

#[test]
fn the_record_that_brokers_refuse_is_found() {
    let mut bench = Bench::new();
    let mut sink = bench.sink();
    let records = [(1, "r1"), (2, "r2"), (3, "r3")];
    let refuse = |bench: &Bench, requests: usize| {
        let answers = vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD; requests];
        bench.cluster.request_errors(RDKafkaApiKey::Produce, &answers);
    };
    // A request with several of them, or, as the machine's load has it, with one; and the control record's.
    refuse(&bench, 4);
    let error = bench.deliver(&mut sink, R, &records).unwrap_err();
    assert!(error.to_string().contains("failed to validate"), "{error}");
    assert_ne!(sink.alone, !sink.refused.is_empty());
    sink.reset(&error);
    bench.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    sink.refused.clear();
    sink.alone = true;
    // ... then each alone, ...
    refuse(&bench, 4);
    let error = bench.deliver(&mut sink, R, &records).unwrap_err();
    let refused = sink.refused.len();
    assert!(refused >= 1, "{error}");
    sink.reset(&error);
    bench.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    // ... and then the others.
    let confirmed = bench.deliver(&mut sink, R, &records).unwrap();
    assert_eq!(confirmed.rejected.len(), refused);
    assert!(confirmed.rejected[0].reason.starts_with("87: "), "{confirmed:?}");
    sink.committed(&mut bench.ledger).unwrap();
    assert!(!sink.alone && sink.refused.is_empty());
}

#[test]
fn no_broker_is_an_error_and_the_batch_comes_again() {
    let mut bench = Bench::new();
    let mut sink = bench.sink();
    sink.config.timeout = Duration::from_secs(1);
    bench.cluster.broker_down(1).unwrap();
    let error = sink.begin(&mut bench.ledger).unwrap_err();
    assert!(error.to_string().contains("transactions can't be begun"), "{error}");
    sink.reset(&error);
    bench.cluster.broker_up(1).unwrap();
    sink.config.timeout = Duration::from_secs(20);
    bench.deliver(&mut sink, R, &[(1, "r1")]).unwrap();
    assert_eq!(bench.messages(), ["r1"]);
}

#[test]
fn a_stop_ends_every_wait() {
    let mut bench = Bench::new();
    let mut sink = bench.sink();
    bench.cluster.broker_round_trip_time(1, Duration::from_secs(5)).unwrap();
    let bell = sink.bell.clone();
    bell.stop();
    let started = std::time::Instant::now();
    assert!(matches!(sink.begin(&mut bench.ledger), Err(SinkError::Stopping)));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn the_set_up_names_every_topic_and_right() {
    let bench = Bench::new();
    let text = super::super::setup(
        &crate::sink::config::SinkConfig {
            name: "out".to_owned(),
            batch: crate::sink::config::BatchLimits {
                records: 1,
                bytes: 1,
                interval: Duration::from_secs(1),
            },
            retry: (Duration::from_secs(1), Duration::from_secs(1)),
            lag_alarm: Duration::from_mins(15),
            records_per_second: 0,
            dead_letter_bytes: 1 << 30,
            filter: crate::sink::config::Filter {
                streams: vec![Stream::Falco, Stream::KubeAudit],
                ..Default::default()
            },
            kind: crate::sink::config::SinkKind::Kafka(bench.config()),
        },
        &bench.config(),
    );
    for needed in [
        "--create --if-not-exists --topic audit-falco",
        "--create --if-not-exists --topic audit-kube-audit",
        "--create --if-not-exists --topic penstock-control",
        "--config cleanup.policy=compact",
        "--operation Write --operation Describe --topic audit-falco",
        "--operation Write --operation Read --operation Describe --topic penstock-control",
        "--operation Write --operation Describe --transactional-id low-1\n",
        "--transactional-id low-1-check\n",
        "--operation Describe --group low-1\n",
        "max.message.bytes=24096",
    ] {
        assert!(text.contains(needed), "{needed}: {text}");
    }
    assert!(!text.contains("audit-other"), "{text}");
}
