//! From an entry of the Forward protocol to the bytes of a record.
//!
//! Evidence is bytes, and what a relay such as Fluent Bit was given as a line of a log is a map by the
//! time it comes here. The rule:
//!
//! 1. A map with one member only, named `log`, `message` or `msg`, that holds a string: the record is
//!    exactly that string's bytes. This is what a relay makes of a line that it does not parse.
//! 2. Any other map: JSON without spaces, members in the map's own order, repeated ones repeated. The
//!    entry's time is put in front as member `date`, RFC 3339 in UTC with nine digits, unless the map
//!    has a `date`. What else the entry says beside time and map (metadata) follows as member
//!    `fluent-metadata`, if there is any.
//! 3. Anything that is not an entry of a time and a map (metrics, traces): its value as JSON.
//!
//! Numbers are exact. What JSON can't say: bytes that are not UTF-8 are `{"base64":"..."}`; a float
//! that is no number is the text `NaN`, `Infinity` or `-Infinity`; a key that is no text is its JSON
//! as a text; an extension is `{"ext":TYPE,"base64":"..."}`, but a time (type 0) is written as one.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shared::clock::Nanos;

use super::entries::Shape;
use shared::msgpack::{DEPTH_MAX, Head, Skipper, head};

/// The bytes of a record, and its whole length if these are not all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Made<'a> {
    pub(super) raw: &'a [u8],
    pub(super) cut_from: Option<u64>,
}

/// Makes a record of at most `max` bytes from an entry. `whole` says whether `entry` is all of it. The
/// result lies in the entry or in `scratch`.
pub(super) fn make<'a>(
    entry: &'a [u8],
    shape: Shape,
    whole: bool,
    max: usize,
    scratch: &'a mut Vec<u8>,
) -> Made<'a> {
    let mut reader = Reader { rest: entry };
    let body = match shape {
        Shape::Pair => Some(()),
        Shape::Entry => reader.head().filter(|head| *head == Head::Array(2)).map(|_| ()),
    };
    if body.is_some()
        && let Some(entry) = Entry::read(reader)
    {
        if let Some((text, length)) = entry.only_text() {
            let kept = &text[..text.len().min(max)];
            return Made { raw: kept, cut_from: (length > kept.len() as u64).then_some(length) };
        }
        scratch.clear();
        let mut out = Json { out: scratch, max, length: 0 };
        let complete = entry.write(&mut out).is_some();
        return out.made(complete && whole);
    }
    scratch.clear();
    let mut out = Json { out: scratch, max, length: 0 };
    let mut reader = Reader { rest: entry };
    let values = if shape == Shape::Pair { 2 } else { 1 };
    if values > 1 {
        out.push(b"[");
    }
    let mut complete = true;
    for at in 0..values {
        if at > 0 {
            out.push(b",");
        }
        complete = complete && reader.value(&mut out, 0).is_some();
    }
    if values > 1 {
        out.push(b"]");
    }
    out.made(complete && whole)
}

/// A time, perhaps metadata, and a map.
#[derive(Clone, Copy)]
struct Entry<'a> {
    time: Option<Nanos>,
    metadata: Option<Reader<'a>>,
    members: u32,
    map: Reader<'a>,
}

impl<'a> Entry<'a> {
    fn read(mut reader: Reader<'a>) -> Option<Self> {
        let mut metadata = None;
        let mut probe = reader;
        let time = match probe.head()? {
            // Fluent Bit can send metadata with the time: [[time, metadata], map].
            Head::Array(2) => {
                let time = probe.time();
                let mut inside = probe;
                if !matches!(inside.head()?, Head::Map(0)) {
                    metadata = Some(probe);
                }
                time
            }
            _ => reader.clone().time(),
        };
        reader.skip()?;
        match reader.head()? {
            Head::Map(members) => Some(Self { time, metadata, members, map: reader }),
            _ => None,
        }
    }

