//! From the buffer to the outbox, by steps that may each be repeated.
//!
//! ```text
//! plan ──> write NAME.partial, sync ──> mark sealed ──> sidecar, rename, sync ──> mark ready
//!  ^ frozen in the database               ^ digest, name and size in the database
//! ```
//!
//! Where officers review what leaves, the summary is durable before "sealed", and the file goes to
//! where it waits for them instead of to its name: see [`crate::release`].
//!
//! A crash before "sealed" leaves a plan, which is written again: nothing of it was ever visible.
//! A crash after it leaves a complete file whose digest is known, which is given its name: a second
//! sealing would give other bytes for the same number, and the low side would see a fork.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use shared::bundle::{BundleDigest, Manifest, SealError, SealReason, file_name, seal};
use shared::clock::{Clock, Nanos};
use shared::durable;
use shared::keys::{
    KeyError, Officers, Recipients, SIGNING_KEY_FILE, SigningKey, summary_commitment,
};
use shared::record::Lane;
use zeroize::Zeroizing;

use crate::buffer::{
    AlarmKind, BufferError, Bundle, BundleState, PlanLimits, PlannedBundle, SealedFile, Store,
};
use crate::config::Config;
use crate::outbox::Outbox;
use crate::policy::Waiting;
use crate::release::{Collector, ReviewFolder, Summary};

/// What stands in a manifest as the agent.
const AGENT: &str = concat!("penstock-high/", env!("CARGO_PKG_VERSION"));

/// The locks by which an agent and a command never seal in the same lane at the same time.
const LOCK_FILES: [(Lane, &str); Lane::ALL.len()] =
    [(Lane::Flash, "seal-flash.lock"), (Lane::Routine, "seal-routine.lock")];

/// How often a plan is frozen again because its blocks turn out damaged while it is written.
const REFREEZES_MAX: u32 = 3;

/// Why a bundle was not sealed. What is in the buffer stays there.
#[derive(Debug, thiserror::Error)]
pub enum SealerError {
    /// The buffer.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// Another process seals; it is tried again.
    #[error(
        "another process holds {path}\n  try: see whether a penstock-high command hangs or was suspended"
    )]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// A sealed bundle's file is not what was sealed.
    #[error("{path} was changed on the disk since it was sealed")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A file or folder.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Nobody could release the bundle.
    #[error(
        "{known} officer(s) are known and a release takes {required}; sealing waits, nothing is lost\n  try: penstock-high officer add FILE, then reload the agent"
    )]
    TooFewOfficers {
        /// How many are known.
        known: usize,
        /// How many a release takes.
        required: usize,
    },
    /// Too little free space to begin a bundle.
    #[error(
        "{dir} has {free} bytes free, too little to seal a bundle and keep the floor\n  try: carry bundles away, or make room"
    )]
    NoRoom {
        /// The outbox.
        dir: PathBuf,
        /// Free bytes.
        free: u64,
    },
    /// What waits to be handed over takes all the room it may take.
    #[error(
        "{bytes} bytes wait in {dir} to be handed over; sealing waits, too\n  try: carry them across, or raise outbox.waiting-bytes-max"
    )]
    OutboxFull {
        /// The outbox.
        dir: PathBuf,
        /// What waits there.
        bytes: u64,
    },
    /// The outbox is not the folder that bundles were put into.
    #[error(
        "{dir} is not the outbox that bundles were put into: its mark is missing\n  try: mount its file system; if it was emptied on purpose, remove outbox-mark from the state folder"
    )]
    OutboxGone {
        /// Where it should be.
        dir: PathBuf,
    },
    /// Compression, encryption, signing or writing.
    #[error("{path}: {source}")]
    Seal {
        /// The bundle's temporary file.
        path: PathBuf,
        /// What failed.
        source: SealError,
    },
}

impl SealerError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// The keys a sealer uses; loaded again on request.
#[derive(Clone, Debug)]
pub struct SealKeys {
    signing: SigningKey,
    recipients: Recipients,
    officers: Officers,
}

impl SealKeys {
    /// Loads signing key and recipients.
    pub fn load(keys_dir: &Path) -> Result<Self, KeyError> {
        Ok(Self {
            signing: SigningKey::load(&keys_dir.join(SIGNING_KEY_FILE))?,
            recipients: Recipients::load(keys_dir)?,
            officers: Officers::load(keys_dir)?,
        })
    }

    /// Those who may release what is sealed.
    pub fn officers(&self) -> &Officers {
        &self.officers
    }

