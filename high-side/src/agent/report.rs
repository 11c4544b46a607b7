//! What the running agent says of itself, once a second: `status.json` for the `status` verb, and
//! `metrics.prom` in the text format of Prometheus for a collector of text files.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use shared::clock::Nanos;
use shared::durable;
use shared::record::{Lane, Stream};

use super::sealing::Sealing;
use crate::buffer::{BufferGauges, LaneCounts, Store, Tally};
use crate::carrier::{CarrierCounters, CarrierStatus, RunningCarriers};
use crate::config::Config;
use crate::ingest::RunningListener;
use crate::reconcile::{Reconciling, SectionStatus};
use crate::tail::{FileSnapshot, RunningFiles};

/// The live part of the status.
const STATUS_FILE: &str = "status.json";
/// The metrics.
pub(super) const METRICS_FILE: &str = "metrics.prom";
/// How often both are written.
const INTERVAL: Duration = Duration::from_secs(1);
/// A report older than this comes from an agent that does not run any more.
const STALE: Duration = Duration::from_secs(5);

static LAST: AtomicI64 = AtomicI64::new(0);

/// Everything that records come from.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) listeners: &'a [RunningListener],
    pub(super) files: &'a [RunningFiles],
}

/// What goes out.
#[derive(Clone, Copy)]
pub(super) struct Going<'a> {
    pub(super) sealing: &'a Sealing,
    pub(super) carriers: &'a RunningCarriers,
}

/// Writes both files, if it is time or `now` is asked for. A failure is no reason to stop: the
/// report says less than it could, the records flow on.
pub(super) fn write(
    config: &Config,
    gauges: &BufferGauges,
    sources: Sources<'_>,
    reconciling: Option<&Reconciling>,
    going: Going<'_>,
    time: Nanos,
    now: bool,
) {
    let last = Nanos(LAST.load(Ordering::Relaxed));
    if !now && time.since(last) < INTERVAL && time >= last {
        return;
    }
    LAST.store(time.0, Ordering::Relaxed);
    // The service manager may wait for a sign of life. Outside of one there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    let sections = reconciling.map(Reconciling::sections).unwrap_or_default();
    let mut status = status(gauges, sources, going, time);
    status["portainer-apis"] = json!(sections);
    let mut metrics = metrics(gauges, sources, time);
    reconciliation_metrics(&mut metrics, &sections);
    carrier_metrics(&mut metrics, &going.carriers.statuses());
    // What can't be read now is left out; the next report has it.
    if let Ok(counts) = Store::open(&config.state_dir).and_then(|store| store.counts()) {
        stream_metrics(&mut metrics, &counts);
    }
    let write = |name: &str, text: String| {
        durable::write_volatile(&config.state_dir.join(name), text.as_bytes(), 0o644)
    };
    let result =
        write(STATUS_FILE, format!("{status}\n")).and_then(|()| write(METRICS_FILE, metrics));
    if let Err(err) = result {
        tracing::debug!(%err, "the status can't be written");
    }
}

fn status(gauges: &BufferGauges, sources: Sources<'_>, going: Going<'_>, time: Nanos) -> Value {
    let listeners: Vec<Value> = sources
        .listeners
        .iter()
        .map(|listener| {
            json!({
                "name": listener.name,
                "address": listener.address.to_string(),
                "counters": listener.counters.snapshot(),
            })
        })
        .collect();
    let files: Vec<Value> = sources
        .files
        .iter()
        .map(|files| {
            json!({
                "name": files.name,
                "files": files.files.snapshot(),
                "counters": files.counters.snapshot(),
            })
        })
        .collect();
    json!({
        "pid": std::process::id(),
        "updated-ns": time.0,
        "confinement": shared::reach::confinement().map(ToString::to_string),
        "writer": {
            "state": gauges.state().as_str(),
            "since": gauges.since().to_string(),
            "waited-secs": gauges.waited().as_secs_f64(),
            "committed-records": gauges.committed_records(),
            "committed-bytes": gauges.committed_bytes(),
            "commits": gauges.commits(),
            "commit-latency-ms-p50": gauges.latency(0.5).as_secs_f64() * 1e3,
            "commit-latency-ms-p99": gauges.latency(0.99).as_secs_f64() * 1e3,
        },
        "sealer-trouble": going.sealing.trouble(),
        "carriers": going.carriers.snapshot(),
        "listeners": listeners,
        "files": files,
    })
}

