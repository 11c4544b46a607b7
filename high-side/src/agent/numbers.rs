//! The numbers of this side for `/metrics` and `metrics.prom`: one table, filled from the status alone.

use page::Place;
use page::metrics::{Metric, Numbers};
use serde_json::Value;
use shared::clock::Nanos;

use crate::buffer::{AlarmKind, WriterState};

/// What every name begins with.
const PREFIX: &str = "penstock_high";

/// Everything that is counted. Where nothing else is said, a counter begins with the agent's start.
const METRICS: &[Metric] = &[
    Metric::gauge("build_info", &["version"], "1; the version of the program that runs."),
    Metric::gauge("origin_info", &["origin"], "1; the name of this installation."),
    Metric::gauge(
        "epoch",
        &[],
        "The life of the buffer; another number means that a new one began.",
    ),
    Metric::gauge("start_time_seconds", &[], "When the agent was started, in seconds since 1970."),
    Metric::gauge(
        "report_time_seconds",
        &[],
        "When the running agent last said how it does, in seconds since 1970.",
    ),
    Metric::gauge(
        "adds_up",
        &[],
        "1 while received = buffered + sealed + suppressed + lost in each lane and stream.",
    ),
    Metric::gauge("alarms", &["code"], "Alarms that nobody has acknowledged."),
    Metric::gauge(
        "series_left_out",
        &[],
        "Series that are not told, since a metric has more than 1,000.",
    ),
    // The buffer.
    Metric::gauge(
        "buffer_bytes",
        &[],
        "What the buffer takes on the disk, counted against its quota.",
    ),
    Metric::gauge("buffer_quota_bytes", &[], "What it may take."),
    Metric::gauge("buffer_records", &["lane", "stream"], "Records in the buffer, not sealed yet."),
    Metric::gauge(
        "buffer_state",
        &["state"],
        "1 for what the writer does, 0 for the rest; all but flowing mean that nothing is taken.",
    ),
    Metric::gauge(
        "buffer_backpressure",
        &[],
        "1 while the buffer takes no more and sources are slowed.",
    ),
    Metric::counter(
        "buffer_backpressure_seconds_total",
        &[],
        "Time without taking more, the present wait included.",
    ),
    Metric::counter("buffer_commits_total", &[], "Transactions committed."),
    Metric::counter("buffer_committed_records_total", &[], "Records made durable."),
    Metric::counter("buffer_committed_bytes_total", &[], "Their raw bytes."),
    Metric::summary(
        "buffer_commit_duration_seconds",
        &["quantile"],
        "From handing in to durable, over the life of the agent.",
    ),
    Metric::gauge("buffer_last_durable_sequence", &["lane"], "The last durable sequence number."),
    // What waits, and the budget.
    Metric::gauge("waiting_records", &["lane"], "Records that no bundle holds yet."),
    Metric::gauge(
        "oldest_waiting_seconds",
        &["lane"],
        "How long the oldest record has waited that was not handed over; 0 where none waits.",
    ),
    Metric::gauge("latency_budget_seconds", &["lane"], "The lane's budget."),
    Metric::gauge(
        "budget_left_seconds",
        &["lane"],
        "What is left of it for the oldest record, less than 0 where it is used up; the whole of it where none waits.",
    ),
    // Records, since the epoch began.
    Metric::counter(
        "stream_received_records_total",
        &["lane", "stream"],
        "Records received and made durable since the epoch began.",
    ),
    Metric::counter(
        "stream_sealed_records_total",
        &["lane", "stream"],
        "Of these, records in sealed bundles.",
    ),
    Metric::counter(
        "stream_lost_records_total",
        &["lane", "stream"],
        "Of these, records damaged on the disk and declared lost.",
    ),
    Metric::counter(
        "suppressed_records_total",
        &["lane", "stream", "rule"],
        "Of these, records that a rule suppressed.",
    ),
    Metric::counter(
        "unreceived_records_total",
        &["lane"],
        "Records lost before they could be received, and declared, since the epoch began.",
    ),
    // Bundles.
    Metric::gauge("bundles", &["state"], "Bundles by state."),
    Metric::gauge("bundle_bytes", &["state"], "The bytes of their files."),
    Metric::gauge(
        "outbox_waiting_limit_bytes",
        &[],
        "What may wait in the outbox; sealing stops at it.",
    ),
    Metric::gauge(
        "confirmed_bundles",
        &[],
        "Bundles of this epoch that receipts say have arrived.",
    ),
    Metric::gauge(
        "sealer_trouble",
        &[],
        "1 while sealing fails of something; the status says what.",
    ),
    // Listeners and files.
    Metric::counter(
        "listener_messages_total",
        &["listener"],
        "Messages handed to the buffer, by listener or section of files.",
    ),
    Metric::counter("listener_bytes_total", &["listener"], "Their bytes."),
    Metric::counter("listener_truncated_total", &["listener"], "Messages that are not whole."),
    Metric::counter(
        "listener_empty_frames_total",
        &["listener"],
        "Lines and datagrams without content, which are not stored.",
    ),
    Metric::gauge("listener_connections_open", &["listener"], "Connections open now."),
    Metric::counter("listener_connections_total", &["listener"], "Connections accepted."),
    Metric::counter(
        "listener_connections_refused_total",
        &["listener"],
        "Connections closed because too many were open.",
    ),
    Metric::counter(
        "listener_idle_closes_total",
        &["listener"],
        "Connections closed since nothing came.",
    ),
    Metric::counter(
        "listener_slow_closes_total",
        &["listener"],
        "Connections closed since a message did not end.",
    ),
    Metric::counter(
        "listener_protocol_errors_total",
        &["listener"],
        "Connections closed since the peer broke the rules of the protocol.",
    ),
    Metric::counter(
        "listener_handshake_failures_total",
        &["listener"],
        "TLS handshakes that failed.",
    ),
    Metric::counter(
        "listener_authentication_failures_total",
        &["listener"],
        "Peers that could not prove who they are.",
    ),
    Metric::counter(
        "listener_datagrams_lost_total",
        &["listener"],
        "Datagrams dropped by the kernel, declared as lost.",
    ),
    Metric::gauge(
        "listener_receive_buffer_bytes",
        &["listener"],
        "The receive buffer that the kernel gave a UDP socket.",
    ),
    Metric::counter("listener_requests_total", &["listener"], "HTTP requests."),
    Metric::counter(
        "listener_requests_bad_total",
        &["listener"],
        "HTTP requests refused for good.",
    ),
    Metric::counter(
        "listener_requests_deferred_total",
        &["listener"],
        "HTTP requests whose sender was told to come again.",
    ),
    Metric::gauge("listener_waiting", &["listener"], "Connections that wait for the buffer."),
    Metric::counter(
        "listener_waited_seconds_total",
        &["listener"],
        "Time spent waiting for the buffer, summed over connections.",
    ),
    Metric::gauge("file_known", &["listener"], "Files known, finished ones among them."),
    Metric::gauge("file_open", &["listener"], "Files open now."),
    Metric::gauge("file_backlog_bytes", &["listener"], "Bytes in files that were not read."),
    Metric::gauge(
        "file_oldest_unread_seconds",
        &["listener"],
        "How long the bytes that waited longest have waited to be read.",
    ),
    Metric::gauge("file_unreadable", &["listener"], "Files and folders that can't be read."),
    Metric::gauge("file_refused", &["listener"], "Files not read since there are too many."),
    Metric::counter(
        "file_rewritten_total",
        &["listener"],
        "Files truncated or written anew in place.",
    ),
    Metric::counter(
        "file_unread_gone_total",
        &["listener"],
        "Files that went away with a rest that was not read, or may have had one.",
    ),
    Metric::counter(
        "file_unread_gone_bytes_total",
        &["listener"],
        "The bytes of those rests, as far as they are known.",
    ),
    // Carriers.
    Metric::counter("carrier_bundles_total", &["carrier"], "Bundles handed over."),
    Metric::counter("carrier_bytes_total", &["carrier"], "Their bytes."),
    Metric::counter("carrier_passes_total", &["carrier"], "Bundles sent once more."),
    Metric::counter("carrier_failures_total", &["carrier"], "Tries that failed."),
    Metric::gauge("carrier_waiting_bundles", &["carrier"], "Bundles in its queue."),
    Metric::gauge(
        "carrier_trouble",
        &["carrier"],
        "1 while it fails of something; the status says what.",
    ),
    Metric::gauge(
        "carrier_handed_over_time_seconds",
        &["carrier"],
        "When it handed a bundle over last, in seconds since 1970; absent before the first.",
    ),
    // What is asked of Portainer.
    Metric::counter("reconcile_runs_total", &["portainer"], "Runs."),
    Metric::counter(
        "reconcile_failures_total",
        &["portainer"],
        "Runs that did not come to their end.",
    ),
    Metric::counter(
        "reconcile_asked_records_total",
        &["portainer"],
        "Records that Portainer gave.",
    ),
    Metric::counter(
        "reconcile_matched_records_total",
        &["portainer"],
        "Those that had come before.",
    ),
    Metric::counter("reconcile_recovered_records_total", &["portainer"], "Those that were taken."),
    Metric::gauge(
        "reconcile_succeeded_time_seconds",
        &["portainer"],
        "When a run last came to its end, in seconds since 1970; absent before the first.",
    ),
    Metric::gauge(
        "reconcile_clock_ahead_seconds",
        &["portainer"],
        "How far Portainer's clock is ahead of ours.",
    ),
    // Disks.
    Metric::gauge(
        "disk_free_bytes",
        &["place"],
        "Room that is free on the file system of a folder.",
    ),
    Metric::gauge("disk_size_bytes", &["place"], "Its room in all."),
];

