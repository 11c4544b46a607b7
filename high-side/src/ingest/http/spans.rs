//! Where the values of a JSON text begin and end, and nothing about what is in them.
//!
//! A batch of audit events may have ten megabytes and nest as deep as whoever sent the request to the
//! API server liked. [`shared::json::Tape`] keeps a node for each value and bounds number and depth,
//! as it must for one record; here one odd object in a batch would then cost its 399 neighbours. This
//! walk keeps nothing, follows any depth, and is content when brackets balance: each record that is cut
//! out is scanned properly by the export guard later.

use std::ops::Range;

/// The text is not the JSON that it should be, here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {0} does not belong there, or the text ends early")]
pub(super) struct Unexpected(pub(super) usize);

/// A walk over a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Walk<'t> {
    pub(super) fn new(text: &'t [u8], at: usize) -> Self {
        Self { text, at }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is no white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    /// Passes over a byte, if it is the next one.
    pub(super) fn pass(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unexpected> {
        if self.pass(byte) { Ok(()) } else { Err(Unexpected(self.at)) }
    }

    /// Passes over one value; gives where it stands.
    pub(super) fn value(&mut self) -> Result<Range<usize>, Unexpected> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'"') => self.string()?,
            Some(b'{' | b'[') => self.container()?,
            Some(_) => {
                let is_end = |b: &u8| b",:]}[{\" \t\r\n".contains(b);
                let rest = &self.text[start..];
                self.at = start + rest.iter().position(is_end).unwrap_or(rest.len());
                if self.at == start {
                    return Err(Unexpected(start));
                }
            }
            None => return Err(Unexpected(start)),
        }
        Ok(start..self.at)
    }

    /// Visits the members of an object: the content of each key, as it is written, and its value.
    pub(super) fn members(
        &mut self,
        mut visit: impl FnMut(&'t [u8], Range<usize>),
    ) -> Result<(), Unexpected> {
        self.expect(b'{')?;
        if self.pass(b'}') {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(Unexpected(self.at));
            }
            let start = self.at + 1;
            self.string()?;
            let key = &self.text[start..self.at - 1];
            self.expect(b':')?;
            let value = self.value()?;
            visit(key, value);
            if self.pass(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    fn string(&mut self) -> Result<(), Unexpected> {
        let mut at = self.at + 1;
        loop {
            let rest = self.text.get(at..).ok_or(Unexpected(self.text.len()))?;
            let found = memchr::memchr2(b'"', b'\\', rest).ok_or(Unexpected(self.text.len()))?;
            at += found;
            if self.text[at] == b'"' {
                self.at = at + 1;
                return Ok(());
            }
            at += 2;
        }
    }

    fn container(&mut self) -> Result<(), Unexpected> {
        let mut depth = 0_usize;
        loop {
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth -= 1,
                Some(_) => {}
                None => return Err(Unexpected(self.at)),
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

/// The elements of an array, one after the other; an error ends it.
#[derive(Clone, Debug)]
pub(super) struct Elements<'t> {
    walk: Walk<'t>,
    state: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Before,
    Behind,
    End,
}

impl<'t> Elements<'t> {
    /// Those of the array that begins at this byte of the text.
    pub(super) fn of(text: &'t [u8], at: usize) -> Self {
        Self { walk: Walk::new(text, at), state: Place::Before }
    }

    fn step(&mut self) -> Result<Option<Range<usize>>, Unexpected> {
        match self.state {
            Place::Before => {
                self.walk.expect(b'[')?;
                if self.walk.pass(b']') {
                    return Ok(None);
                }
            }
            Place::Behind => {
                if self.walk.pass(b']') {
                    return Ok(None);
                }
                self.walk.expect(b',')?;
            }
            Place::End => return Ok(None),
        }
        self.state = Place::Behind;
        self.walk.value().map(Some)
    }
}

impl Iterator for Elements<'_> {
    type Item = Result<Range<usize>, Unexpected>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if !matches!(step, Some(Ok(_))) {
            self.state = Place::End;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::json::Tape;

    use super::*;

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            "[\"\\\\\n{}\\[\\],:a\u{1F600}]{0,24}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                proptest::collection::btree_map("[a-z\"\\\\{}]{0,6}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_finds_the_values_that_the_tape_finds(
            json in proptest::collection::vec(any_json(), 0..8), pretty in any::<bool>()
        ) {
            let text = if pretty { serde_json::to_vec_pretty(&json) } else { serde_json::to_vec(&json) };
            let text = text.unwrap();
            let mut tape = Tape::default();
            let root = tape.scan(&text).unwrap();
            let expected: Vec<_> = root.children().map(|child| child.raw()).collect();
            let found: Result<Vec<_>, _> =
                Elements::of(&text, 0).map(|range| range.map(|range| &text[range])).collect();
            prop_assert_eq!(found.unwrap(), expected);
        }

        #[test]
        fn what_was_cut_is_noticed(json in any_json(), cut in any::<proptest::sample::Index>()) {
            let text = serde_json::to_vec(&serde_json::json!([json])).unwrap();
            let cut = cut.index(text.len());
            prop_assert!(Elements::of(&text[..cut], 0).any(|found| found.is_err()));
        }

        #[test]
        fn no_bytes_panic_and_it_ends(text in proptest::collection::vec(prop_oneof![
            any::<u8>(), Just(b'"'), Just(b'\\'), Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b','), Just(b':'),
        ], 0..64)) {
            prop_assert!(Elements::of(&text, 0).count() <= text.len() + 1);
            let _ = Walk::new(&text, 0).members(|_, range| assert!(!text[range].is_empty()));
        }
    }

    #[test]
    fn any_depth_is_followed() {
        let deep = [b"[".repeat(1 << 20), b"]".repeat(1 << 20)].concat();
        assert_eq!(Walk::new(&deep, 0).value(), Ok(0..deep.len()));
    }

    #[test]
    fn members_are_visited_with_their_places() {
        let text = br#" {"a" : [1, {"b":2}] ,"c\"":"}" } "#;
        let mut seen = Vec::new();
        let mut walk = Walk::new(text, 0);
        walk.members(|key, value| seen.push((key, &text[value]))).unwrap();
        let expected: [(&[u8], &[u8]); 2] = [(b"a", br#"[1, {"b":2}]"#), (br#"c\""#, br#""}""#)];
        assert_eq!(seen, expected);
        assert_eq!(walk.peek(), None);
    }
}
