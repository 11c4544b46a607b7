//! The catalogue: what the sender has, signed, every few seconds (DIODE.md section 5).
//!
//! Each page stands for itself in one datagram, with the ranges of all lanes and some of the bundles,
//! so that no lost page makes another one worthless.

#[cfg(feature = "open")]
use ssh_key::HashAlg;

use super::datagram::lane_byte;
#[cfg(feature = "open")]
use super::datagram::lane_of;
use crate::bundle::BundleDigest;
use crate::clock::Nanos;
use crate::keys::SigningKey;
#[cfg(feature = "open")]
use crate::keys::{SignerProblem, Trust};
use crate::record::{Lane, OriginId};

/// The SSHSIG namespace of a page's signature.
pub const CATALOGUE_NAMESPACE: &str = "penstock-catalogue@v1";
/// The version of a page.
pub const CATALOGUE_VERSION: u8 = 1;
/// The most ranges of a page: two lanes of eight epochs.
pub const RANGES_MAX: usize = 16;
/// The most bundles of a page; a datagram of 9,000 bytes has room for fewer.
pub const ENTRIES_MAX: usize = 255;

/// A page of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    /// Who sends.
    pub origin: OriginId,
    /// Rises with every page, over restarts too.
    pub number: u64,
    /// When it was made, by the sender's clock.
    pub time: Nanos,
    /// After how long the next page follows, in milliseconds.
    pub interval_ms: u32,
    /// What there is, by lane and epoch.
    pub ranges: Vec<CatalogueRange>,
    /// Some bundles: the newest, and a part of the others in turn.
    pub entries: Vec<CatalogueEntry>,
}

/// The bundles of one lane of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogueRange {
    /// The lane.
    pub lane: Lane,
    /// The epoch.
    pub epoch: u64,
    /// The lowest number that the sender still has.
    pub first: u64,
    /// The highest number that was sealed for this link.
    pub last: u64,
    /// The lowest number that will still be sent without being asked for; `last + 1` where there is none.
    pub oldest_sending: u64,
}

/// One bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// Its lane.
    pub lane: Lane,
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub number: u64,
    /// Its file's length.
    pub bytes: u64,
    /// Its file's SHA-256.
    pub sha256: BundleDigest,
    /// The beginning of its header's SHA-256, which is in its name.
    pub name_digest: [u8; 8],
    /// Passes that were sent.
    pub passes: u16,
    /// Passes that will be sent.
    pub passes_of: u16,
}

/// Why a page is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// It can't be signed.
    #[error("the catalogue can't be signed: {0}")]
    Sign(String),
    /// It is no page of this version.
    #[error("is no catalogue page: {0}")]
    Malformed(&'static str),
    /// Its signature does not fit.
    #[error("is not signed by a key that is trusted for its origin")]
    Unauthentic,
}

/// The length of a range in a page.
const RANGE_BYTES: usize = 33;
/// The length of a bundle in a page.
const ENTRY_BYTES: usize = 69;
/// The longest armored signature, in bytes; an Ed25519 one has about 320.
const SIGNATURE_BYTES: usize = 340;

impl Catalogue {
    /// How many bundles fit into a page of so many bytes beside so many ranges.
    pub fn entries_that_fit(payload_bytes: usize, origin: &OriginId, ranges: usize) -> usize {
        let fixed = 2 + 1 + 1 + origin.as_str().len() + 8 + 8 + 4 + 2 + SIGNATURE_BYTES;
        let room = payload_bytes.saturating_sub(fixed + ranges * RANGE_BYTES);
        (room / ENTRY_BYTES).min(ENTRIES_MAX)
    }