/// Each of these is a number of the snapshot of a listener: the field, the metric.
const OF_LISTENERS: &[(&str, &str)] = &[
    ("messages", "listener_messages_total"),
    ("bytes", "listener_bytes_total"),
    ("truncated", "listener_truncated_total"),
    ("empty-frames", "listener_empty_frames_total"),
    ("connections-open", "listener_connections_open"),
    ("connections-total", "listener_connections_total"),
    ("connections-refused", "listener_connections_refused_total"),
    ("idle-closes", "listener_idle_closes_total"),
    ("slow-closes", "listener_slow_closes_total"),
    ("protocol-errors", "listener_protocol_errors_total"),
    ("handshake-failures", "listener_handshake_failures_total"),
    ("authentication-failures", "listener_authentication_failures_total"),
    ("datagrams-lost", "listener_datagrams_lost_total"),
    ("receive-buffer-bytes", "listener_receive_buffer_bytes"),
    ("requests", "listener_requests_total"),
    ("requests-bad", "listener_requests_bad_total"),
    ("requests-deferred", "listener_requests_deferred_total"),
    ("waiting", "listener_waiting"),
    ("waited-secs", "listener_waited_seconds_total"),
];
const OF_FILES: &[(&str, &str)] = &[
    ("files", "file_known"),
    ("open", "file_open"),
    ("backlog-bytes", "file_backlog_bytes"),
    ("oldest-unread-secs", "file_oldest_unread_seconds"),
    ("unreadable", "file_unreadable"),
    ("refused", "file_refused"),
    ("rewritten", "file_rewritten_total"),
    ("unread-gone", "file_unread_gone_total"),
    ("unread-gone-bytes", "file_unread_gone_bytes_total"),
];
const OF_CARRIERS: &[(&str, &str)] = &[
    ("bundles", "carrier_bundles_total"),
    ("bytes", "carrier_bytes_total"),
    ("passes", "carrier_passes_total"),
    ("failures", "carrier_failures_total"),
    ("waiting", "carrier_waiting_bundles"),
];
const OF_PORTAINERS: &[(&str, &str)] = &[
    ("runs", "reconcile_runs_total"),
    ("failures", "reconcile_failures_total"),
    ("asked", "reconcile_asked_records_total"),
    ("matched", "reconcile_matched_records_total"),
    ("recovered", "reconcile_recovered_records_total"),
];

