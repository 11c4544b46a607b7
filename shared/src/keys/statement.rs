//! Statements: texts other than bundles that one side signs, and who is believed for them.
//!
//! A statement is a text and an SSHSIG over it in a namespace of its own, so that a signature made for
//! one kind is worthless for another. It travels as one file, the text first and the armored
//! signature behind it, or as two; `ssh-keygen -Y verify` checks either.

use std::path::Path;

use ssh_key::HashAlg;

use super::allowed::{self, Line, Validity};
use super::{
    KeyError, PublicHalf, PublicKey, REVOKED_KEYS_FILE, SigningKey, generate_signing_key,
    load_public,
};
use crate::bundle::sshsig;
use crate::clock::Nanos;

/// The file name of the low side's signing key.
pub const RECEIPT_KEY_FILE: &str = "receipt.key";
/// The high side's list of those whose receipts it believes.
pub const LOW_SIGNERS_FILE: &str = "low_signers";

/// What a statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// What an archive holds, and whether its lock holds.
    Archive,
    /// What is on a link's carousel.
    Catalogue,
    /// How far a custody log has come.
    Custody,
    /// What arrived on the low side.
    Receipt,
    /// The evidence of a period, for an auditor.
    Report,
    /// What was put on a medium, or taken from it.
    Transfer,
}

impl StatementKind {
    /// Every kind.
    pub const ALL: [StatementKind; 6] = [
        StatementKind::Archive,
        StatementKind::Catalogue,
        StatementKind::Custody,
        StatementKind::Receipt,
        StatementKind::Report,
        StatementKind::Transfer,
    ];

    /// The SSHSIG namespace.
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Archive => "penstock-archive@v1",
            Self::Catalogue => "penstock-catalogue@v1",
            Self::Custody => "penstock-custody@v1",
            Self::Receipt => "penstock-receipt@v1",
            Self::Report => "penstock-report@v1",
            Self::Transfer => "penstock-transfer@v1",
        }
    }
}

/// Why a statement's signature is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementProblem {
    /// It is no canonical armored SSHSIG by an Ed25519 key.
    #[error("its signature {0}")]
    Form(&'static str),
    /// The signature does not fit the text.
    #[error("the signature does not fit the text: one of them was changed")]
    Mismatch,
    /// The key is known, but its time is over or has not begun.
    #[error("the key that signed it is not valid now")]
    NotValidNow,
    /// The key was revoked.
    #[error("the key that signed it was revoked")]
    Revoked,
    /// No key like this is believed here.
    #[error("nobody here knows the key that signed it")]
    UnknownKey,
}

/// Who made a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBy {
    /// The name under which the key is believed here.
    pub name: String,
    /// The key's fingerprint, as `ssh-keygen -l` prints it.
    pub key: String,
}

/// Keys that are believed for statements, by name.
#[derive(Clone, Debug, Default)]
pub struct StatementSigners {
    signers: Vec<Line>,
    revoked: Vec<ssh_key::public::KeyData>,
}

impl StatementSigners {
    /// Loads the high side's list of low sides, and its list of revoked keys. A missing file is an
    /// empty one.
    pub fn load(keys_dir: &Path) -> Result<Self, KeyError> {
        let revoked = allowed::revoked_keys(&keys_dir.join(REVOKED_KEYS_FILE))?;
        Ok(Self { revoked, ..Self::load_file(&keys_dir.join(LOW_SIGNERS_FILE))? })
    }

    /// Loads a file in the form of `allowed_signers`.
    pub fn load_file(path: &Path) -> Result<Self, KeyError> {
        let mut signers = Vec::new();
        for (number, line) in allowed::content_lines(path)? {
            let signer = Line::parse(&line).map_err(|problem| {
                KeyError::malformed(path, format!("line {number}: {problem}"))
            })?;
            signers.push(signer);
        }
        Ok(Self { signers, revoked: Vec::new() })
    }

