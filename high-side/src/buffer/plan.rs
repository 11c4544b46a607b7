//! Planning: freezing what goes into a bundle, and reading it.
//!
//! Every block is verified before the plan is stored, so that damage is known before a manifest is
//! written, and once more when it is read.

use std::ops::ControlFlow;

use rusqlite::Connection;
use shared::bundle::{BundleDigest, Loss, SealReason};
use shared::clock::Nanos;
use shared::record::{Lane, Sequence};

use super::block::{Block, Life, Unpacker};
use super::bundles::{Bundle, BundleState};
use super::counts::Tally;
use super::damage::{damaged_ranges, record_damage, salvage, without};
use super::error::BufferError;
use super::lane::LaneState;
use super::losses;
use super::store::{Store, begin, expect_state, not_in};
use super::walk::{Route, Walked, walk};

/// The most that one bundle may hold. A bundle holds whole blocks, and at least one if any waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// Records.
    pub records_max: u64,
    /// Plain bytes, that is the length of all records' encodings.
    pub plain_bytes_max: u64,
}

impl PlanLimits {
    /// For walking over what was planned already.
    const NONE: Self = Self { records_max: u64::MAX, plain_bytes_max: u64::MAX };

    /// A manifest holds about 10,000 losses; damage beyond this goes into the next bundle.
    fn gaps_max(self) -> usize {
        if self == Self::NONE { usize::MAX } else { 2048 }
    }
}

/// A bundle whose content is frozen, and the losses it declares. Only a plan makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBundle {
    pub(super) bundle: Bundle,
    pub(super) losses: Vec<Loss>,
}

impl PlannedBundle {
    /// What is in it.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The losses it declares, in the order in which a manifest lists them.
    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }
}

impl Store {
    /// Freezes the next bundle of a lane, if anything waits there or the reason is a heartbeat.
    /// If a bundle of the lane is planned and not sealed yet, gives that one: a bundle names its
    /// predecessor's digest, so only one can be under way.
    ///
    /// Every block is verified on the way, so that damage is known before the manifest is
    /// written; what is found is set aside in table `damaged` and declared by the bundle.
    pub fn plan_bundle(
        &mut self,
        lane: Lane,
        limits: PlanLimits,
        reason: SealReason,
        now: Nanos,
    ) -> Result<Option<PlannedBundle>, BufferError> {
        if let Some(planned) = self.planned_bundles()?.into_iter().find(|p| p.bundle.lane == lane) {
            return Ok(Some(planned));
        }
        let state = LaneState::load(&self.conn, lane)?;
        let idle = state.planned_through == state.last_sequence()
            && losses::oldest_waiting(&self.conn, lane)?.is_none();
        if idle && reason != SealReason::Heartbeat {
            return Ok(None);
        }
        let mut bundle = Bundle {
            lane,
            number: state.next_bundle,
            state: BundleState::Planned,
            reason,
            // A clock before 1970 is no time that a manifest can say.
            planned: now.max(Nanos(0)),
            first_sequence: Sequence(state.planned_through + 1),
            last_sequence: Sequence(state.planned_through),
            records: 0,
            plain_bytes: 0,
            oldest: None,
            newest: None,
            streams: Tally::default(),
            chain_before: BundleDigest::from_bytes(state.planned_chain),
            chain_head: BundleDigest::from_bytes(state.planned_chain),
            previous_digest: BundleDigest::from_bytes(state.previous_digest),
            file: None,
            ready: None,
            handed_over: None,
            deleted: None,
        };
        let walked = gather(&self.conn, &self.life, &state, &mut bundle, Some(limits))?;
        let salvage = salvage(&self.conn, lane, &walked.damaged);
        let tx = begin(&mut self.conn)?;
        let mut state = LaneState::load(&tx, lane)?;
        if state.next_bundle != bundle.number {
            return Err(not_in(&bundle, "the next to be planned"));
        }
        state.next_bundle += 1;
        state.planned_through = bundle.last_sequence.0;
        state.planned_chain = *bundle.chain_head.as_bytes();
        state.waiting_plain_bytes = if state.planned_through == state.last_sequence() {
            0
        } else {
            state.waiting_plain_bytes.saturating_sub(bundle.plain_bytes)
        };
        bundle.store(&tx)?;
        losses::assign(&tx, lane, bundle.number)?;
        record_damage(&tx, &mut state, &bundle, &walked.damaged, salvage, now)?;
        state.store(&tx)?;
        let losses = losses::of_bundle(&tx, lane, bundle.number)?;
        tx.commit()?;
        Ok(Some(PlannedBundle { bundle, losses }))
    }