fn metrics(gauges: &BufferGauges, sources: Sources<'_>, time: Nanos) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        let _ = writeln!(
            text,
            "# HELP penstock_high_{name} {help}\n# TYPE penstock_high_{name} {kind}"
        );
        for (labels, value) in samples {
            let _ = writeln!(text, "penstock_high_{name}{labels} {value}");
        }
    };
    let one = |value: f64| vec![(String::new(), value)];
    let flowing = gauges.state() == crate::buffer::WriterState::Flowing;
    metric(
        "report_time_seconds",
        "gauge",
        "When this was written, in seconds since 1970.",
        &one(time.0 as f64 / 1e9),
    );
    metric(
        "buffer_committed_records_total",
        "counter",
        "Records made durable since the start.",
        &one(gauges.committed_records() as f64),
    );
    metric(
        "buffer_committed_bytes_total",
        "counter",
        "Raw bytes made durable since the start.",
        &one(gauges.committed_bytes() as f64),
    );
    metric(
        "buffer_commits_total",
        "counter",
        "Transactions committed since the start.",
        &one(gauges.commits() as f64),
    );
    metric(
        "buffer_backpressure",
        "gauge",
        "1 while the buffer takes no more and sources are slowed.",
        &one(f64::from(u8::from(!flowing))),
    );
    metric(
        "buffer_backpressure_seconds_total",
        "counter",
        "Time without taking more, before the present wait.",
        &one(gauges.waited().as_secs_f64()),
    );
    let lanes: Vec<_> = Lane::ALL
        .into_iter()
        .map(|lane| (format!("{{lane=\"{lane}\"}}"), gauges.last_sequence(lane) as f64))
        .collect();
    metric("buffer_last_durable_sequence", "gauge", "The last durable sequence number.", &lanes);
    let label = |name: &str| format!("{{listener=\"{name}\"}}");
    let of_listeners =
        sources.listeners.iter().map(|source| (label(&source.name), source.counters.snapshot()));
    let of_files =
        sources.files.iter().map(|source| (label(&source.name), source.counters.snapshot()));
    let snapshots: Vec<_> = of_listeners.chain(of_files).collect();
    let mut each =
        |name: &str, kind: &str, help: &str, value: fn(&crate::ingest::IngestSnapshot) -> f64| {
            let samples: Vec<_> =
                snapshots.iter().map(|(labels, s)| (labels.clone(), value(s))).collect();
            metric(name, kind, help, &samples);
        };
    each("listener_messages_total", "counter", "Messages handed to the buffer.", |s| {
        s.messages as f64
    });
    each("listener_bytes_total", "counter", "Their bytes.", |s| s.bytes as f64);
    each("listener_truncated_total", "counter", "Messages that are not whole.", |s| {
        s.truncated as f64
    });
    each("listener_connections_open", "gauge", "Connections open now.", |s| {
        s.connections_open as f64
    });
    each(
        "listener_connections_refused_total",
        "counter",
        "Connections closed because too many were open.",
        |s| s.connections_refused as f64,
    );
    each("listener_handshake_failures_total", "counter", "TLS handshakes that failed.", |s| {
        s.handshake_failures as f64
    });
    each(
        "listener_datagrams_lost_total",
        "counter",
        "Datagrams dropped by the kernel, declared as lost.",
        |s| s.datagrams_lost as f64,
    );
    each("listener_requests_total", "counter", "HTTP requests.", |s| s.requests as f64);
    each("listener_requests_bad_total", "counter", "HTTP requests refused for good.", |s| {
        s.requests_bad as f64
    });
    each(
        "listener_requests_deferred_total",
        "counter",
        "HTTP requests whose sender was told to come again.",
        |s| s.requests_deferred as f64,
    );
    each("listener_waiting", "gauge", "Connections that wait for the buffer.", |s| {
        s.waiting as f64
    });
    let snapshots: Vec<_> =
        sources.files.iter().map(|source| (label(&source.name), source.files.snapshot())).collect();
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&FileSnapshot) -> f64| {
        let samples: Vec<_> =
            snapshots.iter().map(|(labels, s)| (labels.clone(), value(s))).collect();
        metric(name, kind, help, &samples);
    };
    each("file_count", "gauge", "Files known, finished ones among them.", |s| s.files as f64);
    each("file_backlog_bytes", "gauge", "Bytes in files that were not read.", |s| {
        s.backlog_bytes as f64
    });
    each(
        "file_oldest_unread_seconds",
        "gauge",
        "How long the bytes that waited longest have waited to be read.",
        |s| s.oldest_unread_secs,
    );
    each("file_unreadable", "gauge", "Files and folders that can't be read.", |s| {
        s.unreadable as f64
    });
    each("file_refused", "gauge", "Files not read since there are too many.", |s| s.refused as f64);
    each("file_rewritten_total", "counter", "Files truncated or written anew in place.", |s| {
        s.rewritten as f64
    });
    each(
        "file_unread_gone_total",
        "counter",
        "Files that went away with a rest that was not read, or may have had one.",
        |s| s.unread_gone as f64,
    );
    text
}

