//! Parts of bundles that come on several media: kept here, verified, until enough of them are there.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::durable;
use shared::parts::{Added, PART_HEADER_BYTES, PartError, PartHeader, PartSet, SetId};

use crate::folders::open_untrusted;

/// Parts that nobody completed in this time are deleted: the bundle comes whole, or as a new set.
const KEPT_FOR: Duration = Duration::from_hours(90 * 24);
/// What is left free on the disk of the state folder when parts are collected.
const FLOOR_BYTES: u64 = 256 << 20;
/// More sets at a time than this are no set of media of ours.
const SETS_MAX: usize = 100_000;

/// A set's name in the folder of collected parts.
pub type SetKey = SetId;

/// The parts that were found, by the set that they belong to.
#[derive(Debug, Default)]
pub struct Sets {
    sets: HashMap<SetKey, PartSet>,
}

/// Why parts were not collected.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// The disk of the state folder is nearly full.
    #[error(
        "{dir} has too little free space for parts, or a bundle made of them, of {bytes} bytes\n  try: make room; or plug in all media at once, and name them together"
    )]
    NoRoom {
        /// The folder of parts.
        dir: PathBuf,
        /// What was to be collected.
        bytes: u64,
    },
    /// The part could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The part.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be kept.
    #[error("{path}: {source}")]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its content is not what its header says.
    #[error("{path}: is damaged: its content is not what its header says")]
    Damaged {
        /// The part.
        path: PathBuf,
    },
}

impl Sets {
    /// Takes a part of a medium or of the store.
    pub fn add(&mut self, path: &Path) -> Result<Added, PartError> {
        let header = PartHeader::read(path)?;
        if self.sets.len() >= SETS_MAX && !self.sets.contains_key(&header.set()) {
            return Ok(Added::Refused);
        }
        let set = self.sets.entry(header.set()).or_insert_with(|| PartSet::new(header.set()));
        Ok(set.add(path, &header))
    }

    /// The sets, by name.
    pub fn all(&self) -> Vec<&PartSet> {
        let mut sets: Vec<&PartSet> = self.sets.values().collect();
        sets.sort_by(|a, b| a.id().name.cmp(&b.id().name));
        sets
    }
}

/// What was collected of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The parts that are here now, from 1.
    pub parts: Vec<u16>,
    /// How many more it takes.
    pub wanted: u16,
}

/// The folder of collected parts.
#[derive(Clone, Debug)]
pub struct PartStore {
    dir: PathBuf,
}

