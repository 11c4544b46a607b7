//! The archive: every verified bundle as it came, where nobody can change or remove it for a time.
//!
//! ```text
//!             (1) hash            (2) create-only, locked      (3) look: lock, digest
//! store ──> file as it came ──> archive ──> version ──> ledger: archived ──> replay may go on
//! ```
//!
//! - An object is made if nothing has its name, and what stands there already is adopted if it is the same
//!   bytes under the same lock: a crash between the two leaves no second version.
//! - What the store of objects says it did is not enough: what it holds is looked at before it is noted.
//! - Nothing here deletes or overwrites; only [`Archive::prove`] tries to, on an object of its own, and a
//!   success is a finding.
//! - Memory: one piece of a file, whatever its size (`http::body`).

pub mod audit;
mod azure;
pub mod config;
mod directory;
mod gcs;
pub mod listing;
pub mod proof;
mod s3;
pub mod worker;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use shared::bell::Bell;
use shared::bundle::BundleDigest;
use shared::clock::{Clock, Nanos};

use crate::http::{Answer, HttpError};
use crate::ledger::{ChainName, KeptObject};
use crate::tls::TlsError;
use config::{ArchiveConfig, ArchiveKind};
use listing::{Marker, Page};
use proof::Proof;

/// Why an archive did not take, or give, something.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It answered that it does not, or not now.
    #[error("{place} answered {status} {code}: {why}")]
    Answer {
        /// Who answered.
        place: String,
        /// The status.
        status: u16,
        /// The store's own code, where it gave one.
        code: String,
        /// What it said.
        why: String,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// A credential can't be used.
    #[error("{path}: {why}")]
    Credential {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What stands under the name is something else.
    #[error("{key}: {why}")]
    Differs {
        /// The name.
        key: String,
        /// How it differs.
        why: String,
    },
    /// A file of ours can't be used.
    #[error("{path} can't be used")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There was no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It does not promise to keep things.
    #[error("{place} does not lock what it gets: {why}")]
    NoLock {
        /// The bucket, the container.
        place: String,
        /// What it lacks.
        why: String,
    },
    /// A file for TLS, or one with a credential, can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl ArchiveError {
    fn answer(place: &str, answer: &Answer, code: String) -> Self {
        Self::Answer {
            place: place.to_owned(),
            status: answer.status,
            code,
            why: answer.excerpt(),
            retry_after: answer.retry_after(),
        }
    }

    fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Whether it is about this one object: others may go well.
    pub fn is_about_object(&self) -> bool {
        matches!(self, Self::Differs { .. })
    }

    /// How long the archive asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answer { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A file that is to be kept.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its name in the archive, without the prefix of the configuration.
    pub key: String,
    /// The file.
    pub file: Arc<File>,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: BundleDigest,
    /// Until when it is to be locked.
    pub until: Nanos,
    /// A lock until then is enough where the object is there already.
    pub until_least: Nanos,
}

/// How an object is locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Nobody can remove, change or unlock it until then.
    Until(Nanos),
    /// It can be removed by somebody; how, in words.
    Weak(String),
}

/// An object that an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its version; empty where the archive knows none.
    pub version: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 as the archive itself worked it out when it got it; nothing where it does not.
    pub sha256: Option<BundleDigest>,
    /// Its lock.
    pub lock: Lock,
}

/// What became of an object that was to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was made, as this version.
    New(String),
    /// Something stands there already.
    There,
}

/// Where pieces of an object go.
pub type Take<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// A place that keeps objects.
pub trait Archive: Send {
    /// Where an object is, for people.
    fn place(&self, key: &str) -> String;

    /// Whether it can promise that nobody removes an object for a time. A folder can't.
    fn locks(&self) -> bool {
        true
    }

    /// Asks it whether it is set up so that it keeps what it promises.
    fn check(&mut self) -> Result<(), ArchiveError>;

    /// Makes an object and locks it, unless something has its name.
    fn make(&mut self, object: &Object) -> Result<Made, ArchiveError>;

    /// Looks at an object without reading it: at this version, or the current one. `None` where there is
    /// none.
    fn look(&mut self, key: &str, version: Option<&str>) -> Result<Option<Held>, ArchiveError>;

    /// Locks an object until a later time.
    fn extend(&mut self, key: &str, version: &str, until: Nanos) -> Result<(), ArchiveError>;

    /// Reads an object: at most so many bytes of it.
    fn read(
        &mut self,
        key: &str,
        version: &str,
        bytes_max: u64,
        take: &mut Take<'_>,
    ) -> Result<(), ArchiveError>;

    /// Lists what it holds, every version of it: a part of it, from the beginning or from where an earlier
    /// part ended.
    fn list(&mut self, after: Option<&Marker>) -> Result<Page, ArchiveError>;

    /// Tries to break the lock of an object made for that, in every way there is, and notes what came of
    /// each try.
    fn prove(&mut self, canary: &Object, proof: &mut Proof) -> Result<(), ArchiveError>;
}

