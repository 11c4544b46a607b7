//! How the low side does: for `status`, for `status.json` and for `metrics.prom`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::clock::Nanos;

use crate::folders::Folders;
use crate::latency::{Budgets, ClockSum, LatencySum};
use crate::ledger::{Alarm, ArchiveSum, Ledger, LedgerError, OpenGap, Sums};

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
            alarms: ledger.alarms()?,
            agent,
            sums,
        })
    }

    /// The numbers in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
            let _ = writeln!(
                out,
                "# HELP penstock_low_{name} {help}\n# TYPE penstock_low_{name} {kind}"
            );
            for (labels, value) in values {
                let _ = writeln!(out, "penstock_low_{name}{labels} {value}");
            }
        };
        let sums = &self.sums;
        let plain = |value: u64| vec![(String::new(), value)];
        let label =
            |key: &str, value: &str, number: u64| (format!("{{{key}=\"{value}\"}}"), number);
        let outcomes = [
            ("admitted", sums.admitted),
            ("duplicate", sums.duplicate),
            ("quarantined", sums.quarantined),
        ];
        metric("bundles_received_total", "counter", "Files decided about.", &plain(sums.received));
        metric(
            "bundles_total",
            "counter",
            "Files by outcome; they add up to received.",
            &outcomes.map(|(name, value)| label("outcome", name, value)),
        );
        metric("bundles_held", "gauge", "Admitted bundles that wait for a gap.", &plain(sums.held));
        let missing = sums.chains.iter().map(|chain| label("chain", &chain.chain, chain.missing));
        metric(
            "bundles_missing",
            "gauge",
            "Bundles that have not come.",
            &missing.collect::<Vec<_>>(),
        );
        metric(
            "records_admitted_total",
            "counter",
            "Records in admitted bundles.",
            &plain(sums.records),
        );
        let delivered = sums.sinks.iter().map(|sink| label("sink", &sink.name, sink.delivered));
        metric(
            "records_delivered_total",
            "counter",
            "Records taken by a sink.",
            &delivered.collect::<Vec<_>>(),
        );
        let pending = sums.sinks.iter().map(|sink| label("sink", &sink.name, sink.pending));
        metric(
            "records_pending",
            "gauge",
            "Records a sink has yet to take.",
            &pending.collect::<Vec<_>>(),
        );
        let archives = |number: fn(&ArchiveSum) -> u64| -> Vec<_> {
            sums.archives.iter().map(|sum| label("archive", &sum.name, number(sum))).collect()
        };
        metric(
            "archive_bundles_total",
            "counter",
            "Bundles that an archive holds.",
            &archives(|sum| sum.archived),
        );
        metric("archive_bytes_total", "counter", "Their bytes.", &archives(|sum| sum.bytes));
        metric(
            "archive_waiting",
            "gauge",
            "Bundles that an archive has yet to take.",
            &archives(|sum| sum.waiting),
        );
        let store = &sums.store;
        metric("store_bundles", "gauge", "Bundles in the store.", &plain(store.bundles));
        metric("store_bytes", "gauge", "Their bytes.", &plain(store.bytes));
        let removed = "Admitted bundles that have left the store after their time.";
        metric("store_removed_bundles", "gauge", removed, &plain(store.removed));
        let oldest: Option<Nanos> = store.oldest.as_deref().and_then(|at| at.parse().ok());
        if let Some(oldest) = oldest {
            let help = "When the oldest bundle of the store was put there.";
            let secs = u64::try_from(oldest.as_secs()).unwrap_or(0);
            metric("store_oldest_timestamp_seconds", "gauge", help, &plain(secs));
        }
        let rules = sums.suppressed_by.iter().map(|sum| {
            let labels = format!("{{rule=\"{}\",stream=\"{}\"}}", sum.rule, sum.stream);
            (labels, sum.records)
        });
        metric(
            "records_suppressed_total",
            "counter",
            "Records that rules suppressed on the high side.",
            &rules.collect::<Vec<_>>(),
        );
        let streams = sums.streams.iter().map(|sum| label("stream", &sum.stream, sum.records));
        metric(
            "records_by_stream_total",
            "counter",
            "Records in admitted bundles, by stream.",
            &streams.collect::<Vec<_>>(),
        );
        let lost = sums.losses.iter().map(|loss| label("reason", &loss.reason, loss.records));
        metric(
            "records_declared_lost_total",
            "counter",
            "Records that the high side declared lost.",
            &lost.collect::<Vec<_>>(),
        );
        let codes = self.quarantine_codes.iter().map(|(code, count)| label("code", code, *count));
        metric(
            "quarantined_files",
            "gauge",
            "Refused files by reason.",
            &codes.collect::<Vec<_>>(),
        );
        metric(
            "alarms",
            "gauge",
            "Alarms that nobody has acknowledged.",
            &plain(self.alarms.len() as u64),
        );
        let live = self.agent.as_ref().and_then(|agent| agent["receivers"].as_array());
        for (field, name, help) in RECEIVER_METRICS {
            let values = live.into_iter().flatten().filter_map(|receiver| {
                let number = receiver["counters"][field].as_u64()?;
                Some(label("receiver", receiver["name"].as_str()?, number))
            });
            let values: Vec<_> = values.collect();
            if !values.is_empty() {
                metric(name, "counter", help, &values);
            }
        }
        let latency = self.latency.iter().flat_map(|sum| {
            let LatencySum { sink, lane, stream, hop, .. } = sum;
            let labels =
                format!("sink=\"{sink}\",lane=\"{lane}\",stream=\"{stream}\",hop=\"{hop}\"");
            [("0.5", sum.p50_ms), ("0.95", sum.p95_ms), ("0.99", sum.p99_ms), ("1", sum.max_ms)]
                .map(|(quantile, millis)| (format!("{{{labels},quantile=\"{quantile}\"}}"), millis))
        });
        metric(
            "latency_milliseconds",
            "gauge",
            "How long records took to a sink's confirmation, in the last 24 hours.",
            &latency.collect::<Vec<_>>(),
        );
        let over = self.latency.iter().map(|sum| {
            let LatencySum { sink, lane, stream, hop, over_budget, .. } = sum;
            let labels =
                format!("{{sink=\"{sink}\",lane=\"{lane}\",stream=\"{stream}\",hop=\"{hop}\"}}");
            (labels, *over_budget)
        });
        metric(
            "records_over_budget",
            "gauge",
            "Records that took longer than their lane's budget, in the last 24 hours.",
            &over.collect::<Vec<_>>(),
        );
        if let Some(age) = self.last_bundle_age_secs {
            metric(
                "last_bundle_age_seconds",
                "gauge",
                "Time since the last admitted bundle.",
                &plain(age),
            );
        }
        out
    }
}

/// Counters of receivers: the field, the metric, what it is.
const RECEIVER_METRICS: [(&str, &str, &str); 4] = [
    ("bundles", "receiver_bundles_total", "Bundles put into the inbox."),
    ("bytes", "receiver_bytes_total", "Their bytes."),
    ("wrong", "receiver_wrong_total", "Bundles thrown away: not what was sent."),
    ("failures", "receiver_failures_total", "Tries that failed."),
];

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
