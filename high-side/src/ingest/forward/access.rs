//! Who may send: a shared key, and perhaps names with passwords, from files.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::super::TlsSettings;

/// What a listener for the Forward protocol needs beside its address.
#[derive(Clone, Debug)]
pub struct ForwardSettings {
    /// Its certificate and authorities, if it speaks TLS.
    pub tls: Option<TlsSettings>,
    /// The file with the key that clients must share; without it none is asked for.
    pub shared_key: Option<PathBuf>,
    /// The file with names and passwords, one `NAME:PASSWORD` a line; without it none are asked for.
    pub users: Option<PathBuf>,
    /// The largest chunk, in bytes as it comes and inflated: a client that goes beyond it is closed.
    pub chunk_bytes_max: u64,
}

impl ForwardSettings {
    /// Twice the 16 MiB that Fluent Bit and Fluentd let a chunk have at most by default.
    pub const CHUNK_BYTES_MAX: u64 = 32 << 20;
}

/// Why a file of secrets can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It holds nothing, or not what it should.
    #[error("{path}: {what}\n  try: {advice}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// It is readable by everybody.
    #[error("{0} is readable by everybody\n  try: chmod 640 {0}")]
    Exposed(PathBuf),
    /// It can't be read.
    #[error(
        "can't read {path}: {source}\n  try: check the path and that the agent's user may read it"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The secrets themselves.
#[derive(Default)]
pub(crate) struct Access {
    pub(super) shared_key: Option<Zeroizing<Vec<u8>>>,
    /// Passwords by name; nobody is asked for one if there are none.
    pub(super) users: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    pub(crate) fn load(settings: &ForwardSettings) -> Result<Self, SecretError> {
        let mut access = Self::default();
        if let Some(path) = &settings.shared_key {
            let mut key = read(path)?;
            // Editors end files with a line feed; keys don't end with one.
            while key.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                key.pop();
            }
            if key.is_empty() {
                return Err(SecretError::Content {
                    path: path.clone(),
                    what: "there is no key in it",
                    advice: "openssl rand -hex 32 > FILE, and give clients the same text",
                });
            }
            access.shared_key = Some(key);
        }
        if let Some(path) = &settings.users {
            let text = read(path)?;
            for line in text.split(|byte| *byte == b'\n') {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if line.is_empty() {
                    continue;
                }
                let colon = line.iter().position(|byte| *byte == b':').filter(|at| *at > 0);
                let Some(colon) = colon else {
                    return Err(SecretError::Content {
                        path: path.clone(),
                        what: "a line is not NAME:PASSWORD",
                        advice: "write one NAME:PASSWORD a line, and nothing else",
                    });
                };
                let password = Zeroizing::new(line[colon + 1..].to_vec());
                access.users.insert(line[..colon].to_vec(), password);
            }
            if access.users.is_empty() {
                return Err(SecretError::Content {
                    path: path.clone(),
                    what: "there is no user in it",
                    advice: "write one NAME:PASSWORD a line, or leave users-file out",
                });
            }
        }
        Ok(access)
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let path = &shared::keys::secret_path(path);
    let unreadable = |source| SecretError::Unreadable { path: path.clone(), source };
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if meta.permissions().mode() & 0o007 != 0 {
        return Err(SecretError::Exposed(path.clone()));
    }
    if meta.len() > SECRET_BYTES_MAX {
        return Err(SecretError::Content {
            path: path.clone(),
            what: "it is larger than 1 MiB",
            advice: "check that this is the right file",
        });
    }
    std::fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

/// Thousands of users; anything larger is another file.
const SECRET_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn load(key: Option<&[u8]>, users: Option<&[u8]>) -> Result<Access, SecretError> {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: Option<&[u8]>| {
            content.map(|content| {
                let path = dir.path().join(name);
                shared::durable::write(&path, content, 0o600).unwrap();
                path
            })
        };
        let settings = ForwardSettings {
            tls: None,
            shared_key: file("key", key),
            users: file("users", users),
            chunk_bytes_max: 1,
        };
        Access::load(&settings)
    }

    #[test]
    fn keys_and_users_come_from_files() {
        let access = load(Some(b"a key\r\n"), Some(b"alice:a:b\n\nbob:\r\n")).unwrap();
        assert_eq!(access.shared_key.unwrap().as_slice(), b"a key");
        let users: Vec<_> =
            access.users.iter().map(|(n, p)| (n.as_slice(), p.as_slice())).collect();
        assert_eq!(users, [(&b"alice"[..], &b"a:b"[..]), (b"bob", b"")]);
        assert!(load(None, None).unwrap().shared_key.is_none());
        for (key, users) in [
            (Some(&b"\n"[..]), None),
            (None, Some(&b"\n"[..])),
            (None, Some(&b"alice"[..])),
            (None, Some(&b":x"[..])),
        ] {
            assert!(matches!(load(key, users), Err(SecretError::Content { .. })));
        }
    }
}
