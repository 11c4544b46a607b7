//! How long records take: counts by the size of the time, in bounded space.
//!
//! Two ways are measured, both to the moment when a sink has confirmed the record: from when it was
//! received on the high side, and from when the event happened as its source says. The former stands
//! in each record; the latter has to be parsed out of it, so that only part of the routine lane is
//! asked.
//!
//! Both begin on another machine's clock. How far that clock lies apart is bounded by the shortest
//! way that a bundle took from its sealing to its admission, by both clocks: no way takes less than
//! nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use shared::clock::Nanos;
use shared::event::{Body, PrivilegeSettings, understand};
use shared::json::Tape;
use shared::record::{Lane, RecordRef, Stream};

/// Counts are kept in windows of this length.
pub const WINDOW: Duration = Duration::from_hours(1);
/// Windows are forgotten after so long.
pub const KEPT: Duration = Duration::from_hours(7 * 24);
/// Of the routine lane one record in so many is parsed for the time of its event: parsing costs as much
/// as delivering.
const SAMPLED_ONE_IN: u64 = 16;

/// The longest that a record may take, by lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// In the flash lane.
    pub flash: Duration,
    /// In the routine lane.
    pub routine: Duration,
}

impl Default for Budgets {
    fn default() -> Self {
        // What is commonly documented as the maximum where media are carried. A diode does it in
        // seconds, and whoever has one sets less.
        Self { flash: Duration::from_hours(24), routine: Duration::from_hours(24) }
    }
}

impl Budgets {
    /// The budget of a lane.
    pub fn of(&self, lane: Lane) -> Duration {
        match lane {
            Lane::Flash => self.flash,
            Lane::Routine => self.routine,
        }
    }
}

/// Where a way begins; all end when a sink has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hop {
    /// When the event happened, as its source says.
    Generated,
    /// When the record was received on the high side.
    Received,
}

impl Hop {
    /// The hop's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generated => "generated-to-delivered",
            Self::Received => "received-to-delivered",
        }
    }
}

/// Counts by the size of the time: exact below 32 ms, else within 1/16.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    longest_ms: u64,
    /// Times that end before they began: the clocks lie apart.
    negative: u64,
}

impl Histogram {
    /// Counts one way.
    pub fn add(&mut self, from: Nanos, to: Nanos) {
        self.negative += u64::from(to < from);
        let millis = u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX).min(MILLIS_MAX);
        self.longest_ms = self.longest_ms.max(millis);
        let at = bucket_of(millis);
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
    }

    /// Takes in what another has counted.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        self.longest_ms = self.longest_ms.max(other.longest_ms);
        self.negative = self.negative.saturating_add(other.negative);
    }

    /// How many ways were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The longest, in milliseconds.
    pub fn longest_ms(&self) -> u64 {
        self.longest_ms
    }

    /// How many ended before they began.
    pub fn negative(&self) -> u64 {
        self.negative
    }

    /// A time that at least `percent` of the ways did not exceed, in milliseconds; at most 1/16 too
    /// long.
    pub fn percentile_ms(&self, percent: u64) -> u64 {
        let wanted = (self.count().saturating_mul(percent)).div_ceil(100).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return end_of(at).min(self.longest_ms);
            }
        }
        self.longest_ms
    }

    /// The counts by the shortest time that each stands for, in milliseconds.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        let some = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        some.map(|(at, count)| (at.checked_sub(1).map_or(0, |at| end_of(at) + 1), *count))
    }

    /// The counts by powers of two of a millisecond, from `from_ms` up to the next one's: as much as a
    /// picture needs. At most 41.
    pub fn octaves(&self) -> Vec<Octave> {
        let mut octaves: Vec<Octave> = Vec::new();
        for (shortest, count) in self.counts() {
            let from_ms = shortest.checked_ilog2().map_or(0, |power| 1 << power);
            match octaves.last_mut() {
                Some(last) if last.from_ms == from_ms => last.records += count,
                _ => octaves.push(Octave { from_ms, records: count }),
            }
        }
        octaves
    }

    /// How many certainly took longer than this: those in the same bucket are not counted.
    pub fn over(&self, limit: Duration) -> u64 {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).min(MILLIS_MAX);
        self.counts.iter().skip(bucket_of(limit) + 1).sum()
    }

    /// `LONGEST NEGATIVE BUCKET:COUNT ...`
    pub fn to_text(&self) -> String {
        let mut text = format!("{} {}", self.longest_ms, self.negative);
        for (at, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let _ = write!(text, " {at}:{count}");
        }
        text
    }

    /// The way back; `None` where it is no such text.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let longest_ms = words.next()?.parse().ok()?;
        let negative = words.next()?.parse().ok()?;
        let mut counts = Vec::new();
        for word in words {
            let (at, count) = word.split_once(':')?;
            let at: usize = at.parse().ok().filter(|at| *at < BUCKETS)?;
            if counts.len() <= at {
                counts.resize(at + 1, 0);
            }
            counts[at] = count.parse().ok()?;
        }
        Some(Self { counts, longest_ms, negative })
    }
}

