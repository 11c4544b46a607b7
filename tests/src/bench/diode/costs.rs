//! What an idle link takes, and what a small bundle costs on the wire.

use std::time::{Duration, Instant};

use super::super::progress;
use super::super::table::{Row, Sample, Table};
use super::backlog::{fill, outbox_bytes};
use crate::crossing::Crossing;
use crate::diode::{Diode, count};
use crate::impair::Impairment;
use crate::wait::{PATIENCE, wait_until};

/// Counts at a relay what crosses: first nothing but catalogues, then one small bundle.
pub(super) fn run(table: &mut Table) {
    progress("an idle link and a small bundle");
    let diode = Diode::new("bench-diode-costs");
    let relay = diode.relay(Impairment::default(), 1);
    let crossing = &diode.crossing;
    let high = format!("{}{}{}", SEAL, crossing.listener(), diode.carrier("passes = 1\n"));
    crossing.pair.high.configure(&high);
    crossing.pair.low.configure(&format!("{}{}", Crossing::quick_inbox(), diode.receiver("")));
    let _agents = [crossing.pair.low.start(), crossing.pair.high.start()];
    // A bundle is on the catalogue of a link that is idle, too.
    let one = |bundles: u64| {
        fill(crossing.tcp, 1, SMALL_BYTES, bundles).expect("the listener is there");
        wait_until(PATIENCE, "bundle over the link", || {
            count(&diode.received(), "bundles") == bundles
        });
    };
    one(1);
    let wire = || {
        let harm = relay.counts().harm;
        (harm.offered_bytes + harm.offered * HEADER_BYTES) as f64
    };
    let (before, begun) = (wire(), Instant::now());
    std::thread::sleep(IDLE); // ok: what is measured is time in which nothing happens
    let idle = (wire() - before) / begun.elapsed().as_secs_f64();
    let mut row = Row::new("diode", "an idle link with one bundle on the catalogue", "B/s");
    row.samples.push(Sample { figure: idle, ..Sample::default() });
    "UDP and IP headers included".clone_into(&mut row.note);
    table.rows.push(row);

    let (before, begun, bytes_before) = (wire(), Instant::now(), outbox_bytes(&crossing.pair.high));
    one(2);
    let catalogues = idle * begun.elapsed().as_secs_f64();
    let bundle = (outbox_bytes(&crossing.pair.high) - bytes_before) as f64;
    let cost = (wire() - before - catalogues) / bundle;
    let mut row =
        Row::new("diode", format!("a bundle of {bundle:.0} bytes, one pass"), "times its size");
    row.samples.push(Sample { figure: cost, ..Sample::default() });
    "on the wire with UDP and IP headers, without catalogues".clone_into(&mut row.note);
    table.rows.push(row);
}

/// Every message is a bundle of its own.
const SEAL: &str = "[seal]\nflash-budget = \"100ms\"\nbundle-records-max = 1\nheartbeat = \"1d\"\n";
/// With what a bundle has beside its records, this makes one of 20 KB.
const SMALL_BYTES: usize = 18_000;
const IDLE: Duration = Duration::from_secs(20);
/// IPv4 and UDP.
const HEADER_BYTES: u64 = 28;
