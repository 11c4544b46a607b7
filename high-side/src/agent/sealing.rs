//! The threads that seal what is due and tell the carriers: one for each lane, so that a large bundle of
//! one lane, which takes seconds, keeps nothing urgent waiting. One of them keeps house as well: deletes
//! what was handed over long ago, completes releases, tells what is late.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shared::bell::Bell;
use shared::clock::Clock;
use shared::record::Lane;

use super::overdue;
use crate::buffer::{can_be_read, mark_broken};
use crate::carrier::RunningCarriers;
use crate::cmd::Failure;
use crate::config::Config;
use crate::sealer::{Patience, SealKeys, Sealer, SealerError};

/// How often the policy is asked: a small part of the shortest budget (100 ms at least).
const TICK: Duration = Duration::from_millis(50);
/// How often the outbox is looked through for what is to be deleted, was taken away, or belongs to
/// an earlier epoch: all of that reads the folder or long lists.
const SLOW_INTERVAL: Duration = Duration::from_mins(1);
/// How often it is looked whether something waits for too long to be handed over.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How many rounds in a row, a second apart, a database must look broken to be believed so.
const BROKEN_ROUNDS: u32 = 10;
/// After a failure, how long until the next try.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The running sealers.
#[derive(Debug)]
pub(super) struct Sealing {
    lanes: Vec<SealingLane>,
}

#[derive(Debug)]
struct SealingLane {
    thread: JoinHandle<()>,
    orders: SyncSender<Order>,
    /// What the last try failed of; empty after a success.
    trouble: Arc<Mutex<String>>,
}

enum Order {
    Keys(Box<SealKeys>),
    Stop,
}

/// Completes what a crash interrupted, then starts these threads and those of the carriers.
pub(super) fn start(
    config: &Config,
    keys: &SealKeys,
    clock: &Arc<dyn Clock>,
) -> Result<(RunningCarriers, Sealing), Failure> {
    // First the sealers: they set the outbox up, which the carriers expect to find.
    let mut sealers = Vec::new();
    for lane in Lane::ALL {
        let mut sealer = Sealer::open(config, Patience::Try, Arc::clone(clock))?;
        sealer.set_keys(keys.clone());
        sealers.push((lane, sealer));
    }
    let carriers = RunningCarriers::start(config, clock)?;
    let wanted = Arc::new(AtomicBool::new(false));
    let mut lanes = Vec::new();
    for (lane, sealer) in sealers {
        let trouble = Arc::new(Mutex::new(String::new()));
        let rounds = Rounds {
            sealer,
            lane,
            // The lane that can wait.
            keeps_house: lane == Lane::Routine,
            tidying_wanted: Arc::clone(&wanted),
            bells: carriers.bells(),
            config: config.clone(),
            clock: Arc::clone(clock),
            recovered: false,
            told_release: None,
            slow: None,
            watched: None,
            looked_broken: 0,
            trouble: Arc::clone(&trouble),
        };
        let (orders, inbox) = sync_channel(ORDERS_MAX);
        let thread = std::thread::Builder::new()
            .name(format!("seal-{lane}"))
            .spawn(move || run(rounds, &inbox))
            .map_err(|err| Failure::new(format!("can't start the sealer: {err}")))?;
        lanes.push(SealingLane { thread, orders, trouble });
    }
    Ok((carriers, Sealing { lanes }))
}

