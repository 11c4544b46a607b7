//! Carriers: what takes bundles from the outbox to the gap. Any number at once, each in a thread of
//! its own with its own queue, so that one that hangs holds up neither sealing nor the others.
//!
//! ```text
//!            ┌── queue of A (no row of A) ──> carrier A ──> row of A ─┐
//! ready ─────┤                                                        ├──> all rows: handed over
//!            └── queue of B (no row of B) ──> carrier B ──> row of B ─┘
//! ```
//!
//! - Invariant: a bundle is handed over only when every carrier of its lane has handed it over, or an
//!   operator exported it, or something took its file from the outbox.
//! - Invariant: a carrier writes nothing into the outbox. It reads complete files.
//! - A row is written after the carrier's own promise is kept (a synced and renamed file, a whole pass
//!   on the wire). A crash between the two sends the bundle again; the low side knows duplicates.

mod diode;
mod folder;
mod pace;
mod running;
mod tcp;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::bell::Bell;
use shared::clock::Clock;
use shared::record::Lane;

use crate::buffer::{AlarmKind, Handover, Store};
use crate::config::{CarrierKind, CarrierSettings, Config};
use crate::outbox::{Outbox, Waiting};
use crate::sealer::SealerError;

pub use diode::trial;
pub use folder::Naming;
pub use running::{CarrierStatus, RunningCarriers};

/// One way across the gap.
pub(crate) trait Carrier: Send {
    /// Carries what its queue gives until [`Carriage::is_stopping`]. After an error it is told, and run
    /// again a little later with a new connection to the database: nothing may be half-done then.
    fn run(&mut self, carriage: &mut Carriage) -> Result<(), SealerError>;
}

/// Makes the carrier of a section.
fn make(settings: &CarrierSettings) -> Box<dyn Carrier> {
    match &settings.kind {
        CarrierKind::Folder(folder) => Box::new(folder::FolderCarrier::new(folder.clone())),
        CarrierKind::UdpDiode(diode) => Box::new(diode::DiodeCarrier::new(diode.clone())),
        CarrierKind::Tcp(tcp) => Box::new(tcp::TcpCarrier::new(tcp.clone())),
    }
}

/// What a carrier has counted since the start, for status and metrics.
#[derive(Debug, Default)]
pub struct CarrierCounters {
    /// Bundles handed over for the first time.
    pub bundles: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Bundles sent once more: further passes.
    pub passes: AtomicU64,
    /// Tries that failed.
    pub failures: AtomicU64,
    /// When a bundle was handed over last, in nanoseconds since 1970; 0: not since the start.
    pub last_ns: AtomicI64,
    /// What waits in its queue, as last seen.
    pub waiting: AtomicU64,
    /// What only this kind of carrier says of itself, as an object.
    details: Mutex<Value>,
    /// What it fails of at present; empty when it does not.
    trouble: Mutex<String>,
}

impl CarrierCounters {
    /// Sets what only this kind of carrier says of itself.
    pub fn set_details(&self, details: Value) {
        *self.details.lock().unwrap_or_else(PoisonError::into_inner) = details;
    }

