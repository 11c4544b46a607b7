//! The state of a lane: where its sequence, its chain and its bundles stand.

use rusqlite::{Connection, OptionalExtension, params_from_iter};
use shared::record::Lane;

use super::block::{GENESIS, Hash};
use super::checked::{hash, number, open_row, seal_row, text};
use super::counts::Tally;
use super::error::BufferError;
use super::schema::lane_code;

/// One row of table `lane`; always read and written as a whole, inside a write transaction.
///
/// ```text
///   1 ... sealed_through | ... planned_through | ... next_sequence - 1 | next_sequence
///   in sealed bundles      in a planned bundle    waiting                not given yet
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaneState {
    pub(super) lane: Lane,
    /// The last group of the writer that is durable; the same in every lane.
    pub(super) last_group: u64,
    pub(super) next_sequence: u64,
    pub(super) chain_head: Hash,
    pub(super) planned_through: u64,
    /// The chain's hash at `planned_through`.
    pub(super) planned_chain: Hash,
    pub(super) sealed_through: u64,
    /// The chain's hash at `sealed_through`.
    pub(super) sealed_chain: Hash,
    /// The plain bytes of the blocks behind `planned_through`.
    pub(super) waiting_plain_bytes: u64,
    pub(super) next_bundle: u64,
    /// The digest of the last sealed bundle.
    pub(super) previous_digest: Hash,
    pub(super) received: Tally,
    pub(super) sealed: Tally,
    pub(super) lost: Tally,
}

impl LaneState {
    /// A lane without any record.
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            last_group: 0,
            next_sequence: 1,
            chain_head: GENESIS,
            planned_through: 0,
            planned_chain: GENESIS,
            sealed_through: 0,
            sealed_chain: GENESIS,
            waiting_plain_bytes: 0,
            next_bundle: 1,
            previous_digest: GENESIS,
            received: Tally::default(),
            sealed: Tally::default(),
            lost: Tally::default(),
        }
    }

    /// The last sequence given.
    pub(super) fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Reads a lane and checks that its marks are in order.
    pub(super) fn load(conn: &Connection, lane: Lane) -> Result<Self, BufferError> {
        let state = conn
            .prepare_cached(
                "SELECT lane, last_group, next_sequence, chain_head, planned_through,
                    planned_chain, sealed_through, sealed_chain, waiting_plain_bytes, next_bundle,
                    previous_digest, received, sealed, lost, \"check\"
                 FROM lane WHERE lane = ?1",
            )?
            .query_row([number(lane_code(lane))], |row| Ok(Self::from_row(lane, row)))
            .optional()?
            .unwrap_or_else(|| Err(BufferError::Broken(format!("lane {lane} has no state"))))?;
        let in_order = state.sealed_through <= state.planned_through
            && state.planned_through < state.next_sequence;
        if in_order {
            Ok(state)
        } else {
            Err(BufferError::Broken(format!("the marks of lane {lane} are out of order")))
        }
    }

    fn from_row(lane: Lane, row: &rusqlite::Row<'_>) -> Result<Self, BufferError> {
        let mut fields = open_row(TABLE, row)?;
        fields.number()?;
        Ok(Self {
            lane,
            last_group: fields.number()?,
            next_sequence: fields.number()?,
            chain_head: fields.hash()?,
            planned_through: fields.number()?,
            planned_chain: fields.hash()?,
            sealed_through: fields.number()?,
            sealed_chain: fields.hash()?,
            waiting_plain_bytes: fields.number()?,
            next_bundle: fields.number()?,
            previous_digest: fields.hash()?,
            received: fields.counts()?,
            sealed: fields.counts()?,
            lost: fields.counts()?,
        })
    }

    /// Writes the lane.
    pub(super) fn store(&self, conn: &Connection) -> Result<(), BufferError> {
        let values = seal_row(
            TABLE,
            vec![
                number(lane_code(self.lane)),
                number(self.last_group),
                number(self.next_sequence),
                hash(&self.chain_head),
                number(self.planned_through),
                hash(&self.planned_chain),
                number(self.sealed_through),
                hash(&self.sealed_chain),
                number(self.waiting_plain_bytes),
                number(self.next_bundle),
                hash(&self.previous_digest),
                text(self.received.to_text()),
                text(self.sealed.to_text()),
                text(self.lost.to_text()),
            ],
        );
        conn.prepare_cached(
            "INSERT OR REPLACE INTO lane VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,
                ?12, ?13, ?14, ?15)",
        )?
        .execute(params_from_iter(values))?;
        Ok(())
    }
}

const TABLE: &str = "lane";
