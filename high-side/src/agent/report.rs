//! What the running agent says of itself, once a second: `status.json` for the `status` verb, and
//! `metrics.prom` in the text format of Prometheus for a collector of text files.

use std::path::Path;
use std::time::Duration;

use page::Place;
use page::metrics::Format;
use serde_json::{Value, json};
use shared::clock::Nanos;
use shared::durable;

use super::numbers::{numbers, waiting_secs};
use super::sealing::Sealing;
use crate::buffer::{BufferGauges, Store};
use crate::carrier::RunningCarriers;
use crate::cmd::status::gather;
use crate::config::Config;
use crate::ingest::RunningListener;
use crate::reconcile::Reconciling;
use crate::tail::RunningFiles;

/// The live part of the status.
const STATUS_FILE: &str = "status.json";
/// The metrics.
const METRICS_FILE: &str = "metrics.prom";
/// How often both are written.
const INTERVAL: Duration = Duration::from_secs(1);
/// A report older than this comes from an agent that does not run any more.
const STALE: Duration = Duration::from_secs(5);

/// How often the database is asked for the numbers in [`METRICS_FILE`].
const ASK_INTERVAL: Duration = Duration::from_secs(10);

/// Everything that records come from.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) listeners: &'a [RunningListener],
    pub(super) files: &'a [RunningFiles],
    pub(super) reconciling: Option<&'a Reconciling>,
}

/// What goes out.
#[derive(Clone, Copy)]
pub(super) struct Going<'a> {
    pub(super) sealing: &'a Sealing,
    pub(super) carriers: &'a RunningCarriers,
}

/// Writes what the agent says of itself.
#[derive(Debug)]
pub(super) struct Reporter {
    started: Nanos,
    last: Option<Nanos>,
    /// What the database said last, and when: asking it is worth a while of the disk.
    known: Option<(Nanos, Value)>,
}

impl Reporter {
    pub(super) fn new(started: Nanos) -> Self {
        Self { started, last: None, known: None }
    }

    /// Writes both files, if it is time or `now` is asked for. A failure is no reason to stop: the
    /// report says less than it could, the records flow on.
    pub(super) fn write(
        &mut self,
        config: &Config,
        gauges: &BufferGauges,
        sources: Sources<'_>,
        going: Going<'_>,
        time: Nanos,
        now: bool,
    ) {
        if !now && self.last.is_some_and(|last| time.since(last) < INTERVAL && time >= last) {
            return;
        }
        self.last = Some(time);
        // The service manager may wait for a sign of life. Outside of one there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        let sections = sources.reconciling.map(Reconciling::sections).unwrap_or_default();
        let mut live = status(gauges, sources, going, time);
        live["portainer-apis"] = json!(sections);
        live["started-ns"] = json!(self.started.0);
        let write = |name: &str, text: String| {
            durable::write_volatile(&config.state_dir.join(name), text.as_bytes(), 0o644)
        };
        let mut result = write(STATUS_FILE, format!("{live}\n"));
        if let Some(mut known) = self.known(config, time, now) {
            known["live"] = live;
            let numbers = numbers(&known, &places(config));
            result = result.and_then(|()| write(METRICS_FILE, numbers.text(Format::Text)));
        }
        if let Err(err) = result {
            tracing::debug!(%err, "the status can't be written");
        }
    }

    /// What the database knows. Where it can't be read now, the next report has it.
    fn known(&mut self, config: &Config, time: Nanos, now: bool) -> Option<Value> {
        let fresh = |asked: Nanos| time >= asked && time.since(asked) < ASK_INTERVAL;
        if now || !self.known.as_ref().is_some_and(|(asked, _)| fresh(*asked)) {
            let store = Store::open(&config.state_dir).ok()?;
            self.known = Some((time, gather(config, &store, None, time).ok()?));
        }
        self.known.as_ref().map(|(_, known)| known.clone())
    }
}

/// The folders whose disks are watched.
pub(crate) fn places(config: &Config) -> [Place; 2] {
    [Place::of("buffer", &config.state_dir), Place::of("outbox", &config.outbox.path)]
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
            "waiting-secs": waiting_secs(gauges.state(), gauges.since(), time),
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
