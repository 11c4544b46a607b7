//! What officers sign so that a bundle may leave, and how it goes into the file (FORMAT.md section
//! 4.1). The high side writes it, the low side reads it; neither needs the payload for it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};
use ssh_key::{HashAlg, PublicKey, SshSig};

use super::BundleDigest;
use super::container::{
    self, BLOCK, HEADER_NAME, Layout, PAYLOAD_NAME, RELEASE_NAME, RELEASES_NAME, SIGNATURE_NAME,
    padded,
};
use super::limits::{HEADER_BYTES_MAX, SIGNATURE_BYTES_MAX, TAR_MEMBER_BYTES_MAX};
use super::sshsig::{self, Unfit};
use crate::keys::RELEASE_NAMESPACE;

/// The most officers whose signatures one bundle carries.
pub const RELEASES_MAX: usize = 8;

/// What an officer signs: which bundle may leave, and which summary of it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseStatement {
    /// The bundle's digest.
    pub bundle: BundleDigest,
    /// The SHA-256 of the summary.
    pub summary: BundleDigest,
}

impl ReleaseStatement {
    /// The statement's one encoding.
    pub fn encode(&self) -> String {
        format!("penstock-release 1\nbundle {}\nsummary {}\n", self.bundle, self.summary)
    }

    /// Parses a statement, which has exactly one form.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let rest = text.strip_prefix("penstock-release 1\nbundle ")?;
        let (bundle, summary) = rest.strip_suffix('\n')?.split_once("\nsummary ")?;
        Some(Self { bundle: bundle.parse().ok()?, summary: summary.parse().ok()? })
    }
}

/// Why a release is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseProblem {
    /// It breaks a rule of its form.
    #[error("the release {0}")]
    Malformed(&'static str),
    /// It is well-formed, and not a release of this bundle.
    #[error("the release {0}")]
    Wrong(&'static str),
}

/// One officer's signature, which fits its statement. Whose key it is, is another question.
#[derive(Clone, Debug)]
pub struct ReleaseSignature {
    key: PublicKey,
    fingerprint: String,
    armored: String,
}

impl ReleaseSignature {
    /// Takes an armored signature, if it is canonical and fits the statement.
    pub fn new(armored: &str, statement: &ReleaseStatement) -> Result<Self, ReleaseProblem> {
        let parsed =
            sshsig::parse(armored.as_bytes(), RELEASE_NAMESPACE).map_err(|unfit| match unfit {
                Unfit::Form(_) => {
                    ReleaseProblem::Malformed("has a signature that is malformed or not canonical")
                }
                Unfit::Purpose => {
                    ReleaseProblem::Wrong("has a signature that was made for another purpose")
                }
            })?;
        let key = PublicKey::new(parsed.public_key().clone(), "");
        fits(&key, statement, &parsed)?;
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        Ok(Self { key, fingerprint, armored: armored.to_owned() })
    }

    /// The signing key's name, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The signature as text.
    pub fn armored(&self) -> &str {
        &self.armored
    }

    /// The key that made it.
    pub(crate) fn key(&self) -> &PublicKey {
        &self.key
    }
}

fn fits(
    key: &PublicKey,
    statement: &ReleaseStatement,
    signature: &SshSig,
) -> Result<(), ReleaseProblem> {
    key.verify(RELEASE_NAMESPACE, statement.encode().as_bytes(), signature)
        .map_err(|_| ReleaseProblem::Wrong("has a signature that does not fit"))
}

/// A statement and the signatures that fit it, in the order in which a bundle carries them.
#[derive(Clone, Debug)]
pub struct Release {
    statement: ReleaseStatement,
    signatures: Vec<ReleaseSignature>,
}

impl Release {
    /// Puts signatures into their order; of each key one is kept.
    pub fn new(
        statement: ReleaseStatement,
        mut signatures: Vec<ReleaseSignature>,
    ) -> Result<Self, ReleaseProblem> {
        signatures.sort_by(|one, other| one.fingerprint.cmp(&other.fingerprint));
        signatures.dedup_by(|one, other| one.fingerprint == other.fingerprint);
        if !(1..=RELEASES_MAX).contains(&signatures.len()) {
            return Err(ReleaseProblem::Malformed("has no signature, or more than 8"));
        }
        Ok(Self { statement, signatures })
    }

    /// Parses the two members. Whether the release is of the bundle at hand, [`Release::statement`]
    /// says.
    pub fn parse(statement: &[u8], signatures: &[u8]) -> Result<Self, ReleaseProblem> {
        let malformed = ReleaseProblem::Malformed;
        let statement =
            ReleaseStatement::parse(statement).ok_or(malformed("has a malformed statement"))?;
        let mut rest = std::str::from_utf8(signatures)
            .map_err(|_| malformed("has signatures that are not UTF-8"))?;
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let end = rest.find(ARMOR_END).ok_or(malformed("has a malformed signature"))?;
            let (armored, after) = rest.split_at(end + ARMOR_END.len());
            if parts.len() == RELEASES_MAX {
                return Err(malformed("has more than 8 signatures"));
            }
            parts.push(ReleaseSignature::new(armored, &statement)?);
            rest = after;
        }
        if !parts.windows(2).all(|pair| pair[0].fingerprint < pair[1].fingerprint) {
            return Err(malformed("has signatures that are not in order, or a signer twice"));
        }
        Self::new(statement, parts)
    }

    /// What was signed.
    pub fn statement(&self) -> &ReleaseStatement {
        &self.statement
    }

    /// The signatures, sorted by their keys' fingerprints.
    pub fn signatures(&self) -> &[ReleaseSignature] {
        &self.signatures
    }

    fn members(&self) -> Vec<u8> {
        let signatures: String = self.signatures.iter().map(ReleaseSignature::armored).collect();
        let mut out = Vec::new();
        for (name, content) in
            [(RELEASE_NAME, self.statement.encode()), (RELEASES_NAME, signatures)]
        {
            out.extend_from_slice(&container::member_header(name, content.len() as u64));
            out.extend_from_slice(content.as_bytes());
            out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
        }
        out
    }
}

