//! Parsers: whatever they take, they encode to the same bytes.

use shared::bundle::fuzzing;
use shared::record::{self, SourceTag, Token};

/// A plaintext header.
pub fn header(bytes: &[u8]) {
    if let Some(again) = fuzzing::header(bytes) {
        assert_eq!(again.as_bytes(), bytes);
    }
}

/// A manifest.
pub fn manifest(bytes: &[u8]) {
    if let Some(again) = fuzzing::manifest(bytes) {
        assert_eq!(again.as_bytes(), bytes);
    }
}

/// A record.
pub fn record(bytes: &[u8]) {
    let Ok((entry, used)) = record::parse_entry(bytes, 1 << 16) else {
        return;
    };
    let mut again = Vec::new();
    entry.encode(&mut again);
    assert_eq!(again, bytes[..used]);
}
