//! A limit of bytes per second.

use std::time::{Duration, Instant};

/// Says when the next bytes may go. Without a limit: at once.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// Up to when the link is taken by what went.
    taken_until: Option<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, taken_until: None }
    }

    /// How long to wait before more bytes go.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let taken =
            self.taken_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        // Small debts are let run up: a sleep is never as short as it was meant to be.
        if taken < DEBT_MAX { Duration::ZERO } else { taken }
    }

    /// Bytes went.
    pub(super) fn spend(&mut self, bytes: u64, now: Instant) {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else { return };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let span = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // What was not used in the past is not made up for: a burst would fill the queues behind.
        let from = self.taken_until.map_or(now, |until| until.max(now));
        self.taken_until = from.checked_add(span).or(Some(from));
    }
}

const DEBT_MAX: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_and_idle_time_is_not_made_up_for() {
        let mut pace = Pace::new(Some(1_000_000));
        let mut now = Instant::now();
        let start = now;
        for _ in 0..1000 {
            now += pace.wait(now);
            pace.spend(10_000, now);
        }
        let took = now - start;
        assert!(
            (Duration::from_millis(9_900)..Duration::from_secs(10)).contains(&took),
            "{took:?}"
        );
        now += Duration::from_mins(1);
        pace.spend(1_000_000, now);
        assert_eq!(pace.wait(now), Duration::from_secs(1));
        assert_eq!(Pace::new(None).wait(now), Duration::ZERO);
    }
}
