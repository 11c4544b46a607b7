//! Records as syslog messages, and messages on the wire.
//!
//! Every message carries its record's id. With `body = "original"` there is no body of ours to hold it: it
//! stands as `[penstock@32473 id="..."]` in the structured data of an RFC 5424 header, ours or the one that the
//! message came with, of which nothing else is changed. An RFC 3164 header has no place for it
//! ([`without_id`]). 32473 is the enterprise number for those that have none (RFC 5612).

use std::io::Write as _;

use shared::clock::Nanos;
use shared::event::{Format, Problem, envelope};
use shared::record::{RecordId, RecordRef};

use super::config::{Body, Framing, SyslogConfig, SyslogFormat};
use crate::event;
use crate::ledger::ChainName;
use crate::mapping::{cef, leef};

/// The mark of UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";
/// Facility 13 (log audit), severity 6 (informational).
const PRIORITY: u8 = 13 * 8 + 6;
/// The name of our element of structured data.
const SD_ID: &str = "penstock@32473";
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
    if config.body == Body::Original && begins_with_priority(record.raw) {
        let at = structured_data(record);
        match at {
            Place::Behind(at) => {
                out.extend_from_slice(&record.raw[..at]);
                element(out, chain, record);
                out.extend_from_slice(&record.raw[at..]);
                return;
            }
            Place::Instead(at) => {
                out.extend_from_slice(&record.raw[..at]);
                element(out, chain, record);
                out.extend_from_slice(&record.raw[at + 1..]);
                return;
            }
            Place::None => {
                out.extend_from_slice(record.raw);
                return;
            }
            // It would have two ids: ours goes in a header before it.
            Place::Taken => {}
        }
    }
    header(out, config, chain, record);
    if config.bom {
        out.extend_from_slice(BOM);
    }
    let room = config.message_bytes_max.saturating_sub(out.len() + 1);
    match config.body {
        Body::Cef => event::with_view(chain, record, |view| cef::render_within(out, view, room)),
        Body::Json => event::render(out, chain, record),
        Body::Leef => event::with_view(chain, record, |view| leef::render_within(out, view, room)),
        Body::Original => out.extend_from_slice(record.raw),
    }
}

/// What goes out without the id of its record, if anything does.
pub(super) fn without_id(config: &SyslogConfig) -> Option<&'static str> {
    match (config.body, config.format) {
        (Body::Original, SyslogFormat::Rfc5424) => {
            Some("messages that came with an RFC 3164 header, which has no place for it,")
        }
        (Body::Original, SyslogFormat::Rfc3164) => Some(
            "messages that did not come with an RFC 5424 header, since one of RFC 3164 has no place for it,",
        ),
        _ => None,
    }
}

/// Where an element of structured data can be put into a message as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the byte at this place, behind other elements.
    Behind(usize),
    /// For the `-` at this place.
    Instead(usize),
    /// Nowhere: the header is not one of RFC 5424, or not a good one.
    None,
    /// There is an element of our name already.
    Taken,
}

fn structured_data(record: &RecordRef<'_>) -> Place {
    let raw = record.raw;
    let envelope = envelope(raw, record.received);
    let broken = [Problem::HeaderIncomplete, Problem::StructuredDataMalformed];
    if envelope.format != Format::Rfc5424
        || envelope.version != Some(1)
        || envelope.problems.iter().any(|problem| broken.contains(problem))
    {
        return Place::None;
    }
    if envelope.structured_data.iter().any(|element| element.id == SD_ID) {
        return Place::Taken;
    }
    let mut end = envelope.message_range.start - if envelope.bom { BOM.len() } else { 0 };
    if envelope.message_range.start > 0 && raw.get(end.wrapping_sub(1)) == Some(&b' ') {
        end -= 1;
    }
    match raw[..end] {
        [.., b' ', b'-'] if envelope.structured_data.is_empty() => Place::Instead(end - 1),
        [.., b']'] if !envelope.structured_data.is_empty() => Place::Behind(end),
        _ => Place::None,
    }
}

