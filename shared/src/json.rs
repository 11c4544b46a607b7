//! JSON looked at without taking it apart: one pass over the bytes gives a flat list of nodes that
//! say where each value and its key stand.
//!
//! Every record on its way in is scanned once, and stream recognition, the parsed view and the export
//! guard all work on that one scan. `serde_json` builds a value for everything it meets, which costs
//! several times as much, and cannot say where in the bytes a value stands, which redaction must know.
//!
//! The scan is lenient about what a string may hold (control bytes, bytes that are not UTF-8) and about
//! the form of numbers; it is strict about structure. Duplicate keys are kept, each in its place.

use std::borrow::Cow;

/// The deepest nesting that is followed.
pub const DEPTH_MAX: usize = 128;

/// The most nodes that one text may have: 8 MiB of memory. A `Pod` list of 59 KB has 3,000.
pub const NODES_MAX: usize = 1 << 18;

/// Why a text was not scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It ends in the middle: it may have been cut.
    #[error("the JSON text ends early")]
    EndsEarly,
    /// A byte stands where it can't.
    #[error("byte {0} does not belong in JSON")]
    Malformed(usize),
    /// It nests deeper or has more values than are followed.
    #[error("the JSON text is too complex")]
    TooComplex,
}

/// What kind of value a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[...]`
    Array,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
    /// A number, as it is written.
    Number,
    /// `{...}`
    Object,
    /// `"..."`
    String,
}

/// One value in a text.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Where it begins: at its quote or bracket.
    pub start: u32,
    /// Where it ends: behind its quote or bracket.
    pub end: u32,
    /// Where its key begins, inside the quotes; equal to `key_end` when it is an array's element.
    pub key_start: u32,
    /// Where its key ends.
    pub key_end: u32,
    /// The index of the node behind it and everything in it.
    pub next: u32,
    /// What kind of value it is.
    pub kind: Kind,
    /// Whether it is a string with escapes.
    pub escaped: bool,
    /// Whether its key has escapes.
    pub key_escaped: bool,
    /// How many containers it stands in.
    pub depth: u8,
}

/// The nodes of one text; its memory is used again for the next.
#[derive(Debug, Default)]
pub struct Tape {
    nodes: Vec<Node>,
    open: Vec<u32>,
}

impl Tape {
    /// Scans one JSON value; white space may stand around it.
    pub fn scan<'t>(&'t mut self, text: &'t [u8]) -> Result<Value<'t>, JsonError> {
        self.nodes.clear();
        self.open.clear();
        // A node's offsets have 32 bits. No record is longer than 16 MiB.
        if u32::try_from(text.len()).is_err() {
            return Err(JsonError::TooComplex);
        }
        Scanner { text, at: 0, nodes: &mut self.nodes, open: &mut self.open }.run()?;
        Ok(Value { text, nodes: &self.nodes, index: 0 })
    }