    /// The page with its signature, as a datagram carries it.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, CatalogueError> {
        let body = self.encode();
        let signature = key
            .sign_for(CATALOGUE_NAMESPACE, &body)
            .map_err(|err| CatalogueError::Sign(err.to_string()))?;
        let mut page = Vec::with_capacity(body.len() + 2 + signature.len());
        page.extend_from_slice(&(body.len() as u16).to_le_bytes());
        page.extend_from_slice(&body);
        page.extend_from_slice(signature.as_bytes());
        Ok(page)
    }

    fn encode(&self) -> Vec<u8> {
        let origin = self.origin.as_str().as_bytes();
        let mut out = vec![CATALOGUE_VERSION, origin.len() as u8];
        out.extend_from_slice(origin);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.time.0.to_le_bytes());
        out.extend_from_slice(&self.interval_ms.to_le_bytes());
        let ranges = &self.ranges[..self.ranges.len().min(RANGES_MAX)];
        let entries = &self.entries[..self.entries.len().min(ENTRIES_MAX)];
        out.extend_from_slice(&[ranges.len() as u8, entries.len() as u8]);
        for range in ranges {
            out.push(lane_byte(range.lane));
            for number in [range.epoch, range.first, range.last, range.oldest_sending] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        for entry in entries {
            out.push(lane_byte(entry.lane));
            for number in [entry.epoch, entry.number, entry.bytes] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(entry.sha256.as_bytes());
            out.extend_from_slice(&entry.name_digest);
            out.extend_from_slice(&entry.passes.to_le_bytes());
            out.extend_from_slice(&entry.passes_of.to_le_bytes());
        }
        out
    }

    /// Takes a page apart, after its signature was found good: by a key that is trusted for the
    /// origin it names, in the namespace of catalogues.
    #[cfg(feature = "open")]
    pub fn verify(page: &[u8], trust: &Trust, now: Nanos) -> Result<Self, CatalogueError> {
        let malformed = CatalogueError::Malformed;
        let (length, rest) = page.split_first_chunk::<2>().ok_or(malformed("has no length"))?;
        let length = usize::from(u16::from_le_bytes(*length));
        let (body, armored) =
            rest.split_at_checked(length).ok_or(malformed("is shorter than it says"))?;
        if armored.len() > SIGNATURE_BYTES {
            return Err(malformed("has too long a signature"));
        }
        // Who claims to have signed is all that is read before the signature.
        let (&version, named) = body.split_first().ok_or(malformed("is empty"))?;
        if version != CATALOGUE_VERSION {
            return Err(malformed("is of another version"));
        }
        let (&length, named) = named.split_first().ok_or(malformed("has no origin"))?;
        let origin =
            named.get(..usize::from(length)).and_then(|name| std::str::from_utf8(name).ok());
        let origin: OriginId =
            origin.and_then(|name| name.parse().ok()).ok_or(malformed("has no origin"))?;
        let signature = crate::bundle::parse_signature(armored, CATALOGUE_NAMESPACE)
            .ok_or(malformed("has no signature for catalogues"))?;
        let fingerprint = signature.public_key().fingerprint(HashAlg::Sha256).to_string();
        let key = trust
            .signer(&origin, &fingerprint, now)
            .map_err(|_: SignerProblem| CatalogueError::Unauthentic)?;
        key.verify(CATALOGUE_NAMESPACE, body, &signature)
            .map_err(|_| CatalogueError::Unauthentic)?;
        Self::decode(body, origin)
    }

    #[cfg(feature = "open")]
    fn decode(body: &[u8], origin: OriginId) -> Result<Self, CatalogueError> {
        const SHORT: CatalogueError = CatalogueError::Malformed("ends too early");
        let mut rest = body.get(2 + origin.as_str().len()..).ok_or(SHORT)?;
        let number = u64::from_le_bytes(take(&mut rest)?);
        let time = Nanos(i64::from_le_bytes(take(&mut rest)?));
        let interval_ms = u32::from_le_bytes(take(&mut rest)?);
        let [range_count, entry_count] = take(&mut rest)?;
        if usize::from(range_count) > RANGES_MAX {
            return Err(CatalogueError::Malformed("has too many ranges"));
        }
        let lane =
            |[byte]: [u8; 1]| lane_of(byte).ok_or(CatalogueError::Malformed("has an unknown lane"));
        let mut ranges = Vec::with_capacity(usize::from(range_count));
        for _ in 0..range_count {
            let range = CatalogueRange {
                lane: lane(take(&mut rest)?)?,
                epoch: u64::from_le_bytes(take(&mut rest)?),
                first: u64::from_le_bytes(take(&mut rest)?),
                last: u64::from_le_bytes(take(&mut rest)?),
                oldest_sending: u64::from_le_bytes(take(&mut rest)?),
            };
            if range.first == 0 || range.first > range.last || range.last == u64::MAX {
                return Err(CatalogueError::Malformed("has a range that is none"));
            }
            ranges.push(range);
        }
        let mut entries = Vec::with_capacity(usize::from(entry_count));
        for _ in 0..entry_count {
            entries.push(CatalogueEntry {
                lane: lane(take(&mut rest)?)?,
                epoch: u64::from_le_bytes(take(&mut rest)?),
                number: u64::from_le_bytes(take(&mut rest)?),
                bytes: u64::from_le_bytes(take(&mut rest)?),
                sha256: BundleDigest::from_bytes(take(&mut rest)?),
                name_digest: take(&mut rest)?,
                passes: u16::from_le_bytes(take(&mut rest)?),
                passes_of: u16::from_le_bytes(take(&mut rest)?),
            });
        }
        if !rest.is_empty() {
            return Err(CatalogueError::Malformed("goes on behind its end"));
        }
        Ok(Self { origin, number, time, interval_ms, ranges, entries })
    }
}

