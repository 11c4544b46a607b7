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
    let Ok((record, used)) = record::parse(bytes, 1 << 16) else {
        return;
    };
    let subject = record.tls_subject.map(Token::decode);
    let (listener, peer) = (record.listener.decode(), record.peer.decode());
    // A writer cuts these; a reader takes longer ones.
    let longest = [
        listener.len(),
        peer.len(),
        subject.as_ref().map_or(0, String::len),
    ];
    if longest
        .iter()
        .any(|length| *length > record::SOURCE_BYTES_MAX)
    {
        return;
    }
    let source = SourceTag::new(&listener, &peer, subject.as_deref());
    let mut again = Vec::new();
    let (sequence, received) = (record.sequence, record.received);
    record::encode(
        &mut again,
        sequence,
        received,
        record.stream,
        &source,
        record.cut_from,
        record.raw,
    );
    assert_eq!(again, bytes[..used]);
}
