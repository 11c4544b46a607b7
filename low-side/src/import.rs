//! One file becomes an admitted bundle, a duplicate, or a quarantined file. The inbox, the command
//! line and `quarantine retry` all come through here, at the same time if need be.
//!
//! ```text
//! file ──copy + sync──> staging ──open()──> VerifiedBundle ──Ledger::admit──> store
//!                          │                     │
//!                          └──────refused────────┴──> quarantine
//! ```
//!
//! Every step may be repeated. Killed before the commit: the copy is cleaned away at the next start
//! (or, where it was in the store already, admitted then) and the original still stands in the
//! inbox. Killed after it: the original is found to be a duplicate and removed.
//! The ledger's write lock is held while a file moves into the store, so that two importers take
//! turns.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use shared::bundle::{
    BundleDigest, Limits, Refusal, VerifiedBundle, inspect, inspect_digest, open, open_admitted,
    open_sealed_in_time,
};
use shared::clock::Clock;
use shared::custody::CustodyFile;
use shared::keys::{Identities, KeyError, ReleasePolicy, SignerProblem, Trust};

use crate::admitted_before::{AdmittedBefore, LogError, Logged};
use crate::config::AdmissionConfig;
use crate::folders::{Folders, shown};
use crate::ledger::{Arrival, Before, BundleFacts, ChainName, Decision, Ledger, LedgerError};
use crate::quarantine::{Quarantine, Reason};
use crate::replay::chain_text;
use crate::staging::{ReceivedBundle, StageError};

/// Whom we believe, and what we can decrypt.
pub struct Keys {
    /// The trusted signers.
    pub trust: Trust,
    /// Our decryption keys.
    pub identities: Identities,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Loads the key folder; bundles have to be released as this policy says.
    pub fn load(keys_dir: &Path, releases: &ReleasePolicy) -> Result<Self, KeyError> {
        Ok(Self {
            trust: Trust::load_dir(keys_dir)?.demanding(releases.clone()),
            identities: Identities::load_dir(keys_dir)?,
        })
    }
}

/// The keys in use; a reload puts new ones in their place.
#[derive(Clone, Debug)]
pub struct KeyRing(Arc<RwLock<Arc<Keys>>>);

impl KeyRing {
    /// Begins with these keys.
    pub fn new(keys: Keys) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(keys))))
    }

    /// The keys in use now.
    pub fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Puts other keys in their place.
    pub fn replace(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(keys);
    }
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its bundle is in the ledger and the store.
    Admitted {
        /// `ORIGIN/EPOCH/LANE number N`.
        bundle: String,
        /// How: `fresh`, `gap`, `fills-gap`.
        code: &'static str,
        /// Its records.
        records: u64,
    },
    /// Its bundle was admitted before.
    Duplicate {
        /// `ORIGIN/EPOCH/LANE number N`.
        bundle: String,
    },
    /// Its bundle was admitted before, had left the store after its time, and is there again.
    Restored {
        /// `ORIGIN/EPOCH/LANE number N`.
        bundle: String,
    },
    /// It is in the quarantine.
    Quarantined {
        /// Why.
        code: &'static str,
        /// Why, for people.
        message: String,
        /// The SHA-256 under which it is kept.
        sha256: String,
    },
    /// Nothing that can be taken in: no regular file, too large; of the store, one whose signer or
    /// recipient we don't know now. It stays where it is.
    Ignored {
        /// Why.
        code: &'static str,
        /// Why, for people.
        message: String,
    },
    /// It differs from its `.sha256` or is no whole container: it is still being copied, or is
    /// damaged.
    Incomplete,
}

