//! The key that both ends of a link share. It tells our datagrams from others'; it opens nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rand_core::{OsRng, RngCore};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::derived;
use crate::keys::{KeyError, load_secret};

/// The length of a datagram's tag: a forger has one chance in 2^120 or so each.
pub const TAG_BYTES: usize = 16;

/// The shared key of a link.
#[derive(Clone)]
pub struct LinkKey {
    tag_key: Zeroizing<[u8; 32]>,
    id: u64,
}

/// The key of one run of a sender: each start has another one, so that numbers of datagrams never
/// repeat under a key.
///
/// AES-256-GMAC, and neither HMAC-SHA-256 nor a keyed BLAKE3: on 1,400 bytes it takes a seventh of the
/// time of the one and an eighth of the other's, and at line rate that is a third of a core.
pub struct RunKey {
    run: u64,
    aead: LessSafeKey,
}

/// The keys of a link's runs, for one who receives.
#[cfg(feature = "open")]
#[derive(Debug)]
pub struct RunKeys {
    link: LinkKey,
    /// The runs of which a good datagram came last.
    recent: Vec<RunKey>,
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

impl fmt::Debug for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunKey({:016x})", self.run)
    }
}

impl LinkKey {
    /// A key from its 32 bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&derived(key, "link-id")[..8]);
        let tag_key = Zeroizing::new(derived(key, "datagram"));
        Self { tag_key, id: u64::from_le_bytes(id) }
    }

    /// The key of the run that began at this time.
    pub fn of_run(&self, run: u64) -> RunKey {
        let mut hash = Sha256::new();
        hash.update(b"penstock-diode@v1\0run\0");
        hash.update(*self.tag_key);
        hash.update(run.to_le_bytes());
        let key = Zeroizing::new(<[u8; 32]>::from(hash.finalize()));
        let unbound = UnboundKey::new(&AES_256_GCM, &*key).expect("the key is 32 bytes long");
        RunKey { run, aead: LessSafeKey::new(unbound) }
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
}

impl RunKey {
    /// The run.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// The tag of the datagram with this number. No number may be used twice.
    pub fn tag(&self, sequence: u64, message: &[u8]) -> [u8; TAG_BYTES] {
        let mut tag = [0; TAG_BYTES];
        let sealed =
            self.aead.seal_in_place_separate_tag(nonce(sequence), Aad::from(message), &mut []);
        if let Ok(made) = sealed {
            tag.copy_from_slice(made.as_ref());
        }
        tag
    }

    /// Whether a datagram with this number carries its tag; takes the same time whatever differs.
    #[cfg(feature = "open")]
    fn is_tag(&self, sequence: u64, message: &[u8], tag: &[u8]) -> bool {
        let Ok(mut tag) = <[u8; TAG_BYTES]>::try_from(tag) else { return false };
        self.aead.open_in_place(nonce(sequence), Aad::from(message), &mut tag).is_ok()
    }
}

#[cfg(feature = "open")]
impl RunKeys {
    /// The keys of a link.
    pub fn new(link: LinkKey) -> Self {
        Self { link, recent: Vec::with_capacity(RECENT_MAX) }
    }

    /// The link's id.
    pub fn id(&self) -> u64 {
        self.link.id()
    }

    /// Whether a datagram of a run carries its tag. A run's key is kept only once it was right: what
    /// is forged takes no memory.
    pub(super) fn is_tag(&mut self, run: u64, sequence: u64, message: &[u8], tag: &[u8]) -> bool {
        if let Some(known) = self.recent.iter().find(|known| known.run == run) {
            return known.is_tag(sequence, message, tag);
        }
        let key = self.link.of_run(run);
        let right = key.is_tag(sequence, message, tag);
        if right {
            self.recent.truncate(RECENT_MAX - 1);
            self.recent.insert(0, key);
        }
        right
    }
}

fn nonce(sequence: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&sequence.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Runs whose keys are kept: a sender that starts again, and what is still on the way.
#[cfg(feature = "open")]
const RECENT_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_loads_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link.key");
        let made = LinkKey::generate(&path).unwrap();
        let loaded = LinkKey::load(&path).unwrap();
        assert_eq!(made.of_run(3).tag(7, b"x"), loaded.of_run(3).tag(7, b"x"));
        assert_ne!(made.of_run(3).tag(7, b"x"), loaded.of_run(4).tag(7, b"x"));
        assert_ne!(made.of_run(3).tag(7, b"x"), loaded.of_run(3).tag(8, b"x"));
        assert_eq!(made.id(), loaded.id());
        assert!(matches!(
            LinkKey::generate(&path),
            Err(LinkKeyError::Key(KeyError::Exists { .. }))
        ));
        std::fs::write(&path, "+1".repeat(32)).unwrap();
        assert!(matches!(LinkKey::load(&path), Err(LinkKeyError::Malformed { .. })));
    }
}
