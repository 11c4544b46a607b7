//! Keys: who may sign, who may read.
//!
//! The high side holds its signing key and the *public* keys of those who may read; the low side
//! holds its decryption key and the *public* keys of those it believes. All files are in formats
//! that stock tools read: OpenSSH private keys, `allowed_signers` and revoked public keys for
//! `ssh-keygen -Y verify`, age identities for `age -d`.
//!
//! ```text
//! high KEYS/signing.key         OpenSSH private key, Ed25519, mode 0600
//! high KEYS/recipients/*.pub    public halves of low sides, or escrow keys
//! low  KEYS/identity*.key       age identities, mode 0600
//! low  KEYS/allowed_signers     who may sign for which origin, from when to when
//! low  KEYS/revoked_keys        public keys that are believed no more
//! low  KEYS/receipt.key          OpenSSH private key, Ed25519, mode 0600: receipts and custody
//! high KEYS/low_signers          whose receipts are believed, as allowed_signers
//! high KEYS/officers/*.pub      public halves of officers, who let bundles leave
//! ```

mod allowed;
mod hybrid;
mod identities;
mod officer;
mod public;
mod recipients;
#[cfg(feature = "open")]
mod release_policy;
mod secret;
mod signing;
mod statement;
#[cfg(feature = "open")]
mod trust;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use age::secrecy::{ExposeSecret, SecretString};
pub use allowed::Validity;
pub use identities::{Identities, generate_identity};
pub use officer::{
    OFFICER_IDENTITY_FILE, OFFICER_PUBLIC_FILE, OFFICER_SIGNING_FILE, OFFICERS_DIR, OfficerHalf,
    OfficerKey, Officers, RELEASE_NAMESPACE, summary_commitment,
};
pub use public::{PublicHalf, PublicKey, Side};
pub(crate) use recipients::RECIPIENTS_MAX;
pub use recipients::Recipients;
#[cfg(feature = "open")]
pub use release_policy::{ReleaseDemand, ReleasePolicy, ReleaseRule};
pub use secret::{credentials_dir, load_secret, secret_path};
use secret::{load_public, store_new_secret};
pub use signing::{SigningKey, generate_signing_key};
pub use statement::{
    LOW_SIGNERS_FILE, RECEIPT_KEY_FILE, SignedBy, StatementKind, StatementProblem,
    StatementSignature, StatementSigners, receipt_key, split_signed,
};
#[cfg(feature = "open")]
pub use trust::{OfficerState, SignerProblem, Trust, TrustedOfficer};

/// The SSHSIG namespace of a bundle's signature: a signature made for anything else is worthless here.
pub const BUNDLE_NAMESPACE: &str = "penstock-bundle@v1";

/// The file name of the high side's signing key.
pub const SIGNING_KEY_FILE: &str = "signing.key";
/// The folder with the public halves that bundles are encrypted to.
pub const RECIPIENTS_DIR: &str = "recipients";
/// The file name of the low side's decryption key.
pub const IDENTITY_FILE: &str = "identity.key";
/// The low side's list of trusted signers.
pub const ALLOWED_SIGNERS_FILE: &str = "allowed_signers";
/// The low side's list of revoked keys.
pub const REVOKED_KEYS_FILE: &str = "revoked_keys";

/// No key file is larger: a hybrid identity or an OpenSSH key has well under 4 KiB.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// What is wrong with a key or a key file. No variant carries key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A secret that others could read or replace.
    #[error("{path}: {problem}\n  try: chown to the agent's user and chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Who could reach it, and how.
        problem: &'static str,
    },
    /// The file is no key of the expected kind.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line where that helps.
        problem: String,
    },
    /// A key is there already and is never overwritten.
    #[error(
        "{path} exists already; a key is never overwritten\n  try: move it away first, if it is really no longer needed"
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is nobody to encrypt to.
    #[error("{dir} holds no recipient\n  try: penstock-high pair LOW.pub")]
    NoRecipient {
        /// The folder that should hold public halves.
        dir: PathBuf,
    },
}

impl KeyError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), problem: problem.into() }
    }
}

fn read_capped(file: File, path: &Path) -> Result<String, KeyError> {
    let mut text = String::with_capacity(4096);
    file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(KeyError::io(path))?;
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(KeyError::malformed(path, "is too long for a key file"));
    }
    Ok(text)
}
