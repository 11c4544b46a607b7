//! A link over which nothing comes back: datagrams, geometry, link key, catalogue. `DIODE.md` is the
//! specification.
//!
//! ```text
//!  high                                                                     low
//!  file ─> blocks of K shards ─> R recovery shards ─> datagrams ~~~> shards ─> any K of a block ─> file
//!          (Geometry)            (BlockEncoder)       (Header, MAC)            (BlockDecoder)     whole SHA-256
//! ```
//!
//! Every datagram says all that is needed to use it: there is no first and no last one whose loss
//! matters. The reading half is behind the feature `open`.

mod catalogue;
mod datagram;
mod encode;
mod geometry;
mod link_key;
mod pass;

#[cfg(feature = "open")]
mod decode;

#[cfg(test)]
#[cfg(feature = "open")]
mod tests;

pub use catalogue::{
    CATALOGUE_NAMESPACE, CATALOGUE_VERSION, Catalogue, CatalogueEntry, CatalogueError,
    CatalogueRange, ENTRIES_MAX, RANGES_MAX,
};
#[cfg(feature = "open")]
pub use datagram::{DatagramError, Received, receive};
pub use datagram::{
    HEADER_BYTES, Kind, LinkStamp, OVERHEAD_BYTES, ShardHeader, write_catalogue, write_shard,
};
#[cfg(feature = "open")]
pub use decode::{BlockDecoder, DecodeError};
pub use encode::{BlockEncoder, EncodeError};
pub use geometry::{BLOCK_SHARDS, Geometry, GeometryError};
#[cfg(feature = "open")]
pub use link_key::RunKeys;
pub use link_key::{LinkKey, LinkKeyError, RunKey, TAG_BYTES};
pub use pass::{PassPlan, Redundancy};

use sha2::{Digest, Sha256};

use crate::bundle::BundleDigest;

/// The name of an object on the link: the first 128 bits of its file's SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub [u8; 16]);

impl ObjectId {
    /// The id of a file with this digest.
    pub fn of(sha256: &BundleDigest) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&sha256.as_bytes()[..16]);
        Self(id)
    }

    /// Whether a file with this digest is the object.
    pub fn is(self, sha256: &BundleDigest) -> bool {
        Self::of(sha256) == self
    }
}

/// 32 hex digits.
impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A purpose's own key, so that no value of one can stand for another.
fn derived(key: &[u8; 32], purpose: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"penstock-diode@v1\0");
    hash.update(purpose.as_bytes());
    hash.update([0]);
    hash.update(key);
    hash.finalize().into()
}
