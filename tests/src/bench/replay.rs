//! Records a second out of admitted bundles into the file sink.

use std::time::{Duration, Instant};

use super::ingest::MIB;
use super::table::{Row, Sample, Table};
use super::{Options, note};
use crate::agents::{Pair, Site};
use crate::chain::BundleChain;
use crate::sandbox::Sandbox;
use crate::wait::wait_until;

/// Imports bundles while the agent stands still, then starts it and waits for the sink.
pub(super) fn run(options: &Options, table: &mut Table) {
    let mut row = Row::new("replay", "penstock-low into the file sink", "records/s");
    "opened again, parsed, written as NDJSON, synced".clone_into(&mut row.note);
    for round in 1..=options.rounds {
        let sample = measure(options.replay_records);
        note(round, &mut row, sample);
    }
    table.rows.push(row);
}

fn measure(records: u64) -> Sample {
    let sandbox = Sandbox::new("bench-replay");
    let pair = Pair::new(&sandbox, "bench");
    pair.low.configure(&file_sink(&pair.low));
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
    wait_until(REPLAY_DEADLINE, "every record in the sink", || delivered(&pair.low) >= records);
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
