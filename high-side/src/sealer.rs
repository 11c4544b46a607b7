//! From the buffer to the outbox, by steps that may each be repeated.
//!
//! ```text
//! plan ──> write NAME.partial, sync ──> mark sealed ──> sidecar, rename, sync ──> mark ready
//!  ^ frozen in the database               ^ digest, name and size in the database
//! ```
//!
//! A crash before "sealed" leaves a plan, which is written again: nothing of it was ever visible.
//! A crash after it leaves a complete file whose digest is known, which is given its name: a second
//! sealing would give other bytes for the same number, and the low side would see a fork.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use shared::bundle::{Manifest, SealError, SealReason, file_name, seal};
use shared::clock::{Clock, Nanos};
use shared::durable;
use shared::keys::{KeyError, Recipients, SIGNING_KEY_FILE, SigningKey};
use shared::record::Lane;

use crate::buffer::{
    AlarmKind, BufferError, Bundle, BundleState, PlanLimits, PlannedBundle, SealedFile, Store,
};
use crate::config::Config;
use crate::outbox::Outbox;
use crate::policy::Waiting;

/// What stands in a manifest as the agent.
const AGENT: &str = concat!("penstock-high/", env!("CARGO_PKG_VERSION"));

/// The lock by which an agent and a command never seal at the same time.
const LOCK_FILE: &str = "seal.lock";

/// How often a plan is frozen again because its blocks turn out damaged while it is written.
const REFREEZES_MAX: u32 = 3;

/// Why a bundle was not sealed. What is in the buffer stays there.
#[derive(Debug, thiserror::Error)]
pub enum SealerError {
    /// The buffer.
    #[error(transparent)]
    Buffer(#[from] BufferError),
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
}

impl SealKeys {
    /// Loads signing key and recipients.
    pub fn load(keys_dir: &Path) -> Result<Self, KeyError> {
        Ok(Self {
            signing: SigningKey::load(&keys_dir.join(SIGNING_KEY_FILE))?,
            recipients: Recipients::load(keys_dir)?,
        })
    }

    /// Those who can open what is sealed with these keys.
    pub fn recipients(&self) -> &Recipients {
        &self.recipients
    }
}

/// Cuts bundles from the buffer.
pub struct Sealer {
    store: Store,
    keys: SealKeys,
    outbox: Outbox,
    lock: File,
    config: Config,
    clock: Arc<dyn Clock>,
    watches: [Watch; Lane::ALL.len()],
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("outbox", &self.outbox).finish_non_exhaustive()
    }
}

