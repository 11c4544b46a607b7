//! Manifest and records into a sealed file: compress, encrypt, digest, sign.
//!
//! ```text
//! caller's thread:  records ──> zstd ──chunks──┐ bounded queue
//! second thread:                               └──> age ──> SHA-256 ──> file
//! ```
//!
//! The payload is written first, behind a gap whose size is known beforehand; header and signature
//! go into the gap when the payload's digest is known. Memory does not depend on the bundle's size.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest, Sha256};

use super::BundleDigest;
use super::container::{self, HEADER_NAME, Layout, PAYLOAD_NAME, SIGNATURE_NAME};
use super::header::Header;
use super::limits::{
    HEADER_BYTES_MAX, MANIFEST_BYTES_MAX, SIGNATURE_BYTES_MAX, TAR_MEMBER_BYTES_MAX, WINDOW_LOG_MAX,
};
use super::manifest::Manifest;
use crate::keys::{Recipients, SigningKey};

/// A bundle that stands complete and synced in its file.
#[derive(Clone, Debug)]
pub struct SealedBundle {
    /// Its header.
    pub header: Header,
    /// Its identity, which its successor names.
    pub digest: BundleDigest,
    /// The file's length, in bytes.
    pub file_bytes: u64,
    /// The SHA-256 of the whole file, for the sidecar.
    pub file_sha256: BundleDigest,
}

