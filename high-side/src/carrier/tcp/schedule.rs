//! Which piece of which bundle goes next. Pure: no sockets, no files, no clock.
//!
//! ```text
//! offered ──> sending ──last byte written──> written ──the kernel has it──> resting ──> sending ...
//!                ▲            │                 │                                   (next pass)
//!                └── broken connection: back to what was surely taken, less `rewind` ──> done
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use shared::bundle::BundleDigest;
use shared::record::Lane;

/// How often each bundle is sent, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Passes of each bundle, at least 1.
    pub(super) repeats: u32,
    /// From the end of a pass to the begin of the next.
    pub(super) interval: Duration,
    /// How far a broken connection throws a bundle back behind what the kernel had handed on.
    pub(super) rewind: u64,
    /// Bundles that are looked after at one time.
    pub(super) window: usize,
}

/// The bundles on their way.
#[derive(Debug)]
pub(super) struct Schedule {
    rules: Rules,
    entries: Vec<Entry>,
    /// Pieces of urgent bundles since the last one of another.
    urgent_run: u32,
}

#[derive(Debug)]
struct Entry {
    bundle: BundleDigest,
    lane: Lane,
    total: u64,
    passes: u32,
    state: State,
    /// Ends of pieces: in the connection and in the bundle.
    marks: VecDeque<(u64, u64)>,
    /// Where this connection began with it.
    base: u64,
    /// Up to here the kernel has handed on what was written in this pass.
    safe: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Resting {
        until: Instant,
    },
    Sending {
        offset: u64,
    },
    /// All of a pass was written; its end in the connection.
    Written {
        end: u64,
    },
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before this time, unless bundles are offered.
    At(Instant),
    /// Nothing, unless bundles are offered or what was written is confirmed.
    Nothing,
    /// Bytes of this bundle from this place.
    Send {
        bundle: BundleDigest,
        offset: u64,
        /// Whether it is the first piece of a pass.
        first: bool,
    },
}

