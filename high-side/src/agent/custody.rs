//! The thread that writes the custody log and signs it. It has one of its own so that a disk that hangs
//! there holds up nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use shared::bell::Bell;
use shared::clock::Clock;
use shared::custody::{CheckpointPolicy, Identity};
use shared::keys::{KeyError, SIGNING_KEY_FILE, Side, SigningKey};

use crate::buffer::{CustodyError, Store};
use crate::cmd::Failure;
use crate::config::Config;

/// How often it is looked whether something waits to be written.
const INTERVAL: Duration = Duration::from_millis(500);
const JOIN_PAUSE: Duration = Duration::from_millis(5);

/// The running thread.
#[derive(Debug)]
pub(super) struct Custody {
    thread: JoinHandle<()>,
    bell: Bell,
}

/// Compares the end of the log with what the database knows, then starts the thread.
pub(super) fn start(config: &Config, clock: &Arc<dyn Clock>) -> Result<Custody, Failure> {
    let mut keeper = Keeper {
        store: Store::open(&config.state_dir)?,
        state_dir: config.state_dir.clone(),
        keys_dir: config.keys_dir.clone(),
        identity: Identity { side: Side::High, name: config.origin.to_string() },
        clock: Arc::clone(clock),
        trouble: String::new(),
    };
    keeper.round(true, Some(&CheckpointPolicy::default()));
    let bell = Bell::default();
    let stop = bell.clone();
    let thread = thread::Builder::new()
        .name("custody".to_owned())
        .spawn(move || {
            while !stop.stopping() {
                stop.rest(INTERVAL);
                keeper.round(false, Some(&CheckpointPolicy::default()));
            }
            // Everything else has ended by now: the last checkpoint covers all of it.
            keeper.round(false, None);
        })
        .map_err(|err| Failure::new(format!("can't start the custody log: {err}")))?;
    Ok(Custody { thread, bell })
}

impl Custody {
    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Writes and signs what is left, and ends; but no later than this. What is left then is written by
    /// the next start.
    pub(super) fn stop(self, grace: Duration) {
        self.bell.stop();
        let deadline = Instant::now() + grace;
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(JOIN_PAUSE);
        }
        if !self.thread.is_finished() {
            tracing::warn!("the custody log could not be written in time; the next start does it");
        } else if self.thread.join().is_err() {
            tracing::error!("the custody log's thread panicked");
        }
    }
}

struct Keeper {
    store: Store,
    state_dir: PathBuf,
    keys_dir: PathBuf,
    identity: Identity,
    clock: Arc<dyn Clock>,
    /// What the last round failed of; empty after a success.
    trouble: String,
}

impl Keeper {
    fn round(&mut self, look: bool, policy: Option<&CheckpointPolicy>) {
        let now = self.clock.now();
        let (identity, keys_dir) = (&self.identity, &self.keys_dir);
        let key = || load_key(identity, keys_dir);
        let result = self
            .store
            .sign_custody(key, policy, now)
            .and_then(|_| self.store.settle_custody(look, now));
        let trouble = match result {
            Ok(()) | Err(CustodyError::Busy) => String::new(),
            Err(err) => {
                if matches!(err, CustodyError::Buffer(_)) {
                    self.reopen();
                }
                err.to_string()
            }
        };
        if trouble != self.trouble {
            if trouble.is_empty() {
                tracing::info!("the custody log is written again");
            } else {
                tracing::warn!(%trouble, "the custody log can't be written; its entries wait");
            }
            self.trouble = trouble;
        }
    }

    fn reopen(&mut self) {
        match Store::open(&self.state_dir) {
            Ok(store) => self.store = store,
            Err(err) => tracing::debug!(%err, "the buffer's database can't be opened again yet"),
        }
    }
}

fn load_key(identity: &Identity, keys_dir: &Path) -> Result<(Identity, SigningKey), KeyError> {
    Ok((identity.clone(), SigningKey::load(&keys_dir.join(SIGNING_KEY_FILE))?))
}
