//! The one path by which a bundle is believed. The steps are numbered as in FORMAT.md section 8;
//! nothing later ever runs on what failed earlier.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use super::container::{
    self, BLOCK, HEADER_NAME, Layout, PAYLOAD_NAME, RELEASE_NAME, RELEASES_NAME, SIGNATURE_NAME,
    TRAILER_BYTES, padded,
};
use super::header::Header;
use super::limits::{
    HEADER_BYTES_MAX, Limits, RELEASE_BYTES_MAX, RELEASES_BYTES_MAX, SIGNATURE_BYTES_MAX,
};
use super::manifest::Manifest;
use super::payload::RecordReader;
use super::refusal::Refusal;
use super::release::{Release, ReleaseProblem, ReleaseSignature};
use super::{BundleDigest, FORMAT_VERSION, sshsig};
use crate::clock::Nanos;
use crate::keys::{BUNDLE_NAMESPACE, Identities, Trust};

/// A bundle that is authentic, whole and within the limits, down to its last record.
#[derive(Clone, Debug)]
pub struct VerifiedBundle {
    header: Header,
    manifest: Manifest,
    digest: BundleDigest,
    file_bytes: u64,
    releases: Vec<ReleasedBy>,
}

/// Somebody whose signature releases a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasedBy {
    /// The officer whose key it is, if we believe it now; nobody else counts.
    pub officer: Option<String>,
    /// The key's fingerprint.
    pub key: String,
}

impl VerifiedBundle {
    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }
    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    /// Its identity.
    pub fn digest(&self) -> BundleDigest {
        self.digest
    }
    /// The file's length, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
    /// Whose signatures release it, by the order of their keys.
    pub fn releases(&self) -> &[ReleasedBy] {
        &self.releases
    }
    /// The officers who released it.
    pub fn officers(&self) -> impl Iterator<Item = &str> {
        self.releases.iter().filter_map(|by| by.officer.as_deref())
    }
}

/// Verifies a bundle wholly: container, signature, release, digest, decryption, compression, manifest and
/// every record. The file must be a private copy that nobody changes meanwhile.
///
/// # Errors
/// The first rule that the bundle breaks, or [`Refusal::Io`] where the file can't be read.
pub fn open(
    file: &File,
    trust: &Trust,
    identities: &Identities,
    limits: &Limits,
    now: Nanos,
) -> Result<VerifiedBundle, Refusal> {
    let (signed, layout) = signed_header(file, trust, limits, now)?;
    verify_payload(file, layout, signed, identities, limits)
}

/// As [`open`], for a bundle that was admitted before under this digest. Whether its signer and its
/// officers were believed was decided then, and the digest stands for that decision: it is the SHA-256 of
/// the header's bytes, which the signature is over, and the header holds the SHA-256 of the payload. Another
/// file of this digest would be a collision of SHA-256, whoever made it and with whatever key. So what is
/// asked of the signature is only that it is still the header's own, by the key that the header names.
///
/// The caller must have the digest from where nobody writes but this side: the ledger, or what a
/// checkpoint of the custody log covers.
///
/// # Errors
/// As of [`open`]; [`Refusal::Exchanged`] where it is another bundle.
pub fn open_admitted(
    file: &File,
    digest: &BundleDigest,
    trust: &Trust,
    identities: &Identities,
    limits: &Limits,
    now: Nanos,
) -> Result<VerifiedBundle, Refusal> {
    let container = read_container(file, limits)?;
    if BundleDigest::of(&container.header_bytes) != *digest {
        return Err(Refusal::Exchanged);
    }
    let parsed = sshsig::parse(&container.signature, BUNDLE_NAMESPACE)
        .map_err(|unfit| Refusal::Signature(unfit.text()))?;
    let key = ssh_key::PublicKey::new(parsed.public_key().clone(), "");
    if key.fingerprint(ssh_key::HashAlg::Sha256).to_string() != container.header.signer {
        return Err(Refusal::Signature("carries another key than the header names"));
    }
    verify_by(&key, &container.header_bytes, &parsed)?;
    let releases = releases(digest, container.release.as_ref(), |key| trust.officer(key, now))?;
    let signed = SignedHeader { header: container.header, digest: *digest, releases };
    verify_payload(file, container.layout, signed, identities, limits)
}