/// The numbers of a status, as [`crate::cmd::status::gather`] gives it. What only a running agent knows is
/// absent where none runs.
pub(super) fn numbers(status: &Value, places: &[Place]) -> Numbers {
    let mut filled = Filling(Numbers::new(PREFIX, METRICS));
    filled.known(status);
    filled.lanes(status);
    filled.live(&status["live"]);
    for place in places {
        if let Some((free, size)) = place.space() {
            filled.0.add("disk_free_bytes", &[place.what()], free as f64);
            filled.0.add("disk_size_bytes", &[place.what()], size as f64);
        }
    }
    let left_out = filled.0.left_out() as f64;
    filled.0.add("series_left_out", &[], left_out);
    filled.0
}

struct Filling(Numbers);

impl Filling {
    fn number(&mut self, name: &str, labels: &[&str], value: &Value) {
        if let Some(value) = value.as_f64() {
            self.0.add(name, labels, value);
        }
    }

    fn flag(&mut self, name: &str, labels: &[&str], is: bool) {
        self.0.add(name, labels, f64::from(u8::from(is)));
    }

    /// Nanoseconds since 1970, as seconds; 0 is never.
    fn time(&mut self, name: &str, labels: &[&str], value: &Value) {
        if let Some(nanos) = value.as_i64().filter(|nanos| *nanos > 0) {
            self.0.add(name, labels, nanos as f64 / 1e9);
        }
    }