/// Makes the archive of a section. With other credentials than its own, where an auditor gives some.
pub fn make(
    config: &ArchiveConfig,
    credentials: Option<&std::path::Path>,
    clock: &Arc<dyn Clock>,
    bell: &Bell,
) -> Box<dyn Archive> {
    let mut kind = config.kind.clone();
    if let Some(path) = credentials.map(std::path::Path::to_owned) {
        use config::{AzureCredential, GcsCredential};
        match &mut kind {
            ArchiveKind::S3(s3) => s3.credentials_file = path,
            ArchiveKind::Azure(azure) => match &mut azure.credential {
                AzureCredential::Sas(file) | AzureCredential::SharedKey(file) => *file = path,
            },
            ArchiveKind::Gcs(gcs) => match &mut gcs.credential {
                GcsCredential::ServiceAccount(file) | GcsCredential::Token(file) => *file = path,
            },
            ArchiveKind::Directory(_) => {}
        }
    }
    match kind {
        ArchiveKind::Azure(azure) => Box::new(azure::Azure::new(azure, Arc::clone(clock), bell)),
        ArchiveKind::Directory(path) => Box::new(directory::Directory::new(path)),
        ArchiveKind::Gcs(gcs) => Box::new(gcs::Gcs::new(gcs, Arc::clone(clock), bell)),
        ArchiveKind::S3(s3) => Box::new(s3::S3::new(s3, Arc::clone(clock), bell)),
    }
}

/// What can be looked at without asking the archive.
pub fn check(config: &ArchiveConfig) -> Result<(), ArchiveError> {
    let http = match &config.kind {
        ArchiveKind::Directory(path) => return directory::Directory::new(path.clone()).check(),
        ArchiveKind::Azure(azure) => {
            azure::check(azure)?;
            &azure.http
        }
        ArchiveKind::Gcs(gcs) => {
            gcs::check(gcs)?;
            &gcs.http
        }
        ArchiveKind::S3(s3) => {
            s3::check(s3)?;
            &s3.http
        }
    };
    Ok(http.check()?)
}

/// The name of a bundle in an archive: its chain as folders, then its name in the store, under which it
/// can be imported again.
pub fn key(chain: &ChainName, file: &str) -> String {
    format!("{}/{}/{}/{file}", chain.origin, chain.epoch, chain.lane)
}

/// Has an archive keep an object, and looks whether it does: the same bytes, under a lock that holds.
pub fn keep(archive: &mut dyn Archive, object: &Object) -> Result<KeptObject, ArchiveError> {
    let made = archive.make(object)?;
    let version = match &made {
        Made::New(version) => Some(version.as_str()),
        Made::There => None,
    };
    let differs = |why: String| ArchiveError::Differs { key: object.key.clone(), why };
    let gone = || differs("it is not there although it was made a moment ago".to_owned());
    let mut held = archive.look(&object.key, version)?.ok_or_else(gone)?;
    if held.bytes != object.bytes {
        return Err(differs(format!("has {} bytes there, not {}", held.bytes, object.bytes)));
    }
    let sha256 = match held.sha256 {
        Some(sha256) => sha256,
        // It does not say, so it is read.
        None => hash_of(archive, &object.key, &held.version, object.bytes)?,
    };
    if sha256 != object.sha256 {
        return Err(differs(format!("has the SHA-256 {sha256} there, not {}", object.sha256)));
    }
    if let Lock::Until(until) = held.lock
        && until < object.until_least
    {
        archive.extend(&object.key, &held.version, object.until)?;
        held = archive.look(&object.key, Some(&held.version))?.ok_or_else(gone)?;
    }
    let retain_until = match held.lock {
        Lock::Until(until) if until >= object.until_least => Some(until),
        Lock::Until(until) => return Err(differs(format!("is locked until {until} only"))),
        Lock::Weak(_) if !archive.locks() => None,
        Lock::Weak(why) => return Err(differs(why)),
    };
    Ok(KeptObject {
        key: object.key.clone(),
        version: held.version,
        sha256: object.sha256,
        bytes: object.bytes,
        retain_until,
    })
}

/// The SHA-256 of what an archive holds, by reading it.
pub fn hash_of(
    archive: &mut dyn Archive,
    key: &str,
    version: &str,
    bytes: u64,
) -> Result<BundleDigest, ArchiveError> {
    let mut hash = Sha256::new();
    archive.read(key, version, bytes, &mut |piece| {
        hash.update(piece);
        Ok(())
    })?;
    Ok(BundleDigest::from_bytes(hash.finalize().into()))
}

/// A time rounded up to whole seconds, as stores keep it: a lock never ends before the time asked for.
fn ceil_secs(time: Nanos) -> i64 {
    time.as_secs() + i64::from(time.0.rem_euclid(1_000_000_000) != 0)
}

/// A time as `2026-11-23T21:10:19Z`, rounded up.
fn rfc3339(time: Nanos) -> String {
    Nanos(ceil_secs(time).saturating_mul(1_000_000_000)).to_string().replace(".000000000", "")
}
