//! The canonical tar around header, signature and payload (FORMAT.md section 2).
//!
//! A member's 512-byte header has exactly one form for its name and size. A reader regenerates it
//! and compares all 512 bytes: there is nothing to interpret, and so nothing to get wrong.

use super::limits::TAR_MEMBER_BYTES_MAX;

pub(super) const BLOCK: u64 = 512;

/// The members, in their order.
pub(super) const HEADER_NAME: &str = "header";
pub(super) const SIGNATURE_NAME: &str = "header.sig";
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

/// The bytes a member's content takes, padded to whole blocks.
pub(super) const fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK) * BLOCK
}

/// Where everything lies in a bundle, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the unit belongs to each name")]
pub(super) struct Layout {
    pub header_bytes: u64,
    pub signature_bytes: u64,
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
    pub(super) const fn payload_member(self) -> u64 {
        self.signature_start() + padded(self.signature_bytes)
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