    /// The text of a map that holds nothing else, as far as it is here, and its length.
    fn only_text(&self) -> Option<(&'a [u8], u64)> {
        if self.members != 1 {
            return None;
        }
        let mut map = self.map;
        let (Head::Str(length) | Head::Bin(length)) = map.head()? else {
            return None;
        };
        if !TEXT_KEYS.contains(&map.bytes(length)?) {
            return None;
        }
        let (Head::Str(length) | Head::Bin(length)) = map.head()? else {
            return None;
        };
        let here = map.rest.len().min(length as usize);
        (length > 0).then(|| (&map.rest[..here], u64::from(length)))
    }

    fn write(&self, out: &mut Json) -> Option<()> {
        out.push(b"{");
        let mut first = true;
        let mut name = |out: &mut Json, name: &str| {
            out.push(if first { b"\"" } else { b",\"" });
            first = false;
            out.push(name.as_bytes());
            out.push(b"\":");
        };
        if let Some(time) = self.time
            && !self.has_date()
        {
            name(out, "date");
            out.push(format!("\"{time}\"").as_bytes());
        }
        if let Some(mut metadata) = self.metadata {
            name(out, "fluent-metadata");
            metadata.value(out, 1)?;
        }
        let mut map = self.map;
        map.members(self.members, first, out, 0)?;
        out.push(b"}");
        Some(())
    }

    fn has_date(&self) -> bool {
        let mut map = self.map;
        for _ in 0..self.members {
            let mut key = map;
            if let Some(Head::Str(length) | Head::Bin(length)) = key.head()
                && key.bytes(length) == Some(b"date")
            {
                return true;
            }
            if map.skip().is_none() || map.skip().is_none() {
                return false;
            }
        }
        false
    }
}

/// Values as they stand one after the other. `None` where they end too early.
#[derive(Clone, Copy)]
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn head(&mut self) -> Option<Head> {
        let (head, length) = head(self.rest).ok()??;
        self.rest = &self.rest[length..];
        Some(head)
    }

    fn bytes(&mut self, length: u32) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length as usize)?;
        self.rest = rest;
        Some(bytes)
    }

    fn skip(&mut self) -> Option<()> {
        let mut skipper = Skipper::new(1);
        let length = skipper.skip(self.rest).ok()?;
        self.rest = &self.rest[length..];
        skipper.is_done().then_some(())
    }

    /// A time in one of its forms; `None` for what is none.
    fn time(&mut self) -> Option<Nanos> {
        match self.head()? {
            Head::Unsigned(seconds) => {
                i64::try_from(seconds).ok()?.checked_mul(1_000_000_000).map(Nanos)
            }
            Head::Negative(seconds) => seconds.checked_mul(1_000_000_000).map(Nanos),
            Head::F32(seconds) => float_time(seconds.into()),
            Head::F64(seconds) => float_time(seconds),
            Head::Ext(EVENT_TIME, 8) => {
                let (seconds, nanos) = self.bytes(8)?.split_at(4);
                let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
                let nanos = i64::from(number(seconds)?) * 1_000_000_000 + i64::from(number(nanos)?);
                Some(Nanos(nanos))
            }
            _ => None,
        }
    }

    /// One value as JSON.
    fn value(&mut self, out: &mut Json, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX + 1 {
            return None;
        }
        let before = *self;
        match self.head()? {
            Head::Nil => out.push(b"null"),
            Head::Bool(value) => out.push(if value { b"true" } else { b"false" }),
            Head::Unsigned(value) => out.push(value.to_string().as_bytes()),
            Head::Negative(value) => out.push(value.to_string().as_bytes()),
            Head::F32(value) => out.float(f64::from(value), serde_json::to_string(&value).ok()),
            Head::F64(value) => out.float(value, serde_json::to_string(&value).ok()),
            Head::Str(length) | Head::Bin(length) => {
                let here = self.rest.len().min(length as usize);
                let (bytes, rest) = self.rest.split_at(here);
                self.rest = rest;
                out.text(bytes);
                return (here == length as usize).then_some(());
            }
            Head::Array(count) => {
                out.push(b"[");
                for at in 0..count {
                    if at > 0 {
                        out.push(b",");
                    }
                    self.value(out, depth + 1)?;
                }
                out.push(b"]");
            }
            Head::Map(count) => {
                out.push(b"{");
                self.members(count, true, out, depth)?;
                out.push(b"}");
            }
            Head::Ext(kind, length) => {
                let mut as_time = before;
                if let Some(time) = as_time.time() {
                    self.bytes(length)?;
                    out.push(format!("\"{time}\"").as_bytes());
                } else {
                    out.push(format!("{{\"ext\":{kind},\"base64\":\"").as_bytes());
                    out.base64(self.bytes(length)?);
                    out.push(b"\"}");
                }
            }
        }
        Some(())
    }

    fn members(&mut self, count: u32, mut first: bool, out: &mut Json, depth: usize) -> Option<()> {
        for _ in 0..count {
            if !std::mem::replace(&mut first, false) {
                out.push(b",");
            }
            self.key(out, depth)?;
            out.push(b":");
            self.value(out, depth + 1)?;
        }
        Some(())
    }

    fn key(&mut self, out: &mut Json, depth: usize) -> Option<()> {
        let mut probe = *self;
        if let Some(Head::Str(length) | Head::Bin(length)) = probe.head()
            && let Some(bytes) = probe.bytes(length)
            && std::str::from_utf8(bytes).is_ok()
        {
            *self = probe;
            out.text(bytes);
            return Some(());
        }
        let mut text = Vec::new();
        let mut inner = Json { out: &mut text, max: out.max, length: 0 };
        self.value(&mut inner, depth + 1)?;
        out.text(&text);
        Some(())
    }
}

