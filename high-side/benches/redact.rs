//! Measures redaction with the shipped rules: nanoseconds a record, with and without the scan.
//!
//! `cargo bench -p high-side --bench redact`; the samples are measured where they lie beside the
//! workspace.

use std::path::Path;
use std::time::{Duration, Instant};

use high_side::guard::redact::{Context, RedactScratch, Redactor};
use shared::event::{Body, recognise};
use shared::json::Tape;

/// Long enough that the clock and a busy neighbour matter little.
const RUN: Duration = Duration::from_millis(700);

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let redactor = Redactor::with_defaults(None).map_err(|all| format!("{all:?}"))?;
    println!(
        "{:<26} {:>8} {:>7} {:>8} {:>9} {:>9}",
        "records", "number", "bytes", "touched", "scan ns", "redact ns"
    );
    measure("portainer, 800 bytes", &[portainer(false)], &redactor);
    measure("portainer, base64 payload", &[portainer(true)], &redactor);
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    for folder in ["k8s-audit/no-licence", "falco/no-licence"] {
        let folder = samples.join(folder);
        if folder.is_dir() {
            measure(
                &folder.parent().map_or_else(String::new, |at| {
                    at.file_name().unwrap_or_default().to_string_lossy().into_owned()
                }),
                &lines(&folder)?,
                &redactor,
            );
        }
    }
    Ok(())
}

fn measure(name: &str, records: &[Vec<u8>], redactor: &Redactor) {
    let mut scratch = RedactScratch::default();
    let mut tape = Tape::default();
    let mut touched = 0;
    let (mut scanning, mut redacting, mut rounds) = (Duration::ZERO, Duration::ZERO, 0_u32);
    // Many records are done between two looks at the clock, each 64 times: a look costs 30 ns.
    let begun = Instant::now();
    while begun.elapsed() < RUN {
        for record in records {
            let before = Instant::now();
            for _ in 0..REPEATS {
                std::hint::black_box(Body::of(std::hint::black_box(record), &mut tape));
            }
            scanning += before.elapsed();
            let body = Body::of(record, &mut tape);
            let context = Context { stream: recognise(record), resource: None };
            let before = Instant::now();
            for _ in 0..REPEATS {
                let redacted = redactor.redact(std::hint::black_box(&body), &context, &mut scratch);
                touched += usize::from(std::hint::black_box(redacted).is_some());
            }
            redacting += before.elapsed();
        }
        rounds += 1;
    }
    let all = rounds as usize * records.len() * REPEATS;
    println!(
        "{name:<26} {:>8} {:>7} {:>8} {:>9} {:>9}",
        records.len(),
        records.iter().map(Vec::len).sum::<usize>() / records.len().max(1),
        touched / (rounds as usize * REPEATS).max(1),
        scanning.as_nanos() as usize / all,
        redacting.as_nanos() as usize / all,
    );
}

fn lines(folder: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            let bytes = std::fs::read(path)?;
            out.extend(
                bytes
                    .split(|&byte| byte == b'\n')
                    .filter(|line| line.starts_with(b"{"))
                    .map(<[u8]>::to_vec),
            );
        }
    }
    Ok(out)
}

/// An activity as Portainer's envelope has it, about 800 bytes long.
fn portainer(payload: bool) -> Vec<u8> {
    let payload = if payload {
        // {"Name":"web","StackFileContent":"version: \"3\"\nservices:\n  web:\n    image: nginx:1.29\n","Env":[{"name":"TZ","value":"utc"}],"FromAppTemplate":false}
        "\"eyJOYW1lIjoid2ViIiwiU3RhY2tGaWxlQ29udGVudCI6InZlcnNpb246IFwiM1wiXG5zZXJ2aWNlczpcbiAgd2ViOlxuICAgIGltYWdlOiBuZ2lueDoxLjI5XG4iLCJFbnYiOlt7Im5hbWUiOiJUWiIsInZhbHVlIjoidXRjIn1dLCJGcm9tQXBwVGVtcGxhdGUiOmZhbHNlfQ==\""
    } else {
        "null"
    };
    let mut record = format!(
        "<134>1 2026-11-23T16:00:00Z portainer portainer 1 activity - {{\"id\":4711,\"timestamp\":1795468219,\"username\":\"alice@example.org\",\"context\":\"production\",\"action\":\"PUT /stacks/17?endpointId=3\",\"payload\":{payload},\"UserID\":42,\"AuthenticationMethod\":\"LDAP\",\"SourceIP\":\"192.0.2.17\",\"ResourceType\":\"stack\",\"ResourceID\":\"17\",\"Result\":\"success\",\"Environment\":\"production\",\"Namespace\":\"default\",\"RequestID\":\"5f3c2a9e-7d1b-4c55-9b1f-0a2f6f3f8c11\",\"Labels\":{{\"team\":\"payments\",\"region\":\"eu-central\",\"tier\":\"backend\",\"owner\":\"platform\"}},\"Before\":{{\"replicas\":2,\"image\":\"registry.example.org/web:1.28\"}},\"After\":{{\"replicas\":3,\"image\":\"registry.example.org/web:1.29\"}},\"Notes\":\""
    );
    while record.len() < 797 {
        record.push('x');
    }
    record.push_str("\"}");
    record.into_bytes()
}

const REPEATS: usize = 64;
