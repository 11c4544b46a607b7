//! Writing a backup: one pass, under a temporary name until it is whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{
    BLOCK, BackupError, FACTS_NAME, Facts, MEMBERS_MAX, SUMS_NAME, is_member_name, member_header,
    padding, side_name,
};
use crate::bundle::BundleDigest;
use crate::clock::Nanos;
use crate::durable;
use crate::keys::{Recipients, Side};

/// Text and databases shrink well at this level; bundles not at any.
const ZSTD_LEVEL: i32 = 3;
/// Read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Folders below the one that is collected.
const DEPTH_MAX: usize = 3;

/// A file that goes into a backup.
#[derive(Clone, Debug)]
pub struct Source {
    /// The member's name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// How much of it; all, where this is left out.
    pub bytes: Option<u64>,
    /// Its mode when it is restored.
    pub mode: u32,
    /// It may be gone by the time it is read: it is left out then.
    pub may_vanish: bool,
}

/// A backup that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: BundleDigest,
    /// Members, the first and the last among them.
    pub members: u64,
}

/// Collects the regular files of a folder and of those in it, named `PREFIX/...`. What is still being
/// written, links and everything that is no file are passed over.
pub fn collect(
    root: &Path,
    prefix: &str,
    mode: u32,
    keep: &dyn Fn(&str) -> bool,
) -> Result<Vec<Source>, BackupError> {
    let mut found = Vec::new();
    walk(root, prefix, 0, &mut |name, path| {
        if keep(&name) {
            found.push(Source { name, path, bytes: None, mode, may_vanish: true });
        }
    })?;
    Ok(found)
}

fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    each: &mut dyn FnMut(String, PathBuf),
) -> Result<(), BackupError> {
    let entries = match fs::read_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(BackupError::io(dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(BackupError::io(dir))?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else { continue };
        let kind = match entry.file_type() {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            kind => kind.map_err(BackupError::io(&path))?,
        };
        let name = format!("{prefix}/{name}");
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(&path, &name, depth + 1, each)?;
        } else if kind.is_file()
            && !name.ends_with(durable::PARTIAL_SUFFIX)
            && is_member_name(&name)
        {
            each(name, path);
        }
    }
    Ok(())
}

/// The name of a backup in a folder: `penstock-SIDE-NAME-20261125T081500Z.tar.zst`.
pub fn new_file_name(facts: &Facts, encrypted: bool) -> String {
    let stamp: String = facts.made.chars().take(19).filter(|c| !"-:".contains(*c)).collect();
    let end = if encrypted { ".age" } else { "" };
    format!("penstock-{}-{}-{stamp}Z.tar.zst{end}", facts.side, facts.name)
}

