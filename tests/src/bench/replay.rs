//! Records a second out of admitted bundles into the file sink, and into bulk endpoints that take
//! everything: what rendering and sending cost, whatever a cluster behind them would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::ingest::MIB;
use super::table::{Row, Sample, Table};
use super::{Options, note};
use crate::agents::{Pair, Site};
use crate::chain::BundleChain;
use crate::peers::{HttpServer, Reply};
use crate::sandbox::Sandbox;
use crate::wait::wait_until;

/// Imports bundles while the agent stands still, then starts it and waits for the sink.
pub(super) fn run(options: &Options, table: &mut Table) {
    let into = |name: &str, note: &str| {
        let mut row = Row::new("replay", format!("penstock-low into {name}"), "records/s");
        note.clone_into(&mut row.note);
        row
    };
    let mut file = into("the file sink", "opened again, parsed, written as NDJSON, synced");
    let mut bulk = into("_bulk", "the same, ECS documents in bulks of 5 MiB over loopback");
    let mut loki = into("Loki", "the same, pushes of 1 MiB over loopback");
    for round in 1..=options.rounds {
        let records = options.replay_records;
        note(round, &mut file, measure(records, &file_sink, &delivered));
        let taken = Arc::new(AtomicU64::new(0));
        let server = endpoint(Arc::clone(&taken));
        let sink = |kind: &str| {
            format!("[[sink]]\nname = \"siem\"\ntype = \"{kind}\"\nurl = \"{}\"\n", server.url())
        };
        let arrived = |_: &Site| taken.load(Ordering::Relaxed);
        note(round, &mut bulk, measure(records, &|_| sink("elasticsearch"), &arrived));
        taken.store(0, Ordering::Relaxed);
        note(round, &mut loki, measure(records, &|_| sink("loki"), &arrived));
    }
    table.rows.extend([file, bulk, loki]);
}

/// A server that answers every bulk and every push as if it had taken it, and counts records.
fn endpoint(taken: Arc<AtomicU64>) -> HttpServer {
    HttpServer::start(move |asked| {
        if asked.path.starts_with("/loki/") {
            // The id of a record stands in its line once, escaped.
            let count = memchr::memmem::find_iter(&asked.body, b"\"{\\\"id\\\":").count();
            taken.fetch_add(count as u64, Ordering::Relaxed);
            return Reply::status(204, "");
        }
        let count = memchr::memchr_iter(b'\n', &asked.body).count() / 2;
        taken.fetch_add(count as u64, Ordering::Relaxed);
        let items = vec!["{\"create\":{\"status\":201}}"; count].join(",");
        Reply::status(200, format!("{{\"errors\":false,\"items\":[{items}]}}"))
    })
}

fn measure(records: u64, sink: &dyn Fn(&Site) -> String, arrived: &dyn Fn(&Site) -> u64) -> Sample {
    let sandbox = Sandbox::new("bench-replay");
    let pair = Pair::new(&sandbox, "bench");
    pair.low.configure(&sink(&pair.low));
    let media = sandbox.dir("media");
    let mut chain = BundleChain::new(&pair.high, "bench");
    let mut left = records;
    while left > 0 {
        let share = left.min(BUNDLE_RECORDS);
        let encoded = chain.records(share);
        chain.seal(&media, &encoded);
        left -= share;
    }
    pair.low.run(["import", &media.display().to_string()]).success();
    let started = Instant::now();
    let agent = pair.low.start();
    wait_until(REPLAY_DEADLINE, "every record in the sink", || arrived(&pair.low) >= records);
    let seconds = started.elapsed().as_secs_f64();
    let cost = agent.cost();
    Sample {
        figure: records as f64 / seconds,
        cpu_per_million: Some(cost.cpu_secs * 1e6 / records as f64),
        memory_mib: Some(cost.memory_bytes_max as f64 / MIB),
        disk_per_record: None,
    }
}

/// The section of a file sink named `archive`.
pub(super) fn file_sink(low: &Site) -> String {
    let path = low.dir().join("archive");
    format!(
        "[[sink]]\nname = \"archive\"\ntype = \"file\"\npath = {:?}\n",
        path.display().to_string()
    )
}

/// How many records the sinks of a low side have taken.
pub(super) fn delivered(low: &Site) -> u64 {
    let status = low.status();
    let sinks = status["sinks"].as_array().into_iter().flatten();
    sinks.filter_map(|sink| sink["delivered"].as_u64()).sum()
}

const BUNDLE_RECORDS: u64 = 200_000;
pub(super) const REPLAY_DEADLINE: Duration = Duration::from_mins(10);
