//! A low side that trusts the test keys.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use shared::bundle::{Limits, Refusal, VerifiedBundle, open};
use shared::clock::Nanos;
use shared::keys::{Identities, ReleasePolicy, Trust};
use tests::forge::Keys;

/// The time at which the golden bundles are opened: 2026-11-23.
pub(crate) const NOW: Nanos = Nanos(1_795_468_219_000_000_000);

/// The folder of the golden bundles.
pub(crate) fn vectors_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors")
}

/// The committed test keys.
pub(crate) fn keys() -> Keys {
    Keys::at(&vectors_dir().join("keys"))
}

/// Private copies of the test keys, and a file for the bundle under test.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) trust: Trust,
    pub(crate) identities: Identities,
    pub(crate) file: File,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = vectors_dir().join("keys");
        // A checkout does not keep the mode that a secret needs.
        for name in ["identity.key", "identity-hybrid.key", "signing.key"] {
            copy_secret(&from.join(name), &dir.path().join(name));
        }
        Self {
            trust: Trust::load_dir(&from).unwrap(),
            identities: Identities::load_dir(dir.path()).unwrap(),
            file: tempfile::tempfile_in(dir.path()).unwrap(),
            dir,
        }
    }

    /// Makes these bytes the bundle under test.
    pub(crate) fn put(&self, bytes: &[u8]) {
        self.file.set_len(0).unwrap();
        self.file.write_all_at(bytes, 0).unwrap();
    }

    /// Opens what was put there.
    pub(crate) fn open(&self) -> Result<VerifiedBundle, Refusal> {
        let limits = Limits::default();
        open(&self.file, &self.trust, &self.identities, &limits, NOW)
    }

    /// Opens what was put there, as a site that demands releases of so many officers.
    pub(crate) fn open_demanding(&self, required: usize) -> Result<VerifiedBundle, Refusal> {
        let policy = ReleasePolicy { required, rules: Vec::new() };
        let trust = self.trust.clone().demanding(policy);
        open(&self.file, &trust, &self.identities, &Limits::default(), NOW)
    }

    /// Opens these bytes; the refusal's code, or `ok`.
    pub(crate) fn code(&self, bytes: &[u8]) -> &'static str {
        self.put(bytes);
        self.open().map_or_else(|refusal| refusal.code(), |_| "ok")
    }
}

pub(crate) fn copy_secret(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o600)).unwrap();
}