    /// What the database knows.
    fn known(&mut self, status: &Value) {
        self.0.add("build_info", &[env!("CARGO_PKG_VERSION")], 1.0);
        self.0.add("origin_info", &[status["origin"].as_str().unwrap_or_default()], 1.0);
        self.number("epoch", &[], &status["epoch"]);
        self.flag("adds_up", &[], status["adds-up"] == true);
        for kind in AlarmKind::ALL {
            self.0.add("alarms", &[kind.as_str()], 0.0);
        }
        for alarm in status["alarms"].as_array().into_iter().flatten() {
            self.0.add("alarms", &[alarm["kind"].as_str().unwrap_or_default()], 1.0);
        }
        self.number("buffer_bytes", &[], &status["buffer"]["used-bytes"]);
        self.number("buffer_quota_bytes", &[], &status["buffer"]["quota-bytes"]);
        for (state, sum) in status["bundles"].as_object().into_iter().flatten() {
            self.number("bundles", &[state], &sum["count"]);
            self.number("bundle_bytes", &[state], &sum["bytes"]);
        }
        self.number("outbox_waiting_limit_bytes", &[], &status["outbox-waiting-bytes-max"]);
        self.number("confirmed_bundles", &[], &status["confirmed-by-receipts"]);
    }

    fn lanes(&mut self, status: &Value) {
        for lane in status["lanes"].as_array().into_iter().flatten() {
            let name = lane["lane"].as_str().unwrap_or_default();
            self.number("buffer_last_durable_sequence", &[name], &lane["last-durable-sequence"]);
            self.number("waiting_records", &[name], &lane["waiting-records"]);
            self.number("latency_budget_seconds", &[name], &lane["latency-budget-secs"]);
            let age = lane["oldest-age-secs"].as_f64();
            self.0.add("oldest_waiting_seconds", &[name], age.unwrap_or(0.0));
            let left = if age.is_some() { "budget-left-secs" } else { "latency-budget-secs" };
            self.number("budget_left_seconds", &[name], &lane[left]);
            self.number("unreceived_records_total", &[name], &lane["lost-before-receipt"]);
            for (stream, sums) in lane["streams"].as_object().into_iter().flatten() {
                let labels = [name, stream.as_str()];
                self.number("stream_received_records_total", &labels, &sums["received"]);
                self.number("stream_sealed_records_total", &labels, &sums["sealed"]);
                self.number("stream_lost_records_total", &labels, &sums["lost"]);
                self.number("buffer_records", &labels, &sums["buffered"]);
                for (rule, records) in sums["suppressed"].as_object().into_iter().flatten() {
                    self.number("suppressed_records_total", &[name, stream, rule], records);
                }
            }
        }
    }

    /// What only the running agent knows.
    fn live(&mut self, live: &Value) {
        self.time("start_time_seconds", &[], &live["started-ns"]);
        self.time("report_time_seconds", &[], &live["updated-ns"]);
        if let Some(trouble) = live["sealer-trouble"].as_str() {
            self.flag("sealer_trouble", &[], !trouble.is_empty());
        }
        let writer = &live["writer"];
        if let Some(state) = writer["state"].as_str() {
            let states = WriterState::ALL.map(WriterState::as_str);
            self.0.one_of("buffer_state", &[], &states, state);
            self.flag("buffer_backpressure", &[], state != WriterState::Flowing.as_str());
        }
        self.number("buffer_backpressure_seconds_total", &[], &writer["waited-secs"]);
        self.number("buffer_backpressure_seconds_total", &[], &writer["waiting-secs"]);
        self.number("buffer_commits_total", &[], &writer["commits"]);
        self.number("buffer_committed_records_total", &[], &writer["committed-records"]);
        self.number("buffer_committed_bytes_total", &[], &writer["committed-bytes"]);
        for (field, quantile) in
            [("commit-latency-ms-p50", "0.5"), ("commit-latency-ms-p99", "0.99")]
        {
            if let Some(millis) = writer[field].as_f64() {
                self.0.add("buffer_commit_duration_seconds", &[quantile], millis / 1e3);
            }
        }
        self.each(&live["listeners"], "counters", OF_LISTENERS);
        self.each(&live["files"], "counters", OF_LISTENERS);
        self.each(&live["files"], "files", OF_FILES);
        self.each(&live["carriers"], "counters", OF_CARRIERS);
        for carrier in live["carriers"].as_array().into_iter().flatten() {
            let (name, counters) = (&carrier["name"], &carrier["counters"]);
            let labels = [name.as_str().unwrap_or_default()];
            let trouble = counters["trouble"].as_str().is_some_and(|text| !text.is_empty());
            self.flag("carrier_trouble", &labels, trouble);
            self.time("carrier_handed_over_time_seconds", &labels, &counters["last-ns"]);
        }
        for portainer in live["portainer-apis"].as_array().into_iter().flatten() {
            let labels = [portainer["name"].as_str().unwrap_or_default()];
            for (field, metric) in OF_PORTAINERS {
                self.number(metric, &labels, &portainer[field]);
            }
            if portainer["succeeded-secs"].as_i64() > Some(0) {
                let at = &portainer["succeeded-secs"];
                self.number("reconcile_succeeded_time_seconds", &labels, at);
            }
            let ahead = &portainer["last"]["clock-ahead-secs"];
            self.number("reconcile_clock_ahead_seconds", &labels, ahead);
        }
    }

