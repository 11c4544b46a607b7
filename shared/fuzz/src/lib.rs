//! What the fuzz targets call: one function each.

// The writer that can break one rule at a time, as the tests use it.
#[path = "../../../tests/src/forge.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod forge;
mod layers;
mod parsers;
mod roundtrip;

pub use layers::{Edit, open};
pub use parsers::{header, manifest, record};
pub use roundtrip::{Message, seal_open_roundtrip};

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use shared::bundle::Limits;
use shared::clock::Nanos;
use shared::keys::{Identities, SigningKey, Trust};

/// When the bundles are opened.
const NOW: Nanos = Nanos(1_795_468_219_000_000_000);

/// What a reader grants a fuzzer's bundle.
const LIMITS: Limits = Limits {
    file_bytes_max: 16 << 20,
    plain_bytes_max: 16 << 20,
    record_bytes_max: 1 << 20,
};

static SITE: LazyLock<Site> = LazyLock::new(Site::new);

/// A low side that trusts the test keys.
struct Site {
    dir: tempfile::TempDir,
    trust: Trust,
    identities: Identities,
    signer: SigningKey,
}

impl Site {
    fn new() -> Self {
        let (dir, from) = (tempfile::tempdir().unwrap(), keys_dir());
        for name in ["identity.key", "identity-hybrid.key", "signing.key"] {
            let to = dir.path().join(name);
            std::fs::copy(from.join(name), &to).unwrap();
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        Self {
            trust: Trust::load_dir(&from).unwrap(),
            identities: Identities::load_dir(dir.path()).unwrap(),
            signer: SigningKey::load(&dir.path().join("signing.key")).unwrap(),
            dir,
        }
    }
}

fn keys_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/keys")
}
