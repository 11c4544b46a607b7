//! The name of a bundle's file in the store, and in an archive.

use std::fmt;
use std::str::FromStr;

use shared::bundle::{BundleDigest, FILE_EXTENSION};
use shared::record::Epoch;

use super::ChainName;

/// `ORIGIN-EPOCH-LANE-NUMBER-DIGEST.pstk`: what the header says, so that no two bundles have one name, and
/// none has the name that its file came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreName {
    /// Its chain.
    pub chain: ChainName,
    /// Its number.
    pub number: u64,
    /// The first 16 hex digits of its digest.
    digest: String,
}

impl StoreName {
    /// The name of a bundle.
    pub fn new(chain: &ChainName, number: u64, digest: &BundleDigest) -> Self {
        let mut digest = digest.to_string();
        digest.truncate(DIGITS);
        Self { chain: chain.clone(), number, digest }
    }

    /// The first 16 hex digits of its digest.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl FromStr for StoreName {
    type Err = NoStoreName;

    fn from_str(text: &str) -> Result<Self, NoStoreName> {
        let parse = || {
            let stem = text.strip_suffix(FILE_EXTENSION)?.strip_suffix('.')?;
            // From the right: an origin may hold hyphens.
            let mut parts = stem.rsplitn(5, '-');
            let digest = parts.next()?.to_owned();
            let number = parts.next()?.parse().ok()?;
            let lane = parts.next()?.parse().ok()?;
            let epoch = Epoch(parts.next()?.parse().ok()?);
            let origin = parts.next()?.parse().ok()?;
            let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if digest.len() != DIGITS || !digest.bytes().all(hex) {
                return None;
            }
            let name = Self { chain: ChainName { origin, epoch, lane }, number, digest };
            // What parses prints to the same bytes: no sign, no other number of zeros.
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or(NoStoreName)
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain: ChainName { origin, epoch, lane }, number, digest } = self;
        write!(f, "{origin}-{epoch}-{lane}-{number:010}-{digest}.{FILE_EXTENSION}")
    }
}

/// A text that is no name of a file in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not ORIGIN-EPOCH-LANE-NUMBER-DIGEST.{FILE_EXTENSION}")]
pub struct NoStoreName;

const DIGITS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_as_it_was() {
        let text = "plant-7-3-flash-0000000012-0123456789abcdef.pstk";
        let name: StoreName = text.parse().unwrap();
        assert_eq!(
            (name.chain.epoch, name.number, name.digest()),
            (Epoch(3), 12, "0123456789abcdef")
        );
        assert_eq!(name.to_string(), text);
        for wrong in [
            "",
            "plant-7-03-flash-0000000012-0123456789abcdef.pstk",
            "plant-7-3-flash-12-0123456789abcdef.pstk",
            "plant-7-3-flash-0000000012-0123456789abcde.pstk",
            "plant-7-3-flash-0000000012-0123456789ABCDEF.pstk",
            "plant-7-3-flash-0000000012-0123456789abcdef",
            "../a-3-flash-0000000012-0123456789abcdef.pstk",
        ] {
            assert_eq!(wrong.parse::<StoreName>(), Err(NoStoreName), "{wrong}");
        }
    }
}
