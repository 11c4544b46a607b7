//! Receivers: what takes complete bundle files from the gap and puts them into the inbox. Any number
//! at once, each in a thread of its own.
//!
//! ```text
//! gap ──> receiver ──> NAME.partial ──sync, verify──> NAME.sha256, NAME ──> inbox ──> open ──> admit
//! ```
//!
//! - Invariant: a receiver decides nothing about a bundle's content. It delivers the bytes that were
//!   sent, or nothing; opening and admission judge them as they judge a file that a person copied.
//! - Invariant: nothing half-done has a name that the inbox takes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use shared::bell::Bell;
use shared::bundle::{BundleDigest, FILE_EXTENSION};
use shared::clock::{Clock, SystemClock};
use shared::durable;
use shared::stream::StreamKeyError;

use crate::folders::open_untrusted;

pub mod config;
mod delivered;
pub(crate) mod diode;
mod folder;
mod tcp;

pub(crate) use diode::report;
pub use diode::trial;

use crate::import::Arrivals;
use config::{ReceiverConfig, ReceiverKind};

use crate::import::KeyRing;

/// One way that bundles come by.
pub(crate) trait Receiver: Send {
    /// Receives until [`Reception::is_stopping`]. After an error it is told, and run again a little later.
    fn run(&mut self, reception: &Reception) -> Result<(), ReceiveError>;
}

/// Makes the receiver of a section.
pub(crate) fn make(
    settings: &ReceiverConfig,
    bundle_bytes_max: u64,
    keys: &KeyRing,
) -> Box<dyn Receiver> {
    match &settings.kind {
        ReceiverKind::Folder(config) => {
            Box::new(folder::FolderReceiver::new(config, bundle_bytes_max))
        }
        ReceiverKind::UdpDiode(config) => {
            Box::new(diode::DiodeReceiver::new(config, bundle_bytes_max, keys.clone()))
        }
        ReceiverKind::Tcp(config) => Box::new(tcp::TcpReceiver::new(config, bundle_bytes_max)),
    }
}

/// Why receiving failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// A file or folder.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The link's key.
    #[error(transparent)]
    Key(#[from] StreamKeyError),
}

impl ReceiveError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// What a receiver has counted since the start, for status and metrics.
#[derive(Debug, Default)]
pub struct ReceiverCounters {
    /// Bundles put into the inbox.
    pub bundles: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Bundles that were complete and are not what was sent: thrown away.
    pub wrong: AtomicU64,
    /// Tries that failed.
    pub failures: AtomicU64,
    /// When a bundle was put into the inbox last, in nanoseconds since 1970; 0: not since the start.
    pub last_ns: AtomicI64,
    /// What only this kind of receiver says of itself, as an object.
    details: Mutex<Value>,
    /// What it fails of at present; empty when it does not.
    trouble: Mutex<String>,
}

impl ReceiverCounters {
    /// Sets what only this kind of receiver says of itself.
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
            "wrong": of(&self.wrong),
            "failures": of(&self.failures),
            "last-ns": self.last_ns.load(Ordering::Relaxed),
            "trouble": self.trouble(),
            "details": *self.details.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// What a receiver works with.
#[derive(Debug)]
pub(crate) struct Reception {
    name: String,
    inbox: PathBuf,
    state_dir: PathBuf,
    bell: Bell,
    counters: Arc<ReceiverCounters>,
    arrivals: Arrivals,
}

impl Reception {
    pub(crate) fn new(name: &str, inbox: &Path, state_dir: &Path, bell: Bell) -> Self {
        Self {
            name: name.to_owned(),
            inbox: inbox.to_owned(),
            state_dir: state_dir.to_owned(),
            bell,
            counters: Arc::default(),
            arrivals: Arrivals::default(),
        }
    }

    /// Has the importer know which receiver brought a file, for the custody log.
    pub(crate) fn telling(self, arrivals: Arrivals) -> Self {
        Self { arrivals, ..self }
    }

    /// Where a file is written that will be delivered under this name.
    pub(crate) fn partial(&self, name: &str) -> PathBuf {
        durable::partial_path(&self.inbox.join(name))
    }

