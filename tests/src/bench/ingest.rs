//! Durable records a second over TCP: the agent, and its peers in the same interleaved run.

use std::time::Instant;

use super::peers::Peer;
use super::table::{Row, Sample, Table};
use super::{Options, note};
use crate::agents::Pair;
use crate::load::{Framing, Plan, Target, send};
use crate::process::disk_bytes;
use crate::sandbox::{Sandbox, free_address};
use crate::wait::{PATIENCE, wait_until};

/// Who takes the load.
enum Subject {
    Penstock { sealing: Sealing },
    Peer(Peer),
}

/// Whether bundles are cut while records come in.
enum Sealing {
    /// As configured by default, in the same process.
    Default,
    /// Not before the round is over: what a buffer alone does, as the peers' queues.
    Later,
}

struct Variant {
    subject: Subject,
    connections: u64,
    size: Option<usize>,
    messages: u64,
    row: Row,
}

/// Runs the agent's variants, the peers' variants, or both, round by round.
pub(super) fn run(options: &Options, ours: bool, peers: bool, table: &mut Table) {
    let mut variants = Vec::new();
    let messages = options.messages;
    // The one that the peers are compared with.
    variants.push(Variant::penstock(Sealing::Later, 4, None, messages));
    if ours {
        variants.push(Variant::penstock(Sealing::Later, 1, None, messages));
        variants.push(Variant::penstock(Sealing::Later, 8, None, messages));
        for connections in [1, 4, 8] {
            variants.push(Variant::penstock(Sealing::Later, connections, Some(800), messages));
        }
        variants.push(Variant::penstock(Sealing::Default, 4, None, messages));
    }
    if peers {
        variants.extend(Peer::available(&options.peers).into_iter().map(|peer| {
            let messages = if peer.syncs() { options.synced_messages } else { messages };
            let row =
                Row::new("peers", format!("{}, 4 connections, 750 B", peer.name()), "records/s");
            Variant { subject: Subject::Peer(peer), connections: 4, size: None, messages, row }
        }));
    }
    for round in 1..=options.rounds {
        for variant in &mut variants {
            let sample = variant.measure();
            note(round, &mut variant.row, sample);
        }
    }
    table.rows.extend(variants.into_iter().map(|variant| variant.row));
}

impl Variant {
    fn penstock(sealing: Sealing, connections: u64, size: Option<usize>, messages: u64) -> Self {
        let note = match sealing {
            Sealing::Default => "sealing at the same time",
            Sealing::Later => "time ends when the last record is synced",
        };
        let subject = format!(
            "penstock-high, {connections} connection{}, {} B",
            if connections == 1 { "" } else { "s" },
            size.unwrap_or(750)
        );
        let mut row = Row::new("ingest", subject, "records/s");
        note.clone_into(&mut row.note);
        Self { subject: Subject::Penstock { sealing }, connections, size, messages, row }
    }

    fn measure(&self) -> Sample {
        match &self.subject {
            Subject::Penstock { sealing } => self.measure_penstock(sealing),
            Subject::Peer(peer) => peer.measure(&self.plan(free_address())),
        }
    }

    fn plan(&self, address: std::net::SocketAddr) -> Plan {
        Plan {
            connections: self.connections,
            framing: Framing::Octet,
            size: self.size,
            ..Plan::new(Target::Tcp(address), self.messages)
        }
    }

    fn measure_penstock(&self, sealing: &Sealing) -> Sample {
        let sandbox = Sandbox::new("bench-ingest");
        let pair = Pair::new(&sandbox, "bench");
        let address = free_address();
        let seal = match sealing {
            Sealing::Default => "",
            Sealing::Later => SEAL_LATER,
        };
        pair.high.configure(&format!(
            "[[listener]]\nname = \"bench\"\nprotocol = \"tcp\"\nbind = \"{address}\"\n{seal}"
        ));
        let agent = pair.high.start();
        let before = agent.cost();
        let report = send(&self.plan(address)).expect("the agent can be reached");
        assert_eq!(report.sent, self.messages, "the agent broke a connection");
        let closed = Instant::now();
        let received = || {
            pair.high.status()["lanes"].as_array().map_or(0, |lanes| {
                lanes.iter().filter_map(|lane| lane["received"].as_u64()).sum::<u64>()
            })
        };
        wait_until(PATIENCE, "every record in the buffer", || received() == self.messages);
        let seconds = report.seconds + closed.elapsed().as_secs_f64();
        let cost = agent.cost();
        let millions = self.messages as f64 / 1e6;
        Sample {
            figure: self.messages as f64 / seconds,
            cpu_per_million: Some((cost.cpu_secs - before.cpu_secs) / millions),
            memory_mib: Some(cost.memory_bytes_max as f64 / MIB),
            disk_per_record: Some(disk_bytes(&pair.high.state_dir()) as f64 / self.messages as f64),
        }
    }
}

pub(super) const MIB: f64 = 1_048_576.0;

/// Bundles so large that none is cut during a round.
pub(super) const SEAL_LATER: &str =
    "[seal]\nbundle-bytes-max = \"3GiB\"\nbundle-records-max = 1000000000\n";