    /// Believes this side's own keys: the private ones of this stem (`receipt*.key`), and public ones
    /// (`receipt*.pub`) that are left of keys which are gone.
    pub fn own(keys_dir: &Path, stem: &str, name: &str) -> Result<Self, KeyError> {
        let mut signers = Vec::new();
        let mut paths: Vec<_> = std::fs::read_dir(keys_dir)
            .map_err(KeyError::io(keys_dir))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let begins = path
                    .file_stem()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(stem.as_bytes()));
                begins && path.extension().is_some_and(|kind| kind == "key" || kind == "pub")
            })
            .collect();
        paths.sort();
        let name = name.parse().map_err(|_| KeyError::malformed(keys_dir, "is of no name"))?;
        for path in paths {
            let key = if path.extension().is_some_and(|extension| extension == "key") {
                SigningKey::load(&path)?.public_key()
            } else {
                ssh_key::PublicKey::from_openssh(load_public(&path)?.trim())
                    .map_err(|_| KeyError::malformed(&path, "is no OpenSSH public key"))?
            };
            let name = crate::record::OriginId::clone(&name);
            signers.push(Line { name, namespaces: Vec::new(), validity: Validity::default(), key });
        }
        Ok(Self { signers, revoked: Vec::new() })
    }

    /// Stores the signing key of a low side's public half; false when it was there already, or the
    /// half is of an older version and holds none.
    pub fn add(keys_dir: &Path, half: &PublicHalf) -> Result<bool, KeyError> {
        let Some(key) = &half.signer else { return Ok(false) };
        let path = keys_dir.join(LOW_SIGNERS_FILE);
        let known = Self::load_file(&path)?;
        let same = |signer: &Line| {
            signer.name.as_str() == half.name && signer.key.key_data() == key.key_data()
        };
        if known.signers.iter().any(same) {
            return Ok(false);
        }
        let key = key.to_openssh().map_err(|err| KeyError::malformed(&path, err.to_string()))?;
        let kinds = [StatementKind::Custody, StatementKind::Receipt, StatementKind::Transfer];
        let namespaces = kinds.map(StatementKind::namespace).join(",");
        let line = allowed::line_text(&half.name, &namespaces, Validity::default(), &key);
        Line::parse(&line).map_err(|problem| {
            KeyError::malformed(&path, format!("the line for {}: {problem}", half.name))
        })?;
        let text = format!("{}{line}\n", allowed::existing(&path)?);
        crate::durable::write(&path, text.as_bytes(), 0o644).map_err(KeyError::io(&path))?;
        Ok(true)
    }

    /// Whether this key is on the list, and not revoked.
    pub fn holds(&self, key: &ssh_key::PublicKey) -> bool {
        self.signers.iter().any(|signer| signer.key.key_data() == key.key_data())
            && !self.revoked.contains(key.key_data())
    }

    /// Whether nobody is believed.
    pub fn is_empty(&self) -> bool {
        self.signers.is_empty()
    }

    /// Verifies a statement, and says who made it.
    pub fn verify(
        &self,
        kind: StatementKind,
        message: &[u8],
        armored: &[u8],
        now: Nanos,
    ) -> Result<SignedBy, StatementProblem> {
        let signature = StatementSignature::parse(kind, armored)?;
        let key = signature.key();
        let may = |signer: &&Line| {
            let namespaces = &signer.namespaces;
            signer.key.key_data() == key
                && (namespaces.is_empty() || namespaces.iter().any(|n| n == kind.namespace()))
        };
        let mut named = self.signers.iter().filter(may).peekable();
        if named.peek().is_none() {
            return Err(StatementProblem::UnknownKey);
        }
        if self.revoked.contains(key) {
            return Err(StatementProblem::Revoked);
        }
        let signer =
            named.find(|signer| signer.validity.holds(now)).ok_or(StatementProblem::NotValidNow)?;
        signature.fits(message)?;
        Ok(SignedBy { name: signer.name.to_string(), key: signature.fingerprint() })
    }
}

/// A well-formed signature of a statement, by whomever.
#[derive(Debug)]
pub struct StatementSignature(ssh_key::SshSig);

impl StatementSignature {
    /// Parses a canonical armored signature of this kind.
    pub fn parse(kind: StatementKind, armored: &[u8]) -> Result<Self, StatementProblem> {
        // An Ed25519 SSHSIG has about 300 bytes; nothing longer is looked at.
        if armored.len() > SIGNATURE_BYTES_MAX {
            return Err(StatementProblem::Form("is too long"));
        }
        let parsed = sshsig::parse(armored, kind.namespace());
        parsed.map(Self).map_err(|unfit| StatementProblem::Form(unfit.text()))
    }

    /// The key's fingerprint.
    pub fn fingerprint(&self) -> String {
        self.0.public_key().fingerprint(HashAlg::Sha256).to_string()
    }

    pub(super) fn key(&self) -> &ssh_key::public::KeyData {
        self.0.public_key()
    }

    /// Whether it was made over this message, by the key it names.
    pub fn fits(&self, message: &[u8]) -> Result<(), StatementProblem> {
        let key = ssh_key::PublicKey::new(self.key().clone(), "");
        key.verify(self.0.namespace(), message, &self.0).map_err(|_| StatementProblem::Mismatch)
    }
}

/// Splits a file into a text and the armored signature behind it; `None` where there is none.
pub fn split_signed(file: &[u8]) -> Option<(&[u8], &[u8])> {
    let begins = |at: usize| file[at..].starts_with(SIGNATURE_BEGIN.as_bytes());
    let lines = memchr::memchr_iter(b'\n', file).map(|at| at + 1);
    let at = std::iter::once(0).chain(lines).find(|at| begins(*at))?;
    Some(file.split_at(at))
}

/// The low side's signing key, made now where there is none; and whether it was made.
pub fn receipt_key(keys_dir: &Path) -> Result<(SigningKey, bool), KeyError> {
    let path = keys_dir.join(RECEIPT_KEY_FILE);
    match generate_signing_key(&path) {
        Ok(key) => Ok((key, true)),
        Err(KeyError::Exists { .. }) => Ok((SigningKey::load(&path)?, false)),
        Err(err) => Err(err),
    }
}

