//! The key that both ends of a link share. It keeps strangers from spending the receiver's memory
//! and disk; what a bundle is worth is decided by its signature alone.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::CODE_BYTES;

/// The key of one link.
#[derive(Clone)]
pub struct StreamKey {
    code_key: Zeroizing<[u8; 32]>,
    link: [u8; 8],
}

impl std::fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamKey({})", self.name())
    }
}

impl StreamKey {
    /// Takes the 32 secret bytes of a link.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        let name = blake3::derive_key("Penstock 2026-11 stream link name", secret);
        let mut link = [0; 8];
        link.copy_from_slice(&name[..8]);
        let code_key = Zeroizing::new(blake3::derive_key("Penstock 2026-11 stream code", secret));
        Self { code_key, link }
    }

    /// Reads a key file: 64 hex digits, as `openssl rand -hex 32` writes them.
    pub fn load(path: &Path) -> Result<Self, StreamKeyError> {
        let text = std::fs::read(path)
            .map(Zeroizing::new)
            .map_err(|source| StreamKeyError::Read { path: path.to_owned(), source })?;
        let digest = std::str::from_utf8(text.trim_ascii())
            .ok()
            .and_then(|text| text.parse::<crate::bundle::BundleDigest>().ok());
        match digest {
            Some(secret) => Ok(Self::from_secret(secret.as_bytes())),
            None => Err(StreamKeyError::NotAKey { path: path.to_owned() }),
        }
    }

    /// The name of the link: the same on both sides exactly if the key is.
    pub fn name(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.link))
    }

    pub(super) fn link(&self) -> &[u8; 8] {
        &self.link
    }

    pub(super) fn code(&self, parts: [&[u8]; 2]) -> [u8; CODE_BYTES] {
        let mut hash = blake3::Hasher::new_keyed(&self.code_key);
        for part in parts {
            hash.update(part);
        }
        let mut code = [0; CODE_BYTES];
        code.copy_from_slice(&hash.finalize().as_bytes()[..CODE_BYTES]);
        code
    }

    /// Compares in a time that does not tell how much was right.
    #[cfg(feature = "open")]
    pub(super) fn holds(&self, parts: [&[u8]; 2], code: &[u8]) -> bool {
        let right = self.code(parts);
        let differ = right.iter().zip(code).fold(0, |differ, (a, b)| differ | (a ^ b));
        std::hint::black_box(differ) == 0 && code.len() == CODE_BYTES
    }
}

/// Why a link's key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamKeyError {
    /// It holds something else.
    #[error(
        "{path} is no link key: 64 lower-case hex digits\n  try: openssl rand -hex 32 > {path}"
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// It can't be read.
    #[error(
        "can't read the link key {path}: {source}\n  try: openssl rand -hex 32 > {path}; the other side needs the same file"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
