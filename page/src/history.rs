//! Records by stream over the last hour.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A sample every so often.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);
/// So many are kept: an hour.
const SAMPLES_MAX: usize = 360;
/// So many streams are told apart.
const STREAMS_MAX: usize = 32;

/// Samples of sums that only grow.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
}

#[derive(Debug)]
struct Sample {
    taken: Instant,
    sums: BTreeMap<String, u64>,
}

impl History {
    /// Adds a sample.
    pub(crate) fn add(&mut self, taken: Instant, flows: Vec<(String, u64)>) {
        let sums = flows.into_iter().take(STREAMS_MAX).collect();
        self.samples.push_back(Sample { taken, sums });
        while self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// The flow between each two samples: `{"streams": {"name": [[seconds ago, records a second], ...]}}`.
    pub(crate) fn to_json(&self, now: Instant) -> Value {
        let mut streams: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for (earlier, later) in self.samples.iter().zip(self.samples.iter().skip(1)) {
            let span = later.taken.duration_since(earlier.taken).as_secs_f64().max(0.001);
            let ago = now.duration_since(later.taken).as_secs();
            for (name, sum) in &later.sums {
                let before = earlier.sums.get(name).copied().unwrap_or(0);
                // A new epoch counts from the start again.
                let flow = sum.saturating_sub(before) as f64 / span;
                streams.entry(name).or_default().push(json!([ago, (flow * 10.0).round() / 10.0]));
            }
        }
        json!({ "interval-secs": INTERVAL.as_secs(), "streams": streams })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_what_lies_between_two_samples() {
        let start = Instant::now();
        let mut history = History::default();
        for (second, sum) in [(0, 100), (10, 150), (20, 150), (30, 20)] {
            let at = start + Duration::from_secs(second);
            history.add(at, vec![("falco".to_owned(), sum)]);
        }
        let told = history.to_json(start + Duration::from_secs(40));
        assert_eq!(told["streams"]["falco"], json!([[30, 5.0], [20, 0.0], [10, 0.0]]));
        for _ in 0..1000 {
            history.add(start, Vec::new());
        }
        assert_eq!(history.samples.len(), SAMPLES_MAX);
    }
}
