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
    /// Missing bundles.
    pub gaps: Vec<OpenGap>,
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
        Ok(Self {
            time: now.to_string(),
            adds_up: bundles && records && suppressed,
            last_bundle_age_secs: last.map(|last| now.since(last).as_secs()),
            quarantine_codes: ledger.quarantine_codes()?.into_iter().collect(),
            latency: ledger.latencies(LATENCY_LAST, budgets, now)?,
            clocks: ledger.clocks(LATENCY_LAST, now)?,
            gaps: ledger.gaps()?,
            heard: ledger.heard_of_lanes()?,
            alarms: ledger.alarms()?,
            agent,
            sums,
        })
    }
}

/// What the running agent last said about itself; `None` while none runs.
pub fn live(folders: &Folders) -> Option<Value> {
    // Whoever gets the agent's lock knows that there is no agent.
    if !matches!(folders.lock_agent(), Ok(None)) {
        return None;
    }
    let text = std::fs::read(folders.state.join(STATUS_FILE)).ok()?;
    let mut status: Value = serde_json::from_slice(&text).ok()?;
    Some(status.get_mut("agent")?.take())
}
