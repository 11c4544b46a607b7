//! Entries out of a run of bytes: where each ends, without holding more than a window of one.

use shared::msgpack::{HEAD_BYTES_MAX, Malformed, Skipper};

/// How the bytes of an entry are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One value, usually an array of time and map.
    Entry,
    /// Time and map one after the other, as in a message of one event.
    Pair,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The first so many bytes are an entry. If it is not whole, the rest of it follows, to be passed
    /// over.
    Entry { length: usize, whole: bool },
    /// So many bytes must fit the buffer for the next step.
    More { want: usize },
    /// The first so many bytes are the rest of an entry whose head was given.
    Rest { length: usize },
}

/// Finds entries. Its caller drops what was found before it asks again.
#[derive(Debug)]
pub(super) struct Splitter {
    shape: Shape,
    /// The most of an entry that is looked at.
    window: usize,
    skipper: Skipper,
    /// Bytes of the entry that were passed over and are still at the caller's.
    seen: usize,
    /// Whether the head of the entry was given already.
    headless: bool,
}

impl Splitter {
    pub(super) fn new(shape: Shape, window: usize) -> Self {
        Self { shape, window, skipper: skipper(shape), seen: 0, headless: false }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether an entry has begun and not ended.
    pub(super) fn is_within(&self) -> bool {
        self.seen > 0 || self.headless
    }

    /// Looks at `data`, which begins where the last answer ended.
    pub(super) fn next(&mut self, data: &[u8]) -> Result<Next, Malformed> {
        self.seen += self.skipper.skip(&data[self.seen..])?;
        let length = self.seen;
        if self.skipper.is_done() {
            let whole = !std::mem::take(&mut self.headless);
            self.seen = 0;
            self.skipper = skipper(self.shape);
            return Ok(if whole { Next::Entry { length, whole } } else { Next::Rest { length } });
        }
        if self.headless {
            self.seen = 0;
            return Ok(match length {
                0 => Next::More { want: HEAD_BYTES_MAX },
                _ => Next::Rest { length },
            });
        }
        if length >= self.window {
            self.headless = true;
            self.seen = 0;
            return Ok(Next::Entry { length, whole: false });
        }
        Ok(Next::More { want: self.window.min(data.len() * 2).max(length + HEAD_BYTES_MAX) })
    }
}

fn skipper(shape: Shape) -> Skipper {
    Skipper::new(match shape {
        Shape::Entry => 1,
        Shape::Pair => 2,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Entries as a caller with a small buffer sees them: their heads, and whether that is all.
    fn split(stream: &[u8], piece: usize, window: usize) -> Vec<(Vec<u8>, bool)> {
        let mut splitter = Splitter::new(Shape::Entry, window);
        let (mut out, mut at, mut end) = (Vec::new(), 0, 0);
        loop {
            match splitter.next(&stream[at..end]).unwrap() {
                Next::Entry { length, whole } => {
                    out.push((stream[at..at + length].to_vec(), whole));
                    at += length;
                }
                Next::Rest { length } => at += length,
                Next::More { want } => {
                    assert!(want <= window.max(1) * 2 + piece + HEAD_BYTES_MAX);
                    if end == stream.len() {
                        assert!(at == end && !splitter.is_within());
                        return out;
                    }
                    end = (end + piece).min(stream.len());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn entries_survive_any_cutting(
            texts in prop::collection::vec("[a-z]{0,80}", 1..8),
            piece in 1..50_usize,
            window in 1..60_usize,
        ) {
            let mut stream = Vec::new();
            let mut entries = Vec::new();
            for text in &texts {
                // An array of a number and a text.
                let entry = [&[0x92, 0x05, 0xd9, text.len() as u8], text.as_bytes()].concat();
                stream.extend_from_slice(&entry);
                entries.push(entry);
            }
            let found = split(&stream, piece, window);
            prop_assert_eq!(found.len(), entries.len());
            for ((head, whole), entry) in found.iter().zip(&entries) {
                prop_assert!(entry.starts_with(head));
                let enough = if *whole { head == entry } else { head.len() >= window };
                prop_assert!(enough);
            }
        }
    }
}
