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
#[cfg(feature = "open")]
mod identities;
mod officer;
mod public;
mod recipients;
#[cfg(feature = "open")]
mod release_policy;
mod signing;
mod statement;
#[cfg(feature = "open")]
mod trust;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

pub use age::secrecy::{ExposeSecret, SecretString};
pub use allowed::Validity;
#[cfg(feature = "open")]
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

/// Reads a secret from a file that nobody else can read or replace.
///
/// The file is opened without following a link, and what was opened is what is checked: a regular
/// file, owned by us or root, closed to group and others.
pub fn load_secret(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let exposed = |problem| KeyError::Exposed { path: path.to_owned(), problem };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(|source| {
            if source.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) {
                exposed("is a symbolic link")
            } else {
                KeyError::Io { path: path.to_owned(), source }
            }
        })?;
    let meta = file.metadata().map_err(KeyError::io(path))?;
    let us = nix::unistd::geteuid().as_raw();
    if !meta.is_file() {
        return Err(exposed("is no regular file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(exposed("can be read by others than its owner"));
    }
    let above = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = fs::metadata(above.unwrap_or(Path::new("."))).map_err(KeyError::io(path))?;
    // Root acts for the agent's user, to whom the folder belongs.
    let for_owner = us == 0 && meta.uid() == dir.uid();
    if meta.uid() != us && meta.uid() != 0 && !for_owner {
        return Err(exposed("belongs to another user"));
    }
    if dir.mode() & 0o002 != 0 && dir.mode() & 0o1000 == 0 {
        return Err(exposed("stands in a folder that anyone may write to"));
    }
    read_capped(file, path).map(Zeroizing::new)
}

/// Reads a small text file that holds nothing secret.
fn load_public(path: &Path) -> Result<String, KeyError> {
    read_capped(File::open(path).map_err(KeyError::io(path))?, path)
}

fn read_capped(file: File, path: &Path) -> Result<String, KeyError> {
    let mut text = String::with_capacity(4096);
    file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(KeyError::io(path))?;
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(KeyError::malformed(path, "is too long for a key file"));
    }
    Ok(text)
}

/// Writes a new secret with mode 0600; refuses to replace one.
fn store_new_secret(path: &Path, text: &str) -> Result<(), KeyError> {
    if path.symlink_metadata().is_ok() {
        return Err(KeyError::Exists { path: path.to_owned() });
    }
    crate::durable::write(path, text.as_bytes(), 0o600).map_err(KeyError::io(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_can_reach_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        store_new_secret(&path, "secret").unwrap();
        assert_eq!(load_secret(&path).unwrap().as_str(), "secret");
        assert!(matches!(store_new_secret(&path, "other"), Err(KeyError::Exists { .. })));

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(load_secret(&link).unwrap_err().to_string().contains("symbolic link"));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let message = load_secret(&path).unwrap_err().to_string();
        assert!(message.contains("can be read by others") && !message.contains("secret"));
    }

    #[cfg(feature = "open")]
    #[test]
    fn the_current_identity_comes_before_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (current, old) = (dir.path().join(IDENTITY_FILE), dir.path().join("identity-old.key"));
        generate_identity(&old, "soc-1", false).unwrap();
        let new = generate_identity(&current, "soc-1", false).unwrap();
        let halves = Identities::load_dir(dir.path()).unwrap().public_halves("soc-1", None);
        assert_eq!(halves.len(), 2);
        assert_eq!(halves[0].fingerprint(), new.fingerprint());
    }
}
