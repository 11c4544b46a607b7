//! A file in parts: plain pieces where a medium or an appliance takes only so much, or
//! erasure-coded ones, of which any K restore the file. `PARTS.md` is the specification.
//!
//! ```text
//! file ──Geometry──> Splitting ──write()──> NAME.part-01-of-05 ... 05-of-05
//!                                             │   (any medium, any order, some lost)
//! exact file <──rejoin()── PartSet <──add()── PartHeader::read()      feature `open`
//! ```
//!
//! A part says by itself what it belongs to. Nothing in it is trusted: the whole has the length
//! and the SHA-256 that were claimed, or it never gets a name; and what it is, is for whoever opens
//! it to find out.

mod header;
#[cfg(feature = "open")]
mod read;
#[cfg(all(test, feature = "open"))]
mod tests;
mod write;

pub use header::{PART_HEADER_BYTES, PartHeader, PartName, is_part_name};
#[cfg(feature = "open")]
pub use read::{Added, PartError, PartSet, RejoinError, Rejoined, SetId};
pub use write::{SplitError, Splitting};

/// The longest file that is taken into parts: above the greatest bundle (8 GiB of payload).
pub const WHOLE_BYTES_MAX: u64 = 16 << 30;
/// The most pieces of a plain splitting. More than that is an appliance's limit set by mistake.
pub const PIECES_MAX: u16 = 4096;
/// The most erasure-coded parts (K and R together). It bounds memory and open files.
pub const CODED_MAX: u16 = 255;
/// The longest name of a file in parts, so that with `.part-0001-of-4096.partial` behind it it is
/// still a name on every file system.
pub const NAME_BYTES_MAX: usize = 200;
/// The unit of the erasure code, in bytes: coded parts have lengths that are multiples of it.
const CODE_UNIT_BYTES: u64 = 64;
/// What the stripes of all parts may take of memory together; the coder takes twice as much again.
const STRIPES_BYTES: usize = 8 << 20;
/// The longest stripe: larger ones are no faster.
const STRIPE_BYTES_MAX: usize = 1 << 20;
const COPY_BYTES: usize = 256 * 1024;

/// How a file is divided. Two geometries that are equal give the same parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    whole_bytes: u64,
    data: u16,
    recovery: u16,
    part_bytes: u64,
}

/// Why a file can't be divided so.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// There is nothing to divide.
    #[error("an empty file has no parts")]
    Empty,
    /// The file is longer than any that is taken.
    #[error("{bytes} bytes are more than the {WHOLE_BYTES_MAX} that can be divided")]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// The parts would be too many.
    #[error(
        "that would be {parts} parts, and at most {PIECES_MAX} are allowed\n  try: larger parts"
    )]
    TooManyParts {
        /// How many.
        parts: u64,
    },
    /// A part would have no room for content.
    #[error(
        "a part of {bytes} bytes has no room for content: its header takes {PART_HEADER_BYTES}"
    )]
    PartTooSmall {
        /// The length asked for.
        bytes: u64,
    },
    /// So many coded parts are not allowed.
    #[error(
        "{data}+{recovery} parts are not allowed\n  try: at least 1+1, and at most {CODED_MAX} together"
    )]
    Counts {
        /// K.
        data: u16,
        /// R.
        recovery: u16,
    },
    /// The file's name can't stand in a part.
    #[error(
        "{name:?} can't be the name of a file in parts\n  try: at most {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
    )]
    Name {
        /// The name.
        name: String,
    },
}

impl Geometry {
    /// Plain pieces, each a file of at most `file_bytes_max` bytes with its header.
    pub fn pieces(whole_bytes: u64, file_bytes_max: u64) -> Result<Self, GeometryError> {
        let part_bytes = file_bytes_max.saturating_sub(PART_HEADER_BYTES as u64);
        if part_bytes == 0 {
            return Err(GeometryError::PartTooSmall { bytes: file_bytes_max });
        }
        expect_whole(whole_bytes)?;
        let parts = whole_bytes.div_ceil(part_bytes);
        let data = u16::try_from(parts).ok().filter(|data| *data <= PIECES_MAX);
        let data = data.ok_or(GeometryError::TooManyParts { parts })?;
        Ok(Self { whole_bytes, data, recovery: 0, part_bytes })
    }

    /// `data + recovery` parts, any `data` of which restore the file.
    pub fn coded(whole_bytes: u64, data: u16, recovery: u16) -> Result<Self, GeometryError> {
        let total = data.saturating_add(recovery);
        if data == 0 || recovery == 0 || total > CODED_MAX {
            return Err(GeometryError::Counts { data, recovery });
        }
        expect_whole(whole_bytes)?;
        let part_bytes = whole_bytes.div_ceil(u64::from(data)).next_multiple_of(CODE_UNIT_BYTES);
        Ok(Self { whole_bytes, data, recovery, part_bytes })
    }

    /// The geometry that a header claims, if it is one that we could have made.
    fn claimed(whole_bytes: u64, data: u16, recovery: u16, part_bytes: u64) -> Option<Self> {
        let made = if recovery == 0 {
            Self::pieces(whole_bytes, part_bytes.checked_add(PART_HEADER_BYTES as u64)?)
        } else {
            Self::coded(whole_bytes, data, recovery)
        };
        made.ok().filter(|made| made.data == data && made.part_bytes == part_bytes)
    }

    /// The length of the file.
    pub fn whole_bytes(&self) -> u64 {
        self.whole_bytes
    }

    /// K: how many parts restore the file.
    pub fn data(&self) -> u16 {
        self.data
    }

    /// R: how many parts may be missing.
    pub fn recovery(&self) -> u16 {
        self.recovery
    }

    /// K + R.
    pub fn parts(&self) -> u16 {
        self.data + self.recovery
    }

    /// The content of part `index` (from 0), in bytes. The last data parts may be shorter than the
    /// others, and even empty.
    pub fn content_bytes(&self, index: u16) -> u64 {
        if index >= self.data {
            return self.part_bytes;
        }
        self.whole_bytes.saturating_sub(u64::from(index) * self.part_bytes).min(self.part_bytes)
    }

    /// The length of part `index` as a file.
    pub fn file_bytes(&self, index: u16) -> u64 {
        self.content_bytes(index) + PART_HEADER_BYTES as u64
    }

    /// Where the content of data part `index` begins in the file.
    fn offset(&self, index: u16) -> u64 {
        u64::from(index) * self.part_bytes
    }

    /// How much of each part is coded at once. Any multiple of the code's unit gives the same parts.
    fn stripe_bytes(&self) -> usize {
        let share = STRIPES_BYTES / usize::from(self.parts()).next_power_of_two();
        let unit = CODE_UNIT_BYTES as usize;
        (share.min(STRIPE_BYTES_MAX) / unit).max(1) * unit
    }
}

fn expect_whole(bytes: u64) -> Result<(), GeometryError> {
    match bytes {
        0 => Err(GeometryError::Empty),
        1..=WHOLE_BYTES_MAX => Ok(()),
        _ => Err(GeometryError::TooLarge { bytes }),
    }
}
