//! Proof on real input, where the samples are present beside the workspace; they are not part of it.

use std::path::{Path, PathBuf};

use super::*;

fn samples() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    path.is_dir().then_some(path)
}

fn lines(folder: &Path) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            out.extend(bytes.split(|&b| b == b'\n').filter(|l| !l.is_empty()).map(<[u8]>::to_vec));
        }
    }
    out
}

#[test]
fn real_records_are_touched_only_where_they_hold_secrets() {
    let Some(samples) = samples() else { return };
    let redactor = defaults();
    let mut over = Vec::new();
    for (folder, stream, touched_max) in [
        ("k8s-audit/no-licence", Stream::KubeAudit, K8S_TOUCHED_MAX),
        ("k8s-audit/licensed", Stream::KubeAudit, K8S_LICENSED_TOUCHED_MAX),
        ("falco/no-licence", Stream::Falco, FALCO_TOUCHED_MAX),
        ("falco/no-licence/streams", Stream::Falco, FALCO_STREAMS_TOUCHED_MAX),
        ("falco/licensed", Stream::Falco, 0),
    ] {
        let lines = lines(&samples.join(folder));
        let mut notes = std::collections::BTreeMap::<String, usize>::new();
        let mut touched = 0;
        for line in &lines {
            let out = run(&redactor, line, stream);
            let Some(note) = out.note else { continue };
            touched += 1;
            *notes.entry(note.note.into()).or_default() += 1;
            if std::env::var_os("REDACT_SHOW").is_some() {
                let at = line.iter().zip(&out.bytes).position(|(a, b)| a != b).unwrap_or(0);
                let from = at.saturating_sub(60);
                eprintln!(
                    "< {}\n> {}",
                    show(&line[from..line.len().min(at + 60)]),
                    show(&out.bytes[from..out.bytes.len().min(at + 60)])
                );
            }
            assert_eq!(
                serde_json::from_slice::<serde_json::Value>(line).is_ok(),
                serde_json::from_slice::<serde_json::Value>(&out.bytes).is_ok()
            );
            assert_eq!(run(&redactor, &out.bytes, stream).note, None);
        }
        eprintln!("{folder}: {touched} of {} records: {notes:#?}", lines.len());
        if touched > touched_max {
            over.push(format!("{folder}: {touched}"));
        }
    }
    assert!(over.is_empty(), "{over:?}");
}

/// Each was read: the bodies of `Secret` and `ConfigMap`, and nothing else.
const K8S_TOUCHED_MAX: usize = 19;
/// The same `ConfigMap`, six times.
const K8S_LICENSED_TOUCHED_MAX: usize = 6;
/// Alerts about searches for secrets hold none themselves.
const FALCO_TOUCHED_MAX: usize = 0;
const FALCO_STREAMS_TOUCHED_MAX: usize = 0;
