//! The folders of the state directory, and names of files that others chose.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use shared::durable;

/// The folders of the state directory.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The state directory itself, with the ledger.
    pub state: PathBuf,
    /// Private copies while they are looked at.
    pub staging: PathBuf,
    /// Admitted bundles, as they came.
    pub store: PathBuf,
    /// Refused files, each with its reason.
    pub quarantine: PathBuf,
    /// What each run of `archive verify` found.
    pub proofs: PathBuf,
}

impl Folders {
    /// Names the folders.
    pub fn of(state_dir: &Path) -> Self {
        Self {
            state: state_dir.to_owned(),
            staging: state_dir.join("staging"),
            store: state_dir.join("store"),
            quarantine: state_dir.join("quarantine"),
            proofs: state_dir.join("archive-proofs"),
        }
    }

    /// Makes those that are missing, mode 0700.
    pub fn create(&self) -> io::Result<()> {
        for dir in [&self.state, &self.staging, &self.store, &self.quarantine] {
            durable::create_dir(dir)?;
        }
        Ok(())
    }

    /// Takes the lock that one agent holds for its life; `None` while another one holds it.
    pub fn lock_agent(&self) -> io::Result<Option<File>> {
        // What root makes here must be the agent's.
        let file = durable::create_or_continue(&self.state.join("agent.lock"), 0o600)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(err)) => Err(err),
        }
    }
}

/// Opens a file that somebody else put there: never through a link, never waiting for a FIFO's
/// writer, and only if it is a regular file. `None` where it is something else.
pub fn open_untrusted(path: &Path) -> io::Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path);
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Ok(None),
        // A symbolic link; a socket or a device without a driver.
        Err(err) if matches!(err.raw_os_error(), Some(nix::libc::ELOOP | nix::libc::ENXIO)) => {
            Ok(None)
        }
        Err(err) => Err(err),
    }
}

/// A name that others chose, for people and logs: control bytes and everything outside ASCII are
/// escaped, and it has an end.
pub fn shown(name: impl AsRef<OsStr>) -> String {
    let bytes = name.as_ref().as_encoded_bytes();
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let more = if cut.len() < bytes.len() { "..." } else { "" };
    format!("{}{more}", cut.escape_ascii())
}

/// The longest name that is shown; a file system allows 255.
const SHOWN_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), b"x")?;
        std::fs::create_dir(at("dir"))?;
        std::os::unix::fs::symlink(at("file"), at("link"))?;
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU)?;
        let _socket = std::os::unix::net::UnixListener::bind(at("socket"))?;
        assert!(open_untrusted(&at("file"))?.is_some());
        for name in ["dir", "link", "fifo", "socket"] {
            assert!(open_untrusted(&at(name))?.is_none(), "{name}");
        }
        assert!(open_untrusted(Path::new("/dev/null"))?.is_none());
        Ok(())
    }

    #[test]
    fn names_are_shown_without_control_bytes() {
        assert_eq!(shown("a\x1b[2Jb\n"), "a\\x1b[2Jb\\n");
        assert!(shown("x".repeat(2000)).len() < 600);
    }
}
