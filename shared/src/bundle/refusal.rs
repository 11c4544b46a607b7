//! Why a bundle is not believed. The codes are stable: they are quarantine reasons and metric labels.

use std::io;

use super::release::ReleaseProblem;
use crate::keys::SignerProblem;
use crate::record::RecordError;

/// A bundle that was refused, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The age header breaks a rule or a cap.
    #[error("the age header {0}")]
    AgeHeader(&'static str),
    /// The compressed data is malformed.
    #[error("the compressed data {0}")]
    Compression(&'static str),
    /// The file is not the one canonical tar.
    #[error("the container {0}")]
    Container(&'static str),
    /// The payload can't be decrypted. Deliberately says no more.
    #[error("the payload can't be decrypted")]
    Decryption,
    /// The payload is not the one that was signed.
    #[error("the payload's SHA-256 is not the one in the header")]
    Digest,
    /// The stored file is not the bundle that was admitted under this digest.
    #[error("the file is another bundle than the one that was admitted")]
    Exchanged,
    /// The header is malformed.
    #[error("the header {0}")]
    Header(&'static str),
    /// Reading failed: says nothing about the bundle, and is worth another try.
    #[error("can't read the bundle: {0}")]
    Io(#[source] io::Error),
    /// Something is larger than the site allows.
    #[error("the {0} is larger than the limit")]
    Limit(&'static str),
    /// The manifest is malformed.
    #[error("the manifest {0}")]
    Manifest(&'static str),
    /// The manifest does not fit the header or the records.
    #[error("the manifest does not fit the {0}")]
    Mismatch(&'static str),
    /// The bundle is for somebody else.
    #[error(
        "the bundle is encrypted to other keys than ours\n  try: pair the high side with this low side's public half"
    )]
    Recipient,
    /// A record is malformed.
    #[error("the records are malformed: {0}")]
    Records(#[from] RecordError),
    /// The release is malformed, or is none of this bundle.
    #[error(transparent)]
    Release(ReleaseProblem),
    /// Fewer officers released the bundle than the site demands.
    #[error(
        "the bundle was released by {found} of the {required} officers that this site demands\n  try: penstock-low officer list; on the high side: penstock-high review"
    )]
    ReleaseMissing {
        /// Officers of ours that released it.
        found: usize,
        /// How many it takes.
        required: usize,
    },
    /// The signature is malformed or wrong.
    #[error("the signature {0}")]
    Signature(&'static str),
    /// The signer is not believed.
    #[error("{}", signer_text(*.0))]
    Signer(SignerProblem),
    /// A format that this program does not know.
    #[error(
        "the bundle has format version {0}, which this program does not know\n  try: a newer penstock-low"
    )]
    Version(u64),
}

impl Refusal {
    /// The stable reason code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AgeHeader(_) => "age-header-malformed",
            Self::Compression(_) => "compression-malformed",
            Self::Container(_) => "container-malformed",
            Self::Decryption => "decryption-failed",
            Self::Digest => "payload-digest-mismatch",
            Self::Exchanged => "bundle-exchanged",
            Self::Header(_) => "header-malformed",
            Self::Io(_) => "io",
            Self::Limit(_) | Self::Records(RecordError::TooLong) => "limit-exceeded",
            Self::Manifest(_) => "manifest-malformed",
            Self::Mismatch(_) => "manifest-mismatch",
            Self::Recipient => "recipient-unknown",
            Self::Records(_) => "records-malformed",
            Self::Release(ReleaseProblem::Malformed(_)) => "release-malformed",
            Self::Release(ReleaseProblem::Wrong(_)) => "release-wrong",
            Self::ReleaseMissing { .. } => "release-missing",
            Self::Signature(_) => "signature-wrong",
            Self::Signer(SignerProblem::NotValidNow) => "signer-not-valid-now",
            Self::Signer(SignerProblem::Revoked) => "signer-revoked",
            Self::Signer(SignerProblem::UnknownKey) => "signer-unknown",
            Self::Signer(SignerProblem::UnknownOrigin) => "origin-unknown",
            Self::Version(_) => "version-unknown",
        }
    }

    /// Whether the file could not be read, so that nothing is known about the bundle.
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Io(_))
    }
}

impl From<io::Error> for Refusal {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

fn signer_text(problem: SignerProblem) -> &'static str {
    match problem {
        SignerProblem::NotValidNow => {
            "the signer's key is not valid at this time\n  try: look at valid-after and valid-before in allowed_signers, and at the clock"
        }
        SignerProblem::Revoked => "the signer's key was revoked",
        SignerProblem::UnknownKey => {
            "the origin is known, but not with this signing key\n  try: penstock-low pair HIGH.pub, after comparing the fingerprint"
        }
        SignerProblem::UnknownOrigin => {
            "no signer is trusted for this origin\n  try: penstock-low pair HIGH.pub, after comparing the fingerprint"
        }
    }
}
