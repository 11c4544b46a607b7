//! Durable records a second through the audit webhook: batches of 400 events, each answered once it is
//! synced.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::ingest::{MIB, SEAL_LATER};
use super::table::{Row, Sample, Table};
use super::{Options, note};
use crate::agents::Pair;
use crate::peers::web::post;
use crate::process::disk_bytes;
use crate::sandbox::{Sandbox, free_address};
use crate::seed::Seed;
use crate::wait::PATIENCE;

pub(super) fn run(options: &Options, table: &mut Table) {
    let mut rows: Vec<_> = SENDERS
        .map(|senders| {
            let subject = format!("penstock-high, webhook, {senders} senders, 1,100 B");
            let mut row = Row::new("webhook", subject, "records/s");
            "batches of 400, each answered after its commit".clone_into(&mut row.note);
            (senders, row)
        })
        .into();
    for round in 1..=options.rounds {
        for (senders, row) in &mut rows {
            let sample = measure(*senders, options.messages / EVENTS_PER_BATCH);
            note(round, row, sample);
        }
    }
    table.rows.extend(rows.into_iter().map(|(_, row)| row));
}

fn measure(senders: u64, batches: u64) -> Sample {
    let sandbox = Sandbox::new("bench-webhook");
    let pair = Pair::new(&sandbox, "bench");
    let address = free_address();
    pair.high.configure(&format!(
        "[[listener]]\nname = \"bench\"\nprotocol = \"kube-webhook\"\nbind = \"{address}\"\n{SEAL_LATER}"
    ));
    let agent = pair.high.start();
    let before = agent.cost();
    // Made before, so that the senders cost little.
    let bodies: Vec<Vec<u8>> = (0..BODIES).map(body).collect();
    let (begun, next) = (Instant::now(), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..senders {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= batches {
                        return;
                    }
                    let body = &bodies[(at % BODIES) as usize];
                    let answer = post(address, "/", body, PATIENCE).expect("the agent answers");
                    assert_eq!(answer.status, 200, "{}", answer.head);
                }
            });
        }
    });
    let (seconds, cost) = (begun.elapsed().as_secs_f64(), agent.cost());
    let records = (batches * EVENTS_PER_BATCH) as f64;
    Sample {
        figure: records / seconds,
        cpu_per_million: Some((cost.cpu_secs - before.cpu_secs) / records * 1e6),
        memory_mib: Some(cost.memory_bytes_max as f64 / MIB),
        disk_per_record: Some(disk_bytes(&pair.high.state_dir()) as f64 / records),
    }
}

/// A batch of events of about 1,100 bytes, the median of real ones, half of them chance.
fn body(at: u64) -> Vec<u8> {
    let mut chance = Seed::new(at + 1);
    let events: Vec<String> = (0..EVENTS_PER_BATCH)
        .map(|item| {
            let mut noise = String::new();
            for _ in 0..34 {
                let _ = write!(noise, "{:016x}", chance.next_u64());
            }
            format!(
                "{{\"level\":\"Metadata\",\"auditID\":\"{at:08}-{item:08}\",\"stage\":\"ResponseComplete\",\
                 \"requestURI\":\"/api/v1/namespaces/shop/pods/web-{item}\",\"verb\":\"get\",\"user\":{{\"username\":\
                 \"system:serviceaccount:shop:web\",\"groups\":[\"system:serviceaccounts\",\"system:authenticated\"]}},\
                 \"sourceIPs\":[\"10.0.0.{}\"],\"userAgent\":\"web/v1.0 (linux/amd64)\",\"objectRef\":{{\"resource\":\"pods\",\
                 \"namespace\":\"shop\",\"name\":\"web-{item}\",\"apiVersion\":\"v1\"}},\"responseStatus\":{{\"metadata\":{{}},\
                 \"code\":200}},\"annotations\":{{\"x\":\"{noise}\"}}}}",
                item % 250
            )
        })
        .collect();
    let list = events.join(",");
    format!("{{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"items\":[{list}]}}")
        .into_bytes()
}

const SENDERS: [u64; 2] = [1, 4];
const EVENTS_PER_BATCH: u64 = 400;
/// Bodies larger together than any window of a compressor.
const BODIES: u64 = 64;