/// Why nothing became of a file: a fault of this machine, worth another try.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The custody log could not be asked.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The quarantine could not be written.
    #[error("the quarantine could not be written")]
    Quarantine(#[source] std::io::Error),
    /// The private copy could not be read back.
    #[error("the private copy could not be read back")]
    ReadBack(#[source] std::io::Error),
    /// No private copy could be made.
    #[error("{0}")]
    Stage(#[source] StageError),
    /// The file's `.sha256` could not be read.
    #[error("its .sha256 can't be read: {0}")]
    Sidecar(std::io::ErrorKind),
}

/// The SHA-256 that a sidecar gives, and what to do where the file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sidecar {
    /// There is none.
    Absent,
    /// There is none yet: come back later where the file is no whole container.
    AbsentYet,
    /// One stands there that can't be read.
    Unreadable(std::io::ErrorKind),
    /// Come back later where it differs.
    Expect(BundleDigest),
    /// The file had its time: quarantine it where it differs.
    Insist(Option<BundleDigest>),
}

/// Everything that importing needs.
#[derive(Debug)]
pub struct Importer<C> {
    /// The folders.
    pub folders: Folders,
    /// This thread's own connection.
    pub ledger: Ledger,
    /// The keys.
    pub keys: KeyRing,
    /// What a bundle may cost.
    pub limits: Limits,
    /// What is done about gaps.
    pub admission: AdmissionConfig,
    /// The time.
    pub clock: C,
    /// Where the files come from, for the custody log.
    pub source: Source,
    /// What the custody log says was admitted before; `None` where nobody asks it, since strangers choose the files
    /// and each question costs a walk over the log.
    pub log: Option<AdmittedBefore>,
    /// Whether files of the store are admitted because the ledger was lost, or is an older one.
    pub rebuilding: bool,
    /// Why an operator says that the files were admitted before, where none of our own records says so.
    pub word: Option<String>,
}

/// A bundle that was opened, and what is known of an earlier admission.
struct Opened {
    bundle: VerifiedBundle,
    before: Option<Before>,
}

/// Where files come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A command of an operator.
    Command(&'static str),
    /// The inbox, into which receivers put files, too.
    Inbox(Arrivals),
    /// Our own store.
    Store,
}

/// Which receiver brought which file: between its delivery into the inbox and its import. Lost when
/// the agent ends; then a file came by the inbox. And which files were refused: a receiver that
/// remembers what it delivered must take such a one again, since the cause may be mended by then.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<Mutex<Arrived>>);

#[derive(Debug, Default)]
struct Arrived {
    known: VecDeque<(BundleDigest, String)>,
    refused: VecDeque<BundleDigest>,
    /// How many refused files were forgotten here.
    forgotten: u64,
}

/// The command that tries a refused file again.
pub(crate) const RETRY: &str = "quarantine retry";

/// More files never wait in an inbox for long; the oldest is forgotten first.
const ARRIVALS_MAX: usize = 10_000;

impl Arrivals {
    /// A receiver has delivered a file with this content.
    pub fn note(&self, sha256: BundleDigest, receiver: &str) {
        let known = &mut self.lock().known;
        if known.len() >= ARRIVALS_MAX {
            known.pop_front();
        }
        known.push_back((sha256, receiver.to_owned()));
    }

    fn take(&self, sha256: &BundleDigest) -> Option<String> {
        let known = &mut self.lock().known;
        let at = known.iter().position(|(known, _)| known == sha256)?;
        known.remove(at).map(|(_, receiver)| receiver)
    }

    fn refuse(&self, sha256: BundleDigest) {
        let mut arrived = self.lock();
        if arrived.refused.len() >= ARRIVALS_MAX {
            arrived.refused.pop_front();
            arrived.forgotten += 1;
        }
        arrived.refused.push_back(sha256);
    }

    /// The files that were refused since `seen` of them were; counts on.
    pub fn refused_since(&self, seen: &mut u64) -> Vec<BundleDigest> {
        let arrived = self.lock();
        let skip = usize::try_from(seen.saturating_sub(arrived.forgotten)).unwrap_or(usize::MAX);
        *seen = arrived.forgotten + arrived.refused.len() as u64;
        arrived.refused.iter().skip(skip).copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Arrived> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Clock> Importer<C> {
    /// Takes in one file. The file itself is left as it is; the caller removes it where it may.
    pub fn import(
        &mut self,
        path: &Path,
        sidecar: Sidecar,
        copied: impl FnMut(u64),
    ) -> Result<Outcome, ImportError> {
        if let Sidecar::Unreadable(kind) = sidecar {
            return Err(ImportError::Sidecar(kind));
        }
        let received = match self.copy(path, copied)? {
            Ok(received) => received,
            Err(ignored) => return Ok(ignored),
        };
        let name = shown(path.file_name().unwrap_or_default());
        match sidecar {
            Sidecar::Expect(expected) if expected != *received.sha256() => {
                return Ok(Outcome::Incomplete);
            }
            Sidecar::Insist(expected) if expected != Some(*received.sha256()) => {
                let message = "its content is not what its .sha256 says";
                return self.quarantine(&received, &name, "digest-sidecar", message);
            }
            _ => {}
        }
        let opened = self.open(&received)?;
        if sidecar == Sidecar::AbsentYet && matches!(opened, Err(Refusal::Container(_))) {
            return Ok(Outcome::Incomplete);
        }
        self.take(&received, &name, opened)
    }

    /// Admits a file of the store that has no row: the process died between rename and commit, or
    /// the ledger was lost. One that only our keys or the time speak against now, and of which the custody
    /// log does not say that it was admitted, stays where it is.
    pub(crate) fn readmit(&mut self, file: &str) -> Result<Outcome, ImportError> {
        let path = self.folders.store.join(file);
        let received = match self.copy(&path, |_| {})? {
            Ok(received) => received,
            Err(ignored) => return Ok(ignored),
        };
        let source = std::mem::replace(&mut self.source, Source::Store);
        let outcome = self.open(&received).and_then(|opened| match opened {
            Err(
                refusal
                @ (Refusal::Signer(_) | Refusal::Recipient | Refusal::ReleaseMissing { .. }),
            ) => Ok(Outcome::Ignored { code: refusal.code(), message: refusal.to_string() }),
            opened => self.take(&received, file, opened),
        });
        self.source = source;
        let outcome = outcome?;
        if matches!(outcome, Outcome::Ignored { .. }) {
            return Ok(outcome);
        }
        // Admitted under the name that the bundle itself gives; this one is left over where it differs.
        let kept = self.ledger.knows_file(file)?;
        if !kept {
            shared::durable::remove(&path).map_err(ImportError::ReadBack)?;
        }
        Ok(outcome)
    }

    /// A private copy, or why there is nothing to take in.
    fn copy(
        &self,
        path: &Path,
        copied: impl FnMut(u64),
    ) -> Result<Result<ReceivedBundle, Outcome>, ImportError> {
        let bytes_max = self.limits.file_bytes_max;
        match ReceivedBundle::copy(path, &self.folders.staging, bytes_max, copied) {
            Ok(received) => Ok(Ok(received)),
            Err(error @ (StageError::NotAFile | StageError::TooLarge { .. })) => {
                Ok(Err(Outcome::Ignored { code: error.code(), message: error.to_string() }))
            }
            Err(error @ (StageError::Read(_) | StageError::Write(_))) => {
                Err(ImportError::Stage(error))
            }
        }
    }

    /// Opens a file. Where only our keys, officers or the time speak against it now, it is taken if this
    /// bundle was admitted before: as the ledger says, or, for what stands in the store or an operator
    /// brings, the signed custody log; or if an operator says so, and its key was valid when it was sealed.
    fn open(&mut self, received: &ReceivedBundle) -> Result<Result<Opened, Refusal>, ImportError> {
        let keys = self.keys.current();
        let (trust, identities) = (&keys.trust, &keys.identities);
        let (file, limits, now) = (received.file(), self.limits, self.clock.now());
        let refusal = match open(file, trust, identities, &limits, now) {
            Ok(bundle) => {
                let header = bundle.header();
                let chain = ChainName {
                    origin: header.origin.clone(),
                    epoch: header.epoch,
                    lane: header.lane,
                };
                let before = self.before(&chain, header.number, &bundle.digest())?;
                return Ok(Ok(Opened { bundle, before }));
            }
            Err(refusal @ (Refusal::Signer(_) | Refusal::ReleaseMissing { .. })) => refusal,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (header, digest) = match inspect_digest(file, &limits) {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let chain = ChainName { origin: header.origin, epoch: header.epoch, lane: header.lane };
        let mut before = None;
        let known = self.ledger.knows_bundle(&chain, header.number, &digest)? || {
            let logged = self.logged(&chain, header.number, &digest)?;
            before = logged.map(|logged| Before {
                admitted: logged.at,
                who_says: format!("as this log says ({} now)", refusal.code()),
            });
            before.is_some()
        };
        if known {
            let opened = open_admitted(file, &digest, trust, identities, &limits, now);
            return Ok(opened.map(|bundle| Opened { bundle, before }));
        }
        let in_time = matches!(
            refusal,
            Refusal::ReleaseMissing { .. } | Refusal::Signer(SignerProblem::NotValidNow)
        );
        match &self.word {
            Some(word) if in_time => {
                let who_says =
                    format!("although {} now, by the word of an operator: {word}", refusal.code());
                let before = Some(Before { admitted: None, who_says });
                let opened = open_sealed_in_time(file, trust, identities, &limits, now);
                Ok(opened.map(|bundle| Opened { bundle, before }))
            }
            _ => Ok(Err(refusal)),
        }
    }

    fn logged(
        &mut self,
        chain: &ChainName,
        number: u64,
        digest: &BundleDigest,
    ) -> Result<Option<Logged>, LogError> {
        match (&self.source, &mut self.log) {
            (Source::Command(_) | Source::Store, Some(log)) => log.ask(chain, number, digest),
            _ => Ok(None),
        }
    }

    /// What is known of an earlier admission of a bundle that opens as any other.
    fn before(
        &mut self,
        chain: &ChainName,
        number: u64,
        digest: &BundleDigest,
    ) -> Result<Option<Before>, ImportError> {
        let ask = match self.source {
            // After a plain kill it is one that was never admitted.
            Source::Store => self.rebuilding || self.ledger.is_behind_log()?,
            Source::Command(_) => self.word.is_some() || self.ledger.is_behind_log()?,
            Source::Inbox(_) => false,
        };
        if !ask || self.ledger.knows_bundle(chain, number, digest)? {
            return Ok(None);
        }
        let logged = self.logged(chain, number, digest).unwrap_or_else(|error| {
            // Only the time of its admission is lost with it.
            tracing::warn!(error = chain_text(&error), "the custody log could not be asked");
            None
        });
        if let Some(logged) = logged {
            let who_says = "as this log says".to_owned();
            return Ok(Some(Before { admitted: logged.at, who_says }));
        }
        let who_says = match (&self.source, &self.word) {
            (Source::Command(_), Some(word)) => format!("by the word of an operator: {word}"),
            (Source::Store, _) if self.rebuilding => "found in the store".to_owned(),
            _ => return Ok(None),
        };
        Ok(Some(Before { admitted: None, who_says }))
    }

    fn take(
        &mut self,
        received: &ReceivedBundle,
        name: &str,
        opened: Result<Opened, Refusal>,
    ) -> Result<Outcome, ImportError> {
        let Opened { bundle, before } = match opened {
            Ok(opened) => opened,
            Err(Refusal::Io(error)) => return Err(ImportError::ReadBack(error)),
            Err(refusal) => {
                return self.quarantine(received, name, refusal.code(), &refusal.to_string());
            }
        };
        let mut facts = BundleFacts::of(&bundle);
        facts.arrival = Some(self.arrival(received, name));
        facts.restores = matches!(self.source, Source::Command(_));
        facts.before = before;
        let mut officers: Vec<&str> = bundle.officers().collect();
        officers.sort_unstable();
        officers.dedup();
        let officers = officers.join(", ");
        let label = format!("{} number {}", facts.chain, facts.candidate.number);
        // What was refused as a fork is one for ever, whatever this ledger knows of the chain: it may come
        // from a backup that is older than the refusal. A person may decide otherwise.
        let by_hand = matches!(self.source, Source::Command(RETRY));
        if let Some(disorder) = self.ledger.refused_for_good(&received.sha256().to_string())?
            && !by_hand
            && !self.ledger.knows_bundle(
                &facts.chain,
                facts.candidate.number,
                &facts.candidate.digest,
            )?
        {
            let message = format!("{label}: it was refused before: {disorder}");
            return self.quarantine(received, name, disorder.code(), &message);
        }
        let store = self.folders.store.clone();
        let now = self.clock.now();
        let place = |file: &str| received.place(&store.join(file));
        match self.ledger.admit(&facts, &self.admission, &store, now, place)? {
            Decision::Admitted(admission) => {
                let code = admission.code();
                tracing::info!(
                    bundle = label,
                    code,
                    records = facts.records,
                    officers,
                    "a bundle was admitted"
                );
                Ok(Outcome::Admitted { bundle: label, code, records: facts.records })
            }
            Decision::Duplicate => {
                tracing::info!(bundle = label, "a bundle was admitted before");
                Ok(Outcome::Duplicate { bundle: label })
            }
            Decision::Restored => {
                tracing::info!(bundle = label, "a bundle is in the store again");
                Ok(Outcome::Restored { bundle: label })
            }
            Decision::Refused(disorder) => {
                let message = format!("{label}: {disorder}");
                self.quarantine(received, name, disorder.code(), &message)
            }
        }
    }

    fn quarantine(
        &mut self,
        received: &ReceivedBundle,
        name: &str,
        code: &'static str,
        message: &str,
    ) -> Result<Outcome, ImportError> {
        let claimed = inspect(received.file(), &self.limits).ok();
        let claim = claimed.as_ref().map_or_else(String::new, |h| {
            format!("; says that it is {}/{}/{} number {}", h.origin, h.epoch, h.lane, h.number)
        });
        let now = self.clock.now();
        let sha256 = received.sha256().to_string();
        let reason = Reason {
            sha256: sha256.clone(),
            bytes: received.bytes(),
            code: code.to_owned(),
            message: message.to_owned(),
            name: name.to_owned(),
            first: now.to_string(),
            last: now.to_string(),
            claimed_signer: claimed.as_ref().map(|header| header.signer.clone()),
            claimed_bundle: claimed
                .map(|h| format!("{}/{}/{} number {}", h.origin, h.epoch, h.lane, h.number)),
        };
        Quarantine::at(&self.folders.quarantine)
            .keep(received, reason)
            .map_err(ImportError::Quarantine)?;
        let arrival = self.arrival(received, name);
        if let Source::Inbox(arrivals) = &self.source {
            arrivals.refuse(*received.sha256());
        }
        self.ledger.note_quarantined(&arrival, code, &claim, now)?;
        Ok(Outcome::Quarantined { code, message: message.to_owned(), sha256 })
    }

    /// How a file came, for the custody log.
    fn arrival(&self, received: &ReceivedBundle, name: &str) -> Arrival {
        let sha256 = received.sha256();
        let source = match &self.source {
            Source::Inbox(arrivals) => match arrivals.take(sha256) {
                Some(by) => format!("by receiver {by}"),
                None => "by the inbox".to_owned(),
            },
            Source::Command(verb) => format!("by {verb}"),
            Source::Store => "found in the store, where it had no row".to_owned(),
        };
        let sha256 = *sha256;
        let file = CustodyFile { name: name.to_owned(), sha256, bytes: received.bytes() };
        Arrival { file, source }
    }

    /// Tries a quarantined file again. Where it is refused again it stays, with the new reason.
    pub fn retry(&mut self, sha256: &str) -> Result<Outcome, ImportError> {
        let quarantine = Quarantine::at(&self.folders.quarantine);
        let path = quarantine.file(sha256);
        let outcome = self.import(&path, Sidecar::Absent, |_| {})?;
        match outcome {
            Outcome::Admitted { .. } | Outcome::Duplicate { .. } | Outcome::Restored { .. } => {
                self.ledger.note_released(sha256)?;
                quarantine.release(sha256).map_err(ImportError::Quarantine)?;
            }
            Outcome::Quarantined { .. } => self.ledger.forget_visit(sha256)?,
            Outcome::Ignored { .. } | Outcome::Incomplete => {}
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests;