    /// Verifies a planned bundle's blocks once more and declares what was damaged since it was
    /// planned. Its number and range stay; nothing of it has left yet.
    pub fn refreeze(
        &mut self,
        planned: &PlannedBundle,
        now: Nanos,
    ) -> Result<PlannedBundle, BufferError> {
        let mut bundle = planned.bundle.clone();
        let lane = bundle.lane;
        let state = LaneState::load(&self.conn, lane)?;
        let walked = gather(&self.conn, &self.life, &state, &mut bundle, None)?;
        let known = damaged_ranges(&planned.losses);
        let damaged: Vec<_> = walked.damaged.into_iter().flat_map(|d| without(d, &known)).collect();
        let salvage = salvage(&self.conn, lane, &damaged);
        let tx = begin(&mut self.conn)?;
        let mut state = LaneState::load(&tx, lane)?;
        expect_state(&tx, &bundle, BundleState::Planned)?;
        bundle.store(&tx)?;
        record_damage(&tx, &mut state, &bundle, &damaged, salvage, now)?;
        state.store(&tx)?;
        let losses = losses::of_bundle(&tx, lane, bundle.number)?;
        tx.commit()?;
        Ok(PlannedBundle { bundle, losses })
    }

    /// Bundles that are planned and not sealed: after a crash, to be written again.
    pub fn planned_bundles(&self) -> Result<Vec<PlannedBundle>, BufferError> {
        let planned = Bundle::list(&self.conn, Some(BundleState::Planned))?;
        let with_losses = |bundle: Bundle| {
            let losses = losses::of_bundle(&self.conn, bundle.lane, bundle.number)?;
            Ok(PlannedBundle { bundle, losses })
        };
        planned.into_iter().map(with_losses).collect()
    }

    /// Gives the plain bytes of a planned bundle, block by block: the encodings of its records.
    /// Each block is verified again.
    ///
    /// # Errors
    /// [`BufferError::Damaged`] if a block was damaged since it was planned. Abandon what was
    /// written, [`Store::refreeze`] the plan and begin again.
    pub fn read_blocks<E: From<BufferError>>(
        &self,
        planned: &PlannedBundle,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let bundle = &planned.bundle;
        let mut unpacker = Unpacker::new().map_err(BufferError::Thread)?;
        let damaged = |first: u64, last: u64| BufferError::Damaged {
            lane: bundle.lane,
            first: Sequence(first),
            last: Sequence(last),
        };
        let declared = damaged_ranges(&planned.losses);
        let mut declared = declared.iter();
        let mut expected = bundle.first_sequence.0;
        let route = route(&self.life, bundle);
        walk(&self.conn, &route, |block| {
            if block.first > expected {
                let range = (expected, block.first - 1);
                if declared.next() != Some(&range) {
                    return Err(damaged(range.0, range.1).into());
                }
            }
            expected = block.end();
            if let Some(plain) = unpacker.unpack(block) {
                return sink(plain).map(|()| ControlFlow::Continue(()));
            }
            let Block { first, lane, .. } = block;
            let problem = format!("block {first} of lane {lane} is whole and does not unpack");
            Err(BufferError::Broken(problem).into())
        })?;
        let rest = (expected, bundle.last_sequence.0);
        if rest.0 <= rest.1 && declared.next() != Some(&rest) {
            return Err(damaged(rest.0, rest.1).into());
        }
        Ok(())
    }
}

/// Walks what a bundle holds, or may hold, and fills in what it says of it.
fn gather(
    conn: &Connection,
    life: &Life,
    state: &LaneState,
    bundle: &mut Bundle,
    limits: Option<PlanLimits>,
) -> Result<Walked, BufferError> {
    let mut route = route(life, bundle);
    if limits.is_some() {
        route.last = state.last_sequence();
        route.chain_head = state.chain_head;
    }
    let limits = limits.unwrap_or(PlanLimits::NONE);
    bundle.records = 0;
    bundle.plain_bytes = 0;
    (bundle.oldest, bundle.newest) = (None, None);
    bundle.streams = Tally::default();
    let mut expected = bundle.first_sequence.0;
    let mut gaps = 0;
    let walked = walk::<BufferError>(conn, &route, |block| {
        let records = bundle.records + block.records;
        let plain_bytes = bundle.plain_bytes + block.plain_bytes;
        let full = records > limits.records_max || plain_bytes > limits.plain_bytes_max;
        gaps += usize::from(block.first > expected);
        if (full && bundle.records > 0) || gaps >= limits.gaps_max() {
            return Ok(ControlFlow::Break(()));
        }
        expected = block.end();
        add_block(bundle, block);
        Ok(ControlFlow::Continue(()))
    })?;
    bundle.last_sequence = Sequence(walked.last);
    bundle.chain_head = BundleDigest::from_bytes(walked.chain);
    Ok(walked)
}

fn add_block(bundle: &mut Bundle, block: &Block) {
    bundle.records += block.records;
    bundle.plain_bytes += block.plain_bytes;
    bundle.streams.add(&block.streams);
    bundle.oldest = Some(bundle.oldest.map_or(block.oldest, |oldest| oldest.min(block.oldest)));
    bundle.newest = Some(bundle.newest.map_or(block.newest, |newest| newest.max(block.newest)));
}

fn route<'a>(life: &'a Life, bundle: &Bundle) -> Route<'a> {
    Route {
        life,
        lane: bundle.lane,
        first: bundle.first_sequence.0,
        chain_before: *bundle.chain_before.as_bytes(),
        last: bundle.last_sequence.0,
        chain_head: *bundle.chain_head.as_bytes(),
    }
}