#[cfg(feature = "open")]
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CatalogueError> {
    let (head, tail) =
        rest.split_first_chunk::<N>().ok_or(CatalogueError::Malformed("ends too early"))?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
#[cfg(feature = "open")]
mod tests {
    use super::*;
    use crate::keys::{Validity, generate_signing_key};
    use crate::record::Epoch;

    fn page() -> Catalogue {
        Catalogue {
            origin: "plant-7".parse().unwrap(),
            number: 9,
            time: Nanos(77),
            interval_ms: 2000,
            ranges: vec![CatalogueRange {
                lane: Lane::Flash,
                epoch: Epoch(1).0,
                first: 3,
                last: 12,
                oldest_sending: 10,
            }],
            entries: vec![CatalogueEntry {
                lane: Lane::Routine,
                epoch: 1,
                number: 4,
                bytes: 20_480,
                sha256: BundleDigest::of(b"x"),
                name_digest: [1; 8],
                passes: 1,
                passes_of: 3,
            }],
        }
    }

    #[test]
    fn a_page_is_believed_by_its_signature_alone() {
        let dir = tempfile::tempdir().unwrap();
        let key = generate_signing_key(&dir.path().join("signing.key")).unwrap();
        let other = generate_signing_key(&dir.path().join("other.key")).unwrap();
        Trust::add(dir.path(), &key.public_half("plant-7"), Validity::default()).unwrap();
        let trust = Trust::load_dir(dir.path()).unwrap();
        let signed = page().sign(&key).unwrap();
        assert_eq!(Catalogue::verify(&signed, &trust, Nanos(1)).unwrap(), page());
        let by_other = page().sign(&other).unwrap();
        assert_eq!(
            Catalogue::verify(&by_other, &trust, Nanos(1)),
            Err(CatalogueError::Unauthentic)
        );
        for at in 0..signed.len() {
            let mut bad = signed.clone();
            bad[at] ^= 1;
            assert!(Catalogue::verify(&bad, &trust, Nanos(1)).is_err(), "{at}");
            assert!(Catalogue::verify(&signed[..at], &trust, Nanos(1)).is_err(), "{at}");
        }
        let room = Catalogue::entries_that_fit(1368, &page().origin, 1);
        let full = Catalogue { entries: vec![page().entries[0]; room], ..page() };
        assert!(room >= 10 && full.sign(&key).unwrap().len() <= 1368);
    }
}