    fn each(&mut self, list: &Value, of: &str, fields: &[(&str, &str)]) {
        for one in list.as_array().into_iter().flatten() {
            let name = one["name"].as_str().unwrap_or_default();
            for (field, metric) in fields {
                self.number(metric, &[name], &one[of][field]);
            }
        }
    }
}

/// How long the writer has waited by now, beside the waits that are over.
pub(super) fn waiting_secs(state: WriterState, since: Nanos, now: Nanos) -> f64 {
    match state {
        WriterState::Flowing | WriterState::Stopped => 0.0,
        _ => now.since(since).as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use page::metrics::{Format, documented};
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_good_and_stand_once() {
        let mut families = BTreeSet::new();
        for Metric { name, help, .. } in METRICS {
            assert!(families.insert(name.strip_suffix("_total").unwrap_or(name)), "{name} twice");
            assert!(help.ends_with('.'), "{name}");
        }
        for (_, metric) in [OF_LISTENERS, OF_FILES, OF_CARRIERS, OF_PORTAINERS].concat() {
            assert!(METRICS.iter().any(|known| known.name == metric), "{metric}");
        }
    }

    #[test]
    fn the_documentation_is_the_table() {
        let page = include_str!("../../../packaging/doc/metrics.md");
        let table = documented(PREFIX, METRICS);
        assert!(page.contains(&table), "packaging/doc/metrics.md should have:\n{table}");
    }

    #[test]
    fn what_waits_counts_and_the_wait_that_lasts_counts() {
        let status = json!({
            "origin": "plant-7", "epoch": 7, "adds-up": true,
            "alarms": [{"kind": "epoch-began"}, {"kind": "epoch-began"}],
            "lanes": [{"lane": "flash", "oldest-age-secs": 3.0, "budget-left-secs": -1.0, "latency-budget-secs": 2.0},
                {"lane": "routine", "oldest-age-secs": null, "budget-left-secs": null, "latency-budget-secs": 60.0}],
            "live": {"writer": {"state": "disk-full", "waited-secs": 2.0, "waiting-secs": 3.5}},
        });
        let numbers = numbers(&status, &[]);
        let is = |name: &str, labels: &[&str]| numbers.get(name, labels);
        assert_eq!(is("buffer_backpressure_seconds_total", &[]), Some(5.5));
        assert_eq!(is("buffer_state", &["disk-full"]), Some(1.0));
        assert_eq!(is("buffer_state", &["flowing"]), Some(0.0));
        assert_eq!(is("alarms", &["epoch-began"]), Some(2.0));
        assert_eq!(is("alarms", &["receipt-fork"]), Some(0.0));
        assert_eq!(is("budget_left_seconds", &["flash"]), Some(-1.0));
        assert_eq!(is("budget_left_seconds", &["routine"]), Some(60.0));
        assert_eq!(is("oldest_waiting_seconds", &["routine"]), Some(0.0));
        let waits = |state| waiting_secs(state, Nanos(0), Nanos(1_500_000_000)) > 1.4;
        assert!(waits(WriterState::DiskFull) && !waits(WriterState::Flowing));
        let text = numbers.text(Format::Text);
        assert!(text.contains("penstock_high_origin_info{origin=\"plant-7\"} 1\n"), "{text}");
        // None runs: what only a running agent knows is not told as 0.
        assert!(!text.contains("penstock_high_buffer_commits_total 0"), "{text}");
    }
}
