//! Records as syslog messages, and messages on the wire.

use std::io::Write as _;

use shared::clock::Nanos;
use shared::record::{RecordId, RecordRef};

use super::config::{Body, Framing, SyslogConfig, SyslogFormat};
use crate::event;
use crate::ledger::ChainName;
use crate::mapping::{cef, leef};

/// The mark of UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";
/// Facility 13 (log audit), severity 6 (informational).
const PRIORITY: u8 = 13 * 8 + 6;
/// RFC 5424 allows 32 characters of MSGID: the first 128 bits of the record id.
const MSGID_CHARACTERS: usize = 32;

/// Writes one message into `out`, which is emptied first.
pub(super) fn message(
    out: &mut Vec<u8>,
    config: &SyslogConfig,
    chain: &ChainName,
    record: &RecordRef<'_>,
) {
    out.clear();
    match config.body {
        Body::Original if begins_with_priority(record.raw) => out.extend_from_slice(record.raw),
        body => {
            header(out, config.format, chain, record);
            if config.bom {
                out.extend_from_slice(BOM);
            }
            match body {
                Body::Cef => event::with_view(chain, record, |view| cef::render(out, view)),
                Body::Json => event::render(out, chain, record),
                Body::Leef => event::with_view(chain, record, |view| leef::render(out, view)),
                Body::Original => out.extend_from_slice(record.raw),
            }
        }
    }
}

/// Why a message that is too long is refused.
pub(super) fn too_long(length: usize, longest: usize) -> String {
    format!("the message has {length} bytes, and max-message-bytes is {longest}")
}

/// Appends a message as it stands in a stream; gives the length that the receiver counts.
pub(super) fn frame(out: &mut Vec<u8>, framing: Framing, message: &[u8]) -> usize {
    match framing {
        Framing::OctetCounting => {
            let _ = write!(out, "{} ", message.len());
            out.extend_from_slice(message);
            message.len()
        }
        Framing::Lf => {
            let before = out.len();
            // A receiver ends a message at LF, and many at NUL: written as rsyslog writes them.
            for &byte in message {
                match byte {
                    b'\n' => out.extend_from_slice(b"#012"),
                    0 => out.extend_from_slice(b"#000"),
                    _ => out.push(byte),
                }
            }
            out.push(b'\n');
            out.len() - before
        }
    }
}

fn header(out: &mut Vec<u8>, format: SyslogFormat, chain: &ChainName, record: &RecordRef<'_>) {
    let (origin, stream) = (&chain.origin, record.stream);
    let _ = match format {
        SyslogFormat::Rfc5424 => {
            let id =
                RecordId::new(&chain.origin, chain.epoch, chain.lane, record.sequence).to_string();
            let msgid = &id[..MSGID_CHARACTERS];
            // RFC 5424 takes six digits of a second at most.
            let time = record.received.to_string();
            let time =
                time.get(..26).filter(|_| time.len() == 30).unwrap_or("1970-01-01T00:00:00.000000");
            write!(out, "<{PRIORITY}>1 {time}Z {origin} {stream} - {msgid} - ")
        }
        SyslogFormat::Rfc3164 => {
            write!(out, "<{PRIORITY}>{} {origin} {stream}: ", rfc3164_time(record.received))
        }
    };
}

/// `Nov  3 21:10:19`, in UTC: RFC 3164 knows no zone, and no year.
fn rfc3164_time(time: Nanos) -> String {
    let stamp = jiff::Timestamp::from_second(time.as_secs()).unwrap_or_default();
    stamp.strftime("%b %e %H:%M:%S").to_string()
}

/// Whether a message begins as syslog does: `<PRI>` with a priority from 0 to 191.
fn begins_with_priority(raw: &[u8]) -> bool {
    let Some(rest) = raw.strip_prefix(b"<") else {
        return false;
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).take(4).count();
    let value =
        rest[..digits].iter().fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    (1..=3).contains(&digits) && rest.get(digits) == Some(&b'>') && value <= 191
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::record::{Epoch, Lane, Sequence, SourceTag, Stream, encode, parse};

    use super::*;
    use crate::sink::config::{Confirm, Endpoint, Wire};

    fn framed(format: SyslogFormat, framing: Framing, body: Body, raw: &[u8]) -> String {
        let config = SyslogConfig {
            endpoint: Endpoint {
                address: "siem:514".to_owned(),
                tls: None,
                connect_timeout: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
            },
            format,
            body,
            bom: body == Body::Leef,
            message_bytes_max: 1 << 16,
            wire: Wire::Stream { framing, confirm: Confirm::Close },
        };
        let chain =
            ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(1), lane: Lane::Routine };
        let source = SourceTag::new("udp", "p", None);
        let mut bytes = Vec::new();
        let time = Nanos(1_793_740_219_000_000_001);
        encode(&mut bytes, Sequence(42), time, Stream::PortainerAuth, &source, None, raw);
        let (mut out, mut text) = (Vec::new(), Vec::new());
        let record = parse(&bytes, 1 << 20).unwrap().0;
        message(&mut text, &config, &chain, &record);
        frame(&mut out, framing, &text);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_syslog_line_goes_out_as_it_came() {
        use SyslogFormat::{Rfc3164, Rfc5424};
        let line = b"<34>Oct 11 su: 'x'\nmore\0";
        let counted = framed(Rfc5424, Framing::OctetCounting, Body::Original, line);
        assert_eq!(counted, "24 <34>Oct 11 su: 'x'\nmore\0");
        let lines = framed(Rfc3164, Framing::Lf, Body::Original, line);
        assert_eq!(lines, "<34>Oct 11 su: 'x'#012more#000\n");
    }

    #[test]
    fn anything_else_gets_a_header() {
        let raw = framed(SyslogFormat::Rfc5424, Framing::Lf, Body::Original, b"{\"id\":1}");
        assert_eq!(
            raw,
            "<110>1 2026-11-03T21:10:19.000000Z plant-7 portainer-auth - 52e588a0dc596a47007c916d1e4d7047 - {\"id\":1}\n"
        );
        let old = framed(SyslogFormat::Rfc3164, Framing::Lf, Body::Original, b"hello");
        assert_eq!(old, "<110>Nov  3 21:10:19 plant-7 portainer-auth: hello\n");
        let json = framed(SyslogFormat::Rfc5424, Framing::OctetCounting, Body::Json, b"<34>x");
        let (length, message) = json.split_once(' ').unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), message.len());
        assert!(
            message.contains(" - {\"id\":\"52e588a0dc596a47007c916d1e4d704718069690\""),
            "{message}"
        );
    }

    #[test]
    fn a_siems_own_format_stands_behind_the_header() {
        let (line, cef, leef) = (b"{\"a\":1}", Body::Cef, Body::Leef);
        let old = framed(SyslogFormat::Rfc3164, Framing::Lf, cef, line);
        let begin = "<110>Nov  3 21:10:19 plant-7 portainer-auth: CEF:0|";
        assert!(old.starts_with(begin) && old.ends_with('\n'), "{old}");
        let marked = framed(SyslogFormat::Rfc5424, Framing::OctetCounting, leef, line);
        assert!(marked.contains(" - \u{feff}LEEF:2.0|"), "{marked}");
    }

    #[test]
    fn what_begins_a_syslog_line() {
        for (raw, expected) in [
            ("<0>", true),
            ("<191>x", true),
            ("<192>x", false),
            ("<>x", false),
            ("<0034>", false),
            ("x<34>", false),
            ("<34", false),
            ("", false),
            ("<3a>", false),
        ] {
            assert_eq!(begins_with_priority(raw.as_bytes()), expected, "{raw}");
        }
    }
}
