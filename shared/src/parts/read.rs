//! The reading half: parts, perhaps hostile, become the one exact file or nothing.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use reed_solomon_simd::ReedSolomonDecoder;
use sha2::{Digest, Sha256};

use super::header::{PART_HEADER_BYTES, PartHeader, PartName};
use super::{COPY_BYTES, Geometry};
use crate::bundle::BundleDigest;
use crate::durable;

/// Why a file is not taken as a part.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// It could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not begin as a part does, or has a header that nobody of us wrote.
    #[error("{path}: its header is damaged, or it is no part")]
    Header {
        /// The file.
        path: PathBuf,
    },
    /// It is of a version that we don't know.
    #[error("{path}: is a part of version {version}, which this program does not know")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version that it names.
        version: u32,
    },
    /// It has another length than its header says.
    #[error(
        "{path}: has {found} bytes instead of {expected}: it is cut short or still being copied"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// What its header says.
        expected: u64,
        /// Its length.
        found: u64,
    },
}

impl PartError {
    /// The refusal's stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "part-unreadable",
            Self::Header { .. } => "part-header",
            Self::Version { .. } => "part-version",
            Self::Length { .. } => "part-length",
        }
    }
}

impl PartHeader {
    /// Reads the header of a part's file, which has the length that the header says. The content
    /// is not read.
    pub fn read(path: &Path) -> Result<Self, PartError> {
        let failed = |source| PartError::Io { path: path.to_owned(), source };
        let file = open_part(path).map_err(failed)?;
        let mut bytes = [0; PART_HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(PartError::Header { path: path.to_owned() });
            }
            Err(err) => return Err(failed(err)),
        }
        match Self::version(&bytes) {
            None => return Err(PartError::Header { path: path.to_owned() }),
            Some(1) => {}
            Some(version) => return Err(PartError::Version { path: path.to_owned(), version }),
        }
        let Some(header) = Self::decode(&bytes) else {
            return Err(PartError::Header { path: path.to_owned() });
        };
        let expected = header.geometry.file_bytes(header.index);
        let found = file.metadata().map_err(failed)?.len();
        if found != expected {
            return Err(PartError::Length { path: path.to_owned(), expected, found });
        }
        Ok(header)
    }

    /// The set that this part belongs to.
    pub fn set(&self) -> SetId {
        SetId { name: self.name.clone(), whole_sha256: self.whole_sha256, geometry: self.geometry }
    }
}

/// What all parts of one set have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetId {
    /// The file's name, as the parts claim it.
    pub name: PartName,
    /// The file's SHA-256, as the parts claim it.
    pub whole_sha256: BundleDigest,
    /// How it was divided.
    pub geometry: Geometry,
}

/// What adding a part to a set did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is one more part.
    New,
    /// The set has this part with the same content already.
    Again,
    /// The set has this part with another content: one of the two is damaged or forged. Both are
    /// tried.
    Rival,
    /// It belongs to another set, or its rivals are too many to try.
    Refused,
}

/// The parts of one file that were found so far.
#[derive(Clone, Debug)]
pub struct PartSet {
    id: SetId,
    found: BTreeMap<u16, Vec<(PathBuf, BundleDigest)>>,
}

/// Why a file was not restored. Nothing stands under its name.
#[derive(Debug, thiserror::Error)]
pub enum RejoinError {
    /// Too few parts are there, or too few are whole.
    #[error(
        "{name}: {whole} of the {needed} parts that it takes are there and whole{}",
        among(damaged)
    )]
    TooFew {
        /// The file's name.
        name: PartName,
        /// How many parts are whole.
        whole: u16,
        /// How many it takes.
        needed: u16,
        /// The parts that can't be read, or whose content is not what their headers say.
        damaged: Vec<PathBuf>,
    },
    /// Every part was what its header says, and yet they make another file.
    #[error("{name}: the parts don't make the file that they claim to be parts of")]
    Whole {
        /// The file's name.
        name: PartName,
    },
    /// A part could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The part.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The restored file could not be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The erasure code refused its input.
    #[error("the erasure code failed")]
    Code(#[from] reed_solomon_simd::Error),
}