/// Times below this many milliseconds have a bucket each; above, each power of two has 16.
const EXACT: u64 = 32;
const EXACT_BITS: u32 = EXACT.ilog2();
/// The longest time that is told apart: 34 years.
const MILLIS_MAX: u64 = (1 << 40) - 1;
const BUCKETS: usize = bucket_of(MILLIS_MAX) + 1;

#[expect(clippy::cast_possible_truncation, reason = "at most some hundred")]
const fn bucket_of(millis: u64) -> usize {
    if millis < EXACT {
        return millis as usize;
    }
    let exponent = millis.ilog2();
    let part = (millis >> (exponent - 4)) & 15;
    (EXACT + ((exponent - EXACT_BITS) as u64) * 16 + part) as usize
}

/// The longest time in a bucket.
fn end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < EXACT {
        return bucket;
    }
    let exponent = u32::try_from((bucket - EXACT) / 16).unwrap_or(0) + EXACT_BITS;
    let part = (bucket - EXACT) % 16;
    ((16 + part + 1) << (exponent - 4)) - 1
}

/// What is counted apart.
pub type Key = (Lane, Stream, Hop);

/// The times of the records of one batch, until the sink has confirmed it.
#[derive(Debug, Default)]
pub struct Pending {
    times: Vec<(Key, Nanos)>,
    /// Of these, those of records that were not taken in the end, and how often.
    rejected: HashMap<(Key, Nanos), u64>,
    tape: Tape,
}

impl Pending {
    /// A record was handed to the sink.
    pub fn add(&mut self, lane: Lane, record: &RecordRef<'_>) {
        self.times.push(((lane, record.stream, Hop::Received), record.received));
        if lane == Lane::Flash || record.sequence.0.is_multiple_of(SAMPLED_ONE_IN) {
            let body = Body::of(record.raw, &mut self.tape);
            let event = understand(&body, Some(record.stream), &PrivilegeSettings::default());
            if let Some(time) = event.time {
                self.times.push(((lane, record.stream, Hop::Generated), time));
            }
        }
    }

    /// The receiver refused a record for good that had been handed to the sink: it was never delivered.
    pub fn rejected(&mut self, lane: Lane, record: &RecordRef<'_>) {
        let others = self.times.len();
        self.add(lane, record);
        for time in self.times.drain(others..) {
            *self.rejected.entry(time).or_default() += 1;
        }
    }

    /// The sink has confirmed the batch.
    pub fn delivered(&mut self, now: Nanos) -> HashMap<Key, Histogram> {
        let mut counted: HashMap<Key, Histogram> = HashMap::new();
        for (key, from) in self.times.drain(..) {
            match self.rejected.get_mut(&(key, from)).filter(|times| **times > 0) {
                Some(times) => *times -= 1,
                None => counted.entry(key).or_default().add(from, now),
            }
        }
        self.rejected.clear();
        counted
    }
}

/// What is told apart when counts are read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LatencyKey {
    /// The sink.
    pub sink: String,
    /// The lane.
    pub lane: String,
    /// The stream.
    pub stream: String,
    /// Where the way begins.
    pub hop: String,
}

/// One row of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LatencySum {
    /// The sink.
    pub sink: String,
    /// The lane.
    pub lane: String,
    /// The stream.
    pub stream: String,
    /// `received-to-delivered` or `generated-to-delivered`.
    pub hop: String,
    /// How many records were measured.
    pub records: u64,
    /// Half of them took no longer, in milliseconds.
    pub p50_ms: u64,
    /// 95 of 100.
    pub p95_ms: u64,
    /// 99 of 100.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
    /// The lane's budget.
    pub budget_ms: u64,
    /// How many took longer than the budget.
    pub over_budget: u64,
    /// How many ended before they began: the clocks lie apart.
    pub negative: u64,
    /// How they are spread; where nobody draws it, empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub octaves: Vec<Octave>,
}

