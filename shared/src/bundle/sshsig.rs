//! An SSHSIG as bundles carry it: one form, one kind (FORMAT.md section 4).

use ssh_key::{HashAlg, LineEnding, SshSig};

/// What is wrong with a signature, before anybody asks whether it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is not the one form that such a signature has.
    Form(&'static str),
    /// It is a good signature, made for another purpose.
    Purpose,
}

impl Unfit {
    /// Why, as the end of a sentence.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Form(problem) => problem,
            Self::Purpose => "was made for another purpose",
        }
    }
}

/// Parses a canonical armored signature: version 1, nothing reserved, SHA-512, Ed25519, and this
/// namespace. Whether it fits a message is for the caller to find out.
pub(crate) fn parse(armored: &[u8], namespace: &str) -> Result<SshSig, Unfit> {
    let parsed = SshSig::from_pem(armored).map_err(|_| Unfit::Form("is malformed"))?;
    let canonical = parsed.to_pem(LineEnding::LF).is_ok_and(|pem| pem.as_bytes() == armored);
    if !canonical {
        return Err(Unfit::Form("is not canonical"));
    }
    // What an SSHSIG signs does not cover its version, and readers pass over its reserved field.
    if parsed.version() != SshSig::VERSION || !parsed.reserved().is_empty() {
        return Err(Unfit::Form("is of another version"));
    }
    if parsed.namespace() != namespace {
        return Err(Unfit::Purpose);
    }
    if parsed.hash_alg() != HashAlg::Sha512 {
        return Err(Unfit::Form("uses another hash than SHA-512"));
    }
    if parsed.public_key().ed25519().is_none() {
        return Err(Unfit::Form("is by no Ed25519 key"));
    }
    Ok(parsed)
}
