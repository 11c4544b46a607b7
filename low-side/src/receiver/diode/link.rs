//! What a link lost, counted by the numbers that the sender gives to its datagrams.

use std::sync::atomic::{AtomicU64, Ordering};

use shared::diode::{DatagramError, LinkStamp};

/// What came over a link since the start. Written by the thread that receives, read by others.
#[derive(Debug, Default)]
pub(super) struct LinkCounters {
    /// Datagrams that carry the link's tag, each once.
    pub(super) received: AtomicU64,
    /// Their bytes.
    pub(super) received_bytes: AtomicU64,
    /// Datagrams that the sender sent and that did not come.
    pub(super) lost: AtomicU64,
    /// The most that were lost in one stretch.
    pub(super) burst: AtomicU64,
    /// The most that were lost in one stretch since somebody last looked.
    pub(super) burst_recent: AtomicU64,
    /// Datagrams that came twice, or were replayed.
    pub(super) repeated: AtomicU64,
    /// Datagrams of nobody we know.
    pub(super) foreign: AtomicU64,
    /// Datagrams of this link whose tag is wrong: forged or damaged.
    pub(super) forged: AtomicU64,
    /// Datagrams with a good tag that say what can't be, or in another version.
    pub(super) malformed: AtomicU64,
    /// Datagrams for which the socket's buffer had no room, as the kernel counts them.
    pub(super) socket_drops: AtomicU64,
    /// The size of the socket's buffer, in bytes, as the kernel gives it.
    pub(super) buffer_bytes: AtomicU64,
    /// Failures of the socket.
    pub(super) failures: AtomicU64,
    /// How often everything that may wait for the disk was waiting.
    pub(super) stalls: AtomicU64,
}

impl LinkCounters {
    pub(super) fn count_error(&self, error: DatagramError) {
        let counter = match error {
            DatagramError::Foreign => &self.foreign,
            DatagramError::Forged => &self.forged,
            DatagramError::Malformed | DatagramError::Version => &self.malformed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Follows the numbers of one sender.
#[derive(Debug)]
pub(super) struct Follower {
    run: u64,
    /// The lowest number that has not come, nor a higher one.
    next: u64,
    /// Whether each of the last numbers came.
    window: Box<[u64]>,
}

/// How far back a number may be late, in datagrams.
const WINDOW: u64 = 1 << 16;

impl Follower {
    pub(super) fn new() -> Self {
        Self { run: 0, next: 0, window: vec![0; (WINDOW / 64) as usize].into() }
    }

    /// Notes a datagram that carries the tag; false where it came before.
    pub(super) fn note(&mut self, stamp: LinkStamp, counters: &LinkCounters) -> bool {
        if stamp.run > self.run {
            // The sender started, or we did: what was sent before is not known to be lost.
            self.run = stamp.run;
            self.next = stamp.sequence;
            self.window.fill(0);
        } else if stamp.run < self.run {
            return true;
        }
        let sequence = stamp.sequence;
        if sequence >= self.next {
            let lost = sequence - self.next;
            if lost > 0 {
                counters.lost.fetch_add(lost, Ordering::Relaxed);
                counters.burst.fetch_max(lost, Ordering::Relaxed);
                counters.burst_recent.fetch_max(lost, Ordering::Relaxed);
            }
            for skipped in (self.next..sequence).take(WINDOW as usize) {
                self.mark(skipped, false);
            }
            if lost > WINDOW {
                self.window.fill(0);
            }
            self.mark(sequence, true);
            self.next = sequence.saturating_add(1);
        } else if self.next - sequence > WINDOW {
            // Too late to say; whether its shard is of use is seen by the shard.
            return true;
        } else if self.is_marked(sequence) {
            counters.repeated.fetch_add(1, Ordering::Relaxed);
            return false;
        } else {
            self.mark(sequence, true);
            // It was counted as lost, unless it is from before we began to follow.
            let _ = counters
                .lost
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |lost| lost.checked_sub(1));
        }
        true
    }

    fn mark(&mut self, sequence: u64, came: bool) {
        let at = sequence % WINDOW;
        let word = &mut self.window[(at / 64) as usize];
        if came {
            *word |= 1 << (at % 64);
        } else {
            *word &= !(1 << (at % 64));
        }
    }

    fn is_marked(&self, sequence: u64) -> bool {
        let at = sequence % WINDOW;
        self.window[(at / 64) as usize] >> (at % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_late_ones_and_repeats_are_told_apart() {
        let counters = LinkCounters::default();
        let mut follower = Follower::new();
        let mut note = |run, sequence| follower.note(LinkStamp { run, sequence }, &counters);
        assert!(note(7, 100) && note(7, 101) && note(7, 105) && note(7, 103));
        assert!(!note(7, 103) && !note(7, 100));
        assert_eq!(counters.lost.load(Ordering::Relaxed), 2);
        assert_eq!(counters.burst.load(Ordering::Relaxed), 3);
        assert_eq!(counters.repeated.load(Ordering::Relaxed), 2);
        // An older run is no loss, a newer one begins anew, and a jump is only counted.
        assert!(note(6, 9) && note(8, 0) && note(8, u64::MAX - 1) && !note(8, u64::MAX - 1));
        assert!(note(8, 5));
    }
}
