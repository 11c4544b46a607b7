//! Wiping a medium after everything on it was taken in: the files that a record names, and no others.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use shared::durable;
use shared::transfer::is_record_file;

use super::Checked;

/// What was wiped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wiped {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Their length together.
    pub bytes: u64,
}

/// Overwrites and removes the files that a record names and that are as it says, their sidecars, and
/// the record itself, last: interrupted, it is there for the next try. With `really` unset, only says
/// what it would do.
///
/// Overwriting once is what can be done from outside: flash memory may keep old copies that nobody
/// can address. What was on it is encrypted.
pub fn wipe(checked: &Checked, really: bool) -> Result<Wiped, (PathBuf, io::Error)> {
    let mut wiped = Wiped::default();
    let failed = |err| (checked.folder.clone(), err);
    let (mut contents, mut records) = (Vec::new(), Vec::new());
    // By names that are there; what a record says is only compared with them.
    for entry in fs::read_dir(&checked.folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if checked.intact.contains(name) {
            contents.push((path, true));
        } else if checked.record.files().any(|file| is_beside(name, &file.name)) {
            contents.push((path, false));
        } else if is_record_file(name, &checked.record.record) {
            records.push((path, false));
        }
    }
    contents.sort();
    // The JSON itself goes last.
    records.sort_by_key(|(path, _)| path.extension().is_some_and(|extension| extension == "json"));
    for group in [contents, records] {
        for (path, overwrite) in group {
            let bytes = remove(&path, overwrite, really).map_err(|err| (path.clone(), err))?;
            if let Some(bytes) = bytes {
                wiped.bytes += bytes;
                wiped.files.push(path);
            }
        }
        if really {
            durable::sync_dir(&checked.folder).map_err(failed)?;
        }
    }
    Ok(wiped)
}

/// The sidecar of a file, or what an interrupted run left of it.
fn is_beside(name: &str, of: &str) -> bool {
    let rest = name.strip_prefix(of).unwrap_or_default();
    rest == ".sha256" || rest == durable::PARTIAL_SUFFIX
}

/// Removes a regular file and gives its length.
fn remove(path: &Path, overwrite: bool, really: bool) -> io::Result<Option<u64>> {
    let there = fs::symlink_metadata(path)?;
    if !there.is_file() {
        return Ok(None);
    }
    if really && overwrite {
        // Half destroyed, it must not look like a file that was damaged on its way.
        let partial = durable::partial_path(path);
        durable::rename(path, &partial)?;
        zero(&partial, there.len())?;
        fs::remove_file(&partial)?;
    } else if really {
        fs::remove_file(path)?;
    }
    Ok(Some(there.len()))
}

fn zero(path: &Path, bytes: u64) -> io::Result<()> {
    let flags = OFlag::O_NOFOLLOW.bits();
    let mut file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    let zeros = vec![0; ZERO_BYTES];
    let mut left = bytes;
    while left > 0 {
        let chunk = &zeros[..left.min(ZERO_BYTES as u64) as usize];
        file.write_all(chunk)?;
        left -= chunk.len() as u64;
    }
    file.sync_all()
}

const ZERO_BYTES: usize = 256 * 1024;
