//! The body of a request by Fluent Bit or Fluentd: a JSON array, JSON lines, or JSON values one after
//! the other; each element is a record, cut out as it stands.
//!
//! A relay drops what is refused, so nothing is refused for its form: what is no JSON is taken line by
//! line.

use std::borrow::Cow;
use std::ops::Range;

use shared::json;

use super::spans::Walk;

/// Where the records stand in a body.
#[derive(Clone, Debug)]
pub(super) struct Records<'t> {
    text: &'t [u8],
    at: usize,
    in_array: bool,
    /// After the first fault no value is looked for beyond the end of its line: or text that is full of
    /// opening brackets would be read to its end for each of them.
    within_lines: bool,
}

impl<'t> Records<'t> {
    pub(super) fn of(text: &'t [u8]) -> Self {
        Self { text, at: 0, in_array: false, within_lines: false }
    }

    fn line_end(&self) -> usize {
        let rest = &self.text[self.at..];
        self.at + memchr::memchr(b'\n', rest).unwrap_or(rest.len())
    }

    /// One value, or none if there is none that ends well.
    fn value(&mut self) -> Option<Range<usize>> {
        let end = if self.within_lines { self.line_end() } else { self.text.len() };
        let mut walk = Walk::new(&self.text[..end], self.at);
        let Ok(range) = walk.value() else {
            self.within_lines = true;
            return None;
        };
        self.at = range.end;
        Some(range)
    }
}

impl Iterator for Records<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        loop {
            let mut walk = Walk::new(self.text, self.at);
            let first = walk.peek()?;
            self.at = walk.at();
            match first {
                b']' if self.in_array => {
                    self.in_array = false;
                    self.at += 1;
                    continue;
                }
                b',' if self.in_array => {
                    self.at += 1;
                    continue;
                }
                b'[' if !self.in_array && !self.within_lines => {
                    self.in_array = true;
                    self.at += 1;
                    continue;
                }
                b'{' | b'[' => {
                    if let Some(range) = self.value() {
                        return Some(range);
                    }
                }
                _ if self.in_array => {
                    if let Some(range) = self.value() {
                        return Some(range);
                    }
                }
                _ => {}
            }
            self.in_array = false;
            let (start, end) = (self.at, self.line_end());
            self.at = end;
            let line = self.text[start..end].strip_suffix(b"\r").unwrap_or(&self.text[start..end]);
            return Some(start..start + line.len());
        }
    }
}

/// The line that an object wraps in one of its members, without its line feed; or the object as it is,
/// if there is none.
pub(super) fn unwrapped<'t>(object: &'t [u8], member: &str) -> Cow<'t, [u8]> {
    let mut found = None;
    let walked = Walk::new(object, 0).members(|key, value| {
        if key == member.as_bytes() && object[value.start] == b'"' {
            found = Some(value.start + 1..value.end - 1);
        }
    });
    let (Ok(()), Some(content)) = (walked, found) else {
        return Cow::Borrowed(object);
    };
    let content = &object[content];
    if content.is_empty() || content == b"\\n" {
        return Cow::Borrowed(object);
    }
    if memchr::memchr(b'\\', content).is_none() {
        return Cow::Borrowed(content);
    }
    let mut text = Vec::with_capacity(content.len());
    json::unescape(content, |byte, _| text.push(byte));
    if text.ends_with(b"\n") {
        text.pop();
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(body: &str) -> Vec<&str> {
        Records::of(body.as_bytes()).map(|span| &body[span]).collect()
    }

    #[test]
    fn arrays_lines_and_streams_give_their_values_as_they_stand() {
        let (a, b) = ("{\"date\":1.5, \"log\":\"x\\n]\"}", "{\"b\":[1,{}]}");
        for body in [
            format!("[{a},{b}]"),
            format!(" [ {a} ,\n{b} ] \n"),
            format!("{a}\n{b}\n"),
            format!("{a}\r\n\r\n{b}"),
            format!("{a}{b}"),
            format!("[{a}][{b}]"),
        ] {
            assert_eq!(cut(&body), [a, b], "{body}");
        }
        assert_eq!(cut("[1,\"x\",[2],null]"), ["1", "\"x\"", "[2]", "null"]);
        for empty in ["", "\n \r\n", "[]", "[ ]"] {
            assert!(cut(empty).is_empty(), "{empty:?}");
        }
    }

    #[test]
    fn what_is_no_json_is_taken_line_by_line() {
        assert_eq!(cut("plain text\r\n{\"a\":1}\nmore"), ["plain text", "{\"a\":1}", "more"]);
        assert_eq!(cut("[{\"a\":1},{\"b\":"), ["{\"a\":1}", "{\"b\":"]);
        assert_eq!(cut("{\"a\n{\"b\":1}\n"), ["{\"a", "{\"b\":1}"]);
        assert_eq!(cut("{\"a\":1} and more\n"), ["{\"a\":1}", "and more"]);
    }

    #[test]
    fn a_text_full_of_opening_brackets_is_read_once() {
        let body = "{\n".repeat(1 << 20);
        assert_eq!(Records::of(body.as_bytes()).count(), 1 << 20);
    }

    #[test]
    fn a_wrapped_line_comes_out_as_it_was() {
        let of = |text: &str| String::from_utf8(unwrapped(text.as_bytes(), "log").into_owned());
        assert_eq!(of("{\"date\":1,\"log\":\"a\"}").unwrap(), "a");
        assert_eq!(
            of("{\"log\":\"{\\\"k\\\":\\\"\\u003c\\\\n\\\"}\"}").unwrap(),
            "{\"k\":\"<\\n\"}"
        );
        assert_eq!(of("{\"log\":\"as docker wrote it\\n\"}").unwrap(), "as docker wrote it");
        for same in [
            "{\"log\":\"\"}",
            "{\"log\":\"\\n\"}",
            "{\"log\":{\"a\":1}}",
            "{\"msg\":\"x\"}",
            "text",
            "{\"log\":\"x\"",
        ] {
            assert_eq!(of(same).unwrap(), same);
        }
    }

    proptest! {
        #[test]
        fn nothing_but_white_space_and_punctuation_is_left_out(text in "[\\[\\]{}\",:a \n]{0,48}") {
            let mut kept = vec![false; text.len()];
            let mut last = 0;
            for span in Records::of(text.as_bytes()) {
                prop_assert!(span.start >= last && !span.is_empty());
                last = span.end;
                kept[span].fill(true);
            }
            for (at, byte) in text.bytes().enumerate() {
                prop_assert!(kept[at] || b" \n[],".contains(&byte), "byte {} of {:?}", at, text);
            }
        }
    }
}
