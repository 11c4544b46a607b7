//! What `make bench` measures: both agents, their peers and the bare libraries, in one run.
//!
//! Figures that depend on the disk move by a factor of ten with what else the machine does. So
//! everything that is compared runs interleaved in the same run, several rounds, and the table shows
//! the least, the median and the most of them.

mod archive;
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

use crate::campaign::Campaign;

pub use options::{Options, Section};
pub use table::{Row, Sample, Table};

/// Runs the chosen sections and gives their table.
pub fn run(options: &Options) -> Table {
    let mut table = Table::default();
    // What takes long and has a verb of its own runs only when it is named.
    let all = options.sections.is_empty();
    let chosen = |section| all || options.sections.contains(&section);
    if chosen(Section::Ingest) || chosen(Section::Peers) {
        ingest::run(options, chosen(Section::Ingest), chosen(Section::Peers), &mut table);
    }
    let rest: [(Section, Measurement); 8] = [
        (Section::Archive, archive::run),
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
    let named = |section| options.sections.contains(&section);
    if named(Section::Diode) {
        diode::run(options, &mut table);
    }
    table
}

/// The seeded runs of the diode, where they were asked for.
pub fn campaign(options: &Options) -> Option<Campaign> {
    if !options.sections.contains(&Section::DiodeCampaign) {
        return None;
    }
    let runs = options.diode_runs;
    let told = |done: u64| {
        if done.is_multiple_of(CAMPAIGN_TOLD) {
            progress(&format!("{done} of {runs} runs over bad links"));
        }
    };
    Some(Campaign::run(options.diode_seed, runs, told))
}

/// Runs after which it is told how far a campaign is.
const CAMPAIGN_TOLD: u64 = 250;

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
