//! Private copies: what is verified is what is stored, whatever happens to the original meanwhile.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use shared::bundle::{BundleDigest, FILE_EXTENSION};
use shared::clock::{Clock, SystemClock};
use shared::durable;

use crate::folders::open_untrusted;

/// A complete and synced private copy of a file that came. It is removed when dropped, unless it
/// was moved into the store or the quarantine before.
#[derive(Debug)]
pub struct ReceivedBundle {
    path: PathBuf,
    /// Holds the lock that keeps another process's start from cleaning the copy away.
    file: File,
    bytes: u64,
    sha256: BundleDigest,
}

/// Why no copy was made.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A folder, a link, a FIFO, a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// Larger than `limits.bundle-bytes-max`.
    #[error("it has {bytes} bytes, more than limits.bundle-bytes-max allows ({max})")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The original could not be read.
    #[error("it can't be read")]
    Read(#[source] io::Error),
    /// The copy could not be written.
    #[error("no private copy could be written\n  try: free space on the file system of state-dir")]
    Write(#[source] io::Error),
}

impl StageError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAFile => "not-a-file",
            Self::TooLarge { .. } => "too-large",
            Self::Read(_) => "unreadable",
            Self::Write(_) => "io",
        }
    }
}

impl ReceivedBundle {
    /// Copies a file into the staging folder and syncs it. `copied` is told of each piece's bytes.
    pub fn copy(
        from: &Path,
        staging: &Path,
        bytes_max: u64,
        mut copied: impl FnMut(u64),
    ) -> Result<Self, StageError> {
        let mut source =
            open_untrusted(from).map_err(StageError::Read)?.ok_or(StageError::NotAFile)?;
        let size = source.metadata().map_err(StageError::Read)?.len();
        if size > bytes_max {
            return Err(StageError::TooLarge { bytes: size, max: bytes_max });
        }
        let (path, mut file) = create(staging).map_err(StageError::Write)?;
        let mut received = Self {
            path,
            file: file.try_clone().map_err(StageError::Write)?,
            bytes: 0,
            sha256: BundleDigest::ZERO,
        };
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(StageError::Read(err)),
            };
            received.bytes += count as u64;
            // It may have grown since it was looked at.
            if received.bytes > bytes_max {
                return Err(StageError::TooLarge { bytes: received.bytes, max: bytes_max });
            }
            hash.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(StageError::Write)?;
            copied(count as u64);
        }
        file.sync_all().map_err(StageError::Write)?;
        received.sha256 = BundleDigest::from_bytes(hash.finalize().into());
        Ok(received)
    }

    /// The copy, for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The SHA-256 of its content.
    pub fn sha256(&self) -> &BundleDigest {
        &self.sha256
    }

    /// Moves the copy to its place and makes that durable. May be repeated.
    pub fn place(&self, to: &Path) -> io::Result<()> {
        match durable::rename(&self.path, to) {
            // An attempt before this one moved it, and failed to commit.
            Err(err) if err.kind() == io::ErrorKind::NotFound && to.exists() => Ok(()),
            other => other,
        }
    }
}

impl Drop for ReceivedBundle {
    fn drop(&mut self) {
        // Gone already where it was moved.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes copies that a killed process left behind. A copy in use is locked by its owner.
pub fn clean(staging: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(staging)? {
        let path = entry?.path();
        let Some(file) = open_untrusted(&path)? else {
            continue;
        };
        if file.try_lock().is_ok() {
            durable::remove(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn create(staging: &Path) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = staging.join(name(number));
        let file = match durable::create_new(&path, 0o600) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other?,
        };
        file.lock()?;
        // Between creation and lock, the start of another process may have cleaned it away.
        if path.exists() {
            return Ok((path, file));
        }
    }
}

/// Two processes may have the same id: each in a container of its own, over one state directory.
fn name(number: u64) -> String {
    format!("{}-{number}-{}.{FILE_EXTENSION}", std::process::id(), SystemClock.now().0)
}

/// Large enough that system calls do not show, small enough to be no matter of memory.
const COPY_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_removed_unless_it_is_placed() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let (from, staging) = (dir.path().join("a"), dir.path().join("staging"));
        std::fs::create_dir(&staging)?;
        std::fs::write(&from, b"content")?;
        drop(ReceivedBundle::copy(&from, &staging, 7, |_| {})?);
        assert_eq!(std::fs::read_dir(&staging)?.count(), 0);
        let kept = ReceivedBundle::copy(&from, &staging, 7, |_| {})?;
        assert_eq!(*kept.sha256(), BundleDigest::of(b"content"));
        let place = dir.path().join("b");
        kept.place(&place)?;
        kept.place(&place)?;
        drop(kept);
        assert_eq!(std::fs::read(&place)?, b"content");
        let refused = ReceivedBundle::copy(&from, &staging, 6, |_| {});
        assert_eq!(refused.err().map(|err| err.code()), Some("too-large"));
        Ok(())
    }

    #[test]
    fn no_copy_takes_the_place_of_another() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        assert_ne!(name(1), name(1));
        let path = dir.path().join("1-1.pstk");
        std::fs::write(&path, b"of another process")?;
        let refused = durable::create_new(&path, 0o600).err().map(|err| err.kind());
        assert_eq!(refused, Some(io::ErrorKind::AlreadyExists));
        assert_eq!(std::fs::read(&path)?, b"of another process");
        Ok(())
    }

    #[test]
    fn cleaning_spares_copies_in_use() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let from = dir.path().join("a");
        std::fs::write(&from, b"content")?;
        let staging = dir.path().join("staging");
        std::fs::create_dir(&staging)?;
        let used = ReceivedBundle::copy(&from, &staging, 7, |_| {})?;
        std::fs::write(staging.join("1-1.pstk"), b"left by a killed process")?;
        assert_eq!(clean(&staging)?, 1);
        assert!(used.path.exists());
        Ok(())
    }
}
