//! The syslog envelope of a record: strict first, then as lenient as it takes.
//!
//! [`envelope`] never fails: it fills in what it can and lists what it could not. A record without
//! any problem is valid by RFC 5424, or is as regular as RFC 3164 knows.
//!
//! Why no crate: the best kept one, `syslog_loose` 0.23, was measured with the verdicts that the
//! tests of `influxdata/go-syslog` give about 130 messages. It is lenient by design: it agrees with 88
//! (54 of 54 valid ones, but it also finds nothing wrong with 42 of 76 invalid ones), it takes text
//! only (22 of the 435 odd messages are not UTF-8), gives no byte ranges, and can't say what was
//! wrong. This parser agrees with all 130, which `samples.rs` proves where the samples are present.

use std::borrow::Cow;
use std::ops::Range;

use serde::Serialize;

use crate::clock::Nanos;
use crate::json::{JsonError, Tape};

use super::{rfc3164, rfc5424};

/// What the header of a record says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Envelope<'a> {
    /// Which syntax the header has.
    pub format: Format,
    /// The facility, 0 to 23.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facility: Option<u8>,
    /// The severity, 0 to 7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<u8>,
    /// The version of RFC 5424's syntax.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u16>,
    /// The time as it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Cow<'a, str>>,
    /// The time in UTC, where the header gives year and zone.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub time: Option<Nanos>,
    /// The time, where the header leaves out year or zone: in the year nearest to the time
    /// received, as if the zone were UTC.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub time_if_utc: Option<Nanos>,
    /// Who sent it, as it says itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Cow<'a, str>>,
    /// The application; the tag of RFC 3164.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_name: Option<Cow<'a, str>>,
    /// The process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub procid: Option<Cow<'a, str>>,
    /// The kind of message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msgid: Option<Cow<'a, str>>,
    /// The structured data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub structured_data: Vec<Element<'a>>,
    /// The message as text: without its byte order mark, and with U+FFFD for what is not UTF-8.
    pub message: Cow<'a, str>,
    /// Where the message's bytes stand in the record, without a byte order mark.
    #[serde(skip)]
    pub message_range: Range<usize>,
    /// Whether a byte order mark stood before the message.
    pub bom: bool,
    /// Whether the message is a JSON object or array, and nothing else.
    pub body_is_json: bool,
    /// What could not be parsed, or is not as the RFC wants it; each at most once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// One element of structured data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Element<'a> {
    /// Its SD-ID.
    pub id: &'a str,
    /// Its parameters in their order; a name may repeat.
    pub parameters: Vec<Parameter<'a>>,
}

/// One parameter of structured data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parameter<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value, unescaped.
    pub value: Cow<'a, str>,
}

/// The syntax of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// No header that could be recognised.
    None,
    /// BSD syslog.
    Rfc3164,
    /// Syslog.
    Rfc5424,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// APP-NAME is longer than 48 bytes, or holds bytes that are not printable ASCII.
    AppNameMalformed,
    /// A field of the header is missing.
    HeaderIncomplete,
    /// HOSTNAME is longer than 255 bytes, or holds bytes that are not printable ASCII.
    HostnameMalformed,
    /// The message is JSON that ends early where a sender cuts it: the whole record is as long as
    /// Fluent Bit makes one at most.
    MessageCutBySender,
    /// The message is not UTF-8.
    MessageNotUtf8,
    /// MSGID is longer than 32 bytes, or holds bytes that are not printable ASCII.
    MsgidMalformed,
    /// There is a priority, but it is no number from 0 to 191 without leading zeros.
    PriorityMalformed,
    /// There is no priority.
    PriorityMissing,
    /// PROCID is longer than 128 bytes, or holds bytes that are not printable ASCII.
    ProcidMalformed,
    /// Two elements of structured data have one id.
    StructuredDataDuplicate,
    /// The structured data can't be parsed from some byte on: that and the rest is the message.
    StructuredDataMalformed,
    /// The timestamp is none.
    TimestampMalformed,
    /// There is no timestamp where RFC 3164 wants one.
    TimestampMissing,
    /// The timestamp is clear, but not as the RFC wants it.
    TimestampUnusual,
    /// The version is no number from 1 to 999.
    VersionMalformed,
}

