//! One connection: bytes in, batches out.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use shared::clock::Nanos;
use shared::record::SourceTag;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::buffer::IntakeClosed;

use super::Listener;
use super::counters::add;
use super::framing::{Framer, Step};
use super::gate::Batch;
use super::memory::ReadPermit;

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer closed it, or it broke.
    Closed,
    /// Nothing came for too long.
    Idle,
    /// The buffer takes nothing any more.
    IntakeClosed,
    /// The peer broke the rules, or is not who it must be.
    Refused,
    /// A message took too long.
    Slow,
    /// The agent stops.
    Stopping,
}

/// Reads a connection to its end. Whatever was read is handed over before this returns.
pub(super) async fn serve<S: AsyncRead + Unpin>(
    socket: &mut S,
    source: Arc<SourceTag>,
    listener: &Listener,
) -> End {
    let mut connection = Connection {
        listener,
        buffer: ReadBuffer::new(),
        framer: Framer::new(listener.settings.limits.message_bytes_max),
        batch: Batch::new(&listener.gate, source),
        head: None,
        shutdown: listener.surroundings.shutdown.clone(),
        began: None,
    };
    connection.run(socket).await.unwrap_or(End::IntakeClosed)
}

struct Connection<'a> {
    listener: &'a Listener,
    buffer: ReadBuffer,
    framer: Framer,
    batch: Batch<'a>,
    /// The kept part of a message longer than the limit, until its end is found.
    head: Option<(Vec<u8>, ReadPermit)>,
    shutdown: watch::Receiver<bool>,
    /// When an unfinished message began.
    began: Option<Instant>,
}

impl Connection<'_> {
    async fn run<S: AsyncRead + Unpin>(&mut self, socket: &mut S) -> Result<End, IntakeClosed> {
        loop {
            let end = self.fill(socket).await;
            let received = self.listener.gate.clock.now();
            let mut want = self.deframe(received, false).await?;
            // What the kernel had taken in before the agent stops is read first, for a moment.
            if end == Some(End::Stopping) {
                let until = Instant::now() + STOP_DRAIN;
                while let Ok(Ok(1..)) =
                    timeout_at(until.min(Instant::now() + STOP_QUIET), self.buffer.fill(socket))
                        .await
                {
                    want = self.deframe(received, false).await?;
                    if self.buffer.capacity() < want
                        && timeout_at(until, self.grow(want)).await.is_err()
                    {
                        break;
                    }
                }
            }
            if let Some(end) = end {
                self.deframe(received, true).await?;
                return Ok(end);
            }
            self.buffer.shrink_if_idle();
            let unfinished = !self.buffer.is_empty() || self.head.is_some();
            self.began = unfinished.then(|| self.began.unwrap_or_else(Instant::now));
            if self.buffer.capacity() < want {
                let mut shutdown = self.shutdown.clone();
                let grown = tokio::select! {
                    () = self.grow(want) => true,
                    _ = shutdown.wait_for(|stop| *stop) => false,
                };
                if !grown {
                    self.deframe(received, true).await?;
                    return Ok(End::Stopping);
                }
            } else if self.buffer.was_full {
                self.buffer.grow_if_free(&self.listener.surroundings.memory);
            }
        }
    }

    /// Waits for bytes; says so if the connection is over.
    async fn fill<S: AsyncRead + Unpin>(&mut self, socket: &mut S) -> Option<End> {
        let limits = &self.listener.settings.limits;
        let (deadline, late) = match self.began {
            Some(began) => (began + limits.message_timeout, End::Slow),
            None => (Instant::now() + limits.idle_timeout, End::Idle),
        };
        if *self.shutdown.borrow() {
            return Some(End::Stopping);
        }
        loop {
            let quiet = self.buffer.is_empty() && self.buffer.capacity() > BASE_BYTES;
            let until = if quiet { deadline.min(Instant::now() + QUIET) } else { deadline };
            let read = tokio::select! {
                read = timeout_at(until, self.buffer.fill(socket)) => read,
                _ = self.shutdown.changed() => return Some(End::Stopping),
            };
            return match read {
                Ok(Ok(0) | Err(_)) => Some(End::Closed),
                Ok(Ok(_)) => None,
                Err(_) if until < deadline => {
                    self.buffer = ReadBuffer::new();
                    continue;
                }
                Err(_) => Some(late),
            };
        }
    }

    /// Makes room for a message that needs it, waiting for memory as long as it takes: whoever has
    /// it is bound to `message-timeout`, or waits for the buffer, as this connection would.
    async fn grow(&mut self, want: usize) {
        // A line says only that it goes on: doubling keeps the copying linear.
        let longest = self.listener.settings.limits.message_bytes_max + COUNT_BYTES;
        let length = want.max((self.buffer.capacity() * 2).min(longest));
        let more = length.saturating_sub(self.buffer.capacity());
        let memory = &self.listener.surroundings.memory;
        if let Some(permit) = memory.try_take(more) {
            return self.buffer.resize(length, permit);
        }
        // Who waits while holding a part would wait for others that do the same: it is given back,
        // and all that the message may ever need is taken at once.
        self.buffer.permit = ReadPermit::default();
        let length = want.max(longest);
        let permit = memory.take(length).await;
        self.buffer.resize(length, permit);
        self.began = self.began.map(|_| Instant::now());
    }

    /// Hands over everything that is whole; gives how much room the next message needs.
    async fn deframe(&mut self, received: Nanos, end: bool) -> Result<usize, IntakeClosed> {
        let counters = &self.listener.gate.counters;
        self.batch.expect(self.buffer.data().len());
        loop {
            let data = self.buffer.data();
            if data.is_empty() && !(end && self.head.is_some()) {
                break;
            }
            let step = self.framer.step(data, end);
            let consumed = step.consumed();
            match step {
                Step::Empty { .. } => add(&counters.empty_frames, 1),
                Step::Message { body, cut_from, .. } => {
                    self.batch.push(&data[body], received, cut_from);
                    self.began = None;
                }
                Step::Head { body, .. } => {
                    self.head = Some((data[body].to_vec(), ReadPermit::default()));
                }
                Step::Tail { cut_from, .. } => {
                    if let Some((head, _)) = self.head.take() {
                        self.batch.push(&head, received, Some(cut_from));
                    }
                    self.began = None;
                }
                Step::More { want, .. } => {
                    self.buffer.consume(consumed);
                    self.keep_head();
                    self.batch.submit().await?;
                    return Ok(want);
                }
            }
            self.buffer.consume(consumed);
            if self.batch.is_full() {
                self.batch.submit().await?;
            }
        }
        self.keep_head();
        self.batch.submit().await?;
        Ok(0)
    }

    /// The buffer that a long message's head came from goes, and its memory is the head's.
    fn keep_head(&mut self) {
        if let Some((_, permit)) = &mut self.head
            && self.buffer.is_empty()
        {
            permit.merge(std::mem::replace(&mut self.buffer, ReadBuffer::new()).permit);
        }
    }
}