impl Schedule {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, entries: Vec::new(), urgent_run: 0 }
    }

    /// A bundle waits. False: it is known, or there is no room for it yet. Urgent ones always have.
    pub(super) fn offer(&mut self, bundle: BundleDigest, lane: Lane, total: u64) -> bool {
        let full = self.entries.len() >= self.rules.window && lane != Lane::Flash;
        if full || self.entries.iter().any(|entry| entry.bundle == bundle) {
            return false;
        }
        let state = State::Sending { offset: 0 };
        let marks = VecDeque::new();
        self.entries.push(Entry { bundle, lane, total, passes: 0, state, marks, base: 0, safe: 0 });
        true
    }

    /// A bundle is not to be sent any more.
    pub(super) fn remove(&mut self, bundle: &BundleDigest) {
        self.entries.retain(|entry| entry.bundle != *bundle);
    }

    /// What goes next: urgent bundles before others, in the order they were offered, but for one
    /// piece in [`URGENT_RUN_MAX`], so that the others never stand still.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        // With nothing else to do and no room for more, resting is a waste of the link.
        let crowded = self.entries.len() >= self.rules.window
            && !self.entries.iter().any(|entry| matches!(entry.state, State::Sending { .. }));
        for entry in &mut self.entries {
            if let State::Resting { until } = entry.state
                && (until <= now || crowded)
            {
                entry.state = State::Sending { offset: 0 };
            }
        }
        let first = |urgent: bool| {
            self.entries.iter().find(|entry| {
                matches!(entry.state, State::Sending { .. })
                    && (entry.lane == Lane::Flash) == urgent
            })
        };
        let (urgent, other) = (first(true), first(false));
        let turn =
            if self.urgent_run >= URGENT_RUN_MAX { other.or(urgent) } else { urgent.or(other) };
        if let Some(Entry { bundle, state: State::Sending { offset }, lane, .. }) = turn {
            self.urgent_run =
                if *lane == Lane::Flash { self.urgent_run.saturating_add(1) } else { 0 };
            return Next::Send { bundle: *bundle, offset: *offset, first: *offset == 0 };
        }
        let rests = self.entries.iter().filter_map(|entry| match entry.state {
            State::Resting { until } => Some(until),
            _ => None,
        });
        rests.min().map_or(Next::Nothing, Next::At)
    }

    /// Bytes of a bundle were written; `end` is their end in the connection.
    pub(super) fn sent(&mut self, bundle: &BundleDigest, bytes: u64, end: u64) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.bundle == *bundle) else {
            return;
        };
        let State::Sending { offset } = entry.state else { return };
        let offset = offset + bytes;
        entry.marks.push_back((end, offset));
        entry.state =
            if offset >= entry.total { State::Written { end } } else { State::Sending { offset } };
    }

    /// The kernel has handed on everything before this place in the connection. Gives the bundles
    /// whose last pass is complete.
    pub(super) fn confirmed(&mut self, place: u64, now: Instant) -> Vec<BundleDigest> {
        let mut done = Vec::new();
        for entry in &mut self.entries {
            while let Some(&(end, offset)) = entry.marks.front() {
                if end > place {
                    break;
                }
                entry.safe = offset;
                entry.marks.pop_front();
            }
            if let State::Written { end } = entry.state
                && end <= place
            {
                entry.passes += 1;
                (entry.base, entry.safe) = (0, 0);
                entry.marks.clear();
                entry.state = if entry.passes >= self.rules.repeats {
                    done.push(entry.bundle);
                    State::Done
                } else {
                    State::Resting { until: now + self.rules.interval }
                };
            }
        }
        done
    }

    /// The connection is gone, and what it had not handed on with it.
    pub(super) fn broken(&mut self) {
        for entry in &mut self.entries {
            entry.marks.clear();
            if matches!(entry.state, State::Sending { .. } | State::Written { .. }) {
                // What the kernel handed on may be lost in the memory of whoever took it. Half of what
                // a connection gained is kept, so that there is progress however short they are.
                let gained = entry.safe.saturating_sub(entry.base);
                let offset = entry.safe - self.rules.rewind.min(gained / 2);
                (entry.base, entry.safe) = (offset, offset);
                entry.state = State::Sending { offset };
            }
        }
    }

    /// The connection was closed in order, everything was confirmed, and another one begins.
    pub(super) fn reopened(&mut self) {
        for entry in &mut self.entries {
            entry.marks.clear();
            entry.base = entry.safe;
        }
    }

    /// Whether something was written that is not confirmed.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.entries.iter().any(|entry| !entry.marks.is_empty())
    }

    /// Whether a pass waits for nothing but its confirmation.
    pub(super) fn is_pass_written(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.state, State::Written { .. }))
    }
}

