//! Keys that decrypt: the low side's, and those of backups.

use std::fmt;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;

use super::hybrid::HybridIdentity;
use super::recipients::key_id;
use super::secret::credential_names;
use super::{
    KeyError, PublicHalf, PublicKey, Side, SigningKey, credentials_dir, load_secret,
    store_new_secret,
};

/// Every key that can open bundles: the current one, and older ones for bundles on their way.
pub struct Identities(Vec<IdentityKey>);

enum IdentityKey {
    Hybrid(Box<HybridIdentity>),
    X25519(age::x25519::Identity),
}

impl IdentityKey {
    fn parse(line: &str) -> Option<Self> {
        HybridIdentity::parse(line)
            .map(|key| Self::Hybrid(Box::new(key)))
            .or_else(|| line.parse().ok().map(Self::X25519))
    }

    fn as_age(&self) -> &dyn age::Identity {
        match self {
            Self::Hybrid(key) => key.as_ref(),
            Self::X25519(key) => key,
        }
    }

    fn public(&self) -> PublicKey {
        match self {
            Self::Hybrid(key) => PublicKey::Hybrid(Box::new(key.to_public())),
            Self::X25519(key) => PublicKey::X25519(key.to_public()),
        }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.key_ids()).finish()
    }
}

impl Identities {
    /// Loads age identity files, each readable by its owner alone.
    pub fn load(paths: &[PathBuf]) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for path in paths {
            let text = load_secret(path)?;
            for (number, line) in text.lines().enumerate() {
                let line = line.trim();
                if !line.is_empty() && !line.starts_with('#') {
                    let key = IdentityKey::parse(line);
                    keys.push(key.ok_or_else(|| {
                        KeyError::malformed(path, format!("line {} is no age identity", number + 1))
                    })?);
                }
            }
        }
        Ok(Self(keys))
    }

    /// Loads every `identity*.key` of a key folder, and of the service's credentials.
    pub fn load_dir(keys_dir: &Path) -> Result<Self, KeyError> {
        let mut names = credential_names(credentials_dir().as_deref())?;
        for entry in std::fs::read_dir(keys_dir).map_err(KeyError::io(keys_dir))? {
            names.push(entry.map_err(KeyError::io(keys_dir))?.file_name());
        }
        names.retain(|name| {
            let name = name.to_string_lossy();
            name.starts_with("identity") && name.ends_with(".key")
        });
        let mut paths: Vec<_> = names.iter().map(|name| keys_dir.join(name)).collect();
        if paths.is_empty() {
            return Err(KeyError::malformed(
                keys_dir,
                "holds no identity.key\n  try: penstock-low init",
            ));
        }
        // The current one first: its public half is what the other side is to get.
        let current = keys_dir.join(super::IDENTITY_FILE);
        paths.sort_by_key(|path| (*path != current, path.clone()));
        // A key that is a credential may stand in the folder, too.
        paths.dedup();
        Self::load(&paths)
    }

    /// The public halves, in the order of the files, each with the key that signs for this side.
    pub fn public_halves(&self, name: &str, signer: Option<&SigningKey>) -> Vec<PublicHalf> {
        let half = |key: &IdentityKey| PublicHalf {
            side: Side::Low,
            name: name.to_owned(),
            key: key.public(),
            signer: signer.map(|signer| Box::new(signer.public_key())),
        };
        self.0.iter().map(half).collect()
    }

    /// The names that these keys have in a bundle's header.
    pub fn key_ids(&self) -> Vec<String> {
        self.0.iter().map(|key| key_id(&key.public())).collect()
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(IdentityKey::as_age)
    }

    /// The keys among these that a header names as recipients.
    #[cfg(feature = "open")]
    pub(crate) fn named<'a>(
        &'a self,
        recipients: &'a [String],
    ) -> impl Iterator<Item = &'a dyn age::Identity> {
        let named = |key: &&IdentityKey| recipients.contains(&key_id(&key.public()));
        self.0.iter().filter(named).map(IdentityKey::as_age)
    }
}

/// Makes an age identity, stores it with mode 0600, and gives the public half.
pub fn generate_identity(path: &Path, name: &str, hybrid: bool) -> Result<PublicHalf, KeyError> {
    let (key, text) = if hybrid {
        let key = HybridIdentity::generate();
        let text = key.to_text().map_err(|err| KeyError::malformed(path, err.to_string()))?;
        (IdentityKey::Hybrid(Box::new(key)), text)
    } else {
        let key = age::x25519::Identity::generate();
        let text = key.to_string().expose_secret().to_owned().into();
        (IdentityKey::X25519(key), text)
    };
    let half =
        PublicHalf { side: Side::Low, name: name.to_owned(), key: key.public(), signer: None };
    let file = zeroize::Zeroizing::new(format!("# public key: {}\n{}\n", half.key, *text));
    store_new_secret(path, &file)?;
    Ok(half)
}

#[cfg(test)]
mod tests {
    use super::super::IDENTITY_FILE;
    use super::*;

    #[test]
    fn the_current_identity_comes_before_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (current, old) = (dir.path().join(IDENTITY_FILE), dir.path().join("identity-old.key"));
        generate_identity(&old, "soc-1", false).unwrap();
        let new = generate_identity(&current, "soc-1", false).unwrap();
        let halves = Identities::load_dir(dir.path()).unwrap().public_halves("soc-1", None);
        assert_eq!(halves.len(), 2);
        assert_eq!(halves[0].fingerprint(), new.fingerprint());
    }
}
