//! The sealed file that crosses the gap. `FORMAT.md` is its specification.
//!
//! ```text
//!  high                                            low
//!  Manifest + records ──seal()──> SealedBundle ~~~> file ──open()──> VerifiedBundle ──admit──> ...
//!                                                    │                    (low-side decides)
//!                                                    └──> Refusal, with a stable code
//! ```
//!
//! Only [`seal()`] makes a sealed bundle and only `open()` makes a verified one. The reading half
//! is compiled in only with the feature `open`, which the high-side binary is built without.

mod container;
mod header;
mod limits;
mod manifest;
mod name;
mod release;
mod seal;
pub(crate) mod sshsig;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "open")]
mod open;
#[cfg(feature = "open")]
mod payload;
#[cfg(feature = "open")]
mod refusal;
#[cfg(all(test, feature = "open"))]
mod tests;

use std::str::FromStr;
use std::{fmt, io};

use sha2::{Digest, Sha256};

pub use header::{Header, file_name};
pub use limits::{Limits, RECORD_BYTES_MAX};
pub use manifest::{Loss, LossReason, Manifest, SealReason, StreamCount, SuppressedCount};
pub use name::{BundleName, NAME_BYTES_MAX, NotABundleName};
#[cfg(feature = "open")]
pub use open::{
    ReleasedBy, SignedHeader, VerifiedBundle, compare, inspect, inspect_digest, open,
    open_admitted, open_sealed_in_time, reopen, verify_header,
};
#[cfg(feature = "open")]
pub use payload::RecordReader;
#[cfg(feature = "open")]
pub use refusal::Refusal;
pub use release::{
    AttachError, RELEASES_MAX, Release, ReleaseProblem, ReleaseSignature, ReleaseStatement,
    ReleasedFile, attach_release, digest_of_sealed,
};
pub use seal::{SealError, SealedBundle, seal};

/// An armored SSHSIG in its one canonical form, in this namespace; whether it fits a message is for
/// the caller to find out.
#[cfg(feature = "open")]
pub(crate) fn parse_signature(armored: &[u8], namespace: &str) -> Option<ssh_key::SshSig> {
    sshsig::parse(armored, namespace).ok()
}

/// The version of the format that is written.
pub const FORMAT_VERSION: u32 = 1;

/// The extension of a bundle's file name.
pub const FILE_EXTENSION: &str = "pstk";

/// So much of a file is in memory while it is hashed.
const HASHED_PIECE_BYTES: usize = 256 * 1024;

/// A SHA-256 value, printed as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BundleDigest([u8; 32]);

impl BundleDigest {
    /// All zeros: the predecessor of a chain's first bundle.
    pub const ZERO: Self = Self([0; 32]);

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of everything that a reader gives, and how many bytes these were; a piece of 256 KiB is
    /// in memory. `progress` is told the length of each piece.
    pub fn of_reader(
        mut reader: impl io::Read,
        mut progress: impl FnMut(u64),
    ) -> io::Result<(u64, Self)> {
        let mut hash = Sha256::new();
        let mut piece = vec![0; HASHED_PIECE_BYTES];
        let mut bytes = 0;
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return Ok((bytes, Self(hash.finalize().into()))),
                Ok(count) => {
                    hash.update(&piece[..count]);
                    bytes += count as u64;
                    progress(count as u64);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// Takes the 32 bytes of a digest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BundleDigest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str = "a digest is 64 lower-case hex digits";
        if text.len() != 64 {
            return Err(PROBLEM);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| match digit {
                b'0'..=b'9' => Ok(digit - b'0'),
                b'a'..=b'f' => Ok(digit - b'a' + 10),
                _ => Err(PROBLEM),
            };
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}
