//! `penstock-relay`: a one-way relay for datagrams that loses, delays, doubles, turns and forges.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use shared::config::Span;
use tests::impair::{Impairment, Outages};
use tests::relay::{Counts, Relay};

/// Relays datagrams in one direction and does them harm, repeatably. Chances are in percent.
#[derive(Debug, Parser)]
#[command(name = "penstock-relay", max_term_width = 100)]
struct Arguments {
    /// Where datagrams come in, as 127.0.0.1:6001.
    from: SocketAddr,
    /// Where they go.
    to: SocketAddr,
    /// What all choices follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Lost, each by itself.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    loss: f64,
    /// The average time between two outages; without it, there are none.
    #[arg(long, value_name = "SPAN")]
    outage_every: Option<Span>,
    /// The shortest outage.
    #[arg(long, default_value = "1ms", value_name = "SPAN")]
    outage_least: Span,
    /// The longest outage.
    #[arg(long, default_value = "300ms", value_name = "SPAN")]
    outage_most: Span,
    /// Overtaken by later ones.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    reorder: f64,
    /// By how many, at most.
    #[arg(long, default_value_t = 32, value_name = "DATAGRAMS")]
    reorder_depth: u64,
    /// Delivered twice.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    duplicate: f64,
    /// Delivered with turned bits.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    corrupt: f64,
    /// Forged ones beside the genuine; 100 is one for each.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    forged: f64,
    /// Stop after this time; without it, run until interrupted.
    #[arg(long, value_name = "SPAN")]
    last: Option<Span>,
    /// How often to say what was done.
    #[arg(long, default_value = "5s", value_name = "SPAN")]
    report: Span,
}

fn main() -> ExitCode {
    let asked = Arguments::parse();
    let outages = asked.outage_every.map(|every| Outages {
        every: every.0,
        least: asked.outage_least.0,
        most: asked.outage_most.0,
    });
    let impairment = Impairment {
        loss: asked.loss / 100.0,
        outages,
        reorder: asked.reorder / 100.0,
        reorder_depth: asked.reorder_depth,
        duplicate: asked.duplicate / 100.0,
        corrupt: asked.corrupt / 100.0,
        forged: asked.forged / 100.0,
    };
    let relay = match Relay::start(asked.from, asked.to, impairment, asked.seed) {
        Ok(relay) => relay,
        Err(err) => {
            eprintln!("penstock-relay: {} to {}: {err}", asked.from, asked.to);
            return ExitCode::from(shared::exit::IO);
        }
    };
    let begun = Instant::now();
    let mut told = Counts::default();
    loop {
        let left = asked.last.map(|last| last.0.saturating_sub(begun.elapsed()));
        if left == Some(Duration::ZERO) {
            break;
        }
        std::thread::sleep(left.unwrap_or(asked.report.0).min(asked.report.0)); // ok: a report's pause
        let counts = relay.counts();
        if counts != told {
            eprintln!("{}", text(counts));
            told = counts;
        }
    }
    println!("{}", text(relay.stop()));
    ExitCode::SUCCESS
}

fn text(counts: Counts) -> String {
    let Counts { harm, overrun, unsent } = counts;
    format!(
        "{} offered ({} bytes), {} lost and {} in {} outages, {} reordered, {} duplicated, {} corrupted, \
         {} forged, {} delivered; {overrun} overrun, {unsent} not sent",
        harm.offered,
        harm.offered_bytes,
        harm.lost,
        harm.lost_in_outages,
        harm.outages,
        harm.reordered,
        harm.duplicated,
        harm.corrupted,
        harm.forged,
        harm.delivered,
    )
}
