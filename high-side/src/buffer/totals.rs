//! Sums that must add up: received = buffered + sealed + suppressed + lost, for each lane, each stream
//! and each rule.

use rusqlite::{Connection, params};
use shared::record::Lane;

use super::counts::Tally;
use super::damage::damaged_ranges;
use super::error::BufferError;
use super::lane::LaneState;
use super::losses;
use super::schema::{key, number_of_key};
use super::store::Store;

/// The account of one lane since its epoch began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneTotals {
    /// The lane.
    pub lane: Lane,
    /// The sequence numbers given.
    pub sequences: u64,
    /// Records received and made durable.
    pub received: Tally,
    /// Of those, in the buffer, planned ones included; counted from the blocks themselves.
    pub buffered: Tally,
    /// Of those, in sealed bundles.
    pub sealed: Tally,
    /// Of those, damaged on disk and declared lost.
    pub lost: Tally,
    /// Records lost before they could be received, as far as it is known.
    pub lost_before: u64,
}

impl LaneTotals {
    /// What rules suppressed, wherever its place is kept now: in the buffer or in sealed bundles.
    pub fn suppressed(&self) -> Tally {
        let mut all = self.buffered.clone();
        all.add(&self.sealed);
        all
    }

    /// Whether every record received is in exactly one place, per stream and in sum.
    pub fn adds_up(&self) -> bool {
        let mut sum = self.buffered.clone();
        sum.add(&self.sealed);
        sum.add(&self.lost);
        sum == self.received && self.received.sum().records == self.sequences
    }
}

/// What a lane has counted since its epoch began, without looking at the blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneCounts {
    /// The lane.
    pub lane: Lane,
    /// Records received and made durable, suppressed ones among them.
    pub received: Tally,
    /// Of those, in sealed bundles.
    pub sealed: Tally,
    /// Of those, damaged on disk and declared lost.
    pub lost: Tally,
}

impl Store {
    /// What every lane has counted. Cheap: it may be asked every second.
    pub fn counts(&self) -> Result<Vec<LaneCounts>, BufferError> {
        let tx = self.conn.unchecked_transaction()?;
        let of = |lane| {
            let LaneState { received, sealed, lost, .. } = LaneState::load(&tx, lane)?;
            Ok(LaneCounts { lane, received, sealed, lost })
        };
        Lane::ALL.into_iter().map(of).collect()
    }

    /// The account of every lane, in one consistent view.
    pub fn totals(&self) -> Result<Vec<LaneTotals>, BufferError> {
        let tx = self.conn.unchecked_transaction()?;
        let planned = self.planned_bundles()?;
        let mut totals = Vec::new();
        for lane in Lane::ALL {
            let state = LaneState::load(&tx, lane)?;
            let losses: Vec<_> = planned
                .iter()
                .filter(|planned| planned.bundle().lane == lane)
                .flat_map(|planned| damaged_ranges(planned.losses()))
                .collect();
            totals.push(LaneTotals {
                lane,
                sequences: state.last_sequence(),
                buffered: buffered(&tx, &state, &losses)?,
                received: state.received,
                sealed: state.sealed,
                lost: state.lost,
                lost_before: losses::declared_total(&tx, lane)?,
            });
        }
        Ok(totals)
    }
}

/// Counts what the blocks that are not sealed yet say they hold, without those in `damaged`.
pub(super) fn buffered(
    conn: &Connection,
    state: &LaneState,
    damaged: &[(u64, u64)],
) -> Result<Tally, BufferError> {
    let mut statement =
        conn.prepare_cached("SELECT id, streams FROM block WHERE id BETWEEN ?1 AND ?2")?;
    let (first, last) = (state.sealed_through + 1, state.last_sequence());
    let mut rows = statement.query(params![key(state.lane, first), key(state.lane, last)])?;
    let mut sum = Tally::default();
    // A row that can't be read is not counted, nor is what lies behind it.
    while let Ok(Some(row)) = rows.next() {
        let first = number_of_key(row.get(0)?);
        let text = row.get_ref(1)?;
        let counts = text.as_str().ok().and_then(Tally::from_text);
        if !damaged.iter().any(|range| (range.0..=range.1).contains(&first)) {
            sum.add(&counts.unwrap_or_default());
        }
    }
    Ok(sum)
}
