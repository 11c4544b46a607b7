//! The body of a record: what stands behind its syslog header, and its JSON scanned once.

use std::ops::Range;

use crate::clock::Nanos;
use crate::json::{JsonError, Tape, Value};

use super::envelope;

/// The body of one record.
#[derive(Clone, Debug)]
pub struct Body<'t> {
    /// All bytes of the record.
    pub raw: &'t [u8],
    /// Where its body stands in them: without syslog header, byte order mark, and the line feed or NUL
    /// with which some senders end a message.
    pub range: Range<usize>,
    /// The body, if it is JSON: offsets of its nodes count from the begin of `range`.
    pub json: Option<Value<'t>>,
    /// Why it is no JSON, where it begins as an object or array: [`JsonError::EndsEarly`] may mean that
    /// a relay cut it.
    pub broken: Option<JsonError>,
}

impl<'t> Body<'t> {
    /// The bytes of the body.
    pub fn bytes(&self) -> &'t [u8] {
        &self.raw[self.range.clone()]
    }

    /// Finds the body of a record and scans it.
    pub fn of(raw: &'t [u8], tape: &'t mut Tape) -> Self {
        let end = raw.iter().rposition(|byte| !b"\n\r\0".contains(byte)).map_or(0, |at| at + 1);
        // Almost every header ends where the first brace stands. Structured data that holds one is
        // found out by what follows not being JSON, and parsed in full then.
        let fast = memchr::memchr2(b'{', b'[', &raw[..end]).filter(|at| is_at_body(&raw[..*at]));
        let start = fast.unwrap_or_else(|| header_end(&raw[..end]));
        let start = match tape.scan(&raw[start..end]) {
            Ok(_) => {
                return Self {
                    raw,
                    range: start..end,
                    json: tape.root(&raw[start..end]),
                    broken: None,
                };
            }
            Err(_) if fast.is_some() && raw.first() == Some(&b'<') => {
                // Often the header was right and the JSON is not whole.
                let full = header_end(&raw[..end]);
                if is_container_runtime(&raw[full..start.max(full)]) { start } else { full }
            }
            Err(_) => start,
        };
        let (json, broken) = match tape.scan(&raw[start..end]) {
            Ok(_) => (true, None),
            Err(err) => (false, matches!(raw.get(start), Some(b'{' | b'[')).then_some(err)),
        };
        let json = json.then(|| tape.root(&raw[start..end])).flatten();
        Self { raw, range: start..end, json, broken }
    }
}

/// Whether a body may begin behind these bytes: at once, or behind the blank that ends a header.
fn is_at_body(head: &[u8]) -> bool {
    match head {
        [] | b"\xEF\xBB\xBF" | [b'<', .., b' ' | b':' | b'\xBF'] => true,
        [b'0'..=b'9', .., b' '] => is_container_runtime(head),
        [.., b' ' | b'\t' | b'\n'] => head.iter().all(u8::is_ascii_whitespace),
        _ => false,
    }
}

/// Whether this is what a container runtime writes before a line: `TIME stdout F `, with `P` for a
/// part of a line.
fn is_container_runtime(head: &[u8]) -> bool {
    let mut words = head.split(|&byte| byte == b' ');
    let time = words.next().is_some_and(|word| word.contains(&b'T'));
    let stream = matches!(words.next(), Some(b"stdout" | b"stderr"));
    let tag = words.next().is_some_and(|word| word.starts_with(b"F") || word.starts_with(b"P"));
    time && stream && tag && words.next() == Some(b"") && words.next().is_none()
}

/// A line without what a container runtime writes before it.
pub(super) fn without_runtime_prefix(line: &[u8]) -> &[u8] {
    let end = memchr::memchr_iter(b' ', line).nth(2).map_or(0, |at| at + 1);
    if is_container_runtime(&line[..end]) { &line[end..] } else { line }
}

fn header_end(raw: &[u8]) -> usize {
    // A container runtime's prefix looks like the header of an odd syslog message.
    let bare = without_runtime_prefix(raw).len();
    if bare < raw.len() {
        return raw.len() - bare;
    }
    // The time of reception only completes a timestamp without year.
    envelope(raw, Nanos(0)).message_range.start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_what_stands_behind_the_header() {
        for (raw, body, json) in [
            ("{\"a\":1}", "{\"a\":1}", true),
            ("<13>1 - h a - - - {\"a\":1}\n", "{\"a\":1}", true),
            ("<13>1 - h a - - - \u{feff}{\"a\":1}", "{\"a\":1}", true),
            ("<13>1 - h a - - [x y=\"{\"][z z=\"[\"] {\"a\":1}\0", "{\"a\":1}", true),
            ("<13>Nov 23 16:00:00 h tag[7]: {\"a\":1}", "{\"a\":1}", true),
            ("<13> 2026-11-23T16:00:00Z h tag[7]: {\"a\":[]}", "{\"a\":[]}", true),
            ("<13>1 - h a - - - user=x [y] {z}", "user=x [y] {z}", false),
            ("<13>1 - h a - - - {\"a\":", "{\"a\":", false),
            (
                "2026-11-23T16:00:00.1Z stdout F 12:00:00.1: Critical x",
                "12:00:00.1: Critical x",
                false,
            ),
            ("2026-11-23T16:00:00.1Z stdout F {\"a\":1}", "{\"a\":1}", true),
            ("2026-11-23T16:00:00.1Z stderr P {\"a\":", "{\"a\":", false),
            ("words", "words", false),
            ("", "", false),
        ] {
            let mut tape = Tape::default();
            let found = Body::of(raw.as_bytes(), &mut tape);
            assert_eq!(String::from_utf8_lossy(found.bytes()), body, "{raw}");
            assert_eq!(found.json.is_some(), json, "{raw}");
        }
        let mut tape = Tape::default();
        let cut = Body::of(b"<13>1 - h a - - - {\"a\":", &mut tape);
        assert_eq!(cut.broken, Some(JsonError::EndsEarly));
    }
}
