//! The key that both ends of a link share. It keeps strangers from spending the receiver's memory
//! and disk; what a bundle is worth is decided by its signature alone.

use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::CODE_BYTES;
use crate::keys::{KeyError, load_secret};

/// The key of one link.
#[derive(Clone)]
pub struct StreamKey {
    mac: Hmac<Sha256>,
    link: [u8; 8],
}

impl std::fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamKey({})", self.name())
    }
}

impl StreamKey {
    /// Takes the 32 secret bytes of a link. The same file may serve a UDP diode's link: what is made
    /// of it here is of no use there.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        let mut link = [0; 8];
        link.copy_from_slice(&derived(secret, "link name")[..8]);
        // An HMAC takes keys of every length; one of a block's length needs no hashing first.
        let mut block = Zeroizing::new([0_u8; 64]);
        block[..32].copy_from_slice(&derived(secret, "code")[..]);
        Self { mac: Hmac::new((&*block).into()), link }
    }

    /// Reads a key file: 64 hex digits, which only its owner can read.
    pub fn load(path: &Path) -> Result<Self, StreamKeyError> {
        let text = load_secret(path)?;
        let secret = text.trim_ascii().parse::<crate::bundle::BundleDigest>();
        match secret {
            Ok(secret) => Ok(Self::from_secret(secret.as_bytes())),
            Err(_) => Err(StreamKeyError::Malformed { path: path.to_owned() }),
        }
    }

    /// The name of the link: the same on both sides exactly if the key is. It says nothing of the key.
    pub fn name(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.link))
    }

    pub(super) fn link(&self) -> &[u8; 8] {
        &self.link
    }

    pub(super) fn code(&self, parts: [&[u8]; 2]) -> [u8; CODE_BYTES] {
        let mut mac = self.mac.clone();
        for part in parts {
            mac.update(part);
        }
        let mut code = [0; CODE_BYTES];
        code.copy_from_slice(&mac.finalize().into_bytes()[..CODE_BYTES]);
        code
    }

    /// Compares in a time that does not tell how much was right.
    #[cfg(feature = "open")]
    pub(super) fn holds(&self, parts: [&[u8]; 2], code: &[u8]) -> bool {
        let mut mac = self.mac.clone();
        for part in parts {
            mac.update(part);
        }
        code.len() == CODE_BYTES && mac.verify_truncated_left(code).is_ok()
    }
}

fn derived(secret: &[u8; 32], purpose: &str) -> Zeroizing<[u8; 32]> {
    let hash = Sha256::new()
        .chain_update(b"penstock-stream@v1\0")
        .chain_update(purpose.as_bytes())
        .chain_update([0])
        .chain_update(secret);
    Zeroizing::new(hash.finalize().into())
}

/// Why a link's key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamKeyError {
    /// The file can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It holds something else.
    #[error(
        "{path} is no link key, which is one line of 64 hex digits in lower case\n  try: (umask 077; openssl rand -hex 32 > {path}); the other side needs the same file"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}
