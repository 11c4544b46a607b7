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
use crate::tls::{RawTls, TlsConfig};

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
    /// A file of JSON lines.
    File(FileConfig),
    /// A receiver of JSON over HTTP.
    Http(HttpJsonConfig),
    /// A Kafka cluster.
    #[cfg(feature = "kafka")]
    Kafka(kafka::KafkaConfig),
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

/// A syslog receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct SyslogConfig {
    /// `HOST:PORT`.
    pub address: String,
    /// TLS, or plain TCP where there is none.
    pub tls: Option<TlsConfig>,
    /// The header of messages that we make.
    pub format: SyslogFormat,
    /// How messages are kept apart.
    pub framing: Framing,
    /// What a message carries.
    pub body: Body,
    /// When a batch counts as delivered.
    pub confirm: Confirm,
    /// How long the receiver may take to close, or to take the next bytes.
    pub confirm_timeout: Duration,
    /// How long connecting and the TLS handshake may take.
    pub connect_timeout: Duration,
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
    /// The JSON event.
    Json,
    /// The message as it was received. A syslog line goes out as it came in, header and all.
    Original,
}

/// When a batch counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confirm {
    /// When the receiver closed in order after we did: its program has read everything.
    Close,
    /// When it was handed to the network. What a dying receiver had not read is lost.
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
    #[serde(default = "rotate_bytes")]
    rotate_bytes: ByteSize,
    #[serde(default = "rotate_age")]
    rotate_age: Span,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawSyslog {
    address: String,
    transport: Transport,
    #[serde(default = "format")]
    format: SyslogFormat,
    #[serde(default = "framing")]
    framing: Framing,
    #[serde(default = "body")]
    body: Body,
    #[serde(default = "confirm")]
    confirm: Confirm,
    #[serde(default = "confirm_timeout")]
    confirm_timeout: Span,
    #[serde(default = "connect_timeout")]
    connect_timeout: Span,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawHttpJson {
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

    /// Takes the keys of a server that is spoken to over HTTP.
    pub(crate) fn http(&mut self) -> Option<HttpConfig> {
        let raw: RawHttp = self.take(&HTTP_KEYS)?;
        for (name, span) in [("timeout", raw.timeout), ("connect-timeout", raw.connect_timeout)] {
            self.check(!span.0.is_zero(), name, "must not be zero");
        }
        let key = self.key("url");
        let url = Url::parse(&raw.url).map_err(|problem| self.problems.add(&key, problem)).ok()?;
        let tls = self.tls(url.tls).unwrap_or_default();
        let (connect_timeout, timeout) = (raw.connect_timeout.0, raw.timeout.0);
        Some(HttpConfig { url, tls, connect_timeout, timeout })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
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
fn framing() -> Framing {
    Framing::OctetCounting
}
fn body() -> Body {
    Body::Json
}
fn confirm() -> Confirm {
    Confirm::Close
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
            "file" => {
                (SinkKind::File(file(&mut section)?), file_batch_records(), file_batch_bytes())
            }
            "http" => {
                (SinkKind::Http(http_json(&mut section)?), http_batch_records(), http_batch_bytes())
            }
            "kafka" => (
                kafka_kind(&mut section, common.batch_records)?,
                kafka::BATCH_RECORDS,
                kafka::BATCH_BYTES,
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
        rotate_bytes: raw.rotate_bytes.0,
        rotate_age: raw.rotate_age.0,
    })
}

fn http_json(section: &mut Section<'_>) -> Option<HttpJsonConfig> {
    let http = section.http()?;
    let raw: RawHttpJson = section.rest()?;
    section.check(raw.body_bytes.0 > 0, "body-bytes", "must be more than nothing");
    section.check_secret(http.url.tls, raw.authorization_file.as_deref(), "authorization-file");
    Some(HttpJsonConfig {
        http,
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
    let is_tls = section.is_tls();
    let tls = section.tls(is_tls);
    section.check(
        tls.as_ref().is_none_or(|tls| tls.ca_file.is_some()),
        "ca-file",
        "is needed: the receiver's certificate is always verified",
    );
    let raw: RawSyslog = section.rest()?;
    let problem = format!("is written HOST:PORT, not {:?}", raw.address);
    section.check(split_address(&raw.address).is_some(), "address", &problem);
    for (name, span) in
        [("confirm-timeout", raw.confirm_timeout), ("connect-timeout", raw.connect_timeout)]
    {
        section.check(!span.0.is_zero(), name, "must not be zero");
    }
    Some(SyslogConfig {
        address: raw.address,
        tls: tls.filter(|_| raw.transport == Transport::Tls),
        format: raw.format,
        framing: raw.framing,
        body: raw.body,
        confirm: raw.confirm,
        confirm_timeout: raw.confirm_timeout.0,
        connect_timeout: raw.connect_timeout.0,
    })
}

/// The types of sinks, for a problem.
const TYPES: &str = "\"file\", \"http\", \"kafka\" or \"syslog\"";

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
