//! Bodies that are sent: bytes, and files that are read while they are sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A file that is a body, or the end of one. It is read from its beginning each time it is sent.
#[derive(Clone, Debug)]
pub struct FileBody {
    file: Arc<File>,
    bytes: u64,
    /// What follows the file.
    tail: Bytes,
}

impl FileBody {
    /// So many bytes from the beginning of a file. Where it turns out to be shorter the request fails.
    pub fn new(file: Arc<File>, bytes: u64) -> Self {
        Self { file, bytes, tail: Bytes::new() }
    }

    /// With bytes behind it.
    #[must_use]
    pub fn tail(mut self, tail: impl Into<Bytes>) -> Self {
        self.tail = tail.into();
        self
    }

    /// How long it is with its tail.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.tail.len() as u64
    }
}

/// The body of one request. Never more than one piece of it is in memory.
#[derive(Debug)]
pub(super) struct Outgoing {
    head: Bytes,
    file: Option<FileBody>,
    at: u64,
}

impl Outgoing {
    pub(super) fn new(head: Bytes, file: Option<&FileBody>) -> Self {
        Self { head, file: file.cloned(), at: 0 }
    }

    fn left(&self) -> u64 {
        let file = self.file.as_ref().map_or(0, |file| file.bytes() - self.at);
        self.head.len() as u64 + file
    }

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        if !self.head.is_empty() {
            return Some(Ok(std::mem::take(&mut self.head)));
        }
        let body = self.file.as_mut()?;
        let left = body.bytes - self.at;
        if left == 0 {
            let tail = self.file.take()?.tail;
            return (!tail.is_empty()).then_some(Ok(tail));
        }
        // The thread serves this one request: reading a local file does not hold up another.
        let mut piece = vec![0; left.min(PIECE_BYTES) as usize];
        if let Err(error) = body.file.read_exact_at(&mut piece, self.at) {
            return Some(Err(error));
        }
        self.at += piece.len() as u64;
        Some(Ok(piece.into()))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.next().map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

/// So much of a file is in memory while it is sent.
const PIECE_BYTES: u64 = 256 << 10;
/// The slowest that a file may move, in bytes a second: what takes longer than this and the timeout is
/// given up.
pub const RATE_MIN: u64 = 256 << 10;
