//! The configuration of a Kafka sink. A program that was built without Kafka reads it too, to name what
//! is wrong with it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shared::config::{ByteSize, Span};
use shared::record::Stream;

use crate::sink::config::{Section, split_address};
use crate::tls::TlsConfig;

/// A Kafka cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct KafkaConfig {
    /// `HOST:PORT` of some brokers; they tell of the others.
    pub brokers: Vec<String>,
    /// TLS, or plain TCP where there is none.
    pub tls: Option<TlsConfig>,
    /// How we log in, if not by certificate.
    pub login: Option<Login>,
    /// Where records go.
    pub topic: TopicPattern,
    /// Where the sink keeps what it has committed.
    pub control_topic: String,
    /// What the cluster knows this sink by, over all restarts.
    pub transactional_id: String,
    /// How requests are packed.
    pub compression: Compression,
    /// The longest record, key and headers included.
    pub record_bytes_max: u64,
    /// Records that wait in memory for the brokers.
    pub queue_bytes: u64,
    /// How long one step may take: to connect, to deliver a batch, to commit it.
    pub timeout: Duration,
}

/// A user, and the file with the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// How the password is proven.
    pub mechanism: Mechanism,
    /// The user.
    pub username: String,
    /// The file with the password.
    pub password_file: PathBuf,
}

/// How a password is proven (SASL).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// The password is sent (RFC 4616).
    Plain,
    /// A proof of it is sent (RFC 7677).
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// How requests are packed: what the client can do without another library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// LZ4.
    Lz4,
    /// Not at all.
    None,
    /// Snappy.
    Snappy,
}

/// The name of a topic, in which `{stream}` stands for the record's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern(String);

impl TopicPattern {
    /// A pattern, if every topic that it gives may be one.
    pub fn new(pattern: &str) -> Option<Self> {
        let pattern = Self(pattern.to_owned());
        Stream::ALL.iter().all(|stream| is_topic(&pattern.of(*stream))).then_some(pattern)
    }

    /// The topic of a stream's records.
    pub fn of(&self, stream: Stream) -> String {
        self.0.replace(STREAM, stream.as_str())
    }

