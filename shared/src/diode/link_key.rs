//! The key that both ends of a link share. It tells our datagrams from others'; it opens nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use rand_core::{OsRng, RngCore};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::derived;
use crate::keys::{KeyError, load_secret};

/// The length of a datagram's tag. 128 bits of HMAC-SHA-256: a forger has one chance in 2^128 each.
pub const TAG_BYTES: usize = 16;

/// The shared key of a link, ready for use.
///
/// HMAC-SHA-256 and not a keyed BLAKE3: on 1,400 bytes, with the SHA instructions of every current
/// server, it is about twice as fast.
#[derive(Clone)]
pub struct LinkKey {
    mac: Hmac<Sha256>,
    id: u64,
}

/// What is wrong with a link key.
#[derive(Debug, thiserror::Error)]
pub enum LinkKeyError {
    /// The file can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file is no link key.
    #[error(
        "{path}: is no link key, which is one line of 64 hex digits\n  try: penstock-high diode-key FILE, and carry the file to the low side"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkKey({:016x})", self.id)
    }
}

impl LinkKey {
    /// A key from its 32 bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        let mac_key = Zeroizing::new(derived(key, "datagram"));
        let mut id = [0; 8];
        id.copy_from_slice(&derived(key, "link-id")[..8]);
        // An HMAC takes keys of every length; one of a block's length needs no hashing first.
        let mut block = Zeroizing::new([0_u8; 64]);
        block[..32].copy_from_slice(&mac_key[..]);
        Self { mac: Hmac::new((&*block).into()), id: u64::from_le_bytes(id) }
    }

    /// Loads a key from a file that only its owner can read.
    pub fn load(path: &Path) -> Result<Self, LinkKeyError> {
        let text = load_secret(path)?;
        let malformed = || LinkKeyError::Malformed { path: path.to_owned() };
        let digits = text.trim_end().as_bytes();
        if digits.len() != 64 {
            return Err(malformed());
        }
        let mut key = Zeroizing::new([0_u8; 32]);
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| malformed())?;
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| malformed())?;
        }
        Ok(Self::new(&key))
    }

    /// Makes a key and stores it with mode 0600; never replaces one.
    pub fn generate(path: &Path) -> Result<Self, LinkKeyError> {
        let mut key = Zeroizing::new([0_u8; 32]);
        OsRng.fill_bytes(&mut *key);
        let mut text = Zeroizing::new(String::with_capacity(65));
        for byte in key.iter() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        text.push('\n');
        if path.symlink_metadata().is_ok() {
            return Err(KeyError::Exists { path: path.to_owned() }.into());
        }
        crate::durable::write(path, text.as_bytes(), 0o600)
            .map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        Ok(Self::new(&key))
    }

    /// What every datagram of the link carries, so that links can share a port. It says nothing of
    /// the key.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The tag of a message.
    pub fn tag(&self, message: &[u8]) -> [u8; TAG_BYTES] {
        let mut mac = self.mac.clone();
        mac.update(message);
        let whole = mac.finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&whole[..TAG_BYTES]);
        tag
    }

    /// Whether a message carries its tag; takes the same time whatever differs.
    #[cfg(feature = "open")]
    pub(super) fn is_tag(&self, message: &[u8], tag: &[u8]) -> bool {
        let mut mac = self.mac.clone();
        mac.update(message);
        tag.len() == TAG_BYTES && mac.verify_truncated_left(tag).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_loads_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link.key");
        let made = LinkKey::generate(&path).unwrap();
        let loaded = LinkKey::load(&path).unwrap();
        assert_eq!(made.tag(b"x"), loaded.tag(b"x"));
        assert_eq!(made.id(), loaded.id());
        assert!(matches!(
            LinkKey::generate(&path),
            Err(LinkKeyError::Key(KeyError::Exists { .. }))
        ));
        std::fs::write(&path, "+1".repeat(32)).unwrap();
        assert!(matches!(LinkKey::load(&path), Err(LinkKeyError::Malformed { .. })));
    }

    #[test]
    fn the_tag_is_an_hmac_of_the_derived_key() {
        let key = LinkKey::new(&[7; 32]);
        let mut mac = Hmac::<Sha256>::new_from_slice(&derived(&[7; 32], "datagram")).unwrap();
        mac.update(b"message");
        assert_eq!(key.tag(b"message"), mac.finalize().into_bytes()[..16]);
    }
}
