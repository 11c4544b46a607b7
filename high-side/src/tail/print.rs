//! Fingerprints: how a content is known again, wherever it lies by now.
//!
//! A device and inode number name a file only while it lives: a file system gives the number of a
//! deleted file to the next one, often at once. So what was read of a content is also known by its
//! first bytes and by the last ones before the position. Both only ever cover bytes that were read,
//! which a log does not change any more.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The first bytes of a content, as many as were read of it up to this number.
pub(super) const HEAD_BYTES: usize = 1024;
/// The last bytes before the position, up to this number.
pub(super) const TAIL_BYTES: usize = 256;
/// Contents of which so much was read are taken for the same when both fingerprints agree, whatever
/// the file is called. Shorter ones may begin alike by chance, as "started\n".
pub(super) const STRONG_BYTES: u64 = 512;

/// What was read of a content, as far as it takes to know it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Print {
    head: Part,
    tail: Part,
}

/// Some bytes: themselves, or after a restart only their number and hash.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    Hash { len: usize, hash: String },
}

/// A fingerprint as it is stored: hashes only, since the bytes of a log may be secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredPrint {
    head_len: usize,
    head: String,
    tail_len: usize,
    tail: String,
}

impl Default for Part {
    fn default() -> Self {
        Part::Bytes(Vec::new())
    }
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Part::Bytes(bytes) => bytes.len(),
            Part::Hash { len, .. } => *len,
        }
    }

    fn is(&self, bytes: &[u8]) -> bool {
        match self {
            Part::Bytes(own) => own == bytes,
            Part::Hash { len, hash } => *len == bytes.len() && *hash == hash_text(bytes),
        }
    }

    fn stored(&self) -> (usize, String) {
        match self {
            Part::Bytes(bytes) => (bytes.len(), hash_text(bytes)),
            Part::Hash { len, hash } => (*len, hash.clone()),
        }
    }
}

impl Print {
    pub(super) fn head_len(&self) -> usize {
        self.head.len()
    }

    pub(super) fn tail_len(&self) -> usize {
        self.tail.len()
    }

    /// Whether a content that begins with these bytes begins as this one; at least the whole head
    /// must be given.
    pub(super) fn begins(&self, first: &[u8]) -> bool {
        first.get(..self.head.len()).is_some_and(|first| self.head.is(first))
    }

    /// Whether these bytes are where this content begins, or begin as it does: for a file that is
    /// shorter than what was read.
    pub(super) fn overlaps(&self, first: &[u8]) -> bool {
        match &self.head {
            Part::Bytes(head) => {
                let common = head.len().min(first.len());
                common > 0 && head[..common] == first[..common]
            }
            Part::Hash { len, .. } => *len > 0 && self.begins(first),
        }
    }

    /// Whether these are the bytes before the position.
    pub(super) fn ends(&self, last: &[u8]) -> bool {
        self.tail.is(last)
    }

    /// Takes up the bytes themselves, which were compared before.
    pub(super) fn learn(&mut self, head: &[u8], tail: &[u8]) {
        self.head = Part::Bytes(head.to_vec());
        self.tail = Part::Bytes(tail.to_vec());
    }

    /// Goes on over `len` bytes, of which the first and the last are at hand: all of them, or at
    /// least [`HEAD_BYTES`] and [`TAIL_BYTES`].
    pub(super) fn advance(&mut self, len: u64, first: &[u8], last: &[u8]) {
        if let Part::Bytes(head) = &mut self.head {
            let room = HEAD_BYTES - head.len().min(HEAD_BYTES);
            head.extend_from_slice(&first[..room.min(first.len())]);
        }
        if let Part::Bytes(tail) = &mut self.tail {
            let last = &last[last.len() - last.len().min(TAIL_BYTES)..];
            if len > last.len() as u64 {
                tail.clear();
            }
            tail.extend_from_slice(last);
            let surplus = tail.len().saturating_sub(TAIL_BYTES);
            tail.drain(..surplus);
        }
    }

    pub(super) fn stored(&self) -> StoredPrint {
        let ((head_len, head), (tail_len, tail)) = (self.head.stored(), self.tail.stored());
        StoredPrint { head_len, head, tail_len, tail }
    }
}

impl From<StoredPrint> for Print {
    fn from(stored: StoredPrint) -> Self {
        let StoredPrint { head_len, head, tail_len, tail } = stored;
        Self {
            head: Part::Hash { len: head_len, hash: head },
            tail: Part::Hash { len: tail_len, hash: tail },
        }
    }
}

/// 128 bits are enough for what no attacker gains by: who can write into a log can write anything.
fn hash_text(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(32);
    for byte in &Sha256::digest(bytes)[..16] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_print_is_the_same_in_whatever_pieces_it_grew() {
        let bytes: Vec<u8> = (0..5000_u32).map(|n| (n * 7 % 251) as u8).collect();
        for piece in [1, 100, 255, 256, 257, 1023, 1024, 1025, 4999, 5000] {
            let mut print = Print::default();
            for part in bytes.chunks(piece) {
                print.advance(part.len() as u64, part, part);
            }
            assert!(print.begins(&bytes) && print.ends(&bytes[bytes.len() - TAIL_BYTES..]));
            let stored = Print::from(print.stored());
            assert!(stored.begins(&bytes) && stored.ends(&bytes[bytes.len() - TAIL_BYTES..]));
            assert!(!stored.ends(&bytes[..TAIL_BYTES]) && !stored.begins(&bytes[1..]));
        }
    }

    #[test]
    fn only_the_ends_of_a_long_piece_are_needed() {
        let bytes = vec![b'x'; 9000];
        let (mut whole, mut ends) = (Print::default(), Print::default());
        whole.advance(9000, &bytes, &bytes);
        ends.advance(9000, &bytes[..HEAD_BYTES], &bytes[..TAIL_BYTES]);
        assert_eq!(whole, ends);
    }
}
