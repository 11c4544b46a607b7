//! What becomes of damaged blocks: kept as far as they can be read, declared lost, and told.

use rusqlite::types::Value;
use rusqlite::{Connection, params};
use shared::bundle::Loss;
use shared::clock::Nanos;
use shared::record::Lane;

use super::alarms::{self, AlarmKind};
use super::bundles::Bundle;
use super::checked::number;
use super::error::BufferError;
use super::lane::LaneState;
use super::losses;
use super::schema::{key, lane_code};
use super::totals::buffered;

/// What can still be read of damaged rows, read before the write transaction begins.
pub(super) fn salvage(conn: &Connection, lane: Lane, damaged: &[(u64, u64)]) -> Vec<Salvaged> {
    let read = |range: &(u64, u64)| -> rusqlite::Result<Vec<Salvaged>> {
        let mut statement = conn.prepare_cached(
            "SELECT id, streams, previous, hash, body FROM block LEFT JOIN body USING (id)
             WHERE id BETWEEN ?1 AND ?2 LIMIT ?3",
        )?;
        let rows = statement.query_map(
            params![key(lane, range.0), key(lane, range.1), SALVAGED_ROWS_MAX],
            |row| {
                Ok(Salvaged {
                    range: *range,
                    values: [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?],
                })
            },
        )?;
        // Rows behind one that can't be read are not worth a second failure here.
        Ok(rows.map_while(Result::ok).collect())
    };
    let nothing =
        |range: &(u64, u64)| vec![Salvaged { range: *range, values: [const { Value::Null }; 5] }];
    damaged
        .iter()
        .flat_map(|range| {
            read(range).ok().filter(|rows| !rows.is_empty()).unwrap_or_else(|| nothing(range))
        })
        .collect()
}

pub(super) struct Salvaged {
    range: (u64, u64),
    /// id, streams, previous, hash, body
    values: [Value; 5],
}

/// Keeps what is left of damaged blocks, declares them lost, and tells the operator.
pub(super) fn record_damage(
    tx: &Connection,
    state: &mut LaneState,
    bundle: &Bundle,
    damaged: &[(u64, u64)],
    salvage: Vec<Salvaged>,
    now: Nanos,
) -> Result<(), BufferError> {
    if damaged.is_empty() {
        return Ok(());
    }
    let lane = bundle.lane;
    for Salvaged { range, values: [id, streams, previous, hash, body] } in salvage {
        tx.execute(
            "INSERT INTO damaged (found_ns, lane, first_sequence, last_sequence, block_id, streams,
                previous, hash, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                now.0,
                number(lane_code(lane)),
                number(range.0),
                number(range.1),
                id,
                streams,
                previous,
                hash,
                body
            ],
        )?;
    }
    for &(first, last) in damaged {
        losses::declare_damage(tx, lane, bundle.number, (first, last), now)?;
        let message = format!(
            "records {first} to {last} of lane {lane} are damaged on disk; \
            bundle {} declares them lost",
            bundle.number
        );
        alarms::raise(tx, AlarmKind::BlockDamaged, &message, now)?;
        tracing::error!(%lane, first, last, bundle = bundle.number,
            "records in the buffer are damaged on disk and declared lost");
    }
    // What the damaged rows held is what was received and is in no other place.
    let known = damaged_ranges(&losses::of_bundle(tx, lane, bundle.number)?);
    let mut lost = state.received.clone();
    lost.subtract(&state.sealed);
    lost.subtract(&buffered(tx, state, &known)?);
    state.lost = lost;
    Ok(())
}

/// The ranges of losses that have sequence numbers, in order.
pub(super) fn damaged_ranges(losses: &[Loss]) -> Vec<(u64, u64)> {
    losses.iter().filter_map(|loss| loss.range).map(|(first, last)| (first.0, last.0)).collect()
}

/// What of a range lies outside known ones.
pub(super) fn without(range: (u64, u64), known: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut rest = Vec::new();
    let (mut first, last) = range;
    for &(known_first, known_last) in known.iter().filter(|k| k.1 >= range.0 && k.0 <= range.1) {
        if first < known_first {
            rest.push((first, known_first - 1));
        }
        first = known_last + 1;
    }
    if first <= last {
        rest.push((first, last));
    }
    rest
}

/// Damaged rows kept of one range.
const SALVAGED_ROWS_MAX: i64 = 64;
