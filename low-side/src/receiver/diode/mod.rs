//! Bundles from datagrams, over a link on which nothing goes back (shared/DIODE.md).
//!
//! ```text
//! socket ─> tag ─> batches ─> shards on the disk ─> blocks ─> whole SHA-256 ─> inbox
//!  └─ one thread, never waits ─┘   └────────── one thread ──────────┘   └ one for each lane ┘
//! ```
//!
//! - Invariant: nothing of a datagram is used, counted as sent, or kept before its tag was found good.
//! - Invariant: what is delivered has the SHA-256 that its object is named by.
//! - Invariant: memory does not grow with what is sent: batches are made once, shards are on the disk.

mod assembler;
mod completed;
pub(super) mod config;
mod deliver;
mod journal;
mod known;
mod link;
mod object;
pub(crate) mod report;
mod socket;
#[cfg(test)]
mod tests;
pub mod trial;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{
    Receiver as Queue, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use shared::clock::{Clock, SystemClock};
use shared::config::Span;
use shared::diode::{Catalogue, LinkKey};
use shared::durable;
use shared::record::{Lane, OriginId};

use self::assembler::{Assembler, AssemblyLimits, Whole, Work};
use self::config::DiodeConfig;
use self::known::Known;
use self::link::LinkCounters;
use self::report::{CatalogueReport, LinkReport, STATUS_FILE};
use self::socket::{BATCHES, Batch, Intake};
use super::{ReceiveError, Receiver, Reception};
use crate::import::KeyRing;

/// Receives from one link.
pub(super) struct DiodeReceiver {
    config: DiodeConfig,
    bundle_bytes_max: u64,
    keys: KeyRing,
}

/// What several links of an agent share: the same bundle on two links completes once, and the shards
/// of both count.
type Shared = Arc<Mutex<Assembler>>;

/// The assemblers in use, by folder.
static IN_USE: Mutex<Vec<(PathBuf, Weak<Mutex<Assembler>>)>> = Mutex::new(Vec::new());

/// How long the thread that writes waits for shards when it has nothing else to do.
const IDLE: Duration = Duration::from_millis(100);
/// How often the status is written.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How often what was not heard of for long is looked for.
const TIDY_INTERVAL: Duration = Duration::from_mins(10);
/// After a failure to deliver, how long until the next try.
const DELIVER_AGAIN: Duration = Duration::from_secs(1);
/// More whole bundles than this never wait for the inbox.
const DELIVERIES: usize = 4096;
/// Everyone may read the numbers.
const STATUS_MODE: u32 = 0o644;

impl DiodeReceiver {
    pub(super) fn new(config: &DiodeConfig, bundle_bytes_max: u64, keys: KeyRing) -> Self {
        Self { config: config.clone(), bundle_bytes_max, keys }
    }

