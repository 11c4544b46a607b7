//! Changes to a text, kept as ranges until the whole text was looked at.

use std::ops::Range;

/// One change: the bytes of a range give way to others.
#[derive(Clone, Debug, Default)]
pub(super) struct Edit {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) text: Vec<u8>,
    /// Whether the text is a layer encoded again, in which only some of the values were replaced.
    pub(super) encoded: bool,
    /// Which rules acted where: more than one in a layer that was encoded again.
    pub(super) places: Vec<(u8, String)>,
}

/// Sorts the edits from `from` on and joins those that overlap: the first one's text stays, or the
/// mark, where a mark meets a layer that was encoded again.
pub(super) fn settle(edits: &mut Vec<Edit>, from: usize) {
    if edits.len() < from + 2 {
        return;
    }
    edits[from..].sort_by_key(|edit| (edit.start, std::cmp::Reverse(edit.end)));
    let mut kept = from;
    for next in from + 1..edits.len() {
        if edits[next].start < edits[kept].end {
            let later = std::mem::take(&mut edits[next]);
            let last = &mut edits[kept];
            last.end = last.end.max(later.end);
            if last.encoded && !later.encoded {
                last.text = later.text;
                last.places = later.places;
                last.encoded = false;
            }
            continue;
        }
        kept += 1;
        edits.swap(kept, next);
    }
    edits.truncate(kept + 1);
}

/// Writes the text with its edits, which are sorted and apart.
pub(super) fn apply(text: &[u8], edits: &[Edit], out: &mut Vec<u8>) {
    out.clear();
    let mut at = 0;
    for edit in edits {
        out.extend_from_slice(&text[at..edit.start]);
        out.extend_from_slice(&edit.text);
        at = edit.end;
    }
    out.extend_from_slice(&text[at..]);
}

/// A text that was decoded, and where each of its bytes came from.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) bytes: Vec<u8>,
    /// For each byte, and for the end: where its source begins.
    pub(super) sources: Vec<u32>,
    pub(super) coding: Coding,
}

/// How a view's source is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Coding {
    /// A JSON string's content.
    #[default]
    Json,
    /// Percent-encoding.
    Percent,
}

impl View {
    pub(super) fn clear(&mut self, coding: Coding) {
        self.bytes.clear();
        self.sources.clear();
        self.coding = coding;
    }

    pub(super) fn push(&mut self, byte: u8, source: usize) {
        self.bytes.push(byte);
        self.sources.push(source as u32);
    }

    /// Decodes a JSON string's content.
    pub(super) fn unescape(&mut self, content: &[u8]) {
        self.clear(Coding::Json);
        shared::json::unescape(content, |byte, source| {
            self.bytes.push(byte);
            self.sources.push(source as u32);
        });
        self.sources.push(content.len() as u32);
    }

    /// Decodes percent-encoding; says whether there was any.
    pub(super) fn percent(&mut self, text: &[u8]) -> bool {
        self.clear(Coding::Percent);
        let mut found = false;
        let mut at = 0;
        while at < text.len() {
            let digits = (text[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
            if let Some(byte) = digits.and_then(hex_pair) {
                found = true;
                self.push(byte, at);
                at += 3;
            } else {
                self.push(text[at], at);
                at += 1;
            }
        }
        self.sources.push(text.len() as u32);
        found
    }

    /// The source of a range of its bytes: whole escapes.
    pub(super) fn source(&self, range: Range<usize>) -> Range<usize> {
        let start = self.sources[range.start] as usize;
        let last = self.sources[range.end.saturating_sub(1).max(range.start)];
        let mut end = range.end;
        // A character's bytes share one escape.
        while range.end > range.start && end + 1 < self.sources.len() && self.sources[end] == last {
            end += 1;
        }
        start..(self.sources[end] as usize).max(start)
    }

    /// Carries edits of its bytes over to its source, which begins at `base`.
    pub(super) fn carry_over(&self, edits: &mut [Edit], base: usize) {
        for edit in edits {
            let source = self.source(edit.start..edit.end);
            edit.start = base + source.start;
            edit.end = base + source.end;
            if edit.text.iter().any(|byte| b"\"\\".contains(byte)) {
                let mut text = Vec::with_capacity(edit.text.len() + 8);
                for &byte in &edit.text {
                    match (self.coding, byte) {
                        (Coding::Json, b'"' | b'\\') => text.extend_from_slice(&[b'\\', byte]),
                        (Coding::Percent, b'"') => text.extend_from_slice(b"%22"),
                        (Coding::Percent, b'\\') => text.extend_from_slice(b"%5C"),
                        _ => text.push(byte),
                    }
                }
                edit.text = text;
            }
        }
    }
}

fn hex_pair(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(digits[0])? * 16 + digit(digits[1])?) as u8)
}
