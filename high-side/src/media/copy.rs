//! One file onto a medium: temporary name, sync, read back, rename. What an interrupted run left is
//! compared with what should be there, and continued.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest, Sha256};
use shared::bundle::BundleDigest;
use shared::durable;

use crate::outbox::{open_regular, present, sidecar_path, write_sidecar};
use crate::sealer::SealerError;

/// What went wrong with a medium, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// It holds no more.
    #[error(
        "{path}: the medium is full\n  try: a larger or empty one; or several together, with --parts K+R. What was read back stays good"
    )]
    Full {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// Nothing can be written to it.
    #[error(
        "{path}: the medium is mounted read-only\n  try: the write-protection switch, and mount it for writing"
    )]
    ReadOnly {
        /// The file that was to be written.
        path: PathBuf,
    },
    /// Its file system takes no file that long.
    #[error(
        "{path}: the medium's file system takes no file that long\n  try: --part-size 4294967295B, or less"
    )]
    FileTooLong {
        /// The file.
        path: PathBuf,
    },
    /// It does not answer any more.
    #[error(
        "{path}: the medium does not answer ({source}): it was pulled out, or is failing\n  try: plug it in and mount it again, then run the same command: it goes on from what is there"
    )]
    Gone {
        /// The file that was being written or read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It gives other bytes than were written.
    #[error("{path}: what was read back differs from what was written\n  try: another medium")]
    ReadBack {
        /// The file.
        path: PathBuf,
    },
    /// Something else.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Our own copy of a bundle could not be read, or is damaged.
    #[error(transparent)]
    Outbox(#[from] SealerError),
}

impl MediumError {
    pub(super) fn of(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let path = path.clone();
            match source.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOSPC | Errno::EDQUOT) => Self::Full { path },
                Some(Errno::EROFS) => Self::ReadOnly { path },
                Some(Errno::EFBIG) => Self::FileTooLong { path },
                Some(
                    Errno::EIO
                    | Errno::ENODEV
                    | Errno::ENXIO
                    | Errno::ENOENT
                    | Errno::ENOTCONN
                    | Errno::ESTALE
                    | Errno::EUCLEAN,
                ) => Self::Gone { path, source },
                _ => Self::Io { path, source },
            }
        }
    }
}

/// Something that can be written to a medium, again and again the same.
pub(super) trait Content {
    /// Writes the content behind the first `head_bytes` bytes; then gives these.
    fn write(&self, out: &mut dyn Write) -> Result<Vec<u8>, WriteError>;
    /// The bytes that are written last, because only then is the file what it says.
    fn head_bytes(&self) -> u64;
    /// The file's length.
    fn bytes(&self) -> u64;
    /// The digest of the whole file, where it is known before.
    fn sha256(&self) -> Option<BundleDigest>;
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Reading our own copy.
    Source(SealerError),
    /// Writing to the medium.
    Target(io::Error),
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// Its SHA-256, as it was read back.
    pub(super) sha256: BundleDigest,
    /// How many bytes of it were there already.
    pub(super) kept_bytes: u64,
}

