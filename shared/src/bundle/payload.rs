//! From the payload's bytes to records, streamed: steps 7 to 11 of FORMAT.md section 8.
//!
//! ```text
//! second thread:  file ──> age ──chunks──┐ bounded queue
//! third thread:                          └──> zstd ──pieces──┐ bounded queue
//! reader's thread:                                           └──> manifest, records
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::container::Layout;
use super::header::Header;
use super::limits::{
    AGE_HEADER_BYTES_MAX, AGE_STANZAS_MAX, Limits, MANIFEST_BYTES_MAX, WINDOW_LOG_MAX,
};
use super::manifest::{Manifest, StreamCount, SuppressedCount};
use super::refusal::Refusal;
use crate::clock::Nanos;
use crate::keys::Identities;
use crate::record::{self, Entry, RecordError, RecordRef, Sequence, Stream, Suppressed};

/// Reads the records of one payload in order, with bounded memory, and checks each against the
/// manifest.
pub struct RecordReader {
    manifest: Manifest,
    plain: Plain,
    limits: Limits,
    seen: Seen,
}

impl std::fmt::Debug for RecordReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordReader").field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// What the records so far add up to.
#[derive(Debug)]
struct Seen {
    next: Sequence,
    /// The losses before this one have been passed.
    loss: usize,
    records: u64,
    bytes: u64,
    oldest: Option<Nanos>,
    newest: Option<Nanos>,
    streams: [(u64, u64); Stream::ALL.len()],
    /// In the order of the manifest's counts.
    suppressed: Vec<(u64, u64)>,
    ended: bool,
}

impl RecordReader {
    /// Begins to read a payload whose digest was verified.
    pub(super) fn start(
        file: &File,
        layout: Layout,
        header: &Header,
        identities: &Identities,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        let section = Section {
            file: file.try_clone()?,
            at: layout.payload_start(),
            end: layout.payload_end(),
        };
        // FORMAT.md 8.7
        check_age_header(&section, header)?;
        // FORMAT.md 8.8
        let input = BufReader::with_capacity(CHUNK_BYTES, section);
        let decryptor = age::Decryptor::new_buffered(input).map_err(refuse_age)?;
        let decrypted =
            decryptor.decrypt(identities.named(&header.recipients)).map_err(refuse_age)?;
        let (sender, receiver) = sync_channel(QUEUE_CHUNKS);
        let thread = std::thread::Builder::new()
            .name("bundle-decrypt".to_owned())
            .spawn(move || decrypt(decrypted, &sender))?;
        let mut chunks = ChunkReader {
            receiver: Some(receiver),
            thread: Some(thread),
            chunk: Vec::new(),
            at: 0,
        };
        // FORMAT.md 8.9
        let plain_bytes = frame_content_size(&mut chunks)?;
        if plain_bytes > limits.plain_bytes_max {
            return Err(Refusal::Limit("unpacked payload"));
        }
        let mut decoder = zstd::Decoder::with_buffer(chunks).map_err(refuse_plain)?.single_frame();
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(refuse_plain)?;
        let mut plain = Plain::start(decoder, plain_bytes)?;
        // FORMAT.md 8.10
        let manifest = read_manifest(&mut plain)?;
        check_manifest(&manifest, header)?;
        if plain.unread() != manifest.records_bytes {
            return Err(Refusal::Mismatch("length of the records"));
        }
        let seen = Seen {
            next: manifest.first_sequence,
            loss: 0,
            records: 0,
            bytes: 0,
            oldest: None,
            newest: None,
            streams: [(0, 0); Stream::ALL.len()],
            suppressed: vec![(0, 0); manifest.suppressed.len()],
            ended: false,
        };
        Ok(Self { manifest, plain, limits: *limits, seen })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn into_manifest(self) -> Manifest {
        self.manifest
    }

    /// The next record; `None` after the last one, when everything added up. What rules suppressed
    /// is checked and passed over.
    ///
    /// # Errors
    /// After an error the reader is of no more use.
    pub fn next_record(&mut self) -> Result<Option<RecordRef<'_>>, Refusal> {
        while self.is_entry_ready()? {
            if self.plain.buffered().starts_with(b"s ") {
                self.next_entry()?;
                continue;
            }
            return Ok(match self.next_entry()? {
                Some(Entry::Record(record)) => Some(record),
                Some(Entry::Suppressed(_)) | None => None,
            });
        }
        Ok(None)
    }

