//! Admitted records go to one sink, in order, at that sink's own pace.
//!
//! One thread for each sink. Within a chain records go in order of their numbers; the flash lane
//! goes first, also before a routine bundle that is half done. The watermark moves when the sink has
//! confirmed a batch, and not before. An error makes the batch be sent again after a pause, for
//! ever; it touches neither the inbox nor another sink.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::bell::Bell;
use shared::bundle::{Limits, RecordReader, Refusal, reopen};
use shared::clock::{Clock, Nanos};
use shared::record::Lane;

use crate::event;
use crate::import::KeyRing;
use crate::latency;
use crate::ledger::{AdmittedBundle, ChainId, ChainState, Delivery, Ledger, LedgerError, SinkId};
use crate::ranges::RangeSet;
use crate::sink::config::{BatchLimits, Filter};
use crate::sink::dead_letters::{self, DeadLetters};
use crate::sink::{Confirmed, Item, Rejected, Sink, SinkError};

/// How a sink does, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SinkHealth {
    /// `delivering`, `idle`, `held`, `blocked` (a stored bundle can't be read) or `failing`.
    pub state: &'static str,
    /// The last error, or the bundle that blocks its chain, while it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Tries since the last success.
    pub failures: u64,
    /// Tries since the start that failed.
    pub retries: u64,
    /// Records since the start that the receiver has taken.
    pub delivered: u64,
    /// Records since the start that the receiver refused for good.
    pub rejected: u64,
    /// `closed` while it is delivered to, `open` while it is left alone after a failure, `half-open`
    /// while it is tried again.
    pub circuit: Circuit,
    /// When it is tried again, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
}

/// Whether a sink is delivered to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Circuit {
    /// It is delivered to.
    #[default]
    Closed,
    /// It failed, and is tried again.
    HalfOpen,
    /// It failed, and is left alone for a while.
    Open,
}

/// What a replayer shows to the thread that writes the status.
#[derive(Clone, Debug, Default)]
pub struct HealthBoard(Arc<Mutex<SinkHealth>>);

impl HealthBoard {
    /// How the sink does now.
    pub fn read(&self) -> SinkHealth {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, change: impl FnOnce(&mut SinkHealth)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Everything that one replayer needs.
pub struct Replayer<C> {
    /// The sink's name.
    pub name: String,
    /// The sink's identity in the ledger.
    pub id: SinkId,
    /// The sink.
    pub sink: Box<dyn Sink>,
    /// When a batch is closed.
    pub batch: BatchLimits,
    /// The shortest and the longest pause after an error.
    pub retry: (Duration, Duration),
    /// Records handed over in a second, at most; 0 for as many as the sink takes.
    pub records_per_second: u64,
    /// Which records it gets.
    pub filter: Filter,
    /// What its receiver refused for good.
    pub dead_letters: DeadLetters,
    /// With so many bytes of it, nothing more is sent.
    pub dead_letter_bytes: u64,
    /// This thread's own connection.
    pub ledger: Ledger,
    /// The folder of admitted bundles.
    pub store: PathBuf,
    /// The keys.
    pub keys: KeyRing,
    /// What a bundle may cost.
    pub limits: Limits,
    /// The time.
    pub clock: C,
    /// Rings when bundles were admitted.
    pub bell: Bell,
    /// Where to show how the sink does.
    pub health: HealthBoard,
}

impl<C> std::fmt::Debug for Replayer<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replayer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a batch failed.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("{path}: a rejected record can't be kept")]
    DeadLetter {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path}: the dead letters hold {bytes} bytes, and dead-letter-bytes is {most}: nothing more is sent until they are dealt with; try: penstock-low dead-letters {sink}"
    )]
    DeadLettersFull { path: PathBuf, sink: String, bytes: u64, most: u64 },
}

/// A bundle that is being read.
struct Reading {
    bundle: AdmittedBundle,
    records: RecordReader,
    /// The first number that has not been handed to the sink.
    next: u64,
    /// It has been read from before.
    continued: bool,
}

