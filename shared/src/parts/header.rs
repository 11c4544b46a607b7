//! The header of a part (PARTS.md section 2): 512 bytes, one form.

use std::fmt;
use std::str::FromStr;

use super::{Geometry, GeometryError, NAME_BYTES_MAX};
use crate::bundle::BundleDigest;
use crate::durable::PARTIAL_SUFFIX;

/// The length of a part's header; the content follows.
pub const PART_HEADER_BYTES: usize = 512;

/// The name of a file in parts: ASCII that every file system and appliance takes. It is shown to
/// people; nobody makes a path of one that came with a part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartName(String);

impl PartName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PartName {
    type Err = GeometryError;

    fn from_str(name: &str) -> Result<Self, GeometryError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.as_bytes()[0].is_ascii_alphanumeric()
            && name.bytes().all(allowed)
            && !name.ends_with(PARTIAL_SUFFIX);
        if fits {
            Ok(Self(name.to_owned()))
        } else {
            Err(GeometryError::Name { name: name.to_owned() })
        }
    }
}

/// What a part says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// The name of the file that it is a part of.
    pub name: PartName,
    /// That file's SHA-256.
    pub whole_sha256: BundleDigest,
    /// How the file was divided.
    pub geometry: Geometry,
    /// Which part this is, from 0; the recovery parts come after the data parts.
    pub index: u16,
    /// The SHA-256 of this part's content.
    pub content_sha256: BundleDigest,
}

impl PartHeader {
    /// The header's one encoding.
    pub fn encode(&self) -> [u8; PART_HEADER_BYTES] {
        let mut bytes = [0; PART_HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let geometry = &self.geometry;
        put(AT_MAGIC, MAGIC);
        put(AT_VERSION, &VERSION.to_le_bytes());
        put(AT_LENGTH, &(PART_HEADER_BYTES as u32).to_le_bytes());
        put(AT_WHOLE_BYTES, &geometry.whole_bytes.to_le_bytes());
        put(AT_PART_BYTES, &geometry.part_bytes.to_le_bytes());
        put(AT_DATA, &geometry.data.to_le_bytes());
        put(AT_RECOVERY, &geometry.recovery.to_le_bytes());
        put(AT_INDEX, &self.index.to_le_bytes());
        put(AT_NAME_BYTES, &(self.name.0.len() as u16).to_le_bytes());
        put(AT_WHOLE_SHA256, self.whole_sha256.as_bytes());
        put(AT_CONTENT_SHA256, self.content_sha256.as_bytes());
        put(AT_NAME, self.name.0.as_bytes());
        let own = BundleDigest::of(&bytes[..AT_OWN_SHA256]);
        bytes[AT_OWN_SHA256..].copy_from_slice(own.as_bytes());
        bytes
    }

    /// The name of this part's file.
    pub fn file_name(&self) -> String {
        part_file_name(&self.name, self.index, self.geometry.parts())
    }

    /// The version that a part's first bytes name; `None` where they begin no part.
    #[cfg_attr(not(feature = "open"), allow(dead_code, reason = "the high side only writes"))]
    pub(super) fn version(bytes: &[u8; PART_HEADER_BYTES]) -> Option<u32> {
        (bytes[..8] == *MAGIC).then(|| u32::from_le_bytes(array(bytes, AT_VERSION)))
    }

    /// Parses a header of our version; `None` where it is not one that we could have written.
    #[cfg_attr(not(feature = "open"), allow(dead_code, reason = "the high side only writes"))]
    pub(super) fn decode(bytes: &[u8; PART_HEADER_BYTES]) -> Option<Self> {
        let u16_at = |at| u16::from_le_bytes(array(bytes, at));
        let u64_at = |at| u64::from_le_bytes(array(bytes, at));
        let geometry = Geometry::claimed(
            u64_at(AT_WHOLE_BYTES),
            u16_at(AT_DATA),
            u16_at(AT_RECOVERY),
            u64_at(AT_PART_BYTES),
        )?;
        let name_bytes = usize::from(u16_at(AT_NAME_BYTES));
        let name = bytes.get(AT_NAME..AT_NAME.checked_add(name_bytes)?)?;
        let header = Self {
            name: std::str::from_utf8(name).ok()?.parse().ok()?,
            whole_sha256: BundleDigest::from_bytes(array(bytes, AT_WHOLE_SHA256)),
            geometry,
            index: u16_at(AT_INDEX),
            content_sha256: BundleDigest::from_bytes(array(bytes, AT_CONTENT_SHA256)),
        };
        // Whatever slipped past the rules above changes the encoding (PARTS.md section 2).
        (header.index < geometry.parts() && header.encode() == *bytes).then_some(header)
    }
}

fn array<const N: usize>(bytes: &[u8; PART_HEADER_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// `NAME.part-03-of-05`.
pub(super) fn part_file_name(name: &PartName, index: u16, parts: u16) -> String {
    let width = parts.to_string().len().max(2);
    format!("{name}.part-{:0width$}-of-{parts:0width$}", index + 1)
}

/// Whether a file is named as a part is: a hint for whoever looks through a folder, and no more.
pub fn is_part_name(name: &str) -> bool {
    let digits =
        |text: &str| (2..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let Some((name, numbers)) = name.rsplit_once(".part-") else { return false };
    let numbers = numbers.split_once("-of-");
    name.parse::<PartName>().is_ok()
        && numbers.is_some_and(|(index, parts)| digits(index) && digits(parts))
}

const MAGIC: &[u8; 8] = b"PSTKPART";
const VERSION: u32 = 1;
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 8;
const AT_LENGTH: usize = 12;
const AT_WHOLE_BYTES: usize = 16;
const AT_PART_BYTES: usize = 24;
const AT_DATA: usize = 32;
const AT_RECOVERY: usize = 34;
const AT_INDEX: usize = 36;
const AT_NAME_BYTES: usize = 38;
const AT_WHOLE_SHA256: usize = 40;
const AT_CONTENT_SHA256: usize = 72;
const AT_NAME: usize = 104;
const AT_OWN_SHA256: usize = 480;
