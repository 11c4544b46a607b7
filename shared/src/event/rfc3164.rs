//! RFC 3164 headers and what devices make of them.

use std::borrow::Cow;

use crate::clock::Nanos;

use super::envelope::{Envelope, Format, Problem, text};
use super::timestamp;

/// Fills in what stands after the priority, which ends before `at`. Without a priority only a clear
/// timestamp makes a header of the first words.
pub(super) fn fill<'a>(
    envelope: &mut Envelope<'a>,
    raw: &'a [u8],
    at: usize,
    priority_missing: bool,
    received: Nanos,
) {
    let spaces = raw[at..].iter().take_while(|&&byte| byte == b' ').count();
    let start = at + spaces;
    let Some(end) = timestamp_at(envelope, raw, start, received) else {
        if priority_missing || envelope.facility.is_none() {
            envelope.message_range = at..raw.len();
            return;
        }
        envelope.format = Format::Rfc3164;
        envelope.note(Problem::TimestampMissing);
        tag_at(envelope, raw, start);
        return;
    };
    envelope.format = Format::Rfc3164;
    let (host, tag) = split_host(&raw[end..]);
    if !host.is_empty() {
        envelope.hostname = Some(text(host));
        if !host.iter().all(u8::is_ascii_graphic) {
            envelope.note(Problem::HostnameMalformed);
        }
    }
    tag_at(envelope, raw, end + tag);
}

/// A timestamp at `start`: gives where the bytes after it and its space begin.
fn timestamp_at<'a>(
    envelope: &mut Envelope<'a>,
    raw: &'a [u8],
    start: usize,
    received: Nanos,
) -> Option<usize> {
    let window = &raw[start..raw.len().min(start + TIMESTAMP_WINDOW_BYTES)];
    // A window may end inside a character; what comes before it is text all the same.
    let window = match std::str::from_utf8(window) {
        Ok(text) => text,
        Err(err) => std::str::from_utf8(&window[..err.valid_up_to()]).ok()?,
    };
    // Cisco marks a clock that is not set with '*' or '.'.
    let mark = usize::from(window.starts_with(['*', '.']));
    let text = &window[mark..];
    let word = &text[..text.find(' ').unwrap_or(text.len())];
    let length = if let Some((time, odd)) = timestamp::rfc3339(word.trim_end_matches(':')) {
        envelope.time = Some(time);
        if let Some(odd) = odd {
            envelope.note(odd);
        }
        word.trim_end_matches(':').len()
    } else {
        let bsd = timestamp::bsd(text, received)?;
        if bsd.time.is_none() {
            envelope.note(Problem::TimestampMalformed);
        } else if bsd.year_known && bsd.zone_known {
            envelope.time = bsd.time;
        } else {
            envelope.time_if_utc = bsd.time;
        }
        bsd.bytes
    };
    let end = start + mark + length;
    envelope.timestamp = Some(Cow::Borrowed(&window[..mark + length]));
    let colon = usize::from(raw.get(end) == Some(&b':'));
    let spaces = raw[end + colon..].iter().take_while(|&&byte| byte == b' ').count();
    Some(end + colon + spaces)
}

/// The hostname, which is the first word unless that is already a tag; and where the tag begins.
fn split_host(rest: &[u8]) -> (&[u8], usize) {
    let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
    let word = &rest[..end];
    // A tag has a colon after it or a process id in brackets; an IPv6 address has more colons.
    let colons = memchr::memchr_iter(b':', word).count();
    let is_tag = (word.ends_with(b":") && colons == 1) || word.contains(&b'[') || word == b"%";
    let odd = word.starts_with(b"{") || word.starts_with(b"%") || word.starts_with(b"<");
    if is_tag || odd || rest.get(end) != Some(&b' ') {
        return (b"", 0);
    }
    (word, end + 1)
}

/// `TAG[PID]: ` at `start`, if it is there; the message is what comes after it.
fn tag_at<'a>(envelope: &mut Envelope<'a>, raw: &'a [u8], start: usize) {
    envelope.message_range = start..raw.len();
    let window = &raw[start..raw.len().min(start + TAG_WINDOW_BYTES)];
    let name_end = window
        .iter()
        .position(|&byte| !byte.is_ascii_graphic() || b"[:{\"<".contains(&byte))
        .unwrap_or(window.len());
    if name_end == 0 {
        return;
    }
    let (name, mut rest) = window.split_at(name_end);
    let mut procid = None;
    if let Some(inner) = rest.strip_prefix(b"[") {
        let Some(close) = memchr::memchr(b']', inner) else {
            return;
        };
        procid = Some(&inner[..close]);
        rest = &inner[close + 1..];
    }
    let Some(after) = rest.strip_prefix(b":") else {
        return;
    };
    envelope.app_name = Some(text(name));
    envelope.procid = procid.filter(|procid| !procid.is_empty()).map(text);
    let taken = window.len() - after.len() + usize::from(after.starts_with(b" "));
    envelope.message_range = start + taken..raw.len();
}

/// The longest timestamp here: a year, nine digits of a fraction and a zone.
const TIMESTAMP_WINDOW_BYTES: usize = 64;

/// RFC 3164 ends a tag after 32 bytes; container runtimes write longer ones.
const TAG_WINDOW_BYTES: usize = 256;
