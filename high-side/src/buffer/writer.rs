//! The second half of the writer: commits groups, one transaction each, and deletes what is sealed.
//!
//! A group is acknowledged after its commit and never before. What can't be committed now stays in
//! memory and is tried again; nothing is dropped to make room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use shared::clock::Clock;
use shared::durable;
use shared::record::Lane;

use super::block::{Life, Packer};
use super::checked::number;
use super::checkpoint::Checkpointer;
use super::error::{BufferError, Fault};
use super::gauges::{BufferGauges, WriterState};
use super::group::{Group, GroupLimits, Grouper};
use super::intake::{IntakeCloser, IntakeReceiver};
use super::lane::LaneState;
use super::schema::key;
use super::{BufferSettings, losses, marks, open, sightings};

/// What a writer did in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Records made durable.
    pub records: u64,
    /// Transactions that made them so.
    pub commits: u64,
}

/// The running writer: two threads, one that packs and one that commits.
#[derive(Debug)]
pub struct Writer {
    packing: JoinHandle<std::io::Result<()>>,
    committing: JoinHandle<Result<WriterStats, BufferError>>,
    give_up: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn start(
        settings: &BufferSettings,
        life: &Life,
        conn: Connection,
        intake: IntakeReceiver,
        gauges: Arc<BufferGauges>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BufferError> {
        let packer = |state: &LaneState| {
            let level = settings.compression_level;
            Packer::new(life.clone(), state.lane, state.next_sequence, state.chain_head, level)
                .map_err(BufferError::Thread)
        };
        let states = load_states(&conn)?;
        gauges.begin(clock.now());
        for state in &states {
            gauges.set_last_sequence(state.lane, state.last_sequence());
        }
        let limits = GroupLimits {
            records_max: settings.commit_records,
            bytes_max: settings.commit_bytes,
            interval: settings.commit_interval,
        };
        let packers = [packer(&states[0])?, packer(&states[1])?];
        let grouper = Grouper::new(limits, packers, states[0].last_group);
        let give_up = Arc::new(AtomicBool::new(false));
        let checkpointer =
            Checkpointer::start(settings.dir.join(open::DATABASE), settings.checkpoint_bytes)?;
        let committer = Committer {
            settings: settings.clone(),
            conn: Some(conn),
            gauges,
            clock,
            give_up: Arc::clone(&give_up),
            intake: intake.closer(),
            checkpointer: Some(checkpointer),
            reclaim: Reclaim::Idle,
            reclaim_failures: 0,
            suspicion: None,
        };
        let (sender, groups) = mpsc::sync_channel(GROUPS_AHEAD);
        let committing = thread::Builder::new()
            .name("buffer-commit".to_owned())
            .spawn(move || committer.run(&groups))
            .map_err(BufferError::Thread)?;
        let packing = thread::Builder::new()
            .name("buffer-pack".to_owned())
            .spawn(move || grouper.run(&intake, &sender))
            .map_err(BufferError::Thread)?;
        Ok(Self { packing, committing, give_up })
    }

    /// Whether a thread of the writer has ended: expected only after every intake was dropped.
    pub fn is_finished(&self) -> bool {
        self.packing.is_finished() || self.committing.is_finished()
    }

    /// Whether both threads of the writer have ended, so that joining them takes no time.
    pub fn has_ended(&self) -> bool {
        self.packing.is_finished() && self.committing.is_finished()
    }

    /// Waits for the writer to commit all that was submitted, after every intake was dropped.
    pub fn join(self) -> Result<WriterStats, BufferError> {
        let panicked = || BufferError::Thread(std::io::Error::other("a thread panicked"));
        // If committing failed, packing ends when the last intake is dropped; nobody waits for it.
        let stats = self.committing.join().map_err(|_| panicked())??;
        self.packing.join().map_err(|_| panicked())?.map_err(BufferError::Thread)?;
        Ok(stats)
    }

    /// Makes a writer that can't commit stop trying. What it held was never acknowledged.
    pub fn give_up(&self) {
        self.give_up.store(true, Ordering::Relaxed);
    }
}

struct Committer {
    settings: BufferSettings,
    /// Gone only while it is opened again.
    conn: Option<Connection>,
    gauges: Arc<BufferGauges>,
    clock: Arc<dyn Clock>,
    give_up: Arc<AtomicBool>,
    intake: IntakeCloser,
    /// Gone once the writer ends.
    checkpointer: Option<Checkpointer>,
    reclaim: Reclaim,
    /// How often deleting hit a page that looked broken: after [`REOPENS_MAX`] times it is left
    /// alone, and appending goes on elsewhere in the file. (To `SQLite` a failed read is corruption.)
    reclaim_failures: u32,
    /// What made the database look broken, until a commit succeeds.
    suspicion: Option<BufferError>,
}

/// Whether sealed blocks wait to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reclaim {
    /// None was left when it was last looked.
    Idle,
    /// There may be more.
    Pending,
    /// A transaction is deleting right now.
    Running,
}

