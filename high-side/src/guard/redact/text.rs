//! Text: the layers that may be in it, and the detectors over what is left.

use std::cell::OnceCell;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::anchor::{Anchor, Hit};
use super::edit::{self, Edit};
use super::pairs;
use super::walk::Layer;
use super::{DEPTH_MAX, Pass, Pointers, first, mark};

impl Pass<'_> {
    /// Looks into a text: as JSON, as base64, as text with JSON in it, or as the text that it is.
    pub(super) fn text(&mut self, text: &[u8], depth: u8, pointers: Pointers<'_>) {
        if depth >= DEPTH_MAX {
            self.plain(text, depth);
            return;
        }
        let begin = text.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(text.len());
        if matches!(text.get(begin), Some(b'{' | b'[')) && self.json(text, 0, depth, pointers) {
            return;
        }
        match self.base64(text, depth, pointers) {
            Encoded::Changed(edit) => {
                self.edits.push(edit);
                return;
            }
            // A few letters look like base64 by chance; many that hold a text do not.
            Encoded::Clean if text.len() >= CERTAIN_BYTES_MIN => return,
            Encoded::Clean | Encoded::No => {}
        }
        // A log line of a container runtime, or a message with an object behind it.
        let mut from = begin;
        for _ in 0..EMBEDDED_TRIES_MAX {
            let Some(found) = memchr::memchr2(b'{', b'[', &text[from..]).map(|at| from + at) else {
                break;
            };
            let opens = matches!(text.get(found + 1), Some(b'"' | b'{' | b'[' | b' ' | b'\n'));
            if found > 0 && opens && self.json(&text[found..], found, depth, &[]) {
                self.plain(&text[..found], depth);
                return;
            }
            from = found + 1;
        }
        self.plain(text, depth);
    }

    /// Looks at a text as JSON, if it is.
    fn json(&mut self, text: &[u8], base: usize, depth: u8, pointers: Pointers<'_>) -> bool {
        let mut level = self.levels.pop().unwrap_or_default();
        let found = level.tape.scan(text).is_ok();
        if found {
            let from = self.edits.len();
            self.walk(
                Layer { text, nodes: level.tape.nodes(), parents: &OnceCell::new() },
                depth + 1,
                pointers,
            );
            for edit in &mut self.edits[from..] {
                edit.start += base;
                edit.end += base;
            }
        }
        self.levels.push(level);
        found
    }

    /// Looks into a text that is base64 as a whole.
    fn base64(&mut self, text: &[u8], depth: u8, pointers: Pointers<'_>) -> Encoded {
        let body = text.trim_ascii();
        let from = text.len() - text.trim_ascii_start().len();
        let padding = body.iter().rev().take_while(|byte| **byte == b'=').count();
        let letters = &body[..body.len() - padding];
        let valid = |byte: &u8| is_base64(*byte) || b"\r\n".contains(byte);
        if body.len() < BASE64_BYTES_MIN || padding > 2 || !letters.iter().all(valid) {
            return Encoded::No;
        }
        let mut found = self.encoded(body, depth, pointers);
        if let Encoded::Changed(edit) = &mut found {
            edit.start += from;
            edit.end += from;
        }
        found
    }

    /// Decodes base64, looks into what it holds, and encodes it again. The last characters may be
    /// missing, where a relay cut the record.
    fn encoded(&mut self, run: &[u8], depth: u8, pointers: Pointers<'_>) -> Encoded {
        if depth >= DEPTH_MAX {
            return Encoded::No;
        }
        let letters: Vec<u8> = run.iter().copied().filter(|byte| is_base64(*byte)).collect();
        let padded = run.ends_with(b"=");
        let url = letters.iter().any(|byte| b"-_".contains(byte));
        let engine = if url { &BASE64_URL } else { &BASE64 };
        // A single letter behind full groups holds six bits of a byte: it was cut there.
        let whole = letters.len() - usize::from(letters.len() % 4 == 1);
        let mut level = self.levels.pop().unwrap_or_default();
        let bytes = &mut level.view.bytes;
        bytes.clear();
        let decoded = engine.decode_vec(&letters[..whole], bytes).is_ok() && is_texty(bytes);
        let from = self.edits.len();
        let mut found = if decoded { Encoded::Clean } else { Encoded::No };
        if decoded {
            self.text(&level.view.bytes, depth + 1, pointers);
            if self.edits.len() > from {
                edit::settle(self.edits, from);
                let inner: Vec<Edit> = self.edits.drain(from..).collect();
                let mut changed = Vec::new();
                edit::apply(&level.view.bytes, &inner, &mut changed);
                let at_end = inner.last().is_some_and(|last| last.end == level.view.bytes.len());
                let mut text = engine.encode(&changed).into_bytes();
                if padded || (!url && whole == letters.len() && whole.is_multiple_of(4)) {
                    while !text.len().is_multiple_of(4) {
                        text.push(b'=');
                    }
                }
                if !at_end && text.len().is_multiple_of(4) {
                    text.extend_from_slice(&letters[whole..]);
                }
                let places = inner.into_iter().flat_map(|edit| {
                    let start = edit.start;
                    edit.places.into_iter().map(move |(rule, place)| {
                        (rule, if place.is_empty() { format!("text@{start}") } else { place })
                    })
                });
                found = Encoded::Changed(Edit {
                    start: 0,
                    end: run.len(),
                    text,
                    encoded: true,
                    places: places.collect(),
                });
            }
        }
        self.levels.push(level);
        found
    }

    /// The detectors over a text, and over what its escapes and percent-encoding stand for.
    pub(super) fn plain(&mut self, text: &[u8], depth: u8) {
        let redactor = self.redactor;
        let mut hits = redactor.anchors.hits(text);
        let mut at = 0;
        let (mut program, mut word) = (false, false);
        let mut yaml = false;
        while let Some(hit) = hits.at(at) {
            if let Some(end) = mark::end_around(text, hit.start) {
                at = end;
                continue;
            }
            at = match hit.anchor {
                Anchor::Escape => hit.end,
                Anchor::Program => {
                    program = true;
                    hit.end
                }
                Anchor::Shape => self.shape(text, hit, depth),
                Anchor::Url => self.url(text, hit),
                Anchor::Word => {
                    word = true;
                    yaml |= text[hit.start..].starts_with(b"ecret")
                        || text[hit.start..].starts_with(b"ConfigMap");
                    self.pair(text, hit)
                }
            }
            .max(hit.start + 1);
        }
        if yaml {
            self.manifests(text);
        }
        self.cut_bodies(text);
        if program {
            self.command_line(text);
        }
        if program || word {
            self.uri_command(text);
        }
        if depth >= DEPTH_MAX {
            return;
        }
        if memchr::memchr(b'\\', text).is_some() {
            let from = self.edits.len();
            let mut level = self.levels.pop().unwrap_or_default();
            level.view.unescape(text);
            if level.view.bytes != text {
                self.plain(&level.view.bytes, depth + 1);
                level.view.carry_over(&mut self.edits[from..], 0);
            }
            self.levels.push(level);
        }
        if memchr::memchr(b'%', text).is_some() {
            let from = self.edits.len();
            let mut level = self.levels.pop().unwrap_or_default();
            if level.view.percent(text) {
                self.plain(&level.view.bytes, depth + 1);
                level.view.carry_over(&mut self.edits[from..], 0);
            }
            self.levels.push(level);
        }
    }

    /// Only what is recognised by its form.
    pub(super) fn shapes_only(&mut self, text: &[u8], base: usize) {
        let from = self.edits.len();
        let redactor = self.redactor;
        let mut hits = redactor.anchors.hits(text);
        let mut at = 0;
        while let Some(hit) = hits.at(at) {
            if let Some(end) = mark::end_around(text, hit.start) {
                at = end;
                continue;
            }
            at = match hit.anchor {
                Anchor::Shape => self.shape(text, hit, DEPTH_MAX),
                Anchor::Url => self.url(text, hit),
                _ => hit.end,
            }
            .max(hit.start + 1);
        }
        for edit in &mut self.edits[from..] {
            edit.start += base;
            edit.end += base;
        }
    }

    /// A run of base64 in a text.
    pub(super) fn base64_run(&mut self, text: &[u8], start: usize, depth: u8) -> usize {
        let letters = text[start..].iter().take_while(|byte| is_base64(**byte)).count();
        let padding =
            text[start + letters..].iter().take(2).take_while(|byte| **byte == b'=').count();
        let end = start + letters + padding;
        if letters >= BASE64_BYTES_MIN
            && let Encoded::Changed(mut edit) = self.encoded(&text[start..end], depth, &[])
        {
            edit.start += start;
            edit.end += start;
            self.edits.push(edit);
        }
        end
    }

    /// The rule for a name in text.
    pub(super) fn named_in_text(&mut self, name: &[u8]) -> Option<u8> {
        let verdict = self.names.verdict(&self.redactor.names, name);
        let conditional = self.redactor.conditional;
        let in_text = self.redactor.detectors[super::Detector::KeyValue as usize];
        first(
            verdict.rules
                & in_text
                & self.active
                & !(conditional.secrets | conditional.config_maps),
        )
    }
}

