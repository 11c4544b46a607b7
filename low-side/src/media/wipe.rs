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
    let mut remove = |path: PathBuf, overwrite: bool| {
        let failed = |err| (path.clone(), err);
        let there = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(failed(err)),
        };
        if !there.is_file() {
            return Ok(());
        }
        if really {
            if overwrite {
                zero(&path, there.len()).map_err(failed)?;
            }
            fs::remove_file(&path).map_err(failed)?;
        }
        wiped.bytes += there.len();
        wiped.files.push(path);
        Ok(())
    };
    // The names were found in the folder when the record was compared with it.
    for name in &checked.intact {
        remove(checked.folder.join(name), true)?;
        remove(checked.folder.join(format!("{name}.sha256")), false)?;
    }
    let failed = |err| (checked.folder.clone(), err);
    if really {
        durable::sync_dir(&checked.folder).map_err(failed)?;
    }
    let record = &checked.record.record;
    let entries = fs::read_dir(&checked.folder).map_err(failed)?.flatten();
    let of_record = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| is_record_file(name, record))
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(of_record).collect();
    // The JSON itself goes last.
    paths.sort_by_key(|path| path.extension().is_some_and(|extension| extension == "json"));
    for path in paths {
        remove(path, false)?;
    }
    if really {
        durable::sync_dir(&checked.folder).map_err(failed)?;
    }
    Ok(wiped)
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
