//! The configuration of a syslog sink.

use std::time::Duration;

use serde::Deserialize;
use shared::config::{ByteSize, Span};

use super::{Endpoint, Section, Transport};

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

pub(super) fn read(section: &mut Section<'_>) -> Option<SyslogConfig> {
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

/// Every batch is one connection: at this size, connecting does not show.
pub(super) const BATCH_RECORDS: u64 = 10_000;
/// What is sent again after a broken connection, at most.
pub(super) const BATCH_BYTES: ByteSize = ByteSize::mib(8);
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