/// The records that took so long, and less than twice as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Octave {
    /// The shortest time, in milliseconds: 0 or a power of two.
    pub from_ms: u64,
    /// How many.
    pub records: u64,
}

impl LatencySum {
    /// The row of one histogram.
    pub fn of(key: LatencyKey, counts: &Histogram, budgets: &Budgets) -> Self {
        let LatencyKey { sink, lane, stream, hop } = key;
        let budget = lane.parse().map_or(budgets.routine, |lane| budgets.of(lane));
        Self {
            sink,
            lane,
            stream,
            hop,
            records: counts.count(),
            p50_ms: counts.percentile_ms(50),
            p95_ms: counts.percentile_ms(95),
            p99_ms: counts.percentile_ms(99),
            max_ms: counts.longest_ms(),
            budget_ms: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX),
            over_budget: counts.over(budget),
            negative: counts.negative(),
            octaves: Vec::new(),
        }
    }
}

/// How far the clock of a high side may lie from ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClockSum {
    /// Whose.
    pub origin: String,
    /// The shortest way from sealing to admission, by both clocks, in milliseconds: our clock is ahead
    /// of theirs by this at most; where it is less than nothing, ours is behind by this at least.
    pub shortest_ms: i64,
}

impl ClockSum {
    /// The same for people.
    pub fn text(&self) -> String {
        let span = shared::config::Span(Duration::from_millis(self.shortest_ms.unsigned_abs()));
        if self.shortest_ms < 0 {
            format!("our clock is at least {span} behind that of {}", self.origin)
        } else {
            format!("our clock is at most {span} ahead of that of {}", self.origin)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: &[i64]) -> Histogram {
        let mut histogram = Histogram::default();
        for millis in millis {
            histogram.add(Nanos(0), Nanos(millis * 1_000_000));
        }
        histogram
    }

    #[test]
    fn every_time_lies_in_the_bucket_that_it_counts_in() {
        for millis in (0..200).chain([999, 1_000, 86_400_000, MILLIS_MAX - 1, MILLIS_MAX]) {
            let at = bucket_of(millis);
            assert!(at < BUCKETS && millis <= end_of(at), "{millis}");
            assert!(at == 0 || end_of(at - 1) < millis, "{millis}");
            assert!(end_of(at) - millis <= millis / 16, "{millis}: {}", end_of(at));
        }
    }

    #[test]
    fn percentiles_are_never_too_short_and_at_most_a_sixteenth_too_long() {
        let times: Vec<i64> = (1..=10_000).collect();
        let histogram = of(&times);
        for (percent, exact) in [(50, 5_000), (95, 9_500), (99, 9_900), (100, 10_000)] {
            let told = histogram.percentile_ms(percent);
            assert!((exact..=exact + exact / 16).contains(&told), "p{percent} {told}");
        }
        assert_eq!((histogram.count(), histogram.longest_ms()), (10_000, 10_000));
        let over = histogram.over(Duration::from_secs(5));
        assert!((4_700..=5_000).contains(&over), "{over}");
        assert_eq!(of(&[]).percentile_ms(99), 0);
    }

    #[test]
    fn a_picture_needs_powers_of_two() {
        let octaves = of(&[0, 0, 1, 2, 3, 4, 100, 127, 128, 70_000]).octaves();
        let told: Vec<_> = octaves.iter().map(|octave| (octave.from_ms, octave.records)).collect();
        assert_eq!(told, [(0, 2), (1, 1), (2, 2), (4, 1), (64, 2), (128, 1), (65_536, 1)]);
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_negative_time_but_is_counted() {
        let histogram = of(&[-5_000, 10]);
        assert_eq!((histogram.count(), histogram.negative()), (2, 1));
        assert_eq!(histogram.percentile_ms(50), 0);
    }

    #[test]
    fn counts_are_kept_and_added() {
        let (mut one, two) = (of(&[1, 50, 7_000]), of(&[100_000]));
        assert_eq!(Histogram::from_text(&one.to_text()), Some(one.clone()));
        one.merge(&two);
        assert_eq!(one, of(&[1, 50, 7_000, 100_000]));
        for text in ["", "1", "1 0 99999:1", "1 0 x", "1 0 3:-1"] {
            assert_eq!(Histogram::from_text(text), None, "{text}");
        }
    }
}