/// The newest backup of a side in a folder, by the time in its name, and how many there are besides.
///
/// # Errors
/// The folder can't be read, holds none, or holds those of several installations.
pub fn newest(dir: &Path, side: Side) -> Result<(PathBuf, usize), BackupError> {
    let begins = format!("penstock-{}-", side_name(side));
    let mut found: Vec<(String, String, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(BackupError::io(dir))? {
        let path = entry.map_err(BackupError::io(dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = name.strip_suffix(".age").unwrap_or(name).strip_suffix("Z.tar.zst");
        let parts = stem.and_then(|stem| stem.strip_prefix(&begins)?.rsplit_once('-'));
        if let Some((whose, stamp)) = parts
            && stamp.len() == STAMP_DIGITS
        {
            found.push((stamp.to_owned(), whose.to_owned(), path));
        }
    }
    found.sort();
    let Some((_, whose, path)) = found.pop() else {
        return Err(BackupError::NoneThere { folder: dir.to_owned(), begins });
    };
    if let Some((_, other, _)) = found.iter().find(|(_, other, _)| *other != whose) {
        let found = format!("{whose} and {other}, in {}", dir.display());
        return Err(BackupError::Several { found });
    }
    Ok((path, found.len()))
}

/// The digits of `20261125T081500`.
const STAMP_DIGITS: usize = 15;

/// Writes a backup: under a temporary name, synced, then under its own. One that stands there is never
/// replaced. `progress` is told how many bytes of the sources were read.
pub fn write(
    path: &Path,
    facts: &Facts,
    mut sources: Vec<Source>,
    recipients: Option<&Recipients>,
    progress: &mut dyn FnMut(u64),
) -> Result<Written, BackupError> {
    if path.symlink_metadata().is_ok() {
        let exists = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(BackupError::Io { path: path.to_owned(), source: exists });
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    let partial = durable::partial_path(path);
    let written = write_partial(&partial, facts, &sources, recipients, progress);
    let (bytes, sha256, members) = match written {
        Ok(written) => written,
        Err(err) => {
            // It is of no use to anybody, and may fill the disk.
            let _ = durable::remove(&partial);
            return Err(err);
        }
    };
    durable::rename(&partial, path).map_err(BackupError::io(path))?;
    Ok(Written { path: path.to_owned(), bytes, sha256, members })
}

fn write_partial(
    partial: &Path,
    facts: &Facts,
    sources: &[Source],
    recipients: Option<&Recipients>,
    progress: &mut dyn FnMut(u64),
) -> Result<(u64, BundleDigest, u64), BackupError> {
    let failed = |source| BackupError::Io { path: partial.to_owned(), source };
    let file = durable::create(partial, 0o600).map_err(failed)?;
    let mut out = Hashed { inner: BufWriter::new(file), hash: Sha256::new(), bytes: 0 };
    let members = match recipients {
        Some(recipients) => {
            let encryptor = age::Encryptor::with_recipients(recipients.as_age().into_iter())
                .map_err(|err| BackupError::Recipients(err.to_string()))?;
            let mut inner = encryptor.wrap_output(&mut out).map_err(failed)?;
            let members = write_tar(&mut inner, partial, facts, sources, progress)?;
            inner.finish().map_err(failed)?;
            members
        }
        None => write_tar(&mut out, partial, facts, sources, progress)?,
    };
    let Hashed { inner, hash, bytes } = out;
    let file = inner.into_inner().map_err(|err| failed(err.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok((bytes, BundleDigest::from_bytes(hash.finalize().into()), members))
}

fn write_tar(
    out: &mut dyn Write,
    partial: &Path,
    facts: &Facts,
    sources: &[Source],
    progress: &mut dyn FnMut(u64),
) -> Result<u64, BackupError> {
    let failed = |source| BackupError::Io { path: partial.to_owned(), source };
    let mtime = facts.made.parse::<Nanos>().map_or(0, |made| made.as_secs().max(0).cast_unsigned());
    let mut zstd = zstd::Encoder::new(out, ZSTD_LEVEL).map_err(failed)?;
    zstd.include_checksum(true).map_err(failed)?;
    let mut tar = Tar { out: zstd, partial, mtime, sums: String::new(), members: 0 };
    let text = serde_json::to_string_pretty(facts).map_err(|err| failed(err.into()))? + "\n";
    tar.bytes(FACTS_NAME, text.as_bytes())?;
    let mut done = 0;
    for source in sources {
        tar.file(source, &mut done, progress)?;
    }
    let sums = std::mem::take(&mut tar.sums);
    tar.bytes(SUMS_NAME, sums.as_bytes())?;
    tar.out.write_all(&[0; 2 * BLOCK]).map_err(failed)?;
    tar.out.finish().map_err(failed)?;
    Ok(tar.members)
}

struct Tar<'a, W: Write> {
    out: zstd::Encoder<'static, W>,
    partial: &'a Path,
    mtime: u64,
    sums: String,
    members: u64,
}

impl<W: Write> Tar<'_, W> {
    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        self.begin(name, bytes.len() as u64, 0o600)?;
        self.put(bytes)?;
        self.end(name, bytes.len() as u64, Sha256::digest(bytes).into())
    }

    /// What grows meanwhile is taken as long as it was; what shrinks is an error.
    fn file(
        &mut self,
        source: &Source,
        done: &mut u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), BackupError> {
        let failed = |err| BackupError::Io { path: source.path.clone(), source: err };
        let mut file = match open(&source.path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound && source.may_vanish => return Ok(()),
            file => file.map_err(failed)?,
        };
        let length = file.metadata().map_err(failed)?.len();
        let bytes = source.bytes.unwrap_or(length);
        self.begin(&source.name, bytes, source.mode)?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut left = bytes;
        while left > 0 {
            let most = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = file.read(&mut chunk[..most]).map_err(failed)?;
            if count == 0 {
                return Err(failed(io::Error::other("it became shorter while it was read")));
            }
            hash.update(&chunk[..count]);
            self.put(&chunk[..count])?;
            left -= count as u64;
            *done += count as u64;
            progress(*done);
        }
        self.end(&source.name, bytes, hash.finalize().into())
    }

    fn begin(&mut self, name: &str, bytes: u64, mode: u32) -> Result<(), BackupError> {
        self.members += 1;
        let header = member_header(name, bytes, mode, self.mtime);
        match header {
            Some(header) if self.members <= MEMBERS_MAX => self.put(&header),
            _ => {
                let problem = format!("too many files, or a name that is too long: {name}");
                Err(BackupError::Io {
                    path: self.partial.to_owned(),
                    source: io::Error::other(problem),
                })
            }
        }
    }

    fn end(&mut self, name: &str, bytes: u64, sha256: [u8; 32]) -> Result<(), BackupError> {
        self.put(&[0; BLOCK][..padding(bytes)])?;
        self.sums += &sums_line(name, sha256);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.out.write_all(bytes).map_err(BackupError::io(self.partial))
    }
}

/// The line of a member in the last one.
pub(super) fn sums_line(name: &str, sha256: [u8; 32]) -> String {
    format!("{}  {name}\n", BundleDigest::from_bytes(sha256))
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("is no regular file")) }
}

struct Hashed<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The files that a configuration names under keys such as `ca-file` or `certificate`, and that lie
/// outside of these folders: they are not in the backup, and whoever makes one is told.
pub fn named_files(config: &str, inside: &[&Path]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(table) = config.parse::<toml::Table>() {
        let table = toml::Value::Table(table);
        files_in(&table, "", &mut |path| {
            if !inside.iter().any(|dir| path.starts_with(dir)) {
                found.push(path);
            }
        });
    }
    found.sort();
    found.dedup();
    found
}

fn files_in(value: &toml::Value, key: &str, each: &mut impl FnMut(PathBuf)) {
    match value {
        toml::Value::String(text) => {
            let names_file = key.ends_with("-file") || CREDENTIALS.contains(&key);
            if names_file && text.starts_with('/') {
                each(PathBuf::from(text));
            }
        }
        toml::Value::Array(values) => values.iter().for_each(|value| files_in(value, key, each)),
        toml::Value::Table(table) => {
            table.iter().for_each(|(key, value)| files_in(value, key, each));
        }
        _ => {}
    }
}

/// Keys that name a file and do not say so.
const CREDENTIALS: [&str; 4] = ["ca", "certificate", "client-ca", "key"];

/// Removes what interrupted backups of this installation left in a folder. Only one is made at a time.
pub fn remove_stale(dir: &Path, facts: &Facts) -> Result<(), BackupError> {
    let begin = format!("penstock-{}-{}-", facts.side, facts.name);
    for entry in fs::read_dir(dir).map_err(BackupError::io(dir))? {
        let entry = entry.map_err(BackupError::io(dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&begin) && name.ends_with(durable::PARTIAL_SUFFIX) {
            durable::remove(&entry.path()).map_err(BackupError::io(&entry.path()))?;
        }
    }
    Ok(())
}
