//! The configuration of the sinks.

mod file;
mod forward;
mod http_json;
mod section;
mod syslog;

use std::time::Duration;

use serde::Deserialize;
use shared::config::{ByteSize, Problems, Span};
use shared::record::{Lane, OriginId, RecordRef, Stream};

use super::kafka::config as kafka;
use crate::event;
use crate::ledger::ChainName;

use super::elastic::config::{self as elastic, Dialect, ElasticConfig};
use super::loki::config::{self as loki, LokiConfig};
use super::sentinel::config::{self as sentinel, SentinelConfig};
use super::splunk::config::{self as splunk, SplunkConfig};
pub use file::FileConfig;
pub use forward::ForwardConfig;
pub use http_json::{HttpJsonConfig, JsonShape};
pub use section::Endpoint;
pub(super) use section::split_address;
pub(crate) use section::{Section, Transport};
pub use syslog::{Body, Confirm, Framing, SyslogConfig, SyslogFormat, Wire};

/// One sink.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkConfig {
    /// Its name: in the ledger, in logs, in file names.
    pub name: String,
    /// When a batch is closed and noted in the ledger.
    pub batch: BatchLimits,
    /// The shortest and the longest pause before another try.
    pub retry: (Duration, Duration),
    /// What waits for it longer is an alarm.
    pub lag_alarm: Duration,
    /// Records that are handed over in a second, at most; 0 for as many as it takes.
    pub records_per_second: u64,
    /// With so many bytes of dead letters nothing more is sent.
    pub dead_letter_bytes: u64,
    /// Which records it gets.
    pub filter: Filter,
    /// What it is.
    pub kind: SinkKind,
}

/// What a sink is.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkKind {
    /// Elasticsearch or `OpenSearch`.
    Elastic(Box<ElasticConfig>),
    /// A file of JSON lines.
    File(FileConfig),
    /// Fluentd, Fluent Bit, or another receiver of the Forward protocol.
    Forward(ForwardConfig),
    /// A receiver of JSON over HTTP.
    Http(HttpJsonConfig),
    /// A Kafka cluster.
    #[cfg(feature = "kafka")]
    Kafka(kafka::KafkaConfig),
    /// Grafana Loki.
    Loki(Box<LokiConfig>),
    /// Microsoft Sentinel.
    Sentinel(Box<SentinelConfig>),
    /// Splunk's HTTP Event Collector.
    Splunk(Box<SplunkConfig>),
    /// A syslog receiver.
    Syslog(SyslogConfig),
}

/// Which records a sink gets: those to which all of it applies. Empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of these streams.
    pub streams: Vec<Stream>,
    /// Only of these lanes.
    pub lanes: Vec<Lane>,
    /// Only of these high sides.
    pub origins: Vec<OriginId>,
    /// Only what belongs to the privileged-access set.
    pub privileged_only: bool,
}

impl Filter {
    /// Whether the sink gets this record.
    pub fn takes(&self, chain: &ChainName, record: &RecordRef<'_>) -> bool {
        (self.streams.is_empty() || self.streams.contains(&record.stream))
            && (self.lanes.is_empty() || self.lanes.contains(&chain.lane))
            && (self.origins.is_empty() || self.origins.contains(&chain.origin))
            && (!self.privileged_only
                || event::with_view(chain, record, |view| view.event.privileged.is_some()))
    }
}

/// When a batch is closed. Reaching any of these closes it, and so does having nothing to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Records.
    pub records: u64,
    /// Bytes as written.
    pub bytes: u64,
    /// Time since the batch began.
    pub interval: Duration,
}

/// The raw form of one sink: the keys that every sink has, and those of its type.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct RawSink(toml::Table);

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct RawCommon {
    name: String,
    r#type: String,
    batch_records: Option<u64>,
    batch_bytes: Option<ByteSize>,
    batch_interval: Option<Span>,
    retry_min: Option<Span>,
    retry_max: Option<Span>,
    lag_alarm: Option<Span>,
    records_per_second: u64,
    dead_letter_bytes: Option<ByteSize>,
    streams: Vec<Stream>,
    lanes: Vec<Lane>,
    origins: Vec<OriginId>,
    privileged_only: bool,
}

const COMMON_KEYS: [&str; 14] = [
    "name",
    "type",
    "batch-records",
    "batch-bytes",
    "batch-interval",
    "retry-min",
    "retry-max",
    "lag-alarm",
    "records-per-second",
    "dead-letter-bytes",
    "streams",
    "lanes",
    "origins",
    "privileged-only",
];

fn batch_interval() -> Span {
    Span::secs(1)
}
fn retry_min() -> Span {
    Span::millis(500)
}
fn retry_max() -> Span {
    Span::secs(60)
}
// As an archive's: long enough for a restart of the SIEM, short enough for somebody to look today.
fn lag_alarm() -> Span {
    Span::secs(15 * 60)
}

// Half a million records or more: by then somebody should know.
fn dead_letter_bytes() -> ByteSize {
    ByteSize::mib(1024)
}

