//! One file into the folder: temporary name, paced writing, sync, read back, checksum, rename.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest, Sha256};
use shared::bundle::BundleDigest;
use shared::durable;
use shared::parts::{Geometry, PART_HEADER_BYTES, PartName, SplitError, Splitting};

use super::super::Carriage;
use super::super::pace::Pace;
use crate::config::{DoneMarker, FolderSettings, SidecarOrder, Temporary};
use crate::outbox::{Waiting, open_regular, sha256_of};
use crate::sealer::SealerError;

/// A file that has its final name.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: BundleDigest,
}

/// What a bundle becomes in the folder.
pub(super) struct Content {
    source: File,
    path: PathBuf,
    sha256: BundleDigest,
    bytes: u64,
    name: String,
    parts: Option<Splitting>,
}

impl Content {
    /// Verifies a bundle's file and says what it becomes.
    pub(super) fn of(
        path: &Path,
        waiting: &Waiting,
        name: String,
        part_bytes: Option<u64>,
    ) -> Result<Self, SealerError> {
        let failed = || SealerError::io(path);
        let source = open_regular(path).map_err(failed())?;
        let copy = source.try_clone().map_err(failed())?;
        if sha256_of(copy, &mut |_| {}).map_err(failed())? != waiting.sha256 {
            return Err(SealerError::Damaged { path: path.to_owned() });
        }
        let invalid =
            |problem: String| failed()(io::Error::new(io::ErrorKind::InvalidInput, problem));
        let parts = match part_bytes.filter(|part_bytes| waiting.bytes > *part_bytes) {
            None => None,
            Some(part_bytes) => {
                let geometry = Geometry::pieces(waiting.bytes, part_bytes);
                let geometry = geometry.map_err(|err| invalid(err.to_string()))?;
                let part_name = name.parse::<PartName>().map_err(|err| invalid(err.to_string()))?;
                Some(Splitting::new(part_name, waiting.sha256, geometry))
            }
        };
        let (path, sha256, bytes) = (path.to_owned(), waiting.sha256, waiting.bytes);
        Ok(Self { source, path, sha256, bytes, name, parts })
    }

    /// How many files that are.
    pub(super) fn count(&self) -> u16 {
        self.parts.as_ref().map_or(1, |parts| parts.geometry().parts())
    }

    fn name(&self, index: u16) -> String {
        self.parts.as_ref().map_or_else(|| self.name.clone(), |parts| parts.file_name(index))
    }

    fn bytes(&self, index: u16) -> u64 {
        self.parts.as_ref().map_or(self.bytes, |parts| parts.geometry().file_bytes(index))
    }

    /// Writes one file; gives the digests that its content and, where known, the whole must have.
    fn write(&self, index: u16, to: &mut Paced<'_>) -> io::Result<Expected> {
        let Some(parts) = &self.parts else {
            let mut source = &self.source;
            source.seek(SeekFrom::Start(0))?;
            let mut buffer = vec![0; COPY_BYTES];
            loop {
                match source.read(&mut buffer)? {
                    0 => return Ok(Expected { after: 0, sha256: self.sha256 }),
                    count => to.write_all(&buffer[..count])?,
                }
            }
        };
        match parts.write(&self.source, index, to, &mut |_| {}) {
            Ok(header) => {
                Ok(Expected { after: PART_HEADER_BYTES as u64, sha256: header.content_sha256 })
            }
            Err(SplitError::Read(err) | SplitError::Write { source: err, .. }) => Err(err),
            Err(err) => Err(io::Error::other(err)),
        }
    }
}

/// What the bytes after a header must be when they are read back.
struct Expected {
    after: u64,
    sha256: BundleDigest,
}

/// Puts files into the folder.
pub(super) struct Putting<'a> {
    pub(super) settings: &'a FolderSettings,
    pub(super) pace: &'a mut Pace,
    pub(super) carriage: &'a Carriage,
}

