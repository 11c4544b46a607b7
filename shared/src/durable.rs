//! Files that are complete and synced, or absent. The only place that renames.
//!
//! A rename without a sync of the file leaves an empty file after a power cut, and without a sync
//! of the folder it may leave none: every function here does both.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The suffix of a file that is still being written. Whatever carries it may be deleted at start.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// The name under which `path` is written before it is complete.
pub fn partial_path(path: &Path) -> PathBuf {
    let mut name: OsString = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
    name.push(PARTIAL_SUFFIX);
    path.with_file_name(name)
}

/// Makes the entries of a folder durable, where its file system knows how to: network shares and
/// FUSE may not.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        Err(err) if is_unsupported(&err) => Ok(()),
        result => result,
    }
}

/// Renames within one file system and makes the new name durable. The file must be synced already.
#[expect(clippy::disallowed_methods, reason = "the one place that renames")]
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(parent(to))?;
    if parent(from) != parent(to) {
        sync_dir(parent(from))?;
    }
    Ok(())
}

/// Removes a file, if it is there, and makes that durable.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err),
    }
}

/// Writes a whole file with the given mode: temporary name, sync, rename, sync of the folder.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let partial = partial_path(path);
    let mut file = create(&partial, mode)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    rename(&partial, path)
}

/// Writes a whole file that need not outlive a power cut (a status page, say), still by rename.
#[expect(clippy::disallowed_methods, reason = "the one place that renames")]
pub fn write_volatile(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let partial = partial_path(path);
    create(&partial, mode)?.write_all(bytes)?;
    fs::rename(&partial, path)
}

/// Creates a file for writing, empty, with this mode, never through a symbolic link.
///
/// A file that is nobody else's business (no bit for group or others) has exactly this mode or is
/// not made; another one may have what its file system can express (FAT knows no modes). What root
/// makes in a folder of another user belongs to that user: an operator's command must leave nothing
/// behind that the agent can't use.
pub fn create(path: &Path, mode: u32) -> io::Result<File> {
    create_by(OpenOptions::new().create(true).truncate(true), path, mode)
}

/// Does what [`create`] does, and fails where something has this name already.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    create_by(OpenOptions::new().create_new(true), path, mode)
}

/// Does what [`create`] does, and leaves what a file of this name holds already.
pub fn create_or_continue(path: &Path, mode: u32) -> io::Result<File> {
    create_by(OpenOptions::new().create(true).truncate(false), path, mode)
}

fn create_by(options: &mut OpenOptions, path: &Path, mode: u32) -> io::Result<File> {
    let file = options
        .write(true)
        .read(true)
        .mode(mode)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o7777 != mode {
        let set = file.set_permissions(fs::Permissions::from_mode(mode));
        if mode.trailing_zeros() >= 6 {
            set?;
        }
    }
    if let Some((uid, gid)) = owner_to_be(path) {
        // Where this fails the file is as usable as it was.
        let _ = std::os::unix::fs::fchown(&file, Some(uid), Some(gid));
    }
    Ok(file)
}

/// Whose a file made by root should be: the folder's owner, where that is another user.
fn owner_to_be(path: &Path) -> Option<(u32, u32)> {
    let folder = fs::metadata(parent(path)).ok()?;
    let give = nix::unistd::geteuid().is_root() && folder.uid() != 0;
    give.then(|| (folder.uid(), folder.gid()))
}

fn is_unsupported(err: &io::Error) -> bool {
    use nix::errno::Errno;
    err.raw_os_error().is_some_and(|code| {
        matches!(Errno::from_raw(code), Errno::EINVAL | Errno::ENOTSUP | Errno::ENOSYS)
    })
}

/// Creates a folder and its parents, and makes it durable. A folder made here has mode 0700.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = parent(dir);
    if !above.is_dir() {
        create_dir(above)?;
    }
    match fs::create_dir(dir) {
        Ok(()) => {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
            if let Some((uid, gid)) = owner_to_be(dir) {
                let _ = std::os::unix::fs::lchown(dir, Some(uid), Some(gid));
            }
            sync_dir(above)
        }
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(err) => Err(err),
    }
}

/// Deletes what an interrupted write left in a folder; returns the names it deleted.
pub fn remove_partials(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let partial = path.as_os_str().as_encoded_bytes().ends_with(PARTIAL_SUFFIX.as_bytes());
        if partial && !path.is_dir() {
            fs::remove_file(&path)?;
            removed.push(path);
        }
    }
    if !removed.is_empty() {
        sync_dir(dir)?;
    }
    Ok(removed)
}

/// Where the last line of a file ends: what stands behind it is a write that was cut short.
pub fn end_of_last_line(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let mut end = file.metadata()?.len();
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..usize::try_from(end - start).unwrap_or(usize::MAX)];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Reads a file to its end, if it is there, for the sake of the error where the disk can't.
///
/// `SQLite` calls a page that could not be read a damaged one; this tells the two apart.
pub fn read_through(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(mut file) => io::copy(&mut file, &mut io::sink()).map(|_| ()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err),
    }
}

/// The free bytes an unprivileged process may still use on the file system of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    space(path).map(|(free, _)| free)
}

/// The same, and how many bytes the file system has in all.
pub fn space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok((bytes(stat.blocks_available()), bytes(stat.blocks())))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_with_its_mode_and_leaves_no_partial() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.txt");
        write(&path, b"one", 0o640)?;
        write(&path, b"two", 0o600)?;
        assert_eq!(fs::read(&path)?, b"two");
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path())?.count(), 1);
        Ok(())
    }

    #[test]
    fn partials_are_removed_and_nothing_else() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("a.tar.partial"), b"x")?;
        fs::write(dir.path().join("b.tar"), b"x")?;
        assert_eq!(remove_partials(dir.path())?.len(), 1);
        assert!(dir.path().join("b.tar").exists());
        Ok(())
    }

    #[test]
    fn a_write_never_goes_through_a_symbolic_link() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let target = dir.path().join("target");
        fs::write(&target, b"precious")?;
        std::os::unix::fs::symlink(&target, dir.path().join("a.partial"))?;
        assert!(write(&dir.path().join("a"), b"x", 0o600).is_err());
        assert_eq!(fs::read(&target)?, b"precious");
        Ok(())
    }
}