/// How an armored signature begins.
const SIGNATURE_BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
/// The longest signature that is looked at.
const SIGNATURE_BYTES_MAX: usize = 1024;

/// What a low side's public half has as its signer.
pub(super) fn parse_signer(text: &str) -> Option<Box<ssh_key::PublicKey>> {
    match PublicKey::parse(text)? {
        PublicKey::Ed25519(key) => Some(key),
        PublicKey::Hybrid(_) | PublicKey::X25519(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Side;

    fn site() -> (tempfile::TempDir, SigningKey, PublicHalf) {
        let dir = tempfile::tempdir().unwrap();
        let (key, made) = receipt_key(dir.path()).unwrap();
        assert!(made && !receipt_key(dir.path()).unwrap().1, "a key is made once");
        let identity = age::x25519::Identity::generate().to_public();
        let half = PublicHalf {
            side: Side::Low,
            name: "soc-1".to_owned(),
            key: PublicKey::X25519(identity),
            signer: Some(Box::new(key.public_key())),
        };
        (dir, key, half)
    }

    #[test]
    fn a_statement_is_believed_for_its_kind_its_text_and_its_key_alone() {
        let (dir, key, half) = site();
        assert!(StatementSigners::add(dir.path(), &half).unwrap());
        assert!(!StatementSigners::add(dir.path(), &half).unwrap());
        let signers = StatementSigners::load(dir.path()).unwrap();
        let kind = StatementKind::Receipt;
        let signature = key.sign_statement(kind, b"text").unwrap();
        let by = |kind, text: &[u8], signature: &str| {
            signers.verify(kind, text, signature.as_bytes(), Nanos(0))
        };
        assert_eq!(by(kind, b"text", &signature).unwrap().name, "soc-1");
        assert_eq!(by(kind, b"other", &signature), Err(StatementProblem::Mismatch));
        let purpose = StatementProblem::Form("was made for another purpose");
        assert_eq!(by(StatementKind::Transfer, b"text", &signature), Err(purpose));
        let catalogue = key.sign_statement(StatementKind::Catalogue, b"text").unwrap();
        assert_eq!(
            by(StatementKind::Catalogue, b"text", &catalogue),
            Err(StatementProblem::UnknownKey),
            "a low side makes no catalogue"
        );
        let malformed = by(kind, b"text", &format!("{signature}\n"));
        assert!(matches!(malformed, Err(StatementProblem::Form(_))));
        let (_other, stranger, _) = site();
        let signature = stranger.sign_statement(kind, b"text").unwrap();
        assert_eq!(by(kind, b"text", &signature), Err(StatementProblem::UnknownKey));
    }

    #[test]
    fn several_keys_are_valid_until_one_is_revoked() {
        let (dir, old, half) = site();
        let (_new_dir, new, new_half) = site();
        for half in [&half, &new_half] {
            assert!(StatementSigners::add(dir.path(), half).unwrap());
        }
        let kind = StatementKind::Custody;
        let verify = |key: &SigningKey| {
            let signature = key.sign_statement(kind, b"x").unwrap();
            let signers = StatementSigners::load(dir.path()).unwrap();
            signers.verify(kind, b"x", signature.as_bytes(), Nanos(0)).map(|by| by.key)
        };
        assert_eq!(verify(&old), Ok(old.fingerprint()));
        assert_eq!(verify(&new), Ok(new.fingerprint()));
        let revoked = format!("{}\n", old.public_key().to_openssh().unwrap());
        std::fs::write(dir.path().join(REVOKED_KEYS_FILE), revoked).unwrap();
        assert_eq!(verify(&old), Err(StatementProblem::Revoked));
        assert_eq!(verify(&new), Ok(new.fingerprint()));
    }

    #[test]
    fn own_keys_are_the_present_ones_and_what_is_left_of_older_ones() {
        let (dir, key, _) = site();
        let (_old_dir, old, _) = site();
        let left = format!("{}\n", old.public_key().to_openssh().unwrap());
        std::fs::write(dir.path().join("receipt-2025.pub"), left).unwrap();
        let own = StatementSigners::own(dir.path(), "receipt", "soc-1").unwrap();
        for key in [&key, &old] {
            let kind = StatementKind::Custody;
            let signature = key.sign_statement(kind, b"x").unwrap();
            assert!(own.verify(kind, b"x", signature.as_bytes(), Nanos(0)).is_ok());
        }
    }

    #[test]
    fn a_file_is_split_where_its_signature_begins() {
        let (_dir, key, _) = site();
        let signature = key.sign_statement(StatementKind::Receipt, b"{}\n").unwrap();
        let file = format!("{{}}\n{signature}");
        assert_eq!(split_signed(file.as_bytes()), Some((&b"{}\n"[..], signature.as_bytes())));
        assert_eq!(split_signed(b"{}\n"), None);
    }
}
