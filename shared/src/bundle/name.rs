//! The name of a bundle's file, taken apart. It is a help for people and for the order of things;
//! what a bundle is stands in its signed header.

use std::fmt;
use std::str::FromStr;

use super::FILE_EXTENSION;
use crate::record::{Lane, OriginId};

/// What the name of a bundle's file says. Printed, it is that name again, byte for byte: whatever
/// parses here holds nothing that a file system or a terminal could take amiss.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleName {
    /// Urgent bundles come first where names are sorted.
    pub lane: Lane,
    /// The origin.
    pub origin: OriginId,
    /// The bundle's number in its lane.
    pub number: u64,
    /// The first 16 digits of its header's digest.
    digest: String,
}

impl BundleName {
    /// The first 16 hex digits of the digest of its header.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// The longest name: an origin of 32 bytes, the longer lane, 20 digits, 16 digits, the extension.
pub const NAME_BYTES_MAX: usize =
    32 + 1 + 7 + 1 + 20 + 1 + DIGEST_DIGITS + 1 + FILE_EXTENSION.len();

const DIGEST_DIGITS: usize = 16;

impl FromStr for BundleName {
    type Err = NotABundleName;

    fn from_str(text: &str) -> Result<Self, NotABundleName> {
        let parse = || {
            if text.len() > NAME_BYTES_MAX {
                return None;
            }
            let stem = text.strip_suffix(FILE_EXTENSION)?.strip_suffix('.')?;
            // From the right: an origin may hold hyphens.
            let mut fields = stem.rsplitn(4, '-');
            let (digest, number) = (fields.next()?, fields.next()?);
            let (lane, origin) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if digest.len() != DIGEST_DIGITS || !digest.bytes().all(hex) {
                return None;
            }
            let number = number.parse().ok()?;
            let name = Self { lane, origin, number, digest: digest.to_owned() };
            // What parses prints to the same bytes: no sign, no other number of zeros.
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or(NotABundleName)
    }
}

impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lane, origin, number, digest } = self;
        write!(f, "{origin}-{lane}-{number:010}-{digest}.{FILE_EXTENSION}")
    }
}

/// A text that is no name of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the name of a bundle: ORIGIN-LANE-NUMBER-DIGEST.{FILE_EXTENSION}")]
pub struct NotABundleName;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{BundleDigest, file_name};

    #[test]
    fn a_name_comes_back_as_it_was() {
        let origin: OriginId = "plant-7".parse().unwrap();
        for number in [1, 9_999_999_999, u64::MAX] {
            let text = file_name(&origin, Lane::Flash, number, &BundleDigest::of(b"x"));
            let name: BundleName = text.parse().unwrap();
            assert_eq!((name.number, name.lane, &name.origin), (number, Lane::Flash, &origin));
            assert_eq!(name.to_string(), text);
            assert!(text.len() <= NAME_BYTES_MAX);
        }
    }

    #[test]
    fn what_is_not_exactly_a_name_is_refused() {
        for text in [
            "",
            "plant-7-flash-0000000001-0123456789abcdef",
            "plant-7-flash-1-0123456789abcdef.pstk",
            "plant-7-flash-+000000001-0123456789abcdef.pstk",
            "plant-7-flash-0000000001-0123456789ABCDEF.pstk",
            "plant-7-flash-0000000001-0123456789abcde.pstk",
            "plant-7-express-0000000001-0123456789abcdef.pstk",
            "../x-flash-0000000001-0123456789abcdef.pstk",
            "plant-7-flash-0000000001-0123456789abcdef.pstk\n",
            "plant-7-flash-00000000001-0123456789abcdef.pstk",
        ] {
            assert_eq!(text.parse::<BundleName>(), Err(NotABundleName), "{text:?}");
        }
    }
}