impl Committer {
    fn run(mut self, groups: &Receiver<Group>) -> Result<WriterStats, BufferError> {
        let mut stats = WriterStats::default();
        let result = loop {
            let pause = match self.reclaim {
                Reclaim::Idle => RECLAIM_POLL,
                Reclaim::Pending | Reclaim::Running => RECLAIM_PAUSE,
            };
            match groups.recv_timeout(pause) {
                Ok(group) => match self.commit(&group) {
                    Ok(()) => {
                        stats.records += group.records;
                        stats.commits += 1;
                        self.acknowledge(group);
                    }
                    Err(err) => break Err(err),
                },
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(err) = self.reclaim_alone() {
                        // Not urgent; whatever it is, appending will meet it too.
                        tracing::warn!(%err, "could not delete sealed records from the buffer");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(stats),
            }
        };
        self.intake.close();
        self.checkpointer = None;
        self.gauges.enter(WriterState::Stopped, self.clock.now());
        if let Err(err) = &result {
            tracing::error!(%err, "the buffer's writer stops");
            if err.fault() == Fault::Corrupt && open::can_be_read(&self.settings.dir) {
                // Close it first, so that nothing of ours writes to it any more.
                self.conn = None;
                open::mark_broken(&self.settings.dir, &err.to_string())?;
            }
        }
        result
    }

    fn acknowledge(&mut self, group: Group) {
        let stored: u64 = group.blocks.iter().map(|block| block.body.len() as u64).sum();
        if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.committed(stored + GROUP_OVERHEAD_BYTES);
        }
        let took = group.since.map(|since| since.elapsed()).unwrap_or_default();
        self.gauges.committed(group.records, group.raw_bytes, took);
        for block in &group.blocks {
            self.gauges.set_last_sequence(block.lane, block.end() - 1);
        }
        for committed in group.committed {
            // Whoever asked may have gone away.
            let _ = committed.send(());
        }
    }

    /// Commits a group, however long that takes.
    fn commit(&mut self, group: &Group) -> Result<(), BufferError> {
        let mut failures = 0;
        loop {
            let wait = match self.pressure(group) {
                Ok(None) => match self.try_commit(group) {
                    Ok(()) => {
                        self.suspicion = None;
                        self.gauges.enter(WriterState::Flowing, self.clock.now());
                        return Ok(());
                    }
                    Err(err) => self.wait_for(err)?,
                },
                Ok(Some(state)) => state,
                Err(err) => self.wait_for(err)?,
            };
            if self.give_up.load(Ordering::Relaxed) {
                return Err(BufferError::Abandoned { records: group.records });
            }
            if self.gauges.state() != wait {
                tracing::warn!(state = wait.as_str(), "the buffer takes no more for now");
            }
            self.gauges.enter(wait, self.clock.now());
            if wait == WriterState::Reopening {
                failures += 1;
                self.conn = None;
                match open::reopen(&self.settings) {
                    Ok(conn) => {
                        tracing::warn!("the buffer's database was opened again");
                        self.conn = Some(conn);
                    }
                    Err(err) if failures < REOPENS_MAX => {
                        tracing::warn!(%err, "could not open the buffer's database again");
                    }
                    Err(err) => return Err(err),
                }
                if failures >= REOPENS_MAX {
                    let again = "writing to the database fails again and again";
                    let error = BufferError::io(&self.settings.dir)(std::io::Error::other(again));
                    return Err(self.suspicion.take().unwrap_or(error));
                }
            } else {
                self.reclaim_while_waiting();
            }
            thread::sleep(RETRY_PAUSE);
        }
    }

    /// What to wait for after an error, or the error if waiting can't help.
    fn wait_for(&mut self, err: BufferError) -> Result<WriterState, BufferError> {
        let reclaiming = std::mem::replace(&mut self.reclaim, Reclaim::Pending) == Reclaim::Running;
        match err.fault() {
            Fault::Busy => Ok(self.gauges.state()),
            Fault::Full => Ok(WriterState::DiskFull),
            Fault::Io => {
                tracing::error!(%err, "the buffer's database could not be written to");
                Ok(WriterState::Reopening)
            }
            Fault::Corrupt if reclaiming => {
                self.reclaim_failures += 1;
                tracing::error!(%err, "deleting sealed records met a broken page");
                Ok(self.gauges.state())
            }
            // SQLite calls a page corrupt that could not be read, too: only what still looks so
            // after the database was opened again is believed.
            Fault::Corrupt => {
                tracing::error!(%err, "the buffer's database looks broken; it is opened again");
                self.suspicion = Some(err);
                Ok(WriterState::Reopening)
            }
            Fault::Other => Err(err),
        }
    }

