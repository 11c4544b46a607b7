//! Compressed files: read from the front, past what was read before they were compressed.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use flate2::read::MultiGzDecoder;

use super::print::{HEAD_BYTES, TAIL_BYTES};

/// A compressed file being read. Memory: the decoder's window, and a line up to its limit.
pub(super) struct GzipReader {
    decoder: MultiGzDecoder<BufReader<File>>,
    /// How many bytes were decompressed.
    pub(super) position: u64,
    /// The first of them,
    pub(super) head: Vec<u8>,
    /// and the last.
    pub(super) tail: Vec<u8>,
    /// The line that has not ended, up to the limit,
    pub(super) carry: Vec<u8>,
    /// and its length.
    pub(super) carry_len: u64,
    /// Whether it was compared with the content.
    pub(super) verified: bool,
    /// A fault that was met behind bytes that were given.
    fault: Option<io::Error>,
}

impl std::fmt::Debug for GzipReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipReader").field("position", &self.position).finish_non_exhaustive()
    }
}

impl GzipReader {
    pub(super) fn new(file: File) -> Self {
        Self {
            decoder: MultiGzDecoder::new(BufReader::with_capacity(COMPRESSED_BYTES, file)),
            position: 0,
            head: Vec::new(),
            tail: Vec::new(),
            carry: Vec::new(),
            carry_len: 0,
            verified: false,
            fault: None,
        }
    }

    /// Fills as much of `room` as there is; less only at the end, where the trailer was right.
    pub(super) fn fill(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut filled = 0;
        while filled < room.len() {
            match self.decoder.read(&mut room[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                // What was decompressed before the fault is right as far as it goes.
                Err(err) if filled > 0 => {
                    self.fault = Some(err);
                    break;
                }
                Err(err) => return Err(err),
            }
        }
        self.position += filled as u64;
        let room = &room[..filled];
        let missing = HEAD_BYTES - self.head.len();
        self.head.extend_from_slice(&room[..missing.min(filled)]);
        self.tail.extend_from_slice(&room[filled - filled.min(TAIL_BYTES)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
        Ok(filled)
    }
}

/// What a file that is called compressed begins with.
pub(super) enum Beginning {
    /// Up to [`HEAD_BYTES`] decompressed bytes.
    Bytes(Vec<u8>),
    /// It is not complete yet, or damaged.
    Unfinished,
    /// It is no gzip file.
    Other,
}

/// Looks at the beginning of a compressed file.
pub(super) fn beginning(file: File) -> Beginning {
    let mut magic = [0; MAGIC.len()];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic != MAGIC => return Beginning::Other,
        Ok(()) => {}
        Err(_) => return Beginning::Unfinished,
    }
    let mut reader = GzipReader::new(file);
    let mut head = [0; HEAD_BYTES];
    match reader.fill(&mut head) {
        Ok(count) => Beginning::Bytes(head[..count].to_vec()),
        Err(_) => Beginning::Unfinished,
    }
}

/// What is read from a compressed file at one time.
const COMPRESSED_BYTES: usize = 32 * 1024;

/// RFC 1952 section 2.3.1.
const MAGIC: [u8; 2] = [0x1f, 0x8b];