/// JSON of which no more than `max` bytes are kept, while all are counted.
struct Json<'a> {
    out: &'a mut Vec<u8>,
    max: usize,
    length: u64,
}

impl<'a> Json<'a> {
    fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let room = self.max - self.out.len();
        self.out.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// A string, or what stands for bytes that are none.
    fn text(&mut self, bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else {
            self.push(b"{\"base64\":\"");
            self.base64(bytes);
            self.push(b"\"}");
            return;
        };
        self.push(b"\"");
        let mut from = 0;
        for (at, byte) in text.bytes().enumerate() {
            let escape: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                0x08 => b"\\b",
                0x0c => b"\\f",
                0..0x20 => b"",
                _ => continue,
            };
            self.push(&bytes[from..at]);
            from = at + 1;
            if escape.is_empty() {
                let mut code = [0; 6];
                // Six bytes always fit.
                let _ = write!(&mut code[..], "\\u{byte:04x}");
                self.push(&code);
            } else {
                self.push(escape);
            }
        }
        self.push(&bytes[from..]);
        self.push(b"\"");
    }

    fn float(&mut self, value: f64, text: Option<String>) {
        match text {
            Some(text) if value.is_finite() => self.push(text.as_bytes()),
            _ if value.is_nan() => self.push(b"\"NaN\""),
            _ if value > 0.0 => self.push(b"\"Infinity\""),
            _ => self.push(b"\"-Infinity\""),
        }
    }

    fn base64(&mut self, bytes: &[u8]) {
        // In pieces of whole groups: no second copy of something large.
        for piece in bytes.chunks(BASE64_PIECE_BYTES) {
            self.push(STANDARD.encode(piece).as_bytes());
        }
    }

    fn made(self, complete: bool) -> Made<'a> {
        let kept = self.out.len() as u64;
        // Of what is longer than is looked at, only a lower bound is known.
        let length = if complete { self.length } else { self.length.max(kept + 1) };
        Made { raw: self.out, cut_from: (length > kept).then_some(length) }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a float that is out of range becomes a bound")]
fn float_time(seconds: f64) -> Option<Nanos> {
    seconds.is_finite().then_some(Nanos((seconds * 1e9) as i64))
}

