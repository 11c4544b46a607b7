//! Records by stream over the last hour, across restarts of the agent.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::clock::Nanos;
use shared::durable;

/// A sample every so often.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);
/// So many are kept: an hour.
const SAMPLES_MAX: usize = 360;
/// So many streams are told apart.
const STREAMS_MAX: usize = 32;
/// Between two samples that lie further apart nobody looked: the agent did not run.
const APART: Duration = Duration::from_secs(35);
/// 360 samples of 32 streams with long names have less.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Everyone who may read the status may read this.
const FILE_MODE: u32 = 0o644;

/// Samples of sums that only grow.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Sample {
    taken: i64,
    sums: BTreeMap<String, u64>,
}

impl History {
    /// What an agent before us kept in a file. A picture of an hour is no evidence: what can't be read is
    /// begun anew.
    pub(crate) fn read(path: &Path) -> Self {
        let mut text = String::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        let mut history: Self =
            read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default();
        while history.samples.len() > SAMPLES_MAX {
            history.samples.pop_front();
        }
        for sample in &mut history.samples {
            while sample.sums.len() > STREAMS_MAX {
                sample.sums.pop_last();
            }
        }
        history
    }

    /// Keeps everything for the next start.
    pub(crate) fn write(&self, path: &Path) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = durable::write_volatile(path, &text, FILE_MODE) {
            tracing::debug!(%error, path = %path.display(), "the flow can't be kept");
        }
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, taken: Nanos, flows: Vec<(String, u64)>) {
        let sums = flows.into_iter().take(STREAMS_MAX).collect();
        // Those of a clock that was put back since would stand in the future.
        self.samples.retain(|sample| sample.taken < taken.0);
        self.samples.push_back(Sample { taken: taken.0, sums });
        while self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// The flow between each two samples: `{"streams": {"name": [[seconds ago, records a second], ...]}}`;
    /// without a number where the agent did not run.
    pub(crate) fn to_json(&self, now: Nanos) -> Value {
        let mut streams: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        let oldest = INTERVAL * u32::try_from(SAMPLES_MAX).unwrap_or(u32::MAX);
        for (earlier, later) in self.samples.iter().zip(self.samples.iter().skip(1)) {
            let (earlier_taken, taken) = (Nanos(earlier.taken), Nanos(later.taken));
            let (span, ago) = (taken.since(earlier_taken), now.since(taken));
            if ago > oldest {
                continue;
            }
            for (name, sum) in &later.sums {
                let before = earlier.sums.get(name).copied().unwrap_or(0);
                // A new epoch counts from the start again.
                let flow = sum.saturating_sub(before) as f64 / span.as_secs_f64().max(0.001);
                let flow = (span <= APART).then_some((flow * 10.0).round() / 10.0);
                streams.entry(name).or_default().push(json!([ago.as_secs(), flow]));
            }
        }
        json!({ "interval-secs": INTERVAL.as_secs(), "streams": streams })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Nanos {
        Nanos(0).plus(Duration::from_secs(secs))
    }

    fn falco(sum: u64) -> Vec<(String, u64)> {
        vec![("falco".to_owned(), sum)]
    }

    #[test]
    fn flows_are_what_lies_between_two_samples() {
        let mut history = History::default();
        for (second, sum) in [(0, 100), (10, 150), (20, 150), (30, 20)] {
            history.add(at(second), falco(sum));
        }
        let told = history.to_json(at(40));
        assert_eq!(told["streams"]["falco"], json!([[30, 5.0], [20, 0.0], [10, 0.0]]));
        for second in 40..2_000 {
            history.add(at(second), Vec::new());
        }
        assert_eq!(history.samples.len(), SAMPLES_MAX);
        // A clock that was put back.
        history.add(at(35), falco(1));
        history.add(at(45), falco(11));
        assert_eq!(history.to_json(at(45))["streams"]["falco"], json!([[0, 1.0]]));
    }

    #[test]
    fn a_restart_keeps_the_hour_and_shows_when_nobody_looked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flow.json");
        let mut history = History::read(&path);
        history.add(at(0), falco(0));
        history.add(at(10), falco(20));
        history.write(&path);
        let mut history = History::read(&path);
        history.add(at(300), falco(5_000));
        history.add(at(310), falco(5_010));
        let told = history.to_json(at(310));
        assert_eq!(told["streams"]["falco"], json!([[300, 2.0], [10, null], [0, 1.0]]));
        // Hours later nothing of it is shown.
        assert_eq!(history.to_json(at(9_000))["streams"], json!({}));
        for broken in ["", "{", "{\"samples\":[{\"taken\":\"x\"}]}", "[]"] {
            std::fs::write(&path, broken).unwrap();
            assert!(History::read(&path).samples.is_empty(), "{broken}");
        }
    }

    #[test]
    fn a_full_hour_fits_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flow.json");
        let mut history = History::default();
        for sample in 0..SAMPLES_MAX as u64 {
            let flows = (0..STREAMS_MAX).map(|at| (format!("{at:040}"), u64::MAX - sample));
            history.add(at(10 * sample), flows.collect());
        }
        history.write(&path);
        assert_eq!(History::read(&path).samples.len(), SAMPLES_MAX);
    }
}