impl PartStore {
    /// The one of a state folder.
    pub fn of(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("parts") }
    }

    /// Waits for the end of another import's work with parts, and keeps others waiting.
    pub fn lock(&self) -> io::Result<fs::File> {
        durable::create_dir(&self.dir)?;
        let file = durable::create(&self.dir.join("lock"), 0o600)?;
        file.lock()?;
        Ok(file)
    }

    /// Where a bundle stands while it is put together and taken in. The lock is held.
    pub fn rejoined(&self, set: &SetId) -> PathBuf {
        self.dir.join(format!("{REJOINED}{}", set.whole_sha256))
    }

    /// Adds all collected parts to the sets, and deletes what is too old or half written. The lock is
    /// held.
    pub fn load(&self, sets: &mut Sets, now: Nanos) -> io::Result<()> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(err),
        };
        for entry in entries {
            let folder = entry?.path();
            if !folder.is_dir() {
                // Left by a process that was killed.
                let name = folder.file_name().unwrap_or_default().as_encoded_bytes();
                if name.starts_with(REJOINED.as_bytes()) {
                    durable::remove(&folder)?;
                }
                continue;
            }
            durable::remove_partials(&folder)?;
            let kept = fs::read_dir(&folder)?.flatten().map(|entry| entry.path());
            let kept: Vec<PathBuf> = kept.collect();
            let modified = |path: &PathBuf| {
                let meta = fs::metadata(path).ok()?;
                let since = meta.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
                Some(Nanos(i64::try_from(since.as_nanos()).ok()?))
            };
            let newest = kept.iter().filter_map(modified).max();
            if newest.is_none_or(|newest| now.since(newest) > KEPT_FOR) {
                tracing::warn!(folder = %folder.display(), "parts that nobody completed are deleted");
                fs::remove_dir_all(&folder)?;
                continue;
            }
            for path in kept {
                if let Err(err) = sets.add(&path) {
                    tracing::warn!(%err, "a collected part is damaged");
                    durable::remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Keeps the parts of a set that are not here yet; each complete, verified and synced, or not.
    pub fn collect(
        &self,
        set: &PartSet,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Collected, Vec<PartsError>), PartsError> {
        let folder = self.folder(set.id());
        let mut problems = Vec::new();
        let (mut here, mut kept) = (PartSet::new(set.id().clone()), Vec::new());
        for path in set.paths() {
            let header = match PartHeader::read(path) {
                Ok(header) => header,
                Err(PartError::Io { path, source }) => {
                    problems.push(PartsError::Read { path, source });
                    continue;
                }
                Err(_) => {
                    problems.push(PartsError::Damaged { path: path.to_owned() });
                    continue;
                }
            };
            if !path.starts_with(&self.dir) {
                match self.keep(&folder, path, &header, progress) {
                    Ok(()) => {}
                    Err(err @ (PartsError::Damaged { .. } | PartsError::Read { .. })) => {
                        problems.push(err);
                        continue;
                    }
                    Err(err) => return Err(err),
                }
            }
            here.add(path, &header);
            kept.push(header.index);
        }
        let parts = here.indexes().iter().map(|index| index + 1).collect();
        Ok((Collected { parts, wanted: here.wanted() }, problems))
    }

    fn keep(
        &self,
        folder: &Path,
        from: &Path,
        header: &PartHeader,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), PartsError> {
        let to = folder.join(format!("{:03}", header.index));
        let failed = |source| PartsError::Write { path: to.clone(), source };
        if PartHeader::read(&to).is_ok_and(|kept| kept == *header) {
            return Ok(());
        }
        durable::create_dir(folder).map_err(failed)?;
        let bytes = header.geometry.file_bytes(header.index);
        self.expect_room(bytes)?;
        let partial = durable::partial_path(&to);
        let done = copy(from, &partial, header, progress)
            .and_then(|()| durable::rename(&partial, &to).map_err(failed));
        if done.is_err() {
            let _ = fs::remove_file(&partial);
        }
        done
    }

    /// Fails where so many bytes would take the room that the ledger needs.
    pub fn expect_room(&self, bytes: u64) -> Result<(), PartsError> {
        let failed = |source| PartsError::Write { path: self.dir.clone(), source };
        let free = durable::free_bytes(&self.dir).map_err(failed)?;
        if free >= bytes.saturating_add(FLOOR_BYTES) {
            return Ok(());
        }
        Err(PartsError::NoRoom { dir: self.dir.clone(), bytes })
    }

    /// Forgets the parts of a set whose bundle is taken in.
    pub fn forget(&self, set: &SetId) -> io::Result<()> {
        match fs::remove_dir_all(self.folder(set)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }

    /// Where the parts of a set are kept. The folder's name is made of numbers alone.
    fn folder(&self, set: &SetId) -> PathBuf {
        let geometry = &set.geometry;
        let (data, recovery) = (geometry.data(), geometry.recovery());
        let text = format!("{} {data} {recovery} {}", set.name, geometry.content_bytes(0));
        let named = BundleDigest::of(text.as_bytes()).to_string();
        self.dir.join(format!("{}-{}", set.whole_sha256, &named[..16]))
    }
}

/// Copies one part, and finds out whether it is whole.
fn copy(
    from: &Path,
    to: &Path,
    header: &PartHeader,
    progress: &mut dyn FnMut(u64),
) -> Result<(), PartsError> {
    let read = |source| PartsError::Read { path: from.to_owned(), source };
    let write = |source| PartsError::Write { path: to.to_owned(), source };
    let damaged = || PartsError::Damaged { path: from.to_owned() };
    let source = open_untrusted(from).map_err(read)?.ok_or_else(damaged)?;
    let mut source = source.take(header.geometry.file_bytes(header.index));
    let mut out = durable::create(to, 0o600).map_err(write)?;
    let mut head = [0; PART_HEADER_BYTES];
    source.read_exact(&mut head).map_err(read)?;
    if head != header.encode() {
        return Err(damaged());
    }
    out.write_all(&head).map_err(write)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let got = source.read(&mut buffer).map_err(read)?;
        if got == 0 {
            break;
        }
        hash.update(&buffer[..got]);
        out.write_all(&buffer[..got]).map_err(write)?;
        progress(got as u64);
    }
    if BundleDigest::from_bytes(hash.finalize().into()) != header.content_sha256 {
        return Err(damaged());
    }
    out.sync_all().map_err(write)
}

/// Names of bundles that are put together begin so.
const REJOINED: &str = "rejoined-";
const COPY_BYTES: usize = 256 * 1024;
