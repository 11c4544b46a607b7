//! The one path by which a bundle is believed. The steps are numbered as in FORMAT.md section 8;
//! nothing later ever runs on what failed earlier.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};
use ssh_key::{HashAlg, LineEnding, SshSig};

use super::container::{
    self, BLOCK, HEADER_NAME, Layout, PAYLOAD_NAME, SIGNATURE_NAME, TRAILER_BYTES, padded,
};
use super::header::Header;
use super::limits::{HEADER_BYTES_MAX, Limits, SIGNATURE_BYTES_MAX};
use super::manifest::Manifest;
use super::payload::RecordReader;
use super::refusal::Refusal;
use super::{BundleDigest, FORMAT_VERSION};
use crate::clock::Nanos;
use crate::keys::{BUNDLE_NAMESPACE, Identities, Trust};

/// A bundle that is authentic, whole and within the limits, down to its last record.
#[derive(Clone, Debug)]
pub struct VerifiedBundle {
    header: Header,
    manifest: Manifest,
    digest: BundleDigest,
    file_bytes: u64,
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
}

/// Verifies a bundle wholly: container, signature, digest, decryption, compression, manifest and
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
    let container = read_container(file, limits)?;
    let header = container.header;
    verify_signature(&header, &container.header_bytes, &container.signature, trust, now)?;
    verify_digest(file, container.layout, &header)?;
    let mut records = RecordReader::start(file, container.layout, &header, identities, limits)?;
    records.verify()?;
    Ok(VerifiedBundle {
        digest: BundleDigest::of(&container.header_bytes),
        file_bytes: container.layout.file_bytes(),
        manifest: records.into_manifest(),
        header,
    })
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

/// Reads the plaintext header of a canonical container. Nothing of it is verified.
pub fn inspect(file: &File, limits: &Limits) -> Result<Header, Refusal> {
    read_container(file, limits).map(|container| container.header)
}

struct Container {
    layout: Layout,
    header: Header,
    header_bytes: Vec<u8>,
    signature: Vec<u8>,
}

/// Steps 1 to 3: sizes, container, header.
fn read_container(file: &File, limits: &Limits) -> Result<Container, Refusal> {
    // FORMAT.md 8.1
    let file_bytes = file.metadata()?.len();
    if file_bytes > limits.file_bytes_max {
        return Err(Refusal::Limit("file"));
    }
    // FORMAT.md 8.2
    let mut layout = Layout { header_bytes: 0, signature_bytes: 0, payload_bytes: 0 };
    layout.header_bytes = member(file, 0, HEADER_NAME, HEADER_BYTES_MAX)?;
    layout.signature_bytes =
        member(file, layout.signature_member(), SIGNATURE_NAME, SIGNATURE_BYTES_MAX)?;
    layout.payload_bytes =
        member(file, layout.payload_member(), PAYLOAD_NAME, limits.file_bytes_max)?;
    if layout.file_bytes() != file_bytes {
        return Err(Refusal::Container("has another length than its members"));
    }
    let header_bytes = content(file, Layout::header_start(), layout.header_bytes)?;
    let signature = content(file, layout.signature_start(), layout.signature_bytes)?;
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
    Ok(Container { layout, header, header_bytes, signature })
}

/// Reads a member's tar header and gives its size: the only thing that is free in it.
fn member(file: &File, at: u64, name: &str, size_max: u64) -> Result<u64, Refusal> {
    const MALFORMED: Refusal = Refusal::Container("has a member that is not canonical");
    let found = read(file, at, BLOCK)?;
    // ustar: size is eleven octal digits at offset 124.
    let digits = &found[124..135];
    let octal = digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
    if !octal {
        return Err(MALFORMED);
    }
    let size = digits.iter().fold(0_u64, |size, digit| size * 8 + u64::from(digit - b'0'));
    if found != container::member_header(name, size) {
        return Err(MALFORMED);
    }
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

/// Step 4: the signature, over the header's bytes as they came.
fn verify_signature(
    header: &Header,
    header_bytes: &[u8],
    signature: &[u8],
    trust: &Trust,
    now: Nanos,
) -> Result<(), Refusal> {
    let key = trust.signer(&header.origin, &header.signer, now).map_err(Refusal::Signer)?;
    let parsed = SshSig::from_pem(signature).map_err(|_| Refusal::Signature("is malformed"))?;
    let canonical = parsed.to_pem(LineEnding::LF).is_ok_and(|pem| pem.as_bytes() == signature);
    if !canonical {
        return Err(Refusal::Signature("is not canonical"));
    }
    // What an SSHSIG signs does not cover its version, and readers pass over its reserved field.
    if parsed.version() != SshSig::VERSION || !parsed.reserved().is_empty() {
        return Err(Refusal::Signature("is of another version"));
    }
    if parsed.namespace() != BUNDLE_NAMESPACE {
        return Err(Refusal::Signature("was made for another purpose"));
    }
    if parsed.hash_alg() != HashAlg::Sha512 {
        return Err(Refusal::Signature("uses another hash than SHA-512"));
    }
    // The key comes from our list; the one inside the signature must be the same.
    if parsed.public_key() != key.key_data() {
        return Err(Refusal::Signature("carries another key than the header names"));
    }
    key.verify(BUNDLE_NAMESPACE, header_bytes, &parsed)
        .map_err(|_| Refusal::Signature("does not fit the header"))
}

/// Step 5: the payload is the one that was signed.
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
