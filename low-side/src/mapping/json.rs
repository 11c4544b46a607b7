//! JSON, written straight to bytes: members in the order in which they are given, no tree between.

use std::fmt;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::text;

/// An object under construction. Its members stand in the order of the calls.
#[derive(Debug)]
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
    /// Text members are cut to this many bytes, at the border of a character.
    text_bytes_max: usize,
}

/// Writes an object.
pub(super) fn object(out: &mut Vec<u8>, text_bytes_max: usize, fill: impl FnOnce(&mut Object<'_>)) {
    out.push(b'{');
    fill(&mut Object { out, empty: true, text_bytes_max });
    out.push(b'}');
}

impl Object<'_> {
    fn key(&mut self, key: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        // Keys are our own constants: nothing in them needs an escape.
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A text, cut where it is too long; it says so itself.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        string(self.out, &text::shortened(value, self.text_bytes_max));
    }

    /// A text, if there is one and it says something.
    pub(super) fn text_of(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.text(key, value);
        }
    }

    /// A text of any length.
    pub(super) fn whole(&mut self, key: &str, value: &str) {
        self.key(key);
        string(self.out, value);
    }

    /// Something whose text holds nothing that needs an escape: a number's, a time's, an id's.
    pub(super) fn plain(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        // Writing to memory does not fail.
        let _ = write!(self.out, "\"{value}\"");
    }

    /// A number or a boolean.
    pub(super) fn number(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        let _ = write!(self.out, "{value}");
    }

    /// A number, if there is one.
    pub(super) fn number_of(&mut self, key: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.number(key, value);
        }
    }

    /// `true`, or nothing.
    pub(super) fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.number(key, true);
        }
    }

    /// Texts; nothing where there are none.
    pub(super) fn texts<'v>(&mut self, key: &str, values: impl IntoIterator<Item = &'v str>) {
        let mut values = values.into_iter().filter(|value| !value.is_empty()).peekable();
        if values.peek().is_none() {
            return;
        }
        self.key(key);
        let mut before = b'[';
        for value in values.take(TEXTS_MAX) {
            self.out.push(before);
            string(self.out, &text::shortened(value, self.text_bytes_max));
            before = b',';
        }
        self.out.push(b']');
    }

    /// Bytes, as base64.
    pub(super) fn base64(&mut self, key: &str, bytes: &[u8]) {
        self.key(key);
        self.out.push(b'"');
        let start = self.out.len();
        let length = base64::encoded_len(bytes.len(), true).unwrap_or(0);
        self.out.resize(start + length, 0);
        // The slice has exactly the length that the encoder asks for.
        let _ = BASE64.encode_slice(bytes, &mut self.out[start..]);
        self.out.push(b'"');
    }

    /// An object within; it is left out where it has no member.
    pub(super) fn group(&mut self, key: &str, fill: impl FnOnce(&mut Object<'_>)) {
        let (start, empty) = (self.out.len(), self.empty);
        self.key(key);
        self.out.push(b'{');
        let mut inner = Object { out: self.out, empty: true, text_bytes_max: self.text_bytes_max };
        fill(&mut inner);
        if inner.empty {
            self.out.truncate(start);
            self.empty = empty;
        } else {
            self.out.push(b'}');
        }
    }

    /// An array of objects; nothing where there are none. Each must have a member.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Object<'_>, T),
    ) {
        let mut items = items.into_iter().take(TEXTS_MAX).peekable();
        if items.peek().is_none() {
            return;
        }
        self.key(key);
        let mut before = b'[';
        for item in items {
            self.out.push(before);
            object(self.out, self.text_bytes_max, |o| fill(o, item));
            before = b',';
        }
        self.out.push(b']');
    }
}

/// A string with its quotes and escapes.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    // A string into memory: there is nothing that could fail.
    let _ = serde_json::to_writer(out, text);
}

/// The most values of one array: a hostile token may name any number of groups.
const TEXTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_without_members_are_left_out() {
        let mut out = Vec::new();
        object(&mut out, 4, |o| {
            o.group("a", |o| o.group("b", |o| o.text_of("c", Some(""))));
            o.text("d", "ääää\"");
            o.texts("e", ["", ""]);
            o.list("g", [1, 2], |o, number| o.number("h", number));
            o.base64("i", b"\xff");
        });
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            r#"{"d":"ää","g":[{"h":1},{"h":2}],"i":"/w=="}"#
        );
    }
}