    /// The nodes of the last scan: each container before what is in it.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The first value of the last successful scan of this same text.
    pub fn root<'t>(&'t self, text: &'t [u8]) -> Option<Value<'t>> {
        (!self.nodes.is_empty()).then_some(Value { text, nodes: &self.nodes, index: 0 })
    }
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    nodes: &'a mut Vec<Node>,
    open: &'a mut Vec<u32>,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), JsonError> {
        let mut key = (0, 0, false);
        // Each turn reads one value; then whatever closes behind it, up to where the next one begins.
        'value: loop {
            self.skip_space();
            let start = self.at as u32;
            let first = *self.text.get(self.at).ok_or(JsonError::EndsEarly)?;
            let (kind, escaped) = match first {
                b'"' => (Kind::String, self.string()?.2),
                b'{' | b'[' => {
                    self.at += 1;
                    (if first == b'{' { Kind::Object } else { Kind::Array }, false)
                }
                b't' => (self.word(b"true", Kind::Bool)?, false),
                b'f' => (self.word(b"false", Kind::Bool)?, false),
                b'n' => (self.word(b"null", Kind::Null)?, false),
                b'-' | b'0'..=b'9' => (self.number(), false),
                _ => return Err(JsonError::Malformed(self.at)),
            };
            if self.nodes.len() >= NODES_MAX {
                return Err(JsonError::TooComplex);
            }
            let index = self.nodes.len() as u32;
            let depth = self.open.len() as u8;
            let (key_start, key_end, key_escaped) = key;
            self.nodes.push(Node {
                start,
                end: self.at as u32,
                key_start,
                key_end,
                next: index + 1,
                kind,
                escaped,
                key_escaped,
                depth,
            });
            let mut fresh = matches!(kind, Kind::Object | Kind::Array);
            if fresh {
                if self.open.len() >= DEPTH_MAX {
                    return Err(JsonError::TooComplex);
                }
                self.open.push(index);
            }
            loop {
                self.skip_space();
                let Some(&container) = self.open.last() else {
                    return if self.at == self.text.len() {
                        Ok(())
                    } else {
                        Err(JsonError::Malformed(self.at))
                    };
                };
                let object = self.nodes[container as usize].kind == Kind::Object;
                let byte = *self.text.get(self.at).ok_or(JsonError::EndsEarly)?;
                if byte == (if object { b'}' } else { b']' }) {
                    self.at += 1;
                    let next = self.nodes.len() as u32;
                    let node = &mut self.nodes[container as usize];
                    node.end = self.at as u32;
                    node.next = next;
                    self.open.pop();
                    fresh = false;
                    continue;
                }
                if !fresh {
                    if byte != b',' {
                        return Err(JsonError::Malformed(self.at));
                    }
                    self.at += 1;
                }
                key = if object { self.key()? } else { (0, 0, false) };
                continue 'value;
            }
        }
    }

    fn key(&mut self) -> Result<(u32, u32, bool), JsonError> {
        self.skip_space();
        match self.text.get(self.at) {
            Some(b'"') => {}
            Some(_) => return Err(JsonError::Malformed(self.at)),
            None => return Err(JsonError::EndsEarly),
        }
        let key = self.string()?;
        self.skip_space();
        match self.text.get(self.at) {
            Some(b':') => self.at += 1,
            Some(_) => return Err(JsonError::Malformed(self.at)),
            None => return Err(JsonError::EndsEarly),
        }
        Ok(key)
    }

    /// Passes over a string; gives where its content stands and whether it has escapes.
    fn string(&mut self) -> Result<(u32, u32, bool), JsonError> {
        let start = self.at + 1;
        let mut at = start;
        let mut escaped = false;
        loop {
            let rest = self.text.get(at..).ok_or(JsonError::EndsEarly)?;
            let found = find_quote(rest).ok_or(JsonError::EndsEarly)?;
            at += found;
            if self.text[at] == b'"' {
                self.at = at + 1;
                return Ok((start as u32, at as u32, escaped));
            }
            escaped = true;
            at += 2;
        }
    }

    fn number(&mut self) -> Kind {
        while let Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
        }
        Kind::Number
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<Kind, JsonError> {
        let rest = &self.text[self.at..];
        if rest.starts_with(word) {
            self.at += word.len();
            return Ok(kind);
        }
        Err(if word.starts_with(rest) {
            JsonError::EndsEarly
        } else {
            JsonError::Malformed(self.at)
        })
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
    }
}