/// What is counted of each carrier.
fn carrier_metrics(text: &mut String, carriers: &[CarrierStatus]) {
    type Value = fn(&CarrierCounters) -> f64;
    let metrics: [(&str, &str, &str, Value); 6] = [
        ("bundles_total", "counter", "Bundles handed over since the start.", |c| {
            c.bundles.load(Ordering::Relaxed) as f64
        }),
        ("bytes_total", "counter", "Their bytes.", |c| c.bytes.load(Ordering::Relaxed) as f64),
        ("passes_total", "counter", "Bundles sent once more.", |c| {
            c.passes.load(Ordering::Relaxed) as f64
        }),
        ("failures_total", "counter", "Tries that failed.", |c| {
            c.failures.load(Ordering::Relaxed) as f64
        }),
        ("trouble", "gauge", "1 while it fails of something.", |c| {
            f64::from(u8::from(!c.trouble().is_empty()))
        }),
        (
            "handed_over_time_seconds",
            "gauge",
            "When it handed a bundle over last; 0: not since the start.",
            |c| c.last_ns.load(Ordering::Relaxed) as f64 / 1e9,
        ),
    ];
    for (name, kind, help, value) in metrics {
        if carriers.is_empty() {
            return;
        }
        let name = format!("penstock_high_carrier_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for carrier in carriers {
            let _ = writeln!(
                text,
                "{name}{{carrier=\"{}\"}} {}",
                carrier.name,
                value(&carrier.counters)
            );
        }
    }
}

/// What is counted of each Portainer that is asked.
fn reconciliation_metrics(text: &mut String, sections: &[SectionStatus]) {
    type Value = fn(&SectionStatus) -> f64;
    let metrics: [(&str, &str, &str, Value); 7] = [
        ("runs_total", "counter", "Runs since the start.", |s| s.runs as f64),
        ("failures_total", "counter", "Runs that did not come to their end.", |s| {
            s.failures as f64
        }),
        ("asked_records_total", "counter", "Records that Portainer gave.", |s| s.asked as f64),
        ("matched_records_total", "counter", "Those that had come before.", |s| s.matched as f64),
        ("recovered_records_total", "counter", "Those that were taken.", |s| s.recovered as f64),
        (
            "succeeded_time_seconds",
            "gauge",
            "When a run last came to its end; 0: not since the start.",
            |s| s.succeeded_secs as f64,
        ),
        ("clock_ahead_seconds", "gauge", "How far Portainer's clock is ahead of ours.", |s| {
            s.last.clock_ahead_secs as f64
        }),
    ];
    for (name, kind, help, value) in metrics {
        if sections.is_empty() {
            return;
        }
        let name = format!("penstock_high_reconcile_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for section in sections {
            let _ = writeln!(text, "{name}{{portainer=\"{}\"}} {}", section.name, value(section));
        }
    }
}

/// The sums of each lane and stream: received = buffered + sealed + suppressed by each rule + lost.
fn stream_metrics(text: &mut String, counts: &[LaneCounts]) {
    type Value = fn(&LaneCounts, Stream) -> u64;
    let kinds: [(&str, &str, Value); 3] = [
        (
            "received",
            "Records received and made durable, since the epoch began.",
            |lane, stream| lane.received.of(stream).records,
        ),
        ("sealed", "Records in sealed bundles.", |lane, stream| {
            lane.sealed.kept.of(stream).records
        }),
        ("lost", "Records damaged on disk and declared lost.", |lane, stream| {
            lane.lost.of(stream).records
        }),
    ];
    for (kind, help, value) in kinds {
        let name = format!("penstock_high_stream_{kind}_records_total");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
        for lane in counts {
            for stream in Stream::ALL {
                let labels = format!("lane=\"{}\",stream=\"{stream}\"", lane.lane);
                let _ = writeln!(text, "{name}{{{labels}}} {}", value(lane, stream));
            }
        }
    }
    let name = "penstock_high_stream_buffered_records";
    let help = "Records in the buffer, not sealed yet.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for lane in counts {
        for stream in Stream::ALL {
            let of = |tally: &Tally| tally.kept.of(stream).records;
            let gone = of(&lane.sealed) + of(&lane.lost);
            let labels = format!("lane=\"{}\",stream=\"{stream}\"", lane.lane);
            let left = of(&lane.received).saturating_sub(gone);
            let _ = writeln!(text, "{name}{{{labels}}} {left}");
        }
    }
    let name = "penstock_high_suppressed_records_total";
    let help = "Records that rules suppressed, since the epoch began.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
    for lane in counts {
        for (rule, stream, count) in lane.received.suppressed() {
            let labels = format!("lane=\"{}\",stream=\"{stream}\",rule=\"{rule}\"", lane.lane);
            let _ = writeln!(text, "{name}{{{labels}}} {}", count.records);
        }
    }
}

/// The live part of the status.
#[derive(Clone, Debug)]
pub struct Live(pub Value);

/// Reads what the running agent last said; `None` if none runs.
pub fn read_live(state_dir: &Path, now: Nanos) -> Option<Live> {
    let text = std::fs::read_to_string(state_dir.join(STATUS_FILE)).ok()?;
    let value: Value = serde_json::from_str(&text).ok()?;
    let updated = Nanos(value.get("updated-ns")?.as_i64()?);
    (now.since(updated) < STALE).then_some(Live(value))
}