impl RawSink {
    /// Checks one sink; problems are noted under `sink[POSITION]`. `None` where what is left could not
    /// be used, and a problem says so.
    pub(crate) fn check(self, position: usize, problems: &mut Problems) -> Option<SinkConfig> {
        let mut section = Section { position, table: self.0, problems };
        let common: RawCommon = section.take(&COMMON_KEYS)?;
        let (kind, records, bytes) = match common.r#type.as_str() {
            "elasticsearch" => {
                let read = elastic::read(&mut section, Dialect::Elasticsearch)?;
                (SinkKind::Elastic(Box::new(read)), elastic::BATCH_RECORDS, elastic::BATCH_BYTES)
            }
            "file" => {
                (SinkKind::File(file::read(&mut section)?), file::BATCH_RECORDS, file::BATCH_BYTES)
            }
            "forward" => (
                SinkKind::Forward(forward::read(&mut section)?),
                forward::BATCH_RECORDS,
                forward::BATCH_BYTES,
            ),
            "http" => (
                SinkKind::Http(http_json::read(&mut section)?),
                http_json::BATCH_RECORDS,
                http_json::BATCH_BYTES,
            ),
            "kafka" => (
                kafka_kind(&mut section, common.batch_records)?,
                kafka::BATCH_RECORDS,
                kafka::BATCH_BYTES,
            ),
            "loki" => (
                SinkKind::Loki(Box::new(loki::read(&mut section)?)),
                loki::BATCH_RECORDS,
                loki::BATCH_BYTES,
            ),
            "opensearch" => {
                let read = elastic::read(&mut section, Dialect::OpenSearch)?;
                (SinkKind::Elastic(Box::new(read)), elastic::BATCH_RECORDS, elastic::BATCH_BYTES)
            }
            "sentinel" => (
                SinkKind::Sentinel(Box::new(sentinel::read(&mut section)?)),
                sentinel::BATCH_RECORDS,
                sentinel::BATCH_BYTES,
            ),
            "splunk-hec" => (
                SinkKind::Splunk(Box::new(splunk::read(&mut section)?)),
                splunk::BATCH_RECORDS,
                splunk::BATCH_BYTES,
            ),
            "syslog" => (
                SinkKind::Syslog(syslog::read(&mut section)?),
                syslog::BATCH_RECORDS,
                syslog::BATCH_BYTES,
            ),
            other => {
                section.check(false, "type", &format!("is {TYPES}, not {other:?}"));
                return None;
            }
        };
        section.check(
            is_name(&common.name),
            "name",
            "is 1 to 64 of a-z, A-Z, 0-9, '-' and '_', and begins with a letter or digit",
        );
        let batch = BatchLimits {
            records: common.batch_records.unwrap_or(records),
            bytes: common.batch_bytes.unwrap_or(bytes).0,
            interval: common.batch_interval.unwrap_or_else(batch_interval).0,
        };
        let retry = (
            common.retry_min.unwrap_or_else(retry_min).0,
            common.retry_max.unwrap_or_else(retry_max).0,
        );
        section.check(batch.records > 0, "batch-records", "is 1 or more");
        section.check(batch.bytes > 0, "batch-bytes", "must be more than nothing");
        section.check(!retry.0.is_zero(), "retry-min", "must not be zero");
        section.check(retry.0 <= retry.1, "retry-max", "must not be less than retry-min");
        let lag_alarm = common.lag_alarm.unwrap_or_else(lag_alarm).0;
        section.check(!lag_alarm.is_zero(), "lag-alarm", "must be longer than nothing");
        let filter = Filter {
            streams: common.streams,
            lanes: common.lanes,
            origins: common.origins,
            privileged_only: common.privileged_only,
        };
        let dead_letter_bytes = common.dead_letter_bytes.unwrap_or_else(dead_letter_bytes).0;
        section.check(dead_letter_bytes > 0, "dead-letter-bytes", "must be more than nothing");
        Some(SinkConfig {
            name: common.name,
            batch,
            retry,
            lag_alarm,
            records_per_second: common.records_per_second,
            dead_letter_bytes,
            filter,
            kind,
        })
    }
}

#[cfg(feature = "kafka")]
fn kafka_kind(section: &mut Section<'_>, records: Option<u64>) -> Option<SinkKind> {
    Some(SinkKind::Kafka(kafka::check(section, records)?))
}

#[cfg(not(feature = "kafka"))]
fn kafka_kind(section: &mut Section<'_>, records: Option<u64>) -> Option<SinkKind> {
    kafka::check(section, records);
    section.check(false, "type", "this program was built without Kafka");
    None
}

/// The types of sinks, for a problem.
const TYPES: &str = "\"elasticsearch\", \"file\", \"forward\", \"http\", \"kafka\", \"loki\", \"opensearch\", \"sentinel\", \"splunk-hec\" or \"syslog\"";

