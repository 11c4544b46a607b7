//! Bundles as a stream of bytes for which no answer comes: over TCP through a diode's proxy, or as
//! syslog messages where nothing else passes.
//!
//! ```text
//! stream  = *frame                         connections may begin and end anywhere
//! frame   = header (88 bytes) + body       numbers are little-endian
//!
//!    0  8  magic      "PSTKFRM1"; its last byte is the version
//!    8  8  link       names the link key, so that a mixed-up key is told from damage
//!   16  1  kind       1 hello, 2 piece
//!   17  1  name       length of the name
//!   18  2  zero
//!   20  4  body       length of the body: name, bytes and the body's code
//!   24  8  total      the bundle's length
//!   32  8  offset     where in the bundle the bytes belong
//!   40 32  bundle     SHA-256 of the whole file
//!   72 16  code       over bytes 0..72
//!   88     name, bytes, code over header and both (16)
//! ```
//!
//! Every frame says for itself what it is, so that none is indispensable: a reader that meets bytes
//! it can't use looks for the next frame. A header has a code of its own, so that a length is
//! believed, and memory spent, only after the key has spoken for it. A frame that comes again says
//! what is known already. What the pieces amount to is believed once the SHA-256 of the whole file
//! was compared; and the bundle is signed besides.
//!
//! Syslog carries a frame as text, see [`syslog`].

mod frame;
mod key;
#[cfg(feature = "open")]
mod ranges;
#[cfg(feature = "open")]
mod scan;
pub mod syslog;

pub use frame::{PieceOf, hello, piece};
pub use key::{StreamKey, StreamKeyError};
#[cfg(feature = "open")]
pub use ranges::Ranges;
#[cfg(feature = "open")]
pub use scan::{Datagrams, Decoder, Found, Piece, Refused};

/// Bytes of a header, its code included.
pub const HEADER_BYTES: usize = 88;
/// Bytes of a code.
pub const CODE_BYTES: usize = 16;
/// The most bytes of a bundle in one frame: large enough that frames cost nothing (0.3 %), small
/// enough that an urgent bundle waits for one of them only some milliseconds on a slow link.
pub const PIECE_BYTES_MAX: usize = 64 * 1024;
/// The longest frame.
pub const FRAME_BYTES_MAX: usize =
    HEADER_BYTES + crate::bundle::NAME_BYTES_MAX + PIECE_BYTES_MAX + CODE_BYTES;

/// How many bytes a frame takes beside the bundle's own.
pub const fn overhead(name_bytes: usize) -> usize {
    HEADER_BYTES + name_bytes + CODE_BYTES
}

const MAGIC: [u8; 8] = *b"PSTKFRM1";
const KIND_HELLO: u8 = 1;
const KIND_PIECE: u8 = 2;
/// Where the code of a header stands.
const CODED_BYTES: usize = HEADER_BYTES - CODE_BYTES;

#[cfg(test)]
mod tests;
