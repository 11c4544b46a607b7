//! The configuration of the sinks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use shared::config::{ByteSize, Problems, Span};
use shared::record::{Lane, OriginId, RecordRef, Stream};

use super::kafka::config as kafka;
use crate::event;
use crate::http::{HttpConfig, Url};
use crate::ledger::ChainName;
use crate::mapping::Schema;
use crate::tls::{RawTls, TlsConfig};

use super::elastic::config::{self as elastic, Dialect, ElasticConfig};
use super::loki::config::{self as loki, LokiConfig};
use super::sentinel::config::{self as sentinel, SentinelConfig};
use super::splunk::config::{self as splunk, SplunkConfig};

/// One sink.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkConfig {
    /// Its name: in the ledger, in logs, in file names.
    pub name: String,
    /// When a batch is closed and noted in the ledger.
    pub batch: BatchLimits,
    /// The shortest and the longest pause before another try.
    pub retry: (Duration, Duration),
    /// Records that are handed over in a second, at most; 0 for as many as it takes.
    pub records_per_second: u64,
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

/// A file of JSON lines.
#[derive(Clone, Debug, PartialEq)]
pub struct FileConfig {
    /// The folder.
    pub dir: PathBuf,
    /// In whose words records stand in it.
    pub schema: Schema,
    /// The size at which the file is rotated.
    pub rotate_bytes: u64,
    /// The age at which the file is rotated.
    pub rotate_age: Duration,
}

/// A receiver of JSON over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpJsonConfig {
    /// Where it is.
    pub http: HttpConfig,
    /// In whose words records are sent.
    pub schema: Schema,
    /// How records stand in a request.
    pub shape: JsonShape,
    /// The size from which on a request is sent.
    pub body_bytes: usize,
    /// Whether requests are compressed.
    pub gzip: bool,
    /// The file with what the `Authorization` header says, as `Bearer TOKEN`.
    pub authorization_file: Option<PathBuf>,
}

/// How records stand in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JsonShape {
    /// One object a line.
    Lines,
    /// One array of objects.
    Array,
}

/// A receiver of the Forward protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardConfig {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The tag, in which `{stream}` stands for the record's stream.
    pub tag: String,
    /// The size from which on a chunk is sent.
    pub chunk_bytes: usize,
    /// Whether chunks are compressed.
    pub gzip: bool,
    /// The file with the key that both sides share.
    pub shared_key_file: Option<PathBuf>,
    /// A name, and the file with its password.
    pub user: Option<(String, PathBuf)>,
    /// What we call ourselves; Fluentd takes nobody who has its own name.
    pub hostname: String,
}

impl ForwardConfig {
    /// The tag of a stream's records.
    pub fn tag(&self, stream: Stream) -> String {
        self.tag.replace(STREAM, &stream.to_string())
    }
}

const STREAM: &str = "{stream}";

/// A receiver that is spoken to over a connection of its own protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `HOST:PORT`.
    pub address: String,
    /// TLS, or plain TCP where there is none.
    pub tls: Option<TlsConfig>,
    /// How long connecting and the TLS handshake may take.
    pub connect_timeout: Duration,
    /// How long the receiver may take for its next sign of life: to take bytes, to answer, to close.
    pub timeout: Duration,
}

/// A syslog receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct SyslogConfig {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The header of messages that we make.
    pub format: SyslogFormat,
    /// What a message carries.
    pub body: Body,
    /// Whether UTF-8 in the message part begins with its mark, as RFC 5424 (6.4) has it. Readers of JSON
    /// stumble over it.
    pub bom: bool,
    /// The longest message that is sent, header included. A longer one goes to the dead letters whole:
    /// receivers cut what is too long for them, and say nothing.
    pub message_bytes_max: usize,
    /// How messages are handed over.
    pub wire: Wire,
}

/// How messages are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// By RELP: the receiver acknowledges every message.
    Relp {
        /// Messages that may be under way and not acknowledged, at most.
        window: usize,
    },
    /// As a stream of messages, which nobody acknowledges (RFC 6587, and RFC 5425 with TLS).
    Stream {
        /// How messages are kept apart.
        framing: Framing,
        /// When a batch counts as delivered.
        confirm: Confirm,
    },
}

/// The header of messages that we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyslogFormat {
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424.
    Rfc5424,
}