/// As [`open`], with the time of signer and officers judged when the bundle was sealed, as its own manifest
/// says. That time is the signer's word: whoever stole a key whose time is over can write any. So this
/// is for a person to decide who knows where the file was kept since then, and never for an agent. A
/// revoked key stays refused.
///
/// # Errors
/// As of [`open`].
pub fn open_sealed_in_time(
    file: &File,
    trust: &Trust,
    identities: &Identities,
    limits: &Limits,
    now: Nanos,
) -> Result<VerifiedBundle, Refusal> {
    let container = read_container(file, limits)?;
    let header = container.header;
    let key = trust.signer_of_any_time(&header.origin, &header.signer).map_err(Refusal::Signer)?;
    verify_signature(key, &container.header_bytes, &container.signature)?;
    let digest = BundleDigest::of(&container.header_bytes);
    let release = container.release.as_ref();
    let counted = releases(&digest, release, |key| trust.officer_of_any_time(key))?;
    verify_demand(&header, &counted, trust)?;
    let signed = SignedHeader { header, digest, releases: counted };
    let mut bundle = verify_payload(file, container.layout, signed, identities, limits)?;
    // Not later than now: what is yet to be believed is not believed yet.
    let sealed = bundle.manifest.sealed_at.min(now);
    let header = &bundle.header;
    trust
        .signer(&header.origin, &header.signer, now)
        .or_else(|_| trust.signer(&header.origin, &header.signer, sealed))
        .map_err(Refusal::Signer)?;
    // An officer releases after the sealing, with a key that may have begun in between.
    let believed = |key: &_| trust.officer(key, sealed).or_else(|| trust.officer(key, now));
    bundle.releases = releases(&digest, release, believed)?;
    verify_demand(&bundle.header, &bundle.releases, trust)?;
    Ok(bundle)
}

/// Steps 6 to 11.
fn verify_payload(
    file: &File,
    layout: Layout,
    signed: SignedHeader,
    identities: &Identities,
    limits: &Limits,
) -> Result<VerifiedBundle, Refusal> {
    let SignedHeader { header, digest, releases } = signed;
    verify_digest(file, layout, &header)?;
    let mut records = RecordReader::start(file, layout, &header, identities, limits)?;
    records.verify()?;
    Ok(VerifiedBundle {
        digest,
        releases,
        file_bytes: layout.file_bytes(),
        manifest: records.into_manifest(),
        header,
    })
}

/// What can be verified of a bundle without a decryption key: who signed it, and who released it. Of its
/// payload nothing is known.
#[derive(Clone, Debug)]
pub struct SignedHeader {
    /// The header, which the signature is over.
    pub header: Header,
    /// The bundle's identity.
    pub digest: BundleDigest,
    /// Whose signatures release it, by the order of their keys.
    pub releases: Vec<ReleasedBy>,
}

/// Verifies container, signature and release of a bundle, and reads nothing of its payload: enough to
/// say of a stored bundle who let it leave.
///
/// # Errors
/// The first rule that it breaks, or [`Refusal::Io`] where the file can't be read.
pub fn verify_header(
    file: &File,
    trust: &Trust,
    limits: &Limits,
    now: Nanos,
) -> Result<SignedHeader, Refusal> {
    signed_header(file, trust, limits, now).map(|(signed, _)| signed)
}

/// Steps 1 to 5.
fn signed_header(
    file: &File,
    trust: &Trust,
    limits: &Limits,
    now: Nanos,
) -> Result<(SignedHeader, Layout), Refusal> {
    let container = read_container(file, limits)?;
    let header = container.header;
    let key = trust.signer(&header.origin, &header.signer, now).map_err(Refusal::Signer)?;
    verify_signature(key, &container.header_bytes, &container.signature)?;
    let digest = BundleDigest::of(&container.header_bytes);
    let releases = releases(&digest, container.release.as_ref(), |key| trust.officer(key, now))?;
    verify_demand(&header, &releases, trust)?;
    Ok((SignedHeader { header, digest, releases }, container.layout))
}