impl Putting<'_> {
    /// Puts one file of a bundle there, with its checksum and its marker; `None` if the agent stops.
    pub(super) fn put(
        &mut self,
        content: &Content,
        index: u16,
    ) -> Result<Option<Written>, SealerError> {
        let name = content.name(index);
        let path = self.settings.path.join(&name);
        let bytes = content.bytes(index);
        // It stands there already: this agent was killed before it could note that.
        if content.parts.is_none() && stands(&path, content)? {
            return self.complete(Written { name, bytes, sha256: content.sha256 }).map(Some);
        }
        let temporary = self.temporary(&name);
        let written = self.write(content, index, &temporary);
        let sha256 = match written {
            Ok(Some(sha256)) => sha256,
            failed => {
                // Where it can't be removed, its name says that it is nothing.
                let _ = std::fs::remove_file(&temporary);
                return failed.map(|_| None);
            }
        };
        if self.settings.sidecar == SidecarOrder::Sha256First {
            self.sidecar(&name, &sha256)?;
        }
        durable::rename(&temporary, &path).map_err(SealerError::io(&path))?;
        self.complete(Written { name, bytes, sha256 }).map(Some)
    }

    /// A small file, whole or not at all.
    pub(super) fn small(&mut self, name: &str, bytes: &[u8]) -> Result<(), SealerError> {
        let (temporary, path) = (self.temporary(name), self.settings.path.join(name));
        let write = || {
            let mut file = durable::create(&temporary, 0o644)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            durable::rename(&temporary, &path)
        };
        write().map_err(SealerError::io(&path))
    }

    fn complete(&mut self, written: Written) -> Result<Written, SealerError> {
        if self.settings.sidecar == SidecarOrder::Sha256 {
            self.sidecar(&written.name, &written.sha256)?;
        }
        if let DoneMarker::File(suffix) = &self.settings.done_marker {
            self.small(&format!("{}{suffix}", written.name), b"")?;
        }
        Ok(written)
    }

    fn sidecar(&mut self, name: &str, sha256: &BundleDigest) -> Result<(), SealerError> {
        self.small(&format!("{name}.sha256"), format!("{sha256}  {name}\n").as_bytes())
    }

    /// Writes, syncs and reads back; gives the file's digest, or `None` if the agent stops.
    fn write(
        &mut self,
        content: &Content,
        index: u16,
        temporary: &Path,
    ) -> Result<Option<BundleDigest>, SealerError> {
        let failed = || SealerError::io(temporary);
        let file = durable::create(temporary, 0o644).map_err(failed())?;
        let mut paced = Paced { file, pace: self.pace, carriage: self.carriage, stopped: false };
        let expected = match content.write(index, &mut paced) {
            Ok(expected) => expected,
            Err(_) if paced.stopped => return Ok(None),
            Err(err) => {
                // The outbox's file or the folder: the message names both.
                let text = format!("{err} (from {})", content.path.display());
                return Err(failed()(io::Error::new(err.kind(), text)));
            }
        };
        let file = paced.file;
        let synced = file.sync_all().and_then(|()| {
            // What is read back must come from the disk and not from memory.
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            Ok(())
        });
        synced.map_err(failed())?;
        drop(file);
        let (whole, after) = digests(temporary, expected.after).map_err(failed())?;
        if after == expected.sha256 {
            return Ok(Some(whole));
        }
        let problem = "what was read back differs from what was written";
        Err(failed()(io::Error::new(io::ErrorKind::InvalidData, problem)))
    }

    fn temporary(&self, name: &str) -> PathBuf {
        match &self.settings.temporary {
            Temporary::Suffix(suffix) => self.settings.path.join(format!("{name}{suffix}")),
            Temporary::Directory(dir) => dir.join(name),
        }
    }
}

/// Whether a file stands there and is this one.
fn stands(path: &Path, content: &Content) -> Result<bool, SealerError> {
    match path.symlink_metadata() {
        Ok(found) if found.is_file() && found.len() == content.bytes => {
            let same = open_regular(path).and_then(|file| sha256_of(file, &mut |_| {}));
            Ok(same.map_err(SealerError::io(path))? == content.sha256)
        }
        Ok(_) => Ok(false),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(SealerError::io(path)(err)),
    }
}

/// SHA-256 of a file, and of what stands after its first bytes.
fn digests(path: &Path, after: u64) -> io::Result<(BundleDigest, BundleDigest)> {
    let mut file = open_regular(path)?;
    let (mut whole, mut rest) = (Sha256::new(), Sha256::new());
    let mut head = vec![0; after as usize];
    file.read_exact(&mut head)?;
    whole.update(&head);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => {
                whole.update(&buffer[..count]);
                if after > 0 {
                    rest.update(&buffer[..count]);
                }
            }
        }
    }
    let whole = BundleDigest::from_bytes(whole.finalize().into());
    let rest = if after > 0 { BundleDigest::from_bytes(rest.finalize().into()) } else { whole };
    Ok((whole, rest))
}

/// A file that is written no faster than is allowed.
struct Paced<'a> {
    file: File,
    pace: &'a mut Pace,
    carriage: &'a Carriage,
    stopped: bool,
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if self.carriage.is_stopping() {
                self.stopped = true;
                return Err(io::Error::other("the agent stops"));
            }
            let wait = self.pace.wait(std::time::Instant::now());
            if wait.is_zero() {
                break;
            }
            self.carriage.rest(wait);
        }
        let count = self.file.write(&bytes[..bytes.len().min(COPY_BYTES)])?;
        self.pace.spend(count as u64, std::time::Instant::now());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Paced<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

const COPY_BYTES: usize = 256 * 1024;