    /// What stands for the next sequence number; `None` after the last one, when everything added up.
    ///
    /// # Errors
    /// After an error the reader is of no more use.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, Refusal> {
        if !self.is_entry_ready()? {
            return Ok(None);
        }
        let start = self.plain.start;
        let raw_max = self.limits.record_bytes_max;
        let window = &self.plain.buffer[start..self.plain.end];
        let (entry, length) = record::parse_entry(window, raw_max)?;
        self.plain.start += length;
        match &entry {
            Entry::Record(record) => self.seen.note(record, &self.manifest)?,
            Entry::Suppressed(gone) => self.seen.note_suppressed(gone, &self.manifest)?,
        }
        Ok(Some(entry))
    }

    /// Reads until a whole entry is at hand; `false` at the end, when everything added up.
    fn is_entry_ready(&mut self) -> Result<bool, Refusal> {
        // FORMAT.md 8.11. What is ready is parsed again when it is taken: the borrow checker can't
        // see that an early return would end the first borrow, and a head line is cheap beside
        // what is done with its record.
        loop {
            match record::parse_entry(self.plain.buffered(), self.limits.record_bytes_max) {
                Ok(_) => return Ok(true),
                Err(RecordError::Incomplete) => {
                    if self.plain.fill()? == 0 {
                        return self.finish().map(|()| false);
                    }
                }
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// Reads all records that are left, each of them once, and forgets them.
    pub(super) fn verify(&mut self) -> Result<(), Refusal> {
        let raw_max = self.limits.record_bytes_max;
        loop {
            match record::parse_entry(self.plain.buffered(), raw_max) {
                Ok((entry, length)) => {
                    match entry {
                        Entry::Record(record) => self.seen.note(&record, &self.manifest)?,
                        Entry::Suppressed(suppressed) => {
                            self.seen.note_suppressed(&suppressed, &self.manifest)?;
                        }
                    }
                    self.plain.start += length;
                }
                Err(RecordError::Incomplete) => {
                    if self.plain.fill()? == 0 {
                        return self.finish();
                    }
                }
                Err(err) => return Err(err.into()),
            }
        }
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        if self.seen.ended {
            return Ok(());
        }
        if !self.plain.buffered().is_empty() {
            return Err(RecordError::Incomplete.into());
        }
        self.seen.pass_losses(&self.manifest);
        self.plain.expect_end()?;
        let Manifest { records, last_sequence, oldest, newest, .. } = &self.manifest;
        let streams: Vec<StreamCount> = Stream::ALL
            .into_iter()
            .zip(self.seen.streams)
            .filter(|(_, (records, _))| *records > 0)
            .map(|(stream, (records, bytes))| StreamCount { stream, records, bytes })
            .collect();
        let counts = self.manifest.suppressed.iter().map(|count| (count.records, count.bytes));
        let suppressed: Vec<(u64, u64)> = counts.collect();
        let fits = self.seen.records == *records
            && self.seen.next.0 == last_sequence.0 + 1
            && self.seen.oldest == *oldest
            && self.seen.newest == *newest
            && streams == self.manifest.streams
            && self.seen.suppressed == suppressed;
        self.seen.ended = fits;
        if fits { Ok(()) } else { Err(Refusal::Mismatch("records")) }
    }
}

impl Seen {
    fn note(&mut self, record: &RecordRef<'_>, manifest: &Manifest) -> Result<(), Refusal> {
        self.pass(record.sequence, record.received, manifest)?;
        self.records += 1;
        self.bytes += record.raw.len() as u64;
        let stream = Stream::ALL.iter().position(|stream| *stream == record.stream);
        if let Some((records, bytes)) = stream.and_then(|at| self.streams.get_mut(at)) {
            *records += 1;
            *bytes += record.raw.len() as u64;
        }
        Ok(())
    }

    fn note_suppressed(
        &mut self,
        suppressed: &Suppressed<'_>,
        manifest: &Manifest,
    ) -> Result<(), Refusal> {
        self.pass(suppressed.sequence, suppressed.received, manifest)?;
        let announced = |count: &SuppressedCount| {
            count.rule == suppressed.rule && count.stream == suppressed.stream
        };
        let at = manifest.suppressed.iter().position(announced);
        let counts = at.and_then(|at| self.suppressed.get_mut(at));
        let (records, bytes) = counts.ok_or(Refusal::Mismatch("suppressed records"))?;
        *records += 1;
        *bytes = bytes.saturating_add(suppressed.length);
        Ok(())
    }

    /// What a record and a suppressed one have in common: the next number, and a time.
    fn pass(
        &mut self,
        sequence: Sequence,
        received: Nanos,
        manifest: &Manifest,
    ) -> Result<(), Refusal> {
        self.pass_losses(manifest);
        if sequence != self.next {
            return Err(Refusal::Mismatch("records' sequence numbers"));
        }
        self.next.0 += 1;
        self.oldest = Some(self.oldest.map_or(received, |time| time.min(received)));
        self.newest = Some(self.newest.map_or(received, |time| time.max(received)));
        Ok(())
    }

    /// Skips the declared losses that begin at the next sequence number.
    fn pass_losses(&mut self, manifest: &Manifest) {
        while let Some(loss) = manifest.losses.get(self.loss) {
            match loss.range {
                Some((first, last)) if first == self.next => self.next = Sequence(last.0 + 1),
                Some(_) => return,
                None => {}
            }
            self.loss += 1;
        }
    }
}

/// Step 6: before the age library sees the header, it is short, and has the stanzas that the signed
/// header announces. (The library's own parser takes quadratic time in the stanzas.)
fn check_age_header(section: &Section, header: &Header) -> Result<(), Refusal> {
    let mut bytes = vec![0; AGE_HEADER_BYTES_MAX.min((section.end - section.at) as usize)];
    section.file.read_exact_at(&mut bytes, section.at)?;
    let mut lines = bytes.split(|byte| *byte == b'\n');
    if lines.next() != Some(b"age-encryption.org/v1") {
        return Err(Refusal::AgeHeader("does not begin as one"));
    }
    let (mut kinds, mut stanzas, mut ended) = (Vec::new(), 0_usize, false);
    for line in lines {
        if let Some(stanza) = line.strip_prefix(b"-> ") {
            stanzas += 1;
            if stanzas > AGE_STANZAS_MAX {
                return Err(Refusal::AgeHeader("has more than 16 stanzas"));
            }
            let kind = stanza.split(|byte| *byte == b' ').next().unwrap_or_default();
            if !kind.ends_with(b"-grease") {
                kinds.push(kind);
            }
        } else if line.starts_with(b"--- ") {
            ended = true;
            break;
        }
    }
    if !ended {
        return Err(Refusal::AgeHeader("is longer than 32 KiB"));
    }
    let mut announced: Vec<&[u8]> = Vec::new();
    for recipient in &header.recipients {
        announced.push(match recipient.split(':').next() {
            Some("x25519") => b"X25519",
            Some("mlkem768x25519") => b"mlkem768x25519",
            _ => return Err(Refusal::AgeHeader("is for a kind of key that is not known")),
        });
    }
    if announced.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(Refusal::AgeHeader("mixes classic and hybrid recipients"));
    }
    if stanzas - kinds.len() > 1 {
        return Err(Refusal::AgeHeader("has more than one grease stanza"));
    }
    if kinds != announced {
        return Err(Refusal::AgeHeader("has other recipients than the header announces"));
    }
    Ok(())
}

fn refuse_age(err: age::DecryptError) -> Refusal {
    match err {
        age::DecryptError::NoMatchingKeys => Refusal::Recipient,
        // No plaintext is looked at yet: an end that comes too early is the age file's.
        age::DecryptError::Io(err) => match refuse_plain(err) {
            Refusal::Compression(_) => Refusal::Decryption,
            refusal => refusal,
        },
        age::DecryptError::InvalidHeader | age::DecryptError::UnknownFormat => {
            Refusal::AgeHeader("is malformed")
        }
        _ => Refusal::Decryption,
    }
}

/// Tells a fault of the disk from a fault of the bundle: both come as I/O errors through the
/// decrypting and inflating readers.
fn refuse_plain(err: io::Error) -> Refusal {
    let source = err.get_ref().and_then(|inner| inner.downcast_ref::<Fault>());
    match source {
        Some(Fault::Disk(kind)) => Refusal::Io(io::Error::from(*kind)),
        Some(Fault::Decryption) => Refusal::Decryption,
        None => match err.raw_os_error() {
            Some(_) => Refusal::Io(err),
            None => Refusal::Compression("is malformed"),
        },
    }
}

/// What stopped the decrypting thread.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Fault {
    #[error("the payload can't be decrypted")]
    Decryption,
    #[error("reading failed: {0}")]
    Disk(io::ErrorKind),
}

