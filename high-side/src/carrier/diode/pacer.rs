//! So many bytes a second, and no more: nothing tells a one-way sender that it is too fast.

use std::time::{Duration, Instant};

/// Hands out bytes at a rate, slowly at first.
#[derive(Debug)]
pub(super) struct Pacer {
    bytes_per_sec: f64,
    /// What may be sent now; below zero after something was sent.
    allowance: f64,
    updated: Instant,
    started: Instant,
    sent: Instant,
}

/// What a late wake-up may make up for: longer bursts overrun receivers with stock buffers.
const BURST: Duration = Duration::from_millis(4);
/// The least that may go out at once: one train of datagrams.
const BURST_BYTES_MIN: f64 = 64.0 * 1024.0;
/// The rate starts at an eighth and doubles after each such step, so that a receiver whose processor
/// sleeps wakes up before it is needed.
const RAMP_STEP: Duration = Duration::from_millis(100);
const RAMP_STEPS: u32 = 3;
/// After so long without anything to send it starts slowly again.
const IDLE: Duration = Duration::from_secs(2);

impl Pacer {
    pub(super) fn new(bits_per_sec: u64, now: Instant) -> Self {
        let bytes_per_sec = bits_per_sec as f64 / 8.0;
        Self { bytes_per_sec, allowance: 0.0, updated: now, started: now, sent: now }
    }

    /// How long to wait before anything may be sent.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.sent) >= IDLE {
            self.started = now;
            self.sent = now;
            self.updated = now;
        }
        let steps = now.saturating_duration_since(self.started).as_millis() / RAMP_STEP.as_millis();
        let step = u32::try_from(steps).unwrap_or(RAMP_STEPS).min(RAMP_STEPS);
        let rate = self.bytes_per_sec / f64::from(1 << (RAMP_STEPS - step));
        let passed = now.saturating_duration_since(self.updated).as_secs_f64();
        let burst = (rate * BURST.as_secs_f64()).max(BURST_BYTES_MIN);
        self.allowance = (self.allowance + rate * passed).min(burst);
        self.updated = now;
        if self.allowance >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(-self.allowance / rate)
        }
    }

    /// So many bytes went out.
    pub(super) fn spent(&mut self, bytes: usize, now: Instant) {
        self.allowance -= bytes as f64;
        self.sent = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_after_a_slow_start() {
        let begin = Instant::now();
        let mut now = begin;
        let mut pacer = Pacer::new(80_000_000, now);
        let mut sent = [0_usize; 20];
        while now < begin + Duration::from_secs(2) {
            let wait = pacer.wait(now);
            if wait.is_zero() {
                let slot = now.duration_since(begin).as_millis() / 100;
                sent[slot as usize] += 10_000;
                pacer.spent(10_000, now);
            } else {
                // Woken up late each time.
                now += wait + Duration::from_micros(300);
            }
        }
        // 10 MB a second are 1 MB in each tenth.
        assert!(sent[0] < 250_000, "{sent:?}");
        assert!(sent[3..].iter().all(|bytes| (950_000..=1_050_000).contains(bytes)), "{sent:?}");
    }
}
