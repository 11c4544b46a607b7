//! The thread that seals what is due, hands it over, and deletes what was handed over long ago.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shared::clock::Clock;

use crate::cmd::Failure;
use crate::config::Config;
use crate::sealer::{SealKeys, Sealer, SealerError};

/// How often the policy is asked: a small part of the shortest budget (100 ms at least).
const TICK: Duration = Duration::from_millis(50);
/// How often the outbox is looked through for what is to be deleted, was taken away, or belongs to
/// an earlier epoch: all of that reads the folder or long lists.
const SLOW_INTERVAL: Duration = Duration::from_mins(1);
/// After a failure, how long until the next try.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The running sealer.
#[derive(Debug)]
pub(super) struct Sealing {
    thread: JoinHandle<()>,
    orders: SyncSender<Order>,
    /// What the last try failed of; empty after a success.
    trouble: Arc<Mutex<String>>,
}

enum Order {
    Keys(Box<SealKeys>),
    Stop,
}

/// Completes what a crash interrupted, then starts the thread.
pub(super) fn start(
    config: &Config,
    keys: SealKeys,
    clock: Arc<dyn Clock>,
) -> Result<Sealing, Failure> {
    let mut sealer = Sealer::open(config, Arc::clone(&clock))?;
    sealer.set_keys(keys);
    let (orders, inbox) = sync_channel(ORDERS_MAX);
    let trouble = Arc::new(Mutex::new(String::new()));
    let told = Arc::clone(&trouble);
    let handoff = config.handoff.clone();
    let body = move || {
        let mut rounds = Rounds { sealer, handoff, clock, recovered: false, slow: None };
        let mut wait = Duration::ZERO;
        loop {
            match inbox.recv_timeout(wait) {
                Ok(Order::Keys(keys)) => rounds.sealer.set_keys(*keys),
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let result = rounds.once();
            wait = if result.is_ok() { TICK } else { RETRY_INTERVAL };
            tell(&told, &result);
        }
    };
    let thread = std::thread::Builder::new()
        .name("seal".to_owned())
        .spawn(body)
        .map_err(|err| Failure::new(format!("can't start the sealer: {err}")))?;
    Ok(Sealing { thread, orders, trouble })
}

/// More orders than this never wait at once.
const ORDERS_MAX: usize = 8;

impl Sealing {
    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    pub(super) fn set_keys(&self, keys: SealKeys) {
        // Full only if the sealer hangs in a long write; the operator sees that and asks again.
        if self.orders.try_send(Order::Keys(Box::new(keys))).is_err() {
            tracing::warn!("the sealer is busy; ask for the reload again");
        }
    }

    pub(super) fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets a bundle that is being written be finished, then ends the thread.
    pub(super) fn stop(self) -> Result<(), Failure> {
        let _ = self.orders.send(Order::Stop);
        self.thread.join().map_err(|_| Failure::new("the sealer panicked"))
    }
}

/// Logs a trouble when it begins or changes, and its end.
fn tell(told: &Mutex<String>, result: &Result<(), SealerError>) {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let now = match result {
        Ok(()) => String::new(),
        Err(err) => err.to_string(),
    };
    if now != *told {
        if now.is_empty() {
            tracing::info!("sealing goes on");
        } else {
            tracing::warn!(trouble = %now, "sealing or handing over failed; it is tried again, nothing is lost");
        }
        *told = now;
    }
}

struct Rounds {
    sealer: Sealer,
    handoff: Option<std::path::PathBuf>,
    clock: Arc<dyn Clock>,
    recovered: bool,
    slow: Option<Instant>,
}

impl Rounds {
    fn once(&mut self) -> Result<(), SealerError> {
        if !self.recovered {
            self.sealer.recover()?;
            self.recovered = true;
        }
        for bundle in self.sealer.seal_due()? {
            tracing::info!(
                lane = %bundle.lane, number = bundle.number, records = bundle.records,
                reason = %bundle.reason, "bundle sealed"
            );
        }
        let slow_round = self.slow.is_none_or(|last| last.elapsed() >= SLOW_INTERVAL);
        if let Some(folder) = self.handoff.clone() {
            self.hand_off(&folder, slow_round)?;
        }
        if slow_round {
            let now = self.clock.now();
            let (outbox, store) = self.sealer.outbox();
            outbox.ready(store, now)?;
            outbox.retain(store, now)?;
            self.slow = Some(Instant::now());
        }
        Ok(())
    }

    fn hand_off(&mut self, folder: &Path, with_strays: bool) -> Result<(), SealerError> {
        let now = self.clock.now();
        let (outbox, store) = self.sealer.outbox();
        let mut waiting = if with_strays { outbox.strays(store)? } else { Vec::new() };
        waiting.extend(outbox.ready(store, now)?);
        for waiting in waiting {
            outbox.copy(&waiting, folder, &mut |_| {})?;
            outbox.handed_over(store, &waiting, "hand-off folder", now)?;
            tracing::info!(bundle = %waiting.name, "bundle handed over");
        }
        Ok(())
    }
}
