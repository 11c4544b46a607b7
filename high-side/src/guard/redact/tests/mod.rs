//! Tests of redaction as a whole.

mod evidence;
mod leaks;
mod planted;
mod properties;
mod rules;
mod samples;

use shared::event::Body;
use shared::json::Tape;
use shared::record::Stream;

use super::*;

/// What redaction makes of a record: its bytes, and the note.
struct Outcome {
    bytes: Vec<u8>,
    note: Option<Redacted>,
}

fn run(redactor: &Redactor, raw: &[u8], stream: Stream) -> Outcome {
    let mut tape = Tape::default();
    let body = Body::of(raw, &mut tape);
    let mut scratch = RedactScratch::default();
    let context = Context { stream, resource: None };
    let note = redactor.redact(&body, &context, &mut scratch);
    let bytes = if note.is_some() { scratch.out } else { raw.to_vec() };
    Outcome { bytes, note }
}

fn defaults() -> Redactor {
    Redactor::with_defaults(None).unwrap()
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