/// The envelope of a record received at a time.
pub fn envelope(raw: &[u8], received: Nanos) -> Envelope<'_> {
    let mut envelope = Envelope::blank(raw.len());
    let (priority, header) = priority(raw);
    match priority {
        Priority::Is(value) => {
            envelope.facility = Some(value / 8);
            envelope.severity = Some(value % 8);
        }
        Priority::Malformed => envelope.note(Problem::PriorityMalformed),
        Priority::Missing => envelope.note(Problem::PriorityMissing),
    }
    let priority_missing = priority == Priority::Missing;
    if rfc5424::looks_like(&raw[header..]) && !priority_missing {
        rfc5424::fill(&mut envelope, raw, header);
    } else {
        rfc3164::fill(&mut envelope, raw, header, priority_missing, received);
    }
    envelope.finish(raw);
    envelope
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Priority {
    Is(u8),
    Malformed,
    Missing,
}

/// The priority, and where the header goes on after it.
fn priority(raw: &[u8]) -> (Priority, usize) {
    if raw.first() != Some(&b'<') {
        return (Priority::Missing, 0);
    }
    let window = &raw[1..raw.len().min(PRIORITY_WINDOW_BYTES)];
    let Some(close) = window.iter().position(|&byte| byte == b'>') else {
        return (Priority::Malformed, 0);
    };
    let digits = &window[..close];
    let after = close + 2;
    let number = digits.iter().all(u8::is_ascii_digit) && (1..=3).contains(&close);
    let value = digits.iter().fold(0_u32, |sum, d| sum * 10 + u32::from(d.wrapping_sub(b'0')));
    match u8::try_from(value) {
        Ok(value) if number && value <= PRIORITY_MAX && (digits[0] != b'0' || close == 1) => {
            (Priority::Is(value), after)
        }
        // Rsyslog writes `<invld>` for a priority it could not read; the rest is in order.
        _ if digits.iter().all(u8::is_ascii_alphanumeric) && close > 0 => {
            (Priority::Malformed, after)
        }
        _ => (Priority::Malformed, 0),
    }
}

impl<'a> Envelope<'a> {
    fn blank(length: usize) -> Self {
        Self {
            format: Format::None,
            facility: None,
            severity: None,
            version: None,
            timestamp: None,
            time: None,
            time_if_utc: None,
            hostname: None,
            app_name: None,
            procid: None,
            msgid: None,
            structured_data: Vec::new(),
            message: Cow::Borrowed(""),
            message_range: 0..length,
            bom: false,
            body_is_json: false,
            problems: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Everything about the message, once it is known where it begins.
    fn finish(&mut self, raw: &'a [u8]) {
        if raw[self.message_range.clone()].starts_with(BOM) {
            self.bom = true;
            self.message_range.start += BOM.len();
        }
        let bytes = &raw[self.message_range.clone()];
        self.message = String::from_utf8_lossy(bytes);
        if matches!(self.message, Cow::Owned(_)) {
            self.note(Problem::MessageNotUtf8);
        }
        self.body_is_json = is_json(bytes);
        if !self.body_is_json && is_cut(self.format, raw, bytes) {
            self.note(Problem::MessageCutBySender);
        }
    }
}

fn is_json(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'['))
        && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

/// Whether a record was cut by a sender with a limit. Fluent Bit cuts bytes, also in the middle of a
/// character; a line feed behind its message is the frame's and not counted.
fn is_cut(format: Format, raw: &[u8], message: &[u8]) -> bool {
    let end = raw.iter().rposition(|byte| !b"\n\r\0".contains(byte)).map_or(0, |at| at + 1);
    let limit = match format {
        Format::Rfc5424 => FLUENT_BIT_RFC5424_BYTES,
        Format::Rfc3164 => FLUENT_BIT_RFC3164_BYTES,
        Format::None => return false,
    };
    let json = matches!(message.trim_ascii_start().first(), Some(b'{' | b'['));
    // White space at the end of what was kept looks as if the record were shorter.
    let full = end == limit || (end < limit && raw.len() == limit);
    json && full && Tape::default().scan(message.trim_ascii()).err() == Some(JsonError::EndsEarly)
}

#[expect(clippy::ref_option, reason = "serde gives the field by reference")]
pub(super) fn as_text<S: serde::Serializer>(
    time: &Option<Nanos>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => to.collect_str(time),
        None => to.serialize_none(),
    }
}

