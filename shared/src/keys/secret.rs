//! Secrets in files, and in the credentials that a service manager hands to a service.
//!
//! systemd copies what `LoadCredential=ID:PATH` names into a folder that the service alone can read, and names
//! the folder in `CREDENTIALS_DIRECTORY` (systemd.exec(5)). The secret of a file is looked for there first,
//! under the file's name: so the file itself may belong to root alone, or be sealed by the machine's TPM, and
//! the configuration stays as it is.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use super::{KeyError, read_capped};

/// The folder of this service's credentials; `None` where the service manager gave none.
pub fn credentials_dir() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    dir.is_absolute().then_some(dir)
}

/// Where the secret of this file is read: the credential of the file's name if the service has one, else the
/// file itself.
pub fn secret_path(path: &Path) -> PathBuf {
    credential(credentials_dir().as_deref(), path).unwrap_or_else(|| path.to_owned())
}

/// The credential that stands for a file, if there is one.
fn credential(dir: Option<&Path>, path: &Path) -> Option<PathBuf> {
    let credential = dir?.join(path.file_name()?);
    credential.symlink_metadata().is_ok().then_some(credential)
}

/// The names of the credentials that this service has.
pub(super) fn credential_names(dir: Option<&Path>) -> Result<Vec<std::ffi::OsString>, KeyError> {
    let Some(dir) = dir else { return Ok(Vec::new()) };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        // Without a credential systemd makes no folder.
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(KeyError::io(dir)(err)),
    };
    entries.map(|entry| Ok(entry.map_err(KeyError::io(dir))?.file_name())).collect()
}

/// Reads a secret from a credential, or from a file that nobody else can read or replace.
///
/// The file is opened without following a link, and what was opened is what is checked: a regular
/// file, owned by us or root, closed to group and others.
pub fn load_secret(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    load_secret_beside(path, credentials_dir().as_deref())
}

pub(super) fn load_secret_beside(
    path: &Path,
    credentials: Option<&Path>,
) -> Result<Zeroizing<String>, KeyError> {
    match credential(credentials, path) {
        Some(credential) => read_checked(&credential, Kept::ByServiceManager),
        None => read_checked(path, Kept::ByOwner),
    }
}

/// Who keeps a secret from others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// The mode of the file.
    ByOwner,
    /// The service manager: it lets the service's user in by an access list, whose mask shows as the mode of
    /// the group (0440).
    ByServiceManager,
}

fn read_checked(path: &Path, kept: Kept) -> Result<Zeroizing<String>, KeyError> {
    let exposed = |problem| KeyError::Exposed { path: path.to_owned(), problem };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(|source| {
            if source.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) {
                exposed("is a symbolic link")
            } else {
                KeyError::Io { path: path.to_owned(), source }
            }
        })?;
    let meta = file.metadata().map_err(KeyError::io(path))?;
    let us = nix::unistd::geteuid().as_raw();
    if !meta.is_file() {
        return Err(exposed("is no regular file"));
    }
    let closed_to = match kept {
        Kept::ByOwner => 0o077,
        Kept::ByServiceManager => 0o037,
    };
    if meta.mode() & closed_to != 0 {
        return Err(exposed("can be read by others than its owner"));
    }
    let above = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = fs::metadata(above.unwrap_or(Path::new("."))).map_err(KeyError::io(path))?;
    // Root acts for the agent's user, to whom the folder belongs.
    let for_owner = us == 0 && meta.uid() == dir.uid();
    if meta.uid() != us && meta.uid() != 0 && !for_owner {
        return Err(exposed("belongs to another user"));
    }
    if dir.mode() & 0o002 != 0 && dir.mode() & 0o1000 == 0 {
        return Err(exposed("stands in a folder that anyone may write to"));
    }
    read_capped(file, path).map(Zeroizing::new)
}

/// Reads a small text file that holds nothing secret.
pub(super) fn load_public(path: &Path) -> Result<String, KeyError> {
    read_capped(File::open(path).map_err(KeyError::io(path))?, path)
}

/// Writes a new secret with mode 0600; refuses to replace one, also one that is a credential.
pub(super) fn store_new_secret(path: &Path, text: &str) -> Result<(), KeyError> {
    let there = secret_path(path);
    if there.symlink_metadata().is_ok() {
        return Err(KeyError::Exists { path: there });
    }
    crate::durable::write(path, text.as_bytes(), 0o600).map_err(KeyError::io(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_can_reach_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        store_new_secret(&path, "secret").unwrap();
        assert_eq!(load_secret(&path).unwrap().as_str(), "secret");
        assert!(matches!(store_new_secret(&path, "other"), Err(KeyError::Exists { .. })));

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(load_secret(&link).unwrap_err().to_string().contains("symbolic link"));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let message = load_secret(&path).unwrap_err().to_string();
        assert!(message.contains("can be read by others") && !message.contains("secret"));
    }

    #[test]
    fn a_credential_comes_before_the_file_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        let path = dir.path().join("signing.key");
        let load = || load_secret_beside(&path, Some(&credentials)).map(|text| text.to_string());

        // Neither is there; then only the file; then both.
        assert!(matches!(load(), Err(KeyError::Io { .. })));
        store_new_secret(&path, "from the file").unwrap();
        assert_eq!(load().unwrap(), "from the file");
        let credential = credentials.join("signing.key");
        fs::write(&credential, "from systemd").unwrap();
        let as_mode = |mode| {
            fs::set_permissions(&credential, fs::Permissions::from_mode(mode)).unwrap();
        };
        // As systemd shows its access list; and what it never makes.
        as_mode(0o440);
        assert_eq!(load().unwrap(), "from systemd");
        for mode in [0o444, 0o460, 0o404] {
            as_mode(mode);
            assert!(matches!(load(), Err(KeyError::Exposed { .. })), "{mode:o}");
        }
        assert_eq!(credential_names(Some(&credentials)).unwrap(), ["signing.key"]);
        assert!(credential_names(Some(&dir.path().join("none"))).unwrap().is_empty());
    }
}