/// The payload's part of the file, read without moving the file's position.
struct Section {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let fault = |err: io::Error| io::Error::other(Fault::Disk(err.kind()));
        let got = self.file.read_at(&mut buffer[..want], self.at).map_err(fault)?;
        self.at += got as u64;
        Ok(got)
    }
}

fn decrypt(mut input: impl Read, sender: &SyncSender<Result<Vec<u8>, Fault>>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let result = input.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
        let message = match result {
            Ok(0) => return,
            Ok(_) => Ok(chunk),
            Err(err) => Err(match err.get_ref().and_then(|inner| inner.downcast_ref::<Fault>()) {
                Some(fault) => *fault,
                None => Fault::Decryption,
            }),
        };
        let stop = message.is_err();
        // A closed queue means that the reader has seen enough.
        if sender.send(message).is_err() || stop {
            return;
        }
    }
}

/// The reading end of the queue.
struct ChunkReader {
    receiver: Option<Receiver<Result<Vec<u8>, Fault>>>,
    thread: Option<JoinHandle<()>>,
    chunk: Vec<u8>,
    at: usize,
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len()
            && let Some(receiver) = &self.receiver
        {
            match receiver.recv() {
                Ok(chunk) => {
                    self.chunk = chunk.map_err(io::Error::other)?;
                    self.at = 0;
                }
                // The thread ended after its last chunk.
                Err(_) => self.receiver = None,
            }
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl Drop for ChunkReader {
    fn drop(&mut self) {
        // Closing the queue ends the thread; it holds no lock and never waits for anything else.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Step 8: the zstd frame header (RFC 8878 section 3.1.1.1) names its content's size, needs no
/// dictionary and a window that we grant. Gives the content's size.
fn frame_content_size(chunks: &mut ChunkReader) -> Result<u64, Refusal> {
    let bytes = chunks.fill_buf().map_err(refuse_plain)?;
    // The first chunk is as long as the payload, or CHUNK_BYTES: the frame header is all in it.
    let malformed = Refusal::Compression("has a frame header that is not ours");
    let (Some(0xFD2F_B528), Some(&descriptor)) =
        (bytes.first_chunk().map(|magic| u32::from_le_bytes(*magic)), bytes.get(4))
    else {
        return Err(malformed);
    };
    let single_segment = descriptor & 0x20 != 0;
    // Reserved bit, unused bit, checksum flag, dictionary id flag.
    if descriptor & 0x1F != 0 {
        return Err(malformed);
    }
    let mut at = 5;
    if !single_segment {
        let &window = bytes.get(at).ok_or(malformed)?;
        let (exponent, mantissa) = (u32::from(window >> 3), u64::from(window & 7));
        let base = 1_u64 << (10 + exponent);
        if base + base / 8 * mantissa > 1 << WINDOW_LOG_MAX {
            return Err(Refusal::Limit("compression window"));
        }
        at += 1;
    }
    let malformed = Refusal::Compression("has a frame header that is not ours");
    let size_bytes = match descriptor >> 6 {
        0 if single_segment => 1,
        0 => return Err(malformed),
        flag => 1 << flag,
    };
    let field = bytes.get(at..at + size_bytes).ok_or(malformed)?;
    let value = field.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let size = if size_bytes == 2 { value + 256 } else { value };
    if single_segment && size > 1 << WINDOW_LOG_MAX {
        return Err(Refusal::Limit("compression window"));
    }
    Ok(size)
}

/// Inflated bytes, never more than the frame announced.
struct Plain {
    pieces: Option<Receiver<Result<Piece, Refusal>>>,
    /// Buffers go back to the inflating thread, which then need not clear new ones.
    used: SyncSender<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
    /// Announced and not yet in the buffer, in bytes.
    left: u64,
    /// `start..end` is inflated and not used yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// What the inflating thread hands over.
enum Piece {
    /// The first bytes of a buffer.
    Bytes(Vec<u8>, usize),
    /// The frame and the payload ended where they should.
    End,
}

impl Plain {
    fn start(
        mut decoder: zstd::Decoder<'static, ChunkReader>,
        announced: u64,
    ) -> Result<Self, Refusal> {
        let (sender, pieces) = sync_channel(QUEUE_PIECES);
        let (used, buffers) = sync_channel::<Vec<u8>>(QUEUE_PIECES);
        let thread =
            std::thread::Builder::new().name("bundle-inflate".to_owned()).spawn(move || {
                let mut left = announced;
                loop {
                    let buffer = buffers.try_recv().unwrap_or_else(|_| vec![0; CHUNK_BYTES]);
                    let piece = inflate(&mut decoder, buffer, &mut left);
                    let last = !matches!(piece, Ok(Piece::Bytes(..)));
                    // A closed queue means that the reader has seen enough.
                    if sender.send(piece).is_err() || last {
                        return;
                    }
                }
            })?;
        Ok(Self {
            pieces: Some(pieces),
            used,
            thread: Some(thread),
            left: announced,
            buffer: vec![0; 2 * CHUNK_BYTES],
            start: 0,
            end: 0,
        })
    }

    fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn unread(&self) -> u64 {
        self.left + self.buffered().len() as u64
    }

    fn receive(&self) -> Result<Piece, Refusal> {
        let piece = self.pieces.as_ref().and_then(|pieces| pieces.recv().ok());
        piece.unwrap_or(Err(Refusal::Compression("ends early")))
    }

    /// Takes some more; zero at the announced end.
    fn fill(&mut self) -> Result<usize, Refusal> {
        if self.left == 0 {
            return Ok(0);
        }
        let Piece::Bytes(piece, length) = self.receive()? else {
            return Err(Refusal::Compression("ends early"));
        };
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        // Only a record longer than the buffer makes it grow, up to the limit of one record.
        if self.buffer.len() - self.end < length {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        self.buffer[self.end..self.end + length].copy_from_slice(&piece[..length]);
        self.end += length;
        self.left -= length as u64;
        // Full only if the thread has all it needs.
        let _ = self.used.try_send(piece);
        Ok(length)
    }

    /// The frame and the payload end here, both.
    fn expect_end(&mut self) -> Result<(), Refusal> {
        match self.receive()? {
            Piece::End if self.left == 0 => Ok(()),
            _ => Err(Refusal::Compression("is longer than announced")),
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // Closing the queue ends the thread, and that ends the one before it.
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Inflates the next piece, or finds that everything ends where it was announced.
fn inflate(
    decoder: &mut zstd::Decoder<'static, ChunkReader>,
    mut buffer: Vec<u8>,
    left: &mut u64,
) -> Result<Piece, Refusal> {
    if *left > 0 {
        let room = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let got = decoder.read(&mut buffer[..room]).map_err(refuse_plain)?;
        *left -= got as u64;
        return match got {
            0 => Err(Refusal::Compression("ends early")),
            got => Ok(Piece::Bytes(buffer, got)),
        };
    }
    if decoder.read(&mut [0]).map_err(refuse_plain)? != 0 {
        return Err(Refusal::Compression("is longer than announced"));
    }
    if !decoder.get_mut().fill_buf().map_err(refuse_plain)?.is_empty() {
        return Err(Refusal::Compression("is followed by something"));
    }
    Ok(Piece::End)
}

/// Reads up to the empty line that ends the manifest.
fn read_manifest(plain: &mut Plain) -> Result<Manifest, Refusal> {
    let mut searched = 0;
    let end = loop {
        let bytes = plain.buffered();
        if let Some(at) = memchr::memmem::find(&bytes[searched..], b"\n\n") {
            break searched + at + 2;
        }
        searched = bytes.len().saturating_sub(1);
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(Refusal::Limit("manifest"));
        }
        if plain.fill()? == 0 {
            return Err(Refusal::Manifest("does not end"));
        }
    };
    if end > MANIFEST_BYTES_MAX {
        return Err(Refusal::Limit("manifest"));
    }
    let manifest = Manifest::parse(&plain.buffered()[..end]).map_err(Refusal::Manifest)?;
    plain.start += end;
    Ok(manifest)
}

fn check_manifest(manifest: &Manifest, header: &Header) -> Result<(), Refusal> {
    let fits = manifest.origin == header.origin
        && manifest.epoch == header.epoch
        && manifest.lane == header.lane
        && manifest.number == header.number
        && manifest.previous == header.previous;
    if fits { Ok(()) } else { Err(Refusal::Mismatch("header")) }
}

/// The size of the pieces that pass between the threads, in bytes.
const CHUNK_BYTES: usize = 128 * 1024;
/// How many pieces may wait between the threads: 1 MiB.
const QUEUE_CHUNKS: usize = 8;
/// How many inflated pieces may wait: 512 KiB, so much is inflated before the manifest was read.
const QUEUE_PIECES: usize = 4;