/// The first quote or backslash. Most strings are short: eight bytes at a time beat a call.
fn find_quote(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut at = 0;
    for chunk in text.chunks_exact(8).take(4) {
        let word = chunk.try_into().map_or(0, u64::from_le_bytes);
        let hit = zero_bytes(word ^ (ONES * u64::from(b'"')))
            | zero_bytes(word ^ (ONES * u64::from(b'\\')));
        if hit != 0 {
            return Some(at + (hit.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    memchr::memchr2(b'"', b'\\', &text[at..]).map(|found| at + found)
}

/// One value of a scanned text.
#[derive(Clone, Copy)]
pub struct Value<'t> {
    text: &'t [u8],
    nodes: &'t [Node],
    index: u32,
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Value").field(self.node()).finish()
    }
}

impl<'t> Value<'t> {
    /// Its node.
    pub fn node(&self) -> &'t Node {
        &self.nodes[self.index as usize]
    }

    /// The index of its node on the tape.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// All nodes of the text that it stands in.
    pub fn nodes(&self) -> &'t [Node] {
        self.nodes
    }

    /// What kind of value it is.
    pub fn kind(&self) -> Kind {
        self.node().kind
    }

    /// Its bytes as they are written, with quotes or brackets.
    pub fn raw(&self) -> &'t [u8] {
        &self.text[self.node().start as usize..self.node().end as usize]
    }

    /// Its key, decoded; empty for an element of an array.
    pub fn key(&self) -> Cow<'t, str> {
        let node = self.node();
        decode(&self.text[node.key_start as usize..node.key_end as usize], node.key_escaped)
    }

    /// The bytes of its key as they are written, without quotes.
    pub fn key_bytes(&self) -> &'t [u8] {
        let node = self.node();
        &self.text[node.key_start as usize..node.key_end as usize]
    }

    /// Another value of the same text, by the index of its node.
    pub fn of_index(&self, index: usize) -> Option<Value<'t>> {
        (index < self.nodes.len()).then_some(Value { index: index as u32, ..*self })
    }

    /// The first member whose key is this one in any letter case; the exact one is preferred.
    pub fn get_any_case(&self, key: &str) -> Option<Value<'t>> {
        self.get(key).or_else(|| {
            self.children().find(|child| child.key_bytes().eq_ignore_ascii_case(key.as_bytes()))
        })
    }

    /// Its content, if it is a string.
    pub fn as_str(&self) -> Option<Cow<'t, str>> {
        let node = self.node();
        let content = || &self.text[node.start as usize + 1..node.end as usize - 1];
        (node.kind == Kind::String).then(|| decode(content(), node.escaped))
    }

    /// Its text, if it is a string, a number or a boolean: a number as it is written.
    pub fn as_text(&self) -> Option<Cow<'t, str>> {
        match self.kind() {
            Kind::String => self.as_str(),
            Kind::Number | Kind::Bool => Some(decode(self.raw(), false)),
            Kind::Array | Kind::Null | Kind::Object => None,
        }
    }

    /// Its value, if it is a whole number that fits.
    pub fn as_i64(&self) -> Option<i64> {
        (self.kind() == Kind::Number).then(|| std::str::from_utf8(self.raw()).ok()?.parse().ok())?
    }

    /// Its value, if it is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        (self.kind() == Kind::Bool).then(|| self.raw() == b"true")
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.kind() == Kind::Null
    }

    /// The values directly in it: an object's members, an array's elements.
    pub fn children(&self) -> Children<'t> {
        let Self { text, nodes, index } = *self;
        Children { text, nodes, at: index + 1, end: self.node().next }
    }

    /// The first member with a key; `None` too where this is no object.
    pub fn get(&self, key: &str) -> Option<Value<'t>> {
        self.children().find(|child| child.is_keyed(key))
    }

    /// Whether its key is this one.
    pub fn is_keyed(&self, key: &str) -> bool {
        let node = self.node();
        let raw = &self.text[node.key_start as usize..node.key_end as usize];
        if node.key_escaped { decode(raw, true) == key } else { raw == key.as_bytes() }
    }

    /// What lies under a path of keys.
    pub fn at(&self, path: &[&str]) -> Option<Value<'t>> {
        path.iter().try_fold(*self, |value, key| value.get(key))
    }

    /// The string under a path of keys.
    pub fn str_at(&self, path: &[&str]) -> Option<Cow<'t, str>> {
        self.at(path)?.as_str()
    }
}

/// The values in a container, in their order.
#[derive(Clone)]
pub struct Children<'t> {
    text: &'t [u8],
    nodes: &'t [Node],
    at: u32,
    end: u32,
}

impl std::fmt::Debug for Children<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Children")
            .field("at", &self.at)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl<'t> Iterator for Children<'t> {
    type Item = Value<'t>;

    fn next(&mut self) -> Option<Value<'t>> {
        if self.at >= self.end {
            return None;
        }
        let value = Value { text: self.text, nodes: self.nodes, index: self.at };
        self.at = value.node().next;
        Some(value)
    }
}

/// The text of a string's content, with U+FFFD for what is not UTF-8.
pub fn decode(content: &[u8], escaped: bool) -> Cow<'_, str> {
    if !escaped {
        // The lossy reader looks at each byte; the strict one passes over ASCII by the word.
        return match std::str::from_utf8(content) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(content),
        };
    }
    let mut bytes = Vec::with_capacity(content.len());
    unescape(content, |byte, _| bytes.push(byte));
    match String::from_utf8(bytes) {
        Ok(text) => Cow::Owned(text),
        Err(err) => Cow::Owned(String::from_utf8_lossy(err.as_bytes()).into_owned()),
    }
}

/// Gives the bytes that a string's content stands for, each with the offset in the content at which
/// what it comes from begins. An escape that is none stands for itself.
pub fn unescape(content: &[u8], mut emit: impl FnMut(u8, usize)) {
    let mut at = 0;
    while let Some(&byte) = content.get(at) {
        let from = at;
        if byte != b'\\' {
            emit(byte, from);
            at += 1;
            continue;
        }
        let plain = match content.get(at + 1) {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(&(b'"' | b'\\' | b'/')) => content[at + 1],
            Some(b'u') => {
                let (text, length) = unicode_escape(&content[at..]);
                let mut buffer = [0; 4];
                text.encode_utf8(&mut buffer).bytes().for_each(|byte| emit(byte, from));
                at += length;
                continue;
            }
            _ => {
                emit(byte, from);
                at += 1;
                continue;
            }
        };
        emit(plain, from);
        at += 2;
    }
}

