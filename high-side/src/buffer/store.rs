//! The buffer as the sealer and the operator's tool see it: one connection, any number of them.

use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use shared::bundle::{BundleDigest, Loss, SealReason};
use shared::clock::Nanos;
use shared::record::{Epoch, Lane, OriginId, Sequence};

use super::alarms::{self, Alarm, AlarmKind};
use super::block::{Block, Life, Unpacker};
use super::bundles::{Bundle, BundleState, SealedFile};
use super::checked::number;
use super::counts::StreamCounts;
use super::error::{BufferError, Fault};
use super::lane::LaneState;
use super::losses;
use super::open;
use super::schema::{self, key, lane_code};
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
    bundle: Bundle,
    losses: Vec<Loss>,
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

/// What waits in a lane to be planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Sequence numbers without a bundle.
    pub records: u64,
    /// The length of their encodings.
    pub plain_bytes: u64,
    /// When the first of them was received.
    pub oldest: Option<Nanos>,
    /// When the first loss happened that waits to be declared.
    pub oldest_loss: Option<Nanos>,
    /// The last durable sequence number of the lane; 0 if there is none.
    pub last_sequence: u64,
}

/// Records whose bytes can't be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// Their lane.
    pub lane: Lane,
    /// The first of them.
    pub first: Sequence,
    /// The last of them.
    pub last: Sequence,
}

/// A connection for everything but appending.
#[derive(Debug)]
pub struct Store {
    pub(super) conn: Connection,
    pub(super) life: Life,
}