/// Reads a bundle again that was opened and admitted before. Its digest, kept by the ledger, stands
/// for the signature: a signer's time may be over long before its records are replayed.
pub fn reopen(
    file: &File,
    digest: &BundleDigest,
    identities: &Identities,
    limits: &Limits,
) -> Result<RecordReader, Refusal> {
    let container = read_container(file, limits)?;
    if BundleDigest::of(&container.header_bytes) != *digest {
        return Err(Refusal::Exchanged);
    }
    verify_digest(file, container.layout, &container.header)?;
    RecordReader::start(file, container.layout, &container.header, identities, limits)
}

/// Compares a file with the bundle of this digest, without any key: the digest, kept by the ledger,
/// stands for the signature, and the header names the payload's digest. What stands beside these, the
/// signature itself and the releases, is not compared: only a digest of the whole file does that.
pub fn compare(file: &File, digest: &BundleDigest, limits: &Limits) -> Result<Header, Refusal> {
    let container = read_container(file, limits)?;
    if BundleDigest::of(&container.header_bytes) != *digest {
        return Err(Refusal::Exchanged);
    }
    verify_digest(file, container.layout, &container.header)?;
    Ok(container.header)
}

/// Reads the plaintext header of a canonical container. Nothing of it is verified.
pub fn inspect(file: &File, limits: &Limits) -> Result<Header, Refusal> {
    read_container(file, limits).map(|container| container.header)
}

/// As [`inspect`], with the digest by which the bundle would be known.
pub fn inspect_digest(file: &File, limits: &Limits) -> Result<(Header, BundleDigest), Refusal> {
    let container = read_container(file, limits)?;
    let digest = BundleDigest::of(&container.header_bytes);
    Ok((container.header, digest))
}

struct Container {
    layout: Layout,
    header: Header,
    header_bytes: Vec<u8>,
    signature: Vec<u8>,
    /// Statement and signatures.
    release: Option<(Vec<u8>, Vec<u8>)>,
}

/// Steps 1 to 3: sizes, container, header.
fn read_container(file: &File, limits: &Limits) -> Result<Container, Refusal> {
    // FORMAT.md 8.1
    let file_bytes = file.metadata()?.len();
    if file_bytes > limits.file_bytes_max {
        return Err(Refusal::Limit("file"));
    }
    // FORMAT.md 8.2
    let mut layout = Layout::default();
    layout.header_bytes = member(file, 0, HEADER_NAME, HEADER_BYTES_MAX)?;
    layout.signature_bytes =
        member(file, layout.signature_member(), SIGNATURE_NAME, SIGNATURE_BYTES_MAX)?;
    let next = read(file, layout.behind_signature(), BLOCK)?;
    if let Some(size) = container::member_size(&next, RELEASE_NAME) {
        layout.release_bytes = within(size, RELEASE_BYTES_MAX)?;
        layout.releases_bytes =
            member(file, layout.releases_member(), RELEASES_NAME, RELEASES_BYTES_MAX)?;
    }
    layout.payload_bytes =
        member(file, layout.payload_member(), PAYLOAD_NAME, limits.file_bytes_max)?;
    if layout.file_bytes() != file_bytes {
        return Err(Refusal::Container("has another length than its members"));
    }
    let header_bytes = content(file, Layout::header_start(), layout.header_bytes)?;
    let signature = content(file, layout.signature_start(), layout.signature_bytes)?;
    let release = if layout.release_bytes == 0 {
        None
    } else {
        let statement = content(file, layout.release_start(), layout.release_bytes)?;
        Some((statement, content(file, layout.releases_start(), layout.releases_bytes)?))
    };
    let payload_padding = padded(layout.payload_bytes) - layout.payload_bytes;
    let end = read(file, layout.payload_end(), payload_padding + TRAILER_BYTES)?;
    if end.iter().any(|byte| *byte != 0) {
        return Err(Refusal::Container("has something in its padding or trailer"));
    }
    // FORMAT.md 8.3
    match Header::version(&header_bytes) {
        Some(version) if version == u64::from(FORMAT_VERSION) => {}
        Some(version) => return Err(Refusal::Version(version)),
        None => return Err(Refusal::Header("does not begin with a version")),
    }
    let header = Header::parse(&header_bytes).map_err(Refusal::Header)?;
    if header.payload_bytes != layout.payload_bytes {
        return Err(Refusal::Header("gives another length of the payload than the container"));
    }
    Ok(Container { layout, header, header_bytes, signature, release })
}

