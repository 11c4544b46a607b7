//! RFC 5424 headers, with everything that is wrong noted rather than refused.

use std::borrow::Cow;

use super::envelope::{Element, Envelope, Format, Parameter, Problem, text};
use super::timestamp;

/// Whether the bytes after a priority are a version and a space, with something like a timestamp
/// after them; version 1 needs no timestamp to be believed.
pub(super) fn looks_like(rest: &[u8]) -> bool {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=VERSION_DIGITS_LENIENT).contains(&digits) || rest.get(digits) != Some(&b' ') {
        return false;
    }
    let next = &rest[digits + 1..];
    let dated = next.len() >= 5 && next[..4].iter().all(u8::is_ascii_digit) && next[4] == b'-';
    dated || next.starts_with(b"- ") || &rest[..digits] == b"1"
}

/// Fills in what stands after the priority, which ends before `at`.
pub(super) fn fill<'a>(envelope: &mut Envelope<'a>, raw: &'a [u8], at: usize) {
    envelope.format = Format::Rfc5424;
    let mut header = Header { raw, at };
    let version = header.word().unwrap_or_default();
    match std::str::from_utf8(version).ok().and_then(|digits| digits.parse().ok()) {
        Some(value @ 1..=999) if version[0] != b'0' => envelope.version = Some(value),
        _ => envelope.note(Problem::VersionMalformed),
    }
    if let Some(word) = header.field(envelope) {
        let time = std::str::from_utf8(word).ok().and_then(timestamp::rfc3339);
        match time {
            Some((time, odd)) => {
                envelope.time = Some(time);
                if let Some(odd) = odd {
                    envelope.note(odd);
                }
            }
            None => envelope.note(Problem::TimestampMalformed),
        }
        envelope.timestamp = Some(text(word));
    }
    envelope.hostname = header.name(envelope, HOSTNAME_BYTES, Problem::HostnameMalformed);
    envelope.app_name = header.name(envelope, APP_NAME_BYTES, Problem::AppNameMalformed);
    envelope.procid = header.name(envelope, PROCID_BYTES, Problem::ProcidMalformed);
    envelope.msgid = header.name(envelope, MSGID_BYTES, Problem::MsgidMalformed);
    let start = header.at;
    let message = match raw.get(start) {
        None => {
            envelope.note(Problem::HeaderIncomplete);
            raw.len()
        }
        Some(_) => structured_data(envelope, raw, start).unwrap_or_else(|from| {
            envelope.note(Problem::StructuredDataMalformed);
            from
        }),
    };
    envelope.message_range = message..raw.len();
}

/// The header's words, from left to right.
struct Header<'a> {
    raw: &'a [u8],
    at: usize,
}

impl<'a> Header<'a> {
    /// The bytes up to the next space, which is consumed; nothing at the end.
    fn word(&mut self) -> Option<&'a [u8]> {
        let rest = self.raw.get(self.at..).filter(|rest| !rest.is_empty())?;
        let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        self.at = (self.at + end + 1).min(self.raw.len());
        Some(&rest[..end])
    }

    /// A field that may be nil; an empty one is a fault.
    fn field(&mut self, envelope: &mut Envelope<'a>) -> Option<&'a [u8]> {
        match self.word() {
            None | Some(b"") => {
                envelope.note(Problem::HeaderIncomplete);
                None
            }
            Some(b"-") => None,
            word => word,
        }
    }

    fn name(
        &mut self,
        envelope: &mut Envelope<'a>,
        most: usize,
        problem: Problem,
    ) -> Option<Cow<'a, str>> {
        let word = self.field(envelope)?;
        if word.len() > most || !word.iter().all(u8::is_ascii_graphic) {
            envelope.note(problem);
        }
        Some(text(word))
    }
}

/// Structured data at `start`; gives where the message begins, or where it goes wrong.
fn structured_data<'a>(
    envelope: &mut Envelope<'a>,
    raw: &'a [u8],
    start: usize,
) -> Result<usize, usize> {
    let mut at = start;
    if raw[at] == b'-' {
        at += 1;
    } else {
        while raw.get(at) == Some(&b'[') {
            let (element, end) = element(raw, at).ok_or(at)?;
            if envelope.structured_data.iter().any(|earlier| earlier.id == element.id) {
                envelope.note(Problem::StructuredDataDuplicate);
            }
            envelope.structured_data.push(element);
            at = end;
        }
        if at == start {
            return Err(start);
        }
    }
    match raw.get(at) {
        None => Ok(at),
        Some(b' ') => Ok(at + 1),
        Some(_) => Err(at),
    }
}

/// One element, and where it ends.
fn element(raw: &[u8], start: usize) -> Option<(Element<'_>, usize)> {
    let (id, mut at) = sd_name(raw, start + 1)?;
    let mut parameters = Vec::new();
    loop {
        match raw.get(at)? {
            b']' => return Some((Element { id, parameters }, at + 1)),
            b' ' => {
                let (name, after) = sd_name(raw, at + 1)?;
                if raw.get(after..after + 2)? != b"=\"" {
                    return None;
                }
                let (value, end) = value(raw, after + 2)?;
                parameters.push(Parameter { name, value });
                at = end;
            }
            _ => return None,
        }
    }
}

fn sd_name(raw: &[u8], start: usize) -> Option<(&str, usize)> {
    let rest = raw.get(start..)?;
    let length = rest
        .iter()
        .take(SD_NAME_BYTES + 1)
        .take_while(|&byte| byte.is_ascii_graphic() && !b"=]\"".contains(byte))
        .count();
    if !(1..=SD_NAME_BYTES).contains(&length) {
        return None;
    }
    Some((std::str::from_utf8(&rest[..length]).ok()?, start + length))
}

/// A value that begins at `start`, and where the bytes after its closing quote begin.
fn value(raw: &[u8], start: usize) -> Option<(Cow<'_, str>, usize)> {
    let mut at = start;
    let mut escaped = false;
    loop {
        match raw.get(at)? {
            b'"' => break,
            b']' => return None,
            // Before any other byte a backslash is itself.
            b'\\' if raw.get(at + 1).is_some_and(|next| b"\"\\]".contains(next)) => {
                escaped = true;
                at += 2;
            }
            _ => at += 1,
        }
    }
    let value = std::str::from_utf8(&raw[start..at]).ok()?;
    Some((if escaped { Cow::Owned(unescape(value)) } else { Cow::Borrowed(value) }, at + 1))
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars().peekable();
    while let Some(char) = chars.next() {
        match chars.peek() {
            Some(&next) if char == '\\' && "\"\\]".contains(next) => {
                out.push(next);
                chars.next();
            }
            _ => out.push(char),
        }
    }
    out
}

const VERSION_DIGITS_LENIENT: usize = 4;

// The lengths of RFC 5424 section 6.
const HOSTNAME_BYTES: usize = 255;
const APP_NAME_BYTES: usize = 48;
const PROCID_BYTES: usize = 128;
const MSGID_BYTES: usize = 32;
const SD_NAME_BYTES: usize = 32;