    fn conn(&mut self) -> Result<&mut Connection, BufferError> {
        if self.conn.is_none() {
            self.conn = Some(open::reopen(&self.settings)?);
        }
        self.conn.as_mut().ok_or_else(|| BufferError::Broken("it is not open".to_owned()))
    }

    /// What stands against committing a group, if anything does.
    fn pressure(&mut self, group: &Group) -> Result<Option<WriterState>, BufferError> {
        let bodies: u64 = group.blocks.iter().map(|block| block.body.len() as u64).sum();
        let needed =
            bodies + GROUP_OVERHEAD_BYTES + BLOCK_OVERHEAD_BYTES * group.blocks.len() as u64;
        let space = Space::of(self.conn()?)?;
        if space.used_bytes.saturating_add(needed) > self.settings.quota_bytes {
            return Ok(Some(WriterState::QuotaReached));
        }
        let grows = space.reusable_bytes < needed;
        let dir = &self.settings.dir;
        let floor = self.settings.free_disk_floor_bytes;
        if grows && durable::free_bytes(dir).map_err(BufferError::io(dir))? < floor {
            return Ok(Some(WriterState::FreeDiskFloor));
        }
        Ok(None)
    }

    fn try_commit(&mut self, group: &Group) -> Result<(), BufferError> {
        let reclaim = self.reclaim_failures < REOPENS_MAX;
        let conn = self.conn()?;
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut states = load_states(&tx)?;
        let found = states[0].last_group;
        if found == group.number {
            // The commit that seemed to fail did not.
            return Ok(());
        }
        if found + 1 != group.number || states.iter().any(|state| state.last_group != found) {
            return Err(BufferError::Diverged { expected: group.number - 1, found });
        }
        append(&tx, group, &mut states)?;
        for loss in &group.losses {
            losses::declare(&tx, loss)?;
        }
        for mark in &group.marks {
            marks::store(&tx, mark)?;
        }
        sightings::store(&tx, &group.sightings)?;
        for state in &mut states {
            state.last_group = group.number;
            state.store(&tx)?;
        }
        let mut left = Reclaim::Idle;
        if reclaim {
            match delete_sealed(&tx, &states) {
                Ok(more) => left = if more { Reclaim::Pending } else { Reclaim::Idle },
                Err(err) => {
                    drop(tx);
                    self.reclaim = Reclaim::Running;
                    return Err(err);
                }
            }
        }
        tx.commit()?;
        self.reclaim = left;
        Ok(())
    }

    /// Deletes some sealed blocks in a transaction of its own.
    fn reclaim_alone(&mut self) -> Result<(), BufferError> {
        if self.reclaim_failures >= REOPENS_MAX {
            return Ok(());
        }
        let conn = self.conn()?;
        let states = load_states(conn)?;
        let any =
            states.iter().map(|state| has_sealed(conn, state)).collect::<Result<Vec<_>, _>>()?;
        if !any.contains(&true) {
            self.reclaim = Reclaim::Idle;
            return Ok(());
        }
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = load_states(&tx).and_then(|states| delete_sealed(&tx, &states));
        let result = result.and_then(|more| Ok((tx.commit()?, more)));
        match result {
            Ok(((), more)) => self.reclaim = if more { Reclaim::Pending } else { Reclaim::Idle },
            Err(err) if err.fault() == Fault::Corrupt => {
                self.reclaim = Reclaim::Running;
                self.wait_for(err)?;
            }
            Err(err) if err.fault() == Fault::Io => {
                self.conn = None;
                return Err(err);
            }
            Err(err) => return Err(err),
        }
        Ok(())
    }

    /// Makes room while nothing can be appended: only what is sealed can go.
    fn reclaim_while_waiting(&mut self) {
        let begun = Instant::now();
        loop {
            if let Err(err) = self.reclaim_alone() {
                tracing::warn!(%err, "could not delete sealed records from the buffer");
                return;
            }
            if self.reclaim != Reclaim::Pending || begun.elapsed() > RETRY_PAUSE {
                return;
            }
        }
    }
}

