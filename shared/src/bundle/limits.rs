//! What a reader is willing to take, and why.

/// The longest header, in bytes: 15 recipients fit.
pub(super) const HEADER_BYTES_MAX: u64 = 4 * 1024;
/// The longest signature, in bytes: an Ed25519 SSHSIG has about 310.
pub(super) const SIGNATURE_BYTES_MAX: u64 = 1024;
/// The longest release statement, in bytes; one has 164.
#[cfg(feature = "open")]
pub(super) const RELEASE_BYTES_MAX: u64 = 1024;
/// The longest signatures of a release, in bytes: eight of about 310 fit.
#[cfg(feature = "open")]
pub(super) const RELEASES_BYTES_MAX: u64 = 4 * 1024;
/// The longest age header, in bytes; a hybrid stanza has about 1.6 KiB.
#[cfg(feature = "open")]
pub(super) const AGE_HEADER_BYTES_MAX: usize = 32 * 1024;
/// Recipients and one grease stanza.
#[cfg(feature = "open")]
pub(super) const AGE_STANZAS_MAX: usize = 16;
/// The longest manifest, in bytes: about 10,000 declared losses.
pub(super) const MANIFEST_BYTES_MAX: usize = 1024 * 1024;
/// The largest zstd window, as a power of two: 8 MiB, what `zstd -d` takes by default.
pub(super) const WINDOW_LOG_MAX: u32 = 23;
/// What eleven octal digits in a tar header can say, in bytes.
pub(super) const TAR_MEMBER_BYTES_MAX: u64 = (1 << 33) - 1;

/// The limits that a site may set. Reaching one refuses the bundle with `limit-exceeded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest file, in bytes. A high side seals at 256 MiB by default.
    pub file_bytes_max: u64,
    /// The most that the payload may unpack to, in bytes.
    pub plain_bytes_max: u64,
    /// The largest record, in bytes. A listener keeps at most this much of a message.
    pub record_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes_max: 4 << 30,
            plain_bytes_max: 32 << 30,
            record_bytes_max: RECORD_BYTES_MAX,
        }
    }
}

/// The largest record that any configuration allows, in bytes: memory for one is always there.
pub const RECORD_BYTES_MAX: u64 = 16 << 20;
