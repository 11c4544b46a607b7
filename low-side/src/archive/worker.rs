//! What is due goes into one archive, for ever: a thread of its own with its own connection.
//!
//! An error of the archive makes it wait, longer each time, and try again; an error about one bundle lets
//! the others go on. Records that wait for an archive that comes first go on as soon as it has their
//! bundle.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::bell::Bell;
use shared::bundle::{BundleDigest, Limits, compare};
use shared::clock::Clock;

use super::config::ArchiveConfig;
use super::{Archive, ArchiveError, Object, keep, key};
use crate::ledger::{ArchiveId, ChainId, DueBundle, Ledger, LedgerError};
use crate::replay::chain_text;

/// How an archive does, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchiveHealth {
    /// `archiving`, `idle`, `blocked` (a bundle can't be archived) or `failing`.
    pub state: &'static str,
    /// The last error, while it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Tries since the last success.
    pub failures: u64,
    /// Tries since the start that failed.
    pub retries: u64,
    /// Bundles archived since the start.
    pub archived: u64,
    /// When it is tried again, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
}

/// What an archiver shows to the thread that writes the status.
#[derive(Clone, Debug, Default)]
pub struct ArchiveBoard(Arc<Mutex<ArchiveHealth>>);

impl ArchiveBoard {
    /// How the archive does now.
    pub fn read(&self) -> ArchiveHealth {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, change: impl FnOnce(&mut ArchiveHealth)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Everything that one archiver needs.
pub struct Archiver {
    /// Its settings.
    pub config: ArchiveConfig,
    /// Its identity in the ledger.
    pub id: ArchiveId,
    /// Where bundles go.
    pub archive: Box<dyn Archive>,
    /// This thread's own connection.
    pub ledger: Ledger,
    /// The folder of admitted bundles.
    pub store: PathBuf,
    /// What a bundle may cost.
    pub limits: Limits,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Rings when bundles were admitted.
    pub bell: Bell,
    /// Those of the sinks, which may wait for us.
    pub sinks: Vec<Bell>,
    /// Where to show how it does.
    pub board: ArchiveBoard,
}

impl std::fmt::Debug for Archiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archiver").field("name", &self.config.name).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What is remembered between bundles. Lost at a restart: the ledger knows all that counts.
#[derive(Default)]
struct Progress {
    /// When the archive last said that it keeps what it gets.
    checked: Option<Instant>,
    /// Bundles that could not be archived when they were last tried.
    blocked: HashMap<(ChainId, u64), Blocked>,
    failures: u32,
}

/// Why a bundle waits, and until when.
struct Blocked {
    until: Instant,
    why: String,
}

impl Archiver {
    /// Archives until the bell says stop.
    pub fn run(mut self) {
        let mut progress = Progress::default();
        while !self.bell.stopping() {
            match self.step(&mut progress) {
                Ok(true) => {
                    progress.failures = 0;
                    let blocked = blocked_by(&progress);
                    self.board.write(|health| {
                        health.state = if blocked.is_some() { "blocked" } else { "archiving" };
                        health.error = blocked;
                        health.failures = 0;
                        health.archived += 1;
                        health.next_try = None;
                    });
                    self.sinks.iter().for_each(Bell::ring);
                }
                Ok(false) => {
                    progress.failures = 0;
                    let blocked = blocked_by(&progress);
                    self.board.write(|health| {
                        health.state = if blocked.is_some() { "blocked" } else { "idle" };
                        health.error = blocked;
                        health.failures = 0;
                        health.next_try = None;
                    });
                    self.bell.wait(IDLE_LOOK);
                }
                Err(_) if self.bell.stopping() => break,
                Err(error) => self.fail(&mut progress, &error),
            }
        }
    }

    /// Archives one bundle; false where none is due.
    fn step(&mut self, progress: &mut Progress) -> Result<bool, WorkError> {
        let now = Instant::now();
        progress.blocked.retain(|_, blocked| blocked.until > now);
        let blocked = &progress.blocked;
        let pass_over = |chain, number| blocked.contains_key(&(chain, number));
        let due = self.ledger.next_due(self.id, &pass_over)?;
        // Asked now and then, also where nothing is due: that a bucket has lost its lock must be seen
        // before something is entrusted to it.
        if progress.checked.is_none_or(|checked| checked.elapsed() >= CHECK_EVERY) {
            self.archive.check()?;
            progress.checked = Some(Instant::now());
            self.close_alarm(REFUSED)?;
        }
        let Some(due) = due else { return Ok(false) };
        let subject = due.bundle.file().to_owned();
        match self.archive_one(&due) {
            Ok(()) => {
                self.ledger.close_alarm(CONFLICT, &self.subject(&subject), self.clock.now())?;
                Ok(true)
            }
            Err(Trouble::Bundle(why)) => {
                let message = format!(
                    "{why}; it is tried again every {}, and others go on",
                    shared::config::Span(BLOCKED_FOR)
                );
                let now = self.clock.now();
                self.ledger.raise_once(CONFLICT, &self.subject(&subject), &message, now)?;
                let place = (due.bundle.chain(), due.bundle.number());
                let until = Instant::now() + BLOCKED_FOR;
                progress.blocked.insert(place, Blocked { until, why: format!("{subject}: {why}") });
                Ok(false)
            }
            Err(Trouble::Archive(error)) => Err(error),
        }
    }

    fn archive_one(&mut self, due: &DueBundle) -> Result<(), Trouble> {
        let path = self.store.join(due.bundle.file());
        let (file, bytes, sha256) = self.prepare(due, &path)?;
        let now = self.clock.now();
        let retain = self.config.retain.unwrap_or_default();
        let object = Object {
            key: key(&due.chain, due.bundle.file()),
            file: Arc::new(file),
            bytes,
            sha256,
            until: now.plus(retain),
            // What an earlier try locked is enough, if it is kept as long from its admission on.
            until_least: due.admitted.min(now).plus(retain),
        };
        match keep(self.archive.as_mut(), &object) {
            Ok(kept) => {
                let place = self.archive.place(&kept.key);
                let now = self.clock.now();
                let noted = self.ledger.note_archived(self.id, due, &kept, &place, now);
                noted.map_err(|err| Trouble::Archive(err.into()))?;
                tracing::debug!(archive = self.config.name, place, "a bundle was archived");
                Ok(())
            }
            Err(error) if error.is_about_object() => Err(Trouble::Bundle(chain_text(&error))),
            Err(error) => Err(Trouble::Archive(error.into())),
        }
    }

    /// Compares the stored file with what was admitted, and works out its digest: what is wrong here must
    /// not be kept for years.
    fn prepare(
        &mut self,
        due: &DueBundle,
        path: &std::path::Path,
    ) -> Result<(File, u64, BundleDigest), Trouble> {
        let opened = crate::folders::open_untrusted(path)
            .and_then(|file| file.ok_or_else(|| io::Error::other("is no regular file")));
        let found = opened.map_err(shared::bundle::Refusal::Io).and_then(|file| {
            compare(&file, due.bundle.digest(), &self.limits)?;
            let (bytes, sha256) = hash(&file)?;
            Ok((file, bytes, sha256))
        });
        let told = |error: LedgerError| Trouble::Archive(error.into());
        let now = self.clock.now();
        let (file, bytes, sha256) = match found {
            Ok(found) => found,
            Err(refusal) => {
                let why = refusal.to_string();
                let message = format!("{why}; it can't be archived");
                if refusal.is_io() {
                    self.ledger.note_unreadable(&due.bundle, &message, now).map_err(told)?;
                } else {
                    self.ledger.note_damaged(&due.bundle, &message, now).map_err(told)?;
                }
                return Err(Trouble::Bundle(why));
            }
        };
        if due.sha256.is_some_and(|came| came != sha256) {
            let why = "the stored file is not, byte for byte, what came".to_owned();
            self.ledger.note_damaged(&due.bundle, &why, now).map_err(told)?;
            return Err(Trouble::Bundle(why));
        }
        Ok((file, bytes, sha256))
    }

    fn fail(&mut self, progress: &mut Progress, error: &WorkError) {
        let text = chain_text(error);
        if progress.failures == 0 {
            tracing::warn!(
                archive = self.config.name,
                error = text,
                "an archive fails; it is tried again for ever"
            );
        }
        let asked = match error {
            WorkError::Archive(error) => error.retry_after().unwrap_or_default(),
            WorkError::Ledger(_) => Duration::ZERO,
        };
        let now = self.clock.now();
        // Whatever it was, the next try asks first.
        progress.checked = None;
        let pause = self.pause(progress.failures).max(asked.min(RETRY_AFTER_MAX));
        progress.failures = progress.failures.saturating_add(1);
        self.board.write(|health| {
            health.state = "failing";
            health.error = Some(text.clone());
            health.failures += 1;
            health.retries += 1;
            health.next_try = Some(now.plus(pause).to_string());
        });
        if let WorkError::Archive(ArchiveError::NoLock { .. }) = error {
            let message = format!("{text}; nothing is entrusted to it");
            if let Err(error) = self.ledger.raise_once(REFUSED, &self.config.name, &message, now) {
                tracing::error!(error = chain_text(&error), "an alarm can't be kept");
            }
        }
        self.bell.rest(pause);
    }

    fn close_alarm(&mut self, code: &str) -> Result<(), LedgerError> {
        self.ledger.close_alarm(code, &self.config.name, self.clock.now())
    }

    fn subject(&self, file: &str) -> String {
        format!("{}/{file}", self.config.name)
    }

    /// Twice as long after each failure, up to the longest, less up to half by chance.
    fn pause(&self, failures: u32) -> Duration {
        let (min, max) = self.config.retry;
        let pause = min.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(max);
        // The clock's nanoseconds are chance enough to keep many agents from knocking in step.
        let chance = u32::try_from(self.clock.now().0.rem_euclid(1024)).unwrap_or(0);
        pause.saturating_sub(pause / 2 * chance / 1024)
    }
}

/// Why a bundle was not archived.
enum Trouble {
    /// It is about the archive: everything waits.
    Archive(WorkError),
    /// It is about this bundle.
    Bundle(String),
}

fn blocked_by(progress: &Progress) -> Option<String> {
    progress.blocked.iter().min_by_key(|(place, _)| **place).map(|(_, blocked)| blocked.why.clone())
}

/// The length and SHA-256 of a whole file, whatever was read of it before.
pub(crate) fn hash(mut file: &File) -> io::Result<(u64, BundleDigest)> {
    file.seek(SeekFrom::Start(0))?;
    BundleDigest::of_reader(file, |_| {})
}

/// How often the ledger is looked at for what another process has admitted.
const IDLE_LOOK: Duration = Duration::from_millis(500);
/// How often the archive is asked whether it still keeps what it promises.
const CHECK_EVERY: Duration = Duration::from_hours(1);
/// How long a bundle that can't be archived waits before another try.
const BLOCKED_FOR: Duration = Duration::from_secs(30);
/// The longest time for which an archive can ask to be left alone.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(15);
const REFUSED: &str = "archive-refused";
const CONFLICT: &str = "archive-conflict";