    /// Puts a file into the inbox that was written at [`Self::partial`] and was verified to have this
    /// digest: syncs it, writes its sidecar, and gives it its name. A receiver never overwrites: where
    /// the same file stands there already, the inbox has yet to take it; where anything else has the
    /// name, the file is called by its digest.
    pub(crate) fn deliver(
        &self,
        name: &str,
        file: &File,
        sha256: &BundleDigest,
    ) -> Result<(), ReceiveError> {
        let (partial, path) = (self.partial(name), self.inbox.join(name));
        let bytes = file.metadata().map_err(ReceiveError::io(&partial))?.len();
        file.sync_all().map_err(ReceiveError::io(&partial))?;
        let free = match standing(&path, sha256).map_err(ReceiveError::io(&path))? {
            Standing::Nothing => Some((path, name.to_owned())),
            Standing::Same => None,
            Standing::Other => {
                tracing::warn!(receiver = %self.name, bundle = %name, "something else has the name of a bundle in the inbox; the bundle is called by its digest");
                let name = format!("{sha256}.{FILE_EXTENSION}");
                let path = self.inbox.join(&name);
                match standing(&path, sha256).map_err(ReceiveError::io(&path))? {
                    Standing::Nothing => Some((path, name)),
                    Standing::Same => None,
                    Standing::Other => {
                        let taken = io::ErrorKind::AlreadyExists.into();
                        return Err(ReceiveError::io(&path)(taken));
                    }
                }
            }
        };
        let Some((path, name)) = free else {
            return durable::remove(&partial).map_err(ReceiveError::io(&partial));
        };
        let mut sidecar = path.clone().into_os_string();
        sidecar.push(".sha256");
        let sidecar = PathBuf::from(sidecar);
        durable::write(&sidecar, format!("{sha256}  {name}\n").as_bytes(), 0o644)
            .map_err(ReceiveError::io(&sidecar))?;
        self.arrivals.note(*sha256, &self.name);
        durable::rename(&partial, &path).map_err(ReceiveError::io(&path))?;
        self.counters.bundles.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.last_ns.store(SystemClock.now().0, Ordering::Relaxed);
        self.fine();
        tracing::info!(receiver = %self.name, bundle = %name, "a bundle has come");
        Ok(())
    }

    /// What was refused after it stood in the inbox, since `seen` such files were; counts on.
    pub(crate) fn refused_since(&self, seen: &mut u64) -> Vec<BundleDigest> {
        self.arrivals.refused_since(seen)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A folder that all receivers of a kind share.
    pub(crate) fn state_folder_of_all(&self, kind: &str) -> PathBuf {
        self.state_dir.join(kind)
    }

    /// Moves a file into the inbox that stands elsewhere, in a place of our own, and was verified to
    /// have this digest.
    pub(crate) fn deliver_from(
        &self,
        path: &Path,
        name: &str,
        sha256: &BundleDigest,
    ) -> Result<(), ReceiveError> {
        let partial = self.partial(name);
        match durable::rename(path, &partial) {
            Err(err) if err.kind() == io::ErrorKind::CrossesDevices => {
                std::fs::copy(path, &partial).map_err(ReceiveError::io(&partial))?;
            }
            moved => moved.map_err(ReceiveError::io(&partial))?,
        }
        let delivered = File::open(&partial)
            .map_err(ReceiveError::io(&partial))
            .and_then(|file| self.deliver(name, &file, sha256));
        if delivered.is_err() && !path.exists() {
            // It goes back to where its receiver will look for it.
            let _ = durable::rename(&partial, path);
        }
        delivered?;
        // Gone already where it was moved.
        durable::remove(path).map_err(ReceiveError::io(path))
    }

    /// A folder for what must survive a restart, made if there is none.
    pub(crate) fn state_folder(&self) -> Result<PathBuf, ReceiveError> {
        let dir = self.state_dir.join("receivers").join(&self.name);
        durable::create_dir(&dir).map_err(ReceiveError::io(&dir))?;
        Ok(dir)
    }

    /// Whether the agent stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.bell.stopping()
    }

    /// Waits for the stop or for the time to pass.
    pub(crate) fn rest(&self, time: Duration) {
        self.bell.rest(time);
    }

    /// What it counts, and what it says of itself.
    pub(crate) fn counters(&self) -> &Arc<ReceiverCounters> {
        &self.counters
    }