/// Members under which relays put a line that they do not parse.
const TEXT_KEYS: [&[u8]; 3] = [b"log", b"message", b"msg"];

/// The extension type of a time with nanoseconds.
const EVENT_TIME: i8 = 0;

const BASE64_PIECE_BYTES: usize = 3 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use shared::msgpack::end_of;

    fn entry(map: &[u8]) -> Vec<u8> {
        [&b"\x92\xd7\x00\x6a\x13\x88\xfb\x00\x00\x00\x05"[..], map].concat()
    }

    fn made(entry: &[u8]) -> (String, Option<u64>) {
        let mut scratch = Vec::new();
        let made = make(entry, Shape::Entry, true, 1000, &mut scratch);
        (String::from_utf8_lossy(made.raw).into_owned(), made.cut_from)
    }

    #[test]
    fn one_text_is_the_record() {
        for map in [
            &b"\x81\xa3log\xa4a\n\x00\xff"[..],
            b"\x81\xa7message\xc4\x04a\n\x00\xff",
            b"\x81\xa3msg\xd9\x04a\n\x00\xff",
        ] {
            let entry = entry(map);
            let mut scratch = Vec::new();
            assert_eq!(
                make(&entry, Shape::Entry, true, 9, &mut scratch),
                Made { raw: b"a\n\x00\xff", cut_from: None }
            );
            assert_eq!(
                make(&entry, Shape::Entry, true, 2, &mut scratch),
                Made { raw: b"a\n", cut_from: Some(4) }
            );
            let cut = &entry[..entry.len() - 1];
            assert_eq!(
                make(cut, Shape::Entry, false, 9, &mut scratch),
                Made { raw: b"a\n\x00", cut_from: Some(4) }
            );
        }
    }

    #[test]
    fn other_maps_are_json_with_the_time_in_front() {
        let date = "\"date\":\"2026-05-24T23:25:47.000000005Z\"";
        let cases: &[(&[u8], String)] = &[
            (b"\x80", format!("{{{date}}}")),
            (b"\x81\xa3log\xa0", format!("{{{date},\"log\":\"\"}}")),
            (b"\x81\xa3log\x01", format!("{{{date},\"log\":1}}")),
            (b"\x82\xa3log\xa1a\xa1b\xc0", format!("{{{date},\"log\":\"a\",\"b\":null}}")),
            (b"\x82\xa1b\xc3\xa1b\x91\xff", format!("{{{date},\"b\":true,\"b\":[-1]}}")),
            (b"\x81\xa4date\x05", "{\"date\":5}".to_owned()),
            (b"\x82\x01\x02\x92\x01\x02\x03", format!("{{{date},\"1\":2,\"[1,2]\":3}}")),
            (
                b"\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
                format!("{{{date},\"a\":18446744073709551615}}"),
            ),
            (b"\x81\xa1a\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a", format!("{{{date},\"a\":0.1}}")),
            (b"\x81\xa1a\xca\x3d\xcc\xcc\xcd", format!("{{{date},\"a\":0.1}}")),
            (
                b"\x81\xa1a\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
                format!("{{{date},\"a\":\"Infinity\"}}"),
            ),
            (b"\x81\xa1a\xa2\xff\x00", format!("{{{date},\"a\":{{\"base64\":\"/wA=\"}}}}")),
            (
                b"\x81\xa1a\xa7\"\\\n\x01\xc3\xa4/",
                format!("{{{date},\"a\":\"\\\"\\\\\\n\\u0001\u{e4}/\"}}"),
            ),
            (
                b"\x81\xa1a\xd4\x07\xff",
                format!("{{{date},\"a\":{{\"ext\":7,\"base64\":\"/w==\"}}}}"),
            ),
            (
                b"\x81\xa1t\xd7\x00\x00\x00\x00\x01\x00\x00\x00\x02",
                format!("{{{date},\"t\":\"1970-01-01T00:00:01.000000002Z\"}}"),
            ),
        ];
        for (map, expected) in cases {
            assert_eq!(made(&entry(map)), (expected.clone(), None), "{map:x?}");
        }
    }

    #[test]
    fn times_metadata_and_what_is_no_entry() {
        let date = |text: &str| format!("{{\"date\":\"{text}\",\"a\":1}}");
        let cases: &[(&[u8], String)] = &[
            (b"\x92\x05\x81\xa1a\x01", date("1970-01-01T00:00:05.000000000Z")),
            (b"\x92\xff\x81\xa1a\x01", date("1969-12-31T23:59:59.000000000Z")),
            (b"\x92\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\x81\xa1a\x01", date("1970-01-01T00:00:01.500000000Z")),
            (b"\x92\xc7\x08\x00\x00\x00\x00\x05\x00\x00\x00\x00\x81\xa1a\x01", date("1970-01-01T00:00:05.000000000Z")),
            (b"\x92\x92\x05\x80\x81\xa1a\x01", date("1970-01-01T00:00:05.000000000Z")),
            (b"\x92\x92\x05\x81\xa1k\xa1v\x81\xa1a\x01", "{\"date\":\"1970-01-01T00:00:05.000000000Z\",\"fluent-metadata\":{\"k\":\"v\"},\"a\":1}".to_owned()),
            (b"\x92\xc0\x81\xa1a\x01", "{\"a\":1}".to_owned()),
            (b"\x92\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x81\xa1a\x01", "{\"a\":1}".to_owned()),
            (b"\x92\x05\xa1a", "[5,\"a\"]".to_owned()),
            (b"\x93\x05\x80\x80", "[5,{},{}]".to_owned()),
            (b"\x81\xa1a\x01", "{\"a\":1}".to_owned()),
            (b"\x07", "7".to_owned()),
        ];
        for (entry, expected) in cases {
            assert_eq!(made(entry), (expected.clone(), None), "{entry:x?}");
        }
        let mut scratch = Vec::new();
        let pair = make(b"\x05\x81\xa1a\x01", Shape::Pair, true, 99, &mut scratch);
        assert_eq!(String::from_utf8_lossy(pair.raw), date("1970-01-01T00:00:05.000000000Z"));
        let odd = make(b"\x05\x07", Shape::Pair, true, 99, &mut scratch);
        assert_eq!(odd.raw, b"[5,7]");
    }

    #[test]
    fn json_is_cut_and_its_length_known() {
        let entry = entry(
            b"\x81\xa1a\xd9\x40aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        );
        let mut scratch = Vec::new();
        let whole = make(&entry, Shape::Entry, true, 1000, &mut scratch).raw.to_vec();
        let mut scratch = Vec::new();
        let cut = make(&entry, Shape::Entry, true, 60, &mut scratch);
        assert_eq!(cut, Made { raw: &whole[..60], cut_from: Some(whole.len() as u64) });
        let mut scratch = Vec::new();
        let head = make(&entry[..50], Shape::Entry, false, 1000, &mut scratch);
        assert!(whole.starts_with(&head.raw[..head.raw.len() - 1]));
        assert_eq!(head.cut_from, Some(head.raw.len() as u64 + 1));
    }

    proptest! {
        #[test]
        fn whatever_is_whole_becomes_json_and_nothing_fails(
            bytes in prop::collection::vec(any::<u8>(), 1..200),
            max in 1..300_usize,
        ) {
            let mut scratch = Vec::new();
            let end = end_of(&bytes);
            let entry = match end { Ok(Some(end)) => &bytes[..end], _ => &bytes[..] };
            let made = make(entry, Shape::Entry, matches!(end, Ok(Some(_))), max, &mut scratch);
            prop_assert!(made.raw.len() <= max);
            if matches!(end, Ok(Some(_))) && made.cut_from.is_none() && Entry::read(Reader { rest: &entry[1..] }).is_none_or(|entry| entry.only_text().is_none()) {
                let text = std::str::from_utf8(made.raw).unwrap();
                prop_assert!(serde_json::from_str::<Value>(text).is_ok(), "{}", text);
            }
        }
    }
}
