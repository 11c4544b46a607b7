//! Odd syslog messages and captures of real senders, where they lie beside the workspace.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The folder of the samples; they are not part of the workspace.
pub fn samples_dir() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples/syslog");
    path.is_dir().then_some(path)
}

/// The odd messages that have a byte or more.
pub fn odd_messages(samples: &Path) -> Vec<Vec<u8>> {
    messages_in(&samples.join("odd-lines.jsonl"))
}

/// The messages of a file of JSON lines that hold them in `b64`, except the empty ones.
pub fn messages_in(file: &Path) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(file);
    let text = text.unwrap_or_else(|err| panic!("{}: {err}", file.display()));
    let raw = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let base64 = line["b64"].as_str().expect("base64");
        STANDARD.decode(base64).expect("base64")
    };
    let messages = text.lines().map(raw);
    messages.filter(|raw| !raw.is_empty()).collect()
}

/// A capture of a real sender.
pub fn capture(samples: &Path, name: &str) -> Vec<u8> {
    let path = samples.join("captured-here").join(name);
    std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The messages of a capture that counts octets.
///
/// # Panics
/// When it does not.
pub fn counted_messages(capture: &[u8]) -> Vec<Vec<u8>> {
    let (mut messages, mut rest) = (Vec::new(), capture);
    while !rest.is_empty() {
        let space = memchr::memchr(b' ', rest).expect("a count ends with a space");
        let count = std::str::from_utf8(&rest[..space]).ok();
        let count: usize = count.and_then(|text| text.parse().ok()).expect("a count");
        let (message, after) = rest[space + 1..].split_at(count);
        messages.push(message.to_vec());
        rest = after;
    }
    messages
}

/// The raw bytes of an event of the file sink.
pub fn raw_of(event: &Value) -> Vec<u8> {
    match (event["raw"].as_str(), event["raw-base64"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(base64)) => STANDARD.decode(base64).expect("base64"),
        _ => panic!("an event has raw or raw-base64: {event}"),
    }
}