/// Puts one file onto the medium, or finds it there. `progress` is told bytes, of which there are
/// about twice the file's length.
pub(super) fn place(
    dir: &Path,
    name: &str,
    content: &dyn Content,
    with_sidecar: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<Placed, MediumError> {
    let to = dir.join(name);
    if let Some(sha256) = found(&to, content, progress)? {
        if with_sidecar && !sidecar_fits(&to, &sha256) {
            write_sidecar(&to, &sha256).map_err(MediumError::of(&to))?;
        }
        return Ok(Placed { sha256, kept_bytes: content.bytes() });
    }
    let partial = durable::partial_path(&to);
    let placed = write_partial(&partial, content, progress).and_then(|placed| {
        if with_sidecar {
            write_sidecar(&to, &placed.sha256).map_err(MediumError::of(&to))?;
        }
        durable::rename(&partial, &to).map_err(MediumError::of(&to))?;
        Ok(placed)
    });
    if let Err(MediumError::Full { .. } | MediumError::ReadBack { .. } | MediumError::Outbox(_)) =
        &placed
    {
        // Of no use to a later run; after other errors it is continued.
        let _ = fs::remove_file(&partial);
    }
    placed
}

/// The digest of the file that stands under the final name, if it is what should stand there.
fn found(
    to: &Path,
    content: &dyn Content,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<BundleDigest>, MediumError> {
    let failed = MediumError::of(to);
    let there = match to.symlink_metadata() {
        Ok(meta) => meta,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(failed(err)),
    };
    if !there.is_file() || there.len() != content.bytes() {
        return Ok(None);
    }
    let file = open_regular(to).map_err(&failed)?;
    drop_caches(&file).map_err(&failed)?;
    if let Some(sha256) = content.sha256() {
        let read = read_back(&file, &mut |bytes| progress(2 * bytes)).map_err(&failed)?;
        return Ok((read.whole == sha256).then_some(sha256));
    }
    // A part's digest is known only after it was made: so make it again, and compare.
    let mut compared = Compared { file: &file, at: content.head_bytes(), progress };
    match content.write(&mut compared) {
        Ok(head) => {
            let mut there = vec![0; head.len()];
            let same = file.read_exact_at(&mut there, 0).is_ok() && there == head;
            let whole = read_back(&file, &mut |_| {}).map_err(&failed)?.whole;
            Ok(same.then_some(whole))
        }
        Err(WriteError::Target(err)) if err.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(WriteError::Target(err)) => Err(failed(err)),
        Err(WriteError::Source(err)) => Err(err.into()),
    }
}

fn write_partial(
    partial: &Path,
    content: &dyn Content,
    progress: &mut dyn FnMut(u64),
) -> Result<Placed, MediumError> {
    let failed = MediumError::of(partial);
    let mut file = durable::create_or_continue(partial, 0o644).map_err(&failed)?;
    if file.metadata().map_err(&failed)?.len() > 0 {
        // Nothing that a killed run left in memory is taken for what is on the medium.
        file.sync_all().and_then(|()| drop_caches(&file)).map_err(&failed)?;
    }
    let head_bytes = content.head_bytes();
    let mut continued = Continued {
        file: &mut file,
        at: head_bytes,
        kept_bytes: 0,
        comparing: true,
        unsynced_bytes: 0,
        hash: Sha256::new(),
        progress: &mut *progress,
    };
    let head = content.write(&mut continued).map_err(|err| match err {
        WriteError::Source(err) => err.into(),
        WriteError::Target(err) => failed(err),
    })?;
    let (end, kept_bytes, written) = (continued.at, continued.kept_bytes, continued.hash);
    let written: [u8; 32] = written.finalize().into();
    // Only where something longer stood there: not every driver of a medium can shorten a file.
    let length = file.metadata().map_err(&failed)?.len();
    let cut = if length > end { file.set_len(end) } else { Ok(()) };
    let finished = cut
        .and_then(|()| file.write_all_at(&head, 0))
        .and_then(|()| file.sync_all())
        .and_then(|()| drop_caches(&file));
    finished.map_err(&failed)?;
    drop(file);
    // From the medium and not from memory, by whoever opens it next.
    let file = open_regular(partial).map_err(&failed)?;
    let mut start = vec![0; head.len()];
    file.read_exact_at(&mut start, 0).map_err(&failed)?;
    let read = read_back_from(&file, head_bytes, progress).map_err(&failed)?;
    let expected = content.sha256().is_none_or(|sha256| sha256 == read.whole);
    if start != head || read.behind_head.as_bytes() != &written || !expected {
        return Err(MediumError::ReadBack { path: partial.to_owned() });
    }
    Ok(Placed { sha256: read.whole, kept_bytes })
}

/// Compares with a file what is written to it.
struct Compared<'a> {
    file: &'a File,
    at: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Write for Compared<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut there = vec![0; bytes.len()];
        self.file.read_exact_at(&mut there, self.at)?;
        if there != bytes {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.at += bytes.len() as u64;
        (self.progress)(2 * bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes from where a file begins to differ from what is written to it.
struct Continued<'a> {
    file: &'a mut File,
    at: u64,
    kept_bytes: u64,
    comparing: bool,
    unsynced_bytes: u64,
    hash: Sha256,
    progress: &'a mut dyn FnMut(u64),
}

impl Continued<'_> {
    fn is_there(&self, bytes: &[u8]) -> bool {
        let mut there = vec![0; bytes.len()];
        self.file.read_exact_at(&mut there, self.at).is_ok() && there == bytes
    }
}

impl Write for Continued<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.comparing = self.comparing && self.is_there(bytes);
        if self.comparing {
            self.kept_bytes += bytes.len() as u64;
        } else {
            self.file.seek(SeekFrom::Start(self.at))?;
            self.file.write_all(bytes)?;
            self.unsynced_bytes += bytes.len() as u64;
        }
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        (self.progress)(bytes.len() as u64);
        if self.unsynced_bytes >= SYNC_EVERY_BYTES {
            // A slow stick would else be told of gigabytes at the end, and progress would be a lie.
            self.file.sync_data()?;
            self.unsynced_bytes = 0;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a file holds.
struct ReadBack {
    whole: BundleDigest,
    behind_head: BundleDigest,
}

fn read_back(file: &File, progress: &mut dyn FnMut(u64)) -> io::Result<ReadBack> {
    read_back_from(file, 0, progress)
}

fn read_back_from(
    mut file: &File,
    head_bytes: u64,
    progress: &mut dyn FnMut(u64),
) -> io::Result<ReadBack> {
    let (mut whole, mut behind) = (Sha256::new(), Sha256::new());
    let mut head = vec![0; head_bytes as usize];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut head)?;
    whole.update(&head);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            let digest = |hash: Sha256| BundleDigest::from_bytes(hash.finalize().into());
            return Ok(ReadBack { whole: digest(whole), behind_head: digest(behind) });
        }
        whole.update(&buffer[..got]);
        behind.update(&buffer[..got]);
        progress(got as u64);
    }
}