/// Of so many pieces one belongs to a bundle that is not urgent, if there is one.
const URGENT_RUN_MAX: u32 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { repeats: 2, interval: Duration::from_secs(10), rewind: 1000, window: 4 };
    const PIECE: u64 = 500;

    fn digest(n: u8) -> BundleDigest {
        BundleDigest::of(&[n])
    }

    /// Sends until nothing is left to send now; gives (bundle, offset) of each piece.
    fn run(
        schedule: &mut Schedule,
        now: Instant,
        place: &mut u64,
        pieces: usize,
    ) -> Vec<(BundleDigest, u64)> {
        let mut sent = Vec::new();
        while sent.len() < pieces
            && let Next::Send { bundle, offset, .. } = schedule.next(now)
        {
            *place += PIECE;
            schedule.sent(&bundle, PIECE, *place);
            sent.push((bundle, offset));
        }
        sent
    }

    #[test]
    fn urgent_bundles_overtake_and_others_do_not_stand_still() {
        let (mut schedule, now, mut place) = (Schedule::new(RULES), Instant::now(), 0);
        assert!(schedule.offer(digest(1), Lane::Routine, 100 * PIECE));
        assert_eq!(run(&mut schedule, now, &mut place, 10).len(), 10);
        assert!(schedule.offer(digest(2), Lane::Flash, 40 * PIECE));
        assert!(!schedule.offer(digest(2), Lane::Flash, 40 * PIECE), "it is known");
        let sent = run(&mut schedule, now, &mut place, 40);
        let urgent = sent.iter().filter(|(bundle, _)| *bundle == digest(2)).count();
        assert_eq!(urgent, 38);
        assert_eq!(sent[0], (digest(2), 0));
    }

    #[test]
    fn a_bundle_is_done_when_its_last_pass_is_confirmed() {
        let (mut schedule, start, mut place) = (Schedule::new(RULES), Instant::now(), 0);
        schedule.offer(digest(1), Lane::Routine, 3 * PIECE);
        assert_eq!(run(&mut schedule, start, &mut place, 99).len(), 3);
        assert!(schedule.is_pass_written());
        assert_eq!(schedule.next(start), Next::Nothing);
        assert!(schedule.confirmed(place - 1, start).is_empty());
        assert!(schedule.confirmed(place, start).is_empty(), "one of two passes");
        assert_eq!(schedule.next(start), Next::At(start + RULES.interval));
        let later = start + RULES.interval;
        assert_eq!(run(&mut schedule, later, &mut place, 99).len(), 3);
        assert_eq!(schedule.confirmed(place, later), [digest(1)]);
        assert_eq!(schedule.next(later + RULES.interval), Next::Nothing);
    }

    #[test]
    fn a_broken_connection_throws_back_and_still_there_is_progress() {
        let (mut schedule, now) = (Schedule::new(RULES), Instant::now());
        schedule.offer(digest(1), Lane::Routine, 100 * PIECE);
        let mut starts = Vec::new();
        for _ in 0..4 {
            // Each connection takes ten pieces; the kernel hands eight of them on.
            let mut place = 0;
            starts.push(run(&mut schedule, now, &mut place, 10)[0].1);
            schedule.confirmed(8 * PIECE, now);
            schedule.broken();
        }
        assert_eq!(starts, [0, 3000, 6000, 9000], "eight pieces on, 1000 bytes back");
        // Broken twice without anything new: it is not thrown back ever further for one loss.
        schedule.broken();
        let mut place = 0;
        assert_eq!(run(&mut schedule, now, &mut place, 1)[0].1, 12_000);
        // Connections that gain less than that go on, too.
        schedule.confirmed(PIECE, now);
        schedule.broken();
        assert_eq!(run(&mut schedule, now, &mut 0, 1)[0].1, 12_250);
    }

    #[test]
    fn a_connection_that_was_closed_in_order_costs_nothing() {
        let (mut schedule, now, mut place) = (Schedule::new(RULES), Instant::now(), 0);
        schedule.offer(digest(1), Lane::Routine, 10 * PIECE);
        run(&mut schedule, now, &mut place, 4);
        schedule.confirmed(place, now);
        schedule.reopened();
        assert_eq!(run(&mut schedule, now, &mut 0, 1)[0].1, 4 * PIECE);
    }

    #[test]
    fn a_pass_that_was_written_and_not_confirmed_goes_again() {
        let (mut schedule, now, mut place) = (Schedule::new(RULES), Instant::now(), 0);
        schedule.offer(digest(1), Lane::Routine, 3 * PIECE);
        run(&mut schedule, now, &mut place, 99);
        schedule.broken();
        assert!(!schedule.is_unconfirmed());
        assert_eq!(run(&mut schedule, now, &mut place, 99).len(), 3);
    }

    #[test]
    fn a_full_window_rests_no_longer_than_it_has_to() {
        let (mut schedule, now, mut place) = (Schedule::new(RULES), Instant::now(), 0);
        for n in 0..4 {
            assert!(schedule.offer(digest(n), Lane::Routine, PIECE));
        }
        assert!(!schedule.offer(digest(9), Lane::Routine, PIECE), "it is full");
        assert!(schedule.offer(digest(8), Lane::Flash, PIECE), "but not for urgent ones");
        assert_eq!(run(&mut schedule, now, &mut place, 99).len(), 5);
        schedule.confirmed(place, now);
        assert_eq!(run(&mut schedule, now, &mut place, 99).len(), 5, "the second pass at once");
        assert_eq!(schedule.confirmed(place, now).len(), 5);
        (0..9).for_each(|n| schedule.remove(&digest(n)));
        assert!(schedule.offer(digest(9), Lane::Routine, PIECE));
    }
}