/// How messages are kept apart on the wire (RFC 6587).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// Each message ends with a line feed; one inside a message is written `#012`.
    Lf,
    /// Each message follows its length.
    OctetCounting,
}

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    /// `ArcSight`'s Common Event Format, which `FortiSIEM` reads, too.
    Cef,
    /// The JSON event.
    Json,
    /// IBM `QRadar`'s Log Event Extended Format.
    Leef,
    /// The message as it was received. A syslog line goes out as it came in, header and all.
    Original,
}

/// When a batch counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// When the receiver closed in order after we did: its program has read everything.
    Close,
    /// When the receiver's kernel has it, and the connection has stood for so long since. What a dying
    /// receiver had not read by then is lost.
    Write {
        /// What was sent in so long a time before a break is sent again. Zero: the batch counts when
        /// it was handed to our own kernel.
        resend_window: Duration,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawConfirm {
    Close,
    Write,
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
    records_per_second: u64,
    streams: Vec<Stream>,
    lanes: Vec<Lane>,
    origins: Vec<OriginId>,
    privileged_only: bool,
}

const COMMON_KEYS: [&str; 12] = [
    "name",
    "type",
    "batch-records",
    "batch-bytes",
    "batch-interval",
    "retry-min",
    "retry-max",
    "records-per-second",
    "streams",
    "lanes",
    "origins",
    "privileged-only",
];
const TLS_KEYS: [&str; 4] = ["ca-file", "cert-file", "key-file", "server-name"];

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawFile {
    path: PathBuf,
    #[serde(default)]
    schema: Schema,
    #[serde(default = "rotate_bytes")]
    rotate_bytes: ByteSize,
    #[serde(default = "rotate_age")]
    rotate_age: Span,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawSyslog {
    transport: Transport,
    #[serde(default = "format")]
    format: SyslogFormat,
    framing: Option<Framing>,
    #[serde(default = "body")]
    body: Body,
    #[serde(default)]
    bom: bool,
    #[serde(default = "message_bytes_max")]
    max_message_bytes: ByteSize,
    confirm: Option<RawConfirm>,
    resend_window: Option<Span>,
    window: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawForward {
    transport: Transport,
    #[serde(default = "forward_tag")]
    tag: String,
    #[serde(default = "body_bytes")]
    chunk_bytes: ByteSize,
    #[serde(default)]
    gzip: bool,
    shared_key_file: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    #[serde(default = "forward_hostname")]
    hostname: String,
}

/// What sinks that have a protocol of their own have.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawEndpoint {
    address: String,
    #[serde(default = "confirm_timeout")]
    confirm_timeout: Span,
    #[serde(default = "connect_timeout")]
    connect_timeout: Span,
}

const ENDPOINT_KEYS: [&str; 3] = ["address", "confirm-timeout", "connect-timeout"];

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawHttpJson {
    #[serde(default)]
    schema: Schema,
    #[serde(default = "shape")]
    shape: JsonShape,
    #[serde(default = "body_bytes")]
    body_bytes: ByteSize,
    #[serde(default)]
    gzip: bool,
    authorization_file: Option<PathBuf>,
}

/// What sinks that speak HTTP have.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawHttp {
    url: String,
    #[serde(default = "timeout")]
    timeout: Span,
    #[serde(default = "connect_timeout")]
    connect_timeout: Span,
}

const HTTP_KEYS: [&str; 3] = ["url", "timeout", "connect-timeout"];

/// One section while it is checked.
pub(crate) struct Section<'a> {
    position: usize,
    table: toml::Table,
    problems: &'a mut Problems,
}

