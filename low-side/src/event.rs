//! A record as the JSON event that sinks deliver.
//!
//! The rendering is deterministic and its fields stand in one order: the file sink compares it,
//! byte by byte, with what a killed process has left in the file.

use std::cell::RefCell;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use shared::clock::Nanos;
use shared::event::{Body, Envelope, Event, PrivilegeSettings, envelope, understand};
use shared::json::Tape;
use shared::record::{Epoch, RecordId, RecordRef, Token};

use crate::ledger::ChainName;

thread_local! {
    // Each sink has a thread of its own; the memory is used again for each record.
    static TAPE: RefCell<Tape> = RefCell::default();
}

/// A record, and what it was understood to say: what every sink renders from.
#[derive(Debug)]
pub struct View<'a> {
    /// Its identity, wherever it goes.
    pub id: RecordId,
    /// Its chain: origin, epoch and lane.
    pub chain: &'a ChainName,
    /// The record, with the bytes that are evidence.
    pub record: &'a RecordRef<'a>,
    /// Its syslog header.
    pub envelope: Envelope<'a>,
    /// What it says.
    pub event: Event<'a>,
}

impl View<'_> {
    /// When it happened: as the source says, else as its header says, else when it was received.
    pub fn time(&self) -> Nanos {
        let said = self.event.time.or(self.envelope.time);
        said.unwrap_or(self.record.received)
    }

    /// The record's bytes as text, where they are UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.record.raw).ok()
    }
}

/// Understands a record and hands it on.
pub fn with_view<T>(
    chain: &ChainName,
    record: &RecordRef<'_>,
    take: impl FnOnce(&View<'_>) -> T,
) -> T {
    TAPE.with_borrow_mut(|tape| {
        let body = Body::of(record.raw, tape);
        take(&View {
            id: RecordId::new(&chain.origin, chain.epoch, chain.lane, record.sequence),
            chain,
            record,
            envelope: envelope(record.raw, record.received),
            event: understand(&body, Some(record.stream), &PrivilegeSettings::default()),
        })
    })
}

/// Appends the event of a record: one JSON object, without a line end.
pub fn render(out: &mut Vec<u8>, chain: &ChainName, record: &RecordRef<'_>) {
    with_view(chain, record, |view| render_view(out, view));
}

/// The same, of a record that was understood before.
pub fn render_view(out: &mut Vec<u8>, view: &View<'_>) {
    let View { id, chain, record, envelope, event } = view;
    let _ = write!(
        out,
        "{PREFIX}{id}{ORIGIN}{}{EPOCH}{}{LANE}{}\",\"sequence\":{},\"stream\":\"{}\",\"received\":\"{}\",\"listener\":",
        chain.origin, chain.epoch, chain.lane, record.sequence, record.stream, record.received
    );
    json(out, &record.listener.decode());
    out.extend_from_slice(b",\"peer\":");
    json(out, &record.peer.decode());
    if let Some(subject) = record.tls_subject.map(Token::decode) {
        out.extend_from_slice(b",\"tls-subject\":");
        json(out, &subject);
    }
    if let Some(tag) = record.tag.map(Token::decode) {
        out.extend_from_slice(b",\"tag\":");
        json(out, &tag);
    }
    if record.recovered {
        out.extend_from_slice(b",\"recovered\":true");
    }
    if let Some(note) = record.redacted.map(Token::decode) {
        out.extend_from_slice(b",\"redacted\":");
        json(out, &note);
    }
    if let Some(cut_from) = record.cut_from {
        let _ = write!(out, ",\"cut-from\":{cut_from}");
    }
    out.extend_from_slice(b",\"envelope\":");
    json(out, envelope);
    out.extend_from_slice(b",\"event\":");
    json(out, event);
    if let Some(text) = view.text() {
        out.extend_from_slice(b",\"raw\":");
        json(out, text);
    } else {
        out.extend_from_slice(b",\"raw-base64\":\"");
        let start = out.len();
        let length = base64::encoded_len(record.raw.len(), true).unwrap_or(0);
        out.resize(start + length, 0);
        // The slice has exactly the length that the encoder asks for.
        let _ = BASE64.encode_slice(record.raw, &mut out[start..]);
        out.push(b'"');
    }
    out.push(b'}');
}

/// The chain that a rendered event belongs to, from its first bytes.
pub fn chain_of(line: &[u8]) -> Option<ChainName> {
    let line = &line[..line.len().min(CHAIN_BYTES_MAX)];
    // A cut inside a later character does not matter here.
    let start = match std::str::from_utf8(line) {
        Ok(start) => start,
        Err(err) => std::str::from_utf8(&line[..err.valid_up_to()]).ok()?,
    };
    let (_, rest) = start.strip_prefix(PREFIX)?.split_once(ORIGIN)?;
    let (origin, rest) = rest.split_once(EPOCH)?;
    let (epoch, rest) = rest.split_once(LANE)?;
    let (lane_name, _) = rest.split_once('"')?;
    Some(ChainName {
        origin: origin.parse().ok()?,
        epoch: Epoch(epoch.parse().ok()?),
        lane: lane_name.parse().ok()?,
    })
}

const PREFIX: &str = "{\"id\":\"";
const ORIGIN: &str = "\",\"origin\":\"";
const EPOCH: &str = "\",\"epoch\":";
const LANE: &str = ",\"lane\":\"";
/// More than the fields up to the lane can take.
pub const CHAIN_BYTES_MAX: usize = 256;

fn json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Strings and plain structs into memory: there is nothing that could fail.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use shared::record::{Lane, Sequence, SourceTag, Stream, encode, parse};

    use super::*;

    fn rendered(raw: &[u8]) -> serde_json::Value {
        let chain =
            ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(3), lane: Lane::Flash };
        let source = SourceTag::new("udp 1", "10.0.0.1:99", Some("CN=\"x\""));
        let mut bytes = Vec::new();
        let cut = Some(raw.len() as u64 + 5);
        encode(
            &mut bytes,
            Sequence(7),
            Nanos(1_795_468_219_000_000_001),
            Stream::Other,
            &source,
            cut,
            raw,
        );
        let mut out = Vec::new();
        render(&mut out, &chain, &parse(&bytes, 1 << 20).unwrap().0);
        assert_eq!(chain_of(&out), Some(chain));
        assert_eq!(chain_of(&out[..30]), None);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn an_event_carries_everything() {
        let event = rendered(b"<34>1 2026-11-23T21:10:19Z host app - - - it's \"so\"\n");
        assert_eq!(event["id"].as_str().unwrap().len(), 40);
        assert_eq!(event["origin"], "plant-7");
        assert_eq!(event["epoch"], 3);
        assert_eq!(event["lane"], "flash");
        assert_eq!(event["sequence"], 7);
        assert_eq!(event["stream"], "other");
        assert_eq!(event["received"], "2026-11-23T21:10:19.000000001Z");
        assert_eq!(event["listener"], "udp 1");
        assert_eq!(event["tls-subject"], "CN=\"x\"");
        assert_eq!(event["raw"], "<34>1 2026-11-23T21:10:19Z host app - - - it's \"so\"\n");
        assert_eq!(event["cut-from"], 57);
        assert!(event["envelope"].is_object());
        assert_eq!(event["event"]["unclassified"], "other-stream");
    }

    #[test]
    fn bytes_that_are_no_text_come_through() {
        let event = rendered(b"\xff\x00");
        assert_eq!(event["raw-base64"], "/wA=");
        assert!(event.get("raw").is_none());
    }
}
