//! The configuration of the sinks.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shared::config::{ByteSize, Problems, Span};

/// One sink.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkConfig {
    /// Its name: in the ledger, in logs, in file names.
    pub name: String,
    /// When a batch is closed and noted in the ledger.
    pub batch: BatchLimits,
    /// The shortest and the longest pause before another try.
    pub retry: (Duration, Duration),
    /// What it is.
    pub kind: SinkKind,
}

/// What a sink is.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkKind {
    /// A file of JSON lines.
    File(FileConfig),
    /// A syslog receiver.
    Syslog(SyslogConfig),
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

/// How the receiver is authenticated, and how we are.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsConfig {
    /// The authorities that may have signed the receiver's certificate.
    pub ca_file: PathBuf,
    /// Our certificate chain and its key, for mutual TLS.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name in the receiver's certificate.
    pub server_name: String,
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

/// The raw form of one sink.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum RawSink {
    #[serde(rename_all = "kebab-case")]
    File {
        name: String,
        path: PathBuf,
        #[serde(default = "rotate_bytes")]
        rotate_bytes: ByteSize,
        #[serde(default = "rotate_age")]
        rotate_age: Span,
        #[serde(default = "file_batch_records")]
        batch_records: u64,
        #[serde(default = "file_batch_bytes")]
        batch_bytes: ByteSize,
        #[serde(default = "batch_interval")]
        batch_interval: Span,
        #[serde(default = "retry_min")]
        retry_min: Span,
        #[serde(default = "retry_max")]
        retry_max: Span,
    },
    #[serde(rename_all = "kebab-case")]
    Syslog {
        name: String,
        address: String,
        transport: Transport,
        ca_file: Option<PathBuf>,
        cert_file: Option<PathBuf>,
        key_file: Option<PathBuf>,
        server_name: Option<String>,
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
        #[serde(default = "syslog_batch_records")]
        batch_records: u64,
        #[serde(default = "syslog_batch_bytes")]
        batch_bytes: ByteSize,
        #[serde(default = "batch_interval")]
        batch_interval: Span,
        #[serde(default = "retry_min")]
        retry_min: Span,
        #[serde(default = "retry_max")]
        retry_max: Span,
    },
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
fn connect_timeout() -> Span {
    Span::secs(10)
}

impl RawSink {
    /// Checks one sink; problems are noted under `sink[POSITION]`.
    pub(crate) fn check(self, position: usize, problems: &mut Problems) -> SinkConfig {
        let key = |name: &str| format!("sink[{position}].{name}");
        let (name, records, bytes, interval, retry, kind) = match self {
            Self::File {
                name,
                path,
                rotate_bytes,
                rotate_age,
                batch_records,
                batch_bytes,
                batch_interval,
                retry_min,
                retry_max,
            } => {
                problems.check(path.is_absolute(), &key("path"), "must be an absolute path");
                problems.check(
                    rotate_bytes.0 > 0,
                    &key("rotate-bytes"),
                    "must be more than nothing",
                );
                problems.check(!rotate_age.0.is_zero(), &key("rotate-age"), "must not be zero");
                let kind = SinkKind::File(FileConfig {
                    dir: path,
                    rotate_bytes: rotate_bytes.0,
                    rotate_age: rotate_age.0,
                });
                (name, batch_records, batch_bytes, batch_interval, (retry_min, retry_max), kind)
            }
            Self::Syslog {
                name,
                address,
                transport,
                ca_file,
                cert_file,
                key_file,
                server_name,
                format,
                framing,
                body,
                confirm,
                confirm_timeout,
                connect_timeout,
                batch_records,
                batch_bytes,
                batch_interval,
                retry_min,
                retry_max,
            } => {
                let host = split_address(&address);
                problems.check(
                    host.is_some(),
                    &key("address"),
                    format!("is written HOST:PORT, not {address:?}"),
                );
                for (name, span) in
                    [("confirm-timeout", confirm_timeout), ("connect-timeout", connect_timeout)]
                {
                    problems.check(!span.0.is_zero(), &key(name), "must not be zero");
                }
                let tls = transport == Transport::Tls;
                let given = [
                    ("ca-file", ca_file.is_some()),
                    ("cert-file", cert_file.is_some()),
                    ("key-file", key_file.is_some()),
                    ("server-name", server_name.is_some()),
                ];
                for (name, given) in given {
                    problems.check(tls || !given, &key(name), "needs transport = \"tls\"");
                }
                problems.check(
                    !tls || ca_file.is_some(),
                    &key("ca-file"),
                    "is needed: the receiver's certificate is always verified",
                );
                problems.check(
                    cert_file.is_some() == key_file.is_some(),
                    &key("cert-file"),
                    "and key-file go together",
                );
                let host = host.unwrap_or_default();
                let tls = tls.then(|| TlsConfig {
                    ca_file: ca_file.unwrap_or_default(),
                    client: cert_file.zip(key_file),
                    server_name: server_name.unwrap_or(host),
                });
                let kind = SinkKind::Syslog(SyslogConfig {
                    address,
                    tls,
                    format,
                    framing,
                    body,
                    confirm,
                    confirm_timeout: confirm_timeout.0,
                    connect_timeout: connect_timeout.0,
                });
                (name, batch_records, batch_bytes, batch_interval, (retry_min, retry_max), kind)
            }
        };
        problems.check(
            is_name(&name),
            &key("name"),
            "is 1 to 64 of a-z, A-Z, 0-9, '-' and '_', and begins with a letter or digit",
        );
        problems.check(records > 0, &key("batch-records"), "is 1 or more");
        problems.check(bytes.0 > 0, &key("batch-bytes"), "must be more than nothing");
        problems.check(!retry.0.0.is_zero(), &key("retry-min"), "must not be zero");
        problems.check(retry.0 <= retry.1, &key("retry-max"), "must not be less than retry-min");
        SinkConfig {
            name,
            batch: BatchLimits { records, bytes: bytes.0, interval: interval.0 },
            retry: (retry.0.0, retry.1.0),
            kind,
        }
    }
}

/// The host of `HOST:PORT` or `[IPv6]:PORT`.
fn split_address(address: &str) -> Option<String> {
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
