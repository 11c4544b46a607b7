//! The writing half: frames as bytes.

use super::{CODED_BYTES, HEADER_BYTES, KIND_HELLO, KIND_PIECE, MAGIC, PIECE_BYTES_MAX, StreamKey};
use crate::bundle::{BundleDigest, BundleName};

/// What a piece belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceOf {
    /// SHA-256 of the whole file.
    pub bundle: BundleDigest,
    /// Its name.
    pub name: BundleName,
    /// The file's length.
    pub total: u64,
    /// Where in the file the bytes belong.
    pub offset: u64,
}

/// Appends a hello: it names the link, so that the two ends of a wrongly plugged one can say so.
pub fn hello(key: &StreamKey, to: &mut Vec<u8>) {
    let header = Header { kind: KIND_HELLO, ..Header::default() };
    frame(key, &header, &[], &[], to);
}

/// Appends a piece of a bundle: at most [`PIECE_BYTES_MAX`] bytes.
///
/// # Panics
/// When there are more bytes, which is a fault of the caller.
pub fn piece(key: &StreamKey, of: &PieceOf, bytes: &[u8], to: &mut Vec<u8>) {
    assert!(bytes.len() <= PIECE_BYTES_MAX, "a piece is cut before it is framed");
    let name = of.name.to_string();
    let header = Header {
        kind: KIND_PIECE,
        total: of.total,
        offset: of.offset,
        bundle: *of.bundle.as_bytes(),
    };
    frame(key, &header, name.as_bytes(), bytes, to);
}

#[derive(Default)]
struct Header {
    kind: u8,
    total: u64,
    offset: u64,
    bundle: [u8; 32],
}

fn frame(key: &StreamKey, header: &Header, name: &[u8], bytes: &[u8], to: &mut Vec<u8>) {
    let start = to.len();
    let body_bytes = name.len() + bytes.len() + super::CODE_BYTES;
    to.reserve(HEADER_BYTES + body_bytes);
    to.extend_from_slice(&MAGIC);
    to.extend_from_slice(key.link());
    // The longest name has 83 bytes.
    to.extend_from_slice(&[header.kind, name.len() as u8, 0, 0]);
    to.extend_from_slice(&(body_bytes as u32).to_le_bytes());
    to.extend_from_slice(&header.total.to_le_bytes());
    to.extend_from_slice(&header.offset.to_le_bytes());
    to.extend_from_slice(&header.bundle);
    let code = key.code([&to[start..start + CODED_BYTES], &[]]);
    to.extend_from_slice(&code);
    to.extend_from_slice(name);
    to.extend_from_slice(bytes);
    let (header, body) = to[start..].split_at(HEADER_BYTES);
    let code = key.code([header, body]);
    to.extend_from_slice(&code);
}
