//! Where a restore puts things: first all of it aside, then, once the whole backup was found good, each
//! file in its place. What stands there already is never overwritten.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{BackupError, Content, Member, Source, collect};
use crate::durable;
use crate::keys::{ALLOWED_SIGNERS_FILE, LOW_SIGNERS_FILE, REVOKED_KEYS_FILE};

/// Says in a state folder that a restore into it has begun and not ended.
const RESTORING: &str = "restoring";
/// What must stay free while a backup is unpacked, in bytes.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// Read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// From here on nothing in this state folder is whole, until [`end_restore`].
pub fn begin_restore(state_dir: &Path) -> Result<(), BackupError> {
    let path = state_dir.join(RESTORING);
    let text = b"a restore has begun here and has not ended: give the same command once more\n";
    durable::write(&path, text, 0o644).map_err(BackupError::io(&path))
}

/// The restore is whole.
pub fn end_restore(state_dir: &Path) -> Result<(), BackupError> {
    let path = state_dir.join(RESTORING);
    durable::remove(&path).map_err(BackupError::io(&path))
}

/// Fails where a restore into this state folder was interrupted.
pub fn expect_no_restore(state_dir: &Path) -> Result<(), BackupError> {
    match state_dir.join(RESTORING).symlink_metadata() {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        // A file where the folder should be, or no right to look: said by whoever opens what is there.
        Err(_) => Ok(()),
        Ok(_) => Err(BackupError::Interrupted(state_dir.to_owned())),
    }
}

/// Whether a file of a key folder holds nothing secret. What is not known to be public is secret.
pub fn is_public_key_file(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or_default();
    let lists = [ALLOWED_SIGNERS_FILE, LOW_SIGNERS_FILE, REVOKED_KEYS_FILE, "name"];
    Path::new(last).extension().is_some_and(|end| end == "pub") || lists.contains(&last)
}

/// A folder of its own in a state folder, mode 0700, gone when it is dropped; what an interrupted run
/// left there is removed by the next one.
#[derive(Debug)]
pub struct Work {
    dir: PathBuf,
    names: Vec<Member>,
    _lock: File,
}

impl Work {
    /// Makes it; `verb` names it.
    pub fn begin(state_dir: &Path, verb: &str) -> Result<Self, BackupError> {
        durable::create_dir(state_dir).map_err(BackupError::io(state_dir))?;
        // The lock stands beside it, so that nobody removes what another one is at.
        let path = state_dir.join(format!("{verb}.lock"));
        let lock = durable::create_or_continue(&path, 0o600).map_err(BackupError::io(&path))?;
        if lock.try_lock().is_err() {
            let source = io::Error::other("another one is under way");
            return Err(BackupError::Io { path, source });
        }
        let dir = state_dir.join(format!("{verb}-work"));
        remove_all(&dir).map_err(BackupError::io(&dir))?;
        durable::create_dir(&dir).map_err(BackupError::io(&dir))?;
        Ok(Self { dir, names: Vec::new(), _lock: lock })
    }

    /// Where a member is, or a file of this name is to be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The members that were put here, in the order of their names.
    pub fn members(&self) -> &[Member] {
        &self.names
    }

    /// Puts a member here, synced.
    pub fn take(&mut self, member: &Member, content: &mut Content<'_>) -> Result<(), BackupError> {
        let path = self.path(&member.name);
        let failed = |source| BackupError::Io { path: path.clone(), source };
        let free = durable::free_bytes(&self.dir).map_err(failed)?;
        let need = member.bytes.saturating_add(FREE_BYTES_MIN);
        if free < need {
            return Err(BackupError::Room { path: self.dir.clone(), free, need });
        }
        if let Some(above) = path.parent() {
            durable::create_dir(above).map_err(failed)?;
        }
        let mut file = durable::create_new(&path, 0o600).map_err(failed)?;
        io::copy(content, &mut file).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        self.names.push(member.clone());
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(err) = remove_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %err, "a folder can't be removed");
        }
    }
}

fn remove_all(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// What became of a file that was to be put somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It stands there now.
    Added,
    /// Another one stood there, and does.
    Kept,
    /// The same one stood there.
    Same,
}

impl Placed {
    /// Puts a file where nothing stands: whole, synced, and of the user whose the folder is.
    pub fn put(from: &Path, to: &Path, mode: u32) -> Result<Self, BackupError> {
        if to.symlink_metadata().is_ok() {
            return Ok(if same(from, to)? { Self::Same } else { Self::Kept });
        }
        let failed = |source| BackupError::Io { path: to.to_owned(), source };
        if let Some(above) = to.parent() {
            durable::create_dir(above).map_err(failed)?;
        }
        let mut source = File::open(from).map_err(BackupError::io(from))?;
        let partial = durable::partial_path(to);
        let mut file = durable::create(&partial, mode).map_err(failed)?;
        io::copy(&mut source, &mut file).map_err(failed)?;
        file.flush().and_then(|()| file.sync_all()).map_err(failed)?;
        durable::rename(&partial, to).map_err(failed)?;
        Ok(Self::Added)
    }

