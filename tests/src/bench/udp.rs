//! Loss over UDP at a fixed rate.

use std::time::Instant;

use super::ingest::{MIB, SEAL_LATER};
use super::table::{Row, Sample, Table};
use super::{Options, note};
use crate::agents::Pair;
use crate::load::{Plan, Target, send};
use crate::sandbox::{Sandbox, free_address};
use crate::wait::{PATIENCE, wait_until};

/// Sends at the rate, then compares what is durable, and what is declared lost, with what was sent.
pub(super) fn run(options: &Options, table: &mut Table) {
    let subject = format!("penstock-high, {RATE} datagrams/s for {} s", options.udp_seconds);
    let mut row = Row::new("udp", subject, "% lost");
    let mut declared_all = true;
    for round in 1..=options.rounds {
        let (sample, declared) = measure(RATE * options.udp_seconds);
        note(round, &mut row, sample);
        declared_all &= declared;
    }
    row.note = match (row.samples.iter().all(|sample| sample.figure == 0.0), declared_all) {
        (true, _) => "default settings".to_owned(),
        (false, true) => "every loss declared".to_owned(),
        (false, false) => "LOST AND NOT DECLARED".to_owned(),
    };
    table.rows.push(row);
}

fn measure(count: u64) -> (Sample, bool) {
    let sandbox = Sandbox::new("bench-udp");
    let pair = Pair::new(&sandbox, "bench");
    let address = free_address();
    pair.high.configure(&format!(
        "[[listener]]\nname = \"bench\"\nprotocol = \"udp\"\nbind = \"{address}\"\n{SEAL_LATER}"
    ));
    let agent = pair.high.start();
    let before = agent.cost();
    let plan = Plan { rate: Some(RATE), ..Plan::new(Target::Udp(address), count) };
    let report = send(&plan).expect("a datagram can be sent");
    assert_eq!(report.sent, count, "a datagram could not be sent");
    let sums = || {
        let status = pair.high.status();
        let lanes = status["lanes"].as_array().cloned().unwrap_or_default();
        let sum = |key: &str| lanes.iter().filter_map(|lane| lane[key].as_u64()).sum::<u64>();
        (sum("received"), sum("lost-before-receipt"))
    };
    // Either everything is accounted for, or nothing has changed for a while.
    let mut last = (sums(), Instant::now());
    wait_until(PATIENCE, "datagrams accounted for", || {
        let now = sums();
        if now != last.0 {
            last = (now, Instant::now());
        }
        now.0 + now.1 == count || last.1.elapsed().as_secs() >= 3
    });
    let (received, declared) = last.0;
    let cost = agent.cost();
    let sample = Sample {
        figure: 100.0 * (count - received) as f64 / count as f64,
        cpu_per_million: Some((cost.cpu_secs - before.cpu_secs) * 1e6 / count as f64),
        memory_mib: Some(cost.memory_bytes_max as f64 / MIB),
        disk_per_record: None,
    };
    (sample, received + declared == count)
}

/// Datagrams a second.
const RATE: u64 = 50_000;
