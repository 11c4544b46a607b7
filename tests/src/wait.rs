//! Waiting: always for a condition, always with a deadline.

use std::time::{Duration, Instant};

/// Long enough for a loaded machine of one core; a test that needs more says so.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Polls until `condition` holds.
///
/// # Panics
/// When it does not hold within `deadline`; the message names `what` was awaited.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, what, || condition().then_some(()));
}

/// Polls until `probe` gives a value.
///
/// # Panics
/// When it gives none within `deadline`; the message names `what` was awaited.
pub fn wait_for<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(started.elapsed() < deadline, "after {deadline:?} still no {what}");
        std::thread::sleep(POLL_INTERVAL); // ok: the pause between two polls
    }
}

/// Short against anything awaited, long enough not to take a core from what is awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut polls = 0;
        let value = wait_for(PATIENCE, "third poll", || {
            polls += 1;
            (polls == 3).then_some(polls)
        });
        assert_eq!(value, 3);
    }
}