    /// The pattern itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What Kafka takes as the name of a topic (org.apache.kafka.common.internals.Topic).
fn is_topic(name: &str) -> bool {
    (1..=TOPIC_BYTES_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawKafka {
    brokers: Vec<String>,
    #[serde(rename = "transport")]
    _transport: crate::sink::config::Transport,
    sasl: Option<Mechanism>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    #[serde(default = "topic")]
    topic: String,
    #[serde(default = "control_topic")]
    control_topic: String,
    transactional_id: String,
    #[serde(default = "compression")]
    compression: Compression,
    #[serde(default = "record_bytes_max")]
    record_bytes_max: ByteSize,
    #[serde(default = "queue_bytes")]
    queue_bytes: ByteSize,
    #[serde(default = "timeout")]
    timeout: Span,
}

/// Checks the keys of a section; problems are noted there.
pub(crate) fn check(section: &mut Section<'_>, batch_records: Option<u64>) -> Option<KafkaConfig> {
    section.check(
        batch_records.unwrap_or(0) <= BATCH_RECORDS_MAX,
        "batch-records",
        &format!("is at most {BATCH_RECORDS_MAX} for Kafka"),
    );
    let is_tls = section.is_tls();
    let tls = section.tls(is_tls).filter(|_| is_tls);
    section.check(
        tls.as_ref().is_none_or(|tls| tls.server_name.is_none()),
        "server-name",
        "is not for Kafka: each broker's certificate is checked against the name it is reached by",
    );
    let raw: RawKafka = section.rest()?;
    section.check(!raw.brokers.is_empty(), "brokers", "names one broker or more");
    for broker in &raw.brokers {
        let problem = format!("are written HOST:PORT, not {broker:?}");
        section.check(
            split_address(broker).is_some() && !broker.contains(','),
            "brokers",
            &problem,
        );
    }
    let topic = TopicPattern::new(&raw.topic);
    section.check(topic.is_some(), "topic", TOPIC_PROBLEM);
    section.check(is_topic(&raw.control_topic), "control-topic", TOPIC_PROBLEM);
    let mixed = Stream::ALL
        .iter()
        .any(|stream| topic.as_ref().is_some_and(|t| t.of(*stream) == raw.control_topic));
    section.check(!mixed, "control-topic", "is a topic of its own: no records go there");
    let id = &raw.transactional_id;
    section.check(
        (1..=ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
        "transactional-id",
        "is 1 to 200 of a-z, A-Z, 0-9, '.', '_' and '-'",
    );
    for (name, size, least, most) in [
        ("record-bytes-max", raw.record_bytes_max.0, 16 << 10, 64 << 20),
        ("queue-bytes", raw.queue_bytes.0, raw.record_bytes_max.0, 1 << 30),
    ] {
        let (least, most) = (ByteSize(least), ByteSize(most));
        let problem = format!("is {least} to {most}");
        section.check((least..=most).contains(&ByteSize(size)), name, &problem);
    }
    section.check(
        (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&raw.timeout.0),
        "timeout",
        "is 1s to 15m: brokers let no transaction take longer",
    );
    let login = login(section, is_tls, raw.sasl, raw.username, raw.password_file);
    Some(KafkaConfig {
        brokers: raw.brokers,
        tls,
        login,
        topic: topic?,
        control_topic: raw.control_topic,
        transactional_id: raw.transactional_id,
        compression: raw.compression,
        record_bytes_max: raw.record_bytes_max.0,
        queue_bytes: raw.queue_bytes.0,
        timeout: raw.timeout.0,
    })
}

fn login(
    section: &mut Section<'_>,
    is_tls: bool,
    mechanism: Option<Mechanism>,
    username: Option<String>,
    password_file: Option<PathBuf>,
) -> Option<Login> {
    section.check_secret(is_tls, password_file.as_deref(), "password-file");
    let given = [mechanism.is_some(), username.is_some(), password_file.is_some()];
    section.check(
        given == [true; 3] || given == [false; 3],
        "sasl",
        "username and password-file go together",
    );
    Some(Login { mechanism: mechanism?, username: username?, password_file: password_file? })
}

fn topic() -> String {
    "penstock-{stream}".to_owned()
}
fn control_topic() -> String {
    "penstock-control".to_owned()
}
fn compression() -> Compression {
    Compression::Lz4
}
// A little less than a broker takes by itself (message.max.bytes, 1048588).
fn record_bytes_max() -> ByteSize {
    ByteSize(1_000_000)
}
// Two batches' worth of usual records; what is rendered ahead of the network, at most.
fn queue_bytes() -> ByteSize {
    ByteSize::mib(32)
}
// Brokers give up on a transaction after the same time (the Java client's transaction.timeout.ms).
fn timeout() -> Span {
    Span::secs(60)
}

/// Records of a batch. A commit costs some ten milliseconds: at this size it does not show.
pub(crate) const BATCH_RECORDS: u64 = 10_000;
/// The control record names each hole between the records of a batch: at this size it stays far below
/// the longest record.
pub(crate) const BATCH_RECORDS_MAX: u64 = 50_000;
/// What is sent again after a failure, at most.
pub(crate) const BATCH_BYTES: ByteSize = ByteSize::mib(16);

const STREAM: &str = "{stream}";
const TOPIC_BYTES_MAX: usize = 249;
const TOPIC_PROBLEM: &str =
    "is 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'; {stream} in topic stands for the stream";
// A suffix is added for `penstock-low check`.
const ID_BYTES_MAX: usize = 200;
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
// The brokers' transaction.max.timeout.ms.
const TIMEOUT_MAX: Duration = Duration::from_mins(15);

#[cfg(test)]
mod tests {
    use shared::config::Problems;

    use super::*;
    use crate::sink::config::{RawSink, SinkConfig};

    #[derive(Deserialize)]
    struct Sections {
        sink: Vec<RawSink>,
    }

    /// The sinks, and every problem but the one that a program without Kafka has with all of them.
    fn checked(text: &str) -> (Vec<Option<SinkConfig>>, String) {
        let raw: Sections = toml::from_str(text).unwrap_or_else(|err| panic!("{text}: {err}"));
        let mut problems = Problems::default();
        let sinks = raw.sink.into_iter().map(|sink| sink.check(0, &mut problems)).collect();
        let found = problems.into_result(std::path::Path::new("low.toml"));
        let found = found.map_or_else(|err| err.to_string(), |()| String::new());
        let kept = |line: &&str| line.contains("sink[") && !line.ends_with(NOT_BUILT);
        (sinks, found.lines().filter(kept).collect::<Vec<_>>().join("\n"))
    }

    const NOT_BUILT: &str = "this program was built without Kafka";

    #[test]
    fn every_section_in_the_page_is_taken() {
        let page = include_str!("../../../../packaging/doc/sinks/kafka.md");
        let blocks: Vec<&str> =
            page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(blocks.len() >= 2, "{}", blocks.len());
        for block in blocks {
            let (sinks, problems) = checked(block);
            assert_eq!(problems, "", "{block}");
            assert_eq!(sinks.len(), 1);
            assert_eq!(sinks[0].is_some(), cfg!(feature = "kafka"), "{block}");
        }
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for (change, named) in [
            ("brokers = []", "brokers"),
            ("brokers = [\"kafka\"]", "brokers"),
            ("transport = \"tls\"\nserver-name = \"x\"", "server-name"),
            ("ca-file = \"/ca\"", "ca-file"),
            ("topic = \"a b\"", "topic"),
            ("topic = \"penstock-control\"", "control-topic"),
            ("transactional-id = \"\"", "transactional-id"),
            ("record-bytes-max = \"1KiB\"", "record-bytes-max"),
            ("queue-bytes = \"20KiB\"", "queue-bytes"),
            ("timeout = \"1h\"", "timeout"),
            ("batch-records = 60000", "batch-records"),
            ("sasl = \"plain\"", "sasl"),
            ("sasl = \"plain\"\nusername = \"u\"\npassword-file = \"/p\"", "password-file"),
        ] {
            let mut table: toml::Table = toml::from_str(
                "name = \"k\"\ntype = \"kafka\"\nbrokers = [\"kafka:9092\"]\ntransport = \"tcp\"\n\
                 transactional-id = \"p\"",
            )
            .unwrap();
            table.extend(toml::from_str::<toml::Table>(change).unwrap());
            let (_, problems) = checked(&format!("[[sink]]\n{table}"));
            assert!(problems.contains(&format!("sink[0].{named}")), "{change}: {problems}");
        }
    }

    #[test]
    fn a_topic_for_each_stream() {
        let pattern = TopicPattern::new("audit.{stream}").unwrap();
        assert_eq!(pattern.of(Stream::KubeAudit), "audit.kube-audit");
        assert_eq!(TopicPattern::new("one").unwrap().of(Stream::Falco), "one");
        for bad in ["", ".", "a/b", "{streams}", &"x".repeat(250)] {
            assert_eq!(TopicPattern::new(bad), None, "{bad}");
        }
    }
}