fn run(mut rounds: Rounds, inbox: &Receiver<Order>) {
    let mut wait = Duration::ZERO;
    loop {
        match inbox.recv_timeout(wait) {
            Ok(Order::Keys(keys)) => rounds.sealer.set_keys(*keys),
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        wait = match rounds.once() {
            Progress::Idle => TICK,
            Progress::Some => Duration::ZERO,
            Progress::Trouble => RETRY_INTERVAL,
            Progress::Broken => return,
        };
    }
}

/// More orders than this never wait at once.
const ORDERS_MAX: usize = 8;

impl Sealing {
    pub(super) fn is_finished(&self) -> bool {
        self.lanes.iter().any(|lane| lane.thread.is_finished())
    }

    pub(super) fn set_keys(&self, keys: &SealKeys) {
        for lane in &self.lanes {
            // Full only if the sealer hangs in a long write; the operator sees that and asks again.
            if lane.orders.try_send(Order::Keys(Box::new(keys.clone()))).is_err() {
                tracing::warn!("the sealer is busy; ask for the reload again");
            }
        }
    }

    pub(super) fn trouble(&self) -> String {
        let mut troubles: Vec<String> = self
            .lanes
            .iter()
            .map(|lane| lane.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .filter(|trouble| !trouble.is_empty())
            .collect();
        troubles.dedup();
        troubles.join("; ")
    }

    /// Lets bundles that are being written be finished, then ends the threads.
    pub(super) fn stop(self) -> Result<(), Failure> {
        for lane in &self.lanes {
            let _ = lane.orders.send(Order::Stop);
        }
        for lane in self.lanes {
            lane.thread.join().map_err(|_| Failure::new("the sealer panicked"))?;
        }
        Ok(())
    }
}

struct Rounds {
    sealer: Sealer,
    lane: Lane,
    /// Whether it does what belongs to no lane, too.
    keeps_house: bool,
    /// Something failed in some lane, and tidying may be what mends it: a full disk, say.
    tidying_wanted: Arc<AtomicBool>,
    /// Rung when a bundle may be ready.
    bells: Vec<Bell>,
    config: Config,
    clock: Arc<dyn Clock>,
    recovered: bool,
    /// The last release that was told.
    told_release: Option<i64>,
    slow: Option<Instant>,
    watched: Option<Instant>,
    /// How many rounds in a row met what looks like a broken database.
    looked_broken: u32,
    trouble: Arc<Mutex<String>>,
}

/// How a round went.
enum Progress {
    /// The buffer's database is broken: the agent must end, and sets it aside when it starts again.
    Broken,
    /// Nothing was to be done.
    Idle,
    /// Something was done, and there may be more.
    Some,
    /// Something failed and is tried again.
    Trouble,
}

impl Rounds {
    /// One bundle at most: a step that fails must not keep the steps that could mend it waiting.
    fn once(&mut self) -> Progress {
        let mut failed: Vec<SealerError> = Vec::new();
        let mut done = false;
        if !self.recovered {
            failed.extend(self.recover());
            self.recovered = failed.is_empty();
        }
        match self.sealer.seal_due(self.lane) {
            Ok(Some(bundle)) => {
                tracing::info!(
                    lane = %bundle.lane, number = bundle.number, records = bundle.records,
                    reason = %bundle.reason, "bundle sealed"
                );
                done = true;
                self.bells.iter().for_each(Bell::ring);
            }
            Ok(None) => {}
            Err(err) => failed.push(err),
        }
        if !failed.is_empty() {
            self.tidying_wanted.store(true, Ordering::Relaxed);
        }
        if self.keeps_house {
            failed.extend(self.keep_house());
        }
        self.tell(&failed);
        if self.is_surely_broken(&failed) {
            return Progress::Broken;
        }
        match (failed.is_empty(), done) {
            (false, _) => Progress::Trouble,
            (true, true) => Progress::Some,
            (true, false) => Progress::Idle,
        }
    }

    /// Completes what a crash interrupted.
    fn recover(&mut self) -> Vec<SealerError> {
        let mut failed: Vec<SealerError> =
            self.sealer.recover(self.lane).err().into_iter().collect();
        if self.keeps_house {
            let (outbox, store) = self.sealer.publisher().outbox();
            failed.extend(outbox.remove_partials(store).err());
            failed.extend(self.complete_releases().err());
        }
        self.bells.iter().for_each(Bell::ring);
        failed
    }

    /// What belongs to no lane.
    fn keep_house(&mut self) -> Vec<SealerError> {
        let mut failed: Vec<SealerError> = self.tell_releases().err().into_iter().collect();
        if self.watched.is_none_or(|last| last.elapsed() >= WATCH_INTERVAL) {
            failed.extend(self.watch_overdue().err());
            self.watched = Some(Instant::now());
        }
        let due = self.slow.is_none_or(|last| last.elapsed() >= SLOW_INTERVAL);
        let wanted = self.tidying_wanted.swap(false, Ordering::Relaxed);
        if due || wanted || !failed.is_empty() {
            failed.extend(self.slow_round().err());
            self.slow = Some(Instant::now());
        }
        failed
    }

    /// It takes the locks of all lanes. While another lane is being sealed it is left for later.
    fn complete_releases(&mut self) -> Result<(), SealerError> {
        match self.sealer.complete_releases() {
            Err(SealerError::Busy { .. }) => Ok(()),
            done => done,
        }
    }

    /// `SQLite` calls a page that could not be read a broken one. Only what looks broken round after
    /// round, through a new connection each time and in files that can be read to their end, is
    /// noted as broken; the next start sets it aside.
    fn is_surely_broken(&mut self, failed: &[SealerError]) -> bool {
        let Some(err) = failed.iter().find(|err| is_broken(err)) else {
            self.looked_broken = 0;
            return false;
        };
        self.looked_broken += 1;
        if let Err(err) = self.sealer.publisher().reopen_store(&self.config.state_dir) {
            tracing::debug!(%err, "the buffer's database can't be opened again yet");
        }
        if self.looked_broken < BROKEN_ROUNDS || !can_be_read(&self.config.state_dir) {
            return false;
        }
        match mark_broken(&self.config.state_dir, &err.to_string()) {
            Ok(()) => {
                tracing::error!(%err, "the buffer's database is broken; the agent ends and sets it aside");
                true
            }
            Err(err) => {
                tracing::warn!(%err, "can't note that the database is broken");
                false
            }
        }
    }

    /// Logs releases that officers gave by a command: who, what and when.
    fn tell_releases(&mut self) -> Result<(), SealerError> {
        let (_, store) = self.sealer.publisher().outbox();
        let Some(told) = self.told_release else {
            self.told_release = Some(store.last_release()?);
            return Ok(());
        };
        for release in store.releases_after(told)? {
            tracing::info!(
                lane = %release.lane, number = release.number, officer = %release.officer,
                key = %release.key, time = %release.released, "an officer released a bundle"
            );
            self.told_release = Some(release.id);
        }
        Ok(())
    }

    fn watch_overdue(&mut self) -> Result<(), SealerError> {
        let now = self.clock.now();
        let (_, store) = self.sealer.publisher().outbox();
        Ok(overdue::watch(store, &self.config, now)?)
    }

    /// What reads folders and long lists.
    fn slow_round(&mut self) -> Result<(), SealerError> {
        // One that can't be released must not keep the rest from being done.
        let reviews = self.complete_releases().and(self.sealer.watch_overdue());
        self.look_through_outbox().and(reviews)
    }

    fn look_through_outbox(&mut self) -> Result<(), SealerError> {
        let now = self.clock.now();
        let floor = self.config.buffer.free_disk_floor.0;
        let (outbox, store) = self.sealer.publisher().outbox();
        outbox.retain(store, floor, now)?;
        outbox.note_taken(store, now)
    }

    /// Logs troubles when they begin or change, and their end.
    fn tell(&self, failed: &[SealerError]) {
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let mut messages: Vec<String> = failed.iter().map(ToString::to_string).collect();
        messages.dedup();
        let now = messages.join("; ");
        if now != *told {
            if now.is_empty() {
                tracing::info!("sealing goes on");
            } else {
                tracing::warn!(trouble = %now, "sealing failed; it is tried again, nothing is lost");
            }
            *told = now;
        }
    }
}

fn is_broken(err: &SealerError) -> bool {
    matches!(err, SealerError::Buffer(err) if err.is_broken())
}