/// What is remembered between batches. Lost at an error: the ledger knows all that counts.
#[derive(Default)]
struct Progress {
    /// What the sink has taken of each chain, batches under way included.
    taken: HashMap<ChainId, RangeSet>,
    /// At most one open bundle for each lane: an urgent one does not close the other.
    reading: Vec<(Lane, Reading)>,
    /// Chains whose next bundle could not be read when it was last tried.
    blocked: HashMap<ChainId, Blocked>,
    /// The chain served last, so that many origins take turns.
    last_chain: ChainId,
    /// Batches that were handed over and are noted when their time has come, the oldest first.
    held: VecDeque<Held>,
}

impl Progress {
    /// Names a bundle that blocks its chain, and says why.
    fn blocked_by(&self) -> Option<String> {
        self.blocked.iter().min_by_key(|(chain, _)| **chain).map(|(_, blocked)| blocked.why.clone())
    }
}

/// A batch that the sink has confirmed, and that is not noted before `due`.
struct Held {
    due: Instant,
    batch: Batch,
    confirmed: Confirmed,
    confirmed_at: Nanos,
}

/// Why a chain waits, and until when.
struct Blocked {
    until: Instant,
    why: String,
}

/// What one batch has handed to the sink.
#[derive(Default)]
struct Batch {
    deliveries: Vec<Delivery>,
    /// The bundles of the deliveries, in the same order, for the case that a record is rejected.
    bundles: Vec<AdmittedBundle>,
    records: u64,
    /// Of these, the records that were handed over: the filter left out the others.
    sent: u64,
    bytes: u64,
    latency: latency::Pending,
}

enum Chosen {
    Bundle(Box<ChainState>, AdmittedBundle, u64),
    Held,
    Nothing,
}

impl<C: Clock> Replayer<C> {
    /// Delivers until the bell says stop.
    pub fn run(mut self) {
        let mut progress = Progress::default();
        let mut failures: u32 = 0;
        while !self.bell.stopping() {
            match self.deliver_batch(&mut progress) {
                Ok(Some(_)) => {
                    failures = 0;
                    let blocked = progress.blocked_by();
                    self.health.write(|health| {
                        health.state = if blocked.is_some() { "blocked" } else { "delivering" };
                        health.error = blocked;
                        health.failures = 0;
                        (health.circuit, health.next_try) = (Circuit::Closed, None);
                    });
                }
                Ok(None) => {
                    let due = progress.held.front().map(|held| held.due);
                    let due = due.map(|due| due.saturating_duration_since(Instant::now()));
                    self.bell.wait(due.unwrap_or(IDLE_LOOK).min(IDLE_LOOK));
                }
                Err(ReplayError::Sink(SinkError::Stopping)) => break,
                Err(error) => {
                    let text = chain_text(&error);
                    let pause = self.pause(failures);
                    if failures == 0 {
                        tracing::warn!(
                            sink = self.name,
                            error = text,
                            "a sink fails; it is tried again for ever"
                        );
                    }
                    failures = failures.saturating_add(1);
                    let sink_error = match error {
                        ReplayError::Sink(error) => error,
                        ReplayError::Ledger(error) => SinkError::Ledger(error),
                        ReplayError::DeadLetter { path, source } => {
                            SinkError::File { path, source }
                        }
                        ReplayError::DeadLettersFull { path, .. } => {
                            let source = io::ErrorKind::QuotaExceeded.into();
                            SinkError::File { path, source }
                        }
                    };
                    let asked = sink_error.retry_after().unwrap_or_default();
                    let pause = pause.max(asked.min(RETRY_AFTER_MAX));
                    self.sink.reset(&sink_error);
                    progress = Progress::default();
                    let next_try = Nanos(self.clock.now().0 + pause.as_nanos() as i64);
                    self.health.write(|health| {
                        health.state = "failing";
                        health.error = Some(text);
                        health.failures += 1;
                        health.retries += 1;
                        health.circuit = Circuit::Open;
                        health.next_try = Some(next_try.to_string());
                    });
                    self.bell.rest(pause);
                    self.health.write(|health| {
                        (health.circuit, health.next_try) = (Circuit::HalfOpen, None);
                    });
                }
            }
        }
    }

