//! How long a sink waits in the middle of a batch while its receiver takes nothing.
//!
//! While nothing of a batch was taken, the replayer waits, and shows that it does. Later, a new start would
//! repeat what was taken; and a receiver that takes less in a while than a batch holds would never have
//! seen the end of it.

use std::time::{Duration, Instant};

use shared::bell::Bell;

use super::SinkError;

/// The waits for one request. Each pause is twice as long as the one before.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
    longest: Duration,
}

impl Patience {
    /// Waits that end after `within`; the first and the longest pause.
    pub(super) fn new(within: Duration, (first, longest): (Duration, Duration)) -> Self {
        Self { until: Instant::now() + within, pause: first, longest: longest.max(first) }
    }

    /// Rests, as long as the receiver `asked` for at least; `false` where the time is over.
    pub(super) fn rest(&mut self, bell: &Bell, asked: Option<Duration>) -> Result<bool, SinkError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        bell.rest(self.pause.max(asked.unwrap_or_default()).min(left));
        if bell.stopping() {
            return Err(SinkError::Stopping);
        }
        self.pause = self.pause.saturating_mul(2).min(self.longest);
        Ok(true)
    }
}

/// The first and the longest pause where the receiver asks for none.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// After so long a batch that is half taken is sent again.
pub(super) const WAIT_MAX: Duration = Duration::from_mins(5);