/// Bytes read and not yet consumed, in a buffer that follows the load.
pub(super) struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether the last read filled it to the brim: there may be more to be had at once.
    pub(super) was_full: bool,
    pub(super) permit: ReadPermit,
}

impl ReadBuffer {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; BASE_BYTES],
            start: 0,
            end: 0,
            was_full: false,
            permit: ReadPermit::default(),
        }
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has memory to give back while nothing comes.
    pub(super) fn holds_more_than_base(&self) -> bool {
        self.capacity() > BASE_BYTES || self.permit.is_held()
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    pub(super) fn resize(&mut self, length: usize, permit: ReadPermit) {
        self.bytes.resize(length, 0);
        self.permit.merge(permit);
    }

    /// A buffer that grew for one long message goes back to the base.
    pub(super) fn shrink_if_idle(&mut self) {
        if self.is_empty() && self.capacity() > READ_BYTES_MAX {
            *self = Self::new();
        }
    }

    /// Doubles the buffer, up to the size of a large read, if memory is to be had.
    pub(super) fn grow_if_free(&mut self, memory: &super::ReadMemory) {
        let length = (self.capacity() * 2).min(READ_BYTES_MAX);
        let more = length.saturating_sub(self.capacity());
        if more > 0
            && let Some(permit) = memory.try_take(more)
        {
            self.resize(length, permit);
        }
    }

    /// Waits for bytes, then reads until the buffer is full or nothing more is there. Gives 0 at the
    /// end of the stream. Cancelling it loses nothing.
    pub(super) async fn fill<S: AsyncRead + Unpin>(&mut self, socket: &mut S) -> io::Result<usize> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let before = self.end;
        let result = poll_fn(|context| {
            loop {
                let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
                if room.remaining() == 0 {
                    return Poll::Ready(Ok(()));
                }
                match Pin::new(&mut *socket).poll_read(context, &mut room) {
                    Poll::Ready(Ok(())) if !room.filled().is_empty() => {
                        self.end += room.filled().len();
                    }
                    // What came before an end or a fault is given first; both come again.
                    Poll::Ready(_) | Poll::Pending if self.end > before => {
                        return Poll::Ready(Ok(()));
                    }
                    other => return other,
                }
            }
        })
        .await;
        self.was_full = self.end == self.capacity();
        result.map(|()| self.end - before)
    }
}

/// The buffer that every connection has of its own.
pub(super) const BASE_BYTES: usize = 4 * 1024;

/// The largest read: 340 messages of 750 bytes share one system call and one batch.
const READ_BYTES_MAX: usize = super::gate::BATCH_BYTES_MAX;

/// A connection that is quiet for so long gives back what it has beyond the base.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// How long a stopping agent reads on what its kernel has already taken in.
pub(super) const STOP_DRAIN: Duration = Duration::from_millis(500);

/// Silence for so long means that the kernel has no more. What it has is not always known at once.
pub(super) const STOP_QUIET: Duration = Duration::from_millis(25);

/// A count of RFC 6587 and the space after it.
const COUNT_BYTES: usize = 11;