fn load_states(conn: &Connection) -> Result<[LaneState; Lane::ALL.len()], BufferError> {
    Ok([LaneState::load(conn, Lane::ALL[0])?, LaneState::load(conn, Lane::ALL[1])?])
}

fn append(
    tx: &Transaction<'_>,
    group: &Group,
    states: &mut [LaneState; Lane::ALL.len()],
) -> Result<(), BufferError> {
    let mut rows =
        tx.prepare_cached("INSERT INTO block VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    let mut bodies = tx.prepare_cached("INSERT INTO body VALUES (?1, ?2)")?;
    for block in &group.blocks {
        let state = &mut states[block.lane as usize];
        if block.first != state.next_sequence || block.previous != state.chain_head {
            return Err(BufferError::Broken("a block does not follow its lane's tail".to_owned()));
        }
        let id = key(block.lane, block.first);
        rows.execute(params![
            id,
            number(block.records),
            number(block.plain_bytes),
            block.oldest.0,
            block.newest.0,
            block.streams.to_text(),
            block.previous,
            block.hash,
        ])?;
        bodies.execute(params![id, block.body])?;
        state.next_sequence = block.end();
        state.chain_head = block.hash;
        state.waiting_plain_bytes += block.plain_bytes;
        state.received.add(&block.streams);
    }
    Ok(())
}

/// Deletes a bounded number of blocks that are sealed; says whether more are left.
fn delete_sealed(
    tx: &Transaction<'_>,
    states: &[LaneState; Lane::ALL.len()],
) -> Result<bool, BufferError> {
    let mut ids = Vec::new();
    let mut bytes = 0;
    for state in states {
        let mut rows = tx.prepare_cached(
            "SELECT id, length(body) FROM body WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
        )?;
        let range =
            params![key(state.lane, 0), key(state.lane, state.sealed_through), RECLAIM_BLOCKS];
        let mut rows = rows.query(range)?;
        while let Some(row) = rows.next()? {
            ids.push(row.get::<_, i64>(0)?);
            bytes += row.get::<_, i64>(1)?;
            if bytes >= RECLAIM_BYTES {
                break;
            }
        }
    }
    for id in &ids {
        // The body goes last, since it is what is looked for.
        tx.prepare_cached("DELETE FROM block WHERE id = ?1")?.execute([id])?;
        tx.prepare_cached("DELETE FROM body WHERE id = ?1")?.execute([id])?;
    }
    Ok(bytes >= RECLAIM_BYTES || ids.len() >= RECLAIM_BLOCKS as usize)
}

fn has_sealed(conn: &Connection, state: &LaneState) -> Result<bool, BufferError> {
    let range = [key(state.lane, 0), key(state.lane, state.sealed_through)];
    let mut found = conn.prepare_cached("SELECT 1 FROM body WHERE id BETWEEN ?1 AND ?2 LIMIT 1")?;
    Ok(found.exists(range)?)
}

/// The space of the database file.
pub(super) struct Space {
    pub(super) used_bytes: u64,
    reusable_bytes: u64,
}

impl Space {
    pub(super) fn of(conn: &Connection) -> Result<Self, BufferError> {
        let pragma = |name: &str| -> Result<u64, BufferError> {
            let value = conn.prepare_cached(name)?.query_row([], |row| row.get::<_, i64>(0))?;
            Ok(u64::try_from(value).unwrap_or(0))
        };
        let page_bytes = pragma("PRAGMA page_size")?;
        let free = pragma("PRAGMA freelist_count")?;
        let pages = pragma("PRAGMA page_count")?;
        Ok(Self {
            used_bytes: pages.saturating_sub(free).saturating_mul(page_bytes),
            reusable_bytes: free.saturating_mul(page_bytes),
        })
    }
}

/// Groups that may be packed while one is being committed. More would only add to the latency.
const GROUPS_AHEAD: usize = 1;

/// How long to wait before trying again to commit.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Failed writes of one group after which the process should end; the next start recovers.
const REOPENS_MAX: u32 = 5;

/// How often to look for sealed blocks when nothing comes in, and how long to rest between steps
/// of deleting them.
const RECLAIM_POLL: Duration = Duration::from_millis(500);
const RECLAIM_PAUSE: Duration = Duration::from_millis(10);

/// The most that one transaction deletes. At full load as much goes as comes.
const RECLAIM_BLOCKS: i64 = 128;
const RECLAIM_BYTES: i64 = 2 * 1024 * 1024;

/// What a group and a block take on disk beside their bodies, generously.
const GROUP_OVERHEAD_BYTES: u64 = 64 * 1024;
const BLOCK_OVERHEAD_BYTES: u64 = 1024;
