//! What holds for every mapping, whatever is mapped.

use proptest::prelude::*;
use serde_json::Value;

use super::samples::{every, viewed};
use super::*;

type Render = fn(&mut Vec<u8>, &View<'_>);

const JSON: [(&str, Render); 1] = [("ecs", ecs::render)];
const LINES: [(&str, Render); 2] = [("cef", cef::render), ("leef", leef::render)];

fn check(raw: &[u8], stream: shared::record::Stream) {
    viewed(raw, stream, |view| {
        for (name, render) in JSON {
            let mut out = Vec::new();
            render(&mut out, view);
            let parsed: Result<Value, _> = serde_json::from_slice(&out);
            assert!(parsed.is_ok_and(|value| value.is_object()), "{name}: {out:?}");
            assert!(!out.contains(&b'\n') && !out.contains(&b'\r'), "{name}");
            let mut again = Vec::new();
            render(&mut again, view);
            assert_eq!(out, again);
        }
        for (name, render) in LINES {
            let mut out = Vec::new();
            render(&mut out, view);
            let line = std::str::from_utf8(&out).unwrap();
            assert!(!line.contains(text::breaks_line), "{name}: {line}");
        }
    });
}

#[test]
fn every_sample_is_one_well_formed_text_in_every_schema() {
    let all = every();
    for (raw, stream) in &all {
        check(raw, *stream);
    }
    eprintln!("{} samples", all.len());
}

proptest! {
    #[test]
    fn any_bytes_are_one_well_formed_text(raw in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..5) {
        check(&raw, shared::record::Stream::ALL[at]);
    }

    #[test]
    fn any_text_in_a_field_is_one_well_formed_text(texts in prop::collection::vec(".{0,80}", 6)) {
        let raw = serde_json::json!({
            "Username": texts[0], "UserID": texts[1], "SourceIP": texts[2], "Action": texts[3],
            "ResourceType": texts[4], "ResourceID": texts[5], "Environment": texts[0],
            "EventType": texts[1], "Result": texts[2], "Before": texts[3], "Severity": texts[4],
        });
        check(raw.to_string().as_bytes(), shared::record::Stream::PortainerActivity);
    }
}
