//! How the low side does: for `status`, for `status.json` and for `metrics.prom`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::clock::Nanos;

use crate::folders::Folders;
use crate::latency::{Budgets, ClockSum, LatencySum};
use crate::ledger::{Alarm, LaneHeard, Ledger, LedgerError, OpenGap, Sums};

/// The file with the last status, renewed about once a second.
pub const STATUS_FILE: &str = "status.json";
/// The same numbers for Prometheus' textfile collector.
pub const METRICS_FILE: &str = "metrics.prom";

/// More gaps are counted and not listed: this is written once a second.
const GAPS_MAX: u32 = 100;
/// The period that latencies are shown for.
const LATENCY_LAST: Duration = Duration::from_hours(24);

/// Everything there is to say.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// When this was true, RFC 3339.
    pub time: String,
    /// What came in and where it went.
    #[serde(flatten)]
    pub sums: Sums,
    /// received = admitted + duplicate + quarantined, and records = delivered + pending for each sink.
    pub adds_up: bool,
    /// Seconds since the last bundle was admitted.
    pub last_bundle_age_secs: Option<u64>,
    /// Refused files by reason code.
    pub quarantine_codes: BTreeMap<String, u64>,
    /// How long records took in the last 24 hours.
    pub latency: Vec<LatencySum>,
    /// How far the clocks of the high sides may lie from ours.
    pub clocks: Vec<ClockSum>,
    /// Missing bundles: the 100 gaps that were noticed last. `penstock-low gaps` lists all.
    pub gaps: Vec<OpenGap>,
    /// Gaps that hold what is behind them.
    pub gaps_holding: u64,
    /// Gaps that were passed.
    pub gaps_passed: u64,
    /// When each lane of each origin was last heard of.
    pub heard: Vec<LaneHeard>,
    /// What an operator must be told.
    pub alarms: Vec<Alarm>,
    /// What only the running agent knows; absent while none runs.
    pub agent: Option<Value>,
}

/// What only the running agent knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Live {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it started, RFC 3339.
    pub started: String,
    /// What the kernel keeps it to.
    #[serde(default)]
    pub confinement: Option<String>,
    /// Files in the inbox that wait for their turn.
    pub inbox_waiting: u64,
    /// Entries of the inbox that are no bundles and stay where they are.
    pub inbox_ignored: u64,
    /// What has been silent for longer than `silence-alarm`, and since when; nothing of what never came.
    #[serde(default)]
    pub silent: BTreeMap<String, Option<String>>,
    /// How each sink does.
    pub sinks: BTreeMap<String, Value>,
    /// How each archive does.
    #[serde(default)]
    pub archives: BTreeMap<String, Value>,
    /// How each receiver does.
    #[serde(default)]
    pub receivers: Vec<Value>,
}

impl Status {
    /// Asks the ledger.
    pub fn gather(
        ledger: &mut Ledger,
        budgets: &Budgets,
        now: Nanos,
        agent: Option<Value>,
    ) -> Result<Self, LedgerError> {
        let sums = ledger.sums()?;
        let bundles = sums.received == sums.admitted + sums.duplicate + sums.quarantined;
        let records = sums.sinks.iter().all(|sink| {
            let dealt_with = sink.delivered + sink.filtered + sink.rejected + sink.removed;
            dealt_with + sink.pending == sums.records + sink.again
        });
        // A ledger from before this was counted holds bundles without counts by stream.
        let by_rule: u64 = sums.suppressed_by.iter().map(|rule| rule.records).sum();
        let suppressed = by_rule == sums.suppressed;
        let last = ledger.last_heard()?.into_iter().map(|(_, time)| time).max();
        let (gaps_holding, gaps_passed) = ledger.gap_counts()?;
        Ok(Self {
            time: now.to_string(),
            adds_up: bundles && records && suppressed,
            last_bundle_age_secs: last.map(|last| now.since(last).as_secs()),
            quarantine_codes: ledger.quarantine_codes()?.into_iter().collect(),
            latency: ledger.latencies(LATENCY_LAST, budgets, now)?,
            clocks: ledger.clocks(LATENCY_LAST, now)?,
            gaps: ledger.newest_gaps(GAPS_MAX)?,
            gaps_holding,
            gaps_passed,
            heard: ledger.heard_of_lanes()?,
            alarms: ledger.alarms()?,
            agent,
            sums,
        })
    }
}

/// What the running agent last said about itself, and as `told` when; `None` while none runs.
pub fn live(folders: &Folders) -> Option<Value> {
    // Whoever gets the agent's lock knows that there is no agent.
    if !matches!(folders.lock_agent(), Ok(None)) {
        return None;
    }
    let text = std::fs::read(folders.state.join(STATUS_FILE)).ok()?;
    let mut status: Value = serde_json::from_slice(&text).ok()?;
    let told = status["time"].take();
    let mut agent = status.get_mut("agent")?.take();
    agent.as_object_mut()?.insert("told".to_owned(), told);
    Some(agent)
}
