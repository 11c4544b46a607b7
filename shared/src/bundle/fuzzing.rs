//! What the fuzz targets reach, and nobody else should. Each gives the encoding of what was parsed.

use super::header::Header;
use super::manifest::Manifest;

/// Parses a header.
pub fn header(bytes: &[u8]) -> Option<String> {
    Header::parse(bytes).ok().map(|header| header.encode())
}

/// Parses a manifest.
pub fn manifest(bytes: &[u8]) -> Option<String> {
    Manifest::parse(bytes).ok().map(|manifest| manifest.encode())
}