impl Sealer {
    /// Opens the buffer's database, the keys and the outbox.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, SealerError> {
        let lock_path = config.state_dir.join(LOCK_FILE);
        let lock = durable::create(&lock_path, 0o600).map_err(SealerError::io(&lock_path))?;
        let now = clock.now();
        Ok(Self {
            store: Store::open(&config.state_dir)?,
            keys: SealKeys::load(&config.keys_dir)?,
            outbox: Outbox::open(&config.outbox)?,
            lock,
            config: config.clone(),
            watches: Lane::ALL.map(|_| Watch::new(now)),
            clock,
        })
    }

    /// Uses other keys from the next bundle on.
    pub fn set_keys(&mut self, keys: SealKeys) {
        self.keys = keys;
    }

    /// The outbox, with the database that knows its bundles.
    pub fn outbox(&mut self) -> (&Outbox, &mut Store) {
        (&self.outbox, &mut self.store)
    }

    /// Completes whatever a crash interrupted. Gives the bundles that became ready.
    pub fn recover(&mut self) -> Result<Vec<Bundle>, SealerError> {
        let _held = self.hold()?;
        self.complete_interrupted()
    }

    /// Looks at each lane and seals what the policy says is due. Gives what became ready.
    pub fn seal_due(&mut self) -> Result<Vec<Bundle>, SealerError> {
        let mut ready = Vec::new();
        for lane in Lane::ALL {
            // Bounded by what the lane holds: each turn takes some of it.
            while let Some(reason) = self.due(lane)? {
                match self.seal(lane, reason)? {
                    Some(bundle) => ready.push(bundle),
                    None => break,
                }
                if reason == SealReason::Heartbeat {
                    break;
                }
            }
        }
        Ok(ready)
    }

    fn due(&mut self, lane: Lane) -> Result<Option<SealReason>, SealerError> {
        let waiting = self.store.waiting(lane)?;
        let last_sealed = self.store.last_sealed(lane)?;
        let now = self.clock.now();
        let watch = &mut self.watches[lane as usize];
        watch.look(waiting.last_sequence - waiting.records, waiting.records > 0, last_sealed);
        let view = Waiting {
            records: waiting.records,
            plain_bytes: waiting.plain_bytes,
            oldest: waiting.oldest.map(|time| time.min(before(now, watch.waiting))),
            oldest_loss: waiting.oldest_loss,
            last_sealed: last_sealed.unwrap_or(watch.began).min(before(now, watch.sealed)),
        };
        let reason = self.config.seal_policy(lane).decide(&view, now);
        if reason.is_some() && self.outbox.is_full(&self.store)? {
            return Ok(None);
        }
        Ok(reason)
    }

    /// Seals one bundle of a lane now; `None` if nothing waits and it is no heartbeat.
    pub fn seal(&mut self, lane: Lane, reason: SealReason) -> Result<Option<Bundle>, SealerError> {
        let _held = self.hold()?;
        self.complete_interrupted()?;
        let policy = self.config.seal_policy(lane);
        let limits =
            PlanLimits { records_max: policy.records_max, plain_bytes_max: policy.plain_bytes_max };
        let now = self.clock.now();
        match self.store.plan_bundle(lane, limits, reason, now)? {
            Some(planned) => self.write_and_publish(planned).map(Some),
            None => Ok(None),
        }
    }

    fn hold(&self) -> Result<Held, SealerError> {
        let path = self.config.state_dir.join(LOCK_FILE);
        let file = self.lock.try_clone().map_err(SealerError::io(&path))?;
        file.lock().map_err(SealerError::io(&path))?;
        Ok(Held(file))
    }

    fn complete_interrupted(&mut self) -> Result<Vec<Bundle>, SealerError> {
        let mut ready = Vec::new();
        for bundle in self.store.bundles(Some(BundleState::Sealed))? {
            ready.extend(self.publish(&bundle)?);
        }
        for planned in self.store.planned_bundles()? {
            ready.push(self.write_and_publish(planned)?);
        }
        Ok(ready)
    }

    fn write_and_publish(&mut self, mut planned: PlannedBundle) -> Result<Bundle, SealerError> {
        let mut refreezes = 0;
        let file = loop {
            match self.write(&planned) {
                Ok(file) => break file,
                Err(SealerError::Buffer(BufferError::Damaged { .. }))
                    if refreezes < REFREEZES_MAX =>
                {
                    refreezes += 1;
                    planned = self.store.refreeze(&planned, self.clock.now())?;
                }
                Err(err) => {
                    let bundle = planned.bundle();
                    let partial = self.outbox.partial(bundle.lane, bundle.number);
                    // What was written is worthless, and may be what filled the disk.
                    let _ = durable::remove(&partial);
                    return Err(err);
                }
            }
        };
        let bundle = self.store.mark_sealed(planned, file)?;
        let published = self.publish(&bundle)?;
        Ok(published.unwrap_or(bundle))
    }

    /// Writes a planned bundle's file under its temporary name, complete and synced.
    fn write(&mut self, planned: &PlannedBundle) -> Result<SealedFile, SealerError> {
        let bundle = planned.bundle();
        let path = self.outbox.partial(bundle.lane, bundle.number);
        let manifest = self.manifest(planned);
        let file = durable::create(&path, 0o640).map_err(SealerError::io(&path))?;
        let mut fault = None;
        let sealed = seal(
            &manifest,
            &self.keys.signing,
            &self.keys.recipients,
            self.config.seal.compression_level,
            &file,
            |out| self.copy_records(planned, out, &mut fault),
        );
        match (sealed, fault) {
            (_, Some(fault)) => Err(fault.into()),
            (Err(source), None) => Err(SealerError::Seal { path, source }),
            (Ok(sealed), None) => Ok(SealedFile {
                name: file_name(&manifest.origin, bundle.lane, bundle.number, &sealed.digest),
                digest: sealed.digest,
                bytes: sealed.file_bytes,
                sha256: *sealed.file_sha256.as_bytes(),
            }),
        }
    }

    fn copy_records(
        &self,
        planned: &PlannedBundle,
        out: &mut dyn Write,
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
        match self.store.read_blocks(planned, |plain| out.write_all(plain).map_err(Stop::Out)) {
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
            origin: self.store.origin().clone(),
            epoch: self.store.epoch(),
            lane: bundle.lane,
            number: bundle.number,
            previous: bundle.previous_digest,
            agent: AGENT.to_owned(),
            sealed_at: bundle.planned,
            reason: bundle.reason,
            records: bundle.records,
            first_sequence: bundle.first_sequence,
            last_sequence: bundle.last_sequence,
            records_bytes: bundle.plain_bytes,
            oldest: bundle.oldest,
            newest: bundle.newest,
            chain_before: bundle.chain_before,
            chain_head: bundle.chain_head,
            streams: bundle.stream_counts(),
            losses: planned.losses().to_vec(),
        }
    }

    /// Gives a sealed bundle's file its name and marks it ready.
    fn publish(&mut self, bundle: &Bundle) -> Result<Option<Bundle>, SealerError> {
        let now = self.clock.now();
        if self.outbox.publish(bundle)? {
            return Ok(Some(self.store.mark_ready(bundle, now)?));
        }
        let message = format!(
            "the file of bundle {} of lane {} is gone from {} or was changed there; the records in it can't cross",
            bundle.number,
            bundle.lane,
            self.outbox.dir().display()
        );
        tracing::error!(lane = %bundle.lane, number = bundle.number, "a sealed bundle's file is gone");
        self.store.raise_alarm(AlarmKind::OutboxDamaged, &message, now)?;
        let ready = self.store.mark_ready(bundle, now)?;
        self.store.mark_handed_over(&ready, "nobody: its file is gone", now)?;
        Ok(None)
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

/// The lock, until it is dropped.
struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        // The lock also ends with the file; an error here means that it did already.
        let _ = self.0.unlock();
    }
}
