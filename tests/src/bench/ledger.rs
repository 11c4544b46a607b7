//! Import time of a bundle in a young and in an old ledger.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use super::table::{Row, Sample, Table};
use super::{Options, progress};
use crate::agents::Pair;
use crate::chain::BundleChain;
use crate::sandbox::Sandbox;

/// Fills a ledger with real imports and times the same number of bundles at both ages.
pub(super) fn run(options: &Options, table: &mut Table) {
    let sandbox = Sandbox::new("bench-ledger");
    let pair = Pair::new(&sandbox, "bench");
    // The bundles that only fill the ledger are made where syncing costs nothing.
    let media = tempfile::tempdir_in(
        Some("/dev/shm")
            .filter(|dir| fs::metadata(dir).is_ok())
            .unwrap_or("/tmp"),
    );
    let media = media.expect("a folder for media");
    let mut chain = BundleChain::new(&pair.high, "bench");
    let mut import = |count: u64| {
        for _ in 0..count {
            let records = chain.records(BUNDLE_RECORDS);
            chain.seal(media.path(), &records);
        }
        let started = Instant::now();
        pair.low
            .run(["import", &media.path().display().to_string()])
            .success();
        let seconds = started.elapsed().as_secs_f64();
        let entries = fs::read_dir(media.path()).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).collect::<Vec<PathBuf>>() {
            let _ = fs::remove_file(path);
        }
        seconds * 1e3 / count as f64
    };
    let mut rows = Vec::new();
    let mut filled = 0;
    for age in [YOUNG, options.ledger_bundles] {
        while filled < age {
            let count = (age - filled).min(FILL_BUNDLES);
            import(count);
            filled += count;
            progress(&format!(
                "{filled} of {} bundles in the ledger",
                options.ledger_bundles
            ));
        }
        let mut row = Row::new(
            "ledger",
            format!("import with {age} bundles in the ledger"),
            "ms/bundle",
        );
        for _ in 0..options.rounds {
            let figure = import(TIMED_BUNDLES);
            filled += TIMED_BUNDLES;
            row.samples.push(Sample {
                figure,
                ..Sample::default()
            });
        }
        row.note = format!("{TIMED_BUNDLES} bundles of {BUNDLE_RECORDS} records by one command");
        rows.push(row);
    }
    table.rows.extend(rows);
}

const YOUNG: u64 = 10;
const TIMED_BUNDLES: u64 = 100;
const FILL_BUNDLES: u64 = 5_000;
const BUNDLE_RECORDS: u64 = 2;
