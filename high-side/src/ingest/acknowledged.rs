//! What protocols with acknowledgements share: one half of a connection is read on while the other
//! half answers what has become durable.
//!
//! ```text
//! read half -> frames -> batch -> Intake ----- durable -----.
//!                  \-> Answer (what to wait for, what to say) -> bounded queue -> write half
//! ```
//!
//! Invariants: nothing is answered before it is durable; answers leave in the order in which they
//! were asked for; a peer that does not take its answers is read no further than the queue is long.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::Listener;
use super::connection::{BASE_BYTES, End, QUIET, ReadBuffer, STOP_DRAIN, STOP_QUIET};
use super::memory::ReadPermit;

/// Bytes for the peer, to be written once what they acknowledge is durable.
#[derive(Debug)]
pub(super) struct Answer {
    /// Told when it is; nothing to wait for if `None`.
    pub(super) after: Option<oneshot::Receiver<()>>,
    /// What is written then.
    pub(super) bytes: Vec<u8>,
}

/// The queue of answers that wait for their records to be durable.
pub(super) fn answers() -> (mpsc::Sender<Answer>, mpsc::Receiver<Answer>) {
    mpsc::channel(ANSWERS_MAX)
}

/// Writes answers until there can be no more. Says so if it had to end before.
pub(super) async fn answer<W: AsyncWrite + Unpin>(
    peer: &mut W,
    mut answers: mpsc::Receiver<Answer>,
    limit: Duration,
) -> Option<End> {
    while let Some(answer) = answers.recv().await {
        if let Some(durable) = answer.after
            && durable.await.is_err()
        {
            return Some(End::IntakeClosed);
        }
        let written = timeout(limit, async {
            peer.write_all(&answer.bytes).await?;
            peer.flush().await
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Some(End::Closed),
            Err(_) => return Some(End::Slow),
        }
    }
    None
}

/// Reads and answers side by side; when reading ends, what is still to be answered is. When
/// answering fails, reading ends where it is: nothing of that was acknowledged.
pub(super) async fn both(
    reading: impl Future<Output = End>,
    answering: impl Future<Output = Option<End>>,
) -> End {
    let mut answering = pin!(answering);
    let end = tokio::select! {
        end = reading => end,
        failed = &mut answering => return failed.unwrap_or(End::Closed),
    };
    answering.await.unwrap_or(end)
}

/// Ends our direction and waits a moment for the peer to end its own: closing a socket with unread
/// bytes resets the connection, which can take the last answers from the peer.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let _ = timeout(STOP_DRAIN, async {
        if stream.shutdown().await.is_ok() {
            let mut sink = [0; BASE_BYTES];
            while let Ok(1..) = stream.read(&mut sink).await {}
        }
    })
    .await;
}

/// The reading half of such a connection.
pub(super) struct Reading<'a> {
    listener: &'a Listener,
    /// What was read and not yet consumed.
    pub(super) buffer: ReadBuffer,
    shutdown: watch::Receiver<bool>,
    /// When an unfinished message began.
    began: Option<Instant>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(listener: &'a Listener) -> Self {
        Self {
            listener,
            buffer: ReadBuffer::new(),
            shutdown: listener.surroundings.shutdown.clone(),
            began: None,
        }
    }

    /// Waits for bytes; says so if the connection is over. `until` is when they must have come, for
    /// a peer that has yet to introduce itself.
    pub(super) async fn fill<R: AsyncRead + Unpin>(
        &mut self,
        socket: &mut R,
        until: Option<Instant>,
    ) -> Option<End> {
        let limits = &self.listener.settings.limits;
        let (deadline, late) = match (until, self.began) {
            (Some(until), _) => (until, End::Slow),
            (None, Some(began)) => (began + limits.message_timeout, End::Slow),
            (None, None) => (Instant::now() + limits.idle_timeout, End::Idle),
        };
        if self.buffer.was_full {
            self.buffer.grow_if_free(&self.listener.surroundings.memory);
        }
        if *self.shutdown.borrow() {
            return Some(End::Stopping);
        }
        loop {
            let quiet = self.buffer.is_empty() && self.buffer.holds_more_than_base();
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

    /// Notes whether what was read ends within a message, and whether a message ended in it: the
    /// time that a message may take begins anew with each.
    pub(super) fn settle(&mut self, unfinished: bool, progressed: bool) {
        self.buffer.shrink_if_idle();
        let began = self.began.filter(|_| !progressed).unwrap_or_else(Instant::now);
        self.began = unfinished.then_some(began);
    }

    /// Makes room for `want` bytes, waiting for memory as long as it takes. Says so if the agent
    /// stops before.
    pub(super) async fn grow(&mut self, want: usize) -> Option<End> {
        let more = want.saturating_sub(self.buffer.capacity());
        if more == 0 {
            return None;
        }
        match self.reserve(more).await {
            Ok(permit) => {
                self.buffer.resize(want, permit);
                None
            }
            Err(end) => Some(end),
        }
    }

    /// Reads what the kernel has already taken in, for a moment, as an agent does that stops. Says
    /// whether there was anything.
    pub(super) async fn drain<R: AsyncRead + Unpin>(
        &mut self,
        socket: &mut R,
        until: Instant,
    ) -> bool {
        let quiet = until.min(Instant::now() + STOP_QUIET);
        matches!(timeout_at(quiet, self.buffer.fill(socket)).await, Ok(Ok(1..)))
    }

    /// Takes memory for something beside the buffer.
    pub(super) async fn reserve(&mut self, more: usize) -> Result<ReadPermit, End> {
        let memory = &self.listener.surroundings.memory;
        if let Some(permit) = memory.try_take(more) {
            return Ok(permit);
        }
        // Who waits while holding a part would wait for others that do the same: it is given back,
        // and all that is needed is taken at once.
        self.buffer.permit = ReadPermit::default();
        let all = self.buffer.capacity() + more;
        let mut permit = tokio::select! {
            permit = memory.take(all) => permit,
            _ = self.shutdown.wait_for(|stop| *stop) => return Err(End::Stopping),
        };
        self.began = self.began.map(|_| Instant::now());
        let part = permit.split(more);
        self.buffer.permit = permit;
        Ok(part)
    }
}

/// Batches that may wait to be durable before their connection is read no further. The bytes in
/// them are bounded by the intake; this bounds the answers.
const ANSWERS_MAX: usize = 64;