    /// Delivers one batch; `None` where there is nothing to deliver.
    fn deliver_batch(&mut self, progress: &mut Progress) -> Result<Option<u64>, ReplayError> {
        self.note_held(progress, Instant::now())?;
        // Somebody may have asked for records once more: the ledger is what counts.
        progress.taken.clear();
        // Looked at before the sink is: an idle sink needs no connection.
        let (mut chain, mut bundle, mut from) = match self.choose(progress, None)? {
            Chosen::Bundle(chain, bundle, from) => (chain, bundle, from),
            other => {
                self.show_waiting(progress, matches!(other, Chosen::Held));
                self.sink.idle()?;
                return Ok(None);
            }
        };
        self.check_room()?;
        self.sink.begin(&mut self.ledger)?;
        if let Some(unfinished) = self.sink.unfinished()?
            && let Chosen::Bundle(c, b, f) = self.choose(progress, Some(&unfinished))?
        {
            (chain, bundle, from) = (c, b, f);
        }
        let mut batch = Batch::default();
        let started = Instant::now();
        loop {
            self.deliver_bundle(progress, &chain, bundle, from, &mut batch, started)?;
            if self.is_full(&batch, started) || self.bell.stopping() {
                break;
            }
            let unfinished = self.sink.unfinished()?;
            match self.choose(progress, unfinished.as_ref())? {
                Chosen::Bundle(c, b, f) => (chain, bundle, from) = (c, b, f),
                Chosen::Held | Chosen::Nothing => break,
            }
        }
        if batch.deliveries.is_empty() {
            // The only bundle could not be read. What begun a connection ends it.
            self.sink.confirm()?;
            self.sink.committed(&mut self.ledger)?;
            self.show_waiting(progress, false);
            return Ok(None);
        }
        let confirmed = self.sink.confirm()?;
        let (records, sent, confirmed_at) = (batch.records, batch.sent, self.clock.now());
        let due = Instant::now() + self.sink.holds();
        progress.held.push_back(Held { due, batch, confirmed, confirmed_at });
        while let Some(oldest) = progress.held.front().map(|held| held.due)
            && progress.held.len() > HELD_MAX
        {
            self.bell.rest(oldest.saturating_duration_since(Instant::now()));
            if self.bell.stopping() {
                return Err(SinkError::Stopping.into());
            }
            self.note_held(progress, Instant::now())?;
        }
        self.note_held(progress, Instant::now())?;
        self.hold_rate(sent, started);
        Ok(Some(records))
    }

    /// Before a batch is begun, so that nothing of it is sent in vain: it may add its own letters above the
    /// limit.
    fn check_room(&self) -> Result<(), ReplayError> {
        let path = self.dead_letters.path();
        match self.dead_letters.bytes() {
            Ok(bytes) if bytes >= self.dead_letter_bytes => Err(ReplayError::DeadLettersFull {
                path,
                sink: self.name.clone(),
                bytes,
                most: self.dead_letter_bytes,
            }),
            Ok(_) => Ok(()),
            Err(source) => Err(ReplayError::DeadLetter { path, source }),
        }
    }