impl RejoinError {
    /// The refusal's stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooFew { damaged, .. } if !damaged.is_empty() => "part-damaged",
            Self::TooFew { .. } => "parts-missing",
            Self::Whole { .. } => "parts-whole",
            Self::Read { .. } | Self::Write { .. } => "io",
            Self::Code(_) => "parts-code",
        }
    }

    /// Whether this machine or the medium failed, so that nothing is known about the parts.
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Write { .. })
    }
}

fn among(damaged: &[PathBuf]) -> String {
    if damaged.is_empty() {
        return String::new();
    }
    let names: Vec<String> = damaged.iter().map(|path| path.display().to_string()).collect();
    format!("; damaged: {}", names.join(", "))
}

/// A restored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejoined {
    /// The data parts that were restored from recovery parts.
    pub recovered: u16,
    /// Parts that can't be read or are not what their headers say, and which it could do without.
    pub damaged: Vec<PathBuf>,
}

impl PartSet {
    /// A set without parts.
    pub fn new(id: SetId) -> Self {
        Self { id, found: BTreeMap::new() }
    }

    /// What its parts have in common.
    pub fn id(&self) -> &SetId {
        &self.id
    }

    /// Takes one more part.
    pub fn add(&mut self, path: &Path, header: &PartHeader) -> Added {
        if header.set() != self.id {
            return Added::Refused;
        }
        let rivals = self.found.entry(header.index).or_default();
        if rivals.iter().any(|(_, sha256)| *sha256 == header.content_sha256) {
            return Added::Again;
        }
        if rivals.len() == RIVALS_MAX {
            return Added::Refused;
        }
        rivals.push((path.to_owned(), header.content_sha256));
        if rivals.len() == 1 { Added::New } else { Added::Rival }
    }

    /// The parts that are there, from 0, sorted.
    pub fn indexes(&self) -> Vec<u16> {
        self.found.keys().copied().collect()
    }