// The name becomes part of a file name.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[derive(Deserialize)]
    struct Sections {
        sink: Vec<RawSink>,
    }

    fn check(text: &str) -> Result<Vec<SinkConfig>, String> {
        let raw: Sections = toml::from_str(text).map_err(|err| err.to_string())?;
        let mut problems = Problems::default();
        let sinks = raw.sink.into_iter().enumerate();
        let sinks: Vec<_> =
            sinks.filter_map(|(position, sink)| sink.check(position, &mut problems)).collect();
        problems.into_result(Path::new("low.toml")).map_err(|err| err.to_string())?;
        Ok(sinks)
    }

    #[test]
    fn every_section_in_the_pages_about_sinks_is_taken() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/doc/sinks");
        let mut blocks = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            // Its own test reads it, also where the sink was not built.
            if path.ends_with("kafka.md") {
                continue;
            }
            let page = std::fs::read_to_string(&path).unwrap();
            let found = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
            for block in found.filter(|block| block.contains("[[sink]]")) {
                let sinks = check(block);
                sinks.unwrap_or_else(|err| panic!("{}: {block}: {err}", path.display()));
                blocks += 1;
            }
        }
        assert!(blocks >= 2, "{blocks}");
    }

    #[test]
    fn what_can_not_be_is_refused_with_the_key_that_is_wrong() {
        let http = "type = \"http\"\nurl = \"https://h\"\n";
        let tcp = "type = \"syslog\"\ntransport = \"tcp\"\naddress = \"h:1\"\n";
        let relp = "type = \"syslog\"\ntransport = \"relp\"\naddress = \"h:1\"\n";
        let forward = "type = \"forward\"\ntransport = \"tcp\"\naddress = \"h:1\"\n";
        for (section, named) in [
            ("type = \"telex\"", "sink[0].type"),
            ("type = \"file\"", "path"),
            ("type = \"file\"\npath = \"/x\"\nurl = \"https://h\"", "url"),
            ("type = \"http\"\nurl = \"h\"", "sink[0].url"),
            ("type = \"http\"\nurl = \"http://h\"\nca-file = \"/ca\"", "sink[0].ca-file"),
            (&format!("{http}cert-file = \"/c\""), "sink[0].cert-file"),
            (&format!("{http}authorization-file = \"x\""), "sink[0].authorization-file"),
            (
                "type = \"http\"\nurl = \"http://h\"\nauthorization-file = \"/x\"",
                "not sent without TLS",
            ),
            (&format!("{http}timeout = \"0s\""), "sink[0].timeout"),
            (&format!("{http}streams = [\"telex\"]"), "telex"),
            (&format!("{http}batch-records = 0"), "sink[0].batch-records"),
            (&format!("{http}lag-alarm = \"0s\""), "sink[0].lag-alarm"),
            (&format!("{http}dead-letter-bytes = \"0B\""), "sink[0].dead-letter-bytes"),
            (&format!("{tcp}window = 5"), "sink[0].window"),
            (&format!("{tcp}ca-file = \"/ca\""), "sink[0].ca-file"),
            (&format!("{tcp}resend-window = \"5s\""), "sink[0].resend-window"),
            (&format!("{tcp}confirm = \"write\"\nresend-window = \"11m\""), "resend-window"),
            (&format!("{tcp}max-message-bytes = \"479\""), "sink[0].max-message-bytes"),
            (&format!("{tcp}bom = true\nbody = \"original\""), "sink[0].bom"),
            (&format!("{relp}framing = \"lf\""), "sink[0].framing"),
            (&format!("{relp}confirm = \"close\""), "sink[0].confirm"),
            (&format!("{relp}window = 0"), "sink[0].window"),
            (&format!("{relp}window = 1001"), "sink[0].window"),
            (&format!("{relp}max-message-bytes = \"129KiB\""), "is 480 to 128KiB"),
            ("type = \"syslog\"\ntransport = \"relp-tls\"\naddress = \"h:1\"", "sink[0].ca-file"),
            ("type = \"syslog\"\ntransport = \"tcp\"\naddress = \"h\"", "sink[0].address"),
            ("type = \"forward\"\ntransport = \"relp\"\naddress = \"h:1\"", "sink[0].transport"),
            (&format!("{forward}tag = \"a b\""), "sink[0].tag"),
            (&format!("{forward}tag = \"{{origin}}\""), "sink[0].tag"),
            (&format!("{forward}chunk-bytes = \"1GiB\""), "sink[0].chunk-bytes"),
            (&format!("{forward}shared-key-file = \"key\""), "sink[0].shared-key-file"),
            (&format!("{forward}user = \"u\""), "sink[0].user"),
            (
                &format!("{forward}user = \"u\"\npassword-file = \"/p\""),
                "only together with a shared key",
            ),
        ] {
            let problem = check(&format!("[[sink]]\nname = \"x\"\n{section}")).unwrap_err();
            assert!(problem.contains(named), "{section}: {problem}");
        }
    }

    #[test]
    fn addresses() {
        for (address, host) in [
            ("siem:514", Some("siem")),
            ("10.0.0.1:6514", Some("10.0.0.1")),
            ("[::1]:514", Some("::1")),
            ("::1:514", None),
            ("siem", None),
            (":514", None),
            ("siem:0", None),
            ("siem:99999", None),
        ] {
            assert_eq!(split_address(address).as_deref(), host, "{address}");
        }
    }
}
