//! What waits in the folder.

use std::io;
use std::path::Path;

/// Files in a folder, whoever put them there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) files: usize,
    pub(super) bytes: u64,
}

impl Room {
    /// Looks at the folder, but at no more than `files_max` files; at their length only with `weigh`,
    /// since that costs a system call each.
    pub(super) fn of(dir: &Path, files_max: usize, weigh: bool) -> io::Result<Self> {
        let mut room = Self::default();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if room.files == files_max {
                break;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                room.files += 1;
                if weigh {
                    // Gone again: it was taken.
                    room.bytes += entry.metadata().map_or(0, |found| found.len());
                }
            }
        }
        Ok(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_and_nothing_else() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        for name in ["a", "b", "c"] {
            std::fs::write(dir.path().join(name), name.repeat(10))?;
        }
        std::fs::create_dir(dir.path().join("d"))?;
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("e"))?;
        assert_eq!(Room::of(dir.path(), 3, true)?, Room { files: 3, bytes: 30 });
        assert_eq!(Room::of(dir.path(), 2, false)?, Room { files: 2, bytes: 0 });
        Ok(())
    }
}
