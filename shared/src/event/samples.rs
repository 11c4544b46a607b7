//! Proof on real input, where the samples are present beside the workspace; they are not part of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::clock::Nanos;
use crate::record::Stream;

use super::{
    Body, Classified, Format, PrivilegeSettings, Problem, Unclassified, envelope, guarded_shapes,
    recognise, understand,
};
use crate::json::Tape;

const RECEIVED: Nanos = Nanos(1_795_468_219_000_000_000);

pub(super) fn samples() -> Option<PathBuf> {
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

/// What a text of several lines or one holds: events, one each.
fn count(lines: impl Iterator<Item = Vec<u8>>) -> BTreeMap<(Stream, String), usize> {
    let settings = PrivilegeSettings::default();
    let mut counts = BTreeMap::new();
    for line in lines {
        let mut tape = Tape::default();
        let event = understand(&Body::of(&line, &mut tape), None, &settings);
        let said = match event.category {
            Classified::As { category } => category.to_string(),
            Classified::Not { unclassified } => format!("none: {unclassified:?}"),
        };
        let said = match event.privileged {
            Some(privilege) => format!("{said}, {privilege:?}"),
            None => said,
        };
        if event.is_guarded() {
            let shape = guarded_shapes().find(|shape| shape.matches(&event));
            assert!(shape.is_some(), "no shape: {event:?}");
        }
        *counts.entry((event.stream, said)).or_default() += 1;
    }
    for ((stream, said), count) in &counts {
        eprintln!("{count:6} {stream} {said}");
    }
    counts
}

fn unclassified(counts: &BTreeMap<(Stream, String), usize>, stream: Stream) -> usize {
    let of = counts.iter().filter(|((at, said), _)| *at == stream && said.starts_with("none"));
    of.map(|(_, count)| count).sum()
}

/// The audit events of the samples: lines of logs, whole files, and the events of rule tests.
pub(super) fn kube_events(samples: &Path) -> Vec<Vec<u8>> {
    let folder = samples.join("k8s-audit");
    let mut all = Vec::new();
    for (part, suffix) in
        [("no-licence", ".audit.log"), ("licensed", ".log"), ("licensed", "trace-files.jsonl")]
    {
        all.extend(lines(&folder.join(part), suffix));
    }
    all.extend(lines(&folder.join("no-licence"), "eventlist-2021.jsonl"));
    for (part, name) in
        [("licensed", "crowdsec-webhook-body-0.json"), ("licensed", "single-event.json")]
    {
        all.push(std::fs::read(folder.join(part).join(name)).unwrap());
    }
    for entry in std::fs::read_dir(folder.join("no-licence")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "json") {
            all.push(std::fs::read(path).unwrap());
        }
    }
    all
}

#[test]
fn every_kube_audit_sample_has_a_category_or_says_why_not() {
    let Some(samples) = samples() else { return };
    let counts = count(kube_events(&samples).into_iter());
    assert_eq!(unclassified(&counts, Stream::KubeAudit), 0);
    let other: usize =
        counts.iter().filter(|((at, _), _)| *at == Stream::Other).map(|(_, count)| count).sum();
    // One of Falco's trace files is `{"kind": 0}`, and may be in either half of the samples.
    assert!(other <= 1, "{other}");
    let noise = count(lines(&samples.join("k8s-audit/no-licence"), "klog.log").into_iter());
    assert!(noise.keys().all(|(stream, _)| *stream == Stream::Other));
}

/// Falco's alerts of the samples: captured, from documents, re-shaped, and as plain text.
pub(super) fn falco_alerts(samples: &Path) -> Vec<Vec<u8>> {
    let mut all = lines(&samples.join("falco/no-licence"), "alerts.jsonl");
    all.extend(lines(&samples.join("falco/no-licence"), "edited-by-author.jsonl"));
    for line in lines(&samples.join("falco/licensed"), "from-docs.jsonl") {
        let value: Value = serde_json::from_slice(&line).unwrap();
        all.push(value["alert_raw"].as_str().unwrap().as_bytes().to_vec());
    }
    all
}

#[test]
fn every_falco_sample_has_a_category_or_says_why_not() {
    let Some(samples) = samples() else { return };
    let counts = count(falco_alerts(&samples).into_iter());
    assert!(counts.keys().all(|(stream, _)| *stream == Stream::Falco));
    assert_eq!(unclassified(&counts, Stream::Falco), 0);
    let counts = count(lines(&samples.join("falco/licensed"), "plain-text.txt").into_iter());
    // Three of the lines in the documents are cut in the middle of a sentence, and are alerts still.
    assert!(counts.keys().all(|(stream, _)| *stream == Stream::Falco));
    let mut noise = 0;
    for line in lines(&samples.join("falco/no-licence/streams"), ".log") {
        let mut tape = Tape::default();
        let body = Body::of(&line, &mut tape);
        let event = understand(&body, Some(Stream::Falco), &PrivilegeSettings::default());
        // One of the captures begins with a byte order mark.
        let bare = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&line);
        let alert = bare.starts_with(b"{") && bare.trim_ascii_end().ends_with(b"}");
        assert_eq!(event.stream == Stream::Falco, alert, "{}", String::from_utf8_lossy(&line));
        let why = Classified::Not { unclassified: Unclassified::OtherStream };
        noise += usize::from(event.category == why);
    }
    eprintln!("{noise} lines of start-up noise");
}

#[test]
fn portainer_samples_are_understood() {
    let Some(samples) = samples() else { return };
    let folder = samples.join("portainer");
    let cases =
        std::fs::read_to_string(folder.join("be-2021-2023-request-to-log-cases.jsonl")).unwrap();
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let Some(action) = case["logged"]["action"].as_str() else { continue };
        let context = case["logged"]["context"].as_str().unwrap_or("Portainer");
        let record = serde_json::json!({
            "id": 1, "timestamp": 1_700_000_000, "username": "a", "context": context, "action": action,
            "payload": null,
        });
        let raw = record.to_string();
        let mut tape = Tape::default();
        let body = Body::of(raw.as_bytes(), &mut tape);
        let event = understand(&body, None, &PrivilegeSettings::default());
        assert_eq!(event.stream, Stream::PortainerActivity);
        eprintln!("{action}: {} {:?}", event.action, event.category);
        assert_eq!(event.category.category().is_some(), action != "POST /");
    }
    let rows =
        std::fs::read_to_string(folder.join("activity-log-rows-from-vendor-screenshots.csv"))
            .unwrap();
    for row in rows.lines().skip(1) {
        let fields: Vec<&str> = row.split(',').collect();
        let record = serde_json::json!({
            "Time": fields[0], "Username": fields[1], "Environment": fields[2], "Action": fields[3],
        });
        let raw = format!("<134>1 - portainer portainer - - - {record}");
        let mut tape = Tape::default();
        let event =
            understand(&Body::of(raw.as_bytes(), &mut tape), None, &PrivilegeSettings::default());
        assert_eq!(event.stream, Stream::PortainerActivity);
        eprintln!("{}: {} {:?}", fields[3], event.action, event.category);
        assert!(event.category.category().is_some(), "{row}");
    }
}