impl Section<'_> {
    /// Where a key stands, for problems.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("sink[{}].{name}", self.position)
    }

    /// Notes a problem with a key where `good` does not hold.
    pub(crate) fn check(&mut self, good: bool, name: &str, problem: &str) {
        let key = self.key(name);
        self.problems.check(good, &key, problem);
    }

    /// A credential is never sent in the clear, and stands in a file with an absolute path.
    pub(crate) fn check_secret(&mut self, tls: bool, path: Option<&Path>, name: &str) {
        let Some(path) = path else { return };
        self.check(path.is_absolute(), name, "must be an absolute path");
        self.check(tls, name, "is not sent without TLS: use an https:// url");
    }

    /// Takes some keys out of the section.
    fn take<T: DeserializeOwned>(&mut self, keys: &[&str]) -> Option<T> {
        let mut taken = toml::Table::new();
        for key in keys {
            if let Some((key, value)) = self.table.remove_entry(*key) {
                taken.insert(key, value);
            }
        }
        self.read(taken)
    }

    /// Takes all keys that are left: there may be none but those of `T`.
    pub(crate) fn rest<T: DeserializeOwned>(&mut self) -> Option<T> {
        let rest = std::mem::take(&mut self.table);
        self.read(rest)
    }

    fn read<T: DeserializeOwned>(&mut self, table: toml::Table) -> Option<T> {
        match table.try_into() {
            Ok(read) => Some(read),
            Err(err) => {
                let err: toml::de::Error = err;
                self.problems.add(&format!("sink[{}]", self.position), err.to_string().trim_end());
                None
            }
        }
    }

    /// Whether its transport is TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.table.get("transport").and_then(|value| value.as_str()) == Some("tls")
    }

    /// Takes the keys about TLS.
    pub(crate) fn tls(&mut self, used: bool) -> Option<TlsConfig> {
        let raw: RawTls = self.take(&TLS_KEYS)?;
        let position = self.position;
        raw.check(used, &|name| format!("sink[{position}].{name}"), self.problems)
    }

    /// Takes the keys of a receiver that has a protocol of its own.
    pub(crate) fn endpoint(&mut self, with_tls: bool) -> Option<Endpoint> {
        let tls = self.tls(with_tls);
        self.check(
            tls.as_ref().is_none_or(|tls| tls.ca_file.is_some()),
            "ca-file",
            "is needed: the receiver's certificate is always verified",
        );
        let raw: RawEndpoint = self.take(&ENDPOINT_KEYS)?;
        let problem = format!("is written HOST:PORT, not {:?}", raw.address);
        self.check(split_address(&raw.address).is_some(), "address", &problem);
        for (name, span) in
            [("confirm-timeout", raw.confirm_timeout), ("connect-timeout", raw.connect_timeout)]
        {
            self.check(!span.0.is_zero(), name, "must not be zero");
        }
        Some(Endpoint {
            address: raw.address,
            tls: tls.filter(|_| with_tls),
            connect_timeout: raw.connect_timeout.0,
            timeout: raw.confirm_timeout.0,
        })
    }

    /// Reads a URL; a problem is noted under `key`.
    pub(crate) fn url(&mut self, key: &str, text: &str) -> Option<Url> {
        Url::parse(text).map_err(|problem| self.problems.add(key, problem)).ok()
    }

    /// Takes the keys of a server that is spoken to over HTTP.
    pub(crate) fn http(&mut self) -> Option<HttpConfig> {
        let raw: RawHttp = self.take(&HTTP_KEYS)?;
        for (name, span) in [("timeout", raw.timeout), ("connect-timeout", raw.connect_timeout)] {
            self.check(!span.0.is_zero(), name, "must not be zero");
        }
        let key = self.key("url");
        let url = self.url(&key, &raw.url)?;
        let tls = self.tls(url.tls).unwrap_or_default();
        let (connect_timeout, timeout) = (raw.connect_timeout.0, raw.timeout.0);
        Some(HttpConfig { url, tls, connect_timeout, timeout })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    Relp,
    RelpTls,
    Tcp,
    Tls,
}

