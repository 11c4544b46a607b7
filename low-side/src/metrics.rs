//! The numbers of this side for `/metrics` and `metrics.prom`: one table, filled from the status and from a
//! look at the disks.

use page::Place;
use page::metrics::{Metric, Numbers};
use serde_json::Value;
use shared::clock::Nanos;

use crate::config::Config;
use crate::latency::LatencySum;
use crate::ledger::{ALARM_CODES, ArchiveSum, SinkSum};
use crate::sink::dead_letters::DeadLetters;
use crate::status::Status;

/// What every name begins with.
const PREFIX: &str = "penstock_low";

/// Everything that is counted. Where nothing else is said, a counter begins with the ledger.
const METRICS: &[Metric] = &[
    Metric::gauge("build_info", &["version"], "1; the version of the program that runs."),
    Metric::gauge("start_time_seconds", &[], "When the agent was started, in seconds since 1970."),
    Metric::gauge(
        "report_time_seconds",
        &[],
        "When these numbers were true, in seconds since 1970.",
    ),
    Metric::gauge(
        "adds_up",
        &[],
        "1 while bundles received = admitted + duplicate + quarantined, and records likewise for each sink.",
    ),
    Metric::gauge(
        "alarms",
        &["code"],
        "Alarms that nobody has acknowledged and whose cause lasts.",
    ),
    Metric::gauge(
        "alarms_over",
        &[],
        "Alarms that nobody has acknowledged and whose cause has ended.",
    ),
    Metric::gauge(
        "series_left_out",
        &[],
        "Series that are not told, since a metric has more than 1,000.",
    ),
    // Bundles.
    Metric::counter("bundles_received_total", &[], "Files decided about."),
    Metric::counter(
        "bundles_total",
        &["outcome"],
        "Files by outcome; they add up to those received, and a retried one leaves the quarantine.",
    ),
    Metric::gauge("bundles_held", &[], "Admitted bundles that wait for a gap."),
    Metric::gauge(
        "bundles_missing",
        &["origin", "lane"],
        "Bundles that have not come, of all epochs.",
    ),
    Metric::gauge(
        "gaps",
        &["state"],
        "Gaps in the chains: holding what is behind them, or passed.",
    ),
    Metric::gauge("quarantined_files", &["code"], "Refused files by reason."),
    Metric::gauge("inbox_waiting_files", &[], "Files in the inbox that wait for their turn."),
    Metric::gauge(
        "inbox_ignored_files",
        &[],
        "Entries of the inbox that are no bundles and stay there.",
    ),
    Metric::gauge("store_bundles", &[], "Bundles in the store."),
    Metric::gauge("store_bytes", &[], "Their files together."),
    Metric::gauge(
        "store_oldest_time_seconds",
        &[],
        "When the oldest bundle of the store was put there, in seconds since 1970; absent while it is empty.",
    ),
    Metric::counter(
        "store_removed_bundles_total",
        &[],
        "Admitted bundles that have left the store after their time.",
    ),
    // Silence and clocks.
    Metric::gauge(
        "last_bundle_age_seconds",
        &[],
        "Time since the last admitted bundle, heartbeats included; absent before the first.",
    ),
    Metric::gauge(
        "last_bundle_time_seconds",
        &["origin", "lane"],
        "When a lane of an origin last had a bundle admitted, heartbeats included, in seconds since 1970.",
    ),
    Metric::gauge(
        "clock_skew_seconds",
        &["origin"],
        "The shortest way from sealing to admission in 24 hours, by both clocks: ours is ahead of theirs by this at most; less than 0: theirs is ahead of ours by this at least.",
    ),
    // Records.
    Metric::counter("records_admitted_total", &[], "Records in admitted bundles."),
    Metric::counter("records_by_stream_total", &["stream"], "The same by stream."),
    Metric::counter(
        "records_suppressed_total",
        &["rule", "stream"],
        "Records that rules suppressed on the high side.",
    ),
    Metric::counter(
        "records_declared_lost_total",
        &["reason"],
        "Records that the high side declared lost.",
    ),
    Metric::counter("records_lost_in_range_total", &[], "Sequence numbers among them."),
    // Sinks.
    Metric::counter("records_delivered_total", &["sink"], "Records taken by a sink."),
    Metric::counter("records_filtered_total", &["sink"], "Records that its filter left out."),
    Metric::counter(
        "records_rejected_total",
        &["sink"],
        "Records that its receiver refused for good; they are among its dead letters.",
    ),
    Metric::counter(
        "records_again_total",
        &["sink"],
        "Records that it was asked to take once more.",
    ),
    Metric::gauge("records_pending", &["sink"], "Records a sink has yet to take."),
    Metric::gauge(
        "sink_lag_seconds",
        &["sink"],
        "How long the bundle that was admitted first has waited of which a sink has yet to take a record; 0 where none waits.",
    ),
    Metric::gauge("sink_state", &["sink", "state"], "1 for how a sink does, 0 for the rest."),
    Metric::gauge(
        "sink_circuit",
        &["sink", "circuit"],
        "closed: delivered to; open: left alone after a failure; half-open: tried again.",
    ),
    Metric::counter("sink_retries_total", &["sink"], "Tries that failed, since the agent's start."),
    Metric::gauge("sink_failures_in_a_row", &["sink"], "Tries that failed since the last success."),
    Metric::gauge(
        "dead_letter_bytes",
        &["sink"],
        "The file of records that its receiver refused for good.",
    ),
    // Archives.
    Metric::counter("archive_bundles_total", &["archive"], "Bundles that an archive holds."),
    Metric::counter("archive_bytes_total", &["archive"], "Their bytes."),
    Metric::gauge(
        "archive_waiting_bundles",
        &["archive"],
        "Bundles that an archive has yet to take.",
    ),
    Metric::gauge(
        "archive_lag_seconds",
        &["archive"],
        "How long the first of them has waited; 0 where none waits.",
    ),
    Metric::gauge(
        "archive_state",
        &["archive", "state"],
        "1 for how an archive does, 0 for the rest.",
    ),
    Metric::counter(
        "archive_retries_total",
        &["archive"],
        "Tries that failed, since the agent's start.",
    ),
    Metric::gauge(
        "archive_failures_in_a_row",
        &["archive"],
        "Tries that failed since the last success.",
    ),
    // Receivers, since the agent's start.
    Metric::counter(
        "receiver_bundles_total",
        &["receiver"],
        "Bundles put into the inbox, since the agent's start.",
    ),
    Metric::counter("receiver_bytes_total", &["receiver"], "Their bytes."),
    Metric::counter(
        "receiver_wrong_total",
        &["receiver"],
        "Bundles thrown away, since they were not what was sent.",
    ),
    Metric::counter("receiver_failures_total", &["receiver"], "Tries that failed."),
    Metric::gauge(
        "receiver_trouble",
        &["receiver"],
        "1 while it fails of something; the status says what.",
    ),
    Metric::gauge(
        "receiver_last_bundle_time_seconds",
        &["receiver"],
        "When it last put a bundle into the inbox, in seconds since 1970; absent before the first.",
    ),
    // Latency, over the last 24 hours.
    Metric::summary(
        "latency_seconds",
        &["sink", "lane", "stream", "hop", "quantile"],
        "How long records took to a sink's confirmation, in the last 24 hours; quantile 1 is the longest.",
    ),
    Metric::gauge("latency_budget_seconds", &["lane"], "The lane's budget."),
    Metric::gauge(
        "records_over_budget",
        &["sink", "lane", "stream", "hop"],
        "Records that took longer, in the last 24 hours.",
    ),
    Metric::gauge(
        "records_before_their_time",
        &["sink", "lane", "stream", "hop"],
        "Records that ended before they began, by clocks that lie apart, in the last 24 hours.",
    ),
    // Disks.
    Metric::gauge(
        "disk_free_bytes",
        &["place"],
        "Room that is free on the file system of a folder.",
    ),
    Metric::gauge("disk_size_bytes", &["place"], "Its room in all."),
];