    fn assembler(&self, reception: &Reception) -> Result<Shared, ReceiveError> {
        let dir = reception.state_folder_of_all("diode");
        let mut in_use = lock(&IN_USE);
        in_use.retain(|(_, weak)| weak.strong_count() > 0);
        let known = in_use.iter().find(|(of, _)| *of == dir);
        if let Some(shared) = known.and_then(|(_, weak)| weak.upgrade()) {
            return Ok(shared);
        }
        deliver::reclaim(&dir, reception).map_err(ReceiveError::io(&dir))?;
        let limits = AssemblyLimits {
            state_bytes_max: self.config.state_bytes_max,
            object_bytes_max: self.bundle_bytes_max,
        };
        let assembler =
            Assembler::open(&dir, limits, Instant::now()).map_err(ReceiveError::io(&dir))?;
        let shared = Arc::new(Mutex::new(assembler));
        in_use.push((dir, Arc::downgrade(&shared)));
        Ok(shared)
    }
}

impl Receiver for DiodeReceiver {
    fn run(&mut self, reception: &Reception) -> Result<(), ReceiveError> {
        let key_path = &self.config.link_key_file;
        let key = LinkKey::load(key_path).map_err(|err| {
            ReceiveError::io(key_path)(io::Error::new(io::ErrorKind::InvalidInput, err))
        })?;
        let status_dir = reception.state_folder()?;
        let assembler = self.assembler(reception)?;
        let at = PathBuf::from(format!("udp {}", self.config.bind));
        let buffer = usize::try_from(self.config.receive_buffer).unwrap_or(usize::MAX);
        let (socket, buffer_bytes) =
            socket::bind(self.config.bind, buffer).map_err(ReceiveError::io(&at))?;
        let counters = LinkCounters::default();
        counters.buffer_bytes.store(buffer_bytes as u64, Ordering::Relaxed);
        let (free, free_queue) = sync_channel(BATCHES);
        let (full, full_queue) = sync_channel(BATCHES);
        for _ in 0..BATCHES {
            let _ = free.try_send(Batch::new());
        }
        let waiting = AtomicUsize::new(0);
        let deliveries = Mutex::new([String::new(), String::new()]);
        let bound = socket.local_addr().unwrap_or(self.config.bind);
        thread::scope(|scope| {
            let intake = Intake {
                socket: &socket,
                key: &key,
                counters: &counters,
                free: free_queue,
                full,
                waiting: &waiting,
            };
            let name = || thread::Builder::new().name("diode".to_owned());
            let spawned = name().spawn_scoped(scope, || intake.run(&|| reception.is_stopping()));
            let receiving = spawned.map_err(ReceiveError::io(&at))?;
            let mut senders = Vec::new();
            for urgency in 0..2 {
                let (sender, queue) = sync_channel(DELIVERIES);
                let (assembler, deliveries) = (&assembler, &deliveries);
                let body = move || deliver_all(&queue, urgency, assembler, deliveries, reception);
                name().spawn_scoped(scope, body).map_err(ReceiveError::io(&at))?;
                senders.push(sender);
            }
            let mut keeper = Keeper {
                reception,
                link: key.id(),
                keys: &self.keys,
                known: Known::after(last_report(reception.name(), &status_dir), Instant::now()),
                counters: &counters,
                assembler: &assembler,
                deliveries: &deliveries,
                status_dir,
                bind: bound.to_string(),
                senders,
                stuck: None,
                refused_seen: 0,
            };
            keeper.run(&full_queue, &free, &waiting);
            // The thread that receives ends when nobody takes what it has, and the others when
            // nothing more is sent to them.
            drop((keeper, full_queue, free));
            match receiving.join() {
                Ok(result) => result.map_err(ReceiveError::io(&at)),
                Err(_) => Err(ReceiveError::io(&at)(io::Error::other("receiving panicked"))),
            }
        })
    }
}

/// Puts whole bundles of one lane into the inbox, until nobody sends more.
fn deliver_all(
    queue: &Queue<Box<Whole>>,
    urgency: usize,
    assembler: &Shared,
    deliveries: &Mutex<[String; 2]>,
    reception: &Reception,
) {
    for whole in queue {
        while let Err(err) = deliver::deliver(&whole, reception) {
            reception.counters().failures.fetch_add(1, Ordering::Relaxed);
            lock(deliveries)[urgency] = err.to_string();
            if reception.is_stopping() {
                // What is kept of it is looked at once more by the next start.
                return;
            }
            reception.rest(DELIVER_AGAIN);
        }
        lock(deliveries)[urgency].clear();
        if let Err(error) = lock(assembler).delivered(&whole.info) {
            tracing::warn!(%error, "that a bundle came whole can't be noted; its next pass is received once more");
        }
    }
}

/// The thread that writes, restores and tells.
struct Keeper<'a> {
    reception: &'a Reception,
    link: u64,
    keys: &'a KeyRing,
    known: Known,
    counters: &'a LinkCounters,
    assembler: &'a Shared,
    deliveries: &'a Mutex<[String; 2]>,
    status_dir: PathBuf,
    bind: String,
    senders: Vec<SyncSender<Box<Whole>>>,
    /// A whole bundle for which the way into the inbox had no room: until it has, nothing more is put
    /// together.
    stuck: Option<Box<Whole>>,
    /// How many refused bundles were looked at.
    refused_seen: u64,
}

