//! What `make bench` measures: both agents, their peers and the bare libraries, in one run.
//!
//! Figures that depend on the disk move by a factor of ten with what else the machine does. So
//! everything that is compared runs interleaved in the same run, several rounds, and the table shows
//! the least, the median and the most of them.

mod diode;
mod files;
mod ingest;
mod ledger;
mod memory;
mod options;
mod peers;
mod replay;
mod seal;
mod table;
mod udp;
mod webhook;

pub use options::{Options, Section};
pub use table::{Row, Sample, Table};

/// Runs the chosen sections and gives their table.
pub fn run(options: &Options) -> Table {
    let mut table = Table::default();
    let all = options.sections.is_empty();
    let chosen = |section| all || options.sections.contains(&section);
    if chosen(Section::Ingest) || chosen(Section::Peers) {
        ingest::run(options, chosen(Section::Ingest), chosen(Section::Peers), &mut table);
    }
    let rest: [(Section, Measurement); 7] = [
        (Section::Files, files::run),
        (Section::Udp, udp::run),
        (Section::Seal, seal::run),
        (Section::Replay, replay::run),
        (Section::Memory, memory::run),
        (Section::Ledger, ledger::run),
        (Section::Webhook, webhook::run),
    ];
    for (section, run) in rest {
        if chosen(section) {
            run(options, &mut table);
        }
    }
    // These take long and have a verb of their own.
    let named = |section| options.sections.contains(&section);
    if named(Section::Diode) {
        diode::run(options, &mut table);
    }
    table
}

type Measurement = fn(&Options, &mut Table);

/// Notes what a round gave, and tells it.
fn note(round: u64, row: &mut Row, sample: Sample) {
    progress(&format!("round {round}: {}: {:.1} {}", row.subject, sample.figure, row.unit));
    row.samples.push(sample);
}

/// Tells on standard error what goes on; the table is for standard output.
fn progress(what: &str) {
    eprintln!("bench: {what}");
}