    /// Notes the batches whose time has come: the watermark moves.
    fn note_held(&mut self, progress: &mut Progress, now: Instant) -> Result<(), ReplayError> {
        while let Some(held) = progress.held.pop_front_if(|held| held.due <= now) {
            let Held { mut batch, confirmed, confirmed_at, .. } = held;
            self.sink.stands()?;
            let now = self.clock.now();
            if !confirmed.rejected.is_empty() {
                self.keep_rejected(&mut batch, &confirmed.rejected, now)?;
            }
            let took = batch.latency.delivered(confirmed_at);
            self.ledger.deliver(self.id, &batch.deliveries, confirmed.position, &took, now)?;
            self.sink.committed(&mut self.ledger)?;
            let delivered: u64 = batch.deliveries.iter().map(Delivery::taken).sum();
            self.health.write(|health| health.delivered += delivered);
        }
        Ok(())
    }

    /// Keeps what the receiver refused for good, and counts it, before the batch is noted.
    fn keep_rejected(
        &mut self,
        batch: &mut Batch,
        rejected: &[Rejected],
        now: Nanos,
    ) -> Result<(), ReplayError> {
        let mut lines = Vec::new();
        let mut event = Vec::new();
        let keys = self.keys.current();
        for (delivery, bundle) in batch.deliveries.iter_mut().zip(&batch.bundles) {
            let chain = self.ledger.chain_name_of(delivery.chain)?;
            let mut reasons: HashMap<u64, &str> = rejected
                .iter()
                .filter(|one| one.chain == chain)
                .filter(|one| (delivery.first..=delivery.last).contains(&one.sequence))
                .map(|one| (one.sequence, one.reason.as_str()))
                .collect();
            if reasons.is_empty() {
                continue;
            }
            // It was read a moment ago. Where it can't be read now, the batch is sent again.
            let unreadable = |why: String| ReplayError::DeadLetter {
                path: self.store.join(bundle.file()),
                source: io::Error::other(why),
            };
            let opened = File::open(self.store.join(bundle.file()))
                .map_err(Refusal::Io)
                .and_then(|file| reopen(&file, bundle.digest(), &keys.identities, &self.limits));
            let mut records = opened.map_err(|err| unreadable(err.to_string()))?;
            while !reasons.is_empty() {
                let next = records.next_record().map_err(|err| unreadable(err.to_string()))?;
                let Some(record) = next else { break };
                if let Some(reason) = reasons.remove(&record.sequence.0) {
                    event.clear();
                    event::render(&mut event, &chain, &record);
                    dead_letters::line(&mut lines, &self.name, reason, now, &event);
                    delivery.rejected.insert(record.sequence.0, record.stream);
                    batch.latency.rejected(chain.lane, &record);
                }
            }
        }
        let path = self.dead_letters.path();
        let kept = self.dead_letters.append(&lines);
        kept.map_err(|source| ReplayError::DeadLetter { path: path.clone(), source })?;
        let count: u64 = batch.deliveries.iter().map(Delivery::rejected).sum();
        let first = rejected.first().map_or("", |one| one.reason.as_str());
        let message = format!(
            "the receiver refused {count} record(s) for good, {first}; they are in {}\n  try: penstock-low dead-letters {}",
            path.display(),
            self.name
        );
        self.ledger.raise(REJECTED, &self.name, &message, now)?;
        self.health.write(|health| health.rejected += count);
        Ok(())
    }

    /// Rests until as many records may go as the batch had.
    fn hold_rate(&self, records: u64, started: Instant) {
        if self.records_per_second > 0 {
            let due = Duration::from_secs_f64(records as f64 / self.records_per_second as f64);
            self.bell.rest(due.saturating_sub(started.elapsed()));
        }
    }