/// The character of a `\uXXXX` escape, or of a pair of them, and its length.
fn unicode_escape(text: &[u8]) -> (char, usize) {
    let unit = |at: usize| -> Option<u32> {
        let digits = text.get(at..at + 6)?;
        if !digits.starts_with(b"\\u") || !digits[2..].iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        u32::from_str_radix(std::str::from_utf8(&digits[2..]).ok()?, 16).ok()
    };
    let replaced = char::REPLACEMENT_CHARACTER;
    match unit(0) {
        None => (replaced, 2),
        Some(high @ 0xD800..=0xDBFF) => match unit(6) {
            Some(low @ 0xDC00..=0xDFFF) => {
                let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                (char::from_u32(code).unwrap_or(replaced), 12)
            }
            _ => (replaced, 6),
        },
        Some(code) => (char::from_u32(code).unwrap_or(replaced), 6),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn same(value: Value<'_>, expected: &serde_json::Value) -> bool {
        match expected {
            serde_json::Value::Null => value.is_null(),
            serde_json::Value::Bool(flag) => value.as_bool() == Some(*flag),
            serde_json::Value::Number(number) => value.as_text() == Some(number.to_string().into()),
            serde_json::Value::String(text) => value.as_str().as_deref() == Some(text),
            serde_json::Value::Array(items) => {
                value.kind() == Kind::Array
                    && value.children().count() == items.len()
                    && value.children().zip(items).all(|(child, item)| same(child, item))
            }
            serde_json::Value::Object(members) => {
                value.kind() == Kind::Object
                    && value.children().count() == members.len()
                    && members
                        .iter()
                        .all(|(key, item)| value.get(key).is_some_and(|v| same(v, item)))
            }
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            "\\PC{0,24}".prop_map(serde_json::Value::from),
            "[\"\\\\\n\u{1}\u{1F600}a]{0,40}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                proptest::collection::btree_map("[a-z\"\\\\é]{0,12}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_sees_what_a_parser_sees(json in any_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_vec_pretty(&json) } else { serde_json::to_vec(&json) }.unwrap();
            let mut tape = Tape::default();
            prop_assert!(same(tape.scan(&text).unwrap(), &json));
        }

        #[test]
        fn what_was_cut_is_refused(json in any_json(), cut in any::<proptest::sample::Index>()) {
            let text = serde_json::to_vec(&serde_json::json!([json])).unwrap();
            let cut = cut.index(text.len());
            prop_assert_eq!(Tape::default().scan(&text[..cut]).err(), Some(JsonError::EndsEarly));
        }

        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(prop_oneof![
            any::<u8>(), Just(b'"'), Just(b'\\'), Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b','), Just(b':'), Just(b'u'),
        ], 0..64)) {
            let mut tape = Tape::default();
            if let Ok(value) = tape.scan(&text) {
                let _ = value.as_str();
                value.children().for_each(|child| drop((child.key(), child.as_text())));
            }
        }
    }

    #[test]
    fn what_is_no_json_is_refused_where_it_goes_wrong() {
        for (text, error) in [
            ("", JsonError::EndsEarly),
            ("  ", JsonError::EndsEarly),
            ("{\"a\" 1}", JsonError::Malformed(5)),
            ("{a:1}", JsonError::Malformed(1)),
            ("[1 2]", JsonError::Malformed(3)),
            ("[1]x", JsonError::Malformed(3)),
            ("{\"a\":1]", JsonError::Malformed(6)),
            ("[1,]", JsonError::Malformed(3)),
            ("{\"a\":1,}", JsonError::Malformed(7)),
            ("{\"a\\", JsonError::EndsEarly),
            ("tru", JsonError::EndsEarly),
            ("truth", JsonError::Malformed(0)),
        ] {
            assert_eq!(Tape::default().scan(text.as_bytes()).err(), Some(error), "{text}");
        }
        let deep = "[".repeat(DEPTH_MAX + 1);
        assert_eq!(Tape::default().scan(deep.as_bytes()).err(), Some(JsonError::TooComplex));
    }

    #[test]
    fn offsets_lead_back_to_the_bytes() {
        let text = br#" {"a":{"b":[10,"x\"y"]} , "c\u0064":"z"} "#;
        let mut tape = Tape::default();
        let root = tape.scan(text).unwrap();
        assert_eq!(root.at(&["a", "b"]).unwrap().raw(), br#"[10,"x\"y"]"#);
        assert_eq!(root.get("cd").unwrap().raw(), b"\"z\"");
        let last = root.at(&["a", "b"]).unwrap().children().last().unwrap();
        assert_eq!((last.as_str().unwrap().as_ref(), last.node().depth), ("x\"y", 3));
    }
}