impl Store {
    /// Opens the buffer in a folder; the agent may be running or not. Never creates or repairs.
    pub fn open(dir: &Path) -> Result<Self, BufferError> {
        let path = dir.join(open::DATABASE);
        let conn = schema::connect(&path, false)?;
        open::check_version(&conn, &path)?;
        // Every commit of this connection is as durable as the writer's.
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "foreign_keys", true)?;
        let life = open::load_life(&conn)?;
        Ok(Self { conn, life })
    }

    /// The installation that the records come from.
    pub fn origin(&self) -> &OriginId {
        &self.life.origin
    }

    /// The life of the buffer.
    pub fn epoch(&self) -> Epoch {
        self.life.epoch
    }

    /// What waits in a lane. Cheap: it may be asked many times a second.
    pub fn waiting(&self, lane: Lane) -> Result<Waiting, BufferError> {
        let tx = self.conn.unchecked_transaction()?;
        let state = LaneState::load(&tx, lane)?;
        let range = params![key(lane, state.planned_through + 1), key(lane, state.last_sequence())];
        let oldest = tx
            .prepare_cached(
                "SELECT oldest_ns FROM block WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT 1",
            )?
            .query_map(range, |row| row.get(0).map(Nanos))?
            .next()
            .transpose();
        let oldest = match oldest {
            Ok(oldest) => oldest,
            // A damaged block must not hide that something waits, and that it is old.
            Err(err) if super::error::sqlite_fault(&err) == Fault::Corrupt => Some(Nanos(0)),
            Err(err) => return Err(err.into()),
        };
        Ok(Waiting {
            records: state.last_sequence() - state.planned_through,
            plain_bytes: state.waiting_plain_bytes,
            oldest,
            oldest_loss: losses::oldest_waiting(&tx, lane)?,
            last_sequence: state.last_sequence(),
        })
    }

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
            streams: StreamCounts::default(),
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
            match unpacker.unpack(block) {
                Some(plain) => sink(plain).map(|()| ControlFlow::Continue(())),
                None => {
                    let problem = format!("block {} of lane {} has the hash it was written with, \
                        and does not unpack", block.first, block.lane);
                    Err(BufferError::Broken(problem).into())
                }
            }
        })?;
        let rest = (expected, bundle.last_sequence.0);
        if rest.0 <= rest.1 && declared.next() != Some(&rest) {
            return Err(damaged(rest.0, rest.1).into());
        }
        Ok(())
    }

    /// The bundle's file is complete and synced under its temporary name. From here on its blocks
    /// are not needed any more; the writer deletes them.
    pub fn mark_sealed(
        &mut self,
        planned: PlannedBundle,
        file: SealedFile,
    ) -> Result<Bundle, BufferError> {
        let mut bundle = planned.bundle;
        let tx = begin(&mut self.conn)?;
        expect_state(&tx, &bundle, BundleState::Planned)?;
        let mut state = LaneState::load(&tx, bundle.lane)?;
        state.sealed_through = bundle.last_sequence.0;
        state.sealed_chain = *bundle.chain_head.as_bytes();
        state.previous_digest = *file.digest.as_bytes();
        state.sealed.add(&bundle.streams);
        state.store(&tx)?;
        bundle.state = BundleState::Sealed;
        bundle.file = Some(file);
        bundle.store(&tx)?;
        tx.commit()?;
        Ok(bundle)
    }

    /// The bundle's file stands in the outbox under its final name.
    pub fn mark_ready(&mut self, bundle: &Bundle, now: Nanos) -> Result<Bundle, BufferError> {
        self.advance(bundle, BundleState::Sealed, |bundle| {
            bundle.state = BundleState::Ready;
            bundle.ready = Some(now);
        })
    }

    /// The bundle was handed over, and by what.
    pub fn mark_handed_over(
        &mut self,
        bundle: &Bundle,
        by: &str,
        now: Nanos,
    ) -> Result<Bundle, BufferError> {
        self.advance(bundle, BundleState::Ready, |bundle| {
            bundle.state = BundleState::HandedOver;
            bundle.handed_over = Some((now, by.to_owned()));
        })
    }

    /// The bundle's file was deleted from the outbox.
    pub fn mark_deleted(&mut self, bundle: &Bundle, now: Nanos) -> Result<Bundle, BufferError> {
        self.advance(bundle, BundleState::HandedOver, |bundle| {
            bundle.state = BundleState::Deleted;
            bundle.deleted = Some(now);
        })
    }

    fn advance(
        &mut self,
        bundle: &Bundle,
        from: BundleState,
        change: impl FnOnce(&mut Bundle),
    ) -> Result<Bundle, BufferError> {
        let tx = begin(&mut self.conn)?;
        let mut bundle = expect_state(&tx, bundle, from)?;
        change(&mut bundle);
        bundle.store(&tx)?;
        tx.commit()?;
        Ok(bundle)
    }

    /// Every bundle in a state, or in any, in the order of lanes and numbers.
    pub fn bundles(&self, state: Option<BundleState>) -> Result<Vec<Bundle>, BufferError> {
        Bundle::list(&self.conn, state)
    }

    /// When the content of a lane's last bundle was frozen.
    pub fn last_sealed(&self, lane: Lane) -> Result<Option<Nanos>, BufferError> {
        let next = LaneState::load(&self.conn, lane)?.next_bundle;
        Ok(Bundle::load(&self.conn, lane, next - 1)?.map(|bundle| bundle.planned))
    }

    /// One bundle.
    pub fn bundle(&self, lane: Lane, number: u64) -> Result<Option<Bundle>, BufferError> {
        Bundle::load(&self.conn, lane, number)
    }

    /// Alarms, the newest first; without those that were acknowledged unless asked for.
    pub fn alarms(&self, with_acknowledged: bool) -> Result<Vec<Alarm>, BufferError> {
        alarms::list(&self.conn, with_acknowledged)
    }

    /// Raises an alarm.
    pub fn raise_alarm(
        &self,
        kind: AlarmKind,
        message: &str,
        now: Nanos,
    ) -> Result<(), BufferError> {
        alarms::raise(&self.conn, kind, message, now)
    }

    /// Acknowledges one alarm, or all; returns how many that were.
    pub fn acknowledge(&self, id: Option<i64>, now: Nanos) -> Result<usize, BufferError> {
        alarms::acknowledge(&self.conn, id, now)
    }

    /// Losses of a lane that no bundle declares yet.
    pub fn waiting_losses(&self, lane: Lane) -> Result<Vec<Loss>, BufferError> {
        losses::waiting(&self.conn, lane)
    }

    /// Verifies every block that is not sealed yet and names what is damaged. Changes nothing:
    /// the next plan does. `progress` is told the records verified so far.
    pub fn verify(
        &self,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<DamagedRange>, BufferError> {
        let mut damaged = Vec::new();
        let mut verified = 0;
        for lane in Lane::ALL {
            let state = LaneState::load(&self.conn, lane)?;
            let route = Route {
                life: &self.life,
                lane,
                first: state.sealed_through + 1,
                chain_before: state.sealed_chain,
                last: state.last_sequence(),
                chain_head: state.chain_head,
            };
            let walked = walk::<BufferError>(&self.conn, &route, |block| {
                verified += block.records;
                progress(verified);
                Ok(ControlFlow::Continue(()))
            })?;
            damaged.extend(walked.damaged.into_iter().map(|(first, last)| DamagedRange {
                lane,
                first: Sequence(first),
                last: Sequence(last),
            }));
        }
        Ok(damaged)
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
    bundle.streams = StreamCounts::default();
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

/// What can still be read of damaged rows, read before the write transaction begins.
fn salvage(conn: &Connection, lane: Lane, damaged: &[(u64, u64)]) -> Vec<Salvaged> {
    let read = |range: &(u64, u64)| -> rusqlite::Result<Vec<Salvaged>> {
        let mut statement = conn.prepare_cached(
            "SELECT id, streams, previous, hash, body FROM block LEFT JOIN body USING (id)
             WHERE id BETWEEN ?1 AND ?2 LIMIT ?3",
        )?;
        let rows = statement.query_map(
            params![key(lane, range.0), key(lane, range.1), SALVAGED_ROWS_MAX],
            |row| Ok(Salvaged { range: *range, values: [row.get(0)?, row.get(1)?, row.get(2)?,
                row.get(3)?, row.get(4)?] }),
        )?;
        // Rows behind one that can't be read are not worth a second failure here.
        Ok(rows.map_while(Result::ok).collect())
    };
    let nothing = |range: &(u64, u64)| {
        vec![Salvaged { range: *range, values: [const { rusqlite::types::Value::Null }; 5] }]
    };
    damaged
        .iter()
        .flat_map(|range| {
            read(range).ok().filter(|rows| !rows.is_empty()).unwrap_or_else(|| nothing(range))
        })
        .collect()
}

struct Salvaged {
    range: (u64, u64),
    /// id, streams, previous, hash, body
    values: [rusqlite::types::Value; 5],
}

/// Keeps what is left of damaged blocks, declares them lost, and tells the operator.
fn record_damage(
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
            params![now.0, number(lane_code(lane)), number(range.0), number(range.1), id, streams,
                previous, hash, body],
        )?;
    }
    for &(first, last) in damaged {
        losses::declare_damage(tx, lane, bundle.number, (first, last), now)?;
        let message = format!("records {first} to {last} of lane {lane} are damaged on disk; \
            bundle {} declares them lost", bundle.number);
        alarms::raise(tx, AlarmKind::BlockDamaged, &message, now)?;
        tracing::error!(%lane, first, last, bundle = bundle.number,
            "records in the buffer are damaged on disk and declared lost");
    }
    // What the damaged rows held is what was received and is in no other place.
    let known = damaged_ranges(&losses::of_bundle(tx, lane, bundle.number)?);
    let mut lost = state.received;
    lost.subtract(&state.sealed);
    lost.subtract(&super::totals::buffered(tx, state, &known)?);
    state.lost = lost;
    Ok(())
}

/// The ranges of losses that have sequence numbers, in order.
pub(super) fn damaged_ranges(losses: &[Loss]) -> Vec<(u64, u64)> {
    losses.iter().filter_map(|loss| loss.range).map(|(first, last)| (first.0, last.0)).collect()
}

/// What of a range lies outside known ones.
fn without(range: (u64, u64), known: &[(u64, u64)]) -> Vec<(u64, u64)> {
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

fn begin(conn: &mut Connection) -> Result<Transaction<'_>, BufferError> {
    Ok(conn.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

fn expect_state(
    conn: &Connection,
    bundle: &Bundle,
    state: BundleState,
) -> Result<Bundle, BufferError> {
    Bundle::load(conn, bundle.lane, bundle.number)?
        .filter(|found| found.state == state)
        .ok_or_else(|| not_in(bundle, state.as_str()))
}

fn not_in(bundle: &Bundle, expected: &'static str) -> BufferError {
    BufferError::NotInState { lane: bundle.lane, number: bundle.number, expected }
}

/// Damaged rows kept of one range.
const SALVAGED_ROWS_MAX: i64 = 64;