impl Keeper<'_> {
    fn run(&mut self, full: &Queue<Batch>, free: &SyncSender<Batch>, waiting: &AtomicUsize) {
        let mut busy = true;
        let mut told = Instant::now();
        let mut tidied = Instant::now();
        self.tell(told);
        while !self.reception.is_stopping() {
            let batch = if busy {
                full.try_recv().map_err(|err| match err {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            } else {
                full.recv_timeout(IDLE)
            };
            let now = Instant::now();
            match batch {
                Ok(mut batch) => {
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    let mut assembler = lock(self.assembler);
                    assembler.feed(self.link, &batch.shards, &batch.bytes, now);
                    // What is urgent does not wait for the end of a backlog.
                    let urgent = assembler.is_urgent();
                    drop(assembler);
                    for page in &batch.pages {
                        self.take_page(&batch.bytes[page.clone()], now);
                    }
                    batch.clear();
                    let _ = free.try_send(batch);
                    busy = true;
                    if urgent {
                        self.work(now);
                    }
                }
                Err(RecvTimeoutError::Timeout) => busy = self.work(now),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if now.duration_since(told) >= STATUS_INTERVAL {
                told = now;
                self.tell(now);
            }
            if now.duration_since(tidied) >= TIDY_INTERVAL {
                tidied = now;
                if let Err(error) = lock(self.assembler).tidy(now) {
                    tracing::warn!(%error, "what is left of old bundles can't be removed");
                }
            }
        }
        self.tell(Instant::now());
    }

    /// One step; false where there is nothing to do.
    fn work(&mut self, now: Instant) -> bool {
        if let Some(whole) = self.stuck.take()
            && !self.send(whole)
        {
            return false;
        }
        let work = lock(self.assembler).work(now);
        match work {
            Work::Idle => false,
            Work::Busy => true,
            Work::Whole(whole) => self.send(whole),
        }
    }

    /// Sends a whole bundle on its way into the inbox; false where there is no room.
    fn send(&mut self, whole: Box<Whole>) -> bool {
        let urgency = usize::from(whole.info.lane == Lane::Routine);
        match self.senders[urgency].try_send(whole) {
            Ok(()) => true,
            Err(TrySendError::Full(whole) | TrySendError::Disconnected(whole)) => {
                self.stuck = Some(whole);
                false
            }
        }
    }

    fn take_page(&mut self, page: &[u8], now: Instant) {
        let keys = self.keys.current();
        match Catalogue::verify(page, &keys.trust, SystemClock.now()) {
            Ok(page) => {
                lock(self.assembler).note_origin(self.link, &page.origin);
                self.known.take(page, now);
            }
            Err(err) => self.known.refuse(err.to_string()),
        }
    }

    /// Writes the status, and says what is wrong.
    fn tell(&mut self, now: Instant) {
        for bundle in self.reception.refused_since(&mut self.refused_seen) {
            if let Err(error) = lock(self.assembler).refused(&bundle) {
                tracing::warn!(%error, "that a bundle was refused can't be noted; its next pass is not taken");
            }
        }
        let (whole, partials, counts, bytes, disk, wrong, links) = {
            let mut assembler = lock(self.assembler);
            (
                assembler.numbers().clone(),
                assembler.partials(),
                assembler.counters(),
                assembler.bytes(),
                assembler.trouble().map(ToOwned::to_owned),
                assembler.take_wrong(),
                assembler.links_of_same_origin(self.link),
            )
        };
        for message in wrong {
            self.reception.counters().wrong.fetch_add(1, Ordering::Relaxed);
            tracing::error!(message, "a bundle that came over the link is wrong");
        }
        let trouble = self.trouble(disk, now);
        let mut counters = BTreeMap::new();
        let mut note = |name: &str, value: u64| counters.insert(name.to_owned(), value);
        note("shards-written", counts.written);
        note("shards-redundant", counts.redundant);
        note("shards-refused", counts.refused);
        note("blocks", counts.blocks);
        note("bundles-whole", counts.whole);
        note("bundles-wrong", counts.wrong);
        note("bundles-given-up", counts.given_up);
        note("disk-failures", counts.failures);
        note("state-bytes", bytes);
        note("bundles-under-way", partials.len() as u64);
        let link = self.counters;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        note("datagrams", of(&link.received));
        note("datagram-bytes", of(&link.received_bytes));
        note("datagrams-lost", of(&link.lost));
        note("longest-burst", of(&link.burst));
        note("longest-burst-last-second", link.burst_recent.swap(0, Ordering::Relaxed));
        note("datagrams-repeated", of(&link.repeated));
        note("datagrams-foreign", of(&link.foreign));
        note("datagrams-forged", of(&link.forged));
        note("datagrams-malformed", of(&link.malformed));
        note("socket-drops", of(&link.socket_drops));
        note("socket-buffer-bytes", of(&link.buffer_bytes));
        note("socket-failures", of(&link.failures));
        note("stalls", of(&link.stalls));
        let known = &self.known;
        let report = LinkReport {
            receiver: self.reception.name().to_owned(),
            link: format!("{:016x}", self.link),
            time: SystemClock.now().to_string(),
            origin: known.origin.as_ref().map(ToString::to_string),
            catalogue: CatalogueReport {
                number: known.number,
                made: (known.number > 0).then(|| known.time.to_string()),
                age_ms: known.age(now).map(|age| age.as_millis() as u64),
                pages: known.pages,
                old: known.old,
                refused: known.refused,
                refused_why: known.refused_why.clone(),
            },
            counters,
            trouble: trouble.clone(),
            lanes: report::lanes(&links, known, &whole, &partials),
        };
        self.reception.counters().set_details(json!({
            "bind": self.bind,
            "origin": report.origin,
            "catalogue": report.catalogue,
            "counters": report.counters,
            "lanes": report.lanes.iter().map(|lane| json!({
                "lane": lane.lane, "epoch": lane.epoch, "first": lane.first, "last": lane.last,
                "counts": lane.counts,
            })).collect::<Vec<_>>(),
        }));
        self.reception.trouble(&trouble);
        let path = self.status_dir.join(STATUS_FILE);
        let bytes = serde_json::to_vec(&report).unwrap_or_default();
        if let Err(error) = durable::write_volatile(&path, &bytes, STATUS_MODE) {
            tracing::debug!(%error, "the link's status can't be written");
        }
    }

    fn trouble(&self, disk: Option<String>, now: Instant) -> String {
        let mut troubles: Vec<String> = lock(self.deliveries)
            .iter()
            .filter(|what| !what.is_empty())
            .map(|what| format!("a bundle can't be put into the inbox: {what}"))
            .collect();
        troubles.extend(disk.map(|what| format!("shards can't be kept: {what}")));
        if let Some(age) = self.known.missing_for(now) {
            let age = Span(Duration::from_secs(age.as_secs()));
            troubles.push(format!(
                "no catalogue has come for {age}: the link is down, the sender stands still, or its key is not trusted"
            ));
        }
        troubles.join("; ")
    }
}

/// Everything that is wrong with what a link needs, for `check-config`.
pub(super) fn check(config: &DiodeConfig) -> Vec<String> {
    LinkKey::load(&config.link_key_file).err().map(|err| err.to_string()).into_iter().collect()
}

/// What the receiver's last life knew of the catalogue, if anything.
fn last_report(name: &str, status_dir: &Path) -> Option<(OriginId, u64)> {
    let bytes = std::fs::read(status_dir.join(STATUS_FILE)).ok()?;
    let report: LinkReport = serde_json::from_slice(&bytes).ok()?;
    let origin = report.origin.as_deref()?.parse().ok()?;
    (report.receiver == name).then_some((origin, report.catalogue.number))
}

/// The status files of all links, newest state as their receivers wrote it.
pub(crate) fn reports(state_dir: &Path, names: &[String]) -> io::Result<Vec<LinkReport>> {
    let mut reports = Vec::new();
    for name in names {
        let path = state_dir.join("receivers").join(name).join(STATUS_FILE);
        match std::fs::read(&path) {
            Ok(bytes) => reports.push(serde_json::from_slice(&bytes).map_err(io::Error::other)?),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
    }
    Ok(reports)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