/// Why no bundle was made. The file's content is worthless then.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Encryption failed.
    #[error("can't encrypt to the recipients: {0}")]
    Encrypt(String),
    /// Writing failed.
    #[error("can't write the bundle: {0}")]
    Io(#[from] io::Error),
    /// The manifest or the payload is larger than the format allows.
    #[error("the {0} is larger than the format allows")]
    TooLarge(&'static str),
    /// The records do not have the length that the manifest gives; a fault of ours.
    #[error("the manifest says {expected} bytes of records, {got} came")]
    RecordsLength {
        /// What the manifest says.
        expected: u64,
        /// What was written.
        got: u64,
    },
    /// Signing failed.
    #[error("can't sign the bundle: {0}")]
    Sign(String),
}

/// Seals the records that `write_records` writes, in their encoding, into an empty file, and syncs
/// it. `level` is zstd's compression level, 1 to 19.
pub fn seal(
    manifest: &Manifest,
    key: &SigningKey,
    recipients: &Recipients,
    level: i32,
    file: &File,
    write_records: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<SealedBundle, SealError> {
    let manifest_text = manifest.encode();
    if manifest_text.len() > MANIFEST_BYTES_MAX {
        return Err(SealError::TooLarge("manifest"));
    }
    let mut header = Header {
        origin: manifest.origin.clone(),
        epoch: manifest.epoch,
        lane: manifest.lane,
        number: manifest.number,
        previous: manifest.previous,
        payload_bytes: 0,
        payload_sha256: BundleDigest::ZERO,
        signer: key.fingerprint(),
        recipients: recipients.key_ids(),
    };
    // Header and signature have their final lengths before the payload is known.
    let sign =
        |text: &str| key.sign(text.as_bytes()).map_err(|err| SealError::Sign(err.to_string()));
    let text = header.encode();
    let mut layout = Layout {
        header_bytes: text.len() as u64,
        signature_bytes: sign(&text)?.len() as u64,
        ..Layout::default()
    };
    if layout.header_bytes > HEADER_BYTES_MAX || layout.signature_bytes > SIGNATURE_BYTES_MAX {
        return Err(SealError::TooLarge("header"));
    }

    let encryptor = age::Encryptor::with_recipients(recipients.as_age().into_iter())
        .map_err(|err| SealError::Encrypt(err.to_string()))?;
    let mut out = file;
    out.seek(SeekFrom::Start(layout.payload_start()))?;
    let (sender, receiver) = sync_channel(QUEUE_CHUNKS);
    let (compressed, payload) = std::thread::scope(|scope| {
        let second = scope.spawn(move || encrypt(encryptor, &receiver, file));
        let compressed = compress(manifest, &manifest_text, level, sender, write_records);
        let payload = second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (compressed, payload)
    });
    // The second thread's error is the cause where both failed: the queue just closed on the first.
    let (payload_bytes, payload_sha256) = payload?;
    compressed?;
    if payload_bytes > TAR_MEMBER_BYTES_MAX {
        return Err(SealError::TooLarge("payload"));
    }

    header.payload_bytes = payload_bytes;
    header.payload_sha256 = payload_sha256;
    layout.payload_bytes = payload_bytes;
    let text = header.encode();
    let signature = sign(&text)?;
    debug_assert_eq!(layout.header_bytes, text.len() as u64, "the header's length is fixed");
    if layout.signature_bytes != signature.len() as u64 {
        return Err(SealError::Sign("the signature's length changed".to_owned()));
    }
    let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at);
    put(0, &container::member_header(HEADER_NAME, layout.header_bytes))?;
    put(Layout::header_start(), text.as_bytes())?;
    put(
        layout.signature_member(),
        &container::member_header(SIGNATURE_NAME, layout.signature_bytes),
    )?;
    put(layout.signature_start(), signature.as_bytes())?;
    put(layout.payload_member(), &container::member_header(PAYLOAD_NAME, payload_bytes))?;
    // Extending a file fills it with zeros: padding and trailer.
    file.set_len(layout.file_bytes())?;
    file.sync_all()?;
    let file_sha256 = sha256_of(file, layout.file_bytes())?;
    Ok(SealedBundle {
        digest: BundleDigest::of(text.as_bytes()),
        header,
        file_bytes: layout.file_bytes(),
        file_sha256,
    })
}

fn compress(
    manifest: &Manifest,
    manifest_text: &str,
    level: i32,
    sender: SyncSender<Vec<u8>>,
    write_records: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), SealError> {
    let queue = ChunkWriter { sender, chunk: Vec::with_capacity(CHUNK_BYTES) };
    let mut encoder = zstd::Encoder::new(queue, level.clamp(1, 19))?;
    // Levels above 16 would otherwise ask readers for more memory than they grant.
    if level > 16 {
        encoder.window_log(WINDOW_LOG_MAX)?;
    }
    let plain_bytes = manifest_text.len() as u64 + manifest.records_bytes;
    encoder.set_pledged_src_size(Some(plain_bytes))?;
    encoder.write_all(manifest_text.as_bytes())?;
    let mut counted = Counted { inner: encoder, count: 0, limit: manifest.records_bytes };
    let written = write_records(&mut counted);
    if counted.count != manifest.records_bytes {
        written?;
        let expected = manifest.records_bytes;
        return Err(SealError::RecordsLength { expected, got: counted.count });
    }
    written?;
    let mut queue = counted.inner.finish()?;
    queue.flush()?;
    Ok(())
}

fn encrypt(
    encryptor: age::Encryptor,
    chunks: &Receiver<Vec<u8>>,
    file: &File,
) -> Result<(u64, BundleDigest), SealError> {
    let out = Hashed {
        inner: BufWriter::with_capacity(CHUNK_BYTES, file),
        hash: Sha256::new(),
        count: 0,
    };
    let mut writer = encryptor.wrap_output(out)?;
    for chunk in chunks {
        writer.write_all(&chunk)?;
    }
    let mut out = writer.finish()?;
    out.flush()?;
    Ok((out.count, BundleDigest::from_bytes(out.hash.finalize().into())))
}

/// The SHA-256 of a file's first bytes, read back from the file.
fn sha256_of(file: &File, bytes: u64) -> io::Result<BundleDigest> {
    let mut reader = file;
    reader.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        reader.read_exact(&mut buffer[..want])?;
        hash.update(&buffer[..want]);
        left -= want as u64;
    }
    Ok(BundleDigest::from_bytes(hash.finalize().into()))
}

/// Collects bytes into chunks and hands them to the second thread.
struct ChunkWriter {
    sender: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        let closed = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the encrypting thread stopped");
        self.sender.send(chunk).map_err(closed)
    }
}

/// Counts what the caller writes and stops it at what the manifest announced.
struct Counted<W> {
    inner: W,
    count: u64,
    limit: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.count + bytes.len() as u64 > self.limit {
            self.count += bytes.len() as u64;
            return Err(io::Error::other("more records than the manifest announced"));
        }
        let written = self.inner.write(bytes)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes and counts what goes through.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The size of the pieces that pass between the threads, in bytes.
const CHUNK_BYTES: usize = 128 * 1024;
/// How many pieces may wait between the threads: 1 MiB.
const QUEUE_CHUNKS: usize = 8;
