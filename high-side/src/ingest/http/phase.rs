//! What a connection is at, so that one that stands still can be told from one that is being answered.
//!
//! hyper has a timeout for the head of a request, but lets it run while a connection is idle, too: relays
//! and API servers keep connections open between requests, for longer than a head may take.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::super::connection::End;

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request is there and is answered; its body has a deadline of its own.
    Answering,
    /// A request began; its head is not complete.
    Head(Instant),
    /// Nothing came since the last answer.
    Idle(Instant),
}

/// The phase of one connection, known to its socket, its watch and its requests.
#[derive(Debug)]
pub(super) struct PhaseCell(Mutex<Phase>);

impl PhaseCell {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Phase::Idle(Instant::now())))
    }

    pub(super) fn now(&self) -> Phase {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    fn bytes_came(&self) {
        let mut phase = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*phase, Phase::Idle(_)) {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// Ends when the connection stood still for too long.
    pub(super) async fn watch(&self, idle: Duration, head: Duration) -> End {
        loop {
            let now = Instant::now();
            let (until, end) = match self.now() {
                Phase::Answering => (now + head, None),
                Phase::Head(since) => (since + head, Some(End::Slow)),
                Phase::Idle(since) => (since + idle, Some(End::Idle)),
            };
            if until <= now
                && let Some(end) = end
            {
                return end;
            }
            // A phase may begin whose deadline is nearer than that of the one before.
            sleep_until(until.min(now + (head / 4).max(LOOK_INTERVAL_MIN))).await;
        }
    }
}

/// A socket that notes when bytes come.
pub(super) struct Noted<'a, S> {
    pub(super) socket: &'a mut S,
    pub(super) phase: &'a PhaseCell,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *self.socket).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.phase.bytes_came();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket).poll_shutdown(context)
    }
}

/// The shortest pause between two looks.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(5);
