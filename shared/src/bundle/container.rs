//! The canonical tar around header, signature and payload (FORMAT.md section 2).
//!
//! A member's 512-byte header has exactly one form for its name and size. A reader regenerates it
//! and compares all 512 bytes: there is nothing to interpret, and so nothing to get wrong.

use super::limits::TAR_MEMBER_BYTES_MAX;

pub(super) const BLOCK: u64 = 512;

/// The members, in their order.
pub(super) const HEADER_NAME: &str = "header";
pub(super) const SIGNATURE_NAME: &str = "header.sig";
pub(super) const RELEASE_NAME: &str = "release";
pub(super) const RELEASES_NAME: &str = "release.sig";
pub(super) const PAYLOAD_NAME: &str = "payload.age";

/// Two blocks of zeros end the file.
pub(super) const TRAILER_BYTES: u64 = 2 * BLOCK;

/// The one header that a member of this name and size can have.
pub(super) fn member_header(name: &str, size: u64) -> [u8; BLOCK as usize] {
    debug_assert!(size <= TAR_MEMBER_BYTES_MAX, "the size fits eleven octal digits");
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    *header.as_bytes()
}

/// The size that a canonical member header of this name gives: the only thing that is free in it.
/// `None` for every other block.
pub(super) fn member_size(block: &[u8], name: &str) -> Option<u64> {
    // ustar: size is eleven octal digits at offset 124.
    let digits = block.get(124..135)?;
    if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
        return None;
    }
    let size = digits.iter().fold(0_u64, |size, digit| size * 8 + u64::from(digit - b'0'));
    (*block == member_header(name, size)).then_some(size)
}

/// The bytes a member's content takes, padded to whole blocks.
pub(super) const fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK) * BLOCK
}

/// Where everything lies in a bundle, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the unit belongs to each name")]
pub(super) struct Layout {
    pub header_bytes: u64,
    pub signature_bytes: u64,
    /// Zero where there is no release.
    pub release_bytes: u64,
    /// Zero where there is no release.
    pub releases_bytes: u64,
    pub payload_bytes: u64,
}

impl Layout {
    pub(super) const fn header_start() -> u64 {
        BLOCK
    }
    pub(super) const fn signature_member(self) -> u64 {
        BLOCK + padded(self.header_bytes)
    }
    pub(super) const fn signature_start(self) -> u64 {
        self.signature_member() + BLOCK
    }
    /// Behind the signature: where a release begins if there is one, and else the payload.
    pub(super) const fn behind_signature(self) -> u64 {
        self.signature_start() + padded(self.signature_bytes)
    }
    #[cfg(feature = "open")]
    pub(super) const fn release_start(self) -> u64 {
        self.behind_signature() + BLOCK
    }
    #[cfg(feature = "open")]
    pub(super) const fn releases_member(self) -> u64 {
        self.release_start() + padded(self.release_bytes)
    }
    #[cfg(feature = "open")]
    pub(super) const fn releases_start(self) -> u64 {
        self.releases_member() + BLOCK
    }
    pub(super) const fn payload_member(self) -> u64 {
        if self.release_bytes == 0 {
            return self.behind_signature();
        }
        self.behind_signature()
            + 2 * BLOCK
            + padded(self.release_bytes)
            + padded(self.releases_bytes)
    }
    pub(super) const fn payload_start(self) -> u64 {
        self.payload_member() + BLOCK
    }
    #[cfg(feature = "open")]
    pub(super) const fn payload_end(self) -> u64 {
        self.payload_start() + self.payload_bytes
    }
    pub(super) const fn file_bytes(self) -> u64 {
        self.payload_start() + padded(self.payload_bytes) + TRAILER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tar_crate_reads_a_member_header_as_we_mean_it() {
        let bytes = member_header(PAYLOAD_NAME, TAR_MEMBER_BYTES_MAX);
        let header = tar::Header::from_byte_slice(&bytes);
        assert_eq!(header.size().unwrap(), TAR_MEMBER_BYTES_MAX);
        assert_eq!(header.path().unwrap().to_str(), Some(PAYLOAD_NAME));
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
    }
}
