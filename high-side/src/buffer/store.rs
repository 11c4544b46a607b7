//! The buffer as the sealer and the operator's tool see it: one connection, any number of them.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use shared::bundle::Loss;
use shared::clock::Nanos;
use shared::custody::{Action, CustodyFolder};
use shared::record::{Epoch, Lane, OriginId, Sequence};

use super::alarms::{self, Alarm, AlarmKind};
use super::block::Life;
use super::bundles::{Bundle, BundleState, SealedFile};
use super::custody;
use super::error::{BufferError, Fault};
use super::handovers;
use super::lane::LaneState;
use super::losses;
use super::open;
use super::plan::PlannedBundle;
use super::schema::{self, key};
use super::walk::{Route, walk};
use super::writer::Space;

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
    pub(super) custody: CustodyFolder,
    /// Since when the custody log could not be written.
    pub(super) custody_failing: Option<Instant>,
}

impl Store {
    /// Opens the buffer in a folder; the agent may be running or not. Never creates or repairs.
    pub fn open(dir: &Path) -> Result<Self, BufferError> {
        shared::backup::expect_no_restore(dir)?;
        Self::connect(dir)
    }

    pub(super) fn connect(dir: &Path) -> Result<Self, BufferError> {
        let path = dir.join(open::DATABASE);
        let conn = schema::connect(&path, false)?;
        open::check_version(&conn, &path)?;
        // Every commit of this connection is as durable as the writer's.
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "foreign_keys", true)?;
        let life = open::load_life(&conn)?;
        Ok(Self { conn, life, custody: CustodyFolder::at(dir), custody_failing: None })
    }

    /// The installation that the records come from.
    pub fn origin(&self) -> &OriginId {
        &self.life.origin
    }

    /// The life of the buffer.
    pub fn epoch(&self) -> Epoch {
        self.life.epoch
    }

    /// What the database takes on the disk without what it can use again, counted against the quota, in bytes.
    pub fn used_bytes(&self) -> Result<u64, BufferError> {
        Ok(Space::of(&self.conn)?.used_bytes)
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

    /// The bundle's file is complete and synced under its temporary name. From here on its blocks
    /// are not needed any more; the writer deletes them.
    pub fn mark_sealed(
        &mut self,
        planned: PlannedBundle,
        file: SealedFile,
    ) -> Result<Bundle, BufferError> {
        self.seal_with(planned, file, |_, _| Ok(()))
    }

    pub(super) fn seal_with(
        &mut self,
        planned: PlannedBundle,
        file: SealedFile,
        more: impl FnOnce(&Connection, &Bundle) -> Result<(), BufferError>,
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
        more(&tx, &bundle)?;
        let detail = format!(
            "{} records, sequences {} to {}, planned {}{}",
            bundle.records,
            bundle.first_sequence,
            bundle.last_sequence,
            bundle.planned,
            bundle.oldest.map_or(String::new(), |oldest| format!(", received from {oldest} on"))
        );
        custody::note(&tx, custody::event(&self.life, &bundle, Action::Sealed).detail(detail))?;
        tx.commit()?;
        Ok(bundle)
    }

    /// The bundle's file stands in the outbox under its final name. What has to be reviewed gets there
    /// only by way of its release.
    pub fn mark_ready(&mut self, bundle: &Bundle, now: Nanos) -> Result<Bundle, BufferError> {
        let reviewed = self.review(bundle.lane, bundle.number)?.is_some();
        let from = if reviewed { BundleState::Released } else { BundleState::Sealed };
        self.advance(bundle, from, Action::Ready, "", |bundle| {
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
        self.mark_handed_over_with(bundle, by, now, |_| Ok(()))
    }

    pub(super) fn mark_handed_over_with(
        &mut self,
        bundle: &Bundle,
        by: &str,
        now: Nanos,
        more: impl FnOnce(&Connection) -> Result<(), BufferError>,
    ) -> Result<Bundle, BufferError> {
        let done = (Action::HandedOver, &*format!("by {by}"));
        let change = |bundle: &mut Bundle| {
            bundle.state = BundleState::HandedOver;
            bundle.handed_over = Some((now, by.to_owned()));
        };
        self.advance_with(bundle, BundleState::Ready, done, change, more)
    }

    /// The bundle's file was deleted from the outbox: it is on no carousel any more.
    pub fn mark_deleted(&mut self, bundle: &Bundle, now: Nanos) -> Result<Bundle, BufferError> {
        let done = (Action::Deleted, "from the outbox");
        let change = |bundle: &mut Bundle| {
            bundle.state = BundleState::Deleted;
            bundle.deleted = Some(now);
        };
        let (lane, number) = (bundle.lane, bundle.number);
        let forget = |conn: &Connection| handovers::forget(conn, lane, number);
        self.advance_with(bundle, BundleState::HandedOver, done, change, forget)
    }

    pub(super) fn advance(
        &mut self,
        bundle: &Bundle,
        from: BundleState,
        action: Action,
        detail: &str,
        change: impl FnOnce(&mut Bundle),
    ) -> Result<Bundle, BufferError> {
        self.advance_with(bundle, from, (action, detail), change, |_| Ok(()))
    }

    /// Changes a bundle's state, with what else belongs into the same transaction.
    fn advance_with(
        &mut self,
        bundle: &Bundle,
        from: BundleState,
        (action, detail): (Action, &str),
        change: impl FnOnce(&mut Bundle),
        more: impl FnOnce(&Connection) -> Result<(), BufferError>,
    ) -> Result<Bundle, BufferError> {
        let tx = begin(&mut self.conn)?;
        let mut bundle = expect_state(&tx, bundle, from)?;
        change(&mut bundle);
        bundle.store(&tx)?;
        more(&tx)?;
        custody::note(&tx, custody::event(&self.life, &bundle, action).detail(detail))?;
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

    /// The bundles of a lane that were handed over first and whose files are kept.
    pub fn oldest_handed_over(&self, lane: Lane, count: u32) -> Result<Vec<Bundle>, BufferError> {
        Bundle::oldest_handed_over(&self.conn, lane, count)
    }

    /// How many bundles are in a state, and the length of their files together.
    pub fn bundles_sum(&self, state: BundleState) -> Result<(u64, u64), BufferError> {
        Bundle::sum(&self.conn, state)
    }

    /// When the oldest record in a lane's bundles of a state was received.
    pub fn oldest_in(&self, lane: Lane, state: BundleState) -> Result<Option<Nanos>, BufferError> {
        Bundle::oldest(&self.conn, lane, state)
    }

    /// Forgets what was deleted long ago.
    pub fn prune_deleted(&self) -> Result<(), BufferError> {
        for lane in Lane::ALL {
            let next = LaneState::load(&self.conn, lane)?.next_bundle;
            Bundle::prune(&self.conn, lane, next - 1)?;
        }
        self.prune_reviews()
    }

    /// One bundle.
    pub fn bundle(&self, lane: Lane, number: u64) -> Result<Option<Bundle>, BufferError> {
        Bundle::load(&self.conn, lane, number)
    }

    /// Alarms, the newest first; without those that were acknowledged unless asked for.
    pub fn alarms(&self, with_acknowledged: bool) -> Result<Vec<Alarm>, BufferError> {
        alarms::list(&self.conn, with_acknowledged)
    }

    /// The last alarm of a kind whose message holds `part`, for [`is_due`](super::is_due).
    pub fn last_alarm(&self, kind: AlarmKind, part: &str) -> Result<Option<Alarm>, BufferError> {
        alarms::last(&self.conn, kind, part)
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
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<Vec<DamagedRange>, BufferError> {
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

pub(super) fn begin(conn: &mut Connection) -> Result<Transaction<'_>, BufferError> {
    Ok(conn.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

pub(super) fn expect_state(
    conn: &Connection,
    bundle: &Bundle,
    state: BundleState,
) -> Result<Bundle, BufferError> {
    Bundle::load(conn, bundle.lane, bundle.number)?
        .filter(|found| found.state == state)
        .ok_or_else(|| not_in(bundle, state.as_str()))
}

pub(super) fn not_in(bundle: &Bundle, expected: &'static str) -> BufferError {
    BufferError::NotInState { lane: bundle.lane, number: bundle.number, expected }
}