    /// Something fails, and is tried again: told when it begins, changes and ends.
    pub(crate) fn trouble(&self, what: &str) {
        let mut told = self.counters.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != what {
            if what.is_empty() {
                tracing::info!(receiver = %self.name, "receiving goes on");
            } else {
                tracing::warn!(receiver = %self.name, trouble = %what, "receiving failed; it is tried again");
            }
            what.clone_into(&mut told);
        }
    }

    /// It does not fail of anything any more.
    pub(crate) fn fine(&self) {
        self.trouble("");
    }
}

/// What has the name of a bundle in the inbox.
enum Standing {
    Nothing,
    /// The bundle itself.
    Same,
    Other,
}

fn standing(path: &Path, sha256: &BundleDigest) -> io::Result<Standing> {
    let file = match open_untrusted(path) {
        Ok(Some(file)) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Standing::Nothing),
        // No regular file, a link, or something that may not be read.
        Ok(None) | Err(_) => return Ok(Standing::Other),
    };
    let (_, found) = BundleDigest::of_reader(file, |_| {})?;
    let is_same = found == *sha256;
    Ok(if is_same { Standing::Same } else { Standing::Other })
}

/// The body of a receiver's thread.
pub(crate) fn run(mut receiver: Box<dyn Receiver>, reception: &Reception) {
    while !reception.is_stopping() {
        if let Err(err) = receiver.run(reception) {
            reception.counters.failures.fetch_add(1, Ordering::Relaxed);
            reception.trouble(&err.to_string());
            reception.rest(RETRY_INTERVAL);
        }
    }
}

/// Everything that is wrong with what the receivers need, for `check-config`.
pub fn check(settings: &ReceiverConfig) -> Vec<String> {
    match &settings.kind {
        ReceiverKind::Folder(config) => folder::check(config),
        ReceiverKind::Tcp(config) => tcp::check(config),
        ReceiverKind::UdpDiode(config) => diode::check(config),
    }
}

/// After a failure, how long until the next try.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn reception(dir: &Path) -> Reception {
        std::fs::create_dir(dir.join("inbox")).unwrap();
        Reception::new("test", &dir.join("inbox"), &dir.join("state"), Bell::default())
    }

    fn deliver(reception: &Reception, name: &str, bytes: &[u8]) -> Result<(), ReceiveError> {
        std::fs::write(reception.partial(name), bytes).unwrap();
        let file = File::open(reception.partial(name)).unwrap();
        reception.deliver(name, &file, &BundleDigest::of(bytes))
    }

    #[test]
    fn a_bundle_whose_name_is_taken_is_called_by_its_digest() {
        for junk in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let reception = reception(dir.path());
            let inbox = dir.path().join("inbox");
            let name = "plant-7-routine-0000000001-aa.pstk";
            if junk {
                std::fs::write(inbox.join(name), "junk").unwrap();
            } else {
                std::fs::create_dir(inbox.join(name)).unwrap();
            }
            // Twice: what stands there already is not delivered again.
            for _ in 0..2 {
                deliver(&reception, name, b"bundle").unwrap();
                assert!(!reception.partial(name).exists());
            }
            let digest = BundleDigest::of(b"bundle");
            let called = inbox.join(format!("{digest}.pstk"));
            assert_eq!(std::fs::read(&called).unwrap(), b"bundle");
            assert!(inbox.join(format!("{digest}.pstk.sha256")).exists());
            assert_eq!(reception.counters.bundles.load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn a_bundle_that_can_not_be_delivered_goes_back_to_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let reception = reception(dir.path());
        let name = "plant-7-routine-0000000001-aa.pstk";
        let from = dir.path().join("whole");
        std::fs::write(&from, b"bundle").unwrap();
        // No sidecar can be written where a folder stands.
        let sidecar = dir.path().join("inbox").join(format!("{name}.sha256"));
        std::fs::create_dir_all(sidecar.join("x")).unwrap();
        let digest = BundleDigest::of(b"bundle");
        assert!(reception.deliver_from(&from, name, &digest).is_err());
        assert_eq!(std::fs::read(&from).unwrap(), b"bundle");
        std::fs::remove_dir_all(&sidecar).unwrap();
        reception.deliver_from(&from, name, &digest).unwrap();
        assert!(!from.exists());
    }
}