fn element(out: &mut Vec<u8>, chain: &ChainName, record: &RecordRef<'_>) {
    let id = RecordId::new(&chain.origin, chain.epoch, chain.lane, record.sequence);
    let _ = write!(out, "[{SD_ID} id=\"{id}\"]");
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

fn header(out: &mut Vec<u8>, config: &SyslogConfig, chain: &ChainName, record: &RecordRef<'_>) {
    let (origin, stream) = (&chain.origin, record.stream);
    let _ = match config.format {
        SyslogFormat::Rfc5424 => {
            let id =
                RecordId::new(&chain.origin, chain.epoch, chain.lane, record.sequence).to_string();
            let msgid = &id[..MSGID_CHARACTERS];
            // RFC 5424 takes six digits of a second at most.
            let time = record.received.to_string();
            let time =
                time.get(..26).filter(|_| time.len() == 30).unwrap_or("1970-01-01T00:00:00.000000");
            let _ = write!(out, "<{PRIORITY}>1 {time}Z {origin} {stream} - {msgid} ");
            match config.body {
                Body::Original => element(out, chain, record),
                Body::Cef | Body::Json | Body::Leef => out.push(b'-'),
            }
            out.write_all(b" ")
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
        let mut out = Vec::new();
        frame(&mut out, framing, &sent(format, body, raw));
        String::from_utf8_lossy(&out).into_owned()
    }

    fn sent(format: SyslogFormat, body: Body, raw: &[u8]) -> Vec<u8> {
        let (framing, confirm) = (Framing::Lf, Confirm::Close);
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
            wire: Wire::Stream { framing, confirm },
        };
        let chain =
            ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(1), lane: Lane::Routine };
        let source = SourceTag::new("udp", "p", None);
        let mut bytes = Vec::new();
        let time = Nanos(1_793_740_219_000_000_001);
        encode(&mut bytes, Sequence(42), time, Stream::PortainerAuth, &source, None, raw);
        let mut text = Vec::new();
        let record = parse(&bytes, 1 << 20).unwrap().0;
        message(&mut text, &config, &chain, &record);
        text
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
            "<110>1 2026-11-03T21:10:19.000000Z plant-7 portainer-auth - 52e588a0dc596a47007c916d1e4d7047 [penstock@32473 id=\"52e588a0dc596a47007c916d1e4d704718069690\"] {\"id\":1}\n"
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
    fn an_original_with_a_header_of_rfc_5424_gets_the_id_and_is_not_changed_otherwise() {
        let id = "[penstock@32473 id=\"52e588a0dc596a47007c916d1e4d704718069690\"]";
        let ours = "<110>1 2026-11-03T21:10:19.000000Z plant-7 portainer-auth - 52e588a0dc596a47007c916d1e4d7047 ";
        for (raw, expected) in [
            ("<34>1 - h a - - - text", format!("<34>1 - h a - - {id} text")),
            ("<34>1 - h a - - - \u{feff}text", format!("<34>1 - h a - - {id} \u{feff}text")),
            ("<34>1 - h a - - -", format!("<34>1 - h a - - {id}")),
            ("<34>1 - h a - - - ", format!("<34>1 - h a - - {id} ")),
            (
                "<34>1 - h a - - [x y=\"\\]\"][z] [t] -",
                format!("<34>1 - h a - - [x y=\"\\]\"][z]{id} [t] -"),
            ),
            ("<34>1 - h a - - [x y=\"1\"]", format!("<34>1 - h a - - [x y=\"1\"]{id}")),
            // No header of RFC 5424, and ones that are damaged.
            ("<34>Oct 11 22:14:15 h su: - x", "<34>Oct 11 22:14:15 h su: - x".to_owned()),
            ("<34>1 - h a - - [x y=\"1 text", "<34>1 - h a - - [x y=\"1 text".to_owned()),
            ("<34>2 - h a - - - text", "<34>2 - h a - - - text".to_owned()),
            ("<34>1 - h a", "<34>1 - h a".to_owned()),
            // One that would be taken for ours.
            (
                "<34>1 - h a - - [penstock@32473 id=\"f\"] t",
                format!("{ours}{id} <34>1 - h a - - [penstock@32473 id=\"f\"] t"),
            ),
        ] {
            let found = framed(SyslogFormat::Rfc5424, Framing::Lf, Body::Original, raw.as_bytes());
            assert_eq!(found, format!("{expected}\n"), "{raw}");
        }
    }

    #[test]
    fn any_original_goes_out_whole_whatever_is_added() {
        let id = "[penstock@32473 id=\"52e588a0dc596a47007c916d1e4d704718069690\"]";
        // Every beginning of a message, and with each byte of it another.
        let whole = "<34>1 2026-11-03T21:10:19Z h a p m [x y=\"\\]\" z=\"1\"] \u{feff}text";
        let others = [b' ', b'-', b'[', b']', b'"', b'\\', 0, 0xff];
        for at in 0..whole.len() {
            let (mut raws, mut bytes) =
                (vec![whole.as_bytes()[..at].to_vec()], whole.as_bytes().to_vec());
            for other in others {
                bytes[at] = other;
                raws.push(bytes.clone());
            }
            for raw in raws {
                let sent = sent(SyslogFormat::Rfc3164, Body::Original, &raw);
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (sent, raw) = (text(&sent), text(&raw));
                let without = sent.replacen(id, "", 1);
                let nil = sent.replacen(id, "-", 1);
                assert!(without.ends_with(&raw) || nil == raw, "{raw}: {sent}");
            }
        }
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