// One file a day at 3,000 records a second of 1 KiB, or a day.
fn rotate_bytes() -> ByteSize {
    ByteSize::mib(256)
}
fn rotate_age() -> Span {
    Span::secs(24 * 3600)
}
// A sync and a commit cost about 10 ms: at these sizes they cost a tenth of the work.
fn file_batch_records() -> u64 {
    20_000
}
// Every batch is one connection: at this size, connecting does not show.
fn syslog_batch_records() -> u64 {
    10_000
}
fn http_batch_records() -> u64 {
    10_000
}
// What is sent again where no answer came, at most.
fn http_batch_bytes() -> ByteSize {
    ByteSize::mib(8)
}
// Every collector takes this much.
fn body_bytes() -> ByteSize {
    ByteSize::mib(1)
}
fn forward_tag() -> String {
    format!("penstock.{STREAM}")
}
fn forward_hostname() -> String {
    "penstock-low".to_owned()
}
fn shape() -> JsonShape {
    JsonShape::Lines
}
// What is compared again after a crash, at most. Larger batches sync less often, and no more memory
// is used for them.
fn file_batch_bytes() -> ByteSize {
    ByteSize::mib(32)
}
// What is sent again after a broken connection, at most.
fn syslog_batch_bytes() -> ByteSize {
    ByteSize::mib(8)
}
fn batch_interval() -> Span {
    Span::secs(1)
}
fn retry_min() -> Span {
    Span::millis(500)
}
fn retry_max() -> Span {
    Span::secs(60)
}
fn format() -> SyslogFormat {
    SyslogFormat::Rfc5424
}
fn body() -> Body {
    Body::Json
}
// rsyslog's and Wazuh's longest at their largest common setting; see sinks/syslog.md.
fn message_bytes_max() -> ByteSize {
    ByteSize::kib(64)
}
// A receiver that stalls for longer shows in the send queue. What was sent in so long is sent again after
// each restart of the receiver, so that it is no longer than needed.
fn resend_window() -> Span {
    Span::secs(5)
}
// What librelp's own client has under way.
fn relp_window() -> u64 {
    128
}
// A receiver that writes a batch to a slow disk before it reads on.
fn confirm_timeout() -> Span {
    Span::secs(30)
}
// A bulk that a busy index takes its time for.
fn timeout() -> Span {
    Span::secs(60)
}
fn connect_timeout() -> Span {
    Span::secs(10)
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
                (SinkKind::File(file(&mut section)?), file_batch_records(), file_batch_bytes())
            }
            "forward" => (
                SinkKind::Forward(forward(&mut section)?),
                syslog_batch_records(),
                syslog_batch_bytes(),
            ),
            "http" => {
                (SinkKind::Http(http_json(&mut section)?), http_batch_records(), http_batch_bytes())
            }
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
                SinkKind::Syslog(syslog(&mut section)?),
                syslog_batch_records(),
                syslog_batch_bytes(),
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
        let filter = Filter {
            streams: common.streams,
            lanes: common.lanes,
            origins: common.origins,
            privileged_only: common.privileged_only,
        };
        let records_per_second = common.records_per_second;
        Some(SinkConfig { name: common.name, batch, retry, records_per_second, filter, kind })
    }
}

fn file(section: &mut Section<'_>) -> Option<FileConfig> {
    let raw: RawFile = section.rest()?;
    section.check(raw.path.is_absolute(), "path", "must be an absolute path");
    section.check(raw.rotate_bytes.0 > 0, "rotate-bytes", "must be more than nothing");
    section.check(!raw.rotate_age.0.is_zero(), "rotate-age", "must not be zero");
    Some(FileConfig {
        dir: raw.path,
        schema: raw.schema,
        rotate_bytes: raw.rotate_bytes.0,
        rotate_age: raw.rotate_age.0,
    })
}

fn forward(section: &mut Section<'_>) -> Option<ForwardConfig> {
    let transport = section.table.get("transport").and_then(|value| value.as_str());
    let with_tls = transport == Some("tls");
    let endpoint = section.endpoint(with_tls)?;
    let raw: RawForward = section.rest()?;
    let known = matches!(raw.transport, Transport::Tcp | Transport::Tls);
    section.check(known, "transport", "is \"tcp\" or \"tls\"");
    let bare = raw.tag.replace(STREAM, "");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = (1..=128).contains(&raw.tag.len()) && bare.chars().all(plain);
    section.check(good, "tag", "is 1 to 128 of a-z, A-Z, 0-9, '.', '_', '-', and {stream}");
    let size = (1 << 10)..=(32 << 20);
    section.check(size.contains(&raw.chunk_bytes.0), "chunk-bytes", "is 1KiB to 32MiB");
    for (name, path) in
        [("shared-key-file", &raw.shared_key_file), ("password-file", &raw.password_file)]
    {
        let absolute = path.as_deref().is_none_or(Path::is_absolute);
        section.check(absolute, name, "must be an absolute path");
    }
    section.check(
        raw.user.is_some() == raw.password_file.is_some(),
        "user",
        "and password-file go together",
    );
    section.check(
        raw.user.is_none() || raw.shared_key_file.is_some(),
        "user",
        "is asked for only together with a shared key: set shared-key-file",
    );
    let named = (1..=255).contains(&raw.hostname.len()) && raw.hostname.chars().all(plain);
    section.check(named, "hostname", "is a host's name");
    Some(ForwardConfig {
        endpoint,
        tag: raw.tag,
        chunk_bytes: usize::try_from(raw.chunk_bytes.0).unwrap_or(usize::MAX),
        gzip: raw.gzip,
        shared_key_file: raw.shared_key_file,
        user: raw.user.zip(raw.password_file),
        hostname: raw.hostname,
    })
}

