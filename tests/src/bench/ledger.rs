//! Import time of a bundle in a young and in an old ledger.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use super::table::{Row, Sample, Table};
use super::{Options, note, progress};
use crate::agents::{Pair, Site};
use crate::chain::BundleChain;
use crate::process::run as run_command;
use crate::sandbox::Sandbox;

/// Fills two ledgers with real imports, and times the same number of further bundles with each.
pub(super) fn run(options: &Options, table: &mut Table) {
    let mut ledgers: Vec<_> = [YOUNG, options.ledger_bundles].map(Aged::new).into_iter().collect();
    for round in 1..=options.rounds {
        for ledger in &mut ledgers {
            let sample = ledger.time();
            note(round, &mut ledger.row, sample);
        }
    }
    table.rows.extend(ledgers.into_iter().map(|ledger| ledger.row));
}

/// A low side that has admitted many bundles.
struct Aged {
    low: Site,
    chain: BundleChain,
    media: TempDir,
    row: Row,
    // Holds the folders of both sides.
    _sandbox: Sandbox,
}

impl Aged {
    /// Imports so many bundles. Ledger and store lie in memory meanwhile, where a sync costs nothing,
    /// and are then copied to the disk: the content is the same, and it takes minutes, not hours.
    fn new(bundles: u64) -> Self {
        let sandbox = Sandbox::new("bench-ledger");
        let pair = Pair::new(&sandbox, "bench");
        let disk = pair.low.state_dir();
        let fast = memory_dir();
        let low = pair.low.clone().with_state_dir(fast.path().join("state"));
        let mut aged = Self {
            chain: BundleChain::new(&pair.high, "bench"),
            low,
            media: memory_dir(),
            row: Row::new(
                "ledger",
                format!("import with {bundles} bundles in the ledger"),
                "ms/bundle",
            ),
            _sandbox: sandbox,
        };
        let mut filled = 0;
        while filled < bundles {
            let count = (bundles - filled).min(FILL_BUNDLES);
            aged.import(count);
            filled += count;
            progress(&format!("{filled} of {bundles} bundles in the ledger"));
        }
        fs::remove_dir_all(&disk).expect("the empty state folder can be removed");
        copy(&fast.path().join("state"), &disk);
        aged.low = aged.low.with_state_dir(disk);
        aged.row.note =
            format!("{TIMED_BUNDLES} bundles of {BUNDLE_RECORDS} records by one command");
        aged
    }

    fn time(&mut self) -> Sample {
        let figure = self.import(TIMED_BUNDLES) * 1e3 / TIMED_BUNDLES as f64;
        Sample { figure, ..Sample::default() }
    }

    /// Seals and imports the next bundles; gives how long the import took, in seconds.
    fn import(&mut self, count: u64) -> f64 {
        for _ in 0..count {
            let records = self.chain.records(BUNDLE_RECORDS);
            self.chain.seal(self.media.path(), &records);
        }
        let media = self.media.path().display().to_string();
        let started = Instant::now();
        let summary = self.low.json(["import", &media, "--json"]);
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!(summary["admitted"], count, "{summary}");
        for entry in fs::read_dir(self.media.path()).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        seconds
    }
}

fn copy(from: &Path, to: &Path) {
    run_command(Command::new("cp").arg("-a").arg(from).arg(to)).success();
    // What was copied is on the disk before anything is timed.
    run_command(&mut Command::new("sync")).success();
}

/// A folder in memory, or an ordinary one where there is none.
fn memory_dir() -> TempDir {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    dir.expect("a temporary folder can be made")
}

const YOUNG: u64 = 10;
const TIMED_BUNDLES: u64 = 100;
const FILL_BUNDLES: u64 = 5_000;
const BUNDLE_RECORDS: u64 = 2;
