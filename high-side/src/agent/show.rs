//! What the agent shows on its page.

use std::fmt::Write as _;

use page::{Place, Server, Source};
use serde_json::Value;
use shared::clock::{Clock, SystemClock};
use shared::custody::CustodyFolder;
use shared::record::Stream;

use super::report::{METRICS_FILE, read_live};
use crate::buffer::Store;
use crate::cmd::status::gather;
use crate::config::Config;

/// Serves the page. Where that can't be, records go their way all the same, and the log says why.
pub(super) fn serve(config: &Config) -> Option<Server> {
    Server::start_or_tell(config.page.clone(), HighSource { config: config.clone() })
}

struct HighSource {
    config: Config,
}

impl HighSource {
    fn gather(&self) -> Result<Value, String> {
        let store = Store::open(&self.config.state_dir).map_err(|err| err.to_string())?;
        let now = SystemClock.now();
        let live = read_live(&self.config.state_dir, now);
        gather(&self.config, &store, live.as_ref(), now).map_err(|err| err.to_string())
    }

    fn buffer(&self) -> Place {
        Place::of("buffer", &self.config.state_dir)
    }
}

impl Source for HighSource {
    fn status(&mut self) -> Result<String, String> {
        let places = [self.buffer(), Place::of("outbox", &self.config.outbox.path)];
        Ok(page::shown(self.gather()?, "high", self.config.origin.as_str(), &places))
    }

    /// What the agent writes once a second, and what is worth counting only when somebody asks.
    fn metrics(&mut self) -> Result<String, String> {
        let path = self.config.state_dir.join(METRICS_FILE);
        let mut text =
            std::fs::read_to_string(&path).map_err(|err| format!("{}: {err}", path.display()))?;
        waiting_metrics(&mut text, &self.gather()?);
        Ok(text)
    }

    fn ready(&mut self) -> Result<(), String> {
        let status = self.gather()?;
        match status["live"]["writer"]["state"].as_str() {
            None => Err("the agent has not said for a while what it does".to_owned()),
            Some("flowing") => self.buffer().has_room(),
            Some(state) => Err(format!("the buffer takes nothing: {state}")),
        }
    }

    fn flows(&mut self) -> Vec<(String, u64)> {
        let counts = Store::open(&self.config.state_dir).and_then(|store| store.counts());
        let counts = counts.unwrap_or_default();
        let of = |stream: Stream| -> u64 {
            counts.iter().map(|lane| lane.received.of(stream).records).sum()
        };
        Stream::ALL.into_iter().map(|stream| (stream.to_string(), of(stream))).collect()
    }

    fn life(&mut self, bundle: &str) -> Result<Option<String>, String> {
        page::life(&CustodyFolder::at(&self.config.state_dir), bundle)
    }
}

/// What waits, for how long, what is left of the budget, where the bundles are, and the alarms.
fn waiting_metrics(text: &mut String, status: &Value) {
    let mut metric = |name: &str, help: &str, values: Vec<(String, &Value)>| {
        let _ =
            writeln!(text, "# HELP penstock_high_{name} {help}\n# TYPE penstock_high_{name} gauge");
        for (labels, value) in values.into_iter().filter(|(_, value)| value.is_number()) {
            let _ = writeln!(text, "penstock_high_{name}{labels} {value}");
        }
    };
    let lanes = status["lanes"].as_array();
    let of_lanes = |field: &str| -> Vec<(String, &Value)> {
        let label = |lane: &Value| format!("{{lane=\"{}\"}}", lane["lane"].as_str().unwrap_or(""));
        lanes.into_iter().flatten().map(|lane| (label(lane), &lane[field])).collect()
    };
    for (name, help, field) in [
        ("waiting_records", "Records that no bundle holds yet.", "waiting-records"),
        (
            "oldest_waiting_seconds",
            "How long the oldest record has waited that was not handed over; absent where none waits.",
            "oldest-age-secs",
        ),
        ("latency_budget_seconds", "The lane's budget.", "latency-budget-secs"),
        (
            "budget_left_seconds",
            "What is left of it for the oldest record; absent where none waits.",
            "budget-left-secs",
        ),
    ] {
        metric(name, help, of_lanes(field));
    }
    let bundles = status["bundles"].as_object();
    for (name, help, field) in
        [("bundles", "Bundles by state.", "count"), ("bundle_bytes", "Their bytes.", "bytes")]
    {
        let label = |state: &str| format!("{{state=\"{state}\"}}");
        let values = bundles.into_iter().flatten().map(|(state, sum)| (label(state), &sum[field]));
        metric(name, help, values.collect());
    }
    let count = Value::from(status["alarms"].as_array().map_or(0, Vec::len));
    metric("alarms", "Alarms that nobody has acknowledged.", vec![(String::new(), &count)]);
    let adds_up = Value::from(u64::from(status["adds-up"] == true));
    metric(
        "adds_up",
        "1 while everything received is accounted for.",
        vec![(String::new(), &adds_up)],
    );
}