/// A bundle's file with a release in it, complete and synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleasedFile {
    /// Its length, in bytes.
    pub file_bytes: u64,
    /// Its SHA-256, for the sidecar.
    pub file_sha256: BundleDigest,
}

/// Why a release was not put into a bundle's file.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not the sealed bundle that was to be released.
    #[error("the file is not the bundle that was sealed")]
    OtherFile,
}

/// Writes a sealed bundle's file once more into an empty file, with a release in it, and syncs that.
/// Nothing else changes: the bundle's digest stays, and the same release gives the same bytes.
///
/// `sha256` is the SHA-256 of the sealed file.
///
/// # Errors
/// [`AttachError::OtherFile`] where the file is not the one that was sealed, or carries a release
/// already, or where the release is of another bundle.
pub fn attach_release(
    sealed: &File,
    sha256: &BundleDigest,
    release: &Release,
    target: &File,
) -> Result<ReleasedFile, AttachError> {
    let (digest, at) = look_at_sealed(sealed)?;
    if digest != release.statement.bundle {
        return Err(AttachError::OtherFile);
    }
    let mut source = sealed;
    source.seek(SeekFrom::Start(0))?;
    let mut source =
        Hashed { inner: BufReader::with_capacity(COPY_BYTES, source), hash: Sha256::new() };
    let mut out =
        Hashed { inner: BufWriter::with_capacity(COPY_BYTES, target), hash: Sha256::new() };
    let members = release.members();
    let before = io::copy(&mut (&mut source).take(at), &mut out)?;
    out.write_all(&members)?;
    let after = io::copy(&mut source, &mut out)?;
    let found = BundleDigest::from_bytes(source.hash.finalize().into());
    if before != at || found != *sha256 {
        return Err(AttachError::OtherFile);
    }
    out.flush()?;
    target.sync_all()?;
    Ok(ReleasedFile {
        file_bytes: before + members.len() as u64 + after,
        file_sha256: BundleDigest::from_bytes(out.hash.finalize().into()),
    })
}

/// The digest of the bundle in a file that we sealed ourselves.
pub fn digest_of_sealed(sealed: &File) -> Result<BundleDigest, AttachError> {
    look_at_sealed(sealed).map(|(digest, _)| digest)
}

/// The digest of a sealed bundle that carries no release yet, and where its payload's member begins.
fn look_at_sealed(file: &File) -> Result<(BundleDigest, u64), AttachError> {
    let member = |at: u64, name: &str, max: u64| -> Result<u64, AttachError> {
        let mut block = [0; BLOCK as usize];
        file.read_exact_at(&mut block, at)?;
        let size = container::member_size(&block, name);
        size.filter(|size| (1..=max).contains(size)).ok_or(AttachError::OtherFile)
    };
    let mut layout = Layout::default();
    layout.header_bytes = member(0, HEADER_NAME, HEADER_BYTES_MAX)?;
    layout.signature_bytes =
        member(layout.signature_member(), SIGNATURE_NAME, SIGNATURE_BYTES_MAX)?;
    let at = layout.payload_member();
    member(at, PAYLOAD_NAME, TAR_MEMBER_BYTES_MAX)?;
    let mut header = vec![0; layout.header_bytes as usize];
    file.read_exact_at(&mut header, Layout::header_start())?;
    debug_assert_eq!(at % BLOCK, padded(at) % BLOCK, "members begin at whole blocks");
    Ok((BundleDigest::of(&header), at))
}

/// Hashes what goes through.
struct Hashed<T> {
    inner: T,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hash.update(&buffer[..got]);
        Ok(got)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Where each signature ends.
const ARMOR_END: &str = "-----END SSH SIGNATURE-----\n";
const COPY_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_has_one_form() {
        let statement =
            ReleaseStatement { bundle: BundleDigest::of(b"b"), summary: BundleDigest::of(b"s") };
        let text = statement.encode();
        assert_eq!(text.len(), 164);
        assert_eq!(ReleaseStatement::parse(text.as_bytes()), Some(statement));
        for (from, to) in [
            ("release 1", "release 2"),
            ("release 1", "release 01"),
            ("bundle ", "bundle  "),
            ("summary", "Summary"),
            ("\nsummary", "\r\nsummary"),
            ("bundle 3", "bundle G"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert_eq!(ReleaseStatement::parse(changed.as_bytes()), None, "{to}");
        }
        for changed in [format!("{text}\n"), format!("{text}x y\n"), text.trim_end().to_owned()] {
            assert_eq!(ReleaseStatement::parse(changed.as_bytes()), None);
        }
    }
}
