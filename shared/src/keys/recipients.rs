//! Those whom the high side encrypts to.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{KeyError, PublicHalf, PublicKey, RECIPIENTS_DIR, Side};

/// Everyone who can open a bundle: at least one, all classic or all hybrid.
#[derive(Clone, Debug)]
pub struct Recipients(Vec<PublicHalf>);

/// More recipients make no sense, and a reader refuses more (FORMAT.md section 4).
pub(crate) const RECIPIENTS_MAX: usize = 15;

impl Recipients {
    /// Loads every `*.pub` in the recipients' folder.
    pub fn load(keys_dir: &Path) -> Result<Self, KeyError> {
        let dir = keys_dir.join(RECIPIENTS_DIR);
        let mut halves = Vec::new();
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(KeyError::io(&dir))?,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(err) => return Err(KeyError::io(&dir)(err)),
        };
        for entry in entries {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "pub") {
                let half = PublicHalf::load(&path)?;
                if half.side == Side::High {
                    return Err(KeyError::malformed(&path, "is the public half of a high side"));
                }
                halves.push(half);
            }
        }
        Self::new(halves).map_err(|problem| match problem {
            None => KeyError::NoRecipient { dir: dir.clone() },
            Some(problem) => KeyError::malformed(&dir, problem),
        })
    }

    /// Takes public halves of low sides; the error is `None` where there is none at all.
    pub fn new(mut halves: Vec<PublicHalf>) -> Result<Self, Option<&'static str>> {
        halves.sort_by_key(|half| half.key.to_string());
        halves.dedup_by_key(|half| half.key.to_string());
        let hybrid = halves.iter().filter(|half| matches!(half.key, PublicKey::Hybrid(_))).count();
        if halves.iter().any(|half| matches!(half.key, PublicKey::Ed25519(_))) {
            return Err(Some("holds a signing key, which can't receive"));
        }
        if hybrid != 0 && hybrid != halves.len() {
            return Err(Some(
                "mixes hybrid and classic recipients; one classic recipient undoes the hybrid ones",
            ));
        }
        if halves.len() > RECIPIENTS_MAX {
            return Err(Some("holds more than 15 recipients"));
        }
        if halves.is_empty() { Err(None) } else { Ok(Self(halves)) }
    }

    /// Stores a low side's public half; returns false when it was there already.
    pub fn add(keys_dir: &Path, half: &PublicHalf) -> Result<bool, KeyError> {
        let dir = keys_dir.join(RECIPIENTS_DIR);
        crate::durable::create_dir(&dir).map_err(KeyError::io(&dir))?;
        let half = half.without_signer();
        let path = dir.join(half.file_name());
        if path.exists() {
            return Ok(false);
        }
        crate::durable::write(&path, half.to_string().as_bytes(), 0o644)
            .map_err(KeyError::io(&path))?;
        Ok(true)
    }

    /// The public halves.
    pub fn halves(&self) -> &[PublicHalf] {
        &self.0
    }

    /// The names that stand in a bundle's header, sorted: which key can open it, and nothing else.
    pub fn key_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.0.iter().map(|half| key_id(&half.key)).collect();
        ids.sort();
        ids
    }

    pub(crate) fn as_age(&self) -> Vec<&dyn age::Recipient> {
        self.0
            .iter()
            .filter_map(|half| match &half.key {
                PublicKey::Hybrid(key) => Some(key.as_ref() as &dyn age::Recipient),
                PublicKey::X25519(key) => Some(key as &dyn age::Recipient),
                PublicKey::Ed25519(_) => None,
            })
            .collect()
    }
}

/// `x25519:` or `mlkem768x25519:` and the first 16 hex digits of the SHA-256 of the recipient's text.
pub(crate) fn key_id(key: &PublicKey) -> String {
    let kind = match key {
        PublicKey::Ed25519(_) => "ed25519",
        PublicKey::Hybrid(_) => "mlkem768x25519",
        PublicKey::X25519(_) => "x25519",
    };
    let hash = Sha256::digest(key.to_string());
    let mut id = format!("{kind}:");
    for byte in &hash[..8] {
        let _ = write!(id, "{byte:02x}");
    }
    id
}
