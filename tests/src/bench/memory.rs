//! Peak memory of both agents with one large bundle.

use std::time::Duration;

use super::ingest::MIB;
use super::replay::{REPLAY_DEADLINE, delivered, file_sink};
use super::table::{Row, Sample, Table};
use super::{Options, progress};
use crate::agents::{Pair, bundles_in};
use crate::load::{Plan, Target, send};
use crate::sandbox::{Sandbox, free_address};
use crate::wait::wait_until;

/// Lets the agent cut one bundle of the given size by itself, carries it, and lets the other agent
/// import and deliver it.
pub(super) fn run(options: &Options, table: &mut Table) {
    let mib = options.memory_mib;
    progress(&format!("one bundle of {mib} MiB of records"));
    let sandbox = Sandbox::new("bench-memory");
    let pair = Pair::new(&sandbox, "bench");
    let address = free_address();
    pair.high.configure(&format!(
        "[[listener]]\nname = \"bench\"\nprotocol = \"tcp\"\nbind = \"{address}\"\n\
         [seal]\nbundle-bytes-max = \"{mib}MiB\"\nbundle-records-max = 1000000000\n"
    ));
    pair.low.configure(&file_sink(&pair.low));

    let high = pair.high.start();
    // Enough for one bundle and not for a second.
    let count = (mib << 20) / MESSAGE_BYTES * 3 / 2;
    let plan = Plan { connections: 4, ..Plan::new(Target::Tcp(address), count) };
    assert_eq!(send(&plan).expect("the agent can be reached").sent, count);
    wait_until(SEAL_DEADLINE, "one bundle", || !bundles_in(&pair.high.outbox()).is_empty());
    let manifest_records = pair.high.status()["lanes"]
        .as_array()
        .map_or(0, |lanes| lanes.iter().filter_map(|lane| lane["sealed"].as_u64()).sum::<u64>());
    let high_mib = high.cost().memory_bytes_max as f64 / MIB;

    let low = pair.low.start();
    let mut carried = Vec::new();
    pair.carry(&mut carried);
    wait_until(REPLAY_DEADLINE, "every record in the sink", || {
        delivered(&pair.low) >= manifest_records
    });
    let low_mib = low.cost().memory_bytes_max as f64 / MIB;

    for (subject, memory) in [
        ("penstock-high, taking and sealing", high_mib),
        ("penstock-low, importing and delivering", low_mib),
    ] {
        let mut row = Row::new("memory", format!("{subject} {mib} MiB in one bundle"), "MiB");
        row.samples.push(Sample { figure: memory, ..Sample::default() });
        row.note = format!("peak; {manifest_records} records");
        table.rows.push(row);
    }
}

const MESSAGE_BYTES: u64 = 750;
const SEAL_DEADLINE: Duration = Duration::from_mins(10);
