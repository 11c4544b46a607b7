//! Who this installation is: its name and the key that signs for it.

use std::path::Path;

use shared::custody::Identity;
use shared::keys::{KeyError, Side, SigningKey, receipt_key};

/// The name that `public` prints; the high side shows it, and nothing depends on it.
pub const NAME_FILE: &str = "name";

/// This installation's name.
pub fn name(keys_dir: &Path) -> String {
    let name = std::fs::read_to_string(keys_dir.join(NAME_FILE)).unwrap_or_default();
    // It was checked when it was written; whatever else stands there is no name.
    match name.trim().parse::<shared::record::OriginId>() {
        Ok(name) => name.to_string(),
        Err(_) => "low".to_owned(),
    }
}

/// Whose custody log it is.
pub fn identity(keys_dir: &Path) -> Identity {
    Identity { side: Side::Low, name: name(keys_dir) }
}

/// The key that signs for this side; an installation of an older version gets one now, where its key
/// folder can be written to.
pub fn signing_key(keys_dir: &Path) -> Result<SigningKey, KeyError> {
    let (key, made) = receipt_key(keys_dir)?;
    if made {
        tracing::info!(
            key = key.fingerprint(),
            "a key that signs receipts was made; the high side takes it from penstock-low public"
        );
    }
    Ok(key)
}
