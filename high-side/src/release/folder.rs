//! Where bundles wait for officers: a folder inside the outbox, so that a file gets from one to the
//! other by a rename, and hidden and closed to others, so that nothing that empties the outbox takes
//! what nobody released.
//!
//! ```text
//! OUTBOX/.review/NAME            the sealed bundle
//! OUTBOX/.review/NAME.summary    its summary, encrypted to the officers
//! ```

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use shared::bundle::{BundleDigest, FILE_EXTENSION};
use shared::durable;

use super::summary::SUMMARY_BYTES_MAX;
use crate::outbox::{open_regular, present, sha256_of};
use crate::sealer::SealerError;

/// The folder's name.
const REVIEW_DIR: &str = ".review";
/// What the name of a summary ends in.
pub const SUMMARY_SUFFIX: &str = ".summary";

/// The folder of bundles that wait.
#[derive(Clone, Debug)]
pub struct ReviewFolder {
    dir: PathBuf,
}

impl ReviewFolder {
    /// The folder in this outbox.
    pub fn in_outbox(outbox: &Path) -> Self {
        Self { dir: outbox.join(REVIEW_DIR) }
    }

    /// Where a waiting bundle stands.
    pub fn bundle(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where its summary stands.
    pub fn summary(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{SUMMARY_SUFFIX}"))
    }

    /// Stores an encrypted summary, durably.
    pub(crate) fn put_summary(&self, name: &str, encrypted: &[u8]) -> Result<(), SealerError> {
        durable::create_dir(&self.dir).map_err(SealerError::io(&self.dir))?;
        let path = self.summary(name);
        durable::write(&path, encrypted, 0o600).map_err(SealerError::io(&path))
    }

    /// Reads an encrypted summary.
    pub fn read_summary(path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        open_regular(path)?.take(SUMMARY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > SUMMARY_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "is too large for a summary"));
        }
        Ok(bytes)
    }

    /// Moves a sealed file from its temporary name to where it waits. May be repeated. False only if
    /// the file is surely gone, or surely another.
    pub(crate) fn hold(
        &self,
        partial: &Path,
        name: &str,
        sha256: &BundleDigest,
    ) -> Result<bool, SealerError> {
        let path = self.bundle(name);
        if present(&path)? {
            return Ok(true);
        }
        if !present(partial)? {
            return Ok(false);
        }
        let source = open_regular(partial).map_err(SealerError::io(partial))?;
        if sha256_of(source, &mut |_| {}).map_err(SealerError::io(partial))? != *sha256 {
            return Ok(false);
        }
        durable::rename(partial, &path).map_err(SealerError::io(&path))?;
        Ok(true)
    }

    /// Opens a waiting bundle's file.
    pub(crate) fn open(&self, name: &str) -> Result<File, SealerError> {
        let path = self.bundle(name);
        open_regular(&path).map_err(SealerError::io(&path))
    }

    /// Removes what a released bundle left here.
    pub(crate) fn remove(&self, name: &str) -> Result<(), SealerError> {
        for path in [self.bundle(name), self.summary(name)] {
            if present(&path)? {
                durable::remove(&path).map_err(SealerError::io(&path))?;
            }
        }
        Ok(())
    }

    /// Removes summaries that belong to no bundle: a crash left them before their bundle was sealed.
    /// Gives the bundles that stand here and are not known: those of an earlier epoch.
    pub(crate) fn clean(&self, waiting: &HashSet<String>) -> Result<Vec<String>, SealerError> {
        let mut strangers = Vec::new();
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(strangers),
            Err(err) => return Err(SealerError::io(&self.dir)(err)),
        };
        for entry in entries {
            let path = entry.map_err(SealerError::io(&self.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(bundle) = name.strip_suffix(SUMMARY_SUFFIX) {
                if !waiting.contains(bundle) && !present(&self.bundle(bundle))? {
                    durable::remove(&path).map_err(SealerError::io(&path))?;
                }
            } else if name.ends_with(durable::PARTIAL_SUFFIX) {
                durable::remove(&path).map_err(SealerError::io(&path))?;
            } else if Path::new(&name).extension().is_some_and(|ext| ext == FILE_EXTENSION)
                && !waiting.contains(&name)
            {
                strangers.push(name);
            }
        }
        strangers.sort();
        Ok(strangers)
    }
}
