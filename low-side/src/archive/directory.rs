//! A folder: a second copy on another disk or server, and honestly no lock.
//!
//! A file is written beside its place, synced, renamed without replacing, made read-only and read back.
//! Where `chattr` is at hand and may, it gets the attribute that keeps it from being changed at all. Setting
//! that attribute ourselves would need an unsafe system call, which this program forbids itself. Root can
//! lift it: for evidence against those who administer this machine, take a store of objects.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::durable;

use super::listing::{Listed, Marker, Page};
use super::proof::Proof;
use super::{Archive, ArchiveError, Held, Lock, Made, Object, Take};

/// A folder.
pub(super) struct Directory {
    dir: PathBuf,
}

impl Directory {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(key)
    }

    fn copy(&self, object: &Object, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.dir);
        make_folders(&self.dir, folder)?;
        let partial = durable::partial_path(path);
        // What a killed run left is begun anew.
        let mut file = durable::create(&partial, 0o600)?;
        let mut at = 0;
        let mut piece = vec![0; PIECE_BYTES];
        while at < object.bytes {
            let count = (object.bytes - at).min(piece.len() as u64) as usize;
            object.file.read_exact_at(&mut piece[..count], at)?;
            file.write_all(&piece[..count])?;
            at += count as u64;
        }
        file.set_permissions(Permissions::from_mode(0o444))?;
        file.sync_all()?;
        place(&partial, path)?;
        durable::sync_dir(folder)
    }
}

impl Archive for Directory {
    fn place(&self, key: &str) -> String {
        self.path(key).display().to_string()
    }

    fn locks(&self) -> bool {
        false
    }

    fn check(&mut self) -> Result<(), ArchiveError> {
        // A folder that is not there may be a disk that is not mounted: it is not made.
        let found = fs::metadata(&self.dir).map_err(ArchiveError::file(&self.dir))?;
        if found.is_dir() {
            return Ok(());
        }
        Err(ArchiveError::file(&self.dir)(io::ErrorKind::NotADirectory.into()))
    }

    fn make(&mut self, object: &Object) -> Result<Made, ArchiveError> {
        let path = self.path(&object.key);
        if path.symlink_metadata().is_ok() {
            return Ok(Made::There);
        }
        match self.copy(object, &path) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => return Ok(Made::There),
            Err(err) => return Err(ArchiveError::file(&path)(err)),
        }
        // Where it is missing or may not, look() says so.
        let _ = quietly("chattr").arg("+i").arg("--").arg(&path).status();
        Ok(Made::New(String::new()))
    }

    fn look(&mut self, key: &str, _: Option<&str>) -> Result<Option<Held>, ArchiveError> {
        let path = self.path(key);
        let Some(file) = open(&path).map_err(ArchiveError::file(&path))? else {
            return Ok(None);
        };
        let (bytes, sha256) =
            BundleDigest::of_reader(file, |_| {}).map_err(ArchiveError::file(&path))?;
        let lock = if is_immutable(&path) {
            "a folder is no lock: the file has the attribute immutable, which root can lift"
        } else {
            "a folder is no lock: root and the agent's user can remove the file"
        };
        Ok(Some(Held {
            version: String::new(),
            bytes,
            sha256: Some(sha256),
            lock: Lock::Weak(lock.to_owned()),
        }))
    }

    fn extend(&mut self, _: &str, _: &str, _: Nanos) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn read(
        &mut self,
        key: &str,
        _: &str,
        bytes_max: u64,
        take: &mut Take<'_>,
    ) -> Result<(), ArchiveError> {
        let path = self.path(key);
        let mut read = || -> io::Result<()> {
            let file = open(&path)?.ok_or(io::ErrorKind::NotFound)?;
            let mut file = file.take(bytes_max);
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                match file.read(&mut piece)? {
                    0 => return Ok(()),
                    count => take(&piece[..count])?,
                }
            }
        };
        read().map_err(ArchiveError::file(&path))
    }

    /// A part is the folder of one chain, whose names are in memory: some 200 bytes each.
    fn list(&mut self, after: Option<&Marker>) -> Result<Page, ArchiveError> {
        let wrong = ArchiveError::file(&self.dir);
        let mut chains = Vec::new();
        let mut look = || -> io::Result<Page> {
            for origin in names(&self.dir, true)? {
                for epoch in names(&self.dir.join(&origin), true)? {
                    let folder = format!("{origin}/{epoch}");
                    for lane in names(&self.dir.join(&folder), true)? {
                        chains.push(format!("{folder}/{lane}"));
                    }
                }
            }
            chains.sort_unstable();
            let at = after.map_or(0, |after| chains.partition_point(|chain| *chain <= after.key));
            let Some(chain) = chains.get(at) else { return Ok(Page::default()) };
            let folder = self.dir.join(chain);
            let mut objects = Vec::new();
            for name in names(&folder, false)? {
                let found = fs::symlink_metadata(folder.join(&name))?;
                let since = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                objects.push(Listed {
                    key: format!("{chain}/{name}"),
                    version: String::new(),
                    bytes: found.len(),
                    made: Nanos(0).plus(since),
                    current: true,
                });
            }
            let next = Some(Marker { key: chain.clone(), version: String::new() });
            Ok(Page { objects, next })
        };
        look().map_err(wrong)
    }

    fn prove(&mut self, _: &Object, _: &mut Proof) -> Result<(), ArchiveError> {
        // There is nothing to prove.
        Ok(())
    }
}

/// The names of the folders, or of the files, in a folder, in order. What is no text is none of ours.
fn names(dir: &Path, folders: bool) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if (if folders { kind.is_dir() } else { kind.is_file() })
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push(name);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Gives a file its name, unless something has it.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // The file system knows no such rename (NFS, FUSE). Whatever writes here is this agent alone.
        Err(nix::errno::Errno::EINVAL) if to.symlink_metadata().is_err() => {
            durable::rename(from, to)
        }
        other => Ok(other?),
    }
}

/// Makes the folders from `base` down to `folder`; each is in its parent for good.
fn make_folders(base: &Path, folder: &Path) -> io::Result<()> {
    let mut path = base.to_owned();
    for part in folder.strip_prefix(base).into_iter().flatten() {
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => durable::sync_dir(path.parent().unwrap_or(base))?,
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("is no regular file")),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Whether the file has the attribute immutable, as `lsattr` says.
fn is_immutable(path: &Path) -> bool {
    let said = quietly("lsattr").stdout(Stdio::piped()).arg("-d").arg("--").arg(path).output();
    said.is_ok_and(|said| {
        let flags = said.stdout.split(|byte| *byte == b' ').next();
        said.status.success() && flags.is_some_and(|flags| flags.contains(&b'i'))
    })
}

fn quietly(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// So much of a file is in memory.
const PIECE_BYTES: usize = 256 << 10;