    /// Those who can open what is sealed with these keys.
    pub fn recipients(&self) -> &Recipients {
        &self.recipients
    }
}

/// Cuts bundles from the buffer.
pub struct Sealer {
    publisher: Publisher,
    keys: SealKeys,
    config: Config,
    watches: [Watch; Lane::ALL.len()],
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("outbox", &self.publisher.outbox).finish_non_exhaustive()
    }
}

/// Whether to wait for another process that seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A command waits.
    Wait,
    /// The agent has other things to do, and tries again.
    Try,
}

/// The part of sealing that needs no key: sealed files get their names.
pub struct Publisher {
    pub(crate) store: Store,
    pub(crate) outbox: Outbox,
    pub(crate) reviews: ReviewFolder,
    locks: Vec<(Lane, PathBuf, File)>,
    patience: Patience,
    pub(crate) clock: Arc<dyn Clock>,
    /// Bundles whose file is gone, as was told.
    told_gone: HashSet<(Lane, u64)>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("outbox", &self.outbox).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Opens the buffer's database and the outbox.
    pub fn open(
        config: &Config,
        patience: Patience,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SealerError> {
        let store = Store::open(&config.state_dir)?;
        let mut locks = Vec::new();
        for (lane, name) in LOCK_FILES {
            let path = config.state_dir.join(name);
            let lock = durable::create(&path, 0o600).map_err(SealerError::io(&path))?;
            locks.push((lane, path, lock));
        }
        let outbox = Outbox::open(&config.outbox, &config.state_dir)?;
        let reviews = ReviewFolder::in_outbox(outbox.dir());
        let told_gone = HashSet::new();
        Ok(Self { store, outbox, reviews, locks, patience, clock, told_gone })
    }

    /// The outbox, with the database that knows its bundles.
    pub fn outbox(&mut self) -> (&Outbox, &mut Store) {
        (&self.outbox, &mut self.store)
    }

    /// Uses a new connection to the database from now on.
    pub fn reopen_store(&mut self, state_dir: &Path) -> Result<(), SealerError> {
        self.store = Store::open(state_dir)?;
        Ok(())
    }

    /// Names what is sealed or released and has no name yet.
    pub fn publish_sealed(&mut self) -> Result<(), SealerError> {
        for lane in Lane::ALL {
            let _held = self.hold(lane)?;
            for state in [BundleState::Sealed, BundleState::Released] {
                for bundle in self.store.bundles(Some(state))? {
                    if bundle.lane == lane {
                        self.publish(&bundle)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Nobody else seals in this lane while this is held.
    pub(crate) fn hold(&self, lane: Lane) -> Result<Held, SealerError> {
        let mut files = Vec::new();
        for (_, path, lock) in self.locks.iter().filter(|(of, ..)| *of == lane) {
            files.push(self.hold_one(path, lock)?);
        }
        Ok(Held(files))
    }

    /// Nobody else seals in any lane while this is held.
    pub(crate) fn hold_all(&self) -> Result<Held, SealerError> {
        let mut held = Held(Vec::new());
        for (_, path, lock) in &self.locks {
            held.0.push(self.hold_one(path, lock)?);
        }
        Ok(held)
    }

    fn hold_one(&self, path: &Path, lock: &File) -> Result<File, SealerError> {
        let file = lock.try_clone().map_err(SealerError::io(path))?;
        let locked = match self.patience {
            Patience::Wait => file.lock(),
            Patience::Try => file.try_lock().map_err(|err| match err {
                TryLockError::Error(err) => err,
                TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            }),
        };
        match locked {
            Ok(()) => Ok(file),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                Err(SealerError::Busy { path: path.to_owned() })
            }
            Err(err) => Err(SealerError::io(path)(err)),
        }
    }

    /// Gives the file of a sealed or released bundle its name and marks it ready; what has to be
    /// reviewed first goes to where it waits. A bundle whose file is gone stays as it is: it was not
    /// handed over, and must not look so.
    pub(crate) fn publish(&mut self, bundle: &Bundle) -> Result<Option<Bundle>, SealerError> {
        let now = self.clock.now();
        let review = self.store.review(bundle.lane, bundle.number)?;
        if bundle.state == BundleState::Sealed && review.is_some() {
            if self.hold_for_review(bundle)? {
                return Ok(Some(self.store.mark_awaiting_release(bundle)?));
            }
        } else if self.outbox.publish(self.store.epoch(), bundle)? {
            let ready = self.store.mark_ready(bundle, now)?;
            if let (Some(_), Some(file)) = (review, &ready.file) {
                self.reviews.remove(&file.name)?;
            }
            return Ok(Some(ready));
        }
        if self.told_gone.insert((bundle.lane, bundle.number)) {
            let message = format!(
                "the file of bundle {} of lane {} is gone from {} or was changed there; the records in it can't cross",
                bundle.number,
                bundle.lane,
                self.outbox.dir().display()
            );
            tracing::error!(lane = %bundle.lane, number = bundle.number, "a sealed bundle's file is gone");
            self.store.raise_alarm(AlarmKind::OutboxDamaged, &message, now)?;
        }
        Ok(None)
    }

    fn hold_for_review(&self, bundle: &Bundle) -> Result<bool, SealerError> {
        let Some(file) = &bundle.file else { return Ok(false) };
        let partial = self.outbox.partial(self.store.epoch(), bundle.lane, bundle.number);
        let held =
            self.reviews.hold(&partial, &file.name, &BundleDigest::from_bytes(file.sha256))?;
        if !held {
            self.outbox.expect_mark()?;
        }
        Ok(held)
    }
}

impl Sealer {
    /// Opens the buffer's database, the keys and the outbox.
    pub fn open(
        config: &Config,
        patience: Patience,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SealerError> {
        let now = clock.now();
        Ok(Self {
            publisher: Publisher::open(config, patience, clock)?,
            keys: SealKeys::load(&config.keys_dir)?,
            config: config.clone(),
            watches: Lane::ALL.map(|_| Watch::new(now)),
        })
    }

    /// Uses other keys from the next bundle on.
    pub fn set_keys(&mut self, keys: SealKeys) {
        self.keys = keys;
    }

    /// The part that needs no key.
    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }

    /// Completes releases that a crash interrupted.
    pub fn complete_releases(&mut self) -> Result<(), SealerError> {
        let required = self.config.release.required;
        self.publisher.complete_releases(&self.keys.officers, required)
    }

    /// Raises alarms for what waits for officers too long.
    pub fn watch_overdue(&mut self) -> Result<(), SealerError> {
        self.publisher.watch_overdue(&self.config)
    }

    /// Completes what a crash interrupted in a lane. Gives the bundles that became ready.
    pub fn recover(&mut self, lane: Lane) -> Result<Vec<Bundle>, SealerError> {
        let _held = self.publisher.hold(lane)?;
        self.complete_interrupted(lane)
    }

    /// Seals one bundle of a lane, if the policy says that one is due.
    pub fn seal_due(&mut self, lane: Lane) -> Result<Option<Bundle>, SealerError> {
        match self.due(lane)? {
            Some(reason) => self.seal(lane, reason),
            None => Ok(None),
        }
    }

    fn due(&mut self, lane: Lane) -> Result<Option<SealReason>, SealerError> {
        let Publisher { store, outbox, clock, .. } = &self.publisher;
        let waiting = store.waiting(lane)?;
        let last_sealed = store.last_sealed(lane)?;
        let now = clock.now();
        let watch = &mut self.watches[lane as usize];
        let any = waiting.records > 0 || waiting.oldest_loss.is_some();
        watch.look(waiting.last_sequence - waiting.records, any, last_sealed);
        let by_watch = before(now, watch.waiting);
        let view = Waiting {
            records: waiting.records,
            plain_bytes: waiting.plain_bytes,
            oldest: waiting.oldest.map(|time| time.min(by_watch)),
            oldest_loss: waiting.oldest_loss.map(|time| time.min(by_watch)),
            last_sealed: last_sealed.unwrap_or(watch.began).min(before(now, watch.sealed)),
        };
        let reason = self.config.seal_policy(lane).decide(&view, now);
        if reason.is_some() {
            outbox.expect_room(store)?;
        }
        Ok(reason)
    }

    /// The last sequence number that is durable in a lane.
    pub fn last_sequence(&self, lane: Lane) -> Result<u64, SealerError> {
        Ok(self.publisher.store.waiting(lane)?.last_sequence)
    }

    /// Seals one bundle of a lane now; `None` if nothing waits and it is no heartbeat.
    pub fn seal(&mut self, lane: Lane, reason: SealReason) -> Result<Option<Bundle>, SealerError> {
        let _held = self.publisher.hold(lane)?;
        self.complete_interrupted(lane)?;
        self.expect_officers(lane)?;
        let policy = self.config.seal_policy(lane);
        let limits =
            PlanLimits { records_max: policy.records_max, plain_bytes_max: policy.plain_bytes_max };
        let now = self.publisher.clock.now();
        match self.publisher.store.plan_bundle(lane, limits, reason, now)? {
            Some(planned) => self.write_and_publish(planned).map(Some),
            None => Ok(None),
        }
    }

    fn complete_interrupted(&mut self, lane: Lane) -> Result<Vec<Bundle>, SealerError> {
        let mut ready = Vec::new();
        for state in [BundleState::Sealed, BundleState::Released] {
            for bundle in self.publisher.store.bundles(Some(state))? {
                if bundle.lane == lane {
                    ready.extend(self.publisher.publish(&bundle)?);
                }
            }
        }
        for planned in self.publisher.store.planned_bundles()? {
            if planned.bundle().lane == lane {
                ready.push(self.write_and_publish(planned)?);
            }
        }
        Ok(ready)
    }

    /// What is sealed while too few officers are known could never be released: those who come later
    /// can't decrypt its summary. In the buffer it loses nothing.
    fn expect_officers(&self, lane: Lane) -> Result<(), SealerError> {
        let required = self.config.release.required;
        let known = self.keys.officers.halves().len();
        if !self.config.release.is_reviewed(lane) || known >= required {
            return Ok(());
        }
        Err(SealerError::TooFewOfficers { known, required })
    }

    /// A bundle that can't be finished must not fill the disk to the last byte, again and again.
    fn expect_free(&self, bundle: &Bundle) -> Result<(), SealerError> {
        let dir = self.publisher.outbox.dir();
        let free = durable::free_bytes(dir).map_err(SealerError::io(dir))?;
        let needed = self.config.buffer.free_disk_floor.0 / 2 + bundle.plain_bytes / 4;
        if free >= needed {
            return Ok(());
        }
        Err(SealerError::NoRoom { dir: dir.to_owned(), free })
    }

    fn write_and_publish(&mut self, mut planned: PlannedBundle) -> Result<Bundle, SealerError> {
        self.expect_free(planned.bundle())?;
        self.expect_officers(planned.bundle().lane)?;
        let mut refreezes = 0;
        let (file, commitment) = loop {
            match self.write(&planned) {
                Ok(written) => break written,
                Err(SealerError::Buffer(BufferError::Damaged { .. }))
                    if refreezes < REFREEZES_MAX =>
                {
                    refreezes += 1;
                    let now = self.publisher.clock.now();
                    planned = self.publisher.store.refreeze(&planned, now)?;
                }
                Err(err) => {
                    // What was written is worthless, and may be what filled the disk.
                    let _ = durable::remove(&self.partial(planned.bundle()));
                    return Err(err);
                }
            }
        };
        let store = &mut self.publisher.store;
        let bundle = match commitment {
            Some(commitment) => store.mark_sealed_for_review(planned, file, commitment)?,
            None => store.mark_sealed(planned, file)?,
        };
        let published = self.publisher.publish(&bundle)?;
        Ok(published.unwrap_or(bundle))
    }

    fn partial(&self, bundle: &Bundle) -> PathBuf {
        let Publisher { store, outbox, .. } = &self.publisher;
        outbox.partial(store.epoch(), bundle.lane, bundle.number)
    }

    /// Writes a planned bundle's file under its temporary name, complete and synced; where officers
    /// review it, its summary too, to which the second value commits.
    fn write(
        &mut self,
        planned: &PlannedBundle,
    ) -> Result<(SealedFile, Option<[u8; 32]>), SealerError> {
        let bundle = planned.bundle();
        let path = self.partial(bundle);
        let manifest = self.manifest(planned);
        let file = durable::create(&path, 0o640).map_err(SealerError::io(&path))?;
        let mut fault = None;
        let reviewed = self.config.release.is_reviewed(bundle.lane);
        let mut collector = reviewed.then(|| Collector::new(self.config.guard.privileges.clone()));
        let sealed = seal(
            &manifest,
            &self.keys.signing,
            &self.keys.recipients,
            self.config.seal.compression_level,
            &file,
            |out| self.copy_records(planned, out, collector.as_mut(), &mut fault),
        );
        match (sealed, fault) {
            (_, Some(fault)) => Err(fault.into()),
            (Err(source), None) => Err(SealerError::Seal { path, source }),
            (Ok(sealed), None) => {
                // The name must be as durable as the content before the blocks may go.
                let dir = self.publisher.outbox.dir();
                durable::sync_dir(dir).map_err(SealerError::io(dir))?;
                let file = SealedFile {
                    name: file_name(&manifest.origin, bundle.lane, bundle.number, &sealed.digest),
                    digest: sealed.digest,
                    bytes: sealed.file_bytes,
                    sha256: *sealed.file_sha256.as_bytes(),
                };
                let commitment = match collector {
                    Some(collector) => Some(self.summarise(collector, &manifest, &file)?),
                    None => None,
                };
                Ok((file, commitment))
            }
        }
    }

    /// Makes the summary for the officers; gives what commits to it. In plain it is never on a disk.
    fn summarise(
        &self,
        collector: Collector,
        manifest: &Manifest,
        file: &SealedFile,
    ) -> Result<[u8; 32], SealerError> {
        let halves = self.keys.recipients.halves().iter();
        let recipients = halves.map(|half| half.name.clone()).collect();
        let mut summary = Summary::of(manifest, file, recipients);
        collector.fill(&mut summary);
        let plain = Zeroizing::new(summary.encode());
        let reviews = &self.publisher.reviews;
        let encrypted =
            self.keys.officers.encrypt(plain.as_bytes()).map_err(|err| SealerError::Seal {
                path: reviews.summary(&file.name),
                source: SealError::Encrypt(err.to_string()),
            })?;
        reviews.put_summary(&file.name, &encrypted)?;
        Ok(summary_commitment(BundleDigest::of(plain.as_bytes()).as_bytes()))
    }

    fn copy_records(
        &self,
        planned: &PlannedBundle,
        out: &mut dyn Write,
        mut collector: Option<&mut Collector>,
        fault: &mut Option<BufferError>,
    ) -> io::Result<()> {
        enum Stop {
            Buffer(BufferError),
            Out(io::Error),
        }
        impl From<BufferError> for Stop {
            fn from(err: BufferError) -> Self {
                Self::Buffer(err)
            }
        }
        match self.publisher.store.read_blocks(planned, |plain| {
            if let Some(collector) = &mut collector {
                collector.add(plain);
            }
            out.write_all(plain).map_err(Stop::Out)
        }) {
            Ok(()) => Ok(()),
            Err(Stop::Out(err)) => Err(err),
            Err(Stop::Buffer(err)) => {
                *fault = Some(err);
                Err(io::Error::other("the buffer could not be read"))
            }
        }
    }

    fn manifest(&self, planned: &PlannedBundle) -> Manifest {
        let bundle = planned.bundle();
        Manifest {
            origin: self.publisher.store.origin().clone(),
            epoch: self.publisher.store.epoch(),
            lane: bundle.lane,
            number: bundle.number,
            previous: bundle.previous_digest,
            agent: AGENT.to_owned(),
            sealed_at: bundle.planned,
            reason: bundle.reason,
            records: bundle.streams.kept.sum().records,
            first_sequence: bundle.first_sequence,
            last_sequence: bundle.last_sequence,
            records_bytes: bundle.plain_bytes,
            oldest: bundle.oldest,
            newest: bundle.newest,
            chain_before: bundle.chain_before,
            chain_head: bundle.chain_head,
            streams: bundle.stream_counts(),
            suppressed: bundle.suppressed_counts(),
            losses: planned.losses().to_vec(),
        }
    }
}

/// How long things have lasted by a clock that nobody sets: when the system's clock goes back by a
/// day, records must not wait a day longer, and heartbeats must not stop for one.
struct Watch {
    began: Nanos,
    sealed_through: u64,
    waiting: Instant,
    last_sealed: Option<Nanos>,
    sealed: Instant,
}

impl Watch {
    fn new(began: Nanos) -> Self {
        let now = Instant::now();
        Self { began, sealed_through: 0, waiting: now, last_sealed: None, sealed: now }
    }

    /// Begins to count anew where something changed.
    fn look(&mut self, sealed_through: u64, any_waiting: bool, last_sealed: Option<Nanos>) {
        if self.sealed_through != sealed_through || !any_waiting {
            (self.sealed_through, self.waiting) = (sealed_through, Instant::now());
        }
        if self.last_sealed != last_sealed {
            (self.last_sealed, self.sealed) = (last_sealed, Instant::now());
        }
    }
}

/// The time of the system's clock that lies as far back as an instant does.
fn before(now: Nanos, since: Instant) -> Nanos {
    Nanos(now.0.saturating_sub(i64::try_from(since.elapsed().as_nanos()).unwrap_or(i64::MAX)))
}

/// The locks, until it is dropped.
pub(crate) struct Held(Vec<File>);

impl Drop for Held {
    fn drop(&mut self) {
        // A lock also ends with its file; an error here means that it did already.
        for file in &self.0 {
            let _ = file.unlock();
        }
    }
}
