//! What understanding a record costs: nanoseconds a record for the scan alone and with the event.
//!
//! `cargo bench -p shared --bench event`; the samples are measured where they are present.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use shared::event::{Body, PrivilegeSettings, understand};
use shared::json::Tape;

fn main() {
    let payload = "eyJOYW1lIjoid2ViIiwiU3RhY2tGaWxlQ29udGVudCI6InNlcnZpY2VzOiJ9".repeat(10);
    let activity = |action: &str| {
        let head = r#"{"id":4711,"timestamp":1795468219,"username":"alice.example","context":"production","action":""#;
        format!("<134>1 2026-11-23T16:00:00Z portainer portainer 1 activity - {head}{action}\",\"payload\":\"{payload}\"}}").into_bytes()
    };
    let auth = br#"<134>1 2026-11-23T16:00:00Z portainer portainer 1 auth - {"id":7,"timestamp":1795468219,"username":"bob","type":1,"origin":"192.0.2.7","context":2}"#;
    measure("portainer stack update", &[activity("PUT /stacks/3?endpointId=1")]);
    measure(
        "portainer docker proxy",
        &[activity("POST http://unixsocket/containers/create?name=web")],
    );
    measure("portainer user update", &[activity("PUT /users/3")]);
    measure("portainer login", &[auth.to_vec()]);
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    for (name, file) in [
        ("kubernetes audit", "k8s-audit/no-licence/minikube-v1.33-part1.audit.log"),
        ("falco", "falco/no-licence/alerts.jsonl"),
    ] {
        let Ok(bytes) = std::fs::read(samples.join(file)) else {
            println!("{name}: no samples");
            continue;
        };
        let lines: Vec<Vec<u8>> = bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        let lines: Vec<Vec<u8>> = lines.iter().step_by(lines.len() / 100).cloned().collect();
        measure(name, &lines);
    }
}

fn measure(name: &str, records: &[Vec<u8>]) {
    let settings = PrivilegeSettings::default();
    let bytes: usize = records.iter().map(Vec::len).sum();
    let mut tape = Tape::default();
    let scan = fastest(records.len(), || {
        for record in records {
            black_box(Body::of(black_box(record), &mut tape));
        }
    });
    let mut tape = Tape::default();
    let both = fastest(records.len(), || {
        for record in records {
            let body = Body::of(black_box(record), &mut tape);
            black_box(understand(&body, None, &settings));
        }
    });
    println!(
        "{name:24} {:5} bytes  scan {scan:6.0} ns  event {:6.0} ns  together {both:6.0} ns",
        bytes / records.len(),
        both - scan
    );
}

/// The fastest of many rounds: what else runs on the machine only ever adds.
fn fastest(records: usize, mut round: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    let begin = Instant::now();
    while begin.elapsed() < ROUNDS {
        let from = Instant::now();
        let mut times = 0;
        while from.elapsed() < ROUND {
            round();
            times += 1;
        }
        best = best.min(from.elapsed().as_nanos() as f64 / f64::from(times) / records as f64);
    }
    best
}

/// Shorter than the slice that the scheduler gives, so that some rounds are not interrupted.
const ROUND: Duration = Duration::from_micros(200);
const ROUNDS: Duration = Duration::from_secs(1);
