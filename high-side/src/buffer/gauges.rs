//! What the writer is doing, readable at any time without asking it.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shared::clock::Nanos;
use shared::record::Lane;

/// What the writer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// Committing whatever comes.
    Flowing,
    /// Waiting: the buffer holds as much as its quota allows.
    QuotaReached,
    /// Waiting: the file system has less free space than its floor.
    FreeDiskFloor,
    /// Waiting: the file system is full.
    DiskFull,
    /// Waiting: the database could not be written to and is being opened again.
    Reopening,
    /// It has ended.
    Stopped,
}

impl WriterState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Flowing,
        Self::QuotaReached,
        Self::FreeDiskFloor,
        Self::DiskFull,
        Self::Reopening,
        Self::Stopped,
    ];

    /// The state's name.
    pub fn as_str(self) -> &'static str {
        match self {
            WriterState::Flowing => "flowing",
            WriterState::QuotaReached => "quota-reached",
            WriterState::FreeDiskFloor => "free-disk-floor",
            WriterState::DiskFull => "disk-full",
            WriterState::Reopening => "reopening",
            WriterState::Stopped => "stopped",
        }
    }

    fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|state| *state as u8 == code).unwrap_or(Self::Stopped)
    }
}

/// Gauges and counters of the writer, since it started.
#[derive(Debug, Default)]
pub struct BufferGauges {
    state: AtomicU8,
    since: AtomicI64,
    waited_ns: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    commits: AtomicU64,
    last_sequence: [AtomicU64; Lane::ALL.len()],
    latency: Latency,
}

impl BufferGauges {
    /// What the writer is doing.
    pub fn state(&self) -> WriterState {
        WriterState::from_code(self.state.load(Relaxed))
    }

    /// Since when it is doing that.
    pub fn since(&self) -> Nanos {
        Nanos(self.since.load(Relaxed))
    }

    /// How long it has waited in all, without the present wait.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_ns.load(Relaxed))
    }

    /// Records made durable.
    pub fn committed_records(&self) -> u64 {
        self.records.load(Relaxed)
    }

    /// Raw bytes made durable.
    pub fn committed_bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Transactions committed.
    pub fn commits(&self) -> u64 {
        self.commits.load(Relaxed)
    }

    /// The last durable sequence number of a lane.
    pub fn last_sequence(&self, lane: Lane) -> u64 {
        self.last_sequence[lane as usize].load(Relaxed)
    }

    /// The time from submitting to durable within which a share of all groups stayed, judged by
    /// the oldest batch of each group; exact to a fifth.
    pub fn latency(&self, share: f64) -> Duration {
        self.latency.quantile(share)
    }

    /// The writer begins: from now on it is doing what it does.
    pub(super) fn begin(&self, now: Nanos) {
        self.since.store(now.0, Relaxed);
    }

    pub(super) fn enter(&self, state: WriterState, now: Nanos) {
        let before = self.state();
        if before == state {
            return;
        }
        if !matches!(before, WriterState::Flowing | WriterState::Stopped) {
            let waited = now.since(self.since());
            self.waited_ns.fetch_add(waited.as_nanos() as u64, Relaxed);
        }
        self.since.store(now.0, Relaxed);
        self.state.store(state as u8, Relaxed);
    }

    pub(super) fn committed(&self, records: u64, bytes: u64, took: Duration) {
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.commits.fetch_add(1, Relaxed);
        self.latency.add(took);
    }

    pub(super) fn set_last_sequence(&self, lane: Lane, sequence: u64) {
        self.last_sequence[lane as usize].store(sequence, Relaxed);
    }
}

/// A histogram with four buckets for each doubling of a microsecond.
#[derive(Debug)]
struct Latency([AtomicU64; BUCKETS]);

impl Default for Latency {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Latency {
    fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(4);
        let doublings = micros.ilog2();
        let quarter = micros >> (doublings - 2) & 3;
        let bucket = (4 * u64::from(doublings) + quarter) as usize;
        self.0[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    fn quantile(&self, share: f64) -> Duration {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Relaxed)).collect();
        let wanted = counts.iter().sum::<u64>() as f64 * share;
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= wanted {
                let (doublings, quarter) = (bucket as u32 / 4, bucket as u64 % 4);
                return Duration::from_micros((5 + quarter) << doublings >> 2);
            }
        }
        Duration::ZERO
    }
}

/// Up to 2^32 microseconds, more than an hour.
const BUCKETS: usize = 4 * 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_to_a_fifth() {
        let latency = Latency::default();
        for micros in 1..=10_000 {
            latency.add(Duration::from_micros(micros));
        }
        for (share, micros) in [(0.5, 5000.0), (0.99, 9900.0)] {
            let ratio = latency.quantile(share).as_micros() as f64 / micros;
            assert!((1.0..1.25).contains(&ratio), "{share}: {ratio}");
        }
        assert_eq!(Latency::default().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn waiting_is_added_up() {
        let gauges = BufferGauges::default();
        gauges.enter(WriterState::QuotaReached, Nanos(100));
        gauges.enter(WriterState::QuotaReached, Nanos(150));
        assert_eq!((gauges.state(), gauges.since()), (WriterState::QuotaReached, Nanos(100)));
        gauges.enter(WriterState::Flowing, Nanos(300));
        gauges.enter(WriterState::Stopped, Nanos(900));
        assert_eq!(gauges.waited(), Duration::from_nanos(200));
    }
}