    /// What it fails of at present.
    pub fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything, for the status.
    pub fn snapshot(&self) -> Value {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "bundles": of(&self.bundles),
            "bytes": of(&self.bytes),
            "passes": of(&self.passes),
            "failures": of(&self.failures),
            "waiting": of(&self.waiting),
            "last-ns": self.last_ns.load(Ordering::Relaxed),
            "trouble": self.trouble(),
            "details": *self.details.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// What a carrier works with: its queue, the outbox, the bell that tells of new bundles and of the
/// stop, and where it tells how it goes.
pub(crate) struct Carriage {
    name: String,
    lanes: Vec<Lane>,
    /// For each lane, all carriers that have to hand its bundles over.
    peers: Vec<(Lane, Vec<String>)>,
    /// The lanes of which it takes what earlier epochs left in the outbox: one carrier of each does.
    stray_lanes: Vec<Lane>,
    state_dir: PathBuf,
    keys_dir: PathBuf,
    store: Store,
    outbox: Outbox,
    clock: Arc<dyn Clock>,
    bell: Bell,
    counters: Arc<CarrierCounters>,
    /// Files that were changed on the disk, as was told: they keep their place and are passed over.
    damaged: HashSet<String>,
    /// Files that could not be read, as was told, and since when: they are passed over for a while.
    unreadable: HashMap<String, Instant>,
    strays_looked_for: Option<Instant>,
}

impl Carriage {
    fn open(
        config: &Config,
        settings: &CarrierSettings,
        clock: Arc<dyn Clock>,
        bell: Bell,
    ) -> Result<Self, SealerError> {
        Ok(Self {
            name: settings.name.clone(),
            lanes: settings.lanes.clone(),
            peers: Lane::ALL.map(|lane| (lane, config.carriers_of(lane))).to_vec(),
            stray_lanes: Lane::ALL
                .into_iter()
                .filter(|lane| config.carriers_of(*lane).first() == Some(&settings.name))
                .collect(),
            state_dir: config.state_dir.clone(),
            keys_dir: config.keys_dir.clone(),
            store: Store::open(&config.state_dir)?,
            outbox: Outbox::open(&config.outbox, &config.state_dir)?,
            clock,
            bell,
            counters: Arc::default(),
            damaged: HashSet::new(),
            unreadable: HashMap::new(),
            strays_looked_for: None,
        })
    }

    /// The first bundles that it has yet to hand over: urgent lanes first, each lane in order. Ahead
    /// of them, now and then, what an earlier epoch left. Files that are damaged are passed over.
    pub(crate) fn next(&mut self, count: u32) -> Result<Vec<Waiting>, SealerError> {
        let now = self.clock.now();
        let mut found = Vec::new();
        let due = self.strays_looked_for.is_none_or(|last| last.elapsed() >= STRAYS_INTERVAL);
        if !self.stray_lanes.is_empty() && due {
            self.strays_looked_for = Some(Instant::now());
            found = self.outbox.strays(&self.store)?;
            found.retain(|stray| self.stray_lanes.contains(&stray.lane));
        }
        self.unreadable.retain(|_, since| since.elapsed() < UNREADABLE_AGAIN);
        // What can't be carried keeps its place; look past as many as there are.
        let past = self.damaged.len() + self.unreadable.len();
        let past = u32::try_from(past).unwrap_or(u32::MAX);
        let queue = (&*self.name, &*self.lanes);
        found.extend(self.outbox.queue(&mut self.store, queue, count.saturating_add(past), now)?);
        found.retain(|waiting| self.is_fit(&waiting.name));
        found.truncate(count as usize);
        self.counters.waiting.store(found.len() as u64, Ordering::Relaxed);
        Ok(found)
    }

    /// The carrier's promise for this bundle is kept: it notes that durably.
    pub(crate) fn handed_over(&mut self, waiting: &Waiting) -> Result<(), SealerError> {
        let now = self.clock.now();
        let peers = self.peers.iter().find(|(lane, _)| *lane == waiting.lane);
        let peers = peers.map_or(&[][..], |(_, peers)| peers);
        self.outbox.carried(&mut self.store, waiting, &self.name, peers, now)?;
        self.counters.bundles.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(waiting.bytes, Ordering::Relaxed);
        self.counters.last_ns.store(now.0, Ordering::Relaxed);
        self.fine();
        tracing::info!(carrier = %self.name, bundle = %waiting.name, "bundle handed over");
        Ok(())
    }

    /// It has sent a bundle that it handed over so many times in all, and notes that durably.
    pub(crate) fn passed(&mut self, waiting: &Waiting, passes: u64) -> Result<(), SealerError> {
        if let Some(bundle) = &waiting.bundle {
            self.store.note_passes(bundle, &self.name, passes, self.clock.now())?;
        }
        self.counters.passes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// What is due to be sent once more and whose file is still here; `waits` says, from the second
    /// pass on, how long after one pass the next is due.
    pub(crate) fn on_carousel(
        &mut self,
        waits: &[Duration],
        count: u32,
    ) -> Result<Vec<(Waiting, Handover)>, SealerError> {
        let now = self.clock.now();
        let found = self.store.on_carousel(&self.name, waits, now, count)?;
        let mut here = Vec::new();
        for (bundle, handover) in found {
            match self.outbox.waiting(self.store.epoch(), &bundle)? {
                Some(waiting) => here.push((waiting, handover)),
                // Its file is gone: it must not stand in the way of those that are here.
                None => self.store.end_carousel(&bundle, &self.name)?,
            }
        }
        here.retain(|(waiting, _)| self.is_fit(&waiting.name));
        Ok(here)
    }

    fn is_fit(&self, name: &str) -> bool {
        !self.damaged.contains(name) && !self.unreadable.contains_key(name)
    }

    /// One bundle's file can't be read: an alarm is raised, and it is passed over for a while. The others
    /// go on.
    fn unreadable(&mut self, name: &str, err: &SealerError) -> Result<(), SealerError> {
        if self.unreadable.insert(name.to_owned(), Instant::now()).is_none() {
            let message = format!("{err}; the records in it can't cross before it can be read");
            tracing::error!(bundle = %name, %err, "a sealed bundle's file can't be read");
            let now = self.clock.now();
            self.store.raise_alarm(AlarmKind::OutboxDamaged, &message, now)?;
        }
        Ok(())
    }

    /// The bundle's file was changed on the disk: an alarm is raised, and it is passed over from now on.
    pub(crate) fn damaged(&mut self, waiting: &Waiting) -> Result<(), SealerError> {
        if self.damaged.insert(waiting.name.clone()) {
            self.outbox.damaged(&self.store, waiting, self.clock.now())?;
        }
        Ok(())
    }

    /// Whether the agent stops. A carrier that is in the middle of a long bundle gives up then.
    pub(crate) fn is_stopping(&self) -> bool {
        self.bell.stopping()
    }

    /// Waits until a bundle may be ready, the agent stops, or the time has passed. Bundles that a command
    /// released or queued again ring no bell, so the wait is short.
    pub(crate) fn wait(&self, time: Duration) {
        self.bell.wait(time.min(POLL_INTERVAL));
    }

    /// The carrier's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The lanes that it carries.
    pub(crate) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// The folder of this side's keys.
    pub(crate) fn keys_dir(&self) -> &Path {
        &self.keys_dir
    }

    /// Its own connection to the database, to read from.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Waits for the stop or for the time to pass, whoever rings.
    pub(crate) fn rest(&self, time: Duration) {
        self.bell.rest(time);
    }

    /// The outbox; carriers read there and nothing else.
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// What it counts, and what it says of itself.
    pub(crate) fn counters(&self) -> &Arc<CarrierCounters> {
        &self.counters
    }

    /// Something fails, and is tried again: told when it begins, changes and ends.
    pub(crate) fn trouble(&self, what: &str) {
        let mut told = self.counters.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != what {
            if what.is_empty() {
                tracing::info!(carrier = %self.name, "carrying goes on");
            } else {
                tracing::warn!(carrier = %self.name, trouble = %what, "carrying failed; it is tried again, nothing is lost");
            }
            what.clone_into(&mut told);
        }
    }

    /// It does not fail of anything any more.
    pub(crate) fn fine(&self) {
        self.trouble("");
    }

    fn failed(&self, err: &SealerError) {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        self.trouble(&err.to_string());
    }

    fn reopen(&mut self) {
        match Store::open(&self.state_dir) {
            Ok(store) => self.store = store,
            Err(err) => tracing::debug!(%err, "the buffer's database can't be opened again yet"),
        }
    }
}

/// Everything that is wrong with the carriers' folders, keys and the like, for `check-config`.
pub fn check(settings: &CarrierSettings) -> Vec<String> {
    match &settings.kind {
        CarrierKind::Folder(folder) => folder::check(folder),
        CarrierKind::UdpDiode(diode) => diode::check(diode),
        CarrierKind::Tcp(tcp) => tcp::check(tcp),
    }
}

/// Whether a folder exists and can be written to; what is wrong, otherwise.
pub(crate) fn writable_folder(path: &Path) -> Option<String> {
    let problem = match std::fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => "is no folder",
        Ok(_) if nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_err() => {
            "can't be written to by this user"
        }
        Ok(_) => return None,
        Err(_) => "does not exist",
    };
    Some(format!("{} {problem}", path.display()))
}

/// A file that could not be read is tried again after so long: each try begins anew what else is under
/// way.
const UNREADABLE_AGAIN: Duration = Duration::from_hours(1);
/// How often a queue is looked at, whoever rings.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How often the outbox is looked through for what an earlier epoch left: that reads the folder.
const STRAYS_INTERVAL: Duration = Duration::from_mins(1);