const SINK_STATES: [&str; 5] = ["delivering", "idle", "held", "blocked", "failing"];
const CIRCUITS: [&str; 3] = ["closed", "half-open", "open"];
const ARCHIVE_STATES: [&str; 4] = ["archiving", "idle", "blocked", "failing"];

/// What has to be looked at besides the ledger.
#[derive(Clone, Debug)]
pub struct Surroundings {
    places: Vec<Place>,
    /// For each sink of the configuration the length of its file of dead letters, in bytes.
    dead_letters: Vec<(String, u64)>,
    budgets: [(&'static str, f64); 2],
}

impl Surroundings {
    /// Looks now.
    pub fn look(config: &Config) -> Self {
        let letters = |sink: &str| {
            let path = DeadLetters::of(&config.state_dir, sink).path();
            // None yet is none.
            std::fs::metadata(path).map_or(0, |found| found.len())
        };
        let budgets = config.latency;
        Self {
            places: places(config).to_vec(),
            dead_letters: config
                .sinks
                .iter()
                .map(|sink| (sink.name.clone(), letters(&sink.name)))
                .collect(),
            budgets: [
                ("flash", budgets.flash.as_secs_f64()),
                ("routine", budgets.routine.as_secs_f64()),
            ],
        }
    }
}

/// The folders whose disks are watched.
pub fn places(config: &Config) -> [Place; 2] {
    [Place::of("ledger and store", &config.state_dir), Place::of("inbox", &config.inbox.path)]
}

/// The numbers of a status. What only a running agent knows is absent where none runs.
pub fn numbers(status: &Status, around: &Surroundings) -> Numbers {
    let mut filled = Filling(Numbers::new(PREFIX, METRICS));
    let now: Nanos = status.time.parse().unwrap_or(Nanos(0));
    filled.add("build_info", &[env!("CARGO_PKG_VERSION")], 1);
    filled.secs("report_time_seconds", &[], now);
    filled.add("adds_up", &[], u64::from(status.adds_up));
    filled.alarms(status);
    filled.bundles(status);
    filled.records(status);
    for sum in &status.sums.sinks {
        filled.sink(sum, now);
    }
    for sum in &status.sums.archives {
        filled.archive(sum, now);
    }
    for sum in &status.latency {
        filled.latency(sum);
    }
    if let Some(agent) = &status.agent {
        filled.agent(agent);
    }
    for (sink, bytes) in &around.dead_letters {
        filled.add("dead_letter_bytes", &[sink], *bytes);
    }
    for (lane, secs) in around.budgets {
        filled.0.add("latency_budget_seconds", &[lane], secs);
    }
    for place in &around.places {
        if let Some((free, size)) = place.space() {
            filled.add("disk_free_bytes", &[place.what()], free);
            filled.add("disk_size_bytes", &[place.what()], size);
        }
    }
    let left_out = filled.0.left_out() as f64;
    filled.0.add("series_left_out", &[], left_out);
    filled.0
}

struct Filling(Numbers);

impl Filling {
    fn add(&mut self, name: &str, labels: &[&str], value: u64) {
        self.0.add(name, labels, value as f64);
    }

    fn secs(&mut self, name: &str, labels: &[&str], time: Nanos) {
        self.0.add(name, labels, time.0 as f64 / 1e9);
    }

    fn alarms(&mut self, status: &Status) {
        for code in ALARM_CODES {
            self.add("alarms", &[code], 0);
        }
        self.add("alarms_over", &[], 0);
        for alarm in &status.alarms {
            match alarm.closed {
                None => self.add("alarms", &[&alarm.code], 1),
                Some(_) => self.add("alarms_over", &[], 1),
            }
        }
    }

    fn bundles(&mut self, status: &Status) {
        let sums = &status.sums;
        self.add("bundles_received_total", &[], sums.received);
        for (outcome, count) in [
            ("admitted", sums.admitted),
            ("duplicate", sums.duplicate),
            ("quarantined", sums.quarantined),
        ] {
            self.add("bundles_total", &[outcome], count);
        }
        self.add("bundles_held", &[], sums.held);
        self.add("store_bundles", &[], sums.store.bundles);
        self.add("store_bytes", &[], sums.store.bytes);
        if let Some(Ok(oldest)) = sums.store.oldest.as_deref().map(str::parse) {
            self.secs("store_oldest_time_seconds", &[], oldest);
        }
        self.add("store_removed_bundles_total", &[], sums.store.removed);
        for heard in &status.heard {
            let labels = [heard.origin.as_str(), heard.lane.as_str()];
            if let Ok(last) = heard.last.parse() {
                self.secs("last_bundle_time_seconds", &labels, last);
            }
            self.add("bundles_missing", &labels, heard.missing);
        }
        self.add("gaps", &["holding"], status.gaps_holding);
        self.add("gaps", &["passed"], status.gaps_passed);
        for (code, count) in &status.quarantine_codes {
            self.add("quarantined_files", &[code], *count);
        }
        if let Some(age) = status.last_bundle_age_secs {
            self.add("last_bundle_age_seconds", &[], age);
        }
        for clock in &status.clocks {
            let secs = clock.shortest_ms as f64 / 1e3;
            self.0.add("clock_skew_seconds", &[&clock.origin], secs);
        }
    }

    fn records(&mut self, status: &Status) {
        let sums = &status.sums;
        self.add("records_admitted_total", &[], sums.records);
        self.add("records_lost_in_range_total", &[], sums.lost_in_range);
        for sum in &sums.streams {
            self.add("records_by_stream_total", &[&sum.stream], sum.records);
        }
        for sum in &sums.suppressed_by {
            self.add("records_suppressed_total", &[&sum.rule, &sum.stream], sum.records);
        }
        for loss in &sums.losses {
            self.add("records_declared_lost_total", &[&loss.reason], loss.records);
        }
    }

    fn sink(&mut self, sum: &SinkSum, now: Nanos) {
        let labels = [sum.name.as_str()];
        self.add("records_delivered_total", &labels, sum.delivered);
        self.add("records_filtered_total", &labels, sum.filtered);
        self.add("records_rejected_total", &labels, sum.rejected);
        self.add("records_again_total", &labels, sum.again);
        self.add("records_pending", &labels, sum.pending);
        self.0.add("sink_lag_seconds", &labels, lag(sum.waiting_since.as_deref(), now));
    }

    fn archive(&mut self, sum: &ArchiveSum, now: Nanos) {
        let labels = [sum.name.as_str()];
        self.add("archive_bundles_total", &labels, sum.archived);
        self.add("archive_bytes_total", &labels, sum.bytes);
        self.add("archive_waiting_bundles", &labels, sum.waiting);
        self.0.add("archive_lag_seconds", &labels, lag(sum.waiting_since.as_deref(), now));
    }

    fn latency(&mut self, sum: &LatencySum) {
        let LatencySum { sink, lane, stream, hop, .. } = sum;
        let labels = [sink.as_str(), lane.as_str(), stream.as_str(), hop.as_str()];
        for (quantile, millis) in
            [("0.5", sum.p50_ms), ("0.95", sum.p95_ms), ("0.99", sum.p99_ms), ("1", sum.max_ms)]
        {
            let [sink, lane, stream, hop] = labels;
            let labels = [sink, lane, stream, hop, quantile];
            self.0.add("latency_seconds", &labels, millis as f64 / 1e3);
        }
        self.add("records_over_budget", &labels, sum.over_budget);
        self.add("records_before_their_time", &labels, sum.negative);
    }

    /// What only the running agent knows.
    fn agent(&mut self, agent: &Value) {
        if let Some(started) = agent["started"].as_str().and_then(|text| text.parse().ok()) {
            self.secs("start_time_seconds", &[], started);
        }
        self.field("inbox_waiting_files", &[], &agent["inbox-waiting"]);
        self.field("inbox_ignored_files", &[], &agent["inbox-ignored"]);
        for (name, health) in agent["sinks"].as_object().into_iter().flatten() {
            self.field("sink_retries_total", &[name], &health["retries"]);
            self.field("sink_failures_in_a_row", &[name], &health["failures"]);
            let state = health["state"].as_str().unwrap_or_default();
            self.0.one_of("sink_state", &[name], &SINK_STATES, state);
            let circuit = health["circuit"].as_str().unwrap_or_default();
            self.0.one_of("sink_circuit", &[name], &CIRCUITS, circuit);
        }
        for (name, health) in agent["archives"].as_object().into_iter().flatten() {
            self.field("archive_retries_total", &[name], &health["retries"]);
            self.field("archive_failures_in_a_row", &[name], &health["failures"]);
            let state = health["state"].as_str().unwrap_or_default();
            self.0.one_of("archive_state", &[name], &ARCHIVE_STATES, state);
        }
        for receiver in agent["receivers"].as_array().into_iter().flatten() {
            let (labels, counters) =
                ([receiver["name"].as_str().unwrap_or_default()], &receiver["counters"]);
            for field in ["bundles", "bytes", "wrong", "failures"] {
                let metric = format!("receiver_{field}_total");
                self.field(&metric, &labels, &counters[field]);
            }
            let trouble = counters["trouble"].as_str().is_some_and(|text| !text.is_empty());
            self.add("receiver_trouble", &labels, u64::from(trouble));
            if let Some(last) = counters["last-ns"].as_i64().filter(|last| *last > 0) {
                self.secs("receiver_last_bundle_time_seconds", &labels, Nanos(last));
            }
        }
    }

    fn field(&mut self, name: &str, labels: &[&str], value: &Value) {
        if let Some(value) = value.as_f64() {
            self.0.add(name, labels, value);
        }
    }
}

/// How long what began at this time, RFC 3339, has lasted, in seconds; 0 where nothing began.
fn lag(since: Option<&str>, now: Nanos) -> f64 {
    let since: Option<Nanos> = since.and_then(|at| at.parse().ok());
    since.map_or(0.0, |since| now.since(since).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use page::metrics::documented;

    use super::*;

    #[test]
    fn names_are_good_and_stand_once() {
        let mut families = BTreeSet::new();
        for Metric { name, help, .. } in METRICS {
            assert!(families.insert(name.strip_suffix("_total").unwrap_or(name)), "{name} twice");
            assert!(help.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn the_documentation_is_the_table() {
        let page = include_str!("../../packaging/doc/metrics.md");
        let table = documented(PREFIX, METRICS);
        assert!(page.contains(&table), "packaging/doc/metrics.md should have:\n{table}");
    }
}
