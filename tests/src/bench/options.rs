//! What is measured, and how much of it.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Measures Penstock beside its peers and prints one table.
#[derive(Clone, Debug, Parser)]
#[command(name = "penstock-bench")]
pub struct Options {
    /// Only these sections; without any, all.
    #[arg(value_enum)]
    pub sections: Vec<Section>,
    /// How often each measurement is repeated, interleaved with the others of its section.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// Messages in each round of `ingest` and `peers`.
    #[arg(long, default_value_t = 1_000_000)]
    pub messages: u64,
    /// Messages in each round of the peers that sync every message.
    #[arg(long, default_value_t = 20_000)]
    pub synced_messages: u64,
    /// Seconds of `udp`.
    #[arg(long, default_value_t = 5)]
    pub udp_seconds: u64,
    /// MiB in the log of `files`.
    #[arg(long, default_value_t = 1024)]
    pub file_mib: u64,
    /// MiB of records in `seal`.
    #[arg(long, default_value_t = 256)]
    pub seal_mib: u64,
    /// Records in `replay`.
    #[arg(long, default_value_t = 1_000_000)]
    pub replay_records: u64,
    /// MiB of records in the one bundle of `memory`.
    #[arg(long, default_value_t = 2048)]
    pub memory_mib: u64,
    /// Bundles in the old ledger of `ledger`.
    #[arg(long, default_value_t = 100_000)]
    pub ledger_bundles: u64,
    /// MiB in the one bundle of `archive`.
    #[arg(long, default_value_t = 1200)]
    pub archive_mib: u64,
    /// MiB in the one bundle of `diode`.
    #[arg(long, default_value_t = 1024)]
    pub diode_mib: u64,
    /// The set rate of the one bundle of `diode`.
    #[arg(long, default_value = "2800Mbit")]
    pub diode_bit_rate: String,
    /// MiB of the backlog that flash records overtake in `diode`.
    #[arg(long, default_value_t = 10_240)]
    pub diode_backlog_mib: u64,
    /// The set rate of the link that the backlog takes.
    #[arg(long, default_value = "1Gbit")]
    pub diode_flash_bit_rate: String,
    /// Seeded runs of `diode-campaign`.
    #[arg(long, default_value_t = 1000)]
    pub diode_runs: u64,
    /// The first seed of `diode-campaign`.
    #[arg(long, default_value_t = 1)]
    pub diode_seed: u64,
    /// Where peers lie that are not installed; `bench-peers.sh` puts them there.
    #[arg(long, default_value = "target/peers")]
    pub peers: PathBuf,
}

/// A part that can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Peak memory of an agent that archives one large bundle.
    Archive,
    /// The UDP diode: goodput, processor, memory, flash lane beside a backlog; only when it is named.
    Diode,
    /// Seeded runs of the diode's encoder and assembler over bad links; only when it is named.
    DiodeCampaign,
    /// Reading a log that others wrote into the buffer.
    Files,
    /// Durable records a second over TCP.
    Ingest,
    /// Import time of a bundle in a young and in an old ledger.
    Ledger,
    /// Peak memory of both agents with one large bundle.
    Memory,
    /// The same load into rsyslog's and syslog-ng's disk queues.
    Peers,
    /// Records a second out of admitted bundles into the file sink, and into bulk endpoints.
    Replay,
    /// Sealing and opening beside bare zstd, age and SHA-256.
    Seal,
    /// Loss over UDP at 50,000 messages a second.
    Udp,
    /// Durable records a second through the audit webhook.
    Webhook,
}
