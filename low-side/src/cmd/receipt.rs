//! `receipt` and `latency`: what arrived, and how long it took.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use shared::clock::{Clock, SystemClock};
use shared::config::Span;
use shared::exit;

use super::{Failure, custody, init, put, put_json};
use crate::config::Config;
use crate::latency::{ClockSum, LatencySum};
use crate::ledger::Ledger;
use crate::site;

/// Writes a signed receipt. An existing file is replaced: a receipt says what the one before said, and
/// what came since.
pub(super) fn receipt(config: &Config, out: &Path) -> Result<(), Failure> {
    let key = init::signing_key(&config.keys_dir)?;
    let mut ledger = Ledger::open_existing(&config.state_dir)?;
    let receipt = ledger.make_receipt(&site::name(&config.keys_dir), SystemClock.now())?;
    custody::settle(&mut ledger);
    let text = receipt.sign(&key).map_err(|err| Failure::new(exit::FAILED, err))?;
    shared::durable::write(out, text.as_bytes(), 0o644)
        .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", out.display())))?;
    tell!("wrote receipt {} of {} to {}", receipt.number, receipt.name, out.display());
    for range in &receipt.missing {
        let (origin, epoch, lane) = (&range.origin, range.epoch, range.lane);
        tell!("missing: {origin}/{epoch}/{lane} bundles {} to {}", range.first, range.last);
    }
    tell!("next: carry it to the high side: penstock-high receipt import FILE");
    Ok(())
}

pub(super) fn latency(config: &Config, last: Span, as_json: bool) -> Result<(), Failure> {
    let ledger = Ledger::open_existing(&config.state_dir)?;
    let now = SystemClock.now();
    let sums = ledger.latencies(last.0, &config.latency, now)?;
    let clocks = ledger.clocks(last.0, now)?;
    if as_json {
        return put_json(&json!({"latency": sums, "clocks": clocks}));
    }
    if sums.is_empty() {
        tell!("nothing was delivered in the last {last}");
    }
    put(&latency_text(&sums, &clocks))
}

/// The table of `latency`, and of `status`.
pub(super) fn latency_text(sums: &[LatencySum], clocks: &[ClockSum]) -> String {
    let mut out = String::new();
    if !sums.is_empty() {
        let _ = writeln!(
            out,
            "{:<12} {:<8} {:<19} {:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11}",
            "sink",
            "lane",
            "stream",
            "from - to",
            "records",
            "p50",
            "p95",
            "p99",
            "max",
            "budget",
            "over budget"
        );
    }
    for sum in sums {
        let _ = writeln!(
            out,
            "{:<12} {:<8} {:<19} {:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11}",
            sum.sink,
            sum.lane,
            sum.stream,
            sum.hop,
            sum.records,
            time(sum.p50_ms),
            time(sum.p95_ms),
            time(sum.p99_ms),
            time(sum.max_ms),
            time(sum.budget_ms),
            sum.over_budget
        );
    }
    for clock in clocks {
        let _ = writeln!(out, "clocks: {}", clock.text());
    }
    out
}

/// A time in a column: three digits are enough.
fn time(millis: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let secs = millis as f64 / 1000.0;
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{secs:.2}s"),
        60_000..3_600_000 => format!("{:.1}m", secs / 60.0),
        _ => format!("{:.1}h", Duration::from_millis(millis).as_secs_f64() / 3600.0),
    }
}