    /// The next bundle: of the chain that the sink would recognise, else by lane, else in turns.
    fn choose(
        &self,
        progress: &mut Progress,
        prefer: Option<&crate::ledger::ChainName>,
    ) -> Result<Chosen, ReplayError> {
        let mut chains = self.ledger.pending_chains(self.id)?;
        let last = progress.last_chain;
        chains.sort_by_key(|chain| {
            (prefer != Some(&chain.name), chain.name.lane, chain.id <= last, chain.id)
        });
        let mut held = false;
        for chain in chains {
            if progress.blocked.get(&chain.id).is_some_and(|blocked| blocked.until > Instant::now())
            {
                continue;
            }
            let taken = match progress.taken.entry(chain.id) {
                std::collections::hash_map::Entry::Occupied(taken) => taken.into_mut(),
                std::collections::hash_map::Entry::Vacant(empty) => {
                    let taken = empty.insert(self.ledger.delivered(self.id, chain.id)?);
                    let held = progress.held.iter().flat_map(|held| &held.batch.deliveries);
                    for delivery in held.filter(|delivery| delivery.chain == chain.id) {
                        taken.insert(delivery.first, delivery.last);
                    }
                    taken
                }
            };
            if let Some((bundle, from)) = self.ledger.next_bundle(&chain, taken)? {
                return Ok(Chosen::Bundle(Box::new(chain), bundle, from));
            }
            held |= chain.held_from.is_some();
        }
        Ok(if held { Chosen::Held } else { Chosen::Nothing })
    }

    /// Shows that there is nothing to deliver. Not while a batch is under way: what an earlier try of it
    /// failed of stands until it is confirmed.
    fn show_waiting(&self, progress: &Progress, held: bool) {
        let blocked = progress.blocked_by();
        self.health.write(|health| {
            health.state = match (&blocked, held) {
                (Some(_), _) => "blocked",
                (None, true) => "held",
                (None, false) => "idle",
            };
            health.error = blocked;
        });
    }

    /// Hands records of one bundle to the sink until the bundle or the batch ends.
    fn deliver_bundle(
        &mut self,
        progress: &mut Progress,
        chain: &ChainState,
        bundle: AdmittedBundle,
        from: u64,
        batch: &mut Batch,
        started: Instant,
    ) -> Result<(), ReplayError> {
        let lane = chain.name.lane;
        let number = bundle.number();
        // Behind what was asked for once more stands what the sink has.
        let open = |taken: &RangeSet| taken.outside(&[(from, bundle.last_sequence())]);
        let hole = progress.taken.get(&chain.id).and_then(|taken| open(taken).first().copied());
        let last = hole.map_or(bundle.last_sequence(), |(_, last)| last);
        let mut reading = match self.open(progress, lane, bundle, from) {
            Ok(reading) => reading,
            Err((bundle, refusal)) => return self.unreadable(progress, &bundle, &refusal),
        };
        progress.blocked.remove(&chain.id);
        if !reading.continued {
            self.ledger.note_readable(&reading.bundle, self.clock.now())?;
        }
        reading.continued = true;
        let (mut records, mut filtered) = (0, BTreeMap::new());
        let ended = loop {
            match reading.records.next_record() {
                Ok(Some(record)) if record.sequence.0 < from => {}
                Ok(Some(record)) if record.sequence.0 > last => {
                    // It is read, and not to be had from this reader once more.
                    reading.next = u64::MAX;
                    break true;
                }
                Ok(Some(record)) => {
                    if self.filter.takes(&chain.name, &record) {
                        let item = Item { chain: &chain.name, bundle: number, record: &record };
                        batch.bytes += self.sink.write(item)?;
                        if !reading.bundle.anew() {
                            batch.latency.add(lane, &record);
                        }
                        batch.sent += 1;
                    } else {
                        *filtered.entry(record.stream).or_default() += 1;
                    }
                    reading.next = record.sequence.0 + 1;
                    batch.records += 1;
                    records += 1;
                    if self.is_full(batch, started) {
                        break false;
                    }
                }
                Ok(None) => break true,
                Err(refusal) => {
                    // What came before the damage was good: it was verified record by record against
                    // a digest that held when the bundle was reopened.
                    self.unreadable(progress, &reading.bundle, &refusal)?;
                    break false;
                }
            }
        };
        let through = if ended { last } else { reading.next - 1 };
        if through >= from {
            let delivery = Delivery::of(chain.id, (from, through), records);
            batch.deliveries.push(Delivery { filtered, ..delivery });
            batch.bundles.push(reading.bundle.clone());
            progress.taken.entry(chain.id).or_default().insert(from, through);
        }
        tracing::debug!(
            sink = self.name,
            bundle = number,
            through,
            "records were handed to the sink"
        );
        if ended {
            progress.last_chain = chain.id;
        } else if !progress.blocked.contains_key(&chain.id) {
            progress.reading.push((lane, reading));
        }
        Ok(())
    }