/// Reads a member's tar header and gives its size: the only thing that is free in it.
fn member(file: &File, at: u64, name: &str, size_max: u64) -> Result<u64, Refusal> {
    let size = container::member_size(&read(file, at, BLOCK)?, name);
    within(size.ok_or(Refusal::Container("has a member that is not canonical"))?, size_max)
}

fn within(size: u64, size_max: u64) -> Result<u64, Refusal> {
    if size > size_max || size == 0 {
        return Err(Refusal::Container("has a member of a size that can't be"));
    }
    Ok(size)
}

/// Reads a member's content and checks that its padding is zero.
fn content(file: &File, at: u64, size: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = read(file, at, padded(size))?;
    if bytes.drain(size as usize..).any(|byte| byte != 0) {
        return Err(Refusal::Container("has something in its padding or trailer"));
    }
    Ok(bytes)
}

fn read(file: &File, at: u64, size: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, at).map_err(|err| match err.kind() {
        io::ErrorKind::UnexpectedEof => Refusal::Container("ends early"),
        _ => Refusal::Io(err),
    })?;
    Ok(bytes)
}

/// Step 4: the signature by a key of our list, over the header's bytes as they came.
fn verify_signature(
    key: &ssh_key::PublicKey,
    header_bytes: &[u8],
    signature: &[u8],
) -> Result<(), Refusal> {
    let parsed = sshsig::parse(signature, BUNDLE_NAMESPACE)
        .map_err(|unfit| Refusal::Signature(unfit.text()))?;
    // The key comes from our list; the one inside the signature must be the same.
    if parsed.public_key() != key.key_data() {
        return Err(Refusal::Signature("carries another key than the header names"));
    }
    verify_by(key, header_bytes, &parsed)
}

fn verify_by(
    key: &ssh_key::PublicKey,
    header_bytes: &[u8],
    signature: &ssh_key::SshSig,
) -> Result<(), Refusal> {
    key.verify(BUNDLE_NAMESPACE, header_bytes, signature)
        .map_err(|_| Refusal::Signature("does not fit the header"))
}

/// Step 5, first half: the release, over its bytes as they came. A wrong one is refused whoever demands one.
fn releases<'t>(
    digest: &BundleDigest,
    release: Option<&(Vec<u8>, Vec<u8>)>,
    believed: impl Fn(&ssh_key::public::KeyData) -> Option<&'t str>,
) -> Result<Vec<ReleasedBy>, Refusal> {
    let Some((statement, signatures)) = release else { return Ok(Vec::new()) };
    let release = Release::parse(statement, signatures).map_err(Refusal::Release)?;
    if release.statement().bundle != *digest {
        return Err(Refusal::Release(ReleaseProblem::Wrong("is of another bundle")));
    }
    let by = |signature: &ReleaseSignature| ReleasedBy {
        officer: believed(signature.key().key_data()).map(ToOwned::to_owned),
        key: signature.fingerprint().to_owned(),
    };
    Ok(release.signatures().iter().map(by).collect())
}

/// Step 5, second half: as many officers released it as the site demands.
fn verify_demand(header: &Header, releases: &[ReleasedBy], trust: &Trust) -> Result<(), Refusal> {
    let demand = trust.release_demand(&header.origin, header.lane);
    let mut counted: Vec<&str> = releases.iter().filter_map(|by| by.officer.as_deref()).collect();
    counted.retain(|officer| demand.takes(officer));
    counted.sort_unstable();
    counted.dedup();
    if counted.len() < demand.required {
        return Err(Refusal::ReleaseMissing { found: counted.len(), required: demand.required });
    }
    Ok(())
}

/// Step 6: the payload is the one that was signed.
fn verify_digest(file: &File, layout: Layout, header: &Header) -> Result<(), Refusal> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; DIGEST_BUFFER_BYTES];
    let mut at = layout.payload_start();
    while at < layout.payload_end() {
        let left = layout.payload_end() - at;
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact_at(&mut buffer[..want], at)?;
        hash.update(&buffer[..want]);
        at += want as u64;
    }
    let found = BundleDigest::from_bytes(hash.finalize().into());
    if found == header.payload_sha256 { Ok(()) } else { Err(Refusal::Digest) }
}

const DIGEST_BUFFER_BYTES: usize = 256 * 1024;