    /// Puts a file that only ever grows: of two that begin alike the longer one stands there then.
    pub fn put_grown(from: &Path, to: &Path, mode: u32) -> Result<Self, BackupError> {
        let length = |path: &Path| fs::metadata(path).map(|meta| meta.len());
        let (Ok(new), Ok(old)) = (length(from), length(to)) else {
            return Self::put(from, to, mode);
        };
        if !begin_alike(from, to, new.min(old))? {
            return Ok(Self::Kept);
        }
        if old >= new {
            return Ok(Self::Same);
        }
        let beside = to.with_extension("restored");
        durable::remove(&beside).map_err(BackupError::io(&beside))?;
        Self::put(from, &beside, mode)?;
        durable::rename(&beside, to).map_err(BackupError::io(to))?;
        Ok(Self::Added)
    }
}

/// A file of a key folder, and where it belongs.
///
/// What is public stays as it stands: a revocation must not be undone by an older list. A secret key
/// makes room for the backup's.
#[derive(Debug)]
pub struct KeyFile {
    from: PathBuf,
    /// Where it belongs.
    pub to: PathBuf,
    mode: u32,
    secret: bool,
    differs: bool,
}

impl KeyFile {
    /// The key files among what was put aside.
    pub fn of(work: &Work, keys_dir: &Path) -> Result<Vec<Self>, BackupError> {
        let mut keys = Vec::new();
        for member in work.members() {
            let Some(name) = member.name.strip_prefix("keys/") else { continue };
            let (from, to) = (work.path(&member.name), keys_dir.join(name));
            let differs = to.symlink_metadata().is_ok() && !same(&from, &to)?;
            let secret = !is_public_key_file(name);
            keys.push(Self { from, to, mode: member.mode, secret, differs });
        }
        Ok(keys)
    }

    /// Whether another secret key stands where it belongs.
    pub fn is_in_the_way(&self) -> bool {
        self.secret && self.differs
    }

    /// Puts it where it belongs; a secret key that stands there goes into a folder `set-aside-SECONDS`,
    /// which is given.
    pub fn put(
        &self,
        keys_dir: &Path,
        seconds: i64,
    ) -> Result<(Placed, Option<PathBuf>), BackupError> {
        let mut moved = None;
        if self.is_in_the_way() {
            let aside = keys_dir.join(format!("{ASIDE_PREFIX}{seconds}"));
            durable::create_dir(&aside).map_err(BackupError::io(&aside))?;
            let to = aside.join(self.to.file_name().unwrap_or_default());
            durable::rename(&self.to, &to).map_err(BackupError::io(&to))?;
            moved = Some(aside);
        }
        Ok((Placed::put(&self.from, &self.to, self.mode)?, moved))
    }

    /// The files of a key folder that go into a backup.
    pub fn sources(keys_dir: &Path, public_only: bool) -> Result<Vec<Source>, BackupError> {
        let mut keys = collect(keys_dir, "keys", 0o600, &|name| {
            !name[5..].starts_with(ASIDE_PREFIX) && (!public_only || is_public_key_file(name))
        })?;
        for key in &mut keys {
            key.may_vanish = false;
            if is_public_key_file(&key.name) {
                key.mode = 0o644;
            }
        }
        Ok(keys)
    }
}

/// Begins the names of folders into which secret keys are moved.
const ASIDE_PREFIX: &str = "set-aside-";

fn same(one: &Path, other: &Path) -> Result<bool, BackupError> {
    let length =
        |path: &Path| fs::metadata(path).map(|meta| meta.len()).map_err(BackupError::io(path));
    let bytes = length(one)?;
    Ok(length(other)? == bytes && begin_alike(one, other, bytes)?)
}

fn begin_alike(one: &Path, other: &Path, bytes: u64) -> Result<bool, BackupError> {
    let open =
        |path: &Path| File::open(path).map(|file| file.take(bytes)).map_err(BackupError::io(path));
    let (mut one_file, mut other_file) = (open(one)?, open(other)?);
    let (mut a, mut b) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    loop {
        let count = fill(&mut one_file, &mut a).map_err(BackupError::io(one))?;
        let other_count = fill(&mut other_file, &mut b).map_err(BackupError::io(other))?;
        if a[..count] != b[..other_count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn fill(file: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read(&mut into[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