/// What looking into base64 gave.
enum Encoded {
    /// Something in it changes.
    Changed(Edit),
    /// It holds a text in which nothing changes.
    Clean,
    /// It is none, or holds no text.
    No,
}

/// Whether an anchor in a string is worth looking into the string: a few comparisons that spare most
/// strings the detectors. `text` ends where the string ends.
pub(super) fn is_plausible(text: &[u8], start: usize, hit: Hit) -> bool {
    if hit.end > text.len() {
        return false;
    }
    match hit.anchor {
        Anchor::Shape => true,
        Anchor::Url if text[hit.start] == b'@' => true,
        Anchor::Url => {
            let rest = &text[hit.end..text.len().min(hit.end + USERINFO_BYTES_MAX)];
            memchr::memchr(b'@', rest).is_some() || memchr::memmem::find(rest, b"%40").is_some()
        }
        Anchor::Escape => {
            let digits = text.get(hit.end..hit.end + 2);
            let digits = digits.and_then(|two| std::str::from_utf8(two).ok());
            let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"\"%-./:=@_".contains(&byte))
        }
        Anchor::Program => {
            let rest = &text[hit.end..text.len().min(hit.end + PROGRAM_BYTES_MAX)];
            text[..hit.end].ends_with(b" ")
                || matches!(&text[hit.start..hit.end], b"chpasswd" | b"--stdin")
                || memchr::memchr(b' ', rest).is_some()
                || memchr::memmem::find(rest, b"command=").is_some()
        }
        Anchor::Word => pairs::may_have_value(text, start, hit),
    }
}

pub(super) fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

/// Whether decoded bytes are a text: UTF-8 without control bytes, as far as the first ones tell.
fn is_texty(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(64)];
    let utf8 = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(err) => err.error_len().is_none(),
    };
    utf8 && !head.is_empty() && head.iter().all(|byte| *byte >= b' ' || b"\t\n\r".contains(byte))
}

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true)
    .with_encode_padding(false);

pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Shorter base64 holds no text with a secret in it.
const BASE64_BYTES_MIN: usize = 8;

/// Letters that hold a text of twenty-four bytes are no chance.
const CERTAIN_BYTES_MIN: usize = 32;

/// How many brackets are tried as the begin of JSON inside a text: log lines have one or two before.
const EMBEDDED_TRIES_MAX: usize = 4;

/// User and password in a URL are shorter, and each `://` may cost as much.
pub(super) const USERINFO_BYTES_MAX: usize = 2048;

/// A blank behind a program's name stands nearer, and each name may cost as much.
const PROGRAM_BYTES_MAX: usize = 4096;
