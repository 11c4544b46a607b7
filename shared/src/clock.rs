//! Time as a parameter, so that tests can be deterministic and cruel.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// UTC time in nanoseconds since the Unix epoch; the unit of every stored time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub i64);

impl Nanos {
    /// This time as whole seconds, rounded down.
    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// How long `self` lies after `earlier`; zero when the clock went backwards.
    pub fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// `self` plus a duration, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Nanos {
        let nanos = i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        Nanos(self.0.saturating_add(nanos))
    }
}

/// RFC 3339 in UTC with nine digits: `2026-11-23T21:10:19.000000000Z`.
impl std::fmt::Display for Nanos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(time) => write!(f, "{time:.9}"),
            Err(_) => write!(f, "{}ns", self.0),
        }
    }
}

/// RFC 3339, with any offset from UTC.
impl std::str::FromStr for Nanos {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let time: jiff::Timestamp = text.parse().map_err(|_| TimeError(text.to_owned()))?;
        let nanos = i64::try_from(time.as_nanosecond()).map_err(|_| TimeError(text.to_owned()))?;
        Ok(Self(nanos))
    }
}

/// A text that is no time.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no time: write it as 2026-11-23T21:10:19Z or with an offset, as ...19+01:00")]
pub struct TimeError(String);

/// A source of UTC time.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Nanos;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    fn now(&self) -> Nanos {
        let nanos = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX),
        };
        Nanos(nanos)
    }
}

/// A clock that a test moves by hand; clones share one time.
#[derive(Clone, Debug, Default)]
pub struct FakeClock(Arc<AtomicI64>);

impl FakeClock {
    /// A clock that stands at `start`.
    pub fn at(start: Nanos) -> Self {
        Self(Arc::new(AtomicI64::new(start.0)))
    }

    /// Moves the clock forward.
    pub fn advance(&self, span: Duration) {
        let now = self.now().plus(span);
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_rfc3339_with_nanoseconds() {
        assert_eq!(Nanos(1_795_468_219_000_000_001).to_string(), "2026-11-23T21:10:19.000000001Z");
        assert_eq!(Nanos(0).to_string(), "1970-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn a_clock_that_went_backwards_gives_no_age() {
        assert_eq!(Nanos(5).since(Nanos(9)), Duration::ZERO);
    }
}