    /// The files of the parts that are there.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.found.values().flatten().map(|(path, _)| path.as_path())
    }

    /// How many more parts it takes to restore the file, if those that are there are whole.
    pub fn wanted(&self) -> u16 {
        self.id.geometry.data.saturating_sub(self.found.len() as u16)
    }

    /// Restores the file under this name: complete, synced and with the digest that its parts claim;
    /// or not at all. `progress` is told the bytes of content that were read.
    ///
    /// A part that is whole by its own words may still be none of this file. Where the whole is not what
    /// it should be, each part is left out in turn, first those of which there are several.
    pub fn rejoin(
        &self,
        to: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Rejoined, RejoinError> {
        if self.wanted() > 0 {
            return Err(self.too_few(self.found.len() as u16, Vec::new()));
        }
        let partial = durable::partial_path(to);
        let failed = |source| RejoinError::Write { path: to.to_owned(), source };
        let out = durable::create(&partial, 0o600).map_err(failed)?;
        let mut rejoined = self.restore(&out, to, None, progress);
        if matches!(rejoined, Err(RejoinError::Whole { .. })) {
            for suspect in self.suspects() {
                match self.restore(&out, to, Some(suspect), progress) {
                    // Without it there is too little, or another one is wrong as well.
                    Err(RejoinError::TooFew { .. } | RejoinError::Whole { .. }) => {}
                    other => {
                        rejoined = other.map(|mut rejoined| {
                            rejoined.damaged.push(suspect.to_owned());
                            rejoined
                        });
                        break;
                    }
                }
            }
        }
        let rejoined = rejoined.and_then(|rejoined| {
            out.sync_all().map_err(failed)?;
            durable::rename(&partial, to).map_err(failed)?;
            Ok(rejoined)
        });
        if rejoined.is_err() {
            // What can't be removed has a name that says that it is nothing.
            let _ = fs::remove_file(&partial);
        }
        rejoined
    }

    /// The parts one of which may be none of this file, those with rivals first.
    fn suspects(&self) -> Vec<&Path> {
        let mut found: Vec<&Vec<(PathBuf, BundleDigest)>> = self.found.values().collect();
        found.sort_by_key(|rivals| rivals.len() == 1);
        let paths = found.into_iter().flatten().map(|(path, _)| path.as_path());
        paths.take(SUSPECTS_MAX).collect()
    }

    fn restore(
        &self,
        out: &File,
        to: &Path,
        without: Option<&Path>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Rejoined, RejoinError> {
        let geometry = &self.id.geometry;
        let mut damaged = Vec::new();
        let mut missing = Vec::new();
        // Where every part is whole at the first try, one reading tells the digest of the whole.
        let mut running = Some(Sha256::new());
        for index in 0..geometry.data {
            let mut whole = false;
            for (path, sha256) in self.rivals(index, without) {
                let target = Target { out, to, at: geometry.offset(index) };
                let content =
                    self.content(index, path, Some(&target), running.as_mut(), progress)?;
                whole = content == Some(*sha256);
                if whole {
                    break;
                }
                running = None;
                damaged.push(path.clone());
            }
            if !whole {
                running = None;
                missing.push(index);
            }
        }
        if !missing.is_empty() {
            let helpers = self.helpers(missing.len(), without, &mut damaged, progress)?;
            if helpers.len() < missing.len() {
                let whole = geometry.data - missing.len() as u16 + helpers.len() as u16;
                return Err(self.too_few(whole, damaged));
            }
            self.decode(out, to, &missing, &helpers)?;
        }
        let sha256 = match running {
            Some(hash) => BundleDigest::from_bytes(hash.finalize().into()),
            None => self.sha256_of(out, to)?,
        };
        if sha256 != self.id.whole_sha256 {
            return Err(RejoinError::Whole { name: self.id.name.clone() });
        }
        Ok(Rejoined { recovered: missing.len() as u16, damaged })
    }

    fn rivals<'a>(
        &'a self,
        index: u16,
        without: Option<&'a Path>,
    ) -> impl Iterator<Item = &'a (PathBuf, BundleDigest)> {
        let rivals = self.found.get(&index).into_iter().flatten();
        rivals.filter(move |(path, _)| Some(path.as_path()) != without)
    }

    fn too_few(&self, whole: u16, damaged: Vec<PathBuf>) -> RejoinError {
        let needed = self.id.geometry.data;
        RejoinError::TooFew { name: self.id.name.clone(), whole, needed, damaged }
    }

    /// As many recovery parts as are needed, each whole.
    fn helpers(
        &self,
        needed: usize,
        without: Option<&Path>,
        damaged: &mut Vec<PathBuf>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<(u16, &Path)>, RejoinError> {
        let mut helpers = Vec::new();
        for index in self.id.geometry.data..self.id.geometry.parts() {
            for (path, sha256) in self.found.get(&index).into_iter().flatten() {
                if Some(path.as_path()) == without {
                    continue;
                }
                if helpers.len() == needed {
                    return Ok(helpers);
                }
                if self.content(index, path, None, None, progress)? == Some(*sha256) {
                    helpers.push((index, path.as_path()));
                    break;
                }
                damaged.push(path.clone());
            }
        }
        Ok(helpers)
    }

    /// Restores data parts from the others, which stand in `out` already, and recovery parts.
    fn decode(
        &self,
        out: &File,
        to: &Path,
        missing: &[u16],
        helpers: &[(u16, &Path)],
    ) -> Result<(), RejoinError> {
        let geometry = &self.id.geometry;
        let failed = |source| RejoinError::Write { path: to.to_owned(), source };
        let mut files = Vec::new();
        for (index, path) in helpers {
            let file = open_part(path).map_err(read_error(path))?;
            files.push((usize::from(index - geometry.data), *path, file));
        }
        let (data, recovery) = (usize::from(geometry.data), usize::from(geometry.recovery));
        let stripe_bytes = geometry.stripe_bytes();
        let mut decoder = ReedSolomonDecoder::new(data, recovery, stripe_bytes)?;
        let mut shard = vec![0; stripe_bytes];
        let mut at = 0;
        while at < geometry.part_bytes {
            let length = (geometry.part_bytes - at).min(stripe_bytes as u64) as usize;
            let shard = &mut shard[..length];
            decoder.reset(data, recovery, length)?;
            for index in (0..geometry.data).filter(|index| !missing.contains(index)) {
                geometry.read_stripe(out, index, at, shard).map_err(failed)?;
                decoder.add_original_shard(usize::from(index), &*shard)?;
            }
            for (number, path, file) in &files {
                let from = PART_HEADER_BYTES as u64 + at;
                file.read_exact_at(shard, from).map_err(read_error(path))?;
                decoder.add_recovery_shard(*number, &*shard)?;
            }
            let restored = decoder.decode()?;
            for index in missing {
                let there = geometry.content_bytes(*index).saturating_sub(at).min(length as u64);
                let shard = restored.restored_original(usize::from(*index)).unwrap_or_default();
                let content = shard.get(..there as usize).unwrap_or_default();
                out.write_all_at(content, geometry.offset(*index) + at).map_err(failed)?;
            }
            at += length as u64;
        }
        Ok(())
    }

    /// The digest of what was written, if it has the length that it must have.
    fn sha256_of(&self, out: &File, to: &Path) -> Result<BundleDigest, RejoinError> {
        let failed = |source| RejoinError::Write { path: to.to_owned(), source };
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BYTES];
        let (mut at, mut left) = (0, self.id.geometry.whole_bytes);
        while left > 0 {
            let chunk = &mut buffer[..left.min(COPY_BYTES as u64) as usize];
            out.read_exact_at(chunk, at).map_err(failed)?;
            hash.update(&*chunk);
            at += chunk.len() as u64;
            left -= chunk.len() as u64;
        }
        Ok(BundleDigest::from_bytes(hash.finalize().into()))
    }

    /// Reads the content of a part: its digest, or `None` where it can't be read or is another part
    /// by now. An error is one of the file that it is copied to.
    fn content(
        &self,
        index: u16,
        path: &Path,
        target: Option<&Target<'_>>,
        mut running: Option<&mut Sha256>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<BundleDigest>, RejoinError> {
        // Looked at again: since it was found, the medium may have been changed.
        let same = |header: &PartHeader| header.index == index && header.set() == self.id;
        if !PartHeader::read(path).is_ok_and(|header| same(&header)) {
            return Ok(None);
        }
        let Ok(file) = open_part(path) else { return Ok(None) };
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BYTES];
        let (mut done, bytes) = (0, self.id.geometry.content_bytes(index));
        while done < bytes {
            let chunk = &mut buffer[..(bytes - done).min(COPY_BYTES as u64) as usize];
            // A scratched disc is what the other parts are for.
            if file.read_exact_at(chunk, PART_HEADER_BYTES as u64 + done).is_err() {
                return Ok(None);
            }
            hash.update(&*chunk);
            if let Some(running) = &mut running {
                running.update(&*chunk);
            }
            if let Some(Target { out, to, at }) = target {
                let failed = |source| RejoinError::Write { path: (*to).to_owned(), source };
                out.write_all_at(chunk, at + done).map_err(failed)?;
            }
            done += chunk.len() as u64;
            progress(chunk.len() as u64);
        }
        Ok(Some(BundleDigest::from_bytes(hash.finalize().into())))
    }
}

/// Where the content of a part is copied to while it is read.
struct Target<'a> {
    out: &'a File,
    to: &'a Path,
    at: u64,
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> RejoinError {
    move |source| RejoinError::Read { path: path.to_owned(), source }
}

/// Opens a regular file, never through a link and never waiting.
fn open_part(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"))
}

/// How many files that claim to be the same part are tried: a damaged one and its replacement, and
/// some to spare.
const RIVALS_MAX: usize = 4;

/// As many parts are left out in turn where the whole is not what it should be: each try reads them all.
const SUSPECTS_MAX: usize = 32;
