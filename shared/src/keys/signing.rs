//! A side's signing key: for the high side's bundles, and for what either side states.

use std::fmt;
use std::path::Path;

use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use super::{
    BUNDLE_NAMESPACE, KeyError, PublicHalf, PublicKey, Side, StatementKind, load_secret,
    store_new_secret,
};

/// An Ed25519 key that signs bundles and statements.
#[derive(Clone)]
pub struct SigningKey(PrivateKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.fingerprint())
    }
}

impl SigningKey {
    /// Loads an unencrypted OpenSSH Ed25519 private key from a file that only its owner can read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = load_secret(path)?;
        let key = PrivateKey::from_openssh(text.as_bytes())
            .map_err(|_| KeyError::malformed(path, "is no OpenSSH private key"))?;
        match key.key_data() {
            KeypairData::Ed25519(_) => Ok(Self(key)),
            KeypairData::Encrypted(_) => Err(KeyError::malformed(
                path,
                "is protected by a passphrase, which no agent can type",
            )),
            _ => Err(KeyError::malformed(path, "is no Ed25519 key")),
        }
    }

    /// The key's name in a bundle: `SHA256:` and base64, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    /// The half that the other side needs.
    pub fn public_half(&self, name: &str) -> PublicHalf {
        let key = PublicKey::Ed25519(Box::new(self.public_key()));
        PublicHalf { side: Side::High, name: name.to_owned(), key, signer: None }
    }

    /// The key that verifies what this one signs.
    pub fn public_key(&self) -> ssh_key::PublicKey {
        ssh_key::PublicKey::new(self.0.public_key().key_data().clone(), "")
    }

    /// An armored SSHSIG over a statement, in the namespace of its kind.
    pub fn sign_statement(
        &self,
        kind: StatementKind,
        message: &[u8],
    ) -> Result<String, ssh_key::Error> {
        self.0.sign(kind.namespace(), HashAlg::Sha512, message)?.to_pem(LineEnding::LF)
    }

    /// An SSHSIG over a message in the namespace of bundles, as text. Its length is always the same.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<String, ssh_key::Error> {
        self.0.sign(BUNDLE_NAMESPACE, HashAlg::Sha512, message)?.to_pem(LineEnding::LF)
    }
}

/// Makes a signing key and stores it with mode 0600.
pub fn generate_signing_key(path: &Path) -> Result<SigningKey, KeyError> {
    let keypair = Ed25519Keypair::random(&mut rand_core::OsRng);
    let malformed = |err: ssh_key::Error| KeyError::malformed(path, err.to_string());
    let key = PrivateKey::new(KeypairData::Ed25519(keypair), "").map_err(malformed)?;
    let text = key.to_openssh(LineEnding::LF).map_err(malformed)?;
    store_new_secret(path, &text)?;
    Ok(SigningKey(key))
}