/// Bytes as text, borrowed where they are UTF-8.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

const BOM: &[u8] = b"\xEF\xBB\xBF";
const PRIORITY_MAX: u8 = 191;

/// `syslog_maxsize` of Fluent Bit, unless it is set, for each of its formats.
const FLUENT_BIT_RFC5424_BYTES: usize = 2048;
const FLUENT_BIT_RFC3164_BYTES: usize = 1024;

/// A priority has at most three digits; what stands in its place is not looked for any farther.
const PRIORITY_WINDOW_BYTES: usize = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-23T21:10:19Z.
    const RECEIVED: Nanos = Nanos(1_795_468_219_000_000_000);

    fn view(raw: &str) -> Envelope<'_> {
        envelope(raw.as_bytes(), RECEIVED)
    }

    #[test]
    fn a_whole_rfc5424_message_is_taken_apart() {
        let view = view(
            "<165>1 2003-10-11T22:14:15.003-07:00 host app 42 ID47 \
             [a@1 x=\"1\" y=\"q\\\"\\]\\\\n\\z\"][b] \u{feff}{\"k\": 1}",
        );
        assert_eq!(
            (view.format, view.facility, view.severity),
            (Format::Rfc5424, Some(20), Some(5))
        );
        assert_eq!(view.time.unwrap().to_string(), "2003-10-12T05:14:15.003000000Z");
        assert_eq!(view.hostname.as_deref(), Some("host"));
        assert_eq!(view.app_name.as_deref(), Some("app"));
        assert_eq!((view.procid.as_deref(), view.msgid.as_deref()), (Some("42"), Some("ID47")));
        assert_eq!(view.structured_data[0].parameters[1].value, "q\"]\\n\\z");
        assert_eq!(view.structured_data[1].id, "b");
        assert_eq!(
            (view.message.as_ref(), view.bom, view.body_is_json),
            ("{\"k\": 1}", true, true)
        );
        assert_eq!(view.problems, []);
    }

    #[test]
    fn what_devices_make_of_rfc3164_is_read() {
        for (raw, time, host, app, procid, message) in [
            ("<13>Nov 23 16:00:00 h tag[7]: m", "2026-11-23T16:00:00", "h", "tag", "7", "m"),
            ("<13>Dec 31 23:59:59 h tag: m", "2026-12-31T23:59:59", "h", "tag", "", "m"),
            // Nearer a year ago than in nine months.
            ("<13>Feb  1 00:00:00 h tag: m", "2027-02-01T00:00:00", "h", "tag", "", "m"),
            ("<13>Mar  1 2018 18:46:11: %ASA-6: m", "2018-03-01T18:46:11", "", "%ASA-6", "", "m"),
            ("<13>Nov 23 16:00:00 {\"a\":1}", "2026-11-23T16:00:00", "", "", "", "{\"a\":1}"),
            ("Nov 23 16:00:00 h tag: m", "2026-11-23T16:00:00", "h", "tag", "", "m"),
        ] {
            let view = view(raw);
            assert_eq!(view.format, Format::Rfc3164, "{raw}");
            let text = view.time_if_utc.unwrap().to_string();
            assert!(text.starts_with(time) && view.time.is_none(), "{raw}: {text}");
            assert_eq!(view.hostname.as_deref().unwrap_or_default(), host, "{raw}");
            assert_eq!(view.app_name.as_deref().unwrap_or_default(), app, "{raw}");
            assert_eq!(view.procid.as_deref().unwrap_or_default(), procid, "{raw}");
            assert_eq!(view.message, message, "{raw}");
        }
        let view = view("<13> 2026-11-23T16:00:00Z h tag[7]: m");
        assert_eq!(view.time.unwrap().to_string(), "2026-11-23T16:00:00.000000000Z");
        assert_eq!(view.message, "m");
    }

    #[test]
    fn what_is_wrong_is_said_and_the_rest_is_filled_in() {
        for (raw, problem) in [
            ("<999>1 - h a - - - m", Problem::PriorityMalformed),
            ("<invld>1 - h a - - - m", Problem::PriorityMalformed),
            ("<013>1 - h a - - - m", Problem::PriorityMalformed),
            ("<13>0 - h a - - - m", Problem::VersionMalformed),
            ("<13>1 yesterday h a - - - m", Problem::TimestampMalformed),
            ("<13>1 2026-11-23t16:00:00Z h a - - - m", Problem::TimestampUnusual),
            ("<13>1 2026-11-23T16:00:00.1234567Z h a - - - m", Problem::TimestampUnusual),
            ("<13>1 - h\u{e4} a - - - m", Problem::HostnameMalformed),
            ("<13>1 - h a", Problem::HeaderIncomplete),
            ("<13>1 - h a - - [x y=z] m", Problem::StructuredDataMalformed),
            ("<13>1 - h a - - [x][x] m", Problem::StructuredDataDuplicate),
        ] {
            let view = view(raw);
            assert_eq!(view.problems, [problem], "{raw}");
            assert_eq!(view.app_name.as_deref(), Some("a"), "{raw}");
        }
        assert_eq!(view("no header at all").format, Format::None);
        assert_eq!(view("no header at all").message, "no header at all");
        assert_eq!(view("<13>words only").problems, [Problem::TimestampMissing]);
        let odd = envelope(b"<13>1 - - - - - - \xff", RECEIVED);
        assert_eq!(odd.problems, [Problem::MessageNotUtf8]);
    }

    #[test]
    fn a_message_that_its_sender_cut_is_told() {
        for (header, limit) in [
            ("<14>1 2026-11-23T16:00:00.000001Z h a - - - \u{feff}", 2048),
            ("<14>Nov 23 16:00:00 h a: ", 1024),
        ] {
            // Every alignment of the cut, also in the middle of a character.
            for fill in 0..4 {
                let text =
                    format!("{header}{{\"a\":\"{}{}\"}}", "x".repeat(fill), "\u{20ac}".repeat(800));
                let cut = &text.as_bytes()[..limit];
                let told = |raw: &[u8]| {
                    envelope(raw, RECEIVED).problems.contains(&Problem::MessageCutBySender)
                };
                assert!(told(cut), "{limit} {fill}");
                assert!(told(&[cut, b"\n"].concat()));
                assert!(!told(&cut[..limit - 1]));
                assert!(!told(text.as_bytes()));
            }
            let words = format!("{header}{}", "x".repeat(3000));
            let view = envelope(&words.as_bytes()[..limit], RECEIVED);
            assert!(!view.problems.contains(&Problem::MessageCutBySender));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_the_message_is_always_the_rest(
            start in prop_oneof![
                Just(""), Just("<13>1 - h a - - "), Just("<13>Nov 23 "), Just("<13>1 20"), Just("<"),
            ],
            tail in proptest::collection::vec(
                prop_oneof![any::<u8>(), Just(b' '), Just(b'['), Just(b'"'), Just(b'\\'), Just(b':')],
                0..80,
            ),
        ) {
            let raw = [start.as_bytes(), &tail].concat();
            let view = envelope(&raw, RECEIVED);
            prop_assert_eq!(view.message_range.end, raw.len());
            prop_assert!(view.message_range.start <= raw.len());
            prop_assert!(serde_json::to_string(&view).is_ok());
            super::super::recognise(&raw);
        }
    }
}
