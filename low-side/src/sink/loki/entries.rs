//! Records as the entries of streams in Loki: labels, time, line.
//!
//! Loki takes an entry where it is not older than the newest entry of its stream by more than half of
//! `max_chunk_age`, one hour by itself. Two things keep ours inside that window:
//!
//! - **The time.** It is the event's where it happened within [`EARLY`] before the high side received
//!   it, and the time of reception otherwise: never later than reception, never earlier than
//!   [`EARLY`] before it. Receptions of a chain ascend, so what is delivered in order is never further
//!   behind than that, whatever a source claims.
//! - **The label `batch`.** It is the bundle's number modulo a small number. A bundle that comes late,
//!   behind newer ones, finds a stream of its own, unless so many bundles of its chain have passed
//!   meanwhile. (By then a stream that nobody writes to has usually been flushed, and takes anything.)
//!
//! Both follow from the record alone. So what is sent again has the same labels, time and line, which
//! Loki stores once; the line has the record's id in it, so that no two records are one.

use std::fmt::Write as _;
use std::time::Duration;

use shared::clock::Nanos;
use shared::record::Stream;

use crate::event::View;
use crate::ledger::ChainName;

/// One entry, beside its line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The stream it goes to, by its place in [`Streams`].
    pub(super) stream: usize,
    pub(super) time: Nanos,
}

/// The labels of the streams that were seen in a bulk.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Labels>);

#[derive(Debug, PartialEq, Eq)]
struct Labels {
    stream: Stream,
    chain: ChainName,
    batch: u64,
}

impl Streams {
    /// The stream of a record.
    pub(super) fn of(&mut self, view: &View<'_>, batch: u64) -> usize {
        let stream = view.record.stream;
        let same =
            |one: &Labels| one.stream == stream && one.batch == batch && one.chain == *view.chain;
        self.0.iter().rposition(same).unwrap_or_else(|| {
            self.0.push(Labels { stream, chain: view.chain.clone(), batch });
            self.0.len() - 1
        })
    }

    /// Appends the labels of a stream, as a JSON object. None of them has a character that is escaped.
    pub(super) fn labels(&self, at: usize, out: &mut String) {
        let Labels { stream, chain, batch } = &self.0[at];
        let (origin, lane) = (&chain.origin, chain.lane);
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "{{\"job\":\"{JOB}\",\"stream\":\"{stream}\",\"origin\":\"{origin}\",\"lane\":\"{lane}\",\"batch\":\"b{batch:04}\"}}"
        );
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The time of an entry.
pub(super) fn time(happened: Nanos, received: Nanos) -> Nanos {
    let is_near = happened <= received && received.since(happened) <= EARLY;
    if is_near { happened } else { received }
}

/// Half of Loki's window, so that clocks that are set back by minutes do no harm.
const EARLY: Duration = Duration::from_mins(30);
pub(super) const JOB: &str = "penstock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_near_the_reception() {
        let received = Nanos(1_795_468_219_000_000_000);
        for (seconds, own) in [(0, true), (-1_800, true), (-1_801, false), (1, false)] {
            let happened = Nanos(received.0 + seconds * 1_000_000_000);
            let expected = if own { happened } else { received };
            assert_eq!(time(happened, received), expected, "{seconds}");
        }
        assert_eq!(time(Nanos(i64::MIN), received), received);
        assert_eq!(time(Nanos(i64::MAX), received), received);
    }
}