fn drop_caches(file: &File) -> io::Result<()> {
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

/// Whether the sidecar says this already: on a medium, every write counts.
fn sidecar_fits(to: &Path, sha256: &BundleDigest) -> bool {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    fs::read(sidecar_path(to)).is_ok_and(|text| text == format!("{sha256}  {name}\n").as_bytes())
}

/// A bundle's file, as it lies in the outbox.
pub(super) struct Whole<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: u64,
    pub(super) sha256: BundleDigest,
}

impl Content for Whole<'_> {
    fn write(&self, out: &mut dyn Write) -> Result<Vec<u8>, WriteError> {
        let failed = |err| WriteError::Source(SealerError::io(self.path)(err));
        let mut source = open_regular(self.path).map_err(failed)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let got = source.read(&mut buffer).map_err(failed)?;
            if got == 0 {
                break;
            }
            hash.update(&buffer[..got]);
            out.write_all(&buffer[..got]).map_err(WriteError::Target)?;
        }
        if BundleDigest::from_bytes(hash.finalize().into()) == self.sha256 {
            Ok(Vec::new())
        } else {
            Err(WriteError::Source(SealerError::Damaged { path: self.path.to_owned() }))
        }
    }

    fn head_bytes(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn sha256(&self) -> Option<BundleDigest> {
        Some(self.sha256)
    }
}

/// Whether a half file of an earlier run stands there.
pub(super) fn is_begun(dir: &Path, name: &str) -> bool {
    present(&durable::partial_path(&dir.join(name))).unwrap_or(false)
}

const COPY_BYTES: usize = 256 * 1024;
/// How much is written before it must be on the medium.
const SYNC_EVERY_BYTES: u64 = 32 << 20;