    /// Continues the open bundle of the lane where it is the one, or opens it anew.
    fn open(
        &self,
        progress: &mut Progress,
        lane: Lane,
        bundle: AdmittedBundle,
        from: u64,
    ) -> Result<Reading, (AdmittedBundle, Refusal)> {
        if let Some(at) = progress.reading.iter().position(|(of, _)| *of == lane) {
            let (_, reading) = progress.reading.swap_remove(at);
            if reading.bundle == bundle && reading.next == from {
                return Ok(reading);
            }
        }
        let keys = self.keys.current();
        let opened = File::open(self.store.join(bundle.file()))
            .map_err(Refusal::Io)
            .and_then(|file| reopen(&file, bundle.digest(), &keys.identities, &self.limits));
        match opened {
            Ok(records) => Ok(Reading { bundle, records, next: from, continued: false }),
            Err(refusal) => Err((bundle, refusal)),
        }
    }

    /// A stored bundle can't be read: its chain waits, the others go on. An error of the disk says
    /// nothing about the bundle.
    fn unreadable(
        &mut self,
        progress: &mut Progress,
        bundle: &AdmittedBundle,
        refusal: &Refusal,
    ) -> Result<(), ReplayError> {
        let why = format!("{}: {refusal}", bundle.file());
        let until = Instant::now() + BLOCKED_FOR;
        progress.blocked.insert(bundle.chain(), Blocked { until, why });
        let now = self.clock.now();
        if let Refusal::Io(_) = refusal {
            let message = format!(
                "{refusal}; its records wait, and it is tried again every {}",
                shared::config::Span(BLOCKED_FOR)
            );
            self.ledger.note_unreadable(bundle, &message, now)?;
        } else {
            let message = format!(
                "{refusal}; its records wait until the same bundle is brought again, or the key that opens it"
            );
            self.ledger.note_damaged(bundle, &message, now)?;
        }
        Ok(())
    }

    fn is_full(&self, batch: &Batch, started: Instant) -> bool {
        let BatchLimits { records, bytes, interval } = self.batch;
        // Where the rate is limited, a batch is what may go in a second: no burst is larger, and no
        // urgent record waits behind more.
        if self.records_per_second > 0 && batch.sent >= self.records_per_second {
            return true;
        }
        // The clock is looked at now and then: it costs as much as a small record.
        batch.records >= records
            || batch.bytes >= bytes
            || batch.records.is_multiple_of(64) && started.elapsed() >= interval
    }

    /// Twice as long after each failure, up to the longest, less up to half by chance.
    fn pause(&self, failures: u32) -> Duration {
        let (min, max) = self.retry;
        let pause = min.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(max);
        // The clock's nanoseconds are chance enough to keep many agents from knocking in step.
        let chance = u32::try_from(self.clock.now().0.rem_euclid(1024)).unwrap_or(0);
        pause.saturating_sub(pause / 2 * chance / 1024)
    }
}

/// An error with its causes, in one line.
pub fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Batches that were handed over and are not noted yet. With one more, the oldest is waited for.
const HELD_MAX: usize = 64;
/// How often the ledger is looked at for what another process has admitted.
const IDLE_LOOK: Duration = Duration::from_millis(500);
/// How long a chain with an unreadable bundle waits before another try.
const BLOCKED_FOR: Duration = Duration::from_secs(30);
/// The longest time for which a receiver can ask to be left alone.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(15);
const REJECTED: &str = "sink-rejects";

#[cfg(test)]
mod tests;
