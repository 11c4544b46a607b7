//! Proof on real input, where the samples are present beside the workspace; they are not part of it.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::clock::Nanos;
use crate::record::Stream;

use super::{Format, Problem, envelope, recognise};

const RECEIVED: Nanos = Nanos(1_795_468_219_000_000_000);

fn samples() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: no samples at {}", path.display());
    None
}

fn odd_lines(samples: &Path) -> Vec<(Value, Vec<u8>)> {
    let text = std::fs::read_to_string(samples.join("syslog/odd-lines.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let raw = BASE64_STANDARD.decode(line["b64"].as_str().unwrap()).unwrap();
            (line, raw)
        })
        .collect()
}

#[test]
fn verdicts_agree_with_those_of_go_syslog() {
    let Some(samples) = samples() else { return };
    let (mut agreed, mut all) = (0, 0);
    for (line, raw) in odd_lines(&samples) {
        let Some(valid) = line["expect"]["source_test_says_valid"].as_bool() else {
            continue;
        };
        let view = envelope(&raw, RECEIVED);
        let wanted = if line["kind"] == "rfc5424" { Format::Rfc5424 } else { Format::Rfc3164 };
        let ours = view.format == wanted && view.problems.is_empty();
        all += 1;
        agreed += usize::from(ours == valid);
        if ours != valid {
            eprintln!("{valid} there: {:?}\n  {view:?}", String::from_utf8_lossy(&raw));
        }
    }
    eprintln!("agreed on {agreed} of {all}");
    assert_eq!(agreed, all);
}

#[test]
fn every_odd_message_has_an_envelope_with_its_message_in_place() {
    let Some(samples) = samples() else { return };
    for (_, raw) in odd_lines(&samples) {
        let view = envelope(&raw, RECEIVED);
        assert_eq!(view.message_range.end, raw.len());
        assert_eq!(view.message, String::from_utf8_lossy(&raw[view.message_range.clone()]));
        serde_json::to_string(&view).unwrap();
        if view.format == Format::None {
            let told = [Problem::PriorityMissing, Problem::PriorityMalformed];
            assert!(told.iter().any(|problem| view.problems.contains(problem)), "{view:?}");
        }
    }
}

/// Every line of every file below a folder.
fn lines(folder: &Path, suffix: &str) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().ends_with(suffix) {
            let bytes = std::fs::read(&path).unwrap();
            out.extend(bytes.split(|&b| b == b'\n').filter(|l| !l.is_empty()).map(<[u8]>::to_vec));
        }
    }
    out
}

#[test]
fn kube_audit_is_recognised_and_what_is_none_is_not() {
    let Some(samples) = samples() else { return };
    for line in lines(&samples.join("k8s-audit/no-licence"), ".audit.log") {
        let wanted = if line.starts_with(b"{") { Stream::KubeAudit } else { Stream::Other };
        assert_eq!(recognise(&line), wanted, "{}", String::from_utf8_lossy(&line));
    }
    for line in lines(&samples.join("k8s-audit/no-licence"), "klog.log") {
        assert_eq!(recognise(&line), Stream::Other);
    }
}

#[test]
fn falco_alerts_are_recognised_also_inside_syslog() {
    let Some(samples) = samples() else { return };
    let path = samples.join("falco/no-licence/alerts.jsonl");
    let alerts = std::fs::read_to_string(path).unwrap();
    let mut seen = 0;
    for line in alerts.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        let alert = value.get("alert_raw").and_then(Value::as_str).unwrap_or(line);
        assert_eq!(recognise(alert.as_bytes()), Stream::Falco, "{alert}");
        let syslog = format!("<13>Nov 23 16:05:39 vm falco: {alert}");
        assert_eq!(recognise(syslog.as_bytes()), Stream::Falco);
        seen += 1;
    }
    assert!(seen > 1000);
}
