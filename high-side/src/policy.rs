//! When to seal: plain code over values.
//!
//! The latency budget is what a record may take from reception to the SIEM. A share of it is kept
//! for the transfer; the rest, less the time that sealing itself takes, is the age at which the
//! oldest record's bundle is cut.

use std::time::Duration;

use shared::bundle::SealReason;
use shared::clock::Nanos;

/// The rules of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealPolicy {
    /// How long a record may take from reception to the SIEM.
    pub latency_budget: Duration,
    /// The part of it that is kept for the transfer, in percent.
    pub transfer_share_percent: u8,
    /// The most records in one bundle.
    pub records_max: u64,
    /// The most record bytes in one bundle, before compression.
    pub plain_bytes_max: u64,
    /// After this long without a bundle, an empty one says that all is well.
    pub heartbeat: Duration,
}

/// What one lane holds that is not sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Records in the buffer.
    pub records: u64,
    /// Their encodings' length, in bytes.
    pub plain_bytes: u64,
    /// When the oldest was received.
    pub oldest: Option<Nanos>,
    /// When the oldest loss that no bundle declares yet was noted.
    pub oldest_loss: Option<Nanos>,
    /// When the lane's last bundle was sealed; the start of the epoch before the first.
    pub last_sealed: Nanos,
}

impl SealPolicy {
    /// The age of the oldest record at which a bundle is cut.
    pub fn seal_age(&self, plain_bytes: u64) -> Duration {
        let share = u32::from(100 - self.transfer_share_percent.min(100));
        let before_transfer = self.latency_budget.saturating_mul(share) / 100;
        let sealing = Duration::from_millis(plain_bytes / SEAL_BYTES_PER_MILLI);
        before_transfer.saturating_sub(sealing)
    }

    /// Whether to cut a bundle now, and why.
    pub fn decide(&self, waiting: &Waiting, now: Nanos) -> Option<SealReason> {
        if waiting.plain_bytes >= self.plain_bytes_max {
            return Some(SealReason::Size);
        }
        if waiting.records >= self.records_max {
            return Some(SealReason::Count);
        }
        let oldest = waiting.oldest.into_iter().chain(waiting.oldest_loss).min();
        match oldest {
            Some(oldest) if now.since(oldest) >= self.seal_age(waiting.plain_bytes) => {
                Some(SealReason::Age)
            }
            None if now.since(waiting.last_sealed) >= self.heartbeat => Some(SealReason::Heartbeat),
            _ => None,
        }
    }

    /// What is left of the budget for the oldest record; zero when it is overdrawn.
    pub fn budget_left(&self, oldest: Nanos, now: Nanos) -> Duration {
        self.latency_budget.saturating_sub(now.since(oldest))
    }
}

/// A cautious guess at how fast a bundle is sealed (20 MB/s), so that large ones begin earlier.
const SEAL_BYTES_PER_MILLI: u64 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: SealPolicy = SealPolicy {
        latency_budget: Duration::from_mins(5),
        transfer_share_percent: 40,
        records_max: 1000,
        plain_bytes_max: 1_000_000,
        heartbeat: Duration::from_mins(1),
    };

    fn secs(count: i64) -> Nanos {
        Nanos(count * 1_000_000_000)
    }

    #[test]
    fn a_bundle_is_cut_when_age_size_or_count_says_so() {
        let waiting = |records, plain_bytes, oldest: Option<i64>, last: i64| Waiting {
            records,
            plain_bytes,
            oldest: oldest.map(secs),
            oldest_loss: None,
            last_sealed: secs(last),
        };
        let now = secs(1000);
        for (waiting, expected) in [
            (waiting(0, 0, None, 999), None),
            (waiting(0, 0, None, 941), None),
            (waiting(0, 0, None, 940), Some(SealReason::Heartbeat)),
            // Records say more than a heartbeat does, and wait for their own time.
            (waiting(1, 100, Some(900), 100), None),
            (waiting(1, 100, Some(821), 100), None),
            (waiting(1, 100, Some(820), 999), Some(SealReason::Age)),
            (waiting(1000, 100, Some(999), 999), Some(SealReason::Count)),
            (waiting(9, 1_000_000, Some(999), 999), Some(SealReason::Size)),
            // A clock that went back makes nothing old.
            (waiting(1, 100, Some(2000), 2000), None),
        ] {
            assert_eq!(POLICY.decide(&waiting, now), expected, "{waiting:?}");
        }
    }

    #[test]
    fn a_loss_alone_crosses_as_fast_as_a_record() {
        let waiting = Waiting { oldest_loss: Some(secs(0)), ..Waiting::default() };
        assert_eq!(POLICY.decide(&waiting, secs(179)), None);
        assert_eq!(POLICY.decide(&waiting, secs(180)), Some(SealReason::Age));
    }

    #[test]
    fn large_bundles_begin_earlier() {
        assert_eq!(POLICY.seal_age(0), Duration::from_mins(3));
        assert_eq!(POLICY.seal_age(2_000_000_000), Duration::from_secs(80));
        assert_eq!(POLICY.seal_age(u64::MAX), Duration::ZERO);
    }

    #[test]
    fn the_budget_left_is_counted_from_reception() {
        assert_eq!(POLICY.budget_left(secs(0), secs(100)), Duration::from_secs(200));
        assert_eq!(POLICY.budget_left(secs(0), secs(400)), Duration::ZERO);
    }
}