fn http_json(section: &mut Section<'_>) -> Option<HttpJsonConfig> {
    let http = section.http()?;
    let raw: RawHttpJson = section.rest()?;
    section.check(raw.body_bytes.0 > 0, "body-bytes", "must be more than nothing");
    section.check_secret(http.url.tls, raw.authorization_file.as_deref(), "authorization-file");
    Some(HttpJsonConfig {
        http,
        schema: raw.schema,
        shape: raw.shape,
        body_bytes: usize::try_from(raw.body_bytes.0).unwrap_or(usize::MAX),
        gzip: raw.gzip,
        authorization_file: raw.authorization_file,
    })
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

fn syslog(section: &mut Section<'_>) -> Option<SyslogConfig> {
    let transport = section.table.get("transport").and_then(|value| value.as_str());
    let with_tls = matches!(transport, Some("tls" | "relp-tls"));
    let endpoint = section.endpoint(with_tls)?;
    let raw: RawSyslog = section.rest()?;
    let relp = matches!(raw.transport, Transport::Relp | Transport::RelpTls);
    let wire = if relp {
        let window = raw.window.unwrap_or_else(relp_window);
        section.check(raw.framing.is_none(), "framing", "is for tcp and tls: RELP has its own");
        let why = "is for tcp and tls: RELP acknowledges every message";
        section.check(raw.confirm.is_none(), "confirm", why);
        section.check((1..=RELP_WINDOW_MAX).contains(&window), "window", "is 1 to 1,000");
        Wire::Relp { window: usize::try_from(window).unwrap_or(1) }
    } else {
        section.check(raw.window.is_none(), "window", "is for RELP");
        let framing = raw.framing.unwrap_or(Framing::OctetCounting);
        let confirm = match raw.confirm {
            None | Some(RawConfirm::Close) => Confirm::Close,
            Some(RawConfirm::Write) => {
                Confirm::Write { resend_window: raw.resend_window.unwrap_or_else(resend_window).0 }
            }
        };
        Wire::Stream { framing, confirm }
    };
    let writes = raw.confirm == Some(RawConfirm::Write);
    let why = "is for confirm = \"write\": whatever else confirms needs none";
    section.check(writes || raw.resend_window.is_none(), "resend-window", why);
    let short = raw.resend_window.is_none_or(|window| window.0 <= RESEND_WINDOW_MAX);
    section.check(short, "resend-window", "is 10m at most");
    let marked = raw.format == SyslogFormat::Rfc5424 && raw.body != Body::Original;
    section.check(!raw.bom || marked, "bom", "is for rfc5424, and not for the original message");
    let longest = if relp { RELP_DATA_BYTES_MAX } else { MESSAGE_BYTES_MAX };
    let longest_size = ByteSize(longest);
    section.check(
        (MESSAGE_BYTES_LEAST..=longest).contains(&raw.max_message_bytes.0),
        "max-message-bytes",
        &format!("is 480 to {longest_size} for this transport"),
    );
    Some(SyslogConfig {
        endpoint,
        format: raw.format,
        body: raw.body,
        bom: raw.bom,
        message_bytes_max: usize::try_from(raw.max_message_bytes.0).unwrap_or(usize::MAX),
        wire,
    })
}

/// The specification: "in relp version 1, it is always 128K".
const RELP_DATA_BYTES_MAX: u64 = 128 * 1024;
/// Eight bytes of memory for each, at most, beside the frames in the socket.
const RELP_WINDOW_MAX: u64 = 1_000;
/// Nothing counts as delivered for so long: longer, and the watermark is of no use.
const RESEND_WINDOW_MAX: Duration = Duration::from_mins(10);
/// What RFC 5424 (6.1) obliges every receiver to take.
const MESSAGE_BYTES_LEAST: u64 = 480;
/// More than any record may have.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The types of sinks, for a problem.
const TYPES: &str = "\"elasticsearch\", \"file\", \"forward\", \"http\", \"kafka\", \"loki\", \"opensearch\", \"sentinel\", \"splunk-hec\" or \"syslog\"";

/// The host of `HOST:PORT` or `[IPv6]:PORT`.
pub(super) fn split_address(address: &str) -> Option<String> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let ipv6_without_brackets = bare.contains(':') && bare.len() == host.len();
    (!bare.is_empty() && !ipv6_without_brackets).then(|| bare.to_owned())
}

// The name becomes part of a file name.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
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
